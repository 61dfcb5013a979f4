"""The command `dualspace`.

Exit codes: 0 done, 1 failed, 2 wrong use, 3 finished with bad clips listed. A failure is one sentence on stderr, never
a traceback; tables and JSON go to stdout, progress to stderr.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__
from .cli_app import add_app
from .cli_benchmark import add_benchmark
from .cli_completion import add_completion
from .cli_extract import add_convert, add_extract
from .cli_parts import add_command, enough, positive, several, stopped_code, together
from .cli_search import add_index, add_search
from .console import StoppedError, exit_code, quiet

if TYPE_CHECKING:
    from accelerate import PartialState


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands, each with its function as `run`."""
    parser = argparse.ArgumentParser(prog="dualspace", description="Find video by sound and sound by video.")
    parser.add_argument("--version", action="version", version=f"dualspace {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    add_extract(commands)
    add_convert(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_report(commands)
    add_benchmark(commands)
    add_index(commands)
    add_search(commands)
    add_app(commands)
    _add_metric(commands)
    _add_push(commands)
    add_completion(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    # Overrides of a recipe may stand behind options too, where argparse looks for none.
    overrides = [word for word in rest if hasattr(arguments, "overrides") and "=" in word and word[0] != "-"]
    if overrides != rest:
        parser.error(f"unrecognized arguments: {' '.join(word for word in rest if word not in overrides)}")
    if overrides:
        arguments.overrides = [*arguments.overrides, *overrides]
    arguments.command = shlex.join(["dualspace", *(sys.argv[1:] if argv is None else argv)])
    return exit_code("dualspace", lambda: arguments.run(arguments))


def _add_demo(commands: argparse._SubParsersAction) -> None:
    command = add_command(
        commands,
        "demo",
        help="the whole way, offline: render films, extract, train, evaluate, report, load, search by a sound",
        description="Renders short films of ten classes, extracts their features, trains the dual-subspace model, "
        "prints its mean average precision on test beside rivals, writes a report, loads model and processor again and "
        "finds films by a sound. Takes about a minute. Every step is shown as the command that does it.",
        examples=(
            "dualspace demo",
            "dualspace demo --clips-per-class 12 --epochs 10 --out runs/small",
        ),
    )
    command.add_argument("--out", type=Path, default=Path("runs/demo"), help="where everything goes [%(default)s]")
    command.add_argument("--epochs", type=positive, default=30, help="passes over the training split [%(default)s]")
    command.add_argument("--clips-per-class", type=enough, default=40, help="films rendered [%(default)s]")
    command.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from .demo import render, run_demo

    result = run_demo(arguments.out, arguments.epochs, arguments.clips_per_class)
    print(json.dumps(result) if arguments.json else render(result))
    return 0


def _add_train(commands: argparse._SubParsersAction) -> None:
    command = add_command(
        commands,
        "train",
        help="train a recipe: choose an epoch on validation, refit, save; go on where a run was interrupted",
        description="Trains what a recipe asks for, and writes a run: the model, its history, its checkpoints. Test is "
        "scored only with --final. Runs on a GPU where there is one, and on several processes under `accelerate launch "
        "training/train.py ...`, `accelerate launch -m modeling_dualspace train ...` or torchrun.",
        examples=(
            "dualspace train tiny",
            "dualspace train tiny data.path=clips-features-synthetic output=runs/clips --final",
            "dualspace train vegas --resume",
            "accelerate launch -m modeling_dualspace train vegas data.path=vegas-features",
        ),
    )
    command.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of one that comes with DualSpace")
    command.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", default=[], help="instead of what the recipe says: train.epochs=3"
    )
    again = command.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run in the output, if there is one")
    again.add_argument("--overwrite", action="store_true", help="remove the run in the output, and start it anew")
    command.add_argument("--final", action="store_true", help="then score it on test, and log that")
    command.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> int:
    return together(lambda state: _train_there(arguments, state))


def _train_there(arguments: argparse.Namespace, state: "PartialState") -> int:
    from .distributed import agreed
    from .recipe import load_recipe
    from .training_grid import train_recipe
    from .training_report import render

    recipe = agreed(lambda: load_recipe(arguments.recipe, arguments.overrides))
    try:
        with quiet(all_warnings=not state.is_main_process):
            outcome = train_recipe(
                recipe,
                resume=arguments.resume,
                overwrite=arguments.overwrite,
                final=arguments.final,
                command=arguments.command,
            )
    except StoppedError as stopped:
        return stopped_code(stopped, state)
    if state.is_main_process:
        print(json.dumps(outcome) if arguments.json else render(outcome, recipe))
    return 0


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    command = add_command(
        commands,
        "evaluate",
        help="score a model on a data set: MAP and what goes with it, both directions",
        description="Embeds a split, ranks every sound against all videos and every video against all sounds, prints "
        "the table and writes it as JSON. Runs on a GPU where there is one, and on several processes under "
        "`accelerate launch -m modeling_dualspace evaluate ...` or torchrun.",
        examples=(
            "dualspace evaluate runs/tiny vegas-features-synthetic",
            "dualspace evaluate me/dualspace-vegas me/vegas-features --split validation --json",
        ),
    )
    command.add_argument(
        "model", metavar="MODEL", help="a folder that holds a model, a run folder, or an id of the Hub"
    )
    command.add_argument("data", metavar="DATA", help="a data set's folder, or its id on the Hub")
    command.add_argument("--config", help="of the data set [its default]")
    command.add_argument("--split", default="test", help="of the data set [%(default)s]")
    command.add_argument("--out", type=Path, help="the JSON file [results/DATA-SPLIT.json in the model's run]")
    command.add_argument("--batch-size", type=several, default=1024, help="clips embedded at a time [%(default)s]")
    command.add_argument(
        "--legacy-prefix-average", action="store_true", help="add what some published scripts print as MAP"
    )
    command.add_argument("--trust-remote-code", action="store_true", help="run the code that comes with the model")
    command.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    return together(lambda state: _evaluate_there(arguments, state))


def _evaluate_there(arguments: argparse.Namespace, state: "PartialState") -> int:
    from .evaluation import evaluate
    from .files import check_file, write_json
    from .results import check_result_file, check_same, render, result_path

    names = (arguments.model, arguments.data, arguments.config, arguments.split)
    out = check_file(arguments.out or result_path(*names))
    check_result_file(out)
    if arguments.out is None:
        check_same(out, arguments.model, arguments.data)
    with quiet(all_warnings=not state.is_main_process):
        result = evaluate(
            *names,
            device=state.device,
            trust_remote_code=arguments.trust_remote_code,
            command=arguments.command,
            batch_size=arguments.batch_size,
            legacy_prefix_average=arguments.legacy_prefix_average,
        )
    if state.is_main_process:
        try:
            write_json(out, result)
        finally:  # what took long is shown, whatever becomes of the file
            print(json.dumps(result) if arguments.json else render(result))
        print(f"Written: {out}", file=sys.stderr if arguments.json else sys.stdout)
    return 0


def _add_report(commands: argparse._SubParsersAction) -> None:
    command = add_command(
        commands,
        "report",
        help="one self-contained HTML page about runs, results and grids, and its figures as PNG",
        description="Draws what runs left behind: results, curves, classes, and, where model and data are at hand, the "
        "first model's clips one by one. The page needs no network; the figures go into a folder beside it.",
        examples=(
            "dualspace report runs/tiny --out report.html",
            "dualspace report runs/tiny runs/cluster_cca --out compared.html",
        ),
    )
    command.add_argument("runs", metavar="RUN", nargs="+", help="a run folder, a grid, or a result file")
    command.add_argument("--out", type=Path, default=Path("report.html"), help="the page [%(default)s]")
    command.add_argument("--data", help="where the data set is, if not where it was when results were made")
    command.set_defaults(run=_report)


def _report(arguments: argparse.Namespace) -> int:
    from .report import write_report

    with quiet():
        written = write_report(arguments.runs, arguments.out, data=arguments.data, command=arguments.command)
    if arguments.json:
        print(json.dumps(written))
        return 0
    for line in written["left_out"]:
        print(f"Left out: {line}")
    print(f"Written: {written['report']}, and {len(written['figures'])} figures as PNG")
    return 0


def _add_metric(commands: argparse._SubParsersAction) -> None:
    command = add_command(
        commands,
        "metric",
        help="write the metric as a folder that `evaluate.load` takes and that can be pushed as a Space",
        description="Writes a folder with the metric, its kernel, a card, its requirements and an app. "
        "`evaluate.load(FOLDER)` then works where DualSpace is not installed.",
        examples=("dualspace metric --out retrieval_map",),
    )
    command.add_argument("--out", type=Path, default=Path("retrieval_map"), help="the folder [%(default)s]")
    command.add_argument("--overwrite", action="store_true", help="replace a folder that was made this way")
    command.set_defaults(run=_metric)


def _metric(arguments: argparse.Namespace) -> int:
    from .metric_space import write_metric_space

    out = write_metric_space(arguments.out, overwrite=arguments.overwrite)
    said = f"Written: {out}\nLoad:    evaluate.load({str(out)!r})"
    print(json.dumps({"metric": str(out)}) if arguments.json else said)
    return 0


def _add_push(commands: argparse._SubParsersAction) -> None:
    command = add_command(
        commands,
        "push",
        help="bring a model, a data set, the metric, or a whole release to the Hub, and look at it there",
        description="Makes the card and the figures, checks everything, tries it in a fresh process, uploads it by one "
        "commit a repository, tags it, and tries it again from the Hub. What is there already is not uploaded again.",
        examples=(
            "dualspace push runs/mine me/mine-synthetic --license apache-2.0 --dry-run",
            "dualspace push vegas-features-synthetic me/vegas-features-synthetic --private",
            "dualspace push films-index me/films-index --license cc-by-4.0",
            "dualspace push films-page me/films-page",
            "dualspace push everything me",
        ),
    )
    command.add_argument(
        "path",
        metavar="PATH",
        help="a run, a model, a data set, the metric's folder, or a release: a YAML file or its name",
    )
    command.add_argument(
        "repo_id", metavar="REPO_ID", help="the repository, me/dualspace-vegas; of a release the namespace, me"
    )
    command.add_argument("--dry-run", action="store_true", help="show every file and the cards, and upload nothing")
    command.add_argument("--private", action="store_true", help="nobody else shall see it")
    command.add_argument("--license", default="", help="of a model, as the Hub calls it: apache-2.0, cc-by-4.0, ...")
    command.add_argument("--tag", default="", help="of this release [made of its content]")
    command.add_argument("--collection", metavar="TITLE", default="", help="put it into that collection too")
    command.add_argument("--data", default="", help="where the data set is, if not where it was when results were made")
    command.add_argument("--card", metavar="FILE", default="", help="a template that extends model_card.md")
    command.add_argument("--carbon", metavar="GRAMS", type=float, help="of CO2 that the training emitted, if known")
    command.add_argument("--out", type=Path, help="keep what goes to the Hub in this new folder too")
    command.add_argument(
        "--trust-remote-code", action="store_true", help="run code in a model's folder that is not this version's"
    )
    command.set_defaults(run=_push)


def _push(arguments: argparse.Namespace) -> int:
    from .release import push, render

    names = ("dry_run", "private", "tag", "collection", "out", "license", "data", "card", "carbon", "trust_remote_code")
    result = push(arguments.path, arguments.repo_id, **{name: getattr(arguments, name) for name in names})
    print(json.dumps(result) if arguments.json else render(result))
    return 0
