"""Parcels: means or least squares over voxels, their names and places; atlases on another grid only when told."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tectum.core.device import from_numpy, highest_precision
from tectum.core.errors import InputError, TectumWarning, explain
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording

from ..delimited import numbers, read_table
from .masks import on_grid, volume_of, without_nan

Names = Mapping[int, str] | Sequence[str] | str | Path | None
_ROWS = 1 << 24  # numbers averaged at once


def parcel_means(values: Tensor, member: Tensor, n: int, *, weight: Tensor | None = None) -> Tensor:
    """Average voxels into parcels.

    Parameters
    ----------
    values : Tensor, shape (..., n_voxels)
        Data.
    member : Tensor, shape (n_voxels,), int64
        Parcel of each voxel, in [0, n); -1 for none.
    n : int
        Number of parcels.
    weight : Tensor, shape (n_voxels,), optional
        Weight of each voxel in its parcel.

    Returns
    -------
    Tensor, shape (..., n)
        NaN where a parcel has no voxel.

    Examples
    --------
    >>> parcel_means(torch.tensor([1.0, 3.0, 9.0]), torch.tensor([0, 0, -1]), 2).tolist()
    [2.0, nan]
    """
    inside = member >= 0
    voxels = inside.nonzero().flatten()
    target = member[voxels]
    precise = highest_precision(values.device)
    share = torch.ones(len(voxels), dtype=precise, device=values.device)
    share = share if weight is None else weight.to(precise)[voxels]
    total = share.new_zeros(n).index_add_(0, target, share)
    flat = values.reshape(-1, values.shape[-1])
    made = torch.empty((len(flat), n), dtype=values.dtype, device=values.device)
    rows = max(1, _ROWS // max(1, len(voxels)))
    for first in range(0, len(flat), rows):
        part = flat[first : first + rows].index_select(1, voxels).to(precise) * share
        summed = part.new_zeros((len(part), n)).index_add_(1, target, part)
        made[first : first + rows] = (summed / total).to(values.dtype)  # 0 / 0 is NaN: no voxel
    return made.reshape(*values.shape[:-1], n)


def parcel_weights(values: Tensor, maps: Tensor) -> Tensor:
    """Fit each volume by weighted maps, least squares, as for a probabilistic atlas.

    Parameters
    ----------
    values : Tensor, shape (..., n_voxels)
        Data.
    maps : Tensor, shape (n_maps, n_voxels)
        Weight of each voxel in each map.

    Returns
    -------
    Tensor, shape (..., n_maps)
    """
    precise = highest_precision(values.device)
    solve = torch.linalg.pinv(maps.to(precise))  # (voxel, map)
    made: Tensor = values.to(precise) @ solve
    return made.to(values.dtype)


def parcellate(
    rec: Recording,
    atlas: Any,
    *,
    labels: Names = None,
    strategy: Literal["mean", "weighted", "least_squares"] = "mean",
    resample: bool = False,
) -> Recording:
    """Turn voxels into parcels.

    Parameters
    ----------
    rec : Recording
        With an axis ``voxel`` (and ``meta["image"]``), or x, y, z.
    atlas : path, array, Recording or nibabel image
        Labels (x, y, z), 0 is background; or maps (x, y, z, n) for "weighted" and "least_squares".
    labels : mapping, sequence or path, optional
        Names: by label, in the order of the labels, or a table with columns index (or id, label) and name.
    strategy : {"mean", "weighted", "least_squares"}
        Mean of the voxels of a label; of 4-D maps the weighted mean, or the least-squares fit of each volume.
    resample : bool, default False
        Take labels on another grid to that of the data, nearest neighbour. Data are never resampled.

    Returns
    -------
    Recording
        ``voxel`` (or x, y, z) replaced by ``unit`` with the columns id, name, n_voxels and x, y, z (mm). A label
        without a voxel keeps its column, NaN, and is named in a warning.

    Raises
    ------
    InputError
        If the grids differ without ``resample``, no label is left, or names do not fit.
    """
    image = rec.meta.get("image")
    if image is None or not ({"x", "y", "z"} <= set(rec.dims) or "voxel" in rec.dims):
        raise InputError(explain("parcellate", expected="voxels or x, y, z with meta['image']", got=repr(rec)))
    raw, affine = volume_of(atlas, "parcellate atlas")
    known = _ids(raw, strategy, "parcellate atlas")
    grid = on_grid(raw, affine, image, resample=resample, where="parcellate atlas")
    note: dict[str, Any] = {"strategy": strategy, "resample": resample}
    note |= {"atlas": Path(atlas).name} if isinstance(atlas, (str, Path)) else {}
    made, voxels, others = _values(rec, grid, known, strategy)
    coords = {axis: table for axis, table in rec.coords.items() if axis in others}
    coords["unit"] = _units(grid, np.asarray(image["affine"]), known, voxels, labels)
    note |= {"parcels": len(known), "empty": int((voxels == 0).sum())}
    history = rec.noted("parcellate", **note)
    return rec.with_(data=made, dims=(*others, "unit"), coords=coords, mask=None, history=history)


def _values(
    rec: Recording, grid: np.ndarray, known: np.ndarray, strategy: str
) -> tuple[Tensor, np.ndarray, tuple[str, ...]]:
    """Return parcels (..., unit), voxels of each, and the other axes."""
    others = tuple(d for d in rec.dims if d not in ("voxel", "x", "y", "z"))
    if "voxel" in rec.dims:
        values = rec.tensor(*others, "voxel")
        table = rec.coords["voxel"]
        flat = grid[tuple(np.asarray(table[c], dtype=np.int64) for c in "ijk")]
    else:
        values = rec.tensor(*others, "x", "y", "z").flatten(len(others))
        flat = grid.reshape(-1, *grid.shape[3:])
    values = values if values.is_floating_point() else values.float()
    return *_reduced(values, flat, known, strategy), others


def _ids(raw: np.ndarray, strategy: str, where: str) -> np.ndarray:
    """Return the labels of an atlas, or the numbers of its maps."""
    if strategy not in ("mean", "weighted", "least_squares"):
        raise InputError(explain("strategy", expected="'mean', 'weighted' or 'least_squares'", got=repr(strategy)))
    if (raw.ndim == 4 and raw.shape[3] > 1) != (strategy != "mean"):
        expected = "labels (x, y, z) for 'mean', maps (x, y, z, n) for the others"
        raise InputError(explain(where, expected=expected, got=f"shape {raw.shape} and {strategy!r}"))
    if strategy != "mean":
        return np.arange(1, raw.shape[3] + 1)
    values = np.nan_to_num(raw)
    known = np.unique(values)
    if values.dtype.kind == "f" and not np.array_equal(known, np.rint(known)):
        raise InputError(explain(where, expected="whole labels", got=f"{known[known != np.rint(known)][0]:g}"))
    known = known[known != 0].astype(np.int64)
    if not len(known):
        raise InputError(explain(where, expected="a label other than 0", got="none"))
    return np.asarray(known)


def _reduced(values: Tensor, flat: np.ndarray, known: np.ndarray, strategy: str) -> tuple[Tensor, np.ndarray]:
    """Return parcels (..., unit) and the number of voxels of each."""
    if strategy == "mean":
        flat = np.nan_to_num(flat).reshape(len(flat)).astype(np.int64)
        place = np.searchsorted(known, flat).clip(max=len(known) - 1)
        member = np.where(known[place] == flat, place, -1)
        voxels = np.bincount(member[member >= 0], minlength=len(known))
        return parcel_means(values, torch.from_numpy(member).to(values.device), len(known)), voxels
    maps = torch.from_numpy(np.nan_to_num(flat).T.astype(np.float64)).to(
        values.device, highest_precision(values.device)
    )
    voxels = (flat != 0).sum(0)
    if strategy == "least_squares":
        return parcel_weights(values, maps), voxels
    weights = (maps / maps.sum(1, keepdim=True)).to(values.dtype)
    return values @ weights.T, voxels


def _units(
    grid: np.ndarray, affine: np.ndarray, known: np.ndarray, voxels: np.ndarray, labels: Names
) -> dict[str, np.ndarray]:
    """Return the table of units, after a warning for labels without a voxel."""
    if not (voxels > 0).any():
        raise InputError(explain("parcellate", expected="a parcel with a voxel in the data", got="none"))
    names = _names(labels, known)
    if (voxels == 0).any():
        gone = [
            f"{k} ({n})" if n != str(k) else n for k, n, v in zip(known.tolist(), names, voxels, strict=True) if v == 0
        ]
        got = f"parcellate: no voxel for {len(gone)} labels, NaN: {', '.join(gone[:20])}"
        warnings.warn(got, TectumWarning, stacklevel=3)
    table = {"id": known, "name": np.asarray(names, dtype=str), "n_voxels": voxels.astype(np.int64)}
    return table | dict(zip("xyz", _centres(grid, affine, known), strict=True))


def _centres(grid: np.ndarray, affine: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the centre of each parcel in mm, shape (3, unit); NaN where it has no voxel."""
    if grid.ndim == 4 and grid.shape[3] > 1:
        weight = np.nan_to_num(grid).reshape(-1, grid.shape[3]).astype(np.float64)  # (voxel, map)
        index = np.stack([a.ravel() for a in np.indices(grid.shape[:3])])
        with np.errstate(all="ignore"):
            middle = (index @ weight) / weight.sum(0)
    else:
        labels = np.nan_to_num(grid).reshape(grid.shape[:3])
        index = np.stack(np.nonzero(labels))
        place = np.searchsorted(known, labels[tuple(index)].astype(np.int64))
        count = np.bincount(place, minlength=len(known)).astype(np.float64)
        with np.errstate(all="ignore"):
            middle = np.stack([np.bincount(place, weights=row, minlength=len(known)) / count for row in index])
    return np.asarray(affine[:3, :3] @ middle + affine[:3, 3:])


def _names(labels: Names, known: np.ndarray) -> list[str]:
    """Return one name a label; a label without one is called by its number."""
    if labels is None:
        return [str(k) for k in known]
    if isinstance(labels, (str, Path)):
        columns = read_table(Path(labels))
        key = next((c for c in ("index", "id", "label") if c in columns), None)
        if key is None or "name" not in columns or (ids := numbers(columns[key])) is None:
            raise InputError(explain(f"{labels}", expected="columns index and name", got=f"{list(columns)}"))
        labels = {int(k): str(v) for k, v in zip(ids, columns["name"], strict=True)}
    if isinstance(labels, Mapping):
        return [str(labels.get(int(k), k)) for k in known]
    if len(labels) != len(known):
        raise InputError(explain("labels", expected=f"{len(known)} names", got=f"{len(labels)}"))
    return [str(name) for name in labels]


def read_parcels(
    path: str | Path,
    atlas: Any,
    *,
    labels: Names = None,
    strategy: Literal["mean", "weighted", "least_squares"] = "mean",
    resample: bool = False,
    nan: Literal["raise", "zero"] = "raise",
    **options: Any,
) -> Recording:
    """Read the parcels of a 4-D image block by block; the voxels are never in memory together.

    Parameters
    ----------
    path : path
        The image.
    atlas, labels, strategy, resample
        As for :func:`parcellate`.
    nan : {"raise", "zero"}
        What to do with NaN in the voxels of a parcel.
    **options
        Further options of :func:`tectum.io.fmri.volumes.read_image` but ``mask`` and ``lazy``.

    Returns
    -------
    Recording, dims (time, unit)
    """
    from .volumes import read_image

    raw, affine = volume_of(atlas, "atlas")
    known = _ids(raw, strategy, "atlas")
    used = np.nan_to_num(raw) != 0
    used = used.any(3) if raw.ndim == 4 else used
    rec = read_image(path, mask=_as_recording(used, affine), resample=resample, lazy=True, **options)
    image = rec.meta["image"]
    grid = on_grid(raw, affine, image, resample=resample, where="atlas")
    if isinstance(rec.data, LazyArray) and rec.data.source.image.compressed:  # type: ignore[attr-defined]
        rec = rec.load()  # one pass: parts of gzip are slow to reach
    blocks = rec.blocks(max(1, _ROWS // max(1, rec.sizes["voxel"]))) if "time" in rec.dims else [rec]
    parts = []
    for block in blocks:
        values, _, _ = without_nan(block.values.reshape(-1, rec.sizes["voxel"]), nan, str(path))
        part, voxels, others = _values(block.with_(data=values.reshape(block.shape)), grid, known, strategy)
        parts.append(part)
    table = _units(grid, np.asarray(image["affine"]), known, voxels, labels)
    note: dict[str, Any] = {
        "strategy": strategy,
        "resample": resample,
        "parcels": len(known),
        "empty": int((voxels == 0).sum()),
    }
    note |= {"atlas": Path(atlas).name} if isinstance(atlas, (str, Path)) else {}
    history = rec.noted("parcellate", **note)
    coords = {**{a: t for a, t in rec.coords.items() if a in others}, "unit": table}
    return rec.with_(data=torch.cat(parts), dims=(*others, "unit"), coords=coords, history=history)


def _as_recording(used: np.ndarray, affine: np.ndarray | None) -> Any:
    """Wrap a mask with its affine, where it has one."""
    if affine is None:
        return used
    image = {"affine": affine.tolist(), "shape": list(used.shape), "kind": "nifti1", "space": ""}
    return Recording(data=from_numpy(np.ascontiguousarray(used)), dims=("x", "y", "z"), meta={"image": image})
