"""Checksums: the same everywhere, and different for anything else."""

from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from train import config
from train.checkpoints.checksums import checksums, prepare
from train.machine.mesh import make_mesh

DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint32", "uint8", "bool"]
SHAPES = [(), (1,), (0, 3), (5,), (4, 6), (3, 3, 4, 10)]


def random_array(shape, dtype, rng):
    dtype = jnp.dtype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    raw = rng.integers(0, 256, (int(np.prod(shape)) * dtype.itemsize,), np.uint8)  # any bits, also those of NaN
    return raw.view(dtype).reshape(shape)


def plain(array):
    """The definition, word by word, in Python's integers."""
    size = array.dtype.itemsize
    words = array.reshape(-1).view(f"u{min(size, 4)}").tolist()
    linear = mixed = 0
    for i, word in enumerate(words):
        linear += word * (2 * i + 1)
        h = (word + i * 0x9E3779B9) % 2**32
        h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
        mixed += h ^ h >> 15
    return f"{linear % 2**32:08x}{mixed % 2**32:08x}"


def test_numpy_and_jax_follow_the_definition(x64):
    rng = np.random.default_rng(0)
    cases = [(dtype, (3, 5)) for dtype in DTYPES] + [
        (dtype, shape) for dtype in ("float64", "int8") for shape in SHAPES
    ]
    arrays = {f"{dtype}{shape}": random_array(shape, dtype, rng) for dtype, shape in cases}
    expected = {name: plain(array) for name, array in arrays.items()}
    assert checksums(arrays) == expected
    assert checksums({name: jnp.asarray(array) for name, array in arrays.items()}) == expected


@pytest.mark.parametrize("spec", [("fsdp",), (None, "fsdp"), (None, None, None, ("data", "fsdp")), ("data",)])
def test_shards_add_up(spec, x64):
    mesh = make_mesh(config.Mesh(fsdp=2))
    assert mesh.size == 2
    rng = np.random.default_rng(1)
    for dtype in ("float64", "bfloat16"):
        array = random_array((4, 2, 6, 8), dtype, rng)
        placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
        assert checksums({"": placed}) == checksums({"": array})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_one_flipped_bit_changes_both_halves(dtype):
    rng = np.random.default_rng(2)
    array = random_array((3, 7), dtype, rng)
    before = checksums({"": array})[""]
    for bit in range(8 * array.nbytes):
        raw = np.frombuffer(array.tobytes(), np.uint8).copy()
        raw[bit // 8] ^= 1 << bit % 8
        after = checksums({"": raw.view(array.dtype).reshape(array.shape)})[""]
        assert after[:8] != before[:8]
        assert after[8:] != before[8:]


def test_what_happens_to_arrays_is_seen():
    """Also what a plain sum would miss: exchanged elements, pairs of sign changes, lost blocks."""
    rng = np.random.default_rng(3)
    array = rng.standard_normal((64, 64), np.float32)
    variants = [array, array.T, array[::-1], -array, array * 0, np.roll(array, 1), array.reshape(-1)[::-1]]
    for _ in range(200):
        i, j = rng.choice(array.size, 2, replace=False)
        exchanged, signs, block = array.reshape(-1).copy(), array.reshape(-1).copy(), array.reshape(-1).copy()
        exchanged[[i, j]] = exchanged[[j, i]]
        signs[[i, j]] *= -1
        block[min(i, j) : max(i, j)] = 0
        variants += [exchanged, signs, block]
    sums = [checksums({"": variant})[""] for variant in variants]
    assert len(set(sums)) == len(sums)


def test_prepared_checksums_compile_nothing_more(caplog):
    """Also from abstract arrays, also in another thread."""
    mesh, one = make_mesh(config.Mesh(fsdp=2)), make_mesh(config.Mesh(), jax.devices()[:1])
    arrays = {
        "sharded": jax.device_put(np.ones((6, 10), np.float32), NamedSharding(mesh, PartitionSpec("fsdp"))),
        "replicated": jax.device_put(np.ones((6, 11), np.float32), NamedSharding(mesh, PartitionSpec())),
        "local": jax.device_put(np.ones((6, 12), np.float32), jax.devices()[0]),
        "mesh of one": jax.device_put(np.ones((6, 14), np.float32), NamedSharding(one, PartitionSpec())),
    }
    abstract = {k: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding) for k, a in arrays.items()}
    with ThreadPoolExecutor(1) as thread:
        thread.submit(prepare, abstract).result()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        checksums(arrays)
        assert "XLA compilation" not in caplog.text
        checksums({"unprepared": jax.device_put(np.ones((6, 13), np.float32), jax.devices()[0])})
        assert "XLA compilation" in caplog.text
