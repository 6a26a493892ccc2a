"""Reader of pickles that hold nothing but numbers, text, containers and numpy arrays.

The file's instructions are interpreted here one by one, and none of them can name anything but the few
functions by which numpy rebuilds an array: nothing of the file is ever called or imported.
"""

import pickletools
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

MAX_BYTES = 1 << 26

_RECONSTRUCT, _NDARRAY, _DTYPE, _SCALAR = "_reconstruct", "ndarray", "dtype", "scalar"
_FROM_BUFFER, _ENCODE = "_frombuffer", "encode"
_KNOWN = {
    **{f"numpy.{core}.multiarray {_RECONSTRUCT}": _RECONSTRUCT for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray {_SCALAR}": _SCALAR for core in ("core", "_core")},
    **{f"numpy.{core}.numeric {_FROM_BUFFER}": _FROM_BUFFER for core in ("core", "_core")},
    "numpy ndarray": _NDARRAY,
    "numpy dtype": _DTYPE,
    "_codecs encode": _ENCODE,
}


class Foreign(ValueError):
    """The pickle holds something else, or is damaged."""


class _Name(str):
    """A function that a pickle refers to, by the name it has here."""

    __slots__ = ()


class _Array:
    """An array whose contents are still to come."""

    value: np.ndarray | None = None


class _Mark:
    """Where a group of operands begins."""


def read_plain(content: bytes) -> Any:
    """The object of a pickle; `Foreign` where it is not plain, is cut short or is above `MAX_BYTES`."""
    if len(content) > MAX_BYTES:
        raise Foreign(f"{len(content)} bytes are more than expected")
    try:
        return _finished(_Machine().run(content))
    except Foreign:
        raise
    except Exception as error:  # the interpreter meets foreign bytes: anything may be amiss
        raise Foreign(f"damaged: {type(error).__name__} {error}") from error


class _Machine:
    """The stack and the memory that a pickle's instructions work on."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in _LITERALS:
                self.stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name in _ACTIONS:
                _ACTIONS[opcode.name](self, argument)
            elif opcode.name not in ("PROTO", "FRAME"):
                raise Foreign(f"instruction {opcode.name} is not one of plain data")
        raise Foreign("cut short")

    def group(self) -> list[Any]:
        """What lies above the last mark."""
        start = max(i for i, item in enumerate(self.stack) if isinstance(item, _Mark))
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def keep(self, index: int | None) -> None:
        self.memory[len(self.memory) if index is None else index] = self.stack[-1]

    def fetch(self, index: int) -> None:
        self.stack.append(self.memory[index])

    def tuple_of(self, n: int) -> None:
        items = tuple(self.stack[len(self.stack) - n :])
        del self.stack[len(self.stack) - n :]
        self.stack.append(items)

    def set_items(self, items: list[Any]) -> None:
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def extend(self, items: list[Any]) -> None:
        self.stack[-1].extend(items)

    def name(self, text: str) -> None:
        if text not in _KNOWN:
            raise Foreign(f"it refers to {text.replace(' ', '.')}, which is no plain data")
        self.stack.append(_Name(_KNOWN[text]))

    def stack_name(self) -> None:
        leaf, module = self.stack.pop(), self.stack.pop()
        self.name(f"{module} {leaf}")

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or function not in _FUNCTIONS:
            raise Foreign("it calls what is no function of numpy's arrays")
        self.stack.append(_FUNCTIONS[function](*arguments))

    def build(self) -> None:
        """An array's state is (version, shape, dtype, column-major, bytes), a dtype's (version, order)."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Array):
            _, shape, dtype, fortran, data = state
            target.value = _array(data, dtype, shape, fortran)
        elif isinstance(target, np.dtype) and state[1] in ("<", "|", ">", "="):
            self.stack[-1] = made = target.newbyteorder(state[1]) if state[1] != "|" else target
            self.memory = {i: made if item is target else item for i, item in self.memory.items()}
        else:
            raise Foreign("it sets the state of what is no array")


def _array(data: Any, dtype: Any, shape: Any, fortran: Any) -> np.ndarray:
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, np.dtype):
        raise Foreign("an array has no bytes")
    if prod(shape) * dtype.itemsize != len(data):
        raise Foreign(f"an array of shape {shape} has {len(data)} bytes")
    array = np.frombuffer(bytes(data), dtype).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="))


def _dtype(text: Any, *_flags: Any) -> np.dtype:
    dtype = np.dtype(str(text))
    if dtype.kind not in "iufb":
        raise Foreign(f"an array's type '{text}' is no number")
    return dtype


def _encoded(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise Foreign(f"text is encoded as {encoding}")
    return text.encode(encoding)


def _finished(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.value is None:
            raise Foreign("an array has no contents")
        return value.value
    if isinstance(value, dict):
        return {_finished(key): _finished(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_finished(entry) for entry in value)
    if isinstance(value, _Name | _Mark):
        raise Foreign("it holds a function")
    return value


_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG", "BINFLOAT", "FLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINSTRING", "SHORT_BINSTRING"),
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": _Mark,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.group())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.group()),
    "APPEND": lambda machine, _: machine.stack[-2].append(machine.stack.pop()),
    "APPENDS": lambda machine, _: machine.extend(machine.group()),
    "MEMOIZE": lambda machine, _: machine.keep(None),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), lambda machine, index: machine.keep(index)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, index: machine.fetch(index)),
    "GLOBAL": lambda machine, text: machine.name(text),
    "STACK_GLOBAL": lambda machine, _: machine.stack_name(),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    _RECONSTRUCT: lambda *_: _Array(),
    _DTYPE: _dtype,
    _SCALAR: lambda dtype, data: _array(data, dtype, (1,), fortran=False)[0].item(),
    _FROM_BUFFER: lambda data, dtype, shape, order: _array(data, dtype, shape, order == "F"),
    _ENCODE: _encoded,
}
