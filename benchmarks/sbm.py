"""Weighted block model against other community methods on LFR-like graphs of 125 units.

Run: ``python benchmarks/sbm.py [--graphs 2] [--out FILE]`` (under two minutes). Every edge is entered once and the
number of blocks is chosen without the truth; the spectral baseline is told the true number and says so. Scores are
adjusted mutual information (0 by chance).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from tectum.datasets.simulate.graphs import weighted_lfr
from tectum.stats.clustering import adjusted_mutual_information
from tectum.stats.graphs import fit_block_model, sample_partitions, spectral_partition

SETTINGS = {  # mixing of edges, mixing of weights, strength exponent, mean degree
    "Net1": (0.5, 0.5, 0.5, 25.0),
    "Net2": (0.5, 0.5, 1.0, 25.0),
    "Net3": (0.5, 0.5, 2.0, 25.0),
    "Net4": (0.25, 0.5, 2.0, 25.0),
    "Net6": (0.75, 0.5, 2.0, 25.0),
    "Net7": (0.5, 0.5, 2.0, 10.0),
    "Net8": (0.5, 0.25, 2.0, 25.0),
    "Net9": (0.5, 0.75, 2.0, 25.0),
}


def louvain(weights: Tensor, seed: int) -> Tensor | None:
    try:
        import networkx
    except ImportError:
        return None
    graph = networkx.from_numpy_array(weights.numpy())
    labels = torch.empty(len(weights), dtype=torch.int64)
    for block, members in enumerate(networkx.community.louvain_communities(graph, seed=seed)):
        labels[list(members)] = block
    return labels


def compare(n_graphs: int) -> list[str]:
    lines = [
        "| net | true blocks | SBM auto | family | found | SBM exp | Louvain | spectral, true number | SBM s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (mixing, weight_mixing, beta, degree) in SETTINGS.items():
        rows = []
        for seed in range(n_graphs):
            sim = weighted_lfr(
                mean_degree=degree,
                mixing=mixing,
                weight_mixing=weight_mixing,
                strength_exponent=beta,
                random_state=seed,
            )
            truth, began = sim.truth, time.perf_counter()
            fit = fit_block_model(sim.data, seed=seed)
            seconds = time.perf_counter() - began
            exp = fit_block_model(sim.data, weight_model="exp", seed=seed)
            peers = [exp.partition, louvain(sim.data, seed), spectral_partition(sim.data, truth.n_blocks, seed=seed)]
            scores = [
                float("nan") if labels is None else float(adjusted_mutual_information(labels, truth.blocks))
                for labels in (fit.partition, *peers)
            ]
            rows.append((truth.n_blocks, fit.weight_model, fit.n_blocks, seconds, *scores))
        mean = [sum(row[k] for row in rows) / n_graphs for k in range(3, 8)]
        true, found = (", ".join(str(row[k]) for row in rows) for k in (0, 2))
        families = ", ".join(sorted({row[1] for row in rows}))
        lines.append(
            f"| {name} | {true} | {mean[1]:.2f} | {families} | {found} | {mean[2]:.2f} | {mean[3]:.2f} "
            f"| {mean[4]:.2f} | {mean[0]:.2f} |"
        )
    return lines


def timing() -> list[str]:
    lines = ["| threads | fit, s (median of 3) | process s | sampling 50 + 200 sweeps, s |", "|---|---|---|---|"]
    data = weighted_lfr(random_state=1).data
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        walls, cpus = [], []
        for seed in range(3):
            wall, cpu = time.perf_counter(), time.process_time()
            fit = fit_block_model(data, seed=seed)
            walls.append(time.perf_counter() - wall)
            cpus.append(time.process_time() - cpu)
        wall = time.perf_counter()
        sample_partitions(data, fit.partition, weight_model=fit.weight_model)
        wall = time.perf_counter() - wall
        lines.append(f"| {threads} | {sorted(walls)[1]:.2f} | {sorted(cpus)[1]:.2f} | {wall:.2f} |")
    torch.set_num_threads(before)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=2, help="graphs a setting")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    text = "\n".join([*timing(), "", *compare(options.graphs)])
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
