"""Vectors of units, in batches across clips and films, and their means: one vector a clip and modality."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np

from .backbones import Array, Backbone, Modality
from .units import Unit, nbytes

WAITING_BYTES = 2**28
"""Of units that wait for a batch: 64 of a network of video would take gigabytes."""

Owner = tuple[Hashable, int]
"""A film, and the number of one of its clips."""


class Batch:
    """What waits to be embedded together: so many units, or fewer where they are large."""

    def __init__(self, size: int):
        self.size, self.bytes = size, 0
        self.units: list[tuple[list[Owner], list[Any]]] = []

    def add(self, pieces: list[Any], owners: list[Owner]) -> bool:
        """One more unit, and whose it is; whether it is time to embed."""
        self.units.append((owners, pieces))
        self.bytes += nbytes(pieces)
        return len(self.units) >= self.size or self.bytes >= WAITING_BYTES

    def pop(self) -> list[tuple[list[Owner], list[Any]]]:
        """All of them, which then wait no more."""
        units, self.units, self.bytes = self.units, [], 0
        return units


def embedded(backbone: Backbone, units: list[list[Any]]) -> Array:
    """The vectors of a batch; what goes wrong is a sentence that says whose fault it is."""
    try:
        return backbone.embed(units)
    except Exception as error:
        what = f"{type(error).__name__} {error}".strip()
        raise RuntimeError(
            f"The {backbone.modality} backbone {backbone.name} failed on a batch of {len(units)} units ({what}): a "
            "smaller one takes less memory."
        ) from error


class Pooling:
    """Gathers units until a batch is full, embeds it, and adds each vector to the clips it belongs to.

    The sums are float64, in the order in which units came: the same units in the same order give the same bits.

    Args:
        backbones: by modality.
        batch_size: units embedded at a time; fewer where they are large.
        keep: keep the vectors of all units too.
    """

    def __init__(self, backbones: Mapping[Modality, Backbone], batch_size: int = 32, *, keep: bool = False):
        self.backbones, self.keep = backbones, keep
        self.waiting = {name: Batch(batch_size) for name in backbones}
        self.sums: dict[tuple[Owner, Modality], tuple[Array, int]] = {}
        self.vectors: dict[tuple[Owner, Modality], list[Array]] = {}

    def add(self, film: Hashable, unit: Unit) -> None:
        """A unit of a film."""
        if self.waiting[unit.modality].add(unit.pieces, [(film, clip) for clip in unit.clips]):
            self._embed(unit.modality)

    def flush(self) -> None:
        """Embeds what is waiting."""
        for modality in self.waiting:
            self._embed(modality)

    def _embed(self, modality: Modality) -> None:
        batch = self.waiting[modality].pop()
        if not batch:
            return
        vectors = embedded(self.backbones[modality], [pieces for _, pieces in batch])
        for (owners, _), vector in zip(batch, vectors, strict=True):
            for owner in owners:
                total, count = self.sums.get((owner, modality), (np.zeros(len(vector)), 0))
                self.sums[owner, modality] = total + vector, count + 1
                if self.keep:
                    self.vectors.setdefault((owner, modality), []).append(vector)

    def is_settled(self, film: Hashable) -> bool:
        """Whether none of a film's units waits to be embedded."""
        waiting = [owners for batch in self.waiting.values() for owners, _ in batch.units]
        return all(owner[0] != film for owners in waiting for owner in owners)

    def pop(self, owner: Owner, modality: Modality) -> Array | None:
        """The mean, which is then forgotten."""
        found = self.mean(owner, modality)
        self.sums.pop((owner, modality), None)
        return found

    def mean(self, owner: Owner, modality: Modality) -> Array | None:
        """The mean over the units of a clip, float32; None where it had none."""
        total, count = self.sums.get((owner, modality), (None, 0))
        return None if total is None else (total / count).astype(np.float32)

    def frames(self, owner: Owner, modality: Modality) -> Array:
        """Its vectors `(units, width)`, in order; see `keep`."""
        found = self.vectors.get((owner, modality), [])
        return np.stack(found) if found else np.zeros((0, self.backbones[modality].width), np.float32)
