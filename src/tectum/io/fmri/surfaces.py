"""Surfaces: data of vertices in GIFTI and MGH, label tables, meshes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tectum.core.device import from_numpy
from tectum.core.errors import InputError, LoadError, explain
from tectum.core.recording import Recording

from ..events import span
from ..files import reading
from .bids import entities, kept, sidecar
from .gifti import parse_gifti
from .images import Header, nib, resolve_tr

_HEMI = {"L": "left", "R": "right", "lh": "left", "rh": "right"}


class Mesh(NamedTuple):
    """A triangulated surface."""

    points: Tensor
    """(vertex, 3) float32, mm."""
    faces: Tensor
    """(face, 3) int64, positions of the corners."""


def read_surface(
    left: str | Path,
    right: str | Path | None = None,
    *,
    tr: float | None = None,
    use_sidecar: bool = True,
    units: str | None = None,
    subject: str = "",
    session: str = "",
) -> Recording:
    """Read data of vertices: GIFTI, MGH or FreeSurfer's own (``lh.thickness``), of one hemisphere or both.

    Parameters
    ----------
    left : path
        The file, or that of the left hemisphere.
    right : path, optional
        That of the right one.
    tr : float, optional
        Repetition time in s.
    use_sidecar : bool, default True
        Read the BIDS sidecars.
    units : str, optional
        Default "BOLD" for a series, "a.u." otherwise.
    subject, session : str
        Default what the file name says.

    Returns
    -------
    Recording
        (time, vertex) of a series, (vertex,) of a single map, (feature, vertex) of several; the columns of ``vertex``
        are hemi and index. Vertices that never change or are NaN (the medial wall) are False in ``mask`` of a series.

    Raises
    ------
    InputError
        If the hemispheres differ in the number of volumes.
    LoadError
        If a file is damaged.
    """
    options: dict[str, Any] = {"tr": tr, "use_sidecar": use_sidecar, "subject": subject, "session": session}
    parts = [_one(Path(path), units=units, **options) for path in (left, right) if path is not None]
    return parts[0] if right is None else _joined(parts, str(left), str(right))


def read_gifti(path: str | Path, **options: Any) -> Recording:
    """Read a GIFTI file: data of vertices as :func:`read_surface`, or of a ``.surf`` the points (vertex, feature).

    The faces of a surface come by :func:`read_mesh`.
    """
    path = Path(path)
    if ".surf." in path.name.lower():
        mesh = read_mesh(path)
        return Recording(
            data=mesh.points, dims=("vertex", "feature"), units="mm", modality="surface",
            coords={"vertex": {"index": np.arange(len(mesh.points))}, "feature": {"name": ["x", "y", "z"]}},
            history=({"step": "read", "format": "gifti", "file": path.name, "faces": len(mesh.faces)},),
        )  # fmt: skip
    return read_surface(path, **options)


def _one(
    path: Path, *, tr: float | None, use_sidecar: bool, units: str | None, subject: str, session: str
) -> Recording:
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".gii"):
        with reading(path, "a GIFTI file"):
            image = parse_gifti(path)
            side, files = sidecar(path) if use_sidecar else ({}, [])
            return gifti_recording(image, where=str(path), path=path, tr=tr, side=side, units=units, subject=subject,
                                   session=session, note={"file": path.name, "sidecars": files})  # fmt: skip
    if not name.endswith((".mgh", ".mgz", ".nii")):
        return _morphology(path, units=units, subject=subject, session=session)
    from .volumes import read_image

    rec = read_image(path, tr=tr, use_sidecar=use_sidecar, units=units, subject=subject, session=session)
    if "vertex" not in rec.dims:
        raise InputError(explain(str(path), expected="data of vertices", got=repr(rec)))
    return rec


def _morphology(path: Path, *, units: str | None, subject: str, session: str) -> Recording:
    """Read a map in FreeSurfer's format without a suffix, such as ``lh.curv``."""
    with reading(path, "a FreeSurfer map of vertices"):
        with open(path, "rb") as stream:
            head = stream.read(15)
        count = int.from_bytes(head[3:7], "big")
        if head[:3] != b"\xff\xff\xff" or path.stat().st_size != 15 + 4 * count or not count:
            raise ValueError(f"{path.stat().st_size} bytes that begin with {head[:3]!r} and claim {count} vertices")
        values = np.asarray(nib("freesurfer").read_morph_data(str(path)), dtype=np.float32)
        note = {"file": path.name}
        return _series(from_numpy(values[None].copy()), None, where=str(path), tr=None, side={}, hemi=_hemi(path),
                       kind="freesurfer", note=note, units=units, subject=subject, session=session)  # fmt: skip


def _joined(parts: list[Recording], left: str, right: str) -> Recording:
    a, b = parts
    if a.dims != b.dims or a.sizes.get("time") != b.sizes.get("time"):
        sizes = " and ".join(f"{p.sizes}" for p in parts)
        raise InputError(explain(f"{left} and {right}", expected="hemispheres of one run", got=sizes))
    if a.rate != b.rate:
        got = f"{a.rate} and {b.rate} Hz"
        raise InputError(explain(f"{left} and {right}", expected="one repetition time", got=got))
    tables = [dict(p.coords["vertex"]) for p in parts]
    for table, side in zip(tables, ("left", "right"), strict=True):
        table["hemi"] = np.full(len(table["index"]), side)
    table = {c: np.concatenate([t[c] for t in tables]) for c in tables[0] if c in tables[1]}
    masks = [torch.ones(1, p.sizes["vertex"], dtype=torch.bool) if p.mask is None else p.mask for p in parts]
    mask = torch.cat(masks, -1) if any(p.mask is not None for p in parts) else None
    return a.with_(
        data=torch.cat([p.values for p in parts], -1), coords={**a.coords, "vertex": table}, mask=mask,
        history=(*a.history, {"step": "join", "right": Path(right).name}),
    )  # fmt: skip


def surface_of_header(
    path: Path, header: Header, *, tr: float | None, subject: str = "", session: str = "", side: Any = None
) -> Recording:
    """Return the recording of an opened MGH image (vertex, 1, 1, time)."""
    names = entities(path)
    side = sidecar(path)[0] if side is None else side
    values = header.numbers[()]
    values = values.reshape(values.shape[0], -1).T  # (time, vertex)
    made = from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    return _series(
        made, header, where=str(path), tr=tr, side=side, hemi=_hemi(path), kind="mgh",
        subject=subject or names.get("sub", ""), session=session or names.get("ses", ""), note={"file": path.name},
    )  # fmt: skip


def _hemi(path: Path) -> str:
    words = path.name.replace("_", ".").split(".")
    found = entities(path).get("hemi") or next((w for w in words if w in ("lh", "rh")), "")
    return _HEMI.get(found, "")


def _series(
    values: Tensor,
    header: Header | None,
    *,
    where: str,
    tr: float | None,
    side: dict[str, Any],
    hemi: str,
    kind: str,
    note: dict[str, Any],
    names: list[str] | None = None,
    units: str | None = None,
    **fields: str,
) -> Recording:
    """Return (time, vertex), (vertex,) of one map, or (feature, vertex) of several that are no series."""
    n, vertices = values.shape
    table = {"hemi": np.full(vertices, hemi), "index": np.arange(vertices)}
    meta: dict[str, Any] = {"format": kind, "surface": {"hemi": hemi, "n_vertices": vertices}}
    common: dict[str, Any] = {"coords": {"vertex": table}, "modality": "fmri", "meta": meta, **fields}
    told = {"step": "read", "format": kind, **note}
    if names is not None and n > 1:
        common["coords"]["feature"] = {"name": names}
        return Recording(data=values, dims=("feature", "vertex"), units=units or "a.u.", history=(told,), **common)
    if n == 1:
        return Recording(data=values[0], dims=("vertex",), units=units or "a.u.", history=(told,), **common)
    step, source = resolve_tr(header, side, tr, where)
    finite = torch.isfinite(values).all(0)
    alive = finite & (values.amax(0) > values.amin(0))
    if side:
        meta["sidecar"] = kept(side)
    dead = int((~alive).sum())
    return Recording(
        data=values, dims=("time", "vertex"), rate=1.0 / step, units=units or "BOLD",
        mask=None if not dead else alive[None], intervals={"support": span(0.0, n * step)},
        history=({**told, **source, "masked_vertices": dead},), **common,
    )  # fmt: skip


def gifti_recording(
    image: Any,
    *,
    where: str,
    path: Path | None = None,
    tr: float | None = None,
    side: dict[str, Any] | None = None,
    units: str | None = None,
    subject: str = "",
    session: str = "",
    note: dict[str, Any] | None = None,
) -> Recording:
    """Build a recording from a nibabel ``GiftiImage``; see :func:`read_surface`."""
    intent_codes = nib("nifti1").intent_codes

    arrays = image.darrays
    columns = [_column(np.asarray(a.data)) for a in arrays]
    shapes = {c.shape for c in columns}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        if len(arrays) == 1 and arrays[0].data.ndim == 2 and "TIME" in intent_codes.niistring[arrays[0].intent]:
            values = np.asarray(arrays[0].data).T
        else:
            fix = "a surface is read by read_mesh"
            raise InputError(explain(where, expected="arrays (vertex,) of one length", got=f"{shapes}", fix=fix))
    else:
        values = np.stack(columns)
    intents = {intent_codes.niistring[a.intent] for a in arrays}
    labels = intents == {"NIFTI_INTENT_LABEL"}
    series = intents <= {"NIFTI_INTENT_TIME_SERIES", "NIFTI_INTENT_NONE"} and ".shape." not in where
    names = None if series else [str(dict(a.meta).get("Name", "")) for a in arrays]
    own = entities(path) if path is not None else {}
    step = next((v for a in arrays if (v := dict(a.meta).get("TimeStep"))), None)
    header = None if step is None else _timed(step)
    made = from_numpy(np.ascontiguousarray(values)).to(torch.int32 if labels else torch.float32)
    hemi = _hemi(path) if path is not None else _structure(image)
    rec = _series(
        made, header, where=where, tr=tr, side=side or {}, hemi=hemi or _structure(image), kind="gifti", units=units,
        names=names, subject=subject or own.get("sub", ""), session=session or own.get("ses", ""), note=note or {},
    )  # fmt: skip
    if not labels:
        return rec
    table = image.labeltable.labels
    found = {str(x.key): [str(x.label), [float(c) if c is not None else 0.0 for c in x.rgba]] for x in table}
    return rec.with_(units="1", meta={**rec.meta, "labels": found})


def _column(data: np.ndarray) -> np.ndarray:
    """Return an array (vertex, 1) as (vertex,)."""
    return data[:, 0] if data.ndim == 2 and data.shape[1] == 1 else data


def _timed(step: Any) -> Header | None:
    """Return a header with the TimeStep of a GIFTI array, by convention in ms when large."""
    try:
        value = float(step)
    except ValueError:
        return None
    return Header(np.empty(0), np.eye(4), "gifti", value if value > 0 else 0.0, "s")


def _structure(image: Any) -> str:
    word = str(dict(image.meta).get("AnatomicalStructurePrimary", "")).lower()
    if not word and image.darrays:
        word = str(dict(image.darrays[0].meta).get("AnatomicalStructurePrimary", "")).lower()
    return "left" if "left" in word else "right" if "right" in word else ""


def read_mesh(path: str | Path) -> Mesh:
    """Read a surface: GIFTI ``.surf.gii`` or FreeSurfer geometry (``lh.pial``, ``lh.white``).

    Raises
    ------
    LoadError
        If the file is damaged or faces point to no vertex.
    """
    path = Path(path)
    with reading(path, "a triangulated surface"):
        if path.name.lower().removesuffix(".gz").endswith(".gii"):
            image = parse_gifti(path)
            points, faces = (image.agg_data(k) for k in ("pointset", "triangle"))
        else:
            read_geometry = nib("freesurfer").read_geometry

            points, faces = read_geometry(str(path))
        points, faces = np.asarray(points), np.asarray(faces)
        if points.ndim != 2 or points.shape[1:] != (3,) or faces.ndim != 2 or faces.shape[1:] != (3,):
            raise ValueError(f"points of shape {points.shape} and faces of shape {faces.shape}")
        if len(faces) and not 0 <= faces.min() <= faces.max() < len(points):
            raise ValueError(f"a face at vertex {faces.max()} of {len(points)}")
        return Mesh(from_numpy(points.astype(np.float32)), from_numpy(faces.astype(np.int64)))


def read_annot(path: str | Path) -> Recording:
    """Read a FreeSurfer ``.annot``: labels (vertex,) int32, names and colours in ``meta["labels"]``.

    A vertex without a label has -1.
    """
    parse = nib("freesurfer").read_annot

    path = Path(path)
    with reading(path, "a FreeSurfer annotation"):
        if path.stat().st_size > (1 << 28):
            raise LoadError(explain(str(path), expected=f"at most {1 << 28} bytes", got=f"{path.stat().st_size}"))
        labels, colours, names = parse(str(path))
        table = {
            str(k): [name.decode("utf-8", "replace"), [float(c) / 255 for c in colours[k][:4]]]
            for k, name in enumerate(names)
        }
        hemi = _hemi(path)
        return Recording(
            data=from_numpy(np.asarray(labels, dtype=np.int32)), dims=("vertex",), units="1", modality="fmri",
            coords={"vertex": {"hemi": np.full(len(labels), hemi), "index": np.arange(len(labels))}},
            meta={"format": "annot", "surface": {"hemi": hemi, "n_vertices": len(labels)}, "labels": table},
            history=({"step": "read", "format": "annot", "file": path.name},),
        )  # fmt: skip
