"""`nfjax explain`: pictures of where a model looked."""

import argparse
import sys
from pathlib import Path

import numpy as np

import nfjax
from nfjax.cli.common import find_images, load_model, read_place, report
from nfjax.support.early import STDIN, Place
from nfjax.support.meter import Meter
from nfjax.support.pictures import make_figure, save_figure, shortened
from nfjax.tasks.explaining import METHODS, look, methods_of
from port.messages import require
from port.text import counted, cut, one_line


def run(args: argparse.Namespace) -> int:
    require("matplotlib", "pictures")
    if args.output.exists() and not args.output.is_dir():
        raise NotADirectoryError(f"{args.output} is a file; expected a folder for the pictures.")
    files = find_images(args.images)
    model, transform = load_model(args)
    methods = methods_of(model)
    if args.method is not None:
        if args.method not in methods:
            raise ValueError(f"{model.name} has no {args.method}; its methods are {' and '.join(methods)}.")
        methods = [args.method]
    target = args.target
    if target is not None and not (METHODS[methods[0]].of_class and 0 <= target < model.num_classes):
        classes = f"{model.name} has {model.num_classes} classes"
        raise ValueError(f"--target={target}; {classes}, of which Grad-CAM explains one, and attention none.")
    failed: list[tuple[Place, str]] = []
    taken: set[str] = set()
    with Meter("images", len(files), model=model.name) as meter:
        for file in files:
            try:
                x = transform(read_place(file, transform.mode, exif=args.exif))[None]
            except (OSError, ValueError) as error:
                failed.append((file, str(error)))
                continue
            finally:
                meter.advance(1)
            outputs, maps = look(model, x, methods, target)
            seen = np.clip(x[0] * np.asarray(transform.std) + np.asarray(transform.mean), 0, 1)
            title = f"{shortened(str(file), 40)} by {model.name}{_found(model, outputs, target)}"
            _draw(seen, maps, methods, title, args.output / _name(file, taken))
    print(f"{args.output}: {counted(len(taken), 'picture')} of {model.name}", file=sys.stderr)
    return report(failed, len(files))


def _found(model: nfjax.ImageModel, outputs: np.ndarray, target: int | None) -> str:
    """The class that is explained and its probability; nothing of a model without classes."""
    if not model.num_classes:
        return ""
    ((*best,),) = nfjax.top_k(outputs, model.num_classes if target is not None else 1, model)
    name, probability, _ = next(row for row in best if target in (None, row[2]))
    return f": {cut(one_line(name), 60)} {probability:.1%}"


def _name(file: Place, taken: set[str]) -> str:
    """A name for a picture that no other one has."""
    stem = "stdin" if file == STDIN else Path(str(file).partition("?")[0]).stem or "image"
    name = next(
        name for n in range(1, len(taken) + 2) if (name := f"{stem}{f'-{n}' if n > 1 else ''}.png") not in taken
    )
    taken.add(name)
    return name


def _draw(image: np.ndarray, maps: list[np.ndarray], methods: list[str], title: str, path: Path) -> None:
    """The image as the model saw it, and beside it each map over it."""
    height, width = image.shape[:2]
    side = 3.2
    figure = make_figure(side * (1 + len(maps)) + 0.6, side * height / width + 0.7)
    cells = figure.subplots(1, 1 + len(maps), squeeze=False)[0]
    image = np.broadcast_to(image, (height, width, 3))
    for cell in cells:
        cell.imshow(image)
        cell.set(xticks=[], yticks=[])
    cells[0].set_title("what the model saw", fontsize=9)
    for cell, found, method in zip(cells[1:], maps, methods, strict=True):
        heat = cell.imshow(found[0], cmap="inferno", alpha=0.6, vmin=0, vmax=1)
        cell.set_title(METHODS[method].title, fontsize=9)
    bar = figure.colorbar(heat, ax=cells[-1], fraction=0.046, ticks=[0, 0.5, 1])
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    bar.ax.tick_params(labelsize=7)
    bar.set_label("share of the largest value", fontsize=7)
    figure.suptitle(title, fontsize=10, parse_math=False)
    save_figure(figure, path)
