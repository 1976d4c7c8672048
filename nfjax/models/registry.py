"""Names: every architecture and its tags."""

import dataclasses
import fnmatch
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from nfjax.models.base import ImageModel, Size, sides
from nfjax.models.data_config import DataConfig
from nfjax.models.eva import Eva
from nfjax.models.known import UnknownModelError, unknown
from nfjax.models.limits import beyond, extent, misfits
from nfjax.models.naflex import NaFlexVit
from nfjax.models.naflex_configs import NAFLEX, NAFLEX_DATA
from nfjax.models.nfnet import NormFreeNet
from nfjax.models.nfnet_configs import NFNET_DATA, NFNETS
from nfjax.models.options import check_types
from nfjax.models.vit import VisionTransformer
from nfjax.models.vit_configs import EVAS, VIT_DATA, VITS
from port.messages import hint


@dataclasses.dataclass(frozen=True)
class Entry:
    """One architecture: the class that builds it, its frozen config, and its pretrained cfgs, the default first."""

    family: Any  # a subclass of ImageModel, called as `family(config, data_config=..., **options)`
    config: Any
    data: tuple[DataConfig, ...]

    def build(self, data_config: DataConfig | None = None, **options: Any) -> ImageModel:
        """The model as shapes without values.

        Args:
            data_config: None for that of the default tag. It has the number of classes, unless an option does.
            options: arguments of the family, and fields of its config, which replace the architecture's.

        Raises:
            ValueError: for options that the family does not have, with the closest that it has.
        """
        data_config = data_config or self.data[0]
        config, arguments = self.configured({"num_classes": data_config.num_classes} | options)
        model: ImageModel = self.family(config, data_config=data_config, **arguments)
        return model

    def configured(self, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The config with its fields among the options, and the other options, which are arguments of the family.

        Raises:
            ValueError: an option that there is not, values of another type or out of range, or that do not go together.
        """
        known = self.options()
        unknown = [name for name in options if name not in known]
        if unknown:
            said = f"{self.data[0].architecture} has no option {', '.join(unknown)}"
            raise ValueError(f"{said}; {hint(unknown[0], sorted(known))}")
        check_types(options, self.kinds())
        arguments = {name: value for name, value in options.items() if name in _arguments(self.family)}
        fields = {name: value for name, value in options.items() if name not in arguments}
        config = dataclasses.replace(self.config, **fields)
        if told := misfits(config):
            raise ValueError(f"{'; '.join(told)}.")
        return config, arguments

    def beyond(self, config: Any, in_chans: int, size: Size) -> list[str]:
        """What of such a model is too much, for images of this height and width, beside the architecture's own."""
        channels, *own = self.data[0].input_size
        return beyond(extent(config, in_chans, size), extent(self.config, channels, sides(own)))

    def kinds(self) -> dict[str, Any]:
        """Types and ranges of the options."""
        hints = (get_type_hints(kind, include_extras=True) for kind in (self.family.__init__, type(self.config)))
        return {name: kind for some in hints for name, kind in some.items()}

    def options(self) -> set[str]:
        """Names of the options that `build` takes."""
        return _arguments(self.family) | {field.name for field in dataclasses.fields(self.config)}


def _arguments(family: type[ImageModel]) -> set[str]:
    return set(inspect.signature(family.__init__).parameters) - {"self", "config", "data_config"}


def _family(family: type[ImageModel], configs: dict[str, Any], data: list[DataConfig]) -> dict[str, Entry]:
    own = {name: tuple(d for d in data if d.architecture == name) for name in configs}
    return {name: Entry(family, config, own[name]) for name, config in configs.items()}


MODELS: dict[str, Entry] = {
    **_family(NormFreeNet, NFNETS, NFNET_DATA),
    **_family(VisionTransformer, VITS, VIT_DATA),
    **_family(Eva, EVAS, VIT_DATA),
    **_family(NaFlexVit, NAFLEX, NAFLEX_DATA),
}


def list_models(pattern: str | Sequence[str] = "*", *, pretrained: bool = False) -> list[str]:
    """Names of the known models, in natural order.

    Args:
        pattern: shell pattern, as in `fnmatch`: "eca*", "*l[01]*"; or several, any of which may match.
        pretrained: return `architecture.tag` names of published weights instead of architectures. The
            pattern may then match with or without the tag.
    """
    published = [d.name for entry in MODELS.values() for d in entry.data if d.hf_hub_id]
    names = published if pretrained else list(MODELS)
    check_types({"pattern": pattern, "pretrained": pretrained}, {"pattern": str | Sequence[str], "pretrained": bool})
    patterns = [pattern] if isinstance(pattern, str) else pattern
    said = {n: (n, n.split(".")[0]) for n in names}
    matched = [n for n in names if any(fnmatch.fnmatchcase(one, p) for one in said[n] for p in patterns)]
    return sorted(matched, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)])


def find(name: str) -> tuple[Entry, DataConfig]:
    """The entry and the pretrained cfg of `architecture` (its default tag) or `architecture.tag`.

    Raises:
        UnknownModelError: with the closest names, or the tags that exist.
    """
    architecture, _, tag = name.partition(".")
    entry = MODELS.get(architecture)
    if entry is None:
        raise unknown(name, MODELS)
    for data in entry.data:
        if tag in ("", data.tag):
            return entry, data
    tags = ", ".join(d.name for d in entry.data if d.tag) or "none: use the plain name"
    raise UnknownModelError(f"{architecture} has no weights tagged {tag!r}; known: {tags}.")


def is_known(name: str) -> bool:
    """Whether there is such an `architecture` or `architecture.tag`."""
    architecture, _, tag = name.partition(".")
    return architecture in MODELS and (not tag or tag in {data.tag for data in MODELS[architecture].data})


def data_config(name: str) -> DataConfig:
    """The pretrained cfg of a model name, with or without tag; nothing is built. An unknown one raises as `find` does.

    Example: `nfjax.data_config("eca_nfnet_l0").input_size` is `(3, 224, 224)`.
    """
    return find(name)[1]
