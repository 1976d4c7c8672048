"""Accuracy of models on images: `nfjax evaluate --model NAME --data DIR`; `--help` has examples."""

import sys
from collections.abc import Sequence

from port.messages import exit_status


def main(argv: Sequence[str], prog: str = "python -m train.evaluate") -> int:
    """Run the command: exit status 2 where nothing could be evaluated, 1 where something failed, else 0."""

    def evaluate() -> int:
        from train.evaluation.options import parse, require_found

        args, given = parse(argv, prog)
        require_found(args, given)
        from train.evaluation.run import run

        return run(args, given)

    return exit_status(evaluate, extra="train", prog=prog)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
