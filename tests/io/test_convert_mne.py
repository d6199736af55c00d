"""MNE objects in and out: equal numbers, times, names, and nothing lost but what the module lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import eeg as writer

import tectum
from tectum import Intervals, Recording, Session
from tectum.core.convert import CONVERTERS, as_container
from tectum.core.errors import InputError, TectumWarning, UnitsError
from tectum.io.convert import from_mne, to_mne
from tectum.io.convert.eeg import LOST
from tectum.io.eeg.units import AmplitudeError

UNITS = {"seeg": ["V", "mV", "uV"], "mag": ["T", "fT"], "grad": ["T/m", "fT/cm"], "misc": ["z"]}
SCALE = {"seeg": 3e-5, "mag": 1e-12, "grad": 1e-11, "misc": 1.0}


def epochs(n: int = 5, metadata: bool = True) -> Any:
    import pandas

    raw = writer.raw("seeg", ("A1", "A2"))
    events = np.array([[100 + 150 * k, 0, 1 + k % 2] for k in range(n)])
    table = pandas.DataFrame({"word": [f"w{k}" for k in range(n)], "speed": np.arange(n) + 0.5}) if metadata else None
    raw.set_annotations(None)
    return mne.Epochs(
        raw, events, {"go": 1, "stop": 2}, -0.2, 0.5, baseline=None, metadata=table, preload=True, verbose="ERROR"
    )


# In


def test_raw_comes_in_equal() -> None:
    raw = writer.raw("seeg")
    rec = from_mne(raw)
    assert isinstance(rec, Recording)
    assert rec.dims == ("channel", "time")
    np.testing.assert_array_equal(rec.values.numpy(), raw.get_data().astype(np.float32))
    np.testing.assert_allclose(rec.time.numpy(), raw.times, rtol=0, atol=1e-9)
    table = rec.coords["channel"]
    assert table["name"].tolist() == raw.ch_names
    assert table["type"].tolist() == ["seeg"] * 4
    assert table["bad"].tolist() == [False, True, False, False]
    assert (rec.units, rec.modality) == ("V", "seeg")


def test_annotations_and_bad_spans() -> None:
    rec = from_mne(writer.raw("seeg"))
    notes = rec.intervals["annotations"]
    np.testing.assert_allclose(notes.pairs(), [(1.0, 1.0), (2.5, 3.0), (4.0, 5.0)], rtol=0, atol=1e-9)
    assert notes.columns["label"].tolist() == ["go", "BAD_move", "stop"]
    assert rec.intervals["bad"].pairs() == [(2.5, 3.0)]


def test_the_clock_begins_at_the_measurement_date() -> None:
    raw = writer.raw("seeg", first=250)
    rec = from_mne(raw)
    assert rec.t0 == 2.5
    np.testing.assert_allclose(rec.intervals["annotations"].start, raw.annotations.onset, rtol=0, atol=1e-9)
    np.testing.assert_allclose(rec.intervals["annotations"].start, [3.5, 5.0, 6.5], rtol=0, atol=1e-9)
    cropped = from_mne(raw.copy().crop(1.0, 4.0))
    assert cropped.t0 == 3.5
    expected = rec.sel(time=(3.5, 6.51)).values
    torch.testing.assert_close(cropped.values, expected, rtol=0, atol=0)


def test_triggers_become_events() -> None:
    data = writer.volts(3)
    data[2] = 0
    data[2, [100, 350, 700]] = [3, 7, 3]
    raw = writer.raw(["eeg", "eeg", "stim"], ("Fz", "Cz", "STI"), data=data, first=50)
    rec = from_mne(raw)
    assert isinstance(rec, Recording)
    events = rec.intervals["events"]
    np.testing.assert_allclose(events.start, [1.5, 4.0, 7.5], rtol=0, atol=1e-9)
    assert events.columns["value"].tolist() == [3, 7, 3]
    assert events.columns["label"].tolist() == ["3", "7", "3"]
    assert rec.coords["channel"]["name"].tolist() == ["Fz", "Cz"]
    cut = rec.epochs(events.where("label", "3"), (-0.5, 0.5))
    expected = np.stack([data[:2, 50:150], data[:2, 650:750]]).astype(np.float32)
    np.testing.assert_array_equal(cut.values.numpy(), expected)
    assert cut.coords["trial"]["label"].tolist() == ["3", "3"]


def test_a_trigger_channel_without_whole_numbers() -> None:
    raw = writer.raw(["eeg", "eeg", "stim"], ("Fz", "Cz", "STI"), data=writer.volts(3))
    with pytest.warns(TectumWarning, match="trigger channel 'STI' holds values that are no whole numbers"):
        rec = from_mne(raw)
    assert "events" not in rec.intervals
    assert rec.history[0]["triggers"] == ["STI"]


def test_types_never_share_a_recording() -> None:
    raw = writer.raw(["eeg", "eog", "mag", "grad"], data=writer.volts() * np.array([[1], [1], [1e-7], [1e-6]]))
    found = from_mne(raw)
    assert isinstance(found, Session)
    assert {name: (part.units, part.shape[0]) for name, part in found.items()} == {
        "eeg": ("V", 1),
        "eog": ("V", 1),
        "mag": ("T", 1),
        "grad": ("T/m", 1),
    }
    picked = from_mne(raw, picks=["eeg", "eog"])
    assert picked.coords["channel"]["type"].tolist() == ["eeg", "eog"]
    with pytest.raises(InputError, match="picks: expected channels of one unit and rate, got mag in T at 100"):
        from_mne(raw, picks=["mag", "grad"])
    with pytest.raises(InputError, match="expected channels of signals, got none of 'ecg'"):
        from_mne(raw, picks="ecg")


def test_epochs_come_in_with_their_table() -> None:
    made = epochs()
    rec = from_mne(made)
    assert rec.dims == ("trial", "channel", "time")
    np.testing.assert_array_equal(rec.values.numpy(), made.get_data().astype(np.float32))
    np.testing.assert_allclose(rec.time.numpy(), made.times, rtol=0, atol=1e-9)
    trial = rec.coords["trial"]
    assert trial["label"].tolist() == ["go", "stop", "go", "stop", "go"]
    assert trial["word"].tolist() == [f"w{k}" for k in range(5)]
    np.testing.assert_allclose(trial["speed"], np.arange(5) + 0.5)
    np.testing.assert_allclose(trial["start"], [1.0, 2.5, 4.0, 5.5, 7.0], rtol=0, atol=1e-9)


def test_epochs_cut_here_equal_those_cut_by_mne() -> None:
    raw = writer.raw("seeg")
    rec = from_mne(raw)
    events, codes = mne.events_from_annotations(raw, verbose="ERROR")
    theirs = mne.Epochs(raw, events, {"go": codes["go"]}, -0.5, 0.5, baseline=None, preload=True, verbose="ERROR")
    ours = rec.epochs(rec.intervals["annotations"].where("label", "go"), (-0.5, 0.51))
    np.testing.assert_array_equal(ours.values.numpy(), theirs.get_data().astype(np.float32))
    np.testing.assert_allclose(ours.time.numpy(), theirs.times, rtol=0, atol=1e-9)


def test_evoked() -> None:
    made = epochs().average(picks="seeg")
    rec = from_mne(made)
    assert rec.dims == ("channel", "time")
    np.testing.assert_array_equal(rec.values.numpy(), made.data.astype(np.float32))
    assert rec.meta["selected"]["trial"]["n_averaged"] == 5
    back = to_mne(rec)
    assert isinstance(back, mne.Evoked)
    assert back.nave == 5
    np.testing.assert_allclose(back.times, made.times, rtol=0, atol=1e-9)


def test_an_object_is_not_changed() -> None:
    raw = writer.raw("seeg")
    before, info = raw.get_data(), raw.info.copy()
    from_mne(raw, types="dbs")
    np.testing.assert_array_equal(raw.get_data(), before)
    assert raw.get_channel_types() == ["seeg"] * 4
    assert raw.info["ch_names"] == info["ch_names"]


@pytest.mark.parametrize("preload", [False, True])
def test_what_is_done_to_an_object_later_stays_outside(tmp_path: Path, preload: bool) -> None:
    writer.write_fif(tmp_path / "a_raw.fif", types="seeg")
    raw = mne.io.read_raw_fif(tmp_path / "a_raw.fif", preload=preload, verbose="ERROR")
    before = raw.get_data()
    rec = from_mne(raw)
    assert rec.is_lazy is not preload
    raw.load_data(verbose="ERROR").apply_function(lambda x: x * 0, picks="all")
    np.testing.assert_array_equal(rec.values.numpy(), before.astype(np.float32))


def test_every_fit_takes_mne_objects() -> None:
    assert CONVERTERS["mne"] == "tectum.io.convert.eeg:from_mne"
    assert as_container(writer.raw("seeg")).sizes == {"channel": 4, "time": 1000}
    assert tectum.read(epochs()).sizes == {"trial": 5, "channel": 2, "time": 71}


# What cannot be


def test_standardised_values_are_no_volts() -> None:
    raw = writer.raw("seeg", data=writer.volts() * 5e4)
    with pytest.raises(AmplitudeError, match=r"from_mne: expected a spread of .* V .* got .* pass units="):
        from_mne(raw)
    assert from_mne(raw, units="z").units == "z"
    with pytest.raises(UnitsError, match="did you mean"):
        from_mne(raw, units="uv")


def test_other_objects_are_refused() -> None:
    with pytest.raises(InputError, match=r"from_mne: expected Raw, Epochs or Evoked, got mne\..*Info"):
        from_mne(mne.create_info(["a"], 1.0))
    with pytest.raises(InputError, match=r"types: expected names of channels, got 'Fp9'; did you mean 'Fp1'"):
        from_mne(writer.raw(), types={"Fp9": "eog"})


def plain(units: str = "uV", **fields: Any) -> Recording:
    return Recording(data=torch.ones(2, 40), dims=("channel", "time"), rate=20.0, units=units, **fields)


def test_what_mne_has_no_place_for() -> None:
    with pytest.raises(InputError, match=r"to_mne: expected axes \(channel, time\)"):
        to_mne(plain().rename(channel="unit"))
    with pytest.raises(InputError, match="to_mne: expected a recording without missing entries"):
        to_mne(plain().with_(mask=torch.tensor([[True], [False]])))
    with pytest.raises(InputError, match="to_mne: expected types measured in V, got 'mag'"):
        to_mne(plain(coords={"channel": {"type": ["mag", "mag"]}}))
    with pytest.raises(InputError, match="to_mne: expected channels of different names"):
        to_mne(plain(coords={"channel": {"name": ["a", "a"]}}))
    assert to_mne(plain("z")).get_channel_types() == ["misc", "misc"]


def test_the_list_of_losses_is_one() -> None:
    assert len(LOST) == len(set(LOST)) >= 8
    assert all(isinstance(line, str) and len(line) > 10 for line in LOST)


# Round trips


@st.composite
def recordings(draw: Any) -> Recording:
    kind = draw(st.sampled_from(sorted(UNITS)))
    n_channels, n_times = draw(st.integers(1, 4)), draw(st.integers(8, 40))
    n_trials = draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    rate = draw(st.sampled_from([100.0, 250.0, 512.0, 1000.0 / 3]))
    units = draw(st.sampled_from(UNITS[kind]))
    shape = (n_trials, n_channels, n_times) if n_trials else (n_channels, n_times)
    size = tectum.core.units.UNITS[units][1] if kind != "misc" else 1.0
    data = torch.from_numpy((rng.normal(size=shape) * SCALE[kind] / size).astype(np.float32))
    table = {
        "name": [f"A{k + 1}" for k in range(n_channels)],
        "type": [kind] * n_channels,
        "bad": rng.random(n_channels) < 0.3,
        **({a: rng.normal(scale=0.05, size=n_channels) for a in "xyz"} if draw(st.booleans()) else {}),
    }
    coords: dict[str, Any] = {"channel": table}
    t0 = draw(st.integers(-20 if n_trials else 0, 500)) / rate
    intervals = {}
    if n_trials:
        start = np.sort(rng.choice(2000, n_trials, replace=False)) / rate
        coords["trial"] = {
            "label": rng.choice(["go", "stop"], n_trials),
            "start": start,
            "stop": start,
            "score": rng.random(n_trials),
            "word": rng.choice(["a", "b"], n_trials),
        }
    elif draw(st.booleans()):
        first = t0 + rng.uniform(0, n_times / rate * 0.4, 2)
        columns = {"label": ["go", "BAD x"], "channels": ["A1", ""]}
        intervals["annotations"] = Intervals(
            start=torch.from_numpy(first), stop=torch.from_numpy(first + n_times / rate * 0.3), columns=columns
        )
    meta = {"measured": "2024-01-02T03:04:05+00:00"} if draw(st.booleans()) else {}
    return Recording(
        data=data,
        dims=("trial", "channel", "time")[-len(shape) :],
        rate=rate,
        t0=t0,
        units=units,
        coords=coords,
        intervals=intervals,
        meta=meta,
        subject=draw(st.sampled_from(["", "s01"])),
    )


def base(units: str) -> str:
    return {"mV": "V", "uV": "V", "fT": "T", "fT/cm": "T/m", "z": "a.u."}.get(units, units)


@settings(max_examples=40)
@given(recordings())
def test_a_round_trip_keeps_all_but_what_is_listed(rec: Recording) -> None:
    back = from_mne(to_mne(rec), events=False)
    assert isinstance(back, Recording)
    assert (back.dims, back.units, back.subject) == (rec.dims, base(rec.units), rec.subject)
    assert back.rate == pytest.approx(rec.rate, rel=1e-12)
    assert back.t0 == pytest.approx(rec.t0, abs=1e-9)
    expected = rec.values if rec.units == "z" else rec.to_units(base(rec.units)).values
    torch.testing.assert_close(back.values, expected, rtol=3e-7, atol=0)
    for column in set(rec.coords["channel"]) & {"name", "type", "bad"}:
        assert back.coords["channel"][column].tolist() == rec.coords["channel"][column].tolist()
    for axis in set(rec.coords["channel"]) & set("xyz"):
        np.testing.assert_allclose(back.coords["channel"][axis], rec.coords["channel"][axis], rtol=0, atol=1e-12)
    if "trial" in rec.dims:
        for column, values in rec.coords["trial"].items():
            found = back.coords["trial"][column]
            if values.dtype.kind == "U":
                assert found.tolist() == values.tolist()
            else:
                np.testing.assert_allclose(found, values, rtol=0, atol=1e-9)
    assert back.meta.get("measured") == rec.meta.get("measured")
    if "annotations" in rec.intervals:
        ours, theirs = rec.intervals["annotations"], back.intervals["annotations"]
        np.testing.assert_allclose(theirs.start, ours.start, rtol=0, atol=2e-6)
        np.testing.assert_allclose(theirs.stop, ours.stop, rtol=0, atol=2e-6)
        assert theirs.columns["label"].tolist() == ours.columns["label"].tolist()
        assert theirs.columns["channels"].tolist() == ours.columns["channels"].tolist()


@pytest.mark.parametrize("first", [0, 333])
def test_an_object_of_mne_comes_back(first: int) -> None:
    raw = writer.raw("seeg", first=first, data=writer.volts().astype(np.float32))
    back = to_mne(from_mne(raw))
    np.testing.assert_array_equal(back.get_data(), raw.get_data())
    assert (back.first_samp, back.info["meas_date"]) == (raw.first_samp, raw.info["meas_date"])
    assert back.info["bads"] == raw.info["bads"]
    assert back.annotations.description.tolist() == raw.annotations.description.tolist()
    np.testing.assert_allclose(back.annotations.onset, raw.annotations.onset, rtol=0, atol=1e-9)


def test_epochs_of_mne_come_back() -> None:
    made = epochs()
    back = to_mne(from_mne(made))
    np.testing.assert_allclose(back.get_data(), made.get_data(), rtol=1e-7)
    np.testing.assert_array_equal(back.events, made.events)
    assert back.event_id == made.event_id
    assert back.metadata.to_dict("list") == made.metadata.to_dict("list")
