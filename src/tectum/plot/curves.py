"""Curves over time, with bands for stimuli and trials, and small comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from tectum.core.intervals import Intervals

from .style import PALETTE, array, axes, label, span, style


@style()
def curve(
    time: Tensor | np.ndarray,
    values: Tensor | np.ndarray,
    *,
    events: Intervals | None = None,
    x: str = "time (s)",
    y: str = "",
    color: str = PALETTE[0],
    fill: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw one non-negative curve, filled, over bands that mark events.

    Parameters
    ----------
    time, values : Tensor, shape (n_times,)
        Abscissa in s and ordinate.
    events : Intervals, optional
        Spans to shade behind the curve.
    x, y : str
        Labels with units.
    color : str
        Colour of the curve.
    fill : bool, default True
        Whether to fill down to zero.
    ax : Axes, optional
        Where to draw.
    """
    ax, t, v = axes(ax, height=1.8), array(time), array(values).astype(float)
    if events is not None:
        bands(events, ax=ax)
    ax.plot(t, v, color=color)
    if fill:
        ax.fill_between(t, 0, v, color=color, alpha=0.25, linewidth=0)
    if len(t):
        span(ax, float(t[0]), float(t[-1]))
    return label(ax, x, y)


@style()
def bands(events: Intervals, *, ax: Axes, column: str = "name") -> Axes:
    """Shade spans of time; spans of one name share a colour and one entry for a legend."""
    names = np.asarray(events.columns.get(column, np.full(len(events), ""))).astype(str)
    start, width = array(events.start), array(events.stop - events.start)
    for k, name in enumerate(dict.fromkeys(names.tolist())):
        places = [(start[i], width[i]) for i in np.flatnonzero(names == name)]
        ax.broken_barh(
            places,
            (0.0, 1.0),
            transform=ax.get_xaxis_transform(),  # time across, the whole height of the panel
            color=PALETTE[(k + 4) % len(PALETTE)],
            alpha=0.18,
            linewidth=0,
            zorder=0,
            label=name or None,
        )
    return ax


@style()
def lines(
    x: Tensor | np.ndarray,
    values: Mapping[str, Tensor | np.ndarray],
    *,
    spread: Mapping[str, Tensor | np.ndarray] | None = None,
    xlabel: str,
    ylabel: str,
    mark: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw named curves with markers over a small grid, with optional error bars and a marked abscissa.

    Parameters
    ----------
    x : Tensor, shape (n,)
        Grid.
    values : mapping of str to Tensor, shape (n,)
        Curves by name.
    spread : mapping of str to Tensor, shape (n,), optional
        Half length of the error bars by name.
    xlabel, ylabel : str
        Labels with units.
    mark : float, optional
        Abscissa to mark with a dashed line, such as the value chosen.
    ax : Axes, optional
        Where to draw.
    """
    ax = axes(ax, width=3.4, height=2.4)
    for k, (name, y) in enumerate(values.items()):
        error = None if spread is None or name not in spread else array(spread[name])
        colour = PALETTE[k % len(PALETTE)]
        ax.errorbar(array(x), array(y), yerr=error, marker="o", markersize=3.5, capsize=2, label=name, color=colour)
    if np.issubdtype(array(x).dtype, np.integer):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if mark is not None:
        ax.axvline(mark, color="0.35", linestyle="--", linewidth=0.9)
    if len(values) > 1:
        ax.legend()
    return label(ax, xlabel, ylabel)


@style()
def ranks(
    values: Tensor | np.ndarray,
    names: Sequence[str],
    *,
    null: Tensor | np.ndarray | None = None,
    ylabel: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw one bar an entry, with the null distribution of each as grey points beside it.

    Parameters
    ----------
    values : Tensor, shape (n,)
        Heights.
    names : sequence of str
        What each bar is.
    null : Tensor, shape (n_surrogates, n), optional
        Values under the null.
    ylabel : str
        Label with units.
    ax : Axes, optional
        Where to draw.
    """
    ax, v = axes(ax, width=3.4, height=2.4), array(values)
    ax.bar(range(len(v)), v, color=PALETTE[0], width=0.6)
    if null is not None:
        cloud = array(null)
        shift = np.linspace(-0.22, 0.22, len(cloud))[:, None]
        place = np.arange(len(v))[None] + shift
        ax.plot(place.ravel(), cloud.ravel(), ".", color="0.35", markersize=3, alpha=0.8, label="surrogates")
        ax.legend()
    ax.set_xticks(range(len(v)), list(names))
    return label(ax, "", ylabel)


@style()
def histogram(
    values: Tensor | np.ndarray, *, x: str, y: str = "count", bins: int | str = "auto", ax: Axes | None = None
) -> Axes:
    """Draw how often values occur; those that are not finite are left out.

    Parameters
    ----------
    values : Tensor, shape (n,)
        What to count.
    x, y : str
        What a value is, with its unit, and what is counted.
    bins : int or str, default "auto"
        Number of bins or NumPy's rule.
    ax : Axes, optional
        Where to draw.
    """
    ax, v = axes(ax, width=3.4, height=2.2), array(values).astype(float)
    ax.hist(v[np.isfinite(v)], bins=bins, color=PALETTE[0], alpha=0.7)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    return label(ax, x, y)
