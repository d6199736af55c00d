"""Steps that every modality shares: part, crop, bin, select, resample, smooth, standardise.

A step that mixes neighbouring samples notes in the history how far it reaches (``reach``, in s); the splits of
:mod:`tectum.evaluate` demand a gap that is wide enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from numbers import Real
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from tectum.core.clock import check_rate
from tectum.core.device import highest_precision
from tectum.core.errors import InputError, explain, nearest
from tectum.core.intervals import Intervals
from tectum.core.recording import Recording
from tectum.core.session import Session
from tectum.core.spikes import Spikes

T = TypeVar("T", Recording, Spikes, Session)
C = TypeVar("C")

_TAPS = 10  # half length of SciPy's polyphase filter, in samples of the slower of both rates


def part(session: Session, name: str) -> Any:
    """Take one part of a session by name."""
    _expect(session, Session, "part")
    if name not in session:
        expected = f"a part among {sorted(session)}"
        raise InputError(explain("part", expected=expected, got=repr(name), fix=nearest(str(name), session)))
    return session[name]


def crop(data: T, *, start: float, stop: float, allow_empty: bool = False) -> T:
    """Keep the samples or spikes from ``start`` to ``stop`` in s.

    Parameters
    ----------
    data : Recording, Spikes or Session
        Of a session every part is cropped.
    start, stop : float
        Half-open range in s on the session clock.
    allow_empty : bool, default False
        Return what is left, nothing, where the range misses the data.

    Returns
    -------
    Recording, Spikes or Session

    Raises
    ------
    InputError
        If the range is empty, or misses the data and ``allow_empty`` is False.

    Examples
    --------
    >>> crop(Spikes.from_trains([[0.1, 0.9]]), start=0.0, stop=0.5).times.tolist()
    [0.1]
    """
    _expect(data, (Recording, Spikes, Session), "crop")
    if not (_is_real(start) and _is_real(stop) and start < stop):
        raise InputError(explain("crop", expected="numbers start < stop in s", got=f"start={start!r}, stop={stop!r}"))
    return data.restrict(Intervals.from_pairs([(start, stop)]), allow_empty=allow_empty)


def bin_spikes(spikes: Spikes, *, dt: float) -> Recording:
    """Count spikes in bins of ``dt`` s; see :meth:`Spikes.bin`."""
    return _expect(spikes, Spikes, "bin").bin(dt)


def select(
    rec: Recording, *, axis: str, values: Sequence[Any], column: str | None = None, allow_empty: bool = False
) -> Recording:
    """Keep the entries of an axis whose name (or given column) is among ``values``; none only if allowed."""
    if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
        raise InputError(explain("select(values)", expected="a list", got=repr(values)))
    wanted = list(values) if column is None else {column: list(values)}
    return _expect(rec, Recording, "select").sel(allow_empty=allow_empty, **{axis: wanted})


def resample(rec: Recording, rate: float) -> Recording:
    """Change the sampling rate along time with SciPy's polyphase filter.

    Parameters
    ----------
    rec : Recording, regular
        Signal without missing samples. Counts are refused: bin them anew instead.
    rate : float
        New rate in Hz; the ratio to the old one is rounded to a fraction with a denominator below 10,000.

    Returns
    -------
    Recording
        Sample 0 stays where it was.

    Raises
    ------
    InputError
        If the recording has no regular rate, holds counts, NaN, masked samples or angles that wrap around, or the rates
        are too far apart.

    Notes
    -----
    Low-pass filtering is by a zero-phase FIR filter, so the past of a sample holds some of its future.
    """
    from scipy.signal import resample_poly

    check_rate(rate, "resample(rate)")
    values = _expect(rec, Recording, "resample").values
    ratio = Fraction(rate / rec.rate).limit_denominator(10_000) if rec.rate else Fraction(0)
    _check_resampling(rec, values, rate, ratio)
    made = resample_poly(
        values.cpu().numpy(), ratio.numerator, ratio.denominator, axis=rec.dims.index("time"), padtype="line"
    )
    data = torch.from_numpy(np.ascontiguousarray(made)).to(rec.device, values.dtype)
    now = float(rec.rate or 0) * float(ratio)
    history = rec.noted("resample", rate=rate, reach=_TAPS / min(now, rec.rate or now))
    coords = {axis: table for axis, table in rec.coords.items() if axis != "time"}
    return rec.with_(data=data, rate=now, mask=None, coords=coords, history=history)


def _check_resampling(rec: Recording, values: Tensor, rate: float, ratio: Fraction) -> None:
    whole = "time" in rec.dims and rec.rate is not None and bool(rec.valid().all())
    if not whole or not bool(torch.isfinite(values).all()):
        expected = "a regular recording without missing samples"
        raise InputError(explain("resample", expected=expected, got=repr(rec), fix="interpolate first"))
    if not (values.is_floating_point() or values.is_complex()):
        got = f"{values.dtype} in {rec.units}"
        raise InputError(explain("resample", expected="a signal of real numbers", got=got, fix="bin counts anew"))
    if ratio == 0:
        raise InputError(explain("resample(rate)", expected=f"at least {rec.rate} / 10000 Hz", got=f"{rate!r} Hz"))
    _check_angles(rec, values.movedim(rec.dims.index("time"), -1), "resample")


def _check_angles(rec: Recording, x: Tensor, step: str) -> None:
    """Refuse angles (..., time) that jump by over half a turn: between 359 and 1 degrees lies 0, not their mean."""
    half = {"rad": math.pi, "deg": 180.0}.get(rec.units)
    jumps = 0 if half is None else int((x.diff(dim=-1).abs() > half).sum())
    if jumps:
        got, fix = f"{jumps} jumps over half a turn", f"{step} its cosine and sine, or unwrap it first"
        raise InputError(explain(step, expected="an angle that does not wrap around", got=got, fix=fix))


def smooth(rec: Recording, *, sigma: float) -> Recording:
    """Smooth along time with a Gaussian; missing samples do not contribute and stay missing.

    Parameters
    ----------
    rec : Recording, regular
        Integers become float32.
    sigma : float
        Standard deviation in s; the filter is cut at 4 sigma and the ends are held constant, as in SciPy.

    Returns
    -------
    Recording

    Raises
    ------
    InputError
        If the recording has no regular rate, holds angles that wrap around, or sigma is not positive.

    Notes
    -----
    The filter is not causal.
    """
    if not (_is_real(sigma) and sigma > 0) or _expect(rec, Recording, "smooth").rate is None or "time" not in rec.dims:
        got = f"sigma={sigma!r} s, {rec!r}"
        raise InputError(explain("smooth", expected="a regular recording and a finite sigma > 0 s", got=got))
    axis, values = rec.dims.index("time"), rec.values
    x = (values if values.is_floating_point() else values.float()).movedim(axis, -1)  # (..., time)
    seen = rec.valid().movedim(axis, -1) & torch.isfinite(x)
    _check_angles(rec, torch.where(seen, x, torch.nan), "smooth")
    kernel = _gaussian(sigma * (rec.rate or 0)).to(x)
    made = _convolve(torch.where(seen, x, 0), kernel) / _convolve(seen.to(x), kernel)
    made = torch.where(seen, made, x).movedim(-1, axis)
    return rec.with_(data=made, history=rec.noted("smooth", sigma=sigma, reach=4 * sigma))


def _gaussian(width: float) -> Tensor:
    """Return the normalised kernel of a standard deviation in samples, cut where SciPy cuts it."""
    reach = int(4 * width + 0.5)
    lag = torch.arange(-reach, reach + 1, dtype=torch.float64, device="cpu")
    kernel = torch.exp(-0.5 * (lag / width) ** 2)
    return kernel / kernel.sum()


def _convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve the last axis with a symmetric kernel, the ends held constant."""
    flat = x.reshape(-1, 1, x.shape[-1])
    padded = torch.nn.functional.pad(flat, (len(kernel) // 2,) * 2, mode="replicate")
    return torch.nn.functional.conv1d(padded, kernel[None, None]).reshape(x.shape)


def standardise(rec: Recording) -> Recording:
    """Subtract the mean over time and divide by the standard deviation of every other entry, valid samples only.

    Entries that are constant become zero. Mean and deviation are learnt from the whole recording, so the splits of
    :mod:`tectum.evaluate` refuse what this returns: before an evaluation leave it to the model.
    """
    if "time" not in _expect(rec, Recording, "standardise").dims:
        raise InputError(explain("standardise", expected="a recording with a time axis", got=repr(rec)))
    axis, values = rec.dims.index("time"), rec.values
    data = values.to(highest_precision(values.device))
    seen = data.masked_fill(~rec.valid(), torch.nan)
    mean = seen.nanmean(axis, keepdim=True)
    spread = (seen - mean).square().nanmean(axis, keepdim=True).sqrt()
    varies = spread > 32 * torch.finfo(spread.dtype).eps * mean.abs()
    made = (data - mean) / torch.where(varies, spread, torch.inf)
    kind = values.dtype if values.is_floating_point() else torch.float32
    return rec.with_(data=made.to(kind), units="z", history=rec.noted("standardise", reach=math.inf))


def _expect(data: C, kinds: type | tuple[type, ...], step: str) -> C:
    """Return the data if they are of a kind that the step takes."""
    if not isinstance(data, kinds):
        names = " or ".join(k.__name__ for k in (kinds if isinstance(kinds, tuple) else (kinds,)))
        fix = "take a part of the session first" if isinstance(data, Session) else ""
        raise InputError(explain(step, expected=f"a {names}", got=type(data).__name__, fix=fix))
    return data


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
