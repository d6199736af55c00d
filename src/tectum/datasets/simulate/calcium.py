"""Fluorescence of cells with known spikes, a drifting baseline and neuropil: ground truth for the calcium chain."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.random import resolve_seed
from ...core.recording import Recording


class CalciumTruth(NamedTuple):
    """What the simulated fluorescence was made from."""

    counts: Tensor
    """(time, unit) int64 spikes in each frame."""
    calcium: Tensor
    """(time, unit) float32 response without noise."""
    baseline: Tensor
    """(time, unit) float32 fluorescence at rest."""
    coefficient: float
    """How much neuropil is in each region."""


class CalciumSample(NamedTuple):
    """Simulated fluorescence with its truth."""

    fluorescence: Recording
    """(time, unit)."""
    neuropil: Recording
    """(time, unit)."""
    truth: CalciumTruth


def calcium(
    n_units: int = 20,
    *,
    rate: float = 30.0,
    duration: float = 600.0,
    tau: float = 0.7,
    noise: float = 0.2,
    coefficient: float = 0.7,
    random_state: int | None = 0,
) -> CalciumSample:
    """Simulate two-photon fluorescence.

    Spikes are Poisson at 0.2 Hz, with bursts of 0.5 s at 6 Hz that begin at 0.15 per s; each adds 1 and decays. The
    baseline is 2 (1 + 0.2 sin) with a period of 120 s, the neuropil 1 plus half a unit-variance noise smoothed by 15
    frames plus white noise of 0.02.

    Parameters
    ----------
    n_units : int, default 20
        Regions.
    rate : float, default 30
        Frames per s.
    duration : float, default 600
        s.
    tau : float, default 0.7
        Decay in s.
    noise : float, default 0.2
        Standard deviation of white noise.
    coefficient : float, default 0.7
        Share of neuropil in each region.
    random_state : int or None, default 0
        Seed.

    Returns
    -------
    CalciumSample

    Examples
    --------
    >>> calcium(2, duration=10.0).fluorescence.sizes
    {'time': 300, 'unit': 2}
    """
    from scipy.ndimage import gaussian_filter1d
    from scipy.signal import lfilter

    rng = np.random.default_rng(resolve_seed(random_state))
    n_time = round(rate * duration)
    starts = rng.random((n_units, n_time)) < 0.15 / rate
    burst = lfilter(np.ones(round(0.5 * rate)), [1.0], starts, axis=1) > 0.5
    counts = rng.poisson((0.2 + 6.0 * burst) / rate)
    response = lfilter([1.0], [1.0, -np.exp(-1.0 / (tau * rate))], counts.astype(np.float64), axis=1)
    phase = rng.uniform(0, 2 * np.pi, (n_units, 1))
    rest = 2.0 * (1.0 + 0.2 * np.sin(2 * np.pi * np.arange(n_time) / rate / 120.0 + phase))
    slow = gaussian_filter1d(rng.standard_normal((n_units, n_time)), 15.0, axis=1)
    around = 1.0 + 0.5 * slow / slow.std(axis=1, keepdims=True) + 0.02 * rng.standard_normal((n_units, n_time))
    seen = rest + response + coefficient * around + noise * rng.standard_normal((n_units, n_time))
    truth = CalciumTruth(torch.from_numpy(counts.T.copy()), _float(response), _float(rest), coefficient)
    made = [
        Recording(data=_float(x), dims=("time", "unit"), rate=rate, units="F", modality="calcium", subject="sim")
        for x in (seen, around)
    ]
    return CalciumSample(made[0], made[1], truth)


def _float(x: np.ndarray) -> Tensor:
    """Turn (unit, time) to (time, unit), float32."""
    return torch.from_numpy(np.ascontiguousarray(x.T, dtype=np.float32))
