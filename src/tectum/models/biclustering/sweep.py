"""One sweep of the sampler: every block is an exact conditional, or an exact Metropolis-Hastings move, of the model."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...stats.distributions import negative_binomial_log_prob, poisson_log_prob, sample_exponential, sample_normal
from ...stats.gaussian import Evidence, augmented_evidence, sample_gaussian
from ...stats.hdp import sample_sticky_transitions, transition_counts
from ...stats.polya_gamma import sample_polya_gamma
from .labels import compact, named_components, sample_components, sample_labels
from .model import (
    POISSON_DISPERSION,
    Data,
    Hyper,
    State,
    design,
    fixed_part,
    live,
    log_mean,
    membership,
    n_active,
    n_used,
    own_path,
    path_loadings,
)
from .paths import (
    Steps,
    effective_states,
    level_evidence,
    look_up,
    make_tables,
    sample_dynamics,
    sample_path,
    sample_translation,
    step_log_prob,
)
from .segments import flip_windows, sample_state_path, state_emission
from .stacking import join, join_evidence, part

PG_TERMS = 3  # of the Gamma sum; the rest has the right mean and variance
R_STEP, R_TRIES = 0.4, 2


class Augmented(NamedTuple):
    """Pólya-Gamma variables and what follows from them."""

    omega: Tensor
    """(chain, unit, time), 0 where missing."""
    kappa: Tensor
    """(chain, unit, time), 0 where missing."""


def sweep(state: State, data: Data, hyper: Hyper, generator: torch.Generator) -> State:
    """Update everything once.

    Parameters
    ----------
    state : State
        Current state of all chains.
    data, hyper
        Counts and constants.
    generator : torch.Generator
        A generator of its own for every sweep: its seed also places the windows.

    Returns
    -------
    State
        The next state.
    """
    n_clusters = n_used(state, hyper)
    state = update_paths(state, data, hyper, generator, n_clusters=n_clusters)
    state = update_transitions(state, data, hyper, generator)
    state = update_dynamics(state, data, hyper, generator, n_clusters=n_clusters)
    state = update_labels(state, data, hyper, generator, n_clusters=n_clusters)
    return update_dispersion(state, data, hyper, generator)


def augment(state: State, data: Data, hyper: Hyper, generator: torch.Generator, *, n_clusters: int) -> Augmented:
    """Draw the Pólya-Gamma variables given the log means, in single precision: the truncated sum errs by more.

    Parameters
    ----------
    state, data, hyper
        Current state, counts, constants.
    generator : torch.Generator
        Source of random numbers.
    n_clusters : int
        Slots in use.

    Returns
    -------
    Augmented
    """
    eta = log_mean(state.beta, state.path[:, :n_clusters], state.labels, data)
    r = state.log_r.exp().unsqueeze(-1)
    shape = (data.counts + r) * data.observed
    tilt = eta - state.log_r.unsqueeze(-1)
    omega = sample_polya_gamma(shape.float(), tilt.float(), generator=generator, terms=PG_TERMS)
    return Augmented(omega.to(eta), 0.5 * (data.counts - r) * data.observed)


def path_evidence(state: State, aug: Augmented, data: Data, hyper: Hyper, *, n_clusters: int) -> Evidence:
    """What the augmented counts say of the paths, one problem of the dynamics each."""
    member = membership(state.labels, n_clusters, like=state.beta)
    offset = fixed_part(state.beta, data, hyper.n_factors) - state.log_r.unsqueeze(-1)
    found = augmented_evidence(
        path_loadings(state.beta, hyper.n_factors), aug.omega, kappa=aug.kappa, offset=offset, membership=member
    )
    return join_evidence(found, hyper)


def update_paths(state: State, data: Data, hyper: Hyper, generator: torch.Generator, *, n_clusters: int) -> State:
    """Update paths, levels, coefficients and states, all given one draw of the Pólya-Gamma variables.

    For Poisson counts the augmentation belongs to a negative binomial of dispersion 100; every move is then corrected
    by a second acceptance step.

    Parameters
    ----------
    state, data, hyper, generator, n_clusters
        As for :func:`augment`.

    Returns
    -------
    State
    """
    aug = augment(state, data, hyper, generator, n_clusters=n_clusters)
    drawn = draw_paths(state, aug, data, hyper, generator, n_clusters=n_clusters)
    state = translate(_with_path(state, drawn.path), drawn.steps, hyper, generator, n_clusters=n_clusters)
    if not hyper.poisson:
        state = update_loadings(state, aug, data, hyper, generator, n_clusters=n_clusters)
    rates = torch.stack([drawn.accepted, *state.rates[:, 1:4].unbind(-1), drawn.retries.to(drawn.accepted)], -1)
    state = state._replace(rates=rates)
    if hyper.n_states == 1:
        return state
    state = update_windows(state, aug, data, hyper, generator, n_clusters=n_clusters)
    return update_states(state, data, hyper, generator, n_clusters=n_clusters)


class PathDraw(NamedTuple):
    """New paths and how they came about."""

    path: Tensor
    """(chain, cluster, time, q)."""
    steps: Steps
    """Prior of the problems of the dynamics, one entry a bin."""
    accepted: Tensor
    """(chain,) share of accepted paths."""
    retries: Tensor
    """(chain,) levels of jitter."""


def draw_paths(
    state: State, aug: Augmented, data: Data, hyper: Hyper, generator: torch.Generator, *, n_clusters: int
) -> PathDraw:
    """Draw the paths of all clusters given augmented counts, corrected for Poisson counts."""
    tables = make_tables(state.matrix[:, :n_clusters], state.noise[:, :n_clusters])
    steps = look_up(tables, effective_states(state.states, data.starts, hyper.n_states))
    drawn, retries = sample_path(steps, path_evidence(state, aug, data, hyper, n_clusters=n_clusters), generator)
    path, share = part(drawn, hyper), torch.ones_like(state.rates[:, 0])
    if hyper.poisson:
        path, share = correct_paths(state, path, data, hyper, generator)
    return PathDraw(path, steps, share, retries.sum(-1))


def translate(state: State, steps: Steps, hyper: Hyper, generator: torch.Generator, *, n_clusters: int) -> State:
    """Shift every path and take it back in the units' levels; the predictor does not change."""
    path, level = state.path[:, :n_clusters], state.beta[..., 0]
    member = membership(state.labels, n_clusters, like=state.beta)
    loadings = path_loadings(state.beta, hyper.n_factors)
    levels = join_evidence(level_evidence(loadings, level, member), hyper)
    move = part(sample_translation(join(path, hyper), steps, levels, generator), hyper)  # (chain, cluster, q)
    level = level - (member.mT @ move * loadings).sum(-1)
    beta = torch.cat([level.unsqueeze(-1), state.beta[..., 1:]], -1)
    return _with_path(state, path + move.unsqueeze(-2))._replace(beta=beta)


def _with_path(state: State, path: Tensor) -> State:
    """Put the paths of the slots in use into the state."""
    rest = state.path[:, path.shape[1] :]
    return state._replace(path=torch.cat([path, rest], 1))


def _surrogate_ratio(eta: Tensor, data: Data) -> Tensor:
    """Log of Poisson over negative binomial probability of every entry: (chain, unit, time)."""
    r = torch.full((), POISSON_DISPERSION, dtype=eta.dtype, device=eta.device)
    return (poisson_log_prob(data.counts, eta) - negative_binomial_log_prob(data.counts, eta, r)) * data.observed


def correct_paths(
    state: State, path: Tensor, data: Data, hyper: Hyper, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Accept each cluster's path (coupled: all together) by the ratio of Poisson to negative binomial likelihoods."""
    n_clusters = path.shape[1]
    member = membership(state.labels, n_clusters, like=state.beta)
    before = _surrogate_ratio(log_mean(state.beta, state.path[:, :n_clusters], state.labels, data), data)
    after = _surrogate_ratio(log_mean(state.beta, path, state.labels, data), data)
    gain = (member @ (after - before).sum(-1, keepdim=True)).squeeze(-1)  # (chain, cluster)
    if hyper.coupled:
        gain = gain.sum(-1, keepdim=True)
    keep = gain > -sample_exponential(gain, generator)
    there = live(state, hyper, n_clusters)
    share = (keep & there).sum(-1) / there.sum(-1)
    return torch.where(keep[..., None, None], path, state.path[:, :n_clusters]), share.to(path.dtype)


def update_loadings(
    state: State, aug: Augmented, data: Data, hyper: Hyper, generator: torch.Generator, *, n_clusters: int
) -> State:
    """Draw (d, c, w) of every unit given paths and Pólya-Gamma variables."""
    path = state.path[:, :n_clusters]
    features = design(path, data)  # (chain, cluster, time, P)
    n_coefficients = features.shape[-1]
    level = own_path(path[..., :1], state.labels).squeeze(-1) + data.offset - state.log_r.unsqueeze(-1)
    outer = (features.unsqueeze(-1) * features.unsqueeze(-2)).flatten(-2)
    joint = torch.cat([aug.omega.unsqueeze(1) @ outer, (aug.kappa - aug.omega * level).unsqueeze(1) @ features], -1)
    chains = torch.arange(joint.shape[0], device=joint.device).unsqueeze(-1)
    units = torch.arange(joint.shape[2], device=joint.device)
    own = joint[chains, state.labels, units]  # (chain, unit, P * P + P)
    eye = torch.eye(n_coefficients, dtype=own.dtype, device=own.device)
    precision = own[..., :-n_coefficients].unflatten(-1, (n_coefficients, n_coefficients)) + eye
    return state._replace(beta=sample_gaussian(precision, own[..., -n_coefficients:], generator))


def update_windows(
    state: State, aug: Augmented, data: Data, hyper: Hyper, generator: torch.Generator, *, n_clusters: int
) -> State:
    """Flip windows of the state sequence with the paths inside integrated out."""
    if hyper.poisson:
        aug = augment(state, data, hyper, generator, n_clusters=n_clusters)
    path = state.path[:, :n_clusters]
    flip = flip_windows(
        state.states, join(path, hyper), tables=make_tables(state.matrix[:, :n_clusters], state.noise[:, :n_clusters]),
        evidence=path_evidence(state, aug, data, hyper, n_clusters=n_clusters), log_pi=state.log_pi,
        starts=data.starts, occupied=live(state, hyper, n_clusters), generator=generator,
    )  # fmt: skip
    new_states, new_path = flip.states, part(flip.path, hyper)
    if hyper.poisson:
        before = _surrogate_ratio(log_mean(state.beta, path, state.labels, data), data)
        after = _surrogate_ratio(log_mean(state.beta, new_path, state.labels, data), data)
        gain = (after - before).sum(1)[:, flip.bins].sum(-1)  # (chain, window)
        back = gain <= -sample_exponential(gain, generator)
        new_states, new_path = new_states.clone(), new_path.clone()
        new_states[:, flip.bins] = torch.where(back.unsqueeze(-1), state.states[:, flip.bins], new_states[:, flip.bins])
        new_path[:, :, flip.bins] = torch.where(
            back[:, None, :, None, None], path[:, :, flip.bins], new_path[:, :, flip.bins]
        )
    rates = torch.cat([state.rates[:, :1], flip.accepted.unsqueeze(-1), state.rates[:, 2:]], -1)
    return _with_path(state, new_path)._replace(states=new_states, rates=rates)


def update_states(state: State, data: Data, hyper: Hyper, generator: torch.Generator, *, n_clusters: int) -> State:
    """Draw the whole state sequence given the paths."""
    tables = make_tables(state.matrix[:, :n_clusters], state.noise[:, :n_clusters])
    log_steps = step_log_prob(join(state.path[:, :n_clusters], hyper), tables, data.starts)[..., :-1]
    emission = state_emission(log_steps, live(state, hyper, n_clusters))
    emission = torch.where(data.starts[:, None], 0.0, emission)  # a first bin says nothing of its state
    return state._replace(states=sample_state_path(emission, state.log_pi, data.starts, generator))


def update_transitions(state: State, data: Data, hyper: Hyper, generator: torch.Generator) -> State:
    """Draw base weights and transition matrix given the states."""
    if hyper.n_states == 1:
        return state
    counts = transition_counts(state.states, n_states=hyper.n_states, valid=~data.starts)
    total = state.states.shape[0] * (state.states.shape[1] - data.n_starts)
    law = sample_sticky_transitions(
        counts, state.log_base, alpha=hyper.alpha, gamma=hyper.gamma, kappa=hyper.kappa, generator=generator,
        total=total,
    )  # fmt: skip
    return state._replace(log_pi=law.log_matrix, log_base=law.log_base)


def update_dynamics(state: State, data: Data, hyper: Hyper, generator: torch.Generator, *, n_clusters: int) -> State:
    """Draw the dynamics of the clusters in use given paths and states."""
    current = (state.matrix[:, :n_clusters], state.noise[:, :n_clusters])
    path = join(state.path[:, :n_clusters], hyper)
    matrix, noise = sample_dynamics(path, state.states, data, hyper, generator, current=current)
    return state._replace(
        matrix=torch.cat([matrix, state.matrix[:, n_clusters:]], 1),
        noise=torch.cat([noise, state.noise[:, n_clusters:]], 1),
    )


def update_labels(state: State, data: Data, hyper: Hyper, generator: torch.Generator, *, n_clusters: int) -> State:
    """Draw number of clusters, weights, empty clusters, then label and coefficients of all units.

    In the coupled form the number is fixed, and clusters without units keep their part of the stack.
    """
    components = (
        named_components(state, hyper, generator)
        if hyper.coupled
        else sample_components(state, n_clusters, data, hyper, generator)
    )
    drawn = sample_labels(
        state.labels, state.beta, components=components, log_r=state.log_r, data=data, poisson=hyper.poisson,
        generator=generator,
    )  # fmt: skip
    rates = torch.cat([state.rates[:, :2], drawn.accepted.unsqueeze(-1), state.rates[:, 3:]], -1)
    state = state._replace(beta=drawn.beta, rates=rates)
    return state._replace(labels=drawn.labels) if hyper.coupled else compact(state, components, drawn.labels)


def update_dispersion(state: State, data: Data, hyper: Hyper, generator: torch.Generator) -> State:
    """Random-walk Metropolis on log r with the means held fixed.

    Sums of log Gamma functions over time are taken over the values that occur, where counts are small.
    """
    if hyper.poisson:
        return state
    eta = log_mean(state.beta, state.path[:, : n_active(state)], state.labels, data)
    at, accepted = state.log_r, torch.zeros_like(state.log_r)
    here = dispersion_log_density(at, eta, data, hyper)
    for _ in range(R_TRIES):
        to = at + R_STEP * sample_normal(at, generator)
        there = dispersion_log_density(to, eta, data, hyper)
        keep = there - here > -sample_exponential(at, generator)
        at, here = torch.where(keep, to, at), torch.where(keep, there, here)
        accepted = accepted + keep.to(at.dtype)
    share = (accepted / R_TRIES).mean(-1, keepdim=True)
    return state._replace(log_r=at, rates=torch.cat([state.rates[:, :3], share, state.rates[:, 4:]], -1))


def dispersion_log_density(log_r: Tensor, eta: Tensor, data: Data, hyper: Hyper) -> Tensor:
    """Log density of log r given counts and log means, up to a constant: (chain, unit)."""
    r = log_r.exp()
    if data.histogram is None:
        gammas = (torch.lgamma(data.counts + r.unsqueeze(-1)) * data.observed).sum(-1)
    else:
        values = torch.arange(data.histogram.shape[-1], dtype=r.dtype, device=r.device)
        gammas = (data.histogram * torch.lgamma(values + r.unsqueeze(-1))).sum(-1)
    n = data.observed.sum(-1)
    spread = torch.nn.functional.softplus(eta - log_r.unsqueeze(-1))  # log(1 + mu / r)
    fit = ((data.counts + r.unsqueeze(-1)) * data.observed * spread).sum(-1)
    total = (data.counts * data.observed).sum(-1)
    prior = hyper.r_shape * log_r - hyper.r_rate * r
    return gammas - n * torch.lgamma(r) - total * log_r - fit + prior
