"""By what names published checkpoints keep the weights of our networks: each key has a place, or is known to have none.

A classifier is left out on purpose; whatever else in a file has no place, or is missing in it, is refused.
"""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .checkpoint_files import Tensors
from .feature_pca import WIDEST
from .keras_layout import names_of_keras, turned_from_keras
from .paper_networks import NETWORKS

Names = dict[str, str | None]
"""Our name of each key of a file; None for what is left out on purpose."""
MEANWHILE = "num_batches_tracked"
"""Counts the batches of a training; files older than PyTorch 0.4.1 have none."""
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
WHOLE = {"size": {"height": 299, "width": 299}, "do_center_crop": False}
MIDDLE = {
    "size": {"shortest_edge": 342}, "do_center_crop": True, "crop_size": {"height": 299, "width": 299},
}  # fmt: skip


def _as_is(name: str, tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Layout:
    """How one kind of checkpoint keeps a network.

    Args:
        title: who publishes it.
        names: our names of its keys.
        turned: a tensor, by our name, as our network has it.
        settings: of the network, by its tensors in the file.
        pictures: how pictures are prepared for it.
        implied: our tensors that such files leave out, by the end of their name, and their value.
    """

    title: str
    names: Callable[[Tensors], Names]
    turned: Callable[[str, Tensor], Tensor] = _as_is
    settings: Callable[[Tensors], Mapping[str, Any]] = lambda tensors: {}
    pictures: Mapping[str, Any] | None = None
    implied: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Fitted:
    """A checkpoint under our names."""

    layout: Layout
    weights: Tensors
    settings: dict[str, Any]
    left_out: list[str]


def rules(
    *pairs: tuple[str, str | Callable[[re.Match[str]], str]], left_out: str = r"(?!)"
) -> Callable[[Tensors], Names]:
    """Names by regular expressions, all of them in turn; a key that none changes is ours already."""

    def names(tensors: Tensors) -> Names:
        found: Names = {}
        for key in tensors:
            ours = key
            for pattern, replacement in pairs:
                ours = re.sub(pattern, replacement, ours)
            found[key] = None if re.match(left_out, key) else ours
        return found

    return names


def fit(network: str, tensors: Tensors, where: str) -> Fitted:
    """The checkpoint as our network wants it, by the layout that knows most of its keys.

    Args:
        network: `vggish`, `soundnet`, `inception` or `i3d`.
        tensors: by their names in the file.
        where: the file, for messages.
    """
    best = max(LAYOUTS[network], key=lambda layout: len(_known(network, layout, tensors)))
    settings = dict(best.settings(tensors))
    wanted = _shapes(network, settings)
    names = best.names(tensors)
    known = _known(network, best, tensors)
    if len(known) < len(wanted) / 2:
        titles = ", ".join(layout.title for layout in LAYOUTS[network])
        raise ValueError(
            f"{where} holds no {network} in a layout we know ({titles}): it has {len(tensors)} tensors, like "
            f"`{next(iter(tensors), '')}`."
        )
    told = f"{where}, read as {best.title}'s"
    weights = {ours: best.turned(ours, tensors[key]) for key, ours in known.items()}
    _complete(weights, wanted, best.implied)
    _check_names(names, weights, wanted, told)
    _check_shapes(weights, wanted, told)
    own = {name: _own(name, tensor) for name, tensor in weights.items()}
    _check_values(own, told)
    return Fitted(best, own, settings, sorted(key for key, ours in names.items() if ours is None))


def _own(name: str, tensor: Tensor) -> Tensor:
    """In memory of its own: what was read may be a view, or of half precision."""
    kind = torch.int64 if name.endswith(MEANWHILE) else torch.float32
    return tensor.to(kind, copy=True, memory_format=torch.contiguous_format)


def _check_names(names: Names, weights: Tensors, wanted: Mapping[str, torch.Size], told: str) -> None:
    first, placed = {ours: key for key, ours in reversed(names.items())}, {*wanted, None}
    found = {
        "holds what has no place in our network": [key for key, ours in names.items() if ours not in placed],
        "holds two tensors for one place": [key for key, ours in names.items() if ours and first[ours] != key],
        "lacks tensors of our network": list(wanted.keys() - weights.keys()),
    }
    for what, keys in found.items():
        if keys:
            raise ValueError(f"{told}, {what}: {len(keys)}, like `{min(keys)}`.")


def _check_shapes(weights: Tensors, wanted: Mapping[str, torch.Size], told: str) -> None:
    for name, shape in wanted.items():
        if weights[name].shape != shape:
            raise ValueError(f"{told}: `{name}` is {tuple(weights[name].shape)}, and our network has {tuple(shape)}.")


def _check_values(weights: Tensors, told: str) -> None:
    """Numbers throughout; and a converter of SoundNet that many use leaves its batch norms as they are made."""
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{told}: `{name}` holds what is no number: take another file.")
    means = {name: tensor for name, tensor in weights.items() if name.endswith("running_mean")}
    scales = [tensor for name, tensor in weights.items() if name.endswith("running_var")]
    if means and not any(mean.any() for mean in means.values()) and all((scale == 1).all() for scale in scales):
        raise ValueError(
            f"{told}: every batch norm has a mean of zero and a variance of one, like `{next(iter(means))}`, so nobody "
            "trained them or their statistics got lost: take another file."
        )


def _known(network: str, layout: Layout, tensors: Tensors) -> dict[str, str]:
    """The keys that a layout has a place for."""
    wanted = _shapes(network, dict(layout.settings(tensors)))
    return {key: ours for key, ours in layout.names(tensors).items() if ours in wanted}


def _shapes(network: str, settings: Mapping[str, Any]) -> dict[str, torch.Size]:
    return dict(_shapes_of(network, tuple(sorted(settings.items()))))


@functools.lru_cache(maxsize=16)
def _shapes_of(network: str, settings: tuple[tuple[str, Any], ...]) -> dict[str, torch.Size]:
    kind = NETWORKS[network]
    with torch.device("meta"):
        model = kind.model(kind.config(**dict(settings)))
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _complete(weights: Tensors, wanted: Mapping[str, torch.Size], implied: Mapping[str, float]) -> None:
    for name in wanted.keys() - weights.keys():
        if name.endswith(MEANWHILE):
            weights[name] = torch.tensor(0)
        elif value := next((value for end, value in implied.items() if name.endswith(end)), None):
            weights[name] = torch.full(wanted[name], value)


def _components_inside(tensors: Tensors) -> dict[str, Any]:
    """The whole model of torchvggish keeps AudioSet's components too."""
    rows = next((tensors[key] for key in tensors if re.fullmatch(r"pproc\.pca_(eigen_vectors|matrix)", key)), None)
    if rows is None or rows.ndim != 2 or not 0 < len(rows) <= WIDEST:
        return {}
    return {"pca": len(rows), "post": "dequantised"}


_CLASSIFIERS = r"(AuxLogits|fc|logits|output)\."


def _of_2015(tensors: Tensors) -> Names:
    """The network of 2015 has torchvision's names, and tells 1,008 classes apart."""
    classes = tensors.get("fc.weight", torch.empty(0)).shape[:1]
    return rules(left_out=_CLASSIFIERS)(tensors) if classes == (1008,) else {}


def _turned_to_one_dimension(name: str, tensor: Tensor) -> Tensor:
    """Ports of SoundNet lay its samples out as a picture one pixel wide."""
    return tensor.squeeze(-1) if tensor.ndim == 4 else tensor


def _flat(name: str, tensor: Tensor) -> Tensor:
    return tensor.flatten() if name == "pca.mean" else tensor


_TORCH7 = {
    "1": "conv1.conv", "2": "conv1.bn", "5": "conv2.conv", "6": "conv2.bn", "9": "conv3.conv", "10": "conv3.bn",
    "12": "conv4.conv", "13": "conv4.bn", "15": "conv5.conv", "16": "conv5.bn", "19": "conv6.conv", "20": "conv6.bn",
    "22": "conv7.conv", "23": "conv7.bn", "25.1": "objects", "25.2": "scenes",
}  # fmt: skip
"""By its place in the authors' `nn.Sequential`, which counts ReLUs and pools too; the last is two layers abreast."""


def _of_torch7(found: re.Match[str]) -> str:
    return f"{_TORCH7.get(found[1], found[1])}."


_HASSON = {"branch_0": "b0", "branch_1.0": "b1a", "branch_1.1": "b1b", "branch_2.0": "b2a", "branch_2.1": "b2b",
           "branch_3.1": "b3b"}  # fmt: skip
_COMPONENTS = ((r"^pproc\.pca_(eigen_vectors|matrix)$", "pca.weight"), (r"^pproc\.pca_means$", "pca.mean"))
LAYOUTS: dict[str, list[Layout]] = {
    "vggish": [
        Layout("torchvggish", rules(*_COMPONENTS), _flat, _components_inside),
        Layout("torchaudio", rules((r"^(features|embedding)_network\.", r"\1."), (r"^embedding\.", "embeddings."))),
        Layout("audioset-vggish-tensorflow-to-pytorch", rules((r"^fc\.", "embeddings."))),
    ],
    "inception": [
        Layout(
            "pytorch-fid (the network of 2015)", _of_2015,
            settings=lambda tensors: {"pool_counts_padding": False, "last_pool": "max"},
            pictures=WHOLE | {"image_mean": [128 / 255] * 3, "image_std": [128 / 255] * 3, "resample": 2},
        ),
        Layout("torchvision and timm", rules(left_out=_CLASSIFIERS), pictures=MIDDLE | HALF),
        Layout(
            "Keras", names_of_keras, turned_from_keras, settings=lambda tensors: {"pool_counts_padding": False},
            pictures=WHOLE | HALF, implied={"bn.weight": 1.0},
        ),
    ],
    "soundnet": [
        Layout(
            "SoundNet_Pytorch (smallflyingpig)",
            rules(
                (r"^(conv[1-7])\.0\.", r"\1.conv."), (r"^(conv[1-7])\.1\.", r"\1.bn."), (r"^conv8\.0\.", "objects."),
                (r"^conv8_2\.0\.", "scenes."),
            ),
            _turned_to_one_dimension,
        ),
        Layout(
            "pytorch-soundnet (keunhong, EsamGhaleb, salmedina)",
            rules(
                (r"^(conv[1-7])\.", r"\1.conv."), (r"^batchnorm([1-7])\.", r"conv\1.bn."),
                (r"^conv8_objs\.", "objects."), (r"^conv8_scns\.", "scenes."),
            ),
            _turned_to_one_dimension,
        ),
        Layout("SoundNet (Torch7)", rules((r"^(\d+(?:\.\d)?)\.", _of_torch7)), _turned_to_one_dimension),
    ],
    "i3d": [
        Layout("pytorch-i3d (piergiaj)", rules((r"\.conv3d\.", ".conv."), left_out=_CLASSIFIERS)),
        Layout(
            "kinetics_i3d_pytorch (hassony2)",
            rules(
                (r"^([cm])", lambda found: found[1].upper()), (r"\.conv3d\.", ".conv."), (r"\.batch3d\.", ".bn."),
                (r"branch_\d(\.\d)?", lambda found: _HASSON.get(found[0], found[0])), left_out=r"conv3d_0c_1x1\.",
            ),
        ),
    ],
}  # fmt: skip
