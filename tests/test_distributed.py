"""Two processes take the same step, and fit the same closed forms, as one."""

import subprocess
import sys

import pytest
import torch

from modeling_dualspace.distributed import all_gather, gather_named_rows, gather_rows, process_index, world_size

SPLITS = ["equal", "unequal", "one_empty"]
LOSSES = ["default", "paper", "batch", "shared", "explicit", "implicit"]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, root):
    """What each of two processes computed alone and together; see distributed_worker.py."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, str(root / "tests" / "distributed_worker.py")]
    started = [
        subprocess.Popen([*command, str(rank), "2", str(folder)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(2)]


def largest_difference(actual, expected):
    """Over all tensors, each in units of its own largest entry."""
    return max(
        ((one - other).abs().max() / other.abs().max()).item() for one, other in zip(actual, expected, strict=True)
    )


@pytest.mark.parametrize("split", SPLITS)
def test_rows_are_gathered_in_the_order_of_ranks_whatever_the_shards(two_processes, split):
    assert all(said["several"][f"{split}/gathered"].all() for said in two_processes)


def test_low_precision_rows_are_gathered_as_they_are(two_processes):
    for said in two_processes:
        assert said["several"]["low_precision"].tolist() == [[0, 0], [1, 1], [1, 1]]


def test_processes_that_bring_different_tensors_are_told_so(two_processes):
    for said in two_processes:
        assert "All processes must bring the same tensors" in said["several"]["mismatch"]


def test_after_finish_all_processes_have_the_same_batch_statistics(two_processes):
    one, other = (said["several"]["running"] for said in two_processes)
    assert torch.equal(one, other) and one.any()


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("loss", LOSSES)
def test_two_ranks_take_the_same_step_as_one(two_processes, split, loss):
    for said in two_processes:
        assert largest_difference(said["several"][f"{split}/gradient/{loss}"], said["one"][f"gradient/{loss}"]) < 1e-9


# Rows offset by 1e6 carry rounding of 1e-10 before anything is computed of them.
@pytest.mark.parametrize(("offset", "tolerance"), [(0, 1e-12), (1_000_000, 1e-9)])
@pytest.mark.parametrize("split", SPLITS)
def test_moments_of_two_ranks_are_those_of_one(two_processes, split, offset, tolerance):
    for said in two_processes:
        key = f"moments/{offset}"
        assert largest_difference(said["several"][f"{split}/{key}"], said["one"][key]) < tolerance


@pytest.mark.parametrize("player", ["critic", "model"])
@pytest.mark.parametrize("split", SPLITS)
def test_players_that_take_turns_take_the_same_steps_as_one_process(two_processes, split, player):
    for said in two_processes:
        key = f"player/{player}"
        assert largest_difference(said["several"][f"{split}/{key}"], said["one"][key]) < 1e-9


@pytest.mark.parametrize("fit", ["fit", "outputs", "pairs", "like"])
@pytest.mark.parametrize("split", SPLITS)
def test_two_ranks_fit_the_same_statistics_and_choose_the_same_fusion_as_one(two_processes, split, fit):
    for said in two_processes:
        actual, expected = said["several"][f"{split}/{fit}"], said["one"][fit]
        assert torch.equal(actual[-3:-1], expected[-3:-1])
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_one_process_gathers_its_own_rows_without_a_copy():
    rows = torch.ones(2, 3)
    assert (world_size(), process_index()) == (1, 0)
    assert gather_rows(rows) is rows and gather_named_rows({"rows": rows})["rows"] is rows
    assert all_gather(rows).shape == (1, 2, 3)
