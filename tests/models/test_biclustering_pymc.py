"""BiCluster against PyMC on a tiny problem: assignments and states summed out there, NUTS over all the rest."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from tectum.core.random import generator, spawn
from tectum.models.biclustering.model import Data, Hyper, log_mean, make_data, make_hyper, n_active
from tectum.models.biclustering.prior import sample_counts, sample_prior_state
from tectum.models.biclustering.sweep import sweep

pytest.importorskip("pymc")

N_UNITS, N_TIME, N_SLOTS = 4, 7, 2
ZETA = 0.4


def _world() -> tuple[Data, Hyper]:
    """Four units, one factor, one state, at most two clusters."""
    like = torch.zeros((), dtype=torch.float64)
    hyper = make_hyper(N_UNITS, n_factors=1, n_states=1, n_slots=N_SLOTS, zeta=ZETA, alpha=5.0, gamma=5.0, kappa=10.0,
                       r_shape=2.0, r_rate=1.0, poisson=False, like=like)  # fmt: skip
    starts = torch.arange(N_TIME) == 0
    seen = torch.ones(N_UNITS, N_TIME, dtype=torch.bool)
    drive = 0.9 * torch.sin(torch.arange(N_TIME) / 2)
    rate = torch.stack([1.0 + drive, 1.2 + drive, 0.8 - drive, 1.0 - drive]).exp().double()
    counts = torch.poisson(rate, generator=generator(5))
    return make_data(counts, seen, starts=starts), hyper


def _log_stable_indicator(a: Any) -> Any:
    """0 where the spectral radius of 2 x 2 matrices is at most 1.05 (Schur and Cohn), else -inf."""
    import pytensor.tensor as pt

    s = a / 1.05
    trace = s[..., 0, 0] + s[..., 1, 1]
    det = s[..., 0, 0] * s[..., 1, 1] - s[..., 0, 1] * s[..., 1, 0]
    return pt.switch((pt.abs(det) < 1) & (pt.abs(trace) < 1 + det), 0.0, -np.inf).sum()


def _model(data: Data) -> Any:
    """Build the model of clusters z of four units in at most two components, z summed out."""
    import pymc as pm
    import pytensor.tensor as pt

    y = data.counts.numpy()
    p_two = ZETA * (1 - ZETA) / (ZETA + ZETA * (1 - ZETA))
    with pm.Model() as model:
        d = pm.Normal("d", shape=N_UNITS)
        c = pm.Normal("c", shape=N_UNITS)
        r = pm.Gamma("r", 2.0, 1.0, shape=N_UNITS)
        weight = pm.Beta("weight", 1.0, 1.0)
        first = pm.Normal("first", shape=(2, 2))
        noise = pm.Normal("noise", shape=(2, N_TIME - 1, 2))
        # inverse Wishart by Bartlett's factor of its inverse: W = B B', B lower, 100 I scale, 4 degrees of freedom
        diagonal = pm.math.sqrt(pt.stack([pm.ChiSquared("chi4", 4, shape=2), pm.ChiSquared("chi3", 3, shape=2)], -1))
        off = pm.Normal("off", shape=2)
        zero = pt.zeros(2)
        bartlett = 10.0 * pt.stack([pt.stack([diagonal[:, 0], zero], -1), pt.stack([off, diagonal[:, 1]], -1)], -2)
        root = pt.stack([pt.linalg.inv(bartlett[k]).T for k in range(2)])  # Q = root root'
        z = pm.Normal("z", shape=(2, 2, 3))
        centre = np.concatenate([np.eye(2), np.zeros((2, 1))], 1)
        matrix = pt.stack([centre + root[k] @ z[k] for k in range(2)])
        pm.Potential("stable", _log_stable_indicator(matrix[..., :2]))
        paths = []
        for k in range(2):
            h = [first[k]]
            for t in range(N_TIME - 1):
                h.append(matrix[k, :, :2] @ h[-1] + matrix[k, :, 2] + root[k] @ noise[k, t])
            paths.append(pt.stack(h))
        eta = pt.stack([d[:, None] + h[:, 0] + c[:, None] * h[:, 1] for h in paths])  # (cluster, unit, time)
        fit = pm.logp(pm.NegativeBinomial.dist(mu=pt.exp(pt.clip(eta, -20, 20)), alpha=r[None, :, None]), y).sum(-1)
        two = pt.logaddexp(pt.log(weight) + fit[0], pt.log1p(-weight) + fit[1]).sum()
        one = fit[0].sum()
        pm.Potential("fit", pt.logaddexp(math.log(1 - p_two) + one, math.log(p_two) + two))
        logit = pt.log(weight) + fit[0] - pt.log1p(-weight) - fit[1]
        share = pt.sigmoid(logit)  # of component 0, given two components
        pm.Deterministic("p_two", pt.sigmoid(math.log(p_two / (1 - p_two)) + two - one))
        both = share[0] * share[1] + (1 - share[0]) * (1 - share[1])
        across = share[0] * share[2] + (1 - share[0]) * (1 - share[2])
        pm.Deterministic("pairs", pt.stack([both, across]))
        own = share[:, None] * pt.exp(pt.clip(eta[0], -20, 20)) + (1 - share[:, None]) * pt.exp(
            pt.clip(eta[1], -20, 20)
        )
        pm.Deterministic("rate_two", own)
        pm.Deterministic("rate_one", pt.exp(pt.clip(eta[0], -20, 20)))
    return model


def _from_pymc(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Means of label-invariant quantities under NUTS, and their Monte-Carlo errors."""
    import arviz as az
    import pymc as pm

    with _model(data), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pm.sample(350, tune=300, chains=2, cores=1, random_seed=3, target_accept=0.9, progressbar=False,
                          compute_convergence_checks=False)  # fmt: skip
    post = found.posterior
    two = post["p_two"].values  # (chain, draw)
    pairs = 1 - two[..., None] + two[..., None] * post["pairs"].values
    rate = (1 - two[..., None, None]) * post["rate_one"].values + two[..., None, None] * post["rate_two"].values
    values = np.concatenate([pairs, np.log(post["r"].values).mean(-1)[..., None],
                             np.log1p(rate).mean(-1)[..., :N_UNITS]], -1)  # fmt: skip
    ess = np.array([float(az.ess(values[..., k])) for k in range(values.shape[-1])])
    return values.mean((0, 1)), values.reshape(-1, values.shape[-1]).std(0) / np.sqrt(ess)


def _from_tectum(data: Data, hyper: Hyper) -> tuple[np.ndarray, np.ndarray]:
    """Means over many chains of the sampler, and their Monte-Carlo errors from the spread of the chains."""
    n_chains, burn, draws = 64, 100, 100
    state = sample_prior_state(n_chains, data, hyper, generator(1))
    total = torch.zeros(n_chains, 3 + N_UNITS, dtype=torch.float64)
    for n in range(burn + draws):
        state = sweep(state, data, hyper, generator(spawn(2, n)))
        if n < burn:
            continue
        rate = log_mean(state.beta, state.path[:, : n_active(state)], state.labels, data).clamp(-20, 20).exp()
        z = state.labels
        values = [(z[:, 0] == z[:, 1]).double(), (z[:, 0] == z[:, 2]).double(), state.log_r.mean(-1)]
        total += torch.cat([torch.stack(values, -1), rate.log1p().mean(-1)], -1) / draws
    return total.mean(0).numpy(), (total.std(0) / math.sqrt(n_chains)).numpy()


@pytest.mark.slow
def test_posterior_agrees_with_nuts() -> None:
    """Co-clustering, dispersion and rates agree within Monte-Carlo error."""
    data, hyper = _world()
    theirs, their_error = _from_pymc(data)
    ours, our_error = _from_tectum(data, hyper)
    z = (ours - theirs) / np.sqrt(their_error**2 + our_error**2)
    print("ours", ours.round(3), "theirs", theirs.round(3), "errors", our_error.round(3), their_error.round(3), "z", z)
    assert np.abs(z).max() < 3.5, z  # seven comparisons
    assert max(our_error[:2].max(), their_error[:2].max()) < 0.1  # precise enough to be a test


def _features(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Moments, indicators and a product over two units, (draw, feature); logs, as raw counts have huge tails."""
    a, b = first.double().log1p(), second.double().log1p()
    return torch.stack([a, a**2, b, (first == 0).double(), (first > 3).double(), (first > 20).double(), a * b], -1)


@pytest.mark.parametrize("poisson", [False, True])
def test_prior_predictive_agrees_with_pymc(poisson: bool) -> None:
    """Moments of the counts of two units in the first bin under the prior, clusters included."""
    import pymc as pm
    import pytensor.tensor as pt

    data, hyper = _world()
    hyper = hyper._replace(poisson=poisson)
    n = 4000
    draw = generator(9)
    counts = sample_counts(sample_prior_state(n, data, hyper, draw), data, hyper, draw)
    with pm.Model():
        d, c = pm.Normal("d", shape=2), pm.Normal("c", shape=2)
        first = pm.Normal("first", shape=(2, 2))
        two = pm.Bernoulli("two", (1 - ZETA) / (2 - ZETA))
        z = two * pm.Bernoulli("z", pm.Beta("weight", 1.0, 1.0), shape=2)
        mean = pt.exp(d + first[z, 0] + c * first[z, 1])
        if poisson:
            pm.Poisson("y", mu=mean)
        else:
            pm.NegativeBinomial("y", mu=mean, alpha=pm.Gamma("r", 2.0, 1.0, shape=2))
        drawn = pm.sample_prior_predictive(n, random_seed=4).prior["y"].values.reshape(n, 2)
    ours, theirs = _features(counts[:, 0, 0], counts[:, 1, 0]), _features(*torch.as_tensor(drawn).unbind(-1))
    error = ((ours.var(0) + theirs.var(0)) / n).sqrt()
    score = (ours.mean(0) - theirs.mean(0)) / error
    assert score.abs().max() < 4, score
