"""The one file format: a safetensors file whose header holds JSON. Nothing is executed at load.

The header has ``format`` (version), ``tectum`` (version that wrote it) and ``object``: a JSON tree in which
tensors are references into the file. Only classes marked with :func:`storable` can be written or read.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .device import resolve_device
from .errors import InputError, LoadError, explain

FORMAT = 1
SUFFIX = ".safetensors"

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

    Parameters
    ----------
    path : path
        File to write; the suffix ``.safetensors`` is added if there is none.
    obj : object
        Storable instance, mapping, sequence, tensor, NumPy array, text, number or None.

    Returns
    -------
    Path
        The file written.
    """
    from safetensors.torch import save_file

    path = _with_suffix(path)
    tensors: dict[str, Tensor] = {}
    tree = _encode(obj, "", tensors)
    from .. import __version__

    header = {"format": FORMAT, "tectum": __version__, "object": tree}
    packed = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(packed, str(temporary), metadata={"tectum": json.dumps(header, allow_nan=False)})
    return path


def read(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> Any:
    """Read what :func:`write` wrote, with every tensor on ``device``.

    Raises
    ------
    LoadError
        If the file is missing, damaged, not ours, of a newer format, or names an unknown kind.
    """
    header, tensors = _open(path, device)
    if not isinstance(header.get("format"), int) or header["format"] > FORMAT:
        raise LoadError(
            explain(
                str(path), expected=f"file format {FORMAT} or older", got=str(header.get("format")), fix="update tectum"
            )
        )
    try:
        return _decode(header["object"], tensors)
    except (LoadError, InputError):
        raise
    except Exception as cause:
        raise LoadError(
            explain(str(path), expected="a complete tectum file", got=f"{type(cause).__name__}: {cause}")
        ) from cause


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
        loaded.set_params(device=device)
    return loaded


def peek(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the JSON header of a file without reading its tensors."""
    return _open(path, None)[0]


def _open(path: str | os.PathLike[str], device: str | torch.device | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import safe_open

    path = Path(path)
    if not path.is_file():
        raise LoadError(explain(str(path), expected="an existing file", got="none there"))
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})["tectum"])
            names = file.keys() if device is not None else []
            tensors = {name: file.get_tensor(name).to(device) for name in names}
    except KeyError as cause:
        raise LoadError(
            explain(str(path), expected="a file written by tectum", got="a safetensors file without its header")
        ) from cause
    except Exception as cause:
        raise LoadError(
            explain(str(path), expected="a safetensors file", got=f"{type(cause).__name__}: {cause}")
        ) from cause
    if not isinstance(header, dict) or "object" not in header:
        raise LoadError(explain(str(path), expected="a tectum header", got="something else"))
    return header, tensors


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of ``path`` that takes its place if the block succeeds, and vanishes if not."""
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


def _with_suffix(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path if path.suffix else path.with_suffix(SUFFIX)


# Encoding: JSON scalars stand for themselves; everything else is a one-key mapping {tag: content}.


def _encode(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, Tensor):
        tensors[place or "value"] = value
        return {"tensor": place or "value"}
    if isinstance(value, np.ndarray):
        return _encode_array(value, place, tensors)
    if isinstance(value, Mapping):
        return {"map": [[_key(k), _encode(v, f"{place}.{k}" if place else str(k), tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        tag = "tuple" if isinstance(value, tuple) else "list"
        return {tag: [_encode(v, f"{place}.{i}" if place else str(i), tensors) for i, v in enumerate(value)]}
    return _encode_object(value, place, tensors)


def _encode_array(value: np.ndarray, place: str, tensors: dict[str, Tensor]) -> Any:
    if value.dtype.kind in "US":
        return {"text": value.astype(str).ravel().tolist(), "shape": list(value.shape)}
    tensors[place or "value"] = torch.from_numpy(np.ascontiguousarray(value).reshape(value.shape))
    return {"array": place or "value"}


def _encode_object(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    kind = type(value).__name__
    if KINDS.get(kind) is not type(value):
        raise InputError(
            explain(
                "save",
                expected="tensors, numbers, text, containers and storable objects",
                got=f"{type(value).__name__} at {place or 'the top'}",
            )
        )
    fields = {k: _encode(v, f"{place}.{k}" if place else k, tensors) for k, v in _state(value).items()}
    return {"kind": kind, "fields": fields}


def _state(value: Any) -> dict[str, Any]:
    """Return what of an object goes into the file: its dataclass fields, unless it says otherwise."""
    if hasattr(value, "__getstate_tectum__"):
        state: dict[str, Any] = value.__getstate_tectum__()
        return state
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def _key(key: Any) -> str | int:
    if isinstance(key, (str, int)) and not isinstance(key, bool):
        return key
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
        raise LoadError(
            explain("load", expected=f"a kind among {sorted(KINDS)}", got=repr(kind), fix="update tectum")
        )
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
