"""python -m tests.fuzz KIND SECONDS [FIRST SEED]: counts of what came of the inputs, and every finding."""

import sys
import time
from collections import Counter

from tests.fuzz.attack import attack


def main(kind, seconds, seed="0"):
    end, counts, first = time.monotonic() + float(seconds), Counter(), int(seed)
    seed = first
    while time.monotonic() < end:
        try:
            counts[attack(kind, seed)] += 1
        except AssertionError as error:
            counts["found"] += 1
            print(error, flush=True)
        seed += 1
    print(f"{kind}, seeds {first} to {seed - 1}: {dict(counts)}")
    return int(counts["found"] > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
