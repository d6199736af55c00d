"""Annotations, bad spans and triggers of MNE's objects as intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tectum.core.errors import TectumWarning
from tectum.core.intervals import Intervals


def intervals_of(
    raws: Sequence[Any], t0: float, given: Mapping[str, Intervals], is_trigger: Callable[[str, str], bool] | None
) -> dict[str, Intervals]:
    """Return annotations, spans marked as bad, and triggers.

    Parameters
    ----------
    raws : sequence of mne.io.BaseRaw
        Objects over one file.
    t0 : float
        Time of the first sample.
    given : mapping of str to Intervals
        Further intervals, counted from the first sample.
    is_trigger : function of (name, type), optional
        Which channels hold triggers; None if they are not to be read.
    """
    found = {name: part.shift(t0) for name, part in given.items()}
    notes = raws[0].annotations
    if len(notes):
        found["annotations"] = _annotations(notes)
    marked = [part.where("label", [n for n in part.columns["label"] if _is_bad(n)]) for part in found.values()]
    marked = [part for part in marked if len(part)]
    if marked:
        start, stop = (torch.cat([getattr(part, edge) for part in marked]) for edge in ("start", "stop"))
        label = np.concatenate([part.columns["label"] for part in marked])
        found["bad"] = Intervals(start=start, stop=stop, columns={"label": label})
    if is_trigger is not None and "events" not in found and (triggers := _triggers(raws, is_trigger)) is not None:
        found["events"] = triggers
    return found


def _is_bad(label: str) -> bool:
    return str(label).upper().startswith("BAD")


def _annotations(notes: Any) -> Intervals:
    """Return MNE's annotations, whose onsets are on the clock of the recording."""
    start = np.asarray(notes.onset, dtype=np.float64)
    columns: dict[str, Any] = {
        "label": np.array([str(d) for d in notes.description]),
        "channels": np.array([",".join(names) for names in notes.ch_names], dtype=str),
    }
    extras = getattr(notes, "extras", None) or []
    for key in dict.fromkeys(k for extra in extras for k in (extra or {})):
        if key not in columns:
            columns[str(key)] = column([(extra or {}).get(key) for extra in extras])
    duration = np.nan_to_num(np.asarray(notes.duration, dtype=np.float64)).clip(min=0.0)
    return Intervals(start=torch.from_numpy(start), stop=torch.from_numpy(start + duration), columns=columns)


def column(values: Any) -> np.ndarray:
    """Return a column of numbers, booleans or text."""
    array = np.asarray(values)
    if array.dtype.kind in "biuf":
        return array
    listed = [None if v is None or (isinstance(v, float) and math.isnan(v)) else v for v in array.tolist()]
    if listed and all(isinstance(v, (int, float)) and not isinstance(v, bool) or v is None for v in listed):
        return np.array([math.nan if v is None else float(v) for v in listed])
    return np.array(["" if v is None else str(v) for v in listed], dtype=str)


def _triggers(raws: Sequence[Any], is_trigger: Callable[[str, str], bool]) -> Intervals | None:
    """Return the onsets on trigger channels: value, and channel."""
    import mne

    rows: list[tuple[float, int, str]] = []
    for raw in raws:
        kinds = raw.get_channel_types()
        names = [n for n, kind in zip(raw.ch_names, kinds, strict=True) if is_trigger(n, kind)]
        whole = [n for n in names if n in ("STI101", "STI 014")]
        for name in whole[:1] or names:
            one = raw.copy().pick([name]).load_data(verbose="ERROR") if not raw.preload else raw
            values = one.get_data(picks=[name])
            if not np.array_equal(values, np.rint(values)):
                text = f"trigger channel {name!r} holds values that are no whole numbers: no events are read from it"
                warnings.warn(text, TectumWarning, stacklevel=2)
                continue
            found = mne.find_events(one, stim_channel=name, shortest_event=1, verbose="ERROR")
            rows += [(float(s / raw.info["sfreq"]), int(v), name) for s, _, v in found]
    if not rows:
        return None
    value = np.array([v for _, v, _ in rows])
    columns = {"label": value.astype(str), "value": value, "channel": np.array([n for *_, n in rows])}
    return Intervals.from_pairs([(s, s) for s, *_ in rows], **columns)
