"""What stops a release, each by a sentence: no licence, an empty field, a picture of nothing, a secret anywhere."""

import gzip
import json
import os
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from modeling_dualspace import release_secrets
from modeling_dualspace.release_checks import check
from modeling_dualspace.staging import Staged

CARD = "---\nlicense: mit\n---\n# Toy\n\nProse.\n"
# In parts, so that nobody who looks for secrets in this repository finds them.
LETTERS = "aB3dE6gH9jK2mN5pQ8rS1tU4vW7xY0zA4cF8hL"
SECRETS = {
    "a Hugging Face token": "hf" + f"_{LETTERS[:34]}",
    "a GitHub token": "ghp" + f"_{LETTERS[:36]}",
    "an AWS key": "AKIA" + "IOSFODNN7EXAMPLE",
    "a Google key": "AIza" + LETTERS[:35],
    "an API key": "sk" + f"-{LETTERS[:32]}",
    "a Slack token": "xoxb" + f"-{LETTERS[:20]}",
    "a private key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
    "a password in an address": "https://me:" + "correcthorse@example.org/x",
}
TOKEN = SECRETS["a Hugging Face token"]


@pytest.fixture(autouse=True)
def _no_secrets_of_whoever_runs_this(monkeypatch):
    for name in [name for name in os.environ if release_secrets.WORDS & set(name.upper().split("_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(release_secrets, "get_token", lambda: None)


@pytest.fixture
def staged(tmp_path):
    """`staged({name: content}, card, ...)`: a repository of these files."""

    def of(files=None, card=CARD, **settings):
        for name, content in {"README.md": card, **(files or {})}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return Staged("model", settings.pop("repo_id", "me/toy"), "model", tmp_path, **settings)

    return of


def body(text):
    return f"---\nlicense: mit\n---\n{text}\n"


def stopped_by(one):
    """The one sentence that stops it."""
    found = check(one)
    assert len(found) == 1, found
    assert found[0].endswith(".") and "\n" not in found[0]
    return found[0]


def test_what_is_in_order_passes_and_nothing_is_noted(staged):
    one = staged({"config.json": "{}", "figures/x.png": b"\x89PNG", ".made-by-dualspace": "2 config.json\n"})
    assert (check(one), one.notes) == ([], [])


# Licence


@pytest.mark.parametrize(
    "card", ["# no metadata", "---\ntags: []\n---\n", "---\nlicense:\n---\n", "---\nlicense: []\n---\n",
             "---\nlicense: ''\n---\n"],
)  # fmt: skip
def test_no_licence_stops_it_public_or_private(staged, card):
    for private in (False, True):
        text = stopped_by(staged(card=card, private=private))
        assert text.startswith("No licence") and "--license apache-2.0" in text


@pytest.mark.parametrize("license_", ["unknown", "[unknown]", "\n- unknown"])
def test_an_unknown_licence_stops_what_is_public_and_nothing_that_is_private(staged, license_):
    card = f"---\nlicense: {license_}\n---\nx\n"
    text = stopped_by(staged(card=card))
    assert "Nobody said" in text and "--private" in text and "DataCard(license=...)" in text
    assert check(staged(card=card, private=True)) == []


@pytest.mark.parametrize("license_", ["[mit, unknown]", "Unknown"])
def test_a_licence_is_unknown_however_it_is_written(staged, license_):
    assert "Nobody said" in stopped_by(staged(card=f"---\nlicense: {license_}\n---\nx\n"))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"---\nlicense: mit\n---\n\xff"])
def test_a_card_that_is_no_text_stops_it(staged, content):
    assert "cannot be read" in stopped_by(staged(card=content))


def test_no_card_at_all_stops_it(staged):
    one = staged()
    (one.folder / "README.md").unlink()
    assert "cannot be read" in stopped_by(one)


@pytest.mark.parametrize("yaml", ["license: a: b", "license: [", "license: mit\n\ttags: x", "license: @x"])
def test_metadata_that_are_no_yaml_stop_it_with_a_sentence(staged, yaml):
    assert "cannot be read" in stopped_by(staged(card=f"---\n{yaml}\n---\nx\n"))


def test_a_synthetic_card_that_is_no_text_stops_it_with_sentences(staged):
    one = staged(card=b"---\nlicense: mit\n---\n\xff", synthetic=True, repo_id="me/toy-synthetic")
    assert any("cannot be read" in line for line in check(one))


# Fields


@pytest.mark.parametrize(
    "text",
    ["On {{ data }} it", "{% if x %}", "x }} y", "%}", "[More Information Needed]", "TODO", "FIXME: x"],
)  # fmt: skip
def test_a_field_that_is_not_filled_stops_it_and_the_line_is_shown(staged, text):
    said = stopped_by(staged(card=body(f"Before.\n\n{text}\n\nAfter.")))
    assert said.startswith("A field of its card is not filled: ") and text in said


@pytest.mark.parametrize(
    "text",
    ["None of these clips", "nan values were left out", "{x}", "Undefined behaviour",
     "TODOS los gatos", "| None of them | 1 |", "| banana | 1 |", "50 %", "```python\nf'{{x}}' # TODO\n```",
     "```yaml\na: {b: {c: 1}}\n```\n\ntext\n\n```bibtex\ntitle = {{DualSpace}}\n```"],
)  # fmt: skip
def test_prose_code_and_bibtex_are_no_empty_fields(staged, text):
    assert check(staged(card=body(text))) == []


@pytest.mark.parametrize("name", ["None", "nan"])
def test_a_class_may_be_called_like_nothing(staged, name):
    table = f"| class | audio to visual | visual to audio | queries |\n|---|---:|---:|---:|\n| {name} | 0.5 | 0.5 | 4 |"
    assert check(staged(card=body(table))) == []


def test_a_field_of_the_metadata_that_is_not_filled_stops_it(staged):
    assert "{{" in stopped_by(staged(card='---\nlicense: mit\npretty_name: "{{ title }}"\n---\nx\n'))


@pytest.mark.parametrize("text", ["~~~\nf'{{x}}'\n~~~", "````md\n```\n{{ x }}\n```\n````", "Write `{{ x }}` there."])
def test_other_fences_and_code_in_a_line_are_code_too(staged, text):
    assert check(staged(card=body(text))) == []


# Pictures


@pytest.mark.parametrize(
    "text",
    ["![MAP](figures/map.png)", '![MAP](figures/map.png "title")', "see [it](figures/map.png)", "![](map.svg)",
     "![a](here.png) ![b](figures/map.png)"],
)  # fmt: skip
def test_a_picture_that_no_file_has_stops_it(staged, text):
    said = stopped_by(staged({"here.png": b"x"}, card=body(text)))
    assert "no such file" in said and "map." in said


@pytest.mark.parametrize(
    "text",
    ["![MAP](figures/map.png)", '![MAP](./figures/map.png "title")', "[a](https://x.org/a_(b)) [b](mailto:a@b.c)",
     "[top](#limits)", "[code](config.json#L1)", "```\n![x](nothing.png)\n```"],
)  # fmt: skip
def test_pictures_that_are_there_addresses_and_places_in_the_card_pass(staged, text):
    assert check(staged({"figures/map.png": b"x", "config.json": "{}"}, card=body(text))) == []


@pytest.mark.parametrize("way", ["absolute", "upwards"])
def test_a_picture_outside_the_repository_is_no_picture_of_it(staged, tmp_path_factory, way):
    outside = tmp_path_factory.mktemp("outside") / "map.png"
    outside.write_bytes(b"x")
    one = staged()
    target = outside if way == "absolute" else "../" * (len(one.folder.parts) - 1) + str(outside)[1:]
    one.folder.joinpath("README.md").write_text(body(f"![MAP]({target})"))
    assert "no such file" in stopped_by(one)


@pytest.mark.parametrize(
    "text", ['<img src="figures/map.png">', "<img alt='x' src='map.png' />", "![x][1]\n\n[1]: map.png"]
)
def test_a_picture_that_no_file_has_stops_it_in_html_and_by_reference_too(staged, text):
    assert "no such file" in stopped_by(staged(card=body(text)))


@pytest.mark.parametrize(
    "text", ["[the files](data)", "[its data](/datasets/me/toy)", "[x](HTTPS://x.org)", "[x](//x.org/y)",
             "![x](a%20b.png)", "![x](<a b.png>)", "Write `rows[0](x)`."],
)  # fmt: skip
def test_folders_places_on_the_hub_escapes_and_code_are_no_missing_pictures(staged, text):
    assert check(staged({"data/x": b"x", "a b.png": b"x"}, card=body(text))) == []


# Secrets


@pytest.mark.parametrize("what", SECRETS)
@pytest.mark.parametrize("name", ["README.md", "config.json", "modeling_toy.py", "data/notes.txt", "blob.safetensors"])
def test_a_secret_in_any_file_stops_it_and_is_not_repeated(staged, what, name):
    secret = SECRETS[what]
    files = {name: f"x = '{secret}'\n"} if name != "README.md" else {}
    text = stopped_by(staged(files, card=body(f"x {secret} y") if not files else CARD))
    assert text.startswith(f"{name} holds {what}: ") and "revoked" in text
    assert secret not in text and secret[8:] not in text


def test_a_secret_in_a_command_that_the_card_shows_stops_it(staged):
    text = stopped_by(staged(card=body(f"Printed by `HF_TOKEN={TOKEN} dualspace evaluate a b` on 2026-01-01.")))
    assert "README.md holds a Hugging Face token" in text


def test_a_secret_in_code_blocks_and_metadata_of_a_card_stops_it(staged):
    assert "a Hugging Face token" in stopped_by(staged(card=body(f'```python\nlogin("{TOKEN}")\n```')))
    assert "a Hugging Face token" in stopped_by(staged(card=f"---\nlicense: mit\nsecret: {TOKEN}\n---\nx\n"))


def test_a_secret_in_the_metadata_of_safetensors_stops_it(staged, tmp_path):
    one = staged()
    save_file({"w": np.zeros(3, dtype=np.float32)}, tmp_path / "model.safetensors", metadata={"by": TOKEN})
    assert "model.safetensors holds a Hugging Face token" in stopped_by(one)


def test_every_file_with_a_secret_is_told(staged):
    found = check(staged({"a.txt": TOKEN, "b/c.txt": SECRETS["an AWS key"], "d.txt": "nothing"}))
    assert [line.split(" holds ")[0] for line in found] == ["a.txt", "b/c.txt"]


def test_a_secret_that_two_pieces_of_a_file_share_is_found(staged, monkeypatch):
    chunk = 1 << 24
    content = bytearray(chunk + 100)
    content[chunk - 10 : chunk - 10 + len(TOKEN)] = TOKEN.encode()
    assert "large.bin.safetensors holds" in stopped_by(staged({"large.bin.safetensors": bytes(content)}))


def write_table(folder, columns, name="data/x.parquet", metadata=None):
    (folder / name).parent.mkdir(exist_ok=True)
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), folder / name, compression="gzip")


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()], ids=str)
def test_a_secret_in_the_compressed_texts_of_parquet_stops_it(staged, tmp_path, kind):
    one = staged()
    texts = [f"clip {number}" for number in range(3000)] + [None, f"clip 5 {TOKEN}"]
    write_table(tmp_path, {"n": list(range(3002)), "clip_id": pa.array(texts, kind)})
    assert TOKEN.encode() not in (tmp_path / "data" / "x.parquet").read_bytes()
    assert "data/x.parquet holds a Hugging Face token" in stopped_by(one)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([["a", f"x {TOKEN}"], []]),
        pa.array([{"path": f"https://x.org/?token={TOKEN}", "bytes": None}, None]),
        pa.array([f"x {TOKEN}".encode(), b""]),
        pa.array(["x", f"x {TOKEN}"]).dictionary_encode(),
        pa.array([[{"text": TOKEN}], []]),
    ],
    ids=["list", "struct", "binary", "dictionary", "list of structs"],
)
def test_a_secret_in_any_column_of_parquet_stops_it(staged, tmp_path, column):
    one = staged()
    write_table(tmp_path, {"column": column})
    assert "data/x.parquet holds a Hugging Face token" in stopped_by(one)


@pytest.mark.parametrize("place", ["metadata", "name"])
def test_a_secret_in_the_schema_of_parquet_stops_it(staged, tmp_path, place):
    one = staged()
    write_table(tmp_path, {TOKEN if place == "name" else "n": [1]}, metadata={"by": TOKEN} if place != "name" else None)
    assert "data/x.parquet holds a Hugging Face token" in stopped_by(one)


def test_a_secret_in_what_only_calls_itself_parquet_stops_it(staged):
    assert "x.parquet holds a Hugging Face token" in stopped_by(staged({"x.parquet": f"token: {TOKEN}"}))


@pytest.mark.parametrize("how", ["gzip", "utf-16"])
def test_a_secret_in_compressed_and_wide_text_stops_it(staged, how):
    content = gzip.compress(TOKEN.encode()) if how == "gzip" else TOKEN.encode("utf-16")
    assert "a Hugging Face token" in stopped_by(staged({"x.jsonl.gz" if how == "gzip" else "x.txt": content}))


@pytest.mark.parametrize(
    "secret",
    ["redis://:" + "correcthorse@host:6379/0", "HTTPS://me:" + "correcthorse@example.org", "glpat" + f"-{LETTERS[:20]}",
     "npm" + f"_{LETTERS[:36]}", "sk_live" + f"_{LETTERS[:24]}"],
    ids=["no name", "capitals", "GitLab", "npm", "Stripe"],
)  # fmt: skip
def test_further_secrets_stop_it(staged, secret):
    assert "holds" in stopped_by(staged({"x.txt": secret}))


def test_what_the_environment_and_the_login_keep_secret_stops_it_under_whatever_name(staged, monkeypatch):
    monkeypatch.setenv("MY_OWN_API_KEY", "correct horse battery")
    monkeypatch.setenv("MY_OWN_SECRET", "staple-staple-staple")
    monkeypatch.setattr(release_secrets, "get_token", lambda: "login-of-this-machine")
    for name, content in (("a.txt", "battery: correct horse battery"), ("b.json", '{"x": "staple-staple-staple"}')):
        text = stopped_by(staged({name: content}))
        assert f"{name} holds what an environment variable" in text and content not in text
        (staged().folder / name).unlink()
    assert "README.md holds" in stopped_by(staged(card=body("--token login-of-this-machine")))


def test_short_words_folders_and_other_variables_are_no_secrets_of_the_environment(staged, monkeypatch, tmp_path):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("PASSWORD_STORE", str(tmp_path))
    monkeypatch.setenv("FAVOURITE_WORD", "correct horse battery")
    assert check(staged({"a.txt": f"false {tmp_path} correct horse battery"})) == []


def test_a_token_longer_than_the_name_of_a_file_may_be_is_a_secret_like_others(staged, monkeypatch):
    token = "eyJ" + "".join(random.Random(0).choices(LETTERS, k=900))
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", token)  # as every job of GitHub Actions has that may log in
    assert check(staged()) == []
    assert "environment variable" in stopped_by(staged({"a.txt": token}))


@pytest.mark.parametrize("name", ["DB_PASSWORD_PROD", "OPENAI_API_KEY_2", "GOOGLE_CREDENTIALS_JSON", "SECRET_OF_MINE"])
def test_a_variable_is_secret_wherever_its_name_says_so(staged, monkeypatch, name):
    monkeypatch.setenv(name, "correct horse battery")
    assert "environment variable" in stopped_by(staged({"a.txt": "correct horse battery"}))


def test_the_name_of_a_tokenizer_is_no_secret(staged, monkeypatch):
    monkeypatch.setenv("TOKENIZER_NAME", "bert-base-uncased")
    assert check(staged({"a.txt": "made with bert-base-uncased"})) == []


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8080/a@b and https://x.org:443/@me and ssh://git@host:22/x and s3://bucket/x:y@z",
        "https://user:<password>@host and https://{user}:{password}@host and https://user:${TOKEN}@host",
        "me@example.org: hf_hub_download, hf_token, HF_TOKEN=hf_xxx, ghp_short, sk-learn, AKIA, AIza",
        "sha256 " + "0123456789abcdef" * 4 + " and da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "risk-adjusted-returns-of-several-task-agnostic-encoders, desk-and-disk-0123456789012345678901234567890",
        "BEGIN PUBLIC KEY; -----BEGIN PUBLIC KEY-----; -----BEGIN CERTIFICATE-----",
        "the password: none, the token: of a sentence, the secret of good retrieval",
    ],
)
def test_ordinary_text_is_no_secret(staged, text):
    assert check(staged({"a.txt": text}, card=body(text))) == []


@pytest.mark.parametrize(
    "text", ["git clone https://me:$HF_TOKEN@huggingface.co/x", "sk-learn-contrib-imbalanced-learn"]
)
def test_more_ordinary_text_is_no_secret(staged, text):
    assert check(staged({"a.txt": text})) == []


def test_random_weights_are_no_secret(staged, tmp_path):
    one = staged()
    generator = np.random.default_rng(0)
    save_file({"w": generator.standard_normal(400_000, dtype=np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(generator.bytes(1_500_000))
    letters = np.frombuffer(LETTERS.encode(), np.uint8)
    (tmp_path / "letters.txt").write_bytes(generator.choice(letters, 500_000).tobytes())
    assert (check(one), one.notes) == ([], [])


# Names of files


@pytest.mark.parametrize("name", [".env", ".netrc", "id_rsa", "deep/id_ed25519", "server.pem", "tls.key", "x.p12"])
def test_a_file_called_as_secrets_are_stops_it(staged, name):
    assert stopped_by(staged({name: "x"})).startswith(f"{name} is called as files with secrets are")


@pytest.mark.parametrize("name", [".gitignore", ".DS_Store", "deep/.hidden", ".cache/x"])
def test_a_hidden_file_stops_it(staged, name):
    assert stopped_by(staged({name: "x"})).startswith(f"{name} is hidden")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a/x.pt", "x.pth", "x.pkl", "x.pickle", "x.ckpt", "x.joblib"])
def test_a_pickle_stops_it_and_safetensors_are_named(staged, name):
    text = stopped_by(staged({name: b"\x80\x04."}))
    assert text.startswith(f"{name} is a pickle") and "safetensors" in text


@pytest.mark.parametrize(
    "name", ["keyboard.md", "keys.txt", "environment.yaml", "id_card.png", "monkey.py", "bin/x.txt"]
)
def test_files_called_a_little_like_those_pass(staged, name):
    assert check(staged({name: "x"})) == []


@pytest.mark.parametrize(
    "name", [".git/config", ".ipynb_checkpoints/a.ipynb", ".cache/huggingface/x", "data/.x/y/z.txt"]
)
def test_a_file_in_a_hidden_folder_stops_it(staged, name):
    assert "hidden" in stopped_by(staged({name: "x"}))


@pytest.mark.parametrize(
    "name", ["ID_RSA", "cert.PEM", "x.PT", "x.pkl.gz", "x.dill", "credentials.json", "secrets.yaml"]
)
def test_more_names_of_secrets_and_pickles_stop_it(staged, name):
    assert name in stopped_by(staged({name: "x"}))


# Folders of this machine


@pytest.mark.parametrize("path", ["/home/ann/runs/x", "/Users/ann/x", r"C:\Users\ann\x", "C:\\\\Users\\\\ann\\\\x"])
def test_folders_of_this_machine_are_noted_and_stop_nothing(staged, path):
    one = staged({"config.json": json.dumps({"p": 1}), "b/notes.txt": f"from {path} on"})
    assert check(one) == []
    assert len(one.notes) == 1 and one.notes[0].startswith("b/notes.txt names folders of this machine")
    assert "ann" not in one.notes[0]


def test_all_files_that_name_folders_are_in_one_note_and_a_secret_beside_a_folder_is_still_found(staged):
    one = staged({"a.txt": "/home/ann/x", "b.txt": "/home/bob/y", "c.txt": f"/home/ann/x {TOKEN}"})
    assert "c.txt holds" in stopped_by(one)
    assert len(one.notes) == 1 and "a.txt, b.txt names" in one.notes[0]


def test_the_home_of_this_person_is_noted_wherever_it_is(staged, monkeypatch, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    one = staged({"a.txt": f"{home}/runs", "b.txt": "/elsewhere/runs"})
    assert check(one) == [] and len(one.notes) == 1 and one.notes[0].startswith("a.txt names")


def test_paths_in_the_texts_of_parquet_are_noted(staged, tmp_path):
    one = staged()
    write_table(tmp_path, {"path": ["/home/ann/clips/1.mp4"]})
    assert check(one) == [] and "data/x.parquet names folders" in one.notes[0]


# Synthetic


SAID = body("**SYNTHETIC: made up.**\n\n# Toy")


def test_what_is_synthetic_says_so_in_its_name_and_in_its_first_lines(staged):
    assert check(staged(card=SAID, synthetic=True, repo_id="me/toy-Synthetic")) == []
    text = stopped_by(staged(card=SAID, synthetic=True))
    assert "call it me/toy-synthetic" in text
    text = stopped_by(staged(synthetic=True, repo_id="me/toy-synthetic"))
    assert "first line of its card" in text
    assert len(check(staged(synthetic=True))) == 2


def test_a_namespace_that_says_synthetic_is_no_name_and_a_word_further_down_no_first_line(staged):
    assert "name must say so" in stopped_by(staged(card=SAID, synthetic=True, repo_id="synthetic/toy"))
    below = body("# Toy\n\nOne.\n\nTwo.\n\nThree.\n\nSynthetic.")
    assert "first line" in stopped_by(staged(card=below, synthetic=True, repo_id="me/toy-synthetic"))
    in_metadata = "---\nlicense: mit\ntags:\n- synthetic\n---\n# Toy\n"
    assert "first line" in stopped_by(staged(card=in_metadata, synthetic=True, repo_id="me/toy-synthetic"))


def test_the_heading_alone_does_not_say_it(staged):
    one = staged(card=body("# toy-synthetic\n\nFinds video by sound."), synthetic=True, repo_id="me/toy-synthetic")
    assert "first line" in stopped_by(one)


def test_nothing_that_is_real_must_say_synthetic(staged):
    assert check(staged(repo_id="me/toy")) == []
