"""A first look at any container: a raster, a few traces, or a heat map."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from tectum.core.errors import InputError, explain
from tectum.core.graph import Graph
from tectum.core.recording import Recording
from tectum.core.spikes import Spikes

from .brain import slices
from .curves import bands, histogram
from .heat import image, matrix
from .style import PALETTE, array, axes, label, span, style

_MANY = 24  # rows above which a heat map is drawn instead of traces
_VOLUMES = 20  # of a series of images whose mean is shown
_SAMPLES, _ROWS, _SPIKES = 20_000, 1_000, 200_000  # most of each that a figure shows


@style()
def quicklook(data: Recording | Spikes | Graph, *, ax: Axes | None = None) -> Axes:
    """Draw a first look: a raster of spikes, a heat map of many rows, traces of a few, slices, a graph as a matrix.

    Of images in time the mean of the first ones is shown. Of a long or lazy recording only the first part is read and
    drawn, of one with trials or further axes the first entry; the title says so.
    """
    if isinstance(data, Spikes):
        return raster(data, ax=ax)
    if isinstance(data, Graph):
        names = data.units.get("name")
        return matrix(data.weights[0], title=data.layers[0], bar=_quantity(data), names=names, ax=ax)
    if not isinstance(data, Recording):
        expected = "a Recording, Spikes or Graph"
        raise InputError(explain("plot.quicklook", expected=expected, got=type(data).__name__))
    return _dense(data, ax)


def _quantity(graph: Graph) -> str:
    return "weight" if graph.quantity == "1" else f"weight ({graph.quantity})"


def _dense(rec: Recording, ax: Axes | None) -> Axes:
    if {"x", "y", "z"} <= set(rec.dims) or ("image" in rec.meta and rec.dims == ("voxel",)):
        return _volume(rec, ax)
    if "time" not in rec.dims:
        return _table(rec, ax)
    shown = []
    for axis in rec.dims:
        if axis != "time" and rec.ndim > 2:
            rec = rec.isel(**{axis: 0})
            shown.append(f"{axis} 0")
    if rec.sizes["time"] > _SAMPLES:
        whole, rec = rec.duration, rec.isel(time=slice(0, _SAMPLES))
        shown.append(f"first {rec.duration:.4g} s of {whole:.4g} s")
    rows = rec.ndim == 2 and rec.sizes[_other(rec)] > _MANY
    ax = _heat(rec, ax) if rows else traces(rec, ax=ax)
    if shown:
        ax.set_title(", ".join(shown))
    return ax


def _volume(rec: Recording, ax: Axes | None) -> Axes:
    """Draw slices of an image, or of the mean of the first images of a series."""
    from tectum.io.fmri.volumes import unmask

    rec = unmask(rec) if "voxel" in rec.dims else rec
    others = [d for d in rec.dims if d not in ("x", "y", "z")]
    said = []
    for axis in others:
        first = rec.isel(**{axis: slice(0, _VOLUMES if axis == "time" else 1)})
        said += [f"mean of {first.sizes[axis]} of {rec.sizes[axis]} volumes" if axis == "time" else f"{axis} 0"]
        rec = first
    volume = _valid(rec).permute(*(rec.dims.index(d) for d in (*others, "x", "y", "z")))
    volume = volume.flatten(0, -4).nanmean(0) if others else volume
    affine = rec.meta.get("image", {}).get("affine")
    place, series = None if affine is None else np.asarray(affine), "time" in others
    ax = slices(volume, affine=place, bar=rec.units, grey=series, ax=ax)
    if said:
        ax.set_title(", ".join(said))
    return ax


def _table(rec: Recording, ax: Axes | None) -> Axes:
    """Draw a recording without time: the first axis up, all others across."""
    if set(rec.dims) == {"x", "y"}:
        picture = _valid(rec).movedim(rec.dims.index("y"), 0)
        ax = image(picture, x="x", y="y", bar=rec.units, ax=axes(ax, width=4.0, height=3.2))
        ax.set_aspect("equal")
        ax.invert_yaxis()
        return ax
    if rec.dims[-1] in ("voxel", "vertex") and set(rec.dims[:-1]) <= {"feature"}:
        return _map(rec, ax)
    flat = _valid(rec).reshape(rec.shape[0] if rec.ndim > 1 else 1, -1)
    other = " x ".join(rec.dims[1:]) if rec.ndim > 1 else "".join(rec.dims)
    return image(flat, x=other, y=rec.dims[0] if rec.ndim > 1 else "", bar=rec.units, ax=ax)


def _map(rec: Recording, ax: Axes | None) -> Axes:
    """Draw how often the values of a map occur, of the first of several: where its points lie is not known here."""
    names, several = rec.labels("feature") if "feature" in rec.dims else None, "feature" in rec.dims
    first = rec.isel(feature=0) if several else rec
    ax = histogram(_valid(first), x=rec.units if rec.units not in ("", "1") else "value", y=rec.dims[-1], ax=ax)
    name = "" if names is None else str(names[0])
    if several:
        ax.set_title(name + f" (1 of {rec.sizes['feature']})" * (rec.sizes["feature"] > 1))
    return ax


def _other(rec: Recording) -> str:
    return next(d for d in rec.dims if d != "time")


def _valid(rec: Recording) -> Tensor:
    """Return the data as floating point, masked samples as NaN."""
    data = rec.values.float()
    return data if rec.mask is None else data.masked_fill(~rec.mask, torch.nan)


def _heat(rec: Recording, ax: Axes | None) -> Axes:
    other = _other(rec)
    data = _valid(rec).movedim(rec.dims.index(other), 0)  # (row, time)
    step = -(-len(data) // _ROWS)
    data = data[::step]
    name = other if step == 1 else f"{other} (1 in {step})"
    if other == "unit":  # units without order are easier to read sorted by the time of their peak
        data = data[data.nan_to_num(-torch.inf).argmax(1).argsort()]
        name = f"{name}, sorted by peak"
    data, unit = _comparable(data, "ratio" if rec.units == "1" else rec.units)
    time, end = rec.time, float(rec.time[0]) + rec.duration
    if rec.rate is None:  # on an even grid, each point the sample before it
        even = torch.linspace(float(time[0]), end, 2 * len(time), dtype=torch.float64, device="cpu")
        data = data[:, (torch.searchsorted(time, even, right=True) - 1).to(data.device)]
    return image(data, extent=(float(time[0]), end or 1.0), y=name, bar=unit, ax=ax)


def _comparable(data: Tensor, unit: str) -> tuple[Tensor, str]:
    """Standardise each row where the levels of rows differ by more than the rows vary, and say so in the unit."""
    level = torch.nanmean(data, 1, keepdim=True)
    spread = (data - level).square().nanmean(1, keepdim=True).sqrt()
    within, between = spread.nanmedian(), (level - level.nanmedian()).abs().nanmedian()
    scaled = (data - level) / torch.where(spread > 0, spread, 1)
    return (scaled, "z by row") if bool(between > within) else (data, unit)


@style()
def raster(spikes: Spikes, *, ax: Axes | None = None) -> Axes:
    """Draw every spike (of very many an even share) as a tick: time against unit."""
    ax = axes(ax)
    step = max(1, -(-len(spikes) // _SPIKES))
    size = max(1.5, min(6.0, 160 / max(1, spikes.n_units)))
    ax.plot(
        array(spikes.times[::step]), array(spikes.unit[::step]), "|", color="0.1", markersize=size, markeredgewidth=0.5
    )
    ax.set_ylim(-0.7, max(spikes.n_units, 1) - 0.3)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(spikes.span):
        span(ax, float(spikes.span.start[0]), float(spikes.span.stop.max()))
    return label(ax, "time (s)", "unit", "" if step == 1 else f"1 in {step} spikes")


@style()
def traces(rec: Recording, *, ax: Axes | None = None) -> Axes:
    """Draw one row as it is, or several around their medians above one another, on a common scale.

    Rows without a unit whose spreads differ more than tenfold, as those of behaviour do, have a scale each. Trials and
    stimuli are shaded; masked samples are left out.
    """
    if "time" not in rec.dims or rec.ndim > 2:
        fix = "select with isel"
        raise InputError(explain("plot.traces", expected="axes (time,) or (time, x)", got=str(rec.dims), fix=fix))
    ax, time = axes(ax), array(rec.time)
    data = _valid(rec).movedim(rec.dims.index("time"), 0)
    values = array(data.reshape(len(time), -1))  # (time, row)
    for name in ("trials", "stimuli"):
        if name in rec.intervals:
            bands(rec.intervals[name], ax=ax)
    what = f"{rec.modality or 'signal'} ({rec.units})"
    if values.shape[1] > 1:
        values, own = _scaled(values) if rec.units in ("a.u.", "1") else (values, False)
        values, gap = _stacked(values)
        other = _other(rec)
        names = rec.labels(other)
        shown = range(values.shape[1]) if names is None else names
        ax.set_yticks(np.arange(values.shape[1]) * gap, [str(n) for n in shown], fontsize=7)
        ax.set_ylim(-gap, values.shape[1] * gap)
        what = f"{other} (each on its own scale)" if own else f"{other} (step {gap:.2g} {rec.units})"
    ax.plot(time, values, color=PALETTE[0], linewidth=0.6)
    if len(time):
        span(ax, float(time[0]), float(time[-1]))
    return label(ax, "time (s)", what)


def _scaled(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Divide each row by its spread if spreads differ more than tenfold, and tell whether that was done."""
    data = torch.from_numpy(values)
    middle = data - data.nanmedian(0).values
    spread = middle.square().nanmean(0).sqrt()
    kept = spread[spread > 0]
    differ = len(kept) > 1 and bool(kept.max() > 10 * kept.min())
    return ((data / torch.where(spread > 0, spread, 1.0)).numpy(), True) if differ else (values, False)


def _stacked(values: np.ndarray) -> tuple[np.ndarray, float]:
    """Return rows around their medians, each one step above the one before, and the step."""
    centred = values - torch.from_numpy(values).nanmedian(0).values.numpy()
    size = np.abs(centred[np.isfinite(centred)])
    gap = (1.5 * float(np.percentile(size, 99)) if size.size else 0.0) or 1.0
    return centred + np.arange(values.shape[1]) * gap, gap
