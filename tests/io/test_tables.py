"""Plain arrays under a stated schema, and SpikeInterface's folders."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from writers.mutate import survive

import tectum
from tectum.core.errors import AxisError, InputError, LoadError, MissingExtraError, UnitsError
from tectum.io.parquet import read_columns
from tectum.io.spikeinterface import read_spikeinterface
from tectum.io.table import read_array, read_events
from tectum.io.zarr_arrays import open_zarr

DATA = np.arange(24.0).reshape(8, 3)
CLOCK = 1.0 + np.arange(8) ** 1.5


def write(path: Path, kind: str) -> None:
    named = {"traces": DATA, "clock": CLOCK, "unit": np.arange(8) % 3}
    if kind == "npz":
        np.savez_compressed(path, **named)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            for name, array in named.items():
                file[name] = array
    elif kind == "mat5":
        scipy.io.savemat(path, named, do_compression=True)
    elif kind == "mat4":
        scipy.io.savemat(path, named, format="4")
    elif kind == "zarr":
        import zarr

        group = zarr.open_group(str(path), mode="w")
        for name, array in named.items():
            group.create_array(name, data=array, chunks=(3,) * array.ndim)
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {"a": DATA[:, 0], "b": DATA[:, 1], "c": DATA[:, 2], "clock": CLOCK}
        pq.write_table(pa.table(columns), path)
    elif kind == "mat73":  # axes reversed and vectors two-dimensional, behind 512 bytes of header
        with h5py.File(path, "w", userblock_size=512) as file:
            file["traces"], file["clock"], file["unit"] = DATA.T, CLOCK[:, None], named["unit"][:, None]
    else:
        rows = [",".join(map(repr, [*map(float, row), float(t)])) for row, t in zip(DATA, CLOCK, strict=True)]
        path.write_text("\n".join(["a,b,c,clock", *rows]))


KINDS = {"npz": "x.npz", "h5": "x.h5", "mat5": "x.mat", "mat4": "x.mat", "mat73": "x.mat", "csv": "x.csv"}
KINDS |= {"zarr": "x.zarr", "parquet": "x.parquet"}


@pytest.mark.parametrize("kind", KINDS)
def test_arrays_come_back_under_the_schema(kind: str, tmp_path: Path) -> None:
    path = tmp_path / KINDS[kind]
    write(path, kind)
    key = None if kind in ("csv", "parquet") else "traces"
    found = tectum.read(path, format="array", dims=("time", "unit"), key=key, times="clock", units="dF/F", subject="s")
    np.testing.assert_array_equal(found.values.numpy(), DATA.astype(np.float32))
    np.testing.assert_allclose(found.time.numpy(), CLOCK, rtol=0, atol=1e-9)
    assert (found.units, found.subject) == ("dF/F", "s")
    assert found.is_lazy == (kind in ("h5", "mat73", "zarr"))
    if kind in ("csv", "parquet"):
        assert found.labels("unit").tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<i2", "<u2", "?", "<i8"])
def test_npy_of_any_kind(order: Any, dtype: str, tmp_path: Path) -> None:
    array = np.asarray(np.arange(24).reshape(4, 3, 2) % 5, dtype=dtype, order=order)
    np.save(tmp_path / "x.npy", array)
    found = read_array(tmp_path / "x.npy", dims=("trial", "time", "unit"), rate=5.0)
    assert found.is_lazy
    np.testing.assert_array_equal(found.values.numpy(), array)
    assert torch.equal(found.data[1:3, :, [1]], found.values[1:3][:, :, [1]])


@pytest.mark.parametrize("kind", ["npz", "h5", "mat5", "mat73", "zarr"])
def test_events_from_two_arrays(kind: str, tmp_path: Path) -> None:
    path = tmp_path / KINDS[kind]
    write(path, kind)
    found = tectum.read(path, format="events", time="clock", unit="unit", support=(0.0, 30.0))
    for k in range(3):
        np.testing.assert_allclose(found.train(k).numpy(), CLOCK[k::3], rtol=0, atol=1e-9)
    assert read_events(path, time="clock", unit="unit", rate=2.0).times[0] == 0.5


def test_events_from_a_csv_with_names(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("t;cell\n0.5;b\n0.25;a\n1.5;b\n")
    found = read_events(tmp_path / "x.csv", time="t", unit="cell")
    assert found.units["id"].tolist() == ["a", "b"]
    assert found.train(1).tolist() == [0.5, 1.5]
    with pytest.raises(InputError, match=r"one of \['t', 'cell'\], got 'x'"):
        read_events(tmp_path / "x.csv", time="x", unit="cell")
    with pytest.raises(LoadError, match=r"x\.csv:cell: expected a column of numbers, got text"):
        read_events(tmp_path / "x.csv", time="cell", unit="cell")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"dims": ("time",), "rate": 1.0}, InputError, r"2 names for \(8, 3\)"),
        ({"dims": ("time", "cells"), "rate": 1.0}, AxisError, "'cells'"),
        ({"dims": ("time", "unit")}, InputError, "rate .Hz. or times"),
        ({"dims": ("time", "unit"), "rate": 1.0, "units": "furlong"}, InputError, "furlong"),
        ({"dims": ("time", "unit"), "rate": 1.0, "key": "none"}, InputError, r"one of \['clock', 'traces', 'unit'\]"),
        ({"dims": ("time", "unit"), "rate": 1.0, "key": None}, InputError, "pass key="),
        ({"dims": ("unit", "time"), "times": "clock"}, InputError, "3 times"),
    ],
)
def test_a_wrong_schema_is_named(options: Any, error: type[Exception], says: str, tmp_path: Path) -> None:
    write(tmp_path / "x.h5", "h5")
    with pytest.raises(InputError, match=says) as caught:
        read_array(tmp_path / "x.h5", **{"key": "traces", **options})
    assert isinstance(caught.value, LoadError)
    assert issubclass(error, InputError)
    assert issubclass(UnitsError, InputError)


def test_events_of_a_parquet_table(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = pa.array(["b", "a", "b"]).dictionary_encode()
    table = {"t": [0.5, 0.25, 1.5], "cell": cells, "n": [1, None, 3], "ok": [True, False, True], "list": [[1], [2], []]}
    pq.write_table(pa.table(table), tmp_path / "x.pqt")
    found = read_events(tmp_path / "x.pqt", time="t", unit="cell")
    assert found.units["id"].tolist() == ["a", "b"]
    assert found.train(1).tolist() == [0.5, 1.5]
    columns = read_columns(tmp_path / "x.pqt")
    assert list(columns) == ["t", "cell", "n", "ok"]
    np.testing.assert_array_equal(columns["n"], [1, np.nan, 3])
    assert columns["ok"].dtype == bool
    assert list(read_columns(tmp_path / "x.pqt", ["n"])) == ["n"]


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_of_both_formats_stays_on_disk(version: Any, tmp_path: Path) -> None:
    import zarr

    zarr.create_array(
        str(tmp_path / "x"),
        data=DATA,
        chunks=(3, 2),
        zarr_format=version,
        dimension_names=["a", "b"] if version == 3 else None,
    )
    found = read_array(tmp_path / "x", dims=("time", "unit"), rate=2.0)
    assert found.is_lazy
    np.testing.assert_array_equal(found.values.numpy(), DATA.astype(np.float32))
    np.testing.assert_array_equal(found.isel(time=slice(2, 7), unit=[0, 2]).values.numpy(), DATA[2:7, [0, 2]])
    assert open_zarr(tmp_path / "x").dims == (("a", "b") if version == 3 else ())


def test_zarr_that_would_run_code_or_leave_the_store_is_refused(tmp_path: Path) -> None:
    import zarr

    zarr.create_array(str(tmp_path / "x"), data=DATA, zarr_format=2, compressors=None)
    header = tmp_path / "x" / ".zarray"
    content = json.loads(header.read_text())
    header.write_text(json.dumps({**content, "filters": [{"id": "pickle", "protocol": 2}]}))
    with pytest.raises(LoadError, match="known codecs, got 'pickle'"):
        read_array(tmp_path / "x", dims=("time", "unit"), rate=1.0)
    header.write_text(json.dumps({**content, "dtype": "|O"}))
    with pytest.raises(LoadError, match=r"x: expected an array"):
        read_array(tmp_path / "x", dims=("time", "unit"), rate=1.0)
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / ".zgroup").write_text('{"zarr_format": 2}')
    with pytest.raises(LoadError, match="a file inside"):
        read_array(tmp_path / "g", dims=("time", "unit"), rate=1.0, key="../x")
    with pytest.raises(InputError, match=r"key: expected one of \[\], got 'none'"):
        read_array(tmp_path / "g", dims=("time", "unit"), rate=1.0, key="none")


@pytest.mark.parametrize(("package", "kind"), [("pyarrow.parquet", "parquet"), ("zarr", "zarr")])
def test_a_missing_package_says_what_to_install(
    package: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / KINDS[kind], kind)
    monkeypatch.setitem(sys.modules, package, None)
    key = "traces" if kind == "zarr" else None
    with pytest.raises(MissingExtraError, match=f"pip install {package.split('.')[0]}"):
        read_array(tmp_path / KINDS[kind], dims=("time", "unit"), rate=1.0, key=key)


def test_objects_and_strangers_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([{}], dtype=object))
    with pytest.raises(LoadError, match=r"x\.npz:a\.npy.*bytes of object"):
        read_array(tmp_path / "x.npz", dims=("time",), rate=1.0)
    (tmp_path / "x.xls").write_bytes(b"\xd0\xcf")
    with pytest.raises(LoadError, match="NPY, NPZ, HDF5, Zarr, MAT, CSV or Parquet"):
        read_array(tmp_path / "x.xls", dims=("time",), rate=1.0)


def write_sorting(folder: Path, n_segments: int = 1) -> np.ndarray:
    folder.mkdir(parents=True)
    spikes = np.zeros(30, [("sample_index", "i8"), ("unit_index", "i8"), ("segment_index", "i8")])
    rng = np.random.default_rng(0)
    spikes["segment_index"] = np.sort(rng.integers(0, n_segments, 30))
    spikes["sample_index"] = np.sort(rng.integers(0, 9000, 30))
    spikes["unit_index"] = rng.integers(0, 3, 30)
    np.save(folder / "spikes.npy", spikes)
    info = {"unit_ids": ["a", "b", "c"], "num_segments": n_segments, "sampling_frequency": 1000.0, "dtype_str": "U"}
    (folder / "numpysorting_info.json").write_text(json.dumps(info))
    (folder / "properties").mkdir()
    np.save(folder / "properties" / "quality.npy", np.array(["good", "mua", "good"]))
    return spikes


def test_spikeinterface_equals_numpy(tmp_path: Path) -> None:
    made = write_sorting(tmp_path / "s")
    found = tectum.read(tmp_path / "s")
    for k in range(3):
        expected = made["sample_index"][made["unit_index"] == k] / 1000.0
        np.testing.assert_allclose(found.train(k).numpy(), expected, rtol=0, atol=1e-9)
    assert found.units["id"].tolist() == ["a", "b", "c"]
    assert found.units["quality"].tolist() == ["good", "mua", "good"]


def test_spikeinterface_segments_stay_apart_or_are_placed(tmp_path: Path) -> None:
    made = write_sorting(tmp_path / "s", 2)
    found = read_spikeinterface(tmp_path / "s")
    assert set(found) == {"segment0", "segment1"}
    assert len(found["segment1"]) == (made["segment_index"] == 1).sum()
    placed = read_spikeinterface(tmp_path / "s", t_starts=(0.0, 100.0))
    assert int((placed.times >= 100).sum()) == len(found["segment1"])
    with pytest.raises(InputError, match="t_starts: expected 2 times"):
        read_spikeinterface(tmp_path / "s", t_starts=(0.0,))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"unit_ids": ["a"]}, "unit_index: expected below 1, got 2"),
        ({"sampling_frequency": 0}, "a sampling rate above 0 Hz"),
        ({"unit_ids": None}, "expected unit_ids and num_segments"),
    ],
)
def test_spikeinterface_contradictions(change: Any, says: str, tmp_path: Path) -> None:
    write_sorting(tmp_path / "s")
    path = tmp_path / "s" / "numpysorting_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(LoadError, match=says):
        read_spikeinterface(tmp_path / "s")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "npy", "spikeinterface"])
def test_damage(kind: str, tmp_path: Path) -> None:
    def whole(path: Path) -> Any:
        key = None if kind in ("csv", "npy", "parquet") else "traces"
        return read_array(path, dims=("time", "unit"), key=key, rate=1.0)

    read: Callable[[Path], Any] = whole
    source, fixed = tmp_path / KINDS.get(kind, "x.npy"), ("data",)
    if kind == "npy":
        np.save(source, DATA)
    elif kind == "spikeinterface":
        source, fixed, read = tmp_path / "s", (), read_spikeinterface
        write_sorting(source)
    else:
        write(source, kind)
    if kind in ("csv", "mat4", "parquet", "zarr"):
        fixed = ()  # without a checksum a lost row, or a changed size of a v4 matrix, cannot be noticed
    count = survive(read, source, tmp_path / "work", n=300, fixed=fixed)
    assert count["refused"] > 40
