"""Single-trial responses in the layout of the Natural Scenes Dataset, as images, HDF5 and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from writers.fmri import RAS, write_nifti
from writers.mutate import survive

from tectum.core.errors import InputError, LoadError
from tectum.io.fmri.bdata import read_bdata
from tectum.io.fmri.betas import join_betas, read_betas, repeats
from tectum.io.fmri.volumes import unmask

SHAPE, N = (5, 4, 3), 30


def written(folder: Path, session: int = 1, form: str = "nii.gz") -> tuple[Path, np.ndarray, Any]:
    rng = np.random.default_rng(session)
    values = rng.integers(-3000, 3000, (*SHAPE, N)).astype(np.int16)
    path = folder / f"betas_session{session:02d}.{form}"
    if form == "nii.gz":
        write_nifti(path, values, tr=None)
    elif form == "hdf5":
        with h5py.File(path, "w") as file:
            file["betas"] = values.T  # as MATLAB writes (x, y, z, trial)
    else:
        inside = np.argwhere(mask_of() > 0)
        np.save(path, values[tuple(inside.T)].T)
    return path, values, mask_of()


def mask_of() -> np.ndarray:
    made = np.full(SHAPE, -1, np.int16)  # NSD marks what is not cortex by -1
    made[1:4, :, 1] = 1
    made[0, 0, 0] = 0
    return made


def table(folder: Path, sessions: int = 2) -> Path:
    rng = np.random.default_rng(9)
    lines = ["SUBJECT\tSESSION\tRUN\tTRIAL\t73KID\t10KID\tRT"]
    for s in range(1, sessions + 1):
        for k in range(N):
            lines.append(f"1\t{s}\t{k // 10 + 1}\t{k % 10 + 1}\t{rng.integers(1, 12)}\t{k}\t{'NaN' if k == 3 else 0.5}")
    (folder / "responses.tsv").write_text("\n".join(lines) + "\n")
    return folder / "responses.tsv"


@pytest.mark.parametrize("form", ["nii.gz", "hdf5", "npy"])
def test_layouts_agree(form: str, tmp_path: Path) -> None:
    path, values, mask = written(tmp_path, form=form)
    image = nib.Nifti1Image(mask, RAS)
    rec = read_betas(path, mask=image, trials=table(tmp_path), subject="subj01", ncsnr=None if form == "npy" else image)
    expected = (values[mask > 0].T / 300.0).astype(np.float32)
    np.testing.assert_allclose(rec.values.numpy(), expected, rtol=1e-6)
    assert (rec.units, rec.session, rec.subject) == ("BOLD %", "1", "subj01")
    trials = rec.coords["trial"]
    assert trials["run"].tolist() == [k // 10 + 1 for k in range(N)]
    assert np.isnan(trials["rt"][3])
    np.testing.assert_array_equal(trials["repeat"], repeats(trials["stim_id"]))
    if form != "npy":
        assert set(rec.coords["voxel"]["ncsnr"]) == {1.0}
    back = unmask(rec).values.numpy()
    np.testing.assert_allclose(back[:, mask > 0], expected, rtol=1e-6)
    assert rec.meta["image"]["mask"] == "given"


def test_without_a_mask_it_stays_on_disk(tmp_path: Path) -> None:
    for form in ("nii.gz", "hdf5"):
        path, values, _ = written(tmp_path, form=form)
        rec = read_betas(path)
        assert rec.is_lazy
        assert rec.dims == ("trial", "x", "y", "z")
        part = rec.isel(trial=slice(3, 6), x=2).values.numpy()
        np.testing.assert_allclose(part, np.moveaxis(values[2, :, :, 3:6], -1, 0) / 300.0, rtol=1e-5)


def test_scale_and_zscore(tmp_path: Path) -> None:
    path, values, mask = written(tmp_path)
    raw = read_betas(path, mask=mask, scale=None)
    np.testing.assert_array_equal(raw.values.numpy(), values[mask > 0].T)
    assert raw.units == "a.u."
    other = path.with_name("glm.nii.gz")
    other.write_bytes(path.read_bytes())
    assert torch.equal(read_betas(other, mask=mask).values, raw.values)
    scored = read_betas(path, mask=mask, zscore=True)
    assert scored.units == "z"
    assert scored.history[0]["zscore"] is True
    np.testing.assert_allclose(scored.values.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(scored.values.std(0, correction=0), 1, atol=1e-5)


def test_sessions_join(tmp_path: Path) -> None:
    trials = table(tmp_path)
    parts = []
    for session in (1, 2):
        path, _, mask = written(tmp_path, session)
        parts.append(read_betas(path, mask=mask, trials=trials))
    both = join_betas(parts)
    assert both.sizes["trial"] == 2 * N
    ids = np.concatenate([p.coords["trial"]["stim_id"] for p in parts])
    np.testing.assert_array_equal(both.coords["trial"]["repeat"], repeats(ids))
    assert both.session == "1,2"
    with pytest.raises(InputError, match="session 1: expected voxels and units as"):
        join_betas([parts[0], parts[1].isel(voxel=slice(0, 3))])


@settings(max_examples=50)
@given(st.lists(st.integers(0, 5), max_size=40))
def test_repeats_count(ids: list[int]) -> None:
    assert repeats(ids).tolist() == [ids[:k].count(v) for k, v in enumerate(ids)]


def test_bad_input(tmp_path: Path) -> None:
    path, _, mask = written(tmp_path)
    with pytest.raises(InputError, match=r"trials: expected 30 rows, one a trial, got \[4\] rows"):
        read_betas(path, trials={"stim_id": np.arange(4)})
    with pytest.raises(InputError, match="a divisor above 0, 'auto' or None, got 'nsd'"):
        read_betas(path, scale="nsd")
    with pytest.raises(InputError, match="a voxel inside, got an empty mask"):
        read_betas(path, mask=mask * 0)
    with pytest.raises(InputError, match="expected the grid of the data"):
        read_betas(path, mask=np.ones((4, 4, 4)))
    hdf, _, _ = written(tmp_path, form="hdf5")
    with pytest.raises(InputError, match=r"a dataset among \['betas'\], got 'beta'"):
        read_betas(hdf, key="beta")
    with pytest.raises(InputError, match="a mask with an affine"):
        read_betas(hdf, mask=mask)
    flat, _, _ = written(tmp_path, form="npy")
    with pytest.raises(InputError, match=r"mask= for \(trial, voxel\)"):
        read_betas(flat)
    with pytest.raises(InputError, match="expected 12 voxels, got 60 voxels"):
        read_betas(flat, mask=nib.Nifti1Image(np.ones(SHAPE, np.uint8), RAS))
    three = write_nifti(tmp_path / "one.nii", np.zeros(SHAPE, np.float32))
    with pytest.raises(InputError, match=r"expected \(x, y, z, trial\), got shape"):
        read_betas(three)
    with h5py.File(tmp_path / "bomb.hdf5", "w") as file:
        file.create_dataset("betas", (10_000, 500, 500, 500), "f4", chunks=(1, 1, 1, 500))
    with pytest.raises(LoadError, match=r"bomb\.hdf5: expected at most \d+ bytes, got \d+ in betas"):
        read_betas(tmp_path / "bomb.hdf5")
    values = np.ones((*SHAPE, N), np.float32)
    values[2, 2, 1, 3] = np.nan
    lost = write_nifti(tmp_path / "lost.nii", values, tr=None)
    with pytest.raises(InputError, match="got 1 NaN or infinite values in 1 of 12 voxels"):
        read_betas(lost, mask=mask)
    assert read_betas(lost, mask=mask, nan="drop_voxels").sizes["voxel"] == 11


# Files of bdpy


def bdata(path: Path, old: bool = False, keys: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    data = rng.standard_normal((9, 11))
    data[:, 6], data[:, 7] = np.repeat([1, 2, 3], 3), np.tile([5, 6, 7], 3)
    nan = np.nan
    meta = {
        "VoxelData": [1] * 6 + [nan] * 5,
        "ROI_V1": [1, 1, 0, 0, 1, 0] + [nan] * 5,
        "voxel_x": [*rng.uniform(-50, 50, 6)] + [nan] * 5,
        "Run": [nan] * 6 + [1] + [nan] * 4,
        "stimulus_id": [nan] * 7 + [1] + [nan] * 3,
        "features": [nan] * 8 + [1, 1, 1],
    }
    matrix, group = ("dataSet", "metaData") if old else ("dataset", "metadata")
    with h5py.File(path, "w") as file:
        file[matrix] = data
        file[f"{group}/key"] = [k.encode() for k in meta][:keys]
        file[f"{group}/description"] = [b""] * len(meta)
        file[f"{group}/value"] = np.array(list(meta.values()))
    return data, np.array(meta["voxel_x"][:6])


@pytest.mark.parametrize("old", [False, True])
def test_bdata_equals_h5py(old: bool, tmp_path: Path) -> None:
    data, x = bdata(tmp_path / "Subject1.h5", old)
    rec = read_bdata(tmp_path / "Subject1.h5", subject="S1")
    np.testing.assert_array_equal(rec.values.numpy(), data[:, :6].astype(np.float32))
    assert set(rec.coords["trial"]) == {"Run", "stimulus_id", "stim_id"}
    np.testing.assert_array_equal(rec.coords["trial"]["stim_id"], data[:, 7])
    np.testing.assert_array_equal(rec.coords["voxel"]["x"], x)
    assert rec.coords["voxel"]["ROI_V1"].tolist() == [True, True, False, False, True, False]
    assert rec.history[0]["left_out"] == ["features"]
    part = read_bdata(tmp_path / "Subject1.h5", roi="ROI_V1")
    np.testing.assert_array_equal(part.values.numpy(), data[:, [0, 1, 4]].astype(np.float32))


def test_bad_bdata(tmp_path: Path) -> None:
    bdata(tmp_path / "a.h5")
    with pytest.raises(InputError, match="a metadata key, got 'ROI_V2'; did you mean 'ROI_V1'"):
        read_bdata(tmp_path / "a.h5", roi="ROI_V2")
    with pytest.raises(InputError, match="voxels of Run, got none|voxels of"):
        read_bdata(tmp_path / "a.h5", roi="Run")
    bdata(tmp_path / "b.h5", keys=3)
    with pytest.raises(LoadError, match=r"b\.h5: expected a value of each key for each column, got .* 3 keys"):
        read_bdata(tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(LoadError, match=r"c\.h5: expected dataset and metadata of bdpy, got x"):
        read_bdata(tmp_path / "c.h5")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bdata", "betas"])
def test_damage(kind: str, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    if kind == "bdata":
        path, read = tmp_path / "good" / "a.h5", read_bdata
        bdata(path)
    else:
        path, _, mask = written(tmp_path / "good", form="hdf5")
        read = lambda p: read_betas(p, mask=nib.Nifti1Image(mask, RAS), nan="zero")  # type: ignore  # noqa: E731
    count = survive(read, path, tmp_path / "work", n=300, fixed=())
    assert count["refused"] > 30
    assert sum(count.values()) == 300
