"""Looks at what is released, or is about to be, as a stranger would: in a fresh process, with an empty cache."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import constants, get_token

from .hub_faults import without_secrets
from .release_secrets import is_secret
from .staging import Staged

STRANGER = Path(__file__).with_name("stranger.py")
LIMIT = 3 * 3600
CACHES = re.compile(r"^(HF|HUGGING_?FACE|TRANSFORMERS)_.*(CACHE|HOME|OFFLINE|TOKEN|TOKEN_PATH)$|^XDG_CACHE_HOME$")
"""Variables by which a process would find what somebody downloaded before."""


def verify(staged: Sequence[Staged], *, commits: Mapping[str, str] | None = None) -> dict[str, list[str]]:
    """What was seen to be right, by repository; raises, saying what is not.

    Args:
        staged: what to look at.
        commits: of the repositories, to look at there; each is looked at in its folder otherwise.
    """
    jobs = [_job(one, staged, commits) for one in staged]
    with tempfile.TemporaryDirectory(prefix="dualspace-verify-", ignore_cleanup_errors=True) as home:
        file = Path(home, "jobs.json")
        file.write_text(json.dumps(jobs), encoding="utf-8")
        command = [sys.executable, "-P", str(STRANGER), str(file)]
        online = commits is not None or any(not Path(place).exists() for one in staged for place in one.places.values())
        environment = _environment(Path(home), online)
        try:
            done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"Looking at it took more than {LIMIT // 3600} hours, and was given up.") from None
        if done.returncode:
            last = without_secrets((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
            raise RuntimeError(f"The process that was to look at it ended with {done.returncode}: {last}")
        jobs = json.loads(file.read_text(encoding="utf-8"))
    for job in jobs:
        if not job["finished"] and not job["problems"]:
            job["problems"].append("nobody could look at it: the process ended before its time")
    wrong = [f"{job['repo_id']}: {'; '.join(job['problems'])}" for job in jobs if job["problems"]]
    if wrong:
        raise ValueError(without_secrets(" ".join(f"{line.rstrip('.')}." for line in wrong)))
    return {job["repo_id"]: job["done"] for job in jobs}


def _job(one: Staged, everything: Sequence[Staged], commits: Mapping[str, str] | None) -> dict[str, object]:
    places = {name: str(Path(place).resolve()) if Path(place).exists() else place for name, place in one.places.items()}
    for other in everything if commits is not None else ():
        places |= dict.fromkeys(set(other.fingerprints) & set(places), other.repo_id)
    return {
        "kind": one.kind,
        "repo_id": one.repo_id,
        "repo_type": one.repo_type,
        "where": one.repo_id if commits is not None else str(one.folder),
        "revision": commits[one.repo_id] if commits is not None else None,
        "places": places,
        "done": [],
        "finished": False,
        "problems": [],
    }


def _environment(home: Path, online: bool) -> Mapping[str, str]:
    """That of this process, with caches of its own and nothing secret; network and token only where they are needed."""
    kept = {name: value for name, value in os.environ.items() if not (CACHES.search(name) or is_secret(name))}
    kept |= {"HF_HOME": str(home / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    kept |= {"HF_ASSETS_CACHE": constants.HF_ASSETS_CACHE}  # networks that were converted: whoever wants them can do so
    kept |= {"HF_ENDPOINT": constants.ENDPOINT, "HF_HUB_DISABLE_XET": "1" if constants.HF_HUB_DISABLE_XET else "0"}
    if not online:
        return kept | {"HF_HUB_OFFLINE": "1"}
    token = get_token()
    return kept | {"HF_TOKEN": token} if token else kept
