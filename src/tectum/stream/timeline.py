"""The clock of a stream: what timestamps say of gaps, duplicates, disorder, jumps and jitter."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import numpy as np

from tectum.core.errors import InputError, explain

_DRIFT = 1e-3  # largest relative difference of nominal and effective rate that is followed
_MEMORY = 1.0  # s of samples kept to recognise duplicates
_LEAST = 1000  # samples before the share of disordered ones counts
_JUDGED = 10.0  # s over which samples are counted against the clock
_FAST = 0.01  # relative excess of samples that neither clocks nor bursts explain


class Piece(NamedTuple):
    """A run of rows of a chunk that follow each other."""

    first: int
    stop: int
    missing: int = 0  #: samples lost before it that are to be interpolated
    dropped: int = 0  #: samples before it that are left out
    flag: str = ""  #: what happened before it
    restart: bool = False  #: whether filters and buffer must start anew


class Timeline:
    """Tell from the timestamps of each chunk which rows are new and what is missing before them.

    Parameters
    ----------
    rate : float
        Nominal samples per second.
    jitter : float
        Deviation in s from the nominal clock that means nothing.
    max_gap : float
        Longest gap in s that is interpolated.
    """

    def __init__(self, rate: float, *, jitter: float, max_gap: float) -> None:
        self.rate, self.jitter, self.max_gap = rate, jitter + 1e-6 / rate, max_gap
        self.reset()

    def reset(self) -> None:
        """Forget everything, counts included."""
        self.total = self.disordered = 0
        self.fast: float | None = None  # samples per second, where they are more than the nominal rate explains
        self.restart()

    def restart(self) -> None:
        """Take the next sample as the first of all."""
        self.expected: float | None = None
        self.last = -np.inf
        self._recent: deque[tuple[np.ndarray, np.ndarray]] = deque()
        self._held = 0
        self._begin, self._counted = np.nan, 0

    def stamp(self, n: int) -> np.ndarray:
        """Return times of the next ``n`` samples of a stream without timestamps; sample 0 is at 0 s."""
        made = (self.total + np.arange(n)) / self.rate
        self.total += n
        return made

    def split(self, times: np.ndarray, rows: np.ndarray) -> list[Piece]:
        """Split a chunk at everything that is not one sample after the other.

        Parameters
        ----------
        times : array, shape (n_time,), float64
            Timestamps in s.
        rows : array, shape (n_time, n_channels)
            The samples, to recognise those that came before.

        Returns
        -------
        list of Piece
            In order; rows that no piece covers are dropped, and an empty piece says why.
        """
        if not np.isfinite(times).all():
            raise InputError(explain("Stream.push(times)", expected="finite times in s", got="NaN or infinity"))
        self.total += len(times)
        pieces, row = [], 0
        while row < len(times):
            piece, row = self._next(times, rows, row)
            pieces.append(piece)
        self._remember(times, rows)
        self._judge(sum(piece.stop - piece.first for piece in pieces))
        return pieces

    def _next(self, times: np.ndarray, rows: np.ndarray, row: int) -> tuple[Piece, int]:
        """Return the piece that begins at a row, and the row behind it."""
        if self.expected is None:
            self.expected = float(times[row])
            return self._run(times, row, Piece(row, row))
        late = float(times[row] - self.expected)
        behind = times[row] <= self.last
        same = self._known(times, rows, row) if behind else 0
        if same:
            return Piece(row, row, dropped=same, flag="duplicate"), row + same
        if abs(late) <= self.jitter:
            return self._run(times, row, Piece(row, row))
        if behind:
            return self._behind(times, row)
        missing = max(1, round(late * self.rate))
        if late > 0 and missing <= self.max_gap * self.rate + 1e-6:
            self.expected += missing / self.rate
            return self._run(times, row, Piece(row, row, missing=missing, flag="interpolated"))
        self.expected = float(times[row])
        flag = "jitter" if late < 0 else "gap"
        return self._run(times, row, Piece(row, row, flag=flag, restart=flag == "gap"))

    def _run(self, times: np.ndarray, row: int, piece: Piece) -> tuple[Piece, int]:
        """Extend a piece as far as the clock is regular; its first row is taken in any case."""
        expected = float(self.expected or 0.0)
        late = times[row:] - (expected + np.arange(len(times) - row) / self.rate)
        fits = np.abs(late) <= self.jitter
        n = len(fits) if fits.all() else max(1, int(fits.argmin()))
        span = n / self.rate
        self.last = max(self.last, float(times[row + n - 1]))
        self.expected = expected + span + min(max(float(late[n - 1]), -_DRIFT * span), _DRIFT * span)
        return piece._replace(first=row, stop=row + n), row + n

    def _behind(self, times: np.ndarray, row: int) -> tuple[Piece, int]:
        """Judge a row whose time has passed: out of order, or after a jump of the clock."""
        if self.last - times[row] <= self.max_gap:
            self.disordered += 1
            return Piece(row, row, dropped=1, flag="order"), row + 1
        self.restart()
        self.expected = float(times[row])
        return self._run(times, row, Piece(row, row, flag="clock", restart=True))

    def _known(self, times: np.ndarray, rows: np.ndarray, row: int) -> int:
        """Return how many rows from one on came before with the same time and values."""
        if not self._recent:
            return 0
        passed = times[row:] <= self.last
        stop = row + (len(passed) if passed.all() else int(passed.argmin()))
        times, rows = times[row:stop], rows[row:stop]
        old_times = np.concatenate([t for t, _ in self._recent])
        old_rows = np.concatenate([r for _, r in self._recent])
        order = np.argsort(old_times, kind="stable")
        at = order[np.searchsorted(old_times, times, sorter=order).clip(max=len(order) - 1)]
        both = (old_rows[at] == rows) | (np.isnan(old_rows[at]) & np.isnan(rows))
        same = (old_times[at] == times) & both.all(1)
        return len(same) if same.all() else int(same.argmin())

    def _remember(self, times: np.ndarray, rows: np.ndarray) -> None:
        """Keep the newest second of samples."""
        self._recent.append((times, rows))
        self._held += len(times)
        while self._held - len(self._recent[0][0]) >= _MEMORY * self.rate:
            self._held -= len(self._recent.popleft()[0])

    def _judge(self, n: int) -> None:
        """Count new samples; every ten seconds compare their number with the time they took."""
        if np.isnan(self._begin):
            self._begin = self.last
            return
        self._counted += n
        span = self.last - self._begin
        if span >= _JUDGED:
            found = self._counted / span
            self.fast = found if found > (1 + _FAST + 2 * self.jitter / span) * self.rate else None
            self._begin, self._counted = self.last, 0

    @property
    def unsound(self) -> bool:
        """Whether more than one sample in a hundred came out of order."""
        return self.total >= _LEAST and self.disordered > 0.01 * self.total
