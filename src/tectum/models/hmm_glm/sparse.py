"""The switching GLM with an L1 penalty: the baseline for priors that say which couplings are none.

The penalty is majorised by a quadratic that touches it at the last couplings, so an M step is that of the Gaussian
prior with a precision of its own for every coupling, and no round lowers the penalised likelihood.

Shapes: states S, units N, regressors P.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .fitting import Family, Problem, Starts, posterior_of
from .glm import GaussianPrior, fit_weights, transition_mode

PENALTIES = (1.0, 4.0, 16.0, 64.0)  # nats a unit of coupling
ROUNDS = 50  # of EM for each penalty, each from the fit of the one before
NONE = 1e-3  # couplings below are none; also where the majorant stops to sharpen


def fit_sparse(problem: Problem, start: Starts, family: Family, *, penalty: float) -> Starts:
    """Maximise log-likelihood - penalty * sum |coupling| by EM from the first restart; small couplings become zero.

    Sizes of the negative binomial and first states stay those of the start; weights that start at zero stay there.
    """
    weights, moves = start.weights[0], start.log_transition[0]
    free, size = weights != 0, None if start.size is None else start.size.expand(len(weights), -1)
    damping = start.damping[0]
    for _ in range(ROUNDS):
        posterior = posterior_of(problem, _with(start, weights, moves), family)
        fitted = fit_weights(
            problem.design, problem.spikes, posterior.probabilities[0].to(problem.design), weights,
            prior=GaussianPrior(torch.zeros_like(weights), _majorant(weights, family, penalty)), link=family.link,
            size=size, mask=problem.mask, free=free, tied=family.tied, damping=damping, n_steps=1,
        )  # fmt: skip
        weights, damping = fitted.weights, fitted.damping
        moves = transition_mode(posterior.transitions[0].sum(0), stickiness=family.stickiness)
    part = slice(1, 1 + family.n_coupling)
    small = torch.zeros_like(free)
    small[..., part] = weights[..., part].abs() < NONE
    return _with(start, weights.masked_fill(small, 0.0), moves)


def best_sparse(problem: Problem, start: Starts, family: Family) -> Starts:
    """Fit every penalty, the smallest first, and keep the one of lowest Akaike information criterion."""
    fits: list[Starts] = []
    costs: list[float] = []
    for penalty in PENALTIES:
        fits.append(fit_sparse(problem, fits[-1] if fits else start, family, penalty=penalty))
        likelihood = float(posterior_of(problem, fits[-1], family).log_likelihood.sum())
        costs.append(int((fits[-1].weights != 0).sum()) - likelihood)
    return fits[costs.index(min(costs))]


def _majorant(weights: Tensor, family: Family, penalty: float) -> Tensor:
    """Precision (S, N, P) of the quadratic that touches the penalty at the weights; none for bias and covariates."""
    precision = torch.zeros_like(weights)
    part = slice(1, 1 + family.n_coupling)
    precision[..., part] = penalty / weights[..., part].abs().clamp(min=NONE)
    return precision


def _with(start: Starts, weights: Tensor, moves: Tensor) -> Starts:
    """Replace the parameters of one restart."""
    return start._replace(weights=weights.unsqueeze(0), log_transition=moves.unsqueeze(0))
