"""Which images a command is about: `--data PLACE`, and fields of a config's data section, `--data.FIELD=VALUE`."""

import argparse
from collections.abc import Sequence
from typing import Any

from port.commands import Parser
from train.cli.fields import fields
from train.data.place import place


def data_options(parser: Parser, names: Sequence[str]) -> None:
    """Add the options, with those fields."""
    where = "a folder or archive of images in a folder per class, a table, tfds/NAME, hfds/ORG/NAME or wds/PATTERN"
    parser.add_argument("--data", metavar="PLACE", help=where)
    group = parser.add_argument_group("images", "Fields of a config's section data. Written none, they are None.")
    known = fields()
    for name in names:
        field = known[f"data.{name}"]
        doc = field.doc.replace("%", "%%")
        group.add_argument(f"--{field.path}", metavar="VALUE", help=f"{field.type_name}: {doc}")


def data_of(parser: Parser, args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """The fields of `train.config.Data` that are given; a mistake ends the process, as argparse's do."""
    known = fields()
    try:
        given = place(args.data) if args.data else {}
    except FileNotFoundError as error:
        parser.error(f"--data={error}")
    for name in names:
        text, field = getattr(args, f"data.{name}"), known[f"data.{name}"]
        if text is not None:
            try:
                given[name] = field.parse(text)
            except ValueError:
                parser.error(f"--{field.path}={text}: expected {field.expected}.")
    return given
