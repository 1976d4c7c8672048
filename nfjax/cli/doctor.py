"""`nfjax doctor`: whether this machine, or this process of a cluster, has what nfjax needs."""

import argparse
import functools
import json
import os
from collections import Counter

from nfjax.health import machine, network, software
from nfjax.health.check import Check, Look, run_all
from port.text import one_line


def run(args: argparse.Namespace) -> int:
    environment = dict(os.environ)
    looks: list[Look] = [
        ("packages", software.packages),
        ("devices", functools.partial(software.devices, environment)),
        ("cores", machine.cores),
        ("memory", machine.memory),
        ("cluster", functools.partial(network.cluster, environment)),
        ("coordinator", functools.partial(network.coordinator, args.coordinator, environment)),
    ]
    if args.workdir is not None:
        looks.append(("work folder", functools.partial(machine.folder, args.workdir, environment)))
    if args.hub:
        looks.append(("hub", functools.partial(network.hub, environment)))
    checks = run_all(looks)
    count = Counter(check.status for check in checks)
    if args.json:
        print(json.dumps([check._asdict() for check in checks], indent=2))
    else:
        for check in checks:
            print(_line(check))
    return 1 if count["problem"] else 0


def _line(check: Check) -> str:
    return one_line(f"{check.status:8} {check.name:12} {check.found}{'. ' + check.todo if check.todo else ''}")
