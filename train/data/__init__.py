"""Images on the host, from files to batches of uint8; the step normalises them on the device."""

from typing import TYPE_CHECKING

from port.lazy import lazy

if TYPE_CHECKING:
    from train.data.broken import REPORT
    from train.data.dataset import SOURCES, Dataset, find_sources, for_config, load_dataset
    from train.data.pipeline import DEVICE_KEYS, Split, own_rows, test_batches, train_batches
    from train.data.prefetch import Batch, Batches
    from train.data.sources.base import ArraySource, Example, Source
else:
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "train.data.broken": ("REPORT",),
            "train.data.dataset": ("SOURCES", "Dataset", "find_sources", "for_config", "load_dataset"),
            "train.data.pipeline": ("DEVICE_KEYS", "Split", "own_rows", "test_batches", "train_batches"),
            "train.data.prefetch": ("Batch", "Batches"),
            "train.data.sources.base": ("ArraySource", "Example", "Source"),
        },
    )

__all__ = [
    "DEVICE_KEYS",
    "REPORT",
    "SOURCES",
    "ArraySource",
    "Batch",
    "Batches",
    "Dataset",
    "Example",
    "Source",
    "Split",
    "find_sources",
    "for_config",
    "load_dataset",
    "own_rows",
    "test_batches",
    "train_batches",
]
