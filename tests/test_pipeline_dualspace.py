"""`pipeline("audio-visual-retrieval")`: media or features in, embeddings or ranked clips out."""

import json
import os
import subprocess
import sys
import wave
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import pipeline

from modeling_dualspace import AudioVisualRetrievalPipeline, DualSubspaceProcessor
from modeling_dualspace.baselines import CcaConfig, CcaModel, RandomConfig, RandomModel
from modeling_dualspace.media import MediaError
from modeling_dualspace.optional import require
from modeling_dualspace.processor_release import check_code

av = require("av", extra="media")
Image = require("PIL.Image", extra="media")
TASK, RATE = "audio-visual-retrieval", 16_000


def noise(seed=0, count=RATE):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, count).astype(np.float32)


def colours(seed=0, height=24, width=32):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_sound(path, seed):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((noise(seed) * 32767).round().astype("<i2").tobytes())


def write_film(path, seed):
    """A second of a still picture and of noise."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        video.width, video.height = 32, 24
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame.from_ndarray(colours(seed), format="rgb24")))
        sound = av.AudioFrame.from_ndarray(noise(seed)[None], format="fltp", layout="mono")
        sound.sample_rate = RATE
        container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Three films, two sounds, a picture, and one file with a misleading name."""
    folder = tmp_path_factory.mktemp("media")
    for seed, name in enumerate(("dog.mp4", "drum.mp4", "train.mp4")):
        write_film(folder / name, seed)
    for seed, name in enumerate(("bark.wav", "tick.wav")):
        write_sound(folder / name, seed + 10)
    Image.fromarray(colours(5)).save(folder / "still.png")
    (folder / "bark.wav").rename(folder / "bark.mp4")  # a sound, whatever it is called
    (folder / "text.mp4").write_text("no film")
    return folder


def cca(audio_dim, visual_dim, **settings):
    """A closed form, fitted on noise."""
    model = CcaModel(CcaConfig(audio_dim=audio_dim, visual_dim=visual_dim, embed_dim=3, **settings))
    rows = torch.Generator().manual_seed(0)
    batch = {f"{name}_features": torch.randn(40, width, generator=rows) for name, width in
             (("audio", audio_dim), ("visual", visual_dim))}  # fmt: skip
    model.prepare([batch])
    model.finish([batch])
    return model.eval()


@pytest.fixture(scope="module")
def processor():
    return DualSubspaceProcessor()


@pytest.fixture(scope="module")
def of_media(processor):
    """A pipeline over media: a model of the width of the default backbones, and they."""
    model = cca(128, 1024, feature_spec=processor.feature_spec)
    return AudioVisualRetrievalPipeline(model, processor=processor, device="cpu")


@pytest.fixture
def pipe(fitted):
    return pipeline(TASK, model=fitted, device="cpu")


def audio_rows(answers):
    return np.stack([answer["audio_embeds"] for answer in answers])


def visual_rows(answers):
    return np.stack([answer["visual_embeds"] for answer in answers])


def refused(call, said, kind=ValueError):
    """The message is one sentence or two, and says what is wrong."""
    with pytest.raises(kind, match=said) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 330, text


# Features in, embeddings out.


AS_GIVEN = {
    "torch": lambda rows: rows,
    "numpy": lambda rows: rows.numpy(),
    "float64": lambda rows: rows.double().numpy(),
    "lists": lambda rows: rows.tolist(),
    "rows": list,
}


@pytest.mark.parametrize("as_given", AS_GIVEN.values(), ids=AS_GIVEN)
@pytest.mark.parametrize("batch_size", [None, 1, 7, 1000])
def test_features_become_what_the_model_makes_of_them_in_order(pipe, fitted, batch, as_given, batch_size):
    for name in ("audio", "visual"):
        features = batch[f"{name}_features"]
        answers = pipe(**{f"{name}_features": as_given(features)}, batch_size=batch_size)
        assert isinstance(answers, list) and all(set(answer) == {f"{name}_embeds"} for answer in answers)
        found = np.stack([answer[f"{name}_embeds"] for answer in answers])
        assert found.dtype == np.float32
        expected = getattr(fitted, f"get_{name}_embeds")(features).detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_one_row_is_one_clip_and_a_list_of_one_is_a_list(pipe, batch):
    rows = batch["audio_features"]
    alone = pipe(audio_features=rows[3])
    assert alone["audio_embeds"].shape == (pipe.model.config.output_dim,)
    (listed,) = pipe(audio_features=rows[3:4])
    np.testing.assert_array_equal(alone["audio_embeds"], listed["audio_embeds"])
    assert pipe(audio_features=rows[3].tolist())["audio_embeds"].shape == alone["audio_embeds"].shape
    assert pipe(audio_features=rows[:0]) == [] and pipe([]) == []
    whole = pipe(audio_features=[3] * 6)["audio_embeds"]  # numbers are numbers
    np.testing.assert_array_equal(whole, pipe(audio_features=torch.full((6,), 3.0))["audio_embeds"])


def test_the_model_sees_as_many_clips_at_a_time_as_batch_size_says(fitted, batch, monkeypatch):
    seen, embed = [], fitted.get_audio_embeds
    monkeypatch.setattr(fitted, "get_audio_embeds", lambda rows: seen.append(len(rows)) or embed(rows))
    pipe = pipeline(TASK, model=fitted, batch_size=25, device="cpu")
    pipe(audio_features=batch["audio_features"])
    assert seen == [25, 25, 10]
    seen.clear()
    pipe(audio_features=batch["audio_features"], batch_size=40)
    assert seen == [40, 20]
    seen.clear()
    pipeline(TASK, model=fitted, device="cpu")(audio_features=batch["audio_features"])
    assert seen == [60]


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_a_type_is_that_of_the_model_and_what_comes_out_stays_float32(fitted, batch, tmp_path, processor, name):
    fitted.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pipe = pipeline(TASK, model=str(tmp_path), device="cpu", **{name: torch.bfloat16})
    assert pipe.model.dtype == torch.bfloat16 and pipe.processor.dtype is None
    found = audio_rows(pipe(audio_features=batch["audio_features"]))
    assert found.dtype == np.float32
    cosines = (found * fitted.get_audio_embeds(batch["audio_features"]).detach().numpy()).sum(1)
    assert cosines.min() > 0.99
    assert "AudioVisualRetrievalPipeline" in repr(pipe)


def test_a_device_is_that_of_model_and_backbones(fitted, processor):
    own = DualSubspaceProcessor()
    pipe = AudioVisualRetrievalPipeline(fitted, processor=own, device="cpu")
    assert pipe.device == torch.device("cpu") and own.device == "cpu"
    told = DualSubspaceProcessor(device="cuda:7")
    assert AudioVisualRetrievalPipeline(fitted, processor=told, device="cpu").processor.device == "cuda:7"


@pytest.mark.parametrize("make", [lambda: RandomModel(RandomConfig(audio_dim=6, visual_dim=8)), lambda: cca(6, 8)])
def test_other_systems_are_asked_by_features_too(make, batch, tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    pipe = pipeline(TASK, model=str(tmp_path), device="cpu")
    assert type(pipe.model) is type(model)
    expected = model.get_visual_embeds(batch["visual_features"]).detach().numpy()
    np.testing.assert_allclose(visual_rows(pipe(visual_features=batch["visual_features"])), expected, atol=1e-6)
    refused(lambda: pipe(audio="bark.wav"), "No processor could be loaded .* bark.wav needs one")


# Media in.


def direct(pipe, modality, **given):
    """What the processor and the model make of it by themselves."""
    features = pipe.processor(**given)[f"{modality}_features"]
    return getattr(pipe.model, f"get_{modality}_embeds")(features).detach().numpy()


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_films_are_asked_by_their_pictures_unless_their_sound_is_wanted(of_media, media, batch_size):
    films = [str(media / name) for name in ("dog.mp4", "drum.mp4", "train.mp4")]
    seen = visual_rows(of_media(video=films, batch_size=batch_size))
    np.testing.assert_allclose(seen, direct(of_media, "visual", videos=films), atol=1e-5)
    heard = audio_rows(of_media(video=films, modality="audio", batch_size=batch_size))
    np.testing.assert_allclose(heard, direct(of_media, "audio", videos=films, modalities=("audio",)), atol=1e-5)
    assert not np.allclose(seen[0], seen[1], atol=1e-3)


def test_sounds_pictures_and_frames_as_arrays(of_media, media):
    sound = audio_rows(of_media(audio=[noise(1), noise(2)], sampling_rate=RATE))
    np.testing.assert_allclose(
        sound, direct(of_media, "audio", audio=[noise(1), noise(2)], sampling_rate=RATE), atol=1e-5
    )
    alone = of_media(audio=noise(1).tolist(), sampling_rate=RATE)["audio_embeds"]
    np.testing.assert_allclose(alone, sound[0], atol=1e-5)
    of_film = of_media(audio=media / "dog.mp4")["audio_embeds"]
    np.testing.assert_allclose(of_film, direct(of_media, "audio", audio=media / "dog.mp4")[0], atol=1e-5)
    picture = Image.fromarray(colours(3))
    expected = direct(of_media, "visual", images=[picture, picture])
    found = of_media(image=[picture, colours(3)])
    np.testing.assert_allclose(visual_rows(found), expected, atol=1e-5)
    assert set(of_media(image=picture)) == set(of_media(picture)) == {"visual_embeds"}
    frames = np.stack([colours(3), colours(4)])
    np.testing.assert_allclose(
        of_media(video=frames, fps=1)["visual_embeds"], direct(of_media, "visual", videos=frames, fps=1)[0], atol=1e-5
    )
    assert len(of_media(video=[frames, frames])) == 2
    assert set(of_media(video=[colours(3), colours(4)])) == {"visual_embeds"}  # the frames of one film


def test_a_file_without_a_word_is_what_it_holds_and_not_what_it_is_called(of_media, media):
    names = ["bark.mp4", "dog.mp4", "still.png", "tick.wav"]
    files = [media / name for name in names]
    answers = of_media(files, batch_size=3)  # more than one kind in a batch
    assert [next(iter(answer)) for answer in answers] == [
        "audio_embeds",
        "visual_embeds",
        "visual_embeds",
        "audio_embeds",
    ]
    expected = [
        direct(of_media, "audio", audio=files[0]), direct(of_media, "visual", videos=files[1], modalities=("visual",)),
        direct(of_media, "visual", images=files[2]), direct(of_media, "audio", audio=files[3]),
    ]  # fmt: skip
    for answer, (row,) in zip(answers, expected, strict=True):
        np.testing.assert_allclose(next(iter(answer.values())), row, atol=1e-5)
    assert set(of_media(str(files[0]))) == {"audio_embeds"}
    assert set(of_media(files[1], modality="audio")) == {"audio_embeds"}


class Clips(Dataset):
    """A data set of `torch`, by number and without an end of its own."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return 3

    def __getitem__(self, number):
        return self.rows(number)


def test_generators_and_data_sets_come_one_by_one(of_media, media):
    taken = []

    def clips(number):
        taken.append(number)
        return [{"audio": noise(number), "sampling_rate": RATE}, {"array": noise(number), "sampling_rate": RATE},
                {"video": media / "dog.mp4"}][number % 3]  # fmt: skip

    expected = [of_media(audio=noise(number), sampling_rate=RATE)["audio_embeds"] for number in range(2)]
    for given in ((clips(number) for number in range(3)), Clips(clips)):
        taken.clear()
        answers = of_media(given)
        first = next(iter(answers))
        assert len(taken) < 3
        np.testing.assert_allclose(first["audio_embeds"], expected[0], atol=1e-5)
        second, third = answers
        np.testing.assert_allclose(second["audio_embeds"], expected[1], atol=1e-5)
        assert set(third) == {"visual_embeds"}


def test_other_processes_read_media_as_this_one_does(of_media, media):
    films = [media / name for name in ("dog.mp4", "drum.mp4", "train.mp4")]
    np.testing.assert_array_equal(visual_rows(of_media(films, num_workers=2)), visual_rows(of_media(films)))


# Ranked clips.


def brute(queries, gallery, top_k):
    """Cosines in float64, sorted whole."""
    queries, gallery = (rows.astype(np.float64) for rows in (queries, gallery))
    gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    scores = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ gallery.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    return order, np.take_along_axis(scores, order, axis=1)


@pytest.mark.parametrize("top_k", [1, 10, 59, 60, 500])
@pytest.mark.parametrize("batch_size", [7, None])
def test_ranked_clips_are_those_of_brute_force(pipe, batch, top_k, batch_size):
    gallery = pipe(visual_features=batch["visual_features"])
    queries = audio_rows(pipe(audio_features=batch["audio_features"]))
    order, scores = brute(queries, visual_rows(gallery), top_k)
    rows = visual_rows(gallery)
    for given in (gallery, rows, torch.from_numpy(rows), list(rows), 3 * rows):  # what is no unit is made one
        found = pipe(audio_features=batch["audio_features"], gallery=given, top_k=top_k, batch_size=batch_size)
        assert [[hit["clip"] for hit in hits] for hits in found] == order.tolist()
        np.testing.assert_allclose([[hit["score"] for hit in hits] for hits in found], scores, atol=1e-6)
    assert type(found[0][0]["score"]) is float and type(found[0][0]["clip"]) is int
    assert len(pipe(audio_features=batch["audio_features"][0], gallery=rows)) == 10


def test_equal_clips_come_in_their_order(pipe, batch):
    row = pipe(visual_features=batch["visual_features"][0])["visual_embeds"]
    other = pipe(visual_features=batch["visual_features"][1])["visual_embeds"]
    gallery = np.stack([other, row, row, other, row, row])
    hits = pipe(visual_features=batch["visual_features"][0], gallery=gallery, among="visual", top_k=3)
    assert [hit["clip"] for hit in hits] == [1, 2, 4]


def test_a_large_gallery_is_scored_in_parts(pipe, batch, monkeypatch):
    gallery = visual_rows(pipe(visual_features=batch["visual_features"]))
    whole = pipe(audio_features=batch["audio_features"], gallery=gallery)
    monkeypatch.setattr("modeling_dualspace.nearest.FLOATS", 130)
    assert pipe(audio_features=batch["audio_features"], gallery=gallery) == whole


def test_what_a_pipeline_is_made_with_holds_for_all_calls_that_do_not_say_otherwise(fitted, batch):
    rows = fitted.get_visual_embeds(batch["visual_features"]).detach()
    pipe = pipeline(TASK, model=fitted, gallery=rows, top_k=4, device="cpu")
    assert len(pipe(audio_features=batch["audio_features"][0])) == 4
    assert len(pipe(audio_features=batch["audio_features"][0], top_k=2)) == 2
    assert len(pipe(audio_features=batch["audio_features"][0])) == 4


def test_files_are_embedded_once_and_anew_when_one_of_them_has_changed(of_media, media, tmp_path, monkeypatch):
    gallery = []
    for seed in range(3):
        gallery.append(tmp_path / f"{seed}.mp4")
        write_film(gallery[-1], seed)
    read, make = [], of_media.processor.__class__.__call__
    monkeypatch.setattr(
        of_media.processor.__class__,
        "__call__",
        lambda self, **given: read.extend(given.get("videos") or ()) or make(self, **given),
    )
    query = {"audio": noise(3), "sampling_rate": RATE, "top_k": 3}
    hits = of_media(**query, gallery=gallery)
    assert read == gallery
    order, scores = brute(of_media(audio=noise(3), sampling_rate=RATE)["audio_embeds"][None],
                          visual_rows(of_media(video=gallery)), 3)  # fmt: skip
    assert [hit["clip"] for hit in hits] == [gallery[number] for number in order[0]]
    np.testing.assert_allclose([hit["score"] for hit in hits], scores[0], atol=1e-5)
    read.clear()
    assert of_media(**query, gallery=list(gallery)) == hits and read == []  # another list of the same names
    assert (
        len(of_media(**query, gallery=gallery, among="audio")) == 3 and read == gallery
    )  # their sound is another matter
    read.clear()
    assert of_media(**query, gallery=gallery) == hits and read == []  # and displaces nothing
    of_media(**query, gallery=gallery[:2])
    assert read == gallery[:2]
    assert of_media(**query, gallery=gallery) == hits
    write_film(gallery[0], 9)
    os.utime(gallery[0], (1, 1))
    read.clear()
    again = of_media(**query, gallery=gallery)
    assert read == gallery and again != hits


class FakeIndex:
    """What an index of ours is to a pipeline."""

    def __init__(self):
        self.asked = []

    def search_embeds(self, embeds, *, among, k, made_by, labels=(), where=(), per_film=False):
        self.asked.append({"rows": embeds.shape, "among": among, "k": k, "made_by": made_by, "labels": labels,
                           "where": where, "per_film": per_film})  # fmt: skip
        hit = {"clip_id": "a", "score": np.float32(0.5), "path": "a.mp4", "start": 1.0, "end": 2.0, "labels": ("dog",)}
        return [[SimpleNamespace(**hit, metadata={"year": row})] for row in range(len(embeds))]


def test_an_index_is_asked_by_its_own_name_and_its_hits_are_dictionaries(pipe, batch):
    index = FakeIndex()
    found = pipe(audio_features=batch["audio_features"][:2], gallery=index, top_k=7, labels=["dog"], per_film=True)
    clip = {"clip_id": "a", "path": "a.mp4", "start": 1.0, "end": 2.0, "labels": ("dog",)}
    assert found == [[{"score": 0.5, "clip": clip | {"metadata": {"year": row}}}] for row in range(2)]
    assert index.asked == [{"rows": (2, pipe.model.config.output_dim), "among": "visual", "k": 7, "made_by": pipe.model,
                            "labels": ["dog"], "where": (), "per_film": True}]  # fmt: skip
    pipe(visual_features=batch["visual_features"][0], gallery=index)
    pipe(visual_features=batch["visual_features"][0], gallery=index, among="visual", where=["year>=2010"])
    assert [(one["among"], one["k"], one["where"]) for one in index.asked[1:]] == [
        ("audio", 10, ()), ("visual", 10, ["year>=2010"]),
    ]  # fmt: skip


# What cannot be meant.


@pytest.mark.parametrize(
    "given, said",
    [({}, "got nothing"),
     ({"audio_features": torch.ones(6), "visual_features": torch.ones(8)}, "got `audio_features` and `visual_feat"),
     ({"audio_features": torch.ones(2, 5)}, r"audio features of shape \(n, 6\), got \(2, 5\)"),
     ({"audio_features": torch.full((2, 6), torch.nan)}, "NaN|nan|finite"),
     ({"audio_features": torch.ones(1, 2, 6)}, r"audio features of shape \(n, d\)"),
     ({"audio_features": [[1.0, 2.0], [1.0]]}, "audio features as vectors of one width"),
     ({"audio_features": ["bark.wav"]}, "audio features as vectors of one width"),
     ({"audio_features": torch.ones(6), "batch_size": 0}, "`batch_size` is a whole number of at least 1, got 0"),
     ({"audio_features": torch.ones(6), "top_k": 0, "gallery": torch.ones(2, 4)}, "`top_k` is a whole number"),
     ({"audio_features": torch.ones(6), "top_k": 1.5, "gallery": torch.ones(2, 4)}, "`top_k` is a whole number"),
     ({"audio_features": torch.ones(6), "gallery": []}, "this one is empty"),
     ({"audio_features": torch.ones(6), "gallery": "films"}, "got the path 'films'.*`open_index`"),
     ({"audio_features": torch.ones(6), "gallery": 3}, "or an index, got int"),
     ({"audio_features": torch.ones(6), "gallery": ["a.mp4", 3]}, "only partly of files"),
     ({"audio_features": torch.ones(6), "gallery": [{"clip": 3}]}, "each has `audio_embeds`"),
     ({"audio_features": torch.ones(6), "gallery": torch.ones(2, 9)}, "9 wide, and this model's 4"),
     ({"audio_features": torch.ones(6), "gallery": torch.tensor([[1.0] * 4, [torch.nan] * 4])}, "embedding 1 is not f"),
     ({"audio_features": torch.ones(6), "gallery": [{"audio_embeds": np.ones(4)}]}, 'holds audio .*among="audio"'),
     ({"audio_features": torch.ones(6), "among": "video", "gallery": torch.ones(2, 4)}, '`among` is "audio" or '),
     ({"audio_features": torch.ones(6), "modality": "visual"}, "its visual embedding was asked for"),
     ({"audio_features": torch.ones(6), "labels": ["dog"]}, "`labels` filters what an index holds"),
     ({"inputs": {"audio": "a.wav", "video": "b.mp4"}}, "a dictionary of one of"),
     ({"inputs": np.ones(9)}, "got ndarray: pass arrays by name"),
     ({"video": "https://host/dog.mp4"}, "is an address, and a file was expected"),
     ({"inputs": "https://host/dog.mp4"}, "is an address, and a file was expected"),
     ({"video": "dog.mp4"}, "No processor could be loaded .* dog.mp4 needs one")],
)  # fmt: skip
def test_what_cannot_be_meant_is_a_sentence(fitted, given, said):
    pipe = AudioVisualRetrievalPipeline(fitted, device="cpu")
    assert fitted.config.output_dim == 4 or "wide" not in said
    refused(lambda: pipe(**given), said)


def test_an_option_that_there_is_not_is_a_sentence(pipe, fitted):
    refused(lambda: pipe(audio_features=torch.ones(6), topk=3), "no option `topk`", TypeError)
    refused(lambda: pipe([], topk=3), "no option `topk`", TypeError)
    refused(lambda: pipeline(TASK, model=fitted, topk=3), "no option `topk`", TypeError)
    refused(
        lambda: AudioVisualRetrievalPipeline(torch.nn.Linear(2, 2)),
        "embeds both modalities",
        TypeError,
    )


@pytest.mark.parametrize(
    "name, given, said",
    [("text.mp4", {}, "text.mp4"), ("gone.mp4", {}, "gone.mp4' cannot be read"), (".", {}, "is no file"),
     ("bark.mp4", {"modality": "visual"}, "bark.mp4 is taken for sound, and its visual"),
     ("still.png", {"modality": "audio"}, "still.png is taken for a picture, and its audio")],
)  # fmt: skip
def test_a_wrong_file_is_a_sentence_with_its_name(of_media, media, name, given, said):
    refused(lambda: of_media(media / name, **given), said)
    if given:
        other = (
            {"audio_features": torch.ones(128)}
            if given["modality"] == "visual"
            else {"visual_features": torch.ones(1024)}
        )
        refused(lambda: of_media(**other, gallery=[media / "dog.mp4", media / name]), said)


def test_samples_without_a_rate_and_features_made_otherwise_are_sentences(of_media, fitted, processor):
    refused(lambda: of_media(audio=noise()), "pass `sampling_rate`")
    model = cca(128, 1024, feature_spec="audio=other@00000000 visual=other@00000000")
    pipe = AudioVisualRetrievalPipeline(model, processor=processor, device="cpu")
    refused(lambda: pipe(image=colours()), "was trained on visual features of other@00000000")
    refused(lambda: of_media(video=np.stack([colours()]), modality="audio"), "Rows of frames have no sound")


def test_a_film_that_is_none_of_what_it_could_be_names_what_a_film_lacks(of_media, media):
    with pytest.raises(MediaError) as caught:
        of_media(str(media / "text.mp4"))
    assert "picture that can be read" not in str(caught.value)


# Saved, and in other processes.


def test_a_saved_model_names_its_pipeline_under_the_name_that_asks_nobody_who_has_the_package(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    made_by = {"impl": "pipeline_dualspace.AudioVisualRetrievalPipeline", "pt": ["AutoModel"], "type": "multimodal"}
    assert config["custom_pipelines"] == {"audio-visual-retrieval-remote": made_by}
    assert (tmp_path / "model" / "pipeline_dualspace.py").is_file()
    for trust in (None, False):
        assert type(pipeline(TASK, model=str(tmp_path / "model"), trust_remote_code=trust)).__name__ == (
            "AudioVisualRetrievalPipeline"
        )
    with pytest.raises(ValueError, match="trust_remote_code"):
        pipeline(model=str(tmp_path / "model"))
    assert pipeline(TASK, model=str(tmp_path / "model"), local_files_only=True).task == TASK  # handed on by `pipeline`


def test_where_the_code_can_no_longer_be_had_the_model_is_saved_without_a_pipeline(
    fitted, tmp_path, monkeypatch, warnings_logged
):
    """As of a model that was loaded by code that travelled, from a folder that is gone."""
    fitted.save_pretrained(tmp_path / "first")
    loaded = type(fitted).from_pretrained(tmp_path / "first")
    assert loaded.config.custom_pipelines
    monkeypatch.setattr("modeling_dualspace.modeling_dualspace.PIPELINE", "gone_dualspace")
    loaded.save_pretrained(tmp_path / "second")
    assert "custom_pipelines" not in json.loads((tmp_path / "second" / "config.json").read_text())
    assert not (tmp_path / "second" / "pipeline_dualspace.py").exists()
    assert "saved without its pipeline" in warnings_logged.text


def test_only_the_main_process_writes_the_code(fitted, tmp_path):
    fitted.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not list((tmp_path / "other").glob("*.py"))
    (tmp_path / "file").write_text("")
    fitted.save_pretrained(tmp_path / "file")  # transformers logs what is wrong, and writes nothing
    assert (tmp_path / "file").read_text() == ""


def test_what_a_pipeline_saves_is_its_model_with_its_processor_and_both_are_found_again(
    of_media, fitted, tmp_path, media
):
    pipe = AudioVisualRetrievalPipeline(fitted, processor=of_media.processor, device="cpu")
    pipe.save_pretrained(tmp_path / "dual")
    assert list(json.loads((tmp_path / "dual" / "config.json").read_text())["custom_pipelines"]) == [f"{TASK}-remote"]
    of_media.save_pretrained(tmp_path / "other")
    assert "custom_pipelines" not in json.loads((tmp_path / "other" / "config.json").read_text())  # its code stays here
    again = pipeline(TASK, model=str(tmp_path / "other"), device="cpu")
    np.testing.assert_allclose(
        again(media / "dog.mp4")["visual_embeds"], of_media(media / "dog.mp4")["visual_embeds"], atol=1e-5
    )
    assert again.processor.device == "cpu" and again.processor.dtype is None


def test_a_pipeline_that_lies_elsewhere_is_not_tried_by_a_push(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    check_code(tmp_path)
    file = tmp_path / "config.json"
    text = file.read_text()
    for elsewhere in ("them/code--pipeline_dualspace.Theirs", "gone.Theirs"):
        content = json.loads(text)
        content["custom_pipelines"]["audio-visual-retrieval-remote"]["impl"] = elsewhere
        file.write_text(json.dumps(content))
        refused(lambda: check_code(tmp_path), "is to be run, which is no file beside it")


STRANGER = """
import json, sys
folder, film, answer, again = sys.argv[1:]
for name in ("modeling_dualspace", "accelerate", "datasets", "evaluate", "h5py", "matplotlib", "pandas", "pyarrow"):
    sys.modules[name] = None  # not installed
from transformers import pipeline
pipe = pipeline(model=folder, trust_remote_code=True, device="cpu")
assert pipe.task == "audio-visual-retrieval-remote", pipe.task
embeds = pipe(film)["visual_embeds"]
hits = pipe(audio=film, gallery=[film, film], top_k=1)
pipe.save_pretrained(again)
twin = pipeline(model=again, trust_remote_code=True, device="cpu")
assert (twin(film)["visual_embeds"] == embeds).all()
assert not any(name.startswith("modeling_dualspace.") for name in sys.modules)
json.dump({"embeds": embeds.tolist(), "hits": hits}, open(answer, "w"))
"""

OWNER = """
import json, sys
folder, film, answer, again = sys.argv[1:]
import modeling_dualspace
from transformers import pipeline
pipe = pipeline("audio-visual-retrieval", model=folder, device="cpu")
assert type(pipe) is modeling_dualspace.AudioVisualRetrievalPipeline
json.dump({"embeds": pipe(film)["visual_embeds"].tolist(), "hits": pipe(audio=film, gallery=[film, film], top_k=1)},
          open(answer, "w"))
"""


@pytest.fixture
def dual(make_model, processor):
    """A dual model that takes what the default backbones make."""
    model = make_model(audio_dim=128, visual_dim=1024, feature_spec=processor.feature_spec)
    rows = torch.Generator().manual_seed(0)
    batch = {"audio_features": torch.randn(60, 128, generator=rows),
             "visual_features": torch.randn(60, 1024, generator=rows), "labels": torch.arange(60) % 3}  # fmt: skip
    model.prepare([batch])
    model.finish([batch], [batch])
    return model.eval()


@pytest.mark.slow
def test_the_two_ways_that_are_documented_give_the_same_in_processes_of_their_own(dual, processor, media, tmp_path):
    pipe = AudioVisualRetrievalPipeline(dual, processor=processor, device="cpu")
    pipe.save_pretrained(tmp_path / "model")
    film = str(media / "dog.mp4")
    expected = pipe(film)["visual_embeds"]
    (hit,) = pipe(audio=film, gallery=[film, film], top_k=1)
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HOME": str(tmp_path / "home")}
    started = []
    for name, code in (("stranger", STRANGER), ("owner", OWNER)):
        command = [sys.executable, "-c", code, tmp_path / "model", film, tmp_path / name, tmp_path / "again"]
        started.append(subprocess.Popen(list(map(str, command)), cwd=tmp_path, env=environment, stderr=subprocess.PIPE))
    for process in started:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors.decode()
    for name in ("stranger", "owner"):
        found = json.loads((tmp_path / name).read_text())
        np.testing.assert_allclose(found["embeds"], expected, atol=1e-4)
        assert found["hits"][0]["clip"] == film and found["hits"][0]["score"] == pytest.approx(hit["score"], abs=1e-4)
    code = {file.name for file in (tmp_path / "model").glob("*.py")}
    assert {file.name for file in (tmp_path / "again").glob("*.py")} == code
