"""Recording: what it accepts, what it refuses, what it shares with the caller and what it does not."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch

from tectum.core.errors import AxisError, InputError, UnitsError
from tectum.core.intervals import Intervals
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording


def made(**changes):
    fields = {
        "data": torch.arange(24.0).reshape(8, 3),
        "dims": ("time", "unit"),
        "rate": 4.0,
        "t0": 10.0,
        "coords": {"unit": {"id": ["a", "b", "c"], "area": ["HVC", "HVC", "RA"]}},
        "units": "dF/F",
        "subject": "bird",
    }
    return Recording(**{**fields, **changes})


def test_what_it_is():
    rec = made()
    assert rec.sizes == {"time": 8, "unit": 3}
    assert rec.shape == (8, 3)
    assert rec.ndim == 2
    assert rec.duration == 2.0
    assert rec.time.tolist() == [10.0 + k / 4 for k in range(8)]
    assert rec.labels("unit").tolist() == ["a", "b", "c"]
    assert rec.labels("unit", "area").tolist() == ["HVC", "HVC", "RA"]
    assert rec.labels("time") is None
    assert repr(rec) == "<Recording data (time: 8, unit: 3) 4 Hz, dF/F>"
    assert rec.valid().all()
    assert rec.tensor("unit", "time", dtype=torch.float64).shape == (3, 8)


def test_irregular_times_and_no_clock():
    rec = made(rate=None, times=[0, 1, 2, 3, 4, 5, 6, 9])
    assert rec.duration == 9.0
    assert rec.time.dtype == torch.float64
    assert "irregular times" in repr(rec)
    assert Recording(data=torch.zeros(2), dims=("unit",)).rate is None


def test_empty_and_zero_dimensional():
    empty = Recording(data=torch.zeros(0, 3), dims=("time", "unit"), rate=None, times=[])
    assert empty.duration == 0.0
    assert Recording(data=torch.zeros(0, 3), dims=("time", "unit"), rate=2.0).duration == 0.0
    scalar = Recording(data=torch.tensor(3.0), dims=())
    assert scalar.shape == ()
    assert scalar.tensor().item() == 3.0


@pytest.mark.parametrize("kind", ["read-only", "big-endian", "reversed", "list", "numpy scalar types"])
def test_arrays_that_torch_cannot_share_are_copied_without_a_warning(kind):
    values = np.arange(6.0).reshape(3, 2)
    given = {"read-only": values, "big-endian": values.astype(">f8"), "reversed": values[::-1][::-1]}.get(kind, values)
    given.flags.writeable = kind != "read-only"
    if kind == "reversed":
        given = values[::-1].copy()[::-1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rec = Recording(
            data=given.tolist() if kind == "list" else given,
            dims=("time", "unit"),
            rate=np.float32(2) if kind == "numpy scalar types" else 2,
            t0=np.float32(1.5),
            mask=np.ones((3, 1), dtype=bool),
        )
    assert rec.data.tolist() == values.tolist()
    assert type(rec.rate) is type(rec.t0) is float


def test_data_are_shared_but_mappings_are_not():
    values, meta, table, spans = np.zeros((4, 1)), {"a": 1}, {"id": ["x"]}, {}
    coords = {"unit": table}
    rec = Recording(data=values, dims=("time", "unit"), rate=1.0, coords=coords, meta=meta, intervals=spans)
    values[0, 0] = 5.0
    assert rec.data[0, 0] == 5.0  # no copy of large arrays
    meta["b"], table["area"], coords["time"], spans["bad"] = 2, ["y"], {}, Intervals.from_pairs([])
    assert dict(rec.meta) == {"a": 1}
    assert list(rec.coords) == ["unit"]
    assert list(rec.coords["unit"]) == ["id"]
    assert not rec.intervals


def test_identity_pickle_and_copy():
    rec = made(mask=torch.ones(8, 1, dtype=torch.bool), intervals={"bad": Intervals.from_pairs([(0, 1)], why=["x"])})
    assert rec == rec
    assert rec != made()
    assert len({rec, rec}) == 1
    for other in (pickle.loads(pickle.dumps(rec)), copy.deepcopy(rec)):  # noqa: S301
        assert torch.equal(other.data, rec.data)
        assert other.sizes == rec.sizes
        assert other.intervals["bad"].columns["why"].tolist() == ["x"]


def test_columns_of_every_kind():
    column = np.array([b"caf\xc3\xa9", "b", None], dtype=object)
    rec = made(coords={"unit": {"name": column, "raw": np.array([b"\xc3\xa9", b"b", b"c"]), "ok": [True, False, True]}})
    assert rec.labels("unit").tolist() == ["café", "b", ""]
    assert rec.labels("unit", "raw").tolist() == ["é", "b", "c"]
    assert rec.labels("unit", "ok").dtype == bool


def test_rename_to_units_noted():
    rec = made().rename(unit="voxel")
    assert rec.dims == ("time", "voxel")
    assert list(rec.coords) == ["voxel"]
    converted = made(units="mV").to_units("uV")
    assert converted.units == "uV"
    torch.testing.assert_close(converted.data, made().data * 1000)
    assert converted.history[-1] == {"step": "to_units", "source": "mV", "target": "uV"}
    moved = made(mask=torch.ones(1, 3, dtype=torch.bool)).to("cpu", dtype=torch.float64)
    assert moved.data.dtype == torch.float64
    assert moved.mask.dtype == torch.bool
    assert made().with_(units="z").units == "z"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dims": ("time", "neuron")}, AxisError, "axis names of the vocabulary, got 'neuron'"),
        ({"dims": ("time", "time")}, AxisError, "each axis once"),
        ({"dims": ("time",), "coords": {}}, AxisError, "2 axis names for 2-dimensional data|1 axis names"),
        ({"dims": ("tme", "unit")}, AxisError, "did you mean 'time'"),
        ({"rate": None}, InputError, r"rate \(Hz\) or times \(s\) for the time axis, got neither"),
        ({"times": torch.arange(8)}, InputError, "either rate or times, got both"),
        ({"rate": 0.0}, InputError, "Recording.rate: expected a finite rate above 0 Hz"),
        ({"t0": float("nan")}, InputError, "Recording.t0: expected a finite time"),
        ({"rate": None, "times": [0, 1, 2]}, InputError, "8 times, got shape"),
        ({"rate": None, "times": [0, 1, 2, 2, 4, 5, 6, 7]}, InputError, "strictly increasing"),
        ({"rate": None, "times": [0, 1, 2, 3, 4, 5, 6, float("inf")]}, InputError, "strictly increasing"),
        ({"mask": torch.ones(8)}, InputError, "bool of a shape that broadcasts"),
        ({"mask": torch.ones(8, 3)}, InputError, "got torch.float32"),
        ({"mask": torch.ones(4, 3, dtype=torch.bool)}, InputError, r"broadcasts to \(8, 3\)"),
        ({"coords": {"unit": {"id": [1, 2]}}}, InputError, r"coords\['unit'\]\['id'\]: expected 3 entries, got 2"),
        ({"coords": {"channel": {"id": [1, 2]}}}, AxisError, "an axis among"),
        ({"coords": {"unit": {"id": [[1], [2], [3]]}}}, InputError, "one value of number, bool or text"),
        ({"units": "volts"}, UnitsError, "Recording.units"),
        ({"data": np.array([["a", "b"]]), "coords": {}}, InputError, "Recording.data: expected an array of numbers"),
    ],
)
def test_bad_input(changes, error, message):
    with pytest.raises(error, match=message):
        made(**changes)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: r.tensor("time"), AxisError, r"rec.isel\(unit=0\)"),
        (lambda r: r.rename(voxel="unit"), AxisError, "an axis among"),
        (lambda r: list(r.blocks(0)), InputError, "n_samples >= 1"),
        (lambda r: r.labels("unit", "aera"), InputError, "did you mean 'area'"),
        (lambda r: r.to_units("uV"), UnitsError, "relative fluorescence"),
        (lambda r: r.isel(channel=0), AxisError, "Recording.isel"),
    ],
)
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call(made())


def test_lazy_data_keep_their_type():
    rec = Recording(data=LazyArray(np.zeros((4, 2), np.int16), dtype=torch.int32), dims=("time", "unit"), rate=1.0)
    assert rec.values.dtype == torch.int32
    assert rec.device.type == "cpu"
    assert rec.to(dtype=torch.float64).data.dtype == torch.float64
