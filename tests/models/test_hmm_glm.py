"""HMMGLM: the learner's journey, forms of data, verbs and settings."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import nbinom, poisson

import tectum
from support.switching import QUICK, N, T, rec, simulated, two_rates
from tectum import HMMGLM, HMMGLMResult, Recording, Session, Spikes
from tectum.core.errors import InputError
from tectum.evaluate import matched_accuracy
from tectum.models.hmm_glm import glm
from tectum.models.hmm_glm.basis import design_tensor, exponential_filter
from tectum.models.hmm_glm.result import visits_of
from tectum.stats import hmm


@pytest.fixture(scope="module")
def sim() -> Any:
    return simulated()


@pytest.fixture(scope="module")
def fitted(sim: Any) -> HMMGLM:
    return HMMGLM(**QUICK).fit(sim.data)


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
