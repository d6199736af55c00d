"""Matrices and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from .style import PALETTE, SEQUENTIAL, SIGNED, array, axes, label, style


@style()
def image(
    values: Tensor | np.ndarray,
    *,
    extent: tuple[float, float] | None = None,
    x: str = "time (s)",
    y: str = "unit",
    bar: str = "",
    limit: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw rows against time as a heat map.

    Parameters
    ----------
    values : Tensor, shape (n_rows, n_times)
        Numbers; a signed matrix gets a diverging map centred on zero, and what is not finite is grey.
    extent : (float, float), optional
        First and last time.
    x, y, bar : str
        Labels of the axes and of the colour bar (with units).
    limit : float, optional
        Value of the end of the colour scale; default the 99th percentile of the absolute values that are not zero.
    ax : Axes, optional
        Where to draw.
    """
    ax, data = axes(ax), array(values).astype(float)
    left, right = extent if extent is not None else (0.0, float(data.shape[1]))
    box = (left, right, -0.5, len(data) - 0.5)
    _draw(ax, data, bar, limit, fraction=0.05, aspect="auto", origin="lower", extent=box)
    return label(ax, x, y)


@style()
def matrix(
    values: Tensor | np.ndarray,
    *,
    groups: Tensor | np.ndarray | None = None,
    names: Sequence[str] | np.ndarray | None = None,
    bar: str = "",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a square matrix of units, sorted by group with a frame around each group.

    Parameters
    ----------
    values : Tensor, shape (n_units, n_units)
        Symmetric numbers, an affinity or a co-assignment.
    groups : Tensor, shape (n_units,), int, optional
        Group of each unit; -1 (no group) comes last and gets no frame.
    names : sequence of str, optional
        Unit names, written when there are at most 40.
    bar, title : str
        Label of the colour bar, title of the panel.
    ax : Axes, optional
        Where to draw.
    """
    ax = axes(ax, width=3.4, height=3.0)
    data = array(values).astype(float)
    order = group_order(array(groups)) if groups is not None else np.arange(len(data))
    _draw(ax, data[np.ix_(order, order)], bar, None, fraction=0.045)
    if groups is not None:
        blocks(array(groups)[order], ax=ax)
    if names is not None and len(names) <= 40:
        ax.set_yticks(range(len(names)), [str(names[int(i)]) for i in order], fontsize=6)
    return label(ax, "unit (sorted)" if groups is not None else "unit", "unit", title)


def blocks(sorted_groups: np.ndarray, *, ax: Axes, **line: Any) -> Axes:
    """Frame the diagonal blocks of equal labels in an already sorted matrix plot."""
    edges = np.flatnonzero(np.diff(sorted_groups)) + 1
    starts, stops = np.r_[0, edges], np.r_[edges, len(sorted_groups)]
    for k, (a, b) in enumerate(zip(starts, stops, strict=True)):
        if sorted_groups[a] >= 0:
            colour = line.get("color", PALETTE[k % len(PALETTE)])
            ax.add_patch(Rectangle((a - 0.5, a - 0.5), b - a, b - a, fill=False, edgecolor=colour, linewidth=1.4))
    return ax


def group_order(groups: np.ndarray) -> np.ndarray:
    """Return the order that puts groups side by side, units without group last.

    Examples
    --------
    >>> group_order(np.array([1, -1, 0, 1])).tolist()
    [2, 0, 3, 1]
    """
    return np.argsort(np.where(groups < 0, groups.max(initial=0) + 1, groups), kind="stable")


def _draw(ax: Axes, data: np.ndarray, bar: str, limit: float | None, *, fraction: float, **options: Any) -> None:
    """Draw an image and its colour bar, whose arrows tell that values lie beyond the scale."""
    low, high, cmap = _scale(data, limit)
    colours = mpl.colormaps[cmap].with_extremes(bad="0.85")
    drawn = ax.imshow(data, cmap=colours, vmin=low, vmax=high, **options)
    finite = data[np.isfinite(data)]
    above, below = bool((finite > high).any()), bool((finite < low).any())
    extend = {(False, False): "neither", (True, False): "max", (False, True): "min", (True, True): "both"}[above, below]
    ax.figure.colorbar(drawn, ax=ax, label=bar, pad=0.02, fraction=fraction, extend=extend)


def _scale(data: np.ndarray, limit: float | None) -> tuple[float, float, str]:
    """Return colour limits and map: diverging around zero, unless what is negative is a tenth or less of the rest."""
    finite = data[np.isfinite(data)]
    size = np.abs(finite[finite != 0])
    high = limit or (float(np.percentile(size, 99)) if size.size else 1.0)
    signed = finite.size and float(np.percentile(finite, 1)) < -0.1 * high
    return (-high, high, SIGNED) if signed else (0.0, high, SEQUENTIAL)
