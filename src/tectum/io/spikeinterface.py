"""Sorting folders of SpikeInterface: ``spikes.npy`` with sample, unit and segment of each spike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import InputError, LoadError, explain
from tectum.core.session import Session
from tectum.core.spikes import Spikes

from .events import Fix, make_spikes, rate_of
from .files import load_npy, member, optional, reading, required

_FIELDS = ("sample_index", "unit_index", "segment_index")


def read_spikeinterface(
    path: str | Path,
    *,
    t_starts: tuple[float, ...] | None = None,
    fix: Fix = None,
    subject: str = "",
    session: str = "",
) -> Spikes | Session:
    """Read a folder that ``NumpyFolderSorting`` wrote.

    Parameters
    ----------
    path : path
        The folder with ``numpysorting_info.json`` and ``spikes.npy``.
    t_starts : tuple of float, optional
        Start of each segment on the session clock, in s; segments are then put on it. Default: each segment starts at
        0 and is a part of its own.
    fix : {None, "sort", "drop"}
        What to do with times that step back.
    subject, session : str
        Who and when: the folder does not know.

    Returns
    -------
    Spikes, or Session of ``segment0``, ... if there are several and no ``t_starts``

    Raises
    ------
    LoadError
        If a file is missing or damaged, or files contradict each other (then also an :class:`InputError`).
    """
    folder = Path(path)
    with reading(folder, "a sorting folder of SpikeInterface"):
        info = _info(required(folder, "numpysorting_info.json", "rate and units"))
        rate, clock = rate_of(info.get("sampling_frequency"), None, str(folder / "numpysorting_info.json"), "rate")
        ids, n_segments = info.get("unit_ids"), info.get("num_segments", 1)
        if not isinstance(ids, list) or not isinstance(n_segments, int) or n_segments < 1 or n_segments > 100_000:
            raise LoadError(
                explain(str(folder), expected="unit_ids and num_segments", got=f"{ids!r:.80}, {n_segments!r}")
            )
        spikes = load_npy(required(folder, "spikes.npy", "the spikes"), kinds="V", ndim=1)
        if not set(_FIELDS) <= set(spikes.dtype.names or ()):
            raise LoadError(explain(str(folder / "spikes.npy"), expected=f"fields {_FIELDS}", got=f"{spikes.dtype}"))
        sample, unit, segment = (spikes[name].astype(np.int64) for name in _FIELDS)
        for name, values, top in (("unit_index", unit, len(ids)), ("segment_index", segment, n_segments)):
            if len(values) and not 0 <= values.min() <= values.max() < top:
                raise InputError(explain(f"spikes.npy {name}", expected=f"below {top}", got=str(values.max())))
        step = {"step": "read", "format": "spikeinterface", **clock, "segments": n_segments}
        common: dict[str, Any] = {"subject": subject, "session": session, "history": (step,), "fix": fix}
        common |= {"units": {"id": np.asarray(ids), **_properties(folder, len(ids))}, "n_units": len(ids)}
        if t_starts is not None or n_segments == 1:
            start = np.zeros(n_segments) if t_starts is None else np.asarray(t_starts, dtype=np.float64)
            if start.shape != (n_segments,):
                raise InputError(explain("t_starts", expected=f"{n_segments} times", got=str(start.shape)))
            return make_spikes(start[segment] + sample / rate, unit, where=str(folder / "spikes.npy"), **common)
        parts = {
            f"segment{k}": make_spikes(
                sample[segment == k] / rate, unit[segment == k], where=f"{folder}: {k}", **common
            )
            for k in range(n_segments)
        }
    return Session(items_=parts, subject=subject, session=session, meta={"format": "spikeinterface"})


def _info(path: Path) -> dict[str, Any]:
    with reading(path, "JSON with rate and units"):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
        return found


def _properties(folder: Path, n_units: int) -> dict[str, np.ndarray]:
    """Return the properties of units that are one number or word each."""
    home = member(folder, "properties")
    found = {}
    for path in sorted(home.glob("*.npy")) if home.is_dir() else []:
        kept = optional(home, path.name)
        values = None if kept is None else load_npy(kept, kinds="biufU")
        if values is not None and values.shape == (n_units,):
            found[path.stem] = values
    return found
