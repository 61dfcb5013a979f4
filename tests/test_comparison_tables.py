"""The tables of a comparison: to the letter, and the papers' columns where they belong."""

from modeling_dualspace.comparison_tables import Table, make_tables, to_markdown, to_terminal
from modeling_dualspace.published import FORUM_SYSTEMS, MAPS

NAMES = ("audio_to_visual", "visual_to_audio", "map")


def figure(mean, deviation=0.0):
    return {"mean": mean, "deviation": deviation}


def data_set(fingerprint, features=("vggish", "inception"), paper="vegas", **more):
    comparable = paper if features == ("vggish", "inception") else None
    facts = {"id": f"sets/{fingerprint}", "config": None, "clips": {"train": 1200, "test": 30}, "synthetic": False}
    return {"fingerprint": fingerprint, "features": features and list(features), "paper": paper} | facts | more | {
        "comparable": comparable
    }  # fmt: skip


def row(system, data, maps=(0.5, 0.25, 0.375), deviation=0.0, **more):
    cells = [{"seed": seed, "updates": 1000 + seed, "seconds": 90.0, "device": "cpu", "threads": 1} for seed in (0, 1)]
    return {
        "system": system, "data": data, "measure": "MAP", "published": None, "published_minutes": None,
        **{name: figure(value, deviation) for name, value in zip(NAMES, maps, strict=True)},
        "classes": {}, "seconds": figure(90.0), "cells": cells, **more,
    }  # fmt: skip


def made(data, rows, seeds=(0, 1)):
    return {"format": 1, "name": "toy", "seeds": list(seeds), "data": data, "rows": rows}


def titles(table):
    return [one.title for one in make_tables(table)]


def test_the_markdown_of_a_small_comparison_to_the_letter():
    published = dict(zip(NAMES, MAPS["vegas"]["CCA"], strict=True))
    classes = {"audio_to_visual": {"dog|cat": figure(0.5, 0.1)}}
    failed = {"seed": 1, "cell": "x", "failed": "The loss stopped being a number."}
    rows = [
        row("CCA", "d", deviation=0.0123, published=published, published_minutes=1.08, classes=classes),
        row("mine", "d", (0.75, 0.75, 0.75), cells=[row("mine", "d")["cells"][0], failed]),
    ]
    nothing = row("none", "d", cells=[failed], measure=None, seconds=None)
    rows.append({key: value for key, value in nothing.items() if key not in NAMES})
    assert to_markdown("toy", make_tables(made([data_set("d")], rows))) == EXPECTED


EXPECTED = """# toy

## MAP on d

| system | audio→visual, measured | visual→audio, measured |  mean, measured | audio→visual, the paper's | visual→audio, the paper's | mean, the paper's |
| ------ | ---------------------: | ---------------------: | --------------: | ------------------------: | ------------------------: | ----------------: |
| CCA    |        0.5000 ± 0.0123 |        0.2500 ± 0.0123 | 0.3750 ± 0.0123 |                     0.332 |                     0.327 |             0.330 |
| mine   |                 0.7500 |                 0.7500 |      **0.7500** |                         – |                         – |                 – |
| none   |                      – |                      – |               – |                         – |                         – |                 – |

Clips: 1,200 train, 30 test. Data fingerprint d.  
Over the full ranking, by cosine; a query's own pair stays in the gallery. Mean ± deviation over the seeds 0, 1. What draws nothing by chance is trained once, and has no deviation.  
mine, seed 1, failed and is in no mean: The loss stopped being a number.  
none, seed 1, failed and is in no mean: The loss stopped being a number.

## Time cost on d

| system | training, measured | minutes, measured |        updates |            on | minutes, the paper's |
| ------ | -----------------: | ----------------: | -------------: | ------------: | -------------------: |
| CCA    |            1.5 min |              1.50 | 1,000 to 1,001 | cpu, 1 thread |                 1.08 |
| mine   |            1.5 min |              1.50 |          1,000 | cpu, 1 thread |                    – |
| none   |                  – |                 – |              – |             – |                    – |

Validations and the refit included; the mean over seeds. What ran beside a cell took its share.  
The paper names neither its hardware nor its epochs.

## The forum paper's systems on d

| system | audio→visual, measured | visual→audio, measured |  mean, measured | audio→visual, the forum paper's | visual→audio, the forum paper's | mean, the forum paper's |
| ------ | ---------------------: | ---------------------: | --------------: | ------------------------------: | ------------------------------: | ----------------------: |
| CCA    |        0.5000 ± 0.0123 |        0.2500 ± 0.0123 | 0.3750 ± 0.0123 |                          0.3243 |                          0.3211 |                  0.3227 |

Measured S-DCCA is C-DCCA, and measured TNN is TNN-C-CCA.

## MAP by class on d, audio→visual, measured

| system | dog\\|cat |
| ------ | -------: |
| CCA    |   0.5000 |
| mine   |        – |
| none   |        – |
"""  # noqa: E501


def test_a_terminal_sees_what_it_has_room_for():
    said = to_terminal([Table("One", ["a"], [["b"]]), Table("Two", ["a"], [["b"]], wide=True)])
    assert said == "One\n\n| a   |\n| --- |\n| b   |"
    assert "| b|c |" in to_terminal([Table("One", ["a"], [["b|c"]])])


def test_what_is_synthetic_or_unlabelled_is_said():
    strange = data_set("d", None, None, synthetic=True, config="ave15")
    (maps, times) = make_tables(made([strange], [row("CCA", "d", measure="own pair among the first 10")], [0]))
    assert maps.title == "own pair among the first 10 on d (ave15)" and "synthetic" in maps.notes[0]
    assert "Nobody annotated" in maps.notes[2] and not any("the paper's" in word for word in [*maps.head, *times.head])


def test_other_features_of_the_paper_s_clips_have_no_column_of_the_paper_s():
    (maps, times) = make_tables(made([data_set("d", ("soundnet", "i3d"))], [row("CCA", "d")]))
    assert not any("the paper's" in word for word in [*maps.head, *times.head])
    assert maps.notes[1] == "Clips of VEGAS, with other features than the paper's."


def test_legacy_figures_stand_after_the_right_ones_and_say_why():
    rows = [row("CCA", "d", legacy_prefix_average=figure(0.4), published=dict.fromkeys(NAMES, 0.19))]
    maps = make_tables(made([data_set("d", paper="ave")], rows))[0]
    assert [word.split(",")[0] for word in maps.head[:5]] == [
        "system", "audio→visual", "visual→audio", "mean", "legacy prefix average"
    ]  # fmt: skip
    assert maps.rows[0][4] == "0.4000" and any(".0998 on 189 clips" in note for note in maps.notes)


def test_several_data_sets_have_a_table_of_all_systems():
    data = [data_set("one", None, None), data_set("two", None, None)]
    rows = [row("CCA", "one"), row("DCCA", "one"), row("CCA", "two", (0.1, 0.3, 0.2))]
    rows.append(row("DCCA", "two", measure="own pair among the first 10"))  # which is no MAP
    (table,) = [one for one in make_tables(made(data, rows)) if one.title.startswith("MAP on all data sets")]
    assert table.head == ["system", "one, measured", "two, measured"]
    assert table.rows == [["CCA", "0.3750", "0.2000"], ["DCCA", "0.3750", "–"]]


def test_the_forum_paper_s_pairs_come_from_data_sets_of_such_features():
    pairs = [("vggish", "inception"), ("soundnet", "i3d"), ("vggish", "i3d"), ("soundnet", "inception")]
    data = [data_set(f"d{number}", pair, "vegas") for number, pair in enumerate(pairs)]
    table = next(
        one for one in make_tables(made(data, [row("C-DCCA", f"d{n}") for n in range(4)])) if "S-DCCA" in one.title
    )
    assert [line[0] for line in table.rows] == [
        "SoundNet + I3D", "VGGish + I3D", "SoundNet + Inception", "VGGish + Inception",
    ]  # fmt: skip
    assert table.rows[1][1:] == ["d2", "0.5000", "0.2500", "0.3750", "0.4749", "0.4622", "0.4686"]
    own = [data_set(f"d{number}", pair, None) for number, pair in enumerate(pairs[:2])]
    (table,) = [
        one for one in make_tables(made(own, [row("C-DCCA", "d0"), row("C-DCCA", "d1")])) if "S-DCCA" in one.title
    ]
    assert not any("forum" in word for word in table.head)  # measured alone, on films of one's own
    assert "S-DCCA by features" not in titles(made(own[:1], [row("C-DCCA", "d0")]))  # nothing to compare
    assert "S-DCCA by features" not in titles(made(own, [row("CCA", "d0"), row("CCA", "d1")]))


def test_the_forum_paper_s_systems_stand_beside_vegas_alone():
    rows = [row(name, "d") for name in FORUM_SYSTEMS.values()]
    (table,) = [one for one in make_tables(made([data_set("d")], rows)) if "forum" in one.title]
    assert [line[0] for line in table.rows] == list(FORUM_SYSTEMS) and table.rows[3][4] == "0.7269"
    assert not any("forum" in title for title in titles(made([data_set("d", paper="ave")], rows)))
