"""The model card of a finished run: `final/README.md`, with the run's config, its scores and its curves."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import nfjax
from nfjax.models.registry import is_known
from nfjax.weights.card import About, Score, of_data
from train.config import Config
from train.report import curves
from train.report.screen import expendable

PERCENT = {"test_top1": "top-1", "test_top5": "top-5", "test_map": "mAP", "test_f1": "F1"}


def save_final(model: nfjax.ImageModel, workdir: Path, config: Config, scores: Mapping[str, float]) -> Path:
    """Save the last model of a run, with a card that says how it was made."""
    folder = workdir / "final"
    pretrained = config.model.weights == "pretrained" and is_known(config.model.name)
    sections = [f"## Training\n\n```json\n{json.dumps(dataclasses.asdict(config), indent=2)}\n```"]
    drawn = workdir / curves.FILE_NAME
    with expendable(folder / curves.FILE_NAME, lambda text: None):
        folder.mkdir(parents=True, exist_ok=True)
        if drawn.is_file():
            shutil.copyfile(drawn, folder / curves.FILE_NAME)
            sections.insert(0, f"## Curves\n\n![loss and accuracy of the run]({curves.FILE_NAME})")
    about = About(
        nfjax.data_config(config.model.name).hf_hub_id if pretrained else None,
        [Score(called, 100 * scores[key], config.data.name) for key, called in PERCENT.items() if key in scores],
        of_data(config.data.name),
        sections,
    )
    return nfjax.save(model, folder, about=about)
