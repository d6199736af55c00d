"""A ring buffer whose newest window is always one contiguous stretch of memory."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import InputError, explain


class Ring:
    """The newest samples of every channel; each sample is written twice, so that a window is a view.

    Parameters
    ----------
    n_channels, size : int
        Channels, and samples kept.
    device : torch.device
        Where they lie, in float32.

    Examples
    --------
    >>> ring = Ring(1, 3, torch.device("cpu"))
    >>> ring.push(torch.arange(5.0)[None])
    >>> ring.window(2).tolist()
    [[3.0, 4.0]]
    """

    def __init__(self, n_channels: int, size: int, device: torch.device) -> None:
        self.size, self.filled, self._next = size, 0, 0
        self._data = torch.zeros(n_channels, 2 * size, dtype=torch.float32, device=device)

    def clear(self) -> None:
        """Forget all samples."""
        self.filled = self._next = 0

    def push(self, x: Tensor) -> None:
        """Append samples (channel, time); of more than fit, the newest stay."""
        x = x[:, -self.size :]
        n, start = x.shape[1], self._next
        head = min(n, self.size - start)
        for part, first in ((x[:, :head], start), (x[:, head:], 0)) if head < n else ((x, start),):
            stop = first + part.shape[1]
            self._data[:, first:stop] = part
            self._data[:, self.size + first : self.size + stop] = part
        self._next = (start + n) % self.size
        self.filled = min(self.size, self.filled + n)

    def window(self, n: int, *, back: int = 0) -> Tensor:
        """Return ``n`` samples (channel, time) before the ``back`` newest, as a view valid until the next push."""
        if not 0 < n <= self.filled - back:
            expected = f"a window of 1 to {self.filled} samples, of {self.size} that the buffer holds"
            raise InputError(explain("Ring.window", expected=expected, got=str(n)))
        stop = self._next + self.size - back
        return self._data[:, stop - n : stop]
