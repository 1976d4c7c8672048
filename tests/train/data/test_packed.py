"""Images in archives, shards and parquet files: the same as in folders; and what is said of hostile ones."""

import io
import json
import pickle
import tarfile
import zipfile

import pytest

from nfjax.support import archives
from tests.helpers.photos import make_folder
from train.cli.flags import read_command
from train.cli.options import UsageError
from train.config import Data
from train.data import find_sources, train_batches
from train.data.broken import require_images
from train.data.dataset import load_dataset
from train.data.place import place
from train.data.sources import shards
from train.data.sources.folder import open_folder
from train.data.sources.manifest import open_manifest
from train.data.sources.shards import expand, open_shards


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("photos"), train=4, val=2, size=16, classes=3)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NFJAX_CACHE", str(tmp_path / "cache"))


def tar(file, members):
    """A tar file of names and bytes; instead of bytes, a `TarInfo`'s changes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as opened:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, dict):
                vars_ = content
                for key, value in vars_.items():
                    setattr(member, key, value)
                opened.addfile(member)
            else:
                member.size = len(content)
                opened.addfile(member, io.BytesIO(content))
    return file


def everything(source):
    return [(source.key(i), source[i]["label"], source[i]["image"]) for i in range(len(source))]


@pytest.mark.parametrize("kind", ["tar", "stored", "deflated"])
def test_an_archive_stands_for_the_folder_in_it(photos, tmp_path, kind):
    files = sorted(file for file in photos.rglob("*") if file.is_file())
    file = tmp_path / ("data.tar" if kind == "tar" else "data.zip")
    if kind == "tar":
        tar(file, [(f"./around/{path.relative_to(photos)}", path.read_bytes()) for path in files])
    else:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED) as opened:
            opened.comment = b"PK\3\4 somewhere"
            for path in files:
                opened.write(path, f"around/{path.relative_to(photos)}")
    assert place(str(file)) == {"name": "folder", "root": str(file)}
    found, expected = find_sources(Data("folder", str(file))), find_sources(Data("folder", str(photos)))
    for ours, theirs in zip(found, expected, strict=True):
        ours = pickle.loads(pickle.dumps(ours))
        assert everything(ours) == everything(theirs)
        assert ours.class_names == theirs.class_names
        require_images(ours)
    data = bytearray(file.read_bytes())
    offset = int(found[0]._places[0, 0])
    file.write_bytes(data[: offset + 40])
    with pytest.raises(OSError, match=r"cut off or changed"):
        found[0][0]
    if kind != "tar":
        data[offset + 100] ^= 1
        file.write_bytes(data)
        with pytest.raises(OSError, match=r"the zip file is damaged"):
            found[0][0]


def samples(photos, split, label):
    """The members of a shard, by the kind of its labels."""
    for number, file in enumerate(sorted((photos / split).rglob("*.jpg"))):
        name = file.parent.name
        yield f"{number:04}.jpg", file.read_bytes()
        if label == "cls":
            yield f"{number:04}.cls", str(sorted(p.name for p in (photos / split).iterdir()).index(name)).encode()
        elif label == "json":
            yield f"{number:04}.json", json.dumps({"width": 16, "label": name}).encode()
        else:
            yield f"{number:04}.TXT", f"{name}\n".encode()


@pytest.mark.parametrize("label", ["cls", "json", "txt"])
def test_shards(photos, tmp_path, label, monkeypatch):
    members = list(samples(photos, "train", label))
    tar(tmp_path / "photos-train-00.tar", members[:10])
    tar(tmp_path / "photos-train-01.tar", [("__key__.info", b""), *members[10:]])
    tar(tmp_path / "photos-val-00.tar", samples(photos, "val", label))
    data = Data(f"wds/{tmp_path}/photos-{{train-{{00..01}},val-00}}.tar", image_size=16, batch_size=4)
    train, test = find_sources(data)
    names = [sorted((photos / split).rglob("*.jpg")) for split in ("train", "val")]
    for source, files in zip((train, test), names, strict=True):
        assert [source[i]["image"] for i in range(len(source))] == [file.read_bytes() for file in files]
        assert [source.class_names[i] for i in source.labels()] == [
            str(i // (4 if source is train else 2)) if label == "cls" else file.parent.name
            for i, file in enumerate(files)
        ]
    assert train.key(0) == "photos-train-00.tar/0000"
    monkeypatch.setattr(shards, "_look_through", None)  # what was found is kept
    again = open_shards("*.tar", tmp_path)
    assert list(again) == ["train", "val"]
    assert again["train"].fingerprint() == train.fingerprint()
    assert again.notes == ("passed over: 1 without an image",)
    file = next((tmp_path / "cache/shards").iterdir())
    file.write_text("[")  # what is damaged is looked for again
    with pytest.raises(TypeError):
        open_shards("*.tar", tmp_path)
    monkeypatch.undo()
    batches = train_batches(load_dataset(data).train, data, seed=0)
    assert next(batches)["image"].shape == (4, 16, 16, 3)
    batches.close()


def test_patterns(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MOST_SHARDS", 100)
    for name in ("a-2.tar", "a-10.tar", "b/c.tar"):
        tar(tmp_path / name, [])
    found = {
        pattern: [str(file.relative_to(tmp_path)) for file in expand(pattern, tmp_path)] for pattern in ("*.tar", "")
    }
    assert found == {"*.tar": ["a-2.tar", "a-10.tar"], "": ["a-2.tar", "a-10.tar", "b/c.tar"]}
    for pattern, message in [
        ("a-{2..4}.tar", r"2 of 3 shards are not there: .*a-3\.tar, .*a-4\.tar"),
        ("x*.tar", "no shards"),
        ("a-{4..2}.tar", "counts 4 to 2"),
        ("{0..9}{0..9}{0..9}.tar", "more than 100"),
        ("https://x.org/a.tar", "copy them to a disk"),
        ("pipe:cat a.tar", "copy them to a disk"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            expand(pattern, tmp_path)
    with pytest.raises(ValueError, match=r"c\.tar: of which split is it"):
        shards._split_names([tmp_path / "train-1.tar", tmp_path / "c.tar"])


JPG, CLS = ("1.jpg", b"x"), ("1.cls", b"0")
HOSTILE = {
    "link": ([JPG, ("1.cls", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})], r"1\.cls is a link; expected"),
    "hard link": ([JPG, ("1.cls", {"type": tarfile.LNKTYPE, "linkname": "1.jpg"})], r"1\.cls is a link"),
    "device": ([JPG, ("1.cls", {"type": tarfile.CHRTYPE})], r"1\.cls is no plain file"),
    "leads out": ([JPG, CLS, ("../2.jpg", b"x")], r"\.\./2\.jpg leads out of the archive"),
    "absolute": ([("/1.jpg", b"x")], "leads out"),
    "twice": ([JPG, CLS, JPG], r"1\.jpg is there twice; give each sample"),
    "no label": ([JPG, CLS, ("2.jpg", b"x")], r"2 has no label, only jpg; expected \.cls, \.json or \.txt"),
    "none at all": ([JPG], "1 has no label"),
    "empty label": ([JPG, ("1.cls", b" ")], r"s\.tar, 1: found no label"),
    "negative": ([JPG, ("1.cls", b"-1")], "found the label -1"),
    "no text": ([JPG, ("1.cls", b"\xff\xfe\0")], r"1\.cls cannot be read: 'utf-8'"),
    "no JSON": ([JPG, ("1.json", b"{")], r"1\.json cannot be read: Expecting"),
    "deep": ([JPG, ("1.json", b"[" * 100_000)], r"1\.json cannot be read"),
    "no field": ([JPG, ("1.json", b'{"x": 1}')], r"no field label or class or target or cls, but x"),
    "several labels": ([JPG, ("1.json", b'{"label": {"a": 1}}')], "expected the name or the number of one class"),
    "two images": ([JPG, ("1.png", b"x"), CLS], r"1 has jpg, png; which\? Name it: data\.input_key"),
    "no image": ([CLS], "no images; expected tar files with KEY.jpg"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_shards(tmp_path, name):
    members, message = HOSTILE[name]
    file = tar(tmp_path / "s.tar", members)
    with pytest.raises(ValueError, match=message) as error:
        open_shards(str(file))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("cache/shards/*")) or name in (
        "empty label",
        "negative",
        "several labels",
        "no image",
    )


@pytest.mark.parametrize("cut", [1500, 700, 1024])
def test_cut_off_or_damaged_tars(tmp_path, cut):
    file = tar(tmp_path / "s.tar", [("1.jpg", b"x" * 10), ("1.cls", b"0"), ("2.jpg", b"y" * 600)])
    whole = file.read_bytes()
    file.write_bytes(whole[:cut])
    with pytest.raises(ValueError, match=r"s\.tar (is damaged or was cut off at byte|cannot be read as a tar file)"):
        list(archives.members(file))
    file.write_bytes(whole[:1030] + b"\xff" * 20 + whole[1050:])
    with pytest.raises(ValueError, match="is damaged or was cut off at byte 1024"):
        list(archives.members(file))


def test_fields_and_endings_by_name(tmp_path):
    file = tar(
        tmp_path / "s.tar",
        [("1.left.jpg", b"l"), ("1.right.jpg", b"r"), ("1.json", b'{"kind": "cat"}'), ("1.cls", b"7")],
    )
    source = open_shards(str(file), None, "right.jpg", "kind")["train"]
    assert (source[0]["image"], source.class_names) == (b"r", ("cat",))
    assert open_shards(str(file), None, "left.jpg")["train"][0]["label"] == 7


def test_a_parquet_file_without_the_usual_columns_names_the_field(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"photo": [b"x"], "label": ["a"]}), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match=r"no column image .* but photo, label\. Name it: data\.input_key\.$"):
        open_manifest(tmp_path / "p.parquet")


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_files_with_bytes(photos, tmp_path, struct):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    files = sorted((photos / "train").rglob("*.jpg"))
    images = [{"bytes": f.read_bytes(), "path": None} if struct else f.read_bytes() for f in files]
    columns = {"image": images, "label": [f.parent.name for f in files], "split": ["train", "val", "train"] * 4}
    parquet.write_table(pyarrow.table(columns), tmp_path / "p.parquet", row_group_size=5)
    splits = open_manifest(tmp_path / "p.parquet")
    assert [source[i]["image"] for source in splits.values() for i in range(len(source))] == [
        file.read_bytes()
        for split in ("train", "val")
        for file, own in zip(files, columns["split"], strict=True)
        if own == split
    ]
    assert splits["val"].key(0) == "p.parquet#1"
    (blob,) = (file for file in (tmp_path / "cache/parquet").iterdir() if not file.suffix)
    changed = blob.stat().st_mtime_ns
    open_manifest(tmp_path / "p.parquet")
    assert blob.stat().st_mtime_ns == changed


def test_the_folder_kind_points_to_shards(tmp_path):
    file = tar(tmp_path / "s.tar", [JPG, CLS])
    with pytest.raises(ValueError, match=rf"no images in a folder per class.*Shards are data\.name=wds/{file}"):
        open_folder(file)
    with pytest.raises(ValueError, match="Shards are data"):
        open_folder(tmp_path)
    tar(file, [("a/1.jpg", b"x"), ("b/1.jpg", b"x"), ("a/1.jpg", b"x")])
    with pytest.raises(ValueError, match=r"a/1\.jpg is there twice"):
        open_folder(file)


def test_braces_that_the_shell_has_expanded():
    arguments = [f"--config.data.name=wds/train-{number}.tar" for number in range(3)]
    with pytest.raises(UsageError, match="the shell has expanded its braces"):
        read_command(["nfjax train", "--config=digits", *arguments])
