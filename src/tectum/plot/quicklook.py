"""A first look at any container: a raster, a few traces, or a heat map."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes

from tectum.core.errors import InputError, explain
from tectum.core.graph import Graph
from tectum.core.recording import Recording
from tectum.core.spikes import Spikes

from .curves import bands
from .heat import image, matrix
from .style import PALETTE, array, axes, label

_MANY = 24


def quicklook(data: Recording | Spikes | Graph, *, ax: Axes | None = None) -> Axes:
    """Draw a first look: a raster of spikes, a heat map of many rows, traces of a few, a graph as a matrix."""
    if isinstance(data, Spikes):
        return raster(data, ax=ax)
    if isinstance(data, Graph):
        names = data.units.get("name")
        return matrix(data.weights[0].nan_to_num(), title=data.layers[0], bar=data.quantity, names=names, ax=ax)
    return _dense(data, ax)


def _dense(rec: Recording, ax: Axes | None) -> Axes:
    if "time" not in rec.dims or rec.ndim > 3:
        flat = rec.values.float().flatten(1) if rec.ndim > 1 else rec.values.float()[None]
        return image(flat, x="entry", y=rec.dims[0], bar=rec.units, ax=ax)
    for axis in rec.dims:
        if axis != "time" and rec.ndim > 2:
            rec = rec.isel(**{axis: 0})
    rows = rec.ndim == 2 and rec.sizes[_other(rec)] > _MANY
    return _heat(rec, ax) if rows else traces(rec, ax=ax)


def _other(rec: Recording) -> str:
    return next(d for d in rec.dims if d != "time")


def _heat(rec: Recording, ax: Axes | None) -> Axes:
    other = _other(rec)
    data = rec.tensor(other, "time").float()
    if other == "unit":  # units without order are easier to read sorted by the time of their peak
        data = data[data.nan_to_num(-torch.inf).argmax(1).argsort()]
    name = "unit (sorted by peak)" if other == "unit" else other
    time = rec.time
    return image(data, extent=(float(time[0]), float(time[-1])), y=name, bar=rec.units, ax=ax)


def raster(spikes: Spikes, *, ax: Axes | None = None) -> Axes:
    """Draw every spike as a tick: time against unit."""
    ax = axes(ax)
    most = 200_000
    step = max(1, -(-len(spikes) // most))
    times, unit = array(spikes.times[::step]), array(spikes.unit[::step])
    ax.plot(
        times, unit, "|", color="0.1", markersize=max(1.5, min(6.0, 160 / max(1, spikes.n_units))), markeredgewidth=0.5
    )
    ax.set_ylim(-0.7, spikes.n_units - 0.3)
    shown = "" if step == 1 else f"every {step}th spike"
    return label(ax, "time (s)", "unit", shown)


def traces(rec: Recording, *, ax: Axes | None = None) -> Axes:
    """Draw rows as traces above one another, each scaled by the common spread."""
    if "time" not in rec.dims or rec.ndim > 2:
        raise InputError(
            explain("plot.traces", expected="axes (time,) or (time, x)", got=str(rec.dims), fix="select with isel")
        )
    ax = axes(ax)
    data = rec.tensor("time", _other(rec)) if rec.ndim == 2 else rec.values[:, None]
    values, time = array(data.float()), array(rec.time)
    gap = float(np.nanpercentile(np.abs(values - np.nanmedian(values, 0)), 99)) * 1.5 or 1.0
    shift = np.arange(values.shape[1]) * gap
    ax.plot(time, values + shift, color=PALETTE[0], linewidth=0.6)
    if "trials" in rec.intervals:
        bands(rec.intervals["trials"], ax=ax)
    names = rec.labels(_other(rec)) if rec.ndim == 2 else None
    if names is not None:
        ax.set_yticks(shift + np.nanmedian(values, 0), [str(n) for n in names], fontsize=6)
    ax.set_xlim(float(time[0]), float(time[-1]))
    return label(ax, "time (s)", f"{rec.modality or 'signal'} ({rec.units})")
