"""From fluorescence to activity: neuropil, baseline, dF/F, noise, deconvolution, events. Each step notes itself.

Every step smooths or looks ahead, so the histories carry how far (``reach``, in s): what comes out is not causal, and
splits for evaluation need a gap that wide.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from tectum.core.device import highest_precision
from tectum.core.errors import InputError, explain
from tectum.core.recording import Recording
from tectum.core.spikes import Spikes

from . import _oasis, _traces

_ROWS = 512  # regions compared with all others at once
Baseline = Literal["maximin", "percentile", "constant"]


def neuropil(
    rec: Recording, surround: Recording, *, coefficient: float | Literal["robust"] = 0.7, keep_level: bool = False
) -> Recording:
    """Subtract the fluorescence of the surround.

    Parameters
    ----------
    rec, surround : Recording, dims time and unit
        Fluorescence of the regions and of the neuropil around each (suite2p's ``F`` and ``Fneu``).
    coefficient : float or "robust", default 0.7
        How much of it is in a region; "robust" estimates it for each by regression of the first differences of
        smoothed traces, Huber's weights and then Tukey's, and adds the column ``neuropil`` to the table of units.
    keep_level : bool, default False
        Add the median of what is subtracted, so that the fluorescence keeps its scale.

    Returns
    -------
    Recording, dims (time, unit)

    Raises
    ------
    InputError
        If shapes, rates or units differ, or the estimate fails.
    """
    x, around = _unit_time(rec, "neuropil"), _unit_time(surround, "neuropil")
    if x.shape != around.shape or rec.rate != surround.rate or rec.units != surround.units:
        raise InputError(explain("neuropil", expected=f"a surround like {rec!r}", got=repr(surround)))
    share, coords = _share(coefficient, x, around), dict(rec.coords)
    if coefficient == "robust":
        coords["unit"] = {**rec.coords.get("unit", {}), "neuropil": share[:, 0].detach().cpu().numpy()}
    made = x - share * around
    if keep_level:
        made = made + share * around.median(dim=-1, keepdim=True).values
    note = {"coefficient": coefficient, "keep_level": keep_level}
    if coefficient == "robust":
        note |= {"reach": math.inf}
    return _back(rec, made, "neuropil", coords=coords, **note)


def _share(coefficient: float | str, x: Tensor, around: Tensor) -> Tensor:
    """Return the coefficient of each region, shape (unit, 1)."""
    if coefficient == "robust":
        found = _traces.neuropil_coefficient(x, around)
        if not bool(torch.isfinite(found).all()):
            got = f"a constant one in region {int((~torch.isfinite(found)).nonzero()[0, 0])}"
            raise InputError(
                explain("neuropil", expected="a neuropil that varies", got=got, fix="give the coefficient")
            )
        return found[:, None]
    if not _is_real(coefficient) or not 0 <= float(coefficient) <= 2:
        expected = "a number in [0, 2] or 'robust'"
        raise InputError(explain("neuropil(coefficient)", expected=expected, got=repr(coefficient)))
    return torch.full_like(x[:, :1], float(coefficient))


def baseline(
    rec: Recording,
    *,
    method: Baseline = "maximin",
    window: float = 60.0,
    sigma: float = 10.0,
    percentile: float = 8.0,
    step: float = 0.0,
) -> Recording:
    """Estimate the fluorescence at rest.

    Parameters
    ----------
    rec : Recording, dims time and unit, regular
        Fluorescence, usually without neuropil.
    method : {"maximin", "percentile", "constant"}
        "maximin": Gaussian of ``sigma`` frames, running minimum and then maximum over ``window`` (suite2p);
        "percentile": running percentile; "constant": one percentile of each region.
    window : float, default 60
        s; 30 to 180 are usual.
    sigma : float, default 10
        Frames.
    percentile : float, default 8
        In [0, 100].
    step : float, default 0
        s between windows of the running percentile, linear in between; 0 takes one at every frame.

    Returns
    -------
    Recording, dims (time, unit)

    Raises
    ------
    InputError
        If the recording is irregular or a parameter is out of range.
    """
    x, rate = _unit_time(rec, "baseline"), _rate(rec, "baseline")
    frames = int(window * rate) if _is_real(window) else 0
    if frames < 1:
        raise InputError(
            explain("baseline(window)", expected=f"at least one frame of {1 / rate:g} s", got=repr(window))
        )
    if not (_is_real(sigma) and sigma >= 0 and _is_real(step) and step >= 0 and _is_real(percentile)):
        got = f"sigma={sigma!r}, step={step!r}, percentile={percentile!r}"
        raise InputError(explain("baseline", expected="numbers, not negative", got=got))
    if not 0 <= percentile <= 100:
        raise InputError(explain("baseline(percentile)", expected="a number in [0, 100]", got=repr(percentile)))
    if method == "maximin":
        made, reach = _traces.maximin(x, window=frames, sigma=sigma), window + 4 * sigma / rate
    elif method == "percentile":
        hop = max(1, int(step * rate))
        made, reach = _traces.running_percentile(x, window=frames, percentile=percentile, step=hop), window / 2 + step
    elif method == "constant":
        made, reach = _traces.constant(x, percentile=percentile).expand_as(x), math.inf
    else:
        expected = "'maximin', 'percentile' or 'constant'"
        raise InputError(explain("baseline(method)", expected=expected, got=repr(method)))
    note = {"method": method, "window": window, "sigma": sigma, "percentile": percentile, "reach": reach}
    return _back(rec, made, "baseline", **note)


def dff(rec: Recording, rest: Recording | None = None, *, floor: float | None = None, **options: Any) -> Recording:
    """Return dF/F: the change of fluorescence relative to rest.

    Parameters
    ----------
    rec : Recording, dims time and unit, units "F" or "a.u."
        Fluorescence.
    rest : Recording, optional
        Its baseline; default :func:`baseline` with ``options``.
    floor : float, optional
        Smallest divisor; default 1 % of the median fluorescence of a region.
    **options
        For :func:`baseline`.

    Returns
    -------
    Recording, dims (time, unit), units "dF/F"
        The table of units gains ``flagged``: regions whose baseline is not above zero have dF instead of dF/F. If all
        are, the unit stays that of ``rec``.

    Raises
    ------
    InputError
        If the baseline has another shape or the data are relative already.
    """
    if rec.units not in ("F", "a.u."):
        raise InputError(explain("dff", expected="fluorescence in 'F' or 'a.u.'", got=repr(rec.units)))
    if rest is None:
        rest = baseline(rec, **options)
    x, base = _unit_time(rec, "dff"), _unit_time(rest, "dff")
    if x.shape != base.shape:
        raise InputError(explain("dff(rest)", expected=f"a baseline of shape {tuple(rec.shape)}", got=f"{rest!r}"))
    smallest = 0.01 * x.median(dim=-1, keepdim=True).values if floor is None else torch.full_like(x[:, :1], floor)
    found = _traces.relative_change(x, base, floor=smallest)
    flagged = found.flagged.cpu().numpy()
    coords = {**rec.coords, "unit": {**rec.coords.get("unit", {}), "flagged": flagged}}
    units = rec.units if flagged.all() and len(flagged) else "dF/F"
    note = {"floor": "1 % of the median" if floor is None else floor, "flagged": int(flagged.sum())}
    history = rest.history[len(rec.history) :] if rest.history[: len(rec.history)] == rec.history else rest.history
    made = _back(rec.with_(history=(*rec.history, *history)), found.values, "dff", coords=coords, **note)
    return made.with_(units=units)


def noise(rec: Recording) -> tuple[Tensor, Tensor]:
    """Return the standard deviation of white noise, and the noise level in % per square root of Hz.

    Parameters
    ----------
    rec : Recording, dims time and unit, regular
        Fluorescence; the level means something for dF/F only.

    Returns
    -------
    Tensor, shape (unit,), Tensor, shape (unit,)
    """
    x = _unit_time(rec, "noise")
    return _traces.noise_sd(x), _traces.noise_level(x, _rate(rec, "noise"))


def deconvolve(rec: Recording, *, tau: float) -> Recording:
    """Infer activity: non-negative deconvolution with an exponential kernel, without a penalty (suite2p's).

    Parameters
    ----------
    rec : Recording, dims time and unit, regular
        Fluorescence minus its baseline, or dF/F.
    tau : float
        Decay of the indicator in s: about 0.7 for GCaMP6f, 1.0 for 6m, 1.25 to 1.5 for 6s. There is no default.

    Returns
    -------
    Recording, dims (time, unit), units "deconvolved"
        Activity in the scale of ``rec``: not counts, and positive for noise too.

    Raises
    ------
    InputError
        If values are missing, the recording is irregular, or tau is not a number above 0.
    """
    rate, x = _rate(rec, "deconvolve"), _unit_time(rec, "deconvolve")
    if not (_is_real(tau) and tau > 0):
        raise InputError(explain("deconvolve(tau)", expected="the decay of the indicator in s, above 0", got=repr(tau)))
    made = _oasis.deconvolve(x, gamma=math.exp(-1.0 / (tau * rate)))
    return _back(rec, made, "deconvolve", tau=tau, reach=math.inf).with_(units="deconvolved")


def subtract(rec: Recording, rest: Recording) -> Recording:
    """Return the fluorescence minus its baseline, as suite2p deconvolves it."""
    x, base = _unit_time(rec, "subtract"), _unit_time(rest, "subtract")
    if x.shape != base.shape:
        raise InputError(explain("subtract(rest)", expected=f"shape {tuple(rec.shape)}", got=f"{rest!r}"))
    last = rest.history[-1] if rest.history else {}
    return _back(rec, x - base, "subtract", baseline=last, reach=last.get("reach", math.inf))


def events(rec: Recording, *, k: float = 3.0) -> Spikes:
    """Turn deconvolved activity into events where it exceeds ``k`` standard deviations.

    Parameters
    ----------
    rec : Recording, units "deconvolved"
        From :func:`deconvolve`.
    k : float, default 3
        Threshold in robust standard deviations (median absolute value over 0.6745) of the activity that is not zero.

    Returns
    -------
    Spikes
        One event at the start of each frame above; ``meta`` says ``kind="inferred"`` and the resolution.

    Raises
    ------
    InputError
        If the recording is not deconvolved or k is negative.
    """
    if rec.units != "deconvolved":
        raise InputError(
            explain("events", expected="deconvolved activity", got=repr(rec.units), fix="deconvolve first")
        )
    if not (_is_real(k) and k >= 0):
        raise InputError(explain("events(k)", expected="a number, not negative", got=repr(k)))
    rate, x = _rate(rec, "events"), _unit_time(rec, "events")
    spread = torch.where(x > 0, x, torch.nan).nanmedian(dim=-1, keepdim=True).values / _traces._MAD
    found = (x > k * spread.nan_to_num(torch.inf)).nonzero().cpu()  # (event, 2): unit, frame
    support = rec.intervals.get("support") or (rec.t0, rec.t0 + rec.duration)
    return Spikes.from_events(
        rec.t0 + found[:, 1].double() / rate,
        found[:, 0],
        n_units=x.shape[0],
        support=support,
        units=rec.coords.get("unit", {}),
        subject=rec.subject,
        session=rec.session,
        meta={**rec.meta, "kind": "inferred", "time_resolution": 1.0 / rate},
        history=rec.noted("events", k=k),
    )


def duplicates(rec: Recording, *, distance: float, correlation: float = 0.8) -> tuple[Tensor, Tensor]:
    """Return pairs of regions that are near each other and alike: one cell twice, or neuropil in both.

    Parameters
    ----------
    rec : Recording, dims time and unit
        Traces; the table of units has the columns "y" and "x".
    distance : float
        Largest distance, in the unit of these columns: about 15 um, which for suite2p is to be given in pixels.
    correlation : float, default 0.8
        Smallest absolute correlation, in [0, 1].

    Returns
    -------
    Tensor, shape (n_pairs, 2), int64, and Tensor, shape (n_pairs,)
        Positions of both regions, the lower first, in order; and their correlation. Constant traces match none.

    Raises
    ------
    InputError
        If values or positions are missing, or a limit is out of range.
    """
    x, table = _unit_time(rec, "duplicates"), rec.coords.get("unit", {})
    if not {"y", "x"} <= set(table):
        raise InputError(explain("duplicates", expected="columns y and x of the units", got=f"{sorted(table)}"))
    if not (_is_real(distance) and distance > 0 and _is_real(correlation) and 0 <= correlation <= 1):
        got = f"distance={distance!r}, correlation={correlation!r}"
        raise InputError(explain("duplicates", expected="distance > 0 and a correlation in [0, 1]", got=got))
    place = torch.stack([torch.as_tensor(table[c]).double() for c in ("y", "x")], 1).to(x.device, x.dtype)
    x = torch.nn.functional.normalize(x - x.mean(1, keepdim=True), dim=1)
    pairs, found = [torch.zeros(0, 2, dtype=torch.int64, device=x.device)], [x.new_zeros(0)]
    for first in range(0, len(x), _ROWS):
        rows = slice(first, first + _ROWS)
        r = x[rows] @ x[first:].T  # (row, region from the first row on)
        near = torch.cdist(place[rows], place[first:], compute_mode="donot_use_mm_for_euclid_dist") <= distance
        pair = ((r.abs() >= correlation) & near).triu(1).nonzero()
        pairs.append(pair + first)
        found.append(r[pair[:, 0], pair[:, 1]])
    return torch.cat(pairs), torch.cat(found)


def _unit_time(rec: Recording, step: str) -> Tensor:
    """Return finite traces (unit, time) in floating point."""
    if not isinstance(rec, Recording) or set(rec.dims) != {"time", "unit"}:
        raise InputError(explain(step, expected="a Recording with axes time and unit", got=repr(rec)))
    values = rec.tensor("unit", "time").contiguous()
    values = values if values.is_floating_point() else values.to(highest_precision(values.device))
    if not bool(torch.isfinite(values).all()):
        count = int((~torch.isfinite(values)).sum())
        raise InputError(
            explain(step, expected="finite values", got=f"{count} NaN or infinite", fix="interpolate first")
        )
    return values


def _rate(rec: Recording, step: str) -> float:
    if not isinstance(rec, Recording) or rec.rate is None:
        raise InputError(explain(step, expected="a regular sampling rate", got=repr(rec), fix="resample first"))
    return rec.rate


def _back(rec: Recording, made: Tensor, step: str, *, coords: Any = None, **note: Any) -> Recording:
    """Return a recording (time, unit) with a step more in its history."""
    history = rec.noted(step, **note)
    return rec.with_(
        data=made.T, dims=("time", "unit"), coords=rec.coords if coords is None else coords, history=history
    )


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
