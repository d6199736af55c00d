"""From spikes on disk to figures of the posterior: read, fit, save, load, report; both methods for spike counts."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tectum
from tectum.evaluate import matched_accuracy

RATE = 30_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Kilosort and phy leave: six units over 120 s, three busy in one half of every 20 s, three in the other."""
    made, rng = tmp_path_factory.mktemp("phy"), np.random.default_rng(100)
    times, cluster = [], []
    for unit in range(6):
        start = np.arange(0, 120, 0.1)
        counts = rng.poisson(np.where((start % 20 < 10) == (unit < 3), 1.2, 0.3))
        times.append(np.repeat(start, counts) + 0.1 * rng.random(counts.sum()))
        cluster.append(np.full(counts.sum(), 10 + unit))
    order = np.concatenate(times).argsort()
    np.save(made / "spike_times.npy", (np.concatenate(times)[order] * RATE).astype(np.uint64))
    np.save(made / "spike_clusters.npy", np.concatenate(cluster)[order].astype(np.int32))
    (made / "params.py").write_text(f"sample_rate = {RATE}.\n")
    rows = "".join(f"{10 + unit}\tgood\n" for unit in range(6))
    (made / "cluster_group.tsv").write_text("cluster_id\tgroup\n" + rows)
    return made


def shown(model: Any, folder: Path, least: int) -> Any:
    """Save and load a model and write the report, which draws its figures; return the result as loaded."""
    model.save(folder / "model.safetensors")
    result = tectum.load(folder / "model.safetensors").result_
    tectum.Report("session").add(result).save(folder / "report.html")
    text = (folder / "report.html").read_text()
    assert text.count("<img") + text.count("<svg") >= least
    return result


def test_switching_glm_from_a_folder_of_phy(folder: Path, tmp_path: Path) -> None:
    spikes = tectum.read(folder)
    assert isinstance(spikes, tectum.Spikes)
    assert spikes.n_units == 6
    model = tectum.HMMGLM(n_states=2, bin=0.1, n_lags=3, starts=3, one_hot_rounds=6, device="cpu").fit(spikes)
    result = shown(model, tmp_path, 11)
    truth = (result.time() % 20 >= 10).long()
    assert matched_accuracy(result.states[0], truth) > 0.97
    assert result.units == [f"{10 + unit}" for unit in range(6)]
    assert torch.equal(result.states, model.result_.states)


def test_bi_clusters_from_a_folder_of_phy(folder: Path, tmp_path: Path) -> None:
    counts = tectum.read(folder).bin(0.5)
    model = tectum.BiCluster(chains=2, burn=10, draws=6, snapshots=3, max_states=3, max_clusters=4, n_factors=1,
                             held_out=0.1, device="cpu", warn_unconverged=False)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = shown(model.fit(counts), tmp_path, 6)
    assert sum(result.groups(), []) == [f"{10 + unit}" for unit in range(6)]  # noqa: RUF017
    if result.n_groups == 1:  # three units mirror the others: one path may serve both, with loadings of both signs
        sign = result.mean_loading[:, 1].sign()
        assert torch.equal(sign[:3], -sign[3:])
    assert torch.equal(result.states, model.result_.states)
