"""What is counted of an evaluation: hits of one label an image; average precision and F1 of several.

Of several labels everything is exact: the logits of all images are ranked together, on the host, in float64. Unknown
labels count for nothing. Targets are int8 `(images, classes)`: 1, 0, or -1 for unknown.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

THRESHOLD = 0.5  # probability from which on a label is predicted


def scores_of(parts: Sequence[Mapping[str, Any]], *, several: bool) -> dict[str, float]:
    """The scores of an evaluation, from what `train.step.make_eval_step` gave of its batches."""
    if not several:
        total = {key: sum(float(part[key]) for part in parts) for key in parts[0]}
        return {key: total[key] / total["count"] for key in ("top1", "top5", "loss")}
    valid = np.concatenate([part["valid"] for part in parts])
    logits, labels = (np.concatenate([part[key] for part in parts])[valid] for key in ("logits", "label"))
    return scores_of_several(logits, labels)


def scores_of_several(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Mean average precision, micro and macro F1 and the loss, in [0, 1] but the loss.

    map: over the classes that have a known label that is there; scikit-learn's `average_precision_score` of each.
    f1: of all known labels together, from probability `THRESHOLD` on (micro).
    macro_f1: the mean over the same classes as map.
    loss: binary cross-entropy, the mean over known labels.
    """
    logits = np.asarray(logits, np.float64)
    precision, found = average_precisions(logits, labels), logits >= 0
    some = ~np.isnan(precision)
    known = labels >= 0
    values = np.logaddexp(0, logits) - logits * labels
    return {
        "map": float(precision[some].mean()) if some.any() else float("nan"),
        "f1": float(f1_of(*(count.sum() for count in counts(found, labels)))),
        "macro_f1": float(f1_of(*counts(found, labels))[some].mean()) if some.any() else float("nan"),
        "loss": float(values[known].mean()) if known.any() else float("nan"),
    }


def average_precisions(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each class, `(classes,)` float64: the precision at each threshold, weighted by the recall that it adds.

    Equal scores are one threshold. NaN for a class of which no known label is there.
    """
    result = np.full(labels.shape[1], np.nan)
    for place, _, hits, seen in _at_thresholds(scores, labels):
        result[place] = np.sum(np.diff(hits, prepend=0) * (hits / seen)) / hits[-1]
    return result


def _at_thresholds(scores: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """Of each class of which a known label is there: its place; its scores from the largest down, equal ones once; and
    how many images with the label, and how many at all, have at least each."""
    for place in range(labels.shape[1]):
        known = labels[:, place] >= 0
        score, there = scores[known, place], labels[known, place] == 1
        if not there.any():
            continue
        order = np.argsort(-score, kind="stable")
        score, hits = score[order], np.cumsum(there[order])
        last = np.append(score[1:] != score[:-1], True)  # of its threshold
        yield place, score[last], hits[last], np.flatnonzero(last) + 1


def counts(found: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each class: labels that were found rightly, that were found wrongly, and that were missed."""
    known = labels >= 0
    there = labels == 1
    return (found & there).sum(0), (found & known & ~there).sum(0), (~found & there).sum(0)


def best_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each class the probability from which on F1 is largest, and that F1; NaN where no known label is there."""
    thresholds, best = np.full((2, labels.shape[1]), np.nan)
    for place, score, hits, seen in _at_thresholds(probabilities, labels):
        f1 = 2 * hits / (seen + hits[-1])
        at = int(f1.argmax())
        thresholds[place], best[place] = score[at], f1[at]
    return thresholds, best


def f1_of(right: Any, wrong: Any, missed: Any) -> Any:
    """The harmonic mean of precision and recall; 0 where nothing is there and nothing was found."""
    return 2 * right / np.maximum(2 * right + wrong + missed, 1)
