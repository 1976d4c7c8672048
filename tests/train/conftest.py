import json

import numpy as np
import pytest

from tests.helpers.checkpoints import make_state, put, save
from train.config import Data
from train.data import find_sources


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A run with the checkpoints of steps 1 and 2."""
    workdir = tmp_path_factory.mktemp("pristine")
    save(workdir, put(make_state(1)), put(make_state(2)))
    return workdir


@pytest.fixture(scope="session")
def tfds_folder(tmp_path_factory):
    """A folder of prepared data sets with the digits in it."""
    root = tmp_path_factory.mktemp("tfds")
    find_sources(Data(name="digits", root=str(root)))
    return root


@pytest.fixture(scope="session")
def tfrecord_folder(tfds_folder, tmp_path_factory):
    """The digits as tfrecord in three files, framed by TensorBoard's writer."""
    tfds = pytest.importorskip("tensorflow_datasets")
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer")
    folder = tmp_path_factory.mktemp("tfrecord") / "digits" / "1.0.0"
    folder.mkdir(parents=True)
    source = tfds_folder / "digits" / "1.0.0"
    (folder / "features.json").write_bytes((source / "features.json").read_bytes())
    info = json.loads((source / "dataset_info.json").read_text())
    builder = tfds.builder_from_directory(source)
    info["fileFormat"] = "tfrecord"
    for split in info["splits"]:
        raw = builder.as_data_source(split=split["name"]).data_source
        examples = [raw[index] for index in range(len(raw))]
        parts = np.array_split(np.arange(len(examples)), 3)
        split["shardLengths"] = [str(len(part)) for part in parts]
        split["filepathTemplate"] = split["filepathTemplate"].replace("array_record", "tfrecord")
        for number, part in enumerate(parts):
            path = folder / f"digits-{split['name']}.tfrecord-{number:05}-of-00003"
            with path.open("wb") as file:
                for index in part:
                    writer.RecordWriter(file).write(examples[index])
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder.parent.parent
