"""The help of a command line and the scripts that complete it, both through tyro; nothing is read here."""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from typing import Any, NoReturn

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from train.cli.fields import Field

NARROWEST = 20  # columns; tyro lays out its help for ever in a few


def shown(metavar: str, choices: Sequence[str] = ()) -> PrimitiveConstructorSpec[Any]:
    """How tyro shows a flag, and the values that it completes; it reads none."""

    def written(value: Any) -> list[str]:
        if isinstance(value, tuple) and "," not in "".join(map(str, value)):
            return [",".join(map(str, value))]
        return [str(value).lower() if value is None or isinstance(value, bool) else str(value)]

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=list,
        is_instance=lambda value: True,
        str_from_instance=written,
        choices=tuple(choices) or None,
    )


def show(default: Any, args: Sequence[str], prog: str) -> NoReturn:
    """Print what `args` ask for, the help or a script that completes flags in a shell, and end the process.

    Args:
        default: the command as a dataclass, with the values that are shown.
        prog: its name.
    """
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        field = Field.of("", info.type, None, "")
        if dataclasses.is_dataclass(info.type) or not isinstance(field.item, type):
            return None  # a section, or a choice, which tyro asks about as if it were a type
        return shown(field.type_name, () if args == ["--help"] else field.words)

    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
    style = (tyro.conf.FlagConversionOff, tyro.conf.HelptextFromCommentsOff)
    tyro.cli(
        type(default), prog=prog, args=args, default=default, use_underscores=True, registry=registry, config=style
    )
    raise SystemExit
