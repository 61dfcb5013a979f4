"""The shards of an extraction as a data set, with its processor and the table of what was skipped."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Value
from huggingface_hub import DatasetCard
from transformers.utils import PROCESSOR_NAME

from .card_template import plain, plain_command
from .clip_folder import ClipList
from .clips import Clip
from .data_card import DataCard
from .extraction_plan import Settings, Shard
from .extraction_shards import Row, read_shard
from .feature_dataset import check_name, write_dataset
from .feature_parts import FeatureSource
from .feature_schema import feature_columns, in_order
from .files import CARD, check_folder, is_as_made, one_line, printable, short_digest
from .processing_dualspace import MODALITIES, DualSubspaceProcessor

SKIPPED, SUMMARY = "skipped.csv", "extraction.json"
SHOWN = 5


@dataclass(frozen=True)
class Extracted:
    """What was asked for, and where its shards lie."""

    source: Path
    out: Path
    clips: ClipList
    shards: list[Shard]
    settings: Settings
    processor: DualSubspaceProcessor
    keep_unpaired: bool
    license: str
    command: str

    @property
    def folder(self) -> Path:
        """Of the shards, beside what will be made of them."""
        return work_folder(self.out)

    def place(self, shard: Shard) -> Path:
        """The file of a shard."""
        return self.folder / shard.name

    @property
    def key(self) -> str:
        """Changes with anything that decides what is written."""
        parts = [shard.key for shard in self.shards]
        parts += [
            json.dumps([clip.clip_id, clip.name, clip.split, clip.label, clip.labels]) for clip in self.clips.clips
        ]
        parts += [json.dumps(one) for one in self.clips.unusable]
        return short_digest(part.encode() for part in [*parts, str(self.keep_unpaired), self.license])

    def rows(self, *, vectors: bool = True) -> Iterator[tuple[Clip, Row]]:
        """Every row with the clip that was listed for it: its labels and its split are as they are now."""
        for shard in self.shards:
            for row in read_shard(self.place(shard), vectors=vectors):
                yield shard.films[row.film].clips[row.of], row


def work_folder(out: Path) -> Path:
    """Where the shards of a data set lie until it is written."""
    out = out.resolve()
    return out.with_name(f".{out.name}.extracting")


def check_place(source: Path, out: Path, overwrite: bool) -> None:
    """Raises where the data set could not be written in the end: that is better known before any work."""
    check_name(out)
    if printable(str(out)) != str(out):
        raise ValueError(f"Names of folders must be UTF-8, got {printable(str(out))}: choose another --out.")
    if source.resolve().is_relative_to(out.resolve()):
        raise ValueError(f"{source} lies in {out}, which would be replaced: choose another --out.")
    for name, what in {"config.json": "a model", "app.py": "a page, or the metric"}.items():
        if (out / name).is_file():
            raise ValueError(f"{out} holds {what}, which features do not replace: choose another --out.")
    if not (out / SUMMARY).is_file():
        check_folder(out.resolve(), overwrite)


def finished(asked: Extracted) -> dict[str, Any] | None:
    """What was written before, where it is what is asked for now."""
    try:
        former = json.loads((asked.out / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(former, dict) or former.pop("key", None) != asked.key or not is_as_made(asked.out):
        return None
    info = DatasetCard.load(asked.out / CARD).data["dataset_info"]
    table = asked.out / SKIPPED
    return former | {
        "out": str(asked.out),
        "description": info["description"],
        "table": str(table) if table.is_file() else None,
        "notes": ["Nothing to do: it was extracted before, from the same films and by the same settings."],
    }


def write_set(asked: Extracted, *, overwrite: bool, progress: bool) -> dict[str, Any]:
    """Writes the data set; returns what it holds."""
    splits, classes, films, skipped = _sorted_out(asked)
    if not splits:
        first = "; ".join(one_line(f"{one['clip_id']} {one['reason']}") for one in skipped[:3])
        raise ValueError(f"None of {len(skipped)} clips can be used: {first.rstrip('.')}.")
    table = _table(skipped)
    notes = [*asked.clips.notes, *_left_out(asked, classes)]
    summary: dict[str, Any] = {
        "clips": sum(splits.values()),
        "splits": {split: splits[split] for split in in_order(splits)},
        "classes": classes,
        "films": films,
        "skipped": len(skipped),
        "first_skipped": [[one["clip_id"], one["reason"]] for one in skipped[:SHOWN]],
    }
    source = _source(asked, splits, classes, films, len(skipped))
    settings = {key: value for key, value in asdict(asked.settings).items() if key not in ("audio", "visual")}
    extras = {
        PROCESSOR_NAME: asked.processor.to_json_string(),
        SUMMARY: json.dumps({"key": asked.key, **summary, "settings": settings}, indent=1, ensure_ascii=False) + "\n",
    }
    descriptions = write_dataset(
        asked.out,
        [source],
        _card(asked),
        overwrite=overwrite,
        progress=progress,
        extras={name: text.encode() for name, text in extras.items()} | ({SKIPPED: table} if skipped else {}),
    )
    return summary | {
        "out": str(asked.out),
        "description": str(descriptions["default"]),
        "table": str(asked.out / SKIPPED) if skipped else None,
        "notes": notes,
    }


def _sorted_out(asked: Extracted) -> tuple[Counter[str], list[str], int, list[dict[str, str]]]:
    """Clips of each split, the classes that have one, films that have one, and what is skipped, with reasons."""
    splits: Counter[str] = Counter()
    classes: set[str] = set()
    films: set[Path] = set()
    skipped = [{"clip_id": name, "path": name, "reason": reason} for name, reason in asked.clips.unusable]
    for clip, row, reason in _judged(asked, vectors=False):
        if reason is None:
            splits[clip.split] += 1
            films.add(clip.path)
            classes |= set(clip.classes)
        else:
            told = {"clip_id": row.clip_id, "path": clip.name, "reason": reason}
            skipped.append({key: printable(value) for key, value in told.items()})
    return splits, [name for name in asked.clips.class_names if name in classes], len(films), skipped


def _judged(asked: Extracted, *, vectors: bool) -> Iterator[tuple[Clip, Row, str | None]]:
    """Every row, and why it is left out, where it is."""
    seen: set[str] = set()
    for clip, row in asked.rows(vectors=vectors):
        reason = row.problem
        if reason is None and row.clip_id in seen:
            reason = "is the same piece of its film as another clip"
        if reason is None and not asked.keep_unpaired and not (row.heard and row.seen):
            reason = f"has no {'picture' if row.heard else 'sound'} there"
        if reason is None:
            seen.add(row.clip_id)
        yield clip, row, reason


def _left_out(asked: Extracted, classes: list[str]) -> list[str]:
    gone = [name for name in asked.clips.class_names if name not in classes]
    return [f"Classes left without a clip, which are left out: {printable(', '.join(gone))}."] if gone else []


def _table(skipped: list[dict[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["clip_id", "path", "reason"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(skipped)
    return text.getvalue().encode()


def _source(asked: Extracted, splits: Mapping[str, int], classes: list[str], films: int, skipped: int) -> FeatureSource:
    multi_label = asked.clips.multi_label
    widths = [asked.processor.backbone(name).width for name in MODALITIES]
    columns = feature_columns(
        widths[0],
        widths[1],
        classes or None,
        multi_label=multi_label,
        extra={"path": Value("string"), "start": Value("float64"), "end": Value("float64")},
    )
    notes = [f"{skipped} clips could not be used and are left out: `{SKIPPED}` has each with its reason."]
    return FeatureSource(
        name="default",
        features=columns,
        splits={split: [f"default/{split}"] for split in in_order(splits)},
        rows=lambda part: _chunks(asked, part.split("/")[1], classes, columns),
        audio=asked.settings.audio,
        visual=asked.settings.visual,
        synthetic=_is_synthetic(asked.source),
        class_names=classes if multi_label and classes else None,
        lengths={f"default/{split}": rows for split, rows in splits.items()},
        notes=notes if skipped else [],
        facts=plain(_facts(asked) | {"films": films}),
    )


def _chunks(asked: Extracted, split: str, classes: list[str], columns: Any) -> Iterator[dict[str, Any]]:
    """The good rows of a split, some at a time."""
    waiting: list[tuple[Clip, Row]] = []
    for clip, row, reason in _judged(asked, vectors=True):
        if reason is None and clip.split == split:
            waiting.append((clip, row))
        if len(waiting) >= 1024:
            yield _columns(waiting, classes, columns)
            waiting = []
    if waiting:
        yield _columns(waiting, classes, columns)


def _columns(rows: list[tuple[Clip, Row]], classes: list[str], columns: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "clip_id": [row.clip_id for _, row in rows],
        "audio_features": [row.audio for _, row in rows],
        "visual_features": [row.visual for _, row in rows],
        "path": [printable(clip.name) for clip, _ in rows],
        "start": [row.start for _, row in rows],
        "end": [row.end for _, row in rows],
    }
    if "label" in columns:
        found["label"] = np.array([classes.index(clip.label) if clip.label else -1 for clip, _ in rows])
    if "labels" in columns:
        found["labels"] = np.array([_memberships(clip, classes) for clip, _ in rows], dtype=np.float32)
    return {name: found[name] for name in columns}


def _memberships(clip: Clip, classes: list[str]) -> list[float]:
    if not clip.classes:
        return [float("nan")] * len(classes)
    return [float(name in clip.classes) for name in classes]


def _is_synthetic(source: Path) -> bool:
    """Whether the films were made up: their folder says so, by its name or by its card."""
    folder = source if source.is_dir() else source.parent
    card = folder / "README.md"
    head = card.read_text(encoding="utf-8", errors="replace").split("\n---")[0] if card.is_file() else ""
    return "synthetic" in folder.resolve().name.lower() or "\n- synthetic" in head


def _facts(asked: Extracted) -> dict[str, Any]:
    records = {name: asked.processor.backbone(name).record() for name in MODALITIES}
    return {
        "window": asked.settings.window or 0,
        "hop": (asked.settings.hop or asked.settings.window) or 0,
        "backbones": {
            name: {"source": _public(record["source"]), "spec": record["spec"], "constants": _told(record["constants"])}
            for name, record in records.items()
        },
    }


def _public(source: str) -> str:
    """A folder of this machine by its last name."""
    return Path(source).name if Path(source).is_dir() else source


def _told(constants: Mapping[str, Any], before: str = "") -> str:
    """Constants as one line."""
    parts = []
    for key, value in constants.items():
        parts.append(_told(value, f"{before}{key}.") if isinstance(value, Mapping) else f"{before}{key} {value}")
    return ", ".join(parts)


def _card(asked: Extracted) -> DataCard:
    name = asked.out.resolve().name
    return DataCard(
        title=f"Features of {name}",
        name=name,
        template=Path(__file__).with_name("film_card.md"),
        columns={"path": "the film, relative to the folder of films"},
        license=asked.license,
        command=printable(plain_command(asked.command)) if asked.command else "",
    )
