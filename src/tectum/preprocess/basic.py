"""Steps that every modality shares: cut, bin, select, resample, smooth, standardise."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tectum.core.clock import check_rate
from tectum.core.errors import InputError, explain
from tectum.core.intervals import Intervals
from tectum.core.recording import Recording
from tectum.core.session import Session
from tectum.core.spikes import Spikes

T = TypeVar("T", Recording, Spikes, Session)


def part(session: Session, name: str) -> Any:
    """Take one part of a session by name."""
    return session[name]


def crop(data: T, *, start: float, stop: float) -> T:
    """Keep the time from ``start`` to ``stop`` in s.

    Examples
    --------
    >>> crop(Spikes.from_trains([[0.1, 0.9]]), start=0.0, stop=0.5).times.tolist()
    [0.1]
    """
    span = Intervals.from_pairs([(start, stop)])
    if isinstance(data, Recording):
        return data.restrict(span)
    return data.restrict(span)


def bin_spikes(spikes: Spikes, *, dt: float) -> Recording:
    """Count spikes in bins of ``dt`` s; see :meth:`Spikes.bin`."""
    return spikes.bin(dt)


def select(rec: Recording, *, axis: str, values: list[Any], column: str | None = None) -> Recording:
    """Keep the entries of an axis whose name (or given column) is among ``values``."""
    return rec.sel(**{axis: values if column is None else {column: values}})


def resample(rec: Recording, rate: float) -> Recording:
    """Change the sampling rate along time with SciPy's polyphase filter.

    Parameters
    ----------
    rec : Recording, regular
        Signal without missing samples; counts should be re-binned instead.
    rate : float
        New rate in Hz.

    Returns
    -------
    Recording

    Raises
    ------
    InputError
        If the recording has no regular rate or holds NaN or masked samples.

    Notes
    -----
    Low-pass filtering is by a zero-phase FIR filter, so the past of a sample holds some of its future.
    """
    from fractions import Fraction

    from scipy.signal import resample_poly

    check_rate(rate, "resample(rate)")
    if rec.rate is None or not bool(rec.valid().all()) or not bool(torch.isfinite(rec.values).all()):
        raise InputError(
            explain(
                "resample",
                expected="a regular recording without missing samples",
                got=repr(rec),
                fix="interpolate first",
            )
        )
    ratio = Fraction(rate / rec.rate).limit_denominator(10_000)
    axis = rec.dims.index("time")
    made = resample_poly(rec.values.cpu().numpy(), ratio.numerator, ratio.denominator, axis=axis, padtype="line")
    data = torch.from_numpy(np.ascontiguousarray(made)).to(rec.device, rec.values.dtype)
    return rec.with_(data=data, rate=rec.rate * float(ratio), mask=None, history=rec.noted("resample", rate=rate))


def smooth(rec: Recording, *, sigma: float) -> Recording:
    """Smooth along time with a Gaussian of ``sigma`` s (not causal: leave a gap of 3 sigma in splits)."""
    if rec.rate is None or not sigma > 0:
        raise InputError(
            explain("smooth", expected="a regular recording and sigma > 0 s", got=f"rate={rec.rate!r}, sigma={sigma!r}")
        )
    width = sigma * rec.rate
    reach = max(1, int(np.ceil(4 * width)))
    lag = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (lag / width) ** 2)
    moved = rec.values.float().movedim(rec.dims.index("time"), -1)  # (..., time)
    made = _convolve(moved, (kernel / kernel.sum()).to(moved)).movedim(-1, rec.dims.index("time"))
    return rec.with_(data=made, history=rec.noted("smooth", sigma=sigma))


def _convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve the last axis with a symmetric kernel, the ends held constant."""
    flat = x.reshape(-1, 1, x.shape[-1])
    padded = torch.nn.functional.pad(flat, (len(kernel) // 2,) * 2, mode="replicate")
    return torch.nn.functional.conv1d(padded, kernel[None, None]).reshape(x.shape)


def standardise(rec: Recording) -> Recording:
    """Subtract the mean over time and divide by the standard deviation of every other entry, valid samples only."""
    axis = rec.dims.index("time")
    data = rec.values.double().masked_fill(~rec.valid(), torch.nan)
    mean = data.nanmean(axis, keepdim=True)
    spread = (data - mean).square().nanmean(axis, keepdim=True).sqrt()
    made = (rec.values - mean) / torch.where(spread > 0, spread, torch.ones_like(spread))
    return rec.with_(data=made.float(), units="z", history=rec.noted("standardise"))
