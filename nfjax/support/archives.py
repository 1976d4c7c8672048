"""Tar and zip files as lists of members whose bytes can be had in any order; nothing of them is ever unpacked."""

import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from nfjax.images import JUNK, image_suffixes
from port.stores import open_place
from port.text import cut, one_line

ZIP_HEADER = 30  # bytes of a zip file before a member's name; the lengths of the name and of what follows it are last
MOST = 2**30  # bytes of a member that is read: a few kilobytes can claim to be terabytes
PLAIN, STORED, DEFLATED = 0, 1, 2  # how a member's bytes are kept: as they are, or in a zip file


class Place(NamedTuple):
    """Where the bytes of a member are, and what they must be."""

    offset: int  # of the bytes; of the member's header in a zip file
    stored: int  # how many there are in the file
    size: int  # how many come out
    kept: int = PLAIN
    crc: int = 0  # of what comes out, in a zip file


class Member(NamedTuple):
    """A member of an archive."""

    name: str
    place: Place
    fault: str = ""  # why its bytes cannot be had, if they cannot: "a link"

    @property
    def hidden(self) -> bool:
        """Whether it is one of those that systems add: hidden ones, or in folders such as __MACOSX."""
        parts = self.name.split("/")
        return any((part.startswith(".") and part not in (".", "..")) or part in JUNK for part in parts)

    @property
    def is_image(self) -> bool:
        return not self.fault and not self.hidden and os.path.splitext(self.name)[1].lower() in image_suffixes()


def members(file: Path | str) -> Iterator[Member]:
    """The members of a tar or zip file, in its order, without folders; a tar file may be in an object store.

    Raises:
        ValueError: it is none, is compressed as a whole, or is damaged or cut off.
    """
    yield from _zip_members(Path(file)) if os.path.splitext(file)[1].lower() == ".zip" else _tar_members(file)


def _tar_members(file: Path | str) -> Iterator[Member]:
    try:
        with open_place(file) as opened, tarfile.open(fileobj=opened, mode="r:") as tar:
            while (member := tar.next()) is not None:
                vars(tar)["members"] = []  # it would keep them all
                if member.isdir():
                    continue
                fault = "a link" if member.issym() or member.islnk() else ""
                if not fault and (not member.isreg() or member.sparse is not None):
                    fault = "no plain file"
                yield Member(member.name, Place(member.offset_data, member.size, member.size), fault)
            # Where the next header is damaged, tarfile takes it for the end.
            end = tar.offset
    except tarfile.TarError as error:
        raise ValueError(f"{file} cannot be read as a tar file without compression: {error}.") from None
    with open_place(file) as stream:
        stream.seek(end)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise ValueError(f"{file} is damaged or was cut off at byte {end}: the mark of its end is not there.")


def _zip_members(file: Path) -> Iterator[Member]:
    kept = {zipfile.ZIP_STORED: STORED, zipfile.ZIP_DEFLATED: DEFLATED}
    try:
        with zipfile.ZipFile(file) as opened:
            for info in opened.infolist():
                if info.is_dir():
                    continue
                fault = "a link" if stat.S_ISLNK(info.external_attr >> 16) else ""
                fault = "encrypted" if info.flag_bits & 1 else fault
                if info.compress_type not in kept:
                    fault = f"compressed by method {info.compress_type}"
                how = kept.get(info.compress_type, STORED)
                place = Place(info.header_offset, info.compress_size, info.file_size, how, info.CRC)
                yield Member(info.filename, place, fault)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read as a zip file: {one_line(error)}.") from None


def read(stream: BinaryIO, place: Place, most: int | None = None) -> bytes:
    """The bytes of a member, or at least the first `most` of them.

    Raises:
        OSError: they are not there, or not those that the archive says.
    """
    if place.size > MOST:
        raise OSError(f"a member of {place.size} bytes; expected at most {MOST}")
    offset, stored = place.offset, place.stored
    if place.kept != PLAIN:
        stream.seek(offset)
        header = stream.read(ZIP_HEADER)
        if len(header) < ZIP_HEADER or not header.startswith(b"PK\3\4"):
            raise OSError("the zip file is damaged: a member does not begin where it should")
        offset += ZIP_HEADER + sum(struct.unpack("<HH", header[-4:]))
    elif most is not None:
        stored = min(stored, most)
    stream.seek(offset)
    data = stream.read(stored)
    if len(data) < stored:
        raise OSError("the file ends before the member does: it was cut off or changed")
    return data if place.kept == PLAIN else _out_of_zip(data, place)


def _out_of_zip(data: bytes, place: Place) -> bytes:
    try:
        found = zlib.decompressobj(-15).decompress(data, place.size + 1) if place.kept == DEFLATED else data
    except zlib.error as error:
        raise OSError(f"the zip file is damaged: {error}") from None
    if len(found) != place.size or zlib.crc32(found) != place.crc:
        raise OSError("the zip file is damaged: a member is not what its checksum says")
    return found


def require_sound(file: Path, member: Member) -> None:
    """Refuse a member whose bytes cannot be had, and one whose name leads out of the archive: a ValueError."""
    name = cut(one_line(member.name), 200)
    if member.fault:
        remedy = " Pack files, not links (tar --dereference)." if "link" in member.fault else ""
        raise ValueError(f"{file}: {name} is {member.fault}; expected image files and labels.{remedy}")
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise ValueError(f"{file}: {name} leads out of the archive; pack it from within its folder, without / or ..")
