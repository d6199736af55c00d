"""Time series of NWB files: which axis is which, the clock, the unit and the table of regions or electrodes."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.dims import VOCABULARY
from tectum.core.errors import LoadError, TectumWarning, explain
from tectum.core.intervals import Intervals
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording
from tectum.core.units import UNITS

from .events import Fix, frame_times, span, support_without_gaps
from .files import AmbiguousAxisError, Scaled
from .hdf5 import attribute, inside, source, table, text, whole

#: Words for units in NWB files -> ours.
_UNITS = {
    "volt": "V", "volts": "V", "v": "V", "millivolts": "mV", "microvolts": "uV", "uv": "uV", "mv": "mV",
    "meter": "m", "meters": "m", "metre": "m", "metres": "m", "centimeters": "cm", "millimeters": "mm",
    "micrometers": "um", "microns": "um", "pixels": "a.u.", "px": "a.u.",
    "radian": "rad", "radians": "rad", "degree": "deg", "degrees": "deg",
    "second": "s", "seconds": "s", "sec": "s", "milliseconds": "ms", "hertz": "Hz",
    "meters/second": "m/s", "cm/second": "cm/s", "centimeters/second": "cm/s",
    "lumens": "F", "fluorescence": "F", "df/f": "dF/F", "dff": "dF/F",
}  # fmt: skip
_NO_UNIT = {"", "n.a.", "n/a", "na", "unknown", "none", "a.u.", "au", "arbitrary", "unitless", "no unit", "1"}
#: Voltages that :func:`tectum.io.convert.to_nwb` writes -> factor to the volts that NWB wants.
VOLTS = {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "nV": 1e-9}
#: Key of the JSON in the comments of a series that we wrote: names of its axes, unit and modality.
OURS = "tectum"
_NAMES = {1: ("x",), 2: ("x", "y"), 3: ("x", "y", "z")}


@dataclass(frozen=True)
class Options:
    """What the reader was asked for, and who was recorded."""

    path: Path
    axis: int | None
    fix: Fix
    dtype: torch.dtype
    who: dict[str, Any]
    meta: dict[str, Any]


def is_series(node: Any) -> bool:
    """Tell whether a group is a time series: it has data, and a clock or a type that says so."""
    kind = kind_of(node)
    has_clock = node.get("timestamps") is not None or node.get("starting_time") is not None
    return has_clock or (node.get("data") is not None and kind.endswith("Series"))


def kind_of(node: Any) -> str:
    """Return the type of a group; NWB 1 calls all series TimeSeries and names the type last among the ancestors."""
    ancestry = node.attrs.get("ancestry")
    if ancestry is not None and np.ndim(ancestry) == 1 and len(ancestry):
        last = ancestry[-1]
        return last.decode("utf-8", "replace") if isinstance(last, bytes) else str(last)
    return str(attribute(node, "neurodata_type", ""))


def _ours(node: Any, ndim: int) -> dict[str, Any]:
    """Return what we noted when we wrote a series, empty for the series of others."""
    text = attribute(node, "comments", "")
    if not isinstance(text, str) or not text.startswith(f'{{"{OURS}"'):
        return {}
    try:
        note = json.loads(text)[OURS]
        dims, units = tuple(note["dims"]), note["units"]
        fits = len(dims) == ndim and dims[0] == "time" and set(dims) <= set(VOCABULARY) and units in UNITS
        return {"dims": dims, "units": units, "modality": str(note["modality"])} if fits else {}
    except (ValueError, KeyError, TypeError):
        return {}


def read_series(name: str, node: Any, options: Options) -> Recording | Intervals | str:
    """Return a series as a container, or the reason why it is left out."""
    data, kind = inside(node, "data"), kind_of(node)
    if data is None or not hasattr(data, "shape"):
        return "it has no data of its own"
    if 0 in data.shape:
        return "its data are empty or in another file"
    if data.dtype.kind not in "biuf" or kind in ("AnnotationSeries", "IntervalSeries"):
        return _events(node, data, kind, options)
    ours = _ours(node, len(data.shape))
    dims, order, note = (ours["dims"], None, {}) if ours else _axes(name, node, data, kind, options)
    if not dims:
        return str(note["reason"])
    return _recording(name, node, data, kind, dims, order, {**note, **({OURS: ours} if ours else {})}, options)


def _recording(
    name: str,
    node: Any,
    data: Any,
    kind: str,
    dims: tuple[str, ...],
    order: tuple[int, ...] | None,
    note: dict[str, Any],
    options: Options,
) -> Recording:
    n_time = data.shape[order[0] if order else 0]
    clock, keep, clock_note = _clock(node, n_time, options)
    ours = note.pop(OURS, {})
    units, unit_note = (ours["units"], {"unit_from": OURS}) if ours else _unit(name, data, kind)
    array = _lazy(node, data, order, options, VOLTS[units] if ours and kind == "ElectricalSeries" else 1.0)
    return Recording(
        data=array if keep is None else array[keep],
        dims=dims,
        coords=_coords(node, dims, array.shape, kind),
        units=units,
        modality=ours["modality"]
        if ours
        else "calcium"
        if kind == "RoiResponseSeries"
        else "ephys"
        if kind == "ElectricalSeries"
        else "behaviour",
        meta={**options.meta, "description": str(attribute(node, "description", ""))},
        history=({"step": "read", "format": "nwb", "series": name, "type": kind, **note, **clock_note, **unit_note},),
        **clock,
        **options.who,
    )


def _axes(
    name: str, node: Any, data: Any, kind: str, options: Options
) -> tuple[tuple[str, ...], tuple[int, ...] | None, dict[str, Any]]:
    """Return names of the axes, their order on disk and what was found out."""
    ndim = len(data.shape)
    if kind == "RoiResponseSeries":
        return _roi_axes(name, node, data.shape, options)
    if ndim == 1:
        return ("time",), None, {}
    if ndim == 2:
        return ("time", "channel" if kind == "ElectricalSeries" else "feature"), None, {}
    if kind == "DecompositionSeries" and ndim == 3:
        return ("time", "channel", "freq"), None, {}
    if ndim in (3, 4) and (kind.endswith("ImageSeries") or kind in ("OnePhotonSeries", "TwoPhotonSeries")):
        return ("time", "x", "y", "z")[:ndim], None, {"assumed": "axes (frame, x, y) as in NWB"}
    return (), None, {"reason": f"shape {data.shape} of a {kind or 'nameless type'} has no known axes"}


def _roi_axes(
    name: str, node: Any, shape: tuple[int, ...], options: Options
) -> tuple[tuple[str, ...], tuple[int, ...] | None, dict[str, Any]]:
    """Tell time from regions by the number of regions and of timestamps: some writers turned them round."""
    rois, times = inside(node, "rois"), inside(node, "timestamps")
    rois = inside(node, "roi_names") if rois is None else rois  # NWB 1
    n_rois = rois.shape[0] if rois is not None and len(rois.shape) == 1 else None
    n_times = times.shape[0] if times is not None else None
    if len(shape) == 1 and n_rois in (None, 1):
        return ("time",), None, {}
    if len(shape) != 2:
        return (), None, {"reason": f"shape {shape} is not (time, unit)"}
    fits = [axis for axis in (0, 1) if n_rois in (None, shape[1 - axis]) and n_times in (None, shape[axis])]
    where = f"{options.path}:{name}"
    if not fits:
        got = f"shape {shape} with {n_rois} regions and {n_times} timestamps"
        raise LoadError(explain(where, expected="(time, unit) or (unit, time)", got=got))
    if options.axis is not None and len(fits) == 2:
        fits = [options.axis]
    if len(fits) == 2:
        got = f"shape {shape}, {n_rois} regions, {'no' if n_times is None else n_times} timestamps"
        fix = "pass axis=0 if the first axis is time, axis=1 if the second"
        raise AmbiguousAxisError(explain(where, expected="a way to tell time from regions", got=got, fix=fix))
    return ("time", "unit"), (1, 0) if fits[0] == 1 else None, {"transposed": fits[0] == 1}


def _clock(node: Any, n_time: int, options: Options) -> tuple[dict[str, Any], np.ndarray | None, dict[str, Any]]:
    """Return rate and start, or times, with the support; the frames kept; and what is to be noted."""
    where = f"{options.path}:{node.name}"
    start, stamps = inside(node, "starting_time"), inside(node, "timestamps")
    if stamps is None:
        rate = None if start is None else attribute(start, "rate")
        if rate is None or not np.isfinite(rate) or rate <= 0:
            raise LoadError(explain(where, expected="timestamps, or starting_time with a rate", got=f"rate {rate!r}"))
        t0 = float(np.asarray(start[()]).reshape(-1)[0])
        return {"rate": float(rate), "t0": t0, "intervals": {"support": span(t0, t0 + n_time / float(rate))}}, None, {}
    if stamps.shape != (n_time,) or stamps.dtype.kind not in "iuf":
        got = f"{stamps.shape} timestamps for {n_time} samples"
        raise LoadError(explain(where, expected=f"{n_time} timestamps", got=got))
    times, keep = frame_times(whole(stamps, limit=1 << 33), fix=options.fix, where=f"{where}/timestamps")
    note = {} if keep is None else {"fix": options.fix, "kept": len(times), "of": n_time}
    intervals = {"support": support_without_gaps(times, where)} if len(times) > 1 and _imaged(node) else {}
    rate = _exact_rate(times)
    if rate is not None:
        return (
            {"rate": rate, "t0": float(times[0]), "intervals": intervals},
            keep,
            {**note, "clock": "regular to 1e-9 s"},
        )
    return {"times": torch.from_numpy(times), "intervals": intervals}, keep, note


def _exact_rate(times: np.ndarray) -> float | None:
    """Return the rate of times that are regular to 1e-9 s."""
    if len(times) < 2:
        return None
    rate = (len(times) - 1) / float(times[-1] - times[0])
    rate = round(rate) if abs(rate - round(rate)) < 1e-9 * rate else rate
    exact = np.abs(times[0] + np.arange(len(times)) / rate - times).max() < 1e-9
    return float(rate) if exact else None


def _imaged(node: Any) -> bool:
    return bool(attribute(node, "neurodata_type") == "RoiResponseSeries")


def _unit(name: str, data: Any, kind: str) -> tuple[str, dict[str, Any]]:
    """Return our word for the unit; one that is not known becomes arbitrary, with a note and a warning."""
    stated = str(attribute(data, "unit", "") or "").strip()
    note = {"unit_in_file": stated}
    pieces = name.lower().split("/")
    if kind == "RoiResponseSeries" and any("deconvolved" in piece for piece in pieces):
        return "deconvolved", note
    if kind == "RoiResponseSeries" and any(piece.startswith(("dfoverf", "dff")) for piece in pieces):
        return "dF/F %" if stated in ("percent", "%") else "dF/F", note
    if stated in UNITS:
        return stated, note
    known = _UNITS.get(stated.lower())
    if known is None and stated.lower() not in _NO_UNIT:
        where = f"{data.file.filename}:{data.name}"
        warnings.warn(f"{where}: unit {stated!r} is unknown and read as 'a.u.'", TectumWarning, stacklevel=2)
    return known or ("F" if kind == "RoiResponseSeries" and pieces[0] == "fluorescence" else "a.u."), note


def _lazy(node: Any, data: Any, order: tuple[int, ...] | None, options: Options, unit: float) -> LazyArray:
    """Return the numbers in the stated unit: (data * conversion * channel conversion + offset) / unit."""
    scale, offset = float(attribute(data, "conversion", 1.0)) / unit, float(attribute(data, "offset", 0.0) or 0.0)
    if not (np.isfinite(scale) and np.isfinite(offset) and scale != 0):
        raise LoadError(explain(str(data.name), expected="a finite conversion", got=f"{scale} and offset {offset}"))
    stored: Any = source(options.path, data)
    channel = inside(node, "channel_conversion")
    if channel is not None:
        axis = int(attribute(channel, "axis", 1))
        if not 0 <= axis < len(data.shape) or channel.shape != (data.shape[axis],):
            got = f"{channel.shape} on axis {axis}"
            raise LoadError(explain(f"{channel.name}", expected="a factor for each channel", got=got))
        stored = Scaled(stored, whole(channel).astype(np.float64), axis)
    exact = data.dtype.kind in "biu" and (scale, offset) == (1.0, 0.0) and channel is None
    dtype = _integer(data.dtype) if exact else options.dtype
    return LazyArray(stored, order=order, scale=scale, offset=offset, dtype=dtype)


def _integer(dtype: np.dtype) -> torch.dtype:
    """Return the torch type that holds all values of a NumPy integer or bool."""
    if dtype.kind == "b":
        return torch.bool
    wide = dtype.itemsize * 8 + (dtype.kind == "u")
    return torch.int16 if wide <= 16 else torch.int32 if wide <= 32 else torch.int64


def _coords(node: Any, dims: tuple[str, ...], shape: torch.Size, kind: str) -> dict[str, dict[str, np.ndarray]]:
    """Return the table of regions or electrodes, or the names of the columns of a position."""
    if "unit" in dims or "channel" in dims:
        axis = "unit" if "unit" in dims else "channel"
        region = inside(node, "rois" if axis == "unit" else "electrodes")
        length = shape[dims.index(axis)]
        found = _names(node, length) if region is None else _rows(region, length)
        if "id_text" in found:  # ids that NWB does not take as such
            found["id"] = found.pop("id_text")
        if axis == "channel" and "label" in found:
            found["name"] = found["label"]
        return {axis: found} if found else {}
    if kind == "SpatialSeries" and dims == ("time", "feature") and shape[1] in _NAMES:
        return {"feature": {"name": np.asarray(_NAMES[shape[1]])}}
    return {}


def _names(node: Any, length: int) -> dict[str, np.ndarray]:
    """Return names of regions, and the ids of the cells that the Allen Institute gives, in files of NWB 1."""
    names = inside(node, "roi_names")
    if names is None or names.shape != (length,):
        return {}
    found = {"name": np.asarray(whole(names)).astype(str)}
    for room in (node.parent, node.parent.parent):
        ids = room.get("ImageSegmentation/cell_specimen_ids") if room is not None else None
        if ids is not None and ids.shape == (length,):
            found["id"] = whole(ids)
            break
    return found


def _rows(region: Any, length: int) -> dict[str, np.ndarray]:
    """Return the rows of a table that a region refers to."""
    reference = region.attrs.get("table")
    rows = whole(region)
    if reference is None or len(rows) != length or rows.dtype.kind not in "iu":
        return {}
    target = region.file[reference]
    columns, _ = table(target, skip=("image_mask", "pixel_mask", "voxel_mask"))
    if "iscell" in target and target["iscell"].shape == (len(columns.get("id", ())), 2):
        cells = whole(target["iscell"])
        columns |= {"iscell": cells[:, 0] == 1, "probability": cells[:, 1]}
    n_rows = len(next(iter(columns.values()), ()))
    if n_rows == 0 or (len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < n_rows):
        expected = f"rows of {target.name} below {n_rows}"
        raise LoadError(explain(str(region.name), expected=expected, got=f"up to {rows.max(initial=0)}"))
    picked = {name: column[rows] for name, column in columns.items()}
    place = picked.get("location")
    if place is None and (plane := inside(target, "imaging_plane")) is not None:
        where = text(plane, "location")
        place = np.full(length, where) if where else None
    return picked if place is None or "area" in picked else {**picked, "area": place}


def _events(node: Any, data: Any, kind: str, options: Options) -> Intervals | str:
    """Return annotated moments as spans without length, and signed pairs of times as spans."""
    stamps = inside(node, "timestamps")
    if stamps is None or stamps.shape != data.shape or len(data.shape) != 1:
        return f"{kind or 'it'} holds {data.dtype} and is no list of events"
    times, values = whole(stamps).astype(np.float64), whole(data)
    if not np.isfinite(times).all():
        raise LoadError(explain(f"{options.path}:{node.name}", expected="finite timestamps", got="NaN"))
    if kind == "IntervalSeries":
        return _spans(times, values, f"{options.path}:{node.name}")
    if values.dtype.kind != "U":
        return f"its data are of type {data.dtype}"
    bounds = torch.from_numpy(times)
    return Intervals(start=bounds, stop=bounds.clone(), columns={"label": values})


def _spans(times: np.ndarray, sign: np.ndarray, where: str) -> Intervals:
    """Pair the starts (positive) and stops (negative) of each kind."""
    rows = []
    for code in np.unique(np.abs(sign)):
        start, stop = times[sign == code], times[sign == -code.astype(np.int64)]
        if len(start) != len(stop):
            raise LoadError(explain(where, expected="as many stops as starts", got=f"{len(start)} and {len(stop)}"))
        rows += [(a, b, int(code)) for a, b in zip(start, stop, strict=True)]
    return Intervals.from_pairs([(a, b) for a, b, _ in rows], code=np.asarray([c for *_, c in rows], dtype=np.int64))
