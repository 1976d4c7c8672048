"""Time from the start of a process to the first logits, one image, float32, weights in a local safetensors file.

ours: with the compilation cache of an earlier process; ours, nothing cached: with NFJAX_CACHE=0; timm eager. Every
measurement is a process of its own, and they take turns. Of it the time and memory that the weights take, beside timm's
and beside the least that can be done, `safetensors.numpy.load_file` and `jax.device_put`.
"""

import argparse
import functools
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure, peer, process, report
from nfjax.parity import oracle
from port import write_safetensors

OURS = """
import numpy as np
import nfjax
import jax
jax.devices()
load = nfjax.load  # is imported when it is first asked for
tick("import")
name, weights, images = sys.argv[1:]
model = load(name, weights)
tick("weights")
images = np.load(images)
classify = nfjax.compile(model, images)
tick("compile")
result = np.asarray(classify(images))
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
name, weights, images = sys.argv[1:]
model = timm.create_model(name, checkpoint_path=weights).eval()
tick("weights")
images = torch.from_numpy(np.load(images)).permute(0, 3, 1, 2).contiguous()
with torch.inference_mode():
    result = model(images).numpy()
"""
LEAST = """
import numpy as np
import jax
from safetensors.numpy import load_file
jax.devices()
tick("import")
jax.block_until_ready(jax.device_put(load_file(sys.argv[2])))
tick("weights")
result = []
"""
RIVAL, UNCACHED, LEAST_NAME = "timm eager", "ours, nothing cached", "load_file and device_put"


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
    channels, height, width = theirs.pretrained_cfg["input_size"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights, images = folder / "model.safetensors", folder / "images.npy"
        write_safetensors(oracle.random_state(theirs), weights)
        np.save(images, np.random.default_rng(0).standard_normal((1, height, width, channels), np.float32))
        run = functools.partial(process.run, arguments=[name, str(weights), str(images)], folder=folder)
        runs = {
            "ours": functools.partial(run, OURS, library="jax", NFJAX_CACHE=str(folder / "cache")),
            UNCACHED: functools.partial(run, OURS, library="jax", NFJAX_CACHE="0"),
            RIVAL: functools.partial(run, TIMM, library="torch"),
            LEAST_NAME: functools.partial(run, LEAST, library="jax"),
        }
        # Not counted: they fill the caches, ours and the system's.
        outputs = {key: call()["result"] for key, call in runs.items() if key != LEAST_NAME}
        differences = peer.agree({key: functools.partial(np.asarray, y) for key, y in outputs.items()}, outputs[RIVAL])
        found = process.in_turns(runs, rounds)
        file_bytes = weights.stat().st_size

    def steps(key: str, what: str = "seconds") -> dict[str, list[float]]:
        return {step: [r["steps"][step][what] for r in found[key]] for step in found[key][0]["steps"]}

    total = {key: [r["seconds"] for r in results] for key, results in found.items() if key != LEAST_NAME}
    load = {key: steps(key)["weights"] for key in found}
    peaks = {key: [p / file_bytes for p in steps(key, "peak")["weights"]] for key in found}
    common = {"model": name, "size": [height, width], "batch": 1, "timm_best": RIVAL}
    first = common | {
        "title": f"{name}\nfirst logits",
        "differences": differences,
        "seconds": total,
        "ratios": {key: measure.ratio(values, total[RIVAL]) for key, values in total.items()},
        "steps": {key: steps(key) for key in total},
    }
    of_it = common | {
        "title": f"{name}\nof it the weights",
        "file_bytes": file_bytes,
        "seconds": load,
        "ratios": {key: measure.ratio(values, load[RIVAL]) for key, values in load.items()},
        "ratio_to_least": measure.ratio(load["ours"], load[LEAST_NAME]),
        "peak_of_file": peaks,
    }
    return [first, of_it]


def print_rows(first: dict[str, Any], weights: dict[str, Any]) -> None:
    def line(row: dict[str, Any], key: str, rest: str) -> None:
        times, ratios = row["seconds"][key], row["ratios"][key]
        print(f"{key:<26}{measure.spread(times, 1e3):>28}{measure.spread(ratios, form='.2f'):>20}   {rest}")

    print(f"\n{first['model']}: {weights['file_bytes'] / 2**20:.0f} MiB of weights")
    print(f"{'first logits':<26}{'ms':>28}{'of timm':>20}   its steps, ms")
    for key, steps in first["steps"].items():
        line(first, key, ", ".join(f"{step} {1e3 * statistics.median(times):.0f}" for step, times in steps.items()))
    print(f"{'of it the weights':<26}{'ms':>28}{'of timm':>20}   peak, of the file")
    for key, peaks in weights["peak_of_file"].items():
        line(weights, key, measure.spread(peaks, form=".2f"))
    print(f"ours of {LEAST_NAME}: {measure.spread(weights['ratio_to_least'], form='.2f')}", flush=True)
