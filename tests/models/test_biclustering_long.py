"""BiCluster on long recordings and on matrices that fail: excerpts for the search, the gap of the bound, messages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tectum
from tectum.core.errors import InputError, NotDefiniteError
from tectum.core.random import generator
from tectum.datasets.simulate.biclusters import biclusters
from tectum.models.biclustering import run
from tectum.models.biclustering.evidence import GAP, gap
from tectum.models.biclustering.initial import excerpt, initial_state
from tectum.models.biclustering.model import Data, State, make_data, make_hyper
from tectum.stats.clustering import adjusted_rand

DOUBLE = torch.float64


def _data(n_time: int, n_units: int = 3) -> Data:
    draw = generator(0)
    counts = torch.randint(5, (n_units, n_time), generator=draw).to(DOUBLE)
    observed = torch.rand(n_units, n_time, generator=draw) < 0.9
    starts = torch.zeros(n_time, dtype=torch.bool)
    starts[[0, 7, 51]] = True
    names = torch.arange(n_time, dtype=DOUBLE)
    return make_data(counts, observed, starts=starts, offset=names[None], covariates=names[:, None])


def test_an_excerpt_holds_whole_stretches_of_everything() -> None:
    data = _data(103)
    found = excerpt(data, 40, 4)
    bins = found.covariates[:, 0].long()
    assert bins.tolist() == [*range(10), *range(31, 41), *range(62, 72), *range(93, 103)]
    torch.testing.assert_close(found.counts, data.counts[:, bins])
    torch.testing.assert_close(found.observed, data.observed[:, bins])
    torch.testing.assert_close(found.offset, data.offset[:, bins])
    assert found.starts.nonzero().flatten().tolist() == [0, 7, 10, 20, 30]
    assert found.n_starts == 5
    assert found.histogram is not None
    torch.testing.assert_close(found.histogram.sum(-1), found.observed.sum(-1))


def test_a_short_recording_is_searched_whole() -> None:
    data = _data(60)
    assert excerpt(data, 60, 4) is data


def test_the_gap_of_the_bound_shrinks_with_length() -> None:
    assert gap(100) == gap(600) == GAP
    assert 0.5 < gap(2000) < 0.9  # what annealed importance sampling found there
    assert gap(10_000) < gap(2000)


@pytest.mark.slow
def test_groups_of_a_long_recording_are_found_at_the_start() -> None:
    """Large groups in many bins were parted: what the bound misses does not grow with both."""
    sim = biclusters(2, 24, n_time=2600, design="published", random_state=100)
    y = sim.data.values.T.to(DOUBLE)
    keep = y.sum(-1) > 0
    y, truth = y[keep], sim.truth.clusters[keep]
    data = make_data(y, torch.ones_like(y, dtype=torch.bool), starts=torch.arange(2600) == 0)
    hyper = make_hyper(
        len(y), n_factors=2, n_states=4, n_slots=12, zeta=0.2, alpha=5.0, gamma=5.0, kappa=10.0, r_shape=1.0,
        r_rate=1.0, poisson=False, like=y,
    )  # fmt: skip
    with torch.no_grad():
        state = initial_state(1, data, hyper, generator(0))
    assert state.path.shape[2] == 2600
    assert float(adjusted_rand(state.labels[0], truth)) == 1.0


# Matrices that are not positive definite


def _tiny(**params: Any) -> tectum.BiCluster:
    return tectum.BiCluster(chains=2, burn=4, draws=4, max_states=2, snapshots=2, device="cpu", **params)


def _counts() -> tectum.Recording:
    y = torch.poisson(torch.full((40, 6), 2.0), generator=torch.Generator().manual_seed(0)).int()
    return tectum.Recording(data=y, dims=("time", "unit"), rate=2.0, units="spikes/bin")


def _spoil(monkeypatch: pytest.MonkeyPatch, at: int, change: Any) -> None:
    usual, seen = run.sweep, [0]

    def sweep(state: State, *rest: Any) -> State:
        seen[0] += 1
        return usual(change(state) if seen[0] == at + 1 else state, *rest)

    monkeypatch.setattr(run, "sweep", sweep)


def test_a_path_without_a_law_names_sweep_chain_and_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(state: State) -> State:
        beta = state.beta.clone()
        beta[1, :, 1:] = 1e200  # the precision of the paths of this chain overflows
        return state._replace(beta=beta)

    _spoil(monkeypatch, 2, change)
    with pytest.raises(NotDefiniteError, match=r"BiCluster \(sweep 2; chain 1, cluster 0.*\): expected positive"):
        _tiny().fit(_counts())
    assert issubclass(NotDefiniteError, RuntimeError)


def test_noise_without_a_root_names_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(state: State) -> State:
        noise: Tensor = state.noise.clone()
        noise[0, 0, 0] = -noise[0, 0, 0]
        return state._replace(noise=noise)

    _spoil(monkeypatch, 1, change)
    with pytest.raises(NotDefiniteError, match=r"BiCluster \(sweep 1\): expected positive definite matrices, got"):
        _tiny().fit(_counts())


# Masks


@pytest.mark.parametrize(
    ("mask", "got"),
    [(torch.ones(39, 6, dtype=torch.bool), r"\(39, 6\)"), (torch.ones(40, 6), r"torch\.float32")],
)
def test_bad_masks_are_refused(mask: Tensor, got: str) -> None:
    with pytest.raises(InputError, match=rf"Recording\.mask.*{got}"):
        _tiny().fit(_counts().with_(mask=mask))


def test_one_state_is_no_segmentation() -> None:
    with pytest.raises(InputError, match=r"BiCluster.*max_states"):
        tectum.BiCluster(max_states=1).fit(_counts())


def test_reversed_epochs_are_refused() -> None:
    with pytest.raises(InputError, match=r"stop.*start|start.*stop"):
        tectum.Intervals.from_pairs([(8.0, 0.0)])
