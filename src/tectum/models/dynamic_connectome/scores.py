"""How far a motif can be believed: association with stimuli, surrogates, robustness and the way back to the traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.device import highest_precision
from ...core.errors import InputError, explain
from ...datasets.simulate.connectome import roll_units
from ...stats.tensors import CP, factor_match_score

__all__ = [
    "Association", "TraceBack", "auroc", "average_precision", "holm", "leave_one_animal_out", "midranks", "roll_units",
    "surrogate_p", "time_association", "trace_back",
]  # fmt: skip


class Association(NamedTuple):
    """AUROC of R time courses for K windows, and its p under circular shifts; both of shape (R, K)."""

    auroc: Tensor
    p: Tensor


class TraceBack(NamedTuple):
    """Traces behind one block of one motif; T bins, n units of the block.

    Attributes
    ----------
    traces : Tensor, shape (T, n)
        z-scored traces averaged over animals, flipped to agree with the block mean; NaN where no animal has them.
    active : Tensor, shape (T,), bool
        Bins in which the motif is active.
    signs : Tensor, shape (n,)
        1 or -1 (0 where unknown): the flips.
    animals : Tensor, shape (W,), bool
        Animals that express the motif.
    """

    traces: Tensor
    active: Tensor
    signs: Tensor
    animals: Tensor


def midranks(values: Tensor) -> Tensor:
    """Ranks from 1 along the last axis; ties share the mean of their ranks.

    Parameters
    ----------
    values : Tensor, shape (..., T)
        Finite values.

    Returns
    -------
    Tensor, shape (..., T), highest precision of the device

    Examples
    --------
    >>> midranks(torch.tensor([3.0, 1.0, 3.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    values = values.contiguous()
    ordered = values.sort(-1).values
    below = torch.searchsorted(ordered, values)
    upto = torch.searchsorted(ordered, values, right=True)
    return (below + upto + 1).to(highest_precision(values.device)) / 2


def auroc(scores: Tensor, labels: Tensor) -> Tensor:
    """Exact area under the ROC curve, ties counted as one half; chance is 0.5.

    Parameters
    ----------
    scores : Tensor, shape (..., T)
        Larger means more likely positive.
    labels : Tensor, shape (..., T), bool
        True for positives; broadcasts with ``scores``.

    Returns
    -------
    Tensor, shape (...)
        In [0, 1]; NaN where one class is empty.

    Examples
    --------
    >>> auroc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True])).item()
    0.75
    """
    ranks = midranks(scores)
    positive = labels.to(ranks.dtype)
    return _area((ranks * positive).sum(-1), positive.sum(-1), labels.shape[-1])


def _area(rank_sum: Tensor, positives: Tensor, total: int) -> Tensor:
    """Mann-Whitney U from the ranks of the positives, as a fraction of the pairs."""
    product = positives * (total - positives)
    u = rank_sum - positives * (positives + 1) / 2
    return torch.where(product > 0, u / product.clamp(min=1), torch.nan)


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Area under the precision-recall steps; tied scores enter together. Chance is the share of positives.

    Parameters
    ----------
    scores : Tensor, shape (..., T)
        Larger means more likely positive.
    labels : Tensor, shape (..., T), bool
        True for positives; same shape as ``scores``.

    Returns
    -------
    Tensor, shape (...)
        NaN without positives.

    Examples
    --------
    >>> labels = torch.tensor([False, False, True, True])
    >>> round(average_precision(torch.tensor([0.1, 0.4, 0.35, 0.8]), labels).item(), 4)
    0.8333
    """
    ordered, order = scores.sort(-1, descending=True)
    hits = labels.expand(scores.shape).gather(-1, order).to(highest_precision(scores.device))
    found = hits.cumsum(-1)
    last = torch.searchsorted(-ordered.contiguous(), -ordered.contiguous(), right=True) - 1  # end of each tie
    precision = found.gather(-1, last) / (last + 1)
    total = found[..., -1]
    return torch.where(total > 0, (hits * precision).sum(-1) / total.clamp(min=1), torch.nan)


def time_association(
    courses: Tensor, windows: Tensor, *, generator: torch.Generator, n_shifts: int = 1000, chunk: int = 64
) -> Association:
    """Test whether time courses are high inside windows, against circular shifts of the windows.

    Parameters
    ----------
    courses : Tensor, shape (T, R)
        Time courses of the motifs.
    windows : Tensor, shape (K, T), bool
        Stimulus windows.
    generator : torch.Generator
        On the CPU.
    n_shifts : int, default 1000
        Shifts drawn; when T - 1 is smaller, every shift is used once.
    chunk : int, default 64
        Shifts held in memory at once.

    Returns
    -------
    Association
        One-sided p: (1 + shifts that do at least as well) / (1 + shifts). NaN for empty windows.

    Examples
    --------
    >>> course = torch.zeros(100, 1); course[40:50] = torch.rand(10, 1) + 1
    >>> window = torch.zeros(1, 100, dtype=torch.bool); window[0, 40:50] = True
    >>> found = time_association(course, window, generator=torch.Generator().manual_seed(0))
    >>> found.auroc.item(), found.p.item()
    (1.0, 0.01)
    """
    n_time = courses.shape[0]
    ranks = midranks(courses.T)  # (R, T)
    inside = windows.to(ranks.dtype)  # (K, T)
    positives = inside.sum(-1)
    observed = _area(ranks @ inside.T, positives, n_time)  # (R, K)
    shifts = torch.randperm(n_time - 1, generator=generator) + 1
    if n_shifts < n_time - 1:
        shifts = shifts[:n_shifts]
    beaten = torch.zeros_like(observed)
    time = torch.arange(n_time, device=ranks.device)
    for part in shifts.to(ranks.device).split(chunk):
        rolled = inside[:, (time - part.unsqueeze(1)) % n_time]  # (K, s, T)
        null = _area(torch.einsum("rt,kst->rks", ranks, rolled), positives.unsqueeze(-1), n_time)
        beaten += (null >= observed.unsqueeze(-1) - 1e-9).sum(-1)
    p = (1 + beaten) / (1 + len(shifts))
    return Association(observed, torch.where(torch.isnan(observed), torch.nan, p))


def holm(p: Tensor) -> Tensor:
    """Adjust p values for several tests along the last axis (Holm's step-down procedure).

    Parameters
    ----------
    p : Tensor, shape (..., R)
        Raw p values.

    Returns
    -------
    Tensor, shape (..., R)

    References
    ----------
    Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6, 1979.

    Examples
    --------
    >>> [round(x, 4) for x in holm(torch.tensor([0.01, 0.04, 0.03])).tolist()]
    [0.03, 0.06, 0.06]
    """
    ordered, order = p.sort(-1)
    left = torch.arange(p.shape[-1], 0, -1, device=p.device, dtype=p.dtype)
    adjusted = (ordered * left).cummax(-1).values.clamp(max=1)
    return torch.empty_like(p).scatter_(-1, order, adjusted)


def surrogate_p(weights: Tensor, null: Tensor) -> Tensor:
    """Rank of each motif's weight among the weights of the same place in refits on surrogates.

    With S surrogates the smallest p is 1 / (S + 1): Holm's correction over R motifs can reach 0.05 only with
    20 R surrogates or more.

    Parameters
    ----------
    weights : Tensor, shape (R,)
        Weights in descending order.
    null : Tensor, shape (S, R)
        Weights of refits after `roll_units`, each in descending order.

    Returns
    -------
    Tensor, shape (R,)
        (1 + surrogates at least as large) / (1 + S).

    Examples
    --------
    >>> surrogate_p(torch.tensor([3.0, 1.0]), torch.tensor([[2.0, 1.5], [2.5, 0.5], [1.0, 0.5]])).tolist()
    [0.25, 0.5]
    """
    if null.ndim != 2 or null.shape[1] != weights.shape[0]:
        raise InputError(
            explain("surrogate_p", expected=f"null (surrogate, {weights.shape[0]})", got=f"{tuple(null.shape)}")
        )
    return (1 + (null >= weights).sum(0)) / (1 + null.shape[0])


def leave_one_animal_out(model: CP, refits: Sequence[CP]) -> Tensor:
    """Similarity of the model with refits that lack one animal each.

    Parameters
    ----------
    model : CP
        Fit to all W animals: factors (T, R), (W, R), (P, R).
    refits : sequence of CP, length W
        The w-th was fitted without animal w: factors (T, R), (W - 1, R), (P, R).

    Returns
    -------
    Tensor, shape (W,)
        Factor match score, 1 when the motifs do not depend on the animal.

    Examples
    --------
    >>> model = CP(torch.ones(2), (torch.eye(4)[:, :2], torch.ones(3, 2), torch.eye(5)[:, :2]))
    >>> part = model._replace(factors=(model.factors[0], torch.ones(2, 2), model.factors[2]))
    >>> [round(score, 6) for score in leave_one_animal_out(model, [part] * 3).tolist()]
    [1.0, 1.0, 1.0]
    """
    time, animal, pair = model.factors
    if len(refits) != animal.shape[0]:
        raise InputError(explain("leave_one_animal_out", expected=f"{animal.shape[0]} refits", got=str(len(refits))))
    found = []
    for w, refit in enumerate(refits):
        rest = torch.cat([animal[:w], animal[w + 1 :]])
        found.append(factor_match_score(CP(model.weights, (time, rest, pair)), refit))
    return torch.tensor(found, device=time.device, dtype=highest_precision(time.device))


def trace_back(
    traces: Tensor,
    *,
    time: Tensor,
    animal: Tensor,
    members: Tensor,
    min_animal: float = 0.3,
    min_time: float = 0.5,
) -> TraceBack:
    """Go back from one block of one motif to the traces of its units.

    Parameters
    ----------
    traces : Tensor, shape (T, W, N)
        Traces on the aligned axis; NaN where absent.
    time : Tensor, shape (T,)
        Time course of the motif.
    animal : Tensor, shape (W,)
        Its animal loadings.
    members : Tensor, shape (n,), int64
        Units of the block.
    min_animal, min_time : float, default 0.3 and 0.5
        Animals and bins above this share of the largest loading are used.

    Returns
    -------
    TraceBack

    Examples
    --------
    >>> wave = torch.sin(torch.arange(60.0) / 5)
    >>> traces = torch.stack([wave, 2 * wave, -wave], 1).unsqueeze(1)  # one animal, three units
    >>> found = trace_back(traces, time=torch.ones(60), animal=torch.ones(1), members=torch.tensor([0, 1, 2]))
    >>> found.signs.tolist()
    [1.0, 1.0, -1.0]
    """
    animals = animal > min_animal * animal.max()
    active = time > min_time * time.max()
    chosen = traces[:, :, members]
    mean = chosen.nanmean(0, keepdim=True)
    spread = (chosen - mean).square().nanmean(0, keepdim=True).sqrt()
    z = torch.where(spread > 0, (chosen - mean) / spread, torch.where(torch.isnan(chosen), torch.nan, 0))
    average = torch.where(animals[None, :, None], z, torch.nan).nanmean(1)  # (T, n)
    signs = _agreement(torch.where(active[:, None], average, torch.nan))
    return TraceBack(average * torch.where(signs == 0, 1, signs), active, signs, animals)


def _agreement(x: Tensor) -> Tensor:
    """Sign of the correlation of each column of (T, n) with the mean column, NaN left out."""
    block = x.nanmean(1, keepdim=True)
    a, b = x - x.nanmean(0), block - block.nanmean(0)
    return torch.nan_to_num((a * b).nansum(0)).sign()
