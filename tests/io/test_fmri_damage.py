"""Damaged files of every format: refused with file and cause within seconds, or read with the right shape."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from writers import fmri as writer
from writers.mutate import mutations, survive, touch
from writers.rights import as_nobody

from tectum import Recording
from tectum.core.errors import LoadError
from tectum.io.fmri.cifti import read_cifti
from tectum.io.fmri.confounds import confounds_beside, read_confounds
from tectum.io.fmri.events import read_bids_events
from tectum.io.fmri.images import open_numbers
from tectum.io.fmri.surfaces import read_annot, read_mesh, read_surface
from tectum.io.fmri.volumes import read_image


def _analyze(folder: Path) -> tuple[Path, Callable[[Path], Any]]:
    values = np.random.default_rng(0).integers(0, 99, (6, 7, 5)).astype(np.int16)
    (folder / "pair").mkdir()
    nib.save(nib.AnalyzeImage(values, np.diag([-2.0, 2, 2, 1])), folder / "pair" / "a.img")
    return folder / "pair", lambda p: read_image(p / "a.img")


def _annot(folder: Path) -> tuple[Path, Callable[[Path], Any]]:
    colours = np.array([[0, 0, 0, 0, 0], [255, 0, 0, 0, 255], [0, 255, 0, 0, 65280]])
    labels = np.random.default_rng(0).integers(0, 3, 200)
    nib.freesurfer.write_annot(folder / "lh.a.annot", labels, colours, ["none", "A", "B"], fill_ctab=True)
    return folder / "lh.a.annot", read_annot


def _events(folder: Path) -> tuple[Path, Callable[[Path], Any]]:
    path = folder / "sub-01_task-x_events.tsv"
    rows = (f"{k * 2.5}\t1.5\tface\n" for k in range(30))
    path.write_text("onset\tduration\ttrial_type\n" + "".join(rows))
    return path, lambda p: read_bids_events(p, duration=100.0)


def _tedana(folder: Path) -> tuple[Path, Callable[[Path], Any]]:
    values = np.random.default_rng(0).standard_normal((30, 12))
    head = "\t".join(f"ICA_{k:02d}" for k in range(12))
    rows = "".join("\t".join(f"{v:.6f}" for v in row) + "\n" for row in values)
    (folder / "t").mkdir()
    (folder / "t" / "desc-ICA_mixing.tsv").write_text(f"{head}\n{rows}")
    kinds = "".join(f"ICA_{k:02d}\t{('accepted', 'rejected')[k % 2]}\n" for k in range(12))
    (folder / "t" / "desc-tedana_metrics.tsv").write_text("Component\tclassification\n" + kinds)

    def read(path: Path) -> Any:
        return read_confounds(path / "desc-ICA_mixing.tsv", strategy="tedana", tr=2.0)

    return folder / "t", read


def _mesh(folder: Path, name: str) -> tuple[Path, Callable[[Path], Any]]:
    points = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    faces = np.random.default_rng(1).integers(0, 40, (60, 3)).astype(np.int32)
    if name.endswith(".gii"):
        arrays = [
            nib.gifti.GiftiDataArray(points, intent="NIFTI_INTENT_POINTSET", datatype="NIFTI_TYPE_FLOAT32"),
            nib.gifti.GiftiDataArray(faces, intent="NIFTI_INTENT_TRIANGLE", datatype="NIFTI_TYPE_INT32"),
        ]
        nib.save(nib.gifti.GiftiImage(darrays=arrays), folder / name)
    else:
        nib.freesurfer.write_geometry(folder / name, points, faces)

    def read(path: Path) -> Recording:
        found = read_mesh(path)
        return Recording(data=found.points[found.faces.flatten()], dims=("vertex", "feature"))

    return folder / name, read


OTHERS: dict[str, Callable[[Path], tuple[Path, Callable[[Path], Any]]]] = {
    "analyze": _analyze, "annot": _annot, "events": _events, "tedana": _tedana,
    "surf.gii": lambda folder: _mesh(folder, "a.surf.gii"), "geometry": lambda folder: _mesh(folder, "lh.white"),
}  # fmt: skip
IMAGES = ["nifti1", "nifti1.gz", "nifti2", "nifti2.gz", "masked", "cifti", "gifti", "mgz", "mgh", "confounds"]


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
    if kind in OTHERS:
        return OTHERS[kind](folder)
    if kind == "confounds":
        run = writer.write_derivative(folder / "d", n=30)
        return confounds_beside(run.bold), lambda p: read_confounds(p, tr=2.0, minimum=1)
    path = folder / ("a.mgz" if kind == "mgz" else "a.mgh")
    return writer.write_mgz(path, values), lambda p: read_image(p, tr=2.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*IMAGES, *OTHERS])
def test_damage(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "good"
    source.mkdir()
    path, read = _write(kind, source)
    fixed = None if kind in ("nifti1.gz", "nifti2.gz", "masked", "mgz") else ()  # gzip tells any change

    def quiet(path: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(path)

    count = survive(quiet, path, tmp_path / "work", n=300, fixed=fixed)
    assert count["refused"] > 50
    assert sum(count.values()) == 300


def test_every_kind_of_damage_is_among_them(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    path, _ = _write("nifti1", tmp_path / "good")
    whole = path.read_bytes()
    seen: Counter[str] = Counter()
    for _, made in mutations(path, tmp_path / "work", 300, 0):
        found = made.read_bytes()
        cut, same = bool(found) and len(found) < len(whole) and whole.startswith(found), len(found) == len(whole)
        text = found == b"a text, not a recording\n"
        seen["empty" if not found else "mislabelled" if text else "cut" if cut else "bits" if same else "in front"] += 1
    assert min(seen[kind] for kind in ("empty", "mislabelled", "cut", "bits", "in front")) >= 25, seen


@pytest.mark.parametrize("kind", [*IMAGES, *OTHERS])
@pytest.mark.parametrize("trouble", ["no permission", "loop", "folder"])
def test_what_cannot_be_opened(kind: str, trouble: str, room: Path) -> None:
    """A file that nobody may read, a link to itself (which stops root too), a folder under the name of a file."""
    path, read = _write(kind, room)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MGH files state their repetition time otherwise
        touch(read(path))  # whatever is imported on the way is imported now
    victims = [p for p in path.iterdir() if p.suffix in (".img", ".tsv")] if path.is_dir() else [path]
    for victim in victims:
        if trouble == "no permission":
            victim.chmod(0)
            continue
        victim.unlink()
        victim.mkdir() if trouble == "folder" else victim.symlink_to(victim.name)
    with as_nobody(), pytest.raises(LoadError) as caught:
        touch(read(path))
    assert any(victim.name in str(caught.value) for victim in victims)


def test_what_was_written_is_right(tmp_path: Path) -> None:
    path, read = _write("nifti2.gz", tmp_path)
    assert isinstance(nib.load(path), nib.Nifti2Image)
    assert read(path).sizes == {"time": 8, "x": 6, "y": 7, "z": 5}


@pytest.mark.parametrize("name", ["isal.igzip", "gzip"])
def test_both_unpackers_read_alike_and_see_damage(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(name)
    monkeypatch.setattr("tectum.io.fmri.images.find_spec", lambda asked: name if name == f"{asked}.igzip" else None)
    values = np.random.default_rng(0).integers(-99, 99, (20, 21, 22, 70)).astype(np.int16)  # several blocks
    path = writer.write_nifti(tmp_path / "a.nii.gz", values)
    with open_numbers(path) as stream:
        assert type(stream).__module__ == name
    mask = np.random.default_rng(1).random(values.shape[:3]) < 0.5
    np.testing.assert_array_equal(read_image(path, mask=mask).values.numpy(), values[mask].T)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:-9], content[:-8] + b"\0\0\0\0" + content[-4:]):
        path.write_bytes(damaged)
        with pytest.raises(LoadError, match=r"a\.nii\.gz"):
            read_image(path, mask=mask)
