"""Where the chains start: spectral clusters of units, modes of their paths, k-means states. Starts decide much here."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...stats.clustering import kmeans
from ...stats.distributions import sample_uniform
from ...stats.mixtures import partition_log_prob
from .labels import Components, compact
from .model import POISSON_DISPERSION, Data, Hyper, State, cluster_sizes, membership
from .modes import (
    WALK_VARIANCES,
    Mode,
    first_path,
    fit_mode,
    log_rates,
    random_walk,
    smooth_in_time,
    spectral_embedding,
    unit_affinity,
)
from .paths import sample_dynamics, sample_prior_dynamics
from .splits import disjoint, merge_log_prior, pairs_of, path_bonus, solve
from .sweep import update_transitions

FIRST_R = 5.0
FIRST_PARTS = (12, 9, 7)  # of the candidates of a chain; a group of p factors has p + 1 eigenvectors
ROUNDS = 12
CROSS_ROUNDS = 4
WINDOW = 15  # bins over which the energy of paths is averaged


def initial_state(n_chains: int, data: Data, hyper: Hyper, generator: torch.Generator) -> tuple[State, float]:
    """Start the chains.

    Parameters
    ----------
    n_chains : int
        Chains; each starts from the best of three candidates of its own.
    data, hyper
        Counts and constants.
    generator : torch.Generator
        A CPU generator, so that every device starts alike.

    Returns
    -------
    tuple of State and float
        The start, and the variance of a random walk that suits the paths.
    """
    n_units, n_time = data.counts.shape
    most = min(hyper.n_slots, n_units)
    wanted = [min(parts, most) for _ in range(n_chains) for parts in FIRST_PARTS]
    like, many = data.observed.new_zeros(n_chains, n_units), data.observed.new_zeros(len(wanted), n_units)
    width = max(wanted)
    log_r = first_log_r(many, hyper)
    labels = spectral_labels(data, torch.tensor(wanted, device=like.device), width, generator)
    walk = choose_walk(membership(labels[:1], width, like=like)[0], log_r[:1], data, hyper)
    labels = agglomerate(labels, width, log_r, data, hyper, walk=walk)
    labels, path = cross_fit(labels, width, log_r, data, hyper, generator, walk=walk)
    member = membership(labels, width, like=like)  # (candidate, cluster, unit)
    mode = solve(member.flatten(0, 1), log_r.repeat_interleave(width, 0), data, hyper, walk=walk, path=path,
                 rounds=ROUNDS)  # fmt: skip
    mode, labels, member = best_starts(mode, labels, member, n_chains, data, hyper)
    log_r = first_log_r(like, hyper)
    path = mode.path.unflatten(0, (n_chains, width))
    chains, units = torch.arange(n_chains, device=like.device).unsqueeze(-1), torch.arange(n_units, device=like.device)
    beta = mode.beta.unflatten(0, (n_chains, width))[chains, labels, units]
    occupied = member.sum(-1) > 0
    states = first_states(path, occupied, hyper.n_states, generator)
    matrix, noise = sample_prior_dynamics(n_chains, hyper.n_slots, hyper, generator)
    log_base = torch.full_like(like[:, :1], -math.log(hyper.n_states)).expand(-1, hyper.n_states)
    log_pi = log_base.unsqueeze(1).expand(-1, hyper.n_states, -1)
    current = (matrix[:, :width], noise[:, :width])
    drawn = sample_dynamics(path, states, data, hyper, generator, current=current)
    blank = like.new_zeros(n_chains, hyper.n_slots, n_time, hyper.n_factors + 1)
    state = State(labels, beta, log_r, blank, states, matrix, noise, log_pi, log_base, like.new_zeros(n_chains, 5))
    state = compact(state, Components(path, *drawn, torch.zeros_like(path[..., 0, 0])), labels)
    return update_transitions(state, data, hyper, generator), walk


def best_starts(
    mode: Mode, labels: Tensor, member: Tensor, n_chains: int, data: Data, hyper: Hyper
) -> tuple[Mode, Tensor, Tensor]:
    """Keep the candidate of most evidence of every chain."""
    n_candidates, width = member.shape[:2]
    sizes = member.sum(-1)
    scores = torch.where(sizes > 0, mode.score.unflatten(0, (n_candidates, width)), 0.0).sum(-1)
    scores = scores + partition_log_prob(sizes.long(), hyper.partition) + path_bonus(data, hyper) * (sizes > 0).sum(-1)
    each = n_candidates // n_chains
    first = each * torch.arange(n_chains, device=labels.device)
    chosen = first + scores.unflatten(0, (n_chains, each)).argmax(-1)
    kept = (x.unflatten(0, (n_candidates, width))[chosen].flatten(0, 1) for x in mode)
    return Mode(*kept), labels[chosen], member[chosen]


def first_log_r(like: Tensor, hyper: Hyper) -> Tensor:
    """Log dispersions at the start, or those of the surrogate of Poisson counts."""
    return torch.full_like(like, math.log(POISSON_DISPERSION if hyper.poisson else FIRST_R))


def choose_walk(members: Tensor, log_r: Tensor, data: Data, hyper: Hyper) -> float:
    """Choose how fast paths may move: the variance of a random walk under which a first partition is most evident."""
    scores = [float(solve(members, log_r.expand(len(members), -1), data, hyper, walk=v).score.sum())
              for v in WALK_VARIANCES]  # fmt: skip
    return WALK_VARIANCES[scores.index(max(scores))]


def agglomerate(labels: Tensor, width: int, log_r: Tensor, data: Data, hyper: Hyper, *, walk: float) -> Tensor:
    """Merge parts while the evidence of two together, under a random walk, exceeds that of the two apart.

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
    walk : float
        Variance of a step of the paths' prior.

    Returns
    -------
    Tensor
        (chain, unit).
    """
    known: dict[tuple[int, ...], float] = {}
    for _ in range(width):
        member = membership(labels, width, like=log_r)
        chain, pair = pairs_of(cluster_sizes(labels, width))
        if len(chain) == 0:
            break
        large, small = member[chain, pair[0]], member[chain, pair[1]]
        scores = _remembered(torch.cat([large + small, large, small]), log_r[chain].repeat(3, 1), data, hyper, walk,
                             known)  # fmt: skip
        together, one, other = scores.chunk(3)
        gain = together - one - other + merge_log_prior(labels, chain, pair, width, data, hyper)
        chosen = disjoint(gain, chain, pair)
        if not chosen:
            break
        labels = labels.clone()
        for k in chosen:
            labels[chain[k], small[k] > 0] = pair[0, k]
    return labels


def _remembered(
    groups: Tensor, log_r: Tensor, data: Data, hyper: Hyper, walk: float, known: dict[tuple[int, ...], float]
) -> Tensor:
    """Score groups (problem, unit) of units, each different one only once (all dispersions are equal here)."""
    names = [tuple(row) for row in groups.long().tolist()]
    new = list(dict.fromkeys(name for name in names if name not in known))
    if new:
        rows = [names.index(name) for name in new]
        known.update(zip(new, solve(groups[rows], log_r[rows], data, hyper, walk=walk).score.tolist(), strict=True))
    return groups.new_tensor([known[name] for name in names])


def cross_fit(
    labels: Tensor, width: int, log_r: Tensor, data: Data, hyper: Hyper, generator: torch.Generator, *, walk: float
) -> tuple[Tensor, Tensor]:
    """Refine a partition: paths are fitted to a random half of the units, and the other half choose among them.

    No unit sees a path that it helped to fit, so that clusters that predict nobody else die out.

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
    walk : float
        Variance of a step of the paths' prior.

    Returns
    -------
    tuple of Tensor
        (chain, unit) labels and (chain * cluster, time, q) paths.
    """
    like, wide = log_r, log_r.repeat_interleave(width, 0)
    path = first_path(membership(labels, width, like=like).flatten(0, 1), log_rates(data), hyper.n_factors)
    steps = random_walk(path, data.starts, walk)
    for _ in range(CROSS_ROUNDS):
        half = sample_uniform(like, generator) < 0.5
        used = (membership(labels, width, like=like) * half.unsqueeze(1)).flatten(0, 1)
        found = fit_mode(used, path, steps, data=data, poisson=hyper.poisson, rounds=4, log_r=wide, centre=True)
        path = found.path
        scores = found.evidence.unflatten(0, (len(labels), width))  # (chain, cluster, unit)
        sizes = used.sum(-1).unflatten(0, (len(labels), width))
        scores = scores + (sizes + 0.5).log().unsqueeze(-1)
        labels = torch.where(half, labels, scores.argmax(1))
    return labels, path


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


def first_states(path: Tensor, occupied: Tensor, n_states: int, generator: torch.Generator) -> Tensor:
    """Segment time by the energy of paths and of their changes: two states, three in every fourth chain.

    Parameters
    ----------
    path : Tensor
        (chain, cluster, time, q).
    occupied : Tensor
        (chain, cluster) bool.
    n_states : int
        L.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        (chain, time) int64.
    """
    n_chains, n_clusters, n_time, q = path.shape
    change = torch.nn.functional.pad(path.diff(dim=-2), (0, 0, 1, 0))
    energy = torch.stack([path.square(), change.square()], -1).movedim(2, -1)  # (chain, cluster, q, 2, time)
    rows = energy.reshape(-1, n_time)
    rows = (smooth_in_time(rows, torch.ones_like(rows), WINDOW / 2) + 1e-6).log()
    spread = rows.std(-1, keepdim=True).clamp(min=1e-12) if n_time > 1 else torch.ones_like(rows[:, :1])
    rows = (rows - rows.mean(-1, keepdim=True)) / spread
    features = rows.reshape(n_chains, n_clusters, 2 * q, n_time) * occupied[..., None, None]
    points = features.flatten(1, 2).mT  # (chain, time, feature)
    wanted = torch.tensor([min(3 if k % 4 == 3 else 2, n_states) for k in range(n_chains)], device=path.device)
    uniforms = sample_uniform(points[:, :1, :1].expand(-1, 1, 3).squeeze(1), generator)
    return kmeans(points, wanted, uniforms=uniforms)
