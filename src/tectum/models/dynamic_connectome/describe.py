"""What is said about a factorisation: factors, starts, ranks and stimuli."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.device import highest_precision
from ...core.random import generator
from ...stats.rank import RankReport
from ...stats.tensors import CP, NNCP, cp_normalize, factor_match_score
from .affinity import PairSource
from .alignment import Alignment, gather_bins
from .prepare import Prepared
from .scores import time_association


def informed(model: CP, mask: Tensor, *, least: float = 0.01) -> CP:
    """Set loadings to zero that hardly any observed fibre informs, and bring the model to canonical form.

    A pair that was recorded only in animals which barely express a motif has a loading that is noise divided by
    nearly nothing; it can exceed all others by orders of magnitude. The same holds for animals.

    Parameters
    ----------
    model : CP
        Factors (T, R), (W, R), (P, R).
    mask : Tensor, shape (W, P), bool
        Fibres that were observed.
    least : float, default 0.01
        Share of a motif's energy over animals (or pairs) that must have been observed with a pair (or animal).

    Returns
    -------
    CP
        Unit columns, weights descending, motifs without any loading dropped.

    Examples
    --------
    >>> animal, pair = torch.tensor([[1.0], [0.01]]), torch.tensor([[1.0], [99.0]])
    >>> mask = torch.tensor([[True, False], [True, True]])
    >>> informed(CP(torch.ones(1), (torch.ones(3, 1), animal, pair)), mask).factors[2].squeeze().tolist()
    [1.0, 0.0]
    """
    time, animal, pair = model.factors
    seen, tiny = mask.to(pair.dtype), torch.finfo(pair.dtype).tiny
    energy = animal.square()
    pair = torch.where(seen.T @ energy > least * energy.sum(0), pair, 0)
    energy = pair.square()
    animal = torch.where(seen @ energy > least * energy.sum(0).clamp(min=tiny), animal, 0)
    plain = cp_normalize(CP(model.weights, (time, animal, pair)))
    kept = plain.weights > 0
    return CP(plain.weights[kept], tuple(factor[:, kept] for factor in plain.factors))


def observed_norm(model: CP, mask: Tensor) -> Tensor:
    """Norm of every motif over the fibres that were observed: its weight, where none is missing.

    Parameters
    ----------
    model : CP
        Factors (T, R), (W, R), (P, R) with unit columns.
    mask : Tensor, shape (W, P), bool
        Fibres that were observed.

    Returns
    -------
    Tensor, shape (R,)

    Examples
    --------
    >>> half = torch.full((2, 1), 0.5**0.5)
    >>> model = CP(torch.tensor([4.0]), (torch.ones(1, 1), half, half))
    >>> round(observed_norm(model, torch.tensor([[True, False], [False, False]])).item(), 4)
    2.0
    """
    _, animal, pair = model.factors
    energy = (mask.to(pair.dtype) @ pair.square() * animal.square()).sum(0)
    return model.weights * energy.sqrt()


def describe_factors(model: CP, made: Prepared) -> dict[str, Any]:
    """Factors, the pairs they are about, and the traces behind them."""
    time, animal, pair = model.factors
    found = {
        "weight": model.weights, "observed_norm": observed_norm(model, made.source.mask),
        "time_factor": time, "subject_factor": animal, "pair_factor": pair,
        "pair_units": made.source.index, "observed": made.source.mask,
        "is_global": pair.std(0) < 0.5 * pair.mean(0),
    }  # fmt: skip
    if made.traces is None or not isinstance(made.source, PairSource):
        return found
    bins = zip(made.traces.values, made.alignment.bins, strict=True)
    found["traces"] = torch.stack([gather_bins(x, bins=b.to(x.device)).to(time) for x, b in bins], 1)
    if made.source.options.kind != "sliding_abs_corr":
        found["pair_sign"] = made.source.mean_cofluctuation().nanmean(0).nan_to_num().sign()
    return found


def describe_starts(fitted: NNCP) -> dict[str, Tensor]:
    """Error of every start and its similarity with the best."""
    scores = [factor_match_score(fitted.best, fitted.start(i)) for i in range(len(fitted.error))]
    return {"start_error": fitted.error, "start_similarity": fitted.error.new_tensor(scores)}


def describe_ranks(report: RankReport | None, like: Tensor) -> dict[str, Tensor]:
    """The rank report, where there is one."""
    if report is None:
        return {}
    columns = {
        "rank_error": report.error, "rank_similarity": report.similarity, "rank_held_out": report.held_out,
        "rank_held_out_se": report.held_out_se, "rank_spectrum": report.spectrum,
    }  # fmt: skip
    grid = torch.tensor(report.ranks, device=like.device)
    precise = highest_precision(like.device)
    return {"rank_grid": grid, **{name: x.to(precise).to(like.device) for name, x in columns.items()}}


def describe_stimuli(model: CP, aligned: Alignment, seed: int) -> dict[str, Tensor]:
    """Association of every time course with every stimulus."""
    windows = aligned.windows.to(model.weights.device)
    if len(windows) == 0:
        empty = model.weights.new_zeros((len(model.weights), 0))
        return {"stimulus_window": windows, "association": empty, "association_p": empty}
    found = time_association(model.factors[0], windows, generator=generator(seed))
    return {"stimulus_window": windows, "association": found.auroc, "association_p": found.p}
