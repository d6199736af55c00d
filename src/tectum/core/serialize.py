"""The one file format: a safetensors file whose header holds JSON. Nothing is executed at load.

The header has ``format`` (version), ``tectum`` (version that wrote it) and ``object``: a JSON tree in which
tensors are references into the file. Only classes marked with :func:`storable` can be written or read. A
checksum of header and tensors tells a damaged file.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .device import from_numpy, resolve_device
from .errors import InputError, LoadError, MismatchError, explain

FORMAT = 1
SUFFIX = ".safetensors"
HEADER_LIMIT = 90_000_000  # bytes; safetensors refuses headers above 100 MB

#: Kinds known to this process; the public table of the package tells where the others are defined.
KINDS: dict[str, type] = {}

C = TypeVar("C", bound=type)


def storable(cls: C) -> C:
    """Class decorator: allow instances of a dataclass in files, under the class's name."""
    known = KINDS.setdefault(cls.__name__, cls)
    if known.__module__ != cls.__module__:
        raise TypeError(f"two storable classes are called {cls.__name__}: {known.__module__} and {cls.__module__}")
    KINDS[cls.__name__] = cls
    return cls


def write(path: str | os.PathLike[str], obj: Any) -> Path:
    """Write a storable object (or a tree of mappings, lists and tensors) to one file, atomically.

    Equal objects give equal bytes.

    Parameters
    ----------
    path : path
        File to write; the suffix ``.safetensors`` is added if there is none, here and in :func:`read`.
    obj : object
        Storable instance, mapping, sequence, tensor, NumPy array, text, number or None.

    Returns
    -------
    Path
        The file written.
    """
    from safetensors.torch import save_file

    path = with_suffix(path)
    tensors: dict[str, Tensor] = {}
    tree = _encode(obj, "", tensors)
    from .. import __version__

    header = json.dumps({"format": FORMAT, "tectum": __version__, "object": tree}, allow_nan=False)
    if len(header) > HEADER_LIMIT:
        raise InputError(explain("save", expected="names, text and history below 90 MB", got=f"{len(header)} bytes"))
    packed = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(packed, str(temporary), metadata={"tectum": header, "crc32": _checksum(header, packed)})
        _order_metadata(temporary)
    return path


def _order_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file, whose order is random, so that equal objects give equal files."""
    with open(path, "r+b") as stream:
        (size,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        first = {"__metadata__": header.pop("__metadata__")}
        text = json.dumps({**first, **header}, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:  # the place of the tensors must stay
            stream.seek(8)
            stream.write(text.ljust(size))


def read(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Any:
    """Read what :func:`write` wrote, with every tensor on ``device``.

    Raises
    ------
    LoadError
        If the file is missing, damaged, not ours, of a newer format, or names an unknown kind.
    """
    header, tensors = _open(path, whole=True)
    moved = {name: tensor.to(device) for name, tensor in tensors.items()}
    try:
        return _decode(header["object"], moved)
    except MismatchError as cause:
        raise MismatchError(f"{path}: {cause}") from cause
    except Exception as cause:
        raise LoadError(explain(str(path), expected="a complete tectum file", got=_named(cause))) from cause


def load(path: str | os.PathLike[str], *, device: str = "cpu") -> Any:
    """Read a recording, result or fitted estimator from a ``.safetensors`` file.

    Parameters
    ----------
    path : path
        A file written by one of our ``save`` methods.
    device : str, default "cpu"
        Where the tensors go, and where a loaded estimator will compute.

    Returns
    -------
    object
        What was saved.

    Raises
    ------
    LoadError
        If the file is missing, damaged, foreign or of a newer format. Nothing in a file is executed.
    """
    loaded = read(path, device=resolve_device(device))
    if hasattr(loaded, "set_params"):
        loaded.set_params(device=str(device))
    return loaded


def peek(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the JSON header of a file without reading its tensors."""
    return _open(path, whole=False)[0]


def _open(path: str | os.PathLike[str], *, whole: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the checked header and, if the whole file is wanted, its tensors."""
    try:
        text, crc, tensors = _contents(Path(path) if Path(path).exists() else with_suffix(path), whole)
        if text is None:
            raise LoadError(explain(str(path), expected="a file written by tectum", got="a foreign safetensors file"))
        header = json.loads(text)
        version = header["format"]
    except LoadError:
        raise
    except Exception as cause:
        raise LoadError(explain(str(path), expected="a readable tectum file", got=_named(cause))) from cause
    if not isinstance(version, int) or not 1 <= version <= FORMAT:
        expected = f"file format {FORMAT} or older"
        raise LoadError(explain(str(path), expected=expected, got=repr(version), fix="update tectum"))
    if whole and crc != _checksum(text, tensors):
        raise LoadError(explain(str(path), expected="the content that was saved", got="a damaged file"))
    return header, tensors


def _contents(path: Path, whole: bool) -> tuple[str | None, str | None, dict[str, Tensor]]:
    """Return our header, the checksum and the tensors of a safetensors file."""
    from safetensors import safe_open

    if path.is_dir() or not path.exists():
        got = "a directory" if path.is_dir() else "none there"
        raise LoadError(explain(str(path), expected="an existing file", got=got))
    with open(path, "rb"):  # safetensors calls a file that may not be read missing
        pass
    with safe_open(str(path), framework="pt") as file:
        stored = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in (file.keys() if whole else [])}
    return stored.get("tectum"), stored.get("crc32"), tensors


def _named(cause: Exception) -> str:
    return str(cause) if isinstance(cause, LoadError) else f"{type(cause).__name__}: {cause}"


def _checksum(header: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the CRC-32 of the header and of names, types, shapes and bytes of the tensors."""
    crc = zlib.crc32(header.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(f"{name}{tensors[name].dtype}{tuple(tensors[name].shape)}".encode(), crc)
        crc = zlib.crc32(raw(tensors[name]), crc)
    return f"{crc:08x}"


def raw(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous CPU tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of ``path`` that takes its place if the block succeeds, and vanishes if not.

    A process that is killed at once (SIGKILL, power) cannot clean up: its hidden ``.<name>.<random>.part`` stays and
    may be deleted. The file itself is whole at any time, the old or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text file atomically, in UTF-8."""
    path = Path(path)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def with_suffix(path: str | os.PathLike[str]) -> Path:
    """Add the suffix ``.safetensors`` to a path that has none."""
    path = Path(path)
    return path if path.suffix else path.with_suffix(SUFFIX)


# Encoding: JSON scalars stand for themselves; everything else is a one-key mapping {tag: content}.


def _encode(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if KINDS.get(type(value).__name__) is type(value):
        fields = {k: _encode(v, f"{place}.{k}" if place else k, tensors) for k, v in _state(value).items()}
        return {"kind": type(value).__name__, "fields": fields}
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, Tensor):
        return {"tensor": _register(value, place, tensors)}
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "US":
            return {"text": value.astype(str).ravel().tolist(), "shape": list(value.shape)}
        return {"array": _register(from_numpy(value, f"save ({place})"), place, tensors)}
    if isinstance(value, Mapping):
        return {"map": [[_key(k), _encode(v, f"{place}.{k}" if place else str(k), tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        tag = "tuple" if isinstance(value, tuple) else "list"
        return {tag: [_encode(v, f"{place}.{i}" if place else str(i), tensors) for i, v in enumerate(value)]}
    expected = "tensors, numbers, text, containers and storable objects"
    raise InputError(explain("save", expected=expected, got=f"{type(value).__name__} at {place or 'the top'}"))


def _register(value: Tensor, place: str, tensors: dict[str, Tensor]) -> str:
    """Name a tensor after its place in the tree, with primes where two places read alike."""
    if value.dtype == torch.complex128 or value.layout != torch.strided:
        got = f"{value.dtype} of layout {value.layout}"
        raise InputError(explain(f"save ({place})", expected="dense tensors, complex ones in complex64", got=got))
    name = place or "value"
    while name in tensors or name == "__metadata__":
        name += "'"
    tensors[name] = value
    return name


def _state(value: Any) -> dict[str, Any]:
    """Return what of an object goes into the file: its dataclass fields, unless it says otherwise."""
    if hasattr(value, "__getstate_tectum__"):
        state: dict[str, Any] = value.__getstate_tectum__()
        return state
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def _key(key: Any) -> str | int:
    if isinstance(key, (str, int, np.integer)) and not isinstance(key, bool):
        return int(key) if isinstance(key, np.integer) else key
    raise InputError(explain("save", expected="text or integer keys", got=repr(key)))


def _decode(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    for tag, decode in _DECODERS.items():
        if tag in node:
            return decode(node, tensors)
    raise LoadError(explain("load", expected="a known tag", got=str(sorted(node))[:80]))


def _decode_object(node: dict[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    cls = find_kind(node["kind"])
    state = {name: _decode(child, tensors) for name, child in node["fields"].items()}
    return cls.__setstate_tectum__(state) if hasattr(cls, "__setstate_tectum__") else cls(**state)


def find_kind(kind: str) -> Any:
    """Return the storable class called ``kind``, importing its home if it is one of ours."""
    from .. import _HOMES

    if kind not in KINDS and kind in _HOMES:
        import_module(_HOMES[kind])
    if kind not in KINDS:
        raise LoadError(explain("load", expected=f"a kind among {sorted(KINDS)}", got=repr(kind), fix="update tectum"))
    return KINDS[kind]


_DECODERS: dict[str, Callable[[dict[str, Any], Mapping[str, Tensor]], Any]] = {
    "kind": _decode_object,
    "tensor": lambda node, tensors: tensors[node["tensor"]],
    "array": lambda node, tensors: tensors[node["array"]].cpu().numpy(),
    "text": lambda node, tensors: np.asarray(node["text"], dtype=str).reshape(node["shape"]),
    "float": lambda node, tensors: float(node["float"]),
    "map": lambda node, tensors: {k: _decode(v, tensors) for k, v in node["map"]},
    "list": lambda node, tensors: [_decode(v, tensors) for v in node["list"]],
    "tuple": lambda node, tensors: tuple(_decode(v, tensors) for v in node["tuple"]),
}
