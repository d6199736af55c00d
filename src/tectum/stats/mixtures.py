r"""Priors of partitions: mixtures of finite mixtures and Dirichlet processes, and moves that split or merge blocks.

Partitions into t blocks of sizes n_1..n_t have probability :math:`V(t) \prod_j f(n_j)`. A mixture of finite mixtures
(MFM) draws the number of components K, weights from a symmetric Dirichlet(g), then labels, and integrates K and the
weights out: :math:`f(n) = \Gamma(g + n)/\Gamma(g)`. A Dirichlet process (DP) has :math:`f(n) = \Gamma(n)`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tectum.core.errors import InputError, explain

from .distributions import sample_categorical, sample_log_gamma, sample_uniform

__all__ = [
    "PartitionPrior",
    "assignment_log_weights",
    "component_count_log_posterior",
    "dirichlet_process_prior",
    "geometric_log_prior",
    "label_by_appearance",
    "mfm_prior",
    "partition_log_prob",
    "propose_split",
    "sample_component_count",
    "sample_labels_from_prior",
    "split_log_prob",
    "split_log_ratio",
]


class PartitionPrior(NamedTuple):
    """Exchangeable partition prior V(t) prod f(n_j)."""

    log_blocks: Tensor
    """(n_units + 1,) log V(t); -inf at t = 0."""
    discount: float
    """g of the MFM; 0 for a DP."""


def geometric_log_prior(zeta: float, n_components: int, *, like: Tensor) -> Tensor:
    """Log of zeta (1 - zeta)^(k - 1) for k = 1..n_components.

    Parameters
    ----------
    zeta : float
        In (0, 1); P(K <= k) = 1 - (1 - zeta)^k.
    n_components : int
        Entries wanted.
    like : Tensor
        Gives dtype and device.

    Returns
    -------
    Tensor
        (n_components,).

    Raises
    ------
    InputError
        ``zeta`` outside (0, 1).

    Examples
    --------
    >>> geometric_log_prior(0.5, 3, like=torch.zeros(1)).exp()
    tensor([0.5000, 0.2500, 0.1250])
    """
    _check_zeta(zeta)
    k = torch.arange(n_components, dtype=like.dtype, device=like.device)
    return math.log(zeta) + k * math.log1p(-zeta)


def _check_zeta(zeta: float) -> None:
    """Refuse parameters that are no probability of a geometric law."""
    if not 0 < zeta < 1:
        raise InputError(explain("zeta", expected="a value in (0, 1)", got=f"{zeta}"))


def _series_length(n_units: int, zeta: float) -> int:
    """Terms of the series over K that hold all of the mass: its mode is below n / sqrt(zeta), then it decays."""
    _check_zeta(zeta)
    return n_units + math.ceil(2 * n_units / math.sqrt(zeta) - 60 / math.log1p(-zeta))


def mfm_prior(n_units: int, *, zeta: float = 0.2, gamma: float = 1.0, like: Tensor) -> PartitionPrior:
    r"""Coefficients of a mixture of finite mixtures with a geometric number of components.

    .. math:: V(t) = \sum_{k \ge t} \frac{k!}{(k - t)!} \frac{\Gamma(gk)}{\Gamma(gk + n)} p_K(k)

    Parameters
    ----------
    n_units : int
        n >= 1.
    zeta : float
        Of the geometric prior of K.
    gamma : float
        g > 0, Dirichlet parameter of the weights given K.
    like : Tensor
        Gives dtype (use float64) and device.

    Returns
    -------
    PartitionPrior
        log V(0..n) and g.

    Raises
    ------
    InputError
        ``zeta`` outside (0, 1), ``gamma`` <= 0 or ``n_units`` < 1.

    References
    ----------
    .. [1] Miller, Harrison, "Mixture models with a prior on the number of components", JASA 2018, equation 3.2.

    Examples
    --------
    >>> prior = mfm_prior(1, like=torch.zeros(1, dtype=torch.float64))
    >>> prior.log_blocks.exp()
    tensor([0., 1.], dtype=torch.float64)
    """
    if gamma <= 0 or n_units < 1:
        raise InputError(explain("mfm_prior", expected="gamma > 0 and n_units >= 1", got=f"{gamma=}, {n_units=}"))
    log_prior = geometric_log_prior(zeta, _series_length(n_units, zeta), like=like)
    t = torch.arange(1, n_units + 1, dtype=like.dtype, device=like.device)
    coefficients = torch.logsumexp(_component_terms(t, log_prior, n_units, gamma), dim=-1)
    return PartitionPrior(torch.nn.functional.pad(coefficients, (1, 0), value=-torch.inf), gamma)


def _component_terms(blocks: Tensor, log_prior: Tensor, n_units: int, gamma: float) -> Tensor:
    """Log terms of the series of V(t): (..., component) for (...) numbers of blocks t."""
    k = torch.arange(1, log_prior.shape[0] + 1, dtype=log_prior.dtype, device=log_prior.device)
    t = blocks.to(log_prior.dtype).unsqueeze(-1)
    falling = torch.lgamma(k + 1) - torch.lgamma((k - t).clamp(min=0) + 1)
    units = torch.lgamma(gamma * k) - torch.lgamma(gamma * k + n_units)
    return torch.where(k >= t, falling + units + log_prior, -torch.inf)


def dirichlet_process_prior(n_units: int, *, concentration: float, like: Tensor) -> PartitionPrior:
    """Coefficients of a Dirichlet process: log V(t) = t log(alpha) + lgamma(alpha) - lgamma(alpha + n).

    Parameters
    ----------
    n_units : int
        n >= 1.
    concentration : float
        alpha > 0.
    like : Tensor
        Gives dtype and device.

    Returns
    -------
    PartitionPrior
        log V(0..n), and 0 as discount.

    Raises
    ------
    InputError
        ``concentration`` <= 0 or ``n_units`` < 1.

    Examples
    --------
    >>> dirichlet_process_prior(2, concentration=1.0, like=torch.zeros(1)).log_blocks.exp()
    tensor([0.0000, 0.5000, 0.5000])
    """
    if concentration <= 0 or n_units < 1:
        got = f"{concentration=}, {n_units=}"
        raise InputError(explain("dirichlet_process_prior", expected="concentration > 0 and n_units >= 1", got=got))
    t = torch.arange(1, n_units + 1, dtype=like.dtype, device=like.device)
    constant = math.lgamma(concentration) - math.lgamma(concentration + n_units)
    coefficients = t * math.log(concentration) + constant
    return PartitionPrior(torch.nn.functional.pad(coefficients, (1, 0), value=-torch.inf), 0.0)


def _log_block(sizes: Tensor, discount: float) -> Tensor:
    """Log f(n), and 0 for empty slots."""
    constant = math.lgamma(discount) if discount > 0 else 0.0
    return torch.where(sizes > 0, torch.lgamma(sizes.clamp(min=1) + discount) - constant, 0.0)


def partition_log_prob(sizes: Tensor, prior: PartitionPrior) -> Tensor:
    """Log probability of a partition.

    Parameters
    ----------
    sizes : Tensor
        (..., slot) units in every slot; empty slots do not count.
    prior : PartitionPrior
        For the sum of the sizes.

    Returns
    -------
    Tensor
        (...).

    Examples
    --------
    >>> prior = dirichlet_process_prior(2, concentration=1.0, like=torch.zeros(1))
    >>> partition_log_prob(torch.tensor([[2, 0], [1, 1]]), prior).exp()
    tensor([0.5000, 0.5000])
    """
    blocks = (sizes > 0).sum(dim=-1)
    return prior.log_blocks[blocks] + _log_block(sizes.to(prior.log_blocks.dtype), prior.discount).sum(dim=-1)


def assignment_log_weights(sizes: Tensor, prior: PartitionPrior) -> Tensor:
    """Prior log weights of the slots for one unit that is left out.

    Occupied slots weigh n_j + g; the weight of a new block, g V(t + 1) / V(t) (MFM) or alpha (DP), is shared equally by
    the empty slots, which then are the auxiliary clusters of Neal's algorithm 8.

    Parameters
    ----------
    sizes : Tensor
        (..., slot) units in every slot without the unit in question.
    prior : PartitionPrior
        For all units, the one in question included.

    Returns
    -------
    Tensor
        (..., slot), not normalised.

    Examples
    --------
    >>> prior = dirichlet_process_prior(4, concentration=2.0, like=torch.zeros(1))
    >>> assignment_log_weights(torch.tensor([3, 0, 0]), prior).exp()
    tensor([3., 1., 1.])
    """
    counts = sizes.to(prior.log_blocks.dtype)
    empty = sizes == 0
    blocks = (~empty).sum(dim=-1, keepdim=True)
    last = prior.log_blocks.shape[0] - 1
    ratio = prior.log_blocks[(blocks + 1).clamp(max=last)] - prior.log_blocks[blocks.clamp(max=last)]
    # with nobody seated V(0) cancels: any finite number does
    ratio = torch.where(blocks == 0, 0.0, ratio)
    new = ratio + (math.log(prior.discount) if prior.discount > 0 else 0.0) - empty.sum(dim=-1, keepdim=True).log()
    return torch.where(empty, new, (counts + prior.discount).log())


def component_count_log_posterior(
    blocks: Tensor, *, n_units: int, zeta: float = 0.2, gamma: float = 1.0, like: Tensor
) -> Tensor:
    """Log posterior of the number of components K of an MFM given the number of occupied ones.

    Parameters
    ----------
    blocks : Tensor
        (...) occupied components t.
    n_units : int
        Units n.
    zeta, gamma : float
        As for :func:`mfm_prior`.
    like : Tensor
        Gives dtype and device.

    Returns
    -------
    Tensor
        (..., component) normalised, entry k - 1 for K = k.

    Examples
    --------
    >>> p = component_count_log_posterior(torch.tensor(2), n_units=5, like=torch.zeros(1)).exp()
    >>> bool(p[0] == 0), torch.allclose(p.sum(), torch.tensor(1.0))
    (True, True)
    """
    log_prior = geometric_log_prior(zeta, _series_length(n_units, zeta), like=like)
    return torch.log_softmax(_component_terms(blocks, log_prior, n_units, gamma), dim=-1)


def sample_component_count(
    blocks: Tensor, *, n_units: int, generator: torch.Generator, zeta: float = 0.2, gamma: float = 1.0, like: Tensor
) -> Tensor:
    """Draw the number of components of an MFM given the number of occupied ones.

    Parameters
    ----------
    blocks, n_units, zeta, gamma, like
        As for :func:`component_count_log_posterior`.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        (...) int64, at least ``blocks``.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> k = sample_component_count(torch.tensor([2, 3]), n_units=5, generator=rng, like=torch.zeros(1))
    >>> bool((k >= torch.tensor([2, 3])).all())
    True
    """
    log_p = component_count_log_posterior(blocks, n_units=n_units, zeta=zeta, gamma=gamma, like=like)
    return sample_categorical(log_p, generator) + 1


def sample_labels_from_prior(
    n_units: int,
    *,
    generator: torch.Generator,
    n_draws: int,
    like: Tensor,
    zeta: float = 0.2,
    gamma: float = 1.0,
    max_components: int = 200,
) -> Tensor:
    """Draw labels from an MFM: K, weights, labels; labels are numbered in order of appearance.

    Parameters
    ----------
    n_units : int
        Units.
    generator : torch.Generator
        Source of random numbers.
    n_draws : int
        Draws.
    like : Tensor
        Gives dtype and device.
    zeta, gamma : float
        As for :func:`mfm_prior`.
    max_components : int
        Bound of K; at 200 and zeta = 0.2 the prior mass beyond is 4e-20.

    Returns
    -------
    Tensor
        (n_draws, n_units) int64.

    Examples
    --------
    >>> z = sample_labels_from_prior(4, generator=torch.Generator().manual_seed(0), n_draws=3, like=torch.zeros(1))
    >>> z.shape, z[:, 0].tolist()
    (torch.Size([3, 4]), [0, 0, 0])
    """
    log_prior = geometric_log_prior(zeta, max_components, like=like).expand(n_draws, -1)
    count = sample_categorical(log_prior, generator)  # K - 1
    index = torch.arange(max_components, device=like.device)
    log_gammas = sample_log_gamma(torch.full_like(log_prior, gamma), generator)
    log_weights = torch.where(index <= count.unsqueeze(-1), log_gammas, -torch.inf)
    labels = sample_categorical(log_weights.unsqueeze(-2).expand(-1, n_units, -1), generator)
    return label_by_appearance(labels)


def label_by_appearance(labels: Tensor) -> Tensor:
    """Renumber labels in order of first appearance along the last axis.

    Examples
    --------
    >>> label_by_appearance(torch.tensor([7, 2, 7, 0]))
    tensor([0, 1, 0, 2])
    """
    same = labels.unsqueeze(-1) == labels.unsqueeze(-2)
    first = same.to(torch.int8).argmax(dim=-1)  # where the label of every unit first appears
    leads = first == torch.arange(labels.shape[-1], device=labels.device)
    return (leads.cumsum(dim=-1) - 1).gather(-1, first)


def split_log_ratio(first: Tensor, second: Tensor, *, n_blocks: Tensor, prior: PartitionPrior) -> Tensor:
    """Log prior ratio of a partition with a block split in two over the partition with the block whole.

    Parameters
    ----------
    first, second : Tensor
        (...) sizes of the two parts, both at least 1.
    n_blocks : Tensor
        (...) int64 blocks before the split.
    prior : PartitionPrior
        For all units.

    Returns
    -------
    Tensor
        (...); a merge has the negative.

    Examples
    --------
    >>> prior = dirichlet_process_prior(4, concentration=2.0, like=torch.zeros(1))
    >>> split_log_ratio(torch.tensor(2), torch.tensor(2), n_blocks=torch.tensor(1), prior=prior).exp()
    tensor(0.3333)
    """
    first, second = first.to(prior.log_blocks.dtype), second.to(prior.log_blocks.dtype)
    parts = _log_block(first, prior.discount) + _log_block(second, prior.discount)
    blocks = prior.log_blocks[n_blocks + 1] - prior.log_blocks[n_blocks]
    return parts - _log_block(first + second, prior.discount) + blocks


def split_log_prob(log_weights: Tensor, second: Tensor, *, free: Tensor) -> Tensor:
    """Log probability with which :func:`propose_split` makes a given division.

    Parameters
    ----------
    log_weights : Tensor
        (..., unit, 2) unnormalised log weights of the two parts.
    second : Tensor
        (..., unit) bool, True = second part.
    free : Tensor
        (..., unit) bool, units that are divided at random (members of the block, less the two anchors).

    Returns
    -------
    Tensor
        (...).

    Examples
    --------
    >>> free = torch.tensor([False, True, True])
    >>> split_log_prob(torch.zeros(3, 2), torch.tensor([True, True, False]), free=free).exp()
    tensor(0.2500)
    """
    log_p = torch.log_softmax(log_weights, dim=-1)
    chosen = torch.where(second, log_p[..., 1], log_p[..., 0])
    return torch.where(free, chosen, 0.0).sum(dim=-1)


def propose_split(
    log_weights: Tensor, *, free: Tensor, anchor: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Divide a block in two, unit by unit independently, for a launch state whose weights are frozen.

    In the split-merge sampler of Jain and Neal for non-conjugate models the launch state fixes paths, loadings and the
    weights of the two parts; the final division then has a probability in closed form.

    Parameters
    ----------
    log_weights : Tensor
        (..., unit, 2) log weight of a part plus the unit's log-likelihood there.
    free : Tensor
        (..., unit) bool, units to divide.
    anchor : Tensor
        (..., unit) bool, True for the anchor of the second part (and any unit that is to stay there).
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    tuple of Tensor
        (..., unit) bool, True = second part; and (...) log probability of the division.

    References
    ----------
    .. [1] Jain, Neal, "Splitting and merging components of a nonconjugate Dirichlet process mixture model",
       Bayesian Analysis 2007.

    Examples
    --------
    >>> free, anchor = torch.tensor([False, False, True]), torch.tensor([False, True, False])
    >>> sides, log_p = propose_split(torch.zeros(3, 2), free=free, anchor=anchor, generator=torch.Generator())
    >>> sides[:2].tolist(), round(log_p.exp().item(), 3)
    ([False, True], 0.5)
    """
    gap = log_weights[..., 1] - log_weights[..., 0]
    drawn = sample_uniform(gap, generator) < torch.sigmoid(gap)
    second = torch.where(free, drawn, anchor)
    return second, split_log_prob(log_weights, second, free=free)
