"""One's own films as a list of clips: from a folder, or from a list of them in CSV or JSON lines.

Nothing is decoded here. How long a film lasts is known to whoever opens it, who then cuts it by `windows`.
"""

import heapq
import itertools
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from .clip_table import clips_of_list
from .clips import NOT_UTF8, SPLIT_NAMES, Clip, Entry, check_agreement, fragment, is_inside, nfc, note
from .files import printable
from .splits import FRACTIONS, SPLITS, split_of

VIDEO_EXTENSIONS = tuple(f".{name}" for name in "mp4 m4v mov mkv webm avi mpg mpeg ts mts m2ts wmv flv ogv 3gp".split())


@dataclass(frozen=True)
class ClipList:
    """Clips in the order of their paths, the names of their classes, and what a person should know of both."""

    clips: list[Clip]
    class_names: list[str]
    notes: list[str]
    unusable: list[tuple[str, str]] = field(default_factory=list)
    """What is called like a film and is none, each with what it is."""

    @property
    def multi_label(self) -> bool:
        """Whether classes come from a column `labels`."""
        return any(clip.labels is not None for clip in self.clips)

    def counts(self) -> dict[str, dict[str, int]]:
        """Clips by split and class, `(none)` where nobody annotated; a clip counts once in each of its classes."""
        counts: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
        pairs = Counter((clip.split, name) for clip in self.clips for name in clip.classes or ("(none)",))
        for (split, name), count in sorted(pairs.items()):
            counts.setdefault(split, {})[name] = count
        return {split: names for split, names in counts.items() if names}


@dataclass
class _Scan:
    """What lies below a folder, by relative path; `links` are those that were not followed."""

    films: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def unusable(self) -> list[tuple[str, str]]:
        """What is called like a film and is none."""
        holding = {"/".join(film.split("/")[:depth]) for film in self.films for depth in range(film.count("/") + 1)}
        found = [(name, "is a folder") for name in self.folders if name not in holding]
        found += [(name, "is a link that is broken, leads upwards or to what is listed already") for name in self.links]
        found += [(name, "is no regular file") for name in self.odd]
        return sorted((printable(name), what) for name, what in found if name.lower().endswith(VIDEO_EXTENSIONS))


def list_clips(source: str | Path, *, fractions: Mapping[str, float] = FRACTIONS) -> ClipList:
    """The clips of a folder or of a list.

    A folder holds `<class>/**/*.mp4`; or `<split>/<class>/**/*.mp4`, where all folders with films are named train,
    validation (or val) and test; or films side by side, which have no label; or a `metadata.csv` or `metadata.jsonl`,
    which alone then says what is a clip. A list has the column `path` (or `file_name`), relative to where the list
    lies, and any of `label` or `labels` (in CSV apart by `;`), `split`, `film`, `start`, `end`, `clip_id`.

    Args:
        source: the folder, or the list: a path that ends in .csv or .jsonl.
        fractions: the share of each split among the films for which nobody named one.
    """
    source = Path(source)
    unusable: list[tuple[str, str]] = []
    split_of("", fractions)  # says what is wrong with them, also where every split is named
    if source.is_dir():
        lists = [source / name for name in ("metadata.csv", "metadata.jsonl") if (source / name).is_file()]
        if len(lists) > 1:
            raise ValueError(f"{source} holds both metadata.csv and metadata.jsonl: keep the one that is right.")
        scan = _scan(source)
        entries, notes = clips_of_list(lists[0]) if lists else _from_folder(source, scan)
        listed = {entry.name for entry in entries}
        unusable = [] if lists else scan.unusable()
        notes += note("Films that the list does not name", (film for film in scan.films if nfc(film) not in listed))
    elif source.is_file() and source.suffix.lower() in (".csv", ".jsonl"):
        entries, notes = clips_of_list(source)
    else:
        came = "is another kind of file" if source.exists() else "does not exist"
        raise ValueError(f"Expected a folder of films, or a list that ends in .csv or .jsonl: {source} {came}.")
    rule = "Clip ids must differ, also once accents are composed, but {!r} is there twice"
    check_agreement(entries, rule, lambda entry: entry.clip.clip_id, id)
    clips = _with_splits(entries, fractions)
    drawn = {split for split in fractions if fractions[split]} if any(not e.clip.split for e in entries) else set()
    clip_list = ClipList(clips, sorted({name for clip in clips for name in clip.classes}), notes, unusable)
    clip_list.notes.extend(_gaps(clip_list, drawn))
    return clip_list


def windows(clip: Clip, duration: float, window: float, hop: float) -> list[Clip]:
    """Pieces of `window` seconds every `hop` seconds; a clip shorter than one window is returned as it is.

    Args:
        clip: a film, or a piece of one: then the windows lie inside it, and still count the film's own seconds.
        duration: seconds the whole film lasts.
        window: seconds.
        hop: seconds from one start to the next; more than `window` leaves gaps.

    Example:
        ```python
        >>> rex = Clip("dog/rex.mp4", Path("dog/rex.mp4"), "dog/rex.mp4", "train")
        >>> [piece.clip_id for piece in windows(rex, 27.5, window=10, hop=10)]
        ['dog/rex.mp4#t=0,10', 'dog/rex.mp4#t=10,20', 'dog/rex.mp4#t=17.5,27.5']

        ```
    """
    for name, seconds in (("duration", duration), ("window", window), ("hop", hop)):
        if not 0.001 <= seconds < math.inf:
            raise ValueError(f"Cutting {clip.clip_id}: {name} must be at least 0.001 seconds, got {seconds}.")
    # Whole milliseconds: an id prints no more, and a sum of hops would drift. The end is rounded down, lest a window
    # reach beyond it; the summand is for products like 1.001 * 1000, which fall just short.
    first, end, length = round((clip.start or 0.0) * 1000), math.floor(duration * 1000 + 1e-6), round(window * 1000)
    if first >= end:
        raise ValueError(f"The clip {clip.clip_id} starts at {clip.start} seconds, but its film lasts {duration}.")
    end = end if clip.end is None else min(end, round(clip.end * 1000))
    if end - first < length:
        return [clip]
    regular = (first + round(number * hop * 1000) for number in itertools.count())
    starts = list(itertools.takewhile(lambda start: start + length <= end, regular))
    # A window shows min(hop, window) seconds that none before it did. Where the end has at least half as much left,
    # one more is moved back to end there; less would be nearly a copy of the last.
    unseen = end - max(first + round(len(starts) * hop * 1000), starts[-1] + length)
    starts += [end - length] if 2 * unseen >= min(round(hop * 1000), length) else []
    film = clip.clip_id.removesuffix(fragment(clip.start, clip.end))
    spans = [(start / 1000, (start + length) / 1000) for start in starts]
    return [replace(clip, clip_id=film + fragment(*span), start=span[0], end=span[1]) for span in spans]


def _from_folder(folder: Path, scan: _Scan) -> tuple[list[Entry], list[str]]:
    others = ", ".join(f"{count} {printable(extension)}" for extension, count in sorted(scan.others.items()))
    if not scan.films:
        looked_for = " ".join(VIDEO_EXTENSIONS)
        raise ValueError(f"No film below {folder}: looked for {looked_for}, passed over {others or 'nothing'}.")
    tops = sorted({film.split("/")[0] for film in scan.films if "/" in film})
    named = [top for top in tops if top.lower() in SPLIT_NAMES]
    by_split = bool(tops) and named == tops
    notes = [f"Files that are no films: {others}."] if others else []
    notes += note("Links that are broken, lead upwards or to what is listed under another name", scan.links)
    notes += note("Folders read as splits" if by_split else "Names of splits read as classes", named)
    holding = {"/".join(film.split("/")[:depth]) for film in scan.films for depth in range(film.count("/") + 1)}
    empty = (name for name in scan.folders if name.count("/") <= by_split and name not in holding)
    notes += note("Folders without a film, which make no class", empty)
    entries = []
    for film in scan.films:
        if NOT_UTF8.search(film):
            raise ValueError(f"{folder}: the name {os.fsencode(film)!r} is not UTF-8 and cannot be an id: rename it.")
        name = nfc(film)
        above = name.split("/")[:-1]
        split = SPLIT_NAMES[above.pop(0).lower()] if by_split and above else ""
        clip = Clip(name, folder / film, name, split, above[0] if above else None, name=name)
        entries.append(Entry(clip, name, ascii(film)))
    return entries, notes


def _scan(folder: Path) -> _Scan:
    """Walks a folder and what links in it lead to, reading every place once.

    A circle of links would not end otherwise, and a film under two names could fall into two splits. What is no link
    comes first in the heap, then what has the smaller name: the file system's order has no say.
    """
    scan, root = _Scan(), os.path.realpath(folder)
    seen: set[str] = set()
    heap = [(False, "", root)]
    while heap:
        _, relative, place = heapq.heappop(heap)
        if place in seen or not os.path.exists(place):
            scan.links.append(relative)
        elif os.path.isdir(place):
            scan.folders.append(relative)
            for name in _visible(place):
                path, below = os.path.join(place, name), f"{relative}/{name}".lstrip("/")
                target = os.path.realpath(path) if os.path.islink(path) else path
                if target != path and (is_inside(place, target) or is_inside(root, target)):
                    scan.links.append(below)  # upwards lies what nobody asked for
                else:
                    heapq.heappush(heap, (target != path, below, target))
        elif os.path.isfile(place) and relative.lower().endswith(VIDEO_EXTENSIONS):
            scan.films.append(relative)
        else:
            scan.odd += [] if os.path.isfile(place) else [relative]
            scan.others[os.path.splitext(relative)[1].lower() or "without an extension"] += 1
        seen.add(place)
    return scan


def _visible(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".") and name != "__MACOSX"]
    except OSError as error:
        raise ValueError(f"Cannot read the folder {printable(folder)}: {error.strerror}.") from None


def _with_splits(entries: list[Entry], fractions: Mapping[str, float]) -> list[Clip]:
    """Clips in order. A film lies where any of its rows says, else where the hash of its name puts it."""
    named = [entry for entry in entries if entry.clip.split]
    rule = "The film {!r} must lie in one split"
    check_agreement(named, rule, lambda entry: entry.clip.film, lambda entry: entry.clip.split)
    splits = {entry.clip.film: entry.clip.split for entry in named}
    for film in {entry.clip.film for entry in entries} - splits.keys():
        splits[film] = split_of(film, fractions)
    entries = sorted(entries, key=lambda e: (e.name, e.clip.start or 0.0, e.clip.end or math.inf, e.clip.clip_id))
    return [replace(entry.clip, split=splits[entry.clip.film]) for entry in entries]


def _gaps(clip_list: ClipList, drawn: Iterable[str]) -> list[str]:
    """Clips without a class, and classes without a clip in one of the splits that are there or were to be drawn."""
    counts = clip_list.counts()
    notes = note("Clips without a label", (clip.clip_id for clip in clip_list.clips if not clip.classes))
    for split in dict.fromkeys([*counts, *sorted(drawn)]):
        absent = [name for name in clip_list.class_names if name not in counts.get(split, {})]
        notes += note(f"Classes without a clip in {split}", absent)
        notes += [] if split in counts else [f"No clip is in {split}."]
    return notes
