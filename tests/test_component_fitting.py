"""Components: those of scikit-learn, of units embedded one by one; in a network beside the data set, which stays."""

import functools
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
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

from modeling_dualspace import (
    component_fitting,
    extraction_plan,
    extraction_shards,
    film_reader,
    transformers_backbones,
)
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
RATE, FPS, SECONDS = 16_000, 4, 3
PATCH, NEXT = 15_600, 15_360  # samples of a unit of VGGish, and from one to the next: three in three seconds
SPLITS = ("train", "train", "validation", "test")
NAMES = [f"{number:02d}.mkv" for number in range(8)]
TRAIN = [name for number, name in enumerate(NAMES) if SPLITS[number % 4] == "train"]
PICTURES = {"size": {"height": 75, "width": 75}, "do_center_crop": False, "resample": 2}
PICTURES |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
ROUGHLY_NONE = 1e-4
DONE = "Nothing to do: it was extracted before, from the same films and by the same settings."
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes of this test are forked")


# Networks and films.


@pytest.fixture(autouse=True)
def _few_shards(monkeypatch):
    """Of two films each, and of one where components are fitted; nobody waits long for them."""
    monkeypatch.setattr(extraction_plan, "SHARDS", 4)
    monkeypatch.setattr(extraction_shards, "POLL_SECONDS", 0.02)


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
    """Eight films of three seconds, half of them in train; with their list."""
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


@functools.cache
def network(folder: Path, name: str) -> nn.Module:
    """As it was saved before components."""
    return NETWORKS[name].model.from_pretrained(folder).eval()


def vectors_of(folder: Path, inputs: list[torch.Tensor], name: str = "vggish") -> np.ndarray:
    """One by one through the network."""
    with torch.no_grad():
        return np.concatenate([network(folder, name)(one).pooler_output.numpy() for one in inputs])


@functools.cache
def heard_in(folder: Path, name: str) -> np.ndarray:
    return vectors_of(folder, patches(name))


def heard(folder: Path, names: list[str]) -> np.ndarray:
    return np.concatenate([heard_in(folder, name) for name in names])


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


def networks(folder: Path) -> set[Path]:
    """What lies beside data sets."""
    return {path for path in folder.iterdir() if (path / "components.json").exists()}


def beside(out: Path, name: str = "vggish") -> Path:
    """The only network beside a data set; it is called after what it was made of."""
    (found,) = out.parent.glob(f"{out.name}-{name}-*")
    assert found.name == f"{out.name}-{name}-{record_of(found)['key'][:8]}"
    return found


def waiting(out: Path) -> set[str]:
    """The files of vectors that are kept."""
    return {file.name for file in out.with_name(f".{out.name}.extracting").glob("components-*")}


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


def test_components_are_those_of_scikit_learn_of_training_units_embedded_one_by_one(made, vggish):
    vectors = heard(vggish, TRAIN)
    assert vectors.shape == (12, 12)
    assert_whitened(beside(made), vectors, 3)
    assert record_of(beside(made))["clips"] == 4
    assert below(made.parent) == {"out", beside(made).name}  # no vectors are left
    _, _, found = whitened(vectors, 3)
    # What is added to the variances shows: it is much more than what is lost in float32.
    assert found.explained_variance_[-1] < 0.1


def test_batches_over_films_and_several_readers_change_them_by_no_more_than_rounding(
    films, vggish, tmp_path, monkeypatch
):
    monkeypatch.setattr(extraction_plan, "SHARDS", 1)
    monkeypatch.setattr(component_fitting, "CHUNK", 4)
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
def test_a_clips_vector_is_the_mean_of_what_became_of_each_of_its_units(films, vggish, made, tmp_path, post):
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
    # The network is saved in the form of the paper, whichever the data set has.
    assert content(beside(out)) == content(beside(made))
    assert json.loads((beside(out) / "config.json").read_text())["post"] == "dequantised"


def seen(folder: Path, names: list[str]) -> dict[str, np.ndarray]:
    """A frame a second of each film, resized by Pillow, each embedded by itself."""
    frames = [drawn(NAMES.index(name))[1][second * FPS] for name in names for second in range(SECONDS)]
    small = [Image.fromarray(frame).resize((75, 75), Image.Resampling.BILINEAR) for frame in frames]
    tensors = [torch.from_numpy((np.asarray(one, np.float32) / 255 - 0.5) / 0.5).permute(2, 0, 1) for one in small]
    vectors = vectors_of(folder, [tensor[None] for tensor in tensors], "inception")
    return dict(zip(names, np.split(vectors, len(names)), strict=True))


@pytest.mark.slow
def test_components_of_frames_are_those_of_scikit_learn_too_and_are_rounded_as_youtube_8m_has_them(
    own, inception, tmp_path
):
    few, out = NAMES[:5], tmp_path / "out"
    (own / "metadata.csv").write_text(
        "path,split\n" + "".join(f"{name},train\n" for name in few[:4]) + f"{few[4]},test\n"
    )
    make(own, out, visual=BackboneSettings(str(inception), components=2))
    vectors = seen(inception, few)
    assert vectors[NAMES[0]].shape == (3, 2048)
    assert_whitened(beside(out, "inception"), np.concatenate([vectors[name] for name in few[:4]]), 2)
    found = features(out, "visual")
    assert found.keys() == set(few)
    for name, vector in found.items():
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
    assert found["clips"] == 8 and capfd.readouterr() == ("", "")
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
    assert opened == dict.fromkeys(NAMES, 1) | dict.fromkeys(TRAIN, 2)  # their vectors had been kept
    assert content(beside(tmp_path / "out")) == content(beside(made))


def test_other_splits_are_other_components(own, vggish, tmp_path):
    listed(own, ("test", "validation", "train", "train"))
    make(own, tmp_path / "out", audio=BackboneSettings(str(vggish), components=3))
    assert_whitened(beside(tmp_path / "out"), heard(vggish, [name for name in NAMES if name not in TRAIN]), 3)


def test_where_clips_are_many_those_are_taken_whose_names_have_the_smallest_hashes(films, vggish, tmp_path, opened):
    def position(name):
        return sha256(name.encode()).hexdigest()

    chosen = sorted(TRAIN, key=position)[:3]
    assert chosen != sorted(chosen)  # or the hash would not show
    clips = [Clip(name, Path(name), name, SPLITS[number % 4]) for number, name in enumerate(NAMES)]
    assert [clip.clip_id for clip in training_clips(clips, 3)] == chosen
    assert [clip.clip_id for clip in training_clips(clips[::-1], 3)] == chosen
    assert training_clips(clips, 4) == [clip for clip in clips if clip.split == "train"]
    one_more = [replace(clips[0], clip_id="more.mkv"), *clips]
    kept = [clip.clip_id for clip in training_clips(one_more, 3) if clip.clip_id != "more.mkv"]
    assert kept == chosen[: len(kept)] and len(kept) >= 2
    out = tmp_path / "out"
    make(films, out, audio=BackboneSettings(str(vggish), components=3, component_clips=3))
    assert_whitened(beside(out), heard(vggish, chosen), 3)
    assert record_of(beside(out))["clips"] == 3
    assert opened == dict.fromkeys(NAMES, 1) | dict.fromkeys(chosen, 2)


def test_films_that_cannot_be_read_are_passed_over_and_listed_by_the_extraction(own, vggish, tmp_path):
    (own / TRAIN[0]).write_bytes(b"no film")
    (own / TRAIN[2]).write_bytes((own / TRAIN[2]).read_bytes()[:600])
    out = tmp_path / "out"
    found = make(own, out, audio=BackboneSettings(str(vggish), components=3))
    assert sorted(name for name, _ in found["first_skipped"]) == [TRAIN[0], TRAIN[2]] and found["clips"] == 6
    assert_whitened(beside(out), heard(vggish, [name for name in TRAIN if name not in (TRAIN[0], TRAIN[2])]), 3)
    assert record_of(beside(out))["clips"] == 2


def test_a_unit_that_two_clips_share_counts_once_and_each_of_them_is_a_clip(own, vggish, tmp_path):
    lines = [f"{name},{start},{end},train\n" for name in NAMES[:4] for start, end in ((0, 3), (0, 2.9), (0.5, 3))]
    (own / "metadata.csv").write_text("path,start,end,split\n" + "".join(lines))
    make(own, tmp_path / "out", audio=BackboneSettings(str(vggish), components=2))
    record = record_of(beside(tmp_path / "out"))
    assert (record["clips"], record["frames"]) == (12, 4 * (3 + 0 + 2))  # the first two clips have the same three units


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
    assert record_of(beside(out))["clips"] == 3


# What cannot be fitted.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["audio.components=13"], "vggish has 12 numbers a unit, of which 13 components cannot be made."),
        (["audio.source=null", "audio.components=3"], "Components are fitted to vggish, soundnet, inception, i3d, and not to logmel: set `components` to 0."),  # noqa: E501
        (["visual.components=3"], "Components are fitted to vggish, soundnet, inception, i3d, and not to thumbnail: set `components` to 0."),  # noqa: E501
        (["audio.components=3", "audio.settings.post=none"], "`post` says what becomes of the 3 components: pca, 8bit or dequantised, got 'none'."),  # noqa: E501
        (["audio.components=3", "audio.settings.post=pka"], "`post` says what becomes of the 3 components: pca, 8bit or dequantised, got 'pka'."),  # noqa: E501
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_one_sentence_and_no_film_is_opened(command, tmp_path, opened, words, said):
    if "audio.source=null" in words:
        words = [*words[1:], "--audio", "logmel"]
    assert refused(command(*words), tmp_path=tmp_path, before=set()) == said and not opened


FEW = "{} components take more than {} frames of training clips, and these have {}: take more films, more frames a second, or fewer components."  # noqa: E501
FLAT = "The {} frames of training clips do not vary in {} directions, as vggish sees them: take fewer components."


@pytest.mark.parametrize(
    ("words", "too_many", "fewer", "said"),
    [
        (["audio.component_clips=2"], 6, 3, FEW.format(6, 6, 6)),
        ([], 3, 2, FLAT.format(12, 3)),
    ],
)
def test_a_fit_that_fails_keeps_its_vectors_and_fewer_components_read_no_film_again(
    command, tmp_path, opened, monkeypatch, words, too_many, fewer, said
):
    embed = transformers_backbones._SoundBackbone.embed

    def flat(self, units):
        vectors = embed(self, units)
        return vectors * (np.arange(12) < 2) if vectors.shape[1] == 12 else vectors

    if "directions" in said:
        monkeypatch.setattr(transformers_backbones._SoundBackbone, "embed", flat)
    result = command(f"audio.components={too_many}", *words)
    assert refused(result, tmp_path=tmp_path, before={".out.extracting"}) == said
    kept = content(tmp_path / ".out.extracting")
    assert len(waiting(tmp_path / "out")) == len(opened) and set(opened.values()) == {1}
    assert (
        refused(command(f"audio.components={too_many}", *words), tmp_path=tmp_path, before={".out.extracting"}) == said
    )
    assert content(tmp_path / ".out.extracting") == kept and set(opened.values()) == {1}
    opened.clear()
    assert command(f"audio.components={fewer}", *words)[0] == 0
    assert opened == dict.fromkeys(NAMES, 1)
    assert record_of(beside(tmp_path / "out"))["components"] == fewer
    assert below(tmp_path) == {"out", beside(tmp_path / "out").name}


def test_films_that_are_all_passed_over_have_no_components(command, tmp_path):
    result = command("audio.components=3", "--max-seconds", "1")
    assert refused(result, tmp_path=tmp_path, before={".out.extracting"}) == FEW.format(3, 3, 0)


def test_a_network_that_has_components_is_not_given_others(command, tmp_path):
    folder = saved(tmp_path / "whole", "vggish", channels=[4] * 6, hidden=16, width=12, pca=5, post="pca")
    said = refused(command("audio.components=3", network=folder), tmp_path=tmp_path, before={"whole"})
    assert said == f"{folder} has components of its own: set `components` to 0, or convert vggish without them."


def test_films_of_which_none_is_in_train_have_no_components(command, own, tmp_path):
    listed(own, ("validation", "test"))
    said = refused(command("audio.components=3", source=own), tmp_path=tmp_path, before={"films"})
    assert said == "Components are fitted to training clips, and no clip is in train: name splits in a list."


def test_frames_that_do_not_vary_have_no_components(command, own, tmp_path):
    for name in TRAIN:
        write_film(own / name, np.zeros(SECONDS * RATE, np.int16), drawn(0)[1])
    result = command("audio.components=1", source=own)
    assert refused(result, tmp_path=tmp_path, before={"films", ".out.extracting"}) == FLAT.format(12, 1)


def test_a_batch_that_fails_is_one_sentence_and_what_was_written_before_it_is_kept(
    command, made, tmp_path, opened, monkeypatch
):
    embed = transformers_backbones._SoundBackbone.embed

    def failing(self, units):
        if len(waiting(tmp_path / "out")) == 2:
            raise MemoryError("no room")
        return embed(self, units)

    with monkeypatch.context() as patched:
        patched.setattr(transformers_backbones._SoundBackbone, "embed", failing)
        said = refused(command("audio.components=3"), tmp_path=tmp_path, before={".out.extracting"})
    assert said == (
        "The audio backbone vggish failed on a batch of 3 units (MemoryError no room): a smaller one takes less memory."
    )
    opened.clear()
    assert command("audio.components=3")[0] == 0
    assert opened == dict.fromkeys(NAMES, 1) | dict.fromkeys(TRAIN[2:], 2)
    assert content(beside(tmp_path / "out")) == content(beside(made))


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
    """`asked_to_stop(n)`: a SIGTERM comes while the n-th batch of sounds is embedded, 0: none; the sizes of batches."""
    embed = transformers_backbones._SoundBackbone.embed

    def at(count, number=signal.SIGTERM):
        sizes = []

        def asked(self, units):
            sizes.append(len(units))
            if len(sizes) == count:
                os.kill(os.getpid(), number)
            return embed(self, units)

        monkeypatch.setattr(transformers_backbones._SoundBackbone, "embed", asked)
        return sizes

    return at


@pytest.mark.parametrize("kept", [1, 3])
def test_being_asked_to_stop_while_they_are_fitted_says_what_is_kept_and_the_command_goes_on(
    command, made, tmp_path, opened, asked_to_stop, kept
):
    asked_to_stop(1 + kept)  # of the first, the width of the vectors is learnt; a batch is a film here
    code, printed, said = command("audio.components=3", "--workers", "1")
    assert (code, printed) == (128 + signal.SIGTERM, "")
    assert said == (
        f"dualspace: stopped while components were fitted; {kept} of 4 shards are kept in {tmp_path}/.out.extracting: "
        "the same command goes on\n"
    )
    assert below(tmp_path) == {".out.extracting"} and len(waiting(tmp_path / "out")) == kept
    assert set(TRAIN[:kept]) <= set(opened)
    asked_to_stop(0)
    opened.clear()
    assert command("audio.components=3")[0] == 0
    assert opened == dict.fromkeys(NAMES, 1) | dict.fromkeys(TRAIN[kept:], 2)
    assert content(beside(tmp_path / "out")) == content(beside(made))
    assert features(tmp_path / "out").keys() == set(NAMES)
    assert below(tmp_path) == {"out", beside(tmp_path / "out").name}


def test_a_kept_file_that_was_damaged_is_read_again(command, made, tmp_path, opened, asked_to_stop):
    asked_to_stop(3)
    command("audio.components=3")
    asked_to_stop(0)
    first = min((tmp_path / ".out.extracting").glob("components-*"))
    os.truncate(first, first.stat().st_size - 9)
    opened.clear()
    assert command("audio.components=3")[0] == 0
    assert opened == dict.fromkeys(NAMES, 1) | dict.fromkeys([TRAIN[0], *TRAIN[2:]], 2)
    assert content(beside(tmp_path / "out")) == content(beside(made))


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
    assert below(tmp_path) == {".out.extracting", beside(tmp_path / "out").name}
    opened.clear()
    assert command("audio.components=3")[0] == 0
    assert opened == dict.fromkeys(NAMES, 1)  # nothing was fitted again
    assert below(tmp_path) == {"out", beside(tmp_path / "out").name}


@needs_fork
@pytest.mark.parametrize("while_it", ["reads", "writes"])
def test_being_killed_leaves_no_network_and_the_same_command_goes_on_to_the_same_bytes(
    films, vggish, made, tmp_path, opened, monkeypatch, asked_to_stop, while_it
):
    audio = BackboneSettings(str(vggish), components=3)

    def killed(*arguments):
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patched:
        if while_it == "reads":
            asked_to_stop(4, signal.SIGKILL)
        else:
            patched.setattr(component_fitting, "write_json", killed)
        child = in_a_child(lambda: make(films, tmp_path / "out", audio=audio))
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
    asked_to_stop(0)
    assert not networks(tmp_path) and "out" not in below(tmp_path)
    left = len(waiting(tmp_path / "out"))
    assert left == (2 if while_it == "reads" else 4)
    make(films, tmp_path / "out", audio=audio)
    assert opened == dict.fromkeys(NAMES, 1) | dict.fromkeys(TRAIN[left:], 2)
    assert below(tmp_path) == {"out", beside(tmp_path / "out").name}
    assert content(beside(tmp_path / "out")) == content(beside(made))


def test_a_full_disk_is_one_sentence_and_leaves_no_network(command, tmp_path, opened, monkeypatch):
    def full(*arguments):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(component_fitting, "write_json", full)
        assert command("audio.components=3") == (1, "", "dualspace: No space left on device\n")
    assert below(tmp_path) == {".out.extracting"}
    opened.clear()
    assert command("audio.components=3")[0] == 0 and opened == dict.fromkeys(NAMES, 1)


def test_the_same_command_again_reads_no_film_and_says_that_there_is_nothing_to_do(command, tmp_path, opened):
    code, printed, _ = command("audio.components=3")
    network = beside(tmp_path / "out")
    assert code == 0 and f"vggish with its components is {network}: keep it, a processor looks there.\n" in printed
    assert opened == dict.fromkeys(NAMES, 1) | dict.fromkeys(TRAIN, 2)
    opened.clear()
    before = {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in tmp_path.rglob("*")}
    for again in (["audio.components=3"], ["audio.components=3", "--json"]):
        code, printed, said = command(*again)
        assert code == 0 and DONE in printed and not said
    assert not opened
    assert {file: (file.stat().st_mtime_ns, file.stat().st_ino) for file in tmp_path.rglob("*")} == before
    (network / "README.md").write_text("license: mit\n")  # its card may say more by then
    assert DONE in command("audio.components=3")[1] and not opened
    assert (network / "README.md").read_text() == "license: mit\n"


@pytest.fixture
def fitted(made, tmp_path) -> Path:
    """The network where `command` has it, as if its data set were lost."""
    return Path(shutil.copytree(beside(made), tmp_path / beside(made).name))


@pytest.fixture
def done(made, fitted, tmp_path) -> Path:
    """And the data set."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def test_components_outlive_their_data_set_and_are_fitted_again_where_they_were_lost(
    command, fitted, made, tmp_path, opened
):
    assert command("audio.components=3")[0] == 0 and opened == dict.fromkeys(NAMES, 1)
    assert rows(tmp_path / "out") == rows(made)
    shutil.rmtree(fitted)
    assert command("audio.components=3", "--overwrite")[0] == 0
    assert content(fitted) == content(beside(made))


OTHERS = {
    "components": (lambda own: None, ["audio.components=2"]),
    "network": (lambda own: None, ["audio.components=3", "audio.settings.final_relu=true"]),
    "film": (lambda own: write_film(own / TRAIN[0], *drawn(50)), ["audio.components=3"]),
    "splits": (lambda own: listed(own, ("train",) * 3 + ("test",)), ["audio.components=3"]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_components_make_another_network_and_the_one_there_is_stays(command, own, done, tmp_path, opened, name):
    change, words = OTHERS[name]
    former = beside(done)
    change(own)
    before = content(tmp_path)
    said = refused(command(*words, source=own), tmp_path=tmp_path, before={"films", "out", former.name})
    assert said == f"{tmp_path}/out exists already and is not empty: choose another name, or pass --overwrite."
    assert not opened and content(tmp_path) == before  # it was said before any work
    assert command(*words, "--overwrite", source=own)[0] == 0
    (other,) = networks(tmp_path) - {former}
    assert below(tmp_path) == {"films", "out", former.name, other.name}
    assert content(former) == {name: before[f"{former.name}/{name}"] for name in content(former)}
    assert DONE in command(*words, source=own)[1] and networks(tmp_path) == {former, other}
    processor = DualSubspaceProcessor.from_pretrained("out")
    assert processor.source("audio") == str(other)
    assert processor.backbone("audio").width == record_of(other)["components"]


def test_a_data_set_that_was_changed_by_hand_is_not_replaced_and_no_film_is_opened(command, done, tmp_path, opened):
    before = below(tmp_path)
    (done / "mine.txt").write_text("mine")
    said = refused(command("audio.components=2", "--overwrite"), tmp_path=tmp_path, before=before)
    assert said.startswith(f"{tmp_path}/out is not overwritten: mine.txt was put there or changed since it was made")
    assert not opened


def test_two_data_sets_of_other_components_keep_both_networks_and_so_does_one_that_was_moved(films, vggish, tmp_path):
    out, moved = tmp_path / "out", tmp_path / "moved"
    make(films, out, audio=BackboneSettings(str(vggish), components=3))
    out.rename(moved)
    make(films, out, audio=BackboneSettings(str(vggish), components=2))
    assert len(networks(tmp_path)) == 2
    for place, width in ((moved, 3), (out, 2)):
        processor = DualSubspaceProcessor.from_pretrained(place)
        assert processor.backbone("audio").width == width and Path(processor.source("audio")) in networks(tmp_path)


def test_a_models_processor_is_what_it_was_after_its_data_set_was_made_anew_with_other_components(
    films, vggish, tmp_path
):
    out, model = tmp_path / "out", tmp_path / "model"
    make(films, out, audio=BackboneSettings(str(vggish), components=3))
    expected = features(out)[NAMES[1]]
    AutoProcessor.from_pretrained(out).save_pretrained(model)
    make(films, out, audio=BackboneSettings(str(vggish), components=2), overwrite=True)
    found = AutoProcessor.from_pretrained(model)(videos=[films / NAMES[1]])["audio_features"].numpy()
    assert_same_bits(found, expected[None])
    assert DualSubspaceProcessor.from_pretrained(out).backbone("audio").width == 2


def test_what_has_nothing_to_do_with_them_fits_nothing_again(command, own, done, tmp_path, opened):
    write_film(own / "02.mkv", *drawn(50))  # not in train
    kept = content(beside(done))
    assert command("audio.components=3", "audio.settings.post=pca", "--overwrite", source=own)[0] == 0
    assert opened == dict.fromkeys(NAMES, 1) and content(beside(done)) == kept
    assert max(np.abs(vector).max() for vector in features(done).values()) > 0.5  # no 8 bits


def halve(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)


def with_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")


def as_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("mine")


DAMAGES = {
    "half of its weights": halve,
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "no record": lambda folder: (folder / "components.json").unlink(),
    "no list of its files": lambda folder: (folder / ".made-by-dualspace").unlink(),
    "a list that is none": lambda folder: (folder / ".made-by-dualspace").write_text("\nx\n"),
    "a folder of somebody else": with_a_file,
    "a file": as_a_file,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_network_any_more_is_neither_taken_nor_replaced(command, fitted, tmp_path, opened, damage):
    DAMAGES[damage](fitted)
    before = content(tmp_path)
    for words in ([], ["--overwrite"]):
        said = refused(command("audio.components=3", *words), tmp_path=tmp_path, before={fitted.name})
        assert said == f"{fitted.name} is where components of these films belong, and is damaged or none: remove it."
    assert not opened and content(tmp_path) == before


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
def test_two_processes_fit_the_same_bits_as_one_and_both_take_the_network_that_was_saved(
    films, vggish, made, tmp_path, several, monkeypatch
):
    out, specs = tmp_path / "out", []
    load, write = component_fitting._loaded, component_fitting.write_shard
    monkeypatch.setattr(component_fitting, "_loaded", lambda *given: (specs.append(load(*given)), specs[0])[1])
    monkeypatch.setattr(extraction_shards, "POLL_SECONDS", 0.3)  # long enough to miss what is there for a moment

    def work(index):
        if not index:  # the first is late: it then fits at once, and goes on
            monkeypatch.setattr(component_fitting, "write_shard", lambda *given: (time.sleep(0.05), write(*given)))
        found = make(films, out, audio=BackboneSettings(str(vggish), components=3))
        again = make(films, out, audio=BackboneSettings(str(vggish), components=3))
        return specs[0].spec, specs[0].weights, found.get("clips"), again["notes"]

    found = several(2, work)
    assert len({(spec, weights) for spec, weights, _, _ in found}) == 1
    assert [(clips, notes) for _, _, clips, notes in found] == [(8, [DONE]), (None, [DONE])]
    assert content(beside(out)) == content(beside(made))
    assert rows(out) == rows(made)
    assert below(tmp_path) >= {"out", beside(out).name} and not waiting(out)


@needs_fork
def test_what_one_process_began_two_end_with_the_same_bits_though_nothing_is_left_to_the_first(
    films, vggish, tmp_path, several, asked_to_stop
):
    audio = BackboneSettings(str(vggish), components=2, component_clips=2)
    asked_to_stop(3, signal.SIGKILL)
    child = in_a_child(lambda: make(films, tmp_path / "out", audio=audio))
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    asked_to_stop(0)
    assert len(waiting(tmp_path / "out")) == 1
    several(2, lambda index: make(films, tmp_path / "out", audio=audio))
    make(films, tmp_path / "one", audio=audio)
    assert content(beside(tmp_path / "out")) == content(beside(tmp_path / "one"))
    assert rows(tmp_path / "out") == rows(tmp_path / "one")


@needs_fork
def test_what_cannot_be_fitted_by_several_processes_is_said_once_and_none_waits(films, vggish, tmp_path, several):
    def work(index):
        told = []
        for components in (12, 13):  # too many for these films, and for this network
            audio = BackboneSettings(str(vggish), components=components, component_clips=2)
            with pytest.raises(RuntimeError if index and components == 12 else ValueError) as error:
                make(films, tmp_path / "out", audio=audio)
            told.append((str(error.value).split(":")[0], getattr(error.value, "told", False)))
        return told

    few = "12 components take more than 12 frames of training clips, and these have 6"
    many = "vggish has 12 numbers a unit, of which 13 components cannot be made."
    assert several(2, work) == [[(few, True), (many, True)]] * 2
    assert not networks(tmp_path) and "out" not in below(tmp_path) and len(waiting(tmp_path / "out")) == 2


# Afterwards.


def test_the_processor_of_the_data_set_makes_the_same_features_of_a_film_again(films, vggish, made, tmp_path):
    other = tmp_path / "out"
    make(films, other, audio=BackboneSettings(str(vggish), settings={"post": "pca"}, components=3))
    for out, kind in ((made, AutoProcessor), (other, DualSubspaceProcessor)):
        vectors = {name: vector for name, vector in features(out).items() if name in NAMES[3:7]}
        found = kind.from_pretrained(out)(videos=[films / name for name in vectors])["audio_features"]
        if out is made:
            assert_same_bits(found.numpy(), np.stack(list(vectors.values())))
        else:
            np.testing.assert_allclose(found.numpy(), np.stack(list(vectors.values())), rtol=0, atol=OFF)


def test_a_processor_says_where_it_misses_its_network(films, vggish, tmp_path):
    make(films, tmp_path / "out", audio=BackboneSettings(str(vggish), components=3))
    network = beside(tmp_path / "out")
    network.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=network.name):
        DualSubspaceProcessor.from_pretrained(tmp_path / "out").backbone("audio")
    processor = DualSubspaceProcessor.from_pretrained(tmp_path / "out", audio=tmp_path / "moved")
    assert processor.backbone("audio").width == 3


FRESH = """
import json, sys
import numpy as np, torch
from transformers import AutoModel, AutoProcessor
import modeling_dualspace

torch.set_num_threads(1)
out, network, film = sys.argv[1:]
model = AutoModel.from_pretrained(network).eval()
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
        [sys.executable, "-c", FRESH, str(made), str(beside(made)), str(films / NAMES[3])],
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
    assert "with 3 whitened principal components, fitted by DualSpace to 12 frames of 4 training clips" in card
    assert share in card and "vggish@" in card and "licence" in card
    config = json.loads((beside(made) / "config.json").read_text())
    assert (config["pca"], config["post"], config["channels"]) == (3, "dequantised", [4] * 6)
    tensors, before = load_file(beside(made) / "model.safetensors"), load_file(vggish / "model.safetensors")
    assert tensors.keys() - before.keys() == {"pca.weight", "pca.mean"}
    assert all(tensors[name].tobytes() == before[name].tobytes() for name in before)


def test_who_stops_the_fit_by_the_function_is_told_by_which_signal(films, vggish, tmp_path, asked_to_stop):
    sizes = asked_to_stop(2)
    with pytest.raises(StoppedError, match="while components were fitted; 0 of 4 shards are kept") as stopped:
        make(films, tmp_path / "out", audio=BackboneSettings(str(vggish), components=3), batch_size=1)
    assert stopped.value.signal == signal.SIGTERM and not list(tmp_path.iterdir())
    assert sizes == [1, 1]  # the rest of the film was not waited for


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
