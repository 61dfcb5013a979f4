"""The processor: films, sounds and pictures as the model's inputs, saved beside it and loaded where nothing else is."""

import copy
import json
import math
import os
import subprocess
import sys
import time
import wave
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, BatchFeature

from modeling_dualspace import DualSubspaceModel, DualSubspaceProcessor, processing_dualspace
from modeling_dualspace.audio_backbones import LogMel
from modeling_dualspace.backbones import Backbone, Steps, digest
from modeling_dualspace.configuration_dualspace import spec_parts
from modeling_dualspace.feature_schema import Description
from modeling_dualspace.loading import find_processor
from modeling_dualspace.media import Limits, MediaError
from modeling_dualspace.optional import require
from modeling_dualspace.sample_clips import write_clip
from modeling_dualspace.sample_scenes import render_clip
from modeling_dualspace.training_data import TrainingData
from modeling_dualspace.training_run import train
from modeling_dualspace.visual_backbones import Thumbnail

av = require("av", extra="media")
Image = require("PIL.Image", extra="media")

# What the processor itself needs where the package is not; the model's files are those of test_remote_code.py.
TRAVELS = {
    "audio_backbones.py",
    "backbones.py",
    "closed_config.py",
    "conv_norm.py",
    "feature_network.py",
    "feature_pca.py",
    "i3d.py",
    "inception.py",
    "keeps_float32.py",
    "known_backbones.py",
    "media.py",
    "media_inputs.py",
    "media_tracks.py",
    "optional.py",
    "paper_networks.py",
    "pooling.py",
    "processing_dualspace.py",
    "soundnet.py",
    "spectra.py",
    "transformers_backbones.py",
    "transformers_models.py",
    "transformers_processors.py",
    "units.py",
    "vggish.py",
    "visual_backbones.py",
}
# The model needs them too, or its pipeline does.
OF_BOTH = {"closed_config.py", "keeps_float32.py", "backbones.py", "optional.py"}
OF_BOTH |= {"media.py", "media_inputs.py", "media_tracks.py"}
# Means of a few vectors of float32, in float64, and rounded once: levels of 100 dB have steps of 8e-6.
CLOSE = 2e-5
FILM_SECONDS, FPS, RATE = 3.5, 12, 16_000


def colours(height=6, width=9, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def noise(count=RATE, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, count).astype(np.float32)


def tone(rate, seconds=2.0, hertz=1000):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def write_wav(path, samples, rate=RATE):
    """Sixteen bits, one channel."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).round().astype("<i2").tobytes())
    return path


def write_tracks(path, seen, heard):
    """A film whose picture and sound last so many seconds; 0 leaves one out."""
    with av.open(str(path), "w") as container:  # all streams first: the header is written with the first packet
        video = container.add_stream("mpeg4", rate=10) if seen else None
        audio = container.add_stream("aac", rate=RATE, layout="mono") if heard else None
        if video is not None:
            video.width, video.height = 64, 48
            for number in range(round(seen * 10)):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 2 * number % 256, np.uint8), format="rgb24")
                container.mux(video.encode(frame))
        if audio is not None:
            sound = av.AudioFrame.from_ndarray(tone(RATE, heard)[None], format="fltp", layout="mono")
            sound.sample_rate = RATE
            container.mux(audio.encode(sound))
        for stream in filter(None, (video, audio)):
            container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A folder with a film, and what is none."""
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "drum.mp4", render_clip("drum", (1, 1), FILM_SECONDS, size=(64, 48), fps=FPS))
    write_clip(folder / "bell.mp4", render_clip("bell", (1, 2), 2.0, size=(64, 48), fps=FPS))
    write_tracks(folder / "silent.mp4", 3, 0)
    write_tracks(folder / "blind.m4a", 0, 3)
    write_tracks(folder / "whole.mkv", 8, 8)
    whole = (folder / "whole.mkv").read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) // 3])
    (folder / "text.mp4").write_text("not a film\n" * 50)
    (folder / "empty.mp4").touch()
    return folder


@pytest.fixture(scope="module")
def processor():
    """The one that needs no network."""
    return DualSubspaceProcessor()


def frames_of(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def visual_of(*pictures):
    """The rows that a mean over pictures is."""
    backbone = Thumbnail()
    return np.mean([backbone.prepare(picture) for picture in pictures], axis=0, dtype=np.float64)


def audio_of(samples):
    """The mean over seconds, of which the last is half there."""
    backbone, parts = LogMel(), range(0, max(len(samples) - 7_999, 1), RATE)
    return np.mean([backbone.prepare(samples[start : start + RATE]) for start in parts], axis=0, dtype=np.float64)


def assert_rows(found, *expected):
    assert isinstance(found, torch.Tensor) and found.dtype == torch.float32 and len(found) == len(expected)
    for row, known in zip(found, expected, strict=True):
        assert np.abs(row.numpy() - known).max() < CLOSE


class Flipbook(Backbone):
    """A visual backbone of four frames a unit, two of which overlap: each vector is what the frames are, on average."""

    modality, name, source, width = "visual", "flipbook", "nowhere/flipbook", 4

    def __init__(self):
        self.steps = Steps(rate=4, length=4, hop=2)

    def prepare(self, piece):
        return piece.mean(dtype=np.float32)

    def embed(self, units):
        return np.array(units, dtype=np.float32)


# Films.


def test_a_film_is_the_mean_over_its_seconds_and_its_frames(processor, media):
    made = processor(videos=media / "drum.mp4")
    assert isinstance(made, BatchFeature) and set(made) == {"audio_features", "visual_features", "feature_spec"}
    assert made["feature_spec"] == processor.feature_spec
    assert_rows(made["visual_features"], visual_of(*frames_of(media / "drum.mp4")[::FPS]))
    sound = processor(audio=media / "drum.mp4")
    assert set(sound) == {"audio_features", "feature_spec"} and sound["feature_spec"] == f"audio={LogMel().spec}"
    assert torch.equal(sound["audio_features"], made["audio_features"])


def test_several_films_are_rows_in_their_order(processor, media):
    names = ["bell.mp4", "drum.mp4", "bell.mp4"]
    together = processor(videos=[str(media / names[0]), media / names[1], media / names[2]])
    for number, name in enumerate(names):
        alone = processor(videos=[media / name])
        for key in ("audio_features", "visual_features"):
            assert torch.equal(together[key][number], alone[key][0])
    assert not torch.equal(*together["audio_features"][:2])
    for batch_size in (1, 2):
        again = DualSubspaceProcessor(batch_size=batch_size)(videos=[media / name for name in names])
        assert all(torch.equal(again[key], together[key]) for key in ("audio_features", "visual_features"))


def test_the_frames_of_a_film_are_what_the_film_is(processor, media):
    frames, expected = frames_of(media / "drum.mp4"), processor(videos=media / "drum.mp4")["visual_features"]
    pictures = [Image.fromarray(frame) for frame in frames]
    for given in (frames, list(frames), pictures, iter(pictures), [frames], frames[None], torch.from_numpy(frames)):
        made = processor(videos=given, fps=FPS)
        assert set(made) == {"visual_features", "feature_spec"} and made["feature_spec"] == f"visual={Thumbnail().spec}"
        assert torch.equal(made["visual_features"], expected)


@pytest.mark.parametrize("count", [1, 2, 11, 30])
@pytest.mark.parametrize("fps", [0.3, 1, 2.5, 12, 29.97, 90])
def test_of_frames_at_any_rate_those_are_taken_that_are_shown_at_each_second(processor, count, fps):
    frames = [colours(seed=number) for number in range(count)]
    shown = [frames[min(count - 1, math.floor(second * fps))] for second in range(200) if second < count / fps]
    assert_rows(processor(videos=frames, fps=fps)["visual_features"], visual_of(*shown))


def test_frames_without_a_rate_are_as_many_as_the_backbone_takes(processor):
    frames = [colours(seed=number) for number in range(7)]
    assert_rows(processor(videos=frames)["visual_features"], visual_of(*frames))


def test_several_films_of_frames_are_rows(processor):
    films = [np.stack([colours(seed=number) for number in range(first, first + 3)]) for first in range(4)]
    rows = [visual_of(*film) for film in films]
    assert_rows(processor(videos=np.stack(films))["visual_features"], *rows)
    one_frame = list(films[2])[:1]
    assert_rows(processor(videos=[*films[:2], one_frame])["visual_features"], *rows[:2], visual_of(*one_frame))


def test_units_of_several_frames_overlap_and_the_last_frame_stands_for_those_that_are_missing():
    processor = DualSubspaceProcessor(visual=Flipbook())
    frames = [np.full((3, 5, 3), value, np.uint8) for value in (10, 20, 30, 40, 50, 60, 70)]
    made = processor(videos=frames, return_frames=True)
    units = [[10, 20, 30, 40], [30, 40, 50, 60], [50, 60, 70, 70]]
    assert made["visual_frames"][0].tolist() == units
    assert_rows(made["visual_features"], np.mean(units, axis=0))
    assert processor(images=frames[0])["visual_features"].tolist() == [[10] * 4]  # a film that stands still
    assert made["feature_spec"] == f"visual={Flipbook().spec}"


@pytest.mark.parametrize("modality, name", [("visual", "silent.mp4"), ("audio", "blind.m4a"), ("audio", "drum.mp4")])
def test_of_a_film_one_modality_can_be_taken(processor, media, modality, name):
    made = processor(videos=media / name, modalities=(modality,), return_frames=True)
    assert set(made) == {f"{modality}_features", f"{modality}_frames", "feature_spec"}
    assert made[f"{modality}_frames"][0].shape[0] == (4 if name == "drum.mp4" else 3)


def test_frames_are_the_rows_whose_mean_the_features_are(processor, media):
    films = [media / "drum.mp4", media / "bell.mp4"]
    made = processor(videos=films, return_frames=True)
    plain = processor(videos=films)
    for modality, counts in (("audio", [4, 2]), ("visual", [4, 2])):
        frames = made[f"{modality}_frames"]
        assert [len(each) for each in frames] == counts
        assert_rows(made[f"{modality}_features"], *(each.numpy().astype(np.float64).mean(axis=0) for each in frames))
        assert torch.equal(made[f"{modality}_features"], plain[f"{modality}_features"])


# Sounds and pictures.


def test_a_sound_is_the_mean_over_its_seconds_however_it_comes(processor, tmp_path):
    samples = noise(40_000)
    samples = (samples * 32767).round().astype(np.float32) / 32768  # as sixteen bits have it: equal from a file
    path = write_wav(tmp_path / "a.wav", samples * 32768 / 32767)
    expected = audio_of(samples)
    for given in (samples, samples.tolist(), [samples], samples[None], torch.from_numpy(samples), iter([samples])):
        made = processor(audio=given, sampling_rate=RATE)
        assert set(made) == {"audio_features", "feature_spec"}
        assert_rows(made["audio_features"], expected)
    for given in (path, str(path), [path]):
        assert_rows(processor(audio=given)["audio_features"], expected)
    mixed = processor(audio=[path, samples[:100], samples], sampling_rate=RATE)
    assert_rows(mixed["audio_features"], expected, audio_of(samples[:100]), expected)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("how", ["array", "file"])
def test_a_sound_at_another_rate_is_resampled(processor, tmp_path, rate, how):
    expected = processor(audio=tone(RATE), sampling_rate=RATE)["audio_features"][0, :32]
    if how == "array":
        found = processor(audio=tone(rate), sampling_rate=rate)["audio_features"][0, :32]
    else:
        found = processor(audio=write_wav(tmp_path / "a.wav", tone(rate), rate))["audio_features"][0, :32]
    # Where the tone is heard: 60 dB below its peak, and so far above the noise of sixteen bits and of a resampler's
    # stopband. There its gain is 1 to a thousandth (0.01 dB), and it rings for some milliseconds at the ends, which are
    # 2 of 100 frames. A shift by a band, or half the rate, would be 10 dB and more.
    heard = expected > expected.max() - 60
    assert heard.sum() >= 6
    assert (found - expected)[heard].abs().max() < 0.05


def test_sounds_and_pictures_are_rows_of_their_own_also_where_there_are_more_of_one(processor):
    sounds, pictures = [noise(seed=number) for number in range(3)], [colours(seed=number) for number in range(5)]
    for first, second in ((sounds, pictures), (sounds, pictures[:3]), (sounds[:1], pictures), (sounds, pictures[0])):
        made = processor(audio=first, images=second, sampling_rate=RATE)
        assert made["feature_spec"] == processor.feature_spec
        assert_rows(made["audio_features"], *map(audio_of, first))
        assert_rows(made["visual_features"], *map(visual_of, second if isinstance(second, list) else [second]))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_a_picture_of_any_mode_is_its_colours_however_it_comes(processor, tmp_path, mode):
    picture = Image.fromarray(colours()).convert(mode)
    picture.save(tmp_path / "a.png")
    expected = visual_of(np.asarray(picture.convert("RGB")))
    for given in (picture, [picture], tmp_path / "a.png", str(tmp_path / "a.png"), iter([picture])):
        made = processor(images=given)
        assert set(made) == {"visual_features", "feature_spec"}
        assert_rows(made["visual_features"], expected)
    mixed = processor(images=[picture, tmp_path / "a.png", colours(70, 80)], return_frames=True)
    assert_rows(mixed["visual_features"], expected, expected, visual_of(colours(70, 80)))
    assert [len(frames) for frames in mixed["visual_frames"]] == [1, 1, 1]


def test_arrays_of_pictures_are_one_or_several(processor):
    several = np.stack([colours(seed=number) for number in range(3)])
    assert_rows(processor(images=several)["visual_features"], *map(visual_of, several))
    assert_rows(processor(images=several[0])["visual_features"], visual_of(several[0]))
    assert_rows(processor(images=torch.from_numpy(several))["visual_features"], *map(visual_of, several))


# What comes out, and into the model.


def test_what_comes_out_moves_to_a_device_and_a_type_with_all_its_tensors(processor):
    made = processor(audio=noise(), images=colours(), sampling_rate=RATE, return_frames=True)
    spec = made["feature_spec"]
    assert made.to("cpu") is made
    moved = made.to("meta")
    assert moved["audio_features"].is_meta and moved["visual_frames"][0].is_meta and moved["feature_spec"] == spec
    assert processor(images=colours()).to(torch.bfloat16)["visual_features"].dtype == torch.bfloat16


@pytest.fixture(scope="module")
def model(processor):
    """A tiny fitted model of the processor's features."""
    torch.manual_seed(0)
    config = {"audio_dim": 128, "visual_dim": 1024, "num_labels": 3, "embed_dim": 4, "explicit_dim": 4, "alpha": 0.01}
    config |= {"audio_hidden": [16], "visual_hidden": [12, 16], "dropout": 0.0, "feature_spec": processor.feature_spec}
    model = DualSubspaceModel(DualSubspaceModel.config_class(**config))
    features = {f"{name}_features": torch.randn(60, width) for name, width in (("audio", 128), ("visual", 1024))}
    batch = {**features, "labels": torch.arange(60) % 3}
    model.prepare([batch])
    model.finish([batch], [batch])
    return model.eval()


def test_it_goes_into_the_model_as_it_comes_out(processor, media, model):
    inputs = processor(videos=[media / "drum.mp4", media / "bell.mp4"], return_frames=True)
    with torch.no_grad():
        output = model(**inputs, return_loss=False)
        assert torch.equal(output.audio_embeds, model.get_audio_embeds(inputs["audio_features"]))
        assert torch.equal(output.visual_embeds, model.get_visual_embeds(inputs["visual_features"]))
        one = model(**processor(audio=media / "bell.mp4"))
    # Rows go through matrix products of another size: a few roundings of unit vectors.
    assert one.visual_embeds is None and torch.allclose(one.audio_embeds[0], output.audio_embeds[1], atol=1e-5)
    assert processor.model_input_names == ["audio_features", "visual_features"]


AUDIO, VISUAL = "audio=logmel@2066f12f", "visual=thumbnail@cdb600da"


@pytest.mark.parametrize("known", [f"{AUDIO} {VISUAL}", f"{VISUAL} {AUDIO}", AUDIO, VISUAL, None, "", "precomputed"])
@pytest.mark.parametrize("given", [f"{AUDIO} {VISUAL}", f"{VISUAL}  {AUDIO}", AUDIO, VISUAL, None, ""])
def test_a_model_takes_features_that_were_made_as_its_own_as_far_as_both_say(make_model, known, given):
    make_model(feature_spec=known).check_feature_spec(given)


@pytest.mark.parametrize(
    "given, modality, made",
    [
        (f"{AUDIO} visual=clip@0123abcd", "visual", "clip@0123abcd"),
        ("audio=logmel@00000000", "audio", "logmel@00000000"),
        (f"audio=clap@0123abcd {VISUAL}", "audio", "clap@0123abcd"),
    ],
)
def test_a_model_refuses_features_that_were_made_otherwise_and_says_by_what(processor, model, given, modality, made):
    trained = {"audio": "logmel@2066f12f", "visual": "thumbnail@cdb600da"}[modality]
    said = (
        f"This model was trained on {modality} features of {trained}, and these were made by {made}: use the processor "
        "that is saved beside it, `AutoProcessor.from_pretrained`."
    )
    inputs = processor(audio=noise(), images=colours(), sampling_rate=RATE)
    inputs["feature_spec"] = given
    for call in (lambda: model.check_feature_spec(given), lambda: model(**inputs)):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == said


# Errors.


def refused(call, said, kind=ValueError):
    """What is wrong is one sentence."""
    with pytest.raises(kind, match=said) as caught:
        call()
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 300, text
    return text


@pytest.mark.parametrize(
    "given, said",
    [
        ({}, "Nothing to look at or listen to: pass `videos`, `audio` or `images`"),
        ({"sampling_rate": RATE}, "Nothing to look at or listen to: pass"),
        ({"videos": "a.mp4", "audio": noise()}, "A film has both its sound and its pictures: pass `videos`, or"),
        ({"videos": "a.mp4", "images": colours()}, "pass `videos`, or `audio` and `images`"),
        ({"audio": noise()}, "Samples say nothing about their speed: pass `sampling_rate`, samples a second"),
        ({"audio": np.ones(9, np.int16), "sampling_rate": RATE}, "as floats, got int16 .*: average .* divide whole"),
        ({"audio": [noise().reshape(2, -1)], "sampling_rate": RATE}, r"one row .* shape \(2, 8000\): average channels"),
        ({"audio": np.full(99, np.nan), "sampling_rate": RATE}, "within -1 and 1, the largest is nan"),
        ({"audio": noise() * 9, "sampling_rate": RATE}, r"within -1 and 1, the largest is 4\.49"),
        ({"audio": noise(0), "sampling_rate": RATE}, r"got no samples, an array of shape \(0,\)"),
        ({"audio": noise()[None, None], "sampling_rate": RATE}, r"1 axes, or 2 for several, got shape \(1, 1, 16000\)"),
        ({"images": colours().transpose(2, 0, 1)}, r"\(height, width, 3\) of uint8, RGB, got .* of shape \(3, 6, 9\)"),
        ({"images": colours() / 255}, r"of uint8, RGB, got float64 of shape \(6, 9, 3\)"),
        ({"images": colours()[:, :, 0]}, r"3 axes, or 4 for several, got shape \(6, 9\)"),
        ({"videos": colours()}, r"4 axes, or 5 for several, got shape \(6, 9, 3\)"),
        ({"videos": colours()[None].transpose(0, 3, 1, 2)}, r"of uint8, RGB, got uint8 of shape \(3, 6, 9\)"),
        ({"videos": colours()[None] / 255}, "of uint8, RGB, got float64"),
        ({"videos": colours()[None], "modalities": "visual"}, r"`modalities` is \(\"audio\",\), .* both, got 'visual'"),
        ({"videos": colours()[None], "modalities": ("video",)}, r"or both, got \('video',\)"),
        ({"videos": colours()[None], "modalities": ()}, r"or both, got \(\)"),
        *(({name: []}, "Nothing .*: the list is empty") for name in ("videos", "audio", "images")),
        ({"audio": [], "images": colours()}, "Nothing .*: the list is empty"),
    ],
    ids=lambda one: "-".join(one) or "nothing" if isinstance(one, dict) else "",
)  # fmt: skip
def test_what_cannot_be_meant_is_a_sentence(processor, given, said):
    refused(lambda: processor(**given), said)


@pytest.mark.parametrize("how", ["videos", "audio", "images"])
@pytest.mark.parametrize("name", ["gone.mp4", "text.mp4", "empty.mp4", "."])
def test_a_file_that_is_none_of_it_is_a_sentence_with_its_name(processor, media, how, name):
    said = "cannot be read|can be read|is no file|is empty"
    text = refused(lambda: processor(**{how: media / name}), said, MediaError)
    assert repr(str(media / name)) in text


@pytest.mark.parametrize("given", [{"videos": "cut.mkv"}, {"audio": "cut.mkv"}], ids=["a film", "its sound"])
def test_a_film_that_is_cut_off_is_a_sentence_with_its_name(processor, media, given):
    given = {name: media / value for name, value in given.items()}
    said = r"cut\.mkv' is cut off: it ends after \d\.\d s, and says it lasts 8\.\d s"
    refused(lambda: processor(**given), said, MediaError)


def test_one_of_several_files_that_is_wrong_is_the_one_that_is_named(processor, media):
    assert "text.mp4" in refused(lambda: processor(videos=[media / "bell.mp4", media / "text.mp4"]), "can be read")


@pytest.mark.parametrize("name, lacks, has", [("silent.mp4", "sound", "visual"), ("blind.m4a", "picture", "audio")])
def test_a_film_that_lacks_a_modality_says_how_to_have_the_other(processor, media, name, lacks, has):
    hint = rf'{name}\' has no {lacks}: for the rest of it pass modalities=\("{has}",\)\.'
    refused(lambda: processor(videos=[media / "bell.mp4", media / name]), hint, MediaError)


# The same, where there is something to mend.


def test_a_film_without_sound_that_is_passed_as_a_sound_is_said_to_have_none(processor, media):
    refused(lambda: processor(audio=media / "silent.mp4"), "has no sound", MediaError)


@pytest.mark.parametrize("seen, heard, modality", [(6, 2, "audio"), (2, 6, "visual")])
def test_a_film_whose_tracks_end_apart_gives_each_as_it_gives_both(processor, tmp_path, seen, heard, modality):
    path = write_tracks(tmp_path / "a.mp4", seen, heard)
    both = processor(videos=path)
    one = processor(videos=path, modalities=(modality,))
    assert torch.equal(one[f"{modality}_features"], both[f"{modality}_features"])


def test_a_film_of_which_few_frames_are_wanted_is_no_shorter_for_it(tmp_path):
    processor, path = DualSubspaceProcessor(visual=Thumbnail(fps=0.4)), write_tracks(tmp_path / "a.mp4", 3.9, 0)
    made = processor(videos=path, modalities=("visual",))["visual_features"]
    assert_rows(made, visual_of(*frames_of(path)[[0, 25]]))


@pytest.mark.parametrize(
    "given", [{"audio": np.zeros((0, 99))}, {"images": colours()[None][:0]}, {"videos": colours()[None, None][:0]}]
)
def test_an_array_of_no_clips_is_a_sentence(processor, given):
    refused(lambda: processor(**given, sampling_rate=RATE), "Nothing to look at or listen to")


@pytest.mark.parametrize("given", [colours()[None][:0], [[]]], ids=["array", "list"])
def test_a_film_of_no_frames_is_not_told_to_be_listened_to(processor, given):
    assert "audio" not in refused(lambda: processor(videos=given), "frames|empty")


@pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf])
def test_frames_a_second_that_are_no_such_thing_are_a_sentence(processor, fps):
    refused(lambda: processor(videos=colours()[None], fps=fps), "fps")


@pytest.mark.parametrize("rate", [0, -1, math.nan, "16000", 1], ids=str)
def test_a_sampling_rate_that_is_none_is_a_sentence(processor, rate):
    refused(lambda: processor(audio=noise(50), sampling_rate=rate), "sampling_rate")


def test_a_stereo_sound_as_soundfile_reads_it_is_refused(processor):
    refused(lambda: processor(audio=noise(400).reshape(200, 2), sampling_rate=RATE), "channels")


def test_sound_of_frames_is_not_to_be_had(processor):
    refused(lambda: processor(videos=colours()[None], modalities=("audio",)), "audio")


@pytest.mark.parametrize(
    "given",
    [{"videos": 5}, {"audio": 5}, {"videos": [5]}, {"videos": Image.fromarray(colours())}],
    ids=["a number", "a number for a sound", "a list of one", "a picture"],
)
def test_what_is_neither_a_film_nor_a_sound_is_a_sentence(processor, given):
    refused(lambda: processor(**given, sampling_rate=RATE), r"\.$")


@pytest.mark.parametrize("given", [Path("nowhere"), None], ids=["path", "none"])
def test_a_backbone_that_is_none_is_a_sentence(given):
    refused(lambda: DualSubspaceProcessor(audio=given), "audio")


def test_a_backbone_of_the_other_modality_is_a_sentence():
    refused(lambda: DualSubspaceProcessor(visual=LogMel()), "logmel makes audio features, not visual ones")
    refused(lambda: DualSubspaceProcessor(audio="thumbnail"), "`thumbnail` makes visual features, not audio ones")
    with pytest.raises(
        ValueError,
        match=r"^The audio backbone 'logmels' cannot be loaded .built in: logmel, .*; did you mean logmel..: ",
    ):
        DualSubspaceProcessor(audio="logmels")


# Saved and loaded.


@pytest.fixture
def saved(processor, tmp_path):
    """A folder with the processor."""
    DualSubspaceProcessor().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.fixture
def edited(saved):
    """`edited(change)`: the folder once `change` was made to what was saved, as JSON."""

    def edit(change):
        file = saved / "processor_config.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return saved

    return edit


def other_version(modality="audio", **constants):
    """Changes a record to one of other constants, with the digest that belongs to them."""

    def change(content):
        record = content[modality]
        record["constants"] |= constants
        record["spec"] = f"{record['source']}@{digest(record['constants'], record['weights'])}"
        content["feature_spec"] = f"audio={content['audio']['spec']} visual={content['visual']['spec']}"

    return change


def test_a_saved_folder_holds_exactly_the_code_it_needs_and_no_place_of_this_machine(saved):
    assert files_of(saved).keys() == TRAVELS | {"processor_config.json"}
    content = json.loads((saved / "processor_config.json").read_text())
    assert set(content) == {"processor_class", "feature_spec", "audio", "visual", "auto_map"}
    assert content["auto_map"] == {"AutoProcessor": "processing_dualspace.DualSubspaceProcessor"}
    assert content["feature_spec"] == f"{AUDIO} {VISUAL}"
    for modality, name in (("audio", "logmel"), ("visual", "thumbnail")):
        assert set(content[modality]) == {"spec", "source", "revision", "width", "weights", "constants", "versions"}
        assert content[modality]["source"] == name and {"librosa", "av"} <= set(content[modality]["versions"])
    text = (saved / "processor_config.json").read_text()
    assert not any(place in text for place in ("/", "\\", str(Path.home()), str(saved)))


def test_saved_again_it_is_the_same_bytes(saved, processor, tmp_path):
    for number, again in enumerate((DualSubspaceProcessor.from_pretrained(saved), processor, copy.deepcopy(processor))):
        for _ in range(2):  # over itself, too
            again.save_pretrained(tmp_path / f"again-{number}")
        assert files_of(tmp_path / f"again-{number}") == files_of(saved)


@pytest.mark.parametrize("load", [DualSubspaceProcessor.from_pretrained, AutoProcessor.from_pretrained, partial(
    AutoProcessor.from_pretrained, trust_remote_code=True)], ids=["class", "auto", "trusting"])  # fmt: skip
def test_what_was_saved_is_loaded_and_makes_the_same(processor, saved, load):
    again = load(saved)
    assert type(again) is DualSubspaceProcessor and again.feature_spec == processor.feature_spec
    given = {"audio": noise(), "images": colours(), "sampling_rate": RATE}
    found, expected = again(**given), processor(**given)
    assert found["feature_spec"] == expected["feature_spec"]
    assert all(torch.equal(found[name], expected[name]) for name in processor.model_input_names)


def test_another_rate_of_frames_is_saved_and_loaded_too(tmp_path):
    DualSubspaceProcessor(visual=Thumbnail(fps=2.5)).save_pretrained(tmp_path)
    again = DualSubspaceProcessor.from_pretrained(tmp_path)
    assert again.backbone("visual").steps == Steps(rate=2.5, length=1, hop=1)
    assert again.feature_spec == f"{AUDIO} visual={Thumbnail(fps=2.5).spec}" != f"{AUDIO} {VISUAL}"
    assert again.source("visual") == "thumbnail"


@pytest.mark.parametrize("load", [DualSubspaceProcessor.from_pretrained, AutoProcessor.from_pretrained])
def test_device_type_batch_and_limits_are_the_callers(saved, media, monkeypatch, load):
    settings = {"device": "cpu", "dtype": "bfloat16", "batch_size": 3, "limits": Limits(seconds=1)}
    again, asked = load(saved, **settings), []
    assert {name: getattr(again, name) for name in settings} == settings
    reload = processing_dualspace.reload_backbone
    monkeypatch.setattr(
        processing_dualspace,
        "reload_backbone",
        lambda modality, record, **how: asked.append((modality, how)) or reload(modality, record, **how),
    )
    refused(lambda: again(videos=media / "bell.mp4"), "bell.mp4' lasts 2.0 s, and the limit is 1 s", MediaError)
    refused(lambda: again(audio=media / "bell.mp4"), "and the limit is 1 s", MediaError)
    again(images=colours())
    assert sorted(asked) == [(name, {"device": "cpu", "dtype": "bfloat16"}) for name in ("audio", "visual")]
    whole = json.loads((saved / "processor_config.json").read_text())
    del whole["auto_map"]  # belongs to the code that lies there
    assert json.loads(again.to_json_string()) == whole


def test_a_network_that_was_moved_is_looked_for_where_the_caller_says(saved, monkeypatch):
    again = DualSubspaceProcessor.from_pretrained(saved, visual=Path("new/place"))
    assert (again.source("audio"), again.source("visual")) == ("logmel", "new/place")
    assert again.feature_spec == f"{AUDIO} {VISUAL}"  # it must be the same one all the same:
    refused(lambda: again(images=colours()), "The visual backbone 'new/place' cannot be loaded")
    other = DualSubspaceProcessor.from_pretrained(saved, audio="thumbnail")
    refused(lambda: other(audio=np.zeros(16_000, np.float32), sampling_rate=16_000), "makes visual features, not audio")


def test_nothing_is_loaded_before_it_is_needed(saved, monkeypatch):
    again = DualSubspaceProcessor.from_pretrained(saved)
    monkeypatch.setattr(processing_dualspace, "reload_backbone", lambda *given, **how: pytest.fail("was loaded"))
    assert again.feature_spec == f"{AUDIO} {VISUAL}" and again.source("audio") == "logmel"
    again.to_json_string()


@pytest.mark.parametrize(
    "change",
    [lambda content: content["audio"]["constants"].update(bands=33),
     lambda content: content["audio"]["constants"].update(more=1),
     lambda content: content["audio"]["constants"].pop("floor"),
     lambda content: content["audio"]["constants"]["steps"].update(hop=8000),
     lambda content: content["audio"].update(weights="0123"),
     lambda content: content["audio"].update(spec="logmel@00000000"),
     lambda content: content["audio"].update(spec="logmel")],
    ids=["a constant", "one more", "one less", "steps", "weights", "the name", "half a name"],
)  # fmt: skip
def test_what_was_changed_by_hand_is_refused(edited, change):
    folder = edited(change)
    spec = json.loads((folder / "processor_config.json").read_text())["audio"]["spec"]
    said = rf"^What was saved of the audio backbone was changed: its constants are not those of {spec}\."
    refused(lambda: DualSubspaceProcessor.from_pretrained(folder), said)


@pytest.mark.parametrize(
    "change",
    [lambda content: content["audio"].update(width=7), lambda content: content.update(feature_spec="audio=a@1")],
    ids=["width", "feature_spec"],
)
def test_a_width_or_a_feature_spec_that_was_changed_by_hand_is_refused(edited, change):
    folder = edited(change)
    refused(lambda: DualSubspaceProcessor.from_pretrained(folder)(audio=noise(), sampling_rate=RATE), "changed|width")


def test_what_another_version_made_is_refused_when_it_is_needed_and_not_before(edited, tmp_path):
    again = AutoProcessor.from_pretrained(edited(other_version(bands=64)))
    known = again.feature_spec
    assert known.startswith("audio=logmel@") and known.endswith(VISUAL) and AUDIO not in known
    assert_rows(again(images=colours())["visual_features"], visual_of(colours()))
    again.save_pretrained(tmp_path / "again")
    assert DualSubspaceProcessor.from_pretrained(tmp_path / "again").feature_spec == known
    said = rf"were made by {known.split()[0][6:]}, and logmel is {AUDIO[6:]} here \(bands 64 then, 32 now\): take the"
    for _ in range(2):
        refused(lambda: again(audio=noise(), sampling_rate=RATE), said)
    refused(lambda: again(audio=noise(), images=colours(), sampling_rate=RATE), said)


@pytest.mark.parametrize("modality", ["audio", "visual"])
def test_a_missing_part_is_a_sentence(edited, modality):
    refused(
        partial(DualSubspaceProcessor.from_pretrained, edited(lambda content: content.pop(modality))),
        rf"holds no processor of ours, .* \({modality} is missing\): save one there",
    )


@pytest.mark.parametrize("key", ["spec", "source", "width", "weights", "constants"])
def test_a_missing_part_of_a_part_is_a_sentence(edited, key):
    refused(
        partial(DualSubspaceProcessor.from_pretrained, edited(lambda content: content["visual"].pop(key))),
        rf"What was saved of the visual backbone has no `{key}` as it should: save it again",
    )


def test_steps_that_are_missing_are_a_sentence(edited):
    folder = edited(lambda content: content["visual"]["constants"].pop("steps"))
    refused(
        lambda: DualSubspaceProcessor.from_pretrained(folder), "the visual backbone does not say how tracks are cut"
    )


@pytest.mark.parametrize(
    "change", [lambda content: content.update(vision={}), lambda content: content["audio"].update(frames=3)],
    ids=["beside the backbones", "of a backbone"],
)  # fmt: skip
def test_an_unknown_part_is_a_sentence_with_its_name(edited, change):
    refused(lambda: DualSubspaceProcessor.from_pretrained(edited(change)), "vision|frames")


@pytest.mark.parametrize(
    "change",
    [lambda content: content["audio"].update(spec=None), lambda content: content["audio"].update(constants=None),
     lambda content: content["audio"].update(source=5), other_version(steps=None), other_version(steps={"rate": 1})],
    ids=["spec", "constants", "source", "steps", "some steps"],
)  # fmt: skip
def test_a_part_of_another_kind_is_a_sentence(edited, change):
    folder = edited(change)
    refused(lambda: DualSubspaceProcessor.from_pretrained(folder)(audio=noise(), sampling_rate=RATE), "audio")


def test_a_file_that_holds_something_else_is_a_sentence(saved):
    (saved / "processor_config.json").write_text("[]")
    refused(lambda: DualSubspaceProcessor.from_pretrained(saved), "processor_config.json")


def test_a_file_that_was_cut_off_is_said_to_be_no_json(saved):
    (saved / "processor_config.json").write_text("{")
    refused(lambda: DualSubspaceProcessor.from_pretrained(saved), "processor_config.json' is not a valid JSON", OSError)


def test_a_folder_without_a_processor_is_said_to_have_none(tmp_path):
    refused(lambda: DualSubspaceProcessor.from_pretrained(tmp_path), str(tmp_path))


def test_a_misspelt_setting_is_a_sentence(saved):
    with pytest.raises((TypeError, ValueError), match="batchsize"):
        DualSubspaceProcessor.from_pretrained(saved, batchsize=4)


def test_the_versions_that_made_the_features_stay_those(edited, tmp_path):
    folder = edited(lambda content: content["audio"]["versions"].update(librosa="0.9.9"))
    DualSubspaceProcessor.from_pretrained(folder).save_pretrained(tmp_path / "again")
    content = json.loads((tmp_path / "again" / "processor_config.json").read_text())
    assert content["audio"]["versions"]["librosa"] == "0.9.9"


# In other processes.


WITH_PACKAGE = """
import sys
folder, film, answer = sys.argv[1:]
import torch
import modeling_dualspace
from transformers import AutoProcessor
processor = AutoProcessor.from_pretrained(folder)
assert type(processor) is modeling_dualspace.DualSubspaceProcessor
assert processor.feature_spec == modeling_dualspace.DualSubspaceProcessor().feature_spec
torch.save(dict(processor(videos=film)), answer)
"""

STRANGER = """
import sys
folder, film, answer, again = sys.argv[1:]
for name in ("modeling_dualspace", "accelerate", "datasets", "evaluate", "h5py", "matplotlib", "pandas", "pyarrow"):
    sys.modules[name] = None  # not installed
import torch
from transformers import AutoModel, AutoProcessor
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
inputs = processor(videos=film)
with torch.no_grad():
    embeds = model(**inputs, return_loss=False)
torch.save({**inputs, "audio_embeds": embeds.audio_embeds, "visual_embeds": embeds.visual_embeds}, answer)
processor.save_pretrained(again)
twin = AutoProcessor.from_pretrained(again, trust_remote_code=True)
assert torch.equal(twin(videos=film)["audio_features"], inputs["audio_features"])
assert not any(name.startswith("modeling_dualspace.") for name in sys.modules)
"""


@pytest.fixture
def start(root, tmp_path):
    """`start(code, arguments...)`: a fresh interpreter with caches of its own, elsewhere."""

    def begin(code, *arguments):
        environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)

    return begin


def finished(process):
    try:
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, errors


def test_a_stranger_and_whoever_has_the_package_get_the_same_of_a_folder_with_model_and_processor(
    processor, model, media, start, tmp_path
):
    folder, film, again = tmp_path / "model", media / "bell.mp4", tmp_path / "again"
    model.save_pretrained(folder)
    of_model = {name for name in files_of(folder) if name.endswith(".py")}
    processor.save_pretrained(folder)
    assert files_of(folder).keys() == of_model | TRAVELS | {"config.json", "model.safetensors", "processor_config.json"}
    stranger = start(STRANGER, folder, film, tmp_path / "stranger.pt", again)
    owner = start(WITH_PACKAGE, folder, film, tmp_path / "owner.pt")
    expected = processor(videos=film)
    with torch.no_grad():
        embeds = model(**expected, return_loss=False)
    for process in (owner, stranger):
        finished(process)
    for name in ("owner", "stranger"):
        found = torch.load(tmp_path / f"{name}.pt")
        assert found["feature_spec"] == f"{AUDIO} {VISUAL}"
        # Another process may share out a product of matrices otherwise: the last digits of levels around 100.
        for key in processor.model_input_names:
            assert (found[key] - expected[key]).abs().max() < CLOSE
    for key in ("audio_embeds", "visual_embeds"):
        assert (found[key] - embeds[key]).abs().max() < 1e-4  # of unit vectors, behind three layers
    # What the stranger saves is whole too.
    alone = tmp_path / "alone"
    processor.save_pretrained(alone)
    assert files_of(again) == files_of(alone)


# Found for a data set, and saved beside a model.


def test_a_processor_is_found_where_it_lies_and_makes_what_was_asked_for(saved, processor, tmp_path):
    (tmp_path / "none").mkdir()
    model = tmp_path / "run" / "model"
    processor.save_pretrained(model)
    (model / "config.json").write_text("{}")
    spec, nowhere = processor.feature_spec, (str(tmp_path / "none"), "dataset")
    for place in ((str(saved), "dataset"), (str(model), "model"), (str(tmp_path / "run"), "model")):
        for places in ([place], [nowhere, place], [place, nowhere]):
            found = find_processor(spec, *places)
            assert type(found) is DualSubspaceProcessor and found.feature_spec == spec
    other = DualSubspaceProcessor(visual=Thumbnail(fps=2))
    other.save_pretrained(tmp_path / "other")
    places = [(str(tmp_path / "other"), "dataset"), (str(saved), "dataset")]
    assert find_processor(spec, *places).feature_spec == spec
    assert find_processor(other.feature_spec, *places).feature_spec == other.feature_spec
    for spec in (None, "", "audio=logmel@00000000 visual=thumbnail@cdb600da", AUDIO):
        assert find_processor(spec, *places) is None
    assert find_processor(processor.feature_spec, nowhere) is find_processor(processor.feature_spec) is None


def test_what_is_on_the_hub_is_none_where_the_hub_is_not_to_be_had(processor, saved):
    began, spec = time.perf_counter(), processor.feature_spec
    absent = [("nobody/nothing", "dataset"), ("nobody/nothing", "model"), ("none", "dataset")]
    assert find_processor(spec, *absent) is None
    assert find_processor(spec, *absent, (str(saved), "dataset")).feature_spec == spec
    assert time.perf_counter() - began < 5  # tens of milliseconds, where nothing waits


def test_a_file_that_is_no_json_is_passed_over(processor, saved, tmp_path):
    (tmp_path / "processor_config.json").write_text("{")
    assert find_processor(processor.feature_spec, (str(tmp_path), "dataset")) is None
    assert find_processor(processor.feature_spec, (str(tmp_path), "dataset"), (str(saved), "dataset")) is not None


@pytest.mark.parametrize("content", ['{"processor_class": "CLIPProcessor"}', "[]"], ids=["another's", "no record"])
def test_somebody_elses_processor_is_passed_over_and_it_is_said(processor, saved, tmp_path, content, caplog):
    (tmp_path / "processor_config.json").write_text(content)
    assert find_processor(processor.feature_spec, (str(tmp_path), "dataset"), (str(saved), "dataset")) is not None
    assert str(tmp_path) in caplog.text


@pytest.mark.parametrize("name", ["me/no--thing", f"me/{'x' * 100}"], ids=["dashes", "too long"])
def test_what_looks_like_an_id_of_the_hub_and_is_none_is_passed_over(processor, saved, name):
    assert find_processor(processor.feature_spec, (name, "dataset"), (str(saved), "dataset")) is not None


@pytest.fixture
def features(as_split):
    """`features(spec)`: thirty clips of three classes, and as many to validate on, that say what made them."""

    def of(spec):
        made, splits = spec_parts(spec), {}
        for name in ("train", "validation"):
            rows = {"audio_features": torch.randn(30, 128), "visual_features": torch.randn(30, 1024)}
            splits[name] = as_split(rows | {"labels": torch.arange(30) % 3})
            splits[name].info.description = str(Description("0" * 16, made["audio"], made["visual"], synthetic=True))
        return TrainingData(splits)

    return of


@pytest.mark.parametrize("where", ["data", "init", "other", "nowhere"])
def test_a_run_saves_the_processor_of_its_data_beside_its_model(
    processor, recipe, features, model, media, tmp_path, where
):
    (tmp_path / "data").mkdir()
    wanted = processor.feature_spec
    if where == "data":
        (tmp_path / "data" / "processor_config.json").write_text(processor.to_json_string())
    elif where == "other":
        DualSubspaceProcessor(visual=Thumbnail(fps=2)).save_pretrained(tmp_path / "data")
    asked = recipe(epochs=1, refit=where == "data")
    asked = replace(asked, data=replace(asked.data, path=str(tmp_path / "data")))
    if where == "init":
        model.save_pretrained(tmp_path / "init")
        processor.save_pretrained(tmp_path / "init")
        asked = replace(asked, init=str(tmp_path / "init"), model={})
    train(asked, data=features(wanted), progress=False)
    models = {file.parent for file in (tmp_path / "run").rglob("config.json")}
    assert len(models) == (2 if where == "data" else 1)  # the refit one, and the chosen one
    for folder in models:
        saved = files_of(folder).keys()
        if where in ("other", "nowhere"):
            assert "processor_config.json" not in saved and not (TRAVELS - OF_BOTH) & saved
            continue
        assert TRAVELS < saved
        found = AutoProcessor.from_pretrained(folder)
        assert found.feature_spec == wanted
        trained = type(model).from_pretrained(folder).eval()
        assert trained.config.feature_spec == wanted
        with torch.no_grad():
            assert trained(**found(videos=media / "bell.mp4"), return_loss=False).audio_embeds.shape[0] == 1
