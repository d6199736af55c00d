"""Emission of the switching GLM: links, log-likelihoods of counts, and their expected derivatives.

The sums over bins run in blocks that fit the cache, so the memory does not grow with the length of the recording.

Shapes: sequences and bins ``(sequence, time)`` = (B, T), units N, states S, regressors P (see `basis.design_tensor`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ...core.device import highest_precision
from ...core.errors import InputError, explain

Link = Literal["sigmoid", "softplus", "exp"]

FLOOR = 1e-8  # added to rates inside logarithms
CLIP = 8.0  # largest drive of the exponential link
_BLOCK = 1 << 16  # elements of a (rows x states x units) temporary


class Moments(NamedTuple):
    """Expected log-likelihood of each (state, unit) problem and its derivatives in the weights."""

    value: Tensor
    """(S, N): sum over bins of p(z_t = s | x) log p(x_tn | z_t = s), nats."""
    gradient: Tensor
    """(S, N, P)."""
    information: Tensor | None
    """(S, N, P, P) expected negative Hessian (Fisher information)."""


def rate_of(drive: Tensor, link: Link) -> Tensor:
    """Return the expected count per bin: sigmoid, softplus, or the exponential of the drive clipped at 8.

    Parameters
    ----------
    drive : Tensor
        Linear predictor, any shape.
    link : {"sigmoid", "softplus", "exp"}
        Inverse link function.

    Returns
    -------
    Tensor
        Like ``drive``.

    Examples
    --------
    >>> rate_of(torch.zeros(1), "sigmoid").item()
    0.5
    """
    if link == "sigmoid":
        return torch.sigmoid(drive)
    if link == "softplus":
        return torch.nn.functional.softplus(drive)
    if link == "exp":
        return drive.clamp(max=CLIP).exp()
    raise InputError(explain("link", expected="'sigmoid', 'softplus' or 'exp'", got=repr(link)))


def _rate_and_slope(drive: Tensor, link: Link) -> tuple[Tensor, Tensor]:
    """Expected count and its derivative in the drive."""
    rate = rate_of(drive, link)
    if link == "sigmoid":
        return rate, rate * (1 - rate)
    if link == "softplus":
        return rate, torch.sigmoid(drive)
    return rate, rate * (drive < CLIP)


def drive_of_rate(rate: Tensor, link: Link) -> Tensor:
    """Invert the link: the bias that gives a mean count, which is first clipped to where the link can be inverted.

    Examples
    --------
    >>> round(drive_of_rate(torch.tensor([0.5]), "softplus").item(), 4)
    -0.4328
    """
    if link == "sigmoid":
        return torch.logit(rate.clamp(0.01, 0.95))
    rate = rate.clamp(min=1e-3)
    return rate.log() if link == "exp" else rate + torch.log(-torch.expm1(-rate))


def constant_rate_emission(spikes: Tensor, rates: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Log-likelihood of every bin under every state of a Poisson model without regressors: two matrix products.

    Parameters
    ----------
    spikes : Tensor
        (..., T, N) counts.
    rates : Tensor
        (S, N) expected counts per bin.
    mask : Tensor, optional
        (..., T, N) bool, ``False`` = not observed.

    Returns
    -------
    Tensor
        (..., T, S) nats without the terms log(x!), which no state changes: subtract their sum (`log_factorials`).

    Examples
    --------
    >>> constant_rate_emission(torch.zeros(1, 2), torch.ones(3, 2)).round().tolist()
    [[-2.0, -2.0, -2.0]]
    """
    wide = _wide(rates)
    rates = rates.to(wide)
    logs = (rates + FLOOR).log()
    if mask is None:  # states before time: the product is faster so, and the smoother wants them so
        return (logs @ spikes.to(wide).mT - rates.sum(1, keepdim=True)).mT
    seen = mask.expand(spikes.shape)
    return (logs @ spikes.to(wide).where(seen, 0.0).mT - rates @ seen.to(wide).mT).mT


def log_factorials(spikes: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Sum of log(x!) over the units of a bin: (..., T, N) -> (..., T); compute it once, the parameters do not matter.

    Examples
    --------
    >>> log_factorials(torch.tensor([[3.0, 2.0]])).exp().round().tolist()
    [12.0]
    """
    each = torch.lgamma(spikes.to(_wide(spikes)) + 1)
    return (each if mask is None else each.where(mask, 0.0)).sum(-1)


def _log_probability(counts: Tensor, rate: Tensor, size: Tensor | None) -> Tensor:
    """Log probability of counts, Poisson or (with sizes) negative binomial."""
    if size is None:
        return counts * torch.log(rate + FLOOR) - rate - torch.lgamma(counts + 1)
    mixed = size + rate
    shape = torch.lgamma(counts + size) - torch.lgamma(size) - torch.lgamma(counts + 1)
    return shape + size * torch.log(size / mixed) + counts * torch.log((rate + FLOOR) / mixed)


def _score(counts: Tensor, rate: Tensor, size: Tensor | None) -> tuple[Tensor, Tensor]:
    """Derivative of the log probability in the rate and its expected negative second derivative."""
    if size is None:
        inverse = 1 / (rate + FLOOR)
        return counts * inverse - 1, inverse
    inverse = 1 / (rate + FLOOR)
    spread = size / (size + rate)
    return (counts - rate) * inverse * spread, inverse * spread


def log_emission(
    design: Tensor,
    spikes: Tensor,
    weights: Tensor,
    *,
    link: Link = "sigmoid",
    size: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Log-likelihood of the counts of all units in every bin under every state.

    Parameters
    ----------
    design : Tensor
        (..., T, P) regressors.
    spikes : Tensor
        (..., T, N) counts.
    weights : Tensor
        (S, N, P).
    link : {"sigmoid", "softplus", "exp"}
        From drive to expected count.
    size : Tensor, optional
        (N,) negative-binomial sizes (variance = mean + mean^2 / size); ``None`` is Poisson.
    mask : Tensor, optional
        (..., T, N) or (..., T, 1) bool, ``False`` = not observed.

    Returns
    -------
    Tensor
        (..., T, S) nats, in the highest precision of the device.

    Examples
    --------
    >>> round(log_emission(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(2, 1, 1)).exp()[0, 1].item(), 4)
    0.6065
    """
    n_states, n_units, _ = weights.shape
    found = []
    for x, y, m, _ in _blocks(design, spikes, mask, None, n_states):
        rate = rate_of((x @ weights.flatten(0, 1).mT).unflatten(1, (n_states, n_units)), link)  # (rows, S, N)
        each = _log_probability(y.unsqueeze(1), rate, size)
        found.append((each if m is None else each.where(m.unsqueeze(1), 0.0)).sum(2, dtype=_wide(design)))
    return torch.cat(found).reshape(*design.shape[:-1], n_states)


def unit_log_likelihood(
    design: Tensor,
    spikes: Tensor,
    weights: Tensor,
    responsibility: Tensor,
    *,
    link: Link = "sigmoid",
    size: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Log-likelihood of each unit in each bin, its own states mixed with given probabilities.

    With one-step predictive probabilities of the states (`stats.hmm.forward`) this is a causal score per unit. Units
    are not independent given the past, so the sum over units is not the population's predictive log-likelihood.

    Parameters
    ----------
    design, spikes, weights, link, size, mask
        See `log_emission`.
    responsibility : Tensor
        (..., T, S) probability of each state in each bin.

    Returns
    -------
    Tensor
        (..., T, N) log sum_s p(s) p(x_tn | s); 0 where masked.

    Examples
    --------
    >>> unit_log_likelihood(torch.ones(1, 1), torch.zeros(1, 3), torch.zeros(2, 3, 1), torch.ones(1, 2) / 2).shape
    torch.Size([1, 3])
    """
    n_states, n_units, _ = weights.shape
    found = []
    for x, y, m, r in _blocks(design, spikes, mask, responsibility, n_states):
        rate = rate_of((x @ weights.flatten(0, 1).mT).unflatten(1, (n_states, n_units)), link)
        mixed = torch.logsumexp(_log_probability(y.unsqueeze(1), rate, size) + r.log().unsqueeze(2), dim=1)
        found.append(mixed if m is None else mixed.where(m, 0.0))
    return torch.cat(found).reshape(*spikes.shape)


def expected_moments(
    design: Tensor,
    spikes: Tensor,
    weights: Tensor,
    responsibility: Tensor,
    *,
    link: Link = "sigmoid",
    size: Tensor | None = None,
    mask: Tensor | None = None,
    information: bool = False,
) -> Moments:
    """Expected complete-data log-likelihood of the emissions with gradient and Fisher information.

    Parameters
    ----------
    design, spikes, weights, link, size, mask
        See `log_emission`.
    responsibility : Tensor
        (..., T, S) posterior probability of each state in each bin.
    information : bool
        Also sum the (S, N, P, P) information; the cost is that of one product (S N, rows) x (rows, P^2 / 2).

    Returns
    -------
    Moments

    Examples
    --------
    >>> m = expected_moments(torch.ones(2, 1), torch.ones(2, 1), torch.zeros(1, 1, 1), torch.ones(2, 1), link="exp")
    >>> m.value.item(), round(m.gradient.item(), 5)
    (-2.0, 0.0)
    """
    n_states, n_units, n_weights = weights.shape
    wide = _wide(design)
    value = torch.zeros(n_states, n_units, dtype=wide, device=design.device)
    gradient = torch.zeros(n_states * n_units, n_weights, dtype=wide, device=design.device)
    row, column = torch.triu_indices(n_weights, n_weights, device=design.device)
    curvature = torch.zeros(n_states * n_units, len(row) if information else 0, dtype=wide, device=design.device)
    for x, y, m, r in _blocks(design, spikes, mask, responsibility, n_states, n_weights if information else 1):
        rate, slope = _rate_and_slope((x @ weights.flatten(0, 1).mT).unflatten(1, (n_states, n_units)), link)
        counts = y.unsqueeze(1)
        each = r.unsqueeze(2) if m is None else r.unsqueeze(2) * m.unsqueeze(1)
        value += (each * _log_probability(counts, rate, size)).sum(0, dtype=wide)
        first, second = _score(counts, rate, size)
        gradient += (each * slope * first).flatten(1).mT @ x
        if information:
            curvature += (each * slope**2 * second).flatten(1).mT @ (x[:, row] * x[:, column])
    gradient = gradient.unflatten(0, (n_states, n_units))
    if not information:
        return Moments(value, gradient, None)
    full = torch.empty(*gradient.shape, n_weights, dtype=wide, device=design.device)
    curvature = curvature.unflatten(0, (n_states, n_units))
    full[..., row, column] = curvature
    full[..., column, row] = curvature
    return Moments(value, gradient, full)


def _wide(values: Tensor) -> torch.dtype:
    """Precision of sums over bins."""
    return highest_precision(values.device)


def _blocks(
    design: Tensor, spikes: Tensor, mask: Tensor | None, responsibility: Tensor | None, n_states: int, n_wide: int = 1
) -> Iterator[tuple[Tensor, Tensor, Tensor | None, Tensor]]:
    """Yield rows of the flattened bins: design, counts, mask, responsibility, as many as fit the cache."""
    n_units = spikes.shape[-1]
    rows = max(1, _BLOCK // max(n_states * n_units, n_wide * (n_wide + 1) // 2))
    x, y = design.flatten(0, -2), spikes.to(design).flatten(0, -2)
    m = None if mask is None else mask.flatten(0, -2)
    r = (design[..., :0] if responsibility is None else responsibility.to(design)).flatten(0, -2)
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        seen = None if m is None else m[part]
        counts = y[part] if seen is None else y[part].where(seen, 0.0)
        yield x[part], counts, seen, r[part]
