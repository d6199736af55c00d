"""The affinity of pairs inside one block of one animal: four kinds, each built once and called on tiles of pairs.

A builder takes the signal (N, T), its validity (N, T) or None, and the options; it gives a function of the units
(first, second), each of shape (p,), that returns the affinity of these pairs, shape (p, T).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.device import highest_precision
from .derivative import run_bounds

Smooth = Callable[[Tensor], Tensor]
PairKernel = Callable[[Tensor, Tensor], Tensor]


class AffinityOptions(NamedTuple):
    """Choices of the affinity in samples; made by `affinity_options`.

    Attributes
    ----------
    kind, sign : str
        Affinity, and whether "abs", "same" or "opposite" changes count.
    smoothing : float
        Standard deviation of the Gaussian, samples.
    lags : tuple of int
        Lags of the null, samples; each is used in both directions.
    half_window : int
        Half width of the correlation window, samples.
    """

    kind: str
    sign: str
    smoothing: float
    lags: tuple[int, ...]
    half_window: int


KernelBuilder = Callable[[Tensor, Tensor | None, AffinityOptions], PairKernel]


def gaussian_taps(sigma: float, *, truncate: float = 4.0) -> list[float]:
    """Gaussian kernel that sums to one.

    Examples
    --------
    >>> len(gaussian_taps(1.0))
    9
    """
    half = max(1, int(truncate * sigma + 0.5))
    taps = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-half, half + 1)]
    return [tap / sum(taps) for tap in taps]


def smoother(taps: Sequence[float], like: Tensor) -> Smooth:
    """Build a symmetric moving sum along time: one product with a block-Toeplitz band for each stretch of samples.

    Beyond the ends there is nothing (zeros): divide by the smoothed weight of the samples.

    Parameters
    ----------
    taps : sequence of float
        Kernel, an odd number of values.
    like : Tensor
        Gives dtype and device.

    Returns
    -------
    function of a Tensor, shape (p, T), to a Tensor, shape (p, T)

    Examples
    --------
    >>> smoother([1.0, 1.0, 1.0], torch.zeros(1))(torch.ones(1, 4)).tolist()
    [[2.0, 3.0, 3.0, 2.0]]
    """
    half = len(taps) // 2
    step = max(64, half)
    weights = torch.tensor(list(taps), dtype=like.dtype, device=like.device)
    lag = torch.arange(step + 2 * half, device=like.device).unsqueeze(1)
    lag = lag - torch.arange(step, device=like.device)  # (step + 2 half, step)
    inside = (lag >= 0) & (lag < len(taps))
    band = torch.where(inside, weights[lag.clamp(0, len(taps) - 1)], 0)

    def smooth(x: Tensor) -> Tensor:
        n_time = x.shape[1]
        extra = -n_time % step
        padded = torch.nn.functional.pad(x, (half, half + extra))
        windows = padded.unfold(1, step + 2 * half, step)  # (p, n_steps, step + 2 half)
        return (windows @ band).flatten(1)[:, :n_time]

    return smooth


def _bounds(v: Tensor, sign: str) -> tuple[Tensor, Tensor, Tensor]:
    """Limits (low, high, direction) such that direction_a * clamp(v_b, low_a, high_a) is the co-fluctuation.

    With both signs it is sign(v_a v_b) min(|v_a|, |v_b|); "same" and "opposite" keep its positive or negative part.
    """
    direction = v.sign()
    if sign == "abs":
        return -v.abs(), v.abs(), direction
    side = v if sign == "same" else -v
    return side.clamp(max=0), side.clamp(min=0), side.sign()


def _wrapped(x: Tensor, reach: int) -> Tensor:
    """Extend (N, T) circularly by ``reach`` samples on both sides: a roll becomes a view."""
    return torch.cat([x[:, x.shape[1] - reach :], x, x[:, :reach]], 1)


def _corrected(v: Tensor, valid: Tensor | None, options: AffinityOptions) -> PairKernel:
    """Smoothed co-fluctuation above that of lagged traces."""
    n_time, reach = v.shape[1], max(options.lags)
    low, high, direction = _bounds(v, options.sign)
    wide = _wrapped(v, reach)
    smooth = smoother(gaussian_taps(options.smoothing), v)
    lags = [sign * lag for lag in options.lags for sign in (-1, 1)]
    count = 2 * len(lags)

    def side(a: Tensor, b: Tensor, shifts: Sequence[int]) -> Tensor:
        """Sum over shifts of c(v_a(t), v_b(t + shift)), shape (p, T)."""
        bottom, top, other = low[a], high[a], wide[b]
        total = torch.clamp(_shifted(other, shifts[0], reach, n_time), bottom, top)
        part = torch.empty_like(total)
        for shift in shifts[1:]:
            torch.clamp(_shifted(other, shift, reach, n_time), bottom, top, out=part)
            total += part
        return total.mul_(direction[a])

    weigh = _weights(v, valid, lags, smooth)

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        now = side(first, second, (0,))
        null = side(first, second, lags).add_(side(second, first, lags)).div_(count)
        smoothed = smooth(torch.cat([now, null]))  # (2p, T): one product for both
        seen, seen_null = weigh(first, second)
        now, null = smoothed.chunk(2)
        out = (now / seen).abs_().sub_((null / seen_null).abs_()).clamp_(0, 1)
        return out if valid is None else out.masked_fill_(~(valid[first] & valid[second]), torch.nan)

    return kernel


def _shifted(wide: Tensor, shift: int, reach: int, n_time: int) -> Tensor:
    """x(t + shift) as a view of the circularly extended signal."""
    return wide[:, reach + shift : reach + shift + n_time]


def _weights(
    v: Tensor, valid: Tensor | None, lags: Sequence[int], smooth: Smooth
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Smoothed weight of the samples that entered the co-fluctuation and its null."""
    if valid is None:
        whole = smooth(torch.ones_like(v[:1]))  # (1, T): the kernel inside the block
        return lambda first, second: (whole, whole)
    n_time, reach = v.shape[1], max(lags)
    here = valid.to(v.dtype)
    wide = _wrapped(here, reach)
    lagged = torch.stack([_shifted(wide, lag, reach, n_time) for lag in lags]).sum(0) / (2 * len(lags))  # (N, T)
    tiny = torch.finfo(v.dtype).tiny

    def weigh(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        both = here[first] * here[second]
        null = here[first] * lagged[second] + here[second] * lagged[first]
        seen, seen_null = smooth(torch.cat([both, null])).clamp_(min=tiny).chunk(2)
        return seen, seen_null

    return weigh


def cofluctuation(v: Tensor, valid: Tensor | None, options: AffinityOptions) -> PairKernel:
    """Signed co-fluctuation sign(v_i v_j) min(|v_i|, |v_j|), without smoothing; ``options`` do not matter.

    Examples
    --------
    >>> v = torch.tensor([[0.5], [-0.25]])
    >>> cofluctuation(v, None, AffinityOptions("corrected", "abs", 8.0, (8,), 20))(torch.tensor([0]), torch.tensor([1]))
    tensor([[-0.2500]])
    """
    low, high, direction = _bounds(v, "abs")

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        out = torch.clamp(v[second], low[first], high[first]).mul_(direction[first])
        return out if valid is None else out.masked_fill_(~(valid[first] & valid[second]), torch.nan)

    return kernel


def _gate(first: Tensor, second: Tensor, sign: str) -> Tensor:
    """Samples where both derivatives have a sign, and the wanted relation of signs."""
    product = first * second
    if sign == "abs":
        return product != 0
    return product > 0 if sign == "same" else product < 0


def _instant(v: Tensor, valid: Tensor | None, options: AffinityOptions) -> PairKernel:
    """Smaller of the two derivatives."""
    size, direction = v.abs(), v.sign()

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        gate = _gate(direction[first], direction[second], options.sign)
        out = torch.minimum(size[first], size[second]).mul_(gate)
        return out if valid is None else out.masked_fill_(~(valid[first] & valid[second]), torch.nan)

    return kernel


def _differential(v: Tensor, valid: Tensor | None, options: AffinityOptions) -> PairKernel:
    """Overlap of the derivatives over each run of constant signs, times its peak."""
    size, direction = v.abs(), v.sign()

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        u, w = size[first], size[second]
        s, r = direction[first], direction[second]
        start, _ = run_bounds(3 * s + r)
        small = torch.minimum(u, w)
        peak = torch.zeros_like(small).scatter_reduce_(1, start, small, "amax")
        overlap = torch.zeros_like(small).scatter_add_(1, start, small)
        union = torch.zeros_like(small).scatter_add_(1, start, torch.maximum(u, w))
        height = (overlap / union.clamp(min=torch.finfo(v.dtype).tiny)).clamp_(max=1).mul_(peak)  # at run starts
        out = height.gather(1, start).mul_(_gate(s, r, options.sign))
        return out if valid is None else out.masked_fill_(~(valid[first] & valid[second]), torch.nan)

    return kernel


def _sliding(x: Tensor, valid: Tensor | None, options: AffinityOptions) -> PairKernel:
    """Absolute Pearson correlation in a centred window; the window is cut at the ends of the block."""
    y = x.to(highest_precision(x.device))
    seen = torch.ones_like(y) if valid is None else valid.to(y.dtype)
    count = seen.sum(1, keepdim=True).clamp(min=1)
    y = (y - (y * seen).sum(1, keepdim=True) / count) * seen
    y = y / (y.square().sum(1, keepdim=True) / count).sqrt().clamp(min=torch.finfo(x.dtype).tiny)
    smooth = smoother([1.0] * (2 * options.half_window + 1), y)
    correlate = _whole_window(y, smooth) if valid is None else _partial_window(y, seen, smooth)

    def kernel(first: Tensor, second: Tensor) -> Tensor:
        r = correlate(first, second)
        r = r.abs() if options.sign == "abs" else (r if options.sign == "same" else -r)
        out = r.clamp(0, 1).to(x.dtype)
        return out if valid is None else out.masked_fill_(~(valid[first] & valid[second]), torch.nan)

    return kernel


def _whole_window(y: Tensor, smooth: Smooth) -> PairKernel:
    """Windowed correlation of signals without gaps: moments of single units are computed once."""
    count = smooth(torch.ones_like(y[:1]))
    mean = smooth(y) / count
    variance = smooth(y.square()) / count - mean.square()
    scale = _inverse_root(variance)

    def correlate(first: Tensor, second: Tensor) -> Tensor:
        product = smooth(y[first] * y[second]) / count
        return (product - mean[first] * mean[second]) * scale[first] * scale[second]

    return correlate


def _partial_window(y: Tensor, seen: Tensor, smooth: Smooth) -> PairKernel:
    """Windowed correlation over the samples where both units are valid."""

    def correlate(first: Tensor, second: Tensor) -> Tensor:
        both = seen[first] * seen[second]
        a, b = y[first] * both, y[second] * both
        moments = smooth(torch.cat([both, a, b, a * a, b * b, a * b])).chunk(6)
        count = moments[0].clamp(min=1.0)
        mean_a, mean_b, aa, bb, ab = (moment / count for moment in moments[1:])
        scale = _inverse_root(aa - mean_a.square()) * _inverse_root(bb - mean_b.square())
        return (ab - mean_a * mean_b) * scale

    return correlate


def _inverse_root(variance: Tensor) -> Tensor:
    """1 / sqrt of a windowed variance of standardised signals; 0 where it is only rounding."""
    floor = 1e6 * torch.finfo(variance.dtype).eps
    return torch.where(variance > floor, variance.clamp(min=floor).rsqrt(), 0)


KERNELS: dict[str, KernelBuilder] = {
    "corrected": _corrected,
    "differential": _differential,
    "differential_instant": _instant,
    "sliding_abs_corr": _sliding,
}
