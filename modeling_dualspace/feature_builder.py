"""What the builders of published data sets share: a `datasets` builder used directly, and the command around it."""

import argparse
import inspect
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import datasets
import pyarrow as pa
from datasets.builder import Key

from .card_template import plain_command
from .console import exit_code
from .data_card import DataCard
from .feature_dataset import write_dataset
from .feature_parts import FeatureSource
from .feature_schema import bad_rows, to_table
from .feature_sources import digest_of_sources, lines_of
from .files import printable

ORDER_GIVEN = "in the order of the file given with `--class-order`"
ORDER_GUESSED = "in the order in which the paper lists them"
GUESS = "The names of the classes are a guess: the source numbers them, and does not name them."


@dataclass
class FeatureConfig(datasets.BuilderConfig):
    """How to build one configuration."""

    source: str = ""
    """Where the published files lie."""
    class_order: str = ""
    """A file with one class name a line, in the order of the numbers, where the source does not say."""
    drop_bad_rows: bool = False
    """Leave out what is NaN, infinite or without its pair, instead of refusing the source."""
    stamp: str = ""
    """Filled in: changes when the source does, and so does what `datasets` has cached of it."""


class FeatureBuilder(datasets.ArrowBasedBuilder):
    """A data set that is read from what its authors published.

    A subclass says which configurations a source has (`configs`), what one of them is made of (`open`), and names a
    card. Then `Vegas(source="vegas_feature.h5").as_streaming_dataset("train")` works, `download_and_prepare` as well,
    and `build(Vegas, argv)` is the command that writes a folder for everybody. Only the folder has been checked as a
    whole, for ids that occur twice or classes without a clip, and has a fingerprint: it is what runs record.
    """

    BUILDER_CONFIG_CLASS = FeatureConfig
    CARD: ClassVar[DataCard]
    WHERE_FROM: ClassVar[str] = ""
    """Where the source can be had, and whom to ask: what the command says without one. Empty where none is needed."""

    def __init__(self, *args: Any, source: str | Path = "", **settings: Any):
        if self.WHERE_FROM and not source:
            raise ValueError(f"{type(self).__name__} needs a source. {self.WHERE_FROM}")
        found = self.BUILDER_CONFIG_CLASS(source=str(source), class_order=settings.get("class_order", ""))
        names = self.configs(found)
        name = settings.setdefault("config_name", names[0])
        if name not in names:
            raise ValueError(f"This source has the configurations {', '.join(names)}, not {name}.")
        # `datasets` caches what it prepared by its settings: what the source and the code are now is one of them.
        settings |= {"source": str(source), "stamp": self._stamp(found)}
        super().__init__(*args, **settings)

    @classmethod
    def configs(cls, settings: FeatureConfig) -> list[str]:
        """The configurations that this source has; the first is the default."""
        return ["default"]

    @classmethod
    def open(cls, settings: FeatureConfig) -> FeatureSource:
        """Checks the source, and says what the configuration is made of."""
        raise NotImplementedError

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Adds flags that are fields of the configuration class."""

    @classmethod
    def _stamp(cls, settings: FeatureConfig) -> str:
        code = (Path(__file__).parent, inspect.getsourcefile(cls) or __file__)
        return digest_of_sources(*filter(None, (settings.source, settings.class_order)), *code)

    def _info(self) -> datasets.DatasetInfo:
        self._opened = self.open(self.config)
        opened = self._opened
        description = f"audio={opened.audio} visual={opened.visual} synthetic={str(opened.synthetic).lower()}"
        return datasets.DatasetInfo(description=description, features=opened.features)

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        splits = self._opened.splits
        return [datasets.SplitGenerator(name, gen_kwargs={"parts": list(parts)}) for name, parts in splits.items()]

    def _generate_tables(self, parts: Iterable[str]) -> Iterator[tuple[Key, pa.Table]]:
        for number, part in enumerate(parts):
            for chunk, columns in enumerate(self._opened.rows(part)):
                table = to_table(columns, self._opened.features, part)
                bad = bad_rows(table, self._opened.features)
                if bad.any() and not self.config.drop_bad_rows:
                    raise ValueError(f"{bad.sum()} rows of {part} hold NaN or infinity: pass drop_bad_rows=True.")
                yield Key(number, chunk), table.filter(pa.array(~bad))


def build(builder: type[FeatureBuilder], argv: Sequence[str] | None, description: str | None) -> int:
    """The command of a builder: reads the arguments, builds every configuration, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    if builder.WHERE_FROM:
        parser.add_argument("--source", type=Path, help="what the authors published: a file or a folder")
        parser.add_argument("--class-order", metavar="FILE", default="", help="one class name a line, number 0 first")
        parser.add_argument(
            "--drop-bad-rows", action="store_true", help="leave out rows that hold NaN or infinity, or lack their pair"
        )
    parser.add_argument("--out", type=Path, default=Path(builder.CARD.name), help="the folder to make [%(default)s]")
    parser.add_argument(
        "--config",
        action="append",
        help="build this configuration only; may be repeated, the first is the default [all]",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a data set that is there already")
    builder.add_arguments(parser)
    arguments = parser.parse_args(argv)
    if builder.WHERE_FROM and not arguments.source:
        print(f"{parser.prog}: --source is missing. {builder.WHERE_FROM}", file=sys.stderr)
        return 2
    return exit_code(parser.prog, lambda: _build(builder, arguments))


def _build(builder: type[FeatureBuilder], arguments: argparse.Namespace) -> int:
    fields = builder.BUILDER_CONFIG_CLASS.__dataclass_fields__
    settings = {name: value for name, value in vars(arguments).items() if name in fields}
    if "source" in settings:
        source = Path(settings["source"])
        if not source.exists():
            raise ValueError(f"There is nothing at {source}. {builder.WHERE_FROM}")
        if source.resolve().is_relative_to(arguments.out.resolve()):
            raise ValueError(f"{source} lies in {arguments.out}, which would be replaced: choose another name.")
        settings["source"] = str(source)
        settings["stamp"] = builder._stamp(builder.BUILDER_CONFIG_CLASS(**settings))
    names = builder.configs(builder.BUILDER_CONFIG_CLASS(**settings))
    wanted = arguments.config or names
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(f"This source has the configurations {', '.join(names)}, not {', '.join(unknown)}.")
    sources = [builder.open(builder.BUILDER_CONFIG_CLASS(name=name, **settings)) for name in wanted]
    descriptions = write_dataset(
        arguments.out,
        sources,
        replace(builder.CARD, command=_typed(builder, arguments)),
        drop_bad_rows=settings.get("drop_bad_rows", False),
        overwrite=arguments.overwrite,
    )
    for name, found in descriptions.items():
        print(f"{name}: {found}")
    folder = arguments.out.resolve()
    print(f"Wrote {arguments.out}. From {folder.parent}: load_dataset({folder.name!r})")
    return 0


def _typed(builder: type[FeatureBuilder], arguments: argparse.Namespace) -> str:
    """The command with all its settings, but for the places of this machine."""
    words = ["python", f"dataset_scripts/{Path(inspect.getsourcefile(builder) or '').name}"]
    for name, value in vars(arguments).items():
        flag = f"--{name.replace('_', '-')}"
        if name in ("out", "overwrite") or value in (None, "") or value is False:
            continue
        values = value if isinstance(value, list) else [value]
        words += [flag] if value is True else [word for one in values for word in (flag, str(one))]
    return printable(plain_command(shlex.join(words)))


def read_class_order(path: str, count: int) -> list[str]:
    """The names in a `--class-order` file."""
    lines = [line.strip() for line in lines_of(Path(path))]
    names = [line for line in lines if line]
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"{path}: expected {count} different class names, one a line, got {len(names)}: {names}.")
    return names
