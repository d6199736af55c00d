"""Files of temporaldata (torch-brain, brainsets): nested groups of series, intervals and tables in HDF5."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.errors import InputError, LoadError, explain
from tectum.core.intervals import Intervals
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording
from tectum.core.session import Session
from tectum.core.spikes import Spikes
from tectum.core.units import check_units

from .events import Fix, check_fix, frame_times, make_spikes, rate_of
from .files import reading
from .hdf5 import attribute, inside, jsonable, opened, source, whole

_KINDS = ("Data", "IrregularTimeSeries", "RegularTimeSeries", "Interval", "ArrayDict")
_KEPT = ("domain", "timestamp_indices_1s")
_UNIT = "unit_index"


def is_temporaldata(file: Any) -> bool:
    """Tell whether an open HDF5 file says that it holds an object of temporaldata."""
    return attribute(file, "object") in _KINDS


@dataclass
class _Found:
    """What a walk through the file has met."""

    path: Path
    fix: Fix
    units: str
    who: dict[str, Any]
    parts: dict[str, Any] = field(default_factory=dict)
    tables: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)


def read_temporaldata(path: str | Path, *, units: str = "a.u.", fix: Fix = None) -> Session:
    """Read what ``Data.to_hdf5`` of temporaldata wrote.

    Parameters
    ----------
    path : path
        The HDF5 file.
    units : str, default "a.u."
        Physical unit of the values, which the file does not tell.
    fix : {None, "sort", "drop"}
        What to do with times that are NaN, repeated or step back.

    Returns
    -------
    Session
        A series with ``unit_index`` as :class:`Spikes` with the table of units beside it; each field of the other
        series as a lazy :class:`Recording` called ``<path>/<field>``; intervals as :class:`Intervals` (columns with one
        value a row). Domains become supports. ``meta`` holds the texts and numbers, ``meta["skipped"]`` what else was
        there, with the reason.

    Raises
    ------
    LoadError
        If the file is damaged or of another kind, or arrays contradict each other (then also an :class:`InputError`).
    """
    check_fix(fix)
    check_units(units, "read_temporaldata(units)")
    path = Path(path)
    with opened(path, "a file of temporaldata", check=True) as file:
        if not is_temporaldata(file):
            got = repr(attribute(file, "object"))
            raise LoadError(explain(str(path), expected=f"an object of {', '.join(_KINDS)}", got=got))
        who = {k: str(attribute(file[k], "id", "")) if k in file else "" for k in ("subject", "session")}
        found = _Found(path, fix, units, who)
        with reading(path, "a file of temporaldata"):
            _tables(file, "", found)
            _visit(file, "", found, 0)
    meta = {"format": "temporaldata", **found.meta, "skipped": found.skipped}
    return Session(items_=found.parts, meta=meta, **who)


def _members(group: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield name, node and kind of each group below."""
    for name in group:
        node = inside(group, name)
        if node is not None and hasattr(node, "keys") and name not in _KEPT:
            yield name, node, str(attribute(node, "object", ""))


def _tables(group: Any, prefix: str, found: _Found) -> None:
    """Collect the tables first: a series finds its units in them."""
    for name, node, kind in _members(group):
        if kind == "ArrayDict":
            found.tables[prefix + name] = _columns(node)
        elif kind == "Data" and prefix.count("/") < 8:
            _tables(node, f"{prefix}{name}/", found)


def _visit(group: Any, prefix: str, found: _Found, depth: int) -> None:
    kind = str(attribute(group, "object", ""))
    if kind != "Data":
        _one(prefix.rstrip("/") or kind.lower(), group, kind, found)
        return
    texts = {k: attribute(group, k) for k in group.attrs if k not in ("object", "absolute_start")}
    found.meta |= {f"{prefix}{k}": v for k, v in jsonable(texts).items()}
    for name, node, inner in _members(group):
        if inner == "Data" and depth < 8:
            _visit(node, f"{prefix}{name}/", found, depth + 1)
        else:
            _one(prefix + name, node, inner, found)


def _one(name: str, node: Any, kind: str, found: _Found) -> None:
    """Add one series, table or set of intervals."""
    if kind == "Interval":
        found.parts[name] = _intervals(name, node)
    elif kind == "IrregularTimeSeries":
        _irregular(name, node, found)
    elif kind == "RegularTimeSeries":
        _regular(name, node, found)
    elif kind == "ArrayDict":
        found.skipped[name] = "a table beside the series" if not name.endswith("units") else "the table of units"
    else:
        found.skipped[name] = f"a group of kind {kind!r}"


def _text(node: Any, group: Any, name: str) -> np.ndarray:
    """Read a column; bytes that were text become text."""
    column = whole(node)
    if column.dtype.kind == "S":
        return np.char.decode(column, "utf-8", "replace")
    return column


def _columns(group: Any) -> dict[str, np.ndarray]:
    """Read the columns with one number or text a row."""
    nodes = {n: inside(group, n) for n in group if n not in _KEPT}
    flat = {n: node for n, node in nodes.items() if node is not None and len(getattr(node, "shape", ())) == 1}
    read = {n: _text(node, group, n) for n, node in flat.items() if node.dtype.kind in "biufSO"}
    return {n: column for n, column in read.items() if column.dtype.kind in "biufU"}


def _bounds(group: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    start, end = (inside(group, name) for name in ("start", "end"))
    if start is None or end is None or start.shape != end.shape or len(start.shape) != 1:
        raise InputError(explain(where, expected="start and end of one length", got="others"))
    return tuple(np.asarray(whole(x), dtype=np.float64) for x in (start, end))  # type: ignore[return-value]


def _intervals(name: str, group: Any) -> Intervals:
    start, end = _bounds(group, name)
    columns = {k: v for k, v in _columns(group).items() if k not in ("start", "end") and len(v) == len(start)}
    return Intervals(start=torch.from_numpy(start), stop=torch.from_numpy(end), columns=columns)


def _domain(group: Any, name: str, last: float | None) -> Intervals | None:
    """Return the domain as the support; temporaldata closes it, so a time on its end is kept."""
    node = inside(group, "domain")
    if node is None:
        return None
    start, end = _bounds(node, f"{name}/domain")
    stop = np.where(end == last, np.nextafter(end, np.inf), end) if last is not None else end
    return Intervals(start=torch.from_numpy(start), stop=torch.from_numpy(stop))


def _irregular(name: str, group: Any, found: _Found) -> None:
    node = inside(group, "timestamps")
    if node is None or len(node.shape) != 1 or node.dtype.kind not in "iuf":
        raise InputError(explain(name, expected="timestamps", got="none"))
    times = whole(node, limit=1 << 33).astype(np.float64)
    where = f"{found.path}:{name}/timestamps"
    support = _domain(group, name, float(times.max()) if len(times) else None)
    step = {"step": "read", "format": "temporaldata", "series": name}
    if _UNIT in group:
        found.parts[name] = _spikes(name, group, times, support, found, step)
        return
    kept, keep = frame_times(times, fix=found.fix, where=where)
    for field_ in group:
        data = inside(group, field_)
        if field_ in (*_KEPT, "timestamps") or data is None or not hasattr(data, "shape"):
            continue
        clock = {"times": torch.from_numpy(kept.copy()), "intervals": {} if support is None else {"support": support}}
        _field(f"{name}/{field_}", data, len(times), clock, keep, found, step)


def _spikes(
    name: str, group: Any, times: np.ndarray, support: Intervals | None, found: _Found, step: dict[str, Any]
) -> Spikes:
    """Build spikes; the table of units lies beside them."""
    unit = whole(group[_UNIT])
    if unit.shape != times.shape or unit.dtype.kind not in "iu":
        raise InputError(
            explain(f"{name}/{_UNIT}", expected=f"{len(times)} integers", got=f"{unit.dtype} {unit.shape}")
        )
    room = name.rpartition("/")[0]
    table = found.tables.get(f"{room}/units" if room else "units", {})
    lengths = {len(column) for column in table.values()}
    top = int(unit.max(initial=-1)) + 1
    n_units = max(lengths, default=top)
    if len(lengths) > 1 or n_units < top or top > 1 << 24:
        raise InputError(explain(f"{name}/{_UNIT}", expected=f"units below {n_units}", got=str(top - 1)))
    return make_spikes(
        times,
        unit.astype(np.int64),
        n_units=n_units,
        fix=found.fix,
        where=f"{found.path}:{name}/timestamps",
        support=support,
        units=table,
        history=(step,),
        **found.who,
    )


def _regular(name: str, group: Any, found: _Found) -> None:
    rate, _ = rate_of(attribute(group, "sampling_rate"), None, f"{found.path}:{name}", "sampling_rate")
    support = _domain(group, name, None)
    t0 = float(support.start[0]) if support is not None and len(support) else 0.0
    step = {"step": "read", "format": "temporaldata", "series": name}
    for field_ in group:
        data = inside(group, field_)
        if field_ not in _KEPT and data is not None and hasattr(data, "shape"):
            clock = {"rate": rate, "t0": t0, "intervals": {} if support is None else {"support": support}}
            _field(f"{name}/{field_}", data, None, clock, None, found, step)


def _field(
    name: str, data: Any, n_time: int | None, clock: dict[str, Any], keep: Any, found: _Found, step: dict[str, Any]
) -> None:
    """Add one field of a series as a recording, time first."""
    if data.dtype.kind not in "biuf" or len(data.shape) not in (1, 2):
        found.skipped[name] = f"{data.dtype} of shape {data.shape}"
        return
    if n_time is not None and data.shape[0] != n_time:
        raise InputError(explain(name, expected=f"{n_time} samples as timestamps", got=f"shape {data.shape}"))
    lazy = LazyArray(source(found.path, data), dtype=torch.float32 if data.dtype.kind == "f" else _integer(data.dtype))
    found.parts[name] = Recording(
        data=lazy if keep is None else lazy[keep],
        dims=("time", "feature")[: len(data.shape)],
        units=found.units,
        meta={"format": "temporaldata"},
        history=({**step, "assumed": f"unit {found.units}"},),
        **clock,
        **found.who,
    )


def _integer(dtype: np.dtype) -> torch.dtype:
    """Return the torch type that holds all values of a NumPy integer or bool."""
    if dtype.kind == "b":
        return torch.bool
    wide = dtype.itemsize * 8 + (dtype.kind == "u")
    return torch.int16 if wide <= 16 else torch.int32 if wide <= 32 else torch.int64
