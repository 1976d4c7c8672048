"""`nfjax export`: a model as one file for serving."""

import argparse
import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nfjax
from nfjax import cache
from nfjax.cli.common import find_images, img_size_of, read_place
from nfjax.models.base import ImageModel
from nfjax.support.early import SUFFIX
from port.atomic import replaced
from port.commands import one_model
from port.text import counted, file_size

# Of a batch, relative to the largest output. XLA folds constants, so that the rounding differs; beyond float32 on a
# CPU it differs by the last bits of bfloat16, to which GPU and TPU round the factors of a product.
TOLERANCE, REDUCED_TOLERANCE = 1e-5, 2e-2
MAX_CALIBRATED = 512  # images


def run(args: argparse.Namespace) -> int:
    """Export, print what was written, and check it. 1 if the file computes something else than the model."""
    name, size = one_model(args), img_size_of(args)
    cache.enable()
    sizes = {"num_classes": args.num_classes, "img_size": size}
    model = nfjax.load(name, args.weights, weights_key=args.weights_key, dtype=args.dtype, **sizes)
    output = Path(f"{model.name}{SUFFIX[args.format]}") if args.output is None else args.output
    if args.format == "onnx":
        return _onnx(model, output, args)
    options = {option: getattr(args, option) for option in ("platforms", "dynamic_size", "uint8", "format")}
    options |= {"weights": args.weights_in, "batch": args.batch_size, "img_size": None if args.dynamic_size else size}
    files = [output, output.with_suffix(".safetensors")] if args.weights_in == "beside" else [output]
    again = list(map(replaced, files))
    with jax.default_matmul_precision(args.precision):
        path = nfjax.export(model, output, **options)
        for file, before in zip(files, again, strict=True):
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            print(f"{file}{before}: {file_size(file.stat().st_size)}, sha256 {digest}")
        if args.format != "zip":
            print("not compared with the model: jax does not read the text back.")
            return 0
        return _verify(model, path)


def _onnx(model: ImageModel, output: Path, args: argparse.Namespace) -> int:
    """Write ONNX, or a page with it, and say what it is."""
    size = img_size_of(args)
    if args.page is not None:
        from nfjax.onnx.page import write_page

        found = write_page(model, args.page, img_size=size, runtime=args.runtime)
        print(f"{args.page}: a page of {file_size(sum(f.stat().st_size for f in args.page.rglob('*') if f.is_file()))}")
        again = ""
    else:
        again = replaced(output)
        options = {"img_size": size, "batch": args.batch_size, "uint8": args.uint8}
        found = nfjax.export_onnx(model, output, **options, calibrate=_calibration(model, args))
    with found.path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    print(f"{found.path}{again}: {file_size(found.path.stat().st_size)}, sha256 {digest}")
    shape, dtype = found.inputs
    outputs = ", ".join(f"{name} {_shape([*each])}" for name, each in found.outputs.items())
    print(f"ONNX opset {found.opset}, images {_shape([*shape])} {dtype}, {outputs}")
    beside = "in onnxruntime" if found.int8 is None else "in float32"
    print(f"{beside}: relative difference to the model {found.difference:.1e} <= {TOLERANCE:.0e} pass")
    if found.int8 is not None:
        images, changed, layers, kept = found.int8
        print(f"int8: {changed} of {counted(images, 'image')} changed {'its' if changed == 1 else 'their'} class")
        print(f"{layers - len(kept)} of {counted(layers, 'layer')} in int8, in float32: {', '.join(kept) or 'none'}")
    return 0


def _calibration(model: ImageModel, args: argparse.Namespace) -> np.ndarray | None:
    """The images of --calibrate as the file takes them: at most so many, evenly chosen."""
    if args.calibrate is None:
        return None
    files = find_images(args.calibrate)
    files = files[:: max(1, -(-len(files) // MAX_CALIBRATED))]
    transform = nfjax.create_transform(model, img_size=img_size_of(args))
    prepare = transform.pixels if args.uint8 else transform
    print(f"calibrating on {counted(len(files), 'image')}", file=sys.stderr)
    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(lambda file: prepare(read_place(file, transform.mode)), files)))


def _verify(model: ImageModel, path: Path) -> int:
    """Compare the file with the model on two random batches."""
    exported = nfjax.load_exported(path)
    takes, platforms = exported.config["input"], exported.config["platforms"]
    outputs = ", ".join(f"{_shape(output['shape'])} {output['dtype']}" for output in exported.config["outputs"])
    print(f"input {_shape(takes['shape'])} {takes['dtype']}, output {outputs}, for {', '.join(platforms)}")
    backend = jax.default_backend()
    if not {"cuda", "rocm"} & set(platforms) if backend == "gpu" else backend not in platforms:
        print(f"not compared with the model: this machine is {backend}.")
        return 0
    exact = model.dtype == jnp.float32 and backend == "cpu"
    tolerance = TOLERANCE if exact else REDUCED_TOLERANCE
    reference = jax.jit(lambda x: model(x))
    mean, std = (np.asarray(values, np.float32) for values in (model.data_config.mean, model.data_config.std))
    failed = False
    batch = takes["shape"][0]
    for count in (batch,) if isinstance(batch, int) else (2, 3):
        rng = np.random.default_rng(count)
        images: np.ndarray = rng.standard_normal((count, *_sides(model, takes["shape"], count)), np.float32)
        wanted = images
        if takes["dtype"] == "uint8":
            images = rng.integers(0, 256, images.shape, np.uint8)
            wanted = (images.astype(np.float32) / 255 - mean) / std
        difference = _relative(exported(images), reference(jnp.asarray(wanted)))
        verdict = "pass" if difference <= tolerance else "FAIL"  # also if it is NaN
        failed |= verdict == "FAIL"
        print(f"batch of {count}: relative difference to the model {difference:.1e} <= {tolerance:.0e} {verdict}")
    return int(failed)


def _sides(model: ImageModel, shape: list[Any], count: int) -> tuple[int, int, int]:
    """Height, width and channels to try; of a dynamic size, another for each batch."""
    if isinstance(shape[1], int):
        return shape[1], shape[2], shape[3]
    stride = model.output_stride
    return stride * (count + 2), stride * (count + 3), shape[3]


def _shape(shape: list[Any]) -> str:
    return f"({', '.join(map(str, shape))})"


def _relative(found: Any, expected: Any) -> float:
    """max |found - expected| / max |expected| of the output that differs most."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    arrays = [(np.asarray(a, np.float32), np.asarray(b, np.float32)) for a, b in pairs]
    return max(float(np.max(np.abs(a - b)) / (np.max(np.abs(b)) or 1)) for a, b in arrays)
