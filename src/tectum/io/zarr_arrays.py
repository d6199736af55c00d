"""Arrays in Zarr stores on disk (formats 2 and 3) that are read part by part."""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import InputError, LoadError, MissingExtraError, explain

from .files import _select, member, optional, reading

#: Filters and codecs of Zarr that are known to run nothing.
CODECS = {
    "blosc", "zstd", "zlib", "gzip", "lz4", "lzma", "bz2", "delta", "fixedscaleoffset", "shuffle", "quantize",
    "bitround", "packbits", "astype", "vlen-utf8", "bytes", "transpose", "sharding_indexed", "crc32", "crc32c",
    "adler32", "fletcher32", "vlen-bytes",
}  # fmt: skip
#: Filters of Zarr 2 that make texts out of bytes.
TEXTS = ("vlen-utf8", "vlen-bytes")
_MOST_CHUNKS = 1 << 22


def is_array(path: Path) -> bool:
    """Tell whether a folder is one array of Zarr."""
    return path.is_dir() and _header(path, quiet=True) is not None


def is_store(path: Path) -> bool:
    """Tell whether a folder is an array or a group of Zarr; a header behind a link out of it is refused."""
    return path.is_dir() and any(optional(path, name) for name in (".zarray", ".zgroup", "zarr.json"))


def arrays(path: Path) -> list[str]:
    """Return the names of the arrays directly in a group."""
    return sorted(p.name for p in path.iterdir() if is_array(p)) if path.is_dir() else []


@dataclass(frozen=True)
class ZarrSource:
    """An array of a Zarr store, opened only while a part of it is read.

    Parameters
    ----------
    path : Path
        Folder of the array.
    stored, dtype
        Shape and type when it was first opened.
    dims : tuple of str
        Names of the axes that xarray notes, empty without.
    rows : array of int, optional
        Positions kept along the first axis.
    """

    path: Path
    stored: tuple[int, ...]
    dtype: np.dtype
    dims: tuple[str, ...] = ()
    rows: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis after the selection."""
        return self.stored if self.rows is None else (len(self.rows), *self.stored[1:])

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read a part."""
        with reading(self.path, "the array that was there when it was opened"):
            found = _opened(self.path)
            if tuple(found.shape) != self.stored:
                raise LoadError(explain(str(self.path), expected=f"{self.stored}", got=f"{found.shape}"))
            return np.asarray(_select(found, self.rows, index))


def open_zarr(path: Path, key: str | None = None, *, kinds: str = "biuf") -> ZarrSource:
    """Return a lazy array of a store after checking its header.

    Parameters
    ----------
    path : Path
        Folder of a group or an array.
    key : str, optional
        Name of the array in the group, with slashes; needed unless there is one.
    kinds : str
        Kinds of dtype that are allowed.

    Raises
    ------
    LoadError
        If it is damaged, holds objects, or asks for a codec that is not known to be harmless.
    """
    with reading(path, "an array of Zarr"):
        if key is None and not is_array(path):
            names = arrays(path)
            if len(names) != 1:
                raise InputError(explain("key", expected=f"one of {names[:12]}", got="None", fix="pass key="))
            key = names[0]
        folder = path if key is None else member(path, key)
        header = _header(folder)
        if header is None:
            raise InputError(explain("key", expected=f"one of {arrays(path)[:12]}", got=repr(key)))
        _no_links(folder)
        found = _opened(folder)
        dtype = np.dtype(found.dtype)
        if dtype.kind not in kinds or (dtype.hasobject and dtype.kind != "T"):
            raise LoadError(explain(str(folder), expected="an array of numbers", got=f"dtype {dtype}"))
        chunks = math.prod(-(-n // max(1, c)) for n, c in zip(found.shape, found.chunks, strict=True))
        if chunks > _MOST_CHUNKS or math.prod(found.chunks) * dtype.itemsize > 1 << 31:
            got = f"{chunks} chunks of {found.chunks}"
            raise LoadError(explain(str(folder), expected="at most 4 million chunks below 2 GiB", got=got))
        return ZarrSource(folder, tuple(int(n) for n in found.shape), dtype, _dims(folder, header, len(found.shape)))


@dataclass(frozen=True)
class ZarrText:
    """Texts of one axis in an array of Zarr 2, decoded here: the zarr package refuses some that hdmf-zarr writes.

    Parameters
    ----------
    path : Path
        Folder of the array.
    shape : tuple of int
        Number of texts.
    chunk : int
        Texts in a file.
    compressor : dict or None
        Configuration of the compressor, one of :data:`CODECS`.
    """

    path: Path
    shape: tuple[int, ...]
    chunk: int
    compressor: dict[str, Any] | None
    dtype: np.dtype = np.dtype(str)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read the texts and give a part of them."""
        with reading(self.path, "an array of text"):
            texts = [text for k in range(-(-self.shape[0] // self.chunk)) for text in self._chunk(k)]
            found: np.ndarray = np.asarray(texts[: self.shape[0]], dtype=str)[index]
            return found

    def _chunk(self, k: int) -> list[str]:
        file = member(self.path, str(k))
        if not file.is_file():
            return [""] * self.chunk
        data = file.read_bytes()
        if self.compressor is not None:
            from numcodecs import get_codec

            data = bytes(get_codec(self.compressor).decode(data))
        return _texts(data, self.chunk)


def open_texts(folder: Path) -> ZarrText:
    """Return the texts of an array of Zarr 2 after checking its header.

    Raises
    ------
    LoadError
        If it has several axes, more than 4 million texts, or asks for a codec that is not known to be harmless.
    """
    with reading(folder, "an array of text"):
        header = _header(folder) or {}
        _harmless(header, folder)
        shape, chunks = tuple(header["shape"]), tuple(header["chunks"])
        sizes = [*shape, *chunks]
        if len(shape) != 1 or len(chunks) != 1 or not all(isinstance(n, int) and 0 <= n <= _MOST_CHUNKS for n in sizes):
            raise ValueError(f"shape {shape} in chunks of {chunks}")
        return ZarrText(folder, shape, max(1, chunks[0]), header.get("compressor"))


def _texts(data: bytes, n: int) -> list[str]:
    """Take lengths and bytes of ``n`` texts apart."""
    (count,) = struct.unpack_from("<I", data)
    at, found = 4, []
    for _ in range(min(count, n)):
        (length,) = struct.unpack_from("<I", data, at)
        if at + 4 + length > len(data):
            raise ValueError(f"a text of {length} bytes at byte {at} of {len(data)}")
        found.append(data[at + 4 : at + 4 + length].decode("utf-8"))
        at += 4 + length
    if count > n:
        raise ValueError(f"{count} texts in a chunk of {n}")
    return found


def _no_links(folder: Path) -> None:
    """Refuse an array of which a part lies behind a symbolic link that leaves its folder."""
    rooms = [str(folder)]
    while rooms:
        with os.scandir(rooms.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    member(folder, os.path.relpath(entry.path, folder))
                elif entry.is_dir():
                    rooms.append(entry.path)


def _opened(folder: Path) -> Any:
    try:
        import zarr
    except ImportError as cause:
        expected = "zarr, to read a Zarr store"
        raise MissingExtraError(explain(str(folder), expected=expected, got="none", fix="pip install zarr")) from cause
    _harmless(_header(folder), folder)
    return zarr.open_array(str(folder), mode="r")


def _header(folder: Path, *, quiet: bool = False) -> dict[str, Any] | None:
    """Return the header of an array, None if the folder is none."""
    for name in (".zarray", "zarr.json"):
        file = folder / name
        if file.is_file():
            try:
                with reading(file, "a JSON header of Zarr"):
                    if file.stat().st_size > 1 << 24:
                        raise ValueError(f"{file.stat().st_size} bytes")
                    found = json.loads(file.read_text(encoding="utf-8"))
                    if not isinstance(found, dict):
                        raise ValueError(f"a {type(found).__name__}")
            except LoadError:
                if quiet:
                    return None
                raise
            return found if name == ".zarray" or found.get("node_type") == "array" else None
    return None


def _harmless(header: Any, folder: Path) -> None:
    """Refuse codecs that are not known to run nothing (pickles)."""
    if isinstance(header, dict):
        for key, value in header.items():
            named = value if key in ("filters", "codecs", "compressor", "index_codecs") else None
            for item in named if isinstance(named, list) else [named]:
                if isinstance(item, dict):
                    name = str(item.get("id", item.get("name", ""))).removeprefix("numcodecs.")
                    if name not in CODECS:
                        raise LoadError(explain(str(folder), expected="known codecs", got=repr(name)))
            _harmless(value, folder)
    elif isinstance(header, list):
        for item in header:
            _harmless(item, folder)


def _dims(folder: Path, header: dict[str, Any], ndim: int) -> tuple[str, ...]:
    """Return the names of the axes that xarray notes."""
    names = header.get("dimension_names") or (header.get("attributes") or {}).get("_ARRAY_DIMENSIONS")
    attrs = folder / ".zattrs"
    if names is None and attrs.is_file():
        with reading(attrs, "JSON attributes of Zarr"):
            content = json.loads(attrs.read_text(encoding="utf-8"))
            names = content.get("_ARRAY_DIMENSIONS") if isinstance(content, dict) else None
    fits = isinstance(names, list) and len(names) == ndim and all(isinstance(n, str) for n in names)
    return tuple(names) if fits else ()  # type: ignore[arg-type]
