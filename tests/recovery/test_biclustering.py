"""Recovery: groups, states and rates on simulated counts, and the nulls of one group and one state."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import tectum
from tectum.core.random import generator
from tectum.datasets.simulate.biclusters import biclusters
from tectum.models.biclustering.fitting import hyper_of
from tectum.models.biclustering.initial import initial_state
from tectum.models.biclustering.model import make_data
from tectum.stats.clustering import adjusted_rand

SEEDS = range(6)


def _fit(data: Any, seed: int, **params: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 120 sweeps are too few for the diagnostics
        given = {"chains": 2, "burn": 60, "draws": 60, "snapshots": 10, "device": "cpu", **params}
        return tectum.BiCluster(random_state=seed, **given).fit(data).result_


@pytest.mark.slow
def test_groups_and_states_are_found_without_their_numbers() -> None:
    """BC-1 of the specification: two chains, 120 sweeps, numbers of groups and of states unknown."""
    units, states, right = [], [], []
    for seed in SEEDS:
        sim = biclusters(random_state=seed)
        found = _fit(sim.data, seed)
        units.append(float(adjusted_rand(found.clusters, sim.truth.clusters)))
        states.append(float(adjusted_rand(found.states, sim.truth.states)))
        right.append(units[-1] >= 0.9 and found.n_groups == 3)
    print("units", units, "states", states)
    assert sum(right) >= 5, units
    assert sum(s >= 0.6 for s in states) >= 5, states
    assert float(torch.tensor(states).median()) >= 0.65, states


@pytest.mark.slow
@pytest.mark.parametrize("seed", [101, 105, 106])
def test_starts_do_not_join_groups_whose_fit_changes_modes(seed: int) -> None:
    """A path on its way from one mode to another fits poorly; evidence read then joined groups on these recordings."""
    sim = biclusters(design="published", units_per_cluster=10, n_time=500, random_state=seed)
    counts = sim.data.values.T.double()
    data = make_data(counts, torch.ones_like(counts, dtype=torch.bool), starts=torch.arange(500) == 0)
    hyper = hyper_of(tectum.BiCluster(), len(counts), counts)
    start = initial_state(2, data, hyper, generator(seed))
    assert all(float(adjusted_rand(labels, sim.truth.clusters)) == 1.0 for labels in start.labels), start.labels


@pytest.mark.slow
def test_published_design_is_recovered_and_predicted() -> None:
    """Groups exact, and half of the gap from smoothing to truth in held-out score."""
    sim = biclusters(design="published", units_per_cluster=10, n_time=500, random_state=3)
    found = _fit(sim.data, 3, burn=150, draws=100, held_out=0.1)
    held = ~found.observed
    truth = tectum.stats.distributions.negative_binomial_log_prob(
        found.counts.double(), sim.truth.log_rate, torch.tensor(10.0, dtype=torch.float64)
    )
    ceiling = float(truth[held].mean())
    share = (found.score_held_out - found.score_smoothing) / (ceiling - found.score_smoothing)
    groups = adjusted_rand(found.clusters, sim.truth.clusters)
    print("groups", float(groups), "share", share, found.score_held_out, found.score_smoothing, ceiling)
    assert found.n_groups == 3
    assert float(groups) >= 0.95
    assert share >= 0.5


@pytest.mark.slow
def test_states_of_the_published_design_are_found() -> None:
    """Default settings, two chains of 500 sweeps, five recordings."""
    groups, states, numbers = [], [], []
    for seed in range(5):
        sim = biclusters(design="published", units_per_cluster=10, n_time=500, random_state=seed)
        found = _fit(sim.data, seed, burn=250, draws=250)
        groups.append(float(adjusted_rand(found.clusters, sim.truth.clusters)))
        states.append(float(adjusted_rand(found.states, sim.truth.states)))
        numbers.append(found.n_groups)
    print("groups", groups, numbers, "states", states)
    assert numbers == [3] * 5, numbers
    assert min(groups) >= 0.95, groups
    assert min(states) >= 0.65, states


@pytest.mark.slow
def test_one_group_and_one_state_are_found_as_such() -> None:
    """Of five recordings all have one group, and all but one at most a state that holds 95 % of the time.

    Stickiness is that of long states: with 10 the largest state held 93 to 99 % of the time.
    """
    groups, shares = [], []
    for seed in range(5):
        found = _fit(biclusters(1, 20, n_states=1, n_time=300, random_state=seed).data, seed, max_states=5,
                     kappa=100.0)  # fmt: skip
        groups.append(found.n_groups)
        shares.append(float(found.occupancy().max()))
    print("groups", groups, "largest share of a state", shares)
    assert groups == [1] * 5
    assert sum(share >= 0.95 for share in shares) >= 4, shares


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_poisson_counts_are_recovered(seed: int) -> None:
    sim = biclusters(2, 8, n_time=300, dispersion=float("inf"), random_state=seed)
    found = _fit(sim.data, seed, likelihood="poisson", max_states=4)
    assert float(adjusted_rand(found.clusters, sim.truth.clusters)) == 1.0
    rate = torch.stack([found.rate.log().flatten().double(), sim.truth.log_rate.flatten()])
    assert float(torch.corrcoef(rate)[0, 1]) > 0.9
