"""Kalman filter and Rauch-Tung-Striebel smoother, sequential or by a parallel scan over time.

The model is that of :mod:`tectum.stats.gaussian`, one transition a bin; evidence comes in information form, so that
missing bins (zero precision) and bins of low rank need no special case. Where only the smoothed path or draws of it are
wanted, :func:`tectum.stats.gaussian.smooth` and :func:`~tectum.stats.gaussian.sample_paths` are faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tectum.core.errors import InputError, NonFiniteError, explain

from .block_tridiagonal import Method
from .gaussian import Dynamics, Evidence

__all__ = ["Filtered", "RTSSmoothed", "associative_scan", "kalman_filter", "rts_smoother"]

_REACH = 1e12


class Filtered(NamedTuple):
    """Moments of h_t given the bins up to t, and before bin t was seen."""

    mean: Tensor
    """(..., time, q)."""
    covariance: Tensor
    """(..., time, q, q)."""
    predicted_mean: Tensor
    """(..., time, q)."""
    predicted_covariance: Tensor
    """(..., time, q, q)."""
    log_evidence: Tensor
    """(..., time) log of the integral of predicted density times exp(v'h - h'Jh/2); the sum is the log marginal."""


class RTSSmoothed(NamedTuple):
    """Moments of h_t given all bins."""

    mean: Tensor
    """(..., time, q)."""
    covariance: Tensor
    """(..., time, q, q)."""
    cross_covariance: Tensor
    """(..., time - 1, q, q), covariance of h_t with h_{t+1}."""


def kalman_filter(dynamics: Dynamics, evidence: Evidence, *, method: Method = "auto") -> Filtered:
    """Filter a path.

    Parameters
    ----------
    dynamics : Dynamics
        One transition a bin; the transition matrix of the first bin is not used.
    evidence : Evidence
        (..., time, q, q) precision and (..., time, q) information of the bins.
    method : {"auto", "sequential", "parallel"}
        A loop over bins, or an associative scan of log2(time) depth; results agree to rounding.

    Returns
    -------
    Filtered
        Filtered and predicted moments and the log evidence of every bin.

    Raises
    ------
    InputError
        Unknown method.
    NonFiniteError
        Predicted variance times evidence exceeds 1e12, so that the covariance form has lost its digits: an explosive
        transition over a long gap, or a non-finite value. Smoothing and sampling in precision form still work there.

    References
    ----------
    .. [1] Särkkä, García-Fernández, "Temporal parallelization of Bayesian smoothers", IEEE TAC 2021, section IV.

    Examples
    --------
    >>> one = torch.ones(1, 1, 1)
    >>> found = kalman_filter(Dynamics(one, torch.zeros(1, 1), one), Evidence(one, torch.ones(1, 1)))
    >>> found.mean, found.covariance
    (tensor([[0.5000]]), tensor([[[0.5000]]]))
    """
    if method not in ("auto", "sequential", "parallel"):
        raise InputError(explain("kalman_filter", expected="auto, sequential or parallel", got=f"method={method!r}"))
    dynamics, evidence = _broadcast(dynamics, evidence)
    long = dynamics.offset.shape[-2] >= 100 and dynamics.offset[..., 0, 0].numel() <= 64
    if method == "auto":
        method = "parallel" if long or dynamics.offset.device.type != "cpu" else "sequential"
    mean, covariance = (_filter_loop if method == "sequential" else _filter_scan)(dynamics, evidence)
    before_mean = torch.nn.functional.pad(mean[..., :-1, :], (0, 0, 1, 0)).unsqueeze(-1)
    before_covariance = torch.nn.functional.pad(covariance[..., :-1, :, :], (0, 0, 0, 0, 1, 0))
    predicted_mean = (dynamics.transition @ before_mean).squeeze(-1) + dynamics.offset
    predicted = dynamics.transition @ before_covariance @ dynamics.transition.mT + dynamics.covariance
    _check_reach(predicted, evidence.precision)
    log_evidence = _update(predicted_mean.unsqueeze(-1), predicted, evidence)[2]
    return Filtered(mean, covariance, predicted_mean, predicted, log_evidence)


def _check_reach(predicted: Tensor, precision: Tensor) -> None:
    """Refuse results whose relative error, about epsilon times variance times evidence, is not small."""
    variance = predicted.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    reach = (variance * precision.diagonal(dim1=-2, dim2=-1).sum(dim=-1)).max()
    if not bool(reach <= _REACH):
        raise NonFiniteError(
            explain(
                "kalman_filter",
                expected=f"predicted variance times evidence <= {_REACH:g}",
                got=f"{float(reach):.3g}",
                fix="use gaussian.smooth or gaussian.sample_paths, which factorise precisions",
            )
        )


def _broadcast(dynamics: Dynamics, evidence: Evidence) -> tuple[Dynamics, Evidence]:
    """Give all tensors the same leading axes, and the first bin a transition of zero."""
    transition, covariance, precision = torch.broadcast_tensors(
        dynamics.transition, dynamics.covariance, evidence.precision
    )
    vector = transition.shape[:-1]
    transition = torch.cat([torch.zeros_like(transition[..., :1, :, :]), transition[..., 1:, :, :]], dim=-3)
    return (
        Dynamics(transition, dynamics.offset.expand(vector), covariance),
        Evidence(precision, evidence.information.expand(vector)),
    )


def _update(mean: Tensor, covariance: Tensor, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
    """Condition (..., q, 1) means and (..., q, q) covariances on evidence; no inverse of the prior is formed."""
    precision, information = evidence.precision, evidence.information.unsqueeze(-1)
    root = torch.linalg.cholesky_ex(covariance).L
    eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
    inner = torch.linalg.cholesky_ex(eye + root.mT @ precision @ root).L
    square_root = torch.linalg.solve_triangular(inner, root.mT, upper=False).mT  # posterior covariance = R R'
    residual = information - precision @ mean
    white = square_root.mT @ residual
    log_det = inner.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    quadratic = (mean * (information + residual) + white.square()).sum(dim=(-2, -1))
    return mean + square_root @ white, square_root @ square_root.mT, 0.5 * quadratic - log_det


def _filter_loop(dynamics: Dynamics, evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Predict and update, bin after bin."""
    mean = torch.zeros_like(dynamics.offset[..., 0, :]).unsqueeze(-1)
    covariance = torch.zeros_like(dynamics.covariance[..., 0, :, :])
    means, covariances = [], []
    steps = zip(*(x.unbind(-3) for x in (dynamics.transition, dynamics.covariance, evidence.precision)),
                *(x.unbind(-2) for x in (dynamics.offset, evidence.information)), strict=True)  # fmt: skip
    for transition, noise, precision, offset, information in steps:
        mean = transition @ mean + offset.unsqueeze(-1)
        covariance = transition @ covariance @ transition.mT + noise
        mean, covariance, _ = _update(mean, covariance, Evidence(precision, information))
        means.append(mean.squeeze(-1))
        covariances.append(covariance)
    return torch.stack(means, dim=-2), torch.stack(covariances, dim=-3)


class _Element(NamedTuple):
    """Step of the scan: h_t given h_s is N(A h_s + b, C), the bins between carry the evidence (J, eta) about h_s."""

    transition: Tensor  # (time, ..., q, q) A
    mean: Tensor  # (time, ..., q, 1) b
    covariance: Tensor  # C
    information: Tensor  # (time, ..., q, 1) eta
    precision: Tensor  # J


def _filter_scan(dynamics: Dynamics, evidence: Evidence) -> tuple[Tensor, Tensor]:
    """Combine all steps by an associative scan."""
    offset = dynamics.offset.unsqueeze(-1)
    # condition every step on its own bin, for a previous path value that is still free
    mean, covariance, _ = _update(offset, dynamics.covariance, evidence)
    gain = torch.eye(offset.shape[-2], dtype=offset.dtype, device=offset.device) - covariance @ evidence.precision
    residual = evidence.information.unsqueeze(-1) - evidence.precision @ mean
    element = _Element(
        gain @ dynamics.transition,
        mean,
        covariance,
        dynamics.transition.mT @ residual,
        dynamics.transition.mT @ evidence.precision @ gain @ dynamics.transition,
    )
    scanned = associative_scan(_combine, _Element(*(x.movedim(-3, 0) for x in element)))
    return scanned.mean.squeeze(-1).movedim(0, -2), scanned.covariance.movedim(0, -3)


def _combine(earlier: _Element, later: _Element) -> _Element:
    """Chain two steps."""
    q = earlier.mean.shape[-2]
    eye = torch.eye(q, dtype=earlier.mean.dtype, device=earlier.mean.device)
    # (I + C J)^-1 applied to [A, b + C eta, C]
    matrix = eye + earlier.covariance @ later.precision
    right = [earlier.transition, earlier.mean + earlier.covariance @ later.information, earlier.covariance]
    solved = torch.linalg.solve_ex(matrix, torch.cat(right, dim=-1)).result
    chained = later.transition @ solved
    covariance = chained[..., q + 1 :] @ later.transition.mT + later.covariance
    # A' (I + J C)^-1 [eta - J b, J A]
    back = solved[..., :q].mT
    precision = back @ later.precision @ earlier.transition + earlier.precision
    information = back @ (later.information - later.precision @ earlier.mean) + earlier.information
    return _Element(
        chained[..., :q],
        chained[..., q : q + 1] + later.mean,
        0.5 * (covariance + covariance.mT),
        information,
        0.5 * (precision + precision.mT),
    )


def associative_scan(combine: Callable[[_Element, _Element], _Element], elements: _Element) -> _Element:
    """Inclusive prefix combination over the leading axis of a NamedTuple of tensors, in log2(n) rounds of 2 n work.

    Parameters
    ----------
    combine : callable
        Associative; takes the earlier and the later elements, batched over the leading axis.
    elements : NamedTuple of Tensor
        All of leading size n.

    Returns
    -------
    NamedTuple of Tensor
        Entry i combines elements 0 to i.

    Examples
    --------
    >>> class One(NamedTuple):
    ...     x: Tensor
    >>> associative_scan(lambda a, b: One(a.x + b.x), One(torch.arange(6))).x
    tensor([ 0,  1,  3,  6, 10, 15])
    """
    make = type(elements)
    n = elements[0].shape[0]
    if n == 1:
        return elements
    pairs = combine(make(*(x[0 : n - 1 : 2] for x in elements)), make(*(x[1::2] for x in elements)))
    odd = associative_scan(combine, pairs)
    if n == 2:
        return make(*(torch.cat([x[:1], y]) for x, y in zip(elements, odd, strict=True)))
    even = combine(make(*(x[: (n - 1) // 2] for x in odd)), make(*(x[2::2] for x in elements)))
    return make(*(_zip(x[:1], y, z) for x, y, z in zip(elements, even, odd, strict=True)))


def _zip(first: Tensor, even: Tensor, odd: Tensor) -> Tensor:
    """Interleave [first, even] with odd along the leading axis."""
    out = even.new_empty((1 + even.shape[0] + odd.shape[0], *even.shape[1:]))
    out[0:1], out[2::2], out[1::2] = first, even, odd
    return out


def rts_smoother(dynamics: Dynamics, filtered: Filtered) -> RTSSmoothed:
    """Smooth backwards from the filtered moments, in Joseph form.

    Parameters
    ----------
    dynamics : Dynamics
        The transitions that were filtered.
    filtered : Filtered
        From :func:`kalman_filter`.

    Returns
    -------
    RTSSmoothed
        Means, covariances, lag-one covariances.

    Examples
    --------
    >>> eye = torch.eye(1).expand(3, 1, 1)
    >>> model = Dynamics(eye, torch.zeros(3, 1), eye)
    >>> rts_smoother(model, kalman_filter(model, Evidence(0 * eye, torch.zeros(3, 1)))).covariance.flatten()
    tensor([1., 2., 3.])
    """
    later = dynamics.transition[..., 1:, :, :]
    noise = dynamics.covariance[..., 1:, :, :]
    here = filtered.covariance[..., :-1, :, :]
    predicted = torch.linalg.cholesky_ex(filtered.predicted_covariance[..., 1:, :, :]).L
    gains = torch.cholesky_solve(later @ here, predicted).mT
    keep = torch.eye(gains.shape[-1], dtype=gains.dtype, device=gains.device) - gains @ later
    local = keep @ here @ keep.mT + gains @ noise @ gains.mT  # covariance of h_t given h_{t+1}
    constant = filtered.mean[..., :-1, :] - (gains @ filtered.predicted_mean[..., 1:, :].unsqueeze(-1)).squeeze(-1)
    mean, covariance = filtered.mean[..., -1, :], filtered.covariance[..., -1, :, :]
    means, covariances, crosses = [mean], [covariance], []
    for t in range(gains.shape[-3] - 1, -1, -1):
        gain = gains[..., t, :, :]
        shared = gain @ covariance
        mean = constant[..., t, :] + (gain @ mean.unsqueeze(-1)).squeeze(-1)
        covariance = local[..., t, :, :] + shared @ gain.mT
        means.append(mean)
        covariances.append(covariance)
        crosses.append(shared)
    cross = torch.stack(crosses[::-1], dim=-3) if crosses else gains
    return RTSSmoothed(torch.stack(means[::-1], dim=-2), torch.stack(covariances[::-1], dim=-3), cross)
