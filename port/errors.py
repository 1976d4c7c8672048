"""Errors about weights. All are ValueErrors."""

from collections.abc import Iterable, Mapping

from port.text import one_line


class WeightsError(ValueError):
    """The weights do not fit: names, shapes or layouts."""


class WeightsFileError(WeightsError):
    """A file is damaged, is not what its name says, or holds something that is not weights."""


WAY_OUT = "Where it was written: torch.save(model.state_dict(), FILE), or safetensors."
Shape = tuple[int, ...]
LINES = 2000  # of a message: more than any model has arrays; a hostile file has any number


def listed(names: Iterable[str], most: int = 8) -> str:
    """The first of some names for a message, each in one line of bearable length, and how many more there are."""
    names = list(names)
    first = map(one_line, names[:most])
    shown = ", ".join(name if len(name) <= 100 else f"{name[:100]}..." for name in first)
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def check_strict(found: Mapping[str, Shape], expected: Mapping[str, Shape], *, what: str, source: str) -> None:
    """Equality of two sets of shapes by timm name, the weights' and the model's.

    Args:
        what: the model, for the message.
        source: where the weights came from, for the message.

    Raises:
        WeightsError: listing all missing, unexpected and wrongly shaped names.
    """
    missing = [f"{name} {shape}" for name, shape in expected.items() if name not in found]
    unexpected = [f"{name} {shape}" for name, shape in found.items() if name not in expected]
    both = [(name, found[name], shape) for name, shape in expected.items() if name in found]
    misshapen = [f"{name}: found {ours}, expected {shape}" for name, ours, shape in both if ours != shape]
    if not (missing or unexpected or misshapen):
        return
    lines = [f"the weights in {source} are not those of {what}."]
    for title, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", misshapen)):
        if names:
            lines.append(f"  {len(names)} {title}:")
            lines += [f"    {one_line(name)}" for name in names[:LINES]]
            lines += [f"    and {len(names) - LINES} more"] if len(names) > LINES else []
    if len(missing) == len(expected):
        lines.append("No name matches: check that the file holds this architecture, in timm's naming.")
    else:
        lines.append("Nothing was loaded. Check the model's name, num_classes and in_chans against the file.")
    raise WeightsError("\n".join(lines))
