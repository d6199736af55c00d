"""CaImAn's HDF5 results: denoised and raw calcium, deconvolved activity and footprints of each component."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.errors import InputError, LoadError, explain
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording
from tectum.core.session import Session

from .events import rate_of, span
from .hdf5 import inside, opened, source, whole
from .sparse import by_columns

_NULL = (b"NoneType", "NoneType")
_TRACES = {"C": "a.u.", "S": "deconvolved", "YrA": "a.u.", "F_dff": "dF/F"}
_COLUMNS = {"SNR_comp": "snr", "r_values": "r", "cnn_preds": "cnn", "neurons_sn": "noise", "bl": "baseline"}


def read_caiman(
    path: str | Path, *, accepted_only: bool = True, fs: float | None = None, subject: str = "", session: str = ""
) -> Session:
    """Read what ``CNMF.save`` wrote.

    Parameters
    ----------
    path : path
        The HDF5 file.
    accepted_only : bool, default True
        Keep the components of ``idx_components``; if the file has none, all are kept and the history says so.
    fs : float, optional
        Frames per s; default ``params/data/fr``.
    subject, session : str
        Who and when: CaImAn does not know.

    Returns
    -------
    Session
        Recordings (time, unit), read when used: ``C`` (denoised, in the scale of the footprints), ``YrA`` (what is
        left; ``C + YrA`` is the raw trace), ``S``, and ``F_dff`` where they exist; ``footprints`` (unit, y, x).

    Raises
    ------
    LoadError
        If the file is damaged, or arrays contradict each other (then also an :class:`InputError`).
    """
    path = Path(path)
    with opened(path, "a CaImAn result", check=True) as file:
        estimates = inside(file, "estimates")
        if estimates is None or "C" not in estimates:
            raise LoadError(explain(str(path), expected="a group estimates with C", got=", ".join(file) or "nothing"))
        rate, clock = rate_of(_scalar(file.get("params/data"), "fr"), fs, f"{path}: params/data/fr")
        found = {name: node for name in _TRACES if (node := _array(estimates, name)) is not None and node.ndim == 2}
        if "C" not in found:
            raise LoadError(explain(f"{path}: estimates/C", expected="traces (unit, time)", got="none"))
        n_units, n_time = found["C"].shape
        for name, node in found.items():
            if node.shape != (n_units, n_time):
                raise InputError(
                    explain(f"estimates/{name}", expected=f"{(n_units, n_time)} as C", got=f"{node.shape}")
                )
        rows, filtered = _accepted(estimates, n_units, accepted_only)
        table = {name: column[rows] for name, column in _table(estimates, n_units).items()}
        tau = _scalar(file.get("params/data"), "decay_time")
        caiman = {"fs": rate} | ({} if tau is None else {"decay_time": float(tau)})
        meta = {"format": "caiman", "caiman": caiman}
        common: dict[str, Any] = {"modality": "calcium", "meta": meta, "subject": subject, "session": session}
        step = {"step": "read", "format": "caiman", **clock, **filtered}
        parts = {
            name: Recording(
                data=LazyArray(source(path, node, rows=rows), order=(1, 0)),  # (time, unit) of (unit, time)
                dims=("time", "unit"),
                rate=rate,
                units=_TRACES[name],
                coords={"unit": table},
                intervals={"support": span(0.0, n_time / rate)},
                history=({**step, "dataset": f"estimates/{name}", "transposed": True},),
                **common,
            )
            for name, node in found.items()
        }
        shapes = _footprints(estimates, rows)
        if shapes is not None:
            note = {**step, "dataset": "estimates/A", "order": "Fortran"}
            parts["footprints"] = Recording(
                data=shapes, dims=("unit", "y", "x"), coords={"unit": table}, history=(note,), **common
            )
    return Session(items_=parts, meta=meta, subject=subject, session=session)


def _array(group: Any, name: str) -> Any:
    """Return a dataset, None where CaImAn wrote its word for nothing."""
    node = inside(group, name) if group is not None and name in group else None
    if node is None or not hasattr(node, "shape") or node.shape == () or node.dtype.kind not in "biuf":
        return None
    return node


def _scalar(group: Any, name: str) -> Any:
    node = None if group is None else group.get(name)
    if node is None or not hasattr(node, "shape") or node.shape not in ((), (1,)):
        return None
    value = np.asarray(node[()]).reshape(-1)[0]
    return None if value in _NULL else value


def _accepted(estimates: Any, n_units: int, accepted_only: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the positions kept and what is to be noted."""
    node = _array(estimates, "idx_components")
    everything = np.arange(n_units)
    if not accepted_only or node is None:
        words = "none" if not accepted_only else "none: the file has no idx_components"
        return everything, {"filter": words, "components": n_units, "kept": n_units}
    rows = np.unique(whole(node))
    if rows.dtype.kind not in "iu" or (len(rows) and not 0 <= int(rows[0]) <= int(rows[-1]) < n_units):
        raise InputError(explain("estimates/idx_components", expected=f"positions below {n_units}", got=f"{rows[-1:]}"))
    if len(rows) == 0:
        fix = "pass accepted_only=False"
        raise InputError(explain("estimates/idx_components", expected="an accepted component", got="none", fix=fix))
    return rows.astype(np.int64), {"filter": "idx_components", "components": n_units, "kept": len(rows)}


def _table(estimates: Any, n_units: int) -> dict[str, np.ndarray]:
    found = {"id": np.arange(n_units)}
    for name, ours in _COLUMNS.items():
        node = _array(estimates, name)
        if node is not None and node.shape == (n_units,):
            found[ours] = whole(node)
    return found


def _footprints(estimates: Any, rows: np.ndarray) -> torch.Tensor | None:
    """Return images (unit, y, x) from the sparse matrix (pixel, unit), whose pixels are in Fortran order."""
    group, dims = inside(estimates, "A"), _array(estimates, "dims")
    if group is None or dims is None or not {"data", "indices", "indptr", "shape"} <= set(group):
        return None
    shape, size = tuple(int(n) for n in whole(group["shape"])), tuple(int(n) for n in whole(dims))
    if len(size) != 2:
        return None
    if len(shape) != 2 or min(size) < 1 or shape[0] != size[0] * size[1] or shape[0] * len(rows) > 1 << 30:
        raise InputError(explain("estimates/A", expected=f"{size[0] * size[1]} pixels as dims", got=f"shape {shape}"))
    values, pixels, ends = (whole(group[name]) for name in ("data", "indices", "indptr"))
    if len(ends) != shape[1] + 1:
        got = f"{len(ends)} ends"
        raise InputError(explain("estimates/A/indptr", expected=f"{shape[1] + 1} ends, as the shape", got=got))
    matrix = by_columns(values, pixels, ends, shape[0])
    dense = matrix[:, rows].toarray().astype(np.float32)  # (pixel, unit)
    images = dense.T.reshape(len(rows), size[1], size[0]).transpose(0, 2, 1)
    return torch.from_numpy(np.ascontiguousarray(images))
