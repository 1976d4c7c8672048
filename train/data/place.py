"""A data set by one word, as commands take it; nothing is read yet."""

from typing import Any

from nfjax.support.early import ARCHIVES
from port.messages import hint
from port.paths import no_file, no_folder
from port.stores import readable
from train.config import Data

KINDS = ("digits", "tfds", "hfds", "wds")  # of data sets that need no folder
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


def require_root(data: Data) -> None:
    """Refuse a folder or a table that is not there: a FileNotFoundError."""
    if data.root is None or data.name not in ("folder", "manifest"):
        return
    path = readable(data.root)
    if data.name == "folder" and not path.is_dir() and not (path.is_file() and path.suffix.lower() in ARCHIVES):
        raise FileNotFoundError(f"data.root: {no_folder(path)}")
    if data.name == "manifest" and not path.exists():
        raise FileNotFoundError(f"data.root: {no_file(path)}")


def place(text: str) -> dict[str, Any]:
    """The fields of `train.config.Data` that a word stands for: a folder, a table, or the name of a data set.

    Raises:
        FileNotFoundError: it is none of them.
    """
    path = readable(text)
    if path.is_dir():
        kinds = {"features.json": "tfds", "dataset_dict.json": "hfds"}
        return {"name": next((kind for file, kind in kinds.items() if (path / file).is_file()), "folder"), "root": text}
    if path.suffix.lower() in TABLES:
        return {"name": "manifest", "root": text}
    if path.is_file() and path.suffix.lower() in ARCHIVES:
        return {"name": "folder", "root": text}
    if path.suffix == ".tar" and set("{*?[") & set(text) and not text.startswith("wds/"):
        return {"name": f"wds/{text}"}
    if text.partition("/")[0] in KINDS:
        return {"name": text}
    found = "is no table" if path.exists() else "there is no such file or folder"
    tables = f"a table ({', '.join(TABLES)}), an archive ({', '.join(ARCHIVES)})"
    expected = f"a folder, {tables}, digits, tfds/NAME, hfds/ORG/NAME or wds/PATTERN"
    raise FileNotFoundError(f"{text}: {found}; {hint(text, KINDS, f'expected {expected}.')}")
