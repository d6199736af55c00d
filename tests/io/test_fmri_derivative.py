"""A whole derivative of fMRIPrep as the specification asks: three subjects, two runs of unequal length, an atlas."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from writers import fmri as writer

import tectum
from tectum import Session
from tectum.core.errors import InputError, LoadError
from tectum.io.fmri.confounds import read_confounds
from tectum.io.fmri.parcellation import read_parcels
from tectum.io.fmri.volumes import is_derivative, read_derivative, read_fmriprep
from tectum.preprocess import clean

Runs = dict[tuple[str, int], writer.Run]


def atlas_apart(path: Path, labels: np.ndarray) -> Path:
    """Write the labels on an upright grid of 3 mm that covers those of 4 mm, by the nearest neighbour in mm."""
    corners = np.array(list(itertools.product(*[(0, n - 1) for n in labels.shape]))) @ writer.LAS[:3, :3].T
    low, high = (corners + writer.LAS[:3, 3]).min(0) - 4, (corners + writer.LAS[:3, 3]).max(0) + 4
    shape = np.ceil((high - low) / 3).astype(int) + 1
    place = np.indices(tuple(shape)).reshape(3, -1).T * 3 + low
    index = np.rint((place - writer.LAS[:3, 3]) @ np.linalg.inv(writer.LAS[:3, :3]).T).astype(int)
    inside = ((index >= 0) & (index < labels.shape)).all(1)
    made = np.zeros(len(place), np.int16)
    made[inside] = labels[tuple(index[inside].T)]
    affine = np.diag([3.0, 3, 3, 1])
    affine[:3, 3] = low
    nib.save(nib.Nifti1Image(made.reshape(shape), affine), path)
    return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Runs, Path]]:
    root = tmp_path_factory.mktemp("derivative")
    began = time.process_time()
    runs = {
        (subject, run): writer.write_derivative(
            root, subject=subject, run=run, n=120 if run == 1 else 97, seed=10 * int(subject) + run, stays=True
        )
        for subject in ("01", "02", "03")
        for run in (1, 2)
    }
    yield root, runs, atlas_apart(root / "atlas.nii.gz", runs["01", 1].labels)
    assert time.process_time() - began < 10  # of this module's work, the simulation included


def without(confounds: Any, series: np.ndarray) -> np.ndarray:
    """Return what is left of series (time, n) after a regression on confounds, mean and line, in the volumes kept."""
    kept = np.asarray(confounds.coords["time"]["kept"], dtype=bool)
    columns = confounds.tensor("time", "feature").double().numpy()[kept]
    columns = np.c_[
        (columns - columns.mean(0)) / columns.std(0), np.ones(len(columns)), np.linspace(-1, 1, len(columns))
    ]
    weights = np.linalg.lstsq(columns, series[kept], rcond=None)[0]
    return np.asarray(series[kept] - columns @ weights)


def test_networks_are_recovered(tree: tuple[Path, Runs, Path]) -> None:
    root, runs, atlas = tree
    raw, cleaned = [], []
    for run in runs.values():
        session = read_fmriprep(run.bold, atlas=atlas, resample=True, strategy="simple")
        networks = run.networks[:, [k % 4 for k in range(8)]]
        truth = np.corrcoef(networks.T)
        raw.append(np.abs(np.corrcoef(session["bold"].values.numpy().T) - truth).mean())
        found: Any = clean(session)["bold"]
        assert found.sizes["time"] == len(run.networks) - 1  # without the volume before the steady state
        connected = np.corrcoef(found.values.numpy().T)
        cleaned.append(np.abs(connected - truth).mean())
        left = np.corrcoef(without(session["confounds"], networks).T)
        assert (
            np.abs(connected - left).mean() < 0.02
        )  # all that confounds leave of the networks comes back in every run
    assert np.mean(raw) > 0.2, raw
    assert np.mean(cleaned) < 0.08, cleaned  # of single runs up to .13: the confounds share that much with the networks


def test_the_two_movements_are_flagged_and_no_other(tree: tuple[Path, Runs, Path]) -> None:
    for run in tree[1].values():
        found = read_confounds(run.bold, strategy="scrubbing", scrub=0)
        removed = np.flatnonzero(~np.asarray(found.coords["time"]["kept"])).tolist()
        assert removed == [0, *run.spikes]  # the first is before the steady state


def test_parcels_are_means_of_resampled_labels(tree: tuple[Path, Runs, Path]) -> None:
    from nilearn.image import resample_to_img

    _, runs, atlas = tree
    run = runs["02", 2]
    labels = resample_to_img(
        nib.load(atlas), nib.load(run.bold).slicer[..., 0], interpolation="nearest", copy_header=True,
        force_resample=True,
    ).get_fdata()  # fmt: skip
    expected = np.stack([run.raw[:, labels == k].mean(1) for k in range(1, 9)], 1)
    found = read_parcels(run.bold, atlas, resample=True)
    assert found.coords["unit"]["id"].tolist() == list(range(1, 9))
    assert found.coords["unit"]["n_voxels"].tolist() == [int((labels == k).sum()) for k in range(1, 9)]
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=1e-6)


def test_the_folder_is_read_run_by_run(tree: tuple[Path, Runs, Path]) -> None:
    root, runs, _ = tree
    found = tectum.read(root)
    assert [s.subject for s in found] == ["01", "01", "02", "02", "03", "03"]
    assert [s["bold"].sizes["time"] for s in found] == [120, 97] * 3
    assert all(s["bold"].is_lazy for s in found)
    for session, run in zip(found, runs.values(), strict=True):
        np.testing.assert_allclose(session["bold"].values.numpy(), run.raw[:, run.mask], rtol=1e-6)
        assert set(session) == {"bold", "confounds", "events"}
    one = tectum.read(root, subject="03", run="2")
    assert isinstance(one, Session)
    assert one.subject == "03"
    assert is_derivative(root / "sub-01")
    assert len(read_derivative(root / "sub-01", strategy="motion6", lazy=False)) == 2
    with pytest.raises(LoadError, match=r"images \*_desc-preproc_bold.nii.gz, got none with .*'04'"):
        read_derivative(root, subject="04")


def test_versions_of_a_run_are_not_guessed(tmp_path: Path) -> None:
    run = writer.write_derivative(tmp_path, n=40, seed=100)
    other = run.bold.with_name(run.bold.name.replace("MNI152NLin2009cAsym", "T1w"))
    other.write_bytes(run.bold.read_bytes())
    with pytest.raises(InputError, match="versions of a run: expected one file, got 2: .*name space= or res="):
        tectum.read(tmp_path)
    assert isinstance(tectum.read(tmp_path, space="MNI152NLin2009cAsym"), Session)
    next(run.bold.parent.glob("*confounds*.tsv")).unlink()
    with pytest.raises(LoadError, match="table of confounds: expected a file, got none"):
        tectum.read(tmp_path, space="MNI152NLin2009cAsym")


def test_what_info_says(tree: tuple[Path, Runs, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from tectum.cli import main

    run = tree[1]["01", 2]
    assert main(["info", str(run.bold.parents[1]), "--html", str(tmp_path / "a.html")]) == 0
    told = capsys.readouterr().out
    for text in ("Quality of the run", "volumes kept", "96 of 97", "framewise displacement, mean", "tr_from sidecar"):
        assert text in told
    page = (tmp_path / "a.html").read_text()
    assert page.count("<img") == 12  # of each run four of its quality, the voxels and the confounds
    assert main(["info", str(run.bold)]) == 0
    assert "x axis" in capsys.readouterr().out
