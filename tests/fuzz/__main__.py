"""python -m tests.fuzz KIND SECONDS [FIRST SEED]: counts of what came of the inputs, and every finding."""

import multiprocessing
import sys
import time
from collections import Counter

from tests.fuzz.worker import work

START = 300  # seconds until the first input was tried: programs are compiled for some
HANG = 120  # for an input, which may wait for something that never comes, or for a busy machine


def main(kind, seconds, seed="0"):
    end, counts, first = time.monotonic() + float(seconds), Counter(), int(seed)
    seed = first
    context = multiprocessing.get_context("spawn")
    while time.monotonic() < end:
        results, sender = context.Pipe(duplex=False)
        worker = context.Process(target=work, args=(kind, seed, sender), daemon=True)
        worker.start()
        sender.close()
        wait = START
        while time.monotonic() < end:
            try:
                found = results.recv() if results.poll(wait) else ("found", f"{kind} {seed}: it hangs")
            except EOFError:
                worker.join()
                found = ("found", f"{kind} {seed}: the process ended with status {worker.exitcode}")
            counts[found[0]] += 1
            seed += 1
            if found[1]:
                print(found[1], flush=True)
            if not worker.is_alive() or "it hangs" in found[1]:
                break
            wait = HANG
        if wait == START and counts["found"]:  # not one input was tried
            break
        worker.kill()
        worker.join()
    print(f"{kind}, seeds {first} to {seed - 1}: {dict(counts)}")
    return int(counts["found"] > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
