"""Training against timm: `python -m train.verify`; `--help` has examples."""

import sys

from train.verify.training import main

if __name__ == "__main__":
    sys.exit(main())
