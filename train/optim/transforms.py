"""From gradients to the directions that parameters move in, as torch and timm define them.

Each is an optax transformation over dicts by parameter path; what it keeps for a parameter has its path and its
shape. The learning rate, and weight decay that is decoupled from the gradient come later, in `train.optim`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from port.rules import timm_shapes
from train.optim.clip import tree_norm
from train.optim.state import Params, Scalar

# Newton-Schulz coefficients, one triple an iteration (timm `Muon`, "quintic").
QUINTIC = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def momentum(decay: float, nesterov: bool = False) -> optax.GradientTransformation:
    """The sum of past gradients, each step's weighing `decay` as much as the next's; nothing if `decay` is 0."""
    return optax.trace(decay, nesterov) if decay else optax.identity()


def add_decay(decay: Mapping[str, float]) -> optax.GradientTransformation:
    """`update + decay * parameter`, with a strength for each path."""

    def add(updates: Params, params: Params | None = None) -> Params:
        if params is None:
            raise ValueError("weight decay needs the parameters.")
        return {path: u + decay[path] * params[path] if decay[path] else u for path, u in updates.items()}

    return optax.stateless(add)


def scale_by_nadam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam that looks one step ahead, with one bias correction (1910.05446 table 1; timm `NAdamW`).

    optax's corrects the momentum as of step t + 1 and the gradient as of step t, after Dozat.
    """
    adam = optax.scale_by_adam(b1, b2, eps)

    def update(grads: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        _, state = adam.update(grads, state, params)
        ahead = optax.tree.update_moment(grads, state.mu, b1, 1)
        mean, square = (
            optax.tree.bias_correction(moment, beta, state.count) for moment, beta in ((ahead, b1), (state.nu, b2))
        )
        return {path: mean[path] / (jnp.sqrt(square[path]) + eps) for path in grads}, state

    return optax.GradientTransformation(adam.init, update)


THIRD = 0.99  # of Adan's betas, that of the squares


class AdanState(NamedTuple):
    """Running averages of gradients, of their differences and of squares, and the last gradient, negated."""

    mu: Params
    difference: Params
    nu: Params
    negated: Params
    count: Any


def scale_by_adan(b1: float, b2: float, eps: float, b3: float = THIRD) -> optax.GradientTransformation:
    """Momentum that looks ahead by the change of the gradient (2208.06677; timm `Adan`).

    optax's takes 1 - b2 of the difference, where the paper, whose betas are ours from 1, takes b2.
    """

    def init(params: Params) -> AdanState:
        zeros = optax.tree.zeros_like(params)
        return AdanState(zeros, zeros, zeros, zeros, jnp.zeros((), jnp.int32))

    def update(grads: Params, state: AdanState, params: Params | None = None) -> tuple[Params, AdanState]:
        first = state.count == 0
        change = {path: jnp.where(first, 0, grad + state.negated[path]) for path, grad in grads.items()}
        ahead = {path: grad + b2 * change[path] for path, grad in grads.items()}
        count = optax.safe_increment(state.count)
        moments = (
            optax.tree.update_moment(grads, state.mu, b1, 1),
            optax.tree.update_moment(change, state.difference, b2, 1),
            optax.tree.update_moment(ahead, state.nu, b3, 2),
        )
        mean, difference, square = (
            optax.tree.bias_correction(moment, beta, count) for moment, beta in zip(moments, (b1, b2, b3), strict=True)
        )
        found = {path: (mean[path] + b2 * difference[path]) / (jnp.sqrt(square[path]) + eps) for path in grads}
        return found, AdanState(*moments, {path: -grad for path, grad in grads.items()}, count)

    return optax.GradientTransformation(init, update)


class LookaheadState(NamedTuple):
    """Slow weights, and how many steps there were."""

    slow: Params
    count: Any


def lookahead(share: float, steps: int) -> optax.GradientTransformation:
    """After every so many steps, slow weights go a share of the way to the trained ones, which go on from there.

    The last transformation of a chain. The slow weights begin where the others are after the first `steps` (timm
    `Lookahead`; the paper's begin where training does).
    """

    def init(params: Params) -> LookaheadState:
        return LookaheadState(optax.tree.zeros_like(params), jnp.zeros((), jnp.int32))

    def update(updates: Params, state: LookaheadState, params: Params | None = None) -> tuple[Params, LookaheadState]:
        assert params is not None
        count = optax.safe_increment(state.count)
        now, first = count % steps == 0, count == steps
        fast = {path: params[path] + update for path, update in updates.items()}
        old = {path: jnp.where(first, fast[path], state.slow[path]) for path in fast}
        slow = {path: jnp.where(now, old[path] + share * (fast[path] - old[path]), old[path]) for path in fast}
        found = {path: jnp.where(now, slow[path] - params[path], update) for path, update in updates.items()}
        return found, LookaheadState(slow, count)

    return optax.GradientTransformation(init, update)


class RmsState(NamedTuple):
    """Running averages of squared gradients."""

    square: Params


def scale_by_rms_tf(eps: float, alpha: float = 0.9) -> optax.GradientTransformation:
    """TensorFlow's RMSprop: averages start at 1 and `eps` is inside the root (timm `RMSpropTF`)."""

    def init(params: Params) -> RmsState:
        return RmsState(optax.tree.ones_like(params))

    def update(grads: Params, state: RmsState, params: Params | None = None) -> tuple[Params, RmsState]:
        square = optax.tree.update_moment(grads, state.square, alpha, 2)
        return {path: grad / jnp.sqrt(square[path] + eps) for path, grad in grads.items()}, RmsState(square)

    return optax.GradientTransformation(init, update)


def scale_by_lamb(b1: float, b2: float, eps: float, decay: Mapping[str, float]) -> optax.GradientTransformation:
    """Adam with decay, scaled by the ratio of parameter norm to update norm (1904.00962; timm `Lamb`).

    As timm's, it first scales down the gradients if their common norm exceeds 1, and it leaves parameters without decay
    to Adam.
    """

    def limit(grads: Params, params: Params | None = None) -> Params:
        norm = jnp.maximum(tree_norm(grads), 1)
        return {path: grad / norm.astype(grad.dtype) for path, grad in grads.items()}

    def trust(updates: Params, params: Params | None = None) -> Params:
        assert params is not None
        return {path: u * _trust_ratio(params[path], u) if decay[path] else u for path, u in updates.items()}

    return optax.chain(
        optax.stateless(limit), optax.scale_by_adam(b1, b2, eps), add_decay(decay), optax.stateless(trust)
    )


def _trust_ratio(param: Float[Array, "*shape"], update: Float[Array, "*shape"]) -> Scalar:
    """|param| / |update|; 1 if either is 0."""
    param_norm, update_norm = optax.tree.norm(param), optax.tree.norm(update)
    positive = (param_norm > 0) & (update_norm > 0)
    return jnp.where(positive, param_norm / jnp.where(positive, update_norm, 1), 1)


class MuonState(NamedTuple):
    """Running averages of gradients."""

    mean: Params


def scale_by_muon(decay: float, eps: float, nesterov: bool = False) -> optax.GradientTransformation:
    """The running average of the gradient, as the orthogonal matrix nearest to it (timm `Muon`).

    A kernel counts as the matrix of its output channels by all the rest. The result is scaled so that its elements are
    as large as AdamW's: by 0.2 sqrt(larger side) (2502.16982 section 2.2).

    It is computed in the dtype of the gradient, where timm takes bfloat16.
    """

    def init(params: Params) -> MuonState:
        return MuonState(optax.tree.zeros_like(params))

    def update(grads: Params, state: MuonState, params: Params | None = None) -> tuple[Params, MuonState]:
        mean = optax.tree.update_moment(grads, state.mean, decay, 1)
        ahead = optax.tree.update_moment(grads, mean, decay, 1) if nesterov else mean
        return {path: _orthogonal(a, eps) for path, a in ahead.items()}, MuonState(mean)

    return optax.GradientTransformation(init, update)


def _orthogonal(kernel: Float[Array, "*rest out"], eps: float) -> Float[Array, "*rest out"]:
    """Newton-Schulz: push all singular values of the kernel's matrix `(rest, out)` towards 1.

    timm's matrix is the transpose, with its columns in another order; the iteration does not see the difference.
    """
    x = kernel.reshape(-1, kernel.shape[-1])
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / jnp.maximum(jnp.linalg.norm(x), eps)

    def iteration(
        x: Float[Array, "short long"], coefficients: Float[Array, "3"]
    ) -> tuple[Float[Array, "short long"], None]:
        a, b, c = coefficients
        square = x @ x.T
        return a * x + (b * square + c * (square @ square)) @ x, None

    x, _ = jax.lax.scan(iteration, x, jnp.array(QUINTIC, x.dtype))  # a loop compiles faster than five copies
    return 0.2 * max(x.shape) ** 0.5 * (x.T if tall else x).reshape(kernel.shape)


def suits_muon(path: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter is a matrix worth orthogonalising (timm `_is_suitable_for_muon`, by its shape in torch)."""
    (shape,) = timm_shapes({path: shape}).values()
    if len(shape) < 2 or shape[0] == 1 or shape[1] == 1:
        return False  # vectors, gains, tokens and position embeddings, convolutions over channels
    small, large = sorted((shape[0], int(np.prod(shape[1:]))))
    return small >= 4 and large / small <= 128


def partition(
    chosen: Callable[[str, tuple[int, ...]], bool],
    first: optax.GradientTransformation,
    second: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """One transformation for the parameters whose path and shape are chosen, another for the others.

    The state is the pair of theirs, each with the paths that it is about and no others.
    """

    def parts(tree: Params) -> tuple[Params, Params]:
        yes = {path for path, x in tree.items() if chosen(path, x.shape)}
        return {p: x for p, x in tree.items() if p in yes}, {p: x for p, x in tree.items() if p not in yes}

    def init(params: Params) -> tuple[Any, Any]:
        one, two = parts(params)
        return first.init(one), second.init(two)

    def update(updates: Params, state: tuple[Any, Any], params: Params | None = None) -> tuple[Params, Any]:
        assert params is not None
        (one, two), (params_one, params_two) = parts(updates), parts(params)
        one, state_one = first.update(one, state[0], params_one)
        two, state_two = second.update(two, state[1], params_two)
        return one | two, (state_one, state_two)

    return optax.GradientTransformation(init, update)
