"""MATLAB files of any lab: the caller tells which variable is what."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.device import from_numpy
from tectum.core.errors import InputError, explain, nearest
from tectum.core.intervals import Intervals
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording
from tectum.core.session import Session
from tectum.core.spikes import Spikes

from .events import Fix, check_fix, frame_times, make_spikes, rate_of
from .files import reading
from .mat_values import column, find, load, numbers, parse, vector

_KEYS: dict[str, tuple[set[str], set[str]]] = {  # kind -> needed, allowed
    "spikes": ({"times"}, {"unit", "rate", "scale", "id", "columns", "support"}),
    "recording": ({"data", "dims"}, {"rate", "t0", "times", "units", "modality", "columns", "axis"}),
    "intervals": ({"start", "stop"}, {"columns", "scale", "rate"}),
}


def read_matlab(
    path: str | Path,
    *,
    schema: Mapping[str, Mapping[str, Any]],
    fix: Fix = None,
    subject: str = "",
    session: str = "",
) -> Session:
    """Read variables of a MATLAB file (v4 to v7.3) under a schema that the caller gives.

    Parameters
    ----------
    path : path
        The file.
    schema : mapping of str to mapping
        Name of each part of the session -> what it is. Paths are written as in MATLAB and count from 1:
        ``"cells{3}.t"``; ``{:}`` takes all entries, and a field of an array of structs gives one value for each.

        * ``{"kind": "spikes", "times": path}``: a cell array (or array of structs) of one vector a unit, or one vector
          together with ``"unit": path`` of the number of the unit of each spike. Optional ``"rate"`` (Hz, times are
          samples) or ``"scale"`` (s in one unit of time, e.g. 1e-3), ``"id": path``, ``"columns": {name: path}``,
          ``"support": (start, stop)`` in s.
        * ``{"kind": "recording", "data": path, "dims": names}``: names of the axes as MATLAB shows them; ``"rate"`` (a
          number or a path) or ``"times": path``; optional ``"t0"``, ``"units"``, ``"modality"``, ``"columns"`` of the
          axis ``"axis"`` (default "unit").
        * ``{"kind": "intervals", "start": path, "stop": path}``: optional ``"columns"``, ``"scale"``
          or ``"rate"``.
    fix : {None, "sort", "drop"}
        What to do with times that are NaN, repeated or step back.
    subject, session : str
        Who and when.

    Returns
    -------
    Session
        One part for each entry of the schema. Arrays of over a million numbers in v7.3 files are lazy.

    Raises
    ------
    LoadError
        If the file is damaged or a variable is not what the schema says (then also an :class:`InputError`).

    Examples
    --------
    >>> import tempfile, scipy.io
    >>> path = Path(tempfile.mkdtemp()) / "cells.mat"
    >>> cells = np.empty((1, 2), dtype=object)
    >>> cells[0] = [np.array([[0.1, 0.4]]), np.array([[0.2]])]
    >>> scipy.io.savemat(path, {"st": cells})
    >>> read_matlab(path, schema={"spikes": {"kind": "spikes", "times": "st"}})["spikes"].counts().tolist()
    [2, 1]
    """
    check_fix(fix)
    _check_schema(schema)
    path = Path(path)
    with reading(path, "a MATLAB file"):
        content = load(path, sorted({str(parse(text)[0]) for entry in schema.values() for text in _paths(entry)}))
        who: dict[str, Any] = {"subject": subject, "session": session}
        parts = {name: _MAKERS[entry["kind"]](name, entry, content, path, fix, who) for name, entry in schema.items()}
    return Session(items_=parts, meta={"format": "matlab"}, **who)


def _check_schema(schema: Any) -> None:
    """Refuse a schema with unknown kinds or keys before the file is opened."""
    if not isinstance(schema, Mapping) or not schema:
        raise InputError(explain("schema", expected="{name: {'kind': ...}}", got=repr(schema)[:80]))
    for name, entry in schema.items():
        kind = entry.get("kind") if isinstance(entry, Mapping) else None
        if kind not in _KEYS:
            raise InputError(explain(f"schema[{name!r}]", expected=f"a kind among {list(_KEYS)}", got=repr(kind)))
        needed, allowed = _KEYS[kind]
        given = set(entry) - {"kind"}
        for key in sorted(given - needed - allowed):
            known = sorted(needed | allowed)
            raise InputError(
                explain(f"schema[{name!r}]", expected=f"keys of {known}", got=key, fix=nearest(key, known))
            )
        if needed - given:
            raise InputError(
                explain(f"schema[{name!r}]", expected=f"the keys {sorted(needed)}", got=str(sorted(given)))
            )


def _paths(entry: Mapping[str, Any]) -> list[str]:
    """Return every path that an entry of the schema names."""
    single = [entry[key] for key in ("times", "unit", "id", "data", "start", "stop", "rate") if key in entry]
    return [text for text in (*single, *entry.get("columns", {}).values()) if isinstance(text, str)]


def _columns(
    entry: Mapping[str, Any], content: dict[str, Any], length: int, order: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return the columns that an entry asks for."""
    wanted = {**({"id": entry["id"]} if "id" in entry else {}), **entry.get("columns", {})}
    made = {}
    for name, text in wanted.items():
        found = column(find(content, text), length, text)
        if found is None:
            raise InputError(explain(text, expected=f"{length} numbers or texts", got="another length or kind"))
        made[name] = found if order is None else found[order]
    return made


def _scale(entry: Mapping[str, Any], content: dict[str, Any]) -> tuple[float, float]:
    """Return factor and divisor that turn the times of an entry into s."""
    if "rate" in entry and "scale" in entry:
        raise InputError(explain("schema", expected="rate or scale", got="both"))
    if "rate" in entry:
        return 1.0, _rate(entry["rate"], content)
    scale = entry.get("scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < np.inf:
        raise InputError(explain("schema", expected="a scale above 0 s", got=repr(scale)))
    return float(scale), 1.0


def _rate(rate: Any, content: dict[str, Any]) -> float:
    """Return a rate that is a number or the path of one."""
    value = vector(find(content, rate), rate) if isinstance(rate, str) else np.asarray([rate])
    return rate_of(value[0] if len(value) == 1 else None, None, "schema: rate", "rate")[0]


def _spikes(
    name: str, entry: Mapping[str, Any], content: dict[str, Any], path: Path, fix: Fix, who: dict[str, Any]
) -> Spikes:
    where, (factor, divisor) = f"{path}:{entry['times']}", _scale(entry, content)
    value = find(content, entry["times"])
    if "unit" in entry:
        times, labels = vector(value, entry["times"]), vector(find(content, entry["unit"]), entry["unit"])
        if len(times) != len(labels):
            raise InputError(explain(entry["unit"], expected=f"{len(times)} numbers of units", got=str(len(labels))))
        if labels.dtype.kind == "f" and len(labels) and not (labels == np.floor(labels)).all():
            raise InputError(explain(entry["unit"], expected="whole numbers of units", got="others"))
        ids, unit = np.unique(labels.astype(np.int64), return_inverse=True)
        table = {"id": ids, **_columns(entry, content, len(ids))}
        n_units, unit = len(ids), unit.reshape(-1)
    else:
        if not isinstance(value, list):
            fix_it = "name the variable with the unit of each spike as 'unit'"
            raise InputError(explain(where, expected="a cell array of spike times", got="one array", fix=fix_it))
        trains = [vector(item, f"{entry['times']}{{{k + 1}}}") for k, item in enumerate(value)]
        n_units = len(trains)
        times = np.concatenate([np.zeros(0), *trains])
        unit = np.repeat(np.arange(n_units), [len(t) for t in trains])
        table = {"id": np.arange(1, n_units + 1), **_columns(entry, content, n_units)}
    support = entry.get("support")
    step = {"step": "read", "format": "matlab", "file": path.name, "part": name, "seconds": [factor, divisor]}
    return make_spikes(
        times.astype(np.float64) * factor / divisor,
        unit,
        n_units=n_units,
        fix=fix,
        where=where,
        support=None if support is None else Intervals.from_pairs([support]),
        units=table,
        meta={"format": "matlab"},
        history=(step,),
        **who,
    )


def _recording(
    name: str, entry: Mapping[str, Any], content: dict[str, Any], path: Path, fix: Fix, who: dict[str, Any]
) -> Recording:
    value, dims = find(content, entry["data"]), tuple(entry["dims"])
    data: Any = value if isinstance(value, LazyArray) else numbers(value, entry["data"])
    if len(data.shape) == 2 and len(dims) == 1 and 1 in data.shape:
        data = numbers(data, entry["data"]).reshape(-1)
    if len(data.shape) != len(dims):
        raise InputError(explain(entry["data"], expected=f"{len(dims)} axes {dims}", got=f"shape {tuple(data.shape)}"))
    clock: dict[str, Any] = {"t0": float(entry.get("t0", 0.0))}
    if "rate" in entry:
        clock["rate"] = _rate(entry["rate"], content)
    if "times" in entry:
        times, keep = frame_times(vector(find(content, entry["times"]), entry["times"]), fix=fix, where=entry["times"])
        clock["times"] = torch.from_numpy(times.copy())
        if keep is not None:
            data = data[tuple(keep if d == "time" else slice(None) for d in dims)]
    axis = entry.get("axis", "unit")
    columns = _columns(entry, content, data.shape[dims.index(axis)]) if axis in dims else {}
    if not isinstance(data, LazyArray):
        data = from_numpy(np.ascontiguousarray(data))
        data = data.to(torch.float32) if data.is_floating_point() else data
    step = {"step": "read", "format": "matlab", "file": path.name, "part": name, "variable": entry["data"]}
    return Recording(
        data=LazyArray(data.source, order=data.order) if isinstance(data, LazyArray) else data,
        dims=dims,
        coords={axis: columns} if columns else {},
        units=entry.get("units", "a.u."),
        modality=entry.get("modality", ""),
        history=(step,),
        meta={"format": "matlab"},
        **clock,
        **who,
    )


def _intervals(
    name: str, entry: Mapping[str, Any], content: dict[str, Any], path: Path, fix: Fix, who: dict[str, Any]
) -> Intervals:
    factor, divisor = _scale(entry, content)
    start, stop = (
        vector(find(content, entry[key]), entry[key]).astype(np.float64) * factor / divisor for key in ("start", "stop")
    )
    if len(start) != len(stop):
        raise InputError(explain(entry["stop"], expected=f"{len(start)} stops", got=str(len(stop))))
    columns = _columns(entry, content, len(start))
    return Intervals(start=torch.from_numpy(start), stop=torch.from_numpy(stop), columns=columns)


_MAKERS: dict[str, Any] = {"spikes": _spikes, "recording": _recording, "intervals": _intervals}
