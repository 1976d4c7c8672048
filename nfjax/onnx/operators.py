"""What becomes of each primitive of jax in ONNX: a table, and a function for those that take more than a name."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from nfjax.onnx.graph import BATCH, Constant, Graph, Node, Rule, Shape, Unsupported

# One operator with the same inputs, which broadcasts as numpy does.
ELEMENTWISE = {
    "abs": "Abs", "add": "Add", "add_any": "Add", "and": "And", "ceil": "Ceil", "cos": "Cos", "div": "Div",
    "eq": "Equal", "erf": "Erf", "exp": "Exp", "floor": "Floor", "ge": "GreaterOrEqual", "gt": "Greater",
    "le": "LessOrEqual", "log": "Log", "logistic": "Sigmoid", "lt": "Less", "max": "Max", "min": "Min", "mul": "Mul",
    "neg": "Neg", "not": "Not", "or": "Or", "pow": "Pow", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt", "sub": "Sub",
    "tanh": "Tanh",
}  # fmt: skip
REDUCTIONS = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"}
SAME = ("copy", "copy_p", "optimization_barrier", "stop_gradient", "mesh_cast", "reshard", "sharding_constraint")


def _shape(equation: Any, output: int = 0) -> Shape:
    return tuple(equation.outvars[output].aval.shape)


def _full(graph: Graph, equation: Any, inputs: Sequence[Node]) -> list[Node]:
    return [graph.spread(node, tuple(var.aval.shape)) for node, var in zip(inputs, equation.invars, strict=True)]


def _constant(value: float, like: Any) -> Constant:
    return Constant(np.asarray(value, like.dtype))


def _elementwise(operator: str, graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    return graph.add(operator, inputs, np.broadcast_shapes(*(node.shape for node in inputs)))


def _square(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    return graph.add("Mul", inputs * 2, inputs[0].shape)


def _integer_pow(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    power = equation.params["y"]
    if power == 2:
        return _square(graph, equation, inputs)
    return graph.add("Pow", [*inputs, _constant(power, equation.invars[0].aval)], inputs[0].shape)


def _rsqrt(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    return graph.add("Reciprocal", [graph.add("Sqrt", inputs, inputs[0].shape)], inputs[0].shape)


def _erfc(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    erf = graph.add("Erf", inputs, inputs[0].shape)
    return graph.add("Sub", [_constant(1, equation.invars[0].aval), erf], inputs[0].shape)


def _select(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    which, *cases = inputs
    if len(cases) != 2 or equation.invars[0].aval.dtype != bool:
        raise Unsupported("a selection among more than two has no operator of ONNX here")
    nodes = [which, cases[1], cases[0]]
    return graph.add("Where", nodes, np.broadcast_shapes(*(node.shape for node in nodes)))


def _cast(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    from onnx import helper

    dtype = equation.params["new_dtype"]
    if dtype == equation.invars[0].aval.dtype:
        return inputs[0]
    return graph.add("Cast", inputs, inputs[0].shape, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _broadcast(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    """Axes of length 1; `Graph.spread` makes them longer where that is needed."""
    (node,) = inputs
    added = sorted(set(range(len(_shape(equation)))) - set(equation.params["broadcast_dimensions"]))
    if not added:
        return node
    if isinstance(node, Constant):
        return Constant(np.expand_dims(node.array, added), node.name)
    shape = tuple(np.expand_dims(np.broadcast_to(False, node.shape), added).shape)
    return graph.add("Unsqueeze", [node, graph.numbers(added)], shape)


def _reshape(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    (node,) = _full(graph, equation, inputs)
    return _reshaped(graph, node, _shape(equation))


def _reshaped(graph: Graph, node: Node, shape: Shape) -> Node:
    """The node in another shape, of which one size may be a multiple of the batch."""
    sizes = [-1 if size % BATCH == 0 and size else size for size in shape]
    if sizes.count(-1) > 1:
        raise Unsupported(f"a shape {shape} in which two sizes depend on the batch is not written")
    return node if node.shape == shape else graph.add("Reshape", [node, graph.numbers(sizes)], shape)


def _squeeze(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    axes = equation.params["dimensions"]
    shape = tuple(size for axis, size in enumerate(inputs[0].shape) if axis not in axes)
    return graph.add("Squeeze", [*inputs, graph.numbers(axes)], shape)


def _transpose(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    return _transposed(graph, inputs[0], equation.params["permutation"])


def _transposed(graph: Graph, node: Node, axes: Sequence[int]) -> Node:
    if list(axes) == sorted(axes):
        return node
    if isinstance(node, Constant):
        return Constant(np.ascontiguousarray(node.array.transpose(axes)), node.name)
    return graph.add("Transpose", [node], tuple(node.shape[axis] for axis in axes), perm=list(axes))


def _concatenate(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    return graph.add("Concat", _full(graph, equation, inputs), _shape(equation), axis=equation.params["dimension"])


def _stack(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    axis, shape = equation.params["axis"], _shape(equation)
    each = (*shape[:axis], 1, *shape[axis + 1 :])
    nodes = [_reshaped(graph, node, each) for node in _full(graph, equation, inputs)]
    return graph.add("Concat", nodes, shape, axis=axis)


def _split(graph: Graph, equation: Any, inputs: list[Node]) -> list[Node]:
    sizes, axis = equation.params["sizes"], equation.params["axis"]
    shapes = [_shape(equation, output) for output in range(len(sizes))]
    nodes = [*_full(graph, equation, inputs), graph.numbers(sizes)]
    return [*graph.add_many("Split", nodes, shapes, axis=axis)]


def _slice(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    starts, stops = equation.params["start_indices"], equation.params["limit_indices"]
    steps = equation.params["strides"] or [1] * len(starts)
    (node,) = _full(graph, equation, inputs)
    return _sliced(graph, node, starts, stops, steps)


def _sliced(graph: Graph, node: Node, starts: Sequence[int], stops: Sequence[int], steps: Sequence[int]) -> Node:
    cut = [a for a, size in enumerate(node.shape) if (starts[a], stops[a], steps[a]) != (0, size, 1)]
    if not cut:
        return node
    if any(node.shape[axis] % BATCH == 0 for axis in cut):
        raise Unsupported("a slice of the batch is not written")
    options = [graph.numbers([int(values[axis]) for axis in cut]) for values in (starts, stops)]
    options += [graph.numbers(cut), graph.numbers([steps[axis] for axis in cut])]
    shape = tuple(len(range(*map(int, each))) for each in zip(starts, stops, steps, strict=True))
    return graph.add("Slice", [node, *options], shape)


def _gather(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    """Rows of one axis, at places that are known or not."""
    operand, indices = _full(graph, equation, inputs)
    numbers, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    axis, *more = numbers.start_index_map
    whole = all(size == (1 if a == axis else operand.shape[a]) for a, size in enumerate(sizes))
    offset = tuple(range(axis)) + tuple(range(axis + len(indices.shape) - 1, len(_shape(equation))))
    if more or not whole or numbers.collapsed_slice_dims != (axis,) or numbers.offset_dims != offset:
        raise Unsupported("this way of indexing has no operator of ONNX here")
    places = _reshaped(graph, indices, indices.shape[:-1])
    return graph.add("Gather", [operand, places], _shape(equation), axis=axis)


def _pad(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    low, high, inner = zip(*equation.params["padding_config"], strict=True)
    if any(inner) or min(low + high) < 0:
        raise Unsupported("padding within an array, or of less than nothing, has no operator of ONNX here")
    node, value = _full(graph, equation, inputs)
    return graph.add("Pad", [node, graph.numbers(low + high), value], _shape(equation))


def _reduce(operator: str, graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    nodes = [*_full(graph, equation, inputs), graph.numbers(equation.params["axes"])]
    return graph.add(operator, nodes, _shape(equation), keepdims=0)


def _max_pool(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    """Over height and width of NHWC maps."""
    params = equation.params
    window, strides, pads = params["window_dimensions"], params["window_strides"], params["padding"]
    if (
        len(window) != 4
        or (window[0], window[3]) != (1, 1)
        or {*params["base_dilation"], *params["window_dilation"]} != {1}
    ):
        raise Unsupported("a maximum over such windows has no operator of ONNX here")
    (node,) = _full(graph, equation, inputs)[:1]
    maps = _transposed(graph, node, (0, 3, 1, 2))
    shape = _shape(equation)
    options = {
        "kernel_shape": window[1:3],
        "strides": strides[1:3],
        "pads": [pad[i] for i in (0, 1) for pad in pads[1:3]],
    }
    pooled = graph.add("MaxPool", [maps], tuple(shape[a] for a in (0, 3, 1, 2)), **options)
    return _transposed(graph, pooled, (0, 2, 3, 1))


def _convolution(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    params = equation.params
    images, kernel, maps = params["dimension_numbers"]
    x, w = _full(graph, equation, inputs)
    if params["batch_group_count"] != 1 or {*params["lhs_dilation"]} != {1}:
        raise Unsupported("a transposed convolution is not written")
    x, w = _transposed(graph, x, images), _transposed(graph, w, kernel)
    shape = tuple(_shape(equation)[axis] for axis in maps)
    options = {"strides": params["window_strides"], "dilations": params["rhs_dilation"]}
    options |= {"pads": [pad[i] for i in (0, 1) for pad in params["padding"]], "group": params["feature_group_count"]}
    y = graph.add("Conv", [x, w], shape, **options)
    return _transposed(graph, y, np.argsort(maps).tolist())


def _product(graph: Graph, equation: Any, inputs: list[Node]) -> Node:
    """`lax.dot_general`, with one axis to sum over: batch axes first, then those of the first and of the second."""
    ((left_sum, right_sum), (left_batch, right_batch)) = equation.params["dimension_numbers"]
    x, y = _full(graph, equation, inputs)
    left = [axis for axis in range(len(x.shape)) if axis not in (*left_sum, *left_batch)]
    right = [axis for axis in range(len(y.shape)) if axis not in (*right_sum, *right_batch)]
    if len(left_sum) != 1 or (left_batch and (len(left), len(right)) != (1, 1)) or len(right) != 1 or not left:
        raise Unsupported("a product over such axes has no operator of ONNX here")
    x = _transposed(graph, x, [*left_batch, *left, *left_sum])
    y = _transposed(graph, y, [*right_batch, *right_sum, *right])
    return graph.add("MatMul", [x, y], _shape(equation))


RULES: dict[str, Rule] = {
    **{name: functools.partial(_elementwise, operator) for name, operator in ELEMENTWISE.items()},
    **{name: functools.partial(_reduce, operator) for name, operator in REDUCTIONS.items()},
    **dict.fromkeys(SAME, lambda graph, equation, inputs: inputs),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "convert_element_type": _cast,
    "dot_general": _product,
    "erfc": _erfc,
    "gather": _gather,
    "integer_pow": _integer_pow,
    "pad": _pad,
    "reduce_window_max": _max_pool,
    "reshape": _reshape,
    "rsqrt": _rsqrt,
    "select_n": _select,
    "slice": _slice,
    "split": _split,
    "square": _square,
    "stack": _stack,
    "squeeze": _squeeze,
    "transpose": _transpose,
}  # fmt: skip
