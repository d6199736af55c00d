"""Figures of spikes and fluorescence: rasters with behaviour and depth, rates, intervals, regions, traces, tuning."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes

from tectum.core.errors import InputError, explain
from tectum.core.recording import Recording
from tectum.core.spikes import Spikes
from tectum.core.sync import ClockMap

from .quicklook import raster
from .style import PALETTE, SEQUENTIAL, array, axes, label, span, style

_MOST = 200_000  # spikes that a figure shows
_KINDS = 8  # values of a column that get a colour each


@style()
def with_behaviour(spikes: Spikes, behaviour: Recording, *, ax: Axes | None = None) -> Axes:
    """Draw a raster under a strip of behaviour on the same clock.

    Parameters
    ----------
    spikes : Spikes
        What is drawn in ``ax``.
    behaviour : Recording, dims (time,) or (time, feature)
        What is drawn above, on an axis of its own with its unit.
    ax : Axes, optional
        Where to draw.

    Examples
    --------
    >>> speed = Recording(data=torch.rand(50), dims=("time",), rate=10.0, units="cm/s", modality="speed")
    >>> with_behaviour(Spikes.from_trains([[0.1, 2.0]], support=(0.0, 5.0)), speed).get_ylabel()
    'unit'
    """
    if "time" not in behaviour.dims or behaviour.ndim > 2:
        expected = "axes (time,) or (time, feature)"
        raise InputError(explain("plot.with_behaviour", expected=expected, got=str(behaviour.dims)))
    ax = raster(spikes, ax=axes(ax, height=3.2))
    _room_above(ax, 0.3)
    strip = ax.inset_axes((0.0, 0.76, 1.0, 0.24), sharex=ax)
    shown = behaviour.tensor("time", *(d for d in behaviour.dims if d != "time")).float()
    values = array(shown.reshape(len(shown), -1))
    names = next((behaviour.labels(d) for d in behaviour.dims if d != "time"), None)
    for k in range(values.shape[1]):
        name = None if names is None else str(names[k])
        strip.plot(array(behaviour.time), values[:, k], linewidth=0.7, color=PALETTE[k % len(PALETTE)], label=name)
    if names is not None and values.shape[1] <= _KINDS:
        strip.legend(fontsize=7, ncols=values.shape[1], loc="upper right")
    strip.tick_params(labelbottom=False)
    strip.set_ylabel(f"{behaviour.modality or 'behaviour'}\n({behaviour.units})", fontsize=7)
    return ax


def _room_above(ax: Axes, share: float) -> None:
    """Leave a share of the height free above what is drawn; ticks stay where data are."""
    low, high = ax.get_ylim()
    ticks = [t for t in ax.get_yticks() if low <= t <= high]
    ax.set_ylim(low, low + (high - low) / (1.0 - share))
    ax.set_yticks(ticks)


@style()
def rates(spikes: Spikes, *, ax: Axes | None = None) -> Axes:
    """Draw how many units fire at which rate, on a logarithmic axis; silent units are counted in the title."""
    ax, found = axes(ax, width=3.4, height=2.2), array(spikes.rates())
    fires = found[found > 0]
    if len(fires):
        low, high = np.floor(np.log10(fires.min())), np.floor(np.log10(fires.max())) + 1
        ax.hist(fires, bins=np.logspace(low, high, int(8 * (high - low)) + 1).tolist(), color=PALETTE[0], alpha=0.7)
        ax.set_xscale("log")
    silent = len(found) - len(fires)
    return label(ax, "rate (spikes/s)", "units", f"{silent} silent" if silent else "")


@style()
def gaps(spikes: Spikes, *, refractory: float = 0.0015, ax: Axes | None = None) -> Axes:
    """Draw the intervals between spikes of one unit, over all units; those too short for a neuron are coloured.

    Parameters
    ----------
    spikes : Spikes
        Of one or many units.
    refractory : float, default 0.0015
        s; the title states the share of shorter intervals, and how many units have over 1 % of them.
    ax : Axes, optional
        Where to draw.
    """
    between, unit = spikes.gaps()
    ax, short = axes(ax, width=3.4, height=2.2), between < refractory
    shown = array(between[between > 0]) * 1e3
    if len(shown):
        edges = np.logspace(np.log10(max(shown.min(), 1e-2)), np.log10(max(shown.max(), 1.0)) + 1e-9, 61)
        cut = refractory * 1e3
        for part, colour, name in ((shown[shown >= cut], PALETTE[0], ""), (shown[shown < cut], PALETTE[1], "short")):
            ax.hist(part, bins=edges.tolist(), color=colour, alpha=0.8, label=name or None)
        ax.axvline(cut, color="0.35", linestyle="--", linewidth=0.9)
        ax.set_xscale("log")
    n = torch.bincount(unit, minlength=spikes.n_units).clamp(min=1)
    many = int((torch.bincount(unit[short], minlength=spikes.n_units) > 0.01 * n).sum())
    share = float(short.double().mean()) if len(short) else 0.0
    title = f"{share:.2%} below {refractory * 1e3:g} ms; over 1 % in {many} of {spikes.n_units} units"
    ax.set_title(title, fontsize=8)
    return label(ax, "interval (ms)", "intervals")


@style()
def rois(data: Recording, column: str, *, ax: Axes | None = None) -> Axes:
    """Draw regions where they are, coloured by a column of their table.

    Parameters
    ----------
    data : Recording
        Footprints, dims (unit, y, x), or any recording whose table of units has ``x`` and ``y``.
    column : str
        Numbers, drawn with a colour bar, or up to eight kinds, drawn with a legend.
    ax : Axes, optional
        Where to draw.

    Examples
    --------
    >>> coords = {"unit": {"snr": [1.0, 2.0]}}
    >>> shapes = Recording(data=torch.eye(2).reshape(2, 1, 2), dims=("unit", "y", "x"), coords=coords, units="a.u.")
    >>> rois(shapes, "snr").get_xlabel()
    'x (px)'
    """
    values = np.asarray(data.labels("unit", column))
    codes, names = _codes(values)
    ax = axes(ax, width=4.2, height=3.4)
    cmap = mpl.colormaps[SEQUENTIAL] if names is None else mpl.colors.ListedColormap(PALETTE[: len(names)])
    if set(data.dims) == {"unit", "y", "x"}:
        shape = data.tensor("unit", "y", "x").float().abs()
        peak, owner = shape.max(0)
        picture = np.where(array(peak > 0), codes[array(owner)], np.nan)
        share = array((peak / shape.amax((1, 2))[owner].clamp(min=1e-12)).clamp(0.25, 1.0))
        drawn: Any = ax.imshow(picture, cmap=cmap, alpha=share, origin="upper")
        ax.set_facecolor("0.93")
    else:
        x, y = (np.asarray(data.labels("unit", axis), dtype=float) for axis in ("x", "y"))
        drawn = ax.scatter(x, y, c=codes, cmap=cmap, s=14)
        ax.invert_yaxis()
        ax.set_aspect("equal")
    _key(ax, drawn, column, names)
    return label(ax, "x (px)", "y (px)")


def _codes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return numbers as they are, or the place of each among few kinds and the kinds."""
    if values.dtype.kind == "f" or (values.dtype.kind in "iu" and len(np.unique(values)) > _KINDS):
        return values.astype(float), None
    names, codes = np.unique(values.astype(str), return_inverse=True)
    if len(names) > _KINDS:
        got = f"{len(names)} different texts"
        raise InputError(explain("plot.rois(column)", expected=f"numbers or at most {_KINDS} kinds", got=got))
    return codes.astype(float), names


def _key(ax: Axes, drawn: Any, column: str, names: np.ndarray | None) -> None:
    """Add a colour bar for numbers, a legend for kinds."""
    if names is None:
        ax.figure.colorbar(drawn, ax=ax, label=column, pad=0.02, fraction=0.045)
        return
    drawn.set_clim(-0.5, len(names) - 0.5)
    for k, name in enumerate(names):
        ax.plot([], [], "s", color=PALETTE[k], label=str(name))
    ax.legend(title=column, fontsize=7, title_fontsize=7)


@style()
def fluorescence(
    raw: Recording,
    rest: Recording,
    *,
    relative: Recording | None = None,
    events: Spikes | None = None,
    unit: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw fluorescence of one region with its baseline, dF/F on an axis to the right, and inferred events on top.

    Parameters
    ----------
    raw, rest : Recording, dims (time, unit)
        Fluorescence and baseline, in one unit.
    relative : Recording, dims (time, unit), optional
        dF/F.
    events : Spikes, optional
        Events of the same regions.
    unit : int, default 0
        Position of the region.
    ax : Axes, optional
        Where to draw.
    """
    ax, time = axes(ax, height=2.8), array(raw.time)
    ax.plot(time, array(raw.isel(unit=unit).values), color="0.45", linewidth=0.6, label="F")
    ax.plot(time, array(rest.isel(unit=unit).values), color=PALETTE[1], linewidth=1.2, label="F0")
    if events is not None:
        when = array(events.train(unit))
        height = np.full(len(when), 0.97)
        above = ax.get_xaxis_transform()
        ax.plot(when, height, "|", color=PALETTE[2], transform=above, markersize=7, label="events")
    if relative is not None:
        right = ax.twinx()
        right.plot(array(relative.time), array(relative.isel(unit=unit).values), color=PALETTE[0], linewidth=0.6)
        right.set_ylabel(f"dF/F ({relative.units})" if relative.units != "dF/F" else "dF/F", color=PALETTE[0])
        right.spines["right"].set_visible(True)
        _room_above(right, 0.52)
        low, high = ax.get_ylim()
        ax.set_yticks([t for t in ax.get_yticks() if low <= t <= high])
        ax.set_ylim(high - 2.1 * (high - low), high + 0.15 * (high - low))
    if len(time) > 1:
        span(ax, float(time[0]), float(time[-1]))
    ax.legend(fontsize=7, ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.0)
    return label(ax, "time (s)", f"fluorescence ({raw.units})", f"region {unit}")


@style()
def psth(around: Recording, *, unit: int = 0, by: str = "", ax: Axes | None = None) -> Axes:
    """Draw the mean rate around events with its standard error, one curve for each value of a column of the trials.

    Parameters
    ----------
    around : Recording, dims (trial, time, unit), units "spikes/bin"
        From :meth:`tectum.Spikes.epochs`; bins outside the support do not count.
    unit : int, default 0
        Position of the unit.
    by : str, default ""
        Column of the trials.
    ax : Axes, optional
        Where to draw.

    Examples
    --------
    >>> spikes = Spikes.from_trains([[0.1, 1.1, 2.1]], support=(0.0, 3.0))
    >>> psth(spikes.epochs([0.0, 1.0, 2.0], (0.0, 0.5), 0.1)).get_ylabel()
    'rate (spikes/s)'
    """
    rate, trial = _trial_rates(around, unit, "plot.psth")
    ax, time = axes(ax, width=3.6, height=2.4), array(around.time) + 0.5 / float(around.rate or 1.0)
    kinds = np.zeros(len(rate), dtype=int) if not by else _column(trial, by, "plot.psth(by)")
    for k, kind in enumerate(np.unique(kinds)):
        middle, error = _mean_error(rate[kinds == kind])
        colour = PALETTE[k % len(PALETTE)]
        ax.plot(time, middle, color=colour, label=f"{by} {kind}" if by else None)
        ax.fill_between(time, middle - error, middle + error, color=colour, alpha=0.2, linewidth=0)
    ax.axvline(0.0, color="0.35", linestyle="--", linewidth=0.9)
    if by:
        ax.legend(fontsize=7)
    return label(ax, "time from event (s)", "rate (spikes/s)", f"unit {unit}, {len(rate)} trials")


@style()
def tuning(around: Recording, column: str, *, unit: int = 0, ax: Axes | None = None) -> Axes:
    """Draw the mean rate over the whole window against a column of the trials, with its standard error.

    Parameters
    ----------
    around : Recording, dims (trial, time, unit), units "spikes/bin"
        From :meth:`tectum.Spikes.epochs`.
    column : str
        Column of the trials; numbers are spaced as such.
    unit : int, default 0
        Position of the unit.
    ax : Axes, optional
        Where to draw.
    """
    rate, trial = _trial_rates(around, unit, "plot.tuning")
    kinds = _column(trial, column, "plot.tuning(column)")
    values = np.unique(kinds[kinds == kinds])
    whole = torch.from_numpy(rate).nanmean(1, keepdim=True).numpy()
    found = [_mean_error(whole[kinds == value]) for value in values]
    middle, error = (np.array([pair[k][0] for pair in found]) for k in (0, 1))
    ax = axes(ax, width=3.4, height=2.4)
    numeric = values.dtype.kind in "iuf"
    place = values.astype(float) if numeric else np.arange(len(values), dtype=float)
    ax.errorbar(place, middle, yerr=error, marker="o", markersize=3.5, capsize=2, color=PALETTE[0])
    if not numeric:
        ax.set_xticks(place, [str(v) for v in values])
    ax.set_ylim(bottom=0.0)
    return label(ax, column, "rate (spikes/s)", f"unit {unit}")


def _trial_rates(around: Recording, unit: int, where: str) -> tuple[np.ndarray, Any]:
    """Return rates (trial, time) of one unit, NaN outside the support, and the table of trials."""
    if set(around.dims) != {"trial", "time", "unit"} or around.units != "spikes/bin" or around.rate is None:
        raise InputError(explain(where, expected="counts (trial, time, unit)", got=repr(around), fix="Spikes.epochs"))
    one = around.isel(unit=unit)
    rate = one.tensor("trial", "time").double() * around.rate
    valid = one.valid() if one.dims == ("trial", "time") else one.valid().movedim(0, 1)
    return array(rate.masked_fill(~valid, torch.nan)), around.coords.get("trial", {})


def _column(table: Any, name: str, where: str) -> np.ndarray:
    if name not in table:
        raise InputError(explain(where, expected=f"a column among {sorted(table)}", got=repr(name)))
    return np.asarray(table[name])


def _mean_error(rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard error over the trials with data: (time,) each, NaN without any."""
    n = np.isfinite(rate).sum(0)
    middle = np.where(n > 0, np.nansum(rate, 0) / np.maximum(n, 1), np.nan)
    spread = np.nansum((rate - middle) ** 2, 0) / np.maximum(n - 1, 1)
    return middle, np.sqrt(spread / np.maximum(n, 1))


@style()
def clocks(found: ClockMap, *, ax: Axes | None = None) -> Axes:
    """Draw how far the matched pulses of two clocks lie from the line between them; the title says drift and spread."""
    ax, left = axes(ax, height=2.2), array(found.residual_ms)
    ax.axhline(0.0, color="0.6", linewidth=0.8)
    ax.plot(array(found.source), left, ".", markersize=2.5, color=PALETTE[0])
    lost = " and ".join(map(str, found.unmatched))
    title = f"drift {found.drift_ppm:.1f} ppm, r.m.s. {found.rms_ms:.2f} ms, {len(left)} pulses, {lost} unmatched"
    return label(ax, "time on the first clock (s)", "residual (ms)", title)


@style()
def depths(spikes: Spikes, *, column: str = "depth", by: str = "", ax: Axes | None = None) -> Axes:
    """Draw each spike (of very many an even share) at the depth of its unit, coloured by another column.

    Parameters
    ----------
    spikes : Spikes
        With a table of units.
    column : str, default "depth"
        Where each unit lies, in the unit of the file.
    by : str, default ""
        Column of up to eight kinds, such as "area" or "quality".
    ax : Axes, optional
        Where to draw.
    """
    depth = _column(spikes.units, column, "plot.depths(column)").astype(float)
    codes, names = _codes(_column(spikes.units, by, "plot.depths(by)").astype(str)) if by else (None, np.array([""]))
    step = max(1, -(-len(spikes) // _MOST))
    time, unit = array(spikes.times[::step]), array(spikes.unit[::step])
    ax = axes(ax, height=3.2)
    for k, name in enumerate(names if names is not None else ()):
        here = np.ones(len(unit), bool) if codes is None else codes[unit] == k
        colour = "0.1" if codes is None else PALETTE[k]
        ax.plot(time[here], depth[unit[here]], ",", color=colour)
        if by:
            ax.plot([], [], "s", color=colour, label=str(name))
    if by:
        ax.legend(title=by, fontsize=7, title_fontsize=7, loc="upper right")
    if len(spikes.span):
        span(ax, float(spikes.span.start[0]), float(spikes.span.stop.max()))
    return label(ax, "time (s)", column, "" if step == 1 else f"1 in {step} spikes")
