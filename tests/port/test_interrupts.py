"""Ctrl-C in commands, as a terminal sends it to a process of its own; and output that nobody reads."""

import signal
import subprocess
import sys
import time

import pytest

# A command of ours, by its name: writes a file, says so, and is busy where Python's handlers cannot run.
PROGRAM = """
import hashlib
import signal
import sys
from port.atomic import replacing
from port.messages import exit_status

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may have been started without

def command():
    with replacing(sys.argv[1]) as partial:
        partial.write_text("half")
        print("busy", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # an hour, without a look at signals
        return 0

sys.exit(exit_status(command))
"""


@pytest.fixture
def program(tmp_path):
    """Starts the file `nfjax`: that is the name of our command."""
    (tmp_path / "nfjax").write_text(PROGRAM)

    started = []

    def start(*arguments):
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, tmp_path / "nfjax", *arguments], **both))
        return started[-1]

    yield start
    for process in started:
        process.kill()


def test_one_line_at_once(program, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ".")
    process = program(tmp_path / "out" / "file")
    assert process.stdout.readline() == "busy\n"
    process.send_signal(signal.SIGINT)
    since = time.monotonic()
    assert process.communicate(timeout=60) == ("", "interrupted.\n")
    assert process.returncode == 130
    assert time.monotonic() - since < 10
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "command",
    [
        "nfjax --help",
        "nfjax list",
        "nfjax info test_nfnet",
        "train.main --help",
        "port --help",
        "train.evaluate --help",
    ],
)
def test_output_that_nobody_reads(command):
    arguments = [sys.executable, "-m", *command.split()]
    silent = {"stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, **silent) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 0)
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *arguments], **silent)
    assert (closed.returncode, closed.stderr) == (0, "")
