"""How often images are taken: by class, by weights, and at most so many; all pure in the seed and the step."""

import pickle

import numpy as np
import pytest

from tests.helpers.photos import make_folder
from train.config import Data
from train.data import ArraySource, load_dataset, train_batches
from train.data.sampling import Weighted, at_most, chances
from train.data.sources.base import Weighed
from train.data.sources.chance import stratify
from train.data.sources.manifest import open_manifest

SIZES = (4, 16, 180)  # of the classes


@pytest.fixture(scope="module")
def source():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(SIZES)), SIZES))
    return ArraySource(np.zeros((len(labels), 2, 2, 3), np.uint8), labels, ("a", "b", "c"))


def drawn(source, passes=6, seed=0, **options):
    order = Weighted(chances(source, Data(**options)), seed)
    return np.array([order[i] for i in range(passes * len(source))]).reshape(passes, -1)


@pytest.mark.parametrize("balance", [1.0, 0.5])
def test_classes_come_as_often_as_they_should(source, balance):
    labels = source.labels()[drawn(source, balance=balance)]
    share = np.power(np.array(SIZES, float), 1 - balance)
    expected = len(source) * share / share.sum()
    for one in labels:  # each image is rounded up or down, of the pass that it is worth
        assert np.abs(np.bincount(one, minlength=3) - expected).max() <= 2 * np.sqrt(len(source))
    np.testing.assert_allclose(np.bincount(labels.ravel()) / 6, expected, rtol=0.1)
    counts = np.bincount(drawn(source, passes=1, balance=balance)[0], minlength=len(source))
    worth = chances(source, Data(balance=balance)) * len(source)
    assert np.all((counts >= np.floor(worth)) & (counts <= np.ceil(worth)))


def test_weights_are_those_of_the_images(source):
    weights = np.arange(len(source)) % 3
    found = drawn(Weighed(source, weights), passes=1)[0]
    counts = np.bincount(found, minlength=len(source))
    assert not counts[weights == 0].any()
    assert counts.sum() == len(source)
    assert np.all(np.abs(counts - weights) <= 1)
    even = drawn(Weighed(source, np.full(len(source), 7.0)), passes=1)[0]
    assert sorted(even) == list(range(len(source)))
    assert Weighed(source, weights).fingerprint() != source.fingerprint()


def test_passes_follow_from_the_seed_and_their_number(source):
    first = drawn(source, balance=1.0)
    again = pickle.loads(pickle.dumps(Weighted(chances(source, Data(balance=1.0)), 0)))
    backwards = [again[i] for i in reversed(range(first.size))]  # as where a run is resumed, or read by several
    assert backwards[::-1] == first.ravel().tolist()
    assert np.any(first[0] != first[1])
    assert np.any(first[0] != drawn(source, seed=1, passes=1, balance=1.0)[0])


def test_at_most_so_many_of_each_class(source):
    some = at_most(source, 10)
    assert np.bincount(some.labels()).tolist() == [4, 10, 10]
    assert at_most(source, 1000) is source
    train, test = stratify(source, 0.25)
    assert {train.key(i) for i in range(len(train))}.isdisjoint(test.key(i) for i in range(len(test)))
    kept = at_most(train, 3)
    assert {kept.key(i) for i in range(len(kept))} <= {train.key(i) for i in range(len(train))}


def test_a_run_resumes_with_them_and_a_table_has_weights(tmp_path):
    root = make_folder(tmp_path / "photos", train=4, val=1, size=16, classes=2)
    files = sorted((root / "train").rglob("*.jpg"))
    rows = [f"{file},{file.parent.name},{number % 2}" for number, file in enumerate(files)]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,often", *rows]))
    data = Data("manifest", str(tmp_path / "table.csv"), image_size=16, batch_size=4, weight_key="often", balance=1.0)
    train = load_dataset(data).train
    batches = train_batches(train, data, seed=3)
    whole = [next(batches)["index"].tolist() for _ in range(5)]
    later = train_batches(train, data, seed=3, start_step=3)
    assert [next(later)["index"].tolist() for _ in range(2)] == whole[3:]
    batches.close(), later.close()
    keys = {train.source.key(int(index)) for index in np.ravel(whole)}
    assert keys <= {str(file) for file in files[1::2]}  # the others have the weight 0

    (tmp_path / "table.csv").write_text("\n".join(["path,label,often", rows[0].rsplit(",", 1)[0] + ",-1"]))
    with pytest.raises(ValueError, match=r"row 1 of often: found '-1', expected a weight"):
        open_manifest(tmp_path / "table.csv", weight_key="often")
    with pytest.raises(ValueError, match=r"data\.weight_key=often is a column of a table"):
        load_dataset(Data("folder", str(root), image_size=16, weight_key="often"))
