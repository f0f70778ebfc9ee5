"""What the globals of a torch state dict mean here: descriptions of tensors, no bytes yet."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jbert.formats.dtypes import spelled
from jbert.formats.errors import clip
from jbert.formats.mapped import shape_problem
from jbert.formats.restricted_pickle import (
    RESAVE,
    Constructor,
    OrderedTable,
    Refused,
    put,
    type_of,
)
from jbert.formats.weights import element_count

DTYPES = spelled(
    {
        **{name: name for name in ("bool", "int8", "int16", "int32", "int64", "uint8")},
        **{name: name for name in ("uint16", "uint32", "uint64", "float16", "bfloat16")},
        **{name: name for name in ("float32", "float64", "complex64", "complex128")},
        **{name: name for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2")},
        **{name: name for name in ("float8_e5m2fnuz", "float8_e8m0fnu")},
        **{"half": "float16", "float": "float32", "double": "float64"},
        **{"short": "int16", "int": "int32", "long": "int64"},
    }
)
STORAGE_CLASSES = spelled(
    {
        **{"BoolStorage": "bool", "ByteStorage": "uint8", "CharStorage": "int8"},
        **{"ShortStorage": "int16", "IntStorage": "int32", "LongStorage": "int64"},
        **{"HalfStorage": "float16", "BFloat16Storage": "bfloat16", "FloatStorage": "float32"},
        **{"DoubleStorage": "float64", "ComplexFloatStorage": "complex64"},
        **{"ComplexDoubleStorage": "complex128"},
    }
)


class StorageClass:
    """`torch.FloatStorage` and its like; dtype None is `UntypedStorage`, counted in bytes."""

    noun = "a storage class"
    __slots__ = ("name", "dtype")

    def __init__(self, name: str, dtype: np.dtype | None):
        self.name = name
        self.dtype = dtype

    @property
    def itemsize(self) -> int:
        return 1 if self.dtype is None else self.dtype.itemsize


@dataclass(frozen=True)
class Storage:
    """`size` bytes of the stored buffer `key`, from its byte `start`."""

    noun = "a storage"
    key: str
    kind: StorageClass
    size: int
    start: int = 0


@dataclass(frozen=True)
class TensorLayout:
    """A tensor as the pickle describes it, proved to lie inside its storage."""

    noun = "a tensor"
    storage: Storage
    dtype: np.dtype
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return element_count(self.shape) * self.dtype.itemsize


class TensorClass:
    """`torch.Tensor` or `Parameter`, named as the type of a tensor that carries attributes."""


def find_global(module: str, name: str) -> Any:
    try:
        return GLOBALS[f"{module}.{name}"]
    except KeyError:
        raise Refused(f"a request for {clip(f'{module}.{name}')}", _advice(module, name)) from None


def _advice(module: str, name: str) -> str:
    root = module.split(".")[0]
    if name in ("_rebuild_qtensor",) or name.startswith(("QInt", "QUInt", "qint", "quint")):
        return "Quantised tensors are not read; save the float model's state dict"
    if "sparse" in name or name == "_get_layout":
        return "Sparse tensors are not read; save dense ones"
    if "meta_tensor" in name:
        return "The tensors have no data; save the model after loading its weights"
    if root == "numpy":
        return "NumPy objects are not read. " + RESAVE
    if root in ("os", "posix", "nt", "sys", "subprocess", "builtins", "__builtin__", "runpy"):
        return "Other programs would run this as code: do not trust the file"
    if "." in module or root == "__main__":
        return "It looks like a whole object and not its weights. " + RESAVE
    return RESAVE


def rebuild_v2(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> TensorLayout:
    if not isinstance(storage, Storage) or storage.kind.dtype is None:
        raise Refused("a tensor without a typed storage")
    return _layout(storage, storage.kind.dtype, offset, shape, strides, metadata)


def rebuild_v3(
    storage: Any,
    offset: Any,
    shape: Any,
    strides: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> TensorLayout:
    if not isinstance(storage, Storage) or not isinstance(dtype, np.dtype):
        raise Refused("a tensor without a storage and a dtype")
    return _layout(storage, dtype, offset, shape, strides, metadata)


def _layout(
    storage: Storage, dtype: np.dtype, offset: Any, shape: Any, strides: Any, metadata: Any
) -> TensorLayout:
    if metadata:
        raise Refused("a tensor stored as a lazy conjugate or negative of its bytes")
    problem = shape_problem(shape, dtype.itemsize)
    if problem:
        raise Refused(problem)
    if not isinstance(strides, list | tuple) or any(type(stride) is not int for stride in strides):
        raise Refused("strides that are not a list of integers")
    if len(strides) != len(shape) or any(stride < 0 for stride in strides):
        raise Refused("strides that do not fit the shape, or are negative")
    if type(offset) is not int or offset < 0:
        raise Refused("a storage offset that is not a natural number")
    shape = tuple(shape)
    if element_count(shape):
        reach = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if (offset + reach + 1) * dtype.itemsize > storage.size:
            raise Refused(
                f"a tensor of shape {clip(shape)} that reaches outside its storage "
                f"of {storage.size} bytes"
            )
    # A dimension of one may carry any stride; numpy wants one that fits.
    steps = (s if n > 1 else 1 for n, s in zip(shape, strides, strict=True))
    return TensorLayout(
        storage,
        dtype,
        storage.start + offset * dtype.itemsize,
        shape,
        tuple(step * dtype.itemsize for step in steps),
    )


def rebuild_parameter(data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None):
    if not isinstance(data, TensorLayout):
        raise Refused(f"a Parameter made of {type_of(data)}")
    return data


def rebuild_with_attributes(function: Any, kind: Any, arguments: Any, state: Any) -> TensorLayout:
    """A tensor that had Python attributes: `torch._tensor._rebuild_from_type_v2`."""
    if not isinstance(function, Constructor) or not isinstance(kind, TensorClass):
        raise Refused("a tensor subclass")
    if not function.name.startswith("torch._utils._rebuild_"):
        raise Refused(f"a tensor made by {function.name}")
    if type(arguments) is not tuple:
        raise Refused("a tensor without arguments")
    return rebuild_parameter(function.build(*arguments))


def ordered_dict(pairs: Any = ()) -> OrderedTable:
    # Python 2 pickled the pairs as the constructor's argument, later versions set the items.
    table = OrderedTable()
    if type(pairs) not in (list, tuple):
        raise Refused(f"an OrderedDict made of {type_of(pairs)}")
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise Refused("an OrderedDict made of something other than pairs")
        put(table, pair[0], pair[1])
    return table


def size(sizes: Any = ()) -> tuple[int, ...]:
    if type(sizes) not in (list, tuple) or any(type(item) is not int for item in sizes):
        raise Refused("a torch.Size that is not made of integers")
    return tuple(sizes)


def device(kind: Any, index: Any = None) -> str:
    if type(kind) is not str or type(index) not in (int, type(None)):
        raise Refused("a torch.device that is not a name and a number")
    return kind if index is None else f"{kind}:{index}"


def _checked(name: str, build: Any) -> Constructor:
    def call(*arguments: Any) -> Any:
        try:
            return build(*arguments)
        except TypeError as error:
            raise Refused(f"a call of {name} with {len(arguments)} arguments") from error

    return Constructor(name, call)


GLOBALS: dict[str, Any] = {
    **{
        name: _checked(name, build)
        for name, build in {
            "collections.OrderedDict": ordered_dict,
            "torch._utils._rebuild_tensor": rebuild_v2,
            "torch._utils._rebuild_tensor_v2": rebuild_v2,
            "torch._utils._rebuild_tensor_v3": rebuild_v3,
            "torch._utils._rebuild_parameter": rebuild_parameter,
            "torch._utils._rebuild_parameter_with_state": rebuild_parameter,
            "torch._tensor._rebuild_from_type_v2": rebuild_with_attributes,
            "torch.Size": size,
            "torch.device": device,
        }.items()
    },
    **{f"torch.{name}": dtype for name, dtype in DTYPES.items()},
    **{f"torch.{name}": StorageClass(name, dtype) for name, dtype in STORAGE_CLASSES.items()},
    "torch.storage.UntypedStorage": StorageClass("UntypedStorage", None),
    **{
        name: TensorClass()
        for name in ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter")
    },
}
