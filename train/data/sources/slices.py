"""Parts of splits in the notation of TensorFlow Datasets: `train[:99%]`, `train[10:20]`, `train[:-5%]+validation`."""

import re
from collections.abc import Iterable, Mapping

# What splits are called; timm's words for them (`dataset_factory`), and others that are usual. In lower case.
USUAL = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "eval", "evaluation", "dev", "holdout", "hold-out", "hold_out"),
    "test": ("test", "testing"),
}
_ENDING = re.compile(r"[-_ .]?(set|split|data|images|imgs)?$")

_NUMBER = r"(-?\d+(?:\.\d+)?)(%?)"
_PART = re.compile(rf"([\w.-]+)(?:\[(?:{_NUMBER})?:(?:{_NUMBER})?\])?")


def parse(spec: str, sizes: Mapping[str, int]) -> list[tuple[str, range]]:
    """Which images of which splits a specification means.

    Percentages are rounded to the closest image and negative numbers count from the end, both as in
    `tfds.core.ReadInstruction`; its unit `shard` is not known here.

    Args:
        spec: one or more splits, each with or without a slice, joined by "+".
        sizes: how many images each split has.

    Raises:
        ValueError: it cannot be read, a split is unknown, or a slice reaches beyond its split or has no images.
    """
    return [_part(part.strip(), spec, sizes) for part in spec.split("+")]


def usual(name: str) -> str | None:
    """Which of the kinds in `USUAL` a split is, by its name, as "Val" and "val_images" are "validation"; or None."""
    lower = name.lower()
    return next((kind for kind, names in USUAL.items() for own in names if _is(lower, own)), None)


def shared_start(names: Iterable[str]) -> str:
    """What the names of splits begin with where none is usual by itself: "seg_" of seg_train and seg_test, or ""."""
    kinds: dict[str, set[str | None]] = {}
    for name in names:
        if usual(name):
            return ""
        for mark in re.finditer("[-_ .]", name):
            kinds.setdefault(name[: mark.end()], set()).add(usual(name[mark.end() :]))
    return next((start for start, own in kinds.items() if "train" in own and len(own - {None}) > 1), "")


def for_testing(names: Iterable[str]) -> list[str]:
    """Those of the splits that are for testing, the most usual first."""
    order = [own for kind in ("validation", "test") for own in USUAL[kind]]
    return [name for own in order for name in names if _is(name.lower(), own)]


def find(name: str, known: Iterable[str]) -> str | None:
    """The split that a name means: itself, the same in other letters, or another word for the same."""
    known = list(known)
    kind = usual(name) if name.lower() in sum(USUAL.values(), ()) else None
    same = [other for other in known if other.lower() == name.lower()]
    return next(iter([other for other in known if other == name] + same), None) or next(
        (other for own in USUAL.get(kind or "", ()) for other in known if _is(other.lower(), own)), None
    )


def _is(lower: str, own: str) -> bool:
    return lower.startswith(own) and _ENDING.fullmatch(lower[len(own) :]) is not None


def _part(part: str, spec: str, sizes: Mapping[str, int]) -> tuple[str, range]:
    match = _PART.fullmatch(part)
    if match is None:
        expected = "neither a name nor a name with a slice, such as train[:99%] or train[10:20]"
        raise ValueError(f"{spec!r} is no split: {part!r} is {expected}.")
    name, start, start_unit, stop, stop_unit = match.groups()
    found = find(name, sizes)
    if found is None:
        raise ValueError(f"{spec!r}: there is no split {name!r}; there is {', '.join(sizes)}.")
    name = found
    units = {unit for number, unit in ((start, start_unit), (stop, stop_unit)) if number is not None}
    if len(units) > 1:
        raise ValueError(f"{spec!r}: {part!r} mixes images and percent; write both ends in one of them.")
    size, percent = sizes[name], units == {"%"}
    images = range(_bound(start, 0, size, percent, spec), _bound(stop, size, size, percent, spec))
    if not images:
        raise ValueError(f"{spec!r}: {part!r} has no images; {name} has {size}.")
    return name, images


def _bound(text: str | None, default: int, size: int, percent: bool, spec: str) -> int:
    """One end of a slice as a number of images from the beginning."""
    if text is None:
        return default
    if not percent and "." in text:
        raise ValueError(f"{spec!r}: {text} is not a whole number of images; did you mean {text}%?")
    bound = round(float(text) * size / 100) if percent else int(text)
    if abs(bound) > size:
        raise ValueError(f"{spec!r}: {text}{'%' if percent else ''} reaches beyond the {size} images of the split.")
    return bound if bound >= 0 else size + bound
