"""timm as the oracle: importing it, and what it computes."""

import contextlib
import functools
import importlib.util
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

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
    """Random float32 values for every parameter of a torch model, on any device, as a state dict.

    Nothing stays at 0 or 1, where it could hide a mistake: gains are drawn below 1, biases around 0, weights such
    that a layer keeps the scale of its input, tokens and position embeddings as large as what they are joined with.
    Gains above 1 would make a deep network amplify its own rounding: on eca_nfnet_l3 at 352 pixels torch's float32 is
    5e-6 off torch's float64 with U(0.75, 1.25), and 1e-6 with U(0.5, 1), so that the comparison would be about torch's
    rounding instead of ours.
    """
    rng = np.random.default_rng(seed)
    state = {}
    for name, tensor in model.state_dict().items():
        shape = tuple(tensor.shape)
        fan_in, leaf = int(np.prod(shape[1:])), name.split(".")[-1]
        if leaf in ("gain", "gamma", "gamma_1", "gamma_2") or (len(shape) == 1 and leaf == "weight"):
            value = rng.uniform(0.5, 1.0, shape)
        elif leaf.startswith("lambda_"):  # an exponent is the sum of as many products as a head has channels
            value = 0.3 * rng.standard_normal(shape)
        elif len(shape) <= 1:
            value = 0.1 * rng.standard_normal(shape)
        elif len(shape) > 2 and leaf != "weight":
            value = 0.5 * rng.standard_normal(shape)
        else:
            value = rng.standard_normal(shape, dtype=np.float32) * fan_in**-0.5
        state[name] = np.asarray(value, np.float32)
    return state


def build(name: str, state: Mapping[str, np.ndarray] | None = None, dtype: str | None = None, **options: Any) -> Any:
    """A timm model in evaluation mode, optionally with a state dict, loaded strictly and cast to `dtype`."""
    import torch

    if state is None:
        return timm().create_model(name, pretrained=False, **options).eval()
    with uninitialised():
        model = timm().create_model(name, pretrained=False, **options).eval()
    tensors = {k: torch.from_numpy(np.array(v, dtype)) for k, v in state.items()}
    model.load_state_dict(tensors, strict=True, assign=True)
    return model


def shapes(name: str, **options: Any) -> Any:
    """A timm model on torch's meta device: names, shapes and modules, without values."""
    import torch

    with uninitialised(), torch.device("meta"):
        return timm().create_model(name, pretrained=False, **options)


@contextlib.contextmanager
def uninitialised() -> Iterator[None]:
    """Nothing is drawn for parameters, where all are replaced: that is most of the time in which a model is built."""
    timm()
    from timm.layers import weight_init
    from torch.nn import init

    def same(tensor: Any, *_: Any, **__: Any) -> Any:
        return tensor

    drawn = [name for name in vars(init) if re.fullmatch(r"(kaiming_|xavier_|trunc_)?(uniform|normal)_", name)]
    with contextlib.ExitStack() as patches:
        for module, name in [(weight_init, "_trunc_normal_"), *((init, name) for name in drawn)]:
            patches.enter_context(mock.patch.object(module, name, same))
        yield


def load_at_size(name: str, state: Mapping[str, np.ndarray], size: tuple[int, int], **options: Any) -> Any:
    """timm's model for images of this size with the weights of a file, as timm's own loading adapts them."""
    from safetensors.numpy import save_file

    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/model.safetensors"
        save_file(dict(state), file)
        options |= {"img_size": size, "pretrained_cfg_overlay": {"file": file}}
        return timm().create_model(name, pretrained=True, **options).eval()


def rope_table(model: Any) -> np.ndarray:
    """timm's table of rotary positions, float32, as `nfjax.nn.pos_embed.rotary_table` lays it out."""
    return np.stack(np.split(model.rope.get_embed(list(model.patch_embed.grid_size)).numpy(), 2, axis=-1))


def replace_rope_table(model: Any, table: np.ndarray) -> None:
    """Replace timm's table of rotary positions by another, `(2, patches, head_dim)`."""
    import torch

    embed = torch.from_numpy(np.concatenate(list(table), axis=-1))
    model.rope.get_embed = lambda *_, **__: embed


@contextlib.contextmanager
def _unrounded() -> Iterator[None]:
    """timm rounds some intermediate values with `.float()`: let what is float64 stay float64."""
    import torch

    rounded = torch.Tensor.float
    with mock.patch.object(torch.Tensor, "float", lambda t: t if t.dtype == torch.float64 else rounded(t)):
        yield


def forward(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every feature tap, the final features, the pooled ones and the logits of NHWC images.

    Maps are NHWC. Of a transformer every tap has all tokens, `(batch, prefix + patches, dim)`.
    """
    import torch

    with torch.inference_mode(), _unrounded():
        x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        if hasattr(model, "num_prefix_tokens"):
            features, pairs = model.forward_intermediates(x, output_fmt="NLC", return_prefix_tokens=True)
            maps = [torch.cat([prefix, patches], dim=1) for patches, prefix in pairs]
        else:
            features, maps = model.forward_intermediates(x)
        pooled, logits = model.forward_head(features, pre_logits=True), model.forward_head(features)
    taps = {info["module"]: _nhwc(m) for info, m in zip(model.feature_info, maps, strict=True)}
    return taps | {"features": _nhwc(features), "pooled": _nhwc(pooled), "logits": logits.numpy()}


def gradients(model: Any, images: np.ndarray, probe: np.ndarray) -> dict[str, np.ndarray]:
    """Gradient of `sum(logits * probe)` with respect to every parameter, by timm name."""
    import torch

    for parameter in model.parameters():
        parameter.requires_grad_(True)
    model.set_grad_checkpointing(True)
    with _unrounded():
        logits = model(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        (logits * torch.from_numpy(probe)).sum().backward()
    return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}


def _nhwc(tensor: Any) -> np.ndarray:
    return (tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor).numpy()
