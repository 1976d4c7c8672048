"""What is wrong with a config or a flag, and what may have been meant."""

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from port import messages
from train.cli.fields import Field, fields, members
from train.cli.options import Profile, UsageError
from train.config import Config

PROGRAM = "nfjax train"


def check(config: Config) -> None:
    """Refuse values that do not fit their fields, and attributes that are no fields; `pathlib.Path`s become text.

    Raises:
        ValueError: all mistakes, a line each: the field, what was found and what is expected.
    """
    if wrong := _mistakes(config, ""):
        raise ValueError("values that do not fit their fields:\n" + "\n".join(f"  {mistake}" for mistake in wrong))


def _mistakes(config: Any, prefix: str) -> list[str]:
    found = members(config, prefix)
    unknown = {f"{prefix}{name}" for name in vars(config)} - {field.path for field in found}
    wrong = [f"{path}: there is no such field.{did_you_mean(path)}" for path in sorted(unknown)]
    for field in found:
        path, value = field.path, field.value
        if field.item is str and isinstance(value, os.PathLike):
            value = os.fspath(value)
            setattr(config, path.removeprefix(prefix), value)
        if not field.accepts(value):
            wrong.append(f"{path}={value!r:.80}: expected {field.expected}")
        elif field.is_section:
            wrong += _mistakes(value, f"{path}.")
        elif dataclasses.is_dataclass(field.item):
            wrong += [mistake for index, row in enumerate(value) for mistake in _mistakes(row, f"{path}[{index}].")]
    return wrong


def did_you_mean(path: str, before: str = "") -> str:
    """` Did you mean a or b?`, `before` before each: the same name in another section first, then similar paths."""
    known = list(fields())
    same = [other for other in known if other.rpartition(".")[2] == path.rpartition(".")[2]]
    found = list(dict.fromkeys(same + messages.nearest(path, known, n=3, cutoff=0.75)))[:4]
    return f" Did you mean {' or '.join(before + name for name in found)}?" if found else ""


def value(flag: str, field: Field, texts: Sequence[str]) -> Any:
    """The value of a flag that was given."""
    name = field.path.removeprefix("config.")
    about = f"\n  {name} ({field.type_name}): {field.doc}" if name != field.path else ""
    if not field.settable and field.item is not Profile:
        raise UsageError(f"{flag} cannot be given here; set it in the config file.{about}")
    expected = Profile.EXPECTED if field.item is Profile else field.expected
    if (not texts and field.item is not bool) or (flag == "--workdir" and texts == [""]):
        raise UsageError(f"{flag}: the value is missing; expected {expected}.")
    if len(texts) > 1 and field.length == 1:
        raise UsageError(unexpected(texts[1:]))
    text = ",".join(texts) if texts else "true"
    if field.item is Profile:
        return None if text.lower() == "none" else Profile.of(text)
    try:
        return field.parse(text)
    except ValueError:
        raise UsageError(f"{flag}={text}: expected {expected}.{about}") from None


def unknown(flag: str, texts: Sequence[str], known: Mapping[str, Field]) -> str:
    """What to say of a flag that there is not."""
    path, listed = flag.removeprefix("--config."), f" `{PROGRAM} --help` lists them all."
    if inside := [f"  {other}: {known[other].type_name}" for other in known if other.startswith(f"{flag}.")]:
        return f"{flag} is a section; set its fields one by one:\n" + "\n".join(inside)
    if path != flag:
        return f"{'='.join([flag, *texts[:1]])}: there is no such field.{did_you_mean(path, '--config.') or listed}"
    hint = messages.did_you_mean(flag, [other for other in known if "." not in other], n=1)
    return f"there is no flag {flag}.{hint or did_you_mean(flag[2:], '--config.') or listed}"


def expanded(arguments: Sequence[str]) -> list[str]:
    """What to say where the shell has made several arguments of one with braces, of which the last would count."""
    for one, other in itertools.pairwise(arguments):
        flag, again = one.partition("=")[0], other.partition("=")[0]
        if flag == again and flag.startswith("--config.data.") and one != other and {one[-4:], other[-4:]} == {".tar"}:
            return [f"{flag} has several values: the shell has expanded its braces. Put quotes around: '{flag}=...'."]
    return []


def unexpected(arguments: Sequence[str]) -> str:
    return f"unexpected arguments: {' '.join(arguments)}; values are given as --config.FIELD=VALUE."
