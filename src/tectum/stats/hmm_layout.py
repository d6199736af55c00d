"""The layout in which hidden Markov models are computed, and the checks at its door.

States come first, then time, then lanes: the flattened batch. Every operation is then a long vector operation over
time or lanes, however few the states.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.device import highest_precision
from ..core.errors import InputError, explain


class Chain(NamedTuple):
    """The problem in the layout of the scan: states first, time, lanes (the flattened batch) last."""

    initial: Tensor  # (K, lanes)
    transition: Tensor  # (K, K, 1 or T, 1 or lanes), entry t leads into bin t
    emission: Tensor  # (K, T, lanes), largest entry of a bin is 0
    offset: Tensor  # (T, lanes), what was subtracted
    valid: Tensor | None  # (T, lanes) bool, bin lies within its sequence
    batch: tuple[int, ...]


def make_chain(
    where: str,
    initial: Tensor,
    transition: Tensor,
    emission: Tensor,
    time_varying: bool,
    mask: Tensor | None,
    lengths: Tensor | None,
) -> Chain:
    """Check the problem and lay it out with states first and the flattened batch last."""
    _check(where, initial, transition, emission, time_varying)
    dtype = highest_precision(emission.device)
    *batch, n_time, n_states = emission.shape
    shape, lanes = tuple(batch), math.prod(batch)
    emission = emission.to(dtype)
    if mask is not None:
        emission = emission.where(_spread(where, "mask", mask, (*shape, n_time)).bool().unsqueeze(-1), 0.0)
    valid = None
    if lengths is not None:
        lengths = _spread(where, "lengths", lengths.to(emission.device), shape).reshape(lanes)
        valid = torch.arange(n_time, device=emission.device).unsqueeze(1) < lengths
        emission = emission.where(valid.T.reshape(*shape, n_time, 1), 0.0)
    peak = emission.amax(-1, keepdim=True)
    peak = peak.where(peak > -torch.inf, 0.0)
    series = (emission - peak).reshape(lanes, n_time, n_states).permute(2, 1, 0).contiguous()
    offset = peak.reshape(lanes, n_time).T
    start = _spread(where, "log_initial", initial.to(dtype), (*shape, n_states)).reshape(lanes, n_states).T
    return Chain(start, _steps(where, transition.to(dtype), shape, time_varying), series, offset, valid, shape)


def _steps(where: str, transition: Tensor, batch: tuple[int, ...], time_varying: bool) -> Tensor:
    """Transitions as (K, K, 1 or T, 1 or lanes); the entry of the first bin is not used."""
    own = 3 if time_varying else 2
    inner = transition.shape[-own:]
    if math.prod(transition.shape[:-own]) == 1:
        moved = transition.reshape(1, *inner)
    else:
        moved = _spread(where, "log_transition", transition, (*batch, *inner)).reshape(math.prod(batch), *inner)
    if not time_varying:
        return moved.permute(1, 2, 0).unsqueeze(2)
    moved = torch.cat((moved[:, :1], moved), dim=1) if moved.shape[1] else moved.new_zeros(len(moved), 1, *inner[1:])
    return moved.permute(2, 3, 1, 0)


def _spread(where: str, name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return value.expand(shape)
    except RuntimeError as cause:
        message = explain(
            f"{where}: {name}", expected=f"a shape that broadcasts to {shape}", got=str(tuple(value.shape))
        )
        raise InputError(message) from cause


def _check(where: str, initial: Tensor, transition: Tensor, emission: Tensor, time_varying: bool) -> None:
    """Reject shapes that cannot be a hidden Markov model."""
    if emission.ndim < 2 or emission.shape[-2] < 1 or not emission.is_floating_point():
        got = f"{emission.dtype} {tuple(emission.shape)}"
        raise InputError(explain(f"{where}: log_emission", expected="floats of shape (..., T >= 1, K)", got=got))
    n_time, n_states = emission.shape[-2:]
    own = (n_time - 1, n_states, n_states) if time_varying else (n_states, n_states)
    if tuple(transition.shape[-len(own) :]) != own:
        fix = "pass time_varying=True" if not time_varying and transition.ndim > 2 else ""
        expected = f"shape (..., {', '.join(map(str, own))})"
        raise InputError(
            explain(f"{where}: log_transition", expected=expected, got=str(tuple(transition.shape)), fix=fix)
        )
    if initial.shape[-1:] != (n_states,):
        expected = f"shape (..., {n_states})"
        raise InputError(explain(f"{where}: log_initial", expected=expected, got=str(tuple(initial.shape))))


def blank(series: Tensor, chain: Chain, value: float) -> Tensor:
    """Put ``value`` where a (..., T, lanes) series lies beyond its sequence's length."""
    return series if chain.valid is None else series.masked_fill(~chain.valid, value)


def restore(values: Tensor, chain: Chain, *, timed: bool = True) -> Tensor:
    """Bring the batch, then time, to the front and the states to the back: (K..., T, lanes) -> (*batch, T, K...)."""
    moved = values.movedim((-1, -2), (0, 1)) if timed else values.movedim(-1, 0)
    return moved.reshape((*chain.batch, *moved.shape[1:]))
