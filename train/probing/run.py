"""What `nfjax probe` does: embed, choose and fit, count, draw, save."""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from PIL import Image

import nfjax
from nfjax.cli.common import load_model, report, require_batch_size
from nfjax.cli.output import print_tables, table_of
from nfjax.params import named_params
from nfjax.support.pictures import Cell, draw_sheet
from nfjax.tasks.embeddings import Content, Embedded, embed
from nfjax.weights.card import About, Score, of_data
from port.atomic import replacing
from port.text import counted, one_line
from train.config import Data
from train.data import Source, find_sources
from train.data.decode import decode
from train.data.sources.base import Selection
from train.data.sources.chance import held_out
from train.evaluation.predictions import TOP, Predictions
from train.evaluation.report import confusions, short, write
from train.probing.fit import Images, Linear, Neighbours, choose, log_probabilities, require_classes

HELD_OUT = 0.2  # of the training images of each class, to choose on
MATRIX = 12  # more classes do not fit on a terminal: the most frequent confusions are printed instead
DRAWN, BESIDE = 8, 5  # test images with their neighbours, and how many these are


def run(args: argparse.Namespace, data: Data) -> int:
    """Probe the model of a command line, what `train.probing.options.parse` gives; 1 if an image failed, else 0."""
    require_batch_size(args.batch_size)
    sources = find_sources(data)
    if (labels := sources[0].labels()) is not None:
        require_classes(labels)  # before what takes long
    names = [one_line(name) for name in sources[0].class_names]
    args.out.mkdir(parents=True, exist_ok=True)
    model, transform = load_model(args, num_classes=0)
    began = time.perf_counter()
    train, test, found = _embedded(model, transform, sources, args)
    embedding = time.perf_counter() - began
    sizes = [counted(len(train.labels), "training image"), counted(len(test.labels), "test image")]
    print(
        f"{', '.join(sizes)}, {counted(len(names), 'class')}: {train.vectors.shape[1]} features of {model.name} in "
        f"{embedding:.1f} s ({found.known} from the cache)"
    )
    began = time.perf_counter()
    keys = [train.source.key(index) for index in range(len(train.labels))]
    neighbours, linear, strength = choose(train.images, held_out(train.labels, keys, HELD_OUT), len(names))
    predicted = {
        "neighbours": _predictions(neighbours.logits(test.vectors), test.labels),
        "linear": _predictions(linear.logits(test.vectors), test.labels),
    }
    fitting = time.perf_counter() - began
    called = {"neighbours": f"{neighbours.k} nearest neighbours", "linear": f"linear classifier, C={strength:g}"}
    scores = {key: of.scores() for key, of in predicted.items()}
    for key, of in scores.items():
        print(f"{called[key]}: top-1 {of['top1']:.2f} % ({of['top1_count']} of {of['count']})")
    _print_confusions(predicted["linear"], names)
    results = {
        "model": model.name,
        "train": len(train.labels),
        "test": len(test.labels),
        "embedding_seconds": round(embedding, 2),
        "fitting_seconds": round(fitting, 2),
        "neighbours": {"k": neighbours.k} | scores["neighbours"],
        "linear": {"C": strength} | scores["linear"],
    }
    with replacing(args.out / "results.json") as partial:
        partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    write(args.out, predicted["linear"], names, test.source)
    _draw_neighbours(args.out / "neighbours.png", neighbours, train, test, predicted["linear"], names)
    print(f"results and pictures are in {args.out}")
    if args.save is not None:
        base = model.data_config.hf_hub_id if args.weights == "pretrained" else None
        tested = f"{data.name}, {counted(len(test.labels), 'image')}"
        about = About(base, [Score("top-1", scores["linear"]["top1"], tested)], of_data(data.name))
        saved = _save(model, linear, sources[0].class_names, data.name, args.save, about)
        print(f"{saved}: {model.data_config.architecture} with the linear classifier")
    return report(found.failed, sum(map(len, sources)))


class Split(NamedTuple):
    """The images of a split that could be read, and their embeddings."""

    source: Source
    vectors: np.ndarray
    labels: np.ndarray

    @property
    def images(self) -> Images:
        return Images(self.vectors, self.labels)


def _embedded(
    model: nfjax.ImageModel, transform: Any, sources: Sequence[Source], args: argparse.Namespace
) -> tuple[Split, Split, Embedded]:
    """Both splits, embedded by one program.

    Raises:
        ValueError: of one of them no image could be read.
    """
    places = [(source, row) for source in sources for row in range(len(source))]
    names = [source.key(row) for source, row in places]

    def read(index: int) -> Content:
        source, row = places[index]
        return source[row]["image"]

    found = embed(model, transform, names, read, batch_size=args.batch_size, exif=args.exif)
    there = found.rows < len(sources[0])
    if there.all() or not there.any():
        raise ValueError(
            f"of the {'test' if there.any() else 'training'} images none could be read: {found.failed[0]}."
        )
    splits = []
    for source, mine, first in ((sources[0], there, 0), (sources[1], ~there, len(sources[0]))):
        rows = found.rows[mine] - first
        readable = Selection([(source, rows)])
        labels = readable.labels()
        if labels is None:
            labels = np.array([source[row]["label"] for row in rows.tolist()])
        splits.append(Split(readable, found.vectors[mine], labels.astype(np.int32)))
    return splits[0], splits[1], found


def _predictions(logits: np.ndarray, labels: np.ndarray) -> Predictions:
    logs = log_probabilities(logits)
    order = np.argsort(-logs, axis=1, kind="stable")[:, :TOP].astype(np.int32)
    loss = -logs[np.arange(len(labels)), labels]
    probabilities = np.exp(np.take_along_axis(logs, order, axis=1))
    return Predictions(labels, loss.astype(np.float32), order, probabilities.astype(np.float32))


def _print_confusions(found: Predictions, names: Sequence[str]) -> None:
    """All counts of few classes, of many the most frequent mistakes."""
    kinds = confusions(found)
    if len(names) > MATRIX:
        for label, other, times in kinds[:MATRIX]:
            print(f"  {times} of {short(names[label])} as {short(names[other])}")
        return
    counts = np.zeros((len(names), len(names)), int)
    np.add.at(counts, (found.label, found.classes[:, 0]), 1)
    table = table_of(["true, predicted as"], [short(name) for name in names])
    for name, row in zip(names, counts, strict=True):
        table.add_row(short(name), *(str(count) if count else "·" for count in row))
    print_tables(table)


def _draw_neighbours(
    path: Path,
    neighbours: Neighbours,
    train: Split,
    test: Split,
    found: Predictions,
    names: Sequence[str],
) -> None:
    """Some test images, the mistakes among them first, each in a row with the training images nearest to it."""
    right = found.hits(1)
    wrong, others = np.flatnonzero(~right)[: DRAWN // 2], np.flatnonzero(right)
    spread = others[np.linspace(0, len(others) - 1, DRAWN - len(wrong)).astype(int)] if len(others) else others
    shown = list(dict.fromkeys([*wrong.tolist(), *spread.tolist()]))
    nearest, cosines = neighbours.nearest(test.vectors[shown], BESIDE)
    rows = []
    for place, index in enumerate(shown):
        label, said = int(test.labels[index]), int(found.classes[index, 0])
        told = f"true: {short(names[label])}\npredicted: {short(names[said])} {found.probabilities[index, 0]:.0%}"
        cells = [Cell(_image(test.source, index), told, label == said)]
        for row, cosine in zip(nearest[place].tolist(), cosines[place].tolist(), strict=True):
            theirs = int(train.labels[row])
            cells.append(Cell(_image(train.source, row), f"{short(names[theirs])}\n{cosine:.3f}", theirs == label))
        rows.append(cells)
    title = "test images, and right of the line the training images nearest to each: their class, and the cosine"
    draw_sheet(path, rows, title=title, lines=2, line_after=1)


def _image(source: Source, index: int) -> Image.Image:
    example = source[index]
    return Image.fromarray(decode(example["image"], example["key"]))


def _save(model: nfjax.ImageModel, linear: Linear, names: Sequence[str], data: str, path: Path, about: About) -> Path:
    """Write the model with the linear classifier as its head."""
    classes = len(names)
    # As a finished run has it: the weights are nobody else's any more.
    model.data_config = dataclasses.replace(
        model.data_config, num_classes=classes, label_names=tuple(names), tag=data.replace("/", "_"), hf_hub_id=None
    )
    model.reset_classifier(classes)
    head = f"{model.data_config.classifier}/".replace(".", "/")
    variables = named_params(model)
    for leaf, value in (("kernel", linear.kernel), ("bias", linear.bias)):
        variables[head + leaf].set_value(jnp.asarray(value, model.param_dtype))
    if model.data_config.classifier is None:
        print(f"{model.name} names no classifier.", file=sys.stderr)
    return nfjax.save(model, path, about=about)
