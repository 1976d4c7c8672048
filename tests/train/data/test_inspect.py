"""`python -m train.data inspect` says what is in a folder, and finds what is wrong with it."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.helpers.photos import make_folder
from train.config import Augment, Data
from train.data import load_dataset
from train.data.__main__ import main
from train.data.inspect import contact_sheet, inspect


@pytest.fixture
def root(tmp_path):
    return make_folder(tmp_path / "photos", train=6, val=3, size=40, classes=4)


def load(root, augment=None):
    return load_dataset(Data(name="folder", root=str(root), image_size=48), augment=augment)


def test_a_sound_folder(root, tmp_path, capsys):
    assert inspect(load(root), tmp_path / "sheet.png")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "class         train      test",
        "astronaut         6         3",
        "cat               6         3",
        "coffee            6         3",
        "flower            6         3",
    ]
    assert lines[5] == "train: 24 images; used as 48x48x3"
    assert "  24 JPEG RGB; " in "\n".join(lines)
    assert not [line for line in lines if "BROKEN" in line or "LEAKED" in line or "copies" in line]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (10 * 68, 14 + 8 * 66)


def test_what_is_wrong_is_found(root, tmp_path, capsys):
    shutil.copy(root / "train" / "cat" / "0001.jpg", root / "val" / "cat" / "again.jpg")
    shutil.copy(root / "train" / "cat" / "0001.jpg", root / "train" / "cat" / "copy.jpg")
    (root / "train" / "flower" / "page.jpg").write_text("<html>")
    (root / "val" / "coffee" / "0000.jpg").write_bytes((root / "val" / "coffee" / "0001.jpg").read_bytes()[:300])
    assert not inspect(load(root), tmp_path / "sheet.png")
    out = capsys.readouterr().out
    assert "LEAKED: 1 test image is also training image: cat/again.jpg" in out
    assert (
        "BROKEN flower/page.jpg: flower/page.jpg is not an image that Pillow can read: it begins with b'<html>'" in out
    )
    assert "BROKEN coffee/0000.jpg: coffee/0000.jpg cannot be decoded" in out
    assert out.count("BROKEN") == 2
    assert out.count("1 is a copy of another") == 1


def test_a_contact_sheet_shows_images_as_training_sees_them(root):
    datasets = load(root), load(root, Augment())
    plain, changed = (np.asarray(contact_sheet(dataset, rows=4, columns=3)) for dataset in datasets)

    def tile(sheet, row, column):
        return sheet[row * 66 + 28 : row * 66 + 76, column * 68 : column * 68 + 48]

    for row in range(4):
        assert np.array_equal(tile(plain, row, 1), tile(changed, row, 1))  # as tested
        assert np.array_equal(tile(plain, row, 2), tile(plain, row, 4))
        assert not np.array_equal(tile(changed, row, 2), tile(changed, row, 4))
    assert len({tile(plain, row, 1).tobytes() for row in range(4)}) == 4


def test_headings_of_small_images_have_room(root):
    """Those of a column, beside each other; and the longest name ends at the sheet's border."""
    dataset = load_dataset(Data(name="folder", root=str(root), image_size=8))
    sheet = np.asarray(contact_sheet(dataset, rows=1, columns=1).convert("L"))
    assert sheet.shape == (14 + 26, 3 * 68)
    written = (sheet[:14] < 250).any(axis=0)
    for column in (1, 2):
        assert not written[column * 68 - 6 : column * 68].any()


def test_a_sheet_that_was_there_is_said_to_be_replaced(root, tmp_path, capsys):
    for again in ("", " (replaced)"):
        inspect(load(root), tmp_path / "sheet.png", limit=2)
        assert f"contact sheet: {tmp_path / 'sheet.png'}{again}: each image" in capsys.readouterr().out


def test_many_classes_are_summed_up(tmp_path, capsys):
    for number in range(60):
        folder = tmp_path / "photos" / f"class{number}"
        folder.mkdir(parents=True)
        for image in range(6 if number == 31 else 2):
            Image.new("RGB", (5, 5), (number, image, 0)).save(folder / f"{image}.png")
    dataset = load_dataset(Data(name="folder", root=str(tmp_path / "photos"), image_size=16, val_share=0.5))
    assert inspect(dataset, tmp_path / "sheet.png", limit=10)
    out = capsys.readouterr().out
    assert "class31         3         3" in out
    assert "20 classes in between are left out." in out
    assert "of which 10 were read" in out


def test_the_command(root, tmp_path):
    def command(*arguments):
        found = subprocess.run(
            [sys.executable, "-m", "train.data", "inspect", *arguments], capture_output=True, text=True
        )
        return found.returncode, found.stdout, found.stderr

    status, out, errors = command(str(root), f"--out={tmp_path / 'sheet.png'}")
    assert (status, errors) == (0, "")
    assert (tmp_path / "sheet.png").exists()
    assert "train: 24 images; used as 224x224x3" in out
    status, _, errors = command(str(tmp_path / "nowhere"))
    assert status == 2
    assert (
        "nowhere: there is no such file or folder; expected a folder, a table (.csv, .tsv, .jsonl, .parquet), "
        in errors
    )


def test_a_table_and_what_is_not_used(root, tmp_path, capsys):
    files = [str(path) for path in sorted(root.rglob("*.jpg"))[:4]]
    (tmp_path / "t.csv").write_text("path,label,split\n" + "".join(f"{f},x{i % 2},{s}\n" for i, (f, s) in enumerate(
        zip(files, ("train", "train", "val", "test"), strict=True))))  # fmt: skip
    assert main(["inspect", str(tmp_path / "t.csv"), "-o", str(tmp_path / "sheet.png")]) == 0
    assert "splits that are not used: test (1 image)" in capsys.readouterr().out
