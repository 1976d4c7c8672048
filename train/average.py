"""Average checkpoints of a run, the weights to evaluate, in float64, into a folder that timm and nfjax load."""

import sys
from collections.abc import Sequence

from port.commands import Parser
from port.messages import exit_status
from port.paths import require_folder, user_path

EXAMPLES = """examples:
  %(prog)s RUN                     all checkpoints; others: --last 3, --steps 1000 2000
  %(prog)s RUN --best 3 -o DIR     those with the best checkpoint.metric"""


def main(argv: Sequence[str] | None = None, prog: str = "python -m train.average") -> int:
    def average() -> int:
        parser = Parser(prog=prog, description=__doc__, epilog=EXAMPLES)
        options(parser)
        args = parser.parse_args(argv)
        require_folder(args.run)
        from train.checkpoints.averages import run

        return run(args.run, args.output or args.run / "average", last=args.last, best=args.best, steps=args.steps)

    return exit_status(average, extra="train", prog=prog)


def options(parser: Parser) -> None:
    parser.add_argument("run", type=user_path, metavar="RUN", help="the --workdir of the run")
    which = parser.add_mutually_exclusive_group()
    for kind, meaning in {"last": "the newest N", "best": "the best N"}.items():
        which.add_argument(f"--{kind}", type=int, metavar="N", help=meaning)
    which.add_argument("--steps", type=int, nargs="+", metavar="STEP", help="these")
    parser.add_argument("-o", "--output", type=user_path, metavar="DIR", help="folder to write; by default RUN/average")
    parser.hidden("--out", instead_of="--output")


if __name__ == "__main__":
    sys.exit(main())
