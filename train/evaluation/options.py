"""The command line of `nfjax evaluate`; a mistake in it is told before anything is computed."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nfjax.models.known import require_model
from nfjax.support.early import require_weights
from port.commands import Parser
from port.paths import user_path
from train.cli.images import data_of, data_options
from train.config import Data
from train.data.place import require_root

DESCRIPTION = """Count how often models are right about images: top-1 and top-5, exactly, on all devices and processes.

Size, crop, interpolation, mean and std of the images are those that a model's weights are best tested with. An
evaluation that was interrupted goes on where it was; models that are in the results already are passed over."""
EXAMPLE = """examples:
  %(prog)s --model eca_nfnet_l0 --data /data/imagenet/val
  %(prog)s --model 'eca_nfnet_l*' 'vit_medium*reg*' --data tfds/imagenet2012 --dtype bfloat16
  %(prog)s --model nfnet_l0 --data /data/imagenet/val --real real.json
  %(prog)s --model runs/pictures                    a run, on the images that it was tested on
  %(prog)s --model runs/a/final --data pictures --data.val_split=val -o runs/a/evaluation

OUTPUT receives results.csv, a row a model, and for each model a folder with predictions.csv, classes.csv (names of the
classes, accuracy of each), confusion.png and mistakes.png. The exit status is 1 if a model or an image failed.
"""
# Fields of the config's data section that matter to an evaluation.
DATA_FIELDS = (
    "name", "root", "val_split", "class_map", "input_key", "target_key", "multi_label", "test_size", "crop_pct",
    "crop_mode", "interpolation", "mean", "std", "batch_size", "workers", "stall_seconds",
)  # fmt: skip


def parse(argv: Sequence[str], prog: str = "python -m train.evaluate") -> tuple[argparse.Namespace, dict[str, Any]]:
    """The options, and the fields of `train.config.Data` that are given.

    Ends the process like a command: `--help` prints the help, status 0; a mistake prints one message, status 2.
    """
    parser = Parser(
        prog=prog,
        usage="%(prog)s --model NAME [NAME ...] [--data PLACE] [-o DIR] [--OPTION=VALUE ...]",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        allow_abbrev=False,
    )
    options(parser)
    args = parser.parse_args(argv)
    return args, data_of(parser, args, DATA_FIELDS)


def require_found(args: argparse.Namespace, given: dict[str, Any]) -> None:
    """Refuse models, weights and images that there surely are not, before anything that takes long is imported.

    Raises:
        ValueError, OSError: names the first of them.
    """
    for name in args.model:
        if not set("*?[") & set(name):
            require_model(name, onnx=True)
    if args.weights != "none":
        require_weights(args.weights)
    if "root" in given:
        require_root(Data(**{"name": "folder"} | given))


def options(parser: Parser) -> None:
    """Add the options to a parser."""
    add = parser.add_argument
    add("--model", nargs="+", action="extend", required=True, metavar="NAME",
        help="names or patterns of nfjax's models, hf-hub:ORG/NAME, local-dir:PATH, runs, FILE.onnx")  # fmt: skip
    add("-o", "--output", dest="out", type=user_path, default=Path("evaluation"), metavar="DIR",
        help="for the results (%(default)s)")  # fmt: skip
    parser.hidden("--out", instead_of="--output")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="to compute in (%(default)s)")
    add("--weights", default="pretrained", help="a file or folder instead of a model's own; none for fresh ones")
    parser.add_weights_key()
    add("--real", type=user_path, metavar="FILE", help="real.json, ImageNet's reassessed labels (arXiv 2006.07159)")
    add("--restrict-classes", action="store_true", help="outputs that are no class of the data set do not compete")
    add = parser.add_argument_group("several processes").add_argument
    add("--coordinator", metavar="HOST:PORT", help="process 0, where no cluster tells; with the next two")
    add("--num-processes", type=int, metavar="N", help="how many there are")
    add("--process-id", type=int, metavar="I", help="which one this is, from 0")
    parser.hidden("--num_processes", instead_of="--num-processes")
    parser.hidden("--process_id", instead_of="--process-id")
    add("--distributed", choices=("auto", "on", "off"), default="auto", help="wait for the others")
    data_options(parser, DATA_FIELDS)
