"""Models from the command line; `python -m nfjax COMMAND --help` explains each command."""

import argparse
import sys

from nfjax import cache
from nfjax.cli import classify, embed, export, features, models


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m nfjax", description=__doc__, epilog="example: python -m nfjax list"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (models, classify, embed, features, export):
        module.add(commands)
    args = parser.parse_args(argv)
    cache.enable()
    try:
        run: int = args.run(args)
        return run
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
