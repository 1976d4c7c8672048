"""The classes for Ray, called with batches as Ray makes them."""

import io

import numpy as np
import pytest
from PIL import Image

import nfjax


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("batch")
    nfjax.save(nfjax.load("test_vit2", None, num_classes=7, depth=1, img_size=32), root / "model")
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (40, 60 - i, 3), np.uint8) for i in range(3)]
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(root / f"{i}.png")
    return root, arrays


def objects(values):
    column = np.empty(len(values), object)
    column[:] = values
    return column


def test_every_kind_of_column(photos):
    root, arrays = photos
    files = [root / f"{i}.png" for i in range(3)]
    model = nfjax.load(root / "model", num_classes=0)
    transform = nfjax.create_transform(model)
    pixels = np.stack([transform(Image.fromarray(array)) for array in arrays])
    expected = np.asarray(model(pixels))
    embed = nfjax.batch.Embedder(root / "model", batch_size=2)
    contents = [file.read_bytes() for file in files]
    for column in (
        {"image": objects(arrays)},
        {"bytes": objects(contents)},
        {"image": objects([{"bytes": data, "path": None} for data in contents])},
        {"path": np.array(list(map(str, files)))},
        {"pixels": pixels},
        nfjax.batch.Preprocessor(root / "model")({"path": np.array(list(map(str, files)))}),
    ):
        found = embed(column | {"id": np.arange(3)})
        assert list(found) == ["id", "embedding"]
        np.testing.assert_allclose(found["embedding"], expected, rtol=1e-5, atol=1e-6)
    assert embed({"pixels": pixels[:0]})["embedding"].shape == (0, expected.shape[1])
    unit = nfjax.batch.Embedder(root / "model", batch_size=2, normalize=True)({"pixels": pixels})["embedding"]
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)


def test_classes(photos):
    root, arrays = photos
    found = nfjax.batch.Classifier(root / "model", topk=3, batch_size=2)({"image": objects(arrays), "id": np.arange(3)})
    model = nfjax.load(root / "model")
    transform = nfjax.create_transform(model)
    logits = model(np.stack([transform(Image.fromarray(array)) for array in arrays]))
    best = nfjax.top_k(logits, 3, model)
    assert found["index"].tolist() == [[index for _, _, index in row] for row in best]
    assert found["name"].tolist() == [[name for name, _, _ in row] for row in best]
    np.testing.assert_allclose(found["probability"], [[p for _, p, _ in row] for row in best], rtol=1e-5)
    assert found["id"].tolist() == [0, 1, 2]


def test_images_that_cannot_be_read(photos):
    root, arrays = photos
    good = io.BytesIO()
    Image.fromarray(arrays[0]).save(good, "png")
    batch = {"bytes": objects([b"no image", good.getvalue()]), "id": np.arange(2)}
    with pytest.raises(ValueError, match=r"bytes of row 0 of a batch: .* on_error='drop' leaves such rows out"):
        nfjax.batch.Preprocessor(root / "model")(batch)
    dropped = nfjax.batch.Preprocessor(root / "model", on_error="drop")
    assert dropped(batch)["id"].tolist() == [1]
    assert dropped({"bytes": objects([b""]), "id": np.arange(1)})["pixels"].shape == (0, 32, 32, 3)
    with pytest.raises(ValueError, match="a batch has the columns id; expected pixels, image, "):
        dropped({"id": np.arange(2)})
    with pytest.raises(ValueError, match="on_error='skip'; expected 'raise' or 'drop'"):
        nfjax.batch.Preprocessor(root / "model", on_error="skip")
