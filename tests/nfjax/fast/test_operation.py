"""Each operation of `nfjax.fast`, and a network of each family, by the plain formulas and by what is fast."""

import contextlib
import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfjax
from nfjax import fast
from nfjax.fast.backend import compiler_options, traced_for
from nfjax.fast.barriers import kept
from nfjax.fast.operation import OPERATIONS, Operation
from nfjax.fast.rows import spread_rows, sum_rows, sum_rows_of
from nfjax.nn.conv import conv2d
from nfjax.params import merge, split

BACKENDS = ("cpu", "gpu", "tpu", "any")
FILES = [importlib.import_module(f"nfjax.fast.{file.name}") for file in pkgutil.iter_modules(fast.__path__)]
MACHINERY = {"nfjax.fast.backend", "nfjax.fast.operation"}  # what operations are made with


class Layer:
    def __init__(self, kernel, bias):
        self.kernel, self.bias = kernel, bias

    def __call__(self, x):
        return fast.add_bias(fast.matmul(x, self.kernel), self.bias)


@dataclasses.dataclass
class Case:
    call: Callable[..., Any]
    shapes: list[tuple[int, ...]]
    jitted: bool = True
    differentiated: bool = True


MAPS = (2, 3, 4, 6)
CASES = {
    "add_bias": Case(fast.add_bias, [MAPS, (6,)]),
    "attend": Case(fast.attend, [(2, 5, 3, 8), (2, 7, 3, 8), (2, 7, 3, 8)]),
    "compiled": Case(
        lambda x: fast.compiled(lambda factor, x: factor * jnp.square(x), jnp.asarray(3.0), x)(x), [MAPS], False, False
    ),
    "compiler_options": Case(
        lambda x: jax.jit(jnp.cumsum, compiler_options=compiler_options())(x), [MAPS], False, False
    ),
    "gelu": Case(fast.gelu, [MAPS]),
    "group_parts": Case(lambda x, k: conv2d(x, k, groups=3), [MAPS, (3, 3, 2, 9)]),
    "in_parts": Case(lambda x, k, b: jnp.stack(fast.in_parts(Layer(k, b), x, 2)), [MAPS, (6, 10), (10,)]),
    "kept": Case(kept, [MAPS]),
    "matmul": Case(fast.matmul, [MAPS, (6, 5)]),
    "normalize": Case(lambda x: fast.normalize(x, 1e-2), [MAPS]),
    "row_major": Case(fast.row_major, [MAPS]),
    "scale": Case(lambda x, gain, of_image: fast.scale(fast.scale(x, gain), of_image), [MAPS, (6,), (2, 1, 1, 1)]),
    "silu": Case(fast.silu, [MAPS]),
    "spread_rows": Case(lambda x, like: like * spread_rows(x, like), [(6,), MAPS]),
    "standardize": Case(lambda kernel, gain: fast.standardize(kernel, gain, 1e-2), [(3, 3, 4, 6), (6,)]),
    "sum_rows": Case(sum_rows, [MAPS]),
    "sum_rows_of": Case(lambda x: sum_rows_of(jnp.square, x), [MAPS], differentiated=False),
    "winograd": Case(lambda x, k, b: fast.WinogradConv(k, b, 2)(x), [(2, 5, 4, 6), (3, 3, 3, 8), (8,)]),
}
SMALL = {"img_size": 32, "depth": 1, "embed_dim": 32, "num_heads": 2, "num_classes": 10}
NF = {"depths": (1, 1), "channels": (32, 64), "num_classes": 10}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "NFNet with SE": ("test_nfnet", NF | {"skipinit": True}),
    "NFNet with ECA": ("test_nfnet", NF | {"attn_layer": "eca", "reg": True, "act_layer": "gelu", "num_features": 0}),
    "registers": ("vit_medium_patch16_reg4_gap_256", SMALL),
    "rotary": ("vit_medium_patch16_rope_reg1_gap_256", SMALL),
    "differential": ("vit_dwee_patch16_reg1_gap_256", SMALL),
    "parallel and differential": ("vit_dpwee_patch16_reg1_gap_256", SMALL),
    "attention pooling": ("test_vit3", SMALL),
}


def assert_same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * np.abs(b).max())


def compare(case: Case):
    """Value and gradient of an operation in both forms, on every backend."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal(shape)) for shape in case.shapes]

    def run():
        value = (jax.jit(lambda *args: case.call(*args)) if case.jitted else case.call)(*arrays)
        if not case.differentiated:
            return value
        probe = np.random.default_rng(1).standard_normal(value.shape)
        loss = jax.grad(lambda *args: jnp.vdot(probe, case.call(*args)), tuple(range(len(arrays))))
        return value, jax.jit(loss)(*arrays)

    with fast.plain_formulas():
        expected = run()
    for name in BACKENDS:
        with traced_for(name) if name != jax.default_backend() else contextlib.nullcontext():
            assert_same(run(), expected)


@pytest.mark.parametrize("name", CASES)
def test_operation(name, x64, monkeypatch):
    compare(CASES[name])
    # A control: an error of 1e-6 would be seen.
    right = OPERATIONS[name].fast

    def wrong(*args):
        y = right(*args)
        return (lambda x: y(x) * (1 + 1e-6)) if callable(y) else jax.tree.map(lambda a: a * (1 + 1e-6), y)

    if name != "compiler_options":  # which are no numbers
        monkeypatch.setattr(OPERATIONS[name], "fast", wrong)
        with pytest.raises(AssertionError, match="Not equal"):
            compare(CASES[name])


def test_every_operation_has_its_plain_formula_beside_it():
    assert set(OPERATIONS) == set(CASES)
    for file in FILES:
        public = {name: value for name, value in vars(file).items() if not name.startswith("_")}
        for name, value in public.items():
            if isinstance(value, Operation) and value.__module__ == file.__name__:
                assert value.fast is not value.plain, name
                assert {inspect.getmodule(inspect.unwrap(form)) for form in (value.plain, value.fast)} == {file}, name
            elif inspect.isfunction(value) and value.__module__ == file.__name__:
                assert file.__name__ in MACHINERY, f"{file.__name__}.{name} has no plain formula"


def test_attention_in_single_precision():
    """In float64 the formula is written out; here it is not. Many tokens are computed head by head on a CPU."""
    for tokens in (9, 96):
        q, k, v = (jax.random.normal(jax.random.key(i), (2, tokens, 2, 8)) for i in range(3))

        def both(*qkv):
            return (
                fast.attend(*qkv),
                jax.jvp(fast.attend, qkv, qkv)[1],
                jax.grad(lambda *a: fast.attend(*a).sum())(*qkv),
            )

        with fast.plain_formulas():
            expected = jax.jit(lambda *qkv, both=both: both(*qkv))(q, k, v)
        for name in BACKENDS:
            with traced_for(name):
                traced = jax.jit(lambda *qkv, both=both: both(*qkv)).trace(q, k, v)
            assert ("scan" in str(traced.jaxpr)) == (tokens == 96 and name == "cpu")
            for mine, theirs in zip(traced.lower().compile()(q, k, v), expected, strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=3e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_weights_of_attention_are_not_kept(masked):
    """The backward pass has queries, keys and values, and computes the weights anew."""
    qkv = [jax.random.normal(jax.random.key(i), (2, 96, 2, 8)) for i in range(3)]
    mask = (jnp.ones((2, 1, 1, 96), bool),) if masked else ()
    for name in BACKENDS:
        with traced_for(name):
            pull = jax.eval_shape(lambda *qkv: jax.vjp(lambda *a: fast.attend(*a, *mask), *qkv)[1], *qkv)
        assert max(leaf.size for leaf in jax.tree.leaves(pull)) <= 2 * 96 * 2 * 8


@pytest.mark.parametrize(
    ("tokens", "of_value", "of_gradient"),
    [
        (260, "cudnn", "cudnn"),
        (257, "cudnn", None),  # jax 0.10 to 0.12 raise NotImplementedError for the derivative
    ],
)
def test_the_fused_kernel_of_a_gpu_where_it_is_supported(tokens, of_value, of_gradient, monkeypatch):
    taken = []

    def attention(q, k, v, implementation=None):
        taken.append(implementation)
        return v + q.mean() + k.mean()

    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    x = jax.ShapeDtypeStruct((1, tokens, 1, 8), jnp.bfloat16)
    with traced_for("gpu"):
        jax.eval_shape(fast.attend, x, x, x)
        assert taken[-1] == of_value
        jax.eval_shape(jax.grad(lambda *qkv: fast.attend(*qkv).astype("float32").sum()), x, x, x)
        assert taken[-1] == of_gradient


def gradients(name):
    """A function that gives a network's logits and gradients, and the text of the program for them."""
    name, options = NETWORKS[name]
    model = nfjax.load(name, weights=None, dtype="float64", **options)
    rng = np.random.default_rng(0)
    graphdef, params = split(model)
    params = {path: rng.standard_normal(value.shape) / 8 for path, value in params.items()}
    x, probe = rng.standard_normal((2, 32, 32, 3)), rng.standard_normal((2, 10))

    def loss(params):
        logits = merge(graphdef, params)(x)
        return jnp.vdot(probe, logits), logits

    def run():
        lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(params)
        return lowered.as_text(), lambda: lowered.compile()(params)

    return run


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name, x64):
    run = gradients(name)
    with fast.plain_formulas():
        plain, call = run()
    expected = call()
    assert all(np.abs(grad).max() > 0 for grad in expected[0].values())
    programs, barriers = {}, {}
    for backend in BACKENDS:
        with traced_for(backend):
            text, call = run()
        barriers[backend] = text.count("optimization_barrier")
        programs[text] = call  # of equal programs one is run
    # Of attention, whose weights are computed anew; on a GPU of what it should not compute anew, too.
    assert [backend for backend in barriers if barriers[backend] > barriers["any"]] == ["gpu"] * ("NFNet" not in name)
    assert (barriers["any"] > 0) == ("NFNet" not in name and "differential" not in name)
    assert len(programs) > 1
    assert plain not in programs
    for call in programs.values():
        assert_same(call(), expected)


def test_a_wrong_derivative_in_a_network_would_be_seen(x64, monkeypatch):
    run = gradients("NFNet with SE")
    with fast.plain_formulas():
        _, expected = run()

    @jax.custom_jvp
    def wrong(x):
        return jax.nn.silu(x)

    wrong.defjvp(lambda at, along: (wrong(*at), along[0] * (jax.nn.sigmoid(at[0]) + 1e-6)))
    monkeypatch.setattr(fast.silu, "fast", wrong)
    _, found = run()
    (grads, logits), (right_grads, right_logits) = found(), expected()
    assert_same(logits, right_logits)
    with pytest.raises(AssertionError, match="Not equal"):
        assert_same(grads, right_grads)
