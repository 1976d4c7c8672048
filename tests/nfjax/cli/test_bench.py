"""`nfjax bench`."""

import json

import pytest

from nfjax.__main__ import main


def test_each_batch_is_a_row(capsys):
    command = ["bench", "test_vit2", "--img-size", "32x48", "--batch-size", "1", "3", "--seconds", "0.01"]
    assert main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert [(row["batch_size"], row["img_size"], row["dtype"]) for row in rows] == [
        (1, [32, 48], "float32"),
        (3, [32, 48], "float32"),
    ]
    for row in rows:
        assert row["calls"] >= 5
        assert 0 < row["least_seconds"] <= row["median_seconds"] <= row["most_seconds"]
        assert row["images_per_second"] == pytest.approx(row["batch_size"] / row["median_seconds"])
    assert printed.err.count("compiling test_vit2") == 2
    assert main([*command, "--dtype", "bfloat16"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert "images/s" in head
    assert [row.split()[:3] for row in rows] == [["test_vit2.r160_in1k", "32x48", "bfloat16"]] * 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["test_vit2", "--batch-size", "1", "0"], "--batch-size=0; expected at least 1"),
        (["test_vit2", "--seconds", "nan"], "--seconds=nan; expected more than 0"),
        ([], "expected the name of one model"),
        (["test_vit2", "--img-size", "33"], "multiples of 16"),
    ],
)
def test_mistakes(options, said, capsys):
    assert main(["bench", *options]) == 2
    assert said in capsys.readouterr().err
