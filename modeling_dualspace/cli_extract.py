"""The commands `dualspace extract` and `dualspace convert`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cli_parts import add_command, positive, stopped_code, together
from .console import StoppedError, quiet

if TYPE_CHECKING:
    from accelerate import PartialState


def add_extract(commands: argparse._SubParsersAction) -> None:
    """`dualspace extract`."""
    command = add_command(
        commands,
        "extract",
        help="turn a folder of films into a data set of features",
        description="Reads every film once, and writes a data set that `dualspace train` and `load_dataset` take: one "
        "vector of its sound and one of its pictures a clip. What is interrupted goes on by the same command. A clip "
        "that cannot be used is listed in skipped.csv with its reason, and the exit code is then 3. Runs on a GPU "
        "where there is one, and on several processes under `accelerate launch training/extract.py ...`, `accelerate "
        "launch -m modeling_dualspace extract ...` or torchrun; the launcher's exit code is then its own.",
        examples=(
            "dualspace extract my_videos --out my-features",
            "dualspace extract my_videos --out my-features --window 10 --hop 5",
            "dualspace extract my_videos --out my-features --audio vggish --visual inception audio.settings.post=pca",
        ),
    )
    command.add_argument(
        "source",
        metavar="FOLDER",
        help="films: <class>/*.mp4, a flat folder, or a list that ends in .csv or .jsonl with path, label, split",
    )
    command.add_argument(
        "overrides",
        metavar="KEY=VALUE",
        nargs="*",
        default=[],
        help="instead of what the recipe says, or a network's own settings: audio.settings.post=pca",
    )
    command.add_argument("--out", type=Path, required=True, help="the data set's folder, made anew")
    command.add_argument(
        "--recipe", help="a YAML file, or one of ours: extract_vegas, extract_ave; flags come after it"
    )
    backbone = "%s; a folder with a model of transformers, or its id on the Hub [%s]"
    command.add_argument("--audio", help=backbone % ("logmel; vggish or soundnet once converted", "logmel"))
    command.add_argument("--visual", help=backbone % ("thumbnail; inception or i3d once converted", "thumbnail"))
    command.add_argument("--fps", type=float, help="frames a second [as the visual backbone has it, mostly 1]")
    command.add_argument("--window", type=float, metavar="S", help="cut films into clips of so many seconds [whole]")
    command.add_argument("--hop", type=float, metavar="S", help="from one window to the next [as long as a window]")
    command.add_argument(
        "--keep-unpaired", action="store_const", const=True, help="keep clips without sound or without pictures"
    )
    command.add_argument("--license", help="of the features, as the Hub calls it [unknown]")
    command.add_argument("--max-seconds", type=float, metavar="S", help="skip films that last longer [a day]")
    command.add_argument("--max-bytes", type=positive, metavar="N", help="skip larger files [none]")
    command.add_argument("--max-pixels", type=positive, metavar="N", help="skip larger frames [a little over 8K]")
    command.add_argument("--batch-size", type=positive, help="units embedded at a time [64]")
    command.add_argument("--workers", type=positive, help="films read at once [one a core]")
    command.add_argument("--device", help="where networks run: cpu, cuda, cuda:1, mps [the best there is]")
    command.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16"],
        help="in which they compute [float32]",
    )
    command.add_argument("--overwrite", action="store_true", help="replace a data set that was made this way")
    command.set_defaults(run=_extract)


# The flags that say what a recipe does, and its keys.
_KEYS = {
    **{name: f"{name}.source" for name in ("audio", "visual")},
    **{name: name for name in ("fps", "window", "hop", "batch_size", "dtype", "keep_unpaired", "license")},
    **{name: name for name in ("max_seconds", "max_bytes", "max_pixels")},
}


def _extract(arguments: argparse.Namespace) -> int:
    return together(lambda state: _extract_there(arguments, state), alike=False)


def _extract_there(arguments: argparse.Namespace, state: "PartialState") -> int:
    from .distributed import agreed
    from .extraction import extract, render
    from .extraction_recipe import load_extraction

    given = {key: getattr(arguments, name) for name, key in _KEYS.items() if getattr(arguments, name) is not None}
    recipe = agreed(lambda: load_extraction(arguments.recipe, arguments.overrides, given))
    settings = {name: getattr(arguments, name) for name in ("workers", "device", "overwrite", "command")}
    try:
        with quiet(all_warnings=not state.is_main_process):
            found = extract(arguments.source, arguments.out, **recipe.arguments(), **settings)
    except StoppedError as stopped:
        return stopped_code(stopped, state)
    if not state.is_main_process:
        return 0
    print(json.dumps(found) if arguments.json else render(found))
    # A launcher of several processes takes any code but 0 for a crash.
    return 3 if found["skipped"] and state.num_processes == 1 else 0


def add_convert(commands: argparse._SubParsersAction) -> None:
    """`dualspace convert`."""
    command = add_command(
        commands,
        "convert",
        help="turn a published checkpoint of VGGish, SoundNet, Inception V3 or I3D into safetensors",
        description="Reads a checkpoint as it was published, in whichever layout, puts every tensor in its place, and "
        "writes a folder that `--audio`, `--visual` and `AutoModel.from_pretrained` take. Nothing in the file is run. "
        "training/README says where the files are.",
        examples=(
            "dualspace convert vggish vggish_audioset_weights.h5",
            "dualspace convert inception inception_v3.pth --out backbones/inception",
        ),
    )
    command.add_argument("network", metavar="NETWORK", help="vggish, soundnet, inception or i3d")
    command.add_argument("file", metavar="FILE", help=".pth, .pt, .safetensors, .h5, .keras, .npz, .t7: as published")
    command.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", default=[], help="its settings: post=pca, final_relu=true, ..."
    )
    command.add_argument(
        "--components", metavar="FILE", help="principal components of the same publisher, to go with it"
    )
    command.add_argument("--out", type=Path, help="the folder [where NETWORK alone finds it, in the Hub's cache]")
    command.add_argument("--overwrite", action="store_true", help="replace what was converted before")
    command.set_defaults(run=_convert)


def _convert(arguments: argparse.Namespace) -> int:
    from .conversion import convert, render
    from .recipe_files import override

    settings: dict[str, Any] = {}
    override(settings, arguments.overrides, "post=pca")
    with quiet():
        found = convert(
            arguments.network,
            arguments.file,
            arguments.out,
            components=arguments.components,
            settings=settings,
            overwrite=arguments.overwrite,
        )
    print(json.dumps(found) if arguments.json else render(found))
    return 0
