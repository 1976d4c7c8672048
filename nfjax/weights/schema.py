"""What a config.json may say, which can be a stranger's: types, ranges, and sizes beside the architecture's own.

The types are those of `DataConfig` and of the architecture's config. Nothing is built to check them, and what timm
writes beyond the fields that are known here is passed over, except among the arguments of the model.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, get_type_hints

from nfjax.models.base import sides
from nfjax.models.data_config import MAX_CLASSES, DataConfig, frozen
from nfjax.models.options import mistakes, shown
from nfjax.models.registry import Entry
from port.ranges import Width

# The model's dtype is a choice of who loads it.
IMG_SIZE, NOT_IN_FILES = Width | tuple[Width, Width] | None, {"dtype"}


def read(config: Mapping[str, Any], entry: Entry, name: str) -> tuple[DataConfig, dict[str, Any]]:
    """The data config of a config.json, without the architecture, and the arguments of its model.

    Today's layout, or the older one without a `pretrained_cfg` entry.

    Args:
        config: the parsed file.
        entry: of its architecture.
        name: what the file is of, for the message.

    Raises:
        ValueError: naming every field that cannot be followed.
    """
    args = config.get("model_args")
    parts = {"pretrained_cfg": config.get("pretrained_cfg", config), "model_args": {} if args is None else args}
    told = [
        f"{part}={shown(value)}; expected an object" for part, value in parts.items() if not isinstance(value, Mapping)
    ]
    cfg, args = (value if isinstance(value, Mapping) else {} for value in parts.values())
    data, wrong_data = _data_config(config, cfg, entry.data[0])
    model_args, wrong_args = _model_args(args, entry)
    told += [*wrong_data, *wrong_args]
    img_size = model_args.pop("img_size", None)
    if img_size is not None:
        data = dataclasses.replace(data, input_size=(data.input_size[0], *sides(img_size)))
    chans = model_args.get("in_chans", data.input_size[0])
    if len(data.mean) != len(data.std) or len(data.mean) not in (1, 3, chans):
        told.append(f"mean={data.mean} and std={data.std}; expected one of each, three, or {chans}, one a channel")
    try:
        built, _ = entry.configured({} if wrong_args else model_args)
    except ValueError as error:
        told.append(str(error).removesuffix("."))
    else:
        for size in filter(None, (data.input_size, data.test_input_size)):
            told += entry.beyond(built, chans, size[1:])
    if told:
        raise ValueError(f"{name}: nfjax cannot follow its config.json: {'; '.join(dict.fromkeys(told))}.")
    return data, model_args


def _data_config(config: Mapping[str, Any], cfg: Mapping[str, Any], own: DataConfig) -> tuple[DataConfig, list[str]]:
    """What the file says beside the architecture's own data config, without what is wrong; and a word about that."""
    kinds = get_type_hints(DataConfig, include_extras=True)
    del kinds["architecture"]
    above = {field: config[field] for field in ("num_classes", "label_names", "problem_type") if field in config}
    given = {field: cfg[field] for field in kinds if field in cfg} | above
    if "label_names" in given:
        given["label_names"] = _in_order(given["label_names"])
    told = mistakes(given, kinds)
    for layer in {"first_conv", "classifier"} & given.keys() - told.keys():
        if given[layer] not in (getattr(own, layer), None):
            told[layer] = f"{layer}={shown(given[layer])}; expected {getattr(own, layer)!r}, as the architecture has it"
    tag = given.get("tag", "")
    if "tag" not in told and not (tag.isprintable() and not set("/\\") & set(tag)):  # it becomes a part of file names
        told["tag"] = f"tag={shown(tag)}; expected printable text without slashes"
    good = {field: frozen(value) for field, value in given.items() if field not in told}
    return dataclasses.replace(own, **({"tag": "", "hf_hub_id": None} | good)), list(told.values())


def _model_args(given: Mapping[str, Any], entry: Entry) -> tuple[dict[str, Any], list[str]]:
    """Options of `Entry.build` and img_size, without what is wrong; and a word about that."""
    ours = {theirs: field for field, theirs in entry.family.timm_names.items()}
    args = {ours.get(key, key): value for key, value in given.items()}
    known = entry.options() - NOT_IN_FILES
    unknown = sorted(set(args) - known - {"img_size"})
    told = mistakes(args, entry.kinds() | {"img_size": IMG_SIZE}, "model_args.")
    good = {key: frozen(value) for key, value in args.items() if key not in {*unknown, *told}}
    wrong = [sentence for key, sentence in told.items() if key not in unknown]
    if unknown:
        names = ", ".join(key if key.isidentifier() else shown(key) for key in unknown[:5])
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        wrong.append(f"model_args {names[:400]}{more}, which nfjax cannot follow (known: {', '.join(sorted(known))})")
    return good, wrong


def _in_order(labels: Any) -> Any:
    """The names of the classes as a list, also of an object from index to name, as timm writes one where there are
    gaps; a class without a name is called by its index. What is neither is left as it is."""
    if not isinstance(labels, Mapping | list | tuple):
        return labels
    if not labels:
        return None
    if not isinstance(labels, Mapping):
        return labels
    if not all(key.isdecimal() and len(key) < 10 and int(key) < MAX_CLASSES for key in map(str, labels)):
        return labels
    names = {int(key): name for key, name in labels.items()}
    return [names.get(index, str(index)) for index in range(max(names) + 1)] if len(names) == len(labels) else labels
