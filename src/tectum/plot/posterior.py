"""Posterior of a difference: its density with a region of equivalence, and one interval a subject."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from .style import PALETTE, array, axes, label, style


@style()
def density(
    draws: Tensor | np.ndarray, interval: tuple[float, float], *, rope: float = 0.0, x: str, ax: Axes | None = None
) -> Axes:
    """Draw the density of posterior draws, their 95 % interval and the region of equivalence.

    Parameters
    ----------
    draws : Tensor, shape (n_draws,)
        Posterior draws of a difference.
    interval : (float, float)
        Ends of their 95 % highest-density interval.
    rope : float, default 0
        Half width of the region around zero that counts as no difference.
    x : str
        What the difference is, with its unit.
    ax : Axes, optional
        Where to draw.
    """
    from scipy.stats import gaussian_kde

    ax, v = axes(ax, height=2.2), array(draws).astype(float)
    reach = max(np.ptp(v), 1e-12) * 0.1
    grid = np.linspace(min(v.min(), -rope) - reach, max(v.max(), rope) + reach, 400)
    height = gaussian_kde(v)(grid) if np.ptp(v) > 0 else np.zeros_like(grid)
    ax.axvspan(-rope, rope, color="0.85", lw=0, label=f"equivalent (±{rope:g})")
    ax.fill_between(grid, height, color=PALETTE[0], alpha=0.35, lw=0)
    ax.plot(grid, height, color=PALETTE[0])
    ax.plot(interval, [0, 0], color="black", lw=3, solid_capstyle="butt", clip_on=False, label="95 % interval")
    ax.axvline(0, color="0.4", lw=0.8, ls=":")
    ax.set_ylim(bottom=0)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return label(ax, x, "posterior density")


@style()
def forest(
    mean: Tensor | np.ndarray, interval: Tensor | np.ndarray, *, labels: Sequence[str],
    observed: Tensor | np.ndarray | None = None, rope: float = 0.0, x: str, ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw one interval a subject, with what was observed beside it.

    Parameters
    ----------
    mean : Tensor, shape (n_subjects,)
        Posterior means.
    interval : Tensor, shape (n_subjects, 2)
        Ends of their 95 % intervals.
    labels : sequence of str
        Names of the subjects.
    observed : Tensor, shape (n_subjects,), optional
        Raw differences.
    rope, x, ax
        See :func:`density`.
    """
    center, ends = array(mean), array(interval)
    ax, rows = axes(ax, height=0.9 + 0.22 * len(center)), np.arange(len(center))[::-1]
    ax.axvspan(-rope, rope, color="0.85", lw=0)
    ax.axvline(0, color="0.4", lw=0.8, ls=":")
    ax.hlines(rows, ends[:, 0], ends[:, 1], color=PALETTE[0], lw=1.5)
    ax.plot(center, rows, "o", color=PALETTE[0], ms=4, label="posterior mean")
    if observed is not None:
        ax.plot(array(observed), rows, "x", color="black", ms=4, label="observed")
    ax.set_yticks(rows, list(labels))
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return label(ax, x, "subject")
