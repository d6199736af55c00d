"""KIT, CTF and BTi: what these files of SQUID systems say of their own size, then MNE."""

from __future__ import annotations

import math
import os
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tectum.core.errors import LoadError, explain

from ..opened import Opened
from .clinical import check_factors

_CUT = "the file was cut off or is damaged: copy it anew"
_MOST_CHANNELS = 4096

_KIT_ENTRY = struct.Struct("<Iiii")  # offset, bytes of an item, room, items
_KIT_SYSTEM, _KIT_CHANNELS, _KIT_GAINS, _KIT_LOOPS, _KIT_FILTER, _KIT_ACQUISITION, _KIT_DATA = 1, 4, 5, 6, 7, 8, 9
_KIT_SENSORS, _KIT_UNNAMED = frozenset({1, 2, 3, 4, 0x101, 0x102, 0x103, 0x104}), 52  # a system that calls some 0
_KIT_COREGISTRATION, _KIT_POINTS = 12, 26
_KIT_COUNT, _KIT_RANGE = 268, 716  # bytes behind the start of the entry of the system

_CTF_HEADER, _CTF_TEXT = 8, 1844  # bytes of a .meg4 header, place of the description in a .res4
_CTF_CHANNEL, _CTF_NAME, _CTF_COEFFICIENTS = 1328, 32, 1992
_CTF_COIL, _CTF_MEG = 48, 5  # bytes to the place of the first coil in the description of a channel; type of a sensor
_CTF_SIZES = struct.Struct(">ih2xddh")  # samples, channels, rate, s of a trial, trials; at byte 1288

_BTI_BYTES = {1: 2, 2: 4, 3: 4, 4: 8}  # of a number, by the form of the data
_BTI_EPOCHS, _BTI_EPOCH, _BTI_CHANNEL, _BTI_INDEX = 96, 56, 104, 64  # start of the epochs; bytes of each part


def _refuse(path: Path, expected: str, got: str, fix: str = "") -> LoadError:
    return LoadError(explain(str(path), expected=expected, got=got, fix=fix))


def _checked(path: Path, raw: Any, *, channels: int, samples: int, rate: float) -> Any:
    """Return MNE's object if it is what the file says of itself."""
    found = len(raw.ch_names), len(raw.times), float(raw.info["sfreq"])
    if found[:2] != (channels, samples) or not math.isclose(found[2], rate, rel_tol=1e-6):
        got = "{} of {} at {:g} Hz".format(*found)
        raise _refuse(path, f"{channels} channels of {samples} samples at {rate:g} Hz", got)
    check_factors([c["cal"] for c in raw.info["chs"]], path)
    return raw


def _read(stream: BinaryIO, place: int, form: str) -> tuple[Any, ...]:
    """Read numbers at a byte; a file that ends before them raises."""
    stream.seek(place)
    return struct.unpack(form, stream.read(struct.calcsize(form)))


# KIT


class _Entry(NamedTuple):
    """A part of a KIT file."""

    offset: int
    size: int
    room: int
    items: int


def check_kit(path: Path) -> tuple[int, int, float]:
    """Compare the directory of a KIT file with its size: channels, samples, rate."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        parts = _kit_directory(stream, path, size)
        start = parts[_KIT_SYSTEM].offset
        version, revision = _read(stream, start, "<ii")
        channels = _read(stream, start + _KIT_COUNT, "<i")[0]
        whole = version > 2 or (version == 2 and revision > 3)  # then the range is a float64
        allocated = _read(stream, start + _KIT_RANGE + (8 if whole else 4), "<iii")[1]
        kind, rate, *counts = _read(stream, parts[_KIT_ACQUISITION].offset, "<idiiii")
        samples = {1: counts[1], 2: counts[0], 3: counts[0] * counts[3]}.get(kind, 0)
        if not 1 <= channels <= _MOST_CHANNELS or allocated not in (16, 32) or not 0 < rate < math.inf or samples < 1:
            got = f"{channels} channels of {allocated} bits, {samples} samples at {rate:g} Hz"
            raise _refuse(path, "channels of 16 or 32 bits, samples and a rate", got)
        names = parts[_KIT_CHANNELS]
        if names.size < 4 or names.offset + channels * names.size > size:
            raise _refuse(path, f"descriptions of {channels} channels", f"{names}", _CUT)
        loops = parts[_KIT_LOOPS].items  # every sensor has a flux-locked loop
        kinds = [_read(stream, names.offset + k * names.size, "<i")[0] for k in range(channels)]
        unnamed = _read(stream, start + 8, "<i")[0] == _KIT_UNNAMED
        if loops and not unnamed and sum(kind in _KIT_SENSORS for kind in kinds) != loops:
            raise _refuse(path, f"{loops} sensors", f"{sum(kind in _KIT_SENSORS for kind in kinds)}", _CUT)
        gains = np.array(_read(stream, parts[_KIT_GAINS].offset, f"<{2 * channels}d")).reshape(-1, 2)
        if not np.isfinite(gains).all() or (gains[:, 0] != 0).any():
            raise _refuse(path, "a gain and no offset of every channel", f"{gains[:2].tolist()}")
    data, need = parts[_KIT_DATA], channels * samples * allocated // 8
    if data.size * data.items != need or data.offset + need > size:
        got = f"{data.items} of {data.size} bytes from byte {data.offset} of {size}"
        raise _refuse(path, f"{samples} samples of {channels} channels, {need} bytes", got, _CUT)
    return channels, samples, rate


def _kit_directory(stream: BinaryIO, path: Path, size: int) -> list[_Entry]:
    """Read the directory of a KIT file; refuse parts outside of the file."""
    own = _Entry(*_KIT_ENTRY.unpack(stream.read(_KIT_ENTRY.size)))
    if not _KIT_POINTS < own.items <= 256 or own.size != _KIT_ENTRY.size or own.offset:
        raise _refuse(path, "the directory of a KIT file", f"{own}")
    parts = [own, *(_Entry(*_read(stream, k * _KIT_ENTRY.size, "<Iiii")) for k in range(1, own.items))]
    needed = (_KIT_SYSTEM, _KIT_CHANNELS, _KIT_GAINS, _KIT_FILTER, _KIT_ACQUISITION, _KIT_DATA)
    for k, entry in enumerate(parts):
        outside = entry.items and entry.offset + max(entry.size, 1) > size
        if entry.items < 0 or entry.size < 0 or outside or (k in needed and not (entry.items and entry.offset)):
            raise _refuse(path, f"part {k} inside the file of {size} bytes", f"{entry}", _CUT)
    for k in (_KIT_COREGISTRATION, _KIT_POINTS):
        if parts[k].offset + parts[k].items * parts[k].size > size:
            raise _refuse(path, f"part {k} inside the file of {size} bytes", f"{parts[k]}", _CUT)
    return parts


def _open_kit(path: Path, truncated: bool) -> Opened:
    import mne

    channels, samples, rate = check_kit(path)
    raw = mne.io.read_raw_kit(path, verbose="WARNING")
    return Opened("KIT", [_checked(path, raw, channels=channels + 1, samples=samples, rate=rate)])  # and the trigger


# CTF


def check_ctf(folder: Path, *, truncated: bool = False) -> tuple[int, int, float]:
    """Compare the header of a CTF folder with its ``.meg4`` files: channels, samples, rate."""
    header = folder / f"{folder.stem}.res4"
    with open(header, "rb") as stream:
        first = stream.read(8)
        if not first.startswith(b"MEG4"):
            raise _refuse(header, "a header of CTF", f"first bytes {first!r}")
        length, channels, rate, _, trials = _read(stream, 1288, ">ih2xddh")
        done = _read(stream, 1320, ">h")[0]
        text, place = _read(stream, 1836, ">i")[0], _CTF_TEXT
        if not (1 <= channels <= _MOST_CHANNELS and length > 0 and trials > 0 and 0 < rate < math.inf and text >= 0):
            got = f"{channels} channels, {trials} trials of {length} samples at {rate:g} Hz"
            raise _refuse(header, "channels, trials, samples and a rate", got)
        place += text
        n_filters = _read(stream, place, ">h")[0]
        place += 2
        for _ in range(n_filters):
            place += 18 + 8 * max(0, _read(stream, place + 16, ">h")[0])
        _check_sensors(stream, header, place, channels)
        place += channels * (_CTF_NAME + _CTF_CHANNEL)
        size = place + 2 + _CTF_COEFFICIENTS * _read(stream, place, ">h")[0]
    if n_filters < 0 or header.stat().st_size < size:
        raise _refuse(header, f"{channels} channels and their coefficients, {size} bytes",
                      f"{header.stat().st_size}", _CUT)  # fmt: skip
    frame, found = 4 * channels * length, 0
    for path in _ctf_parts(folder):
        with open(path, "rb") as stream:
            if not stream.read(_CTF_HEADER).startswith((b"MEG41CP", b"MEG4CPT")):
                raise _refuse(path, "data of CTF", "other first bytes")
        whole, rest = divmod(path.stat().st_size - _CTF_HEADER, frame)
        if rest:
            raise _refuse(path, f"trials of {frame} bytes", f"{path.stat().st_size - _CTF_HEADER} bytes", _CUT)
        found += whole
    if not found or (found not in (trials, done) and not truncated):
        fix = f"{_CUT}, or pass truncated=True"
        raise _refuse(folder / f"{folder.stem}.meg4", f"{trials} trials of {length} samples", f"{found}", fix)
    return channels, found * length, rate


def _check_sensors(stream: BinaryIO, header: Path, place: int, channels: int) -> None:
    """Refuse a channel that is named as a sensor (MLC11, MRT22, MZF01) and is described as something else."""
    described = place + channels * _CTF_NAME
    for k in range(channels):
        stream.seek(place + k * _CTF_NAME)
        name = stream.read(_CTF_NAME).split(b"\x00")[0].decode("latin-1")
        kind = _read(stream, described + k * _CTF_CHANNEL, ">h")[0]
        *where, _, x, y, z = _read(stream, described + k * _CTF_CHANNEL + _CTF_COIL, ">7d")
        placed = 0.1 < math.hypot(*where) < 1e3 and 0.9 < math.hypot(x, y, z) < 1.1
        if re.match(r"M[LRZ][CFOPT]\d\d", name) and not (kind == _CTF_MEG and placed):
            got = f"type {kind} at {where} cm towards {[x, y, z]}"
            raise _refuse(header, f"a gradiometer {name!r} with place and direction", got)


def _ctf_parts(folder: Path) -> list[Path]:
    """Return the data files: recordings of over 2 GB are split."""
    parts = [folder / f"{folder.stem}.meg4"]
    while (more := folder / f"{folder.stem}.{len(parts)}_meg4").is_file():
        parts.append(more)
    return parts


def _open_ctf(path: Path, truncated: bool) -> Opened:
    import mne

    channels, samples, rate = check_ctf(path, truncated=truncated)
    raw = mne.io.read_raw_ctf(os.fspath(path), verbose="WARNING")
    return Opened("CTF", [_checked(path, raw, channels=channels, samples=samples, rate=rate)])


# BTi


def check_bti(path: Path) -> tuple[int, int, float]:
    """Compare the data of a BTi file with the header behind them: channels, samples, rate."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        place = _read(stream, size - 8, ">q")[0] & 0x7FFFFFFF if size >= 8 else -1
        place += -place % 8
        if not 0 < place < size - 8:
            raise _refuse(path, f"a header inside the file of {size} bytes", f"at byte {place}", _CUT)
        form, _, epochs = _read(stream, place + 8, ">hhi")
        period = _read(stream, place + 28, ">f")[0]
        channels = _read(stream, place + 52, ">h")[0]
        width = _BTI_BYTES.get(form, 0)
        start = place + _BTI_EPOCHS
        fits = epochs > 0 and start + epochs * _BTI_EPOCH + channels * _BTI_CHANNEL <= size
        if not width or not 1 <= channels <= _MOST_CHANNELS or not fits or not 0 < period < math.inf:
            got = f"{epochs} epochs of {channels} channels in form {form}, a period of {period:g} s"
            raise _refuse(path, "epochs, channels and a period", got, _CUT)
        counts = [_read(stream, start + k * _BTI_EPOCH, ">i")[0] for k in range(epochs)]
        start += epochs * _BTI_EPOCH + _BTI_INDEX
        numbers = [_read(stream, start + k * _BTI_CHANNEL, ">i")[0] for k in range(channels)]
    need = channels * width * sum(counts)
    if min(counts) < 1 or need + -need % 8 != place or sorted(numbers) != list(range(channels)):
        expected = f"{sum(counts)} samples of {channels} channels in {need} bytes"
        raise _refuse(path, expected, f"{place} bytes, channels {sorted(numbers)[:4]}", _CUT)
    return channels, sum(counts), 1 / period


def _open_bti(path: Path, truncated: bool) -> Opened:
    import mne

    parts, head = sorted(path.glob("c,rf*")), path / "hs_file"
    if not parts:
        raise _refuse(path, "data (c,rf...)", "none")
    channels, samples, rate = check_bti(parts[0])
    _check_config(path / "config", channels)
    shape = head.name if head.is_file() else None
    raw = mne.io.read_raw_bti(parts[0], head_shape_fname=shape, verbose="WARNING")
    return Opened("BTi", [_checked(path, raw, channels=channels, samples=samples, rate=rate)])


def _check_config(path: Path, channels: int) -> None:
    """Refuse a description of the system whose numbers cannot be; MNE reads it to its end."""
    with open(path, "rb") as stream:
        described = _read(stream, 58, ">h")[0]
        sensors, blocks = _read(stream, 68, ">hh")
    if not (channels <= described <= _MOST_CHANNELS and 1 <= sensors <= 64 and 2 <= blocks <= 256):
        got = f"{described} channels, {sensors} sensors, {blocks} blocks"
        raise _refuse(path, f"{channels} channels or more, sensors and blocks", got, _CUT)


#: Format -> how it is opened after its size was compared with its header.
OPENERS = {"KIT": _open_kit, "CTF": _open_ctf, "BTi": _open_bti}
