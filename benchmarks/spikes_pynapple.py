"""Binning spikes and iterating over windows of them: ours beside pynapple, in turns, on the same spikes.

Run ``python benchmarks/spikes_pynapple.py [n_spikes] [n_threads]``. Both sides hold their spikes in memory before the
clock starts; pynapple compiles (numba) on a small group first. Each task is run in turns, seven times (binning) or
twice; the best time of each side and the median of the ratios of the turns are given, and the counts are compared.
Windows are 2 s long every second: ours are views of the binned recording, and the binning is in the time; pynapple
counts the group in each window. Counts around events: ours is one call, pynapple's are ``compute_perievent`` and a
count for each unit.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

THREADS = sys.argv[2] if len(sys.argv) > 2 else "1"
os.environ |= {"OMP_NUM_THREADS": THREADS, "MKL_NUM_THREADS": THREADS, "NUMBA_NUM_THREADS": THREADS}

import numpy as np  # noqa: E402
import torch  # noqa: E402

from tectum import Spikes  # noqa: E402

N_UNITS, DURATION, DT, LENGTH = 100, 1800.0, 0.01, 2.0


def clocked(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the wall time in s and what the call returned."""
    began = time.perf_counter()
    found = call()
    return time.perf_counter() - began, found


def in_turns(calls: dict[str, Callable[[], Any]], n: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the times of each call in ``n`` rounds, and what it returned."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    found = {}
    for _ in range(n):
        for name, call in calls.items():
            seconds, found[name] = clocked(call)
            taken[name].append(seconds)
    return {name: np.asarray(times) for name, times in taken.items()}, found


def shown(task: str, taken: dict[str, np.ndarray], differ: int, size: int) -> None:
    """Print one line for each side."""
    ours = taken["tectum"]
    for name, seconds in taken.items():
        ratio = seconds / ours
        turns = f"median ratio {np.median(ratio):6.1f} ({ratio.min():.1f} to {ratio.max():.1f})"
        print(f"{task:34s} {name:28s} best {seconds.min() * 1e3:10.1f} ms   {turns}")
    print(f"{'':34s} cells that differ: {differ} of {size}")


def main(n_spikes: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pynapple as nap
    torch.set_num_threads(int(THREADS))
    rng = np.random.default_rng(0)
    times = np.sort(rng.integers(0, int(DURATION * 1e5), n_spikes)) / 1e5 + 5e-6  # never on the edge of a bin
    unit = rng.integers(0, N_UNITS, n_spikes)
    spikes = Spikes.from_events(times, unit, n_units=N_UNITS, support=(0.0, DURATION))
    epoch = nap.IntervalSet(0.0, DURATION)
    group = nap.TsGroup({k: nap.Ts(train.numpy()) for k, train in enumerate(spikes.trains())}, time_support=epoch)
    nap.TsGroup({0: nap.Ts(np.array([0.5, 1.5]))}, time_support=nap.IntervalSet(0, 2)).count(0.5)
    print(f"{n_spikes:.0e} spikes, {N_UNITS} units, {DURATION:.0f} s, bins of {DT * 1e3:.0f} ms, threads {THREADS}")
    print(f"pynapple {nap.__version__}, torch {torch.__version__}, {os.cpu_count()} processors")

    calls: dict[str, Callable[[], Any]] = {
        "tectum": lambda: spikes.bin(DT).values.numpy(),
        "pynapple TsGroup.count": lambda: np.asarray(group.count(DT, epoch).values),
    }
    taken, found = in_turns(calls, 7)
    a, b = found["tectum"], found["pynapple TsGroup.count"]
    n = min(len(a), len(b))
    shown("binning", taken, int((a[:n] != b[:n]).sum()), a.size)

    starts = np.arange(0.0, DURATION - LENGTH + 1e-9, 1.0)
    spans = [nap.IntervalSet(s, s + LENGTH) for s in starts]

    def ours() -> np.ndarray:
        windows = spikes.bin(DT).windows(LENGTH, hop=1.0).values  # (window, time, unit), a view
        return np.asarray([int(window.sum()) for window in windows])

    def theirs() -> np.ndarray:
        return np.asarray([int(group.count(DT, span).values.sum()) for span in spans])

    taken, found = in_turns({"tectum": ours, "pynapple count in each window": theirs}, 2)
    a, b = found["tectum"], found["pynapple count in each window"]
    shown(f"{len(starts)} windows of 2 s every 1 s", taken, int((a != b).sum()), a.size)

    events = np.sort(rng.uniform(10, DURATION - 10, 500))
    around = nap.Ts(events)

    def peri() -> np.ndarray:
        return spikes.epochs(events, (-1.0, 1.0), DT).values.numpy()

    def peri_theirs() -> list[Any]:
        made = nap.compute_perievent(group, around, (-1.0, 1.0))
        return [made[k].count(DT, nap.IntervalSet(-1.0, 1.0)).values for k in made]

    taken, found = in_turns({"tectum": peri, "pynapple perievent and count": peri_theirs}, 2)
    a, b = found["tectum"], found["pynapple perievent and count"]
    differ = sum(int((np.asarray(b[k])[:199] != a[:, :199, k].T).sum()) for k in range(N_UNITS))
    shown("counts around 500 events", taken, differ, a.size)


if __name__ == "__main__":
    main(int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000)
