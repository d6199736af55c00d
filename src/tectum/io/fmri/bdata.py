"""Files of bdpy: one matrix whose columns are told apart by metadata, as Generic Object Decoding has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.errors import InputError, LoadError, explain, nearest
from tectum.core.recording import Recording

from ..files import reading
from ..hdf5 import inside, opened, whole

_LIMIT = 1 << 34  # bytes of the matrix
_NAMES = (("dataset", "metadata"), ("dataSet", "metaData"))  # newer, older
_PLACE = {"voxel_x": "x", "voxel_y": "y", "voxel_z": "z", "voxel_i": "i", "voxel_j": "j", "voxel_k": "k"}
_STIMULUS = ("stimulus_id", "stim_id", "Label", "image_index")


def read_bdata(
    path: str | Path,
    *,
    voxels: str = "VoxelData",
    roi: str | None = None,
    units: str = "a.u.",
    subject: str = "",
    session: str = "",
) -> Recording:
    """Read an HDF5 file of bdpy: samples by voxels, with labels of the samples and regions of the voxels.

    Parameters
    ----------
    path : path
        The ``.h5`` file.
    voxels : str, default "VoxelData"
        Metadata key whose columns are voxels.
    roi : str, optional
        Keep the voxels of one region, such as "ROI_V1".
    units : str, default "a.u."
        The files do not say.
    subject, session : str
        Who and when.

    Returns
    -------
    Recording, dims (trial, voxel)
        Metadata with one column (run, stimulus, ...) are columns of ``trial``; a stimulus also as ``stim_id``. Those of
        the voxels are columns of ``voxel``: x, y, z in mm, regions as bool. Groups of several columns are left out and
        named in the history.

    Raises
    ------
    LoadError
        If the file is damaged or of another layout.
    InputError
        If a key is unknown.
    """
    path = Path(path)
    with opened(path, "a bdpy file", check=True) as file:
        data, keys, values = _parts(file, path)
    with reading(path, "a bdpy file"):
        table = dict(zip(keys, values, strict=True))
        for name in (voxels, *([] if roi is None else [roi])):
            if name not in table:
                raise InputError(explain("key", expected="a metadata key", got=repr(name), fix=nearest(name, table)))
        chosen = table[voxels] == 1
        if roi is not None:
            chosen = chosen & (table[roi] == 1)
        if not chosen.any():
            raise InputError(explain(str(path), expected=f"voxels of {roi or voxels}", got="none"))
        trial, left = _trials(data, table, table[voxels] == 1)
        note = {"step": "read", "format": "bdata", "file": path.name, "roi": roi, "left_out": left}
        return Recording(
            data=torch.from_numpy(np.ascontiguousarray(data[:, chosen], dtype=np.float32)),
            dims=("trial", "voxel"),
            coords={"trial": trial, "voxel": _voxels(table, chosen, voxels)},
            units=units,
            modality="fmri",
            subject=subject,
            session=session,
            meta={"format": "bdata"},
            history=(note,),
        )


def _parts(file: Any, path: Path) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Return the matrix, the keys and their values (key, column)."""
    for matrix, meta in _NAMES:
        node, group = (inside(file, name) if name in file else None for name in (matrix, meta))
        if node is None or group is None or not {"key", "value"} <= set(group):
            continue
        data, values = whole(node, limit=_LIMIT), whole(group["value"])
        keys = [str(key) for key in np.atleast_1d(whole(group["key"]))]
        if data.ndim != 2 or data.dtype.kind not in "biuf" or values.shape != (len(keys), data.shape[1]):
            got = f"a matrix of {data.shape}, {len(keys)} keys and values of {values.shape}"
            raise LoadError(explain(str(path), expected="a value of each key for each column", got=got))
        return data, keys, np.asarray(values, dtype=np.float64)
    raise LoadError(explain(str(path), expected="dataset and metadata of bdpy", got=", ".join(file) or "nothing"))


def _trials(
    data: np.ndarray, table: dict[str, np.ndarray], of_voxels: np.ndarray
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return metadata of samples: one column each, and the names of groups of several."""
    found: dict[str, np.ndarray] = {}
    left = []
    for key, row in table.items():
        columns = np.flatnonzero((row == 1) & ~of_voxels)
        if len(columns) == 1 and not ((row == 1) & of_voxels).any():
            found[key] = data[:, columns[0]]
        elif len(columns) > 1:
            left.append(key)
    name = next((n for n in _STIMULUS if n in found), None)
    if name is not None:
        found["stim_id"] = found[name]
    return found, left


def _voxels(table: dict[str, np.ndarray], chosen: np.ndarray, skip: str) -> dict[str, np.ndarray]:
    """Return metadata of voxels: those that are 0, 1 or missing as bool, others as numbers."""
    made = {}
    for key, row in table.items():
        values = row[chosen]
        if key == skip or np.isnan(values).all():
            continue
        flags = np.isin(values, (0.0, 1.0)) | np.isnan(values)
        made[_PLACE.get(key, key)] = values == 1 if flags.all() and key not in _PLACE else values
    return made
