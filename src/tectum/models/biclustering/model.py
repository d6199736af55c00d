"""The model behind BiCluster: its data, priors and state as tensors, the linear predictor and the log joint density.

Axes of the tensors: chain, cluster (slot), unit, time, state. Every unit has coefficients ``beta = (d, c, w)``: level,
loadings on the p factors of its cluster, and weights of the covariates. A cluster's path is ``h = (m, x)``. The
logarithm of the expected count of unit i in bin t is ``m + d + c'x + w'g``, with the path of the unit's cluster.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...stats.conjugate import MatrixNormalInverseWishart, inverse_wishart_log_prob, matrix_normal_log_prob
from ...stats.distributions import negative_binomial_log_prob, poisson_log_prob
from ...stats.hdp import transition_counts
from ...stats.mixtures import PartitionPrior, geometric_log_prior, partition_log_prob

POISSON_DISPERSION = 100.0  # of the negative binomial that proposes for Poisson counts
MAX_RADIUS = 1.05  # bound of the spectral radius of a transition matrix


class Data(NamedTuple):
    """Counts of all sessions, one after the other along time."""

    counts: Tensor
    """(unit, time) floating counts, 0 where missing."""
    observed: Tensor
    """(unit, time) 1 where a count was seen, else 0."""
    starts: Tensor
    """(time,) bool: the first bin of a session or trial; the path and the states start anew there."""
    offset: Tensor
    """(unit or 1, time or 1) known part of the log mean."""
    covariates: Tensor
    """(time, feature)."""
    histogram: Tensor | None
    """(unit, value) how often a unit's count takes each value; None where counts are large."""
    n_starts: int


class Hyper(NamedTuple):
    """Sizes, constants and priors."""

    n_factors: int
    n_states: int
    n_slots: int
    alpha: float
    gamma: float
    kappa: float
    r_shape: float
    r_rate: float
    concentration: float
    poisson: bool
    regression: MatrixNormalInverseWishart
    log_components: Tensor
    """(occupied + 1, component) log posterior of the number of components given that of occupied ones."""
    log_blocks: Tensor
    """(occupied + 1,) log V(t) of the partition prior."""
    log_prior: Tensor
    """(component,) log prior of the number of components."""
    coupled: bool = False
    """Whether the paths of all clusters follow one law of their stack; then ``n_slots`` clusters exist, always."""

    @property
    def partition(self) -> PartitionPrior:
        """Prior of partitions."""
        return PartitionPrior(self.log_blocks, self.concentration)


class State(NamedTuple):
    """State of the chains; occupied clusters come first, the slots after them hold no information."""

    labels: Tensor
    """(chain, unit) int64."""
    beta: Tensor
    """(chain, unit, 1 + p + feature)."""
    log_r: Tensor
    """(chain, unit) log dispersion."""
    path: Tensor
    """(chain, slot, time, q)."""
    states: Tensor
    """(chain, time) int64; the state of bin t governs the step from t - 1 into t."""
    matrix: Tensor
    """(chain, slot, state, q, q + 1) [A b]; coupled: (chain, 1, state, D, D + 1) with D = slots times q."""
    noise: Tensor
    """(chain, slot, state, q, q) Q; coupled: (chain, 1, state, D, D)."""
    log_pi: Tensor
    """(chain, state, state)."""
    log_base: Tensor
    """(chain, state)."""
    rates: Tensor
    """(chain, 5) accepted share of path, window, label and dispersion proposals, and levels of jitter."""


def make_hyper(
    n_units: int,
    *,
    n_factors: int,
    n_states: int,
    n_slots: int,
    zeta: float,
    alpha: float,
    gamma: float,
    kappa: float,
    r_shape: float,
    r_rate: float,
    poisson: bool,
    like: Tensor,
    concentration: float = 1.0,
    dirichlet_process: float | None = None,
) -> Hyper:
    """Build the constants of the model.

    Parameters
    ----------
    n_units : int
        Units N.
    n_factors, n_states, n_slots : int
        Factors p of a path, states L of the weak limit, largest number of clusters.
    zeta : float
        Of the geometric prior of the number of clusters, cut at ``n_slots``.
    alpha, gamma, kappa : float
        Sticky HDP.
    r_shape, r_rate : float
        Gamma prior of the dispersion.
    poisson : bool
        Whether counts are Poisson.
    like : Tensor
        Gives dtype and device.
    concentration : float
        Dirichlet parameter of the cluster weights.
    dirichlet_process : float or None
        Concentration of a Dirichlet process in place of the mixture of finite mixtures: its weak limit, ``n_slots``
        clusters with weights Dir(concentration / n_slots).

    Returns
    -------
    Hyper
    """
    number = _component_prior(n_slots, zeta, like)
    if dirichlet_process is not None:
        concentration = dirichlet_process / n_slots
        number = torch.full_like(number, -torch.inf)
        number[-1] = 0.0
    terms = _component_terms(n_units, number, concentration)  # (occupied + 1, component)
    return Hyper(
        n_factors, n_states, n_slots, alpha, gamma, kappa, r_shape, r_rate, concentration, poisson,
        path_law(n_factors + 1, like=like), torch.log_softmax(terms, dim=-1).nan_to_num(nan=-torch.inf),
        torch.logsumexp(terms, dim=-1), number,
    )  # fmt: skip


def path_law(size: int, *, like: Tensor) -> MatrixNormalInverseWishart:
    """Prior of the dynamics of a path of D components: Q ~ IW(D + 2, 0.01 I), [A b] around [I 0]."""
    eye = torch.eye(size, dtype=like.dtype, device=like.device)
    return MatrixNormalInverseWishart(
        torch.nn.functional.pad(eye, (0, 1)),
        torch.eye(size + 1, dtype=like.dtype, device=like.device),
        torch.full((), size + 2.0, dtype=like.dtype, device=like.device),
        0.01 * eye,
    )


def frozen_mixture(hyper: Hyper, n_units: int, n_clusters: int) -> Hyper:
    """Constants of a mixture of exactly ``n_clusters`` named clusters, of which some may hold no unit."""
    like = hyper.log_prior
    number = torch.full_like(like[:n_clusters], -torch.inf)
    number[-1] = 0.0
    total = torch.as_tensor(hyper.concentration * n_clusters, dtype=like.dtype, device=like.device)
    log_blocks = (torch.lgamma(total) - torch.lgamma(total + n_units)).expand(n_clusters + 1)
    return hyper._replace(n_slots=n_clusters, log_prior=number, log_blocks=log_blocks,
                          log_components=number.expand(n_clusters + 1, -1))  # fmt: skip


def _component_prior(n_slots: int, zeta: float, like: Tensor) -> Tensor:
    """Log of the geometric prior, cut at ``n_slots`` and normalised: (component,)."""
    return torch.log_softmax(geometric_log_prior(zeta, n_slots, like=like), dim=-1)


def _component_terms(n_units: int, prior: Tensor, g: float) -> Tensor:
    """Log of K!/(K-t)! Gamma(gK)/Gamma(gK+n) p(K) for t = 0..n_slots and K = 1..n_slots; -inf at t = 0 or t > K."""
    n_slots = len(prior)
    k = torch.arange(1, n_slots + 1, dtype=prior.dtype, device=prior.device)
    t = torch.arange(n_slots + 1, dtype=prior.dtype, device=prior.device).unsqueeze(-1)
    falling = torch.lgamma(k + 1) - torch.lgamma((k - t).clamp(min=0) + 1)
    terms = falling + torch.lgamma(g * k) - torch.lgamma(g * k + n_units) + prior
    return torch.where((k >= t) & (t > 0), terms, -torch.inf)


def make_data(
    counts: Tensor, observed: Tensor, *, starts: Tensor, offset: Tensor | None = None, covariates: Tensor | None = None
) -> Data:
    """Collect the tensors of a data set.

    Parameters
    ----------
    counts : Tensor
        (unit, time) floating, non-negative; values where ``observed`` is False do not matter.
    observed : Tensor
        (unit, time) bool.
    starts : Tensor
        (time,) bool, True at the first bin of every session or trial.
    offset : Tensor, optional
        (unit or 1, time or 1) added to the log mean.
    covariates : Tensor, optional
        (time, feature).

    Returns
    -------
    Data
    """
    seen = observed.to(counts.dtype)
    counts = torch.where(observed, counts, 0.0)
    top = int(counts.max()) if counts.numel() else 0
    histogram = None
    if top < max(64, counts.shape[1] // 8):
        values = torch.arange(top + 1, dtype=counts.dtype, device=counts.device)
        histogram = torch.stack([((counts == v) & observed).sum(-1) for v in values], -1).to(counts.dtype)
    offset = counts.new_zeros(1, 1) if offset is None else offset
    covariates = counts.new_zeros(counts.shape[1], 0) if covariates is None else covariates
    return Data(counts, seen, starts, offset, covariates, histogram, int(starts.sum()))


def n_active(state: State) -> int:
    """Slots that hold a cluster in any chain."""
    return int(state.labels.max()) + 1


def membership(labels: Tensor, n_clusters: int, *, like: Tensor) -> Tensor:
    """Indicator (chain, cluster, unit) of the unit's cluster."""
    slots = torch.arange(n_clusters, device=labels.device).unsqueeze(-1)
    return (labels.unsqueeze(-2) == slots).to(like.dtype)


def cluster_sizes(labels: Tensor, n_clusters: int) -> Tensor:
    """Units of each cluster: (chain, cluster) int64."""
    slots = torch.arange(n_clusters, device=labels.device).unsqueeze(-1)
    return (labels.unsqueeze(-2) == slots).sum(-1)


def live(state: State, hyper: Hyper, n_clusters: int) -> Tensor:
    """Tell which problems have a part in the density: occupied clusters, or the stack: (chain, problem) bool."""
    if hyper.coupled:
        return torch.ones_like(state.labels[:, :1], dtype=torch.bool)
    return cluster_sizes(state.labels, n_clusters) > 0


def n_used(state: State, hyper: Hyper) -> int:
    """Slots that take part in a sweep: all of a fixed number, else those that hold a cluster in any chain."""
    return hyper.n_slots if hyper.coupled else int(state.labels.max()) + 1


def own_path(path: Tensor, labels: Tensor) -> Tensor:
    """Give every unit its cluster's path: (chain, unit, time, q)."""
    chains = torch.arange(labels.shape[0], device=labels.device).unsqueeze(-1)
    return path[chains, labels]


def fixed_part(beta: Tensor, data: Data, n_factors: int) -> Tensor:
    """Part of the log mean that does not depend on a path: (chain, unit, time or 1)."""
    fixed = beta[..., :1] + data.offset
    if data.covariates.shape[-1]:
        fixed = fixed + beta[..., 1 + n_factors :] @ data.covariates.mT
    return fixed


def path_loadings(beta: Tensor, n_factors: int) -> Tensor:
    """Coefficients (1, c) of a path: (chain, unit, q)."""
    return torch.cat([torch.ones_like(beta[..., :1]), beta[..., 1 : 1 + n_factors]], dim=-1)


def log_mean(beta: Tensor, path: Tensor, labels: Tensor, data: Data) -> Tensor:
    """Log expected count: (chain, unit, time)."""
    n_factors = path.shape[-1] - 1
    latent = (own_path(path, labels) @ path_loadings(beta, n_factors).unsqueeze(-1)).squeeze(-1)
    return latent + fixed_part(beta, data, n_factors)


def design(path: Tensor, data: Data) -> Tensor:
    """Regressors (1, x, g) of the units of every cluster: (chain, cluster, time, 1 + p + feature)."""
    shared = data.covariates.expand(*path.shape[:-1], data.covariates.shape[-1])
    return torch.cat([torch.ones_like(path[..., :1]), path[..., 1:], shared], dim=-1)


def entry_log_prob(eta: Tensor, log_r: Tensor, data: Data, *, poisson: bool) -> Tensor:
    """Log probability of every count, 0 where missing: (chain, unit, time)."""
    if poisson:
        return poisson_log_prob(data.counts, eta) * data.observed
    return negative_binomial_log_prob(data.counts, eta, log_r.exp().unsqueeze(-1)) * data.observed


def log_joint(state: State, data: Data, hyper: Hyper) -> Tensor:
    """Log joint density of counts, paths, dynamics, states and clusters, up to the truncation's constant.

    The transition matrix is integrated out; base weights are given (densities of weights near 0 are huge).

    Parameters
    ----------
    state : State
        Of all chains.
    data : Data
        Counts.
    hyper : Hyper
        Constants.

    Returns
    -------
    Tensor
        (chain,).
    """
    n_clusters = n_used(state, hyper)
    sizes = cluster_sizes(state.labels, n_clusters)
    eta = log_mean(state.beta, state.path[:, :n_clusters], state.labels, data)
    total = entry_log_prob(eta, state.log_r, data, poisson=hyper.poisson).sum((-2, -1))
    total = total + partition_log_prob(sizes, hyper.partition)
    total = total - 0.5 * (state.beta.square() + math.log(2 * math.pi)).sum((-2, -1))
    if not hyper.poisson:
        scale = hyper.r_shape * math.log(hyper.r_rate) - math.lgamma(hyper.r_shape)
        total = total + (scale + (hyper.r_shape - 1) * state.log_r - hyper.r_rate * state.log_r.exp()).sum(-1)
    return (
        total
        + _dynamics_log_prob(state, data, hyper, n_clusters)
        + states_log_prob(state.states, data, hyper, state.log_base)
    )


def _dynamics_log_prob(state: State, data: Data, hyper: Hyper, k: int) -> Tensor:
    """Log density of paths and of their dynamics, over the occupied clusters: (chain,)."""
    from .paths import make_tables, step_log_prob
    from .stacking import join

    tables = make_tables(state.matrix[:, :k], state.noise[:, :k])
    steps = step_log_prob(join(state.path[:, :k], hyper), tables, data.starts)  # (chain, problem, time, state + 1)
    index = torch.where(data.starts, hyper.n_states, state.states)[:, None, :, None].expand(-1, steps.shape[1], -1, -1)
    paths = steps.gather(-1, index).sum((-2, -1))
    law = hyper.regression
    priors = inverse_wishart_log_prob(state.noise[:, :k], dof=law.dof, scale=law.scale) + matrix_normal_log_prob(
        state.matrix[:, :k], mean=law.mean, row_covariance=state.noise[:, :k], precision=law.precision
    )
    return torch.where(live(state, hyper, k), paths + priors.sum(-1), 0.0).sum(-1)


def states_log_prob(states: Tensor, data: Data, hyper: Hyper, log_base: Tensor | None = None) -> Tensor:
    """Log prior of states given base weights (uniform by default), the transition matrix integrated out: (chain,)."""
    n = hyper.n_states
    counts = transition_counts(states, n_states=n, valid=~data.starts).to(hyper.log_prior.dtype)
    eye = torch.eye(n, dtype=counts.dtype, device=counts.device)
    base = torch.full_like(eye, 1 / n) if log_base is None else log_base.exp().unsqueeze(-2)
    weight = (hyper.alpha * base + hyper.kappa * eye).clamp(min=1e-10)
    rows = torch.lgamma(weight.sum(-1)) - torch.lgamma(weight.sum(-1) + counts.sum(-1))
    cells = torch.lgamma(weight + counts) - torch.lgamma(weight)
    return rows.sum(-1) + cells.sum((-2, -1)) - data.n_starts * math.log(n)
