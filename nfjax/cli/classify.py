"""`nfjax classify`: the most probable classes of images."""

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import nfjax
from nfjax.cli.common import Images, find_images, load_model, load_onnx_model
from nfjax.cli.many import in_parts, require_file_options
from nfjax.cli.output import Row, print_tables, rows_to, table_of, write_parquet
from nfjax.labels import Classifier
from nfjax.models.known import is_onnx
from nfjax.support.early import Place
from nfjax.support.pictures import make_figure, open_frame, require_picture, save_figure, shortened
from port.atomic import replaced, require_writable
from port.paths import user_path
from port.text import counted, cut, one_line

COLUMNS = ("file", "rank", "index", "name", "probability")
ENDINGS = {".json": "json", ".csv": "csv", ".parquet": "parquet", ".tsv": "table", ".txt": "table"}  # to --format
MAX_PLOTTED = 24
FEW = 5  # bars for which there is room at least


def run(args: argparse.Namespace) -> int:
    if args.format == "parts":
        return _in_parts(args)
    require_file_options(args)
    if args.output is not None:
        args.output = user_path(args.output)
    form = _format(args.format, args.output)
    if args.output is not None:
        require_writable(args.output)
    if args.plot is not None:
        args.plot = require_picture(args.plot)
    files = find_images(args.images)
    model, transform = load_onnx_model(args) if is_onnx(args.model) else load_model(args)
    if args.weights is None:
        print("--weights none: the weights are random, and so are the classes.", file=sys.stderr)
    topk = _topk(args, model)
    plotted: dict[Place, Any] = dict.fromkeys(files[:MAX_PLOTTED] if args.plot is not None else [])
    images = Images(files, transform, args.batch_size, exif=args.exif, shown=plotted)
    again = "" if args.output is None else replaced(args.output)
    kept: list[Row] = []  # for what is made of all of them at the end
    with contextlib.ExitStack() as stack:
        streamed = form in ("json", "csv", "tsv")
        write = stack.enter_context(rows_to(args.output, form, COLUMNS)) if streamed else kept.append
        for file, logits in images.run(model):
            (best,) = nfjax.top_k(logits[None], topk, model)
            if file in plotted:
                plotted[file] = best
            for row in _rows(str(file), best):
                write(row)
    if form == "parquet" and args.output is not None:
        write_parquet({key: [row[key] for row in kept] for key in COLUMNS}, args.output)
    elif form == "table" and kept:
        _table(kept)
    if args.output is not None:
        print(f"{args.output}{again}: {counted(len(files) - len(images.failed), 'image')}", file=sys.stderr)
    if args.plot is not None and (found := {file: best for file, best in plotted.items() if best}):
        their = "its" if len(found) == 1 else "their"
        first = f", the first {MAX_PLOTTED} of {len(files)}" if len(files) > MAX_PLOTTED else ""
        told = f"{args.plot}{replaced(args.plot)}: {counted(len(found), 'image')} with {their} classes{first}"
        _plot(found, images.small, f"the most probable classes, by {args.model}", args.plot)
        print(told, file=sys.stderr)
    return images.report()


def _in_parts(args: argparse.Namespace) -> int:
    """Parts in a folder, with the same columns."""
    if args.output is None or args.plot is not None:
        raise ValueError("--format parts needs -o DIR, and draws no --plot.")
    if is_onnx(args.model):
        raise ValueError(f"--format parts is for models of nfjax, and {args.model} is an ONNX file.")

    def writer(model: nfjax.ImageModel) -> Callable[[list[str], np.ndarray, Path], None]:
        topk = _topk(args, model)

        def write(names: list[str], logits: np.ndarray, file: Path) -> None:
            best = nfjax.top_k(logits, topk, model) if names else []
            rows = [row for name, found in zip(names, best, strict=True) for row in _rows(name, found)]
            write_parquet({key: [row[key] for row in rows] for key in COLUMNS}, file, text=["file", "name"])

        return write

    return in_parts(args, "classify", "classification", writer)


def _topk(args: argparse.Namespace, model: Classifier) -> int:
    if not model.num_classes:
        raise ValueError(f"{args.model} has no classifier, and so no classes; choose a model with one.")
    topk: int = min(5, model.num_classes) if args.topk is None else args.topk
    if not 1 <= topk <= model.num_classes:
        raise ValueError(f"--topk={topk}; {args.model} has {model.num_classes} classes.")
    return topk


def _rows(file: str, best: list[tuple[str, float, int]]) -> list[Row]:
    return [
        {"file": file, "rank": rank, "index": index, "name": name, "probability": probability}
        for rank, (name, probability, index) in enumerate(best, start=1)
    ]


def _format(given: str | None, output: Path | None) -> str:
    """What is written: as the option says, or else as the file's name ends."""
    if given == "parquet" and output is None:
        raise ValueError("--format parquet needs -o FILE.")
    if output is None:
        return given or "table"
    if output.suffix.lower() not in ENDINGS:
        if given is None and output.suffix:
            require_writable(output, ENDINGS)
        form = given or "table"
    else:
        form = ENDINGS[output.suffix.lower()]
        if given not in (None, form):
            raise ValueError(f"--format {given} and -o {output}, which ends as {form} does: leave one of them out.")
    return "tsv" if form == "table" else form


def _table(rows: list[Row]) -> None:
    from rich.box import HEAVY_HEAD

    table = table_of(["image", "class"], ["probability"], box=HEAVY_HEAD, pad_edge=True)
    for row in rows:
        first = row["rank"] == 1
        if first and row is not rows[0]:
            table.add_section()
        table.add_row(row["file"] if first else "", row["name"], f"{row['probability']:.2%}")
    print_tables(table)


def _plot(
    found: Mapping[Place, list[tuple[str, float, int]]], images: Mapping[Place, Any], title: str, path: Path
) -> None:
    """The images in a grid, and beside each a bar for each of its classes."""
    columns = 1 if len(found) <= 4 else 2 if len(found) <= 12 else 3
    lines = math.ceil(len(found) / columns)
    figure = make_figure(7 * columns, 2.2 * lines + 0.4)
    cells = figure.subplots(lines, 2 * columns, squeeze=False).reshape(-1, 2)
    for axes in cells[len(found) :].flat:
        axes.axis("off")
    for (file, best), (left, right) in zip(found.items(), cells, strict=False):
        names, probabilities, _ = zip(*best, strict=True)
        left.imshow(images[file])
        left.set_title(shortened(str(file), 40), fontsize=9, parse_math=False)
        left.axis("off")
        ranks = range(len(best))  # and not the names, of which two classes may have the same
        bars = right.barh(ranks, probabilities, color="tab:blue")
        right.set_yticks(ranks, [_plain(cut(name, 40)) for name in names])
        right.bar_label(bars, fmt="{:.1%}", padding=3, fontsize=8)
        right.set_ylim(max(len(best), FEW) - 0.5, -0.5)  # the first above; a single bar is no thicker than one of five
        right.set_xlim(0, 1.15)
        right.set_xticks([])  # the numbers are at the bars
        right.tick_params(labelsize=8)
        open_frame(right)
        right.spines["bottom"].set_visible(False)
    figure.suptitle(title, fontsize=10, parse_math=False)
    save_figure(figure, path)


def _plain(text: str) -> str:
    """As matplotlib writes it: a dollar would begin a formula."""
    return one_line(text).replace("$", r"\$")
