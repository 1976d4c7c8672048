"""`nfjax probe`: what it counts, what it keeps, and the model that it saves."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import nfjax
from nfjax.__main__ import main
from tests.helpers.photos import make_folder
from train.probing.fit import Images, Neighbours, choose, fit_linear, log_probabilities


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(
        tmp_path_factory.mktemp("photos"), train=6, val=3, size=40, classes=("flower", "hubble", "brick")
    )


@pytest.mark.parametrize("family", ["nfnet", "vit2"])
def test_probe(family, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NFJAX_CACHE", str(tmp_path / "cache"))
    backbone = nfjax.load(f"test_{family}", weights=None, img_size=64)
    nfjax.save(backbone, tmp_path / "backbone")
    out, saved = tmp_path / "out", tmp_path / "saved"
    command = [
        "probe",
        "--data",
        str(photos),
        "--model",
        str(tmp_path / "backbone"),
        "--img-size",
        "64",
        "-o",
        str(out),
    ]
    assert main([*command, "--save", str(saved)]) == 0
    told = capsys.readouterr().out
    assert "18 training images, 9 test images, 3 classes" in told
    assert "(0 from the cache)" in told
    results = json.loads((out / "results.json").read_text())
    assert results["linear"]["top1_count"] >= 7
    assert f"top-1 {results['linear']['top1']:.2f} % ({results['linear']['top1_count']} of 9)" in told
    assert {"results.json", "confusion.png", "classes.csv", "neighbours.png"} <= {f.name for f in out.iterdir()}

    # What was saved says what was counted.
    assert nfjax.load(saved).data_config.label_names == ("brick", "flower", "hubble")
    paths = sorted((photos / "val").glob("*/*.jpg"))
    best = [found[0][0] for found in nfjax.classify(paths, saved)]
    assert (
        sum(name == path.parent.name for name, path in zip(best, paths, strict=True)) == results["linear"]["top1_count"]
    )

    # Embedded once, and again where files have moved.
    (photos / "train" / "brick" / "0000.jpg").rename(photos / "train" / "brick" / "moved.jpg")
    assert main(command) == 0
    assert "(27 from the cache)" in capsys.readouterr().out
    (photos / "train" / "brick" / "moved.jpg").rename(photos / "train" / "brick" / "0000.jpg")


def test_classifiers_equal_their_formulas():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 5)) * 3
    labels = np.arange(60) % 3
    train = Images((centres[labels] + rng.normal(size=(60, 5))).astype(np.float32), labels)
    linear = fit_linear(train, 4, 0.1)
    assert linear.logits(train.vectors)[:, 3].max() < -50  # a class without images is never found

    # The gradient of the regularised loss is 0 at the solution.
    x = (train.vectors - train.vectors.mean(0)) / train.vectors.std(0)

    def loss(weights):
        logs = jax.nn.log_softmax(x @ weights[:5] + weights[5])
        return -logs[np.arange(60), labels].sum() * 0.1 + 0.5 * (weights[:5] ** 2).sum()

    kernel = linear.kernel[:, :3] * train.vectors.std(0)[:, None]
    bias = linear.bias[:3] + train.vectors.mean(0) @ linear.kernel[:, :3]
    assert np.abs(jax.grad(loss)(np.vstack([kernel, bias]))).max() < 1e-2

    two = Images(train.vectors[labels < 2], labels[labels < 2])
    logs = log_probabilities(fit_linear(two, 2, 1.0).logits(two.vectors))
    assert (logs.argmax(1) == two.labels).mean() > 0.9
    nearest = Neighbours(train, 3, 1)
    assert (nearest.logits(train.vectors).argmax(1) == labels).all()  # each is its own neighbour
    held = labels != labels  # nothing to choose on
    assert choose(train, held, 3)[0].k == 5
    with pytest.raises(ValueError, match="of 1 class; a classifier needs two"):
        fit_linear(train.of(labels == 0), 3, 1.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "which images? --data=DIR names a folder"),
        (["--data", "nowhere"], "nowhere: there is no such file or folder"),
        (["--data", "digits", "--model", "test_nfmet"], "did you mean test_nfnet"),
        (["--data", "digits", "--data.val_share=x"], "--data.val_share=x: expected"),
        (["--data", "digits", "-o", "FILE"], "is a file; expected a folder"),
    ],
)
def test_mistakes(arguments, said, tmp_path, capsys):
    (tmp_path / "file").touch()
    try:
        status = main(["probe", *(a.replace("FILE", str(tmp_path / "file")) for a in arguments)])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert said in capsys.readouterr().err


def test_one_class_is_told_before_anything_is_embedded(tmp_path, capsys):
    for number in range(5):
        path = tmp_path / "photos" / "cat" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    command = ["probe", "--data", str(tmp_path / "photos"), "--model", "test_vit2", "--weights", "none"]
    assert main([*command, "-o", str(tmp_path / "out")]) == 2
    found = capsys.readouterr()
    assert found.err == "error: the training images are of 1 class; a classifier needs two.\n"
    assert found.out == ""
