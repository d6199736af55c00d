"""CIFTI-2: grayordinates and parcels in time, maps and labels on them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.errors import InputError, LoadError, explain
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording

from ..events import span
from ..files import reading
from .bids import entities, kept, sidecar
from .images import LIMIT, Stored, check_claims, nib, resolve_tr

_PREFIX = "CIFTI_STRUCTURE_"


def read_cifti(
    path: str | Path,
    *,
    tr: float | None = None,
    time: bool | None = None,
    use_sidecar: bool = True,
    units: str | None = None,
    limit: int = LIMIT,
    subject: str = "",
    session: str = "",
) -> Recording:
    """Read a CIFTI-2 file: ``.dtseries``, ``.ptseries``, ``.dscalar``, ``.pscalar`` or ``.dlabel.nii``.

    Parameters
    ----------
    path : path
        The file.
    tr : float, optional
        Repetition time in s; default the sidecar's, else that of the series.
    time : bool, optional
        True demands a series.
    use_sidecar : bool, default True
        Read the BIDS sidecars.
    units : str, optional
        Default "BOLD" for a series, "a.u." for maps.
    limit : int
        Bytes above which a file is refused.
    subject, session : str
        Default what the file name says.

    Returns
    -------
    Recording
        (time, voxel) or (time, unit), read when used; maps are (feature, voxel), with their names; labels int32, their
        names and colours in ``meta["labels"]``. Grayordinates have the columns structure, vertex (-1 in a volume), and
        i, j, k with x, y, z in mm (-1 and NaN on a surface).

    Raises
    ------
    LoadError
        If the file is damaged or contradicts itself.
    InputError
        If there is no series where one is asked for, or the repetition time is missing.
    """
    nibabel = nib()

    path = Path(path)
    check_claims(path, limit=limit)
    with reading(path, "a CIFTI-2 file"):
        _check_xml(path)
        image: Any = nibabel.load(path)
        if not isinstance(image, nib("cifti2").Cifti2Image):
            raise ValueError(f"a {type(image).__name__}")
        names = entities(path)
        side, files = sidecar(path) if use_sidecar else ({}, [])
        fields = {"subject": subject or names.get("sub", ""), "session": session or names.get("ses", "")}
        note = {"file": path.name, "sidecars": files}
        return cifti_recording(image, where=str(path), path=path, tr=tr, time=time, side=side, units=units,
                               fields=fields, note=note)  # fmt: skip


def _check_xml(path: Path) -> None:
    """Refuse entities in the XML of the header: they can grow without bound."""
    with open(path, "rb") as stream:
        head = stream.read(1 << 16)
    if b"<!ENTITY" in head or b"<!DOCTYPE" in head:
        raise ValueError("a document type in the XML of the header")


def cifti_recording(
    image: Any,
    *,
    where: str,
    path: Path | None = None,
    tr: float | None = None,
    time: bool | None = None,
    side: dict[str, Any] | None = None,
    units: str | None = None,
    fields: dict[str, str] | None = None,
    note: dict[str, Any] | None = None,
) -> Recording:
    """Build a recording from a nibabel ``Cifti2Image``; see :func:`read_cifti` for the parameters."""
    SeriesAxis = nib("cifti2").SeriesAxis

    shape = tuple(int(n) for n in image.shape)
    axes = [image.header.get_axis(k) for k in range(len(shape))]
    if len(shape) != 2 or tuple(len(a) for a in axes) != shape:
        raise InputError(explain(where, expected=f"axes of {[len(a) for a in axes]}", got=f"shape {shape}"))
    series = isinstance(axes[0], SeriesAxis)
    if time and not series:
        got = f"a {type(axes[0]).__name__}"
        raise InputError(explain(where, expected="a series axis where time is asked for", got=got))
    row, row_table, row_meta, clock, told = _rows(axes[0], where, side or {}, tr, shape[0])
    column, table, meta = _columns(axes[1], where)
    labels = "labels" in row_meta
    coords = {column: table, **({row: row_table} if row_table else {})}
    extra = {"sidecar": kept(side)} if side else {}
    named: dict[str, Any] = {"subject": "", "session": "", **(fields or {})}
    return Recording(
        data=LazyArray(_numbers(image, path, shape), dtype=torch.int32 if labels else torch.float32),
        dims=(row, column),
        coords=coords,
        units=units or ("BOLD" if series else "1" if labels else "a.u."),
        modality="fmri",
        meta={"format": "cifti", "cifti": {**meta, **row_meta}, **extra},
        history=({"step": "read", "format": "cifti", **(note or {}), **told},),
        **clock,
        **named,
    )


def _numbers(image: Any, path: Path | None, shape: tuple[int, ...]) -> Any:
    """Return the array on disk in the shape of the axes, or the one in memory."""
    proxy = image.dataobj
    if path is None or not hasattr(proxy, "offset"):
        return np.asarray(proxy)
    dtype = np.dtype(proxy.dtype)
    if dtype.kind not in "biuf":
        raise LoadError(explain(str(path), expected="real numbers", got=f"dtype {dtype}"))
    stored = Stored(path, shape, dtype, int(proxy.offset), float(proxy.slope), float(proxy.inter))
    need = stored.offset + math.prod(shape) * dtype.itemsize
    if not stored.compressed and path.stat().st_size < need:
        expected = f"{need} bytes as the header says"
        raise LoadError(explain(str(path), expected=expected, got=f"{path.stat().st_size} bytes"))
    return stored


def _rows(
    axis: Any, where: str, side: dict[str, Any], tr: float | None, n: int
) -> tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return name, coordinates, meta, clock and note of the first axis."""
    LabelAxis = nib("cifti2").LabelAxis
    ScalarAxis = nib("cifti2").ScalarAxis
    SeriesAxis = nib("cifti2").SeriesAxis

    if isinstance(axis, SeriesAxis):
        if axis.unit != "SECOND":
            raise InputError(explain(where, expected="a series in seconds", got=f"one in {axis.unit}"))
        from .images import Header

        step = float(axis.step)
        header = Header(np.empty(0), np.eye(4), "cifti", step if step > 0 else 0.0, "s")
        found, source = resolve_tr(header, side, tr, where)
        start = float(axis.start)
        clock = {"rate": 1.0 / found, "t0": start, "intervals": {"support": span(start, start + n * found)}}
        return "time", {}, {}, clock, {**source, "t0_from": "the series axis"}
    if isinstance(axis, LabelAxis):
        tables = [{str(k): [str(name), [float(c) for c in rgba]] for k, (name, rgba) in t.items()} for t in axis.label]
        return "feature", {"name": _text(axis.name)}, {"labels": tables}, {}, {}
    if isinstance(axis, ScalarAxis):
        return "feature", {"name": _text(axis.name)}, {}, {}, {}
    expected = "series, scalars or labels along the first axis"
    raise InputError(explain(where, expected=expected, got=type(axis).__name__))


def _text(values: Any) -> np.ndarray:
    return np.asarray([str(v) for v in values], dtype=str)


def _columns(axis: Any, where: str) -> tuple[str, dict[str, np.ndarray], dict[str, Any]]:
    """Return name, coordinates and meta of the second axis."""
    BrainModelAxis = nib("cifti2").BrainModelAxis
    ParcelsAxis = nib("cifti2").ParcelsAxis

    if isinstance(axis, BrainModelAxis):
        return "voxel", *_grayordinates(axis, where)
    if isinstance(axis, ParcelsAxis):
        return "unit", *_parcels(axis)
    expected = "brain models or parcels along the second axis"
    raise InputError(explain(where, expected=expected, got=type(axis).__name__))


def _volume(axis: Any) -> dict[str, Any]:
    """Return what JSON keeps of the geometry of an axis."""
    made: dict[str, Any] = {"n_vertices": {str(k): int(v) for k, v in axis.nvertices.items()}}
    if axis.volume_shape is not None and axis.affine is not None:
        made |= {"affine": np.asarray(axis.affine).tolist(), "shape": [int(n) for n in axis.volume_shape]}
    return made


def _grayordinates(axis: Any, where: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    meta = _volume(axis)
    vertex = np.asarray(axis.vertex, dtype=np.int64)
    voxel = np.asarray(axis.voxel, dtype=np.int64)
    on_surface = np.asarray(axis.surface_mask)
    name = np.asarray([str(n).removeprefix(_PREFIX) for n in axis.name], dtype=str)
    for structure, n in meta["n_vertices"].items():
        own = vertex[on_surface & (name == structure.removeprefix(_PREFIX))]
        if len(own) and not 0 <= own.min() <= own.max() < n:
            raise InputError(explain(where, expected=f"vertices below {n} in {structure}", got=f"{own.max()}"))
    place = np.full((len(vertex), 3), np.nan)
    if "affine" in meta:
        affine = np.asarray(meta["affine"])
        inside = voxel[~on_surface]
        if len(inside) and not (inside.min() >= 0 and (inside.max(0) < meta["shape"]).all()):
            got = f"{inside.max(0).tolist()}"
            raise InputError(explain(where, expected=f"voxels inside {meta['shape']}", got=got))
        place[~on_surface] = inside @ affine[:3, :3].T + affine[:3, 3]
    table = {"structure": name, "vertex": np.where(on_surface, vertex, -1)}
    table |= {c: np.where(on_surface, -1, voxel[:, k]) for k, c in enumerate("ijk")}
    return table | {c: place[:, k] for k, c in enumerate("xyz")}, meta


def _parcels(axis: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    voxels = [np.asarray(v).tolist() if len(v) else [] for v in axis.voxels]
    vertices = [{str(k): np.asarray(v).tolist() for k, v in found.items()} for found in axis.vertices]
    table = {
        "name": _text(axis.name),
        "n_voxels": np.asarray([len(v) for v in voxels]),
        "n_vertices": np.asarray([sum(len(v) for v in found.values()) for found in vertices]),
    }
    return table, {**_volume(axis), "parcels": {"voxels": voxels, "vertices": vertices}}


def cifti_image(rec: Recording) -> Any:
    """Return the nibabel ``Cifti2Image`` of a recording that came from one.

    Raises
    ------
    InputError
        If the axes are not (time or feature, voxel or unit), or times are irregular.
    """
    Cifti2Header = nib("cifti2").Cifti2Header
    Cifti2Image = nib("cifti2").Cifti2Image

    last = next((d for d in ("voxel", "unit") if d in rec.dims), None)
    first = next((d for d in ("time", "feature") if d in rec.dims), None)
    if last is None or first is None or rec.ndim != 2:
        expected = "(time or feature, voxel or unit)"
        raise InputError(explain("to_nibabel", expected=expected, got=repr(rec)))
    values = rec.tensor(first, last, device="cpu").numpy()
    axes = (_row_axis(rec, first), _column_axis(rec, last))
    image: Any = Cifti2Image(values, Cifti2Header.from_axes(axes))
    image.nifti_header.set_data_dtype(values.dtype)
    return image


def _row_axis(rec: Recording, name: str) -> Any:
    LabelAxis = nib("cifti2").LabelAxis
    ScalarAxis = nib("cifti2").ScalarAxis
    SeriesAxis = nib("cifti2").SeriesAxis

    if name == "time":
        if rec.rate is None:
            raise InputError(explain("to_nibabel", expected="a regular repetition time", got="irregular times"))
        return SeriesAxis(rec.t0, 1.0 / rec.rate, rec.sizes["time"])
    names = np.asarray(rec.coords.get("feature", {}).get("name", np.arange(rec.sizes["feature"]).astype(str)))
    tables = rec.meta["cifti"].get("labels")
    if tables is None or len(tables) != len(names):
        return ScalarAxis(names)
    return LabelAxis(names, [{int(k): (v[0], tuple(v[1])) for k, v in t.items()} for t in tables])


def _column_axis(rec: Recording, name: str) -> Any:
    BrainModelAxis = nib("cifti2").BrainModelAxis
    ParcelsAxis = nib("cifti2").ParcelsAxis

    meta, table = rec.meta["cifti"], rec.coords.get(name, {})
    geometry = {"affine": np.asarray(meta["affine"]), "volume_shape": tuple(meta["shape"])} if "affine" in meta else {}
    if name == "unit":
        parcels = meta.get("parcels")
        if parcels is None or len(parcels["voxels"]) != rec.sizes["unit"]:
            raise InputError(explain("to_nibabel", expected="the parcels that were read", got=repr(rec)))
        voxels = [np.asarray(v, dtype=int).reshape(-1, 3) for v in parcels["voxels"]]
        vertices = [{k: np.asarray(v, dtype=int) for k, v in found.items()} for found in parcels["vertices"]]
        return ParcelsAxis(table["name"], voxels, vertices, nvertices=dict(meta["n_vertices"]), **geometry)
    structure = np.asarray([_PREFIX + str(n) for n in table["structure"]])
    voxel = np.stack([np.asarray(table[c]) for c in "ijk"], axis=1)
    vertex, count = np.asarray(table["vertex"]), dict(meta["n_vertices"])
    return BrainModelAxis(structure, voxel=voxel, vertex=vertex, nvertices=count, **geometry)
