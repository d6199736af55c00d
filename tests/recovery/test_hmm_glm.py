"""HMMGLM recovers states, couplings and the number of states of the published design, at the spec's thresholds.

Gap: log-likelihood of the true parameters minus that of the model, on 20 unseen sequences of 2000 bins, per sequence.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tectum import HMMGLM, HMMGLMResult, Recording
from tectum.datasets import simulate
from tectum.evaluate import matched_accuracy
from tectum.models.hmm_glm.basis import design_tensor
from tectum.models.hmm_glm.emission import log_emission
from tectum.models.hmm_glm.select import choose
from tectum.models.hmm_glm.structure import structure_scores
from tectum.stats import hmm
from tectum.stats.alignment import assign, overlap

pytestmark = pytest.mark.slow

SEEDS = range(5)
N_TEST = 20


class World(NamedTuple):
    """Training data, test data and what is true of them."""

    train: list[Recording]
    test: list[Recording]
    truth: Any
    likelihood: float
    accuracy: float


class Found(NamedTuple):
    """Scores of a model."""

    gap: float
    accuracy: float
    rmse: float
    f1: float


@cache
def world(seed: int, n_train: int) -> World:
    sim = simulate.switching_glm(20, 5, n_sequences=n_train + N_TEST, n_time=2000, random_state=seed)
    truth, test = sim.truth, sim.data[n_train:]
    weights = torch.cat((truth.bias.expand(5, -1).unsqueeze(-1), truth.coupling), dim=-1)
    spikes = torch.stack([r.values for r in test]).double()
    emission = log_emission(design_tensor(spikes, truth.filters), spikes, weights)
    found = hmm.smooth(torch.full((5,), 0.2).double().log(), truth.transition.log(), emission)
    accuracy = (found.probabilities.argmax(-1) == truth.states[n_train:]).double().mean()
    return World(sim.data[:n_train], test, truth, float(found.log_likelihood.mean()), float(accuracy))


def make(seed: int, **settings: Any) -> HMMGLM:
    return HMMGLM(**{"n_states": 5, "link": "sigmoid", "device": "cpu", "random_state": seed, **settings})


def judge(model: HMMGLM, known: World) -> Found:
    """Score a fit on unseen sequences."""
    states = torch.stack([r.values.argmax(-1) for r in model.predict_proba(known.test)])
    true = known.truth.states[-N_TEST:]
    name = assign(-overlap(states.flatten(), true.flatten(), n_labels=5))
    result, coupling = model.result_, known.truth.coupling[name]
    rmse = (result.network.double() - coupling).square().mean().sqrt()
    gap = known.likelihood - float(model.log_prob(known.test).double().mean())
    return Found(gap, matched_accuracy(states, true), float(rmse), macro_f1(result, known.truth.adjacency[name]))


def macro_f1(result: HMMGLMResult, truth: Tensor) -> float:
    """Mean over inhibitory, absent and excitatory of F1, without self-couplings."""
    if result.adjacency is None:
        return float("nan")
    off = ~torch.eye(20, dtype=torch.bool).expand(5, -1, -1)
    found, true = result.adjacency[off], truth[off]
    hits = [((found == k) & (true == k)).sum() / ((found == k).sum() + (true == k).sum()) for k in (-1, 0, 1)]
    return float(2 * torch.stack(hits).mean())


@pytest.mark.parametrize("seed", SEEDS)
def test_thirty_sequences(seed: int) -> None:
    known = world(seed, 30)
    naive = make(seed, prior="none", starts=3).fit(known.train)
    gaussian = make(seed, prior="gaussian").fit(known.train, init=naive.result_)
    one_hot = make(seed, one_hot_rounds=12).fit(known.train, init=naive.result_)
    free, typed = judge(naive, known), judge(one_hot, known)
    for found in (free, judge(gaussian, known)):
        assert found.gap <= 70
        assert found.accuracy >= known.accuracy - 0.005
        assert found.rmse <= 0.11
    assert typed.gap <= 40
    assert typed.gap < free.gap
    assert typed.rmse <= 0.08
    assert typed.f1 >= 0.88


@pytest.mark.parametrize("seed", SEEDS)
def test_five_sequences(seed: int) -> None:
    known = world(seed, 5)
    one_hot = make(seed).fit(known.train)
    typed, free = judge(one_hot, known), judge(make(seed, prior="none").fit(known.train), known)
    graph = structure_scores(one_hot.result_.match_states(known.truth.states[:5]), known.truth.adjacency)
    assert graph["prior_auc"] >= 0.85
    assert graph["prior_balanced_accuracy"] >= 0.7
    assert graph["type_balanced_accuracy"] >= 0.8
    assert typed.gap <= 200
    assert free.gap - typed.gap >= 60
    assert typed.f1 >= 0.70


@pytest.mark.parametrize("seed", SEEDS)
def test_gaussian_prior_on_five_sequences(seed: int) -> None:
    """The shared mean makes up for some of the data that five sequences lack."""
    known = world(seed, 5)
    naive = make(seed, prior="none").fit(known.train)
    shared = judge(make(seed, prior="gaussian").fit(known.train, init=naive.result_), known)
    free = judge(naive, known)
    assert shared.gap <= 240
    assert free.gap - shared.gap >= 25
    assert shared.rmse <= 0.21
    assert shared.rmse < free.rmse
    assert shared.accuracy >= known.accuracy - 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_two_sequences(seed: int) -> None:
    known = world(seed, 2)
    one_hot = make(seed).fit(known.train)
    naive = make(seed, prior="none").fit(known.train, init=one_hot.result_)  # from where it could not get better alone
    typed, free = judge(one_hot, known), judge(naive, known)
    assert typed.accuracy >= 0.96
    assert free.gap - typed.gap >= 200


@pytest.mark.filterwarnings("ignore:HMMGLM. states that hardly occur")
def test_one_state_and_no_couplings_lose() -> None:
    """Thirty sequences: a plain GLM and a Poisson hidden Markov model are far below the naive model."""
    known = world(0, 30)
    for settings in ({"n_states": 1}, {"n_lags": 0, "starts": 2}):
        model = make(0, prior="none", **settings).fit(known.train)
        gap = known.likelihood - float(model.log_prob(known.test).double().mean())
        assert gap - 70 >= 600, settings


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.filterwarnings("ignore:HMMGLM. states that hardly occur")
def test_number_of_states(seed: int) -> None:
    """Ten sequences, 1 to 7 states, 20 unseen sequences: five is the smallest number within one standard error."""
    known = world(seed, 10)
    grid = torch.arange(1, 8)
    models = [make(seed, n_states=n, prior="none", starts=3).fit(known.train) for n in grid.tolist()]
    report = choose(grid, torch.stack([m.log_prob(known.test).double() for m in models]))
    assert report.chosen == 5
    assert report.held_out[4] - report.held_out[:4].max() >= 100  # nats a sequence: not a near miss


@pytest.mark.filterwarnings("ignore:HMMGLM. states that hardly occur")
def test_number_of_states_is_chosen_in_the_fit() -> None:
    """Ten sequences in five folds, three starts: a set where random starts alone miss a state in one of the folds."""
    data = simulate.switching_glm(20, 5, n_sequences=10, n_time=2000, random_state=102).data
    result = make(102, n_states=None, candidates=(4, 5, 6), prior="none", starts=3).fit(data).result_
    assert result.n_states == 5
    assert (result.state_held_out[1] - result.state_held_out[0]) * 2000 >= 100  # nats a sequence
    assert result.state_held_out.argmax() == 1  # not only within an error of the best
