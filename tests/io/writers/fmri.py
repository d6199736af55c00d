"""Images, surfaces and a derivative of fMRIPrep, small, written by nibabel and by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

#: World axes turned by 10 degrees, left-right flipped, 4 mm.
LAS = np.array([[-3.9392, -0.6946, 0, 30], [-0.6946, 3.9392, 0, -35], [0, 0, 4, -25], [0, 0, 0, 1]])
RAS = np.array([[3.0, 0, 0, -20], [0, 3, 0, -30], [0, 0, 3, -10], [0, 0, 0, 1]])
SIZE = (16, 18, 14)


def packaged(package: str, member: str) -> Path:
    """Return a file that an installed package carries, or skip the test."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    path = Path(next(iter(spec.submodule_search_locations))) / member
    if not path.exists():
        pytest.skip(f"{package} carries no {member}")
    return path


def write_nifti(
    path: Path,
    values: np.ndarray,
    *,
    affine: np.ndarray = RAS,
    tr: float | None = 2.0,
    unit: str = "sec",
    slope: tuple[float, float] | None = None,
    second: bool = False,
) -> Path:
    """Write an image; ``slope`` is set in the header as it is, without rescaling the numbers."""
    image: Any = (nib.Nifti2Image if second else nib.Nifti1Image)(values, affine)
    image.header.set_xyzt_units("mm", unit)
    if values.ndim > 3 and tr is not None:
        image.header["pixdim"][4] = tr
    nib.save(image, path)
    if slope is not None:
        content = bytearray(path.read_bytes())
        content[112:120] = np.array(slope, "<f4").tobytes()
        path.write_bytes(bytes(content))
    return path


def surface_axis() -> Any:
    """Return grayordinates: left and right cortex with medial walls, and a small volume."""
    mask = np.zeros((3, 4, 2), dtype=bool)
    mask[1, 1:3, :] = True
    left = nib.cifti2.BrainModelAxis.from_surface(np.array([0, 2, 3, 5]), 8, name="CortexLeft")
    right = nib.cifti2.BrainModelAxis.from_surface(np.array([1, 4]), 8, name="CortexRight")
    volume = nib.cifti2.BrainModelAxis.from_mask(mask, affine=RAS, name="ThalamusLeft")
    return left + right + volume


def write_cifti(path: Path, values: np.ndarray | None = None, *, tr: float = 0.72, unit: str = "SECOND") -> np.ndarray:
    """Write the kind of CIFTI file that the name says and return its numbers."""
    rng = np.random.default_rng(0)
    grey = surface_axis()
    kind = path.name.split(".")[-2]
    names = ["motor", "visual", "auditory"]
    parcels = nib.cifti2.ParcelsAxis.from_brain_models(
        [("left", grey[:4]), ("right", grey[4:6]), ("thalamus", grey[6:])]
    )
    column = parcels if kind.startswith("p") else grey
    if kind.endswith("series"):
        row: Any = nib.cifti2.SeriesAxis(1.5, tr, 12, unit)
    elif kind == "dlabel":
        row = nib.cifti2.LabelAxis(
            ["atlas"], [{0: ("???", (0, 0, 0, 0)), 1: ("A", (1, 0, 0, 1)), 2: ("B", (0, 1, 0, 1))}]
        )
    else:
        row = nib.cifti2.ScalarAxis(names)
    shape = (len(row), len(column))
    if values is None:
        integers = rng.integers(0, 3, shape).astype(np.int32)
        values = integers if kind == "dlabel" else rng.standard_normal(shape, dtype=np.float32)
    image = nib.Cifti2Image(values, nib.cifti2.Cifti2Header.from_axes((row, column)))
    image.nifti_header.set_data_dtype(values.dtype)
    nib.save(image, path)
    return values


def write_gifti(
    path: Path,
    rows: np.ndarray,
    *,
    intent: str = "NIFTI_INTENT_TIME_SERIES",
    step: str | None = "2.0",
    side: str = "CortexLeft",
    names: Sequence[str] = (),
    encoding: str = "B64GZ",
) -> Path:
    """Write one data array a row."""
    meta = {} if step is None else {"TimeStep": step}
    kind = "NIFTI_TYPE_INT32" if rows.dtype.kind == "i" else "NIFTI_TYPE_FLOAT32"
    arrays = [
        nib.gifti.GiftiDataArray(
            row, intent=intent, datatype=kind, encoding=encoding, meta={**meta, **({"Name": names[k]} if names else {})}
        )
        for k, row in enumerate(rows)
    ]
    head = nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": side})
    nib.save(nib.gifti.GiftiImage(darrays=arrays, meta=head), path)
    return path


def write_mgz(path: Path, values: np.ndarray, *, tr: float = 1400.0) -> Path:
    """Write an MGH image with a repetition time in ms."""
    image = nib.MGHImage(values.astype(np.float32), RAS)
    if values.ndim == 4 and values.shape[3] > 1:
        image.header["tr"] = tr
    nib.save(image, path)
    return path


def confound_table(rng: np.random.Generator, n: int, motion: np.ndarray, **extra: np.ndarray) -> dict[str, np.ndarray]:
    """Return a table with the names and the missing first row of fMRIPrep."""
    table: dict[str, np.ndarray] = {}

    def expand(name: str, column: np.ndarray) -> None:
        step = np.r_[np.nan, np.diff(column)]
        found = {"": column, "_derivative1": step, "_power2": column**2, "_derivative1_power2": step**2}
        table.update({name + end: values for end, values in found.items()})

    for name in ("global_signal", "csf", "white_matter"):
        expand(name, extra.get(name, rng.standard_normal(n).cumsum()))
    change = np.abs(np.diff(motion, axis=0)) @ np.r_[1, 1, 1, 50, 50, 50]
    table["framewise_displacement"] = np.r_[np.nan, change]
    table["std_dvars"] = np.r_[np.nan, 1 + 0.05 * rng.standard_normal(n - 1)]
    for mask, count in (("a", 5), ("w", 2), ("c", 2), ("t", 3)):
        for k in range(count):
            table[f"{mask}_comp_cor_{k:02d}"] = rng.standard_normal(n)
    for k in range(3):
        table[f"cosine{k:02d}"] = np.cos(np.pi / n * (np.arange(n) + 0.5) * (k + 1))
        table[f"aroma_motion_{k + 1:02d}"] = rng.standard_normal(n)
    for k, name in enumerate(("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")):
        expand(name, motion[:, k])
    return {**table, **extra}


def write_confounds(path: Path, table: dict[str, np.ndarray]) -> Path:
    """Write a table of confounds with its sidecar."""
    rows = zip(*table.values(), strict=True)
    lines = ["\t".join("n/a" if np.isnan(v) else repr(float(v)) for v in row) for row in rows]
    path.write_text("\t".join(table) + "\n" + "\n".join(lines) + "\n")
    masks = {"a": "combined", "w": "WM", "c": "CSF", "t": None}
    about: dict[str, Any] = {
        name: {"Method": "tCompCor" if name[0] == "t" else "aCompCor", "Mask": masks[name[0]], "Retained": True}
        for name in table
        if "_comp_cor_" in name
    }
    if "a_comp_cor_03" in about:  # the combined mask first, then the white matter's
        about["a_comp_cor_03"]["Mask"] = about["a_comp_cor_04"]["Mask"] = "WM"
    path.with_suffix(".json").write_text(json.dumps(about))
    return path


@dataclass(frozen=True)
class Run:
    """What was simulated for one run."""

    bold: Path
    mask: np.ndarray
    labels: np.ndarray
    networks: np.ndarray
    spikes: tuple[int, ...]
    raw: np.ndarray


def write_derivative(
    root: Path,
    *,
    subject: str = "01",
    run: int = 1,
    n: int = 120,
    affine: np.ndarray = LAS,
    seed: int = 0,
    dummy: int = 1,
    sidecar: bool = True,
    stays: bool = False,
) -> Run:
    """Write one run of a derivative: four networks as blobs with artefacts and noise, and all files beside it.

    The head moves at two volumes, and comes back at the next one unless it ``stays``.
    """
    rng = np.random.default_rng(seed)
    folder = root / f"sub-{subject}" / "func"
    folder.mkdir(parents=True, exist_ok=True)
    (root / "dataset_description.json").write_text('{"Name": "made", "BIDSVersion": "1.8.0"}')
    base = f"sub-{subject}_task-rest_run-{run}"
    shared = rng.standard_normal((n, 4)) + 0.8 * rng.standard_normal((n, 1))
    networks = np.stack([np.convolve(s, [0.2, 0.5, 1, 0.5, 0.2], "same") for s in shared.T], 1)
    networks = (networks - networks.mean(0)) / networks.std(0)
    labels = np.zeros(SIZE, dtype=np.int16)
    for k in range(8):
        corner = np.array([3 + 5 * (k % 2), 3 + 6 * (k // 2 % 2), 3 + 5 * (k // 4)])
        labels[tuple(slice(c, c + 4) for c in corner)] = k + 1
    mask = np.zeros(SIZE, dtype=bool)
    mask[2:14, 2:16, 2:12] = True
    motion = rng.standard_normal((n, 6)).cumsum(0) * np.r_[0.02, 0.02, 0.02, 4e-4, 4e-4, 4e-4]
    spikes = tuple(k for k in (30, 75) if k < n)
    for k in spikes:
        motion[k : None if stays else k + 1] += np.r_[1.2, 0, 0, 0, 0, 0]
    drift = 8 * np.cos(np.pi / n * (np.arange(n) + 0.5))[:, None]
    step = np.diff(motion, axis=0, prepend=motion[:1])
    terms = np.concatenate([motion, step, motion**2, step**2], 1)
    terms = (terms - terms.mean(0)) / terms.std(0)
    tissue = rng.standard_normal((n, 2))
    values = np.zeros((n, *SIZE), dtype=np.float32)
    values[:, mask] = 1000 + drift + 10 * rng.standard_normal((n, int(mask.sum())))
    values[:, mask] += terms @ (6 * rng.standard_normal((24, 1))) + tissue @ np.array([[12.0], [9.0]])
    for k in range(8):
        values[:, labels == k + 1] += 20 * networks[:, [k % 4]]
    if dummy:
        values[:dummy] *= 1.3
    bold = folder / f"{base}_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz"
    write_nifti(bold, np.moveaxis(values, 0, -1), affine=affine)
    mask_path = folder / f"{base}_space-MNI152NLin2009cAsym_desc-brain_mask.nii.gz"
    write_nifti(mask_path, mask.astype(np.uint8), affine=affine)
    extra = {"csf": tissue[:, 0], "white_matter": tissue[:, 1]}
    table = confound_table(rng, n, motion, **extra)
    for k in range(dummy):
        table[f"non_steady_state_outlier{k:02d}"] = (np.arange(n) == k).astype(float)
    write_confounds(folder / f"{base}_desc-confounds_timeseries.tsv", table)
    (folder / f"{base}_events.tsv").write_text("onset\tduration\ttrial_type\n4.0\t2.0\tface\n20.5\t2.0\thouse\n")
    if sidecar:
        about = {"RepetitionTime": 2.0, "SliceTimingCorrected": True, "StartTime": 0.96, "TaskName": "rest"}
        bold.with_name(bold.name.replace(".nii.gz", ".json")).write_text(json.dumps(about))
    return Run(bold, mask, labels, networks, spikes, values)
