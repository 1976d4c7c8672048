"""Several processes as one: when and how `jax.distributed.initialize` is called."""

import os
from collections.abc import Mapping

import jax

# Environment variables by which a launcher that JAX knows tells a process that it is one of several.
_SIZES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
_HOSTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")


def is_cluster(environment: Mapping[str, str]) -> bool:
    """Whether the environment is that of one process of several: under SLURM, MPI, or on the hosts of a TPU pod."""
    sizes = [environment.get(name, "") for name in _SIZES]
    hosts = [environment.get(name, "") for name in _HOSTS]
    return any(size.isdecimal() and int(size) > 1 for size in sizes) or any("," in names for names in hosts)


def initialize(
    distributed: str = "auto",
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Join the other processes, before anything else touches a device.

    Args:
        distributed: "on" to ask JAX to find out where the others are (SLURM, TPU, GKE, Open MPI), "off" to stay alone,
            "auto" for "on" where the environment says that there are others.
        coordinator: address and port of the first process, where JAX cannot find it out.
        num_processes: how many there are.
        process_id: which of them this is, from 0.

    Raises:
        ValueError: if only some of the last three are given.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) != all(given):
        raise ValueError("--coordinator, --num_processes and --process_id go together: give all three or none.")
    if distributed == "off" or not (all(given) or distributed == "on" or is_cluster(os.environ)):
        return
    jax.distributed.initialize(coordinator, num_processes, process_id)
