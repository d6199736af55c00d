"""The chain for recordings of *C. elegans* on tensors (time, unit), and the published chain. NaN is missing."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tectum.core.errors import InputError, explain

Smoothing = Literal["moving", "gaussian", "exponential"]

RELEASE_STEP = 0.333  # s
RELEASE_WINDOW, RELEASE_SIGMA, RELEASE_ALPHA = 15, 5.0, 0.5  # frames, frames, share of the newest frame
FLOOR = 1e-4  # smallest standard deviation of the causal scale
_MAD = 1.4826022185056018  # standard deviation of a normal over its median absolute deviation
_TINY = 1e-12  # weight of the past at which a kernel ends


class Released(NamedTuple):
    """The arrays of the published chain; frames are of the recording or of a step of 0.333 s."""

    calcium: Tensor
    """(frame, unit) smoothed, resampled and scaled with the whole recording."""
    smooth: Tensor
    """(frame, unit) smoothed and resampled."""
    residual: Tensor
    """(frame, unit) derivative per s, resampled."""
    smooth_residual: Tensor
    """(frame, unit) derivative, smoothed and resampled."""
    times: Tensor
    """(frame,) s, the left edge of each bin where frames were averaged."""
    original_smooth: Tensor
    """(time, unit)."""
    original_residual: Tensor
    """(time, unit)."""


def longest_gap(x: Tensor, times: Tensor) -> float:
    """Return the longest time in s between recorded samples of a unit that are not neighbours, 0 without gaps."""
    seen = torch.isfinite(x)
    at = times.to(x)[:, None].expand_as(x)
    last = torch.where(seen, at, -torch.inf).cummax(0).values  # time of the newest recorded sample
    step = torch.where(seen[1:] & ~seen[:-1], at[1:] - last[:-1], torch.zeros_like(at[1:]))
    return float(torch.where(torch.isfinite(step), step, torch.zeros_like(step)).amax()) if len(step) else 0.0


def fill(x: Tensor, times: Tensor) -> Tensor:
    """Interpolate missing samples (time, unit) linearly in time; before the first and after the last stay missing.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [float("nan")], [2.0], [float("nan")]])
    >>> fill(x, torch.tensor([0.0, 1.0, 2.0, 3.0])).T
    tensor([[0., 1., 2., nan]])
    """
    n, at = len(x), times.to(x)
    frame = torch.arange(n, device=x.device)[:, None].expand(x.shape)
    seen = torch.isfinite(x)
    left = torch.where(seen, frame, -1).cummax(0).values
    right = torch.where(seen, frame, n).flip(0).cummin(0).values.flip(0)
    inside = (left >= 0) & (right < n)
    low, high = left.clamp(min=0), right.clamp(max=n - 1)
    a, b = x.gather(0, low), x.gather(0, high)
    span = torch.where(high > low, at[high] - at[low], torch.ones_like(a))
    made = a + (b - a) * (at[:, None] - at[low]) / span
    return torch.where(seen, x, torch.where(inside, made, torch.nan))


def impute(x: Tensor, *, shrink: float = 0.01, rounds: int = 60) -> Tensor:
    """Complete (time, unit) by singular values that are shrunk less and less; units without a sample stay NaN.

    Parameters
    ----------
    x : Tensor, shape (time, unit)
        NaN is missing.
    shrink : float, default 0.01
        Last shrinkage, as a share of the largest singular value; the first is a half.
    rounds : int, default 60
        Steps in between.

    References
    ----------
    Mazumder, Hastie, Tibshirani (2010), Journal of Machine Learning Research 11, 2287-2322.
    """
    there = torch.isfinite(x).any(0)
    part = x[:, there]
    seen = torch.isfinite(part)
    mean = torch.where(seen, part, 0).sum(0) / seen.sum(0)
    filled = torch.where(seen, part - mean, 0)
    largest = torch.linalg.matrix_norm(filled, 2)
    for step in torch.logspace(math.log10(0.5), math.log10(shrink), rounds, device="cpu").tolist():
        u, s, v = torch.linalg.svd(filled, full_matrices=False)
        near = (u * (s - step * largest).clamp(min=0)) @ v
        filled = torch.where(seen, filled, near)
    made = torch.full_like(x, torch.nan)
    made[:, there] = torch.where(seen, part, filled + mean)
    return made


def smoothed(x: Tensor, times: Tensor, width: float, *, kind: Smoothing = "moving") -> Tensor:
    """Smooth (time, unit) with the present and the past; missing samples stay missing and do not contribute.

    Parameters
    ----------
    x : Tensor, shape (time, unit)
        NaN is missing.
    times : Tensor, shape (time,), float64
        s.
    width : float
        Window (t - width, t], standard deviation or time constant, in s.
    kind : {"moving", "gaussian", "exponential"}
        Kernel.
    """
    if kind == "moving":
        edge = torch.searchsorted(times.contiguous(), times - width + 1e-9, right=True).to(x.device)
        return _means(x, edge)
    step = _regular_step(times)
    if kind == "gaussian":
        return _past(x, gaussian_kernel(width / step, x))
    reach = int(math.log(_TINY) * -width / step) + 2
    return _past(x, torch.exp(-torch.arange(reach, dtype=x.dtype, device=x.device) * (step / width)))


def _regular_step(times: Tensor) -> float:
    steps = times.diff()
    step = float(steps.median())
    if bool(((steps - step).abs() > 1e-3 * step).any()):
        fix = "use smooth='moving', or resample first"
        raise InputError(explain("preprocess_worm(smooth)", expected="a regular clock", got="one that varies", fix=fix))
    return step


def gaussian_kernel(sigma: float, like: Tensor) -> Tensor:
    """Return the weights of the present and past frames of a one-sided Gaussian, not normalised."""
    lag = torch.arange(int(8 * sigma) + 2, dtype=like.dtype, device=like.device)
    return torch.exp(-0.5 * (lag / sigma).square())


def _means(x: Tensor, first: Tensor) -> Tensor:
    """Return the mean over frames ``first[t]..t``."""
    seen = torch.isfinite(x)
    zero = x.new_zeros(1, x.shape[1])
    total = torch.cat([zero, torch.where(seen, x, 0).cumsum(0)])
    count = torch.cat([zero, seen.to(x).cumsum(0)])
    made = (total[1:] - total[first]) / (count[1:] - count[first])
    return torch.where(seen, made, torch.nan)


def _past(x: Tensor, kernel: Tensor) -> Tensor:
    """Average present and past frames with weights that are renormalised to the frames there are."""
    seen = torch.isfinite(x)
    kernel = kernel[: len(x)].flip(0)[None, None]

    def onto(values: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(values.T[:, None], (kernel.shape[-1] - 1, 0))
        return torch.nn.functional.conv1d(padded, kernel)[:, 0].T

    made = onto(torch.where(seen, x, 0)) / onto(seen.to(x))
    return torch.where(seen, made, torch.nan)


def interpolate(x: Tensor, times: Tensor, at: Tensor) -> Tensor:
    """Interpolate (time, unit) linearly; NaN between samples of which one is missing.

    Examples
    --------
    >>> interpolate(torch.tensor([[0.0], [2.0]]), torch.tensor([0.0, 1.0]), torch.tensor([0.25])).item()
    0.5
    """
    low = (torch.searchsorted(times.contiguous(), at.contiguous(), right=True) - 1).clamp(0, len(times) - 2)
    share = ((at - times[low]) / (times[low + 1] - times[low])).clamp(0, 1).to(x)[:, None]
    low = low.to(x.device)
    a, b = x[low], x[low + 1]
    return torch.where(share <= 0, a, torch.where(share >= 1, b, torch.lerp(a, b, share)))


def interval_means(x: Tensor, times: Tensor, edges: Tensor) -> Tensor:
    """Return the mean over each interval of the line that joins the samples (time, unit).

    Parameters
    ----------
    x : Tensor, shape (time, unit)
        NaN is missing: the mean is over the rest of an interval if that is half of it or more.
    times : Tensor, shape (time,), float64
        s, increasing.
    edges : Tensor, shape (n + 1,), float64
        Bounds of the intervals in s, within ``times``.

    Returns
    -------
    Tensor, shape (n, unit)

    Examples
    --------
    >>> t = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    >>> interval_means(t[:, None], t, torch.tensor([0.0, 1.5], dtype=torch.float64)).item()
    0.75
    """
    low = (torch.searchsorted(times.contiguous(), edges.contiguous(), right=True) - 1).clamp(0, len(times) - 2)
    past, length = (edges - times[low]).to(x)[:, None], times.diff().to(x)[:, None]
    low = low.to(x.device)
    good = torch.isfinite(x[1:]) & torch.isfinite(x[:-1])  # (time - 1, unit)
    a, b = (torch.where(good, part, 0) for part in (x[:-1], x[1:]))
    zero = x.new_zeros(1, x.shape[1])
    area = torch.cat([zero, ((a + b) / 2 * length).cumsum(0)])
    cover = torch.cat([zero, (good.to(x) * length).cumsum(0)])
    slope = (b - a) / length
    until = area[low] + a[low] * past + slope[low] * past.square() / 2
    seen = cover[low] + good[low].to(x) * past
    width = edges.diff().to(x)[:, None]
    found = seen.diff(dim=0)
    return torch.where(found >= 0.5 * width * (1 - 1e-6), until.diff(dim=0) / found, torch.nan)


def mean_sd(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and population standard deviation of each unit."""
    mean = x.nanmean(0)
    return mean, (x - mean).square().nanmean(0).sqrt()


def median_mad(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return median and scaled median absolute deviation of each unit."""
    middle = x.nanquantile(0.5, dim=0)
    return middle, _MAD * (x - middle).abs().nanquantile(0.5, dim=0)


def causal_scale(x: Tensor) -> Tensor:
    """Subtract the mean and divide by the standard deviation of all samples so far, which is at least 1e-4.

    Examples
    --------
    >>> causal_scale(torch.tensor([[1.0], [3.0]], dtype=torch.float64)).T
    tensor([[0., 1.]], dtype=torch.float64)
    """
    seen = torch.isfinite(x)
    count = seen.to(x).cumsum(0)
    mean = torch.where(seen, x, 0).cumsum(0) / count
    square = torch.where(seen, x.square(), 0).cumsum(0) / count
    return (x - mean) / (square - mean.square()).clamp(min=FLOOR**2).sqrt()


def release(x: Tensor, times: Tensor, *, smooth: Smoothing = "moving", causal: bool = False) -> Released:
    """Run the published chain on traces without gaps.

    Parameters
    ----------
    x : Tensor, shape (time, unit)
        Raw traces.
    times : Tensor, shape (time,), float64
        s.
    smooth : {"moving", "gaussian", "exponential"}
        Kernel over frames.
    causal : bool, default False
        Scale with the past instead of with the whole recording.

    Returns
    -------
    Released

    References
    ----------
    Simeon et al. (2024), arXiv 2411.12091.
    """
    clock = times.float()  # the release stored time in single precision before it moved the origin
    clock = (clock - clock[0]).double()
    residual = torch.gradient(x, spacing=(clock.to(x),), dim=0)[0]
    original, original_residual = (_release_smooth(v, smooth) for v in (x, residual))
    (values, stamp), (slope, _), (smooth_slope, _) = (
        _release_resample(v, clock) for v in (original, residual, original_residual)
    )
    if causal:
        scaled = causal_scale(values)
    else:
        mean, sd = mean_sd(values)
        scaled = (values - mean) / torch.where(sd > 0, sd, torch.ones_like(sd))
    return Released(scaled, values, slope, smooth_slope, stamp, original, residual)


def _release_smooth(x: Tensor, kind: Smoothing) -> Tensor:
    frame = torch.arange(len(x), device=x.device)
    if kind == "moving":
        return _means(x, (frame - RELEASE_WINDOW // 2).clamp(min=0))
    if kind == "gaussian":
        return _past(x, gaussian_kernel(RELEASE_SIGMA, x))
    keep = 1 - RELEASE_ALPHA
    reach = int(math.log(_TINY) / math.log(keep)) + 2
    padded = torch.cat([x[:1].expand(reach, -1), x])  # before the first frame there was nothing but it
    weight = RELEASE_ALPHA * keep ** torch.arange(reach, dtype=x.dtype, device=x.device)
    made = torch.nn.functional.conv1d(padded.T[:, None], weight.flip(0)[None, None])[:, 0].T[1:]
    return made + keep**reach * x[:1]


def _release_resample(x: Tensor, clock: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolate to 0.333 s, or to a sixth of it and average six, stamped with the first."""
    coarse = float(clock.diff().median()) > RELEASE_STEP
    step = RELEASE_STEP if coarse else RELEASE_STEP / 6
    n = math.ceil(float(clock[-1] - clock[0]) / step)  # the end is excluded
    at = step * torch.arange(n, dtype=torch.float64, device="cpu")
    fine = interpolate(x, clock, at)
    if coarse:
        return fine, at
    whole = len(fine) // 6
    stamp = RELEASE_STEP * torch.arange(whole, dtype=torch.float64, device="cpu")
    return fine[: 6 * whole].reshape(whole, 6, -1).mean(1), stamp


def longest_run(missing: Tensor) -> Tensor:
    """Return the longest run of True in each column of a (time, unit) mask: (unit,).

    Examples
    --------
    >>> longest_run(torch.tensor([[True], [True], [False], [True]])).tolist()
    [2]
    """
    frame = torch.arange(1, len(missing) + 1, device=missing.device)[:, None]
    last = torch.where(missing, 0, frame).cummax(0).values  # number of the newest frame that is there
    return (frame - last).amax(0)


def straight_windows(x: Tensor, *, window: int = 50, decimals: int = 3) -> Tensor:
    """Return the share of half-overlapping windows in which each unit is a straight line: (unit,).

    Parameters
    ----------
    x : Tensor, shape (time, unit)
        Traces; a window with a missing sample is not straight.
    window : int, default 50
        Frames.
    decimals : int, default 3
        Steps that agree to so many decimals are equal.
    """
    n = max(math.ceil((len(x) - window) / (window // 2)), 0)
    if n == 0:
        return x.new_zeros(x.shape[1])
    steps = x.unfold(0, window, window // 2)[:n].diff(dim=-1).round(decimals=decimals)  # (window, unit, frame - 1)
    return (steps == steps[..., :1]).all(-1).to(x).mean(0)
