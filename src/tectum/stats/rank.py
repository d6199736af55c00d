"""How many components: fit, stability over starts and prediction of held-out fibres for every rank."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.errors import InputError, TectumWarning, explain
from ..core.random import generator, resolve_seed, spawn
from .tensors import CP, NNCP, PairSource, factor_match_score, nncp

__all__ = ["RankReport", "hold_out_fibres", "rank_report", "stability"]

SIMILAR = 0.9  # least similarity of a stable rank
PLATEAU = 0.5  # a rank is on the plateau when the next one adds less than this share of the mean gain so far


class RankReport(NamedTuple):
    """One row a rank (n_ranks,), float64 on the CPU, and the rank picked."""

    ranks: tuple[int, ...]
    error: Tensor  # smallest relative error over starts
    spread: Tensor  # standard deviation of the error over starts
    similarity: Tensor  # mean factor-match score of the other good starts with the best; NaN if there is none
    held_out: Tensor  # mean over folds of the relative error on held-out fibres; NaN if none can be held out
    held_out_se: Tensor  # its standard error over folds
    spectrum: Tensor  # summed singular values of the pair factor (unit columns) over the largest
    rank: int
    rule: str
    fits: tuple[NNCP, ...]


def rank_report(
    tensor: Tensor | PairSource,
    ranks: Sequence[int] = tuple(range(1, 13)),
    *,
    mask: Tensor | None = None,
    restarts: int = 10,
    rank_rule: str = "stability",
    folds: int = 5,
    held_out: float = 0.05,
    held_out_restarts: int = 3,
    tol: float = 1e-6,
    max_iter: int = 500,
    random_state: int | None = 0,
    max_bytes: int = 8 * 2**30,
) -> RankReport:
    """Fit every rank and pick one.

    Parameters
    ----------
    tensor : Tensor (n_time, n_animals, n_pairs), or PairSource
        As for `nncp` with ``solver="fibre"``.
    ranks : sequence of int, default 1 to 12
        Ranks to try, strictly increasing.
    mask : Tensor of bool (n_animals, n_pairs), optional
        True = observed.
    restarts : int, default 10
        Starts of each full fit, at least 2.
    rank_rule : {"stability", "spectrum"}, default "stability"
        "stability": the largest rank with similarity >= 0.9 whose held-out error is within one standard error of the
        smallest.  "spectrum": the smallest rank on the plateau of the summed normalised spectrum of the pair factor,
        the first after which a further component adds less than half of what one has added on average.
    folds, held_out : int and float, default 5 and 0.05
        Repeats of hiding this share of the observed fibres; every hidden pair stays observed in two other animals.
    held_out_restarts : int, default 3
        Starts of each held-out fit.
    tol, max_iter, random_state, max_bytes
        As for `nncp`.

    Returns
    -------
    RankReport
        With fewer than three animals no fibre can be held out: that column is NaN and the rule uses similarity alone.

    Raises
    ------
    InputError
        For an unknown rule, ranks out of order, or options out of range; and whatever `nncp` raises.

    References
    ----------
    Williams et al. (2018), Unsupervised discovery of demixed, low-dimensional neural dynamics, Neuron 98 (similarity).

    Examples
    --------
    >>> import torch
    >>> a, b, c = (torch.rand(n, 2, generator=torch.Generator().manual_seed(n)) ** 3 for n in (20, 6, 15))
    >>> rank_report(torch.einsum("tr,wr,pr->twp", a, b, c), (1, 2), restarts=3).rank
    2
    """
    _check(ranks, restarts, rank_rule, folds, held_out, held_out_restarts)
    seed = resolve_seed(random_state)
    options: dict[str, Any] = {"tol": tol, "max_iter": max_iter, "max_bytes": max_bytes}
    fits = tuple(
        nncp(tensor, rank, mask=mask, restarts=restarts, random_state=spawn(seed, "fit"), **options) for rank in ranks
    )
    hidden = [hold_out_fibres(fits[0].mask, held_out, random_state=spawn(seed, "fold", fold)) for fold in range(folds)]
    if any(bool(fold.any()) for fold in hidden):
        options |= {"restarts": held_out_restarts, "random_state": spawn(seed, "held out")}
        table = torch.tensor(
            [[_held_out_error(tensor, rank, fits[0].mask, fold, options) for fold in hidden] for rank in ranks]
        )
    else:
        reason = "a pair must stay observed in two other animals"
        message = f"rank_report: no fibre can be held out ({reason}); only similarity is used"
        warnings.warn(message, TectumWarning, stacklevel=2)
        table = torch.full((len(ranks), folds), torch.nan)
    errors = torch.stack([fit.error.cpu().double() for fit in fits])  # (n_ranks, restarts)
    similarity = torch.tensor([stability(fit, tol=tol) for fit in fits], dtype=torch.float64)
    spectrum = torch.tensor([_spectrum(fit.best) for fit in fits], dtype=torch.float64)
    mean, deviation = table.double().mean(1), table.double().std(1) / folds**0.5
    row = _plateau(spectrum, ranks) if rank_rule == "spectrum" else _stable(similarity, mean, deviation, ranks)
    best, spread = errors.amin(1), errors.std(1)
    return RankReport(tuple(ranks), best, spread, similarity, mean, deviation, spectrum, ranks[row], rank_rule, fits)


def _check(ranks: Sequence[int], restarts: int, rule: str, folds: int, share: float, held_out_restarts: int) -> None:
    """Reject options out of range."""
    if rule not in ("stability", "spectrum"):
        raise InputError(explain("rank_report: rank_rule", expected="'stability' or 'spectrum'", got=repr(rule)))
    if not ranks or list(ranks) != sorted(set(ranks)):
        raise InputError(explain("rank_report: ranks", expected="increasing ranks", got=f"{list(ranks)}"))
    if restarts < 2 or folds < 2 or not 0 < share < 1 or held_out_restarts < 1:
        got = f"restarts={restarts}, folds={folds}, held_out={share}, held_out_restarts={held_out_restarts}"
        expected = "restarts >= 2, folds >= 2, 0 < held_out < 1, held_out_restarts >= 1"
        raise InputError(explain("rank_report", expected=expected, got=got))


def stability(fit: NNCP, *, tol: float = 1e-6) -> float:
    """Mean factor-match score with the best start of the other starts whose error is within 1 % of the smallest.

    Parameters
    ----------
    fit : NNCP
        All restarts of one rank.
    tol : float, default 1e-6
        The stopping tolerance of the fit; errors that differ by less than ten times this are equal.

    Returns
    -------
    float
        In [0, 1]; NaN if no other start came so close.

    Examples
    --------
    >>> import torch
    >>> a, b, c = (torch.rand(n, 2, generator=torch.Generator().manual_seed(n)) ** 3 for n in (20, 6, 15))
    >>> stability(nncp(torch.einsum("tr,wr,pr->twp", a, b, c), 2, restarts=3)) > 0.95
    True
    """
    errors = fit.error.tolist()
    best = min(range(len(errors)), key=errors.__getitem__)
    limit = max(1.01 * errors[best], errors[best] + 10 * tol)
    others = [i for i, error in enumerate(errors) if i != best and error <= limit]
    scores = [factor_match_score(fit.start(best), fit.start(i)) for i in others]
    return sum(scores) / len(scores) if scores else float("nan")


def hold_out_fibres(mask: Tensor, share: float, *, random_state: int = 0) -> Tensor:
    """Choose observed fibres to hide so that every hidden pair stays observed in at least two animals.

    Parameters
    ----------
    mask : Tensor of bool (n_animals, n_pairs)
        True = observed.
    share : float
        Share of the observed fibres to hide; fewer are hidden if the rule leaves fewer.
    random_state : int, default 0

    Returns
    -------
    Tensor of bool (n_animals, n_pairs)
        True = hidden.

    Examples
    --------
    >>> import torch
    >>> hidden = hold_out_fibres(torch.ones(4, 50, dtype=torch.bool), 0.05)
    >>> int(hidden.sum()), bool(((~hidden).sum(0) >= 2).all())
    (10, True)
    """
    draw = torch.rand(mask.shape, generator=generator(random_state), dtype=torch.float64).to(mask.device)
    order = torch.where(mask, draw, torch.full_like(draw, 2.0))
    place = order.argsort(0).argsort(0)  # (animal, pair): rank of the fibre within its pair, missing ones last
    allowed = mask & (place < mask.sum(0) - 2)
    key = torch.where(allowed, draw, torch.full_like(draw, 2.0)).flatten()
    count = min(round(share * int(mask.sum())), int(allowed.sum()))
    hidden = torch.zeros_like(mask).flatten()
    hidden[key.argsort()[:count]] = True
    return hidden.reshape(mask.shape)


def _held_out_error(
    tensor: Tensor | PairSource, rank: int, seen: Tensor, hidden: Tensor, options: dict[str, Any]
) -> float:
    """Relative error on the ``hidden`` fibres of the best model fitted to the others."""
    with warnings.catch_warnings():  # a collapsed component has been reported by the full fit
        warnings.simplefilter("ignore", TectumWarning)
        model = nncp(tensor, rank, mask=seen & ~hidden, **options).best
    time, animal, pair = model.factors
    lost, total = 0.0, 0.0
    for where, chunk in [(slice(0, tensor.shape[2]), tensor)] if isinstance(tensor, Tensor) else tensor.chunks():
        row, column = hidden[:, where].nonzero(as_tuple=True)
        truth = chunk[:, row, column].detach().to(time.dtype)  # (T, fibres)
        guess = (time * model.weights) @ (animal[row] * pair[where][column]).mT
        lost += float((truth - guess).square().sum(dtype=torch.float64))
        total += float(truth.square().sum(dtype=torch.float64))
    return (lost / total) ** 0.5 if total > 0 else float("nan")


def _spectrum(model: CP) -> float:
    """Sum of the singular values of the pair factor, the largest counted as one."""
    values = torch.linalg.svdvals(model.factors[2].cpu().double())
    return float(values.sum() / values[0])


def _plateau(spectrum: Tensor, ranks: Sequence[int]) -> int:
    """First row after which the spectrum grows by less than half of its mean growth so far; else the last row."""
    steps = torch.tensor(ranks, dtype=spectrum.dtype)
    flat = spectrum.diff() / steps.diff() < PLATEAU * (spectrum / steps)[:-1]
    return int(flat.nonzero()[0]) if bool(flat.any()) else len(ranks) - 1


def _stable(similarity: Tensor, mean: Tensor, deviation: Tensor, ranks: Sequence[int]) -> int:
    """Last row that is stable and predicts as well as the best; else the best predicting or most similar one."""
    steady = similarity >= SIMILAR
    known = bool(mean.isfinite().any())
    lowest = int(mean.nan_to_num(torch.inf).argmin())
    fair = mean <= mean[lowest] + deviation[lowest] if known else torch.ones_like(steady)
    rows = (steady & fair).nonzero().flatten().tolist()
    if rows:
        return int(rows[-1])
    row = lowest if known else int(similarity.nan_to_num(0.0).argmax())
    wanted = f"stable (similarity >= {SIMILAR}) and predictive"
    message = f"rank_report: no rank is both {wanted}; rank {ranks[row]} is only the nearest"
    warnings.warn(message, TectumWarning, stacklevel=3)
    return row
