"""Times as files hold them: found damaged, they are refused with the first index, or repaired if ``fix`` says how."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import numpy as np
import torch

from tectum.core.clock import check_rate
from tectum.core.errors import InputError, TectumWarning, explain
from tectum.core.intervals import Intervals
from tectum.core.spikes import Spikes

Fix = Literal["sort", "drop"] | None


def check_fix(fix: Any) -> None:
    """Raise :class:`InputError` unless ``fix`` is None, "sort" or "drop"."""
    if fix not in (None, "sort", "drop"):
        raise InputError(explain("fix", expected="None, 'sort' or 'drop'", got=repr(fix)))


def make_spikes(
    times: np.ndarray,
    unit: np.ndarray,
    *,
    n_units: int,
    fix: Fix = None,
    where: str = "spike times",
    support: Intervals | None = None,
    history: tuple[Any, ...] = (),
    **fields: Any,
) -> Spikes:
    """Build :class:`Spikes` from times grouped by unit, or sorted over all units.

    Parameters
    ----------
    times : array, shape (n_spikes,), float64
        Seconds on the session clock.
    unit : array, shape (n_spikes,), int
        Index of the unit of each.
    n_units : int
        Number of units.
    fix : {None, "sort", "drop"}
        What to do with NaN (only "drop") and with times that step back within a unit.
    where : str
        Owner of the times in messages.
    support : Intervals, optional
        When the units were observed; default from the first to the last spike, which the history then states.
    history : tuple
        Steps so far.
    **fields
        Further fields of :class:`Spikes`.

    Raises
    ------
    InputError
        For NaN and backward steps that ``fix`` does not repair, naming the first index.
    """
    check_fix(fix)
    times, unit = np.asarray(times, dtype=np.float64), np.asarray(unit)
    lost = ~np.isfinite(times)
    if lost.any() and fix != "drop":
        got = f"{int(lost.sum())} NaN or infinite, the first at {int(lost.argmax())}"
        raise InputError(explain(where, expected="finite times in s", got=got, fix="pass fix='drop' to lose them"))
    back = _backward(np.where(lost, -np.inf, times), unit) & ~lost
    if back.any() and fix is None:
        got = f"a negative interval before event {int(back.argmax())}"
        fix_it = "pass fix='sort', or fix='drop' to lose such events"
        raise InputError(explain(where, expected="times in order within each unit", got=got, fix=fix_it))
    dropped = lost | back if fix == "drop" else lost
    steps = [{"step": "fix", "how": fix, "dropped": int(dropped.sum()), "backward": int(back.sum())}] if fix else []
    if support is None:
        steps.append({"step": "assume", "support": "from the first to the last spike; rates are biased"})
    return Spikes.from_events(
        times[~dropped], unit[~dropped], n_units=n_units, support=support, history=(*history, *steps), **fields
    )


def _backward(times: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Tell which events lie before an earlier one of their unit."""
    order = np.argsort(unit, kind="stable")
    sorted_unit, sorted_times = unit[order], times[order]
    first = np.flatnonzero(np.diff(sorted_unit, prepend=-1)) if len(unit) else np.empty(0, int)
    found = np.zeros(len(times), dtype=bool)
    late = np.zeros(len(times), dtype=bool)
    late[1:] = sorted_times[1:] < sorted_times[:-1]
    late[first] = False
    if not late.any():
        return found
    for start in np.unique(first[np.searchsorted(first, np.flatnonzero(late), side="right") - 1]):
        stop = first[first > start].min(initial=len(times))
        highest = np.maximum.accumulate(sorted_times[start:stop])
        found[order[start:stop]] = sorted_times[start:stop] < highest
    return found


def frame_times(times: np.ndarray, *, fix: Fix = None, where: str = "timestamps") -> tuple[np.ndarray, Any]:
    """Return strictly increasing times and the positions of the frames kept, None for all.

    Raises
    ------
    InputError
        For NaN, repeated or decreasing times that ``fix`` does not repair, naming the first index.
    """
    check_fix(fix)
    times = np.asarray(times, dtype=np.float64)
    good = np.isfinite(times)
    late = np.zeros(len(times), dtype=bool)
    late[1:] = times[1:] <= np.maximum.accumulate(np.where(good, times, -np.inf))[:-1]
    if not (~good | late).any():
        return times, None
    if fix is None:
        first = int((~good | late).argmax())
        got = f"{times[first]:.10g} at {first}" + (f", after {times[first - 1]:.10g}" if first else "")
        fix_it = "pass fix='sort', or fix='drop' to lose such frames"
        raise InputError(explain(where, expected="finite, strictly increasing times", got=got, fix=fix_it))
    if fix == "drop":
        keep = np.flatnonzero(good & ~late)
    else:
        keep = np.flatnonzero(good)
        keep = keep[np.unique(times[keep], return_index=True)[1]]
    return times[keep], keep


def rate_of(value: Any, given: float | None, where: str, argument: str = "fs") -> tuple[float, dict[str, Any]]:
    """Return the sampling rate, the caller's before the file's, and what was assumed.

    Raises
    ------
    InputError
        If there is neither, or it is not a finite number above zero.
    """
    if given is not None:
        return check_rate(given, argument), {"rate": float(given), "rate_from": "caller"}
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not (math.isfinite(found) and found > 0):
        expected = "a sampling rate above 0 Hz"
        raise InputError(explain(where, expected=expected, got=repr(value), fix=f"pass {argument}=... in Hz"))
    return found, {"rate": found, "rate_from": "file"}


def support_without_gaps(times: np.ndarray, where: str) -> Intervals:
    """Return the spans covered by frames at ``times``; gaps above 1.5 median steps split it, with a warning."""
    if len(times) < 2:
        return Intervals.from_pairs([(times[0], np.nextafter(times[0], np.inf))] if len(times) else [])
    steps = np.diff(times)
    usual = float(np.median(steps))
    gaps = np.flatnonzero(steps > 1.5 * usual)
    if len(gaps):
        got = f"{len(gaps)} gaps above 1.5 frames, the first after {times[gaps[0]]:.6g} s"
        warnings.warn(f"{where}: {got}; they split the support", TectumWarning, stacklevel=2)
    start = np.concatenate([times[:1], times[gaps + 1]])
    stop = np.concatenate([times[gaps] + usual, [times[-1] + usual]])
    return Intervals(start=torch.from_numpy(start), stop=torch.from_numpy(stop))


def span(start: float, stop: float) -> Intervals:
    """Return one interval as a support."""
    return Intervals.from_pairs([(start, stop)])
