"""Windows of recordings for torch's DataLoader: in order, at random or trial by trial, over one or many sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from . import clock
from .errors import InputError, explain
from .random import generator, resolve_seed, spawn
from .recording import Recording

Mode = Literal["sequential", "random", "trials"]


class Window(NamedTuple):
    """One window of one recording, or several of equal or padded size with a leading axis."""

    data: Tensor
    """(time, ...) in the order of the recording's axes, time first."""
    valid: Tensor
    """bool, shape of ``data``: False where the recording is masked or padding was added."""
    session: Tensor
    """() int64 position of the recording in the list."""
    start: Tensor
    """() float64 time of the first sample on the session clock, s."""


class Windows(Dataset[Window]):
    """Windows of recordings as a dataset for :class:`torch.utils.data.DataLoader`.

    A window never crosses a gap: it lies in a stretch of samples that the support of its recording covers and that its
    mask does not take out as a whole. Lazy recordings are read window by window.

    Parameters
    ----------
    recordings : Recording or sequence of Recording
        Sessions with a regular rate and a time axis, of one rate; numbers of units may differ.
    length : float, optional
        s; of every window in "random", of all but the last of each stretch in "sequential"; not used by "trials".
    mode : {"sequential", "random", "trials"}
        "sequential" covers every sample once, in order; "random" draws starts uniformly over all that are possible;
        "trials" gives each of the intervals called ``trials`` that lies in a stretch.
    trials : str, default "trials"
        Name of the intervals.
    n : int, optional
        Windows of an epoch in "random"; default as many as cover the recordings once.
    random_state : int or None, default 0
        Seed: window ``i`` of epoch ``e`` depends on (seed, e, i) alone, whatever worker draws it.

    Raises
    ------
    InputError
        If a recording has no regular rate, rates differ, or no window fits.

    Examples
    --------
    >>> rec = Recording(data=torch.arange(14.0).reshape(7, 2), dims=("time", "unit"), rate=10.0)
    >>> batches = torch.utils.data.DataLoader(Windows(rec, length=0.3), batch_size=3, collate_fn=pad)
    >>> batch = next(iter(batches))
    >>> tuple(batch.data.shape), batch.valid[..., 0].sum(1).tolist()
    ((3, 3, 2), [3, 3, 1])
    """

    def __init__(
        self,
        recordings: Recording | Sequence[Recording],
        *,
        length: float | None = None,
        mode: Mode = "sequential",
        trials: str = "trials",
        n: int | None = None,
        random_state: int | None = 0,
    ) -> None:
        if mode not in ("sequential", "random", "trials"):
            raise InputError(explain("Windows(mode)", expected="'sequential', 'random' or 'trials'", got=repr(mode)))
        self.recordings = [recordings] if isinstance(recordings, Recording) else list(recordings)
        self.mode, self.seed, self.epoch = mode, resolve_seed(random_state), 0
        rate = _rate(self.recordings)
        self.size = 0 if mode == "trials" else _size(length, rate)
        self._rows = _trials(self.recordings, trials) if mode == "trials" else _stretches(self.recordings)
        if mode == "sequential":
            self._rows = _cut(self._rows, self.size)
        if mode == "random":
            self._rows = self._rows[self._rows[:, 2] - self._rows[:, 1] >= self.size]
        if len(self._rows) == 0:
            fix = "check length, support and mask"
            raise InputError(explain("Windows", expected="at least one window", got="none", fix=fix))
        starts = self._rows[:, 2] - self._rows[:, 1] - self.size + 1  # possible ones, of "random" alone
        self._before = starts.cumsum(0)
        self.n = len(self._rows) if mode != "random" else self._count(n)

    def _count(self, n: int | None) -> int:
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
            raise InputError(explain("Windows(n)", expected="a number of windows, 1 or more", got=repr(n)))
        covered = int((self._rows[:, 2] - self._rows[:, 1]).sum())
        return n or max(1, covered // self.size)

    def __len__(self) -> int:
        return self.n

    def set_epoch(self, epoch: int) -> None:
        """Draw other windows in "random" from now on; a number gives the same ones again."""
        self.epoch = int(epoch)

    def __getitem__(self, index: int) -> Window:
        """Return one window."""
        if not -self.n <= index < self.n:
            raise IndexError(f"window {index} of {self.n}")
        which, first, last = self.place(index % self.n)
        rec = self.recordings[which]
        part = rec.isel(time=slice(first, last))
        axes = ("time", *(d for d in rec.dims if d != "time"))
        order = [rec.dims.index(axis) for axis in axes]
        start = torch.tensor(rec.t0 + first / float(rec.rate or 1.0), dtype=torch.float64)
        return Window(part.values.permute(order), part.valid().permute(order), torch.tensor(which), start)

    def place(self, index: int) -> tuple[int, int, int]:
        """Return the position of the recording, the first sample of a window and the one after its last."""
        if self.mode != "random":
            which, first, last = self._rows[index].tolist()
            return which, first, last
        draw = generator(spawn(self.seed, "windows", self.epoch, index))
        k = torch.randint(int(self._before[-1]), (), generator=draw, device="cpu")
        row = int(torch.searchsorted(self._before, k, right=True))
        which, first, last = self._rows[row].tolist()
        shift = int(self._before[row]) - int(k) - 1  # counted from the last possible start
        return which, last - self.size - shift, last - shift


def pad(windows: Sequence[Window]) -> Window:
    """Stack windows of any sizes, padded with zeros at the end of every axis; ``valid`` is False there.

    Parameters
    ----------
    windows : sequence of Window
        Of equally many axes: the ``collate_fn`` of a DataLoader.

    Returns
    -------
    Window
        With a leading axis.
    """
    if len({window.data.ndim for window in windows}) != 1:
        got = str(sorted({window.data.ndim for window in windows}))
        raise InputError(explain("pad", expected="windows of equally many axes", got=got))
    shape = [max(sizes) for sizes in zip(*(window.data.shape for window in windows), strict=True)]
    data = windows[0].data.new_zeros((len(windows), *shape))
    valid = torch.zeros(data.shape, dtype=torch.bool, device=data.device)
    for k, window in enumerate(windows):
        place: Any = (k, *(slice(0, n) for n in window.data.shape))
        data[place], valid[place] = window.data, window.valid
    session, start = (torch.stack([window[field] for window in windows]) for field in (2, 3))
    return Window(data, valid, session, start)


def _rate(recordings: Sequence[Recording]) -> float:
    """Return the one rate of all recordings."""
    for rec in recordings:
        if not isinstance(rec, Recording) or rec.rate is None or "time" not in rec.dims or "trial" in rec.dims:
            expected = "continuous recordings with a regular rate"
            raise InputError(explain("Windows", expected=expected, got=repr(rec), fix="resample first"))
    rates = sorted({float(rec.rate or 0.0) for rec in recordings})
    if len(rates) != 1:
        raise InputError(explain("Windows", expected="recordings of one rate", got=f"{rates} Hz", fix="resample first"))
    return rates[0]


def _size(length: Any, rate: float) -> int:
    fits = isinstance(length, (int, float)) and not isinstance(length, bool) and 0 < length < float("inf")
    size = clock.count_samples(float(length), rate=rate) if fits else 0
    if size < 1:
        expected = f"at least one sample of {1 / rate:g} s"
        raise InputError(explain("Windows(length)", expected=expected, got=repr(length)))
    return size


def _usable(rec: Recording) -> Tensor:
    """Tell which samples lie wholly in the support and are not masked as a whole: bool Tensor (time,)."""
    n, rate = rec.sizes["time"], float(rec.rate or 0.0)
    good = torch.ones(n, dtype=torch.bool, device="cpu")
    if "support" in rec.intervals:
        good[:] = False
        slack = clock.slack(rate, rec.t0)
        for start, stop in rec.intervals["support"].merged().pairs():
            first = int(torch.ceil(torch.tensor((start - rec.t0) * rate - slack, dtype=torch.float64)))
            good[max(0, first) : max(0, clock.to_sample(stop, rate=rate, t0=rec.t0))] = True
    if rec.mask is not None:
        axis = rec.dims.index("time")
        good &= rec.mask.movedim(axis, 0).flatten(1).any(1).cpu() if rec.mask.ndim > 1 else rec.mask.cpu()
    return good


def _stretches(recordings: Sequence[Recording]) -> Tensor:
    """Return stretches of usable samples: Tensor (stretch, 3) of recording, first sample and the one after the last."""
    rows = []
    for which, rec in enumerate(recordings):
        change = torch.nn.functional.pad(_usable(rec).long(), (1, 1)).diff()
        first, last = (change == 1).nonzero()[:, 0], (change == -1).nonzero()[:, 0]
        rows.append(torch.stack([torch.full_like(first, which), first, last], dim=1))
    return torch.cat(rows)


def _cut(rows: Tensor, size: int) -> Tensor:
    """Cut stretches into windows of a size, the last of each shorter."""
    parts = -(-(rows[:, 2] - rows[:, 1]) // size)
    row = torch.repeat_interleave(torch.arange(len(rows), device="cpu"), parts)
    place = torch.arange(len(row), device="cpu") - (parts.cumsum(0) - parts)[row]
    first = rows[row, 1] + place * size
    return torch.stack([rows[row, 0], first, torch.minimum(first + size, rows[row, 2])], dim=1)


def _trials(recordings: Sequence[Recording], name: str) -> Tensor:
    """Return the samples of each trial that lies in a stretch, as :func:`_stretches` does."""
    made = [torch.zeros(0, 3, dtype=torch.int64, device="cpu")]
    stretches = _stretches(recordings)
    for which, rec in enumerate(recordings):
        if name not in rec.intervals:
            expected = f"intervals among {sorted(rec.intervals)}"
            raise InputError(explain("Windows(trials)", expected=expected, got=repr(name)))
        table, rate = rec.intervals[name], float(rec.rate or 0.0)
        first, last = (clock.to_sample(edge, rate=rate, t0=rec.t0) for edge in (table.start, table.stop))
        own = stretches[stretches[:, 0] == which]
        row = (torch.searchsorted(own[:, 1].contiguous(), first, right=True) - 1).clamp(min=0)
        if len(own):
            fits = (first >= own[row, 1]) & (last <= own[row, 2]) & (last > first)
            made.append(torch.stack([torch.full_like(first, which), first, last], dim=1)[fits])
    return torch.cat(made)
