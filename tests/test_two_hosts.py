"""Training over the network, and in processes that were started by hand: slow, and only where this machine lets us."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from modeling_dualspace.cli import main

TRAIN = ["-m", "modeling_dualspace", "train", "tiny", "train.epochs=2", "model.dropout=0", "--json"]


@pytest.fixture
def clips(tmp_path, monkeypatch, script):
    """A folder with the data that the recipe `tiny` names; the working directory."""
    monkeypatch.chdir(tmp_path)
    assert script("synthetic_features").main(["--rows", "800"]) == 0
    return tmp_path


@pytest.fixture
def hosts():
    """Two network namespaces with a wire between them, by name and interface; 10.9.0.1 is the first's address."""
    names = [f"dualspace{number}-{os.getpid()}" for number in range(2)]
    steps = [["netns", "add", name] for name in names]
    steps += [["link", "add", "va", "netns", names[0], "type", "veth", "peer", "name", "vb", "netns", names[1]]]
    for number, (name, wire) in enumerate(zip(names, ("va", "vb"), strict=True), start=1):
        steps += [["-n", name, "addr", "add", f"10.9.0.{number}/24", "dev", wire]]
        steps += [["-n", name, "link", "set", device, "up"] for device in (wire, "lo")]
    try:
        if shutil.which("ip") is None:
            pytest.skip("no `ip` here: on Debian, apt-get install iproute2")
        for step in steps:
            done = subprocess.run(["ip", *step], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"network namespaces cannot be had here: {done.stderr.strip()}")
        yield list(zip(names, ("va", "vb"), strict=True))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.slow  # two torchruns of their own
def test_two_hosts_finish_with_the_table_of_one(clips, hosts, capsys):
    common = ["--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "10.9.0.1", "--master_port", "29511"]
    started = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", *common]
            + ["--node_rank", str(rank), *TRAIN, "output=both"],
            env=os.environ | {"GLOO_SOCKET_IFNAME": wire, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank, (name, wire) in enumerate(hosts)
    ]  # fmt: skip
    said = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    both = json.loads(said[0][0].splitlines()[-1])
    assert main([*TRAIN[2:], "output=one"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert both["processes"] == 2 and (both["epoch"], both["steps"]) == (one["epoch"], one["steps"])
    for score in ("map", "audio_to_visual", "visual_to_audio"):
        assert both["validation"][score] == pytest.approx(one["validation"][score], abs=1e-4)


def newest(run):
    """The name of its newest checkpoint."""
    return max((path.name for path in run.glob("checkpoints/step-*")), default=None)


@pytest.mark.slow  # five fresh processes
def test_fresh_processes_that_are_killed_end_with_the_same_weights(clips):
    command = [sys.executable, *TRAIN, "checkpoint.every_steps=1", "--resume"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    assert subprocess.run([*command, "output=whole"], **quiet).returncode == 0
    chance, kills = random.Random(1), 0
    for _ in range(12):
        process = subprocess.Popen([*command, "output=killed"], **quiet)
        before = newest(clips / "killed")
        while kills < 4 and process.poll() is None:
            if newest(clips / "killed") != before:  # it is at work
                time.sleep(chance.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        if process.wait() == 0:
            break
        kills += 1
    assert kills >= 2
    for place in ("model", "before-refit/model"):
        one, other = ((clips / run / place / "model.safetensors").read_bytes() for run in ("whole", "killed"))
        assert one == other
