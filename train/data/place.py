"""A data set by one word, as commands take it; nothing is read yet."""

from typing import Any

from port.messages import hint
from port.paths import user_path

KINDS = ("digits", "tfds", "hfds")  # of data sets that need no folder
TABLES = (".csv", ".jsonl", ".parquet")


def place(text: str) -> dict[str, Any]:
    """The fields of `train.config.Data` that a word stands for: a folder, a table, or the name of a data set.

    Raises:
        FileNotFoundError: it is none of them.
    """
    path = user_path(text)
    if path.is_dir():
        kinds = {"features.json": "tfds", "dataset_dict.json": "hfds"}
        return {"name": next((kind for file, kind in kinds.items() if (path / file).is_file()), "folder"), "root": text}
    if path.suffix.lower() in TABLES:
        return {"name": "manifest", "root": text}
    if text.partition("/")[0] in KINDS:
        return {"name": text}
    found = "is no table" if path.exists() else "there is no such folder"
    expected = f"a folder, a table ({', '.join(TABLES)}), digits, tfds/NAME or hfds/ORG/NAME"
    raise FileNotFoundError(f"{text}: {found}; {hint(text, KINDS, f'expected {expected}.')}")
