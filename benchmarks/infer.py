"""Time to the logits of a batch.

ours compiled: `nfjax.compile`; ours folded: `jax.jit(nfjax.fold(model))`; ours: `jax.jit(model)`, which standardises
its weights in every call, as timm does. They and timm's eager (channels_last) and torch.compile take turns. In bfloat16
those two are timm's AMP, and both come once more with a model that was itself cast to bfloat16, as "half".

Before anything is timed the logits are compared. In float32 all must be timm's but for 1e-5 of the largest one. In
bfloat16 all are compared with timm's in float32, and ours may be twice as far from it as timm's AMP.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

import nfjax
from benchmarks import harness, peer
from nfjax.params import merge, split
from nfjax.parity.verify import relative
from nfjax.profile import profile

OURS = ("ours compiled", "ours folded", "ours")


def main(argv: list[str] | None = None) -> int:
    return harness.main("infer", __doc__, Task, argv, size=None, batch=[1, 8])


class Task:
    """One model and batch, for `harness`."""

    def __init__(self, case: harness.Case):
        self.case = case
        self.state, self.options = peer.weights(case.model, case.size)
        model = nfjax.load(case.model, weights=self.state, dtype=case.dtype, **self.options)
        height, width = (case.size, case.size) if case.size else model.data_config.input_size[1:]
        self.size = height, width
        self.flops = 2 * profile(model, self.size).macs * case.batch
        self.images = np.random.default_rng(0).standard_normal((case.batch, height, width, model.in_chans), np.float32)
        ways = compiled, lambda *args: jitted(nfjax.fold(args[0]), args[1]), jitted
        self.ours: dict[str, harness.Make] = {
            name: functools.partial(way, model, self.images) for name, way in zip(OURS, ways, strict=True)
        }
        self.theirs: dict[str, harness.Make] = {
            "timm eager": lambda: self.timm(),
            "torch.compile": lambda: self.timm(compiled=True),
        }
        if case.dtype != "float32":
            self.theirs["timm half"] = lambda: self.timm(half=True)
            self.theirs["compile half"] = lambda: self.timm(half=True, compiled=True)

    def timm(self, **options: Any) -> Callable[[], Any]:
        model = peer.build(self.case.model, self.state, self.options)
        return timm_call(model, self.images, **{"dtype": self.case.dtype, **options})

    def check(self, calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
        """How far the logits are, relative to the largest."""
        if self.case.dtype == "float32":
            return peer.agree(calls, peer.to_numpy(calls["timm eager"]()))
        reference = timm_call(
            peer.build(self.case.model, self.state, self.options), self.images, dtype="float32", chunk=peer.CHUNK
        )
        expected = peer.to_numpy(reference())
        far = {name: relative(peer.to_numpy(call()), expected) for name, call in calls.items()}
        judged = {name: value for name, value in far.items() if "half" not in name}  # those are a rougher timm
        peer.within(judged, peer.bfloat16_limit(far), "outputs")
        return far


def compiled(model: nfjax.ImageModel, images: np.ndarray) -> Callable[[], Any]:
    x = jax.device_put(images)
    call = nfjax.compile(model, x)
    return lambda: call(x).block_until_ready()


def jitted(model: nfjax.ImageModel, images: np.ndarray) -> Callable[[], Any]:
    """Parameters are arguments, so that XLA does not compute with them while it compiles."""
    x = jax.device_put(images)
    graphdef, params = split(model)
    call = program(graphdef, params, x)
    return lambda: call(params, x).block_until_ready()


def program(graphdef: Any, params: Any, x: Any, options: Mapping[str, Any] | None = None) -> jax.stages.Compiled:
    """A model, split, compiled for a batch with these options of XLA: a function of both."""
    return jax.jit(lambda params, x: merge(graphdef, params)(x)).lower(params, x).compile({**(options or {})})


def timm_call(
    model: Any,
    images: np.ndarray,
    *,
    dtype: str,
    half: bool = False,
    compiled: bool = False,
    chunk: int | None = None,
) -> Callable[[], Any]:
    """timm's way to the logits `(batch, classes)`, a tensor.

    Args:
        model: timm's, on the device.
        images: NHWC.
        dtype: bfloat16 for AMP.
        half: cast model and images to bfloat16 beforehand instead.
        compiled: by torch.compile.
        chunk: compute so many images at a time, to save memory.
    """
    import torch

    x = torch.from_numpy(images).to(peer.device()).permute(0, 3, 1, 2)  # NHWC in memory: that is channels_last
    if half:
        model, x, dtype = model.to(torch.bfloat16), x.to(torch.bfloat16), "float32"
    forward = peer.compile(model) if compiled else model
    parts = x.split(chunk or len(x))

    def call() -> Any:
        with torch.inference_mode(), peer.autocast(dtype):
            logits = [forward(part) for part in parts]
            peer.wait()
            return torch.cat(logits) if len(logits) > 1 else logits[0]

    if compiled:
        call()
    return call
