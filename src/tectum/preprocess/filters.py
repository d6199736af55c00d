"""Offline filters: zero-phase FIR by MNE, zero-phase IIR by SciPy. Both look into the future; for streams see causal.

Filters are computed in float64 on the CPU and come back on the device and in the type of the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
import torch

from tectum.core.errors import InputError, explain
from tectum.core.recording import Recording

Method = Literal["fir", "iir"]
_SLOPE = 0.5  # Hz on each side of a notch of the FIR filter


def filter(
    rec: Recording,
    low: float | None = None,
    high: float | None = None,
    *,
    notch: float | Sequence[float] | None = None,
    method: Method = "fir",
    order: int = 4,
    width: float | None = None,
) -> Recording:
    """Filter along time without shifting the phase: band-pass first, then notch.

    Parameters
    ----------
    rec : Recording, regular
        Signal without missing samples; trials are filtered one by one.
    low, high : float, optional
        Edges in Hz; with ``low`` alone a high-pass, with ``high`` alone a low-pass.
    notch : float or sequence of float, optional
        Frequencies to remove, in Hz, such as 50 or ``[50, 100, 150]``.
    method : {"fir", "iir"}
        "fir": linear phase, made by MNE with a Hamming window and its transition bands of
        ``min(max(edge / 4, 2), edge)`` Hz, its delay undone. "iir": Butterworth, run forward and backward.
    order : int, default 4
        Of the Butterworth filter; running it twice doubles it.
    width : float, optional
        Width of a notch in Hz, default its frequency / 200 for "fir" (and slopes of 0.5 Hz beside it), / 30 for "iir".

    Returns
    -------
    Recording
        The history has ``reach``, in s: how far a sample depends on others.

    Raises
    ------
    InputError
        If edges do not lie between 0 and half the rate, samples are missing, or the recording is shorter than the
        filter.

    Notes
    -----
    Ends are padded by odd reflection. The filter is not causal.

    Examples
    --------
    >>> t = torch.arange(2000) / 200.0
    >>> x = torch.sin(2 * torch.pi * 10 * t) + torch.sin(2 * torch.pi * 50 * t)
    >>> rec = Recording(data=x[None], dims=("channel", "time"), rate=200.0)
    >>> made = filter(rec, 1.0, 30.0).values[0, 400:-400]
    >>> bool((made - torch.sin(2 * torch.pi * 10 * t)[400:-400]).abs().max() < 0.01)
    True
    """
    rate = _check(rec, low, high, notch, method, order)
    axis, values = rec.dims.index("time"), rec.values
    x = np.moveaxis(values.detach().cpu().double().numpy(), axis, -1)  # (..., time)
    notches = [] if notch is None else [float(f) for f in np.atleast_1d(np.asarray(notch, dtype=float))]
    run = _fir if method == "fir" else _iir
    made, reach = run(x, rate, low, high, notches, order, width)
    data = torch.from_numpy(np.ascontiguousarray(np.moveaxis(made, -1, axis))).to(values.dtype).to(rec.device)
    meta = {**rec.meta, **_edges(rec, low, high)}
    note: dict[str, Any] = {"low": low, "high": high, "notch": notches, "method": method}
    note |= {"order": order} if method == "iir" else {}
    return rec.with_(data=data, mask=None, meta=meta, history=rec.noted("filter", **note, reach=reach))


def _edges(rec: Recording, low: float | None, high: float | None) -> dict[str, float]:
    """Return the narrowest edges that the signal has been filtered to."""
    before = {k: v for k in ("highpass", "lowpass") if isinstance(v := rec.meta.get(k), (int, float))}
    found = {}
    if low is not None:
        found["highpass"] = max(float(low), before.get("highpass", 0.0))
    if high is not None:
        found["lowpass"] = min(float(high), before.get("lowpass", math.inf))
    return found


def _fir(
    x: np.ndarray,
    rate: float,
    low: float | None,
    high: float | None,
    notches: list[float],
    order: int,
    width: float | None,
) -> tuple[np.ndarray, float]:
    """Filter with MNE; return the result and the half length of all filters in s."""
    import mne

    flat, reach = x.reshape(-1, x.shape[-1]), 0.0
    common: dict[str, Any] = {"phase": "zero", "fir_window": "hamming", "fir_design": "firwin", "verbose": "ERROR"}
    if low is not None or high is not None:
        reach += _half(mne.filter.create_filter(None, rate, low, high, **common), x.shape[-1], rate)
        flat = mne.filter.filter_data(flat, rate, low, high, pad="reflect_limited", copy=True, **common)
    if notches:
        widths = np.array(notches) / 200.0 if width is None else np.full(len(notches), float(width))
        below, above = np.array(notches) - widths / 2 - _SLOPE, np.array(notches) + widths / 2 + _SLOPE
        if below.min() <= 0 or above.max() >= rate / 2:
            got = f"stop bands of {below.min():g} to {above.max():g} Hz"
            raise InputError(explain("filter(notch)", expected=f"Hz between 0 and {rate / 2:g}", got=got))
        slopes = {"l_trans_bandwidth": _SLOPE, "h_trans_bandwidth": _SLOPE}
        reach += _half(mne.filter.create_filter(None, rate, above, below, **slopes, **common), x.shape[-1], rate)
        common |= {"notch_widths": widths, "trans_bandwidth": 2 * _SLOPE, "copy": True, "pad": "reflect_limited"}
        flat = mne.filter.notch_filter(flat, rate, notches, **common)
    return flat.reshape(x.shape), reach


def _half(taps: np.ndarray, n: int, rate: float) -> float:
    """Return half the length of a filter in s; refuse one that is longer than the signal."""
    if len(taps) > n:
        got = f"{n / rate:g} s for a filter of {len(taps) / rate:g} s"
        fix = "filter before cutting epochs, raise low=, or use method='iir'"
        raise InputError(explain("filter", expected="a signal longer than the filter", got=got, fix=fix))
    return (len(taps) // 2) / rate


def _iir(
    x: np.ndarray,
    rate: float,
    low: float | None,
    high: float | None,
    notches: list[float],
    order: int,
    width: float | None,
) -> tuple[np.ndarray, float]:
    """Filter forward and backward with SciPy; return the result and how long the filters ring in s."""
    from scipy.signal import butter, iirnotch, sosfiltfilt, tf2sos

    stages = []
    if low is not None and high is not None:
        stages.append(butter(order, [low, high], "bandpass", fs=rate, output="sos"))
    elif low is not None:
        stages.append(butter(order, low, "highpass", fs=rate, output="sos"))
    elif high is not None:
        stages.append(butter(order, high, "lowpass", fs=rate, output="sos"))
    stages += [tf2sos(*iirnotch(f, f / width if width is not None else 30.0, fs=rate)) for f in notches]
    reach = 0.0
    for sos in stages:
        ringing = _ringing(sos)
        if ringing >= x.shape[-1]:
            got = f"{x.shape[-1] / rate:g} s for a filter that rings for {ringing / rate:g} s"
            fix = "filter before cutting epochs, or raise low="
            raise InputError(explain("filter", expected="a signal longer than the filter", got=got, fix=fix))
        x = sosfiltfilt(sos, x, axis=-1, padtype="odd", padlen=ringing)
        reach += ringing / rate
    return x, reach


def _ringing(sos: np.ndarray) -> int:
    """Return the samples until the impulse response of a filter has fallen to a thousandth of its peak."""
    from scipy.signal import sos2zpk

    poles = np.abs(sos2zpk(sos)[1])
    slowest = float(poles.max(initial=0.0))
    return 1 if slowest <= 0 else math.ceil(math.log(1e-3) / math.log(min(slowest, 1 - 1e-9)))


def _check(rec: Recording, low: float | None, high: float | None, notch: Any, method: str, order: int) -> float:
    """Refuse what cannot be filtered; return the rate."""
    if not isinstance(rec, Recording):
        fix = "take a part of the session first"
        raise InputError(explain("filter", expected="a Recording", got=type(rec).__name__, fix=fix))
    if rec.rate is None or "time" not in rec.dims:
        raise InputError(explain("filter", expected="a recording with a regular rate", got=repr(rec)))
    if not rec.values.is_floating_point():
        raise InputError(explain("filter", expected="a signal of real numbers", got=f"{rec.values.dtype}"))
    if not bool(rec.valid().all()) or not bool(torch.isfinite(rec.values).all()):
        raise InputError(explain("filter", expected="no missing samples", got=repr(rec), fix="interpolate first"))
    if method not in ("fir", "iir"):
        raise InputError(explain("filter(method)", expected="'fir' or 'iir'", got=repr(method)))
    if not isinstance(order, int) or isinstance(order, bool) or not 1 <= order <= 12:
        raise InputError(explain("filter(order)", expected="a whole number from 1 to 12", got=repr(order)))
    notches = [] if notch is None else list(np.atleast_1d(notch))
    edges = {"low": low, "high": high} | {f"notch[{k}]": f for k, f in enumerate(notches)}
    for name, edge in edges.items():
        right = isinstance(edge, (Real, np.number)) and not isinstance(edge, bool) and 0 < float(edge) < rec.rate / 2
        if edge is not None and not right:
            expected = f"Hz between 0 and {rec.rate / 2:g}, half the rate"
            raise InputError(explain(f"filter({name})", expected=expected, got=repr(edge)))
    if low is not None and high is not None and low >= high:
        raise InputError(explain("filter", expected="low < high", got=f"low={low!r}, high={high!r} Hz"))
    if low is None and high is None and not notches:
        raise InputError(explain("filter", expected="low=, high= or notch=", got="none of them"))
    return rec.rate
