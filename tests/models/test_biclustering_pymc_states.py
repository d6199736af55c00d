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
ALPHA, GAMMA, KAPPA, R_SHAPE, R_RATE = 5.0, 5.0, 10.0, 20.0, 0.5
N_CHAINS, BURN, DRAWS, THIN = 16, 400, 2000, 5
NUTS_TUNE, NUTS_DRAWS = 200, 1300
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
    level = torch.tensor([3.4, 3.6, 3.2, 3.5, 3.3, 3.6, 3.4, -2.0], dtype=DOUBLE)
    loading = torch.tensor([1.0, -1.0, 0.8, -0.9, 1.0, -1.1, 0.9, 0.7], dtype=DOUBLE)
    log_pi = torch.tensor([[0.95, 0.05], [0.05, 0.95]], dtype=DOUBLE).log()
    one = State(
        torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), torch.stack([level, loading], -1),
        torch.full((N_UNITS,), math.log(40.0), dtype=DOUBLE), torch.stack(path, 1), states,
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
    gain = torch.distributions.Gamma(40.0, 40.0)
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
    sign = (state.beta[:, [0, 4], 1] - state.beta[:, [1, 5], 1]).sign()  # differences do not change if m takes up x
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


def _messages(state: State) -> list[torch.Tensor]:
    """Log density of the steps so far and of each current state, bin after bin: (chain, state) each."""
    found = [torch.full((len(state.labels), 2), math.log(0.5), dtype=DOUBLE)]
    for step in _log_steps(state).unbind(1):
        found.append((found[-1][..., None] + state.log_pi).logsumexp(-2) + step)
    return found


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
    total = total + mixture.logsumexp(1).sum(-1) + _messages(state)[-1].logsumexp(-1)
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
    np.testing.assert_allclose(ours - ours[0], theirs - theirs[0], rtol=0, atol=1e-8)


def _values(state: State, data: Data) -> torch.Tensor:
    """Quantities that labels and signs leave alone, (chain, quantity).

    Log mean rates of both groups and of the quiet unit, mean log r, whether the quiet unit is with the first, number
    of switches, and means over time of log |Q|, of the trace of A and of the probability to stay.
    """
    chains, states = torch.arange(len(state.labels))[:, None], state.states
    rate = log_mean(state.beta, state.path, state.labels, data).exp().mean(-1).log()
    size = state.noise.logdet().sum(1)
    trace = state.matrix[..., :2].diagonal(dim1=-2, dim2=-1).sum((1, -1))
    stay = state.log_pi.diagonal(dim1=-2, dim2=-1).exp()
    over_time = [value[chains, states[:, 1:]].mean(-1) for value in (size, trace, stay)]
    together = (state.labels[:, 7] == state.labels[:, 0]).double()
    switches = (states[:, 1:] != states[:, :-1]).double().sum(-1)
    return torch.stack([rate[:, :4].mean(-1), rate[:, 4:7].mean(-1), rate[:, 7], state.log_r.mean(-1), together,
                        switches, *over_time], -1)  # fmt: skip


def _from_tectum(data: Data, hyper: Hyper) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    """Quantities (chain, draw, quantity) of the sampler, and points of PyMC's model."""
    state = _burnt_in(N_CHAINS, BURN, data, hyper)
    values, points = [], []
    for n in range(DRAWS):
        state = sweep(state, data, hyper, generator(spawn(3, n)))
        named = _aligned(state)
        values.append(_values(named, data))
        if n % THIN == THIN - 1:
            points.append(_point(named, _weights(named.labels, n)))
    return torch.stack(values, 1).numpy(), points


def _constrained(point: dict[str, np.ndarray], chain: int) -> dict[str, np.ndarray]:
    """Values of PyMC's variables at a point."""
    back = {"log": np.exp, "logodds": lambda x: 1 / (1 + np.exp(-x))}
    parts = {name: name.removesuffix("__").split("_") for name in point}
    return {own[0]: back[own[1]](point[name][chain]) if own[1:] else point[name][chain] for name, own in parts.items()}


def _with_labels_and_states(post: dict[str, torch.Tensor], data: Data) -> State:
    """Draw labels and states given all the rest: (draw, ...)."""
    n, zero = len(post["d"]), torch.zeros(len(post["d"]), 2, 2, dtype=DOUBLE)
    factor = torch.stack([torch.stack([post["chi"][..., 0].sqrt(), zero], -1),
                          torch.stack([post["off"], post["chi"][..., 1].sqrt()], -1)], -2)  # fmt: skip
    stay = post["stay"]
    log_pi = torch.stack(
        [torch.stack([stay[:, 0], 1 - stay[:, 0]], -1), torch.stack([1 - stay[:, 1], stay[:, 1]], -1)], 1
    )
    state = State(
        torch.zeros(n, N_UNITS, dtype=torch.int64), torch.stack([post["d"], post["c"]], -1), post["r"].log(),
        post["path"], torch.zeros(n, N_TIME, dtype=torch.int64), post["matrix"],
        torch.linalg.inv(100 * factor @ factor.mT), log_pi.log(),
        torch.stack([post["base"], 1 - post["base"]], -1).log(), torch.zeros(n, 5, dtype=DOUBLE),
    )  # fmt: skip
    draw, fit, weight = generator(104), _fit(state, data), post["weight"].logit()[:, None]
    second = torch.rand(n, N_UNITS, generator=draw, dtype=DOUBLE) > (weight + fit[:, 0] - fit[:, 1]).sigmoid()
    messages, path = _messages(state), []
    log_next = torch.zeros(n, 2, dtype=DOUBLE)
    for message in reversed(messages):
        chance = (message + log_next).softmax(-1)[:, 1]
        path.append((torch.rand(n, generator=draw, dtype=DOUBLE) < chance).long())
        log_next = state.log_pi[torch.arange(n), :, path[-1]]
    return state._replace(labels=second.long(), states=torch.stack(path[::-1], -1))


def _from_pymc(data: Data, points: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Quantities (chain, draw, quantity) under NUTS."""
    import pymc as pm
    from pymc.step_methods.hmc.quadpotential import QuadPotentialFull

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _model(data)
        names = [value.name for value in model.value_vars]
        flat = [np.concatenate([point[name].reshape(N_CHAINS, -1) for name in names], 1) for point in points]
        metric = np.cov(np.concatenate(flat).T)
        metric = 0.95 * metric + 0.05 * np.diag(np.diag(metric))
        with model:
            step = pm.NUTS(potential=QuadPotentialFull(metric))
            post = pm.sample(NUTS_DRAWS, tune=NUTS_TUNE, step=step, chains=2, cores=1, random_seed=3, progressbar=False,
                             initvals=[_constrained(points[-1], 0), _constrained(points[-1], N_CHAINS // 2)],
                             compute_convergence_checks=False).posterior  # fmt: skip
    drawn = {name: torch.as_tensor(post[name].values).flatten(0, 1) for name in post}
    return _values(_with_labels_and_states(drawn, data), data).unflatten(0, (2, -1)).numpy()


def _summary(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean, Monte-Carlo error, effective draws and R-hat of every quantity."""
    import arviz as az

    each = [values[..., k] for k in range(values.shape[-1])]
    ess = np.array([float(az.ess(value, method="mean")) for value in each])
    r_hat = np.array([float(az.rhat(value)) for value in each])
    return values.mean((0, 1)), values.std((0, 1)) / np.sqrt(ess), ess, r_hat


@pytest.mark.slow
def test_posterior_agrees_with_nuts() -> None:
    """Rates, dispersion, clusters, states and dynamics agree within three Monte-Carlo errors."""
    data, hyper = _world()
    values, points = _from_tectum(data, hyper)
    ours, our_error, our_ess, our_r_hat = _summary(values)
    theirs, their_error, their_ess, their_r_hat = _summary(_from_pymc(data, points))
    z = (ours - theirs) / np.sqrt(our_error**2 + their_error**2)
    print("means", ours, theirs, "errors", our_error, their_error, "z", z)
    print("effective draws", our_ess, their_ess, "R-hat", our_r_hat, their_r_hat)
    assert max(our_r_hat.max(), their_r_hat.max()) < 1.05
    assert min(our_ess.min(), their_ess.min()) > 50
    assert np.abs(z).max() < 3, z
    assert 0.02 < theirs[4] < 0.98  # the quiet unit's cluster is open
