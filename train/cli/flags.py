"""The command line: `python -m train.main --config=NAME [--workdir=DIR] [--config.FIELD=VALUE ...]`.

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

from port import messages
from train.cli import configs
from train.cli.fields import Field, did_you_mean, fields
from train.cli.options import Options, Profile, Texts, UsageError, texts
from train.config import Config

PROGRAM = "python -m train.main"
HELP = {"--help", "-h", "--helpfull"}


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
        raise SystemExit(messages.MISTAKE) from None


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
    wrong, values = _unknown(others), {}
    if HELP & set(others) and not wrong:
        source = asked["source"].value[:1] if "source" in asked else []
        default = Command(config=configs.load(source[0])) if source else Command()
        _tyro(default, ["--help"], PROGRAM if argv[0].endswith(".py") else argv[0], helping=True)
    for path, field in asked.items():
        try:
            values[path] = _value(field)
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


def _value(field: Field) -> Any:
    """The value of a flag that was given."""
    flag = "--config" if field.path == "source" else "--" + field.path.removeprefix("options.")
    name, texts = field.path.removeprefix("config."), field.value
    about = f"\n  {name} ({field.type_name}): {field.doc}" if name != field.path else ""
    if not field.settable and field.item is not Profile:
        raise UsageError(f"{flag} cannot be given here; set it in the config file.{about}")
    if not texts and field.item is not bool:
        raise UsageError(f"{flag}: the value is missing; expected {field.expected}.")
    if len(texts) > 1 and field.length == 1:
        raise UsageError(_unexpected(texts[1:]))
    text = ",".join(texts) if texts else "true"
    if field.item is Profile:
        return Profile.of(text)
    try:
        return field.parse(text)
    except ValueError:
        raise UsageError(f"{flag}={text}: expected {field.expected}.{about}") from None


def _unknown(arguments: Sequence[str]) -> list[str]:
    """A message for each flag that there is not, and one for what is no flag."""
    wrong, rest, before = [], [], ""
    for arg in arguments:
        name = arg.lstrip("-").partition("=")[0]
        path = name.removeprefix("config.")
        members = [f"  --config.{f.path}: {f.type_name}" for f in fields().values() if f.path.startswith(f"{path}.")]
        if arg in HELP:
            continue
        if not arg.startswith("-"):
            rest += [] if before.startswith("-") and "=" not in before else [arg]  # the value of an unknown flag
        elif path != name and members:
            wrong.append(f"--{name} is a section; set its fields one by one:\n" + "\n".join(members))
        elif path != name:
            hint = did_you_mean(path, "--config.") or f" `{PROGRAM} --help` lists them all."
            wrong.append(f"{arg}: there is no such field.{hint}")
        else:
            flags = ["--config", "--workdir", *(f"--{field.name}" for field in dataclasses.fields(Options))]
            hint = messages.did_you_mean(f"--{name}", flags, n=1) or did_you_mean(name, "--config.")
            wrong.append(f"there is no flag --{name}.{hint or f' `{PROGRAM} --help` lists them all.'}")
        before = arg
    return wrong + ([_unexpected(rest)] if rest else [])


def _unexpected(arguments: Sequence[str]) -> str:
    return f"unexpected arguments: {' '.join(arguments)}; values are given as --config.FIELD=VALUE."
