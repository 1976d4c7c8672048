"""What an evaluation found, class by class and mistake by mistake, as a table and as pictures."""

import csv
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from nfjax.support.pictures import Cell, draw_sheet, make_figure, open_frame, save_figure
from port.text import counted, one_line, printable
from train.data import Source
from train.data.decode import decode
from train.evaluation.predictions import TOP, Predictions
from train.report.screen import expendable

MATRIX = 40  # more classes than this do not fit into a matrix: the most confused pairs are drawn instead
PAIRS = 30
MISTAKES, ACROSS = 24, 6


def write(folder: Path, predictions: Predictions, names: Sequence[str], source: Source) -> None:
    """Write classes.csv, confusion.png and, if there are mistakes, mistakes.png; `names` are those of the outputs.

    A picture that cannot be written is told, and left out.
    """
    _classes(folder / "classes.csv", predictions, names)
    with expendable(folder / "confusion.png", _warn):
        _confusion(folder / "confusion.png", predictions, names)
    with expendable(folder / "mistakes.png", _warn):
        _mistakes(folder / "mistakes.png", predictions, names, source)


def _warn(text: str) -> None:
    print(printable(text), file=sys.stderr)


def _classes(path: Path, predictions: Predictions, names: Sequence[str]) -> None:
    """A row for each class that there are images of: how many, how many were recognised, and as what else."""
    labels, first = predictions.label, predictions.classes[:, 0]
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        counts = ("images", "top1_count", "top5_count", "top1", "top5")
        table.writerow(["class", "name", *counts, "most_confused_with", "times"])
        for label in np.unique(labels):
            rows = labels == label
            count, top1, top5 = (int(n.sum()) for n in (rows, predictions.hits(1)[rows], predictions.hits(TOP)[rows]))
            others, times = np.unique(first[rows & (first != label)], return_counts=True)
            worst = [one_line(names[others[times.argmax()]]), int(times.max())] if len(others) else ["", 0]
            percent = [round(100 * hits / count, 4) for hits in (top1, top5)]
            table.writerow([label, one_line(names[label]), count, top1, top5, *percent, *worst])


def confusions(predictions: Predictions) -> list[tuple[int, int, int]]:
    """Mistakes by kind: the right output, the one predicted, and how often, the most frequent first."""
    wrong = ~predictions.hits(1)
    pairs = np.stack([predictions.label[wrong], predictions.classes[wrong, 0]], axis=1)
    kinds, times = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-times, kind="stable")
    return [(int(kinds[i, 0]), int(kinds[i, 1]), int(times[i])) for i in order]


def _confusion(path: Path, predictions: Predictions, names: Sequence[str]) -> None:
    classes = np.union1d(predictions.label, predictions.classes[:, 0])
    if len(classes) > MATRIX:
        _pairs(path, predictions, names)
        return
    place = {int(label): index for index, label in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), int)
    for label, found in zip(predictions.label.tolist(), predictions.classes[:, 0].tolist(), strict=True):
        counts[place[label], place[found]] += 1
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 3.5 + 0.35 * len(classes)
    figure = make_figure(side, side)
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    ticks = [short(names[label]) for label in classes]
    axes.set_xticks(range(len(classes)), ticks, rotation=90, parse_math=False)
    axes.set_yticks(range(len(classes)), ticks, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    letters = 9 if len(classes) <= 12 else 7
    for row, column in np.argwhere(counts):
        color = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, counts[row, column], ha="center", va="center", color=color, fontsize=letters)
    right = int(predictions.hits(1).sum())
    axes.set_title(
        f"{right} of {len(predictions)} right ({right / len(predictions):.1%}); colour: share of the true class",
        fontsize=10,
    )
    save_figure(figure, path)


def _pairs(path: Path, predictions: Predictions, names: Sequence[str]) -> None:
    """The most frequent mistakes as bars."""
    found = confusions(predictions)
    shown, images = found[:PAIRS], np.bincount(predictions.label, minlength=len(names))
    figure = make_figure(10, 1.5 + 0.25 * max(len(shown), 1))
    axes = figure.add_subplot()
    bars = axes.barh(range(len(shown)), [times for _, _, times in shown], color="tab:blue")
    axes.bar_label(bars, [f"{times} of {images[label]}" for label, _, times in shown], padding=3, fontsize=8)
    ticks = [f"{short(names[label])} → {short(names[other])}" for label, other, _ in shown]
    axes.set_yticks(range(len(ticks)), ticks, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("images")
    open_frame(axes)
    axes.set_title(
        f"the most frequent of {len(found)} kinds of mistakes: true → predicted, so many of the class", fontsize=10
    )
    save_figure(figure, path)


def _mistakes(path: Path, predictions: Predictions, names: Sequence[str], source: Source) -> None:
    """The wrong predictions that the model was surest of, as pictures."""
    wrong = np.flatnonzero(~predictions.hits(1))
    order = wrong[np.argsort(-predictions.probabilities[wrong, 0], kind="stable")][:MISTAKES]
    if not len(order):
        return
    cells = []
    for index in order.tolist():
        example = source[index]
        label, found = int(predictions.label[index]), int(predictions.classes[index, 0])
        sure = float(predictions.probabilities[index, 0])
        lines = [
            f"true: {short(names[label])}",
            f"predicted: {short(names[found])} {sure:.0%}",
            one_line(example["key"])[-34:],
        ]
        cells.append(Cell(Image.fromarray(decode(example["image"], example["key"])), "\n".join(lines)))
    some = f"{len(cells)} of " if len(cells) < len(wrong) else ""
    title = f"{some}{counted(len(wrong), 'mistake')}, first those that the model was surest of"
    draw_sheet(path, [cells[i : i + ACROSS] for i in range(0, len(cells), ACROSS)], title=title)


def short(name: str) -> str:
    """The name of a class, short enough for a picture."""
    name = one_line(name)
    return textwrap.shorten(name.partition(",")[0], 26, placeholder="…") or name[:26]
