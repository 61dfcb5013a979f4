"""The three terms of the objective against loops over rows."""

import numpy as np
import pytest
import scipy.linalg
import torch

from modeling_dualspace import canonical_correlation, discriminative_loss, orthogonality_loss

CORRELATIONS = ("nuclear", "frobenius")
DISCRIMINATIVE = ("frobenius", "row_norm")
ORTHOGONALITY = ("paper", "batch", "scale_free")


def make_outputs(rows, *widths, seed=0, dtype=torch.float64):
    """Outputs that see something of the same."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    mixes = (torch.randn(3, width, generator=generator, dtype=torch.float64) for width in widths)
    noise = (torch.randn(rows, width, generator=generator, dtype=torch.float64) for width in widths)
    return tuple((common @ mix + some + 1).to(dtype) for mix, some in zip(mixes, noise, strict=True))


def make_targets(rows, classes=4, seed=0):
    return torch.eye(classes)[torch.randint(0, classes, (rows,), generator=torch.Generator().manual_seed(seed))]


def terms(outputs, targets, known=None):
    """Every term of every kind, by name, of `(audio_explicit, audio_implicit, visual_explicit, visual_implicit)`."""
    audio_explicit, audio_implicit, visual_explicit, visual_implicit = outputs
    values = {}
    for kind in CORRELATIONS:
        values["correlation", kind] = canonical_correlation(audio_explicit, visual_explicit, kind=kind)
    for kind in DISCRIMINATIVE:
        values["discriminative", kind] = discriminative_loss(audio_implicit, visual_implicit, targets, known, kind=kind)
    for kind in ORTHOGONALITY:
        values["orthogonality", kind] = orthogonality_loss(*outputs, kind=kind)
    return values


def assert_all_finite(outputs, targets, known=None):
    leaves = [tensor.clone().requires_grad_() for tensor in outputs]
    values = terms(leaves, targets, known)
    for value in values.values():
        gradients = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        assert value.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
    return values


# The slow twins.


def naive_covariance(left, right):
    left_mean = [sum(column) / len(left) for column in left.T]
    right_mean = [sum(column) / len(right) for column in right.T]
    pairs = zip(left, right, strict=True)
    return sum(np.outer(a - left_mean, b - right_mean) for a, b in pairs) / len(left)


def naive_correlation(audio, visual, kind, ridge, relative):
    roots = []
    for view in (audio, visual):
        S = naive_covariance(view, view)
        r = ridge * np.trace(S) / len(S) if relative else ridge
        roots.append(np.linalg.inv(scipy.linalg.sqrtm(S + r * np.eye(len(S))).real))
    values = np.linalg.svd(roots[0] @ naive_covariance(audio, visual) @ roots[1], compute_uv=False)
    return sum(values) if kind == "nuclear" else sum(value**2 for value in values) ** 0.5


def naive_discriminative(audio, visual, targets, known, kind):
    rows = [row for row in range(len(audio)) if known[row]]
    loss = 0.0
    for outputs in (audio, visual):
        squares = [sum((y - t) ** 2 for y, t in zip(outputs[row], targets[row], strict=True)) for row in rows]
        loss += sum(squares) ** 0.5 if kind == "frobenius" else sum(square**0.5 for square in squares)
    return loss / len(rows)


def naive_overlap(left, right, kind):
    if kind == "scale_free":
        left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    products = [
        sum(a[i] * b[j] for a, b in zip(left, right, strict=True)) ** 2
        for i in range(left.shape[1])
        for j in range(right.shape[1])
    ]
    sizes = {"paper": 1, "batch": len(left) ** 2, "scale_free": (left**2).sum() * (right**2).sum()}
    return sum(products) / sizes[kind]


@pytest.mark.parametrize("kind", CORRELATIONS)
@pytest.mark.parametrize(("ridge", "relative"), [(0.0, False), (1e-4, True), (0.1, True), (0.1, False)])
def test_correlation_equals_the_formula(kind, ridge, relative):
    audio, visual = make_outputs(30, 4, 5)
    audio, visual = 3 * audio, visual / 3
    expected = naive_correlation(audio.numpy(), visual.numpy(), kind, ridge, relative)
    found = canonical_correlation(audio, visual, kind=kind, ridge=ridge, relative=relative)
    assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", CORRELATIONS)
@pytest.mark.parametrize("ridge", [1e-4, 0.1])
def test_correlation_of_fewer_rows_than_columns_equals_the_formula(kind, ridge):
    audio, visual = make_outputs(4, 6, 7)
    expected = naive_correlation(audio.numpy(), visual.numpy(), kind, ridge, True)
    # The root that the formula takes of a singular matrix keeps about half the digits of the ridge.
    assert canonical_correlation(audio, visual, kind=kind, ridge=ridge).item() == pytest.approx(expected, rel=1e-7)


def test_correlation_of_independent_copies_is_their_number():
    rows = make_outputs(50, 4)[0]
    for kind, expected in (("nuclear", 4.0), ("frobenius", 2.0)):
        turned = rows @ make_outputs(4, 4, seed=1)[0]
        found = canonical_correlation(rows, turned, kind=kind, ridge=0.0)
        assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", DISCRIMINATIVE)
@pytest.mark.parametrize("masked", [False, True])
def test_discriminative_loss_equals_the_loop_over_known_rows(kind, masked):
    audio, visual = make_outputs(20, 4, 4)
    targets = make_targets(20)
    known = torch.rand(20, generator=torch.Generator().manual_seed(1)) < (0.6 if masked else 2)
    expected = naive_discriminative(audio.numpy(), visual.numpy(), targets.numpy(), known, kind)
    found = discriminative_loss(audio, visual, targets, known, kind=kind)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    if not masked:
        torch.testing.assert_close(discriminative_loss(audio, visual, targets, kind=kind), found)


@pytest.mark.parametrize("kind", ORTHOGONALITY)
def test_orthogonality_loss_equals_the_loop_over_columns(kind):
    outputs = make_outputs(20, 3, 4, 5, 6)
    audio_explicit, audio_implicit, visual_explicit, visual_implicit = (tensor.numpy() for tensor in outputs)
    pairs = (audio_explicit, audio_implicit), (visual_explicit, visual_implicit), (audio_implicit, visual_implicit)
    expected = sum(naive_overlap(*pair, kind) for pair in pairs)
    assert orthogonality_loss(*outputs, kind=kind).item() == pytest.approx(expected, rel=1e-12)


# Gradients.


@pytest.mark.parametrize("kind", CORRELATIONS)
@pytest.mark.parametrize(
    ("rows", "ridge", "relative"), [(12, 0.0, False), (12, 0.1, False), (12, 1e-2, True), (3, 0.1, True)]
)
def test_gradient_of_the_correlation(kind, rows, ridge, relative):
    outputs = [tensor.requires_grad_() for tensor in make_outputs(rows, 3, 4)]
    assert torch.autograd.gradcheck(
        lambda audio, visual: canonical_correlation(audio, visual, kind=kind, ridge=ridge, relative=relative), outputs
    )


@pytest.mark.parametrize("kind", DISCRIMINATIVE)
def test_gradient_of_the_discriminative_loss(kind):
    outputs = [tensor.requires_grad_() for tensor in make_outputs(6, 4, 4)]
    known = torch.tensor([True, True, False, True, False, True])
    assert torch.autograd.gradcheck(
        lambda audio, visual: discriminative_loss(audio, visual, make_targets(6).double(), known, kind=kind), outputs
    )


@pytest.mark.parametrize("kind", ORTHOGONALITY)
def test_gradient_of_the_orthogonality_loss(kind):
    outputs = [tensor.requires_grad_() for tensor in make_outputs(5, 2, 3, 3, 2)]
    assert torch.autograd.gradcheck(lambda *tensors: orthogonality_loss(*tensors, kind=kind), outputs)


# Batches that are hard.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_every_term_is_finite_with_fewer_rows_than_columns(rows, dtype):
    assert_all_finite(make_outputs(rows, 8, 4, 9, 4, dtype=dtype), make_targets(rows))


@pytest.mark.parametrize("kind", CORRELATIONS)
@pytest.mark.parametrize(("rows", "width"), [(5, 200), (150, 200), (64, 64)])
def test_the_correlation_is_finite_without_a_ridge_on_a_singular_batch(kind, rows, width):
    outputs = [tensor.requires_grad_() for tensor in make_outputs(rows, width, width, dtype=torch.float32)]
    value = canonical_correlation(*outputs, kind=kind, ridge=0.0)
    assert value.isfinite() and value > 0
    if kind == "frobenius":  # which hardly sees the rounding of null directions; as many others as centred rows span
        assert value.item() < (min(rows - 1, width) * 1.05) ** 0.5  # 1.021 on one processor, less on others
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, outputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 1e-3, 0.1, 3.3, 1e4])
@pytest.mark.parametrize("rows", [1, 7, 100, 800])
def test_every_term_is_finite_on_rows_that_are_all_alike(value, rows, dtype):
    outputs = [value * tensor.expand(rows, -1) for tensor in make_outputs(1, 8, 4, 9, 4, dtype=dtype)]
    assert_all_finite(outputs, make_targets(rows))


@pytest.mark.parametrize("kind", CORRELATIONS)
@pytest.mark.parametrize("rows", [1, 7, 100, 800])
@pytest.mark.parametrize("value", [0.0, 0.1, 3.3])
def test_rows_that_are_all_alike_have_no_correlation(kind, rows, value):
    # Nor may the rounding of their mean pass for one.
    audio, visual = (value * tensor.expand(rows, -1) for tensor in make_outputs(1, 6, 5, dtype=torch.float32))
    for ridge in (0.0, 1e-4):
        assert canonical_correlation(audio, visual, kind=kind, ridge=ridge).item() < 1e-3


@pytest.mark.parametrize("silent", [0, 2])
def test_every_term_is_finite_where_one_view_is_silent(silent):
    outputs = list(make_outputs(20, 8, 4, 9, 4, dtype=torch.float32))
    outputs[silent] = torch.zeros_like(outputs[silent])
    values = assert_all_finite(outputs, make_targets(20))
    assert values["correlation", "nuclear"] == values["correlation", "frobenius"] == 0


def test_a_constant_or_repeated_column_adds_no_correlation():
    audio, visual = make_outputs(40, 3, 4)
    for kind in CORRELATIONS:
        expected = canonical_correlation(audio, visual, kind=kind, ridge=0.0)
        constant = torch.cat([audio, audio.new_full((40, 1), 0.1)], 1), torch.cat([visual, visual.new_ones(40, 1)], 1)
        repeated = torch.cat([audio, audio[:, :1]], 1), torch.cat([visual, visual[:, 1:]], 1)
        for wider in (constant, repeated):
            torch.testing.assert_close(canonical_correlation(*wider, kind=kind, ridge=0.0), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", DISCRIMINATIVE)
def test_rows_that_nobody_labelled_send_no_gradient_whatever_they_hold(kind):
    outputs = [tensor.requires_grad_() for tensor in make_outputs(5, 4, 4)]
    known = torch.tensor([True, False, True, False, True])
    targets = make_targets(5)
    targets[~known] = float("nan")
    value = discriminative_loss(*outputs, targets, known, kind=kind)
    rows = [tensor[known] for tensor in outputs]
    torch.testing.assert_close(value, discriminative_loss(*rows, targets[known], kind=kind))
    for gradient in torch.autograd.grad(value, outputs):
        assert not gradient[~known].any() and gradient[known].all()


@pytest.mark.parametrize("kind", DISCRIMINATIVE)
def test_a_batch_without_any_label_and_one_that_is_met_exactly_cost_nothing(kind):
    targets = make_targets(5).double().requires_grad_()
    for known in (torch.zeros(5, dtype=torch.bool), torch.ones(5, dtype=torch.bool)):
        value = discriminative_loss(targets, targets, targets.detach(), known, kind=kind)
        assert value == 0 and not torch.autograd.grad(value, targets)[0].any()


# Invariance.


@pytest.mark.parametrize("kind", CORRELATIONS)
@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1e6])
def test_a_relative_ridge_leaves_the_correlation_blind_to_scale(kind, scale):
    audio, visual = make_outputs(30, 4, 5)
    expected = canonical_correlation(audio, visual, kind=kind, ridge=0.1)
    found = canonical_correlation(scale * audio, visual / scale, kind=kind, ridge=0.1)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    absolute = canonical_correlation(scale * audio, visual / scale, kind=kind, ridge=0.1, relative=False)
    assert abs(absolute / expected - 1) > 0.01


@pytest.mark.parametrize("kind", CORRELATIONS)
def test_an_offset_does_not_change_the_correlation(kind):
    audio, visual = make_outputs(30, 4, 5)
    found = canonical_correlation(audio + 1e4, visual - 1e4, kind=kind)
    torch.testing.assert_close(found, canonical_correlation(audio, visual, kind=kind), rtol=1e-9, atol=0)


def test_scale_free_orthogonality_lies_between_zero_and_three_and_is_blind_to_scale_and_offset():
    outputs = make_outputs(30, 3, 4, 5, 6)
    value = orthogonality_loss(*outputs, kind="scale_free")
    scaled = orthogonality_loss(
        *(scale * tensor + 7 for scale, tensor in zip((1e-3, 10, 1e3, 0.1), outputs, strict=True))
    )
    torch.testing.assert_close(scaled, value, rtol=1e-9, atol=0)
    assert 0 < value < 3
    column = outputs[0][:, :1]
    assert orthogonality_loss(column, column, column, column).item() == pytest.approx(3)


@pytest.mark.parametrize("times", [2, 9])
def test_how_each_term_changes_when_a_batch_comes_several_times(times):
    outputs, targets = make_outputs(15, 3, 4, 5, 4), make_targets(15)
    once = terms(outputs, targets)
    several = terms([tensor.repeat(times, 1) for tensor in outputs], targets.repeat(times, 1))
    factors = dict.fromkeys(once, 1.0)
    factors |= {("discriminative", "frobenius"): times**-0.5, ("orthogonality", "paper"): float(times**2)}
    for name, value in several.items():
        assert (value / once[name]).item() == pytest.approx(factors[name], rel=1e-9), name


def test_the_order_of_rows_does_not_matter():
    outputs, targets = make_outputs(15, 3, 4, 5, 4), make_targets(15)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    shuffled = terms([tensor[order] for tensor in outputs], targets[order])
    for name, value in terms(outputs, targets).items():
        torch.testing.assert_close(shuffled[name], value, rtol=1e-9, atol=0)


# Types.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_outputs_are_computed_in_float32(dtype):
    outputs, targets = make_outputs(30, 3, 4, 5, 4, dtype=dtype), make_targets(30)
    expected = terms([tensor.float() for tensor in outputs], targets)
    for given in (targets, targets.to(dtype), targets.long()):
        for name, value in assert_all_finite(outputs, given).items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, expected[name])


def test_autocast_does_not_reach_the_terms():
    outputs, targets = make_outputs(30, 3, 4, 5, 4, dtype=torch.float32), make_targets(30)
    expected = terms(outputs, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for name, value in assert_all_finite(outputs, targets).items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, expected[name])


def test_an_unknown_kind_is_refused_with_the_choices():
    outputs, targets = make_outputs(6, 4, 4, 4, 4), make_targets(6)
    with pytest.raises(ValueError, match="Correlation kind must be 'nuclear' or 'frobenius', got 'nucular'"):
        canonical_correlation(*outputs[:2], kind="nucular")
    with pytest.raises(ValueError, match="Discriminative kind must be 'frobenius' or 'row_norm', got 'rows'"):
        discriminative_loss(*outputs[:2], targets, kind="rows")
    with pytest.raises(ValueError, match="Orthogonality kind must be 'paper', 'batch' or 'scale_free', got 'free'"):
        orthogonality_loss(*outputs, kind="free")


@pytest.mark.parametrize("kind", ["nuclear", "frobenius"])
def test_a_nan_shows_in_the_correlation(kind):
    rows = torch.randn(20, 3)
    rows[4, 1] = torch.nan
    assert canonical_correlation(rows, torch.randn(20, 3), kind=kind).isnan()


# Pairs of a class.

CLUSTERS = {
    "balanced": [0, 1, 2, 3] * 5,
    "unbalanced": [0] * 11 + [1] * 6 + [2] * 2 + [3],
    "unknown": [-1, 0, 0, 1, -1, 2, 1, 0, 3, -1] * 2,
    "a class nobody is of": [0, 0, 3, 3, 3] * 4,
}


def members_of(classes, count=4):
    return torch.tensor([[float(label == one) for one in range(count)] for label in classes], dtype=torch.float64)


def naive_cluster_cross(audio, visual, classes):
    """Every clip with every clip of its class, each of which has the same share; alone where the class is unknown."""
    audio, visual = audio - audio.mean(axis=0), visual - visual.mean(axis=0)
    cross = np.zeros((audio.shape[1], visual.shape[1]))
    for i, label in enumerate(classes):
        same = [j for j, other in enumerate(classes) if other == label] if label >= 0 else [i]
        for j in same:
            cross += np.outer(audio[i], visual[j]) / len(same)
    return cross / len(classes)


def correlation_of(audio, visual, cross, kind, ridge):
    roots = []
    for view in (audio, visual):
        roots.append(
            np.linalg.inv(scipy.linalg.sqrtm(naive_covariance(view, view) + ridge * np.eye(view.shape[1])).real)
        )
    values = np.linalg.svd(roots[0] @ cross @ roots[1], compute_uv=False)
    return sum(values) if kind == "nuclear" else sum(value**2 for value in values) ** 0.5


@pytest.mark.parametrize("kind", CORRELATIONS)
@pytest.mark.parametrize("weight", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("classes", CLUSTERS.values(), ids=CLUSTERS)
def test_the_correlation_of_classes_is_that_of_all_their_pairs(classes, weight, kind):
    audio, visual = make_outputs(20, 4, 5)
    settings = {"kind": kind, "ridge": 0.01, "relative": False}
    own = naive_covariance(audio.numpy(), visual.numpy())
    cross = (1 - weight) * own + weight * naive_cluster_cross(audio.numpy(), visual.numpy(), classes)
    expected = correlation_of(audio.numpy(), visual.numpy(), cross, kind, 0.01)
    found = canonical_correlation(audio, visual, **settings, targets=members_of(classes), cluster_weight=weight)
    assert found.item() == pytest.approx(expected, rel=1e-9)


def test_in_classes_of_one_size_every_pair_of_a_class_counts_the_same():
    audio, visual = make_outputs(20, 4, 5)
    A, V = (view.numpy() - view.numpy().mean(axis=0) for view in (audio, visual))
    classes = CLUSTERS["balanced"]
    pairs = [(i, j) for i in range(20) for j in range(20) if classes[i] == classes[j]]
    cross = sum(np.outer(A[i], V[j]) for i, j in pairs) / len(pairs)
    found = canonical_correlation(
        audio, visual, kind="nuclear", ridge=0.1, relative=False, targets=members_of(classes), cluster_weight=1.0
    )
    assert found.item() == pytest.approx(correlation_of(A, V, cross, "nuclear", 0.1), rel=1e-9)


def test_a_clip_of_several_classes_is_shared_out_among_them():
    audio, visual = make_outputs(12, 3, 4)
    sets = [{0}, {0, 1}, {1, 2}, {2}, set(), {0, 1, 2}] * 2
    Y = torch.tensor([[float(one in row) for one in range(3)] for row in sets], dtype=torch.float64)
    A, V = (view.numpy() - view.numpy().mean(axis=0) for view in (audio, visual))
    shares = [{one: 1 / len(row) for one in row} for row in sets]
    cross = sum(np.outer(A[i], V[i]) for i, row in enumerate(sets) if not row)
    for one in range(3):
        part = [(i, share[one]) for i, share in enumerate(shares) if one in share]
        sums = (sum(weight * view[i] for i, weight in part) for view in (A, V))
        cross = cross + np.outer(*sums) / sum(weight for _, weight in part)
    expected = correlation_of(A, V, cross / 12, "frobenius", 0.1)
    # As memberships come, and with rows that sum to one already.
    for targets in (Y, Y / Y.sum(dim=1, keepdim=True).clamp_min(1)):
        found = canonical_correlation(audio, visual, ridge=0.1, relative=False, targets=targets, cluster_weight=1.0)
        assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", CORRELATIONS)
def test_classes_that_say_nothing_leave_the_correlation_of_pairs(kind):
    audio, visual = make_outputs(20, 4, 5)
    expected = canonical_correlation(audio, visual, kind=kind)
    assert canonical_correlation(audio, visual, kind=kind, targets=members_of([0] * 20)) == expected
    with pytest.raises(ValueError, match="A cluster weight of 0.7 needs `targets`"):
        canonical_correlation(audio, visual, kind=kind, cluster_weight=0.7)
    for targets in (torch.zeros(20, 4), torch.eye(20)):  # nobody is of a class; everybody has one of his own
        found = canonical_correlation(audio, visual, kind=kind, targets=targets, cluster_weight=0.7)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("classes", CLUSTERS.values(), ids=CLUSTERS)
def test_no_direction_of_classes_correlates_more_than_wholly(classes):
    # Clips that equal their class but for a hair: the most that classes can correlate.
    centres = make_outputs(4, 6)[0]
    rows = torch.stack([centres[label] for label in classes]) + 1e-4 * make_outputs(20, 6, seed=3)[0]
    for weight in (0.5, 1.0):
        value = canonical_correlation(
            rows, rows, kind="nuclear", ridge=0.0, targets=members_of(classes), cluster_weight=weight
        )
        assert value.item() <= 6 + 1e-6
        if weight == 1 and min(classes) >= 0:  # the means of C classes span C - 1 directions, and these are whole
            assert value.item() == pytest.approx(len(set(classes)) - 1, abs=1e-3)


def test_which_of_its_class_a_clip_is_paired_with_does_not_matter():
    audio, visual = make_outputs(20, 4, 5)
    order = torch.arange(20).roll(4)  # the same class of a balanced batch
    settings = {"targets": members_of(CLUSTERS["balanced"]), "cluster_weight": 1.0}
    expected = canonical_correlation(audio, visual, **settings)
    torch.testing.assert_close(canonical_correlation(audio, visual[order], **settings), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", CORRELATIONS)
@pytest.mark.parametrize("classes", CLUSTERS.values(), ids=CLUSTERS)
def test_gradient_of_the_correlation_of_classes(classes, kind):
    outputs = [tensor.requires_grad_() for tensor in make_outputs(20, 3, 3)]
    settings = {"kind": kind, "ridge": 0.1, "targets": members_of(classes), "cluster_weight": 0.8}
    assert torch.autograd.gradcheck(
        lambda audio, visual: canonical_correlation(audio, visual, **settings), outputs, fast_mode=True
    )


def test_memberships_may_be_of_any_type_and_classes_empty():
    outputs = make_outputs(20, 4, 5, dtype=torch.float32)
    members = members_of(CLUSTERS["a class nobody is of"])
    expected = canonical_correlation(*outputs, targets=members.float(), cluster_weight=0.8)
    for kind in (torch.float64, torch.bfloat16, torch.int64, torch.bool):
        leaves = [tensor.clone().requires_grad_() for tensor in outputs]
        value = canonical_correlation(*leaves, targets=members.to(kind), cluster_weight=0.8)
        torch.testing.assert_close(value, expected)
        assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, leaves))


def test_bad_weights_and_memberships_of_other_clips_are_refused():
    audio, visual = make_outputs(20, 4, 5)
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"cluster weight must lie in 0\.\.1, got"):
            canonical_correlation(audio, visual, targets=members_of(CLUSTERS["balanced"]), cluster_weight=weight)
    with pytest.raises(ValueError, match=r"as many rows from each side.*\[20, 20, 19\]"):
        canonical_correlation(audio, visual, targets=torch.eye(4)[[0] * 19], cluster_weight=0.5)
