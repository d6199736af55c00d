"""Seconds to samples, in one place.

Sample ``i`` of a regular recording covers ``[t0 + i / rate, t0 + (i + 1) / rate)``. Everything else in the
toolkit counts in integer samples.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import overload

import numpy as np
import torch
from torch import Tensor

from .errors import InputError, explain

#: Tolerance in samples that absorbs float64 rounding of times that lie on an edge.
EDGE = 1e-6


def slack(rate: float, t0: float) -> float:
    """Return the tolerance in samples for times near ``t0``: float64 holds 1e9 s only to 1e-7 s."""
    return EDGE + 2.0 * math.ulp(t0) * rate


@overload
def to_sample(seconds: float, *, rate: float, t0: float = 0.0, scale: float = 0.0) -> int: ...
@overload
def to_sample(
    seconds: Tensor, *, rate: float, t0: float = 0.0, scale: float = 0.0, first: int = 0, dtype: torch.dtype = ...
) -> Tensor: ...
def to_sample(
    seconds: float | Tensor,
    *,
    rate: float,
    t0: float = 0.0,
    scale: float = 0.0,
    first: int = 0,
    dtype: torch.dtype = torch.int64,
) -> int | Tensor:
    """Return the index of the sample that covers each time.

    Parameters
    ----------
    seconds : float or Tensor, shape (n,), float64
        Times on the session clock, in s.
    rate : float
        Samples per second.
    t0 : float, default 0
        Start of sample 0, in s.
    scale : float, default 0
        Times of this size, in s, were subtracted to get ``seconds``: their rounding is tolerated too.
    first : int, default 0
        Sample from which tensors are counted.
    dtype : torch.dtype, default int64
        Type of a tensor returned; the caller knows that the numbers fit.

    Returns
    -------
    int or Tensor, shape (n,), dtype

    Examples
    --------
    >>> to_sample(0.3, rate=10.0)
    3
    """
    tolerance = slack(rate, max(abs(t0), abs(scale)))
    if isinstance(seconds, Tensor):
        found = (seconds.double() - t0).mul_(rate).add_(tolerance).floor_()
        return (found.sub_(first) if first else found).to(dtype)
    return math.floor((seconds - t0) * rate + tolerance)


def to_seconds(sample: int | Tensor, *, rate: float, t0: float = 0.0) -> float | Tensor:
    """Return the start time of each sample, in s.

    Examples
    --------
    >>> to_seconds(3, rate=10.0)
    0.3
    """
    return t0 + (sample.double() if isinstance(sample, Tensor) else sample) / rate


def count_samples(duration: float, *, rate: float) -> int:
    """Return how many whole samples fit in ``duration`` seconds.

    Examples
    --------
    >>> count_samples(0.3, rate=10.0)
    3
    """
    return max(0, to_sample(duration, rate=rate))


def check_rate(rate: float, where: str) -> float:
    """Return ``rate`` in Hz after checking that it is finite and positive."""
    if isinstance(rate, bool) or not isinstance(rate, Real) or not math.isfinite(rate) or rate <= 0:
        raise InputError(explain(where, expected="a finite rate above 0 Hz", got=repr(rate)))
    return float(rate)


def regular_rate(times: Tensor, *, tolerance: float = 0.01) -> float | None:
    """Return the sampling rate of ``times`` if steps differ from their median by less than ``tolerance``.

    Parameters
    ----------
    times : Tensor, shape (n_time,), float64
        Increasing times in s.
    tolerance : float, default 0.01
        Largest relative deviation of a step from the median step.

    Returns
    -------
    float or None
        Rate in Hz, ``None`` when the sampling is irregular.

    Examples
    --------
    >>> regular_rate(torch.arange(5, dtype=torch.float64) / 4)
    4.0
    """
    steps = times.double().diff()
    if len(steps) == 0 or not bool((steps > 0).all()):
        return None
    middle = steps.median()
    rounding = 2.0 * float(np.spacing(float(times.abs().max())))
    if bool(((steps - middle).abs() > tolerance * middle + rounding).any()):
        return None
    return float(len(steps) / (times[-1] - times[0]))
