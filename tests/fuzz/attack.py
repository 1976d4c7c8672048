"""Trying the inputs that a kind makes, one after the other."""

import random
import tempfile
import time
import traceback
from pathlib import Path

from tests.fuzz import checkpoints, configs, exports, pictures, tables, weights
from tests.helpers.audit import watched

KINDS = {m.__name__.split(".")[-1]: m for m in (configs, exports, weights, pictures, checkpoints, tables)}
PATIENCE = 10  # seconds that one input may take
OURS = [Path(__file__).parents[2] / name for name in ("nfjax", "port", "train")]


def attack(kind, seed):
    """Whether the input of a seed "works" or is "refused".

    Raises:
        AssertionError: naming the seed, for anything else: another exception, one that a library raised, a message of
            several lines, too much time, a wrong value, or something that reading a file has no business with.
    """
    module = KINDS[kind]
    mutant = module.mutants(random.Random(seed))
    with tempfile.TemporaryDirectory() as outside:
        folder = Path(outside, "given")
        folder.mkdir()
        module.put(mutant, folder)
        started, done = time.monotonic(), []
        try:
            with watched(folder) as done:
                module.try_(mutant, folder)
            found = "works"
        except (ValueError, OSError) as error:
            found = "refused"
            message = str(error)
            assert "\n" not in message.strip(), f"{kind} {seed}: not one line: {message!r:.500}"
            assert is_ours(error), f"{kind} {seed}: a library's {type(error).__name__}: {message:.300}"
        except Exception as error:
            raise AssertionError(f"{kind} {seed}: {type(error).__name__}: {error!s:.300}") from error
        taken = time.monotonic() - started
    done = [what for what in done if not what.startswith(getattr(module, "ALLOWED", ("nothing",)))]
    assert not done, f"{kind} {seed}: {done[:3]}"
    assert taken < PATIENCE, f"{kind} {seed}: took {taken:.0f} s"
    return found


def is_ours(error):
    """Whether we raised it, or the system did where it names a file; a library knows neither file nor remedy."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    return any(Path(last.filename).is_relative_to(folder) for folder in OURS) and (last.line or "").startswith("raise")
