"""Smoothed derivatives of traces: scale, dead zone, runs of constant sign and gaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.device import highest_precision

Blocks = Sequence[tuple[int, int]]


class Derivative(NamedTuple):
    """What `signed_derivative` gives; T samples, N units.

    Attributes
    ----------
    v : Tensor, shape (T, N)
        ``s * u``: sign times scaled size of the derivative, in [-1, 1]; 0 where silent, missing or absent.
    valid : Tensor, shape (T, N), bool
        False inside long gaps and near them, and for absent units.
    interpolated : Tensor, shape (T, N), bool
        Samples of short gaps that were filled.
    scale : Tensor, shape (N,)
        The quantile q of |d| (units of the trace per sample); NaN for absent units, 0 for constant ones.
    threshold : Tensor, shape (N,)
        The dead zone tau, same units.
    present : Tensor, shape (N,), bool
        Units with any finite sample.
    """

    v: Tensor
    valid: Tensor
    interpolated: Tensor
    scale: Tensor
    threshold: Tensor
    present: Tensor


class Filled(NamedTuple):
    """Traces without NaN, and what was filled; all of shape (T, N)."""

    x: Tensor
    interpolated: Tensor
    missing: Tensor


def fill_gaps(x: Tensor, *, max_gap: int) -> Filled:
    """Fill NaN gaps linearly (nearest value at the ends) and tell short gaps from long ones.

    Parameters
    ----------
    x : Tensor, shape (T, N)
        Traces with NaN where nothing was measured.
    max_gap : int
        Longest gap, in samples, that counts as repaired.

    Returns
    -------
    Filled
        ``x`` is finite everywhere (0 for units that are NaN throughout); ``interpolated`` marks gaps up to
        ``max_gap``, ``missing`` the longer ones.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [float("nan")], [2.0]])
    >>> fill_gaps(x, max_gap=1).x.squeeze().tolist()
    [0.0, 1.0, 2.0]
    """
    seen = torch.isfinite(x)
    n_time = x.shape[0]
    position = torch.arange(n_time, device=x.device).unsqueeze(1).expand_as(seen)
    before = torch.where(seen, position, -1).cummax(0).values
    after = torch.where(seen, position, n_time).flip(0).cummin(0).values.flip(0)
    left = torch.where(before >= 0, before, after).clamp(max=n_time - 1)
    right = torch.where(after < n_time, after, before).clamp(min=0)
    clean = torch.where(seen, x, 0)
    weight = (position - left).to(x.dtype) / (right - left).clamp(min=1).to(x.dtype)
    start, stop = clean.gather(0, left), clean.gather(0, right)
    filled = torch.where(seen, clean, start + weight * (stop - start))
    short = (after - before - 1) <= max_gap
    return Filled(filled, ~seen & short, ~seen & ~short)


def dilate(mask: Tensor, *, radius: int) -> Tensor:
    """Widen the True stretches of a mask by ``radius`` samples on both sides along the first axis.

    Examples
    --------
    >>> dilate(torch.tensor([[False], [False], [True]]), radius=1).squeeze().tolist()
    [False, True, True]
    """
    if radius <= 0:
        return mask
    total = torch.nn.functional.pad(mask.cumsum(0), (0, 0, radius + 1, 0))  # (T + radius + 1, N)
    last = total[-1:].expand(radius, *total.shape[1:])
    total = torch.cat([total, last])  # (T + 2 radius + 1, N)
    return total[2 * radius + 1 :] > total[: mask.shape[0]]


def gaussian_derivative(x: Tensor, *, sigma: float, truncate: float = 4.0, blocks: Blocks | None = None) -> Tensor:
    """Filter traces with the first derivative of a Gaussian; edges repeat the nearest sample.

    The kernel is antisymmetric and applied to differences, so that a constant stretch gives exactly 0.

    Parameters
    ----------
    x : Tensor, shape (T, N)
        Traces without NaN.
    sigma : float
        Standard deviation of the Gaussian, in samples.
    truncate : float, default 4
        Half width of the kernel in standard deviations.
    blocks : sequence of (start, stop), optional
        Contiguous stretches, in samples, that cover the time axis; edges are those of each block.

    Returns
    -------
    Tensor, shape (T, N)
        Derivative in units of ``x`` per sample.

    Examples
    --------
    >>> ramp = torch.arange(40.0, dtype=torch.float64).unsqueeze(1)
    >>> round(gaussian_derivative(ramp, sigma=2.0)[20].item(), 2)
    1.0
    """
    half = max(1, int(truncate * sigma + 0.5))
    taps = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(half + 1)]
    total = taps[0] + 2 * sum(taps[1:])
    weights = [k / sigma**2 * taps[k] / total for k in range(half + 1)]
    pieces = [_antisymmetric(x[start:stop], weights) for start, stop in blocks or [(0, x.shape[0])]]
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


def _antisymmetric(x: Tensor, weights: Sequence[float]) -> Tensor:
    """Sum of weights[k] * (x(t + k) - x(t - k)) with repeated edges."""
    n_time, half = x.shape[0], len(weights) - 1
    edge = (half, *x.shape[1:])
    padded = torch.cat([x[:1].expand(edge), x, x[-1:].expand(edge)])  # (T + 2 half, N)
    out = torch.zeros_like(x)
    for k in range(1, half + 1):
        ahead, behind = padded[half + k : half + k + n_time], padded[half - k : half - k + n_time]
        out.add_(ahead - behind, alpha=weights[k])
    return out


def column_quantiles(x: Tensor, *, levels: Sequence[float]) -> Tensor:
    """Quantiles of every column over its samples that are not NaN (linear interpolation).

    Parameters
    ----------
    x : Tensor, shape (T, N)
        Values; NaN is left out.
    levels : sequence of float
        Quantile levels in [0, 1].

    Returns
    -------
    Tensor, shape (len(levels), N)
        NaN for columns without a value.

    Examples
    --------
    >>> column_quantiles(torch.tensor([[1.0], [float("nan")], [2.0], [3.0]]), levels=[0.5]).item()
    2.0
    """
    ordered = x.sort(dim=0).values  # NaN last
    count = torch.isfinite(x).sum(0, keepdim=True)  # (1, N)
    level = torch.tensor(list(levels), device=x.device, dtype=x.dtype).unsqueeze(1)  # (Q, 1)
    place = level * (count - 1).clamp(min=0).to(x.dtype)  # (Q, N)
    low = place.floor().long()
    high = torch.minimum(low + 1, (count - 1).clamp(min=0))
    start, stop = ordered.gather(0, low), ordered.gather(0, high)
    return start + (place - low.to(x.dtype)) * (stop - start)


def run_bounds(code: Tensor) -> tuple[Tensor, Tensor]:
    """First and last position of the run of equal values that holds each sample, along the last axis.

    Examples
    --------
    >>> first, last = run_bounds(torch.tensor([1, 1, 0, 2, 2]))
    >>> first.tolist(), last.tolist()
    ([0, 0, 2, 3, 3], [1, 1, 2, 4, 4])
    """
    n_time = code.shape[-1]
    position = torch.arange(n_time, device=code.device).expand(code.shape)
    change = code[..., 1:] != code[..., :-1]
    edge = torch.ones_like(code[..., :1], dtype=torch.bool)
    first = torch.where(torch.cat([edge, change], -1), position, 0).cummax(-1).values
    closing = torch.where(torch.cat([change, edge], -1), position, n_time)
    return first, closing.flip(-1).cummin(-1).values.flip(-1)


def constant_sign(d: Tensor, *, threshold: Tensor, min_run: int, blocks: Blocks | None = None) -> Tensor:
    """Sign of the derivative outside a dead zone, without runs shorter than ``min_run`` samples.

    Parameters
    ----------
    d : Tensor, shape (T, N)
        Derivatives.
    threshold : Tensor, shape (N,)
        Half width of the dead zone, same units.
    min_run : int
        Shortest run of one sign that is kept, in samples.
    blocks : sequence of (start, stop), optional
        Runs end where a block ends.

    Returns
    -------
    Tensor, shape (T, N), dtype of ``d``
        -1, 0 or 1.

    Examples
    --------
    >>> d = torch.tensor([[1.0], [1.0], [0.1], [-1.0]])
    >>> constant_sign(d, threshold=torch.tensor([0.5]), min_run=2).squeeze().tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    sign = torch.where(d.abs() > threshold, d.sign(), 0)
    pieces = [_drop_short(sign[start:stop].T, min_run).T for start, stop in blocks or [(0, d.shape[0])]]
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


def _drop_short(sign: Tensor, min_run: int) -> Tensor:
    """Zero the runs of (N, T) signs that last fewer than ``min_run`` samples."""
    first, last = run_bounds(sign)
    return torch.where(last - first + 1 >= min_run, sign, 0)


def without_global(d: Tensor, *, valid: Tensor) -> Tensor:
    """Regress the mean derivative over units out of every unit (motion and bleaching move all units at once).

    Parameters
    ----------
    d : Tensor, shape (T, N)
        Derivatives.
    valid : Tensor, shape (T, N), bool
        Samples that count.

    Returns
    -------
    Tensor, shape (T, N)

    Examples
    --------
    >>> d = torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    >>> without_global(d, valid=torch.ones_like(d, dtype=torch.bool)).abs().max().item()
    0.0
    """
    kept = torch.where(valid, d, 0)
    mean = kept.sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)  # (T, 1)
    power = torch.where(valid, mean.square(), 0).sum(0)
    slope = (kept * mean).sum(0) / power.clamp(min=torch.finfo(d.dtype).tiny)
    return d - slope * mean


def signed_derivative(
    x: Tensor,
    *,
    dt: float,
    sigma: float = 0.5,
    dead_zone: float = 1.0,
    min_run: float = 0.5,
    quantile: float = 0.95,
    max_gap: float = 1.0,
    training: Tensor | None = None,
    blocks: Blocks | None = None,
    remove_global: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Derivative:
    """Scaled, gated derivative of the traces of one animal.

    Parameters
    ----------
    x : Tensor, shape (T, N)
        Traces in any unit; NaN where nothing was measured, whole NaN columns for absent units.
    dt : float
        Sampling interval, s.
    sigma : float, default 0.5
        Standard deviation of the derivative filter, s; at least one sample is used.
    dead_zone : float, default 1
        Dead zone in robust standard deviations (median |d| / 0.6745).
    min_run : float, default 0.5
        Shortest run of one sign, s; at least two samples are asked.
    quantile : float, default 0.95
        Level of |d| that is scaled to 1.
    max_gap : float, default 1
        Longest gap that is filled, s. Longer ones are invalid, and so are 3 sigma around them.
    training : Tensor, shape (T,), bool, optional
        Samples from which scale and dead zone are learnt; all valid ones by default.
    blocks : sequence of (start, stop), optional
        Contiguous stretches of samples; nothing passes from one to the next.
    remove_global : bool, default False
        Regress out the mean derivative over units first.
    dtype : torch.dtype, default torch.float32
        Of ``v``; the filter itself runs in the highest precision of the device.

    Returns
    -------
    Derivative

    References
    ----------
    Dyballa et al., "Learning dynamic representations of the functional connectome in neurobiological networks",
    ICLR 2024 (comparison of derivatives over intervals of constant sign).

    Examples
    --------
    >>> t = torch.arange(200) * 0.25
    >>> x = torch.stack([torch.sin(t), torch.cos(t), torch.zeros(200)], 1)
    >>> out = signed_derivative(x, dt=0.25)
    >>> out.v.shape, out.scale[2].item()
    (torch.Size([200, 3]), 0.0)
    """
    width = max(sigma / dt, 1.0)  # samples
    spans = [(0, x.shape[0])] if blocks is None else list(blocks)
    filled = _fill_blocks(x, spans, max_gap=math.floor(max_gap / dt + 1e-6))
    present = torch.isfinite(x).any(0)
    valid = ~_dilate_blocks(filled.missing, spans, radius=math.ceil(3 * width)) & present
    d = gaussian_derivative(_anchored(filled.x), sigma=width, blocks=spans)
    d = without_global(d, valid=valid) if remove_global else d
    learn = valid if training is None else valid & training.unsqueeze(1)
    q, median = column_quantiles(torch.where(learn, d.abs(), torch.nan), levels=[quantile, 0.5])
    threshold = dead_zone * median / 0.6745
    steps = max(2, math.ceil(min_run / dt - 1e-6))
    sign = constant_sign(torch.where(valid, d, 0), threshold=threshold, min_run=steps, blocks=spans)
    u = torch.where(q > 0, (d.abs() / q).clamp(max=1.0), 0)
    v = torch.where(valid, sign * u, 0).to(dtype)
    return Derivative(v, valid, filled.interpolated & present, q, threshold, present)


def _anchored(x: Tensor) -> Tensor:
    """Traces in the highest precision, from their first sample: no offset left to round."""
    x = x.to(highest_precision(x.device))
    return x - x[:1]


def _fill_blocks(x: Tensor, blocks: Blocks, *, max_gap: int) -> Filled:
    """Fill gaps inside each block."""
    pieces = [fill_gaps(x[start:stop], max_gap=max_gap) for start, stop in blocks]
    return Filled(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))


def _dilate_blocks(mask: Tensor, blocks: Blocks, *, radius: int) -> Tensor:
    """Widen a mask inside each block."""
    return torch.cat([dilate(mask[start:stop], radius=radius) for start, stop in blocks])
