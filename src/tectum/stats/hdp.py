"""Dirichlet processes: sticky HDP prior of Markov state sequences, table counts, stick breaking, concentrations.

Weak limit of the sticky HDP over L states: beta ~ Dir(gamma / L, ...), row l of Pi ~ Dir(alpha beta + kappa e_l).
All updates are batched over chains.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tectum.core.errors import InputError, explain

from .distributions import (
    sample_beta,
    sample_binomial,
    sample_gamma,
    sample_log_dirichlet,
    sample_log_gamma,
    sample_uniform,
)

__all__ = [
    "StickyTransitions",
    "sample_base_weights",
    "sample_concentration",
    "sample_overrides",
    "sample_stick_breaking",
    "sample_sticky_transitions",
    "sample_table_counts",
    "sample_transition_matrix",
    "stick_breaking",
    "sticky_log_prob",
    "transition_counts",
]

_FLOOR = 1e-10  # smallest Dirichlet parameter


class StickyTransitions(NamedTuple):
    """Transition law of a weak-limit sticky HDP-HMM."""

    log_matrix: Tensor
    """(..., from, to) log Pi."""
    log_base: Tensor
    """(..., state) log beta."""


def transition_counts(states: Tensor, *, n_states: int, valid: Tensor | None = None) -> Tensor:
    """Count transitions between consecutive bins.

    Parameters
    ----------
    states : Tensor
        (..., time) int64.
    n_states : int
        L.
    valid : Tensor or None
        (..., time) bool, False where a bin starts anew (the step into it does not count).

    Returns
    -------
    Tensor
        (..., from, to) int64.

    Examples
    --------
    >>> transition_counts(torch.tensor([0, 0, 1, 0]), n_states=2)
    tensor([[1, 1],
            [1, 0]])
    """
    pair = states[..., :-1] * n_states + states[..., 1:]
    ones = torch.ones_like(pair) if valid is None else valid[..., 1:].to(pair.dtype).expand_as(pair)
    counts = torch.zeros((*states.shape[:-1], n_states * n_states), dtype=pair.dtype, device=states.device)
    result: Tensor = counts.scatter_add(-1, pair, ones).unflatten(-1, (n_states, n_states))
    return result


def sample_table_counts(
    customers: Tensor, concentration: Tensor, *, generator: torch.Generator, total: int | None = None
) -> Tensor:
    """Draw numbers of tables of Chinese restaurants: sums of Bernoulli(c / (c + s)) over s = 0..n - 1.

    Parameters
    ----------
    customers : Tensor
        (...) int64 numbers n.
    concentration : Tensor
        c > 0, broadcast against ``customers``.
    generator : torch.Generator
        Source of random numbers.
    total : int or None
        Sum of all customers, if known: saves a synchronisation with the device.

    Returns
    -------
    Tensor
        (...) int64 tables, 0 where there are no customers.

    References
    ----------
    .. [1] Antoniak, Annals of Statistics 1974; Fox et al., Annals of Applied Statistics 2011.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> sample_table_counts(torch.tensor([0, 1, 5]), torch.tensor(1e9), generator=rng)
    tensor([0, 1, 5])
    """
    customers, concentration = torch.broadcast_tensors(customers, concentration)
    n, c = customers.reshape(-1), concentration.reshape(-1)
    cell = torch.repeat_interleave(n, output_size=total)  # the restaurant of every customer
    seat = torch.arange(cell.shape[0], device=n.device) - (n.cumsum(0) - n)[cell]  # customers before this one
    rate = c[cell]
    opened = sample_uniform(rate, generator) * (rate + seat) < rate
    return torch.zeros_like(n).scatter_add(0, cell, opened.to(n.dtype)).reshape(customers.shape)


def sample_overrides(tables: Tensor, base: Tensor, *, sticky_share: float, generator: torch.Generator) -> Tensor:
    """Draw how many tables of every state's own dish were set by the sticky weight and not by the base weights.

    Parameters
    ----------
    tables : Tensor
        (..., from, to) int64.
    base : Tensor
        (..., to) base weights beta.
    sticky_share : float
        rho = kappa / (alpha + kappa).
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        (..., state) int64, between 0 and the diagonal of ``tables``.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> sample_overrides(torch.tensor([[4, 1], [0, 2]]), torch.tensor([0.5, 0.5]), sticky_share=0.0, generator=rng)
    tensor([0, 0])
    """
    probability = sticky_share / (sticky_share + base * (1 - sticky_share)).clamp(min=torch.finfo(base.dtype).tiny)
    drawn = sample_binomial(tables.diagonal(dim1=-2, dim2=-1), probability, generator)
    return drawn.to(tables.dtype)


def sample_base_weights(
    tables: Tensor, overrides: Tensor, *, concentration: float, generator: torch.Generator, like: Tensor
) -> Tensor:
    """Draw base weights beta given the tables that were not overridden: Dir(gamma / L + column sums).

    Parameters
    ----------
    tables : Tensor
        (..., from, to) int64.
    overrides : Tensor
        (..., state) int64.
    concentration : float
        gamma.
    generator : torch.Generator
        Source of random numbers.
    like : Tensor
        Gives the dtype.

    Returns
    -------
    Tensor
        (..., state) log beta.

    Examples
    --------
    >>> tables, zero = torch.eye(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    >>> rng = torch.Generator().manual_seed(0)
    >>> sample_base_weights(tables, zero, concentration=1.0, generator=rng, like=torch.zeros(1)).shape
    torch.Size([2])
    """
    served = (tables.sum(dim=-2) - overrides).to(like.dtype)
    return sample_log_dirichlet(served + concentration / tables.shape[-1], generator, floor=_FLOOR)


def _parameters(log_base: Tensor, alpha: float, kappa: float) -> Tensor:
    """Dirichlet parameters alpha beta + kappa e_l of every row: (..., from, to)."""
    n_states = log_base.shape[-1]
    eye = torch.eye(n_states, dtype=log_base.dtype, device=log_base.device)
    return (alpha * log_base.exp().unsqueeze(-2) + kappa * eye).clamp(min=_FLOOR)


def sample_transition_matrix(
    counts: Tensor, log_base: Tensor, *, alpha: float, kappa: float, generator: torch.Generator
) -> Tensor:
    """Draw the rows of Pi from Dir(alpha beta + kappa e_l + counts).

    Parameters
    ----------
    counts : Tensor
        (..., from, to) transitions; zeros draw from the prior.
    log_base : Tensor
        (..., state) log beta.
    alpha, kappa : float
        Concentration and stickiness.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        (..., from, to) log Pi.

    Examples
    --------
    >>> base = torch.full((3,), 1 / 3).log()
    >>> rng = torch.Generator().manual_seed(0)
    >>> pi = sample_transition_matrix(torch.zeros(3, 3), base, alpha=5.0, kappa=10.0, generator=rng).exp()
    >>> torch.allclose(pi.sum(-1), torch.ones(3))
    True
    """
    parameters = _parameters(log_base, alpha, kappa) + counts.to(log_base.dtype)
    return sample_log_dirichlet(parameters, generator, floor=_FLOOR)


def sticky_log_prob(law: StickyTransitions, *, alpha: float, gamma: float, kappa: float) -> Tensor:
    """Log prior density of beta and Pi, with respect to their first L - 1 coordinates.

    Parameters
    ----------
    law : StickyTransitions
        log Pi and log beta.
    alpha, gamma, kappa : float
        Concentrations and stickiness.

    Returns
    -------
    Tensor
        (...).

    Examples
    --------
    >>> half = torch.full((2,), 0.5).log()
    >>> sticky_log_prob(StickyTransitions(half.expand(2, 2), half), alpha=2.0, gamma=2.0, kappa=0.0)
    tensor(0.)
    """
    base = torch.full_like(law.log_base, gamma / law.log_base.shape[-1])
    rows = _parameters(law.log_base, alpha, kappa)
    return _dirichlet_log_prob(law.log_base, base) + _dirichlet_log_prob(law.log_matrix, rows).sum(dim=-1)


def _dirichlet_log_prob(log_weights: Tensor, parameters: Tensor) -> Tensor:
    """Log Dirichlet density over the last axis."""
    normaliser = torch.lgamma(parameters.sum(dim=-1)) - torch.lgamma(parameters).sum(dim=-1)
    return normaliser + ((parameters - 1) * log_weights).sum(dim=-1)


def sample_sticky_transitions(
    counts: Tensor,
    log_base: Tensor,
    *,
    alpha: float,
    gamma: float,
    kappa: float,
    generator: torch.Generator,
    total: int | None = None,
) -> StickyTransitions:
    """Update beta and Pi of a weak-limit sticky HDP-HMM given the transitions of its states.

    Parameters
    ----------
    counts : Tensor
        (..., from, to) int64, from :func:`transition_counts`.
    log_base : Tensor
        (..., state) current log beta.
    alpha, gamma, kappa : float
        Concentration of the rows, of the base weights, and stickiness. The prior mean of a self-transition is
        (alpha / L + kappa) / (alpha + kappa); take kappa near 100 where dwell times are tens of bins.
    generator : torch.Generator
        Source of random numbers.
    total : int or None
        Sum of all counts, if known: saves a synchronisation with the device.

    Returns
    -------
    StickyTransitions
        New log Pi and log beta.

    Raises
    ------
    InputError
        ``alpha`` or ``gamma`` not positive, ``kappa`` negative.

    References
    ----------
    .. [1] Fox, Sudderth, Jordan, Willsky, "A sticky HDP-HMM", Annals of Applied Statistics 2011, algorithm 3.

    Examples
    --------
    >>> counts = torch.tensor([[50, 1], [2, 40]])
    >>> base = torch.full((2,), 0.5, dtype=torch.float64).log()
    >>> rng = torch.Generator().manual_seed(0)
    >>> law = sample_sticky_transitions(counts, base, alpha=5.0, gamma=5.0, kappa=10.0, generator=rng)
    >>> bool((law.log_matrix.exp().diagonal() > 0.8).all())
    True
    """
    if alpha <= 0 or gamma <= 0 or kappa < 0:
        got = f"{alpha=}, {gamma=}, {kappa=}"
        raise InputError(explain("sample_sticky_transitions", expected="alpha, gamma > 0 and kappa >= 0", got=got))
    tables = sample_table_counts(counts, _parameters(log_base, alpha, kappa), generator=generator, total=total)
    overrides = sample_overrides(tables, log_base.exp(), sticky_share=kappa / (alpha + kappa), generator=generator)
    new_base = sample_base_weights(tables, overrides, concentration=gamma, generator=generator, like=log_base)
    log_matrix = sample_transition_matrix(counts, new_base, alpha=alpha, kappa=kappa, generator=generator)
    return StickyTransitions(log_matrix, new_base)


def stick_breaking(log_fractions: Tensor, log_rest: Tensor) -> Tensor:
    """Log weights from stick fractions: w_k = v_k prod_{j<k} (1 - v_j).

    Parameters
    ----------
    log_fractions, log_rest : Tensor
        (..., stick) log v and log(1 - v); a last fraction of 1 makes the weights sum to one.

    Returns
    -------
    Tensor
        (..., stick).

    Examples
    --------
    >>> v = torch.tensor([0.5, 0.5, 1.0])
    >>> stick_breaking(v.log(), (1 - v).log()).exp()
    tensor([0.5000, 0.2500, 0.2500])
    """
    return log_fractions + torch.nn.functional.pad(log_rest[..., :-1].cumsum(dim=-1), (1, 0))


def sample_stick_breaking(concentration: Tensor, *, n_sticks: int, generator: torch.Generator) -> Tensor:
    """Draw log weights of a Dirichlet process truncated at ``n_sticks`` (the last takes the rest).

    Parameters
    ----------
    concentration : Tensor
        (...) alpha.
    n_sticks : int
        Truncation.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        (..., n_sticks) log weights.

    Examples
    --------
    >>> w = sample_stick_breaking(torch.ones(2), n_sticks=5, generator=torch.Generator().manual_seed(0))
    >>> torch.allclose(w.exp().sum(-1), torch.ones(2))
    True
    """
    alpha = concentration.unsqueeze(-1).expand(*concentration.shape, n_sticks)
    gap = sample_log_gamma(torch.ones_like(alpha), generator) - sample_log_gamma(alpha, generator)
    log_fractions, log_rest = -torch.nn.functional.softplus(-gap), -torch.nn.functional.softplus(gap)
    last = torch.zeros_like(log_fractions[..., :1])
    return stick_breaking(torch.cat([log_fractions[..., :-1], last], dim=-1), log_rest)


def sample_concentration(
    current: Tensor,
    blocks: Tensor,
    *,
    sizes: Tensor,
    generator: torch.Generator,
    shape: float = 1.0,
    rate: float = 1.0,
) -> Tensor:
    r"""Update the concentration of Dirichlet processes by auxiliary variables.

    The likelihood is :math:`\alpha^t \prod_l \Gamma(\alpha) / \Gamma(\alpha + n_l)`: one restaurant of n units with t
    blocks, or several restaurants (rows of an HDP) with t tables in all.

    Parameters
    ----------
    current : Tensor
        (...) alpha > 0.
    blocks : Tensor
        (...) t, all tables together.
    sizes : Tensor
        (..., restaurant) n; empty restaurants do not count.
    generator : torch.Generator
        Source of random numbers.
    shape, rate : float
        Gamma prior of alpha.

    Returns
    -------
    Tensor
        (...) new alpha.

    Raises
    ------
    InputError
        ``shape`` or ``rate`` not positive.

    References
    ----------
    .. [1] Escobar, West, JASA 1995, section 6; Teh, Jordan, Beal, Blei, JASA 2006, appendix A.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> sample_concentration(torch.ones(3), torch.tensor([1, 2, 3]), sizes=torch.full((3, 1), 9), generator=rng).shape
    torch.Size([3])
    """
    if shape <= 0 or rate <= 0:
        raise InputError(explain("sample_concentration", expected="shape > 0 and rate > 0", got=f"{shape=}, {rate=}"))
    alpha, n = torch.broadcast_tensors(current.unsqueeze(-1), sizes.to(current.dtype))
    present = n > 0
    fraction = sample_beta(alpha + 1, n.clamp(min=1), generator)
    log_fraction = torch.where(present, fraction.log(), 0.0).sum(dim=-1)
    older = (present & (sample_uniform(n, generator) * (n + alpha) < n)).sum(dim=-1)
    return sample_gamma(shape + blocks - older.to(current.dtype), generator) / (rate - log_fraction)
