"""Sweeps of BiCluster on the published design, their scaling, and the public reference implementation beside them.

Run: ``python benchmarks/biclustering.py [--threads N] [--reference CHECKOUT --reference-python PYTHON] [--large]
[--out FILE]`` (a minute; with ``--large`` a whole fit of 99 units, 10,000 bins and four chains, ten minutes more; with
the reference as long as ``--seconds`` says). CHECKOUT is a clone of weigcdsb/bi_clustering and PYTHON an interpreter
that can run it, see ``biclustering_reference.py``; nothing of it is copied here. The reference simulates the counts;
both sides work on these, one after the other, one thread each, ours from several seeds. Times are of the process's
CPU: those of a clock depend on what else the machine does. Draws of a sampler leave the true partition now and then,
the later the longer it runs: times from which every draw is right depend on the bound, so no ratio of them is given.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components

from tectum import BiCluster
from tectum.core.errors import TectumWarning
from tectum.core.random import generator, spawn
from tectum.datasets.simulate.biclusters import biclusters
from tectum.models.biclustering.initial import initial_state
from tectum.models.biclustering.model import Data, Hyper, State, make_data, make_hyper
from tectum.models.biclustering.run import Chains, Plan, make_step, start_tally
from tectum.models.biclustering.sweep import sweep
from tectum.stats.clustering import adjusted_rand

OUR_SEEDS = (0, 1, 2)


def world(n_units: int, n_time: int) -> tuple[Data, Hyper]:
    """Simulate the published design at a size."""
    sim = biclusters(3, max(1, n_units // 3), n_time=n_time, design="published", random_state=0)
    y = sim.data.values.T.double()
    keep = y.sum(-1) > 0
    data = make_data(y[keep], torch.ones_like(y[keep], dtype=torch.bool), starts=torch.arange(n_time) == 0)
    return data, published_hyper(y[keep])


def published_hyper(counts: torch.Tensor) -> Hyper:
    """Return the published constants for counts (unit, bin)."""
    return make_hyper(
        len(counts), n_factors=2, n_states=10, n_slots=20, zeta=0.2, alpha=5.0, gamma=5.0, kappa=10.0, r_shape=1.0,
        r_rate=1.0, poisson=False, like=counts,
    )  # fmt: skip


def seconds_per_sweep(n_chains: int, n_units: int, n_time: int, *, n_sweeps: int = 30) -> float:
    """Median time of a sweep after a warm-up."""
    data, hyper = world(n_units, n_time)
    with torch.no_grad():
        state: State = initial_state(n_chains, data, hyper, generator(0))
        times = []
        for n in range(n_sweeps + 5):
            began = time.perf_counter()
            state = sweep(state, data, hyper, generator(spawn(0, n)))
            times.append(time.perf_counter() - began)
    return float(np.median(times[5:]))


class Race(NamedTuple):
    """How a run came to the true partition of the units."""

    step: float
    """Median seconds of a sweep or an iteration."""
    first: float
    """Seconds until the partition is right for the first time; infinite if never."""
    stays: float
    """Seconds from which every draw is right to the end; infinite if the last is not."""
    point: float
    """Seconds from which the partition of most pairs, over the later half of the draws so far, is right to the end."""
    share: float
    """Share of right partitions in the second half of the run."""
    total: float
    """Seconds of the whole run."""


def race(seconds: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> Race:
    """Summarise a run: CPU seconds since the beginning (iteration,), labels (iteration, unit), true labels (unit,)."""
    right = np.array([is_right(torch.from_numpy(x), truth) for x in labels])
    point = np.array([is_right(torch.from_numpy(x), truth) for x in point_partitions(labels)])
    first = float(seconds[right.argmax()]) if right.any() else np.inf
    share = float(right[len(right) // 2 :].mean())
    step, total = float(np.median(np.diff(seconds))), float(seconds[-1])
    return Race(step, first, time_to_stay(seconds, right), time_to_stay(seconds, point), share, total)


def time_to_stay(seconds: np.ndarray, right: np.ndarray) -> float:
    """Return the seconds from which all are right, or infinity."""
    wrong = np.flatnonzero(~right)
    after = int(wrong[-1]) + 1 if len(wrong) else 0
    return float(seconds[after]) if after < len(right) else np.inf


def point_partitions(labels: np.ndarray) -> list[np.ndarray]:
    """Return after every iteration the units joined in most draws of the later half so far, as labels (unit,)."""
    same = labels[:, :, None] == labels[:, None, :]
    sums = np.concatenate([np.zeros((1, *same.shape[1:])), same.cumsum(0)])
    ends = range(1, len(labels) + 1)
    return [connected_components(sums[n] - sums[n // 2] > (n - n // 2) / 2)[1] for n in ends]


def reference_run(checkout: Path, python: Path, *, seconds: float) -> tuple[Race, np.ndarray, np.ndarray]:
    """Run the reference as published up to a bound: the race, the counts (unit, bin) and the true labels."""
    with tempfile.TemporaryDirectory() as folder:
        out, script = Path(folder) / "seen.npz", Path(__file__).with_name("biclustering_reference.py")
        subprocess.run([str(python), str(script), str(checkout), str(out), "--seconds", str(seconds)], check=True)
        with np.load(out, allow_pickle=False) as seen:
            counts, truth = seen["counts"], seen["truth"]
            return race(seen["cpu"], seen["labels"], truth), counts, truth


def is_right(labels: torch.Tensor, truth: np.ndarray) -> bool:
    """Whether a partition has an adjusted Rand index of 0.95 with the truth."""
    return float(adjusted_rand(labels.long(), torch.from_numpy(truth).long())) >= 0.95


def our_run(counts: np.ndarray, truth: np.ndarray, *, seed: int, n_sweeps: int = 500) -> Race:
    """Run one chain from the start on, moves of the burn-in included."""
    y = torch.from_numpy(counts).double()
    data = make_data(y, torch.ones_like(y, dtype=torch.bool), starts=torch.arange(y.shape[1]) == 0)
    hyper = published_hyper(y)
    plan = Plan(n_sweeps, 1, 1, 1, seed, torch.zeros(0, dtype=torch.int64), y, y.dtype)
    step, times, labels = make_step(data, hyper, plan), [], []
    began = time.process_time()
    with torch.no_grad():
        state = initial_state(1, data, hyper, generator(spawn(seed, "start")))
        chains = Chains(state, start_tally(state, plan), 0)
        for _ in range(n_sweeps):
            chains = step(chains, generator(seed))  # draws come from the seed of the plan
            times.append(time.process_time() - began)
            labels.append(chains.state.labels[0].numpy().copy())
    return race(np.array(times), np.array(labels), truth)


def against_reference(options: argparse.Namespace) -> list[str]:
    """Both sides on the counts of the reference, as lines of a table."""
    theirs, counts, truth = reference_run(options.reference, options.reference_python, seconds=options.seconds)
    ours = [our_run(counts, truth, seed=seed) for seed in OUR_SEEDS]
    heads = " | ".join(f"tectum, seed {n}" for n in OUR_SEEDS)
    lines = ["", f"| to the true partition, 30 units x 500 bins, CPU s | {heads} | reference |"]
    lines.append("|---" * (len(ours) + 2) + "|")
    for name, what in (("step", "a sweep"), ("first", "a draw right for the first time"),
                       ("point", "point partition right from then on"), ("stays", "every draw right from then on"),
                       ("share", "share of right draws in the second half"), ("total", "whole run")):  # fmt: skip
        lines.append(f"| {what} | {' | '.join(f'{getattr(r, name):.3f}' for r in (*ours, theirs))} |")
    for name, what in (("step", "a sweep"), ("first", "first time"), ("point", "point partition")):
        ratios = [f"{getattr(theirs, name) / getattr(r, name):.1f}" for r in ours]
        lines.append(f"| ratio, {what} | {' | '.join(ratios)} | |")
    return lines


def large_fit() -> list[str]:
    """Fit four chains to 99 units and 10,000 bins, a few sweeps long: time, peak memory, rightness of the groups."""
    sim = biclusters(3, 33, n_time=10_000, design="published", random_state=0)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TectumWarning)  # so short a run has not converged
        model = BiCluster(chains=4, burn=20, draws=10, exchange_every=0, snapshots=5, device="cpu", random_state=0)
        found = model.fit(sim.data).result_
    wall = time.perf_counter() - began
    index = float(adjusted_rand(found.clusters.long().cpu(), sim.truth.clusters))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    line = f"start, 30 sweeps and summary {wall:.0f} s; peak {peak:.2f} GiB; groups: adjusted Rand index {index:.2f}"
    return ["", f"Fit of four chains, 99 units x 10,000 bins: {line}"]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--reference-python", type=Path)
    parser.add_argument("--seconds", type=float, default=900.0, help="bound of the reference's run")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    one, four = seconds_per_sweep(1, 30, 500), seconds_per_sweep(4, 30, 500)
    rows = [("one chain, 30 units x 500 bins", one), ("four chains, 30 units x 500 bins", four)]
    for units, bins in ((60, 500), (120, 500), (30, 1000), (30, 2000), (30, 4000)):
        rows.append((f"one chain, {units} units x {bins} bins", seconds_per_sweep(1, units, bins, n_sweeps=15)))
    if options.large:
        rows.append(("four chains, 99 units x 10000 bins", seconds_per_sweep(4, 99, 10_000, n_sweeps=3)))
    lines = [f"| sweep (threads: {options.threads}) | ms | over one chain, 30 x 500 |", "|---|---|---|"]
    lines += [f"| {name} | {1e3 * t:.1f} | {t / one:.2f} |" for name, t in rows]
    if options.reference is not None:
        lines += against_reference(options)
    lines += large_fit() if options.large else []
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    lines.append(
        f"\nPeak memory of the process: {peak:.2f} GiB; torch {torch.__version__}, threads: {options.threads}."
    )
    text = "\n".join(lines)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
