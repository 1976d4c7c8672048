"""A checksum of each array: the same on any mesh, under any sharding, on a device and in numpy.

It is two sums modulo 2^32 over the array's 32-bit words w_i, i counting from 0 in row-major order: of w_i (2i + 1),
and of a bijective scramble of w_i + i c. Modular sums do not depend on the order of summation, so each device adds
up its own shards and only the sums travel. Changing one word changes the second sum for certain, changing one bit
both; other damage goes unnoticed once in 2^64.
"""

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

_ONE, _TWO = np.uint32(1), np.uint32(2)
_STRIDE, _FACTOR = np.uint32(0x9E3779B9), np.uint32(0x85EBCA6B)  # odd: multiplying by them loses nothing
_SHIFT, _SHIFT_AGAIN = np.uint32(16), np.uint32(15)


def checksums(arrays: Mapping[str, jax.Array | np.ndarray]) -> dict[str, str]:
    """The checksum of every array, as 16 hexadecimal digits.

    With several processes, all of them call this and get the same: each adds up the shards that it holds.

    Args:
        arrays: by name, of any real dtype, those of 64 bits and the empty ones too. Jax arrays lie on one device or
            have a NamedSharding.
    """
    parts = jax.device_get([_parts(array) for array in arrays.values()])  # all dispatched before any is waited for
    table = np.array([np.stack(sums).reshape(-1, 2).sum(axis=0, dtype=np.uint32) for sums in parts])
    if jax.process_count() > 1 and any(isinstance(array, jax.Array) for array in arrays.values()):
        from jax.experimental import multihost_utils

        table = np.asarray(multihost_utils.process_allgather(table)).sum(axis=0, dtype=np.uint32)
    return {name: f"{linear:08x}{mixed:08x}" for name, (linear, mixed) in zip(arrays, table.tolist(), strict=True)}


def prepare(arrays: Mapping[str, jax.Array | jax.ShapeDtypeStruct]) -> None:
    """Compile what `checksums` needs for such arrays; shapes with shardings are enough."""
    for array in arrays.values():
        _compiled(array.shape, array.dtype, _where(array.sharding))


def _parts(array: jax.Array | np.ndarray) -> list[Any]:
    """What this process contributes to the two sums: uint32 arrays `(2,)` or `(1, 2)`, to be added up."""
    if isinstance(array, np.ndarray):
        return [_numpy_sums(array)]
    if not array.is_fully_replicated:
        sums = _compiled(array.shape, array.dtype, _where(array.sharding))(array)
        return [shard.data for shard in sums.addressable_shards]
    if jax.process_index() == 0:  # every process has all of it; one of them counts
        first = _first_device(array.sharding)
        local = next(shard.data for shard in array.addressable_shards if shard.device == first)
        return [_compiled(array.shape, array.dtype, _where(array.sharding))(local)]
    return [np.zeros(2, np.uint32)]


def _where(sharding: Sharding) -> Sharding:
    """Where the sums of an array are computed: of one that all devices have, on a single one."""
    return SingleDeviceSharding(_first_device(sharding)) if sharding.is_fully_replicated else sharding


def _first_device(sharding: Sharding) -> jax.Device:
    """Always the same of the local devices: which one a set gives first differs from process to process."""
    return min(sharding.addressable_devices, key=operator.attrgetter("id"))


def _terms(words: Any, index: Any) -> tuple[Any, Any]:
    """What is summed, of words and their positions: uint32 arrays of numpy or jax."""
    mixed = words + index * _STRIDE
    mixed = (mixed ^ (mixed >> _SHIFT)) * _FACTOR
    return words * (index * _TWO + _ONE), mixed ^ (mixed >> _SHIFT_AGAIN)


def _numpy_sums(array: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(array).reshape(-1)
    words = flat.view(f"u{min(flat.dtype.itemsize, 4)}").astype(np.uint32)
    return np.array([term.sum(dtype=np.uint32) for term in _terms(words, np.arange(words.size, dtype=np.uint32))])


@functools.cache
def _compiled(shape: tuple[int, ...], dtype: Any, sharding: Any) -> jax.stages.Compiled:
    """The sums of an array of this kind, as a program.

    By array: far fewer kinds than arrays have to be compiled. A program over all arrays would take seconds to compile;
    programs that communicate, many of them in flight, can deadlock virtual CPU devices.
    """
    like = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    if isinstance(sharding, NamedSharding):
        return jax.jit(functools.partial(_sharded_sums, sharding=sharding)).lower(like).compile()
    return jax.jit(lambda array: _sums(array, shape, [0] * len(shape))).lower(like).compile()


def _sharded_sums(array: jax.Array, sharding: NamedSharding) -> jax.Array:
    """A row `(2,)` from each device, to be added up."""
    mesh, spec = sharding.mesh, [*sharding.spec, *[None] * (array.ndim - len(sharding.spec))]
    axes = [(axis,) if isinstance(axis, str) else axis or () for axis in spec]
    copies = tuple(axis for axis in mesh.axis_names if not any(axis in names for names in axes))

    def local(shard: jax.Array) -> jax.Array:
        starts = [jax.lax.axis_index(names) * n if names else 0 for names, n in zip(axes, shard.shape, strict=True)]
        sums = _sums(shard, array.shape, starts)
        counts = jax.lax.axis_index(copies) == 0 if copies else True  # the other devices hold copies
        return jnp.where(counts, sums, jnp.zeros_like(sums))[None]

    return jax.shard_map(local, mesh=mesh, in_specs=sharding.spec, out_specs=PartitionSpec(mesh.axis_names))(array)


def _sums(shard: jax.Array, shape: tuple[int, ...], starts: Sequence[Any]) -> jax.Array:
    """The two sums over a shard that begins at element `starts` of an array of this shape."""
    words = _words(shard)
    strides = [math.prod(shape[axis + 1 :]) * max(shard.dtype.itemsize // 4, 1) for axis in range(len(shape))]
    index = jnp.zeros((), jnp.uint32)  # keeps the axes of the shard: flattening one would gather it
    for axis, length in enumerate(words.shape):
        start, stride = (starts[axis], strides[axis]) if axis < shard.ndim else (0, 1)
        position = jnp.uint32(start) + jax.lax.iota(jnp.uint32, length)
        others = [other for other in range(words.ndim) if other != axis]
        index = index + jnp.expand_dims(position * np.uint32(stride % 2**32), others)
    # Both sums are one reduction: XLA on CPU takes a plain sum apart, writing out all terms first, 20 times slower.
    zero = np.uint32(0)
    sums = jax.lax.reduce(
        _terms(words, index), (zero, zero), lambda x, y: (x[0] + y[0], x[1] + y[1]), tuple(range(words.ndim))
    )
    return jnp.stack(sums)


def _words(array: jax.Array) -> jax.Array:
    """The bits as uint32; an element of 64 bits becomes two, along a new last axis."""
    if array.dtype == bool:
        return array.astype(jnp.uint32)
    kind = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(array, kind).astype(jnp.uint32)
