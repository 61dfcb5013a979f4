"""Which training clips are near each other, in either modality."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .distributed import agreed, gather_named_rows
from .modeling_crossmodal import Batch
from .moments import chunks
from .triplets import squared_distances


@dataclass
class NeighbourGraph:
    """A clip, the clips nearest to it in sound, and those nearest in sight.

    Args:
        index: rows of the split `(n,)`, ascending.
        features: `audio_features` and `visual_features` of those rows, in memory wherever the rest is.
        near: places among them `(n, 1 + 2k)`: a clip itself, k by sound, k by sight.
    """

    index: Tensor
    features: Batch
    near: Tensor

    @classmethod
    def of(cls, data: Iterable[Batch], neighbours: int, scaled: Callable[[str, Tensor], Tensor]) -> "NeighbourGraph":
        """Of a data pass, of all processes: each looks for the neighbours of its own clips among all.

        Args:
            data: batches with `index`.
            neighbours: k; fewer where there are not as many other clips.
            scaled: what is near is judged by, of a column's name and its rows.
        """
        mine = agreed(lambda: _rows_of(data))
        everything = gather_named_rows(mine)
        order = everything["index"].argsort()
        everything = {name: rows[order] for name, rows in everything.items()}
        index = everything.pop("index")
        places = torch.searchsorted(index, mine["index"])
        k = min(neighbours, len(index) - 1)
        found = [nearest(scaled(name, mine[name]), scaled(name, rows), places, k) for name, rows in everything.items()]
        near = gather_named_rows({"near": torch.cat([places.unsqueeze(1), *found], dim=1)})["near"][order]
        return cls(index, {name: rows.cpu() for name, rows in everything.items()}, near)

    def to(self, device: torch.device) -> None:
        """Brings places to where batches are."""
        self.index, self.near = self.index.to(device), self.near.to(device)

    def places(self, index: Tensor) -> Tensor:
        """Where rows of the split are `(n,)`; raises where one is not among them."""
        places = torch.searchsorted(self.index, index).clamp_max(len(self.index) - 1)
        looks = index.device.type == "cpu" and not torch.compiler.is_compiling()  # elsewhere a look would wait
        if looks and not torch.equal(self.index[places], index.long()):
            row = int(index[self.index[places] != index][0])
            raise ValueError(
                f"Row {row} was not among the clips the graph was made of: call `model.prepare` with the batches that "
                "are learnt from."
            )
        return places

    def drawn(self, places: Tensor) -> Batch:
        """Features of one of each clip's own neighbours; what is near in both is drawn twice as often."""
        columns = torch.randint(self.near.shape[1], (len(places), 1), device=places.device)
        chosen = self.near[places].gather(1, columns).squeeze(1)
        return {name: rows[chosen.cpu()].to(places.device) for name, rows in self.features.items()}

    def are_neighbours(self, places: Tensor) -> Tensor:
        """Whether the second is a neighbour of the first, for all pairs of clips `(n, n)`."""
        return (self.near[places].unsqueeze(2) == places).any(dim=1)


def _rows_of(data: Iterable[Batch]) -> Batch:
    batches = list(data)
    if not batches:
        raise ValueError("A graph of neighbours needs clips, and no batch came: look at the split, and pass a list.")
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def nearest(queries: Tensor, gallery: Tensor, own: Tensor, k: int) -> Tensor:
    """Places `(q, k)` of the rows nearest to each query, but for its own place.

    Args:
        queries: `(q, d)`.
        gallery: `(n, d)`.
        own: place of each query in the gallery `(q,)`.
        k: how many.
    """
    found = [torch.empty(0, k, dtype=torch.int64, device=queries.device)]
    for chunk in chunks(len(queries), len(gallery)):
        distances = squared_distances(queries[chunk], gallery)
        distances.scatter_(1, own[chunk].unsqueeze(1), torch.inf)
        found.append(distances.topk(k, largest=False).indices)
    return torch.cat(found)
