"""What every term of a loss is asked: how clips are labelled, which of them share a class, how steep the term is."""

import torch

NAN = float("nan")
LABELS = {
    "classes": torch.arange(12) % 3,
    "several a clip": torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 1, 0], [0, 0, 1]] * 2),
    "unknown": torch.tensor([0, 1, -100, 2, 2, -1, 0, 1, 1, -100, 0, 2]),
    "rows of NaN": torch.tensor([[1.0, 0, 0], [NAN] * 3, [0, 1, 1], [NAN, 1, 0], [0, 0, 1], [0, 1, 0]] * 2),
    "of no class": torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [1, 1, 0]] * 2),
    "one class": torch.zeros(12, dtype=torch.int64),
    "one clip": torch.tensor([-100] * 7 + [2] + [-100] * 4),
    "nobody": torch.full((12,), -100),
    "absent": None,
}
"""Of twelve clips and three classes."""


def classes_of(labels, clips=12):
    """Of each clip its classes as a set, which may be empty; None where nobody annotated it."""
    if labels is None:
        return [None] * clips
    if labels.ndim == 1:
        return [{label} if label >= 0 else None for label in labels.tolist()]
    return [
        None if any(not entry >= 0 for entry in row) else {place for place, entry in enumerate(row) if entry > 0}
        for row in labels.tolist()
    ]


def related(one, other):
    """Whether two clips share a class; None where either has none."""
    return bool(one & other) if one and other else None


def rows_of(seed, clips=12, width=4):
    """What a network might make of clips, in float64 and with a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(clips, width, generator=generator, dtype=torch.float64).requires_grad_()


def outputs(labels, width=4):
    """Rows as `objective` takes them."""
    given = {} if labels is None else {"labels": labels}
    return {"audio": rows_of(1, width=width), "visual": rows_of(2, width=width)} | given


def slope_by_difference(loss, tensors, way, size=1e-6):
    """How steep `loss()` is along a direction of tensors, by central differences."""
    ends = []
    for step in (size, -2 * size, size):  # there, over to the other side, and back
        with torch.no_grad():
            for tensor, along in zip(tensors, way, strict=True):
                tensor.add_(step * along)
        ends.append(loss().item())
    return (ends[0] - ends[1]) / (2 * size)


def assert_slopes(loss, tensors, factor=1.0):
    """The gradient of float64 tensors is `factor` times the slope of `loss()`, along three directions."""
    tensors = list(tensors)
    gradients = torch.autograd.grad(loss(), tensors, allow_unused=True)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        way = [torch.randn(one.shape, generator=generator, dtype=one.dtype) for one in tensors]
        found = sum((one * along).sum().item() for one, along in zip(gradients, way, strict=True) if one is not None)
        expected = factor * slope_by_difference(loss, tensors, way)
        # Central differences in float64: the square of the step, and rounding of 1e-16 over it.
        assert abs(found - expected) <= 1e-6 * abs(expected) + 1e-8, (found, expected)
