"""Convolutions that turn patches of a signal into tokens, and tokens back into a signal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


def transposed_padding(kernel: int, stride: int) -> tuple[int, int]:
    """Return padding and output padding with which a transposed convolution lengthens its input ``stride`` times.

    Examples
    --------
    >>> transposed_padding(19, 10), transposed_padding(3, 1), transposed_padding(10, 10)
    ((5, 1), (1, 0), (0, 0))
    """
    padding = (kernel - stride + 1) // 2
    return padding, 2 * padding - (kernel - stride)


class PatchEncoder(nn.Module):
    """Cut a signal into patches and turn each, by itself, into one token by three convolutions.

    The first has kernel 2 ``stride`` - 1, the others 3; each is followed by batch normalisation. Patches are padded
    with zeros and never see each other.

    Parameters
    ----------
    n_sources : int
        Sources (columns) of the signal.
    n_filters : int
        Filters of the first two convolutions.
    n_out : int
        Filters of the last.
    patch, stride : int
        Samples of a patch and of one step; the token has ``patch / stride * n_out`` numbers, filters innermost.
    activation : {None, "gelu", "relu"}, default None
        After the first two convolutions.

    Examples
    --------
    >>> PatchEncoder(4, 8, 2, patch=20, stride=5)(torch.zeros(3, 60, 4)).shape
    torch.Size([3, 3, 8])
    """

    def __init__(
        self, n_sources: int, n_filters: int, n_out: int, *, patch: int, stride: int, activation: str | None = None
    ) -> None:
        super().__init__()
        self.patch = patch
        act = nn.Identity if activation is None else ACTIVATIONS[activation]
        self.layers = nn.Sequential(
            nn.Conv1d(n_sources, n_filters, 2 * stride - 1, stride=stride, padding=stride - 1),
            nn.BatchNorm1d(n_filters), act(),
            nn.Conv1d(n_filters, n_filters, 3, padding=1), nn.BatchNorm1d(n_filters), act(),
            nn.Conv1d(n_filters, n_out, 3, padding=1), nn.BatchNorm1d(n_out),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, time, source) to tokens (batch, time / patch, width)."""
        n_tokens = x.shape[1] // self.patch
        patches = x.reshape(-1, self.patch, x.shape[2]).transpose(1, 2)  # (batch * token, source, patch)
        steps: Tensor = self.layers(patches)  # (batch * token, feature, step)
        found: Tensor = steps.transpose(1, 2).flatten(1).unflatten(0, (-1, n_tokens))
        return found


class PatchDecoder(nn.Module):
    """Turn tokens back into a signal by five transposed convolutions along the tokens and a linear layer.

    Parameters
    ----------
    width : int
        Numbers in a token.
    n_filters : int
        Filters in between.
    n_sources : int
        Sources of the signal.
    patch, stride : int
        As in :class:`PatchEncoder`.

    Examples
    --------
    >>> PatchDecoder(8, 6, 4, patch=20, stride=5)(torch.zeros(3, 2, 8)).shape
    torch.Size([3, 40, 4])
    """

    def __init__(self, width: int, n_filters: int, n_sources: int, *, patch: int, stride: int) -> None:
        super().__init__()
        steps = patch // stride
        shapes = [(width, n_filters, 3, 1), (n_filters, n_filters, 3, 1), (n_filters, n_filters, steps, steps),
                  (n_filters, n_filters, 9, 1), (n_filters, n_sources, 2 * stride - 1, stride)]  # fmt: skip
        layers = []
        for n_in, n_out, kernel, step in shapes:
            padding, extra = transposed_padding(kernel, step)
            layers.append(nn.ConvTranspose1d(n_in, n_out, kernel, step, padding, extra))
        self.layers = nn.Sequential(*layers)
        self.mix = nn.Linear(n_sources, n_sources)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (batch, token, width) to a signal (batch, token * patch, source)."""
        found: Tensor = self.mix(self.layers(tokens.transpose(1, 2)).transpose(1, 2))
        return found


def valid_lengths(n_times: int, patch: int) -> tuple[int, int]:
    """Return the two lengths nearest to ``n_times`` that are whole numbers of patches, at least one.

    Examples
    --------
    >>> valid_lengths(250, 100), valid_lengths(30, 100)
    ((200, 300), (100, 200))
    """
    below = max(1, n_times // patch) * patch
    return below, below + patch


def shifted(x: Tensor, shift: Tensor) -> Tensor:
    """Move every trial by its own number of samples; what enters is zero.

    Parameters
    ----------
    x : Tensor, shape (batch, channel, time)
        Signals.
    shift : Tensor, shape (batch,), int64
        Samples, positive to later times.

    Returns
    -------
    Tensor, shape (batch, channel, time)

    Examples
    --------
    >>> shifted(torch.arange(1.0, 5).repeat(2, 1, 1), torch.tensor([1, -2]))[:, 0].tolist()
    [[0.0, 1.0, 2.0, 3.0], [3.0, 4.0, 0.0, 0.0]]
    """
    n_times = x.shape[-1]
    source = torch.arange(n_times, device=x.device) - shift[:, None]  # (batch, time)
    inside = (source >= 0) & (source < n_times)
    moved = x.gather(-1, source.clamp(0, n_times - 1)[:, None].expand_as(x))
    return moved * inside[:, None]
