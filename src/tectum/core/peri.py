"""Spike counts around events, each trial on the clock of its own event."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import clock
from .errors import InputError, explain
from .intervals import Intervals
from .recording import Recording
from .spikes import Spikes, check_cells, check_width


def around(spikes: Spikes, events: Any, window: tuple[float, float], dt: float) -> Recording:
    """Count spikes in bins around events; see :meth:`Spikes.epochs`."""
    table = _table(events)
    dt = check_width(dt, "Spikes.epochs(dt)", spikes.times)
    first, last = _window(window)
    rate = 1.0 / dt
    n_bins = clock.to_sample(last, rate=rate, t0=first)
    if n_bins < 1:
        got = f"[{first:g}, {last:g}) s"
        raise InputError(explain("Spikes.epochs(window)", expected=f"at least one bin of {dt:g} s", got=got))
    check_cells(len(table) * n_bins, spikes.n_units, "Spikes.epochs")
    trial = {**table.columns, "start": table.start.numpy(), "stop": table.stop.numpy()}
    left = max(0.0, last - first - n_bins / rate)
    note = {"step": "epochs", "window": [first, last], "dt": dt, "kept": len(table), "dropped": left}
    return Recording(
        data=_counts(spikes, table.start, rate, first, n_bins),
        dims=("trial", "time", "unit"),
        rate=rate,
        t0=first,
        units="spikes/bin",
        modality="spikes",
        coords={"trial": trial, **({"unit": spikes.units} if spikes.units else {})},
        mask=_observed(spikes.span, table.start, rate, first, n_bins),
        subject=spikes.subject,
        session=spikes.session,
        meta=spikes.meta,
        history=(*spikes.history, note),
    )


def _table(events: Any) -> Intervals:
    """Return events as spans; bare times have no length."""
    if not isinstance(events, Intervals):
        times = torch.as_tensor(
            events if isinstance(events, Tensor) else np.asarray(events, np.float64), dtype=torch.float64, device="cpu"
        )
        if times.ndim != 1:
            raise InputError(
                explain("Spikes.epochs", expected="Intervals or times (n,)", got=f"shape {tuple(times.shape)}")
            )
        events = Intervals(start=times, stop=times.clone())
    if len(events) == 0:
        raise InputError(explain("Spikes.epochs", expected="at least one event", got="none"))
    return events


def _window(window: Any) -> tuple[float, float]:
    try:
        first, last = (float(edge) for edge in window)
    except (TypeError, ValueError):
        first = last = math.nan
    if not (math.isfinite(first) and math.isfinite(last) and first < last):
        raise InputError(explain("Spikes.epochs(window)", expected="(start, stop) in s, start first", got=repr(window)))
    return first, last


def _counts(spikes: Spikes, start: Tensor, rate: float, first: float, n_bins: int) -> Tensor:
    """Histogram of (trial, bin, unit): Tensor (n_trials, n_bins, n_units), int32."""
    low = torch.searchsorted(spikes.times, start + (first - 1.0 / rate))
    high = torch.searchsorted(spikes.times, start + (first + (n_bins + 1) / rate))
    size = high - low
    trial = torch.repeat_interleave(torch.arange(len(start), device="cpu"), size)
    row = torch.arange(len(trial), device="cpu") + (low - (size.cumsum(0) - size))[trial]
    times = spikes.times[row]
    scale = float(times.abs().max()) if len(times) else 0.0
    bins = clock.to_sample(times - start[trial], rate=rate, t0=first, scale=scale)
    inside = (bins >= 0) & (bins < n_bins)
    cell = (trial[inside] * n_bins + bins[inside]) * spikes.n_units + spikes.unit[row[inside]]
    counts = torch.from_numpy(np.zeros(len(start) * n_bins * spikes.n_units, dtype=np.int32))
    counts.scatter_add_(0, cell, counts.new_ones(1).expand(len(cell)))
    return counts.reshape(len(start), n_bins, spikes.n_units)


def _observed(span: Intervals, start: Tensor, rate: float, first: float, n_bins: int) -> Tensor | None:
    """Tell which bins lie wholly inside the support: bool Tensor (n_trials, n_bins, 1), None when all do."""
    merged = span.merged()
    if len(merged) == 0:
        return torch.zeros(len(start), n_bins, 1, dtype=torch.bool, device="cpu")
    edges = start[:, None] + first + torch.arange(n_bins + 1, dtype=torch.float64, device="cpu") / rate
    slack = clock.slack(rate, float(edges.abs().max())) / rate
    row = (torch.searchsorted(merged.start, edges[:, :-1] + slack, right=True) - 1).clamp(min=0)
    inside = (edges[:, :-1] >= merged.start[row] - slack) & (edges[:, 1:] <= merged.stop[row] + slack)
    return None if bool(inside.all()) else inside[..., None]
