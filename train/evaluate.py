"""Accuracy of models on images: `nfjax evaluate --model NAME --data DIR`; `--help` has examples."""

import sys
from collections.abc import Sequence

from port.messages import exit_status
from train.evaluation.options import parse


def main(argv: Sequence[str], prog: str = "python -m train.evaluate") -> int:
    """Run the command: exit status 2 where nothing could be evaluated, 1 where something failed, else 0."""
    args, given = parse(argv, prog)
    from train.evaluation.run import run

    return exit_status(lambda: run(args, given))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
