"""What the tables of all layouts are made of: rules that rename arrays, and the few forms that change them.

A name in a rule has blanks, `{i}` for a number and `{leaf}` for "weight" or "bias", which are the same on both sides.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from port.errors import LINES, WeightsError, listed

State = Mapping[str, Any]
Arrays = Sequence[np.ndarray]
NUMBER = "(?:0|[1-9][0-9]{0,5})"
# {i} and {stage} number blocks on both sides; {chunk} is only in names of the layout, and is left out in timm's.
_BLANKS = {"i": NUMBER, "stage": NUMBER, "leaf": "(?:weight|bias)", "chunk": NUMBER}


class Misfit(ValueError):
    """Arrays that a form does not take; the message says what is wrong with them."""


class Form(NamedTuple):
    """How the arrays of a rule change. Both directions take as many as their side of the rule has names."""

    to_timm: Callable[[Arrays], Arrays]
    from_timm: Callable[[Arrays], Arrays]


class Rule(NamedTuple):
    """Names on either side. Arrays under `optional` names may be there, and are left out; the way back makes them."""

    theirs: tuple[str, ...]
    timm: tuple[str, ...]
    form: Form
    optional: tuple[str, ...] = ()


def _same(arrays: Arrays) -> Arrays:
    return arrays


def _each(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Arrays], Arrays]:
    return lambda arrays: [change(array) for array in arrays]


def require_rank(array: np.ndarray, *ranks: int) -> np.ndarray:
    if array.ndim not in ranks:
        raise Misfit(f"{array.ndim} axes, expected {' or '.join(map(str, ranks))}")
    return array


def require_heads(heads: int | None) -> int:
    if heads is None:
        raise Misfit("timm's names do not say how many heads there are: pass heads=")
    return heads


def join(arrays: Arrays) -> Arrays:
    """Equal arrays, one after the other along their first axis."""
    if arrays[0].ndim not in (1, 2) or any(a.shape != arrays[0].shape or a.dtype != arrays[0].dtype for a in arrays):
        shapes = ", ".join(f"{a.dtype}{a.shape}" for a in arrays)
        raise Misfit(f"{shapes}, expected equal ones of one or two axes")
    return [np.concatenate(arrays)]


def split(parts: int) -> Callable[[Arrays], Arrays]:
    def into_parts(arrays: Arrays) -> Arrays:
        (whole,) = arrays
        if whole.ndim not in (1, 2) or whole.shape[0] % parts:
            raise Misfit(f"shape {whole.shape}, expected {parts} equal parts")
        return np.split(whole, parts)

    return into_parts


def joined(parts: int) -> Form:
    """Several arrays that timm has as one."""
    return Form(join, split(parts))


def transposed(ranks: Mapping[int, tuple[int, ...]]) -> Form:
    """The axes of timm's array, by their number, in terms of those of the layout."""

    def of(array: np.ndarray, back: bool) -> np.ndarray:
        axes = ranks[require_rank(array, *ranks).ndim]
        return array.transpose(np.argsort(axes) if back else axes)

    return Form(_each(lambda a: of(a, False)), _each(lambda a: of(a, True)))


SAME = Form(_same, _same)
KERNEL = transposed({2: (1, 0), 4: (3, 2, 0, 1)})  # of flax and haiku: inputs come before outputs


def renamed(pairs: Mapping[str, str], form: Form = SAME) -> tuple[Rule, ...]:
    """Rules for names that have one counterpart each."""
    return tuple(Rule((theirs,), (timm,), form) for theirs, timm in pairs.items())


def convert(
    state: State, rules: Sequence[Rule], what: str, *, back: bool = False, called: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The arrays of a layout under timm's names, or with `back` timm's under those of the layout.

    Several rules may lead to the same name of timm, for names that are found in one place or another; the way back
    takes the first. `called` has the names for messages, where they are not those of the state dict.

    Raises:
        WeightsError: naming every array for which there is no rule, those without their counterparts, and those whose
            shape no rule takes.
    """
    table = _Table(rules, back)
    groups: dict[tuple[int, tuple[tuple[str, str], ...]], dict[int, str]] = {}
    told: list[str] = []
    said = called or {}
    for name in state:
        if (found := table.find(name)) is None:
            told.append(f"{said.get(name, name)} of shape {tuple(np.shape(state[name]))} has no rule")
            continue
        at, position, blanks = found
        group = groups.setdefault((at, tuple(sorted(blanks.items()))), {})
        if position in group:
            told.append(f"{name} is there twice, also as {group[position]}")
        group[position] = name
    converted: dict[str, Any] = {}
    for (at, pairs), group in groups.items():
        rule, blanks = rules[at], dict(pairs)
        sources, targets = (rule.timm, rule.theirs + rule.optional) if back else (rule.theirs, rule.timm)
        lacking = [source.format(chunk=0, **blanks) for i, source in enumerate(sources) if i not in group]
        present = [said.get(name, name) for position, name in group.items() if position < len(sources)]
        if lacking:
            told += [f"{', '.join(lacking)} is missing, without which there is no use for {', '.join(group.values())}"]
            continue
        arrays = [np.asarray(state[group[i]]) for i in range(len(sources))]
        try:
            made = (rule.form.from_timm if back else rule.form.to_timm)(arrays)
        except Misfit as error:
            told.append(f"{', '.join(present)}: {error}")
            continue
        for target, array in zip(targets, made, strict=True):
            name = target.format(**blanks)
            if name in converted:
                told.append(f"{name} is there twice: {', '.join(present)} is another one of it")
            converted[name] = array
    if told:
        way = f"written as {what}" if back else f"read as {what}"
        raise WeightsError(f"{len(told)} arrays cannot be {way}: {listed(told, LINES)}.")
    return converted


class _Table:
    """Rules by the names that one direction looks for."""

    def __init__(self, rules: Sequence[Rule], back: bool):
        self.rows: list[tuple[re.Pattern[str], int, int]] = []
        for at, rule in enumerate(rules):
            names = rule.timm if back else rule.theirs + rule.optional
            self.rows += [(_pattern(name), at, position) for position, name in enumerate(names)]

    def find(self, name: str) -> tuple[int, int, dict[str, str]] | None:
        """The rule, which of its names it is, and what fills the blanks."""
        for pattern, at, position in self.rows:
            if match := pattern.fullmatch(name):
                blanks = match.groupdict()
                blanks.pop("chunk", None)
                return at, position, blanks
        return None


def _pattern(name: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", name)
    text = "".join(re.escape(p) if i % 2 == 0 else f"(?P<{p}>{_BLANKS[p]})" for i, p in enumerate(parts))
    return re.compile(text)
