"""Trying the inputs that a kind makes, one after the other."""

import random
import tempfile
import time
from pathlib import Path

from tests.fuzz import checkpoints, configs, exports, pictures, weights

KINDS = {module.__name__.split(".")[-1]: module for module in (configs, exports, weights, pictures, checkpoints)}
PATIENCE = 10  # seconds that one input may take


def attack(kind, seed):
    """Whether the input of a seed "works" or is "refused".

    Raises:
        AssertionError: naming the seed, for anything else: another exception, a message of several lines, or too much
            time.
    """
    mutant = KINDS[kind].mutants(random.Random(seed))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            KINDS[kind].try_(mutant, Path(folder))
            found = "works"
        except (ValueError, OSError) as error:
            found = "refused"
            message = str(error)
            assert len(message.strip().splitlines()) == 1, f"{kind} {seed}: not one line: {message!r}"
        except Exception as error:
            raise AssertionError(f"{kind} {seed}: {type(error).__name__}: {error!s:.300}") from error
    taken = time.monotonic() - started
    assert taken < PATIENCE, f"{kind} {seed}: took {taken:.0f} s"
    return found
