"""FieldTrip's structures of raw, cut and averaged data, read by our own reader of MATLAB files.

MNE's reader of the same structures unpacks them with code that damaged files can bring down, takes every number for a
voltage, and needs a package more.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import InputError, LoadError, explain

from ..files import reading
from ..mat5 import Reader, is_mat5
from ..mat_values import column, load, numbers, vector
from ..signature import is_hdf5

_PEEK = 1 << 13  # bytes of a variable that hold the names of its fields
#: Type of a channel in FieldTrip -> in MNE; all others are kept as "misc".
_TYPES = {
    "eeg": "eeg", "seeg": "seeg", "ieeg": "seeg", "ecog": "ecog", "eog": "eog", "ecg": "ecg", "emg": "emg",
    "megmag": "mag", "meggrad": "grad", "megplanar": "grad", "trigger": "stim", "stimulus": "stim", "unknown": "eeg",
}  # fmt: skip
_METRES = {"m": 1.0, "dm": 1e-1, "cm": 1e-2, "mm": 1e-3}


@dataclass(frozen=True)
class FieldTrip:
    """What a structure of FieldTrip holds.

    Parameters
    ----------
    names, types, units : list of str
        Of each channel; "" where no unit is stated.
    values : array, shape (n_trials, n_channels, n_samples)
        As stored.
    rate, t0 : float
        Hz, and the time of the first sample of each trial in s.
    first : array of int, shape (n_trials,)
        Sample of the recording that a trial begins with, counted from 0; -1 not told.
    trial : mapping of str to array
        Columns of ``trialinfo``.
    places : mapping of str to mapping
        "x", "y", "z" in m by channel.
    continuous : bool
        One trial of raw data, and no average.
    meta : mapping
        Frame of the positions, kind of structure.
    """

    names: list[str]
    types: list[str]
    units: list[str]
    values: np.ndarray
    rate: float
    t0: float
    first: np.ndarray
    trial: Mapping[str, np.ndarray] = field(default_factory=dict)
    places: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    continuous: bool = True
    meta: Mapping[str, Any] = field(default_factory=dict)


class _Peek(Reader):
    """Names of the fields of each struct from its first bytes."""

    def structs_of(self) -> dict[str, list[str]]:
        """Return the fields of every struct in the file by its name."""
        found = {}
        for (name, _, kind), piece in self._heads():
            if kind == "struct":
                body = piece.body
                if piece.kind != 14:
                    body = memoryview(zlib.decompressobj().decompress(piece.body, _PEEK))[8:]
                *_, pieces = self._opening(body)
                length, names = next(pieces), next(pieces)
                found[name] = self.fields(bytes(names.body), int(self._numbers(length, 1)[0]))
        return found


def _structs(path: Path) -> dict[str, list[str]]:
    """Return the fields of every struct of a MATLAB file."""
    if is_hdf5(path):
        import h5py

        with h5py.File(path, "r") as file:
            return {name: list(file[name]) for name in file if isinstance(file[name], h5py.Group)}
    return _Peek(path, iter(())).structs_of() if is_mat5(path) else {}


def variables(path: Path) -> list[str]:
    """Return the names of the structs of a MATLAB file that are FieldTrip's: label, time, and trial or avg."""
    try:
        found = _structs(path)
    except PermissionError:
        raise
    except (ValueError, OSError, RuntimeError, KeyError, StopIteration, zlib.error):
        return []
    return [k for k, fields in found.items() if {"label", "time"} <= set(fields) and {"trial", "avg"} & set(fields)]


def is_fieldtrip(path: Path) -> bool:
    """Tell whether a MATLAB file holds one structure of FieldTrip.

    Examples
    --------
    >>> is_fieldtrip(Path("none.mat"))
    False
    """
    return path.is_file() and len(variables(path)) == 1


def read_struct(path: Path) -> FieldTrip:
    """Read the only structure of FieldTrip in a file.

    Raises
    ------
    LoadError
        If its parts contradict each other, or trials differ in length.
    """
    with reading(path, "a structure of FieldTrip"):
        (name,) = variables(path)
        struct = load(path, [name])[name]
        if not isinstance(struct, dict):
            raise InputError(explain(name, expected="one struct", got=f"{len(struct)} of them"))
        names = _words(struct["label"], f"{name}.label")
        values, times = _values(struct, name, len(names))
        rate = _rate(struct, times[0], name)
        header = struct.get("hdr")
        sources = [struct, *([header] if isinstance(header, dict) else [])]
        n = len(values)
        first = numbers(struct["sampleinfo"], "sampleinfo")[:, 0] - 1 if "sampleinfo" in struct else np.full(n, -1)
        if len(first) != n:
            raise InputError(explain(f"{name}.sampleinfo", expected=f"{n} rows, one a trial", got=str(len(first))))
        places, frame = _places(struct.get("elec"))
        kinds = _listed(sources, "chantype", names) or ["unknown"] * len(names)
        raw = "trial" in struct and n == 1 and isinstance(struct["trial"], list)
        return FieldTrip(
            names=names,
            types=[_TYPES.get(kind.lower(), "misc") for kind in kinds],
            units=_listed([*sources, _elec(struct)], "chanunit", names) or [""] * len(names),
            values=values,
            rate=rate,
            t0=float(times[0][0]),
            first=np.asarray(first, dtype=np.int64),
            trial=_trialinfo(struct.get("trialinfo"), n),
            places=places,
            continuous=raw,
            meta={"variable": name, **({"positions": frame} if frame else {})},
        )


def _words(value: Any, where: str) -> list[str]:
    """Return a cell of texts."""
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not found or not all(isinstance(x, str) for x in found):
        raise InputError(explain(where, expected="a cell of names", got=type(value).__name__))
    if len(set(found)) != len(found):
        raise InputError(explain(where, expected="different names", got="one of them twice"))
    return list(found)


def _values(struct: dict[str, Any], name: str, n: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the trials (trial, channel, time), or the average, and the times of each."""
    if isinstance(struct.get("trial"), list):  # a cell of (channel, time)
        trials = [numbers(x, f"{name}.trial") for x in struct["trial"]]
        times = struct["time"] if isinstance(struct["time"], list) else [struct["time"]]
        clocks = [vector(t, f"{name}.time").astype(np.float64) for t in times]
    else:  # a tensor, as ft_timelockanalysis keeps it, or an average
        key = "trial" if "trial" in struct else "avg"
        body = numbers(struct[key], f"{name}.{key}")
        trials = list(body) if body.ndim == 3 else [body]
        clocks = [vector(struct["time"], f"{name}.time").astype(np.float64)] * len(trials)
    shapes = {x.shape for x in trials}
    if not trials or len(clocks) != len(trials) or shapes != {(n, len(clocks[0]))} or len(clocks[0]) < 2:
        expected = f"trials of {n} channels by one number of samples"
        got = f"{len(trials)} trials of {sorted(shapes)[:4]}, {len(clocks)} vectors of times"
        fix = "cut them to one length with ft_redefinetrial, or save them one by one"
        raise InputError(explain(name, expected=expected, got=got, fix=fix))
    if any(not np.allclose(t, clocks[0], rtol=0, atol=1e-9) for t in clocks):
        fix = "align them with ft_redefinetrial"
        raise InputError(explain(f"{name}.time", expected="trials on one axis of time", got="others", fix=fix))
    return np.stack(trials).astype(np.float64), clocks


def _rate(struct: dict[str, Any], times: np.ndarray, name: str) -> float:
    """Return the sampling rate, stated or told by the times, which must be steady."""
    step = np.diff(times)
    found = 1.0 / float(np.median(step)) if (step > 0).all() else 0.0
    stated = float(vector(struct["fsample"], f"{name}.fsample")[0]) if "fsample" in struct else found
    if not (found > 0 and np.isfinite(stated) and np.allclose(step * stated, 1.0, atol=1e-3)):
        got = f"times that step by {np.min(step):g} to {np.max(step):g} s, a rate of {stated:g} Hz"
        raise InputError(explain(f"{name}.time", expected="a steady clock", got=got))
    return stated


def _listed(sources: list[Any], key: str, names: list[str]) -> list[str]:
    """Return the first column of a table of channels that there is, in the order of the data."""
    for source in sources:
        if not isinstance(source, dict) or key not in source or "label" not in source:
            continue
        known = dict(zip(_words(source["label"], "label"), _texts(source[key]), strict=False))
        if set(names) & set(known):
            return [known.get(n, "") for n in names]
    return []


def _texts(value: Any) -> list[str]:
    """Return a cell whose entries may be empty as texts."""
    return [str(x) if isinstance(x, str) else "" for x in (value if isinstance(value, list) else [value])]


def _elec(struct: dict[str, Any]) -> Any:
    return struct.get("elec")


def _places(elec: Any) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Return positions of electrodes in m and their frame."""
    if not isinstance(elec, dict) or not {"label", "chanpos"} <= set(elec) or elec.get("unit") not in _METRES:
        return {}, {}
    names, place = _words(elec["label"], "elec.label"), numbers(elec["chanpos"], "elec.chanpos")
    if place.shape != (len(names), 3):
        raise LoadError(explain("elec.chanpos", expected=f"{len(names)} rows of x, y, z", got=f"shape {place.shape}"))
    scaled = place * _METRES[elec["unit"]]
    columns = {axis: dict(zip(names, scaled[:, k].tolist(), strict=True)) for k, axis in enumerate("xyz")}
    return columns, {"unit": "m", "frame": str(elec.get("coordsys") or "")}


def _trialinfo(info: Any, n: int) -> dict[str, np.ndarray]:
    """Return the columns of ``trialinfo``: "value" is the first of a matrix, the others are counted from 2."""
    if isinstance(info, dict):
        found = {str(k): column(v, n, f"trialinfo.{k}") for k, v in info.items()}
        return {k: v for k, v in found.items() if v is not None}
    if info is None or np.size(info) == 0:
        return {}
    table = numbers(info, "trialinfo")
    if table.ndim != 2 or len(table) != n:
        raise InputError(explain("trialinfo", expected=f"{n} rows, one a trial", got=f"shape {table.shape}"))
    return {"value" if k == 0 else f"value_{k + 1}": table[:, k] for k in range(table.shape[1])}
