"""Kilosort and phy: equality with NumPy, whose label counts, nothing is run, and damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from writers import phy as writer
from writers.mutate import survive

import tectum
from tectum.core.errors import InputError, LoadError, TectumWarning
from tectum.io.phy import read_phy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    writer.write_phy(tmp_path / "ks")
    return tmp_path / "ks"


@pytest.mark.parametrize("dtype", [np.uint64, np.int32, np.int64])
@pytest.mark.parametrize("column", [True, False])
def test_every_spike_is_where_numpy_says(dtype: Any, column: bool, tmp_path: Path) -> None:
    made = writer.write_phy(tmp_path / "ks", dtype=dtype, column=column)
    found = read_phy(tmp_path / "ks", groups=None)
    assert found.units["id"].tolist() == [2, 5, 9, 11]
    times, cluster = made["spike_times"].reshape(-1), made["spike_clusters"]
    for k, train in enumerate(found.trains()):
        expected = times[cluster == found.units["id"][k]] / 30_000.0
        np.testing.assert_allclose(train.numpy(), expected, rtol=0, atol=1e-9)
        mean = made["amplitudes"][cluster == found.units["id"][k]].mean()
        assert found.units["amplitude"][k] == pytest.approx(mean)


def test_the_label_of_a_person_wins_over_the_sorters(folder: Path) -> None:
    found = read_phy(folder, groups=None)
    assert found.units["quality"].tolist() == ["good", "good", "noise", "good"]
    np.testing.assert_array_equal(found.units["depth"], [20.5, 40, 0, np.nan])
    kept = tectum.read(folder)
    assert kept.units["id"].tolist() == [2, 5, 11]
    assert kept.history[0]["by_quality"] == {"good": 3, "noise": 1}
    assert kept.history[0]["units"] == 4
    assert read_phy(folder, groups=["noise"]).units["id"].tolist() == [9]


def test_only_the_sorters_labels(folder: Path) -> None:
    (folder / "cluster_group.tsv").unlink()
    (folder / "cluster_info.tsv").unlink()
    with pytest.warns(TectumWarning, match=r"clusters \[11\] are in no table"):
        found = read_phy(folder, groups=None)
    assert found.units["quality"].tolist() == ["good", "mua", "good", "unknown"]
    with pytest.warns(TectumWarning, match=r"\[11\]"):
        assert read_phy(folder, groups=("mua",)).units["id"].tolist() == [5, 11]


def test_no_labels_at_all(folder: Path) -> None:
    for path in folder.glob("*.tsv"):
        path.unlink()
    with pytest.raises(InputError, match=r"units of \['good'\], got 4 unsorted; pass groups=None"):
        read_phy(folder)
    assert set(read_phy(folder, groups=None).units["quality"]) == {"unsorted"}


def test_templates_stand_in_for_clusters(folder: Path) -> None:
    (folder / "spike_clusters.npy").unlink()
    assert read_phy(folder, groups=None).units["id"].tolist() == [2, 5, 9]


def test_params_are_never_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found = read_phy(folder)
    assert not (folder / "ran").exists()
    assert found.meta["params"]["n_channels_dat"] == 4
    assert "surprise" not in found.meta["params"]


def test_the_raw_file_gives_the_support(folder: Path) -> None:
    assert any("assume" in str(step) for step in read_phy(folder).history)
    np.zeros((30_000 * 25, 4), np.int16).tofile(folder / "recording.dat")
    assert read_phy(folder).span.pairs() == [(0.0, 25.0)]


@pytest.mark.parametrize("params", ["sample_rate = 0", "sample_rate = fast()", "n_channels_dat = 4", ""])
def test_a_missing_rate_is_asked_for(params: str, tmp_path: Path) -> None:
    writer.write_phy(tmp_path, params=params)
    with pytest.raises(InputError, match=r"params\.py: sample_rate: expected a sampling rate above 0 Hz.*rate="):
        read_phy(tmp_path)
    assert len(read_phy(tmp_path, rate=20_000.0)) > 0


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("spike_times", np.zeros(200), r"spike_times\.npy: expected an array of numbers, got dtype float64"),
        ("spike_times", np.zeros((100, 2), np.int64), r"spike_times\.npy: expected one column"),
        ("spike_clusters", np.zeros(199, np.int32), r"spike_clusters\.npy: expected 200 spikes, got 199"),
        ("amplitudes", np.zeros(3), r"amplitudes\.npy: expected 200 spikes as spike_times\.npy, got 3"),
        ("spike_times", np.array([None] * 200), r"spike_times\.npy: expected an array of numbers, got dtype object"),
        ("spike_times", np.full(200, (1 << 64) - 1, np.uint64), r"spike_times\.npy: expected samples below 2\*\*63"),
    ],
)
def test_wrong_arrays_are_named(name: str, array: np.ndarray, says: str, folder: Path) -> None:
    np.save(folder / f"{name}.npy", array, allow_pickle=True)
    with pytest.raises(LoadError, match=says):
        read_phy(folder)


def test_times_that_step_back(folder: Path) -> None:
    times = np.load(folder / "spike_times.npy").reshape(-1)
    np.save(folder / "spike_times.npy", times[::-1])
    with pytest.raises(InputError, match=r"spike_times\.npy: expected times in order.*negative interval before event"):
        read_phy(folder)
    assert len(read_phy(folder, fix="sort", groups=None)) == 200


def test_a_raw_file_far_too_short_is_noticed(folder: Path) -> None:
    np.zeros((3000, 4), np.int16).tofile(folder / "recording.dat")
    times = np.load(folder / "spike_times.npy")
    np.save(folder / "spike_times.npy", times + 300_000)
    with pytest.raises(InputError, match="divide samples by the sampling rate"):
        read_phy(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cluster_id\tgroup\n2\tgood\n2\tmua\n", "each cluster once, got a cluster twice"),
        ("cluster\tgroup\n2\tgood\n", "a column cluster_id of integers"),
        ("cluster_id\tgroup\n2.5\tgood\n", "a column cluster_id of integers"),
        ("cluster_id\tgroup\n2\n", "1 values in row 2, 2 names"),
        ("", "no rows of text"),
    ],
)
def test_wrong_tables_are_named(text: str, says: str, folder: Path) -> None:
    (folder / "cluster_group.tsv").write_text(text)
    with pytest.raises(LoadError, match=rf"cluster_group\.tsv.*{says}"):
        read_phy(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "spike_clusters.npy").unlink()
    (folder / "spike_templates.npy").unlink()
    with pytest.raises(LoadError, match=r"spike_clusters\.npy: expected an existing file.*the cluster of each spike"):
        read_phy(folder)
    (folder / "spike_times.npy").unlink()
    with pytest.raises(LoadError, match=r"spike_times\.npy: expected an existing file.*the sample of each spike"):
        read_phy(folder)


@pytest.mark.slow
def test_damage(folder: Path, tmp_path: Path) -> None:
    count = survive(lambda p: read_phy(p, groups=None), folder, tmp_path / "work", n=300, fixed=())
    assert count["refused"] > 60
    assert count["loaded"] > 20
