"""The index of a model in several files, in the Hugging Face hub's layout."""

import json
import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from port.errors import WeightsFileError, listed
from port.paths import open_regular
from port.pickled import PICKLED

ENDINGS = (".safetensors", *PICKLED)
LARGEST = 100_000_000  # bytes: what safetensors allows a header to have


def read_index(path: Path) -> dict[str, str]:
    """Which file holds which array, `{array name: file name}`: files beside the index, and no others.

    Raises:
        WeightsFileError: it is something else, or names a path, itself, or a file that is no weights.
    """
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > LARGEST:
                raise ValueError(f"more than {LARGEST} bytes")
            index = json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise WeightsFileError(f"{path} is not an index of shards: {error}.") from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(f, str) for f in weight_map.values()):
        raise WeightsFileError(f'{path} is not an index of shards: expected {{"weight_map": {{array: file name}}}}.')
    strangers = sorted({name for name in weight_map.values() if not _is_beside(name)})
    if strangers:
        raise WeightsFileError(
            f"{path} names {listed(map(repr, strangers))}; expected plain names of files beside it, ending in "
            f"{', '.join(ENDINGS)}."
        )
    return weight_map


def _is_beside(name: str) -> bool:
    """Whether it is the plain name of a file of weights, on every system."""
    plain = PurePosixPath(name).name == PureWindowsPath(name).name == name
    return plain and name.isprintable() and name.endswith(ENDINGS)
