"""Folds that share no raw sample between training and test: by group, or by contiguous blocks with a gap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tectum.core.errors import InputError, explain
from tectum.core.intervals import Intervals
from tectum.core.random import spawn
from tectum.core.recording import Recording


class Fold(NamedTuple):
    """Indices of one split."""

    train: np.ndarray  #: shape (n_train,), int64
    test: np.ndarray  #: shape (n_test,), int64


class TimeFold(NamedTuple):
    """Spans of time of one split, in s."""

    train: Intervals
    test: Intervals


def group_folds(groups: Sequence[Any], folds: int, *, random_state: int = 0) -> Iterator[Fold]:
    """Split samples so that all of a group (subject, session, trial) are on one side.

    Parameters
    ----------
    groups : sequence, length n_samples
        Group of each sample.
    folds : int
        Number of folds; every sample is tested once.
    random_state : int, default 0
        The assignment of groups to folds depends on it and on nothing else.

    Yields
    ------
    Fold

    Raises
    ------
    InputError
        If there are fewer groups than folds.

    Examples
    --------
    >>> [fold.test.tolist() for fold in group_folds(["a", "a", "b"], 2)]
    [[0, 1], [2]]
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    if not 2 <= folds <= len(names):
        raise InputError(
            explain("group_folds", expected=f"2 to {len(names)} folds for {len(names)} groups", got=repr(folds))
        )
    order = np.random.default_rng(spawn(random_state, "folds")).permutation(len(names))
    fold_of = np.empty(len(names), dtype=int)
    fold_of[order] = np.arange(len(names)) % folds
    for k in np.argsort([np.flatnonzero(fold_of == f)[0] for f in range(folds)]):
        test = fold_of[member] == k
        yield Fold(np.flatnonzero(~test), np.flatnonzero(test))


def block_folds(rec: Recording, folds: int, *, gap: float = 0.0) -> Iterator[TimeFold]:
    """Split a recording into contiguous blocks of time; samples within ``gap`` s of the test block are left out.

    Parameters
    ----------
    rec : Recording
        With a time axis.
    folds : int
        Number of blocks; each is tested once.
    gap : float, default 0
        Time in s left out of training on both sides of the test block; at least the reach of smoothing filters.

    Yields
    ------
    TimeFold
        Spans of training and test time.

    Examples
    --------
    >>> import torch
    >>> rec = Recording(data=torch.zeros(10, 1), dims=("time", "unit"), rate=1.0)
    >>> next(block_folds(rec, 2, gap=1.0)).train.pairs()
    [(6.0, 10.0)]
    """
    n = rec.sizes["time"]
    if not 2 <= folds <= n or not gap >= 0:
        raise InputError(
            explain("block_folds", expected=f"2 to {n} folds and gap >= 0 s", got=f"folds={folds!r}, gap={gap!r}")
        )
    start = float(rec.time[0])
    edges = np.linspace(start, start + rec.duration, folds + 1)
    whole = Intervals.from_pairs([(edges[0], edges[-1])])
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        train = whole.subtract(Intervals.from_pairs([(a - gap, b + gap)]))
        if len(train) == 0:
            raise InputError(
                explain(
                    "block_folds", expected="training time outside the gap", got=f"gap={gap!r} s of {rec.duration:g} s"
                )
            )
        yield TimeFold(train, Intervals.from_pairs([(a, b)]))


def check_disjoint(train: Recording, test: Recording) -> None:
    """Prove that two recordings share no valid sample of the same subject and session.

    Raises
    ------
    InputError
        If they overlap; names the shared time.
    """
    if (train.subject, train.session) != (test.subject, test.session):
        return
    shared = _covered(train).intersect(_covered(test))
    if shared.duration > 0:
        raise InputError(
            explain(
                "check_disjoint",
                expected="no shared samples",
                got=f"{shared.duration:g} s in both: {shared.pairs()[:3]}",
            )
        )


def _covered(rec: Recording) -> Intervals:
    """Return the time that a recording's valid samples cover (every trial of epochs)."""
    starts = np.asarray(rec.coords["trial"]["start"]) if "trial" in rec.dims else np.zeros(1)
    time, step = rec.time, 1.0 / rec.rate if rec.rate else 0.0
    axes = [i for i, d in enumerate(rec.dims) if d != "time"]
    valid = rec.valid().any(dim=axes) if axes else rec.valid()
    begin = time[valid].numpy()[None] + starts[:, None]  # (trial, time)
    return Intervals.from_pairs(list(zip(begin.ravel(), begin.ravel() + step, strict=True))).merged()
