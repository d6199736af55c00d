"""Units: a closed table, exact factors, no guesses."""

from __future__ import annotations

import math

import pytest

from tectum.core.errors import UnitsError
from tectum.core.units import UNITS, check_units, conversion


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_converts_to_itself(unit):
    assert conversion(unit, unit) == 1.0


def test_factors_are_exact_and_inverse():
    assert conversion("V", "uV") == 1e6
    assert conversion("uV", "mV") == 1e-3
    assert conversion("nV", "V") == 1e-9
    assert conversion("T/m", "fT/cm") == 1e13
    assert conversion("dF/F %", "dF/F") == 0.01
    assert conversion("deg", "rad") == math.pi / 180
    for a, (quantity, _) in UNITS.items():
        for b, (other, _) in UNITS.items():
            if quantity == other:
                assert conversion(a, b) * conversion(b, a) == pytest.approx(1.0, rel=1e-15)


def test_unknown_and_incompatible_units_raise():
    with pytest.raises(UnitsError, match="Recording.units: expected a unit .* got 'uv'; did you mean 'uV'"):
        check_units("uv", "Recording.units")
    with pytest.raises(UnitsError, match=r"expected a unit of voltage, got 's' \(time\)"):
        conversion("V", "s")
    with pytest.raises(UnitsError, match="pass units='a.u.'"):
        check_units("", "x")
