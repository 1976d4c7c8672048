"""Which names there are, as far as it can be told without importing a model: a mistake is answered at once."""

import csv
import functools
from collections.abc import Collection
from importlib import resources

from port.messages import hint
from port.paths import no_file, no_folder, user_path


class UnknownModelError(ValueError):
    """A name that is no architecture, or a tag that the architecture does not have."""


def unknown(name: str, known: Collection[str]) -> UnknownModelError:
    """The error for a name whose architecture is not among the known ones, with the closest."""
    if "/" in name or "\\" in name:
        return UnknownModelError(
            f"{name!r} is no model name, and there is no such folder here; of the Hugging Face hub it is "
            f"'hf-hub:{name}'."
        )
    shown = "`nfjax list` or nfjax.list_models() shows all names."
    close = hint(name.partition(".")[0], known, shown, n=3, cutoff=0.5)
    return UnknownModelError(f"unknown model {name!r}; {close}")


def require_model(name: str, *, onnx: bool = False) -> None:
    """Refuse a name that is surely none: an architecture or a folder that there is not.

    Tags, what a folder holds, and the hub are `nfjax.weights.names.resolve`'s.

    Args:
        onnx: an ONNX file will do as well.

    Raises:
        UnknownModelError: no such architecture; the closest are suggested. Or an ONNX file where none will do.
        FileNotFoundError: no such folder or file.
    """
    if is_onnx(name):
        if not user_path(name).is_file():
            raise no_file(user_path(name))
        if not onnx:
            raise UnknownModelError(
                f"{name} is an ONNX file; `nfjax classify` and `nfjax evaluate` take such as a model."
            )
        return
    scheme, colon, rest = name.partition(":")
    local = scheme.lower().replace("_", "-") == "local-dir"
    if colon and len(scheme) > 1 and not local:
        return
    folder = user_path(rest if local else name)
    if folder.is_dir():
        return
    if local or name.startswith((".", "/", "~")):
        raise no_folder(folder)
    if name.partition(".")[0] not in architectures():
        raise unknown(name, architectures())


def is_onnx(name: str) -> bool:
    """Whether a model's name is that of an ONNX file."""
    return name.lower().endswith(".onnx")


@functools.cache
def architectures() -> tuple[str, ...]:
    """All architectures, as the packaged table of their costs has them."""
    return tuple(dict.fromkeys(row[0] for row in table("counts.csv")))


def table(file: str) -> list[list[str]]:
    """The rows of a packaged table, without comments and header."""
    text = (resources.files("nfjax") / "data" / file).read_text()
    return list(csv.reader(line for line in text.splitlines() if not line.startswith("#")))[1:]
