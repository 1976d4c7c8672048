"""description.json of a checkpoint: what it holds, and the seal that tells whether that is what was written."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

LEAF = re.compile(r"(\w+) \[((?:\d+(?:, \d+)*)?)\]")


class DamagedError(OSError):
    """A checkpoint is not what was saved: cut short, half deleted, or with bits flipped."""


@dataclasses.dataclass(frozen=True)
class Description:
    """What is known of a checkpoint without its arrays."""

    step: int  # how many steps were done
    meta: dict[str, Any]  # what the caller of `Checkpoints.save` added
    metrics: dict[str, float]  # of the evaluation that it was saved with; empty if there was none
    leaves: dict[str, str]  # dtype and shape of every array, e.g. "float32 [3, 3, 16, 32]", by its path in the state.
    checksums: dict[str, str]  # of every array, by the same paths
    # size of every file in bytes and, of those that are small, a hash
    files: dict[str, list[Any]] = dataclasses.field(default_factory=dict)

    def blanks(self, prefix: str = "") -> dict[str, np.ndarray]:
        """Arrays like those whose paths begin with `prefix`, which take no memory."""
        return {name: _blank(leaf) for name, leaf in self.leaves.items() if name.startswith(prefix)}


def leaves(flat: Mapping[str, Any]) -> dict[str, str]:
    """Dtype and shape of every array, as in `Description.leaves`."""
    return {name: f"{leaf.dtype.name} {list(leaf.shape)}" for name, leaf in flat.items()}


def sealed(described: Description) -> str:
    """The content of description.json."""
    text = json.dumps(dataclasses.asdict(described))
    return json.dumps({"description": text, "sha256": sha256(text.encode())})


def unsealed(content: str, step: int) -> Description:
    """The description of the checkpoint of a step.

    Raises:
        DamagedError: it is not what was written, or not what this version writes.
    """
    try:
        outer = json.loads(content)
        text = outer["description"]
        genuine = sha256(text.encode()) == outer["sha256"]
        described = Description(**json.loads(text))
        well_formed = _well_formed(described)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise DamagedError(f"description.json cannot be read ({error!r:.300})") from error
    if not genuine or not well_formed or described.step != step:
        raise DamagedError(f"description.json is not what was written for step {step}")
    return described


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _well_formed(described: Description) -> bool:
    """Whether everything has its type; those that are no mappings raise what `unsealed` catches."""
    sizes = [(size, content) for size, content in described.files.values()]
    return (
        type(described.step) is int
        and isinstance(described.meta, dict)
        and all(type(score) in (int, float) for score in described.metrics.values())
        and all(type(size) is int and isinstance(content, str | None) for size, content in sizes)
        and described.checksums.keys() == described.leaves.keys()
        and len(described.blanks()) == len(described.leaves)
    )


def _blank(leaf: str) -> np.ndarray:
    told = LEAF.fullmatch(leaf)
    if told is None:
        raise ValueError(f"{leaf!r} is not a dtype and a shape")
    shape = [int(side) for side in told[2].split(", ") if side]
    if math.prod(shape) > 2**62:
        raise ValueError(f"{leaf!r} is more than any memory")
    return np.broadcast_to(np.zeros((), jnp.dtype(told[1])), shape)
