"""Compiled programs between runs of the tests: what is kept, what is not, and that runs do not meet."""

import os
import zlib

import pytest

from tests.helpers import programs


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("NFJAX_TEST_CACHE", str(tmp_path))
    return programs.kept()


def names(folder):
    return {file.name for file in folder.iterdir()}


def test_what_one_run_compiles_the_next_one_finds(store):
    whole = zlib.compress(b"program" * 100)
    first, second = programs.take(store), programs.take(store)
    assert first != second
    (first / "a-cache").write_bytes(whole)
    (first / "b-cache").write_bytes(whole[:-8])  # by a process that was killed
    (second / "a-cache").write_bytes(whole)
    (second / "c-cache").write_bytes(whole)
    assert names(store) == set()
    programs.give_back(first, store)
    programs.give_back(second, store)
    assert names(store) == {"a-cache", "c-cache"}
    third = programs.take(store)
    assert names(third) == names(store)
    assert (third / "a-cache").read_bytes() == whole
    programs.give_back(third, store)
    assert names(store.parent) == {store.name}


def test_what_killed_runs_left_is_removed_after_a_day(store):
    old, new = programs.take(store), programs.take(store)
    os.utime(old, (0, 0))
    third = programs.take(store)
    assert names(store.parent) == {store.name, new.name, third.name}


def test_the_longest_unread_go_first(store):
    for age, name in enumerate("abcd"):
        (store / name).write_bytes(bytes(10))
        os.utime(store / name, (1e9 - age, 1e9))
    programs.prune(store, 25)
    assert names(store) == {"a", "b"}


def test_from_nothing(monkeypatch):
    monkeypatch.setenv("NFJAX_TEST_CACHE", "")
    assert programs.kept() is None
    folder = programs.take(None)
    assert names(folder) == set()
    programs.give_back(folder, None)
    assert not folder.exists()
