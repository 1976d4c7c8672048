"""Loading what `nfjax.export` wrote, on a machine that has neither flax nor the rest of nfjax.

This file imports the standard library, numpy and jax (and safetensors, for weights beside the program): it can be
copied as it is to where a model is served. jax itself needs the package `flatbuffers` to read programs.
"""

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FORMAT, VERSION = "nfjax-export", 1
PROGRAM, CONFIG = "model.stablehlo", "config.json"  # the members of the zip file
MAX_CONFIG = 16 << 20  # bytes
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
            ExportedFileError: jax cannot compile the program.
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
        try:
            return self._call(*self._params, images)
        except Exception as error:
            if isinstance(error, jax.errors.JaxRuntimeError) and "INVALID_ARGUMENT" not in str(error):
                raise  # the device's: out of memory, as a rule
            raise ExportedFileError(
                f"jax {jax.__version__} cannot run the program of {self.config['name']!r:.80}: {_cause(error)}. "
                "Export the model again."
            ) from error


def load_exported(path: str | os.PathLike[str], *, expected_sha256: str | None = None) -> ExportedModel:
    """A model that `nfjax.export` wrote, as a function from images to logits.

    The program is given to jax's compiler as it is. The checksums inside of the file find damage, but whoever changes
    the program can change them too: a file from a place that others can write to needs `expected_sha256`.

    Args:
        path: the zip file; weights that were written beside it are looked for in its folder.
        expected_sha256: of the zip file, in hexadecimal, as `nfjax export` and `sha256sum` print it; it covers the
            weights beside it too. None to take any file.

    Raises:
        FileNotFoundError: the file or the weights beside it are not there.
        ExportedFileError: the content does not have the expected checksum, or is not what it should be.
        ImportError: flatbuffers, or safetensors for weights beside, is not installed.
    """
    path = Path(path).expanduser()
    if expected_sha256 is not None and not _is_digest(expected_sha256.lower()):
        raise ValueError(f"expected_sha256={expected_sha256!r:.80}; expected 64 hexadecimal digits.")
    if not path.is_file():
        raise FileNotFoundError(f"no exported model at {path}: there is no such file.")
    config, program = _read(path, expected_sha256)
    params = None if config["weights"] is None else _weights(path, config)
    try:
        from jax import export

        exported = export.deserialize(bytearray(program))
    except ImportError as error:
        raise ImportError("reading exported models needs flatbuffers: pip install flatbuffers.") from error
    except Exception as error:  # flatbuffers and jax raise whatever the bytes lead them to
        raise ExportedFileError(
            f"{path}: jax {jax.__version__} cannot read this program of jax {config['versions']['jax']:.40}: "
            f"{_cause(error)}. jax reads programs of the six months before it; export the model again."
        ) from error
    if told := _misfit(config, exported, params):
        raise ExportedFileError(f"{path} is damaged or belongs to another export: {told}. Export the model again.")
    return ExportedModel(config, exported, params)


def _read(path: Path, expected_sha256: str | None) -> tuple[dict[str, Any], bytes]:
    """The config and the program of a file, checked."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if expected_sha256 is not None:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != expected_sha256.lower():
                raise ExportedFileError(f"{path} has the sha256 {digest}; expected {expected_sha256}. Do not use it.")
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                _require_stored(members, size)
                config: Any = json.loads(archive.read(CONFIG), parse_constant=_no_constant)
                program = archive.read(PROGRAM)
        except Exception as error:  # zipfile and json raise whatever the bytes lead them to
            raise ExportedFileError(
                f"{path} is damaged, or is not an exported model ({size} bytes): {_cause(error)}. Copy it again, "
                "or export it again with nfjax.export."
            ) from error
    found = (config.get("format"), config.get("version")) if isinstance(config, dict) else type(config).__name__
    if found != (FORMAT, VERSION):
        raise ExportedFileError(f"{path} has format and version {found!r:.120}; expected {(FORMAT, VERSION)}.")
    wrong = [key for key, is_right in _ENTRIES.items() if key not in config or not is_right(config[key])]
    if wrong:
        raise ExportedFileError(f"{path}: its {CONFIG} has no right {', '.join(wrong)}. Export the model again.")
    _check(path, config, PROGRAM, hashlib.sha256(program).hexdigest())
    return config, program


def _require_stored(members: list[zipfile.ZipInfo], size: int) -> None:
    """The two members that are documented, uncompressed: then they are no larger than the file is."""
    names = sorted(member.filename for member in members)
    if names != sorted((CONFIG, PROGRAM)):
        raise ValueError(f"it holds {', '.join(names)!r:.120}, expected {CONFIG} and {PROGRAM}")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"{member.filename} is compressed, expected it to be stored")
        most = min(size, MAX_CONFIG if member.filename == CONFIG else size)
        if member.file_size > most:
            raise ValueError(f"{member.filename} claims {member.file_size} bytes, expected at most {most}")


def _weights(path: Path, config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The weights beside a file, read once: what was checked is what is used."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    beside = path.parent / config["weights"]
    if not beside.is_file():
        raise FileNotFoundError(f"{path} needs its weights, {config['weights']}, beside it; {beside} is missing.")
    content = beside.read_bytes()
    _check(beside, config, config["weights"], hashlib.sha256(content).hexdigest())
    try:
        params: dict[str, np.ndarray] = load(content)
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ExportedFileError(f"{beside} is not a safetensors file that numpy can read: {_cause(error)}.") from error
    return params


def _check(path: Path, config: Mapping[str, Any], name: str, digest: str) -> None:
    expected = config["sha256"].get(name)
    if digest != expected:
        raise ExportedFileError(
            f"{path} is damaged or belongs to another export: sha256 of {name} is {digest}, expected {expected}. "
            "Copy it again, or export the model again."
        )


def _misfit(config: Mapping[str, Any], program: Any, params: Mapping[str, np.ndarray] | None) -> str:
    """What the program takes or gives that is not what the config and the weights say; "" for nothing."""
    arguments = () if params is None else (dict.fromkeys(params, 0),)
    if program.in_tree != jax.tree.structure(((*arguments, 0), {})):
        return "its program takes other arguments than images" + ("" if params is None else " and these weights")
    *weights, images = program.in_avals
    for name, aval in zip(sorted(params or ()), weights, strict=True):
        array = (params or {})[name]
        if aval.shape != array.shape or aval.dtype != array.dtype:
            return f"its program takes {name!r:.80} as {aval.str_short()}, found {array.shape} {array.dtype}"
    pairs = [(config["input"], images), *zip(config["outputs"], program.out_avals, strict=False)]
    if len(config["outputs"]) != len(program.out_avals) or not all(_describes(said, aval) for said, aval in pairs):
        return f"its {CONFIG} describes another program"
    return "" if list(config["platforms"]) == list(program.platforms) else f"its program is for {program.platforms}"


def _describes(said: Mapping[str, Any], aval: Any) -> bool:
    """Whether an entry of the config is about such an array. Symbols of a shape are text, which jax may word anew."""
    shape = said["shape"]
    numbers = [dim if isinstance(dim, int) else None for dim in aval.shape]
    return said["dtype"] == str(aval.dtype) and [dim if isinstance(dim, int) else None for dim in shape] == numbers


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _cause(error: Exception) -> str:
    """An error of a library, in one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_name(value: Any) -> bool:
    """A file in the same folder, and nowhere else."""
    is_plain = isinstance(value, str) and value.isprintable() and Path(value).name == value
    return is_plain and value.endswith(".safetensors")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _is_array(value: Any, dims: range = range(9)) -> bool:
    """`{"shape": ["b", 224, "32*w", 3], "dtype": "float32"}`, with this many dimensions."""
    if not isinstance(value, dict) or not isinstance(value.get("dtype"), str):
        return False
    shape = value.get("shape")
    return (
        isinstance(shape, list)
        and len(shape) in dims
        and all(_is_count(dim) or (isinstance(dim, str) and 0 < len(dim) < 200) for dim in shape)
    )


def _is_input(value: Any) -> bool:
    """An array of four dimensions, whose symbols are like "b" or "32*h"."""
    return _is_array(value, range(4, 5)) and all(
        _is_count(dim) or re.fullmatch(r"([1-9][0-9]{0,5}\*)?[a-z]", dim) for dim in value["shape"]
    )


def _all(is_right: Callable[[Any], bool], least: int = 1) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) >= least and all(map(is_right, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


# What a config.json of this version says, and what is right for it.
_ENTRIES: dict[str, Callable[[Any], bool]] = {
    "name": _is_text,
    "input": _is_input,
    "outputs": _all(_is_array),
    "mean": _all(_is_number),
    "std": _all(lambda value: _is_number(value) and value > 0),
    "interpolation": _is_text,
    "crop_pct": lambda value: _is_number(value) and value > 0,
    "crop_mode": _is_text,
    "num_classes": _is_count,
    "label_names": lambda value: value is None or _all(_is_text, 0)(value),
    "license": lambda value: value is None or _is_text(value),
    "platforms": _all(_is_text),
    "compute_dtype": _is_text,
    "versions": lambda value: isinstance(value, dict) and _is_text(value.get("jax")),
    "weights": lambda value: value is None or _is_name(value),
    "sha256": lambda value: isinstance(value, dict) and all(map(_is_digest, value.values())),
}


def _fits(dim: int | str, size: int) -> bool:
    """Whether `size` is one that a dimension like 224, "b" or "32*h" allows."""
    if isinstance(dim, int):
        return size == dim
    factor = int(dim.partition("*")[0]) if "*" in dim else 1
    return size > 0 and size % factor == 0
