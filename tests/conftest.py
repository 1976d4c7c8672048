import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)  # so that a test can tell one from another


@pytest.fixture
def x64():
    """float64 for the duration of a test: the way to ask whether two functions are the same."""
    with jax.enable_x64(True):
        yield
