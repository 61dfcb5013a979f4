"""Which clips may be found: by their labels, and by what is known of them."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_CONDITION = re.compile(r"\s*([^<>=!]+?)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """What a clip's metadata must say: `year >= 2010`. A clip that says nothing about it does not meet it.

    Numbers are compared as numbers, whether they were written as numbers or as text; texts only by `=` and `!=`.
    """

    key: str
    operator: str
    value: str | float

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Of what a person types.

        Example:
            ```python
            >>> Condition.parse("year>=2010")
            Condition(key='year', operator='>=', value=2010.0)

            ```
        """
        found = _CONDITION.fullmatch(text)
        if not found or not found[3]:
            raise ValueError(f"A filter is like year>=2010 or city=Oslo (=, !=, <, <=, >, >=), got {text!r}.")
        key, operator, value = found.groups()
        number = as_number(value)
        if number is None and operator not in ("=", "!="):
            raise ValueError(f"{operator} compares numbers, and {value!r} is none: {text!r}.")
        return cls(key, operator, value if number is None else number)

    def met_by(self, value: Any) -> bool:
        """Whether a clip that says `value` is one of those."""
        number = as_number(value)
        if isinstance(self.value, float) and number is not None:
            pair: tuple[Any, Any] = (number, self.value)
        elif isinstance(value, bool):
            pair = (str(value).lower(), self.value)
        elif isinstance(value, str | int | float):
            pair = (str(value), self.value)
        else:
            return False
        match self.operator:
            case "=":
                return bool(pair[0] == pair[1])
            case "!=":
                return bool(pair[0] != pair[1])
        if isinstance(pair[0], str):
            return False
        order = {"<": pair[0] < pair[1], ">": pair[0] > pair[1]}
        return order[self.operator[0]] or (self.operator.endswith("=") and pair[0] == pair[1])


def as_number(value: Any) -> float | None:
    """The finite number that something is or spells, if it does."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Filter:
    """Which clips may be found: of any of the labels (or whatever they are, without), meeting all conditions."""

    labels: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()

    @classmethod
    def of(cls, labels: str | Sequence[str] = (), where: str | Sequence[str] = ()) -> "Filter":
        """Of what a person asks for."""
        wanted = (labels,) if isinstance(labels, str) else tuple(labels)
        texts = (where,) if isinstance(where, str) else tuple(where)
        return cls(wanted, tuple(map(Condition.parse, texts)))

    def __bool__(self) -> bool:
        return bool(self.labels or self.conditions)


@dataclass(frozen=True)
class Metadata:
    """What is known of clips: mostly the same of many, so that each text is read once.

    Args:
        known: what there is, each once.
        numbers: which of them each row has; one more than there are where nothing is known.
    """

    known: list[dict[str, Any]]
    numbers: np.ndarray

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> "Metadata":
        """Of a column of JSON."""
        encoded = column.combine_chunks().dictionary_encode()
        known = [json.loads(text) for text in encoded.dictionary.to_pylist()]
        return cls(known, encoded.indices.fill_null(len(known)).to_numpy(zero_copy_only=False))

    def meets(self, conditions: Sequence[Condition]) -> np.ndarray:
        """Which rows do."""
        passes = [all(one.key in row and one.met_by(row[one.key]) for one in conditions) for row in self.known]
        return np.array([*passes, False])[self.numbers]


def banned_by(wanted: Filter, facts: pa.Table, metadata: Metadata | None = None) -> np.ndarray:
    """`(n,)`, True where a row is not what is wanted.

    Args:
        wanted: what is.
        facts: rows with `labels` and `metadata`.
        metadata: of these rows, if it was read before.
    """
    met = np.ones(facts.num_rows, dtype=bool)
    if wanted.labels:
        met &= _labelled(facts["labels"], wanted.labels)
    if wanted.conditions:
        met &= (metadata or Metadata.of(facts["metadata"])).meets(wanted.conditions)
    return ~met


def _labelled(labels: pa.ChunkedArray, wanted: Sequence[str]) -> np.ndarray:
    met = np.zeros(len(labels), dtype=bool)
    column = labels.combine_chunks()
    rows = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
    found = pc.is_in(pc.list_flatten(column), value_set=pa.array(wanted, pa.string()))
    met[rows[found.to_numpy(zero_copy_only=False)]] = True
    return met
