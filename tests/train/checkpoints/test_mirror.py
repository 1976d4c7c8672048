"""A work folder in an object store: what is sent, in which order, and what a kill leaves."""

import secrets

import pytest

from port import stores
from port.stores import Store
from train.checkpoints.mirror import Mirror, mirrored


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setattr(stores, "WAITS", ())
    return f"memory://runs-{secrets.token_hex(4)}/one"


def checkpoint(folder, step):
    place = folder / "checkpoints" / str(step)
    place.mkdir(parents=True)
    (place / "array").write_text(f"of {step}")
    (place / "description.json").write_text("{}")


def test_text_may_mean_a_folder(tmp_path):
    with mirrored(str(tmp_path)) as mirror:
        assert mirror is None


def test_what_is_sent_is_what_is_there(address):
    with mirrored(address) as mirror:
        checkpoint(mirror.folder, 1)
        (mirror.folder / ".lock").touch()
        (mirror.folder / "checkpoints" / "2.unsealed").mkdir()
        (mirror.folder / "checkpoints" / "2.unsealed" / "array").touch()
        mirror.send()
        (mirror.folder / "checkpoints" / "1").rename(mirror.folder / "checkpoints" / "1.deleted")
        checkpoint(mirror.folder, 2)
    assert list(Store(address).files()) == [".owner", "checkpoints/2/array", "checkpoints/2/description.json"]
    assert not mirror.folder.exists()
    with mirrored(address) as mirror:
        assert (mirror.folder / "checkpoints" / "2" / "array").read_text() == "of 2"
        assert mirror.told(f"{mirror.folder}/x") == f"{address}/x"


def test_a_kill_while_a_checkpoint_is_sent(address, monkeypatch):
    """Its seal is sent last, so that it does not count, and the next start replaces it."""
    written = []
    write = Store.write

    def dies(self, name, data):
        if name.endswith("description.json"):
            raise KeyboardInterrupt
        written.append(name)
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", dies)
        with pytest.raises(KeyboardInterrupt), mirrored(address) as mirror:
            checkpoint(mirror.folder, 3)
    assert "checkpoints/3/array" in written
    with mirrored(address) as mirror:
        assert not (mirror.folder / "checkpoints").exists()
        checkpoint(mirror.folder, 4)
    assert "checkpoints/3/array" not in Store(address).files()


def test_a_later_start_takes_over(address):
    first = "another process, [0-9a-f]+, has begun to train there; this one ends."
    with pytest.raises(PermissionError, match=first), mirrored(address), mirrored(address):
        pass


def test_a_store_that_fails_for_a_while(address, monkeypatch, tmp_path):
    def fails(*_):
        raise ConnectionResetError("by peer")

    said = []
    with mirrored(address) as mirror:
        mirror.say = said.append
        checkpoint(mirror.folder, 1)
        with monkeypatch.context() as patch:
            patch.setattr(mirror._store._fs, "pipe_file", fails)
            mirror.try_to_send()
    assert len(said) == 1
    assert "the last checkpoint is not sent yet" in said[0]
    assert "The run goes on; the next one is sent with it." in said[0]
    assert "checkpoints/1/description.json" in Store(address).files()
    monkeypatch.setattr("tempfile.mkdtemp", lambda prefix: str(tmp_path))
    kept = f"by peer. What was not sent is in {tmp_path}: copy it there"
    with pytest.raises(OSError, match=kept), mirrored(address) as mirror:  # noqa: PT012 # its end raises
        checkpoint(mirror.folder, 2)
        monkeypatch.setattr(mirror._store._fs, "pipe_file", fails)
    assert (tmp_path / "one" / "checkpoints" / "2" / "array").exists()


def test_an_error_names_the_address(address):
    with pytest.raises(ValueError, match=f"^{address}/config.json is damaged$"), mirrored(address) as mirror:
        raise ValueError(f"{mirror.folder}/config.json is damaged")


def test_several_processes_need_a_folder(address, monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(ValueError, match="several processes need a folder that all of them see"), mirrored(address):
        pass
    assert Mirror(address, None).address == address
