"""Where the chains start: spectral clusters of units, modes of their paths, k-means states. Starts decide much here."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...stats.clustering import kmeans
from ...stats.distributions import sample_uniform
from ...stats.mixtures import partition_log_prob
from .evidence import fit_groups
from .labels import Components, compact
from .model import POISSON_DISPERSION, Data, Hyper, State, cluster_sizes, make_data, membership
from .modes import smooth_in_time, spectral_embedding, unit_affinity
from .paths import sample_dynamics, sample_prior_dynamics
from .splits import disjoint, halve, merge_log_prior, pairs_of
from .sweep import update_transitions
from .switching import fit_states

FIRST_R = 5.0
FIRST_PARTS = (5, 4, 3, 7, 2, 9)  # of chains in turn; a group of p factors has p + 1 eigenvectors
CROSS_ROUNDS, SEARCH_ROUNDS = 4, 3
AS_GOOD = 10.0  # nats
WINDOW = 5.0  # bins, standard deviation of the average of the energy of paths
TRIMS = (0.15, 0.2, 0.25, 0.3)  # shares of time that begin as surely quiet, and as surely loud
UNSURE = 0.02
SEARCHED, STRETCHES = 2000, 4  # bins in which partitions are searched for where there are more; stretches of them


def initial_state(n_chains: int, data: Data, hyper: Hyper, generator: torch.Generator) -> State:
    """Start the chains.

    Parameters
    ----------
    n_chains : int
        Chains; they start from the best of some searches, or from several where these are about as good.
    data, hyper
        Counts and constants.
    generator : torch.Generator
        A CPU generator, so that every device starts alike.

    Returns
    -------
    State
    """
    n_units, n_time = data.counts.shape
    most = min(hyper.n_slots, n_units)
    wanted = [min(FIRST_PARTS[c % len(FIRST_PARTS)], most) for c in range(max(len(FIRST_PARTS), n_chains))]
    like, width = data.observed.new_zeros(n_chains, n_units), max(wanted)
    some, one = excerpt(data, SEARCHED, STRETCHES), hyper._replace(n_states=1)
    labels = spectral_labels(some, torch.tensor(wanted, device=like.device), width, generator)
    labels = search(labels, width, first_log_r(like[:1], hyper).expand(len(wanted), -1), some, one, generator)
    labels = labels[torch.arange(n_chains, device=labels.device) % len(labels)]
    log_r = first_log_r(like, hyper)
    states, path, beta = first_states(labels, width, log_r, data, hyper)
    matrix, noise = sample_prior_dynamics(n_chains, hyper.n_slots, hyper, generator)
    log_base = torch.full_like(like[:, :1], -math.log(hyper.n_states)).expand(-1, hyper.n_states)
    log_pi = log_base.unsqueeze(1).expand(-1, hyper.n_states, -1)
    current = (matrix[:, :width], noise[:, :width])
    drawn = sample_dynamics(path, states, data, hyper, generator, current=current)
    blank = like.new_zeros(n_chains, hyper.n_slots, n_time, hyper.n_factors + 1)
    state = State(labels, beta, log_r, blank, states, matrix, noise, log_pi, log_base, like.new_zeros(n_chains, 5))
    state = compact(state, Components(path, *drawn, torch.zeros_like(path[..., 0, 0])), labels)
    return update_transitions(state, data, hyper, generator)


def excerpt(data: Data, most: int, n_stretches: int) -> Data:
    """Take stretches of equal length, evenly spread, of a recording of more than ``most`` bins.

    A partition of the units that some thousands of bins do not tell is not told by more of them within the burn-in, and
    every fit of a group costs in proportion to bins.

    Parameters
    ----------
    data : Data
        Counts.
    most : int
        Bins.
    n_stretches : int
        Stretches; each begins like a session.

    Returns
    -------
    Data
    """
    n_time = data.counts.shape[1]
    if n_time <= most:
        return data
    device = data.starts.device
    length = most // n_stretches
    begins = torch.linspace(0, n_time - length, n_stretches, dtype=torch.float64).long().to(device)
    bins = (begins.unsqueeze(-1) + torch.arange(length, device=device)).flatten()
    starts = data.starts[bins].clone()
    starts[::length] = True
    offset = data.offset[:, bins] if data.offset.shape[1] > 1 else data.offset
    return make_data(data.counts[:, bins], data.observed[:, bins] > 0, starts=starts, offset=offset,
                     covariates=data.covariates[bins])  # fmt: skip


def first_log_r(like: Tensor, hyper: Hyper) -> Tensor:
    """Log dispersions at the start, or those of the surrogate of Poisson counts."""
    return torch.full_like(like, math.log(POISSON_DISPERSION if hyper.poisson else FIRST_R))


def search(labels: Tensor, width: int, log_r: Tensor, data: Data, hyper: Hyper, generator: torch.Generator) -> Tensor:
    """Search for partitions of much evidence: merge, let units choose, split, several times; keep the best.

    Parameters
    ----------
    labels : Tensor
        (chain, unit).
    width : int
        Clusters.
    log_r : Tensor
        (chain, unit).
    data, hyper
        Counts and constants.
    generator : torch.Generator
        A CPU generator.

    Returns
    -------
    Tensor
        (start, unit) labels, the best first, none much worse than it.
    """
    affinity = unit_affinity(data)
    known: dict[tuple[int, ...], float] = {}
    labels = agglomerate(labels, width, log_r, data, hyper, known)
    best, highest = labels, total_evidence(labels, width, log_r, data, hyper, known)
    tried: set[tuple[int, ...]] = set()
    for n in range(SEARCH_ROUNDS):
        before = labels
        labels = choose_again(labels, width, log_r, data, hyper, generator if n == 0 else None)
        labels = agglomerate(labels, width, log_r, data, hyper, known)
        labels = part(labels, width, log_r, data, hyper, known, affinity, tried)
        found = total_evidence(labels, width, log_r, data, hyper, known)
        best = torch.where((found > highest).unsqueeze(-1), labels, best)
        highest = torch.maximum(found, highest)
        if bool((membership(labels, width, like=log_r) == membership(before, width, like=log_r)).all()):
            break
    best = agglomerate(best, width, log_r, data, hyper, known)
    found = total_evidence(best, width, log_r, data, hyper, known)
    order = found.argsort(descending=True)
    return best[order[found[order] >= found.max() - AS_GOOD]]


def total_evidence(
    labels: Tensor, width: int, log_r: Tensor, data: Data, hyper: Hyper, known: dict[tuple[int, ...], float]
) -> Tensor:
    """Evidence of whole partitions under one state, prior included: (chain,)."""
    member = membership(labels, width, like=log_r)
    sizes = member.sum(-1)
    chain, owner = (sizes > 0).nonzero(as_tuple=True)
    scores = _remembered(member[chain, owner], log_r[chain], data, hyper, known)
    return partition_log_prob(sizes.long(), hyper.partition).index_add(0, chain, scores)


def part(
    labels: Tensor, width: int, log_r: Tensor, data: Data, hyper: Hyper, known: dict[tuple[int, ...], float],
    affinity: Tensor, tried: set[tuple[int, ...]],
) -> Tensor:  # fmt: skip
    """Part every cluster in two where that gains evidence; none is tried twice."""
    member = membership(labels, width, like=log_r)
    sizes = member.sum(-1)
    chain, owner = (sizes >= 4).nonzero(as_tuple=True)
    names = [tuple(row) for row in member[chain, owner].long().tolist()]
    new = torch.tensor([name not in tried for name in names], dtype=torch.bool, device=labels.device)
    chain, owner = chain[new], owner[new]
    tried.update(names)
    if len(chain) == 0:
        return labels
    whole, inverse = member[chain, owner].unique(dim=0, return_inverse=True)
    none = torch.zeros(len(whole), data.counts.shape[1], dtype=torch.int64, device=labels.device)
    halves, _ = halve(whole, log_r[:1].expand(len(whole), -1), none, data, hyper, affinity)
    left, right = halves[:, inverse]
    labels, sizes = labels.clone(), sizes.long()
    scores = _remembered(torch.cat([whole[inverse], left, right]), log_r[chain].repeat(3, 1), data, hyper, known)
    together, one, other = scores.tolist()[: len(chain)], *scores[len(chain) :].reshape(2, -1).tolist()
    for k, (c, j) in enumerate(zip(chain.tolist(), owner.tolist(), strict=True)):
        free = (sizes[c] == 0).nonzero().flatten()
        n = int(right[k].sum())
        if len(free) == 0 or n == 0 or n == int(sizes[c, j]):
            continue
        parted = sizes[c].clone()
        parted[j], parted[free[0]] = sizes[c, j] - n, n
        prior = partition_log_prob(parted, hyper.partition) - partition_log_prob(sizes[c], hyper.partition)
        if one[k] + other[k] - together[k] + float(prior) > 0:
            labels[c, right[k] > 0] = free[0]
            sizes[c] = parted
    return labels


def agglomerate(
    labels: Tensor, width: int, log_r: Tensor, data: Data, hyper: Hyper, known: dict[tuple[int, ...], float]
) -> Tensor:
    """Merge parts while the evidence of two together exceeds that of the two apart, under one state.

    Parameters
    ----------
    labels : Tensor
        (chain, unit).
    width : int
        Clusters.
    log_r : Tensor
        (chain, unit).
    data, hyper
        Counts and constants.
    known : dict
        Evidence of groups that were scored already; added to.

    Returns
    -------
    Tensor
        (chain, unit).
    """
    for _ in range(width):
        member = membership(labels, width, like=log_r)
        chain, pair = pairs_of(cluster_sizes(labels, width))
        if len(chain) == 0:
            break
        large, small = member[chain, pair[0]], member[chain, pair[1]]
        scores = _remembered(torch.cat([large + small, large, small]), log_r[chain].repeat(3, 1), data, hyper, known)
        together, one, other = scores.chunk(3)
        gain = together - one - other + merge_log_prior(labels, chain, pair, width, hyper)
        chosen = disjoint(gain, chain, pair)
        if not chosen:
            break
        labels = labels.clone()
        for k in chosen:
            labels[chain[k], small[k] > 0] = pair[0, k]
    return labels


def _remembered(groups: Tensor, log_r: Tensor, data: Data, hyper: Hyper, known: dict[tuple[int, ...], float]) -> Tensor:
    """Score groups (problem, unit) of units, each different one only once (all dispersions are equal here)."""
    names = [tuple(row) for row in groups.long().tolist()]
    new = list(dict.fromkeys(name for name in names if name not in known))
    if new:
        rows = [names.index(name) for name in new]
        none = torch.zeros(len(rows), data.counts.shape[1], dtype=torch.int64, device=groups.device)
        found = fit_groups(groups[rows], log_r[rows], none, data, hyper, everyone=False)
        known.update(zip(new, found.mode.score.tolist(), strict=True))
    return groups.new_tensor([known[name] for name in names])


def choose_again(
    labels: Tensor, width: int, log_r: Tensor, data: Data, hyper: Hyper, generator: torch.Generator | None
) -> Tensor:
    """Refine a partition: paths are fitted, and units choose among them.

    With a generator, paths are fitted to a random half of the units and the other half choose, four times: no unit sees
    a path that it helped to fit, so that clusters that predict nobody else die out. Without, all units fit and choose.

    Parameters
    ----------
    labels : Tensor
        (chain, unit).
    width : int
        Clusters.
    log_r : Tensor
        (chain, unit).
    data, hyper
        Counts and constants.
    generator : torch.Generator or None
        A CPU generator.

    Returns
    -------
    Tensor
        (chain, unit) labels.
    """
    n_chains = len(labels)
    for _ in range(1 if generator is None else CROSS_ROUNDS):
        kept = (
            torch.zeros_like(log_r, dtype=torch.bool) if generator is None else sample_uniform(log_r, generator) < 0.5
        )
        used = membership(labels, width, like=log_r)
        if generator is not None:
            used = used * kept.unsqueeze(1)  # (chain, cluster, unit)
        chain, owner = (used.sum(-1) > 0).nonzero(as_tuple=True)
        none = labels.new_zeros(len(chain), data.counts.shape[1])
        found = fit_groups(used[chain, owner], log_r[chain], none, data, hyper, rounds=4)
        scores = torch.full((n_chains, width, labels.shape[1]), -torch.inf, dtype=log_r.dtype, device=log_r.device)
        scores[chain, owner] = found.mode.evidence + (used[chain, owner].sum(-1, keepdim=True) + 0.5).log()
        labels = torch.where(kept, labels, scores.argmax(1))
    return labels


def spectral_labels(data: Data, n_clusters: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Cluster units by the correlation of their smoothed counts, each chain with its own number of clusters.

    Parameters
    ----------
    data : Data
        Counts.
    n_clusters : Tensor
        (chain,) int64.
    width : int
        The largest of them.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        (chain, unit) int64.
    """
    everyone = torch.ones_like(data.observed[:, 0]).unsqueeze(0)
    vectors = spectral_embedding(unit_affinity(data), everyone, width)  # (1, unit, width)
    own = torch.arange(width, device=vectors.device) < n_clusters[:, None, None]
    points = torch.where(own, vectors, 0.0)
    points = points / points.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return kmeans(points, n_clusters, uniforms=sample_uniform(points[:, 0], generator))


def first_states(
    labels: Tensor, width: int, log_r: Tensor, data: Data, hyper: Hyper
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Fit two states to every chain's partition, from several segmentations; keep the fit of most evidence.

    Quiet bins begin in one state, loud ones in the other, and all between in both alike: a state in which paths grow
    from nothing begins quietly.

    Parameters
    ----------
    labels : Tensor
        (chain, unit).
    width : int
        Clusters.
    log_r : Tensor
        (chain, unit).
    data, hyper
        Counts and constants.

    Returns
    -------
    tuple of Tensor
        (chain, time) states, (chain, cluster, time, q) paths, (chain, unit, P) coefficients.
    """
    n_time = data.counts.shape[1]
    different, inverse = labels.unique(dim=0, return_inverse=True)
    member = membership(different, width, like=log_r)
    owner, cluster = (member.sum(-1) > 0).nonzero(as_tuple=True)
    member, given = member[owner, cluster], log_r[:1].expand(len(owner), -1)
    one = hyper._replace(n_states=1)
    mode = fit_groups(member, given, labels.new_zeros(len(owner), n_time), data, one, everyone=False).mode
    energy = log_r.new_zeros(len(different), n_time).index_add_(0, owner, path_energy(mode.path))
    weights = segmentations(energy, min(2, hyper.n_states))  # (partition, trial, time, state)
    n_trials = weights.shape[1]
    every = (owner.unsqueeze(-1) * n_trials + torch.arange(n_trials, device=owner.device)).flatten()
    member, given, path = (x.repeat_interleave(n_trials, 0) for x in (member, given, mode.path))
    found = fit_states(member, every, given, weights.flatten(0, 1), data, hyper, path=path)
    best = found.score.unflatten(0, (-1, n_trials)).argmax(-1)[inverse]  # (chain,)
    chosen = inverse * n_trials + best
    start = log_r.new_zeros(len(different) * n_trials, width, n_time, hyper.n_factors + 1)
    start[every, cluster.repeat_interleave(n_trials)] = found.path
    beta = log_r.new_zeros(len(start), *found.beta.shape[1:]).index_add_(0, every, found.beta)
    return found.weights.argmax(-1)[chosen], start[chosen], beta[chosen]


def path_energy(path: Tensor) -> Tensor:
    """Square of the distance of paths from their means: (group, time)."""
    return (path - path.mean(1, keepdim=True)).square().sum(-1)


def segmentations(energy: Tensor, n_states: int) -> Tensor:
    """Weights (problem, trial, time, state) of the quietest and loudest bins, and of those between, which are open."""
    smooth = smooth_in_time(energy, torch.ones_like(energy), WINDOW)
    shares = torch.tensor(TRIMS, dtype=energy.dtype, device=energy.device)
    low, high = (torch.quantile(smooth, x, dim=-1).mT.unsqueeze(-1) for x in (shares, 1 - shares))
    side = (smooth.unsqueeze(1) >= high).to(energy.dtype) - (smooth.unsqueeze(1) <= low).to(energy.dtype)
    loud = 0.5 + (0.5 - UNSURE) * side
    return torch.stack([1 - loud, loud], -1) if n_states > 1 else torch.ones_like(loud).unsqueeze(-1)
