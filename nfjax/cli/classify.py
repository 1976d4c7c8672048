"""`nfjax classify`: the most probable classes of images."""

import argparse
import contextlib
import csv
import json
import math
import sys
from pathlib import Path
from typing import Any, TextIO

import nfjax
from nfjax.cli.common import Images, find_images, load_model
from nfjax.cli.output import print_tables, write_parquet
from nfjax.images import load_image
from nfjax.pictures import make_figure, require_picture, save_figure
from port.atomic import replacing, require_writable

COLUMNS = ("file", "rank", "index", "name", "probability")
ENDINGS = {".json": "json", ".csv": "csv", ".parquet": "parquet", ".tsv": "table", ".txt": "table"}
MAX_PLOTTED = 24


def run(args: argparse.Namespace) -> int:
    form = _format(args.format, args.output)
    if args.output is not None:
        require_writable(args.output)
    if args.plot is not None:
        require_picture(args.plot)
    files = find_images(args.images)
    model, transform = load_model(args)
    topk = min(5, model.num_classes) if args.topk is None else args.topk
    if not 1 <= topk <= model.num_classes:
        raise ValueError(f"--topk={topk}; {model.name} has {model.num_classes} classes.")
    images = Images(files, transform, args.batch_size, exif=args.exif)
    rows: list[dict[str, Any]] = []
    for file, logits in images.run(model):
        (best,) = nfjax.top_k(logits[None], topk, model)
        rows += [
            {"file": str(file), "rank": rank, "index": index, "name": name, "probability": probability}
            for rank, (name, probability, index) in enumerate(best, start=1)
        ]
    _write(rows, form, args.output)
    if args.output is not None:
        print(f"{args.output}: {len(files) - len(images.failed)} images", file=sys.stderr)
    if args.plot is not None:
        _plot(rows, args.plot, exif=args.exif)
    return images.report()


def _format(given: str | None, output: Path | None) -> str:
    """What is written: as the option says, or else as the file's name ends."""
    if given == "parquet" and output is None:
        raise ValueError("--format parquet needs -o FILE.")
    if output is None or output.suffix.lower() not in ENDINGS:
        if given is None and output is not None and output.suffix:
            require_writable(output, ENDINGS)
        return given or "table"
    form = ENDINGS[output.suffix.lower()]
    if given not in (None, form):
        raise ValueError(f"--format {given} and -o {output}, which ends as {form} does: leave one of them out.")
    return form


def _write(rows: list[dict[str, Any]], form: str, output: Path | None) -> None:
    if form == "table" and output is None:
        _table(rows)
    elif form == "parquet" and output is not None:
        write_parquet({key: [row[key] for row in rows] for key in COLUMNS}, output)
    else:
        with contextlib.ExitStack() as stack:
            file: TextIO = sys.stdout
            if output is not None:
                file = stack.enter_context(stack.enter_context(replacing(output)).open("w", encoding="utf-8"))
            if form == "json":
                print(json.dumps(rows, indent=2), file=file)
                return
            writer = csv.DictWriter(file, COLUMNS, delimiter="\t" if form == "table" else ",", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("image", "class", "probability")
    table.columns[2].justify = "right"
    for row in rows:
        first = row["rank"] == 1
        if first and row is not rows[0]:
            table.add_section()
        table.add_row(row["file"] if first else "", row["name"], f"{row['probability']:.2%}")
    print_tables(table)


def _plot(rows: list[dict[str, Any]], path: Path, *, exif: bool = False) -> None:
    """The images in a grid, and beside each a bar for each of its classes."""
    files = list(dict.fromkeys(row["file"] for row in rows))
    if len(files) > MAX_PLOTTED:
        print(f"{path} shows the first {MAX_PLOTTED} of {len(files)} images.", file=sys.stderr)
        files = files[:MAX_PLOTTED]
    if not files:
        return
    columns = 1 if len(files) <= 4 else 2 if len(files) <= 12 else 3
    lines = math.ceil(len(files) / columns)
    figure = make_figure(9 * columns, 2.6 * lines)
    cells = figure.subplots(lines, 2 * columns, squeeze=False).reshape(-1, 2)
    for axes in cells[len(files) :].flat:
        axes.axis("off")
    for file, (left, right) in zip(files, cells, strict=False):
        best = [row for row in rows if row["file"] == file]
        left.imshow(load_image(file, exif=exif))
        left.set_title(Path(file).name, fontsize=9)
        left.axis("off")
        ranks = range(len(best))  # and not the names, of which two classes may have the same
        bars = right.barh(ranks, [row["probability"] for row in best], color="tab:blue")
        right.set_yticks(ranks, [row["name"][:40] for row in best])
        right.bar_label(bars, fmt="{:.1%}", padding=3, fontsize=8)
        right.invert_yaxis()
        right.set_xlim(0, 1.15)
        right.tick_params(labelsize=8)
    save_figure(figure, path, dpi=120)
