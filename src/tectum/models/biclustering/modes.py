"""Pieces of the fit of a group of units: first paths, scale of paths, quadratic approximations, affinities of units."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...stats.block_tridiagonal import Blocks
from ...stats.gaussian import Evidence, augmented_evidence
from .model import Data, fixed_part, path_loadings


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


def rescale(path: Tensor, beta: Tensor, root: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Give the members' loadings the second moment of their prior: a joint mode would shrink paths without end.

    Moments are of the posterior (mode and covariance), with one observation of the prior; factors keep their basis as
    far as a symmetric root can.
    """
    p = path.shape[-1] - 1
    loadings = beta[..., 1 : 1 + p]  # (problem, unit, p)
    spread = torch.cholesky_inverse(root)[..., 1 : 1 + p, 1 : 1 + p]
    weight = members[..., None, None]
    eye = torch.eye(p, dtype=path.dtype, device=path.device)
    outer = loadings.unsqueeze(-1) * loadings.unsqueeze(-2) + spread
    moment = ((weight * outer).sum(1) + eye) / (weight.sum(1) + 1)
    values, vectors = torch.linalg.eigh(moment)
    scale = values.clamp(1e-2, 1e2).sqrt()
    root = (vectors * scale.unsqueeze(-2)) @ vectors.mT
    back = (vectors / scale.unsqueeze(-2)) @ vectors.mT
    path = torch.cat([path[..., :1], path[..., 1:] @ root], -1)
    new = loadings @ back
    return path, torch.cat([beta[..., :1], new, beta[..., 1 + p :]], -1)


def posterior_blocks(
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
