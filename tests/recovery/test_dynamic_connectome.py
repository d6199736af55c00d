"""DynamicConnectome finds the motifs that were simulated, at the thresholds of its specification, and none in noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tectum import DynamicConnectome, DynamicConnectomeResult, Recording
from tectum.datasets import simulate
from tectum.datasets.simulate.connectome import ConnectomeTruth, roll_units
from tectum.models.dynamic_connectome.pairs import from_matrix
from tectum.models.dynamic_connectome.scores import auroc, average_precision
from tectum.stats.clustering import adjusted_mutual_information

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:DynamicConnectome. no partition of motif"),
    pytest.mark.filterwarnings("ignore:DynamicConnectome. .* pairs were never recorded together"),
]

SEEDS = range(6)
SURROGATES = 100  # the fewest with which Holm's correction over 5 motifs can reach 5 / 101 < 0.05


def similarity(result: DynamicConnectomeResult, truth: ConnectomeTruth) -> Tensor:
    """Cosine in time x in animals x in pairs of every true motif with every fitted one: (R true, R fitted)."""
    n_time = result.sizes["time"]
    size = truth.windows.shape[1] // n_time
    window = truth.windows[:, : n_time * size].double().reshape(-1, n_time, size).mean(2)
    true = (window.T, truth.loadings.double(), truth.pairs.double().T)
    found = (result.time_factor.double(), result.subject_factor.double(), _pairs(result).T)
    cosines = [normalize(a, dim=0).T @ normalize(b, dim=0) for a, b in zip(true, found, strict=True)]
    return cosines[0] * cosines[1] * cosines[2]


def _pairs(result: DynamicConnectomeResult) -> Tensor:
    """Pair factors on the whole upper triangle: (R, P)."""
    return torch.stack([from_matrix(result.affinity_matrix(r)) for r in range(result.n_components)]).double()


def scores(result: DynamicConnectomeResult, truth: ConnectomeTruth) -> dict[str, float]:
    """Mean over true motifs of what the specification asks for."""
    from scipy.optimize import linear_sum_assignment

    table = similarity(result, truth)
    true, found = (torch.from_numpy(x) for x in linear_sum_assignment(-table.numpy()))
    n_time = result.sizes["time"]
    size = truth.windows.shape[1] // n_time
    window = truth.windows[:, : n_time * size].reshape(-1, n_time, size).double().mean(2) >= 0.5
    pairs = _pairs(result)[found]
    parts = [_partition_score(result, truth, r, k) for r, k in zip(true.tolist(), found.tolist(), strict=True)]
    return {
        "fms": float(table[true, found].mean()),
        "time": float(auroc(result.time_factor.T[found], window[true]).mean()),
        "pairs": float(auroc(pairs, truth.pairs[true]).mean()),
        "precision": float(average_precision(pairs, truth.pairs[true]).mean()),
        "ami": sum(parts) / len(parts),
    }


def _partition_score(result: DynamicConnectomeResult, truth: ConnectomeTruth, true: int, found: int) -> float:
    """Adjusted mutual information of partition and true groups, over the units that take part."""
    member = truth.groups[true] >= 0
    return float(adjusted_mutual_information(result.partition[found][member], truth.groups[true][member]))


def mean_scores(world: str, seeds: Iterable[int], **options: Any) -> dict[str, float]:
    """Fit simulated worlds of several seeds and average their scores."""
    found = []
    for seed in seeds:
        sim = getattr(simulate, world)(random_state=seed)
        found.append(scores(fit(sim.data, **options), sim.truth))
    return {name: sum(each[name] for each in found) / len(found) for name in found[0]}


def fit(data: list[Recording], **options: Any) -> DynamicConnectomeResult:
    plain = {"restarts": 10, "assume_aligned": True, "device": "cpu"}
    return DynamicConnectome(**{**plain, **options}).fit(data).result_


def rolled(data: list[Recording], seed: int) -> list[Recording]:
    """Every unit of every animal rolled by itself, by 20 s or more."""
    draw = torch.Generator().manual_seed(seed)
    return [dataclasses.replace(rec, data=roll_units(rec.values, min_shift=80, generator=draw)) for rec in data]


def test_motif_world_at_the_defaults() -> None:
    found = mean_scores("motif_world", SEEDS, rank=5, bin=None)
    assert found["fms"] >= 0.66, found
    assert found["time"] >= 0.98, found
    assert found["pairs"] >= 0.975, found
    assert found["precision"] >= 0.90, found
    assert found["ami"] >= 0.75, found


def test_motif_world_as_in_the_paper() -> None:
    found = mean_scores(
        "motif_world", SEEDS, rank=5, bin=None, affinity="differential", weight_model="exp", partition_limit=0
    )
    assert found["fms"] >= 0.53, found
    assert found["pairs"] >= 0.94, found


def test_rolled_units_hold_no_motif() -> None:
    similar = []
    for seed in SEEDS:
        sim = simulate.motif_world(random_state=seed)
        result = fit(rolled(sim.data, seed), rank=5, bin=None, partition_limit=0)
        similar.append(scores(result, sim.truth)["fms"])
    assert sum(similar) / len(similar) <= 0.20, similar


def test_surrogates_tell_motifs_from_noise() -> None:
    sim = simulate.motif_world(random_state=0)
    options = {"surrogates": SURROGATES, "restarts": 3, "tol": 1e-4, "partition_limit": 0}
    noise = fit(rolled(sim.data, 0), rank=5, **options)
    assert noise.surrogate_p_holm is not None
    assert bool((noise.surrogate_p_holm >= 0.05).all()), noise.surrogate_p_holm
    true = fit(sim.data, rank=4, **options)
    assert true.surrogate_p_holm is not None
    assert bool((true.surrogate_p_holm < 0.05).all()), true.surrogate_p_holm


def test_stimulus_locked_motifs_and_the_correlation_baseline() -> None:
    found = mean_scores("stimulus_locked", range(4), rank=6, partition_limit=0)
    baseline = mean_scores("stimulus_locked", range(4), rank=6, partition_limit=0, affinity="sliding_abs_corr")
    assert found["fms"] >= 0.57, found
    assert found["time"] >= 0.97, found
    assert found["pairs"] >= 0.98, found
    assert found["precision"] >= 0.90, found
    assert found["fms"] >= baseline["fms"] + 0.08, (found, baseline)
