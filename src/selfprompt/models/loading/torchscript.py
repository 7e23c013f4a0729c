"""TorchScript archives, read as data without torch.jit, whose loader runs code of the archive.

An archive is a zip file. Its ``data.pkl`` describes one object with attributes as a pickle, of which a few operations
suffice; each is interpreted here on plain containers, and none of them calls anything. Tensors refer to the files under
``data/`` with their bytes. The program under ``code/`` is ignored.
"""

import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

_DEEPEST, _MOST = 64, 100_000
_KINDS = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class _Global:
    """A global name in the pickle, which is never looked up."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """The pickle's description of a storage, which holds the bytes of tensors."""

    description: Any


@dataclass
class _Object:
    """An object in the pickle: its class or function, arguments and attributes."""

    kind: Any
    arguments: Any = ()
    state: Any = None


@dataclass
class _Machine:
    """The state of a pickle machine."""

    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def since_mark(self) -> list[Any]:
        """Pop what was pushed since the last mark."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values


def read_tensors(archive: zipfile.ZipFile, root: str) -> dict[str, Tensor]:
    """Read the tensors of an archive by their dotted names.

    Args:
        archive: The opened file.
        root: The folder in it that contains ``data.pkl``, with a slash.

    Raises:
        ValueError: If it is damaged, or is not a tree of tensors.
    """
    try:
        tree = _described(archive.read(f"{root}data.pkl"))
        return dict(_named(tree, "", 0, _Storages(archive, root), [0]))
    except (LookupError, TypeError, AttributeError, OverflowError, RuntimeError, zipfile.BadZipFile) as error:
        raise ValueError(f"its description of tensors is damaged ({type(error).__name__}: {error})") from error


def _described(content: bytes) -> Any:
    """Read the object that a pickle describes, as containers, strings, numbers and the records above."""
    machine = _Machine()
    for operation, argument, _ in pickletools.genops(content):
        if operation.name == "STOP":
            return machine.stack.pop()
        _step(machine, operation.name, argument)
    raise ValueError("its description of tensors has no end")


def _step(machine: _Machine, name: str, argument: Any) -> None:
    """Execute one operation of a pickle."""
    stack = machine.stack
    if name == "PROTO":
        return
    if name in ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"):
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in _EMPTY:
        stack.append(_EMPTY[name]())
    elif name == "GLOBAL":
        stack.append(_Global(argument))
    elif name == "MARK":
        machine.marks.append(len(stack))
    elif name in ("BINPUT", "LONG_BINPUT"):
        machine.memo[argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(machine.memo[argument])
    elif name == "TUPLE":
        stack.append(tuple(machine.since_mark()))
    elif name in _TUPLES:
        parts = tuple(stack[-_TUPLES[name] :])
        del stack[-_TUPLES[name] :]
        stack.append(parts)
    elif name in ("SETITEM", "SETITEMS"):
        pairs = machine.since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
        stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))
    elif name in ("APPEND", "APPENDS"):
        entries = machine.since_mark() if name == "APPENDS" else [stack.pop()]
        stack[-1].extend(entries)
    elif name == "BINPERSID":
        stack.append(_Storage(stack.pop()))
    elif name in ("NEWOBJ", "REDUCE"):
        arguments = stack.pop()
        stack.append(_Object(stack.pop(), arguments))
    elif name == "BUILD":
        state = stack.pop()
        stack[-1].state = state
    else:
        raise ValueError(f"its description of tensors has the operation {name}, which TorchScript does not use")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, type[Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Storages:
    """The storages of an archive, each of which is read once."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self._archive, self._root = archive, root
        self._cache: dict[str, Tensor] = {}

    def get(self, kind: str, key: str) -> Tensor:
        """Return a file under data/ as a flat tensor."""
        dtype = _KINDS[kind.removeprefix("torch ")]
        if key not in self._cache:
            content = bytearray(self._archive.read(f"{self._root}data/{key}"))
            self._cache[key] = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0).byte()
        return self._cache[key].view(dtype)


def _named(value: Any, name: str, depth: int, storages: _Storages, count: list[int]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in a value by dotted names: attributes, keys and list indices."""
    count[0] += 1
    if depth > _DEEPEST or count[0] > _MOST:
        raise ValueError("its description of tensors has no end")
    if isinstance(value, _Object):
        function = value.kind.name
        if function == "torch._utils _rebuild_tensor_v2":
            yield name, _tensor(value.arguments, storages)
        elif function == "torch._utils _rebuild_parameter":
            yield from _named(value.arguments[0], name, depth + 1, storages, count)
        elif value.state is not None:
            yield from _named(value.state, name, depth + 1, storages, count)
        return
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, entry in inner:
        yield from _named(entry, f"{name}.{key}" if name else str(key), depth + 1, storages, count)


def _tensor(arguments: Any, storages: _Storages) -> Tensor:
    """Return a tensor as a view of its storage."""
    storage, offset, size, stride = arguments[:4]
    _, kind, key, _, _ = storage.description
    flat = storages.get(kind.name, key)
    if prod(size) > len(flat) or min((offset, *size, *stride), default=0) < 0:
        raise ValueError(f"a tensor of {tuple(size)} is larger than its {len(flat)} stored numbers")
    return flat.as_strided(size, stride, offset)
