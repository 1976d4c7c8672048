"""`python -m train.evaluate`: counts on any number of devices, interrupted calls, several models, classes, failures."""

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import nfjax
from nfjax.labels import class_names, synsets
from tests.helpers.photos import make_folder
from train.evaluate import main
from train.evaluation import predictions as stored
from train.evaluation.table import Table
from train.machine.mesh import AXES

ROOT = Path(__file__).parents[3]
RESULTS, PREDICTIONS = "results.csv", "predictions.csv"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """40 photographs: batches of 6 do not divide them."""
    return make_folder(tmp_path_factory.mktemp("photos"), train=1, val=5, size=40)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small network for eight classes without names."""
    return str(nfjax.save(nfjax.load("test_nfnet", weights=None, num_classes=8), tmp_path_factory.mktemp("model")))


def options(model, photos, out, *more):
    size = ["--data.test_size=64", "--data.batch_size=6"]
    return ["--model", model, "--data", str(photos), "--out", str(out), *size, *more]


def rows(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def predictions(out):
    (file,) = out.glob(f"*/{PREDICTIONS}")
    return rows(file)


@pytest.fixture(scope="module")
def evaluated(model, photos, tmp_path_factory):
    """What an evaluation that nobody interrupts writes, on the two devices of the tests."""
    out = tmp_path_factory.mktemp("evaluated")
    assert main(options(model, photos, out)) == 0
    return out


def test_what_is_written(evaluated, photos):
    (row,) = rows(evaluated / RESULTS)
    found = predictions(evaluated)
    assert len(found) == len({row["key"] for row in found}) == 40  # six batches of 6, and one of 4 that is padded
    assert {row["key"] for row in found} == {str(p.relative_to(photos / "val")) for p in photos.glob("val/*/*.jpg")}
    names = sorted(p.name for p in (photos / "val").iterdir())
    assert all(names[int(row["label"])] == row["key"].partition("/")[0] for row in found)
    top1 = [row["class_1"] == row["label"] for row in found]
    top5 = [row["label"] in [row[f"class_{place}"] for place in range(1, 6)] for row in found]
    assert (int(row["count"]), int(row["top1_count"]), int(row["top5_count"])) == (40, sum(top1), sum(top5))
    assert (float(row["top1"]), float(row["top1_err"])) == (sum(top1) * 2.5, 100 - sum(top1) * 2.5)
    assert float(row["loss"]) == pytest.approx(np.mean([float(row["loss"]) for row in found]), abs=1e-6)
    assert [*row][:9] == [
        "model", "top1", "top1_err", "top5", "top5_err", "param_count", "img_size", "crop_pct", "interpolation",
    ]  # fmt: skip
    (folder,) = evaluated.glob("*/")
    classes = rows(folder / "classes.csv")
    assert [row["name"] for row in classes] == names
    assert [int(row["images"]) for row in classes] == [5] * 8
    assert sum(int(row["top1_count"]) for row in classes) == sum(top1)
    assert all(int(row["times"]) <= 5 - int(row["top1_count"]) for row in classes)
    for picture in ("confusion.png", "mistakes.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_one_device_and_another_batch_size_count_the_same(evaluated, model, photos, tmp_path, monkeypatch):
    one = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), AXES)
    monkeypatch.setattr("train.evaluation.run.make_mesh", lambda mesh: one)
    assert main(options(model, photos, tmp_path, "--data.batch_size=64")) == 0
    same(tmp_path, evaluated)


def same(out, evaluated):
    """All counts equal, and the numbers of each image as close as other batches let them be."""
    (ours,), (theirs,) = rows(out / RESULTS), rows(evaluated / RESULTS)
    assert float(ours.pop("loss")) == pytest.approx(float(theirs.pop("loss")), abs=2e-6)
    assert ours == theirs
    for mine, other in zip(predictions(out), predictions(evaluated), strict=True):
        exact = [name for name in mine if name in ("key", "label") or name.startswith("class")]
        assert [mine[name] for name in exact] == [other[name] for name in exact]
        others = [name for name in mine if name not in exact]
        np.testing.assert_allclose([float(mine[n]) for n in others], [float(other[n]) for n in others], atol=1e-5)


def test_two_processes_count_the_same(evaluated, model, photos, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    together = [f"--coordinator={address}", "--num_processes=2"]
    processes = [
        start(["-m", "train.evaluate", *options(model, photos, tmp_path, *together, f"--process_id={i}")], devices=1)
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert re.search(r"top-1 .* of 40\)", outputs[0][0])
    assert "top-1" not in outputs[1][0]
    same(tmp_path, evaluated)


def start(arguments, devices):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    command = [sys.executable, *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


KILLED = """
import os, signal, sys
from train.evaluate import main
from train.evaluation.predictions import PredictionsFile

append = PredictionsFile.append

def kill(file, predictions, start):
    append(file, predictions, start)
    if start == 12:  # in the middle of writing a row
        with file._path.open("r+b") as stream:
            stream.truncate(file._path.stat().st_size - 20)
        os.kill(os.getpid(), signal.SIGKILL)

PredictionsFile.append = kill
main(sys.argv[1:])
"""


def test_a_killed_evaluation_goes_on(evaluated, model, photos, tmp_path, capsys):
    process = start(["-c", KILLED, *options(model, photos, tmp_path)], devices=2)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / RESULTS).exists()
    assert main(options(model, photos, tmp_path)) == 0
    assert "going on after 12 of 40 images" in capsys.readouterr().out
    names = sorted(str(path.relative_to(evaluated)) for path in evaluated.rglob("*") if path.is_file())
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (evaluated / name).read_bytes(), name


def test_predictions_of_other_images_are_not_gone_on_with(tmp_path):
    file = stored.PredictionsFile(tmp_path / PREDICTIONS, "abcdef".__getitem__, 2)
    part = stored.Predictions(
        np.array([1, 0], np.int32),
        np.array([0.1, 1 / 3], np.float32),
        np.array([[1, 0], [1, 0]], np.int32),
        np.array([[0.7, 0.3], [2 / 3, 1 / 3]], np.float32),
    )
    assert len(file.restore(6, 2)) == 0
    file.append(part, 0)
    file.append(part, 2)
    restored = file.restore(6, 2)
    for name in ("label", "loss", "classes", "probabilities"):
        array, expected = getattr(restored, name), np.concatenate([getattr(part, name)] * 2)
        assert array.dtype == expected.dtype
        assert np.array_equal(array, expected), name
    assert len(stored.PredictionsFile(tmp_path / PREDICTIONS, "abcdef".__getitem__, 2).restore(6, 3)) == 3
    assert len(stored.PredictionsFile(tmp_path / PREDICTIONS, "abXdef".__getitem__, 2).restore(6, 1)) == 2
    assert len(stored.PredictionsFile(tmp_path / PREDICTIONS, "abXdef".__getitem__, 2).restore(6, 1)) == 2
    assert len(stored.PredictionsFile(tmp_path / PREDICTIONS, "ab".__getitem__, 2).restore(2, 6)) == 2
    assert len(stored.PredictionsFile(tmp_path / PREDICTIONS, "ab".__getitem__, 1).restore(2, 1)) == 0


def test_a_name_with_line_ends_is_one_row(tmp_path):
    file = stored.PredictionsFile(tmp_path / PREDICTIONS, ["a\rb", "c\nd", "e\u2028f"].__getitem__, 1)
    part = stored.Predictions(np.zeros(3, "i4"), np.zeros(3, "f4"), np.zeros((3, 1), "i4"), np.ones((3, 1), "f4"))
    file.restore(3, 1)
    file.append(part, 0)
    assert len((tmp_path / PREDICTIONS).read_text().splitlines()) == 4
    assert len(file.restore(3, 1)) == 3


PART = stored.Predictions(
    np.arange(3, dtype="i4"), np.full(3, 0.25, "f4"), np.full((3, 1), 2, "i4"), np.full((3, 1), 0.5, "f4")
)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.replace(b"0.25", b"0.15"),
        lambda content: content.replace(b"b,1", b"b,2"),
        lambda content: content.replace(b",class_1", b""),
        lambda content: bytes(range(256)) * 10,
        lambda content: b"\0" * len(content),
    ],
)
def test_altered_predictions_are_refused(damage, tmp_path):
    file = stored.PredictionsFile(tmp_path / PREDICTIONS, "abcdef".__getitem__, 1)
    file.restore(6, 3)
    file.append(PART, 0)
    content = (tmp_path / PREDICTIONS).read_bytes()
    (tmp_path / PREDICTIONS).write_bytes(damage(content))
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"^{tmp_path}/{PREDICTIONS} is not what was written.*evaluated anew\.$"):
            stored.PredictionsFile(tmp_path / PREDICTIONS, "abcdef".__getitem__, 1).restore(6, 3)
    (tmp_path / PREDICTIONS).write_bytes(content)
    assert len(file.restore(6, 3)) == 3
    (tmp_path / "predictions.seal").unlink()
    with pytest.raises(ValueError, match="is not what was written"):
        file.restore(6, 3)


@pytest.mark.parametrize(
    "row",
    [b"a,0,0.2x,2,0.5\n", b"a,0,0.25,1e400,0.5\n", b"a,0,1e39,2,0.5\n", b"\xff,0,0.25,2,0.5\n", b'"' + b"a" * 200_000],
)
def test_predictions_that_somebody_sealed_and_that_are_none(row, tmp_path):
    file = stored.PredictionsFile(tmp_path / PREDICTIONS, "abcdef".__getitem__, 1)
    file.restore(6, 1)
    content = (tmp_path / PREDICTIONS).read_bytes() + row
    (tmp_path / PREDICTIONS).write_bytes(content)
    (tmp_path / "predictions.seal").write_text(f"{len(content)} {hashlib.sha256(content).hexdigest()}\n")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/{PREDICTIONS} is not what was written.*evaluated anew\.$"):
        file.restore(6, 1)
    assert (tmp_path / PREDICTIONS).read_bytes() == content


def test_predictions_that_were_cut_short_are_gone_on_with(tmp_path):
    """Wherever a machine stopped writing, and without a difference to one that did not stop."""
    for cut in (0, 10, 40, 50):
        file = stored.PredictionsFile(tmp_path / PREDICTIONS, "abcdef".__getitem__, 1)
        file.restore(6, 3)
        file.append(PART, 0)
        whole = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
        (tmp_path / PREDICTIONS).write_bytes((tmp_path / PREDICTIONS).read_bytes()[:cut])
        assert len(file.restore(6, 3)) == 0
        file.append(PART, 0)
        assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == whole
        for path in tmp_path.iterdir():
            path.unlink()


@pytest.mark.parametrize("content", [b"\xff\0\xfe", b'model,top1\n"a', b"model\n"])
def test_damaged_results_are_told_by_name(content, tmp_path):
    (tmp_path / RESULTS).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/{RESULTS} .*choose another --output\.$|Choose another"):
        Table(tmp_path / RESULTS)


def test_models_in_the_table_are_passed_over(evaluated, model, photos, tmp_path, capsys, monkeypatch):
    shutil.copytree(evaluated, tmp_path / "out")
    monkeypatch.setattr("train.evaluation.run.predict", None)  # it would be an error to call it
    assert main(options(model, photos, tmp_path / "out")) == 0
    assert "passed over" in capsys.readouterr().out
    assert rows(tmp_path / "out" / RESULTS) == rows(evaluated / RESULTS)
    with pytest.raises(TypeError):  # other preprocessing is another evaluation
        main(options(model, photos, tmp_path / "out", "--data.crop_pct=0.5"))


def test_a_pattern_stands_for_models_and_one_that_fails_does_not_stop_the_others(photos, tmp_path, capsys):
    values = tmp_path / "classes.txt"
    names = sorted(p.name for p in (photos / "val").iterdir())
    values.write_text("\n".join([*names, *(f"other {i}" for i in range(992))]))
    arguments = options("test_nfne[t]", photos, tmp_path / "out", f"--data.class_map={values}", "--weights=none")
    assert main(["--model", "vit_small_patch14_reg4_dinov2", *arguments, "--dtype=bfloat16"]) == 1
    captured = capsys.readouterr()
    assert "vit_small_patch14_reg4_dinov2: FAILED" in captured.err
    assert "has no classifier" in captured.err
    assert "1 of 2 models failed" in captured.err
    (row,) = rows(tmp_path / "out" / RESULTS)
    assert (row["model"], row["dtype"], row["count"]) == ("test_nfnet", "bfloat16", "40")
    folder = f"{tmp_path / 'out'}/test_nfnet-{row['fingerprint'][:8]}"
    assert f"test_nfnet: predictions, classes and pictures are in {folder}\n" in captured.out
    assert captured.out.endswith(f"all results: {tmp_path / 'out' / RESULTS}\n")
    assert Path(folder, "mistakes.png").is_file()


def test_no_folder_of_results_is_hidden(model, photos, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    shutil.copytree(model, tmp_path / "saved")
    monkeypatch.chdir(tmp_path / "here")
    assert main(options("../saved", photos, Path("out"))) == 0
    assert [p.name.partition("-")[0] for p in Path("out").iterdir() if p.is_dir()] == ["saved"]


def test_an_unknown_pattern(photos, tmp_path, capsys):
    assert main(options("sbb*", photos, tmp_path)) == 2
    assert re.search(r"no model matches this pattern; '\*sbb\*' stands for \d\d", capsys.readouterr().err)


@pytest.fixture(scope="module")
def imagenet(photos, tmp_path_factory):
    """The photographs as validation images of ImageNet: four of its classes, and names with numbers."""
    root, number = tmp_path_factory.mktemp("imagenet"), 0
    for label, folder in zip((999, 3, 500, 7), sorted((photos / "val").iterdir()), strict=False):
        (root / synsets(1000)[label]).mkdir()
        for file in sorted(folder.iterdir()):
            number += 1
            shutil.copy(file, root / synsets(1000)[label] / f"ILSVRC2012_val_{number:08}.JPEG")
    return root


def test_a_part_of_imagenets_classes_and_reassessed_labels(imagenet, tmp_path, capsys):
    """WordNet ids are found among a thousand outputs; ReaL against timm's class."""
    import torch

    from nfjax.parity import oracle

    timm = oracle.timm()
    arguments = ["--model", "test_nfnet", "--weights=none", "--data", str(imagenet), "--data.test_size=64"]
    assert main([*arguments, "--out", str(tmp_path / "all")]) == 0
    assert "only the split 'train'" in capsys.readouterr().out
    found = predictions(tmp_path / "all")
    assert {synsets(1000)[int(row["label"])] for row in found} == {p.name for p in imagenet.iterdir()}
    (file,) = tmp_path.glob("all/*/classes.csv")
    assert [row["name"] for row in rows(file)] == [class_names(1000)[i] for i in (3, 7, 500, 999)]

    random = np.random.default_rng(0)
    real = [random.integers(0, 1000, random.integers(0, 3)).tolist() for _ in range(20)]
    for row in found[::2]:  # some that are right
        real[int(row["key"][-13:-5]) - 1].append(int(row[f"class_{random.integers(1, 6)}"]))
    assert [] in real
    (tmp_path / "real.json").write_text(json.dumps(real))
    assert main([*arguments, "--out", str(tmp_path / "all"), f"--real={tmp_path / 'real.json'}"]) == 0
    (row,) = rows(tmp_path / "all" / RESULTS)  # the row was replaced, and nothing computed again
    assert "going on after 20 of 20 images" in capsys.readouterr().out

    theirs = timm.data.RealLabelsImagenet([row["key"] for row in found], real_json=str(tmp_path / "real.json"))
    logits = torch.zeros(20, 1000)
    for output, own in zip(logits, found, strict=True):
        for place in range(1, 6):
            output[int(own[f"class_{place}"])] = 6 - place
    theirs.add_result(logits)
    assert float(row["real_top1"]) == round(theirs.get_accuracy(1), 4)
    assert float(row["real_top5"]) == round(theirs.get_accuracy(5), 4)
    assert 0 < float(row["real_top1"]) < float(row["real_top5"])
    assert int(row["real_count"]) == sum(map(bool, real)) < 20

    assert main([*arguments, "--out", str(tmp_path / "own"), "--restrict-classes"]) == 0
    for row in predictions(tmp_path / "own"):
        shares = {int(row[f"class_{place}"]): float(row[f"probability_{place}"]) for place in range(1, 6)}
        assert {999, 3, 500, 7} < shares.keys()
        assert sum(shares.values()) == pytest.approx(1)
        assert float(row["loss"]) == pytest.approx(-np.log(shares[int(row["label"])]), abs=1e-5)


def test_broken_images(model, photos, tmp_path, capsys):
    root = shutil.copytree(photos, tmp_path / "photos")
    for name in ("cat/0001.jpg", "rocket/0004.jpg"):
        (root / "val" / name).write_bytes(b"no image")
    assert main(options(model, root, tmp_path / "out")) == 1
    message = capsys.readouterr().err
    assert "2 of 40 test images cannot be read" in message
    assert "cat/0001.jpg" in message
    assert "rocket/0004.jpg" in message
    assert not (tmp_path / "out" / RESULTS).exists()
