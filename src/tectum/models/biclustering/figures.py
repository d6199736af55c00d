"""Figures of a bi-clustering; each draws one kind and returns its (main) Axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ...core.errors import InputError, explain
from ...plot.heat import matrix
from ...plot.style import PALETTE, SEQUENTIAL, array, axes, label

if TYPE_CHECKING:
    from .result import BiClusterResult


def overview(result: BiClusterResult, *, ax: Axes | None = None) -> Axes:
    """Draw the raster sorted by group above the ribbon of states. Returns the Axes of the raster."""
    if ax is not None:
        return raster(result, ax=ax)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.0, 3.8), height_ratios=[5, 1], sharex=True)
    raster(result, ax=top)
    top.set_xlabel("")
    ribbon(result, ax=bottom)
    figure.align_ylabels()
    top.set_xlabel(_time_label(result), visible=False)
    main: Axes = top
    return main


def raster(result: BiClusterResult, *, ax: Axes | None = None) -> Axes:
    """Draw counts, units sorted by group and then by their loading on its first factor."""
    ax = axes(ax, width=7.0, height=3.2)
    order, groups = _order(result), array(result.clusters)
    shown = np.sqrt(array(result.counts).T[order].astype(float))
    top = max(float(np.percentile(shown, 99)), 1.0)
    drawn = ax.imshow(shown, aspect="auto", cmap=SEQUENTIAL, vmin=0, vmax=top, extent=(*_span(result), len(order), 0))
    ax.figure.colorbar(drawn, ax=ax, label="count (square root)", pad=0.02, fraction=0.05)
    for edge in np.flatnonzero(np.diff(groups[order])) + 1:
        ax.axhline(edge, color=PALETTE[1], linewidth=1.0)
    return label(ax, _time_label(result), "unit, sorted by group")


def ribbon(result: BiClusterResult, *, ax: Axes | None = None) -> Axes:
    """Draw the posterior share of every aligned state over time, and the point sequence below it."""
    from ...stats.alignment import assign, overlap

    ax = axes(ax, width=7.0, height=1.3)
    chains = slice(None) if result.agree else slice(result.best_chain, result.best_chain + 1)
    draws = result.state_draws[chains].flatten(0, 1).long()
    draws = draws[:: max(1, len(draws) // 200)]
    size = int(max(draws.max(), result.states.max())) + 1
    names = assign(-overlap(draws, result.states, n_labels=size)).gather(-1, draws)
    share = np.stack([array((names == k).float().mean(0)) for k in range(size)])
    time, base = _clock(result), np.zeros(share.shape[1])
    for k in np.flatnonzero(share.mean(1) > 0.005):
        colour = PALETTE[k % len(PALETTE)]
        ax.fill_between(time, base, base + share[k], color=colour, linewidth=0, step="post", label=f"state {k}")
        base = base + share[k]
    ax.set_ylim(0, 1)
    ax.set_xlim(*_span(result))
    _legend_above(ax)
    return label(ax, _time_label(result), "P(state)")


def latents(result: BiClusterResult, *, group: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw level and factors of every group (or of one) with their 95 % bands, one above the other."""
    wanted = range(result.n_groups) if group is None else [_known(result, group)]
    ax = axes(ax, width=7.0, height=0.8 + 0.9 * len(wanted))
    time, ticks = _clock(result), []
    mean, low, high = (array(x) for x in (result.latent, result.latent_low, result.latent_high))
    step = 2.2 * max(float(np.abs(mean).max()), 1e-9)
    for row, g in enumerate(wanted):
        base = -row * step
        ticks.append(base)
        for k in range(mean.shape[-1]):
            name = None if row else ("level" if k == 0 else f"factor {k}")
            ax.plot(time, base + mean[g, :, k], color=PALETTE[k % len(PALETTE)], linewidth=0.9, label=name)
            ax.fill_between(time, base + low[g, :, k], base + high[g, :, k], color=PALETTE[k % len(PALETTE)],
                            alpha=0.2, linewidth=0)  # fmt: skip
    ax.set_yticks(ticks, [f"group {g}" for g in wanted])
    ax.set_xlim(*_span(result))
    _legend_above(ax)
    return label(ax, _time_label(result), "log rate")


def co_clustering(result: BiClusterResult, *, ax: Axes | None = None) -> Axes:
    """Draw the probability that two units share a group, sorted by group."""
    names = result.units if len(result.clusters) <= 40 else None
    return matrix(result.co_clustering, groups=result.clusters, names=names, bar="P(same group)", ax=ax)


def state_similarity(result: BiClusterResult, *, ax: Axes | None = None) -> Axes:
    """Draw the probability that two bins share a state, in the order of time."""
    ax = axes(ax, width=3.4, height=3.0)
    left, right = _span(result)
    drawn = ax.imshow(array(result.state_similarity), cmap=SEQUENTIAL, vmin=0, vmax=1,
                      extent=(left, right, right, left))  # fmt: skip
    ax.figure.colorbar(drawn, ax=ax, label="P(same state)", pad=0.02, fraction=0.045)
    return label(ax, _time_label(result), _time_label(result))


def traces(result: BiClusterResult, *, scalar: str = "log_joint", ax: Axes | None = None) -> Axes:
    """Draw one scalar of every chain over draws."""
    ax, values = axes(ax, width=4.2, height=2.2), array(_scalar(result, scalar))
    for k, chain in enumerate(values):
        ax.plot(chain, color=PALETTE[k % len(PALETTE)], linewidth=0.8, label=f"chain {k}")
    _legend_above(ax)
    return label(ax, "draw", scalar.replace("_", " "))


def ranks(result: BiClusterResult, *, scalar: str = "log_joint", ax: Axes | None = None) -> Axes:
    """Draw a histogram of the ranks of every chain's draws among all; flat where chains agree."""
    ax, values = axes(ax, width=4.2, height=2.2), array(_scalar(result, scalar)).astype(float)
    order = values.ravel().argsort(kind="stable").argsort().reshape(values.shape)
    edges = np.linspace(0, values.size, min(21, values.shape[1] + 1))
    for k, chain in enumerate(order):
        ax.stairs(np.histogram(chain, edges)[0], edges, color=PALETTE[k % len(PALETTE)], label=f"chain {k}")
    _legend_above(ax)
    return label(ax, f"rank of {scalar.replace('_', ' ')}", "draws")


def counts_of(result: BiClusterResult, *, ax: Axes | None = None) -> Axes:
    """Draw the posterior of the number of groups and of the number of states."""
    ax = axes(ax, width=4.2, height=2.2)
    for k, (name, values) in enumerate({"groups": result.n_clusters, "states": result.n_states}.items()):
        found, times = np.unique(array(values).astype(int), return_counts=True)
        ax.bar(found + 0.4 * (k - 0.5), times / times.sum(), width=0.38, color=PALETTE[k], label=f"number of {name}")
    both = np.concatenate([array(result.n_clusters).ravel(), array(result.n_states).ravel()])
    ax.set_xlim(both.min() - 1, both.max() + 1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend_above(ax)
    return label(ax, "number", "probability")


def check(result: BiClusterResult, *, ax: Axes | None = None) -> Axes:
    """Draw the Fano factor of every unit against those of replicated data (median, 95 % range)."""
    ax, seen = axes(ax, width=3.2, height=3.0), array(result.fano)
    low, middle, high = np.quantile(array(result.fano_replicated), [0.025, 0.5, 0.975], axis=0)
    ax.errorbar(seen, middle, yerr=[middle - low, high - middle], fmt="o", markersize=3, linewidth=0.8, alpha=0.7)
    ends = [min(seen.min(), low.min()), max(seen.max(), high.max())]
    ax.plot(ends, ends, color="0.35", linestyle="--", linewidth=0.9)
    return label(ax, "Fano factor of the data", "Fano factor, replicated")


def held_out(result: BiClusterResult, *, ax: Axes | None = None) -> Axes:
    """Draw the predictive score of hidden entries beside those of two baselines."""
    ax = axes(ax, width=3.4, height=2.4)
    given = {"constant": result.score_constant, "smoothing": result.score_smoothing, "BiCluster": result.score_held_out}
    scores = {name: float(v) for name, v in given.items() if v is not None}
    for k, (name, score) in enumerate(scores.items()):  # a bar would need zero in the picture
        ax.plot(k, score, "o", color=PALETTE[0] if name == "BiCluster" else "0.5")
        ax.annotate(f"{score:.3f}", (k, score), (6, 0), textcoords="offset points", va="center", fontsize=7)
    ax.set_xticks(range(len(scores)), list(scores))
    ax.margins(x=0.25, y=0.15)
    return label(ax, "", "log score (nats an entry)")


def influence(result: BiClusterResult, *, state: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw how strongly each group drives each other group in a state (by default the longest), over its noise."""
    share = result.occupancy()
    state = int(share.argmax()) if state is None else state
    if not 0 <= state < len(share):
        raise InputError(explain("state", expected=f"0 to {len(share) - 1}", got=repr(state)))
    ax, values = axes(ax, width=3.2, height=2.8), array(result.influence()[state])
    drawn = ax.imshow(values, cmap=SEQUENTIAL, vmin=0)
    for (row, column), value in np.ndenumerate(values):
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7,
                color="white" if value < 0.6 * values.max() else "black")  # fmt: skip
    ax.set_xticks(range(len(values)))
    ax.set_yticks(range(len(values)))
    ax.set_title(f"state {state}")
    ax.figure.colorbar(drawn, ax=ax, label="driven part of a step over its noise", pad=0.02, fraction=0.045)
    return label(ax, "driving group", "driven group")


def available(result: BiClusterResult, kind: str) -> bool:
    """Whether the result has the data of a kind of figure."""
    if kind == "influence":
        return result.coupled
    return kind != "held_out" or result.score_held_out is not None


# Shared parts


def _order(result: BiClusterResult) -> np.ndarray:
    """Units by group, then by the loading on the first factor."""
    order: np.ndarray = np.lexsort((array(result.mean_loading[:, 1]), array(result.clusters)))
    return order


def _clock(result: BiClusterResult) -> np.ndarray:
    """Abscissa: time in s for one stretch, else bins in order as seconds of data."""
    time = array(result.time)
    return time if bool((np.diff(time) > 0).all()) else np.arange(len(time)) * result.dt


def _span(result: BiClusterResult) -> tuple[float, float]:
    """First and last abscissa."""
    time = _clock(result)
    return float(time[0]), float(time[-1]) + result.dt


def _time_label(result: BiClusterResult) -> str:
    return "time (s)" if bool((np.diff(array(result.time)) > 0).all()) else "time, sessions in order (s)"


def _legend_above(ax: Axes) -> None:
    """Put the legend outside, above the right end of the panel."""
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=6, fontsize=7, frameon=False, handlelength=1.2,
              columnspacing=1.0, borderaxespad=0.1)  # fmt: skip


def _known(result: BiClusterResult, group: int) -> int:
    if not 0 <= group < result.n_groups:
        raise InputError(explain("group", expected=f"0 to {result.n_groups - 1}", got=repr(group)))
    return group


def _scalar(result: BiClusterResult, name: str) -> object:
    if name not in result.scalars:
        raise InputError(explain("scalar", expected=f"one of {list(result.scalars)}", got=repr(name)))
    return getattr(result, name)


#: Kind -> function; the first is the default.
KINDS: dict[str, Callable[..., Axes]] = {
    "overview": overview,
    "raster": raster,
    "ribbon": ribbon,
    "latents": latents,
    "co_clustering": co_clustering,
    "state_similarity": state_similarity,
    "traces": traces,
    "ranks": ranks,
    "numbers": counts_of,
    "check": check,
    "held_out": held_out,
    "influence": influence,
}
