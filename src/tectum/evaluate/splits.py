"""Folds that share no raw sample between training and test: by group, or by contiguous blocks with a gap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tectum.core.clock import EDGE
from tectum.core.errors import InputError, explain
from tectum.core.intervals import Intervals
from tectum.core.random import resolve_seed, spawn
from tectum.core.recording import Recording


class Fold(NamedTuple):
    """Indices of one split."""

    train: np.ndarray  #: shape (n_train,), int64
    test: np.ndarray  #: shape (n_test,), int64


class TimeFold(NamedTuple):
    """Spans of time of one split, in s."""

    train: Intervals
    test: Intervals


def group_folds(groups: Sequence[Any], folds: int, *, random_state: int | None = 0) -> Iterator[Fold]:
    """Split samples so that all of a group (subject, session, trial) are on one side.

    Parameters
    ----------
    groups : sequence, length n_samples
        Group of each sample; values that print alike are one group.
    folds : int
        Number of folds; every sample is tested once.
    random_state : int or None, default 0
        The assignment of groups to folds depends on it and on the set of groups, and on nothing else.

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
    values = groups.tolist() if isinstance(groups, (Tensor, np.ndarray)) else groups
    names, member = np.unique(np.asarray([str(value) for value in values], dtype=str), return_inverse=True)
    if not _is_whole(folds) or not 2 <= folds <= len(names):
        expected = f"2 to {len(names)} folds for {len(names)} groups"
        raise InputError(explain("group_folds", expected=expected, got=repr(folds)))
    order = np.random.default_rng(spawn(resolve_seed(random_state), "folds")).permutation(len(names))
    fold_of = np.empty(len(names), dtype=int)
    fold_of[order] = np.arange(len(names)) % folds
    for k in dict.fromkeys(fold_of[member].tolist()):  # the fold of the first sample comes first
        test = fold_of[member] == k
        yield Fold(np.flatnonzero(~test), np.flatnonzero(test))


def block_folds(rec: Recording, folds: int, *, gap: float = 0.0) -> Iterator[TimeFold]:
    """Split a recording into contiguous blocks of time; samples within ``gap`` s of the test block are left out.

    Parameters
    ----------
    rec : Recording
        With one continuous time axis.
    folds : int
        Number of blocks of equal numbers of samples (give or take one); each is tested once.
    gap : float, default 0
        Time in s left out of training on both sides of the test block. It must be at least twice the reach of the
        filters noted in the recording's history.

    Yields
    ------
    TimeFold
        Spans of training and test time.

    Raises
    ------
    InputError
        If the recording has trials, too few samples, no training time left, or was filtered or standardised so that
        training would see the test block.

    Examples
    --------
    >>> rec = Recording(data=torch.zeros(10, 1), dims=("time", "unit"), rate=1.0)
    >>> next(block_folds(rec, 2, gap=1.0)).train.pairs()
    [(6.0, 10.0)]
    """
    if "time" not in rec.dims or "trial" in rec.dims:
        fix = "split trials by group_folds" if "trial" in rec.dims else ""
        raise InputError(explain("block_folds", expected="one continuous time axis", got=repr(rec), fix=fix))
    n = rec.sizes["time"]
    if not _is_whole(folds) or not 2 <= folds <= n or not isinstance(gap, Real) or not 0 <= gap < np.inf:
        expected = f"2 to {n} folds and gap >= 0 s"
        raise InputError(explain("block_folds", expected=expected, got=f"folds={folds!r}, gap={gap!r}"))
    check_reach(rec, gap)
    edges = _edges(rec)
    bounds = [float(edges[k * n // folds]) for k in range(folds + 1)]
    whole = Intervals.from_pairs([(bounds[0], bounds[-1])])
    for a, b in zip(bounds[:-1], bounds[1:], strict=True):
        train = whole.subtract(Intervals.from_pairs([(a - gap, b + gap)]))
        if not bool(train.contains(rec.time).any()):
            got = f"gap={gap!r} s of {rec.duration:g} s"
            raise InputError(explain("block_folds", expected="training time outside the gap", got=got))
        yield TimeFold(train, Intervals.from_pairs([(a, b)]))


def check_reach(rec: Recording, gap: float, where: str = "block_folds") -> None:
    """Demand a gap that no filter in the history crosses, from the test block or from training."""
    steps = {step["step"]: step["reach"] for step in rec.history if isinstance(step, dict) and "reach" in step}
    endless = [name for name, reach in steps.items() if reach == np.inf]
    if endless:
        fix = "split first, or leave the step to the model"
        got = f"{', '.join(endless)} of the whole recording"
        raise InputError(explain(where, expected="test samples that training has not seen", got=got, fix=fix))
    need = 2 * sum(step["reach"] for step in rec.history if isinstance(step, dict) and "reach" in step)
    if gap < need * (1 - EDGE):
        expected = f"gap >= {need:g} s, twice the reach of {', '.join(steps)}"
        raise InputError(explain(where, expected=expected, got=f"gap={gap!r} s"))


def _edges(rec: Recording) -> Tensor:
    """Return the start of every sample and the end of the last: Tensor (n_time + 1,), float64, s."""
    time = rec.time
    end = np.nextafter(float(time[-1]), np.inf) if rec.rate is None else rec.t0 + len(time) / rec.rate
    return torch.cat([time, time.new_tensor([end])])


def check_disjoint(train: Recording, test: Recording) -> None:
    """Prove that two recordings share no valid sample of the same subject and session.

    Windows and epochs count from the start of their trials; times that overlap by less than a millionth of a sample
    do not count as shared.

    Raises
    ------
    InputError
        If they overlap; names the shared time.
    """
    if (train.subject, train.session) != (test.subject, test.session):
        return
    found = _shared(train, test)
    if found:
        raise InputError(explain("check_disjoint", expected="no shared samples", got=f"in both, s: {found[:3]}"))


def _shared(a: Recording, b: Recording) -> list[Any]:
    """Return spans (or, of irregular recordings, times) that lie in both."""
    if a.rate is not None and b.rate is not None:
        both = _covered(a).intersect(_covered(b))
        return both[both.stop - both.start > EDGE / max(a.rate, b.rate)].pairs()
    if a.rate is not None:
        a, b = b, a
    points = _valid_times(a)
    inside = torch.isin(points, _valid_times(b)) if b.rate is None else _covered(b).contains(points)
    result: list[Any] = points[inside].tolist()
    return result


def _valid_times(rec: Recording) -> Tensor:
    return rec.time[_valid_in_time(rec)]


def _valid_in_time(rec: Recording) -> Tensor:
    """Tell which samples are valid in any entry of the other axes: bool Tensor (n_time,) on the CPU."""
    n, axes = rec.sizes["time"], [i for i, d in enumerate(rec.dims) if d != "time"]
    if rec.mask is None:
        return torch.ones(n, dtype=torch.bool, device="cpu")
    return (rec.mask.any(dim=axes) if axes else rec.mask).cpu().expand(n)


def _covered(rec: Recording) -> Intervals:
    """Return the time that the valid samples of a regular recording cover, in every trial of epochs."""
    valid = _valid_in_time(rec)
    change = torch.cat([valid.new_zeros(1), valid, valid.new_zeros(1)]).int().diff()
    edges = _edges(rec)
    begin, end = edges[change == 1], edges[change == -1]  # (run,)
    starts = torch.zeros(1, dtype=torch.float64, device="cpu")
    if "trial" in rec.dims:
        starts = torch.as_tensor(rec.labels("trial", "start"), dtype=torch.float64)
    return Intervals(start=(starts[:, None] + begin).flatten(), stop=(starts[:, None] + end).flatten())


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
