"""suite2p folders: equality with NumPy, both layouts, filters that can be seen, and damage."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from writers import realdata
from writers import suite2p as writer
from writers.mutate import survive
from writers.rights import as_nobody

import tectum
from tectum.core.errors import InputError, LoadError, TectumWarning
from tectum.io.files import UnsafePickleError
from tectum.io.pickles import load_objects
from tectum.io.suite2p import read_suite2p

PLANE = "suite2p/suite2p/plane0"


@pytest.fixture
def plane(tmp_path: Path) -> Path:
    folder = tmp_path / "suite2p" / "plane0"
    writer.write_plane(folder)
    return folder


@pytest.mark.realdata
@pytest.mark.parametrize("cells_only", [True, False])
def test_the_real_sample_equals_numpy(cells_only: bool) -> None:
    folder = realdata.pynapple(PLANE)
    found = tectum.read(folder.parent, cells_only=cells_only, subject="A0662")
    cells = np.load(folder / "iscell.npy")
    rows = np.flatnonzero(cells[:, 0] == 1) if cells_only else np.arange(len(cells))
    assert len(rows) == (20 if cells_only else 219)
    for name in ("F", "Fneu", "spks"):
        part = found[name]
        assert part.is_lazy
        assert part.dims == ("time", "unit")
        assert part.rate == 10.0
        np.testing.assert_array_equal(part.values.numpy(), np.load(folder / f"{name}.npy")[rows].T)
        np.testing.assert_allclose(part.time.numpy(), np.arange(2000) / 10.0, rtol=0, atol=1e-9)
        assert part.history[0]["regions"] == 219
        assert part.history[0]["kept"] == len(rows)
    units = found["F"].coords["unit"]
    stat = np.load(folder / "stat.npy", allow_pickle=True)[rows]
    np.testing.assert_array_equal(units["id"], rows)
    np.testing.assert_array_equal(units["probability"], cells[rows, 1])
    np.testing.assert_array_equal(np.stack([units["y"], units["x"]], 1), [roi["med"] for roi in stat])
    np.testing.assert_array_equal(units["skew"], [float(roi["skew"]) for roi in stat])
    ops = np.load(folder / "ops.npy", allow_pickle=True).item()
    np.testing.assert_array_equal(found["mean_image"].values.numpy(), ops["meanImg"])
    assert found.meta["suite2p"]["neucoeff"] == 0.7
    assert found.subject == "A0662"


@pytest.mark.realdata
def test_objects_of_the_real_sample_equal_numpys() -> None:
    folder = realdata.pynapple(PLANE)
    ours, theirs = load_objects(folder / "stat.npy", "x"), np.load(folder / "stat.npy", allow_pickle=True)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert type(a[key]) is type(b[key])
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("new", [False, True])
def test_both_layouts(new: bool, tmp_path: Path) -> None:
    made = writer.write_plane(tmp_path / "suite2p" / "plane0", new=new)
    for path in (tmp_path, tmp_path / "suite2p", tmp_path / "suite2p" / "plane0"):
        found = tectum.read(path)
        kept = made["iscell"][:, 0] == 1
        np.testing.assert_array_equal(found["F"].values.numpy(), made["F"][kept].T)
        assert found.meta["suite2p"] | {"Ly": 8} == found.meta["suite2p"]
        assert {found.meta["suite2p"][k] for k in ("neucoeff", "tau", "baseline")} == {0.7, 1.0, "maximin"}
    assert found["spks"].units == "deconvolved"
    assert found["F"].intervals["bad"].pairs() == [(0.7, 0.8)]
    assert found["F"].intervals["support"].pairs() == [(0.0, 6.0)]


def test_settings_come_before_ops(tmp_path: Path) -> None:
    writer.write_plane(tmp_path / "plane0", new=True)
    np.save(tmp_path / "plane0" / "ops.npy", writer.ops(neucoeff=0.1, fs=3.0))
    meta = tectum.read(tmp_path)["F"].meta["suite2p"]
    assert (meta["neucoeff"], meta["fs"]) == (0.7, 10.0)


def test_no_ops_at_all_needs_a_rate(plane: Path) -> None:
    (plane / "ops.npy").unlink()
    with pytest.raises(InputError, match=r"sampling rate above 0 Hz.*fs=") as error:
        tectum.read(plane)
    assert isinstance(error.value, LoadError)
    assert tectum.read(plane, fs=7.5)["F"].rate == 7.5


@pytest.mark.parametrize("fs", [0.0, -1.0, float("nan"), "fast"])
def test_a_wrong_rate_asks_for_one(fs: Any, tmp_path: Path) -> None:
    writer.write_plane(tmp_path / "plane0", fs=fs)
    with pytest.raises(InputError, match="fs="):
        tectum.read(tmp_path)
    with pytest.raises(InputError, match="finite rate above 0"):
        tectum.read(tmp_path, fs=0.0)


def test_lazy_parts_equal_the_whole(plane: Path) -> None:
    part = tectum.read(plane, cells_only=False)["F"]
    whole = part.values
    assert torch.equal(part.data[10:20, 1:4], whole[10:20, 1:4])
    assert torch.equal(part.data[[5, 2], [4, 0]], whole[[5, 2]][:, [4, 0]])
    assert torch.equal(part.isel(unit=2).values, whole[:, 2])
    kept = tectum.read(plane)["F"]
    assert torch.equal(kept.data[3:9, -1], kept.values[3:9, -1])
    assert torch.equal(kept.data[:, []], kept.values[:, []])
    pickle.loads(pickle.dumps(kept.data))  # workers of a loader need it


def test_planes_keep_their_own_clock(tmp_path: Path) -> None:
    for k in (0, 1, 10):
        writer.write_plane(tmp_path / f"plane{k}", seed=k)
    found = tectum.read(tmp_path)
    assert [n for n in found if n.endswith("_F")] == ["plane0_F", "plane1_F", "plane10_F"]
    assert [found[f"plane{k}_F"].t0 for k in (0, 1, 10)] == [0.0, 0.0, 0.0]
    late = tectum.read(tmp_path, sequential=True)
    assert [late[f"plane{k}_F"].t0 for k in (0, 1, 10)] == pytest.approx([0.0, 1 / 30, 2 / 30], abs=1e-12)
    assert list(tectum.read(tmp_path, planes=[10])) == ["F", "Fneu", "spks", "mean_image"]
    with pytest.raises(InputError, match=r"planes: expected some of \[0, 1, 10\], got \[3\]"):
        tectum.read(tmp_path, planes=[3])


def test_combined_planes_are_interpolated_to_the_first(tmp_path: Path) -> None:
    made = [writer.write_plane(tmp_path / f"plane{k}", seed=k) for k in (0, 1)]
    found = read_suite2p(tmp_path, sequential=True, combine=True, cells_only=False)["F"]
    assert found.shape == (59, 10)
    assert found.t0 == pytest.approx(0.1)
    np.testing.assert_array_equal(found.values[:, :5].numpy(), made[0]["F"].T[1:])
    second = [np.interp(np.arange(1, 60) / 10, np.arange(60) / 10 + 0.05, row) for row in made[1]["F"]]
    np.testing.assert_allclose(found.values[:, 5:].numpy(), np.transpose(second), atol=1e-6)
    assert found.coords["unit"]["plane"].tolist() == [0] * 5 + [1] * 5
    with pytest.warns(TectumWarning, match="as if scanned at once"):
        read_suite2p(tmp_path, combine=True)


def test_contradictions_are_named(plane: Path) -> None:
    np.save(plane / "Fneu.npy", np.zeros((5, 59), np.float32))
    with pytest.raises(InputError, match=r"Fneu\.npy: expected shape \(5, 60\) as F\.npy, got \(5, 59\)"):
        tectum.read(plane)


def test_frames_that_ops_deny(tmp_path: Path) -> None:
    writer.write_plane(tmp_path / "plane0", nframes=61)
    with pytest.raises(InputError, match="61 frames as ops say, got 60"):
        tectum.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("iscell", np.ones((4, 2)), r"iscell\.npy: expected 5 regions as F\.npy, got 4"),
        ("iscell", np.ones((5, 1)), r"iscell\.npy: expected label and probability"),
        ("iscell", np.zeros((5, 2)), "expected at least one cell, got none of 5.*cells_only=False"),
        ("F", np.zeros((5, 60), np.int64), r"F\.npy: expected an array of numbers, got dtype int64"),
        ("F", np.zeros(60, np.float32), r"F\.npy: expected 2 axes, got shape \(60,\)"),
        ("F", np.array([[None, 1]], dtype=object), r"F\.npy: expected an array of numbers, got dtype object"),
        ("stat", np.array([{"med": [0, 0]}] * 4), r"stat\.npy: expected 5 regions as F\.npy, got 4"),
        ("stat", np.array([{"ypix": [0]}] * 5), r"stat\.npy: expected a dictionary with med"),
        ("ops", np.array([3], dtype=object), r"ops\.npy: expected a dictionary"),
    ],
)
def test_wrong_arrays_are_named(name: str, array: np.ndarray, says: str, plane: Path) -> None:
    np.save(plane / f"{name}.npy", array, allow_pickle=True)
    with pytest.raises(LoadError, match=says):
        tectum.read(plane, format="suite2p")


@pytest.mark.parametrize(("name", "provides"), [("F", "fluorescence of each region"), ("iscell", "which regions")])
def test_a_missing_file_is_named_with_its_use(name: str, provides: str, plane: Path) -> None:
    (plane / f"{name}.npy").unlink()
    with pytest.raises(LoadError, match=rf"{name}\.npy: expected an existing file: it provides .*{provides}"):
        tectum.read(plane, format="suite2p")


def test_unsafe_settings_are_refused(plane: Path) -> None:
    np.save(plane / "ops.npy", {"fs": os.getcwd}, allow_pickle=True)
    with pytest.raises(UnsafePickleError, match=r"ops\.npy.*getcwd"):
        tectum.read(plane)


def test_a_link_that_leaves_the_folder_is_refused(plane: Path, tmp_path: Path) -> None:
    (plane / "F.npy").rename(tmp_path / "elsewhere.npy")
    (plane / "F.npy").symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(LoadError, match=r"F\.npy: expected a file inside .*, got a path that leads to .*elsewhere"):
        tectum.read(plane)


def test_no_suite2p_here(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(LoadError, match=r"known format, got notes\.txt.*'suite2p'"):
        tectum.read(tmp_path)
    with pytest.raises(LoadError, match=r"a suite2p folder with plane0.*got notes\.txt"):
        tectum.read(tmp_path, format="suite2p")


@pytest.mark.skipif(os.name != "posix", reason="modes of files are those of POSIX")
def test_a_file_without_permission_is_named(room: Path) -> None:
    plane = room / "suite2p" / "plane0"
    writer.write_plane(plane)
    (plane / "F.npy").chmod(0)
    with as_nobody(), pytest.raises(LoadError, match=r"F\.npy.*PermissionError"):
        tectum.read(plane)


@pytest.mark.slow
@pytest.mark.parametrize("new", [False, True])
def test_damage(new: bool, tmp_path: Path) -> None:
    writer.write_plane(tmp_path / "good" / "plane0", new=new)
    count = survive(
        lambda p: read_suite2p(p), tmp_path / "good" / "plane0", tmp_path / "work", n=300, seed=new, fixed=()
    )
    assert count["refused"] > 60
    assert count["loaded"] > 20
