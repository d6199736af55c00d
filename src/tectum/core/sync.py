"""Two clocks brought together by the pulses that both have seen."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError, TectumWarning, explain
from .graph import Graph
from .intervals import Intervals
from .recording import Recording
from .serialize import storable
from .session import Session
from .spikes import Spikes

_MOST = 4_000_000  # pairs of equal intervals that are looked at
_TRIALS = 4_000  # lines tried
_WIDE = 15  # matched pulses whose median tells the local difference of the clocks


@storable
@dataclass(frozen=True, kw_only=True, eq=False)
class ClockMap:
    """A map from the times of one clock to those of another, made by :func:`align_clocks`.

    Between matched pulses it is linear; before the first and after the last it goes on with ``slope``.

    Parameters
    ----------
    source, target : Tensor, shape (n_pulses,), float64
        Times in s of the matched pulses on either clock.
    slope, offset : float
        The line ``target = slope * source + offset`` fitted to the matched pulses; ``slope - 1`` is the drift.
    unmatched : tuple of int
        Pulses without a partner on the first and on the second clock.
    linear : bool, default False
        Map by the line alone, which averages the jitter of pulses away where the drift is constant.
    """

    source: Tensor
    target: Tensor
    slope: float
    offset: float
    unmatched: tuple[int, int] = (0, 0)
    linear: bool = False

    @property
    def residual_ms(self) -> Tensor:
        """Distance of each matched pulse from the line: Tensor of shape (n_pulses,), ms."""
        return (self.target - (self.slope * self.source + self.offset)) * 1e3

    @property
    def rms_ms(self) -> float:
        """Root mean square of the residuals, ms."""
        return float(self.residual_ms.square().mean().sqrt())

    @property
    def drift_ppm(self) -> float:
        """How much faster the second clock runs, in parts per million."""
        return (self.slope - 1.0) * 1e6

    def report(self) -> dict[str, Any]:
        """Return what to look at before trusting the map: numbers of pulses, drift, and residuals in ms."""
        size = self.residual_ms.abs()
        return {
            "matched": len(self.source),
            "unmatched": list(self.unmatched),
            "drift_ppm": self.drift_ppm,
            "offset_s": self.offset,
            "rms_ms": self.rms_ms,
            "worst_ms": float(size.max()),
            "span_s": [float(self.source[0]), float(self.source[-1])],
        }

    def extrapolated(self, times: Any) -> Tensor:
        """Tell which times lie before the first or after the last pulse: bool Tensor, shape of ``times``."""
        values = torch.as_tensor(times, dtype=torch.float64, device="cpu")
        return (values < self.source[0]) | (values > self.source[-1])

    def __call__(self, times: Any) -> Tensor:
        """Return times on the second clock: Tensor of the shape of ``times``, float64, s."""
        values = torch.as_tensor(times, dtype=torch.float64, device="cpu")
        if self.linear:
            return values * self.slope + self.offset
        row = (torch.searchsorted(self.source, values.contiguous(), right=True) - 1).clamp(0, len(self.source) - 2)
        slope = self.target.diff()[row] / self.source.diff()[row]
        outside = self.extrapolated(values)
        nearest = torch.where(values < self.source[0], 0, len(self.source) - 1)
        anchor = torch.where(outside, nearest, row)
        slope = torch.where(outside, torch.full_like(slope, self.slope), slope)
        return self.target[anchor] + (values - self.source[anchor]) * slope

    def move(self, part: Any) -> Any:
        """Return a container with all its times on the second clock; warns of times beyond the pulses.

        A regular recording keeps a rate only under a ``linear`` map; otherwise it gets the time of each sample.
        """
        if isinstance(part, Session):
            moved = {name: item if isinstance(item, Graph) else self.move(item) for name, item in part.items()}
            return replace(part, items_=moved)
        if isinstance(part, Intervals):
            return replace(part, start=self(part.start), stop=self(part.stop))
        if isinstance(part, Spikes):
            self._tell(part.times, "Spikes")
            times, note = self(part.times), (*part.history, {"step": "align_clocks", **self.report()})
            return replace(part, times=times, support=self.move(part.span), history=note)
        return self._recording(part)

    def _recording(self, rec: Recording) -> Recording:
        if "time" not in rec.dims or "trial" in rec.dims:
            return rec
        self._tell(rec.time, "Recording")
        clock: dict[str, Any] = {"times": self(rec.time), "rate": None, "t0": 0.0}
        if self.linear and rec.rate is not None:
            clock = {"rate": rec.rate / self.slope, "t0": float(self(rec.t0)), "times": None}
        moved = {name: self.move(spans) for name, spans in rec.intervals.items()}
        return replace(rec, intervals=moved, history=rec.noted("align_clocks", **self.report()), **clock)

    def _tell(self, times: Tensor, where: str) -> None:
        n = int(self.extrapolated(times).sum())
        if n:
            text = f"ClockMap.move: {n} of {len(times)} times of {where} lie beyond the pulses and are extrapolated"
            warnings.warn(text, TectumWarning, stacklevel=4)


def align_clocks(
    a: Any,
    b: Any,
    *,
    tolerance: float = 0.005,
    max_drift: float = 1e-3,
    offset: float | None = None,
    min_fraction: float = 0.5,
    linear: bool = False,
    random_state: int = 0,
) -> ClockMap:
    """Find which pulses of two clocks are the same, and the map from the first clock to the second.

    Pulses may be missing on either clock. Runs of three pulses with the same two intervals propose partners; the line
    that most of them agree on wins (RANSAC); every pulse within ``tolerance`` of the local difference is then matched.

    Parameters
    ----------
    a, b : array, shapes (n_a,) and (n_b,)
        Times in s of the pulses on each clock, increasing.
    tolerance : float, default 0.005
        Largest jitter between partners, s.
    max_drift : float, default 1e-3
        Largest difference of the clocks' speeds.
    offset : float, optional
        Roughly ``b - a`` in s, to within half an interval; needed if all intervals are equal.
    min_fraction : float, default 0.5
        Least share of the pulses of the shared time, on the clock that has fewer, that must find a partner.
    linear : bool, default False
        Map by the fitted line instead of from pulse to pulse.
    random_state : int, default 0
        Seed of the lines tried.

    Returns
    -------
    ClockMap

    Raises
    ------
    InputError
        If there are fewer than four pulses, they do not increase, nothing fits, or more than one offset fits.

    Examples
    --------
    >>> a = torch.tensor([0.0, 1.0, 2.5, 3.1, 5.0, 5.8], dtype=torch.float64)
    >>> found = align_clocks(a, 12.0 + a[1:])
    >>> round(float(found(4.0)), 6), found.unmatched
    (16.0, (1, 0))
    """
    first, second = _pulses(a, "a"), _pulses(b, "b")
    for name, value, top in (("tolerance", tolerance, math.inf), ("max_drift", max_drift, 0.5)):
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < top:
            raise InputError(explain(f"align_clocks({name})", expected=f"a number in (0, {top})", got=repr(value)))
    line = _given(first, second, offset) if offset is not None else None
    if line is None:
        line = _voted(first, second, tolerance, max_drift, np.random.default_rng(random_state))
    pairs = _matched(first, second, line, tolerance)
    _check_enough(first, second, pairs, line, min_fraction)
    x, y = first[pairs[:, 0]], second[pairs[:, 1]]
    slope, shift = _line(x, y)
    return ClockMap(
        source=torch.from_numpy(x),
        target=torch.from_numpy(y),
        slope=slope,
        offset=shift,
        unmatched=(len(first) - len(pairs), len(second) - len(pairs)),
        linear=linear,
    )


def _pulses(values: Any, name: str) -> np.ndarray:
    """Return the times of pulses after checking them."""
    raw = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    times = np.asarray(raw, dtype=np.float64)
    where = f"align_clocks({name})"
    if times.ndim != 1 or len(times) < 4:
        raise InputError(explain(where, expected="the times of four or more pulses", got=f"shape {times.shape}"))
    bad = ~np.isfinite(times)
    bad[1:] |= ~(np.diff(times) > 0)
    if bad.any():
        k = int(bad.argmax())
        raise InputError(explain(where, expected="finite, increasing times in s", got=f"{times[k]:.10g} at {k}"))
    return times


def _given(a: np.ndarray, b: np.ndarray, offset: float) -> tuple[float, float]:
    """Return a line of slope one."""
    if not isinstance(offset, Real) or not math.isfinite(offset):
        raise InputError(explain("align_clocks(offset)", expected="a finite number of s", got=repr(offset)))
    return 1.0, float(offset)


def _voted(
    a: np.ndarray, b: np.ndarray, tolerance: float, max_drift: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Return slope and offset of the line that most of the proposed partners agree on."""
    x, y = _proposals(a, b, tolerance, max_drift, rng)
    if len(x) == 0:
        got = "no three pulses with the same two intervals"
        fix = "check that both lists are of one recording, or raise tolerance"
        raise InputError(explain("align_clocks", expected="a pattern of pulses on both clocks", got=got, fix=fix))
    left, right = rng.integers(0, len(x), (2, _TRIALS))
    long = np.abs(x[left] - x[right]) > 0.1 * min(np.ptp(a), np.ptp(b))
    left, right = left[long], right[long]
    slope = (y[right] - y[left]) / (x[right] - x[left])
    fair = np.abs(slope - 1.0) <= max_drift
    flat = rng.integers(0, len(x), min(_TRIALS, 4 * len(x)))  # lines of slope one, for short recordings
    slope = np.concatenate([slope[fair], np.ones(len(flat))])
    start = np.concatenate([left[fair], flat])
    judges = rng.choice(len(x), min(len(x), 2000), replace=False)
    distance = y[judges] - y[start][:, None] - slope[:, None] * (x[judges] - x[start][:, None])  # (trial, judge)
    votes = (np.abs(distance) <= tolerance).sum(axis=1)
    best = int(votes.argmax())
    middle = y[start] + slope * (np.median(x) - x[start])
    rivals = votes[np.abs(middle - middle[best]) > 4 * tolerance]
    if len(rivals) and rivals.max() >= 0.8 * votes[best]:
        got = f"{votes[best]} agreements for one and {rivals.max()} for another"
        fix = "the intervals are too regular: pass offset= as far as it is known"
        raise InputError(explain("align_clocks", expected="one offset of the clocks", got=got, fix=fix))
    return float(slope[best]), float(y[start[best]] - slope[best] * x[start[best]])


def _proposals(
    a: np.ndarray, b: np.ndarray, tolerance: float, max_drift: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return times of pulses on both clocks that open two intervals of equal lengths."""
    da, db = np.diff(a), np.diff(b)
    da, db = np.stack([da[:-1], da[1:]]), np.stack([db[:-1], db[1:]])  # (2, pulse)
    slack = 2 * tolerance + max_drift * da
    order = np.argsort(db[0], kind="stable")
    low = np.searchsorted(db[0][order], da[0] - slack[0])
    high = np.searchsorted(db[0][order], da[0] + slack[0], side="right")
    asked = np.arange(da.shape[1])
    while (high - low)[asked].sum() > _MOST:
        asked = np.sort(rng.choice(asked, len(asked) // 2, replace=False))
    size = (high - low)[asked]
    row = np.repeat(asked, size)
    col = order[np.repeat(low[asked] - (size.cumsum() - size), size) + np.arange(len(row))]
    same = np.abs(da[1][row] - db[1][col]) <= slack[1][row]
    return a[row[same]], b[col[same]]


def _matched(a: np.ndarray, b: np.ndarray, line: tuple[float, float], tolerance: float) -> np.ndarray:
    """Return the positions of partners, (n, 2): nearest pulses after the local difference of the clocks is removed."""
    from scipy.ndimage import median_filter

    expected = line[0] * a + line[1]
    nearest, error = _nearest(expected, b)
    near = np.abs(error) < 0.5 * np.median(np.diff(b))
    if not near.any():
        return np.empty((0, 2), dtype=np.int64)
    local = median_filter(error[near], size=min(_WIDE, 2 * ((int(near.sum()) - 1) // 2) + 1), mode="nearest")
    nearest, error = _nearest(expected + np.interp(a, a[near], local), b)
    order = np.argsort(np.abs(error), kind="stable")
    order = order[np.abs(error[order]) <= tolerance]
    _, first = np.unique(nearest[order], return_index=True)  # each pulse has one partner, the closest
    rows = np.sort(order[first])
    return np.stack([rows, nearest[rows]], axis=1)


def _nearest(times: np.ndarray, pulses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of the pulse nearest to each time and how much later it is."""
    right = np.searchsorted(pulses, times).clip(1, len(pulses) - 1)
    row = np.where(times - pulses[right - 1] <= pulses[right] - times, right - 1, right)
    return row, pulses[row] - times


def _check_enough(
    a: np.ndarray, b: np.ndarray, pairs: np.ndarray, line: tuple[float, float], min_fraction: float
) -> None:
    expected = line[0] * a + line[1]
    shared = min(
        int(((expected >= b[0]) & (expected <= b[-1])).sum()), int(((b >= expected[0]) & (b <= expected[-1])).sum())
    )
    least = max(4, math.ceil(min_fraction * shared))
    if len(pairs) < least:
        got = f"{len(pairs)} of {len(a)} and {len(b)} pulses"
        fix = "check that both lists are of one recording, or raise tolerance"
        raise InputError(explain("align_clocks", expected=f"at least {least} partners", got=got, fix=fix))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return slope and offset of the least-squares line, centred so that clocks far from zero lose no digits."""
    dx, dy = x - x.mean(), y - y.mean()
    slope = float((dx * dy).sum() / (dx * dx).sum())
    return slope, float(y.mean() - slope * x.mean())
