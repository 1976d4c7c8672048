"""Size and cost of a model, counted on shapes: no parameter and no activation is ever allocated.

The model is traced on abstract arrays. Convolutions and linear layers count by their definition, not by the program
that computes them (`nfjax/nn/conv.py` packs groups); attention's matrix products are read from the traced program.

    python -m nfjax.profile > nfjax/data/counts.csv      renews the packaged table
"""

import csv
import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nfjax.fast.backend import traced_for
from nfjax.models.base import ImageModel, Size, sides
from nfjax.models.registry import MODELS
from nfjax.nn.layers import Conv, EfficientChannelAttention, Linear
from nfjax.params import named_params
from nfjax.weights.names import ResolvedModel, resolve

SCOPE = re.compile(r"<([^<>]*)>")  # how the path of a module is written into the traced program


@dataclasses.dataclass
class Layer:
    """One module that owns parameters or multiplies matrices, and what it costs for one image."""

    path: str  # of the module, with dots, as in timm; "" for the model itself
    kind: str  # its class
    params: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)  # shapes of its own parameters
    output_shape: tuple[int, ...] | None = None  # without the batch axis; None if it returns several arrays
    macs: int = 0  # multiply-accumulates
    activations: int = 0  # elements of the outputs of its convolution or matrix products

    @property
    def param_count(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.params.values())

    def add(self, macs: int, activations: int) -> None:
        self.macs += macs
        self.activations += activations


@dataclasses.dataclass(frozen=True)
class Profile:
    """What a model costs for one image of `img_size` (height, width); its layers in the order of their calls."""

    img_size: Size
    layers: tuple[Layer, ...]

    @property
    def params(self) -> int:
        """Number of parameters."""
        return sum(layer.param_count for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions, linear layers and attention; each is two floating point operations."""
        return sum(layer.macs for layer in self.layers)

    @property
    def activations(self) -> int:
        """Elements of the outputs of convolutions, linear layers and the two products of attention."""
        return sum(layer.activations for layer in self.layers)


def profile(model: str | ResolvedModel | ImageModel, img_size: int | Size | None = None) -> Profile:
    """Parameters, multiply-accumulates and activations of a model, for one image.

    They are what timm publishes as param_count, gmacs and macts, except that its tool (fvcore) also counts
    elementwise work among the gmacs: five for each element that is normalised, the standardised weights included,
    and one for each that is pooled.

    Args:
        model: a name, as `nfjax.load` takes it, or what `nfjax.weights.names.resolve` makes of one; or a model, of
            which only the shapes are looked at.
        img_size: height and width of the image in pixels; None for the model's own.

    Raises:
        nfjax.UnknownModelError: no such name; the closest are suggested.
        ValueError: a size that the model does not take.
    """
    size = None if img_size is None else sides(img_size)
    model = resolve(model) if isinstance(model, str) else model
    if isinstance(model, ResolvedModel):
        chans, *own = model.data.input_size
        data = dataclasses.replace(model.data, input_size=(chans, *(size or own)))
        model = model.entry.build(data, **{"in_chans": chans} | model.model_args)
    size = size or model.data_config.input_size[1:]

    graphdef, state = nnx.split(model)
    layers: dict[str, Layer] = {}
    # Modules that count by definition, and not by the products in the program. The model itself, "", is one: what it
    # may multiply by is the resampling of a position embedding.
    defined = {""}

    def call(state: Any, x: jax.Array) -> Any:
        copy = nnx.merge(graphdef, state)
        copy.grad_checkpointing = False
        copy.dtype = jnp.dtype(jnp.float32)  # in half precision a fused kernel could hide its products
        for path, module in list(nnx.iter_graph(copy)):
            if isinstance(module, nnx.Module) and callable(module):
                _report_calls(module, ".".join(map(str, path)), layers, defined)
        return copy(x)

    with traced_for("any"):  # a CPU's products with ones are sums, not work of the model
        program = jax.make_jaxpr(call)(state, jax.ShapeDtypeStruct((1, *size, model.in_chans), jnp.float32))
    for path, macs, activations in _products(program.jaxpr, ""):
        if path not in defined:
            layers[path].add(macs, activations)
    for name, var in named_params(model).items():
        path, _, leaf = name.replace("/", ".").rpartition(".")
        layers.setdefault(path, Layer(path, "")).params[leaf] = var.get_value().shape
    return Profile(size, tuple(layer for layer in layers.values() if layer.params or layer.macs))


def _report_calls(module: Any, path: str, layers: dict[str, Layer], defined: set[str]) -> None:
    """Make the calls of a module appear in `layers`, and its path in the traced program."""
    kind: Any = type(module)

    def report(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        layer = layers.setdefault(path, Layer(path, kind.__name__))
        with jax.named_scope(f"<{path}>"):
            y = call(*args, **kwargs)
        if isinstance(y, jax.Array):
            layer.output_shape = y.shape[1:]
        if isinstance(module, Conv | Linear):
            kernel = module.kernel.get_value()
            layer.add(y.size * (kernel.size // kernel.shape[-1]), y.size)
            defined.add(path)
        elif isinstance(module, EfficientChannelAttention):  # its convolution is a sum of shifted arrays
            inner = layers.setdefault(f"{path}.conv", Layer(f"{path}.conv", type(module.conv).__name__))
            inner.output_shape = (1, y.shape[-1])
            inner.add(y.shape[-1] * module.kernel_size, y.shape[-1])
        return y

    vars(module)["_report"] = report
    object.__setattr__(module, "__class__", _reporting(kind))


@functools.cache
def _reporting(kind: Any) -> type:
    """A subclass whose calls go through `_report` of the instance."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        return vars(self)["_report"](functools.partial(kind.__call__, self), *args, **kwargs)

    return type(kind.__name__, (kind,), {"__call__": __call__})


def _products(program: Any, path: str) -> Iterator[tuple[str, int, int]]:
    """Module, multiply-accumulates and elements of the result, of each matrix product in a traced program."""
    for step in program.eqns:
        inside = SCOPE.findall(str(step.source_info.name_stack))
        module = inside[-1] if inside else path
        if step.primitive.name == "dot_general":
            (contracted, _), _ = step.params["dimension_numbers"]
            left, result = step.invars[0].aval.shape, step.outvars[0].aval.size
            yield module, result * int(np.prod([left[axis] for axis in contracted])), result
        for value in step.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)  # a closed program holds an open one
                if hasattr(inner, "eqns"):
                    yield from _products(inner, module)


def _main() -> None:
    """Print parameters, multiply-accumulates and activations of every architecture at its published sizes."""
    print("# For one image of img_size x img_size pixels, or of height x width; written by `python -m nfjax.profile`.")
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(["architecture", "num_classes", "img_size", "params", "macs", "activations"])
    for name, entry in MODELS.items():
        sizes = {(d.num_classes, size): d for d in entry.data for size in (d.input_size, d.test_input_size) if size}
        for (num_classes, size), data in sorted(sizes.items(), key=lambda item: item[0]):
            counted = profile(data.name, size[1:])
            side = f"{size[1]}" if size[1] == size[2] else f"{size[1]}x{size[2]}"
            table.writerow([name, num_classes, side, counted.params, counted.macs, counted.activations])


if __name__ == "__main__":
    _main()
