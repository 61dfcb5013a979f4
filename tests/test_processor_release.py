"""A processor is released with its model: checked, told in the card, and tried by a stranger."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_release import CLASSES, refusal

from modeling_dualspace import DualSubspaceConfig, DualSubspaceModel, DualSubspaceProcessor, stranger
from modeling_dualspace.cli import main
from modeling_dualspace.data_card import DataCard
from modeling_dualspace.feature_dataset import write_dataset
from modeling_dualspace.feature_parts import FeatureSource
from modeling_dualspace.feature_schema import feature_columns
from modeling_dualspace.processor_release import check_features, released_processor
from modeling_dualspace.release import push


def clips(split: str) -> dict:
    """As wide as what the default backbones make."""
    generator, rows = np.random.default_rng(len(split)), 30
    return {
        "clip_id": [f"{split}/{row}" for row in range(rows)],
        "audio_features": generator.standard_normal((rows, 128)),
        "visual_features": generator.standard_normal((rows, 1024)),
        "label": np.arange(rows) % 3,
    }


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> dict:
    """A run with a processor, pushed dry: what was said of it, and its staged folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("made"))
        processor, run = DualSubspaceProcessor(), Path("runs/films").absolute()
        specs = dict(part.split("=", 1) for part in processor.feature_spec.split())
        source = FeatureSource(
            name="default",
            features=feature_columns(128, 1024, CLASSES),
            splits={split: [f"default/{split}"] for split in ("train", "test")},
            rows=lambda part: [clips(part.split("/")[1])],
            **specs,
        )
        write_dataset("films-data", [source], DataCard("Films", "films-data", license="mit"), progress=False)
        batch = {name: torch.from_numpy(clips("train")[f"{name}_features"]).float() for name in ("audio", "visual")}
        batch = {f"{name}_features": rows for name, rows in batch.items()} | {"labels": torch.arange(30) % 3}
        config = DualSubspaceConfig(
            audio_hidden=[8], visual_hidden=[8], num_labels=3, feature_spec=processor.feature_spec
        )
        model = DualSubspaceModel(config).eval()
        model.prepare([batch])
        model.finish([batch])
        model.save_pretrained(run / "model")
        processor.save_pretrained(run / "model")
        assert main(["evaluate", str(run), "films-data"]) == 0
        out = Path("staged").absolute()
        result = push(str(run), "me/films", license="mit", dry_run=True, out=out)
        return {"run": run, "result": json.dumps(result, default=str), "folder": next(out.rglob("config.json")).parent}


def job(folder: Path) -> dict:
    """What a stranger is told of a folder that lies here."""
    return {"where": str(folder), "revision": None, "repo_type": "model", "repo_id": "me/films"}


def test_a_stranger_tries_it_with_the_package_and_without_and_so_does_the_python_of_the_card(released):
    assert released["result"].count("its processor makes the features in its card") == 2
    for task in ("audio-visual-retrieval-remote", "audio-visual-retrieval"):  # without the package, and with it
        assert f"its pipeline ({task}) gives the embeddings in its card" in released["result"]
    card = (released["folder"] / "README.md").read_text()
    assert "AutoProcessor.from_pretrained" in card and "processor_config.json" in card
    assert released["result"].count("of the Python in its card runs") == card.count("```python\n") == 4
    assert {"media.py", "processing_dualspace.py"} < {path.name for path in released["folder"].glob("*.py")}


def test_a_processor_that_makes_other_features_is_found(released, tmp_path):
    (line,) = stranger.processor_by_package(job(released["folder"]))
    assert "logmel@" in line and "thumbnail@" in line
    card = (released["folder"] / "README.md").read_text()
    expected = check_features(DualSubspaceProcessor())["audio"][0]
    for name in ("config.json", "processor_config.json"):
        (tmp_path / name).write_bytes((released["folder"] / name).read_bytes())
    (tmp_path / "README.md").write_text(card.replace(f"- {expected}\n", "- 3.25\n", 1))
    with pytest.raises(RuntimeError, match=r"makes audio features \[.*\], and its card says \[3\.25"):
        list(stranger.processor_by_package(job(tmp_path)))


def test_where_none_is_declared_nothing_is_tried(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert list(stranger.processor_by_package(job(tmp_path))) == []
    assert list(stranger.processor_by_remote_code(job(tmp_path))) == []
    assert released_processor(tmp_path, None, private=False) is None


def saved(folder: Path, **parts) -> Path:
    """A saved processor, parts of its audio backbone replaced."""
    content = DualSubspaceProcessor().to_dict()
    content["audio"] |= parts
    folder.mkdir(exist_ok=True)
    (folder / "processor_config.json").write_text(json.dumps(content))
    return folder


def test_a_backbone_that_lies_on_this_machine_goes_nowhere(tmp_path):
    text = refusal(lambda: released_processor(saved(tmp_path, source=str(tmp_path)), None, private=True))
    assert (
        "a folder of this machine for its audio backbone" in text
        and "bring that to the Hub (`hf upload me/network" in text
    )


def test_a_network_that_anybody_can_convert_is_named_by_its_name(tmp_path):
    assert released_processor(saved(tmp_path, source="vggish"), None, private=False).source("audio") == "vggish"


def test_a_public_model_names_no_private_backbone(tmp_path, monkeypatch):
    folder = saved(tmp_path, source="me/secret-ears")
    monkeypatch.setattr("modeling_dualspace.processor_release.is_public", lambda name, kind: False)
    assert "me/secret-ears, which is not public" in refusal(lambda: released_processor(folder, None, private=False))
    assert released_processor(folder, None, private=True).source("audio") == "me/secret-ears"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"audio": 3}'])
def test_what_is_no_processor_stops_it(tmp_path, content):
    (tmp_path / "processor_config.json").write_text(content)
    assert "is no processor that can be loaded" in refusal(lambda: released_processor(tmp_path, None, private=False))
