"""Single-trial responses of one session as the Natural Scenes Dataset lays them out, with their trials."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tectum.core.device import from_numpy
from tectum.core.errors import InputError, LoadError, explain
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording

from ..delimited import numbers, read_table
from ..files import MOST_SHRUNK, open_npy, reading
from ..hdf5 import inside, opened, source
from ..signature import is_hdf5, magic
from .images import LIMIT, open_image
from .masks import Nan, check_grid, file_order, masked_values, volume_of, voxel_table, without_nan

NSD_SCALE = 300.0  # integers of the Natural Scenes Dataset are percent times this
_BLOCK = 1 << 24  # numbers read at once
#: Column of a table of trials -> ours.
_COLUMNS = {
    "73kid": "stim_id", "stim_id": "stim_id", "stimulus": "stim_id", "session": "session", "run": "run",
    "trial": "trial_in_run", "isold": "is_old", "iscorrect": "is_correct", "rt": "rt", "time": "time",
}  # fmt: skip


@dataclass(frozen=True)
class _Numbers:
    """What was opened: numbers (trial, voxel in file order) or (trial, x, y, z) with their geometry."""

    data: Any
    shape: tuple[int, ...]
    stored: np.dtype
    affine: np.ndarray | None


def read_betas(
    path: str | Path,
    *,
    mask: Any = None,
    trials: Any = None,
    scale: float | str | None = "auto",
    session: str | int | None = None,
    key: str = "betas",
    ncsnr: Any = None,
    zscore: bool = False,
    nan: Nan = "raise",
    subject: str = "",
    limit: int = LIMIT,
) -> Recording:
    """Read the responses of one session.

    Parameters
    ----------
    path : path
        NIfTI (x, y, z, trial), HDF5 with the dataset ``key`` (trial, z, y, x) or (trial, voxel), or NPY (trial, voxel).
    mask : path, array, Recording or nibabel image, optional
        Voxels to keep; needed for (trial, voxel), whose columns are its voxels in C order.
    trials : path or mapping, optional
        One row a trial: a table of tab-separated values with NSD's names (SESSION, RUN, TRIAL, 73KID, ...) or ours
        (stim_id, run, session); of a table of several sessions the rows of this one are taken.
    scale : float, "auto" or None
        Divisor that makes percent signal change. "auto": 300 for integers in a file ``*betas_session*`` (NSD), else
        none.
    session : str or int, optional
        Default the number in ``betas_session01``.
    key : str, default "betas"
        Dataset of an HDF5 file.
    ncsnr : path, array, Recording or nibabel image, optional
        Noise ceiling signal-to-noise ratio of each voxel; a column of ``voxel``.
    zscore : bool, default False
        Give every voxel mean 0 and deviation 1 over the trials of this session; the history says so. This uses all
        trials, those of a later test set too.
    nan : {"raise", "drop_voxels", "zero"}
        What to do with NaN inside the mask.
    subject : str
        Who.
    limit : int
        Bytes above which a file is refused.

    Returns
    -------
    Recording
        (trial, voxel); (trial, x, y, z), read when used, without a mask. The table of ``trial`` has the columns of
        ``trials`` and ``repeat``, how often its stimulus was shown before in this session.

    Raises
    ------
    LoadError
        If the file is damaged.
    InputError
        If mask, trials or values do not fit.

    References
    ----------
    Allen et al. (2022). A massive 7T fMRI dataset to bridge cognitive neuroscience and artificial intelligence.
    """
    path = Path(path)
    with reading(path, "single-trial responses"):
        found = _open(path, key, limit)
        n = found.shape[0]
        number = _session(path, session)
        table = _trials(trials, n, number, str(path))
        divisor = _divisor(scale, found.stored, path)
        note: dict[str, Any] = {"step": "read", "format": "betas", "file": path.name, "divided_by": divisor}
        common: dict[str, Any] = {"units": "a.u." if divisor is None else "BOLD %", "modality": "fmri",
                                  "subject": subject, "session": number}  # fmt: skip
        image: dict[str, Any] = {"kind": "nifti1", "space": "", "shape": list(found.shape[1:4])}
        if found.affine is not None:
            image["affine"] = found.affine.tolist()
        if mask is None:
            if len(found.shape) != 4:
                raise InputError(explain(str(path), expected="mask= for (trial, voxel)", got=f"shape {found.shape}"))
            meta = {"format": "betas", **({"image": image} if found.affine is not None else {})}
            numbers_, order = found.data
            data = LazyArray(numbers_, order=order, scale=1.0 if divisor is None else 1.0 / divisor)
            return Recording(data=data, dims=("trial", "x", "y", "z"), coords={"trial": table}, meta=meta,
                             history=(note,), **common)  # fmt: skip
        inside_mask, affine, origin = _mask(mask, found, str(path))
        values = _masked(found, inside_mask)
        values, keep, many = without_nan(values, nan, str(path))
        voxels = voxel_table(inside_mask, affine)
        if ncsnr is not None:
            voxels["ncsnr"] = _map(ncsnr, inside_mask, {**image, "affine": affine.tolist()})
        if keep is not None:
            voxels = {name: column[keep.numpy()] for name, column in voxels.items()}
        values = values if divisor is None else values.div_(divisor)
        note |= {"mask": origin, "voxels": values.shape[1], "nan_voxels": many, "zscore": zscore}
        if zscore:
            values, common["units"] = _zscored(values), "z"
        image |= {"affine": affine.tolist(), "mask": origin, "shape": list(inside_mask.shape)}
        return Recording(data=values, dims=("trial", "voxel"), coords={"trial": table, "voxel": voxels},
                         meta={"format": "betas", "image": image}, history=(note,), **common)  # fmt: skip


def _open(path: Path, key: str, limit: int) -> _Numbers:
    """Open numbers by the first bytes of the file."""
    first = magic(path)
    found: Any
    if is_hdf5(path):
        with opened(path, "single-trial responses", check=True) as file:
            node = inside(file, key) if key in file else None
            if node is None or not hasattr(node, "shape"):
                raise InputError(explain("key", expected=f"a dataset among {list(file)[:8]}", got=repr(key)))
            found = source(path, node)
            claimed = math.prod(found.shape) * found.dtype.itemsize
            if claimed > min(limit, MOST_SHRUNK * path.stat().st_size):
                most = min(limit, MOST_SHRUNK * path.stat().st_size)
                raise LoadError(explain(str(path), expected=f"at most {most} bytes", got=f"{claimed} in {key}"))
        shape = found.shape
        if len(shape) == 4:
            return _Numbers((found, (0, 3, 2, 1)), (shape[0], *reversed(shape[1:])), found.dtype, None)
    elif first.startswith(b"\x93NUMPY"):
        found = open_npy(path)
        shape = found.shape
    else:
        header = open_image(path, limit=limit)
        if len(header.shape) != 4:
            raise InputError(explain(str(path), expected="(x, y, z, trial)", got=f"shape {header.shape}"))
        shape = (header.shape[3], *header.shape[:3])
        return _Numbers((header.numbers, (3, 0, 1, 2)), shape, header.numbers.stored, header.affine)
    if len(shape) != 2:
        raise InputError(explain(str(path), expected="(trial, voxel) or (trial, z, y, x)", got=f"shape {shape}"))
    return _Numbers((found,), tuple(shape), np.dtype(found.dtype), None)


def _session(path: Path, given: str | int | None) -> str:
    if given is not None:
        return str(given)
    found = re.search(r"session(\d+)", path.name)
    return str(int(found[1])) if found else ""


def _divisor(scale: float | str | None, stored: np.dtype, path: Path) -> float | None:
    if scale == "auto":
        return NSD_SCALE if stored.kind in "iu" and "betas_session" in path.name else None
    if scale is None:
        return None
    if isinstance(scale, (str, bool)) or not scale > 0:
        raise InputError(explain("scale", expected="a divisor above 0, 'auto' or None", got=repr(scale)))
    return float(scale)


def _trials(trials: Any, n: int, session: str, where: str) -> dict[str, np.ndarray]:
    """Return the table of trials with the repeat of each stimulus."""
    if trials is None:
        return {"trial": np.arange(n)}
    columns = read_table(Path(trials)) if isinstance(trials, (str, Path)) else dict(trials)
    lower = {name.lower(): np.asarray(column) for name, column in columns.items()}
    table = {_COLUMNS.get(name, name): _column(column) for name, column in lower.items()}
    if "session" in table and session and len(table["session"]) != n:
        rows = table["session"].astype(str) == session
        table = {name: column[rows] for name, column in table.items()}
    lengths = {len(column) for column in table.values()}
    if lengths != {n}:
        got = f"{sorted(lengths)} rows" + (f" of session {session}" if session else "")
        raise InputError(explain(f"{where}: trials", expected=f"{n} rows, one a trial", got=got))
    if "stim_id" in table:
        table["repeat"] = repeats(table["stim_id"])
    return table


def _column(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind not in "US":
        return column
    found = numbers(np.where(np.isin(column, ("n/a", "NaN")), "", column))
    return column if found is None else found


def repeats(stim_id: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Return how often each stimulus was shown before.

    Examples
    --------
    >>> repeats([7, 3, 7, 7, 3]).tolist()
    [0, 0, 1, 2, 1]
    """
    ids = np.asarray(stim_id)
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ids) else np.empty(0, int)
    run = np.arange(len(ids)) - np.repeat(starts, np.diff(np.r_[starts, len(ids)]))
    made = np.empty(len(ids), dtype=np.int64)
    made[order] = run
    return made


def _mask(mask: Any, found: _Numbers, where: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Return the mask on the grid of the data, its affine, and its name."""
    values, affine = volume_of(mask, f"{where} mask")
    inside_mask = np.nan_to_num(values.reshape(values.shape[:3])) > 0  # NSD's masks hold -1 outside the cortex
    if not inside_mask.any():
        raise InputError(explain(f"{where} mask", expected="a voxel inside", got="an empty mask"))
    known = affine if found.affine is None else found.affine
    if known is None:
        raise InputError(explain(f"{where} mask", expected="a mask with an affine: the file has none", got="an array"))
    if len(found.shape) == 2:
        if int(inside_mask.sum()) != found.shape[1]:
            got = f"{int(inside_mask.sum())} voxels"
            raise InputError(explain(f"{where} mask", expected=f"{found.shape[1]} voxels", got=got))
    else:
        geometry = {"shape": list(found.shape[1:]), "affine": known.tolist()}
        check_grid(inside_mask.shape, affine, geometry, f"{where} mask", "resample the mask first")
    origin = Path(mask).name if isinstance(mask, (str, Path)) else "given"
    return inside_mask, known, origin


def _masked(found: _Numbers, mask: np.ndarray) -> Tensor:
    """Read the voxels of a mask block by block: (trial, voxel) float32."""
    numbers_ = found.data[0]
    if found.affine is not None:
        return from_numpy(np.asarray(masked_values(numbers_, mask)[:, :]))
    n = found.shape[0]
    index = file_order(mask)
    made = torch.empty((n, int(mask.sum())), dtype=torch.float32)
    rows = max(1, _BLOCK // max(1, math.prod(found.shape[1:])))
    for first in range(0, n, rows):
        block = np.asarray(numbers_[first : first + rows])
        block = block if block.ndim == 2 else block.reshape(len(block), -1).take(index, axis=1)
        made[first : first + len(block)] = torch.from_numpy(block.astype(np.float32))
    return made


def _map(values: Any, mask: np.ndarray, geometry: Mapping[str, Any]) -> np.ndarray:
    """Return a map at the voxels of a mask."""
    volume, affine = volume_of(values, "ncsnr")
    check_grid(volume.shape[:3], affine, {**geometry, "shape": list(mask.shape)}, "ncsnr", "resample it first")
    return np.asarray(volume.reshape(volume.shape[:3])[mask], dtype=np.float64)


def _zscored(values: Tensor) -> Tensor:
    """Return values of mean 0 and deviation 1 over trials; constant voxels become 0."""
    spread, mean = torch.std_mean(values.double(), dim=0, correction=0)
    return ((values - mean) / torch.where(spread > 0, spread, torch.inf)).to(values.dtype)


def join_betas(parts: Sequence[Recording]) -> Recording:
    """Put the sessions of one subject together along ``trial``; ``repeat`` then counts over all of them.

    Raises
    ------
    InputError
        If voxels, units or the mask differ.
    """
    first = parts[0]
    for place, part in enumerate(parts[1:], 1):
        same = part.dims == first.dims == ("trial", "voxel") and part.units == first.units
        same = same and part.meta.get("image") == first.meta.get("image")
        if not same or part.sizes["voxel"] != first.sizes["voxel"]:
            raise InputError(explain(f"session {place}", expected=f"voxels and units as {first!r}", got=repr(part)))
    shared = set.intersection(*(set(p.coords["trial"]) for p in parts))
    table = {c: np.concatenate([p.coords["trial"][c] for p in parts]) for c in first.coords["trial"] if c in shared}
    if "session" not in table:
        table["session"] = np.concatenate([np.full(p.sizes["trial"], p.session) for p in parts])
    if "stim_id" in table:
        table["repeat"] = repeats(table["stim_id"])
    names = ",".join(p.session for p in parts)
    return first.with_(
        data=torch.cat([p.values for p in parts]), coords={**first.coords, "trial": table}, session=names,
        history=(*first.history, {"step": "join", "sessions": names}),
    )  # fmt: skip
