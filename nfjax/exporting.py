"""`nfjax.export`: a model as one file that jax runs without flax, on several platforms, for any batch size.

The file is an uncompressed zip with `model.stablehlo`, the serialised program of `jax.export`, and `config.json`, what
a server must know about it. `nfjax.serving` reads it, and so can five lines of jax (docs/serving.md).
"""

import hashlib
import importlib.util
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

import nfjax
from nfjax.fast.backend import traced_for
from nfjax.infer import fold
from nfjax.models.base import ImageModel, Size, sides
from nfjax.models.vit import VisionTransformer
from nfjax.params import merge, split
from nfjax.serving import CONFIG, FORMAT, PROGRAM, VERSION
from nfjax.support.early import require_export
from port import write_safetensors
from port.atomic import replacing
from port.paths import user_path

Weights = Literal["inside", "beside"]
Format = Literal["zip", "stablehlo-text"]

PLATFORMS = ("cpu", "cuda", "tpu")
KNOWN_PLATFORMS = (*PLATFORMS, "rocm")
MAX_INSIDE = 2**31 - 2**24  # bytes: a flatbuffer ends at 2 GiB, and the program itself needs some


def export(
    model: ImageModel,
    path: str | os.PathLike[str],
    *,
    weights: Weights = "inside",
    platforms: Sequence[str] | None = None,
    img_size: int | tuple[int, int] | None = None,
    batch: int | None = None,
    dynamic_size: bool = False,
    uint8: bool = False,
    format: Format = "zip",
) -> Path:
    """Write a model for serving: `nfjax.serving.load_exported(path)(images)` is then `model(images)`.

    The weight standardisation is folded in. Multiplications have the precision that
    `jax.default_matmul_precision` has during the export; a server cannot raise it afterwards.

    Args:
        model: any model, also one with `features_only=True` or without a classifier; float32 or half precision.
        path: the file to write, `.zip` or `.mlir` by format. It is replaced atomically.
        weights: "inside", as constants of the program; or "beside", as a file `path` with the suffix .safetensors,
            `{path: float32 array}` of the folded model.
        platforms: some of "cpu", "cuda", "tpu" and "rocm"; None for the first three in a zip, for "cpu" in a text.
        img_size: height and width of the images, in pixels; None for the model's own.
        batch: a fixed number of images; None for any.
        dynamic_size: let height and width be any multiple of the output stride (32). Convolutional models only.
        uint8: take RGB from 0 to 255, and normalise it in the program.
        format: "zip", or "stablehlo-text" for the program as MLIR text for other compilers.

    Raises:
        ValueError: a model or an option that cannot be exported; it says why.
        ImportError: flatbuffers is not installed.
    """
    path = user_path(path)
    require_export(path, format)
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError("exporting needs flatbuffers, which is not installed: pip install 'nfjax[export]'.")
    if model.dtype == jnp.float64:
        raise ValueError("a float64 model runs only where x64 is enabled; load it with dtype float32 to export it.")
    platforms = (PLATFORMS if format == "zip" else PLATFORMS[:1]) if platforms is None else tuple(platforms)
    unknown = sorted(set(platforms) - set(KNOWN_PLATFORMS))
    if unknown or not platforms:
        raise ValueError(f"platforms {', '.join(unknown) or 'empty'}; choose from {', '.join(KNOWN_PLATFORMS)}.")

    images = _images(model, img_size, batch, dynamic_size, uint8)
    graphdef, variables = split(model if model.folded else fold(model))
    params = jax.device_get(variables)
    size = sum(array.nbytes for array in params.values())
    if weights == "inside" and size > MAX_INSIDE:
        raise ValueError(
            f"{size / 2**30:.1f} GiB of weights do not fit into a program of 2 GiB; pass weights='beside'."
        )
    prepare = normalisation(model) if uint8 else lambda x: x

    def call(params: Mapping[str, Any], x: jax.Array) -> Any:
        return merge(graphdef, params)(prepare(x))

    beside = path.with_suffix(".safetensors") if weights == "beside" else None
    function = jax.jit((lambda x: call(params, x)) if beside is None else call)
    shapes = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in params.items()}
    with _portable():
        program = jax_export.export(function, platforms=platforms)(*([] if beside is None else [shapes]), images)

    if beside is not None:
        write_safetensors(params, beside, format=FORMAT)
    if format == "stablehlo-text":
        with replacing(path) as partial:
            partial.write_text(program.mlir_module(), encoding="utf-8")
        return path
    content = bytes(program.serialize())
    config = _config(model, program, images, uint8) | {
        "weights": None if beside is None else beside.name,
        "sha256": {PROGRAM: hashlib.sha256(content).hexdigest()},
    }
    if beside is not None:
        with beside.open("rb") as file:
            config["sha256"][beside.name] = hashlib.file_digest(file, "sha256").hexdigest()

    with replacing(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        # Without the time of writing the same model makes the same file.
        archive.writestr(zipfile.ZipInfo(CONFIG), json.dumps(config, indent=2) + "\n")
        archive.writestr(zipfile.ZipInfo(PROGRAM), content)
    return path


def _images(
    model: ImageModel, img_size: int | Size | None, batch: int | None, dynamic_size: bool, uint8: bool
) -> jax.ShapeDtypeStruct:
    """Shape and dtype of the program's input; "b", "h" and "w" are symbols."""
    if batch is not None and batch < 1:
        raise ValueError(f"batch={batch}; expected at least 1, or None for any number of images.")
    if dynamic_size and (isinstance(model, VisionTransformer) or img_size is not None):
        why = "img_size fixes it" if img_size is not None else f"{model.name} is a transformer, made for one size"
        raise ValueError(f"dynamic_size=True leaves height and width open, but {why}; choose one.")
    height, width = model.data_config.input_size[1:] if img_size is None else sides(img_size)
    # jax takes minutes to compare the sizes of maps if those are halves of any number, rounded up.
    stride = model.output_stride
    grid = f"{stride}*h, {stride}*w" if dynamic_size else f"{height}, {width}"
    shape = jax_export.symbolic_shape(f"{'b' if batch is None else batch}, {grid}, {model.in_chans}")
    return jax.ShapeDtypeStruct(shape, jnp.uint8 if uint8 else jnp.float32)


def normalisation(model: ImageModel) -> Callable[[jax.Array], jax.Array]:
    """From RGB of 0 to 255 to what the model takes."""
    mean, std = (np.asarray(values, np.float32) for values in (model.data_config.mean, model.data_config.std))
    if len(mean) != model.in_chans:
        raise ValueError(f"uint8=True needs a mean and std per channel: found {len(mean)}, expected {model.in_chans}.")
    return lambda x: (x.astype(jnp.float32) / 255 - mean) / std


def _config(model: ImageModel, program: Any, images: jax.ShapeDtypeStruct, uint8: bool) -> dict[str, Any]:
    """What a server must know: what goes in, what comes out, and what it means."""
    return {
        "format": FORMAT,
        "version": VERSION,
        **described(model),
        "input": _array(images) | {"layout": "NHWC", "normalised": not uint8},
        "outputs": [_array(output) for output in program.out_avals],
        "platforms": program.platforms,
        "versions": {"nfjax": nfjax.__version__, "jax": jax.__version__},
    }


def described(model: ImageModel) -> dict[str, Any]:
    """What a file says of the model in it."""
    data = model.data_config
    return {
        "name": model.name,
        **{field: getattr(data, field) for field in ("mean", "std", "interpolation", "crop_pct", "crop_mode")},
        "num_classes": model.num_classes,
        "label_names": data.label_names,
        **({"problem_type": data.problem_type} if data.problem_type is not None else {}),
        "license": data.license,
        "compute_dtype": str(model.dtype),
    }


def _array(aval: Any) -> dict[str, Any]:
    return {"shape": [d if isinstance(d, int) else str(d) for d in aval.shape], "dtype": str(aval.dtype)}


@contextmanager
def _portable() -> Iterator[None]:
    """Trace for other machines than this one, and without the names of its folders.

    Of each operation the program keeps the line of nfjax that made it, but not the callers.
    """
    regex, tracebacks = "jax_hlo_source_file_canonicalization_regex", "jax_include_full_tracebacks_in_locations"
    before = {option: getattr(jax.config, option) for option in (regex, tracebacks)}
    try:
        jax.config.update(regex, r".*[/\\]")
        jax.config.update(tracebacks, False)
        with traced_for("any"):
            yield
    finally:
        for option, value in before.items():
            jax.config.update(option, value)
