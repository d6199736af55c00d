"""Latent paths of the clusters: draws given augmented counts, translation of levels, dynamics, draws from the prior."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...stats.block_tridiagonal import Blocks, solve_blocks
from ...stats.conjugate import (
    MatrixNormalInverseWishart,
    RegressionStatistics,
    regression_statistics,
    sample_regression,
    sample_stable_regression,
    update_regression,
)
from ...stats.distributions import sample_normal
from ...stats.gaussian import Evidence, sample_gaussian, semidefinite_factor
from .model import MAX_RADIUS, Data, Hyper

HUGE = 1e6  # a path drawn from the prior is cut here; no count is compatible with values beyond


class Tables(NamedTuple):
    """What a step under each state contributes; entry L is the step into the first bin of a session."""

    root: Tensor
    """(chain, cluster, state + 1, q, q) R with R R' = Q^-1."""
    root_before: Tensor
    """-A'R."""
    white: Tensor
    """(chain, cluster, state + 1, q) R'b."""
    log_det: Tensor
    """(chain, cluster, state + 1) log |R|."""


class Steps(NamedTuple):
    """The same, one a bin (any number of axes between cluster and q)."""

    root: Tensor
    root_before: Tensor
    white: Tensor
    log_det: Tensor


def make_tables(matrix: Tensor, noise: Tensor) -> Tables:
    """Whiten the dynamics of every cluster and state; append the step into a first bin, N(0, I).

    Parameters
    ----------
    matrix : Tensor
        (chain, cluster, state, q, q + 1) [A b].
    noise : Tensor
        (chain, cluster, state, q, q) Q.

    Returns
    -------
    Tables
    """
    q = noise.shape[-1]
    eye = torch.eye(q, dtype=noise.dtype, device=noise.device)
    factor = torch.linalg.cholesky(noise)
    root = torch.linalg.solve_triangular(factor.mT, eye.expand_as(factor), upper=True)
    before = -matrix[..., :q].mT @ root
    white = (root.mT @ matrix[..., q:]).squeeze(-1)
    log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    first = eye.expand(*root.shape[:2], 1, q, q)
    return Tables(
        torch.cat([root, first], 2), torch.cat([before, torch.zeros_like(first)], 2),
        torch.nn.functional.pad(white, (0, 0, 0, 1)), torch.nn.functional.pad(log_det, (0, 1)),
    )  # fmt: skip


def look_up(tables: Tables, states: Tensor) -> Steps:
    """Give every bin the entry of its state.

    Parameters
    ----------
    tables : Tables
        Entries by chain, cluster and state.
    states : Tensor
        (chain, ...) int64.

    Returns
    -------
    Steps
        (chain, cluster, ..., q, q) and so on.
    """
    q = tables.white.shape[-1]
    n_chains, n_clusters, n_entries = tables.log_det.shape
    packed = torch.cat(
        [tables.root.flatten(-2), tables.root_before.flatten(-2), tables.white, tables.log_det.unsqueeze(-1)], -1
    ).flatten(0, 2)
    first = n_entries * torch.arange(n_chains * n_clusters, device=states.device).unflatten(0, (n_chains, n_clusters))
    index = first.reshape(n_chains, n_clusters, *(1,) * (states.ndim - 1)) + states.unsqueeze(1)
    rows = packed.index_select(0, index.flatten()).reshape(*index.shape, -1)
    root, before, white, log_det = rows.split([q * q, q * q, q, 1], dim=-1)
    return Steps(root.unflatten(-1, (q, q)), before.unflatten(-1, (q, q)), white, log_det.squeeze(-1))


def effective_states(states: Tensor, starts: Tensor, n_states: int) -> Tensor:
    """States with L at first bins: (chain, time)."""
    return torch.where(starts, n_states, states)


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrix times vector for very many small matrices."""
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def apply_transposed(matrix: Tensor, vector: Tensor) -> Tensor:
    """Transposed matrix times vector for very many small matrices."""
    return (matrix.mT @ vector.unsqueeze(-1)).squeeze(-1)


def residuals(path: Tensor, steps: Steps) -> Tensor:
    """Whitened innovations of a path: (chain, cluster, time, q)."""
    previous = torch.nn.functional.pad(path[..., :-1, :], (0, 0, 1, 0))
    return apply_transposed(steps.root, path) + apply_transposed(steps.root_before, previous) - steps.white


def step_log_prob(path: Tensor, tables: Tables, starts: Tensor) -> Tensor:
    """Log density of every step under every state, and (last entry) as a first bin.

    Parameters
    ----------
    path : Tensor
        (chain, cluster, time, q).
    tables : Tables
        Dynamics.
    starts : Tensor
        (time,) bool; not used for the last entry, which is right at first bins only.

    Returns
    -------
    Tensor
        (chain, cluster, time, state + 1).
    """
    q = path.shape[-1]
    previous = torch.nn.functional.pad(path[..., :-1, :], (0, 0, 1, 0))
    joint = torch.cat([path, previous, torch.ones_like(path[..., :1])], dim=-1)  # (chain, cluster, time, 2 q + 1)
    weights = torch.cat([tables.root, tables.root_before, -tables.white.unsqueeze(-2)], dim=-2)
    weights = weights.permute(0, 1, 3, 2, 4).flatten(-2)  # (chain, cluster, 2 q + 1, (state + 1) q)
    white = (joint @ weights).unflatten(-1, (-1, q))
    constant = tables.log_det.unsqueeze(-2) - 0.5 * q * math.log(2 * math.pi)
    found: Tensor = constant - 0.5 * white.square().sum(-1)
    return found


def prior_step_blocks(steps: Steps) -> Blocks:
    """Precision blocks and linear term of the prior of a path."""
    here = steps.root @ steps.root.mT
    before = steps.root_before @ steps.root_before.mT
    across = steps.root_before @ steps.root.mT
    linear = apply(steps.root, steps.white)
    linear_before = apply(steps.root_before, steps.white)
    here[..., :-1, :, :] += before[..., 1:, :, :]
    linear[..., :-1, :] += linear_before[..., 1:, :]
    return Blocks(here, across[..., 1:, :, :], linear)


def sample_path(steps: Steps, evidence: Evidence, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the paths of all clusters given augmented counts.

    Parameters
    ----------
    steps : Steps
        Prior, one entry a bin.
    evidence : Evidence
        Log-likelihood of every bin.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    tuple of Tensor
        (chain, cluster, time, q) paths and (chain, cluster) levels of jitter.
    """
    prior = prior_step_blocks(steps)
    linear = prior.linear + evidence.information
    first, second = sample_normal(torch.stack([linear, linear]), generator)
    shift = apply(steps.root, first) + apply(semidefinite_factor(evidence.precision), second)
    shift[..., :-1, :] += apply(steps.root_before[..., 1:, :, :], first[..., 1:, :])
    found = solve_blocks(Blocks(prior.diagonal + evidence.precision, prior.upper, linear), shift=shift)
    return found.shifted, found.retries


def level_evidence(loadings: Tensor, level: Tensor, member: Tensor) -> Evidence:
    """What the prior of the units' levels says of a shift of the paths that these levels take back.

    Parameters
    ----------
    loadings : Tensor
        (chain, unit, q) C = (1, c).
    level : Tensor
        (chain, unit) d.
    member : Tensor
        (chain, cluster, unit) indicator.

    Returns
    -------
    Evidence
        (chain, cluster, 1, q, q) and (chain, cluster, 1, q).
    """
    outer = (loadings.unsqueeze(-1) * loadings.unsqueeze(-2)).flatten(-2)
    precision = (member @ outer).unflatten(-1, (loadings.shape[-1],) * 2)
    return Evidence(precision.unsqueeze(2), (member @ (loadings * level.unsqueeze(-1))).unsqueeze(2))


def sample_translation(path: Tensor, steps: Steps, levels: Evidence, generator: torch.Generator) -> Tensor:
    """Draw a shift of every path, which the units' levels take back so that the predictor does not change.

    Parameters
    ----------
    path : Tensor
        (chain, cluster, time, q).
    steps : Steps
        Prior, one entry a bin.
    levels : Evidence
        Of :func:`level_evidence`.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        (chain, cluster, q).
    """
    both = steps.root + steps.root_before
    precision = (both @ both.mT).sum(-3) + levels.precision.squeeze(2)
    linear = levels.information.squeeze(2) - apply(both, residuals(path, steps)).sum(-2)
    return sample_gaussian(precision, linear, generator)


def dynamics_statistics(path: Tensor, states: Tensor, data: Data, n_states: int) -> RegressionStatistics:
    """Sums of the regression of every step on the bin before, by state: leading axes (chain, cluster, state)."""
    previous = torch.nn.functional.pad(path[..., :-1, :], (0, 0, 1, 0))
    inputs = torch.cat([previous, torch.ones_like(path[..., :1])], dim=-1)
    names = torch.arange(n_states, device=states.device).unsqueeze(-1)
    weights = ((states.unsqueeze(-2) == names) & ~data.starts).to(path.dtype)  # (chain, state, time)
    return regression_statistics(inputs, path, weights=weights.unsqueeze(1))


def sample_dynamics(
    path: Tensor, states: Tensor, data: Data, hyper: Hyper, generator: torch.Generator, *,
    current: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Draw [A b] and Q of every cluster and state given paths and states; those of single clusters have a stable A.

    Parameters
    ----------
    path : Tensor
        (chain, cluster, time, q).
    states : Tensor
        (chain, time).
    data, hyper
        Where paths start, and the prior.
    generator : torch.Generator
        Source of random numbers.
    current : tuple of Tensor
        Values kept where all tries are unstable.

    Returns
    -------
    tuple of Tensor
        (chain, cluster, state, q, q + 1) and (chain, cluster, state, q, q).
    """
    law = update_regression(hyper.regression, dynamics_statistics(path, states, data, hyper.n_states))
    if hyper.coupled:  # the published full form has no bound
        return sample_regression(law, generator)
    return sample_stable_regression(law, generator, current=current, max_radius=MAX_RADIUS, tries=16)


def sample_prior_dynamics(
    n_chains: int, n_clusters: int, hyper: Hyper, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw dynamics from their prior: (chain, cluster, state, q, q + 1) and (chain, cluster, state, q, q)."""
    law = hyper.regression
    q = law.scale.shape[-1]
    batch = (n_chains, n_clusters, hyper.n_states)
    wide = MatrixNormalInverseWishart(
        law.mean.expand(*batch, q, q + 1), law.precision, law.dof.expand(batch), law.scale.expand(*batch, q, q)
    )
    if hyper.coupled:
        return sample_regression(wide, generator)
    return sample_stable_regression(wide, generator, max_radius=MAX_RADIUS, tries=200)


def sample_prior_path(
    matrix: Tensor, noise: Tensor, states: Tensor, starts: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw paths from their dynamics, all bins at once by doubling; cut where they explode.

    Parameters
    ----------
    matrix, noise : Tensor
        (chain, cluster, state, q, q + 1) and (chain, cluster, state, q, q).
    states : Tensor
        (chain, time).
    starts : Tensor
        (time,) bool.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        (chain, cluster, time, q).
    """
    q, n_time = noise.shape[-1], states.shape[-1]
    chains = torch.arange(states.shape[0], device=states.device).unsqueeze(-1)
    table = torch.cat([matrix, torch.linalg.cholesky(noise)], dim=-1)
    rows = table.movedim(2, 1)[chains, states].movedim(1, 2)  # (chain, cluster, time, q, 2 q + 1)
    first = starts[:, None, None]
    gain = torch.where(first, 0.0, rows[..., :q])
    eye = torch.eye(q, dtype=noise.dtype, device=noise.device)
    root = torch.where(first, eye, rows[..., q + 1 :])
    drift = torch.where(starts[:, None], 0.0, rows[..., q])
    path = drift + apply(root, sample_normal(drift, generator))
    span = 1
    while span < n_time:
        ahead = path[..., span:, :] + apply(gain[..., span:, :, :], path[..., :-span, :])
        path = torch.cat([path[..., :span, :], ahead], dim=-2)
        gain = torch.cat([gain[..., :span, :, :], gain[..., span:, :, :] @ gain[..., :-span, :, :]], dim=-3)
        span *= 2
    return path.nan_to_num(nan=HUGE, posinf=HUGE, neginf=-HUGE).clamp(-HUGE, HUGE)
