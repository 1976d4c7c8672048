"""A program that starts itself anew has the allocator's switch, once, and keeps what the environment said."""

import os
import subprocess
import sys

import pytest

PROGRAM = (
    "from train.machine.huge_pages import use_huge_pages; import os, sys; "
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
