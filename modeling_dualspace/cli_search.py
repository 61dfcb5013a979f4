"""The commands `dualspace index` and `dualspace search`."""

import argparse
import json
import sys

from .cli_parts import add_command, positive, table
from .console import quiet

INDEX = "an index's folder, its id on the Hub, or in Milvus: http://host:19530#name, films.db#name"


def add_index(commands: argparse._SubParsersAction) -> None:
    """`dualspace index`."""
    command = add_command(
        commands,
        "index",
        help="make films or a data set searchable: embed every clip with a model, and keep what comes out",
        description="Makes an index, or adds what it lacks: what is interrupted goes on by the same command, and clips "
        "that are there already are left alone. Films are extracted first, with the backbones the model was trained "
        "on, into a data set beside the index; clips that cannot be used are then listed in its skipped.csv (exit code "
        "3). Without MODEL and DATA it says what the index holds.",
        examples=(
            "dualspace index runs/clips clips-features-synthetic --out films-index",
            "dualspace index me/dualspace-vegas my_videos --out my-index --window 10 --hop 5",
            "dualspace index runs/clips clips-features-synthetic --out http://localhost:19530#films",
            "dualspace index --out films-index",
            "dualspace index --out films-index --delete dog/rex.mp4",
        ),
    )
    command.add_argument("model", metavar="MODEL", nargs="?", help="a folder, a run, or an id of the Hub")
    command.add_argument(
        "data", metavar="DATA", nargs="?",
        help="a data set's folder or its id on the Hub; or films: a folder, or a list that ends in .csv or .jsonl",
    )  # fmt: skip
    command.add_argument("--out", metavar="INDEX", required=True, help=f"{INDEX}; made where there is none")
    command.add_argument("--config", help="of the data set [its default]")
    command.add_argument("--split", metavar="NAME", action="append", default=[], help="of the data set [all]")
    command.add_argument("--films", metavar="FOLDER", help="that the clips' paths start from, to play them later")
    command.add_argument("--window", type=float, metavar="S", help="cut films into clips of so many seconds [whole]")
    command.add_argument("--hop", type=float, metavar="S", help="from one window to the next [as long as a window]")
    command.add_argument("--prune", action="store_true", help="take away clips that DATA has no more")
    command.add_argument("--delete", metavar="CLIP", nargs="+", default=[], help="take these clips away")
    command.add_argument("--trust-remote-code", action="store_true", help="run the code that comes with the model")
    command.set_defaults(run=_index)


def _index(arguments: argparse.Namespace) -> int:
    from .index import open_index
    from .indexing import index_clips, render

    if (arguments.model is None) != (arguments.data is None):
        raise ValueError(f"MODEL comes first, then DATA, and {arguments.model} is only one of them.")
    if arguments.model is None:
        adding = ("config", "split", "films", "window", "hop", "prune", "trust_remote_code")
        given = next((name for name in adding if getattr(arguments, name)), None)
        if given:
            raise ValueError(f"--{given.replace('_', '-')} says how clips are added: give MODEL and DATA too.")
        with open_index(arguments.out) as index:
            missing = [name for name, hit in zip(arguments.delete, index.get(arguments.delete), strict=True) if not hit]
            removed = index.delete(arguments.delete)
            found = index.describe() | ({"removed": removed, "missing": missing} if arguments.delete else {})
    else:
        if arguments.delete:
            raise ValueError("--delete takes clips away, and MODEL and DATA add some: do one after the other.")
        settings = ("config", "films", "window", "hop", "prune", "trust_remote_code", "command")
        with quiet():
            found = index_clips(
                arguments.model, arguments.data, arguments.out, splits=arguments.split,
                **{name: getattr(arguments, name) for name in settings},
            )  # fmt: skip
    skipped = (found.get("extracted") or {}).get("skipped", 0)
    print(json.dumps(found) if arguments.json else render(found))
    if skipped:
        print(f"Skipped {skipped:,} clips, listed in {found['extracted']['table']}", file=sys.stderr)
    return 3 if skipped else 0


def add_search(commands: argparse._SubParsersAction) -> None:
    """`dualspace search`."""
    command = add_command(
        commands,
        "search",
        help="find clips of an index by a sound, a film's pictures, or a picture",
        description="Embeds what is searched with by the index's own model, and prints the nearest clips, the best "
        "first: a table on a terminal, and into a pipe one line a clip: score, film, start, end, labels, clip_id, "
        "parted by tabs. The score is the cosine of the two embeddings, at most 1. Several --label are alternatives, "
        "several --where must all be met; what can be asked about is the split and the data set's further columns.",
        examples=(
            "dualspace search films-index --audio bark.wav",
            "dualspace search films-index --video drummer.mp4 -k 5 --label drum --label bell",
            "dualspace search films-index --audio dog.mp4 --where split=test --per-film --json",
        ),
    )
    command.add_argument("index", metavar="INDEX", help=INDEX)
    asked = command.add_mutually_exclusive_group(required=True)
    asked.add_argument("--audio", metavar="FILE", help="a sound, or a film of which it is taken: finds pictures")
    asked.add_argument("--video", metavar="FILE", help="a film, of which the pictures are taken: finds sounds")
    asked.add_argument("--image", metavar="FILE", help="a picture: finds sounds")
    command.add_argument("-k", type=positive, default=10, help="how many clips, to 16,384 [%(default)s]")
    command.add_argument("--label", metavar="NAME", action="append", default=[], help="only of this class, or of these")
    command.add_argument(
        "--where", metavar="FILTER", action="append", default=[], help="only of this metadata: split=test, 'year>=2010'"
    )
    command.add_argument("--among", choices=["audio", "visual"], help="what is searched [the other modality]")
    command.add_argument(
        "--approximate", action="store_true", help="of very many clips look at a part, and miss a few [exact]"
    )
    command.add_argument("--per-film", action="store_true", help="only the best clip of each film")
    command.add_argument("--model", help="where the index's model is now [where it was]")
    command.add_argument("--trust-remote-code", action="store_true", help="run the code that comes with the model")
    command.set_defaults(run=_search)


def _search(arguments: argparse.Namespace) -> int:
    from .index import open_index

    opening = {name: getattr(arguments, name) for name in ("model", "approximate", "trust_remote_code")}
    query = {name: getattr(arguments, name) for name in ("audio", "video", "image", "among", "k", "where")}
    with quiet(), open_index(arguments.index, **opening) as index:
        hits = index.search(labels=arguments.label, per_film=arguments.per_film, **query)
        wrong = None if hits else index.why_nothing(arguments.label, arguments.where)
        about = index.store.describe().get("approximate") if arguments.approximate else None
    if about:
        shares = ", ".join(f"{one['recall@10']:.1%} among {name}" for name, one in about.items())
        print(f"By inverted lists, which find {shares} of the exact first ten.", file=sys.stderr)
    if wrong:
        raise ValueError(wrong)
    if not hits:
        print(
            "No clip passes this filter." if arguments.label or arguments.where else "No clip is there.",
            file=sys.stderr,
        )
    if arguments.json:
        print(json.dumps([hit.to_dict() for hit in hits]))
        return 0
    rows = [
        (f"{hit.score:.4f}", hit.path or "", _seconds(hit.start), _seconds(hit.end), ", ".join(hit.labels), hit.clip_id)
        for hit in hits
    ]
    if rows:
        print(table(("score", "film", "start", "end", "labels", "clip"), rows, right=(0, 2, 3)))
    return 0


def _seconds(number: float | None) -> str:
    return "" if number is None else f"{number:.1f}"
