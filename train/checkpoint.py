"""Checkpoints of the training state, by Orbax: asynchronous and atomic."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from train.step import State


class Checkpoints:
    """The checkpoints of one run, in `WORKDIR/checkpoints`; the newest `keep` stay.

    Use it as a context manager: leaving waits until the last one is written.
    """

    def __init__(self, workdir: Path, keep: int = 2):
        policy = ocp.training.preservation_policies.LatestN(keep)
        self._checkpointer = ocp.training.Checkpointer(
            (workdir / "checkpoints").absolute(), preservation_policy=policy, cleanup_tmp_directories=True
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exception: object) -> None:
        self._checkpointer.close()

    def save(self, state: State) -> None:
        """Start writing the state; the step may go on and donate it meanwhile."""
        self._checkpointer.save_async(int(state.step), _as_dict(state))

    def restore(self, like: State) -> State | None:
        """The newest state, on the devices and with the shardings of `like`; None if there is none."""
        latest = self._checkpointer.latest
        if latest is None:
            return None
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), _as_dict(like))
        return State(**self._checkpointer.load(latest, abstract))


def _as_dict(state: State) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def claim(workdir: Path, config: dict[str, Any]) -> None:
    """Write the run's config beside it, or require that the run already there had the same one.

    Raises:
        ValueError: naming each field that differs, because continuing would be neither run.
    """
    path = workdir / "config.json"
    if path.exists():
        before, now = _flat(json.loads(path.read_text())), _flat(config)
        changed = [
            f"  {key}: {before.get(key)!r} there, {now.get(key)!r} here"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
        if changed:
            raise ValueError(
                f"{workdir} holds a run with another config:\n" + "\n".join(changed) + "\nChoose another --workdir, "
                "remove this one, or give the config it had."
            )
        return
    workdir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config, indent=2) + "\n")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
