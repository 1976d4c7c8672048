"""Sources of very many images: any range of them is the same as that of the list of all."""

import io
import json
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nfjax.cli.many import _sources
from nfjax.many.inputs import Inputs, open_file

COUNT = 150


def picture(i):
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(file, "png")
    return file.getvalue()


def parquet(file, column, group=40):
    table = pytest.importorskip("pyarrow").table(column)
    pytest.importorskip("pyarrow.parquet").write_table(table, file, row_group_size=group)


def test_every_range_of_every_kind(tmp_path):
    images = [picture(i) for i in range(COUNT)]
    (tmp_path / "photos").mkdir()
    names = [f"photos/{i:03}.png" for i in range(COUNT)]
    for name, image in zip(names, images, strict=True):
        (tmp_path / name).write_bytes(image)
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *(f"{name},0" for name in names)]))
    (tmp_path / "list.jsonl").write_text("\n".join(f'{{"file_name": "{name}"}}' for name in names))
    parquet(tmp_path / "bytes.parquet", {"image": images})
    parquet(tmp_path / "hf.parquet", {"image": [{"bytes": image, "path": "x.png"} for image in images]})
    parquet(tmp_path / "paths.parquet", {"path": names})
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for i, image in enumerate(images):
            for name, data in ((f"{i:03}.png", image), (f"{i:03}.cls", b"1")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

    def read(content):
        return content if isinstance(content, bytes) else Path(content).read_bytes()

    kinds = ["photos", "list.csv", "list.jsonl", "bytes.parquet", "hf.parquet", "paths.parquet", "shard.tar"]
    for kind in kinds:
        (source,) = _sources([str(tmp_path / kind)], None)
        assert len(source) == COUNT, kind
        for start, stop in ((0, COUNT), (39, 41), (70, 130), (149, 150), (5, 5)):
            items = list(source.items(start, stop))
            assert [read(item.content) for item in items] == images[start:stop], (kind, start, stop)
            assert len({item.name for item in items}) == stop - start
    everything = Inputs(list(_sources([str(tmp_path / kind) for kind in kinds], None)))
    assert len(everything) == COUNT * len(kinds)
    assert [read(item.content) for item in everything.items(COUNT - 2, COUNT + 2)] == [*images[-2:], *images[:2]]
    assert [item.name for item in Inputs([open_file(tmp_path / "shard.tar")]).items(0, 1)] == [
        f"{tmp_path}/shard.tar/000.png"
    ]
    digests = {Inputs(list(_sources([str(tmp_path / kind)], None))).digest() for kind in kinds}
    assert len(digests) == len(kinds) - 3  # the folder and the three tables of paths list the same files


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.csv", b"a,b\n1,2\n", "x.csv has no column path or file_name or filename or image; it has a, b. Name it"),
        ("x.csv", b"", "x.csv is empty; expected a table"),
        ("x.csv", b"a,path\n1,2\n3,\n", "x.csv: path is empty in 1 rows: 2"),
        ("x.csv", b"path\na.png\n\xfc.png\n", r"x.csv, line 3: byte 0xfc is not UTF-8"),
        ("x.jsonl", b'{"a": 1}\n{"path": "a.png"}\n', "x.jsonl: path is empty in 1 rows: 1"),
        ("x.tar", b"no tar file", "cannot be read as a tar file without compression"),
        ("x.parquet", b"no parquet file", "x.parquet: "),
        ("absent.tar", None, "there is no file"),
    ],
)
def test_what_is_wrong_is_said(name, content, said, tmp_path):
    pytest.importorskip("pyarrow")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        open_file(tmp_path / name)


def test_a_column_of_no_images(tmp_path):
    parquet(tmp_path / "x.parquet", {"image": [1, 2]})
    with pytest.raises(ValueError, match="its column image is int64; expected paths, or files as bytes"):
        open_file(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"it has no column photo, but image. Name it: --column"):
        open_file(tmp_path / "x.parquet", "photo")


def test_paths_as_categories(tmp_path):
    names = pytest.importorskip("pyarrow").array(["a.png", "b.png"]).dictionary_encode()
    parquet(tmp_path / "x.parquet", {"path": names})
    found = [item.name for item in open_file(tmp_path / "x.parquet").items(0, 2)]
    assert found == [f"{tmp_path}/a.png", f"{tmp_path}/b.png"]


def test_a_path_that_is_not_there(tmp_path):
    parquet(tmp_path / "x.parquet", {"path": ["a.png", None, "b.png"]})
    with pytest.raises(ValueError, match=r"^\S+/x.parquet: path is empty in 1 rows: 2.$"):
        open_file(tmp_path / "x.parquet")


def test_a_table_takes_the_memory_of_its_paths(tmp_path):
    """Not that of objects for each, nor that of the other columns."""
    rows = [(f"images/{i:09}.jpg", "caption " * 5) for i in range(3000)]
    (tmp_path / "x.csv").write_text("path,text\n" + "".join(f"{path},{text}\n" for path, text in rows))
    lines = (json.dumps({"path": path, "text": text}) + "\n" for path, text in rows)
    (tmp_path / "x.jsonl").write_text("".join(lines))
    for name in ("x.csv", "x.jsonl"):
        tracemalloc.start()
        source = open_file(tmp_path / name)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(source) == len(rows)
        assert peak < 2.5 * sum(len(str(tmp_path)) + len(path) + 9 for path, _ in rows) + 300_000


def test_paths_are_written_as_pathlib_writes_them(tmp_path):
    paths = ["a.png", "./a.png", "b//a.png", "b/./a.png", "../a.png", "b/", ".", "/c//a.png", "/c.png", ".hidden/a.png"]
    (tmp_path / "x.csv").write_text("\n".join(["path", *paths]))
    found = [item.name for item in open_file(tmp_path / "x.csv").items(0, len(paths))]
    assert found == [str(tmp_path / path) for path in paths]
