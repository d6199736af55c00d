"""CNMF-E structs in MATLAB files of every version: equality with what was written, contradictions, damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csc_matrix
from writers import matlab as writer
from writers.mutate import survive

import tectum
from tectum.core.errors import InputError, LoadError
from tectum.io.cnmfe import read_cnmfe

VERSIONS = ["6", "7", "7.3"]


def made(**changes: Any) -> dict[str, Any]:
    """Return a struct of three neurons in 5 x 4 pixels over 20 frames; pixels are in the order of MATLAB."""
    rng = np.random.default_rng(0)
    images = rng.random((3, 5, 4)) * (rng.random((3, 5, 4)) > 0.5)
    fields: dict[str, Any] = {name: rng.random((3, 20)) for name in ("C", "C_raw")}
    fields["S"] = csc_matrix(rng.random((3, 20)) * (rng.random((3, 20)) > 0.7))
    fields["A"] = csc_matrix(np.stack([image.ravel(order="F") for image in images], axis=1))
    fields["options"] = {"d1": np.array(5.0), "d2": np.array(4.0)}
    fields |= {"Fs": np.array(10.0), "ids": np.array([1.0, 2.0, 5.0]), "images": images}
    return {k: v for k, v in (fields | changes).items() if v is not None}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["neuron", "results", None])
def test_a_struct_or_its_fields_equal_what_was_written(name: str | None, version: str, tmp_path: Path) -> None:
    fields = made()
    images = fields.pop("images")
    writer.write(tmp_path / "x.mat", fields if name is None else {name: fields, "other": np.zeros(2)}, version)
    path = tmp_path / "x.mat"
    found = read_cnmfe(path, subject="m") if name == "results" else tectum.read(path, subject="m")
    assert set(found) == {"C", "C_raw", "S", "footprints"}
    for key in ("C", "C_raw"):
        np.testing.assert_array_equal(found[key].values.numpy(), fields[key].T.astype(np.float32))
        assert (found[key].dims, found[key].rate, found[key].modality) == (("time", "unit"), 10.0, "calcium")
    np.testing.assert_array_equal(found["S"].values.numpy(), fields["S"].toarray().T.astype(np.float32))
    assert found["S"].units == "deconvolved"
    np.testing.assert_array_equal(found["footprints"].values.numpy(), images.astype(np.float32))
    assert found["C"].coords["unit"]["id"].tolist() == [1, 2, 5]
    assert found["C"].intervals["support"].pairs() == [(0.0, 2.0)]
    assert found.subject == "m"


def test_footprints_of_other_shapes(tmp_path: Path) -> None:
    fields = made()
    images = fields.pop("images")
    writer.write(tmp_path / "a.mat", {"neuron": {**fields, "A": fields["A"].toarray()}})
    writer.write(
        tmp_path / "b.mat", {"neuron": {**fields, "A": images.transpose(1, 2, 0), "options": {"x": np.array(1)}}}
    )
    for name in ("a.mat", "b.mat"):
        np.testing.assert_array_equal(tectum.read(tmp_path / name)["footprints"].values, images.astype(np.float32))
    writer.write(tmp_path / "c.mat", {"neuron": {**fields, "options": {"x": np.array(1)}}})
    assert "footprints" not in tectum.read(tmp_path / "c.mat")


def test_large_traces_of_v73_stay_on_disk(tmp_path: Path) -> None:
    traces = np.random.default_rng(0).random((3, 400_000))
    fields = made(C=traces, C_raw=None, S=None)
    fields.pop("images")
    writer.write(tmp_path / "x.mat", {"neuron": fields}, "7.3")
    found = tectum.read(tmp_path / "x.mat")["C"]
    assert found.is_lazy
    np.testing.assert_array_equal(found.isel(time=slice(5, 9)).values.numpy(), traces[:, 5:9].T.astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"Fs": None}, InputError, r"x\.mat: Fs: expected a sampling rate above 0 Hz, got None; pass fs="),
        ({"Fs": np.array(0.0)}, InputError, "a sampling rate above 0 Hz"),
        ({"S": np.zeros((3, 19))}, InputError, r"neuron\.S: expected \(3, 20\) as C, got \(3, 19\)"),
        ({"C": None}, LoadError, "neuron: expected a struct with A and C, got C_raw, "),
        ({"C": np.zeros((0, 0))}, LoadError, r"neuron\.C: expected traces \(unit, time\), got none"),
        ({"C": "text of C"}, LoadError, "expected traces|an array of numbers, got a str"),
        (
            {"options": {"d1": np.array(5.0), "d2": np.array(5.0)}},
            InputError,
            r"neuron\.A: expected 5 x 5 pixels of 3 units",
        ),
        ({"A": np.zeros((20, 2))}, InputError, r"neuron\.A: expected 5 x 4 pixels of 3 units, got shape \(20, 2\)"),
    ],
)
def test_contradictions(changes: Any, error: type[Exception], says: str, tmp_path: Path) -> None:
    fields = made(**changes)
    fields.pop("images")
    writer.write(tmp_path / "x.mat", {"neuron": fields})
    with pytest.raises(error, match=says):
        tectum.read(tmp_path / "x.mat")


def test_other_files(tmp_path: Path) -> None:
    writer.write(tmp_path / "x.mat", {"x": np.zeros(3)})
    with pytest.raises(LoadError, match="a struct neuron or results, or A and C, got x; pass key="):
        read_cnmfe(tmp_path / "x.mat")
    with pytest.raises(LoadError, match=r"x\.mat: x: expected a struct with A and C, got ndarray"):
        read_cnmfe(tmp_path / "x.mat", key="x")
    fields = made(Fs=None)
    fields.pop("images")
    writer.write(tmp_path / "y.mat", {"neuron": fields})
    assert read_cnmfe(tmp_path / "y.mat", fs=20.0)["C"].rate == 20.0


@pytest.mark.slow
@pytest.mark.parametrize("version", ["6", "7", "7.3"])
def test_damage(version: str, tmp_path: Path) -> None:
    fields = made()
    fields.pop("images")
    writer.write(tmp_path / "x.mat", {"neuron": fields}, version)
    fixed = ("C.data", "S.data") if version == "7" else ()  # of 7 alone every number is checked
    count = survive(lambda p: read_cnmfe(p), tmp_path / "x.mat", tmp_path / "work", n=300, fixed=fixed)
    assert count["refused"] > 60
