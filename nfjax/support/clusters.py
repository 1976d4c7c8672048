"""What the environment says about the other processes of a run: SLURM, MPI, the hosts of a TPU."""

import re
from collections.abc import Mapping

# Environment variables by which a launcher that JAX knows tells a process that it is one of several, and which.
RANKS = {
    "SLURM": ("SLURM_NTASKS", "SLURM_PROCID"),
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    "MPI (PMI)": ("PMI_SIZE", "PMI_RANK"),
}
HOSTS = {
    "TPU": ("TPU_WORKER_HOSTNAMES", "TPU_WORKER_ID"),
    "TPU processes": ("TPU_PROCESS_ADDRESSES", "CLOUD_TPU_TASK_ID"),
}


def is_cluster(environment: Mapping[str, str]) -> bool:
    """Whether the environment is that of one process of several: under SLURM, MPI, or on the hosts of a TPU pod."""
    return any(count > 1 for _, count, _ in launchers(environment))


def launchers(environment: Mapping[str, str]) -> list[tuple[str, int, str]]:
    """Those that have started this process: name, how many processes there are, and which this is ("" for unknown)."""
    found = []
    for name, (size, rank) in RANKS.items():
        if (count := environment.get(size, "")).isdecimal():
            found.append((name, int(count), environment.get(rank, "")))
    for name, (hosts, rank) in HOSTS.items():
        if names := environment.get(hosts, ""):
            found.append((name, len(names.split(",")), environment.get(rank, "")))
    return found


def first_node(environment: Mapping[str, str]) -> str | None:
    """The machine of SLURM's first process, where JAX expects the coordinator: "node[03-07,9]" begins with node03."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or ""
    match = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
    return None if match is None else match[1] + (match[2] or "")
