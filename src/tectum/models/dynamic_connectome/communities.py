"""Groups of units in the pair factor of every motif, padded to common axes."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from ...core.errors import TectumWarning
from ...core.random import spawn
from ...stats.graphs import Communities, block_contrast, find_communities
from .pairs import to_matrix


def describe_motifs(
    pair_factor: Tensor, pairs: Tensor, n_units: int, *, floor: float, weight_model: str, limit: int, seed: int
) -> dict[str, Any]:
    """Partition every motif and collect partition, uncertainty, hierarchy and contrast.

    Parameters
    ----------
    pair_factor : Tensor, shape (P, R)
        Affinity factors.
    pairs : Tensor, shape (2, P), int64
        Units of each pair.
    n_units : int
        Number of units N.
    floor, weight_model
        See :func:`tectum.stats.graphs.find_communities`.
    limit : int
        Units above which nothing is partitioned, with a warning; 0 asks for no partition.
    seed : int
        Seed.

    Returns
    -------
    dict
        The community fields of :class:`DynamicConnectomeResult`.

    Warns
    -----
    TectumWarning
        If there are too many units, or too few edges in some motifs.
    """
    matrices = [to_matrix(column, n_units=n_units, pairs=pairs) for column in pair_factor.T]
    found = _partitions(matrices, floor, weight_model, limit, seed)
    contrasts = [
        _contrast(m, c, spawn(seed, "contrast", r)) for r, (m, c) in enumerate(zip(matrices, found, strict=True))
    ]
    most = max((c.fit.n_blocks for c in found if c.fit is not None), default=1)
    like = pair_factor
    return {
        "partition": torch.stack([_partition(c, n_units, like) for c in found]),
        "marginal": torch.stack(
            [_padded(c.samples.marginals if c.samples else None, (n_units, most), like) for c in found]
        ),
        "coassignment": torch.stack(
            [_padded(c.samples.coassignment if c.samples else None, (n_units, n_units), like) for c in found]
        ),
        "merges": torch.stack([_merges(c, most, like) for c in found]),
        "merge_height": torch.stack(
            [_padded(c.hierarchy.heights if c.hierarchy else None, (most - 1,), like) for c in found]
        ),
        "contrast": torch.stack([c for c, _ in contrasts]),
        "contrast_p": torch.stack([p for _, p in contrasts]),
        "weight_models": tuple(c.fit.weight_model if c.fit is not None else "" for c in found),
    }


def _partitions(matrices: list[Tensor], floor: float, weight_model: str, limit: int, seed: int) -> list[Communities]:
    """Partition every motif; one warning names those that cannot be."""
    if len(matrices[0]) > limit:
        bare = [Communities(m, None, None, None, None) for m in matrices]
        if limit == 0:
            return bare
        message = f"{len(matrices[0])} units are more than partition_limit={limit}: no motif is partitioned"
        message = f"DynamicConnectome: {message}"
        warnings.warn(message, TectumWarning, stacklevel=2)
        return bare
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TectumWarning)
        found = [
            find_communities(m, floor=floor, weight_model=weight_model, seed=spawn(seed, r))
            for r, m in enumerate(matrices)
        ]
    sparse = [str(r) for r, c in enumerate(found) if c.partition is None]
    if sparse:
        edges = f"fewer than {2 * len(matrices[0])} pairs above floor={floor:g} of their largest"
        message = f"DynamicConnectome: no partition of motif {', '.join(sparse)}, which have {edges}; lower the floor"
        warnings.warn(message, TectumWarning, stacklevel=2)
    return found


def _partition(found: Communities, n_units: int, like: Tensor) -> Tensor:
    if found.partition is None:
        return torch.full((n_units,), -1, dtype=torch.int64, device=like.device)
    return found.partition.to(like.device)


def _merges(found: Communities, most: int, like: Tensor) -> Tensor:
    """Joined blocks (most - 1, 2), -1 padded."""
    out = torch.full((most - 1, 2), -1, dtype=torch.int64, device=like.device)
    if found.hierarchy is not None:
        out[: len(found.hierarchy.merges)] = found.hierarchy.merges.to(like.device)
    return out


def _padded(values: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Copy into the corner of a NaN tensor."""
    out = torch.full(shape, torch.nan, dtype=like.dtype, device=like.device)
    if values is not None:
        out[tuple(slice(0, n) for n in values.shape)] = values.to(like)
    return out


def _contrast(matrix: Tensor, found: Communities, seed: int) -> tuple[Tensor, Tensor]:
    """Mean inside minus between blocks and its p; NaN with one block or none."""
    nan = torch.tensor(torch.nan, dtype=matrix.dtype, device=matrix.device)
    if found.fit is None or found.partition is None or not 1 < found.fit.n_blocks < len(matrix):
        return nan, nan
    test = block_contrast(matrix / matrix.max(), found.partition, seed=seed)
    return test.contrast.to(matrix), test.p_value.to(matrix)
