"""How commands end."""

import logging
import os
import signal
import subprocess
import sys

import pytest

from modeling_dualspace.console import asked_to_stop, exit_code, quiet


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (ValueError("expected a,\n  got b"), 1, "tool: expected a, got b\n"),
        (FileNotFoundError(2, "No such file or directory", "films"), 1, "tool: No such file or directory: films\n"),
        (RuntimeError(), 1, "tool: RuntimeError\n"),
        (KeyboardInterrupt(), 130, "tool: interrupted\n"),
    ],
)
def test_a_failure_is_one_sentence_and_a_code(capsys, error, code, sentence):
    assert exit_code("tool", raising(error)) == code
    assert capsys.readouterr().err == sentence


def test_a_mistake_of_ours_shows_where_it_was_made():
    with pytest.raises(KeyError):
        exit_code("tool", raising(KeyError("ours")))


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_being_ended_tidies_up(tmp_path):
    code = (
        "import sys, time\nfrom modeling_dualspace.console import exit_code\n"
        "from modeling_dualspace.files import atomic_folder\n"
        "def command():\n    with atomic_folder(sys.argv[1]):\n"
        "        print('in', flush=True)\n        time.sleep(60)\n"
        "sys.exit(exit_code('tool', command))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")], stdout=-1, stderr=-1)
    assert process.stdout.readline() == b"in\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == b"tool: interrupted\n" and process.returncode == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_who_asks_a_part_to_stop_has_asked_the_whole():
    before = signal.getsignal(signal.SIGTERM)
    with asked_to_stop() as whole:
        with asked_to_stop() as part:
            os.kill(os.getpid(), signal.SIGTERM)
        assert part.signal == whole.signal == signal.SIGTERM
        with asked_to_stop() as next_part:  # which does not begin as if nothing had been said
            assert next_part.signal == signal.SIGTERM
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
    with asked_to_stop() as another:
        assert another.signal is None


def test_libraries_are_quiet_for_a_while_and_then_as_they_were():
    from datasets.utils import logging as of_datasets
    from transformers.utils import logging as of_transformers

    def state():
        bars = of_transformers.is_progress_bar_enabled(), of_datasets.is_progress_bar_enabled()
        return of_transformers.get_verbosity(), *bars, logging.root.manager.disable

    before = state()
    with pytest.raises(ValueError), quiet(all_warnings=True):
        assert state() == (of_transformers.ERROR, False, False, logging.WARNING)
        raise ValueError
    assert state() == before


@pytest.mark.skipif(os.name != "posix", reason="pipes that break are those of POSIX")
def test_a_reader_who_has_seen_enough_is_no_failure():
    code = """
import sys
from modeling_dualspace.console import exit_code

def command():
    for line in range(100_000):
        print(line)
    return 0

sys.exit(exit_code("me", command))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.wait(timeout=60) == 0 and process.stderr.read() == b""
