"""`nfjax features --pca`: the patches of images, coloured by what they have in common."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nfjax.cli.common import Images, find_images, load_model
from nfjax.dense import principal_colours
from nfjax.models.vit import VisionTransformer
from nfjax.support.pictures import make_figure, require_picture, save_figure, shortened
from port.atomic import replaced
from port.text import counted, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4  # of a sheet, at most


def run(args: argparse.Namespace) -> int:
    output = require_picture(args.pca)
    if args.indices or args.attention:
        raise ValueError("--pca draws what leaves the last block; leave out --indices and --attention.")
    files = find_images([str(path) for path in args.images])
    model, transform = load_model(args, num_classes=0)
    model.reset_classifier(0, "")  # what it returns then is dense
    images = Images(files, transform, 4, exif=args.exif, shown=files)
    photos, maps, names = [], [], []
    for file, features in images.run(model):
        if isinstance(model, VisionTransformer):
            features = features[model.num_prefix_tokens :].reshape(*model.grid_size, model.num_features)
        maps.append(features)
        names.append(shortened(Path(str(file)).name))
        photos.append(transform.pixels(images.small[file]))
    if not maps:
        raise ValueError(f"{one_line(str(images.failed[0][0]))}: {images.failed[0][1]}")
    again = replaced(output)
    figure = draw(photos, principal_colours(maps), names, f"{model.name}: red, green and blue are the main components")
    save_figure(figure, output)
    rows, columns = maps[0].shape[:2]
    print(f"{output}{again}: {counted(len(maps), 'image')} of {rows}x{columns} features of {model.name}")
    return images.report()


def draw(photos: list[np.ndarray], pictures: list[np.ndarray], names: list[str], title: str) -> "Figure":
    """A sheet: each photo, by its name, above its picture."""
    lines = math.ceil(len(photos) / COLUMNS)
    columns = math.ceil(len(photos) / lines)
    height, width = photos[0].shape[:2]
    figure = make_figure(3 * columns, 6 * lines * height / width + 0.25 * lines + 0.35)
    axes = figure.subplots(2 * lines, columns, squeeze=False)
    for cell in axes.flat:
        cell.axis("off")
    for i, (photo, picture) in enumerate(zip(photos, pictures, strict=True)):
        line, column = divmod(i, columns)
        axes[2 * line, column].imshow(photo.squeeze(), cmap="gray")
        axes[2 * line, column].set_title(names[i], fontsize=8, parse_math=False)
        axes[2 * line + 1, column].imshow(picture, interpolation="nearest")
    figure.suptitle(title, fontsize=10, parse_math=False, wrap=True)
    return figure
