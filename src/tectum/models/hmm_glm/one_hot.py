"""One-hot prior of the switching GLM: every connection is inhibitory, absent or excitatory, times a strength.

The type of the connection from n' to n in state s has posterior probabilities alpha (a categorical distribution, kept
as logits), pulled by a Kullback-Leibler term towards probabilities a0 shared by all states; the strength V >= 0 is a
point estimate with a normal prior whose mean and width are shared. The likelihood is averaged over the types by one
sample of the Gumbel-Softmax relaxation per gradient step.

Shapes: states S, units N (targets first), filters M, covariates C; see `glm` for the rest.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.device import highest_precision
from ...core.errors import InputError, explain
from ...stats import hmm
from .basis import Weights, join_weights, split_weights
from .emission import Link, expected_moments, log_emission
from .glm import GaussianPrior, fit_weights, transition_mode

PSEUDO_COUNT = 1.0
PSEUDO_TYPES = (0.1, 0.8, 0.1)  # inhibitory, absent, excitatory
LEAST_SD = 0.3
LEAST_LOG = -20.0


class OneHot(NamedTuple):
    """Parameters of the couplings and biases."""

    logits: Tensor
    """(S, N, N, 3) log probability of inhibitory, absent, excitatory (normalised or not)."""
    strength: Tensor
    """(S, N, N, M) real; the strength is its softplus."""
    bias: Tensor
    """(S, N)."""
    covariates: Tensor
    """(S, N, C)."""


class OneHotPrior(NamedTuple):
    """What all states share."""

    types: Tensor
    """(N, N, 3): a0, probability of inhibitory, absent, excitatory."""
    mean: Tensor
    """() mean strength."""
    sd: Tensor
    """() standard deviation of the strength."""


class Adam(NamedTuple):
    """State of the optimiser."""

    step: int
    first: OneHot
    second: OneHot


class HardCouplings(NamedTuple):
    """The most probable type of every connection, with refitted weights."""

    adjacency: Tensor
    """(S, N, N) int64 in {-1, 0, 1}."""
    weights: Tensor
    """(S, N, P) weights on that support."""


def start_one_hot(weights: Tensor, *, n_units: int, n_filters: int) -> OneHot:
    """Start from the weights of a fitted naive or Gaussian model; a random start ends in poor optima.

    Parameters
    ----------
    weights : Tensor
        (S, N, P) in the order of `basis.design_tensor`.
    n_units, n_filters : int
        N and M.

    Returns
    -------
    OneHot

    Examples
    --------
    >>> start = start_one_hot(torch.tensor([[[0.0, 0.9]]]), n_units=1, n_filters=1)
    >>> start.logits.argmax(-1).item(), round(torch.nn.functional.softplus(start.strength).item(), 4)
    (2, 0.9)
    """
    parts = split_weights(weights, n_units=n_units, n_filters=n_filters)
    total, size = parts.coupling.sum(-1), parts.coupling.abs().clamp(min=0.3)
    logits = torch.stack((-4 * total, 1.2 - 4 * total.abs(), 4 * total), dim=-1)
    return OneHot(_clamped(logits), size + torch.log(-torch.expm1(-size)), parts.bias, parts.covariates)


def one_hot_weights(parameters: OneHot, sign: Tensor) -> Tensor:
    """Regression weights for given signs of the connections.

    Parameters
    ----------
    parameters : OneHot
        Parameters.
    sign : Tensor
        (S, N, N) in [-1, 1]: `mean_sign`, `relaxed_sign` or the hard adjacency.

    Returns
    -------
    Tensor
        (S, N, P).

    Examples
    --------
    >>> start = start_one_hot(torch.tensor([[[0.0, -0.9]]]), n_units=1, n_filters=1)
    >>> one_hot_weights(start, -torch.ones(1, 1, 1)).tolist()
    [[[0.0, -0.89999...]]]
    """
    coupling = sign.unsqueeze(-1) * torch.nn.functional.softplus(parameters.strength)
    return join_weights(Weights(parameters.bias, coupling, parameters.covariates))


def mean_sign(logits: Tensor) -> Tensor:
    """Probability of excitatory minus probability of inhibitory: (..., 3) -> (...).

    Examples
    --------
    >>> mean_sign(torch.zeros(3)).item()
    0.0
    """
    types = logits.softmax(-1)
    return types[..., 2] - types[..., 0]


def relaxed_sign(logits: Tensor, uniform: Tensor, *, temperature: float) -> Tensor:
    """Sign of one Gumbel-Softmax sample of the types.

    Parameters
    ----------
    logits : Tensor
        (..., 3).
    uniform : Tensor
        (..., 3) uniform random numbers in (0, 1).
    temperature : float
        Positive; small values give signs near -1, 0 or 1.

    Returns
    -------
    Tensor
        (...) in [-1, 1], differentiable in ``logits``.

    References
    ----------
    Jang, Gu & Poole (2017), Categorical reparameterization with Gumbel-Softmax, ICLR; Maddison, Mnih & Teh (2017).

    Examples
    --------
    >>> relaxed_sign(torch.tensor([0.0, 0.0, 9.0]), torch.full((3,), 0.5), temperature=0.1).item()
    1.0
    """
    if not temperature > 0:
        raise InputError(explain("temperature", expected="a positive number", got=str(temperature)))
    gumbel = -torch.log(-torch.log(uniform))
    return mean_sign((logits.log_softmax(-1) + gumbel) / temperature)


def gumbel_softmax_log_density(sample: Tensor, logits: Tensor, *, temperature: float) -> Tensor:
    """Log density of the Gumbel-Softmax distribution on the open simplex.

    Parameters
    ----------
    sample : Tensor
        (..., K) positive, summing to 1.
    logits : Tensor
        (..., K) log probabilities, normalised or not.
    temperature : float
        Positive.

    Returns
    -------
    Tensor
        (...) with respect to the first K-1 coordinates.

    References
    ----------
    Maddison, Mnih & Teh (2017), eq. 10 (there in terms of unnormalised probabilities, not of their logarithms).

    Examples
    --------
    >>> third = torch.full((3,), 1 / 3)
    >>> round(gumbel_softmax_log_density(third, torch.zeros(3), temperature=1.0).exp().item(), 4)
    2.0
    """
    if not temperature > 0:
        raise InputError(explain("temperature", expected="a positive number", got=str(temperature)))
    n_types = sample.shape[-1]
    size = torch.tensor(float(n_types)).to(sample)
    logits = logits.log_softmax(-1)
    total = torch.logsumexp(logits - temperature * sample.log(), dim=-1)
    each = (logits - (temperature + 1) * sample.log()).sum(-1)
    return torch.lgamma(size) + (n_types - 1) * math.log(temperature) - n_types * total + each


def shared_prior(parameters: OneHot) -> OneHotPrior:
    """Update what the states share, in closed form.

    Parameters
    ----------
    parameters : OneHot
        Parameters.

    Returns
    -------
    OneHotPrior
        ``types`` is the posterior mean under Dirichlet pseudo-counts (0.1, 0.8, 0.1); ``mean`` and ``sd`` weight every
        strength with its probability of being connected; ``sd`` is at least 0.3.

    Examples
    --------
    >>> start = start_one_hot(torch.tensor([[[0.0, 0.9]]]), n_units=1, n_filters=1)
    >>> shared_prior(start).sd.item()
    0.30000...
    """
    types = parameters.logits.softmax(-1)
    pseudo = PSEUDO_COUNT * torch.tensor(PSEUDO_TYPES, dtype=types.dtype).to(types.device)
    shared = (types.sum(0) + pseudo) / (len(types) + PSEUDO_COUNT)
    strength = torch.nn.functional.softplus(parameters.strength)
    connected = (1 - types[..., 1]).unsqueeze(-1).expand_as(strength)
    mean = (connected * strength).sum() / connected.sum()
    variance = (connected * (strength - mean) ** 2).sum() / connected.sum()
    return OneHotPrior(shared, mean, variance.sqrt().clamp(min=LEAST_SD))


def one_hot_log_prior(parameters: OneHot, prior: OneHotPrior) -> Tensor:
    """Minus the Kullback-Leibler divergence of the types from the shared ones, plus the log prior of the strengths.

    Parameters
    ----------
    parameters : OneHot
        Parameters.
    prior : OneHotPrior
        Shared types and strength.

    Returns
    -------
    Tensor
        () nats, at most 0, without the constant of the normal density.

    Examples
    --------
    >>> start = start_one_hot(torch.tensor([[[0.0, 0.9]]]), n_units=1, n_filters=1)
    >>> same = OneHotPrior(start.logits.softmax(-1)[0], torch.tensor(0.9), torch.tensor(0.3))
    >>> abs(one_hot_log_prior(start, same).item()) < 1e-6
    True
    """
    logs = parameters.logits.log_softmax(-1)
    divergence = (logs.exp() * (logs - prior.types.log())).sum()
    away = (torch.nn.functional.softplus(parameters.strength) - prior.mean) / prior.sd
    return -divergence - (away**2).sum() / 2


def fit_one_hot(
    design: Tensor,
    spikes: Tensor,
    responsibility: Tensor,
    parameters: OneHot,
    *,
    prior: OneHotPrior,
    generator: torch.Generator,
    temperature: float,
    link: Link = "sigmoid",
    size: Tensor | None = None,
    mask: Tensor | None = None,
    allowed: Tensor | None = None,
    adam: Adam | None = None,
    rate: float = 0.05,
    n_steps: int = 10,
    shared_bias: bool = False,
) -> tuple[OneHot, Adam]:
    """M step: full-batch Adam on the expected log-likelihood of one relaxed sample per step plus the log prior.

    Parameters
    ----------
    design, spikes, link, size, mask
        See `glm.log_emission`.
    responsibility : Tensor
        (..., T, S) posterior probability of each state in each bin.
    parameters : OneHot
        Start.
    prior : OneHotPrior
        Fixed during the step.
    generator : torch.Generator
        Noise of the relaxed samples; use one on the CPU for equal results on every device.
    temperature : float
        Of the relaxation, positive.
    allowed : Tensor, optional
        (N, N) bool, ``False`` forbids the coupling.
    adam : Adam, optional
        State from the last M step.
    rate : float
        Learning rate.
    n_steps : int
        Gradient steps, one pass over the data each.
    shared_bias : bool
        One bias a unit for all states; the states must start with the same.

    Returns
    -------
    parameters : OneHot
        Log probabilities normalised and clamped to [-20, 0].
    adam : Adam
        For the next M step.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> start = start_one_hot(torch.tensor([[[0.0, 0.9]]]), n_units=1, n_filters=1)
    >>> design, counts, sure = torch.ones(5, 2), torch.ones(5, 1), torch.ones(5, 1)
    >>> fitted, adam = fit_one_hot(
    ...     design, counts, sure, start, prior=shared_prior(start), generator=g, temperature=0.5, n_steps=3)
    >>> adam.step
    3
    """
    state = adam or Adam(0, OneHot(*map(torch.zeros_like, parameters)), OneHot(*map(torch.zeros_like, parameters)))
    for _ in range(n_steps):
        uniform = torch.rand(parameters.logits.shape, generator=generator, device=generator.device, dtype=torch.float32)
        uniform = uniform.to(parameters.logits).clamp(1e-7, 1 - 1e-7)
        leaves = OneHot(*(p.detach().requires_grad_() for p in parameters))
        with torch.enable_grad():
            sign = relaxed_sign(leaves.logits, uniform, temperature=temperature)
            weights = one_hot_weights(leaves, sign if allowed is None else sign * allowed)
            score = expected_moments(
                design, spikes, weights.detach(), responsibility, link=link, size=size, mask=mask
            ).gradient
            surrogate = (weights * score.to(weights)).sum() + one_hot_log_prior(leaves, prior)
        slopes = OneHot(*torch.autograd.grad(surrogate, leaves))
        if shared_bias:
            slopes = slopes._replace(bias=slopes.bias.sum(0).expand_as(slopes.bias))
        parameters, state = _adam(parameters, slopes, state, rate)
    return parameters._replace(logits=_clamped(parameters.logits)), state


def _adam(parameters: OneHot, slopes: OneHot, state: Adam, rate: float) -> tuple[OneHot, Adam]:
    """One step uphill (Kingma & Ba 2015, algorithm 1), no weight decay."""
    step = state.step + 1
    first = OneHot(*(0.9 * m + 0.1 * g for m, g in zip(state.first, slopes, strict=True)))
    second = OneHot(*(0.999 * v + 0.001 * g**2 for v, g in zip(state.second, slopes, strict=True)))
    length, bias = rate / (1 - 0.9**step), 1 - 0.999**step
    moved = (p + length * m / ((v / bias).sqrt() + 1e-8) for p, m, v in zip(parameters, first, second, strict=True))
    return OneHot(*moved), Adam(step, first, second)


def one_hot_em_step(
    parameters: OneHot,
    log_transition: Tensor,
    log_initial: Tensor,
    design: Tensor,
    spikes: Tensor,
    *,
    generator: torch.Generator,
    temperature: float,
    link: Link = "sigmoid",
    size: Tensor | None = None,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    allowed: Tensor | None = None,
    stickiness: float = 0.0,
    adam: Adam | None = None,
    n_steps: int = 10,
    shared_bias: bool = False,
) -> tuple[OneHot, Tensor, Adam, Tensor, hmm.Smoothed]:
    """One round of generalised EM under the one-hot prior; the states are inferred with the mean signs.

    Parameters
    ----------
    parameters : OneHot
        Parameters before the round.
    log_transition, log_initial : Tensor
        (S, S) and (S,) log probabilities.
    design, spikes : Tensor
        (B, T, P) and (B, T, N).
    generator, temperature, link, size, mask, allowed, adam, n_steps, shared_bias
        See `fit_one_hot`.
    lengths : Tensor, optional
        (B,) bins of each sequence.
    stickiness : float
        See `glm.transition_mode`.

    Returns
    -------
    parameters : OneHot
    log_transition : Tensor
    adam : Adam
        All three after the round.
    objective : Tensor
        () marginal log-likelihood at the mean signs plus all log priors, before the round.
    posterior : stats.hmm.Smoothed
        Of the states, before the round.
    """
    prior = shared_prior(parameters)
    sign = mean_sign(parameters.logits)
    weights = one_hot_weights(parameters, sign if allowed is None else sign * allowed)
    emission = log_emission(design, spikes, weights, link=link, size=size, mask=mask)
    posterior = hmm.smooth(log_initial, log_transition, emission, lengths=lengths)
    extra = (1 + stickiness * torch.eye(len(log_transition)).to(log_transition)) * log_transition
    wide = OneHot(*(p.to(highest_precision(p.device)) for p in parameters))
    objective = posterior.log_likelihood.sum() + one_hot_log_prior(wide, prior) + extra.sum()
    fitted, adam = fit_one_hot(
        design, spikes, posterior.probabilities.to(design), parameters, prior=prior, generator=generator,
        temperature=temperature, link=link, size=size, mask=mask, allowed=allowed, adam=adam, n_steps=n_steps,
        shared_bias=shared_bias,
    )  # fmt: skip
    counted = posterior.transitions.reshape(-1, *log_transition.shape).sum(0)
    return fitted, transition_mode(counted, stickiness=stickiness), adam, objective, posterior


def harden(
    design: Tensor,
    spikes: Tensor,
    responsibility: Tensor,
    parameters: OneHot,
    *,
    prior: OneHotPrior,
    link: Link = "sigmoid",
    size: Tensor | None = None,
    mask: Tensor | None = None,
    allowed: Tensor | None = None,
    n_steps: int = 5,
    shared_bias: bool = False,
) -> HardCouplings:
    """Decide every connection for its most probable type and refit strengths and biases on that support.

    A connection whose refitted weight contradicts its type is dropped, and the rest is fitted once more.

    Parameters
    ----------
    design, spikes, link, size, mask
        See `glm.log_emission`.
    responsibility : Tensor
        (..., T, S) posterior probability of each state in each bin.
    parameters : OneHot
        Fitted parameters.
    prior : OneHotPrior
        Its mean and width keep the strengths in place.
    allowed : Tensor, optional
        (N, N) bool, ``False`` forbids the coupling.
    n_steps : int
        Fisher scoring steps of each of the two fits.
    shared_bias : bool
        See `fit_one_hot`.

    Returns
    -------
    HardCouplings

    Examples
    --------
    >>> start = start_one_hot(torch.tensor([[[0.0, 0.9]]]), n_units=1, n_filters=1)
    >>> design, counts, sure = torch.ones(5, 2), torch.ones(5, 1), torch.ones(5, 1)
    >>> harden(design, counts, sure, start, prior=shared_prior(start)).adjacency.item()
    1
    """
    adjacency = parameters.logits.argmax(-1) - 1
    adjacency = adjacency if allowed is None else adjacency * allowed
    n_filters = parameters.strength.shape[-1]
    n_coupling = adjacency.shape[-1] * n_filters
    weights = one_hot_weights(parameters, adjacency.to(parameters.strength))
    for _ in range(2):
        kind = torch.zeros_like(weights)
        kind[..., 1 : 1 + n_coupling] = adjacency.repeat_interleave(n_filters, dim=-1).to(weights)
        coupled = torch.zeros_like(weights, dtype=torch.bool)
        coupled[..., 1 : 1 + n_coupling] = True
        strength = GaussianPrior(kind * prior.mean, coupled * prior.sd**-2)
        weights = torch.where(coupled & (kind == 0), 0.0, weights)
        weights = fit_weights(
            design, spikes, responsibility, weights, prior=strength, link=link, size=size, mask=mask,
            free=~coupled | (kind != 0), n_steps=n_steps, shared_bias=shared_bias,
        ).weights  # fmt: skip
        wrong = (weights * kind)[..., 1 : 1 + n_coupling].unflatten(-1, (-1, n_filters)).sum(-1) < 0
        adjacency = torch.where(wrong, 0, adjacency)
    weights[..., 1 : 1 + n_coupling] *= (adjacency != 0).repeat_interleave(n_filters, dim=-1)
    return HardCouplings(adjacency, weights)


def _clamped(logits: Tensor) -> Tensor:
    """Log probabilities, at least -20, so that no type is ruled out for ever."""
    return logits.log_softmax(-1).clamp(min=LEAST_LOG)
