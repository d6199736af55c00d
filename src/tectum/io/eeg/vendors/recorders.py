"""Nicolet, NEDF, eXimia, BCI2000 and EyeLink: what the files say of their own size, then MNE."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import LoadError, explain

from ..opened import Opened
from .clinical import check_factors

_CUT = "the file was cut off or is damaged: copy it anew"
_MOST_CHANNELS = 4096
_NEDF_HEADER, _NEDF_BLOCK = 10_240, 5  # bytes; samples of a block
_EXIMIA_CHANNELS = 64
_BCI_WIDTHS = {"int16": 2, "int32": 4, "float32": 4}
_BCI_UNITS = {"": 1.0, "muV": 1.0, "uV": 1.0, "mV": 1e3, "nV": 1e-3, "V": 1e6}  # in uV
_MOST_BITS = 32  # of a state of BCI2000


def _same(path: Path, raw: Any, *, channels: int, samples: int, rate: float) -> None:
    """Refuse an object of MNE that is not what the file says of itself."""
    found = len(raw.ch_names), len(raw.times), float(raw.info["sfreq"])
    if found[:2] != (channels, samples) or not math.isclose(found[2], rate, rel_tol=1e-6):
        expected = f"{channels} channels of {samples} samples at {rate:g} Hz"
        raise LoadError(explain(str(path), expected=expected, got="{} of {} at {:g} Hz".format(*found)))


def _refuse(path: Path, expected: str, got: str, fix: str = "") -> LoadError:
    return LoadError(explain(str(path), expected=expected, got=got, fix=fix))


# Nicolet


def check_nicolet(path: Path) -> tuple[int, int, float]:
    """Compare a ``.data`` file of Nicolet with its ``.head``: channels, samples, rate."""
    head = path.with_suffix(".head")
    pairs = [line.split("=", 1) for line in head.read_text(encoding="utf-8").splitlines()]
    about = dict(pairs)
    names = about["elec_names"].strip()[1:-1].split(",")
    channels, samples = int(about["num_channels"]), int(about["num_samples"])
    rate, factor = float(about["sample_freq"]), float(about["conversion_factor"])
    if channels != len(names) or channels < 1 or samples < 1 or not 0 < rate < math.inf:
        got = f"{channels} channels, {len(names)} names, {samples} samples at {rate:g} Hz"
        raise _refuse(head, "channels with a name each, samples and a rate", got)
    check_factors([factor], head)
    size = path.stat().st_size
    if size != 2 * channels * samples:
        raise _refuse(path, f"{2 * channels * samples} bytes", f"{size}", _CUT)
    return channels, samples, rate


def _open_nicolet(path: Path, truncated: bool) -> Opened:
    import mne

    channels, samples, rate = check_nicolet(path)
    raw = mne.io.read_raw_nicolet(path, ch_type="eeg", verbose="WARNING")
    _same(path, raw, channels=channels, samples=samples, rate=rate)
    return Opened("Nicolet", [raw], typed=False)


# NEDF


def check_nedf(path: Path) -> tuple[int, int, float]:
    """Compare a NEDF file with the XML in front of its data: channels, samples, rate."""
    from defusedxml.ElementTree import fromstring

    with open(path, "rb") as stream:
        front = stream.read(_NEDF_HEADER)
    text, end, _ = front.partition(b"\x00")
    if len(front) < _NEDF_HEADER or not end:
        raise _refuse(path, f"a header of {_NEDF_HEADER} bytes", f"{len(front)} bytes", _CUT)
    root = fromstring(text)
    settings = root.find("EEGSettings")
    if settings is None:
        raise _refuse(path, "settings of EEG in the header", "none")
    channels = int(settings.findtext("TotalNumberOfChannels", ""))
    samples = int(settings.findtext("NumberOfRecordsOfEEG", ""))
    rate = int(settings.findtext("EEGSamplingRate", ""))
    names = [e.text or "" for e in settings.find("EEGMontage") or ()]
    motion = int(root.findtext("NumberOfChannelsOfAccelerometer", "0"))
    if not (0 < channels == len(names) and samples > 0 and rate > 0 and motion > 0 and all(names)):
        got = f"{channels} channels, {len(names)} names, {samples} samples at {rate} Hz, {motion} accelerometers"
        raise _refuse(path, "channels with a name each, accelerometers, samples and a rate", got)
    stimulated = 6 * channels if root.find("STIMSettings") is not None else 0
    frame = 3 * channels + stimulated + (4 if root.findtext("NEDFversion") else 1)
    whole, rest = divmod(samples, _NEDF_BLOCK)
    size = _NEDF_HEADER + whole * (2 * motion + _NEDF_BLOCK * frame) + (2 * motion + rest * frame if rest else 0)
    if path.stat().st_size != size:
        raise _refuse(path, f"{samples} samples of {channels} channels, {size} bytes", f"{path.stat().st_size}", _CUT)
    return channels, samples, float(rate)


def _open_nedf(path: Path, truncated: bool) -> Opened:
    import mne

    channels, samples, rate = check_nedf(path)
    raw = mne.io.read_raw_nedf(path, verbose="WARNING")
    _same(path, raw, channels=channels + 1, samples=samples, rate=rate)  # MNE adds the trigger
    return Opened("NEDF", [raw], typed=False)


# eXimia


def _open_eximia(path: Path, truncated: bool) -> Opened:
    """Open a file without header: 64 channels of int16 at 1450 Hz, the numbers of EEG and EOG in microvolt."""
    import mne

    frame = 2 * _EXIMIA_CHANNELS
    samples, rest = divmod(path.stat().st_size, frame)
    if samples < 1 or (rest and not truncated):
        raise _refuse(path, f"samples of {frame} bytes", f"{path.stat().st_size} bytes", _CUT)
    raw = mne.io.read_raw_eximia(path, verbose="WARNING")
    units = {name: "uV" for name, kind in zip(raw.ch_names, raw.get_channel_types(), strict=True) if kind != "stim"}
    return Opened("eXimia", [raw], units)


# BCI2000


@dataclass(frozen=True)
class Bci2000:
    """What the header of a BCI2000 file says."""

    channels: int
    samples: int
    rate: float
    gains: tuple[float, ...]
    """uV of a step of each channel; empty if none is stated."""
    offsets: tuple[float, ...]
    names: tuple[str, ...]


def check_bci2000(path: Path, *, truncated: bool = False) -> Bci2000:
    """Read the header of a BCI2000 file and compare it with the size of the file."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        first = stream.readline(1 << 12).decode("latin-1")
        about = dict(re.findall(r"(\w+)\s*=\s*(\S+)", first))
        length, channels, states = (int(about[key]) for key in ("HeaderLen", "SourceCh", "StatevectorLen"))
        if not len(first) <= length < size or not 1 <= channels <= _MOST_CHANNELS or states < 0:
            got = f"{channels} channels, {states} bytes of states, a header of {length} in {size} bytes"
            raise _refuse(path, "a consistent BCI2000 header", got, _CUT)
        stream.seek(0)
        text = stream.read(length).decode("latin-1")
    form = about.get("DataFormat", "int16")
    if form not in _BCI_WIDTHS or not text.endswith("\n") or "\x00" in text:
        raise _refuse(path, f"samples of {', '.join(_BCI_WIDTHS)} behind lines of text", f"{form!r}, {text[-2:]!r}")
    samples, rest = divmod(size - length, channels * _BCI_WIDTHS[form] + states)
    if samples < 1 or (rest and not truncated):
        expected = f"frames of {channels * _BCI_WIDTHS[form] + states} bytes"
        raise _refuse(path, expected, f"{size - length} bytes", _CUT)
    sections = _bci_sections(text)
    _check_bci_states(path, sections.get("State Vector Definition", ()), states)
    return _bci_parameters(path, sections.get("Parameter Definition", ()), channels, samples)


def _bci_sections(text: str) -> dict[str, list[str]]:
    """Return the lines of every section of a BCI2000 header."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            lines = found.setdefault(line.strip("[] "), [])
        elif line:
            lines.append(line)
    return found


def _check_bci_states(path: Path, lines: Sequence[str], states: int) -> None:
    """Refuse states that lie outside of the bytes of a sample: MNE walks over all their bits."""
    for line in lines:
        fields = line.split()
        numbers = [int(x) for x in fields[1:5] if re.fullmatch(r"-?\d+", x)]
        if len(numbers) < 4:
            raise _refuse(path, "states with length, value, byte and bit", repr(line))
        length, _, byte, bit = numbers
        if not (1 <= length <= _MOST_BITS and byte >= 0 and bit >= 0 and 8 * byte + bit + length <= 8 * states):
            raise _refuse(path, f"states within {states} bytes", repr(line))


def _bci_parameters(path: Path, lines: Sequence[str], channels: int, samples: int) -> Bci2000:
    """Read rate, gains, offsets and names of the channels."""
    values: dict[str, list[str]] = {}
    for line in lines:
        left, _, right = line.partition("=")
        values[left.split()[-1] if left.split() else ""] = right.split("//")[0].split()
    rate = float(re.sub(r"(?i)hz$", "", values["SamplingRate"][0]))
    if not 0 < rate < math.inf:
        raise _refuse(path, "a rate", f"{rate:g} Hz")

    def of_channels(name: str) -> list[str]:
        given = values.get(name, ["0"])
        found = given[1 : channels + 1] if int(given[0]) else []
        if found and (int(given[0]) != channels or len(found) != channels):
            raise _refuse(path, f"{name} of {channels} channels", f"{given[0]}")
        return found

    gains = [_microvolt(path, word) for word in of_channels("SourceChGain")]
    check_factors(gains, path)
    offsets = [float(word) for word in of_channels("SourceChOffset")]
    return Bci2000(channels, samples, rate, tuple(gains), tuple(offsets), tuple(of_channels("ChannelNames")))


def _microvolt(path: Path, word: str) -> float:
    """Return a gain such as ``0.03muV`` in uV."""
    parts = re.fullmatch(r"([-+\d.eE]+?)([munV]*)", word)
    if parts is None or parts[2] not in _BCI_UNITS:
        raise _refuse(path, "a gain in muV", repr(word))
    return float(parts[1]) * _BCI_UNITS[parts[2]]


def _open_bci2000(path: Path, truncated: bool) -> Opened:
    """Open a BCI2000 file; MNE holds its numbers in memory and leaves gains, offsets and names to us."""
    import mne

    head = check_bci2000(path, truncated=truncated)
    raw = mne.io.read_raw_bci2k(path, preload=True, verbose="WARNING")
    states = raw.get_channel_types().count("stim")
    _same(path, raw, channels=head.channels + states, samples=head.samples, rate=head.rate)
    names = list(raw.ch_names[: head.channels])
    for k, gain in enumerate(head.gains):
        offset = head.offsets[k] if head.offsets else 0.0
        raw.apply_function(_scaled, picks=[names[k]], offset=offset, gain=gain, verbose="WARNING")
    if head.names and len(set(head.names)) == head.channels:
        raw.rename_channels(dict(zip(names, head.names, strict=True)), verbose="WARNING")
    stated: Mapping[str, str] = dict.fromkeys(raw.ch_names[: head.channels], "uV" if head.gains else "")
    return Opened("BCI2000", [raw], stated, typed=False)


def _scaled(values: np.ndarray, offset: float, gain: float) -> np.ndarray:
    return (values - offset) * gain


# EyeLink


def check_eyelink(path: Path, *, truncated: bool = False) -> tuple[int, float]:
    """Check that the samples of every block of an EyeLink text follow each other from START to END: samples, rate."""
    total, rate, times, begun = 0, 0.0, list[float](), math.nan
    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            words = line.split()
            if not words:
                continue
            if "\x00" in line:
                raise _refuse(path, "a text", f"zero bytes in line {number}")
            if words[0] == "START":
                begun, times, rate = float(words[1]), [], 0.0
            elif words[0] == "SAMPLES" and math.isfinite(begun):
                rate = float(words[words.index("RATE") + 1])
            elif words[0] == "END" and math.isfinite(begun):
                _check_block(path, begun, float(words[1]), times, rate, truncated)
                total, begun = total + len(times), math.nan
            elif math.isfinite(begun) and words[0][0].isnumeric():
                times.append(float(words[0]))
            elif math.isfinite(begun) and not re.fullmatch(r"[A-Z]+|[*>]+", words[0]):
                raise _refuse(path, "samples and messages", f"{words[0][:20]!r} in line {number}", _CUT)
    if math.isfinite(begun) or not total:
        raise _refuse(path, "blocks of samples from START to END", "no END of the last" if total else "none", _CUT)
    return total, rate


def _check_block(path: Path, begun: float, ended: float, times: list[float], rate: float, truncated: bool) -> None:
    """Refuse a block whose samples have gaps or are fewer than its times say."""
    if not 0 < rate < math.inf or not times:
        raise _refuse(path, "samples and their rate in every block", f"{len(times)} at {rate:g} Hz")
    step, steps = 1e3 / rate, np.diff(times)
    near = 0.75 * max(step, 1.0)
    wrong = np.flatnonzero(np.abs(steps - step) > near)
    span = (ended - begun) / step  # the last sample lies at END or one before it
    outside = abs(times[0] - begun) > near or not -near < ended - times[-1] < step + near
    if (len(wrong) or outside) and not truncated:
        got = f"{len(times)} samples" + (f", a gap behind {times[wrong[0]]:g}" if len(wrong) else "")
        fix = "lines are missing; pass truncated=True to read what there is, as if without gaps"
        raise _refuse(path, f"{span:.0f} samples from {begun:g} to {ended:g} ms at {rate:g} Hz", got, fix)


def _open_eyelink(path: Path, truncated: bool) -> Opened:
    import mne

    samples, rate = check_eyelink(path, truncated=truncated)
    raw = mne.io.read_raw_eyelink(path, verbose="WARNING")
    if len(raw.times) < samples or not math.isclose(raw.info["sfreq"], rate):
        got = f"{len(raw.times)} at {raw.info['sfreq']:g} Hz"
        raise _refuse(path, f"{samples} samples at {rate:g} Hz", got)
    return Opened("EyeLink", [raw])


#: Format -> how it is opened after its size was compared with its header.
OPENERS = {
    "Nicolet": _open_nicolet,
    "NEDF": _open_nedf,
    "eXimia": _open_eximia,
    "BCI2000": _open_bci2000,
    "EyeLink": _open_eyelink,
}
