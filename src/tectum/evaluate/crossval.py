"""Cross-validation of any estimator with a ``score``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tectum.core.errors import InputError, explain
from tectum.core.estimator import Estimator, identity
from tectum.core.recording import Recording

from .splits import block_folds, check_disjoint, group_folds


def cross_validate(
    estimator: Estimator[Any], data: Recording | Sequence[Recording], *, folds: int = 5, gap: float = 0.0
) -> Tensor:
    """Score an estimator on data it has not seen.

    One recording is split into contiguous blocks of time with a gap; a list is split by subject, so that no
    subject is on both sides.

    Parameters
    ----------
    estimator : Estimator
        With a method ``score(data)``; it is copied, not changed.
    data : Recording or sequence of Recording
        What to split.
    folds : int, default 5
        Number of folds.
    gap : float, default 0
        Time in s left out around each test block.

    Returns
    -------
    Tensor, shape (folds,), float64
        Score of each fold.
    """
    if not hasattr(estimator, "score"):
        raise InputError(explain("cross_validate", expected="an estimator with a score", got=type(estimator).__name__))
    if isinstance(data, Recording):
        scores = [_score(estimator, *_blocks(data, fold)) for fold in block_folds(data, folds, gap=gap)]
    else:
        groups = [identity(rec).split("/")[0] or str(i) for i, rec in enumerate(data)]
        scores = [
            _score(estimator, [data[i] for i in f.train], [data[i] for i in f.test]) for f in group_folds(groups, folds)
        ]
    return torch.tensor(scores, dtype=torch.float64)


def _blocks(rec: Recording, fold: Any) -> tuple[Recording, Recording]:
    train, test = rec.restrict(fold.train), rec.restrict(fold.test)
    check_disjoint(train, test)
    return train, test


def _score(estimator: Estimator[Any], train: Any, test: Any) -> float:
    fresh: Any = type(estimator)(**estimator.get_params())
    return float(fresh.fit(train).score(test))
