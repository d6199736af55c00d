"""What the readers share: errors that name file and cause, paths that stay inside, arrays that stay on disk."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from tectum.core.errors import AxisError, InputError, LoadError, MissingExtraError, TectumWarning, explain

#: Deflate, the strongest common filter of HDF5, shrinks at most 1032-fold; what claims more is damaged.
MOST_SHRUNK = 1100
_FORMAT: Any = np.lib.format


class ContentError(LoadError, InputError):
    """A file can be read, but what it holds is contradictory or incomplete."""


class AmbiguousAxisError(AxisError, LoadError):
    """Nothing in the file tells which axis is which."""


class UnsafePickleError(LoadError, pickle.UnpicklingError):
    """A pickle asks for a class or function that is not on the list of harmless ones."""


@contextmanager
def reading(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turn whatever goes wrong inside the block into a :class:`LoadError` that names the file and the cause.

    Examples
    --------
    >>> with reading("a.nwb", "an NWB file"):
    ...     raise KeyError("data")
    Traceback (most recent call last):
    tectum.core.errors.LoadError: a.nwb: expected an NWB file, got KeyError: 'data'
    """
    try:
        yield
    except (MissingExtraError, TectumWarning):
        raise
    except LoadError as cause:
        if str(path) in str(cause):
            raise
        raise type(cause)(f"{path}: {cause}") from cause
    except InputError as cause:
        raise ContentError(str(cause) if str(path) in str(cause) else f"{path}: {cause}") from cause
    except Exception as cause:
        got = f"{type(cause).__name__}: {cause}"
        raise LoadError(explain(str(path), expected=what, got=got)) from cause


def member(folder: Path, name: str) -> Path:
    """Return the path of a file of a folder, refusing one that leaves the folder through ``..`` or a link."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        got = f"a path that leads to {path.resolve()}"
        raise LoadError(explain(str(path), expected=f"a file inside {folder}", got=got, fix="copy the file into it"))
    return path


def required(folder: Path, name: str, provides: str) -> Path:
    """Return the path of a file that a folder must have."""
    path = member(folder, name)
    if not path.is_file():
        raise LoadError(explain(str(path), expected=f"an existing file: it provides {provides}", got="none there"))
    return path


def optional(folder: Path, name: str) -> Path | None:
    """Return the path of a file if the folder has it."""
    path = member(folder, name)
    return path if path.is_file() else None


@dataclass(frozen=True)
class NpySource:
    """An array in a ``.npy`` file, opened only while a part of it is read; ``rows`` selects along the first axis.

    Parameters
    ----------
    path : Path
        The file.
    offset : int
        Where its numbers begin, in bytes.
    stored, dtype, fortran
        Shape, type and order of the numbers in the file.
    rows : array of int, optional
        Positions kept along the first axis.
    """

    path: Path
    offset: int
    stored: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    rows: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis after the selection."""
        return self.stored if self.rows is None else (len(self.rows), *self.stored[1:])

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read a part."""
        with reading(self.path, "the array that was there when it was opened"):
            return _select(self._map(), self.rows, index)

    def _map(self) -> np.ndarray:
        order: Literal["F", "C"] = "F" if self.fortran else "C"
        if math.prod(self.stored) == 0:
            return np.empty(self.stored, self.dtype)
        mapped: np.ndarray = np.memmap(self.path, self.dtype, "r", self.offset, self.stored, order)
        return mapped


@dataclass(frozen=True)
class Scaled:
    """A lazy array whose entries along one axis are multiplied by factors of their own (NWB's channel conversion).

    Parameters
    ----------
    source : array-like
        What is read.
    factors : array of float, shape (n,)
        One for each entry of the axis.
    axis : int, default 1
        Which axis.
    """

    source: Any
    factors: np.ndarray
    axis: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis."""
        return tuple(self.source.shape)

    @property
    def dtype(self) -> np.dtype:
        """Type of the numbers when read."""
        return np.result_type(self.source.dtype, self.factors.dtype)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read a part; every axis is indexed by a slice."""
        found = self.source[index]
        parts = index if isinstance(index, tuple) else (index,)
        part = parts[self.axis] if len(parts) > self.axis else slice(None)
        shape = [1] * found.ndim
        shape[self.axis] = -1
        made: np.ndarray = found * self.factors[part].reshape(shape)
        return made


def _select(array: Any, rows: np.ndarray | None, index: Any) -> np.ndarray:
    """Apply outer indexing to an array of which only some rows are seen."""
    if rows is None:
        return np.array(array[index])
    parts = index if isinstance(index, tuple) else (index,)
    chosen = rows[parts[0]]
    if np.ndim(chosen) == 0 or len(chosen) == 0:
        return np.array(array[(chosen, *parts[1:])])
    first, last = int(chosen.min()), int(chosen.max())
    return np.array(array[(slice(first, last + 1), *parts[1:])][chosen - first])


def open_npy(path: Path, *, kinds: str = "biuf", ndim: int | None = None) -> NpySource:
    """Check the header of a ``.npy`` file against its size and return a lazy array.

    Raises
    ------
    LoadError
        If it is damaged, or holds objects or numbers of another kind or rank.
    """
    with reading(path, "a NumPy array file"), open(path, "rb") as stream:
        shape, fortran, dtype = npy_header(stream)
        offset, size = stream.tell(), os.fstat(stream.fileno()).st_size
        if dtype.hasobject or (dtype.kind not in kinds and dtype.names is None) or (dtype.names and "V" not in kinds):
            raise LoadError(explain(str(path), expected="an array of numbers", got=f"dtype {dtype}"))
        if math.prod(shape) * dtype.itemsize != size - offset:
            expected = f"{math.prod(shape) * dtype.itemsize} bytes for {shape} {dtype}"
            raise LoadError(explain(str(path), expected=expected, got=f"{size - offset} bytes", fix="copy it anew"))
    if ndim is not None and len(shape) != ndim:
        raise LoadError(explain(str(path), expected=f"{ndim} axes", got=f"shape {shape}"))
    return NpySource(Path(path), offset, shape, dtype, fortran)


def load_npy(path: Path, *, kinds: str = "biuf", ndim: int | None = None) -> np.ndarray:
    """Read a whole ``.npy`` file of numbers."""
    return open_npy(path, kinds=kinds, ndim=ndim)[()]


def npy_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read magic and header of a ``.npy`` stream: shape, whether in Fortran order, dtype."""
    version = _FORMAT.read_magic(stream)
    known = {(1, 0): _FORMAT.read_array_header_1_0, (2, 0): _FORMAT.read_array_header_2_0}
    if version not in known:
        raise ValueError(f"version {version} of the format")
    shape, fortran, dtype = known[version](stream)
    if any(n < 0 for n in shape):
        raise ValueError(f"shape {shape}")
    return tuple(shape), bool(fortran), dtype


def column_vector(path: Path, *, kinds: str = "biuf") -> np.ndarray:
    """Read a vector stored as (n,), (n, 1) or (1, n)."""
    values = load_npy(path, kinds=kinds)
    if values.ndim > 2 or (values.ndim == 2 and 1 not in values.shape and values.size):
        raise LoadError(explain(str(path), expected="one column", got=f"shape {values.shape}"))
    return values.reshape(-1)
