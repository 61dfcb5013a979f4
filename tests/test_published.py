"""What others published: whole, and as the tables print it."""

import pytest

from modeling_dualspace.published import (
    AVE_CLASSES,
    FORUM,
    FORUM_SYSTEMS,
    MAPS,
    MINUTES,
    NETWORKS,
    S_DCCA,
    VEGAS_CLASSES,
    features_of,
    whose_data,
)


def test_the_paper_s_tables_are_whole():
    assert set(MAPS) == {"vegas", "ave"} and set(MAPS["vegas"]) == set(MAPS["ave"]) and len(MAPS["vegas"]) == 16
    assert set(MINUTES) == set(MAPS["vegas"]) - {"UGACH", "AGAH", "UCAL", "shared"}
    for figures in [*MAPS["vegas"].values(), *MAPS["ave"].values()]:
        assert figures[2] == pytest.approx((figures[0] + figures[1]) / 2, abs=0.0011)  # they were rounded
    assert max(MAPS["vegas"], key=lambda name: MAPS["vegas"][name][2]) == "dual"


def test_the_forum_paper_s_tables_are_whole_and_agree():
    assert set(FORUM) == set(FORUM_SYSTEMS) and set(FORUM_SYSTEMS.values()) <= set(MAPS["vegas"])
    assert {name for pair in S_DCCA for name in pair} == set(NETWORKS) and len(S_DCCA) == 4
    assert S_DCCA["vggish", "inception"] == FORUM["S-DCCA"]


def test_the_classes_of_ave_are_those_its_builder_keeps(script):
    ave = script("ave")
    assert ave.CLASSES == AVE_CLASSES and all(len(names) == 15 for names in AVE_CLASSES.values())
    assert set(AVE_CLASSES["ave15"]) <= set(ave.OFFICIAL)


def test_what_says_nothing_of_itself_is_nobody_s():
    assert features_of(None) is None and whose_data(VEGAS_CLASSES, None) is None
