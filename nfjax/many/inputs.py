"""Very many images in a fixed order: files, tables of files, parquet files with images in them, and tar shards."""

import hashlib
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from nfjax.support.archives import members
from nfjax.support.early import Place, is_url, place
from nfjax.support.tables import PATH_COLUMNS, Strings, column, read_table
from port.errors import listed
from port.messages import require
from port.paths import no_file
from port.stores import open_place, readable

IMAGE_COLUMNS = ("image", "img", "bytes", "jpg", "jpeg", "png", "webp")
ENDINGS = (".csv", ".jsonl", ".parquet", ".tar")  # of files that stand for many images
ODD = re.compile(r"(^|/)\.?(/|$)")  # in paths that pathlib would write otherwise
AT_ONCE = 64  # rows of a parquet file that are in memory


class Item(NamedTuple):
    """An image: its name in the output, and a path, an address or the bytes of its file."""

    name: str
    content: Place | bytes


class Source(Protocol):
    """Images in a fixed order."""

    def __len__(self) -> int: ...

    def digest(self) -> str:
        """A hash that is another one where there are other images, as far as that is known without reading them."""
        ...

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Those from `start` to `stop`."""
        ...


class Files:
    """Images in files of their own, and at addresses."""

    def __init__(self, names: Strings):
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    def digest(self) -> str:
        """Of their names alone."""
        return self._names.digest()

    def items(self, start: int, stop: int) -> Iterator[Item]:
        for index in range(start, stop):
            name = self._names[index]
            yield Item(name, place(name))


class ParquetImages:
    """Image files in a column of a parquet file, as bytes or as `{"bytes": ..., "path": ...}`; named `FILE#ROW`."""

    def __init__(self, file: Place, name: str, counts: Sequence[int]):
        self._file, self._column = file, name
        self._starts = np.cumsum([0, *counts])  # of the row groups

    def __len__(self) -> int:
        return int(self._starts[-1])

    def digest(self) -> str:
        """Of the file's name, size and footer, which has the places and sizes of its columns."""
        with open_place(self._file) as file:
            size = file.seek(-8, os.SEEK_END)
            length = int.from_bytes(file.read(4), "little")
            file.seek(size - length)
            return _hash(str(self._file), str(size), self._column, hashlib.sha256(file.read(length)).hexdigest())

    def items(self, start: int, stop: int) -> Iterator[Item]:
        parquet = require("pyarrow.parquet", "parquet files")
        if start >= stop:
            return
        first = int(np.searchsorted(self._starts, start, "right")) - 1
        row, groups = int(self._starts[first]), range(first, len(self._starts) - 1)
        with (
            open_place(self._file) as opened,
            parquet.ParquetFile(opened, pre_buffer=False, buffer_size=1 << 20) as file,
        ):
            for batch in file.iter_batches(AT_ONCE, row_groups=list(groups), columns=[self._column]):
                for value in batch.column(0)[max(start - row, 0) : max(stop - row, 0)]:
                    index = max(row, start)
                    yield Item(f"{self._file}#{index}", self._content(value.as_py()))
                    start = index + 1
                row += len(batch)
                if row >= stop:
                    return

    def _content(self, value: Any) -> Place | bytes:
        if not isinstance(value, dict):
            return value or b""
        if not value.get("bytes") and value.get("path"):
            return place(_beside(self._file, value["path"]))
        return value.get("bytes") or b""


class TarImages:
    """The image files in a tar file, as WebDataset has them; named `FILE/MEMBER`. Other members are passed over."""

    def __init__(self, file: Place):
        self._file = file
        names, places = [], []
        for member in members(file):
            if member.is_image:
                names.append(member.name)
                places.append(member.place[:2])
        self._names = Strings(names)
        self._places = np.array(places, np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._names)

    def digest(self) -> str:
        """Of the names, places and sizes of its images."""
        return _hash(str(self._file), self._names.digest(), hashlib.sha256(self._places.tobytes()).hexdigest())

    def items(self, start: int, stop: int) -> Iterator[Item]:
        with open_place(self._file) as file:
            for index in range(start, stop):
                offset, size = map(int, self._places[index])
                file.seek(offset)
                yield Item(f"{self._file}/{self._names[index]}", file.read(size))


class Inputs:
    """Sources one after the other."""

    def __init__(self, sources: Sequence[Source]):
        self._sources = list(sources)
        self._starts = np.cumsum([0] + [len(source) for source in self._sources])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def digest(self) -> str:
        return _hash(*(source.digest() for source in self._sources))

    def items(self, start: int, stop: int) -> Iterator[Item]:
        for source, begin, end in zip(self._sources, self._starts.tolist(), self._starts[1:].tolist(), strict=False):
            if begin < stop and start < end:
                yield from source.items(max(start - begin, 0), min(stop, end) - begin)


def open_file(file: Place, name: str | None = None, option: str = "--column") -> Source:
    """The images that a file with one of `ENDINGS` stands for.

    Args:
        name: the column of a table; None for the first there is of `PATH_COLUMNS`, or in a parquet file of
            `IMAGE_COLUMNS` before them.
        option: what messages call that name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read, or has no such column.
    """
    if isinstance(file, Path) and not file.is_file():
        raise no_file(file)
    ending = os.path.splitext(file)[1].lower()
    if ending == ".tar":
        return TarImages(file)
    if ending == ".parquet":
        return _open_parquet(file, name, option)
    table = readable(file)
    return _paths(file, table, option, name)


def _open_parquet(file: Place, name: str | None, option: str) -> Source:
    pyarrow, parquet = (require(module, "parquet files") for module in ("pyarrow", "pyarrow.parquet"))
    try:
        with open_place(file) as content, parquet.ParquetFile(content) as opened:
            fields = {field.name: field.type for field in opened.schema_arrow}
            usual = (*IMAGE_COLUMNS, *PATH_COLUMNS) if name is None else (name,)
            found = next((one for one in usual if one in fields), None)
            if found is None:
                raise ValueError(f"it has no column {' or '.join(usual)}, but {listed(fields, 20)}. Name it: {option}")
            kind, is_a = fields[found], pyarrow.types
            kind = kind.value_type if is_a.is_dictionary(kind) else kind  # as pandas writes categories
            has_paths = is_a.is_string(kind) or is_a.is_large_string(kind)
            if not (has_paths or is_a.is_binary(kind) or is_a.is_large_binary(kind) or is_a.is_struct(kind)):
                raise ValueError(f"its column {found} is {kind}; expected paths, or files as bytes")
            counts = [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
    except (ValueError, pyarrow.ArrowException) as error:
        raise ValueError(f"{file}: {' '.join(str(error).split())[:300]}.") from None
    return _paths(file, readable(file), option, found) if has_paths else ParquetImages(file, found, counts)


def _paths(file: Place, table: Path, option: str, name: str | None) -> Files:
    """Paths as a table has them, relative to its folder; `table` is the file, or a copy of it."""
    usual = PATH_COLUMNS if name is None else (name,)
    _, values = column(read_table(table, only=usual), table, option, name, PATH_COLUMNS)
    return Files(Strings(_beside(file, str(value)) for value in values))


def _beside(file: Place, path: str) -> str:
    """A path that is relative to the folder of a file."""
    if "://" in path and is_url(path):
        return path
    if isinstance(file, str):
        return posixpath.join(posixpath.dirname(file), path)
    if os.altsep or ODD.search(path):
        return str(file.parent / path)
    return os.path.join(os.path.dirname(file), path)  # the same, in a fifth of the time


def _hash(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode("utf-8", "surrogateescape")).hexdigest()
