"""The folder of a run: one config, one process, room enough, and a record of what it was made with."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import namedtuple

import jax
import pytest

from train.checkpoints import averages
from train.cli.configs import load_config
from train.config import Checkpoint, Config, Log, Mesh, Model, Optim
from train.evaluation.models import run_data
from train.report import workdir
from train.report.sinks import flat
from train.report.workdir import FREE_FIELDS, claim, locked, other_devices, record_environment, require_space


def config(**changes):
    return dataclasses.asdict(dataclasses.replace(Config(), **changes))


def begin(folder):
    """The run in a folder has measured something."""
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')


def test_claim_writes_once(tmp_path):
    claim(tmp_path, {"a": {"b": 1}})
    claim(tmp_path, {"a": {"b": 1}})
    begin(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": {"b": 1}}
    with pytest.raises(ValueError, match=r"a\.b: 1 there, 2 here"):
        claim(tmp_path, {"a": {"b": 2}})
    with pytest.raises(ValueError, match=r"a\.b: 1 there, None here\n  c: None there, 3 here"):
        claim(tmp_path, {"a": {}, "c": 3})
    assert sorted(os.listdir(tmp_path)) == ["config.json", "metrics.jsonl"]


def test_a_run_that_has_not_begun_takes_another_config(tmp_path):
    """What stopped it may have been its config."""
    claim(tmp_path, {"a": 1})
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "checkpoints").mkdir()
    claim(tmp_path, {"a": 2})
    assert json.loads((tmp_path / "config.json").read_text()) == {"a": 2}
    (tmp_path / "checkpoints" / "12").mkdir()
    with pytest.raises(ValueError, match="a: 2 there, 1 here"):
        claim(tmp_path, {"a": 1})


def test_another_config_is_refused_field_by_field(tmp_path):
    claim(tmp_path, config())
    begin(tmp_path)
    changed = config(seed=1, model=Model(drop_rate=0.5), optim=Optim(betas=(0.9, 0.99), freeze=("a",)))
    with pytest.raises(ValueError, match="holds a run with another config") as error:
        claim(tmp_path, changed)
    assert str(error.value).splitlines()[1:-1] == [
        "  model.drop_rate: 0.0 there, 0.5 here",
        "  optim.betas: None there, [0.9, 0.99] here",
        "  optim.freeze: [] there, ['a'] here",
        "  seed: 0 there, 1 here",
    ]
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0


def test_where_and_what_is_kept_may_change(tmp_path):
    claim(tmp_path, config(optim=Optim(betas=(0.9, 0.99))))
    begin(tmp_path)
    now = config(
        optim=Optim(betas=(0.9, 0.99)), mesh=Mesh(fsdp=8), log=Log(every_steps=1), checkpoint=Checkpoint(keep_last=9)
    )
    claim(tmp_path, now)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["mesh"]["fsdp"], written["log"]["every_steps"], written["checkpoint"]["keep_last"]) == (8, 1, 9)
    with pytest.raises(ValueError, match=r"checkpoint\.metric"):  # a plateau is measured by it
        claim(tmp_path, config(optim=Optim(betas=(0.9, 0.99)), checkpoint=Checkpoint(metric="loss")))


def test_free_fields_exist():
    free = [key for key in flat(config()) if re.fullmatch(FREE_FIELDS, key)]
    groups = {key.split(".")[0] for key in free}
    assert groups == {"mesh", "log", "checkpoint", "data"}
    assert [key for key in free if key.startswith("data")] == [  # on which the batches do not depend
        "data.cache", "data.workers", "data.stall_seconds", "data.max_broken",
    ]  # fmt: skip
    assert [key for key in free if key.startswith("checkpoint")] == [
        "checkpoint.every_epochs", "checkpoint.keep_last", "checkpoint.keep_best",
    ]  # fmt: skip


def test_a_config_that_is_damaged_is_told(tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(ValueError, match=r"config\.json is damaged .*Bring it back"):
        claim(tmp_path, config())


DAMAGED = [b"[]", b"5", b"null", b"\xff\xfe{", b"", b"[" * 100_000, b'{"a":' * 100_000]


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[:8]))
def test_a_config_that_is_none(tmp_path, content):
    """Whoever reads it: to go on with the run, to begin another one, to evaluate or average its checkpoints."""
    path = tmp_path / "config.json"
    path.write_bytes(content)
    for read in (
        lambda: claim(tmp_path, config()),
        lambda: load_config(str(tmp_path)),
        lambda: run_data(tmp_path),
        lambda: averages._metric(tmp_path),
    ):
        with pytest.raises(ValueError, match=rf"{path}.* is damaged \(.*\)\. Bring it back") as error:
            read()
        assert len(str(error.value).splitlines()) == 1
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"{}", b'{"data": 5, "checkpoint": []}', b'{"data": {"name": 3}}'])
def test_a_config_of_something_else(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    if content == b"{}":  # all fields have defaults
        assert run_data(tmp_path) == Config().data
        return
    with pytest.raises(ValueError, match=r"config\.json has values that do not fit their fields"):
        run_data(tmp_path)


HOLD = """
import sys, time
from pathlib import Path
from train.report.workdir import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(1000)
"""


def test_one_process_at_a_time(tmp_path):
    """The lock goes with the process, even when that is killed."""
    run = tmp_path / "deep" / "run"
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True, env=variables)
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(OSError, match=f"{run} is in use: process {holder.pid} trains there"), locked(run):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    for _ in range(2):  # and it is given back
        with locked(run):
            assert (run / ".lock").read_text() == f"{os.getpid()}\n"
        assert not (run / ".lock").exists()


def test_a_place_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match=f"--workdir={place} cannot be written to"), locked(place):
            pass
    if os.getuid():  # root may write everywhere
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError, match="cannot be written to"), locked(tmp_path / "run"):
            pass
        tmp_path.chmod(0o700)


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    import errno
    import fcntl

    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="cannot be locked"), locked(tmp_path):
        pass


def test_space(tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path).free
    require_space(tmp_path, free // 2)
    with pytest.raises(OSError, match=r"take up to \d+\.\d\d GiB, but .* has room for .*checkpoint\.keep_last"):
        require_space(tmp_path, 2 * free + 2**40)
    # What the checkpoints take already is theirs.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(100))
    with pytest.raises(OSError, match="take up to"):
        require_space(tmp_path, 150)
    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    (tmp_path / "checkpoints" / "1" / "data").write_bytes(bytes(60))
    require_space(tmp_path, 150)


def test_each_start_is_recorded(tmp_path, monkeypatch):
    record_environment(tmp_path, 25)
    monkeypatch.setattr(sys, "argv", ["train/main.py", "--config=a b.py"])
    monkeypatch.setenv("XLA_FLAGS_OF_MINE", "x")
    record_environment(tmp_path, 25)
    starts = json.loads((tmp_path / "environment.json").read_text())
    assert len(starts) == 2
    assert starts[1]["command"].endswith("train/main.py '--config=a b.py'")
    assert starts[1]["variables"]["XLA_FLAGS_OF_MINE"] == "x"
    assert starts[1]["packages"]["jax"] == jax.__version__
    assert starts[1]["devices"] == {"cpu": 2}
    (tmp_path / "environment.json").write_text("[")
    with pytest.raises(ValueError, match=r"environment\.json is damaged"):
        record_environment(tmp_path, 25)


def test_devices_of_another_kind(tmp_path):
    assert other_devices(tmp_path) == ""
    record_environment(tmp_path, 25)
    record_environment(tmp_path, 25)
    assert other_devices(tmp_path) == ""
    path = tmp_path / "environment.json"
    before, now = json.loads(path.read_text())
    path.write_text(json.dumps([before | {"devices": {"NVIDIA H100": 8}}, now]))
    assert other_devices(tmp_path).startswith(
        "this run had NVIDIA H100 before, and goes on with cpu: its bits will not"
    )


def test_a_run_of_an_older_version_had_what_is_the_default_now(tmp_path):
    config = dataclasses.asdict(Config())
    older = {name: value for name, value in config.items() if name != "deterministic"}
    (tmp_path / "config.json").write_text(json.dumps(older))
    (tmp_path / "metrics.jsonl").write_text("{}")
    claim(tmp_path, config)
    (tmp_path / "config.json").write_text(json.dumps(older))
    with pytest.raises(ValueError, match="deterministic: False there, True here"):
        claim(tmp_path, config | {"deterministic": True})


def test_git_is_optional(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert workdir.environment()["commit"] is None
