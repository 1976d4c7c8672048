"""From a config to a training and a test split: which images, at which size, and how they are changed."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nfjax.augment import create_train_transform
from nfjax.augment.policies import Policy
from nfjax.models.data_config import MULTI_LABEL, DataConfig
from nfjax.transforms import EvalTransform, create_transform
from nfjax.weights.names import resolve
from port.stores import readable
from port.text import counted, read_text
from train.config import Augment, Config, Data
from train.data.pipeline import Decoded, Split, Transform
from train.data.sampling import at_most, chances
from train.data.sources import slices
from train.data.sources.base import Relabelled, Source, Splits, brief, select
from train.data.sources.chance import stratify
from train.data.sources.folder import open_folder
from train.data.sources.hfds import open_hfds
from train.data.sources.manifest import open_folder_of_tables, open_manifest
from train.data.sources.shards import open_shards
from train.data.sources.tfds import open_tfds

NAMED = ("tfds", "hfds", "wds")  # kinds that have many data sets in one place
Opener = Callable[[Data, str], Mapping[str, Source]]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A training and a test split, and what a model must know of them."""

    train: Split
    test: Split
    policy: Policy | None  # of the training images, on the host or on the device; None for none
    # for a model that is trained on it: image sizes, mean, std, class names, cropping of test images
    data_config: DataConfig
    notes: tuple[str, ...] = ()  # what a user should know of the images that are not used

    @property
    def class_names(self) -> tuple[str, ...]:
        """A name for each label."""
        return self.train.source.class_names

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def for_config(config: Config) -> Dataset:
    """The data set of a run."""
    return load_dataset(config.data, resolve(config.model.name).data, config.augment)


def load_dataset(
    data: Data,
    model: DataConfig | None = None,
    augment: Augment | None = None,
    *,
    images: tuple[Source, Source] | None = None,
) -> Dataset:
    """The data set that a config names.

    Args:
        data: which images, and what differs from the model's own preprocessing.
        model: data config of the model, for everything that `data` leaves open; None for 224 pixels, as on ImageNet.
        augment: of training images; None for resizing alone.
        images: to train on and to test on; None for those that `data` names.

    Raises:
        ValueError, FileNotFoundError: says what is wrong with `data`, and what to give instead.
    """
    train, test, notes, own = (*images, (), {}) if images else _find(data)
    if data.max_per_class is not None:
        train = at_most(train, data.max_per_class)
    chances(train, data)  # what is wrong with them is told here, and not by a thread
    config = _data_config(data, own, model or DataConfig(), train)
    channels, *size = config.input_size
    augmentation = create_train_transform(config, **dataclasses.asdict(augment or Augment(no_aug=True)))
    transform: Transform = Shifted(augmentation, data.shift) if data.shift else augmentation
    evaluation = create_transform(config, use_test_size=True)
    return Dataset(
        Split(train, transform, (size[0], size[1], channels), Decoded() if data.cache else None),
        Split(test, Evaluation(evaluation), (*evaluation.size, channels), Decoded() if data.cache else None),
        augmentation.policy,
        config,
        notes,
    )


def find_sources(data: Data) -> tuple[Source, Source]:
    """The images to train on and those to test on."""
    return _find(data)[:2]


def _find(data: Data) -> tuple[Source, Source, tuple[str, ...], Mapping[str, Any]]:
    """The images to train on, those to test on, notes about the others, and the data set's own preprocessing."""
    splits = _splits(data)
    sizes = {name: len(source) for name, source in splits.items()}
    train, used = select(splits, data.train_split), {name for name, _ in slices.parse(data.train_split, sizes)}
    found = [name for name in slices.for_testing(splits) if name not in used]
    if data.val_split is not None:
        _check_apart(data.train_split, data.val_split, sizes)
        test = select(splits, data.val_split)
        used |= {name for name, _ in slices.parse(data.val_split, sizes)}
    elif found:
        test = splits[found[0]]
        used.add(found[0])
    else:
        train, test = stratify(train, data.val_share)
    for source in (train, test):
        source.require()
    unused = [f"{name} ({counted(size, 'image')})" for name, size in sizes.items() if name not in used]
    notes = splits.notes + ((f"splits that are not used: {', '.join(unused)}",) if unused else ())
    return train, test, notes, splits.own


def evaluation_source(data: Data) -> tuple[Source, str]:
    """The images to evaluate a model on, and the split that they are; there need be none to train on.

    They are those of `data.val_split`; without it, of the first there is for testing, or of the only split.
    """
    splits = _splits(data)
    usual = slices.for_testing(splits)
    found = [data.val_split] if data.val_split else usual or list(splits)
    if len(found) > 1 and not usual:
        raise ValueError(f"none of the splits {', '.join(splits)} is for testing; name one as data.val_split.")
    source = select(splits, found[0])
    source.require()
    return source, found[0]


def _splits(data: Data) -> Splits:
    """All images that a config names, by split."""
    kind, _, name = data.name.partition("/")
    nameless = kind in NAMED and not name and data.root is None
    if kind not in SOURCES or (name and kind not in NAMED) or nameless:
        known = "digits, folder, manifest, tfds/NAME, hfds/ORG/NAME or wds/PATTERN"
        raise ValueError(f"data.name={data.name!r} is not known; expected {known}.")
    found = SOURCES[kind](data, name)
    splits = found if isinstance(found, Splits) else Splits(found)
    if single := [split for split, source in splits.items() if source.several != data.multi_label]:
        labels, wanted = ("one label", "true") if data.multi_label else ("several labels", "false")
        raise ValueError(
            f"data.multi_label={wanted}, and the images of {data.name} ({brief(single)}) have {labels} each."
        )
    if data.class_map is None:
        return splits
    names = _class_map(data.class_map)
    return Splits({split: Relabelled(source, names) for split, source in splits.items()}, splits.notes, splits.own)


def _root(data: Data) -> Path:
    if data.root is None:
        raise ValueError(f"data.name={data.name!r} needs data.root, the {data.name}.")
    return readable(data.root)


def _optional_root(data: Data) -> Path | None:
    return None if data.root is None else _root(data)


def _check_apart(train: str, val: str, sizes: Mapping[str, int]) -> None:
    """Refuse to test on images that were trained on."""
    for name, rows in slices.parse(train, sizes):
        for other, tested in slices.parse(val, sizes):
            if name == other and rows.start < tested.stop and tested.start < rows.stop:
                raise ValueError(
                    f"data.train_split={train} and data.val_split={val} have images in common; cut them apart: "
                    f"{name}[:90%] and {name}[90%:]."
                )


def _digits(data: Data, name: str) -> Mapping[str, Source]:
    from train.data.sources.digits import digits

    return digits(_optional_root(data))


SOURCES: dict[str, Opener] = {
    "digits": _digits,
    "folder": lambda data, name: (
        open_folder_of_tables(_root(data), data.input_key, data.target_key)
        if data.multi_label
        else open_folder(_root(data))
    ),
    "manifest": lambda data, name: open_manifest(
        _root(data), data.input_key, data.target_key, data.weight_key, data.multi_label
    ),
    "tfds": lambda data, name: open_tfds(name, _optional_root(data), data.input_key, data.target_key),
    "hfds": lambda data, name: open_hfds(name, _optional_root(data), data.input_key, data.target_key, data.multi_label),
    "wds": lambda data, name: open_shards(name, _optional_root(data), data.input_key, data.target_key),
}


def _class_map(file: str) -> list[str]:
    """The names in a file, one a line."""
    names = [line.strip() for line in read_text(readable(file)).splitlines()]
    names = [name for name in names if name]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"data.class_map={file}: {twice!r} is there twice.")
    return names


def _data_config(data: Data, own: Mapping[str, Any], model: DataConfig, train: Source) -> DataConfig:
    """The model's data config with everything put in that the data set or the config decides."""
    given: dict[str, Any] = {
        name: own.get(name) if getattr(data, name) is None else getattr(data, name)
        for name in ("in_chans", "mean", "std", "crop_pct", "crop_mode", "interpolation")
    }
    channels = given.pop("in_chans") or 3
    size, test_size = model.input_size[1:], model.test_input_size
    if data.image_size is not None:
        size, test_size = (data.image_size, data.image_size), None
    if data.test_size is not None:
        test_size = (channels, data.test_size, data.test_size)
    elif test_size is not None:
        test_size = (channels, *test_size[1:])
    if test_size == (channels, *size):
        test_size = None
    transform = create_transform(model, input_size=(channels, *size), **given)
    test_crop = given["crop_pct"] or (model.test_crop_pct if data.test_size is None else None) or transform.crop_pct
    return dataclasses.replace(
        model,
        input_size=(channels, *size),
        test_input_size=test_size,
        crop_pct=transform.crop_pct,
        test_crop_pct=test_crop if test_size is not None else None,
        crop_mode=transform.crop_mode,
        interpolation=transform.interpolation,
        mean=transform.mean,
        std=transform.std,
        num_classes=len(train.class_names),
        label_names=train.class_names,
        problem_type=MULTI_LABEL if train.several else None,
    )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The evaluation transform without normalising, which the device does."""

    transform: EvalTransform

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return self.transform.pixels(Image.fromarray(image))


@dataclasses.dataclass(frozen=True)
class Shifted:
    """A transform, and then a move by up to `reach` pixels in either direction; the edge fills what comes in."""

    transform: Transform
    reach: int

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        pixels = self.transform(image, rng)
        down, right = rng.integers(-self.reach, self.reach + 1, 2)
        rows = np.clip(np.arange(pixels.shape[0]) + down, 0, pixels.shape[0] - 1)
        columns = np.clip(np.arange(pixels.shape[1]) + right, 0, pixels.shape[1] - 1)
        return pixels[rows[:, None], columns]
