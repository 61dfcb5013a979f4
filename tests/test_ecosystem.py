"""The model among the tools of transformers and torch: files, dtypes, copies, compilation, the stock Trainer."""

import copy
import pickle

import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModel, Trainer, TrainingArguments

from modeling_dualspace import (
    DualSubspaceModel,
)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_statistics_and_fusion_stay_float32_under_every_dtype(fitted, batch, tmp_path, dtype):
    assert fitted.choice["candidate"] == "with-features"
    fitted.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    cast = copy.deepcopy(fitted).to(dtype)
    for model in (loaded, cast):
        assert model.dtype == dtype
        for name, buffer in fitted.named_buffers():
            kept = dict(model.named_buffers())[name]
            assert kept.dtype in (torch.float32, torch.float64) and torch.equal(kept.float(), buffer), name
        embeds = model.get_audio_embeds(batch["audio_features"])
        # bfloat16 towers carry eight bits: a cosine of two embeddings of a clip loses no more than a percent.
        cosine = (embeds.float() * fitted.get_audio_embeds(batch["audio_features"])).sum(1)
        assert cosine.min() > 0.99


def test_weights_and_buffers_come_back_bit_for_bit_as_safetensors(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is DualSubspaceModel and not loaded.training
    for name, tensor in fitted.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert loaded.config.fusion_choice == fitted.config.fusion_choice


def test_auto_classes_know_the_model():
    config = AutoConfig.for_model("dualspace", audio_hidden=[4], visual_hidden=[4])
    assert type(AutoModel.from_config(config)) is DualSubspaceModel


def test_buffers_missing_from_a_file_come_back_as_the_identity(make_model, tmp_path):
    """A checkpoint without statistics or fusion, as other code may write it, is unfitted and not garbage."""
    model = make_model()
    parameters = {name: tensor.clone() for name, tensor in model.named_parameters()}
    model.save_pretrained(tmp_path, state_dict=parameters)
    loaded = DualSubspaceModel.from_pretrained(tmp_path)
    assert not loaded.fitted
    assert loaded.audio_statistics.mean.eq(0).all() and loaded.visual_statistics.scale.eq(1).all()
    assert loaded.fusion.audio_weights.eq(0).all()


def test_loading_the_state_of_an_unfitted_model_unfits(fitted, make_model):
    fitted.load_state_dict(make_model().state_dict())
    assert not fitted.fitted


def test_models_pickle_and_copy(fitted, batch):
    for twin in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted))):
        assert torch.equal(
            twin.get_audio_embeds(batch["audio_features"]), fitted.get_audio_embeds(batch["audio_features"])
        )


def test_a_loaded_model_compiles_whole_at_once(fitted, batch, tmp_path):
    fitted.save_pretrained(tmp_path)
    compiled = torch.compile(AutoModel.from_pretrained(tmp_path), fullgraph=True, backend="eager")
    embeds = compiled(audio_features=batch["audio_features"]).audio_embeds
    assert torch.equal(embeds, fitted.get_audio_embeds(batch["audio_features"]))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_steps_and_embeddings_are_those_of_the_model(fitted, batch, backend):
    compiled = torch.compile(fitted, fullgraph=True, backend=backend)
    audio = batch["audio_features"]
    torch.testing.assert_close(compiled(audio_features=audio).audio_embeds, fitted.get_audio_embeds(audio))
    fitted.train()
    torch.testing.assert_close(compiled(**batch).loss, fitted(**batch).loss)
    compiled(**batch).loss.backward()
    assert all(parameter.grad is not None for parameter in fitted.parameters() if parameter.requires_grad)


def test_autocast_keeps_the_losses_and_the_fusion_in_float32(fitted, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = fitted(**batch)
    assert output.loss.dtype == torch.float32
    assert output.audio_embeds.dtype == torch.float32


def test_the_stock_trainer_trains_and_evaluates_without_an_adapter(make_model, make_batch, tmp_path):
    data = make_batch(96)
    clips = [dict(zip(data, row, strict=True)) for row in zip(*(rows.tolist() for rows in data.values()), strict=True)]
    model = make_model(alpha=1.0)
    model.prepare([data])
    arguments = TrainingArguments(
        tmp_path, per_device_train_batch_size=32, num_train_epochs=15, learning_rate=1e-2, report_to=[],
        save_strategy="no", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=clips, eval_dataset=clips)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    model.finish([data])
    prediction = trainer.predict(clips)
    assert prediction.metrics["test_loss"] < before - 0.3
    audio, visual = prediction.predictions
    assert audio.shape == visual.shape == (96, 4)


def test_the_stock_trainer_evaluates_clips_that_nobody_labelled(make_model, batch, tmp_path):
    clips = [
        {"audio_features": audio, "visual_features": visual}
        for audio, visual in zip(batch["audio_features"].tolist(), batch["visual_features"].tolist(), strict=True)
    ]
    arguments = TrainingArguments(tmp_path, label_names=[], report_to=[], disable_tqdm=True, use_cpu=True)
    assert Trainer(make_model(variant="explicit"), arguments, eval_dataset=clips).evaluate()["eval_loss"] < 0


@pytest.mark.parametrize(
    "missing", ["fusion.audio_weights", "visual_towers.implicit.0.weight", "audio_statistics.mean"]
)
def test_a_file_that_lacks_a_part_gives_an_unfitted_model(fitted, tmp_path, missing):
    state = {name: tensor for name, tensor in fitted.state_dict().items() if name != missing}
    fitted.save_pretrained(tmp_path, state_dict=state)
    assert not AutoModel.from_pretrained(tmp_path).fitted


def test_fine_tuning_to_other_classes_takes_their_number_or_names(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    by_number = AutoModel.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True)
    names = {0: "a", 1: "b", 2: "c", 3: "d"}
    by_name = AutoModel.from_pretrained(tmp_path, id2label=names, ignore_mismatched_sizes=True)
    assert by_number.config.num_labels == 5 and by_name.config.label2id == {"a": 0, "b": 1, "c": 2, "d": 3}
    for model in (by_number, by_name):
        # Heads of another width were made anew: the towers below are those of the file, the fusion is no longer fitted.
        weight = model.audio_towers.explicit[0].weight
        assert torch.equal(weight, fitted.audio_towers.explicit[0].weight) and not model.fitted


def test_a_model_on_the_meta_device_is_not_fitted(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    assert not AutoModel.from_pretrained(tmp_path, device_map="meta").fitted


def test_a_state_that_was_loaded_compiles_whole_at_once(fitted, make_model, batch):
    model = make_model()
    model.load_state_dict(fitted.state_dict())
    compiled = torch.compile(model.eval(), fullgraph=True, backend="eager")
    embeds = compiled(audio_features=batch["audio_features"]).audio_embeds
    assert torch.equal(embeds, fitted.get_audio_embeds(batch["audio_features"]))


def test_a_data_loader_over_a_data_set_is_a_data_pass(make_model, batch):
    columns = {name: rows.tolist() for name, rows in batch.items()} | {"clip_id": [f"clip-{row}" for row in range(60)]}
    loader = DataLoader(Dataset.from_dict(columns).with_format("torch"), batch_size=25)
    model, twin = make_model(), make_model()
    twin.load_state_dict(model.state_dict())
    model.prepare(loader)
    twin.prepare([batch])
    torch.testing.assert_close(model.audio_statistics.state_dict(), twin.audio_statistics.state_dict())
    model.finish(loader, loader)
    twin.finish([batch], [batch])
    assert model.config.fusion_choice["candidate"] == twin.config.fusion_choice["candidate"]


def learnt(model, batch):
    """A few steps."""
    model.prepare([batch])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        model.train()(**batch).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"audio_hidden": [], "visual_hidden": []},
        {"audio_hidden": [8, 8, 8], "activation": "tanh"},
        {"normalization": "batch", "dropout": 0.1},
        {"normalization": "layer", "activation": "gelu"},
        {"feature_scaling": "none"},
        {"feature_scaling": "center"},
        {"fusion": "cca"},
        {"fusion_features": False, "input_dropout": 0.2},
        {"ridge_relative": False},
        {"embed_dim": 1, "explicit_dim": 2},
        {"embed_dim": 12},
    ],
)
def test_a_network_of_any_shape_learns_embeds_and_reloads(make_model, batch, tmp_path, settings):
    model = learnt(make_model(**settings), batch)
    model.finish([batch], [batch])
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    embeds = loaded.get_visual_embeds(batch["visual_features"])
    assert torch.equal(embeds, model.get_visual_embeds(batch["visual_features"]))
    assert embeds.shape == (60, model.config.output_dim)
    torch.testing.assert_close(embeds.norm(dim=1), torch.ones(60))


def test_embedding_is_in_eval_mode_whatever_the_mode_of_the_model(make_model, batch):
    model = learnt(make_model(dropout=0.5, input_dropout=0.5, normalization="batch"), batch)
    model.finish([batch])
    audio = batch["audio_features"]
    expected = model.eval().get_audio_embeds(audio)
    assert torch.equal(model.train().get_audio_embeds(audio), expected) and model.training
    # One clip alone: batch statistics would not even be defined.
    torch.testing.assert_close(model.get_audio_embeds(audio[:1]), expected[:1])


def test_a_part_that_somebody_froze_stays_frozen(fitted, batch):
    fitted.train()
    fitted.audio_towers.eval()
    fitted.finish([batch])
    fitted.get_audio_embeds(batch["audio_features"])
    assert fitted.visual_towers.training and not fitted.audio_towers.explicit[0].training


def test_a_part_in_train_mode_does_not_make_embeddings_a_matter_of_chance(make_model, batch):
    model = make_model(dropout=0.5)
    model.finish([batch])
    model.eval().audio_towers.train()
    one, other = (model.get_audio_embeds(batch["audio_features"]) for _ in range(2))
    assert torch.equal(one, other) and model.audio_towers.training


def test_finish_leaves_mode_and_weights_as_they_were(make_model, batch):
    model = make_model(dropout=0.5, normalization="batch").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if not name.startswith("fusion")}
    model.finish([batch], [batch])
    assert model.training
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fusion": "cca"},
        {"variant": "explicit"},
        {"variant": "shared", "normalization": "batch"},
        {"audio_hidden": [], "visual_hidden": []},
        {"variant": "shared", "audio_hidden": [], "visual_hidden": []},
    ],
)
def test_parts_are_what_changes_its_shape_with_the_data(make_model, settings):
    model = make_model(**settings)
    parts, shapes = model.parts(), {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert parts["fitted"] == [name for name in shapes if name.startswith("fusion.")]
    for part, data in (("classes", "num_labels"), ("audio_features", "audio_dim"), ("visual_features", "visual_dim")):
        other = make_model(**settings | {data: 17}).state_dict()
        changed = {name for name, shape in shapes.items() if other[name].shape != shape} - set(parts["fitted"])
        named = set(parts[part])
        assert other.keys() == shapes.keys() and changed <= named and len(parts[part]) == len(named)
        # A first layer goes whole, with the bias that was learnt beside its weight.
        beside = {f"{name.removesuffix('weight')}bias" for name in changed if name.endswith("weight")}
        assert named == changed | beside
        assert all(other[name].shape[0] == 17 for name in named) or part != "classes"


@pytest.mark.parametrize("settings", [{"fusion": "cca"}, {"fusion_features": False}, {}])
@pytest.mark.parametrize("built", [{"fusion": "cca"}, {"fusion_features": False}, {}])
def test_a_fusion_that_was_renamed_after_building_finishes_and_reloads(make_model, batch, tmp_path, built, settings):
    """As benchmarks compare fusions of one model."""
    model, twin = make_model(**built), make_model(**settings)
    for towers in ("audio_towers", "visual_towers"):
        getattr(twin, towers).load_state_dict(getattr(model, towers).state_dict())
    model.config.fusion, model.config.fusion_features = twin.config.fusion, twin.config.fusion_features
    for one in (model, twin):
        one.prepare([batch])
        one.finish([batch], [batch])
    assert model.choice == twin.choice
    model.save_pretrained(tmp_path)
    embeds = (one.get_audio_embeds(batch["audio_features"]) for one in (AutoModel.from_pretrained(tmp_path), twin))
    torch.testing.assert_close(*embeds)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_of_low_precision_fuses_features_as_precisely_as_they_come(make_model, batch, dtype):
    model = make_model()
    model.prepare([batch])
    model.to(dtype).finish([batch])
    rows = model.eval()._audio_outputs(batch["audio_features"])
    assert torch.equal(rows[:, 7:], model.audio_statistics(batch["audio_features"])) and rows.dtype == torch.float32
    low = model.get_audio_embeds(batch["audio_features"])
    model.float().finish([batch])
    assert (low * model.get_audio_embeds(batch["audio_features"])).sum(1).min() > 0.99
