"""What simpler descriptions of the same counts score: constant rates, and each unit's own smoothed past.

On over-dispersed counts a constant negative binomial beats good Poisson models: Poisson baselines are straw men.

Shapes: sequences B, bins T, units N.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .basis import filter_history
from .describe import constant_rate
from .emission import FLOOR, _log_probability
from .fitting import SIZE_RANGE
from .inputs import Sequences

TAUS = (2.0, 4.0, 8.0)  # bins, of the smoother
REACH = 8  # time constants that its filter spans
GOLDEN, ROUNDS = (5**0.5 - 1) / 2, 18  # of the search of sizes: to 0.2 % of the range


def baseline_scores(train: Sequences, test: Sequences) -> dict[str, Tensor]:
    """Mean log-likelihood of the observed counts of ``test`` under models fitted to ``train``.

    Parameters
    ----------
    train, test : Sequences
        Counts on the same bins and units.

    Returns
    -------
    dict of str to Tensor
        Nats a bin and unit, (): ``"constant Poisson"``, ``"constant NB"``, and ``"own past NB"``, an exponential
        smoother of the unit's own past counts whose time constant was chosen on ``train``. The sizes of the negative
        binomials, one a unit, are those of highest likelihood on ``train``.
    """
    rate = constant_rate(train)
    flat = rate.expand(train.spikes.shape)
    found = {
        "constant Poisson": _mean(test, rate.expand(test.spikes.shape), None),
        "constant NB": _mean(test, rate.expand(test.spikes.shape), best_size(train, flat)),
    }
    pasts = [own_past(train, rate, tau) for tau in TAUS]
    sizes = [best_size(train, own) for own in pasts]
    fits = torch.stack([_mean(train, own, size) for own, size in zip(pasts, sizes, strict=True)])
    scores = [_mean(test, own_past(test, rate, tau), size) for tau, size in zip(TAUS, sizes, strict=True)]
    return {**found, "own past NB": torch.stack(scores)[fits.argmax()]}


def own_past(counts: Sequences, rate: Tensor, tau: float) -> Tensor:
    """Causal exponential smoother of each unit's counts, at its mean rate before a sequence starts: (B, T, N)."""
    lag = torch.arange(int(REACH * tau), dtype=rate.dtype, device=rate.device)
    weight = (1 / tau) * (1 - 1 / tau) ** lag
    away = (counts.spikes.to(rate) - rate).where(counts.observed(), 0.0)
    return (rate + filter_history(away, weight.unsqueeze(1))[..., 0]).clamp(min=1e-4)


def best_size(counts: Sequences, rate: Tensor) -> Tensor:
    """Negative-binomial size of every unit of highest likelihood for given rates (B, T, N), by golden section: (N,)."""
    spikes, seen = counts.spikes.to(rate), counts.observed()

    def score(log_size: Tensor) -> Tensor:
        return _log_probability(spikes, rate, log_size.exp()).where(seen, 0.0).sum((0, 1))

    low, high = (torch.full_like(rate[0, 0], math.log(edge)) for edge in SIZE_RANGE)
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    of_left, of_right = score(left), score(right)
    for _ in range(ROUNDS):
        up = of_right > of_left
        low, high = torch.where(up, left, low), torch.where(up, high, right)
        tried = torch.where(up, low + GOLDEN * (high - low), high - GOLDEN * (high - low))
        fresh = score(tried)
        left, right = torch.where(up, right, tried), torch.where(up, tried, left)
        of_left, of_right = torch.where(up, of_right, fresh), torch.where(up, fresh, of_left)
    return ((low + high) / 2).exp()


def _mean(counts: Sequences, rate: Tensor, size: Tensor | None) -> Tensor:
    """Mean log-likelihood of the observed counts."""
    seen = counts.observed()
    each = _log_probability(counts.spikes.to(rate), rate.clamp(min=FLOOR), size)
    return each.where(seen, 0.0).sum() / seen.sum()
