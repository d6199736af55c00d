"""Which cluster a unit belongs to, with its coefficients: Laplace proposals for all units and clusters at once.

Given the number of clusters K and their weights, the labels of the units are independent, so that all of them move
together (telescoping sampler): K is drawn given the partition, weights given K and the sizes, clusters without units
from the prior, then labels. The Pólya-Gamma variables are integrated out here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from ...stats.distributions import sample_categorical, sample_exponential, sample_log_gamma, sample_normal
from .model import Data, Hyper, State, cluster_sizes, design
from .paths import sample_prior_dynamics, sample_prior_path

NEWTON_STEPS = 3
CHUNK = 20_000_000  # numbers of a (chain, cluster, unit, time) temporary


class Laplace(NamedTuple):
    """Gaussian approximations of the coefficients of every unit in every cluster."""

    mode: Tensor
    """(chain, cluster, unit, P)."""
    root: Tensor
    """(chain, cluster, unit, P, P) lower Cholesky factor of the precision."""
    log_evidence: Tensor
    """(chain, cluster, unit) up to a constant of the unit; -inf where the approximation failed."""


def laplace(
    path: Tensor, log_r: Tensor, data: Data, *, poisson: bool, steps: int = NEWTON_STEPS, start: Tensor | None = None
) -> Laplace:
    """Approximate the conditional of (d, c, w) for every unit and cluster by a few Newton steps.

    The result depends on paths, dispersions and counts alone, so that it may serve as a proposal.

    Parameters
    ----------
    path : Tensor
        (chain, cluster, time, q).
    log_r : Tensor
        (chain, unit).
    data : Data
        Counts.
    poisson : bool
        Whether counts are Poisson.
    steps : int
        Newton steps after the first weighted least squares.
    start : Tensor or None
        (chain, cluster, unit, P) where to begin instead.

    Returns
    -------
    Laplace
    """
    n_chains, n_clusters, n_time = path.shape[:3]
    per_unit = n_chains * n_clusters * n_time
    width = max(1, CHUNK // per_unit)
    if width >= log_r.shape[-1]:
        return _laplace(path, log_r, data, poisson, steps, start)
    parts = []
    for first in range(0, log_r.shape[-1], width):
        part = slice(first, first + width)
        offset = data.offset if data.offset.shape[-2] == 1 else data.offset[..., part, :]
        piece = data._replace(counts=data.counts[..., part, :], observed=data.observed[..., part, :], offset=offset)
        begin = None if start is None else start[:, :, part]
        parts.append(_laplace(path, log_r[:, part], piece, poisson, steps, begin))
    return Laplace(*(torch.cat(values, 2) for values in zip(*parts, strict=True)))


def _laplace(path: Tensor, log_r: Tensor, data: Data, poisson: bool, steps: int, start: Tensor | None) -> Laplace:
    """Newton's method for one chunk of units."""
    features = design(path, data)  # (chain, cluster, time, P)
    n_coefficients = features.shape[-1]
    outer = (features.unsqueeze(-1) * features.unsqueeze(-2)).flatten(-2)
    eye = torch.eye(n_coefficients, dtype=path.dtype, device=path.device)
    # (chain, cluster, unit, time); for Poisson counts the dispersion plays no part
    base = path[..., 0].unsqueeze(-2) + data.offset.unsqueeze(-3) - (0 if poisson else 1) * log_r[:, None, :, None]
    counts, seen = data.counts.unsqueeze(-3), data.observed.unsqueeze(-3)
    total = seen if poisson else (counts + log_r.exp()[:, None, :, None]) * seen

    def precision(weights: Tensor) -> Tensor:
        found: Tensor = (weights @ outer).unflatten(-1, (n_coefficients, n_coefficients)) + eye
        return found

    def first_guess() -> Tensor:
        rate = counts + 0.5
        guess = rate.log()
        r = log_r.exp()[:, None, :, None]
        weights = seen * (rate if poisson else r * rate / (r + rate))
        level = guess if poisson else guess - log_r[:, None, :, None]
        working = weights * (level - base)
        return _solve(precision(weights.expand_as(base)), working @ features)

    beta = first_guess() if start is None else start
    for _ in range(steps):
        mean, weights = _moments(beta, features, base, total, poisson)
        gradient = (counts - mean) @ features - beta
        beta = beta + _solve(precision(weights), gradient)
    psi = beta @ features.mT + base
    mean, weights = _moments(beta, features, base, total, poisson)
    root, failed = torch.linalg.cholesky_ex(precision(weights))
    fit = _log_likelihood(psi, counts, total, poisson)
    log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    evidence = fit - 0.5 * beta.square().sum(-1) - log_det
    good = evidence.isfinite() & (failed == 0)
    root = torch.where(good[..., None, None], root, eye)
    return Laplace(torch.where(good.unsqueeze(-1), beta, 0.0), root, torch.where(good, evidence, -torch.inf))


def newton_step(beta: Tensor, path: Tensor, log_r: Tensor, data: Data, *, poisson: bool) -> tuple[Tensor, Tensor]:
    """Take one Newton step for (d, c, w) of every unit in one cluster a problem.

    Parameters
    ----------
    beta : Tensor
        (problem, unit, P).
    path : Tensor
        (problem, time, q).
    log_r : Tensor
        (problem, unit).
    data : Data
        Counts.
    poisson : bool
        Whether counts are Poisson.

    Returns
    -------
    tuple of Tensor
        (problem, unit, P) and the Cholesky factor of the precision before the step.
    """
    features = design(path, data)
    n = features.shape[-1]
    outer = (features.unsqueeze(-1) * features.unsqueeze(-2)).flatten(-2)
    base = path[..., :1].mT + data.offset - (0 if poisson else 1) * log_r.unsqueeze(-1)
    total = data.observed if poisson else (data.counts + log_r.exp().unsqueeze(-1)) * data.observed
    mean, weights = _moments(beta, features, base, total, poisson)
    eye = torch.eye(n, dtype=path.dtype, device=path.device)
    root, failed = torch.linalg.cholesky_ex((weights @ outer).unflatten(-1, (n, n)) + eye)
    gradient = (data.counts * data.observed - mean) @ features - beta
    step = torch.cholesky_solve(gradient.unsqueeze(-1), root).squeeze(-1)
    good = (failed == 0) & step.isfinite().all(-1)
    return beta + torch.where(good.unsqueeze(-1), step, 0.0), torch.where(good[..., None, None], root, eye)


def _solve(precision: Tensor, linear: Tensor) -> Tensor:
    """Solve many small positive definite systems; NaN where one is not."""
    root, failed = torch.linalg.cholesky_ex(precision)
    found: Tensor = torch.cholesky_solve(linear.unsqueeze(-1), root).squeeze(-1)
    return torch.where((failed == 0).unsqueeze(-1), found, torch.nan)


def _moments(beta: Tensor, features: Tensor, base: Tensor, total: Tensor, poisson: bool) -> tuple[Tensor, Tensor]:
    """Mean of the score and observed information of the predictor."""
    psi = beta @ features.mT + base
    if poisson:
        rate = psi.clamp(max=50.0).exp() * total
        return rate, rate
    share = torch.sigmoid(psi)
    mean = total * share
    return mean, mean * (1 - share)


def _log_likelihood(psi: Tensor, counts: Tensor, total: Tensor, poisson: bool) -> Tensor:
    """Log-likelihood summed over time, up to a constant of the unit."""
    if poisson:
        return (counts * psi - psi.clamp(max=300.0).exp() * total).sum(-1)
    return (counts * psi - total * softplus(psi)).sum(-1)


class Components(NamedTuple):
    """Clusters that labels may take: the occupied ones and empty ones drawn from the prior."""

    path: Tensor
    matrix: Tensor
    noise: Tensor
    log_weights: Tensor
    """(chain, cluster), -inf for slots beyond the number of clusters of the chain."""


def sample_components(state: State, n_clusters: int, data: Data, hyper: Hyper, generator: torch.Generator
                      ) -> Components:  # fmt: skip
    """Draw the number of clusters given the partition, their weights, and the clusters that hold no unit.

    Parameters
    ----------
    state : State
        Current state, occupied clusters first.
    n_clusters : int
        Slots in use.
    data, hyper
        Counts and constants.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Components
    """
    sizes = cluster_sizes(state.labels, n_clusters)
    occupied = (sizes > 0).sum(-1)  # (chain,)
    count = sample_categorical(hyper.log_components[occupied], generator) + 1
    width = max(int(count.max()), n_clusters)
    slots = torch.arange(width, device=count.device)
    sizes = torch.nn.functional.pad(sizes, (0, width - n_clusters)).to(state.beta.dtype)
    log_weights = sample_log_gamma(sizes + hyper.concentration, generator)
    log_weights = torch.where(slots < count.unsqueeze(-1), log_weights, -torch.inf)
    path, matrix, noise = state.path[:, :width], state.matrix[:, :width], state.noise[:, :width]
    chain, slot = ((slots >= occupied.unsqueeze(-1)) & log_weights.isfinite()).nonzero(as_tuple=True)
    if len(chain):
        fresh, spread = sample_prior_dynamics(len(chain), 1, hyper, generator)
        drawn = sample_prior_path(fresh, spread, state.states[chain], data.starts, generator)
        path, matrix, noise = (
            old.index_put((chain, slot), new.squeeze(1))
            for old, new in ((path, drawn), (matrix, fresh), (noise, spread))
        )
    return Components(path, matrix, noise, log_weights)


def named_components(state: State, hyper: Hyper, generator: torch.Generator) -> Components:
    """Draw the weights of a fixed number of clusters, all of which exist whether they hold units or not."""
    sizes = cluster_sizes(state.labels, hyper.n_slots).to(state.beta.dtype)
    log_weights = sample_log_gamma(sizes + hyper.concentration, generator)
    return Components(state.path, state.matrix, state.noise, log_weights)


class LabelDraw(NamedTuple):
    """Outcome of the label step."""

    labels: Tensor
    beta: Tensor
    accepted: Tensor
    """(chain,) share of accepted proposals."""


def sample_labels(
    labels: Tensor, beta: Tensor, *, components: Components, log_r: Tensor, data: Data, poisson: bool,
    generator: torch.Generator,
) -> LabelDraw:  # fmt: skip
    """Move label and coefficients of all units together by an independence proposal and its exact correction.

    Parameters
    ----------
    labels : Tensor
        (chain, unit).
    beta : Tensor
        (chain, unit, P).
    components : Components
        Clusters and their weights.
    log_r : Tensor
        (chain, unit).
    data : Data
        Counts.
    poisson : bool
        Whether counts are Poisson.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    LabelDraw
    """
    found = _proposal(components.path, log_r, data, poisson)
    log_weights = components.log_weights.unsqueeze(-1).expand_as(found.log_evidence)
    log_choice = torch.log_softmax((log_weights + found.log_evidence).mT, dim=-1)  # (chain, unit, cluster)
    new = sample_categorical(log_choice, generator)
    root = _pick(found.root, new)
    noise = sample_normal(beta, generator)
    step = torch.linalg.solve_triangular(root.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)
    proposal = _pick(found.mode, new) + step

    def importance(label: Tensor, value: Tensor) -> Tensor:
        factor = _pick(found.root, label)
        white = (factor.mT @ (value - _pick(found.mode, label)).unsqueeze(-1)).squeeze(-1)
        proposed = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - 0.5 * white.square().sum(-1)
        proposed = proposed + log_choice.gather(-1, label.unsqueeze(-1)).squeeze(-1)
        target = components.log_weights.gather(1, label) - 0.5 * value.square().sum(-1)
        return target + _own_likelihood(components.path, label, value, log_r, data, poisson) - proposed

    gain = importance(new, proposal) - importance(labels, beta)
    keep = gain > -sample_exponential(gain, generator)
    return LabelDraw(
        torch.where(keep, new, labels), torch.where(keep.unsqueeze(-1), proposal, beta), keep.to(beta.dtype).mean(-1)
    )


def _proposal(path: Tensor, log_r: Tensor, data: Data, poisson: bool) -> Laplace:
    """Laplace's approximation in single precision: the acceptance step knows what was proposed to the last digit."""
    coarse = data._replace(
        **{name: getattr(data, name).float() for name in ("counts", "observed", "offset", "covariates")}
    )
    found = laplace(path.float(), log_r.float(), coarse, poisson=poisson)
    return Laplace(*(x.to(path.dtype) for x in found))


def _pick(values: Tensor, labels: Tensor) -> Tensor:
    """Take the entry of each unit's cluster: (chain, cluster, unit, ...) -> (chain, unit, ...)."""
    chains = torch.arange(labels.shape[0], device=labels.device).unsqueeze(-1)
    units = torch.arange(labels.shape[1], device=labels.device)
    return values[chains, labels, units]


def _own_likelihood(path: Tensor, labels: Tensor, beta: Tensor, log_r: Tensor, data: Data, poisson: bool) -> Tensor:
    """Log-likelihood of every unit in its cluster: (chain, unit)."""
    from .model import log_mean

    eta = log_mean(beta, path, labels, data)
    if poisson:
        return _log_likelihood(eta, data.counts, data.observed, True)
    total = (data.counts + log_r.exp().unsqueeze(-1)) * data.observed
    return _log_likelihood(eta - log_r.unsqueeze(-1), data.counts, total, False)


def compact(state: State, components: Components, labels: Tensor) -> State:
    """Put occupied clusters first, in order; slots behind them get the centre of the prior.

    Parameters
    ----------
    state : State
        Before the move.
    components : Components
        Clusters that the labels refer to.
    labels : Tensor
        (chain, unit) new labels.

    Returns
    -------
    State
        With labels, paths and dynamics renumbered.
    """
    width = components.path.shape[1]
    occupied = cluster_sizes(labels, width) > 0
    order = (~occupied).long().argsort(dim=-1, stable=True)  # (chain, width)
    rank = order.argsort(dim=-1)
    chains = torch.arange(labels.shape[0], device=labels.device).unsqueeze(-1)
    path, matrix, noise = state.path.clone(), state.matrix.clone(), state.noise.clone()
    there = occupied.gather(-1, order)[:, :, None, None]
    eye = torch.eye(noise.shape[-1], dtype=noise.dtype, device=noise.device)
    path[:, :width] = torch.where(there, components.path[chains, order], 0.0)
    centre = torch.nn.functional.pad(eye, (0, 1))
    matrix[:, :width] = torch.where(there.unsqueeze(-1), components.matrix[chains, order], centre)
    noise[:, :width] = torch.where(there.unsqueeze(-1), components.noise[chains, order], 0.01 * eye)
    return state._replace(labels=rank.gather(-1, labels), path=path, matrix=matrix, noise=noise)
