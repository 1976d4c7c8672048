"""WORKDIR/base: the weights that a run began with, where it trains adapters; its checkpoints hold nothing of them."""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

import nfjax
import port
from port.text import cut
from train.machine.processes import from_first_process
from train.optim.parameters import BESIDE

FOLDER = "base"


def load_base(run: Path) -> dict[str, np.ndarray]:
    """All weights that the model of a run with adapters began with, `{parameter path: array}`.

    Raises:
        FileNotFoundError: they are not there.
    """
    file = run / FOLDER / "model.safetensors"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; the adapters of the run belong to it. Bring it back.")
    return port.to_flax({name: np.array(array) for name, array in port.read_weights(file).items()})


def kept_base(workdir: Path, base: Mapping[str, jax.Array], model: nfjax.ImageModel) -> dict[str, jax.Array]:
    """The weights that stay: those of WORKDIR/base, which is written now if it is not there. All processes call this.

    Args:
        workdir: of the run.
        base: as the config has them today; a run goes on with those that it began with.
        model: with all its weights, to be written.

    Raises:
        ValueError: what is there is of another model.
    """
    beside = {path: value for path, value in base.items() if path.startswith(BESIDE)}
    own = {path: value for path, value in base.items() if path not in beside}
    if not own:
        return beside
    folder = workdir / FOLDER
    if not from_first_process([int((folder / "model.safetensors").is_file())])[0]:
        if jax.process_index() == 0:
            nfjax.save(model, folder)
        return dict(base)
    there = load_base(workdir)
    odd = [path for path, value in own.items() if path not in there or there[path].shape != value.shape]
    if odd:
        raise ValueError(
            f"{folder} is of another model: it lacks {cut(odd[0], 200)} of that shape. Choose another --workdir."
        )
    return beside | {path: jax.numpy.asarray(there[path]) for path in own}
