"""Kernels in a trace."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import kernels


# jaxlib's own; as an error it would end the process (Python 3.13, jaxlib 0.12.0.1).
@pytest.mark.filterwarnings("ignore:builtin type event_stats has no __module__:DeprecationWarning")
def test_kernels_of_a_call(capsys):
    x = jnp.ones((256, 256))
    call = jax.jit(lambda x: jnp.sin(x @ x) @ x).lower(x).compile()
    row = kernels.traced(lambda: call(x), calls=2)
    assert 0 < row["busy"] <= row["span"] <= row["ms"] * 1.5
    assert sum(kernel["times"] for kernel in row["kernels"]) >= 2
    assert sum(kernel["ms"] for kernel in row["kernels"]) == pytest.approx(row["busy"])
    kernels.show(row | {"of": "infer", "model": "m", "size": 256, "batch": 1, "dtype": "float32", "compiling": 1.0}, 1)
    assert row["kernels"][0]["name"] in capsys.readouterr().out


def test_kernels_of_one_kind():
    names = "loop_add_fusion_12", "loop_add_fusion", "loop_add_fusion.3"
    assert {kernels.NUMBER.sub("", name) for name in names} == {"loop_add_fusion"}
