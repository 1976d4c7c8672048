"""Images on the host, from files to batches of uint8; the step normalises them on the device."""

from train.data.broken import REPORT
from train.data.dataset import SOURCES, Dataset, for_config, load, sources
from train.data.pipeline import Split, own_rows, test_batches, train_batches
from train.data.prefetch import Batch, Batches
from train.data.sources.base import Arrays, Example, Source

__all__ = [
    "REPORT",
    "SOURCES",
    "Arrays",
    "Batch",
    "Batches",
    "Dataset",
    "Example",
    "Source",
    "Split",
    "for_config",
    "load",
    "own_rows",
    "sources",
    "test_batches",
    "train_batches",
]
