"""Tensors of torch in a file: where their numbers are, and numpy's view of them. torch itself is not needed."""

import math
import zlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from port.errors import WeightsFileError, listed
from port.unpickle import Global, StandIn

# torch's names of what numpy has too, and bfloat16.
DTYPES: dict[str, Any] = {
    f"torch.{name}": np.dtype(name)
    for name in [
        *("bool", "complex64", "complex128", "float16", "float32", "float64"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    ]
} | {"torch.bfloat16": np.dtype(jnp.bfloat16)}
_NUMBERS_OF = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
    "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
    "ComplexDouble": "complex128", "ComplexFloat": "complex64", "QInt8": "qint8", "QUInt8": "quint8",
    "QInt32": "qint32",
}  # fmt: skip
# What the class of a storage says of its numbers. An untyped one leaves it to the tensor.
STORAGES = {f"torch.{kind}Storage": f"torch.{dtype}" for kind, dtype in _NUMBERS_OF.items()}
STORAGES |= {f"torch.{place}UntypedStorage": "torch.uint8" for place in ("", "storage.")}
MOST_AXES = 32


class Storage:
    """Numbers in a row, which tensors are views of.

    Attributes:
        dtype: torch's name.
        data: all its bytes, a view of the mapped file; None where the file has none.
        crc32: what they should have, if that is known.
    """

    __slots__ = ("_checked", "crc32", "data", "dtype", "name", "source")

    def __init__(self, dtype: str, name: str, source: str):
        self.dtype, self.name, self.source = dtype, name, source
        self.data: np.ndarray | None = None
        self.crc32: int | None = None
        self._checked = False

    def checked(self) -> np.ndarray:
        """Its bytes; a WeightsFileError if they are not those that were written."""
        assert self.data is not None
        if not self._checked and self.crc32 is not None and zlib.crc32(self.data.data) != self.crc32:
            raise WeightsFileError(
                f"{self.source} is damaged: {listed([self.name])} does not have its CRC-32. Download or export it "
                "again."
            )
        self._checked = True
        return self.data


class Tensor:
    """A tensor whose numbers are not read before they are asked for: `numpy.asarray(tensor)`.

    Attributes:
        shape, dtype: as numpy's; `dtype` is torch's name where numpy has no such.
        refusal: why no array can be made of it, or nothing.
    """

    __slots__ = ("dtype", "offset", "shape", "storage", "strides", "why")

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, dtype: str = "", why: str = ""):
        name = dtype or (storage.dtype if isinstance(storage, Storage) else "")
        self.dtype: Any = DTYPES.get(name, name)
        self.storage, self.offset, self.why = storage, offset, why
        well = isinstance(storage, Storage) and _counts([offset]) and _counts(shape) and _counts(strides)
        if not why and not (well and len(shape) == len(strides)):
            self.why = "of a shape that is none"
        self.shape: tuple[int, ...] = () if self.why else tuple(shape)
        self.strides: tuple[int, ...] = () if self.why else tuple(strides)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def refusal(self) -> str:
        if self.why:
            return self.why
        if not isinstance(self.dtype, np.dtype):
            return f"of {self.dtype}"
        if self.storage.data is None:
            return "without its numbers"
        there = self.storage.data.nbytes
        if math.prod(self.shape) * self.dtype.itemsize > there:
            return f"of shape {self.shape}, expanded from {there} bytes"
        last = self.offset + sum((side - 1) * stride for side, stride in zip(self.shape, self.strides, strict=True))
        if math.prod(self.shape) and (last + 1) * self.dtype.itemsize > there:
            return f"of shape {self.shape}, beyond its {there} bytes"
        return ""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """A view of the file, read-only; a copy if it does not lie there as numpy wants it."""
        if not math.prod(self.shape):
            return np.zeros(self.shape, self.dtype)
        item = self.dtype.itemsize
        strides = [stride * item for stride in self.strides]
        data = self.storage.checked()
        array = np.require(np.ndarray(self.shape, self.dtype, data, self.offset * item, strides), requirements="A")
        return array.astype(dtype, copy=bool(copy)) if dtype is not None or copy else array


def _counts(numbers: Any) -> bool:
    if not isinstance(numbers, tuple | list) or len(numbers) > MOST_AXES:
        return False
    return all(type(n) is int and 0 <= n < 2**62 for n in numbers)


# How torch says in a pickle what a tensor is: functions of its names, with its arguments.


def _rebuilt(
    storage: Any, offset: Any, size: Any, stride: Any, _: Any = 0, hooks: Any = 0, metadata: Any = 0
) -> Tensor:
    view = "a view of conjugate or negated numbers" if metadata and isinstance(metadata, dict) else ""
    return Tensor(storage, offset, size, stride, why=view)


def _of_dtype(
    storage: Any, offset: Any, size: Any, stride: Any, _: Any, hooks: Any, dtype: Any, metadata: Any = 0
) -> Tensor:
    view = "a view of conjugate or negated numbers" if metadata and isinstance(metadata, dict) else ""
    return Tensor(storage, offset, size, stride, _dtype(dtype), view)


def _dtype(named: Any) -> str:
    return named.name if isinstance(named, Global) else "an unknown dtype"


def _itself(data: Any, *_: Any) -> Any:
    return data


def _quantised(storage: Any, *_: Any) -> Tensor:
    return Tensor(None, 0, (), (), why=f"of {getattr(storage, 'dtype', 'a quantised dtype')}")


def _sparse(layout: Any, *_: Any) -> Tensor:
    known = isinstance(layout, str) and len(layout) < 40
    return Tensor(None, 0, (), (), why=f"of layout {layout if known else 'unknown'}")


def _none(why: str) -> Any:
    return lambda *_: Tensor(None, 0, (), (), why=why)


def _of_type(function: Any, kind: Any, args: Any, *_: Any) -> Any:
    """A tensor of a class of its own, or with attributes."""
    made = REBUILT.get(function.name) if isinstance(function, Global) else None
    return StandIn(getattr(kind, "name", "tensor"), args) if made is None or made is _of_type else made(*args)


REBUILT: dict[str, Any] = {
    "torch._utils._rebuild_tensor": _rebuilt,
    "torch._utils._rebuild_tensor_v2": _rebuilt,
    "torch._utils._rebuild_tensor_v3": _of_dtype,
    "torch._utils._rebuild_parameter": _itself,
    "torch._utils._rebuild_parameter_with_state": _itself,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _itself,
    "torch.nn.parameter.Parameter": _itself,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_sparse_csr_tensor": _sparse,
    "torch._utils._rebuild_nested_tensor": _none("nested"),
    "torch._utils._rebuild_meta_tensor_no_storage": _none("on the meta device, without numbers"),
    "torch._utils._rebuild_wrapper_subclass": _none("of a class of its own"),
    "torch.serialization._get_layout": _itself,
}
