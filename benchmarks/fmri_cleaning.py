"""Cleaning of a whole brain: ours beside nilearn, on the same series, in turns.

Run ``python benchmarks/fmri_cleaning.py [n_voxels] [n_volumes] [n_confounds] [--threads N] [--masker] [--quick]``; the
best of several rounds in turns, both on ``N`` threads (default 1). Three cases against ``signal.clean``: confounds with
trend and scale; with a band-pass; with a band-pass and scrubbed volumes. ``--masker`` adds the way from an image
through a mask to cleaned series, against ``NiftiMasker``: from memory, voxel after voxel and volume after volume, and
from a compressed file, without and with a band-pass; the head says whether isal was there to unpack.
``--quick`` leaves out what filters, where nilearn takes about a minute a call. Needs nilearn.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import nibabel
import numpy as np
import torch
from nilearn.maskers import NiftiMasker
from nilearn.signal import clean as peer
from threadpoolctl import threadpool_limits

import tectum
from tectum.io.convert import from_nibabel
from tectum.preprocess.fmri import clean

TR, MEAN = 2.0, 1000.0
BAND = {"low_pass": 0.1, "high_pass": 0.01}


def simulate(n_voxels: int, n_volumes: int, n_confounds: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return series (volume, voxel) float32 with level, drift, noise and confounds in them, and the confounds."""
    rng = np.random.default_rng(seed)
    confounds = rng.standard_normal((n_volumes, n_confounds)).cumsum(0)
    series = rng.standard_normal((n_volumes, n_voxels), dtype=np.float32)
    series *= 10
    series += (confounds @ rng.standard_normal((n_confounds, n_voxels))).astype(np.float32)
    series += np.float32(MEAN)
    return series, confounds


def turns(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> tuple[float, float, Any, Any]:
    """Return the best wall time of each in s, run in turns that begin with either side, and what they returned."""
    best = [math.inf, math.inf]
    found: list[Any] = [None, None]
    for turn in range(rounds):
        for k in (0, 1) if turn % 2 == 0 else (1, 0):
            began = time.perf_counter()
            found[k] = (ours, theirs)[k]()
            best[k] = min(best[k], time.perf_counter() - began)
    return best[0], best[1], found[0], found[1]


def report(name: str, ours: float, theirs: float, apart: float) -> None:
    times = f"tectum {ours:.3f} s, nilearn {theirs:.3f} s, ratio {theirs / ours:.1f}"
    print(f"{name}: {times}, largest difference {apart:.1e}")


def series(n_voxels: int, n_volumes: int, n_confounds: int, quick: bool) -> None:
    values, confounds = simulate(n_voxels, n_volumes, n_confounds)
    rec = tectum.Recording(data=torch.from_numpy(values), dims=("time", "voxel"), rate=1 / TR, units="BOLD")
    kept = np.ones(n_volumes, dtype=bool)
    kept[[10, 11, 50, 90]] = False
    cases: dict[str, tuple[dict[str, Any], np.ndarray | None]] = {
        "confounds, trend, z-score": ({}, None),
        "and band-pass 0.01 to 0.1 Hz": (BAND, None),
        "and four volumes scrubbed": (BAND, kept),
    }
    for name, (options, mask) in cases.items():
        if options and quick:
            continue
        rows = None if mask is None else np.flatnonzero(mask)
        ours, theirs, a, b = turns(
            lambda options=options, mask=mask: clean(rec, confounds, sample_mask=mask, **options).values.numpy(),
            lambda options=options, rows=rows: peer(
                values, confounds=confounds, sample_mask=rows, t_r=TR, standardize="zscore_sample", **options
            ),
            rounds=2 if options else 10,
        )
        report(name, ours, theirs, float(np.abs(a - b).max()))


def images(n_voxels: int, n_volumes: int, values: np.ndarray, folder: Path) -> tuple[Any, Any]:
    """Return an image int16 of the series and one of their mask, half of all voxels, saved in a folder."""
    side = math.ceil((2 * n_voxels) ** (1 / 3))
    inside = np.zeros(side**3, dtype=np.uint8)
    inside[:n_voxels] = 1
    volume = np.zeros((side**3, n_volumes), np.int16)
    volume[:n_voxels] = values.T
    image = nibabel.Nifti1Image(volume.reshape(side, side, side, n_volumes), np.diag([2.0, 2.0, 2.0, 1.0]))
    image.header.set_zooms((2.0, 2.0, 2.0, TR))
    image.header.set_xyzt_units("mm", "sec")
    mask = nibabel.Nifti1Image(inside.reshape(side, side, side), image.affine)
    nibabel.save(image, folder / "bold.nii.gz")
    nibabel.save(mask, folder / "mask.nii.gz")
    return image, mask


def in_memory(image: Any, order: Literal["C", "F"]) -> Any:
    """Return an image in float32 whose numbers lie voxel after voxel (C) or volume after volume (F)."""
    values = np.require(image.get_fdata(dtype=np.float32), requirements=order)
    made = nibabel.Nifti1Image(values, image.affine, image.header)
    made.set_data_dtype(np.float32)
    return made


def masker(n_voxels: int, n_volumes: int, n_confounds: int, quick: bool) -> None:
    values, confounds = simulate(n_voxels, n_volumes, n_confounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, mask = images(n_voxels, n_volumes, values, folder)
        voxels, volumes = in_memory(image, "C"), in_memory(image, "F")
        file, beside = folder / "bold.nii.gz", folder / "mask.nii.gz"
        ways: dict[str, tuple[Any, Any, Callable[[], Any]]] = {
            "in memory, voxel after voxel": (voxels, mask, lambda: from_nibabel(voxels, mask=mask)),
            "in memory, volume after volume": (volumes, mask, lambda: from_nibabel(volumes, mask=mask)),
            ".nii.gz": (file, beside, lambda: tectum.read(file, mask=beside)),
        }
        for way, (source, where, read) in ways.items():
            for options in ({}, BAND)[: 1 if quick else 2]:

                def theirs(source: Any = source, where: Any = where, options: dict[str, Any] = options) -> Any:
                    made = NiftiMasker(mask_img=where, detrend=True, standardize="zscore_sample", t_r=TR, **options)
                    return made.fit().transform(source, confounds=confounds)

                best, other, a, b = turns(
                    lambda read=read, options=options: clean(read(), confounds, **options).values.numpy(),
                    theirs,
                    rounds=1 if options else 8,
                )
                what = f"NiftiMasker, {way}, {'band-pass' if options else 'no filter'}"
                report(what, best, other, float(np.abs(a - b).max()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("n_voxels", 59_570), ("n_volumes", 200), ("n_confounds", 30)):
        parser.add_argument(name, nargs="?", type=int, default=default)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--masker", action="store_true")
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    sizes = (chosen.n_voxels, chosen.n_volumes, chosen.n_confounds)
    torch.set_num_threads(chosen.threads)
    warnings.simplefilter("ignore")
    by = f"{chosen.threads} thread(s), {'isal' if find_spec('isal') else 'zlib'} unpacks"
    print(f"{sizes[0]} voxels x {sizes[1]} volumes, {sizes[2]} confounds, float32, {by}")
    with threadpool_limits(chosen.threads):
        series(*sizes, chosen.quick)
        if chosen.masker:
            masker(*sizes, chosen.quick)


if __name__ == "__main__":
    main()
