"""Figures of a dynamic connectome; each draws one kind and returns its (main) Axes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from ...core.errors import InputError, explain
from ...plot.curves import bands, lines
from ...plot.heat import matrix
from ...plot.style import PALETTE, array, axes, label

if TYPE_CHECKING:
    from .result import DynamicConnectomeResult


def overview(result: DynamicConnectomeResult, *, ax: Axes | None = None) -> Axes:
    """Draw the time courses of all motifs above one another, each scaled to its maximum, over bands of stimuli."""
    n_motifs = result.n_components
    ax = axes(ax, width=7.0, height=0.7 + 0.5 * n_motifs)
    _stimuli(result, ax)
    for r in range(n_motifs):
        course = array(result.time_factor[:, r])
        time, shape = _broken(result, course / max(course.max(), 1e-12) * 0.85)
        base = n_motifs - 1 - r
        ax.fill_between(time, base, base + shape, color=_colour(r), alpha=0.35, linewidth=0)
        ax.plot(time, base + shape, color=_colour(r), linewidth=1.0)
    ax.set_yticks(range(n_motifs), [f"motif {r}" for r in reversed(range(n_motifs))])
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(*_span(result))
    return label(ax, _time_label(result), "")


def time(result: DynamicConnectomeResult, *, component: int = 0, ax: Axes | None = None) -> Axes:
    """Draw the time course of one motif over bands of stimuli."""
    ax = axes(ax, width=6.0, height=2.0)
    _stimuli(result, ax)
    t, course = _broken(result, array(result.time_factor[:, component] * result.weight[component]))
    ax.fill_between(t, 0, course, color=_colour(component), alpha=0.25, linewidth=0)
    ax.plot(t, course, color=_colour(component))
    ax.set_xlim(*_span(result))
    ax.set_ylim(bottom=0)
    return _titled(ax, _time_label(result), "weight (a.u.)", f"Motif {component}")


def matrix_of(result: DynamicConnectomeResult, *, component: int = 0, ax: Axes | None = None) -> Axes:
    """Draw the affinity matrix of one motif, sorted by block with block frames."""
    names = result.units if ax is None else None
    return _square(result.affinity_matrix(component), result, component, names, "affinity (largest = 1)", ax)


def _square(
    values: Tensor, result: DynamicConnectomeResult, component: int, names: list[str] | None, bar: str, ax: Axes | None
) -> Axes:
    """Draw a matrix of units sorted by block, on a figure large enough for the names where these are wanted."""
    side = 3.2 if names is None else min(max(3.2, 0.6 + 0.075 * len(names)), 3.6)
    ax = axes(ax, width=side + 0.9, height=side)
    groups = result.partition[component] if result.n_blocks(component) else None
    drawn = matrix(values, groups=groups, names=names, bar=bar, title=f"Motif {component}", ax=ax)
    drawn.set_xticks([])
    if names is None or len(names) > 40:
        drawn.set_yticks([])
    return label(drawn, "unit, sorted by block" if groups is not None else "unit", "unit")


def motif(result: DynamicConnectomeResult, *, component: int = 0, ax: Axes | None = None) -> Axes:
    """Draw one motif whole: time course, animals, sorted matrix. Returns the Axes of the time course."""
    if ax is not None:
        return time(result, component=component, ax=ax)
    several = len(result.subject_factor) > 1
    figure = plt.figure(figsize=(8.4, 2.7))
    grid = figure.add_gridspec(1, 3 if several else 2, width_ratios=[2.2, 0.8, 1.6][: 3 if several else 2])
    main = time(result, component=component, ax=figure.add_subplot(grid[0]))
    if several:
        animals(result, component=component, ax=figure.add_subplot(grid[1])).set_title("animals")
    matrix_of(result, component=component, ax=figure.add_subplot(grid[-1])).set_title("pairs")
    return main


def animals(result: DynamicConnectomeResult, *, component: int = 0, ax: Axes | None = None) -> Axes:
    """Draw the loading of every animal on one motif."""
    loading, names = array(result.subject_factor[:, component]), result.coords["subject"]["name"].tolist()
    ax = axes(ax, width=2.6, height=0.8 + 0.16 * min(max(len(names), 5), 40))
    ax.barh(range(len(loading)), loading, color=_colour(component), height=0.7)
    ax.set_yticks(range(len(names)), names, fontsize=7 if len(names) <= 20 else 5)
    ax.invert_yaxis()
    return label(ax, "loading (unit norm)", "")


def rank(result: DynamicConnectomeResult, *, ax: Axes | None = None) -> Axes:
    """Draw error, similarity over starts and held-out error against the number of motifs."""
    grid, held, spread = result.rank_grid, result.rank_held_out, result.rank_held_out_se
    if grid is None or result.rank_error is None or result.rank_similarity is None:
        raise InputError(explain("plot('rank')", expected="a fit with rank=None", got="a fit of one rank"))
    curves = {"error": result.rank_error, "similarity": result.rank_similarity}
    errors = {}
    if held is not None and spread is not None and bool(torch.isfinite(held).any()):
        curves["held-out error"], errors["held-out error"] = held, spread
    ax = lines(grid, curves, spread=errors, xlabel="number of motifs", ylabel="relative error, similarity",
               mark=result.n_components, ax=axes(ax, width=4.2, height=2.6))  # fmt: skip
    ax.set_xticks(array(grid))
    _legend_above(ax)
    return ax


def starts(result: DynamicConnectomeResult, *, ax: Axes | None = None) -> Axes:
    """Draw every restart: its error and its similarity with the best."""
    ax, error = axes(ax, width=3.4, height=2.4), array(result.start_error)
    above = 100 * (error / max(error.min(), 1e-12) - 1)
    ax.plot(above, array(result.start_similarity), "o", color=PALETTE[0], markersize=5, alpha=0.6, clip_on=False)
    ax.set_xlim(-0.03 * max(above.max(), 0.1), max(1.05 * above.max(), 0.1))
    ax.set_ylim(0, 1.02)
    return label(ax, "error above that of the best start (%)", "similarity with best start")


def surrogates(result: DynamicConnectomeResult, *, ax: Axes | None = None) -> Axes:
    """Draw the norm of every motif beside the norms of equal rank found in units rolled independently."""
    if result.surrogate_norm is None:
        raise InputError(
            explain("plot('surrogates')", expected="a fit with surrogates", got="surrogates=0", fix="set surrogates=20")
        )
    ax, null = axes(ax, width=3.4, height=2.4), array(result.surrogate_norm)
    place, jitter = np.arange(result.n_components), np.linspace(-0.2, 0.2, len(null))
    ax.plot((place + jitter[:, None]).ravel(), null.ravel(), ".", color="0.6", markersize=3.5, label="rolled units")
    order = np.argsort(-array(result.observed_norm))
    ax.plot(place, array(result.observed_norm)[order], "D", color=PALETTE[0], markersize=6, label="motif")
    ax.set_xticks(place, [str(r) for r in order])
    ax.set_xlim(-0.5, len(place) - 0.5)
    ax.set_ylim(bottom=0)
    return _titled(ax, "motif", "norm (a.u.)", "")


def dendrogram(result: DynamicConnectomeResult, *, component: int = 0, ax: Axes | None = None) -> Axes:
    """Draw how the blocks of a motif join, with the names of their units coloured by type where known."""
    names = result.groups(component)
    if not names:
        raise InputError(
            explain("plot('dendrogram')", expected="a motif with a partition", got=f"motif {component} without one")
        )
    ax = axes(ax, width=7.0, height=3.0)
    order = _leaf_order(result, component, len(names))
    start = np.cumsum([0, *[len(names[k]) for k in order]])
    place = {k: (start[i] + start[i + 1] - 1) / 2 for i, k in enumerate(order)}
    top = _brackets(ax, result, component, place, len(names))
    units = [u for k in order for u in names[k]]
    ax.set_xlim(-1, len(units))
    ax.set_ylim(0, top * 1.08 if top > 0 else 1)
    _name_leaves(ax, result, component, units, start.tolist())
    return _titled(ax, "", "description length lost (nat)", f"Motif {component}")


def _name_leaves(ax: Axes, result: DynamicConnectomeResult, component: int, units: list[str], edges: list[int]) -> None:
    """Write the units under a dendrogram, coloured by type with a legend, or by block; a line spans each block."""
    for a, b in itertools.pairwise(edges):
        ax.plot([a - 0.35, b - 0.65], [0, 0], color="0.25", linewidth=2.5, clip_on=False, solid_capstyle="butt")
    if len(units) > 120:
        ax.set_xticks([])
        ax.set_xlabel(f"{len(units)} units")
        return
    ax.set_xticks(range(len(units)), units, rotation=90, fontsize=7 if len(units) <= 30 else 5)
    ax.tick_params(axis="x", length=0, pad=5)
    types = result.coords["unit"].get("type")
    column = array(result.partition[component]) if types is None else types
    kinds = [str(k) for k in (range(max(column) + 1) if types is None else dict.fromkeys(column))]
    colour = {u: PALETTE[kinds.index(str(k)) % len(PALETTE)] for u, k in zip(result.units, column, strict=True)}
    for tick, name in zip(ax.get_xticklabels(), units, strict=True):
        tick.set_color(colour[name])
    if types is not None and len(kinds) <= len(PALETTE):
        for k, kind in enumerate(kinds):
            ax.plot([], [], "s", color=PALETTE[k], markersize=5, label=kind)


def _leaf_order(result: DynamicConnectomeResult, component: int, n_blocks: int) -> list[int]:
    """Order of the blocks in which no branches cross."""
    members = {k: [k] for k in range(n_blocks)}
    for step, (a, b) in enumerate(result.merges[component].tolist()):
        if a >= 0:
            members[n_blocks + step] = members.pop(a) + members.pop(b)
    return [k for found in members.values() for k in found]


def _brackets(
    ax: Axes, result: DynamicConnectomeResult, component: int, place: dict[int, float], n_blocks: int
) -> float:
    """Draw one bracket for each merge at the summed cost so far; return the height of the last."""
    height = dict.fromkeys(place, 0.0)
    level = 0.0
    for step, (a, b) in enumerate(result.merges[component].tolist()):
        if a < 0:
            break
        level = max(level + max(float(result.merge_height[component, step]), 0.0), level + 1e-9)
        x, y = place[a], place[b]
        ax.plot([x, x, y, y], [height[a], level, level, height[b]], color="0.25", linewidth=1.1)
        place[n_blocks + step], height[n_blocks + step] = (x + y) / 2, level
    return level


def traces(
    result: DynamicConnectomeResult, *, component: int = 0, block: int | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the z-scored traces behind one block of a motif, flipped to agree, where the motif is active in colour."""
    chosen = result.strongest_block(component) if block is None else block
    found = result.trace_back(component, block=chosen)
    z, names = array(found.traces), result.groups(component)[chosen]
    ax = axes(ax, width=7.0, height=max(2.3, 0.9 + 0.17 * min(len(names), 40)))
    _stimuli(result, ax)
    shift = np.arange(z.shape[1]) * 3.0
    t, grey = _broken(result, z + shift)
    _, lit = _broken(result, np.where(array(found.active)[:, None], z, np.nan) + shift)
    ax.plot(t, grey, color="0.6", linewidth=0.6)
    ax.plot(t, lit, color=_colour(component), linewidth=1.1)
    flips = ["" if s >= 0 else "\u2212 " for s in found.signs.tolist()]
    ax.set_yticks(shift, [f + n for f, n in zip(flips, names, strict=True)], fontsize=7 if len(names) <= 25 else 5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(*_span(result))
    title = f"Motif {component}, block {chosen}" + (" (\u2212: upside down)" if any(flips) else "")
    return _titled(ax, _time_label(result), "z-score (rows 3 apart)", title)


def coassignment(result: DynamicConnectomeResult, *, component: int = 0, ax: Axes | None = None) -> Axes:
    """Draw the posterior probability that two units share a block."""
    if not result.n_blocks(component):
        raise InputError(
            explain("plot('coassignment')", expected="a motif with a partition", got=f"motif {component} without one")
        )
    names = result.units if ax is None else None
    return _square(result.coassignment[component], result, component, names, "probability of sharing a block", ax)


def body_map(
    result: DynamicConnectomeResult, *, component: int = 0, share: float = 0.05, ax: Axes | None = None
) -> Axes:
    """Draw the strongest pairs of a motif (a share of all) between the positions of the units, coloured by block."""
    table = result.coords["unit"]
    if "x" not in table or "y" not in table:
        raise InputError(explain("plot('map')", expected="unit coordinates x and y", got=f"columns {sorted(table)}"))
    ax, x, y = axes(ax, width=6.0, height=3.2), np.asarray(table["x"], float), np.asarray(table["y"], float)
    strength, (first, second) = array(result.pair_factor[:, component]), array(result.pair_units)
    strongest = np.argsort(strength)[::-1][: max(1, int(share * len(strength)))]
    for p in strongest[strength[strongest] > 0]:
        ends, shade = [first[p], second[p]], 0.15 + 0.5 * strength[p] / strength.max()
        ax.plot(x[ends], y[ends], color="0.35", alpha=shade, linewidth=0.8, zorder=1)
    groups = array(result.partition[component])
    for k in np.unique(groups):
        chosen, name = groups == k, f"block {k}" if k >= 0 else "no block"
        colour = PALETTE[k % len(PALETTE)] if k >= 0 else "0.6"
        ax.scatter(x[chosen], y[chosen], color=colour, s=26, zorder=3, label=name, edgecolor="white", linewidth=0.5)
    ax.set_aspect("equal", adjustable="datalim")
    unit = str(table["position_unit"][0]) if "position_unit" in table else "a.u."
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
    return label(ax, f"x ({unit})", f"y ({unit})", f"Motif {component}, strongest {share:.0%} of pairs")


def available(result: DynamicConnectomeResult, kind: str) -> bool:
    """Tell whether a result holds what a kind of figure needs."""
    partitioned = bool((result.partition >= 0).any())
    needs: dict[str, Any] = {
        "rank": result.rank_grid is not None,
        "surrogates": result.surrogate_norm is not None,
        "map": {"x", "y"} <= set(result.coords["unit"]),
        "animals": len(result.subject_factor) > 1,
        **dict.fromkeys(("dendrogram", "coassignment"), partitioned),
        "traces": partitioned and result.traces is not None,
    }
    return bool(needs.get(kind, True))


# Shared parts


def _span(result: DynamicConnectomeResult) -> tuple[float, float]:
    """First and last time, s."""
    return float(result.time[0]), float(result.time[-1]) + result.dt


def _broken(result: DynamicConnectomeResult, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle of each bin and its values (T, ...), with NaN between bins that are not neighbours: lines break."""
    time, cuts = array(result.time) + result.dt / 2, [start for start, _ in result.blocks[1:]]
    return np.insert(time, cuts, np.nan), np.insert(values.astype(float), cuts, np.nan, axis=0)


def _stimuli(result: DynamicConnectomeResult, ax: Axes) -> None:
    """Shade the stimuli, with a legend above the panel, and mark where the recording was cut."""
    for start, _ in result.blocks[1:]:
        ax.axvline(float(result.time[start]), color="0.8", linewidth=0.8, zorder=0)
    if len(result.stimulus_window):
        bands(result.stimuli(), ax=ax)
        _legend_above(ax)


def _legend_above(ax: Axes) -> None:
    """Put the legend outside, above the right end of the panel."""
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=6, fontsize=7, frameon=False, handlelength=1.2,
              columnspacing=1.0, borderaxespad=0.1)  # fmt: skip


def _titled(ax: Axes, x: str, y: str, title: str) -> Axes:
    """Label a panel whose legend lies above it."""
    if ax.get_legend_handles_labels()[1]:
        _legend_above(ax)
    return label(ax, x, y, title)


def _time_label(result: DynamicConnectomeResult) -> str:
    if result.align == "event":
        return "time from event (s)"
    return "time, stimuli in one order (s)" if result.align == "stimulus" else "time (s)"


def _colour(component: int) -> str:
    return PALETTE[component % len(PALETTE)]


#: Kind -> function; the first is the default.
KINDS: dict[str, Callable[..., Axes]] = {
    "overview": overview,
    "motif": motif,
    "time": time,
    "matrix": matrix_of,
    "animals": animals,
    "rank": rank,
    "starts": starts,
    "surrogates": surrogates,
    "dendrogram": dendrogram,
    "traces": traces,
    "coassignment": coassignment,
    "map": body_map,
}
