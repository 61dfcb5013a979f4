"""The triplet loss against a loop over anchors, positives and negatives."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modeling_dualspace.triplets import class_relations, triplet_loss, triplets_of

MEANS = ("all", "active")
BALANCED, UNBALANCED, UNKNOWN = [0, 1, 2] * 4, [0] * 7 + [1] * 4 + [2], [0, 0, -1, 1, 1, -1, 2, 0, 2, -1]


def make_rows(rows, others=None, width=3, seed=0, dtype=torch.float64):
    """Anchors and rows of the other modality."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (rows, rows if others is None else others)
    return tuple(torch.randn(size, width, generator=generator, dtype=torch.float64).to(dtype) for size in sizes)


def make_relations(classes):
    """By the definition, pair by pair; a negative class is unknown."""
    pairs = [[(one == other, one != other) if min(one, other) >= 0 else (False, False) for other in classes]
             for one in classes]  # fmt: skip
    return torch.tensor([[same for same, _ in row] for row in pairs]), torch.tensor(
        [[no for _, no in r] for r in pairs]
    )


def naive_triplets(anchors, others, same, differs, margin, mean):
    """Every triplet by itself."""
    losses = []
    for anchor, positives, negatives in zip(anchors, same, differs, strict=True):
        for positive in others[positives]:
            for negative in others[negatives]:
                gap = (anchor - positive).square().sum() - (anchor - negative).square().sum() + margin
                losses.append(gap if gap > 0 else 0 * gap)
    count = len(losses) if mean == "all" else sum(loss.item() > 0 for loss in losses)
    return torch.stack(losses).sum() / max(count, 1) if losses else 0 * (anchors.sum() + others.sum())


def assert_like_the_loop(anchors, others, same, differs, margin, mean):
    anchors, others = (rows.clone().requires_grad_() for rows in (anchors, others))
    found = triplet_loss(anchors, others, same, differs, margin=margin, mean=mean)
    expected = naive_triplets(anchors, others, same, differs, margin, mean)
    # float64; distances of a few units come out of squares and products of the same size.
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    gradients = (torch.autograd.grad(value, (anchors, others)) for value in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)
    return found


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("margin", [0.0, 0.5, 100.0])
@pytest.mark.parametrize("classes", [BALANCED, UNBALANCED, UNKNOWN], ids=["balanced", "unbalanced", "unknown"])
def test_the_loss_and_its_gradient_are_those_of_the_loop(classes, margin, mean):
    assert assert_like_the_loop(*make_rows(len(classes)), *make_relations(classes), margin, mean) > 0


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("seed", range(4))
def test_any_relations_will_do_and_as_many_rows_of_either_side(seed, mean):
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(0, 3, (7, 9), generator=generator)
    assert_like_the_loop(*make_rows(7, 9, seed=seed), kinds == 1, kinds == 2, 0.7, mean)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_gradient(margin, mean):
    same, differs = make_relations(UNBALANCED)
    rows = [tensor.requires_grad_() for tensor in make_rows(len(UNBALANCED))]
    loss = lambda anchors, others: triplet_loss(anchors, others, same, differs, margin=margin, mean=mean)  # noqa: E731
    assert torch.autograd.gradcheck(loss, rows)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("classes", [[0] * 5, [-1] * 5, [0, -1, -1], [3]], ids=["one class", "none", "lonely", "one"])
def test_without_negatives_the_loss_is_zero_and_sends_nothing(classes, mean):
    rows = [tensor.requires_grad_() for tensor in make_rows(len(classes))]
    loss = triplet_loss(*rows, *make_relations(classes), margin=0.5, mean=mean)
    assert loss == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(loss, rows))


@pytest.mark.parametrize("mean", MEANS)
def test_without_positives_the_loss_is_zero(mean):
    rows, nobody = make_rows(5), torch.zeros(5, 5, dtype=torch.bool)
    assert triplet_loss(*rows, nobody, ~nobody, margin=0.5, mean=mean) == 0
    some = nobody.clone()
    some[2, 3] = True  # and an anchor that has none sends nothing where another has
    assert_like_the_loop(*rows, some, ~some, 0.5, mean)


@pytest.mark.parametrize("mean", MEANS)
def test_a_row_that_nobody_labelled_moves_nothing_and_is_not_counted(mean):
    anchors, others = make_rows(len(UNKNOWN))
    known = torch.tensor(UNKNOWN) >= 0
    expected = triplet_loss(
        anchors[known], others[known], *make_relations([c for c in UNKNOWN if c >= 0]), margin=0.5, mean=mean
    )
    wild = [torch.where(known.unsqueeze(1), rows, 1e3).requires_grad_() for rows in (anchors, others)]
    found = triplet_loss(*wild, *make_relations(UNKNOWN), margin=0.5, mean=mean)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert not any(gradient[~known].any() for gradient in torch.autograd.grad(found, wild))


def test_a_triplet_exactly_on_the_margin_is_not_active():
    # Small whole numbers: every distance is exact. From 0 to the positive 4, to the negatives 0, 4, 4 + 1/2, 9.
    anchors, others = torch.tensor([[0.0]]), torch.tensor([[2.0], [0.0], [-2.0], [4.5**0.5], [3.0]])
    same = torch.tensor([[True, False, False, False, False]])
    differs = torch.tensor([[False, True, True, False, True]])
    for margin, losses in ((0.0, [4, 0, 0]), (5.0, [9, 5, 0]), (4.0, [8, 4, 0]), (6.0, [10, 6, 1])):
        active = [loss for loss in losses if loss > 0]
        for mean, expected in (("all", sum(losses) / 3), ("active", sum(active) / len(active))):
            assert triplet_loss(anchors, others, same, differs, margin=margin, mean=mean) == pytest.approx(expected)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("margin", [0.0, 0.5, 1.0, 2.0])
def test_many_equal_distances_are_as_good_as_any(margin, mean):
    # Corners of a square, each several times: all squared distances are 0, 1 or 2, and exact.
    corners = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64).repeat(3, 1)
    assert_like_the_loop(corners, corners.flip(0), *make_relations(BALANCED), margin, mean)


@pytest.mark.parametrize("mean", MEANS)
def test_rows_that_are_all_alike_cost_the_margin_and_send_no_gradient(mean):
    rows = [torch.full((12, 3), 0.3, requires_grad=True) for _ in range(2)]
    loss = triplet_loss(*rows, *make_relations(BALANCED), margin=0.5, mean=mean)
    # float32 squares of .27 cancel to their rounding.
    assert loss.item() == pytest.approx(0.5, abs=1e-6)
    # Each row is pushed and pulled by the same rows: what is left is rounding of numbers below one.
    assert all(gradient.abs().max() < 1e-6 for gradient in torch.autograd.grad(loss, rows))


class Largest(TorchDispatchMode):
    """The most numbers that any one tensor holds, of all that are made."""

    numbers = 0

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        made = function(*arguments, **settings or {})
        for one in made if isinstance(made, (tuple, list)) else (made,):
            self.numbers = max(self.numbers, one.numel() if isinstance(one, torch.Tensor) else 0)
        return made


@pytest.mark.parametrize("mean", MEANS)
def test_a_large_batch_needs_pairs_of_rows_and_not_triplets_of_them(mean):
    rows, classes = 1500, torch.arange(1500) % 50
    same = classes.unsqueeze(1) == classes
    anchors, others = (tensor.requires_grad_() for tensor in make_rows(rows, width=10, dtype=torch.float32))
    with Largest() as largest:
        loss = triplet_loss(anchors, others, same, ~same, margin=0.5, mean=mean)
        loss.backward()
    assert largest.numbers <= rows * (rows + 1)

    distances = torch.cdist(anchors.detach().double(), others.detach().double()).square().numpy()
    total, active = 0.0, 0
    for row, positives in zip(distances, same.numpy(), strict=True):
        gaps = np.maximum(row[positives][:, None] - row[~positives][None] + 0.5, 0)
        total, active = total + gaps.sum(), active + (gaps > 0).sum()
    count = same.sum().item() * (rows - rows // 50) if mean == "all" else active
    # float32: prefixes of 1470 distances are rounded at 1e-7 of their sum, and the loss is no small share of it.
    assert loss.item() == pytest.approx(total / count, rel=1e-5)


# Classes.


def test_clips_of_one_class_are_related_by_it():
    for classes in (BALANCED, UNBALANCED, UNKNOWN):
        members = torch.tensor([[float(label == one) for label in range(3)] for one in classes])
        for found, expected in zip(class_relations(members), make_relations(classes), strict=True):
            assert torch.equal(found, expected)


def test_clips_of_several_classes_are_related_by_any_of_them():
    sets = [{0}, {0, 1}, {1, 2}, {2}, set(), {3}, {0, 3}]
    # As models bring them: rows that sum to one.
    members = torch.tensor([[(one in row) / max(len(row), 1) for one in range(4)] for row in sets])
    same, differs = class_relations(members)
    for i, one in enumerate(sets):
        for j, other in enumerate(sets):
            assert same[i, j].item() == bool(one & other)
            assert differs[i, j].item() == bool(one and other and not one & other)
    assert_like_the_loop(*make_rows(len(sets)), same, differs, 0.5, "all")


def test_low_precision_memberships_relate_alike():
    members = torch.eye(7)[torch.randint(0, 7, (300,))] + torch.eye(7)[torch.randint(0, 7, (300,))]
    members = members / members.sum(dim=1, keepdim=True)
    for one, other in zip(class_relations(members), class_relations(members.bfloat16()), strict=True):
        assert torch.equal(one, other)


# Precision.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_has_the_precision_of_its_rows(dtype):
    rows = make_rows(len(BALANCED), dtype=dtype)
    assert triplet_loss(*rows, *make_relations(BALANCED), margin=0.5).dtype == dtype


def test_a_nan_shows_in_the_loss():
    anchors, others = make_rows(len(BALANCED))
    anchors[3, 1] = torch.nan
    assert triplet_loss(anchors, others, *make_relations(BALANCED), margin=0.5).isnan()


def test_autocast_does_not_reach_the_distances():
    anchors, others = (rows.sigmoid() for rows in make_rows(len(BALANCED), width=10, dtype=torch.float32))
    expected = triplet_loss(anchors, others, *make_relations(BALANCED), margin=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = triplet_loss(anchors, others, *make_relations(BALANCED), margin=0.5)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_triplets_of_any_distance_are_those_of_a_loop():
    distances = torch.rand(
        len(BALANCED), len(BALANCED), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    same, differs = make_relations(BALANCED)
    rows = range(len(BALANCED))
    triplets = [
        max(0.0, float(distances[i, p] - distances[i, n]) + 0.3)
        for i in rows for p in rows for n in rows if same[i, p] and differs[i, n]
    ]  # fmt: skip
    found = triplets_of(distances, same, differs, margin=0.3)
    assert found.item() == pytest.approx(sum(triplets) / len(triplets), rel=1e-12)
