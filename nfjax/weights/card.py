"""The model card: README.md of a folder or a repository with a model, with the metadata that the hub reads."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nfjax.models.base import ImageModel
from nfjax.models.data_config import DataConfig
from nfjax.models.registry import data_config
from nfjax.params import named_params
from nfjax.results import published
from port.atomic import replacing
from port.text import one_line

FILE = "README.md"
PLACE = "local-dir:FOLDER"  # in a card: the name of the model
MARK = "<!-- This card was written by nfjax, which replaces it; without this line it is yours. -->"
# Of a tag of timm's, which names what weights were trained on, to the data set's name on the hub.
DATASETS = {"in1k": "imagenet-1k", "in12k": "imagenet-12k", "in21k": "imagenet-21k", "in22k": "imagenet-22k"}
LICENSES = {"apache-2.0", "mit", "cc-by-nc-4.0", "cc-by-4.0", "bsd-3-clause", "cc0-1.0", "openrail"}  # of the hub's
MANY = 1000  # more classes are not named in the card


@dataclasses.dataclass(frozen=True)
class Score:
    """What an evaluation found: a percentage, of which images, under which name."""

    metric: str  # "top-1" or "top-5"
    percent: float
    dataset: str


@dataclasses.dataclass(frozen=True)
class About:
    """What a card says beyond what the model itself knows.

    Attributes:
        base_model: hub id of the model that it was trained from, or is.
        scores: of its evaluation.
        datasets: that it was trained on, by their names on the hub.
        sections: more of the card, in Markdown.
    """

    base_model: str | None = None
    scores: Sequence[Score] = ()
    datasets: Sequence[str] = ()
    sections: Sequence[str] = ()


def write_card(folder: Path, text: str) -> None:
    """Write the card of a folder, unless somebody else's is there."""
    path = folder / FILE
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        return
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def card(model: ImageModel, about: About = About()) -> str:
    """The card of a model, in which `PLACE` is how it is found."""
    data, classes = model.data_config, model.num_classes
    names = data.label_names if data.label_names is not None and len(data.label_names) == classes else None
    scores, base, title = about.scores, about.base_model, data.name
    meta: dict[str, Any] = {
        "library_name": "timm",
        "pipeline_tag": "image-classification" if classes else "image-feature-extraction",
        "tags": ["image-classification" if classes else "image-feature-extraction", "timm", "nfjax", "jax", "flax"],
    }
    meta |= _license(data.license)
    meta |= {"datasets": list(about.datasets)} if about.datasets else {}
    meta |= {"base_model": base} if base else {}
    if scores:
        meta["model-index"] = [{"name": title, "results": [_result(score) for score in scores]}]
    parts = [_front(meta), f"# {_text(title)}", _what(model, base)]
    if scores:
        rows = "\n".join(f"| {_text(s.dataset)} | {s.metric} | {s.percent:.2f} % |" for s in scores)
        parts.append(f"## Evaluation\n\n| images | measure | |\n|---|---|---|\n{rows}")
    parts += [*about.sections, _usage(model), _preprocessing(data)]
    if names is not None and len(names) <= MANY:
        parts.append("## Classes\n\n" + ", ".join(f"{i}: {_text(name)}" for i, name in enumerate(names)))
    return "\n\n".join([*parts, MARK]) + "\n"


def _front(meta: dict[str, Any]) -> str:
    # Each value as JSON, which is YAML too: what a stranger called a class or a data set stays text.
    return "---\n" + "".join(f"{key}: {json.dumps(value)}\n" for key, value in meta.items()) + "---"


def _license(name: str | None) -> dict[str, str]:
    if name is None:
        return {}
    return {"license": name} if name in LICENSES else {"license": "other", "license_name": name}


def of_published(name: str) -> About:
    """What is known of timm's weights: their repository, data sets, and timm's validation of them."""
    data, best = data_config(name), published(name)[-1:]
    scores = [
        Score(metric, percent, f"ImageNet-1k, {row.img_size} px, by timm")
        for row in best
        for metric, percent in (("top-1", row.top1), ("top-5", row.top5))
    ]
    datasets = [hub for word, hub in DATASETS.items() if re.search(rf"(^|_){word}(_|$)", data.tag)]
    return About(data.hf_hub_id, scores, datasets)


def of_data(name: str) -> list[str]:
    """The data set on the hub that `train.config.Data.name` is, if it is one."""
    kind, _, of_hub = name.partition("/")
    return [of_hub] if kind == "hfds" and of_hub else []


def _result(score: Score) -> dict[str, Any]:
    return {
        "task": {"type": "image-classification"},
        "dataset": {"name": score.dataset, "type": re.sub("[^a-z0-9]+", "-", score.dataset.lower()).strip("-") or "x"},
        "metrics": [{"type": "accuracy", "name": score.metric, "value": round(score.percent, 4)}],
    }


def _what(model: ImageModel, base: str | None) -> str:
    data = model.data_config
    count = sum(variable.get_value().size for variable in named_params(model).values()) / 1e6
    does = f"an image classifier of {model.num_classes} classes" if model.num_classes else "an image encoder"
    size = "{1}x{2} pixels".format(*data.input_size)
    origin = f" It began as [{base}](https://huggingface.co/{base})." if base else ""
    return (
        f"A {data.architecture}, {does}: {count:.2f} million parameters, images of {size}. Its weights have timm's "
        f"names; timm reads them in PyTorch, nfjax in JAX.{origin}"
    )


def _usage(model: ImageModel) -> str:
    ours = PLACE
    if model.num_classes:
        jax = f'for name, probability, index in nfjax.classify("cat.jpg", model="{ours}"):'
        jax += '\n    print(f"{probability:.1%} {name}")'
    else:
        jax = f'model = nfjax.load("{ours}")\nprint(model(nfjax.create_transform(model).batch(["cat.jpg"])).shape)'
    return f"""## Usage

In JAX, with nfjax:

```python
import nfjax

{jax}
```

In PyTorch, with timm:

```python
import timm
from PIL import Image

model = timm.create_model("{ours}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
output = model(transform(Image.open("cat.jpg").convert("RGB"))[None])
```"""


def _preprocessing(data: DataConfig) -> str:
    rows = {
        "size": "{1}x{2}".format(*data.input_size),
        "share of the resized image that is cut out": f"{data.crop_pct:g}, {data.crop_mode}",
        "interpolation": data.interpolation,
        "mean of the channels": ", ".join(f"{value:g}" for value in data.mean),
        "standard deviation": ", ".join(f"{value:g}" for value in data.std),
    }
    if data.test_input_size:
        rows["best tested at"] = "{1}x{2}".format(*data.test_input_size)
    return "## Preprocessing\n\n| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _text(name: str) -> str:
    """A stranger's text in Markdown: it stays text, of one line."""
    return re.sub(r"([\\`*_\[\]<>|#$])", r"\\\1", one_line(name))
