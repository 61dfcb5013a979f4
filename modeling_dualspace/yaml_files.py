"""YAML as people write it: 1e-3 is a number, a key stands once, a file may extend another."""

import difflib
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from .resources import resource


class Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, and a key stands once."""

    def construct_mapping(self, node, deep=False):
        """As YAML has it; raises where a key stands twice, of which it would keep the last."""
        keys = [key.value for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.MarkedYAMLError(problem=f"the key {twice} stands twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


class Dumper(yaml.SafeDumper):
    """Text that this loader would take for a number is quoted."""


for _side in (Loader, Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


def read_yaml(file: Path, inside: tuple[Path, ...] = (), *, ours: str = "configs") -> dict[str, Any]:
    """A file's keys and values, over those of the file it says it extends, but for that one's name and place.

    Args:
        file: to read.
        inside: files that extend this one.
        ours: where those of ours lie that it may extend by name.
    """
    if file.resolve() in inside:
        raise ValueError(f"{file} extends itself: remove one of the keys `extends`.")
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold keys and values, got {type(content).__name__}.")
    base = content.pop("extends", None)
    if base is None:
        return content
    below = file.parent / str(base)
    if not below.is_file() and re.fullmatch(r"[\w/]+", str(base)):  # the name of one beside it, or of one of ours
        beside = file.parent / f"{base}.yaml"
        with suppress(FileNotFoundError):
            another = beside.is_file() and beside.resolve() != file.resolve()
            below = beside if another else resource(f"{ours}/{base}.yaml")
    if not below.is_file():
        known = {path.stem: path for path in resource(ours).rglob("*.yaml")}
        close = difflib.get_close_matches(Path(str(base)).stem, known, n=1)
        meant = known[close[0]].relative_to(resource(ours)).with_suffix("").as_posix() if close else None
        hint = f" Did you mean {meant}?" if meant else ""
        raise ValueError(f"{file} extends {base}, and there is neither {below} nor one of ours of that name.{hint}")
    extended = read_yaml(below, (*inside, file.resolve()), ours=ours)
    return merged({key: value for key, value in extended.items() if key not in ("name", "output")}, content)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested keys one by one; everything else as the second has it."""
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result
