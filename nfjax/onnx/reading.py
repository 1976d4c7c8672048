"""ONNX files of ours, run by onnxruntime on the CPU: `load_onnx`."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from nfjax.models.data_config import DataConfig
from port.messages import require
from port.paths import no_file, user_path

FIELDS = (
    "mean",
    "std",
    "interpolation",
    "crop_pct",
    "crop_mode",
    "num_classes",
    "label_names",
    "license",
    "input_size",
)
NUMBERS = ("param_count", "normalised")  # and what else of the metadata is needed


class OnnxModel:
    """An ONNX file as a function of images, called as a model is.

    Attributes:
        name: of the model that it was made of.
        data_config: what its images are to be.
        param_count: of that model.
    """

    def __init__(self, path: Path, session: Any, meta: dict[str, Any]):
        (takes,), (self._output,) = session.get_inputs(), session.get_outputs()
        self._session, self._takes, self.path = session, takes, path
        self.name, self.param_count = str(meta["name"]), int(meta["param_count"])
        height, width, channels = meta["input_size"]
        told: dict[str, Any] = {k: tuple(v) if isinstance(v := meta[k], list) else v for k in FIELDS}
        self.data_config = DataConfig(**told | {"input_size": (channels, height, width)})
        self._pixels = not meta["normalised"]

    @property
    def num_classes(self) -> int:
        return self.data_config.num_classes

    def __call__(self, x: Any) -> np.ndarray:
        """Logits `(batch, classes)` of normalised images `(batch, height, width, channels)`, as a model's.

        Of a file that takes pixels, those are restored, exactly.
        """
        x = np.asarray(x, np.float32)
        if self._pixels:
            mean, std = (np.asarray(values, np.float32) for values in (self.data_config.mean, self.data_config.std))
            x = np.clip(np.rint((x * std + mean) * 255), 0, 255).astype(np.uint8)
        fixed = self._takes.shape[0]
        size = fixed if isinstance(fixed, int) else max(len(x), 1)
        found = []
        for start in range(0, len(x), size):
            part = x[start : start + size]
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            found.append(self._session.run([self._output.name], {self._takes.name: padded})[0][: len(part)])
        return np.concatenate(found)


def load_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """A classifier that `nfjax export` wrote as ONNX, float32 or int8.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: onnxruntime is not installed.
        ValueError: no ONNX, or without what `nfjax export` writes beside the graph, or without a classifier.
    """
    path = user_path(path)
    if not path.is_file():
        raise no_file(path)
    require("onnxruntime", "an ONNX file", "onnx")
    try:
        session = load_session(path)
    except Exception as error:  # of classes that onnxruntime does not name
        raise ValueError(
            f"{path} is no ONNX file that onnxruntime reads: {' '.join(str(error).split())[:200]}"
        ) from None
    written = session.get_modelmeta().custom_metadata_map
    meta: dict[str, Any] = {}
    for key, text in written.items():
        try:
            meta[key] = json.loads(text)
        except ValueError:
            meta[key] = text
    missing = [key for key in ("name", *FIELDS, *NUMBERS) if key not in meta]
    if missing:
        raise ValueError(f"{path} does not say {', '.join(missing)}, as files of `nfjax export` do; export it anew.")
    if not meta["num_classes"] or len(session.get_outputs()) != 1:
        raise ValueError(f"{path} has no classifier, and so no classes.")
    return OnnxModel(path, session, meta)


def load_session(content: bytes | Path) -> Any:
    """A file in onnxruntime, on the CPU, as fast as it can."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    source = content if isinstance(content, bytes) else str(content)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
