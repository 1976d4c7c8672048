"""Dense features: maps of what is where, as colours and as similarities, of `(rows, columns, channels)` each."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float

Map = Float[Array | np.ndarray, "_ _ channels"]
PERCENTILES = (1, 99)  # of a component, which become the darkest and the brightest


def principal_colours(maps: Sequence[Map]) -> list[Float[np.ndarray, "rows columns 3"]]:
    """Three main components of features as red, green and blue from 0 to 1, the same for all maps.

    What looks alike has alike features, also in another map. Components are those of all places of all maps, the main
    one in red; each has the sign with which its largest weight is positive.

    Args:
        maps: of equally many channels, at least 3, of any rows and columns.

    Raises:
        ValueError: there is no map, or there are other channels.
    """
    channels = {m.shape[-1] for m in maps}
    if len(channels) != 1 or min(channels) < 3:
        raise ValueError(f"maps have {sorted(channels)} channels; expected maps of equally many, at least 3.")
    rows = np.concatenate([np.asarray(m, np.float64).reshape(-1, m.shape[-1]) for m in maps])
    rows -= rows.mean(0)
    axes = np.linalg.eigh(rows.T @ rows).eigenvectors[:, :-4:-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(3)])
    components = rows @ axes
    low, high = np.percentile(components, PERCENTILES, axis=0)
    colours = np.clip((components - low) / np.where(high > low, high - low, 1), 0, 1)
    parts = np.split(colours, np.cumsum([m.shape[0] * m.shape[1] for m in maps])[:-1])
    return [part.reshape(*m.shape[:2], 3) for part, m in zip(parts, maps, strict=True)]


def similarity(features: Map, row: int, column: int) -> Float[np.ndarray, "rows columns"]:
    """How similar each place is to one of them: the cosine of the angle between their features, from -1 to 1.

    Raises:
        ValueError: there is no such place.
    """
    height, width = features.shape[:2]
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"row={row}, column={column}; the map has {height} rows and {width} columns.")
    vectors = np.asarray(features, np.float64)
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors = vectors / np.where(lengths > 0, lengths, 1)
    return vectors @ vectors[row, column]
