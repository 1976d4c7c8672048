"""Average checkpoints of a run into one model, and write it as a folder that timm and nfjax load.

What is averaged are the weights to evaluate, in float64: moving averages where the run has them.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from port.commands import Parser
from port.messages import exit_status

EXAMPLES = """examples:
  %(prog)s RUN                         all the checkpoints that there are
  %(prog)s RUN --best 3 --output DIR   those with the best checkpoint.metric
  %(prog)s RUN --steps 1000 2000"""


def main(argv: Sequence[str] | None = None, prog: str = "python -m train.average") -> int:
    """Run the command."""
    parser = Parser(prog=prog, description=__doc__, epilog=EXAMPLES)
    options(parser)
    args = parser.parse_args(argv)

    def average() -> int:
        from train.checkpoints.averages import run

        out = args.output or args.run / "average"
        return run(args.run, out, last=args.last, best=args.best, steps=args.steps)

    return exit_status(average, extra="train")


def options(parser: Parser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the --workdir of the run")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--last", type=int, metavar="N", help="the newest N")
    which.add_argument("--best", type=int, metavar="N", help="the best N")
    which.add_argument("--steps", type=int, nargs="+", metavar="STEP", help="these")
    parser.add_argument("-o", "--output", type=Path, metavar="DIR", help="folder to write; by default RUN/average")
    parser.hidden("--out", instead_of="--output")


if __name__ == "__main__":
    sys.exit(main())
