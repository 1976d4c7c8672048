"""What `python -m train.evaluate` is made of: which classes are which, whose weights, the command line, pictures."""

import csv
import dataclasses
import io
import json
import re
import time

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import nfjax
from nfjax.labels import class_names, synsets
from nfjax.params import split
from nfjax.support.meter import Meter
from nfjax.weights.saving import hub_config
from train.checkpoints.manager import Checkpoints
from train.config import Checkpoint, Config, Data
from train.data import ArraySource, classes
from train.evaluate import main
from train.evaluation import models, real, report
from train.evaluation.options import parse
from train.evaluation.predictions import Predictions
from train.evaluation.run import _line
from train.evaluation.table import Table
from train.report.workdir import claim
from train.step import State


def network(num_classes, names=None):
    model = nfjax.models.registry.MODELS["test_nfnet"].build(num_classes=num_classes)
    model.data_config = dataclasses.replace(model.data_config, num_classes=num_classes, label_names=names)
    return model


ANIMALS = ("cat", "dog", "eel", "fox")


@pytest.mark.parametrize(
    ("of_data", "model", "expected"),
    [
        (("fox", "cat"), network(4, ANIMALS), [3, 0]),
        (("0", "1", "2"), network(4, ANIMALS), [0, 1, 2]),
        (("7", "3"), network(10, tuple(map(str, range(10)))), [7, 3]),
        (("a", "b", "c", "d"), network(4), [0, 1, 2, 3]),
        (synsets(1000)[::-1], network(1000), list(range(999, -1, -1))),
        (("tench, Tinca tinca",), network(1000), [0]),
        ((synsets(1000)[5],), network(1000, class_names(1000)), [5]),
        (synsets(1000)[:2], network(21843), [synsets(21843).index(name) for name in synsets(1000)[:2]]),
    ],
)
def test_classes_are_found_by_name(of_data, model, expected):
    assert classes.outputs(of_data, model).tolist() == expected


def test_classes_in_order():
    assert classes.outputs(("x", "y"), network(4, ANIMALS), in_order=True).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("of_data", "model", "message"),
    [
        (("fox", "cow"), network(4, ANIMALS), "1 of the data set's 2 classes .* cat, dog, eel, fox: cow.*class_map"),
        (("a", "b"), network(4), "2 classes, and test_nfnet.* 4 outputs without names.*class_map"),
        (tuple("01234"), network(4, ANIMALS), "5 classes, and test_nfnet.* only 4 outputs"),
        (("crane",), network(1000), "are not among"),  # two of ImageNet's classes are called so
        ((synsets(1000)[5],), network(1000, tuple(f"weed {i}" for i in range(1000))), "are not among"),
    ],
)
def test_classes_that_are_not_found(of_data, model, message):
    with pytest.raises(ValueError, match=message):
        classes.outputs(of_data, model)


def test_names_for_people():
    assert classes.display_names(("fox", "cat"), network(4, ANIMALS), np.array([3, 0])) == list(ANIMALS)
    assert classes.display_names(("fox", "cat"), network(3), np.array([2, 0])) == ["cat", "1", "fox"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on the digits with a checkpoint, and the model in it."""
    workdir = tmp_path_factory.mktemp("run")
    model = nfjax.load("test_nfnet", weights=None, num_classes=10, in_chans=1, img_size=16, seed=3)
    model.data_config = dataclasses.replace(model.data_config, mean=(0.5,), std=(0.5,), crop_pct=1.0)
    claim(workdir, dataclasses.asdict(Config(data=Data(image_size=16))))
    params = split(model)[1]
    others = {path: array + 1 for path, array in params.items()}
    with Checkpoints(workdir, Checkpoint()) as checkpoints:
        state = State(jax.numpy.int32(7), others, (), params, np.zeros(2, np.uint32), ())
        checkpoints.save(jax.device_put(state), {"model": hub_config(model)})
    return workdir, model


def test_a_run_is_evaluated_on_its_own_test_images(run, tmp_path):
    """By its newest checkpoint, the moving average; once there is one, by its final model."""
    workdir, model = run
    assert main(["--model", str(workdir), "--out", str(tmp_path / "a")]) == 0
    nfjax.save(model, workdir / "final")
    assert main(["--model", str(workdir), "--out", str(tmp_path / "a"), "--data.batch_size=64"]) == 0
    assert main(["--model", str(workdir / "final"), "--data", "digits", "--out", str(tmp_path / "b")]) == 0
    (first, second), (third,) = (
        list(csv.DictReader(io.StringIO((tmp_path / folder / "results.csv").read_text()))) for folder in "ab"
    )
    assert first["count"] == "360"
    for row in (second, third):
        names = row.keys() - {"model", "fingerprint"}
        assert {name: row[name] for name in names} == {name: first[name] for name in names}
    assert second["fingerprint"] == third["fingerprint"] != first["fingerprint"]
    files = [file.read_bytes() for file in tmp_path.glob("*/*/predictions.csv")]
    assert len(files) == 3
    assert len(set(files)) == 1


def test_what_a_model_is_told_apart_by(run, tmp_path):
    model = run[1]
    folder = nfjax.save(model, tmp_path / "model")
    with models.opened(f"local-dir:{folder}") as origin, models.opened(str(folder)) as same:
        assert origin == same
    before = origin.identity
    model.head.fc.bias.set_value(model.head.fc.bias[...] + 1)
    nfjax.save(model, folder)
    with models.opened(str(folder)) as changed:
        assert changed.identity != before
    with models.opened("test_nfnet", None) as fresh, models.opened("test_nfnet", str(folder)) as given:
        assert len({fresh.identity, given.identity, changed.identity}) == 3


def test_patterns():
    found = models.expand(["eca_nfnet_l*", "test_nfnet", "eca_nfnet_l0.ra2_in1k"])
    assert found == ["eca_nfnet_l0.ra2_in1k", "eca_nfnet_l1.ra2_in1k", "eca_nfnet_l2.ra3_in1k", "test_nfnet"]
    assert models.expand(["eca_nfnet_l[01]"], pretrained=False) == ["eca_nfnet_l0", "eca_nfnet_l1"]
    assert models.expand(["local-dir:a*b"]) == ["local-dir:a*b"]


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("tfds/imagenet2012", {"name": "tfds/imagenet2012"}),
        ("digits", {"name": "digits"}),
        ("table.csv", {"name": "manifest", "root": "table.csv"}),
    ],
)
def test_where_images_are(place, expected):
    assert parse(["--model", "a", "b", "--data", place])[1] == expected
    args, given = parse(["--model", "a", "--model", "b", f"--data={place}", "--data.mean=0.1,0.2,0.3"])
    assert args.model == ["a", "b"]
    assert given == expected | {"mean": (0.1, 0.2, 0.3)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle", "x"], "--model"),
        (["--model", "x", "--data.rot=y"], r"--data.rot=y: there is no such option. Did you mean --data.root"),
        (["--model", "x", "--data.test_size=big"], "--data.test_size=big: expected an integer, at least 1, or none"),
        (["--model", "x", "--data.batch_size=0"], "--data.batch_size=0: expected an integer, at least 1"),
        (
            ["--model", "test_nfnet", "--data", "nowhere"],
            "error: --data=nowhere: there is no such file or folder; expected a folder",
        ),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message.split("\\")[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which images? --data=DIR"),
        (["--data", "digits", "--data.val_split=exam"], "there is no split 'exam'; there is"),
        (["--data", "digits", "--real", "real.json"], "--real: there is no file real.json"),
    ],
)
def test_what_cannot_be_evaluated(arguments, message, tmp_path, capsys):
    assert main(["--model", "test_nfnet", "--weights=none", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_splits_to_evaluate_on(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    table = tmp_path / "table.csv"
    table.write_text("path,label,split\na.png,a,one\nb.png,b,two\n")
    assert main(["--model", "test_nfnet", "--data", str(table), "--out", str(tmp_path / "out")]) == 2
    assert "none of the splits one, two is for testing; name one as data.val_split" in capsys.readouterr().err


def test_files_that_are_no_reassessed_labels(tmp_path):
    file = tmp_path / "real.json"
    for text, message in (("{", "expected real.json"), ("[1]", "a list of lists"), ("[[1000]]", "from 0 to 999")):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            real.read_labels(file, [])
    file.write_text(json.dumps([[1], []]))
    keys = ["n01440764/ILSVRC2012_val_00000002.JPEG", "ILSVRC2012_val_00000001"]
    assert real.read_labels(file, keys) == [[], [1]]
    for key, message in (("cat.jpg", "not named like"), ("ILSVRC2012_val_00000003.JPEG", "images 1 to 2")):
        with pytest.raises(ValueError, match=message):
            real.read_labels(file, [key])


def test_a_table_with_other_columns(tmp_path):
    (tmp_path / "results.csv").write_text("model,top1\n")
    with pytest.raises(ValueError, match="has the columns model, top1; expected model, top1, top1_err"):
        Table(tmp_path / "results.csv")


@pytest.mark.parametrize("count", [3, 60])
def test_pictures_of_few_and_of_many_classes(count, tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, count, 200).astype(np.int32)
    found = np.stack([rng.permutation(count)[:3] for _ in labels]).astype(np.int32)
    predictions = Predictions(labels, np.ones(200, np.float32), found, np.full((200, 3), 0.3, np.float32))
    source = ArraySource(rng.integers(0, 255, (200, 8, 8, 3), np.uint8), labels, tuple(map(str, range(count))))
    report.write(tmp_path, predictions, [f"$class_{i}, or so" for i in range(count)], source)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["classes.csv", "confusion.png", "mistakes.png"]
    pairs = report.confusions(predictions)
    assert sum(times for *_, times in pairs) == 200 - predictions.hits(1).sum()
    assert all(((labels == a) & (found[:, 0] == b)).sum() == times and a != b for a, b, times in pairs)
    assert [times for *_, times in pairs] == sorted((times for *_, times in pairs), reverse=True)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal):
    now = 0.0
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with Meter("net", 1000, 100, model="net", console=console, clock=lambda: now) as meter:
        for _ in range(5):
            now += 6.0
            meter.advance(60)
        assert meter.images_per_second == pytest.approx(10)
        if meter._bar is not None:
            meter._bar.refresh()
    text = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", console.file.getvalue())
    last = "400/1000 10 images/s ETA 0:01:00" if terminal else "net: 340/1000 10 images/s ETA 0:01:06"
    assert last in " ".join(text.split())
    assert ("net: 220/1000 10 images/s ETA 0:01:18\n" in text) != terminal


def test_what_is_about_to_happen_is_said_before_the_first_batch(monkeypatch):
    """Where there is no terminal: a line at once, and then one now and again."""
    monkeypatch.setattr("nfjax.support.meter.LINES", 0.02)
    console = Console(file=io.StringIO(), force_terminal=False)
    with Meter("net", 360, model="test_vit", console=console) as meter:
        for _ in range(500):
            if console.file.getvalue().count("\n") > 2:
                break
            time.sleep(0.01)
        meter.advance(1)
        said = console.file.getvalue()
        time.sleep(0.06)
        assert console.file.getvalue() == said
    first, *others = said.splitlines()
    assert re.fullmatch(r"running test_vit over 360 images on \d+ cpu devices?; compiling", first)
    assert others == ["still compiling, 0:00:00"] * len(others) != []


def test_top5_of_few_classes_is_not_told():
    result = {"model": "a", "top1": 50.0, "top1_count": 1, "count": 2, "top5": 100.0, "top5_count": 2, "loss": 1.0}
    result |= {"img_size": 8, "crop_pct": 1.0, "interpolation": "bicubic", "dtype": "float32"}
    assert "top-5" not in _line(result, None, classes=5)
    assert "top-5 100.000 % (2)" in _line(result, None, classes=6)
