"""What a stranger does with something released: loads it by its public call, and looks whether its card is right.

Run as a script, in a process and a cache of its own (`verification.verify`), with the name of a file of jobs. First
come those steps for which this package is not imported, then those for which it is: what the card says of either is
tried.
"""

import ast
import importlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

PACKAGE = "modeling_dualspace"
CLOSE = 2e-4
"""Figures are written with four digits or more; float32 towers on another processor differ in the last of seven digits,
a MAP by the neighbours that then swap."""
STARTS = 300.0
"""Seconds that a page may take until it answers."""
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def main(path: str) -> None:
    """Does the jobs in a file, and writes what is wrong with each into it."""
    jobs = json.loads(Path(path).read_text(encoding="utf-8"))
    for with_package in (False, True):
        if with_package:
            importlib.import_module(PACKAGE)
        for job in jobs:
            for step in (STEPS if with_package else STEPS_BEFORE).get(job["kind"], [_unknown]):
                if job["problems"]:
                    break
                free = PACKAGE not in sys.modules
                _do(step, job)
                if free and PACKAGE in sys.modules and not with_package:
                    job["problems"].append("its code needs this package, and should stand alone")
            job["finished"] = with_package
    Path(path).write_text(json.dumps(jobs), encoding="utf-8")


def _do(step: Any, job: dict[str, Any]) -> None:
    try:
        with redirect_stdout(io.StringIO()):
            for line in step(job):
                job["done"].append(line)
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        job["problems"].append(text if text and not isinstance(error, SystemExit) else type(error).__name__)


def _unknown(job: dict[str, Any]) -> Iterator[str]:
    """Of what nobody said how to try it."""
    raise RuntimeError(f"nobody said how a {job['kind']} is tried: add it to the steps of {Path(__file__).name}")
    yield


def _card(job: dict[str, Any]) -> Any:
    from huggingface_hub import ModelCard, RepoCard

    card = ModelCard if job["repo_type"] == "model" else RepoCard
    return card(_file(job, "README.md").read_text(encoding="utf-8"))


def _file(job: dict[str, Any], name: str) -> Path:
    """A file of what is looked at, of the very commit that was pushed."""
    from huggingface_hub import hf_hub_download

    if job["revision"] is None:
        return Path(job["where"], name)
    return Path(hf_hub_download(job["where"], name, repo_type=job["repo_type"], revision=job["revision"]))


def _is_latest(job: dict[str, Any]) -> bool:
    """Whether what the card's own words load is what was pushed, and not somebody's commit since."""
    from huggingface_hub import HfApi

    if job["revision"] is None:
        return True
    return job["revision"] == HfApi().repo_info(job["where"], repo_type=job["repo_type"]).sha


def _blocks(job: dict[str, Any], with_package: bool) -> Iterator[str]:
    """The Python of the card, as it stands there, on whatever is looked at."""
    if not _is_latest(job):
        yield "somebody has committed since: the Python in its card would load that, and is not run"
        return
    for number, block in enumerate(BLOCK.findall(_card(job).text), start=1):
        if (PACKAGE in block) is not with_package:
            continue
        code = block.replace(f'"{job["repo_id"]}"', repr(job["where"]))
        try:
            exec(compile(code, f"block {number} of the card", "exec"), {"__name__": "card"})
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise RuntimeError(f"block {number} of the Python in its card does not run: {reason}") from error
        yield f"block {number} of the Python in its card runs"


def blocks_without_package(job: dict[str, Any]) -> Iterator[str]:
    """Those that do not import this package."""
    yield from _blocks(job, with_package=False)


def blocks_with_package(job: dict[str, Any]) -> Iterator[str]:
    """The others."""
    yield from _blocks(job, with_package=True)


def data_blocks(job: dict[str, Any]) -> Iterator[str]:
    """What the card of a data set loads, one by one: its Python may be anybody's, and is not run."""
    from datasets import load_dataset

    for number, block in enumerate(BLOCK.findall(_card(job).text), start=1):
        try:
            nodes = list(ast.walk(ast.parse(block)))
        except SyntaxError as error:
            raise RuntimeError(f"block {number} of the Python in its card is none: {error}") from None
        for call in (node for node in nodes if isinstance(node, ast.Call)):
            words = [ast.literal_eval(word) for word in call.args] if ast.unparse(call.func) == "load_dataset" else []
            if words[:1] == [job["repo_id"]]:
                more = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
                load_dataset(job["where"], *words[1:], **{"revision": job["revision"], **more})
                yield f"{ast.unparse(call)} of its card loads"


def _check_embeds(model: Any, record: dict[str, Any], how: str) -> str:
    import torch

    for name in ("audio", "visual"):
        width = getattr(model.config, f"{name}_dim")
        with torch.no_grad():
            found = getattr(model, f"get_{name}_embeds")(torch.linspace(-1, 1, 2 * width).reshape(2, width))
        expected = torch.tensor(record["check"][name], dtype=torch.float64)
        off = (found[:, : expected.shape[1]].double() - expected).abs().max().item()
        if not off <= CLOSE:
            raise RuntimeError(f"loaded {how}, its {name} embeddings are {off:.2g} off those in its card")
    return f"loaded {how}, its embeddings are those in its card"


def model_by_remote_code(job: dict[str, Any]) -> Iterator[str]:
    """The code that comes with a model, where any does."""
    from transformers import AutoConfig, AutoModel

    card = _card(job)
    declared = "auto_map" in json.loads(_file(job, "config.json").read_text(encoding="utf-8"))
    if not declared:
        return
    where = {"revision": job["revision"], "trust_remote_code": True}
    AutoConfig.from_pretrained(job["where"], **where)
    model = AutoModel.from_pretrained(job["where"], **where).eval()
    yield _check_embeds(model, card.data["dualspace"], "with trust_remote_code and without this package")


def _processor(job: dict[str, Any], **trust: Any) -> Iterator[str]:
    """The processor, where one is declared: what it makes of a sound and a picture that a formula makes."""
    if not _declares(job, "processor_config.json"):
        return
    import numpy as np
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(job["where"], revision=job["revision"], **trust)
    sound = np.sin(np.arange(16_000) ** 1.5 / 5_000).astype(np.float32)
    picture = (np.arange(64 * 64 * 3) * 7 % 256).astype(np.uint8).reshape(64, 64, 3)
    made = processor(audio=sound, sampling_rate=16_000, images=picture)
    for name, expected in _card(job).data["dualspace"]["check"]["features"].items():
        found = made[f"{name}_features"][0, : len(expected)].double().numpy()
        if not np.allclose(found, expected, rtol=CLOSE, atol=CLOSE):
            raise RuntimeError(f"its processor makes {name} features {found.tolist()}, and its card says {expected}")
    yield f"its processor makes the features in its card ({made['feature_spec']})"


def _declares(job: dict[str, Any], name: str) -> bool:
    """Whether what is looked at has a file."""
    from huggingface_hub import HfApi

    if job["revision"] is None:
        return Path(job["where"], name).is_file()
    return HfApi().file_exists(job["where"], name, repo_type=job["repo_type"], revision=job["revision"])


def processor_by_remote_code(job: dict[str, Any]) -> Iterator[str]:
    """By the code that comes with it."""
    if "auto_map" in json.loads(_file(job, "config.json").read_text(encoding="utf-8")):
        yield from _processor(job, trust_remote_code=True)


def _check_pipeline(job: dict[str, Any], *task: str, **trust: Any) -> Iterator[str]:
    """The pipeline, on the features whose embeddings the card says."""
    import torch
    from transformers import pipeline

    of_transformers: Any = pipeline  # declared task by task, and this one is none of theirs
    made = of_transformers(*task, model=job["where"], revision=job["revision"], device="cpu", **trust)
    check = _card(job).data["dualspace"]["check"]
    for name in ("audio", "visual"):
        width = getattr(made.model.config, f"{name}_dim")
        found = made(**{f"{name}_features": torch.linspace(-1, 1, 2 * width).reshape(2, width)})
        for row, expected in zip(found, check[name], strict=True):
            off = max(abs(float(one) - other) for one, other in zip(row[f"{name}_embeds"], expected, strict=False))
            if not off <= CLOSE:
                raise RuntimeError(f"its pipeline's {name} embeddings are {off:.2g} off those in its card")
    yield f"its pipeline ({made.task}) gives the embeddings in its card"


def pipeline_by_remote_code(job: dict[str, Any]) -> Iterator[str]:
    """By the code that comes with a model, where it names any."""
    config = json.loads(_file(job, "config.json").read_text(encoding="utf-8"))
    if "auto_map" in config and "custom_pipelines" in config:
        yield from _check_pipeline(job, trust_remote_code=True)


def pipeline_by_package(job: dict[str, Any]) -> Iterator[str]:
    """By the code of this package, which every system has."""
    yield from _check_pipeline(job, "audio-visual-retrieval")


def processor_by_package(job: dict[str, Any]) -> Iterator[str]:
    """By the code of this package."""
    yield from _processor(job)


def model_by_package(job: dict[str, Any]) -> Iterator[str]:
    """The code of this package, and everything that was measured."""
    from transformers import AutoModel

    fingerprint = importlib.import_module(f"{PACKAGE}.files").model_fingerprint
    card = _card(job)
    record = card.data["dualspace"]
    model = AutoModel.from_pretrained(job["where"], revision=job["revision"]).eval()
    yield _check_embeds(model, record, "with this package")
    if fingerprint(model) != record["fingerprint"]:
        raise RuntimeError(
            f"its weights have the fingerprint {fingerprint(model)}, and its card says {record['fingerprint']}"
        )
    if not card.data.eval_results:
        raise RuntimeError("its card has no `model-index`, and so no figure that could be measured again")
    yield from _check_figures(model, card.data.eval_results, job["places"])


def _check_figures(model: Any, entries: list[Any], places: dict[str, str]) -> Iterator[str]:
    """Every figure of `model-index`, measured again."""
    loading, evaluation, results = (
        importlib.import_module(f"{PACKAGE}.{name}") for name in ("loading", "evaluation", "results")
    )
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for entry in entries:
        groups.setdefault((entry.dataset_args["fingerprint"], entry.dataset_config, entry.dataset_split), []).append(
            entry
        )
    for (fingerprint, config, split), group in groups.items():
        if fingerprint not in places:
            raise RuntimeError(
                f"the data set with fingerprint {fingerprint} is not at hand, so its figures cannot be measured again"
            )
        data = {"fingerprint": fingerprint, "config": config}
        _, clips = loading.find_split(data, split, [places[fingerprint]])
        found = results.headline(evaluation.evaluate_model(model, clips)["metrics"])
        for entry in group:
            value = found[entry.metric_type][1]
            if not abs(value - entry.metric_value) <= CLOSE:
                raise RuntimeError(
                    f"{entry.metric_name} on {split} is {value:.6f}, and its card says {entry.metric_value}"
                )
        names = "; ".join(f"{entry.metric_name} {found[entry.metric_type][1]:.4f}" for entry in group)
        place = places[fingerprint]
        shown = Path(place).name if Path(place).exists() else place
        yield f"measured again on {split} of {shown}, it reaches what its card says: {names}"


def data_by_load_dataset(job: dict[str, Any]) -> Iterator[str]:
    """Every configuration, whole and streaming; whether all rows are there, `datasets` itself looks."""
    from datasets import get_dataset_config_names, load_dataset

    at = {"revision": job["revision"]}
    for name in get_dataset_config_names(job["where"], **at):
        whole, stream = load_dataset(job["where"], name, **at), load_dataset(job["where"], name, streaming=True, **at)
        for split, rows in whole.items():
            if len(rows) and next(iter(stream[split])) != rows[0]:
                raise RuntimeError(f"streaming, the first row of {split} is another than when it is loaded whole")
        sizes = ", ".join(f"{split} {len(rows):,}" for split, rows in whole.items())
        yield f"load_dataset gives configuration {name}, whole and streaming: {sizes}"


def data_by_package(job: dict[str, Any]) -> Iterator[str]:
    """The fingerprint, found anew."""
    from datasets import get_dataset_config_names, load_dataset

    fingerprint = importlib.import_module(f"{PACKAGE}.feature_dataset").dataset_fingerprint
    parse = importlib.import_module(f"{PACKAGE}.feature_schema").Description.parse
    at = {"revision": job["revision"]}
    for name in get_dataset_config_names(job["where"], **at):
        whole = load_dataset(job["where"], name, **at)
        description = parse(next(iter(whole.values())).info.description)
        if description is None:
            raise RuntimeError(f"the card of configuration {name} says no fingerprint")
        said, found = description.fingerprint, fingerprint(dict(whole))
        if said != found:
            raise RuntimeError(
                f"the rows of configuration {name} have the fingerprint {found}, and its card says {said}"
            )
        yield f"the rows of configuration {name} have the fingerprint in its card, {said}"


CLIPS = {
    "audio_embeds": [[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]],
    "visual_embeds": [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]],
    "labels": [0, 1, 0],
}


def metric_by_load(job: dict[str, Any]) -> Iterator[str]:
    """`evaluate.load`, without this package."""
    import evaluate

    job["computed"] = evaluate.load(job["where"], revision=job["revision"]).compute(**CLIPS)
    yield "evaluate.load gives the metric"


def metric_by_package(job: dict[str, Any]) -> Iterator[str]:
    """The same figures as those of this package."""
    import numpy as np

    scores = importlib.import_module(f"{PACKAGE}.retrieval_scores").retrieval_scores
    found = scores(*(np.asarray(CLIPS[name]) for name in CLIPS))
    expected = {"map": found["map"]} | {name: found[name]["map"] for name in ("audio_to_visual", "visual_to_audio")}
    for name, value in expected.items():
        computed = job["computed"].get(name)
        if computed is None or not abs(computed - value) <= 1e-9:
            raise RuntimeError(f"it computes {name} {computed}, and this package {value}")
    yield "it computes what this package does"


def index_by_load_dataset(job: dict[str, Any]) -> Iterator[str]:
    """As the data set that it is."""
    from datasets import load_dataset

    rows = load_dataset(job["where"], split="train", revision=job["revision"])
    yield f"load_dataset gives its {len(rows):,} rows"


def index_by_package(job: dict[str, Any]) -> Iterator[str]:
    """Opened, and searched with one of its own embeddings."""
    opened = importlib.import_module(f"{PACKAGE}.index").open_index
    folder = _snapshot(job)
    with opened(folder) as index:
        hits, audio, visual = index.sample(1)
        for name, rows in (("audio", audio), ("visual", visual)):
            if len(hits) and not (rows != rows).any():
                found = index.search_embeds(rows, among=name, made_by=index.identity.fingerprint, k=1)[0][0]
                if found.score < 1 - CLOSE:
                    raise RuntimeError(f"the nearest clip to {hits[0].clip_id} itself has a cosine of {found.score}")
        yield f"it opens, and finds among {len(index):,} clips"


def _snapshot(job: dict[str, Any]) -> Path:
    """All files of what is looked at."""
    from huggingface_hub import snapshot_download

    if job["revision"] is None:
        return Path(job["where"])
    # Files, as a Space has them, where the cache has links.
    name = f"{job['repo_type']}-{job['repo_id'].replace('/', '-')}"
    settings = {"repo_type": job["repo_type"], "revision": job["revision"], "local_dir": Path.cwd() / name}
    return Path(snapshot_download(job["where"], **settings))


def page_by_starting(job: dict[str, Any]) -> Iterator[str]:
    """Started by the code that comes with it, and asked as a program asks it."""
    import socket
    import subprocess
    import tempfile
    import time

    from gradio_client import Client

    folder = _snapshot(job)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name not in ("SPACE_ID", "PYTHONPATH")}
    environment |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    with tempfile.TemporaryFile() as said:
        command = [sys.executable, "app.py"]
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=subprocess.STDOUT)
        try:
            until, client = time.monotonic() + STARTS, None
            while client is None:
                try:
                    client = Client(f"http://127.0.0.1:{port}/", verbose=False)
                except Exception:
                    if process.poll() is not None or time.monotonic() > until:
                        said.seek(0)
                        last = (said.read().decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
                        reason = re.sub(r"^[\w.]*(Error|Exception): ", "", last)
                        raise RuntimeError(f"it does not start: {reason}") from None
                    time.sleep(0.5)
            about = client.predict(api_name="/describe")
        finally:
            process.terminate()
            process.wait(20)
    yield f"it starts, and has {about['clips']:,} clips to search"


STEPS_BEFORE = {
    "model": [blocks_without_package, model_by_remote_code, processor_by_remote_code, pipeline_by_remote_code],
    "data set": [data_blocks, data_by_load_dataset],
    "metric": [blocks_without_package, metric_by_load],
    "index": [index_by_load_dataset],
    "page": [page_by_starting],
}
"""Without this package."""
STEPS = {
    "model": [blocks_with_package, processor_by_package, model_by_package, pipeline_by_package],
    "data set": [data_by_package],
    "metric": [blocks_with_package, metric_by_package],
    "index": [index_by_package],
    "page": [],
}
"""With it."""

if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a stream of `datasets` that is left early can hang the end of a process
