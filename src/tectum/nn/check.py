"""Tests of a trained network: one that travels with it, and one of the state that it carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.contract import Contract
from ..core.errors import MismatchError, explain

TOLERANCE = 1e-4  # of logits, relative where they exceed one


def check_input(contract: Contract, scale: float) -> Tensor:
    """Return the test input (1, channel, time): a fixed pattern in [-scale, scale], the same on every machine."""
    channel = torch.arange(contract.size, dtype=torch.int64, device="cpu")[:, None]
    time = torch.arange(int(contract.n_times or 0), dtype=torch.int64, device="cpu")[None]
    pattern = (channel * 7919 + time * 104729 + time * time * 31) % 1009
    return ((pattern.double() / 504 - 1) * scale).float()[None]


def agrees(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether two sets of logits are the same to the tolerance."""
    if found.shape != wanted.shape:
        return False
    return bool((np.abs(found - wanted) <= TOLERANCE * np.maximum(1.0, np.abs(wanted))).all())


def make_check(module: nn.Module, contract: Contract, *, scale: float) -> dict[str, Any]:
    """Return what :func:`verify` takes: the scale of the test input and the logits of it.

    Parameters
    ----------
    module : nn.Module
        On the CPU, in evaluation mode.
    contract : Contract
        What it takes.
    scale : float
        Largest value of the input.
    """
    with torch.no_grad():
        logits = module(check_input(contract, scale))[0]
    return {"scale": scale, "logits": logits.double().tolist()}


def verify(module: nn.Module, contract: Contract, check: Mapping[str, Any], where: str) -> None:
    """Raise MismatchError unless a module gives the stored logits to 1e-4: other weights, or a version that differs."""
    wanted = np.asarray(check["logits"])
    with torch.no_grad():
        found = module(check_input(contract, check["scale"]))[0].double().numpy()
    if not agrees(found, wanted):
        apart = np.abs(found - wanted).max() if found.shape == wanted.shape else np.inf
        got = f"a difference of {apart:.2g}"
        raise MismatchError(explain(where, expected="the stored logits of the test input", got=got))


def carries(module: nn.Module) -> bool:
    """Whether a network says that it carries a state from samples to samples: it has ``init_state`` and ``step``."""
    return hasattr(module, "init_state") and hasattr(module, "step")


def check_steps(module: nn.Module, contract: Contract, scale: float, where: str) -> None:
    """Raise MismatchError if a network that carries a state says something else of a window than on the window alone.

    Parameters
    ----------
    module : nn.Module
        On the CPU, in evaluation mode; without a state nothing is checked.
    contract : Contract
        What it takes.
    scale : float
        Largest value of the input.
    where : str
        Who asks.
    """
    n = int(contract.n_times or 0)
    with torch.no_grad():
        state: Any = module.init_state(1, n) if carries(module) else None  # type: ignore[operator]
        if state is None:
            return
        x = check_input(replace(contract, n_times=2 * n + 5), scale)
        for first, stop in pairwise((0, n, n + 1, n + 1 + n // 3, 2 * n + 5)):
            logits, state = module.step(x[..., first:stop], state)  # type: ignore[operator]
            window = module(x[..., stop - n : stop])
            undefined = not bool(window.isfinite().all())  # a stream says so of each window
            if not undefined and not agrees(logits.numpy(), window.numpy()):
                got = "another one, so its state holds samples from outside the window, or loses some"
                raise MismatchError(explain(where, expected="by step() the output of the window", got=got))
