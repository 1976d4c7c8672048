"""`nfjax.classify`, and images as people give them: files, addresses, arrays, standard input."""

import argparse
import io
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import nfjax
from nfjax.__main__ import main
from nfjax.cli.classify import _topk
from nfjax.images import ImageError
from nfjax.tasks import classifying, given
from tests.helpers import web


@pytest.fixture(scope="module")
def model():
    return nfjax.load("test_nfnet", weights=None)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    return nfjax.save(model, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A photo in a file, its pixels, and the bytes of the file."""
    path = tmp_path_factory.mktemp("photos") / "a photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return SimpleNamespace(path=path, pixels=pixels, data=path.read_bytes())


@pytest.fixture(scope="module")
def server(photo):
    pages = {
        "/a%20photo.png": photo.data,
        "/moved.png": web.to("/a%20photo.png"),
        "/file": web.to("file:///etc/passwd"),
        "/page": b"<!DOCTYPE html> no picture",
        "/large": bytes(3000),
        "/slow": web.drop_by_drop,
    }
    found = web.Web(pages)
    yield found
    found.stop()


def test_every_way_to_give_an_image_is_the_same_image(model, saved, photo, server):
    x = nfjax.create_transform(model)(Image.open(photo.path))[None]
    ((best, *_),) = nfjax.top_k(nfjax.compile(model, x)(x), 3, model)
    ways = [photo.path, str(photo.path), Image.open(photo.path), photo.pixels, jnp.asarray(photo.pixels)]
    ways += [io.BytesIO(photo.data), np.dstack([photo.pixels, photo.pixels[..., :1]])]
    ways += [f"{server.url}/a photo.png", f"{server.url}/moved.png"]
    found = nfjax.classify(ways, saved, topk=3)
    assert [len(each) for each in found] == [3] * len(ways)
    assert all(each == found[0] for each in found)
    name, probability, index = found[0][0]
    assert (name, index) == (best[0], best[2])
    assert probability == pytest.approx(best[1], rel=1e-4)
    one = nfjax.classify(photo.path, model=model)
    assert len(one) == 5
    assert one[0][2] == index
    assert nfjax.classify([], model) == []


def test_what_was_compiled_is_kept_until_the_model_changes(photo, tmp_path, monkeypatch):
    compiled = []
    real = classifying.compile
    monkeypatch.setattr(classifying, "compile", lambda model, x: compiled.append(x.shape) or real(model, x))
    model = nfjax.load("test_nfnet", weights=None, num_classes=2)
    before = nfjax.classify(photo.pixels, model)
    assert nfjax.classify(photo.pixels, model) == before
    assert len(compiled) == 1
    bias = model.head.fc.bias
    bias.set_value(bias.get_value() + jnp.array([0.0, 3.0]))
    changed = nfjax.classify(photo.pixels, model)
    assert len(compiled) == 2
    ones = [next(probability for _, probability, index in best if index == 1) for best in (before, changed)]
    assert ones[0] < ones[1]
    nfjax.save(model, tmp_path / "m")
    by_name = [nfjax.classify(photo.pixels, tmp_path / "m") for _ in range(2)]
    assert by_name == [changed, changed]
    assert len(compiled) == 3
    bias.set_value(bias.get_value() * 0)
    nfjax.save(model, tmp_path / "m")  # another model at the same place
    assert nfjax.classify(photo.pixels, tmp_path / "m") == nfjax.classify(photo.pixels, model) != changed


@pytest.mark.parametrize(
    ("image", "error", "said"),
    [
        ("nowhere.png", FileNotFoundError, "there is no file nowhere.png"),
        ("http://127.0.0.1:1/a.png", ConnectionError, "http://127.0.0.1:1/a.png cannot be fetched: .*refused"),
        ("URL/none.png", ConnectionError, "/none.png cannot be fetched: 404 Not Found"),
        ("URL/file", ConnectionError, "/file cannot be fetched: .*file"),
        ("URL/page", ImageError, "/page is not an image that Pillow can read: it begins with b'<!DOCTYPE html"),
        ("URL/large", ImageError, "/large: it has more than 2 kB"),
        ("URL/slow", ConnectionError, "/slow was not there within 0.3 seconds"),
        ("http://exa mple:x/a", ConnectionError, "cannot be fetched"),
        ("file:///etc/passwd", ImageError, "/etc/passwd is not an image that Pillow can read"),
        ("ftp://x/a.png", ValueError, "addresses are http://, https://, s3://"),
        (b"\x89PNG", ImageError, "wrap contents as io.BytesIO"),
        (3, ImageError, "found int, expected an image: a path"),
        (np.zeros((4, 4, 3)), ImageError, r"shape \(4, 4, 3\) and float64, expected uint8"),
        (np.zeros((2, 4, 4, 3), np.uint8), ImageError, r"Several images are a list"),
        (np.zeros((0, 4, 3), np.uint8), ImageError, "4x0 pixels"),
    ],
)
def test_a_mistake_is_one_sentence(image, error, said, model, server, monkeypatch):
    monkeypatch.setattr(given, "TIME", 0.3)
    monkeypatch.setattr(given, "MAX_BYTES", 2000)
    image = image.replace("URL", server.url) if isinstance(image, str) else image
    with pytest.raises(error, match=said) as caught:
        nfjax.classify(image, model)
    assert len(str(caught.value).splitlines()) == 1


def test_models_without_classes_are_refused(photo):
    headless = nfjax.load("test_nfnet", weights=None, num_classes=0)
    with pytest.raises(ValueError, match="has no classifier"):
        nfjax.classify(photo.path, headless)
    with pytest.raises(ValueError, match="mine has no classifier"):
        _topk(argparse.Namespace(model="mine", topk=None), headless)
    with pytest.raises(ValueError, match="model=3; expected a model"):
        nfjax.classify(photo.path, 3)
    with pytest.raises(ValueError, match="topk=0"):
        nfjax.classify(photo.path, topk=0)


def test_commands_take_addresses_and_standard_input(saved, photo, server, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    model = ["--model", str(saved)]
    url = f"{server.url}/a%20photo.png"

    def piped():
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(photo.data), isatty=lambda: False))

    piped()
    places = ["-", url, str(photo.path), f"{server.url}/none.png"]
    assert (
        main(["classify", *places, *model, "--topk=1", "-o", f"{tmp_path}/x.csv", "--plot", f"{tmp_path}/x.png"]) == 1
    )
    assert f"skipped {server.url}/none.png: {server.url}/none.png cannot be fetched: 404" in capsys.readouterr().err
    rows = [line.split(",", 1) for line in (tmp_path / "x.csv").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == places[:3]
    assert len({row[1] for row in rows}) == 1
    assert (tmp_path / "x.png").is_file()
    piped()
    assert main(["embed", *places[:3], *model, "-o", f"{tmp_path}/e.csv"]) == 0
    assert main(["embed", str(photo.path), *model, "-o", f"{tmp_path}/e.npz"]) == 0
    head, *lines = (tmp_path / "e.csv").read_text().splitlines()
    assert head.startswith("file,e0,e1,")
    with np.load(tmp_path / "e.npz") as npz:
        (expected,) = npz["embeddings"]
    for line, place in zip(lines, places, strict=False):
        name, *numbers = line.split(",")
        assert name == place
        assert np.allclose(np.array(numbers, np.float32), expected, rtol=1e-5, atol=1e-6)
    for place in ("-", url):
        piped()
        assert main(["features", place, *model, "-o", f"{tmp_path}/f.png"]) == 0
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    capsys.readouterr()
    assert main(["features", "-", *model, "-o", f"{tmp_path}/f.png"]) == 2
    assert "nothing is piped into it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["features", "ftp://x/y.png"])
    assert main(["classify", "ftp://x/y.png"]) == 2
    assert capsys.readouterr().err.count("ftp://x/y.png: addresses are http://, https://, s3://, gs:// or file://") == 2
