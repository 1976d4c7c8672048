"""How long an asynchronous checkpoint keeps the training loop waiting, of the time until it is complete.

The state is that of the model with momentum and a moving average; a jitted step that updates and donates all of it
goes on while the checkpoint is written. Each round: finish a step, call save(), go on stepping until the folder of
the checkpoint is there. The step only does the optimiser's part of the work, so it competes with the writer for the
memory more than a training step would. The first checkpoint of the process is a round of its own. The target is a
median share of at most 0.2.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import measure

MAX_SHARE = 0.2


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="eca_nfnet_l0")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", help="where to write; by default a temporary folder")
    args = parser.parse_args(argv)

    import jax
    import jax.numpy as jnp

    import nfjax
    from nfjax.params import split
    from train import config
    from train.checkpoints.checksums import checksums
    from train.checkpoints.files import flatten
    from train.checkpoints.manager import Checkpoints
    from train.optim.state import State

    def step(state: State) -> State:
        trace = jax.tree.map(lambda t, p: 0.9 * t + 1e-3 * p, state.opt_state[0], state.params)
        params = jax.tree.map(lambda p, t: p - 0.1 * t, state.params, trace)
        ema = jax.tree.map(lambda e, p: e + 1e-3 * (p - e), state.ema, params)
        return State(state.step + 1, params, (trace,), ema, state.key, ())

    def seconds(function: Callable[[], object]) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    _, params = split(nfjax.load(args.model, weights=None))
    zeros, copies = ({path: function(p) for path, p in params.items()} for function in (jnp.zeros_like, jnp.copy))
    state = State(jnp.int32(0), params, (zeros,), copies, jax.random.key_data(jax.random.key(0)), ())
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    train_step = jax.jit(step, donate_argnums=0)

    def timed_step() -> float:
        nonlocal state
        start = time.perf_counter()
        state = jax.block_until_ready(train_step(state))
        return time.perf_counter() - start

    timed_step()
    alone = [timed_step() for _ in range(20)]
    rounds, during, summing = [], [], []
    with (
        tempfile.TemporaryDirectory(dir=args.folder) as folder,
        Checkpoints(Path(folder), config.Checkpoint(keep_best=0)) as checkpoints,
    ):
        checkpoints.restore(state, print)  # as every run does: it finds none, and compiles the checksums
        for _ in range(args.rounds + 1):
            timed_step()
            done = Appearance(Path(folder) / "checkpoints" / str(int(state.step)))
            start = time.perf_counter()
            waited = seconds(lambda: checkpoints.save(state, {}))
            while done.is_alive():
                during.append(timed_step())
            rounds.append((waited, done.at - start))
            summing.append(seconds(lambda: checksums(flatten(state))))
    print(
        f"{args.model} with momentum and moving average: {size / 1e6:.0f} MB, {args.rounds} rounds; "
        "median [least, most]"
    )
    print(f"first checkpoint: waited {1e3 * rounds[0][0]:.0f} of {1e3 * rounds[0][1]:.0f} ms")
    waits, totals = zip(*rounds[1:], strict=True)
    shares = [waited / total for waited, total in rounds[1:]]
    print(f"waited in save()   {measure.spread(list(waits), 1e3, '.0f')} ms")
    print(f"  for checksums    {measure.spread(summing[1:], 1e3, '.0f')} ms")
    print(f"until complete     {measure.spread(list(totals), 1e3, '.0f')} ms")
    print(f"a step meanwhile   {measure.spread(during, 1e3, '.0f')} ms; alone {measure.spread(alone, 1e3, '.0f')} ms")
    print(f"share              {measure.spread(shares, form='.3f')}, target {MAX_SHARE}")
    return 0 if statistics.median(shares) <= MAX_SHARE else 1


class Appearance(threading.Thread):
    """Waits until a folder is there, and notes when that was."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder, self.at = folder, 0.0
        self.start()

    def run(self) -> None:
        while not self._folder.is_dir():
            time.sleep(0.001)
        self.at = time.perf_counter()
