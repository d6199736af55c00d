"""Cleaning of fMRI: trend, confounds, band, scale and scrubbing in one step; measures of quality."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from tectum.core.errors import InputError, TectumWarning, explain
from tectum.core.recording import Recording
from tectum.core.session import Session

from . import _fmri_clean, _fmri_quality

T = TypeVar("T", Recording, Session)
Scale = Literal["zscore", "psc"] | None
Filter = Literal["butterworth", "cosine"] | None


def clean(
    data: T,
    confounds: Recording | Tensor | np.ndarray | None = None,
    *,
    detrend: bool = True,
    low_pass: float | None = None,
    high_pass: float | None = None,
    filter: Filter = "butterworth",
    standardise: Scale = "zscore",
    standardise_confounds: bool = True,
    sample_mask: Any = None,
    extrapolate: bool = False,
    runs: Any = None,
    minimum: int = 20,
) -> T:
    """Remove trend, slow or fast parts and confounds from every series, then scale; as ``nilearn.signal.clean``.

    Trend and filter act on data and confounds alike, so the regression brings nothing back. Removed volumes are
    interpolated by a cubic spline for the Butterworth filter and left out after it.

    Parameters
    ----------
    data : Recording with an axis time, or Session
        Of a session, ``bold`` is cleaned with ``confounds``.
    confounds : Recording (time, feature), Tensor or array, optional
        What is regressed; of :func:`tectum.io.fmri.confounds.read_confounds` the volumes that stay are used too.
    detrend : bool, default True
        Remove mean and line.
    low_pass, high_pass : float, optional
        Hz.
    filter : {"butterworth", "cosine", None}
        Butterworth filter of order 5 both ways; or cosines below ``high_pass`` regressed with the confounds.
    standardise : {"zscore", "psc", None}
        Unit standard deviation (n - 1), percent of the mean, or as they are.
    standardise_confounds : bool, default True
        Centre and scale confounds first.
    sample_mask : array of bool or int, optional
        Volumes that stay; default those the confounds keep.
    extrapolate : bool, default False
        Extrapolate removed volumes at both ends for the filter instead of leaving them out.
    runs : array, shape (n_time,), optional
        Run of each volume; each is cleaned on its own.
    minimum : int, default 20
        Fewest volumes that must stay where some are removed.

    Returns
    -------
    Recording or Session
        Without the removed volumes; where those leave gaps, with irregular times. Constant series become 0.

    Raises
    ------
    InputError
        If rows or names of confounds do not fit, values are missing, too few volumes stay or the band is impossible.

    References
    ----------
    Lindquist et al. (2019). Modular preprocessing pipelines can reintroduce artifacts into fMRI data.

    Examples
    --------
    >>> rec = Recording(data=torch.randn(60, 4), dims=("time", "voxel"), rate=0.5, units="BOLD")
    >>> clean(rec, high_pass=0.01, filter="cosine").units
    'z'
    """
    options = {"detrend": detrend, "low_pass": low_pass, "high_pass": high_pass, "filter": filter,
               "standardise": standardise, "standardise_confounds": standardise_confounds,
               "extrapolate": extrapolate}  # fmt: skip
    if isinstance(data, Session):
        if "bold" not in data:
            raise InputError(explain("clean", expected="a session with bold", got=f"{sorted(data)}"))
        found = data["confounds"] if confounds is None and "confounds" in data else confounds
        made = clean(data["bold"], found, sample_mask=sample_mask, runs=runs, minimum=minimum, **options)  # type: ignore
        return replace(data, items_={**data.items_, "bold": made})
    if not isinstance(data, Recording) or "time" not in data.dims:
        raise InputError(explain("clean", expected="a Recording with an axis time, or a Session", got=repr(data)))
    _check(data, options)
    n = data.sizes["time"]
    noise, names = _confounds(confounds, data, options)
    kept = _kept(sample_mask, confounds, n, minimum)
    x = _matrix(data)
    noise = noise.to(device="cpu", dtype=torch.float64)  # small: the map is composed here and moved to the data
    groups = _groups(runs, n)
    plans = [_plan(data, noise[group], group, kept, names, options) for group in groups]
    parts = [_fmri_clean.apply(_rows(x, g), p, scale=standardise) for g, p in zip(groups, plans, strict=True)]
    values = parts[0][0] if len(parts) == 1 else torch.cat([made for made, _ in parts])
    if not all(bool(torch.isfinite(mean).all()) for _, mean in parts):
        _refuse_missing(x[torch.from_numpy(kept).to(x.device)])
    stays = np.concatenate([g[np.isin(g, kept)] for g in groups])
    note = {**options, "confounds": names, "rank": [p.rank for p in plans], "removed": n - len(stays)}
    return _back(data, values, stays, standardise, note)


def _check(rec: Recording, options: dict[str, Any]) -> None:
    """Refuse impossible options."""
    if options["filter"] not in ("butterworth", "cosine", None):
        raise InputError(
            explain("clean(filter)", expected="'butterworth', 'cosine' or None", got=repr(options["filter"]))
        )
    if options["standardise"] not in ("zscore", "psc", None):
        got = repr(options["standardise"])
        raise InputError(explain("clean(standardise)", expected="'zscore', 'psc' or None", got=got))
    low, high = options["low_pass"], options["high_pass"]
    if options["filter"] == "cosine" and (high is None or low is not None):
        got = f"high_pass={high!r}, low_pass={low!r}"
        raise InputError(explain("clean", expected="high_pass alone with cosines", got=got))
    if low is None and high is None:
        return
    if options["filter"] is None:
        fix = "pass filter='butterworth'"
        raise InputError(explain("clean", expected="no cut-off without a filter", got=f"{low!r}, {high!r}", fix=fix))
    if rec.rate is None:
        fix = "filter before volumes are removed"
        raise InputError(
            explain("clean", expected="a regular repetition time to filter", got="irregular times", fix=fix)
        )
    edges = [f for f in (high, low) if f is not None]
    if not all(0 < f < rec.rate / 2 for f in edges) or edges != sorted(set(edges)):
        expected = f"0 < high_pass < low_pass < {rec.rate / 2:g} Hz"
        raise InputError(explain("clean", expected=expected, got=f"high_pass={high!r}, low_pass={low!r}"))


def _confounds(confounds: Any, rec: Recording, options: dict[str, Any]) -> tuple[Tensor, list[str]]:
    """Return confounds (time, column) and their names, those of a recording."""
    n = rec.sizes["time"]
    if confounds is None:
        return torch.zeros(n, 0, dtype=torch.float64, device="cpu"), []
    names: list[str] = []
    where = "clean(confounds)"
    if isinstance(confounds, Recording):
        if set(confounds.dims) != {"time", "feature"}:
            raise InputError(explain(where, expected="axes time and feature", got=repr(confounds)))
        found = confounds.labels("feature")
        names = [] if found is None else [str(name) for name in found]
        where = str(confounds.meta.get("file", where))
        values = confounds.tensor("time", "feature")
    else:
        values = confounds if isinstance(confounds, Tensor) else torch.from_numpy(np.array(confounds, dtype=np.float64))
        values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[0] != n:
        got = f"{values.shape[0]} rows" if values.ndim == 2 else f"shape {tuple(values.shape)}"
        file = next((step["file"] for step in rec.history if isinstance(step, dict) and "file" in step), "")
        expected = f"{n} rows, one a volume" + (f" of {file}" if file else "")
        raise InputError(explain(where, expected=expected, got=got))
    if not bool(torch.isfinite(values).all()):
        raise InputError(explain(where, expected="finite confounds", got="NaN or infinity"))
    if options["high_pass"] is not None and any(name.startswith("cosine") for name in names):
        fix = "leave high_pass out, or read confounds without high_pass"
        raise InputError(explain("clean", expected="cosines or high_pass, not both", got="both", fix=fix))
    return values, names


def _kept(sample_mask: Any, confounds: Any, n: int, minimum: int) -> np.ndarray:
    """Return the volumes that stay, increasing."""
    if sample_mask is None and isinstance(confounds, Recording):
        sample_mask = confounds.coords.get("time", {}).get("kept")
    if sample_mask is None:
        return np.arange(n)
    given = np.asarray(sample_mask.cpu() if isinstance(sample_mask, Tensor) else sample_mask)
    if given.dtype == np.bool_ and given.shape == (n,):
        kept = np.flatnonzero(given)
    elif given.dtype.kind in "iu" and given.ndim == 1 and (not given.size or 0 <= given.min() <= given.max() < n):
        kept = np.unique(given)
    else:
        expected = f"{n} booleans, or positions below {n}"
        raise InputError(explain("clean(sample_mask)", expected=expected, got=f"{given.dtype} of shape {given.shape}"))
    if len(kept) < n and len(kept) < max(1, minimum):
        expected = f"at least {max(1, minimum)} volumes that stay"
        raise InputError(explain("clean(sample_mask)", expected=expected, got=f"{len(kept)} of {n}"))
    return kept


def _matrix(rec: Recording) -> Tensor:
    """Return the data as (time, all else), floating point, masked series as zeros."""
    others = [d for d in rec.dims if d != "time"]
    values = rec.tensor("time", *others)
    values = values if values.is_floating_point() else values.float()
    if rec.mask is not None:
        mask = rec.mask.permute([rec.dims.index(d) for d in ("time", *others)])
        if mask.shape[0] != 1 and not bool((mask == mask[:1]).all()):
            fix = "pass sample_mask= for volumes"
            raise InputError(explain("clean", expected="a mask of series", got="one that changes in time", fix=fix))
        values = torch.where(mask[:1], values, torch.zeros((), dtype=values.dtype, device=values.device))
    return values.reshape(values.shape[0], -1)


def _groups(runs: Any, n: int) -> list[np.ndarray]:
    """Return the volumes of each run."""
    if runs is None:
        return [np.arange(n)]
    labels = np.asarray(runs)
    if labels.shape != (n,):
        raise InputError(explain("clean(runs)", expected=f"{n} runs, one a volume", got=f"shape {labels.shape}"))
    return [np.flatnonzero(labels == run) for run in np.unique(labels)]


def _rows(x: Tensor, group: np.ndarray) -> Tensor:
    return x if len(group) == x.shape[0] else x.index_select(0, torch.from_numpy(group).to(x.device))


def _plan(
    rec: Recording, noise: Tensor, group: np.ndarray, kept: np.ndarray, names: Sequence[str], options: dict[str, Any]
) -> _fmri_clean.Plan:
    """Compose the map of one run and tell of confounds that depend on each other."""
    own = np.flatnonzero(np.isin(group, kept))
    low, high = options["low_pass"], options["high_pass"]
    both = low is not None and high is not None
    filtered = options["filter"] == "butterworth" and (low is not None or high is not None)
    need = (33 if both else 18) if filtered else 1
    if len(own) <= need:
        raise InputError(explain("clean", expected=f"more than {need} volumes", got=f"{len(own)} in a run"))
    if noise.shape[1] >= len(own):
        got = f"{noise.shape[1]} confounds for {len(own)} volumes"
        raise InputError(explain("clean", expected="fewer confounds than volumes that stay", got=got))
    found = _fmri_clean.plan(
        len(group),
        tr=1.0 if rec.rate is None else 1.0 / rec.rate,
        kept=own,
        confounds=noise,
        detrend=options["detrend"],
        low_pass=low,
        high_pass=high,
        cosine=options["filter"] == "cosine",
        standardise_confounds=options["standardise_confounds"],
        extrapolate=options["extrapolate"],
    )
    if found.columns >= len(own):
        got = f"{found.columns} confounds, cosines among them, for {len(own)} volumes"
        raise InputError(explain("clean", expected="fewer confounds than volumes that stay", got=got))
    if found.rank < found.columns:
        said = f"clean: {found.columns} confounds of rank {found.rank}; the dependent ones add nothing"
        warnings.warn(said, TectumWarning, stacklevel=4)
    return found


def _refuse_missing(x: Tensor) -> None:
    bad = ~torch.isfinite(x)
    if bool(bad.any()):
        got = f"{int(bad.sum())} NaN or infinite values in {int(bad.any(0).sum())} series"
        fix = "drop or fill them, e.g. read with nan='drop_voxels'"
        raise InputError(explain("clean", expected="finite values in the volumes that stay", got=got, fix=fix))


def _back(rec: Recording, values: Tensor, stays: np.ndarray, scale: Scale, note: dict[str, Any]) -> Recording:
    """Return the cleaned recording on the clock of the volumes that stay."""
    others = [d for d in rec.dims if d != "time"]
    made = values.reshape(len(stays), *(rec.sizes[d] for d in others))
    order = ["time", *others]
    made = made.permute([order.index(d) for d in rec.dims])
    units = {"zscore": "z", "psc": "BOLD %"}.get(scale or "", rec.units)
    mask = rec.mask
    if mask is not None and mask.shape[rec.dims.index("time")] != 1:
        mask = mask.index_select(rec.dims.index("time"), torch.from_numpy(stays).to(mask.device))
    history = rec.noted("clean", **note, reach=math.inf)
    whole = len(stays) == rec.sizes["time"]
    coords = {a: ({c: v[stays] for c, v in t.items()} if a == "time" else t) for a, t in rec.coords.items()}
    fields: dict[str, Any] = {"data": made, "units": units, "mask": mask, "history": history, "coords": coords}
    if not whole:
        steps = bool((np.diff(stays) == 1).all()) and rec.rate is not None
        clock = {"t0": rec.t0 + stays[0] / rec.rate} if steps and rec.rate else {"times": rec.time[stays], "rate": None}
        fields |= clock
    return rec.with_(**fields)


def framewise_displacement(motion: Tensor, *, radius: float = 50.0) -> Tensor:
    """Return how far the head moved from volume to volume.

    Parameters
    ----------
    motion : Tensor, shape (time, 6)
        Translations in mm, then rotations in rad.
    radius : float, default 50
        mm of the sphere on which rotations become distances.

    Returns
    -------
    Tensor, shape (time,)
        mm; 0 for the first volume.

    References
    ----------
    Power et al. (2012), NeuroImage 59, 2142.

    Examples
    --------
    >>> framewise_displacement(torch.tensor([[0.0] * 6, [1.0, 0, 0, 0.01, 0, 0]])).tolist()
    [0.0, 1.5]
    """
    if motion.ndim != 2 or motion.shape[1] != 6:
        raise InputError(explain("framewise_displacement", expected="(time, 6)", got=f"shape {tuple(motion.shape)}"))
    step = motion.diff(dim=0).abs()
    moved = step[:, :3].sum(1) + radius * step[:, 3:].sum(1)
    return torch.cat([moved.new_zeros(1), moved])


def dvars(rec: Recording) -> Tensor:
    """Return the root mean square change of all series from volume to volume, 0 for the first: shape (time,)."""
    return _fmri_quality.change(_matrix(rec))


def tsnr(rec: Recording) -> Recording:
    """Return the temporal signal-to-noise ratio, mean over standard deviation: the recording without time.

    A series that is constant has 0.
    """
    x = _matrix(rec)
    spread, mean = torch.std_mean(x, dim=0, correction=0)
    made = torch.where(spread > 0, mean / spread, torch.zeros_like(mean))
    others = tuple(d for d in rec.dims if d != "time")
    coords = {axis: table for axis, table in rec.coords.items() if axis != "time"}
    mask = None if rec.mask is None else rec.mask.select(rec.dims.index("time"), 0)
    return rec.with_(
        data=made.reshape([rec.sizes[d] for d in others]), dims=others, rate=None, times=None, coords=coords, mask=mask,
        units="1", intervals={}, history=rec.noted("tsnr"),
    )  # fmt: skip
