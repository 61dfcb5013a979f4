"""A stranger finds what is wrong with a release, whatever it is, and takes nothing wrong for right."""

import json
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import RepoCard, constants, get_token
from safetensors.numpy import load_file, save_file
from tiny_release import CLASSES, ITEMS, SIZES, write_data, write_run

from modeling_dualspace import release, stranger, verification
from modeling_dualspace.staging import Staged
from modeling_dualspace.verification import verify

MODEL, DATA, METRIC = "me/tiny-model", "me/tiny-data", "me/tiny_map"
LAZY = "\n        import modeling_dualspace.files  # only where it is needed\n"


@pytest.fixture(scope="module")
def staged(tmp_path_factory) -> dict[str, Staged]:
    """A data set, the metric and a model, as they would be pushed."""
    place, kept = tmp_path_factory.mktemp("made"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write_data(Path("tiny-data"))
        write_run(Path("runs", "tiny"), "tiny-data")
        Path("all.yaml").write_text(ITEMS)

        def keep(made, *, commits=None):
            for one in made:
                shutil.copytree(one.folder, place / "staged" / one.repo_id)
                places = {name: str(place / "tiny-data") for name in one.places}
                kept.append(Staged(one.kind, one.repo_id, one.repo_type, place / "staged" / one.repo_id, places=places))
            return {one.repo_id: [] for one in made}

        patch.setattr(release, "verify", keep)
        release.push("all.yaml", "me", dry_run=True, progress=False)
    return {one.repo_id: one for one in kept}


@pytest.fixture
def spoilt(staged, tmp_path):
    """`spoilt(repo_id, change)`: a copy of one of them, its folder changed."""

    def of(repo_id: str, change=lambda folder: None, name: str = "") -> Staged:
        one = staged[repo_id]
        folder = tmp_path / (name or change.__name__).strip("_<>") / repo_id.split("/")[1]
        shutil.copytree(one.folder, folder)
        change(folder)
        return Staged(one.kind, one.repo_id, one.repo_type, folder, places=dict(one.places))

    return of


@pytest.fixture
def here(monkeypatch, tmp_path):
    """`here(one, *steps)`: what these steps of a stranger, or all for which the package may be there, say of one."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")  # a stranger has one of its own
    monkeypatch.setattr(stranger, "STEPS_BEFORE", {kind: steps[:] for kind, steps in stranger.STEPS_BEFORE.items()})
    for step in (stranger.model_by_remote_code, stranger.pipeline_by_remote_code):
        stranger.STEPS_BEFORE["model"].remove(step)  # in this process the package is there

    def look(one: Staged) -> list[str]:
        file = tmp_path / "jobs.json"
        file.write_text(json.dumps([verification._job(one, [one], None)]))
        stranger.main(str(file))
        (job,) = json.loads(file.read_text())
        assert job["done"] or job["problems"], "nothing was looked at"
        return job["problems"]

    return look


def edit(folder: Path, name: str, old: str, new: str) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new, 1))


def edit_card(folder: Path, change) -> None:
    card = RepoCard((folder / "README.md").read_text())
    data = card.data.to_dict()
    change(data)
    text = card.text
    (folder / "README.md").write_text(f"---\n{yaml.dump(data, sort_keys=False)}---\n{text}")


def _weights(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if name.endswith("weight"))
    tensors[name] = tensors[name] + np.float32(0.01)
    save_file(tensors, file, metadata={"format": "pt"})


def _one_bit(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if name.endswith("weight"))
    tensors[name].flat[0] = np.nextafter(tensors[name].flat[0], np.float32(9))
    save_file(tensors, file, metadata={"format": "pt"})


def _not_a_number(folder):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    save_file({name: value * np.nan if value.dtype == np.float32 else value for name, value in tensors.items()}, file,
              metadata={"format": "pt"})  # fmt: skip


def _probe(folder):
    def change(data):
        data["dualspace"]["check"]["visual"][1][2] += 0.01

    edit_card(folder, change)


def _map(folder):
    def change(data):
        data["model-index"][0]["results"][0]["metrics"][0]["value"] += 0.001

    edit_card(folder, change)


def _fingerprint(folder):
    edit_card(folder, lambda data: data["dualspace"].update(fingerprint="0" * 16))


def _no_record(folder):
    edit_card(folder, lambda data: data.pop("dualspace"))


def _no_figures(folder):
    edit_card(folder, lambda data: data.pop("model-index"))


def _unknown_data(folder):
    def change(data):
        for entry in data["model-index"][0]["results"]:
            entry["dataset"]["args"]["fingerprint"] = "f" * 16

    edit_card(folder, change)


def _block(folder):
    edit(folder, "README.md", "import torch\n", "import torch\nimport nothing_like_that\n")


def _name(folder):
    edit(folder, "README.md", f'from_pretrained("{MODEL}"', 'from_pretrained("me/another"')


def _half(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_weights, "its audio embeddings are .* off those in its card"),
        (_one_bit, "its weights have the fingerprint .*, and its card says"),
        (_not_a_number, "gave embeddings that are not"),
        (_probe, "its visual embeddings are 0.01 off those in its card"),
        (_map, "MAP.* on test is 0.*, and its card says 0"),
        (_fingerprint, "its weights have the fingerprint .*, and its card says 0000"),
        (_no_record, "dualspace"),
        (_unknown_data, "the data set with fingerprint ffff.* is not at hand"),
        (_block, "block 1 of the Python in its card does not run: ModuleNotFoundError: No module named 'nothing_like"),
        (_half, "block . of the Python in its card does not run"),
        (_no_figures, "its card has no `model-index`"),
    ],
)
def test_a_model_that_is_wrong_is_found(change, words, spoilt, here):
    (problem,) = here(spoilt(MODEL, change))
    assert re.search(words, problem), problem


def test_what_is_right_is_taken_for_right(spoilt, here):
    for repo_id in (MODEL, DATA, METRIC):
        assert here(spoilt(repo_id, name="right")) == []


def test_a_block_for_another_repository_does_not_run_offline(spoilt, here):
    (problem,) = here(spoilt(MODEL, _name))
    assert problem.startswith("block 1 of the Python in its card does not run")


# ---- data sets


def _row(folder):
    (file,) = folder.rglob("test-*.parquet")
    table = pq.read_table(file)
    labels = table["label"].to_pylist()
    labels[3] = (labels[3] + 1) % len(CLASSES)
    position = table.column_names.index("label")
    pq.write_table(table.set_column(position, table.schema.field("label"), [labels]), file)


def _fewer(folder):
    (file,) = folder.rglob("test-*.parquet")
    pq.write_table(pq.read_table(file)[:-1], file)


def _counts(folder):
    def change(data):
        splits = data["dataset_info"]["splits"]
        next(one for one in splits if one["name"] == "test")["num_examples"] = SIZES["test"] + 1

    edit_card(folder, change)


def _no_split(folder):
    next(folder.rglob("validation-*.parquet")).unlink()


def _torn(folder):
    (file,) = folder.rglob("train-*.parquet")
    file.write_bytes(file.read_bytes()[:-50])


def _description(folder):
    edit_card(folder, lambda data: data["dataset_info"].pop("description"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_row, "the rows of configuration default have the fingerprint .*, and its card says"),
        (_fewer, "num_examples=29"),
        (_counts, "num_examples=31"),
        (_no_split, "the same data file format for all splits.*validation"),
        (_torn, "(?i)parquet|generating the dataset"),
        (_description, "the card of configuration default says no fingerprint"),
    ],
)
def test_a_data_set_that_is_wrong_is_found(change, words, spoilt, here):
    (problem,) = here(spoilt(DATA, change))
    assert re.search(words, problem), problem


def test_what_streams_otherwise_than_it_loads_is_found(spoilt, monkeypatch):
    """No file can be made to do so; a library could."""
    one = spoilt(DATA, name="right")
    load, job = datasets.load_dataset, verification._job(one, [one], None)
    other = datasets.Dataset.from_list([{"clip_id": "another"}]).to_iterable_dataset()

    def streaming_another(*words, streaming=False, **more):
        found = load(*words, **more)
        return dict.fromkeys(found, other) if streaming else found

    monkeypatch.setattr(datasets, "load_dataset", streaming_another)
    with pytest.raises(RuntimeError, match="streaming, the first row of train is another"):
        list(stranger.data_by_load_dataset(job))


# ---- the metric


def _compute(body):
    def change(folder):
        script = folder / "tiny_map.py"
        text = script.read_text()
        start = text.index("def _compute(")
        end = text.index(":\n", text.index(")", text.index("legacy", start) if "legacy" in text[start:] else start)) + 2
        script.write_text(text[:end] + f"        {body}\n" + text[end:])

    return change


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('return {"map": 0.5}', "KeyError|it computes map 0.5, and this package"),
        ('return {"map": float("nan")}', "KeyError|it computes map nan, and this package"),
        ("return {}", "KeyError|it computes map None, and this package"),
        ("raise ValueError('never')", "never"),
    ],
)
def test_a_metric_that_computes_something_else_is_found(body, words, spoilt, here):
    (problem,) = here(spoilt(METRIC, _compute(body), name="metric"))
    assert re.search(words, problem), problem


# ---- the process


def _needs_package(folder):
    edit(folder, "modeling_dualspace.py", "\nfrom torch", "\nimport modeling_dualspace.files\nfrom torch")


def _needs_package_later(folder):
    code = (folder / "modeling_dualspace.py").read_text()
    start = code.index('"""', code.index('"""', code.index("def get_audio_embeds(")) + 3) + 3
    (folder / "modeling_dualspace.py").write_text(code[:start] + LAZY + code[start:])


def called(one: Staged, name: str) -> Staged:
    """The same under another name."""
    text = (one.folder / "README.md").read_text()
    (one.folder / "README.md").write_text(text.replace(one.repo_id, name))
    one.repo_id, one.folder = name, one.folder.rename(one.folder.with_name(name.split("/")[1]))
    return one


def test_code_that_needs_this_package_is_found_by_a_process_without_it(spoilt):
    """Together with a model that does not: nobody is blamed for another."""
    wrong = called(spoilt(MODEL, _needs_package), "me/wrong")
    with pytest.raises(ValueError, match="me/wrong: its code needs this package, and should stand alone") as caught:
        verify([spoilt(MODEL, name="right"), wrong, spoilt(DATA, name="right")])
    assert MODEL not in str(caught.value) and DATA not in str(caught.value)


@pytest.mark.slow
def test_code_that_needs_this_package_later_is_found(spoilt):
    with pytest.raises(ValueError, match="its code needs this package"):
        verify([spoilt(MODEL, _needs_package_later)])


@pytest.mark.slow
def test_one_model_is_not_blamed_for_another(spoilt):
    good = called(spoilt(MODEL, name="right"), "me/good")
    with pytest.raises(ValueError, match="its code needs this package") as caught:
        verify([spoilt(MODEL, _needs_package), good])
    assert "me/good" not in str(caught.value)


@pytest.mark.parametrize("how", ["raise SystemExit(0)", "import sys; sys.exit()"])
def test_a_block_that_ends_the_process_is_found(how, spoilt, here):
    def ends(folder):
        edit(folder, "README.md", "import torch\n", f"import torch\n{how}\n")

    try:
        assert here(spoilt(MODEL, ends))
    except SystemExit:
        pytest.fail("it ended the process")


@pytest.fixture
def other_stranger(monkeypatch, tmp_path):
    """`other_stranger(code)`: a script in the place of ours."""

    def write(code: str) -> Path:
        file = tmp_path / "other.py"
        file.write_text(f"import json, os, sys\njobs = json.load(open(sys.argv[1]))\n{code}\n")
        monkeypatch.setattr(verification, "STRANGER", file)
        return file

    return write


def test_a_process_that_looked_at_nothing_saw_nothing(other_stranger, staged):
    other_stranger("")
    with pytest.raises((ValueError, RuntimeError)):
        verify(list(staged.values()))


def test_a_process_that_dies_is_told_of(other_stranger, staged):
    other_stranger("sys.exit('Killed by a fly')")
    with pytest.raises(RuntimeError, match="ended with 1: Killed by a fly"):
        verify(list(staged.values()))


def test_the_process_is_a_stranger(other_stranger, staged, monkeypatch, online, tmp_path):
    """No cache of ours, no token among its arguments, no network unless it is to look at the Hub."""
    told = tmp_path / "told.json"
    other_stranger(
        f"json.dump([dict(os.environ), sys.argv, os.getcwd(), sys.path], open({str(told)!r}, 'w'))\n"
        "[job.update(done=['seen'], finished=True) for job in jobs]; json.dump(jobs, open(sys.argv[1], 'w'))"
    )
    caches = ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE", "XDG_CACHE_HOME", "TRANSFORMERS_CACHE")
    for name in (*caches, "HF_TOKEN_PATH"):
        monkeypatch.setenv(name, str(tmp_path / "ours"))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789")
    monkeypatch.delenv("HF_TOKEN")
    Path(constants.HF_TOKEN_PATH).parent.mkdir(parents=True, exist_ok=True)
    Path(constants.HF_TOKEN_PATH).write_text(online.token)
    assert get_token() == online.token
    for on_hub in (False, True):
        commits = dict.fromkeys(staged, "0" * 40) if on_hub else None
        assert verify(list(staged.values()), commits=commits) == {name: ["seen"] for name in staged}
        environment, arguments, folder, path = json.loads(told.read_text())
        assert str(tmp_path / "ours") not in environment.values()
        assert environment["HF_HOME"].startswith(folder) and environment["HF_ENDPOINT"] == online.url
        assert (environment.get("HF_HUB_OFFLINE") == "1") is not on_hub
        assert environment.get("HF_TOKEN") == (online.token if on_hub else None)
        assert online.token not in " ".join(arguments) and "WANDB_API_KEY" not in environment
        assert not Path(folder).exists() and str(Path.cwd()) not in path[:1]


@pytest.mark.parametrize("code", [
    "sys.exit('401 for ' + os.environ['HF_TOKEN'])",
    "sys.exit('403 for https://s3.example/x?X-Amz-Signature=5ecre7')",
    "jobs[0]['problems'].append('401 for ' + os.environ['HF_TOKEN']); json.dump(jobs, open(sys.argv[1], 'w'))",
])  # fmt: skip
def test_what_it_says_holds_no_secret(code, other_stranger, staged, monkeypatch):
    token = "hf_" + "s" * 34
    monkeypatch.setenv("HF_TOKEN", token)
    other_stranger(code)
    with pytest.raises((ValueError, RuntimeError)) as caught:
        verify(list(staged.values()))
    assert token not in str(caught.value) and "5ecre7" not in str(caught.value)
