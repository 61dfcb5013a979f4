"""An index and its model: what searches films, what is refused, what a folder keeps; see also test_index_stores."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from tiny_page import open_tiny, write_tiny
from tiny_release import refusal, write_data, write_run
from transformers import AutoModel, AutoProcessor

from modeling_dualspace import index_folder
from modeling_dualspace.baselines import AgahConfig, AgahModel
from modeling_dualspace.feature_dataset import to_tensors
from modeling_dualspace.index import Index, create_index, open_index
from modeling_dualspace.index_data import Clips
from modeling_dualspace.index_folder import FolderStore
from modeling_dualspace.index_places import identity_of
from modeling_dualspace.index_rows import Hit, Identity
from modeling_dualspace.inverted_lists import Lists
from modeling_dualspace.nearest import Vectors

MAKER = "0123456789abcdef"


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """`films`, `model` and `index`, ten clips."""
    return write_tiny(tmp_path_factory.mktemp("films"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run and its data set, `tiny-data` and `runs/tiny`, 105 clips of features."""
    root = tmp_path_factory.mktemp("run")
    write_data(root / "tiny-data")
    write_run(root / "runs" / "tiny", str(root / "tiny-data"))
    return root


@pytest.fixture
def index(run, tmp_path):
    """Of that data set."""
    index = create_index(tmp_path / "index", str(run / "runs" / "tiny"))
    assert index.add_data(str(run / "tiny-data"), progress=False) == 105
    return index


def unit(rows, width, seed=0):
    rows = np.random.default_rng(seed).standard_normal((rows, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def made_up(folder, rows, width=6, **settings) -> Index:
    """Clips that no model made."""
    index = Index(FolderStore.create(folder, Identity("made up", "dualspace", MAKER, None, width)), str(folder))
    if rows:
        names = [f"clip-{row}" for row in range(rows)]
        index.add(names, unit(rows, width, 1), unit(rows, width, 2), made_by=MAKER, **settings)
    return index


def test_a_sound_finds_pictures_and_pictures_find_sounds_as_model_and_processor_say(films):
    model, processor = (Auto.from_pretrained(films / "model") for Auto in (AutoModel, AutoProcessor))
    film = next((films / "films" / "drum").glob("*.mp4"))
    with open_tiny(films) as index, torch.no_grad():
        hits, audio, visual = index.sample()
        sound = model.get_audio_embeds(processor(audio=film)["audio_features"]).numpy()
        sight = model.get_visual_embeds(processor(videos=film, modalities=("visual",))["visual_features"]).numpy()
        asked = {"audio": (sound, visual), "video": (sight, audio)}
        for kind, (query, gallery) in asked.items():
            found = index.search(**{kind: film}, k=4)
            scores = gallery.astype(np.float64) @ query[0].astype(np.float64)
            order = np.argsort(-scores, kind="stable")[:4]
            assert [hit.clip_id for hit in found] == [hits[row].clip_id for row in order]
            assert np.allclose([hit.score for hit in found], scores[order], atol=1e-6)
        # Within one modality a film finds itself.
        assert index.search(audio=film, among="audio", k=1)[0].path == "drum/drum-0000.mp4"
        assert np.array_equal(index.embed(audio=film), sound)


def test_a_hit_says_film_time_label_and_metadata_and_leads_to_the_film(films):
    with open_tiny(films) as index:
        hit = index.search(video=next((films / "films" / "rain").glob("*.mp4")), k=1, labels="rain")[0]
        assert (hit.path, hit.start, hit.end, hit.labels) == ("rain/rain-0000.mp4", 0.1, 0.4, ("rain",))
        assert hit.metadata["year"] >= 2001 and index.film(hit) == (films / "films" / hit.path).resolve()
        assert json.loads(json.dumps(hit.to_dict()))["clip_id"] == hit.clip_id
        assert index.get([hit.clip_id, "no such clip"])[1] is None


def test_a_film_outside_its_folder_is_not_one_of_the_index(films, tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_text("x")
    shutil.copytree(films / "films", tmp_path / "films")
    (tmp_path / "films" / "link.mp4").symlink_to(secret)
    index = made_up(tmp_path / "index", 4, path=["../secret.mp4", str(secret), "link.mp4", "rain/rain-0000.mp4"])
    index.films = tmp_path / "films"
    found = [index.film(hit) for hit in index.get([f"clip-{row}" for row in range(4)])]
    assert found[:3] == [None] * 3 and found[3].name == "rain-0000.mp4"
    for path in ("rain/../rain/rain-0000.mp4", str(tmp_path / "films" / "rain" / "rain-0000.mp4"), "a\0b", "x" * 5000):
        assert index.film(Hit("a", 0.0, path, None, None, (), {})) is None


def test_all_clips_of_a_data_set_are_found_by_their_own_features(run, index):
    split = load_dataset(str(run / "tiny-data"), split="test")
    features, model = to_tensors(split), index.model
    with torch.no_grad():
        queries = {
            name: getattr(model, f"get_{name}_embeds")(features[f"{name}_features"]) for name in ("audio", "visual")
        }
    for name, embeds in queries.items():
        hits = index.search_embeds(embeds, among=name, made_by=model, k=1)
        assert [found[0].clip_id for found in hits] == split["clip_id"]
        assert all(found[0].metadata == {"split": "test"} for found in hits)
    assert {hit.labels[0] for found in hits for hit in found} == {"dog", "drum", "train"}


def test_what_is_there_is_not_added_again_and_what_changed_is_replaced(run, index, tmp_path):
    data = str(run / "tiny-data")
    assert index.add_data(data, progress=False) == 0
    index.delete(["train/0", "test/3"])
    assert index.add_data(data, progress=False) == 2 and len(index) == 105
    former = index.sample(500)[1]
    write_data(tmp_path / "changed", start=1)
    assert index.add_data(str(tmp_path / "changed"), progress=False) == 105 and len(index) == 105
    assert not np.allclose(former, index.sample(500)[1], equal_nan=True)


def test_some_splits_alone_and_no_others(run, tmp_path):
    with create_index(tmp_path / "index", str(run / "runs" / "tiny")) as index:
        assert index.add_data(str(run / "tiny-data"), splits=["test"], progress=False) == 30
        assert "no valid" in refusal(lambda: index.add_data(str(run / "tiny-data"), splits=["valid"], progress=False))
        assert index.add_data(str(run / "tiny-data"), progress=False) == 75


def test_the_embeddings_of_another_model_are_refused_wherever_they_come_from(run, index, tmp_path):
    write_run(tmp_path / "other", str(run / "tiny-data"), seed=1)
    other = AutoModel.from_pretrained(tmp_path / "other" / "model")
    row = index.sample(1)[1]
    said = [
        refusal(lambda: index.search_embeds(row, among="visual", made_by=other)),
        refusal(lambda: index.search_embeds(row, among="visual", made_by="ffffffffffffffff")),
        refusal(lambda: index.add(["new"], row, None, made_by=other)),
        refusal(lambda: open_index(index.place, model=str(tmp_path / "other")).model),
        refusal(lambda: open_index(index.place, model=other).model),
    ]
    assert all("their spaces have nothing to do with each other" in line for line in said) and len(index) == 105


def test_features_that_the_model_does_not_take_are_refused_before_anything_is_added(films, run, tmp_path):
    with create_index(tmp_path / "index", str(films / "model")) as index:
        assert "of width 128" in refusal(lambda: index.add_data(str(run / "tiny-data"), progress=False))
        assert len(index) == 0


def test_codes_are_kept_as_bits_and_searched_as_bits(run, tmp_path):
    features = to_tensors(load_dataset(str(run / "tiny-data"), split="train"))
    torch.manual_seed(0)
    model = AgahModel(AgahConfig(audio_dim=6, visual_dim=8, num_labels=3, embed_dim=20)).eval()
    model.prepare([features])
    index = create_index(tmp_path / "index", model)
    index.add_data(str(run / "tiny-data"), progress=False)
    with torch.no_grad():
        query = model.get_audio_embeds(features["audio_features"][:5])
        gallery = model.get_visual_embeds(features["visual_features"])
    found = index.search_embeds(query, among="visual", made_by=model, k=60, where="split=train")
    names = load_dataset(str(run / "tiny-data"), split="train")["clip_id"]
    for hits, row in zip(found, query, strict=True):
        scores = (gallery.double() @ row.double()).numpy().round(9)
        order = np.argsort(-scores, kind="stable")
        assert [hit.clip_id for hit in hits] == [names[place] for place in order]
        assert np.allclose([hit.score for hit in hits], scores[order])
    assert load_dataset(str(tmp_path / "index"), split="train").features["audio_embeds"].length == 3  # bytes
    off = torch.nn.functional.normalize(torch.randn(1, 20))
    assert "holds codes" in refusal(lambda: index.search_embeds(off, among="visual", made_by=model))


def test_it_is_a_data_set_which_notices_what_is_added(index):
    assert len(load_dataset(index.place, split="train")) == 105
    index.add(["one more"], index.sample(1)[1], None, made_by=index.model, metadata=[{"note": "é"}])
    rows = load_dataset(index.place, split="train")
    assert len(rows) == 106 and rows[-1]["visual_embeds"] is None and rows[-1]["metadata"] == '{"note": "é"}'


def test_what_was_read_is_kept_and_goes_on_from_there(tmp_path, monkeypatch):
    monkeypatch.setattr(index_folder, "WORTH_KEEPING", 100)
    index = made_up(tmp_path / "index", 300)
    index.delete(["clip-7"])
    again = open_index(tmp_path / "index")
    (kept,) = (tmp_path / "index" / ".cache").glob("rows-*")
    read = []
    monkeypatch.setattr(index_folder, "read_shard", lambda file, identity, former=index_folder.read_shard: (
        read.append(file.name), former(file, identity))[1])  # fmt: skip
    index.add(["clip-8", "clip-300"], unit(2, 6, 9), None, made_by=MAKER)
    third = open_index(tmp_path / "index")
    assert read and set(read) == {"00000002.parquet"}  # that one alone, by `again` or by `third`
    query = unit(3, 6, 5)
    for among in ("audio", "visual"):
        expected = index.search_embeds(query, among=among, made_by=MAKER, k=400)
        for other in (again, third):
            assert other.search_embeds(query, among=among, made_by=MAKER, k=400) == expected
    # Whatever is wrong with what was kept, it is read anew.
    (kept / "about.json").write_text("{")
    assert len(open_index(tmp_path / "index")) == 300
    shutil.rmtree(tmp_path / "index" / ".cache")
    assert len(open_index(tmp_path / "index")) == 300


def test_a_card_that_a_killed_process_did_not_write_is_written_by_the_next(run, index, monkeypatch):
    with monkeypatch.context() as killed:
        killed.setattr(index_folder, "settle_index_card", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            index.add(["late"], index.sample(1)[1], None, made_by=index.model)
    assert len(open_index(index.place)) == 106 and "clips=105" in Path(index.place, "README.md").read_text()
    assert index.add_data(str(run / "tiny-data"), progress=False) == 0  # the same command
    assert "clips=106" in Path(index.place, "README.md").read_text()
    assert len(load_dataset(index.place, split="train")) == 106


def test_a_licence_that_its_owner_wrote_stays(index):
    card = Path(index.place, "README.md")
    card.write_text(card.read_text().replace("---\n", "---\nlicense: cc-by-4.0\n", 1))
    index.delete(["train/0"])
    assert "license: cc-by-4.0" in card.read_text() and "clips=104" in card.read_text()


def test_numbers_that_are_none_are_no_metadata(run, tmp_path):
    split = load_dataset(str(run / "tiny-data"), split="test")
    split = split.add_column("loudness", [float("nan"), float("inf"), *np.linspace(0, 1, 28).tolist()])
    names, embeds, facts = next(
        Clips(split, "test", AutoModel.from_pretrained(run / "runs" / "tiny" / "model")).batches()
    )
    assert facts["metadata"][:3] == [{"split": "test"}, {"split": "test"}, {"split": "test", "loudness": 0.0}]
    assert embeds["audio"].shape == (30, 4)


def test_a_closed_index_says_so_and_forgets(tmp_path):
    index = made_up(tmp_path / "index", 3)
    index.close()
    assert "was closed: open the index anew" in refusal(
        lambda: index.search_embeds(unit(1, 6), among="audio", made_by=MAKER)
    )


def test_clips_are_found_by_name_with_their_embeddings(index):
    hits, audio, visual = index.sample(500)
    names = [hits[3].clip_id, "nothing", hits[0].clip_id, hits[3].clip_id]
    found = index.embeds(names)
    for rows, whole in zip(found, (audio, visual), strict=True):
        assert np.array_equal(rows[[0, 2, 3]], whole[[3, 0, 3]]) and np.isnan(rows[1]).all()
    index.add([hits[0].clip_id], audio[5:6], None, made_by=index.model)  # replaced, under the same name
    assert np.array_equal(index.embeds(names[2:3])[0], audio[5:6]) and np.isnan(index.embeds(names[2:3])[1]).all()
    assert index.get([hits[0].clip_id])[0].path is None
    index.delete(names[:1])
    assert np.isnan(index.embeds(names[:1])[0]).all() and index.get(names[:1]) == [None]


def test_what_a_batch_from_elsewhere_holds_is_looked_at(tmp_path):
    made_up(tmp_path / "index", 30)
    batch = tmp_path / "index" / "data" / "00000000.parquet"
    table = pq.read_table(batch)
    rows = np.array(table["visual_embeds"].to_pylist(), dtype=np.float32)
    rows[7] *= 3
    wrong = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), 6)
    place = table.column_names.index("visual_embeds")
    pq.write_table(table.set_column(place, "visual_embeds", wrong), batch)
    assert "the visual embedding of clip-7 is not of unit length" in refusal(lambda: open_index(tmp_path / "index"))


def test_films_are_found_once_each_by_their_best_clip(tmp_path):
    rows = 200
    paths = [f"film-{row // 50}.mp4" for row in range(rows)]
    index = made_up(tmp_path / "index", rows, path=paths)
    query = unit(1, 6, 7)
    every = index.search_embeds(query, among="visual", made_by=MAKER, k=rows)[0]
    best = list({hit.path: hit for hit in reversed(every)}.values())
    found = index.search_embeds(query, among="visual", made_by=MAKER, k=3, per_film=True)[0]
    assert found == sorted(best, key=lambda hit: -hit.score)[:3] and len({hit.path for hit in found}) == 3
    assert len(index.search_embeds(query, among="visual", made_by=MAKER, k=9, per_film=True)[0]) == 4


def test_threads_search_while_one_adds(tmp_path):
    index, wrong = made_up(tmp_path / "index", 500), []
    query, stop = unit(4, 6, 3), threading.Event()

    def search():
        while not stop.is_set():
            hits = index.search_embeds(query, among="visual", made_by=MAKER, k=20)
            wrong.extend(found for found in hits if len(found) != 20 or len({hit.clip_id for hit in found}) != 20)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for batch in range(10):
        index.add([f"b{batch}-{row}" for row in range(50)], unit(50, 6, batch), unit(50, 6, batch), made_by=MAKER)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(index) == 1000


def test_inverted_lists_say_what_they_miss_and_are_exact_about_what_came_later():
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((30, 8))
    rows = centres[generator.integers(0, 30, 6000)] + 0.7 * generator.standard_normal((6000, 8))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    gallery = Vectors([np.ascontiguousarray(rows[:5000].T)])
    lists = Lists.build(gallery, rows[5000:5400])
    assert lists.probes < lists.index.nlist and 0.9 < lists.recall <= 1
    exact = [set(np.argsort(-(rows[:5000].astype(float) @ row))[:10]) for row in rows[5400:5700].astype(float)]
    found = lists.nearest(gallery, rows[5400:5700], 10)
    recall = np.mean([len(one & set(other.tolist())) / 10 for one, (other, _) in zip(exact, found, strict=True)])
    assert abs(recall - lists.recall) < 0.05  # stated of 200 other queries
    grown = gallery.with_rows(np.ascontiguousarray(rows[5000:].T))
    for place in (5000, 5999):
        assert lists.nearest(grown, rows[place : place + 1], 1)[0][0].tolist() == [place]
    banned = np.zeros(6000, dtype=bool)
    banned[[5000, *range(0, 5000, 2)]] = True
    (found, scores) = lists.nearest(grown, rows[5000:5001], 50, banned)[0]
    assert not banned[found].any() and np.all(np.diff(scores) <= 0)
    assert not lists.is_old(6000) and lists.is_old(6500)


def test_an_index_of_very_many_clips_can_be_searched_nearly(tmp_path, monkeypatch):
    monkeypatch.setattr(index_folder, "LEAST", 1000)
    index = made_up(tmp_path / "index", 3000)
    near = open_index(tmp_path / "index", approximate=True)
    about = near.describe()
    assert about["engine"] == "in process, by inverted lists" and index.describe()["engine"] == "in process, exact"
    assert 0.5 < about["approximate"]["visual"]["recall@10"] <= 1
    query = unit(50, 6, 4)
    found = [one.search_embeds(query, among="visual", made_by=MAKER) for one in (index, near)]
    names = [[{hit.clip_id for hit in hits} for hits in one] for one in found]
    assert np.mean([len(one & other) / 10 for one, other in zip(*names, strict=True)]) > 0.8
    kept = {file.name for file in (tmp_path / "index" / ".cache").glob("lists-*.faiss")}
    again = open_index(tmp_path / "index", approximate=True)
    assert again.describe()["approximate"] == about["approximate"] and len(kept) == 2
    assert kept == {file.name for file in (tmp_path / "index" / ".cache").glob("lists-*.faiss")}
    # Of few clips that pass a filter, all are found, whichever lists they lie in.
    index.add([f"rare-{row}" for row in range(20)], unit(20, 6, 8), unit(20, 6, 9), made_by=MAKER, labels=["rare"] * 20)
    for k in (5, 20, 50):
        pair = [
            one.search_embeds(query[:5], among="visual", made_by=MAKER, k=k, labels="rare") for one in (index, again)
        ]
        assert pair[0] == pair[1] and len(pair[0][0]) == min(k, 20)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda index: index.search_embeds(unit(1, 5), among="visual", made_by=MAKER), "of shape (n, 6), got (1, 5)"),
        (lambda index: index.search_embeds(2 * unit(1, 6), among="visual", made_by=MAKER), "row 0 has length 2"),
        (lambda index: index.search_embeds(np.full((1, 6), np.nan), among="visual", made_by=MAKER), "of unit length"),
        (lambda index: index.search_embeds(unit(1, 6), among="video", made_by=MAKER), "audio or visual, got 'video'"),
        (lambda index: index.search_embeds(unit(1, 6), among="audio", made_by=MAKER, k=0), "1 to 16,384, got 0"),
        (lambda index: index.search_embeds(unit(1, 6), among="audio", made_by=MAKER, where="x"), "A filter is like"),
        (lambda index: index.add(["a", "a"], unit(2, 6), None, made_by=MAKER), "'a' came twice"),
        (lambda index: index.add(["a"], unit(2, 6), None, made_by=MAKER), "Expected 1 audio embeddings"),
        (lambda index: index.add([""], unit(1, 6), None, made_by=MAKER), "1 to 512 characters"),
        (lambda index: index.add(["a"], unit(1, 6), None, made_by=MAKER, year=[3]), "put that into `metadata`"),
        (lambda index: index.add(["a"], unit(1, 6), None, made_by=MAKER, path=[]), "Expected one path a clip"),
        (lambda index: index.add(["a"], unit(1, 6), None, made_by=MAKER, metadata=[{"a": {1}}]), "what JSON can hold"),
        (lambda index: index.search(audio="a.wav", video="b.mp4"), "got audio and video"),
        (lambda index: index.search(), "got none"),
        (lambda index: index.search_embeds(unit(1, 6), among=None, made_by=MAKER), "audio or visual, got None"),
        (lambda index: index.add(["a", "b"], unit(2, 6), None, made_by=MAKER, path="ab"), "got the text 'ab'"),
        (
            lambda index: index.add(["a", "b"], np.stack([np.full(6, np.nan), np.ones(6)]), None, made_by=MAKER),
            "row 1 has",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_added(call, said, tmp_path):
    index = made_up(tmp_path / "index", 3)
    assert said in refusal(lambda: call(index))
    assert len(open_index(tmp_path / "index")) == 3


def test_what_is_no_index_is_refused(tmp_path, run):
    (tmp_path / "empty").mkdir()
    assert "is no index" in refusal(lambda: open_index(tmp_path / "empty"))
    assert "is no index" in refusal(lambda: open_index(run / "tiny-data"))
    assert "is no index" in refusal(lambda: open_index(tmp_path / "nowhere"))
    index = made_up(tmp_path / "index", 3)
    assert "exists already" in refusal(lambda: create_index(tmp_path / "index", str(run / "runs" / "tiny")))
    card = tmp_path / "index" / "README.md"
    card.write_text(card.read_text().replace("format: 1", "format: 9"))
    assert "format: 1" in refusal(lambda: open_index(tmp_path / "index"))
    shutil.rmtree(tmp_path / "index")
    assert "removed or moved" in refusal(lambda: len(index))


def test_a_damaged_batch_is_named(tmp_path):
    made_up(tmp_path / "index", 30)
    batch = tmp_path / "index" / "data" / "00000000.parquet"
    batch.write_bytes(batch.read_bytes()[:200])
    assert "00000000.parquet is no batch of this index, or is damaged" in refusal(
        lambda: open_index(tmp_path / "index")
    )


def test_who_made_it_is_said_by_the_place_a_model_was_loaded_from(run):
    identity = identity_of(AutoModel.from_pretrained(run / "runs" / "tiny" / "model"))
    assert identity.model_id == str((run / "runs" / "tiny" / "model").resolve()) and identity.dim == 4
    assert Identity.from_dict(identity.to_dict()) == identity
