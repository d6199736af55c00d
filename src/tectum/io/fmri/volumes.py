"""fMRI comes in: NIfTI, Analyze and MGH images to recordings, whole or inside a mask, and back to their grid."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tectum.core.device import from_numpy
from tectum.core.errors import InputError, LoadError, TectumWarning, explain
from tectum.core.intervals import Intervals
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording
from tectum.core.session import Session

from ..events import span
from ..files import reading
from .bids import companions, entities, find, kept, only, sidecar
from .images import LIMIT, Header, Stored, open_image, resolve_tr
from .masks import Nan, mask_of, masked_values, volume_of, voxel_table, without_nan

Fourth = Literal["time", "trial", "feature", "component", "stimulus"]
_AXES = ("x", "y", "z")
_EAGER = 1 << 32  # bytes of a compressed image that is read at once


def read_image(
    path: str | Path,
    *,
    mask: Any = None,
    tr: float | None = None,
    fourth: Fourth = "time",
    kind: Literal["auto", "series", "map"] = "auto",
    resample: bool = False,
    nan: Nan = "raise",
    lazy: bool = False,
    use_sidecar: bool = True,
    t0: float | None = None,
    units: str | None = None,
    space: str = "",
    limit: int = LIMIT,
    subject: str = "",
    session: str = "",
) -> Recording:
    """Read a NIfTI, Analyze or MGH image.

    Parameters
    ----------
    path : path
        ``.nii``, ``.nii.gz``, ``.img`` with ``.hdr``, ``.mgh`` or ``.mgz``.
    mask : "auto", path, array, Recording or nibabel image, optional
        Read only the voxels of a mask: "auto" takes the brain mask beside the file, else one computed from the mean.
    tr : float, optional
        Repetition time in s. It overrides the header with a warning; the sidecar's must agree.
    fourth : {"time", "trial", "feature", "component", "stimulus"}
        What the fourth axis is.
    kind : {"auto", "series", "map"}
        "series" demands a fourth axis, "map" demands none (or one entry); "auto" takes one volume as a map.
    resample : bool, default False
        Take a mask on another grid to that of the image, nearest neighbour.
    nan : {"raise", "drop_voxels", "zero"}
        What to do with NaN inside the mask.
    lazy : bool, default False
        Leave masked values on disk too (they are then not searched for NaN). Whole images that are not compressed
        always stay there.
    use_sidecar : bool, default True
        Read the BIDS sidecars.
    t0 : float, optional
        Time of the first volume in s; default the sidecar's ``StartTime``, half a repetition where slice timing was
        corrected without one, else 0. The history says which.
    units : str, optional
        Default "BOLD" for a series, "a.u." for a map.
    space : str, optional
        Name of the space; default what the file name says.
    limit : int
        Bytes above which an image is refused.
    subject, session : str
        Default what the file name says.

    Returns
    -------
    Recording
        (time, x, y, z), (x, y, z), or with a mask (time, voxel), (voxel,). Voxels have the columns i, j, k (indices)
        and x, y, z (mm); ``meta["image"]`` has affine and shape. A surface in MGH format is (time, vertex).

    Raises
    ------
    LoadError
        If the file is damaged, or claims what it cannot hold.
    InputError
        If axes, repetition time, mask or values are not what they must be.
    """
    path = Path(path)
    with reading(path, "an image"):
        header = open_image(path, limit=limit)
        if header.kind == "mgh" and header.shape[1:3] == (1, 1) and mask is None:
            from .surfaces import surface_of_header

            return surface_of_header(path, header, tr=tr, subject=subject, session=session)
        names = entities(path)
        side, files = sidecar(path) if use_sidecar else ({}, [])
        fields = {
            "space": space or names.get("space", ""),
            "subject": subject or names.get("sub", ""),
            "session": session or names.get("ses", ""),
        }
        note = {"file": path.name, "sidecars": files}
        return image_recording(
            header, path=path, mask=mask, tr=tr, fourth=fourth, kind=kind, resample=resample, nan=nan, lazy=lazy,
            side=side, t0=t0, units=units, fields=fields, note=note,
        )  # fmt: skip


def image_recording(
    header: Header,
    *,
    path: Path | None = None,
    mask: Any = None,
    tr: float | None = None,
    fourth: Fourth = "time",
    kind: str = "auto",
    resample: bool = False,
    nan: Nan = "raise",
    lazy: bool = False,
    side: dict[str, Any] | None = None,
    t0: float | None = None,
    units: str | None = None,
    fields: dict[str, str] | None = None,
    note: dict[str, Any] | None = None,
) -> Recording:
    """Build a recording from an opened image; see :func:`read_image` for the parameters."""
    where = str(path or "image")
    side, fields = side or {}, {"space": "", "subject": "", "session": "", **(fields or {})}
    n = _fourth(header.shape, kind, where)
    clock: dict[str, Any] = {}
    told: dict[str, Any] = {**(note or {}), "notes": list(header.notes)}
    if n is not None and fourth == "time":
        step, source = resolve_tr(header, side, tr, where)
        start, start_from = _start(side, step, t0)
        clock = {"rate": 1.0 / step, "t0": start, "intervals": {"support": span(start, start + n * step)}}
        told |= {**source, "t0_from": start_from}
    image = {**header.geometry, "space": fields["space"]}
    axis = () if n is None else (fourth,)
    coords: dict[str, Any] = {}
    if mask is None:
        data, dims = _whole(header.numbers, n), (*axis, *_AXES)
    else:
        found, origin = mask_of(mask, header, path=path, resample=resample, where=where)
        values = masked_values(header.numbers, found)
        table = voxel_table(found, header.affine)
        told |= {"mask": origin, "voxels": int(found.sum())}
        if lazy and not isinstance(values, Tensor) and n is not None:
            data = LazyArray(values)
        else:
            read = values if isinstance(values, Tensor) else from_numpy(values[:, :])
            read, keep, many = without_nan(read, nan, where)
            if keep is not None:
                table = {name: column[keep.numpy()] for name, column in table.items()}
            told |= {"nan": nan, "nan_voxels": many} if many else {}
            data = read if n is not None else read[0]
        image |= {"mask": origin}
        coords, dims = {"voxel": table}, (*axis, "voxel")
    meta = {"format": header.kind, "image": image}
    meta |= {"sidecar": kept(side)} if side else {}
    return Recording(
        data=data,
        dims=dims,
        coords=coords,
        units=units or ("BOLD" if clock else "a.u."),
        modality="fmri",
        subject=fields["subject"],
        session=fields["session"],
        meta=meta,
        history=({"step": "read", "format": header.kind, **told},),
        **clock,
    )


def _fourth(shape: tuple[int, ...], kind: str, where: str) -> int | None:
    """Return the length of the fourth axis, None for a map."""
    if kind not in ("auto", "series", "map"):
        raise InputError(explain("kind", expected="'auto', 'series' or 'map'", got=repr(kind)))
    rest = [n for n in shape[3:] if n != 1]
    if len(rest) > 1 or len(shape) > 4:
        raise InputError(explain(where, expected="3 or 4 axes", got=f"shape {shape}", fix="split it into 4-D images"))
    if kind == "series" and len(shape) == 3:
        raise InputError(explain(where, expected="a 4-D series", got=f"shape {shape}"))
    if kind == "map" and rest:
        raise InputError(explain(where, expected="a 3-D map", got=f"shape {shape}"))
    return None if kind == "map" or (kind == "auto" and not rest) else shape[3]


def _start(side: dict[str, Any], step: float, given: float | None) -> tuple[float, str]:
    """Return the time of the first volume in s and who says so."""
    if given is not None:
        return float(given), "argument"
    if isinstance(side.get("StartTime"), (int, float)):
        return float(side["StartTime"]), "sidecar"
    if side.get("SliceTimingCorrected") is True:
        return 0.5 * step, "half a repetition: slice timing was corrected"
    return 0.0, "none: the first volume starts the clock"


def _whole(numbers: Any, n: int | None) -> LazyArray | Tensor:
    """Return the array (fourth, x, y, z) or (x, y, z): lazy unless compressed and not large."""
    dtype = torch.bool if np.dtype(numbers.dtype) == np.bool_ else torch.float32
    packed = isinstance(numbers, Stored) and numbers.compressed
    if packed and 4 * math.prod(numbers.shape) > _EAGER:
        said = (
            f"{numbers.path}: {4 * math.prod(numbers.shape) / 2**30:.1f} GiB unpacked, left on disk where gzip is slow"
        )
        warnings.warn(f"{said}; pass mask= to read a part", TectumWarning, stacklevel=4)
    elif packed:
        shape = numbers.shape[:3]
        count = math.prod(numbers.shape[3:])
        made = torch.empty((count, *shape), dtype=dtype)
        first = 0
        for block in numbers.blocks():
            volumes = torch.from_numpy(np.array(numbers.scaled(block), dtype=np.float32))
            turned = volumes.reshape(len(block), *reversed(shape)).permute(0, 3, 2, 1)
            made[first : first + len(block)] = turned
            first += len(block)
        return made[0] if n is None else made
    if n is None and len(numbers.shape) == 4:
        return LazyArray(numbers, order=(3, 0, 1, 2), dtype=dtype)[0]
    return LazyArray(numbers, order=None if n is None else (3, 0, 1, 2), dtype=dtype)


def unmask(rec: Recording, atlas: Any = None, *, background: float = 0.0) -> Recording:
    """Put masked voxels, or parcels with their atlas, back on their grid.

    Parameters
    ----------
    rec : Recording
        With an axis ``voxel``, or ``unit`` and an ``atlas``.
    atlas : path, array, Recording or nibabel image, optional
        Labels on the grid of the result; each voxel gets the value of the unit whose ``id`` is its label.
    background : float, default 0
        Value of all other voxels.

    Returns
    -------
    Recording
        (..., x, y, z), other axes in front in their order.

    Examples
    --------
    >>> meta = {"image": {"affine": np.eye(4).tolist(), "shape": [2, 1, 1], "kind": "nifti1", "space": ""}}
    >>> table = {"i": [1], "j": [0], "k": [0]}
    >>> rec = Recording(data=torch.tensor([5.0]), dims=("voxel",), coords={"voxel": table}, meta=meta)
    >>> unmask(rec).values.flatten().tolist()
    [0.0, 5.0]
    """
    if atlas is not None:
        rec = _voxels_of_units(rec, atlas)
    table = rec.coords.get("voxel", {})
    if "voxel" not in rec.dims or "image" not in rec.meta or not {"i", "j", "k"} <= set(table):
        fix = "pass atlas= for parcels" if "unit" in rec.dims else ""
        raise InputError(explain("unmask", expected="voxels with i, j, k and meta['image']", got=repr(rec), fix=fix))
    shape = tuple(int(n) for n in rec.meta["image"]["shape"])
    others = tuple(d for d in rec.dims if d != "voxel")
    values = rec.tensor(*others, "voxel")
    index = np.stack([np.asarray(table[c], dtype=np.int64) for c in "ijk"])
    flat = torch.from_numpy(np.ravel_multi_index(tuple(index), shape)).to(values.device)
    made = values.new_full((*values.shape[:-1], math.prod(shape)), background)
    made.index_copy_(-1, flat, values)
    coords = {axis: columns for axis, columns in rec.coords.items() if axis != "voxel"}
    mask = None
    if rec.mask is not None:
        valid = rec.mask.permute([rec.dims.index(d) for d in (*others, "voxel")])
        mask = valid.select(-1, 0).reshape(*valid.shape[:-1], 1, 1, 1) if valid.shape[-1] == 1 else None
    return rec.with_(
        data=made.reshape(*values.shape[:-1], *shape), dims=(*others, *_AXES), coords=coords, mask=mask,
        history=rec.noted("unmask", background=background),
    )  # fmt: skip


def _voxels_of_units(rec: Recording, atlas: Any) -> Recording:
    """Give every voxel of an atlas the value of its unit."""
    if "unit" not in rec.dims or "id" not in rec.coords.get("unit", {}):
        raise InputError(explain("unmask", expected="units with their labels in the column id", got=repr(rec)))
    labels, affine = volume_of(atlas, "unmask atlas")
    if affine is None and "image" not in rec.meta:
        raise InputError(explain("unmask atlas", expected="an atlas with an affine", got="a bare array"))
    affine = np.asarray(rec.meta["image"]["affine"]) if affine is None else affine
    ids = np.asarray(rec.coords["unit"]["id"])
    found = np.isin(labels, ids)
    order = np.argsort(ids, kind="stable")
    position = order[np.searchsorted(ids[order], labels[found])]
    axis = rec.dims.index("unit")
    values = rec.values.index_select(axis, torch.from_numpy(position.astype(np.int64)).to(rec.device))
    image = {"kind": "nifti1", "space": "", **rec.meta.get("image", {}), "affine": affine.tolist()}
    meta = {**rec.meta, "image": {**image, "shape": list(labels.shape[:3])}}
    coords = {**{a: t for a, t in rec.coords.items() if a != "unit"}, "voxel": voxel_table(found, affine)}
    dims = tuple("voxel" if d == "unit" else d for d in rec.dims)
    return rec.with_(data=values, dims=dims, coords=coords, meta=meta, mask=None)


def check_same_space(recordings: list[Recording], *, tolerance: float = 1e-3) -> None:
    """Raise :class:`InputError` unless all recordings lie on one grid.

    Parameters
    ----------
    recordings : list of Recording
        With ``meta["image"]``.
    tolerance : float, default 1e-3
        mm.
    """
    first = recordings[0].meta.get("image")
    for place, rec in enumerate(recordings):
        image = rec.meta.get("image")
        if first is None or image is None:
            raise InputError(explain(f"recording {place}", expected="meta['image']", got=repr(rec)))
        apart = float(np.abs(np.asarray(image["affine"]) - np.asarray(first["affine"])).max())
        if list(image["shape"]) != list(first["shape"]) or apart > tolerance:
            got = f"shape {image['shape']} and affine {image['affine']}"
            expected = f"the grid of the first, shape {first['shape']} and affine {first['affine']}"
            fix = "resample before: nilearn.image.resample_to_img(image, first)"
            raise InputError(explain(f"recording {place}", expected=expected, got=got, fix=fix))


def read_fmriprep(
    path: str | Path,
    *,
    mask: Any = "auto",
    atlas: Any = None,
    strategy: Any = "simple",
    events: bool = True,
    confounds: dict[str, Any] | None = None,
    **options: Any,
) -> Session:
    """Read one run of fMRIPrep: the image inside its mask or the means of parcels, confounds and events.

    Parameters
    ----------
    path : path
        The preprocessed image; confounds are found beside it by their entities, events beside it or in the data set.
    mask, atlas
        As for :func:`read_image` and :func:`tectum.io.fmri.parcellation.read_parcels`; an atlas replaces the mask.
    strategy : str or sequence of str
        As for :func:`tectum.io.fmri.confounds.read_confounds`.
    events : bool, default True
        Whether to look for events.
    confounds : mapping, optional
        Further options of ``read_confounds``.
    **options
        Further options of ``read_image`` or ``read_parcels``.

    Returns
    -------
    Session
        ``bold``, ``confounds`` (their column ``kept`` of the axis time tells which volumes stay), and ``events``.
    """
    from .confounds import confounds_beside, read_confounds
    from .events import read_bids_events
    from .parcellation import read_parcels

    path = Path(path)
    if atlas is not None:
        bold = read_parcels(path, atlas, **options)
    else:
        bold = read_image(path, mask=mask, kind="series", **options)
    table = confounds_beside(path)
    if bold.rate is None:
        raise LoadError(explain(str(path), expected="a series", got=repr(bold)))
    found = read_confounds(table, strategy=strategy, tr=1.0 / bold.rate, **(confounds or {}))
    if found.sizes["time"] != bold.sizes["time"]:
        expected = f"{bold.sizes['time']} rows, one a volume of {path.name}"
        raise InputError(explain(str(table), expected=expected, got=f"{found.sizes['time']} rows"))
    parts: dict[str, Any] = {"bold": bold, "confounds": found.with_(t0=bold.t0)}
    tables = companions(path, "_events.tsv") if events else []
    if tables:
        made: Intervals = read_bids_events(only(tables, f"{path}: events", "pass events=False"), duration=bold.duration)
        parts["events"] = made
        parts["bold"] = bold.with_(intervals={**bold.intervals, "events": made})
    return Session(items_=parts, subject=bold.subject, session=bold.session, meta={"format": "fmriprep"})


def is_derivative(path: Path) -> bool:
    """Tell whether a folder is a derivative, or that of a subject or session in one, with preprocessed images.

    Examples
    --------
    >>> is_derivative(Path("nowhere"))
    False
    """
    if not path.is_dir():
        return False
    named = path.name.startswith(("sub-", "ses-")) or path.name == "func" or any(path.glob("sub-*"))
    return named and bool(_preprocessed(path, {}))


def _preprocessed(root: Path, filters: dict[str, Any]) -> list[Path]:
    """Return the preprocessed images of a tree, without those of single echoes."""
    found = [p for end in (".nii.gz", ".nii") for p in find(root, extension=end, **{"desc": "preproc", **filters})]
    return sorted(p for p in found if "echo" not in entities(p))


def read_derivative(
    root: str | Path,
    *,
    mask: Any = "auto",
    atlas: Any = None,
    strategy: Any = "simple",
    lazy: bool = True,
    **filters: Any,
) -> Session | list[Session]:
    """Read the runs of a derivative of fMRIPrep, found by their names; voxels stay on disk until they are used.

    Parameters
    ----------
    root : path
        Top of the derivative, or the folder of a subject or session in it.
    mask, atlas, strategy
        As for :func:`read_fmriprep`.
    lazy : bool, default True
        Leave the voxels of masks on disk; NaN are then not searched for.
    **filters : str
        Entities: ``subject="01"``, ``task="rest"``, ``run="1"``, ``space="MNI152NLin2009cAsym"``, ``desc="preproc"``.

    Returns
    -------
    Session or list of Session
        One run, or one session a run in the order of their names.

    Raises
    ------
    LoadError
        If nothing fits, or a run lacks its confounds.
    InputError
        If a run is there in several spaces or resolutions, listing them.
    """
    root = Path(root)
    found = _preprocessed(root, filters)
    if not found:
        got = f"none with {filters}" if filters else "none"
        raise LoadError(explain(str(root), expected="images *_desc-preproc_bold.nii.gz", got=got))
    runs: dict[tuple[Any, ...], list[Path]] = {}
    for path in found:
        own = {k: v for k, v in entities(path).items() if k not in ("space", "res", "den", "cohort")}
        runs.setdefault((path.parent, *sorted(own.items())), []).append(path)
    paths = [only(versions, f"{root}: versions of a run", "name space= or res=") for versions in runs.values()]
    options: dict[str, Any] = {} if atlas is not None else {"lazy": lazy}
    made = [read_fmriprep(path, mask=mask, atlas=atlas, strategy=strategy, **options) for path in paths]
    return made[0] if len(made) == 1 else made
