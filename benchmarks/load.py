"""Time from the start of a process to the first logits, one image, float32, weights in a local safetensors file.

ours: with the compilation cache of an earlier process; ours, nothing cached: with NFJAX_CACHE=0; timm eager. Every
measurement is a process of its own, and they take turns. Of it the time and memory that the weights take, beside timm's
and beside the least that can be done, `safetensors.numpy.load_file` and `jax.device_put`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure, peer, report
from nfjax.parity import oracle
from port import write_safetensors

# Steps and what they took: seconds, and the most memory above what there was at their beginning.
TICK = """
import json, os, sys, time
name, weights, images, output = sys.argv[1:]
steps, begin = {}, time.perf_counter()
def memory(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))
def tick(step):
    global begin, resident
    steps[step] = {"seconds": time.perf_counter() - begin, "peak": memory("VmHWM") - resident}
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM starts over
    begin, resident = time.perf_counter(), memory("VmRSS")
resident = memory("VmRSS")
"""
READY = """
print("ready", flush=True)
tick("logits")
if output:
    np.save(output, logits)
print(json.dumps({"steps": steps, "modules": sorted({"jax", "torch"} & set(sys.modules))}))
"""
OURS = """
import numpy as np
import nfjax
import jax
jax.devices()
tick("import")
model = nfjax.load(name, weights)
tick("load")
images = np.load(images)
classify = nfjax.compile(model, images)
tick("compile")
logits = np.asarray(classify(images))
"""
# The file of the oracle alone: its package would import jax.
TIMM = f"""
import importlib.util
import numpy as np
spec = importlib.util.spec_from_file_location("oracle", {oracle.__file__!r})
oracle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(oracle)
timm = oracle.timm()
import torch
tick("import")
model = timm.create_model(name, checkpoint_path=weights).eval()
tick("load")
images = torch.from_numpy(np.load(images)).permute(0, 3, 1, 2).contiguous()
with torch.inference_mode():
    logits = model(images).numpy()
"""
LEAST = """
import jax
from safetensors.numpy import load_file
jax.devices()
tick("import")
jax.block_until_ready(jax.device_put(load_file(weights)))
tick("load")
"""
PROGRAMS = {
    "ours": (OURS, "jax"),
    "ours, nothing cached": (OURS, "jax"),
    "timm eager": (TIMM, "torch"),
    "load_file and device_put": (LEAST, "jax"),
}
RIVAL, LEAST_NAME = "timm eager", "load_file and device_put"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["eca_nfnet_l0"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of the JSON and the PNG")
    args = parser.parse_args(argv)
    threads = peer.threads()
    print(f"{report.machine()}, {threads} threads")
    rows = []
    try:
        for name in args.models:
            rows += model_rows(name, args.rounds)
            print_rows(*rows[-2:])
    except peer.OutputsDiffer as error:
        print(error, file=sys.stderr)
        return 1
    path = report.write("load", {"threads": threads, "rounds": args.rounds}, rows, args.out)
    print(f"{path} and {path.with_suffix('.png').name}")
    return 0


def model_rows(name: str, rounds: int) -> list[dict[str, Any]]:
    """Two rows of a model: to the first logits, and of it for the weights."""
    theirs = oracle.build(name)
    size = theirs.pretrained_cfg["input_size"]
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{file}" for file in ("model.safetensors", "images.npy", "logits.npy")]
        write_safetensors(oracle.random_state(theirs), files[0])
        np.save(files[1], np.random.default_rng(0).standard_normal((1, *size[1:], size[0]), np.float32))
        outputs = {program: run(program, name, files)["logits"] for program in PROGRAMS if program != LEAST_NAME}
        differences = peer.agree({key: lambda y=y: y for key, y in outputs.items()}, outputs[RIVAL])
        found: dict[str, list[dict[str, Any]]] = {program: [] for program in PROGRAMS}
        names = list(PROGRAMS)
        for done in range(rounds):
            for program in names[done % len(names) :] + names[: done % len(names)]:
                found[program].append(run(program, name, files))
        file_bytes = Path(files[0]).stat().st_size
    total = {program: [r["seconds"] for r in runs] for program, runs in found.items() if program != LEAST_NAME}
    load = {p: [r["steps"]["load"]["seconds"] for r in runs] for p, runs in found.items() if p != "ours, nothing cached"}
    common = {"model": name, "size": list(size[1:]), "batch": 1, "timm_best": RIVAL}
    first = common | {
        "title": f"{name}\nfirst logits",
        "differences": differences,
        "seconds": total,
        "ratios": {key: measure.ratio(values, total[RIVAL]) for key, values in total.items()},
        "steps": {p: {s: [r["steps"][s]["seconds"] for r in found[p]] for s in found[p][0]["steps"]} for p in total},
    }
    weights = common | {
        "title": f"{name}\nof it the weights",
        "file_bytes": file_bytes,
        "seconds": load,
        "ratios": {key: measure.ratio(values, load[RIVAL]) for key, values in load.items()},
        "ratio_to_least": measure.ratio(load["ours"], load[LEAST_NAME]),
        "peak_of_file": {p: [r["steps"]["load"]["peak"] / file_bytes for r in found[p]] for p in load},
    }
    return [first, weights]


def run(program: str, name: str, files: list[str]) -> dict[str, Any]:
    """One process: its seconds to the first logits, its steps, and what the logits are."""
    code, library = PROGRAMS[program]
    folder = Path(files[0]).parent
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_COMPILATION_CACHE")}
    environment["NFJAX_CACHE"] = str(folder / "cache") if program == "ours" else "0"
    code = TICK + code + ("print(json.dumps({'steps': steps}))" if program == LEAST_NAME else READY)
    command = [sys.executable, "-c", code, name, *files]
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if program != LEAST_NAME:
            ready = process.stdout.readline()
        seconds = time.perf_counter() - start
        rest = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, f"{program} of {name}")
    result: dict[str, Any] = json.loads(rest) | {"seconds": seconds}
    if program != LEAST_NAME:
        assert ready == "ready\n", ready
        if result["modules"] != [library]:
            raise RuntimeError(f"the process of {program} imported {result['modules']}, expected {library} alone.")
        result["logits"] = np.load(files[2])
    return result


def print_rows(first: dict[str, Any], weights: dict[str, Any]) -> None:
    print(f"\n{first['model']}: {weights['file_bytes'] / 2**20:.0f} MiB of weights")
    print(f"{'first logits':<26}{'ms':>28}{'of timm':>20}   its steps, ms")
    for key, times in first["seconds"].items():
        steps = ", ".join(f"{step} {1e3 * statistics.median(t):.0f}" for step, t in first["steps"][key].items())
        print(f"{key:<26}{measure.spread(times, 1e3):>28}{measure.spread(first['ratios'][key], form='.2f'):>20}   {steps}")
    print(f"{'of it the weights':<26}{'ms':>28}{'of timm':>20}   peak, of the file")
    for key, times in weights["seconds"].items():
        peak = measure.spread(weights["peak_of_file"][key], form=".2f")
        print(f"{key:<26}{measure.spread(times, 1e3):>28}{measure.spread(weights['ratios'][key], form='.2f'):>20}   {peak}")
    print(f"ours of {LEAST_NAME}: {measure.spread(weights['ratio_to_least'], form='.2f')}", flush=True)
