"""Spikes: the events of all units of a recording as two flat arrays."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import clock
from .device import from_numpy
from .errors import InputError, TectumWarning, TooLargeError, explain
from .intervals import Intervals
from .serialize import storable
from .table import Column, check_table, positions, take

if TYPE_CHECKING:
    from .recording import Recording

#: Largest number of (bin, unit) counts made at once: 8 GB.
CELL_LIMIT = 2_000_000_000
_FINEST = 2000  # spacings of float64 that a bin must hold, so that edges are right to a thousandth of it
_PIECE = 1 << 17  # spikes counted at a time: what the fast memory of a processor holds


@storable
@dataclass(frozen=True, kw_only=True, eq=False)
class Spikes:
    """Spike (or event) times of many units on one clock.

    Parameters
    ----------
    times : Tensor, shape (n_spikes,), float64
        Seconds on the session clock, non-decreasing.
    unit : Tensor, shape (n_spikes,), int32
        Index of the unit of each spike, ``0 <= unit < n_units``.
    n_units : int
        Number of units, silent ones included.
    support : Intervals, optional
        When the units were observed; rates and bins use it. Default: from the first to the last spike.
    units : mapping of str to array, shape (n_units,)
        Table of units: id, area, quality, x, y, z.
    subject, session : str
        Who and when.
    meta : mapping
        Anything else that JSON can hold.
    history : tuple
        Steps applied so far.

    Raises
    ------
    InputError
        If times are not finite or not sorted, or a unit index is out of range.

    Examples
    --------
    >>> spikes = Spikes.from_trains([[0.1, 0.4], [0.2]], support=(0.0, 0.5))
    >>> spikes.bin(0.25).data.tolist()
    [[1, 1], [1, 0]]
    """

    times: Tensor
    unit: Tensor
    n_units: int
    support: Intervals | None = None
    units: Mapping[str, Column] = field(default_factory=dict)
    subject: str = ""
    session: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        times, unit = _times(self.times).contiguous(), _indices(self.unit)
        _check_events(times, unit, self.n_units)
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "unit", unit.to(torch.int32))
        object.__setattr__(self, "units", check_table(self.units, self.n_units, "Spikes.units"))
        object.__setattr__(self, "meta", dict(self.meta))
        object.__setattr__(self, "history", tuple(self.history))
        if self.support is None:
            bounds = [(float(times[0]), float(np.nextafter(float(times[-1]), np.inf)))] if len(times) else []
            object.__setattr__(self, "support", Intervals.from_pairs(bounds))

    @classmethod
    def from_trains(
        cls, trains: Sequence[Any], *, support: Intervals | tuple[float, float] | None = None, **fields: Any
    ) -> Spikes:
        """Merge one sequence of times (s) for each unit, in any order, into sorted flat arrays."""
        arrays = [_times(train).reshape(-1) for train in trains]
        times = torch.cat(arrays) if arrays else _times([])
        unit = np.repeat(np.arange(len(arrays), dtype=np.int32), [len(a) for a in arrays])
        return cls.from_events(times, unit, n_units=len(arrays), support=support, **fields)

    @classmethod
    def from_events(
        cls,
        times: Any,
        unit: Any,
        *,
        n_units: int,
        support: Intervals | tuple[float, float] | None = None,
        **fields: Any,
    ) -> Spikes:
        """Sort events given in any order and build the container; warns if over 1 % lie outside the support.

        Raises
        ------
        InputError
            If all events lie outside the support: their unit is then not the second.
        """
        times, unit = _times(times), _indices(unit)
        if times.shape == unit.shape and bool((times.diff() < 0).any()):
            order = torch.argsort(times, stable=True)
            times, unit = times[order], unit[order]
        support = Intervals.from_pairs([support]) if isinstance(support, tuple) else support
        made = cls(times=times, unit=unit, n_units=n_units, support=support, **fields)
        _check_inside(made)
        return made

    def __len__(self) -> int:
        return len(self.times)

    @property
    def span(self) -> Intervals:
        """When the units were observed."""
        return self.support if self.support is not None else Intervals.from_pairs([])

    def counts(self) -> Tensor:
        """Return the number of spikes of each unit: Tensor of shape (n_units,), int64."""
        return torch.bincount(self.unit.long(), minlength=self.n_units)

    def rates(self) -> Tensor:
        """Return spikes in the support per second of it: Tensor of shape (n_units,), float64."""
        return self.restrict(self.span, allow_empty=True).counts().double() / self.span.duration

    def train(self, unit: int) -> Tensor:
        """Return the times of one unit: Tensor of shape (n,), float64, s."""
        return self.times[self.unit == unit]

    def trains(self) -> list[Tensor]:
        """Return the times of every unit as a list of ``n_units`` tensors."""
        order = torch.argsort(self.unit, stable=True)
        return list(torch.split(self.times[order], self.counts().tolist()))

    def gaps(self) -> tuple[Tensor, Tensor]:
        """Return the intervals between successive spikes of each unit, and the unit of each.

        Returns
        -------
        Tensor, shape (n_gaps,), float64, s, and Tensor, shape (n_gaps,), int64
            Grouped by unit, in order of time.

        Examples
        --------
        >>> gaps, unit = Spikes.from_trains([[0.0, 0.5, 2.0], [1.0]]).gaps()
        >>> gaps.tolist(), unit.tolist()
        ([0.5, 1.5], [0, 0])
        """
        order = torch.argsort(self.unit, stable=True)  # times of each unit stay in order
        times, unit = self.times[order], self.unit[order].long()
        same = unit[1:] == unit[:-1]
        return times.diff()[same], unit[1:][same]

    def remove_duplicates(self, window: float = 3e-4, *, across_units: bool = False) -> Spikes:
        """Drop every spike that follows another by less than ``window`` s: a sorter counted it twice.

        Parameters
        ----------
        window : float, default 0.3 ms
            s; shorter than the refractory time of a neuron.
        across_units : bool, default False
            Whether the other spike may be of any unit. Neurons that do fire together lose spikes too: select the
            units of one place on the probe first.

        Returns
        -------
        Spikes
            The first of each run stays; the history tells how many were dropped.

        Raises
        ------
        InputError
            If the window is not a finite time above 0.

        Examples
        --------
        >>> Spikes.from_trains([[0.1, 0.1002, 0.3], [0.1001]]).remove_duplicates().counts().tolist()
        [2, 1]
        """
        if isinstance(window, bool) or not isinstance(window, Real) or not 0 < float(window) < math.inf:
            got = repr(window)
            raise InputError(explain("Spikes.remove_duplicates(window)", expected="a finite time above 0 s", got=got))
        order = torch.arange(len(self), device="cpu") if across_units else torch.argsort(self.unit, stable=True)
        unit, close = self.unit[order], self.times[order].diff() < float(window)
        keep = torch.ones(len(self), dtype=torch.bool, device="cpu")
        keep[order[1:][close if across_units else close & (unit[1:] == unit[:-1])]] = False
        note = {"step": "remove_duplicates", "window": float(window), "across_units": bool(across_units)}
        note |= {"dropped": int((~keep).sum())}
        return replace(self, times=self.times[keep], unit=self.unit[keep], history=(*self.history, note))

    def select(self, units: Any, *, allow_empty: bool = False) -> Spikes:
        """Keep some units, given as a mask, indices, or a boolean condition on the unit table; none if allowed."""
        index = positions(units, self.n_units, "Spikes.select")
        if len(np.unique(index)) != len(index):
            raise InputError(explain("Spikes.select", expected="one or more different units", got="a unit twice"))
        if len(index) == 0 and not allow_empty:
            got, fix = "an empty selection", "pass allow_empty=True where that is meant"
            raise InputError(explain("Spikes.select", expected="one or more different units", got=got, fix=fix))
        renamed = np.full(self.n_units, -1, dtype=np.int32)
        renamed[index] = np.arange(len(index), dtype=np.int32)
        unit = torch.from_numpy(renamed)[self.unit.long()]
        keep = unit >= 0
        return replace(
            self,
            times=self.times[keep],
            unit=unit[keep],
            n_units=len(index),
            units=take(self.units, index),
            history=(*self.history, {"step": "select", "units": index.tolist()}),
        )

    def restrict(self, intervals: Intervals, *, allow_empty: bool = False) -> Spikes:
        """Keep the spikes inside ``intervals`` and intersect the support with them.

        Intervals that miss the support raise InputError unless ``allow_empty``; a silent stretch of it does not.
        """
        support = self.span.intersect(intervals)
        if len(support) == 0 and not allow_empty:
            got, fix = f"{len(intervals)} intervals that miss it", "pass allow_empty=True where that is meant"
            raise InputError(explain("Spikes.restrict", expected="intervals that meet the support", got=got, fix=fix))
        keep = intervals.contains(self.times)
        return replace(
            self,
            times=self.times[keep],
            unit=self.unit[keep],
            support=support,
            history=(*self.history, {"step": "restrict", "seconds": intervals.duration}),
        )

    def shift(self, seconds: float) -> Spikes:
        """Move every time, and the support, by ``seconds``."""
        return replace(self, times=self.times + seconds, support=self.span.shift(seconds))

    def bin(self, dt: float, *, start: float | None = None, stop: float | None = None) -> Recording:
        """Count spikes in bins of ``dt`` seconds.

        Bin ``k`` covers ``[start + k dt, start + (k + 1) dt)``; an incomplete last bin is dropped, and its length is in
        the history. Bins that are not wholly inside the support are marked invalid in ``mask``.

        Parameters
        ----------
        dt : float
            Width of a bin in s.
        start, stop : float, optional
            Range in s; default the hull of the support.

        Returns
        -------
        Recording, dims (time, unit), int32, units "spikes/bin"

        Raises
        ------
        InputError
            If the width is not positive or the range holds no bin.
        TooLargeError
            If the counts would need more than 8 GB.
        """
        return bin_spikes(self, dt, start=start, stop=stop)

    def blocks(
        self, dt: float, n_bins: int, *, start: float | None = None, stop: float | None = None
    ) -> Iterator[Recording]:
        """Bin piece by piece, at most ``n_bins`` at a time: the pieces of :meth:`bin` without holding the whole.

        Examples
        --------
        >>> spikes = Spikes.from_trains([[0.1, 0.4], [0.2]], support=(0.0, 0.5))
        >>> [piece.data.tolist() for piece in spikes.blocks(0.125, 3)]
        [[[1, 0], [0, 1], [0, 0]], [[1, 0]]]
        """
        if isinstance(n_bins, bool) or not isinstance(n_bins, Integral) or n_bins < 1:
            raise InputError(explain("Spikes.blocks(n_bins)", expected="n_bins >= 1", got=repr(n_bins)))
        grid = _grid(self, dt, start, stop)
        return (
            _binned(self, grid, first, min(int(n_bins), grid.n_bins - first)) for first in range(0, grid.n_bins, n_bins)
        )

    def epochs(self, events: Intervals | Any, window: tuple[float, float], dt: float) -> Recording:
        """Count spikes in bins around events, each bin measured from its own event.

        Parameters
        ----------
        events : Intervals or array, shape (n_events,)
            Events (the starts of the intervals count) on the session clock, s.
        window : (start, stop)
            Range around each event, s.
        dt : float
            Width of a bin, s.

        Returns
        -------
        Recording, dims (trial, time, unit), int32, units "spikes/bin"
            ``mask`` is False for bins that are not wholly inside the support; the columns of the events, with "start"
            and "stop", are the coordinates of ``trial``.

        Examples
        --------
        >>> spikes = Spikes.from_trains([[0.1, 0.4, 1.15]], support=(0.0, 1.5))
        >>> around = spikes.epochs([0.0, 1.1], (0.0, 0.5), 0.25)
        >>> around.data[..., 0].tolist(), around.valid()[..., 0].tolist()
        ([[1, 1], [1, 0]], [[True, True], [True, False]])
        """
        from .peri import around

        return around(self, events, window, dt)


class _Grid(NamedTuple):
    """Bins of one width: ``rate`` of them in a second from ``t0``; ``n_bins`` whole ones until ``end``."""

    dt: float
    rate: float
    t0: float
    end: float
    n_bins: int


def bin_spikes(spikes: Spikes, dt: float, *, start: float | None = None, stop: float | None = None) -> Recording:
    """Count spikes in bins; see :meth:`Spikes.bin`."""
    grid = _grid(spikes, dt, start, stop)
    return _binned(spikes, grid, 0, grid.n_bins)


def check_width(dt: Any, where: str, times: Tensor) -> float:
    """Return the width of a bin as a float after checking that float64 holds its edges at the sorted times given."""
    if isinstance(dt, bool) or not isinstance(dt, Real) or not 0 < float(dt) < math.inf:
        raise InputError(explain(where, expected="a finite width above 0 s", got=repr(dt)))
    width, far = float(dt), float(times[[0, -1]].abs().max()) if len(times) else 0.0
    finest = _FINEST * math.ulp(far)
    if width < finest:
        expected = f"at least {finest:.2g} s, {_FINEST} ticks of float64 at {far:.6g} s"
        raise InputError(explain(where, expected=expected, got=f"{dt}", fix="shift the clock towards 0, or widen bins"))
    return width


def _grid(spikes: Spikes, dt: float, start: float | None, stop: float | None) -> _Grid:
    """Return the bins of a range after checking that there is at least one."""
    span = spikes.span
    dt = check_width(dt, "Spikes.bin(dt)", spikes.times)
    rate = 1.0 / dt
    if len(span) == 0 and (start is None or stop is None):
        raise InputError(explain("Spikes.bin", expected="a support or both start and stop", got="neither"))
    t0 = float(span.start[0]) if start is None else float(start)
    end = float(span.stop.max()) if stop is None else float(stop)
    n_bins = clock.to_sample(end, rate=rate, t0=t0)
    if n_bins < 1:
        raise InputError(
            explain("Spikes.bin", expected=f"a range of at least one bin of {dt:g} s", got=f"[{t0:g}, {end:g}) s")
        )
    return _Grid(dt, rate, t0, end, n_bins)


def check_cells(n_bins: int, n_units: int, where: str = "Spikes.bin") -> None:
    """Refuse counts that would need more than 8 GB."""
    if n_bins * n_units > CELL_LIMIT:
        got = f"{n_bins} bins of {n_units} units"
        fix = "choose wider bins, fewer units, or bin piece by piece with Spikes.blocks"
        raise TooLargeError(explain(where, expected=f"at most {CELL_LIMIT:.0e} counts", got=got, fix=fix))


def _binned(spikes: Spikes, grid: _Grid, first: int, n_bins: int) -> Recording:
    """Count spikes in ``n_bins`` bins of a grid from bin ``first``."""
    from .recording import Recording

    check_cells(n_bins, spikes.n_units)
    rate, t0 = grid.rate, grid.t0
    left = grid.end - t0 - grid.n_bins / rate
    note = {"step": "bin", "dt": grid.dt, "dropped": max(0.0, left)}
    return Recording(
        data=_count(spikes, grid, first, n_bins),
        dims=("time", "unit"),
        rate=rate,
        t0=t0 + first / rate,
        units="spikes/bin",
        modality="spikes",
        coords={"unit": spikes.units} if spikes.units else {},
        mask=_observed(spikes.span, grid, first, n_bins),
        intervals={"support": spikes.span},
        subject=spikes.subject,
        session=spikes.session,
        meta=spikes.meta,
        history=(*spikes.history, note),
    )


def _count(spikes: Spikes, grid: _Grid, first: int, n_bins: int) -> Tensor:
    """Histogram of (bin, unit): Tensor (n_bins, n_units), int32."""
    rate, t0 = grid.rate, grid.t0
    bounds = [t0 + (first - 1) / rate, t0 + (first + n_bins + 1) / rate]
    low, high = torch.searchsorted(spikes.times, torch.tensor(bounds, dtype=torch.float64)).tolist()
    counts = torch.from_numpy(np.zeros(n_bins * spikes.n_units, dtype=np.int32))  # pages of zeros come when touched
    ones, edges = counts.new_ones(min(_PIECE, high - low)), torch.tensor([0, n_bins], dtype=torch.int32)
    for begin in range(low, high, _PIECE):
        piece = slice(begin, min(begin + _PIECE, high))
        bins = clock.to_sample(spikes.times[piece], rate=rate, t0=t0, first=first, dtype=torch.int32)
        inside = slice(*torch.searchsorted(bins, edges).tolist())  # times are sorted, so bins are
        cell = bins[inside].mul_(spikes.n_units).add_(spikes.unit[piece][inside])  # below CELL_LIMIT: int32 holds it
        counts.index_add_(0, cell, ones[: len(cell)])
    return counts.reshape(n_bins, spikes.n_units)


def _observed(span: Intervals, grid: _Grid, before: int, n_bins: int) -> Tensor | None:
    """Tell which bins lie wholly inside the support: bool Tensor (n_bins, 1), None when all do."""
    merged = span.merged()
    rate, t0, slack = grid.rate, grid.t0, clock.slack(grid.rate, grid.t0)
    first = (torch.ceil((merged.start - t0) * rate - slack) - before).clamp(0, n_bins).long()
    last = (torch.floor((merged.stop - t0) * rate + slack) - before).clamp(0, n_bins).long()
    kept = last > first
    change = torch.zeros(n_bins + 1, dtype=torch.int64, device="cpu")
    change.index_add_(0, first[kept], torch.ones_like(first[kept]))
    change.index_add_(0, last[kept], -torch.ones_like(last[kept]))
    inside = change.cumsum(0)[:n_bins] > 0
    return None if bool(inside.all()) else inside[:, None]


def _times(values: Any) -> Tensor:
    """Return times as a float64 tensor on the CPU."""
    values = values if isinstance(values, Tensor) else np.asarray(values, dtype=np.float64)
    return torch.as_tensor(values, dtype=torch.float64, device="cpu")


def _indices(values: Any) -> Tensor:
    """Return unit indices as an integer tensor on the CPU: int32 as it is, others widened so that none wraps around."""
    found = values.detach().cpu() if isinstance(values, Tensor) else from_numpy(np.asarray(values), "Spikes.unit")
    if found.numel() and (found.is_floating_point() or found.is_complex()):
        raise InputError(explain("Spikes.unit", expected="integers", got=str(found.dtype)))
    return found if found.dtype == torch.int32 else found.to(torch.int64)


def _check_inside(spikes: Spikes) -> None:
    """Warn of events outside the support, or refuse them if all are."""
    support = spikes.span.merged()
    edges = torch.searchsorted(spikes.times, torch.stack([support.start, support.stop]))
    outside = len(spikes) - int((edges[1] - edges[0]).sum())
    if len(spikes) and outside == len(spikes):
        raise InputError(
            explain(
                "Spikes",
                expected=f"times in s inside the support {support.pairs()[:3]}",
                got=f"times from {float(spikes.times[0]):g} to {float(spikes.times[-1]):g}",
                fix="divide samples by the sampling rate",
            )
        )
    if outside > 0.01 * len(spikes):
        warnings.warn(f"Spikes: {outside} of {len(spikes)} events lie outside the support", TectumWarning, stacklevel=4)


def _check_events(times: Tensor, unit: Tensor, n_units: int) -> None:
    if times.ndim != 1 or times.shape != unit.shape:
        raise InputError(
            explain(
                "Spikes", expected="times and unit of one length", got=f"{tuple(times.shape)} and {tuple(unit.shape)}"
            )
        )
    if not bool(torch.isfinite(times).all()):
        raise InputError(
            explain(
                "Spikes",
                expected="finite times in s",
                got=f"{int((~torch.isfinite(times)).sum())} NaN or infinite times",
            )
        )
    if len(times) and not 0 <= int(unit.min()) <= int(unit.max()) < n_units:
        raise InputError(
            explain("Spikes", expected=f"unit indices in [0, {n_units})", got=f"{int(unit.min())} to {int(unit.max())}")
        )
    late = (times.diff() < 0).nonzero()
    if len(late):
        raise InputError(
            explain(
                "Spikes",
                expected="times in non-decreasing order",
                got=f"a step back after spike {int(late[0])}",
                fix="Spikes.from_events sorts",
            )
        )
