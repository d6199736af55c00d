"""The chains as `gibbs` runs them: sweeps, moves of the burn-in, what is recorded, and running sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.errors import NotDefiniteError, explain
from ...core.random import generator, spawn
from .annealed import split_or_merge
from .coupling import freeze
from .guide import make_guide
from .model import Data, Hyper, State, cluster_sizes, entry_log_prob, log_joint, log_mean, n_active, own_path
from .splits import merge_clusters, merge_states, split_clusters
from .stacking import couple
from .sweep import sweep, update_dynamics

MOVES = (10, 35, 100, 250, 500, 1000)  # sweeps after which clusters are split and merged by evidence
LAST_MOVE = 0.6  # share of the burn-in after which partitions are left alone
OCCUPIED = 0.02  # share of time from which a state counts


class Tally(NamedTuple):
    """What is summed or thinned over draws instead of being kept whole."""

    log_score: Tensor
    """(chain, held-out entry) log of the summed predictive probabilities."""
    path: Tensor
    """(chain, snapshot, slot, time, q)."""
    matrix: Tensor
    """(chain, snapshot, slot, state, q, q + 1)."""
    noise: Tensor
    """(chain, snapshot, slot, state, q, q)."""
    log_pi: Tensor
    """(chain, snapshot, state, state)."""


class Chains(NamedTuple):
    """State of a run."""

    state: State
    tally: Tally
    n: int
    """Sweeps made."""


class Plan(NamedTuple):
    """How long, how often, from which seed."""

    burn: int
    draws: int
    thin: int
    snapshots: int
    seed: int
    held: Tensor
    """(held-out entry,) int64 places in the flattened (unit, time) counts."""
    held_counts: Tensor
    """(unit, time) all counts, the hidden ones included."""
    dtype: torch.dtype
    exchange_every: int = 0
    """Sweeps after burn-in between two exact attempts to split or merge clusters; 0: none."""
    freeze: int | None = None
    """Sweeps after which the number of clusters is fixed and their paths are coupled."""


def start_tally(state: State, plan: Plan) -> Tally:
    """Allocate sums and snapshots."""
    chains, s = len(state.labels), plan.snapshots
    parts = (state.path, state.matrix, state.noise, state.log_pi)
    path, matrix, noise, pi = (x.new_zeros((chains, s, *x.shape[1:]), dtype=plan.dtype) for x in parts)
    log_score = state.beta.new_full((chains, len(plan.held)), -torch.inf)
    return Tally(log_score, path, matrix, noise, pi)


def law_at(n: int, hyper: Hyper, plan: Plan, state: State) -> Hyper:
    """Constants of sweep n."""
    if plan.freeze is None or n < plan.freeze:
        return hyper
    return couple(hyper, state.labels.shape[1], state.path.shape[1])


def make_step(data: Data, hyper: Hyper, plan: Plan) -> Callable[[Chains, Any], Chains]:
    """Return one step of `gibbs`: a sweep, in the burn-in moves of clusters, after it exact ones and the sums.

    Numbers are drawn on the CPU from (seed, sweep), so that every device gives the same chains.
    """
    guide = make_guide(data, hyper) if plan.exchange_every and plan.freeze is None else None

    def step(chains: Chains, _: torch.Generator) -> Chains:
        n, state, tally = chains.n, chains.state, chains.tally
        if n == plan.freeze:
            state = freeze(state, data, hyper)
            tally = start_tally(state, plan)
        with named(n):
            state = sweep(state, data, law_at(n, hyper, plan, state), generator(spawn(plan.seed, "sweep", n)))
        if n in MOVES and n < LAST_MOVE * plan.burn:
            state = move_clusters(state, data, hyper, plan, n)
        if guide is not None and n >= plan.burn and (n - plan.burn + 1) % plan.exchange_every == 0:
            state = split_or_merge(state, data, hyper, generator(spawn(plan.seed, "exchange", n)), guide=guide)[0]
        if n >= plan.burn and (n - plan.burn + 1) % plan.thin == 0:
            tally = add_to_tally(tally, state, data, hyper, plan, (n - plan.burn) // plan.thin)
        return Chains(state, tally, n + 1)

    return step


@contextmanager
def named(n: int) -> Iterator[None]:
    """Say in which sweep a matrix was not positive definite, and where known in which chain and cluster."""
    try:
        yield
    except (NotDefiniteError, torch.linalg.LinAlgError) as cause:  # type: ignore[attr-defined]
        members = cause.members if isinstance(cause, NotDefiniteError) else ()
        places = dict.fromkeys(f"chain {m[0]}, cluster {m[1]}" for m in members if len(m) > 1)
        where = f"BiCluster (sweep {n}{''.join(f'; {place}' for place in places)})"
        got = f"{type(cause).__name__}: {cause}"
        fix = "check counts, log_exposure and covariates for extreme values; a checkpoint holds the sweeps before"
        raise NotDefiniteError(explain(where, expected="positive definite matrices", got=got, fix=fix)) from cause


def move_clusters(state: State, data: Data, hyper: Hyper, plan: Plan, n: int) -> State:
    """Split and merge clusters by evidence, merge states, then adapt the dynamics."""
    state = split_clusters(state, data, hyper)
    state = merge_clusters(state, data, hyper)
    state = merge_states(state, data, hyper)
    draw = generator(spawn(plan.seed, "move", n))
    return update_dynamics(state, data, hyper, draw, n_clusters=n_active(state))


def snapshot_draws(plan: Plan) -> list[int]:
    """Number of the draw of every snapshot."""
    every = plan.draws // plan.snapshots
    return [every * (k + 1) - 1 for k in range(plan.snapshots)]


def add_to_tally(tally: Tally, state: State, data: Data, hyper: Hyper, plan: Plan, draw: int) -> Tally:
    """Add one draw to the sums; keep it whole if its turn has come."""
    if len(plan.held):
        eta = log_mean(state.beta, state.path[:, : n_active(state)], state.labels, data)
        full = data._replace(counts=plan.held_counts, observed=torch.ones_like(data.observed))
        score = entry_log_prob(eta, state.log_r, full, poisson=hyper.poisson).flatten(1)[:, plan.held]
        tally = tally._replace(log_score=torch.logaddexp(tally.log_score, score))
    places = snapshot_draws(plan)
    if draw in places:
        k = places.index(draw)
        for kept, value in zip(tally[1:], (state.path, state.matrix, state.noise, state.log_pi), strict=True):
            kept[:, k] = value.to(kept.dtype)
    return tally


def make_record(data: Data, hyper: Hyper, plan: Plan) -> Callable[[Chains], dict[str, Tensor]]:
    """Return what `gibbs` keeps of every draw."""

    def record(chains: Chains) -> dict[str, Tensor]:
        state = chains.state
        law, n_clusters = law_at(chains.n - 1, hyper, plan, state), n_active(state)
        names = torch.arange(hyper.n_states, device=state.states.device).unsqueeze(-1)
        share = (state.states.unsqueeze(1) == names).to(state.beta.dtype).mean(-1)  # (chain, state)
        change = (state.states[:, 1:] != state.states[:, :-1]) & ~data.starts[1:]
        factors = own_path(state.path[..., 1:], state.labels)
        scalars = {
            "n_clusters": (cluster_sizes(state.labels, n_clusters) > 0).sum(-1),
            "n_states": (share >= OCCUPIED).sum(-1), "n_switches": change.sum(-1),
            "log_joint": log_joint(state, data, law), "mean_log_dispersion": state.log_r.mean(-1),
            "latent_norm": factors.square().sum(-1).mean((-1, -2)).sqrt(),
        }  # fmt: skip
        return {
            "labels": state.labels.to(torch.int16), "states": state.states.to(torch.int16),
            "beta": state.beta.to(plan.dtype), "dispersion": state.log_r.exp().to(plan.dtype),
            "rates": state.rates.to(plan.dtype), **{name: x.to(plan.dtype) for name, x in scalars.items()},
        }  # fmt: skip

    return record
