"""From rows of a stream to samples of the decoder's input, with the state of the causal steps in between."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tectum.core.contract import Contract
from tectum.core.errors import ContractError, explain
from tectum.preprocess.causal import Causal, CausalState, Chain

from .intake import Plan

SCALE = 1e3  # ratio of standard deviations that only a wrong unit explains


class Transform:
    """Interpolate, convert, filter and select; remember the state.

    Parameters
    ----------
    contract : Contract
        What the decoder takes.
    steps : Causal
        What was done to its training data.
    plan : Plan
        How the stream's channels and units map onto theirs.
    scale : Tensor or None
        Standard deviation of the training data, if known.
    device : torch.device
        Where to compute.
    """

    def __init__(
        self, contract: Contract, steps: Causal, plan: Plan, *, scale: Tensor | None, device: torch.device
    ) -> None:
        self.steps, self.plan, self.scale, self.device = steps, plan, scale, device
        self._chain, self._pick = Chain(steps, device), _picked(contract, steps, device)
        self._moments, self._seen = np.zeros((2, contract.size)), 0
        self._first, self.strange = True, np.zeros(contract.size, dtype=bool)
        self.names = tuple(contract.names) or tuple(range(contract.size))
        self._state: CausalState | None = None

    def restart(self) -> None:
        """Let the next sample be the first of all."""
        self._state = None
        self._moments[:], self._seen = 0.0, 0
        self.strange[:] = False

    def __call__(self, rows: np.ndarray, times: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Return samples (channel, time / decimate) in float32 and their times, for rows (time, channel)."""
        if self.plan.fill is not None:
            rows = rows @ self.plan.fill.T
        if self.plan.factor is not None:
            rows = rows * self.plan.factor
        phase = 0 if self._state is None else self._state.phase
        x = torch.from_numpy(np.ascontiguousarray(rows.T)).to(self._chain.dtype).to(self.device)
        y, self._state = self._chain.step(x, self._state)
        y = (y if self._pick is None else y[self._pick]).to(torch.float32)
        if self.scale is not None:
            self._check_scale(y)
        return y, times[phase :: self.steps.decimate]

    def flags(self) -> tuple[str, ...]:
        """Return which channels were on another scale than in training, by the last second."""
        if not self.strange.any():
            return ()
        return tuple(f"scale:{name}" for name, off in zip(self.names, self.strange, strict=True) if off)

    def _check_scale(self, y: Tensor) -> None:
        """Compare the standard deviation of every second with the trained one; refuse a first one of another unit."""
        part = y.cpu().double().numpy()
        self._seen += part.shape[1]
        self._moments[0] += part.sum(1)
        self._moments[1] += np.einsum("ct,ct->c", part, part)
        if self._seen < self.steps.rate_out:
            return
        total, squares = self._moments / self._seen
        ratio = np.sqrt((squares - total**2).clip(min=0)) / self.scale.cpu().numpy()  # type: ignore[union-attr]
        self._moments[:], self._seen = 0.0, 0
        self.strange = (ratio > SCALE) | (ratio < 1 / SCALE) & (ratio > 0)
        middle = float(np.median(ratio))
        if self._first and middle > 0 and not 1 / SCALE <= middle <= SCALE:
            got = f"a standard deviation {middle:.2g} times that of training"
            fix = (
                f"tell the stream's unit: tectum.Stream(..., units=..., convert=True); trained in {self.steps.units!r}"
            )
            raise ContractError(explain("Stream", expected="the unit of the training data", got=got, fix=fix))
        self._first = False


def _picked(contract: Contract, steps: Causal, device: torch.device) -> Tensor | None:
    """Return the rows of the causal output that the decoder takes; None if all in order."""
    if not contract.names or tuple(map(str, contract.names)) == steps.names_out:
        return None
    index = [steps.names_out.index(str(n)) for n in contract.names]
    return torch.tensor(index, device=device)
