"""Look through a data set: classes, sizes, broken images, and a contact sheet.

Its images are in a folder for each class, in a table (.csv, .tsv, .jsonl, .parquet), in tfds/NAME, or where
a config says: --config=FILE [--config.data.FIELD=VALUE ...].
The exit status is 1 if there are broken images, or the same images in both splits.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from port.commands import Command, Parser, dispatch
from port.messages import exit_status
from port.paths import user_path
from train.data.place import place, require_root

COMMANDS = {"inspect": Command("classes, sizes, broken images, and a contact sheet", "train.data.__main__:inspect")}


def main(argv: Sequence[str]) -> int:
    return dispatch(COMMANDS, argv, "python -m train.data", about=str(__doc__))


def options(parser: Parser) -> None:
    parser.add_argument("place", nargs="?", metavar="PLACE", help="a folder, a table, or tfds/NAME; or else --config")
    parser.add_argument(
        "-o",
        "--output",
        type=user_path,
        default=Path("contact_sheet.png"),
        metavar="PNG",
        help="file of the contact sheet (default: %(default)s, in the folder that the command is called in)",
    )
    parser.hidden("--out", instead_of="--output")
    parser.add_argument("--limit", type=int, metavar="N", help="read only so many images of each split")


def inspect(argv: Sequence[str], prog: str) -> int:
    """Run the command."""
    return exit_status(lambda: _inspect(argv, prog), extra="train", prog=prog)


def _inspect(argv: Sequence[str], prog: str) -> int:
    parser = Parser(prog=prog, description=__doc__, others=("--config", "--noconfig"))
    options(parser)
    args, fields = parser.parse_known_args(argv)
    if args.place is None and not fields:
        parser.error("give a folder of images, a table or tfds/NAME, or a config: --config=FILE.")
    if args.place is not None and fields:
        parser.error(f"{' '.join(fields)}: fields of a config need --config=FILE, which takes the place of PLACE.")
    from train.cli.flags import parse
    from train.config import Augment, Data

    config = parse([prog, *fields])[0] if args.place is None else None
    data = None if args.place is None else Data(**place(args.place))
    if data:
        require_root(data)
    from train.data.dataset import for_config, load_dataset
    from train.data.inspect import inspect

    dataset = for_config(config) if config else load_dataset(data or Data(), augment=Augment())
    return 0 if inspect(dataset, args.output, args.limit) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
