"""HMMGLM: restarts, EM, checkpoints, and the number of states."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from support.switching import QUICK, N, T, simulated, two_rates
from tectum import HMMGLM
from tectum.core.errors import DegenerateStateWarning, InputError, NonFiniteError, TectumWarning
from tectum.datasets import simulate
from tectum.evaluate import matched_accuracy
from tectum.models.hmm_glm import fitting, select, stages
from tectum.models.hmm_glm.basis import design_tensor, exponential_filter, tied_columns


@pytest.fixture(scope="module")
def sim() -> Any:
    return simulated()


@pytest.fixture(scope="module")
def fitted(sim: Any) -> HMMGLM:
    return HMMGLM(**QUICK).fit(sim.data)


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
    starts.weights[1, 1] = torch.nan
    options: dict[str, Any] = {"max_iter": 4, "tol": 1e-5, "checkpoint": None, "description": "searching"}
    with pytest.warns(TectumWarning, match=r"not finite; dropped start 1 in round 1, states \[1\]$"):
        found, _ = fitting.run_em(problem, starts, FAMILY, fitting.Ridge(1.0), **options)
    assert found.weights[[0, 2]].isfinite().all()
    assert found.objective[1] == fitting.LOWEST
    assert fitting.best_starts(found, 2).weights.isfinite().all()
    starts.weights[0, 0, 2, 3] = starts.weights[2] = torch.inf
    said = r"HMMGLM \(searching\).*start 0 in round 1, states \[0\]; .* \[1\]; start 2 in round 1, states \[0, 1\];"
    with pytest.raises(NonFiniteError, match=said):
        fitting.run_em(problem, starts, FAMILY, fitting.Ridge(1.0), **options)


def test_a_state_whose_transitions_are_not_finite_is_named(sim: Any) -> None:
    problem = problem_of(sim)
    starts = fitting.draw_starts(problem, FAMILY, n_states=3, n_starts=1, seed=0)
    moves = starts.log_transition.clone()
    moves[0, 2, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"start 0 in round 1, states \[2\]"):
        fitting.run_em(problem, starts._replace(log_transition=moves), FAMILY, fitting.Ridge(1.0), max_iter=4,
                       tol=1e-5, checkpoint=None, description="refining")  # fmt: skip


# ---- degenerate states ----------------------------------------------------------------------------


def test_a_state_without_a_bin_keeps_finite_parameters_and_the_others_fit_as_alone(sim: Any) -> None:
    """Its couplings go to the mean of their prior, its row of transitions to the pseudo-counts alone."""
    problem, family = problem_of(sim), FAMILY._replace(link="exp")
    alone = fitting.draw_starts(problem, family, n_states=1, n_starts=1, seed=0)
    away = fitting.draw_starts(problem, family, n_states=2, n_starts=1, seed=0).weights[:, :1].clone()
    away[..., 0] = 8.0  # thousands of spikes in every bin
    both = fitting.start_from(torch.cat((alone.weights, away), 1), family)
    for _ in range(12):
        alone, _ = fitting.em_round(problem, alone, family, fitting.Ridge(1.0), tol=1e-5)
        both, objective = fitting.em_round(problem, both, family, fitting.Ridge(1.0), tol=1e-5)
    posterior = fitting.posterior_of(problem, both, family)
    assert posterior.probabilities[..., 1].sum() < 1e-6
    assert both.weights.isfinite().all()
    assert objective.isfinite().all()
    torch.testing.assert_close(both.weights[:, 0], alone.weights[:, 0], rtol=1e-5, atol=1e-6)
    assert both.weights[0, 1, :, 1:].abs().max() < 1e-6
    torch.testing.assert_close(both.log_transition[0, 1].exp(), torch.full((2,), 0.5).double())


def test_identical_states_stay_identical_and_are_worth_one(sim: Any) -> None:
    problem = problem_of(sim)
    one = fitting.draw_starts(problem, FAMILY, n_states=1, n_starts=1, seed=0)
    two = fitting.start_from(one.weights.expand(-1, 2, -1, -1).clone(), FAMILY)
    for _ in range(5):  # later, rounding drives them apart
        one, two = (fitting.em_round(problem, s, FAMILY, fitting.Ridge(0.0), tol=1e-5)[0] for s in (one, two))
    torch.testing.assert_close(two.weights[0, 0], two.weights[0, 1])
    torch.testing.assert_close(two.weights[0, 0], one.weights[0, 0], rtol=1e-3, atol=1e-4)
    found = [fitting.posterior_of(problem, s, FAMILY) for s in (one, two)]
    torch.testing.assert_close(found[1].probabilities, torch.full_like(found[1].probabilities, 0.5))
    torch.testing.assert_close(found[1].log_likelihood, found[0].log_likelihood, rtol=1e-6, atol=0)


def test_a_state_without_a_spike_keeps_finite_rates() -> None:
    """Three silent runs of 30 bins a sequence: the rates of their state go towards zero and stay finite."""
    data, _ = two_rates(n_sequences=2)
    quiet = [r.with_(data=torch.where(torch.arange(300)[:, None] % 100 < 30, 0, r.values + 1)) for r in data]
    result = HMMGLM(n_states=2, prior="none", starts=3, device="cpu").fit(quiet).result_
    silent = torch.arange(300).expand(2, -1) % 100 < 30
    assert matched_accuracy(result.states, silent.long()) == 1.0
    rare = int(result.states[0, 0])
    assert result.occupancy[rare] == pytest.approx(0.3, abs=0.01)
    for field in (result.bias, result.coupling, result.transition, result.log_likelihood):
        assert field.isfinite().all()
    assert torch.nn.functional.softplus(result.bias[rare]).max() < 0.05


def test_a_fit_from_a_state_that_never_occurs_tells_and_keeps_it(sim: Any, fitted: HMMGLM) -> None:
    bias = fitted.result_.bias.clone()
    bias[1] = 40.0  # spikes of every unit in every bin
    begun = dataclasses.replace(fitted.result_, bias=bias, coupling=0 * fitted.result_.coupling)
    with pytest.warns(DegenerateStateWarning, match=r"state 1: 0.0% of the bins in 0 visits"):
        result = HMMGLM(**{**QUICK, "prior": "none", "link": "softplus"}).fit(sim.data, init=begun).result_
    assert result.n_states == 2
    assert result.occupancy[1] < 1e-6
    assert result.dwell[1] == 0
    for field in (result.bias, result.coupling, result.transition, result.log_likelihood):
        assert field.isfinite().all()


# ---- search and checkpoints -----------------------------------------------------------------------


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


def test_a_larger_fit_without_its_spare_state_is_a_start(sim: Any) -> None:
    """Each row leaves out one of the states that occur most; a state that never occurs is left out of all."""
    problem = problem_of(sim)
    starts = fitting.draw_starts(problem, FAMILY, n_states=4, n_starts=1, seed=0)
    starts.weights[0, :, :, 0] += torch.tensor([0.2, 0.1, 0.0, 40.0]).double().unsqueeze(1)  # the last fires always
    found = select.without_each(problem, starts, FAMILY, n_states=2)
    assert found.shape == (3, 2, N, 1 + N)
    rows = [{next(s for s in range(4) if torch.equal(w, starts.weights[0, s])) for w in row} for row in found]
    assert sorted(map(sorted, rows)) == [[0, 1], [0, 2], [1, 2]]


def test_extra_starts_take_part_in_the_search(sim: Any) -> None:
    """With the true couplings beside the one random start, two are refined, and the best is no worse."""
    problem = problem_of(sim)
    truth = torch.cat((sim.truth.bias.expand(2, -1).unsqueeze(-1), sim.truth.coupling), -1).unsqueeze(0)
    best: list[fitting.Starts] = []
    for extra in (None, truth):
        found, _ = fitting.search(problem, FAMILY, n_states=2, n_starts=1, tol=1e-5, seed=1, save=lambda _: None,
                                  extra=extra)  # fmt: skip
        best.append(found)
    assert best[1].objective[0] >= best[0].objective[0]
    assert len(best[0].objective) == 1
    assert len(best[1].objective) == 2
    assert 1 in best[1].number


def test_numbers_are_tried_once_each_from_the_largest_down(monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = two_rates(n_sequences=2)
    given: list[tuple[int, bool]] = []
    search = select.search

    def watched(*args: Any, **options: Any) -> Any:
        given.append((options["n_states"], options["extra"] is not None))
        return search(*args, **options)

    monkeypatch.setattr(select, "search", watched)
    settings: dict[str, Any] = {"n_lags": 0, "starts": 2, "prior": "none", "device": "cpu"}
    result = HMMGLM(n_states=None, candidates=(2, 4, 1, 2), folds=2, **settings).fit(data).result_
    assert given == 2 * [(4, False), (2, True), (1, True)]
    assert result.state_grid.tolist() == [1, 2, 4]


def test_smallest_number_within_one_paired_error_is_chosen() -> None:
    common = torch.tensor([0.0, 10.0, -10.0, 5.0])  # between sequences, the same for every number of states
    gains = torch.tensor([[-1.0, -1.1, -0.9, -1.0], [0.0, 0.1, -0.1, 0.0], [0.05, 0.0, 0.05, -0.09]])
    found = select.choose(torch.tensor([2, 3, 4]), common + gains)
    assert found.chosen == 3
    assert found.error[int(found.held_out.argmax())] == 0
