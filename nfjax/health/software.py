"""Packages, and what jax says about the devices."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import nfjax
from nfjax.health.check import Check
from nfjax.siblings import PARENT
from port.text import cut, one_line

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pillow")
EXTRAS = ("train", "cli", "data", "export")  # of those who use nfjax
PATIENCE = 60.0  # seconds until jax must have found its devices
ASK = """
import json, logging
logging.basicConfig(level=logging.WARNING)
import jax
found = [(d.platform, d.device_kind) for d in jax.local_devices()]
from nfjax import cache
folder = cache.enable()
chosen = folder or jax.config.jax_compilation_cache_dir
print("\\n" + json.dumps({"devices": found, "cache": str(chosen) if chosen else None}))
"""


def packages() -> Iterator[Check]:
    """Versions of what nfjax needs, and which extras are complete."""
    found = {name: _version(name) for name in PACKAGES}
    told = ", ".join(f"{name} {found[name] or 'missing'}" for name in PACKAGES)
    told = f"Python {sys.version.split()[0]}, nfjax {nfjax.__version__}, {told}"
    missing = [name for name in PACKAGES if found[name] is None]
    if missing:
        yield Check("packages", "problem", told, f"pip install {' '.join(missing)}")
    elif old := [need for need in _needs("") if _is_older(need)]:
        yield Check("packages", "problem", told, f"nfjax needs {', '.join(old)}: pip install -U nfjax")
    else:
        yield Check("packages", "ok", told)
    lacking = {extra: [_name(need) for need in _needs(extra) if _version(_name(need)) is None] for extra in EXTRAS}
    whole = [extra for extra in EXTRAS if not lacking[extra]]
    told = f"complete: {', '.join(whole) or 'none'}"
    for extra in EXTRAS:
        if lacking[extra]:
            told += f"; nfjax[{extra}] lacks {', '.join(lacking[extra])}"
    yield Check("extras", "ok", told)


def devices(environment: Mapping[str, str]) -> Iterator[Check]:
    """What jax finds in a process of its own, and where it keeps what it compiles."""
    path = os.pathsep.join(filter(None, [PARENT, environment.get("PYTHONPATH")]))
    variables = {**environment, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONPATH": path}
    try:
        asked = subprocess.run(
            [sys.executable, "-c", ASK], env=variables, capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        todo = "Is another process using them? The hosts of a TPU pod wait for each other: ask all at once."
        yield Check("devices", "problem", f"jax has not found its devices in {PATIENCE:g} s", todo)
        return
    said = [line for line in asked.stderr.splitlines() if line.strip()]
    if asked.returncode:
        last = cut(one_line(said[-1] if said else f"it ended with status {asked.returncode}"), 300)
        todo = "`python -c 'import jax; print(jax.devices())'` shows all of it; JAX_PLATFORMS=cpu does without."
        if chosen := environment.get("JAX_PLATFORMS"):
            todo = f"JAX_PLATFORMS={chosen} asks for it: unset it, or install its plugin, as in nfjax[cuda]."
        yield Check("devices", "problem", f"jax cannot be used: {last}", todo)
        return
    found = json.loads(asked.stdout.splitlines()[-1])
    yield _judge([tuple(pair) for pair in found["devices"]], environment)
    folder, told = found["cache"], "compiled programs are"
    if folder is None and environment.get("NFJAX_CACHE") != "0" and said:
        yield Check("cache", "warning", cut(one_line(said[-1]), 300), "Each process compiles anew.")
    else:
        yield Check("cache", "ok", f"{told} kept in {folder}" if folder else f"{told} not kept: each process compiles")


def _judge(found: list[tuple[str, str]], environment: Mapping[str, str]) -> Check:
    """Whether the devices are those that the machine has."""
    kinds = dict.fromkeys(found)
    told = ", ".join(f"{found.count(kind)} x {kind[1]} ({kind[0]})" for kind in kinds)
    if any(platform != "cpu" for platform, _ in kinds):
        driver = _driver()
        return Check("devices", "ok", told + (f", driver {driver}" if driver else ""))
    unused = "NVIDIA GPU" if Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists() else ""
    unused = unused or ("TPU" if Path("/dev/accel0").exists() or environment.get("TPU_WORKER_ID") else "")
    if not unused:
        return Check("devices", "ok", told)
    if environment.get("JAX_PLATFORMS"):
        chosen = environment["JAX_PLATFORMS"]
        return Check("devices", "warning", f"{told}; the {unused} is not used: JAX_PLATFORMS={chosen}", "Unset it?")
    extra = "tpu" if unused == "TPU" else "cuda"
    return Check("devices", "problem", f"{told}; jax does not find the {unused}", f"pip install 'nfjax[{extra}]'")


def _driver() -> str:
    try:
        match = re.search(r"\s(\d+(\.\d+)+)\s", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return ""
    return match[1] if match else ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _needs(extra: str) -> list[str]:
    """What nfjax, as it was installed, needs always, or for an extra: "jax>=0.10.2"."""
    try:
        needs = [need.partition(";") for need in requires("nfjax") or ()]
    except PackageNotFoundError:
        return []
    marker = re.compile(rf"extra == ['\"]{extra}['\"]")
    return [name.strip() for name, _, rest in needs if (marker.search(rest) if extra else "extra" not in rest)]


def _name(need: str) -> str:
    return re.split(r"[^\w.-]", need)[0]


def _is_older(need: str) -> bool:
    match = re.search(r">=([\d.]+)", need)
    found = _version(_name(need))
    return match is not None and found is not None and _numbers(found) < _numbers(match[1])


def _numbers(text: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", text)[:3]]
