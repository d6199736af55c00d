"""Analyzers of SpikeInterface in NumPy files and in Zarr: equality with what was written, contradictions, damage."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_tables import write_sorting
from writers.mutate import survive

import tectum
from tectum.core.errors import InputError, LoadError
from tectum.io.spikeinterface import read_spikeinterface

KINDS = ("analyzer", "analyzer.zarr", "sorting.zarr")
RATE, SAMPLES = 1000.0, [9500, 12_000]
METRICS = {"snr": [3.5, np.nan, 8.0], "num_spikes": [1.0, 2.0, 3.0]}
ROWS = [2, 0, 1]  # of the units in the table of metrics


def write(path: Path, kind: str) -> np.ndarray:
    """Write what the name says, with two segments, and return the spikes."""
    if kind == "analyzer":
        made = write_sorting(path / "sorting", 2)
        (path / "recording_info").mkdir()
        (path / "recording_info" / "recording_attributes.json").write_text(json.dumps({"num_samples": SAMPLES}))
        (path / "extensions" / "quality_metrics").mkdir(parents=True)
        lines = [",snr,num_spikes", *(f"{'abc'[k]},{METRICS['snr'][k]},{METRICS['num_spikes'][k]}" for k in ROWS)]
        (path / "extensions" / "quality_metrics" / "metrics.csv").write_text("\n".join(lines).replace("nan", ""))
        return made
    made = write_sorting(path.parent / "twin", 2)
    write_store(path, made, whole=kind.startswith("analyzer"))
    return made


def write_store(path: Path, made: np.ndarray, *, whole: bool) -> None:
    """Write the spikes as a store of Zarr 2, differences for values as SpikeInterface does."""
    zarr = pytest.importorskip("zarr")
    numcodecs = pytest.importorskip("numcodecs")
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    home = root.create_group("sorting") if whole else root
    home.attrs.update({"num_segments": 2, "sampling_frequency": RATE})
    home.create_array("unit_ids", data=np.array(["a", "b", "c"]))
    spikes = home.create_group("spikes")
    for name in ("sample_index", "unit_index"):
        spikes.create_array(name, data=made[name].copy(), filters=[numcodecs.Delta("<i8")])
    border = int((made["segment_index"] == 0).sum())
    spikes.create_array("segment_slices", data=np.array([[0, border], [border, len(made)]]))
    properties = home.create_group("properties")
    properties.create_array("quality", data=np.array(["good", "mua", "good"]))
    properties.create_array("place", data=np.zeros((3, 2)))
    if whole:
        root.create_group("recording_info").attrs["recording_attributes"] = {"num_samples": SAMPLES}
        room = root.create_group("extensions/quality_metrics/metrics")
        for name, column in METRICS.items():
            room.create_array(name, data=np.array(column)[ROWS])
        room.create_array("index", data=np.array(list("abc"))[ROWS])


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_what_was_written(kind: str, tmp_path: Path) -> None:
    made = write(tmp_path / kind, kind)
    found = tectum.read(tmp_path / kind)
    assert list(found) == ["segment0", "segment1"]
    for k, part in enumerate(found.values()):
        rows = made[made["segment_index"] == k]
        for unit in range(3):
            expected = rows["sample_index"][rows["unit_index"] == unit] / RATE
            np.testing.assert_allclose(part.train(unit).numpy(), expected, rtol=0, atol=1e-9)
        assert part.units["id"].tolist() == ["a", "b", "c"]
        assert part.units["quality"].tolist() == ["good", "mua", "good"]
        if kind != "sorting.zarr":
            assert part.span.pairs() == [(0.0, SAMPLES[k] / RATE)]
            for name, column in METRICS.items():
                np.testing.assert_array_equal(part.units[name], column)
    placed = read_spikeinterface(tmp_path / kind, t_starts=(0.0, 100.0))
    assert int((placed.times >= 100).sum()) == len(found["segment1"])
    if kind != "sorting.zarr":
        assert placed.span.pairs() == [(0.0, 9.5), (100.0, 112.0)]


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("recording_info/recording_attributes.json", '{"num_samples": [5]}', "num_samples: expected 2 lengths, got"),
        ("recording_info/recording_attributes.json", '{"num_samples": [5, 0]}', "num_samples: expected 2 lengths"),
        ("recording_info/recording_attributes.json", "[1]", "a list"),
        ("extensions/quality_metrics/metrics.csv", ",snr\na,1\nb,2\n", r"a row for each of 3 units, got \['a', 'b'\]"),
        ("extensions/quality_metrics/metrics.csv", ",snr\na,1\nb,2\nx,2\n", "a row for each of 3 units"),
        ("extensions/quality_metrics/metrics.csv", ",snr\na,1\nb\n", "1 values in row 3, 2 names"),
    ],
)
def test_contradictions(file: str, text: str, says: str, tmp_path: Path) -> None:
    write(tmp_path / "x", "analyzer")
    (tmp_path / "x" / file).write_text(text)
    with pytest.raises(LoadError, match=says) as caught:
        tectum.read(tmp_path / "x")
    assert str(tmp_path / "x") in str(caught.value)


def test_contradictions_of_a_store(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    path = tmp_path / "x.zarr"
    write(path, "sorting.zarr")
    group = zarr.open_group(str(path), mode="r+")
    for slices, error in (([[0, 5], [6, 30]], InputError), ([[0, 5], [5, 31]], InputError), ([[0, 5, 9]], LoadError)):
        group["spikes"].create_array("segment_slices", data=np.array(slices), overwrite=True)
        with pytest.raises(error, match="segment_slices: expected rows up to 30|first and last row of each segment"):
            tectum.read(path)
    group["spikes"].create_array("segment_slices", data=np.array([[0, 30], [30, 30]]), overwrite=True)
    group["spikes"].create_array("unit_index", data=np.full(30, -1), overwrite=True)
    with pytest.raises(InputError, match="unit_index: expected below 3, got -1"):
        tectum.read(path)
    group["spikes"].create_array("unit_index", data=np.zeros(29, int), overwrite=True)
    with pytest.raises(InputError, match=r"a unit for each spike, got \(29,\) of \(30,\)"):
        tectum.read(path)
    (path / ".zattrs").unlink()
    with pytest.raises(LoadError, match=r"\.zattrs: expected an existing file: it provides rate"):
        tectum.read(path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damage(kind: str, tmp_path: Path) -> None:
    write(tmp_path / kind, kind)
    read: Any = partial(read_spikeinterface, t_starts=(0.0, 100.0))
    count = survive(read, tmp_path / kind, tmp_path / "work", n=300, fixed=())
    assert count["refused"] > 60
    assert count["loaded"] > 20
