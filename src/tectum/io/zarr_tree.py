"""A Zarr store as a tree of groups and datasets that are asked like those of HDF5: what NWB needs, and no more.

The layout is hdmf-zarr's: scalars are arrays of one marked ``zarr_dtype``, links and references are JSON in attributes.
Links and references to other stores are not followed, and arrays of pickled objects are not read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import LoadError, explain

from .files import member, reading
from .zarr_arrays import TEXTS, ZarrSource, ZarrText, is_array, is_store, open_texts, open_zarr

_LARGEST = 1 << 24  # bytes of JSON that are read
_PICKLED = {"pickle", "json2", "msgpack2"}
_DEPTH = 16  # links that are followed one after the other


class Reference(str):
    """The path of a node of the same store, as an attribute or a link states it."""


class Node:
    """A group or dataset: its folder and its name from the root; each is made once for a store."""

    def __init__(self, store: Path, name: str, known: dict[str, Node]) -> None:
        self.store, self.name, self.known = store, name, known
        known[name] = self
        self.folder = member(store, name.strip("/")) if name != "/" else store

    @property
    def filename(self) -> str:
        """Folder of the store."""
        return str(self.store)

    @property
    def file(self) -> Group:
        """Root of the store."""
        return self._group("/")

    @property
    def parent(self) -> Group:
        """The group that it is in; the root is in itself."""
        return self._group(self.name.rpartition("/")[0] or "/")

    def _group(self, name: str) -> Group:
        found = self.known.get(name)
        return found if isinstance(found, Group) else Group(self.store, name, self.known)

    @cached_property
    def attrs(self) -> dict[str, Any]:
        """Attributes; references as :class:`Reference`."""
        return {name: _reference(value) for name, value in _attributes(self.folder).items()}


class Group(Node):
    """A group of a Zarr store."""

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(p.name for p in self.folder.iterdir() if is_store(p)))

    def keys(self) -> list[str]:
        """Return the names of its members, without links."""
        return list(self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __getitem__(self, name: str) -> Any:
        node = self.get(name)
        if node is None:
            raise KeyError(f"{self.name.rstrip('/')}/{name}")
        return node

    def get(self, name: str, default: Any = None) -> Any:
        """Return the member at a path, links followed inside the store; the default if there is none."""
        node: Node | None = self.file if name.startswith("/") else self
        for piece in (p for p in name.split("/") if p):
            node = node._member(piece, _DEPTH) if isinstance(node, Group) else None
        return default if node is None else node

    def _member(self, piece: str, depth: int) -> Node | None:
        if piece in (".", "..") or "\\" in piece:
            return None
        name = f"{self.name.rstrip('/')}/{piece}"
        if name in self.known:
            return self.known[name]
        folder = member(self.store, name.strip("/"))
        if is_store(folder):
            return (Dataset if is_array(folder) else Group)(self.store, name, self.known)
        return self._linked(piece, depth)

    def _linked(self, piece: str, depth: int) -> Node | None:
        links = self.attrs.get("zarr_link")
        for link in links if isinstance(links, list) else []:
            if isinstance(link, dict) and link.get("name") == piece and link.get("source") == "." and depth > 0:
                node: Node | None = self.file
                for part in (p for p in str(link.get("path", "")).split("/") if p):
                    node = node._member(part, depth - 1) if isinstance(node, Group) else None
                return node
        return None


class Dataset(Node):
    """An array of a Zarr store."""

    @cached_property
    def _filter(self) -> str:
        """The filter of Zarr 2 that makes numbers, texts or pickles out of bytes; "" for numbers and Zarr 3."""
        found = _json(self.folder / ".zarray").get("filters")
        named = [str(f.get("id")) for f in found if isinstance(f, dict)] if isinstance(found, list) else []
        return next((name for name in named if name in _PICKLED or name in TEXTS), "")

    @cached_property
    def _source(self) -> ZarrSource | ZarrText | None:
        """The array on disk, None if it holds pickled objects."""
        if self._filter in TEXTS:
            return open_texts(self.folder)
        return None if self._filter else open_zarr(self.folder, kinds="biufTUS")

    @property
    def _scalar(self) -> bool:
        return self._source is not None and self.attrs.get("zarr_dtype") == "scalar" and self._source.shape == (1,)

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis; none of a scalar."""
        return () if self._scalar or self._source is None else self._source.shape

    @property
    def dtype(self) -> np.dtype:
        """Type of the stored numbers or texts ("T" or "U")."""
        return np.dtype(object) if self._source is None else self._source.dtype

    def source(self) -> ZarrSource:
        """Return the array of numbers as it stays on disk."""
        if not isinstance(self._source, ZarrSource) or self.dtype.kind not in "biuf":
            expected = "an array of numbers"
            raise LoadError(explain(f"{self.store}:{self.name}", expected=expected, got=f"dtype {self.dtype}"))
        return self._source

    def whole(self, limit: int) -> np.ndarray:
        """Read everything, up to ``limit`` bytes; text becomes ``str``."""
        claimed = math.prod(self.shape) * max(1, self.dtype.itemsize)
        if claimed > limit or self._source is None:
            where, got = f"{self.store}:{self.name}", f"{claimed} bytes of {self.dtype}"
            raise LoadError(explain(where, expected=f"at most {limit} bytes of numbers or text", got=got))
        found = self._source[()]
        found = found if self.dtype.kind in "biuf" else np.asarray(found.tolist(), dtype=str)
        return found.reshape(self.shape)

    def __getitem__(self, index: Any) -> Any:
        """Read a scalar, or a part of an array."""
        if not self._scalar:
            return self.source()[index]
        value = self.whole(_LARGEST)[()]
        return str(value) if self.dtype.kind not in "biuf" else value


@contextmanager
def opened(path: Path, what: str) -> Iterator[Group]:
    """Give the root of a store; whatever fails inside becomes a :class:`LoadError` with the path."""
    with reading(path, what):
        yield Group(path, "/", {})


def is_tree(path: Path, *, attribute: str = "") -> bool:
    """Tell whether a folder is a group of Zarr, with the attribute asked for."""
    if not is_store(path) or is_array(path):
        return False
    try:
        return not attribute or attribute in _attributes(path)
    except LoadError as cause:
        if isinstance(cause.__cause__, PermissionError):
            raise  # a store whose format may not be known
        return False


def _attributes(folder: Path) -> dict[str, Any]:
    """Return the attributes of a node of either format."""
    if (folder / "zarr.json").is_file():
        found = _json(folder / "zarr.json").get("attributes")
        return found if isinstance(found, dict) else {}
    return _json(folder / ".zattrs")


def _json(path: Path) -> dict[str, Any]:
    """Read an object of JSON, empty if there is no such file."""
    if not path.is_file():
        return {}
    with reading(path, "JSON of Zarr"):
        member(path.parent, path.name)
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"{path.stat().st_size} bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
        return found


def _reference(value: Any) -> Any:
    """Return the path of a reference inside the store; other values stay, and references to elsewhere become None."""
    if not (isinstance(value, dict) and value.get("zarr_dtype") == "object" and isinstance(value.get("value"), dict)):
        return value
    target = value["value"]
    return Reference(target.get("path", "")) if target.get("source") == "." else None
