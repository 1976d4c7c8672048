"""Where `nfjax.load` puts parameters: on one device, on all of a mesh, or spread over it."""

from collections.abc import Callable, Mapping
from typing import Any

from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from port.errors import LINES, listed

Placement = Mesh | Sharding | Mapping[str, Sharding] | Callable[[str, tuple[int, ...]], Sharding]


def check_sharding(sharding: Any) -> None:
    """Refuse what is no `Placement`, before anything is read."""
    known = isinstance(sharding, Mesh | Sharding | Mapping) or (callable(sharding) and not isinstance(sharding, type))
    if sharding is not None and not known:
        raise ValueError(
            f"sharding={sharding!r:.80}; expected a jax.sharding.Mesh or Sharding, a mapping from paths of parameters "
            "to shardings, or a function of a path and a shape that returns one."
        )


def shardings_of(sharding: Placement | None, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Sharding] | None:
    """The sharding of each parameter, on a mesh of Auto axes, whatever those of the given one are.

    With Explicit ones jax would refuse parameters that are spread, in every operation that does not say how its result
    is; a batch may be on either.

    Args:
        sharding: a mesh spreads each parameter over all its devices, see `spread`; a sharding is that of all; a mapping
            has one for each path, and a function is called with path and shape.
        shapes: of the parameters, by path.

    Raises:
        ValueError: naming every parameter that has no sharding, or one that its shape cannot have.
    """
    if sharding is None:
        return None
    if isinstance(sharding, Mapping):
        if lacking := [path for path in shapes if path not in sharding]:
            raise ValueError(f"sharding has none for {len(lacking)} parameters: {listed(lacking, LINES)}.")
        if beyond := [str(path) for path in sharding if path not in shapes]:
            raise ValueError(f"sharding names {len(beyond)} parameters that there are not: {listed(beyond, LINES)}.")
    found = {path: _of(sharding, path, shape) for path, shape in shapes.items()}
    wrong = []
    for path, one in found.items():
        if not isinstance(one, Sharding):
            wrong.append(f"{path} ({type(one).__name__}, which is no sharding)")
            continue
        if isinstance(one, NamedSharding) and not isinstance(one.mesh, Mesh):
            wrong.append(f"{path} (a mesh without devices)")
            continue
        try:
            one.shard_shape(shapes[path])
        except (ValueError, IndexError):  # lengths that cannot be divided, or too many axes
            wrong.append(f"{path} {shapes[path]}, {getattr(one, 'spec', one)}")
    if wrong:
        raise ValueError(
            f"sharding does not fit {len(wrong)} parameters: {listed(wrong, LINES)}. A mesh as sharding spreads what "
            "can be."
        )
    return {path: _auto(one) for path, one in found.items()}


def spread(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """An array spread over all devices of a mesh, along the longest axis that can be divided; whole where none can."""
    axes = [axis for axis, length in enumerate(shape) if length and length % mesh.size == 0]
    spec: list[Any] = [None] * len(shape)
    if axes:
        spec[max(axes, key=shape.__getitem__)] = mesh.axis_names
    return NamedSharding(mesh, PartitionSpec(*spec))


def _of(sharding: Placement, path: str, shape: tuple[int, ...]) -> Any:
    if isinstance(sharding, Mesh):
        return spread(sharding, shape)
    if isinstance(sharding, Mapping):
        return sharding[path]
    return sharding if isinstance(sharding, Sharding) else sharding(path, shape)


def _auto(sharding: Sharding) -> Sharding:
    if not isinstance(sharding, NamedSharding):
        return sharding
    mesh = sharding.mesh
    auto = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
    return NamedSharding(auto, sharding.spec, memory_kind=sharding.memory_kind)
