"""Backbones by name, and again by what was saved of them."""

import copy
import json

import numpy as np
import pytest

from modeling_dualspace import transformers_backbones
from modeling_dualspace.audio_backbones import LogMel
from modeling_dualspace.backbones import Steps, digest
from modeling_dualspace.known_backbones import BUILT_IN, DEFAULTS, known_names, load_backbone, reload_backbone
from modeling_dualspace.visual_backbones import Thumbnail


def changed(backbone, **constants):
    """What another version, whose constants are others, would have saved: whole, and under its own name."""
    record = json.loads(json.dumps(backbone.record()))
    record["constants"] |= constants
    record["spec"] = f"{backbone.name}@{digest(record['constants'], record['weights'])}"
    return record


@pytest.fixture
def asked(monkeypatch):
    """With what the loader of transformers' models was called; it gives a thumbnail back."""
    calls = []

    def load(*arguments, **settings):
        calls.append((arguments, settings))
        return Thumbnail()

    monkeypatch.setattr(transformers_backbones, "transformers_backbone", load)
    return calls


@pytest.mark.parametrize("modality, name", [(modality, name) for modality in BUILT_IN for name in BUILT_IN[modality]])
def test_what_comes_with_dualspace_is_made_by_its_name(modality, name):
    backbone = load_backbone(modality, name)
    assert (backbone.modality, backbone.name, backbone.source, backbone.revision) == (modality, name, name, None)
    piece = np.zeros(1000, np.float32) if modality == "audio" else np.zeros((5, 7, 3), np.uint8)
    vectors = backbone.embed([[backbone.prepare(piece)] * (1 if modality == "audio" else backbone.steps.length)])
    assert vectors.shape == (1, backbone.width) and vectors.dtype == np.float32
    assert load_backbone(modality, name, device="cpu", dtype="bfloat16").spec == backbone.spec  # no network, no matter
    assert DEFAULTS[modality] in BUILT_IN[modality]


def test_frames_a_second_are_those_asked_for():
    assert load_backbone("visual", "thumbnail", fps=2.5).steps == Steps(rate=2.5, length=1, hop=1)
    assert load_backbone("visual", "thumbnail").steps.rate == 1
    assert load_backbone("visual", "thumbnail", fps=1.0).spec == load_backbone("visual", "thumbnail").spec


@pytest.mark.parametrize("fps", [0, -1, 0.001, 121, float("nan"), float("inf")])
@pytest.mark.parametrize("source", ["thumbnail", "me/any-model"])
def test_frames_a_second_out_of_reach_are_refused(source, fps):
    with pytest.raises(ValueError, match=r"^Frames a second lie between 0\.01 and 120, got \S+\.$"):
        load_backbone("visual", source, fps=fps)


@pytest.mark.parametrize("modality, name, other", [("audio", "thumbnail", "visual"), ("visual", "logmel", "audio")])
def test_a_name_of_the_other_modality_is_refused_with_those_there_are(modality, name, other):
    with pytest.raises(ValueError) as caught:
        load_backbone(modality, name)
    assert str(caught.value) == (
        f"`{name}` makes {other} features, not {modality} ones: the built-in {modality} backbones are "
        f"{', '.join(known_names(modality))}."
    )


def test_a_name_nobody_knows_is_a_sentence_that_lists_those_there_are():
    with pytest.raises(
        ValueError,
        match=r"^The audio backbone 'logmels' cannot be loaded \(built in: .*did you mean logmel\?\): ",
    ):
        load_backbone("audio", "logmels")


def test_everything_else_is_a_model_of_transformers_and_gets_all_that_was_asked(asked):
    steps = Steps(rate=8, length=16, hop=16)
    load_backbone("visual", "me/any-model", revision="main", fps=4, steps=steps, device="cpu", dtype="float16")
    load_backbone("audio", "/somewhere/model")
    nothing = dict.fromkeys(("revision", "fps", "steps", "device", "dtype", "settings"))
    asked_for = {"revision": "main", "fps": 4, "steps": steps, "device": "cpu", "dtype": "float16", "settings": None}
    assert asked == [(("visual", "me/any-model"), asked_for), (("audio", "/somewhere/model"), nothing)]


@pytest.mark.parametrize("backbone", [LogMel(), Thumbnail(), Thumbnail(fps=0.5)], ids=lambda one: one.spec)
def test_what_was_saved_gives_the_same_backbone_again(backbone):
    again = reload_backbone(backbone.modality, json.loads(json.dumps(backbone.record())))
    assert again.spec == backbone.spec and again.steps == backbone.steps and again.record() == backbone.record()


def test_a_network_is_loaded_by_its_source_and_commit_and_cut_as_it_was(asked):
    thumbnail = Thumbnail(fps=4)
    record = thumbnail.record() | {"source": "me/any-model", "revision": "0123abcd"}
    with pytest.raises(ValueError, match="steps .* then, .* now"):  # what `asked` gives back is not that one
        reload_backbone("visual", record, device="cpu", dtype="bfloat16")
    ((arguments, settings),) = asked
    assert arguments == ("visual", "me/any-model")
    assert settings == {
        "revision": "0123abcd", "fps": None, "steps": thumbnail.steps, "device": "cpu", "dtype": "bfloat16",
        "settings": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    "record, said",
    [
        (changed(LogMel(), bands=64), r"bands 64 then, 32 now"),
        (changed(LogMel(), window=512, floor=1e-8), r"floor 1e-08 then, 1e-10 now; window 512 then, 400 now"),
        (changed(LogMel(), dither=0.1), r"dither 0\.1 then, None now"),
        (changed(LogMel(), steps={"rate": 8, "length": 8, "hop": 8, "least": 0.5}), r"steps \{.*\} then, \{.*\} now"),
        (LogMel().record() | {"spec": f"mellog@{LogMel().spec[-8:]}"}, "another network"),
    ],
    ids=["another value", "two others", "one more", "other steps", "another name"],
)  # fmt: skip
def test_what_would_give_other_vectors_is_refused_and_it_says_how_they_differ(record, said):
    pattern = rf"^The audio features were made by {record['spec']}, and logmel is {LogMel().spec} here \({said}\): "
    with pytest.raises(ValueError, match=pattern + r"take the version that was used, or extract and train anew\.$"):
        reload_backbone("audio", record)


def test_steps_of_a_later_version_are_refused_by_a_sentence():
    steps = copy.deepcopy(LogMel().record()["constants"]["steps"]) | {"window": "hann"}
    with pytest.raises(ValueError, match="does not say how tracks are cut .* take the version that saved it"):
        reload_backbone("audio", changed(LogMel(), steps=steps))
