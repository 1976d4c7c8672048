"""python -m tests.fuzz KIND SECONDS [FIRST SEED]: counts of what came of the inputs, and every finding."""

import multiprocessing
import sys
import time
from collections import Counter

START = 300  # seconds until the first input was tried: programs are compiled for some
HANG = 120  # for an input, much more than is allowed: it may be tried twice, on a busy machine
MEMORY = 4 << 30  # bytes of address space


def work(kind, seed, results):
    """Try the inputs from a seed on, and send what came of each."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    from tests.fuzz.attack import attack

    while True:
        try:
            results.send((attack(kind, seed), ""))
        except AssertionError as error:
            results.send(("found", str(error)))
        seed += 1


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
            wait = HANG
            counts[found[0]] += 1
            seed += 1
            if found[1]:
                print(found[1], flush=True)
            if not worker.is_alive() or "it hangs" in found[1]:
                break
        worker.kill()
        worker.join()
    print(f"{kind}, seeds {first} to {seed - 1}: {dict(counts)}")
    return int(counts["found"] > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
