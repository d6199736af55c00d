"""NumPy objects out of pickles without running them: only arrays, scalars and plain containers are rebuilt.

NumPy's own constructors are not called either: stand-ins take the states that a pickle hands out, check them, and
build arrays from bytes.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tectum.core.errors import LoadError, explain

from .files import UnsafePickleError, npy_header, reading

_KINDS = "biufcSU"  # numbers and text


class _Dtype:
    """Stand-in for ``numpy.dtype``: its text, then the byte order out of the state."""

    def __init__(self, text: Any, *_: Any) -> None:
        text = text.decode("latin1") if isinstance(text, bytes) else text
        if not isinstance(text, str):
            raise ValueError(f"dtype {text!r}")
        self.real = np.dtype("O") if text.startswith("O") else np.dtype(text)
        if not (self.real.hasobject or self.real.kind in _KINDS) or self.real.names:
            raise ValueError(f"dtype {text!r}")

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 3 or any(part is not None for part in state[2:5]):
            raise ValueError("a structured dtype")
        if state[1] in ("<", ">"):
            self.real = self.real.newbyteorder(state[1])


class _Array:
    """Stand-in for ``numpy.ndarray``: keeps shape, dtype, order and data until the end."""

    state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError("a malformed array")
        self.state = (tuple(shape), dtype.real, bool(fortran), data)

    def build(self, seen: dict[int, Any]) -> np.ndarray:
        """Return the array; an object array becomes one of finished objects."""
        shape, dtype, fortran, data = self.state
        if dtype.hasobject:
            if not isinstance(data, list) or len(data) != math.prod(shape):
                raise ValueError("an object array without its list")
            made = np.empty(len(data), dtype=object)
            for place, value in enumerate(data):
                made[place] = _finish(value, seen)
            return made.reshape(shape)  # the list is in C order, however the array was
        data = data.encode("latin1") if isinstance(data, str) else data
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy()


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    made = _Array()
    made.__setstate__((1, shape, dtype, order == "F", bytes(data)))
    return made


def _scalar(dtype: Any, data: Any) -> Any:
    if not isinstance(dtype, _Dtype) or dtype.real.hasobject:
        raise ValueError("a scalar that is no number")
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, dtype.real, count=1)[0]


def _encode(text: Any, coding: Any = "latin1") -> bytes:
    if coding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise ValueError("a foreign text coding")
    return text.encode("latin1")


class _NdarrayType:
    """Stand-in for the class that ``_reconstruct`` is told to make."""


class _Nothing:
    """Stand-in for values that carry no measurement: dates; becomes None."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _path(*parts: Any) -> str:
    return str(PurePosixPath(*map(str, parts)))


def _no_bytes() -> bytes:
    return b""


_PLAIN: dict[str, Any] = {"set": set, "complex": complex, "bytes": _no_bytes}
_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NdarrayType,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): OrderedDict,
    **{("datetime", name): _Nothing for name in ("datetime", "date", "time", "timedelta", "timezone")},
    **{("pathlib", name): _path for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")},
    **{("pathlib._local", name): _path for name in ("PosixPath", "WindowsPath", "Path")},
    **{(home, name): kind for home in ("builtins", "__builtin__") for name, kind in _PLAIN.items()},
    **{
        (f"numpy.{core}.{module}", name): call
        for core in ("core", "_core")
        for module, name, call in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}


class _Restricted(pickle.Unpickler):
    """An unpickler that knows the names above and refuses all others."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if (module, name) not in _KNOWN:
            raise UnsafePickleError(
                explain("pickle", expected="arrays, numbers, text and plain containers", got=f"{module}.{name}")
            )
        known: Callable[..., Any] = _KNOWN[module, name]
        return known

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError(explain("pickle", expected="no reference to outside", got="a persistent id"))


def loads(data: bytes) -> Any:
    """Rebuild what a pickle describes, arrays and plain containers only.

    Raises
    ------
    UnsafePickleError
        If it names any other class or function; nothing of it has run then.

    Examples
    --------
    >>> loads(pickle.dumps({"fs": np.float32(30.0), "xoff": np.arange(3)}))["xoff"].tolist()
    [0, 1, 2]
    """
    _check_memo(data)
    return _finish(_Restricted(io.BytesIO(data), encoding="latin1").load(), {})


def _check_memo(data: bytes) -> None:
    """Refuse a pickle that is cut off or numbers its notes so high that the unpickler would run out of memory."""
    if data[:1] not in (b"\x80", b"(", b"]", b"}", b"c"):
        raise ValueError("no pickle")
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise ValueError(f"a damaged pickle at its instruction {count}")


def _finish(value: Any, seen: dict[int, Any]) -> Any:
    """Replace the stand-ins inside a value by what they stand for."""
    if isinstance(value, (_Array, dict, list, tuple, set)):
        if id(value) not in seen:
            seen[id(value)] = None  # a loop refers to nothing
            seen[id(value)] = _rebuilt(value, seen)
        return seen[id(value)]
    return None if isinstance(value, _Nothing) else value.real if isinstance(value, _Dtype) else value


def _rebuilt(value: Any, seen: dict[int, Any]) -> Any:
    if isinstance(value, _Array):
        return value.build(seen)
    if isinstance(value, dict):
        return {_finish(k, seen): _finish(v, seen) for k, v in value.items()}
    return type(value)(_finish(v, seen) for v in value)


def load_objects(path: Path, provides: str) -> Any:
    """Read a ``.npy`` file that holds a pickled object array, e.g. suite2p's ``ops.npy`` and ``stat.npy``.

    Parameters
    ----------
    path : Path
        The file.
    provides : str
        What it is needed for, in words.

    Returns
    -------
    object
        The single object of an array without axes, else the array.

    Raises
    ------
    LoadError
        If the file is damaged or holds no objects.
    UnsafePickleError
        If it names a class that is not harmless.
    """
    with reading(path, f"a NumPy file of objects with {provides}"):
        stream = io.BytesIO(Path(path).read_bytes())
        shape, _, dtype = npy_header(stream)
        if not dtype.hasobject:
            raise ValueError(f"an array of {dtype}")
        try:
            made = loads(stream.getbuffer()[stream.tell() :].tobytes())
        except UnsafePickleError as cause:
            raise UnsafePickleError(f"{path}: {cause}") from cause
        if not isinstance(made, np.ndarray) or made.dtype != object or made.shape != shape:
            raise LoadError(explain(str(path), expected=f"objects of shape {shape}", got=type(made).__name__))
        return made.item() if made.ndim == 0 else made
