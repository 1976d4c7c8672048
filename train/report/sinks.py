"""Where measurements can go besides metrics.jsonl: an entry of `SINKS` for each field of `log` that turns one on."""

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol


class Sink(Protocol):
    """Something that takes measurements. Where it cannot, it raises an OSError, and is given up."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self, failed: bool) -> None: ...


@contextlib.contextmanager
def needed(package: str, option: str, off: str = "none") -> Iterator[None]:
    """Around the import of a package: where it is not there, what asks for it and what to do, in one sentence."""
    try:
        yield
    except ImportError as error:
        field = option.partition("=")[0]
        raise ImportError(
            f"{option} needs {package} ({error}): pip install {package}, or set {field}={off}."
        ) from error


def kept(file: Path, make: Callable[[], str]) -> str:
    """A text that a run keeps in its work folder, so that a continued run has the same; made the first time."""
    if not file.exists():
        file.write_text(make())
    return file.read_text()


def settings(workdir: Path) -> dict[str, Any] | None:
    """The config of the run that a folder holds."""
    file = workdir / "config.json"
    return json.loads(file.read_text()) if file.exists() else None


class TensorBoard:
    """TensorBoard's event files, written without tensorflow; `tensorboard --logdir=RUNS` shows them."""

    def __init__(self, folder: Path, start: int):
        with needed("tensorboard", "log.tensorboard", "false"):
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.compat.proto.summary_pb2 import Summary
            from tensorboard.summary.writer.record_writer import RecordWriter
        self._event, self._summary = Event, Summary
        folder.mkdir(exist_ok=True)
        # Files are read in the order of their names, so that a later one must have a name that is greater.
        name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}"
        self._records = RecordWriter((folder / name).open("wb"))
        self._write(file_version="brain.Event:2")
        # Makes readers forget what the files before hold of later steps.
        self._write(step=start + 1, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        tags = {f"test/{k.removeprefix('test_')}" if k.startswith("test_") else f"train/{k}": k for k in values}
        scalars = [self._summary.Value(tag=tag, simple_value=values[key]) for tag, key in tags.items()]
        self._write(step=step, summary=self._summary(value=scalars))

    def _write(self, **fields: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
        self._records.flush()

    def close(self, failed: bool) -> None:
        self._records.close()


class Wandb:
    """A run of Weights & Biases. Its id is kept in the work folder, so that a continued run goes on with the same one.

    Weights & Biases itself ignores steps that it already has: what is computed again adds nothing.
    """

    def __init__(self, workdir: Path, project: str):
        with needed("wandb", f"log.wandb={project!r}"):
            import wandb
        self._run = wandb.init(
            project=project,
            id=kept(workdir / "wandb_id", lambda: secrets.token_hex(4)),
            name=workdir.name,
            resume="allow",
            dir=str(workdir),
            config=settings(workdir),
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class Mlflow:
    """A run of MLflow, in the experiment that `log.mlflow` names, wherever MLFLOW_TRACKING_URI says.

    Its id is kept in the work folder. What a continued run computes again is there twice, with the same values.
    """

    def __init__(self, workdir: Path, experiment: str):
        with needed("mlflow", f"log.mlflow={experiment!r}"):
            import mlflow
            from mlflow.entities import Metric, Param
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # its own 7 are four minutes without training
        self._metric, self._error, self._client = Metric, mlflow.exceptions.MlflowException, mlflow.MlflowClient()
        with self._as_os_error():
            found = self._client.get_experiment_by_name(experiment)
            place = found.experiment_id if found else self._client.create_experiment(experiment)
            new = not (workdir / "mlflow_run_id").exists()
            self._run = kept(
                workdir / "mlflow_run_id",
                lambda: str(self._client.create_run(place, run_name=workdir.name).info.run_id),
            )
            self._client.update_run(self._run, status="RUNNING")
            options = list(flat(settings(workdir) or {}).items()) if new else []
            for start in range(0, len(options), 100):  # no more are taken at once
                params = [Param(key, str(value)) for key, value in options[start : start + 100]]
                self._client.log_batch(self._run, params=params)

    @contextlib.contextmanager
    def _as_os_error(self) -> Iterator[None]:
        try:
            yield
        except self._error as error:
            raise OSError(" ".join(str(error).split())[:300]) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        with self._as_os_error():
            self._client.log_batch(self._run, metrics=[self._metric(k, v, now, step) for k, v in values.items()])

    def close(self, failed: bool) -> None:
        with self._as_os_error():
            self._client.set_terminated(self._run, status="FAILED" if failed else "FINISHED")


class Trackio:
    """A run of trackio, in the project that `log.trackio` names; its name is kept in the work folder."""

    def __init__(self, workdir: Path, project: str):
        with needed("trackio", f"log.trackio={project!r}"):
            import trackio
        name = kept(workdir / "trackio_name", lambda: f"{workdir.name}-{secrets.token_hex(2)}")
        self._run = trackio.init(project=project, name=name, resume="allow", config=settings(workdir))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, failed: bool) -> None:
        self._run.finish()


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings by dotted path."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


# By field of `log`: from the work folder, the field's value, and the step that the run goes on from.
SINKS: dict[str, Callable[[Path, Any, int], Sink]] = {
    "tensorboard": lambda workdir, on, start: TensorBoard(workdir / "tensorboard", start),
    "wandb": lambda workdir, project, start: Wandb(workdir, project),
    "mlflow": lambda workdir, experiment, start: Mlflow(workdir, experiment),
    "trackio": lambda workdir, project, start: Trackio(workdir, project),
}
TITLES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases", "mlflow": "MLflow", "trackio": "trackio"}
