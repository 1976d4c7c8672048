"""What commands look at before they import what takes long: files, patterns and endings that are surely wrong."""

import glob
import re
from pathlib import Path
from typing import NoReturn

from port.paths import SCHEMES, is_remote, no_weights, user_path
from port.stores import Store, readable

SUFFIX = {"zip": ".zip", "stablehlo-text": ".mlir", "onnx": ".onnx"}  # of the files of `nfjax export`, by format


ARCHIVES = (".tar", ".zip")  # of files that stand for a folder of images
STDIN = "-"  # the name of standard input
Place = Path | str  # of an image: a path; or an address, on the web or in an object store, or `STDIN`, as text


def is_url(text: str) -> bool:
    """Whether a name is an address, on the web or in an object store.

    Raises:
        ValueError: it is an address of another kind.
    """
    scheme = re.match("([a-z][a-z0-9+.-]+)://", text.lower())
    if scheme and scheme[1] not in ("http", "https", "file", *SCHEMES):
        raise ValueError(
            f"{text}: addresses are http://, https://, s3://, gs:// or file://; download the file, and name that."
        )
    return bool(scheme) and text[:7] != "file://"


def place(text: str) -> Place:
    """An image as it was typed: a path, a web address, or `STDIN`."""
    return text if text == STDIN or is_url(text) else user_path(text)


def find(pattern: str) -> list[Place]:
    """What a name or a shell pattern stands for, sorted: files and folders, an address or `STDIN`.

    Raises:
        FileNotFoundError: it is nothing.
    """
    path = place(pattern)
    if isinstance(path, str):
        found = Store(path).matching() if is_remote(path) and set("*?[") & set(path) else [path]
        return [*found] or _nothing(pattern)
    paths: list[Place] = [path] if path.exists() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    return paths or _nothing(pattern)


def _nothing(pattern: str) -> NoReturn:
    raise FileNotFoundError(f"{pattern} is no file, folder or pattern.")


def require_weights(weights: str | None) -> None:
    """Refuse a file or folder of weights that there is not; "pretrained" and None are none."""
    if weights not in ("pretrained", None) and not readable(weights).exists():
        raise no_weights(weights)


def format_of(path: Path | None, format: str | None) -> str:
    """The format of a file of `nfjax export`: the one asked for, or that of its ending, or a zip."""
    by_ending = {suffix: name for name, suffix in SUFFIX.items()}
    return format or by_ending.get("" if path is None else path.suffix, "zip")


def require_export(path: Path | None, format: str) -> None:
    """Refuse a file name of another ending than the format's: a ValueError that says what is written instead."""
    if path is None or path.suffix == SUFFIX[format]:
        return
    if path.suffix.lower() == ".onnx":
        raise ValueError(f"{path}: expected a file name ending in {SUFFIX[format]}; nfjax.export_onnx writes ONNX.")
    raise ValueError(f"{path}: expected a file name ending in {SUFFIX[format]} for the format {format}.")
