"""States and paths of a given partition by variational inference: where chains start, and a move of the burn-in.

Paths, states and dynamics have independent laws; each is updated given the expectations of the others. Nothing here is
exact, and nothing here is used after burn-in.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...stats.block_tridiagonal import Blocks, Smoothed, smooth_blocks
from ...stats.conjugate import MatrixNormalInverseWishart, update_regression
from ...stats.hmm import smooth
from .annealed import tame_law
from .evidence import (
    FAR,
    Fitted,
    expected_statistics,
    law_tables,
    of_units,
    path_prior,
    score_fit,
)
from .labels import laplace, newton_step
from .model import Data, Hyper
from .modes import first_path, log_rates, posterior_blocks, rescale

SETTLE, HELD = 2, 6  # rounds in which states are held; in which dynamics stay near their first laws
ROUNDS = 15
SLOW, FAST, FAST_STEP = 30.0, 50.0, 0.2  # weights of the first laws, in bins; standard deviation of a fast step
STAY = 0.97  # probability of staying in a state before any has been seen


class Switching(NamedTuple):
    """Fit of the states of a partition, one a problem."""

    weights: Tensor
    """(problem, time, state) probabilities."""
    path: Tensor
    """(group, time, q)."""
    beta: Tensor
    """(group, unit, P) of the members, 0 elsewhere."""
    score: Tensor
    """(problem,) log evidence, up to what a partition has in common with itself."""


def expected_emission(path: Tensor, spread: Smoothed, law: MatrixNormalInverseWishart) -> Tensor:
    """Expected log density of every step under every state, less powers of 2 pi: (group, time, state)."""
    t = law_tables(law)
    previous = torch.nn.functional.pad(path[:, :-1], (0, 0, 1, 0))
    inputs = torch.cat([previous, torch.ones_like(path[..., :1])], -1)
    joint = torch.cat([path, inputs], -1)
    moment = joint.unsqueeze(-1) * joint.unsqueeze(-2)
    q = path.shape[-1]
    moment[:, :, :q, :q] += spread.covariance
    moment[:, 1:, q : 2 * q, q : 2 * q] += spread.covariance[:, :-1]
    moment[:, 1:, q : 2 * q, :q] += 2 * spread.cross_covariance  # the form is symmetric
    form = torch.cat([torch.cat([t.precision, -t.carried], -1), torch.cat([-t.carried.mT, t.inputs], -1)], -2)
    return 0.5 * (t.log_det.unsqueeze(1) - moment.flatten(-2) @ form.flatten(-2).mT)


def first_laws(prior: MatrixNormalInverseWishart, n_states: int) -> MatrixNormalInverseWishart:
    """Laws to begin with: a first state that forgets at once, and others that are slow, (state,)."""
    q = prior.scale.shape[-1]
    eye = torch.eye(q + 1, dtype=prior.scale.dtype, device=prior.scale.device)
    slow = tame_law(prior, SLOW)
    fast = MatrixNormalInverseWishart(
        eye[:q] / (1 + FAST), (1 + FAST) * eye, prior.dof + 0.2 * FAST,
        prior.scale + 0.2 * FAST * FAST_STEP**2 * eye[:q, :q],
    )  # fmt: skip
    both = (slow,) if n_states == 1 else (fast, *(slow,) * (n_states - 1))
    return MatrixNormalInverseWishart(*(torch.stack(x) for x in zip(*both, strict=True)))


def fit_states(
    members: Tensor, owner: Tensor, log_r: Tensor, weights: Tensor, data: Data, hyper: Hyper, *,
    path: Tensor | None = None, rounds: int = ROUNDS,
) -> Switching:  # fmt: skip
    """Fit states, paths and dynamics of whole partitions.

    Parameters
    ----------
    members : Tensor
        (group, unit) indicator of the units of a cluster.
    owner : Tensor
        (group,) int64 problem that a group belongs to.
    log_r : Tensor
        (group, unit).
    weights : Tensor
        (problem, time, state) probabilities to begin with.
    data, hyper
        Counts and constants.
    path : Tensor or None
        (group, time, q) where to begin.
    rounds : int
        Alternations.

    Returns
    -------
    Switching
    """
    n_problems, _, n_states = weights.shape
    width = max(1, int(members.sum(-1).max()))
    if path is None:
        path = first_path(members, log_rates(data), hyper.n_factors)
    n_units = members.shape[1]
    units = (-members).argsort(dim=-1, stable=True)[:, :width]
    members, log_r = members.gather(1, units), log_r.gather(1, units)
    data = of_units(data, units, members)
    found = laplace(path.unsqueeze(1), log_r, data, poisson=hyper.poisson, steps=1)
    path, beta = rescale(path, found.mode.squeeze(1), found.root.squeeze(1), members)
    first = MatrixNormalInverseWishart(*(
        x.expand(len(members), *x.shape) for x in first_laws(hyper.regression, n_states)
    ))  # fmt: skip
    law = first
    move = weights.new_full((n_problems, n_states, n_states), (1 - STAY) / max(1, n_states - 1))
    move.diagonal(dim1=-2, dim2=-1).fill_(STAY if n_states > 1 else 1.0)
    entropy = weights.new_zeros(n_problems)
    for n in range(rounds):
        each = Blocks(*(x.unsqueeze(1) for x in path_prior(law, weights[owner], data.starts).blocks))
        blocks = posterior_blocks(members, path, beta, each, log_r, data, hyper.poisson, expected=True)
        spread = Smoothed(*(x.squeeze(1) for x in smooth_blocks(blocks)))
        path = spread.mean.nan_to_num(nan=0.0).clamp(-FAR, FAR)
        law = update_regression(
            first if n < HELD else hyper.regression, expected_statistics(path, spread, weights[owner], data.starts)
        )
        if n_states > 1 and n >= SETTLE:
            steps = expected_emission(path, spread, law)
            emission = torch.zeros_like(weights).index_add_(0, owner, steps)
            weights, move, entropy = _update_states(emission, move, data.starts, hyper)
        beta, root = newton_step(beta, path, log_r, data, poisson=hyper.poisson)
        path, beta = rescale(path, beta, root, members)
    scored = score_fit(Fitted(members, path, beta, law, weights[owner]), log_r, data, hyper)
    total = entropy.index_add(0, owner, scored.score)
    own = scored.beta * members.unsqueeze(-1)
    whole = own.new_zeros(len(own), n_units, own.shape[-1])
    return Switching(weights, path, whole.scatter_add(1, units.unsqueeze(-1).expand_as(own), own), total)


def _update_states(emission: Tensor, move: Tensor, starts: Tensor, hyper: Hyper) -> tuple[Tensor, Tensor, Tensor]:
    """Forward-backward, then transitions: weights, transition matrix, and E log p(states) + entropy."""
    n = emission.shape[-1]
    emission = torch.where(starts[:, None], 0.0, emission)
    first = emission.new_full((n,), 1 / n).log()
    steps = torch.where(starts[1:, None, None], 1 / n, move.unsqueeze(1)).log()
    found = smooth(first, steps, emission, time_varying=True, pairwise=bool(starts[1:].any()))
    gain = found.log_likelihood - (found.probabilities * emission).sum((-2, -1))
    counts = found.transitions
    if found.pairwise is not None:
        counts = (found.pairwise * ~starts[1:, None, None]).sum(-3)
    eye = torch.eye(n, dtype=move.dtype, device=move.device)
    weight = counts + hyper.alpha / n + hyper.kappa * eye
    return found.probabilities, weight / weight.sum(-1, keepdim=True), gain
