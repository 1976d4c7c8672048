"""Int8: weights by output channel, activations by the ranges that images give them; by onnxruntime's quantiser.

Layers are convolutions and products with weights; all between them is computed in float32, and so is what an attention
multiplies. If too many images change their class, layers go back to float32: those first whose rounding is the largest
part of what they compute.
"""

import logging
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nfjax.onnx.graph import INPUT
from nfjax.onnx.reading import load_session

MOST_CHANGED = 0.01  # of the images
FEWEST = 8  # images to calibrate on
AT_ONCE, SAMPLE = 8, 16  # images in a batch, and to compare the layers on
KERNEL = re.compile(r"/kernel(_\d+)?$")


class Int8(NamedTuple):
    """What became of a model.

    Attributes:
        images: on which the classes were compared; others set the ranges.
        changed: of these, that have another most probable class than in float32.
        layers: how many there are.
        in_float: names of those that stayed in float32.
    """

    images: int
    changed: int
    layers: int
    in_float: tuple[str, ...]


def require_calibration(images: np.ndarray, takes: tuple[tuple[int | str, ...], str]) -> None:
    """Refuse images that the file does not take, or too few of them.

    Raises:
        ValueError: says what is expected.
    """
    shape, dtype = takes
    if not isinstance(images, np.ndarray) or images.ndim != 4 or images.shape[1:] != shape[1:] or images.dtype != dtype:
        found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else f"{images!r:.80}"
        raise ValueError(
            f"images to calibrate on: expected {dtype} (images, {', '.join(map(str, shape[1:]))}); {found}."
        )
    if len(images) < FEWEST:
        raise ValueError(f"{len(images)} images to calibrate on; expected at least {FEWEST}, better some hundred.")


def quantise(content: bytes, images: np.ndarray, batch: int | None) -> tuple[bytes, Int8]:
    """A float32 file of one output as one of int8.

    Args:
        content: of a file that `export_onnx` wrote.
        images: as it takes them. Every second one sets the ranges, on the others classes are compared.
        batch: of the file, None for any.

    Raises:
        ValueError: whatever stays in float32, too many images change their class.
    """
    import onnx

    model = onnx.load_from_string(content)
    kernels = {tensor.name for tensor in model.graph.initializer}
    layers: dict[str, list[str]] = {}
    for number, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{number}"
        if node.op_type in ("Conv", "MatMul") and node.input[1] in kernels:
            layers.setdefault(KERNEL.sub("", node.input[1]).replace("/", "."), []).append(node.name)
    ranging, compared = images[::2], images[1::2]
    expected = _classes(content, compared, batch)
    allowed = int(MOST_CHANGED * len(compared))

    with tempfile.TemporaryDirectory() as folder, _quiet():
        order: list[str] = []

        def attempt(count: int) -> tuple[bytes, Int8]:
            """With the first so many layers of `order` in float32."""
            kept = order[:count]
            nodes = [name for layer, names in layers.items() if layer not in kept for name in names]
            found = _quantised(model, nodes, ranging, batch, Path(folder))
            changed = int(np.sum(_classes(found, compared, batch) != expected))
            told = Int8(len(compared), changed, len(layers), tuple(sorted(kept, key=list(layers).index)))
            return found, told

        best = attempt(0)
        if best[1].changed > allowed:
            order = _by_noise(model, layers, ranging[:SAMPLE], batch)
            best = attempt(len(order) - 1)
            if best[1].changed > allowed:
                raise ValueError(
                    f"no layer can be int8: with all of {best[1].layers} but one in float32, {best[1].changed} of "
                    f"{len(compared)} images change their class; at most {allowed} may."
                )
            low, high = 0, len(order) - 1  # too few, and enough
            while high - low > 1:
                tried = attempt(middle := (low + high) // 2)
                if tried[1].changed > allowed:
                    low = middle
                else:
                    high, best = middle, tried
    return best


def _quantised(model: Any, nodes: Sequence[str], images: np.ndarray, batch: int | None, folder: Path) -> bytes:
    """With these nodes in int8; ranges are measured once, and kept in the folder."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = ({INPUT: part} for part, _ in _batches(images, batch))

        def get_next(self) -> Any:
            return next(self.batches, None)

    copy = type(model)()
    copy.CopyFrom(model)  # the quantiser changes what it is given
    quantize_static(
        copy,
        folder / "int8.onnx",
        Reader(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=[*nodes],
        op_types_to_quantize=["Conv", "MatMul"],
        calibration_cache_path=folder / "ranges.json",
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"]},  # a sum is added to it in float32
    )
    found = onnx.load(folder / "int8.onnx")
    onnx.helper.set_model_props(found, {each.key: each.value for each in model.metadata_props})
    onnx.checker.check_model(found, full_check=True)
    return found.SerializeToString(deterministic=True)


def _by_noise(model: Any, layers: dict[str, list[str]], images: np.ndarray, batch: int | None) -> list[str]:
    """The layers, those first whose rounding is the largest part of what they compute.

    A number that is rounded to steps of s is off by s^2 / 12 on average, squared.
    """
    import onnx

    nodes = {node.name: node for node in model.graph.node}
    kernels = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    rounded = {nodes[name].input[0] for names in layers.values() for name in names}
    rounded |= {node.output[0] for node in nodes.values() if node.op_type == "Conv"}
    wider = type(model)()
    wider.CopyFrom(model)
    del wider.graph.output[:]
    asked = sorted(rounded)
    for number, name in enumerate(asked):
        made = [f"noise_{number}_{what}" for what in ("least", "most", "square", "power")]
        wider.graph.node.extend(
            onnx.helper.make_node(operator, inputs, [output], **({} if operator == "Mul" else {"keepdims": 0}))
            for operator, inputs, output in zip(
                ("ReduceMin", "ReduceMax", "Mul", "ReduceMean"),
                ([name], [name], [name, name], [made[2]]),
                made,
                strict=True,
            )
        )
        outputs = [made[0], made[1], made[3]]
        wider.graph.output.extend(onnx.helper.make_tensor_value_info(each, 1, []) for each in outputs)
    session = load_session(wider.SerializeToString())
    found = np.array([session.run(None, {INPUT: part}) for part, _ in _batches(images, batch)], np.float64)
    least, most, power = found.reshape(len(found), len(asked), 3).transpose(2, 0, 1)
    steps = (np.maximum(most.max(0), 0) - np.minimum(least.min(0), 0)) / 255
    noise = dict(zip(asked, steps**2 / 12 / np.maximum(power.mean(0), 1e-30), strict=True))

    def of(node: Any) -> float:
        kernel = kernels[node.input[1]]
        axes = tuple(range(1, kernel.ndim)) if node.op_type == "Conv" else tuple(range(kernel.ndim - 1))
        steps = np.abs(kernel).max(axes) / 127
        own = np.mean(steps**2) / 12 / max(np.mean(kernel**2), 1e-30)
        return float(own + noise[node.input[0]] + (noise[node.output[0]] if node.op_type == "Conv" else 0))

    return sorted(layers, key=lambda layer: -max(of(nodes[name]) for name in layers[layer]))


def _classes(content: bytes, images: np.ndarray, batch: int | None) -> np.ndarray:
    """The most probable class of each image."""
    session = load_session(content)
    logits = [session.run(None, {INPUT: part})[0][:count] for part, count in _batches(images, batch)]
    found: np.ndarray = np.concatenate(logits).argmax(axis=1)
    return found


def _batches(images: np.ndarray, batch: int | None) -> Iterator[tuple[np.ndarray, int]]:
    """Batches as a file takes them, and how many of each are no repetition."""
    size = AT_ONCE if batch is None else batch
    for start in range(0, len(images), size):
        part = images[start : start + size]
        missing = 0 if batch is None else size - len(part)
        yield np.concatenate([part, np.repeat(part[-1:], missing, axis=0)]), len(part)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's advice, which is for models that were not folded."""
    import onnxruntime

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(3)
    try:
        yield
    finally:
        logging.disable(before)
        onnxruntime.set_default_logger_severity(2)
