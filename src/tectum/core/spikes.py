"""Spikes: the events of all units of a recording as two flat arrays."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any

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
        return self.restrict(self.span).counts().double() / self.span.duration

    def train(self, unit: int) -> Tensor:
        """Return the times of one unit: Tensor of shape (n,), float64, s."""
        return self.times[self.unit == unit]

    def trains(self) -> list[Tensor]:
        """Return the times of every unit as a list of ``n_units`` tensors."""
        order = torch.argsort(self.unit, stable=True)
        return list(torch.split(self.times[order], self.counts().tolist()))

    def select(self, units: Any) -> Spikes:
        """Keep some units, given as a mask, indices, or a boolean condition on the unit table."""
        index = positions(units, self.n_units, "Spikes.select")
        if len(index) == 0 or len(np.unique(index)) != len(index):
            got = "an empty selection" if len(index) == 0 else "a unit twice"
            raise InputError(explain("Spikes.select", expected="one or more different units", got=got))
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

    def restrict(self, intervals: Intervals) -> Spikes:
        """Keep the spikes inside ``intervals`` and intersect the support with them."""
        keep = intervals.contains(self.times)
        return replace(
            self,
            times=self.times[keep],
            unit=self.unit[keep],
            support=self.span.intersect(intervals),
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


def bin_spikes(spikes: Spikes, dt: float, *, start: float | None = None, stop: float | None = None) -> Recording:
    """Count spikes in bins; see :meth:`Spikes.bin`."""
    from .recording import Recording

    if isinstance(dt, bool) or not isinstance(dt, Real) or not 0 < dt < math.inf:
        raise InputError(explain("Spikes.bin(dt)", expected="a finite width above 0 s", got=repr(dt)))
    rate = 1.0 / float(dt)
    span = spikes.span
    if len(span) == 0 and (start is None or stop is None):
        raise InputError(explain("Spikes.bin", expected="a support or both start and stop", got="neither"))
    t0 = float(span.start[0]) if start is None else float(start)
    end = float(span.stop.max()) if stop is None else float(stop)
    n_bins = clock.to_sample(end, rate=rate, t0=t0)
    if n_bins < 1:
        raise InputError(
            explain("Spikes.bin", expected=f"a range of at least one bin of {dt:g} s", got=f"[{t0:g}, {end:g}) s")
        )
    if n_bins * spikes.n_units > CELL_LIMIT:
        got = f"{n_bins} bins of {spikes.n_units} units"
        fix = "choose wider bins, fewer units, or bin pieces with start and stop"
        raise TooLargeError(explain("Spikes.bin", expected=f"at most {CELL_LIMIT:.0e} counts", got=got, fix=fix))
    counts = _count(spikes, rate, t0, n_bins)
    return Recording(
        data=counts,
        dims=("time", "unit"),
        rate=rate,
        t0=t0,
        units="spikes/bin",
        modality="spikes",
        coords={"unit": spikes.units} if spikes.units else {},
        mask=_observed(span, rate, t0, n_bins),
        intervals={"support": span},
        subject=spikes.subject,
        session=spikes.session,
        meta=spikes.meta,
        history=(*spikes.history, {"step": "bin", "dt": float(dt), "dropped": max(0.0, end - t0 - n_bins / rate)}),
    )


def _count(spikes: Spikes, rate: float, t0: float, n_bins: int) -> Tensor:
    """Histogram of (bin, unit): Tensor (n_bins, n_units), int32."""
    low, high = torch.searchsorted(
        spikes.times, torch.tensor([t0 - 1.0 / rate, t0 + (n_bins + 1) / rate], dtype=torch.float64)
    ).tolist()
    bins = clock.to_sample(spikes.times[low:high], rate=rate, t0=t0)
    unit = spikes.unit[low:high]
    first, last = torch.searchsorted(bins, torch.tensor([0, n_bins])).tolist()  # times are sorted, so bins are
    cell = bins[first:last].mul_(spikes.n_units).add_(unit[first:last])
    counts = torch.zeros(n_bins * spikes.n_units, dtype=torch.int32, device="cpu")
    return counts.scatter_add_(0, cell, counts.new_ones(1).expand(len(cell))).reshape(n_bins, spikes.n_units)


def _observed(span: Intervals, rate: float, t0: float, n_bins: int) -> Tensor | None:
    """Tell which bins lie wholly inside the support: bool Tensor (n_bins, 1), None when all do."""
    merged = span.merged()
    slack = clock.slack(rate, t0)
    first = torch.ceil((merged.start - t0) * rate - slack).clamp(0, n_bins).long()
    last = torch.floor((merged.stop - t0) * rate + slack).clamp(0, n_bins).long()
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
