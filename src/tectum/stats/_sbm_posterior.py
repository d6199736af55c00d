"""Uncertainty of a partition: hierarchy of merges, posterior sampling and the block contrast."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core.device import highest_precision
from ..core.errors import InputError, explain
from ..core.random import generator, spawn
from ._arviz_compat import to_container
from ._sbm import Chains, build_chains, compact, merge, merge_changes, metropolis_sweep
from ._sbm_inputs import chains_of, check_graph, host_graph, host_labels, one_family, one_thread
from .clustering import align_labels, coassignment


class Hierarchy(NamedTuple):
    """Greedy agglomeration of blocks; row k of `merges` makes block n_blocks + k."""

    merges: Tensor  # (n_blocks - 1, 2) int64
    heights: Tensor  # (n_blocks - 1,) change of the description length of each merge, nats
    sizes: Tensor  # (n_blocks - 1,) int64 units in the new block
    partitions: Tensor  # (n_blocks, n_units) int64; row k has n_blocks - k blocks


class PartitionSamples(NamedTuple):
    """Draws from the posterior of partitions."""

    samples: Tensor  # (n_samples, n_units) int64, labels aligned with the starting partition; chains take turns
    marginals: Tensor  # (n_units, n_blocks) share of draws in which a unit has a label
    coassignment: Tensor  # (n_units, n_units) share of draws in which two units share a block
    description_lengths: Tensor  # (n_samples,) nats
    acceptance: Tensor  # scalar, accepted share of the moves
    n_chains: int

    def to_arviz(self) -> Any:
        """Return the draws in ArviZ's container: InferenceData (0.x) or an xarray DataTree (1.x).

        The posterior holds ``label`` (chain, draw, unit) and ``n_blocks``, the number of occupied blocks (chain, draw);
        the log density up to a constant is ``lp`` of the sample statistics.
        """
        label = self.samples.unflatten(0, (-1, self.n_chains)).movedim(1, 0)
        density = -self.description_lengths.unflatten(0, (-1, self.n_chains)).mT
        hot = torch.nn.functional.one_hot(label, int(label.max()) + 1)
        n_blocks = hot.any(-2).sum(-1)
        return to_container(posterior={"label": label, "n_blocks": n_blocks}, sample_stats={"lp": density},
                            dims={"label": ["unit"]})  # fmt: skip


class BlockContrast(NamedTuple):
    """Difference of the mean weight inside and between blocks, and its permutation test."""

    contrast: Tensor  # scalar
    p_value: Tensor  # scalar
    null: Tensor  # (n_permutations,)


def merge_hierarchy(weights: Tensor, labels: Tensor, *, weight_model: str) -> Hierarchy:
    """Join blocks one pair at a time, always the pair that costs the least, down to one block.

    Parameters
    ----------
    weights : Tensor, shape (n_units, n_units), floating
        Symmetric weights, 0 = no edge.
    labels : Tensor, shape (n_units,), integer >= 0
        Partition to start from, usually the fit's.
    weight_model : {"exp", "normal", "lognormal"}
        Weight family.

    Returns
    -------
    Hierarchy
        `merges` in the convention of SciPy's linkage (leaves are the blocks of `labels` in ascending order),
        `heights`, `sizes`, and `partitions` of every level.

    Raises
    ------
    InputError
        If the graph, the labels or the family are not as described.

    Examples
    --------
    >>> weights = torch.block_diag(*(torch.ones(4, 4) for _ in range(3)))
    >>> tree = merge_hierarchy(weights, torch.arange(3).repeat_interleave(4), weight_model="exp")
    >>> tree.partitions.amax(1).tolist()
    [2, 1, 0]
    """
    graph = host_graph("merge_hierarchy", weights)
    model = one_family("merge_hierarchy", weight_model, graph)
    chains = chains_of(model, host_labels("merge_hierarchy", labels, len(graph)))
    n_blocks, only = chains.sizes.shape[1], torch.zeros(1, dtype=torch.int64)
    names, rows, levels = list(range(n_blocks)), [], [chains.labels[0].clone()]
    for level in range(n_blocks - 1):
        change, first, second = merge_changes(chains)
        pair = change.argmin(1)
        keep, gone = first[pair], second[pair]
        merge(chains, only, keep, gone)
        a, b = int(keep), int(gone)
        rows.append((*sorted((names[a], names[b])), float(change[0, pair]), float(chains.sizes[0, a])))
        names[a] = n_blocks + level
        levels.append(compact(chains.labels)[0])
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
    device, heights = weights.device, table[:, 2].to(highest_precision(weights.device))
    merges, sizes = table[:, :2].long().to(device), table[:, 3].long().to(device)
    return Hierarchy(merges, heights.to(device), sizes, torch.stack(levels).to(device))


def sample_partitions(
    weights: Tensor,
    labels: Tensor,
    *,
    weight_model: str,
    n_chains: int = 10,
    burn_in: int = 50,
    n_sweeps: int = 200,
    seed: int = 0,
) -> PartitionSamples:
    """Draw partitions with probability proportional to exp(-description length) by Metropolis-Hastings moves of units.

    The chains are independent, start from the same partition and run as one batch; blocks may empty and refill, but
    no label beyond those of the starting partition is used.

    Parameters
    ----------
    weights : Tensor, shape (n_units, n_units), floating
        Symmetric weights, 0 = no edge.
    labels : Tensor, shape (n_units,), integer >= 0
        Partition to start from, usually the fit's.
    weight_model : {"exp", "normal", "lognormal"}
        Weight family.
    n_chains : int, default 10
        Independent chains.
    burn_in : int, default 50
        Sweeps over all units that each chain drops.
    n_sweeps : int, default 200
        Sweeps kept, all chains together (rounded up to a multiple of `n_chains`).
    seed : int, default 0
        Seed of the moves.

    Returns
    -------
    PartitionSamples
        Label-aligned `samples`, `marginals`, `coassignment`, `description_lengths`, `acceptance`.

    Raises
    ------
    InputError
        If the graph, the labels, the family or a count is not as described.

    References
    ----------
    Liu, Biometrika 83, 1996 (Metropolised Gibbs sampler).

    Examples
    --------
    >>> weights = torch.block_diag(torch.ones(6, 6), torch.ones(6, 6))
    >>> labels = torch.arange(2).repeat_interleave(6)
    >>> draws = sample_partitions(weights, labels, weight_model="exp", burn_in=2, n_sweeps=20)
    >>> draws.samples.shape, draws.marginals.shape
    (torch.Size([20, 12]), torch.Size([12, 2]))
    """
    graph = host_graph("sample_partitions", weights)
    model = one_family("sample_partitions", weight_model, graph)
    start = host_labels("sample_partitions", labels, len(graph))
    if min(n_chains, n_sweeps) < 1 or burn_in < 0:
        got = f"n_chains={n_chains}, n_sweeps={n_sweeps}, burn_in={burn_in}"
        expected = "n_chains >= 1, n_sweeps >= 1 and burn_in >= 0"
        raise InputError(explain("sample_partitions", expected=expected, got=got))
    kept = -(-n_sweeps // n_chains)
    chains = chains_of(model, start.expand(n_chains, -1))
    with one_thread():
        drawn, lengths, acceptance = _run_chains(chains, burn_in, kept, generator(spawn(seed, "moves")))
    samples = align_labels(drawn, start[0])
    marginals = torch.nn.functional.one_hot(samples, int(start.max()) + 1).double().mean(0)
    device, dtype = weights.device, highest_precision(weights.device)
    shared, lengths, acceptance, marginals = (
        part.to(dtype).to(device) for part in (coassignment(samples), lengths, acceptance, marginals)
    )
    return PartitionSamples(samples.to(device), marginals, shared, lengths, acceptance, n_chains)


def _run_chains(chains: Chains, burn_in: int, kept: int, stream: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Sweep all chains and keep the last `kept` states of each: labels (K, N), lengths (K,), accepted share."""
    (n_chains, n_units), n_blocks = chains.labels.shape, chains.sizes.shape[1]
    labels, lengths, shares = [], [], [torch.zeros(n_chains, dtype=chains.sizes.dtype)]
    for sweep in range(burn_in + kept):
        if n_blocks > 1:
            draws = torch.rand(n_units, n_chains, n_blocks + 1, generator=stream, dtype=chains.sizes.dtype)
            draws = draws.clamp_min(1e-300).log_()
            order = torch.randperm(n_units, generator=stream).tolist()
            shares.append(metropolis_sweep(chains, order, -(-draws[..., :-1]).log(), draws[..., -1]))
            chains = build_chains(chains.model, chains.family, chains.labels, n_blocks)  # no drift of the sums
        if sweep >= burn_in:
            labels.append(chains.labels.clone())
            lengths.append(chains.description_length())
    return torch.cat(labels), torch.cat(lengths), torch.stack(shares[min(1, len(shares) - 1) :]).mean()


def block_contrast(
    matrix: Tensor, labels: Tensor, *, n_permutations: int = 1000, n_quantiles: int = 5, seed: int = 0
) -> BlockContrast:
    """Test whether affinities are larger inside blocks than between them.

    Labels are permuted among units of similar strength (sum of affinities), so that a block of strong units alone is
    not significant.

    Parameters
    ----------
    matrix : Tensor, shape (n_units, n_units), floating
        Symmetric affinities; the diagonal is ignored.
    labels : Tensor, shape (n_units,), integer >= 0
        Partition with at least two blocks, one of them with two units.
    n_permutations : int, default 1000
        Permutations.
    n_quantiles : int, default 5
        Strength classes within which labels are permuted.
    seed : int, default 0
        Seed of the permutations.

    Returns
    -------
    BlockContrast
        `contrast`, one-sided `p_value` = (1 + number of null contrasts >= contrast) / (1 + n_permutations), `null`.

    Raises
    ------
    InputError
        If the matrix, the labels or a count is not as described.

    Examples
    --------
    >>> matrix = torch.block_diag(torch.ones(8, 8), torch.ones(8, 8))
    >>> result = block_contrast(matrix, torch.arange(2).repeat_interleave(8))
    >>> float(result.contrast), bool(result.p_value < 0.01)
    (1.0, True)
    """
    check_graph("block_contrast", matrix)
    n_units, device = len(matrix), matrix.device
    _check_contrast(labels, n_units, n_permutations, n_quantiles)
    values = matrix.to(highest_precision(device))
    values = values - torch.diag(torch.diagonal(values))
    strength = values.sum(1)
    cuts = torch.quantile(strength, torch.linspace(0, 1, n_quantiles + 1, dtype=values.dtype, device=device)[1:-1])
    quantile = (strength[:, None] > cuts + 1e-9 * strength.abs().max()).sum(1)  # (N,), equal strengths share a class
    draws = torch.rand(n_permutations, n_units, generator=generator(seed), dtype=torch.float32)
    shuffled = (quantile + draws.to(device)).argsort(1)  # (K, N): units ordered by class, at random inside a class
    _, names = torch.unique(labels.to(device), return_inverse=True)
    permuted = torch.empty_like(shuffled).index_copy_(1, quantile.argsort(stable=True), names[shuffled])
    contrasts = _contrast(values, torch.cat([names[None], permuted]))
    observed, null = contrasts[0], contrasts[1:]
    at_least = (null >= observed - 1e-12).sum()
    return BlockContrast(observed, (1 + at_least).to(values.dtype) / (1 + n_permutations), null)


def _check_contrast(labels: Tensor, n_units: int, n_permutations: int, n_quantiles: int) -> None:
    """Refuse labels without pairs inside or between blocks, and counts below one."""
    host_labels("block_contrast", labels, n_units)
    if labels.shape != (n_units,) or not 1 < labels.unique().numel() < n_units:
        expected = "a partition (n_units,) with pairs inside and between blocks"
        got = f"shape {tuple(labels.shape)}, {labels.unique().numel()} blocks"
        raise InputError(explain("block_contrast", expected=expected, got=got))
    if n_permutations < 1 or not 1 <= n_quantiles <= n_units:
        got = f"n_permutations={n_permutations}, n_quantiles={n_quantiles}"
        expected = "n_permutations >= 1 and 1 <= n_quantiles <= n_units"
        raise InputError(explain("block_contrast", expected=expected, got=got))


def _contrast(values: Tensor, labels: Tensor) -> Tensor:
    """Mean inside minus mean between blocks for partitions (K, N) of a matrix with zero diagonal."""
    member = torch.nn.functional.one_hot(labels).to(values.dtype)  # (K, N, B)
    sizes = member.sum(1)
    inside = (member * (values @ member)).sum((1, 2))
    n_inside, n_pairs = (sizes * (sizes - 1)).sum(1), len(values) * (len(values) - 1)
    return inside / n_inside - (values.sum() - inside) / (n_pairs - n_inside)
