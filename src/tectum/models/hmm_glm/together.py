"""Sessions of different units: one transition matrix for all, the couplings each session's own."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError, explain
from ...core.estimator import undisturbed
from ...core.loops import em
from .describe import describe_states, order_of, reorder
from .estimator import HMMGLM
from .fitting import Family, Problem, Starts, posterior_of
from .glm import transition_mode
from .inputs import Sequences

MOST = 6  # states whose orders are all tried


def share_transition(
    models: Sequence[HMMGLM], data: Sequence[Any], *, max_iter: int = 100, tol: float = 1e-7
) -> list[HMMGLM]:
    """Give fits of sessions with different units one transition matrix.

    Units of different sessions cannot be compared, so the couplings stay those of each session's own fit; the
    transitions are counted over all sessions, in turn with the posterior of the states, until they stand still. States
    are matched by how they follow each other and how often they occur, which is little: with two states of equal
    occupancy and dwell their names are arbitrary.

    Parameters
    ----------
    models : sequence of HMMGLM
        Fitted, of equally many states.
    data : sequence
        What each was fitted to.
    max_iter : int, default 100
        Most rounds.
    tol : float, default 1e-7
        Relative change of the log posterior that ends them.

    Returns
    -------
    list of HMMGLM
        New estimators; the states of the first are sorted by occupancy, those of the others matched to them.

    Raises
    ------
    InputError
        Not one item of data a model, or other numbers of states.

    Examples
    --------
    >>> from tectum.datasets import simulate
    >>> sims = [simulate.switching_glm(n, 2, n_sequences=6, n_time=300, random_state=n) for n in (5, 6)]
    >>> models = [HMMGLM(n_states=2, prior="none", starts=2).fit(sim.data) for sim in sims]
    >>> a, b = share_transition(models, [sim.data for sim in sims])
    >>> bool((a.result_.transition == b.result_.transition).all())
    True
    """
    states = [model.result_.n_states for model in models]
    if len(models) != len(data) or len(set(states)) != 1:
        got = f"{len(models)} models of {states} states, {len(data)} items"
        raise InputError(explain("share_transition", expected="one item a model, equally many states", got=got))
    with undisturbed(models[0].result_.bias.device):
        known = [_known(model, item) for model, item in zip(models, data, strict=True)]
        orders = _matched([_moves(part) for part in known])
        known = [(f, p, reorder(s, order), y) for (f, p, s, y), order in zip(known, orders, strict=True)]
        shared = _iterate(known, max_iter=max_iter, tol=tol)
        order = order_of(known[0][1], known[0][2]._replace(log_transition=shared), known[0][3])
        orders = [o[order] for o in orders]
        known = [(f, p, reorder(s._replace(log_transition=shared), order), y) for f, p, s, y in known]
        return [_made(model, o, part) for model, o, part in zip(models, orders, known, strict=True)]


Part = tuple[Sequences, Problem, Starts, Family]


def _known(model: HMMGLM, data: Any) -> Part:
    """Data and parameters of one session."""
    found, problem, starts = model._known(data)
    return found, problem, starts, model._family(found)


def _moves(part: Part) -> Tensor:
    """Expected numbers of transitions, (S, S)."""
    _, problem, starts, family = part
    moves: Tensor = posterior_of(problem, starts, family).transitions[0].sum(0)
    return moves


def _matched(moves: Sequence[Tensor]) -> list[Tensor]:
    """Order of the states of every session in which its transitions are likeliest under those of the first."""
    n_states = len(moves[0])
    same = torch.arange(n_states, device=moves[0].device)
    if n_states > MOST:
        return [same for _ in moves]  # results are sorted by occupancy
    log_first = transition_mode(moves[0])
    share = moves[0].sum(1).add(1).div(moves[0].sum() + n_states).log()
    tried = torch.tensor(list(itertools.permutations(range(n_states))), device=same.device)
    orders = [same]
    for count in moves[1:]:
        moved = count[tried.unsqueeze(2), tried.unsqueeze(1)]  # (permutation, S, S)
        score = (moved * (log_first + share.unsqueeze(1))).sum((1, 2))
        orders.append(tried[score.argmax()])
    return orders


def _iterate(known: Sequence[Part], *, max_iter: int, tol: float) -> Tensor:
    """EM of the transitions alone: (1, S, S) logarithms."""
    sticky = known[0][3].stickiness

    def step(moves: Tensor) -> tuple[Tensor, Tensor]:
        total, counts = moves.new_zeros(()), torch.zeros_like(moves[0])
        for _, problem, starts, family in known:
            posterior = posterior_of(problem, starts._replace(log_transition=moves), family)
            total = total + posterior.log_likelihood.sum()
            counts = counts + posterior.transitions[0].sum(0)
        prior = (1 + sticky * torch.eye(len(counts)).to(counts)) * moves[0]
        return transition_mode(counts, stickiness=sticky).unsqueeze(0), total + prior.sum()

    begun = torch.stack([starts.log_transition for _, _, starts, _ in known]).exp().mean(0).log()
    moves: Tensor = em(step, begun, max_iter=max_iter, tol=tol, min_iter=2, description="sharing transitions").state
    return moves


def _made(model: HMMGLM, order: Tensor, part: Part) -> HMMGLM:
    """A copy of a model with the shared transitions and the states they imply."""
    found, problem, starts, family = part
    made, result = copy.copy(model), model.result_
    dtype = result.bias.dtype
    fields = describe_states(problem, starts, family, found, dtype=dtype)
    made.result_ = dataclasses.replace(
        result.reordered(order), **{**fields, "transition": starts.log_transition[0].exp().to(dtype)}
    )
    return made
