"""`nfjax plan`: what is planned, and what is said where nothing can be."""

import json
import re

import jax
import pytest

from train.cli.flags import read_command
from train.plan import devices
from train.plan.__main__ import main
from train.plan.devices import Devices
from train.plan.estimate import Estimate, dataset_of, estimate, largest_batch
from train.plan.report import report

SMALL = ("--config.model.name=test_vit2", "--config.data.image_size=32")


def config(*flags, source="digits"):
    return read_command(["plan", f"--config={source}", *SMALL, *flags])[0]


@pytest.fixture(autouse=True)
def there(monkeypatch):
    """jax is there already, with two devices."""
    monkeypatch.setattr(Devices, "prepare", lambda self: None)


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("8 x h100", "h100", 8),
        ("8xH200", "h200", 8),
        ("h100", "h100", 1),
        ("16 a100", "a100", 16),
        ("v5e-64", "v5e", 64),
        ("4 x v6e", "v6e", 4),
        ("v5p-8", "v5p", 4),
        ("2 x cpu", "cpu", 2),
    ],
)
def test_devices(text, name, count):
    assert devices.devices(text) == Devices(name, count)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("8 x h101", "'h101' is none of a100, .* Did you mean h100"),
        ("", "expected a number and a name"),
        ("eight h100", "expected a number and a name"),
        ("0 x h100", "no devices"),
        ("12 x h100", "machines have 8"),
        ("v5e-17", "slices have 1, 4, 8, 16"),
        ("h100-8", "expected a number and a name"),
    ],
)
def test_devices_that_there_are_not(text, told):
    with pytest.raises(ValueError, match=told):
        devices.devices(text)


def test_slices():
    assert devices._slices(2)[256] == "16x16"
    assert devices._slices(3)[4] == "1x2x2"
    assert devices._slices(3)[64] == "4x4x4"


def test_a_plan(tmp_path, capsys):
    """For two devices of this machine; the figures are those of the program, whose state the mesh spreads."""
    flags = [f"--json={tmp_path / 'plan.json'}", "--no-variants", "--on", "2 x cpu", *SMALL]
    assert main(["--config=digits", *flags, "--config.data.batch_size=8"]) == 0
    assert "8 images a step, 4 a device" in capsys.readouterr().out
    plan = json.loads((tmp_path / "plan.json").read_text())["plans"]["as it is"]
    assert plan["bytes"]["optimiser"] == pytest.approx(plan["bytes"]["parameters"], rel=1e-4)  # and a counter
    assert plan["bytes"]["activations, gradients"] > plan["bytes"]["parameters"]  # the gradients at least
    assert plan["sent"] == pytest.approx(plan["bytes"]["parameters"], rel=0.05)  # all-reduced by two
    spread = estimate(
        config("--config.mesh.fsdp=2", "--config.data.batch_size=8"), dataset_of(config(), 50, 10), Devices("cpu", 2)
    )
    assert spread.memory["parameters"] < 0.6 * plan["bytes"]["parameters"]


def test_the_largest_batch(monkeypatch):
    """Where memory is a line of the batch, the second compilation finds its end."""
    tried = []

    def measured(config, dataset, there):
        tried.append(config.data.batch_size)
        return Estimate(config, there, {"all": 5e9 + 1e8 * tried[-1] / 8}, 1.0, 1.0, 1.0, 0.0)

    monkeypatch.setattr("train.plan.estimate.estimate", measured)
    given = config("--config.data.batch_size=64")
    dataset = dataset_of(given, 10**6, 10)
    first = measured(given, dataset, Devices("h100", 8))
    best = largest_batch(first, dataset)
    most = (first.devices.memory - 5e9) / 1e8  # of each device
    assert best.config.data.batch_size == 8 * (most // 8 * 8)
    assert len(tried) <= 3


def test_a_library_that_is_missing(monkeypatch):
    """jax asks for cuDNN as it traces attention in half precision; the packages of a GPU may be there without it."""

    def missing(experiment):
        raise RuntimeError("cuDNN not found.")

    monkeypatch.setattr("train.plan.estimate.compile_train_step", missing)
    monkeypatch.setattr(devices, "_gpus", lambda asked: jax.devices("cpu")[: asked.count])
    told = r"cannot compile for 2 x h100: cuDNN not found\. It needs the packages of jax\[cuda13\], no device"
    with pytest.raises(ValueError, match=told):
        estimate(config("--config.data.batch_size=8"), dataset_of(config(), 50, 10), Devices("h100", 2))


def test_what_does_not_fit(monkeypatch, capsys):
    monkeypatch.setattr(devices, "_gpus", lambda asked: jax.devices("cpu")[: asked.count])
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.00005")
    args = type("Args", (), {"json": None, "images": 1281167, "classes": 10, "variants": False})
    assert report(config("--config.data.batch_size=8"), Devices("h100", 2), args) == 1
    out = capsys.readouterr().out
    assert "IT DOES NOT FIT" in out
    assert "read and written at 3.35 TB/s" in out


@pytest.mark.parametrize(
    "said",
    [
        "Ran out of memory in memory space hbm. Used 18.20G of 15.75G hbm. Exceeded by 2.45G.",
        "E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO temporaries (18.20G) "
        "exceeds available HBM (15.75G). HLO module: jit_train_step.",
    ],
)
def test_what_the_compiler_of_a_tpu_refuses(said, monkeypatch):
    def too_large(experiment):
        raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {said}")

    monkeypatch.setattr("train.plan.estimate.compile_train_step", too_large)
    monkeypatch.setattr(devices, "_tpus", lambda asked: jax.devices("cpu")[: asked.count])
    found = estimate(config("--config.data.batch_size=8"), dataset_of(config(), 50, 10), Devices("v5e", 1))
    assert found.memory == {"at least": pytest.approx(18.2 * 2**30)}
    assert not found.fits


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config=digits", "--on", "v5e"], r"cannot compile for 1 x v5e: .* It needs the packages of jax\[tpu\]"),
        (["--config=folder", "--on", "cpu"], "data.root.*\n?.*give --images and --classes"),
        (["--config=folder", "--on", "cpu", "--images=0"], "--images=0: expected at least 1"),
        (["--config=digits", "--on", "cpu", "--config.epoch=1"], "--config.epoch=1"),
        (["--config=digits"], "--on"),
    ],
)
def test_mistakes(arguments, told, capsys, monkeypatch):
    def missing(asked):
        raise RuntimeError("no such plug-in")

    monkeypatch.setattr(devices, "_tpus", missing)
    try:
        status = main(arguments)
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert re.search(told, capsys.readouterr().err)
