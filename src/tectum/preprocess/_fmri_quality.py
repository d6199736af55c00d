"""Measures of the quality of a run as functions of tensors (time, series)."""

from __future__ import annotations

import torch
from torch import Tensor

from tectum.core.device import highest_precision

_QUARTILES = 1.349  # distance of the quartiles of a normal distribution, in standard deviations
_BLOCK = 1 << 22  # numbers looked at together: copies stay small beside the data


def change(x: Tensor) -> Tensor:
    """Return the root mean square change of all series from volume to volume, 0 for the first.

    Parameters
    ----------
    x : Tensor, shape (time, n)
        Series.

    Returns
    -------
    Tensor, shape (time,)
    """
    total = sum((part.diff(dim=0).square().sum(1) for part in _blocks(x)), start=x.new_zeros(max(0, len(x) - 1)))
    return torch.cat([x.new_zeros(1), (total / x.shape[1]).sqrt()])


def _blocks(x: Tensor) -> tuple[Tensor, ...]:
    """Return views of some series each."""
    return torch.split(x, max(1, _BLOCK // max(1, len(x))), dim=1)


def standardised_change(x: Tensor) -> Tensor:
    """Return :func:`change` over what noise of the same spread and autocorrelation gives: near 1 where all is well.

    The spread is robust (quartiles) and the autocorrelation is that of lag one, both of every series.

    Parameters
    ----------
    x : Tensor, shape (time, n)
        Series, of which constant ones are left out.

    Returns
    -------
    Tensor, shape (time,)
        0 for the first volume; NaN if all series are constant.

    References
    ----------
    Nichols (2017). Notes on creating a standardized version of DVARS. arXiv:1704.01469.
    """
    expected = torch.cat([_expected(part) for part in _blocks(x)])
    varies = expected > 0
    found = change(x if bool(varies.all()) else x[:, varies]) / expected[varies].mean()
    return torch.where(torch.arange(len(found), device=x.device) > 0, found, torch.zeros_like(found))


def _expected(x: Tensor) -> Tensor:
    """Return the change that noise of the spread and autocorrelation of each series gives, 0 for constant ones."""
    low, high = (x.kthvalue(int(q * (len(x) - 1)) + 1, dim=0).values for q in (0.25, 0.75))
    centred = x - x.mean(0)
    size = centred.square().sum(0)
    lag = (centred[1:] * centred[:-1]).sum(0) / torch.where(size > 0, size, 1)
    return (2 * (1 - lag)).sqrt() * (high - low) / _QUARTILES


def carpet(x: Tensor, rows: int = 600) -> tuple[Tensor, Tensor]:
    """Return series without mean and line, scaled to unit spread, ordered by how they follow the global signal.

    Parameters
    ----------
    x : Tensor, shape (time, n)
        Series.
    rows : int, default 600
        Most rows; of more series an even share is taken after ordering.

    Returns
    -------
    values : Tensor, shape (row, time)
        Series that follow the global signal most come first; constant ones are left out.
    places : Tensor, shape (row,), int64
        Which series each row is.

    References
    ----------
    Power (2017), NeuroImage 154, 150; Aquino et al. (2020), NeuroImage 212, 116614 (order).
    """
    together, alive = x.new_zeros(len(x)), []
    for part in _blocks(x):
        scaled, some = _scaled(part)
        together += scaled.sum(1)
        alive.append(some)
    varies = torch.cat(alive)
    follows = torch.cat([together @ _scaled(part)[0] for part in _blocks(x)])  # again: nothing as large as x is kept
    follows = torch.where(varies, follows, -torch.inf)
    order = torch.argsort(follows, descending=True, stable=True)[: int(varies.sum())]
    order = order[:: max(1, -(-len(order) // rows))]
    return _scaled(x[:, order])[0].T, order


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return series without mean and line, of unit spread, constant ones as zeros; and which vary."""
    precise = highest_precision(x.device)
    line = torch.linspace(-1, 1, len(x), dtype=precise, device=x.device)[:, None]
    line = line / torch.linalg.vector_norm(line)
    centred = x - x.mean(0)
    centred = centred - (line @ (line.T @ centred.to(precise))).to(x.dtype)
    spread = centred.std(0)
    varies = spread > 1e-6 * x.abs().amax(0)
    return centred * torch.where(varies, 1 / spread, torch.zeros_like(spread)), varies


def correlations(columns: Tensor) -> Tensor:
    """Return the correlation of every two columns, NaN for constant ones.

    Parameters
    ----------
    columns : Tensor, shape (time, n)
        Such as confounds.

    Returns
    -------
    Tensor, shape (n, n)
    """
    centred = columns - columns.mean(0)
    size = torch.linalg.vector_norm(centred, dim=0)
    floor = torch.finfo(columns.dtype).eps * columns.abs().amax(0) * len(columns) ** 0.5
    scaled = centred / torch.where(size > floor, size, torch.nan)
    return (scaled.T @ scaled).clamp(-1, 1)
