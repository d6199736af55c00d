"""Units of electrophysiology: what a file states, what MNE made of it, and whether the values can be in it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from tectum.core.errors import InputError, LoadError, TectumWarning, UnitsError, explain
from tectum.core.recording import Recording
from tectum.core.units import UNITS

from .opened import Opened

#: Formats that state or imply a unit of each signal, all of which MNE calls a voltage.
STATED = ("EDF", "BDF", "GDF", "FieldTrip", "eXimia", "BCI2000")
#: Code of a unit in MNE's channel table -> our word; all others are arbitrary.
_CODES = {107: "V", 112: "T", 201: "T/m", 7: "rad", 1: "m", 3: "s", 101: "Hz"}
#: Type of channel -> the unit that MNE gives it.
UNIT_OF = {**dict.fromkeys(("eeg", "seeg", "ecog", "dbs"), "V"), "mag": "T", "grad": "T/m"}
#: Type of channel -> smallest and largest plausible spread of the median channel, in V, T or T/m.
PLAUSIBLE = {
    **dict.fromkeys(("eeg", "seeg", "ecog", "dbs"), (2e-8, 1e-2)),
    **dict.fromkeys(("eog", "ecg", "emg"), (0.0, 1e-1)),
    "mag": (1e-16, 1e-7),
    "grad": (1e-15, 1e-6),
}
VOLTAGE = {"V", "mV", "uV", "nV"}
#: Physical dimensions that are no voltage and need no remark.
_OTHER = {
    "%",
    "degc",
    "degf",
    "c",
    "k",
    "bpm",
    "mmhg",
    "cmh2o",
    "l/min",
    "lpm",
    "ohm",
    "kohm",
    "n/a",
    "boolean",
    "s",
    "us",
}
_PIECES, _PIECE = 8, 2.0  # parts of a recording, and s of each, that its spread is told from
_MICRO = str.maketrans({"\u00b5": "u", "\u03bc": "u"})


class AmplitudeError(UnitsError, LoadError):
    """Values cannot be in the unit that the file claims."""


def plain(unit: str) -> str:
    """Return a unit as files write it in our spelling.

    Examples
    --------
    >>> plain("\u00b5V")
    'uV'
    """
    return unit.translate(_MICRO).replace("\x83\xca", "u").strip()


def unit_of(code: int, stated: str, opened: Opened, kind: str) -> tuple[str, float]:
    """Return our unit of a channel and the factor that turns MNE's numbers into it.

    Parameters
    ----------
    code : int
        MNE's code of the unit.
    stated : str
        What the file states, in our spelling.
    opened : Opened
        The file; of those in :data:`STATED` MNE calls every signal a voltage, whatever the file states.
    kind : str
        Type of the channel.
    """
    if kind.startswith("fnirs") and _CODES.get(code) == "V" and stated not in VOLTAGE:
        return "a.u.", 1.0  # MNE calls every intensity of light a voltage
    if kind == "stim" or opened.kind not in STATED:
        return _CODES.get(code, "a.u."), 1.0
    applied = opened.scale(stated)
    if stated in VOLTAGE:
        return "V", 1.0 if UNITS[stated][1] == applied else UNITS[stated][1] / applied
    return (stated if stated in UNITS else "a.u."), 1.0 / applied


def check_unit(name: str, kind: str, unit: str, opened: Opened, where: str) -> None:
    """Refuse a sensor of the brain whose unit in the file is another than its type has."""
    if kind in UNIT_OF and unit != UNIT_OF[kind] and opened.kind not in STATED:
        expected = f"{kind} channels in {UNIT_OF[kind]}"
        raise InputError(explain(where, expected=expected, got=f"{name!r} in {unit}", fix="pass units= or types="))


def warn_without_unit(channels: Sequence[tuple[str, str]], where: str) -> None:
    """Say of which channels (name, unit stated) the unit is arbitrary because none that is known is stated."""
    told = [f"{name} ({stated or 'none'})" for name, stated in channels if stated.lower() not in _OTHER]
    if told:
        names = ", ".join(told[:6]) + (", ..." if len(told) > 6 else "")
        text = f"{where}: no known unit is stated for {names}; read as 'a.u.', pass units= if you know it"
        warnings.warn(text, TectumWarning, stacklevel=2)


def check_amplitude(rec: Recording, where: str) -> None:
    """Refuse values that cannot be in the unit claimed.

    Raises
    ------
    AmplitudeError
        If the spread of the median channel is not plausible for its type.
    """
    kinds, size = rec.coords["channel"]["type"], UNITS[rec.units][1]
    limits = {PLAUSIBLE[k] for k in set(kinds.tolist()) if k in PLAUSIBLE}
    if UNITS[rec.units][0] not in ("voltage", "field", "gradient") or not limits:
        return
    known = np.isin(kinds, list(PLAUSIBLE)) & ~rec.coords["channel"]["bad"]
    low, high = min(a for a, _ in limits) / size, max(b for _, b in limits) / size
    spread = _spread(rec)[known]
    spread = spread[np.isfinite(spread) & (spread > 0)]
    middle = float(np.median(spread)) if len(spread) else low
    if not low <= middle <= high:
        which = "/".join(sorted(set(kinds.tolist())))
        expected = f"a spread of {low:g} to {high:g} {rec.units} in the median {which} channel"
        fix = "the unit that is claimed is wrong: pass units= with what the numbers are in, or units='a.u.'"
        raise AmplitudeError(explain(where, expected=expected, got=f"{middle:.3g} {rec.units}", fix=fix))


def _spread(rec: Recording) -> np.ndarray:
    """Return the typical spread of each channel within parts of the recording: array (n_channels,)."""
    n, length = rec.sizes["time"], max(int(_PIECE * float(rec.rate or 1)), 2)
    if "trial" in rec.dims:
        pieces = list(rec.values[:: max(1, rec.sizes["trial"] // _PIECES)].numpy())
    else:
        starts = np.unique(np.linspace(0, max(n - length, 0), _PIECES).astype(int))
        pieces = [rec.data[:, int(s) : int(s) + length].numpy() for s in starts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        spreads = [np.subtract(*np.nanpercentile(p, [75, 25], axis=1)) / 1.349 for p in pieces]
        return np.asarray(np.nanmedian(np.stack(spreads), axis=0), dtype=np.float64)
