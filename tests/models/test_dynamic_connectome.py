"""DynamicConnectome end to end: every way in, every way out, and every bad input."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tectum
from tectum import DynamicConnectome, DynamicConnectomeResult, Intervals, Recording
from tectum.core.errors import ContractError, InputError, NotFittedError, TectumWarning, TooLargeError
from tectum.datasets import simulate
from tectum.evaluate import cross_validate
from tectum.models.dynamic_connectome.inputs import Settings, gather
from tectum.models.dynamic_connectome.prepare import prepare
from tectum.stats.tensors import factor_match_score

DT = 0.25
NEVER_TOGETHER = r"ignore:DynamicConnectome. \d+ pairs were never recorded together"


def model(**options: Any) -> DynamicConnectome:
    plain = {"rank": 3, "restarts": 2, "max_iter": 40, "partition_limit": 0, "assume_aligned": True, "device": "cpu"}
    return DynamicConnectome(**{**plain, **options})


@pytest.fixture(scope="module")
def animals() -> list[Recording]:
    """Four animals with 27 shared units, of which some are missing."""
    return simulate.motif_world(n_animals=4, n_units=27, n_time=320, random_state=3).data


@pytest.fixture(scope="module")
def single() -> Recording:
    """One animal with all of its 27 units."""
    return simulate.motif_world(n_animals=2, n_units=27, n_time=320, absent=0.0, random_state=5).data[0]


@pytest.fixture(scope="module")
def stimulated() -> list[Recording]:
    """Four animals with three stimuli."""
    return simulate.stimulus_locked(n_animals=4, n_units=27, n_time=840, absent=0.0, random_state=2).data


@pytest.fixture(scope="module")
def fitted(animals: list[Recording]) -> DynamicConnectome:
    return model().fit(animals)


@pytest.fixture(scope="module")
def partitioned(animals: list[Recording]) -> DynamicConnectome:
    return model(partition_limit=100).fit(animals)


@pytest.fixture(scope="module")
def fitted_single(single: Recording) -> DynamicConnectome:
    return model().fit(single)


def with_data(rec: Recording, data: Tensor, **changes: Any) -> Recording:
    return dataclasses.replace(rec, data=data, **changes)


def picked(rec: Recording, order: Sequence[int]) -> Recording:
    return rec.isel(unit=list(order))


def named(rec: Recording, labels: Sequence[Any], **columns: Any) -> Recording:
    return dataclasses.replace(rec, coords={"unit": {"name": labels, **columns}})


def same(first: DynamicConnectomeResult, second: DynamicConnectomeResult, **tolerance: float) -> None:
    """Check that two results hold equal tensors."""
    names = [name for name, _, _ in first.tensors()]
    assert names == [name for name, _, _ in second.tensors()]
    for name in names:
        torch.testing.assert_close(
            getattr(first, name), getattr(second, name), equal_nan=True, msg=lambda m, n=name: f"{n}: {m}", **tolerance
        )


# Ways in


def test_one_recording_gives_a_matrix_of_time_and_pairs(single: Recording, fitted_single: DynamicConnectome) -> None:
    result = fitted_single.result_
    wanted = {"time": 80, "subject": 1, "pair": 351, "unit": 27, "component": 3, "start": 2}
    assert {axis: result.sizes[axis] for axis in wanted} == wanted
    assert (result.solver, result.affinity, result.dt, result.blocks) == ("fibre", "corrected", 1.0, ((0, 80),))
    assert result.units == [f"n{i:03d}" for i in range(27)]
    assert result.time.tolist() == [float(i) for i in range(80)]
    assert bool(result.observed.all())
    for factor in result.cp.factors:
        assert bool((factor >= 0).all())
        torch.testing.assert_close(factor.norm(dim=0), torch.ones(3))
    assert bool((result.weight.diff() <= 0).all())
    assert result.provenance is not None
    assert result.provenance.ids == ("sim00",)


def test_a_list_of_one_is_the_recording(single: Recording, fitted_single: DynamicConnectome) -> None:
    same(model().fit([single]).result_, fitted_single.result_)


def test_units_absent_from_an_animal_leave_unobserved_fibres(
    animals: list[Recording], fitted: DynamicConnectome
) -> None:
    result = fitted.result_
    there = torch.stack([~torch.isnan(rec.values).all(0) for rec in animals])
    first, second = result.pair_units
    assert result.observed.equal(there[:, first] & there[:, second])
    assert not bool(result.observed.all())
    assert result.solver == "fibre"
    assert result.traces is not None
    assert torch.isnan(result.traces).all(0).equal(~there)


def test_what_no_animal_with_the_motif_shows_is_set_to_zero() -> None:
    """Pairs recorded only in an animal without the motif have no loading rather than noise divided by nothing."""
    first, second = torch.triu_indices(6, 6, 1)
    x = torch.rand(50, 1, 1, generator=torch.Generator().manual_seed(0)).expand(50, 3, 15).clone()
    x[:, :2, first == 0] = torch.nan
    x[:, 2, first == 0] *= 0.05
    x[:, 2, first > 0] *= 0.005
    pairs = {"first": [f"a{i}" for i in first.tolist()], "second": [f"a{i}" for i in second.tolist()]}
    rec = Recording(data=x, dims=("time", "subject", "pair"), rate=1.0, coords={"pair": pairs})
    matrix = model(rank=1, tol=0.0).fit(rec).result_.affinity_matrix(0)
    assert float(matrix[0].max()) == 0.0
    torch.testing.assert_close(matrix[1:, 1:], 1 - torch.eye(5), atol=1e-3, rtol=0)


def test_pairs_never_recorded_together_are_left_out_with_a_warning(single: Recording) -> None:
    one, two = single.values.clone(), single.values.clone()
    one[:, 0], two[:, 1] = torch.nan, torch.nan
    recs = [with_data(single, x, subject=f"w{i}") for i, x in enumerate((one, two))]
    with pytest.warns(TectumWarning, match="1 pairs were never recorded together"):
        result = model().fit(recs).result_
    assert result.sizes["pair"] == 350
    assert [0, 1] not in result.pair_units.T.tolist()
    assert float(result.affinity_matrix(0)[0, 1]) == 0.0


def test_units_in_any_order_give_the_same_result(animals: list[Recording], fitted: DynamicConnectome) -> None:
    rng = np.random.default_rng(0)
    mixed = [picked(rec, rng.permutation(27).tolist()) for rec in animals]
    same(model().fit(mixed).result_, fitted.result_)


def test_unidentified_units_and_sure_identities(animals: list[Recording], fitted: DynamicConnectome) -> None:
    def relabelled(rec: Recording, w: int) -> Recording:
        extra = torch.randn(320, 3, generator=torch.Generator().manual_seed(w))
        names = [*rec.coords["unit"]["name"].tolist(), None, "12", ""]
        return with_data(rec, torch.cat([rec.values, extra], 1), coords={"unit": {"name": names}})

    result = model().fit([relabelled(rec, w) for w, rec in enumerate(animals)]).result_
    same(result, fitted.result_)


@pytest.mark.filterwarnings(NEVER_TOGETHER)
def test_identities_of_low_confidence_count_as_unidentified(animals: list[Recording], single: Recording) -> None:
    sure = np.ones(27)
    sure[4] = 0.2
    recs = [named(rec, rec.coords["unit"]["name"], confidence=sure) for rec in animals]
    assert "n004" in model().fit(recs).result_.units
    assert "n004" not in model(min_confidence=0.5).fit(recs).result_.units
    alone = named(single, single.coords["unit"]["name"], confidence=sure)
    assert "u004" in model(min_confidence=0.5).fit(alone).result_.units  # one recording needs no identities


@pytest.mark.filterwarnings("ignore:DynamicConnectome. units without any sample")
@pytest.mark.filterwarnings(NEVER_TOGETHER)
def test_min_animals_decides_which_units_are_kept(animals: list[Recording]) -> None:
    recs = [animals[0], *(picked(rec, range(20)) for rec in animals[1:])]
    assert len(model().fit(recs).result_.units) == 20
    assert len(model(min_animals=1).fit(recs).result_.units) == 27


@pytest.mark.parametrize("labels", [None, list(range(27)), [None] * 27, [7] * 27])
def test_one_recording_needs_no_names(
    single: Recording, fitted_single: DynamicConnectome, labels: list[Any] | None
) -> None:
    coords = {} if labels is None else {"unit": {"id": labels}}
    result = model().fit(dataclasses.replace(single, coords=coords)).result_
    same(result, fitted_single.result_)
    assert len(set(result.units)) == 27
    assert result.units[26] == ("26" if labels == list(range(27)) else "u026")


@pytest.mark.parametrize("axis", ["channel", "voxel", "vertex"])
def test_other_axes_play_the_part_of_units(single: Recording, fitted_single: DynamicConnectome, axis: str) -> None:
    turned = Recording(data=single.values.T.contiguous(), dims=(axis, "time"), rate=4.0)
    same(model().fit(turned).result_, fitted_single.result_)


def test_columns_of_the_unit_table_come_along(animals: list[Recording]) -> None:
    recs = [named(rec, rec.coords["unit"]["name"], x=np.arange(27.0), type=["s", "m", "i"] * 9) for rec in animals]
    mixed = [recs[0], *(picked(rec, range(26, -1, -1)) for rec in recs[1:])]
    table = model().fit(mixed).result_.coords["unit"]
    assert table["x"].tolist() == list(range(27))
    assert table["type"].tolist() == ["s", "m", "i"] * 9


def test_a_masked_block_leaves_its_bins_out_and_keeps_time(single: Recording) -> None:
    late = dataclasses.replace(single, t0=100.0)
    cut = late.restrict(Intervals.from_pairs([(100.0, 130.0), (150.0, 180.0)]))
    result = model().fit(cut).result_
    margin = 2  # 3 standard deviations of the derivative filter, 1.5 s, touch two bins
    expected = [*range(100, 130 - margin + 1), *range(150 + margin - 1, 180)]
    assert result.time.tolist() == [float(t) for t in expected]
    assert result.solver == "fibre"
    assert result.blocks == ((0, 29), (29, 58))
    assert result.traces is not None
    assert not bool(torch.isnan(result.traces[:28]).any())
    late_fit = model().fit(late.restrict(Intervals.from_pairs([(100.0, 130.0)]))).result_
    assert late_fit.time[0] == 100.0


def test_masked_samples_are_never_read(single: Recording) -> None:
    mask = torch.ones(320, 1, dtype=torch.bool)
    mask[100:180] = False
    spoilt = torch.where(mask, single.values, 1e6 * torch.rand(320, 27))
    clean = torch.where(mask, single.values, torch.nan)
    first = model().fit(with_data(single, spoilt, mask=mask)).result_
    same(first, model().fit(with_data(single, clean)).result_)


def test_long_gaps_of_single_units_take_the_general_solver(single: Recording) -> None:
    x = single.values.clone()
    x[80:120, 3] = torch.nan
    result = model().fit(with_data(single, x)).result_
    assert result.solver == "em"
    assert result.sizes["time"] == 80
    with pytest.raises(InputError, match=r"NaN in part of a fibre; use solver='em'"):
        model(solver="fibre").fit(with_data(single, x))


@pytest.mark.parametrize("kind", ["corrected", "sliding_abs_corr"])
def test_short_gaps_are_bridged(single: Recording, kind: str) -> None:
    x = single.values.clone()
    x[80:83, 3] = torch.nan
    result = model(affinity=kind).fit(with_data(single, x)).result_
    whole = model(affinity=kind).fit(single).result_
    assert result.solver == "fibre"
    assert factor_match_score(result.cp, whole.cp) > 0.95


def test_irregular_times_are_resampled_on_request(single: Recording, fitted_single: DynamicConnectome) -> None:
    jitter = torch.rand(320, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    times = single.time + 0.08 * jitter
    rec = dataclasses.replace(single, rate=None, times=times)
    with pytest.raises(InputError, match=r"'sim00': expected regular sampling .* got jitter .* pass resample=True"):
        model().fit(rec)
    result = model(resample=True, bin=1.0).fit(rec).result_
    assert abs(result.dt - 1.0) < 0.05
    assert abs(float(result.time[0]) - float(times[0])) < 1e-9
    assert factor_match_score(_first_bins(result, 78), _first_bins(fitted_single.result_, 78)) > 0.85


def _first_bins(result: DynamicConnectomeResult, n: int) -> Any:
    time, animal, pair = result.cp.factors
    return result.cp._replace(factors=(time[:n], animal, pair))


def test_different_rates_are_brought_to_one_on_request(single: Recording) -> None:
    slow = dataclasses.replace(single.isel(time=slice(0, 320, 2)), subject="slow")
    with pytest.raises(InputError, match=r"expected a sampling interval of 0\.\d+ s \(within 1 %\)"):
        model().fit([single, slow])
    result = model(resample=True, bin=2.0).fit([single, slow, dataclasses.replace(single, subject="b")])
    assert result.result_.sizes["time"] == 39
    assert result.result_.time.diff().unique().tolist() == [2.0]


def test_stimuli_in_other_orders_are_brought_to_one(stimulated: list[Recording]) -> None:
    def swapped(rec: Recording) -> Recording:
        """Exchange the 60 s around the first and second stimulus."""
        x = torch.cat([rec.values[:80], rec.values[320:560], rec.values[80:320], rec.values[560:]])
        spans = rec.intervals["stimuli"].pairs()
        moved = Intervals.from_pairs([*spans[:2], spans[2]], name=np.asarray(["s2", "s1", "s3"]))
        return with_data(rec, x, intervals={"stimuli": moved})

    options = {"align": "stimulus", "before": 15.0, "after": 15.0, "rank": 4}
    plain = model(**options).fit(stimulated).result_
    mixed = model(**options).fit([stimulated[0], *map(swapped, stimulated[1:])]).result_
    assert plain.coords["stimulus"]["name"].tolist() == ["s1", "s2", "s3"]
    assert plain.blocks == mixed.blocks == ((0, 40), (40, 80), (80, 120))
    assert plain.coords["time"]["offset"][:2].tolist() == [-15.0, -14.0]
    assert plain.stimuli().pairs() == [(15.0, 25.0), (55.0, 65.0), (95.0, 105.0)]
    assert factor_match_score(plain.cp, mixed.cp) > 0.9
    assert plain.association.shape == (4, 3)
    assert bool(((plain.association_p > 0) & (plain.association_p <= 1)).all())


def test_stimuli_in_absolute_time_need_no_voucher(stimulated: list[Recording]) -> None:
    result = model(assume_aligned=False).fit(stimulated).result_
    assert result.stimuli().pairs() == [(60.0, 71.0), (120.0, 131.0), (180.0, 191.0)]  # bins that the stimulus touches


def test_repeated_events_are_averaged(stimulated: list[Recording]) -> None:
    events = [Intervals.from_pairs([(40.0 + w, 41.0 + w), (100.0, 101.0), (160.0, 161.0)]) for w in range(4)]
    recs = [dataclasses.replace(r, intervals={"reversals": e}) for r, e in zip(stimulated, events, strict=True)]
    result = model(align="event", events="reversals", around=10.0).fit(recs).result_
    assert result.time.tolist() == [float(t) for t in range(-10, 10)]
    assert result.sizes["stimulus"] == 0
    assert result.align == "event"


def test_bins(single: Recording, fitted_single: DynamicConnectome) -> None:
    every = model(bin=None).fit(single).result_
    assert (every.sizes["time"], every.dt) == (320, DT)
    assert fitted_single.result_.dt == 1.0
    course = every.time_factor.reshape(80, 4, 3).mean(1)
    other = fitted_single.result_.time_factor
    match = torch.nn.functional.normalize(course, dim=0).T @ torch.nn.functional.normalize(other, dim=0)
    assert bool((match.amax(1) > 0.9).all())


@pytest.mark.parametrize("kind", ["corrected", "differential", "differential_instant", "sliding_abs_corr"])
def test_every_kind_of_affinity(animals: list[Recording], kind: str) -> None:
    result = model(affinity=kind).fit(animals).result_
    assert result.affinity == kind
    assert (result.pair_sign is None) == (kind == "sliding_abs_corr")
    assert 0 < result.error < 1


def _antiphase() -> Recording:
    """Six units driven together, three of them upside down."""
    drive = torch.randn(400, generator=torch.Generator().manual_seed(0)).cumsum(0)
    sign = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
    noise = 0.05 * torch.randn(400, 6, generator=torch.Generator().manual_seed(1))
    return Recording(data=drive[:, None] * sign + noise, dims=("time", "unit"), rate=4.0)


@pytest.mark.parametrize(("sign", "kept"), [("abs", {-1.0, 1.0}), ("same", {1.0}), ("opposite", {-1.0})])
def test_signs_separate_common_from_opposite_changes(sign: str, kept: set[float]) -> None:
    result = model(rank=1, sign=sign).fit(_antiphase()).result_
    assert result.pair_sign is not None
    strong = result.pair_factor[:, 0] > 0.2 * result.pair_factor[:, 0].max()
    assert set(result.pair_sign[strong].tolist()) == kept


def test_a_global_drive_is_reported_and_can_be_removed() -> None:
    drive = 3 * torch.randn(480, generator=torch.Generator().manual_seed(0)).cumsum(0)
    own = torch.randn(480, 12, generator=torch.Generator().manual_seed(1)).cumsum(0)
    rec = Recording(data=drive[:, None] + own, dims=("time", "unit"), rate=4.0)
    with_drive = model(rank=1).fit(rec).result_
    without = model(rank=1, remove_global=True).fit(rec).result_
    assert bool(with_drive.is_global[0])
    assert float(without.weight[0]) < 0.3 * float(with_drive.weight[0])


@pytest.mark.parametrize("rule", ["stability", "spectrum"])
@pytest.mark.filterwarnings("ignore:rank_report. no rank is both stable")
def test_the_rank_is_chosen_from_the_candidates(animals: list[Recording], rule: str) -> None:
    result = model(rank=None, ranks=(1, 2, 3), rank_rule=rule).fit(animals).result_
    assert result.rank_grid is not None
    assert result.rank_error is not None
    assert result.rank_grid.tolist() == [1, 2, 3]
    assert result.n_components in (1, 2, 3)
    assert bool((result.rank_error.diff() < 0).all())


def test_a_rank_must_be_named_where_gaps_forbid_the_search(single: Recording) -> None:
    x = single.values.clone()
    x[80:120, 3] = torch.nan
    with pytest.raises(InputError, match=r"rank: expected an integer with solver 'em'.*gaps in time"):
        model(rank=None).fit(with_data(single, x))


@pytest.mark.parametrize("solver", ["fibre", "em", "cp_opt"])
def test_every_solver_finds_the_same_motifs(single: Recording, solver: str) -> None:
    options = {"rank": 2, "max_iter": 200}
    best = model(**options).fit(single).result_
    other = model(**options, solver=solver).fit(single).result_
    assert other.solver == solver
    assert abs(other.error - best.error) < 0.01 * best.error


def test_a_fit_continues_from_a_result(animals: list[Recording]) -> None:
    begun = model(max_iter=10, restarts=3).fit(animals)
    further = model(max_iter=30).fit(animals, init=begun.result_)
    assert further.result_.error < begun.result_.error
    assert further.result_.sizes["start"] == 1
    free = model(rank=None, max_iter=20).fit(animals, init=begun.result_)
    assert free.result_.n_components == 3


def test_a_fit_continues_only_from_a_result_on_the_same_axes(
    animals: list[Recording], single: Recording, fitted_single: DynamicConnectome
) -> None:
    with pytest.raises(InputError, match="expected a DynamicConnectomeResult, got str"):
        model().fit(single, init="result")
    with pytest.raises(InputError, match="expected a result on the same bins, animals and units"):
        model().fit(animals, init=fitted_single.result_)


def test_surrogates_give_each_motif_a_p_value(single: Recording) -> None:
    result = model(rank=2, surrogates=4).fit(single).result_
    assert result.surrogate_norm is not None
    assert result.surrogate_p is not None
    assert result.surrogate_p_holm is not None
    assert result.surrogate_norm.shape == (4, 2)
    torch.testing.assert_close(result.observed_norm, result.weight)  # nothing is missing
    expected = (1 + (result.surrogate_norm >= result.weight).sum(0)) / 5
    torch.testing.assert_close(result.surrogate_p, expected)
    assert bool((result.surrogate_p_holm >= result.surrogate_p).all())
    with pytest.raises(InputError, match=r"surrogate_shift: expected at most half of the shortest recording \(80 s\)"):
        model(surrogates=4, surrogate_shift=50.0).fit(single)


def test_surrogates_of_a_recording_with_a_gap_roll_what_was_recorded(single: Recording) -> None:
    cut = single.restrict(Intervals.from_pairs([(0.0, 30.0), (50.0, 80.0)]))
    result = model(rank=2, surrogates=2).fit(cut).result_
    assert result.surrogate_norm is not None
    assert bool((result.surrogate_norm > 0).all())


def test_leave_one_out_compares_fits_without_each_animal(animals: list[Recording], single: Recording) -> None:
    result = model(leave_one_out=True).fit(animals).result_
    assert result.subject_similarity is not None
    assert result.subject_similarity.shape == (4,)
    assert bool(((result.subject_similarity > 0.2) & (result.subject_similarity <= 1)).all())
    with pytest.raises(InputError, match="leave_one_out: expected two recordings or more"):
        model(leave_one_out=True).fit(single)


def test_double_precision(animals: list[Recording], fitted: DynamicConnectome) -> None:
    result = model(dtype="float64").fit(animals).result_
    assert {t.dtype for _, _, t in result.tensors() if t.is_floating_point()} == {torch.float64}
    assert factor_match_score(result.cp, _double(fitted.result_)) > 0.999


def _double(result: DynamicConnectomeResult) -> Any:
    cp = result.cp
    return cp._replace(weights=cp.weights.double(), factors=tuple(f.double() for f in cp.factors))


def test_a_streamed_tensor_gives_the_result_of_the_whole(animals: list[Recording], fitted: DynamicConnectome) -> None:
    same(model(memory=1e-4).fit(animals).result_, fitted.result_, rtol=1e-3, atol=1e-3)


def test_the_same_seed_gives_the_same_result_and_another_does_not(
    animals: list[Recording], fitted: DynamicConnectome
) -> None:
    same(model().fit(animals).result_, fitted.result_)
    other = model(random_state=1).fit(animals).result_
    assert not other.start_error.equal(fitted.result_.start_error)


# Ready affinities


def _affinities(recs: list[Recording], **options: Any) -> Recording:
    """The affinities that the estimator computes, at every sample, as a recording."""
    how = Settings.of(model(bin=None, **options))
    run = tectum.core.estimator.Run(torch.device("cpu"), torch.float32, 0)
    made = prepare(gather(recs, how), how, run)
    first, second = ([made.units[i] for i in side] for side in made.source.index.tolist())
    return Recording(
        data=made.source.dense(max_bytes=2**30), dims=("time", "subject", "pair"), rate=4.0, t0=recs[0].t0,
        coords={"pair": {"first": first, "second": second}, "subject": {"name": made.animals}},
        intervals=recs[0].intervals,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ready(animals: list[Recording]) -> Recording:
    return _affinities(animals)


def test_ready_affinities_give_the_fit_of_their_traces(
    animals: list[Recording], ready: Recording, fitted: DynamicConnectome
) -> None:
    result = model().fit(ready).result_
    expected = fitted.result_
    assert (result.affinity, result.solver, result.units) == ("given", "fibre", expected.units)
    for name in ("weight", "time_factor", "subject_factor", "pair_factor", "observed", "pair_units"):
        torch.testing.assert_close(getattr(result, name), getattr(expected, name), rtol=1e-3, atol=1e-4)
    assert result.traces is None
    assert result.pair_sign is None
    with pytest.raises(InputError, match="ready affinities"):
        result.trace_back(0)


def test_ready_affinities_in_any_order(ready: Recording) -> None:
    turned = ready.isel(pair=slice(None), time=slice(None))
    order = np.random.default_rng(0).permutation(ready.sizes["pair"])
    table = ready.coords["pair"]
    mixed = dataclasses.replace(
        turned, data=ready.values.permute(2, 0, 1)[order].contiguous(), dims=("pair", "time", "subject"),
        coords={**ready.coords, "pair": {"first": table["second"][order], "second": table["first"][order]}},
    )  # fmt: skip
    fit, plain = model().fit(mixed), model().fit(ready)
    assert fit.result_.error == pytest.approx(plain.result_.error, rel=0.02)
    courses, other = plain.transform(ready), plain.transform(mixed)
    assert courses.dims == ("time", "subject", "component")
    torch.testing.assert_close(courses.values, other.values)
    assert plain.score(mixed) == pytest.approx(plain.score(ready))
    assert plain.score(ready) > 1 - plain.result_.error**2


def test_ready_affinities_with_stimuli_gaps_and_one_animal_less(stimulated: list[Recording]) -> None:
    given = _affinities(stimulated)
    fit = model(leave_one_out=True).fit(given)
    assert fit.result_.coords["stimulus"]["name"].tolist() == ["s1", "s2", "s3"]
    assert fit.result_.subject_similarity is not None
    cut = given.restrict(Intervals.from_pairs([(0.0, 60.0), (100.0, 160.0)]))
    assert model().fit(cut).result_.time.tolist() == [float(t) for t in (*range(60), *range(100, 160))]
    with pytest.raises(ContractError, match="expected affinity 'given', got traces"):
        fit.transform(stimulated[0])


def _spoilt(ready: Recording, value: float) -> Recording:
    x = ready.values.clone()
    x[5, 0, int((~torch.isnan(x[0, 0])).nonzero()[0])] = value
    return with_data(ready, x)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-0.1, r"expected affinities in \[0, 1\], got \[-0.1, .*take absolute values"),
        (1.1, r"expected affinities in \[0, 1\], got \[0, 1.1\]; divide"),
        (float("inf"), r"expected affinities in \[0, 1\], got \[0, inf\]"),
    ],
)
def test_e6_ready_affinities_out_of_range(ready: Recording, value: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model().fit(_spoilt(ready, value))


def test_e6_part_of_a_fibre_needs_the_general_solver(ready: Recording) -> None:
    holed = ready.values.clone()
    holed[20:40, 0, int((~torch.isnan(holed[0, 0])).nonzero()[0])] = torch.nan
    with pytest.raises(InputError, match="NaN in part of a fibre; use solver='em'"):
        model(solver="fibre").fit(with_data(ready, holed))
    assert model().fit(with_data(ready, holed)).result_.solver == "em"


def test_e6_ready_affinities_need_the_names_of_their_units(ready: Recording) -> None:
    with pytest.raises(InputError, match="expected coordinates 'first' and 'second' of the pair axis"):
        model().fit(dataclasses.replace(ready, coords={}))
    table = {side: column.copy() for side, column in ready.coords["pair"].items()}
    table["first"][1], table["second"][1] = table["second"][0], table["first"][0]
    with pytest.raises(InputError, match="expected every pair once.*'n000', 'n001'"):
        model().fit(dataclasses.replace(ready, coords={"pair": table}))
    with pytest.raises(InputError, match=r"one recording with axes \('time', 'subject', 'pair'\)"):
        model().fit([ready, ready])
    with pytest.raises(InputError, match="surrogates: expected traces to roll"):
        model(surrogates=2).fit(ready)


# Ways out


def test_transform_of_training_data_follows_the_motifs(single: Recording, fitted_single: DynamicConnectome) -> None:
    courses = fitted_single.transform(single)
    assert courses.dims == ("time", "component")
    assert (courses.rate, courses.t0) == (1.0, 0.0)
    result = fitted_single.result_
    expected = result.time_factor * result.weight * result.subject_factor[0]
    torch.testing.assert_close(courses.values, expected, rtol=0.05, atol=0.05 * float(expected.max()))
    assert fitted_single.score(single) == pytest.approx(1 - result.error**2, abs=1e-3)


def test_transform_of_several_recordings_is_a_list(animals: list[Recording], fitted: DynamicConnectome) -> None:
    courses = fitted.transform(animals)
    assert [c.subject for c in courses] == [rec.subject for rec in animals]
    alone = fitted.transform([animals[0]])
    assert isinstance(alone, list)
    torch.testing.assert_close(alone[0].values, courses[0].values)
    assert fitted.score(animals) > 1 - fitted.result_.error**2


def test_units_permuted_or_missing_at_transform(single: Recording, fitted_single: DynamicConnectome) -> None:
    expected = fitted_single.transform(single).values
    order = np.random.default_rng(1).permutation(27).tolist()
    torch.testing.assert_close(fitted_single.transform(picked(single, order)).values, expected)
    fewer = fitted_single.transform(picked(single, order[:22])).values
    assert torch.corrcoef(torch.stack([fewer.flatten(), expected.flatten()]))[0, 1] > 0.9
    extra = torch.cat([single.values, torch.randn(320, 1)], 1)
    more = with_data(single, extra, coords={"unit": {"name": [*single.coords["unit"]["name"], "new"]}})
    torch.testing.assert_close(fitted_single.transform(more).values, expected)


def test_units_that_nobody_knows_are_refused(single: Recording, fitted_single: DynamicConnectome) -> None:
    with pytest.raises(ContractError, match="at least two units seen in training, got units x0, x1"):
        fitted_single.transform(named(single, [f"x{i}" for i in range(27)]))
    with pytest.raises(ContractError, match="expected units with names, got 27 units without names"):
        fitted_single.transform(dataclasses.replace(single, coords={}))
    nameless = model().fit(dataclasses.replace(single, coords={}))
    with pytest.raises(ContractError, match="expected 27 of them, got 20 units without names"):
        nameless.transform(dataclasses.replace(picked(single, range(20)), coords={}))
    torch.testing.assert_close(
        nameless.transform(dataclasses.replace(single, coords={})).values, fitted_single.transform(single).values
    )


def test_transform_marks_time_without_data(single: Recording, fitted_single: DynamicConnectome) -> None:
    cut = single.restrict(Intervals.from_pairs([(10.0, 30.0), (50.0, 70.0)]))
    courses = fitted_single.transform(cut)
    assert (courses.t0, courses.sizes["time"]) == (10.0, 60)
    gone = torch.isnan(courses.values).all(1)
    assert bool(gone[20:40].all())
    assert not bool(torch.isnan(courses.values[:18]).any())


@pytest.mark.filterwarnings(NEVER_TOGETHER)
def test_score_prefers_held_out_animals_to_rolled_ones(animals: list[Recording]) -> None:
    fit = model(rank=4).fit(animals[:3])
    draw = torch.Generator().manual_seed(0)
    rolled = tectum.models.dynamic_connectome.scores.roll_units(animals[3].values, min_shift=40, generator=draw)
    held, null = fit.score(animals[3]), fit.score(with_data(animals[3], rolled))
    assert null + 0.05 < held < 1


@pytest.mark.filterwarnings(NEVER_TOGETHER)
def test_cross_validation_over_animals_and_over_time(animals: list[Recording], single: Recording) -> None:
    over_animals = cross_validate(model(), animals, folds=2)
    over_time = cross_validate(model(), single, folds=4, gap=6.0)
    assert over_animals.shape == (2,)
    assert over_time.shape == (4,)
    assert bool(((over_animals > 0) & (over_animals < 1)).all())
    assert bool(((over_time > 0) & (over_time < 1)).all())


def test_saved_and_loaded_models_agree(
    tmp_path: Path, animals: list[Recording], partitioned: DynamicConnectome
) -> None:
    fitted = partitioned
    path = fitted.save(tmp_path / "model")
    back = tectum.load(path)
    same(back.result_, fitted.result_)
    assert back.get_params() == {**fitted.get_params(), "device": "cpu"}
    assert back.score(animals[0]) == fitted.score(animals[0])
    torch.testing.assert_close(back.transform(animals[0]).values, fitted.transform(animals[0]).values, rtol=0, atol=0)


def test_the_result_as_xarray(partitioned: DynamicConnectome) -> None:
    data, result = partitioned.result_.to_xarray(), partitioned.result_
    assert data["time_factor"].dims == ("time", "component")
    assert data["pair_factor"].sizes == {"pair": result.sizes["pair"], "component": 3}
    np.testing.assert_array_equal(data["traces"].values, result.traces)
    np.testing.assert_array_equal(data["coassignment"].values, result.coassignment)


def test_groups_matrix_and_traces_of_a_motif(partitioned: DynamicConnectome) -> None:
    result = partitioned.result_
    matrix = result.affinity_matrix(0)
    assert matrix.equal(matrix.T)
    assert float(matrix.max()) == 1.0
    groups = result.groups(0)
    assert sorted(u for group in groups for u in group) == result.units
    assert [len(g) for g in groups] == sorted((len(g) for g in groups), reverse=True)
    found = result.trace_back(0, block=result.strongest_block(0))
    assert found.traces.shape == (80, len(groups[result.strongest_block(0)]))
    probability = result.marginal[0].nansum(1)
    torch.testing.assert_close(probability, torch.ones_like(probability))
    with pytest.raises(InputError, match="expected 0 to 2, got 3"):
        result.groups(3)
    with pytest.raises(InputError, match="expected a block of motif 0"):
        result.trace_back(0, block=99)


def test_nothing_to_ask_before_a_fit(single: Recording) -> None:
    with pytest.raises(NotFittedError, match="call fit first"):
        model().transform(single)


def test_inputs_and_options_are_left_alone(single: Recording) -> None:
    before, options = single.values.clone(), model().get_params()
    fit = model().fit(single)
    assert single.values.equal(before)
    assert fit.get_params() == options


def test_too_many_units_for_a_partition_are_said(single: Recording) -> None:
    with pytest.warns(TectumWarning, match="27 units are more than partition_limit=20: no motif is partitioned"):
        result = model(partition_limit=20).fit(single).result_
    assert result.n_blocks(0) == 0
    assert result.groups(0) == []
    assert result.strongest_block(0) == -1


# Bad inputs, E1 to E12 of the specification


def test_e1_shapes(single: Recording) -> None:
    trials = Recording(data=single.values[None], dims=("trial", "time", "unit"), rate=4.0, subject="worm7")
    with pytest.raises(InputError, match=r"'worm7': expected axes .* shape \(1, 320, 27\); select or reduce trial"):
        model().fit(trials)
    with pytest.raises(InputError, match=r"'sim00': expected at least 16 samples \(8 sigma\), got shape \(15, 27\)"):
        model().fit(single.isel(time=slice(0, 15)))
    with pytest.raises(InputError, match=r"'sim00': expected at least 3 units, got shape \(320, 2\)"):
        model().fit(picked(single, [0, 1]))
    x = single.values.clone()
    x[:, 2:] = torch.nan
    with pytest.raises(InputError, match="at least 3 units with samples, got samples of 2 of 27 units"):
        model().fit(with_data(single, x))


def test_e1_other_containers(single: Recording) -> None:
    spikes = tectum.Spikes(times=torch.arange(5.0), unit=torch.zeros(5, dtype=torch.int32), n_units=1)
    with pytest.raises(InputError, match=r"expected a Recording or a list of them, got Spikes; bin the spikes"):
        model().fit(spikes)
    with pytest.raises(InputError, match="expected a Recording or a list of them, got Intervals"):
        model().fit([single, Intervals.from_pairs([(0.0, 1.0)])])


def test_e2_clocks(single: Recording) -> None:
    times = single.time.clone()
    times[100:] += 0.2
    with pytest.raises(InputError, match=r"'sim00': expected regular sampling .* jitter 80% of 320 samples"):
        model().fit(dataclasses.replace(single, rate=None, times=times))
    with pytest.raises(InputError, match="strictly increasing times"):
        dataclasses.replace(single, rate=None, times=times.flip(0))
    with pytest.raises(InputError, match="expected 320 times"):
        dataclasses.replace(single, rate=None, times=times[1:])


def test_e3_duplicate_identities(single: Recording, animals: list[Recording]) -> None:
    names = ["AVAL", "AVAL", "AVAR", "AVAR", *(f"n{i}" for i in range(23))]
    for data in (named(single, names), [named(animals[0], names), *animals[1:]]):
        with pytest.raises(InputError, match="'sim00': expected each identity once, got duplicates AVAL, AVAR"):
            model().fit(data)


def test_e4_no_shared_identity(animals: list[Recording]) -> None:
    strangers = [named(rec, [f"w{w}n{i}" for i in range(27)]) for w, rec in enumerate(animals)]
    with pytest.raises(InputError, match=r"shared by at least 2 animals, got labels: 108 in 1 of 4 animals"):
        model().fit(strangers)
    with pytest.raises(InputError, match="got labels: none"):
        model().fit([named(rec, list(range(27))) for rec in animals])


def test_e5_infinite_and_missing_samples(animals: list[Recording]) -> None:
    there = (~torch.isnan(animals[1].values).all(0)).nonzero().flatten()
    x = animals[1].values.clone()
    x[3, there[0]] = torch.inf
    x[:200, there[1]] = torch.nan
    recs = [animals[0], with_data(animals[1], x), *animals[2:]]
    bad = ", ".join(f"n{int(i):03d}" for i in there[:2])
    with pytest.raises(InputError, match=rf"at most 50% NaN, got bad units in animal 'sim01' \({bad}\); clean them"):
        model().fit(recs)
    with pytest.warns(TectumWarning, match=rf"animal 'sim01' \({bad}\); dropped"):
        result = model(on_bad="drop").fit(recs).result_
    assert result.traces is not None
    assert bool(torch.isnan(result.traces[:, 1, there[:2]]).all())
    assert result.solver == "fibre"


def test_e5_a_masked_half_is_not_a_missing_unit(single: Recording) -> None:
    cut = single.restrict(Intervals.from_pairs([(0.0, 15.0), (65.0, 80.0)]))
    assert model().fit(cut).result_.sizes["time"] < 32


def test_e7_animals_without_a_common_time(animals: list[Recording], stimulated: list[Recording]) -> None:
    with pytest.raises(InputError, match="got 4 spontaneous recordings; else every component describes one animal"):
        model(assume_aligned=False).fit(animals)
    short = [animals[0].isel(time=slice(0, 300)), *animals[1:]]
    with pytest.raises(InputError, match=r"no events and lengths \[300, 320, 320, 320\]"):
        model().fit(short)
    with pytest.raises(InputError, match="events in every animal for align='stimulus', got none in animal 'sim00'"):
        model(align="stimulus").fit(animals)
    with pytest.raises(InputError, match="intervals 'stimulus' in animal 'sim00', got intervals stimuli; did you mean"):
        model(align="stimulus", events="stimulus").fit(stimulated)


@pytest.mark.parametrize("rank", [0, -1, 2.5])
def test_e8_ranks_that_are_none(single: Recording, rank: Any) -> None:
    with pytest.raises(InputError, match=r"DynamicConnectome\.rank: expected"):
        model(rank=rank).fit(single)


def test_e8_a_rank_above_what_the_tensor_holds(single: Recording) -> None:
    with pytest.raises(InputError, match=r"rank: expected 1 <= rank <= .* = 80, got rank=81"):
        model(rank=81).fit(single)


def test_e9_collapsed_motifs_are_dropped_with_a_warning() -> None:
    course = torch.zeros(40)
    course[0] = 1.0
    first, second = torch.triu_indices(5, 5, 1).tolist()
    pairs = {"first": [f"a{i}" for i in first], "second": [f"a{i}" for i in second]}
    data = course[:, None, None].expand(40, 1, 10).contiguous()
    rec = Recording(data=data, dims=("time", "subject", "pair"), rate=1.0, coords={"pair": pairs})
    begun = model(rank=2).fit(rec).result_
    columns = {"time_factor": course, "subject_factor": torch.ones(1), "pair_factor": torch.ones(10)}
    dead = {name: torch.stack([x, torch.zeros_like(x)], 1) for name, x in columns.items()}
    with pytest.warns(TectumWarning, match="1 of 2 components collapsed to zero and were dropped"):
        result = model(rank=2).fit(rec, init=dataclasses.replace(begun, weight=torch.ones(2), **dead)).result_
    assert result.n_components == 1
    assert result.sizes["component"] == len(result.partition) == 1


def test_e10_motifs_with_few_edges_have_no_partition(single: Recording) -> None:
    with pytest.warns(TectumWarning, match="no partition of motif 0, 1, 2, which have fewer than 54 pairs above"):
        result = model(partition_limit=100, floor=1.0).fit(single).result_
    assert bool((result.partition == -1).all())
    assert bool(torch.isnan(result.contrast).all())
    assert result.weight_models == ("", "", "")


def test_e11_lags_longer_than_the_recording(single: Recording) -> None:
    with pytest.raises(InputError, match=r"blocks longer than the longest lag \(400 samples\), got a block of 320"):
        model(lags=(2.0, 100.0)).fit(single)
    with pytest.raises(InputError, match="lags of 3 samples or more"):
        model(lags=(0.25,)).fit(single)


def test_e12_tensors_above_the_limit(single: Recording) -> None:
    with pytest.raises(TooLargeError, match=r"memory: expected at most 0.0001 GiB.*use stream=True, a longer bin"):
        model(memory=1e-4, stream=False).fit(single)
    x = single.values.clone()
    x[80:120, 3] = torch.nan
    with pytest.raises(TooLargeError, match=r"solver 'em'; use a longer bin"):
        model(memory=1e-4).fit(with_data(single, x))


@pytest.mark.parametrize(
    ("option", "value"),
    [("bin", 0.0), ("bin", "1 s"), ("affinity", "correlation"), ("align", "clock"), ("floor", 2.0), ("restarts", 0)],
)
def test_options_out_of_range_are_named(single: Recording, option: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"DynamicConnectome\.{option}: expected"):
        model(**{option: value}).fit(single)


def test_constant_units_are_said(single: Recording) -> None:
    x = single.values.clone()
    x[:, 5] = 2.0
    with pytest.warns(TectumWarning, match=r"constant traces have no affinity: animal 'sim00' \(n005\)"):
        result = model().fit(with_data(single, x)).result_
    assert float(result.affinity_matrix(0)[5].max()) < 1e-6


# Devices


@pytest.mark.slow
def test_a_fit_on_an_accelerator_agrees_with_the_processor(accelerator: torch.device, single: Recording) -> None:
    from support.simulated_accelerator import NAME

    options = {"partition_limit": 100, "rank": 1, "max_iter": 12, "surrogates": 1}
    here = model(**options).fit(single)
    there = model(**options, **{"device": NAME}).fit(single)
    assert {t.device.type for _, _, t in there.result_.tensors()} == {NAME}
    same(there.result_.to("cpu"), here.result_, rtol=1e-3, atol=1e-4)
    assert there.score(single) == pytest.approx(here.score(single), rel=1e-4)
    courses = there.transform(single).values.cpu(), here.transform(single).values
    torch.testing.assert_close(*courses, rtol=1e-3, atol=1e-3)
