"""Arrays of NumPy, PyTorch and xarray: what goes out comes back, but for what the module says is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray
from hypothesis import given
from writers import containers as made

import tectum
from tectum import Graph, Intervals, Recording, Spikes
from tectum.core.errors import AxisError, InputError
from tectum.io.convert import arrays, from_numpy, from_xarray, to_numpy, to_xarray


@made.quick
@given(made.recordings())
def test_recordings_through_xarray(rec: Recording) -> None:
    found = tectum.read(to_xarray(rec))
    assert torch.equal(found.values, rec.values)
    assert (found.dims, found.units, found.modality) == (rec.dims, rec.units, rec.modality)
    assert (found.subject, found.session) == (rec.subject, rec.session)
    np.testing.assert_allclose(found.time, rec.time, rtol=0, atol=1e-9)
    made.same_columns(found.coords.get(rec.dims[-1], {}), rec.coords.get(rec.dims[-1], {}))


@made.quick
@given(made.spikes())
def test_spikes_through_xarray(spikes: Spikes) -> None:
    found = tectum.read(to_xarray(spikes))
    made.same_spikes(found, spikes)


@made.quick
@given(made.intervals(overlap=True))
def test_intervals_through_xarray(spans: Intervals) -> None:
    found = tectum.read(to_xarray(spans))
    assert found.pairs() == spans.pairs()
    made.same_columns(found.columns, spans.columns)


@made.quick
@given(made.recordings(), made.spikes(), made.intervals(overlap=True))
def test_numbers_through_numpy(rec: Recording, spikes: Spikes, spans: Intervals) -> None:
    turned = rec.dims[::-1]
    again = from_numpy(to_numpy(rec, *turned), dims=turned, rate=rec.rate, times=rec.times, t0=rec.t0, units=rec.units)
    assert torch.equal(again.tensor(*rec.dims), rec.values)
    times, unit = to_numpy(spikes)
    back = from_numpy(times, unit=unit, n_units=spikes.n_units, support=(0.0, 1e6))
    assert torch.equal(back.times, spikes.times)
    assert torch.equal(back.unit, spikes.unit)
    assert to_numpy(spans).tolist() == [list(pair) for pair in spans.pairs()]


def test_arrays_of_torch_and_copies() -> None:
    values = torch.zeros(4, 2)
    rec = from_numpy(values, dims=("time", "unit"), rate=1.0)
    assert rec.data is values
    array = to_numpy(rec)
    array[:] = 7
    assert float(values.sum()) == 0


def test_any_device(accelerator: torch.device) -> None:
    rec = from_numpy(np.ones((4, 2), np.float32), dims=("time", "unit"), rate=1.0).to(accelerator)
    assert to_numpy(rec).tolist() == [[1, 1]] * 4
    assert to_xarray(rec).values.sum() == 8


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: from_numpy(np.zeros(3)), AxisError, "either dims or unit, got neither; pass dims="),
        (lambda: from_numpy(np.zeros(3), dims=("time",), unit=[0, 0, 0]), AxisError, "got both"),
        (lambda: from_numpy(np.array(["a"]), dims=("unit",)), InputError, "an array of numbers"),
        (lambda: to_numpy(3), InputError, "Recording, Spikes or Intervals, got int"),
        (lambda: to_xarray(Graph(weights=torch.eye(2)[None], layers=("a",))), InputError, "got Graph"),
        (lambda: from_xarray(xarray.Dataset()), InputError, "a Dataset of to_xarray, got Dataset; convert one of its"),
        (lambda: from_xarray(3), InputError, "got int"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_what_is_lost_is_stated() -> None:
    from tectum.io.convert import neo_blocks, nwb_files, pynapple_objects

    for module in (arrays, neo_blocks, nwb_files, pynapple_objects):
        assert all(isinstance(line, str) for line in module.LOST)
        assert len(module.LOST) > 1
