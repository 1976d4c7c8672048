"""What a run says about itself at its start."""

import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nfjax
from train import data
from train.config import Config, Data, Ema, Mesh, Model, Optim
from train.experiment import build
from train.machine.mesh import batch_sharding, make_mesh, replicated
from train.report.summary import _bytes, _flops, costs, overview

MODEL = nfjax.load("test_nfnet", weights=None, num_classes=10, in_chans=1)
COUNT = sum(array.size for array in nfjax.params.split(MODEL)[1].values())
IMAGES = data.ArraySource(np.zeros((320, 64, 48, 1), np.uint8), np.zeros(320), tuple("0123456789"))


def config(accumulate=1, freeze=(), **mesh):
    return Config(
        epochs=5,
        grad_accum_steps=accumulate,
        model=Model(name="test_nfnet"),
        data=Data(image_size=64, batch_size=16),
        ema=Ema(decay=0.9),
        optim=Optim(freeze=freeze),
        mesh=Mesh(**mesh),
    )


def compile_step(parts, mesh):
    """A step over 16 vectors, in parts: 2 products with the 256 x 512 kernel for each, one forward and one backward."""
    sharding = batch_sharding(mesh)

    def step(kernel, vectors):
        def add(total, part):
            return total + jax.grad(lambda k: jnp.sum((part @ k) ** 2))(kernel), None

        total, _ = jax.lax.scan(add, jnp.zeros_like(kernel), vectors.reshape(-1, parts, 256).swapaxes(0, 1))
        return kernel - total

    kernel = jax.ShapeDtypeStruct((256, 512), jnp.float32, sharding=replicated(mesh))
    vectors = jax.ShapeDtypeStruct((16, 256), jnp.float32, sharding=sharding)
    return jax.jit(step, donate_argnums=0).lower(kernel, vectors).compile()


def rows(text):
    """By the words that they begin with; every line but the first of a row is indented."""
    return {line[:18].strip(): line[18:].strip() for line in text.splitlines()}


def experiment(config):
    split = data.Split(IMAGES, None, (64, 48, 1))
    return build(config, model=MODEL, dataset=data.Dataset(split, split, None, MODEL.data_config))


def summary(config, width=200, **options):
    return overview(experiment(config), Path("runs/x"), width=width, **options)


def test_what_it_says():
    said = rows(summary(config()))
    assert said == {
        "work folder": "runs/x, a new run",
        "model": f"test_nfnet, {COUNT:,} parameters",
        "images": "digits, 64x48x1, computed in float32",
        "devices": "2 x cpu; mesh data 2 x fsdp 1",
        "batch": "16 images, 8 a device",
        "length": "100 steps, 5 epochs of 20",
        "kept on a device": ", ".join(
            f"{name} {_bytes(4 * COUNT)}" for name in ("parameters", "optimiser", "moving average")
        ),
    }
    assert (
        len({line.index(value) for line, value in zip(summary(config()).splitlines(), said.values(), strict=True)}) == 1
    )


def test_a_run_that_ends_while_it_warms_up():
    short = config()
    short.schedule.warmup_epochs = 5.0
    assert rows(summary(short))["length"] == "100 steps, 5 epochs of 20, all of them within schedule.warmup_epochs=5"


def test_of_a_continued_run_with_frozen_parameters():
    said = rows(summary(config(accumulate=4, freeze=("head/.*",)), start=40))
    head = 10 * (MODEL.num_features + 1)
    assert said["work folder"] == "runs/x, continued at step 40"
    assert said["model"] == f"test_nfnet, {COUNT:,} parameters ({COUNT - head:,} trained, {head:,} frozen)"
    assert said["batch"] == "16 images, 8 a device, in 4 parts of 2 a device"


def test_fsdp_halves_what_a_device_keeps():
    said = rows(summary(config(fsdp=2)))
    assert said["devices"] == "2 x cpu; mesh data 1 x fsdp 2"
    size = float(said["kept on a device"].split()[1]) * 1024
    assert size == pytest.approx(2 * COUNT, rel=0.02)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_flops_are_those_of_all_devices_and_parts(parts):
    made = config(parts)
    said = rows(costs(experiment(made), compile_step(parts, make_mesh(made.mesh)), width=200))
    step, image = (part.split() for part in said["FLOPs of a step"].removesuffix(", by XLA's count").split(", "))
    assert (step[1], image[1:]) == ("MFLOP", ["MFLOP", "an", "image"])
    products = 2 * 2 * 256 * 512  # two FLOPs for a multiply-accumulate
    sums = 2 * parts * 2 * 256 * 512 / 16  # over parts, over devices
    assert products / 1e6 < float(image[0]) < (products + 2 * sums) / 1e6
    assert float(step[0]) == pytest.approx(16 * float(image[0]), rel=1e-3)
    assert said["memory of a step"].startswith("peak ")


def test_memory_of_a_step():
    mib = 2**20
    memory = types.SimpleNamespace(
        argument_size_in_bytes=8 * mib, output_size_in_bytes=7 * mib, alias_size_in_bytes=6 * mib,
        temp_size_in_bytes=4 * mib, peak_memory_in_bytes=5,
    )  # fmt: skip
    compiled = types.SimpleNamespace(memory_analysis=lambda: memory, cost_analysis=lambda: None)
    said = rows(costs(experiment(config()), compiled, width=200))
    assert said["memory of a step"] == (
        "peak 13 MiB a device: arguments 8 MiB, temporary 4 MiB, outputs 1 MiB beside what is donated"
    )
    assert "FLOPs of a step" not in said


def test_what_the_backend_does_not_tell_is_left_out():
    silent = types.SimpleNamespace(memory_analysis=lambda: None, cost_analysis=dict)
    assert costs(experiment(config()), silent) == ""


@pytest.mark.parametrize("width", [40, 80])
def test_narrow_terminals(width):
    text = summary(config(), width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert " ".join(text.split()).startswith("work folder runs/x, a new run model test_nfnet,")


def test_units():
    assert [_bytes(n) for n in (12, 2048, 1.5 * 2**20, 3 * 2**30, 5e12)] == [
        "12 B", "2 KiB", "1.5 MiB", "3 GiB", "4657 GiB",
    ]  # fmt: skip
    assert [_flops(n) for n in (1.5e6, 2e9, 25.4e12, 3e15)] == ["1.5 MFLOP", "2 GFLOP", "25.4 TFLOP", "3 PFLOP"]
