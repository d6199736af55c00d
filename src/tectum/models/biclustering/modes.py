"""Posterior modes of a group's path and coefficients, and the Laplace evidence of the group.

Used to start the chains and, during burn-in, to propose merges and splits of clusters. Nothing here touches a chain
after its burn-in.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...stats.block_tridiagonal import Blocks, solve_blocks
from ...stats.gaussian import Evidence, augmented_evidence
from .labels import Laplace, laplace
from .model import Data, fixed_part, path_loadings
from .paths import Steps, prior_step_blocks, residuals

WALK_VARIANCES = (0.003, 0.01, 0.03, 0.1)  # of the random walk that is the prior of a path here


class Mode(NamedTuple):
    """Fit of one group of units a problem."""

    path: Tensor
    """(problem, time, q)."""
    beta: Tensor
    """(problem, unit, P) of all units, members or not."""
    evidence: Tensor
    """(problem, unit) log evidence of each unit given the path."""
    score: Tensor
    """(problem,) log evidence of the members, path and coefficients integrated by Laplace's method."""


def smooth_in_time(values: Tensor, observed: Tensor, width: float) -> Tensor:
    """Gaussian average over observed bins: (unit, time) -> (unit, time).

    Parameters
    ----------
    values : Tensor
        (unit, time).
    observed : Tensor
        (unit, time) weights.
    width : float
        Standard deviation in bins.

    Returns
    -------
    Tensor
        (unit, time).
    """
    reach = min(int(4 * width + 0.5), values.shape[-1] - 1)
    grid = torch.arange(-reach, reach + 1, dtype=values.dtype, device=values.device)
    kernel = torch.exp(-0.5 * (grid / width).square())[None, None]
    stacked = torch.stack([values * observed, observed]).flatten(0, 1).unsqueeze(1)
    total, weight = torch.nn.functional.conv1d(stacked, kernel, padding=reach).squeeze(1).chunk(2)
    return total / weight.clamp(min=1e-12)


def random_walk(like: Tensor, starts: Tensor, variance: float) -> Steps:
    """Prior steps of a random walk: one a bin for every problem.

    Parameters
    ----------
    like : Tensor
        (problem, time, q).
    starts : Tensor
        (time,) bool.
    variance : float
        Of a step.

    Returns
    -------
    Steps
        With a cluster axis of one.
    """
    q = like.shape[-1]
    eye = torch.eye(q, dtype=like.dtype, device=like.device)
    scale = torch.where(starts, 1.0, variance**-0.5).to(like.dtype)[:, None, None]
    root = (eye * scale).expand(len(like), 1, -1, q, q)
    before = torch.where(starts[:, None, None], 0.0, -root)
    return Steps(root, before, torch.zeros_like(root[..., 0]), q * scale.squeeze(-1).squeeze(-1).log().expand(
        len(like), 1, -1))  # fmt: skip


def first_path(members: Tensor, log_rate: Tensor, n_factors: int) -> Tensor:
    """Start a path at the mean and the strongest factors of smoothed log rates of the members.

    Parameters
    ----------
    members : Tensor
        (problem, unit) indicator.
    log_rate : Tensor
        (unit, time).
    n_factors : int
        p.

    Returns
    -------
    Tensor
        (problem, time, 1 + p).
    """
    centred = log_rate - log_rate.mean(-1, keepdim=True)
    size = members.sum(-1, keepdim=True).clamp(min=1.0)
    level = members @ centred / size  # (problem, time)
    rest = members.unsqueeze(-1) * (centred - level.unsqueeze(-2))
    _, vectors = torch.linalg.eigh(rest @ rest.mT)
    factors = vectors[..., -n_factors:].flip(-1).mT @ rest / size.sqrt().unsqueeze(-1)  # (problem, p, time)
    return torch.cat([level.unsqueeze(-1), factors.mT], -1)


def fit_mode(
    members: Tensor, path: Tensor, steps: Steps, *, log_r: Tensor, data: Data, poisson: bool, rounds: int,
    centre: bool = False,
) -> Mode:  # fmt: skip
    """Find the mode of path and coefficients of every group by alternating Newton steps.

    Parameters
    ----------
    members : Tensor
        (problem, unit) indicator.
    path : Tensor
        (problem, time, q) start.
    steps : Steps
        (problem, 1, time, ...) prior of the path.
    log_r : Tensor
        (problem, unit).
    data : Data
        Counts.
    poisson : bool
        Whether counts are Poisson.
    rounds : int
        Alternations.
    centre : bool
        Whether the path's mean is moved to the units' levels in every round.

    Returns
    -------
    Mode
    """
    prior = prior_step_blocks(steps)
    found = laplace(path.unsqueeze(1), log_r, data, poisson=poisson)
    path, beta = _rescale(path, found, members)
    for _ in range(rounds):
        blocks = _posterior_blocks(members, path, beta.squeeze(1), prior, log_r, data, poisson, expected=True)
        path = solve_blocks(blocks).mean.squeeze(1)
        if centre:
            path = path - path.mean(1, keepdim=True)
        found = laplace(path.unsqueeze(1), log_r, data, poisson=poisson, steps=1, start=beta)
        path, beta = _rescale(path, found, members)
    found = laplace(path.unsqueeze(1), log_r, data, poisson=poisson, steps=2, start=beta)
    blocks = _posterior_blocks(members, path, found.mode.squeeze(1), prior, log_r, data, poisson, expected=False)
    log_det = solve_blocks(blocks).log_determinant.squeeze(1)
    evidence = found.log_evidence.squeeze(1)
    log_prior = steps.log_det.sum((-2, -1)) - 0.5 * residuals(path.unsqueeze(1), steps).square().sum((-3, -2, -1))
    score = torch.where(members > 0, evidence, 0.0).sum(-1) + log_prior - 0.5 * log_det
    return Mode(path, found.mode.squeeze(1), evidence, score)


def _rescale(path: Tensor, found: Laplace, members: Tensor) -> tuple[Tensor, Tensor]:
    """Give the members' loadings the second moment of their prior: a joint mode would shrink paths without end.

    Moments are of the posterior (mode and covariance), with one observation of the prior; factors keep their basis as
    far as a symmetric root can.
    """
    p, beta = path.shape[-1] - 1, found.mode  # (problem, 1, unit, P)
    loadings = beta[:, 0, :, 1 : 1 + p]
    spread = torch.cholesky_inverse(found.root[:, 0])[..., 1 : 1 + p, 1 : 1 + p]
    weight = members[..., None, None]
    eye = torch.eye(p, dtype=path.dtype, device=path.device)
    outer = loadings.unsqueeze(-1) * loadings.unsqueeze(-2) + spread
    moment = ((weight * outer).sum(1) + eye) / (weight.sum(1) + 1)
    values, vectors = torch.linalg.eigh(moment)
    scale = values.clamp(1e-2, 1e2).sqrt()
    root = (vectors * scale.unsqueeze(-2)) @ vectors.mT
    back = (vectors / scale.unsqueeze(-2)) @ vectors.mT
    path = torch.cat([path[..., :1], path[..., 1:] @ root], -1)
    new = (loadings @ back).unsqueeze(1)
    return path, torch.cat([beta[..., :1], new, beta[..., 1 + p :]], -1)


def _posterior_blocks(
    members: Tensor, path: Tensor, beta: Tensor, prior: Blocks, log_r: Tensor, data: Data, poisson: bool, *,
    expected: bool,
) -> Blocks:  # fmt: skip
    """Quadratic approximation of a path's log posterior at ``path``; with ``expected`` information, which is stable."""
    n_factors = path.shape[-1] - 1
    loadings = path_loadings(beta, n_factors)
    latent = loadings @ path.mT  # (problem, unit, time)
    eta = latent + fixed_part(beta, data, n_factors)
    if poisson:
        mean = eta.clamp(max=30.0).exp() * data.observed
        weights = mean
    else:
        r = log_r.exp().unsqueeze(-1)
        share = torch.sigmoid(eta - log_r.unsqueeze(-1))
        mean = (data.counts + r) * share * data.observed
        weights = r * share * data.observed if expected else mean * (1 - share)
    evidence: Evidence = augmented_evidence(
        loadings, weights, kappa=data.counts * data.observed - mean + weights * latent,
        offset=torch.zeros_like(latent[..., :1]), membership=members.unsqueeze(-2),
    )  # fmt: skip
    return Blocks(prior.diagonal + evidence.precision, prior.upper, prior.linear + evidence.information)


def spectral_embedding(affinity: Tensor, members: Tensor, n_vectors: int) -> Tensor:
    """Leading eigenvectors of the normalised affinity among the members of every group.

    Parameters
    ----------
    affinity : Tensor
        (unit, unit) non-negative.
    members : Tensor
        (problem, unit) indicator.
    n_vectors : int
        How many.

    Returns
    -------
    Tensor
        (problem, unit, n_vectors), strongest first; rows of strangers are zero.
    """
    inside = affinity * members.unsqueeze(-1) * members.unsqueeze(-2)
    scale = inside.sum(-1).clamp(min=1e-12).rsqrt() * members
    _, vectors = torch.linalg.eigh(inside * scale.unsqueeze(-1) * scale.unsqueeze(-2))
    found: Tensor = vectors[..., -n_vectors:].flip(-1) * members.unsqueeze(-1)
    return found


def unit_affinity(data: Data) -> Tensor:
    """Square of the correlation of smoothed, variance-stabilised counts: (unit, unit)."""
    smooth = smooth_in_time((data.counts + 0.375).sqrt(), data.observed, 2.0)
    centred = smooth - smooth.mean(-1, keepdim=True)
    centred = centred / centred.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    found: Tensor = (centred @ centred.mT).square()
    return found


def log_rates(data: Data) -> Tensor:
    """Smoothed log rates: (unit, time)."""
    return (smooth_in_time(data.counts, data.observed, 4.0) + 0.1).log() - data.offset
