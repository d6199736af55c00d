"""Folds of trials that cannot leak: whole subjects, sessions or blocks, or stretches of time with a gap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from tectum.core.clock import EDGE
from tectum.core.errors import InputError, explain
from tectum.core.random import resolve_seed, spawn
from tectum.core.recording import Recording
from tectum.nn.trials import named_groups, trial_groups

from .splits import Fold, check_reach


def trial_folds(
    data: Sequence[Recording],
    folds: int,
    *,
    by: str,
    labels: Sequence[Any] | None = None,
    gap: float = 0.0,
    random_state: int | None = 0,
) -> list[Fold]:
    """Split the trials of recordings so that training and test share no subject, session, block or stretch of time.

    Parameters
    ----------
    data : sequence of Recording, dims (trial, channel, time)
        Trials; they are numbered in the order of the list.
    folds : int
        Number of folds; every trial is tested once.
    by : str
        What is never parted: "subject", "session", "trial", the name of a trial column (say "block"), or "time":
        consecutive stretches of each session. Trials whose windows overlap are never parted either.
    labels : sequence, optional
        Class of each trial; groups of a single class are then spread evenly over the folds.
    gap : float, default 0.0
        Training trials of the same session within ``gap`` s of a test trial are left out. It must be at least twice the
        reach of the filters noted in the history, unless subjects or sessions are split.
    random_state : int or None, default 0
        Seed of the assignment of groups to folds.

    Returns
    -------
    list of Fold
        Positions among all trials.

    Raises
    ------
    InputError
        If there are fewer groups than folds, training would lack a class or be empty, or a filter crosses the gap.

    Examples
    --------
    >>> import torch
    >>> rec = Recording(data=torch.zeros(4, 1, 8), dims=("trial", "channel", "time"), rate=1.0,
    ...                 coords={"trial": {"block": [1, 1, 2, 2]}})
    >>> [fold.test.tolist() for fold in trial_folds([rec], 2, by="block")]
    [[0, 1], [2, 3]]
    """
    data = list(data)
    if not isinstance(gap, Real) or not 0 <= gap < np.inf:
        raise InputError(explain("trial_folds(gap)", expected="a time >= 0 s", got=repr(gap)))
    if not isinstance(by, str):
        expected = "'subject', 'session', 'trial', 'time' or a trial column"
        raise InputError(explain("trial_folds(by)", expected=expected, got=repr(by)))
    if by not in ("subject", "session"):
        for rec in data:
            check_reach(rec, gap, "trial_folds")
    classes = None if labels is None else np.unique(np.asarray([str(v) for v in labels]), return_inverse=True)[1]
    member = _runs_of_time(data, folds) if by == "time" else _by_name(data, by)
    n_groups = int(member.max()) + 1
    if isinstance(folds, bool) or not isinstance(folds, Integral) or not 2 <= folds <= n_groups:
        what = "stretches" if by == "time" else f"groups by {by}"
        expected = f"2 to {n_groups} folds for {n_groups} {what}"
        raise InputError(explain("trial_folds", expected=expected, got=repr(folds)))
    fold_of = np.arange(n_groups) * folds // n_groups if by == "time" else _dealt(member, classes, folds, random_state)
    return list(_parted(data, fold_of[member], gap, classes))


def _by_name(data: Sequence[Recording], by: str) -> np.ndarray:
    """Number the groups that a name gives, those that overlap in time joined."""
    if by == "subject" and not all(rec.subject for rec in data):
        fix = "rec.with_(subject=...)"
        raise InputError(
            explain("trial_folds", expected="recordings that name their subjects", got="one without", fix=fix)
        )
    known = ("subject", "session", "trial")
    if by not in known and len(set(named_groups(data, by))) < 2:
        raise InputError(explain("trial_folds", expected=f"two values of {by!r} or more", got="one"))
    return trial_groups(data, by)


def _runs_of_time(data: Sequence[Recording], folds: int) -> np.ndarray:
    """Number stretches in the order of time, all of whose windows begin together: every trial, by session and start."""
    session = np.concatenate([np.full(rec.sizes["trial"], k) for k, rec in enumerate(data)])
    start = np.concatenate([_spans(rec)[0] for rec in data])
    order = np.lexsort((start, session))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place


def _dealt(member: np.ndarray, classes: np.ndarray | None, folds: int, random_state: int | None) -> np.ndarray:
    """Deal groups to folds at random, those of each class in turn: fold of every group."""
    n_groups = int(member.max()) + 1
    order = np.random.default_rng(spawn(resolve_seed(random_state), "folds")).permutation(n_groups)
    if classes is not None:
        counts = np.zeros((n_groups, int(classes.max()) + 1), dtype=np.int64)
        np.add.at(counts, (member, classes), 1)
        order = order[np.argsort(counts.argmax(1)[order], kind="stable")]
    fold_of = np.empty(n_groups, dtype=np.int64)
    fold_of[order] = np.arange(n_groups) % folds
    return fold_of


def _parted(data: Sequence[Recording], fold_of: np.ndarray, gap: float, classes: np.ndarray | None) -> Iterator[Fold]:
    """Make the folds, less the training trials too near to test trials."""
    first = np.cumsum([0, *(rec.sizes["trial"] for rec in data)])
    for k in dict.fromkeys(fold_of.tolist()):
        test = fold_of == k
        near = np.concatenate([_near(data, r, gap, first, test) for r in range(len(data))])
        train = ~test & ~near
        if not train.any() or (classes is not None and len(np.unique(classes[train])) < classes.max() + 1):
            got = "none left" if not train.any() else "a class with no training trial"
            fix = "use fewer folds or a smaller gap"
            raise InputError(explain("trial_folds", expected="training trials of every class", got=got, fix=fix))
        yield Fold(np.flatnonzero(train), np.flatnonzero(test))


def _near(data: Sequence[Recording], r: int, gap: float, first: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Tell which trials of a recording overlap, or lie within the gap of, a test trial of the same session."""
    rec, key = data[r], (data[r].subject, data[r].session)
    if "start" not in rec.coords.get("trial", {}):
        return np.zeros(rec.sizes["trial"], dtype=bool)
    alike = [q for q, other in enumerate(data) if q == r or (any(key) and (other.subject, other.session) == key)]
    clocked = [q for q in alike if "start" in data[q].coords.get("trial", {})]
    marks = [[v[test[first[q] : first[q + 1]]] for v in _spans(data[q])] for q in clocked]
    starts, stops = (np.sort(np.concatenate(part)) for part in zip(*marks, strict=True))  # windows of equal lengths
    (begin, end), slack = _spans(rec), EDGE / float(rec.rate or 1.0)
    gone = np.searchsorted(stops, begin - gap + slack, side="right")  # test trials that end before this one begins
    come = np.searchsorted(starts, end + gap - slack, side="left")  # test trials that begin before this one ends
    near: np.ndarray = come > gone
    return near


def _spans(rec: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Return begin and end of every trial in s; without clock a trial begins at its number."""
    table, n = rec.coords.get("trial", {}), rec.sizes["trial"]
    begin = np.arange(n, dtype=np.float64)
    if "start" in table:
        begin = np.asarray(table["start"], dtype=np.float64) + rec.t0
    return begin, begin + rec.sizes["time"] / float(rec.rate or 1.0)
