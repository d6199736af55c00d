"""Pynapple's objects: what goes out comes back, but for what the module says is lost."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from writers import containers as made

import tectum
from tectum import Intervals, Recording, Session, Spikes
from tectum.core.errors import InputError, TectumWarning
from tectum.io.convert import from_pynapple, to_pynapple

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    nap = pytest.importorskip("pynapple")


@made.quick
@given(made.spikes())
def test_spikes_come_back(spikes: Spikes) -> None:
    group = to_pynapple(spikes)
    assert isinstance(group, nap.TsGroup)
    assert list(group.keys()) == spikes.units["id"].tolist()
    for key, train in zip(group.keys(), spikes.trains(), strict=True):
        np.testing.assert_allclose(group[key].t, train.numpy(), rtol=0, atol=1e-9)
    found = from_pynapple(group, subject=spikes.subject, session=spikes.session)
    made.same_spikes(found, spikes, atol=1e-9)


@made.quick
@given(made.recordings())
def test_recordings_come_back(rec: Recording) -> None:
    found = from_pynapple(to_pynapple(rec), units=rec.units, dims=("time", *[d for d in rec.dims if d != "time"]))
    np.testing.assert_array_equal(found.tensor(*rec.dims).numpy(), rec.values.numpy())
    np.testing.assert_allclose(found.time, rec.time, rtol=0, atol=1e-9)
    assert found.units == rec.units
    for axis, table in rec.coords.items():
        made.same_columns(found.coords[axis], table)


@made.quick
@given(made.intervals())
def test_intervals_come_back(spans: Intervals) -> None:
    found = tectum.read(to_pynapple(spans))
    np.testing.assert_allclose(found.start, spans.start, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.stop, spans.stop, rtol=0, atol=1e-9)
    made.same_columns(found.columns, spans.columns)


def test_their_objects_are_read() -> None:
    support = nap.IntervalSet([0, 10], [5, 20])
    ts = nap.Ts(np.array([0.5, 1.0, 12.0]), time_support=support)
    spikes = tectum.read(ts)
    assert (spikes.n_units, spikes.times.tolist()) == (1, [0.5, 1.0, 12.0])
    assert spikes.span.pairs() == [(0.0, 5.0), (10.0, 20.0)]
    assert tectum.read(nap.Ts(np.array([0.5, 1.0]))).restrict(Intervals.from_pairs([(0, 1.5)])).counts().tolist() == [2]
    tsd = tectum.read(nap.Tsd(np.arange(4.0) / 10, np.arange(4.0)))
    assert (tsd.dims, tsd.rate, tsd.units) == (("time",), 10.0, "a.u.")
    frame = from_pynapple(nap.TsdFrame(np.array([0.0, 0.1, 0.5]), np.zeros((3, 2)), columns=["x", "y"]), units="cm")
    assert frame.labels("unit").tolist() == ["x", "y"]
    assert (frame.rate, frame.units) == (None, "cm")
    tensor = nap.TsdTensor(np.arange(3.0), np.zeros((3, 2, 4)))
    assert from_pynapple(tensor, dims=("time", "y", "x")).sizes == {"time": 3, "y": 2, "x": 4}
    with pytest.raises(InputError, match=r"3 names for \(3, 2, 4\), got .*pass dims="):
        from_pynapple(tensor)
    session = from_pynapple({"a": ts, "b": tensor[:, 0]}, subject="m")
    assert isinstance(session, Session)
    assert session["b"].dims == ("time", "unit")
    assert session["a"].subject == "m"


def test_keys_that_are_no_whole_numbers_are_kept_as_a_column() -> None:
    group = to_pynapple(Spikes.from_trains([[1.0], [2.0]], support=(0, 3), units={"id": ["b", "a"]}))
    assert list(group.keys()) == [0, 1]
    assert list(group["id"]) == ["b", "a"]
    descending = Spikes.from_trains([[1.0], [2.0]], support=(0, 3), units={"id": [9, 4], "q": ["nine", "four"]})
    found = from_pynapple(to_pynapple(descending))
    assert found.units["id"].tolist() == [4, 9]
    assert found.units["q"].tolist() == ["four", "nine"]
    assert found.train(0).tolist() == [2.0]


def test_sessions_and_their_order() -> None:
    rec = Recording(data=torch.arange(6.0).reshape(2, 3), dims=("unit", "time"), rate=10.0)
    made_ = to_pynapple(Session(items_={"r": rec, "i": Intervals.from_pairs([(0, 1)])}))
    assert made_["r"].shape == (3, 2)
    assert isinstance(made_["i"], nap.IntervalSet)


def test_what_pynapple_cannot_hold() -> None:
    overlap = Intervals.from_pairs([(0, 2), (1, 3), (4, 5)])
    with pytest.raises(
        InputError, match=r"disjoint intervals, got 1 overlaps: \(0.0, 2.0\) and \(1.0, 3.0\); merge them"
    ):
        to_pynapple(overlap)
    with pytest.warns(TectumWarning, match="1 intervals without length dropped"):
        assert len(to_pynapple(Intervals.from_pairs([(0, 0), (1, 2)]))) == 1
    with pytest.raises(InputError, match="a time axis, got"):
        to_pynapple(Recording(data=torch.zeros(3), dims=("unit",)))
    with pytest.raises(InputError, match="Spikes, Recording, Intervals or Session, got int"):
        to_pynapple(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="an object of pynapple, got int"):
        from_pynapple(3)


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pynapple", None)
    with pytest.raises(ImportError, match="pip install pynapple"):
        to_pynapple(Intervals.from_pairs([(0, 1)]))
