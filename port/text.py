"""Text for people: numbers with their units, and what other people wrote: their files, and names on a terminal."""

import codecs
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, TypeVar

# Longest first: the mark of UTF-16 is the beginning of that of UTF-32.
_MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF8: "utf-8-sig"}
_MARKS |= {codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


T = TypeVar("T")
# Joiners inside words of some scripts, and inside emoji; everything else that shows nothing may change what is shown.
_JOINERS = {"\u200c", "\u200d"}


def plural(count: float, noun: str) -> str:
    """A noun as it stands behind a number of things: "image" behind 1, else "images", or "classes"."""
    return noun if count == 1 else f"{noun}es" if noun.endswith("s") else f"{noun}s"


def counted(count: int, noun: str) -> str:
    """So many things: "1 image", "360 images"."""
    return f"{count} {plural(count, noun)}"


def file_size(count: int) -> str:
    """Bytes in the unit that suits them: "412.7 kB"."""
    number, unit = float(count), "GB"
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 999.95 or unit == "GB":
            break
        number /= 1000
    return counted(count, "byte") if unit == "bytes" else f"{number:.4g} {unit}"


def cut(text: str, most: int) -> str:
    """Text of at most so many characters; the last is an ellipsis where some are left out."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def printable(text: object) -> str:
    """Text for a terminal: what could move its cursor, hide text or turn it round is spelt out, but for line ends."""
    return "".join(
        c if c.isprintable() or c == "\n" or c in _JOINERS else c.encode("unicode_escape").decode() for c in str(text)
    )


def one_line(text: object) -> str:
    """`printable`, and line ends are spelt out too."""
    return printable(text).replace("\n", "\\n")


def encodable(text: str) -> str:
    """Text that UTF-8 can hold: bytes of a file's name that were none are spelt out."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def read_json(path: Path, kind: type[T], remedy: str) -> T:
    """What a JSON file of ours holds.

    Args:
        kind: `dict` or `list`, which it must be.
        remedy: what to do where it is damaged, a sentence.

    Raises:
        ValueError: it is not UTF-8, not JSON, nested without end, or of another kind; names the file.
    """
    try:
        found = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}). {remedy}") from error
    if not isinstance(found, kind):
        expected = "an object" if kind is dict else "a list"
        raise ValueError(f"{path} is damaged (found {one_line(repr(found))[:40]}, expected {expected}). {remedy}")
    return found


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in what its byte order mark says.

    Raises:
        ValueError: it is neither; which encoding it is instead cannot be told from the bytes.
    """
    data = path.read_bytes()
    try:
        return data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save the file in UTF-8 (from Latin-1: "
            f"iconv -f latin1 -t utf-8 {path.name})."
        ) from None


@contextlib.contextmanager
def opened_text(path: Path, newline: str) -> Iterator[TextIO]:
    """`read_text`, a line at a time.

    Args:
        newline: of `open`, where lines end; they keep their ends.
    """
    with path.open("rb") as file:
        encoding = _encoding(file.read(4))
    try:
        with path.open(encoding=encoding, newline=newline) as text:
            yield text
    except UnicodeDecodeError:
        read_text(path)  # raises what says where it is
        raise


def _encoding(data: bytes) -> str:
    return next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
