"""Parameters as a flat `{path: array}` dict, whose paths mirror timm's names.

A layer declares its parameters with `param`: a shape and an initializer, no memory. `fill` puts given arrays
in, `initialize` draws whatever is still missing, so that loading weights never pays for a random init first.
"""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


class Initializer(Protocol):
    """Draws a float32 array; a frozen dataclass, so that equal architectures have equal graph definitions."""

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Constant:
    value: float

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, self.value, np.float32)


@dataclasses.dataclass(frozen=True)
class Normal:
    std: float

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(self.std)


@dataclasses.dataclass(frozen=True)
class Uniform:
    bound: float

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.uniform(-self.bound, self.bound, shape).astype(np.float32)


zeros, ones = Constant(0.0), Constant(1.0)


def param(shape: tuple[int, ...], init: Initializer) -> nnx.Param:
    """A parameter without a value: `shape`, float32, and the initializer that `initialize` will use."""
    return nnx.Param(jax.ShapeDtypeStruct(shape, jnp.float32), init=init)


def named_params(model: nnx.Module) -> dict[str, nnx.Param]:
    """The model's own parameter variables by path, e.g. `stages/0/0/conv1/kernel`."""
    return {"/".join(map(str, path)): node for path, node in nnx.iter_graph(model) if isinstance(node, nnx.Param)}


def split(model: nnx.Module) -> tuple[nnx.GraphDef, dict[str, jax.Array]]:
    """The model as a static definition and a flat dict of arrays, the form in which steps are jitted."""
    graphdef, state = nnx.split(model)
    return graphdef, {"/".join(map(str, path)): var[...] for path, var in nnx.to_flat_state(state)}


def merge(graphdef: nnx.GraphDef, params: Mapping[str, Any]) -> Any:
    """The inverse of `split`: `merge(graphdef, params)(x)` is the model as a pure function of `params`."""
    nested: dict[Any, Any] = {}
    for path, value in params.items():
        *parents, leaf = (int(part) if part.isdecimal() else part for part in path.split("/"))
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return nnx.merge(graphdef, nested)


def fill(model: nnx.Module, values: Mapping[str, Any], dtype: Any = None) -> None:
    """Put arrays into the parameters of the same path; other parameters are untouched.

    The model owns what it gets: later changes of the given arrays, or of a file they are views of, do not reach
    it. Shapes are not checked here: `port.check_strict` does, in timm's names.

    Args:
        model: the model to change.
        values: arrays by parameter path.
        dtype: of the parameters; None for each array's own.
    """
    variables = named_params(model)
    for path, value in values.items():
        array = np.asarray(value, dtype)
        # jax on CPU adopts a contiguous array's memory without a copy, the caller's or a mapped file's too; a
        # transposed view it has to copy, faster than numpy would.
        variables[path].set_value(jax.device_put(array.copy() if array.flags.c_contiguous else array))
    jax.block_until_ready([variables[path].get_value() for path in values])


def initialize(model: nnx.Module, seed: int = 0, dtype: Any = jnp.float32) -> list[str]:
    """Draw every parameter that has no value yet, and return their paths.

    Each parameter has its own stream, from the seed and its path: the values depend on neither the order of
    the layers, nor the backend, nor the number of devices.
    """
    missing = {path: var for path, var in named_params(model).items() if is_abstract(var)}
    values = {}
    for path, var in missing.items():
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(path.encode())])))
        values[path] = var.get_metadata("init")(rng, var.get_value().shape)
    fill(model, values, dtype)
    return list(missing)


def is_abstract(var: nnx.Variable) -> bool:
    """Whether the variable is still a shape without a value."""
    return isinstance(var.get_value(), jax.ShapeDtypeStruct)
