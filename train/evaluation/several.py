"""A model over images with several labels: average precision, F1 by threshold, a row for each class."""

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import nfjax
from nfjax.fast.backend import compiler_options
from nfjax.params import merge, split
from port.atomic import replacing
from port.text import one_line
from train.config import Data
from train.data import Source, Split, test_batches
from train.device.normalize import Normalize
from train.evaluation.predict import fed
from train.machine.mesh import batch_sharding, put_batch, replicated
from train.optim.scores import average_precisions, best_thresholds, counts, f1_of, scores_of_several

RESULTS = "results_multi_label.csv"
COLUMNS = (
    "model", "map", "f1", "macro_f1", "loss", "count", "param_count", "img_size", "crop_pct", "interpolation", "dtype",
    "fingerprint",
)  # fmt: skip
THRESHOLDS = tuple(step / 20 for step in range(1, 20))


def predict(
    model: nfjax.ImageModel,
    test: Split,
    data: Data,
    mesh: jax.sharding.Mesh,
    normalize: Normalize,
    places: np.ndarray,
    *,
    batch_size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits `(images, classes)` float32 and labels int8 of all images; every image once, on every process.

    Args:
        model: with a classifier.
        test: what to read.
        data: `workers` and `stall_seconds` matter here.
        mesh: of the devices.
        normalize: from uint8 images to the model's input.
        places: the model's output for each class.
        batch_size: of all processes; a multiple of the number of devices.

    Raises:
        nfjax.images.ImageError: images cannot be read.
        ValueError: logits that are not finite.
    """
    graphdef, params = split(model)
    whole, spread = replicated(mesh), batch_sharding(mesh)

    def step(params: dict[str, jax.Array], batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        logits = merge(graphdef, params)(normalize(batch["image"])).astype(normalize.dtype)
        return {"logits": logits[:, places], "label": batch["label"], "valid": batch["valid"]}

    options = compiler_options()
    compiled = jax.jit(step, in_shardings=(whole, spread), out_shardings=whole, compiler_options=options)
    params = jax.device_put(params, whole)
    steps = math.ceil(len(test) / batch_size)
    logits, labels = [], []
    for batch in fed(test_batches(test, data, batch_size), test, steps, batch_size):
        found = jax.device_get(
            compiled(params, put_batch(mesh, {key: batch[key] for key in ("image", "label", "valid")}))
        )
        logits.append(found["logits"][found["valid"]])
        labels.append(found["label"][found["valid"]])
    result = np.concatenate(logits), np.concatenate(labels)
    if (odd := int((~np.isfinite(result[0])).any(axis=1).sum())) > 0:
        raise ValueError(f"the logits of {odd} of {len(test)} images are not finite; see whether float32 is.")
    return result


def write(folder: Path, logits: np.ndarray, labels: np.ndarray, source: Source) -> dict[str, Any]:
    """Write predictions.csv, classes.csv and thresholds.csv; the scores, in percent."""
    probabilities = np.exp(-np.logaddexp(0, -np.asarray(logits, np.float64)))
    names = [one_line(name) for name in source.class_names]
    folder.mkdir(parents=True, exist_ok=True)
    _csv(folder / "predictions.csv", ["key", "labels", *names], _predictions(probabilities, labels, names, source))
    header = ["class", "name", "images", "known", "ap", "f1", "precision", "recall", "best_threshold", "best_f1"]
    _csv(folder / "classes.csv", header, _classes(logits, probabilities, labels, names))
    _csv(folder / "thresholds.csv", ["threshold", "f1", "macro_f1"], _thresholds(probabilities, labels))
    scores = scores_of_several(logits, labels)
    percent = {key: round(100 * value, 4) for key, value in scores.items() if key != "loss"}
    return percent | {"loss": round(scores["loss"], 6), "count": len(labels)}


def _predictions(
    probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str], source: Source
) -> Iterable[list[Any]]:
    for index, row in enumerate(probabilities):
        own = "|".join(names[label] for label in np.flatnonzero(labels[index] == 1).tolist())
        yield [one_line(source.key(index)), own, *(f"{value:.6g}" for value in row)]


def _classes(
    logits: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> Iterable[list[Any]]:
    precision = average_precisions(logits, labels)
    right, wrong, missed = counts(probabilities >= 0.5, labels)
    best = np.stack(best_thresholds(probabilities, labels), axis=1)
    for place, name in enumerate(names):
        own = right[place], wrong[place], missed[place]
        found = [
            precision[place],
            f1_of(*own),
            own[0] / max(own[0] + own[1], 1),
            own[0] / max(own[0] + own[2], 1),
        ]
        images, known = int((labels[:, place] == 1).sum()), int((labels[:, place] >= 0).sum())
        yield [place, name, images, known, *map(_rounded, [*found, *best[place]])]


def _thresholds(probabilities: np.ndarray, labels: np.ndarray) -> Iterable[list[Any]]:
    some = (labels == 1).any(axis=0)
    for threshold in THRESHOLDS:
        of = counts(probabilities >= threshold, labels)
        micro, each = f1_of(*(count.sum() for count in of)), f1_of(*of)[some]
        yield [threshold, _rounded(micro), _rounded(each.mean() if some.any() else math.nan)]


def _rounded(value: float) -> Any:
    """For a table; nothing where there is no number."""
    return "" if math.isnan(value) else round(float(value), 6)


def _csv(path: Path, header: Sequence[str], rows: Iterable[list[Any]]) -> None:
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)
