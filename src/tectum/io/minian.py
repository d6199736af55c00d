"""Minian's results in Zarr or netCDF: traces and footprints whose axes are named in the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.errors import InputError, LoadError, explain
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording
from tectum.core.session import Session

from .events import rate_of, span, support_without_gaps
from .files import member, reading
from .hdf5 import inside, opened, source, whole
from .zarr_arrays import is_array, open_zarr

_TRACES = {"C": "a.u.", "S": "deconvolved", "YrA": "a.u.", "b0": "a.u.", "c0": "a.u."}
_AXES = {"frame": "time", "unit_id": "unit", "height": "y", "width": "x"}
_SHORT = 1 << 24  # units or frames


def is_store(path: Path) -> bool:
    """Tell whether a folder holds Minian's arrays: one store, or a store for each array as Minian writes it."""
    if not path.is_dir():
        return False
    return is_array(path / "C.zarr" / "C") or (is_array(path / "C") and is_array(path / "unit_id"))


class _Store:
    """Arrays of a folder of Zarr stores, by name."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __contains__(self, name: object) -> bool:
        return self._place(str(name)) is not None

    def _place(self, name: str) -> Path | None:
        rooms = (name, f"{name}.zarr/{name}", f"C.zarr/{name}")
        return next((found for room in rooms if is_array(found := member(self.path, room))), None)

    def vector(self, name: str) -> np.ndarray:
        """Return a short array."""
        found = open_zarr(self._place(name) or self.path / name)
        if len(found.shape) != 1 or found.shape[0] > _SHORT:
            raise LoadError(explain(f"{self.path}: {name}", expected="one axis", got=f"shape {found.shape}"))
        return found[:]

    def array(self, name: str) -> tuple[Any, tuple[str, ...]] | None:
        """Return a lazy array and the names of its axes."""
        place = self._place(name)
        found = None if place is None else open_zarr(place)
        return None if found is None else (found, found.dims or ("",) * len(found.shape))


class _File:
    """Arrays of a netCDF file, by name."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self.file = path, file

    def __contains__(self, name: object) -> bool:
        return name in self.file

    def vector(self, name: str) -> np.ndarray:
        """Return a short array."""
        return whole(self.file[name])

    def array(self, name: str) -> tuple[Any, tuple[str, ...]] | None:
        """Return a lazy array and the names of its axes."""
        node = inside(self.file, name) if name in self.file else None
        if node is None or not hasattr(node, "dims"):
            return None
        names = (str(axis[0].name).rsplit("/", 1)[-1] if len(axis) else "" for axis in node.dims)
        return source(self.path, node), tuple(names)


@contextmanager
def _arrays(path: Path) -> Iterator[_Store | _File]:
    if path.is_dir():
        with reading(path, "Minian's Zarr stores"):
            yield _Store(path)
    else:
        with opened(path, "Minian's netCDF", check=True) as file:
            yield _File(path, file)


def read_minian(path: str | Path, *, fs: float | None = None, subject: str = "", session: str = "") -> Session:
    """Read Minian's results: a folder of Zarr stores (``C.zarr``, ``A.zarr``, ...), one store, or netCDF (HDF5).

    Parameters
    ----------
    path : path
        The folder or file with ``C``, ``unit_id`` and ``frame``.
    fs : float
        Frames per s, which Minian does not store.
    subject, session : str
        Who and when.

    Returns
    -------
    Session
        Recordings (time, unit) ``C``, ``S``, ``YrA``, read when used, and ``footprints`` (unit, y, x). The column
        ``id`` is Minian's ``unit_id``, which may have gaps. The clock is ``frame / fs``; missing frames split
        the support, with a warning.

    Raises
    ------
    LoadError
        If the file is damaged or lacks names of axes.
    InputError
        If ``fs`` is missing.
    """
    path = Path(path)
    with _arrays(path) as file:
        if not all(name in file for name in ("C", "unit_id", "frame")):
            raise LoadError(explain(str(path), expected="C with unit_id and frame", got="others"))
        rate, clock = rate_of(None, fs, f"{path}: fs")
        ids, frames = file.vector("unit_id"), file.vector("frame").astype(np.float64)
        if len(frames) < 1 or not np.isfinite(frames).all() or not (np.diff(frames) > 0).all():
            raise InputError(explain("frame", expected="growing numbers of frames", got="others"))
        regular = bool((np.diff(frames) == 1).all())
        step = {"step": "read", "format": "minian", **clock, "assumed": "frames at frame / fs"}
        common: dict[str, Any] = {"modality": "calcium", "subject": subject, "session": session}
        common |= {"coords": {"unit": {"id": ids}}, "meta": {"format": "minian"}}
        timing: dict[str, Any] = (
            {"rate": rate, "t0": float(frames[0]) / rate} if regular else {"times": torch.from_numpy(frames / rate)}
        )
        whole_span = span(float(frames[0]) / rate, (float(frames[-1]) + 1) / rate)
        timing["intervals"] = {"support": whole_span if regular else support_without_gaps(frames / rate, str(path))}
        parts = {}
        for name, units in _TRACES.items():
            found = file.array(name)
            if found is not None and len(found[1]) == 2:
                data = _ordered(f"{path}:{name}", *found, ("time", "unit"), (len(frames), len(ids)))
                history = ({**step, "dataset": name},)
                parts[name] = Recording(
                    data=data, dims=("time", "unit"), units=units, history=history, **timing, **common
                )
        shapes = file.array("A")
        if shapes is not None:
            lazy = _ordered(f"{path}:A", *shapes, ("unit", "y", "x"), (len(ids), None, None))
            parts["footprints"] = Recording(data=lazy, dims=("unit", "y", "x"), history=(step,), **common)
    return Session(items_=parts, subject=subject, session=session, meta={"format": "minian"})


def _ordered(
    where: str, array: Any, names: tuple[str, ...], dims: tuple[str, ...], sizes: tuple[int | None, ...]
) -> LazyArray:
    """Return a lazy array in the order asked for, by the names of its axes in the file."""
    found = tuple(_AXES.get(name, name) for name in names)
    if sorted(found) != sorted(dims):
        raise LoadError(explain(where, expected=f"axes for {dims}", got=str(list(names))))
    lazy = LazyArray(array, order=tuple(found.index(name) for name in dims))
    if any(want not in (None, have) for want, have in zip(sizes, lazy.shape, strict=True)):
        raise InputError(explain(where, expected=f"sizes {sizes}", got=str(tuple(lazy.shape))))
    return lazy
