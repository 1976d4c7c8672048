"""Claims and parts, without a model."""

import errno
import json
import os
import secrets
import subprocess
import sys

import pytest

from nfjax.many import places
from nfjax.many.folder import Folder


def _two(path):
    """Two processes in one folder of three parts."""
    pair = [Folder(path, 3, patience=60.0) for _ in range(2)]
    with pair[0].present(), pair[1].present():
        yield pair


@pytest.fixture
def two(tmp_path):
    yield from _two(tmp_path / "out")


@pytest.fixture
def stored():
    """The same in an object store."""
    yield from _two(f"memory://{secrets.token_hex(4)}/out")


def write(text):
    return lambda file: file.write_text(text)


def test_a_part_is_claimed_once_and_written_once(two):
    first, second = two
    assert first.claim(0)
    assert not second.claim(0)
    assert second.claim(1)
    assert first.publish(0, write("a"), "")
    assert not second.publish(0, write("b"), "")
    assert not first.claim(0)
    assert first.finished() == {0}
    assert (first.path / "part-00000.parquet").read_text() == "a"


def test_parts_in_an_object_store(stored):
    first, second = stored
    assert first.claim(0)
    assert not second.claim(0)
    assert first.publish(0, write("a"), '{"file": "x.png", "reason": "it is empty"}\n')
    assert not second.publish(0, write("b"), "")
    assert first._place.text("part-00000.parquet") == "a"
    assert second.finished() == {0}
    assert list(second.skipped()) == [("x.png", "it is empty")]
    assert second.claim(1)
    me = json.loads(second._place.text(second._me))
    second._place.replace(second._me, json.dumps(me | {"place": "another machine"}))
    assert not first.claim(1)
    second._place.remove(second._me)
    assert first.claim(1)
    first.agree({"model": "a"})
    with pytest.raises(ValueError, match=r"model is a there and b here. Choose another"):
        Folder(second.path, 3, 60.0).agree({"model": "b"})
    first.clear()
    assert first._place.names(".work") == []


def test_a_dead_process_of_this_machine_is_known_at_once(two):
    first, second = two
    code = """
import os, sys
from nfjax.many.folder import Folder
from pathlib import Path
folder = Folder(Path(sys.argv[1]), 3, 60.0)
folder.present().__enter__()
assert folder.claim(2)
(folder.path / ".work" / "half written").touch()
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code, str(first.path)]).returncode == -9
    assert first.claim(2)
    assert not second.claim(2)
    first.clear()
    assert not (first.path / ".work").exists()


def test_silence_of_another_machine_is_waited_for(two):
    first, second = two
    assert first.claim(0)
    file = first.path / first._me
    file.write_text(json.dumps(json.loads(file.read_text()) | {"place": "another machine", "pid": 1}))
    assert not second.claim(0)
    os.utime(file, (1e9, 1e9))  # long ago
    assert second.claim(0)
    assert second.publish(0, write("a"), "")
    assert not first.publish(0, write("a"), "")  # it lived: its work is given up


def test_without_hard_links(two, monkeypatch):
    def link(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(places.os, "link", link)
    first, second = two
    assert first.claim(0)
    assert not second.claim(0)
    assert first.publish(0, write("a"), "")
    assert not second.publish(0, write("b"), "")


def test_what_is_skipped_is_kept_with_the_part(two):
    first, _ = two
    first.publish(1, write("a"), '{"file": "x.png", "reason": "it is empty"}\n')
    assert list(first.skipped()) == [("x.png", "it is empty")]


def test_the_plan(tmp_path):
    folder = Folder(tmp_path / "out", 1, 1.0)
    plan = {"model": "a", "size": 1, "machine": {"device": "x"}}
    assert folder.agree(plan) == ""
    assert folder.agree(plan) == ""
    assert "x" in folder.agree(plan | {"machine": {"device": "y"}})
    with pytest.raises(ValueError, match=r"model is a there and b here; size is 1 there and 2 here. Choose another"):
        folder.agree(plan | {"model": "b", "size": 2})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"holds other things, as thesis.tex; expected a new folder"):
        Folder(tmp_path / "other", 1, 1.0)


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(two):
    first, _ = two

    def full(file):
        file.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=r"out cannot be written: No space left on device. What is there stays; the same"):
        first.publish(0, full, "")
    assert first.finished() == set()
    assert not list((first.path / ".work").glob("*part*"))
    (first.path / "file").touch()
    with pytest.raises(OSError, match=r"file/x cannot be written: Not a directory."):
        Folder(first.path / "file" / "x", 1, 1.0)
