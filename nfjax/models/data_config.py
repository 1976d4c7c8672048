"""What a set of weights expects of its input, and where it comes from (timm's pretrained cfg)."""

import dataclasses
from typing import Annotated, Any, Literal, get_args

from port.ranges import Choice, Length, Range, Width

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

Interpolation = Literal["random", "nearest", "bilinear", "bicubic", "lanczos", "hamming", "box"]
MULTI_LABEL = "multi_label_classification"  # a problem type, in the words of transformers
CROP_MODES = ("center", "squash", "border")
MAX_CLASSES, MAX_CHANS = 1_000_000, 1024

Classes = Annotated[int, Range(0, MAX_CLASSES)]
Chans = Annotated[int, Range(1, MAX_CHANS)]
Shape = tuple[Width, Width, Width]
CropPct = Annotated[float, Range(0.1, 10)]
OfChans = Length(1, MAX_CHANS)
Layer = Annotated[str, Length(1, 200)]
# timm writes these null values into config.json as well; all other nulls are left out.
_KEEP_NULL = {"pool_size", "first_conv", "classifier"}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Pretrained cfg of one architecture and tag; fields and meanings are timm's `PretrainedCfg`, but `problem_type`.

    Sizes are (channels, height, width) in pixels; mean and std refer to RGB in [0, 1].
    """

    architecture: str = ""
    tag: Annotated[str, Length(0, 200)] = ""
    hf_hub_id: Annotated[str, Length(1, 1000)] | None = None
    input_size: Shape = (3, 224, 224)
    test_input_size: Shape | None = None
    fixed_input_size: bool = False
    interpolation: Annotated[str, Choice(get_args(Interpolation))] = "bicubic"
    crop_pct: CropPct = 0.875
    test_crop_pct: CropPct | None = None
    crop_mode: Annotated[str, Choice(CROP_MODES)] = "center"
    mean: Annotated[tuple[Annotated[float, Range(-1000, 1000)], ...], OfChans] = IMAGENET_MEAN
    std: Annotated[tuple[Annotated[float, Range(1e-6, 1000)], ...], OfChans] = IMAGENET_STD
    num_classes: Classes = 1000
    pool_size: Annotated[tuple[Width, ...], Length(1, 3)] | None = None
    first_conv: Layer | None = None
    classifier: Layer | None = None
    license: Annotated[str, Length(0, 1000)] | None = None
    label_names: Annotated[tuple[str, ...], Length(0, MAX_CLASSES)] | None = None
    problem_type: Annotated[str, Length(0, 200)] | None = None  # `MULTI_LABEL` where each class has its own probability

    @property
    def name(self) -> str:
        """`architecture.tag`, or the architecture alone where there is no tag."""
        return f"{self.architecture}.{self.tag}" if self.tag else self.architecture

    def to_json(self) -> dict[str, Any]:
        """The `pretrained_cfg` entry of a hub config.json: no source, no architecture, few nulls."""
        fields = dataclasses.asdict(self)
        del fields["architecture"], fields["hf_hub_id"], fields["label_names"], fields["problem_type"]
        return {k: v for k, v in fields.items() if v is not None or k in _KEEP_NULL}


def frozen(value: Any) -> Any:
    """A JSON value as a hashable one: lists become tuples."""
    return tuple(value) if isinstance(value, list) else value
