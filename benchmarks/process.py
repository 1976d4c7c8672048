"""A measurement that is a process of its own, from its start on."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# What a step took: seconds, processor seconds, and the most memory above what there was at its beginning.
TICK = """
import json, os, sys, time
steps = {}
def memory(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))
def now():
    return time.perf_counter(), sum(os.times()[:4]), memory("VmRSS")
def tick(step):
    global begin
    seconds, cpu, _ = now()
    steps[step] = {"seconds": seconds - begin[0], "cpu": cpu - begin[1], "peak": memory("VmHWM") - begin[2]}
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM starts over
    begin = now()
begin = now()
"""
READY = """
print("ready", flush=True)
tick("result")
np.save(output, result)
print(json.dumps({"steps": steps, "modules": sorted({"jax", "torch"} & set(sys.modules))}))
"""


def run(code: str, arguments: Sequence[str], folder: Path, library: str, **environment: str) -> dict[str, Any]:
    """Run a program that ends with the array `result`, and calls `tick(step)` where its steps end.

    Args:
        code: of the program; the last step, "result", needs no tick. `sys.argv[1:]` are the arguments.
        arguments: see there.
        folder: of the files that the process writes.
        library: jax or torch: whichever of them it should import. The other must not disturb it.
        environment: variables to set. Those of jax's compilation cache are removed.

    Returns:
        `seconds` to the result, from before the process was started; `steps`, what each took; `result`.
    """
    output = folder / "result.npy"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("JAX_COMPILATION_CACHE")}
    command = [sys.executable, "-c", f"{TICK}output = {str(output)!r}\n{code}{READY}", *arguments]
    start = time.perf_counter()
    with subprocess.Popen(command, env=kept | environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready, seconds, rest = process.stdout.readline(), time.perf_counter() - start, process.stdout.read()
    if process.returncode or ready != "ready\n":
        raise RuntimeError(f"exit status {process.returncode}, said {ready + rest!r}; its errors are above.")
    found: dict[str, Any] = json.loads(rest)
    if found["modules"] != [library]:
        raise RuntimeError(f"the process imported {found['modules']}, expected {library} alone.")
    return {"seconds": seconds, "steps": found["steps"], "result": np.load(output)}


def in_turns(runs: Mapping[str, Any], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What each of the functions returned in each round; the first one rotates."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
    names = list(runs)
    for done in range(rounds):
        for name in names[done % len(names) :] + names[: done % len(names)]:
            found[name].append(runs[name]())
    return found
