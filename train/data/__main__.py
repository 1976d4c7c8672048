"""Look through a data set: `python -m train.data inspect DIR`, or `--config=FILE [--config.data.FIELD=VALUE ...]`."""

import argparse
import sys
from pathlib import Path


def main(argv: list[str]) -> int:
    """Run the command; the exit status is 1 if there are broken images, or the same images in both splits."""
    parser = argparse.ArgumentParser(prog="python -m train.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("inspect", help="classes, sizes, broken images, and a contact sheet")
    command.add_argument("folder", nargs="?", help="images in a folder per class; otherwise give --config=FILE")
    command.add_argument("--out", type=Path, default=Path("contact_sheet.png"), help="PNG file of the contact sheet")
    command.add_argument("--limit", type=int, help="read only so many images of each split")
    options, others = parser.parse_known_args(argv)

    from train.cli.flags import parse
    from train.config import Augment, Data

    if options.folder is not None and others:
        parser.error(f"{' '.join(others)}: fields of a config need --config=FILE, which takes the place of a folder")
    config = parse([parser.prog, *others])[0] if options.folder is None else None

    from train.data.dataset import for_config, load
    from train.data.inspect import inspect

    try:
        dataset = for_config(config) if config else load(Data(name="folder", root=options.folder), augment=Augment())
        return 0 if inspect(dataset, options.out, options.limit) else 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
