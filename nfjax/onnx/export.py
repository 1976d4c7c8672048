"""`nfjax.export_onnx`: a model as an ONNX file, compared with the model before it is there."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import nfjax
from nfjax.exporting import MAX_INSIDE, described, normalisation
from nfjax.fast.backend import traced_for
from nfjax.fast.operation import plain_formulas
from nfjax.infer import fold
from nfjax.labels import label_names
from nfjax.models.base import ImageModel, sides
from nfjax.onnx.graph import BATCH, INPUT, OPSET, Constant, Graph, Unsupported, Value, convert
from nfjax.onnx.int8 import Int8, quantise, require_calibration
from nfjax.onnx.operators import RULES
from nfjax.onnx.reading import load_session
from nfjax.params import merge, named_params, split
from port.atomic import replacing
from port.paths import user_path

TOLERANCE = 1e-5  # of the largest output
IR_VERSION = 10  # of the file, for readers of opset 21


class OnnxFile(NamedTuple):
    """What `export_onnx` wrote.

    Attributes:
        path: the file.
        difference: to the model: the largest, relative to the largest output, over the batches that were tried.
        opset: of its operators.
        inputs: shape and dtype of the images, as ("b", 224, 224, 3) and "float32".
        outputs: names and shapes.
        int8: what became of it in int8; None if it is float32.
    """

    path: Path
    difference: float
    opset: int
    inputs: tuple[tuple[int | str, ...], str]
    outputs: dict[str, tuple[int | str, ...]]
    int8: Int8 | None = None


def export_onnx(
    model: ImageModel,
    path: str | os.PathLike[str],
    *,
    img_size: int | tuple[int, int] | None = None,
    batch: int | None = None,
    uint8: bool = False,
    calibrate: np.ndarray | None = None,
) -> OnnxFile:
    """Write a model as ONNX, for onnxruntime and others: images `(batch, height, width, channels)` in, outputs out.

    The weight standardisation is folded in. Before the file replaces `path` it is checked by `onnx.checker`, and run by
    onnxruntime on random images: what it gives is what `model(images)` gives.

    Its metadata is `config.json` of `nfjax.export` with `label_names`, every entry as JSON or text.

    Args:
        model: any float32 model, also one with `features_only=True` or without a classifier.
        path: the file to write, `.onnx`.
        img_size: height and width of the images, in pixels; None for the model's own.
        batch: a fixed number of images; None for any.
        uint8: take RGB from 0 to 255, and normalise it in the graph.
        calibrate: images as the file takes them, `(images, height, width, channels)`, some hundred of those that the
            model is for: then the file computes its convolutions and products with weights in int8. Half of the images
            set the ranges of activations; of the others at most 1 % change their most probable class beside float32,
            and layers stay in float32 until that is so. The difference is that of the float32 file before.

    Raises:
        ValueError: a model or an option that cannot be exported, and why; or the file would give something else: by
            more than 1e-5 of the largest output.
        ImportError: onnx or onnxruntime is not installed.
    """
    path = user_path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"{path}: expected a file name ending in .onnx.")
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"exporting needs {' and '.join(missing)}, not installed here: pip install 'nfjax[onnx]'.")
    if model.dtype != jnp.float32:
        raise ValueError(f"the model computes in {model.dtype}; ONNX files are float32: load it without dtype.")
    if batch is not None and batch < 1:
        raise ValueError(f"batch={batch}; expected at least 1, or None for any number of images.")
    size = model.data_config.input_size[1:] if img_size is None else sides(img_size)
    if calibrate is not None:
        require_calibration(calibrate, ((batch or "b", *size, model.in_chans), "uint8" if uint8 else "float32"))
        if not model.num_classes or model.out_indices is not None:
            raise ValueError(f"{model.name} has no classifier, and int8 is judged by classes; export it in float32.")
    content, inputs, outputs = _written(model, (*size, model.in_chans), batch, uint8)
    difference = _difference(model, content, inputs[0][1:], batch, uint8)
    if not difference <= TOLERANCE:  # also if it is NaN
        raise ValueError(
            f"{path} is not written: onnxruntime's outputs differ from those of {model.name} by {difference:.1e} of "
            f"the largest; expected {TOLERANCE:.0e} or less. `nfjax.export` writes a file that jax runs."
        )
    int8 = None
    if calibrate is not None:
        content, int8 = quantise(content, calibrate, batch)
    with replacing(path) as partial:
        partial.write_bytes(content)
    return OnnxFile(path, difference, OPSET, inputs, outputs, int8)


def _written(model: ImageModel, shape: tuple[int, ...], batch: int | None, uint8: bool) -> tuple[bytes, Any, Any]:
    """The content of the file, what it takes, and what it gives."""
    import onnx
    from onnx import TensorProto, helper

    graphdef, variables = split(model if model.folded else fold(model))
    params = jax.device_get(variables)
    size = sum(array.nbytes for array in params.values())
    if size > MAX_INSIDE:
        raise ValueError(f"{size / 2**30:.1f} GiB of weights do not fit into an ONNX file of 2 GiB.")
    prepare = normalisation(model) if uint8 else lambda x: x
    images = jax.ShapeDtypeStruct((BATCH, *shape), jnp.uint8 if uint8 else jnp.float32)
    with traced_for("any"), plain_formulas():
        traced = jax.make_jaxpr(lambda params, x: merge(graphdef, params)(prepare(x)))(params, images)
    graph = Graph()
    paths = sorted(params)  # the order in which jax takes a dictionary
    taken = [Constant(params[path], path) for path in paths]
    try:
        nodes = convert(graph, RULES, traced, [*taken, Value(INPUT, images.shape)])
    except Unsupported as error:
        raise ValueError(
            f"{model.name} cannot be written as ONNX: {error}. `nfjax.export` writes it for jax."
        ) from None

    names = [_output(model)] if len(nodes) == 1 else [f"features_{number}" for number in range(len(nodes))]
    for name, node in zip(names, nodes, strict=True):
        graph.nodes.append(helper.make_node("Identity", [graph.name(node)], [name]))
    count = "b" if batch is None else batch
    inputs = (count, *shape), str(images.dtype)
    outputs = {name: (count, *node.shape[1:]) for name, node in zip(names, nodes, strict=True)}
    kind = TensorProto.UINT8 if uint8 else TensorProto.FLOAT
    written = helper.make_model(
        helper.make_graph(
            graph.nodes,
            model.name,
            [helper.make_tensor_value_info(INPUT, kind, inputs[0])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            [*graph.initializers.values()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="nfjax",
        producer_version=nfjax.__version__,
    )
    meta = described(model) | {"label_names": label_names(model), "input_size": [*shape], "normalised": not uint8}
    meta["param_count"] = sum(variable.get_value().size for variable in named_params(model).values())
    helper.set_model_props(written, {k: v if isinstance(v, str) else json.dumps(v) for k, v in meta.items()})
    onnx.checker.check_model(written, full_check=True)
    return written.SerializeToString(deterministic=True), inputs, outputs


def _output(model: ImageModel) -> str:
    return "logits" if model.num_classes else "features"


def _difference(model: ImageModel, content: bytes, shape: Any, batch: int | None, uint8: bool) -> float:
    """The largest difference between onnxruntime's outputs and the model's, relative to the largest output."""
    session = load_session(content)
    graphdef, params = split(model)  # as arguments: XLA would fold the standardisation of constants, for minutes
    prepare = normalisation(model) if uint8 else lambda x: x
    most = 3 if batch is None else batch
    rng = np.random.default_rng(0)
    images: Any = rng.standard_normal((most, *shape), np.float32)
    if uint8:
        images = rng.integers(0, 256, images.shape, np.uint8)
    reference = jax.jit(lambda params, x: merge(graphdef, params)(prepare(x)))
    wanted = jax.tree.leaves(jax.device_get(reference(params, images)))
    found = 0.0
    for count in sorted({2 if batch is None else most, most}):
        for output, expected in zip(session.run(None, {INPUT: images[:count]}), wanted, strict=True):
            largest = np.max(np.abs(expected[:count])) or 1
            found = float(np.maximum(found, np.max(np.abs(output - expected[:count])) / largest))  # NaN stays
    return found
