"""Regressors of the switching GLM: filters over past bins and the design tensor made from lagged counts."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.errors import InputError, explain


class Weights(NamedTuple):
    """Regression weights by meaning; see `split_weights`."""

    bias: Tensor
    """(..., unit)."""
    coupling: Tensor
    """(..., target unit, source unit, filter)."""
    covariates: Tensor
    """(..., unit, covariate)."""


def exponential_filter(n_lags: int, *, decay: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return one filter exp(-decay k) over the lags k = 1..n_lags, summing to 1.

    Parameters
    ----------
    n_lags : int
        Number of past bins, at least 1.
    decay : float
        Per bin; 1 is the published filter.
    dtype : torch.dtype
        Floating type of the result.

    Returns
    -------
    Tensor
        (lag, 1) on the CPU.

    Examples
    --------
    >>> exponential_filter(5)[:, 0].round(decimals=4).tolist()
    [0.6364, 0.2341, 0.0861, 0.0317, 0.0117]
    """
    if n_lags < 1:
        raise InputError(explain("exponential_filter: n_lags", expected="at least 1", got=str(n_lags)))
    return torch.softmax(-decay * torch.arange(1, n_lags + 1, dtype=dtype), 0).unsqueeze(1)


def raised_cosine_filters(
    n_lags: int, n_filters: int, *, stretch: float = 1.0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return raised cosine bumps, evenly spaced on a logarithmic time axis, each summing to 1.

    Parameters
    ----------
    n_lags : int
        Number of past bins.
    n_filters : int
        Number of bumps, 1..n_lags.
    stretch : float
        Bins; the time axis is log(lag + stretch). Small values put more bumps on short lags.
    dtype : torch.dtype
        Floating type of the result.

    Returns
    -------
    Tensor
        (lag, filter) on the CPU; the first bump peaks at lag 1 and the last one at ``n_lags``.

    References
    ----------
    Pillow et al. (2008), Nature 454, supplementary methods.

    Examples
    --------
    >>> raised_cosine_filters(10, 3).argmax(0).tolist()
    [0, 3, 9]
    """
    if not 1 <= n_filters <= n_lags or stretch <= 0:
        got = f"n_filters={n_filters}, n_lags={n_lags}, stretch={stretch}"
        raise InputError(explain("raised_cosine_filters", expected="1 <= n_filters <= n_lags, stretch > 0", got=got))
    time = torch.log(torch.arange(1, n_lags + 1, dtype=dtype) + stretch)
    span = time[-1] - time[0]
    centres = time[0] + span * torch.linspace(0, 1, n_filters, dtype=dtype) if n_filters > 1 else time[:1]
    width = span / (n_filters - 1) if n_filters > 1 else span.clamp(min=1.0)
    phase = ((time.unsqueeze(1) - centres) * math.pi / (2 * width)).clamp(-math.pi, math.pi)
    bumps = 1 + torch.cos(phase)
    return bumps / bumps.sum(0)


def filter_history(spikes: Tensor, filters: Tensor) -> Tensor:
    """Filter the past counts of every unit: bin t sees bins t-1, t-2, ... and zeros before the sequence starts.

    Parameters
    ----------
    spikes : Tensor
        (..., time, unit) counts.
    filters : Tensor
        (lag, filter) weights of bins t-1, ..., t-lag.

    Returns
    -------
    Tensor
        (..., time, unit, filter) in the dtype of ``filters``.

    Examples
    --------
    >>> counts = torch.tensor([[1.0], [0.0], [0.0], [2.0]])
    >>> filter_history(counts, torch.tensor([[0.5], [0.25]]))[:, 0, 0].tolist()
    [0.0, 0.5, 0.25, 0.0]
    """
    *batch, n_time, n_units = spikes.shape
    n_lags, n_filters = filters.shape
    series = spikes.to(filters).movedim(-2, -1).reshape(-1, 1, n_time)  # (batch * unit, 1, time)
    padded = torch.nn.functional.pad(series, (n_lags, 0))[..., :-1]
    kernel = filters.flip(0).T.unsqueeze(1)  # (filter, 1, lag)
    found = torch.nn.functional.conv1d(padded, kernel)  # (batch * unit, filter, time)
    return found.reshape((*batch, n_units, n_filters, n_time)).movedim(-1, -3)


def design_tensor(spikes: Tensor, filters: Tensor, *, covariates: Tensor | None = None) -> Tensor:
    """Stack all regressors of a bin: a one, the filtered history of every unit, and covariates.

    Parameters
    ----------
    spikes : Tensor
        (..., time, unit) counts; leading axes are sequences, whose histories never mix.
    filters : Tensor
        (lag, filter).
    covariates : Tensor, optional
        (..., time, covariate) stimulus or behaviour.

    Returns
    -------
    Tensor
        (..., time, P) with P = 1 + unit * filter + covariate, in that order (the filter runs fastest).

    Raises
    ------
    InputError
        No more bins than lags, or covariates of another length.

    Examples
    --------
    >>> design_tensor(torch.ones(8, 2), exponential_filter(3)).shape
    torch.Size([8, 3])
    """
    if spikes.ndim < 2 or spikes.shape[-2] <= len(filters):
        expected = f"(..., time > {len(filters)} lags, unit)"
        raise InputError(explain("design_tensor: spikes", expected=expected, got=str(tuple(spikes.shape))))
    history = filter_history(spikes, filters).flatten(-2)
    parts = [torch.ones_like(history[..., :1]), history]
    if covariates is not None:
        if covariates.shape[:-1] != spikes.shape[:-1]:
            expected = f"{tuple(spikes.shape[:-1])} + (covariate,)"
            raise InputError(explain("design_tensor: covariates", expected=expected, got=str(tuple(covariates.shape))))
        parts.append(covariates.to(history))
    return torch.cat(parts, dim=-1)


def split_weights(weights: Tensor, *, n_units: int, n_filters: int) -> Weights:
    """Take regression weights apart.

    Parameters
    ----------
    weights : Tensor
        (..., unit, P), in the order of `design_tensor`.
    n_units, n_filters : int
        Sizes of the coupling.

    Returns
    -------
    Weights

    Examples
    --------
    >>> split_weights(torch.zeros(3, 4, 1 + 4 * 2 + 5), n_units=4, n_filters=2).coupling.shape
    torch.Size([3, 4, 4, 2])
    """
    end = 1 + n_units * n_filters
    coupling = weights[..., 1:end].unflatten(-1, (n_units, n_filters))
    return Weights(weights[..., 0], coupling, weights[..., end:])


def join_weights(parts: Weights) -> Tensor:
    """Put regression weights together again: the inverse of `split_weights`.

    Examples
    --------
    >>> weights = torch.arange(14.0).reshape(2, 7)
    >>> torch.equal(join_weights(split_weights(weights, n_units=2, n_filters=2)), weights)
    True
    """
    return torch.cat((parts.bias.unsqueeze(-1), parts.coupling.flatten(-2), parts.covariates), dim=-1)


def tied_columns(n_units: int, n_filters: int, *, bias: bool, own: bool) -> Tensor | None:
    """Tell which weights of each unit are one for all states.

    Parameters
    ----------
    n_units, n_filters : int
        Sizes of the coupling.
    bias, own : bool
        Whether the bias is, and whether the coupling of a unit to itself is.

    Returns
    -------
    Tensor or None
        (unit, Q) int64 columns of the design on the CPU; ``None`` if there is none.

    Examples
    --------
    >>> tied_columns(2, 2, bias=True, own=True).tolist()
    [[0, 1, 2], [0, 3, 4]]
    """
    first = torch.zeros(n_units, int(bias), dtype=torch.int64, device="cpu")
    mine = 1 + torch.arange(n_units * n_filters, device="cpu").reshape(n_units, n_filters)
    found = torch.cat((first, mine[:, : n_filters if own else 0]), dim=1)
    return found if found.shape[1] else None


def coupling_columns(neuron_mask: Tensor, *, n_filters: int, n_covariates: int = 0) -> Tensor:
    """Tell which weights may differ from zero, given which couplings are allowed.

    Parameters
    ----------
    neuron_mask : Tensor
        (target unit, source unit) bool, ``False`` forbids the coupling (same electrode, anatomy).
    n_filters, n_covariates : int
        Sizes of the design tensor.

    Returns
    -------
    Tensor
        (unit, P) bool in the order of `design_tensor`; bias and covariates are always free.

    Examples
    --------
    >>> coupling_columns(torch.eye(2) == 0, n_filters=1).tolist()
    [[True, False, True], [True, True, False]]
    """
    if neuron_mask.ndim != 2 or neuron_mask.shape[0] != neuron_mask.shape[1] or neuron_mask.dtype != torch.bool:
        got = f"{neuron_mask.dtype} {tuple(neuron_mask.shape)}"
        raise InputError(explain("neuron_mask", expected="bool (unit, unit)", got=got))
    n_units = len(neuron_mask)
    allowed = neuron_mask.repeat_interleave(n_filters, dim=1)
    free = torch.ones(n_units, 1 + n_covariates, dtype=torch.bool, device=neuron_mask.device)
    return torch.cat((free[:, :1], allowed, free[:, 1:]), dim=1)
