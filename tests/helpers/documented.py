"""The files of other libraries that docs/weights.md reads, small ones by their usual names."""

import dataclasses
import json
import pickle

import numpy as np

import nfjax
from port.layouts import LAYOUTS


def layout_of(title):
    return next(layout for layout in LAYOUTS if layout.title == title)


def write(folder):
    """Write them; the models are those of the registry, which may be shallow ones."""
    import torch

    dinov2 = nfjax.load("vit_small_patch14_reg4_dinov2", None)
    state = layout_of("Meta's DINOv2").from_timm(nfjax.state_dict(dinov2))
    torch.save({n: torch.from_numpy(np.array(a)) for n, a in state.items()}, folder / "dinov2_vits14_reg4_pretrain.pth")

    dinov3 = nfjax.load("vit_small_patch16_dinov3", None, qkv_bias=True, global_pool="token")
    state = layout_of("Meta's DINOv3").from_timm(nfjax.state_dict(dinov3), heads=dinov3.config.num_heads)
    path = folder / "dinov3_vits16_pretrain_lvd1689m-08c60483.pth"
    torch.save({n: torch.from_numpy(np.array(a)) for n, a in state.items()}, path)
    nfjax.save(dinov3, folder / "my-dinov3", layout="transformers")

    options = {"num_classes": 3, "global_pool": "cattokenavg"}
    classifier = nfjax.load("vit_small_patch14_reg4_dinov2", None, **options)
    names = ("cat", "dog", "eel")
    classifier.data_config = dataclasses.replace(classifier.data_config, label_names=names)
    nfjax.save(classifier, folder / "my-dinov2-classifier", layout="transformers")
    nfjax.save(nfjax.load("test_nfnet", None), folder / "my-timm-wrapper", layout="transformers")

    nfnet = nfjax.state_dict(nfjax.load("dm_nfnet_f0", None))
    nested: dict[str, dict[str, np.ndarray]] = {}
    for name, array in layout_of("DeepMind's NFNet").from_timm(nfnet).items():
        module, _, leaf = name.rpartition("/")
        nested.setdefault(module, {})[leaf] = array
    (folder / "F0_haiku.npz").write_bytes(pickle.dumps(nested))

    plain = nfjax.load("vit_base_patch16_224", None)
    heads = plain.config.num_heads
    state = layout_of("vit_jax's ViT").from_timm(nfjax.state_dict(plain), heads=heads)
    np.savez(folder / "ViT-B_16.npz", **{f"opt/target/{name}": array for name, array in state.items()})


def dinov2_repository(folder):
    """What facebook/dinov2-with-registers-small has, by name of file."""
    nfjax.save(nfjax.load("vit_small_patch14_reg4_dinov2", None), folder, layout="transformers")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "weights_crc32"}))
    return {file.name: file.read_bytes() for file in folder.iterdir()}
