"""Time to compile, nothing cached: inference, and a training step with SGD and adaptive gradient clipping, float32.

ours: `nfjax.compile`, and the step that `train.main` compiles. torch.compile: timm's model, of the training step its
forward and backward pass. Every measurement is a process of its own, and they take turns. Both are counted until the
first result is there, which is what one waits for; "processor" are the processor seconds before that call.
XLA_FLAGS and the like are passed on, to try them: with --rival none, ours alone.
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
from nfjax.parity.verify import relative
from port import write_safetensors

LOSS_TOLERANCE = 1e-4  # relative, of a float32 loss
TIMINGS = """
import numpy as np
import jax
seconds = {"lower": 0.0, "compile": 0.0}
events = {"jaxpr_to_mlir_module_duration": "lower", "backend_compile_duration": "compile"}
def listen(event, duration, **_):
    if (name := events.get(event.rsplit("/", 1)[-1])):
        seconds[name] += duration
jax.monitoring.register_event_duration_secs_listener(listen)
jax.devices()
name, weights, images, labels = sys.argv[1:]
images, labels = np.load(images), np.load(labels)
"""
# Of the time until something is compiled, what is not lowering or compiling is tracing.
SPLIT = """
tick("all")
spent = steps.pop("all")
parts = {"trace": spent["seconds"] - sum(seconds.values())} | seconds
steps |= {part: {"seconds": value} for part, value in parts.items()} | {"processor": {"seconds": spent["cpu"]}}
"""
OUR_INFERENCE = f"""{TIMINGS}
import nfjax
model = nfjax.load(name, weights)
tick("setup"); seconds.update(lower=0.0, compile=0.0)
call = nfjax.compile(model, images)
{SPLIT}
result = np.asarray(call(images))
"""
OUR_TRAINING = f"""{TIMINGS}
import nfjax
from train import config as c
from train import data
from train.experiment import build
from train.machine.mesh import put_batch
from train.step import compile_train_step
images = np.round(images * 255).astype(np.uint8)
source = data.ArraySource(images, labels, tuple(map(str, range(1000))))
config = c.Config(
    epochs=1,
    model=c.Model(name=name, weights=weights),
    data=c.Data(name="random", image_size=images.shape[1], batch_size=len(images)),
    optim=c.Optim("sgd", lr=0.1, momentum=0.9, clip_mode="agc", clip_grad=0.015),
    schedule=c.Schedule("constant"),
)
experiment = build(config, dataset=data.load_dataset(config.data, nfjax.data_config(name), images=(source, source)))
state = experiment.init()
batch = put_batch(experiment.mesh, {{"image": images, "label": labels.astype(np.int32)}})
jax.block_until_ready((state, batch))
tick("setup"); seconds.update(lower=0.0, compile=0.0)
step = compile_train_step(experiment)
{SPLIT}
state, metrics = jax.block_until_ready(step(state, batch))
result = np.asarray(metrics["loss"])
"""
# The file of the oracle alone: its package would import jax.
THEIRS = f"""
import importlib.util
import numpy as np
spec = importlib.util.spec_from_file_location("oracle", {oracle.__file__!r})
oracle = importlib.util.module_from_spec(spec)
spec.loader.exec_module(oracle)
timm = oracle.timm()
import torch
name, weights, images, labels = sys.argv[1:]
model = timm.create_model(name, checkpoint_path=weights).to(memory_format=torch.channels_last)
images = torch.from_numpy(np.load(images)).permute(0, 3, 1, 2)
"""
THEIR_INFERENCE = f"""{THEIRS}
call = torch.compile(model.eval())
tick("setup")
with torch.inference_mode():
    result = call(images).numpy()
"""
THEIR_TRAINING = f"""{THEIRS}
from timm.utils.agc import adaptive_clip_grad
mean, std = (torch.tensor(model.pretrained_cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
images = (torch.round(images * 255) / 255 - mean) / std
labels = torch.from_numpy(np.load(labels))
optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, nesterov=True)
call = torch.compile(model.train())
tick("setup")
loss = torch.nn.functional.cross_entropy(call(images), labels)
loss.backward()
adaptive_clip_grad(model.parameters(), 0.015)
optimizer.step()
result = loss.detach().numpy()
"""
PROGRAMS = {"inference": (OUR_INFERENCE, THEIR_INFERENCE), "training": (OUR_TRAINING, THEIR_TRAINING)}
RIVAL = "torch.compile"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what compile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=["eca_nfnet_l0"])
    parser.add_argument("--of", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--size", type=int, help="side of the images; 160 to train and the model's own otherwise")
    parser.add_argument("--batch", type=int, help="8 to train and 1 otherwise")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rival", choices=(RIVAL, "none"), default=RIVAL)
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of the JSON and the PNG")
    args = parser.parse_args(argv)
    threads = peer.threads()
    print(f"{report.machine()}, {threads} threads")
    rows = []
    try:
        for name in args.models:
            for what in args.of:
                rows.append(row(name, what, args))
                print_row(rows[-1])
    except peer.OutputsDiffer as error:
        print(error, file=sys.stderr)
        return 1
    if args.rival == "none":
        return 0
    path = report.write("compile", {"threads": threads, "rounds": args.rounds}, rows, args.out)
    print(f"{path} and {path.with_suffix('.png').name}")
    return 0


def row(name: str, what: str, args: argparse.Namespace) -> dict[str, Any]:
    """One model, for inference or training: seconds from before compilation to the first result."""
    theirs = oracle.build(name)
    batch = args.batch or (8 if what == "training" else 1)
    size = args.size or (160 if what == "training" else theirs.pretrained_cfg["input_size"][-1])
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        weights, images, labels = (folder / file for file in ("weights.safetensors", "images.npy", "labels.npy"))
        write_safetensors(oracle.random_state(theirs), weights)
        np.save(images, rng.random((batch, size, size, 3), np.float32))
        np.save(labels, rng.integers(0, 1000, batch))
        arguments = [name, *map(str, (weights, images, labels))]
        run = functools.partial(process.run, arguments=arguments, folder=folder)
        ours, rival = PROGRAMS[what]
        runs = {"ours": functools.partial(run, ours, library="jax", NFJAX_CACHE="0")}
        if args.rival != "none":
            runs[RIVAL] = functools.partial(run, rival, library="torch", TORCHINDUCTOR_FORCE_DISABLE_CACHES="1")
        found = process.in_turns(runs, args.rounds)
    differences = {}
    if args.rival != "none":
        tolerance = peer.TOLERANCE if what == "inference" else LOSS_TOLERANCE
        differences["ours"] = relative(found["ours"][0]["result"], found[RIVAL][0]["result"])
        if not differences["ours"] <= tolerance:
            raise peer.OutputsDiffer(
                f"not reported, since our {what} of {name} is {differences['ours']:.1e} from timm's; at most "
                f"{tolerance:.0e} is float32's rounding."
            )
    steps = {
        key: {step: [r["steps"][step]["seconds"] for r in results] for step in results[0]["steps"] if step != "setup"}
        for key, results in found.items()
    }
    parts = ("trace", "lower", "compile", "result")
    seconds = {
        key: [sum(values) for values in zip(*(of[part] for part in parts if part in of), strict=True)]
        for key, of in steps.items()
    }
    return {
        "title": f"{name}, {what}\n{size}x{size}, batch {batch}",
        "model": name,
        "what": what,
        "size": [size, size],
        "batch": batch,
        "timm_best": RIVAL,
        "differences": differences,
        "seconds": seconds,
        "ratios": {key: measure.ratio(times, seconds[RIVAL]) for key, times in seconds.items() if RIVAL in seconds},
        "steps": steps,
    }


def print_row(row: dict[str, Any]) -> None:
    print(f"\n{row['title'].replace(chr(10), ' at ')}")
    print(f"{'':<15}{'s':>24}{'of torch.compile':>20}   of it, s")
    for key, times in row["seconds"].items():
        ratio = measure.spread(row["ratios"][key], form=".2f") if key in row["ratios"] else ""
        steps = ", ".join(f"{step} {statistics.median(values):.2f}" for step, values in row["steps"][key].items())
        print(f"{key:<15}{measure.spread(times):>24}{ratio:>20}   {steps}", flush=True)
