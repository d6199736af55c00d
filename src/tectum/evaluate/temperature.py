"""Temperature: one number that makes the probabilities of a trained decoder honest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tectum.core.errors import InputError, explain

BOUNDS = (0.05, 20.0)  #: smallest and largest temperature
HALVINGS = 60


def fit_temperature(logits: Any, truth: Any) -> float:
    """Return the temperature by which logits must be divided for the smallest log loss.

    The loss is convex in the inverse temperature; its slope is followed to zero. Fit it on trials that the decoder was
    not trained on. Decisions do not change, only how sure they are.

    Parameters
    ----------
    logits : array, shape (n_trials, n_classes)
        Logits, or log probabilities.
    truth : array, shape (n_trials,), int64
        Position of the true class.

    Returns
    -------
    float
        Between 0.05 and 20: near the smaller bound if every decision is right, the larger one if most are wrong.

    References
    ----------
    Guo et al. (2017), On calibration of modern neural networks, ICML.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> logits = torch.randn(20000, 3, generator=draw, dtype=torch.float64)
    >>> truth = torch.multinomial(logits.softmax(1), 1, generator=draw)[:, 0]
    >>> round(fit_temperature(3 * logits, truth), 1)
    3.0
    """
    z = torch.as_tensor(logits).detach().double().cpu()
    y = torch.as_tensor(truth).detach().long().cpu()
    if z.ndim != 2 or y.shape != z.shape[:1] or not len(y) or not bool(torch.isfinite(z).all()):
        got = f"{tuple(z.shape)} and {tuple(y.shape)}"
        expected = "finite logits (trial, class) and classes (trial,)"
        raise InputError(explain("fit_temperature", expected=expected, got=got))
    if not bool(((y >= 0) & (y < z.shape[1])).all()):
        got = f"classes up to {int(y.max())}"
        raise InputError(explain("fit_temperature(truth)", expected=f"classes below {z.shape[1]}", got=got))
    low, high = (z.new_tensor(1 / bound) for bound in reversed(BOUNDS))  # of the inverse temperature
    for _ in range(HALVINGS):
        middle = (low * high).sqrt()
        falls = _slope(middle, z, y) < 0
        low, high = torch.where(falls, middle, low), torch.where(falls, high, middle)
    return float(1 / (low * high).sqrt())


def _slope(inverse: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """Return the derivative of the log loss by the inverse temperature."""
    expected = ((inverse * z).softmax(1) * z).sum(1)
    return (expected - z.gather(1, y[:, None])[:, 0]).mean()
