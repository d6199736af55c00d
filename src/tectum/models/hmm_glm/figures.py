"""Figures of a switching GLM; each draws one kind and returns its (main) Axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ...core.errors import InputError, explain
from ...plot.curves import lines
from ...plot.style import PALETTE, SIGNED, array, axes, label
from ...stats.alignment import assign, overlap
from .timelines import occupancy, rates, trials

if TYPE_CHECKING:
    from .result import HMMGLMResult

MOST_BINS = 20_000  # of a raster


def states(
    result: HMMGLMResult,
    *,
    session: int = 0,
    truth: Tensor | None = None,
    window: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the counts of one sequence over a ribbon of its states, and the true states above if given.

    ``truth`` has states (session, time) or (time,); its colours are matched to those of the fit. ``window`` is in s.
    """
    time = array(result.time(session))
    path = array(result.states[session])[: len(time)]
    rows, names = [path], ["state"]
    if truth is not None:
        rows.append(_matched(result, truth, session)[: len(time)])
        names.append("truth")
    counts = array(result.counts[session])[: len(time)]
    keep = _window(time, result.dt, window)
    ax = axes(ax, width=7.0, height=1.2 + 0.09 * min(max(counts.shape[1], 12), 40))
    n_units = counts.shape[1]
    height = max(1.0, 0.07 * n_units)
    _raster(ax, time[keep], counts[keep], result.dt)
    extent = (float(time[keep][0]), float(time[keep][-1]) + result.dt)
    for k, row in enumerate(rows):
        bottom = n_units - 0.5 + (k + 0.3 * (k + 1)) * height
        _ribbon(ax, row[keep], extent, bottom, height, result.n_states)
    places = [n_units - 0.5 + (k + 0.5 + 0.3 * (k + 1)) * height for k in range(len(rows))]
    units = np.linspace(0, n_units - 1, min(4, n_units)).round().astype(int)
    ax.set_yticks([*units, *places], [*(str(i) for i in units), *names])
    ax.set_xlim(*extent)
    ax.set_ylim(-0.8, n_units - 0.5 + 1.3 * len(rows) * height + 0.3 * height)
    shown = [Patch(color=_colour(s), label=f"state {s}") for s in range(min(result.n_states, 8))]
    ax.legend(handles=shown, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=8, fontsize=7, frameon=False,
              handlelength=0.9, columnspacing=0.9, borderaxespad=0.1)  # fmt: skip
    return label(ax, "time (s)", "unit")


def probability(
    result: HMMGLMResult, *, session: int = 0, window: tuple[float, float] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the probability of every state in time, stacked."""
    ax, time = axes(ax, width=7.0, height=1.7), array(result.time(session))
    keep = _window(time, result.dt, window)
    values = array(result.probability[session])[: len(time)][keep]
    edges = np.append(time[keep], time[keep][-1] + result.dt)
    stacked = np.vstack([values, values[-1:]]).T
    colours = [_colour(s) for s in range(result.n_states)]
    ax.stackplot(edges, stacked, step="post", colors=colours, alpha=0.85, linewidth=0,
                 labels=[f"state {s}" for s in range(result.n_states)])  # fmt: skip
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0, 1)
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=8, fontsize=7, handlelength=0.9, columnspacing=0.9,
              borderaxespad=0.1)  # fmt: skip
    return label(ax, "time (s)", "probability")


def networks(result: HMMGLMResult, *, ordered: bool = False, ax: Axes | None = None) -> Axes:
    """Draw the couplings of all states side by side, one colour scale. Returns the Axes of the first state.

    ``ordered`` puts units with similar couplings side by side, in the same order for all states.
    """
    if ax is not None:
        return network(result, state=0, ordered=ordered, ax=ax)
    return _panels(result, result.network, _limit(result.network), "coupling", ordered)


def types(result: HMMGLMResult, *, ordered: bool = False, ax: Axes | None = None) -> Axes:
    """Draw the most probable type of every connection, the states side by side (a given Axes shows the first)."""
    if result.adjacency is None:
        raise InputError(explain("plot('types')", expected="a fit with prior='one_hot'", got=f"prior={result.prior!r}"))
    if ax is None:
        return _panels(result, result.adjacency, 1.5, "type", ordered)
    order = _order(result) if ordered else np.arange(len(result.units))
    ax.imshow(array(result.adjacency[0])[np.ix_(order, order)], cmap=SIGNED, vmin=-1.5, vmax=1.5)
    ax.set_title("State 0", color=_colour(0))
    return label(_whole(ax), *_sides(ordered))


def _order(result: HMMGLMResult) -> np.ndarray:
    """Units with similar couplings, to and from others, side by side."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    shared = array(result.network.double().mean(0))
    profile = np.concatenate([shared, shared.T], 1)
    if len(profile) < 3:
        return np.arange(len(profile))
    return np.asarray(leaves_list(linkage(profile, "average", optimal_ordering=True)))


def _sides(ordered: bool) -> tuple[str, str]:
    """Labels of the axes of a coupling matrix."""
    return ("source unit (ordered)", "target unit (ordered)") if ordered else ("source unit", "target unit")


def _panels(result: HMMGLMResult, values: Tensor, limit: float, bar: str, ordered: bool) -> Axes:
    """Matrices (state, target, source) side by side on one colour scale."""
    source, target = _sides(ordered)
    order = _order(result) if ordered else np.arange(len(result.units))
    n_states = result.n_states
    columns = min(n_states, 4)
    rows = -(-n_states // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(1.9 * columns + 0.7, 1.9 * rows + 0.35), squeeze=False,
                                sharex=True, sharey=True)  # fmt: skip
    drawn: Any = None
    for k, panel in enumerate(grid.flat):
        if k >= n_states:
            panel.set_visible(False)
            continue
        drawn = panel.imshow(array(values[k])[np.ix_(order, order)], cmap=SIGNED, vmin=-limit, vmax=limit)
        _whole(panel)
        panel.set_title(f"State {k} ({float(result.occupancy[k]):.0%})", color=_colour(k))
        panel.set_xlabel(source if k + columns >= n_states else "")
        panel.set_ylabel(target if k % columns == 0 else "")
    bars = figure.colorbar(drawn, ax=list(grid.flat), label=bar, fraction=0.03, pad=0.02)
    if not values.is_floating_point():
        bars.set_ticks([-1, 0, 1], labels=["inhibitory", "absent", "excitatory"])
    first: Axes = grid[0, 0]
    if rows > 1:
        first.set_xlabel(source)
    return first


def network(result: HMMGLMResult, *, state: int = 0, ordered: bool = False, ax: Axes | None = None) -> Axes:
    """Draw the coupling matrix of one state; one-hot types are marked where they are not absent."""
    order = _order(result) if ordered else np.arange(len(result.units))
    ax = axes(ax, width=4.0, height=3.3)
    limit = _limit(result.network)
    drawn = ax.imshow(array(result.network[state])[np.ix_(order, order)], cmap=SIGNED, vmin=-limit, vmax=limit)
    ax.figure.colorbar(drawn, ax=ax, label="coupling", fraction=0.045, pad=0.02)
    if result.adjacency is not None and len(result.units) <= 40:
        place = array(result.adjacency[state])[np.ix_(order, order)].nonzero()
        ax.plot(place[1], place[0], ".", color="0.1", markersize=2)
    ax.set_title(f"State {state}", color=_colour(state))
    return label(_whole(ax), *_sides(ordered))


def prior_map(result: HMMGLMResult, *, ax: Axes | None = None) -> Axes:
    """Draw what the states share: probability of excitatory minus inhibitory, or the mean coupling."""
    ax = axes(ax, width=4.6, height=3.4)
    if result.shared_types is not None:
        values, bar = result.shared_types[..., 2] - result.shared_types[..., 0], "p(excitatory) \u2212 p(inhibitory)"
    else:
        values, bar = result.shared_coupling.sum(-1), "coupling shared by the states"
    limit = 1.0 if result.shared_types is not None else _limit(values)
    drawn = ax.imshow(array(values), cmap=SIGNED, vmin=-limit, vmax=limit)
    ax.figure.colorbar(drawn, ax=ax, label=bar, fraction=0.045, pad=0.02)
    return label(_whole(ax), "source unit", "target unit")


def filters(
    result: HMMGLMResult, *, target: int | None = None, source: int | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the effect of one unit on another at every lag, a line a state; by default of the strongest coupling."""
    if not result.n_lags:
        raise InputError(explain("plot('filters')", expected="a fit with lags", got="n_lags=0"))
    if target is None or source is None:
        strongest = result.network.abs().amax(0)
        place = int(strongest.argmax())
        target, source = place // len(strongest), place % len(strongest)
    for name, unit in {"target": target, "source": source}.items():
        if not 0 <= unit < len(result.units):
            raise InputError(
                explain(f"plot('filters', {name})", expected=f"0 to {len(result.units) - 1}", got=str(unit))
            )
    ax = axes(ax, width=3.8, height=2.5)
    lag = result.dt * np.arange(1, result.n_lags + 1) * 1e3
    ax.axhline(0, color="0.8", linewidth=0.8)
    for s in range(result.n_states):
        values = array(result.filter_of(s, target, source))
        ax.plot(lag, values, marker="o", markersize=3, color=_colour(s), label=f"state {s}")
    ax.legend(fontsize=7)
    return label(ax, "lag (ms)", "effect on the drive", f"{result.units[source]} \u2192 {result.units[target]}")


def transition(result: HMMGLMResult, *, ax: Axes | None = None) -> Axes:
    """Draw the transition matrix with its numbers; colours are of log probabilities."""
    ax = axes(ax, width=3.4, height=2.9)
    values = array(result.transition).astype(float)
    drawn = ax.imshow(np.log10(values.clip(1e-6)), cmap="Greys", vmin=-3.5, vmax=0.3)
    for (i, j), p in np.ndenumerate(values) if len(values) <= 8 else ():
        ax.text(j, i, f"{p:.2g}", ha="center", va="center", fontsize=7, color="white" if p > 0.1 else "black")
    bar = ax.figure.colorbar(drawn, ax=ax, label="probability", fraction=0.045, pad=0.02)
    bar.set_ticks([-3, -2, -1, 0], labels=["0.001", "0.01", "0.1", "1"])
    names = [f"state {s}" for s in range(len(values))]
    ax.set_xticks(range(len(values)), [str(s) for s in range(len(values))])
    ax.set_yticks(range(len(values)), names)
    return label(ax, "to state", "from")


def dwell(result: HMMGLMResult, *, ax: Axes | None = None) -> Axes:
    """Draw the distribution of the lengths of visits to each state (share of visits that last longer)."""
    ax = axes(ax, width=3.8, height=2.5)
    lengths = _visit_lengths(result)
    for s, found in enumerate(lengths):
        if len(found):
            ordered = np.sort(found) * result.dt
            ax.step(ordered, 1 - np.arange(len(ordered)) / len(ordered), where="pre", color=_colour(s),
                    label=f"state {s} ({len(ordered)})")  # fmt: skip
    ax.set_ylim(0, 1.02)
    ax.set_xlim(left=0)
    ax.legend(fontsize=7)
    return label(ax, "length of visit (s)", "share of visits at least as long")


def dwell_histogram(result: HMMGLMResult, *, n_bins: int = 20, ax: Axes | None = None) -> Axes:
    """Draw how many visits to each state last how long; the bins are wide as bins of the counts, or a multiple."""
    ax = axes(ax, width=3.8, height=2.5)
    lengths = _visit_lengths(result)
    longest = max(int(found.max(initial=1)) for found in lengths)
    wide = -(-longest // n_bins)
    edges = (0.5 + wide * np.arange(-(-longest // wide) + 1)) * result.dt
    for s, found in enumerate(lengths):
        ax.hist(found * result.dt, edges.tolist(), histtype="step", color=_colour(s), label=f"state {s} ({len(found)})")
    ax.set_xlim(left=0)
    ax.legend(fontsize=7)
    return label(ax, "length of visit (s)", "visits")


def objective(result: HMMGLMResult, *, ax: Axes | None = None) -> Axes:
    """Draw the objective in every EM round of the last stage."""
    ax = axes(ax, width=3.8, height=2.4)
    values = array(result.history)
    ax.plot(np.arange(1, len(values) + 1), values, marker="o", markersize=3)
    ax.ticklabel_format(axis="y", useOffset=False)
    return label(ax, "EM round", "log-likelihood + log prior (nat)")


def starts(result: HMMGLMResult, *, ax: Axes | None = None) -> Axes:
    """Draw how far the refined starts are below the best."""
    ax = axes(ax, width=3.0, height=2.3)
    below = array(result.start_objective[0] - result.start_objective)
    ax.bar(range(len(below)), below, color=PALETTE[0], width=0.6)
    ax.plot(range(len(below)), below, ".", color="0.2")
    ax.set_xticks(range(len(below)))
    ax.set_ylim(0, max(1.0, 1.1 * float(below.max())))
    return label(ax, "refined start", "nats below the best")


def number(result: HMMGLMResult, *, ax: Axes | None = None) -> Axes:
    """Draw the held-out log-likelihood against the number of states."""
    grid, held, error = result.state_grid, result.state_held_out, result.state_held_out_se
    if grid is None or held is None or error is None:
        raise InputError(explain("plot('number')", expected="a fit with n_states=None", got="a fit of one number"))
    ax = lines(grid, {"held out": held}, spread={"held out": error}, xlabel="number of states",
               ylabel="held-out log-likelihood\n(nat per bin)", mark=result.n_states,
               ax=axes(ax, width=3.8, height=2.5))  # fmt: skip
    ax.set_xticks(array(grid))
    return ax


def available(result: HMMGLMResult, kind: str) -> bool:
    """Tell whether a result holds what a kind of figure needs."""
    needs: dict[str, Any] = {
        "number": result.state_grid is not None,
        "types": result.adjacency is not None,
        "rates": not result.covariates,
        **dict.fromkeys(("filters", "networks", "network", "prior"), result.n_lags > 0),
    }
    return bool(needs.get(kind, True))


# Shared parts


def _raster(ax: Axes, time: np.ndarray, counts: np.ndarray, dt: float) -> None:
    """Mark every bin with spikes, darker with more; only the first bins of a long sequence."""
    bins, unit = counts[:MOST_BINS].nonzero()
    size = counts[bins, unit]
    for n, shade in ((1, "0.45"), (2, "0.2"), (3, "0.0")):
        chosen = size >= 3 if n == 3 else size == n
        ax.plot(time[bins[chosen]] + dt / 2, unit[chosen], "|", color=shade, markersize=2.6, markeredgewidth=0.6)


def _ribbon(
    ax: Axes, row: np.ndarray, extent: tuple[float, float], bottom: float, height: float, n_states: int
) -> None:
    """Draw states as colours; -1 is white."""
    n_colours = max(n_states, int(row.max(initial=0)) + 1)
    colours = ListedColormap(["white", *(_colour(s) for s in range(n_colours))])
    ax.imshow(row[None], aspect="auto", extent=(*extent, bottom, bottom + height), cmap=colours, vmin=-1.5,
              vmax=n_colours - 0.5, interpolation="nearest", zorder=2)  # fmt: skip


def _matched(result: HMMGLMResult, truth: Tensor, session: int) -> np.ndarray:
    """True states of one sequence in the names of the fit."""
    known = torch.as_tensor(array(truth)).long()
    mine = result.states.cpu()
    if known.ndim == 1:
        known, mine = known[None], mine[session][None]
    shape = (known.shape[0], min(known.shape[1], mine.shape[1]))
    if known.shape[0] != mine.shape[0] or known.shape[1] < int((mine >= 0).sum(1).max()):
        expected = f"states of shape {tuple(result.states.shape)} or of one sequence"
        raise InputError(explain("plot('states', truth)", expected=expected, got=f"shape {tuple(truth.shape)}"))
    known, mine = known[:, : shape[1]], mine[:, : shape[1]]
    n_labels = max(int(known.max()) + 1, result.n_states)
    both = (known >= 0) & (mine >= 0)
    name = assign(-overlap(known[both], mine[both], n_labels=n_labels))
    renamed = torch.where(known >= 0, name[known.clamp(min=0)], -1)
    return array(renamed[0 if len(renamed) == 1 else session])


def _visit_lengths(result: HMMGLMResult) -> list[np.ndarray]:
    """Lengths in bins of the visits to every state."""
    found: list[list[int]] = [[] for _ in range(result.n_states)]
    for row in array(result.states):
        path = row[row >= 0]
        edges = np.concatenate(([0], np.flatnonzero(np.diff(path)) + 1, [len(path)]))
        for a, b in zip(edges[:-1], edges[1:], strict=True):
            found[int(path[a])].append(int(b - a))
    return [np.asarray(lengths) for lengths in found]


def _window(time: np.ndarray, dt: float, window: tuple[float, float] | None) -> np.ndarray:
    """Bins to draw."""
    if window is None:
        return np.ones(len(time), dtype=bool)
    keep = (time + dt / 2 >= window[0]) & (time + dt / 2 < window[1])
    if not keep.any():
        span = f"[{time[0]:g}, {time[-1] + dt:g}) s"
        raise InputError(explain("plot(window)", expected=f"a window (start, stop) inside {span}", got=repr(window)))
    return keep


def _whole(ax: Axes) -> Axes:
    """Put ticks at whole units only."""
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    return ax


def _limit(values: Tensor) -> float:
    """End of a colour scale around zero."""
    return max(float(np.percentile(np.abs(array(values)), 99.5)) if values.numel() else 1.0, 1e-6)


def _colour(state: int) -> str:
    return PALETTE[state % len(PALETTE)]


#: Kind -> function; the first is the default.
KINDS: dict[str, Callable[..., Axes]] = {
    "states": states,
    "probability": probability,
    "trials": trials,
    "occupancy": occupancy,
    "rates": rates,
    "networks": networks,
    "network": network,
    "types": types,
    "prior": prior_map,
    "filters": filters,
    "transition": transition,
    "dwell": dwell,
    "dwell_histogram": dwell_histogram,
    "objective": objective,
    "starts": starts,
    "number": number,
}
