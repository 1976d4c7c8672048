"""The options of `nfjax train` for shells to complete: its flags, and a config's fields with their choices."""

from pathlib import Path

from port.commands import Parser
from train.cli.configs import recipes
from train.cli.fields import fields
from train.cli.flags import Command


def options(parser: Parser) -> None:
    """Add the options to a parser."""
    parser.add_argument("--config", choices=sorted(recipes()))
    parser.add_argument("--workdir", type=Path)
    for path, field in fields(Command()).items():
        if path not in ("source", "workdir"):
            flag = path if path.startswith("config.") else path.removeprefix("options.").replace("_", "-")
            choices = field.choices or (("true", "false") if field.item is bool else None)
            parser.add_argument(f"--{flag}", choices=choices)
