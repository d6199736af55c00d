"""M step and EM step of the switching GLM, naive and with the Gaussian prior.

Given the posterior of the states, the expected log-likelihood is a sum over states and units of weighted GLMs that
share one design tensor. They are solved side by side: states (with restarts folded into them) and units are tensor
axes.

Shapes: sequences and bins ``(sequence, time)`` = (B, T), units N, states S, regressors P (see `basis.design_tensor`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ...core.device import highest_precision
from ...stats import hmm
from .emission import FLOOR, Link, Moments, constant_rate_emission, drive_of_rate, expected_moments, log_emission

_DAMPING = 1e-4  # first Levenberg-Marquardt damping, relative to the diagonal


class GaussianPrior(NamedTuple):
    """Independent normal prior of every weight; both broadcast to (S, N, P)."""

    mean: Tensor
    precision: Tensor
    """Inverse variance; 0 = flat."""


class Update(NamedTuple):
    """Result of an M step for the weights."""

    weights: Tensor
    """(S, N, P)."""
    value: Tensor
    """(S, N) expected log-likelihood plus log prior (without constant) at ``weights``."""
    damping: Tensor
    """(S, N), or (group, N) with tied weights: Levenberg-Marquardt damping to start the next M step with."""


class Switching(NamedTuple):
    """Parameters of the switching GLM during EM."""

    weights: Tensor
    """(S, N, P)."""
    log_transition: Tensor
    """(S, S) log p(z_t = j | z_{t-1} = i)."""
    log_initial: Tensor
    """(S,) log p(z_1)."""
    shared: Tensor
    """(N, P) mean of the Gaussian prior on the weights, zero in the naive model."""
    damping: Tensor
    """(S, N) or (1, N): see `Update`."""


def fit_weights(
    design: Tensor,
    spikes: Tensor,
    responsibility: Tensor,
    weights: Tensor,
    *,
    prior: GaussianPrior,
    link: Link = "sigmoid",
    size: Tensor | None = None,
    mask: Tensor | None = None,
    free: Tensor | None = None,
    tied: Tensor | None = None,
    n_groups: int = 1,
    damping: Tensor | None = None,
    n_steps: int = 2,
) -> Update:
    """M step of the weights: damped Fisher scoring of all (state, unit) problems at once; it never goes downhill.

    Each problem has its own Levenberg-Marquardt damping: a step that would lower the objective is refused and the next
    one is shorter. One pass over the data is made per step, and one more.

    Parameters
    ----------
    design, spikes, link, size, mask
        See `log_emission`.
    responsibility : Tensor
        (..., T, S) posterior probability of each state in each bin.
    weights : Tensor
        (S, N, P) start.
    prior : GaussianPrior
        Of the weights; the ridge of the naive model is mean 0 and precision 1e-3.
    free : Tensor, optional
        bool, broadcast to (S, N, P); ``False`` keeps the weight as it is.
    tied : Tensor, optional
        (N, Q) int64: regressors of each unit whose weight is one for all states, see `basis.tied_columns`;
        ``weights`` must start so.
    n_groups : int
        Restarts folded into the states, of S / n_groups states each; weights are tied within each of them.
    damping : Tensor, optional
        From the last M step.
    n_steps : int
        Fisher scoring steps; EM needs one or two, 25 reach the optimum from anywhere reasonable.

    Returns
    -------
    Update

    References
    ----------
    Green (1984), Iteratively reweighted least squares, J. R. Stat. Soc. B 46; Moré (1978) for the damping.

    Examples
    --------
    >>> ones, counts = torch.ones(4, 1).double(), torch.tensor([[0.0], [1.0], [2.0], [5.0]]).double()
    >>> flat = GaussianPrior(torch.zeros(()), torch.zeros(()))
    >>> start = torch.zeros(1, 1, 1).double()
    >>> found = fit_weights(ones, counts, torch.ones(4, 1).double(), start, prior=flat, link="exp", n_steps=10)
    >>> round(found.weights.exp().item(), 6)
    2.0
    """
    allowed = torch.ones_like(weights, dtype=torch.bool) if free is None else free.expand(weights.shape)
    if damping is None:
        damping = torch.full((len(weights) if tied is None else n_groups, weights.shape[1]), _DAMPING).to(weights)
    group = 1 if tied is None else len(weights) // n_groups  # problems that step together

    def moments(weights: Tensor, information: bool) -> Moments:
        found = expected_moments(
            design, spikes, weights, responsibility, link=link, size=size, mask=mask, information=information
        )
        return _penalised(found, weights, prior)

    here = moments(weights, information=True)
    for step in range(n_steps):
        move = _direction(here, allowed, damping.repeat_interleave(group, 0), tied, group)
        move = move.to(weights)
        there = moments(weights + move, information=step + 1 < n_steps)
        gain = (there.value - here.value).unflatten(0, (-1, group)).sum(1)
        better = gain >= 0  # NaN is not better
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-10, 1e10)
        better = better.repeat_interleave(group, 0)
        weights = torch.where(better.unsqueeze(-1), weights + move, weights)
        here = _choose(better, there, here)
    return Update(weights, here.value, damping)


def _penalised(moments: Moments, weights: Tensor, prior: GaussianPrior) -> Moments:
    """Add log prior and its derivatives."""
    away = (weights - prior.mean).to(moments.value)
    precision = prior.precision.to(moments.value).expand(weights.shape)
    information = None if moments.information is None else moments.information + precision.diag_embed()
    return Moments(moments.value - (precision * away**2).sum(-1) / 2, moments.gradient - precision * away, information)


def _choose(better: Tensor, new: Moments, old: Moments) -> Moments:
    """Take each problem's moments from where it stands now."""
    kept = new.information is not None and old.information is not None
    return Moments(
        torch.where(better, new.value, old.value),
        torch.where(better[..., None], new.gradient, old.gradient),
        torch.where(better[..., None, None], new.information, old.information) if kept else None,  # type: ignore[arg-type]
    )


def _direction(moments: Moments, free: Tensor, damping: Tensor, tied: Tensor | None, group: int) -> Tensor:
    """Damped Fisher scoring step (S, N, P); weights that are not free do not move; ``group`` states share the tied."""
    assert moments.information is not None
    gradient = moments.gradient * free
    matrix = moments.information * (free.unsqueeze(-1) & free.unsqueeze(-2))
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    ridge = damping.unsqueeze(-1) * diagonal + torch.finfo(matrix.dtype).eps * (1 + diagonal) + (~free).to(matrix)
    matrix = matrix + ridge.diag_embed()
    if tied is None:
        return _solve(matrix, gradient.unsqueeze(-1)).squeeze(-1)
    order = _tied_first(tied, matrix.shape[-1])  # (N, P)
    gradient = gradient.gather(-1, order.expand(gradient.shape))
    matrix = matrix.gather(-1, order.unsqueeze(-2).expand(matrix.shape))
    matrix = matrix.gather(-2, order.unsqueeze(-1).expand(matrix.shape))
    # eliminate the other weights of each state, solve for the tied ones of the unit, substitute back
    q = tied.shape[1]
    corner, border, inner = matrix[..., :q, :q], matrix[..., q:, :q], matrix[..., q:, q:]
    solved = _solve(inner, torch.cat((gradient[..., q:, None], border), dim=-1))  # (S, N, P-q, 1+q)
    reduced = torch.cat((gradient[..., :q, None], corner), dim=-1) - border.mT @ solved
    total = reduced.unflatten(0, (-1, group)).sum(1)  # (groups, N, q, 1+q)
    first = _solve(total[..., 1:], total[..., :1]).repeat_interleave(group, 0)  # (S, N, q, 1)
    step = torch.cat((first, solved[..., :1] - solved[..., 1:] @ first), dim=-2).squeeze(-1)
    return torch.empty_like(step).scatter(-1, order.expand(step.shape), step)


def _tied_first(tied: Tensor, n_weights: int) -> Tensor:
    """Order of the weights of each unit in which the tied ones come first, (N, P) int64."""
    rest = torch.ones(len(tied), n_weights, dtype=torch.int64, device=tied.device).scatter(1, tied, 0)
    return rest.argsort(dim=1, stable=True)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve symmetric positive definite systems; one that is not (numerically) gives NaN, which no step accepts."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    factor = torch.where((failed == 0)[..., None, None], factor, torch.nan)
    return torch.cholesky_solve(right, factor)


def shared_mean(weights: Tensor, *, n_columns: int) -> Tensor:
    """Mode of the mean of a Gaussian prior that itself has mean 0 and the same variance: the sum over S + 1.

    Parameters
    ----------
    weights : Tensor
        (S, N, P).
    n_columns : int
        Number of coupling columns after the bias; bias and covariates keep the mean 0.

    Returns
    -------
    Tensor
        (N, P).

    Examples
    --------
    >>> shared_mean(torch.ones(3, 1, 3), n_columns=1).tolist()
    [[0.0, 0.75, 0.0]]
    """
    mean = weights.sum(0) / (len(weights) + 1)
    column = torch.arange(mean.shape[1], device=mean.device)
    return torch.where((column > 0) & (column <= n_columns), mean, torch.zeros_like(mean))


def transition_mode(transitions: Tensor, *, stickiness: float = 0.0) -> Tensor:
    """Update the transition matrix: posterior mode under Dirichlet(2 + stickiness on the diagonal), as logarithms.

    Parameters
    ----------
    transitions : Tensor
        (..., S, S) expected numbers of transitions.
    stickiness : float
        Extra pseudo-transitions of every state to itself.

    Returns
    -------
    Tensor
        (..., S, S) log probabilities, rows sum to 1; no entry is zero, so no row can collapse.

    Examples
    --------
    >>> transition_mode(torch.tensor([[8.0, 0.0], [0.0, 8.0]])).exp()[0].tolist()
    [0.8999..., 0.0999...]
    """
    counts = transitions + 1 + stickiness * torch.eye(transitions.shape[-1]).to(transitions)
    return (counts / counts.sum(-1, keepdim=True)).log()


def log_prior(
    state: Switching, prior: GaussianPrior, *, stickiness: float = 0.0, shared_precision: float = 0.0
) -> Tensor:
    """Log prior density of all parameters without its constant; EM never lowers its sum with the log-likelihood.

    Parameters
    ----------
    state : Switching
        Parameters.
    prior : GaussianPrior
        Of the weights.
    stickiness : float
        See `transition_mode`.
    shared_precision : float
        Inverse variance of the shared mean (Gaussian prior), 0 in the naive model.

    Returns
    -------
    Tensor
        ().

    Examples
    --------
    >>> one, flat = torch.zeros(1, 1, 1), GaussianPrior(torch.zeros(()), torch.ones(()))
    >>> log_prior(Switching(one + 2, one[0], one[0, 0], one[0], one[0]), flat).item()
    -2.0
    """
    wide = highest_precision(state.weights.device)
    weights = -(prior.precision * (state.weights - prior.mean) ** 2).to(wide).sum() / 2
    counts = 1 + stickiness * torch.eye(len(state.log_transition)).to(state.log_transition)
    shared = -shared_precision * (state.shared**2).to(wide).sum() / 2
    return weights + (counts * state.log_transition).sum() + shared


def initial_weights(
    spikes: Tensor, *, n_states: int, n_regressors: int, link: Link, generator: torch.Generator, scale: float = 0.1
) -> Tensor:
    """Random start: biases from the mean counts, all other weights scale * N(0, 1), drawn on the generator's device.

    Parameters
    ----------
    spikes : Tensor
        (..., T, N).
    n_states, n_regressors : int
        S and P.
    link : {"sigmoid", "softplus", "exp"}
        Link to invert.
    generator : torch.Generator
        Use one on the CPU for equal starts on every device.
    scale : float
        0 only for one state: equal states never separate.

    Returns
    -------
    Tensor
        (S, N, P) in the floating dtype of ``spikes``, else float64 where there is one.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> initial_weights(torch.ones(9, 2), n_states=3, n_regressors=3, link="exp", generator=g).shape
    torch.Size([3, 2, 3])
    """
    dtype = spikes.dtype if spikes.is_floating_point() else highest_precision(spikes.device)
    rates = spikes.to(dtype).flatten(0, -2).mean(0)
    shape = (n_states, len(rates), n_regressors - 1)
    noise = scale * torch.randn(shape, generator=generator, device=generator.device).to(rates)
    bias = drive_of_rate(rates, link).expand(n_states, -1).unsqueeze(-1)
    return torch.cat((bias, noise), dim=-1)


def em_step(
    state: Switching,
    design: Tensor,
    spikes: Tensor,
    *,
    n_coupling: int,
    precision: Tensor,
    shared_precision: float = 0.0,
    link: Link = "sigmoid",
    size: Tensor | None = None,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    free: Tensor | None = None,
    tied: Tensor | None = None,
    stickiness: float = 0.0,
    n_steps: int = 1,
) -> tuple[Switching, Tensor, hmm.Smoothed]:
    """One round of generalised EM over all sequences at once.

    Parameters
    ----------
    state : Switching
        Parameters before the round.
    design : Tensor
        (B, T, P).
    spikes : Tensor
        (B, T, N).
    n_coupling : int
        Number of coupling columns (unit * filter), which are columns 1..n_coupling.
    precision : Tensor
        Inverse prior variance of the weights, broadcast to (S, N, P): 1e-3 on couplings in the naive model,
        1 / sigma_w^2 in the Gaussian one.
    shared_precision : float
        1 / sigma_w^2 in the Gaussian model, whose shared mean is then updated; 0 keeps the mean at ``state.shared``.
    link, size, mask, free, tied, n_steps
        See `fit_weights`.
    lengths : Tensor, optional
        (B,) bins of each sequence.
    stickiness : float
        See `transition_mode`.

    Returns
    -------
    state : Switching
        Parameters after the round.
    objective : Tensor
        () log-likelihood plus log prior *before* the round; it never falls from round to round.
    posterior : stats.hmm.Smoothed
        Of the states, before the round.

    Examples
    --------
    >>> from tectum.models.hmm_glm.basis import design_tensor, exponential_filter
    >>> g = torch.Generator().manual_seed(0)
    >>> counts = torch.poisson(torch.ones(2, 30, 3).double(), generator=g)
    >>> weights = initial_weights(counts, n_states=2, n_regressors=4, link="softplus", generator=g)
    >>> fair = torch.full((2, 2), 0.5).double().log()
    >>> state = Switching(weights, fair, fair[0], torch.zeros(3, 4).double(), torch.full((2, 3), 1e-4).double())
    >>> ridge, design = torch.tensor(1e-3), design_tensor(counts, exponential_filter(5))
    >>> state, before, _ = em_step(state, design, counts, n_coupling=3, precision=ridge, link="softplus")
    >>> _, after, _ = em_step(state, design, counts, n_coupling=3, precision=ridge, link="softplus")
    >>> bool(after > before)
    True
    """
    prior = GaussianPrior(state.shared, precision.to(state.weights))
    emission = log_emission(design, spikes, state.weights, link=link, size=size, mask=mask)
    posterior = hmm.smooth(state.log_initial, state.log_transition, emission, lengths=lengths)
    objective = posterior.log_likelihood.sum() + log_prior(
        state, prior, stickiness=stickiness, shared_precision=shared_precision
    )
    fitted = fit_weights(
        design, spikes, posterior.probabilities.to(design), state.weights, prior=prior, link=link, size=size, mask=mask,
        free=free, tied=tied, damping=state.damping, n_steps=n_steps,
    )  # fmt: skip
    shared = shared_mean(fitted.weights, n_columns=n_coupling) if shared_precision > 0 else state.shared
    counted = posterior.transitions.reshape(-1, *state.log_transition.shape).sum(0)
    transition = transition_mode(counted, stickiness=stickiness)
    return Switching(fitted.weights, transition, state.log_initial, shared, fitted.damping), objective, posterior


def poisson_em_step(
    rates: Tensor,
    log_transition: Tensor,
    log_initial: Tensor,
    spikes: Tensor,
    *,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    stickiness: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, hmm.Smoothed]:
    """One round of EM for the model without regressors (Poisson HMM), whose M step has a closed form.

    Parameters
    ----------
    rates : Tensor
        (S, N) expected counts per bin before the round.
    log_transition, log_initial : Tensor
        (S, S) and (S,) log probabilities.
    spikes : Tensor
        (B, T, N) counts.
    mask : Tensor, optional
        (B, T, N) bool, ``False`` = not observed.
    lengths : Tensor, optional
        (B,) bins of each sequence.
    stickiness : float
        See `transition_mode`.

    Returns
    -------
    rates : Tensor
    log_transition : Tensor
        Both after the round.
    objective : Tensor
        () log-likelihood plus log prior of the transitions before the round, without the terms log(x!): subtract
        the sum of `emission.log_factorials` once.
    posterior : stats.hmm.Smoothed
        Of the states, before the round.

    Examples
    --------
    >>> spikes = torch.tensor([[[0.0], [1.0], [0.0], [9.0], [8.0], [9.0]]]).double()
    >>> fair = torch.full((2, 2), 0.5).double().log()
    >>> rates = torch.tensor([[1.0], [5.0]]).double()
    >>> poisson_em_step(rates, fair, fair[0], spikes)[0].flatten().round().tolist()
    [0.0, 8.0]
    """
    posterior = hmm.smooth(
        log_initial, log_transition, constant_rate_emission(spikes, rates, mask=mask), lengths=lengths
    )
    extra = (1 + stickiness * torch.eye(len(log_transition)).to(log_transition)) * log_transition
    share = posterior.probabilities.flatten(0, -2)  # (bins, S)
    counts = spikes.to(share).flatten(0, -2)
    if mask is None:
        weight = share.sum(0).unsqueeze(1)
    else:
        seen = mask.expand(spikes.shape).flatten(0, -2)
        counts, weight = counts.where(seen, 0.0), share.mT @ seen.to(share)
    fitted = (share.mT @ counts) / weight.clamp(min=FLOOR)
    counted = posterior.transitions.reshape(-1, *log_transition.shape).sum(0)
    objective = posterior.log_likelihood.sum() + extra.sum()
    return fitted, transition_mode(counted, stickiness=stickiness), objective, posterior
