"""CNMF-E results in MATLAB files: denoised, raw and deconvolved traces with the footprint of each neuron."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.device import from_numpy
from tectum.core.errors import InputError, LoadError, explain
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording
from tectum.core.session import Session

from .events import rate_of, span
from .files import reading
from .mat_values import column, load, names, numbers
from .signature import natural

_TRACES = {"C": "a.u.", "C_raw": "a.u.", "S": "deconvolved"}
_NAMES = ("neuron", "results", "neuron_results")
_PIXELS = 1 << 30  # numbers of all footprints together


def is_cnmfe(path: Path) -> bool:
    """Tell whether a MATLAB file has the variables that CNMF-E is saved under."""
    if not path.is_file() or path.suffix.lower() != ".mat":
        return False
    try:
        found = names(path)
    except LoadError:
        return False
    return "neuron" in found or ({"A", "C"} <= set(found) and bool({"C_raw", "S"} & set(found)))


def read_cnmfe(
    path: str | Path, *, key: str | None = None, fs: float | None = None, subject: str = "", session: str = ""
) -> Session:
    """Read a struct of CNMF-E, or its fields saved as variables.

    Parameters
    ----------
    path : path
        A MATLAB file, v4 to v7.3. MATLAB objects cannot be read from outside: save ``struct(neuron)`` or
        ``neuron.obj2struct()``.
    key : str, optional
        Name of the struct; default ``neuron`` or ``results``, or the variables of the file themselves.
    fs : float, optional
        Frames per s; default ``Fs`` of the struct, of its ``options`` or of ``P``.
    subject, session : str
        Who and when: CNMF-E does not know.

    Returns
    -------
    Session
        Recordings (time, unit) ``C`` (denoised, in the scale of the footprints), ``C_raw`` and ``S`` where they exist;
        ``footprints`` (unit, y, x) from ``A`` (pixel, unit), whose pixels are in the order of MATLAB, with ``d1`` rows
        and ``d2`` columns.

    Raises
    ------
    LoadError
        If the file is damaged, or arrays contradict each other (then also an :class:`InputError`).
    """
    path = Path(path)
    with reading(path, "a CNMF-E result"):
        fields, name = _fields(path, key)
        options = fields.get("options")
        options = options if isinstance(options, dict) else {}
        stated = _first(fields.get("Fs"), options.get("Fs"), options.get("fr"), _inside(fields.get("P"), "Fs"))
        rate, clock = rate_of(stated, fs, f"{path}: Fs")
        traces = {key: _matrix(fields[key], f"{name}.{key}") for key in _TRACES if _filled(fields.get(key))}
        if "C" not in traces:
            raise LoadError(explain(f"{path}: {name}.C", expected="traces (unit, time)", got="none"))
        n_units, n_time = traces["C"].shape
        for key_, found in traces.items():
            if tuple(found.shape) != (n_units, n_time):
                got = str(tuple(found.shape))
                raise InputError(explain(f"{name}.{key_}", expected=f"{(n_units, n_time)} as C", got=got))
        table = _table(fields, n_units)
        step = {"step": "read", "format": "cnmfe", "struct": name, **clock}
        common: dict[str, Any] = {"modality": "calcium", "subject": subject, "session": session}
        common |= {"meta": {"format": "cnmfe"}, "coords": {"unit": table}}
        parts = {
            key: Recording(
                data=_turned(found),
                dims=("time", "unit"),
                rate=rate,
                units=_TRACES[key],
                intervals={"support": span(0.0, n_time / rate)},
                history=({**step, "variable": f"{name}.{key}", "transposed": True},),
                **common,
            )
            for key, found in traces.items()
        }
        shapes = _footprints(fields, options, n_units, name)
        if shapes is not None:
            parts["footprints"] = Recording(data=shapes, dims=("unit", "y", "x"), history=(step,), **common)
    return Session(items_=parts, meta={"format": "cnmfe"}, subject=subject, session=session)


def _fields(path: Path, key: str | None) -> tuple[dict[str, Any], str]:
    """Return the fields of the struct of results and its name."""
    found = names(path)
    if key is None and {"A", "C"} <= set(found):
        wanted = [n for n in ("A", "C", "C_raw", "S", "options", "P", "Fs", "ids", "d1", "d2") if n in found]
        return load(path, wanted), "file"
    name = key or next((n for n in _NAMES if n in found), None)
    if name is None:
        got = ", ".join(sorted(found, key=natural)[:12]) or "nothing"
        raise LoadError(explain(str(path), expected="a struct neuron or results, or A and C", got=got, fix="pass key="))
    value = load(path, [name])[name]
    if not isinstance(value, dict) or not {"A", "C"} <= set(value):
        got = ", ".join(value)[:80] if isinstance(value, dict) else type(value).__name__
        raise LoadError(explain(f"{path}: {name}", expected="a struct with A and C", got=got))
    return value, name


def _filled(value: Any) -> bool:
    """Tell whether a field holds numbers; MATLAB leaves fields that are not known empty."""
    return hasattr(value, "shape") and int(np.prod(value.shape)) > 1


def _first(*values: Any) -> Any:
    """Return the first single number."""
    single = (v for v in values if isinstance(v, np.ndarray) and v.size == 1 and v.dtype.kind in "iuf")
    found = next(single, None)
    return None if found is None else found.reshape(-1)[0]


def _inside(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _matrix(value: Any, where: str) -> Any:
    """Return traces (unit, time), lazy ones as they are."""
    found = value if isinstance(value, LazyArray) else numbers(value, where)
    if len(found.shape) != 2:
        raise LoadError(explain(where, expected="traces (unit, time)", got=f"shape {tuple(found.shape)}"))
    return found


def _turned(found: Any) -> Any:
    """Return traces as (time, unit), float32."""
    if isinstance(found, LazyArray):
        order = found.order or (0, 1)
        return LazyArray(found.source, order=(order[1], order[0]))
    return from_numpy(np.ascontiguousarray(found.T)).to(torch.float32)


def _table(fields: dict[str, Any], n_units: int) -> dict[str, np.ndarray]:
    ids = column(fields.get("ids"), n_units, "ids")
    return {"id": np.arange(1, n_units + 1) if ids is None else ids}


def _footprints(fields: dict[str, Any], options: dict[str, Any], n_units: int, name: str) -> torch.Tensor | None:
    """Return images (unit, y, x) from (pixel, unit) or (row, column, unit)."""
    shapes = fields.get("A")
    rows, columns = (_first(options.get(d), fields.get(d)) for d in ("d1", "d2"))
    if shapes is None or not _filled(shapes):
        return None
    if len(shapes.shape) == 3:
        size: tuple[int, ...] = tuple(int(n) for n in shapes.shape[:2])
    elif rows is None or columns is None:
        return None
    else:
        size = (int(rows), int(columns))
    if min(size) < 1 or int(np.prod(shapes.shape)) != size[0] * size[1] * n_units or shapes.shape[-1] != n_units:
        expected = f"{size[0]} x {size[1]} pixels of {n_units} units"
        raise InputError(explain(f"{name}.A", expected=expected, got=f"shape {tuple(shapes.shape)}"))
    if size[0] * size[1] * n_units > _PIXELS:
        raise InputError(explain(f"{name}.A", expected="at most 2**30 numbers", got=f"shape {tuple(shapes.shape)}"))
    dense = numbers(shapes, f"{name}.A").astype(np.float32)
    images = dense.reshape(size[0], size[1], n_units, order="F").transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(images))
