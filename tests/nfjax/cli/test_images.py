"""`nfjax classify`, `embed` and `features`, as they are typed."""

import csv
import dataclasses
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

import nfjax
from nfjax.__main__ import main
from nfjax.cli.output import rows_to
from nfjax.transforms import EvalTransform


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder per model, so that no hub is needed."""
    root = tmp_path_factory.mktemp("models")
    nfjax.save(nfjax.load("test_nfnet", weights=None), root / "nfnet")
    nfjax.save(nfjax.load("test_vit2", weights=None, img_size=64), root / "vit")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Five images in a folder with a folder in it, one file that is none, and one that is no image by its name."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    (root / "deeper").mkdir()
    for i, name in enumerate(["a.png", "b.jpg", "c.webp", "deeper/d.PNG", "e.gif"]):
        Image.fromarray(rng.integers(0, 256, (40 + 10 * i, 60, 3), np.uint8)).save(root / name)
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff not a photo")
    (root / "notes.txt").write_text("not an image")
    return root


def classify(capsys, *arguments):
    code = main(["classify", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_photos_are_turned_upright_where_that_is_asked_for(saved, tmp_path, capsys):
    """A camera's photo of the left half, lying on its side, and the same photo upright."""
    upright = Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8))
    upright.save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[274] = 6  # orientation: to be turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=exif)
    found = {}
    for name, options in (("upright", []), ("lying", ["--exif"]), ("lying", [])):
        arguments = [tmp_path / f"{name}.png", "--model", saved / "nfnet", "--format", "json", *options]
        rows = json.loads(classify(capsys, *arguments)[1])
        found[name, bool(options)] = [(row["index"], row["probability"]) for row in rows]
    assert found["upright", False] == found["lying", True] != found["lying", False]


def test_classify(saved, photos, capsys):
    """Six files, one of them broken, in batches of four; the numbers are those of the model."""
    model = f"local-dir:{saved}/nfnet"
    code, out, err = classify(capsys, photos, "--model", model, "--format", "json", "--batch-size", 4, "--topk", 3)
    assert code == 1
    assert "broken.jpg" in err
    assert "1 of 6 images was skipped" in err
    rows = json.loads(out)
    files = [row["file"] for row in rows if row["rank"] == 1]
    assert [f.removeprefix(f"{photos}/") for f in files] == ["a.png", "b.jpg", "c.webp", "deeper/d.PNG", "e.gif"]
    assert len(rows) == 15

    loaded = nfjax.load(model)
    transform = nfjax.create_transform(loaded)
    x = transform(Image.open(photos / "a.png").convert("RGB"))[None]
    logits = np.asarray(nfjax.compile(loaded, x)(x))
    ((best, *_),) = nfjax.top_k(logits, 3, loaded)
    assert (rows[0]["name"], rows[0]["index"]) == (best[0], best[2])
    assert rows[0]["probability"] == pytest.approx(best[1], rel=1e-4)


def test_sizes(saved, photos, capsys):
    """Another size is another result; a transformer takes it when it is loaded."""
    probabilities = []
    for model, *options in (["nfnet"], ["nfnet", "--img-size", 96], ["vit"], ["vit", "--img-size", 96, 64]):
        arguments = [photos / "a.png", "--model", f"local-dir:{saved}/{model}", "--format", "json", *options]
        code, out, _ = classify(capsys, *arguments)
        assert code == 0
        probabilities.append(json.loads(out)[0]["probability"])
    assert len(set(probabilities)) == 4
    with pytest.raises(SystemExit):
        classify(capsys, photos / "a.png", "--img-size", 96, "--test-size")


def test_random_classes_and_the_picture_are_told(photos, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    fresh = [photos / "a.png", "--model", "test_nfnet", "--weights", "none", "--img-size", 64]
    for again in ("", " (replaced)"):
        code, _, err = classify(capsys, *fresh, "--plot", tmp_path / "x")
        assert code == 0
        assert "--weights none: the weights are random, and so are the classes.\n" in err
        assert f"{tmp_path / 'x.png'}{again}: 1 image with its classes\n" in err
    assert (tmp_path / "x.png").is_file()


def test_formats_say_the_same(saved, photos, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    files = [photos / "a.png", photos / "b.jpg", "--model", f"local-dir:{saved}/nfnet"]
    _, as_json, _ = classify(capsys, *files, "--format", "json")
    code, as_csv, err = classify(capsys, *files, "--format", "csv")
    assert (code, err.splitlines()[1:]) == (0, [])  # after what is about to happen
    rows = json.loads(as_json)
    read = [dict(row) for row in csv.DictReader(io.StringIO(as_csv))]
    assert read == [{key: str(value) for key, value in row.items()} for row in rows]
    classify(capsys, *files, "--format", "parquet", "-o", tmp_path / "out.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist() == rows
    code, table, _ = classify(capsys, *files)
    assert rows[0]["name"][:20] in table
    assert f"{rows[0]['probability']:.2%}" in table


def test_pictures(saved, photos, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "top5.png"
    assert classify(capsys, photos / "a.png", "--model", f"local-dir:{saved}/nfnet", "--plot", plot)[0] == 0
    runs = {
        "maps.png": ["nfnet"],
        "blocks.png": ["vit", "--indices", "0", "7"],
        "attention.png": ["vit", "--attention", "--channels", "2"],
    }
    for name, (model, *options) in runs.items():
        command = ["features", str(photos / "a.png"), "--model", f"local-dir:{saved}/{model}", *options]
        assert main([*command, "-o", str(tmp_path / name)]) == 0
    out = capsys.readouterr().out
    assert "blocks.0, blocks.7" in out
    assert "stem.conv3, stages.0" in out
    for file in tmp_path.iterdir():
        with Image.open(file) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 50, file
    assert main(["features", str(photos / "a.png"), "--model", f"local-dir:{saved}/nfnet", "--attention"]) == 2
    assert "no attention maps" in capsys.readouterr().err


def test_patches_as_colours(saved, photos, tmp_path, capsys):
    """A sheet of a folder, without what cannot be read; and of one image, of a convolutional network."""
    command, model = (
        ["features", "--model", f"local-dir:{saved}/vit", "--pca", str(tmp_path / "sheet.png")],
        saved / "nfnet",
    )
    assert main([*command, str(photos)]) == 1
    captured = capsys.readouterr()
    assert "sheet.png: 5 images of 4x4 features of test_vit2" in captured.out
    assert "broken.jpg" in captured.err
    assert main(["features", str(photos / "a.png"), "--model", str(model), "--pca", str(tmp_path / "one.png")]) == 0
    for file in tmp_path.iterdir():
        with Image.open(file) as image:
            assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50, file
    for options, said in (([str(photos / "a.png"), "--attention"], "leave out"), ([str(photos / "x")], "is no file")):
        assert main([*command, *options]) == 2
        assert said in capsys.readouterr().err
    two = [str(photos / "a.png"), str(photos / "b.jpg")]
    assert main(["features", *two, "--model", str(model)]) == 2
    assert "2 images; without --pca" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_embed(suffix, saved, photos, tmp_path, capsys):
    output = tmp_path / f"out.{suffix}"
    command = ["embed", str(photos), "--model", f"local-dir:{saved}/vit", "-o", str(output)]
    assert main([*command, "--batch-size", "3"]) == 1  # one is broken
    assert "5 embeddings of 64 features" in capsys.readouterr().out
    if suffix == "npz":
        with np.load(output) as file:
            read = dict(file)
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        columns = parquet.read_table(output).to_pydict()
        read = {name: np.array(column) for name, column in columns.items()}
    assert read["files"][0] == f"{photos}/a.png"
    model = nfjax.load(f"local-dir:{saved}/vit", num_classes=0)
    x = nfjax.create_transform(model)(Image.open(photos / "a.png").convert("RGB"))[None]
    np.testing.assert_allclose(read["embeddings"][0], nfjax.compile(model, x)(x)[0], rtol=1e-4, atol=1e-5)
    main([*command, "--normalize"])
    if suffix == "npz":
        with np.load(output) as file:
            np.testing.assert_allclose(np.linalg.norm(file["embeddings"], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["classify", "nothing/here.jpg"], "nothing/here.jpg is no file, folder or pattern"),
        (["classify", "PHOTOS/a.png", "--topk", "1001"], "has 1000 classes"),
        (["classify", "PHOTOS/a.png", "--format", "parquet"], "needs -o FILE"),
        (["classify", "PHOTOS/a.png", "--batch-size", "0"], "expected at least 1"),
        (["classify", "PHOTOS/a.png", "--img-size", "1", "2", "3"], "--img-size takes"),
        (["embed", "PHOTOS/a.png", "-o", "x.txt"], "ending in .npz, .parquet or .csv"),
        (["features", "PHOTOS/broken.jpg"], "broken.jpg"),
        (["features", "PHOTOS/missing.jpg"], "missing.jpg"),
    ],
)
def test_what_is_wrong_is_said(arguments, said, saved, photos, capsys):
    command = [a.replace("PHOTOS", str(photos)) for a in arguments]
    assert main([*command, "--model", f"local-dir:{saved}/nfnet"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["classify", "embed", "features"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"nfjax {command} " in capsys.readouterr().out.split("example")[1]


def test_the_ending_decides(saved, photos, tmp_path, capsys):
    model, photo = f"local-dir:{saved}/nfnet", photos / "a.png"
    for ending, head in {"json": "[", "csv": "file,rank", "tsv": "file\trank", "txt": "file\trank"}.items():
        output = tmp_path / "new folder" / f"x.{ending}"
        code, out, err = classify(capsys, photo, "--model", model, "-o", output)
        assert (code, out) == (0, "")
        assert output.read_text().startswith(head)
        assert f"{output}: 1 image\n" in err


def test_as_many_classes_as_there_are(photos, tmp_path, capsys):
    nfjax.save(nfjax.load("test_nfnet", weights=None, num_classes=2), tmp_path / "two")
    code, out, _ = classify(capsys, photos / "a.png", "--model", tmp_path / "two", "--format", "csv")
    assert code == 0
    assert len(out.splitlines()) == 3


HOSTILE = "[red]\x1b[2J dog [/x] $a$"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A model with label names that terminals, rich and matplotlib would obey."""
    model = nfjax.load("test_nfnet", weights=None, num_classes=2)
    model.data_config = dataclasses.replace(model.data_config, label_names=(HOSTILE, "cat"))
    return nfjax.save(model, tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("output", ["table", "csv", "json", "out.csv", "out.json", "out.parquet", "out.tsv"])
def test_names_of_strangers(output, hostile, tmp_path, capfd):
    picture = os.fsencode(tmp_path) + b"/caf\xe9\n.png"
    with open(picture, "wb") as file:
        Image.new("RGB", (50, 50)).save(file, "png")
    where = ["-o", str(tmp_path / output)] if "." in output else ["--format", output]
    options = ["--model", str(hostile), *where, "--plot", str(tmp_path / "p.png")]
    assert main(["classify", os.fsdecode(picture), *options]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out
    if output in ("table", "csv"):
        assert "[red]\\x1b[2J dog [/x] $a$" in out
        assert "caf\\udce9\\n.png" in out
    elif output == "out.csv":
        rows = list(csv.DictReader(io.StringIO((tmp_path / output).read_text())))
        assert {row["name"] for row in rows} == {HOSTILE, "cat"}
        assert {row["file"] for row in rows} == {f"{tmp_path}/caf\\xe9\n.png"}
    elif output == "out.json":
        assert {row["name"] for row in json.loads((tmp_path / output).read_text())} == {HOSTILE, "cat"}


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_a_carriage_return_in_a_name_ends_no_row(form, tmp_path):
    with rows_to(tmp_path / "out", form, ["file", "name"]) as write:
        write({"file": "a\r\nb\u2028c.png", "name": "cat"})
    with (tmp_path / "out").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file, delimiter="," if form == "csv" else "\t")
    assert row == {"file": "a\\r\nb\u2028c.png", "name": "cat"}


def test_a_pipe_and_a_device_are_refused_by_name(saved, tmp_path, capsys):
    """And not opened: that would wait, or read, for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    files = [str(tmp_path / "pipe.png"), "/dev/zero"]
    assert main(["classify", *files, "--model", f"local-dir:{saved}/nfnet"]) == 1
    said = capsys.readouterr().err
    assert all(f"skipped {file}: {file} is no regular file" in said for file in files)


def test_an_output_that_is_not_finite_is_skipped_and_the_rest_stands(saved, photos, tmp_path, monkeypatch, capsys):
    transform = EvalTransform.__call__

    def poisoned(self, image):
        return transform(self, image) * (np.nan if image.height == 40 else 1.0)  # the first one

    monkeypatch.setattr(EvalTransform, "__call__", poisoned)
    files = [str(photos / "a.png"), str(photos / "b.jpg"), "--model", f"local-dir:{saved}/nfnet"]
    assert main(["classify", *files, "-o", str(tmp_path / "out.csv")]) == 1
    assert "a.png: the model's output for it is not finite" in capsys.readouterr().err
    assert {row["file"] for row in csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text()))} == {
        str(photos / "b.jpg")
    }
    assert main(["embed", *files, "-o", str(tmp_path / "out.npz")]) == 1
    with np.load(tmp_path / "out.npz") as found:
        assert found["files"].tolist() == [str(photos / "b.jpg")]
        assert np.isfinite(found["embeddings"]).all()


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (["-o", "x.xml"], "x.xml: expected a file name ending in .json, .csv, .parquet, .tsv or .txt."),
        (["-o", "x.csv", "--format", "json"], "--format json and -o x.csv, which ends as csv does"),
        (["-o", "FOLDER"], "is a folder; expected the name of a file."),
        (["-o", "FILE/x.csv"], "/x.csv cannot be written: "),
        (["-o", "/proc/x.csv"], "/proc/x.csv cannot be written: No such file or directory."),
        (["--plot", "/proc/x.png"], "/proc/x.png cannot be written: No such file or directory."),
        (["--plot", "x.gif"], "x.gif: expected a file name ending in .png"),
    ],
)
def test_an_output_that_cannot_be_written_is_told_before_the_work(output, said, photos, tmp_path, capsys):
    (tmp_path / "file").touch()
    output = [text.replace("FOLDER", str(tmp_path)).replace("FILE", str(tmp_path / "file")) for text in output]
    code, _, err = classify(capsys, photos / "a.png", "--model", "test_nfnet", "--weights", "none", *output)
    assert code == 2
    assert said in err


def test_a_picture_of_many_images_is_a_grid(tmp_path, saved, capsys):
    pytest.importorskip("matplotlib")
    for i in range(25):
        Image.new("RGB", (40, 40), (i * 10, 0, 0)).save(tmp_path / f"{i}.png")
    plot = tmp_path / "grid.jpg"
    model = f"local-dir:{saved}/nfnet"
    code, _, err = classify(capsys, tmp_path, "--model", model, "--plot", plot, "--batch-size", 25)
    assert code == 0
    assert "24 images with their classes, the first 24 of 25" in err
    with Image.open(plot) as picture:
        width, height = picture.size
    assert 0.5 < width / height < 2


def test_classes_of_the_same_name_have_bars_of_their_own(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from nfjax.cli import classify as command

    photo = tmp_path / "a.png"
    Image.new("RGB", (40, 40)).save(photo)
    drawn = []
    monkeypatch.setattr(command, "save_figure", lambda figure, path: drawn.append(figure))
    best = {photo: [("crane", 0.6, 134), ("crane", 0.3, 517)]}
    command._plot(best, {photo: Image.open(photo)}, "by test_vit2", tmp_path / "x.png")
    bars = drawn[0].axes[1].patches
    assert [round(float(bar.get_width()), 3) for bar in bars] == [0.6, 0.3]
    assert len({bar.get_y() for bar in bars}) == 2
