"""Tar shards in WebDataset's form: the members of a sample lie in one file and are called alike, KEY.jpg and KEY.cls.

Each shard is looked through once, for where its images are and what their labels say; that is kept in the user's cache.
After that any image is read with one look at its place, so that order and resuming are those of every other source.
"""

import contextlib
import glob
import hashlib
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nfjax.cache import folder_for
from nfjax.images import image_suffixes
from nfjax.support.archives import Place, members, read, require_sound
from nfjax.support.early import is_url
from port.atomic import replacing
from port.text import counted, cut, one_line
from train.data.sources.base import Source, Splits, brief, labels_of_column, natural
from train.data.sources.packed import Packed
from train.data.sources.slices import usual

LABELS = ("cls", "json", "txt")  # endings of labels, the first that a shard has counts
FIELDS = ("label", "class", "target", "cls")  # of a `.json`
MOST_SHARDS = 100_000
LONGEST = 2**20  # bytes of a label
VERSION = 1  # of what is kept


class Shard(NamedTuple):
    """What a shard has: the key, the place and the label of each image; and what was passed over."""

    keys: list[str]
    places: list[list[int]]
    labels: list[Any]
    passed: dict[str, int]


def open_shards(
    pattern: str, root: Path | None = None, input_key: str | None = None, target_key: str | None = None
) -> Splits:
    """The splits of shards. A usual word in a shard's name or in its folder's says which it is of: train-0001.tar.

    Args:
        pattern: paths of shards, with braces (`train-{0000..0127}.tar`, `{train,val}-0.tar`), with `*`, or of a folder
            with shards in it; relative to `root`.
        root: the folder; None for the current one. Without a pattern it is one itself.
        input_key: ending of the images, several with ";" between; None for those of any image file.
        target_key: ending of the labels ("cls", "txt"), or the field of `.json` that has them; None for the first
            there is of `.cls`, the fields `FIELDS` of `.json`, and `.txt`.

    Raises:
        FileNotFoundError: there is no such shard.
        ValueError: a shard is damaged, or a sample has no label or several images; names it.
    """
    files = expand(pattern or str(root), root if pattern else None)
    names = _split_names(files)
    shards = [_indexed(file, input_key, target_key) for file in files]
    where = [(file, key) for file, shard in zip(files, shards, strict=True) for key in shard.keys]
    if not where:
        raise ValueError(f"{files[0]}: no images{f' that end in {input_key}' if input_key else ''}; {_expected()}.")
    labels, known = labels_of_column(
        itertools.chain.from_iterable(shard.labels for shard in shards),
        lambda row: one_line(f"{where[row][0]}, {where[row][1]}"),
    )
    parts = np.split(labels, np.cumsum([len(shard.keys) for shard in shards])[:-1])
    top = Path(os.path.commonpath([file.parent for file in files]))
    found: dict[str, Source] = {}
    for split in dict.fromkeys(names):
        own = [i for i, name in enumerate(names) if name == split and shards[i].keys]
        if own:
            found[split] = Packed(
                [files[i] for i in own],
                np.repeat(np.arange(len(own)), [len(shards[i].keys) for i in own]),
                np.concatenate([np.array(shards[i].places).reshape(-1, len(Place._fields)) for i in own]),
                [f"{files[i].relative_to(top).as_posix()}/{key}" for i in own for key in shards[i].keys],
                np.concatenate([parts[i] for i in own]),
                known,
            )
    passed = sum((Counter(shard.passed) for shard in shards), Counter[str]())
    notes = [f"passed over: {', '.join(f'{count} {what}' for what, count in passed.most_common())}"] if passed else []
    return Splits(found, notes)


def expand(pattern: str, root: Path | None = None) -> list[Path]:
    """The shards that a pattern stands for; a FileNotFoundError if one is not there."""
    if is_url(pattern) or re.match(r"(pipe|gs|s3|hdfs):", pattern):
        raise ValueError(f"data.name=wds/{pattern}: shards are read where they lie; copy them to a disk, or mount it.")
    found: list[Path] = []
    several = list(itertools.islice(_braces(pattern), MOST_SHARDS + 1))
    if len(several) > MOST_SHARDS:
        raise ValueError(f"data.name=wds/{pattern}: more than {MOST_SHARDS} shards.")
    for one in several:
        path = Path(os.path.expanduser(one)) if root is None else root / one
        if path.is_dir():
            found += sorted(path.rglob("*.tar"), key=lambda file: natural(str(file)))
        elif set("*?[") & set(one) and not path.exists():
            found += sorted(map(Path, glob.glob(str(path), recursive=True)), key=lambda file: natural(str(file)))
        else:
            found.append(path)
    found = list(dict.fromkeys(found))
    if not found:
        raise FileNotFoundError(f"data.name=wds/{pattern}: no shards (working directory: {Path.cwd()}); {_expected()}.")
    if missing := [str(file) for file in found if not file.is_file()]:
        raise FileNotFoundError(
            f"data.name=wds/{pattern}: {len(missing)} of {counted(len(found), 'shard')} are not there: "
            f"{brief(missing)} (working directory: {Path.cwd()})."
        )
    return found


def _expected() -> str:
    return "expected tar files with KEY.jpg and KEY.cls, such as data.name=wds/train-{0000..0127}.tar"


def _braces(pattern: str) -> Iterator[str]:
    """A pattern without braces, one text for each choice in them."""
    match = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if match is None:
        yield pattern
        return
    first, last, words = match.groups()
    if words is None and not 0 <= int(last) - int(first) < MOST_SHARDS:
        raise ValueError(f"data.name=wds/{pattern}: {match[0]} counts {first} to {last}; expected the smaller first.")
    choices = words.split(",") if words else [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    for choice in choices:
        yield from _braces(pattern[: match.start()] + choice + pattern[match.end() :])


def _split_names(files: Sequence[Path]) -> list[str]:
    """The split of each shard: the last usual word in its name, else its folder's name; "train" where none has one."""
    words = [[file.parent.name, *re.split(r"[^A-Za-z]+", file.stem)] for file in files]
    found = [next((word.lower() for word in reversed(own) if usual(word)), "") for own in words]
    if not any(found):
        return ["train"] * len(files)
    if "" in found:
        raise ValueError(
            f"{files[found.index('')]}: of which split is it? Others say it in their names, as "
            f"{files[next(i for i, name in enumerate(found) if name)].name}."
        )
    return found


def _indexed(file: Path, input_key: str | None, target_key: str | None) -> Shard:
    """What a shard has, as it was kept or by looking through it."""
    status, folder = file.stat(), folder_for("shards")
    identity = [VERSION, str(file.absolute()), status.st_size, status.st_mtime_ns, input_key, target_key]
    kept = None if folder is None else folder / f"{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}.json"
    if kept is not None:
        with contextlib.suppress(OSError, ValueError, TypeError):
            shard = Shard(*json.loads(kept.read_bytes()))
            if len(shard.keys) == len(shard.places) == len(shard.labels):
                return shard
    shard = _look_through(file, input_key, target_key)
    if kept is not None:
        with contextlib.suppress(OSError), replacing(kept) as partial:  # it is looked through again, then
            partial.write_text(json.dumps(shard))
    return shard


def _look_through(file: Path, input_key: str | None, target_key: str | None) -> Shard:
    images = set(input_key.lower().split(";")) if input_key else {suffix.lstrip(".") for suffix in image_suffixes()}
    samples: dict[str, dict[str, Place]] = {}
    passed: Counter[str] = Counter()
    for member in members(file):
        if member.hidden:
            passed["hidden"] += 1
            continue
        require_sound(file, member)
        folder, slash, name = member.name.removeprefix("./").rpartition("/")
        base, _, ending = name.partition(".")
        own, ending = samples.setdefault(f"{folder}{slash}{base}", {}), ending.lower()
        if ending in own:
            raise ValueError(
                f"{file}: {_shown(member.name)} is there twice; give each sample of a shard a key of its own."
            )
        own[ending] = member.place
    ending, field = _target(target_key, {ending for own in samples.values() for ending in own})
    found = Shard([], [], [], {})
    with file.open("rb") as stream:
        for key, own in samples.items():
            pictures = sorted(images & own.keys())
            if not pictures:
                passed["without an image"] += 1
                continue
            if len(pictures) > 1:
                raise ValueError(f"{file}: {_shown(key)} has {', '.join(pictures)}; which? Name it: data.input_key.")
            if ending not in own:
                has, wanted = ", ".join(sorted(own)), f".{target_key}" if target_key else ".cls, .json or .txt"
                raise ValueError(f"{file}: {_shown(key)} has no label, only {has}; expected {wanted} beside its image.")
            found.keys.append(key)
            found.places.append(list(own[pictures[0]]))
            found.labels.append(_label(file, key, read(stream, own[ending], LONGEST), ending, field))
    return found._replace(passed=dict(passed))


def _target(target_key: str | None, endings: set[str]) -> tuple[str, tuple[str, ...]]:
    """The ending of the labels, and the fields of `.json` that may have them."""
    if target_key is None:
        return next((ending for ending in LABELS if ending in endings), LABELS[0]), FIELDS
    if target_key.lower() in endings - {"json"}:
        return target_key.lower(), ()
    return "json", FIELDS if target_key == "json" else (target_key,)


def _label(file: Path, key: str, content: bytes, ending: str, fields: Sequence[str]) -> Any:
    """What a label's member says: its text, or a field of its JSON."""
    try:
        text = content.decode("utf-8-sig").strip()
        value = json.loads(text) if ending.endswith("json") else text
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: {_shown(key)}.{ending} cannot be read: {one_line(error)}.") from None
    if not ending.endswith("json") or not isinstance(value, dict):
        return value
    name = next((name for name in fields if name in value), None)
    if name is None:
        there = brief(sorted(map(str, value)), 10)
        raise ValueError(
            f"{file}: {_shown(key)}.{ending} has no field {' or '.join(fields)}, but {there}. Name it: data.target_key."
        )
    return value[name]


def _shown(name: str) -> str:
    return cut(one_line(name), 200)
