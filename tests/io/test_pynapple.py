"""Pynapple's NPZ files: equality with pynapple, and no pickle ever runs."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from writers import containers as made
from writers.mutate import survive

import tectum
from tectum import Intervals, Recording, Spikes
from tectum.core.errors import InputError, LoadError
from tectum.io.convert import from_pynapple, to_pynapple
from tectum.io.files import UnsafePickleError
from tectum.io.pynapple_files import read_pynapple

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    nap = pytest.importorskip("pynapple")


def saved(obj: Any, path: Path) -> Path:
    """Save with pynapple, whose own warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        obj.save(str(path))
    return path


def objects() -> dict[str, Any]:
    support = nap.IntervalSet([0, 10], [5, 20], metadata={"label": ["a", "b"]})
    times = np.array([0.5, 1.0, 12.0, 20.0])
    frame = nap.TsdFrame(times, np.arange(8.0).reshape(4, 2), columns=["x", "y"], metadata={"kind": np.array([3, 4])})
    return {
        "Ts": nap.Ts(times, time_support=support),
        "Tsd": nap.Tsd(times, np.arange(4), time_support=support),
        "TsdFrame": frame,
        "TsdTensor": nap.TsdTensor(np.arange(4.0) / 10, np.arange(24.0).reshape(4, 2, 3)),
        "TsGroup": nap.TsGroup(
            {4: nap.Ts(times), 1: nap.Ts(times[:2] + 0.1)}, time_support=support, metadata={"area": ["CA1", "CA3"]}
        ),
        "IntervalSet": support,
    }


@pytest.mark.parametrize("kind", ["Ts", "Tsd", "TsdFrame", "TsdTensor", "TsGroup", "IntervalSet"])
def test_files_equal_pynapple(kind: str, tmp_path: Path) -> None:
    theirs = objects()[kind]
    dims = ("time", "y", "x") if kind == "TsdTensor" else None
    options = {"dims": dims} if dims else {}
    found = tectum.read(saved(theirs, tmp_path / "x.npz"), **options)
    expected = from_pynapple(theirs, dims=dims)
    assert type(found) is type(expected)
    if isinstance(found, Recording):
        np.testing.assert_array_equal(found.values.numpy(), np.asarray(theirs.values))
        np.testing.assert_allclose(found.time, theirs.t, rtol=0, atol=1e-9)
        for axis, table in expected.coords.items():
            made.same_columns(found.coords[axis], table)
    elif isinstance(found, Spikes):
        made.same_spikes(found, expected)
        if kind == "TsGroup":
            assert found.units["id"].tolist() == [1, 4]
            for key, train in zip((1, 4), found.trains(), strict=True):
                np.testing.assert_allclose(train.numpy(), theirs[key].t, rtol=0, atol=1e-9)
            assert found.units["area"].tolist() == list(theirs["area"])
    else:
        assert found.pairs() == [(0.0, 5.0), (10.0, 20.0)]
        assert found.columns["label"].tolist() == ["a", "b"]


@made.few
@given(made.spikes())
def test_groups_of_any_kind(spikes: Spikes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = saved(to_pynapple(spikes), Path(folder) / "x.npz")
        made.same_spikes(read_pynapple(path, subject=spikes.subject, session=spikes.session), spikes, atol=1e-9)


def test_a_folder_of_files(tmp_path: Path) -> None:
    for kind, obj in objects().items():
        if kind != "TsdTensor":
            saved(obj, tmp_path / f"{kind}.npz")
    found = tectum.read(tmp_path, subject="m", units="cm")
    assert set(found) == {"Ts", "Tsd", "TsdFrame", "TsGroup", "IntervalSet"}
    assert found["Tsd"].units == "cm"
    assert isinstance(found["IntervalSet"], Intervals)
    assert found["Ts"].subject == "m"


def test_a_pickle_that_would_run_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    path = saved(objects()["IntervalSet"], tmp_path / "x.npz")
    body = tmp_path / "_metadata.npy"
    np.save(body, np.array({"label": Evil()}, dtype=object), allow_pickle=True)
    with zipfile.ZipFile(path) as archive:
        kept = {n: archive.read(n) for n in archive.namelist() if n != "_metadata.npy"}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in kept.items():
            archive.writestr(name, content)
        archive.write(body, "_metadata.npy")
    with pytest.raises(UnsafePickleError):
        tectum.read(path)
    assert not (tmp_path / "ran").exists()
    assert pickle  # the module that pynapple would use


def test_contradictions(tmp_path: Path) -> None:
    def write(**changes: Any) -> Path:
        good: dict[str, Any] = {"t": np.arange(3.0), "d": np.zeros((3, 2)), "start": np.zeros(1), "end": np.ones(1) * 3}
        content = {**good, "type": np.array(["TsdFrame"]), "columns": np.arange(2), **changes}
        np.savez(tmp_path / "x.npz", **{k: v for k, v in content.items() if v is not None})
        return tmp_path / "x.npz"

    assert tectum.read(write()).shape == (3, 2)
    for changes, error, says in (
        ({"type": np.array(["Movie"])}, LoadError, "an object of type 'Movie'"),
        ({"t": None}, LoadError, "no vector of numbers 't'"),
        ({"t": np.arange(4.0)}, InputError, r"d: expected numbers at 4 times, got float64 \(3, 2\)"),
        ({"end": np.ones(2)}, InputError, r"end: expected \(1,\) as start, got \(2,\)"),
        ({"end": -np.ones(1)}, InputError, "start <= stop"),
        ({"d": np.array([["a", "b"]] * 3)}, InputError, "numbers at 3 times, got <U1"),
        ({"d": np.zeros((3, 2, 2))}, InputError, "3 names for .*pass dims="),
        ({"type": np.array(["TsGroup"])}, LoadError, "no keys of units"),
        (
            {"type": np.array(["TsGroup"]), "keys": np.array([1]), "index": np.array([1, 1, 2])},
            InputError,
            r"keys among \[1\], got others",
        ),
    ):
        with pytest.raises(error, match=rf"x\.npz.*{says}"):
            read_pynapple(write(**changes))
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoadError, match="no NPZ files of pynapple in the folder"):
        read_pynapple(tmp_path / "empty")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["TsGroup", "TsdFrame", "IntervalSet"])
def test_damage(kind: str, tmp_path: Path) -> None:
    path = saved(objects()[kind], tmp_path / "x.npz")
    fixed = ("data",) if kind == "TsdFrame" else ("n_units",) if kind == "TsGroup" else ("rows",)
    count = survive(lambda p: read_pynapple(p), path, tmp_path / "work", n=300, fixed=fixed)
    assert count["refused"] > 60
