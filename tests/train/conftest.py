import pytest
from checkpoints import make_state, put, save


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A run with the checkpoints of steps 1 and 2."""
    workdir = tmp_path_factory.mktemp("pristine")
    save(workdir, put(make_state(1)), put(make_state(2)))
    return workdir
