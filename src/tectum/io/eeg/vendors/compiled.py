"""ANT and MEF, which libraries in C read: a damaged file may end the process, so each is checked before.

ANT files are read in a process of their own first. MEF files have checksums, of every file and every block.
"""

from __future__ import annotations

import json
import math
import re
import struct
import tempfile
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tectum.core.errors import LoadError, explain

from ...trial import try_first
from ..opened import Opened, volts
from .clinical import check_factors

_CUT = "the file was cut off or is damaged: copy it anew"

_ANT_READ = """
import gc
import json
import numpy
from antio import parser, read_cnt
cnt = read_cnt(sys.argv[1])
names, units, refs, *_ = parser.read_info(cnt)
told = sys.argv[4] == "info"  # without that part of the file the library crashes when asked for the day of birth
date = parser.read_meas_date(cnt) if told else None
who = parser.read_subject_info(cnt)[0] if told else ""
onsets, durations, labels, _, pauses = parser.read_triggers(cnt)
n, rate = cnt.get_sample_count(), cnt.get_sample_frequency()
values = numpy.lib.format.open_memmap(sys.argv[3], "w+", numpy.float64, (len(names), n))
for first in range(0, n, 65536):
    values[:, first:first + 65536] = parser.read_data(cnt, first, min(first + 65536, n))
del values, cnt
gc.collect()
print(json.dumps({"names": names, "units": units, "rate": rate, "date": date and date.isoformat(), "who": who,
                  "notes": [list(map(float, onsets)), list(map(float, durations)), labels], "pauses": pauses}))
"""
_ANT_UNITS = {"uv": 1e-6, "\u00b5v": 1e-6, "\u03bcv": 1e-6, "mv": 1e-3, "v": 1.0}
_MEF_TRIAL = """
from pymef.mef_session import MefSession
session = MefSession(sys.argv[1], "", read_metadata=True)
for name in session.session_md["time_series_channels"]:
    session.get_channel_toc(name)
"""
_MEF_HEADER = 1024
_MEF_KINDS = ("tmet", "tidx", "tdat", "rdat", "ridx")
_MEF_BLOCK = 304  # bytes of the header of a block
_POLYNOMIAL, _PIECE = 0xEB31D82E, 512  # of the checksum; bytes that are summed side by side
_BLOCKS_UP_TO = 256 << 20  # bytes of a session whose blocks are all summed


def _refuse(path: Path, expected: str, got: str, fix: str = "") -> LoadError:
    return LoadError(explain(str(path), expected=expected, got=got, fix=fix))


# ANT


def check_ant(path: Path) -> tuple[int, int, float, bool]:
    """Walk over the chunks of an ANT file: channels, samples, rate, and whether the subject is described."""
    with open(path, "rb") as stream:
        size = path.stat().st_size
        first = stream.read(12)
        if first[:4] != b"RIFF" or first[8:] != b"CNT " or struct.unpack("<I", first[4:8])[0] + 8 != size:
            raise _refuse(path, f"a RIFF file of {size} bytes with CNT content", f"first bytes {first!r}", _CUT)
        head, names = _find_chunk(stream, path, 12, size)
    text = head.decode("latin-1")
    channels, samples, rate = (_ant_number(path, text, name) for name in ("Channels", "Samples", "Sampling Rate"))
    if channels < 1 or samples < 1 or not 0 < rate < math.inf:
        raise _refuse(path, "channels, samples and a rate", f"{channels:g}, {samples:g}, {rate:g} Hz")
    return int(channels), int(samples), rate, b"info" in names


def _find_chunk(stream: BinaryIO, path: Path, place: int, size: int) -> tuple[bytes, list[bytes]]:
    """Return the chunk ``eeph`` and the names of all chunks, which must lie inside of the file."""
    found, names = b"", []
    while place < size:
        stream.seek(place)
        head = stream.read(8)
        length = struct.unpack("<I", head[4:])[0] if len(head) == 8 else size
        if place + 8 + length > size:
            raise _refuse(path, f"a chunk inside the file of {size} bytes", f"{head[:4]!r} of {length} bytes", _CUT)
        names.append(head[:4])
        found = stream.read(length) if head[:4] == b"eeph" else found
        place += 8 + length + length % 2
    if not found or b"LIST" not in names:
        raise _refuse(path, "samples and a header", f"the chunks {names}", _CUT)
    return found, names


def _ant_number(path: Path, text: str, name: str) -> float:
    match = re.search(rf"\[{name}\]\s*\n([-+\d.eE]+)", text)
    if match is None:
        raise _refuse(path, f"[{name}] in the header", "none")
    return float(match[1])


def _open_ant(path: Path, truncated: bool) -> Opened:
    """Read an ANT file in another process, into memory: what the library does there cannot end this one."""
    import mne

    channels, samples, rate, told = check_ant(path)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "values.npy"
        about = json.loads(try_first(_ANT_READ, path, "antio", str(place), "info" if told else ""))
        values = np.load(place, allow_pickle=False)
    units = [_ANT_UNITS.get(unit) for unit in about["units"]]
    odd = sorted({u for u, size in zip(about["units"], units, strict=True) if size is None})
    if odd or values.shape != (channels, samples) or not math.isclose(about["rate"], rate, rel_tol=1e-6):
        got = f"{values.shape} at {about['rate']:g} Hz in {sorted(set(about['units']))}"
        raise _refuse(path, f"{channels} channels of {samples} samples at {rate:g} Hz in units of voltage", got)
    values *= np.array(units, dtype=np.float64)[:, None]
    types = ["misc" if re.fullmatch(r"BIP\d+", name) else "eeg" for name in about["names"]]
    raw = mne.io.RawArray(values, mne.create_info(about["names"], rate, types), copy=None, verbose="WARNING")
    raw.set_annotations(mne.Annotations(*_ant_notes(about, rate)))
    raw.set_meas_date(datetime.fromisoformat(about["date"]) if about["date"] else None)
    raw.info["subject_info"] = {"his_id": about["who"]}
    return Opened("ANT", [raw], dict(zip(about["names"], about["units"], strict=True)), volts)


def _ant_notes(about: Mapping[str, Any], rate: float) -> tuple[list[float], list[float], list[str]]:
    """Return onsets and durations in s and labels; the time without an amplifier is marked as bad."""
    onset, duration, label = (list(part) for part in about["notes"])
    for start, stop in zip(about["pauses"]["start"], about["pauses"]["stop"], strict=False):
        onset, duration, label = [*onset, start], [*duration, max(0, stop - start)], [*label, "BAD_disconnection"]
    return [x / rate for x in onset], [x / rate for x in duration], label


# MEF


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    """Return the sums of single bytes."""
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, (values >> 1) ^ np.uint32(_POLYNOMIAL), values >> 1)
    return values


@lru_cache(maxsize=4096)
def _shift(n_bytes: int) -> tuple[int, ...]:
    """Return what becomes of each of 32 bits of a sum when ``n_bytes`` zeros follow."""
    if n_bytes == 0:
        return tuple(1 << k for k in range(32))
    if n_bytes == 1:
        table = _table().tolist()
        return tuple(table[(1 << k) & 255] ^ ((1 << k) >> 8) for k in range(32))
    half = _shift(n_bytes // 2)
    twice = tuple(_apply(half, bit) for bit in half)
    return tuple(_apply(_shift(1), bit) for bit in twice) if n_bytes % 2 else twice


def _apply(shift: tuple[int, ...], value: int) -> int:
    """Apply a linear map of bits."""
    found, k = 0, 0
    while value:
        if value & 1:
            found ^= shift[k]
        value >>= 1
        k += 1
    return found


def checksums(texts: list[bytes]) -> list[int]:
    """Return the checksum of MEF 3 of every byte string; all their pieces are summed side by side.

    Examples
    --------
    >>> [hex(value) for value in checksums([b"", b"123456789"])]
    ['0xffffffff', '0xd2c22f51']
    """
    table, pieces, counts = _table(), [], []
    for text in texts:
        counts.append(-(-len(text) // _PIECE))
        pieces.append(text.rjust(counts[-1] * _PIECE, b"\x00"))  # zeros in front add nothing to a sum from zero
    columns = np.frombuffer(b"".join(pieces), np.uint8).reshape(-1, _PIECE).T.copy()
    sums = np.zeros(columns.shape[1], np.uint32)
    for column in columns:
        sums = table[(sums ^ column) & 255] ^ (sums >> 8)
    found, place, step = [], 0, _shift(_PIECE)
    parts = sums.tolist()
    for text, count in zip(texts, counts, strict=True):
        total = 0
        for part in parts[place : place + count]:
            total = _apply(step, total) ^ part
        found.append(total ^ _apply(_shift(len(text)), 0xFFFFFFFF))
        place += count
    return found


def check_mef(folder: Path) -> dict[str, int]:
    """Compare every file and block of a MEF 3 session with its checksum: samples of each channel."""
    paths = sorted(p for kind in _MEF_KINDS for p in folder.rglob(f"*.{kind}"))
    channels = sorted(p for p in folder.glob("*.timd") if p.is_dir())
    if not channels:
        raise _refuse(folder, "folders of channels (.timd)", "none")
    for path in channels:
        _check_segments(path)
    stated, texts, owners, samples = [], [], [], dict.fromkeys((p.stem for p in channels), 0)
    large = sum(p.stat().st_size for p in paths) > _BLOCKS_UP_TO
    for path in paths:
        data = path.read_bytes()
        if len(data) < _MEF_HEADER or data[8:12] != path.suffix[1:].encode():
            raise _refuse(path, f"a MEF file of type {path.suffix[1:]}", f"first bytes {data[8:12]!r}", _CUT)
        heads, bodies = struct.unpack_from("<II", data)
        rows = [(heads, data[4:_MEF_HEADER])]
        if path.suffix == ".tdat":
            blocks, count = _mef_blocks(path, data)
            name = path.parent.parent.stem
            samples[name] = samples.get(name, 0) + count
            rows += [] if large else blocks
        elif bodies:
            rows.append((bodies, data[_MEF_HEADER:]))
        stated += [value for value, _ in rows]
        texts += [text for _, text in rows]
        owners += [path] * len(rows)
    for value, found, path in zip(stated, checksums(texts), owners, strict=True):
        if value != found:
            raise _refuse(path, f"the checksum {value:#010x}", f"{found:#010x}", _CUT)
    empty = [name for name, count in samples.items() if not count]
    if empty:
        raise _refuse(folder, "samples of every channel", f"none of {empty[:4]}", _CUT)
    return samples


def _check_segments(channel: Path) -> None:
    """Refuse a channel without segments, or a segment without one of its three files."""
    segments = sorted(channel.glob("*.segd"))
    missing = [s / f"{s.stem}.{kind}" for s in segments for kind in _MEF_KINDS[:3]]
    missing = [path for path in missing if not path.is_file()]
    if not segments or missing:
        raise _refuse(channel, "segments of three files", f"no {missing[0].name}" if missing else "none", _CUT)


def _mef_blocks(path: Path, data: bytes) -> tuple[list[tuple[int, bytes]], int]:
    """Return checksum and content of every block of samples, and the number of samples."""
    place, rows, samples = _MEF_HEADER, [], 0
    while place < len(data):
        if place + _MEF_BLOCK > len(data):
            raise _refuse(path, "whole blocks up to the end", f"{len(data) - place} bytes behind the last", _CUT)
        value, count, length = struct.unpack_from("<I28xII", data, place)
        if length < _MEF_BLOCK or place + length > len(data) or not count:
            raise _refuse(path, "whole blocks up to the end", f"one of {length} bytes at byte {place}", _CUT)
        rows.append((value, data[place + 4 : place + length]))
        place, samples = place + length, samples + count
    return rows, samples


def _open_mef(path: Path, truncated: bool) -> Opened:
    import mne

    samples = check_mef(path)
    try_first(_MEF_TRIAL, path, "pymef")
    raw = mne.io.read_raw_mef(path, verbose="WARNING")
    if sorted(raw.ch_names) != sorted(samples) or {len(raw.times)} != set(samples.values()):
        got = f"{len(raw.times)} of {raw.ch_names}"
        raise _refuse(path, f"samples of every channel: {samples}", got)
    check_factors([c["cal"] for c in raw.info["chs"]], path)
    return Opened("MEF", [raw], dict(getattr(raw, "_orig_units", {})), volts)


#: Format -> how it is opened after it was tried or summed.
OPENERS = {"ANT": _open_ant, "MEF": _open_mef}
