"""To xarray and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray

from tectum.core.errors import AxisError, InputError, UnitsError
from tectum.core.recording import Recording
from tectum.core.xarrays import distinct, recording_from_xarray


def same(a: Recording, b: Recording) -> None:
    torch.testing.assert_close(a.values, b.values, rtol=0, atol=0, equal_nan=True)
    assert (a.dims, a.rate, a.t0, a.units) == (b.dims, b.rate, b.t0, b.units)
    assert (a.modality, a.subject, a.session) == (b.modality, b.subject, b.session)
    assert a.valid().tolist() == b.valid().tolist()
    assert (a.times is None) == (b.times is None)
    if a.times is not None:
        assert a.times.tolist() == b.times.tolist()
    assert {k: sorted(v) for k, v in a.coords.items()} == {k: sorted(v) for k, v in b.coords.items()}
    for axis, table in a.coords.items():
        for column in table:
            np.testing.assert_array_equal(table[column], b.coords[axis][column])


CASES = {
    "regular": {"data": torch.randn(9, 2), "dims": ("time", "unit"), "rate": 30.0, "units": "dF/F"},
    "third": {"data": torch.randn(900), "dims": ("time",), "rate": 1 / 3, "t0": 0.1},
    "late clock": {"data": torch.randn(90), "dims": ("time",), "rate": 30.0, "t0": 1e9},
    "irregular": {"data": torch.randn(3), "dims": ("time",), "times": [0.0, 1.0, 5.0], "mask": [True, False, True]},
    "id": {"data": torch.zeros(2), "dims": ("unit",), "coords": {"unit": {"id": [5, 7], "x": [0.1, 0.2]}}},
    "name and id": {"data": torch.zeros(2), "dims": ("unit",), "coords": {"unit": {"id": [5, 7], "name": ["é", "b"]}}},
    "column called as the axis": {"data": torch.zeros(2), "dims": ("freq",), "coords": {"freq": {"freq": [4.0, 8.0]}}},
    "name beside it": {
        "data": torch.zeros(2), "dims": ("unit",), "coords": {"unit": {"unit": [1, 2], "name": ["a", "b"]}},
    },
    "samples with columns": {
        "data": torch.zeros(2), "dims": ("time",), "rate": 2.0, "coords": {"time": {"id": [3, 4], "valid": [0, 1]}},
    },
    "one-dimensional mask": {"data": torch.zeros(2), "dims": ("unit",), "mask": [True, False]},
    "broadcast mask": {"data": torch.zeros(2, 3), "dims": ("unit", "trial"), "mask": [[True], [False]]},
    "one sample": {"data": torch.zeros(1), "dims": ("time",), "rate": 2.0, "t0": 4.0},
    "empty": {"data": torch.zeros(0, 2), "dims": ("time", "unit"), "rate": 2.0},
    "scalar": {"data": torch.tensor(2.0), "dims": (), "subject": "s", "session": "d", "modality": "eeg"},
    "bool": {"data": torch.tensor([True, False]), "dims": ("x",)},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case):
    fields = {k: torch.tensor(v) if k == "mask" else v for k, v in CASES[case].items()}
    rec = Recording(**fields)
    same(rec, recording_from_xarray(rec.to_xarray()))


def test_a_plain_array_with_the_unit_given():
    array = xarray.DataArray(
        np.zeros((3, 2)), dims=("time", "unit"), coords={"time": [0.0, 0.5, 1.0], "unit": ["a", "b"]}
    )
    rec = recording_from_xarray(array, units="z")
    assert rec.rate == 2.0
    assert rec.labels("unit").tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (xarray.DataArray(np.zeros(3), dims=("unit",)), UnitsError, r"attrs\['units'\] or units="),
        (xarray.DataArray(np.zeros(3), dims=("neuron",), attrs={"units": "z"}), AxisError, "vocabulary"),
        (xarray.DataArray(np.zeros(3), dims=("time",), attrs={"units": "z"}), InputError, "rate"),
        (xarray.DataArray(["a"], dims=("unit",), attrs={"units": "z"}), InputError, "numbers or booleans"),
        (
            xarray.DataArray(
                np.zeros(2),
                dims=("time",),
                coords={"time": np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[ns]")},
                attrs={"units": "z"},
            ),
            InputError,
            "time, in s",
        ),
    ],
)
def test_bad_input(array, error, message):
    with pytest.raises(error, match=message):
        recording_from_xarray(array)


def test_distinct_names():
    assert distinct(("unit", "unit", "time", "unit")) == ("unit", "unit_2", "time", "unit_3")
