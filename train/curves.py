"""Draw the curves of a training run, or of several over each other. Training itself draws WORKDIR/curves.png."""

import sys
from collections.abc import Sequence

from port.commands import Parser
from port.messages import exit_status
from port.paths import require_folder, user_path

EXAMPLE = "example:\n  %(prog)s runs/a runs/b --output compared.png"


def main(argv: Sequence[str] | None = None, prog: str = "python -m train.curves") -> int:
    """Run the command."""
    parser = Parser(prog=prog, description=__doc__, epilog=EXAMPLE)
    options(parser)
    args = parser.parse_args(argv)

    def draw() -> int:
        list(map(require_folder, args.run))
        from train.report.curves import draw_runs

        print(draw_runs(args.run, args.output))
        return 0

    return exit_status(draw, extra="train", prog=prog)


def options(parser: Parser) -> None:
    parser.add_argument("run", nargs="+", type=user_path, metavar="RUN", help="work folder of a run")
    parser.add_argument(
        "-o", "--output", type=user_path, metavar="FILE",
        help="picture to write, .png, .svg or .pdf; RUN/curves.png for one run, else curves.png",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
