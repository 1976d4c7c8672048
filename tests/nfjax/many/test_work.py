"""Parts, without images and without a model."""

from types import SimpleNamespace

import numpy as np
import pytest

from nfjax.many import work
from nfjax.many.folder import Folder
from nfjax.many.inputs import Files, Inputs
from nfjax.support.tables import Strings


@pytest.fixture
def job(monkeypatch):
    """Twenty parts of two images."""
    monkeypatch.setattr(work._Computer, "_read", lambda self, item: np.zeros((1, 1, 3), np.float32))
    monkeypatch.setattr(work._Computer, "_outputs", lambda self, images: np.zeros((len(images), 4), np.float32))
    inputs = Inputs([Files(Strings(f"{i}.png" for i in range(40)))])
    model = SimpleNamespace(name="none", num_classes=0, head_hidden_size=4)
    return work.Job(inputs, model, None, False, 2, 2, lambda names, outputs, file: file.write_text(f"{names}"))


def test_what_others_have_finished_is_not_asked_for(job, tmp_path, monkeypatch):
    """Else the processes of a pod ask a store tens of millions of times, for a billion images."""
    monkeypatch.setattr(work, "LOOK", 0.0)
    folder, other = (Folder(tmp_path / "out", job.parts, 60.0) for _ in range(2))
    claims, claim = [], folder.claim

    def ours(part):
        claims.append(part)
        for number in set(range(job.parts)) - {part}:  # meanwhile all the others are finished elsewhere
            other.publish(number, lambda file, number=number: file.write_text(f"{number}"), "")
        return claim(part)

    monkeypatch.setattr(folder, "claim", ours)
    assert work.work(job, folder) == 1
    assert len(claims) == 1
    assert len(folder.finished()) == job.parts


def test_counting_that_takes_long_is_done_seldom(job, tmp_path, monkeypatch):
    folder, clock, counted = Folder(tmp_path / "out", job.parts, 60.0), [0.0], []

    def finished():
        counted.append(clock[0])
        clock[0] += 3.0
        return set()

    monkeypatch.setattr(folder, "finished", finished)
    monkeypatch.setattr(work.time, "monotonic", lambda: clock[0])
    progress = work._Progress(job, folder)
    with progress.meter:
        for clock[0] in range(3, 200):
            progress.advance(0)
    assert counted == [0.0, 63, 126, 189]
