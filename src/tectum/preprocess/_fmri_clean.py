"""Cleaning of series as one linear map along time: detrend, filter, regress, in the order of the field's tools.

All of these steps but the last (the scale) are linear along time, and so are the interpolation of removed volumes and
the two-way Butterworth filter with its padding. They are composed once, in double precision, for the few volumes of a
run, and then applied to all voxels as one matrix product (with a filter) or as a projection of low rank (without).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1 << 18  # numbers of a block that stay in the cache of one core
_FLAT = 4  # a series whose spread is below this many roundings of its level is constant


class Plan(NamedTuple):
    """A linear map from the volumes of a run to the cleaned volumes that stay.

    With g the volumes that stay, ``y = dense @ g`` where a filter is in it, else ``y = g - basis @ (basis.T @ g)``.
    """

    dense: Tensor | None
    """(kept, kept), or None."""
    basis: Tensor
    """(kept, rank) orthonormal: trend and confounds; without columns if ``dense`` is given."""
    rows: Tensor
    """(kept,) int64: volumes that stay."""
    constant: Tensor
    """(kept,): what becomes of a series of ones."""
    weights: Tensor
    """(kept,): the mean before the trend is removed, which the percent scale needs."""
    rank: int
    """Rank of the confounds."""
    columns: int
    """Columns of the confounds, cosines included."""
    centred: bool
    """Whether nothing is left of the mean of a series: there is a trend and no filter after it."""


@lru_cache(maxsize=8)
def _butterworth(n: int, rate: float, low: float | None, high: float | None, order: int) -> np.ndarray:
    """Return the matrix (n, n) of a Butterworth filter run both ways, with SciPy's odd padding."""
    from scipy.signal import butter, sosfiltfilt

    kind = "band" if low is not None and high is not None else "low" if low is not None else "high"
    edge = [f for f in (high, low) if f is not None]
    sections = butter(order, edge if len(edge) == 2 else edge[0], btype=kind, output="sos", fs=rate)
    return np.ascontiguousarray(sosfiltfilt(sections, np.eye(n), axis=0))


def _spline(kept: np.ndarray, rows: np.ndarray, tr: float) -> np.ndarray:
    """Return the matrix (rows, kept) of a cubic spline through the volumes kept, taken at all ``rows``."""
    from scipy.interpolate import CubicSpline

    found: np.ndarray = CubicSpline(kept * tr, np.eye(len(kept)), extrapolate=True)(rows * tr)
    exact = np.isin(rows, kept)
    found[exact] = np.eye(len(kept))[np.searchsorted(kept, rows[exact])]
    return found


def cosines(n: int, high_pass: float, tr: float) -> np.ndarray:
    """Return the discrete cosine drifts below a frequency.

    Parameters
    ----------
    n : int
        Volumes.
    high_pass : float
        Hz.
    tr : float
        s.

    Returns
    -------
    array, shape (n, order), float64

    Examples
    --------
    >>> cosines(100, 0.01, 2.0).shape
    (100, 4)
    """
    order = min(n - 1, math.floor(2 * n * high_pass * tr))
    steps = np.pi / n * (np.arange(n)[:, None] + 0.5) * np.arange(1, order + 1)
    found: np.ndarray = math.sqrt(2.0 / n) * np.cos(steps)
    return found


def plan(
    n: int,
    *,
    tr: float,
    kept: np.ndarray,
    confounds: Tensor,
    detrend: bool,
    low_pass: float | None,
    high_pass: float | None,
    cosine: bool,
    order: int = 5,
    standardise_confounds: bool = True,
    extrapolate: bool = False,
) -> Plan:
    """Compose the map of one run.

    Parameters
    ----------
    n : int
        Volumes.
    tr : float
        Repetition time in s.
    kept : array of int, shape (n_kept,)
        Volumes that stay, increasing.
    confounds : Tensor, shape (n, n_confounds), float64
        What is regressed; the map is composed on its device, :func:`apply` moves it.
    detrend : bool
        Remove mean and line.
    low_pass, high_pass : float, optional
        Hz.
    cosine : bool
        Remove cosines below ``high_pass`` with the confounds instead of filtering.
    order : int, default 5
        Of the Butterworth filter.
    standardise_confounds : bool, default True
        Centre and scale confounds before they are regressed; otherwise constants in them stay.
    extrapolate : bool, default False
        Whether removed volumes before the first and after the last one kept are extrapolated for the filter, instead of
        left out of it.

    Returns
    -------
    Plan
    """
    options: dict[str, Any] = {"dtype": confounds.dtype, "device": confounds.device}
    filtered = not cosine and (low_pass is not None or high_pass is not None)
    if cosine and high_pass is not None:
        drifts = torch.from_numpy(cosines(n, high_pass, tr)).to(**options)
        confounds = torch.cat([confounds, drifts], 1)
    if filtered:
        first, last = (0, n) if extrapolate else (int(kept[0]), int(kept[-1]) + 1)
        rows = np.arange(first, last)
        fill = torch.from_numpy(_spline(kept, rows, tr) if len(kept) < len(rows) else np.eye(len(rows))).to(**options)
    else:
        rows, fill = kept, torch.eye(len(kept), **options)
    index = torch.from_numpy(kept.astype(np.int64)).to(confounds.device)
    noise = fill @ confounds[index]
    trend = _trend(len(rows), detrend, options)
    level = noise.abs().amax(0) * len(rows) * torch.finfo(noise.dtype).eps
    noise = noise - trend @ (trend.T @ noise)
    noise = torch.where(noise.abs().amax(0) > level, noise, 0)  # of a constant or a line only rounding is left
    weights = fill.mean(0)
    if not filtered:
        basis, rank = _basis(noise, standardise_confounds)
        basis = torch.cat([trend, basis], 1)
        constant = 1 - basis @ basis.sum(0)
        return Plan(None, basis, index, constant, weights, rank, noise.shape[1], detrend)
    along = torch.from_numpy(_butterworth(len(rows), 1.0 / tr, low_pass, high_pass, order)).to(**options)
    stay = torch.from_numpy(kept - rows[0]).to(confounds.device)
    along, noise = along[stay], (along @ noise)[stay]
    made = (along - (along @ trend) @ trend.T) @ fill  # (kept, kept)
    basis, rank = _basis(noise, standardise_confounds)
    made = made - basis @ (basis.T @ made)
    return Plan(made, basis[:, :0], index, made.sum(1), weights, rank, noise.shape[1], False)


def _trend(n: int, detrend: bool, options: dict[str, Any]) -> Tensor:
    """Return orthonormal mean and line, shape (n, 2); without columns if nothing is to be removed."""
    if not detrend:
        return torch.zeros(n, 0, **options)
    line = torch.arange(n, **options) - (n - 1) / 2
    length = torch.linalg.vector_norm(line)
    line = line / torch.where(length > 0, length, 1)
    return torch.stack([torch.full_like(line, n**-0.5), line], 1)


def _basis(noise: Tensor, standardise: bool) -> tuple[Tensor, int]:
    """Return an orthonormal basis (volume, rank) of the confounds and its rank."""
    if noise.shape[1] == 0:
        return noise, 0
    if standardise:
        noise = noise - noise.mean(0)
        spread = noise.std(0, correction=1)
        noise = noise / torch.where(spread > torch.finfo(noise.dtype).eps, spread, torch.ones_like(spread))
    else:
        top = noise.abs().amax(0)
        noise = noise / torch.where(top > 0, top, torch.ones_like(top))
    left, size, _ = torch.linalg.svd(noise, full_matrices=False)
    floor = torch.finfo(noise.dtype).eps * 100 * max(1.0, math.sqrt(noise.shape[0]))
    rank = int((size > floor).sum())
    return left[:, :rank], rank


def apply(x: Tensor, how: Plan, *, scale: str | None) -> tuple[Tensor, Tensor]:
    """Clean series.

    Parameters
    ----------
    x : Tensor, shape (time, n)
        Data in floating point.
    how : Plan
        From :func:`plan`.
    scale : {"zscore", "psc", None}
        Divide by the standard deviation (n - 1), or return percent of the mean before the trend was removed.

    Returns
    -------
    made : Tensor, shape (kept, n)
        Series that are constant become 0 with a scale; those with NaN in a volume that stays become NaN.
    mean : Tensor, shape (n,)
        Of the volumes that stay, before anything was done: finite only where all of them are.
    """
    turned = x.stride(0) == 1 and x.stride(1) >= x.shape[0] > 1  # series one after the other: the result is so too
    made = _room((x.shape[1], len(how.rows)), x).T if turned else _room((len(how.rows), x.shape[1]), x)
    how = how._replace(
        dense=None if how.dense is None else how.dense.to(x),
        basis=how.basis.to(x),
        rows=how.rows.to(x.device),
        constant=how.constant.to(x),
        weights=how.weights.to(x),
    )
    numbers = _BLOCK * torch.get_num_threads() if x.device.type == "cpu" else _BLOCK << 6
    width = min(max(256, numbers // max(1, x.shape[0])), x.shape[1])
    levels = x.new_empty((3, x.shape[1]))
    room = x.new_empty((width, len(how.rows))).T if turned else x.new_empty((len(how.rows), width))
    for first in range(0, x.shape[1], max(1, width)):
        part = slice(first, min(first + width, x.shape[1]))
        _block(x[:, part], how, scale, made[:, part], levels[:, part], room[:, : part.stop - first])
    return _percent(made, levels[1:]) if scale == "psc" else made, levels[0]


def _room(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return an empty tensor; on the CPU in NumPy's memory, whose large pages cost a third of torch's at first use."""
    if not _in_numpy(like):
        return like.new_empty(shape)
    return torch.from_numpy(np.empty(shape, dtype=like.new_empty(0).numpy().dtype))


def _in_numpy(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64)


def _block(x: Tensor, how: Plan, scale: str | None, out: Tensor, levels: Tensor, room: Tensor) -> None:
    """Clean some series into ``out``; leave in ``levels`` their mean and, for the percent scale, that after and before.

    All steps but the first and the last act on ``room``, which stays in the cache: memory that is new for every block
    costs more at its first touch than a step.
    """
    x = x if len(how.rows) == x.shape[0] else x.index_select(0, how.rows)
    levels[0] = mean = x.mean(0)
    made = torch.sub(x, mean, out=room)  # products of what is left lose no digits to the level
    before = mean + how.weights @ made if scale == "psc" else mean
    if how.dense is not None:
        removed = _squares(made)
        made = how.dense @ made
    else:
        part = how.basis.T @ made
        removed = _squares(part)
        made.addmm_(how.basis, part, alpha=-1)
    after = torch.zeros_like(mean) if how.centred else _centre(made, how, scale, mean)
    if scale == "psc":
        levels[1], levels[2] = after, before
    if scale != "zscore":
        out.copy_(made)
        return
    size = _squares(made)
    floor = (size + removed).div_(x.shape[0]).sqrt_().add_(mean.abs()).mul_(_FLAT * torch.finfo(x.dtype).eps)
    size.div_(max(1, made.shape[0] - 1)).sqrt_()
    torch.mul(made, size.reciprocal().masked_fill_(size <= floor, 0), out=out)  # NaN varies


def _squares(x: Tensor) -> Tensor:
    """Return the sum of squares of every series; on the CPU by NumPy, in one pass that writes no squares."""
    if not _in_numpy(x):
        return x.square().sum(0)
    return torch.from_numpy(np.einsum("tn,tn->n", x.numpy(), x.numpy()))


def _centre(made: Tensor, how: Plan, scale: str | None, mean: Tensor) -> Tensor:
    """Give back what cleaning leaves of the level, or for a scale subtract the mean that is left; return that mean."""
    if scale is None:
        made.addr_(how.constant, mean)
        return torch.zeros_like(mean)
    after = made.mean(0)
    made.sub_(after).addr_(how.constant - how.constant.mean(), mean)
    return after + how.constant.mean() * mean


def _percent(made: Tensor, levels: Tensor) -> Tensor:
    """Divide by the mean of each series after cleaning, or before it where cleaning removed the means."""
    after, before = levels
    gone = after.abs().mean() < 0.1 * before.abs().mean()
    level = (after + torch.where(gone, before, torch.zeros_like(before))).abs()
    some = level > torch.finfo(torch.float64).eps if made.dtype == torch.float64 else level > 0
    return made.mul_(torch.where(some | level.isnan(), 100 / level, torch.zeros_like(level)))
