"""Non-negative deconvolution: ours beside a loop over time compiled by Numba, the way suite2p does it.

Run ``python benchmarks/deconvolution.py [n_units] [n_frames] [n_threads] [folder]``; the same traces for all, in turns,
five times; Numba compiles before the clock starts and spreads regions over ``n_threads`` (default 2), ours has one
thread. The peer is written here from the recipe (pool-adjacent-violators, float32, exponentials in the loop) and needs
Numba; ours does not. With the folder of an unpacked wheel of suite2p, its own ``suite2p/extraction/dcnv.py`` runs too,
as it is and without the rest of that package.
"""

from __future__ import annotations

import importlib.util
import math
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import torch
from scipy.signal import lfilter

from tectum.preprocess._oasis import deconvolve

RATE, TAU = 30.0, 0.7


@numba.njit(parallel=True)
def peer(traces: np.ndarray, rate: np.float32) -> np.ndarray:
    """Pool adjacent violators one after the other; regions in parallel."""
    n_units, n_time = traces.shape
    spikes = np.zeros((n_units, n_time), np.float32)
    for unit in numba.prange(n_units):
        value, weight = np.empty(n_time, np.float32), np.empty(n_time, np.float32)
        first, length = np.empty(n_time, np.int64), np.empty(n_time, np.float32)
        top = -1
        for t in range(n_time):
            top += 1
            value[top], weight[top], first[top], length[top] = traces[unit, t], 1.0, t, 1.0
            while top > 0 and value[top - 1] * np.exp(rate * length[top - 1]) > value[top]:
                decay = np.exp(rate * length[top - 1])
                total = weight[top - 1] + weight[top] * decay * decay
                value[top - 1] = (value[top - 1] * weight[top - 1] + value[top] * weight[top] * decay) / total
                weight[top - 1] = total
                length[top - 1] += length[top]
                top -= 1
        for pool in range(1, top + 1):
            spikes[unit, first[pool]] = value[pool] - value[pool - 1] * np.exp(rate * length[pool - 1])
    return spikes


def simulate(n_units: int, n_frames: int, seed: int = 0) -> np.ndarray:
    """Return noisy decaying responses to Poisson spikes, (unit, time) float32."""
    rng = np.random.default_rng(seed)
    found = np.empty((n_units, n_frames), np.float32)
    for first in range(0, n_units, 500):
        shape = (min(500, n_units - first), n_frames)
        counts = rng.poisson(0.8 / RATE, shape).astype(np.float32)
        clean = lfilter([1.0], [1.0, -math.exp(-1 / (TAU * RATE))], counts, axis=1)
        found[first : first + 500] = clean + 0.2 * rng.standard_normal(shape, dtype=np.float32)
    return found


def suite2ps(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return suite2p's own deconvolution, loaded from its file under a package that is otherwise empty."""
    for name in ("suite2p", "suite2p.extraction", "suite2p.logger"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []  # type: ignore[attr-defined]
    sys.modules["suite2p.logger"].TqdmToLogger = lambda *_, **__: None  # type: ignore[attr-defined]
    name = "suite2p.extraction.dcnv"
    spec = importlib.util.spec_from_file_location(name, folder / f"{name.replace('.', '/')}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda traces: module.oasis(traces, 500, TAU, RATE)


def clocked(call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


def main(n_units: int, n_frames: int, n_threads: int, folder: Path | None) -> None:
    torch.set_num_threads(1)
    numba.set_num_threads(n_threads)
    traces = simulate(n_units, n_frames)
    tensor, rate = torch.from_numpy(traces), np.float32(-1 / (TAU * RATE))
    calls: dict[str, Callable[[], np.ndarray]] = {
        "tectum, 1 thread": lambda: deconvolve(tensor, gamma=math.exp(-1 / (TAU * RATE))).numpy(),
        f"Numba loop, {n_threads} threads": lambda: peer(traces, rate),
    }
    peer(traces[:2, :50], rate)
    if folder is not None:
        theirs = suite2ps(folder)
        theirs(traces[:2, :50].copy())
        calls[f"suite2p, {n_threads} threads"] = lambda: theirs(traces)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    found = {}
    for _ in range(5):
        for name, call in calls.items():
            seconds, found[name] = clocked(call)
            taken[name].append(seconds)
    ours, values = (next(iter(each.values())) for each in (taken, found))
    print(f"{n_units} regions x {n_frames} frames, 5 turns")
    for name, seconds in taken.items():
        ratio = np.asarray(seconds) / np.asarray(ours)
        differ = np.abs(found[name] - values).max()
        turns = f"median ratio {np.median(ratio):.2f} ({ratio.min():.2f} to {ratio.max():.2f})"
        print(f"{name}: best {min(seconds):.2f} s, {turns}, largest difference {differ:.1e}")


if __name__ == "__main__":
    sizes = [int(float(word)) for word in sys.argv[1:4]]
    main(*[*sizes, *[5000, 20_000, 2][len(sizes) :]], Path(sys.argv[4]) if len(sys.argv) > 4 else None)
