"""Checkpoints: what is read is to the bit what was written; what was damaged is passed over, and nothing is lost."""

import errno
import json
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from modeling_dualspace.checkpoints import Checkpoint, checkpoints_in, load_checkpoint, save_checkpoint
from modeling_dualspace.files import recover
from modeling_dualspace.optimizers import load_optimizer_tensors, make_optimizer, optimizer_tensors
from modeling_dualspace.recipe import OptimizerSettings

PARTS = ("weights.safetensors", "optimizers.safetensors", "progress.json")


def checkpoint(step, rows=4):
    return Checkpoint(step, {"w": torch.full((rows, 3), float(step))}, {"model/w/m": torch.zeros(3)}, {"epoch": step})


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoints of the steps 1, 2 and 3."""
    for step in (1, 2, 3):
        save_checkpoint(tmp_path / "checkpoints", checkpoint(step), keep=5)
    return tmp_path / "checkpoints"


def same(one, other):
    assert one.step == other.step and one.progress == other.progress
    for found, expected in ((one.weights, other.weights), (one.optimizers, other.optimizers)):
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


# Written and read


def test_what_is_read_is_to_the_bit_what_was_written(tmp_path):
    tiny = torch.tensor([1e-45, -0.0, 3.4e38, float("inf")])
    weights = {
        "float": tiny, "double": tiny.double() / 3, "half": torch.randn(2, 3).half(), "whole": torch.tensor(7),
        "bfloat": torch.randn(5).bfloat16(), "flag": torch.tensor([True, False]), "turned": torch.randn(3, 4).T,
        "none": torch.zeros(0, 3), "slice": torch.randn(9, 9)[2:4, ::3], "grad": torch.randn(2, requires_grad=True),
    }  # fmt: skip
    progress = {"best": None, "sums": {"loss": [0.1 + 0.2, 3]}, "name": "ü", "seconds": 1e-17, "deep": {"a": [1, [2]]}}
    written = Checkpoint(123, weights, {"model/float/step": torch.tensor(3.0)}, progress)
    place = save_checkpoint(tmp_path, written, keep=1)
    assert place.name == "step-00000123" and sorted(path.name for path in place.iterdir()) == sorted(PARTS)
    same(load_checkpoint(tmp_path), written)


def test_a_checkpoint_of_nothing_but_progress_is_one(tmp_path):
    save_checkpoint(tmp_path, Checkpoint(0, {}, {}, {"phase": "done"}), keep=1)
    same(load_checkpoint(tmp_path), Checkpoint(0, {}, {}, {"phase": "done"}))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_optimiser_that_goes_on_does_what_one_that_never_stopped_does(tmp_path, make_model, batch, name, momentum):
    settings = OptimizerSettings(name, lr=0.01, momentum=momentum, weight_decay=0.1)

    def made():
        torch.manual_seed(0)
        model = make_model(normalization="layer")
        model.prepare([batch])
        owned = {name: one for name, one in model.named_parameters() if one.requires_grad}
        return model, owned, make_optimizer(owned, settings)

    def steps(model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()

    model, owned, optimizer = made()
    steps(model, optimizer, 3)
    save_checkpoint(tmp_path, Checkpoint(3, model.state_dict(), optimizer_tensors(optimizer, owned), {}), keep=1)
    steps(model, optimizer, 3)

    other, others, resumed = made()
    found = load_checkpoint(tmp_path)
    other.load_state_dict(found.weights)
    load_optimizer_tensors(resumed, others, found.optimizers)
    steps(other, resumed, 3)
    assert all(torch.equal(one, two) for one, two in zip(owned.values(), others.values(), strict=True))
    left, right = optimizer_tensors(optimizer, owned), optimizer_tensors(resumed, others)
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    assert bool(left) == (name == "adamw" or momentum > 0)


# Kept


def test_the_newest_few_are_kept(saved):
    save_checkpoint(saved, checkpoint(40), keep=2)
    assert [path.name for path in checkpoints_in(saved)] == ["step-00000040", "step-00000003"]


def test_steps_are_ordered_as_numbers_and_what_has_another_name_is_left_alone(tmp_path):
    for name in ("notes", "step-last", "step-7", "step-000000x1"):
        (tmp_path / name).mkdir()
    for step in (99_999_999, 100_000_000, 5):
        save_checkpoint(tmp_path, checkpoint(step), keep=5)
    # Of a former try there may be later steps, taken from a state that is no more.
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-00000005"]
    assert len(list(tmp_path.iterdir())) == 5
    for step in (99_999_999, 100_000_000):
        save_checkpoint(tmp_path, checkpoint(step), keep=5)
    assert load_checkpoint(tmp_path).step == 100_000_000


def test_a_step_that_is_saved_again_takes_the_place_of_the_former(saved):
    save_checkpoint(saved, checkpoint(3, rows=2), keep=5)
    assert load_checkpoint(saved).weights["w"].shape == (2, 3)
    assert len(list(saved.iterdir())) == 3


# Damaged


def emptied(file):
    file.write_bytes(b"")


def cut(file):
    file.write_bytes(file.read_bytes()[:-7])


def flipped(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def gone(file):
    file.unlink()


def a_folder(file):
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("damage", [emptied, cut, flipped, gone, a_folder])
@pytest.mark.parametrize("part", PARTS[:2])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(saved, warnings_logged, damage, part):
    damage(saved / "step-00000003" / part)
    same(load_checkpoint(saved), checkpoint(2))
    assert "step-00000003 is damaged and passed over" in warnings_logged.text


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"null", b"{}", b'{"step": 3, "digests": {}, "progress": {}}', b"\xff\xfe"]
)
def test_progress_that_is_none_falls_back_too(saved, warnings_logged, content):
    (saved / "step-00000003" / "progress.json").write_bytes(content)
    same(load_checkpoint(saved), checkpoint(2))
    assert "damaged" in warnings_logged.text


def test_a_number_of_the_progress_that_is_another_is_noticed(saved):
    file = saved / "step-00000003" / "progress.json"
    file.write_text(file.read_text().replace('"epoch": 3', '"epoch": 8'))
    same(load_checkpoint(saved), checkpoint(2))


def test_two_damaged_ones_fall_back_to_the_third_and_three_to_a_new_begin(saved, warnings_logged):
    for path in (saved / "step-00000003").iterdir():
        path.unlink()
    flipped(saved / "step-00000002" / PARTS[0])
    same(load_checkpoint(saved), checkpoint(1))
    cut(saved / "step-00000001" / "progress.json")
    assert load_checkpoint(saved) is None
    assert "No checkpoint in" in warnings_logged.text and "begins anew" in warnings_logged.text


def test_where_nothing_was_saved_nothing_is_found_and_nothing_said(tmp_path, warnings_logged):
    assert load_checkpoint(tmp_path / "absent") is None and load_checkpoint(tmp_path) is None
    assert not warnings_logged.text


def test_nothing_is_unpickled(saved):
    for file in saved.rglob("*"):
        assert file.is_dir() or file.suffix in (".safetensors", ".json")
    assert json.loads((saved / "step-00000003" / "progress.json").read_text())["step"] == 3


# Full, and killed


@contextmanager
def files_of_at_most(size):
    """As on a full disk: the system cuts a write short."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_the_system_cuts_short_leaves_the_former_ones_and_nothing_else(saved):
    for step in (3, 4):
        with files_of_at_most(2000), pytest.raises(OSError, match="too large"):
            save_checkpoint(saved, checkpoint(step, rows=1000), keep=1)
    assert len(list(saved.iterdir())) == 3
    same(load_checkpoint(saved), checkpoint(3))


@pytest.mark.parametrize("part", PARTS)
def test_a_full_disk_leaves_the_former_ones_and_nothing_else(saved, monkeypatch, part):
    def full(write):
        def of(path, *args, **kwargs):
            if path.name == part:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(path, *args, **kwargs)

        return of

    monkeypatch.setattr(Path, "write_bytes", full(Path.write_bytes))
    monkeypatch.setattr(Path, "write_text", full(Path.write_text))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved, checkpoint(4), keep=1)
    assert len(list(saved.iterdir())) == 3
    same(load_checkpoint(saved), checkpoint(3))


def test_who_was_killed_between_the_two_renames_has_the_former_one_again(saved, monkeypatch):
    class KilledError(BaseException):
        pass

    renamed = []

    def rename(path, target, original=Path.rename):
        if renamed:  # nothing runs in a process that is no more
            raise KilledError
        renamed.append(path)
        return original(path, target)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Path, "rename", rename)
        patch.setattr("shutil.rmtree", lambda *args, **kwargs: None)
        save_checkpoint(saved, checkpoint(3, rows=9), keep=5)
    assert {path.name for path in saved.iterdir()} >= {".tmp-new-step-00000003", ".tmp-former-step-00000003"}
    assert load_checkpoint(saved).step == 2
    recover(saved)
    same(load_checkpoint(saved), checkpoint(3))
    assert len(list(saved.iterdir())) == 3


def test_tensors_that_share_their_memory_are_saved(tmp_path):
    shared = torch.randn(3, 3)
    save_checkpoint(tmp_path, Checkpoint(1, {"one": shared, "other": shared, "part": shared[:2]}, {}, {}), keep=1)
    found = load_checkpoint(tmp_path).weights
    assert torch.equal(found["one"], found["other"]) and torch.equal(found["part"], shared[:2])
