"""One time axis for several animals: cut around stimuli, average around events, or trust the clock.

An alignment is a list of sample numbers: for every animal and bin, the samples that are averaged. The affinity is
computed on the uncut trace first, so that neither a lag nor a window crosses a seam.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.clock import to_sample
from ...core.errors import InputError, TectumWarning, explain
from .checks import check_alignment, identified

Events = Sequence[tuple[str, float, float]]


class Alignment(NamedTuple):
    """The common time axis of W animals; B bins of b samples, K stimuli.

    Attributes
    ----------
    bins : list of Tensor, each shape (K_w, B, b), int64
        Samples of animal w that are averaged into each bin; K_w repeats (1 unless events are averaged).
    blocks : list of (start, stop)
        Bins that are contiguous in the recordings: rolls along the aligned axis stay inside them.
    time : Tensor, shape (B,), float64
        Start of each bin on the aligned axis, s.
    offset : Tensor, shape (B,), float64
        Start of each bin from the onset of its block, s.
    names : list of str
        Stimuli, in canonical order.
    windows : Tensor, shape (K, B), bool
        Bins in which each stimulus is on.
    """

    bins: list[Tensor]
    blocks: list[tuple[int, int]]
    time: Tensor
    offset: Tensor
    names: list[str]
    windows: Tensor


class _Cut(NamedTuple):
    """One stimulus in all animals: first sample of each, bins before the onset, bins on, bins altogether."""

    name: str
    starts: list[int]
    before: int
    during: int
    total: int


def align(
    mode: str,
    *,
    lengths: Sequence[int],
    rate: float,
    events: Sequence[Events] | None = None,
    t0: Sequence[float] | None = None,
    bin_size: int = 1,
    before: float = 20.0,
    after: float = 20.0,
    around: float = 12.0,
    order: Sequence[str] | None = None,
    assume_aligned: bool = False,
    names: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> Alignment:
    """Bring animals to one time axis.

    Parameters
    ----------
    mode : {"absolute", "stimulus", "event"}
        Same clock in all animals (cropped to the shortest); windows around each stimulus, concatenated in one
        order; or the average around repeated events.
    lengths : sequence of int
        Samples of each animal.
    rate : float
        Samples per second.
    events : sequence of sequences of (name, start, stop), optional
        Stimuli or events of each animal, s.
    t0 : sequence of float, optional
        Time of the first sample of each animal, s; 0 by default.
    bin_size : int, default 1
        Samples a bin.
    before, after : float, default 20
        Seconds kept before the onset and after the end of a stimulus, less where an animal has less.
    around : float, default 12
        Seconds kept on either side of an event.
    order : sequence of str, optional
        Stimuli in the wanted order; as in the first animal by default. In mode "event": the events to average.
    assume_aligned : bool, default False
        Accept spontaneous recordings of equal length in mode "absolute".
    names : sequence of str, optional
        Animals in messages.
    device : device, default "cpu"
        Where the sample numbers are made.

    Returns
    -------
    Alignment

    Raises
    ------
    InputError
        When the animals share no time axis, no stimulus, or a window does not fit.

    Examples
    --------
    >>> events = [[("salt", 30.0, 40.0)], [("salt", 50.0, 60.0)]]
    >>> found = align("stimulus", lengths=[400, 400], rate=4.0, events=events, bin_size=4)
    >>> found.bins[0].shape, found.offset[0].item(), found.bins[1][0, 20, 0].item()
    (torch.Size([1, 50, 4]), -20.0, 200)
    """
    listed = [[] for _ in lengths] if events is None else [sorted(each, key=lambda e: e[1]) for each in events]
    check_alignment(
        mode, lengths=lengths, n_events=[len(each) for each in listed], assume_aligned=assume_aligned, names=names
    )
    origin = [0.0] * len(lengths) if t0 is None else list(t0)
    if mode == "absolute":
        found = _absolute(lengths, rate, listed[0], origin[0], bin_size)
    elif mode == "stimulus":
        found = _stimulus(lengths, rate, listed, origin, bin_size, before, after, order)
    else:
        found = _event(lengths, rate, listed, origin, bin_size, around, order, names)
    return found._replace(
        bins=[bins.to(device) for bins in found.bins],
        time=found.time.to(device),
        offset=found.offset.to(device),
        windows=found.windows.to(device),
    )


def _absolute(lengths: Sequence[int], rate: float, events: Events, t0: float, size: int) -> Alignment:
    """Crop to the common length; stimuli are those of the first animal."""
    n_bins = min(lengths) // size
    _need_bins(n_bins, f"{min(lengths)} samples", size)
    bins = torch.arange(n_bins * size).view(1, n_bins, size)
    time = torch.arange(n_bins, dtype=torch.float64) * size / rate
    found = sorted({name for name, _, _ in events})
    windows = torch.zeros(len(found), n_bins, dtype=torch.bool)
    for name, start, stop in events:
        first, last = (to_sample(t, rate=rate, t0=t0) for t in (start, stop))
        windows[found.index(name), max(0, first // size) : max(0, -(-last // size))] = True
    return Alignment([bins] * len(lengths), [(0, n_bins)], time, time, found, windows)


def _stimulus(
    lengths: Sequence[int],
    rate: float,
    events: Sequence[Events],
    t0: Sequence[float],
    size: int,
    before: float,
    after: float,
    order: Sequence[str] | None,
) -> Alignment:
    """Windows around each stimulus in canonical order; the n-th presentation is matched with the n-th."""
    spans = [_presentations(each, rate, origin) for each, origin in zip(events, t0, strict=True)]
    keys = _common(spans, order)
    limits = (round(before * rate), round(after * rate))
    cuts = [_cut(key, [span[key] for span in spans], lengths, limits, size) for key in keys]
    step = torch.arange(size)
    bins = [
        torch.cat([cut.starts[w] + size * torch.arange(cut.total).unsqueeze(1) + step for cut in cuts]).unsqueeze(0)
        for w in range(len(lengths))
    ]
    edges = [0, *torch.tensor([cut.total for cut in cuts]).cumsum(0).tolist()]
    offset = torch.cat([torch.arange(-cut.before, cut.total - cut.before) for cut in cuts])
    names = list(dict.fromkeys(cut.name for cut in cuts))
    on = torch.cat([torch.full((cut.total,), cut.during) for cut in cuts])
    which = torch.cat([torch.full((cut.total,), names.index(cut.name)) for cut in cuts])
    windows = (offset >= 0) & (offset < on) & (which == torch.arange(len(names)).unsqueeze(1))
    time = torch.arange(edges[-1], dtype=torch.float64) * size / rate
    blocks = list(zip(edges[:-1], edges[1:], strict=True))
    return Alignment(bins, blocks, time, offset.double() * size / rate, names, windows)


def _presentations(events: Events, rate: float, t0: float) -> dict[tuple[str, int], tuple[int, int]]:
    """Samples (onset, end) of the n-th presentation of each stimulus."""
    found: dict[tuple[str, int], tuple[int, int]] = {}
    for name, start, stop in events:
        count = sum(key[0] == name for key in found)
        found[name, count] = (to_sample(start, rate=rate, t0=t0), to_sample(stop, rate=rate, t0=t0))
    return found


def _common(
    spans: Sequence[dict[tuple[str, int], tuple[int, int]]], order: Sequence[str] | None
) -> list[tuple[str, int]]:
    """Presentations that every animal had, in canonical order."""
    shared = [key for key in spans[0] if all(key in span for span in spans)]
    wanted = list(dict.fromkeys(key[0] for key in shared)) if order is None else list(order)
    kept = sorted((key for key in shared if key[0] in wanted), key=lambda key: (wanted.index(key[0]), key[1]))
    everything = list(dict.fromkeys(key for span in spans for key in span))
    if not kept:
        shown = ", ".join(sorted({key[0] for key in everything}))
        raise InputError(explain("align", expected="a stimulus that every animal had", got=f"stimuli {shown}"))
    lost = [f"{name} (presentation {n + 1})" for name, n in everything if (name, n) not in kept and name in wanted]
    if lost:
        text = f"align: not presented to every animal and left out: {', '.join(lost)}"
        warnings.warn(text, TectumWarning, stacklevel=4)
    return kept


def _cut(
    key: tuple[str, int],
    spans: Sequence[tuple[int, int]],
    lengths: Sequence[int],
    limits: tuple[int, int],
    size: int,
) -> _Cut:
    """The window around one presentation that all animals have; the onset is the edge of a bin."""
    onsets = [on for on, _ in spans]
    during = min(off - on for on, off in spans)
    room = min(length - on for length, on in zip(lengths, onsets, strict=True))
    before = min(limits[0], *onsets) // size
    behind = min(during + limits[1], room) // size
    if min(onsets) < 0 or during < 0 or behind < 1:
        shown = f"onsets at samples {onsets} of {list(lengths)}"
        raise InputError(
            explain(f"align, stimulus {key[0]!r}", expected="presentations inside the recordings", got=shown)
        )
    starts = [on - before * size for on in onsets]
    return _Cut(key[0], starts, before, -(-during // size), before + behind)


def _event(
    lengths: Sequence[int],
    rate: float,
    events: Sequence[Events],
    t0: Sequence[float],
    size: int,
    around: float,
    order: Sequence[str] | None,
    names: Sequence[str] | None,
) -> Alignment:
    """Bins around every event that fits into its recording."""
    half = round(around * rate) // size
    _need_bins(half, f"{around:g} s around an event", size)
    place = size * torch.arange(-half, half).unsqueeze(1) + torch.arange(size)  # (B, b)
    bins = []
    for w, each in enumerate(events):
        onsets = [to_sample(start, rate=rate, t0=t0[w]) for name, start, _ in each if order is None or name in order]
        inside = [on for on in onsets if half * size <= on <= lengths[w] - half * size]
        if not inside:
            who = f"animal {w}" if names is None else f"animal {names[w]!r}"
            raise InputError(
                explain(
                    f"align, {who}",
                    expected=f"an event with {around:g} s on either side",
                    got=f"{len(onsets)} events in {lengths[w]} samples",
                )
            )
        bins.append(torch.tensor(inside).view(-1, 1, 1) + place)
    offset = torch.arange(-half, half, dtype=torch.float64) * size / rate
    windows = torch.zeros(0, 2 * half, dtype=torch.bool)
    return Alignment(bins, [(0, 2 * half)], offset, offset, [], windows)


def _need_bins(n_bins: int, what: str, size: int) -> None:
    """Refuse an axis without a bin."""
    if n_bins < 1 or size < 1:
        raise InputError(explain("align", expected="at least one bin", got=f"{what} in bins of {size} samples"))


def gather_bins(values: Tensor, *, bins: Tensor) -> Tensor:
    """Average samples, and repeats, into the bins of an alignment; NaN is left out.

    Parameters
    ----------
    values : Tensor, shape (T, ...)
        Samples of one animal.
    bins : Tensor, shape (K, B, b), int64
        From `align`.

    Returns
    -------
    Tensor, shape (B, ...)
        NaN where a bin holds no value.

    Examples
    --------
    >>> gather_bins(torch.tensor([1.0, 3.0, 5.0, 7.0]), bins=torch.tensor([[[0, 1], [2, 3]]])).tolist()
    [2.0, 6.0]
    """
    return values[bins].nanmean((0, 2))


def to_shared_units(x: Tensor, *, labels: Sequence[object], kept: Sequence[str]) -> Tensor:
    """Put the units of one animal in the common order; those it lacks become NaN columns.

    Parameters
    ----------
    x : Tensor, shape (T, N_w)
        Traces of one animal.
    labels : sequence of str or None, length N_w
        Its identities; unidentified units are left out.
    kept : sequence of str, length N
        Common identities.

    Returns
    -------
    Tensor, shape (T, N)

    Examples
    --------
    >>> to_shared_units(torch.tensor([[1.0, 2.0]]), labels=["b", None], kept=["a", "b"]).tolist()
    [[nan, 1.0]]
    """
    where = {str(label): i for i, label in enumerate(labels) if identified(label)}
    index = torch.tensor([where.get(name, x.shape[1]) for name in kept], device=x.device)
    return torch.cat([x, x.new_full((x.shape[0], 1), torch.nan)], 1)[:, index]


def regrid(x: Tensor, *, times: Tensor, dt: float) -> tuple[Tensor, Tensor]:
    """Resample irregular traces linearly to a regular grid that starts at the first sample.

    Parameters
    ----------
    x : Tensor, shape (T, N)
        Traces; NaN spreads to the grid points between it and its neighbours.
    times : Tensor, shape (T,), float64
        Increasing, s.
    dt : float
        Wanted interval, s.

    Returns
    -------
    resampled : Tensor, shape (G, N)
    grid : Tensor, shape (G,), float64

    Examples
    --------
    >>> x, grid = regrid(torch.tensor([[0.0], [3.0]]), times=torch.tensor([0.0, 3.0]), dt=1.0)
    >>> x.squeeze().tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    n_grid = math.floor(float(times[-1] - times[0]) / dt + 1e-6) + 1
    grid = times[0] + dt * torch.arange(n_grid, device=times.device, dtype=times.dtype)
    left = (torch.searchsorted(times, grid, right=True) - 1).clamp(0, times.shape[0] - 2)
    weight = ((grid - times[left]) / (times[left + 1] - times[left])).clamp(0, 1).to(x.dtype).unsqueeze(1)
    return torch.lerp(x[left], x[left + 1], weight), grid
