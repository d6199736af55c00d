"""SNIRF and NIRx, recordings of near-infrared light: what the files say of their own size, then MNE.

MNE takes the data type and the unit of the first channel for those of all, and the length of the first wavelength for
that of both.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import LoadError, explain

from ... import hdf5, mat5
from ...files import MOST_SHRUNK, reading
from ..opened import Opened

CUT = "the file was cut off or is damaged: copy it anew"
_DATA = "nirs/data1"
_INTENSITY, _PROCESSED = 1, 99999
_TIMES = {"s": 1.0, "ms": 1000.0, "unknown": 1.0}  # steps in a second
_FEATURES = ("sourceIndex", "detectorIndex", "wavelengthIndex", "dataType", "dataTypeIndex", "dataTypeLabel")
_LONGEST = 1 << 20  # s between two samples, far beyond any


@dataclass(frozen=True)
class Light:
    """What a recording of light says of itself: channels, samples, samples a second, unit, annotations.

    ``stimuli`` are onset and duration in s since the first sample, and a label; None where MNE's are right.
    """

    channels: int
    samples: int
    rate: float
    unit: str = ""
    stimuli: tuple[tuple[float, float, str], ...] | None = None


def check_light(raw: Any, light: Light, path: Path) -> None:
    """Refuse an object of MNE that holds other channels, samples or another rate than the checker read."""
    wanted = light.channels, light.samples, light.rate
    found = len(raw.ch_names), len(raw.times), raw.info["sfreq"]
    if not np.allclose(wanted, found, rtol=1e-6):
        expected = "{} channels of {} samples at {:g} Hz".format(*wanted)
        raise LoadError(explain(str(path), expected=expected, got="{} of {} at {:g} Hz".format(*found)))


def check_rate(rate: float, path: Path) -> None:
    """Refuse a rate that is none."""
    if not (math.isfinite(rate) and rate > 1 / _LONGEST):
        raise LoadError(explain(str(path), expected="a sampling rate", got=f"{rate:g} Hz"))


def check_snirf(path: Path) -> Light:
    """Compare the channels of a SNIRF file with its array of samples, its clock and its probe."""
    with hdf5.opened(path, "a SNIRF file", check=True) as file:
        hdf5.walk(file, lambda name, group: _check_members(path, group))
        series = file[f"{_DATA}/dataTimeSeries"]
        if series.ndim != 2 or series.dtype.kind not in "fiu" or 0 in series.shape:
            got = f"{series.shape} of {series.dtype}"
            raise LoadError(explain(f"{path}:{series.name}", expected="numbers (time, channel)", got=got))
        if series.id.get_storage_size() == 0:
            raise LoadError(explain(f"{path}:{series.name}", expected="samples", got="none were written"))
        samples, channels = series.shape
        listed = [file[f"{_DATA}/{name}"] for name in file[_DATA] if name.startswith("measurementList")]
        if len(listed) != channels:
            got = f"{len(listed)} descriptions of channels"
            raise LoadError(explain(str(path), expected=f"{channels} as there are columns of data", got=got))
        unit = _check_channels(path, [_features(node) for node in listed], file["nirs/probe"])
        scale = _TIMES[hdf5.text(file["nirs/metaDataTags"], "TimeUnit", "s")]
        start, rate = _clock(path, hdf5.whole(file[f"{_DATA}/time"]) / scale, samples)
        stimuli = None if start == 0 and scale == 1 else _stimuli(file["nirs"], start, scale)
    return Light(channels, samples, rate, unit, stimuli)


def _check_members(path: Path, group: Any) -> bool:
    """Refuse arrays that claim more than the file can hold, or that lie in other files."""
    for name in group:
        node = hdf5.inside(group, name)
        if not hasattr(node, "shape") or node.shape is None:
            continue
        if node.is_virtual or node.external:
            raise LoadError(explain(f"{path}:{node.name}", expected="data in this file", got="a link to others"))
        claimed, size = math.prod(node.shape) * node.dtype.itemsize, path.stat().st_size
        if claimed > MOST_SHRUNK * size:
            raise LoadError(explain(f"{path}:{node.name}", expected=f"what {size} bytes hold", got=f"{claimed}"))
    return True


def _features(node: Any) -> dict[str, Any]:
    """Return what tells a channel from others, and its unit."""
    found = {name: hdf5.whole(node[name]).ravel()[0].item() for name in _FEATURES if name in node}
    return {**found, "unit": hdf5.text(node, "dataUnit")}


def _check_channels(path: Path, channels: Sequence[Mapping[str, Any]], probe: Any) -> str:
    """Check that channels differ, are of one kind and lie in the probe; return their unit."""
    kinds = sorted({int(c["dataType"]) for c in channels})
    units = sorted({str(c["unit"]) for c in channels})
    if len(kinds) > 1 or (len(units) > 1 and kinds[0] in (_INTENSITY, _PROCESSED)):
        got, fix = f"types {kinds} in units {units}", "MNE would treat all like the first: split the file"
        raise LoadError(explain(str(path), expected="channels of one type and unit", got=got, fix=fix))
    space = "Pos3D" if {"sourcePos3D", "detectorPos3D"} <= set(probe) else "Pos2D"
    waves = hdf5.whole(probe["wavelengths"]).astype(np.float64)
    places = {name: hdf5.whole(probe[f"{name}{space}"]) for name in ("source", "detector")}
    if not (waves.ndim == 1 and np.isfinite(waves).all() and (waves > 0).all()):
        raise LoadError(explain(str(path), expected="wavelengths in nm", got=f"{waves.tolist()}"))
    limits = {f"{name}Index": len(rows) for name, rows in places.items()} | {"wavelengthIndex": len(waves)}
    for name, limit in limits.items():
        wrong = [c[name] for c in channels if name in c and not 1 <= c[name] <= limit]
        if wrong:
            raise LoadError(explain(str(path), expected=f"{name} from 1 to {limit}", got=f"{wrong[:4]}"))
    if len({tuple(c.get(name) for name in _FEATURES) for c in channels}) != len(channels):
        raise LoadError(explain(str(path), expected="channels that differ", got="some are described alike"))
    return units[0]


def _clock(path: Path, times: np.ndarray, samples: int) -> tuple[float, float]:
    """Return the time of the first sample and the rate; times are all, or the first and the step."""
    whole = times.ndim == 1 and len(times) in (2, samples) and bool(np.isfinite(times).all())
    steps = times[1:] if whole and len(times) == 2 != samples else np.diff(times) if whole else np.empty(0)
    if not len(steps) or (steps <= 0).any():
        got = f"an array {times.shape}" if not whole else "times that do not grow"
        raise LoadError(explain(f"{path}:/{_DATA}/time", expected=f"{samples} growing times", got=got))
    rate = float((1 / steps).mean()) if len(times) != 2 else float(1 / times[1])
    check_rate(rate, path)
    return float(times[0]), rate


def _stimuli(nirs: Any, start: float, scale: float) -> tuple[tuple[float, float, str], ...]:
    """Return the stimuli in s since the first sample: MNE takes the clock's zero for it, and its steps for seconds."""
    found = []
    for name in nirs:
        rows = np.atleast_2d(hdf5.whole(nirs[name]["data"])) if name.startswith("stim") else np.empty((0, 0))
        if rows.shape[1] >= 2:
            label = hdf5.text(nirs[name], "name")
            found += [(float(on / scale - start), float(length / scale), label) for on, length in rows[:, :2]]
    return tuple(found)


def _open_snirf(path: Path, truncated: bool) -> Opened:
    import mne

    light = check_snirf(path)
    raw = mne.io.read_raw_snirf(path, verbose="WARNING")
    check_light(raw, light, path)
    if light.stimuli is not None:
        onset, duration, label = zip(*light.stimuli, strict=True) if light.stimuli else ((), (), ())
        raw.set_annotations(mne.Annotations(onset, duration, label))
    return Opened("SNIRF", [raw], dict.fromkeys(raw.ch_names, light.unit))


def table(path: Path, what: str) -> np.ndarray:
    """Return the numbers (row, column) of a text of whole lines, each of the same number of columns."""
    text = path.read_bytes()
    lines = text.count(b"\n")
    if b"\x00" in text or not text.endswith(b"\n"):
        got = "zero bytes" if b"\x00" in text else "an end within a line"
        raise LoadError(explain(str(path), expected=f"whole lines of {what}", got=got, fix=CUT))
    with reading(path, f"a table of {what}"):
        rows = np.loadtxt(text.decode("ascii").splitlines(), dtype=np.float64, ndmin=2, comments=None)
    if len(rows) != lines or np.isinf(rows).any():
        got = f"{len(rows)} and {int(np.isinf(rows).sum())} infinite numbers"
        raise LoadError(explain(str(path), expected=f"{lines} lines of {what}", got=got))
    return rows


def check_nirx(folder: Path) -> Light:
    """Compare the two wavelengths of a NIRx recording with each other, the header and the probe."""
    head = _text(_only(folder, "*hdr"))
    aurora = any(folder.glob("*config.json"))
    pairs = _pairs(head, aurora)
    rate = _entry(head, "Sampling rate" if aurora else "SamplingRate")
    check_rate(rate, folder)
    waves = [] if aurora else re.findall(r"\d+", next(iter(re.findall(r"(?im)^Wavelengths\s*[=:](.*)$", head)), ""))
    if not aurora and not (len(waves) == 2 and all(100 <= int(w) <= 3000 for w in waves)):
        raise LoadError(explain(str(folder), expected="two wavelengths in nm", got=f"{waves}"))
    shapes = {}
    for path in sorted(p for key in ("wl1", "wl2") for p in folder.glob(f"*{key}")):
        shapes[path.name] = table(path, "intensities").shape
    samples = {rows for rows, _ in shapes.values()}
    if len(shapes) < 2 or len(samples) > 1 or {columns for _, columns in shapes.values()} != {len(pairs)}:
        expected = f"two wavelengths of one length, each with {len(pairs)} pairs of source and detector"
        raise LoadError(explain(str(folder), expected=expected, got=f"{shapes}", fix=CUT))
    return Light(2 * _check_probe(folder, pairs), samples.pop(), rate)


def _only(folder: Path, pattern: str) -> Path:
    """Return the only file of a kind in a folder."""
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        got = f"{[p.name for p in found]}"
        raise LoadError(explain(str(folder), expected=f"one file {pattern}", got=got))
    return found[0]


def _text(path: Path) -> str:
    """Return a text with the ends of lines of Unix."""
    with reading(path, "a text"):
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n")


def _entry(head: str, name: str) -> float:
    """Return the number behind a name in a header."""
    return float(next(iter(re.findall(rf"(?im)^{name}\s*[=:](.*)$", head)), "nan"))


def _pairs(head: str, aurora: bool) -> list[tuple[int, int]]:
    """Return the pairs of source and detector in the order of the columns."""
    if aurora:
        return [(int(s) + 1, int(d) + 1) for s, d in re.findall(r"(\d+)-(\d+)", head.split("\n")[-2])]
    key = re.search(r'(?im)^S-D-Key\s*[=:]\s*"([^"]*)"', head)
    found = re.findall(r"(\d+)-(\d+):(\d+)", key[1]) if key else []
    if not found or [int(k) for *_, k in found] != list(range(1, len(found) + 1)):
        raise LoadError(explain("S-D-Key", expected="pairs numbered 1, 2, ...", got=f"{found[:4]}"))
    return [(int(s), int(d)) for s, d, _ in found]


def _check_probe(folder: Path, pairs: Sequence[tuple[int, int]]) -> int:
    """Check that the probe's pairs are among the recorded ones and that its optodes have places; count them."""
    wanted, places = _probe(folder)
    known = set(map(tuple, wanted.tolist()))
    if wanted.ndim != 2 or wanted.shape[1] != 2 or len(known) != len(wanted) or not known <= set(pairs):
        got = f"{sorted(known - set(pairs))[:4] or wanted.shape}"
        raise LoadError(explain(str(folder), expected="a probe of pairs that were recorded", got=got))
    for column, (name, place) in enumerate(places):
        limit = int(max(pair[column] for pair in pairs if pair in known))
        if place.ndim != 2 or place.shape[1] != 3 or len(place) < limit or not np.isfinite(place).all():
            got = f"{place.shape}"
            raise LoadError(explain(str(folder), expected=f"positions (x, y, z) of {limit} {name}", got=got))
    return len(wanted)


def _probe(folder: Path) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """Return the pairs (n, 2) of a probe and the positions of sources and detectors."""
    names = {"sources": "coords_s3", "detectors": "coords_d3"}
    if any(folder.glob("*probeInfo.json")):
        probes = json.loads(_text(_only(folder, "*probeInfo.json")))["probeInfo"]["probes"]
        return np.array(probes["index_c"]), [(k, np.array(probes[v], dtype=np.float64)) for k, v in names.items()]
    from scipy.io import loadmat

    path = _only(folder, "*probeInfo.mat")
    with reading(path, "the probe of a NIRx recording"):
        mat5.check(path)
        found = loadmat(path)["probeInfo"]["probes"][0, 0]
        places = [(k, np.asarray(found[v][0, 0], dtype=np.float64)) for k, v in names.items()]
        return np.asarray(found["index_c"][0, 0]), places


def _open_nirx(path: Path, truncated: bool) -> Opened:
    import mne

    folder = path if path.is_dir() else path.parent
    with reading(folder, "a recording of NIRx"):
        light = check_nirx(folder)
        raw = mne.io.read_raw_nirx(folder, verbose="WARNING")
    check_light(raw, light, folder)
    return Opened("NIRx", [raw])


OPENERS = {"SNIRF": _open_snirf, "NIRx": _open_nirx}
