"""Interval algebra against a grid of booleans; construction, rows, columns and bad input."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tectum.core.errors import InputError
from tectum.core.intervals import Intervals

N = 24  # seconds of the grid; all bounds are integers, so cell k covers [k, k + 1)
spans = st.lists(st.tuples(st.integers(0, N), st.integers(0, N)).map(sorted), max_size=8)
quick = settings(deadline=None, derandomize=True, max_examples=60)


def grid(pairs: list) -> np.ndarray:
    cells = np.zeros(N, dtype=bool)
    for start, stop in pairs:
        cells[int(start) : int(stop)] = True
    return cells


def disjoint(found: Intervals) -> bool:
    return all(a[1] < b[0] for a, b in zip(found.pairs(), found.pairs()[1:], strict=False)) and all(
        a < b for a, b in found.pairs()
    )


@quick
@given(spans, spans)
def test_algebra_equals_the_grid(a, b):
    left, right = Intervals.from_pairs(a), Intervals.from_pairs(b)
    for found, expected in [
        (left.union(right), grid(a) | grid(b)),
        (left.intersect(right), grid(a) & grid(b)),
        (left.subtract(right), grid(a) & ~grid(b)),
        (left.merged(), grid(a)),
    ]:
        np.testing.assert_array_equal(grid(found.pairs()), expected)
        assert disjoint(found)
        assert found.duration == expected.sum()


@quick
@given(spans)
def test_contains_is_half_open(a):
    times = torch.arange(N, dtype=torch.float64)
    found = Intervals.from_pairs(a)
    np.testing.assert_array_equal(found.contains(times).numpy(), grid(a))
    np.testing.assert_array_equal(found.contains(times + 0.5).numpy(), grid(a))
    assert found.contains(times.reshape(2, -1)).shape == (2, N // 2)


@quick
@given(spans, spans)
def test_within_keeps_rows_inside_the_merged_support(a, b):
    cells = grid(b)
    rows = Intervals.from_pairs(a, row=list(range(len(a))))
    kept = rows.within(Intervals.from_pairs(b))
    expected = [tuple(map(float, p)) for p in sorted(a) if p[0] < p[1] and cells[p[0] : p[1]].all()]
    assert sorted(p for p in kept.pairs() if p[0] < p[1]) == sorted(expected)
    assert all(tuple(a[r]) == p for r, p in zip(kept.columns["row"], kept.pairs(), strict=True))


@quick
@given(spans, st.sampled_from([0.3, 1.0, 2.5, 100.0]))
def test_split_covers_the_same_time_in_short_parts(a, length):
    whole = Intervals.from_pairs(a, row=list(range(len(a))))
    parts = whole.split(length)
    assert bool((parts.stop - parts.start <= length * (1 + 1e-8)).all())
    assert parts.duration == pytest.approx(whole.duration, abs=1e-9)
    assert parts.merged().pairs() == whole.merged().pairs()  # neighbours share their edge exactly
    if whole.duration:
        lengths = {}
        for row, (start, stop) in zip(parts.columns["row"], parts.pairs(), strict=True):
            lengths[row] = lengths.get(row, 0.0) + stop - start
        for row, total in lengths.items():
            assert total == pytest.approx(a[row][1] - a[row][0], abs=1e-9)


@quick
@given(spans, st.integers(-5, 5))
def test_shift_moves_and_comes_back(a, by):
    moved = Intervals.from_pairs(a, row=list(range(len(a)))).shift(by)
    assert moved.shift(-by).pairs() == Intervals.from_pairs(a).pairs()


@quick
@given(spans)
def test_spans_that_overlap_are_listed(a):
    found = Intervals.from_pairs(a)
    rows = found.pairs()
    pairs = [
        (i, j)
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
        if max(rows[i][0], rows[j][0]) < min(rows[i][1], rows[j][1])
    ]
    if not pairs:
        assert found.disjoint() is found
        return
    with pytest.raises(InputError, match=rf"{len(pairs)} pairs that overlap") as caught:
        found.disjoint()
    told = re.findall(r"rows (\d+) and (\d+)", str(caught.value))
    assert [(int(i), int(j)) for i, j in told] == pairs[:20]


def test_the_list_of_overlaps_is_short():
    everywhere = Intervals.from_pairs([(0, 1 + k) for k in range(3000)])
    with pytest.raises(
        InputError, match=r"4498500 pairs that overlap: rows 0 and 1, \(0.0, 1.0\).*, \.\.\.;"
    ) as caught:
        everywhere.disjoint()
    assert str(caught.value).count("rows") == 21  # twenty pairs and the word in the advice


def test_rows_are_sorted_with_their_columns():
    found = Intervals.from_pairs([(5, 6), (1, 9), (5, 5.5)], word=["b", "a", "c"])
    assert found.pairs() == [(1, 9), (5, 6), (5, 5.5)]
    assert found.columns["word"].tolist() == ["a", "b", "c"]
    assert found.where("word", ["a", "c"]).pairs() == [(1, 9), (5, 5.5)]
    assert found.where("word", "b").pairs() == [(5, 6)]
    assert len(found.where("word", "z")) == 0


@pytest.mark.parametrize("rows", [1, slice(1, 2), [1], np.array([1]), torch.tensor([False, True, False]), [-2]])
def test_indexing_rows(rows):
    assert Intervals.from_pairs([(0, 1), (2, 3), (4, 5)])[rows].pairs() == [(2, 3)]


def test_empty_rows_and_empty_table():
    empty = Intervals.from_pairs([(0, 1)])[[]]
    assert len(empty) == len(Intervals.from_pairs([])) == 0
    assert empty.duration == 0.0
    assert empty.merged().pairs() == empty.split(1.0).pairs() == []
    assert empty.union(Intervals.from_pairs([(0, 1)])).pairs() == [(0, 1)]
    assert not empty.contains(torch.zeros(3)).any()
    assert len(Intervals.from_pairs([(0, 1)]).within(empty)) == 0


def test_a_span_of_no_length_contains_nothing():
    assert not Intervals.from_pairs([(1, 1)]).contains(torch.tensor([0.5, 1.0, 1.5])).any()


def test_strided_times_do_not_warn_and_nan_is_outside():
    times = torch.arange(10, dtype=torch.float64)[::2]
    assert Intervals.from_pairs([(1, 5)]).contains(times).tolist() == [False, True, True, False, False]
    assert Intervals.from_pairs([(0, 1)]).contains(torch.tensor([float("nan")])).tolist() == [False]
    assert bool(Intervals.from_pairs([(0, 1)]).contains(torch.tensor(0.5)))


def test_the_callers_arrays_are_left_alone():
    start, stop = torch.tensor([3.0, 1.0], dtype=torch.float64), torch.tensor([4.0, 2.0], dtype=torch.float64)
    made = Intervals(start=start, stop=stop)
    start[0] = 99.0
    assert made.pairs() == [(1.0, 2.0), (3.0, 4.0)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Intervals(start=torch.zeros(2), stop=torch.zeros(1)), "2 starts, 1 stops"),
        (lambda: Intervals.from_pairs([(0, float("nan"))]), "finite bounds"),
        (lambda: Intervals.from_pairs([(0, float("inf"))]), "finite bounds"),
        (lambda: Intervals.from_pairs([(0, 1), (2, 1)]), r"start <= stop, got \[2, 1\) in row 1"),
        (lambda: Intervals.from_pairs([(0, 1)], word=["a", "b"]), r"word.*1 entries, got 2"),
        (lambda: Intervals.from_pairs([(0, 1)]).where("x", 1), "a column among"),
        (lambda: Intervals.from_pairs([(0, 1)]).split(0.0), "max_length > 0"),
        (lambda: Intervals.from_pairs([(0, 1)])[3], "positions in"),
        (lambda: Intervals.from_pairs([(0, 1)])[[True, False]], "a mask of 1"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make()
