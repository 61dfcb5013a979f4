"""The table of scores against loops over queries, and what must not change it."""

import numpy as np
import pytest
import torch

from modeling_dualspace.average_precision import average_precision
from modeling_dualspace.retrieval_scores import CUTOFFS, DIRECTIONS, grid, query_scores, retrieval_scores, score_table

CUTS = (1, 2, 5, 10, 30, 99)


def make_clips(clips=30, width=6, classes=4, seed=0):
    """(audio, visual, classes): pairs that resemble each other, no two cosines alike."""
    generator = np.random.default_rng(seed)
    audio = generator.normal(size=(clips, width))
    return audio, audio + generator.normal(size=(clips, width)), generator.integers(0, classes, clips)


def make_members(clips=30, classes=4, seed=1):
    """Memberships of some clips in several classes, of clip 3 and 11 in none."""
    members = np.maximum(
        np.random.default_rng(seed).random((clips, classes)) < 0.2, np.eye(classes)[np.arange(clips) % 4]
    )
    members[[3, 11]] = 0
    return members


def shares_class(one, other):
    return bool((one * other).any()) if np.ndim(one) else bool(one == other)


def mean(values):
    return sum(values) / len(values)


def naive_direction(queries, gallery, labels, cutoffs):
    """The mean of every measure over the queries that have a relevant item, straight from the definitions."""
    rows, excluded, pairs, precisions = [], 0, [], []
    cuts = sorted({min(k, len(gallery)) for k in cutoffs})
    for number, query in enumerate(queries):
        cosines = [query @ item / np.linalg.norm(query) / np.linalg.norm(item) for item in gallery]
        order = sorted(range(len(gallery)), key=lambda item: -cosines[item])  # noqa: B023
        pairs.append({str(k): number in order[:k] for k in cuts})
        hits = [shares_class(labels[number], labels[item]) for item in order]
        total, precisions_so_far, prefixes = sum(hits), [], []
        for k in range(1, len(hits) + 1):
            precisions_so_far += [sum(hits[:k]) / k] if hits[k - 1] else []
            prefixes.append(mean(precisions_so_far) if precisions_so_far else 0)
        precisions.append(prefixes[-1] if total else None)
        if not total:
            excluded += 1
            continue
        within = {k: sum(hits[:k]) for k in cuts}
        at = {k: sum(sum(hits[:j]) / j for j in range(1, k + 1) if hits[j - 1]) / min(total, k) for k in cuts}
        # At rank j a random ranking has a relevant item in one of so many cases, and then so many more before it.
        size = len(hits)
        chance = [(1 + (j - 1) * (total - 1) / max(size - 1, 1)) / j / size for j in range(1, size + 1)]
        rows.append(
            {
                "chance": sum(chance),
                "map": prefixes[-1],
                "r_precision": sum(hits[:total]) / total,
                "legacy_prefix_average": mean(prefixes),
            }
            | {f"map_at {k}": at[k] for k in cuts}
            | {f"precision_scope {k}": within[k] / k for k in cuts}
            | {f"recall {k}": within[k] / total for k in cuts}
            | {f"hit {k}": within[k] > 0 for k in cuts}
        )
    result = {name: mean([row[name] for row in rows]) for name in rows[0]}
    result |= {f"pair_recall {k}": mean([pair[str(k)] for pair in pairs]) for k in cuts}
    return result | {"queries": len(rows), "excluded_queries": excluded}, precisions


def flat(direction):
    """`{"map_at 5": ...}` in place of `{"map_at": {"5": ...}}`, without the classes."""
    result = {name: value for name, value in direction.items() if not isinstance(value, dict)}
    for name in set(direction) - set(result) - {"per_class"}:
        result |= {f"{name} {k}": value for k, value in direction[name].items()}
    return result


def means(table):
    """Every number of a table, in one dictionary."""
    result = {"map": table["map"]}
    for direction in DIRECTIONS:
        classes = table[direction].get("per_class", {})
        result |= {f"{direction} {name}": value for name, value in flat(table[direction]).items()}
        result |= {f"{direction} class {name}": value["map"] for name, value in classes.items()}
    return result


@pytest.fixture
def small_chunks(monkeypatch):
    """Grids of several chunks."""
    monkeypatch.setattr("modeling_dualspace.average_precision.CHUNK_SCORES", 7 * 30)


# The table.


@pytest.mark.parametrize("labels", [make_clips()[2], make_members()], ids=["one class", "several classes"])
def test_the_table_equals_loops_over_the_queries(labels):
    audio, visual, _ = make_clips()
    table = retrieval_scores(audio, visual, labels, cutoffs=CUTS, legacy_prefix_average=True)
    for direction, pair in (("audio_to_visual", (audio, visual)), ("visual_to_audio", (visual, audio))):
        expected, precisions = naive_direction(*pair, labels, CUTS)
        assert flat(table[direction]) == pytest.approx(expected, rel=1e-12)
        members = labels if labels.ndim == 2 else np.eye(4)[labels]
        for number, (name, found) in enumerate(table[direction]["per_class"].items()):
            of_class = [precisions[clip] for clip in np.flatnonzero(members[:, number])]
            assert (name, found) == (str(number), {"map": pytest.approx(mean(of_class)), "queries": len(of_class)})
    assert table["map"] == (table["audio_to_visual"]["map"] + table["visual_to_audio"]["map"]) / 2
    assert (table["gallery"], table["clipped_cutoffs"], table["unlabelled"]) == (30, [99], 0)
    assert table["audio_to_visual"]["excluded_queries"] == (2 if labels.ndim == 2 else 0)


def test_without_being_asked_for_there_is_no_legacy_figure_and_the_cutoffs_are_those_that_fit():
    table = retrieval_scores(*make_clips())
    assert list(table["visual_to_audio"]["precision_scope"]) == ["1", "5", "10", "20", "30"]
    assert table["clipped_cutoffs"] == [k for k in CUTOFFS if k > 30]
    assert "legacy_prefix_average" not in table["visual_to_audio"]


def test_without_labels_the_recall_of_the_own_pair_is_all_there_is():
    audio, visual, labels = make_clips()
    table = retrieval_scores(audio, visual, cutoffs=CUTS)
    labelled = retrieval_scores(audio, visual, labels, cutoffs=CUTS)
    assert table["map"] is None and table["clipped_cutoffs"] == [99]
    for direction in DIRECTIONS:
        assert table[direction] == {"queries": 30, "pair_recall": labelled[direction]["pair_recall"]}


@pytest.mark.parametrize("memberships", [False, True])
def test_clips_of_unknown_class_are_left_out_of_queries_and_gallery(memberships):
    audio, visual, labels = make_clips()
    labels, unknown = (np.eye(4)[labels], [np.nan, -1]) if memberships else (labels, [-1, -100])
    labels[4], labels[17] = unknown
    kept = ~np.isin(np.arange(30), (4, 17))
    table = retrieval_scores(audio, visual, labels)
    assert table == retrieval_scores(audio[kept], visual[kept], labels[kept]) | {"unlabelled": 2}
    assert table["gallery"] == 28


def test_classes_carry_their_names_and_one_without_clips_has_no_map():
    audio, visual, labels = make_clips(classes=2)
    found = retrieval_scores(audio, visual, labels, class_names=["dog", "drum", "rain"])["audio_to_visual"]["per_class"]
    assert list(found) == ["dog", "drum", "rain"] and found["rain"] == {"map": None, "queries": 0}


def test_a_query_whose_class_no_item_has_is_excluded_and_not_scored_0():
    audio, visual, _ = make_clips()
    found = query_scores(audio, visual, np.arange(30) % 3, np.arange(30) % 2, paired=False)
    assert np.flatnonzero(np.isnan(found["average_precision"])).tolist() == list(range(2, 30, 3))
    assert "pair_recall" not in found
    table = score_table(dict.fromkeys(DIRECTIONS, found), np.arange(30) % 3)
    assert (table["audio_to_visual"]["queries"], table["audio_to_visual"]["excluded_queries"]) == (20, 10)
    assert table["map"] == pytest.approx(np.nanmean(found["average_precision"]), rel=1e-12)
    assert table["audio_to_visual"]["per_class"]["2"] == {"map": None, "queries": 0}


# What must not change it.


def test_any_shares_of_the_chunks_give_the_same_bits(small_chunks):
    audio, visual, labels = make_clips()
    chunks = grid(audio, visual)
    whole = query_scores(audio, visual, labels, legacy_prefix_average=True)
    first, second = (
        query_scores(audio, visual, labels, chunks=share, legacy_prefix_average=True)
        for share in (chunks[:2], chunks[2:])
    )
    assert len(chunks) > 3 and len(first["average_precision"]) == 14
    for name, values in whole.items():
        assert np.concatenate([first[name], second[name]]).tobytes() == values.tobytes()


def test_the_order_of_the_clips_changes_no_mean(small_chunks):
    clips = make_clips()
    order = np.random.default_rng(2).permutation(30)
    found = means(retrieval_scores(*(column[order] for column in clips), cutoffs=CUTS))
    assert found == pytest.approx(means(retrieval_scores(*clips, cutoffs=CUTS)), rel=1e-12, abs=1e-12)


def test_the_order_of_the_gallery_changes_no_query():
    audio, visual, labels = make_clips()
    order = np.random.default_rng(2).permutation(30)
    found = query_scores(audio, visual[order], labels, labels[order], paired=False)
    for name, values in found.items():
        np.testing.assert_allclose(values, query_scores(audio, visual, labels)[name], rtol=1e-12)


def test_the_length_of_a_row_changes_no_bit():
    audio, visual, labels = make_clips()
    powers = 2.0 ** np.random.default_rng(2).integers(-60, 60, (2, 30, 1))
    assert retrieval_scores(audio * powers[0], visual * powers[1], labels) == retrieval_scores(audio, visual, labels)


@pytest.mark.parametrize("kind", ["tensors", "tensors that learn", "lists", "float16", "float32"])
def test_every_kind_of_rows_gives_the_same_table(kind):
    audio, visual, labels = make_clips(width=9)
    audio, visual = (np.round(rows * 8) / 8 for rows in (audio, visual))  # which float16 holds
    convert = {
        "tensors": torch.from_numpy,
        "tensors that learn": lambda rows: torch.from_numpy(rows).requires_grad_(),
        "lists": np.ndarray.tolist,
    }.get(kind, lambda rows: rows.astype(kind))
    found = retrieval_scores(convert(audio), convert(visual), labels.tolist() if kind == "lists" else labels)
    assert means(found) == pytest.approx(means(retrieval_scores(audio, visual, labels)), rel=1e-12)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int32, torch.uint8, torch.int64])
def test_every_kind_of_whole_number_is_a_class(kind):
    audio, visual, labels = make_clips()
    expected = means(retrieval_scores(audio, visual, labels))
    classes = torch.tensor(labels, dtype=kind) if isinstance(kind, torch.dtype) else labels.astype(kind)
    assert means(retrieval_scores(audio, visual, classes)) == expected


# Ties.


@pytest.mark.parametrize("kind", [np.float32, np.float64, torch.float32])
@pytest.mark.parametrize("bits", [7, 10, 12, 16, 24, 100, 128])
def test_codes_rank_as_their_integer_products(bits, kind):
    labels = np.arange(60) % 3
    audio, visual = np.random.default_rng(0).integers(0, 2, (2, 60, bits)) * 2 - 1
    rows = [codes / np.sqrt(bits) for codes in (audio, visual)]
    rows = [torch.tensor(each, dtype=kind) if kind == torch.float32 else each.astype(kind) for each in rows]
    found = query_scores(*rows, torch.from_numpy(labels) if kind == torch.float32 else labels)
    expected = average_precision((audio @ visual.T).astype(float), labels[:, None] == labels)
    np.testing.assert_allclose(found["average_precision"], expected, rtol=1e-12)


def chance(items, relevant):
    """The mean average precision of a random order."""
    harmonic = (1 / np.arange(1, items + 1)).sum()
    return (harmonic + (relevant - 1) * (items - harmonic) / (items - 1)) / items


@pytest.mark.parametrize("angle", ["any", "right", "zero rows"])
@pytest.mark.parametrize("width", [3, 10, 15])
def test_embeddings_that_are_all_alike_score_as_a_random_order(width, angle):
    audio, visual = np.random.default_rng(width).normal(size=(2, width))
    if angle == "right":
        visual -= audio * (audio @ visual) / (audio @ audio)
    visual = visual * 0 if angle == "zero rows" else visual
    labels = np.sort(np.arange(33) % 3)
    table = retrieval_scores(np.tile(audio, (33, 1)), np.tile(visual, (33, 1)), labels, cutoffs=(5,))
    for direction in DIRECTIONS:
        assert table[direction]["map"] == pytest.approx(chance(33, 11), rel=1e-12)
        assert table[direction]["pair_recall"]["5"] == pytest.approx(5 / 33, rel=1e-12)
        assert table[direction]["precision_scope"]["5"] == pytest.approx(1 / 3, rel=1e-12)


# What is refused.


def bad(audio=None, visual=None, labels=None, **settings):
    given = zip((audio, visual, labels), make_clips(), strict=True)
    columns = [good if bad is None else bad for bad, good in given]
    return lambda: retrieval_scores(*columns, **settings)


def spoiled(row, value):
    rows = make_clips()[0]
    rows[row, 2] = value
    return rows


AUDIO, VISUAL, LABELS = make_clips()
REFUSALS = {
    "fewer labels": (bad(labels=LABELS[:20]), r"one label a clip, \(30,\).*\(20,\)"),
    "labels of three axes": (bad(labels=np.ones((30, 2, 2))), r"one label a clip.*\(30, 2, 2\)"),
    "classes in a column": (bad(labels=LABELS[:, None]), "0 and 1|0/1"),
    "fractions": (bad(labels=LABELS * 1.0), "whole numbers; got float64"),
    "too few names": (bad(class_names=["dog", "drum"]), "up to 3, and only 2 class names"),
    "NaN": (bad(audio=spoiled(7, np.nan)), "Audio embeddings must be finite.*row 7"),
    "infinity": (bad(visual=spoiled(9, np.inf)), "Visual embeddings must be finite.*row 9"),
    "another width": (bad(audio=AUDIO[:, :4]), r"pair up.*\(30, 4\) and \(30, 6\)"),
    "fewer rows": (bad(visual=VISUAL[:20]), r"pair up.*\(30, 6\) and \(20, 6\)"),
    "another width, no labels": (lambda: retrieval_scores(AUDIO[:, :4], VISUAL), r"pair up.*\(30, 4\) and \(30, 6\)"),
    "fewer rows, no labels": (lambda: retrieval_scores(AUDIO, VISUAL[:20]), r"pair up.*\(30, 6\) and \(20, 6\)"),
    "no clips": (bad(AUDIO[:0], VISUAL[:0], LABELS[:0]), r"at least one clip, got shape \(0, 6\)"),
    "no class anywhere": (bad(labels=np.zeros((30, 3))), "None of the 30 queries shares a class"),
    "nobody annotated": (bad(labels=LABELS * 0 - 1), "label|class"),
    "a cut-off of 0": (bad(cutoffs=(0, 5)), "counts ranks from 1 on, got 0"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_is_refused_in_words(case):
    call, words = REFUSALS[case]
    with pytest.raises(ValueError, match=words):
        call()
