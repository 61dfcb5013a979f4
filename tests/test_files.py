"""Folders and files that are whole or not there, and fingerprints."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from modeling_dualspace.files import (
    MANIFEST,
    atomic_folder,
    model_fingerprint,
    recover,
    short_digest,
    swap_in,
    write_json,
)


def made(out, text="new", **settings):
    with atomic_folder(out, **settings) as folder:
        (folder / "README.md").write_text(text)


def test_a_folder_appears_when_the_block_has_ended_and_not_before(tmp_path):
    with atomic_folder(tmp_path / "deep" / "out") as folder:
        (folder / "README.md").write_text("x")
        assert not (tmp_path / "deep" / "out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep" / "out" / "README.md").read_text() == "x"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_nothing(tmp_path, error):
    with pytest.raises(error), atomic_folder(tmp_path / "out") as folder:
        (folder / "data").mkdir()
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_former_folder_stays_as_it_was_when_its_replacement_fails(tmp_path):
    made(tmp_path / "out", "old")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out", overwrite=True):
        raise RuntimeError
    assert (tmp_path / "out" / "README.md").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_former_folder_is_replaced_whole_and_only_on_demand(tmp_path):
    made(tmp_path / "out", "old")
    with pytest.raises(ValueError, match="exists already and is not empty"):
        made(tmp_path / "out")
    made(tmp_path / "out", overwrite=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", MANIFEST}


def test_what_is_not_ours_is_never_overwritten(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "README.md").write_text("# A project")
    with pytest.raises(ValueError, match="was not made here"):
        made(tmp_path / "photos", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        made(tmp_path / "file", overwrite=True)
    (tmp_path / "empty").mkdir()
    made(tmp_path / "empty")


@pytest.mark.parametrize("change", ["one.mp4", "deep/one.mp4", "README.md"])
def test_what_was_put_into_a_folder_or_changed_there_is_not_lost(tmp_path, change):
    made(tmp_path / "out")
    (tmp_path / "out" / change).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / change).write_text("mine, and precious")
    with pytest.raises(ValueError, match=rf"{change} was put there or changed .*1 files"):
        made(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / change).read_text() == "mine, and precious"


def test_the_place_one_stands_in_is_not_replaced(tmp_path, monkeypatch):
    (tmp_path / "here" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "below")
    for out in (".", "..", tmp_path / "here"):
        with pytest.raises(ValueError, match="is where you are"):
            made(out)


def test_a_folder_killed_between_two_renames_comes_back(tmp_path):
    made(tmp_path / "a[1]", "old")
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    start = f".tmp-a[1]-{socket.gethostname()}-{dead.stdout.strip()}-0123"
    (tmp_path / "a[1]").rename(tmp_path / f"{start}-former")
    (tmp_path / start).mkdir()
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "a[1]"):
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["a[1]"]
    assert (tmp_path / "a[1]" / "README.md").read_text() == "old"


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    made(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    made(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "README.md").read_text() == "new"


def test_what_is_made_has_the_rights_of_any_new_folder(tmp_path):
    made(tmp_path / "out")
    (tmp_path / "other").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.skipif(os.name != "posix", reason="asks whether a process lives, which only POSIX can without harm")
def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path):
    code = (
        "import sys, time\nfrom modeling_dualspace.files import atomic_folder\n"
        "with atomic_folder(sys.argv[1]):\n    print('in', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"in\n"
    running = [path.name for path in tmp_path.iterdir()]
    made(tmp_path / "other")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out"):
        raise RuntimeError  # a living process's folder is not touched
    assert [path.name for path in tmp_path.iterdir() if path.name != "other"] == running
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.05)
    made(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_a_digest_keeps_its_parts_apart():
    assert short_digest([b"ab", b""]) != short_digest([b"a", b"b"]) != short_digest([b"ab"])
    assert len(short_digest([])) == 16


# Files of JSON


def test_what_is_written_as_json_is_read_again_and_lies_alone(tmp_path):
    content = {"map": 0.1 + 0.2, "name": "Töne", "none": None, "list": [1, True]}
    out = write_json(tmp_path / "deep" / "er" / "a.json", content)
    assert out == tmp_path / "deep" / "er" / "a.json" and json.loads(out.read_text("utf-8")) == content
    assert "Töne" in out.read_text("utf-8") and out.read_bytes().endswith(b"}\n")
    assert [path.name for path in out.parent.iterdir()] == ["a.json"]
    write_json(str(out), [1])
    assert json.loads(out.read_text()) == [1] and len(list(out.parent.iterdir())) == 1


@pytest.mark.parametrize("content", [{"map": float("nan")}, [float("inf")], {"when": object()}, {"a": {1, 2}}])
def test_what_json_cannot_hold_is_refused_before_anything_is_touched(tmp_path, content):
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "new" / "a.json", content)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_write_that_fails_leaves_the_former_file_and_nothing_else(tmp_path, monkeypatch, error, step):
    out = write_json(tmp_path / "a.json", "old")

    def fail(self, *arguments):
        if step == "write_bytes":
            with open(self, "wb") as file:
                file.write(b"ha")
        raise error

    monkeypatch.setattr(Path, step, fail)
    with pytest.raises(type(error)):
        write_json(out, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"] and json.loads(out.read_text()) == "old"


def test_a_folder_is_not_written_over(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="out is a folder, and a file will be written: name one in it"):
        write_json(tmp_path / "out", {})
    assert list((tmp_path / "out").iterdir()) == []


def test_a_link_to_a_file_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real" / "a.json")
    write_json(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real" / "a.json").read_text()) == "new"
    assert len(list((tmp_path / "real").iterdir())) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX alone has pipes with names")
def test_what_is_no_file_is_not_replaced_by_one(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # a device is such a thing too: root would lose /dev/null
    with pytest.raises((ValueError, OSError), match="pipe"):
        write_json(tmp_path / "pipe", {})
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("below", ["a.json", "deep/a.json"])
def test_a_file_in_the_way_is_named_as_what_it_is(tmp_path, below):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises((ValueError, NotADirectoryError), match="taken"):
        write_json(tmp_path / "taken" / below, {})
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_long_name_that_fits_is_no_trouble(tmp_path):
    assert write_json(tmp_path / f"{'a' * 250}.json", {}).is_file()


# Fingerprints of models


def weights(feature_spec=None, model_type="toy", **tensors):
    """A model of these tensors: all that a fingerprint asks for."""
    config = SimpleNamespace(model_type=model_type, feature_spec=feature_spec)
    return SimpleNamespace(config=config, state_dict=lambda: tensors)


def by_contract(model):
    """`model_type`, `feature_spec`, then name, dtype, shape and bytes of each tensor, by name."""
    parts = [model.config.model_type.encode(), str(model.config.feature_spec).encode()]
    for name in sorted(model.state_dict()):
        tensor = model.state_dict()[name]
        content = bytes(tensor.cpu().contiguous().view(-1).view(torch.uint8).tolist())
        parts += [name.encode(), str(tensor.dtype).encode(), str(tuple(tensor.shape)).encode(), content]
    whole = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    return hashlib.sha256(whole).hexdigest()[:16]


def test_a_model_has_the_fingerprint_of_the_contract(fitted):
    assert model_fingerprint(fitted) == by_contract(fitted)
    fitted.config.feature_spec = "audio=a@1 visual=v@2"
    assert model_fingerprint(fitted) == by_contract(fitted)


TENSORS = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.zeros(2, dtype=torch.int64)}


@pytest.mark.parametrize(
    "other",
    [
        weights(**TENSORS | {"b": torch.arange(6.0).reshape(2, 3) + torch.eye(2, 3) * 1e-6}),
        weights(**TENSORS | {"b": torch.arange(6.0).reshape(3, 2)}),
        weights(**TENSORS | {"b": torch.arange(6.0).reshape(2, 3).double()}),
        weights(**TENSORS | {"a": torch.zeros(4, dtype=torch.int32)}),
        weights(a=TENSORS["a"], c=TENSORS["b"]),
        weights(a=TENSORS["a"]),
        weights(**TENSORS, c=torch.zeros(0)),
        weights(**TENSORS, feature_spec="audio=a@1 visual=v@2"),
        weights(**TENSORS, model_type="dual"),
    ],
    ids=["a weight", "shape", "width", "type", "name", "fewer", "an empty one", "features", "kind"],
)
def test_a_fingerprint_changes_with_all_that_makes_a_model(other):
    assert model_fingerprint(other) != model_fingerprint(weights(**TENSORS))
    assert model_fingerprint(other) == by_contract(other)


def test_a_fingerprint_does_not_depend_on_order_strides_or_what_else_a_config_says():
    known = model_fingerprint(weights(**TENSORS))
    assert known == model_fingerprint(weights(**dict(sorted(TENSORS.items()))))
    assert known == model_fingerprint(weights(**TENSORS | {"b": TENSORS["b"].T.contiguous().T}))
    assert known == model_fingerprint(weights(**TENSORS | {"b": TENSORS["b"].clone().requires_grad_()}))
    assert known == model_fingerprint(weights(**TENSORS | {"b": torch.cat([TENSORS["b"]] * 2)[2:]}))
    foreign = weights(**TENSORS)
    foreign.config = SimpleNamespace(model_type="toy", id2label={0: "dog"})  # without a `feature_spec`
    assert known == model_fingerprint(foreign)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.uint8, torch.complex64])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3)])
def test_every_type_and_shape_has_a_fingerprint(dtype, shape):
    one, other = (weights(a=torch.full(shape, value).to(dtype)) for value in (0, 1))
    assert (model_fingerprint(one) != model_fingerprint(other)) == (0 not in shape)


def test_saved_and_loaded_a_model_has_the_same_fingerprint(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    assert model_fingerprint(type(fitted).from_pretrained(tmp_path)) == model_fingerprint(fitted)
    assert model_fingerprint(fitted.train()) == model_fingerprint(fitted.requires_grad_(False))
    with torch.no_grad():
        next(fitted.parameters()).view(-1)[0] += 1e-3
    assert model_fingerprint(type(fitted).from_pretrained(tmp_path)) != model_fingerprint(fitted)


def swapped(out, text):
    with swap_in(out) as folder:
        for name in ("a", "b"):
            (folder / name).write_text(text)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_is_swapped_in_is_whole_or_not_there(tmp_path, error):
    for text in ("one", "two"):
        swapped(tmp_path / "deep" / "out", text)
    with pytest.raises(error), swap_in(tmp_path / "deep" / "out") as folder:
        (folder / "a").write_text("three")
        raise error
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert {path.read_text() for path in (tmp_path / "deep" / "out").iterdir()} == {"two"}


def test_where_the_new_cannot_take_its_place_the_former_stays(tmp_path, monkeypatch):
    swapped(tmp_path / "out", "one")

    def rename(path, target, original=Path.rename):
        if path.name.startswith(".tmp-new"):
            raise OSError("no")
        return original(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="no"):
        swapped(tmp_path / "out", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "a").read_text() == "one"


def test_a_process_that_was_killed_while_it_swapped_leaves_one_that_is_whole(tmp_path):
    swapped(tmp_path / "out", "0")
    for delay in range(20):
        child = os.fork()
        if not child:
            for number in range(10_000):
                swapped(tmp_path / "out", str(number))
            os._exit(0)
        time.sleep(0.005 + 0.0007 * delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        recover(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert len({path.read_text() for path in (tmp_path / "out").iterdir()}) == 1
        assert len(list((tmp_path / "out").iterdir())) == 2


def test_what_could_not_be_removed_the_last_time_is_not_in_the_way(tmp_path):
    swapped(tmp_path / "out", "one")
    swapped(tmp_path / ".tmp-former-out", "none")
    swapped(tmp_path / "out", "two")
    assert (tmp_path / "out" / "a").read_text() == "two"
