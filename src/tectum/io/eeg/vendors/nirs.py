"""SNIRF, NIRx, BOXY and Hitachi: what files of near-infrared light say of their own size, then MNE."""

from __future__ import annotations

import json
import math
import re
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import LoadError, explain

from ... import hdf5, mat5, mat_values
from ...files import MOST_SHRUNK
from ..opened import Opened

_CUT = "the file was cut off or is damaged: copy it anew"
_NUMBERS = re.compile(rb"[-+0-9.eEnaN \t\r\n]*")
_MOST_DETECTORS = 26  # BOXY names them by letters


def _refuse(path: Path, expected: str, got: str, fix: str = "") -> LoadError:
    return LoadError(explain(str(path), expected=expected, got=got, fix=fix))


def _checked(path: Path, raw: Any, *, channels: int, samples: int, rate: float) -> Any:
    """Return MNE's object if it is what the file says of itself."""
    found = len(raw.ch_names), len(raw.times), float(raw.info["sfreq"])
    if found[:2] != (channels, samples) or not math.isclose(found[2], rate, rel_tol=1e-4):
        got = "{} of {} at {:g} Hz".format(*found)
        raise _refuse(path, f"{channels} channels of {samples} samples at {rate:g} Hz", got)
    return raw


# SNIRF


def check_snirf(path: Path) -> tuple[int, int]:
    """Compare data, times and descriptions of the channels of a SNIRF file: channels, samples."""
    with hdf5.opened(path, "a SNIRF file", check=True) as file:
        data = file["nirs/data1"]
        shape = data["dataTimeSeries"].shape
        names = sorted((n for n in data if n.startswith("measurementList")), key=len)
        times = data["time"].shape
        if len(shape) != 2 or shape[1] != len(names) or times[0] not in (2, shape[0]) or not shape[0]:
            got = f"data of shape {shape}, {len(names)} channels, {times[0]} times"
            raise _refuse(path, "one time a row and one channel a column", got)
        expected = [f"measurementList{k + 1}" for k in range(len(names))]
        if sorted(names) != sorted(expected):
            raise _refuse(path, "channels numbered from 1", f"{names[:4]}")
        clock = hdf5.whole(data["time"])
        steps = np.diff(clock) if len(clock) == shape[0] else clock[1:]
        if not np.isfinite(clock).all() or not (steps > 0).all():
            raise _refuse(path, "times that rise", f"{clock[:4]}")
        _check_optodes(path, file["nirs/probe"], [data[name] for name in expected])
        claimed, most = math.prod(shape) * data["dataTimeSeries"].dtype.itemsize, MOST_SHRUNK * path.stat().st_size
        if claimed > most:
            raise _refuse(path, f"at most {most} bytes of data", f"{claimed} claimed", _CUT)
    return shape[1], shape[0]


def _check_optodes(path: Path, probe: Any, channels: list[Any]) -> None:
    """Refuse channels of sources, detectors and wavelengths that are not there: MNE counts from the end then."""
    limits = {"wavelengthIndex": probe["wavelengths"].shape[0]}
    for kind in ("source", "detector"):
        places = next((probe[f"{kind}Pos{d}D"] for d in (3, 2) if f"{kind}Pos{d}D" in probe), None)
        if places is not None:
            limits[f"{kind}Index"] = places.shape[0]
    for name, limit in limits.items():
        found = [int(np.ravel(channel[name][()])[0]) for channel in channels if name in channel]
        if found and not 1 <= min(found) <= max(found) <= limit:
            raise _refuse(path, f"{name} from 1 to {limit}", f"{min(found)} to {max(found)}")


def _open_snirf(path: Path, truncated: bool) -> Opened:
    import mne

    channels, samples = check_snirf(path)
    raw = mne.io.read_raw_snirf(path, verbose="WARNING")
    return Opened("SNIRF", [_checked(path, raw, channels=channels, samples=samples, rate=raw.info["sfreq"])])


# NIRx


def check_nirx(header: Path) -> tuple[int, int, float]:
    """Compare header, probe and both tables of intensities of a NIRx folder: channels, samples, rate."""
    folder = header.parent
    text = header.read_text(encoding="latin-1")
    aurora = any(folder.glob("*config.json"))
    hidden = re.sub("#.*?#", "", text, flags=re.S)
    about = RawConfigParser()
    about.read_string(hidden.split("[DataStructure]")[0] if aurora else hidden)
    words = about["GeneralInfo"]["Sampling rate"] if aurora else about["ImagingParameters"]["SamplingRate"]
    key = text.split("\n")[-2] if aurora else about["DataStructure"]["S-D-Key"]
    pairs = [(int(a) + aurora, int(b) + aurora) for a, b in re.findall(r"(\d+)-(\d+)", key)]
    rows = {}
    for end in ("wl1", "wl2"):
        for table in sorted(folder.glob(f"*{end}")):
            rows[table.name] = _check_rows(table, len(pairs))
    if len(rows) < 2 or len(set(rows.values())) != 1:
        raise _refuse(folder, "tables of both wavelengths of the same length", f"{rows}", _CUT)
    wanted = [tuple(map(int, row)) for row in _probe(folder)]
    if len(set(pairs)) != len(pairs) or not wanted or not set(wanted) <= set(pairs):
        missing = sorted(set(wanted) - set(pairs))[:3]
        raise _refuse(header, f"{len(wanted)} pairs of a source and a detector, once each", f"without {missing}")
    rate = float(words)
    if not 0 < rate < math.inf:
        raise _refuse(header, "a rate", f"{rate:g} Hz")
    return 2 * len(wanted), next(iter(rows.values())), rate


def _check_rows(path: Path, n_columns: int) -> int:
    """Refuse a table with other characters than numbers have, or with rows of another length; return the rows."""
    data = path.read_bytes()
    lines = data.splitlines()
    odd = next((k for k, line in enumerate(lines) if len(line.split()) != n_columns), None)
    if odd is not None or not data.endswith(b"\n") or not _NUMBERS.fullmatch(data):
        got = "other text" if odd is None else f"{len(lines[odd].split())} in line {odd + 1}"
        raise _refuse(path, f"whole lines of {n_columns} numbers", got, _CUT)
    return len(lines)


def _probe(folder: Path) -> np.ndarray:
    """Return the pairs of source and detector that the probe has: (channel, 2)."""
    for path in sorted(folder.glob("*probeInfo.json")):
        found = json.loads(path.read_text(encoding="utf-8"))["probeInfo"]["probes"]["index_c"]
        return np.asarray(found)
    path = next(iter(sorted(folder.glob("*probeInfo.mat"))), folder / "probeInfo.mat")
    mat5.check(path)  # MNE leaves it to SciPy, which ends the process on some damaged files
    return np.asarray(mat_values.load(path, ["probeInfo"])["probeInfo"]["probes"]["index_c"]).reshape(-1, 2)


def _open_nirx(path: Path, truncated: bool) -> Opened:
    import mne

    channels, samples, rate = check_nirx(path)
    raw = mne.io.read_raw_nirx(path, verbose="WARNING")
    return Opened("NIRx", [_checked(path, raw, channels=channels, samples=samples, rate=rate)])


# BOXY


def check_boxy(path: Path) -> tuple[int, int, float]:
    """Check that the lines of a BOXY file hold what its header says: channels, samples, rate."""
    text = path.read_text(encoding="utf-8")
    head, begins, rest = text.partition("#DATA BEGINS")
    body, ends, _ = rest.partition("#DATA ENDS")
    if not begins or not ends or "\x00" in text:
        raise _refuse(path, "data from #DATA BEGINS to #DATA ENDS", "no end" if begins else "none", _CUT)

    def number(*words: str) -> float:
        line = next(line for line in head.splitlines() if any(word in line for word in words))
        return float(line.split(" ")[0])

    detectors, sources = int(number("Detector Channels")), int(number("External MUX Channels"))
    rate = number("Update Rate (Hz)", "Updata Rate (Hz)")
    if not (1 <= detectors <= _MOST_DETECTORS and 1 <= sources <= 1024 and 0 < rate < math.inf):
        raise _refuse(path, "detectors, sources and a rate", f"{detectors}, {sources}, {rate:g} Hz")
    lines = body.split("\n")[1:]
    columns, rows = re.findall(r"\w+-\w+|\w+", lines[0].rsplit(" ")[0]), lines[2:-1]
    several = "exmux" in columns  # then every source has a line of its own
    widths = {len(line.split()) for line in rows}
    whole = widths == {len(columns)} or (several and max(widths, default=0) == len(columns))
    if not rows or not whole or (several and len(rows) % sources):
        got = f"{len(rows)} lines of {sorted(widths)} numbers"
        raise _refuse(path, f"lines of {len(columns)} numbers" + (f", {sources} a time" if several else ""), got, _CUT)
    if not all(math.isfinite(float(word)) for line in rows for word in line.split()):
        raise _refuse(path, "numbers", "NaN or infinity")
    return 3 * detectors * sources, len(rows) // (sources if several else 1), rate


def _open_boxy(path: Path, truncated: bool) -> Opened:
    import mne

    channels, samples, rate = check_boxy(path)
    raw = mne.io.read_raw_boxy(path, verbose="WARNING")
    return Opened("BOXY", [_checked(path, raw, channels=channels, samples=samples, rate=rate)])


# Hitachi


def check_hitachi(path: Path) -> tuple[int, float]:
    """Check that the rows of a Hitachi table are whole and numbered: samples, rate."""
    text = path.read_bytes().decode("latin-1")
    lines = re.split(r"\r\n|\n|\r", text)
    start = next((k for k, line in enumerate(lines) if line.split(",")[0] == "Data"), None)
    if start is None or "\x00" in text or lines[-1]:
        raise _refuse(path, "a table behind the line Data, up to the end of its last line", "none or part of it", _CUT)
    period = next(line for line in lines[:start] if line.startswith("Sampling Period[s]"))
    rate = 1 / float(period.split(",")[1])
    names, rows = lines[start + 1].rstrip(",").split(","), [line for line in lines[start + 2 :] if line]
    numbers = [line.split(",") for line in rows]
    odd = next((k for k, row in enumerate(numbers) if len(row) != len(numbers[0]) or row[0] != str(k + 1)), None)
    if odd is not None or not rows or len(numbers[0]) < len(names) or not 0 < rate < math.inf:
        got = "none" if odd is None else f"{rows[odd][:20]!r} as row {odd + 1}"
        raise _refuse(path, f"numbered rows of {len(names)} values at a rate", got, _CUT)
    for row in numbers:
        if not all(math.isfinite(float(value.replace(":", "") or 0)) for value in row[: len(names)]):
            raise _refuse(path, "numbers", f"{row[:4]}")
    return len(rows), rate


def _open_hitachi(path: Path, truncated: bool) -> Opened:
    import mne

    samples, rate = check_hitachi(path)
    raw = mne.io.read_raw_hitachi(path, verbose="WARNING")
    return Opened("Hitachi", [_checked(path, raw, channels=len(raw.ch_names), samples=samples, rate=rate)])


#: Format -> how it is opened after its size was compared with its header.
OPENERS = {"SNIRF": _open_snirf, "NIRx": _open_nirx, "BOXY": _open_boxy, "Hitachi": _open_hitachi}
