"""Lists of clips in CSV or JSON lines."""

import csv
import io
import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .clips import NOT_UTF8, SPLIT_NAMES, Clip, Entry, check_agreement, fragment, is_inside, nfc, note, some
from .files import printable

_TEXT_COLUMNS = ("path", "file_name", "label", "split", "film", "clip_id")
_COLUMNS = (*_TEXT_COLUMNS, "labels", "start", "end")
_Row = dict[str, Any]


def clips_of_list(path: Path) -> tuple[list[Entry], list[str]]:
    """The rows of a list, checked, and what in it is not read."""
    rows = list((_csv_rows if path.suffix.lower() == ".csv" else _jsonl_rows)(path, _read(path)))
    if not rows:
        raise ValueError(f"{path} is empty: expected the column `path`, and a row for each film.")
    columns = list(dict.fromkeys(name for _, row in rows for name in row))
    if "path" not in columns and "file_name" not in columns:
        came = printable(", ".join(columns)) or "none"
        raise ValueError(f"{path}: expected the column `path` among those separated by commas, got {came}.")
    for one, other in (("path", "file_name"), ("label", "labels")):
        if one in columns and other in columns:
            raise ValueError(f"{path} has both columns `{one}` and `{other}`: keep one.")
    entries = [_entry(row, path.parent, f"{path}, line {number}") for number, row in rows]
    missing = [entry for entry in entries if not os.path.isfile(entry.clip.path)]
    if missing:
        first = some([f"{entry.name!r} ({entry.where})" for entry in missing])
        raise ValueError(f"{len(missing)} of {len(rows)} rows name a file that does not exist: {first}.")
    # A film may be several files; a file in two films could have its pieces in two splits.
    rule = "The rows of one file must have one `film`, unlike those of {!r}"
    check_agreement(entries, rule, _place, lambda entry: entry.clip.film)
    return entries, note(f"Columns of {path.name} that are not read", {*columns} - {*_COLUMNS, ""})


def _place(entry: Entry) -> str:
    """Where a file really lies, whatever links and capitals it is reached by."""
    return os.path.normcase(os.path.realpath(entry.clip.path))


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line, byte = data[: error.start].count(b"\n") + 1, data[error.start]
        raise ValueError(f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8: save the list as UTF-8.") from None


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, _Row]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)  # else an open quote swallows the rest
    try:
        header = [name.strip() for name in next(reader, [])]
        if twice := [name for name, count in Counter(header).items() if name and count > 1]:
            raise ValueError(f"{path} has two columns of one name: {some(twice)}.")
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if any(cell.strip() for cell in cells[len(header) :]):
                raise ValueError(f"{where}: {len(cells)} cells in {len(header)} columns: quote what holds a comma.")
            if any(cell.strip() for cell in cells):
                row: _Row = dict(itertools.zip_longest(header, cells, fillvalue=""))
                yield reader.line_num, row | ({"labels": row["labels"].split(";")} if "labels" in row else {})
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: broken CSV, {error}.") from None


def _jsonl_rows(path: Path, text: str) -> Iterator[tuple[int, _Row]]:
    # Not `splitlines`: some of what it cuts at may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: broken JSON, {getattr(error, 'msg', error)}.") from None
        if not isinstance(row, dict):
            raise ValueError(f'{path}, line {number}: expected an object like {{"path": "a.mp4"}}, got {line[:40]}.')
        yield number, row


def _entry(row: _Row, folder: Path, where: str) -> Entry:
    texts = {column: _text(row.get(column), column, where) for column in _TEXT_COLUMNS}
    path = texts["path"] or texts["file_name"]
    if path is None:
        raise ValueError(f"{where}: expected the path of a film in column `path`, got nothing.")
    relative = _relative(path, folder, where)
    name = nfc(relative)
    start, end = (_seconds(row.get(column), column, where) for column in ("start", "end"))
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"{where}: `end` must lie after `start`, got {start or 0.0} to {end} seconds.")
    split = (texts["split"] or "").lower()
    if split and split not in SPLIT_NAMES:
        raise ValueError(f"{where}: `split` must be one of {', '.join(SPLIT_NAMES)}, or empty, got {split!r}.")
    clip_id, film = texts["clip_id"] or name + fragment(start, end), texts["film"] or name
    labels = _labels(row.get("labels"), where)
    clip = Clip(clip_id, folder / relative, film, SPLIT_NAMES.get(split, ""), texts["label"], labels, start, end, name)
    return Entry(clip, name, where)


def _text(value: object, column: str, where: str) -> str | None:
    """What a cell says; None where it says nothing."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{where}: expected text in column `{column}`, got {value!r}.")
    text = str(value).strip()
    if NOT_UTF8.search(text) or "\0" in text:
        raise ValueError(f"{where}: column `{column}` is no valid text, got {text!r}.")
    # A file must be asked for by the very bytes of its name.
    return (text if column in ("path", "file_name") else nfc(text)) or None


def _labels(value: object, where: str) -> tuple[str, ...] | None:
    if not isinstance(value, list | None):
        raise ValueError(f"{where}: expected a list of classes in `labels`, got {value!r}.")
    texts = [_text(label, "labels", where) for label in value or []]
    return tuple(dict.fromkeys(text for text in texts if text)) or None


def _seconds(value: Any, column: str, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{where}: `{column}` must be a number of seconds, 0 or more, got {value!r}.")
    return round(seconds, 3) + 0.0  # an id prints milliseconds, and there is no -0


def _relative(path: str, folder: Path, where: str) -> str:
    """The path of a row as seen from the list's folder, which it must not leave."""
    relative = os.path.relpath(path, os.path.abspath(folder)) if os.path.isabs(path) else path
    leaves = ".." in (*Path(path).parts, *Path(relative).parts)
    if leaves or not is_inside(os.path.realpath(folder / relative), os.path.realpath(folder)):
        raise ValueError(f"{where}: {path!r} must lie in the folder of the list, and lead there if it is a link.")
    return Path(relative).as_posix()
