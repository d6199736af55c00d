"""Windows for a DataLoader: every sample once, uniform draws, whole trials, padding, and what does not fit."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tectum.core.errors import InputError
from tectum.core.intervals import Intervals
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording
from tectum.core.spikes import Spikes
from tectum.core.windows import Windows, pad


def recording(n: int = 50, units: int = 3, **fields: Any) -> Recording:
    data = torch.arange(n * units, dtype=torch.float32).reshape(n, units)
    return Recording(**{"data": data, "dims": ("time", "unit"), "rate": 10.0, **fields})


spans = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted), min_size=1, max_size=4)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(spans, st.integers(1, 12), st.sampled_from([0.0, 1e9]))
def test_every_sample_of_the_support_comes_once_and_in_order(pairs: Any, size: int, t0: float) -> None:
    support = Intervals.from_pairs([(t0 + a / 10, t0 + b / 10) for a, b in pairs])
    rec = recording(t0=t0, intervals={"support": support})
    expected = sorted({k for a, b in pairs for k in range(a, min(b, 50))})
    if not expected:
        with pytest.raises(InputError, match="at least one window"):
            Windows(rec, length=size / 10)
        return
    windows = Windows(rec, length=size / 10)
    seen = [int(row) for k in range(len(windows)) for row in windows[k].data[:, 0] / 3]
    assert seen == expected
    assert all(1 <= len(windows[k].data) <= size for k in range(len(windows)))
    starts = [float(windows[k].start) for k in range(len(windows))]
    np.testing.assert_allclose(starts, [t0 + float(windows[k].data[0, 0]) / 30 for k in range(len(windows))], atol=1e-6)


def test_masked_samples_end_a_stretch_and_single_masked_values_do_not() -> None:
    mask = torch.ones(50, 3, dtype=torch.bool)
    mask[10:12], mask[30, 1] = False, False
    windows = Windows(recording(mask=mask), length=1.0)
    assert [windows.place(k) for k in range(len(windows))] == [
        (0, 0, 10), (0, 12, 22), (0, 22, 32), (0, 32, 42), (0, 42, 50),
    ]  # fmt: skip
    assert windows[2].valid[8].tolist() == [True, False, True]


def test_random_windows_are_uniform_over_all_possible_starts() -> None:
    support = Intervals.from_pairs([(0.0, 1.2), (2.0, 2.3), (3.0, 4.4)])
    sessions = [recording(intervals={"support": support}), recording(20, 2)]
    windows = Windows(sessions, length=0.5, mode="random", n=6000, random_state=7)
    possible = [(0, k) for k in [*range(8), *range(30, 40)]] + [(1, k) for k in range(16)]
    drawn = [windows.place(k) for k in range(len(windows))]
    assert all(last - first == 5 for _, first, last in drawn)
    counts = [sum((which, first) == p for which, first, _ in drawn) for p in possible]
    assert sum(counts) == 6000
    assert scipy.stats.chisquare(counts).pvalue > 0.001


def test_a_draw_depends_on_seed_epoch_and_index_alone() -> None:
    windows = Windows(recording(), length=0.5, mode="random", n=20)
    first = [windows.place(k) for k in range(20)]
    copy = pickle.loads(pickle.dumps(windows))
    assert [copy.place(k) for k in reversed(range(20))] == first[::-1]
    windows.set_epoch(1)
    assert [windows.place(k) for k in range(20)] != first
    windows.set_epoch(0)
    assert [windows.place(k) for k in range(20)] == first
    assert len(Windows(recording(), length=0.7, mode="random")) == 7


def test_trials_are_given_whole_or_not_at_all() -> None:
    support = Intervals.from_pairs([(0.0, 2.0), (3.0, 5.0)])
    trials = Intervals.from_pairs([(0.1, 0.5), (1.8, 2.2), (3.0, 3.7), (4.9, 5.5)])
    windows = Windows(recording(intervals={"support": support, "go": trials}), mode="trials", trials="go")
    assert [windows.place(k) for k in range(len(windows))] == [(0, 1, 5), (0, 30, 37)]


def test_a_loader_pads_sessions_of_other_sizes(accelerator: torch.device) -> None:
    sessions = [recording(7), recording(5, 2, dims=("time", "unit"), t0=2.0)]
    (batch,) = DataLoader(Windows(sessions, length=0.4), batch_size=9, collate_fn=pad)
    assert tuple(batch.data.shape) == (4, 4, 3)
    assert batch.session.tolist() == [0, 0, 1, 1]
    assert batch.start.tolist() == [0.0, 0.4, 2.0, 2.4]
    assert batch.valid.sum((1, 2)).tolist() == [12, 9, 8, 2]
    assert float(batch.data[~batch.valid].abs().sum()) == 0.0
    there = Windows([s.to(accelerator) for s in sessions], length=0.4)
    assert torch.equal(pad([there[k] for k in range(4)]).data.cpu(), batch.data)


def test_time_comes_first_and_lazy_recordings_are_read_in_parts() -> None:
    class Source:
        shape, dtype, read = (3, 50), np.dtype("f4"), 0

        def __getitem__(self, index: Any) -> np.ndarray:
            self.read += 1
            return np.arange(150, dtype="f4").reshape(3, 50)[index]

    source = Source()
    rec = Recording(data=LazyArray(source), dims=("unit", "time"), rate=10.0)
    windows = Windows(rec, length=1.0)
    assert source.read == 0
    assert windows[1].data[:2].tolist() == [[10.0, 60.0, 110.0], [11.0, 61.0, 111.0]]
    assert source.read == 1
    counts = Spikes.from_trains([[0.1, 0.4], [0.2]], support=(0.0, 0.5)).bin(0.1)
    assert sum(int(window.data.sum()) for window in map(Windows(counts, length=0.2).__getitem__, range(3))) == 3


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Windows(recording(), length=0.01), r"Windows\(length\): expected at least one sample of 0.1 s"),
        (lambda: Windows(recording(), length=None), r"Windows\(length\): .* got None"),
        (lambda: Windows(recording(), length=9.0, mode="random"), "at least one window, got none"),
        (lambda: Windows(recording(), length=1.0, mode="any"), "'sequential', 'random' or 'trials', got 'any'"),  # type: ignore[arg-type]
        (lambda: Windows(recording(), mode="trials"), r"Windows\(trials\): expected intervals among \[\]"),
        (lambda: Windows([recording(), recording(rate=5.0)], length=1.0), r"one rate, got \[5.0, 10.0\] Hz"),
        (lambda: Windows(recording(rate=None, times=torch.arange(50.0) ** 1.1), length=1.0), "a regular rate"),
        (lambda: Windows(recording(), length=1.0, mode="random", n=0), r"Windows\(n\): expected a number of windows"),
        (lambda: pad([Windows(recording(), length=1.0)[0], Windows(recording().isel(unit=0), length=1.0)[0]]),
         "equally many axes"),
    ],
)  # fmt: skip
def test_bad_input(call: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()


def test_an_index_beyond_the_last_window() -> None:
    windows = Windows(recording(), length=1.0)
    assert torch.equal(windows[-1].data, windows[4].data)
    with pytest.raises(IndexError, match="window 5 of 5"):
        windows[5]
