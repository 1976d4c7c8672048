"""Trying the inputs that a kind makes, one after the other."""

import os
import random
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import jax

from tests.fuzz import checkpoints, configs, exports, layouts, pictures, tables, weights
from tests.helpers.audit import watched

KINDS = {m.__name__.split(".")[-1]: m for m in (configs, exports, weights, layouts, pictures, checkpoints, tables)}
PATIENCE = 10  # seconds of processor time that one input may take, however busy the machine is
OURS = [Path(__file__).parents[2] / name for name in ("nfjax", "port", "train")]


def attack(kind, seed):
    """Whether the input of a seed "works" or is "refused".

    Raises:
        AssertionError: naming the seed, for anything else: another exception, one that a library raised, a message of
            several lines, too much time, a wrong value, or something that reading a file has no business with.
    """
    found, wrong, taken = tried(kind, seed)
    wrong = wrong or (f"took {taken:.0f} s" if taken > PATIENCE else "")
    assert not wrong, f"{kind} {seed}: {wrong}"
    return found


def tried(kind, seed):
    """What came of the input, what is wrong with that, and how many seconds of processor time it took."""
    module = KINDS[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is made: names that are there twice, modes that are going
        mutant = module.mutants(random.Random(seed))
    with tempfile.TemporaryDirectory() as outside:
        folder = Path(outside, "given")
        folder.mkdir()
        module.put(mutant, folder)
        # A user may lead out of the folder by a link; Pillow 11 opens by name what it leads to.
        links = tuple(f"open {os.path.realpath(path)!r}" for path in folder.iterdir() if path.is_symlink())
        started, wrong = time.process_time(), ""
        with watched(folder) as done:
            try:
                module.try_(mutant, folder)
                found = "works"
            except (ValueError, OSError) as error:
                found, message = "refused", str(error)
                # One error lists everything that is missing, unexpected or of a wrong shape, a line for each.
                if "\n" in message.strip() and " are not those of " not in message:
                    wrong = f"not one line: {message!r:.500}"
                elif not is_ours(error):
                    wrong = f"a library's {type(error).__name__}: {message:.300}"
            except Exception as error:
                found, wrong = "found", f"{type(error).__name__}: {error!s:.300}"
        taken = time.process_time() - started
    allowed = (*getattr(module, "ALLOWED", ()), *links, "nothing")
    kept = jax.config.jax_compilation_cache_dir or "nothing"  # of the tests, if it is on
    done = [what for what in done if not what.startswith(allowed) and kept not in what]
    return found, wrong or (f"{done[:3]}" if done else ""), taken


def is_ours(error):
    """Whether we raised it, or the system did where it names a file; a library knows neither file nor remedy."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    return any(Path(last.filename).is_relative_to(folder) for folder in OURS) and (last.line or "").startswith("raise")
