"""Files that are there whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from port.paths import user_path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write that then replaces `path`, whose folder is made if needed.

    Readers of `path` see the old file or the whole new one. If writing fails, the old one stays.

    >>> with replacing("config.json") as partial:
    ...     partial.write_text("{}")
    """
    path = user_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{secrets.token_hex(4)}-{path.name}")  # the suffix still says what it is
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
