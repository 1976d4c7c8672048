"""Write a checkpoint of a run as one that timm's train.py continues: train.py DATA --resume FILE (needs torch)."""

import sys
from collections.abc import Sequence

from port.commands import Parser
from port.messages import exit_status
from port.paths import require_folder, user_path

EXAMPLE = """example:
  %(prog)s RUN last.pth.tar        the newest checkpoint; another: --step 1000"""


def main(argv: Sequence[str] | None = None, prog: str = "python -m train.to_timm") -> int:
    def to_timm() -> int:
        parser = Parser(prog=prog, description=__doc__, epilog=EXAMPLE)
        options(parser)
        args = parser.parse_args(argv)
        require_folder(args.run)
        from port.atomic import require_writable
        from train.crossing.writing import run

        return run(args.run, require_writable(args.file), args.step)

    return exit_status(to_timm, extra="train", prog=prog)


def options(parser: Parser) -> None:
    parser.add_argument("run", type=user_path, metavar="RUN", help="the --workdir of the run")
    parser.add_argument("file", type=user_path, metavar="FILE", help="to write, such as last.pth.tar")
    parser.add_argument("--step", type=int, metavar="N", help="of the checkpoint; by default the newest")


if __name__ == "__main__":
    sys.exit(main())
