"""Cutting a recording: against xarray, against naive loops, and without copies where a view will do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tectum.core.errors import AxisError, InputError
from tectum.core.intervals import Intervals
from tectum.core.recording import Recording

quick = settings(deadline=None, derandomize=True, max_examples=40)
N, UNITS = 40, 4


def made(t0: float = 0.0, rate: float = 10.0, **changes) -> Recording:
    rng = np.random.default_rng(1)
    fields = {
        "data": torch.from_numpy(rng.normal(size=(N, UNITS))),
        "dims": ("time", "unit"),
        "rate": rate,
        "t0": t0,
        "coords": {"unit": {"id": list("abcd"), "area": ["x", "x", "y", "y"]}},
        "mask": torch.from_numpy(rng.random((N, UNITS)) > 0.2),
    }
    return Recording(**{**fields, **changes})


def shares_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


slices = st.builds(
    slice,
    st.one_of(st.none(), st.integers(-N, N)),
    st.one_of(st.none(), st.integers(-N, N)),
    st.one_of(st.none(), st.integers(1, 5)),
)
unit_part = st.one_of(
    st.integers(-UNITS, UNITS - 1),
    st.lists(st.integers(-UNITS, UNITS - 1), max_size=5),
    st.lists(st.booleans(), min_size=UNITS, max_size=UNITS).map(np.array),
    st.builds(slice, st.integers(0, UNITS), st.integers(0, UNITS)),
)


@quick
@given(slices, unit_part)
def test_isel_equals_xarray(time, unit):
    rec = made(t0=3.0)
    mine = rec.isel(time=time, unit=unit)
    theirs = rec.to_xarray().isel(time=time, unit=np.asarray(unit, dtype=np.int64) if isinstance(unit, list) else unit)
    np.testing.assert_array_equal(mine.data.numpy(), theirs.values)
    np.testing.assert_array_equal(mine.mask.numpy(), theirs["valid"].values)
    np.testing.assert_allclose(mine.time.numpy(), theirs["time"].values, rtol=0, atol=1e-12)
    if "unit" in mine.dims:
        assert mine.labels("unit").tolist() == theirs["unit"].values.tolist()
    else:
        assert mine.meta["selected"]["unit"]["id"] == theirs["unit"].item()


@quick
@given(st.integers(0, N - 1), st.integers(1, N), st.sampled_from([0.0, 1e9]))
def test_sel_time_equals_xarray(first, length, t0):
    rec = made(t0=t0, rate=8.0)
    start, stop = t0 + first / 8, t0 + (first + length) / 8
    mine, theirs = rec.sel(time=(start, stop)), rec.to_xarray().sel(time=slice(start, np.nextafter(stop, -np.inf)))
    np.testing.assert_array_equal(mine.data.numpy(), theirs.values)
    assert mine.t0 == start
    assert rec.sel(time=slice(start, stop)).data.tolist() == mine.data.tolist()


@quick
@given(st.lists(st.integers(0, N), min_size=1, max_size=5))
def test_slicing_commutes_with_concatenation(cuts):
    rec = made()
    edges = [0, *sorted(cuts), N]
    pieces = [rec.isel(time=slice(a, b)) for a, b in zip(edges, edges[1:], strict=False)]
    assert torch.equal(torch.cat([p.data for p in pieces]), rec.data)
    assert torch.equal(torch.cat([p.mask for p in pieces]), rec.mask)
    np.testing.assert_allclose(torch.cat([p.time for p in pieces]), rec.time, rtol=0, atol=1e-12)


def test_sel_by_label():
    rec = made()
    assert rec.sel(unit="c").shape == (N,)
    assert torch.equal(rec.sel(unit=["d", "a"]).data, rec.data[:, [3, 0]])
    assert rec.sel(unit={"area": "y"}).labels("unit").tolist() == ["c", "d"]
    assert rec.sel(time=0.55).t0 == 0.5
    numbered = made(coords={"unit": {"id": [7, 8, 9, 10]}})
    assert numbered.sel(unit=9).meta["selected"]["unit"] == {"id": 9}


def test_sel_on_irregular_times():
    times = torch.tensor([0.0, 1.0, 2.5, 4.0], dtype=torch.float64)
    rec = Recording(data=torch.arange(4.0), dims=("time",), times=times)
    assert rec.sel(time=(1.0, 4.0)).data.tolist() == [1.0, 2.0]
    assert rec.sel(time=(None, 2.5)).data.tolist() == [0.0, 1.0]
    assert [rec.sel(time=t).data.item() for t in (0.0, 0.9, 2.5, 3.9, 4.0)] == [0, 0, 2, 2, 3]
    assert rec.sel(time=2.6).t0 == 2.5
    for outside in (-0.1, 4.1):
        with pytest.raises(InputError, match="a time in the recording"):
            rec.sel(time=outside)


def test_strides_and_reordering_of_time():
    rec = made(t0=2.0)
    thin = rec.isel(time=slice(1, None, 3))
    assert thin.rate == pytest.approx(10 / 3)
    assert thin.t0 == pytest.approx(2.1)
    np.testing.assert_allclose(thin.time, rec.time[1::3])
    some = rec.isel(time=[0, 1, 7])
    assert some.rate is None
    np.testing.assert_allclose(some.times, rec.time[[0, 1, 7]])
    with pytest.raises(InputError, match="strictly increasing"):
        rec.isel(time=slice(None, None, -1))


@pytest.mark.parametrize(
    "cut", [lambda r: r.isel(time=slice(3, 9)), lambda r: r.isel(unit=1), lambda r: r.windows(0.5, hop=0.1)]
)
def test_views_do_not_copy(cut):
    rec = made()
    part = cut(rec)
    assert shares_memory(part.data, rec.data)
    assert shares_memory(part.mask, rec.mask)


@quick
@given(st.integers(1, N), st.integers(1, N), st.sampled_from([("time", "unit"), ("unit", "time")]))
def test_windows_equal_a_loop(size, hop, dims):
    rec = made(t0=1.0)
    rec = rec if dims == rec.dims else rec.with_(data=rec.data.T, mask=rec.mask.T, dims=dims)
    found = rec.windows(size / 10, hop=hop / 10)
    axis = dims.index("time")
    starts = range(0, N - size + 1, hop)
    assert found.dims == ("trial", *dims)
    assert torch.equal(found.data, torch.stack([rec.data.narrow(axis, s, size) for s in starts]))
    assert torch.equal(found.mask, torch.stack([rec.mask.narrow(axis, s, size) for s in starts]))
    np.testing.assert_allclose(found.labels("trial", "start"), [1.0 + s / 10 for s in starts])
    np.testing.assert_allclose(found.labels("trial", "stop"), [1.0 + (s + size) / 10 for s in starts])
    assert found.t0 == 0.0


@quick
@given(st.lists(st.integers(-5, N + 5), min_size=1, max_size=8), st.integers(-6, 3), st.integers(1, 8))
def test_epochs_equal_a_loop(events, before, length):
    rec = made(t0=100.0, coords={"unit": {"id": list("abcd")}, "time": {"frame": np.arange(N)}})
    table = Intervals.from_pairs([(100 + e / 10, 100 + e / 10 + 0.05) for e in events], n=events)
    firsts = [e + before for e in sorted(events) if e + before >= 0 and e + before + length <= N]
    window = (before / 10, (before + length) / 10)
    if not firsts:
        with pytest.raises(InputError, match="none inside"):
            rec.epochs(table, window)
        return
    found = rec.epochs(table, window)
    assert torch.equal(found.data, torch.stack([rec.data[f : f + length] for f in firsts]))
    assert torch.equal(found.mask, torch.stack([rec.mask[f : f + length] for f in firsts]))
    assert found.labels("trial", "n").tolist() == [f - before for f in firsts]
    assert found.t0 == pytest.approx(before / 10)
    assert found.history[-1]["dropped"] == len(events) - len(firsts)


@quick
@given(st.lists(st.tuples(st.integers(-3, N + 3), st.integers(-3, N + 3)).map(sorted), min_size=1, max_size=4))
def test_restrict_masks_what_lies_outside(pairs):
    rec = made()
    inside = np.zeros(N, dtype=bool)
    for a, b in pairs:
        inside[max(0, a) : max(0, b)] = True
    spans = Intervals.from_pairs([(a / 10 - 1e-9, b / 10 - 1e-9) for a, b in pairs])
    if not inside.any():
        with pytest.raises(InputError, match="intervals that miss it"):
            rec.restrict(spans)
        return
    found = rec.restrict(spans)
    first, last = np.flatnonzero(inside)[[0, -1]]
    assert found.t0 == pytest.approx(first / 10)
    assert torch.equal(found.data, rec.data[first : last + 1])
    np.testing.assert_array_equal(found.valid().numpy(), (rec.mask.numpy() & inside[:, None])[first : last + 1])
    assert found.intervals["support"].duration == pytest.approx(spans.duration)


def test_a_mask_of_size_one_survives_every_cut():
    rec = made(mask=torch.tensor([[True, False, True, True]]))
    assert rec.isel(time=slice(2, 5)).valid().shape == (3, UNITS)
    assert rec.isel(time=0).valid().tolist() == [True, False, True, True]
    assert rec.windows(1.0).valid()[2, 3].tolist() == [True, False, True, True]
    assert rec.epochs(Intervals.from_pairs([(1, 2)]), (0, 1)).valid()[0, 0].tolist() == [True, False, True, True]
    assert rec.restrict(Intervals.from_pairs([(1, 2)])).valid()[0].tolist() == [True, False, True, True]


def test_empty_selections():
    rec = made()
    assert rec.isel(unit=[]).shape == (N, 0)
    assert rec.isel(time=slice(5, 5)).shape == (0, UNITS)
    for wanted in ({"unit": []}, {"unit": {"area": "z"}}, {"time": (99.0, 100.0)}):
        with pytest.raises(InputError, match="expected an entry to match"):
            rec.sel(**wanted)
    assert rec.sel(unit=[], allow_empty=True).shape == (N, 0)
    assert rec.sel(time=(99.0, 100.0), allow_empty=True).shape == (0, UNITS)
    away = Intervals.from_pairs([(99, 100)])
    with pytest.raises(InputError, match="intervals that miss it; pass allow_empty=True"):
        rec.restrict(away)
    none = rec.restrict(away, allow_empty=True)
    assert (none.shape, none.valid().shape) == ((0, UNITS), (0, UNITS))
    assert none.intervals["support"].pairs() == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: r.isel(unit=4), InputError, r"isel\(unit\): expected a mask of 4 or positions in \[-4, 4\)"),
        (lambda r: r.isel(unit=[True, False]), InputError, "a mask of 4"),
        (lambda r: r.isel(unit=[[0, 1]]), InputError, "a one-dimensional index"),
        (lambda r: r.isel(unit=[0.5]), InputError, "positions in"),
        (lambda r: r.isel(unit="a"), InputError, "positions in"),
        (lambda r: r.sel(unti="a"), AxisError, "Recording.sel.*did you mean 'unit'"),
        (lambda r: r.sel(unit="e"), InputError, "a label that occurs once, got 'e'"),
        (lambda r: r.sel(unit={"aera": "x"}), InputError, "did you mean 'area'"),
        (lambda r: r.with_(coords={}).sel(unit="a"), InputError, "an axis with a 'name' or 'id' column"),
        (lambda r: r.with_(coords={"unit": {"id": list("aabc")}}).sel(unit="a"), InputError, "2 times"),
        (lambda r: r.sel(time=-0.1), InputError, "a time in the recording, got -0.1 s"),
        (lambda r: r.epochs("trials", (0, 1)), InputError, "intervals among"),
        (lambda r: r.epochs(Intervals.from_pairs([(1, 2)]), (1, 1)), InputError, "at least one sample"),
        (lambda r: r.windows(5.0), InputError, r"length in \[0.1, 4\] s"),
        (lambda r: r.windows(1.0, hop=0.01), InputError, "hop >= 0.1 s"),
        (lambda r: r.windows(1.0).windows(0.5), InputError, "a continuous recording"),
        (lambda r: r.isel(time=[0, 3]).windows(0.5), InputError, "a continuous recording.*resample first"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(made())
