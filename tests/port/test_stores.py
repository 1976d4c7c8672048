"""Files in object stores, with fsspec's store in memory."""

import argparse
import secrets
from pathlib import Path

import pytest

from port import paths, stores
from port.stores import Store, open_place, readable


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(stores, "WAITS", (0.0, 0.0, 0.0))
    return Store(f"memory://bucket-{secrets.token_hex(4)}/folder/")


def test_files(store, tmp_path):
    store.write("a/x", b"one")
    (tmp_path / "y").write_bytes(b"three")
    store.put("b.txt", tmp_path / "y")
    assert not store.create("a/x", b"two")
    assert store.create("c.txt", b"two")
    assert store.read("a/x") == b"one"
    assert store.files() == {"a/x": 3, "b.txt": 5, "c.txt": 3}
    assert store.files("a") == {"a/x": 3}
    assert store.names() == ["a", "b.txt", "c.txt"]
    assert store.names("none") == []
    assert Store(f"{store.address}/*.txt").matching() == [f"{store.address}/b.txt", f"{store.address}/c.txt"]
    store.get("c.txt", tmp_path / "new" / "c")
    assert (tmp_path / "new" / "c").read_bytes() == b"two"
    assert store.modified("c.txt") >= store.modified("a/x")
    store.remove("c.txt")
    store.remove("c.txt")
    assert not store.exists("c.txt")


def test_a_part_of_a_file(store):
    store.write("x", bytes(range(256)) * 20_000)
    with open_place(f"{store.address}/x") as file:
        file.seek(-3, 2)
        assert file.read() == bytes([253, 254, 255])
        file.seek(256 * 10_000 + 5)
        assert file.read(3) == bytes([5, 6, 7])


def test_what_is_read_is_copied(store, tmp_path):
    store.write("run/config.json", b"{}")
    store.write("run/final/x", b"x")
    folder = readable(f"{store.address}/run/")
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == [
        "config.json",
        "final",
        "final/x",
    ]
    assert readable(f"{store.address}/run/") == folder
    assert readable(f"{store.address}/run/final/x").read_bytes() == b"x"
    assert readable(str(tmp_path)) == readable(f"file://{tmp_path}") == tmp_path
    with pytest.raises(FileNotFoundError, match=f"{store.address}/none: there is no such file or bucket"):
        readable(f"{store.address}/none")


def test_what_fails_is_tried_again(store, monkeypatch):
    store.write("x", b"x")
    errors = []
    read = store._fs.cat_file

    def failing(*args, **options):
        if errors:
            raise errors.pop()
        return read(*args, **options)

    monkeypatch.setattr(type(store._fs), "cat_file", lambda self, *args, **options: failing(*args, **options))
    errors += [ConnectionResetError("by peer"), RuntimeError("slow down"), TimeoutError()]
    assert store.read("x") == b"x"
    errors += [ConnectionResetError("by peer")] * 4
    with pytest.raises(OSError, match=f"{store.address}/x: by peer"):
        store.read("x")
    errors += [RuntimeError("never tried again"), PermissionError("Access Denied")]
    with pytest.raises(PermissionError, match=r"x: no permission \(Access Denied\)"):
        store.read("x") if errors.pop(0) else None
    errors += [RuntimeError("never tried again"), RuntimeError("Unable to locate credentials")]
    with pytest.raises(OSError, match="Unable to locate credentials"):
        store.read("x")
    assert len(errors) == 1


def test_where_no_address_is_taken(monkeypatch):
    with pytest.raises(ValueError, match="s3://b/x is in an object store, which is not taken here"):
        paths.user_path("s3://b/x")
    with pytest.raises(ValueError, match="s3:/b/x is an address in an object store: give it as text"):
        paths.user_path(Path("s3://b/x"))
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("file", type=paths.user_path)
    with pytest.raises(argparse.ArgumentError, match="give a path of this machine"):
        parser.parse_args(["gs://b/x"])
    monkeypatch.setitem(paths.SCHEMES, "s3", ("nothing", "s3"))
    monkeypatch.setattr("fsspec.filesystem", lambda *args, **options: exec("raise ImportError"))
    with pytest.raises(ImportError, match=r"s3:// addresses need nothing, .*: pip install 'nfjax\[s3\]'."):
        Store("s3://bucket/x")
