"""Every architecture as an ONNX file: its size, what it computes beside the model, and onnxruntime beside ours.

The two take turns on the same images. A model whose file would differ is named, and the others go on.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import nfjax
from benchmarks import report
from nfjax import cache
from nfjax.onnx.reading import load_session
from port.atomic import replacing
from port.text import file_size

# One of each kind of block, input, position and pooling.
MODELS = (
    "test_nfnet", "test_vit2", "test_vit3", "test_vit4", "vit_wee_patch16_reg1_gap_256", "vit_tiny_patch16_224",
    "vit_medium_patch16_reg4_gap_256", "vit_medium_patch16_rope_reg1_gap_256", "vit_small_patch16_dinov3",
    "eca_nfnet_l0", "nf_regnet_b0", "nf_resnet26", "nf_seresnet26", "nf_ecaresnet26", "nfnet_l0",
    "vit_small_patch16_lingbot",
    "vit_small_patch14_reg4_dinov2", "naflexvit_base_patch16_gap", "vit_base_patch16_radio_v3", "dm_nfnet_f0",
    "vit_so150m_patch16_reg4_map_256", "vit_base_patch14_reg1_tipsv2", "vit_base_patch16_sapiens2",
)  # fmt: skip
HEADER = (
    "| architecture | pixels | opset | file | difference | onnxruntime, ms | nfjax.compile, ms | ratio |\n"
    + "|---" * 8
    + "|"
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what onnx",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--size", type=int, help="side of the images; each model's own by default")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of the JSON")
    args = parser.parse_args(argv)
    cache.enable()
    rows: list[dict[str, Any]] = []
    print(HEADER, flush=True)
    for name in args.models:
        jax.clear_caches()
        try:
            rows.append({"model": name} | measure(name, args.batch, args.size, args.rounds))
            print(line(rows[-1]), flush=True)
        except ValueError as error:  # the others are measured
            rows.append({"model": name, "failed": str(error)})
            print(f"| {name} | not written: {error} |", flush=True)
        with replacing(args.out / "onnx.json") as partial:
            text = json.dumps({"machine": report.machine(), "rows": rows}, indent=1)
            partial.write_text(text + "\n", encoding="utf-8")
    return int(any("failed" in row for row in rows))


def measure(name: str, batch: int, size: int | None, rounds: int) -> dict[str, Any]:
    """Write, compare and time one architecture, with fresh weights."""
    model = nfjax.load(name, weights=None, img_size=size)
    with tempfile.TemporaryDirectory() as folder:
        found = nfjax.export_onnx(model, Path(folder) / "model.onnx", img_size=size)
        session, bytes_ = load_session(found.path), found.path.stat().st_size
    images = np.random.default_rng(0).standard_normal((batch, *(int(n) for n in found.inputs[0][1:])), np.float32)
    compiled = nfjax.compile(model, images)
    calls: dict[str, Callable[[], Any]] = {
        "onnxruntime": lambda: session.run(None, {"images": images}),
        "nfjax.compile": lambda: jax.block_until_ready(compiled(images)),
    }
    return {
        "size": found.inputs[0][1],
        "opset": found.opset,
        "bytes": bytes_,
        "difference": found.difference,
        "seconds": turns(calls, rounds),
    }


def turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, which take turns, after one call of each."""
    seconds: dict[str, list[float]] = {way: [] for way in calls}
    for number in range(rounds + 1):
        for way, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                seconds[way].append(time.perf_counter() - start)
    return seconds


def line(row: dict[str, Any]) -> str:
    """A row as the documentation has it: the least time of each, and the median of the ratios of pairs."""
    theirs, ours = row["seconds"].values()
    ratio = statistics.median(a / b for a, b in zip(theirs, ours, strict=True))
    cells = [row["model"], row["size"], row["opset"], file_size(row["bytes"]), f"{row['difference']:.1e}"]
    cells += [f"{min(theirs) * 1e3:.1f}", f"{min(ours) * 1e3:.1f}", f"{ratio:.2f}"]
    return f"| {' | '.join(map(str, cells))} |"
