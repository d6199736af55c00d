"""EEG, sEEG and MEG files: equality with MNE and with what was written, units, types, clocks, laziness, damage."""

from __future__ import annotations

import builtins
import shutil
import warnings
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
import torch
from writers import eeg as writer
from writers.mutate import survive

import tectum
from tectum import Intervals, Recording, Session
from tectum.core.errors import InputError, LoadError, TectumWarning, UnitsError
from tectum.io.detect import detect
from tectum.io.eeg.files import format_of
from tectum.io.eeg.read import read_eeg
from tectum.io.eeg.units import AmplitudeError
from tectum.io.files import ContentError

LABELS = ["go", "BAD_move"]


def same_as_mne(rec: Recording, raw: Any, picks: Any = "all") -> None:
    """Compare values bit by bit, times to 1e-9, names and bad channels."""
    theirs = raw.copy().pick(picks)
    np.testing.assert_array_equal(rec.values.numpy(), theirs.get_data().astype(np.float32))
    np.testing.assert_allclose(rec.time.numpy(), theirs.times + theirs.first_time, rtol=0, atol=1e-9)
    assert rec.coords["channel"]["name"].tolist() == theirs.ch_names
    assert rec.coords["channel"]["bad"].tolist() == [n in theirs.info["bads"] for n in theirs.ch_names]
    assert rec.rate == theirs.info["sfreq"]


# EDF and BDF


@pytest.mark.parametrize("suffix", [".edf", ".bdf"])
def test_edf_and_bdf_equal_edfio_and_mne(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    values = writer.write_edf(path)
    rec = tectum.read(path)
    assert rec.dims == ("channel", "time")
    assert rec.is_lazy
    assert (rec.units, rec.modality, rec.values.dtype) == ("V", "eeg", torch.float32)
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=1e-6, atol=1e-12)
    read = mne.io.read_raw_edf if suffix == ".edf" else mne.io.read_raw_bdf
    same_as_mne(rec, read(path, verbose="ERROR"))
    assert rec.intervals["annotations"].columns["label"].tolist() == LABELS
    np.testing.assert_allclose(rec.intervals["annotations"].pairs(), [(1.0, 1.0), (2.5, 3.0)], rtol=0, atol=1e-9)
    assert rec.intervals["bad"].pairs() == [(2.5, 3.0)]
    assert rec.meta["format"] == suffix[1:].upper()
    assert rec.meta["measured"].startswith("2024-01-02")
    assert rec.history[0]["unit_in_file"] == ["uV"]


def test_parts_are_read_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    writer.write_edf(path)
    rec = tectum.read(path)
    whole = rec.values
    torch.testing.assert_close(rec.sel(time=(2.0, 3.5)).values, whole[:, 200:350], rtol=0, atol=0)
    torch.testing.assert_close(rec.isel(channel=[3, 1], time=slice(5, 8)).values, whole[[3, 1], 5:8], rtol=0, atol=0)
    torch.testing.assert_close(torch.cat([b.values for b in rec.blocks(301)], 1), whole, rtol=0, atol=0)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(LoadError, match=r"a\.edf: expected the data that were there when it was opened"):
        rec.isel(time=slice(500, None))


@pytest.mark.parametrize("unit", ["nV", "uV", "mV", "V"])
def test_every_unit_of_voltage_is_converted(tmp_path: Path, unit: str) -> None:
    path = tmp_path / "a.edf"
    values = writer.write_edf(path, unit=unit)
    rec = tectum.read(path)
    assert rec.units == "V"
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(values, writer.volts(), rtol=0, atol=3e-9)


def test_signals_of_other_quantities_are_no_voltage(tmp_path: Path) -> None:
    import edfio

    path = tmp_path / "sleep.edf"
    rng = np.random.default_rng(0)
    made = [
        edfio.EdfSignal(rng.normal(scale=20, size=1000), 100.0, label="EEG Fpz-Cz", physical_dimension="uV"),
        edfio.EdfSignal(rng.normal(scale=60, size=1000), 100.0, label="EOG left", physical_dimension="uV"),
        edfio.EdfSignal(rng.normal(scale=30, size=10), 1.0, label="Temp rectal", physical_dimension="degC"),
        edfio.EdfSignal(rng.normal(scale=30, size=10), 1.0, label="Pulse", physical_dimension="bpm"),
        edfio.EdfSignal(rng.normal(scale=30, size=10), 1.0, label="Event", physical_dimension=""),
    ]
    edfio.Edf(made).write(path)
    with pytest.warns(TectumWarning, match=r"no known unit is stated for Event \(none\)"):
        found = tectum.read(path)
    assert isinstance(found, Session)
    assert {k: (p.units, p.rate, p.shape) for k, p in found.items()} == {
        "eeg_V_100Hz": ("V", 100.0, (1, 1000)),
        "eog": ("V", 100.0, (1, 1000)),
        "eeg_a.u._1Hz": ("a.u.", 1.0, (1, 10)),
        "temperature": ("a.u.", 1.0, (1, 10)),
        "misc": ("a.u.", 1.0, (1, 10)),
    }


def test_slower_signals_are_not_interpolated(tmp_path: Path) -> None:
    import edfio

    path = tmp_path / "a.edf"
    fast, slow = np.sin(np.arange(1000)) * 50, np.arange(100) % 7 * 10.0
    made = [
        edfio.EdfSignal(fast, 100.0, label="A1", physical_dimension="uV"),
        edfio.EdfSignal(slow, 10.0, label="B1", physical_dimension="uV"),
    ]
    edfio.Edf(made).write(path)
    found = tectum.read(path)
    assert list(found) == ["eeg_100Hz", "eeg_10Hz"]
    np.testing.assert_allclose(found["eeg_10Hz"].values[0], slow * 1e-6, atol=2e-9)
    np.testing.assert_allclose(found["eeg_100Hz"].values[0], fast * 1e-6, atol=2e-9)
    assert found["eeg_10Hz"].duration == found["eeg_100Hz"].duration == 10.0
    with pytest.raises(InputError, match="picks: expected channels of one unit and rate, got eeg in V at 100 Hz, eeg"):
        tectum.read(path, picks="eeg")
    assert tectum.read(path, picks="B1").rate == 10.0


def test_a_cut_file_is_refused_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    values = writer.write_edf(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 1500])
    with pytest.raises(
        LoadError, match=r"a\.edf: expected 10 records of \d+ bytes, got \d+ bytes of data; the file was"
    ):
        tectum.read(path)
    with pytest.warns(TectumWarning, match="Number of records from the header does not match"):
        rec = tectum.read(path, truncated=True)
    n = rec.sizes["time"]
    assert 800 <= n < 1000
    np.testing.assert_allclose(rec.values.numpy(), values[:, :n], rtol=1e-6, atol=1e-12)


def test_a_recording_that_was_not_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    writer.write_edf(path)
    data = bytearray(path.read_bytes())
    data[236:244] = b"-1      "
    path.write_bytes(data)
    with pytest.warns(TectumWarning, match="Number of records from the header does not match"):
        assert tectum.read(path).shape == (4, 1000)


def test_gaps_between_records_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    writer.write_edf(path)
    data = bytearray(path.read_bytes())
    data[192:197] = b"EDF+D"
    path.write_bytes(data)
    assert tectum.read(path).shape == (4, 1000)  # discontinuous by name only
    place = data.index(b"+5\x14\x14")
    data[place : place + 4] = b"+9\x14\x14"
    path.write_bytes(data)
    with pytest.raises(LoadError, match=r"expected records without gaps \(EDF\+D\), got a gap before 9 s; split"):
        tectum.read(path)


# BrainVision


@pytest.mark.parametrize("fmt", ["binary_float32", "binary_int16"])
def test_brainvision_equals_pybv_and_mne(tmp_path: Path, fmt: str) -> None:
    values = writer.write_brainvision(tmp_path / "a.vhdr", fmt)
    rec = tectum.read(tmp_path / "a.vhdr")
    tolerance = 1.0001e-7 if fmt == "binary_int16" else 1e-10
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=0, atol=tolerance)
    same_as_mne(rec, mne.io.read_raw_brainvision(tmp_path / "a.vhdr", verbose="ERROR"))
    notes = rec.intervals["annotations"]
    assert notes.columns["label"].tolist()[-2:] == ["Stimulus/S  1", "Stimulus/S  2"]
    np.testing.assert_allclose(notes.start[-2:], [1.0, 9.99], rtol=0, atol=1e-9)
    assert tectum.read(tmp_path / "a.eeg").shape == rec.shape


def test_a_cut_brainvision_file_is_refused(tmp_path: Path) -> None:
    writer.write_brainvision(tmp_path / "a.vhdr")
    data = tmp_path / "a.eeg"
    data.write_bytes(data.read_bytes()[: -16 * 100])
    with pytest.raises(LoadError, match=r"a\.vmrk: expected markers within 900 samples, got a marker at sample 1000"):
        tectum.read(tmp_path / "a.vhdr")
    data.write_bytes(data.read_bytes()[:-3])
    with pytest.raises(
        LoadError, match=r"a\.eeg: expected .* samples of 16 bytes, got \d+ bytes; the file was cut off"
    ):
        tectum.read(tmp_path / "a.vhdr")


# FIF


def test_fif_equals_mne(tmp_path: Path) -> None:
    path = tmp_path / "a_raw.fif"
    raw = writer.write_fif(path, types="seeg", first=300)
    rec = tectum.read(path)
    assert rec.t0 == 3.0
    assert rec.modality == "seeg"
    same_as_mne(rec, mne.io.read_raw_fif(path, verbose="ERROR"))
    np.testing.assert_allclose(rec.intervals["annotations"].start, raw.annotations.onset, rtol=0, atol=1e-6)
    assert rec.coords["channel"]["bad"].tolist() == [False, True, False, False]


def test_compressed_fif(tmp_path: Path) -> None:
    raw = writer.write_fif(tmp_path / "a_raw.fif.gz", types="seeg")
    rec = tectum.read(tmp_path / "a_raw.fif.gz")
    np.testing.assert_array_equal(rec.values.numpy(), raw.get_data().astype(np.float32))
    data = (tmp_path / "a_raw.fif.gz").read_bytes()
    (tmp_path / "a_raw.fif.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(LoadError, match=r"a_raw\.fif\.gz: expected"):
        tectum.read(tmp_path / "a_raw.fif.gz")


def test_a_long_recording_in_several_files(tmp_path: Path) -> None:
    raw = writer.raw("seeg", data=writer.volts(4, 120_000))
    raw.save(tmp_path / "a_raw.fif", split_size="1.1MB", buffer_size_sec=1.0, verbose="ERROR")
    assert (tmp_path / "a_raw-1.fif").is_file()
    rec = tectum.read(tmp_path / "a_raw.fif")
    np.testing.assert_array_equal(rec.values.numpy(), raw.get_data().astype(np.float32))
    second = tmp_path / "a_raw-1.fif"
    second.write_bytes(second.read_bytes()[:-5000])
    with pytest.raises(LoadError, match=r"a_raw-1\.fif: expected a chain of tags up to the last"):
        tectum.read(tmp_path / "a_raw.fif")
    second.unlink()
    with pytest.raises(LoadError, match=r"a_raw\.fif: expected a recording .*Split raw file detected but next file"):
        tectum.read(tmp_path / "a_raw.fif")


def test_unused_signals_without_a_range(tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    writer.write_edf(path)
    data = bytearray(path.read_bytes())
    place = 256 + 5 * (16 + 80 + 8) + 8  # physical minimum of the second of five signals, then maximum
    data[place : place + 8] = data[place + 40 : place + 48] = b"0       "
    path.write_bytes(data)
    with pytest.warns(TectumWarning, match="Physical range is not defined in following channels: Cz"):
        assert tectum.read(path).shape == (4, 1000)


def test_meg_is_parted_by_unit(tmp_path: Path) -> None:
    data = writer.volts(5) * np.array([[1e-7], [1e-7], [1e-6], [1], [0]])
    data[4, [200, 500]] = [5, 6]
    types = ["mag", "mag", "grad", "eeg", "stim"]
    raw = writer.raw(types, ("M1", "M2", "G1", "E1", "STI101"), data=data)
    raw.save(tmp_path / "a_raw.fif", verbose="ERROR")
    found = tectum.read(tmp_path / "a_raw.fif")
    assert {k: (p.units, p.modality, p.shape[0]) for k, p in found.items()} == {
        "mag": ("T", "meg", 2),
        "grad": ("T/m", "meg", 1),
        "eeg": ("V", "eeg", 1),
    }
    same_as_mne(found["mag"], raw, "mag")
    assert found["grad"].intervals["events"].columns["value"].tolist() == [5, 6]
    np.testing.assert_allclose(found["grad"].intervals["events"].start, [2.0, 5.0], rtol=0, atol=1e-9)
    assert "events" not in tectum.read(tmp_path / "a_raw.fif", picks="mag", events=False).intervals


def test_epochs_and_averages(tmp_path: Path) -> None:
    raw = writer.raw("seeg")
    raw.set_annotations(None)
    events = np.array([[150, 0, 1], [350, 0, 2], [620, 0, 1]])
    made = mne.Epochs(raw, events, {"go": 1, "stop": 2}, -0.5, 1.0, baseline=None, preload=True, verbose="ERROR")
    made.save(tmp_path / "a-epo.fif", verbose="ERROR")
    rec = tectum.read(tmp_path / "a-epo.fif")
    assert rec.sizes == {"trial": 3, "channel": 4, "time": 151}
    np.testing.assert_allclose(rec.values.numpy(), made.get_data(), rtol=2e-7, atol=1e-12)
    np.testing.assert_allclose(rec.time.numpy(), made.times, rtol=0, atol=1e-9)
    assert rec.coords["trial"]["label"].tolist() == ["go", "stop", "go"]
    np.testing.assert_allclose(rec.coords["trial"]["start"], [1.5, 3.5, 6.2], rtol=0, atol=1e-9)
    averages = [made["go"].average(picks="all"), made["stop"].average(picks="all")]
    mne.write_evokeds(tmp_path / "a-ave.fif", averages, verbose="ERROR")
    found = tectum.read(tmp_path / "a-ave.fif")
    assert found.coords["trial"]["label"].tolist() == ["go", "stop"]
    assert found.coords["trial"]["n_averaged"].tolist() == [2, 1]
    np.testing.assert_allclose(found.values.numpy(), [a.data for a in averages], rtol=2e-6, atol=1e-10)


# EEGLAB


def test_eeglab_equals_eeglabio_and_mne(tmp_path: Path) -> None:
    values = writer.write_set(tmp_path / "a.set")
    rec = tectum.read(tmp_path / "a.set")
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=1e-6, atol=1e-12)
    same_as_mne(rec, mne.io.read_raw_eeglab(tmp_path / "a.set", verbose="ERROR"))
    assert rec.intervals["annotations"].columns["label"].tolist() == ["go", "stop"]
    assert np.isfinite(rec.coords["channel"]["x"]).all()
    assert rec.meta["positions"] == {"unit": "m", "frame": "head"}


def test_eeglab_epochs(tmp_path: Path) -> None:
    import eeglabio

    data = writer.volts(4, 300).reshape(4, 3, 100).swapaxes(0, 1)
    events = np.array([[50, 0, 1], [150, 0, 2], [250, 0, 1]])
    eeglabio.epochs.export_set(
        str(tmp_path / "a.set"), data, 100.0, events, -0.5, 0.49, list(writer.NAMES), event_id={"go": 1, "stop": 2}
    )
    rec = tectum.read(tmp_path / "a.set")
    assert rec.sizes == {"trial": 3, "channel": 4, "time": 100}
    np.testing.assert_allclose(rec.values.numpy(), data, rtol=1e-6, atol=1e-12)
    assert rec.coords["trial"]["label"].tolist() == ["go", "stop", "go"]


# Units, types, names


def test_values_that_cannot_be_volts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a_raw.fif"
    writer.write_fif(path, types="seeg", data=writer.volts() * 1e6)
    says = r"a_raw\.fif: expected a spread of 2e-08 to 0\.01 V in the median seeg channel, got 1?\d.* V; the unit"
    with pytest.raises(AmplitudeError, match=says) as caught:
        tectum.read(path)
    assert isinstance(caught.value, (LoadError, UnitsError))
    rec = tectum.read(path, units="uV")
    np.testing.assert_allclose(rec.to_units("V").values.numpy(), writer.volts(), rtol=1e-6, atol=1e-12)
    assert tectum.read(path, units="a.u.").units == "a.u."
    with pytest.raises(AmplitudeError, match="got .* mV"):
        tectum.read(path, units="mV")


def test_units_are_of_the_numbers_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    values = writer.write_edf(path, writer.volts() * 1e3, unit="mV")  # microvolt that are called millivolt
    with pytest.raises(AmplitudeError, match=r"got 0\.0\d+ V; the unit that is claimed is wrong: pass units="):
        tectum.read(path)
    rec = tectum.read(path, units="uV")
    assert rec.units == "uV"
    np.testing.assert_allclose(rec.values.numpy(), values * 1e3, rtol=1e-6, atol=1e-12)
    with pytest.raises(ContentError, match="did you mean 'uV'"):
        tectum.read(path, units="uv")


def test_types_are_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    writer.write_edf(path)
    assert tectum.read(path, types="seeg").modality == "seeg"
    found = tectum.read(path, types={"Fp1": "eog"})
    assert {k: p.shape[0] for k, p in found.items()} == {"eog": 1, "eeg": 3}
    with pytest.raises(ContentError, match="types: expected names of channels, got 'Fp9'"):
        tectum.read(path, types={"Fp9": "eog"})
    rec = tectum.read(path, picks=["Cz", "A'12"], subject="s1", session="a")
    assert rec.coords["channel"]["name"].tolist() == ["Cz", "A'12"]
    assert (rec.subject, rec.session) == ("s1", "a")


def test_epochs_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    writer.write_edf(path)
    rec = tectum.read(path)
    cut = rec.epochs(rec.intervals["annotations"].where("label", "go"), (-0.5, 1.0))
    assert cut.sizes == {"trial": 1, "channel": 4, "time": 150}
    torch.testing.assert_close(cut.values[0], rec.values[:, 50:200], rtol=0, atol=0)
    assert rec.epochs("annotations", (-0.5, 1.0)).coords["trial"]["label"].tolist() == LABELS


def test_the_recording_survives_saving(tmp_path: Path) -> None:
    writer.write_edf(tmp_path / "a.edf")
    rec = tectum.read(tmp_path / "a.edf")
    rec.save(tmp_path / "a.safetensors")
    back = tectum.load(tmp_path / "a.safetensors")
    torch.testing.assert_close(back.values, rec.values, rtol=0, atol=0)
    assert back.coords["channel"]["name"].tolist() == list(writer.NAMES)
    assert back.meta == rec.meta


# Formats


def test_formats_are_told_apart(tmp_path: Path) -> None:
    for name in ("a.edf", "a.set", "a.fif.gz", "a.ds", "a.con", "a.lay", "a.cnt"):
        assert format_of(Path(name))
    for name in ("a.txt", "a.mat", "a.dat", "a.eeg", "a.data", "a.raw"):
        assert format_of(tmp_path / name) == ""
    (tmp_path / "n.eeg").write_bytes(b"x")
    (tmp_path / "n.PNT").write_bytes(b"x")
    assert format_of(tmp_path / "n.eeg") == "Nihon Kohden"
    (tmp_path / "b.dat").write_bytes(b"BCI2000V= 1.1 ")
    assert format_of(tmp_path / "b.dat") == "BCI2000"
    (tmp_path / "meg").mkdir()
    (tmp_path / "meg" / "config").write_bytes(b"x")
    (tmp_path / "meg" / "c,rfDC").write_bytes(b"x")
    assert format_of(tmp_path / "meg") == "BTi"
    assert detect(tmp_path / "b.dat") == ["eeg"]


@pytest.mark.parametrize(
    ("wrong", "says"), [(".bdf", "expected BDF as its name says, got EDF content"), (".set", "EDF")]
)
def test_a_wrong_suffix_is_named(tmp_path: Path, wrong: str, says: str) -> None:
    writer.write_edf(tmp_path / "a.edf")
    shutil.copy(tmp_path / "a.edf", tmp_path / f"a{wrong}")
    with pytest.raises(LoadError, match=says + r".*; give the file its right suffix|" + says):
        tectum.read(tmp_path / f"a{wrong}")


@pytest.mark.parametrize("name", ["a.edf", "a.bdf", "a.vhdr", "a_raw.fif", "a.set", "a.gdf", "a.cnt", "a.sqd", "a.lay"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 600, b"not a recording\n" * 40])
def test_what_is_no_recording_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TectumWarning)
        with pytest.raises(LoadError, match=name):
            tectum.read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.edf", "a_raw.fif", "a.set"])
def test_a_file_that_may_not_be_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    {"a.edf": writer.write_edf, "a_raw.fif": writer.write_fif, "a.set": writer.write_set}[name](path)
    usual = builtins.open

    def denied(file: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(str(file)) == path:
            raise PermissionError(13, "Permission denied", str(file))
        return usual(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", denied)
    with pytest.raises(LoadError, match=rf"{name}: expected .*PermissionError.*Permission denied"):
        read_eeg(path)


def test_bad_channels_do_not_tell_the_unit(tmp_path: Path) -> None:
    data = writer.volts()
    data[1] *= 1e6
    path = tmp_path / "a_raw.fif"
    writer.write_fif(path, types="seeg", data=data)
    assert tectum.read(path).shape == (4, 1000)


def test_flat_recordings_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a_raw.fif"
    writer.write_fif(path, types="seeg", data=np.zeros((4, 1000)))
    assert not tectum.read(path).values.any()


# Damage


def _made(kind: str, folder: Path) -> tuple[Path, str]:
    """Return what to damage and the file to read in it."""
    folder.mkdir()
    if kind == "BrainVision":
        writer.write_brainvision(folder / "a.vhdr")
        return folder, "a.vhdr"
    name = {"EDF": "a.edf", "BDF": "a.bdf", "FIF": "a_raw.fif", "EEGLAB": "a.set"}[kind]
    write: Any = {"EDF": writer.write_edf, "BDF": writer.write_edf, "FIF": writer.write_fif, "EEGLAB": writer.write_set}
    write[kind](folder / name)
    return folder / name, ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EDF", "BDF", "BrainVision", "FIF", "EEGLAB"])
def test_damaged_files_are_refused_or_read_right(tmp_path: Path, kind: str) -> None:
    source, inside = _made(kind, tmp_path / "good")

    def read(path: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", TectumWarning)
            return read_eeg(path / inside if inside else path)

    count = survive(read, source, tmp_path / "work", n=300, seed=0)
    assert count["refused"] > 100
    assert count["loaded"] > 30


# Intervals of the reader


def test_intervals_are_ours(tmp_path: Path) -> None:
    writer.write_edf(tmp_path / "a.edf")
    rec = tectum.read(tmp_path / "a.edf")
    assert all(isinstance(part, Intervals) for part in rec.intervals.values())
    assert rec.intervals["support"].pairs() == [(0.0, 10.0)]
