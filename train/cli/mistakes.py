"""What is wrong with a config or a flag, and what may have been meant."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from port import messages
from train.cli.fields import Field, fields, members
from train.cli.options import HELP, Options, Profile, UsageError
from train.config import Config

PROGRAM = "nfjax train"


def check(config: Config) -> None:
    """Refuse values that do not fit their fields, and attributes that are no fields.

    Raises:
        ValueError: all mistakes, a line each: the field, what was found and what is expected.
    """
    if wrong := _mistakes(config, ""):
        raise ValueError("values that do not fit their fields:\n" + "\n".join(f"  {mistake}" for mistake in wrong))


def _mistakes(config: Any, prefix: str) -> list[str]:
    found = members(config, prefix)
    unknown = {f"{prefix}{name}" for name in vars(config)} - {path for path, *_ in found}
    wrong = [f"{path}: there is no such field.{did_you_mean(path)}" for path in sorted(unknown)]
    for path, kind, value, doc in found:
        field = None if dataclasses.is_dataclass(kind) else Field.of(path, kind, value, doc)
        if field and field.accepts(value):
            rows = enumerate(value if isinstance(value, tuple) and not field.settable else ())
            wrong += [mistake for index, row in rows for mistake in _mistakes(row, f"{path}[{index}].")]
        elif not field and isinstance(value, kind):
            wrong += _mistakes(value, f"{path}.")
        else:
            expected = field.expected if field else f"a train.config.{kind.__name__}"
            wrong.append(f"{path}={value!r:.80}: expected {expected}")
    return wrong


def did_you_mean(path: str, before: str = "") -> str:
    """` Did you mean a or b?`, `before` before each: the same name in another section first, then similar paths."""
    known = list(fields())
    same = [other for other in known if other.rpartition(".")[2] == path.rpartition(".")[2]]
    found = list(dict.fromkeys(same + messages.nearest(path, known, n=3, cutoff=0.75)))[:4]
    return f" Did you mean {' or '.join(before + name for name in found)}?" if found else ""


def value(field: Field) -> Any:
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


def unknown(arguments: Sequence[str]) -> list[str]:
    """A message for each flag that there is not, and one for what is no flag."""
    wrong, rest, before = [], [], ""
    for arg in arguments:
        name = arg.lstrip("-").partition("=")[0]
        path = name.removeprefix("config.")
        section = [f"  --config.{f.path}: {f.type_name}" for f in fields().values() if f.path.startswith(f"{path}.")]
        if arg in HELP:
            continue
        if not arg.startswith("-"):
            rest += [] if before.startswith("-") and "=" not in before else [arg]  # the value of an unknown flag
        elif path != name and section:
            wrong.append(f"--{name} is a section; set its fields one by one:\n" + "\n".join(section))
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
