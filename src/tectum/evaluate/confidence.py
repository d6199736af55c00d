"""How sure a score is: exact binomial intervals, bootstrap over clusters, intervals over subjects."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tectum.core.device import highest_precision
from tectum.core.errors import InputError, explain
from tectum.core.random import generator, resolve_seed, spawn


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    estimate: float
    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, (int, float)) and self.low <= value <= self.high


def clopper_pearson(right: int, n: int, *, level: float = 0.95) -> Interval:
    """Return the share of right decisions with its exact binomial interval; it needs independent trials.

    Parameters
    ----------
    right, n : int
        Right decisions, and decisions.
    level : float, default 0.95
        Coverage, at least.

    References
    ----------
    Clopper, Pearson (1934), Biometrika 26, 404-413.

    Examples
    --------
    >>> [round(v, 4) for v in clopper_pearson(8, 10)]
    [0.8, 0.4439, 0.9748]
    """
    from scipy.special import betaincinv

    _check_level(level, "clopper_pearson")
    if not 0 <= right <= n or n < 1:
        raise InputError(explain("clopper_pearson", expected="0 <= right <= n", got=f"{right} of {n}"))
    tail = (1 - level) / 2
    low = float(betaincinv(right, n - right + 1, tail)) if right else 0.0
    high = float(betaincinv(right + 1, n - right, 1 - tail)) if right < n else 1.0
    return Interval(right / n, low, high)


def chance_bound(n: int, n_classes: int, *, level: float = 0.95) -> float:
    """Return the accuracy that guessing stays at or below with a probability of ``level`` or more.

    Parameters
    ----------
    n : int
        Independent trials.
    n_classes : int
        Equally likely classes.
    level : float, default 0.95
        Probability.

    Examples
    --------
    >>> chance_bound(100, 2), chance_bound(10, 2)
    (0.58, 0.8)
    """
    from scipy.stats import binom

    _check_level(level, "chance_bound")
    if n < 1 or n_classes < 2:
        got = f"n={n}, n_classes={n_classes}"
        raise InputError(explain("chance_bound", expected="a trial and two classes or more", got=got))
    return float(binom.ppf(level, n, 1 / n_classes)) / n


def bootstrap(
    statistic: Callable[[Tensor], Tensor],
    n: int,
    *,
    groups: Sequence[Any] | None = None,
    draws: int = 2000,
    level: float = 0.95,
    random_state: int | None = 0,
) -> Interval:
    """Resample trials, or whole groups of trials, and return the percentile interval of a statistic.

    Trials of one subject, or windows that overlap, are not independent: name their groups, or the interval is too
    narrow. With fewer than about ten groups it is too narrow all the same.

    Parameters
    ----------
    statistic : callable
        ``statistic(weight)`` takes how often each trial was drawn, (draw, n), and returns the value of each draw,
        (draw,); it is called once for all draws, and once with ones.
    n : int
        Trials.
    groups : sequence, length n, optional
        What is drawn as a whole.
    draws : int, default 2000
        Resamples.
    level : float, default 0.95
        Coverage.
    random_state : int or None, default 0
        Seed.

    Examples
    --------
    >>> hit = torch.arange(100) % 5 > 0
    >>> found = bootstrap(lambda w: (w * hit).sum(1) / w.sum(1), 100)
    >>> round(found.estimate, 2), 0.68 < found.low < 0.76, 0.84 < found.high < 0.92
    (0.8, True, True)
    """
    _check_level(level, "bootstrap")
    if n < 1 or draws < 1:
        raise InputError(explain("bootstrap", expected="a trial and a draw or more", got=f"n={n}, draws={draws}"))
    member = np.arange(n) if groups is None else np.unique([str(g) for g in groups], return_inverse=True)[1]
    if len(member) != n:
        raise InputError(explain("bootstrap(groups)", expected=f"{n} groups", got=str(len(member))))
    weight = _resampled(torch.from_numpy(member), draws, resolve_seed(random_state))
    estimate = float(statistic(torch.ones(1, n, dtype=torch.float64, device="cpu"))[0])
    values = statistic(weight)
    values = values[torch.isfinite(values)]  # draws that lack a class have no value
    if not len(values):
        raise InputError(explain("bootstrap", expected="a finite statistic", got="none in any draw"))
    tail = (1 - level) / 2
    low, high = torch.quantile(values, values.new_tensor([tail, 1 - tail])).tolist()
    return Interval(estimate, low, high)


def _resampled(member: Tensor, draws: int, seed: int) -> Tensor:
    """Draw groups with replacement: how often each trial occurs, (draw, n), float64 on the CPU."""
    n_groups = int(member.max()) + 1
    chosen = torch.randint(n_groups, (draws, n_groups), generator=generator(spawn(seed, "bootstrap")), device="cpu")
    zero = torch.zeros(draws, n_groups, dtype=torch.float64, device="cpu")
    times = zero.scatter_add(1, chosen, torch.ones_like(chosen, dtype=torch.float64))
    return times[:, member]


def bootstrap_accuracy(
    truth: Tensor,
    decided: Tensor,
    *,
    groups: Sequence[Any] | None = None,
    balanced: bool = True,
    draws: int = 2000,
    level: float = 0.95,
    random_state: int | None = 0,
) -> Interval:
    """Return (balanced) accuracy, in [0, 1], with its bootstrap interval; chance is 1 / classes.

    Parameters
    ----------
    truth, decided : Tensor, shape (n_trials,), int64
        Classes and decisions.
    groups : sequence, length n_trials, optional
        What is drawn as a whole: the subject of each trial.
    balanced : bool, default True
        Mean over classes, instead of over trials.
    draws, level, random_state
        See :func:`bootstrap`.

    Examples
    --------
    >>> y = torch.arange(40) % 2
    >>> bootstrap_accuracy(y, y).low
    1.0
    """
    if truth.shape != decided.shape or truth.ndim != 1 or not len(truth):
        got = f"{tuple(truth.shape)} and {tuple(decided.shape)}"
        raise InputError(explain("bootstrap_accuracy", expected="as many decisions as classes", got=got))
    y, hit = truth.cpu().long(), (truth == decided).cpu().double()
    of = torch.nn.functional.one_hot(y if balanced else 0 * y).double()  # (n, class)
    present = of.sum(0) > 0

    def statistic(weight: Tensor) -> Tensor:
        share = (weight * hit) @ of / (weight @ of)  # (draw, class); NaN where a draw lacks a class
        return share[:, present].mean(1)

    return bootstrap(statistic, len(y), groups=groups, draws=draws, level=level, random_state=random_state)


def group_mean(values: Any, groups: Sequence[Any], *, level: float = 0.95) -> Interval:
    """Return the mean over groups of their means, with the Student interval over groups (subjects).

    Parameters
    ----------
    values : array, shape (n,)
        One number a trial, say right or wrong.
    groups : sequence, length n
        Group of each; two groups or more.
    level : float, default 0.95
        Coverage.

    Examples
    --------
    >>> group_mean([1.0, 1.0, 0.0, 0.5, 1.0], ["a", "a", "b", "b", "c"]).estimate
    0.75
    """
    from scipy.special import stdtrit

    _check_level(level, "group_mean")
    x = values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.asarray(values))
    names, member = np.unique([str(g) for g in groups], return_inverse=True)
    if len(names) < 2 or len(member) != len(x):
        got = f"{len(names)} groups of {len(member)}"
        raise InputError(explain("group_mean", expected=f"two groups or more of {len(x)} values", got=got))
    x, index = x.to(highest_precision(x.device)), torch.from_numpy(member).to(x.device)
    total, count = (x.new_zeros(len(names)).index_add(0, index, v) for v in (x, torch.ones_like(x)))
    means = total / count
    centre, spread = float(means.mean()), float(means.std()) / math.sqrt(len(names))
    reach = float(stdtrit(len(names) - 1, 1 - (1 - level) / 2)) * spread
    return Interval(centre, centre - reach, centre + reach)


def _check_level(level: float, where: str) -> None:
    if not 0 < level < 1:
        raise InputError(explain(f"{where}(level)", expected="a probability in (0, 1)", got=repr(level)))
