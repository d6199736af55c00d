"""CaImAn, Inscopix, Neurosuite and ALF: equality with independent readers, the traps of each format, and damage."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from writers import others as writer
from writers.mutate import survive

import tectum
from tectum import Spikes
from tectum.core.errors import InputError, LoadError, TectumWarning
from tectum.io.alf import knots, read_alf
from tectum.io.caiman import read_caiman
from tectum.io.inscopix import read_inscopix
from tectum.io.minian import read_minian
from tectum.io.neurosuite import read_neurosuite


def test_caiman_equals_h5py(tmp_path: Path) -> None:
    made = writer.write_caiman(tmp_path / "a.hdf5")
    found = tectum.read(tmp_path / "a.hdf5", subject="m1")
    assert set(found) == {"C", "S", "YrA", "footprints"}  # F_dff is the bytes NoneType
    for name in ("C", "S", "YrA"):
        np.testing.assert_array_equal(found[name].values.numpy(), made[name][[0, 2, 3]].T.astype(np.float32))
        assert found[name].is_lazy
        assert found[name].rate == 20.0
    np.testing.assert_array_equal(found["footprints"].values.numpy(), made["images"][[0, 2, 3]].astype(np.float32))
    np.testing.assert_array_equal(found["C"].coords["unit"]["snr"], made["SNR_comp"][[0, 2, 3]])
    assert found["C"].coords["unit"]["id"].tolist() == [0, 2, 3]
    assert {k: found["C"].history[0][k] for k in ("components", "kept")} == {"components": 4, "kept": 3}
    assert found["S"].units == "deconvolved"
    assert found.subject == "m1"
    assert read_caiman(tmp_path / "a.hdf5", accepted_only=False)["C"].shape == (50, 4)


def test_caiman_without_a_choice_of_components(tmp_path: Path) -> None:
    writer.write_caiman(tmp_path / "a.hdf5", idx=np.bytes_(b"NoneType"))
    found = read_caiman(tmp_path / "a.hdf5")
    assert found["C"].shape == (50, 4)
    assert found["C"].history[0]["filter"] == "none: the file has no idx_components"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fr": 0.0}, r"params/data/fr: expected a sampling rate above 0 Hz.*fs="),
        ({"fr": np.bytes_(b"NoneType")}, "sampling rate above 0 Hz.*fs="),
        ({"S": np.zeros((4, 49))}, r"estimates/S: expected \(4, 50\) as C, got \(4, 49\)"),
        ({"idx": np.array([0, 4])}, "positions below 4"),
        ({"idx": np.array([], int)}, "an accepted component.*accepted_only=False"),
        ({"C": np.zeros(4)}, "estimates/C: expected traces"),
    ],
)
def test_caiman_contradictions(changes: Any, says: str, tmp_path: Path) -> None:
    writer.write_caiman(tmp_path / "a.hdf5", **changes)
    with pytest.raises(LoadError, match=says):
        read_caiman(tmp_path / "a.hdf5")


def test_caiman_pixels_that_do_not_fit(tmp_path: Path) -> None:
    writer.write_caiman(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        file["estimates/dims"][...] = [5, 4]
    with pytest.raises(InputError, match="estimates/A: expected 20 pixels as dims, got shape"):
        read_caiman(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["x"] = 1
    with pytest.raises(LoadError, match="a group estimates with C, got x"):
        read_caiman(tmp_path / "a.hdf5")


def test_inscopix_equals_numpy(tmp_path: Path) -> None:
    made = writer.write_inscopix(tmp_path)
    found = tectum.read(tmp_path / "traces.csv", events=tmp_path / "events.csv")
    table = np.genfromtxt(tmp_path / "traces.csv", delimiter=",", skip_header=2)
    np.testing.assert_array_equal(found["traces"].values.numpy(), table[:, [1, 3]].astype(np.float32))
    np.testing.assert_allclose(found["traces"].time.numpy(), table[:, 0], rtol=0, atol=1e-9)
    assert found["traces"].coords["unit"]["name"].tolist() == ["C0", "C2"]
    spikes = found["events"]
    for k, name in enumerate(("C0", "C2")):
        np.testing.assert_allclose(spikes.train(k).numpy(), made["event_times"][made["cells"] == name], atol=1e-9)
    assert read_inscopix(tmp_path / "traces.csv", accepted_only=False)["traces"].shape == (30, 3)
    assert found["traces"].history[0]["cells"] == 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.replace("accepted", "rejected"), "an accepted cell, got 3 rejected; pass accepted_only=False"),
        (lambda t: t.replace("C2", "C0"), "a name occurs twice"),
        (lambda t: t + "1,2\n", "no two header rows"),
        (lambda t: t + "99.0,a,1,2\n", "could not convert"),
        (lambda t: t + "0.0,1,1,2\n", "strictly increasing times, got 0 at 30"),
    ],
)
def test_inscopix_bad_tables(change: Callable[[str], str], says: str, tmp_path: Path) -> None:
    writer.write_inscopix(tmp_path)
    path = tmp_path / "traces.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(LoadError, match=rf"traces\.csv.*{says}"):
        read_inscopix(path)


def test_neurosuite_equals_numpy(tmp_path: Path) -> None:
    made = writer.write_neurosuite(tmp_path)
    found = tectum.read(tmp_path)
    assert found.session == "rat"
    for k in range(found.n_units):
        res, clu = made[int(found.units["shank"][k])]
        expected = res[clu == found.units["cluster"][k]] / 20_000.0
        np.testing.assert_allclose(found.train(k).numpy(), expected, rtol=0, atol=1e-9)
    assert found.units["cluster"].min() == 2
    assert found.n_units == 6
    noisy = read_neurosuite(tmp_path, keep_noise=True)
    assert len(noisy) == 120
    assert found.history[0]["spikes"] == 120
    assert found.history[0]["kept"] == len(found)
    assert found.units["id"].tolist()[:2] == ["1.2", "1.3"]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("rat.res.1", "1\n2\n", r"rat\.clu\.1: expected a count and 2 clusters, got 60"),
        ("rat.clu.1", "", r"rat\.clu\.1: expected a count and 60 clusters, got 0"),
        ("rat.clu.1", "2\n" + "\n".join("01234" * 12), r"rat\.clu\.1: expected 2 clusters at most, got 5 different"),
        ("rat.res.1", "1\nx\n", r"rat\.res\.1: expected one integer a line, got ValueError"),
        ("rat.xml", "<samplingRate>0</samplingRate>", "a sampling rate above 0 Hz, got 0.0; pass rate="),
        ("mouse.clu.1", "1\n2", "one recording, got mouse, rat; pass basename="),
    ],
)
def test_neurosuite_bad_files(name: str, text: str, says: str, tmp_path: Path) -> None:
    writer.write_neurosuite(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(LoadError, match=says):
        read_neurosuite(tmp_path)


def test_neurosuite_missing_files(tmp_path: Path) -> None:
    writer.write_neurosuite(tmp_path)
    (tmp_path / "rat.xml").unlink()
    with pytest.raises(InputError, match="rate="):
        read_neurosuite(tmp_path)
    assert isinstance(read_neurosuite(tmp_path, rate=20_000.0), Spikes)
    (tmp_path / "rat.clu.2").unlink()
    with pytest.raises(LoadError, match=r"rat\.clu\.2: expected an existing file: it provides the cluster"):
        read_neurosuite(tmp_path, rate=20_000.0)


def test_alf_equals_numpy(tmp_path: Path) -> None:
    root = tmp_path / "mouse7" / "2024-01-02" / "001"
    made = writer.write_alf(root)
    found = tectum.read(root)
    assert (found.subject, found.session) == ("mouse7", "2024-01-02/001")
    spikes = found["spikes"]
    for k in range(4):
        expected = made["spikes.times"][made["spikes.clusters"] == k]
        np.testing.assert_allclose(spikes.train(k).numpy(), expected, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(spikes.units["depths"], made["clusters.depths"])
    np.testing.assert_array_equal(spikes.units["label"], [1.0, np.nan, 0.33, 1.0])
    assert found["trials"].pairs() == [(float(k), k + 0.8) for k in range(5)]
    np.testing.assert_array_equal(found["trials"].columns["choice"], made["_ibl_trials.choice"])
    wheel = found["wheel"]
    np.testing.assert_allclose(wheel.time.numpy(), np.interp(np.arange(30), [0, 10, 29], [1, 2, 6]), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(wheel.values.numpy(), made["_ibl_wheel.position"].astype(np.float32))
    assert wheel.units == "rad"
    assert read_alf(root, passing_only=True)["spikes"].units["id"].tolist() == [0, 3]


def test_alf_knots() -> None:
    np.testing.assert_allclose(knots(np.array([[0, 1.0], [4, 3.0]]), 7), [1, 1.5, 2, 2.5, 3, 3.5, 4])
    assert knots(np.arange(3.0)[:, None], 3).tolist() == [0, 1, 2]
    with pytest.raises(InputError, match=r"4 times, or knots \(sample, time\), got shape \(3,\)"):
        knots(np.arange(3.0), 4)
    with pytest.raises(InputError, match="knots at growing samples"):
        knots(np.array([[0, 1.0], [0, 3.0]]), 7)


def test_alf_bad_files(tmp_path: Path) -> None:
    writer.write_alf(tmp_path)
    probe = tmp_path / "alf" / "probe00" / "pykilosort"
    np.save(probe / "clusters.depths.npy", np.zeros(3))
    with pytest.raises(
        InputError, match=r"clusters\.\*: expected one row for each of 4 clusters, got channels 4, depths 3"
    ):
        read_alf(tmp_path)
    np.save(probe / "spikes.clusters.npy", np.zeros(99, int))
    with pytest.raises(InputError, match=r"spikes\.clusters\.npy: expected 100 spikes, got 99"):
        read_alf(tmp_path)
    (probe / "spikes.clusters.npy").unlink()
    with pytest.raises(LoadError, match=r"spikes\.clusters\.npy: expected an existing file: it provides the cluster"):
        read_alf(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(LoadError, match="spikes, trials or a wheel in ALF names, got an empty folder"):
        read_alf(tmp_path / "none")


def test_alf_table_of_trials_equals_pandas(tmp_path: Path) -> None:
    import pandas

    made = writer.write_alf(tmp_path)
    for path in (tmp_path / "alf").glob("_ibl_trials.*.npy"):
        path.unlink()
    frame = pandas.DataFrame(
        {
            "intervals_0": np.arange(5.0),
            "intervals_1": np.arange(5.0) + 0.8,
            "choice": made["_ibl_trials.choice"],
            "feedbackType": [1, -1, 1, 1, -1],
            "correct": [True, False, True, True, False],
            "word": ["a", None, "c", "d", "é"],
        }
    )
    frame.to_parquet(tmp_path / "alf" / "_ibl_trials.table.1234-abcd.pqt")
    trials = tectum.read(tmp_path)["trials"]
    assert trials.pairs() == [(float(k), k + 0.8) for k in range(5)]
    np.testing.assert_array_equal(trials.columns["choice"], frame["choice"])
    assert trials.columns["feedbackType"].tolist() == frame["feedbackType"].tolist()
    assert trials.columns["correct"].dtype == bool
    assert trials.columns["word"].tolist() == ["a", "", "c", "d", "é"]
    frame.drop(columns="intervals_1").to_parquet(tmp_path / "alf" / "_ibl_trials.table.1234-abcd.pqt")
    with pytest.raises(LoadError, match=r"table\.1234-abcd\.pqt: expected the columns intervals_0 and intervals_1"):
        tectum.read(tmp_path)


def test_alf_two_probes(tmp_path: Path) -> None:
    writer.write_alf(tmp_path)
    other = tmp_path / "alf" / "probe01"
    other.mkdir()
    np.save(other / "spikes.times.npy", np.arange(3.0))
    np.save(other / "spikes.clusters.npy", np.array([0, 1, 1]))
    found = read_alf(tmp_path)
    assert {"spikes_probe00", "spikes_probe01"} < set(found)
    assert set(found["spikes_probe01"].units["probe"]) == {"probe01"}


@pytest.mark.parametrize("name", ["m.nc", "m.zarr", "folder"])
def test_minian_equals_xarray(name: str, tmp_path: Path) -> None:
    made = writer.write_minian(tmp_path / name)
    found = tectum.read(tmp_path / name, fs=20.0)
    assert found["C"].is_lazy
    for trace in ("C", "S", "YrA"):
        expected = made[trace].transpose("frame", "unit_id").values
        np.testing.assert_array_equal(found[trace].values.numpy(), expected.astype(np.float32))
        np.testing.assert_allclose(found[trace].time.numpy(), made.frame.values / 20.0, rtol=0, atol=1e-9)
    assert found["C"].coords["unit"]["id"].tolist() == [3, 7, 12]
    shapes = made["A"].transpose("unit_id", "height", "width").values
    np.testing.assert_array_equal(found["footprints"].values.numpy(), shapes.astype(np.float32))
    with pytest.raises(InputError, match="sampling rate above 0 Hz.*fs="):
        tectum.read(tmp_path / name)


@pytest.mark.parametrize("missing", [False, True])
def test_minian_frames(missing: bool, tmp_path: Path) -> None:
    writer.write_minian(tmp_path / "m.nc", frame=np.r_[0:9, 20:31] if missing else np.arange(5, 25))
    with pytest.warns(TectumWarning, match="1 gaps") if missing else nullcontext():
        part = tectum.read(tmp_path / "m.nc", fs=20.0)["C"]
    assert (part.rate is None) == missing
    assert len(part.intervals["support"]) == 1 + missing
    assert part.time[0] == (0.0 if missing else 0.25)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["minian", "caiman", "inscopix", "neurosuite", "alf", "pqt", "minian-zarr"])
def test_damage(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "good"
    source.mkdir()
    fixed: tuple[str, ...] = ()
    if kind == "caiman":
        writer.write_caiman(source / "a.hdf5")
        read: Callable[[Path], Any] = lambda p: read_caiman(p, accepted_only=False)  # noqa: E731
        source, fixed = source / "a.hdf5", ("C.data", "S.data")
    elif kind == "minian":
        writer.write_minian(source / "m.nc")
        read = lambda p: read_minian(p, fs=20.0)  # noqa: E731
        source, fixed = source / "m.nc", ("C.data", "S.data")
    elif kind == "minian-zarr":
        writer.write_minian(source / "m.zarr")
        read = lambda p: read_minian(p, fs=20.0)  # noqa: E731
        source = source / "m.zarr"
    elif kind == "inscopix":
        writer.write_inscopix(source)
        read, source = read_inscopix, source / "traces.csv"
    elif kind == "neurosuite":
        writer.write_neurosuite(source)
        read = read_neurosuite
    elif kind == "pqt":
        import pandas

        frame = pandas.DataFrame({"intervals_0": np.arange(50.0), "intervals_1": np.arange(50.0) + 0.8, "word": "a"})
        frame.to_parquet(source / "_ibl_trials.table.pqt")
        read = read_alf
    else:
        writer.write_alf(source / "s")
        read = read_alf
    count = survive(read, source, tmp_path / "work", n=300, fixed=fixed)
    assert count["refused"] > 50
    assert sum(count.values()) == 300
