"""The coupled form in a fit: from separate clusters to one stack, and which cluster drives which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...core.device import highest_precision
from ...stats.alignment import assign, overlap
from .model import Data, Hyper, State, cluster_sizes
from .predict import snapshot_state
from .splits import evidence_of_chains
from .stacking import block_diagonal

if TYPE_CHECKING:
    from .result import BiClusterResult


def freeze(state: State, data: Data, hyper: Hyper) -> State:
    """Fix the number of clusters and stack their dynamics.

    The number is that of the chain whose partition has the most evidence. Chains with another number take over the
    state of that chain; the others keep theirs, their clusters named after it. Matrices are block diagonal at first.

    Parameters
    ----------
    state : State
        Of the block form, occupied clusters first.
    data, hyper
        Counts, and constants of the block form.

    Returns
    -------
    State
        Of the coupled form.
    """
    best = evidence_of_chains(state, data, hyper).argmax()
    count = (cluster_sizes(state.labels, hyper.n_slots) > 0).sum(-1)
    k, chains = int(count[best]), torch.arange(len(count), device=count.device)
    state = State(*(x[torch.where(count == k, chains, best)] for x in state))
    name = assign(-overlap(state.labels, state.labels[best], n_labels=k))  # (chain, slot)
    slot = name.argsort(-1)
    path, matrix, noise = (x[chains.unsqueeze(-1), slot] for x in (state.path, state.matrix, state.noise))
    matrix, noise = matrix.movedim(1, 2), noise.movedim(1, 2)  # (chain, state, cluster, q, ...)
    full = torch.cat([block_diagonal(matrix[..., :-1]), matrix[..., -1].flatten(-2).unsqueeze(-1)], -1)
    return state._replace(labels=name.gather(-1, state.labels), path=path, matrix=full.unsqueeze(1),
                          noise=block_diagonal(noise).unsqueeze(1))  # fmt: skip


def influence(result: BiClusterResult) -> Tensor:
    """How strongly the path of each group enters the next step of each other, in every state.

    Entry (l, j, k) is the root mean square over the bins of state l of what group k adds to the step of group j, A_jk
    times the centred path of k, over that of the noise of j; posterior mean. On the diagonal, A_jj - I replaces A_jj.
    It does not depend on level, basis or scale of the paths. A pair without coupling has about sqrt(q / bins of l).

    Parameters
    ----------
    result : BiClusterResult
        Of a coupled fit.

    Returns
    -------
    Tensor
        (state, cluster, cluster), driven by driving.
    """
    state = snapshot_state(result, dtype=highest_precision(result.rate.device))
    (n_draws, k, _, q), n_states = state.path.shape, state.log_pi.shape[-1]
    path = state.path - state.path.mean(-2, keepdim=True)
    raw = torch.arange(n_states, device=path.device).unsqueeze(-1)
    inside = ((state.states.unsqueeze(1) == raw) & ~result.first_bin)[..., 1:].to(path.dtype)  # (draw, state, time - 1)
    bins = inside.sum(-1)
    before = path[..., :-1, :]
    moments = torch.einsum("slt,sktb,sktc->slkbc", inside, before, before)
    matrix = state.matrix[:, 0, ..., :-1]
    matrix = (matrix - torch.eye(k * q, dtype=matrix.dtype, device=matrix.device)).reshape(-1, n_states, k, q, k, q)
    added = torch.einsum("sljakb,slkbc,sljakc->sljk", matrix, moments, matrix)
    noise = state.noise[:, 0].diagonal(dim1=-2, dim2=-1).unflatten(-1, (k, q)).sum(-1)  # (draw, state, cluster)
    strength = (added / bins.clamp(min=1)[..., None, None] / noise.unsqueeze(-1)).sqrt()
    rows = torch.arange(n_draws, device=path.device).unsqueeze(-1)
    slot = assign(-overlap(result.clusters, state.labels, n_labels=k))[:, : result.n_groups]  # (draw, group)
    place = assign(-overlap(result.states, state.states, n_labels=n_states))[:, : int(result.states.max()) + 1]
    strength = strength[rows, place]
    strength = strength[rows.unsqueeze(-1), :, slot.unsqueeze(-1), slot.unsqueeze(-2)]  # (draw, group, group, state)
    seen = (bins[rows, place] > 0).to(strength)[:, None, None]
    mean: Tensor = (strength * seen).sum(0) / seen.sum(0).clamp(min=1)
    return mean.movedim(-1, 0).to(result.rate.dtype)
