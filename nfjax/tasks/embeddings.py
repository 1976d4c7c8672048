"""Embeddings of images, computed once: they are kept on disk, found by the content of an image and the model."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nfjax.cache import folder_for
from nfjax.models.base import ImageModel
from nfjax.params import named_params
from nfjax.tasks.batches import outputs
from nfjax.tasks.given import Named, read_image
from nfjax.transforms import EvalTransform
from port.atomic import replacing

logger = logging.getLogger("nfjax")

SAVED_AFTER = 4096  # images: so many are lost at the most by a process that is killed
Content = bytes | np.ndarray  # of an image file, or pixels


class Embedded(NamedTuple):
    """What `embed` found."""

    rows: np.ndarray  # of the images that could be read, `(images,)` int
    vectors: np.ndarray  # float32 `(images, features)`
    failed: list[tuple[str, str]]  # names of the others, and why
    known: int  # how many were kept from before


def embed(
    model: ImageModel,
    transform: EvalTransform,
    names: Sequence[str],
    read: Callable[[int], Content],
    *,
    batch_size: int = 16,
    exif: bool = False,
) -> Embedded:
    """The pooled features of images, those that enter a classifier.

    They are kept in `nfjax/embeddings` in the user's cache (NFJAX_CACHE=0 for not), by the SHA-256 of what `read`
    gives, for each model: its parameters, its architecture and the preprocessing. Images are told apart by content
    alone, and may be moved, renamed and found in several folders.

    Args:
        model: loaded with `num_classes=0`.
        transform: its preprocessing.
        names: of the images, for messages.
        read: the content of an image, by its place in `names`; called in threads. A ValueError or OSError that it
            raises is noted, and the image is left out.
        batch_size: images at a time.
        exif: turn images as their EXIF orientation says.
    """
    if model.num_classes:
        raise ValueError(f"{model.name} has a classifier; load it with num_classes=0 for embeddings.")
    failed: dict[int, str] = {}

    def content(index: int) -> Content | None:
        try:
            return read(index)
        except (ValueError, OSError) as error:
            failed[index] = str(error)
            return None

    def prepared(index: int) -> np.ndarray | None:
        data = content(index)
        if data is None:
            return None
        try:
            file = Named(data, names[index]) if isinstance(data, bytes) else data
            array: np.ndarray = transform(read_image(file, transform.mode, exif=exif))
        except (ValueError, OSError) as error:
            failed[index] = str(error)
            return None
        return array

    store = _Store(identity(model, transform, exif), model.head_hidden_size)
    keys = {i: _key(data) for i in range(len(names)) if (data := content(i)) is not None}
    missing = {key: i for i, key in reversed(keys.items()) if key not in store.found}
    known = len(keys) - sum(key in missing for key in keys.values())
    for index, output in outputs(model, sorted(missing.values()), prepared, batch_size):
        if np.isfinite(output).all():
            store.add(keys[index], output)
        else:
            failed[index] = "the model's output for it is not finite"
    store.save()
    rows = [index for index, key in keys.items() if key in store.found]
    for index, key in keys.items():  # the same content a second time
        if key not in store.found:
            failed.setdefault(index, failed.get(missing[key], ""))
    vectors = np.stack([store.found[keys[i]] for i in rows]) if rows else np.zeros((0, model.head_hidden_size), "f4")
    told = [(names[index], failed[index]) for index in sorted(failed)]
    return Embedded(np.array(rows, int), vectors, told, known)


def identity(model: ImageModel, transform: EvalTransform, exif: bool = False) -> str:
    """A hash of everything that decides an embedding, but for the versions of libraries."""
    found = hashlib.sha256(repr((model.config, model.global_pool, str(model.dtype), transform, exif)).encode())
    for path, variable in sorted(named_params(model).items()):
        value: Any = np.ascontiguousarray(jax.device_get(variable.get_value()))
        found.update(f"{path} {value.dtype} {value.shape}".encode())
        found.update(value.view(np.uint8).data if value.size else b"")
    return found.hexdigest()[:32]


def lengths_one(vectors: np.ndarray) -> np.ndarray:
    """The same directions at length 1, so that products are cosines; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def _key(data: Content) -> bytes:
    if isinstance(data, bytes):
        return hashlib.sha256(data).digest()
    return hashlib.sha256(repr((data.shape, str(data.dtype))).encode() + np.ascontiguousarray(data).tobytes()).digest()


class _Store:
    """Embeddings of one model, in memory and in files of a folder that only come."""

    def __init__(self, name: str, features: int):
        self.found: dict[bytes, np.ndarray] = {}
        self._new: list[bytes] = []
        self._folder = folder_for(f"embeddings/{name}")
        for file in sorted(self._folder.glob("*.npz")) if self._folder else []:
            try:
                with np.load(file, allow_pickle=False) as arrays:
                    keys, vectors = arrays["keys"], arrays["embeddings"]
                fits = (
                    vectors.shape == (len(keys), features) and vectors.dtype == np.float32 and keys.shape[1:] == (32,)
                )
            except (OSError, ValueError, KeyError, EOFError) as error:
                fits, keys, vectors = False, np.array(error), np.zeros(0)
            if not fits or not np.isfinite(vectors).all():
                logger.warning(f"{file} is no file of embeddings, or is damaged, and is passed over; remove it.")
                continue
            self.found |= dict(zip(map(bytes, keys), vectors, strict=True))

    def add(self, key: bytes, vector: np.ndarray) -> None:
        self.found[key] = vector
        self._new.append(key)
        if len(self._new) >= SAVED_AFTER:
            self.save()

    def save(self) -> None:
        """Write what is new to a file of its own; where it cannot be written, that is told."""
        if self._folder is None or not self._new:
            return
        file: Path = self._folder / f"{os.urandom(8).hex()}.npz"
        keys = np.stack([np.frombuffer(key, np.uint8) for key in self._new])
        try:
            with replacing(file) as partial:
                np.savez(partial, keys=keys, embeddings=np.stack([self.found[key] for key in self._new]))
        except OSError as error:
            logger.warning(f"embeddings are not kept for the next time: {file.parent} cannot be written ({error}).")
        self._new = []
