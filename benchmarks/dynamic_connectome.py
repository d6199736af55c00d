"""DynamicConnectome: scores of affinities and of a static baseline, time of a fit by step, and a large recording.

Run: ``python benchmarks/dynamic_connectome.py [--seeds 2] [--large] [--out FILE]`` (about two minutes with 2 seeds).
Worlds are those of ``motif_world`` (8 animals, 40 units, 4 motifs); scores are means over motifs and seeds: factor
match (cosine in time x in animals x in pairs), area under the ROC curve of time courses and of pairs, average
precision of pairs, and adjusted mutual information of partition and true groups. The static baseline is told the
number of groups and says so. ``--large`` fits one recording of 1,000 units and 5,000 samples for one sweep
(about ten minutes).
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tectum import DynamicConnectome, DynamicConnectomeResult, Recording
from tectum.core.errors import TectumWarning
from tectum.datasets import simulate
from tectum.datasets.simulate.connectome import ConnectomeTruth
from tectum.models.dynamic_connectome import estimator as steps
from tectum.models.dynamic_connectome.pairs import from_matrix, to_matrix
from tectum.models.dynamic_connectome.scores import auroc, average_precision
from tectum.stats.clustering import adjusted_mutual_information
from tectum.stats.graphs import spectral_partition

AFFINITIES: dict[str, dict[str, Any]] = {
    "corrected (default)": {},
    "corrected, 1-s bins": {"bin": 1.0},
    "differential, exp weights (as in the paper)": {"affinity": "differential", "weight_model": "exp"},
    "differential": {"affinity": "differential"},
    "sliding_abs_corr, 10 s": {"affinity": "sliding_abs_corr"},
    "one motif": {"rank": 1},
}


def scores(result: DynamicConnectomeResult, truth: ConnectomeTruth) -> list[float]:
    """Factor match, AUROC of time, AUROC and precision of pairs, AMI: means over true motifs."""
    from scipy.optimize import linear_sum_assignment

    n_time = result.sizes["time"]
    size = truth.windows.shape[1] // n_time
    window = truth.windows[:, : n_time * size].double().reshape(-1, n_time, size).mean(2)
    pairs = torch.stack([from_matrix(result.affinity_matrix(r)) for r in range(result.n_components)]).double()
    true = (window.T, truth.loadings.double(), truth.pairs.double().T)
    found = (result.time_factor.double(), result.subject_factor.double(), pairs.T)
    table = torch.ones(len(window), result.n_components, dtype=torch.float64)
    for one, other in zip(true, found, strict=True):
        table = table * (normalize(one, dim=0).T @ normalize(other, dim=0))
    rows, columns = (torch.from_numpy(x) for x in linear_sum_assignment(-table.numpy()))
    if len(rows) < len(table):  # fewer motifs than true ones: each is compared with its best
        rows, columns = torch.arange(len(table)), table.argmax(1)
    parts = [
        partition_score(result.partition[k], truth.groups[r])
        for r, k in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    return [
        float(table[rows, columns].mean()),
        float(auroc(result.time_factor.T[columns], window[rows] >= 0.5).mean()),
        float(auroc(pairs[columns], truth.pairs[rows]).mean()),
        float(average_precision(pairs[columns], truth.pairs[rows]).mean()),
        sum(parts) / len(parts),
    ]


def partition_score(labels: Tensor, groups: Tensor) -> float:
    member = groups >= 0
    return float(adjusted_mutual_information(labels[member], groups[member]))


def static(data: Sequence[Recording], truth: ConnectomeTruth) -> list[float]:
    """Absolute correlation over the whole recording, averaged over animals, and its spectral partition."""
    each = []
    for rec in data:
        x = rec.values - rec.values.mean(0)
        each.append(torch.corrcoef(x.T).abs())
    matrix = torch.stack(each).nanmean(0).nan_to_num()
    pairs = from_matrix(matrix).double().expand(len(truth.pairs), -1)
    labels = spectral_partition(to_matrix(from_matrix(matrix)), 6)
    parts = [partition_score(labels, groups) for groups in truth.groups]
    area, precision = auroc(pairs, truth.pairs).mean(), average_precision(pairs, truth.pairs).mean()
    nan = float("nan")
    return [nan, nan, float(area), float(precision), sum(parts) / len(parts)]


def compare(n_seeds: int) -> list[str]:
    sims = [simulate.motif_world(random_state=seed) for seed in range(n_seeds)]
    lines = [
        "| affinity | factor match | AUROC time | AUROC pairs | precision pairs | AMI groups | s a fit |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, options in AFFINITIES.items():
        began, rows = time.perf_counter(), []
        for sim in sims:
            model = DynamicConnectome(**{"rank": 5, "bin": None, "assume_aligned": True, "device": "cpu", **options})
            rows.append(scores(model.fit(sim.data).result_, sim.truth))
        lines.append(line(name, rows, (time.perf_counter() - began) / n_seeds))
    lines.append(line("static abs. correlation, spectral, 6 groups", [static(*sim) for sim in sims], float("nan")))
    return lines


def line(name: str, rows: list[list[float]], seconds: float) -> str:
    cells = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return f"| {name} | " + " | ".join("" if x != x else f"{x:.2f}" for x in (*cells, seconds)) + " |"


def timing() -> list[str]:
    """Seconds of each step of the default fit of one world."""
    spent: dict[str, float] = {}

    def timed(name: str, function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                spent[name] = spent.get(name, 0.0) + time.perf_counter() - began

        return call

    names = {"prepare": "derivatives", "nncp": "factorisation (10 starts)", "describe_motifs": "block models"}
    kept = {name: getattr(steps, name) for name in names}
    dense = steps.PairSource.dense
    for name, title in names.items():
        setattr(steps, name, timed(title, kept[name]))
    steps.PairSource.dense = timed("affinities", dense)  # type: ignore[method-assign]
    sim, began = simulate.motif_world(random_state=0), time.perf_counter()
    DynamicConnectome(rank=5, bin=None, assume_aligned=True, device="cpu").fit(sim.data)
    spent["whole fit"] = time.perf_counter() - began
    for name, function in kept.items():
        setattr(steps, name, function)
    steps.PairSource.dense = dense  # type: ignore[method-assign]
    return ["| step | s |", "|---|---|", *(f"| {name} | {seconds:.2f} |" for name, seconds in spent.items())]


def large(n_units: int, n_time: int) -> list[str]:
    """One sweep on one recording whose tensor is streamed: a pass over the affinities is the unit of cost."""
    draw = torch.Generator().manual_seed(0)
    drive = torch.randn(n_time, 20, generator=draw).cumsum(0) * 0.2
    data = drive[:, torch.arange(n_units) % 20] + torch.randn(n_time, n_units, generator=draw)
    rec = Recording(data=data, dims=("time", "unit"), rate=4.0)
    chunks, passes = steps.PairSource.chunks, []

    def counted(source: Any) -> Any:
        began = time.process_time()
        yield from chunks(source)
        passes.append(time.process_time() - began)

    steps.PairSource.chunks = counted  # type: ignore[method-assign]
    began, used = time.perf_counter(), time.process_time()
    DynamicConnectome(rank=10, bin=None, restarts=1, max_iter=1, partition_limit=0, device="cpu").fit(rec)
    elapsed, used = time.perf_counter() - began, time.process_time() - used
    steps.PairSource.chunks = chunks  # type: ignore[method-assign]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    each = f"{len(passes)} passes of {max(passes, default=0):.0f} s of processor (a sweep is one pass)"
    what = f"{n_units} units, {n_time} samples, rank 10, one start, one sweep"
    return [f"{what}: {elapsed:.0f} s ({used:.0f} s of processor), {each}, peak memory {peak:.2f} GiB"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2, help="worlds a row; 0 skips the tables")
    parser.add_argument("--large", action="store_true", help="also 1,000 units and 5,000 samples")
    parser.add_argument("--units", type=int, default=1000, help="units of --large")
    parser.add_argument("--samples", type=int, default=5000, help="samples of --large")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    warnings.simplefilter("ignore", TectumWarning)
    text = "\n".join([*timing(), "", *compare(options.seeds)] if options.seeds else [])
    if options.large:
        text += "\n\n" + "\n".join(large(options.units, options.samples))
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
