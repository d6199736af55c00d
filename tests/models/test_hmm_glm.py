"""HMMGLM: forms of data, verbs, settings, restarts, checkpoints, number of states, figures, and every bad input."""

from __future__ import annotations

import dataclasses
import math
import warnings
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from scipy.stats import nbinom, poisson

import tectum
from tectum import HMMGLM, HMMGLMResult, Intervals, Recording, Session, Spikes
from tectum.core.errors import ContractError, InputError, NonFiniteError, TectumWarning
from tectum.datasets import simulate
from tectum.evaluate import matched_accuracy
from tectum.models.hmm_glm import fitting, glm, select, stages
from tectum.models.hmm_glm.basis import design_tensor, exponential_filter, tied_columns
from tectum.models.hmm_glm.result import visits_of
from tectum.stats import hmm

N, T = 6, 400
QUICK: dict[str, Any] = {"n_states": 2, "starts": 3, "device": "cpu", "link": "sigmoid", "one_hot_rounds": 6}


@pytest.fixture(scope="module")
def sim() -> Any:
    return simulate.switching_glm(n_units=N, n_states=2, n_sequences=4, n_time=T, random_state=3)


@pytest.fixture(scope="module")
def fitted(sim: Any) -> HMMGLM:
    return HMMGLM(**QUICK).fit(sim.data)


def rec(counts: Any, **options: Any) -> Recording:
    return Recording(data=torch.as_tensor(counts), dims=("time", "unit"), rate=50.0, units="spikes/bin", **options)


def two_rates(n_sequences: int = 3, n_time: int = 300, seed: int = 0) -> tuple[list[Recording], torch.Tensor]:
    """Counts whose mean switches every 20 bins, and the switch."""
    g = torch.Generator().manual_seed(seed)
    state = torch.arange(n_time) // 20 % 2
    rates = torch.tensor([[0.1, 0.1, 1.2, 1.2], [1.2, 1.2, 0.1, 0.1]])[state]
    return [rec(torch.poisson(rates, generator=g).int()) for _ in range(n_sequences)], state.expand(n_sequences, -1)


# ---- the learner's journey ------------------------------------------------------------------------


@pytest.mark.slow
def test_journey_of_the_tutorial() -> None:
    sim = tectum.datasets.simulate.switching_glm(n_units=20, n_states=3, random_state=0)
    glm = tectum.HMMGLM(n_states=3).fit(sim.data)
    assert tectum.evaluate.matched_accuracy(glm.result_.states, sim.truth.states) > 0.97
    assert glm.result_.plot("states", truth=sim.truth.states).has_data()
    assert glm.result_.provenance is not None
    assert glm.result_.provenance.converged


# ---- forms of data --------------------------------------------------------------------------------


def test_trials_equal_a_list_of_recordings(sim: Any, fitted: HMMGLM) -> None:
    stacked = Recording(data=torch.stack([r.values for r in sim.data]), dims=("trial", "time", "unit"), rate=50.0,
                        units="spikes/bin")  # fmt: skip
    model = HMMGLM(**QUICK).fit(stacked)
    torch.testing.assert_close(model.result_.coupling, fitted.result_.coupling)
    found = model.predict(stacked)
    assert isinstance(found, Recording)
    assert found.dims == ("trial", "time")
    assert torch.equal(found.values, torch.stack([r.values for r in fitted.predict(sim.data)]))
    assert model.predict_proba(stacked).dims == ("trial", "time", "state")
    assert list(model.result_.coords["session"]["name"][:2]) == ["recording 0, trial 0", "recording 0, trial 1"]


def test_spikes_are_binned_and_give_the_counts_back(sim: Any) -> None:
    trains = []
    for r in sim.data:
        bins, unit = r.values.nonzero().T
        copies = r.values[bins, unit].long()
        times = (bins.repeat_interleave(copies) + 0.5) * 0.02
        trains.append(Spikes.from_events(times, unit.repeat_interleave(copies), n_units=N, support=(0.0, T * 0.02)))
    one, other = HMMGLM(**QUICK, prior="none").fit(trains), HMMGLM(**QUICK, prior="none").fit(sim.data)
    torch.testing.assert_close(one.result_.coupling, other.result_.coupling)
    assert one.result_.dt == pytest.approx(0.02)
    assert one.score(trains) == pytest.approx(other.score(sim.data))


def test_padding_of_short_sequences_changes_nothing(sim: Any) -> None:
    """A short sequence beside long ones scores as it does alone."""
    data = [sim.data[0].isel(time=slice(0, 150)), *sim.data[1:]]
    model = HMMGLM(**QUICK, prior="none").fit(data)
    torch.testing.assert_close(model.log_prob(data[0])[0], model.log_prob(data)[0])
    result = model.result_
    assert (result.states[0, 150:] == -1).all()
    assert not result.probability[0, 150:].any()
    assert (result.states[0, :150] >= 0).all()
    assert [p.sizes["time"] for p in model.predict(data)] == [150, T, T, T]
    assert float(result.occupancy.sum()) == pytest.approx(1.0)
    bins = torch.cat([r.values for r in data]).double()
    torch.testing.assert_close(result.rate.double(), bins.mean(0), rtol=1e-5, atol=0)


def test_masked_counts_do_not_matter(sim: Any) -> None:
    mask = torch.ones(T, N, dtype=torch.bool)
    mask[100:150] = False
    mask[:, 2] = torch.arange(T) % 3 > 0
    clean = [r.with_(mask=mask, data=r.values.float()) for r in sim.data]
    dirty = [r.with_(data=torch.where(mask, r.values, torch.nan)) for r in clean]
    one, other = (HMMGLM(**QUICK).fit(data) for data in (clean, dirty))
    torch.testing.assert_close(one.result_.coupling, other.result_.coupling)
    assert one.score(clean) == other.score(dirty)
    seen = torch.cat([torch.where(mask, r.values, torch.nan) for r in clean])
    torch.testing.assert_close(one.result_.rate, seen.nanmean(0))


def test_covariates_of_a_session_are_found() -> None:
    g = torch.Generator().manual_seed(0)
    drive = torch.sin(torch.arange(2000) / 15.0)
    rates = torch.nn.functional.softplus(torch.tensor([-1.0, 0.0]) + drive[:, None] * torch.tensor([1.5, -1.0]))
    counts = rec(torch.poisson(rates, generator=g))
    stimulus = Recording(data=drive[:, None], dims=("time", "feature"), rate=50.0,
                         coords={"feature": {"name": ["contrast"]}})  # fmt: skip
    data = Session(items_={"spikes": counts, "stimulus": stimulus}, subject="m1")
    model = HMMGLM(n_states=1, prior="none", covariates=("stimulus",), starts=1, device="cpu").fit(data)
    torch.testing.assert_close(model.result_.covariate_weight[0, :, 0], torch.tensor([1.5, -1.0]), atol=0.2, rtol=0)
    assert model.result_.covariates == ("contrast",)
    assert model.score(data) > HMMGLM(n_states=1, prior="none", starts=1, device="cpu").fit(counts).score(counts)
    with pytest.raises(InputError, match="without covariates, got covariates"):
        model.sample(10)


# ---- verbs ----------------------------------------------------------------------------------------


def test_one_state_scores_equal_scipy(sim: Any) -> None:
    model = HMMGLM(**{**QUICK, "n_states": 1, "link": "softplus", "prior": "none"}).fit(sim.data)
    result, total = model.result_, 0.0
    for r, found in zip(sim.data, model.log_prob(sim.data), strict=True):
        history = design_tensor(r.values.double(), exponential_filter(5))
        rate = torch.nn.functional.softplus(history @ result.weights[0].double().T)
        wanted = poisson.logpmf(r.values.numpy(), rate.numpy()).sum()
        assert float(found) == pytest.approx(wanted, rel=1e-5)
        total += wanted - poisson.logpmf(r.values.numpy(), result.rate.numpy()).sum()
    spikes = sum(int(r.values.sum()) for r in sim.data)
    assert model.score(sim.data) == pytest.approx(total / spikes / math.log(2), rel=1e-3)
    assert result.bits_per_spike == pytest.approx(model.score(sim.data), rel=1e-5)


def test_constant_rates_score_zero_bits(sim: Any) -> None:
    model = HMMGLM(n_states=1, n_lags=0, prior="none", starts=1, device="cpu").fit(sim.data)
    assert model.score(sim.data) == pytest.approx(0.0, abs=1e-5)
    torch.testing.assert_close(
        torch.nn.functional.softplus(model.result_.bias[0]), model.result_.rate, rtol=1e-3, atol=0
    )


def test_filtered_probabilities_are_causal_and_all_sum_to_one(sim: Any, fitted: HMMGLM) -> None:
    one = sim.data[0]
    changed = one.values.clone()
    changed[200:] = 1 - changed[200:].clamp(max=1)
    other = one.with_(data=changed)
    for kind, until in (("filtered", 200), ("predicted", 201)):
        a, b = (fitted.predict_proba(x, kind=kind).values for x in (one, other))
        assert torch.equal(a[:until], b[:until])
        assert not torch.equal(a[until:], b[until:])
        torch.testing.assert_close(a.sum(-1), torch.ones(T))
    smoothed = fitted.predict_proba(one).values
    torch.testing.assert_close(smoothed, fitted.result_.probability[0])
    assert not torch.equal(smoothed[:200], fitted.predict_proba(other).values[:200])
    with pytest.raises(InputError, match=r"predict_proba\(kind\): expected one of .*got 'viterbi'"):
        fitted.predict_proba(one, kind="viterbi")


def test_predictions_on_training_data_are_those_of_the_result(sim: Any, fitted: HMMGLM) -> None:
    result = fitted.result_
    assert torch.equal(torch.stack([r.values for r in fitted.predict(sim.data)]), result.states)
    torch.testing.assert_close(fitted.log_prob(sim.data), result.log_likelihood)
    assert fitted.score(sim.data) == pytest.approx(result.bits_per_spike, rel=1e-5)
    assert matched_accuracy(result.states, sim.truth.states) > 0.8


def test_samples_look_like_the_model(fitted: HMMGLM) -> None:
    drawn = fitted.sample(2000, n_sequences=5, random_state=1)
    assert drawn.counts.dims == ("trial", "time", "unit")
    assert drawn.counts.values.dtype == torch.int32
    again = fitted.sample(2000, n_sequences=5, random_state=1)
    assert torch.equal(drawn.counts.values, again.counts.values)
    assert not torch.equal(drawn.counts.values, fitted.sample(2000, n_sequences=5, random_state=2).counts.values)
    states = drawn.states.values
    moves = torch.stack([(states[:, 1:] == j)[states[:, :-1] == i].double().mean() for i in range(2) for j in range(2)])
    torch.testing.assert_close(moves.reshape(2, 2), fitted.result_.transition.double(), atol=0.02, rtol=0)
    torch.testing.assert_close(
        drawn.counts.values.double().mean((0, 1)), fitted.result_.rate.double(), atol=0.06, rtol=0
    )
    assert matched_accuracy(fitted.predict(drawn.counts).values, states) > 0.8
    assert fitted.sample(7).counts.dims == ("time", "unit")
    for bad in (0, 1.5, True):
        with pytest.raises(InputError, match=r"sample\(n_time\): expected an integer >= 1"):
            fitted.sample(bad)


def test_negative_binomial_samples_have_their_variance() -> None:
    g = np.random.default_rng(0)
    size, mean = np.array([1.0, 4.0]), np.array([2.0, 3.0])
    counts = nbinom.rvs(size, size / (size + mean), size=(4000, 2), random_state=g)
    model = HMMGLM(n_states=1, n_lags=0, likelihood="nb", starts=1, device="cpu", tol=1e-8).fit(rec(counts))
    assert model.result_.size is not None
    torch.testing.assert_close(model.result_.size.double(), torch.from_numpy(size), rtol=0.12, atol=0)
    drawn = model.sample(20_000).counts.values.double()
    torch.testing.assert_close(drawn.mean(0), torch.from_numpy(mean), rtol=0.05, atol=0)
    torch.testing.assert_close(drawn.var(0), torch.from_numpy(mean + mean**2 / size), rtol=0.1, atol=0)
    plain = HMMGLM(n_states=1, n_lags=0, starts=1, device="cpu").fit(rec(counts))
    assert model.score(rec(counts)) > plain.score(rec(counts)) + 0.02


# ---- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["none", "gaussian", "one_hot"])
def test_forbidden_couplings_stay_zero(sim: Any, prior: str) -> None:
    allowed = torch.ones(N, N, dtype=torch.bool)
    allowed[0, 3] = allowed[4, 1] = False
    result = HMMGLM(**QUICK, prior=prior, neuron_mask=allowed.tolist(), self_history="zero").fit(sim.data).result_
    free = allowed & ~torch.eye(N, dtype=torch.bool)
    assert not result.network[:, ~free].any()
    assert result.network[:, free].abs().min() > 0
    if prior == "one_hot":
        assert not result.adjacency[:, ~free].any()
        assert not result.hard_coupling[:, ~free].any()


@pytest.mark.parametrize("prior", ["none", "gaussian", "one_hot"])
def test_shared_bias_is_shared(sim: Any, prior: str) -> None:
    bias = HMMGLM(**QUICK, prior=prior, shared_bias=True).fit(sim.data).result_.bias
    torch.testing.assert_close(bias[0], bias[1])


def test_kernel_and_bases_are_the_filters(sim: Any) -> None:
    made = {
        "given": HMMGLM(**QUICK, prior="none", n_lags=2, kernel=(0.7, 0.3)),
        "cosines": HMMGLM(**QUICK, prior="none", n_lags=8, basis="raised_cosine", n_filters=3),
        "default": HMMGLM(**QUICK, prior="none"),
    }
    results = {name: model.fit(sim.data).result_ for name, model in made.items()}
    torch.testing.assert_close(results["given"].filters, torch.tensor([[0.7], [0.3]]))
    assert results["cosines"].filters.shape == (8, 3)
    assert results["cosines"].coupling.shape == (2, N, N, 3)
    torch.testing.assert_close(results["default"].filters, exponential_filter(5).float())
    effect = results["cosines"].filter_of(1, 2, 3)
    torch.testing.assert_close(effect, results["cosines"].filters @ results["cosines"].coupling[1, 2, 3])


def test_no_lags_is_a_poisson_hidden_markov_model() -> None:
    data, state = two_rates()
    model = HMMGLM(n_states=2, n_lags=0, prior="none", starts=3, device="cpu", tol=1e-9).fit(data)
    assert matched_accuracy(model.result_.states, state) > 0.97
    spikes = torch.stack([r.values for r in data]).double()
    rates, moves = torch.nn.functional.softplus(model.result_.bias.double()), model.result_.transition.double().log()
    uniform = torch.full((2,), 0.5, dtype=torch.float64).log()
    for _ in range(60):
        rates, moves, _, _ = glm.poisson_em_step(rates, moves, uniform, spikes)
    found = torch.nn.functional.softplus(model.result_.bias.double())
    torch.testing.assert_close(found, rates, rtol=2e-3, atol=1e-3)


def test_learnt_first_state_is_where_sequences_start() -> None:
    data, _ = two_rates(n_sequences=8)
    result = HMMGLM(n_states=2, n_lags=0, prior="none", starts=3, learn_initial=True, device="cpu").fit(data).result_
    first = int(result.states[0, 0])
    assert result.initial[first] == pytest.approx(9 / 10, abs=0.02)
    fixed = HMMGLM(n_states=2, n_lags=0, prior="none", starts=3, device="cpu").fit(data).result_
    assert fixed.initial.tolist() == [0.5, 0.5]


def test_stickiness_lengthens_visits() -> None:
    data, _ = two_rates(n_sequences=1)
    loose, sticky = (HMMGLM(n_states=2, n_lags=0, prior="none", starts=3, device="cpu", stickiness=s).fit(data).result_
                     for s in (0.0, 200.0))  # fmt: skip
    assert (sticky.transition.diagonal() > loose.transition.diagonal()).all()


def test_one_hot_fields_agree_with_each_other(fitted: HMMGLM) -> None:
    result = fitted.result_
    torch.testing.assert_close(result.type_probability.sum(-1), torch.ones(2, N, N))
    assert torch.equal(result.adjacency.unsqueeze(-1) * result.hard_coupling.abs(), result.hard_coupling)
    sign = result.type_probability[..., 2] - result.type_probability[..., 0]
    torch.testing.assert_close(sign.unsqueeze(-1) * result.strength, result.coupling)


def test_states_are_sorted_and_can_be_renamed(sim: Any, fitted: HMMGLM) -> None:
    result = fitted.result_
    assert (result.occupancy.diff() <= 0).all()
    swapped = result.reordered(torch.tensor([1, 0]))
    assert torch.equal(swapped.states, 1 - result.states)
    assert torch.equal(swapped.transition, result.transition.flip(0, 1))
    for reference in (result, result.states):
        back = swapped.match_states(reference)
        assert torch.equal(back.states, result.states)
        assert torch.equal(back.coupling, result.coupling)
    named = result.match_states(sim.truth.states)
    assert (named.states == sim.truth.states).double().mean() == pytest.approx(
        matched_accuracy(result.states, sim.truth.states)
    )
    with pytest.raises(InputError, match="match_states: expected states below 2"):
        result.match_states(result.states + 1)
    with pytest.raises(InputError, match="same states and units"):
        result.match_states(HMMGLM(**{**QUICK, "n_states": 1}).fit(sim.data).result_)


def test_visits_are_counted_within_sequences() -> None:
    mean, number = visits_of(torch.tensor([[0, 0, 1, -1], [0, 1, 1, 1]]), n_states=3)
    assert mean.tolist() == [1.5, 2.0, 0.0]
    assert number.tolist() == [2, 2, 0]


# ---- restarts, EM, checkpoints --------------------------------------------------------------------


def problem_of(sim: Any) -> fitting.Problem:
    spikes = torch.stack([r.values for r in sim.data]).double()
    return fitting.Problem(design_tensor(spikes, exponential_filter(5)), spikes, None, None)


FAMILY = fitting.Family("sigmoid", N, None, False, False, 0.0, False)


@pytest.mark.parametrize("family", [
    FAMILY, FAMILY._replace(tied=tied_columns(N, 1, bias=True, own=True)), FAMILY._replace(negative_binomial=True),
    FAMILY._replace(learn_initial=True, stickiness=3.0),
], ids=["plain", "tied", "negative binomial", "initial"])  # fmt: skip
@pytest.mark.parametrize("ridge", [fitting.Ridge(0.1), fitting.Ridge(9.0, 9.0)], ids=["none", "gaussian"])
def test_restarts_side_by_side_equal_restarts_alone_and_never_go_downhill(
    sim: Any, family: fitting.Family, ridge: fitting.Ridge
) -> None:
    problem = problem_of(sim)
    together = fitting.draw_starts(problem, family, n_states=2, n_starts=3, seed=0)
    alone = [fitting.best_starts(together._replace(objective=-(torch.arange(3.0) - r).abs()), 1) for r in range(3)]
    traces = []
    for _ in range(5):
        together, objective = fitting.em_round(problem, together, family, ridge, tol=1e-5)
        alone = [fitting.em_round(problem, a, family, ridge, tol=1e-5)[0] for a in alone]
        traces.append(objective)
    change = torch.stack(traces).diff(dim=0)
    assert (change[1:] > -1e-7).all() if family.learn_initial else (change > -1e-7).all()
    for r, one in enumerate(alone):
        torch.testing.assert_close(one.weights[0], together.weights[r])
        torch.testing.assert_close(one.log_transition[0], together.log_transition[r])
        torch.testing.assert_close(one.objective[0], together.objective[r])


def test_a_start_that_fails_is_dropped_and_told(sim: Any) -> None:
    problem = problem_of(sim)
    starts = fitting.draw_starts(problem, FAMILY, n_states=2, n_starts=3, seed=0)
    starts.weights[1] = torch.nan
    options: dict[str, Any] = {"max_iter": 4, "tol": 1e-5, "checkpoint": None, "description": "searching"}
    with pytest.warns(TectumWarning, match="not finite; dropped start 1 in round 1"):
        found, _ = fitting.run_em(problem, starts, FAMILY, fitting.Ridge(1.0), **options)
    assert found.weights[[0, 2]].isfinite().all()
    assert found.objective[1] == fitting.LOWEST
    assert fitting.best_starts(found, 2).weights.isfinite().all()
    with pytest.raises(NonFiniteError, match=r"HMMGLM \(searching\).*start 0 in round 1, start 1 in round 1"):
        fitting.run_em(
            problem, starts._replace(weights=starts.weights * torch.nan), FAMILY, fitting.Ridge(1.0), **options
        )


def test_search_looks_at_a_part_of_much_data(sim: Any) -> None:
    problem = problem_of(sim)
    part = fitting.part_of(problem, seed=0, most=2 * T)
    assert part.spikes.shape == (2, T, N)
    for row in part.spikes:
        assert any(torch.equal(row, whole) for whole in problem.spikes)
    single = fitting.Problem(problem.design[:1], problem.spikes[:1], None, torch.tensor([T]))
    cut = fitting.part_of(single, seed=0, most=100)
    assert cut.spikes.shape == (1, 100, N)
    assert cut.lengths is not None
    assert cut.lengths.tolist() == [100]
    assert fitting.part_of(problem, seed=0, most=10**6) is problem


@pytest.mark.parametrize("prior", ["one_hot", "gaussian"])
def test_killed_run_resumes_to_the_same_result(
    sim: Any, prior: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**QUICK, "prior": prior, "one_hot_rounds": 12, "tol": 1e-9, "max_iter": 30}
    wanted = HMMGLM(**settings).fit(sim.data).result_
    for name, after in (("em_round", 7), ("em_round", 9), ("one_hot_em_step", 8)):
        with monkeypatch.context() as patch:
            room = fitting if name == "em_round" else stages
            calls, step = 0, getattr(room, name)

            def killed(*args: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > after:  # noqa: B023
                    raise KeyboardInterrupt
                return step(*args, **options)  # noqa: B023

            patch.setattr(room, name, killed)
            if name == "one_hot_em_step" and prior != "one_hot":
                continue
            with pytest.raises(KeyboardInterrupt):
                HMMGLM(**settings).fit(sim.data, checkpoint=tmp_path / "run")
    found = HMMGLM(**settings).fit(sim.data, checkpoint=tmp_path / "run").result_
    assert torch.equal(found.coupling, wanted.coupling)
    assert torch.equal(found.states, wanted.states)
    assert torch.equal(found.history, wanted.history)


def test_resume_file_of_another_configuration_is_refused(sim: Any, tmp_path: Path) -> None:
    HMMGLM(**QUICK).fit(sim.data, checkpoint=tmp_path / "run")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert sorted(before) == ["run-one-hot.safetensors", "run-refine.safetensors", "run-search.safetensors"]
    others: list[tuple[dict[str, Any], Any]] = [
        ({"stickiness": 1.0}, sim.data),
        ({}, sim.data[:3]),
        ({"random_state": 1}, sim.data),
    ]
    for change, data in others:
        with pytest.raises(InputError, match="same configuration and data"):
            HMMGLM(**{**QUICK, **change}).fit(data, checkpoint=tmp_path / "run")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_fit_continues_from_a_result(sim: Any, fitted: HMMGLM) -> None:
    settings = {**QUICK, "prior": "gaussian"}
    first = HMMGLM(**settings).fit(sim.data).result_
    again = HMMGLM(**settings).fit(sim.data, init=first).result_
    assert again.history[0] >= first.history[-1] - 20  # the shared mean starts anew
    torch.testing.assert_close(again.coupling, first.coupling, atol=0.05, rtol=0)
    assert matched_accuracy(again.states, first.states) > 0.99
    with pytest.raises(InputError, match=r"fit\(init\): expected 3 states"):
        HMMGLM(**{**QUICK, "n_states": 3}).fit(sim.data, init=fitted.result_)


# ---- number of states -----------------------------------------------------------------------------


def test_number_of_states_is_found_by_held_out_sequences() -> None:
    data, _ = two_rates(n_sequences=6)
    result = (
        HMMGLM(n_states=None, candidates=(1, 2, 3), folds=3, n_lags=0, starts=3, prior="none", device="cpu")
        .fit(data)
        .result_
    )
    assert result.n_states == 2
    assert result.state_grid.tolist() == [1, 2, 3]
    assert result.state_held_out[1] > result.state_held_out[0] + 0.1


@pytest.mark.parametrize("seed", range(5))
def test_number_of_states_of_one_state_is_one(seed: int) -> None:
    sim = simulate.switching_glm(N, 1, n_sequences=6, n_time=300, random_state=seed)  # coupled units, no switches
    model = HMMGLM(n_states=None, candidates=(1, 2, 3), folds=3, starts=2, prior="none", link="sigmoid", device="cpu")
    result = model.fit(sim.data).result_
    assert result.n_states == 1
    assert result.state_held_out.argmax() == 0  # not only within an error of the best


def test_a_single_sequence_is_cut_into_blocks_with_a_gap() -> None:
    spikes = torch.arange(40.0).reshape(1, 20, 2)
    parts = select._sequences(fitting.Problem(spikes, spikes, None, None), 3, 2)
    assert parts.spikes.shape == (3, 4, 2)
    assert parts.spikes[:, 0, 0].tolist() == [4.0, 16.0, 28.0]
    data, _ = two_rates(n_sequences=1, n_time=1200)
    result = HMMGLM(n_states=None, candidates=(1, 2), n_lags=0, starts=3, prior="none", device="cpu").fit(data).result_
    assert result.n_states == 2


def test_smallest_number_within_one_paired_error_is_chosen() -> None:
    common = torch.tensor([0.0, 10.0, -10.0, 5.0])  # between sequences, the same for every number of states
    gains = torch.tensor([[-1.0, -1.1, -0.9, -1.0], [0.0, 0.1, -0.1, 0.0], [0.05, 0.0, 0.05, -0.09]])
    found = select.choose(torch.tensor([2, 3, 4]), common + gains)
    assert found.chosen == 3
    assert found.error[int(found.held_out.argmax())] == 0


# ---- figures and report ---------------------------------------------------------------------------

LABELS = {
    "states": ("time (s)", "unit"),
    "probability": ("time (s)", "probability"),
    "trials": ("time from the start of the sequence (s)", "sequence"),
    "occupancy": ("time from the start (s)", "probability of state"),
    "rates": ("time (s)", "unit"),
    "types": ("source unit", "target unit"),
    "networks": ("source unit", "target unit"),
    "network": ("source unit", "target unit"),
    "prior": ("source unit", "target unit"),
    "filters": ("lag (ms)", "effect on the drive"),
    "transition": ("to state", "from"),
    "dwell": ("length of visit (s)", "share of visits at least as long"),
    "dwell_histogram": ("length of visit (s)", "visits"),
    "objective": ("EM round", "log-likelihood + log prior (nat)"),
    "starts": ("refined start", "nats below the best"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_each_kind_of_figure(fitted: HMMGLM, kind: str) -> None:
    ax = fitted.result_.plot(kind)
    assert (ax.get_xlabel(), ax.get_ylabel()) == LABELS[kind]
    assert ax.has_data()
    ax.get_figure(root=True).canvas.draw()
    _, own = plt.subplots()
    assert fitted.result_.plot(kind, ax=own) is own


def test_histogram_counts_every_visit_once(fitted: HMMGLM) -> None:
    result = fitted.result_
    ax = result.plot("dwell_histogram", n_bins=7)
    visits = [[len(list(run)) for row in result.states.tolist() for key, run in groupby(row) if key == s]
              for s in range(2)]  # fmt: skip
    for patch, lengths in zip(ax.patches, visits, strict=True):
        outline = patch.get_xy()  # a step up and down at every edge
        edges, counts = np.unique(outline[:, 0]), outline[1:-1:2, 1]
        wanted, _ = np.histogram(np.array(lengths) * result.dt, edges)
        np.testing.assert_array_equal(counts, wanted)
        assert counts.sum() == len(lengths)


def test_ribbon_shows_the_truth_in_the_colours_of_the_fit(sim: Any, fitted: HMMGLM) -> None:
    result = fitted.result_
    perfect = result.plot("states", truth=1 - result.states, session=2)
    ribbons = [np.asarray(image.get_array()) for image in perfect.images]
    assert len(ribbons) == 2
    np.testing.assert_array_equal(*ribbons)
    one = result.plot("states", truth=sim.truth.states[1], session=1, window=(2.0, 4.0))
    assert one.get_xlim() == pytest.approx((2.0, 4.0))
    assert one.images[0].get_array().shape == (1, 100)
    with pytest.raises(InputError, match=r"plot\('states', truth\).*shape \(3, 10\)"):
        result.plot("states", truth=torch.zeros(3, 10, dtype=torch.long))
    with pytest.raises(InputError, match=r"plot\(window\).*inside \[0, 8\) s"):
        result.plot("states", window=(50.0, 60.0))
    with pytest.raises(InputError, match="session: expected 0 to 3, got 4"):
        result.plot("states", session=4)
    with pytest.raises(InputError, match="state: expected 0 to 1, got 2"):
        result.plot("network", state=2)
    with pytest.raises(InputError, match=r"filters', source\): expected 0 to 5"):
        result.plot("filters", target=0, source=6)


def test_a_model_without_lags_has_no_networks() -> None:
    data, _ = two_rates()
    result = HMMGLM(n_states=2, n_lags=0, prior="none", starts=2, device="cpu").fit(data).result_
    assert not {"networks", "network", "prior", "filters", "number", "types"} & set(result.plots())
    assert [s.title for s in result.sections()] == ["States", "Certainty", "Methods"]


def test_report_says_what_was_done(fitted: HMMGLM) -> None:
    parts = {s.title: s for s in fitted.result_.sections()}
    assert list(parts) == ["States", "Couplings", "Certainty", "Methods"]
    assert "bins of 20 ms" in parts["Methods"].text
    assert "Gumbel-Softmax" in parts["Methods"].text
    assert len(parts["States"].table) == 3
    assert parts["Couplings"].table[0][-2:] == ("inhibitory", "excitatory")


# ---- bad input (those the contract suite does not hold) -------------------------------------------


@pytest.mark.parametrize(("counts", "says"), [
    ([[0.0, torch.inf]] * 30, "finite counts.*got inf at trial 0, bin 0, unit 1"),
    ([[0.0, torch.nan]] * 30, "got nan.*mark missing bins in the mask"),
    ([[0.0, -2.0]] * 30, "at least 0, got -2"),
    ([[0.0, 1.25]] * 30, "integer counts, got 1.25"),
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


def test_a_fit_says_nothing_when_all_is_well(sim: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(HMMGLM(**QUICK).fit(sim.data).result_, HMMGLMResult)


def test_viterbi_path_is_that_of_the_parameters(sim: Any, fitted: HMMGLM) -> None:
    result, spikes = fitted.result_, sim.data[0].values.double()
    drive = design_tensor(spikes, exponential_filter(5)) @ result.weights.double().flatten(0, 1).T
    rate = torch.sigmoid(drive).unflatten(1, (2, N)).numpy()
    emission = torch.from_numpy(poisson.logpmf(spikes.numpy()[:, None], rate).sum(-1))
    path = hmm.viterbi(torch.full((2,), 0.5).log(), result.transition.double().log(), emission).path
    assert (path == result.states[0]).double().mean() > 0.995
