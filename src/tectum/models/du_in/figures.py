"""Figures of Du-IN; each draws one kind and returns its Axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator

from ...core.errors import InputError, explain
from ...plot.style import PALETTE, array, axes, label

if TYPE_CHECKING:
    from .result import DuINResult

STAGES = {"codes": "reconstruction (VQ-VAE)", "masked": "masked tokens", "classifier": "words"}


def stages(result: DuINResult, *, ax: Axes | None = None) -> Axes:
    """Draw the loss of every stage against its share of the steps, training and held out, over its first value."""
    ax = axes(ax, width=4.4, height=2.6)
    for colour, (name, title) in zip(PALETTE, STAGES.items(), strict=False):
        loss = result.history.get(f"{name}.loss")
        if loss is None or not len(loss):
            continue
        y = array(loss)
        width = max(1, len(y) // 60)
        smooth = np.convolve(y, np.ones(width) / width, mode="valid")
        ax.plot(np.linspace(0, 1, len(smooth)), smooth / y[0], color=colour, label=title)
        held = result.history.get(f"{name}.held")
        if held is not None and len(held):
            place = np.linspace(1 / len(held), 1, len(held))
            if name == "codes":  # held-out windows are looked at from the first quantised epoch on
                done = len(held) * int(result.history["codes.per_epoch"]) / len(y)
                place = 1 - done + place * done
            ax.plot(place, array(held) / y[0], color=colour, linestyle="--", linewidth=1)
    ax.plot([], [], color="0.4", linestyle="--", linewidth=1, label="held out")
    ax.set_ylim(bottom=0)
    ax.legend()
    return label(ax, "share of the training of the stage", "loss over its first value")


def masked(result: DuINResult, *, ax: Axes | None = None) -> Axes:
    """Draw how many hidden tokens are told in training, and the chance for it."""
    ax = axes(ax, width=3.8, height=2.4)
    y = array(result.history["masked.accuracy"])
    width = max(1, len(y) // 60)
    ax.plot(np.arange(width, len(y) + 1), np.convolve(y, np.ones(width) / width, mode="valid"), label="training")
    ax.axhline(result.masked_accuracy, color=PALETTE[1], linestyle="--", label="held out, at the end")
    ax.axhline(result.masked_majority, color="0.5", linestyle=":", label="commonest code")
    ax.set_ylim(bottom=0)
    ax.legend()
    return label(ax, "step", "hidden tokens told")


def codebook(result: DuINResult, *, ax: Axes | None = None) -> Axes:
    """Draw how often each code is used, the commonest first."""
    ax = axes(ax, width=4.2, height=2.3)
    share = np.sort(array(result.code_usage).astype(float))[::-1]
    share = share / max(share.sum(), 1.0)
    ax.bar(np.arange(1, len(share) + 1), share, width=1.0, color=PALETTE[0])
    ax.set_xlim(0.4, max(2.0, float((share > 0).sum())) + 0.6)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    title = f"perplexity {result.code_perplexity:.1f} of {len(share)} codes"
    return label(ax, "code, by use", "share of tokens", title)


def codes(result: DuINResult, *, ax: Axes | None = None) -> Axes:
    """Draw the codes of the windows held out, trials of one class together."""
    ax = axes(ax, width=4.2, height=3.0)
    values = array(result.codes)
    table = result.coords.get("trial", {})
    names = np.asarray(table.get("label", np.full(len(values), "")))
    order = np.argsort(names, kind="stable")
    _, dense = np.unique(values, return_inverse=True)
    shown = dense.reshape(values.shape)[order]
    n = int(shown.max()) + 1
    colours = ListedColormap([_colour(k) for k in range(n)])
    step = result.contract.rate or 1.0
    length = result.sizes_of["patch"] / step
    ax.imshow(shown, aspect="auto", cmap=colours, extent=(0, shown.shape[1] * length, len(shown), 0),
              interpolation="nearest")  # fmt: skip
    edges = np.flatnonzero(names[order][1:] != names[order][:-1]) + 1
    bounds = np.concatenate(([0], edges, [len(names)]))
    if len(edges):
        for y in edges:
            ax.axhline(y, color="white", linewidth=1)
        if len(bounds) <= 25:
            places = (bounds[:-1] + bounds[1:]) / 2
            ax.set_yticks(places, [str(names[order][i]) for i in bounds[:-1]])
    return label(ax, "time in the window (s)", "class" if len(edges) else "window held out")


def code_by_label(result: DuINResult, *, ax: Axes | None = None) -> Axes:
    """Draw how often each code occurs in each class, as a share of the class."""
    ax = axes(ax, width=4.4, height=2.6)
    counts = array(result.code_by_label).astype(float)
    used = np.argsort(-counts.sum(0), kind="stable")[: int((counts.sum(0) > 0).sum())]
    share = counts[:, used] / np.maximum(counts.sum(1, keepdims=True), 1)
    drawn = ax.imshow(share, aspect="auto", cmap="Blues", vmin=0)
    ax.figure.colorbar(drawn, ax=ax, label="share of tokens", fraction=0.045, pad=0.02)
    if len(result.labels) <= 30:
        ax.set_yticks(range(len(result.labels)), [str(x) for x in result.labels])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return label(ax, "code, by use", "class")


def reconstruction(result: DuINResult, *, channel: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw one window held out and its reconstruction, channels above each other."""
    n = result.example.shape[0] if result.example is not None else 0
    if channel is not None and not 0 <= channel < n:
        raise InputError(explain("plot('reconstruction', channel)", expected=f"0 to {n - 1}", got=repr(channel)))
    ax = axes(ax, width=6.0, height=0.9 + 0.28 * (n if channel is None else 3))
    rows = range(n) if channel is None else [channel]
    wanted, found = array(result.example), array(result.reconstruction)
    time = np.arange(wanted.shape[1]) / (result.contract.rate or 1.0)
    gap = 1.0 + 2.5 * float(wanted.std())
    for place, k in enumerate(rows):
        ax.plot(time, wanted[k] - place * gap, color="0.6", linewidth=0.8, label="recorded" if not place else None)
        ax.plot(time, found[k] - place * gap, color=PALETTE[0], linewidth=1, label="from codes" if not place else None)
    names = np.asarray(result.coords["unit"]["name"]).astype(str)
    ax.set_yticks([-p * gap for p in range(len(rows))], [names[k] for k in rows])
    ax.set_xlim(0, float(time[-1]) + 1 / (result.contract.rate or 1.0))
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return label(ax, "time in the window (s)", "channel")


def channels(result: DuINResult, *, subject: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw how much each channel weighs, the channels used in colour."""
    name = result.subjects[0] if subject is None else result.subjects[result.subject_index(subject)]
    mine = np.asarray(result.coords["channel"]["subject"]).astype(str) == name
    scores, used = array(result.channel_score)[mine], array(result.channel_used)[mine]
    names = np.asarray(result.channels)[mine]
    ax = axes(ax, width=max(3.4, 0.9 + 0.16 * len(scores)), height=2.4)
    ax.bar(range(len(scores)), scores, color=[PALETTE[0] if u else "0.8" for u in used])
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    if not used.all():
        ax.bar([0], [0], color=PALETTE[0], label="used")
        ax.bar([0], [0], color="0.8", label="not used")
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    return label(ax, "channel", "mean weight over the largest")


def brain(result: DuINResult, *, subject: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw the channels at their places (x and y of the recording), larger where they weigh more."""
    table = result.coords["channel"]
    name = result.subjects[0] if subject is None else result.subjects[result.subject_index(subject)]
    mine = np.asarray(table["subject"]).astype(str) == name
    ax = axes(ax, width=3.6, height=3.4)
    x, y = (np.asarray(table[c], dtype=float)[mine] for c in ("x", "y"))
    score = array(result.channel_score)[mine].astype(float)
    drawn = ax.scatter(x, y, s=20 + 160 * score, c=score, cmap="viridis", vmin=0, vmax=1, edgecolors="0.3")
    ax.figure.colorbar(drawn, ax=ax, label="mean weight over the largest", fraction=0.046)
    ax.set_aspect("equal", adjustable="datalim")
    return label(ax, "x (as recorded)", "y (as recorded)")


def compared(result: DuINResult, *, ax: Axes | None = None) -> Axes:
    """Draw the balanced accuracy of this model and of the baselines on the trials set aside."""
    ax = axes(ax, width=1.6 + 0.7 * len(result.baselines), height=2.5)
    names = list(result.baselines)
    ax.bar(range(len(names)), [result.baselines[n] for n in names], width=0.6,
           color=[PALETTE[0] if n == "DuIN" else "0.65" for n in names])  # fmt: skip
    ax.axhline(1 / max(1, len(result.labels)), color="0.3", linestyle=":", label="chance")
    ax.set_xticks(range(len(names)), names, rotation=20)
    ax.set_ylim(0, 1)
    ax.legend()
    return label(ax, "", "balanced accuracy")


def available(result: DuINResult, kind: str) -> bool:
    """Tell whether a result holds what a kind of figure needs."""
    table = result.coords.get("channel", {})
    needs: dict[str, Any] = {
        "masked": "masked.accuracy" in result.history,
        "codebook": result.code_usage is not None,
        "codes": result.codes is not None and len(result.codes) > 0,
        "code_by_label": result.code_by_label is not None and len(result.labels) > 0,
        "reconstruction": result.example is not None,
        "brain": "x" in table and "y" in table and bool(np.isfinite(np.asarray(table["x"], dtype=float)).any()),
        "compared": len(result.baselines) > 1,
    }
    return bool(needs.get(kind, True))


def _colour(k: int) -> Any:
    """Return a colour that neighbours do not share."""
    import matplotlib as mpl

    return mpl.colormaps["twilight_shifted"]((k * 0.6180339887) % 1.0)


#: Kind -> function.
KINDS: dict[str, Callable[..., Axes]] = {
    "stages": stages,
    "masked": masked,
    "codebook": codebook,
    "codes": codes,
    "code_by_label": code_by_label,
    "reconstruction": reconstruction,
    "channels": channels,
    "brain": brain,
    "compared": compared,
}
