"""Weighted stochastic block models: description length, fit, hierarchy, sampling and block contrast.

A graph is a symmetric (n_units, n_units) tensor of weights in which 0 means "no edge"; its diagonal is ignored. The
search runs in float64 on the host (a few hundred units); results return to the device of the input.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.device import highest_precision
from ..core.errors import InputError, TectumWarning, explain
from ..core.random import generator, spawn
from ._sbm import build_model, greedy_fit, pair_terms, partition_length, propose, upper_sum
from ._sbm_inputs import (
    FAMILIES,
    chains_of,
    check_graph,
    embeddings,
    families_to_try,
    host_graph,
    host_labels,
    most_blocks,
    one_family,
    one_thread,
    starting_labels,
)
from ._sbm_posterior import (
    BlockContrast,
    Hierarchy,
    PartitionSamples,
    block_contrast,
    merge_hierarchy,
    sample_partitions,
)
from .clustering import kmeans

__all__ = [
    "FAMILIES",
    "BlockContrast",
    "BlockModel",
    "Communities",
    "DescriptionLength",
    "Hierarchy",
    "PartitionSamples",
    "block_contrast",
    "description_length",
    "find_communities",
    "fit_block_model",
    "matrix_to_graph",
    "merge_hierarchy",
    "move_changes",
    "sample_partitions",
    "spectral_partition",
]


class DescriptionLength(NamedTuple):
    """Nats that describe a weighted graph with a partition."""

    topology: Tensor  # (...)
    weights: Tensor  # (...)
    partition: Tensor  # (...)

    @property
    def total(self) -> Tensor:
        """Sum of the three terms."""
        return self.topology + self.weights + self.partition


class BlockModel(NamedTuple):
    """Partition of shortest description and what it was chosen from."""

    partition: Tensor  # (n_units,) int64, blocks 0 .. n_blocks - 1 from the largest to the smallest
    n_blocks: int
    description_length: Tensor  # scalar, nats
    weight_model: str  # the family that was kept
    families: tuple[str, ...]  # (F,) families that were tried
    family_lengths: Tensor  # (F,) shortest description length of each family, nats
    start_lengths: Tensor  # (F, n_starts) description length that each start reached, nats
    start_blocks: Tensor  # (F, n_starts) number of blocks that each start reached


class Communities(NamedTuple):
    """Everything the community step says about one affinity matrix; fields are None where it has too few edges."""

    weights: Tensor  # (n_units, n_units) the graph
    partition: Tensor | None  # (n_units,)
    fit: BlockModel | None
    hierarchy: Hierarchy | None
    samples: PartitionSamples | None


def matrix_to_graph(matrix: Tensor, *, floor: float = 0.1) -> Tensor:
    """Turn a non-negative affinity matrix into a weighted graph.

    Parameters
    ----------
    matrix : Tensor, shape (n_units, n_units), floating
        Symmetric affinities >= 0; the diagonal is ignored.
    floor : float, default 0.1
        Entries below this share of the largest entry become "no edge".

    Returns
    -------
    Tensor, shape (n_units, n_units)
        Weights in [floor, 1], 0 where there is no edge; dtype and device of `matrix`.

    Raises
    ------
    InputError
        If the matrix is not square, finite, symmetric and >= 0, or `floor` is outside [0, 1].

    Examples
    --------
    >>> matrix_to_graph(torch.tensor([[9.0, 4.0, 0.1], [4.0, 9.0, 2.0], [0.1, 2.0, 9.0]])).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.5], [0.0, 0.5, 0.0]]
    """
    check_graph("matrix_to_graph", matrix)
    if bool((matrix < 0).any()):
        raise InputError(
            explain("matrix_to_graph", expected="affinities >= 0", got=f"minimum {float(matrix.min()):.3g}")
        )
    if not 0 <= floor <= 1:
        raise InputError(explain("matrix_to_graph", expected="floor in [0, 1]", got=f"floor={floor}"))
    bare = matrix - torch.diag(torch.diagonal(matrix))
    scaled = bare / bare.max().clamp_min(torch.finfo(matrix.dtype).tiny)
    return torch.where(scaled >= floor, scaled, torch.zeros_like(scaled))


def description_length(weights: Tensor, labels: Tensor, *, weight_model: str) -> DescriptionLength:
    """Compute the nats that describe a weighted graph with given partitions.

    Every block pair has its own edge probability (Beta(1, 1) prior) and its own weight distribution with a conjugate
    prior centred on the whole graph; all parameters are integrated out. Where all weights are equal they carry no
    information, and the weight term is 0.

    Parameters
    ----------
    weights : Tensor, shape (n_units, n_units), floating
        Symmetric weights, 0 = no edge; diagonal ignored.
    labels : Tensor, shape (..., n_units), integer >= 0
        Partitions.
    weight_model : {"exp", "normal", "lognormal"}
        Family of the weights in a block pair; `lognormal` includes the Jacobian, so families can be compared.

    Returns
    -------
    DescriptionLength
        `topology`, `weights`, `partition`, each of shape (...), float64 (float32 where the device has no float64).

    Raises
    ------
    InputError
        If the graph, the labels or the family are not as described.

    References
    ----------
    Peixoto, Physical Review E 97, 2018, 012306 (weighted block models by description length).

    Examples
    --------
    >>> weights = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 2.0], [0.0, 2.0, 0.0]])
    >>> round(float(description_length(weights, torch.tensor([0, 0, 0]), weight_model="exp").total), 3)
    6.997
    """
    graph = host_graph("description_length", weights)
    model = one_family("description_length", weight_model, graph)
    rows = host_labels("description_length", labels, len(graph))
    chains = chains_of(model, rows)
    bare = chains.pairs[0].long(), chains.pairs[1].long()
    factorial = model.log_factorial
    topology = factorial.take(bare[0] + 1) - factorial.take(bare[1]) - factorial.take(bare[0] - bare[1])
    parts = (
        upper_sum(topology),
        upper_sum(pair_terms(model, chains.family, chains.pairs) - topology) + model.jacobian,
        partition_length(model, chains.sizes),
    )
    dtype = highest_precision(weights.device)
    return DescriptionLength(*(part.reshape(labels.shape[:-1]).to(dtype).to(weights.device) for part in parts))


def move_changes(weights: Tensor, labels: Tensor, unit: int, *, weight_model: str) -> Tensor:
    """Compute how the description length changes if one unit moves to each block.

    Parameters
    ----------
    weights : Tensor, shape (n_units, n_units), floating
        Symmetric weights, 0 = no edge.
    labels : Tensor, shape (n_units,), integer
        Partition with labels 0 .. n_blocks - 1, all used.
    unit : int
        Unit to move.
    weight_model : {"exp", "normal", "lognormal"}
        Weight family.

    Returns
    -------
    Tensor, shape (n_blocks,)
        Change in nats, 0 at the present block.

    Raises
    ------
    InputError
        If the graph, the labels, the unit or the family are not as described.

    Examples
    --------
    >>> weights = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 2.0], [0.0, 2.0, 0.0]])
    >>> change = move_changes(weights, torch.tensor([0, 0, 1]), 1, weight_model="exp")
    >>> change.shape, float(change[0])
    (torch.Size([2]), 0.0)
    """
    graph = host_graph("move_changes", weights)
    if not 0 <= unit < len(graph):
        raise InputError(explain("move_changes", expected=f"a unit in [0, {len(graph)})", got=str(unit)))
    rows = host_labels("move_changes", labels, len(graph))
    chains = chains_of(one_family("move_changes", weight_model, graph), rows)
    return propose(chains, unit).delta[0].to(highest_precision(weights.device)).to(weights.device)


def spectral_partition(weights: Tensor, n_blocks: int, *, seed: int = 0) -> Tensor:
    """Partition a graph into a given number of blocks by k-means on leading eigenvectors.

    Parameters
    ----------
    weights : Tensor, shape (n_units, n_units), floating
        Symmetric weights, 0 = no edge.
    n_blocks : int
        Number of blocks.
    seed : int, default 0
        Seed of the k-means++ centres.

    Returns
    -------
    Tensor, shape (n_units,), int64
        Labels below `n_blocks`.

    Raises
    ------
    InputError
        If the graph is not as described or `n_blocks` is outside [1, n_units].

    References
    ----------
    Rohe, Chatterjee and Yu, Annals of Statistics 39, 2011.

    Examples
    --------
    >>> weights = torch.block_diag(torch.ones(3, 3), torch.ones(4, 4))
    >>> labels = spectral_partition(weights, 2)
    >>> labels[:3].unique().numel(), labels[3:].unique().numel(), labels.unique().numel()
    (1, 1, 2)
    """
    graph = host_graph("spectral_partition", weights)
    if not 1 <= n_blocks <= len(graph):
        raise InputError(explain("spectral_partition", expected=f"1 <= n_blocks <= {len(graph)}", got=str(n_blocks)))
    uniforms = torch.rand(1, n_blocks, generator=generator(seed), dtype=graph.dtype)
    points = embeddings(graph, n_blocks)[:1]
    return kmeans(points, torch.tensor([n_blocks]), uniforms=uniforms)[0].to(weights.device)


def _by_size(labels: Tensor) -> Tensor:
    """Rename the blocks of one compact partition (N,) from the largest to the smallest."""
    return torch.bincount(labels).argsort(descending=True, stable=True).argsort()[labels]


def fit_block_model(
    weights: Tensor, *, weight_model: str = "auto", max_blocks: int | None = None, max_sweeps: int = 30, seed: int = 0
) -> BlockModel:
    """Find the partition, and the weight family, with the shortest description of a weighted graph.

    For each number of blocks from 2 to `max_blocks` one random and two spectral partitions are improved by greedy
    sweeps over the units and greedy merges of blocks, until neither helps; one block is always a candidate. All
    starts and families run as one batch.

    Parameters
    ----------
    weights : Tensor, shape (n_units, n_units), floating
        Symmetric weights, 0 = no edge; diagonal ignored.
    weight_model : {"auto", "exp", "normal", "lognormal"}, default "auto"
        Weight family; "auto" fits all and keeps the shortest description ("normal" alone if a weight is negative).
    max_blocks : int, optional
        Largest number of starting blocks; default min(20, sqrt(n_units) + 4).
    max_sweeps : int, default 30
        Greedy sweeps between merges.
    seed : int, default 0
        Seed of the starts and of the order of the units.

    Returns
    -------
    BlockModel
        `partition`, `n_blocks`, `description_length`, `weight_model` and the lengths of all families and starts.

    Raises
    ------
    InputError
        If the graph, the family or a count is not as described, or the graph has no edge.

    References
    ----------
    Peixoto, Physical Review E 97, 2018, 012306; Physical Review E 89, 2014, 012804 (greedy merges).

    Examples
    --------
    >>> weights = torch.block_diag(torch.ones(8, 8), torch.ones(8, 8)) * torch.linspace(1, 2, 16)
    >>> fit = fit_block_model((weights + weights.T) / 2)
    >>> fit.n_blocks, fit.partition.tolist() in ([0] * 8 + [1] * 8, [1] * 8 + [0] * 8)
    (2, True)
    """
    graph = host_graph("fit_block_model", weights)
    most = most_blocks(graph, max_blocks, max_sweeps)
    families = families_to_try("fit_block_model", weight_model, graph)
    model, stream = build_model(graph, families), generator(spawn(seed, "order"))
    orders = [torch.randperm(len(graph), generator=stream).tolist() for _ in range(max_sweeps)]
    starts = torch.cat([torch.zeros(1, len(graph), dtype=torch.int64), starting_labels(graph, most, seed)])
    family = torch.arange(len(families)).repeat_interleave(len(starts))
    with one_thread():
        labels, lengths = greedy_fit(model, family, starts.repeat(len(families), 1), orders)
    best = int(lengths.argmin())
    table = lengths.reshape(len(families), -1)
    device, dtype = weights.device, highest_precision(weights.device)
    return BlockModel(
        partition=_by_size(labels[best]).to(device),
        n_blocks=int(labels[best].max()) + 1,
        description_length=lengths[best].to(dtype).to(device),
        weight_model=families[int(family[best])],
        families=families,
        family_lengths=table.amin(1).to(dtype).to(device),
        start_lengths=table.to(dtype).to(device),
        start_blocks=(labels.amax(1) + 1).reshape(table.shape).to(device),
    )


def find_communities(
    matrix: Tensor,
    *,
    floor: float = 0.1,
    weight_model: str = "auto",
    max_blocks: int | None = None,
    burn_in: int = 50,
    n_sweeps: int = 200,
    seed: int = 0,
) -> Communities:
    """Threshold an affinity matrix and give its partition, the partition's hierarchy and its uncertainty.

    Parameters
    ----------
    matrix : Tensor, shape (n_units, n_units), floating
        Symmetric affinities >= 0.
    floor : float, default 0.1
        Share of the largest affinity below which there is no edge.
    weight_model : {"auto", "exp", "normal", "lognormal"}, default "auto"
        Weight family.
    max_blocks : int, optional
        Largest number of starting blocks; default min(20, sqrt(n_units) + 4).
    burn_in, n_sweeps : int, default 50 and 200
        Sweeps of the sampler dropped by each chain, and kept in all.
    seed : int, default 0
        Seed.

    Returns
    -------
    Communities
        The graph, its partition, fit, hierarchy and samples.

    Raises
    ------
    InputError
        If the matrix or a parameter is not as described.

    Warns
    -----
    TectumWarning
        If fewer than 2 * n_units edges pass the floor: there is nothing to partition, and the fields are None.

    Examples
    --------
    >>> matrix = torch.block_diag(torch.ones(8, 8), torch.ones(8, 8)) + 0.2
    >>> found = find_communities(matrix, burn_in=1, n_sweeps=10)
    >>> found.fit.n_blocks
    2
    """
    weights = matrix_to_graph(matrix, floor=floor)
    n_edges, n_units = int((weights != 0).sum()) // 2, len(weights)
    if n_edges < 2 * n_units:
        expected = f"at least {2 * n_units} edges (2 * n_units) above the floor"
        message = explain("find_communities", expected=expected, got=str(n_edges), fix="no partition; lower the floor")
        warnings.warn(message, TectumWarning, stacklevel=2)
        return Communities(weights, None, None, None, None)
    fit = fit_block_model(weights, weight_model=weight_model, max_blocks=max_blocks, seed=seed)
    family = fit.weight_model
    tree = merge_hierarchy(weights, fit.partition, weight_model=family)
    draws = sample_partitions(
        weights, fit.partition, weight_model=family, burn_in=burn_in, n_sweeps=n_sweeps, seed=spawn(seed, "samples")
    )
    return Communities(weights, fit.partition, fit, tree, draws)
