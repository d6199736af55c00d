"""HMMGLM: every bad input is named (those the contract suite does not hold)."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

from support.switching import QUICK, N, T, rec, simulated
from tectum import HMMGLM, Intervals, Recording, Session, Spikes
from tectum.core.errors import ContractError, InputError, TectumWarning


@pytest.fixture(scope="module")
def sim() -> Any:
    return simulated()


@pytest.fixture(scope="module")
def fitted(sim: Any) -> HMMGLM:
    return HMMGLM(**QUICK).fit(sim.data)


@pytest.mark.parametrize(("counts", "says"), [
    ([[0.0, torch.inf]] * 30, "finite counts.*got inf at trial 0, bin 0, unit 1"),
    ([[0.0, torch.nan]] * 30, "got nan at trial 0, bin 0, unit 1; mark missing bins in the mask"),
    ([[0.0, -2.0]] * 30, "at least 0, got -2 at trial 0, bin 0, unit 1"),
    ([[0.0, 1.25]] * 30, "integer counts, got 1.25 at trial 0, bin 0, unit 1"),
    ([[0.0, 1.0]] * 5, r"time > 5 lags, unit >= 1\), got shape \(1, 5, 2\)"),
    ([[0.0, 0.0]] * 30, "expected spikes, got counts that are all zero"),
], ids=["infinite", "NaN", "negative", "fraction", "short", "silent"])  # fmt: skip
def test_bad_counts_are_named(counts: Any, says: str) -> None:
    with pytest.raises(InputError, match=f"HMMGLM.*{says}"):
        HMMGLM(n_states=1, device="cpu").fit(rec(torch.tensor(counts)))


def test_recordings_of_other_shapes_are_refused(sim: Any) -> None:
    with pytest.raises(InputError, match=r"same units.*shapes \(1, 400, 6\) and \(1, 400, 4\)"):
        HMMGLM(**QUICK).fit([sim.data[0], sim.data[1].isel(unit=slice(0, 4))])
    with pytest.raises(InputError, match=r"axes \('time', 'unit'\).*isel\(channel=0\)"):
        HMMGLM(**QUICK).fit(Recording(data=torch.zeros(3, 40, 2), dims=("channel", "time", "unit"), rate=50.0))
    with pytest.raises(InputError, match="HMMGLM.fit: expected at least one recording, got an empty list"):
        HMMGLM(**QUICK).fit([])
    with pytest.raises(InputError, match=r"trial >= 1.*got shape \(0, 40, 2\)"):
        HMMGLM(**QUICK).fit(Recording(data=torch.zeros(0, 40, 2), dims=("trial", "time", "unit"), rate=50.0))
    with pytest.raises(InputError, match="no bin|at least one bin|range"):
        HMMGLM(**QUICK, bin=50.0).fit(Spikes.from_trains([[0.1, 0.2], [0.3]], support=(0.0, 1.0)))


def test_silent_units_and_empty_sequences_are_told_and_kept(sim: Any) -> None:
    quiet = [r.with_(data=r.values * (torch.arange(N) != 4)) for r in sim.data]
    quiet[2] = quiet[2].with_(data=0 * quiet[2].values)
    with pytest.warns(TectumWarning) as seen:
        result = HMMGLM(**{**QUICK, "prior": "none"}).fit(quiet).result_
    said = " ".join(str(w.message) for w in seen)
    assert "no spike of u04; couplings from and to silent units mean nothing" in said
    assert "no spike at all in sequences [2]" in said
    assert result.coupling.isfinite().all()
    assert result.bias[:, 4].min() > math.log(9e-9)  # not on its way to minus infinity
    assert result.sizes["unit"] == N
    assert len(result.states) == 4


def test_sigmoid_is_refused_for_busy_bins(sim: Any) -> None:
    with pytest.raises(InputError, match=r"HMMGLM.link: expected mean counts below 0.9.*use link='softplus'"):
        HMMGLM(**QUICK).fit([r.with_(data=r.values + 1) for r in sim.data])
    bursts = [r.with_(data=torch.where(torch.arange(T)[:, None] % 20 == 0, 5, r.values // 2)) for r in sim.data]
    with pytest.warns(TectumWarning, match="above 3, and a sigmoid is at most 1"):
        HMMGLM(**{**QUICK, "prior": "none"}).fit(bursts)


def test_states_that_hardly_occur_are_told_and_kept() -> None:
    g = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.full((600, 5), 0.3), generator=g)
    counts[200:215] += 4
    with pytest.warns(TectumWarning, match=r"hardly occur .*state 1: 2.5% of the bins in 1 visits"):
        result = HMMGLM(n_states=2, n_lags=0, prior="none", starts=6, device="cpu").fit(rec(counts)).result_
    assert result.n_states == 2


def test_sessions_that_are_not_aligned_are_refused() -> None:
    counts = rec(torch.ones(40, 2))
    fine = Recording(data=torch.ones(40, 1), dims=("time", "feature"), rate=50.0)
    model = HMMGLM(n_states=1, covariates=("speed",), device="cpu")

    def session(**changes: Any) -> Session:
        return Session(items_={"spikes": counts, "speed": dataclasses.replace(fine, **changes)})

    cases = {
        "50 Hz from 0 s.*got .*25.0 Hz": {"rate": 25.0},
        "50 Hz from 0 s.*from 0.5 s.*resample the covariate": {"t0": 0.5},
        r"finite covariates of \(1, 40\) bins, got shape \(1, 39, 1\)": {"data": torch.ones(39, 1)},
        "finite covariates.*NaN": {"data": torch.full((40, 1), torch.nan)},
    }
    for says, changes in cases.items():
        with pytest.raises(InputError, match=says):
            model.fit(session(**changes))
    with pytest.raises(InputError, match=r"covariates \['speed'\], got a session with \['spikes'\]"):
        model.fit(Session(items_={"spikes": counts}))
    with pytest.raises(InputError, match="covariates that are recordings"):
        model.fit(Session(items_={"spikes": counts, "speed": Intervals.from_pairs([(0, 1)])}))
    with pytest.raises(InputError, match="one Spikes or one Recording of counts, got 2"):
        HMMGLM(n_states=1, device="cpu").fit(Session(items_={"a": counts, "b": counts}))
    fitted = model.fit(session())
    fitted.covariates = ()
    with pytest.raises(ContractError, match=r"covariates \['covariate 0'\] instead of \[\]|covariates \[\] instead of"):
        fitted.predict(counts)


@pytest.mark.parametrize(("settings", "says"), [
    ({"n_states": 0}, "n_states"),
    ({"n_states": 161}, "n_states: expected at most a tenth"),
    ({"kernel": (1.0, 2.0)}, "kernel: expected finite weights, one for each lag"),
    ({"kernel": (1.0, 2.0, 3.0, 4.0, torch.nan)}, "kernel"),
    ({"temperatures": (-1.0, 0.3)}, "temperatures: expected two positive numbers"),
    ({"sigma_w": 0.0}, "sigma_w"),
    ({"ridge": -1.0}, "ridge"),
    ({"neuron_mask": [[True] * 3] * 3}, r"neuron_mask: expected bool of shape \(6, 6\), got torch.bool \(3, 3\)"),
    ({"neuron_mask": [[1.0] * 6] * 6}, "neuron_mask: expected bool"),
    ({"neuron_mask": "all"}, "neuron_mask: expected bool"),
    ({"n_filters": 2}, "n_filters: expected 1 with the exponential basis.*raised_cosine"),
    ({"basis": "raised_cosine", "n_filters": 6}, "n_filters: expected at most n_lags"),
    ({"candidates": "123", "n_states": None}, "candidates"),
    ({"covariates": "speed"}, "covariates: expected a sequence of names"),
])  # fmt: skip
def test_bad_settings_are_named(sim: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=f"HMMGLM.{says}"):
        HMMGLM(**{**QUICK, **settings}).fit(sim.data)


def test_new_data_must_be_like_those_of_the_fit(sim: Any, fitted: HMMGLM) -> None:
    one = sim.data[0]
    for verb in (fitted.predict, fitted.predict_proba, fitted.log_prob, fitted.score):
        with pytest.raises(ContractError, match="5 units instead of 6"):
            verb(one.isel(unit=slice(0, 5)))
        with pytest.raises(ContractError, match=r"bins of 0.1 s instead of 0.02.*spikes.bin\(0.02\)"):
            verb(one.with_(rate=10.0))
        with pytest.raises(ContractError, match="other units or order.*rec.sel"):
            verb(one.isel(unit=[1, 0, 2, 3, 4, 5]))
