"""What the training loop costs beside its compiled step.

The rival is the compiled step alone: the same executable, called again and again on a batch that is on the device
already, its result awaited. The loop is the whole of `train.loop.run` with logging at every step, one evaluation and
one checkpoint at its end, which are not counted; its data are ready beforehand, so that no wait for them is counted
either. Both are timed step by step, in alternation; the target is that a step of the loop takes at most 1.02 times as
long. Beside it stands what the host was busy with, which overlaps with the device's work.
"""

import argparse
import contextlib
import io
import itertools
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax

from benchmarks import measure
from benchmarks.train import experiment, random_batch
from train import data, loop
from train.experiment import Experiment
from train.machine.mesh import put_batch
from train.step import compile_train_step, make_eval_step

TARGET = 1.02
SECTIONS = {"put_batch": "batch to device", "_log": "metrics, progress"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what loop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="eca_nfnet_l0")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    built = experiment(args.model, random_batch(args.size, args.batch * args.steps), args.batch)
    compiled, evaluated = compile_train_step(built), make_eval_step(built)
    batch = next(data.train_batches(built.dataset.train, built.config.data, 0, 0))
    alone: list[float] = []
    within: list[float] = []
    busy: dict[str, list[float]] = defaultdict(list)
    for done in range(args.rounds):
        alone += steps_alone(built, compiled, batch, args.steps)
        within += steps_of_loop(built, compiled, evaluated, batch, busy)
        print(f"round {done + 1} of {args.rounds}", file=sys.stderr)
    step, whole = statistics.median(alone), statistics.median(within)
    print(
        f"{args.model} at {args.size}, batch {args.batch}, {args.rounds} rounds of {args.steps} steps; "
        "median [least, most]"
    )
    print(f"compiled step alone {measure.spread(alone, 1e3, '.2f')} ms")
    print(f"step of the loop    {measure.spread(within, 1e3, '.2f')} ms, ratio {whole / step:.4f}, target {TARGET}")
    for section, times in busy.items():
        share = statistics.median(times) / step
        print(f"  host, {SECTIONS[section]:<18} {measure.spread(times, 1e3, '.2f')} ms, {share:.2%} of a step")
    return 0 if whole / step <= TARGET else 1


def steps_alone(experiment: Experiment, compiled: Any, batch: data.Batch, count: int) -> list[float]:
    """Seconds of each step, awaited."""
    state = experiment.init()
    on_device = put_batch(experiment.mesh, experiment.for_devices(batch))
    times = []
    for _ in range(count + 1):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, on_device))
        times.append(time.perf_counter() - start)
    return times[1:]


def steps_of_loop(
    experiment: Experiment, compiled: Any, evaluated: Any, batch: data.Batch, busy: dict[str, list[float]]
) -> list[float]:
    """Seconds from each step of `train.loop.run` to the next, once the loop is as far ahead as it gets."""
    starts = []

    def batches(*_: Any) -> Iterator[data.Batch]:
        while True:
            starts.append(time.perf_counter())
            yield batch

    def timed(section: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            value = function(*args)
            busy[section].append(time.perf_counter() - start)
            return value

        return call

    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        for target, name, replacement in [
            (loop, "build", lambda config: experiment),
            (loop, "compile_train_step", lambda experiment: compiled),
            (loop, "make_eval_step", lambda experiment: evaluated),
            (data, "train_batches", batches),
            (loop, "put_batch", timed("put_batch", put_batch)),
            (loop._Run, "_log", timed("_log", loop._Run._log)),
        ]:
            stack.enter_context(mock.patch.object(target, name, replacement))
        loop.run(experiment.config, Path(stack.enter_context(tempfile.TemporaryDirectory())))
    # The first steps only fill the queue, and the last one ends with the evaluation.
    return [after - before for before, after in itertools.pairwise(starts[3:])]
