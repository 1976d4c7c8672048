"""Where arrays live: the mesh of devices, and what of it each array is spread over."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from train import config

AXES = ("data", "fsdp")


def make_mesh(mesh: config.Mesh, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
    """Devices, by default those of all processes, as a `(data, fsdp)` mesh.

    Raises:
        ValueError: if they cannot be arranged as asked.
    """
    count = jax.device_count() if devices is None else len(devices)
    data = count // mesh.fsdp if mesh.data == -1 and mesh.fsdp > 0 else mesh.data
    if data < 1 or mesh.fsdp < 1 or data * mesh.fsdp != count:
        raise ValueError(
            f"mesh.data={mesh.data} times mesh.fsdp={mesh.fsdp} must be the number of devices, {count}; mesh.data=-1 "
            "takes what mesh.fsdp leaves, and mesh.fsdp must divide the number of devices."
        )
    return jax.make_mesh((data, mesh.fsdp), AXES, axis_types=(AxisType.Auto, AxisType.Auto), devices=devices)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The first axis of a batch is spread over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def put_batch(mesh: jax.sharding.Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's rows of a batch, as its part of the arrays `(global batch, ...)`."""
    sharding = batch_sharding(mesh)
    with jax.transfer_guard_host_to_device("allow"):  # this is the one transfer that a step needs
        return {key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()}


def state_shardings(mesh: jax.sharding.Mesh, state: Any, axes: Mapping[str, Sequence[int]]) -> Any:
    """The sharding of every leaf of a training state.

    What is kept for a parameter, its momentum or its moving average, has the parameter's path as its last key and
    lies as the parameter does: along the fsdp axis, by the first of its `axes` that can be divided. The rest, counters
    and keys, is replicated.
    """
    parts, params = mesh.shape["fsdp"], state.base | state.params

    def sharding(key_path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        path = str(getattr(key_path[-1], "key", ""))
        if parts == 1 or path not in params or leaf.shape != params[path].shape:
            return replicated(mesh)
        for axis in axes.get(path, ()):
            if leaf.shape[axis] % parts == 0:
                spec: list[str | None] = [None] * leaf.ndim
                spec[axis] = "fsdp"
                return NamedSharding(mesh, PartitionSpec(*spec))
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding, state)


def bytes_per_device(tree: Any) -> int:
    """Bytes that one device holds of the arrays, or of the shapes with shardings, of a tree."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )
