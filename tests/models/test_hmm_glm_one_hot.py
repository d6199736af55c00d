"""The one-hot prior of the switching GLM: density, divergence, shared types, M step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tectum.datasets.simulate.switching_glm import switching_glm
from tectum.models.hmm_glm import basis, emission, hard, one_hot

S, N, M = 3, 4, 1
P = 1 + N * M


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_gumbel_softmax_density_integrates_to_one(temperature):
    """Importance sampling with a Dirichlet proposal that is heavier at the corners."""
    g, a = np.random.default_rng(0), 0.7 * temperature
    sample = torch.from_numpy(g.dirichlet((a, a, a), 400_000)).clamp(min=1e-300)
    proposal = math.lgamma(3 * a) - 3 * math.lgamma(a) + (a - 1) * sample.log().sum(-1)
    logits = torch.tensor([0.2, 1.0, -0.5], dtype=torch.float64)
    ratio = (one_hot.gumbel_softmax_log_density(sample, logits, temperature=temperature) - proposal).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / len(ratio) ** 0.5
    assert ratio.std() / len(ratio) ** 0.5 < 0.01


def test_gumbel_softmax_samples_have_the_stated_density():
    """The mean of log density ratio of two parameter values has the sign of a divergence, and moments agree."""
    g = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.2, 1.0, -0.5], dtype=torch.float64)
    uniform = torch.rand(200_000, 3, generator=g, dtype=torch.float64)
    noise = -torch.log(-torch.log(uniform))
    sample = ((logits.log_softmax(0) + noise) / 0.7).softmax(-1)
    proposal = np.random.default_rng(1).dirichlet((0.6, 0.6, 0.6), 200_000)
    points = torch.from_numpy(proposal).clamp(min=1e-300)
    log_q = math.lgamma(1.8) - 3 * math.lgamma(0.6) - 0.4 * points.log().sum(-1)
    weight = (one_hot.gumbel_softmax_log_density(points, logits, temperature=0.7) - log_q).exp()
    torch.testing.assert_close((weight.unsqueeze(1) * points).mean(0), sample.mean(0), atol=0.01, rtol=0)
    torch.testing.assert_close((weight.unsqueeze(1) * points**2).mean(0), (sample**2).mean(0), atol=0.01, rtol=0)


def test_divergence_vanishes_when_types_equal_the_shared_ones_and_is_positive_otherwise():
    g = torch.Generator().manual_seed(0)
    weights = torch.randn(1, N, P, generator=g, dtype=torch.float64)
    parameters = one_hot.start_one_hot(weights, n_units=N, n_filters=M)
    flat = torch.full((), 1e12, dtype=torch.float64)
    same = one_hot.OneHotPrior(parameters.logits.softmax(-1)[0], flat * 0, flat)
    assert one_hot.one_hot_log_prior(parameters, same).abs() < 1e-9
    other = same._replace(types=torch.full((N, N, 3), 1 / 3, dtype=torch.float64))
    assert one_hot.one_hot_log_prior(parameters, other) < -1


def test_shared_types_maximise_the_objective_with_their_pseudo_counts():
    weights = torch.randn(S, N, P, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parameters = one_hot.start_one_hot(weights, n_units=N, n_filters=M)
    best = one_hot.shared_prior(parameters)
    pseudo = torch.tensor([0.1, 0.8, 0.1], dtype=torch.float64)

    def objective(types):
        prior = best._replace(types=types)
        return one_hot.one_hot_log_prior(parameters, prior) + (pseudo * types.log()).sum()

    top = objective(best.types)
    for seed in range(10):
        noise = torch.randn(best.types.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert objective((best.types.log() + 0.1 * noise).softmax(-1)) < top


def test_start_keeps_clear_couplings():
    weights = torch.randn(S, N, P, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parameters = one_hot.start_one_hot(weights, n_units=N, n_filters=M)
    coupling = weights[..., 1:]
    back = one_hot.one_hot_weights(parameters, one_hot.mean_types(parameters.logits))[..., 1:]
    clear = coupling.abs() > 1
    torch.testing.assert_close(back[clear], coupling[clear], atol=0.02, rtol=0.02)
    assert (back[coupling.abs() < 0.1].abs() < 0.1).all()
    assert (parameters.logits >= -20).all()


def test_relaxed_samples_follow_the_types_as_the_temperature_falls():
    logits = torch.tensor([0.2, 0.5, 0.3]).log()
    uniform = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0))
    drawn = one_hot.relaxed_types(logits.expand(20_000, 3), uniform, temperature=0.01)
    torch.testing.assert_close((drawn > 0.5).float().mean(0), logits.exp(), atol=0.02, rtol=0)


def test_one_hot_m_step_climbs_and_respects_forbidden_couplings():
    sim = switching_glm(n_units=N, n_states=2, n_sequences=2, n_time=300, random_state=2)
    spikes = sim.data.double()
    design = basis.design_tensor(spikes, basis.exponential_filter(5))
    share = torch.nn.functional.one_hot(sim.truth.states, 2).double()
    parameters = one_hot.start_one_hot(torch.zeros(2, N, P, dtype=torch.float64), n_units=N, n_filters=M)
    prior = one_hot.shared_prior(parameters)
    g = torch.Generator().manual_seed(0)
    allowed = ~torch.eye(N, dtype=torch.bool)

    def objective(p):
        weights = one_hot.one_hot_weights(p, one_hot.mean_types(p.logits, allowed))
        data_term = emission.expected_moments(design, spikes, weights, share).value.sum()
        return data_term + one_hot.one_hot_log_prior(p, prior)

    fitted, _ = one_hot.fit_one_hot(
        design, spikes, share, parameters, prior=prior, generator=g, temperature=0.5, allowed=allowed, n_steps=60
    )
    assert objective(fitted) > objective(parameters) + 5
    decided = hard.harden(design, spikes, share, fitted, prior=prior, allowed=allowed)
    assert not decided.adjacency[:, torch.eye(N, dtype=torch.bool)].any()
    assert torch.equal(decided.weights[..., 1:].sign().long(), decided.adjacency)
