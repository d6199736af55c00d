"""Spikes: construction, selection, and binning that is exact on edges."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tectum.core.errors import InputError, TectumWarning, TooLargeError
from tectum.core.intervals import Intervals
from tectum.core.spikes import Spikes

quick = settings(deadline=None, derandomize=True, max_examples=40)
trains = st.lists(st.lists(st.floats(0, 9.99), max_size=20), min_size=1, max_size=4)


@quick
@given(trains)
def test_trains_come_back_sorted(given_trains):
    spikes = Spikes.from_trains(given_trains, support=(0, 10))
    assert [t.tolist() for t in spikes.trains()] == [sorted(t) for t in given_trains]
    assert spikes.counts().tolist() == [len(t) for t in given_trains]
    for unit, train in enumerate(given_trains):
        assert spikes.train(unit).tolist() == sorted(train)
        assert spikes.rates()[unit] == pytest.approx(len(train) / 10)


@quick
@given(trains, st.sampled_from([0.1, 0.37, 1.0, 3.0]))
def test_counts_add_up_and_agree_with_numpy_away_from_edges(given_trains, dt):
    spikes = Spikes.from_trains(given_trains, support=(0, 10))
    binned = spikes.bin(dt)
    n = binned.sizes["time"]
    assert n == int(10 / dt + 1e-9)
    inside = Spikes.from_trains([[t for t in train if t < n * dt - 1e-6] for train in given_trains])
    edges = np.arange(n + 1) * dt
    for unit, train in enumerate(given_trains):
        near = any(abs(t - e) < 1e-6 * dt for t in train for e in edges)
        if not near:
            expected = np.histogram(train, bins=edges)[0]
            assert binned.data[:, unit].tolist() == expected.tolist()
            assert int(binned.data[:, unit].sum()) == int(inside.counts()[unit])
    assert binned.data.dtype == torch.int32
    assert binned.units == "spikes/bin"


@pytest.mark.parametrize("dt", [Fraction(1, 10), Fraction(1, 100), Fraction(1, 3), Fraction(1, 30)])
@pytest.mark.parametrize("shift", [0, 10**9])
def test_a_spike_on_an_edge_counts_in_the_bin_it_opens(dt, shift):
    n = 600
    times = [float(Fraction(shift) + k * dt) for k in range(n)]
    spikes = Spikes.from_trains([times], support=(float(shift), float(Fraction(shift) + n * dt)))
    binned = spikes.bin(float(dt))
    assert binned.data.flatten().tolist() == [1] * n
    assert binned.mask is None
    assert binned.t0 == shift
    edge = [float(Fraction(shift) + k * dt) for k in (7, 11)]
    part = spikes.bin(float(dt), start=edge[0], stop=edge[1])
    assert part.data.flatten().tolist() == [1] * 4


@quick
@given(trains)
def test_a_shifted_clock_gives_the_same_counts(given_trains):
    grid = [[round(t * 64) / 64 for t in train] for train in given_trains]  # exact at 1e9 s too
    here = Spikes.from_trains(grid, support=(0, 10)).bin(0.125)
    there = Spikes.from_trains(grid, support=(0, 10)).shift(1e9).bin(0.125)
    assert here.data.tolist() == there.data.tolist()


@quick
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted), max_size=5))
def test_bins_are_valid_where_the_support_covers_them_whole(pairs):
    support = Intervals.from_pairs([(a / 4, b / 4) for a, b in pairs])
    spikes = Spikes(times=torch.zeros(0), unit=torch.zeros(0, dtype=torch.int32), n_units=2, support=support)
    binned = spikes.bin(0.5, start=0.0, stop=10.0)
    quarter = np.zeros(40, dtype=bool)
    for a, b in pairs:
        quarter[a:b] = True
    np.testing.assert_array_equal(binned.valid()[:, 0].numpy(), quarter.reshape(20, 2).all(1))
    assert int(binned.data.sum()) == 0


def test_an_incomplete_last_bin_is_dropped_and_reported():
    binned = Spikes.from_trains([[0.1, 0.95]], support=(0, 1)).bin(0.3)
    assert binned.data.flatten().tolist() == [1, 0, 0]
    assert binned.history[-1]["step"] == "bin"
    assert binned.history[-1]["dropped"] == pytest.approx(0.1)


@quick
@given(trains, st.data())
def test_select_keeps_units_in_the_order_asked(given_trains, data):
    order = data.draw(st.permutations(range(len(given_trains))))[: data.draw(st.integers(1, len(given_trains)))]
    spikes = Spikes.from_trains(
        given_trains, support=(0, 10), units={"id": [f"u{i}" for i in range(len(given_trains))]}
    )
    chosen = spikes.select(list(order))
    assert [t.tolist() for t in chosen.trains()] == [sorted(given_trains[i]) for i in order]
    assert chosen.units["id"].tolist() == [f"u{i}" for i in order]
    mask = [i in order for i in range(len(given_trains))]
    by_mask = spikes.select(torch.tensor(mask))
    assert [t.tolist() for t in by_mask.trains()] == [sorted(given_trains[i]) for i in sorted(order)]


@quick
@given(trains)
def test_the_finest_bins_are_right_to_a_thousandth(given_trains):
    dt, t0 = 2500 * math.ulp(1e9), 1e9
    train = t0 + np.unique([round(t * 37) for t in sum(given_trains, [])]) * (10 * math.ulp(1e9))
    counts = Spikes.from_trains([train], support=(t0, t0 + 4000 * math.ulp(1e9) * 1.5)).bin(dt).data[:, 0].tolist()
    exact = [Fraction(t) - Fraction(t0) for t in train.tolist()]
    place = [int(t / Fraction(dt) + Fraction(1, 1000)) for t in exact]
    assert counts == [place.count(k) for k in range(len(counts))]


@quick
@given(st.lists(st.lists(st.integers(0, 60), max_size=20), min_size=1, max_size=4), st.booleans())
def test_duplicates_against_a_loop(ticks, across):
    spikes = Spikes.from_trains([[t / 8 for t in train] for train in ticks], support=(0, 10))
    found = spikes.remove_duplicates(0.25, across_units=across)
    last, kept = {}, []
    for time, unit in zip(spikes.times.tolist(), spikes.unit.tolist(), strict=True):
        key = 0 if across else unit
        if time - last.get(key, -1.0) >= 0.25:
            kept.append((time, unit))
        last[key] = time
    assert list(zip(found.times.tolist(), found.unit.tolist(), strict=True)) == kept
    assert found.history[-1]["dropped"] == len(spikes) - len(kept)
    assert found.span.pairs() == [(0.0, 10.0)]


def test_an_empty_selection_where_it_is_meant():
    spikes = Spikes.from_trains([[1.0], [2.0]], support=(0, 4), units={"id": ["a", "b"]})
    none = spikes.select([], allow_empty=True)
    assert (none.n_units, len(none), none.units["id"].tolist()) == (0, 0, [])
    assert none.bin(1.0).shape == (4, 0)
    never = spikes.restrict(Intervals.from_pairs([(4, 5)]), allow_empty=True)
    assert (len(never), never.span.pairs(), never.n_units) == (0, [], 2)
    silent = spikes.restrict(Intervals.from_pairs([(2.5, 3.5)]))  # observed, and nothing was fired
    assert (len(silent), silent.span.pairs()) == (0, [(2.5, 3.5)])


@quick
@given(trains)
def test_restrict_commutes_with_binning(given_trains):
    spikes = Spikes.from_trains(given_trains, support=(0, 10))
    inner = Intervals.from_pairs([(2, 7)])
    part = spikes.restrict(inner)
    assert part.span.pairs() == [(2, 7)]
    assert part.bin(0.5).data.tolist() == spikes.bin(0.5).data[4:14].tolist()


def test_default_support_reaches_just_beyond_the_last_spike():
    spikes = Spikes.from_trains([[1.0, 3.0]])
    assert spikes.restrict(spikes.span).counts().tolist() == [2]


def test_rates_count_only_the_observed_time():
    times, unit = torch.tensor([0.5, 1.5, 2.5]), torch.zeros(3, dtype=torch.int32)
    spikes = Spikes(times=times, unit=unit, n_units=1, support=Intervals.from_pairs([(0, 2)]))
    assert spikes.rates().tolist() == [1.0]


def test_no_spikes_and_no_units():
    silent = Spikes.from_trains([[], []], support=(0, 1))
    assert silent.bin(0.5).data.tolist() == [[0, 0], [0, 0]]
    assert [len(t) for t in silent.trains()] == [0, 0]
    nobody = Spikes.from_trains([])
    assert nobody.trains() == []
    assert len(nobody.span) == 0
    with pytest.raises(InputError, match="a support or both start and stop"):
        nobody.bin(0.1)
    assert nobody.bin(0.1, start=0, stop=1).shape == (10, 0)


def test_every_dtype_of_unit_index_and_no_wrap_around():
    for dtype in (np.uint8, np.uint16, np.int64, np.uint64):
        assert Spikes.from_events([0.0, 1.0], np.array([0, 1], dtype=dtype), n_units=2).unit.dtype == torch.int32
    with pytest.raises(InputError, match="unit indices in"):
        Spikes.from_events([0.0], np.array([2**32]), n_units=2)  # 0 in int32
    with pytest.raises(InputError, match="Spikes.unit: expected integers, got torch.float64"):
        Spikes.from_events([0.0], [0.5], n_units=2)


def test_events_outside_the_support():
    with pytest.raises(InputError, match=r"inside the support .* got times from 30000 to 60000; divide samples"):
        Spikes.from_trains([[30_000.0, 60_000.0]], support=(0, 10))
    with pytest.warns(TectumWarning, match="1 of 3 events lie outside the support"):
        Spikes.from_trains([[1.0, 2.0, 20.0]], support=(0, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Spikes.from_trains([np.linspace(0, 10, 1000)], support=(0, 10))  # the last of 1000 is outside: below 1 %


def test_too_many_counts_are_refused_before_they_are_allocated():
    with pytest.raises(TooLargeError, match="at most 2e.09 counts, got 3600000000 bins of 1 units; choose wider bins"):
        Spikes.from_trains([[0.0]], support=(0, 3600)).bin(1e-6)


def gappy(given_trains, pairs):
    """Return spikes of which some may lie outside the support."""
    return replace(Spikes.from_trains(given_trains, support=(0, 10)), support=Intervals.from_pairs(pairs))


@quick
@given(trains, st.sampled_from([0.1, 0.37, 1.0]), st.integers(1, 40))
def test_blocks_are_the_pieces_of_the_whole(given_trains, dt, n_bins):
    spikes = gappy(given_trains, [(0, 4.2), (5, 10)])
    whole = spikes.bin(dt)
    pieces = list(spikes.blocks(dt, n_bins))
    assert torch.cat([p.data for p in pieces]).tolist() == whole.data.tolist()
    assert torch.cat([p.valid() for p in pieces]).tolist() == whole.valid().tolist()
    assert torch.cat([p.time for p in pieces]).tolist() == pytest.approx(whole.time.tolist(), abs=1e-9)
    assert {p.sizes["time"] for p in pieces[:-1]} <= {n_bins}


def test_blocks_of_what_is_too_large_for_memory():
    spikes = Spikes.from_trains([[0.5, 3600.0]], support=(0, 7200))
    pieces = spikes.blocks(1e-6, 1_000_000)  # 7.2e9 counts, a million at a time
    assert int(next(pieces).data.sum()) == 1
    assert int(next(pieces).data.sum()) == 0


@pytest.mark.parametrize("dt", [Fraction(1, 10), Fraction(1, 3), Fraction(1, 30)])
@pytest.mark.parametrize("shift", [0, 10**9])
def test_a_spike_on_an_edge_around_an_event_counts_in_the_bin_it_opens(dt, shift):
    events = [Fraction(shift) + Fraction(k, 8) * 60 for k in range(1, 9)]
    times = sorted({float(e + k * dt) for e in events for k in range(-7, 12)})
    spikes = Spikes.from_trains([times], support=(float(shift) - 9, float(shift) + 99))
    around = spikes.epochs([float(e) for e in events], (float(-5 * dt), float(9 * dt)), float(dt))
    assert around.shape == (8, 14, 1)
    assert around.data.unique().tolist() == [1]
    assert around.mask is None
    assert around.t0 == float(-5 * dt)


@quick
@given(trains, st.lists(st.floats(-1, 11), min_size=1, max_size=6), st.sampled_from([0.1, 0.25, 0.9]))
def test_epochs_are_histograms_around_each_event(given_trains, events, dt):
    spikes = gappy(given_trains, [(0, 4), (5, 10)])
    around = spikes.epochs(events, (-1.0, 1.5), dt)
    n = int(2.5 / dt + 1e-9)
    assert around.sizes == {"trial": len(events), "time": n, "unit": len(given_trains)}
    for trial, event in enumerate(sorted(events)):
        edges = event - 1.0 + np.arange(n + 1) * dt
        inside = [(a >= -1e-9 and b <= 4 + 1e-9) or (a >= 5 - 1e-9 and b <= 10 + 1e-9) for a, b in pairwise(edges)]
        if not any(min(abs(e - x) for x in (0, 4, 5, 10)) < 1e-5 for e in edges):
            assert around.valid()[trial, :, 0].tolist() == inside
        for unit, train in enumerate(given_trains):
            if not any(abs(t - e) < 1e-5 for t in train for e in edges):
                assert around.data[trial, :, unit].tolist() == np.histogram(train, bins=edges)[0].tolist()
    assert around.coords["trial"]["start"].tolist() == sorted(events)


def test_epochs_of_a_table_of_events():
    spikes = Spikes.from_trains([[1.05], [2.15]], support=(0, 4))
    trials = Intervals.from_pairs([(2, 3), (1, 2)], word=["b", "a"])
    around = spikes.epochs(trials, (0.0, 0.25), 0.1)
    assert around.data.tolist() == [[[1, 0], [0, 0]], [[0, 0], [0, 1]]]
    assert around.coords["trial"]["word"].tolist() == ["a", "b"]
    assert around.history[-1]["dropped"] == pytest.approx(0.05)
    silent = Spikes.from_trains([[], []], support=Intervals.from_pairs([]))
    assert not silent.epochs([1.0], (0, 1), 0.5).valid().any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Spikes.from_trains([[float("nan")]]), "finite times in s, got 1 NaN or infinite"),
        (
            lambda: Spikes(times=[1.0, 0.0], unit=[0, 0], n_units=1),
            "a step back after spike 0; Spikes.from_events sorts",
        ),
        (lambda: Spikes(times=[1.0, 2.0], unit=[0], n_units=1), "times and unit of one length"),
        (lambda: Spikes(times=[1.0], unit=[1], n_units=1), r"unit indices in \[0, 1\), got 1 to 1"),
        (lambda: Spikes(times=[1.0], unit=[-1], n_units=1), "got -1 to -1"),
        (lambda: Spikes.from_trains([[1.0]], units={"id": [1, 2]}), r"Spikes.units\['id'\]: expected 1 entries, got 2"),
        (lambda: Spikes.from_trains([[1.0], [2.0]]).select([]), "an empty selection; pass allow_empty=True"),
        (
            lambda: Spikes.from_trains([[1.0]], support=(0, 2)).restrict(Intervals.from_pairs([(2, 3)])),
            "meet the support, got 1 intervals that miss it; pass allow_empty=True",
        ),
        (lambda: Spikes.from_trains([[1.0], [2.0]]).select([0, 0]), "a unit twice"),
        (lambda: Spikes.from_trains([[1.0], [2.0]]).select(2), "positions in"),
        (lambda: Spikes.from_trains([[1.0]]).remove_duplicates(0.0), r"remove_duplicates\(window\): expected a finite"),
        (lambda: Spikes.from_trains([[1.0]]).remove_duplicates(float("nan")), "a finite time above 0 s, got nan"),
        (lambda: Spikes.from_trains([[1.0]], support=(0, 2)).bin(0.0), r"Spikes.bin\(dt\): expected a finite width"),
        (lambda: Spikes.from_trains([[1.0]], support=(0, 2)).bin(-1), "above 0 s, got -1"),
        (lambda: Spikes.from_trains([[1.0]], support=(0, 2)).bin(float("inf")), "a finite width"),
        (lambda: Spikes.from_trains([[1.0]], support=(0, 2)).bin(5.0), "at least one bin of 5 s"),
        (lambda: Spikes.from_trains([[1.0]], support=(0, 2)).bin(1.0, start=2, stop=1), "at least one bin"),
        (
            lambda: Spikes.from_trains([[1e9]], support=(1e9, 1e9 + 1)).bin(2e-4),
            r"at least 0.00024 s, 2000 ticks of float64 at 1e\+09 s, got 0.0002; shift the clock",
        ),
        (
            lambda: Spikes.from_trains([[1.0]], support=(0, 2)).blocks(0.1, 0),
            r"Spikes.blocks\(n_bins\): expected n_bins >= 1",
        ),
        (lambda: Spikes.from_trains([[1.0]]).epochs([], (0, 1), 0.1), "at least one event, got none"),
        (
            lambda: Spikes.from_trains([[1.0]]).epochs([[1.0]], (0, 1), 0.1),
            r"Intervals or times \(n,\), got shape \(1, 1\)",
        ),
        (
            lambda: Spikes.from_trains([[1.0]]).epochs([1.0], (1, 0), 0.1),
            r"\(start, stop\) in s, start first, got \(1, 0\)",
        ),
        (lambda: Spikes.from_trains([[1.0]]).epochs([1.0], 1.0, 0.1), r"\(start, stop\) in s, start first, got 1.0"),
        (lambda: Spikes.from_trains([[1.0]]).epochs([1.0], (0, 1), 2.0), "at least one bin of 2 s"),
        (lambda: Spikes.from_trains([[1.0]]).epochs([1.0], (0, 1), 0), r"Spikes.epochs\(dt\): expected a finite width"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make()
