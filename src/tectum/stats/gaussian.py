r"""Linear Gaussian state-space paths: smoothing, sampling and evidence, sequential or parallel in time.

Model, batched over any leading axes (chain, cluster, ...):

.. math:: h_t = A_t h_{t-1} + b_t + \varepsilon_t, \quad \varepsilon_t \sim N(0, Q_t), \quad
          p(y_t \mid h_t) \propto \exp(v_t' h_t - \tfrac12 h_t' J_t h_t).

The first bin, and every bin at which the path restarts, has :math:`A_t = 0`, so that :math:`b_t, Q_t` are the initial
mean and covariance. A missing bin has :math:`J_t = 0, v_t = 0`. Pólya-Gamma augmented counts have exactly this form.

The posterior precision is block tridiagonal and is solved by :mod:`tectum.stats.block_tridiagonal`, one bin after the
other or all at once. Draws add noise to the linear term before one solve, so that both ways give the same draw from the
same generator. Use float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .block_tridiagonal import Blocks, Method, Smoothed, smooth_blocks, solve_blocks
from .distributions import sample_normal

__all__ = [
    "Dynamics",
    "Evidence",
    "Prior",
    "Sample",
    "add_evidence",
    "append_initial",
    "augmented_evidence",
    "dynamics_path",
    "path_log_prob",
    "prior_blocks",
    "sample_gaussian",
    "sample_paths",
    "semidefinite_factor",
    "smooth",
]


class Dynamics(NamedTuple):
    """Transitions, one a bin, or one a state to be looked up by a state sequence."""

    transition: Tensor
    """(..., step, q, q) A."""
    offset: Tensor
    """(..., step, q) b."""
    covariance: Tensor
    """(..., step, q, q) Q, positive definite."""


class Evidence(NamedTuple):
    """Log-likelihood v'h - h'Jh/2 of every bin."""

    precision: Tensor
    """(..., time, q, q) J, positive semi-definite."""
    information: Tensor
    """(..., time, q) v."""


class Prior(NamedTuple):
    """Prior of a path: its blocks and the constant of its log density."""

    blocks: Blocks
    constant: Tensor
    """(...), so that log p(h) = u'h - h'Ph/2 + constant - (time * q / 2) log 2 pi."""


class Sample(NamedTuple):
    """One draw of every path and the evidence of its model."""

    path: Tensor
    """(..., time, q)."""
    log_evidence: Tensor
    """(...) log of the integral of prior density times exp(v'h - h'Jh/2)."""
    retries: Tensor
    """(...) int64, levels of jitter that the factorisation needed."""


def append_initial(dynamics: Dynamics, mean: Tensor, covariance: Tensor) -> Dynamics:
    """Append to a table of states the pseudo-state of a path's first bin: A = 0, b = mean, Q = covariance.

    Parameters
    ----------
    dynamics : Dynamics
        Tables with L entries.
    mean, covariance : Tensor
        (..., q) and (..., q, q), broadcast over the tables' leading axes.

    Returns
    -------
    Dynamics
        Tables with L + 1 entries. Give the first bin, and every bin that restarts the path, the state L.

    Examples
    --------
    >>> eye = torch.eye(2).expand(3, 2, 2)
    >>> append_initial(Dynamics(eye, torch.zeros(3, 2), eye), torch.zeros(2), torch.eye(2)).offset.shape
    torch.Size([4, 2])
    """
    mean = mean.expand_as(dynamics.offset[..., 0, :]).unsqueeze(-2)
    covariance = covariance.expand_as(dynamics.covariance[..., 0, :, :]).unsqueeze(-3)
    return Dynamics(
        torch.cat([dynamics.transition, torch.zeros_like(covariance)], dim=-3),
        torch.cat([dynamics.offset, mean], dim=-2),
        torch.cat([dynamics.covariance, covariance], dim=-3),
    )


def dynamics_path(dynamics: Dynamics, states: Tensor) -> Dynamics:
    """Look up the transition of every bin.

    Parameters
    ----------
    dynamics : Dynamics
        Tables (..., state, q, q) and (..., state, q).
    states : Tensor
        (..., time) int64, broadcast over the tables' leading axes.

    Returns
    -------
    Dynamics
        The same with a time axis in place of the state axis.

    Examples
    --------
    >>> eye = torch.eye(2).expand(3, 2, 2)
    >>> dynamics_path(Dynamics(eye, torch.zeros(3, 2), eye), torch.tensor([2, 0, 0, 1])).offset.shape
    torch.Size([4, 2])
    """
    return Dynamics(
        _look_up(dynamics.transition, states, 2),
        _look_up(dynamics.offset, states, 1),
        _look_up(dynamics.covariance, states, 2),
    )


def _look_up(table: Tensor, states: Tensor, trailing: int) -> Tensor:
    """Index the state axis of a table, which is followed by ``trailing`` axes, with a batched sequence."""
    axis = table.ndim - trailing - 1
    batch = torch.broadcast_shapes(table.shape[:axis], states.shape[:-1])
    n_batch, n_states, tail = math.prod(batch), table.shape[axis], table.shape[axis + 1 :]
    rows = table.expand(*batch, n_states, *tail).reshape(n_batch * n_states, *tail)
    first = n_states * torch.arange(n_batch, device=states.device)
    index = states.expand(*batch, states.shape[-1]).reshape(n_batch, states.shape[-1]) + first.unsqueeze(-1)
    return rows.index_select(0, index.flatten()).reshape(*batch, states.shape[-1], *tail)


def prior_blocks(dynamics: Dynamics, *, states: Tensor | None = None) -> Prior:
    """Precision blocks and linear term of the prior of a path.

    Parameters
    ----------
    dynamics : Dynamics
        One transition a bin; with ``states``, one a state. The transition matrix of the first bin is not used.
    states : Tensor or None
        (..., time) int64 entries of ``dynamics``; products of matrices are then formed once a state.

    Returns
    -------
    Prior
        Blocks and constant.

    Examples
    --------
    >>> eye = torch.eye(1).expand(3, 1, 1)
    >>> prior = prior_blocks(Dynamics(eye, torch.zeros(3, 1), eye))
    >>> prior.blocks.diagonal.flatten()
    tensor([2., 2., 1.])
    """
    return _prior(_steps(dynamics, states))


class _Steps(NamedTuple):
    """What the step into bin t adds to the precision and the linear term, from whitened transitions."""

    root: Tensor  # (..., time, q, q) R with R R' = Q^-1
    root_before: Tensor  # (..., time, q, q) -A'R
    here: Tensor  # Q^-1, block (t, t)
    before: Tensor  # A'Q^-1 A, block (t - 1, t - 1)
    across: Tensor  # -A'Q^-1, block (t - 1, t)
    linear: Tensor  # (..., time, q) Q^-1 b
    linear_before: Tensor  # -A'Q^-1 b
    constant: Tensor  # (..., time) -(b'Q^-1 b + log |Q|) / 2


def _steps(dynamics: Dynamics, states: Tensor | None) -> _Steps:
    """Form the products of matrices once an entry of the tables, then look them up."""
    factor = torch.linalg.cholesky(dynamics.covariance)
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand_as(factor)
    root = torch.linalg.solve_triangular(factor.mT, eye, upper=True)
    root_before = -dynamics.transition.mT @ root
    white = root.mT @ dynamics.offset.unsqueeze(-1)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    matrices = [root, root_before, root @ root.mT, root_before @ root_before.mT, root_before @ root.mT]
    vectors = [(root @ white).squeeze(-1), (root_before @ white).squeeze(-1)]
    constant = -0.5 * (white.square().sum(dim=(-2, -1)) + log_det)
    if states is not None:
        matrices = [_look_up(table, states, 2) for table in matrices]
        vectors = [_look_up(table, states, 1) for table in vectors]
        constant = _look_up(constant, states, 0)
    root, root_before, here, before, across = matrices
    return _Steps(root, root_before, here, before, across, vectors[0], vectors[1], constant)


def _prior(steps: _Steps) -> Prior:
    """Add up what the steps contribute; the first bin has no bin before it."""
    diagonal, linear = steps.here.clone(), steps.linear.clone()
    diagonal[..., :-1, :, :] += steps.before[..., 1:, :, :]
    linear[..., :-1, :] += steps.linear_before[..., 1:, :]
    return Prior(Blocks(diagonal, steps.across[..., 1:, :, :], linear), steps.constant.sum(dim=-1))


def add_evidence(blocks: Blocks, evidence: Evidence) -> Blocks:
    """Multiply a path's density by the likelihood of its bins.

    Examples
    --------
    >>> blocks = Blocks(torch.ones(2, 1, 1), torch.zeros(1, 1, 1), torch.zeros(2, 1))
    >>> add_evidence(blocks, Evidence(torch.ones(2, 1, 1), torch.ones(2, 1))).diagonal.flatten()
    tensor([2., 2.])
    """
    return Blocks(blocks.diagonal + evidence.precision, blocks.upper, blocks.linear + evidence.information)


def augmented_evidence(
    loadings: Tensor, omega: Tensor, *, kappa: Tensor, offset: Tensor, membership: Tensor
) -> Evidence:
    r"""Evidence of Pólya-Gamma augmented counts about the path of each cluster.

    Entry (i, t) contributes :math:`\exp(\kappa\psi - \omega\psi^2/2)` with :math:`\psi = o_{it} + C_i'h_t`.

    Parameters
    ----------
    loadings : Tensor
        (..., unit, q) C.
    omega, kappa : Tensor
        (..., unit, time); both 0 where an entry is missing.
    offset : Tensor
        (..., unit, time) or (..., unit, 1) o, what enters psi beside the path.
    membership : Tensor
        (..., cluster, unit) 1 where the unit belongs to the cluster, else 0, in the dtype of ``omega``.

    Returns
    -------
    Evidence
        (..., cluster, time, q, q) and (..., cluster, time, q).

    Examples
    --------
    >>> ones = torch.ones(4, 10)
    >>> found = augmented_evidence(torch.ones(4, 1), ones, kappa=ones, offset=ones, membership=torch.ones(1, 4))
    >>> found.precision.shape, float(found.information.abs().max())
    (torch.Size([1, 10, 1, 1]), 0.0)
    """
    q = loadings.shape[-1]
    outer = (loadings.unsqueeze(-1) * loadings.unsqueeze(-2)).flatten(-2)  # (..., unit, q * q)
    residual = kappa - omega * offset
    precision = _pool(outer, omega, membership).unflatten(-1, (q, q))
    return Evidence(precision, _pool(loadings, residual, membership))


def _pool(weights: Tensor, values: Tensor, membership: Tensor) -> Tensor:
    """Sum weights (..., unit, f) times values (..., unit, time) over each cluster's units: (..., cluster, time, f)."""
    chosen = membership.unsqueeze(-2) * weights.mT.unsqueeze(-3)  # (..., cluster, f, unit)
    result: Tensor = (chosen.flatten(-3, -2) @ values).unflatten(-2, (membership.shape[-2], weights.shape[-1])).mT
    return result


def path_log_prob(path: Tensor, prior: Prior) -> Tensor:
    """Log prior density of a path.

    Parameters
    ----------
    path : Tensor
        (..., time, q).
    prior : Prior
        From :func:`prior_blocks`.

    Returns
    -------
    Tensor
        (...).

    Examples
    --------
    >>> one = torch.ones(1, 1, 1)
    >>> path_log_prob(torch.zeros(1, 1), prior_blocks(Dynamics(one, torch.zeros(1, 1), one)))
    tensor(-0.9189)
    """
    blocks = prior.blocks
    quadratic = (path * (blocks.diagonal @ path.unsqueeze(-1)).squeeze(-1)).sum(dim=(-2, -1))
    crossed = (blocks.upper @ path[..., 1:, :].unsqueeze(-1)).squeeze(-1)
    cross = (path[..., :-1, :] * crossed).sum(dim=(-2, -1))
    scale = 0.5 * path.shape[-1] * path.shape[-2] * math.log(2 * math.pi)
    return (path * blocks.linear).sum(dim=(-2, -1)) - 0.5 * quadratic - cross + prior.constant - scale


def smooth(
    dynamics: Dynamics, evidence: Evidence, *, states: Tensor | None = None, method: Method = "auto"
) -> tuple[Smoothed, Tensor]:
    """Posterior moments of a path, and the log evidence.

    Parameters
    ----------
    dynamics, states
        As for :func:`prior_blocks`.
    evidence : Evidence
        Log-likelihood of every bin.
    method : {"auto", "sequential", "parallel"}
        How time is traversed.

    Returns
    -------
    tuple of Smoothed and Tensor
        Moments, and (...) log of the integral of prior density times exp(v'h - h'Jh/2).

    Examples
    --------
    >>> eye = torch.eye(1).expand(3, 1, 1)
    >>> found, _ = smooth(Dynamics(eye, torch.zeros(3, 1), eye), Evidence(0 * eye, torch.zeros(3, 1)))
    >>> found.covariance.flatten().round(decimals=4)
    tensor([1., 2., 3.])
    """
    prior = prior_blocks(dynamics, states=states)
    posterior = add_evidence(prior.blocks, evidence)
    found = smooth_blocks(posterior, method=method)
    return found, _log_evidence(prior, posterior.linear, found.mean, found.log_determinant)


def _log_evidence(prior: Prior, linear: Tensor, mean: Tensor, log_determinant: Tensor) -> Tensor:
    """Log of the Gaussian integral over paths."""
    return prior.constant + 0.5 * ((linear * mean).sum(dim=(-2, -1)) - log_determinant)


def sample_paths(
    dynamics: Dynamics,
    evidence: Evidence,
    *,
    generator: torch.Generator,
    states: Tensor | None = None,
    method: Method = "auto",
) -> Sample:
    """Draw paths from their posterior, and the log evidence on the way.

    The noise of a draw is N(0, P) added to the linear term u before solving P h = u; it is built from local factors of
    P, so that the draw does not depend on ``method``.

    Parameters
    ----------
    dynamics, states
        As for :func:`prior_blocks`.
    evidence : Evidence
        Log-likelihood of every bin.
    generator : torch.Generator
        Source of random numbers.
    method : {"auto", "sequential", "parallel"}
        How time is traversed.

    Returns
    -------
    Sample
        Paths, log evidence, retries.

    References
    ----------
    .. [1] Papandreou, Yuille, "Gaussian sampling by local perturbations", NIPS 2010.

    Examples
    --------
    >>> eye = torch.eye(1).expand(3, 1, 1)
    >>> rng = torch.Generator().manual_seed(0)
    >>> sample_paths(Dynamics(eye, torch.zeros(3, 1), eye), Evidence(eye, torch.ones(3, 1)), generator=rng).path.shape
    torch.Size([3, 1])
    """
    steps = _steps(dynamics, states)
    prior = _prior(steps)
    posterior = add_evidence(prior.blocks, evidence)
    noise = _perturbation(steps, evidence.precision, posterior.linear, generator)
    found = solve_blocks(posterior, shift=noise, method=method)
    log_evidence = _log_evidence(prior, posterior.linear, found.mean, found.log_determinant)
    return Sample(found.shifted, log_evidence, found.retries)


def _perturbation(steps: _Steps, precision: Tensor, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw N(0, P) from a factor of the prior's steps and one of every bin's evidence."""
    first, second = sample_normal(torch.stack([like, like]), generator).unsqueeze(-1)
    noise: Tensor = (steps.root @ first + semidefinite_factor(precision) @ second).squeeze(-1)
    noise[..., :-1, :] += (steps.root_before[..., 1:, :, :] @ first[..., 1:, :, :]).squeeze(-1)
    return noise


def semidefinite_factor(matrix: Tensor) -> Tensor:
    """Factor positive semi-definite matrices, singular or zero, as L L' with L lower triangular.

    Parameters
    ----------
    matrix : Tensor
        (..., q, q); the work is vectorised over the leading axes, and loops over the q columns.

    Returns
    -------
    Tensor
        (..., q, q); a column whose pivot is not positive is zero.

    Examples
    --------
    >>> semidefinite_factor(torch.tensor([[4.0, 0.0], [0.0, 0.0]]))
    tensor([[2., 0.],
            [0., 0.]])
    """
    q = matrix.shape[-1]
    tiny = torch.finfo(matrix.dtype).eps * q * matrix.diagonal(dim1=-2, dim2=-1).amax(dim=-1)
    rest = matrix
    columns = []
    for j in range(q):
        pivot = rest[..., j, j]
        scale = torch.where(pivot > tiny, pivot, torch.inf).rsqrt().unsqueeze(-1)
        column = torch.nn.functional.pad(rest[..., j:, j] * scale, (j, 0))
        columns.append(column)
        if j + 1 < q:
            rest = rest - column.unsqueeze(-1) * column.unsqueeze(-2)
    return torch.stack(columns, dim=-1)


def sample_gaussian(precision: Tensor, linear: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from Gaussians of log density u'x - x'Px/2.

    Parameters
    ----------
    precision : Tensor
        (..., q, q) P, positive definite.
    linear : Tensor
        (..., q) u.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        (..., q) draws of mean P^-1 u and covariance P^-1.

    Examples
    --------
    >>> sample_gaussian(torch.eye(2).expand(4, 2, 2), torch.zeros(4, 2), torch.Generator().manual_seed(0)).shape
    torch.Size([4, 2])
    """
    lower = torch.linalg.cholesky(precision)
    white = torch.linalg.solve_triangular(lower, linear.unsqueeze(-1), upper=False)
    white = white + sample_normal(linear, generator).unsqueeze(-1)
    result: Tensor = torch.linalg.solve_triangular(lower.mT, white, upper=True).squeeze(-1)
    return result
