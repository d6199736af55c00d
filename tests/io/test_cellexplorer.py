"""CellExplorer's folders: equality with what was written, contradictions, damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from writers import matlab as writer
from writers.mutate import survive

import tectum
from tectum.core.errors import InputError, LoadError, TectumWarning
from tectum.io.cellexplorer import read_cellexplorer

VERSIONS = ["6", "7", "7.3"]


def write(folder: Path, version: str = "7", base: str = "rat1_230102", **changes: Any) -> list[np.ndarray]:
    """Write three cells with metrics and a session of two epochs."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    trains = [np.sort(rng.uniform(0, 100, n)) for n in (40, 0, 25)]
    spikes: dict[str, Any] = {
        "times": [t[:, None] for t in trains],
        "UID": np.array([1.0, 2.0, 3.0]),
        "cluID": np.array([4.0, 9.0, 12.0]),
        "shankID": np.array([1.0, 1.0, 2.0]),
        "region": ["CA1", "CA1", "CA3"],
        "numcells": np.array(3.0),
        "sr": np.array(20_000.0),
        "sessionName": base,
        "maxWaveformCh1": np.array([5.0, 6.0, 40.0]),
    }
    writer.write(folder / f"{base}.spikes.cellinfo.mat", {"spikes": spikes | changes}, version)
    metrics = {
        "putativeCellType": ["Pyramidal Cell", "Narrow Interneuron", "Pyramidal Cell"],
        "general": {"basename": base},
    }
    writer.write(folder / f"{base}.cell_metrics.cellinfo.mat", {"cell_metrics": metrics}, version)
    epochs = [
        {"name": "sleep", "startTime": np.array(0.0), "stopTime": np.array(60.0)},
        {"name": "run", "startTime": np.array(60.0), "stopTime": np.array(100.0)},
    ]
    about = {"general": {"name": base, "duration": np.array(100.0)}, "animal": {"name": "rat1"}, "epochs": epochs}
    writer.write(folder / f"{base}.session.mat", {"session": about}, version)
    return trains


@pytest.mark.parametrize("version", VERSIONS)
def test_a_folder_equals_what_was_written(version: str, tmp_path: Path) -> None:
    trains = write(tmp_path, version)
    found = tectum.read(tmp_path)
    assert (found.subject, found.session) == ("rat1", "rat1_230102")
    spikes = found["spikes"]
    for ours, train in zip(spikes.trains(), trains, strict=True):
        np.testing.assert_allclose(ours.numpy(), train, rtol=0, atol=1e-9)
    assert spikes.units["id"].tolist() == [1, 2, 3]
    assert spikes.units["cluster"].tolist() == [4, 9, 12]
    assert spikes.units["shank"].tolist() == [1, 1, 2]
    assert spikes.units["area"].tolist() == ["CA1", "CA1", "CA3"]
    assert spikes.units["maxWaveformCh1"].tolist() == [5, 6, 40]
    assert spikes.units["putativeCellType"].tolist()[1] == "Narrow Interneuron"
    assert "sr" not in spikes.units
    assert spikes.span.pairs() == [(0.0, 100.0)]
    assert found["epochs"].pairs() == [(0.0, 60.0), (60.0, 100.0)]
    assert found["epochs"].columns["name"].tolist() == ["sleep", "run"]
    assert set(tectum.read(tmp_path / "rat1_230102.spikes.cellinfo.mat")) == {"spikes", "epochs"}


def test_spikes_alone(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("session.mat", "cell_metrics.cellinfo.mat"):
        (tmp_path / f"rat1_230102.{name}").unlink()
    found = read_cellexplorer(tmp_path, subject="x")
    assert set(found) == {"spikes"}
    assert (found.subject, found.session) == ("x", "rat1_230102")
    assert any("assume" in str(step) for step in found["spikes"].history)


@pytest.mark.parametrize("version", VERSIONS)
def test_metrics_alone_keep_the_spikes_once_more(version: str, tmp_path: Path) -> None:
    times = [np.array([0.5, 1.0]), np.zeros(0), np.array([0.25])]
    metrics = {"cell_metrics": {"UID": np.array([3.0, 5.0, 8.0]), "spikes": {"times": times}}}
    file = tmp_path / "rat.cell_metrics.cellinfo.mat"
    writer.write(file, metrics, version)
    for path in (file, tmp_path):
        spikes = tectum.read(path)["spikes"]
        assert [train.tolist() for train in spikes.trains()] == [train.tolist() for train in times]
        assert spikes.units["id"].tolist() == [3, 5, 8]
    writer.write(file, {"cell_metrics": {"UID": np.array([3.0])}}, version)
    with pytest.raises(LoadError, match=r"cell_metrics.cellinfo.mat: spikes.times: expected a cell array .*NoneType"):
        tectum.read(file)


def test_several_recordings(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, base="rat2")
    with pytest.raises(InputError, match=r"one recording, got rat1_230102, rat2; pass basename="):
        tectum.read(tmp_path)
    assert read_cellexplorer(tmp_path, basename="rat2").session == "rat2"
    with pytest.raises(LoadError, match="rat3.*an existing file: it provides the spikes"):
        read_cellexplorer(tmp_path, basename="rat3")


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"times": np.zeros(3)}, LoadError, "spikes.times: expected a cell array of times, got ndarray"),
        (
            {"times": [np.zeros((2, 2))]},
            LoadError,
            r"spikes\.times\{1\}: expected a row or a column, got shape \(2, 2\)",
        ),
        ({"times": ["a", "b", "c"]}, LoadError, r"spikes\.times\{1\}: expected an array of numbers, got a str"),
        ({"times": [np.array([2.0, 1.0])]}, InputError, "negative interval before event 1; pass fix='sort'"),
        (
            {"times": [np.array([2e6, 3e6])]},
            InputError,
            "times in s inside the support .*divide samples by the sampling rate",
        ),
    ],
)
def test_contradictions(changes: Any, error: type[Exception], says: str, tmp_path: Path) -> None:
    write(tmp_path, **changes)
    with pytest.raises(error, match=says):
        tectum.read(tmp_path)


def test_spikes_beyond_the_session_are_told(tmp_path: Path) -> None:
    write(tmp_path, times=[np.array([1.0, 2.0, 300.0])])
    with pytest.warns(TectumWarning, match="1 of 3 events lie outside the support"):
        tectum.read(tmp_path)


def test_other_files(tmp_path: Path) -> None:
    writer.write(tmp_path / "a.spikes.cellinfo.mat", {"spikes": np.zeros(2)})
    with pytest.raises(LoadError, match=r"a\.spikes\.cellinfo\.mat: spikes: expected a struct, got ndarray"):
        tectum.read(tmp_path)
    (tmp_path / "b.mat").write_bytes(b"x")
    with pytest.raises(LoadError, match=r"a file \*\.spikes\.cellinfo\.mat, got b\.mat"):
        read_cellexplorer(tmp_path / "b.mat")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["7", "7.3"])
def test_damage(version: str, tmp_path: Path) -> None:
    write(tmp_path / "s", version)
    fixed = ("spikes.n_units",) if version == "7" else ()
    count = survive(lambda p: read_cellexplorer(p), tmp_path / "s", tmp_path / "work", n=300, fixed=fixed)
    assert count["refused"] > 60
