"""What a model's name stands for: an architecture, a repository of the hub, a folder, or a run of the trainer."""

import dataclasses
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfjax.models import registry
from nfjax.models.data_config import DataConfig
from nfjax.models.known import UnknownModelError
from nfjax.models.options import shown
from nfjax.weights import schema
from port.files import CHECKSUM, read_config
from port.paths import is_remote, no_folder, user_path
from port.stores import readable

logger = logging.getLogger("nfjax")

Name = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class ResolvedModel:
    """What a user's model name stands for."""

    entry: registry.Entry
    data: DataConfig
    model_args: dict[str, Any]
    location: str | Path | None  # hub id (of a config.json: at its commit), folder, or nowhere
    checksum: str | None = None  # of the weights that a folder's config.json was saved with


def resolve(name: Name) -> ResolvedModel:
    """The architecture, data config and place of weights behind a name.

    A name is "arch", "arch.tag", "hf-hub:organisation/name[@revision]" (also "hf_hub:"), or a folder: its path as text,
    as "local-dir:PATH", as a `pathlib.Path`, or its address in an object store; a run's work folder
    means its `final`. A known model comes before a folder of that name, with a warning if that holds a model; "./arch"
    is the folder.

    Raises:
        nfjax.UnknownModelError: no such name; the closest are suggested.
        FileNotFoundError: the folder holds no model.
    """
    if not isinstance(name, str | os.PathLike):
        raise ValueError(f"name={name!r:.80}; expected the name of a model, or the path of a folder.")
    folder = folder_of(name)
    if folder is not None:
        folder = model_folder(folder)
        return from_config(read_config(folder / "config.json"), folder, str(name))
    name = str(name)
    scheme, colon, rest = name.partition(":")
    scheme = scheme.lower().replace("_", "-")
    if colon and scheme == "hf-hub":
        from port import hub  # here: it takes 60 ms to import, and files are read without it

        config, pinned = hub.fetch_config(rest)
        return from_config(config, pinned, name)
    if colon and len(scheme) > 1:
        raise UnknownModelError(f"unknown source {scheme!r} in {name!r}; expected hf-hub: or local-dir:.")
    entry, data = registry.find(name)
    if Path(name, "config.json").is_file():
        logger.warning(f"{name} is a model that nfjax knows; write './{name}' for the folder of that name.")
    return ResolvedModel(entry, data, {}, data.hf_hub_id)


def folder_of(name: Name) -> Path | None:
    """The folder that a name stands for, as `resolve` understands it; None if it stands for something else."""
    if not isinstance(name, str):
        return user_path(name)
    if is_remote(name):
        return readable(name)
    scheme, _, rest = name.partition(":")
    if scheme.lower().replace("_", "-") == "local-dir":
        return user_path(rest)
    path = user_path(name)
    spelt = name.startswith((".", "/", "~"))
    return path if spelt or (path.is_dir() and not registry.is_known(name)) else None


def model_folder(folder: Path) -> Path:
    """The folder with a config.json that a path means: itself, or `final` of the work folder of a run.

    Raises:
        FileNotFoundError: neither holds a model.
    """
    if (folder / "final" / "config.json").is_file():
        return folder / "final"
    if (folder / "checkpoints").is_dir():
        raise FileNotFoundError(f"{folder} is a run without a final model; expected {folder / 'final'}, its last step.")
    if not folder.is_dir():
        raise no_folder(folder)
    if folder.parent.name == "checkpoints":
        run = folder.parent.parent
        raise FileNotFoundError(
            f"{folder} is a checkpoint of a run, whose models are {run / 'final'} and {run / 'best'}; "
            f"`nfjax average {run} --steps {folder.name}` makes one of a checkpoint."
        )
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} has no config.json; expected a folder that nfjax.save or timm wrote.")
    return folder


def from_config(config: Mapping[str, Any], location: str | Path, name: str) -> ResolvedModel:
    """What a hub's config.json stands for.

    Raises:
        nfjax.UnknownModelError: an architecture that nfjax does not have.
        ValueError: naming every field that cannot be followed.
    """
    architecture = config["architecture"]
    if architecture not in registry.MODELS:
        raise UnknownModelError(
            f"{name} holds a {shown(architecture)}, which nfjax does not have; nfjax.list_models() shows what it has."
        )
    entry = registry.MODELS[architecture]
    data, model_args = schema.read(config, entry, name)
    if data.hf_hub_id is None and isinstance(location, str):
        data = dataclasses.replace(data, hf_hub_id=location)
    data = dataclasses.replace(data, architecture=architecture)
    return ResolvedModel(entry, data, model_args, location, config.get(CHECKSUM))
