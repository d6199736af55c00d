"""Fixtures of the contract suite: each test that takes ``row`` runs once for each estimator of the table."""

from __future__ import annotations

import functools
import os
import random
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from contract.table import TABLE, Row
from support.simulated_accelerator import count_syncs


@pytest.fixture(params=TABLE, ids=lambda row: row.name, scope="session")
def row(request: pytest.FixtureRequest) -> Row:
    """Give one row of the table."""
    found: Row = request.param
    return found


@pytest.fixture(scope="session")
def fitted(row: Row) -> Any:
    """Give the tiny fit of seed 0 on the CPU; nobody may change it."""
    return row.tiny


@pytest.fixture(scope="session")
def rich(row: Row) -> Any:
    """Give a fit whose result has every optional field; nobody may change it."""
    return row.fit(**row.rich)


class OnAccelerator(NamedTuple):
    """A fit on the simulated accelerator and what was seen of it."""

    model: Any
    waits: Counter[str]  #: by operator, how often the host waited in the fit and a call of each verb
    draws: bool  #: whether the device's global generator moved


@pytest.fixture
def on_accelerator(row: Row, accelerator: torch.device) -> OnAccelerator:
    """Give the tiny fit of seed 0 on the simulated accelerator, which is in use for the whole test."""
    return _on_accelerator(row.name, str(accelerator))


@functools.cache
def _on_accelerator(name: str, device: str) -> OnAccelerator:
    row = next(row for row in TABLE if row.name == name)
    torch.get_device_module(device).manual_seed(987)
    before = torch.get_device_module(device).get_rng_state()
    with count_syncs() as waits:
        model = row.fit(device=device)
        for verb in row.verbs:
            row.call(verb, model)
    return OnAccelerator(model, waits, not torch.equal(torch.get_device_module(device).get_rng_state(), before))


@pytest.fixture
def callers_state() -> Iterator[Callable[[], dict[str, Any]]]:
    """Give a function that reads everything global that belongs to the caller, whose generators were in use before."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    torch.manual_seed(987)
    np.random.seed(987)  # noqa: NPY002
    random.seed(987)
    yield _callers_state
    torch.set_rng_state(before[0])
    np.random.set_state(before[1])  # noqa: NPY002
    random.setstate(before[2])


def _callers_state() -> dict[str, Any]:
    legacy = np.random.get_state()  # noqa: NPY002  the caller's own generator is what must not move
    loaded = sys.modules.get("matplotlib")
    return {
        "torch's generator": torch.get_rng_state().tolist(),
        "NumPy's generator": [x.tolist() if isinstance(x, np.ndarray) else x for x in legacy],
        "Python's generator": random.getstate(),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "anomaly mode": torch.is_anomaly_enabled(),
        "number of threads": torch.get_num_threads(),
        "matmul precision": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.get_deterministic_debug_mode(),
        "cuDNN's benchmark": torch.backends.cudnn.benchmark,
        "filters of warnings": list(warnings.filters),
        "floating-point errors of NumPy": np.geterr(),
        "look of figures": None if loaded is None else dict(loaded.rcParams),
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
    }
