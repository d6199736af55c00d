"""Nicolet, NEDF and eXimia: what the files say of their own size, then MNE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tectum.core.errors import LoadError, MissingExtraError, explain

from ...signature import magic
from ..opened import Opened
from .clinical import check_factors

CUT = "the file was cut off or is damaged: copy it anew"
_NEDF_START = 10240
_EXIMIA = 64  # channels
_NICOLET = ("start_ts", "num_samples", "sample_freq", "conversion_factor", "num_channels", "elec_names")


def check_rate(rate: float, path: Path) -> float:
    """Return a sampling rate in Hz, refusing what is none."""
    if not (math.isfinite(rate) and 0 < rate < 1e7):
        raise LoadError(explain(str(path), expected="a sampling rate in Hz", got=f"{rate:g}"))
    return rate


def check_names(names: Sequence[str], n: int, path: Path) -> None:
    """Refuse names of channels that are not as many as announced, or no words."""
    odd = [name for name in names if not name.strip() or not name.isprintable()]
    if not n or len(names) != n or odd:
        got = f"{len(names)}" + (f", one of them {odd[0]!r}" if odd else "")
        raise LoadError(explain(str(path), expected=f"names of {n} channels", got=got, fix=CUT))


def check_opened(raw: Any, path: Path, n: int, samples: int, rate: float) -> None:
    """Refuse what MNE understood otherwise than our look at the header."""
    found = len(raw.ch_names), len(raw.times), float(raw.info["sfreq"])
    if found[:2] != (n, samples) or not math.isclose(found[2], rate, rel_tol=1e-9):
        expected = f"{n} channels of {samples} samples at {rate:g} Hz"
        raise LoadError(explain(str(path), expected=expected, got="{} of {} at {:g} Hz".format(*found)))


def nicolet_header(path: Path) -> dict[str, str]:
    """Read the ``.head`` file beside a ``.data`` file: lines of one key and one value.

    Raises
    ------
    LoadError
        If a line is none of these, or a key is missing.
    """
    head = path.with_suffix(".head")
    lines = head.read_bytes().decode("utf-8").splitlines()
    if wrong := [line for line in lines if line.count("=") != 1]:
        raise LoadError(explain(str(head), expected="lines of the form key=value", got=repr(wrong[0][:40])))
    found = {key: value.strip() for key, _, value in (line.partition("=") for line in lines)}
    if missing := [key for key in _NICOLET if key not in found]:
        raise LoadError(
            explain(str(head), expected=f"a line for each of {', '.join(_NICOLET)}", got=f"no {missing[0]}")
        )
    return found


def check_nicolet(path: Path) -> tuple[int, int, float]:
    """Compare a ``.data`` file with its header; return numbers of channels and samples and the rate in Hz."""
    head, info = path.with_suffix(".head"), nicolet_header(path)
    n, samples = int(info["num_channels"]), int(info["num_samples"])
    names = info["elec_names"]
    check_names(names[1:-1].split(",") if names[:1] + names[-1:] == "[]" else [], n, head)
    rate = check_rate(float(info["sample_freq"]), head)
    check_factors([float(info["conversion_factor"])], head)
    length = float(info.get("duration_in_sec", samples / rate))
    if not abs(length - samples / rate) <= 1:  # whole seconds, rounded or cut off
        expected, got = f"{samples} samples at {rate:g} Hz to last {length:g} s", f"{samples / rate:g} s"
        raise LoadError(explain(str(head), expected=expected, got=got, fix=CUT))
    width, size = int(info.get("sample_bytes", 2)), path.stat().st_size
    if width != 2 or samples < 1 or size != 2 * n * samples:
        expected = f"{samples} samples of {n} channels of {width} bytes"
        raise LoadError(explain(str(path), expected=expected, got=f"{size} bytes of samples of 2 bytes", fix=CUT))
    return n, samples, rate


def _open_nicolet(path: Path, truncated: bool) -> Opened:
    import mne

    wanted = check_nicolet(path)
    raw = mne.io.read_raw_nicolet(path, ch_type="eeg", verbose="WARNING")
    check_opened(raw, path, *wanted)
    return Opened("Nicolet", [raw], typed=False)


def nedf_header(path: Path) -> Any:
    """Return the XML in the first 10240 bytes of a ``.nedf`` file, whose declarations are not expanded.

    Raises
    ------
    LoadError
        If there is no XML, or one that declares entities.
    MissingExtraError
        If the package defusedxml is missing.
    """
    if find_spec("defusedxml") is None:
        got, fix = "it is not installed", "pip install defusedxml"
        raise MissingExtraError(explain(str(path), expected="the package defusedxml", got=got, fix=fix))
    from defusedxml.ElementTree import fromstring

    text, end, _ = magic(path, _NEDF_START).partition(b"\x00")
    if not end:
        got = "none there"
        raise LoadError(explain(str(path), expected=f"a zero byte in the first {_NEDF_START}", got=got, fix=CUT))
    return fromstring(text, forbid_dtd=True)


def _nedf_number(root: Any, place: str) -> int:
    """Return a whole number of the XML."""
    text = root.findtext(place)
    if text is None:
        raise LoadError(explain(place, expected="a number in the header", got="nothing"))
    return int(text)


def check_nedf(path: Path) -> tuple[int, int, float]:
    """Compare a ``.nedf`` file with its header; return numbers of channels and samples and the rate in Hz.

    Blocks hold three bytes a channel of five samples, each with its trigger, behind one sample of the accelerometer;
    in the last block what is behind the last sample may be there or not.
    """
    root = nedf_header(path)
    n, samples = (_nedf_number(root, f"EEGSettings/{x}") for x in ("TotalNumberOfChannels", "NumberOfRecordsOfEEG"))
    rate = check_rate(float(_nedf_number(root, "EEGSettings/EEGSamplingRate")), path)
    check_names([e.text or "" for e in root.find("EEGSettings/EEGMontage") or ()], n, path)
    motion = int(root.findtext("NumberOfChannelsOfAccelerometer", "0"))
    sample = 3 * n * (1 if root.find("STIMSettings") is None else 3) + (4 if root.findtext("NEDFversion") else 1)
    full, rest = divmod(samples, 5)
    block = 2 * motion + 5 * sample
    exact = full * block + (2 * motion + rest * sample if rest else 0)
    size = path.stat().st_size - _NEDF_START
    if motion < 1:  # MNE 1.13 fails without them
        got, fix = str(motion), "export the recording from NIC as EDF"
        raise LoadError(explain(str(path), expected="channels of an accelerometer", got=got, fix=fix))
    if samples < 1 or size not in (exact, -(-samples // 5) * block):
        expected = f"{samples} samples of {n} channels in {exact} bytes"
        raise LoadError(explain(str(path), expected=expected, got=f"{max(size, 0)} bytes", fix=CUT))
    return n, samples, rate


def _open_nedf(path: Path, truncated: bool) -> Opened:
    import mne

    n, samples, rate = check_nedf(path)
    # into memory, since MNE 1.13 loses samples of a part that begins inside a block of five
    raw = mne.io.read_raw_nedf(path, preload=True, verbose="WARNING")
    check_opened(raw, path, n + 1, samples, rate)
    return Opened("NEDF", [raw])


def check_eximia(path: Path) -> int:
    """Return the number of samples of a ``.nxe`` file, which has no header: 64 channels of int16 each."""
    samples, rest = divmod(path.stat().st_size, 2 * _EXIMIA)
    if rest or not samples:
        got = f"{path.stat().st_size} bytes"
        raise LoadError(explain(str(path), expected=f"whole samples of {2 * _EXIMIA} bytes", got=got, fix=CUT))
    return samples


def _open_eximia(path: Path, truncated: bool) -> Opened:
    """Open an eXimia file; what MNE calls V are microvolt by the factors that it applies."""
    import mne

    samples = check_eximia(path)
    raw = mne.io.read_raw_eximia(path, verbose="WARNING")
    check_opened(raw, path, _EXIMIA, samples, 1450.0)
    kinds = zip(raw.ch_names, raw.get_channel_types(), strict=True)
    return Opened("eXimia", [raw], {name: "uV" for name, kind in kinds if kind != "stim"})


#: Format -> how it is opened after its size was compared with its header.
OPENERS = {"Nicolet": _open_nicolet, "NEDF": _open_nedf, "eXimia": _open_eximia}
