"""Two forms of the dynamics: every cluster's path by itself, or the paths of all clusters stacked into one.

The observation model always sees paths (chain, cluster, time, q). The dynamics see *problems* (chain, problem, time,
D): in the block form one a cluster, D = q; in the coupled form one a chain, D = K q, where level and factors of
cluster 0 come first. Whatever acts on problems (draws of paths, states, windows, dynamics) is the same code for both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...stats.gaussian import Evidence
from .model import Hyper, frozen_mixture, path_law


def couple(hyper: Hyper, n_units: int, n_clusters: int) -> Hyper:
    """Constants of the coupled form with a fixed number of clusters.

    Parameters
    ----------
    hyper : Hyper
        Constants of the block form.
    n_units, n_clusters : int
        Units N and clusters K, some of which may come to hold no unit.

    Returns
    -------
    Hyper
    """
    regression = path_law(n_clusters * (hyper.n_factors + 1), like=hyper.log_prior)
    return frozen_mixture(hyper, n_units, n_clusters)._replace(regression=regression, coupled=True)


def join(path: Tensor, hyper: Hyper) -> Tensor:
    """Bring paths (chain, cluster, time, q) to the problems of the dynamics (chain, problem, time, D)."""
    return path.movedim(1, 2).flatten(2).unsqueeze(1) if hyper.coupled else path


def part(path: Tensor, hyper: Hyper) -> Tensor:
    """Bring problems (chain, problem, ..., D) back to clusters (chain, cluster, ..., q)."""
    return path.squeeze(1).unflatten(-1, (-1, hyper.n_factors + 1)).movedim(-2, 1) if hyper.coupled else path


def join_evidence(evidence: Evidence, hyper: Hyper) -> Evidence:
    """Bring evidence of every cluster's path (chain, cluster, time, q, q) to the problems: block diagonal there."""
    if not hyper.coupled:
        return evidence
    precision = block_diagonal(evidence.precision.movedim(1, 2))
    return Evidence(precision.unsqueeze(1), join(evidence.information, hyper))


def block_diagonal(blocks: Tensor) -> Tensor:
    """Put square blocks (..., k, q, q) on the diagonal of (..., k q, k q)."""
    k, q = blocks.shape[-3], blocks.shape[-1]
    eye = torch.eye(k, dtype=blocks.dtype, device=blocks.device)
    return (eye[:, None, :, None] * blocks.unsqueeze(-2)).reshape(*blocks.shape[:-3], k * q, k * q)
