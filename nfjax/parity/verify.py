"""A model against timm: every feature map, the logits, the gradients, and the way back.

Both libraries get the same weights, every one of them random unless a file is given, and the same images.
A difference is relative: max |ours - timm's| / max |timm's|.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import nfjax
import port
from nfjax.models import registry
from nfjax.models.eva import Eva
from nfjax.models.naflex import NaFlexVit
from nfjax.models.vit import VisionTransformer
from nfjax.params import merge, split
from nfjax.parity import oracle
from nfjax.weights.which import sizes_of

ODD_SIZE, ODD_GRID = (97, 113), (7, 9)
BATCH = 2
LARGE = 2**28  # bytes of weights
TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "gradient": 1e-9, "table": 2e-6}


class Row(NamedTuple):
    """One comparison: where in the model, at which input size and dtype, how far apart, how far allowed."""

    model: str
    stage: str
    size: str
    dtype: str
    difference: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.difference <= self.tolerance  # False for NaN

    def __str__(self) -> str:
        verdict = "pass" if self.ok else "FAIL"
        return (
            f"{self.model:<37} {self.stage:<34} {self.size:>9} {self.dtype:<8} "
            f"{self.difference:9.2e} <= {self.tolerance:.0e} {verdict}"
        )


def relative(ours: Any, theirs: Any) -> float:
    """max |ours - theirs| / max |theirs|; infinite if the shapes differ, or only the reference is all zero."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    if ours.shape != theirs.shape or (np.any(ours) and not np.any(theirs)):
        return float("inf")
    if not np.any(theirs):  # behind a zero gain, as fresh weights have them; random ones leave nothing at zero
        return 0.0
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def verify(
    name: str,
    *,
    weights: str | None = None,
    weights_key: str | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
    x64: bool = False,
    seed: int = 0,
    **options: Any,
) -> Iterator[Row]:
    """Compare one model with timm's, and yield each comparison as it is made.

    For other sizes than its own each library resizes a transformer itself, in float32. In float64, where timm still
    rounds to float32, ours gets timm's resampled position embedding, and timm's model our rotary table, which is
    compared in a row of its own.

    Args:
        name: a model name that timm and nfjax both have.
        weights: a file for both; None for random values in every parameter.
        weights_key: which weights of it, as for `nfjax.load`.
        sizes: (height, width) of the inputs; None for the model's own and an odd one.
        x64: compare in float64 too, and gradients, which always are, at every size instead of the smallest.
        seed: of the weights and the images.
        options: changes of the architecture, made in both libraries, e.g. `depth=2`.
    """
    sizes = default_sizes(name) if sizes is None else sizes
    entry = registry.find(name)[0]
    if kv_heads := getattr(entry.config, "num_kv_heads", None):  # one for each block
        options = {"num_kv_heads": kv_heads[: options.get("depth")]} | options
    entry.build(**options)  # says what is wrong with an option better than timm does
    if weights is None:
        state = oracle.random_state(oracle.shapes(name, **options), seed)
    else:
        state = port.read_weights(weights, weights_key=weights_key)
    options = sizes_of(name, state) | options
    pair = _Pair(name, state, options)

    yield pair.round_trip()
    for dtype in ("float32", "float64") if x64 else ("float32",):
        with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
            for size in sizes:
                yield from pair.forward(size, dtype, seed)
                pair.let_go()
    for size in sizes if x64 else [min(sizes)]:
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            yield pair.gradients(size, seed)
            pair.let_go()


def default_sizes(name: str) -> list[tuple[int, int]]:
    """A model's own input size, and an odd one: neither square nor, where any size will do, divisible."""
    entry, data = registry.find(name)
    if not issubclass(entry.family, VisionTransformer):
        return [data.input_size[1:], ODD_SIZE]
    patch = entry.config.patch_size
    return [data.input_size[1:], (ODD_GRID[0] * patch, ODD_GRID[1] * patch)]


class _Pair(NamedTuple):
    """The same model in both libraries."""

    name: str
    state: Mapping[str, np.ndarray]
    options: Mapping[str, Any]

    def ours(self, state: Mapping[str, np.ndarray], dtype: str, **options: Any) -> nfjax.ImageModel:
        return nfjax.load(self.name, weights=state, dtype=dtype, **{**self.options, **options})

    def build(self, size: tuple[int, int], dtype: str) -> tuple[Any, nfjax.ImageModel]:
        """timm's model and ours, for images of this size."""
        theirs, state = oracle.build(self.name, self.state, dtype, **self.options), self.state
        family = registry.find(self.name)[0].family
        if issubclass(family, NaFlexVit) or not issubclass(family, VisionTransformer):  # which take any size
            return theirs, self.ours(state, dtype)
        if size != theirs.patch_embed.img_size:
            if registry.find(self.name)[0].config.pos_embed_interp == "bicubic":
                theirs.set_input_size(img_size=size)
            else:  # timm's loading resamples in another way than its `set_input_size`
                loaded = oracle.load_at_size(self.name, state, size, **self.options)
                theirs = loaded.double() if dtype == "float64" else loaded
        if dtype == "float64":
            state = {key: value.numpy() for key, value in theirs.state_dict().items()}
        ours = self.ours(state, dtype, img_size=size)
        if dtype == "float64" and isinstance(ours, Eva):
            oracle.replace_rope_table(theirs, ours.rope_table(ours.grid_size))
        return theirs, ours

    def let_go(self) -> None:
        """Free both models, whose parts know each other, before the next ones are built: where that is much memory."""
        if sum(array.nbytes for array in self.state.values()) > LARGE:
            gc.collect()

    def round_trip(self) -> Row:
        """timm -> Flax -> timm; the difference is the number of tensors that are not byte-identical."""
        back, state = nfjax.state_dict(self.ours(self.state, "float32")), self.state
        same = [
            key in back and back[key].shape == a.shape and back[key].tobytes() == np.asarray(a, np.float32).tobytes()
            for key, a in state.items()
        ]
        changed = same.count(False) + len(set(back) - set(state))
        return Row(self.name, f"round trip of {len(state)} tensors", "-", "bytes", float(changed), 0.0)

    def forward(self, size: tuple[int, int], dtype: str, seed: int) -> Iterator[Row]:
        theirs, ours = self.build(size, dtype)
        side = f"{size[0]}x{size[1]}"
        if dtype == "float32" and isinstance(ours, Eva):
            difference = relative(ours.rope_table(ours.grid_size).astype(dtype), oracle.rope_table(theirs))
            yield Row(self.name, "rotary table", side, dtype, difference, TOLERANCE["table"])
        images = _images(size, theirs.in_chans, dtype, seed)
        expected = oracle.forward(theirs, images)
        del theirs
        graphdef, params = split(ours)
        del ours
        outputs = jax.jit(lambda params, x: _outputs(merge(graphdef, params), x))(params, jnp.asarray(images))
        for stage, reference in expected.items():
            yield Row(self.name, stage, side, dtype, relative(outputs[stage], reference), TOLERANCE[dtype])

    def gradients(self, size: tuple[int, int], seed: int) -> Row:
        theirs, model = self.build(size, "float64")
        images = _images(size, theirs.in_chans, "float64", seed)
        outputs = theirs.num_classes or theirs.num_features
        probe = np.random.default_rng(seed + 1).standard_normal((BATCH, outputs))
        expected = oracle.gradients(theirs, images, probe)
        del theirs

        model.set_grad_checkpointing(True)
        graphdef, params = split(model)
        del model

        @jax.jit
        def ours(params: Any, x: jax.Array) -> Any:
            return jax.grad(lambda p: jnp.sum(merge(graphdef, p)(x) * probe))(params)

        grads = port.to_timm({path: np.asarray(g) for path, g in ours(params, jnp.asarray(images)).items()})
        differences = {key: relative(grads[key], expected[key]) for key in expected}
        worst = max(differences, key=lambda key: (not differences[key] <= 1e300, differences[key]))
        stage = f"gradients of {len(expected)}; {worst}"
        return Row(self.name, stage, f"{size[0]}x{size[1]}", "float64", differences[worst], TOLERANCE["gradient"])


def _outputs(model: Any, x: jax.Array) -> dict[str, jax.Array]:
    """What `oracle.forward` returns."""
    if isinstance(model, VisionTransformer):
        features, pairs = model.forward_intermediates(x, return_prefix_tokens=True)
        maps = [jnp.concatenate([prefix, m.reshape(len(m), -1, m.shape[-1])], axis=1) for m, prefix in pairs]
    else:
        features, maps = model.forward_intermediates(x)
    taps = dict(zip(model.feature_info.module_name(), maps, strict=True))
    pooled, logits = model.forward_head(features, pre_logits=True), model.forward_head(features)
    return taps | {"features": features, "pooled": pooled, "logits": logits}


def _images(size: tuple[int, int], chans: int, dtype: str, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, *size]).standard_normal((BATCH, *size, chans)).astype(dtype)
