"""Where chunks come from: arrays, LSL inlets, MNE-LSL streams and BrainFlow boards.

A source has ``names``, ``rate``, ``units`` and ``jitter`` for :class:`~tectum.Stream`, and ``pull()``, which returns
what has arrived as ``(rows (n, n_channels), times (n,) or None)``, possibly of no rows, and None at its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from tectum.core.errors import InputError, MissingExtraError, explain
from tectum.core.recording import Recording
from tectum.core.units import UNITS

Chunk = tuple[np.ndarray, np.ndarray | None]

_MOST = 4096  # samples taken from an inlet at once
_SPELLINGS = {
    "microvolt": "uV", "microvolts": "uV", "uv": "uV", "µv": "uV", "\u03bcv": "uV", "-6": "uV", "1e-06": "uV",
    "millivolt": "mV", "millivolts": "mV", "mv": "mV", "-3": "mV", "0.001": "mV", "nanovolts": "nV", "nv": "nV",
    "volt": "V", "volts": "V", "v": "V", "0": "V", "1.0": "V",
}  # fmt: skip


class Source(Protocol):
    """What :meth:`Stream.run` takes."""

    names: Sequence[str] | None
    rate: float
    units: str | Sequence[str] | None
    jitter: float | None

    def pull(self) -> Chunk | None:
        """Return what has arrived."""
        ...


class Replayed:
    """A recording in chunks, as fast as they are taken.

    Parameters
    ----------
    rec : Recording, axes channel and time
        Regular.
    chunk : int
        Samples in a chunk.

    Examples
    --------
    >>> import torch
    >>> source = Replayed(Recording(data=torch.zeros(2, 5), dims=("channel", "time"), rate=10.0), chunk=3)
    >>> [len(rows) for rows, _ in source]
    [3, 2]
    """

    def __init__(self, rec: Recording, chunk: int) -> None:
        if sorted(rec.dims) != ["channel", "time"] or rec.rate is None or chunk < 1:
            expected = "a continuous recording of channels, and chunks of one sample or more"
            raise InputError(explain("Replayed", expected=expected, got=f"{rec!r}, chunk={chunk!r}"))
        labels = rec.labels("channel")
        self.names = None if labels is None else [str(n) for n in labels]
        self.rate, self.units, self.jitter = float(rec.rate), rec.units, None
        self._rows, self._times = rec.tensor("time", "channel").cpu().numpy(), rec.time.numpy()
        self._chunk, self._first = chunk, 0

    def pull(self) -> Chunk | None:
        """Return the next chunk; None behind the last."""
        first, self._first = self._first, self._first + self._chunk
        rows = self._rows[first : self._first]
        return (rows, self._times[first : self._first]) if len(rows) else None

    def __iter__(self) -> Iterator[Chunk]:
        while (got := self.pull()) is not None:
            yield got


class Inlet:
    """An inlet of the Lab Streaming Layer, of mne-lsl or of pylsl.

    Parameters
    ----------
    inlet : mne_lsl.lsl.StreamInlet, pylsl.StreamInlet or alike
        Has ``pull_chunk`` and ``get_sinfo`` or ``info``. Let it correct and dejitter the clock.
    jitter : float, default 0.01
        Deviation in s that dejittered timestamps still have while the smoothing settles.
    """

    def __init__(self, inlet: Any, *, jitter: float = 0.01) -> None:
        self._inlet, self.jitter = inlet, jitter
        info = inlet.get_sinfo() if hasattr(inlet, "get_sinfo") else inlet.info()
        self.rate = float(info.sfreq if hasattr(info, "sfreq") else info.nominal_srate())
        if not self.rate > 0:
            got = "an irregular one, such as markers"
            raise InputError(explain("Inlet", expected="a stream of regular rate", got=got))
        self.names, units = _channels(info)
        self.units = _common([_unit(u) for u in units])

    def pull(self) -> Chunk:
        """Return what has arrived since the last call."""
        rows, times = self._inlet.pull_chunk(timeout=0.0, max_samples=_MOST)
        made = np.asarray(rows)
        return (made.reshape(len(times), -1) if len(times) else made[:0]), np.asarray(times, dtype=np.float64)


def _channels(info: Any) -> tuple[list[str] | None, list[str]]:
    """Return labels and units of the channels in the description of an LSL stream."""
    if hasattr(info, "get_channel_names"):
        return info.get_channel_names(), [str(u) for u in info.get_channel_units() or []]
    names, units = [], []
    child = info.desc().child("channels").child("channel")
    for _ in range(info.channel_count()):
        names.append(child.child_value("label"))
        units.append(child.child_value("unit"))
        child = child.next_sibling()
    return (names if all(names) else None), units


def _unit(name: str) -> str | None:
    """Return a unit in our spelling."""
    return name if name in UNITS and name != "1" else _SPELLINGS.get(name.strip().lower())


def _common(units: Sequence[str | None]) -> str | list[str] | None:
    """Return the unit that all channels share; one for each if they differ; None if none is known."""
    if not units or all(u is None for u in units):
        return None
    if len(set(units)) == 1:
        return units[0]
    return [u or "a.u." for u in units]


def lsl(name: str, *, wait: float = 5.0) -> Inlet:
    """Open the LSL stream of a name with mne-lsl, its clock corrected and dejittered.

    Parameters
    ----------
    name : str
        Name of the stream.
    wait : float, default 5
        Time in s to look for it.

    Raises
    ------
    InputError
        If no stream of this name is there, or several are.
    """
    return Inlet(_opened(name, wait, ("clocksync", "dejitter", "threadsafe"), "is the amplifier's outlet running"))


def _opened(name: str, wait: float, flags: Sequence[str], question: str) -> Any:
    """Find the only LSL stream of a name and open it."""
    try:
        from mne_lsl.lsl import StreamInlet, resolve_streams
    except ImportError as cause:
        raise MissingExtraError('reading LSL needs mne-lsl: pip install "tectum[bci]"') from cause
    found = resolve_streams(timeout=wait, name=name)
    if len(found) != 1:
        got = f"{len(found)} of them" if found else f"none within {wait:g} s"
        fix = f"{question}, in the same network?" if not found else "close one of them"
        raise InputError(explain("lsl", expected=f"one LSL stream called {name!r}", got=got, fix=fix))
    inlet = StreamInlet(found[0], processing_flags=tuple(flags))
    inlet.open_stream(timeout=wait)
    return inlet


class Markers:
    """Markers of the Lab Streaming Layer, for windows that are locked to them.

    Parameters
    ----------
    inlet : mne_lsl.lsl.StreamInlet, pylsl.StreamInlet or alike
        Of irregular rate and one channel. Let it correct the clock, and not dejitter.
    only : sequence of str or int, optional
        Codes that count; by default all.
    """

    def __init__(self, inlet: Any, *, only: Sequence[str | int] | None = None) -> None:
        self._inlet, self.only = inlet, None if only is None else {str(code) for code in only}

    def pull(self) -> list[tuple[float, str | int]]:
        """Return time and code of the markers that have arrived since the last call."""
        rows, times = self._inlet.pull_chunk(timeout=0.0, max_samples=_MOST)
        codes = [_code(row) for row in rows]
        both = zip(np.asarray(times, dtype=np.float64).tolist(), codes, strict=True)
        return [(time, code) for time, code in both if self.only is None or str(code) in self.only]


def _code(row: Any) -> str | int:
    """Return the code in the first channel of a marker: text, or a whole number."""
    value = row if isinstance(row, str) else row[0]
    return value if isinstance(value, str) else int(value)


def markers(name: str, *, only: Sequence[str | int] | None = None, wait: float = 5.0) -> Markers:
    """Open the LSL stream of markers of a name with mne-lsl, its clock corrected.

    Parameters
    ----------
    name : str
        Name of the stream.
    only : sequence of str or int, optional
        Codes that count; by default all.
    wait : float, default 5
        Time in s to look for it.

    Raises
    ------
    InputError
        If no stream of this name is there, or several are.
    """
    return Markers(_opened(name, wait, ("clocksync", "threadsafe"), "is the outlet of the task running"), only=only)


class Buffered:
    """A connected stream of mne-lsl (``StreamLSL``), whose buffer may return the same samples again.

    Parameters
    ----------
    stream : mne_lsl.stream.StreamLSL or alike
        Has ``info``, ``n_new_samples`` and ``get_data``.
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self._last, self.jitter = stream, -np.inf, 0.01
        self.names, self.rate = list(stream.info["ch_names"]), float(stream.info["sfreq"])
        codes = [(int(c["unit"]), int(c["unit_mul"])) for c in stream.info["chs"]]
        volts = {0: "V", -3: "mV", -6: "uV", -9: "nV"}
        self.units = _common([volts.get(times) if unit == 107 else None for unit, times in codes])

    def pull(self) -> Chunk:
        """Return samples that are newer than all before."""
        new = int(self._stream.n_new_samples)
        if new == 0:
            return np.zeros((0, len(self.names))), np.zeros(0)
        data, times = self._stream.get_data(winsize=new / self.rate)
        fresh = times > self._last
        if fresh.any():
            self._last = float(times[-1])
        return data.T[fresh], times[fresh]


class Board:
    """A streaming BrainFlow board; each call drains its buffer. Its package clock is dejittered here.

    Parameters
    ----------
    board : brainflow.BoardShim
        Prepared and streaming.
    """

    units, jitter = "uV", None

    def __init__(self, board: Any) -> None:
        kind = board.get_board_id()
        self._board, self.rate = board, float(board.get_sampling_rate(kind))
        self._rows, self._clock = list(board.get_eeg_channels(kind)), int(board.get_timestamp_channel(kind))
        self.names = list(board.get_eeg_names(kind))
        self._smooth = Dejitter(self.rate)

    def pull(self) -> Chunk:
        """Return what has arrived since the last call."""
        data = np.asarray(self._board.get_board_data())
        return data[self._rows].T, self._smooth(data[self._clock])


class Dejitter:
    """Put bursts of timestamps on a regular clock that follows them slowly; one that is off by more starts anew.

    Parameters
    ----------
    rate : float
        Nominal samples per second.
    tolerance : float, default 0.1
        Deviation in s that is jitter.
    """

    def __init__(self, rate: float, *, tolerance: float = 0.1) -> None:
        self.rate, self.tolerance = rate, tolerance
        self._next: float | None = None

    def __call__(self, times: np.ndarray) -> np.ndarray:
        """Return regular times for the next samples."""
        n = len(times)
        if n == 0:
            return np.zeros(0)
        span, newest = n / self.rate, float(times[-1])
        if self._next is None or abs(newest - self._next - (n - 1) / self.rate) > self.tolerance:
            self._next = newest - (n - 1) / self.rate
        made: np.ndarray = self._next + np.arange(n) / self.rate
        self._next += span + min(max(newest - float(made[-1]), -1e-3 * span), 1e-3 * span)
        return made


def open_source(source: Any) -> Any:
    """Return what wraps an object: an LSL inlet, a stream of mne-lsl, a BrainFlow board, or a source itself.

    Raises
    ------
    InputError
        If the object is none of these.
    """
    for method, wrap in (("pull", lambda x: x), ("pull_chunk", Inlet), ("n_new_samples", Buffered)):
        if hasattr(source, method):
            return wrap(source)
    if hasattr(source, "get_board_data"):
        return Board(source)
    expected = "a source with pull(), an LSL inlet, a StreamLSL of mne-lsl or a BrainFlow board"
    raise InputError(explain("Stream", expected=expected, got=type(source).__name__))
