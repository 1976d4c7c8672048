"""The command line: `nfjax train --config=NAME [--workdir=DIR] [--config.FIELD=VALUE ...]`.

tyro finds the flags, tells of them and completes them; `train.cli.fields` knows what a value means and whether it fits.
A mistake is told before anything is loaded or computed: nothing here may import jax.
"""

import dataclasses
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from port.messages import MISTAKE
from train.cli import configs, mistakes
from train.cli.fields import Field, fields
from train.cli.mistakes import PROGRAM
from train.cli.options import HELP, Options, Texts, UsageError, texts
from train.config import Config


@dataclasses.dataclass(frozen=True)
class Command:
    """Train a model, or continue the run that the work folder holds.

    A field that allows it is None if written none; the elements of a tuple are separated by commas, or written as in
    Python. For example: --config=digits --workdir=runs/quick --config.epochs=2 --config.optim.clip_grad=none

    Attributes:
        source: a recipe, FILE.py whose get_config() returns a train.config.Config, or a run, whose config to take.
        workdir: folder of the run; runs/NAME of the config unless given. A run found there is continued.
        config: with their types and meanings, and their values in the given --config.
    """

    source: Annotated[str | None, tyro.conf.arg(name="config")] = None
    workdir: str | None = None
    options: Annotated[Options, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Options)
    config: Config = dataclasses.field(default_factory=Config)


def parse(argv: Sequence[str]) -> tuple[Config, Path, Options]:
    """The config, the work folder and the options of a command line.

    Ends the process like a command: `--help` prints the help, status 0; mistakes are told, status 2.

    Args:
        argv: what the command is called, and its arguments.
    """
    try:
        return read(argv)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(MISTAKE) from None


def read(argv: Sequence[str]) -> tuple[Config, Path, Options]:
    """`parse`, without catching.

    Raises:
        UsageError: of each mistake, what was given, what was expected, and what may have been meant.
        SystemExit: after `--help`, and after a script that completes flags in a shell.
    """
    if argv[1:2] and argv[1].startswith("--tyro-"):
        _tyro(Command(), argv[1:], "nfjax-train", completing=True)
    given, others = _tyro(Command(), [_spelt(arg) for arg in argv[1:]])
    asked = {path: field for path, field in fields(given).items() if isinstance(field.value, Texts)}
    wrong, values = mistakes.unknown(others), {}
    if HELP & set(others) and not wrong:
        source = asked["source"].value[:1] if "source" in asked else []
        default = Command(config=configs.load(source[0])) if source else Command()
        _tyro(default, ["--help"], PROGRAM if argv[0].endswith(".py") else argv[0], helping=True)
    for path, field in asked.items():
        try:
            values[path] = mistakes.value(field)
        except UsageError as error:
            wrong.append(str(error))
    if wrong:
        raise UsageError("\n".join(wrong))
    options = Options(**{path.removeprefix("options."): values[path] for path in values if path.startswith("options.")})
    options.check()
    source = values.get("source")
    if source is None:
        raise UsageError(f"--config is missing: a recipe ({', '.join(configs.recipes())}), FILE.py or a run.")
    config = configs.load(source)
    for path, value in values.items():
        section, _, name = path.removeprefix("config.").rpartition(".")
        if path.startswith("config."):
            setattr(getattr(config, section) if section else config, name, value)
    return config, Path(values.get("workdir") or configs.workdir(source)), options


def _tyro(
    default: Command, args: Sequence[str], prog: str = PROGRAM, *, completing: bool = False, helping: bool = False
) -> tuple[Command, list[str]]:
    """A command with `Texts` for what is given, and the arguments that are unknown."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        field = Field.of("", info.type, None, "")
        if dataclasses.is_dataclass(info.type) or not isinstance(field.item, type):
            return None  # a section, or a choice, which tyro asks about as if it were a type
        choices = field.choices or (("true", "false") if field.item is bool else ())
        return texts(field.type_name, tuple(map(str, choices)) if choices and completing else None)

    return tyro.cli(
        Command,
        prog=prog,
        args=args,
        default=default,
        use_underscores=True,
        return_unknown_args=True,
        add_help=helping,
        registry=registry,
        config=(tyro.conf.FlagConversionOff,),
    )


def _spelt(arg: str) -> str:
    """An argument as tyro wants it: two dashes, and a value for `--noconfig.FIELD`."""
    match = re.fullmatch(r"--?noconfig\.([^=]*)(=.*)?", arg, re.DOTALL)
    if match is None:
        return re.sub(r"^-(?=[a-z_]{2})", "--", arg)
    field = fields().get(match[1])
    if match[2] or (field and field.item is not bool):
        raise UsageError(f"{arg}: --noconfig.FIELD is for fields that are true or false, without a value.")
    return f"--config.{match[1]}=false"
