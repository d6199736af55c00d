"""BIDS trees of EEG, iEEG and MEG: a data file together with what its side tables say of it.

``channels.tsv`` tells types, bad channels and units, ``electrodes.tsv`` with its coordinate system where the contacts
are, ``events.tsv`` what happened, ``participants.tsv`` who. Side files are looked for by the inheritance principle.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import InputError, LoadError, TectumWarning, explain
from tectum.core.intervals import Intervals
from tectum.core.recording import Recording
from tectum.core.session import Session

from ..delimited import numbers, read_table
from ..files import reading
from ..fmri.bids import read_json
from ..fmri.events import read_bids_events
from .files import format_of, mne_warnings, open_file
from .opened import Opened
from .parts import Options, recordings
from .read import one_or_session
from .units import VOLTAGE, plain

SUFFIXES = ("eeg", "ieeg", "meg")
#: Type of a channel in BIDS -> ours; MEG sensors keep the type that the file itself gives them.
TYPES = {
    "EEG": "eeg", "SEEG": "seeg", "ECOG": "ecog", "DBS": "dbs", "EOG": "eog", "VEOG": "eog", "HEOG": "eog",
    "ECG": "ecg", "EMG": "emg", "TRIG": "stim", "MISC": "misc", "AUDIO": "misc", "PUPIL": "misc", "REF": "misc",
    "EYEGAZE": "misc", "GSR": "gsr", "RESP": "resp", "TEMP": "temperature", "PPG": "misc", "SYSCLOCK": "syst",
    "ADC": "misc", "DAC": "misc", "OTHER": "misc", "PD": "misc",
}  # fmt: skip
_METRES = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}
_NONE = ("n/a", "N/A", "NaN", "nan", "")
_AREAS = ("region", "area", "anatomy", "anatomical", "location", "brain_region", "label", "roi", "parcel")
_PAIR = re.compile(r"([A-Za-z]+)-([A-Za-z0-9]+)$")


def is_bids(path: Path) -> bool:
    """Tell whether a path is a BIDS tree of electrophysiology, or a data file inside one.

    Examples
    --------
    >>> is_bids(Path("night.edf"))
    False
    """
    if (path / "dataset_description.json").is_file():
        return bool(_files(path, {}))
    named = path.name.startswith("sub-") and _split(path)[1] in SUFFIXES
    return named and bool(format_of(path)) and _root(path) is not None


def read_bids(
    path: str | Path,
    *,
    subject: str | None = None,
    session: str | None = None,
    task: str | None = None,
    run: str | None = None,
    space: str | None = None,
    picks: str | Sequence[str] | None = None,
    units: str | None = None,
    events: bool = True,
    truncated: bool = False,
) -> Recording | Session:
    """Read one recording of a BIDS tree with its side tables.

    Parameters
    ----------
    path : path
        A data file inside the tree, or the tree itself with as many of the next four as tell one recording.
    subject, session, task, run : str, optional
        Entities, without their prefixes.
    space : str, optional
        Which ``electrodes.tsv``, where there are several; default the one without a space, else the first by name.
    picks, units, events, truncated
        As in :func:`tectum.io.eeg.read.read_eeg`.

    Returns
    -------
    Recording or Session
        As :func:`tectum.io.eeg.read.read_eeg`, with the types of ``channels.tsv``, ``bad`` from its ``status``,
        positions from ``electrodes.tsv`` in m, ``region`` and the other columns of both tables; the intervals
        "events" with all columns of ``events.tsv`` and ``label`` from ``trial_type``; ``meta`` with the participant and
        the sidecar.

    Raises
    ------
    LoadError
        If no or several recordings fit, or a table is damaged or contradicts the data.
    """
    path = Path(path)
    wanted = {"sub": subject, "ses": session, "task": task, "run": run}
    if path.is_dir() and not format_of(path):
        path = _only(path, {k: str(v) for k, v in wanted.items() if v is not None})
    with reading(path, "a recording in a BIDS tree"), mne_warnings(str(path)):
        opened = open_file(path, infer_types=False, truncated=truncated)
        side = _Sides(path)
        options = Options(where=str(path), picks=picks, units=units, events=events, **side.options(opened, space))
        return one_or_session(recordings(opened, options))


# Names and places of files


def _split(path: Path) -> tuple[dict[str, str], str]:
    """Return the entities in a file name and its suffix.

    Examples
    --------
    >>> _split(Path("sub-01_task-rest_eeg.edf"))
    ({'sub': '01', 'task': 'rest'}, 'eeg')
    """
    *pairs, suffix = path.name.split(".", 1)[0].split("_")
    found = [_PAIR.match(pair) for pair in pairs]
    return {m[1]: m[2] for m in found if m}, suffix


def _root(path: Path) -> Path | None:
    """Return the folder of the tree that a file is in."""
    for folder in list(path.absolute().parents)[:6]:
        if (folder / "dataset_description.json").is_file() or (folder / "participants.tsv").is_file():
            return folder
    return None


def _files(root: Path, wanted: Mapping[str, str]) -> list[Path]:
    """Return the data files of a tree with the entities wanted; files that split one recording count once."""
    found = []
    for suffix in SUFFIXES:
        near = [p for level in ("sub-*", "sub-*/ses-*") for p in root.glob(f"{level}/{suffix}/sub-*_{suffix}.*")]
        for path in sorted(near):
            entities, _ = _split(path)
            other = path.suffix in (".json", ".eeg", ".vmrk", ".fdt", ".tsv") or not format_of(path)
            first = entities.get("split", "01").lstrip("0") in ("", "1")
            if first and not other and all(_same(entities.get(key), value) for key, value in wanted.items()):
                found.append(path)
    return found


def _same(found: str | None, wanted: str) -> bool:
    """Compare an entity with what was asked for; numbers may have zeros in front."""
    number = found is not None and found.isdigit() and wanted.isdigit() and int(found) == int(wanted)
    return found == wanted or number


def _only(root: Path, wanted: Mapping[str, str]) -> Path:
    """Return the one data file that fits."""
    found = _files(root, wanted)
    if len(found) != 1:
        names = (
            ", ".join(p.name for p in found[:6]) or ", ".join(p.name for p in _files(root, {})[:6]) or "no recording"
        )
        asked = ", ".join(f"{k}={v!r}" for k, v in wanted.items()) or "all"
        got = f"{len(found)} for {asked}: {names}"
        fix = "pass subject=, session=, task= or run=, or the path of the data file"
        raise LoadError(explain(str(root), expected="one recording", got=got, fix=fix))
    return found[0]


class _Sides:
    """The side files of a data file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entities, self.suffix = _split(path)
        self.root = _root(path) or path.parent

    def find(self, suffix: str, extension: str, *, more: tuple[str, ...] = ()) -> list[Path]:
        """Return side files whose entities the data file has too, the most specific first."""
        folders = [p for p in self.path.absolute().parents if p == self.root or self.root in p.parents]
        found = []
        for folder in folders:
            near = []
            for path in folder.glob(f"*{suffix}{extension}"):
                entities, kind = _split(path)
                own = {k: v for k, v in entities.items() if k not in more}
                if kind == suffix and all(self.entities.get(k) == v for k, v in own.items()):
                    near.append((-len(own), path.name, path))
            found += [path for *_, path in sorted(near)]
        return found

    def table(self, suffix: str) -> dict[str, np.ndarray]:
        """Return the closest table of a kind, empty if there is none."""
        found = self.find(suffix, ".tsv")
        return read_table(found[0], delimiter="\t") if found else {}

    def sidecar(self) -> dict[str, Any]:
        """Return what the JSON files of the recording say, the closest first."""
        merged: dict[str, Any] = {}
        for path in reversed(self.find(self.suffix, ".json")):
            merged |= read_json(path)
        return merged

    def options(self, opened: Opened, space: str | None) -> dict[str, Any]:
        """Return what the side files add to the reader's options."""
        first, channels = opened.objects[0], self.table("channels")
        columns, types = _channels(channels, opened, self.path) if channels else ({}, {})
        places, positions = self._electrodes(space)
        sidecar = self.sidecar()
        _check_sidecar(sidecar, opened, self.path)
        intervals: dict[str, Intervals] = {}
        if tables := self.find("events", ".tsv"):
            intervals["events"] = _events(tables[0])
        meta: dict[str, Any] = {"format": opened.kind, "bids": {"entities": self.entities, "sidecar": sidecar}}
        if isinstance(line := sidecar.get("PowerLineFrequency"), (int, float)):
            meta["line_frequency"] = float(line)
        meta |= {"positions": positions} if positions else {}
        meta |= {"participant": who} if (who := self._participant()) else {}
        names = set(first.ch_names)
        return {
            "types": types or None,
            "columns": {k: {n: v for n, v in column.items() if n in names} for k, column in (columns | places).items()},
            "intervals": intervals if hasattr(first, "first_samp") else {},
            "who": {"subject": self.entities.get("sub", ""), "session": self.entities.get("ses", "")},
            "meta": meta,
            "step": {"format": opened.kind, "layout": "BIDS", "file": self.path.name},
        }

    def _electrodes(self, space: str | None) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """Return the columns of the electrodes' table by name, places in m, and what frame they are in."""
        found = self.find("electrodes", ".tsv", more=("space",))
        if space is not None:
            found = [p for p in found if _split(p)[0].get("space") == space]
            if not found:
                expected = f"an electrodes table with space-{space}"
                raise InputError(explain(str(self.path), expected=expected, got="none", fix="leave space= out"))
        if not found:
            return {}, {}
        path = min(found, key=lambda p: ("space" in _split(p)[0], p.name))
        frame = _split(path)[0].get("space", "")
        systems = self.find("coordsystem", ".json", more=("space",))
        said = next((read_json(p) for p in systems if _split(p)[0].get("space", "") == frame), {})
        unit = next((str(v) for k, v in said.items() if re.fullmatch(r"(EEG|iEEG|MEG)CoordinateUnits", k)), "n/a")
        name = next((str(v) for k, v in said.items() if re.fullmatch(r"(EEG|iEEG|MEG)CoordinateSystem", k)), frame)
        columns = _by_name(read_table(path, delimiter="\t"), path, skip=("name",))
        factor = _METRES.get(unit, math.nan if unit == "pixels" else 1.0)
        for axis in (axis for axis in "xyz" if axis in columns):
            known = {n: v for n, v in columns[axis].items() if isinstance(v, float)}
            columns[axis] = {n: v * factor for n, v in known.items()}
        if unit not in _METRES:
            done = "are no places and left out" if unit == "pixels" else "are kept as they are"
            warnings.warn(f"{path}: positions in {unit!r} {done}", TectumWarning, stacklevel=2)
        where = {"unit": "m" if unit in _METRES else unit, "frame": name or frame, "file": path.name}
        return _with_region(columns), where

    def _participant(self) -> dict[str, str]:
        """Return the row of the participant."""
        path = self.root / "participants.tsv"
        if not path.is_file():
            return {}
        table = read_table(path, delimiter="\t")
        rows = np.flatnonzero(table.get("participant_id", np.empty(0, str)) == f"sub-{self.entities.get('sub')}")
        return {k: str(v[rows[0]]) for k, v in table.items() if v[rows[0]] not in _NONE} if len(rows) else {}


# Tables


def _by_name(table: Mapping[str, np.ndarray], path: Path, skip: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return the columns of a table as mappings from the name in each row; "n/a" is None."""
    if "name" not in table or len(set(table["name"].tolist())) != len(table["name"]):
        raise LoadError(explain(str(path), expected="a column 'name' of different names", got=f"{sorted(table)}"))
    names = table["name"].tolist()
    return {key: dict(zip(names, _values(column), strict=True)) for key, column in table.items() if key not in skip}


def _values(column: np.ndarray) -> list[Any]:
    """Return numbers or text of a column; "n/a" is None."""
    lost = np.isin(column, _NONE)
    numeric = numbers(np.where(lost, "", column)) if not lost.all() else None
    if numeric is not None:
        return [None if gone else float(v) for v, gone in zip(numeric, lost, strict=True)]
    return [None if gone else str(v) for v, gone in zip(column, lost, strict=True)]


def _with_region(columns: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Call the first column of anatomy that there is "region"."""
    lower = {name.lower(): name for name in columns}
    found = next((lower[name] for name in _AREAS if name in lower), None)
    if found is not None and "region" not in columns:
        columns["region"] = columns[found]
    return columns


def _channels(
    table: Mapping[str, np.ndarray], opened: Opened, path: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return more columns and the types of channels, after comparing the table with the data."""
    columns, inst = _by_name(table, path, skip=("name", "sampling_frequency")), opened.objects[0]
    names = set(inst.ch_names)
    listed = set(columns.get("type", {})) | set(columns.get("units", {}))
    if listed and not listed & names:
        got = f"{sorted(listed)[:4]} for {sorted(names)[:4]}"
        raise LoadError(explain(str(path), expected="a channels.tsv with the channels of the data", got=got))
    if missing := sorted(names - listed):
        warnings.warn(f"{path}: channels.tsv does not list {', '.join(missing[:6])}", TectumWarning, stacklevel=2)
    kinds = dict(zip(inst.ch_names, inst.get_channel_types(), strict=True))
    types = {}
    for name, kind in columns.pop("type", {}).items():
        ours = TYPES.get(str(kind).upper())
        if name in names and ours is not None and not str(kind).upper().startswith("MEG"):
            types[name] = kinds[name] if ours == "misc" and kinds[name] not in ("eeg", "stim") else ours
    status = columns.pop("status", {})
    marked = {n: str(v).lower() == "bad" for n, v in status.items() if v is not None}
    columns["bad"] = {n: marked.get(n, n in inst.info["bads"]) for n in names}
    _check_units(columns.pop("units", {}), opened, path)
    return columns, types


def _check_units(units: Mapping[str, Any], opened: Opened, path: Path) -> None:
    """Warn of channels whose unit in the table is not the one in the header; the header stands."""
    stated = {n: plain(u) for n, u in opened.units.items()} if opened.kind != "EEGLAB" else {}
    told = {n: plain(str(u)) for n, u in units.items() if u is not None}
    both = [n for n in stated if n in told and {stated[n], told[n]} <= VOLTAGE and stated[n] != told[n]]
    if both:
        names = ", ".join(f"{n} ({told[n]}, header {stated[n]})" for n in both[:6])
        text = f"{path}: channels.tsv and the header differ in the unit of {names}; the header is used"
        warnings.warn(text, TectumWarning, stacklevel=2)


def _check_sidecar(sidecar: Mapping[str, Any], opened: Opened, path: Path) -> None:
    """Compare rate and length in the sidecar with the data."""
    inst = opened.objects[0]
    rate, length = sidecar.get("SamplingFrequency"), sidecar.get("RecordingDuration")
    if isinstance(rate, (int, float)) and not math.isclose(rate, inst.info["sfreq"], rel_tol=1e-3):
        text = f"{path}: the sidecar says {rate:g} Hz, the data have {inst.info['sfreq']:g} Hz, which is used"
        warnings.warn(text, TectumWarning, stacklevel=2)
    if isinstance(length, (int, float)) and hasattr(inst, "first_samp"):
        found = len(inst.times) / inst.info["sfreq"]
        if found < length - 2 / inst.info["sfreq"] - 1e-3 * length:
            text = f"{path}: the sidecar says {length:g} s, the data last {found:g} s: were they cut off?"
            warnings.warn(text, TectumWarning, stacklevel=2)


def _events(path: Path) -> Intervals:
    """Return the events, counted from the first sample, with ``label`` from the column that tells what they are."""
    found = read_bids_events(path)
    source = next((k for k in ("trial_type", "stim_type", "value") if k in found.columns), None)
    label = np.asarray(found.columns[source]).astype(str) if source else np.full(len(found), "event")
    return replace(found, columns={**found.columns, "label": np.where(np.isin(label, _NONE), "", label)})
