"""What must be decided before jax is imported: memory in huge pages, and XLA's flags, which it reads but once."""

import os
import sys
from collections.abc import Sequence

TUNABLE = "glibc.malloc.hugetlb"
# Unless it is told otherwise, XLA adds on a GPU in whatever order is fastest, and chooses algorithms by the clock.
DETERMINISTIC = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")


def prepare(arguments: Sequence[str], *, deterministic: bool) -> None:
    """Both, for a command with these arguments."""
    use_huge_pages(arguments)
    if deterministic:
        use_deterministic_operations()


def use_huge_pages(arguments: Sequence[str]) -> None:
    """Start this program anew with an allocator that asks Linux for huge pages; nothing if its environment says which.

    Nor does anything happen where the process is not the command's own: its command line ends in other `arguments`.

    On a CPU XLA takes the memory of every step from the system and gives it back: 650 MB for eight images of
    eca_nfnet_l0 at 160. Cleared in pages of 4 kB, that is a fifth of the processor's time. glibc (2.35 or later) reads
    the switch when a process starts, and others ignore it. `GLIBC_TUNABLES=glibc.malloc.hugetlb=0` keeps small pages.
    """
    given = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or TUNABLE in given or list(arguments) != sys.argv[-len(arguments) :]:
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [given, f"{TUNABLE}=1"]))
    os.execv(sys.executable, sys.orig_argv)


def use_deterministic_operations() -> None:
    """Add to XLA_FLAGS what makes a GPU compute the same bits each time."""
    given = os.environ.get("XLA_FLAGS", "").split()
    os.environ["XLA_FLAGS"] = " ".join([*given, *(flag for flag in DETERMINISTIC if flag not in given)])


def require_deterministic_operations() -> None:
    """Refuse a GPU for which the flags were not set in time.

    Raises:
        ValueError: says what to set.
    """
    import jax  # not before: the flags come first

    missing = [flag for flag in DETERMINISTIC if flag not in os.environ.get("XLA_FLAGS", "").split()]
    if missing and jax.default_backend() == "gpu":
        raise ValueError(
            f"deterministic=True needs XLA_FLAGS={' '.join(DETERMINISTIC)!r} before jax is imported; `nfjax train` "
            "sets it."
        )
