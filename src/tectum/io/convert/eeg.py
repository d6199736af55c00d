"""MNE objects: Raw, Epochs and Evoked in as recordings, recordings out as Raw, Epochs or Evoked.

What a round trip loses is listed in :data:`LOST`.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tectum.core.errors import InputError, explain
from tectum.core.recording import Recording
from tectum.core.session import Session
from tectum.core.units import UNITS, conversion

from ..eeg.files import mne_warnings
from ..eeg.opened import Opened
from ..eeg.parts import Options, recordings
from ..eeg.read import one_or_session

#: What is not the same after recording -> MNE -> recording, and after MNE -> recording -> MNE.
LOST = (
    "history and all of meta but the measurement date, line frequency, high-pass and low-pass edges",
    "intervals other than annotations; of annotations all columns but label and channels",
    "columns of channels other than name, type, bad, x, y, z",
    "of trials, where pandas is missing, all columns but label, value and start",
    "units: MNE holds V, T and T/m, other units of voltage, field and gradient come back in these; 'z' and the like "
    "go out as misc channels and come back as 'a.u.'",
    "the mask of valid entries: a recording that has one is refused",
    "the start of the clock, and of events of trials, is rounded to whole samples; the end of an event is lost",
    "session; the subject is kept as his_id",
    "more than 24 bits of float64: numbers come in as float32",
    "of MNE: trigger channels (they come in as intervals), projectors, head positions and digitised points, coil "
    "definitions, compensation, reference flags, preloading, the drop log and selection of epochs, event names without "
    "trials, baseline and averaging of Evoked but the number of trials",
    "MEG sensors go out without coils, so they cannot be drawn on a helmet or used for sources",
)
_TYPE_OF = {"V": "eeg", "T": "mag", "T/m": "grad"}
_QUANTITY = {"voltage": "V", "field": "T", "gradient": "T/m"}


def from_mne(
    obj: Any,
    *,
    picks: str | Sequence[str] | None = None,
    types: str | Mapping[str, str] | None = None,
    units: str | None = None,
    events: bool = True,
) -> Recording | Session:
    """Convert a Raw, Epochs or Evoked object of MNE.

    Parameters
    ----------
    obj : mne.io.BaseRaw, mne.BaseEpochs or mne.Evoked
        It is neither changed nor shared. Raw data on disk stay there until they are used.
    picks, types, units, events
        As in :func:`tectum.io.eeg.read.read_eeg`.

    Returns
    -------
    Recording or Session
        (channel, time) of Raw and Evoked, (trial, channel, time) of Epochs; a session where channels have several
        types. Annotations and triggers become intervals, metadata of epochs the columns of ``trial``.

    Raises
    ------
    InputError
        If the object is of another class, or channels to pick differ in unit.
    AmplitudeError
        If the values cannot be in V, T or T/m, such as standardised ones: pass ``units="z"``.

    Examples
    --------
    >>> import mne
    >>> info = mne.create_info(["A1", "A2"], 100.0, "seeg")
    >>> raw = mne.io.RawArray(1e-5 * np.random.default_rng(0).normal(size=(2, 300)), info, verbose=False)
    >>> from_mne(raw)
    <Recording seeg (channel: 2, time: 300) 100 Hz, V>
    """
    import mne

    if not isinstance(obj, (mne.io.BaseRaw, mne.BaseEpochs, mne.Evoked)):
        got = f"{type(obj).__module__}.{type(obj).__qualname__}"
        raise InputError(explain("from_mne", expected="Raw, Epochs or Evoked", got=got))
    step = {"step": "convert", "from": type(obj).__name__}
    options = Options(picks=picks, types=types, units=units, events=events, step=step)
    with mne_warnings("from_mne"):
        kept = obj.copy() if isinstance(obj, mne.io.BaseRaw) and not obj.preload else obj  # later changes stay outside
        return one_or_session(recordings(Opened("mne", [kept]), options))


def to_mne(rec: Recording, *, types: str | Mapping[str, str] | None = None) -> Any:
    """Convert a recording to an object of MNE.

    Parameters
    ----------
    rec : Recording
        (channel, time) in any order, or (trial, channel, time) in any order, with a regular rate and without a mask.
        Values in units of voltage, field or gradient are converted to V, T and T/m; others become misc channels.
    types : str or mapping of str to str, optional
        Type of all channels, or by name; default the column ``type``, else by unit.

    Returns
    -------
    mne.io.RawArray, mne.EpochsArray or mne.EvokedArray
        Epochs if there are trials; Evoked if ``meta`` says that it is an average; else Raw.

    Raises
    ------
    InputError
        If axes, clock, mask or channel types do not fit.

    Examples
    --------
    >>> import torch
    >>> rec = Recording(data=torch.full((2, 50), 20.0), dims=("channel", "time"), rate=100.0, units="uV", t0=1.5)
    >>> raw = to_mne(rec)
    >>> raw.first_samp, raw.get_channel_types(), f"{raw.get_data().max():.0e}"
    (150, ['eeg', 'eeg'], '2e-05')
    """
    import mne

    _check(rec)
    info = _info(rec, types)
    order = [d for d in ("trial", "channel", "time") if d in rec.dims]
    values = rec.tensor(*order).detach().cpu().double().numpy() * _factor(rec.units)
    if "trial" in rec.dims:
        return _epochs(rec, values, info)
    if "n_averaged" in rec.meta.get("selected", {}).get("trial", {}):
        trial = rec.meta["selected"]["trial"]
        comment, nave = str(trial.get("label", "")), int(trial["n_averaged"])
        return mne.EvokedArray(values, info, tmin=rec.t0, comment=comment, nave=nave, verbose="ERROR")
    raw = mne.io.RawArray(values, info, first_samp=round(rec.t0 * float(rec.rate or 1)), verbose="ERROR")
    if notes := _annotations(rec, info):
        raw.set_annotations(notes)
    return raw


def _check(rec: Recording) -> None:
    """Refuse what MNE has no place for."""
    fits = sorted(rec.dims) in (["channel", "time"], ["channel", "time", "trial"])
    if not fits or rec.rate is None:
        expected = "axes (channel, time) or (trial, channel, time) and a regular rate"
        raise InputError(explain("to_mne", expected=expected, got=repr(rec), fix="select, rename or resample first"))
    if rec.mask is not None and not bool(rec.mask.all()):
        fix = "crop it, or interpolate and drop the mask with rec.with_(mask=None)"
        raise InputError(explain("to_mne", expected="a recording without missing entries", got=repr(rec), fix=fix))


def _factor(units: str) -> float:
    """Return the factor to MNE's unit, 1 for what MNE does not measure."""
    target = _QUANTITY.get(UNITS[units][0])
    return conversion(units, target) if target else 1.0


def _info(rec: Recording, types: str | Mapping[str, str] | None) -> Any:
    """Return MNE's table of channels with what is known of the recording."""
    import mne

    n = rec.sizes["channel"]
    names = rec.labels("channel")
    listed = [f"{name}" for name in (range(n) if names is None else names.tolist())]
    if len(set(listed)) != n:
        raise InputError(explain("to_mne", expected="channels of different names", got=f"{len(set(listed))} for {n}"))
    info = mne.create_info(listed, float(rec.rate or 1), _types(rec, listed, types), verbose="ERROR")
    table = rec.coords.get("channel", {})
    if set("xyz") <= set(table):
        for channel, place in zip(info["chs"], np.stack([table[a] for a in "xyz"], axis=1), strict=True):
            channel["loc"][:3] = place
    info["bads"] = [name for name, bad in zip(listed, table.get("bad", [False] * n), strict=True) if bad]
    meta = rec.meta
    with info._unlock():
        for key, edge in (("highpass", meta.get("highpass")), ("lowpass", meta.get("lowpass"))):
            if isinstance(edge, (int, float)):
                info[key] = min(float(edge), info["sfreq"] / 2)
        if isinstance(line := meta.get("line_frequency"), (int, float)):
            info["line_freq"] = float(line)
        if rec.subject:
            info["subject_info"] = mne._fiff.meas_info.SubjectInfo({"his_id": rec.subject})
    info.set_meas_date(_date(meta))
    return info


def _date(meta: Mapping[str, Any]) -> datetime.datetime | None:
    """Return the measurement date in UTC."""
    text = meta.get("measured")
    if not isinstance(text, str):
        return None
    date = datetime.datetime.fromisoformat(text)
    return date.replace(tzinfo=datetime.UTC) if date.tzinfo is None else date.astimezone(datetime.UTC)


def _types(rec: Recording, names: Sequence[str], types: str | Mapping[str, str] | None) -> list[str]:
    """Return the type of each channel, checked against the unit."""
    target = _QUANTITY.get(UNITS[rec.units][0])
    stored = rec.coords.get("channel", {}).get("type")
    usual = _TYPE_OF.get(target or "", "misc")
    if isinstance(types, str):
        return [types] * len(names)
    found = [str(t) for t in stored] if stored is not None else [usual] * len(names)
    if target is None:
        found = ["misc"] * len(names)
    found = [(types or {}).get(name, kind) for name, kind in zip(names, found, strict=True)]
    needs = {"mag": "T", "ref_meg": "T", "grad": "T/m"}
    wrong = next((kind for kind in found if kind != "misc" and needs.get(kind, "V") != target), None)
    if wrong is not None and target is not None:
        expected = f"types measured in {target}"
        raise InputError(explain("to_mne", expected=expected, got=repr(wrong), fix="pass types="))
    return found


def _annotations(rec: Recording, info: Any) -> Any:
    """Return the annotations on MNE's clock, None without any."""
    import mne

    part = rec.intervals.get("annotations")
    if part is None or not len(part):
        return None
    label = part.columns.get("label", np.full(len(part), "event"))
    channels = part.columns.get("channels", np.full(len(part), ""))
    names = [[c for c in str(listed).split(",") if c in info["ch_names"]] for listed in channels]
    date = info["meas_date"]
    shift = 0.0 if date is not None else -round(rec.t0 * float(rec.rate or 1)) / float(rec.rate or 1)
    onset, duration = part.start.numpy() + shift, (part.stop - part.start).numpy()
    return mne.Annotations(onset, duration, [str(x) for x in label], orig_time=date, ch_names=names)


def _epochs(rec: Recording, values: np.ndarray, info: Any) -> Any:
    """Return epochs with their labels, times and metadata."""
    import mne

    trial, n, rate = rec.coords.get("trial", {}), rec.sizes["trial"], float(rec.rate or 1)
    label = [str(x) or "event" for x in trial.get("label", ["event"] * n)]
    value = trial.get("value")
    codes = _codes(label, value)
    start = np.asarray(trial.get("start", np.arange(n) * (rec.sizes["time"] / rate)), dtype=np.float64)
    samples = np.rint(start * rate).astype(np.int64)
    samples = samples if len(set(samples.tolist())) == n else np.arange(n) * rec.sizes["time"]
    events = np.stack([samples, np.zeros(n, np.int64), np.array([codes[x] for x in label])], axis=1)
    metadata = _metadata({k: v for k, v in trial.items() if k not in ("label", "value", "start", "stop")})
    return mne.EpochsArray(
        values, info, events=events, tmin=rec.t0, event_id=codes, metadata=metadata, baseline=None, verbose="ERROR"
    )


def _codes(label: Sequence[str], value: Any) -> dict[str, int]:
    """Return a number for each label: the column value where it gives one, else counted from 1."""
    names = list(dict.fromkeys(label))
    if value is not None:
        pairs = {(name, int(v)) for name, v in zip(label, value, strict=True)}
        if len(pairs) == len(names) == len({v for _, v in pairs}):
            return dict(pairs)
    return {name: k + 1 for k, name in enumerate(names)}


def _metadata(columns: Mapping[str, Any]) -> Any:
    """Return the further columns of trials as a table of pandas, None without columns or pandas."""
    try:
        import pandas
    except ImportError:
        return None
    return pandas.DataFrame(dict(columns)) if columns else None
