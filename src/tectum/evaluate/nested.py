"""Hyper-parameters chosen inside each training fold, so that the outer folds judge the choice too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tectum.core.errors import InputError, explain

from .decoding import CrossValidation, Trials, collect, cross_predict, fresh, prepare, probabilities


class NestedCrossValidation(NamedTuple):
    """Outer scores, and what the inner folds chose."""

    outer: CrossValidation  #: decisions by the settings chosen without the test fold
    candidates: tuple[dict[str, Any], ...]  #: settings tried
    inner_score: Tensor  #: shape (fold, candidate), mean balanced accuracy of the inner folds
    chosen: tuple[dict[str, Any], ...]  #: settings of each outer fold


def nested_cross_validate(
    decoder: Any,
    grid: Mapping[str, Sequence[Any]],
    data: Any,
    target: Any = None,
    *,
    folds: int = 5,
    inner: int = 3,
    by: str | None = None,
    gap: float = 0.0,
    random_state: int | None = 0,
) -> NestedCrossValidation:
    """Choose hyper-parameters by inner folds of each training fold, and test the choice on the outer fold.

    Parameters
    ----------
    decoder : Decoder or other object
        With ``set_params``, ``fit`` and ``predict_proba``.
    grid : mapping of str to sequence
        Values of each hyper-parameter; all combinations are tried, the first of equal ones is taken.
    data, target, folds, by, gap, random_state
        See :func:`cross_predict`.
    inner : int, default 3
        Inner folds, by the same groups.

    Returns
    -------
    NestedCrossValidation
    """
    where = "nested_cross_validate"
    if not grid or any(isinstance(v, str) or not len(v) for v in grid.values()):
        raise InputError(explain(f"{where}(grid)", expected="values for one parameter or more", got=repr(grid)))
    trials = prepare(data, target, folds=folds, by=by, gap=gap, random_state=random_state, where=where)
    candidates = tuple(dict(zip(grid, values, strict=True)) for values in product(*grid.values()))
    scores: list[Tensor] = []

    def run(train: np.ndarray, test: np.ndarray) -> Tensor:
        found = torch.stack([_inner(decoder, c, trials, train, inner, gap, random_state) for c in candidates])
        scores.append(found)
        best = fresh(decoder).set_params(**candidates[int(found.argmax())])
        return probabilities(best, trials, train, test)

    outer = collect(trials, run)
    table = torch.stack(scores)
    return NestedCrossValidation(outer, candidates, table, tuple(candidates[k] for k in table.argmax(1).tolist()))


def _inner(
    decoder: Any,
    settings: Mapping[str, Any],
    trials: Trials,
    train: np.ndarray,
    inner: int,
    gap: float,
    random_state: int | None,
) -> Tensor:
    """Return the mean inner score of a candidate."""
    candidate = fresh(decoder).set_params(**settings)
    part, labels = trials.part(train)
    found = cross_predict(candidate, part, labels, folds=inner, by=trials.by, gap=gap, random_state=random_state)
    return found.fold_score.mean()
