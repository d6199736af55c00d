"""M step by gradients, for couplings that are not linear in their parameters: types, strengths, learned kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

Parameters = TypeVar("Parameters", bound=tuple[Tensor, ...])  # a NamedTuple of tensors


class Adam(NamedTuple):
    """State of the optimiser."""

    step: int
    first: Any
    """Running means of the gradients, in the form of the parameters."""
    second: Any
    """Those of their squares."""


def at_rest(parameters: Parameters) -> Adam:
    """State of the optimiser before the first step."""
    kind: Any = type(parameters)
    return Adam(0, kind(*map(torch.zeros_like, parameters)), kind(*map(torch.zeros_like, parameters)))


def ascend(
    parameters: Parameters,
    adam: Adam,
    *,
    weights_of: Callable[[Parameters], Tensor],
    score: Callable[[Tensor], Tensor],
    log_prior: Callable[[Parameters], Tensor],
    tie: Callable[[Parameters], Parameters],
    rate: float,
    n_steps: int,
) -> tuple[Parameters, Adam]:
    """Climb the expected log-likelihood plus log prior by full-batch Adam, one pass over the data a step.

    Parameters
    ----------
    parameters : NamedTuple of Tensor
        Start.
    adam : Adam
        From the last M step, or `at_rest`.
    weights_of : callable
        Regression weights (S, N, P) of the parameters; may draw noise.
    score : callable
        Gradient of the expected log-likelihood in the weights.
    log_prior : callable
        () log prior of the parameters.
    tie : callable
        Makes gradients equal where parameters are one, and zero where they are fixed.
    rate : float
        Learning rate.
    n_steps : int
        Number of steps.

    Returns
    -------
    parameters : NamedTuple of Tensor
    adam : Adam

    References
    ----------
    Kingma & Ba (2015), Adam: a method for stochastic optimization, algorithm 1 (no weight decay).
    """
    kind: Any = type(parameters)
    for _ in range(n_steps):
        leaves = kind(*(p.detach().requires_grad_() for p in parameters))
        with torch.enable_grad():
            weights = weights_of(leaves)
            surrogate = (weights * score(weights.detach()).to(weights)).sum() + log_prior(leaves)
        slopes = torch.autograd.grad(surrogate, leaves, allow_unused=True, materialize_grads=True)
        parameters, adam = _step(parameters, tie(kind(*slopes)), adam, rate)
    return parameters, adam


def _step(parameters: Parameters, slopes: Parameters, state: Adam, rate: float) -> tuple[Parameters, Adam]:
    """One step uphill."""
    kind: Any = type(parameters)
    step = state.step + 1
    first = kind(*(0.9 * m + 0.1 * g for m, g in zip(state.first, slopes, strict=True)))
    second = kind(*(0.999 * v + 0.001 * g**2 for v, g in zip(state.second, slopes, strict=True)))
    length, bias = rate / (1 - 0.9**step), 1 - 0.999**step
    moved = (p + length * m / ((v / bias).sqrt() + 1e-8) for p, m, v in zip(parameters, first, second, strict=True))
    return kind(*moved), Adam(step, first, second)


def tie_states(slope: Tensor, which: Tensor | bool) -> Tensor:
    """Sum gradients (state, ...) over the states where the parameter is one for all, so that it stays one.

    Examples
    --------
    >>> tie_states(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([True, False])).tolist()
    [[4.0, 2.0], [4.0, 4.0]]
    """
    if which is False:
        return slope
    total = slope.sum(0, keepdim=True).expand_as(slope)
    return total if which is True else torch.where(which, total, slope)


def one_self(slope: Tensor, shared: bool) -> Tensor:
    """Tie the coupling of every unit to itself: (state, target, source, ...)."""
    if not shared:
        return slope
    own = torch.eye(slope.shape[1], dtype=torch.bool).to(slope.device)
    return tie_states(slope, own.reshape(*own.shape, *[1] * (slope.ndim - 3)))
