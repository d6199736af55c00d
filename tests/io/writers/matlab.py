"""MATLAB files of every version: SciPy writes v4 to v7, and version 7.3 is laid out by hand as MATLAB does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
from scipy.sparse import csc_matrix, issparse


def write(path: Path, content: dict[str, Any], version: str = "7") -> None:
    """Write nested dicts (structs), lists (cells, or arrays of structs in a tuple), texts, sparse and dense arrays."""
    if version == "7.3":
        with h5py.File(path, "w", userblock_size=512) as file:
            file.create_group("#refs#")
            for name, value in content.items():
                _store(file, file, name, value)
        header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124, b" ") + b"\x00\x02IM"
        with open(path, "r+b") as stream:
            stream.write(header)
        return
    form = "4" if version == "4" else "5"
    scipy.io.savemat(path, {k: _plain(v) for k, v in content.items()}, format=form, do_compression=version == "7")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, tuple):
        names = list(value[0])
        made = np.zeros((1, len(value)), dtype=[(n, object) for n in names])
        for k, row in enumerate(value):
            for n in names:
                made[0, k][n] = _plain(row[n])
        return made
    if isinstance(value, list):
        cell = np.empty((1, len(value)), dtype=object)
        for k, item in enumerate(value):
            cell[0, k] = _plain(item)
        return cell
    return np.atleast_2d(value) if isinstance(value, np.ndarray) else value


def _store(file: Any, room: Any, name: str, value: Any) -> Any:
    """Store a value as version 7.3 does: axes reversed, cells as references, texts as uint16."""
    kind: dict[str, Any] = {}
    if isinstance(value, dict):
        made = room.create_group(name)
        for key, item in value.items():
            _store(file, made, key, item)
        kind["MATLAB_class"] = "struct"
    elif isinstance(value, tuple):
        made = room.create_group(name)
        for key in value[0]:
            made.create_dataset(key, data=_references(file, [row[key] for row in value]), dtype=h5py.ref_dtype)
        kind["MATLAB_class"] = "struct"
    elif isinstance(value, list):
        made = room.create_dataset(name, data=_references(file, value), dtype=h5py.ref_dtype)
        kind["MATLAB_class"] = "cell"
    elif isinstance(value, str):
        made = room.create_dataset(name, data=np.array([[ord(c)] for c in value], dtype=np.uint16))
        kind |= {"MATLAB_class": "char", "MATLAB_int_decode": 2}
    elif issparse(value):
        sparse = csc_matrix(value)
        made = room.create_group(name)
        parts = {"data": sparse.data, "ir": sparse.indices.astype("u8"), "jc": sparse.indptr.astype("u8")}
        for key, array in parts.items():
            made[key] = array
        kind |= {"MATLAB_class": "double", "MATLAB_sparse": np.uint64(sparse.shape[0])}
    else:
        array = np.atleast_2d(np.asarray(value))
        empty = array.size == 0
        data = (
            np.array(array.shape, "u8") if empty else array.T.astype(np.uint8 if array.dtype == bool else array.dtype)
        )
        made = room.create_dataset(name, data=data)
        kind["MATLAB_class"] = "logical" if array.dtype == bool else "double"
        if empty:
            kind["MATLAB_empty"] = np.uint8(1)
    for key, item in kind.items():
        made.attrs[key] = np.bytes_(item) if isinstance(item, str) else item
    return made


def _references(file: Any, items: list[Any]) -> np.ndarray:
    room = file["#refs#"]
    found = [_store(file, room, f"r{len(room)}", item).ref for item in items]
    made = np.empty((len(items), 1), dtype=object)
    made[:, 0] = found
    return made
