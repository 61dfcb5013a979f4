"""Components: those of scikit-learn, of units embedded one by one; and one network beside the data set, or none."""

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import PartialState
from forked import in_a_child
from PIL import Image
from safetensors.numpy import load_file
from sklearn.decomposition import PCA
from torch import nn
from transformers import AutoModel, AutoProcessor

from modeling_dualspace import component_fitting, extraction_plan, film_reader, transformers_backbones
from modeling_dualspace.cli import main
from modeling_dualspace.clips import Clip
from modeling_dualspace.component_fitting import training_clips
from modeling_dualspace.console import StoppedError, quiet
from modeling_dualspace.conversion import write_network
from modeling_dualspace.extraction import extract
from modeling_dualspace.extraction_recipe import BackboneSettings
from modeling_dualspace.feature_pca import FeaturePca
from modeling_dualspace.optional import require
from modeling_dualspace.paper_networks import NETWORKS
from modeling_dualspace.processing_dualspace import DualSubspaceProcessor
from modeling_dualspace.vggish import VggishFeatureExtractor

av = require("av", extra="media")
RATE, FPS, SECONDS = 16_000, 10, 3
PATCH, NEXT = 15_600, 15_360  # samples of a unit of VGGish, and from one to the next: three in three seconds
SPLITS = ("train", "train", "validation", "test")
NAMES = [f"{number:02d}.mkv" for number in range(12)]
TRAIN = [name for number, name in enumerate(NAMES) if SPLITS[number % 4] == "train"]
PICTURES = {"size": {"height": 75, "width": 75}, "do_center_crop": False, "resample": 2}
PICTURES |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
ROUGHLY_NONE = 1e-4
DONE = "Nothing to do: it was extracted before, from the same films and by the same settings."
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes of this test are forked")


# Networks and films.


@pytest.fixture(autouse=True)
def _few_shards(monkeypatch):
    """Of three films each, which are sooner written."""
    monkeypatch.setattr(extraction_plan, "SHARDS", 4)


def saved(folder: Path, name: str, **own) -> Path:
    """Random weights of a network as a folder."""
    torch.manual_seed(0)
    model = NETWORKS[name].model(NETWORKS[name].config(**own))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
    folder.mkdir(parents=True)
    with quiet():
        write_network(name, model.state_dict(), own, PICTURES if name == "inception" else None, {}, folder)
    return folder


@pytest.fixture(scope="module")
def vggish(tmp_path_factory) -> Path:
    """Twelve numbers a second."""
    return saved(tmp_path_factory.mktemp("networks") / "vggish", "vggish", channels=[4] * 6, hidden=16, width=12)


@pytest.fixture(scope="module")
def inception(tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("networks") / "inception", "inception")


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise of a loudness and a colour of its own each second, as 16-bit samples; and frames of random blocks."""
    chance = np.random.default_rng(seed)
    noise = chance.standard_normal(SECONDS * RATE + 8)
    parts = []
    for second in range(SECONDS):
        here = noise[second * RATE : (second + 1) * RATE + 8]
        width = chance.integers(1, 9)
        parts.append(chance.uniform(300, 8000) * np.convolve(here, np.ones(width) / width, "valid")[:RATE])
    blocks = chance.integers(0, 256, (SECONDS * FPS, 4, 5, 3), dtype=np.uint8)
    frames = (blocks * chance.uniform(0.2, 1)).astype(np.uint8).repeat(12, axis=1).repeat(12, axis=2)
    return np.concatenate(parts).clip(-32_768, 32_767).astype(np.int16), frames


def write_film(path: Path, samples: np.ndarray, frames: np.ndarray) -> None:
    """Coded without loss: whoever reads it must find exactly this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("ffv1", rate=FPS)
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "bgr0"
        audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        sound = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        sound.sample_rate, sound.time_base, sound.pts = RATE, Fraction(1, RATE), 0
        container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))


def listed(folder: Path, splits: tuple[str, ...] = SPLITS) -> None:
    lines = [f"{name},{'ab'[number // 4 % 2]},{splits[number % len(splits)]}\n" for number, name in enumerate(NAMES)]
    (folder / "metadata.csv").write_text("path,label,split\n" + "".join(lines))


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """A dozen films of three seconds, half of them in train; with their list."""
    folder = tmp_path_factory.mktemp("media") / "films"
    for number, name in enumerate(NAMES):
        write_film(folder / name, *drawn(number))
    listed(folder)
    return folder


@pytest.fixture
def own(films, tmp_path) -> Path:
    """Films of this test's own, which it may change."""
    return Path(shutil.copytree(films, tmp_path / "films"))


def make(source, out, **settings):
    return extract(source, out, progress=False, device="cpu", **settings)


# What is found in one's own way.


def patches(name: str, extractor: VggishFeatureExtractor | None = None) -> list[torch.Tensor]:
    """What VGGish hears of a film, one unit at a time."""
    extractor = extractor or VggishFeatureExtractor()
    samples = drawn(NAMES.index(name))[0].astype(np.float32) / 32_768
    starts = range(0, len(samples) - PATCH + 1, NEXT)
    return [extractor(samples[at : at + PATCH], return_tensors="pt")["input_features"] for at in starts]


def vectors_of(folder: Path, inputs: list[torch.Tensor], name: str = "vggish") -> np.ndarray:
    """One by one through the network as it was saved before components."""
    model = NETWORKS[name].model.from_pretrained(folder).eval()
    with torch.no_grad():
        return np.concatenate([model(one).pooler_output.numpy() for one in inputs])


def heard(folder: Path, names: list[str]) -> np.ndarray:
    return vectors_of(folder, [patch for name in names for patch in patches(name)])


def whitened(vectors: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray, PCA]:
    """By scikit-learn, which divides by one less; each with its largest number above zero."""
    found = PCA(components, svd_solver="full").fit(vectors.astype(np.float64))
    variance = found.explained_variance_ * (len(vectors) - 1) / len(vectors)
    largest = np.take_along_axis(found.components_, np.abs(found.components_).argmax(1)[:, None], 1)
    return found.components_ * np.sign(largest) / np.sqrt(variance[:, None] + ROUGHLY_NONE), found.mean_, found


def pca_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    tensors = load_file(folder / "model.safetensors")
    return tensors["pca.weight"], tensors["pca.mean"]


def record_of(folder: Path) -> dict:
    return json.loads((folder / "components.json").read_text())


def assert_whitened(folder: Path, vectors: np.ndarray, components: int) -> None:
    """Whether a network holds the components of some vectors.

    The vectors are float32: batches of another size, and batch norms folded into convolutions, leave 3e-7 of the
    largest (five roundings), and twice that in S. An eigenvector turns by that over the gap to its neighbours, which
    is at least 1.2e-2 of the largest variance here: 5e-5 of the largest weight. To divide by one less would be 3e-2.
    """
    weight, mean, found = whitened(vectors, components)
    variances = np.linalg.svd(vectors.astype(np.float64) - mean, compute_uv=False)[: components + 1] ** 2
    assert (-np.diff(variances) > 1.2e-2 * variances[0]).all()
    made, its_mean = pca_of(folder)
    np.testing.assert_allclose(made, weight, rtol=0, atol=5e-5 * np.abs(weight).max())
    np.testing.assert_allclose(its_mean, mean, rtol=0, atol=5e-7 * np.abs(vectors).max())
    record = record_of(folder)
    assert (record["frames"], record["components"]) == (len(vectors), components)
    assert record["share_of_variance"] == pytest.approx(found.explained_variance_ratio_.sum(), abs=1e-5)


def rows(out: Path) -> dict[str, dict]:
    tables = [pq.read_table(file) for file in sorted(Path(out).rglob("*.parquet"))]
    return {row["clip_id"]: row for table in tables for row in table.to_pylist()}


def features(out: Path, modality: str = "audio") -> dict[str, np.ndarray]:
    return {name: np.array(row[f"{modality}_features"], np.float32) for name, row in rows(out).items()}


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def below(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def opened(monkeypatch):
    """The names of the films that were opened, each as often as it was."""
    names, open_film = Counter(), film_reader.Film

    def film(path, *settings, **more):
        names[path.name] += 1
        return open_film(path, *settings, **more)

    monkeypatch.setattr(film_reader, "Film", film)
    return names


@pytest.fixture
def command(films, vggish, tmp_path, monkeypatch, capfd):
    """`command("audio.components=5", "--overwrite")`: exit code, stdout and stderr of `dualspace extract`."""
    monkeypatch.chdir(tmp_path)

    def run(*words, source=films, network=vggish):
        code = main(["extract", str(source), "--out", "out", "--audio", str(network), "--device", "cpu", *words])
        return code, *capfd.readouterr()

    return run


def refused(result, *, tmp_path, before) -> str:
    """The one sentence with which a command ends that leaves nothing."""
    code, printed, said = result
    assert (code, printed) == (1, "") and len(said.splitlines()) == 1 and said.startswith("dualspace: "), said
    assert below(tmp_path) == before
    return said.removeprefix("dualspace: ").rstrip("\n")


# The components.


@pytest.fixture(scope="module")
def made(films, vggish, tmp_path_factory) -> Path:
    """A data set whose sound has three components; the network lies beside it."""
    out = tmp_path_factory.mktemp("made") / "out"
    make(films, out, audio=BackboneSettings(str(vggish), components=3))
    return out


def beside(out: Path, name: str = "vggish") -> Path:
    return out.with_name(f"{out.name}-{name}")


def test_components_are_those_of_scikit_learn_of_training_units_embedded_one_by_one(made, vggish):
    vectors = heard(vggish, TRAIN)
    assert vectors.shape == (18, 12)
    assert_whitened(beside(made), vectors, 3)
    assert record_of(beside(made))["clips"] == 6
    _, _, found = whitened(vectors, 3)
    # What is added to the variances shows: it is much more than what is lost in float32.
    assert found.explained_variance_[-1] < 0.1


def test_the_size_of_a_batch_and_the_number_of_readers_change_them_by_no_more_than_rounding(films, vggish, tmp_path):
    out = tmp_path / "out"
    make(films, out, audio=BackboneSettings(str(vggish), components=3), batch_size=5, workers=3)
    assert_whitened(beside(out), heard(vggish, TRAIN), 3)


# Vectors that are off by 3e-7 of numbers around 1, by weights of up to 10, a dozen of them: at worst.
OFF = 4e-5
STEP = 1 / 256


def transformed(folder: Path, vectors: np.ndarray, post: str, *, rounds: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The formulas of the module that applies them, by what lies in the folder; and how far each may be off.

    What lies so near to an edge between two of the eight bits that rounding decides may fall to either side.
    """
    weight, mean = (part.astype(np.float64) for part in pca_of(folder))
    projected = (vectors - mean) @ weight.T
    if post == "pca":
        return projected, np.full_like(projected, OFF)
    scaled = (projected.clip(-2, 2) + 2) * 255 / 4 + (0.5 if rounds else 0)
    at_edge = (np.abs(scaled - scaled.round()) < OFF * 255 / 4) & (np.abs(projected) < 2)
    assert at_edge.sum() <= 1
    return (np.floor(scaled) - 128) * STEP, np.where(at_edge, STEP, 0) + 1e-7


def assert_mean(vector: np.ndarray, units: np.ndarray, off: np.ndarray) -> None:
    assert (np.abs(vector - units.mean(axis=0)) <= off.mean(axis=0)).all()


@pytest.mark.parametrize("post", ["pca", "dequantised"])
def test_a_clips_vector_is_the_mean_of_what_became_of_each_of_its_units(films, vggish, tmp_path, post):
    out = tmp_path / "out"
    make(films, out, audio=BackboneSettings(str(vggish), settings={"post": post}, components=3))
    found = features(out)
    assert found.keys() == set(NAMES)
    differ = 0.0
    for name, vector in found.items():
        vectors = heard(vggish, [name])
        units, off = transformed(beside(out), vectors, post)
        assert_mean(vector, units, off)
        at_once, _ = transformed(beside(out), vectors.mean(axis=0, keepdims=True), post)
        differ = max(differ, np.abs(vector - at_once).max())
    assert (differ > STEP) == (post == "dequantised")  # a projection of the mean is the mean of projections


def test_the_network_is_saved_in_the_form_of_the_paper_whichever_the_data_set_has(films, vggish, made, tmp_path):
    make(films, tmp_path / "out", audio=BackboneSettings(str(vggish), settings={"post": "pca"}, components=3))
    assert content(beside(tmp_path / "out")) == content(beside(made))
    assert json.loads((beside(made) / "config.json").read_text())["post"] == "dequantised"


def seen(folder: Path) -> dict[str, np.ndarray]:
    """A frame a second of each film, resized by Pillow, each embedded by itself."""
    frames = [drawn(number)[1][second * FPS] for number in range(len(NAMES)) for second in range(SECONDS)]
    small = [Image.fromarray(frame).resize((75, 75), Image.Resampling.BILINEAR) for frame in frames]
    tensors = [torch.from_numpy((np.asarray(one, np.float32) / 255 - 0.5) / 0.5).permute(2, 0, 1) for one in small]
    vectors = vectors_of(folder, [tensor[None] for tensor in tensors], "inception")
    return dict(zip(NAMES, np.split(vectors, len(NAMES)), strict=True))


def test_components_of_frames_are_those_of_scikit_learn_too_and_are_rounded_as_youtube_8m_has_them(
    films, inception, tmp_path
):
    out = tmp_path / "out"
    make(films, out, visual=BackboneSettings(str(inception), components=2))
    vectors = seen(inception)
    assert vectors[NAMES[0]].shape == (3, 2048)
    assert_whitened(beside(out, "inception"), np.concatenate([vectors[name] for name in TRAIN]), 2)
    for name, vector in features(out, "visual").items():
        assert_mean(vector, *transformed(beside(out, "inception"), vectors[name], "dequantised", rounds=True))


def test_sound_is_prepared_for_the_components_as_it_was_when_they_were_fitted(films, vggish, tmp_path):
    out, settings = tmp_path / "out", {"offset": 0.5, "highest": 5000.0}
    make(films, out, audio=BackboneSettings(str(vggish), settings=settings, components=3))
    extractor = VggishFeatureExtractor(**settings)
    vectors = vectors_of(vggish, [patch for name in TRAIN for patch in patches(name, extractor)])
    assert_whitened(beside(out), vectors, 3)
    again = VggishFeatureExtractor.from_pretrained(beside(out))
    assert again.to_dict() == extractor.to_dict()
    for name, vector in features(out).items():
        assert_mean(vector, *transformed(beside(out), vectors_of(vggish, patches(name, extractor)), "dequantised"))


def test_the_front_end_of_the_paper_is_kept_with_the_components_and_nothing_is_printed_where_none_asks_for_progress(
    films, vggish, tmp_path, capfd
):
    out = tmp_path / "out"
    found = make(films, out, audio=BackboneSettings(str(vggish), settings={"front_end": "librosa"}, components=3))
    assert found["clips"] == 12 and capfd.readouterr() == ("", "")
    again = VggishFeatureExtractor.from_pretrained(beside(out))
    assert (again.front_end, again.sampling_rate) == ("librosa", 22_050)


def test_a_network_of_half_precision_has_components_of_what_it_makes_then_and_they_are_not_halved(
    films, vggish, made, tmp_path
):
    out = tmp_path / "out"
    make(films, out, audio=BackboneSettings(str(vggish), components=3), dtype="bfloat16")
    weight, _ = pca_of(beside(out))
    largest = np.abs(weight).max()
    # bfloat16 keeps 8 bits: vectors are off by 4e-3 of themselves, and directions by that over the gaps, 3e-2.
    assert (
        weight.dtype == np.float32 and 1e-5 * largest < np.abs(weight - pca_of(beside(made))[0]).max() < 0.3 * largest
    )
    again = DualSubspaceProcessor.from_pretrained(out).backbone("audio")
    assert again.constants["dtype"] == "bfloat16" and again.tower.model.pca.weight.dtype == torch.float32


# Which films.


def test_only_clips_of_train_are_looked_at(own, vggish, made, tmp_path, opened, monkeypatch):
    for name in set(NAMES) - set(TRAIN):
        write_film(own / name, *drawn(99))
    with monkeypatch.context() as patched:
        patched.setattr(component_fitting, "_write", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            make(own, tmp_path / "out", audio=BackboneSettings(str(vggish), components=3))
    assert opened == dict.fromkeys(TRAIN, 1)
    make(own, tmp_path / "out", audio=BackboneSettings(str(vggish), components=3))
    assert pca_of(beside(tmp_path / "out"))[0].tobytes() == pca_of(beside(made))[0].tobytes()


def test_other_splits_are_other_components(own, vggish, tmp_path):
    listed(own, ("test", "validation", "train", "train"))
    make(own, tmp_path / "out", audio=BackboneSettings(str(vggish), components=3))
    assert_whitened(beside(tmp_path / "out"), heard(vggish, [name for name in NAMES if name not in TRAIN]), 3)


def test_where_clips_are_many_those_are_taken_whose_names_have_the_smallest_hashes(films, vggish, tmp_path, opened):
    def position(name):
        return sha256(name.encode()).hexdigest()

    chosen = sorted(TRAIN, key=position)[:4]
    assert chosen != sorted(chosen)  # or the hash would not show
    clips = [Clip(name, Path(name), name, SPLITS[number % 4]) for number, name in enumerate(NAMES)]
    assert [clip.clip_id for clip in training_clips(clips, 4)] == chosen
    assert [clip.clip_id for clip in training_clips(clips[::-1], 4)] == chosen
    assert training_clips(clips, 6) == [clip for clip in clips if clip.split == "train"]
    one_more = [replace(clips[0], clip_id="more.mkv"), *clips]
    kept = [clip.clip_id for clip in training_clips(one_more, 4) if clip.clip_id != "more.mkv"]
    assert kept == chosen[: len(kept)] and len(kept) >= 3
    out = tmp_path / "out"
    make(films, out, audio=BackboneSettings(str(vggish), components=3, component_clips=4))
    assert_whitened(beside(out), heard(vggish, chosen), 3)
    assert record_of(beside(out))["clips"] == 4
    assert opened == dict.fromkeys(NAMES, 1) | dict.fromkeys(chosen, 2)


def test_films_that_cannot_be_read_are_passed_over_and_listed_by_the_extraction(own, vggish, tmp_path):
    (own / TRAIN[0]).write_bytes(b"no film")
    (own / TRAIN[2]).write_bytes((own / TRAIN[2]).read_bytes()[:600])
    out = tmp_path / "out"
    found = make(own, out, audio=BackboneSettings(str(vggish), components=3))
    assert sorted(name for name, _ in found["first_skipped"]) == [TRAIN[0], TRAIN[2]] and found["clips"] == 10
    assert_whitened(beside(out), heard(vggish, [name for name in TRAIN if name not in (TRAIN[0], TRAIN[2])]), 3)


def test_vectors_that_are_not_finite_are_passed_over_and_their_clip_is_listed(own, vggish, tmp_path, monkeypatch):
    write_film(own / TRAIN[1], np.zeros(SECONDS * RATE, np.int16), drawn(1)[1])
    embed = transformers_backbones._SoundBackbone.embed

    def overflowing(self, units):
        silent = [np.ptp(pieces[0]["input_features"]) == 0 for pieces in units]
        return np.where(np.array(silent)[:, None], np.float32("inf"), embed(self, units))

    monkeypatch.setattr(transformers_backbones._SoundBackbone, "embed", overflowing)
    out = tmp_path / "out"
    found = make(own, out, audio=BackboneSettings(str(vggish), components=3))
    assert found["first_skipped"] == [[TRAIN[1], "has audio features that are not finite"]]
    assert_whitened(beside(out), heard(vggish, [name for name in TRAIN if name != TRAIN[1]]), 3)


# What cannot be fitted.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["audio.components=13"], "vggish has 12 numbers a unit, of which 13 components cannot be made."),
        (["audio.source=null", "audio.components=3"], "Components are fitted to vggish, soundnet, inception, i3d, and not to logmel: set `components` to 0."),  # noqa: E501
        (["visual.components=3"], "Components are fitted to vggish, soundnet, inception, i3d, and not to thumbnail: set `components` to 0."),  # noqa: E501
        (["audio.components=3", "audio.settings.post=none"], "`post` says what becomes of the 3 components: pca, 8bit or dequantised, got 'none'."),  # noqa: E501
        (["audio.components=3", "audio.settings.post=pka"], "`post` says what becomes of the 3 components: pca, 8bit or dequantised, got 'pka'."),  # noqa: E501
        (["audio.components=3", "audio.component_clips=1"], "3 components take more than 3 frames of training clips, and these have 3: take more films, more frames a second, or fewer components."),  # noqa: E501
        (["audio.components=3", "--max-seconds", "1"], "3 components take more than 3 frames of training clips, and these have 0: take more films, more frames a second, or fewer components."),  # noqa: E501
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_one_sentence_and_leaves_nothing(command, vggish, tmp_path, words, said):
    if "audio.source=null" in words:
        words = [*words[1:], "--audio", "logmel"]
    assert refused(command(*words), tmp_path=tmp_path, before=set()) == said


def test_a_network_that_has_components_is_not_given_others(command, tmp_path):
    folder = saved(tmp_path / "whole", "vggish", channels=[4] * 6, hidden=16, width=12, pca=5, post="pca")
    said = refused(command("audio.components=3", network=folder), tmp_path=tmp_path, before={"whole"})
    assert said == f"{folder} has components of its own: set `components` to 0, or convert vggish without them."


@pytest.mark.parametrize("splits", [("validation", "test")])
def test_films_of_which_none_is_in_train_have_no_components(command, own, tmp_path, splits):
    listed(own, splits)
    said = refused(command("audio.components=3", source=own), tmp_path=tmp_path, before={"films"})
    assert said == "Components are fitted to training clips, and no clip is in train: name splits in a list."


@pytest.mark.parametrize("components", [1, 3])
def test_frames_that_do_not_vary_have_no_components(command, own, tmp_path, components):
    for name in TRAIN:
        write_film(own / name, np.zeros(SECONDS * RATE, np.int16), drawn(0)[1])
    said = refused(command(f"audio.components={components}", source=own), tmp_path=tmp_path, before={"films"})
    assert said == (
        f"The 18 frames of training clips do not vary in {components} directions, as vggish sees them: take fewer "
        "components."
    )


def test_a_model_of_somebody_else_has_no_components(tmp_path, films):
    class Foreign:
        """As what holds two towers: a module without a configuration."""

        name, source, width, modality = "pe-audio", "me/pe-audio", 4, "audio"
        tower = nn.Module()

    Foreign.tower.model = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="Components are fitted to .* and not to pe-audio: set `components` to 0"):
        component_fitting._check(Foreign(), 3, [], "pca")


# Stopping, and going on.


@pytest.fixture
def asked_to_stop(monkeypatch):
    """`asked_to_stop(n)`: a SIGTERM comes while the n-th batch of sounds is embedded; 0 leaves it alone."""
    embed = transformers_backbones._SoundBackbone.embed

    def at(count):
        def asked(self, units):
            nonlocal count
            count -= 1
            if count == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return embed(self, units)

        monkeypatch.setattr(transformers_backbones._SoundBackbone, "embed", asked)

    return at


@pytest.mark.parametrize("batch", [2, 10])
def test_being_asked_to_stop_while_they_are_fitted_is_said_and_leaves_nothing_and_the_command_begins_anew(
    command, made, tmp_path, asked_to_stop, batch
):
    asked_to_stop(batch)  # of the first, width and shape of the vectors are learnt
    code, printed, said = command("audio.components=3", "--batch-size", "2")
    assert (code, printed) == (128 + signal.SIGTERM, "")
    assert said == "dualspace: stopped while components were fitted: the same command begins anew\n"
    assert below(tmp_path) == set()
    asked_to_stop(0)
    assert command("audio.components=3")[0] == 0
    assert content(beside(tmp_path / "out")) == content(beside(made))
    assert features(tmp_path / "out").keys() == set(NAMES)


def test_being_asked_to_stop_while_the_network_is_written_keeps_it_and_ends_before_the_next_film(
    command, tmp_path, opened, monkeypatch
):
    write = component_fitting._write

    def asked(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return write(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(component_fitting, "_write", asked)
        code, printed, said = command("audio.components=3", "--workers", "1")
    assert code == 128 + signal.SIGTERM and not printed
    assert re.fullmatch(r"dualspace: stopped; 0 of \d+ shards are kept in .*: the same command goes on\n", said)
    assert "out-vggish" in below(tmp_path) and "out" not in below(tmp_path)
    opened.clear()
    assert command("audio.components=3")[0] == 0
    assert opened == dict.fromkeys(NAMES, 1)  # nothing was fitted again
    assert below(tmp_path) == {"out", "out-vggish"}


@needs_fork
def test_being_killed_while_the_network_is_written_leaves_none(films, vggish, made, tmp_path, monkeypatch):
    audio = BackboneSettings(str(vggish), components=3)

    def killed(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(component_fitting, "write_json", killed)
        child = in_a_child(lambda: make(films, tmp_path / "out", audio=audio))
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert not {"out", "out-vggish"} & below(tmp_path)
    make(films, tmp_path / "out", audio=audio)
    assert below(tmp_path) == {"out", "out-vggish"}
    assert content(beside(tmp_path / "out")) == content(beside(made))


def test_a_full_disk_is_one_sentence_and_leaves_no_network(command, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(component_fitting, "write_json", full)
        assert command("audio.components=3") == (1, "", "dualspace: No space left on device\n")
    assert below(tmp_path) == set()
    assert command("audio.components=3")[0] == 0


def test_the_same_command_again_reads_no_film_and_says_that_there_is_nothing_to_do(command, tmp_path, opened):
    code, printed, _ = command("audio.components=3")
    network = f"vggish with its components is {tmp_path / 'out-vggish'}: keep it, a processor looks there.\n"
    assert code == 0 and network in printed
    assert opened == dict.fromkeys(NAMES, 1) | dict.fromkeys(TRAIN, 2)
    opened.clear()
    before = {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in tmp_path.rglob("*")}
    for again in (["audio.components=3"], ["audio.components=3", "--json"]):
        code, printed, said = command(*again)
        assert code == 0 and DONE in printed and not said
    assert not opened
    assert {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in tmp_path.rglob("*")} == before


def test_components_outlive_their_data_set(command, tmp_path, opened):
    command("audio.components=3")
    expected = content(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    opened.clear()
    assert command("audio.components=3")[0] == 0
    assert opened == dict.fromkeys(NAMES, 1) and content(tmp_path / "out") == expected


OTHERS = {
    "components": (lambda own: None, ["audio.components=2"]),
    "network": (lambda own: None, ["audio.components=3", "audio.settings.final_relu=true"]),
    "film": (lambda own: write_film(own / TRAIN[0], *drawn(50)), ["audio.components=3"]),
    "splits": (lambda own: listed(own, ("train",) * 3 + ("test",)), ["audio.components=3"]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_components_take_the_place_of_those_there_are_only_where_that_is_said(
    command, own, tmp_path, opened, name
):
    change, words = OTHERS[name]
    assert command("audio.components=3", source=own)[0] == 0
    change(own)
    before = content(tmp_path)
    opened.clear()
    said = refused(command(*words, source=own), tmp_path=tmp_path, before={"films", "out", "out-vggish"})
    assert said == f"{tmp_path}/out-vggish exists already and is not empty: choose another name, or pass --overwrite."
    assert not opened and content(tmp_path) == before  # it was said before any work
    assert command(*words, "--overwrite", source=own)[0] == 0
    assert record_of(tmp_path / "out-vggish")["key"] != json.loads(before["out-vggish/components.json"])["key"]
    assert below(tmp_path) == {"films", "out", "out-vggish"}
    assert command(*words, source=own)[0] == 0
    assert (
        DualSubspaceProcessor.from_pretrained("out").backbone("audio").width
        == record_of(Path("out-vggish"))["components"]
    )


def test_what_has_nothing_to_do_with_them_fits_nothing_again(command, own, tmp_path, opened):
    command("audio.components=3", source=own)
    write_film(own / "02.mkv", *drawn(50))  # not in train
    opened.clear()
    kept = content(tmp_path / "out-vggish")
    assert command("audio.components=3", "audio.settings.post=pca", "--overwrite", source=own)[0] == 0
    assert opened == dict.fromkeys(NAMES, 1) and content(tmp_path / "out-vggish") == kept
    assert max(np.abs(vector).max() for vector in features(tmp_path / "out").values()) > 0.5  # no 8 bits


def test_a_folder_of_somebody_else_is_not_replaced(command, tmp_path):
    (tmp_path / "out-vggish").mkdir()
    (tmp_path / "out-vggish" / "mine.txt").write_text("mine")
    said = refused(command("audio.components=3"), tmp_path=tmp_path, before={"out-vggish"})
    assert said == f"{tmp_path}/out-vggish exists already and is not empty: choose another name, or pass --overwrite."
    said = refused(command("audio.components=3", "--overwrite"), tmp_path=tmp_path, before={"out-vggish"})
    assert said == f"{tmp_path}/out-vggish was not made here, so it is not overwritten: choose another name."


def test_a_network_that_was_damaged_is_not_taken(command, tmp_path):
    command("audio.components=3")
    file = tmp_path / "out-vggish" / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)
    code, printed, said = command("audio.components=3")
    assert code == 1 and not printed and len(said.splitlines()) == 1 and "out-vggish" in said


# Several processes.


@pytest.fixture
def several(together):
    """`several(n, work)`: what `work(index)` returns in each of n processes; none may outlast a minute."""

    def run(count, work):
        def of_one():
            signal.alarm(60)
            return work(PartialState(cpu=True).process_index)

        gc.collect()  # a child that frees what a decoder's threads worked on waits for threads it has not
        return together(count, of_one)

    return run


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    """Means of three units each: hardly any differs, and then by one step of one unit, at an edge."""
    differ = np.abs(found - expected)
    assert (differ <= 1.01 * STEP / 3).all() and (differ > 1e-6).mean() < 0.1


@needs_fork
def test_two_processes_fit_what_one_fits_and_both_take_the_network_that_was_saved(
    films, vggish, made, tmp_path, several, monkeypatch
):
    out, specs = tmp_path / "out", []
    load = component_fitting._loaded
    monkeypatch.setattr(component_fitting, "_loaded", lambda *given: (specs.append(load(*given)), specs[0])[1])

    def work(index):
        found = make(films, out, audio=BackboneSettings(str(vggish), components=3))
        again = make(films, out, audio=BackboneSettings(str(vggish), components=3))
        return specs[0].spec, specs[0].weights, found.get("clips"), again["notes"]

    found = several(2, work)
    assert len({(spec, weights) for spec, weights, _, _ in found}) == 1
    assert [(clips, notes) for _, _, clips, notes in found] == [(12, [DONE]), (None, [DONE])]
    assert_whitened(beside(out), heard(vggish, TRAIN), 3)
    assert record_of(beside(out)) == record_of(beside(made)) | {
        "share_of_variance": pytest.approx(record_of(beside(made))["share_of_variance"], rel=1e-6)
    }
    expected = features(made)
    assert below(tmp_path) >= {"out", "out-vggish"} and features(out).keys() == expected.keys()
    assert_same_bits(np.stack([features(out)[name] for name in expected]), np.stack(list(expected.values())))


@needs_fork
def test_a_process_without_a_film_in_train_takes_part(own, vggish, tmp_path, several):
    listed(own, ("train", *["test"] * 5, "train", *["test"] * 5))
    several(3, lambda index: make(own, tmp_path / "out", audio=BackboneSettings(str(vggish), components=2)))
    assert_whitened(beside(tmp_path / "out"), heard(vggish, [NAMES[0], NAMES[6]]), 2)


@needs_fork
def test_what_cannot_be_fitted_by_several_processes_is_said_once_and_none_waits(films, vggish, tmp_path, several):
    def work(index):
        told = []
        for components in (12, 13):  # too many for these films, and for this network
            with pytest.raises(ValueError) as error:
                make(
                    films,
                    tmp_path / "out",
                    audio=BackboneSettings(str(vggish), components=components, component_clips=2),
                )
            told.append((str(error.value).split(":")[0], getattr(error.value, "told", False)))
        return told

    few = "12 components take more than 12 frames of training clips, and these have 6"
    many = "vggish has 12 numbers a unit, of which 13 components cannot be made."
    assert several(2, work) == [[(few, True), (many, True)]] * 2
    assert not {"out", "out-vggish", ".out.extracting"} & below(tmp_path)


# Afterwards.


def test_the_processor_of_the_data_set_makes_the_same_features_of_a_film_again(films, vggish, made, tmp_path):
    other = tmp_path / "out"
    make(films, other, audio=BackboneSettings(str(vggish), settings={"post": "pca"}, components=3))
    for out, kind in ((made, AutoProcessor), (other, DualSubspaceProcessor)):
        vectors = features(out)
        found = kind.from_pretrained(out)(videos=[films / name for name in vectors])["audio_features"]
        if out is made:
            assert_same_bits(found.numpy(), np.stack(list(vectors.values())))
        else:
            np.testing.assert_allclose(found.numpy(), np.stack(list(vectors.values())), rtol=0, atol=OFF)


def test_a_processor_says_where_it_misses_its_network(films, vggish, tmp_path):
    make(films, tmp_path / "out", audio=BackboneSettings(str(vggish), components=3))
    beside(tmp_path / "out").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="out-vggish"):
        DualSubspaceProcessor.from_pretrained(tmp_path / "out").backbone("audio")
    processor = DualSubspaceProcessor.from_pretrained(tmp_path / "out", audio=tmp_path / "moved")
    assert processor.backbone("audio").width == 3


FRESH = """
import json, sys
import numpy as np, torch
from transformers import AutoModel, AutoProcessor
import modeling_dualspace

torch.set_num_threads(1)
out, film = sys.argv[1:]
model = AutoModel.from_pretrained(out + "-vggish").eval()
with torch.no_grad():
    made = model(torch.from_numpy(np.load("patches.npy"))).pooler_output
found = AutoProcessor.from_pretrained(out)(videos=[film])
print(json.dumps([type(model).__name__, made.tolist(), found["audio_features"][0].tolist()]))
"""


@pytest.mark.slow  # five seconds; that a fresh process knows the networks is tested with them
def test_a_fresh_process_loads_the_network_and_the_processor(made, films, vggish, root, tmp_path):
    inputs = torch.cat(patches(NAMES[3]))
    np.save(tmp_path / "patches.npy", inputs.numpy())
    environment = os.environ | {"PYTHONPATH": str(root)}
    told = subprocess.run(
        [sys.executable, "-c", FRESH, str(made), str(films / NAMES[3])],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    name, vectors, vector = json.loads(told.stdout)
    assert name == "VggishModel"
    expected, off = transformed(beside(made), heard(vggish, [NAMES[3]]), "dequantised")
    assert (np.abs(np.array(vectors) - expected) <= off).all()
    assert_mean(np.array(vector), expected, off)
    assert_same_bits(np.array([vector]), features(made)[NAMES[3]][None])


def test_what_lies_beside_the_data_set_says_what_it_was_made_of(made, vggish):
    record, card = record_of(beside(made)), (beside(made) / "README.md").read_text()
    assert record.keys() == {"key", "clips", "frames", "components", "share_of_variance"}
    share = f"{record['share_of_variance']:.1%} of the variance"
    assert "with 3 whitened principal components, fitted by DualSpace to 18 frames of 6 training clips" in card
    assert share in card and "vggish@" in card and "licence" in card
    config = json.loads((beside(made) / "config.json").read_text())
    assert (config["pca"], config["post"], config["channels"]) == (3, "dequantised", [4] * 6)
    tensors, before = load_file(beside(made) / "model.safetensors"), load_file(vggish / "model.safetensors")
    assert tensors.keys() - before.keys() == {"pca.weight", "pca.mean"}
    assert all(tensors[name].tobytes() == before[name].tobytes() for name in before)


def test_who_stops_the_fit_by_the_function_is_told_by_which_signal(films, vggish, tmp_path, asked_to_stop):
    asked_to_stop(3)
    with pytest.raises(StoppedError, match="while components were fitted") as stopped:
        make(films, tmp_path / "out", audio=BackboneSettings(str(vggish), components=3), batch_size=2)
    assert stopped.value.signal == signal.SIGTERM and not list(tmp_path.iterdir())


def test_the_forms_are_those_of_the_model_that_transformers_loads(made, vggish):
    vectors = heard(vggish, TRAIN[:2])
    with torch.no_grad():
        inputs = torch.cat([patch for name in TRAIN[:2] for patch in patches(name)])
        found = AutoModel.from_pretrained(beside(made)).eval()(inputs).pooler_output.numpy()
    expected, off = transformed(beside(made), vectors, "dequantised")
    assert (np.abs(found - expected) <= off).all()
    pca = FeaturePca(12, 3)
    weight, mean = pca_of(beside(made))
    pca.load_state_dict({"weight": torch.from_numpy(weight), "mean": torch.from_numpy(mean)})
    for post in ("pca", "8bit", "dequantised"):
        found = pca(torch.from_numpy(vectors), post).numpy()
        expected, off = transformed(beside(made), vectors, "dequantised" if post == "8bit" else post)
        found = (found - 128) * STEP if post == "8bit" else found
        assert (np.abs(found - expected) <= off).all()
