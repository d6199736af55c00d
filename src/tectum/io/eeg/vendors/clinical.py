"""GDF, EGI simple binary, Neuroscan, Persyst and Nihon Kohden: what the files say of their own size, then MNE.

MNE trusts these headers: a file that was cut off fails in the middle of an analysis, or is read as far as it goes.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tectum.core.errors import LoadError, explain

from ...signature import magic
from ..opened import Opened, edf_scale

#: Bytes of a sample by the number of its type in GDF.
_GDF_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 8, 16: 4, 17: 8}
_GDF_UNITS = {4256: "V", 4274: "mV", 4275: "uV", 4276: "nV", 512: "", 0: ""}
_EGI_BYTES = {2: 2, 4: 4, 6: 8}
_EGI_START = struct.Struct(">i6hi5h")  # version, date, rate, channels, gain, bits, range
_CNT_START, _CNT_CHANNEL = 900, 75
_CNT_TABLE = struct.Struct("<BiI")  # kind, bytes of events, offset
_CNT_EVENTS = {1: 8, 2: 19, 3: 19}
_CUT = "the file was cut off or is damaged: copy it anew"


@dataclass(frozen=True)
class GdfHeader:
    """What a GDF header says: version, name, unit and samples in a record of each signal, records and their s."""

    version: float
    labels: tuple[str, ...]
    units: tuple[str, ...]
    samples: tuple[int, ...]
    records: int
    duration: float


def _unpack(stream: BinaryIO, form: str) -> tuple[int, ...]:
    """Read numbers; a file that ends before them raises."""
    found: tuple[int, ...] = struct.unpack(form, stream.read(struct.calcsize(form)))
    return found


def check_gdf(path: Path) -> GdfHeader:
    """Read the header of a GDF file, version 1 or 2, and compare it with the size of the file."""
    with open(path, "rb") as stream:
        version = float(stream.read(8)[4:])
        stream.seek(184)
        old = version < 1.9
        start = _unpack(stream, "<q" if old else "<H")[0] * (1 if old else 256)
        stream.seek(236)
        records, numerator, denominator = _unpack(stream, "<qII")
        n = _unpack(stream, "<I" if old else "<H")[0]
        blocks = math.ceil(start / 256) - 1
        if not (1 <= n <= blocks and (n == blocks or not old)) or records < 1 or not denominator:
            got = f"{n} signals, a header of {start} bytes, {records} records of {numerator}/{denominator} s"
            raise LoadError(explain(str(path), expected="a consistent GDF header", got=got))
        labels, units, samples, kinds = _gdf_signals(stream, n, old)
    odd = sorted({kind for kind in kinds if kind not in _GDF_BYTES})
    if odd or min(samples) < 1:
        got = f"type {odd[0]}" if odd else f"{min(samples)} samples of a signal"
        raise LoadError(explain(str(path), expected="signals of a known type in every record", got=got))
    size = records * sum(k * _GDF_BYTES[kind] for k, kind in zip(samples, kinds, strict=True))
    found = path.stat().st_size - start
    if found < size:
        raise LoadError(explain(str(path), expected=f"{size} bytes of data", got=f"{max(found, 0)}", fix=_CUT))
    duration = numerator / denominator or 1.0
    return GdfHeader(version, tuple(labels), tuple(units), tuple(samples), records, duration)


def _gdf_signals(stream: BinaryIO, n: int, old: bool) -> tuple[list[str], list[str], tuple[int, ...], tuple[int, ...]]:
    """Read name, unit, samples in a record and type of every signal, and refuse ranges that are none."""
    stream.seek(256)
    labels = [stream.read(16).split(b"\x00")[0].decode("latin-1").strip() for _ in range(n)]
    stream.seek(256 + (96 if old else 102) * n)
    if old:
        units = [stream.read(8).split(b"\x00")[0].decode("latin-1").strip() for _ in range(n)]
    else:
        units = [_GDF_UNITS.get(code, f"unit {code}") for code in _unpack(stream, f"<{n}H")]
    limits = _unpack(stream, f"<{2 * n}d"), _unpack(stream, f"<{2 * n}{'q' if old else 'd'}")
    for low, high in ((x[:n], x[n:]) for x in limits):
        wrong = next((k for k in range(n) if not (math.isfinite(low[k]) and low[k] < high[k] < math.inf)), None)
        if wrong is not None:
            got = f"{low[wrong]:g} to {high[wrong]:g}"
            raise LoadError(explain(f"signal {labels[wrong]!r}", expected="a range of values", got=got))
    stream.seek(256 + 216 * n)
    return labels, units, _unpack(stream, f"<{n}i"), _unpack(stream, f"<{n}i")


def is_egi(path: Path) -> bool:
    """Tell whether a file is simple binary of EGI: a version from 2 to 7, then a date and numbers that can be.

    Examples
    --------
    >>> is_egi(Path("none.raw"))
    False
    """
    first = magic(path, _EGI_START.size)
    if len(first) < _EGI_START.size:
        return False
    version, year, month, day, hour, minute, second, _, rate, channels, *_ = _EGI_START.unpack(first)
    when = 1980 <= year <= 2100 and 1 <= month <= 12 and 1 <= day <= 31 and 0 <= hour < 24
    return bool(2 <= version <= 7 and when and 0 <= minute < 60 and 0 <= second < 62 and rate > 0 and channels > 0)


def check_egi(path: Path) -> None:
    """Compare a continuous simple binary file of EGI with its size."""
    with open(path, "rb") as stream:
        head = _EGI_START.unpack(stream.read(_EGI_START.size))
        version, channels = head[0], head[9]
        if version not in _EGI_BYTES:
            got, fix = f"version {version}", "export it unsegmented from Net Station"
            raise LoadError(explain(str(path), expected="continuous data (version 2, 4 or 6)", got=got, fix=fix))
        samples, events = _unpack(stream, ">ih")
    start = _EGI_START.size + 6 + 4 * max(events, 0)
    size = start + samples * (channels + events) * _EGI_BYTES[version]
    if samples < 1 or events < 0 or path.stat().st_size != size:
        expected = f"{samples} samples of {channels} channels and {events} events, {size} bytes"
        raise LoadError(explain(str(path), expected=expected, got=f"{path.stat().st_size}", fix=_CUT))


def check_cnt(path: Path) -> str:
    """Compare a Neuroscan file with the place of its table of events; return "int16" or "int32".

    Files over 2 GB do not hold that place: there both widths are tried.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        if not stream.read(12).startswith(b"Version"):
            got = f"first bytes {magic(path, 12)!r}"
            raise LoadError(explain(str(path), expected="a CNT file of Neuroscan", got=got))
        stream.seek(370)
        channels = _unpack(stream, "<H")[0]
        stream.seek(864)
        samples = _unpack(stream, "<i")[0]
        stream.seek(886)
        table = _unpack(stream, "<I")[0]
        first = _CNT_START + _CNT_CHANNEL * channels
        for width in (2, 4):
            place = first + samples * channels * width
            if channels and samples > 0 and (table == place or size >= 2**31) and _is_table(stream, place, size):
                return f"int{8 * width}"
    expected = f"{samples} samples of {channels} channels and a table of events behind them"
    raise LoadError(explain(str(path), expected=expected, got=f"a table at byte {table} of {size}", fix=_CUT))


def _is_table(stream: BinaryIO, place: int, size: int) -> bool:
    """Tell whether a table of events begins at a byte."""
    if place + _CNT_TABLE.size > size:
        return False
    stream.seek(place)
    kind, length, _ = _CNT_TABLE.unpack(stream.read(_CNT_TABLE.size))
    whole = kind in _CNT_EVENTS and length % _CNT_EVENTS[kind] == 0
    return whole and 0 <= length <= size - place - _CNT_TABLE.size


def check_persyst(path: Path, *, truncated: bool = False) -> None:
    """Compare a ``.lay`` file with the data file that it names; channels must be numbered in the order of the file.

    The file states no length: what tells that data were cut off is a comment behind their end.
    """
    text = path.read_bytes()
    if b"\x00" in text:
        raise LoadError(explain(str(path), expected="a text", got="zero bytes"))
    sections = _sections(text.decode("latin-1"))
    about = {key.lower(): value for key, value in sections.get("fileinfo", [])}
    channels = sections.get("channelmap", [])
    width, n = {"0": 2, "7": 4}.get(about["datatype"], 0), int(about["waveformcount"])
    numbers = [int(value) for _, value in channels]
    if not width or n < 1 or numbers != list(range(1, n + 1)):
        got = f"{n} channels numbered {numbers[:6]}, data of type {about['datatype']}"
        raise LoadError(explain(str(path), expected="channels 1, 2, ... of 16 or 32 bits", got=got))
    if not (math.isfinite(float(about["calibration"])) and float(about["samplingrate"]) > 0):
        got = f"calibration {about['calibration']}, rate {about['samplingrate']}"
        raise LoadError(explain(str(path), expected="a calibration and a rate", got=got))
    data = path.parent / about["file"].replace("\\", "/").rsplit("/", 1)[-1]
    size = data.stat().st_size
    if size % (n * width) or not size:
        raise LoadError(explain(str(data), expected=f"samples of {n * width} bytes", got=f"{size} bytes", fix=_CUT))
    length = size / (n * width) / float(about["samplingrate"])
    late = max((float(line.split(",")[0]) for line in _comments(text)), default=0.0)
    if late > length and not truncated:
        fix = "the data were cut off or are a clip; pass truncated=True to read what there is"
        raise LoadError(
            explain(str(data), expected=f"data up to the comment at {late:g} s", got=f"{length:g} s", fix=fix)
        )


def _comments(text: bytes) -> list[str]:
    """Return the lines of the section of comments: onset, duration, two numbers and a text."""
    parts = re.split(r"(?m)^\[([^]]*)\].*$", text.decode("latin-1"))
    bodies = [body for name, body in zip(parts[1::2], parts[2::2], strict=True) if name.strip().lower() == "comments"]
    return [line for body in bodies for line in body.splitlines() if re.match(r"\s*[\d.]+\s*,", line)]


def _sections(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return the pairs of every section of an INI text."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("[") and "]" in line:
            name = line[1 : line.index("]")].strip().lower()
        elif "=" in line:
            key, _, value = line.rpartition("=")
            found.setdefault(name, []).append((key.strip(), value.strip()))
    return found


def check_nihon(path: Path) -> list[int]:
    """Compare the blocks of a Nihon Kohden ``.EEG`` file with its size; return the samples in each."""
    counts = []
    size = path.stat().st_size
    with open(path, "rb") as stream:
        if not (magic(path, 4).startswith((b"EEG-", b"QI-4", b"DAE-"))):
            raise LoadError(
                explain(str(path), expected="a file of Nihon Kohden", got=f"first bytes {magic(path, 8)!r}")
            )
        controls = _at(stream, 0x91, "<B")
        if controls != 1:
            raise LoadError(explain(str(path), expected="one control block", got=str(controls)))
        control = _at(stream, 0x92, "<I")
        blocks = _at(stream, control + 17, "<B")
        for k in range(blocks):
            block = _at(stream, control + 18 + 20 * k, "<I")
            rate, tenths = _at(stream, block + 0x1A, "<H") & 0x3FFF, _at(stream, block + 0x1C, "<I")
            channels, samples = _at(stream, block + 0x26, "<B"), tenths * rate // 10
            end = block + 0x27 + 10 * channels + 2 * samples * (channels + 1)
            if not rate or not channels or samples < 1 or end > size:
                expected = f"{samples} samples of {channels} channels at {rate} Hz in block {k + 1}, up to byte {end}"
                raise LoadError(explain(str(path), expected=expected, got=f"{size} bytes", fix=_CUT))
            counts.append(samples)
    if not counts:
        raise LoadError(explain(str(path), expected="blocks of data", got="none"))
    return counts


def _at(stream: BinaryIO, place: int, form: str) -> int:
    """Read one number at a byte."""
    stream.seek(place)
    return _unpack(stream, form)[0]


def check_factors(factors: Sequence[float], path: Path) -> None:
    """Refuse factors of channels that are zero or no numbers: every sample would be."""
    values = np.asarray(factors, dtype=np.float64)
    if not (np.isfinite(values).all() and (values != 0).all()):
        raise LoadError(explain(str(path), expected="a factor of every channel", got=f"{values[:6].tolist()}"))


def _open_gdf(path: Path, truncated: bool) -> Opened:
    """Open a GDF file whose signals have one rate: MNE would interpolate the slower ones."""
    import mne

    head = check_gdf(path)
    if len(set(head.samples)) > 1:
        rates = sorted({n / head.duration for n in head.samples})
        fix = "convert it to EDF, where every rate becomes a recording of its own"
        got = ", ".join(f"{rate:g} Hz" for rate in rates)
        raise LoadError(explain(str(path), expected="signals of one rate", got=got, fix=fix))
    raw = mne.io.read_raw_gdf(path, verbose="WARNING")
    wanted = len(head.labels), head.records * head.samples[0], head.samples[0] / head.duration
    found = len(raw.ch_names), len(raw.times), raw.info["sfreq"]
    if not np.allclose(wanted, found, rtol=1e-6):
        expected = "{} signals of {} samples at {:g} Hz".format(*wanted)
        raise LoadError(explain(str(path), expected=expected, got="{} of {} at {:g} Hz".format(*found)))
    scale = edf_scale if head.version >= 1.9 else lambda unit: 1e-6 if unit.startswith("uV") else 1.0
    return Opened("GDF", [raw], dict(zip(raw.ch_names, head.units, strict=True)), scale, False)


def _open_egi(path: Path, truncated: bool) -> Opened:
    import mne

    check_egi(path)
    return Opened("EGI simple", [mne.io.read_raw_egi(path, verbose="WARNING")])


def _open_cnt(path: Path, truncated: bool) -> Opened:
    import mne

    width: Any = check_cnt(path)
    raw = mne.io.read_raw_cnt(path, data_format=width, verbose="WARNING")
    check_factors([c["cal"] for c in raw.info["chs"]], path)
    return Opened("CNT", [raw], typed=False)


def _open_persyst(path: Path, truncated: bool) -> Opened:
    import mne

    check_persyst(path, truncated=truncated)
    return Opened("Persyst", [mne.io.read_raw_persyst(path, verbose="WARNING")], typed=False)


def _open_nihon(path: Path, truncated: bool) -> Opened:
    import mne

    counts = check_nihon(path)
    raw = mne.io.read_raw_nihon(path, verbose="WARNING")
    return Opened("Nihon Kohden", [raw], edges=tuple(np.cumsum(counts)[:-1].tolist()))


#: Format -> how it is opened after its size was compared with its header.
OPENERS = {
    "GDF": _open_gdf,
    "EGI simple": _open_egi,
    "CNT": _open_cnt,
    "Persyst": _open_persyst,
    "Nihon Kohden": _open_nihon,
}
