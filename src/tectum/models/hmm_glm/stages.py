"""Last stage of a fit: the best start goes on under the prior that was asked for, with kernels learned if wanted.

Shapes: states S, units N, filters or lags M, strengths V, regressors P, sequences B, bins T.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.checkpoint import Checkpoint
from ...core.loops import em
from ...core.random import generator, spawn
from ...stats import hmm
from .basis import Weights, join_weights, split_weights
from .emission import expected_moments
from .fitting import Family, Problem, Ridge, Save, Starts, posterior_of, run_em
from .glm import transition_mode
from .gradient import Adam, at_rest
from .hard import HardCouplings, harden
from .kernels import (
    Kernelled,
    explore_lags,
    fit_kernels,
    kernel_log_prior,
    kernel_mean,
    kernel_weights,
    project_lags,
    start_kernelled,
)
from .one_hot import (
    OneHot,
    mean_types,
    one_hot_em_step,
    one_hot_weights,
    shared_prior,
    start_one_hot,
)

WIDTH_ROUNDS, WIDTH_CHANGE = 8, 0.02  # of the width of the Gaussian prior, when it is learned


class Plan(NamedTuple):
    """What the last stage is to do."""

    prior: str
    ridge: float
    sigma_w: float | None  #: None = learned
    temperatures: tuple[float, float]
    one_hot_rounds: int
    two_strengths: bool
    own_kernel: bool  #: of learned kernels, only those of units to themselves
    max_iter: int
    tol: float


class OneHotState(NamedTuple):
    """Parameters of the one-hot stage during EM."""

    parameters: OneHot
    log_transition: Tensor
    adam: Adam
    rounds: int


class OneHotFit(NamedTuple):
    """End of the one-hot stage."""

    parameters: OneHot
    log_transition: Tensor
    """(S, S)."""
    soft: Tensor
    """(S, N, P) weights at the mean types."""
    hard: HardCouplings
    types: Tensor
    """(N, N, 3) a0."""
    strength: Tensor
    """(2, V) shared mean and standard deviation of the strengths."""
    objective: Tensor
    """(round,)."""


class KernelState(NamedTuple):
    """Parameters of the stage that learns kernels without types."""

    parameters: Kernelled
    log_transition: Tensor
    adam: Adam


class Last(NamedTuple):
    """What the last stage leaves."""

    starts: Starts  #: one restart
    history: Tensor  #: objective in every round
    converged: bool
    one_hot: OneHotFit | None = None
    kernel: Tensor | None = None  #: (N, N, K) learned kernels, which sum to 1
    width: float | None = None  #: of the Gaussian prior


def run_last(
    problem: Problem, best: Starts, family: Family, plan: Plan, *, kernel: Tensor | None, explore: bool, seed: int,
    save: Save,
) -> Last:  # fmt: skip
    """Run the last stage.

    Parameters
    ----------
    problem : Problem
        Data; with kernels to learn its design has a regressor for every lag of every unit.
    best : Starts
        One start, with one filter where kernels are learned.
    family : Family
        The model.
    plan : Plan
        Prior and how long.
    kernel : Tensor, optional
        (N, N, K) logits of kernels to learn.
    explore : bool
        Whether to look first for the lags that matter.
    seed, save
        Seed; checkpoint of a named part.

    Returns
    -------
    Last
    """
    n_units = problem.spikes.shape[2]
    n_filters = 1 if kernel is not None else family.n_coupling // n_units
    allowed = None
    if family.free is not None:
        allowed = family.free[:, 1 : 1 + family.n_coupling].unflatten(1, (n_units, -1))[..., 0]
    if kernel is not None and explore:
        best, kernel = _explored(problem, best, family, plan, kernel, allowed)
    if plan.prior == "one_hot" and family.n_coupling > 0:
        found = run_one_hot(problem, best, family, plan, n_filters=n_filters, allowed=allowed, seed=seed, kernel=kernel,
                            checkpoint=save("one-hot"))  # fmt: skip
        starts = best._replace(weights=found.soft.unsqueeze(0), log_transition=found.log_transition.unsqueeze(0),
                               shared=torch.zeros_like(found.soft[:1]))  # fmt: skip
        learned = None if kernel is None else found.parameters.kernel.softmax(-1)
        return Last(starts, found.objective, True, found, learned)
    if kernel is not None:
        return run_kernels(problem, best, family, plan, kernel=kernel, allowed=allowed, checkpoint=save("kernels"))
    if plan.prior != "gaussian":
        last, end = run_em(problem, best, family, Ridge(plan.ridge), max_iter=plan.max_iter, tol=plan.tol,
                           checkpoint=save("last"), description=f"prior {plan.prior}")  # fmt: skip
        return Last(last, end.history[:, 0], end.converged)
    return _run_gaussian(problem, best, family, plan, save)


def _explored(
    problem: Problem, best: Starts, family: Family, plan: Plan, kernel: Tensor, allowed: Tensor | None
) -> tuple[Starts, Tensor]:
    """Couplings and kernels from the effects at every lag; only those of units on themselves if only these learn."""
    begun = start_kernelled(best.weights[0], kernel)
    lagged = kernel_weights(begun)
    now = _placed(best, lagged, best.log_transition[0])
    share = posterior_of(problem, now, family).probabilities[0].to(problem.design)
    parts = split_weights(lagged, n_units=len(kernel), n_filters=kernel.shape[-1])
    effect = explore_lags(
        problem.design, problem.spikes, share, parts, allowed=allowed, shared_bias=family.shared_bias,
        shared_self=family.shared_self, link=family.link, size=None if best.size is None else best.size[0],
        mask=problem.mask,
    )  # fmt: skip
    coupling, found = project_lags(effect)
    if plan.own_kernel:
        own = torch.eye(len(kernel), dtype=torch.bool).to(kernel.device)
        coupling, found = torch.where(own, coupling, begun.coupling), torch.where(own.unsqueeze(-1), found, kernel)
    weights = join_weights(Weights(begun.bias, coupling.unsqueeze(-1), begun.covariates))
    return best._replace(weights=weights.unsqueeze(0)), found


def _run_gaussian(problem: Problem, best: Starts, family: Family, plan: Plan, save: Save) -> Last:
    """Couplings around a shared mean, whose width is given or learned in turn with them."""
    width, last = plan.sigma_w or 1 / 3, best
    for n in range(1 if plan.sigma_w else WIDTH_ROUNDS):
        name = "last" if n == 0 else f"last-{n}"
        last, end = run_em(problem, last, family, Ridge(width**-2, width**-2), max_iter=plan.max_iter, tol=plan.tol,
                           checkpoint=save(name), description="prior gaussian")  # fmt: skip
        if plan.sigma_w:
            break
        before, width = width, float(spread_of_weights(problem, last, family, width))
        if abs(width - before) <= WIDTH_CHANGE * before:
            break
    return Last(last, end.history[:, 0], end.converged, width=width)


def spread_of_weights(problem: Problem, starts: Starts, family: Family, width: float) -> Tensor:
    """Width of the Gaussian prior of one start: distances from the mean, and of the mean from zero, over S.

    Their number is S + 1, of which the estimated mean takes one. The Laplace variance of each weight is added: without
    it the width would collapse when data are short.

    Returns
    -------
    Tensor
        ().
    """
    weights = starts.weights[0]
    share = posterior_of(problem, starts, family).probabilities[0].to(problem.design)
    size = None if starts.size is None else starts.size[0]
    moments = expected_moments(problem.design, problem.spikes, weights, share, link=family.link, size=size,
                               mask=problem.mask, information=True)  # fmt: skip
    assert moments.information is not None
    column = torch.arange(weights.shape[-1], device=weights.device)
    coupled = (column > 0) & (column <= family.n_coupling)  # (P,)
    curvature = moments.information + (coupled / width**2 + 1e-9).to(moments.information).diag_embed()
    variance = torch.linalg.inv_ex(curvature).inverse.diagonal(dim1=-2, dim2=-1)
    moved = coupled.expand(weights.shape) if family.free is None else coupled & family.free.expand(weights.shape)
    square = (weights - starts.shared[0]) ** 2 + variance + starts.shared[0] ** 2 / len(weights)
    found: Tensor = (square * moved).sum().div(moved.sum()).sqrt()
    return found


def run_one_hot(
    problem: Problem, start: Starts, family: Family, plan: Plan, *, n_filters: int, allowed: Tensor | None,
    kernel: Tensor | None, seed: int, checkpoint: Checkpoint | None,
) -> OneHotFit:  # fmt: skip
    """Start from the first of ``start``, lower the temperature over the rounds, then decide every connection."""
    begun = start_one_hot(start.weights[0], n_units=problem.spikes.shape[2], n_filters=n_filters,
                          two_strengths=plan.two_strengths, kernel=kernel)  # fmt: skip
    first, last = plan.temperatures
    size = None if start.size is None else start.size[0]
    given: dict[str, Any] = {"link": family.link, "size": size, "mask": problem.mask, "allowed": allowed,
                             "shared_bias": family.shared_bias, "shared_self": family.shared_self,
                             "own_kernel": plan.own_kernel}  # fmt: skip

    def step(state: OneHotState) -> tuple[OneHotState, Tensor]:
        cooled = first + (last - first) * min(1.0, state.rounds / max(1, int(0.8 * plan.one_hot_rounds)))
        fitted, transition, adam, objective, _ = one_hot_em_step(
            state.parameters, state.log_transition, start.log_initial[0], problem.design, problem.spikes,
            generator=generator(spawn(seed, "one-hot", state.rounds)), temperature=cooled, lengths=problem.lengths,
            stickiness=family.stickiness, adam=state.adam, n_steps=8, **given,
        )  # fmt: skip
        return OneHotState(fitted, transition, adam, state.rounds + 1), objective

    found = em(step, OneHotState(begun, start.log_transition[0], at_rest(begun), 0), max_iter=plan.one_hot_rounds,
               tol=0.0, min_iter=plan.one_hot_rounds, checkpoint=checkpoint, description="one-hot prior")  # fmt: skip
    parameters: OneHot = found.state.parameters
    transition = found.state.log_transition
    soft = one_hot_weights(parameters, mean_types(parameters.logits, allowed))
    settled = start._replace(weights=soft.unsqueeze(0), log_transition=transition.unsqueeze(0))
    share = posterior_of(problem, settled, family).probabilities[0].to(problem.design)
    prior = shared_prior(parameters)
    hard = harden(problem.design, problem.spikes, share, parameters, prior=prior, tied=family.tied, **given)
    strength = torch.stack((prior.mean, prior.sd))
    return OneHotFit(parameters, transition, soft, hard, prior.types, strength, found.history)


def run_kernels(
    problem: Problem, start: Starts, family: Family, plan: Plan, *, kernel: Tensor, allowed: Tensor | None,
    checkpoint: Checkpoint | None,
) -> Last:  # fmt: skip
    """Learn kernels together with couplings that are free or around a shared mean."""
    shared = plan.prior == "gaussian"
    precision = (plan.sigma_w or 1 / 3) ** -2 if shared else plan.ridge
    begun = start_kernelled(start.weights[0], kernel)
    size = None if start.size is None else start.size[0]
    counts = 1 + family.stickiness * torch.eye(len(begun.bias)).to(start.log_transition)

    def step(state: KernelState) -> tuple[KernelState, Tensor]:
        now = _placed(start, kernel_weights(state.parameters), state.log_transition)
        posterior: hmm.Smoothed = posterior_of(problem, now, family)
        wide = Kernelled(*(p.to(state.log_transition) for p in state.parameters))
        objective = posterior.log_likelihood.sum() + kernel_log_prior(wide, precision, shared=shared)
        fitted, adam = fit_kernels(
            problem.design, problem.spikes, posterior.probabilities[0].to(problem.design), state.parameters,
            adam=state.adam, precision=precision, shared=shared, own_kernel=plan.own_kernel, allowed=allowed,
            shared_bias=family.shared_bias, shared_self=family.shared_self, link=family.link, size=size,
            mask=problem.mask,
        )  # fmt: skip
        moves = transition_mode(posterior.transitions[0].sum(0), stickiness=family.stickiness)
        return KernelState(fitted, moves, adam), objective + (counts * state.log_transition).sum()

    found = em(step, KernelState(begun, start.log_transition[0], at_rest(begun)), max_iter=plan.max_iter, tol=plan.tol,
               min_iter=min(3, plan.max_iter), checkpoint=checkpoint, description="learning kernels")  # fmt: skip
    parameters, moves = found.state.parameters, found.state.log_transition
    last, learned = _placed(start, kernel_weights(parameters), moves), parameters.kernel.softmax(-1)
    if shared:
        mean = kernel_mean(parameters).unsqueeze(-1) * learned
        zero = Weights(0 * parameters.bias[0], mean, 0 * parameters.covariates[0])
        last = last._replace(shared=join_weights(zero).unsqueeze(0))
    return Last(last, found.history, found.converged, kernel=learned)


def _placed(start: Starts, weights: Tensor, log_transition: Tensor) -> Starts:
    """One start with other weights (S, N, P) and transitions."""
    return start._replace(weights=weights.unsqueeze(0), log_transition=log_transition.unsqueeze(0),
                          shared=torch.zeros_like(weights[:1]))  # fmt: skip
