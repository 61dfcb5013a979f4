"""AGAH: attention and every term beside loops, the critic's slope beside the formula, whose turn moves whom."""

import math
from dataclasses import replace

import numpy as np
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
from transformers import AutoModel

from modeling_dualspace.average_precision import average_precision
from modeling_dualspace.baselines import AgahConfig, AgahModel
from modeling_dualspace.baselines.agah import codebook_loss, cosine_triplets, quantization_loss
from modeling_dualspace.codes import hamming, pack
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.training_run import train

MODEL = {"audio_hidden": [12], "visual_hidden": [12], "embed_dim": 16, "encoder_dim": 9, "critic_hidden": [7]}
TERMS = {"model": ["triplet", "quantization", "codebook", "deceit"], "critic": ["critic", "penalty"]}
ONE_CLASS = torch.tensor([0, 1, 2, 0, 1, 2, 2, -100, 0, -100])
SEVERAL = torch.tensor([[1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [-1, 0, 1], [1, 1, 1], [0, 0, 1.0]])


def make(**settings):
    torch.manual_seed(0)
    return AgahModel(AgahConfig(**{"audio_dim": 6, "visual_dim": 8, "num_labels": 3} | MODEL | settings))


@pytest.fixture
def prepared(batch):
    def of(**settings):
        model = make(**settings)
        model.prepare([batch])
        return model

    return of


def random_rows(labels, bits=16, width=9, seed=0):
    """What `encode` might have made for either player, in float64."""
    generator = torch.Generator().manual_seed(seed)
    rows = {"labels": labels, "mix": torch.rand(len(labels), 1, generator=generator, dtype=torch.float64)}
    for name in ("audio", "visual"):
        rows[name] = torch.rand(len(labels), bits, generator=generator, dtype=torch.float64) * 2 - 1
        rows[f"{name}_attended"] = torch.randn(len(labels), width, generator=generator, dtype=torch.float64)
    return rows


def classes_of(labels):
    """Sets of classes; None where nobody knows."""
    if labels.ndim == 1:
        return [{one} if one >= 0 else None for one in labels.tolist()]
    return [None if min(row) < 0 else {c for c, one in enumerate(row) if one} for row in labels.tolist()]


def cosine(one, other):
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def naive_triplets(audio, visual, classes, margin):
    """Every triplet of an anchor of one modality and two clips of the other, both ways."""
    total = 0.0
    for anchors, others in ((audio, visual), (visual, audio)):
        losses = [
            max(0.0, margin - cosine(anchors[i], others[p]) + cosine(anchors[i], others[n]))
            for i, one in enumerate(classes) if one
            for p, same in enumerate(classes) if same and one & same
            for n, other in enumerate(classes) if other and not one & other
        ]  # fmt: skip
        total += sum(losses) / max(len(losses), 1)
    return total


def naive_codebook(codes, book, classes):
    """Mean over known clips and classes."""
    losses = [(codes[i] @ row / len(row) - (1 if c in own else -1)) ** 2
              for i, own in enumerate(classes) if own is not None for c, row in enumerate(book)]  # fmt: skip
    return sum(losses) / max(len(losses), 1)


# Features and codes.


@pytest.mark.parametrize("sharpness", [0.0, 5.0])
def test_features_attend_to_labels_as_loops_have_it(batch, prepared, sharpness):
    model = prepared(attention=sharpness).double()
    clips = doubled(batch)
    rows = model.encode(clips, "model")
    labels = [one / one.norm() for one in model.label_features]
    for name in ("audio", "visual"):
        raw = getattr(model, f"{name}_encoder")(clips[f"{name}_features"]).relu()
        for feature, found in zip(raw[:10], rows[f"{name}_attended"], strict=False):
            feature = feature / feature.norm()
            shares = [1 / (1 + math.exp(-sharpness * (feature @ label).item())) for label in labels]
            seen = sum(share * label for share, label in zip(shares, labels, strict=True)) / sum(shares)
            torch.testing.assert_close(found, feature + seen)
            assert found.norm() <= 2  # one of unit length, and a mean of such
        hashed = torch.tanh(rows[f"{name}_attended"] @ model.hashing[name].weight.T + model.hashing[name].bias)
        torch.testing.assert_close(rows[name], hashed)


def test_embeddings_are_the_signs_of_codes_whose_cosine_ranks_as_hamming_does(batch, prepared):
    model = prepared(embed_dim=20).train()
    rows = {name: model.encode(batch, "model")[name] for name in ("audio", "visual")}
    embeds = {name: getattr(model, f"get_{name}_embeds")(batch[f"{name}_features"]) for name in rows}
    for name, codes in embeds.items():
        assert codes.unique().tolist() == pytest.approx([-(20**-0.5), 20**-0.5])
        assert torch.equal(codes > 0, rows[name] >= 0)
        torch.testing.assert_close(codes.norm(dim=1), torch.ones(60), rtol=0, atol=1e-6)  # float32: twenty squares
    cosines = embeds["audio"].double() @ embeds["visual"].double().T
    distances = hamming(*map(pack, embeds.values()))
    # Entries are float32 of an irrational number.
    torch.testing.assert_close(cosines, 1 - distances / 10.0, rtol=0, atol=1e-6, check_dtype=False)
    relevant = (batch["labels"].unsqueeze(1) == batch["labels"]).numpy()
    by_bits = average_precision(-distances.float().numpy(), relevant)
    np.testing.assert_allclose(average_precision(cosines.float().numpy().round(4), relevant), by_bits)


def test_a_code_is_of_its_own_clip_alone(batch, prepared):
    model = prepared(dropout=0.5, normalization="batch").train()
    whole = model.get_visual_embeds(batch["visual_features"])
    assert torch.equal(model.get_visual_embeds(batch["visual_features"]), whole) and model.training
    for row in (0, 31):
        assert torch.equal(model.get_visual_embeds(batch["visual_features"][row : row + 1]), whole[row : row + 1])


# The objective.


@pytest.mark.parametrize("labels", [ONE_CLASS, SEVERAL], ids=["one class", "several"])
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_the_terms_of_the_networks_are_those_of_loops(prepared, labels, margin):
    model = prepared(margin=margin).double()
    rows, classes = random_rows(labels), classes_of(labels)
    codes = {name: rows[name].numpy() for name in ("audio", "visual")}
    book = model.codebook.detach().numpy()
    expected = {
        "triplet": naive_triplets(*codes.values(), classes, margin),
        "quantization": sum(np.mean([1 - cosine(h, np.sign(h)) for h in one]) for one in codes.values()),
        "codebook": sum(naive_codebook(one, book, classes) for one in codes.values()),
        "deceit": (model.critic(rows["visual_attended"]).sum() - model.critic(rows["audio_attended"]).sum()).item()
        / len(labels),
    }
    found = model.objective(rows, "model", 0.0)
    assert list(found) == TERMS["model"]
    assert {name: term.item() for name, term in found.items()} == pytest.approx(expected, rel=1e-10)


def test_what_has_no_class_or_no_other_class_costs_no_triplet_and_no_code(prepared):
    model = prepared().double()
    for labels, terms in (([-100] * 6, ("triplet", "codebook")), ([1] * 6, ("triplet",))):
        found = model.objective(random_rows(torch.tensor(labels)), "model", 0.0)
        assert [found[name].item() for name in terms] == [0.0] * len(terms)
    assert model.objective(random_rows(torch.tensor([1] * 6)), "model", 0.0)["codebook"] > 0


def test_the_parts_of_the_loss_have_gradients_as_differences_say():
    audio, visual, book = (torch.rand(rows, 5, dtype=torch.float64) * 2 - 1 for rows in (8, 8, 3))
    targets = SEVERAL.double().clamp_min(0)
    known = torch.tensor([True] * 5 + [False] + [True] * 2)
    for one in (audio, visual, book):
        one.requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda a, v: cosine_triplets(a, v, targets * known.unsqueeze(1), 0.3), (audio, visual))
    assert check(quantization_loss, (audio,))
    assert check(lambda a, c: codebook_loss(a, c, targets, known), (audio, book))


def test_low_precision_is_the_networks_not_the_loss_s(prepared):
    model = prepared()
    rows = {name: one.float() if one.is_floating_point() else one for name, one in random_rows(ONE_CLASS).items()}
    for player in TERMS:
        whole = model.objective(rows, player, 0.0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = model.objective(rows, player, 0.0)
        assert all(torch.equal(low[name], whole[name]) for name in whole)


@pytest.mark.parametrize(("player", "term"), [(player, term) for player in TERMS for term in TERMS[player]])
def test_a_term_is_as_steep_as_differences_say(batch, prepared, player, term):
    model = prepared(activation="tanh", critic_activation="tanh").double()
    steep, difference = slopes(model, doubled(batch), player, term)
    # Of a step of 1e-6 a float64 difference keeps nine digits or so; few of thousands of triplets have a kink there.
    assert abs(steep) > 1e-4 and steep == pytest.approx(difference, rel=1e-5)


def test_the_networks_minimise_what_the_critic_maximises(prepared):
    model, rows = prepared().double(), random_rows(ONE_CLASS)
    ours, theirs = (model.objective(rows, player, 0.0) for player in ("model", "critic"))
    assert ours["deceit"] == -theirs["critic"] != 0


def test_the_penalty_is_that_of_slopes_by_hand(prepared):
    model, rows = prepared(critic_activation="tanh").double(), random_rows(ONE_CLASS)
    first, last = (one for one in model.critic if isinstance(one, torch.nn.Linear))
    losses = []
    for mix, real, fake in zip(rows["mix"], rows["visual_attended"], rows["audio_attended"], strict=True):
        inner = torch.tanh(first.weight @ (mix * real + (1 - mix) * fake) + first.bias)
        losses.append(((first.weight.T @ (last.weight[0] * (1 - inner**2))).norm() - 1) ** 2)
    expected, found = torch.stack(losses).mean(), model.objective(rows, "critic", 0.0)["penalty"]
    torch.testing.assert_close(found, expected)
    weights = [first.weight, last.weight]  # a second derivative
    gradients = (torch.autograd.grad(value, weights) for value in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_terms_are_weighed_as_the_config_says(batch, prepared):
    for given, expected in (
        ({}, {"deceit": 0.1, "penalty": 10.0}),
        ({"deceit": 2, "codebook": 0.5, "penalty": 3},) * 2,
    ):
        model = prepared(loss_weights=given)
        for player, names in TERMS.items():
            output = model(**batch, player=player)
            assert list(output.terms) == names
            total = sum(expected.get(name, 1.0) * output.terms[name].item() for name in names)
            assert output.loss.item() == pytest.approx(total, rel=1e-5)  # float32


# Players, and what there is of a class.


def test_a_turn_moves_whose_it_is_and_nobody_else(data):
    model = make()
    model.prepare(data.passes("train"))
    told = moved(model, data, 4)
    assert [player for player, _ in told] == ["critic", "model"] * 2
    for player, names in told:
        # Nothing moves the critic's last bias: on its own it cannot tell two means apart.
        assert names <= set(parameters_of(model, player)) <= names | {"critic.2.bias"}
    assert len(parameters_of(model, "critic")) == 4 and len(parameters_of(model, "model")) == 14


def test_the_critic_s_turn_gives_the_networks_no_gradient(batch, prepared):
    model = prepared()
    model(**batch, player="critic").loss.backward()
    found = {name for name, one in model.named_parameters() if one.grad is not None}
    assert found == set(parameters_of(model, "critic"))


def test_what_counts_classes_is_among_the_parts():
    model = make(num_labels=11)
    counted = {name for name, one in model.named_parameters() if 11 in one.shape[:1]}
    assert set(model.parts()["classes"]) == counted == {"label_features", "codebook"}


# Training.


@pytest.fixture
def agah(recipe):
    return lambda output="run", **settings: replace(recipe(output, **settings), system="agah", model=dict(MODEL))


def test_without_any_label_it_is_a_sentence(agah, data):
    bare = TrainingData({name: split.remove_columns("label") for name, split in data.splits.items()})
    with pytest.raises(ValueError, match="AgahModel learns from the categories .* take a system that") as error:
        train(agah(epochs=1), data=bare, progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_trains_from_a_recipe_in_either_precision(agah, data, tmp_path, precision):
    summary = train(agah(epochs=3, refit=False, precision=precision), data=data, progress=False)
    assert summary["chosen_on"] == "validation" and summary["steps"] == 9
    saved = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(one.isfinite().all() for one in saved.values())


def test_it_learns_codes_that_find_a_class_and_its_critic_stays_as_steep_as_it_should():
    """Of 150 clips in five classes a random order has a MAP of .2 and little; far clouds could have one of 1.

    Of five seeds it begins at .22 to .32 and comes to .75 to .99, and slopes come to 1 to 1.05 on average.
    """
    model, data = make(num_labels=CLASSES, encoder_dim=12, critic_hidden=[12]), easy_data()
    model.prepare(data.passes("train"))
    assert held_out_map(model) < 2.25 / CLASSES
    terms = learnt(model, data, epochs=10, lr=0.01)
    assert held_out_map(model) > 0.6
    assert terms["penalty"] < 0.1 and abs(terms["deceit"]) < 2  # rows of length two at most, slopes near one
    (clips,) = data.passes("validation")
    rows = model.encode(clips, "critic")
    between = (rows["audio_attended"] + rows["visual_attended"]).detach().div(2).requires_grad_()
    (slope,) = torch.autograd.grad(model.critic(between).sum(), between)
    assert 0.75 < slope.norm(dim=1).mean() < 1.25


def test_a_saved_model_is_the_same_to_the_bit_and_in_bfloat16_has_near_enough_its_codes_and_its_loss(
    batch, prepared, tmp_path
):
    model = prepared().eval()
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModel.from_pretrained(tmp_path / "saved")
    assert isinstance(loaded, AgahModel)
    assert all(torch.equal(one, loaded.state_dict()[name]) for name, one in model.state_dict().items())
    whole = model(**batch)
    for one, other in zip(whole.to_tuple()[2:], loaded(**batch).to_tuple()[2:], strict=True):
        assert torch.equal(one, other)
    low = AutoModel.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    found = low(**batch)  # both modalities: a loss, and embeddings
    # Eight bits a weight: some outputs next to zero change their sign.
    assert (found.audio_embeds.float() * whole.audio_embeds).sum(dim=1).mean() > 0.9
    assert found.loss.item() == pytest.approx(whole.loss.item(), rel=0.05)


# Many processes.


@pytest.mark.parametrize(("player", "drawn"), [("model", []), ("critic", ["mix"])])
def test_two_processes_take_the_step_of_one_on_what_they_drew(together, batch, player, drawn):
    assert_two_take_the_step_of_one(together, make, batch, player, drawn)


def test_two_processes_stay_alike_over_steps_of_uneven_shards(together, data):
    terms = TERMS["critic"] + TERMS["model"]
    assert_two_stay_alike(together, lambda: make(dropout=0.2), data, terms)
