"""nibabel images: in as recordings, out with their affine, clock and labels.

What a round trip loses is listed in :data:`LOST`.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tectum.core.errors import InputError, TectumWarning, explain
from tectum.core.recording import Recording

from ..fmri.cifti import cifti_image, cifti_recording
from ..fmri.gifti import gifti_image
from ..fmri.images import check_affine, describe, nib, stored_of
from ..fmri.masks import Nan
from ..fmri.surfaces import gifti_recording, surface_of_header
from ..fmri.volumes import Fourth, image_recording, unmask

#: What is not the same after recording -> image -> recording, and after image -> recording -> image.
LOST = (
    "history, intervals, subject, session and all of meta but affine, shape and labels: an image has no place for them",
    "units: an image has none; a series comes back as BOLD",
    "irregular times: a NIfTI or GIFTI then has no repetition time (with a warning), CIFTI refuses",
    "the start of the clock t0, of NIfTI and GIFTI",
    "the mask of valid entries",
    "bool becomes uint8 and then float32, int64 becomes int32 or, where it does not fit, float64 and then float32",
    "which voxels were in the mask: unmask fills the others with 0",
    "of a NIfTI header: scaling (numbers come scaled, as float32), qform (the sform is written as both), intent, "
    "description, display range, slice order and extensions",
    "more than 24 bits of float64 and of integers: numbers come as float32",
    "the format: MGH and Analyze go out as NIfTI-1, surfaces in MGH as GIFTI",
    "of GIFTI: coordinate systems, metadata but the side and TimeStep; of CIFTI: metadata of maps",
    "repetition times are kept to the float32 of a NIfTI header",
)


def from_nibabel(
    image: Any,
    *,
    tr: float | None = None,
    fourth: Fourth = "time",
    kind: Literal["auto", "series", "map"] = "auto",
    mask: Any = None,
    resample: bool = False,
    nan: Nan = "raise",
    units: str | None = None,
) -> Recording:
    """Convert a NIfTI, Analyze, MGH, CIFTI-2 or GIFTI image.

    Parameters
    ----------
    image : nibabel image
        On disk it stays there until it is used.
    tr : float, optional
        Repetition time in s; default what the header says.
    fourth, kind, mask, resample, nan, units
        As for :func:`tectum.io.fmri.volumes.read_image`.

    Returns
    -------
    Recording
        As :func:`tectum.read` gives it for the file.

    Raises
    ------
    InputError
        If the image is of another kind, or axes, repetition time or affine are not what they must be.

    Examples
    --------
    >>> import nibabel
    >>> image = nibabel.Nifti1Image(np.zeros((2, 2, 2, 5), np.float32), np.eye(4))
    >>> from_nibabel(image, tr=2.0).sizes
    {'time': 5, 'x': 2, 'y': 2, 'z': 2}
    """
    Cifti2Image = nib("cifti2").Cifti2Image
    GiftiImage = nib("gifti").GiftiImage

    note = {"object": type(image).__name__}
    if isinstance(image, Cifti2Image):
        return cifti_recording(image, where="from_nibabel", tr=tr, units=units, note=note)
    if isinstance(image, GiftiImage):
        return gifti_recording(image, where="from_nibabel", tr=tr, units=units, note=note)
    if not hasattr(image, "dataobj") or not hasattr(image, "affine"):
        expected = "a NIfTI, Analyze, MGH, CIFTI-2 or GIFTI image"
        raise InputError(explain("from_nibabel", expected=expected, got=type(image).__name__))
    header = describe(image, "from_nibabel")
    stored = stored_of(image.dataobj)
    header = header if stored is None else replace(header, numbers=stored)
    if header.kind == "mgh" and header.shape[1:3] == (1, 1) and mask is None:
        return surface_of_header(Path(image.get_filename() or ""), header, tr=tr, side={})
    return image_recording(header, tr=tr, fourth=fourth, kind=kind, mask=mask, resample=resample, nan=nan, units=units,
                           note=note)  # fmt: skip


def to_nibabel(rec: Recording, *, atlas: Any = None) -> Any:
    """Convert a recording to the nibabel image that fits its axes.

    Parameters
    ----------
    rec : Recording
        Axes x, y, z or ``voxel`` (and at most one more) with ``meta["image"]``; grayordinates or parcels with
        ``meta["cifti"]``; ``vertex`` of one hemisphere; or ``unit`` and an ``atlas``.
    atlas : path, array, Recording or nibabel image, optional
        Labels whose voxels get the values of the units.

    Returns
    -------
    Nifti1Image, Nifti2Image, Cifti2Image or GiftiImage

    Raises
    ------
    InputError
        If the recording has no place in space.

    Examples
    --------
    >>> meta = {"image": {"affine": np.eye(4).tolist(), "shape": [2, 2, 2], "kind": "nifti1", "space": ""}}
    >>> rec = Recording(data=np.ones((3, 2, 2, 2), np.float32), dims=("time", "x", "y", "z"), rate=0.5, meta=meta)
    >>> to_nibabel(rec).shape
    (2, 2, 2, 3)
    """
    if atlas is None and "cifti" in rec.meta:
        return cifti_image(rec)
    if "vertex" in rec.dims:
        return gifti_image(rec)
    if "voxel" in rec.dims or atlas is not None:
        rec = unmask(rec, atlas)
    if not {"x", "y", "z"} <= set(rec.dims) or rec.ndim > 4 or "image" not in rec.meta:
        fix = "pass atlas= for parcels" if "unit" in rec.dims else ""
        expected = "x, y, z, voxel, vertex or grayordinates with their geometry in meta"
        raise InputError(explain("to_nibabel", expected=expected, got=repr(rec), fix=fix))
    return _nifti(rec)


def _nifti(rec: Recording) -> Any:
    """Return a NIfTI image of (x, y, z) and at most one more axis, which comes last."""
    nibabel = nib()

    affine = np.asarray(rec.meta["image"]["affine"], dtype=np.float64)
    check_affine(affine, "to_nibabel")
    last = tuple(d for d in rec.dims if d not in ("x", "y", "z"))
    values = _storable(rec.tensor("x", "y", "z", *last, device="cpu").numpy())
    second = rec.meta["image"].get("kind") == "nifti2" or max(values.shape) > 32767
    image: Any = (nibabel.Nifti2Image if second else nibabel.Nifti1Image)(values, affine)
    image.set_qform(affine, code="aligned", update_affine=False)
    image.set_sform(affine, code="aligned", update_affine=False)
    image.header.set_xyzt_units("mm", "sec")
    if last:
        step = 1.0 / rec.rate if last == ("time",) and rec.rate is not None else 0.0
        if last == ("time",) and rec.rate is None:
            warnings.warn("to_nibabel: irregular times are lost", TectumWarning, stacklevel=3)
        image.header["pixdim"][4] = step
    return image


def _storable(values: np.ndarray) -> np.ndarray:
    """Return numbers of a type that readers of NIfTI know."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype == np.int64:
        small = values.size == 0 or (values.min() >= -(2**31) and values.max() < 2**31)
        return values.astype(np.int32 if small else np.float64)
    return values
