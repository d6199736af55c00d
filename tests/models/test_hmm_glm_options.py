"""Options of the switching GLM: learned kernels, ties, two strengths, learned width, presets, starts, scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from scipy.optimize import minimize_scalar
from scipy.stats import nbinom, poisson
from torch import Tensor

import tectum
from tectum import HMMGLM, Recording
from tectum.core.errors import DegenerateStateWarning, InputError
from tectum.core.random import spawn
from tectum.datasets import simulate
from tectum.evaluate import matched_accuracy
from tectum.models.hmm_glm import fitting, gradient, kernels, one_hot, stages
from tectum.models.hmm_glm.baselines import best_size, own_past
from tectum.models.hmm_glm.basis import design_tensor, exponential_filter
from tectum.models.hmm_glm.emission import log_emission
from tectum.models.hmm_glm.figures import _order
from tectum.models.hmm_glm.inputs import gather
from tectum.models.hmm_glm.online import StateFilter
from tectum.models.hmm_glm.settings import family_of
from tectum.models.hmm_glm.sparse import fit_sparse
from tectum.models.hmm_glm.structure import structure_scores
from tectum.models.hmm_glm.timelines import expected_rates
from tectum.models.hmm_glm.together import share_transition
from tectum.plot.style import PALETTE
from tectum.stats import hmm

pytestmark = pytest.mark.filterwarnings("ignore:HMMGLM. states that hardly occur")

N = 6
QUICK: dict[str, Any] = {"n_states": 2, "starts": 3, "device": "cpu", "link": "sigmoid", "one_hot_rounds": 8}


@pytest.fixture(scope="module")
def sim() -> Any:
    return simulate.switching_glm(n_units=N, n_states=2, n_sequences=4, n_time=400, random_state=3)


def rec(counts: Tensor, **options: Any) -> Recording:
    return Recording(data=counts, dims=("time", "unit"), rate=50.0, units="spikes/bin", **options)


def lagged(kernel: Tensor, coupling: Tensor, *, n_time: int, bias: float = -1.5, seed: int = 100) -> Recording:
    """Counts of one state with softplus, the effect of a source at lag k being coupling * kernel[..., k]."""
    g = torch.Generator().manual_seed(seed)
    effect, n_lags = coupling.unsqueeze(-1) * kernel, kernel.shape[-1]  # (target, source, lag)
    counts = torch.zeros(n_time + n_lags, len(coupling))
    for t in range(n_lags, len(counts)):
        drive = bias + torch.einsum("ijk,kj->i", effect, counts[t - n_lags : t].flip(0))
        counts[t] = torch.poisson(torch.nn.functional.softplus(drive), generator=g)
    return rec(counts[n_lags:])


# ---- kernels --------------------------------------------------------------------------------------


def shapes() -> tuple[Tensor, Tensor]:
    """Unit 0 excites itself at lag 1 and unit 1 at lag 3; unit 1 inhibits unit 2 over lags 1 to 4."""
    kernel, coupling = torch.full((3, 3, 4), 0.25), torch.zeros(3, 3)
    kernel[0, 0], kernel[1, 0] = torch.eye(4)[0], torch.eye(4)[2]
    coupling[0, 0], coupling[1, 0], coupling[2, 1] = 0.8, 3.0, -2.0
    return kernel, coupling


@pytest.fixture(scope="module")
def shaped() -> Recording:
    return lagged(*shapes(), n_time=8000)


@pytest.mark.parametrize("prior", ["none", "gaussian", "one_hot"])
def test_learned_kernels_are_found(prior: str, shaped: Recording) -> None:
    (kernel, coupling), data = shapes(), shaped
    model = HMMGLM(n_states=1, prior=prior, basis="learned", n_lags=4, starts=1, device="cpu", sigma_w=1.0)
    result = model.fit(data).result_
    assert result.kernel is not None
    assert result.coupling.shape == (1, 3, 3, 4)
    torch.testing.assert_close(result.kernel.sum(-1), torch.ones(3, 3))
    for target, source in ((0, 0), (1, 0)):
        torch.testing.assert_close(result.kernel[target, source], kernel[target, source], atol=0.12, rtol=0)
    torch.testing.assert_close(result.network[0], coupling, atol=0.45, rtol=0)
    torch.testing.assert_close(result.coupling, result.network.unsqueeze(-1) * result.kernel)
    torch.testing.assert_close(result.filter_of(0, 1, 0), result.network[0, 1, 0] * result.kernel[1, 0])
    fixed = HMMGLM(n_states=1, prior=prior, n_lags=4, starts=1, device="cpu", sigma_w=1.0).fit(data)
    assert model.score(data) > fixed.score(data) + 0.01
    if prior == "one_hot":
        real = coupling != 0
        assert torch.equal(result.adjacency[0, real], coupling[real].sign().long())
        # absent connections may be typed: with one state and a kernel of their own they fit noise, but weakly (below)
        torch.testing.assert_close(result.hard_coupling[0].sum(-1), coupling, atol=0.45, rtol=0)


@pytest.mark.parametrize("prior", ["none", "one_hot"])
def test_only_the_own_past_gets_a_kernel_of_its_own(prior: str) -> None:
    kernel, coupling = shapes()
    kernel[0, 0] = torch.eye(4)[3]
    data = lagged(kernel, coupling, n_time=4000)
    settings: dict[str, Any] = {"n_states": 1, "prior": prior, "n_lags": 4, "starts": 1, "device": "cpu"}
    result = HMMGLM(**settings, self_history="own").fit(data).result_
    off = ~torch.eye(3, dtype=torch.bool)
    fixed = exponential_filter(4, dtype=torch.float32)[:, 0]
    torch.testing.assert_close(result.kernel[off], fixed.expand(6, -1))
    assert result.kernel[0, 0].argmax() == 3
    assert result.kernel[0, 0, 3] > 0.8
    plain = HMMGLM(**settings).fit(data).result_
    assert result.log_likelihood.sum() > plain.log_likelihood.sum() + 20


def test_a_fit_with_kernels_predicts_saves_and_continues(sim: Any, tmp_path: Path) -> None:
    model = HMMGLM(**QUICK, basis="learned", n_lags=3).fit(sim.data)
    model.save(tmp_path / "model")
    again = tectum.load(tmp_path / "model.safetensors")
    assert torch.equal(again.predict(sim.data[0]).values, model.predict(sim.data[0]).values)
    torch.testing.assert_close(model.log_prob(sim.data), model.result_.log_likelihood)
    assert model.sample(20).counts.sizes == {"time": 20, "unit": N}
    more = HMMGLM(**QUICK, basis="learned", n_lags=3, prior="none").fit(sim.data, init=model.result_).result_
    plain = HMMGLM(**QUICK, n_lags=3, prior="none").fit(sim.data, init=model.result_).result_
    for found in (more, plain):
        assert matched_accuracy(found.states, model.result_.states) > 0.9
    with pytest.raises(InputError, match=r"fit\(init\): expected 2 states, 6 units, 3 lags, 2 filters"):
        HMMGLM(**QUICK, n_lags=3, basis="raised_cosine", n_filters=2).fit(sim.data, init=plain)


def test_gradients_of_kernel_weights_climb_and_keep_what_is_forbidden() -> None:
    kernel, coupling = shapes()
    spikes = lagged(kernel, coupling, n_time=800).values.double().unsqueeze(0)
    design, g = design_tensor(spikes, torch.eye(4).double()), torch.Generator().manual_seed(0)
    allowed = torch.ones(3, 3, dtype=torch.bool)
    allowed[0, 1] = False
    weights = 0.1 * torch.randn(2, 3, 4, generator=g, dtype=torch.float64)
    weights[:, 0, 2] = 0.0
    weights[:, :, 0], weights[:, range(3), range(1, 4)] = -1.0, 0.2
    p = kernels.start_kernelled(weights, kernels.start_kernels(exponential_filter(4), 3))
    share = torch.rand(1, 800, 2, generator=g, dtype=torch.float64)

    def objective(p: kernels.Kernelled) -> Tensor:
        emission = log_emission(design, spikes, kernels.kernel_weights(p), link="softplus")
        return (share * emission).sum() + kernels.kernel_log_prior(p, 0.5, shared=True)

    options: dict[str, Any] = {"precision": 0.5, "shared": True, "allowed": allowed, "link": "softplus",
                               "shared_bias": True, "shared_self": True}  # fmt: skip
    fitted, adam = kernels.fit_kernels(design, spikes, share, p, adam=gradient.at_rest(p), n_steps=40, **options)
    assert objective(fitted) > objective(p) + 5
    assert adam.step == 40
    assert not fitted.coupling[:, 0, 1].any()
    torch.testing.assert_close(fitted.bias[0], fitted.bias[1])
    torch.testing.assert_close(fitted.coupling[0].diagonal(), fitted.coupling[1].diagonal())
    assert not torch.allclose(fitted.coupling[0], fitted.coupling[1])


def test_killed_kernel_stage_resumes(sim: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**QUICK, "prior": "gaussian", "basis": "learned", "n_lags": 3, "max_iter": 9, "tol": 0.0}
    wanted = HMMGLM(**settings).fit(sim.data).result_
    calls, fit = 0, stages.fit_kernels

    def killed(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 7:
            raise KeyboardInterrupt
        return fit(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(stages, "fit_kernels", killed)
        with pytest.raises(KeyboardInterrupt):
            HMMGLM(**settings).fit(sim.data, checkpoint=tmp_path / "run")
    found = HMMGLM(**settings).fit(sim.data, checkpoint=tmp_path / "run").result_
    assert torch.equal(found.coupling, wanted.coupling)
    assert torch.equal(found.kernel, wanted.kernel)
    assert torch.equal(found.history, wanted.history)


# ---- ties, strengths, widths ----------------------------------------------------------------------


@pytest.mark.parametrize("settings", [
    {"prior": "none"}, {"prior": "gaussian"}, {"prior": "one_hot"}, {"prior": "one_hot", "basis": "learned"},
    {"prior": "none", "basis": "raised_cosine", "n_filters": 2},
], ids=str)  # fmt: skip
def test_the_coupling_of_units_to_themselves_can_be_one_for_all_states(sim: Any, settings: dict[str, Any]) -> None:
    result = HMMGLM(**QUICK, **settings, self_history="shared", n_lags=3).fit(sim.data).result_
    own = torch.eye(N, dtype=torch.bool)
    torch.testing.assert_close(result.coupling[0, own], result.coupling[1, own])
    assert (result.network[0, own] != 0).any()
    assert not torch.allclose(result.coupling[0, ~own], result.coupling[1, ~own])
    if result.adjacency is not None:
        assert torch.equal(result.adjacency[0, own], result.adjacency[1, own])


def test_inhibition_can_be_stronger_than_excitation() -> None:
    """Inhibitory couplings of -2 and excitatory ones of 0.4: the two shared means find them, one mean cannot."""
    g = torch.Generator().manual_seed(101)
    kind = torch.randint(-1, 2, (8, 8), generator=g).float().fill_diagonal_(0)
    coupling = torch.where(kind < 0, -2.0, 0.4 * kind)
    data = lagged(exponential_filter(3, dtype=torch.float32)[:, 0].expand(8, 8, 3), coupling, n_time=6000, bias=0.0)
    settings: dict[str, Any] = {"n_states": 1, "n_lags": 3, "starts": 1, "device": "cpu"}
    result = HMMGLM(**settings, two_strengths=True).fit(data).result_
    assert result.inhibitory_strength is not None
    types = result.type_probability
    torch.testing.assert_close(
        types[..., 2:] * result.strength - types[..., :1] * result.inhibitory_strength, result.coupling
    )
    mean = [(s * types[..., k, None]).sum() / types[..., k].sum() for s, k in
            ((result.inhibitory_strength, 0), (result.strength, 2))]  # fmt: skip
    assert mean[0] == pytest.approx(2.0, abs=0.4)
    assert mean[1] == pytest.approx(0.4, abs=0.15)
    single = HMMGLM(**settings).fit(data).result_
    assert single.inhibitory_strength is None
    off = ~torch.eye(8, dtype=torch.bool)
    errors = [(r.network[0] - coupling)[off].square().mean() for r in (result, single)]
    assert errors[0] < errors[1]


def test_shared_means_of_two_strengths_weight_by_type() -> None:
    g = torch.Generator().manual_seed(0)
    p = one_hot.start_one_hot(torch.randn(2, 3, 4, generator=g).double(), n_units=3, n_filters=1, two_strengths=True)
    p = p._replace(strength=torch.randn(p.strength.shape, generator=g).double())
    found, types = one_hot.shared_prior(p), p.logits.softmax(-1)
    for v, kind in ((0, 0), (1, 2)):
        weight, value = types[..., kind].flatten(), torch.nn.functional.softplus(p.strength[..., v]).flatten()
        mean = (weight * value).sum() / weight.sum()
        torch.testing.assert_close(found.mean[v], mean)
        wide = ((weight * (value - mean) ** 2).sum() / weight.sum()).sqrt().clamp(min=0.3)
        torch.testing.assert_close(found.sd[v], wide)


def test_learned_width_is_that_of_the_couplings_and_does_not_collapse() -> None:
    g = torch.Generator().manual_seed(100)
    mean = 0.3 * torch.randn(6, 6, generator=g) - 0.4
    for spread, n_time in ((0.6, 3000), (0.6, 250)):
        states = [mean + spread * torch.randn(6, 6, generator=g) for _ in range(2)]
        filters = exponential_filter(3, dtype=torch.float32)[:, 0].expand(6, 6, 3)
        data = [lagged(filters, w, n_time=n_time, bias=-0.7, seed=100 + k) for k, w in enumerate(states)]
        spikes = torch.stack([d.values for d in data]).double()
        problem = fitting.Problem(design_tensor(spikes, exponential_filter(3)), spikes, None, None)
        family = fitting.Family("softplus", 6, None, False, False, 0.0, False)
        weights = torch.stack([torch.cat((torch.full((6, 1), -0.7), w), 1) for w in states]).double()
        start = fitting.start_from(weights.unsqueeze(0), family)  # each state holds one of the sequences
        fixed = torch.tensor([[1 - 1e-6, 1e-6], [1e-6, 1 - 1e-6]]).double().log()
        plan = stages.Plan("gaussian", 0.1, None, (1.0, 0.3), 1, False, False, 20, 1e-6)
        start = start._replace(log_transition=fixed[None])
        found = stages.run_last(problem, start, family, plan, kernel=None, explore=False, seed=0,
                                save=lambda stage: None)  # fmt: skip
        assert found.width == pytest.approx(spread, rel=0.4)


def test_a_learned_width_is_reported(sim: Any) -> None:
    result = HMMGLM(**QUICK, prior="gaussian", sigma_w=None, max_iter=15).fit(sim.data).result_
    assert result.sigma_w is not None
    assert result.sigma_w > 0.1
    assert result.sigma_w != pytest.approx(1 / 3)
    assert HMMGLM(**QUICK, prior="gaussian", max_iter=3).fit(sim.data).result_.sigma_w == pytest.approx(1 / 3)


# ---- figures --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(sim: Any) -> HMMGLM:
    return HMMGLM(**QUICK).fit([sim.data[0].isel(time=slice(0, 250)), *sim.data[1:]])


def test_occupancy_is_the_mean_over_events_inside_the_sequences(fitted: HMMGLM) -> None:
    result, dt = fitted.result_, 0.02
    ax = result.plot("occupancy", events=[[2.0, 4.9], [3.0], [], []], window=(-0.1, 0.2))
    lag = range(-5, 10)
    share = result.probability[..., 0]
    rows = [[share[0, 100 + k] for k in lag], [share[0, 245 + k] if k < 5 else torch.nan for k in lag],
            [share[1, 150 + k] for k in lag]]  # fmt: skip
    line = ax.get_lines()[0]
    np.testing.assert_allclose(line.get_ydata(), np.nanmean(np.array(rows, dtype=float), 0), rtol=1e-5)
    np.testing.assert_allclose(line.get_xdata(), (np.array(lag) + 0.5) * dt)
    starts = result.plot("occupancy").get_lines()[0].get_ydata()
    np.testing.assert_allclose(starts[:250], share[:, :250].mean(0), rtol=1e-5)
    np.testing.assert_allclose(starts[250:], share[1:, 250:].mean(0), rtol=1e-5)
    with pytest.raises(InputError, match=r"occupancy', events\): expected times of 4 sequences, got 1"):
        result.plot("occupancy", events=[[1.0]])
    with pytest.raises(InputError, match="events inside the sequences, got none"):
        result.plot("occupancy", events=[[99.0], [], [], []])


def test_trials_mix_colours_by_probability_and_end_where_the_sequence_does(fitted: HMMGLM) -> None:
    ax = fitted.result_.plot("trials", marks={"cue": 2.0, "reward": [1.0, 2.0, 3.0, 4.0]})
    picture = np.asarray(ax.images[0].get_array())
    assert picture.shape == (4, 400, 3)
    np.testing.assert_allclose(picture[0, 250:], 1.0)
    p = fitted.result_.probability[1, 7].numpy()
    colours = np.array([to_rgb(c) for c in PALETTE[:2]])
    np.testing.assert_allclose(picture[1, 7], p @ colours, atol=1e-6)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["state 0", "state 1", "cue", "reward"]


def test_expected_rates_follow_the_counts(fitted: HMMGLM, sim: Any) -> None:
    result = fitted.result_
    found = torch.from_numpy(expected_rates(result, 1)).double() * result.dt
    spikes = sim.data[1].values.double()
    drive = torch.einsum("tp,snp->tsn", design_tensor(spikes, result.filters.double()), result.weights.double())
    torch.testing.assert_close(found, (result.probability[1].double().unsqueeze(-1) * torch.sigmoid(drive)).sum(1))
    ax = result.plot("rates", units=[2, 0], session=1, window=(1.0, 3.0))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["u02", "u00"]
    with pytest.raises(InputError, match=r"rates', units\): expected units 0 to 5"):
        result.plot("rates", units=[6])


def test_types_and_networks_in_one_order(fitted: HMMGLM) -> None:
    result = fitted.result_
    order = _order(result)
    assert sorted(order.tolist()) == list(range(N))
    for kind, values in (("types", result.adjacency), ("networks", result.network)):
        panels = [a for a in result.plot(kind, ordered=True).get_figure(root=True).axes if a.images]
        for k, panel in enumerate(panels[:2]):
            np.testing.assert_allclose(panel.images[0].get_array(), values[k].numpy()[np.ix_(order, order)])
    free = HMMGLM(**QUICK, prior="none", max_iter=2).fit(sim_of(result)).result_
    assert "types" not in free.plots()


def sim_of(result: Any) -> list[Recording]:
    return [rec(c[:100].float()) for c in result.counts]


# ---- presets, starts, scores ----------------------------------------------------------------------


def test_presets_are_the_two_versions_of_the_public_code(sim: Any) -> None:
    paper, later = HMMGLM.preset("iclr2024", **QUICK), HMMGLM.preset("v010", n_states=2)
    assert (paper.link, paper.shared_bias, paper.temperatures) == ("sigmoid", True, (0.2, 0.2))
    assert (later.link, later.shared_bias, later.temperatures, later.self_history) == (
        "softplus",
        False,
        (0.5, 0.5),
        "own",
    )
    result = paper.fit(sim.data).result_
    torch.testing.assert_close(result.bias[0], result.bias[1])
    with pytest.raises(InputError, match=r"HMMGLM.preset: expected one of \['iclr2024', 'v010'\], got 'v2'"):
        HMMGLM.preset("v2")


def test_every_start_can_be_made_again(sim: Any) -> None:
    model = HMMGLM(**QUICK, prior="none", random_state=7).fit(sim.data)
    result = model.result_
    assert sorted(result.start_number.tolist()) == [0, 1, 2]
    assert result.start_seed.tolist() == [spawn(7, "start", n) for n in result.start_number.tolist()]
    assert (result.start_objective.diff() <= 0).all()
    given = HMMGLM(**QUICK, prior="none").fit(sim.data, init=result).result_
    assert given.start_number.tolist() == given.start_seed.tolist() == [-1]


def test_clusters_of_smoothed_counts_start_close_to_states_that_differ_in_rates() -> None:
    g = torch.Generator().manual_seed(102)
    state = torch.arange(600) // 60 % 3
    rates = torch.tensor([[0.1, 0.8, 0.4], [0.8, 0.1, 0.4], [0.4, 0.4, 1.5]])[state]
    data = [rec(torch.poisson(rates, generator=g)) for _ in range(2)]
    spikes = torch.stack([d.values for d in data]).double()
    problem = fitting.Problem(design_tensor(spikes, exponential_filter(2)), spikes, None, torch.tensor([600, 500]))
    family = fitting.Family("softplus", 3, None, False, False, 0.0, False, kmeans=True)
    drawn = fitting.draw_starts(problem, family, n_states=3, n_starts=4, seed=0)
    assert drawn.weights.isfinite().all()
    found = fitting.posterior_of(problem, drawn, family).probabilities.argmax(-1)
    assert max(matched_accuracy(f, state.expand(2, -1)) for f in found) > 0.9
    model = HMMGLM(n_states=3, start_from="kmeans", starts=2, n_lags=2, prior="none", device="cpu").fit(data)
    assert matched_accuracy(model.result_.states, state.expand(2, -1)) > 0.95


def test_units_are_scored_alone_given_the_past(sim: Any) -> None:
    one = HMMGLM(**{**QUICK, "n_states": 1, "prior": "none"}).fit(sim.data)
    torch.testing.assert_close(one.log_prob(sim.data, by="unit").sum(1), one.log_prob(sim.data), rtol=1e-5, atol=1e-3)
    mask = torch.rand(400, N, generator=torch.Generator().manual_seed(0)) > 0.2
    data = [sim.data[0].isel(time=slice(0, 300)), sim.data[1].with_(mask=mask)]
    model = HMMGLM(**QUICK, prior="none").fit(data)
    found, result = model.log_prob(data, by="unit"), model.result_
    assert found.shape == (2, N)
    for k, part in enumerate(data):
        spikes = part.values.where(part.valid(), 0).double()
        design = design_tensor(spikes, result.filters.double())
        rate = torch.sigmoid(torch.einsum("tp,snp->tsn", design, result.weights.double()))
        each = torch.distributions.Poisson(rate).log_prob(spikes.unsqueeze(1))  # (time, state, unit)
        seen = part.valid()
        emission = each.where(seen.unsqueeze(1), 0.0).sum(-1)
        ahead = hmm.forward(result.initial.double().log(), result.transition.double().log(), emission).log_predicted
        wanted = torch.logsumexp(each + ahead.unsqueeze(-1), 1).where(seen, 0.0).sum(0)
        torch.testing.assert_close(found[k].double(), wanted, rtol=1e-4, atol=1e-2)
    with pytest.raises(InputError, match=r"log_prob\(by\): expected 'session' or 'unit', got 'bin'"):
        model.log_prob(data, by="bin")


def test_baselines_are_what_they_say() -> None:
    g = np.random.default_rng(100)
    size, mean = np.array([0.8, 3.0]), np.array([2.0, 4.0])
    train, test = (rec(torch.from_numpy(nbinom.rvs(size, size / (size + mean), size=(3000, 2), random_state=g))).with_(
        mask=torch.rand(3000, 2, generator=torch.Generator().manual_seed(k)) > 0.1) for k in range(2))  # fmt: skip
    model = HMMGLM(n_states=1, n_lags=0, starts=1, device="cpu").fit(train)
    found = model.baselines(test, train=train)
    assert found["model"] == pytest.approx(found["constant Poisson"], abs=1e-4)
    seen = test.valid().numpy()
    x, rate = test.values.numpy(), model.result_.rate.double().numpy()
    assert found["constant Poisson"] == pytest.approx(poisson.logpmf(x, rate)[seen].mean(), rel=1e-4)
    exact = nbinom.logpmf(x, size, size / (size + mean))[seen].mean()
    assert found["constant NB"] == pytest.approx(exact, abs=0.01)
    assert found["own past NB"] < found["constant NB"]  # these counts have no memory
    for_size = gather([train], bin=0.02, n_lags=0, covariates=(), device=torch.device("cpu"), dtype=torch.float64)
    flat = torch.from_numpy(rate).expand(1, 3000, 2)
    best = best_size(for_size, flat).numpy()
    kept = train.valid().numpy()
    for k in range(2):
        y = train.values[:, k].numpy()[kept[:, k]]
        done = minimize_scalar(lambda s, y=y, k=k: -nbinom.logpmf(y, np.exp(s), 1 / (1 + rate[k] / np.exp(s))).sum(),
                               bounds=(-3, 4), method="bounded")  # fmt: skip
        assert best[k] == pytest.approx(np.exp(done.x), rel=0.01)
    slow = torch.sin(torch.arange(3000) / 60.0).exp().unsqueeze(1).expand(-1, 2)
    drifting = rec(torch.poisson(2 * slow, generator=torch.Generator().manual_seed(0)))
    again = HMMGLM(n_states=1, n_lags=0, starts=1, device="cpu").fit(drifting)
    scores = again.baselines(drifting, train=drifting)
    assert scores["own past NB"] > scores["constant NB"] + 0.1 > scores["constant Poisson"] + 0.1


def test_own_past_is_the_recursion_of_a_leaky_average() -> None:
    counts = torch.poisson(torch.full((1, 60, 2), 1.5), generator=torch.Generator().manual_seed(0)).double()
    found = gather([rec(counts[0])], bin=0.02, n_lags=0, covariates=(), device=torch.device("cpu"), dtype=torch.float64)
    rate, tau = torch.tensor([1.2, 1.8]).double(), 4.0
    got, level = own_past(found, rate, tau), rate.clone()
    for t in range(60):
        torch.testing.assert_close(got[0, t], level, atol=2e-3, rtol=0)
        level = (1 - 1 / tau) * level + counts[0, t] / tau


def test_sessions_of_different_units_share_their_transitions() -> None:
    g = torch.Generator().manual_seed(101)
    moves = torch.tensor([[0.97, 0.03], [0.12, 0.88]])
    sessions, truth = [], []
    for n_units, n_time in ((5, 1500), (7, 500)):
        state = torch.zeros(n_time, dtype=torch.int64)
        for t in range(1, n_time):
            state[t] = int(torch.rand((), generator=g) >= moves[state[t - 1], 0])
        rates = torch.where(torch.rand(2, n_units, generator=g) > 0.5, 1.2, 0.2)
        rates[1, :2], rates[0, :2] = 1.5, 0.1
        sessions.append(rec(torch.poisson(rates[state], generator=g)))
        truth.append(state)
    models = [HMMGLM(n_states=2, n_lags=0, prior="none", starts=4, device="cpu").fit(s) for s in sessions]
    before = [m.result_.transition.clone() for m in models]
    made = share_transition(models, sessions)
    shared = made[0].result_.transition
    assert torch.equal(shared, made[1].result_.transition)
    assert not torch.equal(before[0], before[1])
    counts = [sum_of_moves(m, s) for m, s in zip(made, sessions, strict=True)]
    wanted = (sum(counts) + 1) / (sum(counts) + 1).sum(1, keepdim=True)
    torch.testing.assert_close(shared.double(), wanted, atol=2e-4, rtol=0)
    torch.testing.assert_close(shared, moves, atol=0.05, rtol=0)
    for model, session, state in zip(made, sessions, truth, strict=True):
        assert (model.result_.states[0] == state).double().mean() > 0.95  # one name for a state in both sessions
        torch.testing.assert_close(model.log_prob(session), model.result_.log_likelihood)
    assert all(torch.equal(m.result_.transition, b) for m, b in zip(models, before, strict=True))
    with pytest.raises(InputError, match="share_transition: expected one item a model"):
        share_transition(models, sessions[:1])


def sum_of_moves(model: HMMGLM, session: Recording) -> Tensor:
    """Expected transitions, from the verbs alone."""
    result, spikes = model.result_, session.values.double()
    rate = torch.nn.functional.softplus(result.bias.double())
    emission = torch.distributions.Poisson(rate).log_prob(spikes.unsqueeze(1)).sum(-1)
    uniform = torch.full((2,), 0.5, dtype=torch.float64).log()
    return hmm.smooth(uniform, result.transition.double().log(), emission).transitions


@pytest.mark.parametrize("settings", [
    {}, {"basis": "learned", "prior": "none"}, {"n_lags": 0, "likelihood": "nb", "link": "softplus"},
    {"basis": "raised_cosine", "n_filters": 2, "n_lags": 6, "learn_initial": True},
], ids=str)  # fmt: skip
def test_live_states_are_the_filtered_ones_for_every_chunking(sim: Any, settings: dict[str, Any]) -> None:
    model = HMMGLM(**{**QUICK, "prior": "none", **settings}, max_iter=8).fit(sim.data)
    mask = torch.rand(400, N, generator=torch.Generator().manual_seed(1)) > 0.1
    counts = sim.data[0].values.float().where(mask, torch.nan)
    wanted = model.predict_proba(sim.data[0].with_(data=counts, mask=mask), kind="filtered").values
    for sizes in ([400], [1] * 20 + [380], [7, 0, 93, 300]):
        live = StateFilter(model)
        found = torch.cat([live.push(part) for part in counts.split(sizes)])
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    live.reset()
    torch.testing.assert_close(live.push(counts[:5].numpy()), wanted[:5], atol=1e-5, rtol=1e-4)
    for bad, says in (
        (counts[:, :4], r"\(n, 6 units\), got \(400, 4\)"),
        (-counts, "at least 0, or NaN, got -1 at bin"),
        *(
            (torch.tensor([[0.0, 1.0, bad, 0.0, 0.0, 0.0]]), f"got {bad:g} at bin 0, unit 2")
            for bad in (0.5, -1, torch.inf)
        ),
    ):
        with pytest.raises(InputError, match=f"StateFilter.push: expected .*{says}"):
            live.push(bad)


def test_a_mask_of_bins_is_a_mask_of_all_their_counts(sim: Any) -> None:
    bins = torch.ones(400, 1, dtype=torch.bool)
    bins[50:90] = False
    data = [[r.with_(mask=m) for r in sim.data] for m in (bins, bins.expand(-1, N))]
    one, other = (HMMGLM(**QUICK, prior="none", max_iter=5).fit(d).result_ for d in data)
    assert torch.equal(one.coupling, other.coupling)
    assert (one.states[:, 50:90] >= 0).all()  # the state goes on


def test_rare_states_have_a_warning_of_their_own() -> None:
    counts = torch.poisson(torch.full((600, 5), 0.3), generator=torch.Generator().manual_seed(0))
    counts[200:215] += 4
    with pytest.warns(DegenerateStateWarning, match="state 1: 2.5% of the bins in 1 visits"):
        HMMGLM(n_states=2, n_lags=0, prior="none", starts=6, device="cpu").fit(rec(counts))


@pytest.mark.parametrize(("settings", "says"), [
    ({"self_history": "own", "basis": "raised_cosine", "n_filters": 2}, "self_history: expected one filter beside own"),
    ({"self_history": "mine"}, "self_history: expected one of .'free', 'zero', 'shared', 'own'."),
    ({"basis": "learned", "n_filters": 2}, "n_filters: expected 1 with the learned basis"),
    ({"basis": "learned", "n_lags": 2, "kernel": (1.0, 0.0)}, "kernel: expected positive weights to start"),
    ({"basis": "learned", "prior": "gaussian", "sigma_w": None}, "sigma_w: expected a number where kernels"),
    ({"start_from": "pca"}, "start_from"),
    ({"two_strengths": 2}, "two_strengths"),
])  # fmt: skip
def test_options_that_do_not_go_together_are_named(sim: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=f"HMMGLM.{says}"):
        HMMGLM(**{**QUICK, **settings}).fit(sim.data)


def test_structure_scores_are_those_of_scikit_learn_over_pairs_that_are_known(sim: Any, fitted: HMMGLM) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    result, truth = fitted.result_.match_states(sim.truth.states), sim.truth.adjacency
    silent = dataclasses.replace(result, rate=result.rate * (torch.arange(N) != 4))
    for given, units in ((result, range(N)), (silent, [0, 1, 2, 3, 5])):
        found = structure_scores(given, truth)
        pairs = [(i, j) for i in units for j in units if i != j]
        connected = [bool((truth[:, i, j] != 0).any()) for i, j in pairs]
        chance = [1 - float(result.shared_types[i, j, 1]) for i, j in pairs]
        true = [int(truth[s, i, j]) for s in range(2) for i, j in pairs]
        made = [int(result.adjacency[s, i, j]) for s in range(2) for i, j in pairs]
        assert found["prior_auc"] == pytest.approx(metrics.roc_auc_score(connected, chance))
        above = [c > 0.5 for c in chance]
        assert found["prior_balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(connected, above))
        assert found["type_balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(true, made))
        assert found["type_macro_f1"] == pytest.approx(metrics.f1_score(true, made, average="macro"))
    with pytest.raises(
        InputError, match=r"structure_scores: expected types -1, 0 or 1 of shape \(2, 6, 6\), got .*\[3\]"
    ):
        structure_scores(result, torch.full((2, 6, 6), 3))
    with pytest.raises(InputError, match=r"expected a fit with prior='one_hot', got prior='none'"):
        structure_scores(dataclasses.replace(result, adjacency=None, prior="none"), truth)


def test_l1_fit_of_one_state_is_at_the_optimum_of_its_penalty() -> None:
    sim = simulate.switching_glm(N, 1, n_sequences=4, n_time=400, random_state=100)
    model = HMMGLM(n_states=1, prior="none", starts=1, link="sigmoid", device="cpu").fit(sim.data)
    _, problem, start = model._known(sim.data)
    family = family_of(model, None, N, 1)
    for penalty in (4.0, 16.0):
        weights = fit_sparse(problem, start, family, penalty=penalty).weights
        assert 0 < (weights == 0).sum() < N * N
        leaf = weights.double().requires_grad_()
        wide = problem._replace(design=problem.design.double(), spikes=problem.spikes.double())
        log_emission(wide.design, wide.spikes, leaf[0], link="sigmoid").sum().backward()
        for n in range(N):
            slope, coupling = leaf.grad[0, 0, n], weights[0, 0, n]
            here = coupling[1:] != 0
            torch.testing.assert_close(slope[1:][here], penalty * coupling[1:][here].sign().double(), atol=0.3, rtol=0)
            assert (slope[1:][~here].abs() <= penalty + 0.3).all()  # the subgradient of |0|


def test_l1_baseline_wins_over_the_naive_fit_on_few_data() -> None:
    data = simulate.switching_glm(12, 2, n_sequences=12, n_time=400, random_state=100).data
    model = HMMGLM(n_states=2, prior="none", starts=3, link="sigmoid", device="cpu").fit(data[:3])
    scores = model.baselines(data[3:], train=data[:3], sparse=True)
    assert list(scores)[-1] == "L1"
    assert scores["L1"] > scores["model"] + 0.005
    assert scores["L1"] > scores["constant Poisson"]
