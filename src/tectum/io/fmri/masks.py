"""Which voxels: masks given, found beside an image or computed; what becomes of voxels without numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tectum.core.errors import InputError, explain
from tectum.core.recording import Recording

from .bids import companions, only
from .images import Header, Masked, Stored, open_image

Nan = Literal["raise", "drop_voxels", "zero"]
_TOLERANCE = 1e-3  # mm between the corners of two grids that count as one


def volume_of(source: Any, where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a 3-D (or 4-D) array and its affine, None for a bare array.

    Parameters
    ----------
    source : path, Recording, array, Tensor or nibabel image
        A mask or an atlas.
    where : str
        Owner in messages.
    """
    if isinstance(source, (str, Path)):
        header = open_image(Path(source))
        return np.asarray(header.numbers[()]), header.affine
    if isinstance(source, Recording):
        geometry = source.meta.get("image")
        axes = tuple(d for d in ("x", "y", "z") if d in source.dims)
        if geometry is None or len(axes) != 3:
            raise InputError(explain(where, expected="a volume (x, y, z) with meta['image']", got=repr(source)))
        order = (*axes, *(d for d in source.dims if d not in axes))
        return source.tensor(*order, device="cpu").numpy(), np.asarray(geometry["affine"], dtype=np.float64)
    if hasattr(source, "dataobj") and hasattr(source, "affine"):
        return np.asarray(source.dataobj), np.asarray(source.affine, dtype=np.float64)
    if isinstance(source, Tensor):
        source = source.detach().cpu().numpy()
    if not isinstance(source, np.ndarray):
        expected = "a path, an array, a Recording or a nibabel image"
        raise InputError(explain(where, expected=expected, got=type(source).__name__))
    return source, None


def check_grid(
    shape: tuple[int, ...], affine: np.ndarray | None, geometry: dict[str, Any], where: str, fix: str
) -> None:
    """Raise :class:`InputError` with both affines unless two grids are one."""
    own, ours = tuple(geometry["shape"]), np.asarray(geometry["affine"])
    near = affine is None or bool(np.abs(_corners(own) @ (affine - ours).T).max() <= _TOLERANCE)
    if tuple(shape) != own or not near:
        theirs = "no affine" if affine is None else f"affine {np.round(affine, 4).tolist()}"
        expected = f"the grid of the data, shape {own} and affine {np.round(ours, 4).tolist()}"
        raise InputError(explain(where, expected=expected, got=f"shape {tuple(shape)} and {theirs}", fix=fix))


def _corners(shape: tuple[int, ...]) -> np.ndarray:
    return np.array([[i * (shape[0] - 1), j * (shape[1] - 1), k * (shape[2] - 1), 1.0]
                     for i in (0, 1) for j in (0, 1) for k in (0, 1)])  # fmt: skip


def resample_nearest(values: np.ndarray, affine: np.ndarray, geometry: dict[str, Any]) -> np.ndarray:
    """Take labels to another grid: each voxel gets the label of the nearest one in mm, 0 outside.

    Parameters
    ----------
    values : array, shape (x, y, z, ...)
        Labels or a mask.
    affine : array, shape (4, 4)
        Of the labels.
    geometry : mapping
        ``meta["image"]`` of the target.

    Returns
    -------
    array, shape (x, y, z, ...) of the target
    """
    shape = tuple(geometry["shape"])
    to_theirs = np.linalg.inv(affine) @ np.asarray(geometry["affine"])
    made = np.zeros((*shape, *values.shape[3:]), values.dtype)
    j, k = np.meshgrid(np.arange(shape[1]), np.arange(shape[2]), indexing="ij")
    for i in range(shape[0]):  # one slab at a time keeps the index small
        grid = np.stack([np.full(j.size, i), j.ravel(), k.ravel(), np.ones(j.size)])
        place = np.floor(to_theirs[:3] @ grid + 0.5 + 1e-9).astype(np.int64)
        inside = ((place >= 0) & (place < np.array(values.shape[:3])[:, None])).all(0)
        slab = made[i].reshape(j.size, *values.shape[3:])
        slab[inside] = values[tuple(place[:, inside])]
    return made


def mask_of(mask: Any, header: Header, *, path: Path | None, resample: bool, where: str) -> tuple[np.ndarray, str]:
    """Return a bool volume on the grid of an image, and where it comes from.

    Parameters
    ----------
    mask : "auto", path, Recording, array or nibabel image
        "auto" takes the brain mask beside the image, else computes one from its mean.
    header : Header
        Of the image.
    path : Path, optional
        Of the image.
    resample : bool
        Whether a mask on another grid is taken to that of the image.
    where : str
        Owner in messages.

    Raises
    ------
    InputError
        If the grids differ without ``resample``, or the mask is empty.
    """
    told = "given"
    if isinstance(mask, str) and mask == "auto":
        beside = _beside(path) if path is not None else None
        if beside is None:
            return epi_mask(mean_image(header)), "computed from the mean image"
        mask, told = beside, beside.name
    elif isinstance(mask, (str, Path)):
        told = Path(mask).name
    values, affine = volume_of(mask, f"{where} mask")
    values = np.nan_to_num(values.reshape(values.shape[:3]) if values.ndim > 3 and values.shape[3:] == (1,) else values)
    found = on_grid(values, affine, header.geometry, resample=resample, where=f"{where} mask") != 0
    if not found.any():
        raise InputError(explain(f"{where} mask", expected="a voxel inside", got="an empty mask"))
    return found, told


def on_grid(
    values: np.ndarray, affine: np.ndarray | None, geometry: dict[str, Any], *, resample: bool, where: str
) -> np.ndarray:
    """Return labels on a grid, taken to it by the nearest neighbour only if ``resample`` allows."""
    if resample and affine is not None:
        same = values.shape[:3] == tuple(geometry["shape"]) and np.allclose(affine, geometry["affine"], atol=1e-6)
        return values if same else resample_nearest(values, affine, geometry)
    check_grid(values.shape[:3], affine, geometry, where, "pass resample=True for the nearest neighbour")
    return values


def _beside(path: Path) -> Path | None:
    found = companions(path, "_mask.nii.gz", desc="brain") or companions(path, "_mask.nii", desc="brain")
    own = path.name
    fits = [p for p in found if all(part in own for part in p.name.split("_") if part.startswith(("space-", "res-")))]
    most = max((p.name.count("space-") + p.name.count("res-") for p in fits), default=0)
    fits = [p for p in fits if p.name.count("space-") + p.name.count("res-") == most]
    return only(fits, f"{path}: brain mask", "pass mask=") if fits else None


def mean_image(header: Header) -> np.ndarray:
    """Return the mean over volumes (x, y, z), computed in float64 block by block."""
    numbers = header.numbers
    if not isinstance(numbers, Stored):
        values = np.asarray(numbers, dtype=np.float64)
        return np.asarray(values.reshape(*values.shape[:3], -1).mean(-1))
    total = np.zeros(math.prod(numbers.shape[:3]))
    for block in numbers.blocks():
        total += numbers.scaled(block).sum(0, dtype=np.float64)
    count = math.prod(numbers.shape[3:])
    return (total / count).reshape(numbers.shape[:3], order="F")


def epi_mask(
    mean: np.ndarray, *, lower: float = 0.2, upper: float = 0.85, opening: int = 2, where: str = "epi_mask"
) -> np.ndarray:
    """Compute a brain mask from a mean image: the widest gap of its sorted values, opening, the largest piece.

    Parameters
    ----------
    mean : array, shape (x, y, z)
        Mean over volumes.
    lower, upper : float, default 0.2 and 0.85
        Quantiles between which the gap is searched.
    opening : int, default 2
        Rounds of erosion before the largest connected piece is taken, and of what undoes it.
    where : str
        Owner in messages.

    Returns
    -------
    array, shape (x, y, z), bool

    Raises
    ------
    InputError
        If nothing is left.
    """
    from scipy import ndimage

    values = np.nan_to_num(mean, posinf=0.0, neginf=0.0)
    ordered = np.sort(values, axis=None)
    first, last = int(lower * len(ordered)), min(int(upper * len(ordered)), len(ordered) - 1)
    step = np.diff(ordered[first : last + 1])
    place = first + (int(step.argmax()) if len(step) else 0)
    found = values >= ordered[place : place + 2].mean()
    found = ndimage.binary_erosion(found, iterations=opening) if opening else found
    pieces, count = ndimage.label(found)
    if not count:
        raise InputError(explain(where, expected="a brain in the mean image", got="an empty mask", fix="pass mask="))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    found = pieces == sizes.argmax()
    if opening:
        found = ndimage.binary_erosion(ndimage.binary_dilation(found, iterations=2 * opening), iterations=opening)
    return np.asarray(found)


def voxel_table(found: np.ndarray, affine: np.ndarray) -> dict[str, np.ndarray]:
    """Return the coordinates of the voxels of a mask: indices i, j, k and x, y, z in mm, in C order."""
    index = np.stack(np.nonzero(found), axis=1)  # (voxel, 3)
    place = index @ affine[:3, :3].T + affine[:3, 3]
    table = {name: index[:, k].astype(np.int32) for k, name in enumerate("ijk")}
    return table | {name: place[:, k] for k, name in enumerate("xyz")}


def file_order(found: np.ndarray) -> np.ndarray:
    """Return the voxels of a mask, in C order, as positions in a volume stored with its first axis fastest."""
    return np.asarray(np.ravel_multi_index(np.nonzero(found), found.shape, order="F"))


def masked_values(numbers: Any, found: np.ndarray) -> Masked | Tensor:
    """Return the voxels of a mask in every volume: lazy for a file, a tensor (volume, voxel) for an array."""
    if isinstance(numbers, Stored):
        return Masked(numbers, file_order(found))
    values = np.asarray(numbers)
    if values.flags.f_contiguous:  # volume after volume, as nibabel reads a file
        values = values.reshape(found.size, -1, order="F").T.take(file_order(found), axis=1)
        return torch.from_numpy(np.require(values, np.float32, ["C", "W"]))
    values = values.reshape(*numbers.shape[:3], -1)[found]  # (voxel, volume), turned without a copy
    return torch.from_numpy(np.require(values, np.float32, ["C", "W"])).T


def without_nan(values: Tensor, nan: Nan, where: str) -> tuple[Tensor, Tensor | None, int]:
    """Return masked values (volume, voxel) without NaN, the voxels kept (None for all), and how many had NaN.

    Raises
    ------
    InputError
        If there are any and ``nan`` is "raise"; the message counts them.
    """
    if nan not in ("raise", "drop_voxels", "zero"):
        raise InputError(explain("nan", expected="'raise', 'drop_voxels' or 'zero'", got=repr(nan)))
    if bool(torch.isfinite(values.sum())):  # costs no memory
        return values, None, 0
    bad = ~torch.isfinite(values)
    voxels = bad.any(0)
    count = int(voxels.sum())
    if not count:  # large values, whose sum is infinite
        return values, None, 0
    if nan == "raise":
        got = f"{int(bad.sum())} NaN or infinite values in {count} of {len(voxels)} voxels"
        fix = "pass nan='drop_voxels' or nan='zero'"
        raise InputError(explain(where, expected="finite values inside the mask", got=got, fix=fix))
    if nan == "zero":
        return torch.where(bad, torch.zeros((), dtype=values.dtype, device=values.device), values), None, count
    if count == len(voxels):
        raise InputError(explain(where, expected="a voxel without NaN", got="none in the mask"))
    return values[:, ~voxels], ~voxels, count
