"""Kernels over the lags that are learned: one for every pair of units, or for every unit's own past alone.

Kernels are positive, sum to 1 and are shared by the states, so that a coupling is still one number for every state and
pair: the effect of the source at lag k is the coupling times kernel[k]. Under the one-hot prior they belong to
`one_hot.OneHot`; here are the other two priors, whose M step then climbs by gradients.

Shapes: states S, units N (targets first), lags K, covariates C.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .basis import Weights, join_weights, split_weights
from .emission import Link, expected_moments
from .gradient import Adam, ascend, at_rest, one_self, tie_states
from .one_hot import own_kernels

EXPLORE_RIDGE = 8.0
FLAT = 0.1  # share of a flat kernel in the start, so that every lag can still grow


class Kernelled(NamedTuple):
    """Couplings with learned kernels."""

    coupling: Tensor
    """(S, N, N)."""
    bias: Tensor
    """(S, N)."""
    covariates: Tensor
    """(S, N, C)."""
    kernel: Tensor
    """(N, N, K) logits."""


def start_kernels(filters: Tensor, n_units: int) -> Tensor:
    """Start every kernel at one positive filter (K, 1): logits (N, N, K).

    Examples
    --------
    >>> start_kernels(torch.tensor([[0.5], [0.5]]), 2).softmax(-1)[0, 1].tolist()
    [0.5, 0.5]
    """
    return filters[:, 0].log().expand(n_units, n_units, -1).clone()


def start_kernelled(weights: Tensor, kernel: Tensor) -> Kernelled:
    """Take weights (S, N, P) of one filter apart."""
    parts = split_weights(weights, n_units=len(kernel), n_filters=1)
    return Kernelled(parts.coupling[..., 0], parts.bias, parts.covariates, kernel)


def kernel_weights(parameters: Kernelled) -> Tensor:
    """Regression weights on every lag of every unit, (S, N, P) with P = 1 + N * K + C.

    Examples
    --------
    >>> one = Kernelled(torch.ones(1, 1, 1), torch.zeros(1, 1), torch.zeros(1, 1, 0), torch.zeros(1, 1, 4))
    >>> kernel_weights(one).tolist()
    [[[0.0, 0.25, 0.25, 0.25, 0.25]]]
    """
    coupling = parameters.coupling.unsqueeze(-1) * parameters.kernel.softmax(-1)
    return join_weights(Weights(parameters.bias, coupling, parameters.covariates))


def kernel_log_prior(parameters: Kernelled, precision: float, *, shared: bool) -> Tensor:
    """() log prior: couplings around zero, or around a mean that itself has mean 0 and the same variance.

    Examples
    --------
    >>> one = Kernelled(torch.ones(1, 1, 1), torch.zeros(1, 1), torch.zeros(1, 1, 0), torch.zeros(1, 1, 4))
    >>> kernel_log_prior(one, 2.0, shared=False).item(), kernel_log_prior(one, 2.0, shared=True).item()
    (-1.0, -0.5)
    """
    mean = kernel_mean(parameters) if shared else torch.zeros_like(parameters.coupling[0])
    away = ((parameters.coupling - mean) ** 2).sum() + (parameters.covariates**2).sum() + (mean**2).sum()
    return -precision * away / 2


def kernel_mean(parameters: Kernelled) -> Tensor:
    """Mode of the shared mean of the couplings, (N, N)."""
    return parameters.coupling.sum(0) / (len(parameters.coupling) + 1)


def explore_lags(
    design: Tensor,
    spikes: Tensor,
    responsibility: Tensor,
    start: Weights,
    *,
    allowed: Tensor | None = None,
    shared_bias: bool = False,
    shared_self: bool = False,
    link: Link = "sigmoid",
    size: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Let the effect at every lag go where it likes for a while, so that kernels start on the right side of zero.

    A positive kernel cannot change the sign of its coupling; started from a filter that misses the lags that matter, it
    would settle on whatever noise has the sign of the start.

    Parameters
    ----------
    design, spikes, responsibility, allowed, shared_bias, shared_self, link, size, mask
        See `fit_kernels`.
    start : Weights
        Biases, effects (S, N, N, K) and covariates.

    Returns
    -------
    Tensor
        (S, N, N, K) effects.
    """

    def score(weights: Tensor) -> Tensor:
        return expected_moments(design, spikes, weights, responsibility, link=link, size=size, mask=mask).gradient

    def tie(slopes: Weights) -> Weights:
        effect = slopes.coupling if allowed is None else slopes.coupling * allowed.unsqueeze(-1)
        return Weights(tie_states(slopes.bias, shared_bias), one_self(effect, shared_self), slopes.covariates)

    found, _ = ascend(start, at_rest(start), weights_of=join_weights, score=score, tie=tie, rate=0.05, n_steps=60,
                      log_prior=lambda w: -EXPLORE_RIDGE * (w.coupling**2).sum() / 2)  # fmt: skip
    return found.coupling


def project_lags(effect: Tensor) -> tuple[Tensor, Tensor]:
    """Approximate effects at every lag by couplings of the states times one positive kernel of the pair.

    Parameters
    ----------
    effect : Tensor
        (S, N, N, K).

    Returns
    -------
    coupling : Tensor
        (S, N, N).
    kernel : Tensor
        (N, N, K) logits.

    Examples
    --------
    >>> coupling, kernel = project_lags(torch.tensor([[0.0, -2.0], [0.0, 1.0]]).reshape(2, 1, 1, 2))
    >>> [[round(x, 2) for x in v.flatten().tolist()] for v in (coupling, kernel.softmax(-1))]
    [[-2.1, 1.05], [0.05, 0.95]]
    """
    by_pair = effect.permute(1, 2, 0, 3)  # (N, N, S, K)
    leading = torch.linalg.svd(by_pair, full_matrices=False).Vh[..., 0, :]  # (N, N, K)
    up, down = leading.clamp(min=0), (-leading).clamp(min=0)
    positive = torch.where((up.norm(dim=-1) >= down.norm(dim=-1)).unsqueeze(-1), up, down)
    kernel = positive / positive.sum(-1, keepdim=True).clamp(min=1e-12)
    kernel = (1 - FLAT) * kernel + FLAT / effect.shape[-1]
    coupling = (by_pair * kernel.unsqueeze(-2)).sum(-1) / (kernel**2).sum(-1, keepdim=True)  # (N, N, S)
    return coupling.movedim(-1, 0), kernel.log()


def fit_kernels(
    design: Tensor,
    spikes: Tensor,
    responsibility: Tensor,
    parameters: Kernelled,
    *,
    adam: Adam,
    precision: float,
    shared: bool,
    own_kernel: bool = False,
    shared_bias: bool = False,
    shared_self: bool = False,
    allowed: Tensor | None = None,
    link: Link = "sigmoid",
    size: Tensor | None = None,
    mask: Tensor | None = None,
    rate: float = 0.02,
    n_steps: int = 8,
) -> tuple[Kernelled, Adam]:
    """M step of couplings, biases and kernels together, by gradients.

    Parameters
    ----------
    design : Tensor
        (..., T, P) with every lag as a regressor: `basis.design_tensor` with an identity for filters.
    spikes, responsibility, link, size, mask
        See `emission.expected_moments`.
    parameters : Kernelled
        Start.
    adam : Adam
        From the last M step, or `gradient.at_rest`.
    precision : float
        Inverse prior variance of couplings and covariates.
    shared : bool
        Whether the prior is around a mean that the states share.
    own_kernel : bool
        Learn the kernels of units' own pasts alone.
    shared_bias, shared_self : bool
        One bias, one coupling of a unit to itself, for all states.
    allowed : Tensor, optional
        (N, N) bool, ``False`` forbids the coupling, which must start at 0.
    rate, n_steps
        See `gradient.ascend`.

    Returns
    -------
    parameters : Kernelled
    adam : Adam
    """

    def score(weights: Tensor) -> Tensor:
        return expected_moments(design, spikes, weights, responsibility, link=link, size=size, mask=mask).gradient

    def tie(slopes: Kernelled) -> Kernelled:
        coupling = slopes.coupling if allowed is None else slopes.coupling * allowed
        bias, kernel = tie_states(slopes.bias, shared_bias), own_kernels(slopes.kernel, own_kernel)
        return Kernelled(one_self(coupling, shared_self), bias, slopes.covariates, kernel)

    return ascend(
        parameters, adam, weights_of=kernel_weights, score=score, tie=tie, rate=rate, n_steps=n_steps,
        log_prior=lambda p: kernel_log_prior(p, precision, shared=shared),
    )  # fmt: skip
