"""The page without a browser: what programs are told, who may have which file, and what is never HTML."""

import asyncio
import json
import re
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from tiny_page import EVIL, QUOTED, open_tiny, page_of, served, tiny_root

from modeling_dualspace import app_files, app_gate, app_results, processing_dualspace
from modeling_dualspace.app import LIMITS, build_app
from modeling_dualspace.app_files import clip_of, token
from modeling_dualspace.app_map import fit_plane, map_of, marks_of, times
from modeling_dualspace.app_model import about_html, model_html
from modeling_dualspace.app_query import Asked, RefusedError, Wish
from modeling_dualspace.app_search import Lately, catalogues_of, public_facts
from modeling_dualspace.index import create_index, open_index
from modeling_dualspace.index_rows import Hit
from modeling_dualspace.media import Limits

SECRET = "nobody may read this"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The tiny index and its films; secrets beside them, among them, and behind links."""
    root = tiny_root(tmp_path_factory)
    (root / "secret.mp4").write_text(SECRET)
    (root / "films" / "private.mp4").write_text(SECRET)
    (root / "films" / "link.mp4").symlink_to(root / "secret.mp4")
    with open_tiny(root) as index:
        row = index.sample()[1][:1]
        for name, path in {"out": "link.mp4", "up": "../secret.mp4", "far": str(root / "secret.mp4")}.items():
            index.add([name], row, None, made_by=index.identity.fingerprint, path=[path], labels=[["linked"]])
    return root


@pytest.fixture(scope="module")
def url(root):
    """Of its page, where files may have 300 kB."""
    with served(page_of(root, limits=Limits(seconds=5, bytes=300_000))) as address:
        yield address


@pytest.fixture(scope="module")
def client(url):
    return Client(url, verbose=False)


@pytest.fixture(scope="module")
def catalogue(root):
    return catalogues_of([open_tiny(root)], LIMITS)[0]


def film_of(root, name="drum"):
    return str(next((root / "films" / name).glob("*.mp4")))


def cookie_of(url):
    """What a browser gets with the page."""
    return httpx.get(url).cookies[app_gate.COOKIE]


def send(url, file, cookies=None):
    """Sends a file as the page does; where it lies then."""
    with open(file, "rb") as opened:
        return httpx.post(f"{url}/gradio_api/upload", files={"files": opened}, cookies=cookies)


def searched(url, path, cookies=None, name="search_by_sound"):
    """What becomes of a search with a path on the server."""
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "other", 3, [], "", False, None]
    reply = httpx.post(f"{url}/gradio_api/call/{name}", json={"data": data}, cookies=cookies)
    if reply.status_code != 200:
        return reply.text
    return httpx.get(f"{url}/gradio_api/call/{name}/{reply.json()['event_id']}").text


def test_programs_find_what_the_index_finds(root, client):
    film, index = film_of(root), open_tiny(root)
    expected = {
        "/search_by_sound": index.search(audio=film, k=4),
        "/search_by_film": index.search(video=film, k=4),
        "/search_by_clip": index.search_embeds(
            index.sample()[2][[hit.clip_id for hit in index.sample()[0]].index("drum/drum-0000.mp4")][None],
            among="audio", made_by=index.identity.fingerprint, k=4,
        )[0],
    }  # fmt: skip
    for name, hits in expected.items():
        query = "drum/drum-0000.mp4" if name == "/search_by_clip" else handle_file(film)
        found = client.predict(query, k=4, api_name=name)
        assert [hit["clip_id"] for hit in found] == [hit.clip_id for hit in hits]
        assert np.allclose([hit["score"] for hit in found], [hit.score for hit in hits], atol=1e-5)
        assert {"film", "start", "end", "labels", "metadata", "url"} < found[0].keys() and "path" not in found[0]


def test_either_track_asks_and_either_is_searched(root, client):
    film, index = film_of(root), open_tiny(root)
    by_sound = client.predict(handle_file(film), modality="audio", among="audio", api_name="/search_by_film")
    assert [hit["clip_id"] for hit in by_sound] == [hit.clip_id for hit in index.search(audio=film, among="audio")]
    assert by_sound[0]["clip_id"] == "drum/drum-0000.mp4"


def test_a_picture_asks_too(root, client, tmp_path):
    Image.fromarray(np.full((40, 60, 3), 99, np.uint8)).save(tmp_path / "grey.png")
    found = client.predict(handle_file(str(tmp_path / "grey.png")), k=2, api_name="/search_by_picture")
    expected = open_tiny(root).search(image=str(tmp_path / "grey.png"), k=2)
    assert [hit["clip_id"] for hit in found] == [hit.clip_id for hit in expected]


def test_filters_and_numbers_narrow_what_is_found(root, client):
    film = handle_file(film_of(root))
    assert {hit["labels"][0] for hit in client.predict(film, labels=["bird", "rain"], api_name="/search_by_sound")} == {
        "bird",
        "rain",
    }
    years = [
        hit["metadata"]["year"]
        for hit in client.predict(film, where="year>=2004; year<2007", api_name="/search_by_sound")
    ]
    assert sorted(years) == [2004, 2005, 2006]
    assert len(client.predict(film, k=3, api_name="/search_by_sound")) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 51}, "50"),
        ({"k": 0}, "1"),
        ({"labels": ["brid"]}, "No clip here is labelled 'brid': did you mean 'bird'?"),
        ({"where": "year2010"}, "A filter is like year>=2010"),
        ({"where": "year>old"}, "compares numbers"),
    ],
)
def test_what_is_asked_wrongly_is_told_in_a_sentence(root, client, settings, message):
    with pytest.raises(AppError, match=re.escape(message)) as caught:
        client.predict(handle_file(film_of(root)), **settings, api_name="/search_by_sound")
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_files_are_told_by_their_names_and_no_place_of_this_machine(root, client, tmp_path):
    (tmp_path / "notes.wav").write_text("no sound at all")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "mute.gif")
    told = {("notes.wav", "/search_by_sound"): "is no film", ("notes.wav", "/search_by_picture"): "is no picture"}
    told |= {("mute.gif", "/search_by_sound"): "has no sound: search with its pictures"}
    for (name, endpoint), message in told.items():
        with pytest.raises(AppError, match=message) as caught:
            client.predict(handle_file(str(tmp_path / name)), api_name=endpoint)
        assert str(caught.value).startswith(f"'{name}'") and "/tmp" not in str(caught.value)


def test_films_longer_than_the_limit_are_refused(root):
    short = catalogues_of([open_tiny(root)], Limits(seconds=0.2, bytes=10**6))[0]
    with pytest.raises(RefusedError, match=r"'drum-0000.mp4' lasts 0.5 s, and the limit is 0.2 s"):
        short.search(Asked("audio", film_of(root)), Wish())


def test_the_limits_hold_while_a_film_is_decoded_and_not_for_the_index_itself(root, monkeypatch):
    limits = Limits(seconds=0.6, bytes=10**6)
    short = catalogues_of([open_tiny(root)], limits)[0]
    seen = []
    kept = processing_dualspace.Film

    def opened(path, limits=None, **settings):
        seen.append(limits)
        return kept(path, limits, **settings)

    monkeypatch.setattr(processing_dualspace, "Film", opened)
    for modality in ("audio", "visual"):
        assert short.search(Asked(modality, film_of(root)), Wish()).hits
    assert seen == [limits, limits] and short.index.processor.limits is None
    short.index.embed(audio=film_of(root))
    assert seen[2:] == [None]
    assert short.queries.processor.backbone("audio") is short.index.processor.backbone("audio")


def test_a_fault_of_ours_is_logged_and_not_shown(catalogue, root, monkeypatch, caplog):
    monkeypatch.setattr(catalogue.queries, "embed", lambda **_: 1 / 0)
    with pytest.raises(RefusedError, match="not by your doing"):
        catalogue.search(Asked("audio", film_of(root)), Wish())
    assert "ZeroDivisionError" in caplog.text


def test_what_a_store_complains_of_is_logged_and_not_shown(catalogue, monkeypatch, caplog):
    def gone(*_, **__):
        raise ValueError("/home/me/index was removed or moved.")

    monkeypatch.setattr(catalogue.index, "search_embeds", gone)
    with pytest.raises(RefusedError, match="not by your doing") as caught:
        catalogue.search(Asked("audio", clip_id="drum/drum-0000.mp4"), Wish())
    assert "/home/me" not in str(caught.value) and "/home/me/index was removed" in caplog.text


def test_a_value_may_have_a_comma_in_it(root):
    assert Wish(where="city=Oslo, Norway, year>=2010;take=2\nplace!=a, b").conditions == [
        "city=Oslo, Norway", "year>=2010", "take=2", "place!=a, b",
    ]  # fmt: skip


def test_a_filter_that_nothing_meets_is_explained(catalogue):
    query = Asked("audio", clip_id="drum/drum-0000.mp4")
    assert "Did you mean 'year'?" in catalogue.search(query, Wish(where="yaer>2000")).note
    assert "wider" in catalogue.search(query, Wish(where="year>3000")).note


def test_a_clip_asks_by_what_is_stored_now_in_the_sample_or_not(root, tmp_path):
    shutil.copytree(root / "index", tmp_path / "index")
    with open_index(tmp_path / "index", films=root / "films", model=str(root / "model")) as index:
        catalogue = catalogues_of([index], LIMITS)[0]
        hits, audio, visual = index.sample()
        rows = {hit.clip_id: row for row, hit in enumerate(hits)}
        asked = Asked("audio", clip_id="rain/rain-0000.mp4")
        assert np.array_equal(catalogue.search(asked, Wish()).embedding, audio[rows[asked.clip_id]])
        drum = audio[[rows["drum/drum-0000.mp4"]]]
        assert catalogue.map["clips"]  # the sample is had
        index.add([asked.clip_id, "new"], np.repeat(drum, 2, axis=0), None, made_by=index.identity.fingerprint)
        for one in (asked, Asked("audio", clip_id="new")):
            assert np.array_equal(catalogue.search(one, Wish()).embedding, drum[0])
        with pytest.raises(RefusedError, match="There is no clip 'nobody'"):
            catalogue.search(Asked("audio", clip_id="nobody"), Wish())
        with pytest.raises(RefusedError, match="has no pictures: take its sound"):
            catalogue.search(Asked("visual", clip_id="out"), Wish())


def test_what_costs_a_walk_through_the_index_is_had_once_a_minute(root, monkeypatch):
    asked = []
    index = open_tiny(root)
    catalogue = catalogues_of([index], LIMITS)[0]
    for name in ("describe", "labels", "film"):
        kept = getattr(index, name)
        monkeypatch.setattr(index, name, lambda *given, name=name, kept=kept: asked.append(name) or kept(*given))
    for _ in range(3):
        with pytest.raises(RefusedError, match="labelled 'made up'"):
            catalogue.search(Asked("audio", clip_id="rain/rain-0000.mp4"), Wish(labels=["made up"]))
        assert public_facts(catalogue)["clips"] == 13 and len(catalogue.map["clips"]) == 13
    assert asked == ["labels", *["film"] * 13]


def test_who_asks_while_something_is_had_anew_is_given_what_was_there():
    made, going = [], threading.Event()

    def make():
        made.append(len(made))
        if len(made) > 1:
            going.set()
            time.sleep(0.3)
        return made[-1]

    had = Lately(make, seconds=0)
    assert had() == 0
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(had)
        assert going.wait(5) and had() == 0 and later.result() == 1


def test_one_bad_clip_makes_no_page_fail(root, tmp_path, monkeypatch):
    shutil.copytree(root / "index", tmp_path / "index")
    with open_index(tmp_path / "index", films=root / "films", model=str(root / "model")) as index:
        row = index.sample()[1][:1]
        bad = {"path": ["a\x00b.mp4"], "metadata": [{"made\x00": "\x00"}], "labels": [["\x00"]]}
        index.add(["bad"], row, row, made_by=index.identity.fingerprint, **bad)
        catalogue = catalogues_of([index], LIMITS)[0]
        for _ in range(2):
            answer = catalogue.search(Asked("audio", clip_id="bad"), Wish(k=20))
            assert "bad" in {hit.clip_id for hit in answer.hits} and catalogue.to_json(answer.hits)
            assert app_results.results_html(catalogue, answer).count("<li") == len(answer.hits)
            assert len(map_of(catalogue)["clips"]) == 14 and catalogue.film(token("bad")) is None
            assert len(app_results.pick_examples(catalogue, None)) == 6

            def refuses(hit, kept=index.film):
                if hit.clip_id == "bad":
                    raise ValueError("embedded null byte")
                return kept(hit)

            monkeypatch.setattr(index, "film", refuses)  # and if the index did say so
        assert build_app([index])


@pytest.mark.parametrize("odd", [np.nan, np.inf, -1.0])
def test_seconds_that_are_none_are_not_shown(odd):
    assert times(Hit("a", 1.0, "a.mp4", odd, 3.0, (), {})) == "" and times(Hit("a", 1, "a", 1, odd, (), {})) == "0:01–"


@pytest.mark.slow
def test_twenty_searches_at_once_are_all_answered(root, url):
    path = send(url, film_of(root)).json()[0]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: searched(url, path), range(20)))
    assert all("event: complete" in answer and "clip_id" in answer for answer in answers), answers


def test_endpoints_are_named_and_described_and_the_page_s_own_are_not_shown(client):
    named = client.view_api(return_format="dict")["named_endpoints"]
    kinds = ("sound", "film", "picture", "clip")
    assert set(named) == {"/describe", *(f"/search_by_{kind}" for kind in kinds)}
    assert all("score (cosine)" in named[f"/search_by_{kind}"]["description"] for kind in kinds)


def test_what_is_described_names_no_place_of_this_machine(client, root):
    facts = client.predict(api_name="/describe")
    assert facts["clips"] == 13 and facts["model"]["id"] == "model" and str(root) not in json.dumps(facts)


def test_films_are_served_in_ranges_with_the_seconds_that_are_the_clip(root, client, url):
    hit = client.predict("drum/drum-0000.mp4", k=1, labels=["drum"], api_name="/search_by_clip")[0]
    address, seconds = hit["url"].split("#")
    assert seconds == "t=0.1,0.4"
    whole = Path(film_of(root)).read_bytes()
    reply = httpx.get(f"{url}/{address}")
    assert reply.content == whole and reply.headers["content-type"] == "video/mp4"
    part = httpx.get(f"{url}/{address}", headers={"Range": "bytes=5-14"})
    assert (part.status_code, part.content) == (206, whole[5:15]) and part.headers[
        "x-content-type-options"
    ] == "nosniff"


def test_no_path_that_anybody_can_think_of_reaches_a_file_of_ours(root, url):
    cookies = {app_gate.COOKIE: cookie_of(url)}
    targets = [root / "secret.mp4", root / "films" / "private.mp4", root / "films" / "link.mp4", Path(film_of(root))]
    targets += [next((root / "index" / "data").glob("*.parquet")), root / "model" / "model.safetensors"]
    targets += [Path("/etc/passwd"), Path(app_gate.__file__), app_files.uploads_folder(), Path(__file__)]
    paths = [str(path) for path in targets]
    paths += [f"../{'../' * 9}etc/passwd", "....//....//etc/passwd", "films/private.mp4", "modeling_dualspace/app.py"]
    paths += [f"{app_files.uploads_folder()}/../../etc/passwd", "file:///etc/passwd", "\\etc\\passwd", "C:/x", ""]
    forms = [str, lambda path: quote(path, safe=""), lambda path: path.replace("..", "%2e%2e")]
    more = [lambda path: quote(quote(path, safe=""), safe=""), lambda path: path.replace("/", "%2f")]
    more += [lambda path: "/" + path, lambda path: path + "%00.mp4", lambda path: path.replace("/", "//")]
    places = {place: [*forms, *more] for place in ("gradio_api/file=", "clip/0/")}
    others = ("gradio_api/file/", "file=", "clip/", "static/", "assets/", "", "gradio_api/proxy=", "map/", "svelte/")
    places |= dict.fromkeys((*others, "custom_component/x/client/", "gradio_api/stream/"), forms)
    with httpx.Client(cookies=cookies) as browser:
        for place, ways in places.items():
            for target in {form(path) for path in paths for form in ways}:
                if place + target in ("", "/", "//", "./"):
                    continue
                reply = browser.send(
                    browser.build_request("GET", httpx.URL(url, raw_path=f"/{place}{target}".encode()))
                )
                known = SECRET.encode() in reply.content or b"root:" in reply.content or b"PAR1" in reply.content
                assert reply.status_code >= 400 and not known, (place, target, reply.status_code)


def test_clips_whose_path_leads_out_of_the_films_have_no_film(root, url, client):
    assert {
        hit["film"]
        for hit in client.predict("out", modality="audio", among="audio", labels=["linked"], api_name="/search_by_clip")
    } == {
        "link.mp4",
        "../secret.mp4",
        str(root / "secret.mp4"),
    }
    for name in ("out", "up", "far", "private.mp4", "", "../films/private.mp4"):
        assert httpx.get(f"{url}/clip/0/{token(name)}").status_code == 404
    assert httpx.get(f"{url}/clip/7/{token('drum/drum-0000.mp4')}").status_code == 404


def test_an_upload_is_its_sender_s(root, url):
    mine, other = ({app_gate.COOKIE: cookie_of(url)} for _ in range(2))
    path = send(url, film_of(root, "rain"), mine).json()[0]
    address = f"{url}/gradio_api/file={path}"
    assert httpx.get(address, cookies=mine).content == Path(film_of(root, "rain")).read_bytes()
    assert httpx.get(address, cookies=other).status_code == httpx.get(address).status_code == 404
    assert "event: complete" in searched(url, path, mine)
    for cookies in (other, None, {app_gate.COOKIE: "x" * 42}, {app_gate.COOKIE: ""}):
        assert "not here any more" in searched(url, path, cookies)
    assert send(url, film_of(root, "rain"), other).json() == [path]  # the same file of two is of both
    assert httpx.get(address, cookies=mine).status_code == httpx.get(address, cookies=other).status_code == 200


def test_what_a_program_sends_is_searched_with_and_given_to_nobody(root, url):
    path = send(url, film_of(root, "waves")).json()[0]
    assert "event: complete" in searched(url, path)
    assert httpx.get(f"{url}/gradio_api/file={path}").status_code == 404


def test_the_same_file_of_a_browser_and_of_a_program_is_of_both():
    for first, second in (("me", None), (None, "me")):
        uploads = app_files.Uploads(100, 60)
        for sender in (first, second):
            uploads.add("/x", sender)
            assert uploads.may_use("/x", sender)
        assert uploads.may_use("/x", first) and uploads.may_see("/x", "me")
        assert not uploads.may_see("/x", None) and not uploads.may_see("/x", "other")


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "films/private.mp4", "http://127.0.0.1:1/x.mp4", "https://example.org/x"]
)
def test_no_search_reads_files_of_this_machine_or_addresses(root, url, path):
    answer = searched(url, str(root / path) if path.startswith("films") else path)
    assert "Files are searched with that were sent" in answer
    body = json.dumps(
        {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}], "fn_index": 1, "session_hash": "a"}
    )
    assert httpx.post(f"{url}/gradio_api/queue/join", content=body).status_code == 403


def test_gradio_itself_refuses_such_paths_too(root):
    """A mounted app takes any path for an upload, unless it is told that it runs."""
    inner = build_app([open_tiny(root)])
    inner.user_middleware.clear()
    with served(inner) as url:
        answer = searched(url, film_of(root))
    assert "event: error" in answer and "clip_id" not in answer


def test_large_files_are_refused_in_a_sentence(url, tmp_path):
    (tmp_path / "large.wav").write_bytes(b"x" * 1_400_000)
    reply = send(url, tmp_path / "large.wav")
    assert (
        reply.status_code == 413
        and reply.json()["detail"] == "A file may have 300 kB at most: cut it, or make it smaller."
    )
    (tmp_path / "larger.wav").write_bytes(b"x" * 310_000)  # Gradio counts each file of a request
    assert send(url, tmp_path / "larger.wav").status_code == 413
    reply = httpx.post(f"{url}/gradio_api/call/describe", content=b" " * 1_100_000)
    assert reply.status_code == 413
    reply = httpx.post(
        f"{url}/gradio_api/upload", content=iter([b"x"]), headers={"Content-Type": "multipart/form-data"}
    )
    assert reply.status_code == 411


def raw(url, head, body=b"", wait=True):
    """Sends a request that no client would, and reads the answer; or goes away in the middle of it."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sent:
        sent.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        answer = b""
        while wait and b"\r\n\r\n" not in answer and (piece := sent.recv(65_536)):
            answer += piece
        if not wait:
            time.sleep(0.2)
    return answer.split(b"\r\n")[0].decode()


@pytest.mark.parametrize("route", ["gradio_api/upload", "gradio_api/queue/join", "gradio_api/run/predict"])
def test_no_length_beside_chunks_is_believed(url, route):
    head = f"POST /{route} HTTP/1.1\nHost: x\nContent-Length: 5\nTransfer-Encoding: chunked"
    assert " 411 " in raw(url, head, b"5\r\n[[[[[\r\n0\r\n\r\n")
    assert " 411 " in raw(url, f"PUT /{route} HTTP/1.1\nHost: x\nTransfer-Encoding: chunked", b"0\r\n\r\n")


@pytest.mark.parametrize(("route", "length"), [("upload", 50), ("upload", 10**9), ("queue/join", 50), ("x", 50)])
def test_no_request_is_read_without_end(tmp_path, route, length):
    """Whatever the server before it lets through."""
    taken, told = [0, 0], []

    async def app(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            taken[1] += len(message["body"])

    async def endless():
        taken[0] += 100
        return {"type": "http.request", "body": b" " * 100, "more_body": True}

    async def send(message):
        told.append(message)

    uploads = app_files.Uploads(1_000, 60, tmp_path)
    scope = {"type": "http", "method": "POST", "path": f"/gradio_api/{route}"}
    scope["headers"] = [(b"content-length", str(length).encode())]
    asyncio.run(app_gate.Gate(app, uploads)(scope, endless, send))
    assert taken[0] <= app_gate.BODY + 1_100 and taken[1] <= 50
    assert not told or (b"connection", b"close") in told[0]["headers"]
    assert uploads.reserve(app_files.ROOM * 1_000)  # nothing is held for it


@pytest.mark.parametrize("body", [b"[" * 100_000, b"no json", b'{"data": [1', b"\xff\xfe\x00"])
def test_what_cannot_be_read_is_not_let_through(url, body):
    assert httpx.post(f"{url}/gradio_api/queue/join", content=body).status_code == 400


def test_room_is_taken_before_an_upload_comes(tmp_path):
    uploads = app_files.Uploads(100, 60, tmp_path)
    assert [uploads.reserve(100) for _ in range(app_files.ROOM + 1)] == [True] * app_files.ROOM + [False]
    uploads.release(100)
    assert uploads.reserve(60) and not uploads.reserve(60)


def test_an_upload_that_is_broken_off_leaves_nothing(root):
    with served(page_of(root, limits=Limits(bytes=300_000))) as url:
        folder = app_files.uploads_folder()
        head = "POST /gradio_api/upload HTTP/1.1\nHost: x\nContent-Length: 300000\n"
        head += "Content-Type: multipart/form-data; boundary=b"
        part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.wav"\r\n\r\n'
        with ThreadPoolExecutor(1) as pool:
            before = {file for file in folder.iterdir() if file.is_file()}
            gone = pool.submit(raw, url, head, part + b"x" * 200_000, wait=False)
            deadline = time.monotonic() + 10
            came = False
            while not came and time.monotonic() < deadline:
                came = any(file not in before for file in folder.iterdir() if file.is_file())
                time.sleep(0.005)
            assert came and gone.result() == ""
        while any(file.is_file() for file in folder.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(file.is_file() for file in folder.iterdir())
        assert send(url, film_of(root)).status_code == 200


def test_there_is_room_for_so_many_uploads_and_they_go_after_a_while(tmp_path, monkeypatch):
    passed = 0.0
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed, time=lambda: time.time() + passed)
    monkeypatch.setattr(app_files, "time", clock)
    uploads = app_files.Uploads(limit=100, keep=60, folder=tmp_path)
    for number in range(app_files.ROOM):
        (tmp_path / f"hash{number}").mkdir()
        (tmp_path / f"hash{number}" / "a.wav").write_bytes(b"x" * 100)
        if number < 15:
            uploads.add(str(tmp_path / f"hash{number}" / "a.wav"), "me")  # the others are nobody's
    first = str(tmp_path / "hash0" / "a.wav")
    assert not uploads.reserve(1)
    uploads.tidy()
    assert len(list(tmp_path.iterdir())) == app_files.ROOM and uploads.may_see(first, "me")
    passed += 40
    assert uploads.may_use(first, "me") and not uploads.may_use(first, None)  # which keeps it
    passed += 30
    uploads.tidy()
    assert [file.parent.name for file in tmp_path.glob("*/*")] == ["hash0"] and uploads.may_use(first, "me")
    passed += 70
    uploads.tidy()
    assert not list(tmp_path.glob("*/*")) and uploads.reserve(2_000) and not uploads.may_see(first, "me")
    passed += 140  # folders count from when they were emptied
    uploads.tidy()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_was_sent_is_removed_by_a_running_page(root):
    with served(page_of(root, keep=0.3)) as url:
        path = Path(send(url, film_of(root, "clock")).json()[0])  # which no other page has
        assert path.is_relative_to(app_files.uploads_folder()) and path.exists()
        deadline = time.monotonic() + 5
        while path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not path.exists()
        assert "it was kept for 0.3 seconds: send it again" in searched(url, str(path))


def test_the_cookie_is_for_frames_where_the_page_is_secure(url):
    plain = httpx.get(url).headers["set-cookie"]
    secure = httpx.get(url, headers={"X-Forwarded-Proto": "https"}).headers["set-cookie"]
    assert "HttpOnly" in plain and "SameSite=Lax" in plain and "Secure" not in plain
    assert secure.endswith("SameSite=None; Secure; Partitioned")


@pytest.mark.parametrize(
    "route", ["monitoring", "gradio_api/deep_link", "gradio_api/process_recording", "docs", "openapi.json"]
)
def test_routes_that_the_page_does_not_need_are_not_there(url, route):
    assert httpx.get(f"{url}/{route}").status_code == httpx.post(f"{url}/{route}").status_code == 404


def test_names_that_came_with_the_data_are_never_html(root, catalogue):
    answer = catalogue.search(Asked("audio", clip_id="drum/drum-0000.mp4"), Wish(k=20))
    hits = app_results.pick_examples(catalogue, None)
    pages = [app_results.results_html(catalogue, answer), app_results.examples_html(catalogue, hits)]
    pages += [about_html([catalogue], 60), model_html(catalogue), app_results.error_html(EVIL)]
    assert hits[0].labels == (EVIL,)
    for page in pages:
        assert "<img" not in page and "<b>.mp4" not in page
    assert "&lt;img src=x onerror=&quot;" in pages[0] and "film&quot; &amp; more &lt;b&gt;.mp4" in pages[0]
    assert 'title="bird/it&#x27;s a &quot;film&quot;' in pages[0] and QUOTED in json.dumps(map_of(catalogue)).replace(
        '\\"', '"'
    )


def test_players_start_at_the_second_of_the_clip_and_sounds_have_their_own(catalogue):
    answer = catalogue.search(Asked("audio", clip_id="drum/drum-0000.mp4"), Wish(k=1))
    assert re.search(
        r'<video playsinline controls preload="none" src="clip/0/[\w-]+#t=0.1,0.4"',
        app_results.results_html(catalogue, answer),
    )
    assert app_results.player_html("clip/0/x", "bark.wav").startswith("<audio controls")
    assert "is not here" in app_results.player_html(None, "bark.wav")


def test_examples_are_clips_of_different_labels_whose_films_are_there(catalogue, root):
    hits = app_results.pick_examples(catalogue, None)
    assert len(hits) == 6 == len({hit.labels for hit in hits}) and all(map(catalogue.url, hits))
    assert [hit.clip_id for hit in app_results.pick_examples(catalogue, ["rain/rain-0000.mp4", "gone"])] == [
        "rain/rain-0000.mp4"
    ]
    without = catalogues_of([open_tiny(root)], LIMITS)[0]
    without.index.films = None
    assert app_results.pick_examples(without, None) == []


def test_the_plane_is_that_of_the_largest_variance():
    rows = np.random.default_rng(0).standard_normal((60, 5)) * [1, 5, 2, 0.1, 3] + 7
    plane = fit_plane(np.concatenate([rows, np.full((2, 5), np.nan)]))
    _, singular, axes = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    assert np.allclose(np.abs(plane.place(rows)), np.abs((rows - rows.mean(axis=0)) @ axes[:2].T))
    assert np.allclose(plane.shares, (singular**2 / (singular**2).sum())[:2])
    assert np.abs(plane.axes).argmax(axis=0).tolist() == [1, 4] and (plane.axes.max(axis=0) > 0.9).all()
    for few in (np.full((3, 2), np.nan), np.ones((4, 1)), np.ones((1, 3))):
        assert np.isfinite(fit_plane(few).place(np.ones((1, few.shape[1])))).all() and fit_plane(few).shares == (
            0.0,
            0.0,
        )


def test_the_map_has_both_tracks_of_every_clip_and_marks_the_query(catalogue):
    drawn = map_of(catalogue)
    _, embeds = catalogue.sample
    assert len(drawn["clips"]) == drawn["of"] == 13 and drawn["legend"][0] == [EVIL, 0]
    by_id = {clip["id"]: clip for clip in drawn["clips"]}
    row = [hit.clip_id for hit in catalogue.sample[0]].index("rain/rain-0000.mp4")
    for name in ("audio", "visual"):
        assert np.allclose(by_id["rain/rain-0000.mp4"][name], catalogue.plane.place(embeds[name][row]), atol=1e-5)
    assert by_id["rain/rain-0000.mp4"]["when"] == "0:00.1–0:00.4"
    assert by_id["out"]["visual"] is None and by_id["out"]["url"] is None
    marks = marks_of(catalogue, catalogue.search(Asked("visual", clip_id="rain/rain-0000.mp4"), Wish(k=2)))
    assert [marks["query"]["x"], marks["query"]["y"]] == by_id["rain/rain-0000.mp4"]["visual"]
    assert marks["among"] == "audio" and len(marks["found"]) == 2


def test_the_map_is_had_by_its_number(url):
    assert len(httpx.get(f"{url}/map/0").json()["clips"]) == 13 and httpx.get(f"{url}/map/9").status_code == 404


@pytest.mark.parametrize("name", ["a", "../up", "ä/ø%2F?#.mp4", "x" * 500])
def test_any_name_of_a_clip_can_be_part_of_an_address(name):
    assert clip_of(token(name)) == name and re.fullmatch(r"[\w-]+", token(name))


@pytest.mark.parametrize("text", ["%", "a", "ä", "AA==", "====", "_w"])
def test_what_is_no_name_of_a_clip_is_none(text):
    assert clip_of(text) is None


def test_every_path_in_a_request_counts_wherever_it_stands():
    body = {"data": [[{"a": {"path": "/x"}}], {"path": "y", "deeper": [{"path": 3}]}, {"path": None}], "path": "z"}
    assert sorted(app_gate.files_in(json.dumps(body).encode())) == ["/x", "3", "y", "z"]
    assert list(app_gate.files_in(b"")) == []


@pytest.mark.slow
def test_the_model_s_table_and_curves_are_those_of_its_run(root, tmp_path, catalogue):
    metrics = {
        "map": 0.5,
        "gallery": 30,
        **{
            way: {
                "map": value,
                "queries": 30,
                "per_class": {"dog": {"map": value, "queries": 30}},
                "precision_scope": {"10": 0.5, "20": 0.25},
            }
            for way, value in (("audio_to_visual", 0.375), ("visual_to_audio", 0.625))
        },
    }
    result = {"format": 1, "model": {"id": "m", "model_type": "dualspace", "fingerprint": "f", "parameters": 1}}
    data = {"id": "toy<u>data", "config": None, "split": "test", "fingerprint": "0" * 16, "queries": 30, "classes": 2}
    result |= {
        "data": data | {"synthetic": True},
        "metrics": metrics,
        "seed": 0,
        "recipe": None,
        "command": "c",
        "date": "d",
    }
    result |= {
        "seconds": {"training": 1.0, "embedding": 1.0, "scoring": 1.0},
        "environment": {"versions": {"torch": "2"}, "device": "cpu", "processes": 1},
    }
    result |= {"options": {"chosen_on": None, "refit": False, "legacy_prefix_average": False}}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "test.json").write_text(json.dumps(result))
    shutil.copytree(root / "model", tmp_path / "model")
    lines = [{"epoch": epoch, "loss": 3 - epoch, "terms": {"correlation": -epoch}} for epoch in (1, 2)]
    (tmp_path / "history.jsonl").write_text("\n".join(map(json.dumps, lines)))
    page = model_html(catalogue, [tmp_path])
    assert all(word in page for word in ("0.3750", "0.6250", "0.5000", "toy&lt;u&gt;data, test (synthetic)"))
    assert page.count("<svg") >= 3 and "var(--series-0)" in page and "<style" not in page
    assert "Training: " in page and "dualspace evaluate" in model_html(catalogue)
    with open_tiny(root, model=str(tmp_path / "model")) as moved:  # its run is where the model is now
        assert "toy&lt;u&gt;data" in model_html(catalogues_of([moved], LIMITS)[0])
    (tmp_path / "results" / "test.json").write_text("no json")
    assert "cannot be read" in model_html(catalogue, [tmp_path])


def test_a_page_needs_an_index_and_a_limit(root):
    with pytest.raises(ValueError, match="searches an index"):
        build_app([])
    with pytest.raises(ValueError, match="size has a limit"):
        build_app([open_tiny(root)], limits=Limits(bytes=None))


@pytest.mark.slow
def test_indexes_of_one_page_are_chosen_by_name(root, tmp_path):
    with open_tiny(root) as index:
        index.save(tmp_path / "index")
    pair = catalogues_of([open_tiny(root), open_tiny(root)], LIMITS)
    assert pair[1].name == f"{pair[0].name} (2)"
    with served(build_app([one.index for one in pair])) as url:
        client = Client(url, verbose=False)
        found = client.predict("drum/drum-0000.mp4", k=1, model=pair[1].name, api_name="/search_by_clip")
        assert found[0]["url"].startswith("clip/1/") and httpx.get(f"{url}/{found[0]['url']}").status_code == 200


def test_an_empty_index_has_a_page_too(root, tmp_path):
    with create_index(tmp_path / "index", str(root / "model")) as index:
        assert build_app([index])
        catalogue = catalogues_of([index], LIMITS)[0]
        assert map_of(catalogue)["clips"] == [] == app_results.pick_examples(catalogue, None)
        assert catalogue.search(Asked("audio", film_of(root)), Wish()).note.startswith("No clip here has pictures")


def test_nothing_the_page_says_of_itself_names_a_place_of_this_machine(root, url):
    said = [httpx.get(f"{url}/{path}").text for path in ("", "config", "gradio_api/info", "map/0", "clip/0/x")]
    known = [str(root.parent), str(app_files.uploads_folder()), str(Path(app_gate.__file__).parent)]
    linked = str(root / "secret.mp4")  # which is in the index
    assert not [place for text in said for place in known if place in text.replace(linked, "")]


def test_without_the_model_clips_are_searched_with_and_files_are_not(root, tmp_path, caplog):
    shutil.copytree(root / "index", tmp_path / "index")
    with open_index(tmp_path / "index", films=root / "films", model=str(tmp_path / "gone")) as index:
        catalogue = catalogues_of([index], LIMITS)[0]
        assert catalogue.search(Asked("audio", clip_id="rain/rain-0000.mp4"), Wish()).hits
        with pytest.raises(RefusedError, match="cannot be searched with here just now") as caught:
            catalogue.search(Asked("audio", film_of(root)), Wish())
    assert str(tmp_path) not in str(caught.value) and "gone" in caplog.text


def test_a_label_that_came_since_can_be_asked_for(root, tmp_path):
    shutil.copytree(root / "index", tmp_path / "index")
    with open_index(tmp_path / "index", films=root / "films") as index:
        catalogue = catalogues_of([index], LIMITS)[0]
        index.add(["new"], index.sample()[1][:1], None, made_by=index.identity.fingerprint, labels=[["new"]])
        hits = catalogue.search(Asked("audio", clip_id="rain/rain-0000.mp4"), Wish(among="audio", labels=["new"])).hits
        assert [hit.clip_id for hit in hits] == ["new"]
