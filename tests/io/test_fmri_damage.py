"""Damaged files of every format: refused with file and cause within seconds, or read with the right shape."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from writers import fmri as writer
from writers.mutate import survive

from tectum.io.fmri.cifti import read_cifti
from tectum.io.fmri.confounds import confounds_beside, read_confounds
from tectum.io.fmri.surfaces import read_surface
from tectum.io.fmri.volumes import read_image


def _write(kind: str, folder: Path) -> tuple[Path, Callable[[Path], Any]]:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 7, 5, 8)).astype(np.float32)
    if kind.startswith("nifti"):
        second = kind.startswith("nifti2")
        path = folder / ("a.nii.gz" if kind.endswith("gz") else "a.nii")
        return writer.write_nifti(path, values, second=second), lambda p: read_image(p, tr=2.0)
    if kind == "masked":
        mask = np.zeros((6, 7, 5), bool)
        mask[1:5, 2:6, 1:4] = True
        path = writer.write_nifti(folder / "a.nii.gz", values)
        return path, lambda p: read_image(p, tr=2.0, mask=mask, nan="zero")
    if kind == "cifti":
        writer.write_cifti(folder / "a.dtseries.nii")
        return folder / "a.dtseries.nii", lambda p: read_cifti(p, tr=0.72)
    if kind == "gifti":
        path = writer.write_gifti(folder / "a.func.gii", values[0, 0].T.copy())
        return path, lambda p: read_surface(p, tr=2.0)
    if kind == "confounds":
        run = writer.write_derivative(folder / "d", n=30)
        return confounds_beside(run.bold), lambda p: read_confounds(p, tr=2.0, minimum=1)
    path = folder / ("a.mgz" if kind == "mgz" else "a.mgh")
    return writer.write_mgz(path, values), lambda p: read_image(p, tr=2.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["nifti1", "nifti1.gz", "nifti2", "masked", "cifti", "gifti", "mgz", "mgh", "confounds"]
)
def test_damage(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "good"
    source.mkdir()
    path, read = _write(kind, source)
    fixed = () if kind in ("nifti1", "nifti2", "mgh", "gifti", "cifti", "confounds") else None

    def quiet(path: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(path)

    count = survive(quiet, path, tmp_path / "work", n=300, fixed=fixed)
    assert count["refused"] > 50
    assert sum(count.values()) == 300


def test_what_was_written_is_right(tmp_path: Path) -> None:
    path, read = _write("nifti2.gz", tmp_path)
    assert isinstance(nib.load(path), nib.Nifti2Image)
    assert read(path).sizes == {"time": 8, "x": 6, "y": 7, "z": 5}
