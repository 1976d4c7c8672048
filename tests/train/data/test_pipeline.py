"""Training batches depend on seed and step alone; test batches have every image once; broken images are told of."""

import hashlib
import os
import pickle
from collections import Counter

import grain
import jax
import numpy as np
import pytest

from nfjax.images import ImageError
from nfjax.models.data_config import DataConfig
from nfjax.parity import oracle
from tests.helpers.photos import make_folder
from train.config import Augment, Data
from train.data import load_dataset, train_batches
from train.data import test_batches as batches_in_order  # pytest would take the name for a test
from train.data.broken import BrokenImages
from train.data.pipeline import Repeats, Rows
from train.data.sources.folder import Files

STRONG = Augment(auto_augment="rand-m9-mstd0.5-inc1")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """54 training and 23 test images of 6 and 5 classes, in part grey."""
    root = make_folder(tmp_path_factory.mktemp("photos"), train=9, val=4, size=48, classes=6)
    (root / "val" / "cat" / "0003.jpg").unlink()
    return root


def config(root, **options):
    return Data(**{"name": "folder", "root": str(root), "batch_size": 12, "image_size": 32, "workers": 0} | options)


def load(data):
    return load_dataset(data, DataConfig(), STRONG)


def stream(data, seed=0, start=0):
    return train_batches(load(data).train, data, seed, start)


def digest(batches, count):
    """A hash of everything in the next batches."""
    found = hashlib.sha256()
    for _ in range(count):
        batch = next(batches)
        for key in sorted(batch):
            found.update(key.encode() + np.ascontiguousarray(batch[key]).tobytes())
    return found.hexdigest()


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_what_is_in_a_batch(root):
    batch = next(stream(config(root)))
    assert {key: (array.shape, str(array.dtype)) for key, array in batch.items()} == {
        "image": ((12, 32, 32, 3), "uint8"),
        "label": ((12,), "int32"),
        "index": ((12,), "int64"),
    }
    source = load(config(root)).train.source
    assert [source[index]["label"] for index in batch["index"]] == batch["label"].tolist()


def test_a_batch_of_one(root):
    batches = stream(config(root, batch_size=1))
    assert [next(batches)["image"].shape for _ in range(3)] == [(1, 32, 32, 3)] * 3


@pytest.mark.parametrize(("workers", "count"), [((0, 2), 20), pytest.param((0, 1, 2, 4), 500, marks=pytest.mark.slow)])
def test_the_stream_is_the_same_for_any_number_of_workers(root, workers, count):
    streams = [stream(config(root, workers=number, aug_repeats=2)) for number in workers]
    assert len({digest(batches, count) for batches in streams}) == 1
    for batches in streams:
        batches.close()


def test_seeds_and_passes_differ(root):
    one, other = stream(config(root)), stream(config(root), seed=1)
    assert not np.array_equal(next(one)["index"], next(other)["index"])
    data = config(root, batch_size=54)
    first, second = (next(stream(data, start=step)) for step in (0, 1))
    assert sorted(first["index"]) == sorted(second["index"]) == list(range(54))
    assert not np.array_equal(first["index"], second["index"])
    places = np.argsort(first["index"]), np.argsort(second["index"])
    assert not any(map(np.array_equal, first["image"][places[0]], second["image"][places[1]]))  # other random choices


def test_a_resumed_stream_goes_on_where_it_was(root):
    data = config(root)
    whole = stream(data)
    batches = [next(whole) for _ in range(12)]  # into the third pass
    for step in (1, 4, 11):
        assert same(next(stream(data, start=step)), batches[step])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_batches_of_one(root, monkeypatch, hosts):
    data = config(root, aug_repeats=3)
    whole = stream(data)
    expected = [next(whole) for _ in range(6)]
    monkeypatch.setattr(jax, "process_count", lambda: hosts)
    parts = []
    for host in range(hosts):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        parts.append(stream(data))
    for batch in expected:
        of_hosts = [next(part) for part in parts]
        assert same({key: np.concatenate([own[key] for own in of_hosts]) for key in batch}, batch)


def test_hosts_share_the_test_images(root, monkeypatch):
    data = config(root)
    split = load(data).test
    expected = list(batches_in_order(split, data, 8))
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    seen = []
    for host in range(4):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        own = list(batches_in_order(split, data, 8))
        assert [len(batch["label"]) for batch in own] == [2, 2, 2]
        rows = slice(2 * host, 2 * host + 2)
        assert all(same(part, {key: e[key][rows] for key in e}) for part, e in zip(own, expected, strict=True))
        seen += [index for batch in own for index in batch["index"][batch["valid"]]]
    assert sorted(seen) == list(range(23))


def test_rows_of_a_process():
    rows = Rows(grain.MapDataset.range(20).map(lambda index: {"x": index}), 6, slice(2, 4))
    assert [rows[i] for i in range(len(rows))] == [{"x": x, "step": x // 6} for x in (2, 3, 8, 9, 14, 15)]


@pytest.mark.parametrize(("images", "repeats"), [(256, 3), (512, 2)])
def test_repeats_are_timms(images, repeats):
    """Which images a pass has and how often; timm's order comes from torch's generator."""
    oracle.timm()
    from timm.data.distributed_sampler import RepeatAugSampler

    ours = Repeats(grain.MapDataset.range(images).seed(0).shuffle(), repeats)
    theirs = list(RepeatAugSampler(range(images), num_replicas=1, rank=0, num_repeats=repeats))
    passes = [[ours[place + epoch * images] for place in range(images)] for epoch in range(2)]
    assert len(theirs) == images
    assert sorted(Counter(Counter(passes[0]).values()).items()) == sorted(Counter(Counter(theirs).values()).items())
    runs = [images_of.index(images_of[place]) for images_of in (passes[0], theirs) for place in range(images)]
    assert runs[:images] == runs[images:] == [place - place % repeats for place in range(images)]
    assert set(passes[0]) != set(passes[1])


def test_repeats_are_changed_differently(root):
    batch = next(stream(config(root, aug_repeats=3)))
    assert batch["index"].tolist() == np.repeat(batch["index"][::3], 3).tolist()
    assert len({image.tobytes() for image in batch["image"]}) == 12


def test_decoded_images_can_be_kept(root):
    kept, read = stream(config(root, cache=True)), stream(config(root))
    assert digest(kept, 10) == digest(read, 10)
    split = load(config(root, cache=True)).train
    split.read(3, np.random.default_rng(0))
    assert list(split.decoded) == [3]
    assert pickle.loads(pickle.dumps(split)).decoded == {}


@pytest.mark.parametrize("workers", [0, 1])
def test_test_batches_have_every_image_once_in_order(root, workers):
    data = config(root, workers=workers)
    split = load(data).test
    batches = list(batches_in_order(split, data, 10))
    assert [batch["valid"].sum() for batch in batches] == [10, 10, 3]
    assert all(batch["image"].shape == (10, 32, 32, 3) for batch in batches)
    valid = np.concatenate([batch["valid"] for batch in batches])
    assert np.concatenate([batch["index"] for batch in batches])[valid].tolist() == list(range(23))
    labels = np.concatenate([batch["label"] for batch in batches])[valid]
    assert labels.tolist() == split.source.labels().tolist()
    rng = np.random.default_rng(0)
    images = np.concatenate([batch["image"] for batch in batches])[valid]
    assert all(np.array_equal(image, split.read(index, rng)["image"]) for index, image in enumerate(images))


def damage(root, split, count):
    files = sorted((root / split).rglob("*.jpg"))[:count]
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    return {f"{file.parent.name}/{file.name}" for file in files}


def test_broken_training_images_are_replaced_and_reported(tmp_path):
    root = make_folder(tmp_path / "photos", train=5, val=1, size=32, classes=4)
    bad, report = damage(root, "train", 2), tmp_path / "broken.txt"
    data = config(root, batch_size=10, max_broken=0.1)
    dataset = load(data)
    batches = train_batches(dataset.train, data, 0, report=report)
    indices = np.concatenate([next(batches)["index"] for _ in range(4)])  # two passes
    keys = [dataset.train.source.key(index) for index in indices]
    assert set(keys) & bad == set()
    assert len(set(keys)) == 18
    lines = [line.split("\t") for line in report.read_text().splitlines()]
    assert {key for key, _ in lines} == bad
    assert len(lines) == 2
    assert all("cannot be decoded" in reason for _, reason in lines)
    again = train_batches(dataset.train, data, 0, 0, report)
    assert np.array_equal(np.concatenate([next(again)["index"] for _ in range(4)]), indices)
    assert len(report.read_text().splitlines()) == 2  # a continued run does not repeat itself


def test_too_many_broken_training_images_are_an_error(tmp_path):
    root = make_folder(tmp_path / "photos", train=5, val=1, size=32, classes=4)
    damage(root, "train", 3)
    data = config(root, batch_size=10, max_broken=0.1)
    batches = train_batches(load(data).train, data, 0, report=tmp_path / "broken.txt")
    with pytest.raises(
        ImageError, match=r"3 of 20 training images cannot be read: .*broken\.txt.*data\.max_broken=0\.1"
    ):
        digest(batches, 3)


def test_a_name_with_line_ends_is_one_line_of_the_report(tmp_path):
    names = ("a\nb.png", "a\rb.png", "a\u2028b.png", "a\tb.png", os.fsdecode(b"caf\xe9.png"))
    source = Files(tmp_path, names, np.zeros(len(names), np.int32), ("cat",))
    for _ in range(2):  # one that is there already is no new one
        broken = BrokenImages(source, "RGB", 1.0, tmp_path / "report.txt")
        for index in range(len(names)):
            broken.add(index)
    lines = (tmp_path / "report.txt").read_text("utf-8").splitlines()
    assert [line.partition("\t")[0] for line in lines] == [
        "a\\nb.png", "a\\rb.png", "a\\u2028b.png", "a\\tb.png", "caf\\udce9.png",
    ]  # fmt: skip
    with pytest.raises(ImageError) as error:
        BrokenImages(source, "RGB", 0.0, None).add(0)
    assert len(str(error.value).splitlines()) == 1


def test_a_missing_file_counts_as_broken(tmp_path):
    root = make_folder(tmp_path / "photos", train=5, val=1, size=32, classes=4)
    data = config(root, batch_size=10, max_broken=0.0)
    batches = train_batches(load(data).train, data, 0, report=tmp_path / "broken.txt")
    next(batches)
    next(iter(sorted((root / "train").rglob("*.jpg")))).unlink()
    with pytest.raises(ImageError, match="1 of 20 training images cannot be read"):
        digest(batches, 9)
    assert "No such file" in (tmp_path / "broken.txt").read_text()


def test_broken_test_images_are_an_error_with_a_list(tmp_path):
    root = make_folder(tmp_path / "photos", train=2, val=5, size=32, classes=4)
    bad = damage(root, "val", 3)
    data = config(root)
    with pytest.raises(ImageError, match="3 of 20 test images cannot be read") as caught:
        list(batches_in_order(load(data).test, data, 4))
    assert all(key in str(caught.value) for key in bad)


def wrong(image, rng):
    raise ZeroDivisionError("in a transform")


def test_a_failing_transform_is_an_error_that_names_the_image(root):
    import dataclasses

    split = dataclasses.replace(load(config(root)).train, transform=wrong)
    with pytest.raises(ZeroDivisionError, match="in a transform") as caught:
        next(train_batches(split, config(root), 0))
    assert caught.value.__notes__[0].endswith(".jpg.")
