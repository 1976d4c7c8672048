"""Small models whose weights are written in each layout, with no number left at 0 or 1."""

import numpy as np

import nfjax
from port.layouts import LAYOUTS

DINOV2 = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 28}
GIANT = {**DINOV2, "embed_dim": 48, "depth": 1}
DINOV3 = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32}
PLAIN = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32}
NFNET = {"depths": (1, 2), "channels": (32, 64), "stem_chs": 16, "num_features": 64, "group_size": 8}

# By the layout's title: models and their options.
MODELS = {
    "Meta's DINOv2": [("vit_small_patch14_reg4_dinov2", DINOV2), ("vit_giant_patch14_reg4_dinov2", GIANT)],
    "Meta's DINOv3": [("vit_small_patch16_dinov3_qkvb", DINOV3), ("vit_7b_patch16_dinov3", DINOV3 | {"depth": 1})],
    "TIPSv2 in Meta's layout": [("vit_base_patch14_reg1_tipsv2", DINOV2)],
    "transformers' Dinov2WithRegisters": [
        ("vit_small_patch14_reg4_dinov2", DINOV2 | {"num_classes": 3, "global_pool": "cattokenavg"}),
        ("vit_giant_patch14_reg4_dinov2", GIANT | {"qkv_bias": False}),
    ],
    "transformers' DINOv3ViT": [
        ("vit_small_patch16_dinov3_qkvb", DINOV3),
        ("vit_small_plus_patch16_dinov3", DINOV3 | {"depth": 1}),
    ],
    "transformers' TimmWrapper": [("test_vit2", {"depth": 1})],
    "DeepMind's NFNet": [("dm_nfnet_f0", NFNET)],
    "big_vision's ViT": [
        ("vit_tiny_patch16_224", PLAIN),
        ("vit_tiny_patch16_224", PLAIN | {"class_token": False, "global_pool": "map"}),
    ],
    "vit_jax's ViT": [("vit_tiny_patch16_224", PLAIN | {"num_classes": 5})],
}
CASES = [(layout, name, options) for layout in LAYOUTS for name, options in MODELS[layout.title]]
IDS = [f"{layout.title}-{i}" for i, (layout, _, _) in enumerate(CASES)]


def random_numbers(shapes, seed=0, dtype="float32"):
    """Numbers of either sign, of a size that a network bears: `{name: array}`."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, shape in shapes.items():
        fan_in = max(int(np.prod(shape)) // max(shape, default=1), 1)
        found[name] = np.asarray(rng.standard_normal(shape) * (0.3 if len(shape) < 2 else fan_in**-0.5), dtype)
    return found


def timm_state(name, options, seed=0, dtype="float32"):
    """Random weights of a model, by timm's names."""
    fresh = nfjax.state_dict(nfjax.load(name, None, **options))
    return random_numbers({name: array.shape for name, array in fresh.items()}, seed, dtype)


def written(case=0, seed=0, dtype="float32"):
    """A state dict in a layout, and timm's that it was made of."""
    layout, name, options = CASES[case]
    state = timm_state(name, options, seed, dtype)
    return layout.from_timm(state, heads=2), state
