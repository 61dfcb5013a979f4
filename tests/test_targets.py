"""Labels as targets: classes, memberships, and what nobody annotated."""

import pytest
import torch

from modeling_dualspace.targets import UNKNOWN, check_labels, label_targets

NAN, INFINITY = float("nan"), float("inf")


def test_classes_become_memberships():
    targets, known = label_targets(torch.tensor([2, 0, 1, 2]), 3)
    assert targets.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert targets.dtype == torch.float32 and known.dtype == torch.bool and known.all()


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_every_negative_class_is_unknown(dtype):
    targets, known = label_targets(torch.tensor([UNKNOWN, 1, -1, -7], dtype=dtype), 2)
    assert UNKNOWN == -100
    assert targets.tolist() == [[0, 0], [0, 1], [0, 0], [0, 0]]
    assert known.tolist() == [False, True, False, False]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float32, torch.float64])
def test_memberships_stay_as_they_are(dtype):
    rows = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    targets, known = label_targets(torch.tensor(rows, dtype=dtype), 3)
    assert targets.dtype == torch.float32 and targets.tolist() == rows
    assert known.all()  # a row of zeros is known to belong nowhere


def test_a_row_with_a_nan_is_unknown_as_a_whole():
    targets, known = label_targets(torch.tensor([[1.0, NAN], [NAN, NAN], [0.0, 1.0]]), 2)
    assert targets.tolist() == [[0, 0], [0, 0], [0, 1]]
    assert known.tolist() == [False, False, True]


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_no_clips_have_no_targets(shape):
    targets, known = label_targets(torch.zeros(shape, dtype=torch.int64), 3)
    assert targets.shape == (0, 3) and known.shape == (0,)
    check_labels(torch.zeros(shape, dtype=torch.int64), 3, 0)


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([0, 2, -1, UNKNOWN]),
        torch.tensor([0, 2, 1, 2], dtype=torch.uint8),
        torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [NAN, NAN, NAN], [NAN, 1.0, 0.0]]),
        torch.eye(4, 3, dtype=torch.int64),
        torch.ones(4, 3, dtype=torch.bool),
    ],
)
def test_good_labels_pass(labels):
    check_labels(labels, 3, 4)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1], "Labels and clips must pair up: 2 labels came for 3 clips"),
        ([[1.0, 0.0, 0.0]] * 4, "Labels and clips must pair up: 4 labels came for 3 clips"),
        ([0.0, 1.0, 2.0], r"Labels of shape \(n,\) must be integers \(classes\), got torch.float32"),
        ([0, -1, 3], "Bad label in row 12: classes must lie in 0..2, negative where unknown, got 3. Set `num_labels`"),
        (
            [[1, 0, 0], [0, 0.5, 0], [2, 0, 0]],
            r"row 11: memberships must be 0 or 1, negative or NaN where unknown, got \[0.0, 0.5,",
        ),
        ([[0, 0, INFINITY], [0, 0, 0], [0, 0, 0]], "Bad label in row 10: memberships must be 0 or 1"),
        ([[0, 0, 1], [0, 0, 0], [0, 0, 2]], "Bad label in row 12: memberships must be 0 or 1"),
        ([[0.0] * 4] * 3, r"memberships of shape \(n, 3\), got \(3, 4\). Set `num_labels`"),
        ([[0]] * 3, r"memberships of shape \(n, 3\), got \(3, 1\). Set `num_labels`"),
        ([[[0.0]] * 3] * 3, r"memberships of shape \(n, 3\), got \(3, 3, 1\). Set `num_labels`"),
    ],
)
def test_bad_labels_are_refused_with_their_row_and_what_to_do(labels, message):
    with pytest.raises(ValueError, match=message):
        check_labels(torch.tensor(labels), 3, 3, numbers=10)
