"""Labelled arrays at the exit: our containers as xarray objects, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .clock import regular_rate
from .device import from_numpy
from .errors import UnitsError, explain
from .recording import Recording
from .table import Table

if TYPE_CHECKING:
    import xarray


def distinct(dims: Sequence[str]) -> tuple[str, ...]:
    """Number repeated axis names, since xarray wants each once.

    Examples
    --------
    >>> distinct(("layer", "unit", "unit"))
    ('layer', 'unit', 'unit_2')
    """
    return tuple(
        d if list(dims[:i]).count(d) == 0 else f"{d}_{list(dims[:i]).count(d) + 1}" for i, d in enumerate(dims)
    )


def coordinates(coords: Mapping[str, Table], dims: Sequence[str]) -> dict[str, Any]:
    """Return xarray coordinates: the "name" or "id" column becomes the index, the others ride along.

    The index of ``time`` are its times; each coordinate notes in its attributes the column that it was.
    """
    made: dict[str, Any] = {}
    for axis, table in coords.items():
        if axis not in dims:
            continue
        index = next((c for c in ("name", "id", axis) if c in table and axis != "time"), None)
        for column, values in table.items():
            made[axis if column == index else f"{axis}_{column}"] = (axis, values, {"column": column})
    return made


def numpy(tensor: Tensor) -> np.ndarray:
    """Return a tensor of any device as a NumPy array."""
    return tensor.detach().cpu().numpy()


def recording_to_xarray(rec: Recording) -> xarray.DataArray:
    """Convert a recording; the mask becomes the coordinate "valid". Intervals, meta and history stay behind."""
    import xarray

    coords = coordinates(rec.coords, rec.dims)
    if "time" in rec.dims:
        coords["time"] = ("time", rec.time.numpy())
    if rec.mask is not None:
        coords["valid"] = (rec.dims, numpy(rec.valid()))
    attrs: dict[str, Any] = {name: getattr(rec, name) for name in ("units", "modality", "subject", "session")}
    if rec.rate is not None:
        attrs["rate"] = rec.rate
    return xarray.DataArray(
        numpy(rec.values), dims=rec.dims, coords=coords, attrs=attrs, name=rec.modality or "recording"
    )


def recording_from_xarray(array: xarray.DataArray, *, units: str | None = None) -> Recording:
    """Convert a data array whose dimensions are in the vocabulary.

    Parameters
    ----------
    array : xarray.DataArray
        ``time`` must be in s; the unit is taken from ``attrs["units"]`` unless given.
    units : str, optional
        Physical unit of the values.

    Raises
    ------
    UnitsError
        If no unit is known.
    """
    unit = units or array.attrs.get("units")
    if unit is None:
        raise UnitsError(explain("from xarray", expected="attrs['units'] or units=", got="no unit"))
    coords, times = _tables(array)
    rate = _rate(array.attrs.get("rate"), times)
    return Recording(
        data=from_numpy(np.asarray(array.values), "from xarray"),
        dims=tuple(str(d) for d in array.dims),
        rate=rate,
        t0=float(times[0]) if times is not None and len(times) and rate else 0.0,
        times=None if rate else times,
        units=unit,
        coords={axis: table for axis, table in coords.items() if table},
        mask=_mask(array),
        modality=str(array.attrs.get("modality", "")),
        subject=str(array.attrs.get("subject", "")),
        session=str(array.attrs.get("session", "")),
    )


def _rate(stated: float | None, times: Tensor | None) -> float | None:
    """Return the rate that the times have, in the exact number stated where that agrees."""
    if times is None or len(times) < 2:
        return stated
    found = regular_rate(times, tolerance=1e-6)
    span = float(times[-1] - times[0])
    close = found is not None and stated is not None and abs(found - stated) * span < 1e-3
    return stated if close else found


def _tables(array: xarray.DataArray) -> tuple[dict[str, dict[str, np.ndarray]], Tensor | None]:
    """Split xarray coordinates into our tables and the time axis."""
    tables: dict[str, dict[str, np.ndarray]] = {str(d): {} for d in array.dims}
    times = None
    if "time" in array.dims and "time" in array.coords:
        times = from_numpy(np.asarray(array["time"].values), "from xarray (time, in s)").to(torch.float64)
    for name, coord in array.coords.items():
        if len(coord.dims) != 1 or name in ("time", "valid"):
            continue
        axis = str(coord.dims[0])
        column = "name" if name == axis else str(name).removeprefix(f"{axis}_")
        tables[axis][str(coord.attrs.get("column", column))] = coord.values
    return tables, times


def _mask(array: xarray.DataArray) -> Tensor | None:
    if "valid" not in array.coords:
        return None
    return from_numpy(np.asarray(array["valid"].transpose(*array.dims).values), "from xarray (valid)")
