"""A program that starts itself anew has the allocator's switch, once; XLA's flags. Both keep what was there."""

import os
import subprocess
import sys

import jax
import pytest

from train.machine.before_jax import DETERMINISTIC, require_deterministic_operations, use_deterministic_operations

PROGRAM = (
    "from train.machine.before_jax import use_huge_pages; import os, sys; "
    "use_huge_pages(sys.argv); print(os.environ['GLIBC_TUNABLES'])"
)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.perturb=7", "glibc.malloc.perturb=7:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_starts_anew_once(given, expected):
    env = {key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"}
    env |= {"GLIBC_TUNABLES": given} if given else {}
    found = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == expected


def test_flags(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--xla_dump_to=x {DETERMINISTIC[0]}")
    use_deterministic_operations()
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=x {DETERMINISTIC[0]} {DETERMINISTIC[1]}"


def test_a_gpu_without_them(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    require_deterministic_operations()  # on a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match="deterministic=True needs XLA_FLAGS="):
        require_deterministic_operations()
    use_deterministic_operations()
    require_deterministic_operations()
