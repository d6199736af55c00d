"""Recordings of *C. elegans*: gaps, smoothing, one clock and one scale, in seconds; and the published chain.

Every step is optional and noted in the history. ``release_mode`` repeats what the homogenised data (Simeon et al.,
2024) were made with, its shortcomings included.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal

import torch
from torch import Tensor

from tectum.core.device import highest_precision
from tectum.core.errors import InputError, TectumWarning, explain
from tectum.core.recording import Recording

from ._worm import (
    RELEASE_STEP,
    Released,
    Smoothing,
    causal_scale,
    fill,
    impute,
    interpolate,
    interval_means,
    longest_gap,
    longest_run,
    mean_sd,
    median_mad,
    release,
    smoothed,
    straight_windows,
)

__all__ = ["Released", "drop_untracked", "preprocess_worm", "release"]

Scale = Literal["none", "zscore", "causal", "robust", "f_f20"]
Gaps = Literal["nan", "linear", "impute"]


def preprocess_worm(
    rec: Recording,
    *,
    smooth_s: float | None = None,
    smooth: Smoothing = "moving",
    resample_dt: float | None = None,
    normalize: Scale = "none",
    gaps: Gaps = "nan",
    fit_slice: tuple[float, float] | None = None,
    release_mode: bool = False,
) -> Recording:
    """Fill gaps, smooth causally, resample and scale, in this order, whatever is asked for.

    Parameters
    ----------
    rec : Recording, dims (time, unit)
        Traces; masked samples count as missing.
    smooth_s : float, optional
        Width in s: of the window of "moving" that ends at each sample, standard deviation of the one-sided "gaussian",
        time constant of "exponential". No sample sees its future.
    smooth : {"moving", "gaussian", "exponential"}
        Kernel; the last two need a regular clock.
    resample_dt : float, optional
        New step in s. Longer than the median step: the exact mean over each interval, stamped with its centre. Shorter:
        linear interpolation.
    normalize : {"none", "zscore", "causal", "robust", "f_f20"}
        Mean and standard deviation; the same of all samples up to each; median and scaled median absolute deviation;
        division by the 20th percentile.
    gaps : {"nan", "linear", "impute"}
        Leave missing samples, interpolate between recorded ones of the same unit, or complete the matrix of all units
        by shrunk singular values (which mixes units and time, so that no unit can be held out afterwards).
    fit_slice : (start, stop), optional
        Span in s from which the scale is learnt, for example the training part. Default all: then the splits of
        :mod:`tectum.evaluate` refuse the result.
    release_mode : bool, default False
        Repeat the published chain: smoothing over frames of the recording (window 15, that is 8 frames; sigma 5;
        alpha 0.5), a step of 0.333 s stamped with the left edge, scale from the whole recording ("zscore", or "causal"
        if asked for).

    Returns
    -------
    Recording
        Same units, dims (time, unit).

    Raises
    ------
    InputError
        If an option is unknown or does not fit the recording.

    Examples
    --------
    >>> rec = Recording(data=torch.arange(40.0)[:, None], dims=("time", "unit"), rate=4.0)
    >>> made = preprocess_worm(rec, resample_dt=0.5)
    >>> made.rate, made.t0, made.values[0].item()
    (2.0, 0.25, 1.0)
    """
    _check(rec, smooth, normalize, gaps)
    x = rec.tensor("time", "unit")
    x = x.to(highest_precision(x.device) if x.is_floating_point() else torch.float32)
    x = torch.where(rec.valid().permute([rec.dims.index(d) for d in ("time", "unit")]), x, torch.nan)
    times = rec.time
    if release_mode:
        given = {"smooth_s": smooth_s, "resample_dt": resample_dt, "fit_slice": fit_slice}
        return _release(rec, x, times, smooth, normalize, gaps, [k for k, v in given.items() if v is not None])
    reach = 0.0
    if gaps != "nan":
        reach += math.inf if gaps == "impute" else longest_gap(x, times)
        x = impute(x) if gaps == "impute" else fill(x, times)
    if smooth_s is not None:
        positive("smooth_s", smooth_s)
        x = smoothed(x, times, smooth_s, kind=smooth)
        reach += smooth_s * (1.0 if smooth == "moving" else 8.0)
    clock: dict[str, Any] = {"rate": rec.rate, "t0": rec.t0, "times": rec.times}
    if resample_dt is not None:
        x, clock, times = _resampled(x, times, resample_dt)
        reach += resample_dt
    if normalize != "none":
        x = _scaled(x, times, normalize, fit_slice)
        reach = math.inf if fit_slice is None else reach
    step: dict[str, Any] = {"smooth_s": smooth_s, "smooth": smooth, "resample_dt": resample_dt}
    step |= {"normalize": normalize, "gaps": gaps}
    step |= {"fit_slice": list(fit_slice) if fit_slice else None, "reach": reach}
    return _with(rec, x, clock, _unit(normalize, rec.units), step)


def _check(rec: Recording, smooth: Any, normalize: Any, gaps: Any) -> None:
    if not isinstance(rec, Recording) or sorted(rec.dims) != ["time", "unit"] or rec.sizes["time"] < 2:
        expected = "a recording (time, unit) of two samples or more"
        raise InputError(
            explain("preprocess_worm", expected=expected, got=repr(rec), fix="take a part: session['activity']")
        )
    for name, value, known in (
        ("smooth", smooth, ("moving", "gaussian", "exponential")),
        ("normalize", normalize, ("none", "zscore", "causal", "robust", "f_f20")),
        ("gaps", gaps, ("nan", "linear", "impute")),
    ):
        if value not in known:
            raise InputError(explain(f"preprocess_worm({name})", expected=f"one of {known}", got=repr(value)))


def positive(name: str, value: Any) -> float:
    """Return a finite number above zero."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not (math.isfinite(value) and value > 0):
        raise InputError(explain(f"preprocess_worm({name})", expected="a number above 0 s", got=repr(value)))
    return float(value)


def _unit(normalize: str, units: str) -> str:
    return {"none": units, "f_f20": "1"}.get(normalize, "z")


def _with(rec: Recording, x: Tensor, clock: dict[str, Any], units: str, step: dict[str, Any]) -> Recording:
    """Return the recording with new data; a mask that does not change in time stays, others are NaN in the data."""
    kind = rec.values.dtype if rec.values.is_floating_point() else torch.float32
    mask = None
    if rec.mask is not None:
        mask = rec.mask.permute([rec.dims.index(d) for d in ("time", "unit")])
        mask = mask if mask.shape[0] == 1 else None
    coords = {axis: table for axis, table in rec.coords.items() if axis != "time"}
    history = rec.noted("preprocess_worm", **step)
    return rec.with_(
        data=x.to(kind), dims=("time", "unit"), mask=mask, units=units, coords=coords, history=history,
        **{"rate": None, "t0": 0.0, "times": None, **clock},
    )  # fmt: skip


def _resampled(x: Tensor, times: Tensor, dt: float) -> tuple[Tensor, dict[str, Any], Tensor]:
    """Return data, clock and times at a step of ``dt`` s."""
    positive("resample_dt", dt)
    native, span = float(times.diff().median()), float(times[-1] - times[0])
    if dt < 0.2 * native:
        text = f"resample_dt={dt:g} s is far below the {native:g} s of the recording: interpolation adds no data"
        warnings.warn(text, TectumWarning, stacklevel=3)
    if dt <= native * (1 + 1e-9):
        n, start = int(span / dt + 1e-6) + 1, float(times[0])
        at = start + dt * torch.arange(n, dtype=torch.float64, device="cpu")
        return interpolate(x, times, at), {"rate": 1 / dt, "t0": start}, at
    n = int(span / dt + 1e-6)
    if n < 1:
        expected = f"at most {span:g} s, the length of the recording"
        raise InputError(explain("preprocess_worm(resample_dt)", expected=expected, got=f"{dt:g} s"))
    edges = float(times[0]) + dt * torch.arange(n + 1, dtype=torch.float64, device="cpu")
    at = edges[:-1] + dt / 2
    return interval_means(x, times, edges), {"rate": 1 / dt, "t0": float(at[0])}, at


def _scaled(x: Tensor, times: Tensor, normalize: Scale, fit_slice: tuple[float, float] | None) -> Tensor:
    """Bring units to one scale, with what a span of time or the past teaches."""
    if normalize == "causal":
        if fit_slice is not None:
            got = "fit_slice with normalize='causal', which learns from the past of every sample"
            raise InputError(explain("preprocess_worm", expected="one or the other", got=got))
        return causal_scale(x)
    fit = x
    if fit_slice is not None:
        start, stop = fit_slice
        rows = ((times >= start) & (times < stop)).to(x.device)
        if not bool(rows.any()):
            got = f"[{start}, {stop}) of {float(times[0]):g} to {float(times[-1]):g} s"
            raise InputError(explain("preprocess_worm(fit_slice)", expected="a span with samples", got=got))
        fit = x[rows]
    if normalize == "f_f20":
        base = fit.nanquantile(0.2, dim=0)
        if bool((base <= 0).any()):
            got = f"{int((base <= 0).sum())} units at or below 0"
            raise InputError(explain("preprocess_worm(f_f20)", expected="20th percentiles above 0", got=got))
        return x / base
    centre, spread = (mean_sd if normalize == "zscore" else median_mad)(fit)
    flat = torch.isfinite(spread) & (spread <= 32 * torch.finfo(spread.dtype).eps * centre.abs())
    if bool(flat.any()):
        text = f"{int(flat.sum())} units are constant and become 0"
        warnings.warn(f"preprocess_worm: {text}", TectumWarning, stacklevel=4)
    made = (x - centre) / torch.where(flat, torch.ones_like(spread), spread)
    return torch.where(flat & torch.isfinite(x), torch.zeros_like(x), made)


def _release(
    rec: Recording, x: Tensor, times: Tensor, smooth: Smoothing, normalize: Scale, gaps: Gaps, given: list[str]
) -> Recording:
    """Run the published chain on a recording."""
    if given or normalize not in ("none", "zscore", "causal"):
        got = ", ".join([*given, f"normalize={normalize!r}"])
        expected = "no smooth_s, resample_dt or fit_slice, and a scale of the release"
        raise InputError(explain("preprocess_worm(release_mode)", expected=expected, got=got))
    first = rec.coords.get("unit", {}).get("f0")
    if first is not None:  # Lin2023 has no first frame
        base = torch.as_tensor(first).to(x)
        x = torch.cat([torch.where(torch.isfinite(x[:1]), x[:1], base), x[1:]])
    if gaps != "nan":
        x = impute(x) if gaps == "impute" else fill(x, times)
    there = torch.isfinite(x).any(0)
    if not bool(torch.isfinite(x[:, there]).all()):
        fix = "pass gaps='linear' or 'impute' (the release imputed otherwise, so numbers differ)"
        raise InputError(explain("preprocess_worm(release_mode)", expected="traces without gaps", got="NaN", fix=fix))
    found = release(x[:, there], times, smooth=smooth, causal=normalize == "causal")
    made = torch.full((len(found.calcium), x.shape[1]), torch.nan, dtype=x.dtype, device=x.device)
    made[:, there] = found.calcium
    step = {"release_mode": True, "smooth": smooth, "normalize": normalize, "gaps": gaps, "reach": math.inf}
    return _with(rec, made, {"rate": 1 / RELEASE_STEP, "t0": 0.0}, "z", step)


def drop_untracked(rec: Recording, *, max_gap: float = 0.05, straight: float = 1e-3) -> Recording:
    """Leave out units that were lost for long, or whose gaps somebody has filled with straight lines.

    The homogenised data did this to Leifer2023 (there after imputation, here before any).

    Parameters
    ----------
    rec : Recording, dims (time, unit)
        Raw traces.
    max_gap : float, default 0.05
        Longest run of missing samples, as a share of the recording.
    straight : float, default 0.001
        Largest share of half-overlapping windows of 50 frames in which a trace is a straight line.

    Returns
    -------
    Recording
        The history tells how many units each rule left out.

    Raises
    ------
    InputError
        If no unit is left.

    Examples
    --------
    >>> x = torch.randn(200, 2)
    >>> x[50:80, 1] = torch.nan
    >>> drop_untracked(Recording(data=x, dims=("time", "unit"), rate=2.0)).sizes
    {'time': 200, 'unit': 1}
    """
    _check(rec, "moving", "none", "nan")
    x = rec.tensor("time", "unit")
    valid = rec.valid().permute([rec.dims.index(d) for d in ("time", "unit")])
    x = torch.where(valid, x, torch.nan)
    lost = longest_run(~torch.isfinite(x)) > int(max_gap * len(x))
    lines = (straight_windows(x) > straight) & ~lost
    kept = ~(lost | lines)
    if not bool(kept.any()):
        got = f"{int(lost.sum())} lost for long, {int(lines.sum())} straight"
        raise InputError(explain("drop_untracked", expected="a unit that was tracked", got=got))
    step = {"max_gap": max_gap, "straight": straight, "lost": int(lost.sum()), "lines": int(lines.sum())}
    return rec.isel(unit=kept.cpu().numpy()).with_(history=rec.noted("drop_untracked", **step))
