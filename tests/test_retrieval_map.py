"""The metric of `evaluate` gives what the kernel gives, however clips come in and from however many processes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from modeling_dualspace.retrieval_map import RetrievalMAP
from modeling_dualspace.retrieval_scores import retrieval_scores

# One process adds its share of the clips for each case, and prints what it gets. The metric needs neither transformers
# nor the rest of the package, which take the most time to import.
WORKER = """
import json, sys, types
root, clips, folder, rank, cases = sys.argv[1:4] + [int(sys.argv[4]), json.loads(sys.argv[5])]
sys.modules["transformers"] = None
sys.modules["modeling_dualspace"] = types.ModuleType("modeling_dualspace")
sys.modules["modeling_dualspace"].__path__ = [root + "/modeling_dualspace"]
import numpy as np
from modeling_dualspace.retrieval_map import RetrievalMAP
del sys.modules["transformers"]

columns = dict(np.load(clips))
for name, case in cases.items():
    world, edges = len(case["edges"]) - 1, case["edges"]
    if rank >= world:
        continue
    metric = RetrievalMAP(num_process=world, process_id=rank, experiment_id=name, cache_dir=folder, timeout=60)
    found = []
    for shift in case["shifts"]:
        share = slice(edges[rank], edges[rank + 1])
        mine = {
            "audio_embeds": columns["audio_embeds"][share],
            "visual_embeds": np.roll(columns["visual_embeds"], shift, axis=0)[share],
            "labels": columns[case["labels"]][share],
        }
        try:
            if len(mine["labels"]):
                metric.add_batch(**mine)
            found.append(metric.compute(detailed=True))
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    print(json.dumps([name, found]), flush=True)
"""
CASES = {
    "two processes": {"edges": [0, 9, 20]},
    "three processes": {"edges": [0, 3, 11, 20]},
    "the first has no clips": {"edges": [0, 0, 20]},
    "the last has no clips": {"edges": [0, 12, 20, 20]},
    "memberships": {"edges": [0, 9, 20], "labels": "members"},
    "memberships, the last has no clips": {"edges": [0, 20, 20], "labels": "members"},
    "memberships, the first has no clips": {"edges": [0, 0, 20], "labels": "members"},
}
TWICE = {"one result after another": {"edges": [0, 9, 20], "shifts": [0, 1]}}


def make_columns(clips=20, seed=0):
    """What the metric takes, in float32, as it stores it."""
    generator = np.random.default_rng(seed)
    audio = generator.normal(size=(clips, 4)).astype(np.float32)
    visual = audio + generator.normal(size=(clips, 4)).astype(np.float32)
    return {"audio_embeds": audio, "visual_embeds": visual, "labels": np.arange(clips) % 3}


def expected_of(columns, **settings):
    return retrieval_scores(columns["audio_embeds"], columns["visual_embeds"], columns["labels"], **settings)


@pytest.fixture
def make_metric(tmp_path):
    """`make_metric()`: one with a cache of its own."""
    return lambda **settings: RetrievalMAP(cache_dir=str(tmp_path / "cache"), **settings)


@pytest.fixture(scope="module")
def answers(tmp_path_factory, root):
    """By case, what each of its processes got; three processes run through all cases."""
    folder = tmp_path_factory.mktemp("processes")
    columns = make_columns()
    np.savez(folder / "clips.npz", **columns, members=np.eye(3)[columns["labels"]])
    cases = {name: {"labels": "labels", "shifts": [0]} | case for name, case in (CASES | TWICE).items()}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, str(root), str(folder / "clips.npz"), str(folder / "cache")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    processes = [subprocess.Popen([*command, str(rank), json.dumps(cases)], **pipes) for rank in range(3)]
    result = {}
    for process in processes:
        printed, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]
        for name, found in map(json.loads, printed.splitlines()):
            result.setdefault(name, []).append(found)
    return result


# One process.


@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist, torch.from_numpy])
def test_batches_and_single_clips_mix_and_give_what_the_kernel_gives(make_metric, kind):
    columns = make_columns()
    rows = {name: kind(column) for name, column in columns.items()}
    metric = make_metric()
    metric.add(**{name: column[0] for name, column in rows.items()})
    metric.add_batch(**{name: column[1:8] for name, column in rows.items()})
    metric.add(**{name: column[8] for name, column in rows.items()})
    found = metric.compute(**{name: column[9:] for name, column in rows.items()})
    expected = expected_of(columns)
    assert found == {
        "map": expected["map"],
        "audio_to_visual": expected["audio_to_visual"]["map"],
        "visual_to_audio": expected["visual_to_audio"]["map"],
    }


@pytest.mark.parametrize("kind", [np.asarray, np.ndarray.tolist, torch.from_numpy])
def test_clips_may_belong_to_several_classes(make_metric, kind):
    columns = make_columns()
    members = np.eye(3)[columns["labels"]]
    members[::4, 1], members[5] = 1, 0
    metric = make_metric()
    metric.add(audio_embeds=columns["audio_embeds"][0], visual_embeds=columns["visual_embeds"][0], labels=members[0])
    rest = {name: column[1:] for name, column in (columns | {"labels": members}).items()}
    metric.add_batch(**rest | {"labels": kind(rest["labels"])})
    found = metric.compute(detailed=True)
    assert found == expected_of(columns | {"labels": members})
    assert found["audio_to_visual"]["excluded_queries"] == 1


def test_details_are_the_whole_table(make_metric):
    columns, settings = make_columns(), {"cutoffs": (1, 7, 99), "class_names": ["dog", "drum", "rain"]}
    found = make_metric().compute(**columns, detailed=True, legacy_prefix_average=True, **settings)
    assert found == expected_of(columns, legacy_prefix_average=True, **settings)
    assert list(found["audio_to_visual"]["per_class"]) == ["dog", "drum", "rain"]


@pytest.mark.parametrize("unknown", [-1, -100])
def test_clips_that_nobody_annotated_are_left_out(make_metric, unknown):
    columns = make_columns()
    columns["labels"][[2, 9]] = unknown
    found = make_metric().compute(**columns, detailed=True)
    assert found == expected_of(columns) and found["unlabelled"] == 2


def test_a_metric_starts_anew_after_each_result(make_metric):
    columns, metric = make_columns(), make_metric()
    first = metric.compute(**columns)
    assert metric.compute(**make_columns(seed=1)) != first
    metric.add_batch(**make_columns(seed=1))
    metric.compute()
    assert metric.compute(**columns) == first


def test_a_metric_in_memory_writes_no_clips(make_metric, tmp_path):
    found = make_metric(keep_in_memory=True).compute(**make_columns(), detailed=True)
    assert found == expected_of(make_columns())
    assert not list(tmp_path.rglob("*.arrow"))


def ragged(name):
    columns = make_columns()
    rows = (np.eye(3)[columns["labels"]] if name == "labels" else columns[name]).tolist()
    return columns | {name: [*rows[:-1], rows[-1][:2]]}


def spoiled(name, value):
    columns = make_columns()
    columns[name][7] = value
    return columns


REFUSALS = {
    "audio of two widths": (ragged("audio_embeds"), r"`audio_embeds` must be of one width, got \[2, 4\]"),
    "visuals of two widths": (ragged("visual_embeds"), r"`visual_embeds` must be of one width, got \[2, 4\]"),
    "memberships of two widths": (ragged("labels"), r"`labels` must be of one width, got \[2, 3\]"),
    "other widths": (make_columns() | {"visual_embeds": np.ones((20, 3))}, r"pair up.*\(20, 4\) and \(20, 3\)"),
    "fewer labels": (make_columns() | {"labels": [0, 1]}, "'audio_embeds': 20, .*'labels': 2"),
    "NaN": (spoiled("visual_embeds", np.nan), "Visual embeddings must be finite.*row 7"),
    "infinity": (spoiled("audio_embeds", np.inf), "Audio embeddings must be finite.*row 7"),
    "nobody annotated": (make_columns() | {"labels": [-1] * 20}, "label|class"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_bad_input_is_refused_in_words(case, make_metric):
    columns, words = REFUSALS[case]
    with pytest.raises(ValueError, match=words):
        make_metric(keep_in_memory=True).compute(**columns)


# Several processes.


@pytest.mark.parametrize("case", CASES)
def test_several_processes_give_the_first_what_one_process_gives(case, answers):
    columns = make_columns()
    labels = np.eye(3)[columns["labels"]] if case.startswith("memberships") else columns["labels"]
    first, *others = answers[case]
    assert first == [expected_of(columns | {"labels": labels})]  # to the last digit: JSON keeps them all
    assert others == [[None]] * (len(CASES[case]["edges"]) - 2)


def test_several_processes_give_one_result_after_another(answers):
    # A process that is ahead must not write over clips that the first has yet to read.
    columns = make_columns()
    expected = [
        expected_of(columns | {"visual_embeds": np.roll(columns["visual_embeds"], shift, axis=0)}) for shift in (0, 1)
    ]
    assert answers["one result after another"] == [expected, [None, None]]
