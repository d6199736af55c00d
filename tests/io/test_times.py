"""Times and lengths as damaged files hold them: the first fault is named, repairs are asked for and noted."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import nwb

import tectum
from tectum.core.errors import InputError, LoadError, TectumWarning
from tectum.io.events import frame_times, make_spikes
from tectum.io.files import load_npy
from tectum.io.table import read_array

quick = settings(deadline=None, derandomize=True, max_examples=80)
moments = st.one_of(st.integers(0, 6).map(float), st.just(float("nan")))


@quick
@given(st.lists(moments, min_size=1, max_size=12))
def test_frame_times_against_a_loop(times: list[float]) -> None:
    first, kept, highest = None, [], -np.inf
    for k, time in enumerate(times):
        if np.isnan(time) or time <= highest:
            first = k if first is None else first
        else:
            kept.append(k)
        highest = highest if np.isnan(time) else max(highest, time)
    if first is None:
        assert frame_times(np.array(times))[1] is None
        return
    with pytest.raises(InputError, match=rf"finite, strictly increasing times, got \S+ at {first}\b.*fix='sort'"):
        frame_times(np.array(times))
    found, place = frame_times(np.array(times), fix="drop")
    assert (place.tolist(), found.tolist()) == (kept, [times[k] for k in kept])
    found, place = frame_times(np.array(times), fix="sort")
    known = {time: times.index(time) for time in times if not np.isnan(time)}  # the first frame of each time
    assert (found.tolist(), place.tolist()) == (sorted(known), [known[time] for time in sorted(known)])


@quick
@given(st.lists(st.tuples(moments, st.integers(0, 2)), min_size=1, max_size=12))
def test_spike_times_against_a_loop(events: list[tuple[float, int]]) -> None:
    times, unit = np.array([t for t, _ in events]), np.array([u for _, u in events])
    lost = [bool(np.isnan(t)) for t in times]
    back = [
        not lost[k] and any(unit[j] == unit[k] and times[j] > times[k] for j in range(k) if not lost[j])
        for k in range(len(times))
    ]
    if any(lost):
        with pytest.raises(InputError, match=rf"{sum(lost)} NaN or infinite, the first at {lost.index(True)}; .*drop"):
            make_spikes(times, unit, n_units=3)
    elif any(back):
        with pytest.raises(InputError, match=rf"negative interval before event {back.index(True)}; .*fix='sort'"):
            make_spikes(times, unit, n_units=3)
    else:
        assert len(make_spikes(times, unit, n_units=3)) == len(times)
    dropped = make_spikes(times, unit, n_units=3, fix="drop")
    good = [k for k in range(len(times)) if not lost[k] and not back[k]]
    assert dropped.times.tolist() == sorted(times[good].tolist())
    assert dropped.history[0] | {"dropped": len(times) - len(good), "backward": sum(back)} == dropped.history[0]
    if not any(lost):
        assert make_spikes(times, unit, n_units=3, fix="sort").times.tolist() == sorted(times.tolist())


def test_spikes_beyond_a_support_are_counted() -> None:
    support = tectum.Intervals.from_pairs([(0, 100)])
    times = np.append(np.arange(97.0), [100.0, 101.0, 102.0])
    with pytest.warns(TectumWarning, match="3 of 100 events lie outside the support"):
        made = make_spikes(times, np.zeros(100, int), n_units=1, support=support)
    assert len(made) == 100
    make_spikes(times[:98], np.zeros(98, int), n_units=1, support=tectum.Intervals.from_pairs([(0, 101)]))
    with pytest.raises(InputError, match="divide samples by the sampling rate"):
        make_spikes(times + 200, np.zeros(100, int), n_units=1, support=support)


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (0, "8 bytes got 0"),
        (5, "8 bytes got 5"),
        (100, "118 bytes got 90"),
        (300, "expected 480 bytes .*, got 172 bytes"),
    ],
)
def test_a_file_of_numpy_that_was_cut_off_says_how_much_is_left(kept: int, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((20, 3)))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(LoadError, match=rf"x\.npy.*{says}"):
        load_npy(path)


def test_a_file_of_hdf5_that_was_cut_off_says_how_much_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.nwb"
    nwb.write_plain(path)
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[: whole // 2])
    with pytest.raises(LoadError, match=rf"a\.nwb.*truncated file: eof = {whole // 2}.* = {whole}") as caught:
        tectum.read(path)
    assert isinstance(caught.value.__cause__, OSError)


def test_datasets_of_references_are_no_numbers(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=["a", "b"], dtype=h5py.string_dtype())
    with pytest.raises(LoadError, match=r"x\.h5.*(numbers|dtype|text)"):
        read_array(tmp_path / "x.h5", dims=("time",), rate=1.0)
