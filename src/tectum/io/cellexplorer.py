"""CellExplorer (and Buzcode) folders: spikes, cell metrics and epochs of a session in MATLAB files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import InputError, LoadError, explain
from tectum.core.intervals import Intervals
from tectum.core.session import Session

from .events import Fix, check_fix, make_spikes
from .files import member, reading
from .mat_values import column, load, vector

_SPIKES = ".spikes.cellinfo.mat"
_METRICS = ".cell_metrics.cellinfo.mat"
_SESSION = ".session.mat"
_RENAMED = {"UID": "id", "cluID": "cluster", "shankID": "shank", "region": "area", "brainRegion": "area"}
_LEFT = {"times", "numcells", "total", "sr", "spindices", "ts", "ids", "sessionName", "basename"}


def is_cellexplorer(path: Path) -> bool:
    """Tell whether a path is, or a folder holds, one file of spikes in CellExplorer's naming."""
    if path.is_dir():
        return any(any(path.glob(f"*{suffix}")) for suffix in (_SPIKES, _METRICS))
    return path.is_file() and path.name.lower().endswith((_SPIKES, _METRICS))


def read_cellexplorer(
    path: str | Path, *, basename: str | None = None, fix: Fix = None, subject: str = "", session: str = ""
) -> Session:
    """Read spikes and what is known of cells and session.

    Parameters
    ----------
    path : path
        The folder, or ``<basename>.spikes.cellinfo.mat`` itself; without it, ``<basename>.cell_metrics.cellinfo.mat``,
        in which CellExplorer keeps the spike times once more.
    basename : str, optional
        Name of the recording, where the folder holds several.
    fix : {None, "sort", "drop"}
        What to do with times that step back.
    subject, session : str
        Who and when; default what ``<basename>.session.mat`` says, and the base name.

    Returns
    -------
    Session
        ``spikes`` with the table ``id`` (UID), ``cluster``, ``shank``, ``area`` and every other field with one value a
        cell, those of ``cell_metrics`` included; ``epochs`` where the session file has them. Times are s already. The
        support is the duration in the session file, else assumed.

    Raises
    ------
    LoadError
        If a file is missing or damaged, or fields contradict each other (then also an :class:`InputError`).
    """
    check_fix(fix)
    root = Path(path)
    with reading(root, "a CellExplorer session"):
        folder, base = _found(root, basename)
        metrics = _optional(folder, base + _METRICS, "cell_metrics")
        file, fields = _spikes(folder, base, metrics)
        times = fields.get("times", fields.get("ts"))
        if not isinstance(times, list):
            raise LoadError(
                explain(f"{file}: spikes.times", expected="a cell array of times", got=type(times).__name__)
            )
        trains = [vector(item, f"spikes.times{{{k + 1}}}") for k, item in enumerate(times)]
        about = _optional(folder, base + _SESSION, "session")
        epochs, stop = _epochs(about), _duration(about)
        who = {
            "subject": subject or str(_path(about, "animal", "name", default="")),
            "session": session or str(_path(about, "general", "name", default=base)),
        }
        table = _table(fields, len(trains)) | _table(metrics, len(trains))
        table.setdefault("id", np.arange(1, len(trains) + 1))
        step = {"step": "read", "format": "cellexplorer", "file": file.name, "units": len(trains)}
        spikes = make_spikes(
            np.concatenate([np.zeros(0), *trains]).astype(np.float64),
            np.repeat(np.arange(len(trains)), [len(t) for t in trains]),
            n_units=len(trains),
            fix=fix,
            where=f"{file}: spikes.times",
            support=None if stop is None else Intervals.from_pairs([(0.0, stop)]),
            units=table,
            meta={"format": "cellexplorer"},
            history=(step,),
            **who,
        )
        parts: dict[str, Any] = {"spikes": spikes} | ({} if epochs is None else {"epochs": epochs})
    return Session(items_=parts, meta={"format": "cellexplorer"}, **who)


def _spikes(folder: Path, base: str, metrics: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Return the file that has the spike times, and the struct with them."""
    file = member(folder, base + _SPIKES)
    if file.is_file():
        return file, _struct(file, "spikes")
    inner = metrics.get("spikes")
    return member(folder, base + _METRICS), inner if isinstance(inner, dict) else {}


def _found(root: Path, basename: str | None) -> tuple[Path, str]:
    """Return the folder and the base name."""
    if root.is_file():
        suffix = next((s for s in (_SPIKES, _METRICS) if root.name.lower().endswith(s)), None)
        if suffix is None:
            raise LoadError(explain(str(root), expected=f"a file *{_SPIKES}", got=root.name))
        return root.parent, root.name[: -len(suffix)]
    bases = sorted({p.name[: -len(suffix)] for suffix in (_SPIKES, _METRICS) for p in root.glob(f"*{suffix}")})
    if basename is None and len(bases) > 1:
        raise InputError(explain(str(root), expected="one recording", got=", ".join(bases), fix="pass basename="))
    base = basename or next(iter(bases), "")
    if base not in bases:
        raise LoadError(
            explain(str(root / (base + _SPIKES)), expected="an existing file: it provides the spikes", got="none there")
        )
    return root, base


def _struct(file: Path, name: str) -> dict[str, Any]:
    value = load(file, [name])[name]
    if not isinstance(value, dict):
        raise LoadError(explain(f"{file}: {name}", expected="a struct", got=type(value).__name__))
    return value


def _optional(folder: Path, name: str, variable: str) -> dict[str, Any]:
    """Return the struct of a file that may be missing."""
    file = member(folder, name)
    return _struct(file, variable) if file.is_file() else {}


def _path(value: Any, *steps: str, default: Any = None) -> Any:
    """Return a text or single number inside nested structs."""
    for step in steps:
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "iuf":
        return value.reshape(-1)[0]
    return value if isinstance(value, str) and value else default


def _table(fields: dict[str, Any], n_units: int) -> dict[str, np.ndarray]:
    """Return every field with one value a cell."""
    found = {}
    for name, value in fields.items():
        values = None if name in _LEFT else column(value, n_units, name)
        if values is not None:
            found[_RENAMED.get(name, name)] = values
    return found


def _epochs(about: dict[str, Any]) -> Intervals | None:
    """Return the epochs of the session file that have a start and a stop."""
    listed = about.get("epochs")
    rows = [row for row in (listed if isinstance(listed, list) else [listed]) if isinstance(row, dict)]
    bounds = [(_path(row, "startTime"), _path(row, "stopTime"), str(_path(row, "name", default=""))) for row in rows]
    whole = [(float(a), float(b), n) for a, b, n in bounds if isinstance(a, np.number) and isinstance(b, np.number)]
    whole = [(a, b, n) for a, b, n in whole if math.isfinite(a) and math.isfinite(b) and a <= b]
    if not whole:
        return None
    return Intervals.from_pairs([(a, b) for a, b, _ in whole], name=[n for *_, n in whole])


def _duration(about: dict[str, Any]) -> float | None:
    stop = _path(about, "general", "duration")
    try:
        value = float(stop)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None
