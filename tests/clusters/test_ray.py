"""`nfjax.batch` in a real Ray of this machine, with two actors: the numbers of one process. `pytest -m slow`."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nfjax

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")
pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster():
    cache = os.environ.get("NFJAX_TEST_CACHE", "")
    variables = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)} | ({"NFJAX_CACHE": cache} if cache else {})
    # Four actors hold a CPU each; what reads needs one too, or all wait without end.
    ray.init(num_cpus=6, include_dashboard=False, object_store_memory=200 << 20, runtime_env={"env_vars": variables})
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("ray")
    nfjax.save(nfjax.load("test_vit2", None, num_classes=7, img_size=32), root / "model")
    rng = np.random.default_rng(0)
    (root / "photos").mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(root / "photos" / f"{i:02}.png")
    names = sorted(str(file) for file in (root / "photos").iterdir())
    table = pyarrow.table({"bytes": [Path(name).read_bytes() for name in names], "id": list(range(40))})
    parquet.write_table(table, root / "photos.parquet")
    return root, names


@pytest.mark.filterwarnings("ignore")
def test_the_numbers_of_one_process(cluster, photos):

    root, names = photos
    alone = nfjax.batch.Embedder(root / "model", batch_size=4)({"path": np.array(names)})["embedding"]
    options = {"batch_size": 4, "concurrency": 2, "num_cpus": 1}
    model = {"model": str(root / "model"), "batch_size": 4}
    rows = ray.data.read_parquet(str(root / "photos.parquet"), override_num_blocks=4)
    found = rows.map_batches(nfjax.batch.Embedder, fn_constructor_kwargs=model, **options).take_all()
    by_id = {row["id"]: row["embedding"] for row in found}
    assert sorted(by_id) == list(range(40))
    assert all(np.array_equal(by_id[i], alone[i]) for i in range(40))
    images = ray.data.read_images(str(root / "photos"), include_paths=True, override_num_blocks=4)
    prepared = images.map_batches(nfjax.batch.Preprocessor, fn_constructor_args=[str(root / "model")], **options)
    found = prepared.map_batches(
        nfjax.batch.Classifier, fn_constructor_kwargs=model | {"topk": 2}, **options
    ).take_all()
    alone = nfjax.batch.Classifier(root / "model", batch_size=4, topk=2)(
        {"path": np.array(names), "id": np.array(names)}
    )
    by_name = {row["path"]: row for row in found}
    for i, name in enumerate(names):
        assert np.array_equal(by_name[name]["index"], alone["index"][i])
        assert np.array_equal(by_name[name]["probability"], alone["probability"][i])
