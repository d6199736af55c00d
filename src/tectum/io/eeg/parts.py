"""MNE's objects as our containers: channels by type and unit, tables of channels and trials, one clock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from tectum.core.errors import InputError, LoadError, explain, nearest
from tectum.core.intervals import Intervals
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording
from tectum.core.units import UNITS, check_units

from ..events import span
from ..files import reading
from .events import column, intervals_of
from .files import mne_warnings
from .opened import Opened
from .units import PLAUSIBLE, STATED, VOLTAGE, check_amplitude, check_unit, plain, unit_of, warn_without_unit

_MODALITY = {"mag": "meg", "grad": "meg", "ref_meg": "meg"}
_IEEG = {"seeg", "ecog", "dbs"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the caller asked for, and what is known besides the file.

    Parameters
    ----------
    where : str
        File or object in messages.
    picks : str or sequence of str, optional
        Types or names of channels to keep, in one recording.
    types : str or mapping of str to str, optional
        What the channels are: one type for all that the file calls "eeg" or "misc", or a type by name.
    units : str, optional
        What the numbers of the file are in, whatever it claims.
    events : bool
        Whether triggers are read.
    columns : mapping of str to (mapping of channel name to value)
        More columns for the table of channels.
    intervals : mapping of str to Intervals
        Further intervals, counted from the first sample.
    trial : mapping of str to array
        More columns for the table of trials.
    who, meta : mapping
        Subject and session; what else is known.
    step : mapping
        First step of the history.
    """

    where: str = "from_mne"
    picks: str | Sequence[str] | None = None
    types: str | Mapping[str, str] | None = None
    units: str | None = None
    events: bool = True
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    intervals: Mapping[str, Intervals] = field(default_factory=dict)
    trial: Mapping[str, Any] = field(default_factory=dict)
    who: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    step: Mapping[str, Any] = field(default_factory=dict)

    def type_of(self, name: str, kind: str) -> str:
        """Return the type of a channel, the caller's before the file's."""
        if isinstance(self.types, str):
            return self.types if kind in ("eeg", "misc") else kind
        return (self.types or {}).get(name, kind)


@dataclass(frozen=True)
class Channel:
    """One channel: position in MNE's object, name, type, our unit, factor from MNE's numbers, unit in the file."""

    row: int
    name: str
    type: str
    unit: str
    factor: float
    stated: str


@dataclass(frozen=True)
class Part:
    """Channels of one unit in one MNE object, and all that their recording needs."""

    inst: Any
    channels: Sequence[Channel]
    opened: Opened
    options: Options

    @property
    def rows(self) -> np.ndarray:
        """Positions of the channels: array (n_channels,)."""
        return np.array([c.row for c in self.channels])

    @property
    def factors(self) -> np.ndarray:
        """What to multiply MNE's numbers with: array (n_channels,), float64."""
        return np.array([c.factor for c in self.channels], dtype=np.float64)


@dataclass(frozen=True)
class RawSource:
    """Continuous data (channel, time) that MNE reads from disk part by part.

    Parameters
    ----------
    raw : mne.io.BaseRaw
        MNE's object.
    rows : array of int, shape (n_channels,)
        Its channels.
    factors : array, shape (n_channels,), float64
        What to multiply MNE's numbers with.
    where : str
        File in messages.
    edges : tuple of int
        Samples that no single read may cross.
    """

    raw: Any
    rows: np.ndarray
    factors: np.ndarray
    where: str
    edges: tuple[int, ...] = ()
    dtype: Any = np.dtype(np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of channels and samples."""
        return len(self.rows), len(self.raw.times)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read channels and samples."""
        channel, time = index
        rows = self.rows[channel]
        start, stop, _ = time.indices(self.shape[1])
        if len(rows) == 0 or stop <= start:
            return np.empty((len(rows), max(stop - start, 0)))
        with reading(self.where, "the data that were there when it was opened"), mne_warnings(self.where):
            cuts = [start, *(e for e in self.edges if start < e < stop), stop]
            block: np.ndarray = np.concatenate([self.raw[rows, a:b][0] for a, b in pairwise(cuts)], axis=1)
        if block.shape != (len(rows), stop - start):
            expected = f"{len(rows)} x {stop - start} values"
            raise LoadError(explain(self.where, expected=expected, got=f"{block.shape}"))
        return block if (self.factors == 1.0).all() else block * self.factors[channel, None]


def recordings(opened: Opened, options: Options) -> dict[str, Recording]:
    """Return the recordings in an opened file or MNE object, by type of channel.

    Raises
    ------
    InputError
        If no channel is left, or the channels picked differ in unit or rate.
    AmplitudeError
        If values cannot be in their unit.
    """
    if options.units is not None:
        check_units(options.units, "units")
    continuous = hasattr(opened.objects[0], "first_samp")
    objects = opened.objects if continuous else opened.objects[:1]
    _check_types(objects, options)
    parts = [
        Part(o, group, opened, options) for o in objects for group in _groups(_channels(o, opened, options), options)
    ]
    if not parts:
        got = "none but triggers" if options.picks is None else f"none of {options.picks!r}"
        raise InputError(explain(options.where, expected="channels of signals", got=got))
    if options.picks is not None and len(parts) > 1:
        got = ", ".join(f"{p.channels[0].type} in {p.channels[0].unit} at {p.inst.info['sfreq']:g} Hz" for p in parts)
        raise InputError(explain("picks", expected="channels of one unit and rate", got=got, fix="pick one of them"))
    shared = _shared(objects[0], options)
    if continuous:
        shared["intervals"] = _intervals(objects, options)
    return dict(zip(_names(parts), [_recording(part, shared) for part in parts], strict=True))


# Channels


def _check_types(objects: Sequence[Any], options: Options) -> None:
    """Refuse types for channels that are not there."""
    names = [name for inst in objects for name in inst.ch_names]
    if isinstance(options.types, Mapping) and (unknown := [n for n in options.types if n not in names]):
        fix = nearest(str(unknown[0]), names)
        raise InputError(explain("types", expected="names of channels", got=repr(unknown[0]), fix=fix))


def _channels(inst: Any, opened: Opened, options: Options) -> list[Channel]:
    """Return the table of channels."""
    made = []
    table = zip(inst.ch_names, inst.get_channel_types(), inst.info["chs"], strict=True)
    for row, (name, kind, info) in enumerate(table):
        stated = plain(opened.units.get(name, ""))
        unit, factor = unit_of(int(info["unit"]), stated, opened, kind)
        told = options.type_of(name, kind)
        if not opened.typed and told == "eeg" and unit not in VOLTAGE and stated:
            told = "misc"  # a temperature is no EEG
        if options.units is not None and kind != "stim":
            size = UNITS[stated][1] if stated in VOLTAGE and unit == "V" else 1.0
            unit, factor = options.units, factor / size
        elif kind != "stim":
            check_unit(name, told, unit, opened, options.where)
        made.append(Channel(row, name, told, unit, factor, stated))
    if options.units is None and opened.kind in (*STATED, "BrainVision"):
        odd = [(c.name, c.stated) for c in made if c.unit == "a.u." and c.type != "stim"]
        warn_without_unit(odd, options.where)
    return made


def _groups(channels: Sequence[Channel], options: Options) -> list[list[Channel]]:
    """Return the channels asked for: by type and unit, or those picked, by unit."""
    groups: dict[tuple[str, str], list[Channel]] = {}
    if options.picks is not None:
        wanted = {options.picks} if isinstance(options.picks, str) else set(options.picks)
        for c in channels:
            if c.name in wanted or c.type in wanted:
                groups.setdefault(("", c.unit), []).append(c)
        return list(groups.values())
    for c in channels:
        if c.type != "stim":
            groups.setdefault((c.type, c.unit), []).append(c)
    return sorted(groups.values(), key=lambda g: g[0].type not in PLAUSIBLE)  # signals of the brain come first


def _names(parts: Sequence[Part]) -> list[str]:
    """Name the parts after their types; where a type repeats, unit and rate stand behind it as far as they differ."""
    keys = [
        (p.channels[0].type, p.channels[0].unit.replace("/", "_per_"), f"{p.inst.info['sfreq']:g}Hz") for p in parts
    ]
    names = []
    for key in keys:
        alike = [other for other in keys if other[0] == key[0]]
        differ = [k for k in (1, 2) if len({other[k] for other in alike}) > 1]
        names.append("_".join([key[0], *(key[k] for k in differ)]))
    return names


def _table(part: Part) -> dict[str, Any]:
    """Return the coordinates of the channels: name, type, bad, position in m, and what else is known."""
    info = part.inst.info
    table: dict[str, Any] = {
        "name": np.array([c.name for c in part.channels]),
        "type": np.array([c.type for c in part.channels]),
        "bad": np.array([c.name in info["bads"] for c in part.channels]),
    }
    place = np.array([info["chs"][row]["loc"][:3] for row in part.rows], dtype=np.float64).reshape(-1, 3)
    place[(place == 0).all(axis=1)] = np.nan
    if np.isfinite(place).any():
        table |= dict(zip("xyz", place.T, strict=True))
    for name, values in part.options.columns.items():
        found = [values.get(c.name) for c in part.channels]
        if name == "bad":
            table[name] = np.array([bool(v) for v in found])
        elif any(v is not None for v in found):
            lost = math.nan if all(v is None or isinstance(v, float) for v in found) else ""
            table[name] = np.array([lost if v is None else v for v in found])
    return table


# Recordings


def _shared(inst: Any, options: Options) -> dict[str, Any]:
    """Return what all parts of a file have in common."""
    import mne

    info = inst.info
    subject = info.get("subject_info") or {}
    meta: dict[str, Any] = {"highpass": float(info["highpass"]), "lowpass": float(info["lowpass"])}
    if info["meas_date"] is not None:
        meta["measured"] = info["meas_date"].isoformat()
    if info["line_freq"]:
        meta["line_frequency"] = float(info["line_freq"])
    if info["projs"]:
        meta["projectors"] = [str(p["desc"]) for p in info["projs"]]
    frames = {int(c["coord_frame"]) for c in info["chs"] if np.isfinite(c["loc"][:3]).all() and c["loc"][:3].any()}
    if frames:
        meta["positions"] = {"unit": "m", "frame": _frame(min(frames))}
    known = str(subject.get("his_id") or "")
    who = {"subject": "" if known == "X" else known, "session": ""}  # X is EDF's word for unknown
    who |= {k: v for k, v in options.who.items() if v}
    step = {"step": "read", "mne": str(mne.__version__), **options.step}
    kinds = zip(inst.ch_names, inst.get_channel_types(), strict=True)
    if triggers := [name for name, kind in kinds if options.type_of(name, kind) == "stim"]:
        step["triggers"] = triggers
    return {"meta": meta | dict(options.meta), "who": who, "step": step}


def _frame(code: int) -> str:
    """Return the name of a frame of coordinates by its code in FIF."""
    return {1: "device", 4: "head", 5: "mri", 2001: "mri voxel", 2002: "mri", 2003: "mni_tal"}.get(
        code, f"frame {code}"
    )


def _recording(part: Part, shared: Mapping[str, Any]) -> Recording:
    """Return one part as a recording whose values are plausible."""
    kinds = {_MODALITY.get(c.type, c.type) for c in part.channels}
    stated = sorted({c.stated for c in part.channels if c.stated})
    step = {**shared["step"], **({"unit_in_file": stated} if stated else {}), "channels": len(part.channels)}
    common: dict[str, Any] = {
        "units": part.channels[0].unit,
        "modality": kinds.pop() if len(kinds) == 1 else "ieeg" if kinds <= _IEEG else "physiology",
        "meta": shared["meta"],
        "history": (step,),
        "rate": float(part.inst.info["sfreq"]),
        "intervals": shared.get("intervals", {}),
        **shared["who"],
    }
    continuous, events = hasattr(part.inst, "first_samp"), hasattr(part.inst, "events")
    made = (_continuous if continuous else _epochs if events else _averages)(part, _table(part), common)
    check_amplitude(made, part.options.where)
    return made


def _intervals(raws: Sequence[Any], options: Options) -> dict[str, Intervals]:
    """Return what happened during a file."""

    def is_trigger(name: str, kind: str) -> bool:
        return options.type_of(name, kind) == "stim"

    t0 = float(raws[0].first_samp / raws[0].info["sfreq"])
    return intervals_of(raws, t0, options.intervals, is_trigger if options.events else None)


def _continuous(part: Part, table: Mapping[str, Any], common: Mapping[str, Any]) -> Recording:
    """Return a continuous recording (channel, time) that is read when used, or a copy of what is in memory."""
    raw, rate = part.inst, common["rate"]
    t0 = float(raw.first_samp / rate)
    data = LazyArray(RawSource(raw, part.rows, part.factors, part.options.where, part.opened.edges))
    support = span(t0, t0 + len(raw.times) / rate)
    return Recording(
        data=data.load() if raw.preload else data,
        dims=("channel", "time"),
        t0=t0,
        coords={"channel": table},
        **{**common, "intervals": {"support": support, **common["intervals"]}},
    )


def _epochs(part: Part, table: Mapping[str, Any], common: Mapping[str, Any]) -> Recording:
    """Return epochs (trial, channel, time) in memory, with the table of trials."""
    epochs = part.inst
    with mne_warnings(part.options.where):
        values = epochs.get_data(picks=part.rows, copy=False) * part.factors[:, None]
    codes = epochs.events[:, 2]
    names = {code: name for name, code in epochs.event_id.items()}
    onset = epochs.events[:, 0] / float(getattr(epochs, "_raw_sfreq", None) or common["rate"])
    trial: dict[str, Any] = {
        "label": np.array([names.get(int(code), str(code)) for code in codes], dtype=str),
        "value": codes.astype(np.int64),
        "start": onset,
        "stop": onset,
    }
    if epochs.metadata is not None:
        trial |= {str(k): column(epochs.metadata[k]) for k in epochs.metadata.columns if str(k) not in trial}
    trial |= part.options.trial
    return Recording(
        data=torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)),
        dims=("trial", "channel", "time"),
        t0=float(epochs.times[0]),
        coords={"channel": table, "trial": trial},
        **common,
    )


def _averages(part: Part, table: Mapping[str, Any], common: Mapping[str, Any]) -> Recording:
    """Return one average (channel, time), or averages over one window (trial, channel, time)."""
    first, every = part.inst, part.opened.objects
    if any(e.ch_names != first.ch_names or not np.array_equal(e.times, first.times) for e in every):
        fix = "read them with mne.read_evokeds and convert each"
        got = "averages of different channels or windows"
        raise InputError(explain(part.options.where, expected="averages alike", got=got, fix=fix))
    values = np.stack([e.data[part.rows] * part.factors[:, None] for e in every])
    trial = {"label": np.array([str(e.comment) for e in every]), "n_averaged": np.array([int(e.nave) for e in every])}
    made = Recording(
        data=torch.from_numpy(values.astype(np.float32)),
        dims=("trial", "channel", "time"),
        t0=float(first.times[0]),
        coords={"channel": table, "trial": trial},
        **common,
    )
    return made.isel(trial=0) if len(every) == 1 else made
