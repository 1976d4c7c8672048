"""`nfjax features`: a picture of what a network sees in an image, stage by stage."""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nfjax.cli import pca
from nfjax.cli.common import load_model, read_place
from nfjax.models.base import take_indices
from nfjax.models.vit import VisionTransformer
from nfjax.support.meter import Wait
from nfjax.support.pictures import make_figure, require_picture, save_figure
from nfjax.tasks.explaining import patches_seen
from port.atomic import replaced


def run(args: argparse.Namespace) -> int:
    if args.pca is not None:
        return pca.run(args)
    if len(args.images) > 1:
        raise ValueError(f"{len(args.images)} images; without --pca one is drawn at a time.")
    output = require_picture(args.output)
    if args.channels < 0:
        raise ValueError(f"--channels={args.channels}; expected at least 0.")
    image = read_place(args.images[0], exif=args.exif)  # before the model, which takes longer
    model, transform = load_model(args, num_classes=0)
    x = transform(image)
    taps = model.feature_taps()
    indices = args.indices or model.default_out_indices
    if args.attention and not isinstance(model, VisionTransformer):
        raise ValueError(f"{model.name} has no attention maps; leave out --attention to draw its feature maps.")
    with Wait(f"running {model.name} over 1 image"):
        if args.attention and isinstance(model, VisionTransformer):
            maps = jax.jit(lambda x: model.attention_maps(x, indices))(jnp.asarray(x)[None])
            grids = [attention_grids(np.asarray(m[0]), model) for m in maps]
        else:
            run = jax.jit(lambda x: model.forward_intermediates(x, indices, intermediates_only=True))
            grids = [feature_grids(np.asarray(m[0], np.float32), args.channels) for m in run(jnp.asarray(x)[None])]
    names = [taps[i].module for i in sorted(set(take_indices(len(taps), indices)))]
    again = replaced(output)
    seen = x * np.asarray(transform.std) + np.asarray(transform.mean)
    what = "the attention of each head" if args.attention else "the channels that vary most"
    told = f"{model.name}: the mean, then {what}; dark is the least of a map, bright the most"
    _draw(seen, names, grids, args.channels, output, told)
    print(f"{output}{again}: {', '.join(names)} of {model.name}")
    return 0


def feature_grids(feature_map: np.ndarray, channels: int) -> list[np.ndarray]:
    """Mean magnitude over the channels of a map `(h, w, channels)`, then those that vary most, `(h, w)` each."""
    order = np.argsort(-feature_map.std((0, 1)), kind="stable")[:channels]
    return [np.abs(feature_map).mean(-1), *(feature_map[..., c] for c in order)]


def attention_grids(weights: np.ndarray, model: VisionTransformer) -> list[np.ndarray]:
    """What the class token, if the model pools it, or else the average patch attends to among the patches.

    From an attention map `(heads, tokens, tokens)` of one image; `(h, w)`, averaged over the heads, then by head.
    """
    heads = patches_seen(weights, model, model.grid_size)
    return [heads.mean(0), *heads]


def _draw(
    image: np.ndarray, names: list[str], grids: list[list[np.ndarray]], columns: int, path: Path, told: str
) -> None:
    width = 2 + min(columns, max(len(line) for line in grids) - 1)
    figure = make_figure(1.6 * width, 1.7 * len(names) + 0.4)
    axes = figure.subplots(len(names), width, squeeze=False)
    for name, line, cells in zip(names, grids, axes, strict=True):
        cells[0].imshow(np.clip(image, 0, 1))
        cells[0].set_ylabel(name, fontsize=8)
        for cell, grid in zip(cells[1:], line, strict=False):
            cell.imshow(grid, cmap="viridis")
        for cell in cells:
            cell.set(xticks=[], yticks=[])
    axes[0, 0].set_title("input", fontsize=8)
    axes[0, 1].set_title("mean", fontsize=8)
    figure.suptitle(told, fontsize=10, parse_math=False, wrap=True)
    save_figure(figure, path)
