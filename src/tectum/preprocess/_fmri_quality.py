"""Measures of the quality of a run as functions of tensors (time, series)."""

from __future__ import annotations

import torch
from torch import Tensor

from tectum.core.device import highest_precision

_QUARTILES = 1.349  # distance of the quartiles of a normal distribution, in standard deviations


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
    found = x.diff(dim=0).square().mean(1).sqrt()
    return torch.cat([found.new_zeros(1), found])


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
    ends = torch.quantile(x, torch.tensor([0.25, 0.75], dtype=x.dtype, device=x.device), dim=0, interpolation="lower")
    spread = (ends[1] - ends[0]) / _QUARTILES
    varies = spread > 0
    centred = (x - x.mean(0))[:, varies]
    lag = (centred[1:] * centred[:-1]).sum(0) / centred.square().sum(0)
    expected = (2 * (1 - lag)).sqrt() * spread[varies]
    found = change(x[:, varies]) / expected.mean()
    return torch.where(torch.arange(len(found), device=x.device) > 0, found, torch.zeros_like(found))


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
    precise = highest_precision(x.device)
    line = torch.linspace(-1, 1, len(x), dtype=precise, device=x.device)[:, None]
    line = line / torch.linalg.vector_norm(line)
    centred = x - x.mean(0)
    centred = centred - (line @ (line.T @ centred.to(precise))).to(x.dtype)
    spread = centred.std(0)
    varies = (spread > 1e-6 * x.abs().amax(0)).nonzero().flatten()
    scaled = centred[:, varies] / spread[varies]
    together = scaled.mean(1)
    order = torch.argsort(together @ scaled, descending=True, stable=True)
    order = order[:: max(1, -(-len(order) // rows))]
    return scaled[:, order].T, varies[order]


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
