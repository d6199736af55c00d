"""Neo's objects: Block, Segment, SpikeTrain, AnalogSignal, IrregularlySampledSignal, Event, Epoch, ImageSequence."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tectum.core.device import from_numpy
from tectum.core.errors import InputError, MissingExtraError, TectumWarning, explain
from tectum.core.graph import Graph
from tectum.core.intervals import Intervals
from tectum.core.recording import Recording
from tectum.core.session import Session
from tectum.core.spikes import Spikes
from tectum.core.units import UNITS

from ..events import make_spikes, span

#: What a round trip through neo loses.
LOST = (
    "the names of axes other than time: signals come back as (time, channel); only (time,) and two axes can go",
    "gaps of a support: neo keeps one start and one stop",
    "the mask, intervals of a recording, coordinates of axes other than the second, and meta and history",
    "units that neo's quantities do not know (dF/F, spikes/bin, ...): they come back through an annotation only",
    "modality, which comes back through an annotation only",
    "float64 values come back as float32",
    "graphs, and recordings without time or of more than two axes",
)
_QUANTITIES = {
    "V",
    "mV",
    "uV",
    "nV",
    "T",
    "pT",
    "fT",
    "s",
    "ms",
    "m",
    "cm",
    "mm",
    "um",
    "m/s",
    "cm/s",
    "rad",
    "deg",
    "Hz",
}
_TO_NEO = {"1": "dimensionless", "a.u.": "dimensionless"}
_OURS = "tectum"


def _neo() -> Any:
    try:
        import neo
    except ImportError as cause:
        fix = "pip install tectum[ephys]"
        raise MissingExtraError(explain("neo", expected="neo", got="none installed", fix=fix)) from cause
    return neo


def from_neo(obj: Any, *, subject: str = "", session: str = "") -> Spikes | Recording | Intervals | Session:
    """Convert an object of neo; lazy proxies are loaded.

    Parameters
    ----------
    obj : Block, Segment, SpikeTrain, AnalogSignal, IrregularlySampledSignal, Event, Epoch, ImageSequence, or a list
        of spike trains
    subject, session : str
        Who and when.

    Returns
    -------
    Spikes, Recording, Intervals
        For single objects, and Spikes for a list of spike trains.
    Session
        For a block or segment: ``spikes``; every signal, event and epoch under its name. Of several segments the names
        begin with ``segment0/``. A signal whose unit is unknown is read as "a.u." with a warning.

    Raises
    ------
    InputError
        If it is none of neo's objects.
    """
    who: dict[str, Any] = {"subject": subject, "session": session}
    if isinstance(obj, (list, tuple)) and obj and all(_kind(item) == "SpikeTrain" for item in obj):
        return _spikes(obj, who)
    kind = _kind(obj)
    if kind == "Block":
        return _block(obj, who)
    if kind == "Segment":
        return Session(items_=_segment(obj, who), **who)
    if kind not in _SINGLE:
        raise InputError(explain("from_neo", expected="an object of neo", got=type(obj).__name__))
    made: Spikes | Recording | Intervals = _SINGLE[kind](_loaded(obj), who)
    return made


def _kind(obj: Any) -> str:
    return type(obj).__name__.removesuffix("Proxy")


def _loaded(obj: Any) -> Any:
    return obj.load() if type(obj).__name__.endswith("Proxy") else obj


def _block(block: Any, who: dict[str, Any]) -> Session:
    segments = list(block.segments)
    parts: dict[str, Any] = {}
    for k, segment in enumerate(segments):
        prefix = f"segment{k}/" if len(segments) > 1 else ""
        parts |= {f"{prefix}{name}": part for name, part in _segment(segment, who).items()}
    return Session(items_=parts, meta={"format": "neo", "description": str(block.description or "")}, **who)


def _segment(segment: Any, who: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a segment under different names."""
    parts: dict[str, Any] = {}
    trains: dict[str, list[Any]] = {}
    for train in segment.spiketrains:
        trains.setdefault(str(train.annotations.get(f"{_OURS}_part", "spikes")), []).append(_loaded(train))
    for name, group in trains.items():
        parts[name] = _spikes(group, who)
    rooms = (
        ("signal", segment.analogsignals),
        ("signal", segment.irregularlysampledsignals),
        ("events", segment.events),
        ("epochs", segment.epochs),
        ("images", segment.imagesequences),
    )
    for default, room in rooms:
        for k, item in enumerate(room):
            item = _loaded(item)
            name = str(item.name or f"{default}{k}")
            while name in parts:
                name += "'"
            parts[name] = _SINGLE[_kind(item)](item, who)
    return parts


def _spikes(trains: Sequence[Any], who: dict[str, Any]) -> Spikes:
    """Merge trains of one segment; annotations with one value a train become columns."""
    times = [_seconds(train) for train in trains]
    bounds = [(float(t.t_start.rescale("s").magnitude), float(t.t_stop.rescale("s").magnitude)) for t in trains]
    inside = np.concatenate([np.zeros(0), *times])
    last = max(stop for _, stop in bounds)
    last = float(np.nextafter(last, np.inf)) if len(inside) and inside.max() >= last else last  # neo closes its range
    table = _annotations(trains)
    step = {"step": "convert", "from": "neo", "type": "SpikeTrain", "trains": len(trains)}
    return make_spikes(
        inside,
        np.repeat(np.arange(len(trains)), [len(t) for t in times]),
        n_units=len(trains),
        fix="sort" if _unsorted(times) else None,
        where="from_neo",
        support=span(min(start for start, _ in bounds), last),
        units=table,
        history=(step,),
        **_who(trains[0], who),
    )


def _unsorted(times: Sequence[np.ndarray]) -> bool:
    """Tell whether a train is out of order, which neo allows."""
    return any(bool((np.diff(t) < 0).any()) for t in times)


def _seconds(item: Any) -> np.ndarray:
    """Return times in s; whole multiples of s are taken as they are."""
    times = item.times
    if str(times.dimensionality) == "s":
        return np.array(times.magnitude, dtype=np.float64)
    return np.array(times.rescale("s").magnitude, dtype=np.float64)


def _annotations(trains: Sequence[Any]) -> dict[str, np.ndarray]:
    """Return the annotations that every train has, one number or text each, with names as ids."""
    shared = set.intersection(*(set(map(str, t.annotations)) for t in trains)) - {f"{_OURS}_part"}
    table = {}
    for name in sorted(shared):
        values = [t.annotations[name] for t in trains]
        if all(isinstance(v, (str, bool, int, float, np.generic)) for v in values):
            column = np.asarray(values)
            if column.dtype.kind in "biufU":
                table[name] = column
    names = [str(t.name or "") for t in trains]
    if "id" not in table:
        table["id"] = np.arange(len(trains))
    if any(names) and "name" not in table:
        table["name"] = np.asarray(names, dtype=str)
    return table


def _who(item: Any, who: dict[str, Any]) -> dict[str, Any]:
    return {k: v or str(item.annotations.get(f"{_OURS}_{k}", "")) for k, v in who.items()}


def _signal(item: Any, who: dict[str, Any]) -> Recording:
    """Convert a regular or irregular signal (time, channel)."""
    units = _unit(item)
    flat = bool(item.annotations.get(f"{_OURS}_flat", False))
    data = np.ascontiguousarray(np.asarray(item.magnitude))
    data = data[:, 0] if flat and data.shape[1] == 1 else data
    dims = ("time", "channel")[: data.ndim]
    step = {"step": "convert", "from": "neo", "type": _kind(item), "unit_in_neo": str(item.dimensionality)}
    clock: dict[str, Any]
    if _kind(item) == "AnalogSignal":
        rate = float(item.sampling_rate.rescale("Hz").magnitude)
        clock = {"rate": rate, "t0": float(item.t_start.rescale("s").magnitude)}
    else:
        clock = {"times": torch.from_numpy(_seconds(item))}
    tensor = from_numpy(data)
    return Recording(
        data=tensor.to(torch.float32) if tensor.is_floating_point() else tensor,
        dims=dims,
        coords=_channels(item, data) if len(dims) == 2 else {},
        units=units,
        modality=str(item.annotations.get(f"{_OURS}_modality", "ephys" if UNITS[units][0] == "voltage" else "")),
        history=(step,),
        **clock,
        **_who(item, who),
    )


def _unit(item: Any) -> str:
    """Return our word for the unit of a signal."""
    stated = str(item.annotations.get(f"{_OURS}_units", ""))
    if stated in UNITS:
        return stated
    word = str(item.dimensionality).replace("µ", "u")
    if word in UNITS:
        return word
    if word not in ("dimensionless",):
        text = f"from_neo: unit {word!r} of signal {item.name or ''!r} is unknown and read as 'a.u.'"
        warnings.warn(text, TectumWarning, stacklevel=3)
    return "a.u."


def _channels(item: Any, data: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Return the array annotations of a signal as the table of its channels."""
    found = {}
    for name, values in item.array_annotations.items():
        column = np.asarray(values)
        column = column if column.dtype.kind in "biufU" else column.astype(str)
        if column.shape == (data.shape[1],):
            found["name" if name == "channel_names" else str(name)] = column
    return {"channel": found} if found else {}


def _events(item: Any, who: dict[str, Any]) -> Intervals:
    """Convert events, which have no length, and epochs, which have one."""
    start = _seconds(item)
    length = np.zeros(len(start))
    if _kind(item) == "Epoch" and item.durations is not None and len(item.durations):
        length = np.asarray(item.durations.rescale("s").magnitude, dtype=np.float64)
    stop = item.array_annotations.get(f"{_OURS}_stop", start + length)
    columns = (
        {} if item.labels is None or len(item.labels) != len(start) else {"label": np.asarray(item.labels, dtype=str)}
    )
    for name, values in item.array_annotations.items():
        column = np.asarray(values)
        if column.shape == start.shape and column.dtype.kind in "biufU" and name != f"{_OURS}_stop":
            columns[str(name)] = column
    if item.annotations.get(f"{_OURS}_unlabelled", False):
        columns.pop("label", None)
    return Intervals(start=torch.from_numpy(start), stop=torch.from_numpy(np.array(stop, np.float64)), columns=columns)


def _images(item: Any, who: dict[str, Any]) -> Recording:
    """Convert a sequence of images (time, y, x)."""
    rate = float(item.sampling_rate.rescale("Hz").magnitude)
    data = from_numpy(np.ascontiguousarray(np.asarray(item.magnitude)))
    t0 = 0.0 if item.t_start is None else float(item.t_start.rescale("s").magnitude)
    step = {"step": "convert", "from": "neo", "type": "ImageSequence"}
    data = data.to(torch.float32) if data.is_floating_point() else data
    return Recording(
        data=data,
        dims=("time", "y", "x"),
        rate=rate,
        t0=t0,
        units=_unit(item),
        modality="image",
        history=(step,),
        **who,
    )


_SINGLE: dict[str, Any] = {
    "SpikeTrain": lambda item, who: _spikes([item], who),
    "AnalogSignal": _signal,
    "IrregularlySampledSignal": _signal,
    "Event": _events,
    "Epoch": _events,
    "ImageSequence": _images,
}


def to_neo(obj: Spikes | Recording | Intervals | Session, *, name: str = "") -> Any:
    """Convert a container to a block of one segment.

    Parameters
    ----------
    obj : Spikes, Recording, Intervals or Session
        Intervals without length become an Event, others an Epoch.
    name : str, optional
        Name of the part; of a session the names of its parts are used.

    Returns
    -------
    neo.Block

    Raises
    ------
    InputError
        For recordings without time or of more than two axes.
    """
    neo = _neo()
    block = neo.Block(name=name or None)
    segment = neo.Segment()
    block.segments.append(segment)
    parts: Mapping[str, Any] = obj if isinstance(obj, Session) else {name: obj}
    for key, part in parts.items():
        if isinstance(part, Spikes):
            segment.spiketrains.extend(_to_trains(neo, part, key))
        elif isinstance(part, Intervals):
            made = _to_events(neo, part, key)
            (segment.events if isinstance(made, neo.Event) else segment.epochs).append(made)
        elif isinstance(part, Recording):
            made = _to_signal(neo, part, key)
            regular = isinstance(made, neo.AnalogSignal)
            (segment.analogsignals if regular else segment.irregularlysampledsignals).append(made)
        elif not isinstance(part, Graph):
            got = type(part).__name__
            raise InputError(explain("to_neo", expected="Spikes, Recording, Intervals or Session", got=got))
    return block


def _to_trains(neo: Any, spikes: Spikes, name: str) -> list[Any]:
    support, times = spikes.span, spikes.times.numpy()
    edges = [*support.start.tolist(), *support.stop.tolist(), *times[:1].tolist(), *times[-1:].tolist()] or [0.0]
    table = {k: np.asarray(v) for k, v in spikes.units.items()}
    who = {f"{_OURS}_part": name or "spikes"}
    who |= {f"{_OURS}_subject": spikes.subject, f"{_OURS}_session": spikes.session}
    return [
        neo.SpikeTrain(
            train.numpy(),
            units="s",
            t_start=min(edges),
            t_stop=max(edges),
            name=str(table["name"][k]) if "name" in table else None,
            **{column: values[k].item() for column, values in table.items() if column != "name"},
            **who,
        )
        for k, train in enumerate(spikes.trains())
    ]


def _to_signal(neo: Any, rec: Recording, name: str) -> Any:
    import quantities

    if "time" not in rec.dims or rec.ndim > 2:
        raise InputError(explain("to_neo", expected="a recording (time,) or (time, channel)", got=str(rec.dims)))
    rest = [d for d in rec.dims if d != "time"]
    data = rec.tensor("time", *rest, device="cpu").numpy()
    data = data if data.dtype != bool else data.astype(np.uint8)
    word = rec.units if rec.units in _QUANTITIES else "dimensionless"
    notes: dict[str, Any] = {f"{_OURS}_units": rec.units, f"{_OURS}_modality": rec.modality, f"{_OURS}_flat": not rest}
    notes |= {f"{_OURS}_subject": rec.subject, f"{_OURS}_session": rec.session}
    table = {k: np.asarray(v) for k, v in rec.coords.get(rest[0], {}).items()} if rest else {}
    options: dict[str, Any] = {"units": word, "name": name or None, "array_annotations": table, **notes}
    values = data.reshape(len(data), -1)
    if rec.rate is not None:
        rate = rec.rate * quantities.Hz
        return neo.AnalogSignal(values, sampling_rate=rate, t_start=rec.t0 * quantities.s, **options)
    return neo.IrregularlySampledSignal(rec.time.numpy(), values, time_units="s", **options)


def _to_events(neo: Any, spans: Intervals, name: str) -> Any:
    import quantities

    columns = {k: np.asarray(v) for k, v in spans.columns.items()}
    labels = columns.pop("label", None)
    notes = {f"{_OURS}_unlabelled": labels is None}
    words = np.asarray(labels if labels is not None else [""] * len(spans)).astype(str)
    start, stop = spans.start.numpy(), spans.stop.numpy()
    options = {"labels": words, "name": name or None, **notes}
    if bool((spans.start == spans.stop).all()):
        return neo.Event(start * quantities.s, array_annotations=columns, **options)
    exact = {**columns, f"{_OURS}_stop": stop}
    return neo.Epoch(start * quantities.s, durations=(stop - start) * quantities.s, array_annotations=exact, **options)
