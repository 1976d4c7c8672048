"""`nfjax train --config=digits [--workdir=DIR] [--config.FIELD=VALUE]`; repeated, it continues the run, bit for bit."""

import sys
from collections.abc import Sequence

from port.messages import exit_status
from train.machine.before_jax import prepare


def main(argv: Sequence[str], prog: str = "python -m train.main") -> int:
    """Run the command; the exit status is 130 after Ctrl-C, and 0 where another signal made it save and stop."""
    return exit_status(lambda: _train([prog, *argv]), extra="train", prog=prog, spelling="--config.model.{}={}")


def _train(command: Sequence[str]) -> int:
    from train.cli import flags

    config, workdir, options = flags.parse(command)
    prepare(command[1:], deterministic=config.deterministic)
    flags.announce(config, workdir, options)
    from absl import logging

    from nfjax import cache
    from train.loop import Stopped, run
    from train.machine import processes

    logging.set_verbosity(options.verbosity)  # the libraries under the loop tell of every step they take
    cache.enable()
    processes.initialize(*options.processes)
    try:
        print(run(config, workdir, profile=options.profile))
        return 0
    except Stopped as stopped:
        print(f"{stopped}; the same command continues from there.")
        return stopped.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
