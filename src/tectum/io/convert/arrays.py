"""Arrays of NumPy, PyTorch and xarray: containers in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tectum.core.device import from_numpy as tensor_of
from tectum.core.errors import AxisError, InputError, explain
from tectum.core.intervals import Intervals
from tectum.core.recording import Recording
from tectum.core.spikes import Spikes
from tectum.core.xarrays import recording_from_xarray, recording_to_xarray

if TYPE_CHECKING:
    import xarray

#: What a round trip loses.
LOST = (
    "xarray: intervals, meta and history of a recording; meta and history of spikes",
    "xarray: an axis without columns or time comes back without coordinates; a rate is stated by the attribute 'rate'",
    "NumPy and PyTorch: everything but numbers, order of axes, dtype, and the times of spikes and intervals",
)


def to_numpy(obj: Recording | Spikes | Intervals, *dims: str) -> Any:
    """Return plain NumPy arrays.

    Parameters
    ----------
    obj : Recording, Spikes or Intervals
        On any device.
    *dims : str
        Order of the axes of a recording; default as they are.

    Returns
    -------
    ndarray
        Of a recording the values; of intervals (n, 2), start and stop in s.
    tuple of ndarray
        Of spikes: times in s (float64) and unit (int32).

    Examples
    --------
    >>> to_numpy(Recording(data=torch.zeros(8, 3), dims=("time", "unit"), rate=4.0), "unit", "time").shape
    (3, 8)
    """
    if isinstance(obj, Spikes):
        return obj.times.numpy().copy(), obj.unit.numpy().copy()
    if isinstance(obj, Intervals):
        return np.stack([obj.start.numpy(), obj.stop.numpy()], axis=1)
    if isinstance(obj, Recording):
        return obj.tensor(*(dims or obj.dims), device="cpu").detach().numpy().copy()
    raise InputError(explain("to_numpy", expected="Recording, Spikes or Intervals", got=type(obj).__name__))


def from_numpy(
    array: Any,
    *,
    dims: Sequence[str] | None = None,
    unit: Any = None,
    n_units: int | None = None,
    support: tuple[float, float] | None = None,
    **fields: Any,
) -> Recording | Spikes:
    """Build a container from an array of NumPy or PyTorch.

    Parameters
    ----------
    array : array
        Values of a recording under ``dims``, or times of spikes in s with ``unit``.
    dims : sequence of str, optional
        Names of the axes.
    unit : array, shape (n_spikes,), int, optional
        Unit of each spike, from 0.
    n_units : int, optional
        Number of units; default the largest ``unit`` and one.
    support : (start, stop), optional
        When the units were observed, s.
    **fields
        Further fields: ``rate``, ``units``, ``coords``, ``subject``, ...

    Returns
    -------
    Recording, or Spikes if ``unit`` is given

    Raises
    ------
    AxisError
        If neither ``dims`` nor ``unit`` says what the numbers are.

    Examples
    --------
    >>> from_numpy(np.zeros((8, 3)), dims=("time", "unit"), rate=4.0, units="dF/F").sizes
    {'time': 8, 'unit': 3}
    >>> from_numpy(np.array([0.1, 0.2]), unit=[0, 1], support=(0.0, 1.0)).n_units
    2
    """
    if (dims is None) == (unit is None):
        fix = "pass dims=('time', 'unit') for values, or unit= for times of spikes"
        raise AxisError(
            explain("from_numpy", expected="either dims or unit", got="both" if dims else "neither", fix=fix)
        )
    if unit is None:
        data = array if isinstance(array, Tensor) else tensor_of(np.asarray(array), "from_numpy")
        return Recording(data=data, dims=tuple(dims or ()), **fields)
    rows = unit if isinstance(unit, Tensor) else np.asarray(unit)
    count = (int(rows.max()) + 1 if len(rows) else 0) if n_units is None else n_units
    return Spikes.from_events(array, rows, n_units=count, support=support, **fields)


def to_xarray(obj: Recording | Spikes | Intervals) -> xarray.DataArray | xarray.Dataset:
    """Return a DataArray for a recording, a Dataset for spikes (axes spike, unit, span) and intervals (axis span).

    Examples
    --------
    >>> to_xarray(Spikes.from_trains([[0.1], [0.2]], support=(0.0, 1.0))).sizes["spike"]
    2
    """
    import xarray

    if isinstance(obj, Recording):
        return recording_to_xarray(obj)
    if isinstance(obj, Intervals):
        return xarray.Dataset(_spans(obj), attrs={"tectum": "Intervals"})
    if not isinstance(obj, Spikes):
        raise InputError(explain("to_xarray", expected="Recording, Spikes or Intervals", got=type(obj).__name__))
    made: dict[str, Any] = {
        "time": ("spike", obj.times.numpy().copy()),
        "unit_index": ("spike", obj.unit.numpy().copy()),
    }
    made |= {f"unit_{name}": ("unit", np.asarray(column)) for name, column in obj.units.items()}
    made |= _spans(Intervals(start=obj.span.start, stop=obj.span.stop))
    attrs = {"tectum": "Spikes", "n_units": obj.n_units, "subject": obj.subject, "session": obj.session, "units": "s"}
    return xarray.Dataset(made, attrs=attrs)


def _spans(spans: Intervals) -> dict[str, Any]:
    bounds = {"start": ("span", spans.start.numpy().copy()), "stop": ("span", spans.stop.numpy().copy())}
    return {**bounds, **{f"span_{name}": ("span", np.asarray(column)) for name, column in spans.columns.items()}}


def from_xarray(obj: Any, *, units: str | None = None) -> Recording | Spikes | Intervals:
    """Convert a DataArray, or a Dataset of spikes or intervals as :func:`to_xarray` makes it.

    Parameters
    ----------
    obj : xarray.DataArray or xarray.Dataset
        A DataArray needs axes of the vocabulary, ``time`` in s and ``attrs["units"]``.
    units : str, optional
        Physical unit of a DataArray.

    Returns
    -------
    Recording, Spikes or Intervals

    Raises
    ------
    InputError
        If a Dataset is of another making.
    """
    import xarray

    if isinstance(obj, xarray.DataArray):
        return recording_from_xarray(obj, units=units)
    kind = obj.attrs.get("tectum") if isinstance(obj, xarray.Dataset) else None
    needed = {"Spikes": {"time", "unit_index", "start", "stop"}, "Intervals": {"start", "stop"}}
    if kind not in needed or not needed[kind] <= set(map(str, obj.variables)):
        fix = "convert one of its arrays"
        raise InputError(
            explain("from_xarray", expected="a DataArray, or a Dataset of to_xarray", got=type(obj).__name__, fix=fix)
        )
    bounds = {name: torch.from_numpy(np.array(obj[name].values, dtype=np.float64)) for name in ("start", "stop")}
    if kind == "Intervals":
        return Intervals(start=bounds["start"], stop=bounds["stop"], columns=_table(obj, "span"))
    return Spikes(
        times=torch.from_numpy(np.array(obj["time"].values, dtype=np.float64)),
        unit=torch.from_numpy(np.array(obj["unit_index"].values, dtype=np.int64)),
        n_units=int(obj.attrs["n_units"]),
        support=Intervals(start=bounds["start"], stop=bounds["stop"]),
        units=_table(obj, "unit"),
        subject=str(obj.attrs.get("subject", "")),
        session=str(obj.attrs.get("session", "")),
    )


def _table(obj: Any, axis: str) -> Mapping[str, np.ndarray]:
    prefix = f"{axis}_"
    names = [str(n) for n in obj.variables if str(n).startswith(prefix) and obj[n].dims == (axis,)]
    return {name.removeprefix(prefix): np.asarray(obj[name].values) for name in names}
