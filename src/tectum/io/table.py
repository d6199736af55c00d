"""Plain arrays and tables whose meaning the caller states: NPY, NPZ, HDF5, Zarr, MATLAB, CSV, Parquet; no guesses."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.device import from_numpy
from tectum.core.errors import InputError, LoadError, explain
from tectum.core.intervals import Intervals
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording
from tectum.core.spikes import Spikes

from .delimited import numbers, read_table
from .events import Fix, frame_times, make_spikes
from .files import npy_header, open_npy, reading
from .hdf5 import inside, opened, source, whole
from .mat_values import load
from .mat_values import names as variables
from .mat_values import numbers as as_numbers
from .parquet import MAGIC, read_columns
from .signature import is_hdf5, magic
from .zarr_arrays import is_store, open_zarr

LIMIT = 1 << 32  # bytes unpacked from an archive at once


def read_array(
    path: str | Path,
    *,
    dims: Sequence[str],
    key: str | None = None,
    rate: float | None = None,
    t0: float = 0.0,
    times: str | None = None,
    units: str = "a.u.",
    fix: Fix = None,
    modality: str = "",
    subject: str = "",
    session: str = "",
) -> Recording:
    """Read one array of numbers under a schema that the caller gives.

    Parameters
    ----------
    path : path
        ``.npy``, ``.npz``, HDF5, a Zarr store, ``.mat`` (v4 to v7.3), ``.csv`` with a header, or Parquet.
    dims : sequence of str
        Name of each axis as stored (for ``.mat`` as MATLAB shows it; v7.3 files store axes reversed, which is undone).
    key : str, optional
        Name of the array in the file; needed unless the format holds one only. Of a CSV or Parquet table all columns
        but ``times``.
    rate, t0 : float
        Clock in Hz and s.
    times : str, optional
        Name of the array, or column, with the time of each sample in s, instead of a rate.
    units : str, default "a.u."
        Physical unit.
    fix : {None, "sort", "drop"}
        What to do with times that are repeated or step back.
    modality, subject, session : str
        What, who and when.

    Returns
    -------
    Recording
        Lazy for ``.npy``, HDF5 and Zarr.

    Raises
    ------
    LoadError
        If the file is damaged or the array is none of numbers.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.npy"
    >>> np.save(path, np.zeros((5, 2)))
    >>> read_array(path, dims=("time", "unit"), rate=10.0).sizes
    {'time': 5, 'unit': 2}
    """
    path = Path(path)
    with reading(path, "an array of numbers"):
        data, columns = _data(path, key, times)
        if len(data.shape) != len(tuple(dims)):
            raise InputError(
                explain("dims", expected=f"{len(data.shape)} names for {tuple(data.shape)}", got=f"{dims}")
            )
        clock: dict[str, Any] = {"rate": rate, "t0": t0}
        if times is not None:
            found, keep = frame_times(np.asarray(_vector(path, times)), fix=fix, where=times)
            clock = {"times": torch.from_numpy(found.copy())}
            if keep is not None:
                place = tuple(dims).index("time")
                data = data[tuple(keep if k == place else slice(None) for k in range(len(dims)))]
        labels = {dims[1]: {"name": columns}} if columns is not None and len(dims) == 2 else {}
        step = {"step": "read", "format": "array", "file": path.name, "key": key, "dims": list(dims), "fix": fix}
        return Recording(
            data=data,
            dims=tuple(dims),
            coords=labels,
            units=units,
            modality=modality,
            subject=subject,
            session=session,
            history=(step,),
            **clock,
        )


def read_events(
    path: str | Path,
    *,
    time: str,
    unit: str,
    rate: float | None = None,
    support: tuple[float, float] | None = None,
    fix: Fix = None,
    subject: str = "",
    session: str = "",
) -> Spikes:
    """Read spikes from two arrays (or columns of a CSV): the time and the unit of each.

    Parameters
    ----------
    path : path
        As for :func:`read_array`; not ``.npy``.
    time, unit : str
        Names of the arrays. Units may be numbers or, in a CSV or Parquet table, text.
    rate : float, optional
        Given if the times are samples.
    support : (start, stop), optional
        When units were observed, in s.
    fix : {None, "sort", "drop"}
        What to do with times that step back.
    subject, session : str
        Who and when.

    Returns
    -------
    Spikes
        The table of units has ``id``.

    Raises
    ------
    LoadError
        If the file is damaged, or the arrays contradict each other (then also an :class:`InputError`).
    """
    path = Path(path)
    with reading(path, "times and units of spikes"):
        times, labels = np.asarray(_vector(path, time)), np.asarray(_vector(path, unit, text=True))
        if times.shape != labels.shape:
            raise InputError(explain(unit, expected=f"{len(times)} entries as {time}", got=str(len(labels))))
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise InputError(explain("rate", expected="a finite rate above 0 Hz", got=repr(rate)))
        ids, index = np.unique(labels, return_inverse=True)
        step = {"step": "read", "format": "events", "file": path.name, "time": time, "unit": unit, "rate": rate}
        return make_spikes(
            times.astype(np.float64) / (1.0 if rate is None else rate),
            index.reshape(-1),
            n_units=len(ids),
            fix=fix,
            where=f"{path}:{time}",
            support=None if support is None else Intervals.from_pairs([support]),
            units={"id": ids},
            subject=subject,
            session=session,
            history=(step,),
        )


def _data(path: Path, key: str | None, times: str | None) -> tuple[Any, np.ndarray | None]:
    """Return the numbers, lazy where the format allows it, and names of columns of a CSV."""
    kind = _kind(path)
    if kind == "npy":
        return LazyArray(open_npy(path), dtype=_dtype(open_npy(path).dtype)), None
    if kind == "zarr":
        stored = open_zarr(path, key)
        return LazyArray(stored, dtype=_dtype(stored.dtype)), None
    if kind in ("csv", "parquet"):
        columns = read_table(path) if kind == "csv" else read_columns(path)
        names = [name for name in columns if name != times]
        if not names:
            raise LoadError(explain(str(path), expected="columns beside the times", got="none"))
        return torch.from_numpy(
            np.stack([_numeric(columns[n], n) for n in names], axis=1).astype(np.float32)
        ), np.asarray(names)
    if kind == "hdf5":
        with opened(path, check=True) as file:
            node = _named(file, key, [name for name in file if hasattr(file[name], "shape")])
            turned = tuple(reversed(range(len(node.shape)))) if path.suffix.lower() == ".mat" else None
            return LazyArray(source(path, node), order=turned, dtype=_dtype(node.dtype)), None
    found = _array(path, key)
    return from_numpy(found).to(_dtype(found.dtype)), None


def _vector(path: Path, key: str, *, text: bool = False) -> np.ndarray:
    """Return a column as a vector; a matrix of one row or column is one."""
    if _kind(path) in ("csv", "parquet"):
        columns = read_table(path) if _kind(path) == "csv" else read_columns(path)
        if key not in columns:
            raise InputError(explain("column", expected=f"one of {list(columns)}", got=repr(key)))
        values = _parsed(columns[key])
        if values is None and not text:
            raise LoadError(explain(f"{path}:{key}", expected="a column of numbers", got="text"))
        return columns[key] if values is None else values
    found = _array(path, key)
    if found.size != max(found.shape, default=1):
        raise InputError(explain(key, expected="one row or column", got=f"shape {found.shape}"))
    return found.reshape(-1)


def _kind(path: Path) -> str:
    """Tell the format from the first bytes, and a CSV from its name."""
    first = magic(path)
    if is_hdf5(path):
        return "hdf5"
    if first.startswith(b"\x93NUMPY"):
        return "npy"
    if first.startswith(b"PK"):
        return "npz"
    if first.startswith(MAGIC):
        return "parquet"
    if is_store(path):
        return "zarr"
    name = path.suffix.lower()
    if name in (".csv", ".tsv", ".txt", ".mat"):
        return "mat" if name == ".mat" else "csv"
    raise LoadError(
        explain(str(path), expected="NPY, NPZ, HDF5, Zarr, MAT, CSV or Parquet", got=f"first bytes {first!r}")
    )


def _array(path: Path, key: str | None) -> np.ndarray:
    """Read one array at once."""
    kind = _kind(path)
    if kind == "hdf5":
        with opened(path, check=True) as file:
            found = whole(_named(file, key, list(file)), limit=LIMIT)
            found = found.T if path.suffix.lower() == ".mat" else found
    elif kind == "npz":
        found = _from_zip(path, key)
    elif kind == "zarr":
        lazy = open_zarr(path, key)
        if math.prod(lazy.shape) * lazy.dtype.itemsize > LIMIT:
            raise LoadError(explain(f"{path}:{key}", expected=f"at most {LIMIT} bytes", got=f"shape {lazy.shape}"))
        found = lazy[tuple(slice(None) for _ in lazy.shape)]
    elif kind == "mat":
        known = list(variables(path))
        found = as_numbers(load(path, [_named({n: n for n in known}, key, known)]).popitem()[1], f"{path}:{key}")
    else:
        raise LoadError(explain(str(path), expected="a file of named arrays", got=kind))
    if found.dtype.kind not in "biuf":
        raise LoadError(explain(f"{path}:{key}", expected="an array of numbers", got=f"dtype {found.dtype}"))
    return found


def _from_zip(path: Path, key: str | None) -> np.ndarray:
    """Read one array of an NPZ after checking what its header claims; nothing is unpacked to disk."""
    with zipfile.ZipFile(path) as archive:
        names = [name[:-4] for name in archive.namelist() if name.endswith(".npy")]
        entry = archive.getinfo(f"{_named({n: n for n in names}, key, names)}.npy")
        if entry.file_size > min(LIMIT, 1100 * max(path.stat().st_size, 1)):
            raise LoadError(
                explain(f"{path}:{entry.filename}", expected=f"at most {LIMIT} bytes", got=f"{entry.file_size}")
            )
        with archive.open(entry) as stream:
            shape, fortran, dtype = npy_header(stream)  # type: ignore[arg-type]
            content = stream.read(LIMIT)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content):
        got = f"{len(content)} bytes of {dtype}"
        raise LoadError(explain(f"{path}:{entry.filename}", expected=f"{shape} numbers", got=got))
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C").copy()


def _named(content: Any, key: str | None, names: Sequence[str]) -> Any:
    """Return the array of a name, or the only one."""
    if key is None and len(names) == 1:
        key = names[0]
    if key is None or key not in content:
        fix = "pass key=" if key is None else ""
        raise InputError(explain("key", expected=f"one of {list(names)[:12]}", got=repr(key), fix=fix))
    found = inside(content, key) if hasattr(content, "attrs") else content[key]
    if found is None or (hasattr(content, "attrs") and not hasattr(found, "shape")):
        raise InputError(explain("key", expected="an array", got=f"{key!r}, which is none"))
    return found


def _parsed(column: np.ndarray) -> np.ndarray | None:
    """Return a column as numbers, None if it holds text."""
    return numbers(column) if column.dtype.kind == "U" else column


def _numeric(column: np.ndarray, name: str) -> np.ndarray:
    values = _parsed(column)
    if values is None:
        raise LoadError(explain(name, expected="a column of numbers", got="text"))
    return values


def _dtype(dtype: np.dtype) -> torch.dtype:
    """Keep bool and integers that torch has; floats become float32."""
    if dtype.kind == "b":
        return torch.bool
    if dtype.kind in "iu":
        wide = dtype.itemsize * 8 + (dtype.kind == "u")
        return torch.int16 if wide <= 16 else torch.int32 if wide <= 32 else torch.int64
    return torch.float32
