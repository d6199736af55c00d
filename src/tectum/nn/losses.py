"""Losses of decoders and of self-supervision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def reconstruction_error(found: Tensor, wanted: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the squared error of signals, averaged over time and over the channels that exist: Tensor ().

    Parameters
    ----------
    found, wanted : Tensor, shape (batch, channel, time)
        Signals.
    mask : Tensor, shape (batch, channel), bool, optional
        False for channels that only pad.

    Examples
    --------
    >>> x, mask = torch.tensor([[[1.0, 1.0], [9.0, 9.0]]]), torch.tensor([[True, False]])
    >>> reconstruction_error(x, torch.zeros(1, 2, 2), mask).item()
    1.0
    """
    error = (found - wanted).square().mean(-1)  # (batch, channel)
    if mask is None:
        return error.mean()
    weight = mask.to(error.dtype)
    return (error * weight).sum() / weight.sum()


def token_cross_entropy(logits: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy, nats, of logits (batch, token, code) against codes (batch, token): Tensor ().

    Tokens where ``mask`` (batch, token) is False do not count.
    """
    each = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").reshape(codes.shape)
    if mask is None:
        return each.mean()
    weight = mask.to(each.dtype)
    return (each * weight).sum() / weight.sum()


def sigmoid_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Return softmax cross-entropy of the *sigmoids* of logits, as the published Du-IN code trains: Tensor ().

    It cannot fall below ln(1 + (K - 1) / e) for K classes; for comparison only.

    Examples
    --------
    >>> round(sigmoid_cross_entropy(torch.tensor([[1e4] + [-1e4] * 60]), torch.tensor([0])).item(), 2)
    3.14
    """
    return F.cross_entropy(logits.sigmoid(), classes)


def normalised_sigmoid_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Return -log of the sigmoids divided by their sum, the cross-entropy that the Du-IN paper reports: Tensor ()."""
    share = F.normalize(logits.sigmoid(), p=1.0, dim=-1)
    return -share.gather(1, classes[:, None]).clamp(min=torch.finfo(share.dtype).tiny).log().mean()
