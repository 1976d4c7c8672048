"""`python -m benchmarks --what program`, as far as it goes without the packages of jax[cuda13]."""

import jax
import pytest

from benchmarks import harness, program
from benchmarks.__main__ import main
from nfjax.fast.backend import traced_for
from nfjax.profile import profile
from train.plan import devices
from train.plan.devices import ACCELERATORS, Devices
from train.plan.program import operations

CASE = harness.Case("test_vit2", 32, 2)
WAYS = {
    "infer": lambda: program.inference(CASE, jax.devices()[0]),
    "train": lambda: program.training(CASE, jax.devices()[:1], fsdp=1),
}


@pytest.mark.parametrize("of", ["infer", pytest.param("train", marks=pytest.mark.slow)])
def test_what_is_compiled_is_for_a_gpu(of, capsys):
    """In float32, and for the device that is there: what a GPU is given can be computed here too."""
    with traced_for("gpu"):
        traced, size = WAYS[of]()
        compiled = traced.lower().compile()
    assert size == (32, 32)
    flops = program.products(traced.jaxpr)
    assert flops == pytest.approx(
        2 * 2 * (1 if of == "infer" else 3) * profile("test_vit2", 32).macs, rel=0.05
    )  # images have no gradient
    found = operations(compiled.as_text())
    memory, moved = compiled.memory_analysis(), sum(o.moved * o.times for o in found)
    assert moved > 0.9 * memory.argument_size_in_bytes  # each weight is read
    program.show(found, flops, memory, ACCELERATORS["h200"], kinds=3)
    assert f"kernels: at least {moved / 4.8e9:.1f} ms" in capsys.readouterr().out


def test_without_the_plugin(monkeypatch, capsys):
    monkeypatch.setattr(Devices, "prepare", lambda self: None)
    monkeypatch.setattr(devices, "_gpus", lambda asked: jax.devices(asked.name))
    assert main(["--what", "program", "--models", "test_vit2"]) == 1
    assert "It needs the packages of jax[cuda13]" in capsys.readouterr().err
