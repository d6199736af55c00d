"""The network of a stream: by whole windows, or by new samples where it carries a state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tectum.nn.check import carries
from tectum.nn.ring import Ring


class Windows:
    """Keep samples and compute a whole window whenever one is asked for.

    Parameters
    ----------
    module : nn.Module
        (batch, channel, time) -> logits (batch, class), in evaluation mode.
    n_channels, n_times : int
        Size of a window.
    room : int
        Samples kept.
    device : torch.device
        Where the module is.
    """

    def __init__(self, module: nn.Module, n_channels: int, n_times: int, *, room: int, device: torch.device) -> None:
        self.module, self.n_times = module, n_times
        self._ring = Ring(n_channels, room, device)

    def restart(self) -> None:
        """Forget all samples."""
        self._ring.clear()

    def use(self, module: nn.Module) -> None:
        """Go on with another network on the samples kept."""
        self.module = module

    def push(self, y: Tensor) -> None:
        """Take samples (channel, time)."""
        self._ring.push(y)

    def logits(self, *, back: int = 0) -> list[float]:
        """Return the logits of the window that ends ``back`` samples ago."""
        found: list[float] = self.module(self._ring.window(self.n_times, back=back)[None])[0].tolist()
        return found


class Steps:
    """Let a network carry its state from one asked window to the next, so that only new samples are computed.

    What arrives in between waits, so that chunks of any size give the same bits.

    Parameters
    ----------
    module : nn.Module
        Has ``init_state`` and ``step``.
    n_channels, n_times : int
        Size of a window.
    device : torch.device
        Where the module is.
    """

    def __init__(self, module: nn.Module, n_channels: int, n_times: int, *, device: torch.device) -> None:
        self.module: Any = module
        self.n_times = n_times
        self._ring = Ring(n_channels, n_times, device)  # for a network that takes over
        self.restart()

    def restart(self) -> None:
        """Forget all samples."""
        self._state, self._waiting = self.module.init_state(1, self.n_times), list[Tensor]()
        self._ring.clear()

    def use(self, module: nn.Module) -> None:
        """Go on with another network, whose state is that of the samples kept."""
        self.module = module
        self._state = self.module.init_state(1, self.n_times)
        self._waiting = [self._ring.window(self._ring.filled).clone()] if self._ring.filled else []

    def push(self, y: Tensor) -> None:
        """Take samples (channel, time)."""
        self._waiting.append(y)
        self._ring.push(y)

    def logits(self, *, back: int = 0) -> list[float]:
        """Return the logits of the window that ends with the newest sample; ``back`` is 0."""
        logits, self._state = self.module.step(torch.cat(self._waiting, 1)[None], self._state)
        self._waiting.clear()
        found: list[float] = logits[0].tolist()
        return found


def running(
    module: nn.Module, n_channels: int, n_times: int, *, hop: int, room: int | None, device: torch.device
) -> Windows | Steps:
    """Return how a network runs: by steps if it carries a state and windows overlap, else by whole windows.

    ``room`` is given where windows are locked to markers, which may lie back.
    """
    if room is None and hop < n_times and carries(module) and module.init_state(1, n_times) is not None:  # type: ignore[operator]
        return Steps(module, n_channels, n_times, device=device)
    return Windows(module, n_channels, n_times, room=room or n_times, device=device)
