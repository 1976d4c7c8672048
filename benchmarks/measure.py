"""Timing rivals in turn, so that whatever else the machine does meets all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Calls = Mapping[str, Callable[[], object]]
CEILING_SIZE = {"cpu": 2048, "cuda": 8192}  # of the square matrices; on a CPU 512 and 1024 came within 7 %


def interleave(
    calls: Calls,
    rounds: int,
    least: float = 0.05,
    clock: Callable[[], float] = time.perf_counter,
    after: Callable[[], None] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of a call, for each round and rival: in each round every rival has one turn, the first one rotating.

    A turn begins with a call that is not counted, because the threads of the previous rival spin for a while and
    its data fill the caches; then it calls for `least` seconds, at least once. Calls must wait for their result.
    `after` is called at the end of each turn.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for done in range(rounds):
        for name in names[done % len(names) :] + names[: done % len(names)]:
            call = calls[name]
            call()
            count, start = 0, clock()
            while not count or clock() - start < least:
                call()
                count += 1
            times[name].append((clock() - start) / count)
            after()
    return times


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours over theirs, round by round."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def spread(values: Sequence[float], factor: float = 1.0, form: str = ".1f") -> str:
    """Median [least, most]."""
    middle, least, most = (factor * f(values) for f in (statistics.median, min, max))
    return f"{middle:{form}} [{least:{form}}, {most:{form}}]"


def ceiling(rounds: int, clock: Callable[[], float] = time.perf_counter, dtype: str = "float32") -> float:
    """FLOP/s of the fastest product of large matrices seen, in either library: what the machine could give."""
    import jax
    import torch

    from benchmarks import peer

    device = peer.device()
    size = CEILING_SIZE[device.type]
    square = np.random.default_rng(0).standard_normal((size, size), np.float32)
    theirs, ours = torch.from_numpy(square).to(device, getattr(torch, dtype)), jax.numpy.asarray(square, dtype)
    product = jax.jit(lambda a: a @ a)

    def torch_product() -> None:
        theirs @ theirs
        peer.wait()

    calls = {"jax": lambda: product(ours).block_until_ready(), "torch": torch_product}
    times = interleave(calls, rounds, clock=clock, after=peer.release)
    return 2 * size**3 / min(map(min, times.values()))
