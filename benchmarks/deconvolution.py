"""Non-negative deconvolution: ours beside a loop over time compiled by Numba, the way suite2p does it.

Run ``python benchmarks/deconvolution.py [n_units] [n_frames] [n_threads]``; the same traces for both, in turns, best of
three; Numba compiles before the clock starts and spreads regions over ``n_threads`` (default 2), ours has one thread.
The peer is written here from the recipe (pool-adjacent-violators, float32, exponentials in the loop) and needs Numba;
ours does not.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable

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


def clocked(call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


def main(n_units: int, n_frames: int, n_threads: int) -> None:
    torch.set_num_threads(1)
    numba.set_num_threads(n_threads)
    traces = simulate(n_units, n_frames)
    tensor, rate = torch.from_numpy(traces), np.float32(-1 / (TAU * RATE))
    peer(traces[:2, :50], rate)
    best = {"ours": math.inf, "peer": math.inf}
    for _ in range(3):
        seconds, theirs = clocked(lambda: peer(traces, rate))
        best["peer"] = min(best["peer"], seconds)
        seconds, ours = clocked(lambda: deconvolve(tensor, gamma=math.exp(-1 / (TAU * RATE))).numpy())
        best["ours"] = min(best["ours"], seconds)
    print(f"{n_units} regions x {n_frames} frames, best of 3 in turns")
    print(f"tectum, 1 thread: {best['ours']:.2f} s; Numba loop, {n_threads} threads: {best['peer']:.2f} s")
    print(f"ratio {best['peer'] / best['ours']:.2f}")
    print(f"largest difference {np.abs(ours - theirs).max():.1e}")


if __name__ == "__main__":
    sizes = [int(float(word)) for word in sys.argv[1:]]
    main(*[*sizes, *[5000, 20_000, 2][len(sizes) :]])
