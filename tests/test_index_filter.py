"""What a filter lets through: beside a walk through all rows."""

import json

import numpy as np
import pyarrow as pa
import pytest
from tiny_release import refusal

from modeling_dualspace.index_filter import Condition, Filter, banned_by

METADATA = [
    {"year": 2009, "city": "Oslo"}, {"year": 2010, "city": "Bergen"}, {"year": "2011"}, {"city": "Oslo"}, None,
    {"year": 2010.5, "live": True}, {"year": None, "city": ["Oslo"]}, {"year": True},
]  # fmt: skip
LABELS = [["dog"], ["dog", "cat"], [], ["cat"], None, ["bird"], ["dog"], ['it\'s, "odd"']]


@pytest.fixture
def facts():
    """Eight clips, in two chunks, as an index that grew has them."""
    columns = {
        "labels": pa.array(LABELS, pa.list_(pa.string())),
        "metadata": pa.array([None if one is None else json.dumps(one) for one in METADATA]),
    }
    table = pa.table(columns)
    return pa.concat_tables([table.slice(0, 3), table.slice(3)])


def met(facts, labels=(), where=()):
    return np.flatnonzero(~banned_by(Filter.of(labels, where), facts)).tolist()


@pytest.mark.parametrize(
    "where, rows",
    [
        ("year>=2010", [1, 2, 5]), ("year > 2010", [2, 5]), ("year<2010", [0]), ("year<=2010", [0, 1]),
        ("year=2010", [1]), ("year=2011", [2]), ("year!=2010", [0, 2, 5, 7]), ("city=Oslo", [0, 3]),
        ("city!=Oslo", [1]), ("live=true", [5]), ("year=true", [7]), ("nothing=1", []), ("nothing!=1", []),
        (["year>=2010", "year<2011"], [1, 5]), (["city=Oslo", "year=2009"], [0]), ("city=oslo", []),
    ],
)  # fmt: skip
def test_conditions_on_metadata(facts, where, rows):
    assert met(facts, where=where) == rows


@pytest.mark.parametrize(
    "labels, rows",
    [("dog", [0, 1, 6]), (["cat", "bird"], [1, 3, 5]), ('it\'s, "odd"', [7]), ("do", []), ([], list(range(8)))],
)
def test_any_of_the_labels(facts, labels, rows):
    assert met(facts, labels=labels) == rows


def test_labels_and_conditions_must_both_be_met(facts):
    assert met(facts, "dog", "city=Oslo") == [0]


def test_a_filter_says_whether_it_asks_for_anything():
    assert not Filter.of() and Filter.of("dog") and Filter.of((), "a=1")


@pytest.mark.parametrize("text", ["year", "", "=3", "year=", "year>>3", "year~3"])
def test_what_is_no_condition_is_refused(text):
    assert "A filter is like" in refusal(lambda: Condition.parse(text)) or "compares numbers" in refusal(
        lambda: Condition.parse(text)
    )


def test_an_order_is_one_of_numbers():
    assert "'Oslo' is none" in refusal(lambda: Condition.parse("city>Oslo"))


def test_a_key_may_have_spaces_and_a_value_signs():
    assert Condition.parse("shot by = Ada = Bo") == Condition("shot by", "=", "Ada = Bo")
