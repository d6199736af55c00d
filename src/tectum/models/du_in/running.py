"""Fitted networks as they run: on raw channels of one subject, and on windows that follow each other in a stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Prepared(nn.Module):
    """A fitted network for one subject that takes raw channels: selection and normalisation are inside.

    Parameters
    ----------
    body : nn.Module
        Takes the channels used, standardised.
    keep, centre, scale : Tensor, shape (channel,)
        Positions of the channels used, and the normaliser.
    n_times : int, optional
        Samples used, from the start of a window.
    clamp : float, optional
        Largest absolute value after normalisation.
    sigmoid : bool, default False
        Whether the body was trained through a sigmoid; its logarithm is the logit then.
    """

    body: Any
    keep: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(
        self, body: nn.Module, keep: Tensor, centre: Tensor, scale: Tensor, *, n_times: int | None = None,
        clamp: float | None = None, sigmoid: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.body, self.n_times, self.clamp, self.sigmoid = body, n_times, clamp, sigmoid
        for name, value in {"keep": keep, "centre": centre[:, None], "scale": scale[:, None]}.items():
            self.register_buffer(name, value)

    def standard(self, x: Tensor, *, whole: bool = False) -> Tensor:
        """Choose channels and normalise (batch, channel, time); with ``whole`` of any length."""
        x = (x.index_select(1, self.keep) - self.centre) / self.scale
        x = x if self.clamp is None else x.clamp(-self.clamp, self.clamp)
        return x if whole or self.n_times is None else x[:, :, : self.n_times]

    def reconstruct(self, x: Tensor) -> Tensor:
        """Map (batch, channel, time) to what the first stage makes of the channels used, in their units."""
        signal: Tensor = self.body(self.standard(x, whole=True)).signal
        return signal * self.scale + self.centre

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channel, time) in the units of the recording to logits (batch, class)."""
        return self._given(self.body(self.standard(x)))

    def decided(self, tokens: Tensor) -> Tensor:
        """Map the tokens of patches (batch, token, width) to logits (batch, class)."""
        return self._given(self.body.decided(self.body.encoder.mixed(tokens)))

    def _given(self, logits: Tensor) -> Tensor:
        return nn.functional.logsigmoid(logits) if self.sigmoid else logits


class Remembering(nn.Module):
    """A prepared classifier for windows that follow each other: tokens of patches it has seen are not computed again.

    Tokens depend on their own patch only. A window that continues one of the last windows by whole patches, sample by
    sample, takes over the tokens of that window; any other window is computed whole, so that gaps, jumps and skipped
    windows need no notice. With hops of half a patch two series of windows alternate. Logits are those of the
    network to rounding, as patches are computed in other groups.

    Parameters
    ----------
    network : Prepared
        Its body is a :class:`Classifier`.
    kept : int, default 10
        Windows to remember.
    """

    def __init__(self, network: Prepared, *, kept: int = 10) -> None:
        super().__init__()
        self.network, self.kept = lay_out(network), kept
        self._seen: list[tuple[Tensor, Tensor]] = []  # newest last: raw window and its tokens
        self._place, self._step = -1, 1  # where the last continuation was found, and by how many patches

    def forward(self, x: Tensor) -> Tensor:
        """Map one window (1, channel, time) to logits (1, class); other batches are not remembered."""
        if len(x) != 1:
            found: Tensor = self.network(x)
            return found
        x = x[:, :, : self.network.n_times]
        tokens = self._tokens(x)
        self._seen = [*self._seen[1 - self.kept :], (x.clone(), tokens)]
        logits: Tensor = self.network.decided(tokens)
        return logits

    def _tokens(self, x: Tensor) -> Tensor:
        """Return the tokens (1, token, width) of a window, those known among them."""
        patch, n = self.network.body.encoder.tokenizer.patch, x.shape[2]
        first = (self._place, self._step)
        places = [(-1 - k, step) for step in range(1, 4) for k in range(len(self._seen))]
        for place, step in [first, *places]:
            size = step * patch
            if -place > len(self._seen) or size >= n:
                continue
            known, tokens = self._seen[place]
            if known.shape == x.shape and torch.equal(known[..., size:], x[..., : n - size]):
                self._place, self._step = place, step
                return torch.cat((tokens[:, step:], self._new(x[..., n - size :])), 1)
        return self._new(x)

    def _new(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.network.body.encoder.tokens(self.network.standard(x, whole=True))
        return tokens


def lay_out(network: Any) -> Any:
    """Keep the weights of linear layers in memory column by column, as a product with few rows reads them."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = layer.weight.data.t().contiguous().t()
    return network
