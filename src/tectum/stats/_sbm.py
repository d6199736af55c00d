"""Engine of the weighted stochastic block model: description lengths and node moves of many chains at once.

Three weight families share one formula. With e edges among n pairs of a block pair, and the two family-specific
edge statistics y1, y2 summed to s1, s2, the topology and weight terms (nats) add up to

    ln (n+1)! - ln (n-e)! + G[e] + (1 + slope * e) * ln(scale + (s2 - s1**2 / (KAPPA + e)) / 2)

where G is a table over e. Normal: y1 = x - mean, y2 = y1**2, slope 1/2, scale = variance. Log-normal: the same of
ln x. Exponential: y1 = 0, y2 = 2 x, slope 1, scale = mean. So chains of all families and starts run as one batch,
and a node move is a rank-two change of the (4, chain, block, block) statistics (pairs, edges, s1, s2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

KAPPA = 0.1  # prior strength of a block pair's mean weight
TOLERANCE = 1e-9  # nats by which a greedy step must improve
BATCH_COST = 6000  # block pairs that cost as much as the fixed overhead of evaluating one more batch


def _all_equal(weights: Tensor) -> bool:
    """Tell whether every edge has the same weight up to rounding."""
    values = weights[weights != 0]
    return not values.numel() or bool(values.max() - values.min() <= 1e-6 * values.abs().max())


class Model(NamedTuple):
    """Constant tables of one graph; F families, N units, M = number of unit pairs + 2 table entries."""

    edges: Tensor  # (F, 3, N, N): 1, y1, y2 on edges, 0 elsewhere
    log_factorial: Tensor  # (M,)
    log_choices: Tensor  # (N + 1,): ln C(N - 1, B - 1) at B
    edge_table: Tensor  # (F, M): G of the module docstring
    slope: Tensor  # (F,)
    scale: Tensor  # (F,)
    jacobian: Tensor  # (F,)


def edge_statistics(weights: Tensor, family: str) -> tuple[Tensor, float, Tensor, Tensor]:
    """Give a family's edge statistics (3, N, N), slope, scale and Jacobian; `weights` is 0 where there is no edge."""
    present = (weights != 0).to(weights.dtype)
    n_edges = present.sum().clamp_min(2.0) / 2
    zero = torch.zeros_like(n_edges)
    if family == "exp":
        scale = weights.sum() / 2 / n_edges
        return torch.stack([present, torch.zeros_like(weights), 2 * weights]), 1.0, scale, zero
    values = torch.where(weights != 0, weights, 1.0).log() if family == "lognormal" else weights
    mean = values.sum() / 2 / n_edges
    centred = (values - mean) * present
    variance = centred.square().sum() / 2 / n_edges
    jacobian = values.sum() / 2 if family == "lognormal" else zero
    return torch.stack([present, centred, centred.square()]), 0.5, variance, jacobian


def build_model(weights: Tensor, families: tuple[str, ...]) -> Model:
    """Tabulate everything that does not depend on the partition; weights (N, N) symmetric with zero diagonal."""
    n_units, device, dtype = weights.shape[0], weights.device, weights.dtype
    parts = [edge_statistics(weights, family) for family in families]
    if equal := _all_equal(weights):  # no information in the weights: topology and partition alone
        parts = [(part[0] * torch.eye(3, 1, dtype=dtype, device=device)[..., None], 0.0, torch.ones_like(part[2]),
                  torch.zeros_like(part[3])) for part in parts]  # fmt: skip
    count = torch.arange(n_units * (n_units - 1) // 2 + 2, device=device, dtype=dtype)
    log_factorial = torch.lgamma(count + 1)
    units = torch.arange(n_units + 1, device=device, dtype=dtype)
    log_choices = torch.lgamma(units[-1]) - torch.lgamma(units.clamp_min(1)) - torch.lgamma(n_units - units + 1)
    scale = torch.stack([part[2] for part in parts])
    normal = -torch.lgamma(1 + count / 2) + 0.5 * torch.log((KAPPA + count) / KAPPA) + count / 2 * math.log(2 * math.pi)
    weight_table = {"exp": -log_factorial, "normal": normal, "lognormal": normal}
    tables = [-log_factorial + (0.0 if equal else weight_table[name]) for name in families]
    return Model(
        edges=torch.stack([part[0] for part in parts]),
        log_factorial=log_factorial,
        log_choices=log_choices,
        edge_table=torch.stack(tables) - scale.log()[:, None],
        slope=torch.tensor([part[1] for part in parts], device=device, dtype=dtype),
        scale=scale,
        jacobian=torch.stack([part[3] for part in parts]),
    )


def pair_terms(model: Model, family: Tensor, pairs: Tensor) -> Tensor:
    """Topology and weight terms (S, ...) of block pairs with statistics (4, S, ...) in chains of the given families."""
    shape = (-1,) + (1,) * (pairs.ndim - 2)
    n_pairs, n_edges, first, second = pairs.unbind(0)
    index = n_edges.long()
    spread = torch.addcdiv(second, first.square(), n_edges + KAPPA, value=-1.0)
    spread = torch.add(model.scale[family].view(shape), spread, alpha=0.5).log_()
    terms = (1 + model.slope[family].view(shape) * n_edges).mul_(spread)
    terms += model.log_factorial.take(n_pairs.long() + 1)
    terms -= model.log_factorial.take((n_pairs - n_edges).long())
    return terms.add_(model.edge_table.take(index + (family * model.edge_table.shape[1]).view(shape)))


@dataclass
class Chains:
    """Partitions of S chains with the statistics that node moves and merges need; updated in place."""

    model: Model
    family: Tensor  # (S,) int64
    labels: Tensor  # (S, N) int64
    sizes: Tensor  # (S, B)
    units: Tensor  # (S, B, 3, N): edges, y1, y2 between a unit and a block
    pairs: Tensor  # (4, S, B, B): unit pairs, edges, s1, s2 of block pairs
    terms: Tensor  # (S, B, B): pair_terms of pairs

    @property
    def n_blocks(self) -> Tensor:
        """Number of non-empty blocks of each chain."""
        return (self.sizes > 0).sum(1)

    def description_length(self) -> Tensor:
        """Description length (S,) in nats, Jacobian included."""
        return upper_sum(self.terms) + partition_length(self.model, self.sizes) + self.model.jacobian[self.family]


def upper_sum(square: Tensor) -> Tensor:
    """Sum over unordered block pairs, diagonal included, of symmetric matrices (S, B, B)."""
    return (square.sum((1, 2)) + square.diagonal(dim1=1, dim2=2).sum(1)) / 2


def partition_length(model: Model, sizes: Tensor) -> Tensor:
    """Nats (S,) that name a partition with the given block sizes (S, B)."""
    n_units = model.log_choices.shape[0] - 1
    fixed = math.log(n_units) + model.log_factorial[n_units]
    chosen = model.log_choices[(sizes > 0).sum(1)]
    return fixed + chosen - model.log_factorial.take(sizes.long()).sum(1)


def build_chains(model: Model, family: Tensor, labels: Tensor, n_blocks: int) -> Chains:
    """Compute the statistics of chains (labels (S, N) below `n_blocks`) from scratch."""
    dtype = model.scale.dtype
    member = torch.nn.functional.one_hot(labels, n_blocks).to(dtype)  # (S, N, B)
    units = torch.empty((len(labels), n_blocks, 3, labels.shape[1]), device=labels.device, dtype=dtype)
    for index in range(model.scale.shape[0]):
        mine = (family == index).nonzero().squeeze(1)
        units[mine] = torch.einsum("qij,sjb->sbqi", model.edges[index], member[mine])
    sizes = member.sum(1)
    shared = torch.einsum("sia,sbqi->qsab", member, units)  # (3, S, B, B), within-block edges twice
    pairs = torch.cat([(sizes[:, :, None] * sizes[:, None] - torch.diag_embed(sizes))[None], shared])
    pairs.diagonal(dim1=2, dim2=3).mul_(0.5)
    return Chains(model, family, labels.clone(), sizes, units, pairs, pair_terms(model, family, pairs))


class Move(NamedTuple):
    """What moving one unit to every block would do, in every chain."""

    delta: Tensor  # (S, B): change of the description length; 0 at the present block
    source: Tensor  # (S,): present block
    pairs: Tensor  # (4, S, B, B): row s = statistics of block s if it received the unit; source row: without it
    terms: Tensor  # (S, B, B)


def propose(chains: Chains, unit: int) -> Move:
    """Evaluate all moves of one unit: every changed block pair of every candidate in one tensor."""
    source = chains.labels[:, unit]
    home = torch.nn.functional.one_hot(source, chains.sizes.shape[1]).to(chains.sizes.dtype)  # (S, B)
    own = torch.cat([(chains.sizes - home)[None], chains.units[..., unit].movedim(2, 0)])  # (4, S, B)
    pairs = torch.addcmul(chains.pairs, (1 - 2 * home)[..., None], own[:, :, None])
    pairs = pairs.addcmul_((own * (1 - home))[..., None], home[:, None], value=-1.0)
    terms = pair_terms(chains.model, chains.family, pairs)
    change = terms - chains.terms
    left = change.gather(1, source[:, None, None].expand(-1, 1, change.shape[2])).squeeze(1)  # (S, B): source row
    delta = change.sum(2) + left.sum(1, keepdim=True) - left + _partition_change(chains, source)
    return Move(delta.scatter_(1, source[:, None], 0.0), source, pairs, terms)


def _partition_change(chains: Chains, source: Tensor) -> Tensor:
    """Change (S, B) of the partition's length when a unit leaves `source` (S,) for every other block."""
    sizes, choices = chains.sizes, chains.model.log_choices
    leaving = sizes.gather(1, source[:, None])  # (S, 1)
    n_blocks = (sizes > 0).sum(1, keepdim=True)
    after = n_blocks - (leaving == 1).long() + (sizes == 0).long()  # (S, B)
    return choices.take(after) - choices.take(n_blocks) + leaving.log() - torch.log1p(sizes)


def accept(chains: Chains, unit: int, move: Move, moved: Tensor, target: Tensor) -> None:
    """Carry out a unit's move to `target` (S,) in the chains listed in `moved` (m,)."""
    source, target = move.source[moved], target[moved]
    for now, new in ((chains.pairs, move.pairs), (chains.terms[None], move.terms[None])):
        received, left = new[:, moved, target], new[:, moved, source]  # (q, m, B)
        left.scatter_(2, target[None, :, None].expand(len(left), -1, 1), received.gather(
            2, source[None, :, None].expand(len(left), -1, 1)))  # fmt: skip
        for block, row in ((source, left), (target, received)):
            now[:, moved, block] = row
            now[:, moved, :, block] = row.transpose(0, 1)
    step = chains.model.edges[:, :, unit][chains.family[moved]]  # (m, 3, N)
    chains.units[moved, source] -= step
    chains.units[moved, target] += step
    chains.sizes[moved, source] -= 1
    chains.sizes[moved, target] += 1
    chains.labels[moved, unit] = target


def greedy_sweep(chains: Chains, order: list[int]) -> Tensor:
    """Move every unit in turn to its best non-empty block; return which chains (S,) changed."""
    changed = torch.zeros_like(chains.family, dtype=torch.bool)
    for unit in order:
        move = propose(chains, unit)
        best, target = move.delta.masked_fill(chains.sizes == 0, torch.inf).min(1)
        improves = best < -TOLERANCE
        moved = improves.nonzero().squeeze(1)
        if moved.numel():
            accept(chains, unit, move, moved, target)
            changed |= improves
    return changed


def merge_changes(chains: Chains) -> tuple[Tensor, Tensor, Tensor]:
    """Change (S, P) of the description length for joining each of P block pairs, and the pairs' two indices (P,)."""
    sizes, factorial, pairs = chains.sizes, chains.model.log_factorial, chains.pairs
    first, second = torch.triu_indices(sizes.shape[1], sizes.shape[1], 1, device=sizes.device)
    inside = pairs[:, :, first, first] + pairs[:, :, second, second] + pairs[:, :, first, second]  # (4, S, P)
    joined = pair_terms(chains.model, chains.family, pairs[:, :, first] + pairs[:, :, second])  # (S, P, B)
    block = torch.arange(sizes.shape[1], device=sizes.device)
    merged = (block == first[:, None]) | (block == second[:, None])  # (P, B)
    rows = chains.terms.sum(2)
    change = joined.masked_fill(merged, 0.0).sum(2) + pair_terms(chains.model, chains.family, inside)
    change = change - rows[:, first] - rows[:, second] + chains.terms[:, first, second]
    a, b, n_blocks = sizes[:, first].long(), sizes[:, second].long(), chains.n_blocks[:, None]
    choices = chains.model.log_choices
    change = change + factorial.take(a) + factorial.take(b) - factorial.take(a + b)
    change = change + choices.take((n_blocks - 1).clamp_min(0)) - choices.take(n_blocks)
    return change.masked_fill((a == 0) | (b == 0), torch.inf), first, second


def merge(chains: Chains, moved: Tensor, keep: Tensor, gone: Tensor) -> None:
    """Join block `gone` (m,) into block `keep` (m,) in the chains listed in `moved` (m,); `units` is not updated."""
    pairs = chains.pairs
    row = pairs[:, moved, keep] + pairs[:, moved, gone]  # (4, m, B)
    inside = pairs[:, moved, keep, keep] + pairs[:, moved, gone, gone] + pairs[:, moved, keep, gone]
    wide = (4, -1, 1)
    row.scatter_(2, keep[None, :, None].expand(wide), inside[..., None])
    row.scatter_(2, gone[None, :, None].expand(wide), 0.0)
    for block, values in ((gone, torch.zeros_like(row)), (keep, row)):
        pairs[:, moved, block] = values
        pairs[:, moved, :, block] = values.transpose(0, 1)
    chains.sizes[moved, keep] += chains.sizes[moved, gone]
    chains.sizes[moved, gone] = 0
    labels = chains.labels[moved]
    chains.labels[moved] = torch.where(labels == gone[:, None], keep[:, None], labels)
    chains.terms[moved] = pair_terms(chains.model, chains.family[moved], pairs[:, moved])


def greedy_merges(chains: Chains) -> Tensor:
    """Join the best block pair of every chain while that shortens the description; return which chains changed."""
    changed = torch.zeros_like(chains.family, dtype=torch.bool)
    for _ in range(chains.sizes.shape[1] - 1):
        change, first, second = merge_changes(chains)
        best, pair = change.min(1)
        moved = (best < -TOLERANCE).nonzero().squeeze(1)
        if not moved.numel():
            break
        merge(chains, moved, first[pair[moved]], second[pair[moved]])
        changed[moved] = True
    return changed


def compact(labels: Tensor) -> Tensor:
    """Rename labels (S, N) so that each chain's non-empty blocks are 0 .. B - 1, in order of their old names."""
    used = torch.nn.functional.one_hot(labels).any(1)  # (S, B)
    return (used.long().cumsum(1) - 1).gather(1, labels)


def greedy_fit(model: Model, family: Tensor, labels: Tensor, orders: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Sweep, merge and sweep again until no chain merges; return labels (S, N) and description lengths (S,)."""
    labels, length = compact(labels), torch.empty_like(model.scale[family])
    active = torch.arange(len(labels), device=labels.device)
    while active.numel():
        labels[active] = settle(model, family[active], labels[active], orders)
        chains = build_chains(model, family[active], labels[active], int(labels[active].max()) + 1)
        changed = greedy_merges(chains)
        labels[active] = compact(chains.labels)
        length[active] = chains.description_length()
        active = active[changed]
    return labels, length


def settle(model: Model, family: Tensor, labels: Tensor, orders: list[list[int]]) -> Tensor:
    """Sweep greedily, one unit order a sweep, until no unit moves; chains that are done are left aside."""
    labels, active = labels.clone(), torch.arange(len(labels), device=labels.device)
    for order in orders:
        still = [active[:0]]
        for batch in batches(labels[active].amax(1) + 1):
            part = active[batch]
            chains = build_chains(model, family[part], labels[part], int(labels[part].max()) + 1)
            changed = greedy_sweep(chains, order)
            labels[part] = chains.labels
            still.append(part[changed])
        active = torch.cat(still).sort().values
        if not active.numel():
            break
    return labels


def batches(n_blocks: Tensor) -> list[Tensor]:
    """Group chains of similar numbers of blocks (S,) where the padding saved outweighs the cost of one more batch."""
    order = n_blocks.argsort(stable=True)
    sizes = n_blocks[order].square()
    saved = torch.arange(1, len(sizes), device=sizes.device) * (sizes[-1] - sizes[:-1])  # cut after 1, 2, ... chains
    if not saved.numel() or int(saved.max()) < BATCH_COST:
        return [order]
    cut = int(saved.argmax()) + 1
    return [part[inner] for part in (order[:cut], order[cut:]) for inner in batches(n_blocks[part])]


def metropolis_sweep(chains: Chains, order: list[int], gumbel: Tensor, log_uniform: Tensor) -> Tensor:
    """Offer every unit one move and return the accepted share (S,).

    The candidate t is drawn among the other blocks with probability exp(-delta_t) / (sum over u != r), r the present
    block; the Hastings ratio is then (1 - p_r) / (1 - p_t) with p the conditional of the unit's label (Liu 1996).
    """
    accepted = torch.zeros_like(chains.sizes[:, 0])
    for position, unit in enumerate(order):
        move = propose(chains, unit)
        score = -move.delta  # log conditional up to a constant, 0 at the present block
        others = score.scatter(1, move.source[:, None], -torch.inf)
        target = (others + gumbel[position]).argmax(1)
        back = torch.logsumexp(score.scatter(1, target[:, None], -torch.inf), 1)
        allowed = log_uniform[position] < torch.logsumexp(others, 1) - back
        moved = allowed.nonzero().squeeze(1)
        if moved.numel():
            accept(chains, unit, move, moved, target)
        accepted += allowed
    return accepted / len(order)
