"""What is set up where jax has a GPU, seen from a machine without one."""

import jax
import pytest
import torch

from benchmarks import memory, peer
from benchmarks.__main__ import main


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    settings = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    precision = jax.config.jax_default_matmul_precision
    yield
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = settings
    jax.config.update("jax_default_matmul_precision", precision)


def test_dtype(gpu):
    assert peer.default_dtype() == "bfloat16"
    assert peer.device() == torch.device("cuda")
    assert peer.autocast("bfloat16").device == "cuda"


def test_float32_is_float32(gpu):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    peer.set_up("bfloat16")
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.benchmark
    peer.set_up("float32")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert jax.config.jax_default_matmul_precision == "highest"


def test_torch_without_a_gpu_is_no_rival(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OSError, match="torch finds none"):
        peer.set_up("bfloat16")


def test_one_gpu(gpu, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(OSError, match="8 GPUs, and timm uses one"):
        peer.set_up("bfloat16")


@pytest.mark.parametrize("what", ["infer", "train"])
@pytest.mark.parametrize("args", [["--cpu-time"], ["--dtype", "float32"]])
def test_what_cannot_be_measured(what, args, gpu, monkeypatch, capsys):
    monkeypatch.setattr(peer, "threads", lambda count=None: 1)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(SystemExit, match="2"):
        main(["--what", what, *args])
    assert ("--cpu-time says nothing" if "--cpu-time" in args else "8 GPUs") in capsys.readouterr().err


def test_waits_and_releases(gpu, monkeypatch):
    done = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("empty_cache"))
    peer.wait()
    peer.release()
    assert done == ["synchronize", "empty_cache"]


def test_limit_of_bfloat16():
    assert peer.bfloat16_limit({"timm eager": 0.01}) == 0.02
    assert peer.bfloat16_limit({"timm eager": 1e-6}) == 2**-7  # chance


@pytest.mark.parametrize(("peaks", "found"), [((500, 900), (800, True)), ((900, 900), (800, False))])
def test_peak_of_jax(gpu, monkeypatch, peaks, found):
    """jax's counter cannot start over: what was higher before the call is only a bound."""
    called = []

    class Device:
        def memory_stats(self):
            return {"bytes_in_use": 100, "peak_bytes_in_use": peaks[len(called)]}

    class Task:
        def __init__(self, case):
            self.ours, self.theirs = {"ours": lambda: lambda: called.append(1)}, {}

    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    monkeypatch.setattr("benchmarks.infer.Task", Task)
    monkeypatch.setattr(peer, "threads", lambda: 1)
    assert memory.peak("infer", memory.harness.Case("any", None, 1), "ours") == found
