"""Recording: a dense tensor with named axes, a clock, units and what is known of each axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from . import clock
from .device import from_numpy
from .dims import check_dims
from .errors import AxisError, InputError, explain, nearest
from .intervals import Intervals
from .lazy import LazyArray
from .serialize import storable
from .table import Column, Table, check_table
from .units import check_units, conversion

if TYPE_CHECKING:
    import xarray


@storable
@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """A dense recording of any kind: (time, unit), (trial, channel, time), (time, voxel), ...

    Parameters
    ----------
    data : Tensor or LazyArray
        Values; float32 signals, int32 counts or bool masks are usual. They are shared with the caller, not copied.
    dims : tuple of str
        Name of each axis of ``data``, from :data:`tectum.core.dims.VOCABULARY`.
    rate : float, optional
        Samples per second along ``time``; ``None`` when there is no time axis or ``times`` is given.
    t0 : float, default 0
        Start of the first sample in s: on the session clock, or relative to the event for epochs.
    times : Tensor, shape (n_time,), float64, optional
        Sample times in s, increasing, for irregular sampling.
    coords : mapping of axis to (mapping of column to array), optional
        What is known of each entry of an axis: ``{"unit": {"id": ..., "area": ...}}``.
    intervals : mapping of str to Intervals
        Named spans: "support", "bad", "trials", "stimuli", "words".
    mask : Tensor, bool, optional
        True where valid; broadcasts against ``data``.
    units : str, default "a.u."
        Physical unit, one of :data:`tectum.core.units.UNITS`.
    modality, subject, session : str
        What was recorded, in whom, when.
    meta : mapping
        Anything else that JSON can hold.
    history : tuple
        Steps applied so far, oldest first.

    Raises
    ------
    AxisError, UnitsError, InputError
        If names, lengths, clock or unit contradict each other.

    Examples
    --------
    >>> rec = Recording(data=torch.randn(100, 3), dims=("time", "unit"), rate=10.0, units="dF/F")
    >>> rec.sel(time=(2.0, 4.0)).sizes
    {'time': 20, 'unit': 3}
    """

    data: Tensor | LazyArray
    dims: tuple[str, ...]
    rate: float | None = None
    t0: float = 0.0
    times: Tensor | None = None
    coords: Mapping[str, Table] = field(default_factory=dict)
    intervals: Mapping[str, Intervals] = field(default_factory=dict)
    mask: Tensor | None = None
    units: str = "a.u."
    modality: str = ""
    subject: str = ""
    session: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.data, (Tensor, LazyArray)):
            object.__setattr__(self, "data", from_numpy(np.asarray(self.data), "Recording.data"))
        object.__setattr__(self, "dims", check_dims(self.dims, len(self.data.shape), "Recording"))
        check_units(self.units, "Recording.units")
        self._check_clock()
        self._check_mask()
        coords = {
            axis: check_table(table, self._size(axis), f"Recording.coords[{axis!r}]")
            for axis, table in self.coords.items()
        }
        own = {"coords": coords, "intervals": dict(self.intervals), "meta": dict(self.meta)}
        for name, value in {**own, "history": tuple(self.history)}.items():
            object.__setattr__(self, name, value)

    def _check_clock(self) -> None:
        object.__setattr__(self, "t0", float(self.t0))
        if not math.isfinite(self.t0):
            raise InputError(explain("Recording.t0", expected="a finite time in s", got=repr(self.t0)))
        if self.times is not None:
            times = torch.as_tensor(self.times, dtype=torch.float64, device="cpu").contiguous()
            object.__setattr__(self, "times", times)
            if times.shape != (self._size("time"),):
                raise InputError(
                    explain(
                        "Recording.times", expected=f"{self._size('time')} times", got=f"shape {tuple(times.shape)}"
                    )
                )
            if not bool((times.diff() > 0).all() and times.isfinite().all()):
                raise InputError(
                    explain(
                        "Recording.times",
                        expected="strictly increasing times in s",
                        got="a repeated, decreasing, infinite or NaN time",
                    )
                )
            if self.rate is not None:
                raise InputError(explain("Recording", expected="either rate or times", got="both"))
        elif self.rate is not None:
            object.__setattr__(self, "rate", clock.check_rate(self.rate, "Recording.rate"))
        elif "time" in self.dims:
            raise InputError(explain("Recording", expected="rate (Hz) or times (s) for the time axis", got="neither"))

    def _check_mask(self) -> None:
        if self.mask is None:
            return
        object.__setattr__(self, "mask", torch.as_tensor(self.mask, device=self.device))
        shape = tuple(self.mask.shape)
        fits = len(shape) == self.ndim and all(m in (1, n) for m, n in zip(shape, self.shape, strict=True))
        if self.mask.dtype != torch.bool or not fits:
            raise InputError(
                explain(
                    "Recording.mask",
                    expected=f"bool of a shape that broadcasts to {tuple(self.shape)}",
                    got=f"{self.mask.dtype} {shape}",
                )
            )

    # What it is

    @property
    def shape(self) -> torch.Size:
        """Size of each axis in order."""
        return torch.Size(self.data.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.dims)

    @property
    def sizes(self) -> dict[str, int]:
        """Size of each axis by name."""
        return dict(zip(self.dims, self.shape, strict=True))

    @property
    def device(self) -> torch.device:
        """Where the data live."""
        return self.data.device

    @property
    def time(self) -> Tensor:
        """Start of each sample in s: Tensor of shape (n_time,), float64."""
        if self.times is not None:
            return self.times
        steps = torch.arange(self._size("time"), dtype=torch.float64, device="cpu")
        return self.t0 + steps / self._regular("time")

    @property
    def duration(self) -> float:
        """Covered time in s."""
        if self.times is not None:
            return float(self.times[-1] - self.times[0]) if len(self.times) else 0.0
        return self._size("time") / self._regular("duration")

    @property
    def is_lazy(self) -> bool:
        """Whether the data are still on disk."""
        return isinstance(self.data, LazyArray)

    def labels(self, axis: str, column: str | None = None) -> Column | None:
        """Return one coordinate of an axis: the named column, or "name", else "id", else None."""
        table = self.coords.get(axis, {})
        if column is not None:
            if column not in table:
                raise InputError(
                    explain(
                        f"Recording.coords[{axis!r}]",
                        expected="an existing column",
                        got=repr(column),
                        fix=nearest(column, table),
                    )
                )
            return table[column]
        return next((table[name] for name in ("name", "id") if name in table), None)

    def _size(self, axis: str) -> int:
        if axis not in self.dims:
            raise AxisError(
                explain(
                    "Recording", expected=f"an axis among {self.dims}", got=repr(axis), fix=nearest(axis, self.dims)
                )
            )
        return self.shape[self.dims.index(axis)]

    def _regular(self, call: str) -> float:
        if self.rate is None:
            raise InputError(
                explain(
                    f"Recording.{call}", expected="a regular sampling rate", got="irregular times", fix="resample first"
                )
            )
        return self.rate

    def __repr__(self) -> str:
        sizes = ", ".join(f"{d}: {n}" for d, n in self.sizes.items())
        clock_ = (
            f"{self.rate:g} Hz"
            if self.rate is not None
            else ("irregular times" if self.times is not None else "no clock")
        )
        return (
            f"<Recording {self.modality or 'data'} ({sizes}) {clock_}, {self.units}{', lazy' if self.is_lazy else ''}>"
        )

    # Selecting

    def isel(self, **index: Any) -> Recording:
        """Select by position: an integer drops the axis, a slice is a view, a mask or list of positions copies.

        Examples
        --------
        >>> rec = Recording(data=torch.zeros(8, 3), dims=("time", "unit"), rate=4.0)
        >>> rec.isel(time=slice(4, None), unit=0).t0
        1.0
        """
        from . import select

        return select.isel(self, index)

    def sel(self, *, allow_empty: bool = False, **wanted: Any) -> Recording:
        """Select by label: ``time=(start, stop)`` in s, other axes by "name" or "id" or ``{column: value}``.

        A selection that nothing matches raises InputError unless ``allow_empty``.

        Examples
        --------
        >>> coords = {"unit": {"id": ["a", "b"]}}
        >>> rec = Recording(data=torch.zeros(8, 2), dims=("time", "unit"), rate=4.0, coords=coords)
        >>> rec.sel(unit="b").shape
        torch.Size([8])
        """
        from . import select

        return select.sel(self, wanted, allow_empty=allow_empty)

    def restrict(self, intervals: Intervals, *, allow_empty: bool = False) -> Recording:
        """Crop to the hull of ``intervals`` and mark the samples outside them as invalid.

        Intervals that miss the recording raise InputError unless ``allow_empty``.
        """
        from . import select

        return select.restrict(self, intervals, allow_empty=allow_empty)

    def epochs(self, events: str | Intervals, window: tuple[float, float]) -> Recording:
        """Cut a window (s, relative to the start of each event) around every event; adds a leading ``trial`` axis.

        Events whose window leaves the recording are dropped; their number is in the history.
        """
        from . import select

        return select.epochs(self, events, window)

    def windows(self, length: float, *, hop: float | None = None) -> Recording:
        """Return overlapping windows of ``length`` s every ``hop`` s as a view with a leading ``trial`` axis."""
        from . import select

        return select.windows(self, length, hop=hop)

    def blocks(self, n_samples: int) -> Iterator[Recording]:
        """Iterate over consecutive pieces of at most ``n_samples``; lazy data are read piece by piece."""
        if n_samples < 1:
            raise InputError(explain("Recording.blocks", expected="n_samples >= 1", got=repr(n_samples)))
        for first in range(0, self._size("time"), n_samples):
            yield self.isel(time=slice(first, first + n_samples))

    # Changing

    def with_(self, **changes: Any) -> Recording:
        """Return a copy with some fields replaced, checked anew."""
        return replace(self, **changes)

    def noted(self, step: str, **parameters: Any) -> tuple[Any, ...]:
        """Return the history with one more step."""
        return (*self.history, {"step": step, **parameters})

    def rename(self, **names: str) -> Recording:
        """Rename axes: ``rename(voxel="unit")``."""
        for axis in names:
            self._size(axis)
        coords = {names.get(axis, axis): table for axis, table in self.coords.items()}
        return replace(self, dims=tuple(names.get(d, d) for d in self.dims), coords=coords)

    def load(self) -> Recording:
        """Read lazy data into memory."""
        return replace(self, data=self.data.load()) if isinstance(self.data, LazyArray) else self

    def to(self, device: str | torch.device | None = None, *, dtype: torch.dtype | None = None) -> Recording:
        """Move the data (and the mask) to a device or another dtype."""
        data = self.values.to(device=device, dtype=dtype)
        return replace(self, data=data, mask=None if self.mask is None else self.mask.to(device=device))

    def to_units(self, units: str) -> Recording:
        """Convert to another unit of the same quantity."""
        factor = conversion(self.units, units, "Recording.to_units")
        return replace(
            self,
            data=self.values * factor,
            units=units,
            history=self.noted("to_units", source=self.units, target=units),
        )

    # Leaving

    @property
    def values(self) -> Tensor:
        """The data as a tensor in memory."""
        return self.data.load() if isinstance(self.data, LazyArray) else self.data

    def tensor(self, *dims: str, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """Return the data with axes in the order asked for, all of them named.

        Examples
        --------
        >>> Recording(data=torch.zeros(8, 3), dims=("time", "unit"), rate=4.0).tensor("unit", "time").shape
        torch.Size([3, 8])
        """
        if sorted(dims) != sorted(self.dims):
            extra = [d for d in self.dims if d not in dims]
            fix = f"select or reduce {extra[0]}, e.g. rec.isel({extra[0]}=0)" if extra else ""
            raise AxisError(explain("Recording.tensor", expected=f"axes {dims}", got=str(self.dims), fix=fix))
        return self.values.permute([self.dims.index(d) for d in dims]).to(device=device, dtype=dtype)

    def valid(self) -> Tensor:
        """Return the mask expanded to the shape of the data (all True without one)."""
        if self.mask is None:
            return torch.ones(self.shape, dtype=torch.bool, device=self.device)
        return self.mask.expand(self.shape)

    def save(self, path: str) -> None:
        """Write to one ``.safetensors`` file; :func:`tectum.load` reads it."""
        from . import serialize

        serialize.write(path, self.load())

    def to_xarray(self) -> xarray.DataArray:
        """Return an :class:`xarray.DataArray` with the coordinates, attributes and name of this recording."""
        from .xarrays import recording_to_xarray

        return recording_to_xarray(self)
