"""Binning of spikes: ours beside a NumPy histogram of each unit and, where installed, pynapple.

Run ``python benchmarks/binning.py [n_spikes]``; one thread, best of five, the same spikes for all.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from tectum import Spikes

N_UNITS, DURATION, DT = 500, 3600.0, 0.1


def best_of(n: int, call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Return the shortest wall time in s and what the call returned."""
    times = []
    for _ in range(n):
        began = time.perf_counter()
        found = call()
        times.append(time.perf_counter() - began)
    return min(times), found


def main(n_spikes: int) -> None:
    rng = np.random.default_rng(0)
    spikes = Spikes.from_events(
        rng.uniform(0, DURATION, n_spikes), rng.integers(0, N_UNITS, n_spikes), n_units=N_UNITS, support=(0.0, DURATION)
    )
    trains = [train.numpy() for train in spikes.trains()]
    n_bins = round(DURATION / DT)
    edges = np.arange(n_bins + 1) * DT

    def histogram() -> np.ndarray:
        return np.stack([np.histogram(train, bins=edges)[0] for train in trains], axis=1)

    peers: dict[str, Callable[[], np.ndarray]] = {"numpy.histogram, a loop over units": histogram}
    if importlib.util.find_spec("pynapple") is not None:
        import pynapple

        group = pynapple.TsGroup({i: pynapple.Ts(t) for i, t in enumerate(trains)})
        epoch = pynapple.IntervalSet(0.0, DURATION)
        peers["pynapple TsGroup.count"] = lambda: np.asarray(group.count(DT, epoch).values)

    ours, counts = best_of(5, lambda: spikes.bin(DT).values.numpy())
    print(f"{n_spikes:.0e} spikes, {N_UNITS} units, {n_bins} bins, 1 thread\ntectum Spikes.bin: {ours:.3f} s")
    for name, call in peers.items():
        seconds, found = best_of(2, call)
        differ = int((found[:n_bins] != counts).sum())
        print(f"{name}: {seconds:.3f} s, ratio {seconds / ours:.1f}, cells that differ {differ} of {counts.size}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(float(sys.argv[1])) if len(sys.argv) > 1 else 10_000_000)
