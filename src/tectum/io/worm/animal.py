"""One recorded animal on its way from a file to a Session: clock checked, neurons named, nothing else changed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from tectum.core.errors import InputError, TectumWarning, explain
from tectum.core.intervals import Intervals
from tectum.core.recording import Recording
from tectum.core.session import Session

from .names import Ambiguous, Guess, Identities, identify, neuron_table

JITTER = 0.5  # largest deviation of a step from the median step, relative to it
FixTime = Literal["regularise"] | None


@dataclass(frozen=True)
class Options:
    """What the caller of a reader decides.

    Parameters
    ----------
    ambiguous : {"unidentified", "class", "guess"}
        See :func:`tectum.io.worm.names.identify`.
    awc_on : {"L", "R"} or mapping of animal to it, optional
        Side of AWCON.
    strict : bool
        Labels that name no neuron raise.
    fix_time : {None, "regularise"}
        What to do with clocks that are not increasing or jitter by more than half a step.
    include_can : bool
        Whether CANL and CANR are neurons.
    units : str, optional
        Unit of the traces where the file does not tell.
    labels : path, optional
        Table of labels beside the recordings (Dag2023).
    """

    ambiguous: Ambiguous = "unidentified"
    awc_on: Any = None
    strict: bool = False
    fix_time: FixTime = None
    include_can: bool = False
    units: str | None = None
    labels: Any = None

    def __post_init__(self) -> None:
        if self.fix_time not in (None, "regularise"):
            raise InputError(explain("fix_time", expected="None or 'regularise'", got=repr(self.fix_time)))

    def side(self, animal: str) -> Any:
        """Return the side of AWCON in one animal."""
        return self.awc_on.get(animal) if isinstance(self.awc_on, Mapping) else self.awc_on


@dataclass(frozen=True)
class Animal:
    """What a file tells of one animal.

    Parameters
    ----------
    name : str
        Unique within the data set.
    values : array, shape (n_time, n_units)
        Traces as stored.
    labels : sequence of str or None, one a unit
        As stored.
    times : array, shape (n_time,), s, optional
        Or else ``rate`` and ``t0``.
    units : str
        Physical unit of the traces.
    confidence : array, shape (n_units,), optional
        How sure each label is.
    columns : mapping
        Further columns of the table of units.
    intervals : mapping
        Named spans: "stimuli", "reversals", "support".
    behaviour : mapping of str to array, shape (n_time,) or (n_time, k)
        On the same clock.
    meta, notes : mapping, tuple
        What else is known, and what was assumed.
    guess : {"nearest", "left_first"}, optional
        How the homogenised data guessed the ambiguous labels of this source; None: they did not.
    """

    name: str
    values: np.ndarray
    labels: Sequence[Any]
    times: np.ndarray | None = None
    rate: float | None = None
    t0: float = 0.0
    units: str = "a.u."
    confidence: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    intervals: Mapping[str, Intervals] = field(default_factory=dict)
    behaviour: Mapping[str, np.ndarray] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    guess: Guess | None = None


def vector(values: Any, where: str) -> np.ndarray:
    """Return a row or column of numbers as float64 (n,)."""
    found = np.asarray(values)
    if found.dtype.kind not in "biuf" or found.size != max(found.shape, default=1):
        raise InputError(explain(where, expected="one row or column of numbers", got=f"{found.dtype} {found.shape}"))
    return found.reshape(-1).astype(np.float64)


def table(values: Any, where: str) -> np.ndarray:
    """Return a matrix of numbers."""
    found = np.asarray(values)
    if found.ndim != 2 or found.dtype.kind not in "biuf" or found.size == 0:
        raise InputError(explain(where, expected="a matrix of numbers", got=f"{found.dtype} of shape {found.shape}"))
    return found


def to_session(
    animal: Animal, *, dataset: str, citation: str, file: str, options: Options
) -> tuple[Session, Identities]:
    """Check the clock of an animal, name its units and make containers.

    Returns
    -------
    Session, Identities
        Parts "activity" (time, unit), "behaviour" (time, channel) and matrices of behaviour by their names.
    """
    animal = _checked(animal, options)
    found = identify(
        animal.labels,
        confidence=animal.confidence,
        awc_on=options.side(animal.name),
        ambiguous="unidentified" if options.ambiguous == "guess" and animal.guess is None else options.ambiguous,
        include_can=options.include_can,
        guess=animal.guess or "nearest",
    )
    told = {name: list(getattr(found, name)) for name in ("unmatched", "ambiguous", "undeclared", "duplicates")}
    meta: dict[str, Any] = {
        "format": "worm",
        "dataset": dataset,
        "animal": animal.name,
        "file": file,
        "citation": citation,
    }
    meta |= {"condition": "", **animal.meta, **{k: v for k, v in told.items() if v}}
    common: dict[str, Any] = {**_clock(animal), "subject": f"{dataset}/{animal.name}", "modality": "calcium"}
    step: dict[str, Any] = {"step": "read", "format": "worm", "dataset": dataset, "file": file}
    step |= {"units": len(found.names), "named": int((found.names != "").sum()), "ambiguous": options.ambiguous}
    step |= {"assumed": list(animal.notes)} if animal.notes else {}
    activity = Recording(
        data=_float(animal.values),
        dims=("time", "unit"),
        coords={"unit": _units(animal, found)},
        intervals=animal.intervals,
        units=options.units or animal.units,
        meta=meta,
        history=(step,),
        **common,
    )
    common["modality"] = "behaviour"
    parts: dict[str, Any] = {"activity": activity, **_behaviour(animal, {**common, "meta": meta, "history": (step,)})}
    return Session(items_=parts, subject=common["subject"], meta=meta), found


def _units(animal: Animal, found: Identities) -> dict[str, np.ndarray]:
    columns = {"id": np.arange(len(found.names)), **neuron_table(found.names)}
    columns["class"] = found.classes
    columns["label"] = np.asarray(["" if x is None else str(x) for x in animal.labels], dtype=str)
    if animal.confidence is not None:
        columns["confidence"] = np.asarray(animal.confidence, dtype=np.float64)
    return {**columns, **animal.columns}


def _clock(animal: Animal) -> dict[str, Any]:
    if animal.times is None:
        return {"rate": animal.rate, "t0": animal.t0}
    return {"times": torch.from_numpy(np.ascontiguousarray(animal.times, dtype=np.float64))}


def _float(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32, order="C"))  # a copy that owns its memory


def _behaviour(animal: Animal, common: dict[str, Any]) -> dict[str, Recording]:
    """Return one recording of all single traces, and one for each matrix."""
    single = {k: v for k, v in animal.behaviour.items() if v.ndim == 1}
    made = {}
    if single:
        data = _float(np.stack(list(single.values()), axis=1))
        made["behaviour"] = Recording(
            data=data, dims=("time", "channel"), coords={"channel": {"name": list(single)}}, **common
        )
    for name, values in animal.behaviour.items():
        if values.ndim == 2:
            made[name] = Recording(data=_float(values), dims=("time", "feature"), **common)
    return made


def _checked(animal: Animal, options: Options) -> Animal:
    """Check lengths and clock; a clock that is not one is refused or, if asked for, made regular."""
    values = table(animal.values, f"{animal.name}: traces")
    n_time, n_units = values.shape
    if len(animal.labels) != n_units:
        got = f"{len(animal.labels)} labels"
        raise InputError(explain(f"{animal.name}: labels", expected=f"{n_units}, one a trace", got=got))
    if animal.times is None:
        return animal
    times = vector(animal.times, f"{animal.name}: time")
    if len(times) != n_time:
        raise InputError(explain(f"{animal.name}: time", expected=f"{n_time} times, one a frame", got=str(len(times))))
    problem = _jitter(times)
    if not problem:
        return replace(animal, times=times)
    if options.fix_time is None:
        fix = "pass fix_time='regularise' to interpolate onto a regular clock"
        raise InputError(explain(f"{animal.name}: time", expected="a steady increasing clock", got=problem, fix=fix))
    return _regular(animal, times)


def _jitter(times: np.ndarray) -> str:
    """Tell what is wrong with a clock, "" if nothing is."""
    bad = np.flatnonzero(~np.isfinite(times))
    if len(bad):
        return f"{times[bad[0]]} at frame {bad[0]}"
    steps = np.diff(times)
    back = np.flatnonzero(steps <= 0)
    if len(back):
        return f"{times[back[0] + 1]:.9g} s after {times[back[0]]:.9g} s at frame {back[0] + 1}"
    usual = float(np.median(steps)) if len(steps) else 1.0
    wide = np.flatnonzero(np.abs(steps - usual) > JITTER * usual)
    if len(wide):
        return f"a step of {steps[wide[0]]:.6g} s at frame {wide[0] + 1}, the median is {usual:.6g} s"
    return ""


def _regular(animal: Animal, times: np.ndarray) -> Animal:
    """Interpolate linearly onto a clock of the median step; NaN where frames are missing for more than 1.5 steps."""
    highest = np.maximum.accumulate(np.where(np.isfinite(times), times, -np.inf))
    good = np.isfinite(times) & np.concatenate([[True], times[1:] > highest[:-1]])
    kept = times[good]
    if len(kept) < 2:
        raise InputError(explain(f"{animal.name}: time", expected="two increasing times", got=str(len(kept))))
    step = float(np.median(np.diff(kept)))
    n_time = int((kept[-1] - kept[0]) / step + 1e-6) + 1
    if n_time > 100 * len(kept):
        got = f"gaps that would fill {n_time} frames"
        raise InputError(explain(f"{animal.name}: time", expected=f"{len(kept)} frames or so", got=got))
    at = kept[0] + step * np.arange(n_time)
    right = np.clip(np.searchsorted(kept, at), 1, len(kept) - 1)
    missing = (kept[right] - kept[right - 1] > 1.5 * step) & (at > kept[right - 1] + 1e-9) & (at < kept[right] - 1e-9)

    def onto(x: np.ndarray) -> np.ndarray:
        flat = np.asarray(x, dtype=np.float64)[good].reshape(len(kept), -1)
        made = np.stack([np.interp(at, kept, column) for column in flat.T], axis=1)
        made[missing] = np.nan
        return made.reshape(n_time, *np.shape(x)[1:])

    note = f"clock made regular: {int((~good).sum())} frames dropped, {int(missing.sum())} filled with NaN"
    warnings.warn(f"{animal.name}: {note}", TectumWarning, stacklevel=2)
    behaviour = {name: onto(x) for name, x in animal.behaviour.items()}
    return replace(animal, values=onto(animal.values), times=at, behaviour=behaviour, notes=(*animal.notes, note))
