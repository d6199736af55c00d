"""Cross-validation of any estimator with a ``score``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tectum.core.errors import InputError, explain
from tectum.core.estimator import Estimator
from tectum.core.recording import Recording

from .decoding import fresh, prepare
from .splits import block_folds, check_disjoint, group_folds


def cross_validate(
    estimator: Estimator[Any],
    data: Recording | Sequence[Recording],
    target: Any = None,
    *,
    folds: int = 5,
    gap: float = 0.0,
    by: str | None = None,
) -> Tensor:
    """Score an estimator on data it has not seen.

    Trials with labels are split by what ``by`` names; :func:`cross_predict` also tells what was decided. Of continuous
    data one recording is split into contiguous blocks of time with a gap; a list is split by subject, so that no
    subject is on both sides. Samples of the other side that lie inside the hull of a training or test recording are
    masked, and their numbers are set to zero.

    Parameters
    ----------
    estimator : Estimator
        With a method ``score(data)``; it is copied, not changed.
    data : Recording or sequence of Recording
        What to split; in a list every recording names its subject.
    target : array, sequence of arrays or str, optional
        Labels of trials, or the trial column that holds them.
    folds : int, default 5
        Number of folds.
    gap : float, default 0
        Time in s left out around each test block; see :func:`block_folds` and :func:`trial_folds`.
    by : str, optional
        Of trials: what is never parted between training and test.

    Returns
    -------
    Tensor, shape (folds,), float64
        Score of each fold.

    Raises
    ------
    InputError
        If the estimator has no score, or the data cannot be split without a leak.
    """
    if not hasattr(type(estimator), "score"):
        raise InputError(explain("cross_validate", expected="an estimator with a score", got=type(estimator).__name__))
    if target is not None or by is not None or _are_trials(data):
        return _over_trials(estimator, data, target, folds, by, gap)
    splits = _over_time(data, folds, gap) if isinstance(data, Recording) else _over_subjects(data, folds)
    return torch.tensor([_score(estimator, train, test) for train, test in splits], dtype=torch.float64)


def _are_trials(data: Any) -> bool:
    """Tell whether labelled trials were given."""
    parts = data if isinstance(data, Sequence) else (data,)
    return len(parts) > 0 and all(isinstance(r, Recording) and "label" in r.coords.get("trial", {}) for r in parts)


def _over_trials(estimator: Estimator[Any], data: Any, target: Any, folds: int, by: str | None, gap: float) -> Tensor:
    """Score trials of groups that were not in training."""
    trials = prepare(data, target, folds=folds, by=by, gap=gap, random_state=0, where="cross_validate")
    scores = [fresh(estimator).fit(*trials.part(fold.train)).score(*trials.part(fold.test)) for fold in trials.folds]
    return torch.tensor([float(v) for v in scores], dtype=torch.float64)


def _over_time(rec: Recording, folds: int, gap: float) -> Iterator[tuple[Recording, Recording]]:
    for fold in block_folds(rec, folds, gap=gap):
        train, test = _blanked(rec.restrict(fold.train)), _blanked(rec.restrict(fold.test))
        check_disjoint(train, test)
        yield train, test


def _blanked(rec: Recording) -> Recording:
    """Set masked samples to zero, so that a method that forgets the mask cannot learn from them."""
    return rec if rec.mask is None else rec.with_(data=rec.values.masked_fill(~rec.mask, 0))


def _over_subjects(data: Sequence[Recording], folds: int) -> Iterator[tuple[list[Recording], list[Recording]]]:
    if not isinstance(data, Sequence) or not all(isinstance(rec, Recording) and rec.subject for rec in data):
        fix = "rec.with_(subject=...)"
        got = "another type" if not isinstance(data, Sequence) else "one without a subject, or of another type"
        raise InputError(explain("cross_validate", expected="recordings that name their subjects", got=got, fix=fix))
    for fold in group_folds([rec.subject for rec in data], folds):
        yield [data[i] for i in fold.train], [data[i] for i in fold.test]


def _score(estimator: Estimator[Any], train: Any, test: Any) -> float:
    return float(fresh(estimator).fit(train).score(test))
