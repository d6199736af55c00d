"""Is it better than chance: scores after shuffling labels in a way that the design allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tectum.core.device import highest_precision
from tectum.core.errors import InputError, explain
from tectum.core.random import generator, resolve_seed, spawn


class PermutationTest(NamedTuple):
    """A score and what it is without an effect."""

    observed: float
    null: Tensor  #: shape (draw,), scores of shuffled labels
    p: float  #: share of scores, the observed one included, that are as high


def permuted(
    labels: Tensor, draws: int, *, groups: Sequence[Any] | None = None, random_state: int | None = 0
) -> Tensor:
    """Shuffle labels many times.

    Parameters
    ----------
    labels : Tensor, shape (n_trials,), int64
        Classes.
    draws : int
        Shuffles.
    groups : sequence, length n_trials, optional
        Where every group has one label (subjects who are ill or not; blocks of one task), labels go from group to
        group; otherwise they are shuffled inside each group.
    random_state : int or None, default 0
        Seed.

    Returns
    -------
    Tensor, shape (draws, n_trials), int64

    Examples
    --------
    >>> permuted(torch.tensor([0, 0, 1, 1]), 2, groups=["a", "a", "b", "b"]).tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0]]
    """
    n = len(labels)
    if n < 2 or draws < 1:
        got = f"{n} labels, draws={draws}"
        raise InputError(explain("permuted", expected="two labels and a draw or more", got=got))
    names = [0] * n if groups is None else [str(g) for g in groups]
    if len(names) != n:
        raise InputError(explain("permuted(groups)", expected=f"{n} groups", got=str(len(names))))
    _, first, inverse = np.unique(names, return_index=True, return_inverse=True)
    member = torch.from_numpy(inverse).to(labels.device)
    lead = labels[torch.from_numpy(first).to(labels.device)]  # label of the first trial of each group
    seed = spawn(resolve_seed(random_state), "permutation")
    if len(first) > 1 and bool((lead[member] == labels).all()):
        return _shuffled(torch.zeros_like(lead), lead, draws, seed)[:, member]
    return _shuffled(member, labels, draws, seed)


def _shuffled(member: Tensor, labels: Tensor, draws: int, seed: int) -> Tensor:
    """Shuffle inside groups: order trials by group and a random key, and hand labels out in that order."""
    key = torch.rand(draws, len(labels), generator=generator(seed), dtype=torch.float64, device="cpu")
    order = (key.to(labels.device) + 2 * member).argsort(1)  # (draw, trial)
    made = labels.new_empty(draws, len(labels))
    made[:, member.argsort(stable=True)] = labels[order]
    return made


def permutation_test(
    statistic: Callable[[Tensor], Tensor],
    labels: Tensor,
    *,
    groups: Sequence[Any] | None = None,
    draws: int = 1000,
    random_state: int | None = 0,
) -> PermutationTest:
    """Compare a score with scores of shuffled labels.

    Parameters
    ----------
    statistic : callable
        ``statistic(labels)`` takes labels (draw, n_trials) and returns scores (draw,), higher for better; see
        :func:`recall_of`.
    labels : Tensor, shape (n_trials,), int64
        Classes.
    groups : sequence, optional
        See :func:`permuted`.
    draws : int, default 1000
        Shuffles.
    random_state : int or None, default 0
        Seed.

    Returns
    -------
    PermutationTest
        ``p`` is at least 1 / (draws + 1).

    Examples
    --------
    >>> y = torch.arange(40) % 2
    >>> permutation_test(recall_of(y, 2), y, draws=99).p
    0.01
    """
    observed = float(statistic(labels[None])[0])
    null = statistic(permuted(labels, draws, groups=groups, random_state=random_state))
    return PermutationTest(observed, null, p_value(observed, null))


def p_value(observed: float, null: Tensor) -> float:
    """Return the share of scores, the observed one included, that are at least as high, in (0, 1].

    Examples
    --------
    >>> p_value(0.9, torch.tensor([0.5, 0.4, 0.95]))
    0.5
    """
    return (1 + int((null >= observed - 1e-12).sum())) / (1 + len(null))


def recall_of(decided: Tensor, n_classes: int) -> Callable[[Tensor], Tensor]:
    """Return the function from labels (draw, n_trials) to the balanced accuracy (draw,) of fixed decisions.

    Examples
    --------
    >>> recall_of(torch.tensor([0, 1]), 2)(torch.tensor([[0, 1], [1, 0]])).tolist()
    [1.0, 0.0]
    """

    def statistic(labels: Tensor) -> Tensor:
        zero = torch.zeros(len(labels), n_classes, dtype=highest_precision(labels.device), device=labels.device)
        hit = (labels == decided).to(zero.dtype)
        count = zero.scatter_add(1, labels, torch.ones_like(hit))
        recall = zero.scatter_add(1, labels, hit) / count.clamp(min=1)
        return recall.sum(1) / (count > 0).sum(1)

    return statistic
