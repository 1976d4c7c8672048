"""Sources: which images they have, in which order, with which labels, and what they say when something is missing."""

import json
import os
import pickle
import shutil
import threading
import time
import unicodedata
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from nfjax.images import ImageError
from nfjax.parity import oracle
from nfjax.support.tables import Strings
from tests.helpers.photos import make_folder
from train.config import Data
from train.data import find_sources, load_dataset
from train.data.broken import require_images
from train.data.sources import slices
from train.data.sources.base import (
    MOST_CLASSES,
    Relabelled,
    Selection,
    labels_of,
    labels_of_column,
    select,
)
from train.data.sources.chance import stratify
from train.data.sources.folder import open_folder
from train.data.sources.hfds import open_hfds
from train.data.sources.manifest import open_manifest
from train.data.sources.tfds import open_tfds


def write(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"), train=5, val=2, size=32, classes=4)


def labels(source):
    return [source[index]["label"] for index in range(len(source))]


# Slices.


@pytest.mark.parametrize(
    "spec",
    [
        *(
            "train",
            "train[:99%]",
            "train[99%:]",
            "train[10:20]",
            "train[-5%:]",
            "train[:-5%]",
            "train[-7:]",
            "train[:-7]",
        ),
        *("train[33.3%:66.6%]", "train[0:1]", "train[:100%]", "train[50%:]", "train[12%:13%]"),
        *("train+test", "train[:10%]+test[:3]", "train[:50] + test"),
    ],
)
@pytest.mark.parametrize("size", [1000, 1437, 101])
def test_slices_are_those_of_tfds(spec, size):
    tfds = pytest.importorskip("tensorflow_datasets")
    from tensorflow_datasets.core.splits import SplitInfo

    sizes = {"train": size, "test": 60}
    infos = {name: SplitInfo(name=name, shard_lengths=[count], num_bytes=0) for name, count in sizes.items()}
    expected = [
        (part.splitname, part.from_ or 0, sizes[part.splitname] if part.to is None else part.to)
        for part in tfds.core.ReadInstruction.from_spec(spec).to_absolute(infos)
    ]
    assert [(name, rows.start, rows.stop) for name, rows in slices.parse(spec, sizes)] == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("trian", r"there is no split 'trian'; there is train, test"),
        ("train[5]", r"neither a name nor a name with a slice"),
        ("train[:2000]", r"2000 reaches beyond the 1000 images"),
        ("train[:10%", r"neither a name nor a name with a slice"),
        ("train[20:10]", r"'train\[20:10\]' has no images; train has 1000"),
        ("train[10:20%]", r"mixes images and percent"),
        ("train[:0.5]", r"0\.5 is not a whole number of images; did you mean 0\.5%\?"),
        ("", r"neither a name"),
    ],
)
def test_slices_that_cannot_be(spec, message):
    with pytest.raises(ValueError, match=message):
        slices.parse(spec, {"train": 1000, "test": 60})


# Folders.


def test_a_folder_with_splits(photos):
    splits = open_folder(photos)
    assert {name: len(source) for name, source in splits.items()} == {"train": 20, "val": 8}
    train = splits["train"]
    assert train.class_names == ("astronaut", "cat", "coffee", "flower")
    assert Counter(labels(train)) == dict.fromkeys(range(4), 5)
    for index in range(20):
        example = train[index]
        assert example["key"].split("/")[0] == train.class_names[example["label"]]
        assert example["image"] == (photos / "train" / example["key"]).read_bytes()
    assert train.labels().tolist() == labels(train)
    assert len(set(train.labels()[:8].tolist())) > 2  # in no order, so that a slice has some of all


def test_classes_and_labels_are_timms(tmp_path):
    oracle.timm()
    from timm.data.readers.reader_image_folder import ReaderImageFolder

    for name in ("10", "9", "b2", "b10", "B1", "a"):
        write(*(tmp_path / name / f"{number}.png" for number in range(2)))
    write(tmp_path / "a" / "deeper" / "x.png")
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "a" / "._0.png").touch()
    (tmp_path / "empty").mkdir()
    ours = open_folder(tmp_path)["train"]
    found = {
        key.replace("deeper/", ""): label for key, label in zip(map(ours.key, range(13)), labels(ours), strict=True)
    }
    (tmp_path / "a" / "deeper" / "x.png").rename(tmp_path / "a" / "x.png")  # timm takes the innermost folder
    (tmp_path / "a" / "._0.png").unlink()  # and hidden files
    theirs = ReaderImageFolder(str(tmp_path))
    assert theirs.class_to_idx == {name: label for label, name in enumerate(ours.class_names)}
    assert len(theirs) == len(ours) == 13
    assert found == {os.path.relpath(path, tmp_path): label for path, label in theirs.samples}


def test_folders_that_are_no_splits(tmp_path):
    write(tmp_path / "cat" / "a.png", tmp_path / "train" / "steam" / "b.png")
    assert list(open_folder(tmp_path)) == ["train"]
    assert open_folder(tmp_path)["train"].class_names == ("cat", "train")


@pytest.mark.parametrize(
    ("around", "train", "test"),
    [
        ("", "train", "eval"),
        ("", "Train", "Val"),
        ("", "TRAINING", "valid"),
        ("", "training_set", "test-images"),
        ("archive", "train", "val"),
        ("archive/archive", "train", "dev"),
        ("", "train", "Hold-Out"),
    ],
)
def test_usual_names_and_folders_around_all(tmp_path, around, train, test):
    for split in (train, test):
        write(*(tmp_path / around / split / name / f"{number}.png" for name in ("cat", "dog") for number in range(2)))
    write(tmp_path / around / "samples" / "x.png")
    (tmp_path / "__MACOSX").mkdir()
    splits = open_folder(tmp_path)
    assert {name: (len(source), source.class_names) for name, source in splits.items()} == dict.fromkeys(
        (train, test), (4, ("cat", "dog"))
    )
    assert "folders that are no splits with a folder per class: samples" in splits.notes
    found = find_sources(Data(name="folder", root=str(tmp_path)))
    assert [source.key(0) for source in found] == [splits[train].key(0), splits[test].key(0)]
    assert find_sources(Data(name="folder", root=str(tmp_path), train_split=train, val_split=test))


def test_splits_that_begin_alike(tmp_path):
    """As a well-known set of landscapes has them, each in a folder of its own name."""
    for split in ("seg_train", "seg_test"):
        write(*(tmp_path / split / split / name / "0.png" for name in ("cat", "dog")))
    write(tmp_path / "seg_pred" / "seg_pred" / "0.png")
    splits = open_folder(tmp_path)
    assert {name: source.class_names for name, source in splits.items()} == dict.fromkeys(
        ("train", "test"), ("cat", "dog")
    )
    assert "folders that are no splits with a folder per class: seg_pred" in splits.notes
    splits["test"].look(0)


@pytest.mark.parametrize("test", ["val", "test1"])
def test_splits_without_classes(tmp_path, test):
    """As in archives of contests, where the class is in the name of the file, or unknown."""
    write(tmp_path / "train" / "cat.0.png", tmp_path / "train" / "dog.0.png", tmp_path / test / "0.png")
    with pytest.raises(ValueError, match=r"its folders, .*, are splits by their names, with images but no"):
        open_folder(tmp_path)


def test_a_folder_around_the_classes_of_each_split(tmp_path):
    for split in ("train", "val"):
        write(*(tmp_path / split / "images" / name / "0.png" for name in ("cat", "dog")))
    assert open_folder(tmp_path)["val"].class_names == ("cat", "dog")


def test_two_levels_of_which_either_could_be_the_classes(tmp_path):
    write(*(tmp_path / site / name / "0.png" for site in ("a", "b") for name in ("cat", "dog")))
    with pytest.raises(
        ValueError, match=r"folders, a, b, have no images but folders of them, cat, dog: which .* data\.root=.*/a\?"
    ):
        open_folder(tmp_path)


def test_one_folder_in_each_class(tmp_path):
    """As Tiny ImageNet has them."""
    write(*(tmp_path / name / "images" / "0.png" for name in ("n01", "n02")))
    assert open_folder(tmp_path)["train"].class_names == ("n01", "n02")


def test_what_is_passed_over(tmp_path):
    write(tmp_path / "real" / "0.png", tmp_path / "data" / "dog" / "0.jpe", tmp_path / "data" / "0.png")
    root = tmp_path / "data"
    (root / "cat").symlink_to(tmp_path / "real")
    (root / "dog" / "round").symlink_to(root)
    (root / "dog" / "itself").symlink_to(root / "dog" / "itself")
    (root / "fox").mkdir()
    for name in ("._0.jpe", "b.heic", "README", "c.heic"):
        (root / "dog" / name).touch()
    os.mkfifo(root / "dog" / "pipe.jpg")
    splits = open_folder(root)
    assert splits["train"].class_names == ("cat", "dog")
    assert len(splits["train"]) == 2
    passed, empty = splits.notes
    assert set(passed.removeprefix("passed over: ").split(", ")) == {
        "2 .heic", "1 hidden", "1 without an ending", "1 links in a circle", "1 broken links", "1 no regular files",
        "1 images beside the class folders",
    }  # fmt: skip
    assert empty == "class folders without images: data/fox"


def test_a_link_to_itself_among_the_classes(tmp_path):
    write(tmp_path / "cat" / "0.png", tmp_path / "dog" / "0.png")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "there").symlink_to(tmp_path / "back")
    (tmp_path / "back").symlink_to(tmp_path / "there")
    splits = open_folder(tmp_path)
    assert splits["train"].class_names == ("cat", "dog")
    assert splits.notes == ("passed over: 3 broken links",)


def test_pipes_and_devices_are_no_images(tmp_path):
    """They are refused by name, and never waited for."""
    write(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "t.csv").write_text("path,label\na.png,a\npipe.png,b\n/dev/zero,b\n")
    source = open_manifest(tmp_path / "t.csv")["train"]
    for place, name in ((1, tmp_path / "pipe.png"), (2, "/dev/zero")):
        with pytest.raises(OSError, match=f"{name} is no regular file"):
            source[place]
    with pytest.raises(ImageError, match=r"2 of 3 test images cannot be read: pipe\.png \(.* is no regular file"):
        require_images(source)
    (tmp_path / "t.csv").write_text("path,label\npipe.png,b\n")
    with pytest.raises(OSError, match=r"t\.csv: the first image, .*pipe\.png, is no regular file"):
        open_manifest(tmp_path / "t.csv")


def test_a_split_that_is_not_used(tmp_path):
    for split, name in ((s, n) for s in ("train", "val", "test") for n in ("cat", "dog")):
        write(tmp_path / split / name / "0.png")
    assert load_dataset(Data(name="folder", root=str(tmp_path))).notes == ("splits that are not used: test (2 images)",)


def test_names_in_two_forms_of_unicode(tmp_path):
    for split, form in (("train", "NFC"), ("val", "NFD")):
        write(*(tmp_path / split / unicodedata.normalize(form, name) / "0.png" for name in ("caf\u00e9", "tea")))
    assert open_folder(tmp_path)["val"].class_names == ("caf\u00e9", "tea")


def test_a_split_with_a_class_that_training_lacks(tmp_path):
    write(tmp_path / "train" / "cat" / "a.png", tmp_path / "val" / "cat" / "a.png", tmp_path / "val" / "dog" / "a.png")
    with pytest.raises(ValueError, match=r"val: 1 classes are not among the 1 known ones, cat: dog"):
        open_folder(tmp_path)


def test_folders_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        open_folder(tmp_path / "nowhere")
    write(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"no images in a folder per class.*It contains a\.png"):
        open_folder(tmp_path)


def test_a_split_is_made_where_there_is_none(tmp_path):
    write(
        *(
            tmp_path / name / f"{number}.png"
            for name, count in (("a", 20), ("b", 10), ("c", 1))
            for number in range(count)
        )
    )
    train, test = find_sources(Data(name="folder", root=str(tmp_path), val_share=0.2))
    assert (Counter(labels(train)), Counter(labels(test))) == ({0: 16, 1: 8, 2: 1}, {0: 4, 1: 2})
    keys = [{source.key(index) for index in range(len(source))} for source in (train, test)]
    assert not keys[0] & keys[1]
    assert {source.key(3) for source in (train, test)} == {source[3]["key"] for source in (train, test)}
    again = find_sources(Data(name="folder", root=str(tmp_path)))
    assert [source.fingerprint() for source in again] == [train.fingerprint(), test.fingerprint()]
    write(tmp_path / "c" / "1.png")
    assert find_sources(Data(name="folder", root=str(tmp_path)))[0].fingerprint() != train.fingerprint()
    with pytest.raises(ValueError, match=r"data\.val_share=0\.001 of 32 images in 3 classes is not one image"):
        find_sources(Data(name="folder", root=str(tmp_path), val_share=0.001))


def test_slices_of_a_folder(photos):
    train, test = find_sources(
        Data(name="folder", root=str(photos), train_split="train[:75%]+val", val_split="train[75%:]")
    )
    assert (len(train), len(test)) == (23, 5)
    whole = open_folder(photos)
    assert train[14]["key"] == whole["train"].key(14)
    assert train[15] == {**whole["val"][0], "index": 15}
    assert train.labels().tolist() == labels(train)
    assert test.key(0) == whole["train"].key(15)
    assert train.fingerprint() != select(whole, "train[:70%]+val").fingerprint()


@pytest.mark.parametrize("val_split", ["train", "train[90%:]", "val+train[:1]"])
def test_testing_on_what_was_trained_on(photos, val_split):
    with pytest.raises(ValueError, match="have images in common; cut them apart"):
        find_sources(Data(name="folder", root=str(photos), val_split=val_split))


def test_a_class_map(photos, tmp_path):
    names = ["aardvark", "astronaut", "cat", "coffee", "cup", "flower"]
    (tmp_path / "classes.txt").write_text("\n".join(names) + "\n")
    train, _ = find_sources(Data(name="folder", root=str(photos), class_map=str(tmp_path / "classes.txt")))
    assert train.class_names == tuple(names)
    assert Counter(labels(train)) == dict.fromkeys((1, 2, 3, 5), 5)
    assert train.labels().tolist() == labels(train)
    assert train.key(3) == train[3]["key"]
    assert train.fingerprint() != open_folder(photos)["train"].fingerprint()
    (tmp_path / "classes.txt").write_text("astronaut\ncat\n")
    with pytest.raises(ValueError, match="2 classes are not among the 2 known ones, astronaut, cat: coffee, flower"):
        find_sources(Data(name="folder", root=str(photos), class_map=str(tmp_path / "classes.txt")))


# Tables.

ROWS = [("train", "astronaut", 0), ("train", "cat", 1), ("val", "cat", 1), ("train", "cat", 1)]


def tables(photos):
    """The same table in all formats, next to the photographs."""
    files = [sorted((photos / split / name).glob("*.jpg")) for split, name, _ in ROWS]
    rows = [
        {"path": str(files[number][number % 2].relative_to(photos)), "label": name, "split": split, "other": None}
        for number, (split, name, _) in enumerate(ROWS)
    ]
    lines = ["path,label,split,other", *(f"{row['path']},{row['label']},{row['split']}," for row in rows)]
    (photos / "table.csv").write_text("\n".join(lines) + "\n")
    (photos / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(arrow.Table.from_pylist(rows), photos / "table.parquet")
    return rows


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_tables(photos, ending):
    rows = tables(photos)
    splits = open_manifest(photos / f"table.{ending}")
    assert {name: len(source) for name, source in splits.items()} == {"train": 3, "val": 1}
    train = splits["train"]
    assert train.class_names == ("astronaut", "cat")
    assert labels(train) == [0, 1, 1]
    assert [train.key(index) for index in range(3)] == [row["path"] for row in rows if row["split"] == "train"]
    assert train[2]["image"] == (photos / rows[3]["path"]).read_bytes()
    assert (
        find_sources(Data(name="manifest", root=str(photos / f"table.{ending}")))[1].fingerprint()
        == splits["val"].fingerprint()
    )


def test_tables_with_numbers_for_labels(photos):
    rows = tables(photos)
    (photos / "numbers.csv").write_text(
        "file_name,class\n" + "".join(f"{row['path']},{3 * n}\n" for n, row in enumerate(rows))
    )
    source = open_manifest(photos / "numbers.csv")["train"]
    assert labels(source) == [0, 3, 6, 9]
    assert len(source.class_names) == 10
    named = Relabelled(source, [f"n{number}" for number in range(12)])
    assert labels(named) == [0, 3, 6, 9]
    assert named.class_names[9] == "n9"
    with pytest.raises(ValueError, match="8 classes are not among the 2 known ones, a, b: 2, 3, 4, 5, 6 and 3 more"):
        Relabelled(source, ["a", "b"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "picture,label\nx,1\n",
            r"no column path or file_name .*; it has picture, label\. Name it: data\.input_key",
        ),
        ("a.csv", "path,label\nx,1\ny\n", r"a\.csv, line 3: 1 values for the 2 columns path, label"),
        ("a.csv", "path,label\nx,\n", r"label is empty in 1 rows: 1"),
        ("a.csv", "path,label\n", r"has no rows"),
        ("a.csv", "path,label\nnowhere.jpg,1\n", r"the first image, .*nowhere\.jpg, is not there"),
        ("a.jsonl", '{"path": "x"}\nno\n', r"a\.jsonl, line 2: .*expected a JSON object"),
        ("a.jsonl", "[1]\n", r"line 1: found \[1\], expected a JSON object"),
        ("a.jsonl", "[" * 100_000, r"a\.jsonl, line 1: .*expected a JSON object"),
        ("a.csv", 'path,label\nx,1\ny,"' + "z" * 200_000, r"a\.csv, line 3: field larger .*and quotes in pairs"),
        ("a.parquet", "PAR1" * 9, r"^\S+/a\.parquet cannot be read as parquet: [^\n]+ Write or copy it again\.$"),
        ("a.txt", "", r"expected a file that ends in \.csv, \.tsv, \.jsonl, \.parquet"),
        ("a.jsonl", r'{"path": "x", "label": "\ud800"}', r"line 1: .*surrogates not allowed; expected a JSON object"),
        ("a.jsonl", '{"path\\n": "x"}', r"no column path or [^\n]*; it has path\\n\. Name it"),
        ("a.csv", f"{'x' * 9999},label\ny,1\n", r"no column path .*; it has x{100}\.\.\., label\. Name it"),
        ("a.csv", "path,label,label\nx.png,a,b\n", r"a\.csv, line 1: more than one column is called label; rename"),
        ("a.csv", "path,label\nd\\x.png,a\n", r"not there; paths are relative to the table; write / for \\\."),
        ("a.csv", f"{'x' * 9999},label\ny\n", r"1 values for the 2 columns x{100}\.\.\., label\."),
        *(
            (
                "a.jsonl",
                json.dumps({"path": "x.png", "label": "a", "split": split}),
                r"row 1 of split: found .*expected a name",
            )
            for split in ("a/b", "..\\b", "a\nb", "\x1b[2J", " ", [1], {"a": 1}, 1.5)
        ),
    ],
)
def test_tables_that_cannot_be(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        open_manifest(tmp_path / name)
    assert len(str(error.value)) < 1000


def test_names_with_endless_numbers():
    """Python makes no number of more than 4300 digits."""
    names = ["a10", "a9", f"a{'9' * 5000}", f"a1{'0' * 4000}b"]
    assert labels_of(names)[1] == ("a9", "a10", names[3], names[2])


@pytest.mark.parametrize(
    ("values", "names", "found"),
    [
        ([1.0, 0.0, 2.0], ("0", "1", "2"), [1, 0, 2]),  # pandas', of a column in which something is missing
        (["1", "0"], ("0", "1"), [1, 0]),
        ([True, False], ("False", "True"), [1, 0]),
        (["b", "a"], ("a", "b"), [1, 0]),
        ([np.int64(1), np.str_("x")], ("1", "x"), [0, 1]),
    ],
)
def test_labels_that_are_classes(values, names, found):
    numbers, known = labels_of_column(values, str)
    assert (numbers.tolist(), known) == (found, names)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            ["cat", "x"],
            r"row 1: found \['cat', 'x'\], .* one class\. For several labels an image set data\.multi_label=true",
        ),
        ({"name": "cat"}, r"row 1: found \{'name': 'cat'\}, expected the name or the number of one class"),
        (None, r"row 1: found no label \(None\)"),
        (float("nan"), r"row 1: found no label \(nan\)"),
        ("", r"row 1: found no label"),
        (-1, r"row 1: found the label -1, expected a name, or a whole number from 0"),
        ("-1", r"row 1: found the label -1"),
        (0.5, r"row 1: found the label 0\.5"),
        (2**31, r"row 1: found the label 2147483648"),
        (300_000_000, r"row 1: found the label 300000000, .* 0 to 1048575\. .* are names: write them with a letter"),
        (10**400, r"row 1: found the label 10{39}, expected a name, or a whole number"),
    ],
)
def test_labels_that_are_no_classes(value, message):
    with pytest.raises(ValueError, match=message):
        labels_of_column([0, value], lambda row: f"row {row}")


def test_many_numbers_are_quickly_read():
    """Each was looked for among all that there may be: for a million images minutes."""
    began = time.process_time()
    labels_of_column([MOST_CLASSES - 1] * 2000, str)
    assert time.process_time() - began < 10


def test_a_negative_number_is_no_name():
    with pytest.raises(ValueError, match="row 1: found the label -1, expected the name of a class"):
        labels_of_column(["cat", "-1"], lambda row: f"row {row}")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_tables_as_programs_write_them(tmp_path, encoding, between):
    write(tmp_path / "a.png", tmp_path / "b.png")
    rows = [("path", "label"), ("a.png", "caf\u00e9"), ("b.png", "tea, green" if between != "," else "tea")]
    table = tmp_path / ("t.tsv" if between == "\t" else "t.csv")
    table.write_text("\r\n".join(map(between.join, rows)), encoding=encoding, newline="")
    source = open_manifest(table)["train"]
    assert source.class_names == ("caf\u00e9", rows[2][1])


def test_a_table_in_another_encoding(tmp_path):
    (tmp_path / "t.csv").write_text("path,label\na.png,caf\u00e9\n", encoding="latin-1")
    with pytest.raises(
        ValueError, match=r"t\.csv, line 2: byte 0xe9 is not UTF-8; save the file in UTF-8 \(from Latin-1"
    ):
        open_manifest(tmp_path / "t.csv")


def test_missing_test_images_are_told_before_the_first_step(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "copy")
    (tmp_path / "copy" / "val" / "cat" / "empty.jpg").touch()
    (tmp_path / "copy" / "train" / "cat" / "empty.jpg").touch()  # training puts up with some
    train, test = find_sources(Data(name="folder", root=str(tmp_path / "copy")))
    require_images(Selection([(train, np.array([0]))]))
    with pytest.raises(ImageError, match=r"1 of 9 test images cannot be read: cat/empty\.jpg \(.*it is empty.*Repair"):
        require_images(test)


def test_a_disk_that_does_not_answer(photos, monkeypatch):
    source = open_folder(photos)["train"]
    monkeypatch.setattr(type(source), "look", lambda self, index: threading.Event().wait())
    with pytest.raises(TimeoutError, match=r"no test images could be opened for 0\.1 seconds: the disk or the network"):
        require_images(source, 0.1)
    monkeypatch.setattr(type(source), "look", lambda self, index: [].pop())
    with pytest.raises(IndexError):  # a mistake of ours is not waited for
        require_images(source)


# Hugging Face.


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_hugging_face(photos, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    ours = open_folder(photos)
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=list(ours["train"].class_names))}
    )
    saved = {}
    for name, source in ours.items():
        files = [str(photos / name / source.key(index)) for index in range(len(source))]
        saved[name] = datasets.Dataset.from_dict({"img": files, "label": labels(source)}, features=features)
    saved["test"] = datasets.Dataset.from_dict({"img": files, "label": [-1] * len(files)}, features=features)
    saved["part"] = datasets.Dataset.from_dict({"img": files, "label": [-1, *labels(source)[1:]]}, features=features)
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "saved")
    part = open_hfds("", tmp_path / "saved")
    assert [part["part"].key(0), part["part"][0]["label"]] == ["part[1]", labels(source)[1]]
    assert part.notes == tuple(
        f"{count} of 8 images of {split} are left out: their label is -1, unknown"
        for count, split in ((8, "test"), (1, "part"))
    )
    saved["part"] = datasets.Dataset.from_dict({"img": files, "label": [None, *labels(source)[1:]]}, features=features)
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "none")
    with pytest.raises(ValueError, match=r"hfds, label of part\[0\]: found no label \(None\)"):
        open_hfds("", tmp_path / "none")
    train, test = find_sources(Data(name="hfds", root=str(tmp_path / "saved")))
    for theirs, source in ((train, ours["train"]), (test, ours["val"])):
        assert theirs.class_names == source.class_names
        assert [theirs[i]["image"] for i in range(len(source))] == [source[i]["image"] for i in range(len(source))]
        assert labels(theirs) == labels(source)
    assert pickle.loads(pickle.dumps(train))[3] == train[3]
    with pytest.raises(ValueError, match=r"hfds: no column fine; there is img, label\. Name it: data\.target_key"):
        find_sources(Data(name="hfds", root=str(tmp_path / "saved"), target_key="fine"))


# All.


def test_sources_travel_by_pickle(photos, tfds_folder, tfrecord_folder):
    tables(photos)
    found = [
        open_folder(photos)["train"],
        open_manifest(photos / "table.csv")["train"],
        open_tfds("digits", tfds_folder, None, None)["train"],
        open_tfds("digits", tfrecord_folder, None, None)["train"],
        Selection([(open_folder(photos)["val"], np.array([5, 1, 3]))]),
        stratify(open_folder(photos)["train"], 0.2)[0],
        Relabelled(open_folder(photos)["train"], ["x", "astronaut", "cat", "coffee", "flower"]),
    ]
    for source in found:
        source[1]  # opened here
        copy = pickle.loads(pickle.dumps(source))
        assert copy[2] == source[2]
        assert copy.fingerprint() == source.fingerprint()
        assert copy.key(2) == source.key(2) == source[2]["key"]
        with pytest.raises(IndexError):
            source[len(source)]


def test_fingerprints_follow_what_they_should(photos, tmp_path):
    one = open_folder(photos)["train"].fingerprint()
    import shutil

    shutil.copytree(photos, tmp_path / "copy")
    assert open_folder(tmp_path / "copy")["train"].fingerprint() == one  # wherever it lies
    file = next((tmp_path / "copy" / "train").rglob("*.jpg"))
    data = file.read_bytes()
    file.write_bytes(data + b"x")
    assert open_folder(tmp_path / "copy")["train"].fingerprint() != one
    file.write_bytes(data)
    file.rename(file.with_name("other.jpg"))
    assert open_folder(tmp_path / "copy")["train"].fingerprint() != one


@pytest.mark.parametrize(
    ("name", "root", "message"),
    [
        (
            "letters",
            None,
            r"data\.name='letters' is not known; expected digits, folder, manifest, tfds/NAME, hfds/ORG/NAME or wds",
        ),
        ("folder", None, r"data\.name='folder' needs data\.root, the folder"),
        ("tfds", None, r"data\.name='tfds' is not known"),
        ("digits/3", None, r"data\.name='digits/3' is not known"),
    ],
)
def test_data_sets_that_cannot_be(name, root, message):
    with pytest.raises(ValueError, match=message):
        find_sources(Data(name=name, root=root))


def test_strings():
    texts = ["", "a", "ü/é.jpg", "b" * 1000, "\udc80"]
    strings = Strings(texts)
    assert list(strings) == texts
    assert list(pickle.loads(pickle.dumps(strings))) == texts
    assert strings.joined(b"\0") == "\0".join(texts).encode("utf-8", "surrogateescape")
    assert labels_of(["b", "a", "b"])[0].tolist() == [1, 0, 1]
