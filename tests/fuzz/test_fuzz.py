"""A short budget of every kind; `python -m tests.fuzz` has a longer one."""

from collections import Counter

import pytest

from tests.fuzz.attack import KINDS, attack


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_tried_works_or_is_refused_in_one_line(kind):
    counts = Counter(attack(kind, seed) for seed in range(60))
    assert min(counts["works"], counts["refused"]) >= 3, counts  # or the mutants say nothing
