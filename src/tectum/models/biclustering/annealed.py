"""Splits and merges of clusters that leave the posterior alone, on a path of intermediate laws between one and two.

A merge turns the units of two clusters into units of one; the path of the other is left without units and forgotten. A
split makes the reverse way: it draws a fresh path for some of the units of a cluster. Between the two ends the units in
question belong to both clusters: the likelihood of the old one has the power 1 - t, that of the new one the power t. On
the way from t = 0 to 1 or back, paths, dynamics and coefficients of the two clusters move by steps that leave the
intermediate law alone; the product of the ratios of successive laws accepts or rejects the whole (annealed importance
sampling as a proposal between spaces of different dimension). Basis, level and scale of a path need no matching that
way: the fresh path grows in the basis that its units' coefficients have.

References
----------
Neal (1996), Statistics and Computing 6, 353-366. Karagiannis, Andrieu (2013), Journal of Computational and Graphical
Statistics 22, 623-648.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from ...stats.conjugate import (
    MatrixNormalInverseWishart,
    inverse_wishart_log_prob,
    is_stable,
    matrix_normal_log_prob,
    sample_regression,
    sample_stable_regression,
    update_regression,
)
from ...stats.distributions import sample_categorical, sample_exponential, sample_normal, sample_uniform
from ...stats.gaussian import augmented_evidence, sample_gaussian
from ...stats.mixtures import partition_log_prob
from ...stats.polya_gamma import sample_polya_gamma
from .labels import Components, compact
from .model import (
    MAX_RADIUS,
    Data,
    Hyper,
    State,
    cluster_sizes,
    design,
    fixed_part,
    membership,
    n_active,
    path_loadings,
)
from .paths import (
    dynamics_statistics,
    effective_states,
    look_up,
    make_tables,
    sample_path,
    sample_prior_path,
)

STEPS = 60  # laws between one cluster and two
LOW, HIGH = 3.0, 2.0  # how dense the laws lie where a fresh path, and where fresh coefficients settle
PG_TERMS = 2
FLOOR = 0.03  # of the weight of a pair of clusters in the choice of a merge, besides the affinity of their units
SURE = 3.0  # bound of the logits by which a split assigns units
ANYHOW = 0.2  # share of splits that assign units by tossing coins


class Guide(NamedTuple):
    """What proposes; it may depend on the counts and on which units a cluster has, on nothing that a move changes."""

    affinity: Tensor
    """(unit, unit) or (chain, unit, unit) non-negative: pairs of clusters with much of it are proposed for a merge."""
    logits: Callable[[Tensor], Tensor]
    """From (chain, unit) members of one cluster to (chain, unit) logits of belonging to its second part."""


class Move(NamedTuple):
    """Which clusters a move concerns, and the log probability ratio of choosing it."""

    whole: Tensor
    """(chain, unit) bool: units of the one cluster."""
    second: Tensor
    """(chain, unit) bool: those of the second part."""
    slots: Tensor
    """(chain, 2) int64 slots of the two parts."""
    log_ratio: Tensor
    """(chain,) prior and choices, two clusters over one; -inf where there is nothing to move."""


class Pair(NamedTuple):
    """The two clusters of every chain on their way: axis ``part`` has length 2."""

    beta: Tensor
    """(chain, part, unit, P)."""
    path: Tensor
    """(chain, part, time, q)."""
    matrix: Tensor
    """(chain, part, state, q, q + 1)."""
    noise: Tensor
    """(chain, part, state, q, q)."""


class Scene(NamedTuple):
    """What stays fixed on the way; units are those of the two clusters, padded to one width."""

    data: Data
    """Counts (chain, unit, time), unobserved where a unit is padding."""
    log_r: Tensor
    """(chain, unit)."""
    second: Tensor
    """(chain, unit) 1 for units of the second part."""
    states: Tensor
    """(chain, time)."""
    visited: Tensor
    """(chain, state) bool: states that govern a step."""


def split_or_merge(state: State, data: Data, hyper: Hyper, generator: torch.Generator, *, guide: Guide,
                   steps: int = STEPS) -> tuple[State, Tensor]:  # fmt: skip
    """Try to split one cluster of every chain, or to merge two, with the exact acceptance ratio.

    Parameters
    ----------
    state, data, hyper
        State of the chains, counts, constants.
    generator : torch.Generator
        Source of random numbers; its seed decides in every chain between a split and a merge.
    guide : Guide
        What proposes.
    steps : int
        Laws between one cluster and two; more are dearer and accepted more often.

    Returns
    -------
    tuple of State and Tensor
        Next state, and (chain,) bool of the chains that moved.
    """
    draw = torch.Generator().manual_seed(generator.initial_seed() ^ 0xA11EA1)
    coins = torch.rand(len(state.labels), generator=draw) < 0.5
    moved = torch.zeros_like(state.labels[:, 0], dtype=torch.bool)
    for up in (True, False):
        chains = (coins == up).nonzero().squeeze(-1).to(moved.device)
        if len(chains) == 0:
            continue
        counts = data.counts if data.counts.ndim == 2 else data.counts[chains]
        own = guide if guide.affinity.ndim == 2 else guide._replace(affinity=guide.affinity[chains])
        part = State(*(x[chains] for x in state))
        part, accepted = _one_way(part, data._replace(counts=counts), hyper, generator, guide=own, steps=steps, up=up)
        state = State(*(x.index_copy(0, chains, y) for x, y in zip(state, part, strict=True)))
        moved = moved.index_copy(0, chains, accepted)
    return state, moved


def _one_way(
    state: State, data: Data, hyper: Hyper, generator: torch.Generator, *, guide: Guide, steps: int, up: bool
) -> tuple[State, Tensor]:
    """Try splits (``up``) or merges in all chains given."""
    if up and n_active(state) >= hyper.n_slots:
        return state, torch.zeros_like(state.labels[:, 0], dtype=torch.bool)
    move = (choose_split if up else choose_merge)(state, hyper, guide, generator)
    if not bool(move.log_ratio.isfinite().any()):
        return state, torch.zeros_like(state.labels[:, 0], dtype=torch.bool)
    pair, log_weight = travel(state, move, data, hyper, generator, up=up, steps=steps)
    gain = log_weight + move.log_ratio if up else log_weight - move.log_ratio
    accepted = (gain > -sample_exponential(gain, generator)) & move.log_ratio.isfinite()
    return carry_out(state, move, pair, accepted, up=up), accepted


def choose_split(state: State, hyper: Hyper, guide: Guide, generator: torch.Generator) -> Move:
    """Choose a cluster of two units or more at random, and its second part by the guide."""
    k = n_active(state)
    sizes = cluster_sizes(state.labels, k)
    able = sizes >= 2
    weights = torch.where(able, 0.0, -torch.inf).to(state.beta.dtype)
    possible = able.any(-1)
    owner = sample_categorical(torch.where(possible.unsqueeze(-1), weights, 0.0), generator)
    whole = state.labels == owner.unsqueeze(-1)
    logits = guide.logits(whole)
    chance = torch.sigmoid(logits)
    anyhow = sample_uniform(chance[:, :1], generator) < ANYHOW
    second = (sample_uniform(chance, generator) < torch.where(anyhow, 0.5, chance)) & whole
    parted = second.any(-1) & (whole & ~second).any(-1) & possible
    fresh = (sizes > 0).sum(-1)
    slots = torch.stack([owner, fresh.clamp(max=hyper.n_slots - 1)], -1)
    labels = torch.where(second, fresh.unsqueeze(-1), state.labels)
    ratio = _log_ratio(labels, slots, whole, second, logits, sizes, hyper, guide)
    return Move(whole, second, slots, torch.where(parted & (fresh < hyper.n_slots), ratio, -torch.inf))


def choose_merge(state: State, hyper: Hyper, guide: Guide, generator: torch.Generator) -> Move:
    """Choose two clusters by the affinity of their units; which of them stays is tossed."""
    k = n_active(state)
    weights = _pair_weights(state.labels, k, guide)  # (chain, k * k), every pair twice
    possible = (weights > 0).any(-1)
    place = sample_categorical(torch.where(possible.unsqueeze(-1), weights.log(), 0.0), generator)
    slots = torch.stack([place // k, place % k], -1)
    second = state.labels == slots[:, 1:]
    whole = second | (state.labels == slots[:, :1])
    merged = cluster_sizes(torch.where(second, slots[:, :1], state.labels), k)
    ratio = _log_ratio(state.labels, slots, whole, second, guide.logits(whole), merged, hyper, guide)
    return Move(whole, second, slots, torch.where(possible, ratio, -torch.inf))


def _pair_weights(labels: Tensor, k: int, guide: Guide) -> Tensor:
    """Weight of every ordered pair of occupied clusters: (chain, k * k), zero on the diagonal."""
    member = membership(labels, k, like=guide.affinity)
    sizes = member.sum(-1)
    between = member @ guide.affinity @ member.mT
    count = sizes.unsqueeze(-1) * sizes.unsqueeze(-2)
    different = ~torch.eye(k, dtype=torch.bool, device=labels.device)
    mean = torch.where(different & (count > 0), between / count.clamp(min=1) + FLOOR, 0.0)
    return mean.flatten(1)


def _log_ratio(
    labels: Tensor, slots: Tensor, whole: Tensor, second: Tensor, logits: Tensor, merged: Tensor, hyper: Hyper,
    guide: Guide,
) -> Tensor:  # fmt: skip
    """Log of prior times choice of the reverse move, two clusters (``labels``) over one: (chain,)."""
    k = max(int(labels.max()) + 1, merged.shape[-1])
    weights = _pair_weights(labels, k, guide)
    place = slots[:, :1].clamp(max=k - 1) * k + slots[:, 1:].clamp(max=k - 1)
    choose_pair = (weights.gather(1, place).squeeze(1) / weights.sum(-1).clamp(min=1e-300)).log()
    choose_whole = -(merged >= 2).sum(-1).clamp(min=1).log()
    sided = torch.where(second, logsigmoid(logits), logsigmoid(-logits))
    sided = torch.where(whole, sided, 0.0).sum(-1)
    coins = -math.log(2.0) * whole.sum(-1)
    choose_sides = torch.logaddexp(sided + math.log(1 - ANYHOW), coins + math.log(ANYHOW))
    sizes = cluster_sizes(labels, k)
    prior = partition_log_prob(sizes, hyper.partition) - partition_log_prob(merged, hyper.partition)
    return prior + choose_pair - choose_whole - choose_sides


def travel(
    state: State, move: Move, data: Data, hyper: Hyper, generator: torch.Generator, *, up: bool, steps: int
) -> tuple[Pair, Tensor]:
    """Take the two clusters from one end to the other: their content at the end, and the log weight of the way."""
    scene, units, live = _scene(state, move, data, hyper)
    chains = torch.arange(len(units), device=units.device).unsqueeze(-1)
    beta = state.beta[chains, units]
    fresh = sample_normal(beta, generator)  # coefficients that no likelihood sees have their prior
    in_first = torch.where(scene.second.unsqueeze(-1) > 0, fresh, beta)
    both = torch.stack([beta, fresh] if up else [in_first, beta], 1)
    pair = Pair(both, *(x[chains, move.slots] for x in (state.path, state.matrix, state.noise)))
    start = start_law(data, hyper, scene)
    if up:
        pair = _fresh_second(pair, scene, start, data, generator)
    times = schedule(steps)
    times = times if up else times[::-1]
    psi, fit = _fits(pair, scene, hyper)
    weight = _surrogate_gap(pair, scene, live, hyper, torch.zeros_like(scene.second) if up else scene.second)
    share = scene.second * live
    for k in range(1, steps + 1):
        tilt = times[k] - times[k - 1]
        weight = weight + tilt * ((fit[:, 1] - fit[:, 0]) * share).sum(-1)
        weight = weight + tilt * _law_gap(pair, scene, hyper.regression, start)
        if k < steps:
            pair = _step(pair, psi, scene, hyper, start, generator, t=times[k], up=up)
            psi, fit = _fits(pair, scene, hyper)
    weight = weight - _surrogate_gap(pair, scene, live, hyper, scene.second if up else torch.zeros_like(scene.second))
    q = hyper.n_factors + 1
    stable = scene.visited.sum(-1) * (_log_stable_share(q, 0.0) - _log_stable_share(q, strength(data)))
    weight = weight - stable if up else weight + stable
    own = torch.where(scene.second.unsqueeze(-1) > 0, pair.beta[:, int(up)], pair.beta[:, 0])
    beta = state.beta.clone()
    spot = torch.where(live > 0, units, units[:, :1])  # padding writes the first unit's own value
    values = torch.where((live > 0).unsqueeze(-1), own, own[:, :1])
    beta[chains, spot] = values
    return pair._replace(beta=beta), weight


def schedule(steps: int) -> list[float]:
    """Powers t from 0 to 1, dense at both ends, where fresh paths and fresh coefficients settle."""
    grid = [k / steps for k in range(steps + 1)]
    return [x**LOW / (x**LOW + (1 - x) ** HIGH) for x in grid]


def _scene(state: State, move: Move, data: Data, hyper: Hyper) -> tuple[Scene, Tensor, Tensor]:
    """Gather the units of the two clusters: the scene, (chain, width) their numbers, and 1 where not padding."""
    width = max(1, int(move.whole.sum(-1).max()))
    units = (~move.whole).long().argsort(dim=-1, stable=True)[:, :width]
    chains = torch.arange(len(units), device=units.device).unsqueeze(-1)
    live = move.whole.gather(1, units).to(state.beta.dtype)
    counts = data.counts[units] if data.counts.ndim == 2 else data.counts[chains, units]
    offset = data.offset[units] if data.offset.shape[0] > 1 else data.offset.unsqueeze(0)
    seen = data.observed[units] * live.unsqueeze(-1)
    part = data._replace(counts=counts, observed=seen, offset=offset, histogram=None)
    second = move.second.gather(1, units).to(live.dtype)
    names = torch.arange(hyper.n_states, device=units.device).unsqueeze(-1)
    visited = ((state.states.unsqueeze(1) == names) & ~data.starts).any(-1)
    return Scene(part, state.log_r.gather(1, units), second, state.states, visited), units, live


def strength(data: Data) -> float:
    """Weight, in bins, of the starting law of dynamics."""
    return min(100.0, data.counts.shape[-1] / 5)


def tame_law(prior: MatrixNormalInverseWishart, weight: float) -> MatrixNormalInverseWishart:
    """Add to the prior what ``weight`` bins of a slow, decaying path would say of its dynamics."""
    q = prior.scale.shape[-1]
    eye = torch.eye(q, dtype=prior.scale.dtype, device=prior.scale.device)
    mean = (1 + 0.95 * weight) / (1 + weight) * torch.nn.functional.pad(eye, (0, 1))
    precision = (1 + weight) * torch.eye(q + 1, dtype=eye.dtype, device=eye.device)
    return MatrixNormalInverseWishart(mean, precision, prior.dof + 0.2 * weight, prior.scale + 0.004 * weight * eye)


def start_law(data: Data, hyper: Hyper, scene: Scene) -> MatrixNormalInverseWishart:
    """Law of the dynamics of a path without units: tame where a state is visited, else the prior: (chain, state)."""
    chosen = []
    tame = tame_law(hyper.regression, strength(data))
    for mine, theirs, axes in zip(tame, hyper.regression, (2, 2, 0, 2), strict=True):
        where = scene.visited.reshape(*scene.visited.shape, *(1,) * axes)
        chosen.append(torch.where(where, mine, theirs))
    return MatrixNormalInverseWishart(*chosen)


def _fresh_second(pair: Pair, scene: Scene, start: MatrixNormalInverseWishart, data: Data, generator: torch.Generator
                  ) -> Pair:  # fmt: skip
    """Draw dynamics and path of the second part, which has no units yet."""
    matrix, noise = sample_stable_regression(start, generator, max_radius=MAX_RADIUS, tries=200)
    path = sample_prior_path(matrix.unsqueeze(1), noise.unsqueeze(1), scene.states, data.starts, generator)
    return pair._replace(
        path=torch.cat([pair.path[:, :1], path], 1), matrix=torch.stack([pair.matrix[:, 0], matrix], 1),
        noise=torch.stack([pair.noise[:, 0], noise], 1),
    )  # fmt: skip


def _fits(pair: Pair, scene: Scene, hyper: Hyper) -> tuple[Tensor, Tensor]:
    """Predictors psi (chain, part, unit, time) and log-likelihoods (chain, part, unit) of every unit in both parts."""
    psi = path_loadings(pair.beta, hyper.n_factors) @ pair.path.mT + _fixed(pair, scene, hyper)
    counts = (scene.data.counts * scene.data.observed).unsqueeze(1)
    total = ((scene.data.counts + scene.log_r.exp().unsqueeze(-1)) * scene.data.observed).unsqueeze(1)
    return psi, (counts * psi - total * softplus(psi)).sum(-1)


def _fixed(pair: Pair, scene: Scene, hyper: Hyper) -> Tensor:
    """What enters psi beside the paths: (chain, part, unit, time or 1)."""
    data = scene.data._replace(offset=scene.data.offset.unsqueeze(-3))
    return fixed_part(pair.beta, data, hyper.n_factors) - scene.log_r[:, None, :, None]


def _surrogate_gap(pair: Pair, scene: Scene, live: Tensor, hyper: Hyper, second: Tensor) -> Tensor:
    """Log of surrogate over Poisson likelihood of all units, each in its part: (chain,); 0 for other counts."""
    if not hyper.poisson:
        return torch.zeros_like(live[:, 0])
    psi, fit = _fits(pair, scene, hyper)
    eta = psi + scene.log_r[:, None, :, None]
    data = scene.data
    exact = (data.counts.unsqueeze(1) * eta - eta.clamp(max=300.0).exp()) * data.observed.unsqueeze(1)
    constant = scene.log_r.unsqueeze(-1) * data.counts * data.observed  # psi lacks log r
    gap = fit + constant.sum(-1).unsqueeze(1) - exact.sum(-1)
    return (torch.where(second > 0, gap[:, 1], gap[:, 0]) * live).sum(-1)


def _law_gap(pair: Pair, scene: Scene, prior: MatrixNormalInverseWishart, start: MatrixNormalInverseWishart) -> Tensor:
    """Log of prior over starting law of the second part's dynamics, visited states only: (chain,)."""
    matrix, noise = pair.matrix[:, 1], pair.noise[:, 1]

    def log_prob(law: MatrixNormalInverseWishart) -> Tensor:
        rows = matrix_normal_log_prob(matrix, mean=law.mean, row_covariance=noise, precision=law.precision)
        return rows + inverse_wishart_log_prob(noise, dof=law.dof, scale=law.scale)

    return torch.where(scene.visited, log_prob(prior) - log_prob(start), 0.0).sum(-1)


def between(start: MatrixNormalInverseWishart, stop: MatrixNormalInverseWishart, t: float
            ) -> MatrixNormalInverseWishart:  # fmt: skip
    """Law whose density is proportional to the geometric mean, start ** (1 - t) * stop ** t."""
    precision = torch.lerp(start.precision, stop.precision.expand_as(start.precision), t)
    one, other = start.mean @ start.precision, stop.mean @ stop.precision
    crossed = torch.lerp(one, other.expand_as(one), t)
    mean = torch.linalg.solve(precision, crossed.mT).mT
    mine = start.scale + one @ start.mean.mT
    theirs = stop.scale + other @ stop.mean.mT
    scale = torch.lerp(mine, theirs.expand_as(mine), t) - crossed @ mean.mT
    dof = torch.lerp(start.dof, stop.dof.expand_as(start.dof), t)
    return MatrixNormalInverseWishart(mean, precision, dof, 0.5 * (scale + scale.mT))


def _step(
    pair: Pair, psi: Tensor, scene: Scene, hyper: Hyper, start: MatrixNormalInverseWishart,
    generator: torch.Generator, *, t: float, up: bool,
) -> Pair:  # fmt: skip
    """Move paths, coefficients and dynamics under the law at ``t``; downwards in the reverse order."""
    power = torch.stack([1 - t * scene.second, t * scene.second], 1).unsqueeze(-1)  # (chain, part, unit, 1)
    data = scene.data
    r = scene.log_r.exp().unsqueeze(-1)
    shape = power * ((data.counts + r) * data.observed).unsqueeze(1)
    omega = _sample_rows(shape, psi, power, generator)
    kappa = power * (0.5 * (data.counts - r) * data.observed).unsqueeze(1)
    given = (omega, kappa, scene, hyper, generator)
    if up:
        pair = _step_coefficients(_step_paths(pair, *given), *given)
        return _step_dynamics(pair, scene, hyper, start, generator, t=t)
    pair = _step_dynamics(pair, scene, hyper, start, generator, t=t)
    return _step_paths(_step_coefficients(pair, *given), *given)


def _sample_rows(shape: Tensor, psi: Tensor, power: Tensor, generator: torch.Generator) -> Tensor:
    """Draw Polya-Gamma variables of the units that have a part in a path; 0 elsewhere."""
    rows = (power.flatten(0, 2).squeeze(-1) > 0).nonzero().squeeze(-1)
    omega = torch.zeros_like(psi).flatten(0, 2)
    wide = shape.expand_as(psi).flatten(0, 2)
    drawn = sample_polya_gamma(wide[rows], psi.flatten(0, 2)[rows], generator=generator, terms=PG_TERMS)
    return omega.index_copy(0, rows, drawn).reshape(psi.shape)


def _step_paths(pair: Pair, omega: Tensor, kappa: Tensor, scene: Scene, hyper: Hyper, generator: torch.Generator
                ) -> Pair:  # fmt: skip
    """Draw both paths."""
    everyone = torch.ones_like(omega[..., 0]).unsqueeze(-2)  # (chain, part, 1, unit)
    found = augmented_evidence(path_loadings(pair.beta, hyper.n_factors), omega, kappa=kappa,
                               offset=_fixed(pair, scene, hyper), membership=everyone)  # fmt: skip
    steps = look_up(make_tables(pair.matrix, pair.noise),
                    effective_states(scene.states, scene.data.starts, hyper.n_states))  # fmt: skip
    path, _ = sample_path(steps, type(found)(*(x.squeeze(2) for x in found)), generator)
    return pair._replace(path=path)


def _step_coefficients(
    pair: Pair, omega: Tensor, kappa: Tensor, scene: Scene, hyper: Hyper, generator: torch.Generator
) -> Pair:
    """Draw (d, c, w) of the units given both paths."""
    features = design(pair.path, scene.data)  # (chain, part, time, P)
    n = features.shape[-1]
    level = pair.path[..., :1].mT + (scene.data.offset - scene.log_r.unsqueeze(-1)).unsqueeze(1)
    outer = (features.unsqueeze(-1) * features.unsqueeze(-2)).flatten(-2)
    eye = torch.eye(n, dtype=omega.dtype, device=omega.device)
    precision = (omega @ outer).unflatten(-1, (n, n)) + eye
    linear = (kappa - omega * level) @ features
    return pair._replace(beta=sample_gaussian(precision, linear, generator))


def _step_dynamics(
    pair: Pair, scene: Scene, hyper: Hyper, start: MatrixNormalInverseWishart, generator: torch.Generator, *, t: float
) -> Pair:
    """Draw the dynamics of both parts, those of the second under their law at ``t``."""
    sums = dynamics_statistics(pair.path, scene.states, scene.data, hyper.n_states)
    second = between(start, hyper.regression, t)
    both = MatrixNormalInverseWishart(*(
        torch.stack([mine.expand_as(theirs), theirs], 1) for mine, theirs in zip(hyper.regression, second, strict=True)
    ))  # fmt: skip
    matrix, noise = sample_stable_regression(
        update_regression(both, sums), generator, current=(pair.matrix, pair.noise), max_radius=MAX_RADIUS, tries=16
    )
    return pair._replace(matrix=matrix, noise=noise)


def carry_out(state: State, move: Move, pair: Pair, accepted: Tensor, *, up: bool) -> State:
    """Put the accepted outcomes into the state and renumber."""
    k = n_active(state) + int(up)
    target = torch.where(move.second, move.slots[:, int(up)].unsqueeze(-1), move.slots[:, :1])
    wanted = accepted.unsqueeze(-1) & move.whole
    labels = torch.where(wanted, target, state.labels)
    beta = torch.where(wanted.unsqueeze(-1), pair.beta, state.beta)
    chains = torch.arange(len(labels), device=labels.device).unsqueeze(-1)
    changed = []
    for old, new in ((state.path, pair.path), (state.matrix, pair.matrix), (state.noise, pair.noise)):
        yes = accepted.reshape(-1, *(1,) * (old.ndim - 1))
        out = old.clone()
        out[chains, move.slots] = torch.where(yes, new, old[chains, move.slots])
        changed.append(out)
    path, matrix, noise = changed
    parts = Components(path[:, :k], matrix[:, :k], noise[:, :k], torch.zeros_like(path[:, :k, 0, 0]))
    return compact(state._replace(beta=beta, path=path, matrix=matrix, noise=noise), parts, labels)


@lru_cache(maxsize=16)
def _log_stable_share(q: int, weight: float) -> float:
    """Log probability that dynamics of the prior, or of the starting law, are stable (a constant, by simulation)."""
    n = 400_000 if q <= 6 else 20_000
    eye = torch.eye(q, dtype=torch.float64)
    prior = MatrixNormalInverseWishart(
        torch.nn.functional.pad(eye, (0, 1)), torch.eye(q + 1, dtype=torch.float64),
        torch.tensor(q + 2.0, dtype=torch.float64), 0.01 * eye,
    )  # fmt: skip
    law = tame_law(prior, weight)
    wide = law._replace(mean=law.mean.expand(n, -1, -1), dof=law.dof.expand(n), scale=law.scale.expand(n, -1, -1))
    matrix, _ = sample_regression(wide, torch.Generator().manual_seed(0))
    return math.log(float(is_stable(matrix[..., :q], max_radius=MAX_RADIUS).double().mean()))
