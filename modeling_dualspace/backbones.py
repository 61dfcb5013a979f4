"""What turns sound and pictures into vectors: the interface of a backbone, and its name in a `feature_spec`."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np

Modality = Literal["audio", "visual"]
Array = np.ndarray


@dataclass(frozen=True)
class Steps:
    """How a track is cut into the stretches that become one vector each: the *units*.

    Args:
        rate: samples a second, or frames a second.
        length: samples, or frames, of a unit.
        hop: from the start of one unit to the start of the next.
        least: the share of a unit that must be left at the end of a clip to make one more. A clip shorter than one
            unit always makes one.

    Example:
        ```python
        >>> Steps(rate=10, length=10, hop=10).starts(26)
        [0, 10, 20]
        >>> Steps(rate=10, length=10, hop=5).starts(24)
        [0, 5, 10, 15]

        ```
    """

    rate: float
    length: int
    hop: int
    least: float = 0.5

    def __post_init__(self):
        if not (0 < self.rate < math.inf and self.length > 0 and self.hop > 0 and 0 < self.least <= 1):
            raise ValueError(f"A rate, a length and a hop are positive, and `least` lies in 0..1: got {self}.")
        if self.rate == int(self.rate):  # 1 and 1.0 are one rate, in a hash too
            object.__setattr__(self, "rate", int(self.rate))

    def starts(self, count: int) -> list[int]:
        """Where units start in a clip of `count` samples or frames; none where there is nothing."""
        if count <= 0:
            return []
        starts = list(range(0, max(count - self.length, 0) + 1, self.hop))
        while count - (starts[-1] + self.hop) >= self.least * self.length:
            starts.append(starts[-1] + self.hop)
        return starts


class Backbone:
    """What turns one modality of a clip into vectors.

    A unit of sound is one stretch of samples, `(n,)` float32 within -1 and 1 at `steps.rate`, and `n` is less than
    `steps.length` only at the end of a clip. A unit of picture is `steps.length` frames, `(height, width, 3)` uint8 of
    any size; at the end of a clip the last frame is repeated. `prepare` is given one stretch or one frame, and may be
    called in several threads at once; `embed` gets units, each the list of what `prepare` made of its pieces, and is
    called by one. A unit's vector depends on that unit alone. A clip's vector is the mean over those of its units.

    Subclasses set what stands here, and in `constants` whatever else decides the numbers that come out.
    """

    modality: ClassVar[Modality]
    name: str
    """In a `feature_spec`, before the @."""
    source: str
    """What `load_backbone` takes: the name of one that comes with DualSpace, a folder, or an id of the Hub."""
    revision: str | None = None
    """The commit on the Hub."""
    width: int
    steps: Steps
    weights: str = ""
    """A hash of the weights; empty where there are none."""

    @property
    def constants(self) -> dict[str, Any]:
        """What decides the vectors beside steps and weights, as JSON has it."""
        return {}

    def prepare(self, piece: Array) -> Any:
        """What can be done to a stretch or a frame by itself, beside the network."""
        raise NotImplementedError

    def embed(self, units: Sequence[Sequence[Any]]) -> Array:
        """The vectors `(len(units), width)`, float32."""
        raise NotImplementedError

    @property
    def spec(self) -> str:
        """`name@<8 hex of constants and weights>`: equal for backbones that give equal vectors."""
        return f"{self.name}@{digest(self._constants(), self.weights)}"

    def record(self) -> dict[str, Any]:
        """What a processor writes down, and is loaded by again."""
        return {
            "spec": self.spec,
            "source": self.source,
            "revision": self.revision,
            "width": self.width,
            "weights": self.weights,
            "constants": self._constants(),
        }

    def _constants(self) -> dict[str, Any]:
        return {"steps": asdict(self.steps), **self.constants}


def digest(constants: Mapping[str, Any], weights: str) -> str:
    """Eight hex digits of what decides the vectors."""
    text = json.dumps({"constants": constants, "weights": weights}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
