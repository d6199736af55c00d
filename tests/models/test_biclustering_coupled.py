"""The coupled form of BiCluster: one law for the stacked paths of all clusters."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tectum
from tectum.core.errors import InputError, TectumWarning
from tectum.core.random import generator
from tectum.datasets.simulate.biclusters import biclusters
from tectum.models.biclustering import run
from tectum.models.biclustering.coupling import freeze
from tectum.models.biclustering.model import Data, Hyper, State, cluster_sizes, log_joint, make_data, make_hyper
from tectum.models.biclustering.paths import Steps, look_up, make_tables, sample_path, step_log_prob
from tectum.models.biclustering.prior import sample_counts, sample_prior_state
from tectum.models.biclustering.stacking import block_diagonal, couple, join, join_evidence, part
from tectum.stats.gaussian import Evidence

DOUBLE = torch.float64
SMALL: dict[str, Any] = {"coupled": True, "chains": 2, "burn": 10, "draws": 8, "max_states": 2, "snapshots": 4,
                         "device": "cpu"}  # fmt: skip


def _hyper(n_units: int = 4) -> Hyper:
    return make_hyper(n_units, n_factors=1, n_states=2, n_slots=6, zeta=0.4, alpha=5.0, gamma=5.0, kappa=10.0,
                      r_shape=1.0, r_rate=1.0, poisson=False, like=torch.zeros((), dtype=DOUBLE))  # fmt: skip


def _quiet_fit(data: Any, *, checkpoint: Path | None = None, **params: Any) -> tectum.BiCluster:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not converged.*", category=TectumWarning)
        return tectum.BiCluster(**{**SMALL, **params}).fit(data, checkpoint=checkpoint)


def test_stacked_paths_have_the_dense_gaussian_law() -> None:
    """Two clusters of two components, six bins: mean and covariance of 20,000 draws against one matrix of 24 rows."""
    hyper, draw = couple(_hyper(), 4, 2), generator(3)
    a = 0.4 * torch.randn(1, 1, 2, 4, 5, generator=draw, dtype=DOUBLE)
    root = 0.5 * torch.randn(1, 1, 2, 4, 4, generator=draw, dtype=DOUBLE)
    noise = root @ root.mT + 0.2 * torch.eye(4, dtype=DOUBLE)
    starts = torch.tensor([True, False, False, True, False, False])
    states = torch.tensor([[0, 1, 1, 0, 0, 1]])
    factor = torch.randn(1, 2, 6, 2, 2, generator=draw, dtype=DOUBLE)
    each = Evidence(factor @ factor.mT, torch.randn(1, 2, 6, 2, generator=draw, dtype=DOUBLE))
    step, drift = torch.zeros(24, 24, dtype=DOUBLE), torch.zeros(24, dtype=DOUBLE)
    spread = torch.zeros(24, 24, dtype=DOUBLE)
    for t in range(6):
        here, s = slice(4 * t, 4 * t + 4), int(states[0, t])
        spread[here, here] = torch.eye(4, dtype=DOUBLE) if starts[t] else noise[0, 0, s]
        if not starts[t]:
            step[here, 4 * t - 4 : 4 * t], drift[here] = a[0, 0, s, :, :4], a[0, 0, s, :, 4]
    away = torch.eye(24, dtype=DOUBLE) - step  # (I - S) h = drift + noise
    prior = away.T @ torch.linalg.inv(spread) @ away
    linear = away.T @ torch.linalg.solve(spread, drift)
    for t in range(6):
        for k in range(2):
            here = slice(4 * t + 2 * k, 4 * t + 2 * k + 2)
            prior[here, here] += each.precision[0, k, t]
            linear[here] += each.information[0, k, t]
    covariance = torch.linalg.inv(prior)
    n = 20_000
    steps = look_up(make_tables(a, noise), torch.where(starts, 2, states))
    wide = Steps(*(x.expand(n, *x.shape[1:]) for x in steps))
    said = Evidence(*(x.expand(n, *x.shape[1:]) for x in join_evidence(each, hyper)))
    found = part(sample_path(wide, said, draw)[0], hyper)
    assert found.shape == (n, 2, 6, 2)
    flat = join(found, hyper).flatten(1)
    z = (flat.mean(0) - covariance @ linear) / (covariance.diagonal() / n).sqrt()
    assert float(z.abs().max()) < 4
    torch.testing.assert_close(flat.T.cov(), covariance, atol=0.05, rtol=0)


def test_block_diagonal_matrices_give_the_density_of_separate_clusters() -> None:
    hyper, draw = couple(_hyper(), 4, 3), generator(4)
    a = 0.4 * torch.randn(2, 3, 2, 2, 3, generator=draw, dtype=DOUBLE)
    root = torch.randn(2, 3, 2, 2, 2, generator=draw, dtype=DOUBLE)
    noise = root @ root.mT + 0.2 * torch.eye(2, dtype=DOUBLE)
    path = torch.randn(2, 3, 7, 2, generator=draw, dtype=DOUBLE)
    starts = torch.arange(7) % 4 == 0
    apart = step_log_prob(path, make_tables(a, noise), starts).sum(1)
    moved = a.movedim(1, 2)
    whole = torch.cat([block_diagonal(moved[..., :2]), moved[..., 2].flatten(-2).unsqueeze(-1)], -1).unsqueeze(1)
    tables = make_tables(whole, block_diagonal(noise.movedim(1, 2)).unsqueeze(1))
    torch.testing.assert_close(step_log_prob(join(path, hyper), tables, starts)[:, 0], apart)


def test_prior_of_the_stack_is_that_of_its_size() -> None:
    hyper = couple(_hyper(), 4, 3)
    assert hyper.n_slots == 3
    assert float(hyper.regression.dof) == 6 + 2
    torch.testing.assert_close(hyper.regression.scale, 0.01 * torch.eye(6, dtype=DOUBLE))
    torch.testing.assert_close(hyper.regression.mean, torch.eye(6, 7, dtype=DOUBLE))
    labels = torch.cartesian_prod(*[torch.arange(3)] * 4)
    sizes = cluster_sizes(labels, 3).to(DOUBLE)
    log_prob = hyper.log_blocks[(sizes > 0).sum(-1)] + torch.lgamma(sizes + 1).sum(-1)
    torch.testing.assert_close(log_prob.exp().sum(), torch.ones((), dtype=DOUBLE))  # of named clusters


def _two_chains(seed: int) -> tuple[State, Data, Hyper]:
    """Two chains of the block form on the same counts, in two and in three clusters."""
    hyper = _hyper(6)
    data = make_data(torch.zeros(6, 30, dtype=DOUBLE), torch.ones(6, 30, dtype=torch.bool),
                     starts=torch.arange(30) == 0)  # fmt: skip
    draw = generator(seed)
    state = sample_prior_state(2, data, hyper, draw)
    state = state._replace(labels=torch.tensor([[0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]]))
    return state, make_data(sample_counts(state, data, hyper, draw)[0].clamp(max=50), data.observed > 0,
                            starts=data.starts), hyper  # fmt: skip


def test_freezing_gives_all_chains_one_number_of_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    state, data, hyper = _two_chains(5)
    for best, labels in enumerate(state.labels):
        score = torch.eye(2, dtype=DOUBLE)[best]
        monkeypatch.setattr("tectum.models.biclustering.coupling.evidence_of_chains", lambda *_, s=score: s)
        frozen = freeze(state, data, hyper)
        k = int(labels.max()) + 1
        assert torch.equal(frozen.labels, labels.expand(2, -1))
        assert frozen.path.shape == (2, k, 30, 2)
        assert frozen.matrix.shape == (2, 1, 2, 2 * k, 2 * k + 1)
        torch.testing.assert_close(frozen.matrix[0, 0, 1, 2:4, 2:4], state.matrix[best, 1, 1, :, :2])
        assert not bool(frozen.matrix[:, 0, :, :2, 2 : 2 * k].any())
        assert bool(log_joint(frozen, data, couple(hyper, 6, k)).isfinite().all())


def test_freezing_names_clusters_after_the_best_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    state, data, hyper = _two_chains(6)
    state = state._replace(labels=torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]]))
    score = torch.tensor([1.0, 0.0], dtype=DOUBLE)
    monkeypatch.setattr("tectum.models.biclustering.coupling.evidence_of_chains", lambda *_: score)
    frozen = freeze(state, data, hyper)
    assert torch.equal(frozen.labels[1], state.labels[0])
    torch.testing.assert_close(frozen.path[1], state.path[1, [1, 0]])  # its own paths, under the other's names


def test_simulated_coupling_moves_the_second_group() -> None:
    truth = biclusters(2, 3, n_time=20_000, coupling=0.2, random_state=0).truth
    assert truth.transition.shape == (2, 2, 3, 2, 3)
    torch.testing.assert_close(truth.transition[1, 1, :, 0], 0.2 * torch.eye(3, dtype=DOUBLE))
    assert not bool(truth.transition[:, 0, :, 1].any())
    path = truth.path.movedim(0, 1).flatten(1)  # (time, 6)
    for state in range(2):
        now = (truth.states[1:] == state).nonzero().flatten()
        rows = torch.cat([path[now], torch.ones(len(now), 1, dtype=DOUBLE)], 1)
        fit = torch.linalg.lstsq(rows, path[now + 1]).solution[:6].T
        torch.testing.assert_close(fit, truth.transition[state].reshape(6, 6), atol=0.05, rtol=0)


@pytest.mark.parametrize("given", [{"design": "published"}, {"n_clusters": 1}])
def test_couplings_that_designs_do_not_have_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="biclusters: coupling"):
        biclusters(**{"units_per_cluster": 3, "n_time": 50, "coupling": 0.2, **given})


def test_a_coupled_run_resumes_on_both_sides_of_the_freeze(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = biclusters(2, 4, n_time=60, coupling=0.3, random_state=1).data
    whole = _quiet_fit(data).result_
    sweep, calls = run.sweep, []

    def dies(*args: Any) -> Any:
        calls.append(1)
        if len(calls) in (5, 12):
            raise KeyboardInterrupt
        return sweep(*args)

    monkeypatch.setattr(run, "sweep", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            _quiet_fit(data, save_every=2, checkpoint=tmp_path / "run")
    again = _quiet_fit(data, save_every=2, checkpoint=tmp_path / "run").result_
    assert torch.equal(whole.label_draws, again.label_draws)
    assert torch.equal(whole.coupling, again.coupling)


def test_a_coupled_fit_says_who_drives_whom() -> None:
    sim = biclusters(2, 4, n_time=60, coupling=0.3, random_state=1)
    model = _quiet_fit(sim.data, likelihood="poisson")
    result = model.result_
    k = result.path.shape[2]
    assert result.coupling.shape == (2, 4, 2, k, 3, k, 3)
    for j in range(k):  # the diagonal blocks are those of the separate fields
        assert torch.equal(result.coupling[:, :, :, j, :, j], result.transition[:, :, j])
        assert torch.equal(result.coupling_noise[:, :, :, j, :, j], result.noise[:, :, j])
    found = result.influence()
    n_states = len(result.occupancy())
    assert found.shape == (n_states, result.n_groups, result.n_groups)
    assert bool((found >= 0).all())
    ax = result.plot("influence")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("driving group", "driven group")
    with pytest.raises(InputError, match="state.*got 9"):
        result.plot("influence", state=9)
    assert model.transform(sim.data).sizes == {"time": 60, "unit": 8}
    assert np.isfinite(model.score(sim.data))
    assert model.sample(2).sizes == {"draw": 2, "time": 60, "unit": 8}
    apart = _quiet_fit(sim.data, coupled=False).result_
    assert "influence" not in apart.plots()
    with pytest.raises(InputError, match="influence.*coupled=True"):
        apart.influence()


def test_influence_is_that_of_its_definition() -> None:
    """Against loops over draws, bins and pairs, with labels and states renamed by hand."""
    result = _quiet_fit(biclusters(2, 4, n_time=60, coupling=0.3, random_state=2).data).result_
    draws = [(c, s) for c in ([0, 1] if result.agree else [result.best_chain]) for s in range(4)]
    total = torch.zeros(len(result.occupancy()), result.n_groups, result.n_groups, dtype=DOUBLE)
    seen = torch.zeros(len(result.occupancy()), 1, 1, dtype=DOUBLE)
    for c, s in draws:
        at = int(result.step_draw[s])
        slot = _names(result.clusters, result.label_draws[c, at].long(), result.path.shape[2])
        state = _names(result.states, result.state_draws[c, at].long(), 2)
        path = (result.path[c, s] - result.path[c, s].mean(1, keepdim=True)).double()
        for n in range(len(total)):
            bins = [t for t in range(1, 60) if int(result.state_draws[c, at, t]) == state[n]]
            seen[n] += bool(bins)
            for j in range(result.n_groups):
                noise = result.coupling_noise[c, s, state[n], slot[j], :, slot[j]].double().trace()
                for k in range(result.n_groups):
                    a = result.coupling[c, s, state[n], slot[j], :, slot[k]].double()
                    a = a - torch.eye(3, dtype=DOUBLE) * (j == k)
                    added = [(a @ path[slot[k], t - 1]).square().sum() for t in bins]
                    if added:
                        total[n, j, k] += (torch.stack(added).mean() / noise).sqrt()
    torch.testing.assert_close(result.influence().double(), total / seen.clamp(min=1), rtol=1e-4, atol=1e-5)


def _names(point: Tensor, raw: Tensor, n: int) -> list[int]:
    """Raw label of every point label, by the permutation of most overlap."""
    from itertools import permutations

    def together(names: tuple[int, ...]) -> int:
        return sum(int(((point == k) & (raw == name)).sum()) for k, name in enumerate(names))

    return list(max(permutations(range(n)), key=together))


@pytest.mark.slow
def test_a_planted_coupling_is_found_and_only_in_its_direction() -> None:
    """Over three recordings the driving group enters the driven one's steps far more than the reverse."""
    forward, backward = [], []
    for seed in range(3):
        sim = biclusters(2, 10, n_time=800, coupling=0.15, random_state=seed)
        result = _quiet_fit(sim.data, chains=1, burn=50, draws=50, snapshots=20, kappa=100.0).result_
        driver, driven = int(result.clusters[0]), int(result.clusters[-1])
        assert torch.equal(result.clusters == driver, sim.truth.clusters == 0)
        moving = int(result.states[sim.truth.states == 1].mode().values)
        found = result.influence()[moving]
        forward.append(float(found[driven, driver]))
        backward.append(float(found[driver, driven]))
    print("forward", forward, "backward", backward)
    assert sum(forward) > 1.5 * sum(backward), (forward, backward)
