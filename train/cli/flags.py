"""The command line: `nfjax train --config=NAME [--workdir=DIR] [--config.FIELD=VALUE ...]`.

`train.cli.fields` knows what a value means and whether it fits. A mistake is told before anything is loaded or
computed: nothing here may import jax.
"""

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from nfjax.models.known import require_model
from port.messages import MISTAKE
from port.paths import user_place
from train.cli import configs, mistakes
from train.cli.fields import Field, fields
from train.cli.help import show
from train.cli.options import Options, UsageError
from train.config import Config
from train.data.place import require_root

HELP = {"--help", "--h", "--helpfull"}


@dataclasses.dataclass(frozen=True)
class Command:
    """Train a model, or continue the run that the work folder holds.

    A field that allows it is None if written none; the elements of a tuple are separated by commas, or written as in
    Python. For example: --config=digits --workdir=runs/quick --config.epochs=2 --config.optim.clip_grad=none

    Attributes:
        source: a recipe, FILE.py whose get_config() returns a train.config.Config, or a run, whose config to take; by
            default that of the run in the work folder.
        workdir: folder of the run; runs/NAME of the config unless given. A run found there is continued.
        config: with their types and meanings, and their values in the given --config.
    """

    source: Annotated[str | None, tyro.conf.arg(name="config")] = None
    workdir: str | None = None
    options: Annotated[Options, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Options)
    config: Config = dataclasses.field(default_factory=Config)


def flags() -> dict[str, Field]:
    """All flags: --config, --workdir, those of `Options`, and --config.FIELD."""
    paths = fields(Command())
    return {"--" + re.sub("^source$", "config", path.removeprefix("options.")): paths[path] for path in paths}


def parse(argv: Sequence[str]) -> tuple[Config, Path | str, Options]:
    """The config, the work folder and the options of a command line: the command's name and its arguments.

    Ends the process like a command: `--help` prints the help, status 0; mistakes are told, status 2.

    Raises:
        ValueError, OSError: a model, a folder or a table that there is not.
    """
    try:
        config, workdir, options = read_command(argv)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(MISTAKE) from None
    require_model(config.model.name)
    require_root(config.data)
    return config, workdir, options


def announce(config: Config, workdir: Path | str, options: Options) -> None:
    """Say what is about to be loaded: the libraries and the data set take some seconds."""
    if options.process_id in (None, 0):
        weights = config.model.resume_timm or config.model.resume_run or config.model.weights or "fresh weights"
        root = config.data.root
        images = f"{config.data.name} images" + ("" if root is None else f" from {root}")
        print(f"loading {config.model.name} ({weights}) and {images}; the work folder is {workdir}", flush=True)


def read_command(argv: Sequence[str]) -> tuple[Config, Path | str, Options]:
    """`parse`, but it raises UsageError: of each mistake what was given, what is expected, what may have been meant."""
    if argv[1:2] and argv[1].startswith("--tyro-"):
        show(Command(), argv[1:], "nfjax-train")
    known = flags()
    given, rest = _given(argv[1:], known)
    source = next(iter(given.get("--config", ())), None)
    wrong = [mistakes.unknown(flag, given[flag], known) for flag in given if flag not in known and flag not in HELP]
    wrong += [mistakes.unexpected(rest)] if rest else []
    wrong += mistakes.expanded(argv[1:])
    if HELP & given.keys() and not wrong:
        default = Command(config=configs.load_config(source)) if source else Command()
        show(default, ["--help"], mistakes.PROGRAM if argv[0].endswith(".py") else argv[0])
    values: dict[str, Any] = {}
    for flag in filter(known.get, given):
        try:
            values[known[flag].path] = mistakes.value(flag, known[flag], given[flag])
        except UsageError as error:
            wrong.append(str(error))
    if wrong:
        raise UsageError("\n".join(wrong))
    options = Options(**{path.removeprefix("options."): values[path] for path in values if path.startswith("options.")})
    options.check()
    place = values.get("workdir")
    if source is None and place and configs.of_run(place).is_file():
        source = place  # the run that it holds goes on as it began
    if source is None:
        raise UsageError(f"--config is missing: a recipe ({', '.join(configs.recipes())}), FILE.py or a run.")
    config = configs.load_config(source)
    for path, value in values.items():
        section, _, name = path.removeprefix("config.").rpartition(".")
        if path.startswith("config."):
            setattr(getattr(config, section) if section else config, name, value)
    return config, user_place(place) if place else configs.workdir(source), options


def _given(arguments: Sequence[str], known: Mapping[str, Field]) -> tuple[dict[str, list[str]], list[str]]:
    """The values of each flag, the last time that it is given; and what belongs to no flag."""
    given: dict[str, list[str]] = {}
    rest: list[str] = []
    values = rest
    for arg in arguments:
        match = re.fullmatch(r"--?([a-zA-Z_][^=]*)(?:=(.*))?", arg, re.DOTALL)
        if match is None:
            values.append(arg)
            continue
        flag, value = "--" + match[1].replace("-", "_"), match[2]
        if flag.startswith("--noconfig."):
            flag = flag.replace("--no", "--", 1)
            if value is not None or (flag in known and known[flag].item is not bool):
                raise UsageError(f"{arg}: --noconfig.FIELD is for fields that are true or false, without a value.")
            value = "false"
        given[flag] = [] if value is None else [value]
        values = given[flag] if value is None else rest
    return given, rest
