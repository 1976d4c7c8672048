"""What `--model` may name: published models, folders that nfjax or timm wrote, and runs of the trainer."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nfjax
from nfjax.models.known import is_onnx
from nfjax.weights.names import folder_of, resolve
from port.files import weights_file
from port.stores import readable
from train.checkpoints.averages import architecture, run_weights
from train.checkpoints.files import steps
from train.cli.configs import load_config
from train.config import Data
from train.data.sources.base import digest

_FILES = {".json", ".safetensors", ".bin", ".pth", ".pt"}  # of a folder with a model


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a model comes from."""

    name: str  # for `nfjax.load`
    weights: Any  # likewise; None for an ONNX file
    identity: str  # changes when the weights or the architecture do


def expand(names: Sequence[str], *, pretrained: bool = True) -> list[str]:
    """Names without patterns, each once; "eca_nfnet_l*" stands for all that `nfjax.list_models` finds.

    Raises:
        nfjax.UnknownModelError: a pattern stands for nothing.
    """
    found: list[str] = []
    for name in names:
        if not set("*?[") & set(name) or ":" in name or readable(name).exists():
            found.append(name)
            continue
        matching = nfjax.list_models(name, pretrained=pretrained)
        if not matching:
            wider = f"*{name.strip('*')}*"
            count = len(nfjax.list_models(wider, pretrained=pretrained))
            hint = f"{wider!r} stands for {count}" if count else "nfjax.list_models() shows all names"
            raise nfjax.UnknownModelError(f"--model {name!r}: no model matches this pattern; {hint}.")
        found += matching
    return list(dict.fromkeys(found))


def run_of(name: str) -> Path | None:
    """The work folder that a name stands for; None if it names something else."""
    folder = None if is_onnx(name) else folder_of(name)
    if folder is None or not ((folder / "final").is_dir() or (folder / "checkpoints").is_dir()):
        return None
    return folder


def run_data(run: Path) -> Data:
    """The images that a run was trained and tested on."""
    path = run / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file, so it is not known what {run} was tested on; give --data.")
    return load_config(str(path)).data


@contextlib.contextmanager
def opened(name: str, weights: str | None = "pretrained", weights_key: str | None = None) -> Iterator[Origin]:
    """Find a model; what is found can be loaded inside the context.

    Args:
        name: as `nfjax.load` takes it. The work folder of a run also while there is no model in its `final`: then the
            weights that are evaluated in the newest good checkpoint.
        weights: "pretrained", None for fresh ones, or the path of a file or folder.
        weights_key: which weights of it, as for `nfjax.load`.

    Raises:
        ValueError, OSError: there is no such model, or what there is cannot be read.
    """
    if is_onnx(name):
        if weights != "pretrained":
            raise ValueError(f"{name} has its weights; leave out --weights.")
        yield Origin(name, None, _hash(readable(name)))
        return
    run = run_of(name)
    if run is not None and weights == "pretrained" and not (run / "final" / "config.json").is_file():
        state = run_weights(run)
        with architecture(run, steps(run)[::-1]) as folder:
            yield Origin(str(folder), state, digest([part for key in sorted(state) for part in (key, state[key])]))
        return
    location = resolve(name).location
    identity = f"{name} {location}"
    if isinstance(location, Path):
        name, identity = f"local-dir:{location}", _hash(location)
    if weights is None:
        identity += " fresh"
    elif weights != "pretrained":
        weights_file(readable(weights))  # there must be one
        identity += _hash(readable(weights)) + (weights_key or "")
    yield Origin(name, weights, identity)


def _hash(path: Path) -> str:
    """Of the contents of a file, or of those files of a folder that a model consists of."""
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.suffix in _FILES)
    found: list[str | bytes] = []
    for file in files:
        with file.open("rb") as stream:
            found += [file.name, hashlib.file_digest(stream, "sha256").digest()]
    return digest(found)
