"""Train with timm and with nfjax from the same weights, and compare (needs torch and timm)."""

import sys
from collections.abc import Sequence

from port.commands import Parser
from port.messages import exit_status

EXAMPLES = """examples:
  %(prog)s                               eca_nfnet_l0 and two register ViTs, 20 steps each
  %(prog)s --only sgd --only adamw --steps 5"""
RECIPES = ("sgd", "adamw", "nadamw", "multilabel", "distill")  # those of train.verify.training


def main(argv: Sequence[str] | None = None, prog: str = "python -m train.verify") -> int:
    """Run the command; the exit status is 1 if a recipe fails."""

    def compare() -> int:
        parser = Parser(prog=prog, description=__doc__, epilog=EXAMPLES)
        options(parser)
        args = parser.parse_args(argv)
        if args.steps < 1:
            parser.error(f"--steps={args.steps}: expected at least 1.")
        from train.verify.training import run

        return run(args.only, steps=args.steps, small=args.small, seed=args.seed)

    return exit_status(compare, extra="dev", prog=prog)


def options(parser: Parser) -> None:
    parser.add_argument(
        "--only", action="append", default=[], choices=RECIPES, help="a recipe, repeatable (default: all)"
    )
    parser.add_argument("--steps", type=int, default=20, help="optimisation steps (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="with small models of the same families: seconds")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights and images")


if __name__ == "__main__":
    sys.exit(main())
