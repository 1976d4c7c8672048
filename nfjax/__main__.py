"""The command `nfjax`: models and images, training, weights. `python -m nfjax` is the same."""

import sys
from collections.abc import Sequence

import nfjax
from nfjax import siblings
from nfjax.cli.table import COMMANDS
from port.commands import dispatch
from port.messages import exit_status

ABOUT = "Models and images, training, and weights; `nfjax COMMAND --help` explains each command."


def main(argv: Sequence[str] | None = None, prog: str = "nfjax") -> int:
    """Run a command; the exit status is 0 if all went well, 1 if it found something wrong, 2 for a mistake."""
    given = sys.argv[1:] if argv is None else argv

    def run() -> int:
        siblings.search_our_folder_first()
        return dispatch(COMMANDS, given, prog, about=ABOUT, version=f"nfjax {nfjax.__version__}")

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main(prog="python -m nfjax"))
