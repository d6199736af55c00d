"""Figures of decoders: the course of training, confusion, receiver operating characteristics, curves of accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from tectum.core.errors import InputError, explain

from .style import PALETTE, array, axes, label, style


@style()
def training(curves: Mapping[str, Tensor | np.ndarray], *, best: int | None = None, ax: Axes | None = None) -> Axes:
    """Draw losses against epochs.

    Parameters
    ----------
    curves : mapping of str to array, shape (epoch,)
        Name and values of each curve.
    best : int, optional
        Epoch to mark, from 1.
    ax : Axes, optional
        Where to draw; by default a new figure.
    """
    ax = axes(ax, width=4.0)
    for color, (name, values) in zip(PALETTE, curves.items(), strict=False):
        y = array(values)
        ax.plot(np.arange(1, len(y) + 1), y, color=color, label=name, marker="." if len(y) < 3 else None)
    if best is not None:
        ax.axvline(best, color="0.6", linestyle=":", linewidth=1, label="weights kept")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return label(ax, "epoch", "loss (nats)")


@style()
def confusion(
    counts: Tensor | np.ndarray,
    labels: Sequence[str | int],
    *,
    order: Sequence[str | int] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the share of decisions for each true class.

    Parameters
    ----------
    counts : array, shape (class, class)
        Numbers of decisions; rows are the truth.
    labels : sequence of str or int
        Names of the classes.
    order : sequence of str or int, optional
        All classes in the order to draw them, by sound or meaning; by default as they are.
    ax : Axes, optional
        Where to draw; by default a new figure.
    """
    n = array(counts).astype(float)
    if order is not None:
        if sorted(map(str, order)) != sorted(map(str, labels)):
            raise InputError(explain("confusion(order)", expected=f"all of {list(labels)}", got=str(list(order))))
        place = [list(labels).index(name) for name in order]
        n, labels = n[np.ix_(place, place)], order
    share = n / np.maximum(n.sum(1, keepdims=True), 1)
    ax = axes(ax, width=3.4, height=3.0)
    picture = ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    ax.figure.colorbar(picture, ax=ax, fraction=0.046, label="share of the true class")
    if len(labels) <= 20:
        ax.set_xticks(range(len(labels)), [str(x) for x in labels], rotation=90 if len(labels) > 4 else 0)
        ax.set_yticks(range(len(labels)), [str(x) for x in labels])
    if len(labels) <= 8:
        for i, j in np.ndindex(*share.shape):
            ax.text(j, i, f"{n[i, j]:g}", ha="center", va="center", color="white" if share[i, j] > 0.5 else "black")
    return label(ax, "decided", "true")


@style()
def strip(
    right: Tensor | np.ndarray,
    groups: Sequence[str],
    *,
    chance: float | None = None,
    name: str = "group",
    ax: Axes | None = None,
) -> Axes:
    """Draw the share of right decisions of every group, sorted.

    Parameters
    ----------
    right : array, shape (n_trials,)
        1 where a decision was right.
    groups : sequence of str
        Group of each trial.
    chance : float, optional
        Level of guessing.
    name : str
        What a group is.
    ax : Axes, optional
        Where to draw; by default a new figure.
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    count = np.bincount(member)
    share = np.sort(np.bincount(member, weights=array(right).astype(float)) / count)
    ax = axes(ax, width=4.0)
    ax.plot(np.arange(1, len(names) + 1), share, "o", markersize=4)
    ax.axhline(share.mean(), color=PALETTE[0], linewidth=1, label=f"mean {share.mean():.2f}")
    if chance is not None:
        ax.axhline(chance, color="0.6", linestyle=":", linewidth=1, label="chance")
    ax.set_ylim(-0.02, 1.02)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(loc="lower right")
    return label(ax, f"{name}, sorted", "share of right decisions")


@style()
def roc(curves: Mapping[str, tuple[Tensor | np.ndarray, Tensor | np.ndarray]], *, ax: Axes | None = None) -> Axes:
    """Draw receiver operating characteristics with the area under each.

    Parameters
    ----------
    curves : mapping of str to (false positive rate, true positive rate), each of shape (point,)
        One curve a class.
    ax : Axes, optional
        Where to draw; by default a new figure.
    """
    ax = axes(ax, width=3.4, height=3.2)
    ax.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
    for k, (name, (false, true)) in enumerate(curves.items()):
        x, y = array(false).astype(float), array(true).astype(float)
        area = np.trapezoid(y, x)
        shown = f"{name}: {area:.2f}" if len(curves) <= len(PALETTE) else None
        ax.plot(x, y, color=PALETTE[k % len(PALETTE)], label=shown)
    ax.set_aspect("equal")
    if len(curves) <= len(PALETTE):
        ax.legend(loc="lower right", title="area under the curve")
    return label(ax, "false positive rate", "true positive rate")


@style()
def calibration(
    confidence: Tensor | np.ndarray,
    accuracy: Tensor | np.ndarray,
    count: Tensor | np.ndarray,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw how often decisions are right against how sure they are; the area of a point is its number of trials.

    Parameters
    ----------
    confidence, accuracy, count : array, shape (bin,)
        Mean probability, share of right decisions, and trials of each bin.
    ax : Axes, optional
        Where to draw; by default a new figure.
    """
    ax = axes(ax, width=3.4, height=3.2)
    n = array(count).astype(float)
    ax.plot([0, 1], [0, 1], color="0.6", linestyle=":", linewidth=1)
    ax.scatter(array(confidence)[n > 0], array(accuracy)[n > 0], s=10 + 90 * n[n > 0] / n.max(), color=PALETTE[0])
    ax.set_xlim(0, 1)
    ax.set_ylim(-0.02, 1.02)
    return label(ax, "probability of the decision", "share right")


@style()
def learning(
    sizes: Sequence[int],
    score: Tensor | np.ndarray,
    *,
    chance: float | None = None,
    name: str = "group",
    ax: Axes | None = None,
) -> Axes:
    """Draw scores against the number of training groups: each fold and their mean.

    Parameters
    ----------
    sizes : sequence of int
        Numbers of training groups.
    score : array, shape (size, fold)
        Scores.
    chance : float, optional
        Level of guessing.
    name : str
        What a group is.
    ax : Axes, optional
        Where to draw; by default a new figure.
    """
    ax, y = axes(ax, width=4.0), array(score)
    ax.plot(sizes, y, color="0.8", linewidth=0.8)
    ax.plot(sizes, y.mean(1), color=PALETTE[0], marker="o", markersize=4, label="mean of the folds")
    if chance is not None:
        ax.axhline(chance, color="0.6", linestyle=":", linewidth=1, label="chance")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return label(ax, f"training {name}s", "balanced accuracy")


@style()
def null(scores: Tensor | np.ndarray, observed: float, *, ax: Axes | None = None) -> Axes:
    """Draw the scores of shuffled labels and the observed one.

    Parameters
    ----------
    scores : array, shape (draw,)
        Scores of shuffled labels.
    observed : float
        Score of the true labels.
    ax : Axes, optional
        Where to draw; by default a new figure.
    """
    ax = axes(ax, width=4.0)
    ax.hist(array(scores), bins=30, color="0.75", label="shuffled labels")
    ax.axvline(observed, color=PALETTE[1], label="true labels")
    ax.legend()
    return label(ax, "balanced accuracy", "shuffles")


@style()
def spectra(
    freq: Tensor | np.ndarray, gain: Tensor | np.ndarray, *, weight: Tensor | np.ndarray, ax: Axes | None = None
) -> Axes:
    """Draw the gain of filters against frequency, red or blue by the sign of a weight and strong by its size.

    Parameters
    ----------
    freq : array, shape (freq,)
        Hz.
    gain : array, shape (filter, freq)
        Gain of each filter.
    weight : array, shape (filter,)
        What colours the filters.
    ax : Axes, optional
        Where to draw; by default a new figure.
    """
    ax, w, y = axes(ax, width=4.6), array(weight).astype(float), array(gain)
    strength = np.abs(w) / max(np.abs(w).max(), 1e-30)
    for k in np.argsort(strength):
        ax.plot(array(freq), y[k], color="#b2182b" if w[k] > 0 else "#2166ac", alpha=0.15 + 0.85 * strength[k])
    return label(ax, "frequency (Hz)", "gain")
