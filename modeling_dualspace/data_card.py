"""The card of a data set: what `load_dataset` must know, in YAML, and what a person should, in prose and a figure."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import datasets
import numpy
from datasets import ClassLabel, DatasetInfo, List, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData

from .card_template import fill
from .feature_parts import FeatureSource
from .feature_schema import Description
from .files import CARD

TEMPLATE = Path(__file__).with_name("data_card.md")
UNLABELLED, UNPAIRED = "(unlabelled)", "(unpaired)"
FIGURE = "clips-per-class.svg"
COLOURS = ("#4477aa", "#ddaa33", "#bb5566")  # apart for every eye, and in grey
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
MEANINGS = {
    "clip_id": "a clip's own name, unique over all splits of a configuration",
    "audio_features": "one vector of the sound",
    "visual_features": "one vector of the picture",
    "label": "the category",
    "labels": "the categories, as 0 and 1",
    "path": "the film",
    "start": "where the clip begins in its film, in seconds",
    "end": "where it ends",
}


@dataclass(frozen=True)
class SplitFacts:
    """A split as it was written."""

    name: str
    rows: int
    size: int
    files: list[str]
    counts: dict[str, int]
    dropped: int = 0


@dataclass(frozen=True)
class ConfigFacts:
    """A configuration as it was written."""

    source: FeatureSource
    description: Description
    splits: list[SplitFacts]
    found: Sequence[str] = ()
    """What reading it again has shown to be amiss, one sentence each."""

    @property
    def name(self) -> str:
        """Of the configuration."""
        return self.source.name

    @property
    def class_names(self) -> list[str]:
        """None at all where nobody annotated."""
        return self.source.names or []

    @property
    def rows(self) -> int:
        """Over all splits."""
        return sum(split.rows for split in self.splits)


@dataclass(frozen=True)
class DataCard:
    """What a person should read about a data set, beyond what can be counted.

    Args:
        title: of the card.
        name: what the folder is called unless somebody calls it otherwise.
        template: a Jinja file that extends `data_card.md` and fills its blocks; None is that file itself.
        columns: what columns beyond the usual ones mean.
        license: under which the features may be passed on, as the Hub calls it (`cc-by-4.0`), where the template does
            not say. While it is unknown they are pushed to nowhere public.
        command: that builds it.
    """

    title: str
    name: str
    template: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    license: str = "unknown"
    command: str = ""


def write_card(folder: Path, name: str, card: DataCard, configs: Sequence[ConfigFacts]) -> None:
    """Writes figures and, as the last file of all, README.md; `name` is what the folder will be called."""
    figures = _draw(folder, configs)
    values = {
        "title": card.title,
        "license": card.license,
        "command": card.command,
        "versions": f"Python {platform.python_version()}, datasets {datasets.__version__}, numpy {numpy.__version__}",
        "name": name,
        "kind": lambda column: " or ".join(dict.fromkeys(_kind(config.source.features[column]) for config in configs)),
        "meaning": lambda column: card.columns.get(column, MEANINGS.get(column, "")),
        "configs": configs,
        "notes": _notes(configs),
        "figures": figures,
        "count_table": _count_table,
        "synthetic": any(config.description.synthetic for config in configs),
    }
    content = DatasetCard(fill(TEMPLATE, card.template, values))
    content.data["size_categories"] = [_size_category(sum(split.rows for split in configs[0].splits))]
    content.data["configs"] = [_files_of(config, default=config is configs[0]) for config in configs]
    content.data["dataset_info"] = _infos(configs)
    (folder / CARD).write_text(str(content), encoding="utf-8", newline="\n")


def _draw(folder: Path, configs: Sequence[ConfigFacts]) -> dict[str, str]:
    """The figure of each configuration; folds of one set of rows have the same counts, and one for all."""
    figures: dict[str, str] = {}
    drawn = set()
    for config in configs:
        totals = tuple(sorted(_totals(config).items()))
        folds = (totals, config.source.shared)
        if not config.class_names or (folds in drawn and config.source.shared):
            continue
        drawn.add(folds)
        figures[config.name] = FIGURE if not figures else FIGURE.replace(".svg", f"-{config.name}.svg")
        (folder / figures[config.name]).write_text(clips_per_class(config), encoding="utf-8", newline="\n")
    return figures


def _files_of(config: ConfigFacts, default: bool) -> dict[str, Any]:
    """Which files make up the splits of a configuration; a pattern stands for all shards of a part."""
    patterns = {}
    for split in config.splits:
        parts = dict.fromkeys(f"{name.rsplit('-', 3)[0]}-?????-of-?????.parquet" for name in split.files)
        patterns[split.name] = list(parts)
    files = [{"split": name, "path": paths if len(paths) > 1 else paths[0]} for name, paths in patterns.items()]
    return {"config_name": config.name, "data_files": files} | ({"default": True} if default else {})


def _infos(configs: Sequence[ConfigFacts]) -> dict | list:
    """`dataset_info` as `datasets` writes it, and the description, which it reads and does not write."""
    infos = {}
    for config in configs:
        splits = SplitDict()
        for split in config.splits:
            splits.add(SplitInfo(split.name, num_bytes=split.size, num_examples=split.rows))
        size = sum(split.size for split in config.splits)
        infos[config.name] = DatasetInfo(features=config.source.features, splits=splits, dataset_size=size)
    data = DatasetCardData()
    DatasetInfosDict(infos).to_dataset_card_data(data)
    found = data["dataset_info"]
    for info in found if isinstance(found, list) else [found]:
        name = info.get("config_name", "default")
        info["description"] = str(next(config.description for config in configs if config.name == name))
    return found


def _notes(configs: Sequence[ConfigFacts]) -> list[str]:
    """What is amiss; of which configuration, where not of all."""
    found: dict[str, list[str]] = {}
    for config in configs:
        for note in _findings(config):
            found.setdefault(note.removesuffix("."), []).append(f"`{config.name}`")
    return [note + (f" ({', '.join(names)})." if len(names) < len(configs) else ".") for note, names in found.items()]


def _findings(config: ConfigFacts) -> list[str]:
    """What the source knows, and what the counts themselves show."""
    found = [*config.source.notes, *config.found]
    dropped = sum(split.dropped for split in config.splits)
    if dropped:
        found.append(f"{dropped} rows of the source held NaN or infinity and were left out.")
    for split in config.splits:
        absent = [name for name in config.class_names if not split.counts.get(name)]
        if absent:
            found.append(f"The {split.name} split has no clip of {', '.join(absent)}.")
        if split.counts.get(UNLABELLED):
            found.append(f"{split.counts[UNLABELLED]} clips of the {split.name} split have no label.")
        if split.counts.get(UNPAIRED):
            count = split.counts[UNPAIRED]
            found.append(f"{count} clips of the {split.name} split lack a sound or a picture; see `keep_paired`.")
    return found


def _kind(feature: Any) -> str:
    if isinstance(feature, List):
        return f"{feature.length} x {feature.feature.dtype}"
    return f"{feature.num_classes} classes" if isinstance(feature, ClassLabel) else str(feature.dtype)


def _totals(config: ConfigFacts) -> dict[str, int]:
    return {name: sum(split.counts.get(name, 0) for split in config.splits) for name in config.class_names}


def _size_category(rows: int) -> str:
    return next((name for limit, name in SIZES if rows < limit), "1M<n<10M" if rows < 10_000_000 else "n>10M")


def _count_table(config: ConfigFacts) -> str:
    """Clips per class and split, as a Markdown table."""
    names = list(config.class_names)
    if any(split.counts.get(UNLABELLED) for split in config.splits):
        names.append(UNLABELLED)
    lines = ["| class | " + " | ".join(split.name for split in config.splits) + " |"]
    lines.append("|---|" + "---:|" * len(config.splits))
    for name in names:
        cell = name.replace("|", "\\|")
        lines.append(f"| {cell} | " + " | ".join(f"{split.counts.get(name, 0):,}" for split in config.splits) + " |")
    lines.append("| **clips** | " + " | ".join(f"**{split.rows:,}**" for split in config.splits) + " |")
    return "\n".join(lines)


def clips_per_class(config: ConfigFacts) -> str:
    """The figure: a bar a class, made of its splits, as SVG.

    Plain text beats a plotting library here: the same rows give the same bytes, and writing a data set needs no extra.
    """
    names, totals = list(config.class_names), _totals(config)
    left, width, row, top = 40 + 7 * max(map(len, names)), 420, 22, 46
    scale = width / max(1.0, *totals.values())
    height = top + row * len(names) + 12
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {height}" '
        f'width="{left + width + 70}" font-family="sans-serif" font-size="12" role="img">',
        f"<title>Clips per class and split, {escape(config.name)}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, split in enumerate(config.splits):
        x = float(left + 110 * number)
        parts.append(f'<rect x="{x:.0f}" y="14" width="12" height="12" fill="{COLOURS[number % len(COLOURS)]}"/>')
        parts.append(f'<text x="{x + 17:.0f}" y="24" fill="#222">{escape(split.name)}</text>')
    for line, name in enumerate(names):
        y, x = top + row * line, float(left)
        parts.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end" fill="#222">{escape(name)}</text>')
        for number, split in enumerate(config.splits):
            length = scale * split.counts.get(name, 0)
            colour = COLOURS[number % len(COLOURS)]
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{row - 6}" fill="{colour}"/>')
            x += length
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 13}" fill="#222">{totals[name]:,}</text>')
    return "\n".join([*parts, "</svg>", ""])
