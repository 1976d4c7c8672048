"""How methods of models are called: as one compiled program outside of jit, and on meshes of any axis types."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from nfjax.params import merge, split
from port.text import cut, one_line

# How other Flax modules are told to train.
ELSEWHERE = frozenset({"deterministic", "train", "training", "is_training", "rngs", "use_running_average"})
HOW_TO_TRAIN = (
    "each call decides whether it trains: model(x, key=key), with a key of jax.random or an nnx.Rngs, trains with "
    "dropout and stochastic depth, and model(x) evaluates. See docs/flax.md."
)
Method = TypeVar("Method", bound=Callable[..., Any])


def anywhere(method: Method) -> Method:
    """A pure method of a model, `method(self, x, ..., key=...)`, for callers of every kind.

    With concrete arrays it runs as one compiled program, kept by architecture, shapes and options: op by op, a small
    network would be some five hundred compilations. On a mesh of Explicit axes, as `jax.make_mesh` makes them, it
    runs with Auto ones, and its results are sharded as the batch is. Inside jit it is what it is without all this.
    """
    known = inspect.signature(method).parameters
    parameters = [name for name, p in known.items() if p.kind is p.POSITIONAL_OR_KEYWORD][1:]  # without self

    @functools.wraps(method)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        for option in ELSEWHERE & options.keys() - known.keys():
            raise TypeError(f"{option}={cut(one_line(repr(options[option])), 60)}: {HOW_TO_TRAIN}")
        if "key" in options:
            options["key"] = random_key(options["key"])
        given = dict(zip(parameters, args, strict=False)) | options
        x, key = given.pop(parameters[0], None), given.pop("key", None)
        twice = options.keys() & set(parameters[: len(args)])
        if len(args) > len(parameters) or twice or not (args or parameters[0] in options):
            return method(self, *args, **options)  # which says what is wrong
        if isinstance(x, Mapping):
            x = patches(x, self.patch_keys)
            args, options = ((x, *args[1:]), options) if args else ((), options | {parameters[0]: x})
        arrays = list(x.values()) if isinstance(x, Mapping) else [x]
        for array in arrays:
            require_array(array)
        mesh = _explicit_mesh(self, arrays)
        concrete = not any(isinstance(value, jax.core.Tracer) for value in (*arrays, key, _first(self)))
        alone = concrete and not jax.config.jax_disable_jit  # type: ignore[attr-defined]  # made at run time
        ours = (alone or mesh is not None) and _is_ours(self)
        if mesh is None and not (alone and ours):
            return method(self, *args, **options)
        if not ours and (kept := _stateful(self)):
            raise ValueError(
                f"{kept} keeps state, which a call on a mesh of Explicit axes cannot change. Make the mesh with "
                "axis_types=(jax.sharding.AxisType.Auto,)."
            )
        graphdef, params = split(self)
        fixed = tuple((name, tuple(v) if isinstance(v, (list, np.ndarray)) else v) for name, v in sorted(given.items()))
        run = _compiled if ours else _on_mesh
        return run(method, graphdef, fixed, mesh and NamedSharding(mesh, P(*_batch_axis(arrays[0]))), params, x, key)

    return call  # type: ignore[return-value]


def patches(given: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """The arrays of a dictionary of patches, or of the tokens that became of them; timm's "seq_len" is none.

    Args:
        given: what is called with.
        keys: of a model, its `patch_keys`.

    Raises:
        ValueError: the model takes no dictionary, or another one.
    """
    if not keys:
        raise ValueError("input is a dictionary; this model takes an array (batch, height, width, channels).")
    found = {name: array for name, array in given.items() if name != "seq_len"}
    if "patches" not in found or found.keys() - set(keys):
        raise ValueError(f"input is a dictionary of {', '.join(map(str, found))}; expected {', '.join(keys)}.")
    return found


def random_key(key: Any) -> Any:
    """A PRNG key of `jax.random`, or None; of an `nnx.Rngs` the next key of its stream "dropout".

    Raises:
        ValueError: anything else.
    """
    if isinstance(key, nnx.Rngs):
        if not {"dropout", "default"} & set(vars(key)):
            raise ValueError("key= is an nnx.Rngs without a stream dropout or default; nnx.Rngs(0) has one.")
        return key.dropout()
    if isinstance(key, nnx.RngStream):
        return key()
    if key is None or isinstance(key, (jax.Array, np.ndarray)):
        return key
    raise ValueError(f"key={key!r:.60}; expected a key of jax.random, as jax.random.key(0), or an nnx.Rngs.")


def require_array(x: Any) -> None:
    """Refuse images that are no array of jax's or numpy's, with a sentence.

    Raises:
        ValueError: a torch tensor, a list, a picture.
    """
    if isinstance(x, (jax.Array, np.ndarray)) or hasattr(x, "__jax_array__"):
        return
    hint = " Pass x.permute(0, 2, 3, 1).numpy(), if it is NCHW." if hasattr(x, "detach") else " See nfjax.load_image."
    kind = f"{type(x).__module__}.{type(x).__qualname__}"
    wanted = "an array of jax or numpy, (batch, height, width, channels)"
    raise ValueError(f"input of type {kind}; expected {wanted}.{hint}")


def _on_mesh(
    method: Callable[..., Any], graphdef: Any, fixed: tuple[Any, ...], out: NamedSharding | None, *arrays: Any
) -> Any:
    def run(params: Any, x: Any, key: Any) -> Any:
        random = {} if key is None else {"key": key}
        return method(merge(graphdef, params), x, **random, **dict(fixed))

    if out is not None:
        run = jax.sharding.auto_axes(run, out_sharding=out)
    return run(*arrays)


_compiled = jax.jit(_on_mesh, static_argnums=(0, 1, 2, 3))


def _first(model: Any) -> Any:
    """One of the parameters, for all of them."""
    return next((node.get_value() for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Param)), None)


def _is_ours(model: Any) -> bool:
    """Is all of the model pure? A module of the user's may print, count or keep what it saw."""
    for _, node in nnx.iter_graph(model):
        foreign = isinstance(node, nnx.Module) and not type(node).__module__.startswith(("nfjax.", "flax."))
        if foreign or (isinstance(node, nnx.Variable) and not _is_array(node)):
            return False
    return True


def _stateful(model: Any) -> str:
    """The first variable that a call may change, by its path; none if there is no such."""
    for path, node in nnx.iter_graph(model):
        if isinstance(node, nnx.Variable) and not isinstance(node, nnx.Param):
            return ".".join(map(str, path))
    return ""


def _is_array(variable: Any) -> bool:
    return isinstance(variable, nnx.Param) and isinstance(variable.get_value(), (jax.Array, np.ndarray))


def _explicit_mesh(model: Any, arrays: Sequence[Any]) -> Any:
    """The mesh with Explicit axes that the images or the parameters are on."""
    for array in (*arrays, _first(model)):
        if isinstance(array, jax.Array):
            mesh = jax.typeof(array).sharding.mesh
            if not mesh.empty and AxisType.Explicit in mesh.axis_types:
                return mesh
    return None


def _batch_axis(x: Any) -> tuple[Any, ...]:
    return tuple(jax.typeof(x).sharding.spec)[:1] if isinstance(x, jax.Array) else ()
