"""Minian's results in netCDF: traces and footprints whose axes are named in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.errors import InputError, LoadError, explain
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording
from tectum.core.session import Session

from .events import rate_of, span, support_without_gaps
from .hdf5 import inside, opened, source, whole

_TRACES = {"C": "a.u.", "S": "deconvolved", "YrA": "a.u.", "b0": "a.u.", "c0": "a.u."}
_AXES = {"frame": "time", "unit_id": "unit", "height": "y", "width": "x"}


def read_minian(path: str | Path, *, fs: float | None = None, subject: str = "", session: str = "") -> Session:
    """Read the netCDF (HDF5) file that Minian writes; of Zarr stores, convert first with ``to_netcdf``.

    Parameters
    ----------
    path : path
        The file with ``C``, ``unit_id`` and ``frame``.
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
    with opened(path, "Minian's netCDF", check=True) as file:
        if not {"C", "unit_id", "frame"} <= set(file):
            raise LoadError(explain(str(path), expected="C with unit_id and frame", got=", ".join(file) or "nothing"))
        rate, clock = rate_of(None, fs, f"{path}: fs")
        ids, frames = whole(file["unit_id"]), whole(file["frame"]).astype(np.float64)
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
            node = inside(file, name) if name in file else None
            if node is not None and len(node.shape) == 2:
                data = _ordered(path, node, ("time", "unit"), (len(frames), len(ids)))
                history = ({**step, "dataset": name},)
                parts[name] = Recording(
                    data=data, dims=("time", "unit"), units=units, history=history, **timing, **common
                )
        if "A" in file:
            shapes = _ordered(path, file["A"], ("unit", "y", "x"), (len(ids), None, None))
            parts["footprints"] = Recording(data=shapes, dims=("unit", "y", "x"), history=(step,), **common)
    return Session(items_=parts, subject=subject, session=session, meta={"format": "minian"})


def _ordered(path: Path, node: Any, dims: tuple[str, ...], sizes: tuple[int | None, ...]) -> LazyArray:
    """Return a lazy array in the order asked for, by the names of its axes in the file."""
    names = [str(axis[0].name).rsplit("/", 1)[-1] if len(axis) else "" for axis in node.dims]
    found = tuple(_AXES.get(name, name) for name in names)
    if sorted(found) != sorted(dims):
        raise LoadError(explain(f"{path}:{node.name}", expected=f"axes for {dims}", got=str(names)))
    lazy = LazyArray(source(path, node), order=tuple(found.index(name) for name in dims))
    if any(want not in (None, have) for want, have in zip(sizes, lazy.shape, strict=True)):
        raise InputError(explain(f"{node.name}", expected=f"sizes {sizes}", got=str(tuple(lazy.shape))))
    return lazy
