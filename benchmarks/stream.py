"""What a live decision costs at a hop of 50 ms, what of it is the stream itself, and memory over an hour.

Run ``python benchmarks/stream.py``; one thread. Processor time does not count what other programs take, wall time does:
read it on an idle machine. The networks have random weights, because their cost does not depend on the values.
"""

from __future__ import annotations

import copy
import gc
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

import tectum
from tectum import Causal, Stream
from tectum.core.contract import Contract
from tectum.core.errors import TectumWarning
from tectum.models.du_in.running import Prepared, Remembering
from tectum.stream import realtime

HOP = 0.05
SECONDS = 120


def decoder(module: nn.Module, n_channels: int, rate: float, seconds: float, n_classes: int, steps: Causal) -> Any:
    """Return what a stream reads of a fitted decoder."""
    names = tuple(f"E{k}" for k in range(n_channels))
    contract = Contract(
        dims=("trial", "channel", "time"), axis="channel", names=names, size=n_channels, rate=rate, units="uV",
        n_times=round(seconds * rate),
    )  # fmt: skip
    labels = tuple(f"word{k}" for k in range(n_classes))
    known = isinstance(module, Prepared)
    return SimpleNamespace(
        contract_=contract, result_=SimpleNamespace(labels=labels), forward_module=lambda: module.eval(), causal_=steps,
        stream_module=lambda: (Remembering(copy.deepcopy(module)) if known else module).eval(),
    )  # fmt: skip


class Nothing(nn.Module):
    """Costs nothing: what remains is the stream."""

    logits: torch.Tensor

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(1, n_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the same logits always."""
        return self.logits


def timed(model: Any, *, chunk: int, clock: Callable[[], float]) -> Any:
    """Return the statistics of a stream after two minutes of data, pushed as fast as possible."""
    contract, rows = model.contract_, np.random.default_rng(0).standard_normal((chunk, model.contract_.size))
    stream = Stream(model, rate=contract.rate, hop=HOP, channels=contract.names, clock=clock)
    times = np.arange(chunk) / contract.rate
    with realtime(), warnings.catch_warnings():
        warnings.simplefilter("ignore", TectumWarning)
        for k in range(int(SECONDS * contract.rate / chunk)):
            stream.push(rows, times + k * chunk / contract.rate)
    return stream.statistics


def du_in() -> Prepared:
    """Return the network of Du-IN in the size of its authors, as a fitted model hands it to a stream."""
    body = tectum.DuIN(compat="reference", device="cpu")._build(10, 3000, 61, 1000.0)
    scale = torch.ones(10)
    return Prepared(body, torch.arange(10), torch.zeros(10), scale, n_times=3000, sigmoid=True).requires_grad_(False)


def memory() -> None:
    """Push an hour of a simulated clock and print what it added."""
    from tectum.models.light_cnn import OneConvolution

    module = OneConvolution(59, 59, 2, kernel=11, dropout=0.1)
    model = decoder(module, 59, 500.0, 5.0, 2, Causal(highpass=1.0))
    now = [0.0]
    stream = Stream(model, rate=500.0, hop=1.0, channels=model.contract_.names, clock=lambda: now[0])
    rows, before = np.random.default_rng(0).standard_normal((250, 59)), 0
    for k in range(7200):
        now[0] = k / 2
        stream.push(rows, now[0] + np.arange(250) / 500)
        if k == 240:
            gc.collect()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"\nan hour of 59 channels at 500 Hz: {stream.statistics.decisions} decisions, memory + {grown:.1f} MB")


def row(name: str, n_params: int, model: Any) -> None:
    """Time a decoder twice, in processor and in wall time, and print what was found."""
    chunk = round(HOP * model.contract_.rate)
    own, wall = (timed(model, chunk=chunk, clock=c) for c in (time.thread_time, time.perf_counter))
    shown = (own.p50, own.p95, own.p99, wall.p50, wall.p99, wall.max)
    print(f"{name:36}{n_params:10,}" + "".join(f"{1e3 * x:7.2f}" for x in shown) + f"{wall.misses:8d}", flush=True)


def main() -> None:
    """Print one row for each network."""
    from tectum.models.light_cnn import OneConvolution

    torch.set_num_threads(1)
    wide = Causal(highpass=1.0, lowpass=45.0, notch=(50.0,), reference="average")
    deep = Causal(highpass=0.5, lowpass=200.0)
    light = OneConvolution(59, 59, 2, kernel=11, dropout=0.1)
    cases: list[tuple[str, nn.Module, Any]] = [
        ("stream alone, 59 ch, 500 Hz", Nothing(2), (59, 500.0, 5.0, 2, wide)),
        ("stream alone, 10 ch, 1 kHz", Nothing(61), (10, 1000.0, 3.0, 61, deep)),
        ("LightCNN, 5 s, 59 ch, 500 Hz", light, (59, 500.0, 5.0, 2, wide)),
        ("Du-IN, reference, 3 s, 10 ch, 1 kHz", du_in(), (10, 1000.0, 3.0, 61, deep)),
    ]
    print(f"{'':36}{'':>10}  processor time, ms      wall time, ms")
    print(f"{'a decision every 50 ms':36}{'params':>10}    p50    p95    p99    p50    p99    max  misses")
    for name, module, size in cases:
        model, n_params = decoder(module, *size), sum(p.numel() for p in module.parameters())
        row(name, n_params, model)
        if n_params:
            with tempfile.TemporaryDirectory() as folder:
                row(
                    "  the same, by ONNX Runtime",
                    n_params,
                    tectum.deploy.load(tectum.export(model, f"{folder}/x.onnx")),
                )
    memory()


if __name__ == "__main__":
    main()
