"""CM-GAN: every term beside torch's cross-entropy of pairs made by loops, a layer for both codes, five turns to one."""

from dataclasses import replace

import pytest
import torch
from players import (
    CLASSES,
    assert_two_stay_alike,
    assert_two_take_the_step_of_one,
    doubled,
    easy_data,
    held_out_map,
    learnt,
    moved,
    parameters_of,
    slopes,
)
from safetensors.torch import load_file
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import AutoModel

from modeling_dualspace.baselines import CmGanConfig, CmGanModel
from modeling_dualspace.optimizers import make_optimizer, rate
from modeling_dualspace.recipe import load_recipe
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.training_run import train

MODEL = {"audio_hidden": [12], "visual_hidden": [12], "embed_dim": 5, "encoder_dim": 9, "critic_hidden": [7]}
DECEIT = ["deceit_within", "deceit_across"]
TERMS = {"model": ["reconstruction", "classification", *DECEIT], "critic": ["within", "across"]}
OTHER = {"audio": "visual", "visual": "audio"}
ONE_CLASS = torch.tensor([0, 1, 2, 0, 1, 2, 2, -100, 0, -100])
SEVERAL = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [-1, 0, 1], [1, 1, 1], [0, 0, 1.0]])


def make(**settings):
    torch.manual_seed(0)
    return CmGanModel(CmGanConfig(**{"audio_dim": 6, "visual_dim": 8, "num_labels": 3} | MODEL | settings))


@pytest.fixture
def prepared(batch):
    def of(**settings):
        model = make(**settings)
        model.prepare([batch])
        return model

    return of


def random_rows(labels, seed=0):
    """What `encode` might have made for either player, in float64."""
    generator = torch.Generator().manual_seed(seed)
    of = lambda width: torch.randn(len(labels), width, generator=generator, dtype=torch.float64)  # noqa: E731
    rows = {"labels": labels, "draws": torch.rand(len(labels), 1, generator=generator, dtype=torch.float64)}
    for name, width in (("audio", 6), ("visual", 8)):
        rows |= {name: of(5), f"{name}_given": of(width), f"{name}_again": of(width)}
    return rows


def classes_of(labels):
    """Sets of classes; none where nobody knows any."""
    if labels.ndim == 1:
        return [{one} if one >= 0 else set() for one in labels.tolist()]
    return [set() if min(row) < 0 else {c for c, one in enumerate(row) if one} for row in labels.tolist()]


def strangers(classes):
    """Of every clip, those that have classes and share none with it; of a clip without any there are none."""
    return [[j for j, other in enumerate(classes) if own and other and not own & other] for own in classes]


def said(scores, answer):
    """Torch's cross-entropy of a list of logits that ought to say 1, or 0."""
    scores = torch.stack(scores)
    return binary_cross_entropy_with_logits(scores, torch.full_like(scores, answer))


def naive_critic(model, rows, chosen):
    """Pair by pair; beside a clip's features stands the code of a stranger, where it has one."""
    within, across = 0, 0
    for name, other in OTHER.items():
        inner, outer = model.critic[f"within_{name}"], model.critic[f"across_{name}"]
        given, own = rows[f"{name}_given"], rows[name]
        score = lambda code, features, outer=outer: outer(torch.cat([code, features]))[0]  # noqa: E731
        within += said([inner(x)[0] for x in given], 1.0) / 2
        within += said([inner(x)[0] for x in rows[f"{name}_again"]], 0.0) / 2
        wrong = [score(code, features) for code, features in zip(rows[other], given, strict=True)]
        wrong += [score(own[j], given[i]) for i, j in chosen.items()]
        right = [score(code, features) for code, features in zip(own, given, strict=True)]
        across += (said(right, 1.0) + said(wrong, 0.0)) / 2
    return {"within": within, "across": across}


def naive_networks(model, rows, classes):
    terms = dict.fromkeys(TERMS["model"], 0.0)
    for name, other in OTHER.items():
        given, again = rows[f"{name}_given"], rows[f"{name}_again"]
        terms["reconstruction"] += sum((g - a) ** 2 for g, a in zip(given.flatten(), again.flatten(), strict=True)) / (
            given.numel()
        )
        terms["deceit_within"] += said([model.critic[f"within_{name}"](x)[0] for x in again], 1.0)
        pairs = [torch.cat(pair) for pair in zip(rows[other], given, strict=True)]
        terms["deceit_across"] += said([model.critic[f"across_{name}"](pair)[0] for pair in pairs], 1.0)
        # Of several classes each has its share of the surprise.
        surprises = [
            sum(cross_entropy(model.classifier(code), torch.tensor(c)) for c in own) / len(own)
            for code, own in zip(rows[name], classes, strict=True) if own
        ]  # fmt: skip
        terms["classification"] += sum(surprises) / max(len(surprises), 1)
    return terms


# The objective.


@pytest.mark.parametrize("labels", [ONE_CLASS, SEVERAL, torch.tensor([1] * 5), torch.tensor([-100] * 5)],
                         ids=["one class", "several", "all alike", "unknown"])  # fmt: skip
def test_the_terms_of_the_networks_are_those_of_loops(prepared, labels):
    model, rows = prepared().double(), random_rows(labels)
    found = model.objective(rows, "model", 0.0)
    assert list(found) == TERMS["model"]
    for name, expected in naive_networks(model, rows, classes_of(labels)).items():
        # Classification is computed in float32.
        tolerance = {"rtol": 1e-5, "atol": 0} if name == "classification" else {"rtol": 1e-10, "atol": 0}
        torch.testing.assert_close(found[name].double(), torch.as_tensor(expected).double(), **tolerance)


@pytest.mark.parametrize("labels", [ONE_CLASS, SEVERAL, torch.tensor([1] * 5), torch.tensor([-100] * 5)],
                         ids=["one class", "several", "all alike", "unknown"])  # fmt: skip
@pytest.mark.parametrize("draw", [None, 0.0, 1 - 1e-9])
def test_the_terms_of_the_discriminators_are_those_of_loops_and_a_stranger_s_code_is_drawn_evenly(
    prepared, labels, draw
):
    model, rows = prepared().double(), random_rows(labels)
    if draw is not None:
        rows["draws"].fill_(draw)
    # A number between 0 and 1 counts a clip's strangers off: the first of three up to a third.
    chosen = {i: others[int(rows["draws"][i].item() * len(others))]
              for i, others in enumerate(strangers(classes_of(labels))) if others}  # fmt: skip
    assert (len(chosen) > 0) == (len(set(map(tuple, classes_of(labels)))) > 1)
    found, expected = model.objective(rows, "critic", 0.0), naive_critic(model, rows, chosen)
    assert list(found) == TERMS["critic"]
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=0)
    gradients = (torch.autograd.grad(terms["across"], list(model.critic.parameters()), allow_unused=True)
                 for terms in (found, expected))  # fmt: skip
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None) and (one is None or torch.allclose(one, other, rtol=1e-9, atol=1e-12))


@pytest.mark.parametrize(("player", "term"), [(player, term) for player in TERMS for term in TERMS[player]])
def test_a_term_is_as_steep_as_differences_say(batch, prepared, player, term):
    model = prepared(activation="tanh", critic_activation="tanh").double()
    # Of a step of 1e-6 a float64 difference keeps nine digits or so. Classification is computed in float32: of a step
    # a thousand times as long three are left.
    size, tolerance = (1e-3, 1e-2) if term == "classification" else (1e-6, 1e-5)
    steep, difference = slopes(model, doubled(batch), player, term, size)
    assert abs(steep) > 1e-3 and steep == pytest.approx(difference, rel=tolerance)


def test_terms_are_weighed_as_the_config_says(batch, prepared):
    model = prepared(loss_weights={"across": 0.5, "reconstruction": 3})
    for player, names in TERMS.items():
        output = model(**batch, player=player)
        weights = {"across": 0.5, "reconstruction": 3}
        total = sum(weights.get(name, 1.0) * output.terms[name].item() for name in names)
        assert output.loss.item() == pytest.approx(total, rel=1e-5)  # float32


# Networks.


def test_what_the_discriminators_see_are_scaled_features_codes_and_what_decoders_make_of_codes(batch, prepared):
    model = prepared().eval()
    rows = model.encode(batch, "critic")
    for name in ("audio", "visual"):
        features = batch[f"{name}_features"]
        scaled = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
        # float32 features, whose means are some deviations away from zero.
        torch.testing.assert_close(rows[f"{name}_given"], scaled, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(rows[f"{name}_again"], model.decoders[name](rows[name]))
        assert rows[f"{name}_again"].shape == features.shape
        embeds = getattr(model, f"get_{name}_embeds")(features)
        torch.testing.assert_close(embeds, rows[name] / rows[name].norm(dim=1, keepdim=True))


def test_the_layer_of_the_code_is_one_for_both_modalities(batch, prepared):
    model = prepared().eval()
    names = [name for name in model.state_dict() if model.state_dict()[name].shape == (5, 9)]
    assert names == ["common.weight"]
    before = [model.get_audio_embeds(batch["audio_features"]), model.get_visual_embeds(batch["visual_features"])]
    with torch.no_grad():
        model.common.weight.add_(torch.rand(5, 9))
    after = [model.get_audio_embeds(batch["audio_features"]), model.get_visual_embeds(batch["visual_features"])]
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    for name in ("audio", "visual"):
        (slope,) = torch.autograd.grad(model.encode(batch, "model")[name].square().sum(), model.common.weight)
        assert slope.any()


def test_an_embedding_is_of_its_own_clip_alone(batch, prepared):
    model = prepared(dropout=0.5).train()
    model(**batch)  # batch norm has seen something
    whole = model.get_audio_embeds(batch["audio_features"])
    assert torch.equal(model.get_audio_embeds(batch["audio_features"]), whole) and model.training
    for row in (0, 31):  # one row is a product of another shape, summed in another order: float32
        found = model.get_audio_embeds(batch["audio_features"][row : row + 1])
        torch.testing.assert_close(found, whole[row : row + 1], rtol=1e-5, atol=1e-6)


# Players.


def test_five_steps_of_the_networks_come_to_one_of_the_discriminators_and_each_moves_its_own(data):
    model = make()
    assert sorted(model.config.turns) == ["critic", *["model"] * 5]
    model.prepare(data.passes("train"))
    told = moved(model, data, 7, epochs=3)
    assert [player for player, _ in told].count("critic") == 2 == 7 - [player for player, _ in told].count("model")
    for player, names in told:
        # What lies before a batch norm is moved by rounding alone, or not.
        own = set(parameters_of(model, player))
        assert names <= own and {name for name in own if name.endswith("weight")} <= names


def test_either_player_s_turn_gives_the_other_no_step(batch, prepared):
    model = prepared()
    model(**batch, player="critic").loss.backward()
    assert {name for name, one in model.named_parameters() if one.grad is not None} == set(
        parameters_of(model, "critic")
    )


def test_the_recipe_is_its_authors_rates_and_momenta():
    settings = load_recipe("baselines/cm_gan").train
    assert [rate(settings.schedule, 0.5, epoch) for epoch in (0, 99, 100, 199, 200)] == [1.0, 1.0, 0.5, 0.5, 0.25]
    model = make()
    assert not settings.players  # the discriminators move as the networks do
    for player in ("model", "critic"):
        optimizer = make_optimizer(parameters_of(model, player), settings.optimizer)
        assert all((group["lr"], *group["betas"], group["weight_decay"]) == (1e-3, 0.5, 0.999, 0) for group in
                   optimizer.param_groups)  # fmt: skip
    assert settings.batch_size == 64


def test_what_counts_classes_is_among_the_parts():
    model = make(num_labels=11)
    counted = {name for name, one in model.named_parameters() if 11 in one.shape[:1]}
    assert set(model.parts()["classes"]) == counted == {"classifier.weight", "classifier.bias"}


# Training.


@pytest.fixture
def cm_gan(recipe):
    return lambda output="run", **settings: replace(recipe(output, **settings), system="cm_gan", model=dict(MODEL))


def test_without_any_label_it_is_a_sentence(cm_gan, data):
    bare = TrainingData({name: split.remove_columns("label") for name, split in data.splits.items()})
    with pytest.raises(ValueError, match="CmGanModel learns from the categories .* take a system that") as error:
        train(cm_gan(epochs=1), data=bare, progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_trains_from_a_recipe_in_either_precision(cm_gan, data, tmp_path, precision):
    summary = train(cm_gan(epochs=3, refit=False, precision=precision), data=data, progress=False)
    assert summary["chosen_on"] == "validation" and summary["steps"] == 9
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(one.isfinite().all() for one in saved.values() if one.is_floating_point())


def test_it_learns_codes_that_find_a_class_and_decoders_that_know_the_features():
    """Of 150 clips in five classes a random order has a MAP of .2 and little; far clouds could have one of 1.

    Of five seeds it begins at .22 to .38 and comes to .98 to 1; what is made anew is off by 2.1 to 3, of a variance of
    one a modality, and then by .34 to .47.
    """
    model, data = make(num_labels=CLASSES, embed_dim=8, encoder_dim=12, critic_hidden=[12]), easy_data()
    model.prepare(data.passes("train"))
    (clips,) = data.passes("validation")
    off = lambda: model.eval()(**clips).terms["reconstruction"].item()  # noqa: E731
    assert held_out_map(model) < 2.25 / CLASSES and off() > 1.5
    terms = learnt(model, data, epochs=12, lr=0.01, momentum=0.5)
    assert held_out_map(model) > 0.7 and off() < 1
    # Neither side has won: guesses of a half cost .69 a modality, sure ones nothing, or much.
    assert 0.4 < terms["within"] < 4 and 0.4 < terms["across"] < 4


def test_a_saved_model_is_the_same_to_the_bit_and_in_bfloat16_near_enough(batch, prepared, tmp_path):
    model = prepared()
    model(**batch)  # batch norm has seen something
    model.eval().save_pretrained(tmp_path / "saved")
    loaded = AutoModel.from_pretrained(tmp_path / "saved")
    assert isinstance(loaded, CmGanModel)
    assert all(torch.equal(one, loaded.state_dict()[name]) for name, one in model.state_dict().items())
    whole = model(**batch)
    for one, other in zip(whole.to_tuple()[2:], loaded(**batch).to_tuple()[2:], strict=True):
        assert torch.equal(one, other)
    low = AutoModel.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    found = low(**batch)  # both modalities: a loss, and embeddings
    # Eight bits a weight, three layers and a norm.
    assert (found.audio_embeds.float() * whole.audio_embeds).sum(dim=1).median() > 0.99
    assert found.loss.item() == pytest.approx(whole.loss.item(), rel=0.05)


# Many processes.


@pytest.mark.parametrize(("player", "drawn"), [("model", []), ("critic", ["draws"])])
def test_two_processes_take_the_step_of_one_on_what_they_drew(together, batch, player, drawn):
    """In eval mode: a batch norm sees its own process's clips alone."""
    assert_two_take_the_step_of_one(together, lambda: make().eval(), batch, player, drawn)


def test_two_processes_stay_alike_over_steps_of_uneven_shards(together, data):
    assert_two_stay_alike(together, lambda: make(dropout=0.2), data, [*TERMS["model"], *TERMS["critic"]])
