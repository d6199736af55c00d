"""The maths of the switching GLM: derivatives, optima, monotone EM, causality, priors, simulator."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import nbinom, poisson

from support.simulated_accelerator import simulated_accelerator
from tectum.core.errors import InputError
from tectum.datasets.simulate.switching_glm import switching_glm
from tectum.models.hmm_glm import basis, emission, fitting, glm, one_hot
from tectum.stats import hmm
from tectum.stats.alignment import match_states

LINKS = ["sigmoid", "softplus", "exp"]
S, N, M = 3, 4, 1
P = 1 + N * M


def data(*, batch=2, n_time=40, seed=0, mask=False):
    g = torch.Generator().manual_seed(seed)
    spikes = torch.poisson(torch.full((batch, n_time, N), 0.7, dtype=torch.float64), generator=g)
    design = basis.design_tensor(spikes, basis.exponential_filter(5))
    weights = 0.4 * torch.randn(S, N, P, generator=g, dtype=torch.float64)
    share = torch.rand(batch, n_time, S, generator=g, dtype=torch.float64)
    seen = torch.rand(batch, n_time, N, generator=g) > 0.3 if mask else None
    return design, spikes, weights, share / share.sum(-1, keepdim=True), seen


def start(weights, *, tied=None):
    n_states = len(weights)
    sticky = (0.9 * torch.eye(n_states, dtype=torch.float64) + 0.1 / n_states).log()
    damping = torch.full((n_states if tied is None else 1, weights.shape[1]), 1e-4, dtype=torch.float64)
    uniform = torch.full((n_states,), 1 / n_states, dtype=torch.float64).log()
    return glm.Switching(weights, sticky, uniform, torch.zeros_like(weights[0]), damping)


# ---- basis ---------------------------------------------------------------------------------------


def test_history_is_the_sum_over_lags():
    spikes = torch.randint(0, 4, (2, 12, 3), generator=torch.Generator().manual_seed(0))
    filters = torch.rand(4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = basis.filter_history(spikes, filters)
    for b, t, n, m in itertools.product(range(2), range(12), range(3), range(2)):
        expected = sum(filters[k - 1, m] * spikes[b, t - k, n] for k in range(1, 5) if t - k >= 0)
        torch.testing.assert_close(got[b, t, n, m], torch.as_tensor(expected, dtype=torch.float64))


def test_history_is_causal_and_stays_within_its_sequence():
    spikes = torch.rand(2, 30, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = basis.design_tensor(spikes, basis.exponential_filter(5))
    changed = spikes.clone()
    changed[0, 10] += 5
    after = basis.design_tensor(changed, basis.exponential_filter(5))
    touched = (before != after).any(-1)
    assert touched[0].nonzero().flatten().tolist() == [11, 12, 13, 14, 15]
    assert not touched[1].any()
    assert not before[:, 0, 1:].any()


def test_filters_are_normalised_and_bumps_are_smooth():
    bumps = basis.raised_cosine_filters(20, 5)
    torch.testing.assert_close(bumps.sum(0), torch.ones(5, dtype=torch.float64))
    assert (bumps >= 0).all()
    assert (bumps.argmax(0).diff() > 0).all()
    torch.testing.assert_close(basis.raised_cosine_filters(1, 1), torch.ones(1, 1, dtype=torch.float64))


def test_weights_split_and_join():
    weights = torch.rand(3, 4, 1 + 4 * 2 + 3)
    parts = basis.split_weights(weights, n_units=4, n_filters=2)
    assert parts.covariates.shape == (3, 4, 3)
    assert parts.coupling[1, 2, 3, 1] == weights[1, 2, 1 + 3 * 2 + 1]
    assert torch.equal(basis.join_weights(parts), weights)


def test_design_order_matches_the_weights():
    design, spikes, weights, _, _ = data()
    parts = basis.split_weights(weights, n_units=N, n_filters=M)
    history = basis.filter_history(spikes, basis.exponential_filter(5))[..., 0]
    drive = torch.einsum("btp,snp->btsn", design, weights)
    expected = parts.bias + torch.einsum("btj,sij->btsi", history, parts.coupling[..., 0])
    torch.testing.assert_close(drive, expected)


# ---- emission and derivatives --------------------------------------------------------------------


@pytest.mark.parametrize("link", LINKS)
def test_emission_equals_scipy(link):
    design, spikes, weights, _, seen = data(mask=True)
    drive = torch.einsum("btp,snp->btsn", design, weights)
    rate = emission.rate_of(drive, link).numpy()
    counts, seen_np = spikes.numpy()[:, :, None], seen.numpy()[:, :, None]
    expected = (poisson.logpmf(counts, rate) * seen_np).sum(-1)
    hidden = spikes.masked_fill(~seen, torch.nan)
    got = emission.log_emission(design, hidden, weights, link=link, mask=seen)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)
    size = torch.tensor([0.5, 1.0, 3.0, 30.0], dtype=torch.float64)
    expected = (nbinom.logpmf(counts, size.numpy(), size.numpy() / (size.numpy() + rate)) * seen_np).sum(-1)
    got = emission.log_emission(design, hidden, weights, link=link, mask=seen, size=size)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-6)


def test_exponential_link_is_clipped_and_links_invert():
    assert emission.rate_of(torch.tensor([50.0]), "exp").item() == pytest.approx(math.exp(8))
    rate = torch.tensor([0.05, 0.4, 0.9], dtype=torch.float64)
    for link in LINKS:
        torch.testing.assert_close(emission.rate_of(emission.drive_of_rate(rate, link), link), rate)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("likelihood", ["poisson", "nb"])
@pytest.mark.parametrize("mask", [False, True])
def test_gradient_equals_autograd_and_information_is_its_expectation(link, likelihood, mask):
    design, spikes, weights, share, seen = data(mask=mask)
    size = torch.tensor([0.5, 1.0, 3.0, 30.0], dtype=torch.float64) if likelihood == "nb" else None
    options = {"link": link, "size": size, "mask": seen}
    found = emission.expected_moments(design, spikes, weights, share, information=True, **options)

    def objective(weights):
        return (share * emission.log_emission(design, spikes, weights, **options)).sum()

    torch.testing.assert_close(found.value.sum(), objective(weights))
    slope = torch.func.grad(objective)(weights)
    torch.testing.assert_close(found.gradient, slope, rtol=1e-6, atol=1e-6)
    direction = torch.randn(weights.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    step = 1e-6
    numeric = (objective(weights + step * direction) - objective(weights - step * direction)) / (2 * step)
    torch.testing.assert_close((found.gradient * direction).sum(), numeric, rtol=1e-5, atol=1e-5)
    rate = emission.rate_of(torch.einsum("btp,snp->btsn", design, weights), link)

    def at_mean(rate):  # counts equal to their mean: the score vanishes and minus the Hessian is the information
        def inner(w):
            drive = torch.einsum("btp,np->btn", design, w)
            value = emission._log_probability(rate, emission.rate_of(drive, link), size)
            return (value if seen is None else value.where(seen, 0.0)).sum(-1)

        return inner

    for s in range(S):
        inner = at_mean(rate[:, :, s])
        hessian = torch.autograd.functional.hessian(lambda w: (share[..., s] * inner(w)).sum(), weights[s])  # noqa: B023
        own = torch.stack([-hessian[n, :, n, :] for n in range(N)])
        torch.testing.assert_close(found.information[s], own, rtol=1e-5, atol=1e-5)


def test_blocks_of_rows_do_not_change_the_sums(monkeypatch):
    design, spikes, weights, share, seen = data(mask=True)
    whole = emission.expected_moments(design, spikes, weights, share, mask=seen, information=True)
    likelihood = emission.log_emission(design, spikes, weights, mask=seen)
    monkeypatch.setattr(emission, "_BLOCK", 100)
    for a, b in zip(
        whole, emission.expected_moments(design, spikes, weights, share, mask=seen, information=True), strict=True
    ):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(likelihood, emission.log_emission(design, spikes, weights, mask=seen))


def test_unit_scores_mix_the_states():
    design, spikes, weights, share, seen = data(mask=True)
    got = emission.unit_log_likelihood(design, spikes, weights, share, mask=seen)
    rate = emission.rate_of(torch.einsum("btp,snp->btsn", design, weights), "sigmoid").numpy()
    mixed = (share.numpy()[..., None] * poisson.pmf(spikes.numpy()[:, :, None], rate)).sum(2)
    np.testing.assert_allclose(got.numpy(), np.where(seen, np.log(mixed), 0.0), rtol=1e-6)


# ---- M step --------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("likelihood", ["poisson", "nb"])
def test_one_state_fit_equals_scipy(link, likelihood):
    design, spikes, weights, _, _ = data(batch=1, n_time=300)
    size = torch.full((N,), 2.0, dtype=torch.float64) if likelihood == "nb" else None
    prior = glm.GaussianPrior(
        torch.zeros((), dtype=torch.float64), torch.tensor([0.0] + [0.5] * N, dtype=torch.float64)
    )
    everywhere = torch.ones(1, 300, 1, dtype=torch.float64)
    found = glm.fit_weights(
        design, spikes, everywhere, 0.1 * weights[:1], prior=prior, link=link, size=size, n_steps=30
    )
    x, y = design[0].numpy(), spikes[0].numpy()

    def loss(w, n):
        drive = torch.from_numpy(x @ w)
        rate = emission.rate_of(drive, link).numpy() + 1e-8
        log_p = poisson.logpmf(y[:, n], rate) if size is None else nbinom.logpmf(y[:, n], 2.0, 2.0 / (2.0 + rate))
        return -log_p.sum() + 0.25 * (w[1:] ** 2).sum()

    for n in range(N):
        best = minimize(loss, np.zeros(P), args=(n,), method="BFGS", options={"gtol": 1e-7})
        np.testing.assert_allclose(found.weights[0, n].numpy(), best.x, atol=2e-4)
        assert -found.value[0, n].item() <= best.fun + 1e-6


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("shared", [False, True])
def test_m_step_never_goes_downhill_even_from_far_away(link, shared):
    design, spikes, weights, share, _ = data(seed=3)
    weights = 15 * weights
    if shared:
        weights[..., 0] = weights[:1, :, 0]
    prior = glm.GaussianPrior(torch.zeros((), dtype=torch.float64), torch.full((P,), 1e-3, dtype=torch.float64))
    tied = basis.tied_columns(N, M, bias=True, own=False) if shared else None
    damping, last = None, -torch.inf
    for _ in range(12):
        update = glm.fit_weights(
            design, spikes, share, weights, prior=prior, link=link, tied=tied, damping=damping, n_steps=1
        )
        weights, damping = update.weights, update.damping
        value = update.value.sum(0) if shared else update.value
        assert (value >= last).all()
        last = value
    assert update.value.isfinite().all()


@pytest.mark.parametrize(("bias", "own"), [(True, False), (False, True), (True, True)])
def test_tied_fit_is_the_joint_optimum(bias, own):
    """Tied weights are equal, their gradients sum to zero over the states, and those of all others are zero."""
    design, spikes, weights, share, _ = data(n_time=80)
    columns = basis.tied_columns(N, M, bias=bias, own=own)
    tied = torch.zeros(N, P, dtype=torch.bool).scatter(1, columns, True)
    prior = glm.GaussianPrior(
        torch.zeros((), dtype=torch.float64), torch.tensor([0.0] + [1.0] * N, dtype=torch.float64)
    )
    found = glm.fit_weights(design, spikes, share, 0 * weights, prior=prior, link="exp", tied=columns, n_steps=30)
    assert (found.weights[:, tied] == found.weights[:1, tied]).all()
    moments = emission.expected_moments(design, spikes, found.weights, share, link="exp")
    slope = moments.gradient - torch.tensor([0.0] + [1.0] * N) * found.weights
    assert slope[:, ~tied].abs().max() < 1e-6
    assert slope[:, tied].sum(0).abs().max() < 1e-6
    assert slope[:, tied].abs().max() > 1e-3


def test_forbidden_couplings_stay_zero_and_the_rest_is_optimal():
    design, spikes, weights, share, _ = data(n_time=80)
    free = basis.coupling_columns(~torch.eye(N, dtype=torch.bool), n_filters=1)
    prior = glm.GaussianPrior(torch.zeros((), dtype=torch.float64), torch.full((P,), 0.1, dtype=torch.float64))
    found = glm.fit_weights(design, spikes, share, 0 * weights, prior=prior, link="softplus", free=free, n_steps=40)
    assert not found.weights[:, ~free].any()
    slope = (
        emission.expected_moments(design, spikes, found.weights, share, link="softplus").gradient - 0.1 * found.weights
    )
    assert slope[:, free].abs().max() < 1e-5


def test_gaussian_prior_pulls_to_its_mean():
    design, spikes, weights, share, _ = data()
    mean = torch.full((N, P), 0.3, dtype=torch.float64)
    prior = glm.GaussianPrior(mean, torch.full((P,), 1e9, dtype=torch.float64))
    found = glm.fit_weights(design, spikes, share, weights, prior=prior, n_steps=5)
    torch.testing.assert_close(found.weights, mean.expand(S, -1, -1), atol=1e-5, rtol=0)


def test_shared_mean_is_the_mode_of_its_normal_prior():
    weights = torch.randn(S, N, P + 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean = glm.shared_mean(weights, n_columns=N)
    away = (weights - mean).sum(0) - mean  # gradient of -sum (w - w0)^2 / 2 - w0^2 / 2
    assert away[:, 1 : 1 + N].abs().max() < 1e-12
    assert not mean[:, 0].any()
    assert not mean[:, 1 + N :].any()


# ---- EM ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("shared_precision", [0.0, 9.0])
@pytest.mark.parametrize("tie", [None, {"bias": True, "own": False}, {"bias": True, "own": True}])
def test_em_never_lowers_the_log_posterior(link, shared_precision, tie):
    sim = switching_glm(n_units=N, n_states=2, n_sequences=3, n_time=120, link=link, bias=-1.0, random_state=1)
    spikes = sim.data.double()
    lengths = torch.tensor([120, 80, 100])
    mask = torch.rand(3, 120, N, generator=torch.Generator().manual_seed(0)) > 0.1
    design = basis.design_tensor(spikes, basis.exponential_filter(5))
    g = torch.Generator().manual_seed(0)
    tied = None if tie is None else basis.tied_columns(N, M, **tie)
    begun = glm.initial_weights(spikes, n_states=2, n_regressors=P, link=link, generator=g)
    state = start(fitting._tied(begun, tied), tied=tied)
    precision = torch.tensor([0.0] + [shared_precision or 1e-3] * N, dtype=torch.float64)
    trace = []
    for _ in range(15):
        state, objective, _ = glm.em_step(
            state, design, spikes, n_coupling=N, precision=precision, shared_precision=shared_precision, link=link,
            tied=tied, stickiness=2.0, lengths=lengths, mask=mask,
        )  # fmt: skip
        trace.append(objective)
    change = torch.stack(trace).diff()
    assert (change > -1e-8).all()
    assert change[0] > 1


def test_one_state_em_is_the_plain_glm():
    design, spikes, weights, _, _ = data(n_time=100)
    precision = torch.tensor([0.0] + [1.0] * N, dtype=torch.float64)
    state = start(0 * weights[:1])
    for _ in range(25):
        state, objective, posterior = glm.em_step(state, design, spikes, n_coupling=N, precision=precision, link="exp")
    everywhere = torch.ones(2, 100, 1, dtype=torch.float64)
    prior = glm.GaussianPrior(torch.zeros((), dtype=torch.float64), precision)
    alone = glm.fit_weights(design, spikes, everywhere, 0 * weights[:1], prior=prior, link="exp", n_steps=25)
    torch.testing.assert_close(state.weights, alone.weights, atol=1e-7, rtol=0)
    torch.testing.assert_close(objective, alone.value.sum(), atol=1e-7, rtol=0)
    assert (posterior.probabilities == 1).all()


def test_model_without_regressors_agrees_with_the_general_one_and_climbs():
    _, spikes, weights, _, seen = data(mask=True)
    ones = torch.ones(2, 40, 1, dtype=torch.float64)
    state = start(weights[..., :1])
    rates = state.weights[..., 0].exp()
    transition, trace = state.log_transition, []
    hidden = spikes.masked_fill(~seen, torch.nan)
    constant = emission.log_factorials(hidden, mask=seen)
    got = emission.constant_rate_emission(hidden, rates, mask=seen) - constant.unsqueeze(-1)
    general = emission.log_emission(ones, hidden, state.weights, link="exp", mask=seen)
    torch.testing.assert_close(got, general, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        emission.constant_rate_emission(spikes, rates) - emission.log_factorials(spikes).unsqueeze(-1),
        emission.log_emission(ones, spikes, state.weights, link="exp"), atol=1e-6, rtol=0,
    )  # fmt: skip
    flat = torch.zeros(1, dtype=torch.float64)
    after, objective, _ = glm.em_step(
        state, ones, hidden, n_coupling=0, precision=flat, link="exp", mask=seen, n_steps=20
    )
    for _ in range(20):
        rates, transition, value, _ = glm.poisson_em_step(rates, transition, state.log_initial, hidden, mask=seen)
        trace.append(value)
        if len(trace) == 1:
            torch.testing.assert_close(value - constant.sum(), objective, atol=1e-5, rtol=0)
            torch.testing.assert_close(rates.log(), after.weights[..., 0], atol=1e-5, rtol=0)
    assert (torch.stack(trace).diff() > -1e-6).all()
    alone = glm.poisson_em_step(spikes.mean((0, 1))[None] + 1, torch.zeros(1, 1), torch.zeros(1), spikes)[0]
    torch.testing.assert_close(alone[0], spikes.mean((0, 1)))


def test_permuting_the_states_permutes_the_fit():
    design, spikes, weights, _, _ = data()
    order = torch.tensor([2, 0, 1])
    precision = torch.full((P,), 1e-2, dtype=torch.float64)
    a, b = start(weights), start(weights[order])
    for _ in range(3):
        a, first, _ = glm.em_step(a, design, spikes, n_coupling=N, precision=precision)
        b, second, _ = glm.em_step(b, design, spikes, n_coupling=N, precision=precision)
    torch.testing.assert_close(a.weights[order], b.weights, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(first, second)


def test_restarts_can_be_folded_into_the_state_axis():
    design, spikes, weights, share, _ = data()
    prior = glm.GaussianPrior(torch.zeros((), dtype=torch.float64), torch.full((P,), 0.1, dtype=torch.float64))
    both = glm.fit_weights(
        design, spikes, torch.cat((share, share.flip(-1)), -1), torch.cat((weights, -weights)), prior=prior
    )
    second = glm.fit_weights(design, spikes, share.flip(-1), -weights, prior=prior)
    torch.testing.assert_close(both.weights[S:], second.weights)


def test_rates_never_use_the_present_or_the_future():
    design, spikes, weights, _, _ = data()
    changed = spikes.clone()
    changed[:, 20:] += 1
    later = basis.design_tensor(changed, basis.exponential_filter(5))
    drive = [torch.einsum("btp,snp->btsn", d, weights) for d in (design, later)]
    assert torch.equal(drive[0][:, :21], drive[1][:, :21])
    uniform = torch.full((S,), 1 / S, dtype=torch.float64).log()
    filtered = [
        hmm.forward(uniform, start(weights).log_transition, emission.log_emission(d, c, weights)).log_predicted
        for d, c in ((design, spikes), (later, changed))
    ]
    assert torch.equal(filtered[0][:, :20], filtered[1][:, :20])


def test_120_units_do_not_underflow():
    g = torch.Generator().manual_seed(0)
    spikes = torch.poisson(torch.full((1, 60, 120), 0.5, dtype=torch.float64), generator=g)
    design = basis.design_tensor(spikes, basis.exponential_filter(5))
    weights = 0.3 * torch.randn(3, 120, 121, generator=g, dtype=torch.float64)
    state, objective, posterior = glm.em_step(
        start(weights), design, spikes, n_coupling=120, precision=torch.full((121,), 1.0)
    )
    assert objective.isfinite()
    assert state.weights.isfinite().all()
    torch.testing.assert_close(posterior.probabilities.sum(-1), torch.ones(1, 60, dtype=torch.float64))


def test_transition_rows_never_collapse():
    found = glm.transition_mode(torch.tensor([[5.0, 0.0], [0.0, 0.0]]), stickiness=3.0)
    torch.testing.assert_close(found.exp(), torch.tensor([[9 / 10, 1 / 10], [1 / 5, 4 / 5]]))


def test_other_devices_give_the_same_em_round():
    design, spikes, weights, _, seen = data(mask=True)
    precision = torch.full((P,), 1e-2, dtype=torch.float64)
    here = glm.em_step(start(weights), design, spikes, n_coupling=N, precision=precision, mask=seen)
    with simulated_accelerator() as device:
        state = glm.Switching(*(v.to(device) for v in start(weights)))
        there = glm.em_step(
            state,
            design.to(device),
            spikes.to(device),
            n_coupling=N,
            precision=precision.to(device),
            mask=seen.to(device),
        )
        weights_there, objective = there[0].weights.cpu(), there[1].cpu()
        g = torch.Generator().manual_seed(0)
        started = glm.initial_weights(spikes.to(device), n_states=2, n_regressors=P, link="exp", generator=g).cpu()
    torch.testing.assert_close(here[0].weights, weights_there)
    torch.testing.assert_close(here[1], objective)
    g = torch.Generator().manual_seed(0)
    torch.testing.assert_close(
        glm.initial_weights(spikes, n_states=2, n_regressors=P, link="exp", generator=g), started
    )


# ---- recovery --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_recovery_on_the_published_design():
    """The whole chain of maths at the published size: 30 training and 20 test sequences, one start, one data set."""
    n_states, n_units = 5, 20
    sim = switching_glm(random_state=0)
    spikes = sim.data.double()
    design = basis.design_tensor(spikes, basis.exponential_filter(5))
    train, test = slice(0, 30), slice(30, 50)
    precision = torch.tensor([0.0] + [0.1] * n_units, dtype=torch.float64)
    uniform = torch.full((n_states,), 1 / n_states, dtype=torch.float64).log()

    def score(weights, transition):
        likelihood = emission.log_emission(design[test], spikes[test], weights)
        return hmm.forward(uniform, transition, likelihood).log_likelihood.mean()

    truth = torch.cat((sim.truth.bias.expand(n_states, -1).unsqueeze(-1), sim.truth.coupling), dim=-1)
    oracle = score(truth, sim.truth.transition.log())
    g = torch.Generator().manual_seed(0)
    weights = glm.initial_weights(
        spikes[train], n_states=n_states, n_regressors=1 + n_units, link="sigmoid", generator=g
    )
    state = start(weights)._replace(log_transition=sim.truth.transition.log())
    for _ in range(14):
        state, _, posterior = glm.em_step(state, design[train], spikes[train], n_coupling=n_units, precision=precision)
    naive = oracle - score(state.weights, state.log_transition)
    assert naive <= 70
    order = match_states(state.weights[..., 1:].flatten(1), sim.truth.coupling.flatten(1))
    assert (state.weights[..., 1:] - sim.truth.coupling[order]).square().mean().sqrt() <= 0.11
    likelihood = emission.log_emission(design[test], spikes[test], state.weights)
    found = order[hmm.smooth(uniform, state.log_transition, likelihood).probabilities.argmax(-1)]
    best = hmm.smooth(uniform, sim.truth.transition.log(), emission.log_emission(design[test], spikes[test], truth))
    accuracy = [(s == sim.truth.states[test]).double().mean() for s in (found, best.probabilities.argmax(-1))]
    assert accuracy[0] >= accuracy[1] - 0.005

    parameters, transition, adam = (
        one_hot.start_one_hot(state.weights, n_units=n_units, n_filters=1), state.log_transition, None,
    )  # fmt: skip
    for r in range(15):
        parameters, transition, adam, _, posterior = one_hot.one_hot_em_step(
            parameters, transition, uniform, design[train], spikes[train], generator=g, temperature=1 - 0.05 * r,
            adam=adam, n_steps=8,
        )  # fmt: skip
    soft = one_hot.one_hot_weights(parameters, one_hot.mean_types(parameters.logits))
    gap = oracle - score(soft, transition)
    assert gap <= 40
    assert gap < naive
    assert (soft[..., 1:] - sim.truth.coupling[order]).square().mean().sqrt() <= 0.08


# ---- simulator and bad input ---------------------------------------------------------------------


def test_simulated_counts_follow_their_rates_and_the_model():
    sim = switching_glm(n_units=6, n_states=3, n_sequences=20, n_time=400, random_state=3)
    truth = sim.truth
    again = switching_glm(n_units=6, n_states=3, n_sequences=20, n_time=400, random_state=3)
    assert torch.equal(sim.data, again.data)
    assert not torch.equal(
        sim.data, switching_glm(n_units=6, n_states=3, n_sequences=20, n_time=400, random_state=4).data
    )
    weights = torch.cat((truth.bias.expand(3, -1).unsqueeze(-1), truth.coupling), dim=-1)
    design = basis.design_tensor(sim.data, truth.filters)
    rate = emission.rate_of(torch.einsum("btp,btnp->btn", design, weights[truth.states]), "sigmoid")
    torch.testing.assert_close(rate, truth.rate)
    z = (sim.data - rate).sum((0, 1)) / rate.sum((0, 1)).sqrt()
    assert z.abs().max() < 4
    stay = (truth.states[:, 1:] == truth.states[:, :-1]).double().mean()
    assert abs(stay - 0.98) < 0.01
    assert torch.equal(truth.coupling.sign().long(), truth.adjacency)
    first = torch.bincount(switching_glm(2, 4, n_sequences=2000, n_time=1).truth.states[:, 0], minlength=4)
    assert (first > 420).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: basis.exponential_filter(0), "n_lags: expected at least 1, got 0"),
        (lambda: basis.raised_cosine_filters(3, 4), "1 <= n_filters <= n_lags"),
        (
            lambda: basis.design_tensor(torch.ones(5, 2), basis.exponential_filter(5)),
            r"time > 5 lags, unit\), got \(5, 2\)",
        ),
        (
            lambda: basis.design_tensor(torch.ones(9, 2), basis.exponential_filter(5), covariates=torch.ones(8, 1)),
            r"covariates: expected \(9,\) \+ \(covariate,\), got \(8, 1\)",
        ),
        (lambda: basis.coupling_columns(torch.ones(2, 3), n_filters=1), "neuron_mask: expected bool"),
        (
            lambda: emission.rate_of(torch.ones(1), "probit"),
            "link: expected 'sigmoid', 'softplus' or 'exp', got 'probit'",
        ),
        (
            lambda: one_hot.relaxed_types(torch.ones(3), torch.ones(3), temperature=-1.0),
            "temperature: expected a positive",
        ),
        (
            lambda: one_hot.gumbel_softmax_log_density(torch.ones(3), torch.ones(3), temperature=0.0),
            "temperature: expected a positive",
        ),
        (lambda: switching_glm(n_units=0), "n_units: expected at least 1, got 0"),
        (lambda: switching_glm(stay=1.0), r"stay: expected in \(0, 1\), got 1.0"),
        (lambda: switching_glm(link="probit"), "link: expected sigmoid or softplus or exp, got 'probit'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
