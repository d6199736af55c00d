"""Small deterministic decoders that make evaluations quick, and trials for them."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from tectum import Recording
from tectum.core.estimator import as_tuple
from tectum.nn.trials import as_trials, encode, read_labels


class Nearest:
    """Decides like the nearest training trial: learns every trial by heart."""

    def __init__(self, *, softness: float = 0.0, spectra: bool = False) -> None:
        self.softness, self.spectra = softness, spectra

    def set_params(self, **params: Any) -> Self:
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def fit(self, data: Any, target: Any = None) -> Self:
        found = as_trials(as_tuple(data), "Nearest")
        self.labels = encode(read_labels(found, target, "Nearest")[0], "Nearest")
        self.memory = self._features(found)
        return self

    def _features(self, data: Any) -> Tensor:
        x = torch.cat([rec.values for rec in data]).double()
        return (torch.fft.rfft(x).abs().log1p() if self.spectra else x).flatten(1)

    @property
    def classes_(self) -> np.ndarray:
        return np.asarray(self.labels.names)

    def predict_proba(self, data: Any) -> Tensor:
        x = self._features(as_trials(as_tuple(data), "Nearest"))
        near = torch.cdist(x, self.memory, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        sure = torch.nn.functional.one_hot(torch.from_numpy(self.labels.codes)[near], len(self.labels.names)).double()
        return (1 - self.softness) * sure + self.softness / sure.shape[1]

    def score(self, data: Any, target: Any = None) -> float:
        found = as_trials(as_tuple(data), "Nearest")
        values = encode(read_labels(found, target, "Nearest")[0], "Nearest", names=self.labels.names)
        return float((self.predict_proba(data).argmax(1).numpy() == values.codes).mean())


def trials(
    n: int = 12,
    *,
    effect: float = 3.0,
    seed: int = 0,
    subject: str = "",
    session: str = "",
    n_channels: int = 3,
    start: bool = False,
    **columns: Any,
) -> Recording:
    """Make trials of two classes in turn whose first channel differs by ``effect``."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, n_channels, 8, generator=draw)
    x[1::2, 0] += effect
    clock = {"start": np.arange(n) * 2.0, "stop": np.arange(n) * 2.0 + 2.0} if start else {}
    table = {"label": ["rest", "task"] * (n // 2), **clock, **columns}
    return Recording(data=x, dims=("trial", "channel", "time"), rate=4.0, units="uV", subject=subject, session=session,
                     coords={"trial": table})  # fmt: skip
