"""Weights of other libraries, in the model that those make of them: timm's conversions, DeepMind's formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import nfjax
from nfjax.parity import oracle
from nfjax.parity.verify import relative
from port import layouts
from tests.helpers.both import images, logits, nchw, torch_logits
from tests.helpers.layouts import DINOV2, DINOV3, GIANT, NFNET, PLAIN, random_numbers, timm_state

timm = oracle.timm()
BOUNDS = {"float32": 1e-5, "float64": 1e-12}


@pytest.fixture(params=BOUNDS)
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def meta_state(name, options, dtype, chunks=False):
    """As Meta's own code names and shapes them, every number random."""
    shapes = {}
    for key, array in timm_state(name, options).items():
        key = key.replace("reg_token", "register_tokens")
        if "giant" in name:
            key = key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        shape = array.shape
        shapes[key] = (1, shape[1] + 1, shape[2]) if key == "pos_embed" else shape
    shapes["mask_token"] = (1, options["embed_dim"])
    state = random_numbers(shapes, 1, dtype)
    chunked = {key.replace("blocks.", "blocks.0.", 1): array for key, array in state.items()}
    return chunked if chunks else state


@pytest.mark.parametrize(
    ("name", "options"), [("vit_small_patch14_reg4_dinov2", DINOV2), ("vit_giant_patch14_reg4_dinov2", GIANT)]
)
def test_meta(name, options, dtype, tmp_path):
    """timm's checkpoint_filter_fn converts the same .pth."""
    state = meta_state(name, options, dtype)
    path = tmp_path / "dinov2.pth"
    torch.save({key: torch.from_numpy(array) for key, array in state.items()}, path)
    theirs = oracle.build(name, **options)
    converted = timm.models.vision_transformer.checkpoint_filter_fn(torch.load(path), theirs)
    theirs.load_state_dict(converted, strict=True, assign=True)
    x = images((28, 28), dtype=dtype)
    ours = nfjax.load(name, path, dtype=dtype, **options)
    assert relative(logits(ours, x), torch_logits(theirs, x)) <= BOUNDS[dtype]
    chunked = nfjax.load(name, meta_state(name, options, dtype, chunks=True), dtype=dtype, **options)
    again = nfjax.state_dict(chunked)
    assert all(np.array_equal(array, again[name]) for name, array in nfjax.state_dict(ours).items())


def meta3_state(name, options, dtype):
    """As Meta's own code names and shapes DINOv3, every number random but those that are not learned."""
    shapes = {}
    for key, array in timm_state(name, options).items():
        key, shape = key.replace("reg_token", "storage_tokens").replace("gamma_", "ls"), array.shape
        key = key.replace("ls1", "ls1.gamma").replace("ls2", "ls2.gamma")
        key = key.replace("mlp.fc1_g", "mlp.w1").replace("mlp.fc1_x", "mlp.w2")
        key = key.replace("mlp.fc2", "mlp.w3") if options.get("swiglu_mlp", "plus" in name) else key
        if key.endswith(".q_bias"):
            key, shape = key.replace("q_bias", "qkv.bias"), (3 * shape[0],)
        if not key.endswith(".v_bias"):
            shapes[key] = shape
    state = random_numbers(shapes | {"mask_token": (1, options["embed_dim"])}, 1, dtype)
    mask = np.repeat(np.array([1, 0, 1], dtype), options["embed_dim"])
    for key in [key for key in state if key.endswith("qkv.bias")]:
        state |= {key: state[key] * mask, f"{key}_mask": mask}
    return state | {"rope_embed.periods": np.array([1, 100**0.25, 10, 100**0.75], "float32")}


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3_qkvb", "vit_small_plus_patch16_dinov3"])
def test_meta_dinov3(name, dtype, tmp_path):
    """timm's checkpoint_filter_fn converts the same .pth."""
    path = tmp_path / "dinov3.pth"
    torch.save({key: torch.from_numpy(array) for key, array in meta3_state(name, DINOV3, dtype).items()}, path)
    theirs = oracle.build(name, **DINOV3)
    converted = timm.models.eva.checkpoint_filter_fn(torch.load(path), theirs)
    theirs.load_state_dict(converted, strict=True, assign=True)
    x = images((32, 48), dtype=dtype)
    ours = nfjax.load(name, path, dtype=dtype, **DINOV3)
    if dtype == "float64":  # timm's is float32
        oracle.replace_rope_table(theirs, ours.rope_table((2, 3)))
    assert relative(logits(ours, x), torch_logits(theirs, x)) <= BOUNDS[dtype]


def google_state(options, dtype, big_vision, stacked=False):
    """As vit_jax or big_vision names and shapes them, every number random."""
    dim, heads, depth, inside = options["embed_dim"], options["num_heads"], options["depth"], 4 * options["embed_dim"]
    mha, mlp, norm2 = (0, 0, 1) if big_vision else (1, 3, 2)

    def attention(block, number):
        path = f"{block}MultiHeadDotProductAttention_{number}/"
        parts = {f"{path}{part}/kernel": (dim, heads, dim // heads) for part in ("query", "key", "value")}
        parts |= {f"{path}{part}/bias": (heads, dim // heads) for part in ("query", "key", "value")}
        return parts | {f"{path}out/kernel": (heads, dim // heads, dim), f"{path}out/bias": (dim,)}

    def mlps(block, number):
        path = f"{block}MlpBlock_{number}/Dense_"
        shapes = {f"{path}0/kernel": (dim, inside), f"{path}0/bias": (inside,)}
        return shapes | {f"{path}1/kernel": (inside, dim), f"{path}1/bias": (dim,)}

    shapes = {"embedding/kernel": (16, 16, 3, dim), "embedding/bias": (dim,)}
    shapes |= {"Transformer/encoder_norm/scale": (dim,), "Transformer/encoder_norm/bias": (dim,)}
    tokens = 4 + options.get("class_token", True)
    position = "pos_embedding" if big_vision else "Transformer/posembed_input/pos_embedding"
    shapes |= {position: (1, tokens, dim), "head/kernel": (dim, 1000), "head/bias": (1000,)}
    shapes |= {"cls": (1, 1, dim)} if options.get("class_token", True) else {}
    if options.get("global_pool") == "map":
        shapes |= {"MAPHead_0/probe": (1, 1, dim), **attention("MAPHead_0/", 0), **mlps("MAPHead_0/", 0)}
        shapes |= {"MAPHead_0/LayerNorm_0/scale": (dim,), "MAPHead_0/LayerNorm_0/bias": (dim,)}
    of_block = attention("", mha) | mlps("", mlp)
    for leaf in ("scale", "bias"):
        of_block |= {f"LayerNorm_0/{leaf}": (dim,), f"LayerNorm_{norm2}/{leaf}": (dim,)}
    if stacked:
        shapes |= {f"Transformer/encoderblock/{name}": (depth, *shape) for name, shape in of_block.items()}
    else:
        shapes |= {f"Transformer/encoderblock_{i}/{n}": shape for i in range(depth) for n, shape in of_block.items()}
    return random_numbers(shapes, 2, dtype)


@pytest.mark.parametrize(
    ("prefix", "big_vision", "stacked", "more"),
    [
        ("", False, False, {}),
        ("opt/target/", False, False, {}),
        ("params/", True, False, {"class_token": False, "global_pool": "map"}),
        ("params/img/", True, True, {}),
    ],
    ids=["vit_jax", "vit_jax checkpoint", "big_vision map", "big_vision stacked"],
)
def test_google(prefix, big_vision, stacked, more, dtype, tmp_path):
    """timm's _load_weights reads the same .npz."""
    options = PLAIN | more
    state = {prefix + key: array for key, array in google_state(options, dtype, big_vision, stacked).items()}
    if prefix:
        state |= {"opt/state/step": np.int64(3)}  # and what else is of the optimiser
    path = tmp_path / "vit.npz"
    np.savez(path, **state)
    theirs = oracle.build("vit_tiny_patch16_224", **options)
    theirs = theirs.double() if dtype == "float64" else theirs
    theirs.load_pretrained(str(path))
    x = images((32, 32), dtype=dtype)
    ours = nfjax.load("vit_tiny_patch16_224", path, dtype=dtype, **options)
    assert relative(logits(ours, x), torch_logits(theirs, x)) <= BOUNDS[dtype]


def haiku_shapes(depths, channels, features, group, classes):
    """As DeepMind's code makes them, run with haiku: two levels of names, and shapes."""
    shapes, chans, index = {}, 3, 0

    def conv(name, k, inside, outside):
        shapes[f"NFNet/~/{name}"] = {"w": (k, k, inside, outside), "gain": (outside,), "bias": (outside,)}

    for i, out in enumerate((channels[0] // 16, channels[0] // 8, channels[0] // 4, channels[0] // 2)):
        conv(f"stem_conv{i}", 3, chans, out)
        chans = out
    for depth, out in zip(depths, channels, strict=True):
        for first in [True] + [False] * (depth - 1):
            block = "nf_block" + (f"_{index}" if index else "")
            conv(f"{block}/~/conv0", 1, chans, out // 2)
            conv(f"{block}/~/conv1", 3, group, out // 2)
            conv(f"{block}/~/conv1b", 3, group, out // 2)
            conv(f"{block}/~/conv2", 1, out // 2, out)
            if first:
                conv(f"{block}/~/conv_shortcut", 1, chans, out)
            excite = f"NFNet/~/{block}/~/squeeze_excite/~/linear"
            shapes |= {excite: {"w": (out, out // 2), "b": (out // 2,)}, f"NFNet/~/{block}": {"skip_gain": ()}}
            shapes[f"{excite}_1"] = {"w": (out // 2, out), "b": (out,)}
            chans, index = out, index + 1
    conv("final_conv", 1, chans, features)
    return shapes | {"NFNet/~/linear": {"w": (features, classes), "b": (classes,)}}


def deepmind(params, x, depths, group):
    """The logits of NFNet-F by the formulas of 2102.06171 and the constants of DeepMind's code."""

    def conv(name, x, stride=1, groups=1):
        own = params[f"NFNet/~/{name}"]
        w, fan_in = own["w"], own["w"][..., 0].size
        scale = own["gain"] / jnp.sqrt(jnp.maximum(w.var((0, 1, 2)) * fan_in, 1e-4))
        dims = ("NHWC", "HWIO", "NHWC")
        w = (w - w.mean((0, 1, 2))) * scale
        y = jax.lax.conv_general_dilated(
            x, w, (stride, stride), "SAME", dimension_numbers=dims, feature_group_count=groups
        )
        return y + own["bias"]

    def linear(name, x):
        return x @ params[f"NFNet/~/{name}"]["w"] + params[f"NFNet/~/{name}"]["b"]

    def act(x):
        return jax.nn.gelu(x) * 1.7015043497085571

    def pool(x):
        ones = jnp.ones_like(x)
        window = ((1, 2, 2, 1), (1, 2, 2, 1), "SAME")
        add = [jax.lax.reduce_window(a, 0.0, jax.lax.add, *window) for a in (x, ones)]
        return add[0] / add[1]

    for i, stride in enumerate((2, 1, 1, 2)):
        x = conv(f"stem_conv{i}", act(x) if i else x, stride)
    index, std = 0, 1.0
    for stage, depth in enumerate(depths):
        for inside in range(depth):
            block = "nf_block" + (f"_{index}" if index else "")
            stride = 2 if stage and not inside else 1
            groups = params[f"NFNet/~/{block}/~/conv1"]["w"].shape[-1] // group
            y = act(x) / std
            shortcut = conv(f"{block}/~/conv_shortcut", pool(y) if stride > 1 else y) if not inside else x
            y = conv(f"{block}/~/conv0", y)
            y = conv(f"{block}/~/conv1", act(y), stride, groups)
            y = conv(f"{block}/~/conv2", act(conv(f"{block}/~/conv1b", act(y), 1, groups)))
            squeezed = jax.nn.relu(linear(f"{block}/~/squeeze_excite/~/linear", y.mean((1, 2))))
            y = y * 2 * jax.nn.sigmoid(linear(f"{block}/~/squeeze_excite/~/linear_1", squeezed))[:, None, None]
            x = 0.2 * y * params[f"NFNet/~/{block}"]["skip_gain"] + shortcut
            std, index = (1.0 if not inside else std**2) + 0.04, index + 1
            std = std**0.5
    return linear("linear", act(conv("final_conv", x)).mean((1, 2)))


def test_deepmind(dtype, tmp_path):
    """Also a filter without variance, which DeepMind guards otherwise than timm."""
    depths, channels, features, group = (NFNET[key] for key in ("depths", "channels", "num_features", "group_size"))
    shapes = haiku_shapes(depths, channels, features, group, 7)
    params = {name: random_numbers(own, i, dtype) for i, (name, own) in enumerate(shapes.items())}
    weight = params["NFNet/~/nf_block_1/~/conv1"]["w"]
    weight[..., 0], weight[..., 1] = 0.5, weight[..., 1] * 1e-4
    x = images((65, 50), dtype=dtype)
    expected = jax.jit(lambda p, x: deepmind(p, x, depths, group))(params, x)
    path = tmp_path / "F0_haiku.npz"
    np.savez(path, **{f"{name}/{leaf}": a for name, own in params.items() for leaf, a in own.items()})
    ours = nfjax.load("dm_nfnet_f0", path, dtype=dtype, **NFNET)
    assert relative(logits(ours, x), expected) <= BOUNDS[dtype]
    again = nfjax.state_dict(nfjax.load("dm_nfnet_f0", params, dtype=dtype, **NFNET))
    assert all(np.array_equal(array, again[name]) for name, array in nfjax.state_dict(ours).items())
    own = {"act_layer": "gelu", "std_conv_floor": 0.0}
    if dtype == "float64":  # and timm's form, where it is asked for
        flat = layouts.recognise(layouts.flat(params)).to_timm(layouts.flat(params))
        theirs = oracle.build("dm_nfnet_f0", flat, "float64", num_classes=7, **NFNET)
        with torch.inference_mode():
            expected = theirs(nchw(x)).numpy()
        assert relative(logits(nfjax.load("dm_nfnet_f0", path, dtype=dtype, **NFNET, **own), x), expected) <= 1e-12
