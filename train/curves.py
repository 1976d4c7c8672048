"""Curves of a run as a picture: `python -m train.curves RUN [RUN ...]`; `--help` has examples."""

from train.report.curves import main

if __name__ == "__main__":
    main()
