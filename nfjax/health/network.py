"""The other processes, and the hub."""

import os
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping

from nfjax.health.check import Check
from nfjax.support.clusters import first_node, launchers
from port.text import cut, one_line

TIME = 4.0  # seconds for an answer


def cluster(environment: Mapping[str, str]) -> Iterator[Check]:
    """What the environment says about other processes."""
    found = launchers(environment)
    if not found:
        told = "none: one process"
        if environment.get("KUBERNETES_SERVICE_HOST"):
            told += " in a Kubernetes pod; several are told by --coordinator, --num_processes and --process_id"
        yield Check("cluster", "ok", told)
    for name, count, rank in found:
        which = f"process {rank} of {count}" if rank else f"{count} processes, and not which this is"
        wrong = bool(rank) and not (rank.isdecimal() and int(rank) < count)
        todo = "Start it with `srun`, or the launcher that set this." if wrong else ""
        yield Check("cluster", "problem" if wrong else "ok", f"{name}: {which}", todo)


def coordinator(address: str | None, environment: Mapping[str, str]) -> Iterator[Check]:
    """Whether the machine where the processes meet can be reached."""
    address = address or environment.get("JAX_COORDINATOR_ADDRESS")
    if address and not re.fullmatch(r".+:\d+", address):
        told = one_line(f"found {address}, expected HOST:PORT, for example node1:12345")
        yield Check("coordinator", "problem", told, "Name the port too, the same on every machine.")
        return
    host, port = address.rsplit(":", 1) if address else (first_node(environment), "")
    if not host:
        return
    host = host.strip("[]")  # of an address of IPv6
    todo = "Does the name resolve on every machine, and does the firewall let its port through?"
    try:
        place = socket.getaddrinfo(host, int(port or 1), type=socket.SOCK_STREAM)[0]
    except (OSError, ValueError, OverflowError) as error:
        yield Check("coordinator", "problem", one_line(f"{host}:{port or '?'} is not known: {error}"), todo)
        return
    if not port:
        yield Check("coordinator", "ok", f"{host} is {place[4][0]}; jax chooses the port")
        return
    try:
        with socket.create_connection((host, int(port)), TIME):
            yield Check("coordinator", "ok", f"{host}:{port} answers")
    except ConnectionRefusedError:
        yield Check("coordinator", "ok", f"{host} is reached; nobody listens at {port} yet, as before a run")
    except OSError as error:
        yield Check("coordinator", "problem", f"{host}:{port} cannot be reached: {error}", todo)


def hub(environment: Mapping[str, str]) -> Iterator[Check]:
    """Whether the hub answers."""
    endpoint = environment.get("HF_ENDPOINT") or "https://huggingface.co"
    home = environment.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    place = next((p for p in (home, os.path.dirname(home), os.path.expanduser("~")) if os.path.isdir(p)), "/")
    if os.access(place, os.W_OK):
        yield Check("hub cache", "ok", home)
    else:
        yield Check("hub cache", "problem", f"{home} cannot be written", "Set HF_HOME to a folder of yours.")
    if environment.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        yield Check("hub", "ok", "HF_HUB_OFFLINE: what is in the cache is used, nothing is fetched")
        return
    try:
        with urllib.request.urlopen(f"{endpoint}/api/models?limit=1", timeout=TIME):
            yield Check("hub", "ok", f"{endpoint} answers")
    except (OSError, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = cut(one_line(str(getattr(error, "reason", error))), 200)
        todo = "Check the network, HF_ENDPOINT and HTTPS_PROXY; HF_HUB_OFFLINE=1 uses what is in the cache."
        yield Check("hub", "problem", f"{endpoint} cannot be reached: {reason}", todo)
