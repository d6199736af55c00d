"""*C. elegans* recordings in text and NWB: Leifer2023, Venkatachalam2024 and Nejatbakhsh2020."""

from __future__ import annotations

import csv
import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import InputError, LoadError, TectumWarning, explain
from tectum.core.intervals import Intervals

from ..delimited import LONGEST
from ..files import AmbiguousAxisError, reading, required
from ..hdf5 import inside, opened, whole
from .animal import Animal, Options, table

VENKATACHALAM_STEP = 0.375  # s
FIRST_COLUMN = 107  # of the table of Venkatachalam2024 that holds a measurement
NEJATBAKHSH_RATE = 4.0  # Hz, where the file does not tell


def leifer_animals(folder: Path) -> list[Path]:
    """Return the traces of each animal in a folder, in the order of their numbers."""
    found = [p for p in folder.glob("*_gcamp.txt") if p.name.split("_")[0].isdigit()]
    return sorted(found, key=lambda p: int(p.name.split("_")[0]))


def read_leifer(path: Path, options: Options) -> list[Animal]:
    """Read one animal of Leifer2023: ``<i>_gcamp.txt`` with the labels, times and stimuli of the same number."""
    number, folder = path.name.split("_")[0], path.parent
    values = _numbers(path)
    clock = required(folder, f"{number}_t.txt", "the time of each frame")
    times = _numbers(clock).reshape(-1)
    labels = _lines(required(folder, f"{number}_labels.txt", "the name of each trace"))
    if len(labels) > values.shape[1]:
        text = f"{path}: {len(labels)} labels for {values.shape[1]} traces; the last are cut"
        warnings.warn(text, TectumWarning, stacklevel=2)
        labels = labels[: values.shape[1]]
    source = folder / f"{number}_ds_name.txt"
    origin = "".join(_lines(source)) if source.is_file() else ""
    return [
        Animal(
            name=number,
            values=values,
            labels=[label.strip() or None for label in labels],
            times=times,
            intervals=_pulses(folder, number, times, labels),
            meta={
                "condition": "optogenetic stimulation",
                "source": origin,
            },
            notes=("the unit of the traces is not told",),
            guess="left_first",
        )
    ]


def _pulses(folder: Path, number: str, times: np.ndarray, labels: list[str]) -> dict[str, Intervals]:
    """Return when which neuron was stimulated, where the files of it are there."""
    frames, targets = (folder / f"{number}_{name}.txt" for name in ("stim_volume_i", "stim_neurons"))
    if not (frames.is_file() and targets.is_file()):
        return {}
    at, unit = (_numbers(p).reshape(-1).astype(np.int64) for p in (frames, targets))
    if len(at) != len(unit) or not ((at >= 0) & (at < len(times))).all():
        got = f"{len(at)} frames, {len(unit)} neurons"
        raise InputError(explain(str(frames), expected=f"a frame below {len(times)} for each neuron", got=got))
    name = [labels[k].strip() if 0 <= k < len(labels) else "" for k in unit]
    return {
        "stimuli": Intervals.from_pairs(zip(times[at], times[at], strict=True), name=np.asarray(name, str), unit=unit)
    }


def _numbers(path: Path) -> np.ndarray:
    """Read numbers apart by blanks, as many in every row."""
    with reading(path, "rows of numbers"):
        rows = [[float(word) for word in line.split()] for line in _lines(path) if line.strip()]
        if not rows or len({len(row) for row in rows}) != 1:
            raise ValueError(f"rows of {sorted({len(row) for row in rows})[:4]} numbers")
        return np.asarray(rows, dtype=np.float64)


def _lines(path: Path) -> list[str]:
    with reading(path, "lines of text"):
        if path.stat().st_size > LONGEST:
            raise LoadError(explain(str(path), expected=f"at most {LONGEST} bytes", got=str(path.stat().st_size)))
        text = path.read_text(encoding="utf-8")
        if "\x00" in text:
            raise ValueError("bytes that are no text")
        return text.removesuffix("\n").split("\n")


def read_venkatachalam(path: Path, options: Options) -> list[Animal]:
    """Read one animal of Venkatachalam2024: a zipped table, one neuron a row, frames from column 107 on."""
    with reading(path, "a zipped table"):
        header, rows = _table_in(path)
        if "neuron" not in header or len(header) < FIRST_COLUMN + 3:
            expected = f"a column neuron and frames from column {FIRST_COLUMN} on"
            raise InputError(explain(str(path), expected=expected, got=f"{len(header)} columns, {header[:9]}"))
        place = header.index("neuron")
        frames = np.asarray([float(name) for name in header[FIRST_COLUMN:-1]])
        cells = [[cell.strip() or "nan" for cell in row[FIRST_COLUMN:-1]] for row in rows]
        values = np.asarray(cells, dtype=np.float64).T  # (time, unit)
        labels = [row[place].strip() or None for row in rows]
    empty = np.asarray(np.isnan(values).all(axis=0))
    if empty.all():
        raise InputError(explain(str(path), expected="a trace with numbers", got="none"))
    return [
        Animal(
            name=path.stem,
            values=values[:, ~empty],
            labels=[label for label, none in zip(labels, empty, strict=True) if not none],
            times=frames * VENKATACHALAM_STEP,
            meta={"condition": "", "left_out": int(empty.sum())},
            notes=(
                f"frames of {VENKATACHALAM_STEP} s",
                "the unit of the traces is not told",
                "empty traces are left out",
            ),
        )
    ]


def _table_in(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read the only table of an archive; nothing is unpacked to disk."""
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.lower().endswith(".csv") and not n.startswith("__")]
        if len(names) != 1:
            raise ValueError(f"{len(names)} tables in the archive")
        entry = archive.getinfo(names[0])
        if entry.file_size > min(LONGEST, 1100 * max(path.stat().st_size, 1)):
            raise ValueError(f"a table that claims {entry.file_size} bytes")
        with archive.open(entry) as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig").read(LONGEST)
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if len(rows) < 2 or len({len(row) for row in rows}) != 1:
        raise ValueError("no rows, or rows of different lengths")
    return [name.strip() for name in rows[0]], rows[1:]


_NWB = "processing/CalciumActivity/SignalRawFluor/SignalCalciumImResponseSeries"


def read_nejatbakhsh(path: Path, options: Options) -> list[Animal]:
    """Read one animal of Nejatbakhsh2020: raw fluorescence in NWB with the names of neurons."""
    with opened(path, "an NWB file of Nejatbakhsh2020", check=True) as file:
        room = file.get("processing/CalciumActivity")
        series, ids = file.get(_NWB), None if room is None else room.get("NeuronIDs")
        data, names = (None if n is None else inside(n, k) for n, k in ((series, "data"), (ids, "labels")))
        if data is None or names is None:
            where = ", ".join(room) if room is not None and hasattr(room, "keys") else ", ".join(file)
            raise InputError(explain(str(path), expected=f"{_NWB}/data and NeuronIDs/labels", got=where or "nothing"))
        values, labels = table(whole(data), _NWB), [str(x) for x in np.asarray(whole(names)).reshape(-1)]
        clock, notes = _nwb_clock(series)
    if values.shape[0] == values.shape[1] == len(labels):
        got = f"as many as frames: shape {values.shape}"
        raise AmbiguousAxisError(explain(str(path), expected="neurons told from frames", got=got))
    turned = values.shape[1] != len(labels) and values.shape[0] == len(labels)
    return [
        Animal(
            name=path.stem,
            values=values.T if turned else values,
            labels=[label or None for label in labels],
            units="F",
            meta={"condition": path.parent.name, "field": "SignalCalciumImResponseSeries", "transposed": turned},
            notes=notes,
            **clock,
        )
    ]


def _nwb_clock(series: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return times or rate of a series, and what was assumed."""
    if "timestamps" in series:
        return {"times": np.asarray(whole(series["timestamps"]), dtype=np.float64)}, ()
    start = series.get("starting_time")
    if start is not None and "rate" in start.attrs:
        return {"rate": float(start.attrs["rate"]), "t0": float(np.asarray(start[()]).reshape(-1)[0])}, ()
    return {"rate": NEJATBAKHSH_RATE}, (f"{NEJATBAKHSH_RATE:g} Hz, the file has no clock",)
