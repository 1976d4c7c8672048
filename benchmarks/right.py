"""Is it the same function on this device? Logits and gradients beside the CPU's in float32, in one process.

float32 without TF32 must be the CPU's but for 1e-5 of the largest logit (1e-4 of a gradient's length); bfloat16 within
what its rounding makes of them. On a GPU the attention must be cuDNN's, and an exported program must give the same.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nfjax
from benchmarks import report
from nfjax.params import merge, split
from port.atomic import replacing

MODELS = (
    "test_nfnet",
    "test_vit2",
    "vit_dwee_patch16_reg1_gap_256",
    "vit_betwixt_patch16_rope_reg4_gap_256",
    "eca_nfnet_l0",
)
# By label: dtype, precision of products, and the largest distance of logits and of gradients.
WAYS = {
    "float32": ("float32", "highest", 1e-5, 1e-4),
    "default": ("float32", "default", 2e-2, 1e-1),
    "bfloat16": ("bfloat16", "default", 5e-2, 2e-1),
}
FUSED = "__cudnn$fmha"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --what right",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of the JSON")
    args = parser.parse_args(argv)
    try:
        jax.devices("cpu")
        here = jax.devices()[0]
    except RuntimeError as error:
        print(f"no CPU beside the accelerator: {error}. Unset JAX_PLATFORMS.", file=sys.stderr)
        return 1
    rows: list[dict[str, Any]] = []
    # Processes, since most of it is compiling: XLA measures kernels while it compiles for a GPU, and two threads of one
    # process are in each other's way there.
    workers = min(len(args.models), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(_compare, args.models):
            for row in found:
                _add(rows, args.out, **row)
    if here.platform == "gpu":
        _add(rows, args.out, model="vit_medium_patch16_reg4_gap_256", what="cuDNN's attention", ok=_is_fused())
    _add(rows, args.out, model="test_nfnet", what="exported program", **_exported(here))
    return 0 if all(row["ok"] for row in rows) else 1


def _compare(name: str) -> list[dict[str, Any]]:
    """A row for each way."""
    rows = []
    with ThreadPoolExecutor(1) as pool:
        reference = pool.submit(_results, name, jax.devices("cpu")[0], "float32", "highest")
        for label, (dtype, precision, logits, gradients) in WAYS.items():
            found = _results(name, jax.devices()[0], dtype, precision)
            far, worst, where = _distance(found, reference.result())
            ok = far <= logits and worst <= gradients
            rows.append({"model": name, "what": label, "logits": far, "gradients": worst, "worst": where, "ok": ok})
    return rows


def _results(name: str, device: jax.Device, dtype: str, precision: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits and gradients, of a model all of whose parameters are random."""
    with jax.default_device(device), jax.default_matmul_precision(precision):
        model = nfjax.load(name, weights=None, dtype=dtype, seed=1)
        size = model.data_config.input_size[1:]
        x = jnp.asarray(np.random.default_rng(0).standard_normal((4, *size, 3), np.float32))
        graphdef, params = split(model)
        rng = np.random.default_rng(2)
        moved = {k: np.asarray(v) + 0.05 * rng.standard_normal(v.shape, np.float32) for k, v in sorted(params.items())}
        params = jax.tree.map(jnp.asarray, moved)
        logits = jax.jit(lambda p: merge(graphdef, p)(x))(params)
        gradients = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(merge(graphdef, p)(x)))))(params)
        return np.asarray(logits, np.float64), {k: np.asarray(g, np.float64) for k, g in gradients.items()}


def _distance(found: Any, expected: Any) -> tuple[float, float, str]:
    """Of the logits, relative to the largest; of the gradient that is farthest, relative to its length; which it is."""
    (logits, gradients), (wanted, own) = found, expected
    lengths = {k: float(np.linalg.norm(gradients[k] - g) / (np.linalg.norm(g) + 1e-12)) for k, g in own.items()}
    where = max(lengths, key=lengths.__getitem__)
    return float(np.abs(logits - wanted).max() / np.abs(wanted).max()), lengths[where], where


def _is_fused() -> bool:
    model = nfjax.load("vit_medium_patch16_reg4_gap_256", weights=None, dtype="bfloat16", depth=1)
    graphdef, params = split(model)
    x = jnp.zeros((2, 256, 256, 3))
    return FUSED in (jax.jit(lambda p, x: merge(graphdef, p)(x)).lower(params, x).compile().as_text() or "")


def _exported(device: jax.Device) -> dict[str, Any]:
    model = nfjax.load("test_nfnet", weights=None, seed=1)
    x = np.random.default_rng(0).standard_normal((2, *model.data_config.input_size[1:], 3)).astype(np.float32)
    platforms = ["cpu", "cuda"] if device.platform == "gpu" else None
    with tempfile.TemporaryDirectory() as folder:
        path = nfjax.export(model, Path(folder) / "model.zip", platforms=platforms)
        found = np.asarray(nfjax.load_exported(path)(x), np.float64)
    expected = np.asarray(model(x), np.float64)
    far = float(np.abs(found - expected).max() / np.abs(expected).max())
    return {"logits": far, "ok": far <= 2e-2}


def _add(rows: list[dict[str, Any]], folder: Path, **row: Any) -> None:
    """Print a row, and write all there are: a run that is cut off still tells."""
    rows.append(row)
    numbers = " ".join(f"{name} {row[name]:.1e}" for name in ("logits", "gradients") if name in row)
    print(
        f"{row['model']:40s} {row['what']:18s} {numbers} {row.get('worst', '')} {'ok' if row['ok'] else 'WRONG'}",
        flush=True,
    )
    with replacing(folder / "right.json") as partial:
        partial.write_text(json.dumps({"machine": report.machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
