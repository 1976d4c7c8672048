"""Tables of images, what an evaluation has written down, and JSON files of a run."""

import csv
import functools
import hashlib
import io
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from port.text import read_json
from tests.fuzz.values import TEXTS, mutate_bytes, mutate_tree, to_json, value
from train.data.sources.manifest import open_manifest
from train.evaluation.predictions import Predictions, PredictionsFile

LABELS = [
    "cat",
    "dog",
    "0",
    "1",
    "2",
    "3.0",
    "-1",
    "300000000",
    "2147483648",
    str(10**400),
    "nan",
    "1e5",
    "",
    " cat",
    "é",
]
# Predictions are written anew without what is lost.
ALLOWED = ("open", "os.mkdir", "os.rename", "os.remove", "os.chmod")


@functools.cache
def picture():
    file = io.BytesIO()
    Image.new("RGB", (3, 3)).save(file, "png")
    return file.getvalue()


def mutants(rng):
    """A name, and the contents of the files that begin with it."""
    kind = rng.choice(["csv", "csv", "jsonl", "parquet", "predictions", "config"])
    return kind, {"csv": of_csv, "jsonl": of_jsonl, "parquet": of_parquet}.get(kind, of_others)(rng, kind)


def rows(rng):
    """Rows of a table: `[{column: value}]`, right as a rule."""
    wild = rng.random() < 0.5
    names = ["path", rng.choice(["label", "class", "target"])] + (["split"] if rng.random() < 0.3 else [])
    names = [*names, rng.choice(TEXTS)] if wild and rng.random() < 0.3 else names
    numbered = rng.random() < 0.5
    found = []
    for _ in range(rng.choice([0, 1, 3, 9])):
        label = rng.choice(LABELS if wild else LABELS[2:5] if numbered else LABELS[:2])
        path = rng.choice(
            ["a.png", "a.png", "inner/b.png"] + (["pipe", "../outside.png", "nowhere", *TEXTS] if wild else [])
        )
        row = {"path": path, names[1]: label, "split": rng.choice(["train", "val", *TEXTS[:2]])}
        found.append({name: row.get(name, rng.choice(TEXTS)) for name in names})
    return found


def of_csv(rng, kind):
    file, found = io.StringIO(newline=""), rows(rng)
    writer = csv.DictWriter(file, found[0] if found else ["path", "label"], delimiter=rng.choice(",,,;\t"))
    writer.writeheader()
    writer.writerows(found)
    text = file.getvalue().encode(rng.choice(["utf-8"] * 5 + ["utf-8-sig", "utf-16", "utf-32", "latin-1"]), "replace")
    if rng.random() < 0.1:
        text += rng.choice(
            [b'"', b"\0", b'a.png,"' + b"x" * 200_000 + b'"\n', b"a.png," + b"9" * 200_000 + b"\n", b"\r\r\n"]
        )
    return {"a.csv": mutate_bytes(rng, text) if rng.random() < 0.4 else text}


def of_jsonl(rng, kind):
    lines = rows(rng)
    if rng.random() < 0.6:
        mutate_tree(rng, lines)
    text = b"".join(to_json(line) + b"\n" for line in lines)
    text += (
        rng.choice([b"[" * 100_000, b'{"path":' * 100_000, b"9" * 5000, b"5\n", b"null\n"])
        if rng.random() < 0.1
        else b""
    )
    return {"a.jsonl": mutate_bytes(rng, text) if rng.random() < 0.4 else text}


def of_parquet(rng, kind):
    import pyarrow
    from pyarrow import parquet

    found = rows(rng)
    for row in found:
        for name in row:
            row[name] = value(rng) if rng.random() < 0.05 else row[name]
    file = io.BytesIO()
    try:
        parquet.write_table(pyarrow.Table.from_pylist(found), file)
    except (ValueError, TypeError, OverflowError, NotImplementedError):  # pyarrow has no such column
        return {"a.parquet": b"PAR1"}
    content = file.getvalue()
    return {"a.parquet": mutate_bytes(rng, content) if rng.random() < 0.6 else content}


def of_others(rng, kind):
    if kind == "config":
        config = {"model": {"name": "test_nfnet"}, "epochs": 3, "data": {"name": "digits"}}
        mutate_tree(rng, config)
        config = value(rng) if rng.random() < 0.2 else config
        text = rng.choice([b"", b"[" * 100_000]) if rng.random() < 0.1 else to_json(config)
        return {"config.json": mutate_bytes(rng, text) if rng.random() < 0.3 else text}
    files, name = written(), rng.choice(["predictions.csv", "predictions.csv", "predictions.seal"])
    files = files | {name: b"" if rng.random() < 0.05 else mutate_bytes(rng, files[name])}
    if rng.random() < 0.3:  # by who knows how it is sealed
        table = files["predictions.csv"]
        files["predictions.seal"] = f"{len(table)} {hashlib.sha256(table).hexdigest()}\n".encode()
        files["sealed anew"] = b""
    return files


def some_predictions():
    rng = np.random.default_rng(0)
    return Predictions(
        np.arange(6, dtype=np.int32), rng.random(6, np.float32), np.arange(12, dtype=np.int32).reshape(6, 2),
        rng.random((6, 2), np.float32),
    )  # fmt: skip


@functools.cache
def written():
    """The files of an evaluation of six images in three batches."""
    with tempfile.TemporaryDirectory() as folder:
        path, all_of_them = Path(folder, "predictions.csv"), some_predictions()
        file = PredictionsFile(path, str, 2)
        file.restore(6, 2)
        for start in (0, 2, 4):
            file.append(part(all_of_them, start, start + 2), start)
        return {name: Path(folder, name).read_bytes() for name in ("predictions.csv", "predictions.seal")}


def part(all_of_them, start, end):
    return Predictions(
        *(getattr(all_of_them, name)[start:end] for name in ("label", "loss", "classes", "probabilities"))
    )


def put(mutant, folder):
    for name, content in mutant[1].items():
        (folder / name).write_bytes(content)
    (folder / "inner").mkdir()
    for path in (folder / "a.png", folder / "inner" / "b.png", folder.parent / "outside.png"):
        path.write_bytes(picture())
    os.mkfifo(folder / "pipe")


def try_(mutant, folder):
    kind, files = mutant
    if kind == "config":
        read_json(folder / "config.json", dict, "Bring it back.")
    elif kind == "predictions":
        kept, expected = PredictionsFile(folder / "predictions.csv", str, 2).restore(6, 2), some_predictions()
        for name in () if "sealed anew" in files else ("label", "loss", "classes", "probabilities"):
            assert getattr(kept, name).tobytes() == getattr(expected, name)[: len(kept)].tobytes()
    else:
        for split in open_manifest(folder / next(iter(files))).values():
            labels = split.labels()
            assert len(split.class_names) <= 10**6
            assert ((labels >= 0) & (labels < len(split.class_names))).all()
            for index in range(len(split)):
                split.look(index)
