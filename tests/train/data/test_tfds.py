"""What TensorFlow Datasets has prepared, read without tensorflow: array_record, tfrecord, and the digits."""

import dataclasses
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from train.config import Data
from train.data import find_sources
from train.data.dataset import evaluation_source
from train.data.sources.tfds import TFRecords, open_tfds


def test_digits_are_a_data_set_of_tfds(tfds_folder):
    tfds = pytest.importorskip("tensorflow_datasets")
    train, test = find_sources(Data(name="digits", root=str(tfds_folder)))
    assert (len(train), len(test)) == (1437, 360)
    assert [test[index]["label"] for index in range(8)] == [0, 8, 8, 9, 8, 3, 7, 5]
    theirs = tfds.builder_from_directory(tfds_folder / "digits" / "1.0.0").as_data_source(split="train")
    for index in (0, 700, 1436):
        assert np.array_equal(theirs[index]["image"], load_pixels(train[index]["image"])[..., None])
        assert theirs[index]["label"] == train[index]["label"]


def load_pixels(data):
    import io

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def test_digits_are_scikit_learns(tfds_folder):
    from sklearn.datasets import load_digits

    bunch = load_digits()
    expected = Counter(
        (np.round(image * 255 / 16).astype(np.uint8).tobytes(), label)
        for image, label in zip(bunch.images, bunch.target, strict=True)
    )
    found = Counter()
    for source in find_sources(Data(name="digits", root=str(tfds_folder))):
        found.update((load_pixels(source[i]["image"]).tobytes(), source[i]["label"]) for i in range(len(source)))
    assert found == expected


def test_tfrecord_equals_array_record(tfds_folder, tfrecord_folder):
    for split in ("train", "test"):
        one = open_tfds("digits", tfds_folder, None, None)[split]
        other = open_tfds("digits", tfrecord_folder, None, None)[split]
        assert isinstance(other, TFRecords)
        assert len(one) == len(other)
        assert all(one[index] == other[index] for index in range(len(one)))


def test_a_damaged_tfrecord(tfrecord_folder, tmp_path):
    import shutil

    shutil.copytree(tfrecord_folder / "digits", tmp_path / "digits")
    file = next((tmp_path / "digits").rglob("*train.tfrecord-00001*"))
    file.write_bytes(file.read_bytes()[:-10])
    splits = open_tfds("digits", tmp_path, None, None)
    splits["test"].require()  # which does not need the others
    with pytest.raises(OSError, match="cut short or no tfrecord file"):
        splits["train"].require()
    data = Data(name="tfds/digits", root=str(tmp_path))
    assert evaluation_source(data)[1] == "test"
    for whole in (find_sources, evaluation_source):
        with pytest.raises(OSError, match="cut short or no tfrecord file"):
            whole(dataclasses.replace(data, val_split="train[:10%]", train_split="test"))


def test_reading_records_needs_no_tensorflow(tfds_folder, tfrecord_folder):
    code = """
import sys
from pathlib import Path
from train.data.sources.tfds import open_tfds
for root in sys.argv[1:]:
    assert open_tfds("digits", Path(root), None, None)["train"][3]["image"]
assert "tensorflow" not in sys.modules and "tensorflow_datasets" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tfds_folder), str(tfrecord_folder)], check=True)


def test_records_that_are_not_there(tfds_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"letters holds no data set prepared .*: digits\. Set data\.root"):
        find_sources(Data(name="tfds/letters", root=str(tfds_folder)))
    with pytest.raises(ValueError, match=r"no feature 'picture'; name one of image, label as data\.input_key"):
        find_sources(Data(name="tfds/digits", root=str(tfds_folder), input_key="picture"))
    with pytest.raises(ValueError, match=r"feature 'image' is not a class label"):
        find_sources(Data(name="tfds/digits", root=str(tfds_folder), target_key="image"))


def test_names_of_records(tfds_folder):
    expected = find_sources(Data(name="digits", root=str(tfds_folder)))[0].fingerprint()
    version = tfds_folder / "digits" / "1.0.0"
    for name, root in (("tfds/digits", tfds_folder), ("tfds/digits/1.0.0", tfds_folder), ("tfds", version)):
        assert find_sources(Data(name=name, root=str(root)))[0].fingerprint() == expected
    train, test = find_sources(
        Data(name="tfds/digits", root=str(tfds_folder), train_split="train[:99%]", val_split="train[99%:]")
    )
    assert (len(train), len(test)) == (1423, 14)
    assert train.key(1422) == "train[1422]"
    with pytest.raises(ValueError, match=r"there is no split to test on\. Name one"):
        find_sources(Data(name="tfds/digits", root=str(tfds_folder), train_split="test"))
