"""Reads pickles as data, with Python's unpickler restricted to a list of allowed functions.

The instructions are counted first: a pickle of a few bytes can describe tuples that take years to hash, or a
memo of 64 GB.
"""

import pickle
import pickletools
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np

MAX_BYTES = 1 << 26
MAX_NODES = 1 << 22
"""Most instructions of a pickle, and most nodes of a value; a shared node counts once per reference."""


class Foreign(ValueError):
    """The pickle holds something that is not allowed, or is damaged."""


class Function:
    """A function that a pickle may call but not change."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setstate__(self, _state: object) -> None:
        raise Foreign("it changes a function")


class Inert:
    """Stands for an object that is not needed: accepts its arguments and state, and ignores them."""

    __slots__ = ()

    def __new__(cls, *_arguments: object) -> "Inert":
        """Take any arguments."""
        return super().__new__(cls)

    def __setstate__(self, _state: object) -> None:
        pass


class Dictionary(dict):
    """A dictionary without attributes: those of a pickle, such as a state dict's `_metadata`, are dropped."""

    def __setstate__(self, _state: object) -> None:
        pass


class PickledArray:
    """A numpy array, whose shape, dtype and bytes follow as its state."""

    __slots__ = ("value",)

    def __init__(self, *_arguments: object) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        """Set the array; its bytes may not change once it has been used."""
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, fortran=fortran)


class PickledDtype:
    """A numeric dtype of numpy."""

    __slots__ = ("value",)

    def __init__(self, name: Any, *_flags: object) -> None:
        self.value = np.dtype(str(name))
        if self.value.kind not in "iufb":
            raise Foreign(f"an array's type '{name}' is no number")

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


def _encoded(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise Foreign(f"text is encoded as {encoding}")
    return text.encode(encoding)


Names = Mapping[str, Any]
"""Name in a pickle, `module.name` -> the `Function` or the class of this module that replaces it."""

PLAIN: dict[str, Any] = {
    "numpy.ndarray": Inert,
    "numpy.dtype": PickledDtype,
    "_codecs.encode": Function(_encoded),
    **{f"numpy.{core}.multiarray._reconstruct": PickledArray for core in ("core", "_core")},
    **{
        f"numpy.{core}.multiarray.scalar": Function(lambda dtype, data: _array(data, dtype, (1,)).item())
        for core in ("core", "_core")
    },
    **{
        f"numpy.{core}.numeric._frombuffer": Function(
            lambda data, dtype, shape, order: _array(data, dtype, shape, fortran=order == "F")
        )
        for core in ("core", "_core")
    },
}
"""The functions by which numpy rebuilds an array."""


def read_plain(content: bytes) -> Any:
    """The object of a pickle of numbers, text, containers and numpy arrays; `Foreign` if it holds others."""
    return plain(read_pickle(BytesIO(content), PLAIN))


def read_pickle(
    stream: BinaryIO, names: Names, load: Callable[[Any], Any] | None = None, inert: tuple[str, ...] = ()
) -> Any:
    """The next pickle of a stream.

    `load` returns the object of a persistent identifier; objects whose names begin with one of `inert` are
    ignored. Raises `Foreign` if the pickle names anything else, is truncated, or is unreasonably large.
    """
    start = stream.tell()
    try:
        _check(stream)
        end = stream.tell()
        stream.seek(start)
        return _Unpickler(stream.read(end - start), names, load, inert).load()
    except Foreign:
        raise
    except Exception as error:  # untrusted bytes can raise anything
        raise Foreign(f"damaged: {type(error).__name__} {error}") from error


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, content: bytes, names: Names, load: Callable[[Any], Any] | None, inert: tuple[str, ...]
    ) -> None:
        super().__init__(BytesIO(content), encoding="latin1")
        self._names, self._load, self._inert = names, load, inert

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in self._names:
            return self._names[full]
        if full.startswith(self._inert or "\0"):
            return Inert
        raise Foreign(f"it refers to {full}, which is no plain data")

    def persistent_load(self, pid: Any) -> Any:
        if self._load is None:
            raise Foreign("it refers to another file")
        return self._load(pid)


def _check(stream: BinaryIO) -> None:
    """Check the instructions of one pickle, tracking the number of nodes of each value on its stack."""
    stack: list[int] = []
    marks: list[int] = []
    memory: dict[int, int] = {}
    start = stream.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        index: Any = len(memory) if opcode.name == "MEMOIZE" else argument
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            if index > count:
                raise Foreign("it counts on absurdly much memory")
            memory[index] = stack[-1]
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memory[index])
        elif opcode.name == "MARK":
            marks.append(len(stack))
        else:
            stack += [1 + _popped(opcode, stack, marks)] * len(opcode.stack_after)
        nodes = stack[-1] if stack else 0
        if max(count, nodes) > MAX_NODES or stream.tell() - start > MAX_BYTES:
            raise Foreign("it is absurdly large")


def _popped(opcode: pickletools.OpcodeInfo, stack: list[int], marks: list[int]) -> int:
    """Pop an instruction's operands off the stack; returns their number of nodes."""
    before = opcode.stack_before
    start = len(stack) - len(before)
    if pickletools.markobject in before:
        start = marks.pop() - before.index(pickletools.markobject)
    nodes = sum(stack[max(start, 0) :])
    del stack[max(start, 0) :]
    return nodes


def _array(data: Any, dtype: Any, shape: Any, *, fortran: Any = False) -> np.ndarray:
    content = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(dtype, PickledDtype) or not isinstance(content, bytes | bytearray):
        raise Foreign("an array has no bytes")
    array = np.frombuffer(bytes(content), dtype.value).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.value.newbyteorder("="))


def plain(value: Any, *, strict: bool = True) -> Any:
    """The same containers as dicts, lists and tuples, with numpy arrays.

    Raises `Foreign` if one contains itself, if sharing makes them too large to traverse, or, with `strict`,
    if they hold anything but data.
    """
    made: dict[int, tuple[Any, int]] = {}

    def convert(value: Any) -> tuple[Any, int]:
        """The value and its number of nodes, where a shared node counts once per reference."""
        if isinstance(value, PickledArray):
            return value.value, 1
        if strict and isinstance(value, Function | Inert | PickledDtype | type):
            raise Foreign("it holds a function")
        if not isinstance(value, dict | list | tuple):
            return value, 1
        if id(value) not in made:
            made[id(value)] = None, MAX_NODES + 1  # within itself
            entries = [convert(entry) for entry in (value.values() if isinstance(value, dict) else value)]
            nodes = 1 + sum(n for _, n in entries)
            if nodes > MAX_NODES:
                raise Foreign("it is nested absurdly often")
            inside = (entry for entry, _ in entries)
            new = dict(zip(value, inside, strict=True)) if isinstance(value, dict) else type(value)(inside)
            made[id(value)] = new, nodes
        return made[id(value)]

    return convert(value)[0]
