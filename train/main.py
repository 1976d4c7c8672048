"""`nfjax train --config=digits [--workdir=DIR] [--config.FIELD=VALUE]`; repeated, it continues the run, bit for bit."""

import sys
from collections.abc import Sequence

from port.messages import exit_status
from train.machine.huge_pages import use_huge_pages


def main(argv: Sequence[str], prog: str = "python -m train.main") -> int:
    """Run the command; the exit status is 0 also after SIGTERM, when everything was saved."""
    from train.cli.flags import parse

    config, workdir, options = parse([prog, *argv])  # first: a mistake should not wait for the rest to be imported
    if list(argv) == sys.argv[-len(argv) :]:  # the process is the command's own
        use_huge_pages()
    from absl import logging

    from nfjax import cache
    from train.loop import Stopped, run
    from train.machine.processes import initialize

    logging.set_verbosity(options.verbosity)  # the libraries under the loop tell of every step they take
    cache.enable()

    def train() -> int:
        initialize(options.distributed, options.coordinator, options.num_processes, options.process_id)
        print(run(config, workdir, profile=options.profile))
        return 0

    try:
        return exit_status(train, extra="train")
    except Stopped as stopped:
        print(f"{stopped}; the same command continues from there.")
        return 0 if stopped.signal.name == "SIGTERM" else 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
