"""The options of `nfjax export`."""

import argparse
from typing import Any

from nfjax.cli.options import IMAGES, MODEL, img_size_option, weights_options
from nfjax.models.known import require_model
from nfjax.support.early import SUFFIX, find, format_of, require_export
from port.commands import Parser, one_model
from port.paths import user_path

FORMATS, PLATFORMS = tuple(SUFFIX), ("cpu", "cuda", "tpu", "rocm")  # as nfjax.exporting has them

# Options of `export` that an ONNX file has not, with their usual values.
NOT_ONNX: dict[str, tuple[str, Any]] = {
    "--weights-in beside": ("weights_in", "inside"),
    "--dynamic-size": ("dynamic_size", False),
    "--platforms": ("platforms", None),
    "--dtype": ("dtype", "float32"),
    "--precision": ("precision", "default"),
}


def export(parser: Parser) -> None:
    parser.description = "Write a model for serving, read it back, and compare what the two compute."
    parser.epilog = """examples:
  %(prog)s eca_nfnet_l0 -o eca_nfnet_l0.zip --uint8
  %(prog)s eca_nfnet_l0 -o eca_nfnet_l0.onnx
  %(prog)s eca_nfnet_l0 -o eca_nfnet_l0.onnx --int8 --calibrate photos/
  %(prog)s eca_nfnet_l0 --page site

After the first, on a machine with jax and flatbuffers but without nfjax:
  archive = zipfile.ZipFile("eca_nfnet_l0.zip")
  program = jax.export.deserialize(bytearray(archive.read("model.stablehlo")))
  logits = jax.jit(program.call)(images)  # (batch, 224, 224, 3), uint8"""
    add = parser.add_argument
    parser.add_model(MODEL)
    parser.checks += [
        _require_export,
        lambda args: require_model(one_model(args)),
    ]
    weights_options(parser)
    add("-o", "--output", type=user_path, metavar="FILE", help="default: the model's name, .zip, .mlir or .onnx")
    add("--format", choices=FORMATS, help="default: as FILE ends, or zip; stablehlo-text: for other compilers")
    add("--page", type=user_path, metavar="DIR", help="a static page that classifies in the browser, with ONNX")
    add("--runtime", type=user_path, metavar="DIR", help="of the page: onnxruntime-web, unpacked (default: by npm)")
    where = "inside the program, or beside it as .safetensors (default: %(default)s)"
    add("--weights-in", choices=["inside", "beside"], default="inside", help=where)
    img_size_option(parser)
    add("--dynamic-size", action="store_true", help="any multiple of the stride; convolutional models")
    add("--batch-size", type=int, metavar="N", help="fixed batch size (default: any)")
    parser.hidden("--batch", instead_of="--batch-size")
    add("--uint8", action="store_true", help="take RGB of 0 to 255, normalise it in the program")
    add("--int8", action="store_true", help="of ONNX: convolutions and products with weights in int8")
    ranges = f"for --int8: {IMAGES}; some hundred of those that the model is for"
    add("--calibrate", nargs="+", metavar="IMAGES", help=ranges)
    add("--platforms", nargs="+", choices=PLATFORMS, help="default: cpu cuda tpu (stablehlo-text: cpu)")
    add("--num-classes", type=int, metavar="N", help="0 for embeddings (default: the weights' own)")
    add("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="to compute in")
    precision = "of float32 products on GPU and TPU; highest for timm's digits (default: the backend's fast one)"
    add("--precision", choices=["default", "high", "highest"], default="default", help=precision)


def _require_export(args: argparse.Namespace) -> None:
    """Settle the format of an export, and refuse what it does not have."""
    if args.page is not None and (args.output is not None or args.format not in (None, "onnx")):
        raise ValueError("--page writes DIR/model.onnx; leave out --output and --format.")
    if args.runtime is not None and args.page is None:
        raise ValueError("--runtime is of a page: give --page DIR too.")
    args.format = "onnx" if args.page is not None else format_of(args.output, args.format)
    require_export(args.output, args.format)
    if args.int8 != (args.calibrate is not None):
        raise ValueError("--int8 and --calibrate IMAGES go together: images say how large activations become.")
    if args.int8 and (args.format != "onnx" or args.page is not None):
        raise ValueError("--int8 is for an ONNX file alone: -o FILE.onnx.")
    for pattern in args.calibrate or ():
        find(pattern)
    for option, (name, usual) in NOT_ONNX.items() if args.format == "onnx" else ():
        if getattr(args, name) != usual:
            raise ValueError(f"{option} is not for ONNX files; leave it out, or write a .zip.")
