"""Small decoders without training, for tests of streams and of what leaves the toolkit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tectum.core.contract import Contract
from tectum.core.recording import Recording
from tectum.core.result import Provenance
from tectum.preprocess.causal import Causal, apply_causal

NAMES = ("Fz", "C3", "C4", "Pz", "O1", "O2", "T7", "T8")


class Mixed(nn.Module):
    """Scale, convolve, squash, weigh by time, average: depends on every sample of the window and on its order."""

    scale: Tensor

    def __init__(self, n_channels: int, n_classes: int, scale: float) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(7)
        self.register_buffer("scale", torch.tensor(scale))
        self.conv = nn.Conv1d(n_channels, 6, 9)
        self.head = nn.Linear(6, n_classes)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))

    def forward(self, x: Tensor) -> Tensor:
        late = torch.linspace(0.5, 1.5, x.shape[-1] - 8, device=x.device)
        logits: Tensor = self.head((self.conv(x / self.scale).tanh() * late).mean(-1).mul(4))
        return logits


class Tone(nn.Module):
    """Two classes: whether the channels hold more power at one frequency than around it."""

    waves: Tensor

    def __init__(self, n_times: int, rate: float, frequency: float, bias: float) -> None:
        super().__init__()
        t = torch.arange(n_times) / rate
        taper = torch.hann_window(n_times, periodic=False)
        near = [frequency + d for d in (0.0, -12.0, 12.0)]
        waves = [f(2 * math.pi * hz * t) * taper for hz in near for f in (torch.cos, torch.sin)]
        self.register_buffer("waves", torch.stack(waves, 1))
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        power = (x @ self.waves).square().reshape(*x.shape[:2], 3, 2).sum((1, 3))  # (batch, frequency)
        score = (power[:, 0] / (power[:, 1] + power[:, 2])).log() - self.bias
        return torch.stack([-score, score], 1)


@dataclass
class Outcome:
    """The part of a result that streams and exports read."""

    labels: tuple[str, ...]
    provenance: Provenance | None = None


@dataclass
class Standin:
    """What a fitted decoder looks like from outside."""

    module: nn.Module
    contract_: Contract
    result_: Outcome
    causal_: Causal | None = None
    normalise: str = "none"
    extra: dict[str, Any] = field(default_factory=dict)

    def forward_module(self) -> nn.Module:
        return self.module.eval()


def recording(n_time: int, *, rate: float = 250.0, seed: int = 0, n_channels: int = 8) -> Recording:
    """Random walks and sinusoids on named channels, in uV."""
    draw = torch.Generator().manual_seed(seed)
    t = torch.arange(n_time) / rate
    walk = torch.randn(n_channels, n_time, generator=draw).cumsum(1)
    tones = torch.stack([torch.sin(2 * math.pi * (3 + 2 * k) * t) for k in range(n_channels)])
    coords = {"channel": {"name": np.asarray(NAMES[:n_channels])}}
    return Recording(data=walk + 20 * tones, dims=("channel", "time"), rate=rate, units="uV", coords=coords)


def standin(
    rec: Recording,
    *,
    window: float = 0.4,
    steps: Causal | None = None,
    labels: tuple[str, ...] = ("rest", "left", "right"),
) -> Standin:
    """Make a decoder for windows of a recording, causally processed if there are steps."""
    processed = rec if steps is None else apply_causal(rec, steps)
    windows = processed.windows(window)
    contract = Contract.of(windows, axis="channel", window=True)
    module = Mixed(contract.size, len(labels), float(processed.values.std()))
    return Standin(module, contract, Outcome(labels), None if steps is None else Causal.of(processed))


def offline(decoder: Standin, rec: Recording, *, hop: int) -> tuple[Tensor, Tensor]:
    """Return times (window,) and probabilities (window, class) of a whole recording, without a stream."""
    steps = decoder.causal_
    processed = rec if steps is None else apply_causal(rec, Causal(**{**vars(steps), "names": (), "rate": None}))
    x = processed.sel(channel=list(decoder.contract_.names)).tensor("channel", "time")
    windows = x.unfold(1, int(decoder.contract_.n_times or 0), hop).movedim(1, 0)  # (window, channel, time)
    with torch.no_grad():
        proba = decoder.forward_module()(windows.float()).double().softmax(1)
    last = torch.arange(len(windows)) * hop + int(decoder.contract_.n_times or 0) - 1
    return processed.time[last], proba
