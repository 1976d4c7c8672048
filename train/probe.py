"""What a model's features are worth: `nfjax probe --data DIR --model NAME`; `--help` has examples."""

import sys
from collections.abc import Sequence

from port.messages import exit_status


def main(argv: Sequence[str], prog: str = "python -m train.probe") -> int:
    """Run the command: exit status 2 where nothing could be fitted, 1 where images could not be read, else 0."""

    def probe() -> int:
        from train.probing.options import parse

        args, data = parse(argv, prog)
        from train.probing.run import run

        return run(args, data)

    return exit_status(probe, extra="train", prog=prog)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
