"""The command `dualspace app`."""

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .cli_parts import add_command, positive
from .cli_search import INDEX
from .console import quiet

SERVED: dict[str, Any] = {
    "host": "127.0.0.1", "port": 7860, "max_megabytes": 200, "max_seconds": 600, "open": False,
}  # fmt: skip
WRITTEN: dict[str, Any] = {"clips": 100, "overwrite": False}
"""What is said of a page that is served, and of one that is written, and what holds where it is not."""


def add_app(commands: argparse._SubParsersAction) -> None:
    """`dualspace app`."""
    command = add_command(
        commands,
        "app",
        help="search in a browser: drop a film or a sound, and play what is found",
        description="Starts a page on this machine, or, with --out, writes it as a folder that can be pushed as a "
        "Space. Several indexes may be of several models. Without INDEX it shows the clips of `dualspace demo`, which "
        "are made first if they are not there. Only films that an index names are served, out of the folder given by "
        "--films (that of `dualspace index`, if it is still there).",
        examples=(
            "dualspace app films-index --films my_videos",
            "dualspace app films-index other-index --port 8000",
            "dualspace app films-index --out films-page",
            "dualspace app",
        ),
    )
    command.add_argument("indexes", metavar="INDEX", nargs="*", help=f"{INDEX}, one or several")
    command.add_argument("--films", metavar="FOLDER", help="that the clips' paths start from")
    command.add_argument("--model", help="where the model of a single index is now [where it was]")
    command.add_argument("--title", default="", help="of the page")
    command.add_argument("--trust-remote-code", action="store_true", help="run the code that comes with a model")
    served = command.add_argument_group("a page that is served")
    served.add_argument("--host", help="0.0.0.0 lets other machines in [%(default)s]")
    served.add_argument("--port", type=positive, help="the next free one, if it is taken [%(default)s]")
    served.add_argument("--max-megabytes", type=positive, metavar="N", help="of an upload [%(default)s]")
    served.add_argument("--max-seconds", type=positive, metavar="S", help="of a film or a sound [%(default)s]")
    served.add_argument("--open", action="store_true", help="open it in the browser")
    written = command.add_argument_group("a page that is written")
    written.add_argument("--out", type=Path, metavar="FOLDER", help="write it there instead, to push it")
    written.add_argument("--clips", type=positive, metavar="N", help="that go along, at most [%(default)s]")
    written.add_argument("--overwrite", action="store_true", help="replace a page that was written before")
    command.set_defaults(run=_app, **SERVED, **WRITTEN)


def _app(arguments: argparse.Namespace) -> int:
    from .indexing import open_there

    for name, value in (SERVED if arguments.out else WRITTEN).items():
        if getattr(arguments, name) != value:
            raise ValueError(f"--{name.replace('_', '-')} goes {'not with' if arguments.out else 'with'} --out.")
    places = arguments.indexes or [_demo_index()]
    if len(places) > 1 and (arguments.model or arguments.out):
        raise ValueError(f"--{'model' if arguments.model else 'out'} is for one index, got {len(places)}.")
    settings = {name: getattr(arguments, name) for name in ("model", "films", "trust_remote_code")}
    with ExitStack() as stack, quiet():
        indexes = [stack.enter_context(open_there(place, **settings)) for place in places]
        if arguments.out:
            _write(arguments, indexes[0])
        else:
            _serve(arguments, indexes)
    return 0


def _write(arguments: argparse.Namespace, index: Any) -> None:
    from .page_space import write_page

    settings = {name: getattr(arguments, name) for name in ("title", *WRITTEN)}
    written = write_page(arguments.out, index, **settings)
    said = f"Written: {written['out']}, {written['clips']:,} clips and {written['films']:,} films\n"
    said += f"Start:   python {written['out']}/app.py\nPush:    dualspace push {written['out']} me/NAME"
    print(json.dumps(written) if arguments.json else said)


def _serve(arguments: argparse.Namespace, indexes: list[Any]) -> None:
    from .app import build_app, free_port, serve
    from .media import Limits

    port = free_port(arguments.host, arguments.port)
    limits = Limits(seconds=arguments.max_seconds, bytes=arguments.max_megabytes * 1_000_000)
    app = build_app(indexes, limits=limits, **({"title": arguments.title} if arguments.title else {}))
    url = f"http://{'127.0.0.1' if arguments.host in ('0.0.0.0', '::') else arguments.host}:{port}/"
    print(json.dumps({"url": url}) if arguments.json else f"{url}   (Ctrl-C ends it)", flush=True)
    serve(app, arguments.host, port, open_browser=arguments.open)


def _demo_index() -> str:
    """That of `dualspace demo`, made first if it is not there."""
    from .demo import DEMO, run_demo
    from .index_card import is_index

    if not is_index(DEMO / "index") or not (DEMO / "index" / "data" / "00000000.parquet").is_file():
        print("No INDEX was named: making the one of `dualspace demo` first, once ...", file=sys.stderr)
        run_demo(DEMO)
    return str(DEMO / "index")
