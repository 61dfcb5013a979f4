"""What an index promises, whichever store it lies in: a folder, or Milvus (here its file, Milvus Lite)."""

import errno
import fcntl
import gc
import http.server
import io
import json
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from modeling_dualspace import codes, index_milvus, milvus_place
from modeling_dualspace.index import Index, open_index
from modeling_dualspace.index_filter import Condition, Filter
from modeling_dualspace.index_folder import FolderStore
from modeling_dualspace.index_milvus import MilvusStore
from modeling_dualspace.index_places import is_uri
from modeling_dualspace.index_rows import MODALITIES, Identity, make_rows
from modeling_dualspace.milvus_place import Place

VECTORS = Identity("runs/clips", "dualspace", "0123456789abcdef", "vggish + inception", 16)
CODES = Identity("runs/codes", "dualspace", "fedcba9876543210", None, 20, codes=True)
EVERYTHING = Filter()


def unit_rows(count, identity=VECTORS, seed=0):
    drawn = np.random.default_rng(seed).standard_normal((count, identity.dim)).astype(np.float32)
    if identity.codes:
        return codes.sign_codes(torch.from_numpy(drawn)).numpy()
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def names_of(count, start=0):
    return [f"clip-{number:05d}" for number in range(start, start + count)]


def rows_of(names, identity=VECTORS, seed=0, source=None, **facts):
    embeds = {name: unit_rows(len(names), identity, seed + place) for place, name in enumerate(MODALITIES)}
    embeds |= {name: facts.pop(name) for name in MODALITIES if name in facts}
    return make_rows(identity, names, embeds, facts, source)


class Engine:
    """Makes stores of one kind below a folder, and closes them."""

    def __init__(self, kind, folder):
        self.kind, self.folder, self.opened = kind, folder, []

    def place(self, name="clips"):
        return str(self.folder / name) if self.kind == "folder" else f"{self.folder / 'films.db'}#{name}"

    def create(self, identity=VECTORS, name="clips"):
        place = self.place(name)
        of = FolderStore.create(Path(place), identity) if self.kind == "folder" else MilvusStore.create(place, identity)
        self.opened.append(of)
        return of

    def open(self, name="clips"):
        place = self.place(name)
        self.opened.append(FolderStore.open(Path(place)) if self.kind == "folder" else MilvusStore.open(place))
        return self.opened[-1]

    def close(self):
        for store in self.opened:
            store.close()


@pytest.fixture(params=["folder", "lite"])
def engine(request, tmp_path):
    """Both kinds, one after the other."""
    if request.param == "lite":
        pytest.importorskip("milvus_lite")
    made = Engine(request.param, tmp_path)
    yield made
    made.close()


@pytest.fixture
def lite(tmp_path):
    """Milvus Lite alone."""
    pytest.importorskip("milvus_lite")
    made = Engine("lite", tmp_path)
    yield made
    made.close()


@pytest.fixture
def pymilvus_log(monkeypatch):
    """What pymilvus writes to stderr, by handlers of its own."""
    pytest.importorskip("pymilvus")
    written = io.StringIO()
    for name in ("pymilvus", "pymilvus.milvus_client"):
        for handler in logging.getLogger(name).handlers:
            monkeypatch.setattr(handler, "stream", written)
    return written


def ids(hits):
    return [hit.clip_id for hit in hits]


@pytest.mark.parametrize("identity", [VECTORS, CODES], ids=["vectors", "codes"])
def test_the_nearest_are_those_of_brute_force(engine, identity):
    store, names = engine.create(identity), names_of(2000)
    rows = {name: unit_rows(2000, identity, place) for place, name in enumerate(MODALITIES)}
    for start in range(0, 2000, 500):
        part = {name: rows[name][start : start + 500] for name in MODALITIES}
        assert store.add(rows_of(names[start : start + 500], identity, **part)) == 500
    queries = unit_rows(5, identity, seed=7)
    for among in MODALITIES:
        scores = queries.astype(np.float64) @ rows[among].astype(np.float64).T
        for k in (1, 10, 100):
            found = store.search(queries, among, k, EVERYTHING)
            for hits, exact in zip(found, scores, strict=True):
                best = -np.sort(-exact)[:k]
                np.testing.assert_allclose([hit.score for hit in hits], best, atol=1e-6, rtol=0)
                own = [exact[names.index(hit.clip_id)] for hit in hits]
                np.testing.assert_allclose(own, best, atol=1e-6, rtol=0)
                if identity.codes:  # each score is one that so many bits give, and equal ones are in order
                    assert {hit.score for hit in hits} <= {1 - 2 * bits / 20 for bits in range(21)}
                    assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.clip_id))
                else:
                    assert ids(hits) == [names[place] for place in np.argsort(-exact, kind="stable")[:k]]


def test_the_last_row_of_a_clip_counts_and_deleted_ones_are_gone_until_they_are_added_again(engine):
    store = engine.create()
    audio = unit_rows(6)
    store.add(rows_of(["a", "b", "c"], audio=audio[:3], labels=[["dog"], ["dog"], ["cat"]]))
    store.add(rows_of(["b"], audio=audio[3:4], labels=[["cat"]], path=["b.mp4"]))
    assert len(store) == 3 and store.get(["b"])[0].labels == ("cat",) and store.get(["b"])[0].path == "b.mp4"
    best = store.search(audio[3:4], "audio", 5, EVERYTHING)[0]
    assert best[0].clip_id == "b" and best[0].score == pytest.approx(1) and len(best) == 3
    assert store.search(audio[1:2], "audio", 1, EVERYTHING)[0][0].score < 0.99
    assert store.delete(["b", "nobody"]) == 1 and store.delete(["b"]) == 0 and store.delete([]) == 0
    assert len(store) == 2 and store.get(["b", "a"])[0] is None
    assert set(ids(store.search(audio[:1], "audio", 9, EVERYTHING)[0])) == {"a", "c"}
    store.add(rows_of(["b"], audio=audio[4:5]))
    assert len(store) == 3 and store.search(audio[4:5], "audio", 1, EVERYTHING)[0][0].clip_id == "b"
    store.close()
    again = engine.open()
    assert len(again) == 3 and again.identity == VECTORS
    assert again.search(audio[4:5], "audio", 1, EVERYTHING)[0][0].clip_id == "b"
    assert again.get(["b"])[0].labels == ()


def test_an_empty_index_finds_nothing(engine):
    store = engine.create()
    assert len(store) == 0 and store.search(unit_rows(2), "audio", 3, EVERYTHING) == [[], []]
    assert store.get(["a"]) == [None] and store.from_source("x") == set() and list(store.batches()) == []
    assert store.facts(["labels"]).num_rows == 0 and store.sample(5).num_rows == 0
    assert store.counts() == {"audio": 0, "visual": 0} and store.delete(["a"]) == 0


@pytest.mark.parametrize("identity", [VECTORS, CODES], ids=["vectors", "codes"])
def test_a_track_that_is_missing_is_never_found(engine, identity):
    store = engine.create(identity)
    audio, visual = unit_rows(6, identity), unit_rows(6, identity, 1)
    audio[::2] = np.nan
    store.add(rows_of(names_of(6), identity, audio=audio, visual=visual))
    store.add(make_rows(identity, ["seen"], {"visual": visual[:1]}, {}))
    assert store.counts() == {"audio": 3, "visual": 7}
    assert sorted(ids(store.search(visual[:1], "audio", 10, EVERYTHING)[0])) == names_of(6)[1::2]
    assert len(store.search(visual[:1], "visual", 10, EVERYTHING)[0]) == 7
    (table,) = store.batches()
    stored = dict(zip(table["clip_id"].to_pylist(), identity.unstored(table["audio_embeds"]), strict=True))
    np.testing.assert_array_equal([stored[name] for name in names_of(6)], audio)
    assert np.isnan(stored["seen"]).all()


def test_facts_come_back_as_they_were_added(engine):
    store = engine.create()
    metadata = {"é": "ü\n\"'\\", "big": 2**70, "float": 1.0, "int": 1, "none": None, "list": [1, {"a": "b"}], "t": True}
    long = "films/" + "ordner-ä/" * 3000 + "film.mp4"
    store.add(
        rows_of(
            ["x"], source="data-1", path=[long], start=[1.25], end=[1e-3], labels=[['"quoted"', "b\\a"]],
            metadata=[metadata],
        )
    )  # fmt: skip
    store.add(rows_of(["y", "z"], seed=4, source="data-2"))
    hit, nothing, other = store.get(["x", "nobody", "y"])
    assert nothing is None and np.isnan(hit.score)
    assert (hit.path, hit.start, hit.end, hit.labels) == (long, 1.25, 1e-3, ('"quoted"', "b\\a"))
    assert json.dumps(hit.metadata) == json.dumps(metadata)  # 1.0 stays 1.0, and keys in their order
    assert (other.path, other.start, other.end, other.labels, other.metadata) == (None, None, None, (), {})
    assert store.from_source("data-2") == {"y", "z"} and store.from_source('" or clip_id != "') == set()
    facts = store.facts(["labels", "clip_id", "metadata"])
    assert facts.column_names == ["labels", "clip_id", "metadata"] and facts.num_rows == 3
    assert facts["labels"].type == pa.list_(pa.string())
    assert store.describe()["bytes"] > 1000
    assert store.search(unit_rows(1), "audio", 1, EVERYTHING)[0][0].metadata == metadata


def test_a_sample_is_even_and_always_the_same(engine):
    store = engine.create()
    store.add(rows_of(names_of(500)))
    first = store.sample(50)
    assert first["clip_id"].to_pylist() == store.sample(50)["clip_id"].to_pylist()
    gaps = np.diff([int(name[-5:]) for name in first["clip_id"].to_pylist()])
    assert first.num_rows == 50 and set(gaps) == {10, 11} or gaps.max() - gaps.min() <= 1
    assert store.sample(900).num_rows == 500
    hits, audio, visual = Index(store, "clips").sample(50)
    assert [hit.clip_id for hit in hits] == first["clip_id"].to_pylist() and audio.shape == visual.shape == (50, 16)
    np.testing.assert_array_equal(audio, unit_rows(500)[[int(hit.clip_id[-5:]) for hit in hits]])


NASTY = ['" or 1==1', "%", "a%", "Ωß猫🎬", "new\nline", "back\\slash", "\\", "it's", "{x}", "\t", "\r", '"', "]", "]["]


def test_names_labels_keys_and_values_of_any_letters_are_what_they_are_and_nothing_more(engine):
    store = engine.create()
    clips = [f"clip {text!r}" for text in NASTY]
    store.add(rows_of(clips, labels=[[text] for text in NASTY], metadata=[{text: text, "all": text} for text in NASTY]))
    query = unit_rows(1)
    for clip, text in zip(clips, NASTY, strict=True):
        for wanted in (
            Filter(labels=(text,)),
            Filter(labels=(text, "nobody")),
            Filter(conditions=(Condition("all", "=", text),)),
            Filter(conditions=(Condition(text, "=", text),)),
        ):
            assert ids(store.search(query, "audio", 50, wanted)[0]) == [clip], wanted
        rest = store.search(query, "audio", 50, Filter(conditions=(Condition("all", "!=", text),)))[0]
        assert sorted(ids(rest)) == sorted(set(clips) - {clip})
        assert store.search(query, "audio", 50, Filter(labels=(f'{text}", "',)))[0] == []
    assert [hit.clip_id for hit in store.get(clips)] == clips
    assert sorted(name for table in store.batches(rows=3) for name in table["clip_id"].to_pylist()) == sorted(clips)
    assert store.delete(clips[:3]) == 3 and len(store) == len(clips) - 3


def test_conditions_mean_the_same_in_either_store_on_random_metadata(engine):
    draw = random.Random(5)
    texts = ["Oslo", "oslo", "", " 7 ", "7", "7.0", "1e3", "nan", "inf", "-0", "true", "True", "0x7", "10" * 30]
    values = [*texts, 0, 7, 7.0, -7, 7.5, 1000, 2**53 + 1, 1e-300, True, False, None, [7], {"year": 7}]
    keys = ["year", "Year", "city", "a.b", 'q"', "a/b~c", "länge", "x y", "1"]
    metadata = [{key: draw.choice(values) for key in draw.sample(keys, draw.randint(0, 5))} for _ in range(150)]
    labels = [draw.sample(["dog", "cat", "d%g", ""], draw.randint(0, 3)) for _ in metadata]
    store, names = engine.create(), names_of(len(metadata))
    store.add(rows_of(names, metadata=metadata, labels=labels))
    for _ in range(150):
        conditions = []
        for _ in range(draw.randint(0, 2)):
            number = draw.choice([0.0, 7.0, -7.0, 7.5, 1000.0, 1e-300, 1e300, float(2**53)])
            operator = draw.choice(["=", "!=", "<", "<=", ">", ">="])
            text = draw.random() < 0.4
            operator = operator if not text else draw.choice(["=", "!="])
            value = draw.choice(["Oslo", "nan", "inf", "true", "false", "0x7", ""]) if text else number
            conditions.append(Condition(draw.choice([*keys, "nowhere"]), operator, value))
        wanted = Filter(tuple(draw.sample(["dog", "cat", "d%g", "", "owl"], draw.randint(0, 2))), tuple(conditions))
        expected = {
            name
            for name, known, own in zip(names, metadata, labels, strict=True)
            if (not wanted.labels or set(own) & set(wanted.labels))
            and all(one.key in known and one.met_by(known[one.key]) for one in conditions)
        }
        assert set(ids(store.search(unit_rows(1), "visual", 200, wanted)[0])) == expected, wanted


def test_the_best_window_of_each_film(engine):
    count = 120
    rows = unit_rows(count, seed=2)
    paths = [None if number % 40 == 0 else f"film-{number % 30}.mp4" for number in range(count)]
    store = engine.create()
    index = Index(store, "clips")
    index.add(names_of(count), audio=rows, visual=rows, made_by=VECTORS.fingerprint, path=paths)
    for k in (1, 7, 40):
        (hits,) = index.search_embeds(rows[:1], among="visual", made_by=VECTORS.fingerprint, k=k, per_film=True)
        firsts = {}
        for place in np.argsort(-(rows.astype(np.float64) @ rows[0].astype(np.float64)), kind="stable"):
            firsts.setdefault(paths[place] or place, names_of(count)[place])
        assert ids(hits) == list(firsts.values())[:k]
    assert index.describe()["films"] == len({path for path in paths if path})


def test_embeddings_of_other_lengths_or_models_are_refused(engine):
    index = Index(engine.create(), "clips")
    rows = unit_rows(2)
    with pytest.raises(ValueError, match="of unit length"):
        index.add(["a", "b"], audio=2 * rows, made_by=VECTORS.fingerprint)
    with pytest.raises(ValueError, match="of unit length"):
        index.search_embeds(rows * 0, among="audio", made_by=VECTORS.fingerprint)
    for call in (
        lambda: index.add(["a", "b"], audio=rows, made_by="ffff"),
        lambda: index.search_embeds(rows, among="audio", made_by="ffff"),
    ):
        with pytest.raises(ValueError, match="have nothing to do with each other"):
            call()
    with pytest.raises(ValueError, match="1 to 16,384"):
        index.search_embeds(rows, among="audio", made_by=VECTORS.fingerprint, k=16_385)
    assert len(index) == 0


@pytest.mark.parametrize("identity", [VECTORS, CODES], ids=["vectors", "codes"])
def test_an_index_is_copied_from_one_store_to_the_other_and_back(tmp_path, identity):
    pytest.importorskip("milvus_lite")
    folder = FolderStore.create(tmp_path / "first", identity)
    audio = unit_rows(300, identity)
    audio[::7] = np.nan
    draw = random.Random(0)
    facts = {
        "labels": [draw.sample(["dog", "cat"], draw.randint(0, 2)) for _ in range(300)],
        "metadata": [{"year": 2000 + number % 20} for number in range(300)],
        "path": [f"{number % 9}.mp4" for number in range(300)],
        "start": [float(number) for number in range(300)],
    }
    folder.add(rows_of(names_of(300), identity, audio=audio, source="s", **facts))
    folder.delete(names_of(5))
    with Index(folder, "first") as index:
        with index.save(f"{tmp_path / 'films.db'}#copy") as copied:
            assert copied.store.engine == "Milvus Lite, exact" and len(copied) == 295
            with copied.save(tmp_path / "back") as back:
                first, last = (
                    pa.concat_tables(one.store.batches()).sort_by("clip_id").combine_chunks() for one in (index, back)
                )
                assert first.equals(last)
                query = unit_rows(4, identity, 9)
                settings = {"among": "visual", "made_by": identity.fingerprint, "k": 20, "where": ["year>=2010"]}
                found = [one.search_embeds(query, **settings) for one in (index, copied, back)]
                scores = [[[hit.score for hit in hits] for hits in one] for one in found]
                np.testing.assert_allclose(scores[0], scores[1], atol=1e-12)
                assert found[0] == found[2]
                described = [one.describe() for one in (index, copied)]
                assert described[0]["model"] == described[1]["model"] and "engine" in described[1]
                assert described[0]["labels"] == described[1]["labels"] and described[0]["with"] == described[1]["with"]
            with pytest.raises(ValueError, match="is there already"):
                index.save(f"{tmp_path / 'films.db'}#copy")


def test_threads_search_while_one_adds(engine):
    store = engine.create()
    store.add(rows_of(names_of(20)))
    done, seen, failed = threading.Event(), [], []

    def search():
        try:
            while not done.is_set():
                before = len(store)
                hits = store.search(unit_rows(2), "audio", 1000, Filter(labels=("dog",)))[0]
                assert len(set(ids(hits))) == len(hits) and len(hits) % 20 == 0
                seen.append((before, len(hits)))
                assert store.get([names_of(1)[0]])[0] is not None
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for batch in range(1, 16):
        store.add(rows_of(names_of(20, 20 * batch), seed=batch, labels=[["dog"]] * 20))
        if batch % 5 == 0:  # replacing takes nothing away from those who search, for a moment only
            assert len(store.search(unit_rows(1), "audio", 1000, Filter(labels=("dog",)))[0]) == 20 * batch
    done.set()
    for thread in threads:
        thread.join()
    assert failed == [] and seen and len(store) == 320


def test_who_closed_an_index_is_told_so_by_milvus(lite):
    store, between = lite.create(), lite.create(name="between")
    store.close()
    store.close()
    search = between._client.search
    between._client.search = lambda *given, **more: between.close() or search(*given, **more)  # as another thread does
    for one in (store, between):
        with pytest.raises(ValueError, match="was closed: open the index anew"):
            one.search(unit_rows(1), "audio", 1, EVERYTHING)


def adding(store, number, batches=40, size=50):
    """Adds batches which are not all there, as `add_data` does, and says so."""
    for batch in range(batches):
        names = names_of(size, batch * size)
        if store.get(names[:1])[0] is None:
            store.add(rows_of(names, seed=batch, source="data"))
            os.write(number, b".")


def killed_while_adding(engine, nap):
    reader, writer = os.pipe()
    gc.collect()
    child = os.fork()
    if not child:
        try:
            os.close(reader)
            adding(engine.open(), writer)
        finally:
            os._exit(0)
    os.close(writer)
    try:
        before = os.read(reader, 1)
        time.sleep(nap)
        os.kill(child, signal.SIGKILL)
        while more := os.read(reader, 100):
            before += more
        return len(before)
    finally:
        os.waitpid(child, 0)
        os.close(reader)


def check_batches(engine, said, size=50):
    """Each batch is there or not, those that were said to be are, and a second run completes what is missing."""
    store = engine.open()
    there = [batch for batch in range(40) if store.get(names_of(size, batch * size)) != [None] * size]
    assert len(store) == size * len(there) and len(there) >= said
    for batch in there:
        hits = store.search(unit_rows(1, seed=batch), "audio", 1, EVERYTHING)[0]
        assert hits[0].clip_id == names_of(1, batch * size)[0] and hits[0].score == pytest.approx(1)
    store.close()
    return len(there)


@pytest.mark.parametrize("naps", [(0.0, 0.013)])
def test_who_adds_to_a_folder_may_be_killed_at_any_time(tmp_path, naps):
    engine, said = Engine("folder", tmp_path), 0
    engine.create().close()
    for nap in naps:
        said += killed_while_adding(engine, nap)
        said = check_batches(engine, said)
    read, write = os.pipe()
    adding(engine.open(), write)
    assert check_batches(engine, 40) == 40
    assert not list((tmp_path / "clips" / "data").glob(".tmp-*"))
    os.close(read), os.close(write)
    engine.close()


KILLED = """
import os, sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
spec = spec_from_file_location("stores", sys.argv[1])
stores = module_from_spec(spec)
spec.loader.exec_module(stores)
engine, said = stores.Engine("lite", Path(sys.argv[2])), 0

def alone(work):  # gRPC does not go through a fork: it is used in children only
    child = os.fork()
    if not child:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def complete():
    stores.adding(engine.open(), os.open(os.devnull, os.O_WRONLY))
    return stores.check_batches(engine, 40)

assert alone(lambda: engine.create().close() or 0) == 0
for nap in (0.0, 0.05, 0.01, 0.1):
    said += stores.killed_while_adding(engine, nap)
    there = alone(lambda: stores.check_batches(engine, said))
    assert there >= said, (there, said)
    said = there
assert alone(complete) == 40
print("complete", said)
"""


@pytest.mark.slow
def test_who_adds_to_milvus_lite_may_be_killed_at_any_time(lite, tmp_path):
    command = [sys.executable, "-c", KILLED, __file__, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, timeout=300)
    assert told.returncode == 0 and told.stdout.startswith("complete"), told.stderr


def test_two_processes_read_a_folder_while_a_third_one_adds(tmp_path):
    engine = Engine("folder", tmp_path)
    engine.create().close()

    def read():
        store, last = engine.open(), 0
        until = time.monotonic() + 60
        while last < 2000 and time.monotonic() < until:
            hits = store.search(unit_rows(1), "audio", 5000, EVERYTHING)[0]
            assert len(hits) % 50 == 0 and len(hits) >= last
            last = len(hits)
        return last == 2000

    def write():
        adding(engine.open(), os.open(os.devnull, os.O_WRONLY))
        return True

    children = []
    gc.collect()
    for work in (read, read, write):
        child = os.fork()
        if not child:
            code = 1
            try:
                code = 0 if work() else 2
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]


def test_a_file_of_milvus_lite_that_another_process_has_is_refused_in_one_sentence(lite, pymilvus_log):
    lite.create().close()
    with (lite.folder / "films.db" / "LOCK").open("r+") as file:  # as another process holds it
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="cannot be opened: another process has it"):
            lite.open()
        with pytest.raises(ValueError, match="another process has it"):
            lite.create(name="more")
    assert len(lite.open()) == 0
    assert pymilvus_log.getvalue() == ""


def test_a_store_of_milvus_lite_is_opened_twice_in_a_process_and_let_go_of_by_the_last(lite):
    first, second = lite.create(), lite.open()
    first.add(rows_of(["a"]))
    first.close()
    assert len(second) == 1
    second.close()
    with (lite.folder / "films.db" / "LOCK").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def fill(store, batches):
    for batch in range(batches):
        store.add(rows_of(names_of(200, 200 * batch), seed=batch))


def check_full(engine, store, make_room):
    """A batch that found no room is not there, nothing of it either, and goes in once there is room."""
    with pytest.raises(OSError) as raised:
        fill(store, 1000)
    assert raised.value.errno in (errno.ENOSPC, errno.EFBIG) and raised.value.filename.startswith(str(engine.folder))
    assert not list((engine.folder / "clips").rglob(".tmp-*"))
    there = len(engine.open())
    assert there % 200 == 0 and there == len(store)
    assert store.search(unit_rows(1), "audio", 1, EVERYTHING)[0][0].clip_id == names_of(1)[0]
    make_room()
    fill(store, there // 200 + 2)
    assert len(store) == len(engine.open()) == there + 400


def test_a_file_that_may_grow_no_further_leaves_nothing_half_written(tmp_path):
    engine = Engine("folder", tmp_path)
    store = engine.create()
    fill(store, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    check_full(engine, store, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)))


def test_a_full_disk_leaves_nothing_half_written(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("nothing may be mounted here")
    try:
        engine = Engine("folder", disk)
        more = ["mount", "-o", "remount,size=9m", str(disk)]
        check_full(engine, engine.create(), lambda: subprocess.run(more, check=True))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("films.db#a-b", "named by letters, digits and underscores"),
        ("films.db#1st", "named by letters, digits and underscores"),
        ("http://me:secret@host:19530#films", "holds no password"),
    ],
)
def test_places_that_are_none_are_refused(text, says):
    with pytest.raises(ValueError, match=says) as raised:
        Place.parse(text)
    assert "secret" not in str(raised.value)


def test_what_is_no_index_is_refused_in_one_sentence_and_left_as_it_is(lite, pymilvus_log):
    from pymilvus import DataType

    assert not MilvusStore.exists(lite.place())
    with pytest.raises(ValueError, match="is not there"):
        lite.open()
    assert list(lite.folder.iterdir()) == []
    (lite.folder / "notes.db").write_text("mine")
    (lite.folder / "folder.db").mkdir()
    for name in ("notes.db", "folder.db"):
        for call in (MilvusStore.open, lambda place: MilvusStore.create(place, VECTORS)):
            with pytest.raises(ValueError, match="is nothing that this Milvus Lite wrote"):
                call(str(lite.folder / name))
    assert list((lite.folder / "folder.db").iterdir()) == []
    with pytest.raises(ValueError, match="is no folder: make it"):
        MilvusStore.create(str(lite.folder / "nowhere" / "films.db"), VECTORS)
    store = lite.create()
    assert MilvusStore.exists(lite.place()) and not MilvusStore.exists(lite.place("other"))
    with pytest.raises(ValueError, match="has no collection other"):
        lite.open("other")
    with pytest.raises(ValueError, match="is there already"):
        lite.create()
    wide = store._client.create_schema()
    wide.add_field("id", DataType.INT64, is_primary=True)
    wide.add_field("vector", DataType.FLOAT_VECTOR, dim=4)
    store._client.create_collection("foreign", schema=wide)
    with pytest.raises(ValueError, match="no index: expected a collection that `dualspace index` made"):
        lite.open("foreign")
    store._client.drop_collection("clips")
    with pytest.raises(ValueError, match=r"films\.db has no collection clips"):
        store.add(rows_of(["a"]))
    assert pymilvus_log.getvalue() == ""


def test_a_server_that_is_not_there_is_said_in_one_sentence(monkeypatch, pymilvus_log):
    pytest.importorskip("pymilvus")
    monkeypatch.setattr(milvus_place, "_CONNECTING", 0.5)
    monkeypatch.setenv("MILVUS_TOKEN", "root:secret")
    for place in ("http://127.0.0.1:9#films", "http://127.0.0.1:9"):
        with pytest.raises(ConnectionError, match="Nobody answers at http://127.0.0.1:9") as raised:
            open_index(place)
        assert "secret" not in str(raised.value)
    assert pymilvus_log.getvalue() == ""


def test_the_folder_of_milvus_lite_is_a_place_in_milvus_and_an_index_of_that_name_a_folder(lite):
    lite.create(name="dualspace").close()
    place = str(lite.folder / "films.db")
    assert Path(place).is_dir() and is_uri(place)
    with open_index(place) as index:
        assert index.store.engine == "Milvus Lite, exact"
    FolderStore.create(lite.folder / "folder.db", VECTORS)
    assert not is_uri(str(lite.folder / "folder.db"))


def test_a_batch_larger_than_milvus_takes_goes_in_parts(lite, monkeypatch):
    monkeypatch.setattr(index_milvus, "PART", 20_000)
    store = lite.create()
    calls = []
    upsert = store._client.upsert
    monkeypatch.setattr(store._client, "upsert", lambda *given, **more: calls.append(more) or upsert(*given, **more))
    metadata = [{"text": "x" * (9000 if number == 3 else 10)} for number in range(100)]
    assert store.add(rows_of(names_of(100), metadata=metadata)) == 100 and len(store) == 100
    assert len(calls) > 3 and sum(len(call["data"]) for call in calls) == 100
    assert len(store.search(unit_rows(3), "audio", 90, EVERYTHING)[2]) == 90
    assert sorted(name for table in store.batches(30) for name in table["clip_id"].to_pylist()) == names_of(100)
    assert len([hit for hit in store.get(names_of(100)) if hit]) == 100


def test_texts_that_milvus_cannot_hold_are_refused_before_anything_is_added(lite):
    store = lite.create()
    for facts, says in (
        ({"metadata": [{}, {"text": "x" * 70_000}]}, "metadata of the clip 'b' has 70,012"),
        ({"path": ["x", "ä" * 40_000]}, "path of the clip 'b' has 80,000"),
        ({"labels": [[], ["x"] * 5000]}, "4,096 labels a clip"),
    ):
        with pytest.raises(ValueError, match=says):
            store.add(rows_of(["a", "b"], **facts))
    assert len(store) == 0


@pytest.mark.slow
def test_as_many_as_milvus_gives_are_found(engine):
    store, names = engine.create(), names_of(20_000)
    rows = unit_rows(20_000, seed=3)
    for start in range(0, 20_000, 4000):
        store.add(rows_of(names[start : start + 4000], audio=rows[start : start + 4000]))
    (hits,) = store.search(rows[:1], "audio", 16_384, EVERYTHING)
    exact = np.argsort(-(rows.astype(np.float64) @ rows[0].astype(np.float64)), kind="stable")
    assert len(hits) == 16_384 and set(ids(hits[:16_000])) <= {names[place] for place in exact[:16_384]}
    assert len(store.facts(["clip_id"])) == 20_000


@pytest.fixture
def served(tmp_path):
    """Milvus Lite behind an address, as a server is, and what ends it."""
    pytest.importorskip("milvus_lite")
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    server, database, port = start_server_in_thread(data_dir=str(tmp_path / "served"), host="127.0.0.1", port=0)
    yield f"http://127.0.0.1:{port}#films", lambda: server.stop(grace=0).wait()
    server.stop(grace=0)
    database.close()


def test_an_index_at_an_address_is_found_again_until_nobody_answers(served, monkeypatch, pymilvus_log):
    from pymilvus import MilvusClient

    place, stop = served
    tokens = []
    begin = MilvusClient.__init__
    monkeypatch.setattr(
        MilvusClient, "__init__", lambda self, **given: tokens.append(given["token"]) or begin(self, **given)
    )
    monkeypatch.setenv("MILVUS_TOKEN", "root:secret")
    assert not MilvusStore.exists(place)
    made = MilvusStore.create(place, CODES)
    made.add(rows_of(names_of(30), CODES))
    made.close()
    assert MilvusStore.exists(place) and not MilvusStore.exists(place.replace("films", "other"))
    with open_index(place) as index:
        assert index.identity == CODES and len(index) == 30
        assert set(tokens) == {"root:secret"} and "secret" not in str(index.describe())
        stop()
        monkeypatch.setattr(index_milvus, "SECONDS", 0.5)
        with pytest.raises(ConnectionError, match="Nobody answers at http://127") as raised:
            index.get(["a"])
        assert "secret" not in str(raised.value) and "\n" not in str(raised.value)
    assert pymilvus_log.getvalue() == ""


def test_an_address_where_something_else_answers_is_said_in_one_sentence(monkeypatch, pymilvus_log):
    monkeypatch.setattr(milvus_place, "_CONNECTING", 0.5)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(ConnectionError, match="Nobody answers at http://127"):
            open_index(f"http://127.0.0.1:{other.server_port}")
        other.shutdown()
    assert pymilvus_log.getvalue() == ""


class Server:
    """Of Milvus, the least that keeps bits: what `pymilvus` would send is built by `pymilvus`, and compared here."""

    def __init__(self):
        self.collections = {}

    def create_schema(self, **settings):
        from pymilvus import MilvusClient

        return MilvusClient.create_schema(**settings)

    def prepare_index_params(self):
        from pymilvus import MilvusClient

        return MilvusClient.prepare_index_params()

    def get_server_version(self, **_):
        return "v2.6.4"

    def has_collection(self, name, **_):
        return name in self.collections

    def create_collection(self, name, schema, **_):
        self.collections[name] = {"schema": schema, "rows": {}}

    def create_index(self, name, index, **_):
        self.collections[name]["index"] = {one.field_name: (one.index_type, one.to_dict()) for one in index}

    def load_collection(self, name, **_):
        assert self.collections[name]["index"]

    def describe_collection(self, name, **_):
        schema = self.collections[name]["schema"].to_dict()
        return {"description": schema["description"], "fields": schema["fields"]}

    def upsert(self, name, data, **_):
        from pymilvus.client.prepare import Prepare

        fields = self.collections[name]["schema"].to_dict()["fields"]
        request = Prepare.row_upsert_param(name, [dict(row) for row in data], "", fields)
        packed = {field.field_name: field for field in request.fields_data}
        for place, row in enumerate(data):
            vectors = {}
            for modality in MODALITIES:
                field = packed[f"{modality}_embeds"].vectors
                width = field.dim // 8
                vectors[f"{modality}_embeds"] = field.binary_vector[place * width : (place + 1) * width]
            self.collections[name]["rows"][row["clip_id"]] = row | vectors

    def query(self, name, output_fields, **_):
        rows = [dict(row) for row in self.collections[name]["rows"].values()]
        if output_fields == ["count(*)"]:
            return [{"count(*)": len(rows)}]
        for row in rows:  # in a list, as a query gives them
            row |= {f"{modality}_embeds": [row[f"{modality}_embeds"]] for modality in MODALITIES}
        return sorted(rows, key=lambda row: row["clip_id"])

    def search(self, name, data, anns_field, limit, filter, search_params, **_):
        from pymilvus.client.prepare import Prepare
        from pymilvus.grpc_gen.common_pb2 import PlaceholderGroup, PlaceholderType

        assert search_params == {"metric_type": "HAMMING"}
        sent = PlaceholderGroup.FromString(Prepare._prepare_placeholder_str(data)).placeholders[0]
        assert sent.type == PlaceholderType.BinaryVector
        flag = filter.removesuffix(" == true")
        found = []
        for query in sent.values:
            hits = [
                {"distance": float(sum((a ^ b).bit_count() for a, b in zip(query, row[anns_field], strict=True)))}
                | {"entity": row}
                for row in self.collections[name]["rows"].values()
                if row[flag]
            ]
            found.append(sorted(hits, key=lambda hit: hit["distance"])[:limit])
        return found

    def close(self):
        pass


def test_a_server_that_keeps_bits_is_given_bits_and_finds_what_a_folder_finds(tmp_path, monkeypatch):
    pytest.importorskip("pymilvus")
    server = Server()
    monkeypatch.setattr(index_milvus, "connect", lambda place, new=False: server)
    place = "http://milvus.invalid:19530#films"
    made = MilvusStore.create(place, CODES)
    fields = {field["name"]: field for field in server.collections["films"]["schema"].to_dict()["fields"]}
    assert {name: fields[name]["params"]["dim"] for name in ("audio_embeds", "visual_embeds")} == {
        "audio_embeds": 24,  # bits of whole bytes
        "visual_embeds": 24,
    }
    assert {kind for kind, _ in server.collections["films"]["index"].values()} == {"BIN_FLAT"}
    made.close()
    stores = (MilvusStore.open(place), FolderStore.create(tmp_path / "folder", CODES))
    assert stores[0].rows.bits and stores[0].identity == CODES and stores[0].engine == "Milvus, exact"
    audio = unit_rows(200, CODES)
    audio[::3] = np.nan
    for store in stores:
        store.add(rows_of(names_of(200), CODES, audio=audio, labels=[["dog"]] * 200, metadata=[{"a": 1}] * 200))
    found = [store.search(unit_rows(8, CODES, 5), "audio", 200, EVERYTHING) for store in stores]
    assert found[0] == found[1] and len(found[0][0]) == 133
    tables = [pa.concat_tables(store.batches()).combine_chunks() for store in stores]
    assert tables[0].equals(tables[1].select(tables[0].column_names))
    assert stores[0].describe() == {}
