"""Physical units: a closed table. An unknown unit raises; none is guessed."""

from __future__ import annotations

from decimal import Decimal

from .errors import UnitsError, explain, nearest

#: Unit -> (quantity, size in the quantity's base unit).
UNITS: dict[str, tuple[str, float]] = {
    "V": ("voltage", 1.0), "mV": ("voltage", 1e-3), "uV": ("voltage", 1e-6), "nV": ("voltage", 1e-9),
    "T": ("field", 1.0), "pT": ("field", 1e-12), "fT": ("field", 1e-15), "T/m": ("gradient", 1.0),
    "fT/cm": ("gradient", 1e-13), "dF/F": ("relative fluorescence", 1.0), "dF/F %": ("relative fluorescence", 1e-2),
    "F": ("fluorescence", 1.0), "deconvolved": ("deconvolved activity", 1.0), "spikes/bin": ("count", 1.0),
    "spikes/s": ("event rate", 1.0), "BOLD": ("BOLD signal", 1.0), "BOLD %": ("relative BOLD signal", 1.0),
    "z": ("standard score", 1.0), "s": ("time", 1.0), "ms": ("time", 1e-3), "m": ("length", 1.0),
    "cm": ("length", 1e-2), "mm": ("length", 1e-3), "um": ("length", 1e-6), "m/s": ("speed", 1.0),
    "cm/s": ("speed", 1e-2), "rad": ("angle", 1.0), "deg": ("angle", 0.017453292519943295),
    "Hz": ("frequency", 1.0), "dB": ("level", 1.0), "power": ("power", 1.0), "probability": ("probability", 1.0),
    "synapses": ("synapse count", 1.0), "a.u.": ("arbitrary", 1.0), "1": ("number", 1.0),
}  # fmt: skip


def check_units(units: str, where: str) -> str:
    """Return ``units`` if it is in the table.

    Raises
    ------
    UnitsError
        If the unit is unknown; the message names the closest known one.

    Examples
    --------
    >>> check_units("uV", "demo")
    'uV'
    """
    if units not in UNITS:
        raise UnitsError(
            explain(
                where,
                expected="a unit of tectum.core.units.UNITS",
                got=repr(units),
                fix=f"{nearest(units, UNITS)}; pass units='a.u.' if the scale is truly unknown",
            )
        )
    return units


def conversion(source: str, target: str, where: str = "to_units") -> float:
    """Return the factor that turns numbers in ``source`` into numbers in ``target``.

    Examples
    --------
    >>> conversion("mV", "uV")
    1000.0
    """
    (quantity, size), (wanted, base) = UNITS[check_units(source, where)], UNITS[check_units(target, where)]
    if quantity != wanted:
        raise UnitsError(explain(where, expected=f"a unit of {quantity}", got=f"{target!r} ({wanted})"))
    return float(Decimal(str(size)) / Decimal(str(base)))  # exact powers of ten
