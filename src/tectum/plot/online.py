"""Figures of decoders at work: a run in time, and what was answered to what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from tectum.core.intervals import Intervals

from .style import PALETTE, array, axes, label, style


@style()
def run(
    when: Tensor | np.ndarray,
    proba: Tensor | np.ndarray,
    labels: Sequence[str | int],
    *,
    events: Intervals | None = None,
    fired: tuple[Tensor | np.ndarray, Tensor | np.ndarray] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the probability of every class over time, the events behind it and the commands above it.

    Parameters
    ----------
    when : array, shape (n,)
        Time of each decision in s.
    proba : array, shape (n, class)
        Probabilities.
    labels : sequence
        Classes in order.
    events : Intervals, optional
        Spans to shade, in the colour of the class that their column "name" holds.
    fired : (times, classes), optional
        When commands began, and the position of their class.
    ax : Axes, optional
        Where to draw; by default a new figure.
    """
    ax = axes(ax, width=6.5, height=2.6)
    t, p = array(when), array(proba)
    for k, name in enumerate(labels):
        ax.plot(t, p[:, k], color=PALETTE[k % len(PALETTE)], linewidth=1, label=str(name))
    if fired is not None:
        at, code = array(fired[0]), array(fired[1])
        colours = [PALETTE[int(k) % len(PALETTE)] for k in code]
        ax.scatter(at, np.full(len(at), 1.07), marker="v", s=14, c=colours, clip_on=False)
    if events is not None and len(events):
        names = np.asarray(events.columns["name"]).astype(str)
        for k, name in enumerate(labels):
            own = np.flatnonzero(names == str(name))
            if len(own):
                spans = list(zip(array(events.start)[own], array(events.stop - events.start)[own], strict=True))
                ax.broken_barh(spans, (0, 1), color=PALETTE[k % len(PALETTE)], alpha=0.18, linewidth=0, zorder=0)
    ax.set_ylim(0, 1.12)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return label(ax, "time (s)", "probability")


@style()
def answers(
    counts: Tensor | np.ndarray, rows: Sequence[str], columns: Sequence[str], *, ax: Axes | None = None
) -> Axes:
    """Draw how often each kind of event got each answer.

    Parameters
    ----------
    counts : array, shape (event, answer)
        Numbers.
    rows, columns : sequence of str
        Names of events and of answers.
    ax : Axes, optional
        Where to draw; by default a new figure.
    """
    n = array(counts).astype(float)
    share = n / np.maximum(n.sum(1, keepdims=True), 1)
    ax = axes(ax, width=3.4, height=2.8)
    picture = ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.figure.colorbar(picture, ax=ax, fraction=0.046, label="share of the events")
    ax.set_xticks(range(len(columns)), list(columns), rotation=90 if len(columns) > 4 else 0)
    ax.set_yticks(range(len(rows)), list(rows))
    if n.size <= 64:
        for i, j in np.ndindex(*n.shape):
            ax.text(j, i, f"{n[i, j]:g}", ha="center", va="center", color="white" if share[i, j] > 0.5 else "black")
    return label(ax, "first command", "event")
