"""What a run writes about itself: killed, continued, read by TensorBoard and by Weights & Biases."""

import errno
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import ClassVar

import jax
import pytest

from train.config import Log
from train.report.metrics import JsonLines, Metrics, read_metrics
from train.report.sinks import SINKS, TITLES, TensorBoard

QUIET = Log(tensorboard=False)


def steps_of(workdir):
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def log_steps(metrics, *steps):
    for step in steps:
        metrics.write(step, {"loss": 1 / step, "lr": 0.1})


def test_a_line_has_what_was_measured(tmp_path):
    with Metrics(tmp_path / "new", QUIET, 0) as metrics:
        metrics.write(10, {"loss": 0.25, "grad_norm": float("nan"), "lr": float("inf")})
        # Readable while it runs, by any reader of JSON.
        text = (tmp_path / "new" / "metrics.jsonl").read_text()
    assert text == '{"step": 10, "loss": 0.25, "grad_norm": null, "lr": null}\n'
    assert read_metrics(tmp_path / "new") == [json.loads(text)]
    assert read_metrics(tmp_path) == []
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("torn", ["", '{"step": 25, "lo', '{"step": 25}', "\0\0\0"])
def test_a_continued_run_leaves_the_same_file(tmp_path, torn):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with Metrics(whole, QUIET, 0) as metrics:
        log_steps(metrics, 5, 10, 15, 20, 25)
        metrics.write(25, {"test_top1": 0.5})
    with Metrics(killed, QUIET, 0) as metrics:
        log_steps(metrics, 5, 10, 15, 20)
    with (killed / "metrics.jsonl").open("a") as file:
        file.write(torn)
    with Metrics(killed, QUIET, 10) as metrics:
        assert steps_of(killed) == [5, 10]
        log_steps(metrics, 15, 20, 25)
        metrics.write(25, {"test_top1": 0.5})
    assert (killed / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


def test_a_finished_run_adds_nothing(tmp_path):
    with Metrics(tmp_path, QUIET, 0) as metrics:
        log_steps(metrics, 5, 10)
    for _ in range(2):  # the evaluation is missing the first time: the run was killed before
        with Metrics(tmp_path, QUIET, 10) as metrics:
            log_steps(metrics, 10)
            metrics.write(10, {"test_top1": 0.5, "test_loss": 1.0})
    assert steps_of(tmp_path) == [5, 10, 10]


@pytest.mark.parametrize("damage", ["{}", "[]", "lr", '{"step": "5"}', ""])
def test_damage_is_named(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 5}}\n{damage}\n{{"step": 10}}\n')
    before = path.read_text()
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is .*; expected a JSON object with the key step"):
        Metrics(tmp_path, QUIET, 20)
    assert path.read_text() == before


def test_the_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with Metrics(tmp_path / "run", Log(wandb="project"), 0) as metrics:
        log_steps(metrics, 5)
    assert list(tmp_path.iterdir()) == []


def scalars(workdir):
    """What TensorBoard reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(workdir / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


KILLED = """
import os, sys
from pathlib import Path
from train.config import Log
from train.report.metrics import Metrics
metrics = Metrics(Path(sys.argv[1]), Log(), 0)
for step in range(5, 40, 5):
    metrics.write(step, {"loss": 0.5 * step, "lr": 0.125})
assert not {"tensorflow", "torch"} & set(sys.modules)
os._exit(9)
"""


@pytest.mark.parametrize("cut", [0, 7])
def test_tensorboard_shows_no_point_twice(tmp_path, cut):
    """Killed at step 35 after a checkpoint at 20; the last record is torn, or whole."""
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parents[3], check=False)
    events = next((tmp_path / "tensorboard").iterdir())
    assert scalars(tmp_path)["train/loss"] == [(step, 0.5 * step) for step in range(5, 40, 5)]
    events.write_bytes(events.read_bytes()[: events.stat().st_size - cut])
    with Metrics(tmp_path, Log(), 20) as metrics:
        metrics.write(25, {"loss": -25.0, "lr": 0.125})
        metrics.write(25, {"test_top1": 0.5})
        metrics.write(30, {"loss": -30.0, "lr": 0.125})
        assert scalars(tmp_path) == {  # while it runs
            "train/loss": [(5, 2.5), (10, 5.0), (15, 7.5), (20, 10.0), (25, -25.0), (30, -30.0)],
            "train/lr": [(step, 0.125) for step in range(5, 31, 5)],
            "test/top1": [(25, 0.5)],
        }
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_wandb_goes_on_with_the_same_run(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, values, step):
            calls.append(("log", step, values))

        def finish(self, exit_code):
            calls.append(("finish", exit_code))

    def init(**arguments):
        calls.append(("init", arguments))
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    log = Log(tensorboard=False, wandb="flowers")
    (tmp_path / "config.json").write_text('{"seed": 3}')

    def fail():
        with Metrics(tmp_path, log, 0) as metrics:
            metrics.write(5, {"loss": 2.0})
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with Metrics(tmp_path, log, 0) as metrics:
        metrics.write(5, {"loss": 2.0})
    (_, first), line, failed, (_, second), *_, ended = calls
    assert (line, failed, ended) == (("log", 5, {"loss": 2.0}), ("finish", 1), ("finish", 0))
    assert first == second
    assert (first["project"], first["resume"], first["config"]) == ("flowers", "allow", {"seed": 3})
    assert first["id"] == (tmp_path / "wandb_id").read_text()


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_sinks_are_imported_only_if_asked_for(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    with Metrics(tmp_path, QUIET, 0):
        pass
    with pytest.raises(ImportError, match=rf"log\.{name}='flowers' needs {name} .*pip install {name}, or set .*=none"):
        Metrics(tmp_path, Log(tensorboard=False, **{name: "flowers"}), 0)


def test_every_sink_is_a_field():
    assert SINKS.keys() == TITLES.keys() == vars(Log()).keys() - {"every_steps"}


class Failure(Exception):
    """MLflow's error."""


class Client:
    """MLflow's client, as far as it is documented and used."""

    calls: ClassVar[list] = []

    def __getattr__(self, name):
        def call(*args, **options):
            self.calls.append((name, args, options))
            if name == "log_batch" and any(metric[1] == 13 for metric in options.get("metrics", ())):
                raise Failure("the server has gone")
            run = types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))
            return {"get_experiment_by_name": None, "create_experiment": "e1", "create_run": run}.get(name)

        return call


def test_mlflow_goes_on_with_the_same_run(tmp_path, monkeypatch):
    entities = types.SimpleNamespace(Metric=lambda *fields: fields, Param=lambda *fields: fields)
    module = types.SimpleNamespace(MlflowClient=Client, exceptions=types.SimpleNamespace(MlflowException=Failure))
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.setattr(Client, "calls", calls := [])
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    (tmp_path / "config.json").write_text(json.dumps({"seed": 3, "optim": {f"x{i}": i for i in range(150)}}))
    log, said = Log(tensorboard=False, mlflow="flowers"), []
    for _ in range(2):
        with Metrics(tmp_path, log, 0, said.append) as metrics:
            metrics.write(5, {"loss": 2.0, "lr": 0.1})
    names = [name for name, *_ in calls]
    assert names.count("create_run") == 1
    assert [len(options["params"]) for _, _, options in calls if "params" in options] == [100, 51]
    lines = [options["metrics"] for _, args, options in calls if "metrics" in options and args == ("r1",)]
    assert [(key, value, step) for key, value, _, step in lines[1]] == [("loss", 2.0, 5), ("lr", 0.1, 5)]
    assert calls[-1] == ("set_terminated", ("r1",), {"status": "FINISHED"})
    with Metrics(tmp_path, log, 0, said.append) as metrics:
        metrics.write(10, {"loss": 13})
        metrics.write(15, {"loss": 1})  # it is given up
    assert ["the server has gone" in line for line in said] == [True]
    assert steps_of(tmp_path) == [10, 15]


def test_trackio_goes_on_with_the_same_run(tmp_path, monkeypatch):
    calls = []

    def init(**options):
        calls.append(options)
        return types.SimpleNamespace(
            log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("finish")
        )

    monkeypatch.setitem(sys.modules, "trackio", types.SimpleNamespace(init=init))
    for _ in range(2):
        with Metrics(tmp_path, Log(tensorboard=False, trackio="flowers"), 0) as metrics:
            metrics.write(5, {"loss": 2.0})
    assert calls[:3] == calls[3:]
    assert calls[1:3] == [(5, {"loss": 2.0}), "finish"]
    assert calls[0]["project"] == "flowers"
    assert calls[0]["name"] == (tmp_path / "trackio_name").read_text()


def test_tensorboard_is_asked_for_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    with pytest.raises(ImportError, match=r"pip install tensorboard, or set log\.tensorboard=false"):
        Metrics(tmp_path, Log(), 0)


def test_a_sink_that_cannot_be_written_to_is_given_up_once(tmp_path, monkeypatch):
    """But for the file that a run needs."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    said = []
    with Metrics(tmp_path, Log(tensorboard=True), 0, said.append) as metrics:
        metrics.write(1, {"loss": 1.0})
        monkeypatch.setattr(TensorBoard, "_write", full)
        for step in (2, 3):
            metrics.write(step, {"loss": 1.0})
        assert said == ["TensorBoard is not written: No space left on device. The run goes on without it."]
        monkeypatch.setattr(JsonLines, "write", full)
        with pytest.raises(OSError, match="No space left"):
            metrics.write(4, {"loss": 1.0})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
