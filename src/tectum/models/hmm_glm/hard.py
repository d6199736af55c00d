"""The end of the one-hot prior: one type for every connection, and weights refitted on that support."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .emission import Link
from .glm import GaussianPrior, fit_weights
from .one_hot import OneHot, OneHotPrior, fit_one_hot, one_hot_weights

KERNEL_STEPS = 60  # gradient steps of a fit with learned kernels


class HardCouplings(NamedTuple):
    """The most probable type of every connection, with refitted weights."""

    adjacency: Tensor
    """(S, N, N) int64 in {-1, 0, 1}."""
    weights: Tensor
    """(S, N, P) weights on that support."""


def hard_types(adjacency: Tensor, dtype: torch.dtype) -> Tensor:
    """Types of an adjacency in {-1, 0, 1} as shares: (...) -> (..., 3).

    Examples
    --------
    >>> hard_types(torch.tensor([-1]), torch.float32).tolist()
    [[1.0, 0.0, 0.0]]
    """
    return (adjacency.unsqueeze(-1) == torch.arange(-1, 2, device=adjacency.device)).to(dtype)


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
    tied: Tensor | None = None,
    shared_bias: bool = False,
    shared_self: bool = False,
    own_kernel: bool = False,
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
    tied : Tensor, optional
        See `glm.fit_weights`.
    shared_bias, shared_self, own_kernel
        See `one_hot.fit_one_hot`; they serve learned kernels, whose fit goes on by gradients.

    Returns
    -------
    HardCouplings

    Examples
    --------
    >>> from tectum.models.hmm_glm.one_hot import shared_prior, start_one_hot
    >>> start = start_one_hot(torch.tensor([[[0.0, 0.9]]]), n_units=1, n_filters=1)
    >>> design, counts, sure = torch.ones(5, 2), torch.ones(5, 1), torch.ones(5, 1)
    >>> harden(design, counts, sure, start, prior=shared_prior(start)).adjacency.item()
    1
    """
    adjacency = parameters.logits.argmax(-1) - 1
    adjacency = adjacency if allowed is None else adjacency * allowed
    if parameters.kernel.numel():
        types = hard_types(adjacency, parameters.strength.dtype)
        fitted, _ = fit_one_hot(
            design, spikes, responsibility, parameters, prior=prior, generator=torch.Generator(), temperature=1.0,
            link=link, size=size, mask=mask, types=types, n_steps=KERNEL_STEPS, shared_bias=shared_bias,
            shared_self=shared_self, own_kernel=own_kernel,
        )  # fmt: skip
        return HardCouplings(adjacency, one_hot_weights(fitted, types))
    n_filters = parameters.strength.shape[-2]
    n_coupling = adjacency.shape[-1] * n_filters
    weights = one_hot_weights(parameters, hard_types(adjacency, parameters.strength.dtype))
    for _ in range(2):
        kind = torch.zeros_like(weights)
        kind[..., 1 : 1 + n_coupling] = adjacency.repeat_interleave(n_filters, dim=-1).to(weights)
        coupled = torch.zeros_like(weights, dtype=torch.bool)
        coupled[..., 1 : 1 + n_coupling] = True
        mean, sd = (torch.where(kind < 0, v[0], v[-1]) for v in (prior.mean, prior.sd))
        strength = GaussianPrior(kind * mean, coupled * sd**-2)
        weights = torch.where(coupled & (kind == 0), 0.0, weights)
        weights = fit_weights(
            design, spikes, responsibility, weights, prior=strength, link=link, size=size, mask=mask,
            free=~coupled | (kind != 0), n_steps=n_steps, tied=tied,
        ).weights  # fmt: skip
        wrong = (weights * kind)[..., 1 : 1 + n_coupling].unflatten(-1, (-1, n_filters)).sum(-1) < 0
        adjacency = torch.where(wrong, 0, adjacency)
    weights[..., 1 : 1 + n_coupling] *= (adjacency != 0).repeat_interleave(n_filters, dim=-1)
    return HardCouplings(adjacency, weights)
