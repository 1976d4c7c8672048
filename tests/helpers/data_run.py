"""A program that reads training batches, for tests that end it: `python tests/helpers/data_run.py ROOT WORKERS`.

Prints a line when it is under way, and then reads until it is ended.
"""

import sys

from nfjax.models.data_config import DataConfig
from train import data as pipeline
from train.config import Data

if __name__ == "__main__":
    data = Data(name="folder", root=sys.argv[1], batch_size=8, image_size=64, workers=int(sys.argv[2]))
    batches = pipeline.train_batches(pipeline.load(data, DataConfig()).train, data, seed=0)
    for number, _ in enumerate(batches):
        if number == 5:
            print("reading", flush=True)
