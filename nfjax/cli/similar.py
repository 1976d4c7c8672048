"""`nfjax similar`: the pictures of a folder that are nearest to another one, or to each other."""

import argparse
import functools
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nfjax.cli.common import find_images, load_model, report, require_batch_size
from nfjax.cli.output import print_tables, table_of
from nfjax.images import ImageError
from nfjax.support.early import STDIN, Place
from nfjax.support.pictures import Cell, draw_sheet, require_picture, shortened
from nfjax.tasks.embeddings import Embedded, embed, lengths_one
from nfjax.tasks.given import Named, fetch, read_image, standard_input
from port.atomic import replaced
from port.paths import open_regular
from port.text import counted

ACROSS = 5  # pictures of a contact sheet beside each other
PAIRS = 30  # that are drawn
ROWS = 1024  # images that are compared with all others at once


def run(args: argparse.Namespace) -> int:
    require_batch_size(args.batch_size)
    if args.output is not None:
        args.output = require_picture(args.output)
    asked = [] if args.image is None else [_there(args.image)]
    places = [*asked, *map(_there, find_images(args.among))]
    model, transform = load_model(args, num_classes=0)
    names = list(map(_name, places))
    read = functools.partial(_content, places)
    found = embed(model, transform, names, read, batch_size=args.batch_size, exif=args.exif)
    if asked and (not len(found.rows) or found.rows[0] != 0):
        raise ImageError(found.failed[0][1])
    print(f"{counted(len(found.rows), 'image')}, {found.known} of them embedded before", file=sys.stderr)
    directions = lengths_one(found.vectors)
    (_nearest if asked else _alike)(args, places, found, directions)
    return report(found.failed, len(places))


def _nearest(args: argparse.Namespace, places: Sequence[Path | Named], found: Embedded, directions: np.ndarray) -> None:
    """Print, and draw, what is nearest to the first of the places."""
    image = places[0]
    cosines = directions[1:] @ directions[0]
    order = [i for i in np.argsort(-cosines, kind="stable") if not _same(places[found.rows[1 + i]], image)]
    if args.threshold is not None:
        order = [i for i in order if cosines[i] >= args.threshold]
    best = [(float(cosines[i]), places[found.rows[1 + i]]) for i in order[: args.topk]]
    table = table_of(["image"], ["similarity"])
    for cosine, place in best:
        table.add_row(_name(place), f"{cosine:.4f}")
    print_tables(table)
    if args.output is not None and best:
        cells = [_cell(image, "the image", args)]
        cells += [_cell(place, f"{cosine:.4f}", args) for cosine, place in best]
        rows = [cells[i : i + ACROSS] for i in range(0, len(cells), ACROSS)]
        told = f"the nearest of {counted(len(found.rows) - 1, 'image')}, by the cosine of {args.model}"
        _draw(args.output, rows, told)


def _alike(args: argparse.Namespace, places: Sequence[Path | Named], found: Embedded, directions: np.ndarray) -> None:
    """Print, and draw, the pairs that are nearer to each other than the threshold, the nearest first."""
    pairs = sorted(_pairs(directions, args.threshold), key=lambda pair: -pair[0])
    table = table_of(["image", "and"], ["similarity"])
    for cosine, *both in pairs:
        table.add_row(*(_name(places[found.rows[i]]) for i in both), f"{cosine:.4f}")
    if pairs:
        print_tables(table)
    print(f"{counted(len(pairs), 'pair')} of similarity {args.threshold:g} or more", file=sys.stderr)
    if args.output is not None and pairs:
        cells = [[_cell(places[found.rows[i]], f"{cosine:.4f}", args) for i in both] for cosine, *both in pairs[:PAIRS]]
        rows = [[*cells[i], *(cells[i + 1] if i + 1 < len(cells) else [])] for i in range(0, len(cells), 2)]
        first = f", the first {PAIRS}" if len(pairs) > PAIRS else ""
        told = f"{counted(len(pairs), 'pair')} whose cosine by {args.model} is {args.threshold:g} or more{first}"
        _draw(args.output, rows, told, line_after=2)


def _pairs(directions: np.ndarray, threshold: float) -> Iterator[tuple[float, int, int]]:
    for start in range(0, len(directions), ROWS):
        cosines = directions[start : start + ROWS] @ directions[start:].T
        for i, j in np.argwhere(np.triu(cosines >= threshold, k=1)).tolist():
            yield float(cosines[i, j]), start + i, start + j


def _draw(path: Path, rows: list[list[Cell]], title: str, line_after: int = 0) -> None:
    again = replaced(path)
    draw_sheet(path, rows, title=title, lines=2, line_after=line_after)
    print(f"{path}{again}: {counted(sum(map(len, rows)), 'picture')}", file=sys.stderr)


def _there(place: Place) -> Path | Named:
    """A path, or what an address or standard input has: it is fetched once, though it is drawn too."""
    if isinstance(place, Path):
        return place
    return standard_input() if place == STDIN else fetch(place)


def _content(places: Sequence[Path | Named], index: int) -> bytes:
    """The bytes of an image's file."""
    place = places[index]
    if isinstance(place, Named):
        return place.getvalue()
    with open_regular(place) as file:
        return file.read()


def _name(place: Path | Named) -> str:
    return place.name if isinstance(place, Named) else str(place)


def _cell(place: Path | Named, told: str, args: argparse.Namespace) -> Cell:
    return Cell(read_image(place, exif=args.exif), f"{shortened(_name(place))}\n{told}")


def _same(place: Path | Named, other: Path | Named) -> bool:
    """Whether both are one file."""
    return isinstance(place, Path) and isinstance(other, Path) and os.path.samefile(place, other)
