"""Windows locked to markers: which sample a marker falls on, and when its window is complete."""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple

import numpy as np

from tectum.core.clock import slack, to_sample
from tectum.core.errors import InputError, explain

LATE = 1.0  # s that a marker may arrive behind the end of its window
WAITING = 10_000  # markers that may lie in the future

Code = str | int | None


class Due(NamedTuple):
    """A marker whose window is complete, or never will be."""

    code: Code
    time: float  #: of the last sample of its window in s; of the marker itself if the window is lost
    back: int  #: samples that came after its window
    lost: bool = False  #: whether its samples are gone, or lie across a gap


class Cues:
    """Count samples and tell which windows they complete.

    Sample and window of a marker are those of :meth:`Recording.epochs`: the sample that covers the marker, moved by
    the whole samples of the offset.

    Parameters
    ----------
    offset : float
        From the marker to the start of the window, in s.
    n_times : int
        Samples of a window.
    rate : float
        Samples per second behind decimation.
    """

    def __init__(self, offset: float, n_times: int, rate: float) -> None:
        if not isinstance(offset, (int, float)) or not math.isfinite(offset):
            raise InputError(explain("Stream.offset", expected="a finite time in s", got=repr(offset)))
        self.n_times, self.rate, self.shift = n_times, rate, to_sample(offset, rate=rate)
        self.late = max(1, round(LATE * rate))
        self.size = n_times + self.late + max(0, -self.shift - n_times)  # samples that the buffer must hold
        self._memory = self.size + max(0, self.shift)  # stamps, to find the sample of a late marker
        self._waiting: list[tuple[float, int, Code]] = []
        self._marked = 0
        self.restart()

    def restart(self) -> list[Due]:
        """Take the next sample as the first; return the markers that waited for samples of before."""
        lost = [Due(code, time, 0, lost=True) for _, time, code in getattr(self, "_found", [])]
        self._found: list[tuple[int, float, Code]] = []  # first sample of the window, time of the marker, code
        self._stamps, self._count = np.zeros(0), 0
        return lost

    def forget(self) -> list[Due]:
        """Return all markers that wait for their sample, whose clock is no longer that of the samples."""
        lost = [Due(code, time, 0, lost=True) for time, _, code in sorted(self._waiting, key=lambda m: m[:2])]
        self._waiting.clear()
        return lost

    def add(self, time: float, code: Code) -> None:
        """Take a marker at a time in s on the clock of the samples."""
        if not isinstance(time, (int, float)) or not math.isfinite(time):
            raise InputError(explain("Stream.mark(time)", expected="a finite time in s", got=repr(time)))
        if len(self._waiting) >= WAITING:
            got = f"{len(self._waiting)} of them"
            raise InputError(explain("Stream.mark", expected=f"at most {WAITING} markers in the future", got=got))
        heapq.heappush(self._waiting, (float(time), self._marked, code))
        self._marked += 1

    def extend(self, stamps: np.ndarray) -> None:
        """Count samples by their times."""
        self._stamps = np.concatenate([self._stamps, stamps])[-self._memory :]
        self._count += len(stamps)

    def due(self) -> list[Due]:
        """Return the markers whose window is complete or lost, in the order of their windows."""
        made = self._locate()
        ready = sorted(m for m in self._found if m[0] + self.n_times <= self._count)
        self._found = [m for m in self._found if m[0] + self.n_times > self._count]
        for first, time, code in ready:
            back = self._count - first - self.n_times
            if back > self.size - self.n_times:
                made.append(Due(code, time, back, lost=True))
            else:
                made.append(Due(code, float(self._stamps[-1 - back]), back))
        return made

    def _locate(self) -> list[Due]:
        """Find the samples of the markers that have come; return those without one."""
        lost: list[Due] = []
        if not len(self._stamps):
            return lost
        newest = float(self._stamps[-1])
        near = slack(self.rate, newest) / self.rate
        ordered = None
        while self._waiting and self._waiting[0][0] + near < newest + 1 / self.rate:
            time, _, code = heapq.heappop(self._waiting)
            ordered = np.maximum.accumulate(self._stamps) if ordered is None else ordered
            place = int(np.searchsorted(ordered, time + near, side="right")) - 1
            first = self._count - len(self._stamps) + place + self.shift
            if place < 0 or first < 0:
                lost.append(Due(code, time, 0, lost=True))
            else:
                self._found.append((first, time, code))
        return lost
