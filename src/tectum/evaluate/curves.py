"""Learning curves: how the score grows with the number of subjects, sessions or trials to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tectum.core.errors import InputError, explain
from tectum.core.random import resolve_seed, spawn
from tectum.nn.trials import confusion_counts, mean_recall, trial_groups

from .decoding import Trials, fresh, prepare, probabilities


class LearningCurve(NamedTuple):
    """Scores against what was learnt from."""

    sizes: tuple[int, ...]  #: numbers of training groups
    score: Tensor  #: shape (size, fold), balanced accuracy in [0, 1]; chance is 1 / classes
    by: str  #: what a group is


def learning_curve(
    decoder: Any,
    data: Any,
    target: Any = None,
    *,
    sizes: Sequence[int],
    folds: int = 5,
    by: str | None = None,
    gap: float = 0.0,
    random_state: int | None = 0,
) -> LearningCurve:
    """Score decoders that learn from growing numbers of training groups; the test folds stay the same.

    Parameters
    ----------
    decoder, data, target, folds, by, gap, random_state
        See :func:`cross_predict`.
    sizes : sequence of int
        Numbers of training groups (of ``by``); smaller sets are parts of larger ones.

    Returns
    -------
    LearningCurve

    Raises
    ------
    InputError
        If a fold has fewer training groups than asked for, or a part of them lacks a class.
    """
    where = "learning_curve"
    if not len(sizes) or any(isinstance(m, bool) or not isinstance(m, (int, np.integer)) or m < 1 for m in sizes):
        raise InputError(explain(f"{where}(sizes)", expected="numbers of groups >= 1", got=repr(sizes)))
    trials = prepare(data, target, folds=folds, by=by, gap=gap, random_state=random_state, where=where)
    groups = trial_groups(trials.data, "trial" if trials.by == "time" else trials.by)
    seed = resolve_seed(random_state)
    score = [[_score(decoder, trials, _part(groups, trials, k, int(m), seed), trials.folds[k].test)
              for k in range(len(trials.folds))] for m in sizes]  # fmt: skip
    return LearningCurve(tuple(int(m) for m in sizes), torch.tensor(score, dtype=torch.float64), trials.by)


def _part(groups: np.ndarray, trials: Trials, fold: int, size: int, seed: int) -> np.ndarray:
    """Return the training trials of the first groups of a random order in which the classes take turns."""
    train = trials.folds[fold].train
    names, first = np.unique(groups[train], return_index=True)
    if size > len(names):
        expected = f"at most {len(names)} groups, the training groups of fold {fold}"
        raise InputError(explain("learning_curve(sizes)", expected=expected, got=str(size)))
    order = np.random.default_rng(spawn(seed, "curve", fold)).permutation(len(names))
    kind = trials.codes[train[first]][order]  # class of the first trial of each group
    turn = np.empty(len(names), dtype=np.int64)
    for c in np.unique(kind):
        turn[kind == c] = np.arange((kind == c).sum())
    chosen = names[order[np.lexsort((np.arange(len(names)), turn))][:size]]
    rows = train[np.isin(groups[train], chosen)]
    if len(np.unique(trials.codes[rows])) < len(trials.labels):
        expected = "every class in the training groups"
        raise InputError(explain("learning_curve(sizes)", expected=expected, got=f"one missing among {size}"))
    return rows


def _score(decoder: Any, trials: Trials, train: np.ndarray, test: np.ndarray) -> float:
    proba = probabilities(fresh(decoder), trials, train, test)
    truth = torch.from_numpy(trials.codes[test]).to(proba.device)
    return float(mean_recall(confusion_counts(truth, proba.argmax(1), len(trials.labels))))
