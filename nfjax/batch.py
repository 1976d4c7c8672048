"""Classes for `ray.data.Dataset.map_batches`, and whatever else maps a function over batches of rows.

>>> import nfjax, ray
>>> images = ray.data.read_images("photos", include_paths=True)
>>> images.map_batches(nfjax.batch.Embedder, fn_constructor_args=["eca_nfnet_l0"], batch_size=64, concurrency=4)

A batch is a dict of columns, numpy arrays of one length. Nothing here imports Ray.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from filelock import FileLock

from nfjax import cache
from nfjax.infer import compile
from nfjax.labels import top_k
from nfjax.tasks.given import read_image
from nfjax.transforms import create_transform
from nfjax.weights.loading import load
from port.errors import listed
from port.paths import is_remote, user_path

COLUMNS = ("pixels", "image", "img", "bytes", "jpg", "jpeg", "png", "webp", "path", "file_name", "file")
PIXELS = "pixels"  # the column of images as the model takes them
Batch = dict[str, np.ndarray]
OnError = Literal["raise", "drop"]


class Preprocessor:
    """Images as a model takes them, in a column `pixels`, float32 `(rows, height, width, channels)`.

    For other processes than those that have the accelerators: decoding takes a core more than a model takes. Without
    it, `Embedder` and `Classifier` do this themselves, in threads.

    Args:
        model: as `nfjax.load` takes it; its preprocessing is used.
        weights: likewise; they may say what the preprocessing is.
        column: of the images: arrays `(height, width, 3)` of uint8, contents of image files (bytes, or Hugging Face's
            `{"bytes": ..., "path": ...}`), or paths and addresses. None for the first there is of `COLUMNS`.
        img_size: height and width, or both; None for the model's own.
        exif: turn images as their EXIF orientation says.
        on_error: "raise" a ValueError for an image that cannot be read, or "drop" its row.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "eca_nfnet_l0",
        *,
        weights: Any = "pretrained",
        column: str | None = None,
        img_size: int | tuple[int, int] | None = None,
        exif: bool = False,
        on_error: OnError = "raise",
    ):
        loaded = load(model, weights, img_size=img_size, num_classes=0)
        self._reader = _Reader(create_transform(loaded), column, exif, on_error)

    def __call__(self, batch: Mapping[str, Any]) -> Batch:
        """The batch with `pixels` in place of the images."""
        return self._reader(batch)


class _Reader:
    """Batches of images to batches of pixels."""

    def __init__(self, transform: Any, column: str | None, exif: bool, on_error: OnError):
        if on_error not in ("raise", "drop"):
            raise ValueError(f"on_error={on_error!r}; expected 'raise' or 'drop'.")
        self._transform, self._column, self._exif, self._on_error = transform, column, exif, on_error
        self._pool: ThreadPoolExecutor | None = None

    def __call__(self, batch: Mapping[str, Any]) -> Batch:
        column = self._column or next((name for name in COLUMNS if name in batch), None)
        if column is None or column not in batch:
            expected = self._column or ", ".join(COLUMNS)
            raise ValueError(
                f"a batch has the columns {listed(list(batch), 20)}; expected {expected}: name it, column=."
            )
        others = {name: np.asarray(values) for name, values in batch.items() if name != column}
        if column == PIXELS:
            return others | {PIXELS: np.asarray(batch[column], np.float32)}
        if self._pool is None:
            self._pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 8))
        found = list(self._pool.map(self._read, batch[column]))
        bad = [row for row, one in enumerate(found) if isinstance(one, Exception)]
        if bad and self._on_error == "raise":
            raise ValueError(
                f"{column} of row {bad[0]} of a batch: {found[bad[0]]} on_error='drop' leaves such rows out."
            )
        good = [row for row in range(len(found)) if row not in set(bad)]
        size = (*self._transform.size, len(self._transform.mean))
        pixels = np.stack([found[row] for row in good]) if good else np.zeros((0, *size), np.float32)
        return {name: values[good] for name, values in others.items()} | {PIXELS: pixels}

    def _read(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path") or b""
        if isinstance(value, bytes):
            value = io.BytesIO(value)
        elif isinstance(value, str):
            value = value if is_remote(value) or "://" in value else Path(user_path(value))
        try:
            return self._transform(read_image(value, self._transform.mode, exif=self._exif))
        except (OSError, ValueError) as error:
            return error


class _Computer:
    """A model with its weights, loaded once, and its program, compiled once."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        options: dict[str, Any],
        batch_size: int,
        column: str | None,
        exif: bool,
        on_error: OnError,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}; expected at least 1.")
        self._folder = cache.enable()
        self.model = load(model, **options)
        self._reader = _Reader(create_transform(self.model), column, exif, on_error)
        self._batch_size = batch_size
        self._call: Callable[[Any], Any] | None = None

    def __call__(self, batch: Mapping[str, Any]) -> tuple[Batch, np.ndarray]:
        """The other columns, and the model's outputs `(rows, outputs)`, float32."""
        rest = self._reader(batch)
        pixels = rest.pop(PIXELS)
        found = [np.zeros((0, self.model.num_classes or self.model.head_hidden_size), np.float32)]
        for start in range(0, len(pixels), self._batch_size):
            some = pixels[start : start + self._batch_size]
            padded = np.zeros((self._batch_size, *pixels.shape[1:]), np.float32)
            padded[: len(some)] = some
            found.append(
                np.asarray(jax.device_get(self._compiled(padded)(jnp.asarray(padded))), np.float32)[: len(some)]
            )
        return rest, np.concatenate(found)

    def _compiled(self, padded: np.ndarray) -> Callable[[Any], Any]:
        if self._call is None:
            config: Any = jax.config  # its attributes are made at run time
            with _one_at_a_time(self._folder or config.jax_compilation_cache_dir):
                self._call = compile(self.model, jnp.asarray(padded))
        return self._call


@contextlib.contextmanager
def _one_at_a_time(folder: str | os.PathLike[str] | None) -> Iterator[None]:
    """Of the processes of a machine the first compiles, and the others find it in the cache."""
    lock = FileLock(f"{folder}/.batch.lock") if folder else contextlib.nullcontext()
    with lock:
        yield


class Embedder:
    """Pooled features: a column `embedding`, float32 `(rows, features)`, in place of the images.

    Args:
        model: as `nfjax.load` takes it, and `weights` and `img_size` too.
        batch_size: images that are computed at once; batches of other lengths are cut and padded.
        normalize: scale every embedding to length 1.
        column, exif, on_error: as for `Preprocessor`, whose `pixels` are taken where a batch has them.

    Raises:
        ValueError: a batch has no images, or one cannot be read.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "eca_nfnet_l0",
        *,
        weights: Any = "pretrained",
        img_size: int | tuple[int, int] | None = None,
        batch_size: int = 64,
        normalize: bool = False,
        column: str | None = None,
        exif: bool = False,
        on_error: OnError = "raise",
    ):
        options = {"weights": weights, "img_size": img_size, "num_classes": 0}
        self._computer = _Computer(model, options, batch_size, column, exif, on_error)
        self._normalize = normalize

    def __call__(self, batch: Mapping[str, Any]) -> Batch:
        """The batch with `embedding` in place of the images."""
        rest, found = self._computer(batch)
        if self._normalize:
            found = found / np.linalg.norm(found, axis=1, keepdims=True)
        return rest | {"embedding": found}


class Classifier:
    """The most probable classes: columns `index`, `name` and `probability`, each `(rows, topk)`, for the images.

    Args:
        topk: how many; of fewer classes all.
        model, weights, img_size, batch_size, column, exif, on_error: as for `Embedder`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "eca_nfnet_l0",
        *,
        weights: Any = "pretrained",
        img_size: int | tuple[int, int] | None = None,
        batch_size: int = 64,
        topk: int = 5,
        column: str | None = None,
        exif: bool = False,
        on_error: OnError = "raise",
    ):
        options = {"weights": weights, "img_size": img_size}
        self._computer = _Computer(model, options, batch_size, column, exif, on_error)
        self._topk = min(topk, self._computer.model.num_classes)

    def __call__(self, batch: Mapping[str, Any]) -> Batch:
        """The batch with its classes in place of the images."""
        rest, logits = self._computer(batch)
        best = top_k(logits, self._topk, self._computer.model) if len(logits) else []
        shape = (len(best), self._topk)
        return rest | {
            "index": np.array([[index for _, _, index in row] for row in best], np.int64).reshape(shape),
            "name": np.array([[name for name, _, _ in row] for row in best], np.str_).reshape(shape),
            "probability": np.array([[p for _, p, _ in row] for row in best], np.float32).reshape(shape),
        }
