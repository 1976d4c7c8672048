"""What commands look at before they import what takes long: files, patterns and endings that are surely wrong."""

import glob
from pathlib import Path

from port.paths import no_weights, user_path

SUFFIX = {"zip": ".zip", "stablehlo-text": ".mlir"}  # of the files of `nfjax export`, by format


def find(pattern: str) -> list[Path]:
    """The files and folders that a name or a shell pattern stands for, sorted; a FileNotFoundError if it is nothing."""
    path = user_path(pattern)
    paths = [path] if path.exists() else sorted(map(Path, glob.glob(str(path), recursive=True)))
    if not paths:
        raise FileNotFoundError(f"{pattern} is no file, folder or pattern.")
    return paths


def require_weights(weights: str | None) -> None:
    """Refuse a file or folder of weights that there is not; "pretrained" and None are none."""
    if weights not in ("pretrained", None) and not user_path(weights).exists():
        raise no_weights(user_path(weights))


def require_export(path: Path | None, format: str) -> None:
    """Refuse a file name of another ending than the format's: a ValueError that says what is written instead."""
    if path is None or path.suffix == SUFFIX[format]:
        return
    formats = " or ".join(f"{ending} (format {name})" for name, ending in SUFFIX.items())
    if path.suffix.lower() == ".onnx":
        raise ValueError(f"{path}: ONNX is not written, but StableHLO; expected a file name ending in {formats}.")
    raise ValueError(f"{path}: expected a file name ending in {SUFFIX[format]} for the format {format}.")
