"""Accelerators by their data sheets, and devices of them to compile for that are not there."""

import dataclasses
import math
import os
import re
from typing import Any, Literal

from port.messages import did_you_mean

GIB = 2**30
COUNT = re.compile(r"\s*(?:(?P<count>\d+)\s*[xX*]?\s*)?(?P<name>[a-zA-Z]\w*?)(?:-(?P<suffix>\d+))?\s*")
EXPECTED = 'a number and a name, as "8 x h100", "v5e-64" or "8 x cpu"'
PACKAGES = {"cuda": "jax[cuda13]", "tpu": "jax[tpu]"}


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One device. Bytes, bytes a second, and operations a second; not those of sparse arrays.

    Links count both directions together, as data sheets do.
    """

    title: str
    backend: Literal["gpu", "tpu", "cpu"]
    memory: float  # that a program can be given, all in all
    bandwidth: float = math.inf  # of the memory
    peak: float = math.inf  # in bfloat16
    peak_float32: float = math.inf  # of jax's default precision
    link: float = math.inf  # of a device, to those of its group
    group: int = 1  # devices that these links join
    beyond: float = math.inf  # of a device, to those of other groups
    capability: str = ""  # compute capability of a GPU
    details: tuple[int, ...] = ()  # of a GPU: multiprocessors, units of each, bytes of shared memory and of the cache
    axes: int = 0  # of a TPU's torus
    cores: int = 1  # as the name of a slice counts them: "v5p-8" has four chips


def _gpu(title: str, gib: float, *numbers: float, hopper: bool) -> Accelerator:
    bandwidth, peak, peak_float32, link = numbers
    capability, details = ("9.0", (132, 128, 233472, 52428800)) if hopper else ("8.0", (108, 64, 167936, 41943040))
    beyond = 100e9 if hopper else 50e9  # a network card of 400 or 200 Gbit/s for each
    times = (bandwidth, peak, peak_float32, link, 8, beyond)
    return Accelerator(title, "gpu", gib * GIB, *times, capability=capability, details=details)


def _tpu(title: str, gib: float, bandwidth: float, peak: float, link: float, axes: int, cores: int = 1) -> Accelerator:
    # Products of float32 are products of bfloat16 by default.
    return Accelerator(title, "tpu", gib * GIB, bandwidth, peak, peak, link, 4096, axes=axes, cores=cores)


# Data sheets of NVIDIA (H100 SXM, H200 SXM, A100 SXM) and of Google Cloud's TPUs (2026-11). Of a GPU's memory the
# driver keeps some, of a TPU's the run time.
ACCELERATORS: dict[str, Accelerator] = {
    "a100": _gpu("NVIDIA A100-SXM4-80GB", 79, 2.04e12, 312e12, 156e12, 600e9, hopper=False),
    "h100": _gpu("NVIDIA H100 80GB HBM3", 79, 3.35e12, 989e12, 494e12, 900e9, hopper=True),
    "h200": _gpu("NVIDIA H200", 139, 4.8e12, 989e12, 494e12, 900e9, hopper=True),
    "v4": _tpu("TPU v4", 31.75, 1.228e12, 275e12, 300e9, 3, 2),
    "v5e": _tpu("TPU v5e", 15.75, 819e9, 197e12, 200e9, 2),
    "v5p": _tpu("TPU v5p", 95.25, 2.765e12, 459e12, 600e9, 3, 2),
    "v6e": _tpu("TPU v6e", 31.25, 1.64e12, 918e12, 448e9, 2),
    "cpu": Accelerator("this machine's processor", "cpu", 0),
}


@dataclasses.dataclass(frozen=True)
class Devices:
    """So many of one kind."""

    name: str
    count: int

    def __str__(self) -> str:
        return f"{self.count} x {self.name}"

    @property
    def kind(self) -> Accelerator:
        return ACCELERATORS[self.name]

    @property
    def memory(self) -> float:
        """Bytes of a device for arrays and programs."""
        if self.kind.backend == "cpu":
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / self.count
        share = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.75") if self.kind.backend == "gpu" else 1
        return self.kind.memory * float(share)

    @property
    def link(self) -> float:
        """Bytes a second that a device can send, or take in, where all talk to all."""
        return (self.kind.link if self.count <= self.kind.group else self.kind.beyond) / 2

    def prepare(self) -> None:
        """What must be set before jax is imported."""
        os.environ["JAX_PLATFORMS"] = "cpu"
        flags = {"gpu": GPU_FLAGS, "cpu": f"--xla_force_host_platform_device_count={self.count}"}
        if flag := flags.get(self.kind.backend):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")  # which asks the driver
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # which asks a server of Google's
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # beside another process: nothing is run
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

    def make(self) -> Any:
        """The devices, to compile for.

        Raises:
            ValueError: there is no such arrangement, or packages are missing.
        """
        import jax

        if self.kind.backend == "cpu":
            return jax.devices("cpu")[: self.count]
        make = _gpus if self.kind.backend == "gpu" else _tpus
        try:
            return make(self)
        except Exception as error:  # whatever a missing plug-in raises
            raise self.lack(error) from None

    def lack(self, error: Exception) -> ValueError:
        """What to say where packages are missing, and one of them was asked for."""
        package = PACKAGES["cuda" if self.kind.backend == "gpu" else "tpu"]
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        return ValueError(
            f"cannot compile for {self}: {told[:200].rstrip('.')}. "
            f"It needs the packages of {package}, no device and no driver."
        )


def devices(text: str) -> Devices:
    """What `--on` names.

    Raises:
        ValueError: no such kind, or an arrangement that there is not.
    """
    match = COUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"--on={text!r}: expected {EXPECTED}.")
    name, count = match["name"].lower(), int(match["count"] or 1)
    if name not in ACCELERATORS:
        known = ", ".join(ACCELERATORS)
        raise ValueError(f"--on={text!r}: {name!r} is none of {known}.{did_you_mean(name, ACCELERATORS)}")
    kind = ACCELERATORS[name]
    if match["suffix"]:
        if kind.backend != "tpu" or match["count"]:
            raise ValueError(f"--on={text!r}: expected {EXPECTED}.")
        count = int(match["suffix"]) // kind.cores
    if count < 1:
        raise ValueError(f"--on={text!r}: no devices; expected at least 1.")
    if kind.backend == "tpu" and count not in _slices(kind.axes):
        raise ValueError(f"--on={text!r}: slices have {', '.join(map(str, _slices(kind.axes)))} chips.")
    if kind.backend == "gpu" and count > kind.group and count % kind.group:
        raise ValueError(f"--on={text!r}: machines have {kind.group}; expected a multiple of it, or fewer.")
    return Devices(name, count)


def _slices(axes: int) -> dict[int, str]:
    """Topologies of slices by their number of chips; a machine has 2x2 of them."""
    found = {1: "1x1"} if axes == 2 else {}
    shape = [2, 2] + [1] * (axes - 2)
    most = 256 if axes == 2 else 4096
    while math.prod(shape) <= most:
        found[math.prod(shape)] = "x".join(map(str, sorted(shape)))
        shape[shape.index(min(shape))] *= 2
    return found


GPU_FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
GPU_DESCRIPTION = """
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_core: {shared}  shared_memory_per_block_optin: {optin}
  core_count: {cores}  fpus_per_core: {units}
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  clock_rate_ghz: 1.98  l2_cache_size: {cache}
  memory_bandwidth: {bandwidth}  device_memory_size: {memory}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 }}
device_description_str: "{title}"
"""


def _gpus(asked: Devices) -> Any:
    """GPUs, described in words. XLA's autotuning is off, since it measures; its own matrix products (Triton), which it
    would choose between in that way, are off too: cuBLAS and cuDNN do all of them."""
    from jax.experimental import topologies

    kind = asked.kind
    cores, units, shared, cache = kind.details
    major, minor = kind.capability.split(".")
    description = GPU_DESCRIPTION.format(
        title=kind.title,
        major=major,
        minor=minor,
        cores=cores,
        units=units,
        shared=shared,
        cache=cache,
        optin=shared - 1024,
        bandwidth=int(kind.bandwidth),
        memory=int(kind.memory),
    )
    hosts, each = max(1, asked.count // kind.group), min(asked.count, kind.group)
    topology = f"1x{hosts}x{each}"
    return topologies.get_topology_desc(platform="cuda", target_config=description, topology=topology).devices


def _tpus(asked: Devices) -> Any:
    from jax.experimental import topologies

    shape = _slices(asked.kind.axes)[asked.count]
    one = {"chips_per_host_bounds": (1, 1, 1)} if asked.count == 1 else {}
    name = f"{asked.name}:{shape}"
    return topologies.get_topology_desc(platform="tpu", topology_name=name, **one).devices
