"""Sortings and analyzers that SpikeInterface saved, as folders of NumPy files or as Zarr stores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.errors import InputError, LoadError, explain
from tectum.core.intervals import Intervals
from tectum.core.session import Session
from tectum.core.spikes import Spikes

from .delimited import numbers, read_table
from .events import Fix, make_spikes, rate_of
from .files import load_npy, member, optional, reading, required
from .zarr_arrays import arrays, is_array, open_zarr

_FIELDS = ("sample_index", "unit_index", "segment_index")
_SINGLE = "biufU"  # properties that are one number or word for each unit
_MOST = 100_000  # segments


@dataclass(frozen=True)
class _Sorting:
    """Spikes of all segments by sample, unit and segment, int64 (n_spikes,), and what is known of the units."""

    place: str
    info: Mapping[str, Any]
    ids: np.ndarray
    n_segments: int
    spikes: tuple[np.ndarray, np.ndarray, np.ndarray]
    table: Mapping[str, np.ndarray]


def read_spikeinterface(
    path: str | Path,
    *,
    t_starts: tuple[float, ...] | None = None,
    fix: Fix = None,
    subject: str = "",
    session: str = "",
) -> Spikes | Session:
    """Read what SpikeInterface saved: a sorting or a SortingAnalyzer, as a folder or as a Zarr store.

    Parameters
    ----------
    path : path
        The folder with ``numpysorting_info.json`` and ``spikes.npy``, an analyzer's folder, or a store.
    t_starts : tuple of float, optional
        Start of each segment on the session clock, in s; segments are then put on it. Default: each segment starts at
        0 and is a part of its own.
    fix : {None, "sort", "drop"}
        What to do with times that step back.
    subject, session : str
        Who and when: the folder does not know.

    Returns
    -------
    Spikes, or Session of ``segment0``, ... if there are several and no ``t_starts``
        The table of units has ``id``, the properties, and an analyzer's quality metrics. The support is the recording
        of an analyzer; of a sorting alone it is from the first to the last spike.

    Raises
    ------
    LoadError
        If a file is missing or damaged, or files contradict each other (then also an :class:`InputError`).
    """
    folder = Path(path)
    with reading(folder, "a sorting of SpikeInterface"):
        home = member(folder, "sorting") if _is_sorting(member(folder, "sorting")) else folder
        found = _stored(home) if _is_store(home) else _saved(home)
        rate, clock = rate_of(found.info.get("sampling_frequency"), None, found.place, "rate")
        lengths = _lengths(folder, found.n_segments, rate) if home != folder else None
        metrics = _metrics(folder, found.ids) if home != folder else {}
        step = {"step": "read", "format": "spikeinterface", **clock, "segments": found.n_segments}
        common: dict[str, Any] = {"subject": subject, "session": session, "history": (step,), "fix": fix}
        common |= {"units": {"id": found.ids, **found.table, **metrics}, "n_units": len(found.ids)}
        sample, unit, segment = found.spikes
        if t_starts is not None or found.n_segments == 1:
            start = np.zeros(found.n_segments) if t_starts is None else np.asarray(t_starts, dtype=np.float64)
            if start.shape != (found.n_segments,):
                raise InputError(explain("t_starts", expected=f"{found.n_segments} times", got=str(start.shape)))
            common["support"] = None if lengths is None else _support(start, lengths)
            return make_spikes(start[segment] + sample / rate, unit, where=found.place, **common)
        parts = {}
        for k in range(found.n_segments):
            support = None if lengths is None else _support(np.zeros(1), lengths[k : k + 1])
            inside, where = segment == k, f"{found.place}: segment {k}"
            parts[f"segment{k}"] = make_spikes(
                sample[inside] / rate, unit[inside], where=where, support=support, **common
            )
    return Session(items_=parts, subject=subject, session=session, meta={"format": "spikeinterface"})


def is_spikeinterface(path: Path) -> bool:
    """Tell whether a folder is a sorting or an analyzer, in NumPy files or in Zarr."""
    return path.is_dir() and (_is_sorting(path) or _is_sorting(path / "sorting"))


def _is_sorting(folder: Path) -> bool:
    return (folder / "numpysorting_info.json").is_file() or _is_store(folder)


def _is_store(folder: Path) -> bool:
    return is_array(folder / "unit_ids") and is_array(folder / "spikes" / "sample_index")


def _saved(folder: Path) -> _Sorting:
    """Read a folder of NumPy files."""
    info = _json(required(folder, "numpysorting_info.json", "rate and units"))
    ids, n_segments = info.get("unit_ids"), info.get("num_segments", 1)
    if not isinstance(ids, list):
        raise LoadError(explain(str(folder), expected="unit_ids and num_segments", got=f"{ids!r:.80}, {n_segments!r}"))
    path = required(folder, "spikes.npy", "the spikes")
    spikes = load_npy(path, kinds="V", ndim=1)
    if not set(_FIELDS) <= set(spikes.dtype.names or ()):
        raise LoadError(explain(str(path), expected=f"fields {_FIELDS}", got=f"{spikes.dtype}"))
    home = member(folder, "properties")
    table = {}
    for name in sorted(p.name for p in home.glob("*.npy")) if home.is_dir() else []:
        kept = optional(home, name)
        if kept is not None:
            table[name[:-4]] = load_npy(kept, kinds=_SINGLE)
    columns = tuple(spikes[name] for name in _FIELDS)
    return _checked(str(path), info, np.asarray(ids), n_segments, columns, table)


def _stored(folder: Path) -> _Sorting:
    """Read a Zarr store, whose spikes of segment k are the rows ``segment_slices[k]``."""
    info = _json(required(folder, ".zattrs", "rate and number of segments"))
    ids = open_zarr(folder, "unit_ids", kinds="iuU")[:]
    n_segments, place = info.get("num_segments", 1), folder / "spikes"
    sample, unit = (open_zarr(place, name, kinds="iu")[:] for name in _FIELDS[:2])
    slices = open_zarr(place, "segment_slices", kinds="iu")[:].astype(np.int64)
    if slices.ndim != 2 or slices.shape[1] != 2 or sample.ndim != 1:
        raise LoadError(explain(str(place), expected="first and last row of each segment", got=f"{slices.shape}"))
    lengths = slices[:, 1] - slices[:, 0]
    if (lengths < 0).any() or (slices[:, 0] != lengths.cumsum() - lengths).any() or lengths.sum() != len(sample):
        got = str(slices.tolist()[:8])
        raise InputError(explain(f"{place}: segment_slices", expected=f"rows up to {len(sample)} in order", got=got))
    segment = np.repeat(np.arange(len(slices)), lengths)
    home = folder / "properties"
    table = {name: open_zarr(home, name, kinds=_SINGLE)[:] for name in arrays(home)}
    return _checked(str(place), info, ids, n_segments, (sample, unit, segment), table)


def _checked(
    place: str,
    info: Mapping[str, Any],
    ids: np.ndarray,
    n_segments: Any,
    columns: tuple[np.ndarray, ...],
    table: Mapping[str, np.ndarray],
) -> _Sorting:
    """Return what was read after checking that its parts fit together; properties of other shapes are left out."""
    if not isinstance(n_segments, int) or not 1 <= n_segments <= _MOST or ids.ndim != 1:
        raise LoadError(explain(place, expected="unit_ids and num_segments", got=f"{ids.shape}, {n_segments!r}"))
    sample, unit, segment = (column.astype(np.int64) for column in columns)
    if not sample.shape == unit.shape == segment.shape:
        raise InputError(explain(place, expected="a unit for each spike", got=f"{unit.shape} of {sample.shape}"))
    for name, values, top in (("unit_index", unit, len(ids)), ("segment_index", segment, n_segments)):
        if len(values) and not 0 <= values.min() <= values.max() < top:
            got = str(values.min() if values.min() < 0 else values.max())
            raise InputError(explain(f"{place} {name}", expected=f"below {top}", got=got))
    kept = {name: values for name, values in table.items() if values.shape == ids.shape}
    return _Sorting(place, info, ids, n_segments, (sample, unit, segment), kept)


def _json(path: Path) -> dict[str, Any]:
    with reading(path, "JSON with rate and units"):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
        return found


def _lengths(analyzer: Path, n_segments: int, rate: float) -> np.ndarray | None:
    """Return the duration in s of each segment of the recording that an analyzer remembers, None without one."""
    file = optional(analyzer, "recording_info/recording_attributes.json")
    if file is not None:
        known = _json(file)
    else:
        file = optional(analyzer, "recording_info/.zattrs")
        known = {} if file is None else _json(file).get("recording_attributes", {})
    counts = known.get("num_samples") if isinstance(known, dict) else None
    if counts is None:
        return None
    if not isinstance(counts, list) or len(counts) != n_segments or not all(_is_count(n) for n in counts):
        raise InputError(explain(f"{file}: num_samples", expected=f"{n_segments} lengths", got=f"{counts!r:.80}"))
    return np.asarray(counts, dtype=np.float64) / rate


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 < value < 1 << 53


def _support(start: np.ndarray, lengths: np.ndarray) -> Intervals:
    return Intervals(start=torch.from_numpy(start), stop=torch.from_numpy(start + lengths))


def _metrics(analyzer: Path, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return the quality metrics of an analyzer that are numbers, in the order of the units."""
    room = "extensions/quality_metrics/metrics"
    file = optional(analyzer, f"{room}.csv")
    if file is not None:
        columns = read_table(file)
        order = _order(file, columns.pop("", np.empty(0, str)), ids)
        parsed = {name: numbers(column[order]) for name, column in columns.items()}
        return {name: values for name, values in parsed.items() if values is not None}
    home = member(analyzer, room)
    names = [name for name in arrays(home) if name != "index"]
    if not names:
        return {}
    order = _order(home, open_zarr(home, "index", kinds="iuU")[:], ids)
    found = {name: open_zarr(home, name, kinds=_SINGLE) for name in names}
    return {name: column[:][order] for name, column in found.items() if column.shape == ids.shape}


def _order(file: Path, named: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the row of each unit."""
    rows = {str(name): k for k, name in enumerate(named.tolist())}
    if len(rows) != len(ids) or not all(str(k) in rows for k in ids.tolist()):
        raise InputError(explain(str(file), expected=f"a row for each of {len(ids)} units", got=f"{list(rows)[:8]}"))
    return np.asarray([rows[str(k)] for k in ids.tolist()], dtype=np.int64)
