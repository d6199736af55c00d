"""Files of temporaldata: equality with what was written (and with the package, where installed), and damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from writers.mutate import survive

import tectum
from tectum.core.errors import InputError, LoadError, UnitsError
from tectum.io.temporaldata_files import read_temporaldata

RNG = np.random.default_rng(0)
TIMES = np.sort(RNG.uniform(0, 10, 50))
UNIT = RNG.integers(0, 3, 50)
VELOCITY = RNG.random((40, 2))
STAMPS = np.cumsum(RNG.uniform(0.1, 0.3, 40))
LFP = RNG.random((100, 4)).astype(np.float32)


def _group(room: Any, name: str, object_: str, **columns: Any) -> Any:
    group = room.create_group(name)
    texts = [k for k, v in columns.items() if np.asarray(v).dtype.kind == "U"]
    for key, value in columns.items():
        group[key] = np.asarray(value).astype("S") if key in texts else value
    group.attrs.update({"object": object_, "_unicode_keys": np.array(texts, dtype="S")})
    return group


def _domain(group: Any, start: Any, end: Any) -> None:
    _group(group, "domain", "Interval", start=np.atleast_1d(start), end=np.atleast_1d(end))


def write(path: Path, **changes: Any) -> None:
    """Write spikes with units, a position, a field, trials and nested data in the layout of temporaldata."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"object": "Data", "absolute_start": 0.0, "note": "hello"})
        subject = file.create_group("subject")
        subject.attrs.update({"object": "Data", "id": "monkey", "absolute_start": 0.0})
        session = file.create_group("session")
        session.attrs.update({"object": "Data", "id": "s1", "absolute_start": 0.0})
        unit = changes.get("unit", UNIT)
        spikes = _group(file, "spikes", "IrregularTimeSeries", timestamps=TIMES, unit_index=unit)
        spikes["timestamp_indices_1s"] = np.searchsorted(TIMES, np.arange(11))
        _domain(spikes, 0.0, 10.0)
        _group(
            file, "units", "ArrayDict", id=np.array(["a", "b", "c"]), depth=np.arange(3.0), waveform=np.zeros((3, 9))
        )
        cursor = file.create_group("behavior")
        cursor.attrs.update({"object": "Data", "absolute_start": 0.0})
        stamps = changes.get("stamps", STAMPS)
        moving = _group(
            cursor, "cursor", "IrregularTimeSeries", timestamps=stamps, vel=VELOCITY, label=np.array(["x"] * 40)
        )
        _domain(moving, [0.0], [stamps[-1]])
        lfp = _group(file, "lfp", "RegularTimeSeries", raw=LFP)
        lfp.attrs["sampling_rate"] = changes.get("rate", 25.0)
        _domain(lfp, 2.0, 6.0)
        trials = _group(
            file, "trials", "Interval", start=np.arange(3.0), end=np.arange(3.0) + 0.5, kind=np.array(["a", "b", "a"])
        )
        trials.attrs["timekeys"] = np.array(["start", "end"], dtype="S")
        _domain(file, 0.0, 10.0)


def test_a_file_equals_what_was_written(tmp_path: Path) -> None:
    write(tmp_path / "x.h5")
    found = tectum.read(tmp_path / "x.h5")
    assert set(found) == {"spikes", "behavior/cursor/vel", "lfp/raw", "trials"}
    assert (found.subject, found.session, found.meta["note"]) == ("monkey", "s1", "hello")
    spikes = found["spikes"]
    for k in range(3):
        np.testing.assert_allclose(spikes.train(k).numpy(), TIMES[k == UNIT], rtol=0, atol=1e-9)
    assert spikes.units["id"].tolist() == ["a", "b", "c"]
    assert spikes.units["depth"].tolist() == [0, 1, 2]
    assert spikes.span.pairs() == [(0.0, 10.0)]
    velocity = found["behavior/cursor/vel"]
    np.testing.assert_array_equal(velocity.values.numpy(), VELOCITY.astype(np.float32))
    np.testing.assert_allclose(velocity.time.numpy(), STAMPS, rtol=0, atol=1e-9)
    assert velocity.is_lazy
    lfp = found["lfp/raw"]
    np.testing.assert_array_equal(lfp.values.numpy(), LFP)
    assert (lfp.rate, lfp.t0, lfp.intervals["support"].pairs()) == (25.0, 2.0, [(2.0, 6.0)])
    assert found["trials"].columns["kind"].tolist() == ["a", "b", "a"]
    assert found.meta["skipped"]["behavior/cursor/label"].startswith("|S1")


def test_the_package_reads_the_same(tmp_path: Path) -> None:
    temporaldata = pytest.importorskip("temporaldata")
    series = temporaldata.IrregularTimeSeries(timestamps=TIMES, unit_index=UNIT, domain="auto")
    data = temporaldata.Data(
        spikes=series,
        units=temporaldata.ArrayDict(id=np.array(["a", "b", "c"])),
        lfp=temporaldata.RegularTimeSeries(raw=LFP, sampling_rate=25.0, domain_start=2.0),
        trials=temporaldata.Interval(start=np.arange(3.0), end=np.arange(3.0) + 0.5),
        domain="auto",
    )
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data.to_hdf5(file)
    found = tectum.read(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r") as file:
        theirs = temporaldata.Data.from_hdf5(file, lazy=False)
    for k in range(3):
        expected = theirs.spikes.timestamps[theirs.spikes.unit_index == k]
        np.testing.assert_allclose(found["spikes"].train(k).numpy(), expected, rtol=0, atol=1e-9)
    assert found["spikes"].restrict(found["spikes"].span).counts().sum() == 50
    np.testing.assert_array_equal(found["lfp/raw"].values.numpy(), theirs.lfp.raw)
    np.testing.assert_allclose(found["lfp/raw"].time, theirs.lfp.timestamps, rtol=0, atol=1e-9)
    assert found["trials"].pairs() == list(zip(theirs.trials.start, theirs.trials.end, strict=True))


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"unit": UNIT[:-1]}, InputError, r"spikes/unit_index: expected 50 integers, got int64 \(49,\)"),
        ({"unit": UNIT + 2}, InputError, "spikes/unit_index: expected units below 3, got 4"),
        ({"unit": UNIT - 5}, InputError, "unit indices in"),
        (
            {"stamps": STAMPS[:-1]},
            InputError,
            r"behavior/cursor/vel: expected 39 samples as timestamps, got shape \(40, 2\)",
        ),
        ({"stamps": STAMPS[::-1].copy()}, InputError, "strictly increasing times, got .* at 1"),
        ({"rate": 0.0}, InputError, "a sampling rate above 0 Hz, got .*0.0; pass sampling_rate="),
    ],
)
def test_contradictions(changes: Any, error: type[Exception], says: str, tmp_path: Path) -> None:
    write(tmp_path / "x.h5", **changes)
    with pytest.raises(error, match=says):
        tectum.read(tmp_path / "x.h5")


def test_repairs_units_and_strangers(tmp_path: Path) -> None:
    stamps = STAMPS.copy()
    stamps[7] = stamps[6]
    write(tmp_path / "x.h5", stamps=stamps)
    found = read_temporaldata(tmp_path / "x.h5", fix="drop", units="cm/s")["behavior/cursor/vel"]
    assert (found.shape, found.units) == ((39, 2), "cm/s")
    with pytest.raises(UnitsError, match="furlong"):
        read_temporaldata(tmp_path / "x.h5", units="furlong")
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(LoadError, match=r"y\.h5: expected an object of Data, .*got None"):
        read_temporaldata(tmp_path / "y.h5")


@pytest.mark.slow
def test_damage(tmp_path: Path) -> None:
    write(tmp_path / "x.h5")
    count = survive(
        lambda p: read_temporaldata(p), tmp_path / "x.h5", tmp_path / "work", n=300, fixed=("lfp/raw.data",)
    )
    assert count["refused"] > 60
