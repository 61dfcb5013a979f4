"""Plain values, as a file has them, into typed dataclasses; what is not as it should be is named by its key."""

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal


def build(kind: type, content: Any, where: str) -> Any:
    """A dataclass of a mapping: every key known and of its type, at every level.

    Args:
        kind: the dataclass; its fields may be others, lists and dictionaries.
        content: of a file.
        where: the file, for messages.
    """
    return _build(kind, content, "", where, kind)


def _build(kind: type, content: Any, path: str, where: str, root: type) -> Any:
    if not isinstance(content, Mapping):
        raise ValueError(f"{where}: `{path}` must hold keys and values, got {content!r}.")
    hints, known = typing.get_type_hints(kind), {entry.name: entry for entry in fields(kind)}
    for key in content:
        if key not in known:
            raise ValueError(f"{where} has an unknown key `{_joined(path, key)}`.{_hint(str(key), path, known, root)}")
    for name, entry in known.items():
        if name not in content and entry.default is MISSING and entry.default_factory is MISSING:
            raise ValueError(f"{where} lacks the key `{_joined(path, name)}`.")
    return kind(**{key: _value(hints[key], value, _joined(path, key), where, root) for key, value in content.items()})


def _joined(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _hint(key: str, path: str, known: Iterable[str], root: type) -> str:
    """What was meant by a key that does not exist: one beside it, or one elsewhere."""
    keys = _all_keys(root)
    beside = {name: _joined(path, name) for name in known}
    elsewhere = {full.rsplit(".")[-1]: full for full in keys}
    for names in (beside, elsewhere):
        close = difflib.get_close_matches(key, names, n=1)
        if close:
            return f" Did you mean `{names[close[0]]}`?"
    return f" It may have {', '.join(sorted(beside))}."


def _all_keys(kind: type, path: str = "") -> list[str]:
    keys = []
    for name, hint in typing.get_type_hints(kind).items():
        keys.append(_joined(path, name))
        keys += _all_keys(hint, _joined(path, name)) if isinstance(hint, type) and is_dataclass(hint) else []
    return keys


def _value(hint: Any, value: Any, path: str, where: str, root: type) -> Any:
    """The value, or what a mapping makes; raises unless it is of the type."""
    if is_dataclass(hint):
        return _build(hint, value, path, where, root)  # type: ignore[arg-type]
    inner = typing.get_args(hint)[-1] if typing.get_origin(hint) is dict else None
    entry = typing.get_args(hint)[0] if typing.get_origin(hint) is list else None
    if is_dataclass(entry) and isinstance(value, list):
        return [_build(entry, part, f"{path}[{number}]", where, root) for number, part in enumerate(value)]  # type: ignore[arg-type]
    if is_dataclass(inner) and isinstance(value, Mapping):
        return {name: _build(inner, part, f"{path}.{name}", where, root) for name, part in value.items()}  # type: ignore[arg-type]
    if not _fits(value, hint):
        raise ValueError(f"{where}: `{path}` must be {words(hint)}, got {value!r}.")
    return float(value) if hint in (float, float | None) and value is not None else value


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is types.UnionType:
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is list:
        return isinstance(value, list) and all(_fits(one, arguments[0]) for one in value)
    if origin is dict:
        return isinstance(value, Mapping) and all(
            isinstance(name, str) and _fits(one, arguments[1]) for name, one in value.items()
        )
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null"}


def words(hint: Any) -> str:
    """A type as a person would say it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is types.UnionType:
        return " or ".join(map(words, arguments))
    if origin is list:
        return "a list"
    if origin is dict and typing.get_origin(arguments[1]) is list:
        return "keys, each with a list of values"
    return _WORDS.get(hint, "keys and values")
