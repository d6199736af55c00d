"""Parts of HDF5 files that stay on disk, and tables in them; no file stays open.

What reads groups, tables and attributes takes the nodes of a Zarr tree (:mod:`tectum.io.zarr_tree`) too.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tectum.core.errors import LoadError, explain

from .files import MOST_SHRUNK, _select, reading
from .zarr_arrays import ZarrSource
from .zarr_tree import Dataset, Group

HEAP = b"GCOL\x01\x00\x00\x00"
SCANNED = 1 << 27  # bytes at either end of a file that are searched for damaged heaps
PIECE = 1 << 23  # bytes of a file in memory while it is searched
EAGER = 1 << 29  # bytes; what is read at once is smaller than this unless the caller says otherwise


@dataclass(frozen=True)
class H5Source:
    """A dataset of an HDF5 file, opened only while a part of it is read.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        Path of the dataset inside it.
    stored, dtype
        Shape and type when the file was first opened.
    rows : array of int, optional
        Positions kept along the first axis, increasing.
    """

    path: Path
    name: str
    stored: tuple[int, ...]
    dtype: np.dtype
    rows: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis after the selection."""
        return self.stored if self.rows is None else (len(self.rows), *self.stored[1:])

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read a part."""
        with opened(self.path) as file:
            dataset = file[self.name]
            if dataset.shape != self.stored:
                raise LoadError(explain(f"{self.path}:{self.name}", expected=f"{self.stored}", got=f"{dataset.shape}"))
            return np.asarray(_select(dataset, self.rows, index))


@contextmanager
def opened(path: Path, what: str = "an HDF5 file", *, check: bool = False) -> Iterator[Any]:
    """Open a file for reading; whatever fails inside becomes a :class:`LoadError` with the path.

    With ``check`` the heaps that hold its texts are walked first, because the HDF5 library loops for ever on some
    damaged ones.
    """
    import h5py

    with reading(path, what):
        if check:
            _check_heaps(path)
        with h5py.File(path, "r") as file:
            yield file


def _check_heaps(path: Path) -> None:
    """Walk every global heap at the head and the tail of a file as the library would, and refuse what has no end.

    The file is read in pieces: a map of it would count as memory of the process.
    """
    size = 0 if path.is_dir() else path.stat().st_size
    if size == 0:
        return
    with open(path, "rb") as stream:
        for first, last in [(0, size)] if size <= 2 * SCANNED else [(0, SCANNED), (size - SCANNED, size)]:
            for start in range(first, last, PIECE):
                stream.seek(start)
                block = stream.read(min(PIECE, last - start) + len(HEAP) - 1)
                place = block.find(HEAP)
                while place >= 0:
                    _walk_heap(stream, size, start + place)
                    place = block.find(HEAP, place + len(HEAP))


def _walk_heap(stream: BinaryIO, size: int, place: int) -> None:
    """Go from object to object of the heap at a byte of the file."""
    stream.seek(place + 8)
    head = stream.read(8)
    (length,) = struct.unpack("<Q", head) if len(head) == 8 else (0,)
    stop, at = place + length, place + 16
    if not 16 < length <= size - place:
        raise ValueError(f"a damaged heap at byte {place}: it claims {length} bytes")
    while stop - at >= 16:
        stream.seek(at)
        head = stream.read(16)
        if len(head) < 16:
            raise ValueError(f"a damaged heap at byte {place}: it ends at {at}")
        index, _, _, claimed = struct.unpack("<HHIQ", head)
        step = claimed if index == 0 else 16 + (claimed + 7) // 8 * 8
        if step < 16 or step > stop - at:
            raise ValueError(f"a damaged heap at byte {place}: its object at {at} claims {claimed} bytes")
        at += step


def source(path: Path, dataset: Any, *, rows: np.ndarray | None = None) -> H5Source | ZarrSource:
    """Return a lazy array over a dataset of numbers after checking that it can be in the file."""
    name = str(dataset.name)
    if isinstance(dataset, Dataset):
        return replace(dataset.source(), rows=rows)
    if dataset.dtype.kind not in "biuf":
        raise LoadError(explain(f"{path}:{name}", expected="an array of numbers", got=f"dtype {dataset.dtype}"))
    return H5Source(Path(path), name, tuple(dataset.shape), dataset.dtype, rows)


def whole(dataset: Any, *, limit: int = EAGER) -> np.ndarray:
    """Read a dataset at once; text becomes ``str``.

    Raises
    ------
    LoadError
        If the dataset claims more numbers than the file can hold, or more than ``limit`` bytes.
    """
    if isinstance(dataset, Dataset):
        return dataset.whole(limit)
    claimed = math.prod(dataset.shape) * max(dataset.dtype.itemsize, 1)
    size = dataset.file.id.get_filesize()
    if claimed > min(limit, MOST_SHRUNK * size):
        expected = f"at most {min(limit, MOST_SHRUNK * size)} bytes"
        raise LoadError(explain(f"{dataset.file.filename}:{dataset.name}", expected=expected, got=f"{claimed} bytes"))
    import h5py

    if h5py.check_string_dtype(dataset.dtype):
        found = dataset.asstr()[()]
        return np.asarray(found, dtype=str) if np.ndim(found) else np.asarray(str(found))
    return np.asarray(dataset[()])


def text(node: Any, name: str, default: str = "") -> str:
    """Return a text dataset of a group, or the default."""
    value = node.get(name) if hasattr(node, "get") else None
    if value is None or not hasattr(value, "shape") or value.shape not in ((), (1,)):
        return default
    found = value[()]
    found = found[0] if np.ndim(found) else found
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """Return an attribute as a plain Python value."""
    if name not in node.attrs:
        return default
    value = node.attrs[name]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.item() if isinstance(value, np.generic) else value


def inside(group: Any, name: str) -> Any:
    """Return a member of a group, None if missing; links to other files must stay in the folder of the file.

    Raises
    ------
    LoadError
        If the member is a link that leaves the folder.
    """
    if isinstance(group, Group):
        return group.get(name)
    import h5py

    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        home = Path(group.file.filename).resolve().parent
        target = (home / link.filename).resolve()
        if not target.is_relative_to(home):
            got = f"a link to {target}"
            where = f"{group.file.filename}:{group.name}/{name}"
            raise LoadError(explain(where, expected=f"data inside {home}", got=got))
    return group.get(name)


def walk(group: Any, visit: Callable[[str, Any], bool], *, depth: int = 8) -> None:
    """Call ``visit(path, node)`` for every group below; it tells whether to go on inside. Links are not followed."""
    import h5py

    for name in group:
        if isinstance(group, h5py.Group) and not isinstance(group.get(name, getlink=True), h5py.HardLink):
            continue
        node = group.get(name)
        if isinstance(node, (h5py.Group, Group)) and visit(node.name.strip("/"), node) and depth > 0:
            walk(node, visit, depth=depth - 1)


def table(group: Any, *, skip: tuple[str, ...] = ()) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read a DynamicTable: columns with one value a row, and the names of those left out.

    Columns of references become the names of what they refer to.
    """
    length = _length(group)
    columns: dict[str, np.ndarray] = {}
    left: list[str] = []
    for name in _column_names(group):
        node = inside(group, name)
        if name in skip or node is None or not hasattr(node, "shape"):
            continue
        column = _column(node) if node.shape == (length,) and f"{name}_index" not in group else None
        if column is None:
            left.append(name)
        else:
            columns[name] = column
    return columns, left


def _length(group: Any) -> int | None:
    node = group.get("id")
    return node.shape[0] if node is not None and len(node.shape) == 1 else None


def _column_names(group: Any) -> list[str]:
    listed = [str(n.decode() if isinstance(n, bytes) else n) for n in np.atleast_1d(group.attrs.get("colnames", []))]
    found = [n for n in group if not n.endswith("_index")]
    return [
        "id",
        *[n for n in listed if n in found and n != "id"],
        *[n for n in found if n not in listed and n != "id"],
    ]


def _column(node: Any) -> np.ndarray | None:
    """Return one value a row as numbers or text, None for what is neither."""
    import h5py

    if isinstance(node, Dataset):
        return node.whole(EAGER) if node.dtype.kind in "biufTU" else None
    if h5py.check_ref_dtype(node.dtype) is h5py.Reference:
        return np.asarray([_name_of(node.file, ref) for ref in node[()]], dtype=str)
    if h5py.check_string_dtype(node.dtype) or node.dtype.kind in "biuf":
        return whole(node)
    return None


def _name_of(file: Any, reference: Any) -> str:
    target = file[reference] if reference else None
    return "" if target is None or target.name is None else str(target.name).rsplit("/", 1)[-1]


def ragged(group: Any, name: str) -> list[np.ndarray] | None:
    """Return the pieces of a ragged column (values and cumulative ends), None if the table lacks it."""
    values, ends = inside(group, name), inside(group, f"{name}_index")
    if values is None or ends is None:
        return None
    bounds = csr_ends(whole(ends), values.shape[0], f"{group.name}/{name}_index")
    return np.split(whole(values), bounds[:-1]) if len(bounds) else []


def csr_ends(ends: np.ndarray, total: int, where: str) -> np.ndarray:
    """Return cumulative ends as int64 (they may be stored as uint8) after checking that they grow up to ``total``.

    Examples
    --------
    >>> csr_ends(np.array([200, 200, 255], np.uint8), 255, "units").tolist()
    [200, 200, 255]
    """
    bounds = np.asarray(ends).astype(np.int64)
    grows = bounds.ndim == 1 and bool((np.diff(bounds, prepend=0) >= 0).all())
    last = int(bounds[-1]) if bounds.ndim == 1 and len(bounds) else 0
    if not grows or last != total:
        raise LoadError(explain(where, expected=f"cumulative ends up to {total}", got=f"the last is {last}"))
    return bounds


def jsonable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep what JSON can hold."""
    return {k: v for k, v in values.items() if isinstance(v, (str, int, float, bool)) and v == v}
