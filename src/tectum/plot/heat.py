"""Matrices and images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from .style import PALETTE, SEQUENTIAL, SIGNED, array, axes, label


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
        Numbers; a signed matrix gets a diverging map centred on zero.
    extent : (float, float), optional
        First and last time.
    x, y, bar : str
        Labels of the axes and of the colour bar (with units).
    limit : float, optional
        Value of the end of the colour scale; default the 99.5th percentile of the absolute values.
    ax : Axes, optional
        Where to draw.
    """
    ax, data = axes(ax), array(values).astype(float)
    low, high, cmap = _scale(data, limit)
    left, right = extent if extent is not None else (0.0, float(data.shape[1]))
    drawn = ax.imshow(
        data, aspect="auto", origin="lower", extent=(left, right, -0.5, len(data) - 0.5), cmap=cmap, vmin=low, vmax=high
    )
    ax.figure.colorbar(drawn, ax=ax, label=bar, pad=0.02, fraction=0.05)
    return label(ax, x, y)


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
    low, high, cmap = _scale(data, None)
    drawn = ax.imshow(data[np.ix_(order, order)], cmap=cmap, vmin=low, vmax=high)
    ax.figure.colorbar(drawn, ax=ax, label=bar, pad=0.02, fraction=0.045)
    if groups is not None:
        blocks(array(groups)[order], ax=ax)
    if names is not None and len(names) <= 40:
        ax.set_yticks(range(len(names)), [str(names[int(i)]) for i in order], fontsize=5)
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


def _scale(data: np.ndarray, limit: float | None) -> tuple[float, float, str]:
    """Return colour limits and map: diverging around zero for signed data."""
    finite = np.abs(data[np.isfinite(data)])
    high = limit if limit is not None else (float(np.percentile(finite, 99.5)) if finite.size else 1.0)
    high = high or (float(finite.max()) if finite.size and finite.max() > 0 else 1.0)
    return (-high, high, SIGNED) if np.nanmin(data, initial=0.0) < 0 else (0.0, high, SEQUENTIAL)
