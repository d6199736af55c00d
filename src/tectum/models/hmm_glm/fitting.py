"""EM of the switching GLM over restarts, which are a leading axis: random starts, search and refinement.

A fit has three stages. *Search*: many random starts, a strong ridge and few rounds, on part of the data if there is
much. *Refine*: the best few starts on all data with a moderate ridge, until they stand still. The ridge matters more
than the number of starts: with little data unpenalised weights explain the noise of whatever bins a state first holds,
and never let go of them. *Final* (`stages`): the best start goes on under the prior that was asked for.

Shapes: restarts R, states S, units N, regressors P, sequences B, bins T.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.checkpoint import Checkpoint
from ...core.device import highest_precision
from ...core.errors import NonFiniteError, TectumWarning, explain
from ...core.loops import EMResult, em
from ...core.random import generator, spawn
from ...stats import hmm
from ...stats.clustering import kmeans
from .emission import Link, expected_moments, log_emission
from .glm import GaussianPrior, fit_weights, initial_weights, shared_mean, transition_mode

SEARCH_RIDGE, SEARCH_ROUNDS, SEARCH_BINS = 20.0, 10, 20_000
REFINE_RIDGE, REFINE_ROUNDS, REFINE_STARTS = 8.0, 20, 3
SPREAD = 0.1  # standard deviation of the weights of a random start
STAY = 0.98  # probability of keeping the state, at the start
CALM_ROUNDS = 3  # rounds without change after which EM ends
LOWEST = -1e30  # objective of a start that failed
SIZE_RANGE = (1e-2, 1e4)
SMOOTH = 25  # bins


class Problem(NamedTuple):
    """Data of a fit."""

    design: Tensor
    """(B, T, P)."""
    spikes: Tensor
    """(B, T, N)."""
    mask: Tensor | None
    """(B, T, N) bool."""
    lengths: Tensor | None
    """(B,)."""


class Family(NamedTuple):
    """The model that is fitted, without its size."""

    link: Link
    n_coupling: int
    """Columns 1..n_coupling of the design are filtered histories."""
    free: Tensor | None
    """(N, P) bool, weights that may differ from zero."""
    shared_bias: bool
    negative_binomial: bool
    stickiness: float
    learn_initial: bool
    shared_self: bool = False
    tied: Tensor | None = None
    """(N, Q) columns of the weights that are one for all states; see `basis.tied_columns`."""
    kmeans: bool = False
    """Whether starts come from k-means of smoothed counts instead of random weights."""


class Starts(NamedTuple):
    """Parameters of R restarts and how they have been moving."""

    weights: Tensor
    """(R, S, N, P)."""
    log_transition: Tensor
    """(R, S, S)."""
    log_initial: Tensor
    """(R, S)."""
    shared: Tensor
    """(R, N, P) mean of the Gaussian prior."""
    damping: Tensor
    """(R, S or 1, N)."""
    size: Tensor | None
    """(R, N) negative-binomial sizes; ``None`` for Poisson counts."""
    objective: Tensor
    """(R,) log-likelihood plus log prior before the last round."""
    calm: Tensor
    """(R,) int64 rounds in a row in which the objective hardly changed."""
    failed: Tensor
    """(R,) int64 round in which the objective was not finite, -1 = never."""
    number: Tensor
    """(R,) int64: the how-manieth of the drawn starts it is."""
    rounds: Tensor
    """() int64 rounds so far."""


class Ridge(NamedTuple):
    """Gaussian prior of the weights in one stage."""

    weights: float
    """Inverse variance of couplings and covariates around their mean."""
    shared: float = 0.0
    """Inverse variance of the shared mean; 0 keeps it at zero."""


def draw_starts(problem: Problem, family: Family, *, n_states: int, n_starts: int, seed: int) -> Starts:
    """Draw random starts on the CPU, one generator each, and move them.

    Parameters
    ----------
    problem, family
        Data and model.
    n_states, n_starts : int
        S and R.
    seed : int
        Start r depends on (seed, r) alone.

    Returns
    -------
    Starts
    """
    spikes, n_regressors = problem.spikes, problem.design.shape[-1]
    observed = spikes if problem.lengths is None else spikes[_inside(problem)]
    scale = SPREAD if n_states > 1 else 0.0
    drawn = [
        initial_weights(observed, n_states=n_states, n_regressors=n_regressors, link=family.link, scale=scale,
                        generator=generator(spawn(seed, "start", r)))
        for r in range(n_starts)
    ]  # fmt: skip
    weights = _spread_bias(torch.stack(drawn), family, seed)
    if family.kmeans and n_states > 1:
        weights = _from_clusters(problem, weights, family, seed)
    return start_from(_tied(weights, family.tied), family)


def _tied(weights: Tensor, tied: Tensor | None) -> Tensor:
    """Give tied weights (..., S, N, P) their mean over the states."""
    if tied is None:
        return weights
    shape = (*weights.shape[:-1], tied.shape[1])
    mean = weights.gather(-1, tied.expand(shape)).mean(-3, keepdim=True)
    return weights.scatter(-1, tied.expand(shape), mean.expand(shape))


def _from_clusters(problem: Problem, weights: Tensor, family: Family, seed: int) -> Tensor:
    """Fit weights (R, S, N, P) to the clusters of the smoothed counts, another draw of first centres a start."""
    n_starts, n_states, n_units, n_weights = weights.shape
    problem = part_of(problem, seed=seed, most=SEARCH_BINS)
    points = _smoothed(problem)  # (B, T, N)
    uniforms = torch.rand(n_starts, n_states, generator=generator(spawn(seed, "kmeans"))).to(points)
    each = points.flatten(0, 1).expand(n_starts, -1, -1)
    label = kmeans(each, torch.full_like(uniforms[:, 0], n_states, dtype=torch.int64), uniforms=uniforms)
    hot = torch.nn.functional.one_hot(label, n_states).to(points)  # (R, B T, S)
    if problem.lengths is not None:
        hot = hot * _inside(problem).flatten().unsqueeze(-1)
    share = hot.movedim(0, 1).reshape(*points.shape[:2], n_starts * n_states)
    prior = GaussianPrior(torch.zeros((), dtype=points.dtype, device=points.device),
                          _precision(n_weights, SEARCH_RIDGE).to(points))  # fmt: skip
    flat = _tied(weights, family.tied).flatten(0, 1)
    weights = fit_weights(problem.design, problem.spikes, share, flat, prior=prior, free=_folded_free(family, flat),
                          tied=family.tied, n_groups=n_starts, n_steps=5, link=family.link,
                          mask=problem.mask).weights  # fmt: skip
    restarts: Tensor = weights.unflatten(0, (n_starts, n_states))
    return restarts if family.free is None else torch.where(family.free, restarts, 0.0)


def _smoothed(problem: Problem) -> Tensor:
    """Square roots of counts, smoothed over `SMOOTH` bins within sequences and scaled to unit variance, (B, T, N)."""
    counts = problem.spikes if problem.mask is None else problem.spikes.where(problem.mask, 0.0)
    series = (counts + 0.375).sqrt().mT  # (B, N, T)
    width = min(SMOOTH, 2 * ((series.shape[-1] + 1) // 2) - 1)  # odd
    smooth = torch.nn.functional.avg_pool1d(series, width, stride=1, padding=width // 2, count_include_pad=False).mT
    spread = smooth.flatten(0, 1).std(0)
    return (smooth - smooth.flatten(0, 1).mean(0)) / spread.clamp(min=1e-6)


def _spread_bias(weights: Tensor, family: Family, seed: int) -> Tensor:
    """Without couplings only biases tell states apart: draw them too."""
    if weights.shape[-1] > 1 or weights.shape[1] == 1 or family.shared_bias:
        return weights if family.free is None else torch.where(family.free, weights, 0.0)
    noise = torch.randn(weights.shape, generator=generator(spawn(seed, "bias"))).to(weights)
    return weights + 0.5 * noise


def start_from(weights: Tensor, family: Family, *, log_transition: Tensor | None = None) -> Starts:
    """Wrap weights (R, S, N, P) as starts with sticky transitions, or the given ones (R, S, S)."""
    n_starts, n_states, n_units, _ = weights.shape
    wide, device = highest_precision(weights.device), weights.device
    if log_transition is None:
        leave = (1 - STAY) / max(n_states - 1, 1)
        same = torch.eye(n_states, dtype=wide).to(device)
        sticky = (leave + (STAY - leave) * same).log() if n_states > 1 else torch.zeros_like(same)
        log_transition = sticky.expand(n_starts, -1, -1)
    uniform = torch.zeros(n_starts, n_states, dtype=wide, device=device).log_softmax(-1)
    count = torch.zeros(n_starts, dtype=torch.int64, device=device)
    rows = n_states if family.tied is None else 1
    return Starts(
        weights, log_transition, uniform, torch.zeros_like(weights[:, 0]),
        torch.full((n_starts, rows, n_units), 1e-4, dtype=weights.dtype, device=device),
        torch.full((n_starts, n_units), 10.0, dtype=weights.dtype, device=device) if family.negative_binomial else None,
        torch.full((n_starts,), LOWEST, dtype=wide, device=device), count, count - 1,
        torch.arange(n_starts, device=device), count[:1].sum(),
    )  # fmt: skip


def posterior_of(problem: Problem, starts: Starts, family: Family) -> hmm.Smoothed:
    """Posterior of the states under every start; fields have the leading axes (R, B)."""
    n_starts, n_states = starts.weights.shape[:2]
    emission = log_emission(
        problem.design, problem.spikes, starts.weights.flatten(0, 1), link=family.link, mask=problem.mask,
        size=_folded_size(starts),
    ).unflatten(-1, (n_starts, n_states)).movedim(-2, 0)  # (R, B, T, S)  # fmt: skip
    lengths = None if problem.lengths is None else problem.lengths.expand(n_starts, -1)
    n_sequences = emission.shape[1]
    transition = starts.log_transition.unsqueeze(1)
    transition = transition[0] if n_starts == 1 else transition.expand(-1, n_sequences, -1, -1)
    return hmm.smooth(starts.log_initial.unsqueeze(1), transition, emission, lengths=lengths)


def em_round(problem: Problem, starts: Starts, family: Family, ridge: Ridge, *, tol: float) -> tuple[Starts, Tensor]:
    """One round of generalised EM for all restarts at once.

    Parameters
    ----------
    problem, family
        Data and model.
    starts : Starts
        Parameters before the round.
    ridge : Ridge
        Prior of the weights.
    tol : float
        Relative change of the objective that counts as none.

    Returns
    -------
    starts : Starts
        Parameters after the round; a start whose objective is not finite stays as it was.
    objective : Tensor
        (R,) log-likelihood plus log prior before the round; it never falls. `LOWEST` for starts that failed.
    """
    n_starts, n_states, _, n_regressors = starts.weights.shape
    posterior = posterior_of(problem, starts, family)
    flat, size = starts.weights.flatten(0, 1), _folded_size(starts)
    precision = _precision(n_regressors, ridge.weights).to(flat)
    prior = GaussianPrior(starts.shared.repeat_interleave(n_states, 0), precision)
    objective = posterior.log_likelihood.sum(1) + _log_prior(starts, precision, ridge, family)
    share = posterior.probabilities.movedim(0, -2).flatten(-2).to(problem.design)  # (B, T, R * S)
    fitted = fit_weights(
        problem.design, problem.spikes, share, flat, prior=prior, size=size, free=_folded_free(family, flat),
        tied=family.tied, n_groups=n_starts, damping=starts.damping.flatten(0, 1), n_steps=1,
        link=family.link, mask=problem.mask,
    )  # fmt: skip
    weights = fitted.weights.unflatten(0, (n_starts, n_states))
    new = starts._replace(
        weights=weights,
        log_transition=transition_mode(posterior.transitions.sum(1), stickiness=family.stickiness),
        log_initial=_initial(posterior, starts, family),
        shared=_shared(weights, family) if ridge.shared > 0 else starts.shared,
        damping=fitted.damping.unflatten(0, (n_starts, -1)),
        size=None if size is None else _update_size(problem, fitted.weights, share, starts, family),
    )  # fmt: skip
    return _settle(new, starts, objective, tol)


def _settle(new: Starts, old: Starts, objective: Tensor, tol: float) -> tuple[Starts, Tensor]:
    """Freeze the starts that failed and count the rounds in which the others stood still."""
    good = objective.isfinite() & (old.failed < 0)
    objective = torch.where(good, objective, LOWEST)
    still = (objective - old.objective).abs() <= tol * objective.abs().clamp(min=1.0)
    kept = {
        name: torch.where(good.reshape(-1, *[1] * (value.ndim - 1)), value, getattr(old, name))
        for name, value in new._asdict().items()
        if value is not None and name not in ("objective", "calm", "failed", "rounds")
    }
    failed = torch.where(good | (old.failed >= 0), old.failed, old.rounds)
    calm = torch.where(still, old.calm + 1, 0)
    return new._replace(objective=objective, calm=calm, failed=failed, rounds=old.rounds + 1, **kept), objective


def run_em(
    problem: Problem, starts: Starts, family: Family, ridge: Ridge, *, max_iter: int, tol: float,
    checkpoint: Checkpoint | None, description: str,
) -> tuple[Starts, EMResult]:  # fmt: skip
    """Iterate `em_round` until every start stands still, on the loop ``em``.

    Raises
    ------
    NonFiniteError
        If all starts fail; a warning tells of some.
    """
    zero = torch.zeros_like(starts.calm)
    begun = starts._replace(
        calm=zero, failed=zero - 1, rounds=zero.sum(), damping=torch.full_like(starts.damping, 1e-4)
    )
    found = em(
        lambda s: em_round(problem, s, family, ridge, tol=tol), begun, max_iter=max_iter, tol=tol,
        min_iter=min(CALM_ROUNDS, max_iter), finished=lambda s: bool((s.calm >= CALM_ROUNDS).all()),
        checkpoint=checkpoint, description=description,
    )  # fmt: skip
    _tell_failed(problem, found.state, family, description)
    return found.state, found


def _tell_failed(problem: Problem, starts: Starts, family: Family, description: str) -> None:
    """Warn of starts whose objective was not finite, and name their states; refuse if none is left."""
    failed = {r: n for r, n in enumerate(starts.failed.tolist()) if n >= 0}
    if not failed:
        return
    broken = broken_states(problem, starts, family).tolist()
    told = "; ".join(f"start {r} in round {n + 1}, states {_where(broken[r])}" for r, n in failed.items())
    if len(failed) == len(starts.failed):
        fix = "use a larger ridge, or link='softplus'"
        raise NonFiniteError(explain(f"HMMGLM ({description})", expected="a finite objective", got=told, fix=fix))
    warnings.warn(f"HMMGLM ({description}): the objective is not finite; dropped {told}", TectumWarning, stacklevel=4)


def broken_states(problem: Problem, starts: Starts, family: Family) -> Tensor:
    """States whose parameters or emissions are not finite, (R, S) bool; starts that failed kept theirs."""
    n_starts, n_states = starts.weights.shape[:2]
    emission = log_emission(
        problem.design, problem.spikes, starts.weights.flatten(0, 1), link=family.link, mask=problem.mask,
        size=_folded_size(starts),
    )  # fmt: skip
    fine = emission.isfinite().flatten(0, -2).all(0).unflatten(0, (n_starts, n_states))
    fine = fine & starts.weights.isfinite().flatten(2).all(-1) & starts.log_initial.isfinite()
    broken: Tensor = ~(fine & starts.log_transition.isfinite().all(-1))
    return broken


def _where(flags: Sequence[bool]) -> list[int]:
    return [k for k, flag in enumerate(flags) if flag]


def best_starts(starts: Starts, n_best: int) -> Starts:
    """Keep the starts with the highest objectives, the best first."""
    order = starts.objective.argsort(descending=True, stable=True)[:n_best]
    picked = {name: v if v is None or v.ndim == 0 else v[order] for name, v in starts._asdict().items()}
    return Starts(**picked)


def part_of(problem: Problem, *, seed: int, most: int) -> Problem:
    """Take whole sequences in random order, or the first bins of one, until there are ``most`` bins."""
    n_sequences, n_time = problem.spikes.shape[:2]
    if n_sequences * n_time <= most:
        return problem
    order = torch.randperm(n_sequences, generator=generator(spawn(seed, "part")))
    chosen = order[: max(1, most // n_time)].to(problem.spikes.device)
    stop = min(n_time, most)
    parts = (None if t is None else t[chosen][:, :stop] for t in problem[:3])
    design, spikes, mask = parts
    assert design is not None
    assert spikes is not None
    return Problem(design, spikes, mask, None if problem.lengths is None else problem.lengths[chosen].clamp(max=stop))


# Parts of a round


def _inside(problem: Problem) -> Tensor:
    """Bins within their sequences: (B, T) bool."""
    assert problem.lengths is not None
    time = torch.arange(problem.spikes.shape[1], device=problem.spikes.device)
    return time < problem.lengths.unsqueeze(1)


def _precision(n_regressors: int, ridge: float) -> Tensor:
    """Inverse variance of each regressor's weight: none for the bias, (P,)."""
    return torch.tensor([0.0] + [ridge] * (n_regressors - 1))


def _folded_size(starts: Starts) -> Tensor | None:
    """Sizes for every restart and state, (R * S, N)."""
    return None if starts.size is None else starts.size.repeat_interleave(starts.weights.shape[1], 0)


def _folded_free(family: Family, flat: Tensor) -> Tensor | None:
    return None if family.free is None else family.free.expand(flat.shape)


def _log_prior(starts: Starts, precision: Tensor, ridge: Ridge, family: Family) -> Tensor:
    """Log prior of every restart without constants, (R,)."""
    wide = starts.log_transition.dtype
    away = ((starts.weights - starts.shared.unsqueeze(1)) ** 2 * precision).to(wide).sum((1, 2, 3)) / 2
    counts = 1 + family.stickiness * torch.eye(starts.weights.shape[1]).to(starts.log_transition)
    moves = (counts * starts.log_transition).sum((1, 2))
    return moves - away - ridge.shared * (starts.shared**2).to(wide).sum((1, 2)) / 2


def _shared(weights: Tensor, family: Family) -> Tensor:
    """Means of the Gaussian prior, (R, N, P)."""
    return torch.stack([shared_mean(w, n_columns=family.n_coupling) for w in weights])


def _initial(posterior: hmm.Smoothed, starts: Starts, family: Family) -> Tensor:
    """First states: uniform, or their posterior mode under Dirichlet(2)."""
    if not family.learn_initial:
        return starts.log_initial
    counts = posterior.probabilities[:, :, 0].sum(1) + 1
    return (counts / counts.sum(-1, keepdim=True)).log().to(starts.log_initial)


def _update_size(problem: Problem, flat: Tensor, share: Tensor, starts: Starts, family: Family) -> Tensor:
    """One safeguarded Newton step on the log of every negative-binomial size, (R, N)."""
    n_starts, n_states = starts.weights.shape[:2]
    assert starts.size is not None
    here, step = starts.size.log(), 0.05

    def value(log_size: Tensor) -> Tensor:
        size = log_size.exp().repeat_interleave(n_states, 0)
        found = expected_moments(problem.design, problem.spikes, flat, share, link=family.link, size=size,
                                 mask=problem.mask)  # fmt: skip
        total: Tensor = found.value.unflatten(0, (n_starts, n_states)).sum(1)
        return total

    low, middle, high = value(here - step), value(here), value(here + step)
    slope, bend = (high - low) / (2 * step), (high - 2 * middle + low) / step**2
    move = torch.where(bend < 0, -slope / bend.clamp(max=-1e-12), slope.sign()).clamp(-1, 1).to(here)
    moved = (here + move).clamp(math.log(SIZE_RANGE[0]), math.log(SIZE_RANGE[1]))
    found: Tensor = torch.where(value(moved) >= middle, moved, here).exp()
    return found


Save = Callable[[str], "Checkpoint | None"]


def search(
    problem: Problem, family: Family, *, n_states: int, n_starts: int, tol: float, seed: int, save: Save,
    extra: Tensor | None = None,
) -> tuple[Starts, bool]:  # fmt: skip
    """Search from random starts and ``extra`` weights (start, S, N, P), and refine.

    Return the refined starts, the best first, and whether they stood still.
    """
    drawn = draw_starts(problem, family, n_states=n_states, n_starts=n_starts, seed=seed)
    if n_states > 1:
        if extra is not None:
            drawn = start_from(torch.cat((drawn.weights, extra)), family)
        part = part_of(problem, seed=seed, most=SEARCH_BINS)
        drawn, _ = run_em(part, drawn, family, Ridge(SEARCH_RIDGE), max_iter=SEARCH_ROUNDS, tol=tol,
                          checkpoint=save("search"), description="searching")  # fmt: skip
    kept = best_starts(drawn, REFINE_STARTS)
    refined, found = run_em(problem, kept, family, Ridge(REFINE_RIDGE), max_iter=REFINE_ROUNDS, tol=tol,
                            checkpoint=save("refine"), description="refining")  # fmt: skip
    return best_starts(refined, REFINE_STARTS), found.converged
