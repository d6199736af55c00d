"""Volumes as slices, and whole runs as carpets."""

from __future__ import annotations

from itertools import permutations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from .heat import image
from .style import PALETTE, array, axes, label, span, style


@style()
def slices(
    volume: Tensor | np.ndarray,
    *,
    affine: np.ndarray | None = None,
    inside: Tensor | np.ndarray | None = None,
    n: int = 10,
    bar: str = "",
    limit: float | None = None,
    grey: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draw slices from bottom to top side by side, left on the left, with the outline of a mask.

    Parameters
    ----------
    volume : Tensor, shape (x, y, z)
        Numbers; what is not finite is grey.
    affine : array, shape (4, 4), optional
        From voxel indices to mm, which tells left, front and top, and the heights; without one the axes are x, y, z.
    inside : Tensor, shape (x, y, z), bool, optional
        A mask, drawn as a line; slices are taken through it.
    n : int, default 10
        Most slices.
    bar : str
        What the numbers are, with their unit.
    limit : float, optional
        End of the colour scale; default the 99th percentile.
    grey : bool, default False
        Draw in grey, from black, as anatomy is shown.
    ax : Axes, optional
        Where to draw.
    """
    turned, mm = upright(array(volume).astype(float), affine)
    mask = None if inside is None else upright(array(inside).astype(bool), affine)[0]
    solid = np.isfinite(turned) & (turned != 0) if mask is None else mask
    levels = np.flatnonzero(solid.any((0, 1)))
    levels = levels if len(levels) else np.arange(turned.shape[2])
    shown = levels[np.unique(np.linspace(0, len(levels) - 1, min(n, len(levels))).round().astype(int))]
    across = -(-len(shown) // 2) if len(shown) > 4 else len(shown)
    sheet = _sheet(turned, shown, across)
    high, wide = sheet.shape
    ax = axes(ax, width=min(7.2, 0.9 + 6 * wide / max(wide, 2.2 * high)), height=0.3 + 6 * high / max(wide, 2.2 * high))
    image(sheet, x="", y="", bar=bar, limit=limit, ax=ax)
    if grey:
        ax.images[-1].set_cmap(mpl.colormaps["gray"].with_extremes(bad="0"))
    ax.set_aspect("equal")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if mask is not None and mask.any() and not mask.all():
        outline = np.nan_to_num(_sheet(mask.astype(float), shown, across))
        ax.contour(np.arange(wide) + 0.5, np.arange(high), outline, levels=[0.5], colors=PALETTE[5], linewidths=0.8)
    _name_slices(ax, turned.shape, shown, across, mm, affine is not None, "0.75" if grey else "0.35")
    return ax


def _sheet(volume: np.ndarray, shown: np.ndarray, across: int) -> np.ndarray:
    """Lay slices (x, y) out in rows, the first at the top left, as an image whose rows go up."""
    wide, high = volume.shape[:2]
    rows = -(-len(shown) // across)
    sheet = np.full((rows * high, across * wide), np.nan)
    for k, z in enumerate(shown):
        row, column = rows - 1 - k // across, k % across
        sheet[row * high : (row + 1) * high, column * wide : (column + 1) * wide] = volume[:, :, z].T
    return sheet


def _name_slices(
    ax: Axes, shape: tuple[int, ...], shown: np.ndarray, across: int, mm: np.ndarray, sides: bool, color: str
) -> None:
    """Write the height of every slice, and left and right at the first."""
    wide, high = shape[:2]
    rows = -(-len(shown) // across)
    for k, z in enumerate(shown):
        x, y = (k % across) * wide, (rows - k // across) * high - 0.5
        name = f"z {mm[z]:.0f} mm" if sides else f"z {z}"
        ax.text(x + 0.03 * wide, y - 0.02 * high, name, fontsize=6, color=color, va="top")
    if sides:
        middle = (rows - 0.5) * high
        ax.text(0.02 * wide, middle, "L", fontsize=7, color=color, va="center")
        ax.text(0.98 * wide, middle, "R", fontsize=7, color=color, va="center", ha="right")


def upright(volume: np.ndarray, affine: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return a volume with its axes towards right, front and top, and the heights of its slices.

    Parameters
    ----------
    volume : array, shape (x, y, z)
        Numbers.
    affine : array, shape (4, 4), optional
        From voxel indices to mm.

    Returns
    -------
    volume : array
        A view with axes swapped and turned, never resampled.
    heights : array, shape (z,)
        mm in the middle of each slice; the index without an affine.

    Examples
    --------
    >>> turned, heights = upright(np.arange(8.0).reshape(2, 2, 2), np.diag([-3.0, 3.0, 3.0, 1.0]))
    >>> turned[:, 0, 0].tolist(), heights.tolist()
    ([4.0, 0.0], [0.0, 3.0])
    """
    if affine is None:
        return volume, np.arange(float(volume.shape[2]))
    place = np.asarray(affine, dtype=float)
    length = np.linalg.norm(place[:3, :3], axis=0)
    aligned = np.abs(place[:3, :3] / np.where(length > 0, length, 1))  # (world axis, voxel axis)
    order = max(permutations(range(3)), key=lambda o: sum(aligned[w, v] for w, v in enumerate(o)))
    middle = place @ [*((np.array(volume.shape) - 1) / 2), 1.0]
    steps = np.arange(volume.shape[order[2]]) - (volume.shape[order[2]] - 1) / 2
    heights = middle[2] + steps * place[2, order[2]]
    turned = volume.transpose(order)
    for world, voxel in enumerate(order):
        if place[world, voxel] < 0:
            turned = np.flip(turned, world)
            heights = heights[::-1] if world == 2 else heights
    return turned, heights


@style()
def carpet(
    values: Tensor | np.ndarray,
    *,
    extent: tuple[float, float] | None = None,
    removed: Tensor | np.ndarray | None = None,
    y: str = "series",
    ax: Axes | None = None,
) -> Axes:
    """Draw scaled series as grey rows from -2 to 2, the first at the top, with a mark over volumes that are left out.

    Parameters
    ----------
    values : Tensor, shape (row, time)
        Series in standard deviations.
    extent : (float, float), optional
        First and last time in s.
    removed : Tensor, shape (time,), bool, optional
        Volumes that are left out.
    y : str
        What a row is.
    ax : Axes, optional
        Where to draw.
    """
    ax, data = axes(ax, width=7.0, height=2.8), array(values).astype(float)
    first, last = extent or (0.0, float(data.shape[1]))
    drawn = ax.imshow(data, cmap="gray", vmin=-2, vmax=2, aspect="auto", extent=(first, last, len(data) - 0.5, -0.5))
    ax.figure.colorbar(drawn, ax=ax, label="s.d.", pad=0.01, fraction=0.03, extend="both")
    if removed is not None and bool(array(removed).any()):
        step = (last - first) / data.shape[1]
        for place in np.flatnonzero(array(removed)):
            ax.axvspan(first + place * step, first + (place + 1) * step, ymin=0.97, color=PALETTE[1], linewidth=0)
    ax.set_yticks([])
    return label(ax, "time (s)", y)


@style()
def trace(
    time: Tensor | np.ndarray,
    values: Tensor | np.ndarray,
    *,
    y: str,
    removed: Tensor | np.ndarray | None = None,
    mark: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one measure of every volume, with bands over volumes that are left out and a line at a limit.

    Parameters
    ----------
    time, values : Tensor, shape (time,)
        s, and the measure.
    y : str
        What it is, with its unit.
    removed : Tensor, shape (time,), bool, optional
        Volumes that are left out.
    mark : float, optional
        Limit, drawn as a dashed line.
    ax : Axes, optional
        Where to draw.
    """
    ax, t, v = axes(ax, width=7.0, height=1.3), array(time).astype(float), array(values).astype(float)
    step = float(t[1] - t[0]) if len(t) > 1 else 1.0
    for place in np.flatnonzero(array(removed)) if removed is not None else ():
        ax.axvspan(t[place], t[place] + step, color=PALETTE[1], alpha=0.25, linewidth=0)
    ax.plot(t + step / 2, v, color="0.15", linewidth=0.8)
    if mark is not None:
        ax.axhline(mark, color=PALETTE[1], linestyle="--", linewidth=0.8)
    if len(t):
        span(ax, float(t[0]), float(t[-1]) + step)
    return label(ax, "time (s)", y)
