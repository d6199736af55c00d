"""NWB files of HDF5 written once more as hdmf-zarr lays them out, by hand: that package wants an older zarr."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def write(source: Path, target: Path) -> Path:
    """Write every group, dataset, attribute and link of a file into a folder of Zarr 2."""
    with h5py.File(source, "r") as file:
        _group(file, target)
    return target


def _group(group: Any, folder: Path) -> None:
    folder.mkdir()
    _dump(folder / ".zgroup", {"zarr_format": 2})
    attributes = _attributes(group)
    for name in group:
        link, node = group.get(name, getlink=True), group.get(name)
        if isinstance(link, h5py.SoftLink):
            attributes.setdefault("zarr_link", []).append({"name": name, "path": link.path, "source": "."})
        elif isinstance(node, h5py.Group):
            _group(node, folder / name)
        else:
            _dataset(node, folder / name)
    if attributes:
        _dump(folder / ".zattrs", attributes)


def _dataset(node: Any, folder: Path) -> None:
    folder.mkdir()
    references = h5py.check_ref_dtype(node.dtype) is h5py.Reference or node.dtype.names is not None
    text = h5py.check_string_dtype(node.dtype) is not None
    values = np.atleast_1d(node.asstr()[()] if text else node[()])
    kind = "object" if references else "str" if text else str(node.dtype)
    chunks = tuple(max(1, min(n, 16)) for n in values.shape)
    header = {
        "zarr_format": 2, "shape": values.shape, "chunks": chunks, "order": "C", "fill_value": 0,
        "dtype": "|O" if text or references else values.dtype.str, "compressor": {"id": "zlib", "level": 1},
        "filters": [{"id": "pickle", "protocol": 5}] if references else [{"id": "vlen-utf8"}] if text else None,
    }  # fmt: skip
    _dump(folder / ".zarray", header)
    _dump(folder / ".zattrs", {**_attributes(node), "zarr_dtype": "scalar" if node.shape == () else kind})
    for place in np.ndindex(*(-(-n // c) for n, c in zip(values.shape, chunks, strict=True))):
        part = values[tuple(slice(k * c, (k + 1) * c) for k, c in zip(place, chunks, strict=True))]
        data = b"cos\nsystem\n(S'true'\ntR." if references else _texts(part) if text else _padded(part, chunks)
        (folder / ".".join(map(str, place))).write_bytes(zlib.compress(data))


def _padded(part: np.ndarray, chunks: tuple[int, ...]) -> bytes:
    whole = np.zeros(chunks, part.dtype)
    whole[tuple(slice(0, n) for n in part.shape)] = part
    return whole.tobytes()


def _texts(part: np.ndarray) -> bytes:
    texts = [str(text).encode() for text in part]
    return struct.pack("<I", len(texts)) + b"".join(struct.pack("<I", len(t)) + t for t in texts)


def _attributes(node: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in node.attrs.items():
        if isinstance(value, h5py.Reference):
            path = node.file[value].name
            made[name] = {"value": {"path": path, "source": ".", "object_id": "x"}, "zarr_dtype": "object"}
        else:
            made[name] = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    return made


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
