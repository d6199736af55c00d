"""Sweeps of BiCluster on the published design, their scaling, and the public reference implementation beside them.

Run: ``python benchmarks/biclustering.py [--reference PATH] [--large] [--out FILE]`` (about a minute; with ``--large``
some more, and 4 GiB). The reference is a clone of weigcdsb/bi_clustering; its loop lives in notebooks whose names
differ between versions, so that PATH is a script of yours that runs N iterations of it on the counts saved in
``counts.npy`` (unit, bin) of the working folder and takes N as its argument; the time of N=0 is subtracted. Nothing of
it is copied here. All times are of one thread.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from tectum.core.random import generator, spawn
from tectum.datasets.simulate.biclusters import biclusters
from tectum.models.biclustering.initial import initial_state
from tectum.models.biclustering.model import Data, Hyper, State, make_data, make_hyper
from tectum.models.biclustering.sweep import sweep

ITERATIONS = 10  # of the reference


def world(n_units: int, n_time: int) -> tuple[Data, Hyper, torch.Tensor]:
    """Simulate the published design at a size."""
    sim = biclusters(3, max(1, n_units // 3), n_time=n_time, design="published", random_state=0)
    y = sim.data.values.T.double()
    keep = y.sum(-1) > 0
    data = make_data(y[keep], torch.ones_like(y[keep], dtype=torch.bool), starts=torch.arange(n_time) == 0)
    hyper = make_hyper(
        int(keep.sum()), n_factors=2, n_states=10, n_slots=20, zeta=0.2, alpha=5.0, gamma=5.0, kappa=10.0, r_shape=1.0,
        r_rate=1.0, poisson=False, like=y,
    )  # fmt: skip
    return data, hyper, y


def seconds_per_sweep(n_chains: int, n_units: int, n_time: int, *, n_sweeps: int = 30) -> float:
    """Median time of a sweep after a warm-up."""
    data, hyper, _ = world(n_units, n_time)
    with torch.no_grad():
        state: State = initial_state(n_chains, data, hyper, generator(0))
        times = []
        for n in range(n_sweeps + 5):
            began = time.perf_counter()
            state = sweep(state, data, hyper, generator(spawn(0, n)))
            times.append(time.perf_counter() - began)
    return float(np.median(times[5:]))


def seconds_of_reference(script: Path) -> float:
    """Time of an iteration of the reference on the same counts, start-up subtracted."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "counts.npy", world(30, 500)[2].numpy().astype(int))
        took = []
        for n in (0, ITERATIONS):
            began = time.perf_counter()
            subprocess.run([sys.executable, str(script.resolve()), str(n)], cwd=folder, check=True)
            took.append(time.perf_counter() - began)
    return (took[1] - took[0]) / ITERATIONS


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    one, four = seconds_per_sweep(1, 30, 500), seconds_per_sweep(4, 30, 500)
    rows = [("one chain, 30 units x 500 bins", one), ("four chains, 30 units x 500 bins", four)]
    for units, bins in ((60, 500), (30, 1000), (30, 2000)):
        rows.append((f"one chain, {units} units x {bins} bins", seconds_per_sweep(1, units, bins, n_sweeps=15)))
    if options.large:
        rows.append(("four chains, 99 units x 10000 bins", seconds_per_sweep(4, 99, 10_000, n_sweeps=3)))
    lines = ["| sweep (one thread) | ms | over one chain, 30 x 500 |", "|---|---|---|"]
    lines += [f"| {name} | {1e3 * t:.1f} | {t / one:.2f} |" for name, t in rows]
    if options.reference is not None:
        reference = seconds_of_reference(options.reference)
        lines.append(f"| reference iteration, 30 units x 500 bins | {1e3 * reference:.1f} | {reference / one:.2f} |")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines.append(f"\nPeak memory of the process: {peak:.2f} GiB; torch {torch.__version__}, threads: 1.")
    text = "\n".join(lines)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
