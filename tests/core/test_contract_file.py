"""The input contract: every difference is listed with the call that repairs it, and that call works."""

from __future__ import annotations

import pytest
import torch

from tectum.core.contract import Contract
from tectum.core.errors import AxisError, ContractError
from tectum.core.recording import Recording
from tectum.core.serialize import read, write


def made(names=("A", "B", "C"), **changes) -> Recording:
    fields = {
        "data": torch.zeros(10, len(names)),
        "dims": ("time", "channel"),
        "rate": 100.0,
        "units": "uV",
        "coords": {"channel": {"name": list(names)}},
    }
    return Recording(**{**fields, **changes})


def test_the_same_input_passes_and_the_contract_survives_a_file(tmp_path):
    contract = Contract.of(made(), axis="channel", window=True)
    assert contract.differences(made()) == []
    contract.check(made(), "Decoder.predict")
    assert read(write(tmp_path / "c", contract)) == contract
    unnamed = made(coords={})
    assert contract.differences(unnamed) == []  # nothing contradicts


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (made(("B", "A", "C")), "channel order or extra entries.*rec.sel"),
        (made(("A", "B", "C", "D")), "channel order or extra entries"),
        (made(("A", "B", "X")), r"missing channel \['C'\]"),
        (made(("A", "B"), coords={}), "2 entries of channel instead of 3"),
        (made(rate=200.0), "rate 200.0 Hz instead of 100.0 Hz.*resample"),
        (made(rate=None, times=torch.arange(10)), "rate None Hz"),
        (made(units="V"), r"unit 'V' instead of 'uV'.*rec.to_units\('uV'\)"),
        (made(data=torch.zeros(9, 3)), "9 samples instead of 10"),
        (made().isel(time=0), r"axes \('channel',\) instead of \('time', 'channel'\)"),
    ],
)
def test_each_difference_is_named(given, message):
    contract = Contract.of(made(), axis="channel", window=True)
    with pytest.raises(ContractError, match=f"Decoder.predict: expected input like the training data, got .*{message}"):
        contract.check(given, "Decoder.predict")


def test_all_differences_are_listed_at_once():
    found = Contract.of(made(), axis="channel").differences(made(("C", "A", "B"), rate=50.0, units="V"))
    assert len(found) == 3


@pytest.mark.parametrize("names", [("A", "B", "C"), (7, 8, 9)])
def test_the_proposed_repair_works(names):
    contract = Contract.of(made(names), axis="channel")
    shuffled = made((names[2], names[0], names[1]))
    repaired = shuffled.sel(channel=list(contract.names))
    assert contract.differences(repaired) == []
    assert contract.differences(made(names, units="V").to_units("uV")) == []


def test_an_axis_that_is_not_there():
    with pytest.raises(AxisError, match="Contract: expected an axis among"):
        Contract.of(made(), axis="unit")
