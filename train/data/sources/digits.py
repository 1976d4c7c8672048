"""The handwritten digits that scikit-learn bundles, as a data set of TensorFlow Datasets."""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from train.data.sources.base import Splits
from train.data.sources.tfds import data_dir, open_tfds

OWN = {"in_chans": 1, "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0}


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits of 8x8 pixels (UCI Optical Recognition of Handwritten Digits), 0 to 9.

    1,437 images are for training and 360 for testing, in a fixed random split, so that the same writers are in both.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(shape=(8, 8, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
        keys, described = ("image", "label"), tfds.features.FeaturesDict(features)
        return self.dataset_info_from_configs(features=described, supervised_keys=keys, disable_shuffling=True)

    def _split_generators(self, manager: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images, labels = np.round(bunch.images * (255 / 16)).astype(np.uint8), bunch.target
        train, test = np.split(np.random.default_rng(0).permutation(len(labels)), [1437])
        rows = {"train": train, "test": test}
        return {name: self._generate_examples(images[rows[name]], labels[rows[name]]) for name in rows}

    def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[Any]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            file.seek(0)
            yield index, {"image": file, "label": int(label)}


def digits(root: Path | None = None) -> Splits:
    """The splits "train" and "test", prepared as array_record when they are first asked for."""
    root = data_dir() if root is None else root
    place = Path("digits") / str(Digits.VERSION)
    if not (root / place / "features.json").exists():
        _prepare(root, place)
    return Splits(open_tfds(str(place), root, None, None), own=OWN)


def _prepare(root: Path, place: Path) -> None:
    """Prepare aside and move into place, so that of several processes each finds a whole data set."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".digits-") as aside:
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()):
            Digits(data_dir=aside, file_format="array_record").download_and_prepare()
        (root / place).parent.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):  # another process was faster
            os.rename(Path(aside) / place, root / place)
