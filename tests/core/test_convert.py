"""Foreign objects at the door."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray

from tectum.core.convert import as_container
from tectum.core.errors import AxisError, InputError
from tectum.core.estimator import as_tuple
from tectum.core.intervals import Intervals
from tectum.core.recording import Recording
from tectum.core.session import Session
from tectum.core.spikes import Spikes

REC = Recording(data=torch.zeros(3, 2), dims=("time", "unit"), rate=1.0)


@pytest.mark.parametrize("obj", [REC, Spikes.from_trains([]), Intervals.from_pairs([]), Session(items_={})])
def test_our_own_pass_through(obj):
    assert as_container(obj) is obj
    assert as_tuple(obj) == (obj,)
    assert as_tuple([obj, obj]) == (obj, obj)


def test_labelled_arrays():
    values = np.arange(6).reshape(3, 2)
    frozen = values.copy()
    frozen.flags.writeable = False
    for array in (values, frozen, torch.from_numpy(values), values.tolist(), values[::-1][::-1]):
        assert as_container((array, ("time", "unit"))).data.tolist() == values.tolist()
    assert as_container((values, ("time", "unit"))).rate == 1.0
    assert as_container((values, ("trial", "unit"))).rate is None
    for pair in [(values, ("trial", "unit")), (torch.from_numpy(values), ["trial", "unit"])]:
        assert [c.dims for c in as_tuple(pair)] == [("trial", "unit")]
    pairs = [(values, ("trial", "unit")), (values, ("trial", "unit"))]
    assert [c.shape for c in as_tuple(pairs)] == [(3, 2), (3, 2)]
    assert as_tuple((REC, REC)) == (REC, REC)


def test_xarray_objects_are_converted():
    array = xarray.DataArray(
        np.zeros((3, 2)), dims=("time", "unit"), coords={"time": [0.0, 1.0, 2.0]}, attrs={"units": "z"}
    )
    assert as_container(array).rate == 1.0


@pytest.mark.parametrize(
    ("obj", "error", "message"),
    [
        (torch.zeros(3, 2), AxisError, r"named axes, got a bare array of shape \(3, 2\); pass \(array"),
        (np.zeros(3), AxisError, "a bare array"),
        ([np.zeros(3)], AxisError, "a bare array"),
        ([], InputError, "at least one recording, got an empty list"),
        (3, InputError, "a tectum container or an object of .*got builtins.int"),
        ("file.nwb", InputError, "got builtins.str"),
        (None, InputError, "got builtins.NoneType"),
        ((np.zeros(3), ("neuron",)), AxisError, "vocabulary"),
        ((np.array(["a"]), ("unit",)), InputError, "an array of numbers"),
    ],
)
def test_bad_input(obj, error, message):
    with pytest.raises(error, match=message):
        as_tuple(obj)
