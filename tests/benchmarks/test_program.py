"""`python -m benchmarks --what program`, as far as it goes without the packages of jax[cuda13]."""

import jax
import pytest

from benchmarks import harness, program
from benchmarks.__main__ import main

MODULE = """HloModule jit_f, is_scheduled=true

%fused_add (param_0: bf16[8,4]) -> bf16[8,4] {
  ROOT %add.1 = bf16[8,4]{1,0} add(%param_0, %param_0)
}

ENTRY %main.2 (x.1: bf16[8,4], k.1: bf16[4,2]) -> bf16[8,2] {
  %x.1 = bf16[8,4]{1,0} parameter(0)
  %k.1 = bf16[4,2]{1,0} parameter(1)
  %loop_add_fusion.3 = bf16[8,4]{1,0} fusion(%x.1), kind=kLoop, calls=%fused_add
  %gemm.1 = (bf16[8,2]{1,0}, s8[4096]{0}) custom-call(%loop_add_fusion.3, %k.1), custom_call_target="__cublas$lt$matmul"
  %get-tuple-element = bf16[8,2]{1,0} get-tuple-element(%gemm.1), index=0
  ROOT %loop_multiply_fusion = bf16[8,2]{1,0} fusion(%get-tuple-element, %get-tuple-element), calls=%fused_multiply
}
"""


def test_kernels():
    x, k, y = 2 * 8 * 4, 2 * 4 * 2, 2 * 8 * 2
    expected = [("loop_add_fusion", 2 * x), ("__cublas$lt$matmul", x + k + y), ("loop_multiply_fusion", 2 * y)]
    assert program.kernels(MODULE) == expected


CASE = harness.Case("test_vit2", 32, 2)
WAYS = {
    "infer": lambda: program.inference(CASE, jax.devices()[0]),
    "train": lambda: program.training(CASE, jax.devices()[:1], fsdp=1),
}


@pytest.mark.parametrize("of", ["infer", pytest.param("train", marks=pytest.mark.slow)])
def test_what_is_compiled_is_for_a_gpu(of, capsys):
    """In float32, and for the device that is there: what a GPU is given can be computed here too."""
    compiled, size, flops = WAYS[of]()
    assert size == (32, 32)
    found = program.kernels(compiled.as_text())
    memory = compiled.memory_analysis()
    assert sum(count for _, count in found) > 0.9 * memory.argument_size_in_bytes  # each weight is read
    program.show(found, flops, memory, program.TARGETS["h200"], kinds=3)
    assert f"kernels: at least {sum(count for _, count in found) / 4.8e9:.1f} ms" in capsys.readouterr().out


def test_without_the_plugin(monkeypatch, capsys):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    monkeypatch.setattr(program, "absent_devices", lambda target, count: jax.devices(target.name))
    assert main(["--what", "program", "--models", "test_vit2"]) == 1
    assert "Install the packages of jax[cuda13]" in capsys.readouterr().err
