"""Average checkpoints of a run into one model: `python -m train.average RUN`; `--help` has examples."""

import sys

from train.checkpoints.averages import main

if __name__ == "__main__":
    sys.exit(main())
