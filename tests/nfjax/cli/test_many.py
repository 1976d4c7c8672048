"""`nfjax embed` and `classify` into a folder: the same bytes, however many processes, and however they end."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

import nfjax
from nfjax.__main__ import main
from nfjax.many import work

parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, and 23 images of which one is broken."""
    root = tmp_path_factory.mktemp("many")
    nfjax.save(nfjax.load("test_nfnet", weights=None), root / "model")
    rng = np.random.default_rng(0)
    (root / "photos").mkdir()
    for i in range(23):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(root / "photos" / f"{i:02}.png")
    (root / "photos" / "04.png").write_bytes(b"no image")
    return root


def command(place, output, *options, task="embed"):
    given = [task, str(place / "photos"), "--model", str(place / "model"), "--img-size", "32", "--batch-size", "4"]
    return [*given, "--part-size", "5", "-o", str(output), *options]


def content(folder):
    """Every file with its hash."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def undisturbed(place):
    assert main(command(place, place / "undisturbed")) == 1
    return content(place / "undisturbed")


def test_parts_have_the_rows_of_the_single_file(place, undisturbed, capsys):
    assert list(undisturbed) == [*(f"part-0000{i}.parquet" for i in range(5)), "plan.json", "skipped/part-00000.jsonl"]
    given = command(place, "")
    assert main([*given[: given.index("--part-size")], "-o", str(place / "single.parquet")]) == 1
    one = parquet.read_table(place / "single.parquet").to_pydict()
    parts = [parquet.read_table(place / "undisturbed" / name) for name in undisturbed if name.endswith(".parquet")]
    assert [len(part) for part in parts] == [4, 5, 5, 5, 3]
    assert [name for part in parts for name in part.to_pydict()["files"]] == one["files"]
    embeddings = np.concatenate([np.array(part.to_pydict()["embeddings"], np.float32) for part in parts])
    np.testing.assert_allclose(embeddings, np.array(one["embeddings"], np.float32), rtol=1e-4, atol=1e-5)
    capsys.readouterr()
    assert main(command(place, place / "undisturbed")) == 1  # nothing is left to do
    said = capsys.readouterr()
    assert "22 embeddings from test_nfnet" in said.out
    assert "in 5 parts, none of them by this process" in said.out
    assert "04.png is not an image that Pillow can read: it begins with b'no image'." in said.err
    assert "1 of 23 images was skipped; all are in" in said.err


def test_two_at_once(place, undisturbed, tmp_path):
    codes = []
    threads = [threading.Thread(target=lambda: codes.append(main(command(place, tmp_path / "out")))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [1, 1]
    assert content(tmp_path / "out") == undisturbed


def test_an_end_in_the_middle(place, undisturbed, tmp_path, monkeypatch):
    """An error of the machine ends the command, is no report of a broken image, and nothing that is there is lost."""
    read, calls = work.read_image, []

    def tired(*args, **options):
        calls.append(args)
        if len(calls) > 12:
            raise OSError(24, "Too many open files")
        return read(*args, **options)

    monkeypatch.setattr(work, "read_image", tired)
    assert main(command(place, tmp_path / "out")) == 2
    monkeypatch.undo()
    there = content(tmp_path / "out")
    assert 0 < len([name for name in there if name.startswith("part")]) < 5
    assert main(command(place, tmp_path / "out")) == 1
    assert content(tmp_path / "out") == undisturbed


def test_another_plan_is_refused(place, undisturbed, capsys):
    for options, said in (
        (["--normalize"], "normalize is False there and True here"),
        (["--part-size", "6"], "part-size is 5 there and 6 here"),
        (["--img-size", "64"], "weights and preprocessing is "),
        (["--patience", "0"], "--patience=0; expected at least 1."),
    ):
        assert main(command(place, place / "undisturbed", *options)) == 2
        err = capsys.readouterr().err
        assert said in err
    assert content(place / "undisturbed") == undisturbed
    assert main(["embed", "x.png", "-o", "x.npz", "--part-size", "3"]) == 2
    file = command(place, place / "x.npz")
    assert main(file) == 2
    assert "--part-size is for an output that is a folder" in capsys.readouterr().err


def test_classes_and_parts_of_broken_images_alone(place, tmp_path):
    (tmp_path / "broken").mkdir()
    for i in range(5):
        (tmp_path / "broken" / f"{i}.png").touch()
    (tmp_path / "table.jsonl").write_text("".join(json.dumps({"path": f"broken/{i}.png"}) + "\n" for i in range(5)))
    options = ["--format", "parts", "--topk", "2"]
    given = command(place, tmp_path / "out", *options, task="classify")
    given.insert(1, str(tmp_path / "table.jsonl"))
    assert main(given) == 1
    files = sorted((tmp_path / "out").glob("*.parquet"))
    empty, *others = map(parquet.read_table, files)
    assert len(empty) == 0
    assert empty.schema.field("file").type == others[0].schema.field("file").type
    rows = others[0].to_pylist()
    assert [row["rank"] for row in rows[:4]] == [1, 2, 1, 2]
    assert rows[0]["probability"] >= rows[1]["probability"]
    assert len((tmp_path / "out" / "skipped" / "part-00000.jsonl").read_text().splitlines()) == 5


@pytest.mark.slow
def test_killed_again_and_again(place, undisturbed, tmp_path):
    """Two processes at a time, killed at random moments, 25 times; then two that are left alone."""
    chance, output, kills = random.Random(0), tmp_path / "out", 0
    line = [sys.executable, "-m", "nfjax", *command(place, output)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}

    def start():
        return subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    began = time.monotonic()
    first = start()
    while not (output / ".work").exists():  # how long it takes until something can be disturbed
        time.sleep(0.05)
        assert first.poll() is None
    usual = time.monotonic() - began
    processes = [first, start()]
    while kills < 25:
        time.sleep(chance.uniform(0.1, 1.5) * usual)
        index = chance.randrange(2)
        if processes[index].poll() is None:
            processes[index].send_signal(signal.SIGKILL)
            kills += 1
            print(f"kill {kills} after {time.monotonic() - began:.0f} s", flush=True)
        processes[index].wait()
        processes[index] = start()
        if len(list(output.glob("part-*.parquet"))) == 5:  # begin anew, lest there is nothing left to disturb
            (output / f"part-0000{chance.randrange(5)}.parquet").unlink()
    assert [process.wait() for process in processes] == [1, 1]
    assert content(output) == undisturbed


@pytest.mark.parametrize("ending", [".parquet", ".tar"])
def test_a_folder_of_files_with_images_in_them(place, ending, tmp_path, capsys):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / f"0{ending}").touch()
    given = ["embed", f"{tmp_path}/shards/", "--model", str(place / "model"), "-o", str(tmp_path / "out")]
    assert main(given) == 2
    assert f"give '{tmp_path}/shards/**/*{ending}', and a folder as --output." in capsys.readouterr().err
