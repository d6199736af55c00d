"""Figures of a switching GLM over many sequences: states of every trial, states around events, rates of units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from ...core.errors import InputError, explain
from ...plot.style import PALETTE, array, axes, label
from .basis import design_tensor
from .emission import Link, rate_of

if TYPE_CHECKING:
    from .result import HMMGLMResult


def trials(
    result: HMMGLMResult, *, marks: Mapping[str, float | Sequence[float]] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the states of every sequence as a row, the colours mixed by their probabilities.

    ``marks`` are events of the task: a name, and s from the start of the sequence, one number or one a sequence.
    """
    share = array(result.probability)  # (session, time, state)
    colours = np.array([to_rgb(_colour(s)) for s in range(share.shape[2])])
    picture = share @ colours + (1 - share.sum(-1, keepdims=True))  # white beyond the end
    n_rows, n_bins = share.shape[:2]
    ax = axes(ax, width=6.4, height=1.3 + min(0.12 * n_rows, 4.0))
    ax.imshow(
        picture.clip(0, 1), aspect="auto", interpolation="nearest", extent=(0, n_bins * result.dt, n_rows - 0.5, -0.5)
    )
    for edge in range(1, n_rows if n_rows <= 60 else 1):
        ax.axhline(edge - 0.5, color="white", linewidth=0.8)
    handles: list[Any] = [Patch(color=_colour(s), label=f"state {s}") for s in range(min(share.shape[2], 8))]
    for k, (name, times) in enumerate((marks or {}).items()):
        places = np.broadcast_to(np.asarray(times, dtype=float), (n_rows,))
        handles += ax.plot(
            places, np.arange(n_rows), "|^ov"[k % 4], color="black", markersize=6 if k % 4 == 0 else 3, label=name
        )
    _legend(ax, handles)
    ax.set_yticks(np.unique(np.linspace(0, n_rows - 1, min(n_rows, 5)).round().astype(int)))
    return label(ax, "time from the start of the sequence (s)", "sequence")


def occupancy(
    result: HMMGLMResult,
    *,
    events: Sequence[Sequence[float]] | None = None,
    window: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean probability of every state around events, with the standard error over events.

    ``events`` holds the times of each sequence on its own clock, s; by default the starts of the sequences. ``window``
    is in s around an event.
    """
    share, starts = array(result.probability), np.asarray(result.coords["session"]["t0"], dtype=float)
    longest = share.shape[1] * result.dt
    given = [[t] for t in starts] if events is None else events
    if len(given) != len(share):
        raise InputError(
            explain("plot('occupancy', events)", expected=f"times of {len(share)} sequences", got=str(len(given)))
        )
    low, high = window or ((0.0, longest) if events is None else (-min(1.0, longest / 4), min(1.0, longest / 4)))
    lag = np.arange(round(low / result.dt), max(round(high / result.dt), round(low / result.dt) + 1))
    pieces = []
    for row, start, times in zip(share, starts, given, strict=True):
        for time in times:
            index = lag + int(np.floor((time - start) / result.dt + 1e-6))
            inside = (index >= 0) & (index < len(row))
            piece = np.where(inside[:, None], row[index.clip(0, len(row) - 1)], np.nan)
            pieces.append(np.where(piece.sum(1, keepdims=True) > 0.5, piece, np.nan))  # padding has no state
    if not pieces or not np.isfinite(pieces).any():
        raise InputError(explain("plot('occupancy', events)", expected="events inside the sequences", got="none"))
    return _around(result, np.stack(pieces), (lag + 0.5) * result.dt, events is None, axes(ax, width=4.4, height=2.5))


def _around(result: HMMGLMResult, values: np.ndarray, time: np.ndarray, of_start: bool, ax: Axes) -> Axes:
    """Mean and standard error over events of probabilities (event, lag, state)."""
    number = np.isfinite(values).sum(0)  # (lag, state)
    total = np.where(np.isfinite(values), values, 0.0)
    mean = np.where(number > 0, total.sum(0) / np.maximum(number, 1), np.nan)
    square = (np.where(np.isfinite(values), values - mean, 0.0) ** 2).sum(0)
    error = np.sqrt(square / np.maximum(number - 1, 1) / np.maximum(number, 1))
    for s in range(result.n_states):
        ax.fill_between(
            time, mean[:, s] - error[:, s], mean[:, s] + error[:, s], color=_colour(s), alpha=0.2, linewidth=0
        )
        ax.plot(time, mean[:, s], color=_colour(s), label=f"state {s}")
    if not of_start:
        ax.axvline(0, color="0.6", linewidth=0.8)
    ax.set_ylim(0, 1)
    _legend(ax, ax.get_legend_handles_labels()[0])
    return label(ax, "time from the start (s)" if of_start else "time from the event (s)", "probability of state")


def rates(
    result: HMMGLMResult,
    *,
    units: Sequence[int] | None = None,
    session: int = 0,
    window: tuple[float, float] | None = None,
    smooth: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw expected (coloured) over observed rates of example units of one sequence, each scaled to its maximum.

    Expected rates mix the states by their probabilities; both are smoothed by a Gaussian of standard deviation
    ``smooth`` s (by default three bins). The default units are the four busiest.
    """
    n_units = len(result.units)
    chosen = array(result.rate).argsort()[::-1][:4].tolist() if units is None else list(units)
    wrong = [u for u in chosen if not 0 <= u < n_units]
    if wrong or not chosen:
        raise InputError(explain("plot('rates', units)", expected=f"units 0 to {n_units - 1}", got=repr(chosen)))
    time = array(result.time(session))
    keep = np.ones(len(time), bool) if window is None else (time >= window[0]) & (time < window[1])
    if not keep.any():
        raise InputError(explain("plot('rates', window)", expected="a window inside the sequence", got=repr(window)))
    width = 3 * result.dt if smooth is None else smooth
    seen, fit = array(result.counts[session, : len(time)]) / result.dt, expected_rates(result, session)
    ax = axes(ax, width=7.0, height=0.8 + 0.7 * len(chosen))
    for k, u in enumerate(chosen):
        pair = [_gaussian(x[:, u].astype(float), width / result.dt)[keep] for x in (seen, fit)]
        top = max(float(np.max(pair)), 1e-9)
        ax.fill_between(
            time[keep], -k, pair[0] / top * 0.9 - k, color="0.8", linewidth=0, label="observed" if k == 0 else None
        )
        ax.plot(
            time[keep], pair[1] / top * 0.9 - k, color=PALETTE[0], linewidth=1.0, label="expected" if k == 0 else None
        )
        ax.text(time[keep][-1], 0.9 - k, f" {top:.3g} /s", va="top", fontsize=7, color="0.4")
    ax.set_yticks([0.4 - k for k in range(len(chosen))], [result.units[u] for u in chosen])
    ax.set_xlim(time[keep][0], time[keep][-1])
    _legend(ax, ax.get_legend_handles_labels()[0])
    return label(ax, "time (s)", "unit")


def expected_rates(result: HMMGLMResult, session: int) -> np.ndarray:
    """Expected rates of one sequence, the states mixed by their probabilities: (time, unit), spikes/s."""
    n_bins = int((result.states[session] >= 0).sum())
    counts = result.counts[session, :n_bins].to(result.bias)
    if result.n_lags:
        design = design_tensor(counts, result.filters)
    else:
        design = torch.ones_like(counts[:, :1])
    weights = result.weights[..., : design.shape[-1]]
    link: Link = result.link  # type: ignore[assignment]
    drive = torch.einsum("tp,snp->tsn", design, weights)
    share = result.probability[session, :n_bins].to(drive)
    return array(torch.einsum("ts,tsn->tn", share, rate_of(drive, link))) / result.dt


def _gaussian(values: np.ndarray, width: float) -> np.ndarray:
    """Smooth by a Gaussian of a standard deviation in bins."""
    if width <= 0:
        return values
    reach = np.arange(-int(np.ceil(4 * width)), int(np.ceil(4 * width)) + 1)
    kernel = np.exp(-0.5 * (reach / width) ** 2)
    ones = np.convolve(np.ones_like(values), kernel, mode="full")[len(reach) // 2 :][: len(values)]
    return np.convolve(values, kernel, mode="full")[len(reach) // 2 :][: len(values)] / ones


def _legend(ax: Axes, handles: Sequence[Any]) -> None:
    """One line above the right end of the axes."""
    ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=8, fontsize=7, frameon=False,
              handlelength=0.9, columnspacing=0.9, borderaxespad=0.1)  # fmt: skip


def _colour(state: int) -> str:
    return PALETTE[state % len(PALETTE)]
