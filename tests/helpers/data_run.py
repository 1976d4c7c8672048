"""Reads training batches, for tests that end it: `python tests/helpers/data_run.py ROOT WORKERS [close]`.

Its first line is the start of the names of its shared memory. It prints "reading" when it is under way, and reads until
it is ended. With `close` it ends its workers itself, and prints as JSON what there was and what is left.
"""

import json
import multiprocessing.shared_memory
import os
import sys
from pathlib import Path

# So that a test tells our shared memory from that of other tests: of the process that runs this file, and of its
# workers, which run it too. Not where a test imports it: all that the test's process starts would have the same name.
PREFIX = ""
if __name__ in ("__main__", "__mp_main__"):
    PREFIX = os.environ.setdefault("DATA_RUN", f"nf{os.getpid() % 10**5:05d}")
    multiprocessing.shared_memory._SHM_NAME_PREFIX = f"/{PREFIX}"


def blocks(prefix: str) -> list[str]:
    """The names of shared memory that start so."""
    folder = Path("/dev/shm")
    return sorted(path.name for path in folder.glob(f"{prefix}*")) if folder.is_dir() else []


def close(batches) -> dict:
    import psutil

    kept = [next(batches)["image"] for _ in range(4)]
    before = len(blocks(PREFIX))
    batches.close()
    children = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    return {
        "before": before,
        "after": len(blocks(PREFIX)),
        "children": [child for child in children if "resource_tracker" not in child],
        "kept": all(bool(image.sum()) for image in kept),  # what was given out is still there
    }


if __name__ == "__main__":
    from nfjax.models.data_config import DataConfig
    from train.config import Data
    from train.data import load_dataset, train_batches

    print(PREFIX, flush=True)
    data = Data(name="folder", root=sys.argv[1], batch_size=8, image_size=64, workers=int(sys.argv[2]))
    batches = train_batches(load_dataset(data, DataConfig()).train, data, seed=0)
    if "close" in sys.argv:
        print(json.dumps(close(batches)))
    else:
        for number, _ in enumerate(batches):
            if number == 5:
                print("reading", flush=True)
