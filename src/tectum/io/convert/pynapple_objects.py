"""Pynapple's objects: Ts, Tsd, TsdFrame, TsdTensor, TsGroup, IntervalSet."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from tectum.core.errors import InputError, MissingExtraError, TectumWarning, explain
from tectum.core.graph import Graph
from tectum.core.intervals import Intervals
from tectum.core.recording import Recording
from tectum.core.session import Session
from tectum.core.spikes import Spikes

from ..pynapple_files import build

#: What a round trip through pynapple loses.
LOST = (
    "times are kept to 1e-9 s",
    "unit, modality, subject, session, meta and history; units= sets the unit on the way back",
    "names of axes: frames come back as (time, unit), tensors ask for dims=",
    "the mask, and coordinates of a recording other than those of its second axis",
    "intervals of a recording other than its support, which pynapple closes; samples outside it are dropped",
    "intervals without length (dropped), and of two that touch the last 1e-6 s of the first",
    "float64 values come back as float32",
    "graphs",
)


def _pynapple() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pynapple
    except ImportError as cause:
        fix = "pip install pynapple"
        raise MissingExtraError(explain("to_pynapple", expected="pynapple", got="none installed", fix=fix)) from cause
    return pynapple


def from_pynapple(
    obj: Any, *, dims: Sequence[str] | None = None, units: str = "a.u.", subject: str = "", session: str = ""
) -> Spikes | Recording | Intervals | Session:
    """Convert an object of pynapple.

    Parameters
    ----------
    obj : Ts, Tsd, TsdFrame, TsdTensor, TsGroup, IntervalSet, or mapping of them
        Loaded or lazy (NWBFile, Folder); a mapping becomes a Session.
    dims : sequence of str, optional
        Names of the axes of a frame or tensor, time first; default ``("time", "unit")`` for frames.
    units : str, default "a.u."
        Physical unit of the values.
    subject, session : str
        Who and when.

    Returns
    -------
    Spikes, Recording, Intervals or Session
    """
    kind = type(obj).__name__
    who: dict[str, Any] = {"subject": subject, "session": session}
    if kind not in ("Ts", "Tsd", "TsdFrame", "TsdTensor", "TsGroup", "IntervalSet"):
        if not hasattr(obj, "keys") or not hasattr(obj, "__getitem__"):
            raise InputError(explain("from_pynapple", expected="an object of pynapple", got=kind))
        parts: dict[str, Any] = {str(name): from_pynapple(obj[name], units=units, **who) for name in list(obj.keys())}
        return Session(items_=parts, **who)
    step = {"step": "convert", "from": "pynapple", "type": kind}
    return build(kind, _arrays(obj, kind), dims=dims, units=units, step=step, where="from_pynapple", **who)


def _arrays(obj: Any, kind: str) -> dict[str, np.ndarray]:
    """Return the arrays that pynapple would save."""
    found = {name: _plain(obj.metadata[name]) for name in _metadata_names(obj)}
    if kind == "IntervalSet":
        return {**found, "start": np.asarray(obj.start), "end": np.asarray(obj.end)}
    support = obj.time_support
    found |= {"start": np.asarray(support.start), "end": np.asarray(support.end)}
    if kind == "TsGroup":
        keys = np.asarray(list(obj.keys()))
        trains = [np.asarray(obj[key].t) for key in keys]
        times = np.concatenate([np.zeros(0), *trains])
        return {**found, "t": times, "index": np.repeat(keys, [len(t) for t in trains]), "keys": keys}
    found["t"] = np.asarray(obj.t)
    if kind != "Ts":
        found["d"] = np.asarray(obj.values)
    if kind == "TsdFrame":
        found["columns"] = _plain(obj.columns)
    return found


def _metadata_names(obj: Any) -> list[str]:
    columns = getattr(obj, "metadata_columns", None)
    return [str(c) for c in columns if str(c) != "rate"] if columns is not None else []


def _plain(values: Any) -> np.ndarray:
    """Return a column as numbers or text."""
    array = np.asarray(values)
    return array if array.dtype.kind in "biufU" else array.astype(str)


def to_pynapple(obj: Spikes | Recording | Intervals | Session) -> Any:
    """Convert a container.

    Parameters
    ----------
    obj : Spikes, Recording, Intervals or Session
        A recording must have a time axis, which goes first.

    Returns
    -------
    TsGroup, Tsd, TsdFrame, TsdTensor, IntervalSet, or dict of them for a Session

    Raises
    ------
    InputError
        For overlapping intervals, which an IntervalSet cannot hold, and recordings without time.
    """
    nap = _pynapple()
    if isinstance(obj, Session):
        return {name: to_pynapple(part) for name, part in obj.items() if not isinstance(part, Graph)}
    if isinstance(obj, Intervals):
        return _interval_set(nap, obj, metadata=True)
    if isinstance(obj, Spikes):
        return _group(nap, obj)
    if isinstance(obj, Recording):
        return _series(nap, obj)
    raise InputError(explain("to_pynapple", expected="Spikes, Recording, Intervals or Session", got=type(obj).__name__))


def _interval_set(nap: Any, spans: Intervals, *, metadata: bool = False) -> Any:
    late = np.flatnonzero(spans.stop.numpy()[:-1] > spans.start.numpy()[1:] + 1e-9)
    if len(late):
        pairs = spans.pairs()
        shown = "; ".join(f"{pairs[k]} and {pairs[k + 1]}" for k in late[:3])
        fix = "merge them with .merged(), or convert them one by one"
        raise InputError(
            explain("to_pynapple", expected="disjoint intervals", got=f"{len(late)} overlaps: {shown}", fix=fix)
        )
    long = (spans.stop - spans.start).numpy() > 1e-9
    if not long.all():
        text = f"to_pynapple: {int((~long).sum())} intervals without length dropped"
        warnings.warn(text, TectumWarning, stacklevel=3)
    kept = spans[np.flatnonzero(long)]
    columns = {k: np.asarray(v) for k, v in kept.columns.items()} if metadata else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nap.IntervalSet(kept.start.numpy(), kept.stop.numpy(), metadata=columns or None)


def _group(nap: Any, spikes: Spikes) -> Any:
    """Return a TsGroup whose keys are the ids where these are different whole numbers."""
    table = {k: np.asarray(v) for k, v in spikes.units.items()}
    ids = table.get("id")
    whole = ids is not None and ids.dtype.kind in "iu" and len(np.unique(ids)) == len(ids) and (ids >= 0).all()
    keys = ids.tolist() if ids is not None and whole else list(range(spikes.n_units))
    if whole:
        table.pop("id")
    support = spikes.restrict(spikes.span, allow_empty=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = {key: nap.Ts(train.numpy()) for key, train in zip(keys, support.trains(), strict=True)}
        return nap.TsGroup(
            group,
            time_support=_interval_set(nap, spikes.span.merged()),
            metadata={name: column for name, column in table.items() if name != "rate"} or None,
        )


def _series(nap: Any, rec: Recording) -> Any:
    if "time" not in rec.dims:
        raise InputError(explain("to_pynapple", expected="a time axis", got=str(rec.dims)))
    rest = [d for d in rec.dims if d != "time"]
    data, times = rec.tensor("time", *rest, device="cpu").numpy(), rec.time.numpy()
    support = rec.intervals.get("support")
    spans = None if support is None else _interval_set(nap, support.merged())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not rest:
            return nap.Tsd(times, data, time_support=spans)
        if len(rest) > 1:
            return nap.TsdTensor(times, data, time_support=spans)
        table = {k: np.asarray(v) for k, v in rec.coords.get(rest[0], {}).items()}
        label = next((n for n in ("name", "id") if n in table and len(np.unique(table[n])) == len(table[n])), None)
        columns = table.pop(label) if label else None
        return nap.TsdFrame(times, data, time_support=spans, columns=columns, metadata=table or None)
