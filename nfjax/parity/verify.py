"""A model against timm: every feature map, the logits, the gradients, and the way back.

Both libraries get the same weights, every one of them random unless a file is given, and the same images.
A difference is relative: max |ours - timm's| / max |timm's|.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import nfjax
import port
from nfjax.loading import sizes_of
from nfjax.params import merge, split
from nfjax.parity import oracle

ODD_SIZE = (97, 113)
BATCH = 2
TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "gradient": 1e-9}


class Row(NamedTuple):
    """One comparison: where in the model, at which input size and dtype, how far apart, how far allowed."""

    model: str
    stage: str
    size: str
    dtype: str
    difference: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.difference <= self.tolerance  # False for NaN

    def __str__(self) -> str:
        verdict = "pass" if self.ok else "FAIL"
        return (
            f"{self.model:<16} {self.stage:<34} {self.size:>9} {self.dtype:<8} "
            f"{self.difference:9.2e} <= {self.tolerance:.0e} {verdict}"
        )


def relative(ours: Any, theirs: Any) -> float:
    """max |ours - theirs| / max |theirs|; infinite if the shapes differ, or only the reference is all zero."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape or (np.any(ours) and not np.any(theirs)):
        return float("inf")
    if not np.any(theirs):  # behind a zero gain, as fresh weights have them; random ones leave nothing at zero
        return 0.0
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def verify(
    name: str,
    *,
    weights: str | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    x64: bool = False,
    seed: int = 0,
) -> Iterator[Row]:
    """Compare one model with timm's, and yield each comparison as it is made.

    Args:
        name: a model name that timm and nfjax both have.
        weights: a file for both; None for random values in every parameter.
        sizes: (height, width) of the inputs; None for the model's own and an odd one.
        x64: compare in float64 too. Gradients are always compared in float64: at every size with `x64`, at the
            smallest one without.
        seed: of the weights and the images.
    """
    side = nfjax.data_config(name).input_size[1:]
    sizes = (side, ODD_SIZE) if sizes is None else sizes
    state = oracle.random_state(oracle.build(name), seed) if weights is None else port.read_weights(weights)

    yield _round_trip(name, state)
    for dtype in ("float32", "float64") if x64 else ("float32",):
        with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
            yield from _forward(name, state, sizes, dtype, seed)
            gc.collect()
    for size in sizes if x64 else [min(sizes)]:
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            yield from _gradients(name, state, size, seed)
            gc.collect()


def _ours(name: str, state: Mapping[str, np.ndarray], dtype: str) -> nfjax.ImageModel:
    return nfjax.load(name, weights=state, dtype=dtype, **sizes_of(name, state))


def _theirs(name: str, state: Mapping[str, np.ndarray], dtype: str) -> Any:
    return oracle.build(name, state, dtype, **sizes_of(name, state))


def _round_trip(name: str, state: Mapping[str, np.ndarray]) -> Row:
    """timm -> Flax -> timm; the difference is the number of tensors that are not byte-identical."""
    back = nfjax.state_dict(_ours(name, state, "float32"))
    same = [
        key in back and back[key].shape == a.shape and back[key].tobytes() == np.asarray(a, np.float32).tobytes()
        for key, a in state.items()
    ]
    changed = same.count(False) + len(set(back) - set(state))
    return Row(name, f"round trip of {len(state)} tensors", "-", "bytes", float(changed), 0.0)


def _forward(
    name: str, state: Mapping[str, np.ndarray], sizes: Sequence[tuple[int, int]], dtype: str, seed: int
) -> Iterator[Row]:
    theirs = _theirs(name, state, dtype)
    expected = {size: oracle.forward(theirs, _images(size, theirs.in_chans, dtype, seed)) for size in sizes}
    images = {size: _images(size, theirs.in_chans, dtype, seed) for size in sizes}
    del theirs
    graphdef, params = split(_ours(name, state, dtype))
    taps = [info.module for info in merge(graphdef, params).feature_info]

    @jax.jit
    def ours(params: Any, x: jax.Array) -> dict[str, jax.Array]:
        model = merge(graphdef, params)
        features, maps = model.forward_intermediates(x)
        return dict(zip(taps, maps, strict=True)) | {
            "features": features,
            "logits": model.forward_head(features),
        }

    for size in sizes:
        outputs = ours(params, jnp.asarray(images[size]))
        for stage, reference in expected[size].items():
            difference = relative(outputs[stage], reference)
            yield Row(name, stage, f"{size[0]}x{size[1]}", dtype, difference, TOLERANCE[dtype])


def _gradients(name: str, state: Mapping[str, np.ndarray], size: tuple[int, int], seed: int) -> Iterator[Row]:
    theirs = _theirs(name, state, "float64")
    images = _images(size, theirs.in_chans, "float64", seed)
    probe = np.random.default_rng(seed + 1).standard_normal((BATCH, theirs.num_classes))
    expected = oracle.gradients(theirs, images, probe)
    del theirs

    model = _ours(name, state, "float64")
    model.set_grad_checkpointing(True)
    graphdef, params = split(model)
    del model

    @jax.jit
    def ours(params: Any, x: jax.Array) -> Any:
        return jax.grad(lambda p: jnp.sum(merge(graphdef, p)(x) * probe))(params)

    grads = port.to_timm({path: np.asarray(g) for path, g in ours(params, jnp.asarray(images)).items()})
    differences = {key: relative(grads[key], expected[key]) for key in expected}
    worst = max(differences, key=lambda key: (not differences[key] <= 1e300, differences[key]))
    stage = f"gradients of {len(expected)}; {worst}"
    yield Row(name, stage, f"{size[0]}x{size[1]}", "float64", differences[worst], TOLERANCE["gradient"])


def _images(size: tuple[int, int], chans: int, dtype: str, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, *size]).standard_normal((BATCH, *size, chans)).astype(dtype)
