"""How a Recording is cut: by position, by label, by time, around events, into windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import clock
from .errors import AxisError, InputError, explain, nearest
from .intervals import Intervals
from .recording import Recording
from .table import Column, positions, take


def isel(rec: Recording, index: Mapping[str, Any]) -> Recording:
    """Select by position; see :meth:`Recording.isel`."""
    _check_axes(rec, index, "isel")
    parts = {axis: _position(rec, axis, part) for axis, part in index.items()}
    keys = [parts.get(d, slice(None)) for d in rec.dims]
    kept = tuple(d for d, key in zip(rec.dims, keys, strict=True) if not isinstance(key, int))
    coords = {axis: take(table, parts.get(axis, slice(None))) for axis, table in rec.coords.items() if axis in kept}
    return replace(
        rec,
        data=_index(rec.data, keys),
        dims=kept,
        mask=None if rec.mask is None else _index_mask(rec.mask, keys),
        coords=coords,
        meta=_dropped(rec, parts),
        **_clock_after(rec, parts),
    )


def _check_axes(rec: Recording, index: Mapping[str, Any], call: str) -> None:
    for axis in index:
        if axis not in rec.dims:
            raise AxisError(
                explain(
                    f"Recording.{call}",
                    expected=f"an axis among {rec.dims}",
                    got=repr(axis),
                    fix=nearest(axis, rec.dims),
                )
            )


def _position(rec: Recording, axis: str, part: Any) -> int | slice | np.ndarray:
    """Normalise an index: integers stay, slices get bounds, masks and lists become position arrays."""
    n = rec.sizes[axis]
    if isinstance(part, slice) and (part.step is None or part.step > 0):
        return slice(*part.indices(n))
    rows = positions(part, n, f"Recording.isel({axis})")
    return int(rows[0]) if isinstance(part, (int, np.integer)) else rows


def _index(data: Any, keys: list[Any]) -> Tensor:
    """Index each axis on its own (outer indexing), last axis first so that dropped axes do not shift others."""
    if not isinstance(data, Tensor):
        return data[tuple(keys)]
    for axis in reversed(range(len(keys))):
        key = keys[axis]
        if isinstance(key, int):
            data = data.select(axis, key)
        elif isinstance(key, slice):
            data = data[(slice(None),) * axis + (key,)]
        else:
            data = data.index_select(axis, torch.as_tensor(key, device=data.device))
    return data


def _index_mask(mask: Tensor, keys: list[Any]) -> Tensor:
    """Index a mask whose axes may have size one."""
    return _index(
        mask,
        [(0 if isinstance(k, int) else slice(None)) if n == 1 else k for k, n in zip(keys, mask.shape, strict=True)],
    )


def _dropped(rec: Recording, parts: Mapping[str, Any]) -> Mapping[str, Any]:
    """Remember the labels of entries whose axis an integer index removed."""
    gone = {
        axis: {c: v[key].item() for c, v in rec.coords[axis].items()}
        for axis, key in parts.items()
        if isinstance(key, int) and axis in rec.coords
    }
    return {**rec.meta, "selected": {**rec.meta.get("selected", {}), **gone}} if gone else rec.meta


def _clock_after(rec: Recording, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return t0, rate and times after an index along time."""
    if "time" not in parts:
        return {}
    key = parts["time"]
    if isinstance(key, int):
        now = float(rec.times[key]) if rec.times is not None else rec.t0 + key / rec._regular("isel")
        return {"rate": None, "times": None, "t0": now}
    if rec.rate is None or not isinstance(key, slice):
        times = rec.time[torch.as_tensor(key) if isinstance(key, np.ndarray) else key]
        return {"times": times, "rate": None, "t0": float(times[0]) if len(times) else rec.t0}
    return {"t0": rec.t0 + key.start / rec.rate, "rate": rec.rate / key.step}


def sel(rec: Recording, wanted: Mapping[str, Any], *, allow_empty: bool = False) -> Recording:
    """Select by label; see :meth:`Recording.sel`."""
    _check_axes(rec, wanted, "sel")
    parts = {
        axis: _time_slice(rec, value) if axis == "time" else _matching(rec, axis, value)
        for axis, value in wanted.items()
    }
    found = isel(rec, parts)
    for axis, value in wanted.items():
        if found.sizes.get(axis) == 0 and not allow_empty:
            got, fix = f"none for {value!r}", "pass allow_empty=True where that is meant"
            raise InputError(explain(f"Recording.sel({axis})", expected="an entry to match", got=got, fix=fix))
    return found


def _time_slice(rec: Recording, value: Any) -> slice | int:
    """Turn (start, stop) in s, or one time, into positions."""
    n = rec.sizes["time"]
    if not isinstance(value, slice) and np.ndim(value) == 0:
        return _covering(rec, float(value))
    start, stop = (value.start, value.stop) if isinstance(value, slice) else value
    first = 0 if start is None else _locate(rec, float(start))
    last = n if stop is None else _locate(rec, float(stop))
    return slice(max(0, first), max(0, last))


def _covering(rec: Recording, seconds: float) -> int:
    """Return the sample that covers a time: the last one that does not start after it."""
    n = rec.sizes["time"]
    position = _locate(rec, seconds)
    if rec.times is not None and not (position < n and float(rec.times[position]) == seconds):
        position = position - 1 if position < n else -1
    if not 0 <= position < n:
        raise InputError(explain("Recording.sel(time)", expected="a time in the recording", got=f"{seconds:g} s"))
    return position


def _locate(rec: Recording, seconds: float) -> int:
    """Return the sample that covers a time or, with irregular times, the first that does not start before it."""
    if rec.times is None:
        return clock.to_sample(seconds, rate=rec._regular("sel"), t0=rec.t0)
    return int(np.searchsorted(rec.times.numpy(), seconds))


def _matching(rec: Recording, axis: str, value: Any) -> int | np.ndarray:
    """Find the entries of an axis whose column has the value(s) asked for, in the order asked for."""
    column, asked = next(iter(value.items())) if isinstance(value, Mapping) else (None, value)
    labels = rec.labels(axis, column)
    if labels is None:
        raise InputError(
            explain(
                f"Recording.sel({axis})",
                expected="an axis with a 'name' or 'id' column",
                got=f"columns {sorted(rec.coords.get(axis, {}))}",
            )
        )
    if isinstance(value, Mapping):
        return np.flatnonzero(np.isin(labels, np.atleast_1d(asked)))
    single = np.ndim(asked) == 0
    found = [_only(labels, label, axis) for label in np.atleast_1d(asked)]
    return found[0] if single else np.asarray(found, dtype=np.int64)


def _only(labels: Column, label: Any, axis: str) -> int:
    rows = np.flatnonzero(labels == label)
    if len(rows) != 1:
        name = repr(label.item() if isinstance(label, np.generic) else label)
        problem = f"{name}, {len(rows)} times" if len(rows) else name
        raise InputError(
            explain(
                f"Recording.sel({axis})",
                expected="a label that occurs once",
                got=problem,
                fix=nearest(str(label), [str(x) for x in labels]),
            )
        )
    return int(rows[0])


def restrict(rec: Recording, intervals: Intervals, *, allow_empty: bool = False) -> Recording:
    """Crop to the hull of intervals and mask what is outside; see :meth:`Recording.restrict`."""
    inside = intervals.contains(_nudged(rec))
    kept = inside.nonzero().flatten()
    if len(kept) == 0 and not allow_empty:
        got, fix = f"{len(intervals)} intervals that miss it", "pass allow_empty=True where that is meant"
        raise InputError(explain("Recording.restrict", expected="intervals that meet the recording", got=got, fix=fix))
    hull = slice(int(kept[0]), int(kept[-1]) + 1) if len(kept) else slice(0, 0)
    cut = isel(rec, {"time": hull})
    shape = [-1 if d == "time" else 1 for d in rec.dims]
    mask = inside[hull].reshape(shape).to(rec.device)
    mask = mask if cut.mask is None else cut.mask & mask
    support = rec.intervals["support"].intersect(intervals) if "support" in rec.intervals else intervals.merged()
    support = support if len(kept) else Intervals.from_pairs([])
    return replace(
        cut,
        mask=None if bool(mask.all()) else mask,
        intervals={**rec.intervals, "support": support},
        history=rec.noted("restrict", seconds=intervals.duration),
    )


def epochs(rec: Recording, events: str | Intervals, window: tuple[float, float]) -> Recording:
    """Cut a window around every event; see :meth:`Recording.epochs`."""
    table = _named(rec, events)
    rate = _rate(rec, "epochs")
    before, after = (clock.to_sample(edge, rate=rate) for edge in window)
    if after <= before:
        raise InputError(
            explain("Recording.epochs", expected="window=(start, stop) of at least one sample", got=str(window))
        )
    first = clock.to_sample(table.start, rate=rate, t0=rec.t0) + before
    fits = (first >= 0) & (first + after - before <= rec.sizes["time"])
    if not bool(fits.any()):
        raise InputError(
            explain(
                "Recording.epochs",
                expected="at least one event whose window lies in the recording",
                got=f"{len(table)} events, none inside",
            )
        )
    table, first = table[fits], first[fits]
    coords = {**table.columns, "start": table.start.numpy(), "stop": table.stop.numpy()}
    return _cut(
        rec,
        first,
        after - before,
        t0=before / rate,
        trial=coords,
        note=rec.noted("epochs", window=list(window), kept=len(table), dropped=int((~fits).sum())),
    )


def _cut(
    rec: Recording, first: Tensor, length: int, *, t0: float, trial: Mapping[str, Column], note: tuple[Any, ...]
) -> Recording:
    """Gather windows that begin at the samples ``first``: trial in front, time in its place."""
    axis = rec.dims.index("time")
    rows = (first[:, None] + torch.arange(length, device="cpu")).to(rec.device)  # (trial, time)

    def gather(x: Tensor) -> Tensor:
        picked = x.index_select(axis, rows.flatten()).unflatten(axis, tuple(rows.shape))  # (..., trial, time, ...)
        return picked.movedim(axis, 0)

    mask = rec.mask
    if mask is not None:
        mask = gather(mask) if mask.shape[axis] > 1 else mask[None]
    return replace(
        rec,
        data=gather(rec.values),
        dims=("trial", *rec.dims),
        mask=mask,
        t0=t0,
        coords={**_without_time(rec), "trial": trial},
        history=note,
    )


def windows(rec: Recording, length: float, *, hop: float | None = None) -> Recording:
    """Return overlapping windows as a view; see :meth:`Recording.windows`."""
    rate = _rate(rec, "windows")
    size = clock.count_samples(length, rate=rate)
    step = size if hop is None else clock.count_samples(hop, rate=rate)
    axis, n = rec.dims.index("time"), rec.sizes["time"]
    if not 1 <= size <= n or step < 1:
        raise InputError(
            explain(
                "Recording.windows",
                expected=f"length in [{1 / rate:g}, {n / rate:g}] s and hop >= {1 / rate:g} s",
                got=f"length={length!r}, hop={hop!r}",
            )
        )

    def unfold(x: Tensor) -> Tensor:
        return x.unfold(axis, size, step).movedim(axis, 0).movedim(-1, axis + 1)  # (trial, ..., time, ...)

    starts = rec.t0 + np.arange((n - size) // step + 1) * step / rate
    mask = rec.mask
    if mask is not None:
        mask = unfold(mask) if mask.shape[axis] > 1 else mask[None]
    trial = {"start": starts, "stop": starts + size / rate}
    return replace(
        rec,
        data=unfold(rec.values),
        dims=("trial", *rec.dims),
        mask=mask,
        t0=0.0,
        coords={**_without_time(rec), "trial": trial},
        history=rec.noted("windows", length=length, hop=step / rate),
    )


def _without_time(rec: Recording) -> dict[str, Mapping[str, Column]]:
    """Drop what is known of each sample: every trial has samples of its own."""
    return {axis: table for axis, table in rec.coords.items() if axis != "time"}


def _named(rec: Recording, events: str | Intervals) -> Intervals:
    if isinstance(events, Intervals):
        return events
    if events not in rec.intervals:
        raise InputError(
            explain(
                "Recording.epochs",
                expected=f"intervals among {sorted(rec.intervals)}",
                got=repr(events),
                fix=nearest(events, rec.intervals),
            )
        )
    return rec.intervals[events]


def _rate(rec: Recording, call: str) -> float:
    if rec.rate is None or "time" not in rec.dims or "trial" in rec.dims:
        raise InputError(
            explain(
                f"Recording.{call}",
                expected="a continuous recording with a regular rate",
                got=repr(rec),
                fix="resample first",
            )
        )
    return rec.rate


def _nudged(rec: Recording) -> Tensor:
    """Return the sample times moved inside their samples by the clock's tolerance, so that edges count as edges."""
    return rec.time if rec.rate is None else rec.time + clock.slack(rec.rate, rec.t0) / rec.rate
