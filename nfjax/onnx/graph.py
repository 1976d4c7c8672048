"""From a traced program of jax to an ONNX graph; what becomes of each of jax's primitives is in `operators`.

A program is traced for `BATCH` images, a prime that no other dimension is a multiple of, and the graph takes any
number. What depends on constants alone is computed here. A broadcast value is spread out only where an operator needs
it: most of ONNX's broadcast themselves, as numpy does.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

BATCH = 7919  # stands for any number of images
INPUT, OPSET = "images", 21
Shape = tuple[int, ...]
INLINED = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # parameters of primitives that only call, which are these:
CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat")


class Value(NamedTuple):
    """An array of the graph: its name, and its shape, in which a dimension that is broadcast may still be 1."""

    name: str
    shape: Shape


class Constant(NamedTuple):
    """An array that is known, and a name for it; its shape may be narrower too."""

    array: np.ndarray
    name: str = ""

    @property
    def shape(self) -> Shape:
        return self.array.shape


Node = Value | Constant


class Graph:
    """An ONNX graph that is being written."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self._names: dict[str, int] = {}
        self._known: dict[Any, tuple[str, np.ndarray]] = {}
        self._batch: str | None = None

    def add(self, operator: str, inputs: Sequence[Node | str], shape: Shape, **attributes: Any) -> Value:
        """A node with one output."""
        (value,) = self.add_many(operator, inputs, [shape], **attributes)
        return value

    def add_many(
        self, operator: str, inputs: Sequence[Node | str], shapes: Iterable[Shape], **attributes: Any
    ) -> list[Value]:
        """A node with several outputs, of such shapes."""
        from onnx import helper

        values = [Value(self._unique(operator.lower()), shape) for shape in shapes]
        names = [each if isinstance(each, str) else self.name(each) for each in inputs]
        self.nodes.append(helper.make_node(operator, names, [value.name for value in values], **attributes))
        return values

    def name(self, node: Node) -> str:
        """Of a value; a constant becomes part of the file."""
        if isinstance(node, Value):
            return node.name
        from onnx import numpy_helper

        array = np.ascontiguousarray(node.array).reshape(node.shape)
        key = (array.dtype.str, array.shape, array.tobytes() if array.size < 64 else id(node.array))
        if key not in self._known:
            name = self._unique(node.name or "constant")
            self.initializers[name] = numpy_helper.from_array(array, name)
            self._known[key] = name, node.array  # which keeps its id from being another's
        return self._known[key][0]

    def numbers(self, values: Sequence[int]) -> str:
        """int64 constants that an operator takes: axes, sizes."""
        return self.name(Constant(np.asarray(values, np.int64)))

    def spread(self, node: Node, shape: Shape) -> Node:
        """The node in its full shape."""
        if node.shape == shape:
            return node
        if BATCH not in shape and isinstance(node, Constant):
            return Constant(np.broadcast_to(node.array, shape), node.name)
        if BATCH not in shape:
            return self.add("Expand", [node, self.numbers(shape)], shape)
        before, after = shape[: shape.index(BATCH)], shape[shape.index(BATCH) + 1 :]
        if self._batch is None:
            self._batch = self.add("Shape", [INPUT], (1,), start=0, end=1).name
        parts = [self.numbers(before)] * bool(before) + [self._batch] + [self.numbers(after)] * bool(after)
        sizes = parts[0] if len(parts) == 1 else self.add("Concat", parts, (len(shape),), axis=0)
        return self.add("Expand", [node, sizes], shape)

    def _unique(self, name: str) -> str:
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}_{count}"


class Unsupported(ValueError):
    """A primitive of jax for which there is no operator here."""


Rule = Callable[[Graph, Any, list[Node]], Node | list[Node]]


def convert(graph: Graph, rules: Mapping[str, Rule], closed: Any, inputs: Sequence[Node]) -> list[Node]:
    """Write what a traced program computes of its inputs into the graph; its outputs."""
    jaxpr = closed.jaxpr if hasattr(closed, "jaxpr") else closed
    known: dict[Any, Node] = dict(zip(jaxpr.invars, inputs, strict=True))
    known |= {
        var: Constant(np.asarray(value))
        for var, value in zip(jaxpr.constvars, getattr(closed, "consts", ()), strict=True)
    }

    def read(var: Any) -> Node:
        if not isinstance(var, jex.Literal):
            return known[var]
        aval: Any = var.aval
        return Constant(np.asarray(var.val, aval.dtype))

    for equation in jaxpr.eqns:
        name, found = equation.primitive.name, [read(var) for var in equation.invars]
        inner = next((equation.params[key] for key in INLINED if key in equation.params), None)
        if _is_constant(equation, found):
            results = _computed(equation, found)
        elif inner is not None and name in CALLS:
            results = convert(graph, rules, inner, found)
        elif name in rules:
            result = rules[name](graph, equation, found)
            results = result if isinstance(result, list) else [result]
        else:
            raise Unsupported(f"jax's {name} has no operator of ONNX here")
        known |= dict(zip(equation.outvars, results, strict=True))
    return [graph.spread(read(var), tuple(var.aval.shape)) for var in jaxpr.outvars]


def _is_constant(equation: Any, inputs: Sequence[Node]) -> bool:
    """Whether all is known, in full, and nothing as long as the batch comes of it."""
    known = all(
        isinstance(node, Constant) and node.shape == tuple(var.aval.shape)
        for node, var in zip(inputs, equation.invars, strict=True)
    )
    return known and not any(size % BATCH == 0 for var in equation.outvars for size in var.aval.shape)


def _computed(equation: Any, inputs: Sequence[Node]) -> list[Node]:
    """The outputs of an equation of constants."""
    arrays = [jnp.asarray(node.array) for node in inputs if isinstance(node, Constant)]
    with jax.ensure_compile_time_eval():
        outputs = equation.primitive.bind(*arrays, **equation.primitive.get_bind_params(equation.params))
    name = next((node.name for node in inputs if isinstance(node, Constant) and node.name), "")
    outputs = outputs if equation.primitive.multiple_results else [outputs]
    return [Constant(np.asarray(output), name) for output in outputs]
