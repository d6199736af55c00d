"""BiCluster against PyMC with switching dynamics: eight units, sixty bins, two clusters, two states, one factor.

In PyMC's model assignments and states are summed out, the states by a balanced product of 2 x 2 matrices. NUTS starts
at draws of our sampler and takes its metric from them: neither changes what NUTS converges to, and both clusters and
states are distinct enough for one mode up to the symmetries of labels and signs.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from tectum.core.random import generator, spawn
from tectum.models.biclustering.model import (
    Data,
    Hyper,
    State,
    entry_log_prob,
    log_joint,
    log_mean,
    make_data,
    make_hyper,
    states_log_prob,
)
from tectum.models.biclustering.paths import make_tables, step_log_prob
from tectum.models.biclustering.sweep import sweep
from tectum.stats.mixtures import partition_log_prob

pytest.importorskip("pymc")

N_UNITS, N_TIME = 8, 60
ALPHA, GAMMA, KAPPA, R_SHAPE, R_RATE = 5.0, 5.0, 10.0, 2.0, 0.1
DOUBLE = torch.float64


def _truth(n_chains: int) -> State:
    """Build what the counts come from: slow rotations in state 0, noise that alternates in sign in state 1."""
    turn = torch.tensor([[0.6, -0.6], [0.6, 0.6]], dtype=DOUBLE)
    alternate = torch.tensor([[-0.5, 0.0], [0.0, -0.5]], dtype=DOUBLE)
    law = torch.stack([torch.stack([turn, alternate]), torch.stack([turn.mT, alternate])])
    noise = torch.tensor([0.2**2, 0.6**2], dtype=DOUBLE)[:, None, None] * torch.eye(2, dtype=DOUBLE)
    states = ((torch.arange(N_TIME) >= 22) & (torch.arange(N_TIME) < 44)).long()
    steps = noise.diagonal(dim1=-2, dim2=-1)[states].sqrt() * torch.randn(
        2, N_TIME, 2, generator=generator(100), dtype=DOUBLE
    )
    path = [torch.tensor([[0.8, -0.6], [-0.8, 0.6]], dtype=DOUBLE)]
    for t in range(1, N_TIME):
        path.append((law[:, states[t]] @ path[-1].unsqueeze(-1)).squeeze(-1) + steps[:, t])
    level = torch.tensor([2.8, 3.0, 2.6, 2.9, 2.7, 3.0, 2.8, -2.0], dtype=DOUBLE)
    loading = torch.tensor([1.0, -1.0, 0.8, -0.9, 1.0, -1.1, 0.9, 0.7], dtype=DOUBLE)
    log_pi = torch.tensor([[0.95, 0.05], [0.05, 0.95]], dtype=DOUBLE).log()
    one = State(
        torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), torch.stack([level, loading], -1),
        torch.full((N_UNITS,), math.log(20.0), dtype=DOUBLE), torch.stack(path, 1), states,
        torch.nn.functional.pad(law, (0, 1)), noise.expand(2, 2, 2, 2), log_pi,
        torch.full((2,), math.log(0.5), dtype=DOUBLE), torch.zeros(5, dtype=DOUBLE),
    )  # fmt: skip
    return State(*(value.expand(n_chains, *value.shape).clone() for value in one))


def _world() -> tuple[Data, Hyper]:
    """Draw the counts; the last unit fires so rarely that its cluster stays open."""
    hyper = make_hyper(N_UNITS, n_factors=1, n_states=2, n_slots=2, zeta=0.5, alpha=ALPHA, gamma=GAMMA, kappa=KAPPA,
                       r_shape=R_SHAPE, r_rate=R_RATE, poisson=False, like=torch.zeros((), dtype=DOUBLE),
                       dirichlet_process=2.0)  # fmt: skip
    blank = torch.zeros(N_UNITS, N_TIME, dtype=DOUBLE)
    seen, starts = torch.ones(N_UNITS, N_TIME, dtype=torch.bool), torch.arange(N_TIME) == 0
    truth, draw = _truth(1), generator(101)
    eta = log_mean(truth.beta, truth.path, truth.labels, make_data(blank, seen, starts=starts))[0]
    gain = torch.distributions.Gamma(20.0, 20.0)
    torch.manual_seed(101)
    rate = eta.exp() * gain.sample((N_UNITS, N_TIME)).double()
    return make_data(torch.poisson(rate, generator=draw), seen, starts=starts), hyper


def _log_normal_steps(root: tuple[Any, Any, Any], error: tuple[Any, Any]) -> Any:
    """Log density of errors of covariance Q; ``root`` is the lower factor (11, 21, 22) of Q^-1."""
    import pytensor.tensor as pt

    first, second = root[0] * error[0] + root[1] * error[1], root[2] * error[1]
    return pt.log(root[0] * root[2]) - 0.5 * (first**2 + second**2) - math.log(2 * math.pi)


def _sum_over_states(log_move: Any) -> Any:
    """Log of the sum over all paths of states: a balanced product of (step, from, to) matrices of logarithms."""
    import pytensor.tensor as pt

    n = log_move.type.shape[0]
    while n > 1:
        left, right = log_move[0 : n - 1 : 2], log_move[1:n:2]
        product = pt.logaddexp(left[:, :, :1] + right[:, :1, :], left[:, :, 1:] + right[:, 1:, :])
        log_move = pt.concatenate([product, log_move[n - 1 :]]) if n % 2 else product
        n = (n + 1) // 2
    return pt.logsumexp(log_move[0]) - math.log(2.0)


def _stable(matrix: Any) -> Any:
    """0 where the spectral radius of 2 x 2 matrices is at most 1.05 (Schur and Cohn), else -inf."""
    import pytensor.tensor as pt

    s = matrix / 1.05
    trace = s[..., 0, 0] + s[..., 1, 1]
    det = s[..., 0, 0] * s[..., 1, 1] - s[..., 0, 1] * s[..., 1, 0]
    return pt.switch((pt.abs(det) < 1) & (pt.abs(trace) < 1 + det), 0.0, -np.inf).sum()


def _model(data: Data) -> Any:
    """Build the model with assignments and states summed out; axes are cluster, state or time, row, column."""
    import pymc as pm
    import pytensor.tensor as pt

    y = data.counts.numpy()
    with pm.Model() as model:
        d, c = pm.Normal("d", shape=N_UNITS), pm.Normal("c", shape=N_UNITS)
        r = pm.Gamma("r", R_SHAPE, R_RATE, shape=N_UNITS)
        weight = pm.Beta("weight", 1.0, 1.0)
        base = pm.Beta("base", GAMMA / 2, GAMMA / 2)  # of state 0
        share = pt.stack([base, 1 - base])
        stay = pm.Beta("stay", ALPHA * share + KAPPA, ALPHA * (1 - share), shape=2)
        # inverse Wishart by Bartlett's factor of its inverse: W = 100 B B', 4 degrees of freedom
        chi = pm.ChiSquared("chi", np.array([4.0, 3.0]), shape=(2, 2, 2))
        root = (10 * pt.sqrt(chi[..., 0]), 10 * pm.Normal("off", shape=(2, 2)), 10 * pt.sqrt(chi[..., 1]))
        matrix = pm.Flat("matrix", shape=(2, 2, 2, 3))
        error = matrix - np.eye(2, 3)
        wide = tuple(value[..., None] for value in root)
        pm.Potential("prior", _log_normal_steps(wide, (error[..., 0, :], error[..., 1, :])).sum())
        pm.Potential("stable", _stable(matrix))
        path = pm.Flat("path", shape=(2, N_TIME, 2))
        pm.Potential("first", -0.5 * (path[:, 0] ** 2).sum())
        before = path[:, :-1, None, None, :]  # (cluster, step, state, row, column)
        error = path[:, 1:, None] - (matrix[:, None, ..., :2] * before).sum(-1) - matrix[:, None, ..., 2]
        wide = tuple(value[:, None] for value in root)
        step = _log_normal_steps(wide, (error[..., 0], error[..., 1])).sum(0)  # (step, state)
        log_pi = pt.log(pt.stack([pt.stack([stay[0], 1 - stay[0]]), pt.stack([1 - stay[1], stay[1]])]))
        pm.Potential("states", _sum_over_states(log_pi + step[:, None, :]))
        eta = d[:, None] + path[:, None, :, 0] + c[:, None] * path[:, None, :, 1]  # (cluster, unit, time)
        fit = pm.logp(pm.NegativeBinomial.dist(mu=pt.exp(eta), alpha=r[:, None]), y).sum(-1)
        pm.Potential("fit", pt.logaddexp(pt.log(weight) + fit[0], pt.log1p(-weight) + fit[1]).sum())
    return model


def _aligned(state: State) -> State:
    """Name clusters by the first unit, states by the size of their noise, and give x the sign of a unit's loading."""
    chains = torch.arange(len(state.labels))[:, None]
    order = torch.stack([state.labels[:, 0], 1 - state.labels[:, 0]], -1)  # slot of every named cluster
    labels = (state.labels != state.labels[:, :1]).long()
    matrix, noise, path = state.matrix[chains, order], state.noise[chains, order], state.path[chains, order]
    sign = state.beta[:, [0, 4], 1].sign()  # units 0 and 4 never share a cluster
    flip = torch.stack([torch.ones_like(sign), sign], -1)  # (chain, cluster, q)
    beta = state.beta * flip[chains, labels]
    wide = torch.cat([flip, torch.ones_like(sign)[..., None]], -1)
    matrix = matrix * (flip[:, :, None, :, None] * wide[:, :, None, None])
    noise = noise * (flip[:, :, None, :, None] * flip[:, :, None, None])
    rank = noise.logdet().sum(1).argsort(-1)  # quiet state first
    return state._replace(
        labels=labels, beta=beta, path=path * flip[:, :, None], states=rank.argsort(-1)[chains, state.states],
        matrix=matrix[chains[..., None], torch.arange(2)[:, None], rank[:, None]],
        noise=noise[chains[..., None], torch.arange(2)[:, None], rank[:, None]],
        log_pi=state.log_pi[chains[..., None], rank[..., None], rank[:, None]],
        log_base=state.log_base.gather(-1, rank),
    )  # fmt: skip


def _bartlett(noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared diagonal and off-diagonal element of B in Q^-1 = 100 B B'."""
    root = torch.linalg.cholesky(torch.linalg.inv(noise)) / 10
    return root.diagonal(dim1=-2, dim2=-1).square(), root[..., 1, 0]


def _point(state: State, weight: torch.Tensor) -> dict[str, np.ndarray]:
    """Coordinates of PyMC's model, (chain, ...) each; ``weight`` (chain,) is that of the first cluster."""
    chi, off = _bartlett(state.noise)
    found = {
        "d": state.beta[..., 0], "c": state.beta[..., 1], "r_log__": state.log_r, "weight_logodds__": weight.logit(),
        "base_logodds__": state.log_base[:, 0] - state.log_base[:, 1],
        "stay_logodds__": torch.stack([state.log_pi[:, k, k] - state.log_pi[:, k, 1 - k] for k in range(2)], -1),
        "chi_log__": chi.log(), "off": off, "matrix": state.matrix, "path": state.path,
    }  # fmt: skip
    return {name: value.numpy() for name, value in found.items()}


def _weights(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """Draw weights of the first cluster given the labels."""
    first = (labels == 0).sum(-1).double()
    torch.manual_seed(seed)
    return torch.distributions.Beta(1 + first, 1 + N_UNITS - first).sample()


def _log_steps(state: State) -> torch.Tensor:
    """Log density of every step under both states: (chain, step, state)."""
    tables = make_tables(state.matrix, state.noise)
    return step_log_prob(state.path, tables, torch.arange(N_TIME) == 0)[:, :, 1:, :2].sum(1)


def _forward(state: State) -> torch.Tensor:
    """Log density of all steps with the states summed out, bin after bin: (chain,)."""
    message = torch.full((len(state.labels), 2), math.log(0.5), dtype=DOUBLE)
    for step in _log_steps(state).unbind(1):
        message = (message[..., None] + state.log_pi).logsumexp(-2) + step
    return message.logsumexp(-1)


def _fit(state: State, data: Data) -> torch.Tensor:
    """Log probability of every unit's counts in either cluster: (chain, cluster, unit)."""
    chosen = [log_mean(state.beta, state.path, torch.full_like(state.labels, k), data) for k in range(2)]
    return torch.stack([entry_log_prob(eta, state.log_r, data, poisson=False).sum(-1) for eta in chosen], 1)


def _our_density(state: State, weight: torch.Tensor, data: Data, hyper: Hyper) -> torch.Tensor:
    """Turn our log joint into the density of PyMC's coordinates: sum out states and labels, then change variables."""
    chains, units = torch.arange(len(weight))[:, None], torch.arange(N_UNITS)
    fit, steps = _fit(state, data), _log_steps(state)
    sizes = torch.stack([(state.labels == k).sum(-1) for k in range(2)], -1)
    total = log_joint(state, data, hyper)
    total = total - fit[chains, state.labels, units].sum(-1) - partition_log_prob(sizes, hyper.partition)
    total = total - steps[chains, torch.arange(N_TIME - 1), state.states[:, 1:]].sum(-1)
    total = total - states_log_prob(state.states, data, hyper, state.log_base)
    mixture = torch.stack([weight.log(), (-weight).log1p()], -1)[..., None] + fit
    total = total + mixture.logsumexp(1).sum(-1) + _forward(state)
    base = state.log_base.exp()
    total = total + torch.distributions.Dirichlet(torch.full((2,), GAMMA / 2, dtype=DOUBLE)).log_prob(base)
    rows = ALPHA * base[:, None] + KAPPA * torch.eye(2, dtype=DOUBLE)
    total = total + torch.distributions.Dirichlet(rows).log_prob(state.log_pi.exp()).sum(-1)
    chi, _ = _bartlett(state.noise)
    noise = 3 * state.noise.logdet() + chi[..., 0].log() / 2 + chi.log().sum(-1)  # dQ / d(log chi, off)
    shares = torch.stack([weight.log() + (-weight).log1p(), state.log_base.sum(-1), state.log_pi.sum((-2, -1))], -1)
    return total + noise.sum((1, 2)) + shares.sum(-1) + state.log_r.sum(-1)


def _burnt_in(n_chains: int, sweeps: int, data: Data, hyper: Hyper) -> State:
    """Run chains from the truth."""
    state = _truth(n_chains)
    for n in range(sweeps):
        state = sweep(state, data, hyper, generator(spawn(2, n)))
    return state


@pytest.mark.slow
def test_log_joint_is_that_of_pymc() -> None:
    """With states and labels summed out our log joint is PyMC's at every point, up to one constant."""
    data, hyper = _world()
    far, near = _truth(4), _burnt_in(12, 40, data, hyper)
    shaken = generator(103)
    far = far._replace(beta=far.beta + torch.randn(far.beta.shape, generator=shaken, dtype=DOUBLE) / 2,
                       path=far.path + torch.randn(far.path.shape, generator=shaken, dtype=DOUBLE) / 4)  # fmt: skip
    state = _aligned(State(*(torch.cat(pair) for pair in zip(far, near, strict=True))))
    weight = _weights(state.labels, 102)
    ours = _our_density(state, weight, data, hyper).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        density = _model(data).compile_logp()
    points = _point(state, weight)
    theirs = np.array([density({name: value[k] for name, value in points.items()}) for k in range(16)])
    assert np.ptp(theirs) > 100  # the points are far apart
    np.testing.assert_allclose(ours - ours[0], theirs - theirs[0], rtol=0, atol=1e-5)
