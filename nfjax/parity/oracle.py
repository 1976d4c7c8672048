"""timm as the oracle: importing it, and what it computes."""

import functools
import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np


@functools.cache
def timm() -> Any:
    """The timm module.

    timm needs torchvision, whose packaged build refuses to load beside a CPU-only torch ("operator torchvision::nms
    does not exist"). Declaring the two operators first, which nothing here calls, cures that.

    Raises:
        ImportError: if torch or timm is not installed.
    """
    for package in ("torch", "torchvision", "timm"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"{package} is not installed; parity checks need it: pip install 'nfjax[dev]'.")
    import torch
    from torch import library

    if "+cpu" in torch.__version__ and not hasattr(torch.ops.torchvision, "nms"):
        schemas = library.Library("torchvision", "DEF")
        schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        timm.keep_alive = schemas  # type: ignore[attr-defined] # the operators live as long as the library
    import timm as module

    return module


def random_state(model: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Random float32 values for every parameter of a torch model, as a state dict.

    Nothing stays at 0 or 1, where it could hide a mistake: gains are drawn below 1, biases around 0, and weights such
    that a layer keeps the scale of its input. Gains above 1 would make a deep network amplify its own rounding: on
    eca_nfnet_l3 at 352 pixels torch's float32 is 5e-6 off torch's float64 with U(0.75, 1.25), and 1e-6 with
    U(0.5, 1), so that the comparison would be about torch's rounding instead of ours.
    """
    rng = np.random.default_rng(seed)
    state = {}
    for name, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        fan_in = int(np.prod(shape[1:]))
        if name.endswith("gain") or (len(shape) == 1 and name.endswith("weight")):
            value = rng.uniform(0.5, 1.0, shape)
        elif len(shape) <= 1:
            value = 0.1 * rng.standard_normal(shape)
        else:
            value = rng.standard_normal(shape, dtype=np.float32) * fan_in**-0.5
        state[name] = np.asarray(value, np.float32)
    return state


def build(name: str, state: Mapping[str, np.ndarray] | None = None, dtype: str | None = None, **options: Any) -> Any:
    """A timm model in evaluation mode, optionally with a state dict, loaded strictly and cast to `dtype`."""
    import torch

    model = timm().create_model(name, pretrained=False, **options).eval()
    if state is not None:
        tensors = {k: torch.from_numpy(np.array(v, dtype)) for k, v in state.items()}
        model.load_state_dict(tensors, strict=True, assign=True)
    return model


def forward(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every feature tap, the final features and the logits of NHWC images, maps as NHWC."""
    import torch

    with torch.inference_mode():
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        features, maps = model.forward_intermediates(x)
        logits = model.forward_head(features)
    taps = {info["module"]: _nhwc(m) for info, m in zip(model.feature_info, maps, strict=True)}
    return taps | {"features": _nhwc(features), "logits": logits.numpy()}


def gradients(model: Any, images: np.ndarray, probe: np.ndarray) -> dict[str, np.ndarray]:
    """Gradient of `sum(logits * probe)` with respect to every parameter, by timm name."""
    import torch

    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.set_grad_checkpointing(True)
    logits = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    (logits * torch.from_numpy(probe)).sum().backward()
    return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


def _nhwc(tensor: Any) -> np.ndarray:
    return tensor.permute(0, 2, 3, 1).numpy()
