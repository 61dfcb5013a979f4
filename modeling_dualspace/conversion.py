"""A published checkpoint into a folder that `from_pretrained`, `--audio` and `--visual` take: safetensors and JSON."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .backbones import Backbone
from .checkpoint_files import Tensors, read_checkpoint
from .checkpoint_layouts import Fitted, fit
from .feature_pca import ROUGHLY_NONE
from .files import CARD, atomic_folder, check_folder, one_line
from .known_backbones import load_backbone
from .paper_networks import NETWORKS, converted, with_settings
from .transformers_processors import pictures_of_timm

PICTURES = {
    "image_processor_type": "CLIPImageProcessor", "do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "do_convert_rgb": True,
}  # fmt: skip
"""What prepares pictures, by the name under which every version of transformers has it; nothing in it is CLIP's own."""
VIDEO = {
    "size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "resample": 2,
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "fps": 25,
}  # fmt: skip


def convert(
    network: str,
    file: str | Path,
    out: str | Path | None = None,
    *,
    components: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Converts a published checkpoint, and says what was found in it.

    Args:
        network: `vggish`, `soundnet`, `inception` or `i3d`.
        file: what was downloaded; see `read_checkpoint`.
        out: the folder; None is where the network's name alone finds it.
        components: principal components to go with it: AudioSet's `vggish_pca_params.npz`, torchvggish's .pth, or the
            folder of YouTube-8M's `mean.npy`, `eigenvals.npy` and `eigenvecs.npy`.
        settings: of the network and of what prepares its input, in place of those that belong to the checkpoint.
        overwrite: replace a folder that was made this way.

    Example:
        ```python
        convert("vggish", "vggish-10086976.pth", components="vggish_pca_params.npz")
        ```
    """
    if network not in NETWORKS:
        raise ValueError(f"There is no network {network!r} to convert: expected one of {', '.join(NETWORKS)}.")
    file, folder = Path(file), Path(out) if out is not None else converted(network)
    check_folder(folder.resolve(), overwrite)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds something else than a network, which one does not replace: choose another --out."
        )
    fitted = fit(network, read_checkpoint(file), str(file))
    if components is not None:
        fitted.weights.update(read_components(components))
        fitted.settings.update(pca=fitted.weights["pca.weight"].shape[0], post="dequantised")
    pictures = pictures_of_timm(file.with_name("config.json")) or fitted.layout.pictures
    with atomic_folder(folder, overwrite=overwrite) as temporary:
        write_network(network, fitted.weights, fitted.settings, pictures, settings or {}, temporary)
        (temporary / CARD).write_text(_card(network, file, components, fitted), encoding="utf-8")
        backbone = _tried(network, temporary, folder)
    return {
        "notes": _notes(network, fitted, components, settings or {}),
        "network": network, "layout": fitted.layout.title, "tensors": len(fitted.weights),
        "left_out": fitted.left_out, "out": str(folder), "spec": backbone.spec, "width": backbone.width,
        "named": out is None,
    }  # fmt: skip


def _notes(network: str, fitted: Fitted, components: str | Path | None, settings: Mapping[str, Any]) -> list[str]:
    """What a person should know who means something else."""
    notes = []
    if network == "inception" and not fitted.left_out and "last_pool" not in {**fitted.settings, **settings}:
        notes.append(
            "The file has no classifier, by which the network of 2015 is told: if this is that one, set last_pool=max "
            "pool_counts_padding=false."
        )
    if network == "inception" and components is not None and fitted.settings.get("last_pool") != "max":
        notes.append(f"YouTube-8M's components are those of the network of 2015, and this is {fitted.layout.title}'s.")
    if network == "vggish" and components is not None and (settings.get("final_relu") or "front_end" in settings):
        notes.append("AudioSet's components were fitted before the last ReLU, and to the network's own front end.")
    return notes


def _tried(network: str, temporary: Path, folder: Path) -> Backbone:
    """As it will be used; before it is in its place, so that a folder which cannot be used never is."""
    try:
        return load_backbone(NETWORKS[network].modality, str(temporary), device="cpu")
    except ValueError as error:
        raise ValueError(str(error).replace(str(temporary), str(folder))) from None


def write_network(
    network: str,
    weights: Mapping[str, Tensor],
    own: Mapping[str, Any],
    pictures: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    folder: Path,
) -> None:
    """Writes the configuration, the weights and what prepares the input, as `save_pretrained` does.

    Args:
        network: its name.
        weights: by our names.
        own: settings that belong to these weights.
        pictures: how pictures are prepared for them.
        settings: what somebody wants otherwise.
        folder: to write into.
    """
    kind = NETWORKS[network]
    config = kind.config(**own)
    preparing = _Pictures(PICTURES | dict(pictures or VIDEO)) if kind.extractor is None else kind.extractor()
    config, preparing = with_settings(config, preparing, settings)
    with torch.device("meta"):
        model = kind.model(config)
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    _check_sizes(network, weights, wanted)
    model.load_state_dict({name: weights[name] for name in wanted}, assign=True)
    model.save_pretrained(folder)
    preparing.save_pretrained(folder)


def _check_sizes(network: str, weights: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> None:
    for name, shape in wanted.items():
        came = tuple(weights[name].shape) if name in weights else None
        if came == shape:
            continue
        if name == "pca.mean" and came:
            raise ValueError(
                f"The principal components are of vectors of {came[0]} numbers, and the {network} of these settings "
                f"gives {shape[0]}: take components that were fitted to its own."
            )
        raise ValueError(
            f"The {network} of these settings has `{name}` {tuple(shape)}, and the weights have {came}: settings that "
            "change its size cannot be set here."
        )


class _Pictures(dict):
    """What prepares pictures, as its file has it: an image processor might want torchvision to be written."""

    def to_dict(self) -> dict[str, Any]:
        return dict(self)

    def save_pretrained(self, folder: Path) -> None:
        # Whoever changes settings leaves out which class they are of.
        content = {"image_processor_type": PICTURES["image_processor_type"], **self}
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")


def read_components(path: str | Path) -> Tensors:
    """Principal components as `FeaturePca` keeps them, from a file or a folder of those that are published."""
    path = Path(path)
    weight, mean = _of_youtube(path) if path.is_dir() else _of_audioset(path)
    mean = mean.reshape(-1)
    if weight.ndim != 2 or not len(weight) or weight.shape[1] != len(mean):
        raise ValueError(
            f"{path}: expected rows of components as long as the mean, got {weight.shape} and {mean.shape}."
        )
    if not (np.isfinite(weight).all() and np.isfinite(mean).all()):
        raise ValueError(f"{path}: components or their mean hold what is no number: download it again.")
    return {"pca.weight": torch.from_numpy(weight).float(), "pca.mean": torch.from_numpy(mean).float()}


def _of_audioset(path: Path) -> tuple[Any, Any]:
    """By name: AudioSet's own, torchvggish's, or ours."""
    tensors = read_checkpoint(path)
    names = {"pca_eigen_vectors": "weight", "pca_means": "mean", "pca.weight": "weight", "pca.mean": "mean"}
    found = {names[key]: tensor.double().numpy() for key, tensor in tensors.items() if key in names}
    if len(found) != 2:
        raise ValueError(f"{path}: expected `pca_eigen_vectors` and `pca_means`, got {', '.join(list(tensors)[:5])}.")
    return found["weight"], found["mean"]


def _of_youtube(folder: Path) -> tuple[Any, Any]:
    """Columns of eigenvalues, rows of eigenvectors, of which YouTube-8M takes 1,024 and whitens them."""
    vectors, values, mean = (_array(folder / f"{name}.npy") for name in ("eigenvecs", "eigenvals", "mean"))
    kept, values = min(1024, len(vectors)), values.reshape(-1)
    if vectors.ndim != 2 or len(values) < kept or not (values[:kept] > -ROUGHLY_NONE).all():
        raise ValueError(
            f"{folder}: expected an eigenvalue of zero or more for each of the first {kept} rows of eigenvecs.npy, got "
            f"{vectors.shape} and {values.shape}."
        )
    return vectors[:kept] / np.sqrt(values[:kept] + ROUGHLY_NONE)[:, None], mean


def _array(path: Path) -> Any:
    try:
        array = np.load(path, allow_pickle=False)
        if array.dtype.kind not in "fiu" or not array.ndim:
            raise ValueError(f"it is an array {array.shape} of {array.dtype}")
        return array.astype(np.float64)
    except Exception as error:  # missing, damaged, or what NumPy would have to unpickle
        raise ValueError(f"{path} cannot be read as an array of NumPy: {error}.") from None


def _card(network: str, file: Path, components: str | Path | None, fitted: Fitted) -> str:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    told = [
        f"Converted by DualSpace from `{_name(file)}` (SHA-256 {digest}), in the layout of {fitted.layout.title}.",
        "The licence is that of the checkpoint; say it here before you pass this on.",
    ]
    if components is not None:
        told.append(f"Principal components: `{_name(components)}`.")
    if fitted.left_out:
        told.append(f"Left out: {len(fitted.left_out)} tensors of classifiers, like `{fitted.left_out[0]}`.")
    return network_card(network, told)


def network_card(network: str, told: Sequence[str]) -> str:
    """The README of a network's folder."""
    head = ["---", "library_name: transformers", f"tags: [dualspace, {network}, feature-extraction]", "---"]
    return "\n".join([*head, f"# {network}", "", *told, ""])


def _name(path: str | Path) -> str:
    """The last part alone, for a folder is to be passed on; a link by its own name, which says more than a cache's."""
    return one_line(Path(path).absolute().name)


def render(found: Mapping[str, Any]) -> str:
    """What was converted, in words, and how to use it."""
    modality = NETWORKS[found["network"]].modality
    name = found["network"] if found["named"] else found["out"]
    name = f"./{name}" if name == found["out"] and name in NETWORKS else name  # or the name would be meant
    left_out = f", {len(found['left_out'])} of its classifier left out" if found["left_out"] else ""
    return "".join(f"Note: {note}\n" for note in found["notes"]) + (
        f"{found['out']}: {found['spec']}, {found['width']} numbers a unit, from the layout of {found['layout']} "
        f"({found['tensors']} tensors{left_out})\nNext: dualspace extract FOLDER --out DATASET --{modality} {name}"
    )
