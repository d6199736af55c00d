"""suite2p folders: fluorescence, neuropil and deconvolved traces of each plane, with the regions' table."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.errors import InputError, LoadError, TectumWarning, explain
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording
from tectum.core.session import Session

from .events import rate_of, span
from .files import NpySource, load_npy, member, open_npy, optional, reading, required
from .pickles import load_objects

TRACES = {"F": "F", "Fneu": "F", "spks": "deconvolved", "F_chan2": "F", "Fneu_chan2": "F"}
_STAT = ("radius", "npix", "compact", "aspect_ratio", "skew", "std", "iplane")
_IMAGES = {"meanImg": "mean_image", "max_proj": "max_image"}
#: Where suite2p >= 1.0 keeps what was a key of ops before.
_SETTINGS: dict[str, tuple[str, ...]] = {
    "fs": ("fs",),
    "tau": ("tau",),
    "neucoeff": ("extraction", "neuropil_coefficient"),
    "baseline": ("dcnv_preprocess", "baseline"),
    "win_baseline": ("dcnv_preprocess", "win_baseline"),
    "sig_baseline": ("dcnv_preprocess", "sig_baseline"),
    "prctile_baseline": ("dcnv_preprocess", "prctile_baseline"),
}


def read_suite2p(
    path: str | Path,
    *,
    cells_only: bool = True,
    fs: float | None = None,
    planes: Sequence[int] | None = None,
    sequential: bool = False,
    combine: bool = False,
    subject: str = "",
    session: str = "",
) -> Session:
    """Read the output of suite2p, of versions up to 0.14 and from 1.0 on.

    Parameters
    ----------
    path : path
        The folder ``suite2p``, its parent, or one folder ``plane*``.
    cells_only : bool, default True
        Keep the regions that suite2p or a person classified as cells (``iscell[:, 0] == 1``); the history of every
        part tells how many there were before.
    fs : float, optional
        Frames per second of one plane; default what the folder says.
    planes : sequence of int, optional
        Planes to read; default all.
    sequential : bool, default False
        Shift the clock of plane k by ``k / (fs * n_planes)``: planes were scanned one after the other.
    combine : bool, default False
        Join the planes along ``unit``, traces interpolated linearly to the frame times of the first plane.
    subject, session : str
        Who and when: suite2p does not know.

    Returns
    -------
    Session
        Recordings (time, unit), read from disk when used: ``F`` and ``Fneu`` (fluorescence, not yet neuropil
        corrected), ``spks`` (arbitrary units, not counts), and ``mean_image`` (y, x). With several planes the names
        begin with ``plane0_``. ``meta["suite2p"]`` holds rate, tau, neuropil coefficient and baseline.

    Raises
    ------
    LoadError
        If a file is missing or damaged, or shapes contradict each other (then also an :class:`InputError`).
    UnsafePickleError
        If ``stat.npy`` or a settings file asks for anything but arrays and plain containers.
    """
    root, folders = _planes(Path(path), planes)
    if combine and sequential is False and len(folders) > 1:
        warnings.warn(f"{root}: planes combined as if scanned at once", TectumWarning, stacklevel=2)
    parts: dict[str, Recording] = {}
    shared: dict[str, Any] = {"subject": subject, "session": session}
    for place, folder in enumerate(folders):
        with reading(folder, "a suite2p plane"):
            found = _plane(folder, place if sequential else 0, len(folders), cells_only, fs, shared)
        prefix = f"{folder.name}_" if len(folders) > 1 else ""
        parts |= {prefix + name: part for name, part in found.items()}
    if combine and len(folders) > 1:
        parts = _combined(parts, [folder.name for folder in folders])
    meta = next(iter(parts.values())).meta
    return Session(items_=parts, meta=meta, **shared)


def is_suite2p(path: Path) -> bool:
    """Tell whether a folder is suite2p's: a plane, the folder of planes, or its parent."""
    return path.is_dir() and bool(_found(path)[1])


def _found(path: Path) -> tuple[Path, list[Path]]:
    if (path / "F.npy").is_file() and ((path / "stat.npy").exists() or (path / "iscell.npy").exists()):
        return path, [path]
    for root in (path, path / "suite2p"):
        folders = [p for p in root.glob("plane*") if re.fullmatch(r"plane\d+", p.name) and p.is_dir()]
        if folders:
            return root, sorted(folders, key=lambda p: int(p.name[5:]))
    return path, []


def _planes(path: Path, planes: Sequence[int] | None) -> tuple[Path, list[Path]]:
    root, folders = _found(path)
    if not folders and (path / "stat.npy").is_file():
        return root, [path]  # a plane that lost its F.npy: the message will name it
    if not folders:
        names = ", ".join(sorted(p.name for p in path.iterdir())[:8]) if path.is_dir() else "no folder"
        raise LoadError(
            explain(str(path), expected="a suite2p folder with plane0, ...", got=names or "an empty folder")
        )
    numbers = {int(p.name[5:]): p for p in folders if re.fullmatch(r"plane\d+", p.name)}
    if planes is not None:
        missing = [k for k in planes if k not in numbers]
        if missing or not planes:
            raise InputError(explain("planes", expected=f"some of {sorted(numbers)}", got=repr(list(planes))))
        folders = [numbers[k] for k in planes]
    return root, [member(root, p.name) if p != root else p for p in folders]


def _plane(
    folder: Path, place: int, n_planes: int, cells_only: bool, fs: float | None, shared: Mapping[str, Any]
) -> dict[str, Recording]:
    """Read one plane."""
    options = _options(folder)
    rate, clock = rate_of(options.get("fs"), fs, f"{folder}: fs")
    sources = _traces(folder, options)
    n_rois, n_frames = sources["F"].shape
    table, rows, filtered = _regions(folder, n_rois, cells_only)
    meta = {"suite2p": {k: options[k] for k in ("suite2p_version", *_SETTINGS, "Ly", "Lx") if k in options}}
    meta["suite2p"]["fs"] = rate
    t0 = place / (rate * n_planes)
    common = {"modality": "calcium", "meta": meta, **shared}
    step = {
        "step": "read",
        "format": "suite2p",
        "folder": folder.name,
        **clock,
        **filtered,
        "transposed": True,
        "t0": t0,
    }
    made = {
        name: Recording(
            data=LazyArray(replace(source, rows=rows), order=(1, 0)),  # (time, unit) of (unit, time)
            dims=("time", "unit"),
            rate=rate,
            t0=t0,
            units=TRACES[name],
            coords={"unit": table},
            intervals={"support": span(t0, t0 + n_frames / rate), **_bad(options, n_frames, rate, t0)},
            history=({**step, "file": f"{name}.npy"},),
            **common,
        )
        for name, source in sources.items()
    }
    return made | _images(options, common)


def _traces(folder: Path, options: Mapping[str, Any]) -> dict[str, NpySource]:
    """Open the arrays (unit, time) and check that they agree."""
    required(folder, "F.npy", "the fluorescence of each region")
    found = {name: path for name in TRACES if (path := optional(folder, f"{name}.npy"))}
    sources = {name: open_npy(path, kinds="f", ndim=2) for name, path in found.items()}
    shape = sources["F"].shape
    for name, source in sources.items():
        if source.shape != shape:
            expected = f"shape {shape} as F.npy"
            raise InputError(explain(f"{name}.npy", expected=expected, got=f"{source.shape}"))
    n_frames = options.get("nframes")
    if isinstance(n_frames, (int, np.integer)) and int(n_frames) != shape[1]:
        raise InputError(explain("F.npy", expected=f"{int(n_frames)} frames as ops say", got=f"{shape[1]}"))
    return sources


def _options(folder: Path) -> dict[str, Any]:
    """Return what suite2p was told, under the names of ops: settings come first, then ops."""
    ops: dict[str, Any] = {}
    for name in ("ops.npy", "db.npy", "settings.npy"):
        path = optional(folder, name) or optional(folder.parent, name)
        if path is None:
            continue
        loaded = load_objects(path, "rate and settings")
        if not isinstance(loaded, dict):
            raise LoadError(explain(str(path), expected="a dictionary", got=type(loaded).__name__))
        ops |= _flat(loaded) if name == "settings.npy" else loaded
    return {str(k): v.item() if isinstance(v, np.generic) else v for k, v in ops.items()}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested settings of suite2p >= 1.0 under the names of ops."""
    found = {}
    for name, keys in _SETTINGS.items():
        value: Any = settings
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            found[name] = value
    return found


def _regions(folder: Path, n_rois: int, cells_only: bool) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, Any]]:
    """Return the table of the regions kept, their positions in the files, and how many there were."""
    table: dict[str, Any] = {"id": np.arange(n_rois)}
    iscell = optional(folder, "iscell.npy")
    if iscell is not None:
        cells = load_npy(iscell, ndim=2)
        _same(iscell, len(cells), n_rois)
        if cells.shape[1] < 2:
            raise LoadError(explain(str(iscell), expected="label and probability", got=f"shape {cells.shape}"))
        table |= {"iscell": cells[:, 0] == 1, "probability": cells[:, 1].astype(np.float64)}
    elif cells_only:
        required(folder, "iscell.npy", "which regions are cells; pass cells_only=False to do without")
    stat = optional(folder, "stat.npy")
    if stat is not None:
        table |= _shape_table(stat, n_rois)
    redcell = optional(folder, "redcell.npy")
    if redcell is not None:
        red = load_npy(redcell, ndim=2)
        _same(redcell, len(red), n_rois)
        table["redcell"] = red[:, 0] == 1
    rows = np.flatnonzero(table["iscell"]) if cells_only else np.arange(n_rois)
    if len(rows) == 0:
        fix = "pass cells_only=False"
        raise InputError(explain(str(folder), expected="at least one cell", got=f"none of {n_rois} regions", fix=fix))
    counts = {"filter": "iscell == 1" if cells_only else "none", "regions": n_rois, "kept": len(rows)}
    return {name: column[rows] for name, column in table.items()}, rows, counts


def _same(path: Path, found: int, n_rois: int) -> None:
    if found != n_rois:
        raise InputError(explain(path.name, expected=f"{n_rois} regions as F.npy", got=str(found)))


def _shape_table(path: Path, n_rois: int) -> dict[str, np.ndarray]:
    """Return centre and shape of each region."""
    stat = np.atleast_1d(load_objects(path, "the regions' footprints"))
    _same(path, len(stat), n_rois)
    if not all(isinstance(roi, dict) and np.shape(roi.get("med", ())) == (2,) for roi in stat):
        raise LoadError(explain(str(path), expected="a dictionary with med (y, x) for each region", got="others"))
    centres = np.array([roi["med"] for roi in stat], dtype=np.float64).reshape(-1, 2)
    table = {"y": centres[:, 0], "x": centres[:, 1]}
    for name in _STAT:
        if all(np.ndim(roi.get(name, [0])) == 0 for roi in stat):
            table[name] = np.array([float(roi[name]) for roi in stat])
    return table


def _bad(options: Mapping[str, Any], n_frames: int, rate: float, t0: float) -> dict[str, Any]:
    """Return the frames that suite2p marked as bad as intervals."""
    from tectum.core.intervals import Intervals

    bad = options.get("badframes")
    if not isinstance(bad, np.ndarray) or bad.shape != (n_frames,) or not bad.any():
        return {}
    frames = torch.from_numpy(np.flatnonzero(bad)).double()
    return {"bad": Intervals(start=t0 + frames / rate, stop=t0 + (frames + 1) / rate).merged()}


def _images(options: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Recording]:
    """Return the mean and maximal images."""
    found = {}
    for key, name in _IMAGES.items():
        image = options.get(key)
        if isinstance(image, np.ndarray) and image.ndim == 2 and image.dtype.kind in "biuf":
            data = torch.from_numpy(image.astype(np.float32))
            step = {"step": "read", "format": "suite2p", "file": "ops.npy", "key": key}
            found[name] = Recording(data=data, dims=("y", "x"), units="F", history=(step,), **common)
    return found


def _combined(parts: Mapping[str, Recording], planes: Sequence[str]) -> dict[str, Recording]:
    """Join the traces of all planes on the clock of the first; images stay apart."""
    joined = {}
    for name in TRACES:
        found = [parts[f"{plane}_{name}"] for plane in planes if f"{plane}_{name}" in parts]
        if len(found) == len(planes):
            joined[name] = _join(found, planes)
    return joined | {name: part for name, part in parts.items() if "time" not in part.dims}


def _join(found: Sequence[Recording], planes: Sequence[str]) -> Recording:
    """Interpolate to the first clock, where every plane has both neighbours, and join along unit."""
    first = found[0]
    latest, earliest = max(p.t0 for p in found), min(p.t0 + (p.shape[0] - 1) / float(p.rate or 1) for p in found)
    time = first.time.numpy()
    keep = (time >= latest - 1e-9) & (time <= earliest + 1e-9)
    if len({p.rate for p in found}) != 1 or not keep.any():
        raise InputError(explain("combine", expected="planes of one rate that overlap", got=repr(list(found))))
    data = torch.cat([_at(p, time[keep]) for p in found], dim=1)
    columns = set.intersection(*(set(p.coords["unit"]) for p in found))
    table = {c: np.concatenate([p.coords["unit"][c] for p in found]) for c in sorted(columns)}
    table["plane"] = np.repeat([int(plane[5:]) for plane in planes], [p.shape[1] for p in found])
    history = (*first.history, {"step": "combine", "planes": list(planes), "kind": "linear", "frames": int(keep.sum())})
    return first.with_(data=data, t0=float(time[keep][0]), coords={"unit": table}, history=history)


def _at(rec: Recording, wanted: np.ndarray) -> torch.Tensor:
    """Interpolate linearly along time."""
    place = (wanted - rec.t0) * float(rec.rate or 1)
    low = np.clip(np.floor(place + 1e-6).astype(np.int64), 0, max(rec.shape[0] - 2, 0))
    part = torch.from_numpy(np.clip(place - low, 0.0, 1.0)).float()[:, None]
    values = rec.values
    high = torch.from_numpy(np.minimum(low + 1, rec.shape[0] - 1))
    return values[torch.from_numpy(low)] * (1 - part) + values[high] * part
