"""What a stream asks of a decoder and of its arguments before the first sample, and how to keep its pace even."""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tectum.core.contract import Contract
from tectum.core.errors import InputError, explain
from tectum.nn.check import check_steps
from tectum.preprocess.causal import Causal

WARM_UP = 10  # dummy windows before the first sample


@contextmanager
def realtime() -> Iterator[None]:
    """Compute with little jitter inside the block: one thread, no denormals, no garbage collection."""
    threads, collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def check_times(**values: float | None) -> None:
    """Refuse times that are not positive numbers."""
    for name, value in values.items():
        low_ok = value == 0 and name in ("max_gap", "jitter")
        if value is None or low_ok:
            continue
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise InputError(explain(f"Stream.{name}", expected="a time above 0 s", got=repr(value)))


def plain_options(**options: Any) -> dict[str, Any]:
    """Return a stream's options as plain values that JSON holds."""
    plain: dict[str, Any] = {}
    for name, value in options.items():
        if is_dataclass(value) and not isinstance(value, type):
            plain[name] = asdict(value)
        elif isinstance(value, Mapping):
            plain[name] = {key: [float(x) for x in place] for key, place in value.items()}
        else:
            plain[name] = value if value is None or isinstance(value, (str, int, float)) else list(value)
    return plain


def check_window(contract: Contract) -> None:
    """Refuse decoders that do not take windows of channels and time."""
    if contract.n_times is None or contract.axis != "channel" or not contract.rate:
        expected = "a decoder of windows of fixed length (channel, time)"
        raise InputError(explain("Stream", expected=expected, got=f"one of {contract}"))


def module_of(decoder: Any, contract: Contract) -> nn.Module:
    """Return the decoder's module for streams, or its pure module, in evaluation mode and with a state that fits."""
    found = getattr(decoder, "stream_module", None) or decoder.forward_module
    module: nn.Module = found if isinstance(found, nn.Module) else found()
    if any(m.training for m in module.modules()):
        got = "one in training mode, whose statistics drift"
        raise InputError(explain("Stream", expected="a module in evaluation mode", got=got, fix="call eval()"))
    known = getattr(getattr(module, "standard", None), "scale", None)
    check_steps(module, contract, float(known.median()) if isinstance(known, Tensor) else 1.0, "Stream")
    return module


def trained_scale(decoder: Any, steps: Causal, module: nn.Module) -> Tensor | None:
    """Return the standard deviation of the training data, if anything remembers it: () or (channel,)."""
    if steps.scale:
        return torch.tensor(steps.scale, dtype=torch.float64)
    known = getattr(getattr(module, "standard", None), "scale", None)
    if getattr(decoder, "normalise", "none") == "none" or not isinstance(known, Tensor):
        return None
    return known.detach().cpu().double().reshape(-1)


def as_times(times: Any, n: int) -> np.ndarray:
    """Return timestamps as an own float64 array, one for each row."""
    plain = times.detach().cpu().numpy() if hasattr(times, "detach") else times
    made = np.array(plain, dtype=np.float64)
    if made.shape != (n,):
        raise InputError(explain("Stream.push(times)", expected=f"{n} times", got=f"shape {made.shape}"))
    return made


def warm_up(module: nn.Module, contract: Contract, labels: Sequence[str | int], device: torch.device) -> None:
    """Run the decoder on zeros, so that the first window costs what the others do; check what it returns."""
    zeros = torch.zeros(1, contract.size, int(contract.n_times or 0), device=device)
    with torch.inference_mode():
        for _ in range(WARM_UP):
            logits = module(zeros)
    if logits.shape != (1, len(labels)):
        expected, got = f"logits of shape (1, {len(labels)})", f"shape {tuple(logits.shape)}"
        raise InputError(explain("Stream", expected=expected, got=got))
