"""Small data of the switching GLM that several test files share."""

from __future__ import annotations

from typing import Any

import torch

from tectum import Recording
from tectum.datasets import simulate

N, T = 6, 400
QUICK: dict[str, Any] = {"n_states": 2, "starts": 3, "device": "cpu", "link": "sigmoid", "one_hot_rounds": 6}


def simulated() -> Any:
    """Four sequences of two states of the published design, and their truth."""
    return simulate.switching_glm(n_units=N, n_states=2, n_sequences=4, n_time=T, random_state=3)


def rec(counts: Any, **options: Any) -> Recording:
    return Recording(data=torch.as_tensor(counts), dims=("time", "unit"), rate=50.0, units="spikes/bin", **options)


def two_rates(n_sequences: int = 3, n_time: int = 300, seed: int = 0) -> tuple[list[Recording], torch.Tensor]:
    """Counts whose mean switches every 20 bins, and the switch."""
    g = torch.Generator().manual_seed(seed)
    state = torch.arange(n_time) // 20 % 2
    rates = torch.tensor([[0.1, 0.1, 1.2, 1.2], [1.2, 1.2, 0.1, 0.1]])[state]
    return [rec(torch.poisson(rates, generator=g).int()) for _ in range(n_sequences)], state.expand(n_sequences, -1)
