"""An opened file: MNE's objects over it, and what they do not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .fieldtrip import FieldTrip


@dataclass(frozen=True)
class Opened:
    """What was opened.

    Parameters
    ----------
    kind : str
        Format.
    objects : list
        MNE's Raw objects (one for each sampling rate of an EDF file), one Epochs object, or Evoked objects.
    units : mapping of str to str
        Unit that the file states for each channel, as written; empty where the format states none.
    scale : function of str
        Number that MNE multiplied values in a stated unit with.
    typed : bool
        Whether the format tells what its channels are.
    extra : FieldTrip, optional
        What the file holds that MNE's objects have no place for.
    edges : tuple of int
        Samples that MNE cannot read across, as between the blocks of Nihon Kohden.
    """

    kind: str
    objects: list[Any]
    units: Mapping[str, str] = field(default_factory=dict)
    scale: Callable[[str], float] = lambda unit: 1.0
    typed: bool = True
    extra: FieldTrip | None = None
    edges: tuple[int, ...] = ()


def edf_scale(unit: str) -> float:
    """Return the factor that MNE applies to a physical dimension of an EDF file: it knows microvolt and millivolt."""
    return 1e-3 if unit == "mV" else 1e-6 if unit in ("uV", "\u00b5V", "\u03bcV", "\x83\xcaV") else 1.0


def volts(unit: str) -> float:
    """Return the size of a unit of voltage in V, 1 for others."""
    plain = unit.replace("\u00b5", "u").replace("\u03bc", "u").replace("\x83\xca", "u")
    return {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "nV": 1e-9}.get(plain, 1.0)
