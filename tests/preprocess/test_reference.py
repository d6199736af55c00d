"""Re-referencing: matrices by hand and against MNE, names of shafts, missing samples, the simulated accelerator."""

from __future__ import annotations

from typing import Any

import mne
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tectum import Recording, Session
from tectum.core.errors import InputError
from tectum.preprocess.reference import apply_matrix, bipolar, laplacian, parse_contact, reference

NAMES = ["A1", "A2", "A3", "B1", "B2", "B4", "A'1", "A'2"]


def recording(names: Any = NAMES, n: int = 50, seed: int = 0, **columns: Any) -> Recording:
    data = torch.randn(len(names), n, generator=torch.Generator().manual_seed(seed))
    coords = {"channel": {"name": list(names), **columns}}
    return Recording(data=data, dims=("channel", "time"), rate=100.0, units="uV", coords=coords)


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("A1", ("A", 1)),
        ("A'12", ("A'", 12)),
        ("A\u20193", ("A'", 3)),
        ("LA03", ("LA", 3)),
        ("POL B4", ("B", 4)),
        ("POL B'10", ("B'", 10)),
        ("A1-Ref", ("A", 1)),
        ("EEG C12-Ref", ("C", 12)),
        ("SEEG LAH 2_REF", ("LAH", 2)),
        ("LFP_RIGHT_0", ("LFP_RIGHT", 0)),
        ("ECOG_RIGHT_5", ("ECOG_RIGHT", 5)),
        ("G64", ("G", 64)),
        ("R2A10", ("R2A", 10)),
        ("A-3", ("A", 3)),
        ("Cz", None),
        ("12", None),
        ("EEG 001", None),
        ("A1-A2", None),
        ("", None),
    ],
)
def test_names_of_contacts(name: str, expected: tuple[str, int] | None) -> None:
    assert parse_contact(name) == expected


# Matrices


def test_bipolar_by_hand() -> None:
    rec = recording()
    made = reference(rec, "bipolar")
    x = rec.values
    assert made.labels("channel").tolist() == ["A1-A2", "A2-A3", "B1-B2", "A'1-A'2"]
    torch.testing.assert_close(made.values, torch.stack([x[0] - x[1], x[1] - x[2], x[3] - x[4], x[6] - x[7]]))
    assert made.history[-1]["how"] == "bipolar"
    assert (made.units, made.rate, made.mask) == ("uV", 100.0, None)


def test_laplacian_by_hand() -> None:
    rec = recording()
    x = rec.values
    made = reference(rec, "laplacian")
    assert made.labels("channel").tolist() == ["A2"]
    torch.testing.assert_close(made.values[0], x[1] - (x[0] + x[2]) / 2)
    ends = reference(rec, "laplacian", ends="bipolar")
    assert ends.labels("channel").tolist() == ["A1", "A2", "A3", "B1", "B2", "A'1", "A'2"]
    torch.testing.assert_close(ends.values[3], x[3] - x[4])


def test_average_and_names_against_mne() -> None:
    rec = recording(bad=[False] * 7 + [True])
    info = mne.create_info(NAMES, 100.0, "seeg")
    info["bads"] = NAMES[-1:]
    for how, theirs in (("average", "average"), (["A1", "B2"], ["A1", "B2"])):
        raw = mne.io.RawArray(rec.values.double().numpy(), info, verbose="ERROR")
        raw.set_eeg_reference(theirs, ch_type="seeg", verbose="ERROR")
        made = reference(rec, how)
        assert made.labels("channel").tolist() == NAMES[:-1]
        np.testing.assert_allclose(made.values, raw.get_data()[:-1], atol=1e-6)


def test_bipolar_against_mne() -> None:
    rec = recording()
    raw = mne.io.RawArray(rec.values.double().numpy(), mne.create_info(NAMES, 100.0, "seeg"), verbose="ERROR")
    theirs = mne.set_bipolar_reference(raw, ["A1", "A2", "B1", "A'1"], ["A2", "A3", "B2", "A'2"], verbose="ERROR")
    made = reference(rec, "bipolar")
    for name, row in zip(made.labels("channel"), made.values, strict=True):
        np.testing.assert_allclose(row, theirs.get_data(picks=[str(name)])[0], atol=1e-6)


def test_one_reference_channel_is_left_out() -> None:
    rec = recording()
    made = reference(rec, "A2")
    assert made.labels("channel").tolist() == [n for n in NAMES if n != "A2"]
    torch.testing.assert_close(made.values[0], rec.values[0] - rec.values[1])


@given(st.permutations(list(range(8))), st.integers(0, 5))
def test_order_of_channels_does_not_matter(order: list[int], seed: int) -> None:
    rec = recording(seed=seed)
    turned = rec.isel(channel=order)
    for how in ("bipolar", "laplacian", "average"):
        a, b = reference(rec, how), reference(turned, how)
        names = a.labels("channel").tolist()
        assert sorted(names) == sorted(b.labels("channel").tolist())
        torch.testing.assert_close(a.values, b.sel(channel=names).values)


@given(st.integers(2, 9))
def test_rows_sum_to_zero(n: int) -> None:
    names = [f"A{k}" for k in range(n)]
    places = [("A", k) for k in range(n)]
    for made in (bipolar(names, places), laplacian(names, places), laplacian(names, places, ends="bipolar")):
        np.testing.assert_allclose(made.matrix.sum(axis=1), 0, atol=1e-15)
        assert made.matrix.shape == (len(made.names), n)


# Bad channels, missing samples


def test_bad_channels_take_no_part() -> None:
    rec = recording(bad=[False, True, False, False, False, False, False, False])
    rec.values[1] = torch.nan
    made = reference(rec, "bipolar")
    assert made.labels("channel").tolist() == ["B1-B2", "A'1-A'2"]
    assert made.history[-1]["bad"] == ["A2"]
    average = reference(rec, "average")
    assert bool(torch.isfinite(average.values).all())
    good = [0, 2, 3, 4, 5, 6, 7]
    torch.testing.assert_close(average.values, rec.values[good] - rec.values[good].mean(0))


def test_what_depends_on_a_missing_sample_is_missing() -> None:
    rec = recording()
    rec.values[0, 3] = torch.nan
    mask = torch.ones(8, 50, dtype=torch.bool)
    mask[3, 7] = False
    made = reference(rec.with_(mask=mask), "bipolar")
    assert torch.isnan(made.values).nonzero().tolist() == [[0, 3]]
    assert made.mask is not None
    assert (~made.mask).nonzero().tolist() == [[2, 7]]


def test_trials_and_other_orders_of_axes() -> None:
    rec = recording(n=60)
    cut = rec.windows(0.2)
    expected = reference(rec, "bipolar").windows(0.2)
    torch.testing.assert_close(reference(cut, "bipolar").values, expected.values)
    turned = Recording(data=rec.values.T, dims=("time", "channel"), rate=100.0, coords=rec.coords)
    torch.testing.assert_close(reference(turned, "bipolar").values.T, reference(rec, "bipolar").values)


# Tables


def test_positions_lie_between() -> None:
    x = np.arange(8.0)
    table = {"x": x, "y": -x, "z": np.zeros(8), "region": ["a", "a", "b"] + ["c"] * 5, "size": np.ones(8), "k": x}
    made = reference(recording(type=["seeg"] * 8, **table), "bipolar").coords["channel"]
    np.testing.assert_allclose(made["x"], [0.5, 1.5, 3.5, 6.5])
    np.testing.assert_allclose(made["y"], [-0.5, -1.5, -3.5, -6.5])
    assert made["region"].tolist() == ["a", "a/b", "c", "c"]
    assert made["type"].tolist() == ["seeg"] * 4
    assert made["size"].tolist() == [1.0] * 4
    assert "k" not in made


def test_shafts_from_columns() -> None:
    rec = recording(["x", "y", "z", "w"], shaft=["A", "A", "B", "B"], number=[2, 1, 1, 2])
    made = reference(rec, "bipolar", shaft="shaft", contact="number")
    assert made.labels("channel").tolist() == ["y-x", "z-w"]
    named = recording(["e1", "e2", "e3"], shaft=["A", "A", "B"])
    assert reference(named, "bipolar", shaft="shaft").labels("channel").tolist() == ["e1-e2"]


# Devices


@pytest.mark.parametrize("how", ["average", "bipolar", "laplacian", "A1"])
def test_the_accelerator_agrees(accelerator: torch.device, how: str) -> None:
    rec = recording(bad=[False] * 7 + [True])
    mask = torch.ones(8, 1, dtype=torch.bool)
    rec = rec.with_(mask=mask)
    made = reference(rec.to(accelerator), how)
    assert made.device == accelerator
    torch.testing.assert_close(made.to("cpu").values, reference(rec, how).values)


def test_the_function_below_keeps_the_device(accelerator: torch.device) -> None:
    x, seen, matrix = torch.randn(5, 3), torch.ones(5, 3, dtype=torch.bool), torch.tensor([[1.0, -1.0, 0.0]])
    values, valid = apply_matrix(x.to(accelerator), seen.to(accelerator), matrix.to(accelerator))
    assert (values.device, valid.device) == (accelerator, accelerator)
    torch.testing.assert_close(values.cpu(), x[:, :1] - x[:, 1:2])


# Wrong input


@pytest.mark.parametrize(
    ("rec", "how", "options", "says"),
    [
        (
            recording(["A1", "Cz", "A2"]),
            "bipolar",
            {},
            r"reference: expected names with a number.* got 'Cz'; mark them",
        ),
        (recording(["A1-A2", "A2-A3"]), "bipolar", {}, "expected names with a number"),
        (recording(["A1", "A01", "A2"]), "bipolar", {}, "expected each contact once, got A1"),
        (recording(["A1", "A3", "B5"]), "bipolar", {}, r"expected neighbouring contacts, got none in \['A1', 'A3'"),
        (recording(["C3", "C4"], type=["eeg", "eeg"]), "bipolar", {}, r"got scalp channels \('eeg'\); say what they"),
        (recording(), "bipolr", {}, r"reference\(how\): expected one of 'average', .* got 'bipolr'"),
        (recording(), ["A1", "Z9"], {}, r"reference\(how\): .* got 'Z9'"),
        (recording(bad=[True] + [False] * 7), "A1", {}, "got 'A1', which is bad"),
        (recording(bad=[True] * 7 + [False]), "average", {}, "expected at least two good channels, got 1 of 8"),
        (recording(), "laplacian", {"ends": "keep"}, r"reference\(ends\): expected 'drop' or 'bipolar', got 'keep'"),
        (recording(), "bipolar", {"shaft": "shaf"}, "expected an existing column, got 'shaf'"),
        (recording(no=[0.5] * 8), "bipolar", {"contact": "no"}, r"reference\(contact\): expected a column of whole"),
        (recording(), [], {}, "expected a way or names of channels, got none"),
        (recording().rename(channel="unit"), "average", {}, "expected a recording with a channel axis"),
        (Session(items_={"a": recording()}), "average", {}, "expected a recording with a channel axis"),
    ],
)
def test_bad_input_is_named(rec: Any, how: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        reference(rec, how, **options)


def test_the_input_is_not_changed() -> None:
    rec = recording()
    before = rec.values.clone()
    reference(rec, "average")
    torch.testing.assert_close(rec.values, before, rtol=0, atol=0)
