"""`nfjax doctor`: a line for each thing, whatever is broken."""

import errno
import functools
import json
import os
import subprocess
import sys

import pytest

from nfjax.__main__ import main
from nfjax.cli import doctor
from nfjax.health import machine, network, software
from nfjax.support import clusters
from port.stores import Store


def test_all_is_well(tmp_path, capsys):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "nfjax", "doctor", "--workdir", str(tmp_path / "a" / "b"), "--json"]
    asked = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert asked.stderr == ""
    checks = {check["name"]: check for check in json.loads(asked.stdout)}
    found = {"packages", "extras", "devices", "cache", "cores", "cluster", "work folder", "free space", "clock"}
    assert found <= set(checks)
    assert "cpu" in checks["devices"]["found"]
    assert asked.returncode == int(any(check["status"] == "problem" for check in checks.values()))
    assert not (tmp_path / "a").exists()


def test_a_look_that_fails_hides_no_other(monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("of no use\nat all")

    monkeypatch.setattr(software, "devices", broken)
    monkeypatch.setattr(software, "version", broken)
    assert main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "problem  devices      could not be looked at: RuntimeError: of no use\\nat all" in lines
    assert any(line.startswith("ok       cores ") for line in lines)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('no plugin of that name')", "jax cannot be used: no plugin of that name"),
        ("import os; os.abort()", "jax cannot be used: it ended with status -6"),
        ("import time; time.sleep(60)", "jax has not found its devices in 0.5 s"),
    ],
)
def test_a_broken_jax(code, said, monkeypatch):
    monkeypatch.setattr(software, "ASK", code)
    monkeypatch.setattr(software, "PATIENCE", 0.5 if "sleep" in code else 60.0)
    (check,) = software.devices({"PATH": os.environ["PATH"]})
    assert (check.status, check.found) == ("problem", said)
    assert check.todo


def test_packages_that_are_missing_or_old(monkeypatch):
    monkeypatch.setattr(software, "requires", lambda _: ["jax>=99.1", "rich>=13 ; extra == 'train'", "nothing-such>=1"])
    first, second = software.packages()
    assert first.status == "problem"
    assert "nfjax needs jax>=99.1" in first.todo
    assert "complete: train" in second.found


def test_a_device_that_is_not_used(monkeypatch):
    cpu = [("cpu", "cpu")]
    monkeypatch.setattr(software, "_driver", lambda: "")
    assert software._judge(cpu, {"TPU_WORKER_ID": "0"}).todo == "pip install 'nfjax[tpu]'"
    assert software._judge(cpu, {"TPU_WORKER_ID": "0", "JAX_PLATFORMS": "cpu"}).status == "warning"
    assert software._judge([("gpu", "H100")] * 2, {}).found == "2 x H100 (gpu)"


def test_clusters():
    slurm = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_JOB_NODELIST": "node[03-07,9],other"}
    assert clusters.launchers(slurm) == [("SLURM", 2, "1")]
    assert clusters.first_node(slurm) == "node03"
    assert clusters.first_node({}) is None
    assert [check.found for check in network.cluster(slurm)] == ["SLURM: process 1 of 2"]
    (check,) = network.cluster(slurm | {"SLURM_PROCID": "2"})
    assert check.status == "problem"
    (check,) = network.coordinator("localhost:1", {})
    assert (check.status, "nobody listens at 1" in check.found) == ("ok", True)
    (check,) = network.coordinator("[::1]:1", {})
    assert "::1 is not known" not in check.found
    (check,) = network.coordinator("node1", {})
    assert (check.status, check.found) == ("problem", "found node1, expected HOST:PORT, for example node1:12345")
    (check,) = network.coordinator("there.is.no.such.host.invalid:1", {})
    assert check.status == "problem"


def fail(number, *_):
    raise OSError(number, os.strerror(number))


def test_folders(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (check,) = machine.folder(tmp_path / "file", {})
    assert check.found == f"{tmp_path}/file is there, and is no folder"
    (check,) = machine.folder(tmp_path / "file" / "x", {})
    assert (check.name, check.status) == ("work folder", "problem")
    for number, said in ((errno.ENOSPC, "Remove what is not needed"), (errno.EACCES, "permissions")):
        with monkeypatch.context() as patch:
            patch.setattr(machine.os, "fsync", functools.partial(fail, number))
            (check,) = machine.folder(tmp_path, {})
        assert (check.status, said in check.todo) == ("problem", True)
    monkeypatch.setattr(machine, "NO_SPACE", 10**18)
    monkeypatch.setattr(machine.time, "time", lambda: 0.0)
    checks = {check.name: check.status for check in machine.folder(tmp_path, {"SLURM_NTASKS": "2"})}
    assert checks["free space"] == "problem"
    assert checks["clock"] == "warning"


def test_object_stores(monkeypatch):
    folder, clock = machine.folder("memory://bucket/runs/doctor", {})
    assert (folder.status, clock.status) == ("ok", "ok")
    assert "memory://bucket/runs/doctor can be written" in folder.found
    assert Store("memory://bucket/runs/doctor").files() == {}

    def denied(*_):
        raise PermissionError("no permission")

    monkeypatch.setattr(Store, "write", denied)
    (folder,) = machine.folder("memory://bucket/runs/doctor", {})
    assert (folder.status, "no permission" in folder.found) == ("problem", True)


def test_the_hub(monkeypatch):
    *_, check = network.hub({"HF_ENDPOINT": "http://localhost:1"})
    assert (check.status, "cannot be reached" in check.found) == ("problem", True)
    *_, check = network.hub({"HF_HUB_OFFLINE": "1"})
    assert check.status == "ok"


def test_a_line_is_a_line():
    assert "\n" not in doctor._line(network.Check("a", "ok", "x\ny"))
