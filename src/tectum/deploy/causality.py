"""Does a decoder look ahead, or remember what it should not? Asked of the numbers themselves before it leaves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tectum.core.contract import Contract
from tectum.core.errors import explain
from tectum.nn.check import agrees
from tectum.preprocess.causal import Causal, Chain, NotCausalError

BEHIND = 16  # samples behind decimation that are changed after the window


def check_causal(module: nn.Module, contract: Contract, steps: Causal | None, *, scale: float) -> None:
    """Refuse a decoder that says something else of a window when later samples change, or when asked again.

    Parameters
    ----------
    module : nn.Module
        On the CPU, in evaluation mode.
    contract : Contract
        What it takes.
    steps : Causal or None
        What lies in front of it, bound to an input.
    scale : float
        Size of the numbers that it was trained on.

    Raises
    ------
    NotCausalError
        Says which of the two.
    """
    n, every = int(contract.n_times or 0), 1 if steps is None else steps.decimate
    width = contract.size if steps is None else len(steps.names)
    draw = torch.Generator().manual_seed(0)
    x = scale * torch.randn(width, (n + BEHIND) * every, generator=draw, dtype=torch.float64)
    later = x.clone()
    later[:, n * every :] = 5 * scale - 3 * x[:, n * every :].flip(1)
    before, after = (_window(part, contract, steps) for part in (x, later))
    said = _logits(module, before)
    _logits(module, before.flip(2))
    if not agrees(said.numpy(), _logits(module, before).numpy()):
        got = "one that changes with what the network saw before"
        raise NotCausalError(explain("export", expected="an output that depends on the window alone", got=got))
    if not agrees(said.numpy(), _logits(module, after).numpy()):
        got = "one that changes with samples after the window"
        raise NotCausalError(explain("export", expected="causal steps and network", got=got))


def _window(x: Tensor, contract: Contract, steps: Causal | None) -> Tensor:
    """Return the first whole window (1, channel, time) of samples (channel, time) behind the steps."""
    if steps is not None:
        x, _ = Chain(steps, x.device).step(x)
        if contract.names:
            x = x[[steps.names_out.index(str(name)) for name in contract.names]]
    return x[None, :, : contract.n_times].float()


def _logits(module: nn.Module, window: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = module(window)
    return found
