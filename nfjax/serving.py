"""Loading what `nfjax.export` wrote, on a machine that has neither flax nor the rest of nfjax.

This file imports the standard library, numpy and jax (and safetensors, for weights beside the program): it can be
copied as it is to where a model is served. jax itself needs the package `flatbuffers` to read programs.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FORMAT, VERSION = "nfjax-export", 1
PROGRAM, CONFIG = "model.stablehlo", "config.json"  # the members of the zip file
# Platforms of programs, by jax's name of the devices that run them.
_RUNS = {"gpu": ("cuda", "rocm")}


class ExportedFileError(ValueError):
    """A file that is damaged, was not written by `nfjax.export`, or cannot be read by this version of jax."""


class ExportedModel:
    """A model as a function of a batch of images; made by `load_exported`.

    A batch size that was not seen before is compiled at its first call, so serve with few different ones.

    `config` is what the file says about itself: `name`, `input`, `outputs`, `mean`, `std`, `num_classes`,
    `label_names`, `platforms`, versions and checksums.
    """

    def __init__(self, config: Mapping[str, Any], program: Any, params: Mapping[str, np.ndarray] | None):
        self.config = config
        self._call = jax.jit(program.call)
        self._params = () if params is None else (jax.device_put(params),)

    def __call__(self, images: Any) -> Any:
        """The model's outputs: logits `(batch, num_classes)`, as a rule.

        Args:
            images: array of the shape `config["input"]["shape"]`, NHWC; uint8 RGB if `config["input"]["dtype"]` is
                uint8, and otherwise floating point, normalised with `config["mean"]` and `config["std"]`.

        Raises:
            ValueError: a batch of another shape or dtype, or a platform that the file was not made for.
        """
        shape, dtype = self.config["input"]["shape"], self.config["input"]["dtype"]
        images = images if isinstance(images, jax.Array) else np.asarray(images)
        if len(images.shape) != len(shape) or not all(map(_fits, shape, images.shape)):
            raise ValueError(
                f"images of shape {tuple(images.shape)}; {self.config['name']} was exported for "
                f"({', '.join(map(str, shape))}), that is (batch, height, width, channels)."
            )
        wanted = np.uint8 if dtype == "uint8" else jnp.floating
        if not jnp.issubdtype(images.dtype, wanted):
            form = "RGB from 0 to 255" if dtype == "uint8" else "normalised with the mean and std of its config"
            raise ValueError(f"images of dtype {images.dtype}; {self.config['name']} was exported for {dtype}, {form}.")
        images = jnp.asarray(images, dtype)
        if not isinstance(images, jax.core.Tracer):
            platforms, platform = self.config["platforms"], next(iter(images.devices())).platform
            if not set(_RUNS.get(platform, (platform,))) & set(platforms):
                raise ValueError(
                    f"{self.config['name']} was exported for {', '.join(platforms)}, and this is {platform}: set "
                    f"JAX_PLATFORMS, or export it again with platforms that include this one."
                )
        return self._call(*self._params, images)


def load_exported(path: str | os.PathLike[str]) -> ExportedModel:
    """A model that `nfjax.export` wrote, as a function from images to logits.

    Args:
        path: the zip file; weights that were written beside it are looked for beside it.

    Raises:
        FileNotFoundError: the file or the weights beside it are not there.
        ExportedFileError: the content does not have the recorded checksum, or is not what it should be.
        ImportError: flatbuffers, or safetensors for weights beside, is not installed.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no exported model at {path}: there is no such file.")
    config, program = _read(path)
    params = None
    if config["weights"] is not None:
        beside = path.parent / config["weights"]
        if not beside.is_file():
            raise FileNotFoundError(f"{path} needs its weights, {config['weights']}, beside it; {beside} is missing.")
        with beside.open("rb") as file:
            _check(beside, config, config["weights"], hashlib.file_digest(file, "sha256").hexdigest())
        from safetensors.numpy import load_file

        params = load_file(beside)
    from jax import export

    try:
        return ExportedModel(config, export.deserialize(bytearray(program)), params)
    except ImportError as error:
        raise ImportError("reading exported models needs flatbuffers: pip install flatbuffers.") from error
    except ValueError as error:
        raise ExportedFileError(
            f"{path}: jax {jax.__version__} cannot read this program of jax {config['versions']['jax']}: {error}. "
            "jax reads programs of the six months before it; export the model again."
        ) from error


def _read(path: Path) -> tuple[dict[str, Any], bytes]:
    """The config and the program of a file, checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            config: dict[str, Any] = json.loads(archive.read(CONFIG))
            program = archive.read(PROGRAM)
    # RuntimeError and NotImplementedError: damaged flags that claim encryption or an unknown compression.
    except (zipfile.BadZipFile, KeyError, ValueError, RuntimeError, EOFError, OSError) as error:
        raise ExportedFileError(
            f"{path} is damaged, or is not an exported model ({path.stat().st_size} bytes): {error}. Copy it again, "
            "or export it again with nfjax.export."
        ) from error
    found = (config.get("format"), config.get("version"))
    if found != (FORMAT, VERSION):
        raise ExportedFileError(f"{path} has format and version {found}; expected {(FORMAT, VERSION)}.")
    _check(path, config, PROGRAM, hashlib.sha256(program).hexdigest())
    return config, program


def _check(path: Path, config: Mapping[str, Any], name: str, digest: str) -> None:
    expected = config["sha256"][name]
    if digest != expected:
        raise ExportedFileError(
            f"{path} is damaged or belongs to another export: sha256 of {name} is {digest}, expected {expected}. "
            "Copy it again, or export the model again."
        )


def _fits(dim: int | str, size: int) -> bool:
    """Whether `size` is one that a dimension like 224, "b" or "32*h" allows."""
    if isinstance(dim, int):
        return size == dim
    factor = int(dim.partition("*")[0]) if "*" in dim else 1
    return size > 0 and size % factor == 0
