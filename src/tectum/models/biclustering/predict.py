"""New sessions of known units, replicated counts, and draws from the prior."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.random import generator, spawn
from .model import Data, Hyper, State, entry_log_prob, log_mean, n_used
from .result import BiClusterResult
from .segments import sample_state_path
from .sweep import augment, draw_paths, update_states, update_windows

SWEEPS = 40  # of paths and states in a new session; the second half counts


def snapshot_state(result: BiClusterResult, *, chains: list[int] | None = None, dtype: torch.dtype) -> State:
    """Whole draws as a state, chains and snapshots joined in the leading axis.

    Parameters
    ----------
    result : BiClusterResult
        Draws.
    chains : list of int, optional
        Chains to use; by default all, or the best one where chains disagree.
    dtype : torch.dtype
        Precision to compute in.

    Returns
    -------
    State
    """
    used = chains if chains is not None else used_chains(result)

    def joined(values: Tensor) -> Tensor:
        return values[used].flatten(0, 1)

    at = result.step_draw
    beta = torch.cat([result.loading_draws[:, at], result.weight_draws[:, at]], -1)
    matrix, noise = torch.cat([result.transition, result.drift.unsqueeze(-1)], -1), result.noise
    if result.coupling is not None and result.coupling_noise is not None:
        across, noise = (x.flatten(-2).flatten(-3, -2).unsqueeze(2) for x in (result.coupling, result.coupling_noise))
        matrix = torch.cat([across, result.drift.movedim(2, -2).flatten(-2).unsqueeze(-1).unsqueeze(2)], -1)
    log_pi = joined(result.log_pi).to(dtype)
    return State(
        joined(result.label_draws[:, at]).long(), joined(beta).to(dtype),
        joined(result.dispersion_draws[:, at]).to(dtype).log(), joined(result.path).to(dtype),
        joined(result.state_draws[:, at]).long(), joined(matrix).to(dtype), joined(noise).to(dtype), log_pi,
        torch.zeros_like(log_pi[:, 0]), log_pi.new_zeros(len(log_pi), 5),
    )  # fmt: skip


def used_chains(result: BiClusterResult) -> list[int]:
    """Chains on which the point estimates rest."""
    return list(range(len(result.evidence))) if result.agree else [result.best_chain]


def infer_session(state: State, data: Data, hyper: Hyper, *, seed: int, entries: Tensor | None = None,
                  counts: Tensor | None = None) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Sample paths and states of a new session, everything else fixed at posterior draws.

    Parameters
    ----------
    state : State
        Draws; paths and states are replaced.
    data : Data
        Counts of the new session.
    hyper : Hyper
        Constants.
    seed : int
        Seed.
    entries : Tensor, optional
        (entry,) places in the flattened (unit, time) counts whose probability is wanted.
    counts : Tensor, optional
        (unit, time) counts that hold them.

    Returns
    -------
    tuple of Tensor and (Tensor or None)
        (time, unit) expected counts, and (entry,) log predictive probabilities.
    """
    k = n_used(state, hyper)
    draw = generator(spawn(seed, "start"))
    n_time = data.counts.shape[1]
    flat = torch.zeros_like(state.log_pi[:, :1, :]).expand(-1, n_time, -1)
    first = sample_state_path(flat, state.log_pi, data.starts, draw)
    path = state.path.new_zeros(*state.path.shape[:2], n_time, state.path.shape[-1])
    state = state._replace(path=path, states=first)
    rate, score, kept = torch.zeros_like(data.counts), None, 0
    for n in range(SWEEPS):
        state = _latents(state, data, hyper, generator(spawn(seed, "sweep", n)), k)
        if n < SWEEPS // 2:
            continue
        kept += 1
        eta = log_mean(state.beta, state.path[:, :k], state.labels, data)
        rate = rate + eta.clamp(max=30.0).exp().mean(0)
        if entries is not None and counts is not None:
            full = data._replace(counts=counts, observed=torch.ones_like(data.observed))
            each = entry_log_prob(eta, state.log_r, full, poisson=hyper.poisson).flatten(1)[:, entries]
            new = torch.logsumexp(each, 0)
            score = new if score is None else torch.logaddexp(score, new)
    if score is not None:
        score = score - torch.full_like(score, float(kept * len(state.labels))).log()
    return (rate / kept).T, score


def _latents(state: State, data: Data, hyper: Hyper, draw: torch.Generator, k: int) -> State:
    """One sweep over paths and states alone."""
    aug = augment(state, data, hyper, draw, n_clusters=k)
    path = draw_paths(state, aug, data, hyper, draw, n_clusters=k).path
    state = state._replace(path=torch.cat([path, state.path[:, k:]], 1))
    if hyper.n_states == 1:
        return state
    state = update_windows(state, aug, data, hyper, draw, n_clusters=k)
    return update_states(state, data, hyper, draw, n_clusters=k)
