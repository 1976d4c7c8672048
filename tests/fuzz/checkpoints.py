"""A run's checkpoint: files damaged as a disk does it, and a description that somebody rewrote and sealed again."""

import functools
import hashlib
import json
import tempfile
from pathlib import Path

from tests.fuzz.values import mutate_bytes, mutate_tree
from tests.helpers.checkpoints import DAMAGES, copy_run, damage, files_of, make_state, save
from tests.helpers.checkpoints import put as placed
from train.checkpoints.files import flatten, load_arrays

RUN = tempfile.TemporaryDirectory()
ALLOWED = ("socket.__new__",)  # the two ends of a pipe, by which the event loop of Orbax wakes itself


@functools.cache
def valid():
    """A run's folder with one checkpoint, and dtype, shape and bytes of every array that it holds."""
    state = make_state(2)
    save(Path(RUN.name), placed(state))
    described = {path: (a.dtype, a.shape, a.tobytes()) for path, a in flatten(state).items()}
    return Path(RUN.name), described


def mutants(rng):
    """What is done to a copy of the run's folder."""
    folder, _ = valid()
    names = [file.relative_to(folder) for file in files_of(folder / "checkpoints")]
    how, name, other = (
        rng.choice(["damage", "bytes", "swap", "description", "description", "none"]),
        *rng.sample(names, 2),
    )
    return how, name, other, rng.choice(DAMAGES), rng


def put(mutant, folder):
    how, name, other, kind, rng = mutant
    copy_run(valid()[0], folder)
    file = folder / name
    if how == "damage":
        damage(file, kind, rng)
    elif how == "bytes":
        file.write_bytes(mutate_bytes(rng, file.read_bytes()))
    elif how == "swap":
        content = file.read_bytes()
        file.write_bytes((folder / other).read_bytes())
        (folder / other).write_bytes(content)
    elif how == "description":
        path = folder / "checkpoints" / "2" / "description.json"
        described = json.loads(json.loads(path.read_text())["description"])
        mutate_tree(rng, described)
        text = json.dumps(described)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        path.write_text(json.dumps({"description": text, "sha256": sha256}))


def try_(_, folder):
    """What comes back is what was saved."""
    expected = valid()[1]
    for path, array in load_arrays(folder, 2).items():
        assert (array.dtype, array.shape, array.tobytes()) == expected[path], path
