"""Tell whether a sampler converges, how many independent draws it is worth, and whether it samples what it should.

Draws are tensors ``(chain, draw, ...)``; every trailing axis is a parameter and all parameters are treated at once.
Definitions are those of Vehtari et al. (2021); values equal ArviZ's.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.device import highest_precision
from ..core.errors import InputError, explain


class GewekeTest(NamedTuple):
    """Comparison of two samplers of one joint distribution, a value a test statistic (shape ``...``)."""

    z: Tensor
    """Standardised difference of means; standard normal if the samplers agree."""
    mean_independent: Tensor
    """Mean of the statistic over draws of the marginal-conditional simulator."""
    mean_successive: Tensor
    """Mean of the statistic over the successive-conditional simulator."""
    standard_error: Tensor
    """Standard error of the difference."""


class Uniformity(NamedTuple):
    """Chi-square test that simulation-based-calibration ranks are uniform, a value a parameter (shape ``...``)."""

    statistic: Tensor
    """Chi-square statistic over the bins."""
    p_value: Tensor
    """Probability of a larger statistic if the ranks are uniform."""
    counts: Tensor
    """(..., bin) ranks in each bin."""


def split_rhat(draws: Tensor) -> Tensor:
    """Rank-normalised split R-hat: the larger of the bulk (location) and the folded (scale) version.

    Parameters
    ----------
    draws : Tensor
        (chain >= 2, draw >= 4, ...) real, integer or bool.

    Returns
    -------
    Tensor
        (...) at least about 1; at most 1.01 to 1.05 is taken as converged. NaN where a draw is not finite, or where a
        parameter never moves.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Rank-normalization, folding, and localization, Bayesian
    Analysis 16(2), eq. 1-4, 14, section 4.

    Examples
    --------
    >>> draws = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
    >>> bool(split_rhat(draws) < 1.01), bool(split_rhat(draws + torch.arange(4.0)[:, None]) > 1.3)
    (True, True)
    """
    halves = _split(_checked(draws, "split_rhat", chains=2))
    folded = (halves - _median(halves)).abs()
    return torch.maximum(_rhat(_rank_normal(halves)), _rhat(_rank_normal(folded)))


def ess_bulk(draws: Tensor) -> Tensor:
    """Effective sample size for the centre of the distribution (rank-normalised, split chains).

    Parameters
    ----------
    draws : Tensor
        (chain, draw >= 4, ...).

    Returns
    -------
    Tensor
        (...) number of independent draws of the same worth; NaN where a draw is not finite.

    References
    ----------
    Vehtari et al. (2021), section 4.3; Geyer (1992) for the truncation of the autocorrelations.

    Examples
    --------
    >>> draws = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
    >>> bool(ess_bulk(draws) > 1500)
    True
    """
    return _ess(_rank_normal(_split(_checked(draws, "ess_bulk"))))


def ess_tail(draws: Tensor, *, probability: float = 0.05) -> Tensor:
    """Effective sample size for the tails: the smaller one of the two extreme quantiles.

    Parameters
    ----------
    draws : Tensor
        (chain, draw >= 4, ...).
    probability : float
        Quantiles ``probability`` and ``1 - probability``, in (0, 0.5).

    Returns
    -------
    Tensor
        (...); NaN where a draw is not finite.

    References
    ----------
    Vehtari et al. (2021), section 4.3.

    Examples
    --------
    >>> draws = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
    >>> bool(ess_tail(draws) > 1000)
    True
    """
    if not 0 < probability < 0.5:
        raise InputError(explain("ess_tail: probability", expected="in (0, 0.5)", got=str(probability)))
    draws = _checked(draws, "ess_tail")
    ends = [_ess(_split(_indicator(draws, q))) for q in (probability, 1 - probability)]
    return torch.minimum(*ends)


def ess_mean(draws: Tensor) -> Tensor:
    """Effective sample size for the mean (split chains, no rank normalisation); (chain, draw, ...) -> (...).

    Examples
    --------
    >>> bool(ess_mean(torch.randn(4, 500, generator=torch.Generator().manual_seed(0))) > 1500)
    True
    """
    return _ess(_split(_checked(draws, "ess_mean")))


def mcse_mean(draws: Tensor) -> Tensor:
    """Monte-Carlo standard error of the posterior mean; (chain, draw, ...) -> (...), in the unit of the draws.

    Examples
    --------
    >>> draws = torch.randn(4, 2500, generator=torch.Generator().manual_seed(0))
    >>> round(mcse_mean(draws).item(), 3)
    0.01
    """
    draws = _checked(draws, "mcse_mean")
    return draws.flatten(0, 1).std(0) / _ess(_split(draws)).sqrt()


def mcse_sd(draws: Tensor) -> Tensor:
    """Monte-Carlo standard error of the posterior standard deviation; (chain, draw, ...) -> (...).

    References
    ----------
    Kenney & Keeping (1951), Mathematics of Statistics, part 2: delta method on the variance.

    Examples
    --------
    >>> draws = torch.randn(4, 2500, generator=torch.Generator().manual_seed(0))
    >>> round(mcse_sd(draws).item(), 3)
    0.007
    """
    draws = _checked(draws, "mcse_sd")
    square = (draws - draws.mean((0, 1), keepdim=True)) ** 2
    variance = square.mean((0, 1))
    spread = ((square**2).mean((0, 1)) - variance**2) / _ess(_split(square))
    return (spread / variance / 4).sqrt()


def hdi(draws: Tensor, *, probability: float = 0.94) -> Tensor:
    """Highest-density interval: the shortest interval that holds the given share of the draws (unimodal posteriors).

    Parameters
    ----------
    draws : Tensor
        (chain, draw, ...).
    probability : float
        Share, in (0, 1).

    Returns
    -------
    Tensor
        (..., 2) lower and upper end.

    Examples
    --------
    >>> hdi(torch.arange(100.0)[None], probability=0.5).tolist()
    [0.0, 50.0]
    """
    if not 0 < probability < 1:
        raise InputError(explain("hdi: probability", expected="in (0, 1)", got=str(probability)))
    ordered = draws.flatten(0, 1).sort(0).values
    held = math.floor(probability * len(ordered))
    if held >= len(ordered) or len(ordered) < 2:
        raise InputError(explain("hdi: draws", expected="at least 2 draws", got=str(len(ordered))))
    first = (ordered[held:] - ordered[: len(ordered) - held]).argmin(0, keepdim=True)
    return torch.cat((ordered.gather(0, first), ordered.gather(0, first + held))).movedim(0, -1)


def geweke_test(independent: Tensor, successive: Tensor, *, n_batches: int = 50) -> GewekeTest:
    """Compare test statistics of two simulators of p(parameters, data): "getting it right".

    The marginal-conditional simulator draws parameters from the prior, then data; its draws are independent. The
    successive-conditional one alternates a sweep of the sampler under test with fresh data; its draws are correlated
    and their error is estimated by batch means.

    Parameters
    ----------
    independent : Tensor
        (draw, ...) statistics of the marginal-conditional simulator.
    successive : Tensor
        (chain, draw, ...) statistics of the successive-conditional simulator. Use statistics of finite variance
        (indicators, logarithms).
    n_batches : int
        Batches a chain, at least 2; a batch must be longer than the autocorrelation.

    Returns
    -------
    GewekeTest

    References
    ----------
    Geweke (2004), Getting it right, JASA 99(467), eq. 4-7.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> bool(geweke_test(torch.randn(1000, generator=g), torch.randn(2, 1000, generator=g)).z.abs() < 4)
    True
    """
    length = successive.shape[1] // n_batches if successive.ndim > 1 and n_batches > 1 else 0
    if length < 1 or len(independent) < 2:
        got = f"{tuple(independent.shape)} and {tuple(successive.shape)} with n_batches={n_batches}"
        raise InputError(explain("geweke_test", expected="(draw, ...), (chain, draw >= n_batches >= 2, ...)", got=got))
    exact, chains = (_real(v) for v in (independent, successive))
    used = chains[:, : length * n_batches]
    means = used.unflatten(1, (n_batches, length)).mean(2).flatten(0, 1)  # (chain * batch, ...)
    error = (exact.var(0) / len(exact) + means.var(0) / len(means)).sqrt()
    difference = exact.mean(0) - used.mean((0, 1))
    z = torch.where(difference == 0, torch.zeros_like(difference), difference / error)
    return GewekeTest(z, exact.mean(0), used.mean((0, 1)), error)


def calibration_ranks(truth: Tensor, posterior: Tensor, *, generator: torch.Generator) -> Tensor:
    """Rank of the true value among its posterior draws, ties broken at random (simulation-based calibration).

    Parameters
    ----------
    truth : Tensor
        (simulation, ...) parameters drawn from the prior.
    posterior : Tensor
        (simulation, draw, ...) draws, nearly independent, from the posterior of data simulated with ``truth``.
    generator : torch.Generator
        Breaks ties (discrete parameters).

    Returns
    -------
    Tensor
        (simulation, ...) int64 in 0..draw; uniform if the sampler is right.

    References
    ----------
    Talts, Betancourt, Simpson, Vehtari & Gelman (2018), arXiv 1804.06788, theorem 1.

    Examples
    --------
    >>> calibration_ranks(torch.tensor([2.5]), torch.arange(5.0)[None], generator=torch.Generator()).tolist()
    [3]
    """
    if posterior.ndim != truth.ndim + 1 or posterior.shape[:1] + posterior.shape[2:] != truth.shape:
        got = f"{tuple(truth.shape)} and {tuple(posterior.shape)}"
        raise InputError(explain("calibration_ranks", expected="(simulation, ...), (simulation, draw, ...)", got=got))
    value = truth.unsqueeze(1)
    below, equal = (posterior < value).sum(1), (posterior == value).sum(1)
    chance = torch.rand(truth.shape, generator=generator, device=generator.device).to(truth.device)
    return below + (chance * (equal + 1)).floor().long()


def rank_uniformity(ranks: Tensor, *, n_draws: int, n_bins: int = 10) -> Uniformity:
    """Test that calibration ranks are uniform over 0..n_draws.

    Parameters
    ----------
    ranks : Tensor
        (simulation, ...) int, see `calibration_ranks`.
    n_draws : int
        Posterior draws a simulation; ``n_draws + 1`` must be a multiple of ``n_bins``.
    n_bins : int
        Bins of the histogram; expect at least 5 simulations in each.

    Returns
    -------
    Uniformity

    Examples
    --------
    >>> rank_uniformity(torch.arange(100) % 20, n_draws=19).p_value.item()
    1.0
    """
    if n_bins < 2 or (n_draws + 1) % n_bins:
        got = f"n_draws={n_draws}, n_bins={n_bins}"
        raise InputError(explain("rank_uniformity", expected="n_draws + 1 a multiple of n_bins >= 2", got=got))
    bins = torch.div(ranks, (n_draws + 1) // n_bins, rounding_mode="floor")
    edges = torch.arange(n_bins, device=ranks.device).reshape(-1, *[1] * ranks.ndim)
    counts = (bins == edges).sum(1).movedim(0, -1)
    wide = counts.to(highest_precision(ranks.device))
    expected = len(ranks) / n_bins
    statistic = ((wide - expected) ** 2 / expected).sum(-1)
    half_degrees = torch.full_like(statistic, (n_bins - 1) / 2)
    return Uniformity(statistic, torch.special.gammaincc(half_degrees, statistic / 2), counts)


# ---- parts ---------------------------------------------------------------------------------------


def _checked(draws: Tensor, where: str, *, chains: int = 1) -> Tensor:
    if draws.ndim < 2 or draws.shape[0] < chains or draws.shape[1] < 4:
        expected = f"(chain >= {chains}, draw >= 4, ...)"
        raise InputError(explain(where, expected=expected, got=str(tuple(draws.shape))))
    return _real(draws)


def _real(draws: Tensor) -> Tensor:
    return draws.to(highest_precision(draws.device))


def _split(draws: Tensor) -> Tensor:
    """Both halves of every chain as chains of their own; the middle draw of an odd number is dropped."""
    half = draws.shape[1] // 2
    return torch.cat((draws[:, :half], draws[:, -half:]))


def _quantile(draws: Tensor, probability: float) -> Tensor:
    """Quantile over chains and draws with linear interpolation, (...)."""
    ordered = draws.flatten(0, 1).sort(0).values
    place = (len(ordered) - 1) * probability
    low = min(math.floor(place), len(ordered) - 2)
    return ordered[low] + (place - low) * (ordered[low + 1] - ordered[low])


def _median(draws: Tensor) -> Tensor:
    """Mean of the two middle draws (the lower weight a half, so that both lie equally far from it), (...)."""
    ordered = draws.flatten(0, 1).sort(0).values
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _indicator(draws: Tensor, probability: float) -> Tensor:
    """Whether a draw lies at or below the quantile; NaN where any draw is not finite."""
    below = (draws <= _quantile(draws, probability)).to(draws.dtype)
    return torch.where(draws.isfinite().all(0).all(0), below, torch.nan)


def _rank_normal(draws: Tensor) -> Tensor:
    """Normal scores of the ranks over chains and draws; ties share their mean rank."""
    values = draws.flatten(0, 1).movedim(0, -1).contiguous()  # (..., n)
    ordered = values.sort(-1).values
    ranks = (torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True) + 1).to(values) / 2
    scores = torch.special.ndtri((ranks - 0.375) / (values.shape[-1] + 0.25))
    scores = torch.where(values.isfinite().all(-1, keepdim=True), scores, torch.nan)
    return scores.movedim(-1, 0).reshape(draws.shape)


def _rhat(draws: Tensor) -> Tensor:
    n = draws.shape[1]
    between, within = n * draws.mean(1).var(0), draws.var(1).mean(0)
    return ((between / within + n - 1) / n).sqrt()


def _autocovariance(draws: Tensor) -> Tensor:
    """Biased autocovariance of every chain at every lag, (chain, lag, ...)."""
    n = draws.shape[1]
    padded = 2 ** (2 * n - 1).bit_length()
    spectrum = torch.fft.rfft(draws - draws.mean(1, keepdim=True), n=padded, dim=1)
    covariance: Tensor = torch.fft.irfft(spectrum.abs() ** 2, n=padded, dim=1)
    return covariance[:, :n] / n


def _ess(draws: Tensor) -> Tensor:
    """Effective sample size by Geyer's initial positive, then monotone sequence of pairs of autocorrelations."""
    chains, n = draws.shape[:2]
    covariance = _autocovariance(draws).mean(0)  # (lag, ...)
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + (draws.mean(1).var(0) if chains > 1 else 0.0)
    rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    tau = _autocorrelation_time(rho, n)
    size = chains * n
    worth = size / tau.clamp(min=1 / math.log10(size))
    flat = draws.amax((0, 1)) - draws.amin((0, 1)) < 1e-15
    return torch.where(flat, torch.full_like(worth, size), worth)


def _autocorrelation_time(rho: Tensor, n: int) -> Tensor:
    """Integrated autocorrelation time, (lag, ...) -> (...), truncated at the first pair whose sum is not positive."""
    n_pairs = max((n - 3) // 2, 0) + 1
    even, odd = rho[0 : 2 * n_pairs : 2], rho[1 : 2 * n_pairs : 2]
    pairs = even + odd
    position = torch.arange(n_pairs, device=rho.device).reshape(-1, *[1] * (rho.ndim - 1))
    stop = torch.where(pairs > 0, n_pairs - 1, position).amin(0, keepdim=True)  # last pair that is looked at
    kept = torch.where(position < stop, pairs.cummin(0).values, 0.0).sum(0)
    last_even, last_pair = even.gather(0, stop).squeeze(0), pairs.gather(0, stop).squeeze(0)
    rest = torch.where((last_pair >= 0) | (last_even > 0), last_even, 0.0)
    tau = 2 * kept - 1 + rest
    return torch.where(rho.isfinite().all(0), tau, torch.nan)
