"""From recordings to traces on shared units and one clock: every check of the input happens here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.errors import AxisError, InputError, explain, nearest
from ...core.recording import Recording
from .alignment import Events, regrid, to_shared_units
from .checks import check_alignment, check_finite, check_labels, check_times, check_traces, identified, shared_labels

#: Axes that may play the part of units.
UNIT_AXES = ("unit", "channel", "voxel", "vertex")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The hyper-parameters that lead from recordings to affinities; see the estimator for the meaning of each."""

    affinity: str
    sign: str
    derivative: float
    dead_zone: float
    min_run: float
    smoothing: float
    lags: Sequence[float] | None
    window: float
    bin: float | None
    remove_global: bool
    align: str
    assume_aligned: bool
    events: str
    before: float
    after: float
    around: float
    min_animals: int | None
    min_confidence: float | None
    resample: bool
    on_bad: str

    @classmethod
    def of(cls, estimator: Any) -> Settings:
        """Read the fields of these names."""
        return cls(**{f.name: getattr(estimator, f.name) for f in fields(cls)})


class Traces(NamedTuple):
    """Recordings on shared units and one clock; W animals, N units."""

    values: list[Tensor]  #: each (T_w, N); NaN columns for absent units, NaN where masked
    dt: float  #: s
    t0: list[float]  #: start of each recording, s
    units: list[str]  #: (N,)
    animals: list[str]  #: (W,)
    events: list[Events]  #: stimuli or events of each animal, s
    left_out: list[str]  #: units without any sample
    table: dict[str, np.ndarray]  #: further columns of the unit table, from the first animal that has each unit
    unnamed: int  #: number of units of a recording whose units have no names, else 0


def gather(recordings: Sequence[Recording], options: Settings) -> Traces:
    """Check recordings and put them on shared units and one sampling interval.

    Parameters
    ----------
    recordings : sequence of Recording
        Axes (time, unit); the unit axis may be a channel, voxel or vertex axis.
    options : Settings
        How.

    Returns
    -------
    Traces

    Raises
    ------
    InputError
        Naming the animal, what is wrong with it and what to do.
    """
    names = animal_names(recordings)
    raw = [_time_by_unit(rec, name) for rec, name in zip(recordings, names, strict=True)]
    labels = [_labels(rec, len(recordings) == 1, options.min_confidence) for rec in recordings]
    check_labels(labels, n_units=[x.shape[1] for x in raw], names=names)
    times = [rec.time for rec in recordings]
    dt = check_times(times, lengths=[len(x) for x in raw], resample=options.resample, names=names)
    raw, times = _one_clock(raw, times, dt, options.resample)
    check_traces(raw, dt=dt, sigma=options.derivative, names=names)
    cut = options.align != "absolute"
    events = [_events(rec, options.events, cut, name) for rec, name in zip(recordings, names, strict=True)]
    check_alignment(options.align, lengths=[len(x) for x in raw], n_events=[len(e) for e in events],
                    assume_aligned=options.assume_aligned, names=names)  # fmt: skip
    kept, values = _shared(raw, labels, options.min_animals)
    values, there = _without_bad(values, kept, options.on_bad, names)
    return Traces(
        values=values, dt=dt, t0=[float(t[0]) for t in times], units=there, animals=names, events=events,
        left_out=[u for u in kept if u not in set(there)], table=_table(recordings, labels, there),
        unnamed=raw[0].shape[1] if len(raw) == 1 and recordings[0].labels(unit_axis(recordings[0])) is None else 0,
    )  # fmt: skip


def animal_names(recordings: Sequence[Recording]) -> list[str]:
    """Return a distinct name for each recording: subject, else subject and session, else its number."""
    for rec in recordings:
        if not isinstance(rec, Recording):
            fix = "bin the spikes first, e.g. spikes.bin(0.1)" if hasattr(rec, "bin") else ""
            got = type(rec).__name__
            raise InputError(explain("DynamicConnectome", expected="a Recording or a list of them", got=got, fix=fix))
    names = [rec.subject or f"animal {w}" for w, rec in enumerate(recordings)]
    if len(set(names)) < len(names):
        names = ["/".join(x for x in (rec.subject, rec.session) if x) for rec in recordings]
    if len(set(names)) < len(names):
        names = [f"animal {w}" for w in range(len(recordings))]
    return names


def unit_axis(rec: Recording, name: str = "") -> str:
    """Return the axis of units of a (time, unit) recording."""
    found = [d for d in rec.dims if d in UNIT_AXES]
    if len(found) != 1 or sorted(rec.dims) != sorted(["time", found[0]]):
        extra = [d for d in rec.dims if d not in ("time", *UNIT_AXES)]
        fix = f"select or reduce {extra[0]}, e.g. rec.isel({extra[0]}=0)" if extra else "name the axes"
        where, got = f"DynamicConnectome, animal {name!r}", f"{rec.dims} of shape {tuple(rec.shape)}"
        raise AxisError(explain(where, expected="axes ('time', 'unit')", got=got, fix=fix))
    return found[0]


def _time_by_unit(rec: Recording, name: str) -> Tensor:
    """Traces (T, N), floating, NaN where masked."""
    axis = unit_axis(rec, name)
    return _masked(rec, rec.tensor("time", axis), ("time", axis))


def _masked(rec: Recording, x: Tensor, dims: tuple[str, ...]) -> Tensor:
    """Floating values with NaN where the mask of a recording says so."""
    x = x if x.is_floating_point() else x.float()
    if rec.mask is None:
        return x
    return torch.where(rec.valid().permute([rec.dims.index(d) for d in dims]), x, torch.nan)


def _labels(rec: Recording, alone: bool, min_confidence: float | None) -> list[str | None]:
    """Identities of the units; in a single recording every unit gets a name, by position where it has none."""
    axis = unit_axis(rec)
    found, n_units = rec.labels(axis), rec.sizes[axis]
    names: list[str | None] = [None] * n_units if found is None else [str(x) for x in found]
    sure = rec.coords.get(axis, {}).get("confidence")
    if min_confidence is not None and sure is not None:
        names = [n if ok else None for n, ok in zip(names, np.asarray(sure) >= min_confidence, strict=True)]
    if not alone:
        return names
    count = Counter(names)
    return [n if n and (identified(n) or count[n] == 1) else f"u{i:03d}" for i, n in enumerate(names)]


def _shared(
    raw: list[Tensor], labels: list[list[str | None]], min_animals: int | None
) -> tuple[list[str], list[Tensor]]:
    """Units in common order: those of the recording itself, or those that enough animals share."""
    if len(raw) == 1:
        return [str(name) for name in labels[0]], raw
    kept = shared_labels(labels, min_animals=min_animals)
    return kept, [to_shared_units(x, labels=found, kept=kept) for x, found in zip(raw, labels, strict=True)]


def _one_clock(raw: list[Tensor], times: list[Tensor], dt: float, resample: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Interpolate to the common interval where asked for and needed; lengths that differ by a step become equal."""
    if not resample:
        return raw, times
    regular = [bool(((t.diff() - dt).abs() <= 1e-6 * dt).all()) for t in times]
    made = [
        (x, t) if ok else regrid(x, times=t.to(x.device), dt=dt) for x, t, ok in zip(raw, times, regular, strict=True)
    ]
    lengths = [len(t) for _, t in made]
    spare = max(float(t.diff().max()) for t in times) / dt + 1  # rounding of the last sample
    stop = min(lengths) if max(lengths) - min(lengths) <= spare else None
    return [x[:stop] for x, _ in made], [t[:stop] for _, t in made]


def _events(rec: Recording, name: str, needed: bool, animal: str) -> Events:
    """Named spans of one recording as (name, start, stop)."""
    if name not in rec.intervals:
        if needed and rec.intervals:
            where, expected = "DynamicConnectome.events", f"intervals {name!r} in animal {animal!r}"
            got = f"intervals {', '.join(sorted(rec.intervals))}"
            raise InputError(explain(where, expected=expected, got=got, fix=nearest(name, rec.intervals)))
        return []
    table = rec.intervals[name]
    labels = table.columns.get("name", np.full(len(table), name))
    return [(str(label), a, b) for label, (a, b) in zip(labels, table.pairs(), strict=True)]


def _without_bad(
    values: list[Tensor], units: list[str], on_bad: str, names: list[str]
) -> tuple[list[Tensor], list[str]]:
    """Refuse or drop units with infinities or mostly missing samples; a dropped unit is absent from its animal.

    Samples at which nothing at all was recorded (a masked block) do not count as missing.
    """
    recorded = [x[~torch.isnan(x).all(1)] for x in values]
    good = check_finite(recorded, labels=[units] * len(values), on_bad=on_bad, names=names)
    values = [torch.where(ok, x, torch.nan) for x, ok in zip(values, good, strict=True)]
    there = torch.stack([torch.isfinite(x).any(0) for x in values]).any(0)
    kept = [u for u, ok in zip(units, there.tolist(), strict=True) if ok]
    if len(kept) < 3:
        got = f"samples of {len(kept)} of {len(units)} units"
        raise InputError(explain("DynamicConnectome", expected="at least 3 units with samples", got=got))
    return [x[:, there] for x in values], kept


def _table(
    recordings: Sequence[Recording], labels: Sequence[Sequence[Any]], kept: Sequence[str]
) -> dict[str, np.ndarray]:
    """Columns of the unit tables in the order of the shared units, from the first animal that has each unit."""
    places = [{name: i for i, name in enumerate(found)} for found in labels]
    homes = [next((w, place[u]) for w, place in enumerate(places) if u in place) for u in kept]
    tables = [rec.coords.get(unit_axis(rec), {}) for rec in recordings]
    shared = [c for c in tables[0] if c not in ("name", "id", "confidence") and all(c in t for t in tables)]
    return {c: np.asarray([tables[w][c][i] for w, i in homes]) for c in shared}


# Affinities that the user has computed


@dataclass(frozen=True, kw_only=True, eq=False)
class Affinities:
    """A ready affinity tensor with its names; T samples, W animals, P pairs."""

    values: Tensor  #: (T, W, P); NaN where not observed
    dt: float  #: s
    t0: float  #: s
    units: list[str]  #: (N,), in order of appearance
    pairs: list[tuple[str, str]]  #: names of the units of each pair
    animals: list[str]  #: (W,)
    events: Events  #: stimuli, s

    @property
    def index(self) -> Tensor:
        """The units of each pair, int64 (2, P), the smaller number first."""
        place = {name: i for i, name in enumerate(self.units)}
        return torch.tensor([sorted((place[a], place[b])) for a, b in self.pairs]).T


def is_affinity(rec: Any) -> bool:
    """Tell whether a recording holds ready affinities of pairs rather than traces."""
    return isinstance(rec, Recording) and "pair" in rec.dims


def gather_affinity(recordings: Sequence[Recording], options: Settings) -> Affinities:
    """Check a recording (time, subject, pair) of ready affinities.

    Parameters
    ----------
    recordings : sequence of one Recording
        Values in [0, 1], NaN where not observed; the pair axis has the columns "first" and "second".
    options : Settings
        Of which the name of the events matters.

    Returns
    -------
    Affinities

    Raises
    ------
    InputError
        If axes, names, clock or range are not as described.
    """
    rec, where = recordings[0], "DynamicConnectome (ready affinities)"
    if len(recordings) > 1 or set(rec.dims) != {"time", "subject", "pair"}:
        got = f"{len(recordings)} recordings, axes {rec.dims}"
        raise AxisError(explain(where, expected="one recording with axes ('time', 'subject', 'pair')", got=got))
    x = _masked(rec, rec.tensor("time", "subject", "pair"), ("time", "subject", "pair"))
    _check_range(x, where)
    table = rec.coords.get("pair", {})
    if not {"first", "second"} <= set(table):
        expected, got = "coordinates 'first' and 'second' of the pair axis", f"columns {sorted(table)}"
        raise InputError(explain(where, expected=expected, got=got, fix="name the two units of every pair"))
    pairs = [(str(a), str(b)) for a, b in zip(table["first"], table["second"], strict=True)]
    twice = [p for p, n in Counter(frozenset(p) for p in pairs).items() if n > 1 or len(p) < 2]
    units = list(dict.fromkeys([a for a, _ in pairs] + [b for _, b in pairs]))
    if twice or len(units) < 3:
        got = f"{len(units)} units; repeated or single: {[sorted(p) for p in twice[:5]]}"
        raise InputError(explain(where, expected="every pair once, of 3 units or more", got=got))
    dt = check_times([rec.time], lengths=[len(x)], names=[rec.subject or "affinities"])
    names = rec.labels("subject")
    animals = [f"animal {w}" for w in range(x.shape[1])] if names is None else [str(n) for n in names]
    return Affinities(values=x, dt=dt, t0=float(rec.time[0]), units=units, pairs=pairs, animals=animals,
                      events=_events(rec, options.events, False, ""))  # fmt: skip


def _check_range(x: Tensor, where: str) -> None:
    """Refuse affinities outside [0, 1]."""
    finite = x[~torch.isnan(x)]
    if finite.numel() == 0:
        raise InputError(explain(where, expected="affinities in [0, 1]", got="NaN only"))
    low, high = float(finite.min()), float(finite.max())
    if low < 0 or high > 1 + 1e-6:
        fix = "take absolute values, or a sign of its own for each fit" if low < 0 else "divide by the largest possible"
        raise InputError(explain(where, expected="affinities in [0, 1]", got=f"[{low:.4g}, {high:.4g}]", fix=fix))
