"""Merges and splits of clusters, and merges of states, during burn-in, by evidence. Never used after burn-in."""

from __future__ import annotations

import torch
from torch import Tensor

from ...stats.conjugate import RegressionStatistics, log_evidence, update_regression
from ...stats.mixtures import partition_log_prob
from .evidence import Group, fit_groups
from .labels import Components, compact
from .model import Data, Hyper, State, cluster_sizes, membership, n_active, states_log_prob
from .modes import spectral_embedding, unit_affinity
from .paths import dynamics_statistics

ROUNDS = 8


def evidence_of_chains(state: State, data: Data, hyper: Hyper) -> Tensor:
    """Evidence of every chain's partition and states, priors included: (chain,).

    Parameters
    ----------
    state, data, hyper
        State of the chains, counts, constants.

    Returns
    -------
    Tensor
        (chain,).
    """
    sizes = cluster_sizes(state.labels, n_active(state))
    total = torch.where(sizes > 0, evidence_of_clusters(state, data, hyper, rounds=12), 0.0).sum(-1)
    if not hyper.poisson:  # what the evidence leaves out depends on the dispersions
        r = state.log_r.exp().unsqueeze(-1)
        total = total + ((torch.lgamma(data.counts + r) - torch.lgamma(r)) * data.observed).sum((-2, -1))
        total = total + (hyper.r_shape * state.log_r - hyper.r_rate * state.log_r.exp()).sum(-1)
    return total + partition_log_prob(sizes, hyper.partition) + states_log_prob(state.states, data, hyper)


def evidence_of_clusters(state: State, data: Data, hyper: Hyper, *, rounds: int) -> Tensor:
    """Evidence of the occupied clusters, from the paths that the chains have: (chain, cluster), -inf for others."""
    n_clusters = n_active(state)
    chain, owner = (cluster_sizes(state.labels, n_clusters) > 0).nonzero(as_tuple=True)
    member = membership(state.labels, n_clusters, like=state.beta)
    found = fit_groups(member[chain, owner], state.log_r[chain], state.states[chain], data, hyper, rounds=rounds,
                       path=state.path[chain, owner], everyone=False)  # fmt: skip
    blank = torch.full_like(member[..., 0], -torch.inf)
    return blank.index_put((chain, owner), found.mode.score)


def pairs_of(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """List the pairs of occupied clusters of every chain: (pair,) chains and (2, pair) clusters, the larger first."""
    there = sizes > 0
    chain, first, second = (there.unsqueeze(-1) & there.unsqueeze(-2)).triu(1).nonzero(as_tuple=True)
    larger = torch.where(sizes[chain, first] >= sizes[chain, second], first, second)
    return chain, torch.stack([larger, first + second - larger])


def merge_log_prior(labels: Tensor, chain: Tensor, pair: Tensor, width: int, hyper: Hyper) -> Tensor:
    """Log ratio of partition priors of every merge: (pair,)."""
    sizes = cluster_sizes(labels, width)[chain]
    moved = sizes.gather(1, pair[1].unsqueeze(1))
    merged = sizes.scatter_add(1, pair[0].unsqueeze(1), moved).scatter(1, pair[1].unsqueeze(1), 0)
    return partition_log_prob(merged, hyper.partition) - partition_log_prob(sizes, hyper.partition)


def disjoint(gain: Tensor, chain: Tensor, pair: Tensor) -> list[int]:
    """Choose merges that gain, best first, each cluster of a chain at most once."""
    taken: set[tuple[int, int]] = set()
    chosen = []
    gains, table = gain.tolist(), torch.stack([chain, pair[0], pair[1]], 1).tolist()
    for k in sorted(range(len(gains)), key=lambda k: -gains[k]):
        c, a, b = table[k]
        if gains[k] > 0 and (c, a) not in taken and (c, b) not in taken:
            taken |= {(c, a), (c, b)}
            chosen.append(k)
    return chosen


def _unique(groups: Tensor, chain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Different (chain, members) rows among groups (problem, unit), and the row of each."""
    rows, inverse = torch.cat([chain.unsqueeze(1), groups.long()], 1).unique(dim=0, return_inverse=True)
    return rows[:, 1:].to(groups.dtype), rows[:, 0], inverse


def merge_clusters(state: State, data: Data, hyper: Hyper) -> State:
    """Merge pairs of clusters where the evidence gains, best pairs first, each cluster at most once.

    Clusters as they are get the better of two fits, one from their rates and one from the path of the chain.

    Parameters
    ----------
    state, data, hyper
        State of the chains, counts, constants.

    Returns
    -------
    State
    """
    n_clusters = n_active(state)
    chain, pair = pairs_of(cluster_sizes(state.labels, n_clusters))
    if len(chain) == 0:
        return state
    member = membership(state.labels, n_clusters, like=state.beta)
    large, small = member[chain, pair[0]], member[chain, pair[1]]
    groups, chains, row = _unique(torch.cat([large + small, large, small]), chain.repeat(3))
    given = (state.log_r[chains], state.states[chains])
    scores = fit_groups(groups, *given, data, hyper, rounds=ROUNDS, everyone=False).mode.score[row]
    together, one, other = scores.chunk(3)
    own = evidence_of_clusters(state, data, hyper, rounds=ROUNDS)
    one, other = torch.maximum(one, own[chain, pair[0]]), torch.maximum(other, own[chain, pair[1]])
    gain = together - one - other + merge_log_prior(state.labels, chain, pair, n_clusters, hyper)
    chosen = disjoint(gain, chain, pair)
    if not chosen:
        return state
    rows = row[chosen]
    found = fit_groups(groups[rows], given[0][rows], given[1][rows], data, hyper, rounds=ROUNDS)
    labels, beta, path = state.labels.clone(), state.beta.clone(), state.path.clone()
    for n, k in enumerate(chosen):
        c, a, inside = chain[k], pair[0, k], groups[row[k]] > 0
        labels[c, inside] = a
        beta[c, inside] = found.mode.beta[n, inside]
        path[c, a] = found.mode.path[n]
    return _renumber(state._replace(beta=beta, path=path), labels, n_clusters)


def halve(
    member: Tensor, log_r: Tensor, states: Tensor, data: Data, hyper: Hyper, affinity: Tensor, *, tries: int = 3
) -> tuple[Tensor, Group]:
    """Part groups of units in two: by the sign of an eigenvector, then each unit chooses among refitted halves.

    Parameters
    ----------
    member : Tensor
        (problem, unit) indicator.
    log_r, states, data, hyper
        As for :func:`fit_groups`.
    affinity : Tensor
        (unit, unit).
    tries : int
        Fits of the halves.

    Returns
    -------
    tuple of Tensor and Group
        (2, problem, unit) indicators of the halves, and the fits of both, one after the other.
    """
    side = spectral_embedding(affinity, member, 2)[..., 1] > 0
    halves = torch.stack([member * side, member * ~side])
    twice, path = (log_r.repeat(2, 1), states.repeat(2, 1)), None
    for n in range(tries):
        found = fit_groups(halves.flatten(0, 1), *twice, data, hyper, path=path, rounds=ROUNDS)
        if n + 1 < tries:
            left, right = found.mode.evidence.chunk(2)
            halves, path = torch.stack([member * (left >= right), member * (left < right)]), found.mode.path
    return halves, found


def split_clusters(state: State, data: Data, hyper: Hyper) -> State:
    """Split the clusters whose two halves have more evidence than the whole, at most one of each chain.

    Parameters
    ----------
    state, data, hyper
        State of the chains, counts, constants.

    Returns
    -------
    State
    """
    n_clusters = n_active(state)
    sizes = cluster_sizes(state.labels, n_clusters)
    chain, owner = (sizes >= 4).nonzero(as_tuple=True)
    if len(chain) == 0 or n_clusters >= hyper.n_slots:
        return state
    member = membership(state.labels, n_clusters, like=state.beta)[chain, owner]  # (problem, unit)
    given = (state.log_r[chain], state.states[chain])
    whole = fit_groups(member, *given, data, hyper, rounds=ROUNDS, everyone=False)
    halves, found = halve(member, *given, data, hyper, unit_affinity(data))
    left, right = found.mode.score.chunk(2)
    both = halves.sum(-1).long()  # (2, problem)
    rows = torch.nn.functional.pad(sizes[chain], (0, 1))
    parted = rows.scatter(1, owner.unsqueeze(1), both[0].unsqueeze(1))
    parted[:, -1] = both[1]
    prior = partition_log_prob(parted, hyper.partition) - partition_log_prob(rows, hyper.partition)
    one = torch.maximum(whole.mode.score, evidence_of_clusters(state, data, hyper, rounds=ROUNDS)[chain, owner])
    gain = torch.where((both > 0).all(0), left + right - one + prior, -torch.inf)
    return _carry_out(state, gain, halves, found, torch.stack([chain, owner], 1).tolist(), n_clusters)


def _carry_out(
    state: State, gain: Tensor, halves: Tensor, found: Group, table: list[list[int]], n_clusters: int
) -> State:
    """Carry out the best split of every chain that gains; the second half goes to a fresh slot."""
    labels, beta, path = state.labels.clone(), state.beta.clone(), state.path.clone()
    matrix, noise = state.matrix.clone(), state.noise.clone()
    taken: set[int] = set()
    gains = gain.tolist()
    for k in sorted(range(len(gains)), key=lambda k: -gains[k]):
        c, a = table[k]
        if not gains[k] > 0 or c in taken:
            continue
        taken.add(c)
        for half, slot in ((0, a), (1, n_clusters)):
            inside, place = halves[half, k] > 0, k + half * len(table)
            labels[c, inside] = slot
            beta[c, inside] = found.mode.beta[place, inside]
            path[c, slot] = found.mode.path[place]
            matrix[c, slot], noise[c, slot] = state.matrix[c, a], state.noise[c, a]
    made = state._replace(beta=beta, path=path, matrix=matrix, noise=noise)
    return _renumber(made, labels, n_clusters + 1)


def _renumber(state: State, labels: Tensor, width: int) -> State:
    """Put occupied clusters first."""
    parts = (state.path[:, :width], state.matrix[:, :width], state.noise[:, :width])
    return compact(state, Components(*parts, torch.zeros_like(state.path[:, :width, 0, 0])), labels)


def merge_states(state: State, data: Data, hyper: Hyper) -> State:
    """Merge states whose steps, given the paths, are better described by one law of dynamics than by two.

    The dynamics are integrated out (their truncation is not), paths are held. One pair of each chain at a time.

    Parameters
    ----------
    state, data, hyper
        State of the chains, counts, constants.

    Returns
    -------
    State
    """
    n_clusters = n_active(state)
    occupied = cluster_sizes(state.labels, n_clusters) > 0
    first, second = torch.triu_indices(hyper.n_states, hyper.n_states, 1, device=state.states.device)
    for _ in range(hyper.n_states - 1):
        sums = dynamics_statistics(state.path[:, :n_clusters], state.states, data, hyper.n_states)
        axes = (2, 2, 2, 2)
        parts = RegressionStatistics(*(x.index_select(d, first) for x, d in zip(sums, axes, strict=True)))
        others = RegressionStatistics(*(x.index_select(d, second) for x, d in zip(sums, axes, strict=True)))
        both = RegressionStatistics(*(a + b for a, b in zip(parts, others, strict=True)))

        def evidence(part: RegressionStatistics) -> Tensor:
            found = log_evidence(hyper.regression, update_regression(hyper.regression, part), part)
            return torch.where(occupied.unsqueeze(-1), found, 0.0).sum(1)  # (chain, pair)

        seen = (parts.n_observations[:, 0] > 0) & (others.n_observations[:, 0] > 0)
        gain = torch.where(seen, evidence(both) - evidence(parts) - evidence(others), -torch.inf)
        best, which = gain.max(-1)
        merged = (state.states == second[which].unsqueeze(-1)) & (best > 0).unsqueeze(-1)
        if not bool(merged.any()):
            break
        state = state._replace(states=torch.where(merged, first[which].unsqueeze(-1), state.states))
    return state
