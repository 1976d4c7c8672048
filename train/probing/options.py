"""The command line of `nfjax probe`; a mistake in it is told before anything is computed."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nfjax.cli.options import model_options
from port.commands import Parser
from port.paths import user_path
from train.cli.images import data_of, data_options
from train.config import Data
from train.data.place import require_root

DESCRIPTION = """Find out what the features of a frozen model are worth for images of your own.

Images are embedded once, and the embeddings kept in the cache by content. Then k nearest neighbours, and a linear
classifier on the features, say what the test images are. How many neighbours, and how strongly the classifier is
regularised, is chosen on training images that are held out. Splits and classes are those of `nfjax train`."""
EXAMPLE = """examples:
  %(prog)s --data pictures --model vit_small_patch14_reg4_dinov2 --img-size 224
  %(prog)s --data digits --model eca_nfnet_l0 --save my_model
  %(prog)s --data tfds/oxford_flowers102 --model eca_nfnet_l0 -o flowers

OUTPUT receives results.json, and of the linear classifier classes.csv, confusion.png and mistakes.png as `nfjax
evaluate` writes them; neighbours.png has the nearest training images of some test images. --save writes a folder that
`nfjax classify`, `evaluate`, `export` and timm take as a model. The exit status is 1 if an image could not be read.
"""
# Fields of the config's data section that matter.
DATA_FIELDS = ("name", "root", "train_split", "val_split", "val_share", "class_map", "input_key", "target_key")


def parse(argv: Sequence[str], prog: str = "python -m train.probe") -> tuple[argparse.Namespace, Data]:
    """The options, and the images that they name.

    Ends the process like a command: `--help` prints the help, status 0; a mistake prints one message, status 2.

    Raises:
        ValueError, OSError: there is no such model or folder; or where results are to be written is no folder.
    """
    parser = Parser(
        prog=prog,
        usage="%(prog)s --data PLACE [--model NAME] [-o DIR] [--save DIR] [--OPTION=VALUE ...]",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        allow_abbrev=False,
    )
    options(parser)
    args = parser.parse_args(argv)
    given = data_of(parser, args, DATA_FIELDS)
    for check in parser.checks:
        check(args)
    for folder in filter(None, (args.out, args.save)):
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file; expected a folder to write to.")
    if not given:
        parser.error("which images? --data=DIR names a folder with a folder per class, DIR/train/CLASS/*.jpg.")
    data = Data(**{"name": "folder"} | given)
    require_root(data)
    return args, data


def options(parser: Parser) -> None:
    """Add the options to a parser."""
    add = parser.add_argument
    model_options(parser)
    add("--batch-size", type=int, default=16, metavar="N", help="images at a time (default: %(default)s)")
    add("-o", "--output", dest="out", type=user_path, default=Path("probe"), metavar="DIR",
        help="for the results (%(default)s)")  # fmt: skip
    add("--save", type=user_path, metavar="DIR", help="write the model with the linear classifier as its head")
    data_options(parser, DATA_FIELDS)
