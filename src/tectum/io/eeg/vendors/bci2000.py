"""BCI2000: the text in front of the samples, whose factors and names MNE leaves out, then MNE."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from tectum.core.errors import LoadError, explain

from ..opened import Opened, volts
from .clinical import check_factors
from .recorders import CUT, check_opened, check_rate

_BYTES = {"int16": 2, "int32": 4, "float32": 4}
_KEYS = ("HeaderLen", "SourceCh", "StatevectorLen")
_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)(muV|uV|mV|nV|V)?")
_LONGEST = 64  # bits of a state


@dataclass(frozen=True)
class Bci2000Header:
    """What a BCI2000 header says: names, samples, rate in Hz, factor to V and offset of each channel, names of states.

    ``factors`` is empty where the header states none.
    """

    names: tuple[str, ...]
    samples: int
    rate: float
    factors: tuple[float, ...]
    offsets: tuple[float, ...]
    states: tuple[str, ...]


def _sections(text: str) -> tuple[dict[str, list[str]], list[list[str]]]:
    """Return the words behind every parameter's name, and the words of every state's line."""
    parameters: dict[str, list[str]] = {}
    states: list[list[str]] = []
    section = ""
    for line in (line.strip() for line in text.splitlines()[1:]):
        if line.startswith("["):
            section = line
        elif "Parameter Definition" in section and "=" in line:
            left, _, right = line.partition("=")
            parameters[left.split()[-1]] = right.split("//")[0].split()
        elif "State Vector Definition" in section and line:
            states.append(line.split())
    return parameters, states


def _values(words: list[str]) -> list[str]:
    """Return the values of a list: their number, or labels between braces, stands in front."""
    if words[:1] == ["{"]:
        end = words.index("}")
        return words[end + 1 : 2 * end]
    return words[1 : 1 + int(words[0])] if words else []


def _numbers(words: list[str], n: int, name: str) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """Return the first ``n`` values of a list, and their units; nothing if there is no such list or it says "auto"."""
    values = _values(words)[:n]
    if set(values) <= {"auto"}:
        return (), ()
    found = [m for value in values if (m := _NUMBER.fullmatch(value))]
    if len(found) < n:
        raise LoadError(explain(name, expected=f"{n} numbers, one a channel", got=" ".join(values[:6])))
    return tuple(float(m[1]) for m in found), tuple(m[2] or "" for m in found)


def _check_states(states: list[list[str]], length: int, path: Path) -> tuple[str, ...]:
    """Return the names of the states, refusing those outside the bytes behind each sample."""
    for words in states:
        bits, byte, bit = int(words[1]), int(words[3]), int(words[4])
        if not (1 <= bits <= _LONGEST and 0 <= bit < 8 and byte >= 0 and 8 * byte + bit + bits <= 8 * length):
            expected = f"states within {length} bytes"
            got = f"{bits} bits at byte {byte}, bit {bit} for {words[0]!r}"
            raise LoadError(explain(str(path), expected=expected, got=got, fix=CUT))
    return tuple(words[0] for words in states)


def check_bci2000(path: Path) -> Bci2000Header:
    """Read the header of a BCI2000 file and compare it with itself and with the size of the file.

    Raises
    ------
    LoadError
        If the data are no whole samples, or the two places that state numbers of channels and states differ.
    """
    size = path.stat().st_size
    with open(path, "rb") as stream:
        first = dict(re.findall(r"(\w+)\s*=\s*(\S+)", stream.readline(1 << 14).decode("utf-8")))
        if missing := [key for key in _KEYS if key not in first]:
            raise LoadError(
                explain(str(path), expected=f"{', '.join(_KEYS)} in the first line", got=f"no {missing[0]}")
            )
        start, n, length = (int(first[key]) for key in _KEYS)
        if not 0 < start <= size:  # beyond the end MNE would wait for ever
            raise LoadError(explain(str(path), expected=f"a header of {start} bytes", got=f"{size} bytes", fix=CUT))
        stream.seek(0)
        text = stream.read(start)
    if not text.endswith(b"\n"):
        expected, got = f"a header that ends a line at byte {start}", repr(text[-20:])
        raise LoadError(explain(str(path), expected=expected, got=got, fix=CUT))
    parameters, states = _sections(text.decode("utf-8"))
    width = _BYTES.get(first.get("DataFormat", "int16"), 0)
    told = parameters.get("SourceCh", [])[:1]
    frame = n * width + length
    if (
        not width
        or n < 1
        or length < 0
        or told not in ([], ["auto"], [str(n)])
        or size == start
        or (size - start) % frame
    ):
        expected = f"whole samples of {n} channels in {first.get('DataFormat', 'int16')} and {length} bytes of states"
        got = f"{size - start} bytes of data and {told[0] if told else n} channels among the parameters"
        raise LoadError(explain(str(path), expected=expected, got=got, fix=CUT))
    factors, offsets = _calibration(parameters, n, path)
    names = _names(parameters, n)
    rate = _rate(parameters, path)
    return Bci2000Header(names, (size - start) // frame, rate, factors, offsets, _check_states(states, length, path))


def _rate(parameters: dict[str, list[str]], path: Path) -> float:
    """Return the sampling rate, which is stated as a number or as a number of Hz."""
    word = (parameters.get("SamplingRate") or ["none"])[0]
    if not re.fullmatch(r"[\d.]+(Hz)?", word):
        raise LoadError(explain(str(path), expected="a SamplingRate in Hz", got=repr(word)))
    return check_rate(float(word.removesuffix("Hz")), path)


def _names(parameters: dict[str, list[str]], n: int) -> tuple[str, ...]:
    """Return the names of the channels, numbers where the header does not name each or names two alike."""
    names = [unquote(word) for word in _values(parameters.get("ChannelNames", []))[:n]]
    good = len(set(names)) == n and all(name.strip() and name.isprintable() for name in names)
    return tuple(names) if good else tuple(f"EEG{k + 1}" for k in range(n))


def _calibration(parameters: dict[str, list[str]], n: int, path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the factor to V of every channel and the offset in steps; no factor where none is stated."""
    gains, units = _numbers(parameters.get("SourceChGain", []), n, "SourceChGain")
    offsets, _ = _numbers(parameters.get("SourceChOffset", []), n, "SourceChOffset")
    sizes = [volts(unit.replace("muV", "uV") or "uV") for unit in units]
    factors = tuple(gain * size for gain, size in zip(gains, sizes, strict=True))
    check_factors(factors, path)
    if not all(math.isfinite(x) for x in offsets):
        raise LoadError(explain(str(path), expected="offsets of channels", got=f"{offsets[:6]}"))
    return factors, offsets


def _open_bci2000(path: Path, truncated: bool) -> Opened:
    """Open a BCI2000 file, in memory as MNE does; numbers are in steps of the amplifier if no factors are stated."""
    import mne

    head = check_bci2000(path)
    code = ["STI 014"] if "StimulusCode" in head.states else []
    n = len(head.names)
    raw = mne.io.read_raw_bci2k(path, preload=True, verbose="WARNING")
    check_opened(raw, path, n + len(code), head.samples, head.rate)
    data = raw.get_data()
    if head.factors:
        data[:n] = (data[:n] - np.array(head.offsets or [0.0] * n)[:, None]) * np.array(head.factors)[:, None]
    info = mne.create_info([*head.names, *code], head.rate, ["eeg"] * n + ["stim"] * len(code))
    made = mne.io.RawArray(data, info, copy=None, verbose="WARNING")
    return Opened("BCI2000", [made], dict.fromkeys(head.names, "uV" if head.factors else ""), volts, typed=False)


#: Format -> how it is opened after its size was compared with its header.
OPENERS = {"BCI2000": _open_bci2000}
