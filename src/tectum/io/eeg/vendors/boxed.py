"""Curry, EGI MFF and Blackrock's NSx: what the files say of their own size, then MNE with the packages it needs."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

from tectum.core.errors import LoadError, explain

from ..opened import Opened, volts
from .clinical import check_factors

_CUT = "the file was cut off or is damaged: copy it anew"
_MOST_CHANNELS = 4096

#: Words of Curry 7 and later, and of Curry 6, by what they state.
_CURRY = {
    "samples": ("NumSamples", "NUM_SAMPLES"), "channels": ("NumChannels", "NUM_CHANNELS"),
    "trials": ("NumTrials", "NUM_TRIALS"), "rate": ("SampleFreqHz", "SAMPLE_FREQ_HZ"),
    "period": ("SampleTimeUsec", "SAMPLE_TIME_USEC"), "format": ("DataFormat", "DATA_FORMAT"),
}  # fmt: skip
_FARTHEST = 100  # times the recorded samples that the clock of an MFF recording may have gone, beside 10 million

_NSX_HEADER, _NSX_CHANNEL = 314, 66
_NSX_RANGES = struct.Struct("<4h")  # at byte 22 of the description of a channel


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


# Curry


def curry_files(path: Path) -> tuple[Path, Path]:
    """Return the data file of a Curry recording and the file of its parameters, from any file of it."""
    stem = re.sub(r"(?i)(\.cdt)?\.(cdt|dat|dap|rs3|cef|ceo|dpa|dpo)$", "", path.name)
    for data, headers in ((f"{stem}.cdt", (".cdt.dpa", ".cdt.dpo")), (f"{stem}.dat", (".dap",))):
        if (path.parent / data).is_file():
            head = next((h for e in headers if (h := path.parent / f"{stem}{e}").is_file()), None)
            if head is None:
                raise _refuse(path, f"parameters in {stem}{headers[0]}", "no such file")
            return path.parent / data, head
    raise _refuse(path, f"data in {stem}.cdt or {stem}.dat", "no such file")


def check_curry(path: Path) -> tuple[Path, int, int, float]:
    """Compare parameters and data of a Curry recording: data file, channels, samples of all trials, rate."""
    data, head = curry_files(path)
    text = head.read_text(encoding="utf-8")
    stated = {}
    for what, names in _CURRY.items():
        rows = [m[1].strip() for name in names for m in re.finditer(rf"(?m)^\s*{name}\s*=(.*)$", text)]
        if not rows:
            raise _refuse(head, f"the parameter {names[0]}", "none", _CUT)
        stated[what] = rows[0]
    channels, samples, trials = (int(stated[what]) for what in ("channels", "samples", "trials"))
    rate, period = float(stated["rate"]), float(stated["period"])
    if not (1 <= channels <= _MOST_CHANNELS and samples > 0 and trials > 0 and period >= 0 and (rate > 0 or period)):
        got = f"{channels} channels, {trials} trials of {samples} samples, {rate:g} Hz, {period:g} us"
        raise _refuse(head, "channels, trials, samples and a rate", got)
    groups = [int(n) for n in re.findall(r"NumChanThisGroup\s*=\s*(\d+)", text)]
    if groups and sum(groups) < channels:
        raise _refuse(head, f"groups of {channels} channels", f"{groups}")
    size = data.stat().st_size
    if stated["format"] != "ASCII" and size != 4 * channels * samples * trials:
        expected = f"{trials} trials of {samples} samples of {channels} float32"
        raise _refuse(data, expected, f"{size} bytes", _CUT)
    if stated["format"] == "ASCII":
        _check_rows(data, channels, samples * trials)
    return data, channels, samples * trials, 1e6 / period if period else rate


def _check_rows(path: Path, channels: int, samples: int) -> None:
    """Refuse a text whose rows are not as many or as long as stated."""
    with open(path, encoding="ascii") as stream:
        widths = [len(line.split()) for line in stream]
    if len(widths) != samples or set(widths) != {channels}:
        raise _refuse(path, f"{samples} rows of {channels}", f"{len(widths)} of {sorted(set(widths))[:4]}", _CUT)


def _open_curry(path: Path, truncated: bool) -> Opened:
    import mne

    data, channels, samples, rate = check_curry(path)
    with open(data, "rb"):  # what may not be read is said here: the package names no cause
        pass
    raw = mne.io.read_raw_curry(data, verbose="WARNING")
    raw = _checked(path, raw, channels=channels, samples=samples, rate=rate)
    return Opened("Curry", [raw], dict(getattr(raw, "_orig_units", {})), volts)


# EGI MFF


def check_mff(folder: Path) -> tuple[int, int]:
    """Walk over the blocks of ``signal1.bin`` and check every XML text of an MFF folder: channels, samples."""
    from defusedxml.ElementTree import parse

    for path in sorted(folder.glob("*.xml")):
        try:
            parse(path, forbid_dtd=True)
        except Exception as cause:
            raise _refuse(path, "XML without a document type", f"{type(cause).__name__}: {cause}") from cause
    path = folder / "signal1.bin"
    with open(path, "rb") as stream:
        channels, samples = _walk_blocks(stream, path, path.stat().st_size)
    epochs = parse(folder / "epochs.xml", forbid_dtd=True).getroot()
    ends = [int(e.text or 0) for e in epochs.iter() if e.tag.endswith("}endTime") or e.tag == "endTime"]
    if not ends or not 0 < max(ends) <= 1e6 * (_FARTHEST * samples + 10**7):
        raise _refuse(folder / "epochs.xml", f"epochs of {samples} samples in all", f"an end at {ends[-1:]}")
    return channels, samples


def _walk_blocks(stream: BinaryIO, path: Path, size: int) -> tuple[int, int]:
    """Go from block to block of a signal file: channels, samples."""
    place, samples, channels, data = 0, 0, 0, 0
    while place < size:
        stream.seek(place)
        flag = struct.unpack("<i", stream.read(4))[0]
        start = place + 4
        if flag == 1:
            length, data, channels = struct.unpack("<iii", stream.read(12))
            start = place + length
            stream.seek(place + 16 + 4 * max(channels, 0))
            depth = stream.read(1)
            if not 1 <= channels <= _MOST_CHANNELS or length < 16 + 8 * channels or depth != b"\x20":
                got = f"{channels} channels of {depth!r} bits in a header of {length} bytes at byte {place}"
                raise _refuse(path, "blocks of channels of 32 bits", got, _CUT)
        if flag not in (0, 1) or data <= 0 or data % (4 * max(channels, 1)) or start + data > size:
            raise _refuse(path, "whole blocks up to the end", f"{data} bytes at byte {start} of {size}", _CUT)
        place, samples = start + data, samples + data // (4 * channels)
    if not samples:
        raise _refuse(path, "blocks of data", "none", _CUT)
    return channels, samples


def _open_mff(path: Path, truncated: bool) -> Opened:
    import mne

    channels, samples = check_mff(path)
    raw = mne.io.read_raw_egi(path, verbose="WARNING")
    signals = sum(kind in ("eeg", "misc") for kind in raw.get_channel_types())
    if len(raw.times) < samples or signals < channels:
        raise _refuse(path, f"{channels} channels of {samples} samples", f"{signals} of {len(raw.times)}")
    return Opened("EGI", [raw])


# NSx


def check_nsx(path: Path) -> tuple[int, int]:
    """Walk over the packets of an NSx file, version 2.2 or later: channels, samples."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        head = stream.read(_NSX_HEADER)
        if head[:8] not in (b"NEURALCD", b"BRSMPGRP") or len(head) < _NSX_HEADER:
            raise _refuse(path, "an NSx file of version 2.2 or later", f"first bytes {head[:8]!r}")
        version, place = head[8], struct.unpack_from("<I", head, 10)[0]
        period, resolution = struct.unpack_from("<II", head, 286)
        channels = struct.unpack_from("<I", head, 310)[0]
        if not 1 <= channels <= _MOST_CHANNELS or place != _NSX_HEADER + _NSX_CHANNEL * channels or not period:
            got = f"{channels} channels, a header of {place} bytes, a period of {period}/{resolution} s"
            raise _refuse(path, "a consistent NSx header", got)
        for k in range(channels):
            row = stream.read(_NSX_CHANNEL)
            low, high, bottom, top = _NSX_RANGES.unpack_from(row, 22)
            if row[:2] != b"CC" or low >= high or bottom >= top:
                got = f"{row[:2]!r}, digital {low} to {high}, analog {bottom} to {top}"
                raise _refuse(path, f"a range of channel {k + 1}", got)
        samples, form = 0, struct.Struct("<BII" if version < 3 else "<BQI")
        while place < size:
            stream.seek(place)
            packet = stream.read(form.size)
            first, _, count = form.unpack(packet) if len(packet) == form.size else (0, 0, 0)
            place += form.size + 2 * channels * count
            if first != 1 or not count or place > size:
                got = f"{count} samples up to byte {place} of {size}"
                raise _refuse(path, "whole packets of data up to the end", got, _CUT)
            samples += count
    if not samples:
        raise _refuse(path, "packets of data", "none", _CUT)
    return channels, samples


def _open_nsx(path: Path, truncated: bool) -> Opened:
    import mne

    channels, samples = check_nsx(path)
    raw = mne.io.read_raw_nsx(path, verbose="WARNING")
    if len(raw.ch_names) != channels or len(raw.times) < samples:
        got = f"{len(raw.ch_names)} of {len(raw.times)}"
        raise _refuse(path, f"{channels} channels of {samples} samples", got)
    return Opened("NSx", [raw], dict(getattr(raw, "_orig_units", {})), volts)


#: Format -> how it is opened after its size was compared with its header.
OPENERS = {"Curry": _open_curry, "EGI": _open_mff, "NSx": _open_nsx}
