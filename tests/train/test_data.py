"""Batches: in which order, from which images, for which process."""

from unittest import mock

import jax
import numpy as np
import pytest

from train import data as pipeline
from train.config import Data


def test_batches_depend_on_seed_and_step_alone():
    split = pipeline.digits(8).train
    data = Data(batch_size=64, shift=2)
    whole = pipeline.train_batches(split, data, seed=1, start_step=0)
    batches = [next(whole) for _ in range(30)]  # into the second epoch
    later = pipeline.train_batches(split, data, seed=1, start_step=27)
    for expected in batches[27:]:
        batch = next(later)
        assert all(np.array_equal(batch[key], expected[key]) for key in expected)
    other = next(pipeline.train_batches(split, data, seed=2, start_step=0))
    assert not np.array_equal(other["label"], batches[0]["label"])
    first_epoch = np.concatenate([b["label"] for b in batches])[: len(split)]
    assert np.array_equal(np.bincount(first_epoch), np.bincount(split.labels))  # every image once


def test_digits_are_split_once_and_for_all():
    data = pipeline.digits(8)
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.test.images.dtype == np.uint8
    assert data.test.labels[:8].tolist() == [0, 8, 8, 9, 8, 3, 7, 5]
    images = np.concatenate([data.train.images, data.test.images])
    assert images.shape == (1797, 8, 8, 1)


def test_test_batches_cover_every_image_once():
    split = pipeline.digits(8).test
    batches = list(pipeline.test_batches(split, 100))
    assert [int(b["valid"].sum()) for b in batches] == [100, 100, 100, 60]
    labels = np.concatenate([b["label"][b["valid"]] for b in batches])
    np.testing.assert_array_equal(labels, split.labels)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batches_of_one(processes):
    """Row by row, so that random choices that go by the row are the same too."""
    dataset, data = pipeline.digits(8), Data(batch_size=60, shift=2)
    streams = {"train": lambda: pipeline.train_batches(dataset.train, data, 3, 23)}
    streams["test"] = lambda: pipeline.test_batches(dataset.test, 100)
    for stream in streams.values():
        whole, parts = stream(), []
        for index in range(processes):
            with (
                mock.patch.object(jax, "process_count", return_value=processes),
                mock.patch.object(jax, "process_index", return_value=index),
            ):
                part = stream()
                parts.append([next(part) for _ in range(4)])
        for number in range(4):
            batch = next(whole)
            for key, value in batch.items():
                assert np.array_equal(value, np.concatenate([part[number][key] for part in parts])), key
