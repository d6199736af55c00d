"""nibabel images there and back: what returns is what went, but for what the list says is lost."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import fmri as writer
from writers.fmri import LAS, RAS, packaged

import tectum
from tectum import Recording
from tectum.core.convert import as_container
from tectum.core.errors import InputError, TectumWarning
from tectum.io.convert import from_nibabel, to_nibabel
from tectum.io.convert.images import LOST


def image_meta(shape: tuple[int, ...], affine: np.ndarray = LAS, kind: str = "nifti1") -> dict[str, Any]:
    return {"image": {"affine": affine.tolist(), "shape": list(shape[:3]), "kind": kind, "space": ""}}


@st.composite
def volumes(draw: st.DrawFn) -> Recording:
    shape = tuple(draw(st.integers(1, 4)) for _ in range(3))
    n = draw(st.integers(0, 4))
    first = draw(st.sampled_from(["time", "trial", "feature"])) if n else None
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(rng.standard_normal((3, 3)))[0] * rng.uniform(0.5, 4, 3)
    affine[:3, 3] = rng.uniform(-90, 90, 3)
    size = ((n + 1,) if n else ()) + shape
    kind = draw(st.sampled_from([np.float32, np.float64, np.int16, np.int32]))
    values = (rng.standard_normal(size) * 10.0 ** draw(st.integers(-3, 3))).astype(kind)
    rate = 1 / draw(st.sampled_from([0.72, 1.4, 2.0, 2.5])) if first == "time" else None
    return Recording(data=torch.from_numpy(values), dims=((first,) if first else ()) + ("x", "y", "z"), rate=rate,
                     units="BOLD" if first == "time" else "a.u.", meta=image_meta(shape, affine))  # fmt: skip


@settings(max_examples=80)
@given(volumes())
def test_volumes_return(rec: Recording) -> None:
    first = rec.dims[0] if rec.ndim == 4 else "time"
    image = to_nibabel(rec)
    again = from_nibabel(image, fourth=first, kind="series" if rec.ndim == 4 else "map")
    assert again.dims == rec.dims
    torch.testing.assert_close(again.values, rec.values.float(), rtol=0, atol=0)
    affine = np.asarray(rec.meta["image"]["affine"])
    np.testing.assert_array_equal(again.meta["image"]["affine"], affine)
    np.testing.assert_allclose(image.header.get_qform(), affine, atol=1e-3)
    assert again.units == rec.units
    if rec.rate is not None:
        assert again.rate == pytest.approx(rec.rate, rel=1e-6)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.booleans())
def test_images_return_through_disk(seed: int, packed: bool) -> None:
    import tempfile

    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((3, 4, 2, 5)) * 100).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = writer.write_nifti(Path(folder) / ("a.nii.gz" if packed else "a.nii"), values, affine=LAS)
        rec = tectum.read(path)
        nib.save(to_nibabel(rec), Path(folder) / "b.nii.gz")
        first, second = nib.load(path), nib.load(Path(folder) / "b.nii.gz")
        np.testing.assert_array_equal(first.get_fdata(), second.get_fdata())  # type: ignore[attr-defined]
        np.testing.assert_array_equal(first.affine, second.affine)  # type: ignore[attr-defined]
        assert first.header.get_zooms() == pytest.approx(second.header.get_zooms())  # type: ignore[attr-defined]
        assert torch.equal(tectum.read(Path(folder) / "b.nii.gz").values, rec.values)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 30), st.booleans())
def test_masked_voxels_return(seed: int, count: int, time: bool) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros(60, bool)
    mask[rng.choice(60, count, replace=False)] = True
    mask = mask.reshape(5, 4, 3)
    values = rng.standard_normal((5, 4, 3, 6)).astype(np.float32)
    image = nib.Nifti1Image(values if time else values[..., 0], RAS)
    options = {"tr": 2.0} if time else {}
    rec = from_nibabel(image, mask=mask, **options)
    assert rec.dims == (("time", "voxel") if time else ("voxel",))
    back = to_nibabel(rec).get_fdata()
    expected = np.where(mask[..., None], values, 0) if time else np.where(mask, values[..., 0], 0)
    np.testing.assert_array_equal(back, expected)
    again = from_nibabel(to_nibabel(rec), mask=mask)
    assert torch.equal(again.values, rec.values)


@pytest.mark.parametrize("kind", ["dtseries", "ptseries", "dscalar", "pscalar", "dlabel"])
@settings(max_examples=12)
@given(seed=st.integers(0, 10_000))
def test_grayordinates_return(kind: str, seed: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{kind}.nii"
        values = writer.write_cifti(path)
        draw = np.random.default_rng(seed)
        changed = draw.permutation(values.ravel()).reshape(values.shape)
        writer.write_cifti(path, changed)
        rec = tectum.read(path).load()
        image: Any = nib.load(path)
        made = to_nibabel(rec)
        np.testing.assert_array_equal(made.get_fdata(), image.get_fdata())
        for axis in (0, 1):
            assert made.header.get_axis(axis) == image.header.get_axis(axis)
        nib.save(made, Path(folder) / f"b.{kind}.nii")
        again = tectum.read(Path(folder) / f"b.{kind}.nii")
        assert torch.equal(again.values, rec.values)
        assert (again.dims, again.rate, again.t0, again.units) == (rec.dims, rec.rate, rec.t0, rec.units)
        assert again.meta["cifti"] == rec.meta["cifti"]
        for axis, table in rec.coords.items():
            for name, column in table.items():
                np.testing.assert_array_equal(again.coords[axis][name], column)


def test_a_selection_of_grayordinates_returns(tmp_path: Path) -> None:
    writer.write_cifti(tmp_path / "a.dtseries.nii")
    rec = tectum.read(tmp_path / "a.dtseries.nii").isel(voxel=[0, 1, 6])
    axis = to_nibabel(rec).header.get_axis(1)
    assert axis == writer.surface_axis()[[0, 1, 6]]


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(["time", "feature", "map", "label"]), st.sampled_from(["left", "right"]))
def test_vertices_return(seed: int, what: str, side: str) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    table = {"hemi": np.full(n, side), "index": np.arange(n)}
    meta: dict[str, Any] = {"surface": {"hemi": side, "n_vertices": n}}
    if what == "label":
        meta["labels"] = {"0": ["none", [0.0, 0.0, 0.0, 0.0]], "3": ["V1", [1.0, 0.5, 0.0, 1.0]]}
        rec = Recording(data=torch.from_numpy(rng.integers(0, 4, n).astype(np.int32)), dims=("vertex",), units="1",
                        coords={"vertex": table}, meta=meta)  # fmt: skip
    elif what == "map":
        rec = Recording(data=torch.from_numpy(rng.standard_normal(n).astype(np.float32)), dims=("vertex",),
                        coords={"vertex": table}, meta=meta)  # fmt: skip
    else:
        names = {"feature": {"name": ["a", "b", "c"]}} if what == "feature" else {}
        rec = Recording(data=torch.from_numpy(rng.standard_normal((3, n)).astype(np.float32)), dims=(what, "vertex"),
                        rate=0.5 if what == "time" else None, units="BOLD" if what == "time" else "a.u.",
                        coords={"vertex": table, **names}, meta=meta)  # fmt: skip
    again = from_nibabel(nib.gifti.GiftiImage.from_bytes(to_nibabel(rec).to_bytes()))
    assert torch.equal(again.values, rec.values)
    assert (again.dims, again.rate, again.units) == (rec.dims, rec.rate, rec.units)
    assert again.meta.get("labels") == rec.meta.get("labels")
    for axis, found in rec.coords.items():
        for name, column in found.items():
            np.testing.assert_array_equal(again.coords[axis][name], column)


def test_objects_are_taken_where_files_are() -> None:
    path = packaged("nibabel", "tests/data/functional.nii")
    image: Any = nib.load(path)
    for rec in (tectum.read(image), as_container(image), tectum.read(path)):
        assert rec.is_lazy
        np.testing.assert_array_equal(rec.values.numpy(), np.moveaxis(image.get_fdata(), -1, 0).astype(np.float32))
        assert rec.rate == pytest.approx(1 / image.header.get_zooms()[3])


def test_surfaces_in_mgh_are_taken_as_surfaces(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((7, 1, 1, 12)).astype(np.float32)
    path = writer.write_mgz(tmp_path / "sub-01.lh.mgz", rows)
    with pytest.warns(TectumWarning, match="taken as ms"):
        found, expected = from_nibabel(nib.load(path)), tectum.read(path)
    assert (found.dims, found.rate) == (expected.dims, expected.rate) == (("time", "vertex"), pytest.approx(1 / 1.4))
    assert torch.equal(found.values, expected.values)
    again = from_nibabel(to_nibabel(found))  # goes out as GIFTI
    assert torch.equal(again.values, found.values)
    assert again.rate == pytest.approx(1 / 1.4)


def test_what_is_lost_is_lost(tmp_path: Path) -> None:
    shape = (2, 2, 2)
    data = torch.arange(24.0).reshape(3, 2, 2, 2)
    rec = Recording(data=data, dims=("time", "x", "y", "z"), rate=0.5, t0=3.0, units="z", subject="s", session="1",
                    mask=torch.zeros(1, 2, 2, 2, dtype=torch.bool), meta={**image_meta(shape), "note": 1})  # fmt: skip
    again = from_nibabel(to_nibabel(rec))
    assert (again.units, again.t0, again.subject, again.session) == ("BOLD", 0.0, "", "")
    assert again.mask is None
    assert "note" not in again.meta
    told = " ".join(LOST)
    for word in ("units", "t0", "subject", "session", "mask", "history", "meta", "float64", "irregular"):
        assert word in told
    big = rec.with_(data=torch.full((3, 2, 2, 2), 2**24 + 1, dtype=torch.int64), mask=None)
    assert to_nibabel(big).get_data_dtype() == np.int32
    assert int(from_nibabel(to_nibabel(big)).values[0, 0, 0, 0]) == 2**24  # 24 bits
    assert to_nibabel(big.with_(data=big.values * 2**20)).get_data_dtype() == np.float64
    assert to_nibabel(rec.with_(data=data > 4, mask=None)).get_data_dtype() == np.uint8
    times = rec.with_(rate=None, times=torch.tensor([0.0, 2.0, 6.0]))
    with pytest.warns(TectumWarning, match="irregular times are lost"):
        assert to_nibabel(times).header.get_zooms()[3] == 0.0
    assert isinstance(to_nibabel(rec.with_(meta=image_meta(shape, kind="nifti2"))), nib.Nifti2Image)


def test_parcels_go_through_their_atlas() -> None:
    labels = np.zeros((3, 3, 3), np.int16)
    labels[0], labels[2] = 4, 8
    atlas = nib.Nifti1Image(labels, RAS)
    rec = Recording(data=torch.tensor([[1.0, 2.0], [3.0, 4.0]]), dims=("time", "unit"), rate=0.5, units="BOLD",
                    coords={"unit": {"id": [8, 4]}})  # fmt: skip
    image = to_nibabel(rec, atlas=atlas)
    found = image.get_fdata()
    assert (found[0, :, :, 0] == 2.0).all()
    assert (found[2, :, :, 1] == 3.0).all()
    assert (found[1] == 0).all()
    np.testing.assert_array_equal(image.affine, RAS)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Recording(data=torch.zeros(3, 2), dims=("time", "unit"), rate=1.0), "x, y, z, voxel.*pass atlas="),
        (lambda: Recording(data=torch.zeros(3, 2), dims=("time", "voxel"), rate=1.0), "unmask: expected voxels with i"),
        (
            lambda: Recording(
                data=torch.zeros(2, 2, 2), dims=("x", "y", "z"), meta=image_meta((2, 2, 2), np.zeros((4, 4)))
            ),
            "an affine with an inverse, got a singular one",
        ),
        (
            lambda: Recording(data=torch.zeros(2), dims=("vertex",), coords={"vertex": {"hemi": ["left", "right"]}}),
            "one hemisphere, got .*select one",
        ),
    ],
)
def test_what_has_no_place(make: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        to_nibabel(make())


def test_other_objects() -> None:
    with pytest.raises(InputError, match="from_nibabel: expected a NIfTI.*got Nifti1Header"):
        from_nibabel(nib.Nifti1Header())
    with pytest.raises(InputError, match="expected an image of 3 or 4 axes, got shape"):
        from_nibabel(nib.Nifti1Image(np.zeros((2, 2), np.float32), np.eye(4)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flat = nib.Nifti1Image(np.zeros((2, 2, 2, 3), np.float32), np.eye(4))
    with pytest.raises(InputError, match="repetition time: expected 0.2 to 10 s, got none"):
        from_nibabel(flat)
