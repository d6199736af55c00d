"""Settings every test shares: one thread, the simulated device, no window, repeatable examples, clean global state."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

os.environ["MPLBACKEND"] = "Agg"

import hypothesis
import pytest
import torch

from support.simulated_accelerator import register, simulated_accelerator

register()  # here, before any backward pass: autograd counts the devices at the first
torch.set_num_threads(1)
hypothesis.settings.register_profile("tectum", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tectum")

_Setter = Callable[[Any], object]
_GLOBAL_STATE: dict[str, tuple[Callable[[], Any], _Setter]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, torch.set_default_device),
    "grad mode": (torch.is_grad_enabled, torch._C._set_grad_enabled),
    "deterministic algorithms": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "anomaly mode": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
}


def _state() -> dict[str, Any]:
    return {name: get() for name, (get, _) in _GLOBAL_STATE.items()}


@pytest.fixture(autouse=True)
def _clean_torch_state() -> Iterator[None]:
    """Fail a test that leaves torch's global state altered, and put the state right for the next one."""
    before = _state()
    yield
    altered = [f"{name}: {before[name]} -> {value}" for name, value in _state().items() if value != before[name]]
    for name, (_, put) in _GLOBAL_STATE.items():
        if altered and name != "default device":
            put(before[name])
    if before["default device"] != torch.get_default_device():
        torch.set_default_device(None if before["default device"].type == "cpu" else before["default device"])
    if altered:
        pytest.fail("the test altered torch's global state: " + "; ".join(altered))


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    """Close the figures of a test, if it drew any."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def accelerator() -> Iterator[torch.device]:
    """Give the simulated accelerator, in use for the whole test."""
    with simulated_accelerator() as device:
        yield device
