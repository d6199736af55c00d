"""The normaliser of a decoder: learnt on training trials only, and a part of the network ever after."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.device import highest_precision

CHUNK = 256  #: trials whose sums are taken at once


class Standardise(nn.Module):
    """Subtract a centre from every channel and divide by a scale; both are saved with the network.

    Parameters
    ----------
    n_channels : int
        Channels.
    clamp : float, optional
        Largest absolute value afterwards.

    Examples
    --------
    >>> standard = Standardise(2)
    >>> standard.set(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0]))
    >>> standard(torch.ones(1, 2, 3))[0, :, 0].tolist()
    [0.0, -1.0]
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, n_channels: int, *, clamp: float | None = None) -> None:
        super().__init__()
        self.clamp = clamp
        self.register_buffer("centre", torch.zeros(n_channels, 1))
        self.register_buffer("scale", torch.ones(n_channels, 1))

    def set(self, centre: Tensor, scale: Tensor) -> None:
        """Store what was learnt, each of shape (channel,)."""
        self.centre.copy_(centre[:, None])
        self.scale.copy_(scale[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, channel, time)."""
        y = (x - self.centre) / self.scale
        return y if self.clamp is None else y.clamp(-self.clamp, self.clamp)


def learn_standard(x: Tensor, rows: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Learn centre and scale of every channel from some of the trials.

    Parameters
    ----------
    x : Tensor, shape (trial, channel, time)
        Trials.
    rows : Tensor, shape (n_train,), int64
        The trials to learn from.
    kind : {"channel", "global", "robust", "none"}
        Mean and standard deviation of each channel, or of all; median and interquartile range of each; 0 and 1.

    Returns
    -------
    centre, scale : Tensor, shape (channel,)
        In the highest precision of the device; a scale of zero becomes one.

    Examples
    --------
    >>> x = torch.tensor([[[0.0, 2.0]], [[100.0, 200.0]]])
    >>> [v.tolist() for v in learn_standard(x, torch.tensor([0]), "channel")]
    [[1.0], [1.0]]
    """
    dtype = highest_precision(x.device)
    if kind == "none":
        zero = x.new_zeros(x.shape[1], dtype=dtype)
        return zero, zero + 1
    centre, scale = _quartiles(x[rows], dtype) if kind == "robust" else _moments(x, rows, dtype)
    if kind == "global":
        mean = centre.mean()
        scale = (scale.square() + (centre - mean).square()).mean().sqrt().expand_as(centre)
        centre = mean.expand_as(centre)
    return centre, torch.where(scale > 0, scale, torch.ones_like(scale))


def _moments(x: Tensor, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, (channel,), in two passes."""
    parts, count = rows.split(CHUNK), len(rows) * x.shape[2]
    mean = torch.stack([x[part].to(dtype).sum((0, 2)) for part in parts]).sum(0) / count
    squares = [(x[part].to(dtype) - mean[:, None]).square().sum((0, 2)) for part in parts]
    return mean, (torch.stack(squares).sum(0) / count).sqrt()


def _quartiles(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return median and interquartile range of each channel, (channel,), the quantiles interpolated linearly."""
    ordered = x.movedim(1, 0).flatten(1).sort(dim=1).values.to(dtype)  # (channel, trial * time)
    last = ordered.shape[1] - 1

    def at(q: float) -> Tensor:
        place = q * last
        low = int(place)
        share = place - low
        return ordered[:, low] * (1 - share) + ordered[:, min(low + 1, last)] * share

    return at(0.5), at(0.75) - at(0.25)
