"""Parameters as a flat `{path: array}` dict, whose paths mirror timm's names.

A layer declares its parameters with `param`: a shape and an initializer, no memory. `fill` puts given arrays
in, `initialize` draws what is still missing, so that loading weights never pays for a random init first.
"""

import dataclasses
import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from port.mapped import release

Value = jax.Array | np.ndarray  # of a parameter; numpy's where a program is exported with its weights inside


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


@dataclasses.dataclass(frozen=True)
class TruncatedNormal:
    """Normal of this standard deviation, redrawn wherever it is more than two of them from 0."""

    std: float

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        value = rng.standard_normal(shape, dtype=np.float32)
        while (beyond := np.abs(value) > 2).any():
            value[beyond] = rng.standard_normal(int(beyond.sum()), dtype=np.float32)
        return value * np.float32(self.std)


@dataclasses.dataclass(frozen=True)
class Halves:
    """One initializer for the first half of the last axis, another for the second."""

    first: Initializer
    second: Initializer

    def __call__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        half = (*shape[:-1], shape[-1] // 2)
        return np.concatenate([self.first(rng, half), self.second(rng, half)], axis=-1)


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
    return graphdef, {"/".join(map(str, path)): var.get_value() for path, var in nnx.to_flat_state(state)}


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


def fill(
    variables: Mapping[str, nnx.Param],
    values: Mapping[str, Any],
    dtype: Any = None,
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
) -> dict[str, int]:
    """Put arrays into the parameters of the same path; other parameters are untouched.

    The model owns what it gets: later changes of the given arrays, or of a file they are views of, do not reach
    it. Shapes are not checked here: `port.check_strict` does, in timm's names. Of a mapped file no more is in memory
    at a time than the arrays that are being copied.

    Args:
        variables: those of the model to change, from `named_params`.
        values: arrays by path.
        dtype: None for each array's own.
        shardings: where each is put, by path; None for jax's default device.

    Returns:
        How many numbers are not finite, in that dtype, by path; paths without such are left out.
    """

    def transfer(item: tuple[str, Any]) -> tuple[jax.Array, int]:
        path, value = item
        with np.errstate(over="ignore"):  # it is counted
            array = np.asarray(value, dtype)
        odd = array.size - np.count_nonzero(np.isfinite(array))
        with jax.enable_x64(x64), jax.default_device(device):  # a thread does not inherit the caller's
            put = _put(array, None if shardings is None else shardings[path]).block_until_ready()
        if isinstance(value, np.ndarray):
            release(value)
        return put, int(odd)

    config: Any = jax.config  # its attributes are made at run time
    x64, device = config.jax_enable_x64, config.jax_default_device
    # Those copies release the interpreter lock: two threads took 37 ms for eca_nfnet_l0, one took 58.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        arrays = list(pool.map(transfer, values.items()))
    for path, (array, _) in zip(values, arrays, strict=True):
        variables[path].set_value(array)
    return {path: odd for path, (_, odd) in zip(values, arrays, strict=True) if odd}


def _put(array: np.ndarray, sharding: jax.sharding.Sharding | None) -> jax.Array:
    """An array of jax that shares no memory with the given one, each part of it on its devices."""
    if sharding is not None:
        # Every device takes its part; device_put would compare the whole between processes.
        return jax.make_array_from_callback(array.shape, sharding, lambda part: np.array(array[part], order="C"))
    # jax on CPU adopts a contiguous array's memory without a copy, the caller's or a mapped file's too; a
    # transposed view it has to copy, faster than numpy would.
    return jax.device_put(array.copy() if array.flags.c_contiguous else array)


def initialize(
    variables: Mapping[str, nnx.Param],
    seed: int = 0,
    dtype: Any = jnp.float32,
    shardings: Mapping[str, jax.sharding.Sharding] | None = None,
) -> None:
    """Draw every parameter of `variables`, a model's `named_params`, that has no value yet.

    Each parameter has its own stream, from the seed and its path: the values depend on neither the order of
    the layers, nor the backend, nor the number of devices. `shardings` are those of `fill`.
    """
    values = {}
    for path, var in variables.items():
        if is_abstract(var):
            seeds = np.random.SeedSequence([seed, zlib.crc32(path.encode())])
            rng = np.random.Generator(np.random.Philox(seeds))
            values[path] = var.get_metadata("init")(rng, var.get_value().shape)
    fill(variables, values, dtype, shardings)


def is_abstract(var: nnx.Variable) -> bool:
    """Whether the variable is still a shape without a value."""
    return isinstance(var.get_value(), jax.ShapeDtypeStruct)
