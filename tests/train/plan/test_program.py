"""What is read from the text of a compiled program."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from train.plan.program import _bytes, operations

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


def test_kernels_of_a_gpu():
    x, k, y = 2 * 8 * 4, 2 * 4 * 2, 2 * 8 * 2
    expected = [("loop_add_fusion", 2 * x), ("__cublas$lt$matmul", x + k + y), ("loop_multiply_fusion", 2 * y)]
    assert [(o.kind, o.moved) for o in operations(MODULE)] == expected


MANY = """HloModule jit_f, is_scheduled=true

ENTRY %main (x: f32[16]) -> (f32[4], f32[4]) {
  %x = f32[16]{0} parameter(0)
  %y = f32[16]{0} parameter(1)
  ROOT %r = (f32[4]{0}, /*index=1*/f32[4]{0}) reduce-scatter(%x, /*index=1*/%y), dimensions={0}, to_apply=%add
}
"""


def test_operands_that_are_counted_in_comments():
    (scatter,) = operations(MANY)
    assert scatter.sent(4) == 2 * 64 * 3 / 4


LOOP = """HloModule jit_f, is_scheduled=true

%body (p: (s32[], f32[16])) -> (s32[], f32[16]) {
  %p = (s32[], f32[16]{0}) parameter(0)
  %x = f32[16]{0:T(128)} get-tuple-element(%p), index=1
  %all-gather-start = (f32[16]{0}, f32[64]{0}) all-gather-start(%x), dimensions={0}
  %all-gather-done = f32[64]{0} all-gather-done(%all-gather-start)
  %near = f32[16]{0:T(128)S(1)} fusion(%x), kind=kLoop, calls=%f
  ROOT %t = (s32[], f32[16]{0}) tuple(%i, %x)
}

ENTRY %main (x: f32[16]) -> f32[16] {
  %x = f32[16]{0} parameter(0)
  %all-reduce = f32[16]{0} all-reduce(%x), to_apply=%add
  %while = (s32[], f32[16]{0}) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""


def test_loops_exchanges_and_fast_memory():
    reduce, gather, near = operations(LOOP)
    assert (reduce.name, reduce.times, reduce.sent(4)) == ("all-reduce", 1, 2 * 64 * 3 / 4)
    assert (gather.name, gather.times, gather.sent(4)) == ("all-gather", 3, 3 * 256 * 3 / 4)
    assert (near.moved, near.sent(4)) == (4 * 128, 0)


@pytest.mark.parametrize(
    ("shape", "far"),
    [
        ("bf16[8,56,56,64]{3,0,2,1:T(8,128)(2,1)}", 2 * 8 * 56 * 56 * 128),
        ("bf16[3,56,64]{1,2,0:T(8,128)(2,1)}", 2 * 3 * 128 * 64),
        ("(f32[5]{0:T(128)}, f32[]{:T(128)}, f32[5,7]{1,0})", 4 * (128 + 1 + 35)),
        ("f32[64]{0:T(128)S(1)}", 0),
    ],
)
def test_a_tpu_stores_whole_tiles(shape, far):
    assert _bytes(shape)[0] == far


def test_a_program_of_this_version():
    """XLA's text changes with its versions: of a small program on two devices all that is asked of it."""
    mesh = jax.make_mesh((2,), ("d",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = NamedSharding(mesh, P("d")), NamedSharding(mesh, P())

    def f(x, k):
        return jax.lax.fori_loop(0, 5, lambda i, x: jnp.sin(x), x @ k).sum(0)

    x, k = (jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=s) for s in (rows, whole))
    found = operations(jax.jit(f, out_shardings=whole).lower(x, k).compile().as_text())
    assert [o.larger for o in found if o.name == "all-reduce"] == [4 * 64]
    assert sum(o.times * o.moved for o in found) > 5 * 2 * 4 * 32 * 64
    assert sum(o.sent(2) for o in found) == pytest.approx(4 * 64)
