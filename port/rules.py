"""timm's names and layouts <-> Flax paths and layouts: the whole mapping is the table `RULES`.

A timm name `stages.0.0.conv1.weight` and a Flax path `stages/0/0/conv1/kernel` share all but their leaf. A rule
maps the leaf and the layout of arrays of one rank; each is a view in both directions, so the mapping loses nothing.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from port.errors import LINES, WeightsError, listed

View = Callable[[np.ndarray], np.ndarray]


class Rule(NamedTuple):
    """`timm` and `flax` are leaf names, the ranks those of the array on either side."""

    timm: str
    timm_rank: int
    flax: str
    flax_rank: int
    to_flax: View
    to_timm: View


def _same(a: np.ndarray) -> np.ndarray:
    return a


def _axes(*axes: int) -> tuple[View, View]:
    inverse = tuple(int(i) for i in np.argsort(axes))
    return (lambda a: a.transpose(axes)), (lambda a: a.transpose(inverse))


# Leaves that have the same name and layout on both sides.
_SAME = {
    0: ("skipinit_gain",),
    1: ("bias", "gamma", "gamma_1", "gamma_2", "q_bias", "v_bias", "lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"),
    3: ("cls_token", "reg_token", "pos_embed", "pos_embed_y", "pos_embed_x", "latent"),  # (1, tokens, dim)
    4: ("pos_embed",),  # (1, rows, columns, dim)
}

RULES: tuple[Rule, ...] = (
    Rule("weight", 4, "kernel", 4, *_axes(2, 3, 1, 0)),  # conv2d: OIHW <-> HWIO
    Rule("weight", 3, "kernel", 3, *_axes(2, 1, 0)),  # conv1d: OIK <-> KIO
    Rule("weight", 2, "kernel", 2, *_axes(1, 0)),  # linear: OI <-> IO
    Rule("gain", 4, "gain", 1, lambda a: a[:, 0, 0, 0], lambda a: a[:, None, None, None]),  # (O, 1, 1, 1)
    Rule("weight", 1, "scale", 1, _same, _same),  # of a norm
    *(Rule(leaf, rank, leaf, rank, _same, _same) for rank, leaves in _SAME.items() for leaf in leaves),
)
_BY_TIMM = {(r.timm, r.timm_rank): r for r in RULES}
_BY_FLAX = {(r.flax, r.flax_rank): r for r in RULES}


def to_flax(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """timm's state dict `{name: array}` as Flax's `{path: array}`.

    The arrays are views of the given ones; dtypes stay as they are.

    Raises:
        WeightsError: naming every entry that no rule covers.
    """
    converted = {}
    for name, parents, array, rule in _with_rules(state, ".", _BY_TIMM):
        if rule.flax_rank == 1 and rule.timm_rank == 4 and array.shape[1:] != (1, 1, 1):
            raise WeightsError(f"{name} has shape {array.shape}; expected ({array.shape[0]}, 1, 1, 1).")
        converted["/".join([*parents, rule.flax])] = rule.to_flax(np.asarray(array))
    return converted


def to_timm(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The exact inverse of `to_flax`: Flax's `{path: array}` as timm's state dict `{name: array}`.

    Raises:
        WeightsError: naming every path that no rule covers.
    """
    rows = _with_rules(params, "/", _BY_FLAX)
    return {".".join([*parents, rule.timm]): rule.to_timm(np.asarray(array)) for _, parents, array, rule in rows}


def timm_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """timm's names and shapes of parameters that are known by Flax path and shape; nothing is allocated."""
    blank = {path: np.broadcast_to(np.float32(0), shape) for path, shape in shapes.items()}
    return {name: array.shape for name, array in to_timm(blank).items()}


def _with_rules(
    arrays: Mapping[str, np.ndarray], separator: str, known: Mapping[tuple[str, int], Rule]
) -> list[tuple[str, list[str], np.ndarray, Rule]]:
    """For each array its name, what that has before the leaf, itself, and its rule."""
    rows, unknown = [], []
    for name, array in arrays.items():
        *parents, leaf = name.split(separator)
        if (rule := known.get((leaf, np.ndim(array)))) is None:
            unknown.append(f"{name} of shape {tuple(np.shape(array))}")
        else:
            rows.append((name, parents, array, rule))
    if unknown:
        leaves = ", ".join(f"{leaf} (rank {rank})" for leaf, rank in known)
        raise WeightsError(
            f"no conversion rule for {len(unknown)} arrays: {listed(unknown, LINES)}. Rules exist for {leaves}."
        )
    return rows
