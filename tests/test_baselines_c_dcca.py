"""Category-based deep CCA: pairs of a category, counted by loops, in the loss and in the directions afterwards."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from steps import a_share, a_step
from transformers import AutoModel

from modeling_dualspace.baselines import CDccaConfig, CDccaModel, DccaConfig, DccaModel
from modeling_dualspace.model_setup import build_model
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.training_run import train

MODEL = {"audio_hidden": [12], "visual_hidden": [12, 8], "network_dim": 4, "embed_dim": 3}
LABELS = {
    "balanced": torch.arange(60) % 3,
    "unbalanced": (torch.arange(60) % 9 // 4).clamp_max(2),
    "unknown": torch.where(torch.arange(60) % 4 == 0, -100, torch.arange(60) % 7 // 3),
    "one class": torch.zeros(60, dtype=torch.int64),
}
UNEVEN = [name for name in LABELS if name != "balanced"]


def make(kind=CDccaModel, **settings):
    torch.manual_seed(0)
    config = {"audio_dim": 6, "visual_dim": 8, "num_labels": 3, "normalization": "layer"} | MODEL | settings
    return kind(kind.config_class(**config))


def doubled(batch, labels=None):
    clips = {name: rows.double() if rows.is_floating_point() else rows for name, rows in batch.items()}
    return clips if labels is None else clips | {"labels": labels}


def outputs(model, batch):
    """What the networks make of clips, in float64 NumPy."""
    with torch.no_grad():
        rows = model.eval().encode(batch, "model")
    return rows["audio"].double().numpy(), rows["visual"].double().numpy()


def pairs_of(labels):
    """Every pair of clips of one category; a clip that nobody labelled is one with itself."""
    labels = labels.tolist()
    return [
        (i, j)
        for i, one in enumerate(labels)
        for j, other in enumerate(labels)
        if (one == other if one >= 0 else i == j)
    ]


def canonical(S_aa, cross, S_vv, ridge):
    """T of the formula, by roots of matrices."""
    left, right = (scipy.linalg.inv(scipy.linalg.sqrtm(S + ridge * np.eye(len(S))).real) for S in (S_aa, S_vv))
    return left, left @ cross @ right, right


def mixed_cross(A, V, labels, weight, counts):
    """The mixed cross-covariance of centred rows; `counts(i)` is how much a pair of clip i counts."""
    pairs = pairs_of(labels)
    clusters = sum(np.outer(A[i], V[j]) * counts(i) for i, j in pairs) / sum(counts(i) for i, _ in pairs)
    return (1 - weight) * A.T @ V / len(A) + weight * clusters


# The objective.


@pytest.mark.parametrize("kind", ["nuclear", "frobenius"])
@pytest.mark.parametrize("weight", [0.8, 1.0])
@pytest.mark.parametrize("name", LABELS)
def test_the_loss_pairs_each_clip_with_all_of_its_category(batch, name, weight, kind):
    labels = LABELS[name]
    model = make(category_weight=weight, correlation=kind, correlation_ridge=0.01).double()
    clips = doubled(batch, labels)
    A, V = (rows - rows.mean(axis=0) for rows in outputs(model, clips))
    size = {label: max((labels == label).sum().item(), 1) if label >= 0 else 1 for label in labels.tolist()}
    cross = mixed_cross(A, V, labels, weight, lambda i: 1 / size[labels[i].item()])
    if name in ("balanced", "one class"):  # then a clip's share is that of any pair, as the authors have it
        np.testing.assert_allclose(cross, mixed_cross(A, V, labels, weight, lambda i: 1), atol=1e-12)
    values = np.linalg.svd(canonical(A.T @ A / 60, cross, V.T @ V / 60, 0.01)[1], compute_uv=False)
    expected = values.sum() if kind == "nuclear" else (values**2).sum() ** 0.5
    output = model(**clips)
    assert list(output.terms) == ["correlation"]
    # float64. Of one class nothing is left but rounding: its mean is the one that is subtracted.
    assert output.loss.item() == pytest.approx(-expected, rel=1e-9, abs=1e-9)
    assert -4 <= output.loss.item() <= 0  # one a direction at most


def test_without_labels_or_weight_it_is_dcca(batch):
    plain, model, weightless = make(DccaModel), make(), make(category_weight=0.0)
    expected = plain(**batch).loss
    unlabelled = {name: rows for name, rows in batch.items() if name != "labels"}
    for found in (
        weightless(**batch).loss,
        model(**unlabelled).loss,
        model(**batch | {"labels": torch.full((60,), -100)}).loss,
        model(**batch | {"labels": torch.full((60, 3), torch.nan)}).loss,
    ):
        # float32: what is mixed is the same but for the order of its sums.
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert abs(model(**batch).loss / expected - 1) > 0.01


def test_memberships_are_as_good_as_classes(batch):
    model = make()
    members = torch.eye(3)[batch["labels"]]
    torch.testing.assert_close(model(**batch | {"labels": members}).loss, model(**batch).loss, rtol=1e-6, atol=0)


def test_a_label_that_is_none_is_a_sentence(batch):
    labels = batch["labels"].clone()
    labels[7] = 3
    with pytest.raises(ValueError, match=r"Bad label in row 7: classes must lie in 0\.\.2"):
        make()(**batch | {"labels": labels})


def test_what_it_encodes_is_one_graph(batch):
    model = make().eval()
    compiled = torch.compile(model.encode, backend="eager", fullgraph=True)(batch, "model")
    for name, rows in model.encode(batch, "model").items():
        assert torch.equal(compiled[name], rows), name


# The directions.


@pytest.mark.parametrize("name", [name for name in LABELS if name != "one class"])
@pytest.mark.parametrize(("pairing", "weight"), [("all", 1.0), ("mixed", 0.8), ("even", 0.6)])
def test_finish_is_a_cluster_cca_of_the_outputs(batch, name, pairing, weight):
    labels, ridge = LABELS[name], 0.01
    model = make(pairing=pairing, cluster_weight=weight, ridge=ridge, embed_dim=2)
    clips = batch | {"labels": labels}
    model.prepare([clips])
    model.finish([{key: rows[part] for key, rows in clips.items()} for part in (slice(0, 23), slice(23, 60))])
    A, V = rows = outputs(model, clips)
    if pairing == "all":  # every pair is a row of its own
        firsts, seconds = zip(*pairs_of(labels), strict=True)
        P, Q = A[list(firsts)], V[list(seconds)]
        means = P.mean(axis=0), Q.mean(axis=0)
        left, T, right = canonical(np.cov(P.T, bias=True), (P - means[0]).T @ (Q - means[1]) / len(P),
                                   np.cov(Q.T, bias=True), ridge)  # fmt: skip
    else:
        means = A.mean(axis=0), V.mean(axis=0)
        A, V = A - means[0], V - means[1]
        size = {label: (labels == label).sum().item() if label >= 0 else 1 for label in labels.tolist()}
        cross = mixed_cross(A, V, labels, weight, lambda i: 1 / size[labels[i].item()] if pairing == "even" else 1)
        left, T, right = canonical(A.T @ A / 60, cross, V.T @ V / 60, ridge)
    U, values, W = np.linalg.svd(T)
    # Directions are kept as float32, and the outputs computed so.
    np.testing.assert_allclose(model.layer.correlations.numpy(), values[:2], rtol=1e-4)
    ours = model.get_audio_embeds(batch["audio_features"]), model.get_visual_embeds(batch["visual_features"])
    maps = (left @ U[:, :2], right @ W[:2].T)
    for found, view, mean, weights in zip(ours, rows, means, maps, strict=True):
        variates = (view - mean) @ weights
        unit = variates / np.linalg.norm(variates, axis=1, keepdims=True)
        signs = np.sign((unit * found.detach().numpy()).sum(axis=0))
        np.testing.assert_allclose(found.detach().numpy(), unit * signs, atol=1e-3)


def test_there_are_as_many_directions_as_classes_but_one(batch):
    model = make(embed_dim=4)
    model.prepare([batch])
    model.finish([batch])
    assert (model.layer.correlations > 0).tolist() == [True, True, False, False]


# Training.


@pytest.fixture
def c_dcca(recipe):
    return lambda output="run", model=MODEL, **settings: replace(
        recipe(output, **settings), system="c_dcca", model=dict(model)
    )


def test_it_trains_from_a_recipe_and_is_chosen_on_validation(c_dcca, data, tmp_path):
    summary = train(c_dcca(epochs=3), data=data, progress=False)
    assert summary["chosen_on"] == "validation" and summary["refit"]
    model = AutoModel.from_pretrained(tmp_path / "run" / "model")
    assert isinstance(model, CDccaModel) and model.fitted
    assert summary["validation"]["map"] > 0.5  # a third is chance, and the classes are two deviations apart


def test_without_any_label_it_is_a_sentence(c_dcca, data):
    bare = TrainingData({name: split.remove_columns("label") for name, split in data.splits.items()})
    with pytest.raises(
        ValueError, match="CDccaModel learns from the categories .* take a system that needs none"
    ) as error:
        train(c_dcca(epochs=1), data=bare, progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("names", [("a", "b", "LABEL_0", "c"), ("LABEL_2", "LABEL_1")])
def test_it_is_started_from_on_data_of_other_classes(batch, c_dcca, make_batch, as_split, tmp_path, names):
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.rand(parameter.shape))
    model.prepare([batch])
    model.finish([batch])
    model.save_pretrained(tmp_path / "saved")
    clips = make_batch(60, seed=5)
    other = TrainingData({"train": as_split(clips | {"labels": torch.arange(60) % len(names)}, names)})
    start = replace(c_dcca("tuned", {}, epochs=1), init=str(tmp_path / "saved"))
    fresh = build_model(start, other)
    assert not fresh.fitted and fresh.config.num_labels == len(names)
    was = dict(model.named_parameters())
    assert all(torch.equal(one, was[name]) for name, one in fresh.named_parameters())
    train(start, data=other, progress=False)
    tuned = AutoModel.from_pretrained(tmp_path / "tuned" / "model")
    assert list(tuned.config.id2label.values()) == list(names) and tuned.fitted


# Many processes.


@pytest.mark.parametrize("name", UNEVEN)
def test_two_processes_take_the_step_of_one(together, batch, name):
    """The second begins with the 41st clip; where the rows are sorted by class, it sees none of the first."""
    order = LABELS[name].argsort()
    clips = {key: rows[order] for key, rows in doubled(batch, LABELS[name]).items()}

    def work():
        model, mine = a_share(make, clips)
        found = a_step(model, mine)
        if name != "one class":
            model.module.finish([mine])
        return *found, model.module.layer.correlations

    model = make().double()
    expected = a_step(model, clips)
    if name != "one class":
        model.finish([clips])
    for loss, slope, correlations in together(2, work):
        # float64, sums in another order. Of one class the loss is rounding, and so is its gradient.
        torch.testing.assert_close(loss, expected[0], rtol=1e-9, atol=1e-12)
        assert (slope - expected[1]).abs().max() <= 1e-9 * expected[1].abs().max() + 1e-9 * (name == "one class")
        torch.testing.assert_close(correlations, model.layer.correlations, rtol=1e-6, atol=1e-6)


# Loading and settings.


def test_a_saved_model_is_the_same_to_the_bit_and_embeds_in_bfloat16(batch, tmp_path):
    model = make().eval()
    model.prepare([batch])
    model.finish([batch])
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModel.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(one, loaded.state_dict()[name]) for name, one in model.state_dict().items())
    embeds = model.get_visual_embeds(batch["visual_features"])
    assert torch.equal(loaded.get_visual_embeds(batch["visual_features"]), embeds)
    low = AutoModel.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert all(one.dtype == torch.float32 for one in low.layer.buffers())
    # Eight bits a weight: near, for most clips.
    assert (low.get_visual_embeds(batch["visual_features"]).float() * embeds).sum(dim=1).median() > 0.9


def test_it_is_configured_as_both_that_it_comes_of():
    config = CDccaConfig()
    assert config.turns == ["model"] and config.category_weight == 0.8
    assert (config.audio_hidden, config.pairing) == (DccaConfig().audio_hidden, "all")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"category_weight": 1.1}, r"`category_weight` must lie in 0..1, got 1.1"),
        ({"category_weight": -0.1}, r"`category_weight` must lie in 0..1"),
        ({"category_weight": float("nan")}, r"`category_weight` must lie in 0..1"),
        ({"pairing": "mixed", "cluster_weight": 2}, r"`cluster_weight` must lie in 0..1, got 2"),
        ({"cluster_weight": 0.5}, "`pairing` all has no pairs but those of a category"),
        ({"pairing": "some"}, "pairing"), ({"network_dim": 0}, "`network_dim` must be at least 1"),
        ({"correlation_ridge": -1}, "`correlation_ridge` must be"), ({"dropout": 1}, "`dropout` must be at least 0"),
        ({"turns": []}, "`turns` of CDccaConfig must name model"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_meant_is_refused(settings, said):
    with pytest.raises(Exception, match=said):
        CDccaConfig(**settings)


def test_clips_that_nobody_labelled_are_refused_before_the_first_step(batch):
    unlabelled = {name: rows for name, rows in batch.items() if name != "labels"}
    for clips in (unlabelled, batch | {"labels": torch.full((60,), -100)}):
        with pytest.raises(ValueError, match="learns from the categories of clips, and no training clip has a label"):
            make().prepare([clips])
