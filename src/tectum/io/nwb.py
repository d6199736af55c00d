"""NWB 2.x files (HDF5, or a folder of Zarr): units, traces, behaviour, fields and tables of intervals on one clock.

Read with h5py (and zarr) alone. Opening reads metadata, tables, spike times and the timestamps of irregular series;
the numbers of every series stay on disk until they are used.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.errors import InputError, LoadError, TectumWarning, explain
from tectum.core.intervals import Intervals
from tectum.core.recording import Recording
from tectum.core.session import Session
from tectum.core.spikes import Spikes

from . import zarr_tree
from .events import Fix, check_fix, make_spikes
from .hdf5 import attribute, csr_ends, inside, opened, ragged, table, text, walk, whole
from .nwb_series import OURS, Options, is_series, read_series

_ROOMS = ("acquisition", "processing", "stimulus", "analysis", "general/intracellular_ephys")
_NAMELESS = ("acquisition/", "stimulus/presentation/", "analysis/", "intervals/")
_BIG = 1 << 33  # bytes of spike times that are read at once on request of the user


@dataclass
class _Found:
    """What a walk through the file has met."""

    parts: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def read_nwb(
    path: str | Path,
    *,
    names: Sequence[str] | None = None,
    axis: int | None = None,
    fix: Fix = None,
    dtype: str = "float32",
    exclude_invalid: bool = False,
) -> Session:
    """Read an NWB file.

    Parameters
    ----------
    path : path
        The file, or the folder that hdmf-zarr writes. Of the latter, columns of references are left out (they are
        pickled), and links to other stores are not followed.
    names : sequence of str, optional
        Parts to read; default all.
    axis : {0, 1}, optional
        Which stored axis of the region traces is time, where the file does not tell.
    fix : {None, "sort", "drop"}
        What to do with times that are NaN, repeated or step back; by default they are refused.
    dtype : {"float32", "float64"}
        Type of the signals when read.
    exclude_invalid : bool, default False
        Take the spikes inside the table ``invalid_times`` (of the Allen Institute) out, and its spans out of the
        support.

    Returns
    -------
    Session
        ``spikes`` (:class:`Spikes` with the unit table); every time series as a lazy :class:`Recording` under its path
        without ``acquisition`` or ``processing/<module>`` (e.g. ``Position/x``, ``Fluorescence/RoiResponseSeries``);
        tables of intervals (``epochs``, ``trials``, ...) as :class:`Intervals`; footprints as ``<plane>/image_mask``.
        ``meta["skipped"]`` lists what was not understood, with the reason.

    Raises
    ------
    LoadError
        If the file is damaged or no NWB; :class:`AmbiguousAxisError` if regions and frames are equally many and
        ``axis`` is not given.
    """
    from tectum.core.device import resolve_dtype

    check_fix(fix)
    if axis not in (None, 0, 1):
        raise InputError(explain("read_nwb(axis)", expected="None, 0 or 1", got=repr(axis)))
    path = Path(path)
    is_store = path.is_dir() and zarr_tree.is_tree(path)
    with zarr_tree.opened(path, "an NWB file") if is_store else opened(path, "an NWB file", check=True) as file:
        if "nwb_version" not in file.attrs and "nwb_version" not in file:
            kind = "a Zarr store" if is_store else "an HDF5 file"
            raise LoadError(explain(str(path), expected="an NWB file", got=f"{kind} without nwb_version"))
        meta = _meta(file)
        wanted = None if names is None else set(names)
        called = meta.get("session_id") or meta.get("identifier", "")
        called = "" if called.startswith(f"{OURS}:") else called  # our own files of sessions without a name
        who = {"subject": meta.get("subject_id", ""), "session": called}
        options = Options(path=path, axis=axis, fix=fix, dtype=resolve_dtype(dtype), who=who, meta=meta)
        found = _walked(file, options, wanted)
        _intervals(file, found, wanted)
        if "units" in file and (wanted is None or "spikes" in wanted):
            found.parts["spikes"] = _units(file, options, found.parts.get("epochs"))
            bad = found.parts.get("invalid_times")
            if exclude_invalid and isinstance(bad, Intervals):
                spikes = found.parts["spikes"]
                found.parts["spikes"] = spikes.restrict(spikes.span.subtract(bad), allow_empty=True)
    if wanted is not None and wanted - set(found.parts):
        got = ", ".join(sorted(wanted - set(found.parts)))
        reasons = "; ".join(f"{k}: {v}" for k, v in found.skipped.items() if k in wanted)
        raise InputError(explain(f"{path}: names", expected="parts of the file", got=got, fix=reasons))
    return Session(items_=found.parts, meta={**meta, "skipped": found.skipped}, **who)


def _meta(file: Any) -> dict[str, Any]:
    """Return who, when and what was recorded."""
    general = file.get("general", {})
    subject = general.get("subject", {}) if general else {}
    found = {name: text(file, name) for name in ("identifier", "session_description", "session_start_time")}
    found |= {name: text(general, name) for name in ("session_id", "institution", "lab")}
    found |= {name: text(subject, name) for name in ("subject_id", "species", "sex", "age", "genotype")}
    version = attribute(file, "nwb_version") or text(file, "nwb_version")
    return {k: v for k, v in found.items() if v} | {"nwb_version": str(version), "format": "nwb"}


def _walked(file: Any, options: Options, wanted: set[str] | None) -> _Found:
    """Read every time series, footprint table and image of the file."""
    found = _Found()

    def visit(name: str, node: Any) -> bool:
        if node.get("image_mask") is not None and (wanted is None or f"{_short(name)}/image_mask" in wanted):
            _masks(name, node, options, found)
        if attribute(node, "neurodata_type") == "TimeIntervals":
            _one_table(_short(name), node, found, wanted)
            return False
        if not is_series(node):
            return True
        short = _short(name) if _short(name) not in found.parts else name
        if wanted is None or short in wanted:
            part = read_series(short, node, options)
            if isinstance(part, str):
                found.skipped[short] = part
            else:
                found.parts[short] = part
        return False

    for room in _ROOMS:
        if room in file:
            walk(file[room], visit)
    return found


def _short(name: str) -> str:
    """Return the path of a part without the rooms that every file has."""
    for room in _NAMELESS:
        if name.startswith(room):
            return name[len(room) :]
    pieces = name.split("/")
    return "/".join(pieces[2:]) if pieces[0] == "processing" and len(pieces) > 2 else name


def _masks(name: str, node: Any, options: Options, found: _Found) -> None:
    """Add the footprints of a plane, (unit, x, y) as NWB defines them."""
    from tectum.core.lazy import LazyArray

    from .hdf5 import source

    mask = node["image_mask"]
    if len(mask.shape) != 3:
        found.skipped[f"{_short(name)}/image_mask"] = f"shape {mask.shape} is not (unit, x, y)"
        return
    columns, _ = table(node, skip=("image_mask", "pixel_mask", "voxel_mask"))
    step = {"step": "read", "format": "nwb", "dataset": f"{name}/image_mask", "assumed": "axes (unit, x, y) as in NWB"}
    found.parts[f"{_short(name)}/image_mask"] = Recording(
        data=LazyArray(source(options.path, mask), dtype=options.dtype),
        dims=("unit", "x", "y"),
        coords={"unit": columns} if len(columns.get("id", ())) == mask.shape[0] else {},
        units="a.u.",
        modality="image",
        meta=options.meta,
        history=(step,),
        **options.who,
    )


def _intervals(file: Any, found: _Found, wanted: set[str] | None) -> None:
    for name in file.get("intervals", {}):
        node = inside(file["intervals"], name)
        if node is not None and hasattr(node, "keys"):
            _one_table(name, node, found, wanted)


def _one_table(name: str, node: Any, found: _Found, wanted: set[str] | None) -> None:
    """Add one table of intervals; rows without finite bounds are dropped with a warning."""
    name = name if name not in found.parts else node.name.strip("/")
    if wanted is not None and name not in wanted and name not in ("epochs", "invalid_times"):
        return
    columns, left = table(node)
    start, stop = (columns.pop(bound, None) for bound in ("start_time", "stop_time"))
    if start is None or stop is None or start.dtype.kind not in "iuf" or stop.dtype.kind not in "iuf":
        found.skipped[name] = "no start_time and stop_time"
        return
    for column in left:
        pieces = ragged(node, column) if f"{column}_index" in node else None
        if pieces is not None and all(piece.dtype.kind == "U" for piece in pieces):
            columns[column] = np.asarray([",".join(piece) for piece in pieces], dtype=str)
    good = np.isfinite(start) & np.isfinite(stop)
    if not good.all():
        where = f"{node.file.filename}:{node.name}"
        warnings.warn(f"{where}: {int((~good).sum())} rows without finite bounds dropped", TectumWarning, stacklevel=2)
    rows = {key: column[good] for key, column in columns.items()}
    bounds = (torch.from_numpy(np.asarray(x[good], dtype=np.float64)) for x in (start, stop))
    found.parts[name] = Intervals(start=next(bounds), stop=next(bounds), columns=rows)


def _units(file: Any, options: Options, epochs: Any) -> Spikes:
    """Read the table of units and their spike times."""
    node = file["units"]
    columns, left = table(node, skip=("spike_times", "obs_intervals", "waveforms"))
    columns = {k: v for k, v in columns.items() if k not in ("spike_times", "obs_intervals")}
    n_units = len(columns["id"]) if "id" in columns else 0
    times, unit = _spike_times(node, n_units)
    if "id_text" in columns:  # ids that NWB does not take as such
        columns["id"] = columns.pop("id_text")
    _areas(file, node, columns)
    support, note = _support(node, times, epochs)
    step = {"step": "read", "format": "nwb", "units": n_units, "columns_left_out": left, **note}
    return make_spikes(
        times,
        unit,
        n_units=n_units,
        fix=options.fix,
        where=f"{options.path}:units/spike_times",
        support=support,
        units=columns,
        meta=options.meta,
        history=(step,),
        **options.who,
    )


def _spike_times(node: Any, n_units: int) -> tuple[np.ndarray, np.ndarray]:
    """Return all times and the row of the unit of each."""
    values, ends = inside(node, "spike_times"), inside(node, "spike_times_index")
    if values is None and ends is None:
        return np.empty(0), np.empty(0, dtype=np.int64)
    if values is None or ends is None or len(values.shape) != 1 or values.dtype.kind not in "iuf":
        raise LoadError(explain(f"{node.name}", expected="spike_times with spike_times_index", got="others"))
    bounds = csr_ends(whole(ends), values.shape[0], f"{node.name}/spike_times_index")
    if len(bounds) != n_units:
        raise LoadError(explain(f"{node.name}", expected=f"{n_units} ends of spike times", got=str(len(bounds))))
    unit = np.repeat(np.arange(n_units), np.diff(bounds, prepend=0))
    return whole(values, limit=_BIG).astype(np.float64), unit


def _areas(file: Any, node: Any, columns: dict[str, np.ndarray]) -> None:
    """Name the area of each unit, from its column or from the first of its electrodes."""
    if "location" in columns:
        columns["area"] = columns["location"]
        return
    electrodes = file.get("general/extracellular_ephys/electrodes")
    if "peak_channel_id" in columns and electrodes is not None and {"id", "location"} <= set(electrodes):
        known = dict(zip(whole(electrodes["id"]).tolist(), whole(electrodes["location"]).tolist(), strict=True))
        columns["area"] = np.asarray([str(known.get(k, "")) for k in columns["peak_channel_id"].tolist()], dtype=str)
        return
    pieces = ragged(node, "electrodes") if electrodes is not None and "area" not in columns else None
    if pieces is None or "location" not in electrodes or any(piece.dtype.kind not in "iu" for piece in pieces):
        return
    place = whole(electrodes["location"])
    columns["area"] = np.asarray([place[p[0]] if len(p) and 0 <= p[0] < len(place) else "" for p in pieces], dtype=str)


def _support(node: Any, times: np.ndarray, epochs: Any) -> tuple[Intervals | None, dict[str, Any]]:
    """Return when the units were observed, and where that is known from."""
    pieces = ragged(node, "obs_intervals")
    if pieces:
        bounds = np.concatenate([np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in pieces])
        if len({p.tobytes() for p in pieces}) > 1:
            text = f"{node.file.filename}: units were observed at different times; the support is the union"
            warnings.warn(text, TectumWarning, stacklevel=2)
        spans = Intervals(start=torch.from_numpy(bounds[:, 0].copy()), stop=torch.from_numpy(bounds[:, 1].copy()))
        return spans.merged(), {"support": "obs_intervals"}
    if isinstance(epochs, Intervals) and len(epochs):
        hull = Intervals.from_pairs([(float(epochs.start.min()), float(epochs.stop.max()))])
        if bool(hull.contains(torch.from_numpy(times)).all()):
            return hull, {"support": "assumed from the first to the last epoch"}
    return None, {}
