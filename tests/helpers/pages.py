"""The blocks of a page, run in a process of their own that starts with what they all import.

The fork server of `multiprocessing` imports that once, and what runs a page is a copy of that server: the imports
are half of what a short page takes.
"""

import contextlib
import os
import shlex
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import jax

from nfjax.__main__ import main
from tests.helpers.shallow import shallow

PRELOADED = [__name__, "torch", "matplotlib.pyplot", "sklearn.datasets", "train.loop"]  # those that are installed


def run(blocks: list[tuple[str, str]], folder: Path, environment: dict[str, str], full: bool) -> str | None:
    """What the blocks, `(language, code)`, said in that folder if one of them failed.

    If `full`, each command has its own process, and the models have all their blocks, as users have them; else commands
    of nfjax share this process.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_run, args=(blocks, folder, environment, full))
    with mock.patch.dict(os.environ, environment):  # in which the server starts, with the first page
        process.start()
    process.join()
    return (folder / "output.txt").read_text() if process.exitcode else None


def _run(blocks: list[tuple[str, str]], folder: Path, environment: dict[str, str], full: bool) -> None:
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    os.environ.update(environment)
    if "JAX_NUM_CPU_DEVICES" in environment:  # jax read the others when it was imported
        jax.config.update("jax_num_cpu_devices", int(environment["JAX_NUM_CPU_DEVICES"]))
    namespace = {"__name__": "__main__"}
    with contextlib.nullcontext() if full else shallow():
        for language, code in blocks:
            if language == "python":
                exec(compile(code, "the page", "exec"), namespace)
            elif language == "sh":
                for line in code.splitlines():
                    program, *arguments = shlex.split(line, comments=True) or [""]
                    if program != "nfjax" or full:
                        subprocess.run(line, shell=True, check=True)
                    elif main(arguments):
                        sys.exit(f"{line}: a status that is not 0")
