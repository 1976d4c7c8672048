"""`nfjax similar`, and embeddings that are kept."""

import numpy as np
import pytest
from PIL import Image

import nfjax
from nfjax.__main__ import main
from nfjax.tasks import embeddings


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return nfjax.save(nfjax.load("test_nfnet", weights=None), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Four images, the last two almost the same, and one that is none."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(3):
        colour = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(colour).resize((64, 64)).save(root / f"{i}.png")
    with Image.open(root / "2.png") as image:
        image.save(root / "again.jpg", quality=95)
    (root / "broken.png").write_bytes(b"no picture")
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NFJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def similar(capsys, *arguments):
    status = main(["similar", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_nearest_and_pairs(saved, photos, cache, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    model = ["--model", saved, "--img-size", 64]
    sheet = tmp_path / "sheet.png"
    status, out, err = similar(capsys, photos / "2.png", "--among", photos, *model, "--topk", 2, "-o", sheet)
    assert status == 1  # one is broken
    assert "broken.png is not an image" in err
    assert "5 images, 0 of them embedded before" in err
    head, first, _second = out.splitlines()
    assert head.split() == ["image", "similarity"]
    assert first.split()[0] == str(photos / "again.jpg")
    assert float(first.split()[1]) > 0.99
    assert sheet.is_file()
    (kept,) = (cache / "embeddings").glob("*/*.npz")

    status, out, err = similar(capsys, "--among", photos, *model, "--threshold", 0.9999, "-o", tmp_path / "pairs.png")
    assert "4 images, 4 of them embedded before" in err
    for line in out.splitlines()[1:]:
        one, other, cosine = line.split()
        assert {one, other} == {str(photos / "2.png"), str(photos / "again.jpg")}
        assert float(cosine) >= 0.9999
    other = nfjax.save(nfjax.load("test_nfnet", weights=None, seed=1), tmp_path / "other")
    _, _, err = similar(capsys, "--among", photos, "--model", other, "--img-size", 64, "--threshold", 1)
    assert "4 images, 0 of them embedded before" in err  # another model
    kept.write_bytes(b"damaged")
    _, _, err = similar(capsys, "--among", photos, *model, "--threshold", 1)
    assert "4 images, 0 of them embedded before" in err


def test_embeddings_are_those_of_the_model_in_any_order(saved, photos):
    model = nfjax.load(saved, num_classes=0)
    transform = nfjax.create_transform(model, img_size=64)
    files = [photos / name for name in ("2.png", "0.png", "broken.png", "2.png", "1.png")]
    read = lambda index: files[index].read_bytes()  # noqa: E731
    found = embeddings.embed(model, transform, list(map(str, files)), read, batch_size=2)
    assert (found.rows.tolist(), found.known) == ([0, 1, 3, 4], 0)
    (failed,) = found.failed
    assert failed[0] == str(files[2])
    again = embeddings.embed(model, transform, list(map(str, files[::-1])), lambda i: read(4 - i))
    assert again.known == 4
    np.testing.assert_array_equal(again.vectors, found.vectors[::-1])
    x = transform.batch([files[1]])
    np.testing.assert_allclose(found.vectors[1], nfjax.compile(model, x)(x)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="num_classes=0"):
        embeddings.embed(nfjax.load(saved), transform, [], read)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--among", "PHOTOS"], "similar to what? Give an IMAGE, or --threshold"),
        (["--among", "PHOTOS", "--threshold", "2"], "a cosine is from -1 to 1"),
        (["PHOTOS/0.png", "--among", "nowhere"], "nowhere is no file, folder or pattern"),
        (["PHOTOS/0.png", "--among", "PHOTOS", "--topk", "0"], "--topk=0"),
        (["PHOTOS/broken.png", "--among", "PHOTOS/0.png", "--img-size", "64"], "broken.png is not an image"),
    ],
)
def test_what_is_wrong_is_said(arguments, said, saved, photos, capsys):
    status, _, err = similar(capsys, *(a.replace("PHOTOS", str(photos)) for a in arguments), "--model", saved)
    assert status == 2
    assert said in err
