"""Draws from the prior, and counts given a state: what the tests of the sampler and prior predictive checks need."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...stats.distributions import (
    sample_categorical,
    sample_gamma,
    sample_log_dirichlet,
    sample_log_gamma,
    sample_negative_binomial,
    sample_normal,
    sample_poisson,
    sample_uniform,
)
from ...stats.hdp import sample_transition_matrix
from .labels import Components, compact
from .model import POISSON_DISPERSION, Data, Hyper, State, log_mean, n_active
from .paths import sample_prior_dynamics, sample_prior_path
from .stacking import part


def sample_prior_state(n_chains: int, data: Data, hyper: Hyper, generator: torch.Generator) -> State:
    """Draw states of the chains from the prior.

    Parameters
    ----------
    n_chains : int
        Draws.
    data : Data
        Gives sizes, first bins and covariates; its counts are not looked at.
    hyper : Hyper
        Constants.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    State
    """
    n_units, n_time = data.counts.shape[-2:]
    like = data.observed.new_zeros(n_chains, n_units)
    labels = sample_prior_labels(like, hyper, generator)
    beta = sample_normal(like.new_zeros(n_chains, n_units, 1 + hyper.n_factors + data.covariates.shape[-1]), generator)
    log_r = torch.full_like(like, math.log(POISSON_DISPERSION))
    if not hyper.poisson:
        log_r = (sample_gamma(torch.full_like(like, hyper.r_shape), generator) / hyper.r_rate).log()
    log_base = sample_log_dirichlet(like.new_full((n_chains, hyper.n_states), hyper.gamma / hyper.n_states), generator)
    zero = like.new_zeros(n_chains, hyper.n_states, hyper.n_states)
    log_pi = sample_transition_matrix(zero, log_base, alpha=hyper.alpha, kappa=hyper.kappa, generator=generator)
    states = sample_prior_states(log_pi, data.starts, generator)
    matrix, noise = sample_prior_dynamics(n_chains, 1 if hyper.coupled else hyper.n_slots, hyper, generator)
    path = part(sample_prior_path(matrix, noise, states, data.starts, generator), hyper)
    state = State(labels, beta, log_r, path, states, matrix, noise, log_pi, log_base, like.new_zeros(n_chains, 5))
    return state if hyper.coupled else compact(state, Components(path, matrix, noise, like), labels)


def sample_prior_labels(like: Tensor, hyper: Hyper, generator: torch.Generator) -> Tensor:
    """Draw the number of clusters, their weights, and a label for every unit: (chain, unit)."""
    count = sample_categorical(hyper.log_prior.expand(like.shape[0], -1), generator) + 1
    slots = torch.arange(hyper.n_slots, device=like.device)
    log_weights = sample_log_gamma(like.new_full((like.shape[0], hyper.n_slots), hyper.concentration), generator)
    log_weights = torch.where(slots < count.unsqueeze(-1), log_weights, -torch.inf)
    return sample_categorical(log_weights.unsqueeze(1).expand(-1, like.shape[1], -1), generator)


def sample_prior_states(log_pi: Tensor, starts: Tensor, generator: torch.Generator) -> Tensor:
    """Draw state sequences bin after bin: (chain, time)."""
    chance = sample_uniform(log_pi[:, :1, :1].expand(-1, len(starts), 1), generator)  # (chain, time, 1)
    table = log_pi.exp().cumsum(-1)
    chains = torch.arange(len(log_pi), device=log_pi.device)
    uniform = torch.arange(1, log_pi.shape[-1] + 1, device=log_pi.device) / log_pi.shape[-1]
    current, found = torch.zeros_like(chains), []
    for first, u in zip(starts.unbind(), chance.unbind(1), strict=True):
        row = torch.where(first, uniform, table[chains, current])
        current = (row <= u).sum(-1).clamp(max=log_pi.shape[-1] - 1)
        found.append(current)
    return torch.stack(found, -1)


def sample_counts(state: State, data: Data, hyper: Hyper, generator: torch.Generator) -> Tensor:
    """Draw counts of all chains given their states: (chain, unit, time); entries not observed are drawn too."""
    eta = log_mean(state.beta, state.path[:, : n_active(state)], state.labels, data)
    if hyper.poisson:
        return sample_poisson(eta.exp(), generator)
    return sample_negative_binomial(eta, state.log_r.exp().unsqueeze(-1), generator)
