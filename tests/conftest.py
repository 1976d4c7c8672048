import gc
import os
from importlib.metadata import version

import pytest

from tests.helpers import programs

# What one test has compiled is loaded by the others, by the processes that tests start, and by later runs. Before jax
# is imported.
STORE = FOLDER = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # unlike in the workers of pytest-xdist
    STORE = programs.kept()
    FOLDER = programs.take(STORE)
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(FOLDER),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",  # their folder would be a part of each program's name
    }
    # Tests compile for longer than they compute. The passes over the program itself are as always, but the machine code
    # of what is not given to a library is not optimised, and is written in XLA's older way, which takes a third less
    # time; newer versions have only the other one. Where a test trains for long, it is optimised a little.
    flags = "--xla_backend_optimization_level=1"
    if version("jaxlib").startswith("0.10."):
        flags += " --xla_cpu_use_fusion_emitters=false"
    os.environ.setdefault("XLA_FLAGS", flags)
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's other threads would wait busily
    os.environ["TFDS_DATA_DIR"] = f"{FOLDER}/tfds"  # where the digits are prepared: anew in each run, in two seconds

import jax  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# The shapes in types of arrays are checked wherever a test calls: in this process, not in those that tests start.
# For the checker an int is a float too, as it is for mypy.
CHECKER = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
install_import_hook(["nfjax.fast", "nfjax.models", "nfjax.nn", "train.device", "train.optim"], CHECKER)

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)  # so that a test can tell one from another


def pytest_collection_finish():
    settle()
    gc.set_threshold(50_000, 20, 20)


def pytest_runtest_teardown(item, nextitem):
    if nextitem is None or item.path != nextitem.path:
        settle()


def settle():
    """Between files: what they traced goes, and what they imported stays. To look at either again and again for garbage
    takes a quarter of the time."""
    jax.clear_caches()
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    if FOLDER:
        programs.give_back(FOLDER, STORE)


@pytest.fixture
def optimised():
    """For a test that computes for longer than it compiles."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def x64():
    """float64 for the duration of a test: the way to ask whether two functions are the same."""
    with jax.enable_x64(True):
        yield
