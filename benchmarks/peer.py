"""timm's side: the same model with the same weights in torch, on the device that jax uses."""

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nfjax.models import registry
from nfjax.models.vit import VisionTransformer
from nfjax.parity import oracle
from nfjax.parity.verify import relative

TOLERANCE = 1e-5  # of float32 logits, as everywhere in the project
DTYPES = ("float32", "bfloat16")
# How much farther from float32 than timm's AMP ours may be in bfloat16, and the rounding of one bfloat16 number, below
# which no distance says anything: where timm happens to be closer, that is chance.
FACTOR, ROUNDING = 2.0, 2.0**-8
CHUNK = 32  # images that the float32 reference of bfloat16 computes with at once, to save memory
Calls = dict[str, Callable[[], Any]]


class OutputsDiffer(Exception):
    """What was to be timed does not compute the same."""


def threads(count: int | None = None) -> int:
    """Give both libraries `count` cores, or all that the process has, and say how many. Call it before using jax."""
    import torch

    cores = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, cores)
    count = len(cores)
    torch.set_num_threads(count)
    return count


def on_gpu() -> bool:
    import jax

    return jax.default_backend() == "gpu"


def default_dtype() -> str:
    return "bfloat16" if on_gpu() else "float32"


def set_up(dtype: str) -> None:
    """Both libraries alike: one device, and float32 that is float32, where that is what is compared.

    Raises:
        OSError: if jax has a GPU and torch has none, or jax would spread the work over several.
    """
    import jax
    import torch

    if not on_gpu():
        return
    if not torch.cuda.is_available():
        raise OSError("jax uses a GPU and torch finds none; install torch with CUDA, or set JAX_PLATFORMS=cpu.")
    if jax.device_count() > 1:
        raise OSError(f"{jax.device_count()} GPUs, and timm uses one; choose it by CUDA_VISIBLE_DEVICES=0.")
    torch.backends.cudnn.benchmark = True  # as timm's scripts have it
    if dtype == "float32":  # by default jax multiplies matrices in TF32, and torch convolves in it
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        jax.config.update("jax_default_matmul_precision", "highest")


def device() -> Any:
    import torch

    return torch.device("cuda" if on_gpu() else "cpu")


def autocast(dtype: str) -> Any:
    """timm's AMP in bfloat16; nothing in float32."""
    import torch

    return torch.autocast(device().type, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()


def wait() -> None:
    """Until torch's work is done."""
    import torch

    if on_gpu():
        torch.cuda.synchronize()


def release() -> None:
    """Give the memory that torch keeps for later back to the GPU, for the next rival."""
    import torch

    if on_gpu():
        torch.cuda.empty_cache()


def weights(name: str, size: int | None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A state dict of random numbers, and the options that make the model for images of a size in both libraries."""
    sized = size is not None and issubclass(registry.find(name)[0].family, VisionTransformer)
    options: dict[str, Any] = {"img_size": size} if sized else {}
    return oracle.random_state(oracle.shapes(name, **options)), options


def build(name: str, state: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> Any:
    """timm's model on the device, in channels_last."""
    import torch

    return oracle.build(name, state, **options).to(device(), memory_format=torch.channels_last)


def compile(model: Any) -> Any:
    """The model by torch.compile, which has forgotten those before it; its first call compiles."""
    import torch

    torch.compiler.reset()
    return torch.compile(model)


def to_numpy(x: Any) -> np.ndarray:
    """What either library returned, in float32."""
    return np.asarray(x.float().cpu() if hasattr(x, "cpu") else x, np.float32)


def agree(calls: Calls, expected: np.ndarray) -> dict[str, float]:
    """How far each is from `expected`, relative to its largest number; OutputsDiffer if beyond float32's rounding."""
    return within({name: relative(to_numpy(call()), expected) for name, call in calls.items()}, TOLERANCE, "outputs")


def within(far: dict[str, float], limit: float, what: str) -> dict[str, float]:
    """`far`, or OutputsDiffer if a distance is above the limit or is none."""
    if bad := {name: value for name, value in far.items() if not value <= limit}:
        found = ", ".join(f"{name} {value:.1e}" for name, value in bad.items())
        raise OutputsDiffer(f"not reported, since {what} differ from timm's by more than {limit:.0e}: {found}.")
    return far


def bfloat16_limit(far: Mapping[str, float], name: str = "timm eager") -> float:
    """How far from timm's float32 ours may be in bfloat16, where timm's own bfloat16 is as far as it is."""
    return FACTOR * max(far[name], ROUNDING)
