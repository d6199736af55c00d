"""One-hot prior of the switching GLM: every connection is inhibitory, absent or excitatory, times a strength.

The type of the connection from n' to n in state s has posterior probabilities alpha (a categorical distribution, kept
as logits), pulled by a Kullback-Leibler term towards probabilities a0 shared by all states; the strength V >= 0 is a
point estimate with a normal prior whose mean and width are shared. The likelihood is averaged over the types by one
sample of the Gumbel-Softmax relaxation per gradient step.

Strengths may be one a connection, or two: of its inhibitory and its excitatory type. Filters may be given (M of them),
or one kernel over the lags learned for every pair of units (K lags), which the states share.

Shapes: states S, units N (targets first), filters M, strengths V (1 or 2), covariates C; see `glm` for the rest.
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
from .glm import transition_mode
from .gradient import Adam, ascend, at_rest, one_self, tie_states

PSEUDO_COUNT = 1.0
PSEUDO_TYPES = (0.1, 0.8, 0.1)  # inhibitory, absent, excitatory
LEAST_SD = 0.3
LEAST_LOG = -20.0


class OneHot(NamedTuple):
    """Parameters of the couplings and biases."""

    logits: Tensor
    """(S, N, N, 3) log probability of inhibitory, absent, excitatory (normalised or not)."""
    strength: Tensor
    """(S, N, N, M, V) real; the strength is its softplus, of inhibition and excitation if there are two."""
    bias: Tensor
    """(S, N)."""
    covariates: Tensor
    """(S, N, C)."""
    kernel: Tensor
    """(N, N, K) logits of the learned kernels over lags, then M is 1; (0,) where filters are given."""


class OneHotPrior(NamedTuple):
    """What all states share."""

    types: Tensor
    """(N, N, 3): a0, probability of inhibitory, absent, excitatory."""
    mean: Tensor
    """(V,) mean strength."""
    sd: Tensor
    """(V,) standard deviation of the strength."""


def start_one_hot(
    weights: Tensor, *, n_units: int, n_filters: int, two_strengths: bool = False, kernel: Tensor | None = None
) -> OneHot:
    """Start from the weights of a fitted naive or Gaussian model; a random start ends in poor optima.

    Parameters
    ----------
    weights : Tensor
        (S, N, P) in the order of `basis.design_tensor`.
    n_units, n_filters : int
        N and M.
    two_strengths : bool
        Whether inhibition and excitation of a connection have strengths of their own.
    kernel : Tensor, optional
        (N, N, K) logits of kernels to learn.

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
    strength = (size + torch.log(-torch.expm1(-size))).unsqueeze(-1).repeat_interleave(1 + two_strengths, -1)
    learned = size.new_zeros(0) if kernel is None else kernel
    return OneHot(_clamped(logits), strength, parts.bias, parts.covariates, learned)


def one_hot_weights(parameters: OneHot, types: Tensor) -> Tensor:
    """Regression weights for given types of the connections.

    Parameters
    ----------
    parameters : OneHot
        Parameters.
    types : Tensor
        (S, N, N, 3) shares of inhibitory, absent, excitatory: their probabilities, a `relaxed_types` sample, or one of
        them 1 and the others 0.

    Returns
    -------
    Tensor
        (S, N, P).

    Examples
    --------
    >>> start = start_one_hot(torch.tensor([[[0.0, -0.9]]]), n_units=1, n_filters=1)
    >>> one_hot_weights(start, torch.tensor([1.0, 0.0, 0.0]).expand(1, 1, 1, 3)).tolist()
    [[[0.0, -0.89999...]]]
    """
    strength = torch.nn.functional.softplus(parameters.strength)
    coupling = types[..., 2:] * strength[..., -1] - types[..., :1] * strength[..., 0]  # (S, N, N, M)
    if parameters.kernel.numel():
        coupling = coupling * parameters.kernel.softmax(-1)  # (S, N, N, K)
    return join_weights(Weights(parameters.bias, coupling, parameters.covariates))


def mean_types(logits: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Probabilities of the types, none where a coupling is forbidden: (S, N, N, 3)."""
    types = logits.softmax(-1)
    return types if allowed is None else types * allowed.unsqueeze(-1)


def mean_sign(logits: Tensor) -> Tensor:
    """Probability of excitatory minus probability of inhibitory: (..., 3) -> (...).

    Examples
    --------
    >>> mean_sign(torch.zeros(3)).item()
    0.0
    """
    types = logits.softmax(-1)
    return types[..., 2] - types[..., 0]


def relaxed_types(logits: Tensor, uniform: Tensor, *, temperature: float) -> Tensor:
    """Draw one Gumbel-Softmax sample of the types.

    Parameters
    ----------
    logits : Tensor
        (..., 3).
    uniform : Tensor
        (..., 3) uniform random numbers in (0, 1).
    temperature : float
        Positive; small values give shares near 0 and 1.

    Returns
    -------
    Tensor
        (..., 3) shares, differentiable in ``logits``.

    References
    ----------
    Jang, Gu & Poole (2017), Categorical reparameterization with Gumbel-Softmax, ICLR; Maddison, Mnih & Teh (2017).

    Examples
    --------
    >>> relaxed_types(torch.tensor([0.0, 0.0, 9.0]), torch.full((3,), 0.5), temperature=0.1).round().tolist()
    [0.0, 0.0, 1.0]
    """
    if not temperature > 0:
        raise InputError(explain("temperature", expected="a positive number", got=str(temperature)))
    gumbel = -torch.log(-torch.log(uniform))
    return ((logits.log_softmax(-1) + gumbel) / temperature).softmax(-1)


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
    types, two = parameters.logits.softmax(-1), parameters.strength.shape[-1] == 2
    pseudo = PSEUDO_COUNT * torch.tensor(PSEUDO_TYPES, dtype=types.dtype).to(types.device)
    shared = (types.sum(0) + pseudo) / (len(types) + PSEUDO_COUNT)
    strength = torch.nn.functional.softplus(parameters.strength)
    connected = types[..., ::2] if two else 1 - types[..., 1:2]  # (S, N, N, V)
    weight = connected.unsqueeze(-2).expand_as(strength)
    over, total = (0, 1, 2, 3), weight.sum((0, 1, 2, 3))
    mean = (weight * strength).sum(over) / total
    variance = (weight * (strength - mean) ** 2).sum(over) / total
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
    shared_self: bool = False,
    own_kernel: bool = False,
    types: Tensor | None = None,
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
    shared_bias, shared_self : bool
        One bias a unit, and one coupling of a unit to itself, for all states; the states must start with the same.
    own_kernel : bool
        Learn the kernels of the couplings of units to themselves alone.
    types : Tensor, optional
        (S, N, N, 3) types that are known: nothing is sampled, and only the rest is fitted.

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

    def weights_of(p: OneHot) -> Tensor:
        if types is not None:
            return one_hot_weights(p, types)
        uniform = torch.rand(p.logits.shape, generator=generator, device=generator.device, dtype=torch.float32)
        uniform = uniform.to(p.logits).clamp(1e-7, 1 - 1e-7)
        drawn = relaxed_types(p.logits, uniform, temperature=temperature)
        return one_hot_weights(p, drawn if allowed is None else drawn * allowed.unsqueeze(-1))

    def score(weights: Tensor) -> Tensor:
        return expected_moments(design, spikes, weights, responsibility, link=link, size=size, mask=mask).gradient

    def tie(slopes: OneHot) -> OneHot:
        logits, strength = (one_self(g, shared_self) for g in slopes[:2])
        bias = tie_states(slopes.bias, shared_bias)
        return OneHot(logits, strength, bias, slopes.covariates, own_kernels(slopes.kernel, own_kernel))

    fitted, adam = ascend(
        parameters, adam or at_rest(parameters), weights_of=weights_of, score=score, tie=tie, rate=rate,
        log_prior=lambda p: one_hot_log_prior(p, prior), n_steps=n_steps,
    )  # fmt: skip
    return fitted._replace(logits=_clamped(fitted.logits)), adam


def own_kernels(slope: Tensor, only: bool) -> Tensor:
    """Gradients of kernels (N, N, K): zero but for those of units to themselves, if ``only`` these learn."""
    return slope * torch.eye(len(slope)).to(slope).unsqueeze(-1) if only else slope


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
    shared_self: bool = False,
    own_kernel: bool = False,
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
    generator, temperature, link, size, mask, allowed, adam, n_steps, shared_bias, shared_self, own_kernel
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
    weights = one_hot_weights(parameters, mean_types(parameters.logits, allowed))
    emission = log_emission(design, spikes, weights, link=link, size=size, mask=mask)
    posterior = hmm.smooth(log_initial, log_transition, emission, lengths=lengths)
    extra = (1 + stickiness * torch.eye(len(log_transition)).to(log_transition)) * log_transition
    wide = OneHot(*(p.to(highest_precision(p.device)) for p in parameters))
    objective = posterior.log_likelihood.sum() + one_hot_log_prior(wide, prior) + extra.sum()
    fitted, adam = fit_one_hot(
        design, spikes, posterior.probabilities.to(design), parameters, prior=prior, generator=generator,
        temperature=temperature, link=link, size=size, mask=mask, allowed=allowed, adam=adam, n_steps=n_steps,
        shared_bias=shared_bias, shared_self=shared_self, own_kernel=own_kernel,
    )  # fmt: skip
    counted = posterior.transitions.reshape(-1, *log_transition.shape).sum(0)
    return fitted, transition_mode(counted, stickiness=stickiness), adam, objective, posterior


def _clamped(logits: Tensor) -> Tensor:
    """Log probabilities, at least -20, so that no type is ruled out for ever."""
    return logits.log_softmax(-1).clamp(min=LEAST_LOG)
