"""What a set of weights expects of its input, and where it comes from (timm's pretrained cfg)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)

# timm writes these null values into config.json as well; all other nulls are left out.
_KEEP_NULL = {"pool_size", "first_conv", "classifier"}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Pretrained cfg of one architecture and tag; fields and meanings are timm's `PretrainedCfg`.

    Sizes are (channels, height, width) in pixels; mean and std refer to RGB in [0, 1].
    """

    architecture: str = ""
    tag: str = ""
    hf_hub_id: str | None = None
    input_size: tuple[int, int, int] = (3, 224, 224)
    test_input_size: tuple[int, int, int] | None = None
    fixed_input_size: bool = False
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    test_crop_pct: float | None = None
    crop_mode: str = "center"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    num_classes: int = 1000
    pool_size: tuple[int, ...] | None = None
    first_conv: str | None = None
    classifier: str | None = None
    license: str | None = None
    label_names: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """`architecture.tag`, or the architecture alone where there is no tag."""
        return f"{self.architecture}.{self.tag}" if self.tag else self.architecture

    def to_json(self) -> dict[str, Any]:
        """The `pretrained_cfg` entry of a hub config.json: no source, no architecture, few nulls."""
        fields = dataclasses.asdict(self)
        del fields["architecture"], fields["hf_hub_id"], fields["label_names"]
        return {k: v for k, v in fields.items() if v is not None or k in _KEEP_NULL}

    def updated(self, values: Mapping[str, Any]) -> "DataConfig":
        """A copy with the known fields of a JSON object put in; the others are ignored."""
        known = {field.name for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **{k: frozen(v) for k, v in values.items() if k in known})


def frozen(value: Any) -> Any:
    """A JSON value as a hashable one: lists become tuples, and so do the `{"0": name, ...}` of some label_names."""
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value, key=int)]
    return tuple(value) if isinstance(value, list) else value
