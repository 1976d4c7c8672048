"""A program that reads training batches, for tests that end it: `python tests/helpers/data_run.py ROOT WORKERS`.

Prints a line when it is under way, and then reads until it is ended.
"""

import sys

from nfjax.models.data_config import DataConfig
from train.config import Data
from train.data import load_dataset, train_batches

if __name__ == "__main__":
    data = Data(name="folder", root=sys.argv[1], batch_size=8, image_size=64, workers=int(sys.argv[2]))
    batches = train_batches(load_dataset(data, DataConfig()).train, data, seed=0)
    for number, _ in enumerate(batches):
        if number == 5:
            print("reading", flush=True)
