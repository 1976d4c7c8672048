import pytest

from benchmarks import measure


@pytest.fixture
def quick(monkeypatch):
    """The smallest run; the machine's limit is not what is tested."""
    monkeypatch.setattr(measure, "CEILING_SIZE", {"cpu": 64})
