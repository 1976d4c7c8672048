"""Several labels an image, as people write them; and what is none of it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train import data as pipeline
from train.config import Data
from train.data import ArraySource, find_sources, load_dataset
from train.data.dataset import _splits
from train.data.sources import several

NAMES = ("cat", "dog", "owl")
EXPECTED = [[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 0]]


def where(row):
    return f"row {row + 1}"


@pytest.mark.parametrize(
    "values",
    [
        [["cat", "owl"], ["dog"], [], ["cat"]],
        ["cat|owl", "dog", "", "cat"],
        ["owl ; cat", "dog", "", "cat"],
        ['["cat", "owl"]', '["dog"]', "[]", '["cat"]'],
        [np.array(["cat", "owl"]), ("dog",), [], ["cat"]],
    ],
)
def test_lists(values):
    labels, names = several.of_lists(values, where)
    assert names == NAMES
    assert labels.dtype == np.int8
    assert labels.tolist() == EXPECTED


def test_numbers_and_rows():
    assert several.of_lists([[0, 2], [1], [], [0]], where)[0].tolist() == EXPECTED
    labels, names = several.of_lists([[1, 0, 1], [0, 1, 0], [0, 0, -1], [1.0, float("nan"), 0]], where)
    assert (labels.tolist(), names) == ([[1, 0, 1], [0, 1, 0], [0, 0, -1], [1, -1, 0]], ("0", "1", "2"))
    assert several.of_lists([[0, 2], [1], [], [0]], where, NAMES)[1] == NAMES


def test_columns():
    table = {"path": "abc", "cat": ["1", "0", ""], "dog": [True, None, 0.0], "owl": ["-1", "nan", "1.0"]}
    labels, names = several.of_table(table, Path("t.csv"), None, ("path", "split"))
    assert (labels.tolist(), names) == ([[1, 1, -1], [0, -1, -1], [-1, 0, 1]], NAMES)
    assert several.of_table(table, Path("t.csv"), "owl, cat", ())[1] == ("owl", "cat")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["cat", "dog"], "row 1: no row of it has several labels"),
        ([["cat"], "dog|cat", None], "row 3: found nothing, expected a list"),
        ([["cat"], 3], "row 2: found 3, expected a list of labels"),
        (["cat||dog"], "a label between | is empty"),
        (['["cat"', '["dog"]'], "expected a list in JSON"),
        ([[], []], "found no label, and none in all 2 rows"),
        ([[0], [-2]], "row 2: found the label -2"),
        ([[0], [70000]], "row 2: found 70001 classes, expected at most 65536"),
        ([["cat", None]], "row 1: found no label"),
    ],
)
def test_what_is_no_list_of_labels(values, message):
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        several.of_lists(values, where)


def test_what_is_no_column_of_a_class():
    with pytest.raises(ValueError, match=r"t\.csv, row 2 of width: found '640', expected 1, 0, or -1 .*target_key=cat"):
        several.of_table({"cat": ["1", "0"], "width": ["1", "640"]}, Path("t.csv"), None, ())
    with pytest.raises(ValueError, match=r"no column bird; it has cat"):
        several.of_table({"cat": ["1"]}, Path("t.csv"), "cat,bird", ())
    with pytest.raises(ValueError, match="found the label 3, expected 0 to 2"):
        several.of_lists([[3]], where, NAMES)
    with pytest.raises(ValueError, match="found 2 numbers, expected one for each of 3 classes"):
        several.of_lists([[0, 1]], where, NAMES)


def write(folder, rows, name="labels.csv"):
    folder.mkdir(exist_ok=True)
    for path, *_ in rows[1:]:
        Image.new("RGB", (8, 8), "red").save(folder / path)
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows(rows)


TEXT = ("owl|cat", "dog", "", "cat")
ROWS = [["path", "labels"], *([f"{i}.png", text] for i, text in enumerate(TEXT))]


@pytest.mark.parametrize("kind", ["folder", "manifest", "splits", "inner"])
def test_where_the_table_is(tmp_path, kind):
    """In the folder, named itself, one for each split, or one in the folder of each split."""
    root = tmp_path / "pictures"
    write(root, ROWS, "train.csv" if kind == "splits" else "labels.csv")
    if kind == "splits":
        write(root, [ROWS[0], ["0.png", "owl|cat"]], "val.csv")
    if kind == "inner":
        outer = tmp_path / "outer"
        outer.mkdir()
        root.rename(outer / "train")
        write(outer / "val", [ROWS[0], ["9.png", "owl|cat"]])
        root = outer
    data = Data(name="manifest" if kind == "manifest" else "folder", multi_label=True, val_share=0.25,
                root=str(root / "labels.csv" if kind == "manifest" else root), batch_size=2, image_size=8)  # fmt: skip
    train, test = find_sources(data)
    assert train.class_names == test.class_names == NAMES
    assert train.several
    assert test.several
    assert len(train) == (4 if kind in ("splits", "inner") else 3)
    notes = _splits(data).notes
    assert notes[0].startswith("1 of ")
    assert notes[0].endswith(" images of train have no label: all classes are absent")
    dataset = load_dataset(data)
    assert dataset.data_config.problem_type == "multi_label_classification"
    batch = next(batches := pipeline.train_batches(dataset.train, data, 0))
    batches.close()
    assert (batch["label"].dtype, batch["label"].shape) == (np.int8, (2, 3))
    own = train.labels()[batch["index"]]
    assert np.array_equal(batch["label"], own)
    (tested,) = pipeline.test_batches(dataset.test, data, 2)
    assert tested["label"].shape == (2, 3)
    assert tested["valid"].tolist() == [True, False]


def test_a_class_map_orders_them(tmp_path):
    write(tmp_path / "a", ROWS)
    (tmp_path / "names").write_text("owl\nant\ncat\ndog\n")
    data = Data(name="folder", root=str(tmp_path / "a"), multi_label=True, class_map=str(tmp_path / "names"))
    source = _splits(data)["train"]
    assert source.class_names == ("owl", "ant", "cat", "dog")
    assert source.labels().tolist() == [[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert source[0]["label"].tolist() == [1, 0, 1, 0]


def test_one_label_and_several_are_told_apart(tmp_path):
    write(tmp_path / "a", ROWS)
    with pytest.raises(ValueError, match=r"data\.multi_label=true, and the images of digits .* have one label each"):
        find_sources(Data(multi_label=True))
    file = tmp_path / "a" / "labels.jsonl"
    file.write_text(json.dumps({"path": "0.png", "labels": ["cat"]}))
    with pytest.raises(ValueError, match=r"set data\.multi_label=true"):
        find_sources(Data(name="manifest", root=str(file), target_key="labels"))
    with pytest.raises(ValueError, match=r"found labels\.csv, labels\.jsonl\. Name it: data\.name=manifest"):
        find_sources(Data(name="folder", root=str(tmp_path / "a"), multi_label=True))


@pytest.mark.parametrize("kind", ["classes", "rows", "columns"])
def test_data_sets_of_hugging_face(tmp_path, kind):
    datasets = pytest.importorskip("datasets")
    image = datasets.Features({"image": datasets.Image()})
    images = [Image.new("RGB", (8, 8))] * 4
    if kind == "columns":
        columns = {name: [row[i] for row in EXPECTED] for i, name in enumerate(NAMES)}
        features = image | {name: datasets.Value("int8") for name in NAMES}
    elif kind == "rows":
        columns, features = {"labels": EXPECTED}, image | {"labels": datasets.Sequence(datasets.Value("float32"))}
    else:
        columns = {"labels": [np.flatnonzero(row).tolist() for row in EXPECTED]}
        features = image | {"labels": datasets.Sequence(datasets.ClassLabel(names=list(NAMES)))}
    found = datasets.Dataset.from_dict({"image": images, **columns}, datasets.Features(features))
    datasets.DatasetDict({"train": found}).save_to_disk(str(tmp_path / "set"))
    source = _splits(Data(name="hfds", root=str(tmp_path / "set"), multi_label=True))["train"]
    assert source.class_names == (("0", "1", "2") if kind == "rows" else NAMES)
    assert source.labels().tolist() == EXPECTED
    assert source[0]["label"].tolist() == EXPECTED[0]


def test_arrays():
    source = ArraySource(np.zeros((4, 8, 8, 3), np.uint8), np.array(EXPECTED), NAMES)
    assert source.several
    assert source[0]["label"].tolist() == [1, 0, 1]
