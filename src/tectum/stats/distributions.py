"""Random draws from explicit generators and log densities, elementwise or batched on tensors of any device.

``torch.distributions`` takes no generator; every draw here does. Rule of devices: numbers are drawn on the generator's
device and moved to the device of the argument. With a CPU generator every device gives the same result; with one on the
accelerator nothing is moved.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "negative_binomial_log_prob",
    "poisson_log_prob",
    "sample_beta",
    "sample_binomial",
    "sample_categorical",
    "sample_dirichlet",
    "sample_exponential",
    "sample_gamma",
    "sample_log_dirichlet",
    "sample_log_gamma",
    "sample_negative_binomial",
    "sample_normal",
    "sample_poisson",
    "sample_truncated_normal",
    "sample_uniform",
]


def sample_normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard normals with the shape, dtype and device of ``like``.

    Examples
    --------
    >>> sample_normal(torch.zeros(2, 3), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])
    """
    return _blank(like, generator).normal_(generator=generator).to(like.device)


def sample_uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw uniforms on [0, 1) with the shape, dtype and device of ``like``.

    Examples
    --------
    >>> bool((sample_uniform(torch.zeros(9), torch.Generator().manual_seed(0)) < 1).all())
    True
    """
    return _blank(like, generator).uniform_(generator=generator).to(like.device)


def sample_exponential(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard exponentials with the shape, dtype and device of ``like``.

    Examples
    --------
    >>> bool((sample_exponential(torch.zeros(9), torch.Generator().manual_seed(0)) > 0).all())
    True
    """
    return _blank(like, generator).exponential_(generator=generator).to(like.device)


def _blank(like: Tensor, generator: torch.Generator) -> Tensor:
    """Allocate on the generator's device what is to be drawn."""
    if _same(like, generator):
        return torch.empty_like(like, memory_format=torch.contiguous_format)
    return torch.empty(like.shape, dtype=like.dtype, device=generator.device)


def _same(like: Tensor, generator: torch.Generator) -> bool:
    """Tell whether the generator draws on the tensor's own device."""
    return like.device.type == generator.device.type


def _at(value: Tensor, generator: torch.Generator) -> Tensor:
    """Bring a parameter to the generator's device, where draws that need its value are made."""
    return value if _same(value, generator) else value.to(generator.device)


def sample_gamma(shape: Tensor, generator: torch.Generator) -> Tensor:
    """Draw Gamma(shape, rate 1), elementwise.

    Parameters
    ----------
    shape : Tensor
        Positive shapes, floating.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        Draws; shapes far below 0.01 underflow, see :func:`sample_log_gamma`.

    Examples
    --------
    >>> sample_gamma(torch.full((3,), 2.0), torch.Generator().manual_seed(0)).shape
    torch.Size([3])
    """
    return torch._standard_gamma(_at(shape, generator), generator=generator).to(shape.device)


def sample_log_gamma(shape: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the log of Gamma(shape, rate 1), right for shapes as small as 1e-10.

    Examples
    --------
    >>> bool(sample_log_gamma(torch.tensor([1e-10]), torch.Generator().manual_seed(0)).isfinite().all())
    True
    """
    raised = sample_gamma(shape + 1, generator).log()  # G(a) = G(a + 1) U^(1/a)
    return raised - sample_exponential(shape, generator) / shape


def sample_beta(first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """Draw Beta(first, second), elementwise; the parameters broadcast.

    Examples
    --------
    >>> one = torch.ones(4)
    >>> bool((sample_beta(one, one, torch.Generator().manual_seed(0)) < 1).all())
    True
    """
    first, second = torch.broadcast_tensors(first, second)
    return torch.sigmoid(sample_log_gamma(first, generator) - sample_log_gamma(second, generator))


def sample_log_dirichlet(concentration: Tensor, generator: torch.Generator, *, floor: float = 1e-10) -> Tensor:
    """Draw the log of Dirichlet weights over the last axis.

    Parameters
    ----------
    concentration : Tensor
        (..., category); entries below ``floor`` are raised to it. Mask a category with a weight of its own afterwards.
    generator : torch.Generator
        Source of random numbers.
    floor : float
        Smallest concentration used.

    Returns
    -------
    Tensor
        (..., category) log weights; their exponentials sum to one.

    Examples
    --------
    >>> w = sample_log_dirichlet(torch.ones(5, 3), torch.Generator().manual_seed(0))
    >>> torch.allclose(w.exp().sum(-1), torch.ones(5))
    True
    """
    return torch.log_softmax(sample_log_gamma(concentration.clamp(min=floor), generator), dim=-1)


def sample_dirichlet(concentration: Tensor, generator: torch.Generator, *, floor: float = 1e-10) -> Tensor:
    """Draw Dirichlet weights over the last axis; see :func:`sample_log_dirichlet`.

    Examples
    --------
    >>> sample_dirichlet(torch.ones(5, 3), torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3])
    """
    return sample_log_dirichlet(concentration, generator, floor=floor).exp()


def sample_categorical(log_weights: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one category a row from unnormalised log weights.

    Parameters
    ----------
    log_weights : Tensor
        (..., category); -inf excludes a category, at least one entry a row must be finite.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        (...) int64.

    Examples
    --------
    >>> sample_categorical(torch.tensor([[0.0, -torch.inf]]), torch.Generator().manual_seed(0))
    tensor([0])
    """
    return (log_weights - sample_exponential(log_weights, generator).log()).argmax(dim=-1)


def sample_binomial(count: Tensor, probability: Tensor, generator: torch.Generator) -> Tensor:
    """Draw Binomial(count, probability), elementwise, in the dtype of ``probability``.

    Examples
    --------
    >>> sample_binomial(torch.tensor([4.0]), torch.tensor([1.0]), torch.Generator().manual_seed(0))
    tensor([4.])
    """
    count, probability = torch.broadcast_tensors(count.to(probability.dtype), probability)
    drawn = torch.binomial(_at(count, generator), _at(probability, generator), generator=generator)
    return drawn.to(probability.device)


def sample_poisson(mean: Tensor, generator: torch.Generator) -> Tensor:
    """Draw Poisson counts, elementwise, in the dtype of ``mean``.

    Examples
    --------
    >>> sample_poisson(torch.zeros(2), torch.Generator().manual_seed(0))
    tensor([0., 0.])
    """
    return torch.poisson(_at(mean, generator), generator=generator).to(mean.device)


def sample_truncated_normal(
    mean: Tensor, scale: Tensor, *, low: Tensor, high: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw normals restricted to [low, high] by inversion, on the side where the tail keeps its digits.

    Parameters
    ----------
    mean, scale, low, high : Tensor
        Broadcast against each other; ``low`` and ``high`` may be infinite. Reliable to about 37 scales (float64) or 13
        (float32) from the mean; beyond, draws collapse on the nearer bound.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        Draws of the broadcast shape.

    Examples
    --------
    >>> zero, one = torch.zeros(4), torch.ones(4)
    >>> x = sample_truncated_normal(zero, one, low=one, high=2 * one, generator=torch.Generator().manual_seed(0))
    >>> bool(((x >= 1) & (x <= 2)).all())
    True
    """
    mean, scale, low, high = torch.broadcast_tensors(mean, scale, low, high)
    a, b = (low - mean) / scale, (high - mean) / scale
    flip = a > 0  # work in the lower tail
    lower, upper = torch.where(flip, -b, a), torch.where(flip, -a, b)
    p, q = (0.5 * torch.special.erfc(-x * 0.5**0.5) for x in (lower, upper))  # torch.special.ndtr has no tail
    z = torch.special.ndtri(p + (q - p) * sample_uniform(mean, generator))
    z = torch.minimum(torch.maximum(z, lower), upper)
    return mean + scale * torch.where(flip, -z, z)


def poisson_log_prob(count: Tensor, log_mean: Tensor) -> Tensor:
    """Log probability of Poisson counts given the log mean, elementwise.

    Examples
    --------
    >>> poisson_log_prob(torch.tensor(0.0), torch.tensor(0.0))
    tensor(-1.)
    """
    return count * log_mean - log_mean.exp() - torch.lgamma(count + 1)


def negative_binomial_log_prob(count: Tensor, log_mean: Tensor, dispersion: Tensor) -> Tensor:
    r"""Log probability of negative binomial counts of mean mu and variance mu + mu^2 / r, elementwise.

    Parameters
    ----------
    count : Tensor
        y >= 0, floating.
    log_mean : Tensor
        log mu.
    dispersion : Tensor
        r > 0; as r grows the law tends to Poisson.

    Returns
    -------
    Tensor
        Log probabilities of the broadcast shape.

    Examples
    --------
    >>> p = negative_binomial_log_prob(torch.arange(200.0), torch.tensor(1.0), torch.tensor(3.0)).exp()
    >>> torch.allclose(p.sum(), torch.tensor(1.0))
    True
    """
    logit = log_mean - dispersion.log()
    spread = torch.nn.functional.softplus(logit)
    combinations = torch.lgamma(count + dispersion) - torch.lgamma(dispersion) - torch.lgamma(count + 1)
    return combinations + count * (logit - spread) - dispersion * spread


def sample_negative_binomial(log_mean: Tensor, dispersion: Tensor, generator: torch.Generator) -> Tensor:
    """Draw negative binomial counts as Poisson counts of a Gamma rate.

    Parameters
    ----------
    log_mean : Tensor
        log mu.
    dispersion : Tensor
        r > 0, broadcast against ``log_mean``.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        Counts in the dtype of ``log_mean``, of the broadcast shape.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> sample_negative_binomial(torch.full((2, 3), -40.0), torch.tensor(1.0), rng).sum()
    tensor(0.)
    """
    log_mean, dispersion = torch.broadcast_tensors(log_mean, dispersion)
    log_rate = sample_log_gamma(dispersion, generator) + log_mean - dispersion.log()
    return sample_poisson(log_rate.exp(), generator)
