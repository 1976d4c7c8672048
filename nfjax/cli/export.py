"""`python -m nfjax export`: a model as one file for serving."""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nfjax
from nfjax.exporting import KNOWN_PLATFORMS, SUFFIX
from nfjax.models.base import ImageModel

EXAMPLE = """example:
  python -m nfjax export eca_nfnet_l0 -o eca_nfnet_l0.zip --uint8

Then, on a machine with jax and flatbuffers but without nfjax:
  archive = zipfile.ZipFile("eca_nfnet_l0.zip")
  program = jax.export.deserialize(bytearray(archive.read("model.stablehlo")))
  logits = jax.jit(program.call)(images)  # (batch, 224, 224, 3), uint8
"""
# Of a batch, relative to the largest output. XLA folds constants, so that the rounding differs; beyond float32 on a
# CPU it differs by the last bits of bfloat16, to which GPU and TPU round the factors of a product.
TOLERANCE, REDUCED_TOLERANCE = 1e-5, 2e-2


def add(commands: Any) -> None:
    """Register the subcommand with an `argparse` subparsers object."""
    command = commands.add_parser(
        "export",
        help="a model as one file that jax runs without flax",
        description="Write a model for serving, read it back, and compare what the two compute.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    command.add_argument("name", metavar="NAME", help="model name, hf-hub:organisation/name or local-dir:FOLDER")
    command.add_argument("--weights", metavar="FILE", help="a file or folder of weights, instead of the published ones")
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: the model's name, .zip or .mlir")
    command.add_argument("--format", choices=list(SUFFIX), default="zip", help="stablehlo-text: for other compilers")
    command.add_argument(
        "--weights-in",
        choices=["inside", "beside"],
        default="inside",
        help="inside the program, or beside it as .safetensors (default: %(default)s)",
    )
    command.add_argument("--img-size", type=int, nargs="+", metavar="PIXELS", help="one side, or height and width")
    command.add_argument("--dynamic-size", action="store_true", help="any multiple of the stride; convolutional models")
    command.add_argument("--batch", type=int, metavar="N", help="fixed batch size (default: any)")
    command.add_argument("--uint8", action="store_true", help="take RGB of 0 to 255, normalise it in the program")
    command.add_argument(
        "--platforms", nargs="+", choices=KNOWN_PLATFORMS, help="default: cpu cuda tpu (stablehlo-text: cpu)"
    )
    command.add_argument("--num-classes", type=int, metavar="N", help="0 for embeddings (default: the weights' own)")
    command.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="to compute in")
    command.add_argument(
        "--precision",
        choices=["default", "high", "highest"],
        default="default",
        help="of float32 products on GPU and TPU; highest for timm's digits (default: the backend's fast one)",
    )


def run(args: argparse.Namespace) -> int:
    """Export, print what was written, and check it. 1 if the file computes something else than the model."""
    if args.img_size is not None and len(args.img_size) > 2:
        raise ValueError(f"--img-size takes one number, or height and width; found {len(args.img_size)}.")
    img_size = None if args.img_size is None else (args.img_size[0], args.img_size[-1])
    model = nfjax.load(
        args.name,
        weights="pretrained" if args.weights is None else args.weights,
        num_classes=args.num_classes,
        img_size=img_size,
        dtype=args.dtype,
    )
    output = Path(f"{model.name}{SUFFIX[args.format]}") if args.output is None else args.output
    with jax.default_matmul_precision(args.precision):
        path = nfjax.export(
            model,
            output,
            weights=args.weights_in,
            platforms=args.platforms,
            img_size=None if args.dynamic_size else img_size,
            batch=args.batch,
            dynamic_size=args.dynamic_size,
            uint8=args.uint8,
            format=args.format,
        )
        for file in [path, path.with_suffix(".safetensors")] if args.weights_in == "beside" else [path]:
            print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
        if args.format != "zip":
            print("not compared with the model: jax does not read the text back.")
            return 0
        return _verify(model, path)


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
        failed |= not difference <= tolerance  # also if it is NaN
        verdict = "FAIL" if not difference <= tolerance else "pass"
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
