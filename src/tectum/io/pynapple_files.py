"""Pynapple's NPZ files, read without pynapple and without running the pickles in them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.clock import regular_rate
from tectum.core.device import from_numpy
from tectum.core.errors import InputError, LoadError, explain
from tectum.core.intervals import Intervals
from tectum.core.recording import Recording
from tectum.core.session import Session
from tectum.core.spikes import Spikes

from .events import make_spikes
from .files import npy_header, reading
from .pickles import loads
from .signature import magic
from .table import LIMIT

_KINDS = ("Ts", "Tsd", "TsdFrame", "TsdTensor", "TsGroup", "IntervalSet")


def is_pynapple(path: Path) -> bool:
    """Tell whether a file is, or a folder holds, an NPZ with the keys of pynapple."""
    if path.is_dir():
        return any(is_pynapple(p) for p in sorted(path.glob("*.npz"))[:8])
    if magic(path, 2) != b"PK":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return {"start.npy", "end.npy", "type.npy"} <= set(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def read_pynapple(
    path: str | Path,
    *,
    dims: Sequence[str] | None = None,
    units: str = "a.u.",
    subject: str = "",
    session: str = "",
) -> Spikes | Recording | Intervals | Session:
    """Read what pynapple's ``save`` wrote, or a folder of such files.

    Parameters
    ----------
    path : path
        An ``.npz`` file, or a folder of them.
    dims : sequence of str, optional
        Names of the axes of a frame or tensor; default ``("time", "unit")`` for frames.
    units : str, default "a.u."
        Physical unit of the values, which pynapple does not keep.
    subject, session : str
        Who and when.

    Returns
    -------
    Spikes (Ts, TsGroup), Recording (Tsd, TsdFrame, TsdTensor), Intervals (IntervalSet), or Session for a folder

    Raises
    ------
    LoadError
        If the file is damaged, or no file of pynapple.
    """
    path = Path(path)
    with reading(path, "a file of pynapple"):
        who = {"subject": subject, "session": session}
        if path.is_dir():
            files = [p for p in sorted(path.glob("*.npz")) if is_pynapple(p)]
            if not files:
                raise ValueError("no NPZ files of pynapple in the folder")
            parts: dict[str, Any] = {p.stem: read_pynapple(p, units=units, **who) for p in files}
            return Session(items_=parts, meta={"format": "pynapple"}, **who)
        content, left = _content(path)
        kind = str(content["type"].reshape(-1)[0]) if content.get("type", np.zeros(0)).size else ""
        if kind not in _KINDS:
            raise ValueError(f"an object of type {kind!r}")
        step = {"step": "read", "format": "pynapple", "type": kind, "left_out": left}
        return build(kind, content, dims=dims, units=units, step=step, where=str(path), **who)


def build(
    kind: str,
    content: Mapping[str, np.ndarray],
    *,
    dims: Sequence[str] | None,
    units: str,
    step: Mapping[str, Any],
    where: str,
    subject: str = "",
    session: str = "",
) -> Spikes | Recording | Intervals:
    """Build a container from the arrays that pynapple keeps: ``t``, ``d``, ``start``, ``end``, ``index``, ``keys``."""
    who: dict[str, Any] = {"subject": subject, "session": session}
    start, end = (_numbers(content, name) for name in ("start", "end"))
    if start.shape != end.shape or start.ndim != 1:
        raise InputError(explain(f"{where}: end", expected=f"{start.shape} as start", got=f"{end.shape}"))
    extra = {
        k: v for k, v in content.items() if k not in ("start", "end", "t", "d", "type", "index", "keys", "columns")
    }
    if kind == "IntervalSet":
        columns = {k: v for k, v in extra.items() if v.shape == start.shape}
        return Intervals(start=torch.from_numpy(start), stop=torch.from_numpy(end), columns=columns)
    times = _numbers(content, "t")
    support = half_open(start, end, times)
    if kind in ("Ts", "TsGroup"):
        unit, table = _units(kind, content, len(times), extra)
        return make_spikes(
            times, unit, n_units=len(table["id"]), where=where, support=support, units=table, history=(step,), **who
        )
    data = content["d"]
    if data.ndim == 0 or len(data) != len(times) or data.dtype.kind not in "biuf":
        raise InputError(
            explain(f"{where}: d", expected=f"numbers at {len(times)} times", got=f"{data.dtype} {data.shape}")
        )
    names = tuple(dims) if dims is not None else ("time", "unit")[: data.ndim]
    if len(names) != data.ndim:
        fix = "pass dims=, the names of all axes, time first"
        raise InputError(
            explain(f"{where}: dims", expected=f"{data.ndim} names for {data.shape}", got=str(names), fix=fix)
        )
    return Recording(
        data=_values(data),
        dims=names,
        coords=_columns(content, data, names, extra),
        units=units,
        intervals={"support": support},
        history=(step,),
        **_clock(times),
        **who,
    )


def half_open(start: np.ndarray, end: np.ndarray, times: np.ndarray) -> Intervals:
    """Return pynapple's closed intervals as half-open ones that keep a time on their last edge."""
    stop = np.where(np.isin(end, times), np.nextafter(end, np.inf), end)
    return Intervals(start=torch.from_numpy(start.copy()), stop=torch.from_numpy(stop))


def _numbers(content: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    found = content.get(name)
    if found is None or found.dtype.kind not in "iuf" or found.ndim != 1:
        raise ValueError(f"no vector of numbers {name!r}")
    return np.array(found, dtype=np.float64)


def _units(
    kind: str, content: Mapping[str, np.ndarray], n: int, extra: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the unit of each time and the table of units."""
    if kind == "Ts":
        return np.zeros(n, dtype=np.int64), {"id": np.zeros(1, dtype=np.int64)}
    keys, index = content.get("keys"), content.get("index")
    if keys is None or index is None or keys.ndim != 1 or index.shape != (n,) or keys.dtype.kind not in "iuf":
        raise ValueError("no keys of units with the index of each time")
    order = np.argsort(keys, kind="stable")
    place = np.searchsorted(keys[order], index).clip(0, max(len(keys) - 1, 0))
    if n and (len(keys) == 0 or not (keys[order][place] == index).all()):
        raise InputError(explain("index", expected=f"keys among {keys.tolist()[:8]}", got="others"))
    table = {"id": keys.astype(np.int64)} | {
        k: v for k, v in extra.items() if v.shape == keys.shape and v.dtype.kind in "biufU" and k != "id"
    }
    return (order[place] if n else np.zeros(0, dtype=np.int64)), table


def _values(data: np.ndarray) -> Any:
    tensor = from_numpy(np.ascontiguousarray(data))
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


def _columns(
    content: Mapping[str, np.ndarray], data: np.ndarray, names: tuple[str, ...], extra: Mapping[str, np.ndarray]
) -> dict[str, dict[str, np.ndarray]]:
    """Return what is known of the columns of a frame."""
    columns = content.get("columns")
    if data.ndim != 2 or columns is None or columns.shape != (data.shape[1],) or columns.dtype.kind not in "iufU":
        return {}
    label = "name" if columns.dtype.kind == "U" else "id"
    table = {k: v for k, v in extra.items() if v.shape == columns.shape and v.dtype.kind in "biufU"}
    return {names[1]: {**table, label: columns}}


def _clock(times: np.ndarray) -> dict[str, Any]:
    """Return a rate where the times are regular to the 1e-9 s that pynapple keeps, else the times."""
    stamps = torch.from_numpy(times.copy())
    rate = regular_rate(stamps, tolerance=1e-3) if len(times) > 2 else None
    if rate is not None:
        rate = float(round(rate)) if abs(rate - round(rate)) < 1e-6 * rate and round(rate) else rate
        grid = times[0] + np.arange(len(times)) / rate
        if np.abs(grid - times).max() < 1e-9 + 2 * np.spacing(abs(times).max()):
            return {"rate": rate, "t0": float(times[0])}
    return {"times": stamps}


def _content(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read all arrays of an archive; the metadata, a pickle, by an unpickler that admits arrays only."""
    found: dict[str, np.ndarray] = {}
    left: list[str] = []
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > min(LIMIT, 1100 * max(path.stat().st_size, 1)):
            raise LoadError(explain(str(path), expected=f"at most {LIMIT} bytes", got="more, when unpacked"))
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            with archive.open(entry) as stream:
                shape, fortran, dtype = npy_header(stream)  # type: ignore[arg-type]
                body = stream.read()
            if not dtype.hasobject:
                if int(np.prod(shape, dtype=object)) * dtype.itemsize != len(body):
                    raise ValueError(f"{len(body)} bytes for {shape} {dtype} in {entry.filename}")
                found[name] = np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C").copy()
                continue
            for key, value in _metadata(name, body).items():
                if key in found or not isinstance(value, np.ndarray) or value.dtype.kind not in "biufU":
                    left.append(str(key))
                else:
                    found[str(key)] = value
    return found, left


def _metadata(name: str, body: bytes) -> dict[str, Any]:
    """Return the columns of a pickled dictionary, or the column that an array of objects is."""
    value = loads(body)
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value.item()
    if isinstance(value, dict):
        return {str(k): _column(v) for k, v in value.items()}
    return {name: _column(value)}


def _column(value: Any) -> Any:
    """Return a list or array of texts as an array of text."""
    items = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(items, list) and items and all(isinstance(item, str) for item in items):
        return np.asarray(items, dtype=str)
    return value
