"""The calcium chain on tensors (unit, time): neuropil, baselines, relative change, noise. Every region at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_MAD = 0.6744897501960817  # median absolute deviation of a standard normal
_HUBER = 1.345  # 95 % efficiency at the normal
_BISQUARE = 3.0  # robust standard deviations beyond which a transient counts nothing
_ROUNDS = 15  # of each of the two weights
_WINDOWS = 1 << 24  # numbers sorted at once by the running percentile


class RelativeChange(NamedTuple):
    """Relative fluorescence with the regions where it makes no sense."""

    values: Tensor
    """(unit, time) dF/F; dF of flagged regions."""
    flagged: Tensor
    """(unit,) bool: the baseline is zero or below somewhere."""


def gaussian(x: Tensor, sigma: float, *, truncate: float = 4.0) -> Tensor:
    """Smooth along time with a Gaussian of ``sigma`` frames, ends mirrored, as SciPy does by default."""
    reach = int(truncate * sigma + 0.5)
    if reach == 0:
        return x
    lag = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (lag / sigma).square())
    padded = _mirrored(x, reach)[:, None, :]
    return torch.nn.functional.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0]


def _mirrored(x: Tensor, reach: int) -> Tensor:
    """Extend both ends by mirror images that repeat the last sample, however long the reach."""
    n = x.shape[-1]
    place = torch.arange(-reach, n + reach, device=x.device) % (2 * n)
    return x.index_select(-1, torch.minimum(place, 2 * n - 1 - place))


def running_minimum(x: Tensor, window: int) -> Tensor:
    """Return the minimum over frames [t - window // 2, t - window // 2 + window), cut at the ends.

    Windows double until two of them cover the one asked for, so the cost grows with the logarithm of the window.
    """
    before, n = window // 2, x.shape[-1]
    found = torch.nn.functional.pad(x, (before, window - 1 - before), value=torch.inf)  # (unit, time + window - 1)
    width = 1
    while 2 * width <= window:
        found = torch.minimum(found[:, :-width], found[:, width:])
        width *= 2
    return torch.minimum(found[:, :n], found[:, window - width : window - width + n])


def running_maximum(x: Tensor, window: int) -> Tensor:
    """Return the maximum over the same frames as :func:`running_minimum`."""
    return -running_minimum(-x, window)


def maximin(x: Tensor, *, window: int, sigma: float = 10.0) -> Tensor:
    """Return the baseline of suite2p: Gaussian of ``sigma`` frames, then running minimum, then running maximum."""
    return running_maximum(running_minimum(gaussian(x, sigma), window), window)


def constant(x: Tensor, *, percentile: float = 8.0) -> Tensor:
    """Return one percentile of each region as its baseline: (unit, 1), linear between ranks."""
    return _quantile(x.sort(dim=-1).values, torch.full_like(x[:, :1], x.shape[-1]), percentile)


def running_percentile(x: Tensor, *, window: int, percentile: float = 8.0, step: int = 1) -> Tensor:
    """Return the percentile of a window around every frame, cut at the ends.

    Parameters
    ----------
    x : Tensor, shape (unit, time)
        Fluorescence.
    window : int
        Frames of a window: [t - window // 2, t - window // 2 + window).
    percentile : float, default 8
        Linear between ranks.
    step : int, default 1
        Frames between windows; between them the baseline is interpolated linearly.

    Returns
    -------
    Tensor, shape (unit, time)
    """
    n_units, n = x.shape
    before = window // 2
    padded = torch.nn.functional.pad(x, (before, window - 1 - before), value=torch.inf)
    centre = torch.arange(0, n, step, device=x.device)
    low, high = (centre - before).clamp(min=0), (centre - before + window).clamp(max=n)
    seen = (high - low).to(x.dtype)[None, :, None]  # (1, window, 1)
    windows = padded.unfold(-1, window, step)  # (unit, window, frame) as a view
    rows = max(1, _WINDOWS // max(1, windows.shape[1] * window))
    parts = [_quantile(part.sort(dim=-1).values, seen, percentile)[..., 0] for part in windows.split(rows)]
    found = torch.cat(parts) if parts else x.new_zeros(0, len(centre))
    return found if step == 1 else _between(found, n, step)


def _quantile(ordered: Tensor, n: Tensor, percentile: float) -> Tensor:
    """Return a percentile of the first ``n`` of ordered values along the last axis."""
    place = ((n - 1) * (percentile / 100.0)).clamp(min=0).expand(*ordered.shape[:-1], 1)
    low = place.floor()
    top = torch.minimum(low + 1, n - 1)
    a, b = ordered.gather(-1, low.long()), ordered.gather(-1, top.long())
    found: Tensor = torch.lerp(a, b, place - low)
    return found


def _between(found: Tensor, n: int, step: int) -> Tensor:
    """Interpolate linearly between every ``step``-th frame; the last value is held."""
    frame = torch.arange(n, device=found.device)
    low = frame // step
    high = (low + 1).clamp(max=found.shape[-1] - 1)
    part = ((frame - low * step).to(found.dtype) / step)[None]
    a, b = found.index_select(-1, low), found.index_select(-1, high)
    made: Tensor = torch.lerp(a, b, part.expand_as(a))
    return made


def relative_change(x: Tensor, baseline: Tensor, *, floor: Tensor) -> RelativeChange:
    """Return (x - baseline) / max(baseline, floor), and x - baseline where the baseline is not above zero.

    Parameters
    ----------
    x, baseline : Tensor, shape (unit, time); baseline may be (unit, 1)
        Fluorescence.
    floor : Tensor, shape (unit, 1)
        Smallest divisor.
    """
    flagged = (baseline <= 0).any(dim=-1)
    change = x - baseline
    divisor = torch.where(flagged[:, None], torch.ones_like(floor), torch.maximum(baseline, floor))
    return RelativeChange(change / divisor, flagged)


def noise_sd(x: Tensor) -> Tensor:
    """Return the standard deviation of white noise from the median absolute difference of neighbours: (unit,)."""
    step: Tensor = x.diff(dim=-1).abs().median(dim=-1).values
    return step / (_MAD * math.sqrt(2.0))


def noise_level(dff: Tensor, rate: float) -> Tensor:
    """Return the noise level in % per square root of Hz: median |difference| of dF/F in % over sqrt(rate): (unit,)."""
    step: Tensor = dff.diff(dim=-1).abs().median(dim=-1).values
    return 100.0 * step / math.sqrt(rate)


def neuropil_coefficient(traces: Tensor, neuropil: Tensor, *, sigma: float = 5.0) -> Tensor:
    """Estimate how much neuropil is in each region by robust regression.

    First differences of traces smoothed by ``sigma`` frames are regressed on those of the neuropil: by Huber's weights,
    under which a transient of the cell has a bounded pull, and from there by Tukey's, under which it has none.
    Transients go one way and are many, so the bounded pull alone scatters the slopes half as much again.

    Parameters
    ----------
    traces, neuropil : Tensor, shape (unit, time)
        Fluorescence of regions and of what surrounds them.
    sigma : float, default 5
        Smoothing in frames.

    Returns
    -------
    Tensor, shape (unit,)
        Slope; NaN where the neuropil is constant.
    """
    y, x = gaussian(traces, sigma).diff(dim=-1), gaussian(neuropil, sigma).diff(dim=-1)
    slope = (x * y).sum(-1) / x.square().sum(-1)
    for weigh in (_huber, _bisquare):
        for _ in range(_ROUNDS):
            left = y - slope[:, None] * x
            scale = left.abs().median(dim=-1, keepdim=True).values / _MAD
            weight = torch.where(scale > 0, weigh(left.abs() / scale), 1.0)
            slope = (weight * x * y).sum(-1) / (weight * x.square()).sum(-1)
    return slope


def _huber(size: Tensor) -> Tensor:
    """Return the weights of residuals of so many standard deviations: those of all beyond the bound pull alike."""
    return (_HUBER / size.clamp(min=_HUBER)).nan_to_num(1.0)


def _bisquare(size: Tensor) -> Tensor:
    """Return the weights of residuals of so many standard deviations: those beyond the bound are left out."""
    return (1.0 - (size / _BISQUARE).square()).clamp(min=0.0).square()
