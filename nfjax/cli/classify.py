"""`nfjax classify`: the most probable classes of images."""

import argparse
import contextlib
import csv
import json
import sys
from pathlib import Path
from typing import Any

import nfjax
from nfjax.cli.common import Images, find_images, load_model, write_parquet
from nfjax.images import load_image
from nfjax.pictures import make_figure, save_figure

COLUMNS = ("file", "rank", "index", "name", "probability")
MAX_PLOTTED = 24


def run(args: argparse.Namespace) -> int:
    if args.format == "parquet" and args.output is None:
        raise ValueError("--format parquet needs -o FILE.")
    files = find_images(args.images)
    model, transform = load_model(args)
    if not 1 <= args.topk <= model.num_classes:
        raise ValueError(f"--topk={args.topk}; {model.name} has {model.num_classes} classes.")
    images = Images(files, transform, args.batch_size)
    rows: list[dict[str, Any]] = []
    for file, logits in images.run(model):
        (best,) = nfjax.top_k(logits[None], args.topk, model)
        rows += [
            {"file": str(file), "rank": rank, "index": index, "name": name, "probability": probability}
            for rank, (name, probability, index) in enumerate(best, start=1)
        ]
    _write(rows, args.format, args.output)
    if args.plot is not None:
        _plot(rows, args.plot)
    return images.report()


def _write(rows: list[dict[str, Any]], form: str, output: Path | None) -> None:
    if form == "table" and output is None:
        _table(rows)
    elif form == "parquet" and output is not None:
        write_parquet({key: [row[key] for row in rows] for key in COLUMNS}, output)
    else:
        with contextlib.nullcontext(sys.stdout) if output is None else output.open("w", encoding="utf-8") as file:
            if form == "json":
                print(json.dumps(rows, indent=2), file=file)
                return
            writer = csv.DictWriter(file, COLUMNS, delimiter="\t" if form == "table" else ",", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("image", "class", "probability")
    table.columns[2].justify = "right"
    for row in rows:
        first = row["rank"] == 1
        if first and row is not rows[0]:
            table.add_section()
        table.add_row(row["file"] if first else "", row["name"], f"{row['probability']:.2%}")
    Console().print(table)


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    """One line per image: the image, and a bar for each of its classes."""
    files = list(dict.fromkeys(row["file"] for row in rows))
    if len(files) > MAX_PLOTTED:
        print(f"{path} shows the first {MAX_PLOTTED} of {len(files)} images.", file=sys.stderr)
        files = files[:MAX_PLOTTED]
    if not files:
        return
    figure = make_figure(9, 2.6 * len(files))
    axes = figure.subplots(len(files), 2, squeeze=False)
    for file, (left, right) in zip(files, axes, strict=True):
        best = [row for row in rows if row["file"] == file]
        left.imshow(load_image(file))
        left.set_title(Path(file).name, fontsize=9)
        left.axis("off")
        bars = right.barh([row["name"][:40] for row in best], [row["probability"] for row in best], color="tab:blue")
        right.bar_label(bars, fmt="{:.1%}", padding=3, fontsize=8)
        right.invert_yaxis()
        right.set_xlim(0, 1.15)
        right.tick_params(labelsize=8)
    save_figure(figure, path, dpi=120)
