"""FIL and ARTEMIS: what these files of magnetometers say of their own size, then MNE."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import LoadError, explain

from ...signature import magic
from ..opened import Opened
from .clinical import check_factors

_CUT = "the file was cut off or is damaged: copy it anew"
_FIL_NEEDS = ("name", "type", "units", "status")
_FLOAT = 4  # bytes of a number


def _refuse(path: Path, expected: str, got: str, fix: str = "") -> LoadError:
    return LoadError(explain(str(path), expected=expected, got=got, fix=fix))


def _checked(path: Path, raw: Any, *, channels: int, samples: int, rate: float) -> Any:
    """Return MNE's object if it is what the file says of itself."""
    found = len(raw.ch_names), len(raw.times), float(raw.info["sfreq"])
    if found[:2] != (channels, samples) or not math.isclose(found[2], rate, rel_tol=1e-6):
        got = "{} of {} at {:g} Hz".format(*found)
        raise _refuse(path, f"{channels} channels of {samples} samples at {rate:g} Hz", got)
    return raw


# FIL


def check_fil(path: Path) -> tuple[int, int, float]:
    """Compare a ``_meg.bin`` file with the tables beside it: channels, samples, rate."""
    root = path.stem.removesuffix("_meg")
    table, sidecar = path.with_name(f"{root}_channels.tsv"), path.with_name(f"{root}_meg.json")
    lines = [line.split("\t") for line in table.read_text(encoding="utf-8-sig").splitlines()]
    odd = next((k for k, line in enumerate(lines) if len(line) != len(lines[0])), None)
    if not lines or odd is not None or not set(_FIL_NEEDS) <= set(lines[0]):
        got = f"{lines[odd]} in line {odd + 1}" if odd is not None else f"{lines[:1]}"
        raise _refuse(table, f"rows with {', '.join(_FIL_NEEDS)}", got)
    column = lines[0].index("name")
    names = [line[column] for line in lines[1:]]
    if not names or len(set(names)) != len(names):
        raise _refuse(table, "channels of different names", f"{names[:6]}")
    about = json.loads(sidecar.read_text(encoding="utf-8"))
    rate = float(about["SamplingFrequency"])
    samples, rest = divmod(path.stat().st_size, _FLOAT * len(names))
    stated = float(about.get("RecordingDuration", math.nan))
    if not 0 < rate < math.inf:
        raise _refuse(sidecar, "a sampling frequency", f"{rate:g} Hz")
    rounding = 0.5 * rate if stated.is_integer() else 1.0  # samples; some write whole seconds
    if rest or not samples or not magic(path, 1) or abs(stated * rate - samples) > rounding:
        expected = f"samples of {len(names)} float32" + (f" for {stated:g} s" if math.isfinite(stated) else "")
        raise _refuse(path, expected, f"{path.stat().st_size} bytes, {samples / rate:g} s", _CUT)
    return len(names), samples, rate


def _open_fil(path: Path, truncated: bool) -> Opened:
    import mne

    channels, samples, rate = check_fil(path)
    raw = mne.io.read_raw_fil(path, verbose="WARNING")
    check_factors([c["cal"] for c in raw.info["chs"]], path)
    return Opened("FIL", [_checked(path, raw, channels=channels, samples=samples, rate=rate)])


# ARTEMIS


def check_artemis(path: Path) -> tuple[int, int, float]:
    """Compare a ``.bin`` file of ARTEMIS with the header beside it: channels, samples, rate."""
    header = path.with_suffix(".txt")
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in header.read_text(encoding="utf-8").splitlines():
        if line.startswith("<start "):
            lines = sections.setdefault(line.strip()[7:-1], [])
        elif line.startswith("<end"):
            lines = []
        elif line.strip():
            lines.append(line.strip())
    about = dict(line.split("\t", 1) for line in sections["main header"] if "\t" in line)
    rows = [line.split("\t") for line in sections["per channel header"] if not line.startswith("DAQ Map")]
    rate, samples = float(about["DAQ Sample Rate"]), int(sections["length"][0])
    if not rows or any(len(row) != 7 for row in rows) or samples < 1 or not 0 < rate < math.inf:
        got = f"{len(rows)} channels, {samples} samples at {rate:g} Hz"
        raise _refuse(header, "channels with seven fields, samples and a rate", got)
    if not np.isfinite([float(row[1]) for row in rows]).all() or len({row[0] for row in rows}) != len(rows):
        raise _refuse(header, "a name and a scaling of every channel", f"{rows[:2]}")
    size = _FLOAT * len(rows) * samples
    if path.stat().st_size != size:
        raise _refuse(path, f"{samples} samples of {len(rows)} float32, {size} bytes", f"{path.stat().st_size}", _CUT)
    return len(rows), samples, rate


def _open_artemis(path: Path, truncated: bool) -> Opened:
    import mne

    channels, samples, rate = check_artemis(path)
    raw = mne.io.read_raw_artemis123(path, verbose="WARNING")
    return Opened("ARTEMIS", [_checked(path, raw, channels=channels, samples=samples, rate=rate)])


#: Format -> how it is opened after its size was compared with its header.
OPENERS = {"FIL": _open_fil, "ARTEMIS": _open_artemis}
