"""Updates of the dispersion r of negative binomial counts, the means held fixed, for all units and chains at once.

The conditional of r is not a Gamma law: the table-count update that holds the success probability fixed is wrong where
it is the mean that is held fixed. Metropolis and slice steps on log r are exact.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tectum.core.errors import InputError, explain

from .distributions import sample_exponential, sample_normal, sample_uniform

__all__ = ["DispersionDraw", "dispersion_log_density", "sample_dispersion", "sample_dispersion_slice"]


def dispersion_log_density(
    log_dispersion: Tensor,
    counts: Tensor,
    *,
    log_mean: Tensor,
    mask: Tensor | None = None,
    shape: float = 1.0,
    rate: float = 1.0,
) -> Tensor:
    """Log density of log r given counts and their means (the Jacobian included), up to terms free of r.

    Parameters
    ----------
    log_dispersion : Tensor
        (..., unit) log r.
    counts : Tensor
        (..., unit, time) floating counts.
    log_mean : Tensor
        (..., unit, time) log mu, held fixed.
    mask : Tensor or None
        (..., unit, time) bool, True = observed.
    shape, rate : float
        Gamma prior of r.

    Returns
    -------
    Tensor
        (..., unit).

    Examples
    --------
    >>> y = torch.zeros(1, 3)
    >>> dispersion_log_density(torch.zeros(1), y, log_mean=y).shape
    torch.Size([1])
    """
    r = log_dispersion.exp()
    each = r.unsqueeze(-1)
    terms = torch.lgamma(counts + each) - (counts + each) * torch.logaddexp(log_dispersion.unsqueeze(-1), log_mean)
    if mask is None:
        observed: Tensor | float = float(counts.shape[-1])
    else:
        terms = torch.where(mask, terms, 0.0)
        observed = mask.sum(dim=-1).to(terms.dtype)
    return terms.sum(dim=-1) + observed * (r * log_dispersion - torch.lgamma(r)) + shape * log_dispersion - rate * r


class DispersionDraw(NamedTuple):
    """Outcome of a dispersion update."""

    dispersion: Tensor
    """(..., unit) r."""
    accepted: Tensor
    """(..., unit) share of accepted proposals."""


def sample_dispersion(
    current: Tensor,
    counts: Tensor,
    *,
    log_mean: Tensor,
    generator: torch.Generator,
    mask: Tensor | None = None,
    shape: float = 1.0,
    rate: float = 1.0,
    step: float = 0.3,
    tries: int = 3,
) -> DispersionDraw:
    """Update r by random-walk Metropolis on log r with the means held fixed, for all units and chains at once.

    Parameters
    ----------
    current : Tensor
        (..., unit) r > 0.
    counts, log_mean : Tensor
        (..., unit, time) counts (floating) and log means.
    generator : torch.Generator
        Source of random numbers.
    mask : Tensor or None
        (..., unit, time) bool, True = observed.
    shape, rate : float
        Gamma prior of r.
    step : float
        Standard deviation of the proposal on log r.
    tries : int
        Metropolis steps.

    Returns
    -------
    DispersionDraw
        New r and the share of accepted proposals.

    Raises
    ------
    InputError
        ``step`` or ``tries`` not positive.

    Examples
    --------
    >>> y = torch.ones(2, 50)
    >>> rng = torch.Generator().manual_seed(0)
    >>> sample_dispersion(torch.ones(2), y, log_mean=torch.zeros(2, 50), generator=rng).dispersion.shape
    torch.Size([2])
    """
    if step <= 0 or tries < 1:
        raise InputError(explain("sample_dispersion", expected="step > 0 and tries >= 1", got=f"{step=}, {tries=}"))
    at = current.log()
    here = dispersion_log_density(at, counts, log_mean=log_mean, mask=mask, shape=shape, rate=rate)
    accepted = torch.zeros_like(at)
    for _ in range(tries):
        to = at + step * sample_normal(at, generator)
        there = dispersion_log_density(to, counts, log_mean=log_mean, mask=mask, shape=shape, rate=rate)
        keep = there - here > -sample_exponential(at, generator)
        at, here = torch.where(keep, to, at), torch.where(keep, there, here)
        accepted = accepted + keep.to(at.dtype)
    return DispersionDraw(at.exp(), accepted / tries)


def sample_dispersion_slice(
    current: Tensor,
    counts: Tensor,
    *,
    log_mean: Tensor,
    generator: torch.Generator,
    mask: Tensor | None = None,
    shape: float = 1.0,
    rate: float = 1.0,
    width: float = 1.0,
    steps_out: int = 6,
    shrinks: int = 20,
) -> Tensor:
    """Update r by slice sampling log r: no tuning, about five times the cost of one Metropolis step.

    The interval is placed at random around the current value and stepped out by at most ``steps_out``
    widths; a unit whose interval has not shrunk onto the slice after ``shrinks`` rounds keeps its value.

    Parameters
    ----------
    current, counts, log_mean, generator, mask, shape, rate
        As for :func:`sample_dispersion`.
    width : float
        Width of the initial interval on log r.
    steps_out : int
        Widths added at most, both sides together.
    shrinks : int
        Rounds of shrinkage.

    Returns
    -------
    Tensor
        (..., unit) new r.

    References
    ----------
    .. [1] Neal, "Slice sampling", Annals of Statistics 2003, figures 3 and 5.

    Examples
    --------
    >>> y = torch.ones(2, 50)
    >>> rng = torch.Generator().manual_seed(0)
    >>> sample_dispersion_slice(torch.ones(2), y, log_mean=torch.zeros(2, 50), generator=rng).shape
    torch.Size([2])
    """

    def density(log_r: Tensor) -> Tensor:
        return dispersion_log_density(log_r, counts, log_mean=log_mean, mask=mask, shape=shape, rate=rate)

    at = current.log()
    level = density(at) - sample_exponential(at, generator)
    low = at - width * sample_uniform(at, generator)
    high = low + width
    budget = (sample_uniform(at, generator) * (steps_out + 1)).floor()  # shared at random: keeps the update reversible
    for taken in range(steps_out):
        low = torch.where((density(low) > level) & (taken < budget), low - width, low)
        high = torch.where((density(high) > level) & (taken < steps_out - budget), high + width, high)
    new, found = at, torch.zeros_like(at, dtype=torch.bool)
    for _ in range(shrinks):
        candidate = low + (high - low) * sample_uniform(at, generator)
        inside = density(candidate) > level
        new, found = torch.where(inside & ~found, candidate, new), found | inside
        low = torch.where(candidate < at, candidate, low)
        high = torch.where(candidate < at, high, candidate)
    return new.exp()
