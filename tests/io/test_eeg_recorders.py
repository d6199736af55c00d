"""Files of single makers of amplifiers: equality with what was written and with MNE, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from writers import recorders

import tectum
from tectum import Recording, Session
from tectum.core.errors import LoadError, MissingExtraError, TectumWarning
from tectum.io.eeg.files import format_of
from tectum.io.eeg.vendors import recorders as checks


def same(rec: Any, values: np.ndarray, theirs: Any, factor: float = 1.0) -> None:
    """Values as written to a float32's precision and MNE's; times to 1e-9 s; names; parts equal the whole."""
    assert isinstance(rec, Recording)
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=2e-6, atol=1e-12)
    np.testing.assert_array_equal(rec.values.numpy(), (theirs.get_data() * factor).astype(np.float32))
    np.testing.assert_allclose(rec.time.numpy(), theirs.times, rtol=0, atol=1e-9)
    assert rec.coords["channel"]["name"].tolist() == theirs.ch_names
    assert (rec.units, rec.rate, rec.dims) == ("V", theirs.info["sfreq"], ("channel", "time"))
    for first, last in ((3, 9), (4, 6), (997, 1000)):
        part = rec.isel(time=slice(first, last)).values
        np.testing.assert_array_equal(part.numpy(), rec.values.numpy()[:, first:last])


def edit(path: Path, old: str, new: str) -> None:
    """Replace one text in a file."""
    data = path.read_bytes()
    assert old.encode() in data
    path.write_bytes(data.replace(old.encode(), new.encode(), 1))


# Nicolet


def test_nicolet(tmp_path: Path) -> None:
    path = tmp_path / "a.data"
    values = recorders.write_nicolet(path)
    rec = tectum.read(path)
    same(rec, values, mne.io.read_raw_nicolet(path, ch_type="eeg", verbose="ERROR"))
    assert rec.meta["measured"].startswith("2024-01-02T03:04:05")
    assert tectum.read(path, types="seeg").modality == "seeg"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("num_samples=1000", "num_samples=1001", r"a\.data: expected 1001 samples of 4 channels of 2 bytes, got 8000"),
        ("num_channels=4", "num_channels=2147483648", "expected names of 2147483648 channels, got 4"),
        ("sample_freq=100", "sample_freq=nan", "expected a sampling rate in Hz, got nan"),
        ("sample_freq=100", "sample_freq=500", "expected 1000 samples at 500 Hz to last 10 s, got 2 s"),
        ("factor=0.179000", "factor=0.000000", "expected a factor of every channel"),
        ("sample_bytes=2", "sample_bytes=4", "1000 samples of 4 channels of 4 bytes"),
        ("start_ts=", "start_ts", "expected lines of the form key=value"),
        ("start_ts=", "start=", "expected a line for each of .* got no start_ts"),
    ],
)
def test_contradictions_of_nicolet(tmp_path: Path, old: str, new: str, says: str) -> None:
    recorders.write_nicolet(tmp_path / "a.data")
    edit(tmp_path / "a.head", old, new)
    with pytest.raises(LoadError, match=says):
        tectum.read(tmp_path / "a.data")


# NEDF


@pytest.mark.parametrize("n", [1000, 1003])
@pytest.mark.parametrize("motion", [1, 3])
def test_nedf(tmp_path: Path, n: int, motion: int) -> None:
    path = tmp_path / "a.nedf"
    values = recorders.write_nedf(path, n, motion=motion)
    rec = tectum.read(path)
    same(rec, values, mne.io.read_raw_nedf(path, preload=True, verbose="ERROR").pick("eeg"))
    assert rec.meta["measured"].startswith("2024-01-02T03:04:05")
    events = rec.intervals["events"]
    assert events.start.tolist() == [0.2, (n - 1) / 500]
    assert events.columns["value"].tolist() == [7, 9]
    path.write_bytes(path.read_bytes() + bytes(16 * (-n % 5)))  # a last block may be filled up
    np.testing.assert_array_equal(tectum.read(path).values.numpy(), rec.values.numpy())


def test_nedf_with_stimulation_and_of_an_old_version(tmp_path: Path) -> None:
    path = tmp_path / "a.nedf"
    values = recorders.write_nedf(path, stim=True)
    with pytest.warns(TectumWarning, match="stim channels are currently ignored"):
        rec = tectum.read(path)
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=2e-6)
    values = recorders.write_nedf(path, version=False)
    with pytest.warns(TectumWarning, match="NEDFversion unsupported"):
        rec = tectum.read(path)
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=2e-6)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("<NumberOfRecordsOfEEG>1003", "<NumberOfRecordsOfEEG>1002", r"a\.nedf: expected 1002 samples of 4 channels"),
        ("Channels>4<", "Channels>2147483648<", "expected names of 2147483648 channels, got 4"),
        ("Rate>500<", "Rate>0<", "expected a sampling rate in Hz, got 0"),
        ("<NumberOfRecordsOfEEG>1003</NumberOfRecordsOfEEG>", "", "NumberOfRecordsOfEEG: expected a number"),
        ("Accelerometer>3<", "Accelerometer>0<", "channels of an accelerometer, got 0; export"),
        ("Accelerometer>3<", "Accelerometer>4<", "expected 1003 samples"),
        ("<nedf>", '<!DOCTYPE x [<!ENTITY a "aa">]><nedf>', "DTDForbidden"),
    ],
)
def test_contradictions_of_nedf(tmp_path: Path, old: str, new: str, says: str) -> None:
    recorders.write_nedf(tmp_path / "a.nedf")
    edit(tmp_path / "a.nedf", old, new)
    with pytest.raises(LoadError, match=says):
        tectum.read(tmp_path / "a.nedf")


def test_nedf_needs_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorders.write_nedf(tmp_path / "a.nedf")
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"a\.nedf: expected the package defusedxml.*pip install defusedxml"):
        tectum.read(tmp_path / "a.nedf")


# eXimia


def test_eximia(tmp_path: Path) -> None:
    """MNE calls V what its factors make microvolt."""
    path = tmp_path / "a.nxe"
    values = recorders.write_eximia(path)
    theirs = mne.io.read_raw_eximia(path, verbose="ERROR")
    with pytest.warns(TectumWarning, match="trigger channel 'Trig1' holds values that are no whole numbers"):
        found = tectum.read(path)
    assert isinstance(found, Session)
    assert set(found) == {"eeg", "eog"}
    same(found["eeg"], values[1:], theirs.copy().pick("eeg"), 1e-6)
    same(found["eog"], values[:1], theirs.copy().pick("eog"), 1e-6)
    louder = tectum.read(path, picks="eeg", units="uV", events=False)
    np.testing.assert_allclose(louder.values.numpy(), values[1:] * 1e6, rtol=2e-6)


def test_eximia_cut_inside_a_sample(tmp_path: Path) -> None:
    recorders.write_eximia(tmp_path / "a.nxe")
    for n in (127, 0):
        (tmp_path / "a.nxe").write_bytes((tmp_path / "a.nxe").read_bytes()[:n])
        with pytest.raises(LoadError, match=rf"a\.nxe: expected whole samples of 128 bytes, got {n} bytes"):
            tectum.read(tmp_path / "a.nxe")


# BCI2000


@pytest.mark.parametrize("form", ["int16", "int32", "float32"])
def test_bci2000(tmp_path: Path, form: str) -> None:
    """Factors, offsets and names of the header, which MNE leaves out."""
    path = tmp_path / "a.dat"
    values = recorders.write_bci2000(path, form)
    assert format_of(path) == "BCI2000"
    rec = tectum.read(path)
    theirs = mne.io.read_raw_bci2k(path, preload=True, verbose="ERROR").pick("eeg")
    assert rec.coords["channel"]["name"].tolist() == ["Fp1", "Cz", "O2", "A'12"]
    theirs.rename_channels(dict(zip(theirs.ch_names, ["Fp1", "Cz", "O2", "A'12"], strict=True)))
    theirs = mne.io.RawArray((theirs.get_data() - 100) * np.array([[0.25e-6]] * 4), theirs.info, verbose="ERROR")
    same(rec, values, theirs)
    events = rec.intervals["events"]
    assert (events.start.tolist(), events.columns["value"].tolist()) == ([1.0, 5.0], [3, 12])
    louder = tectum.read(path, units="uV")
    np.testing.assert_allclose(louder.values.numpy(), values * 1e6, rtol=2e-6)


@pytest.mark.parametrize("lines", [(), ("Source list SourceChGain= 1 auto // factor",)])
def test_bci2000_without_factors(tmp_path: Path, lines: tuple[str, ...]) -> None:
    """Steps of the amplifier are no volt."""
    path = tmp_path / "a.dat"
    values = recorders.write_bci2000(path, lines=lines)
    with pytest.warns(TectumWarning, match=r"no known unit is stated for EEG1 \(none\), EEG2"):
        rec = tectum.read(path)
    assert rec.units == "a.u."
    np.testing.assert_allclose((rec.values.numpy() - 100) * 0.25e-6, values, rtol=2e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("HeaderLen=    ", "HeaderLen= 9999", r"a\.dat: expected a header of 9999\d+ bytes"),
        ("HeaderLen=    533", "HeaderLen=    503", r"a\.dat: expected a header that ends a line at byte 503, got b'"),
        ("HeaderLen", "HeaderLem", "HeaderLen, SourceCh, StatevectorLen in the first line, got no HeaderLen"),
        ("533 SourceCh= 4 S", "542 SourceCh= 2147483648 S", "expected whole samples of 2147483648 channels"),
        ("SourceCh= 4 16", "SourceCh= 6 16", "bytes of data and 6 channels among the parameters"),
        ("StatevectorLen= 2", "StatevectorLen= 3", "expected whole samples of 4 channels in int16 and 3 bytes"),
        ("int16\r", "int64\r", "expected whole samples of 4 channels in int64"),
        (
            "8 0 1 0\r\nTarget",
            "99 0 1 0\r\nTarge",
            "states within 2 bytes, got 99 bits at byte 1, bit 0 for 'StimulusCode'",
        ),
        ("100Hz 256Hz", "0.1kHz 25Hz", "expected a SamplingRate in Hz, got '0.1kHz'"),
        ("100Hz", "0.0Hz", "expected a sampling rate in Hz, got 0"),
        ("Gain= 4 0.25", "Gain= 4 0.00", "expected a factor of every channel"),
        ("Gain= 4 0.25", "Gain= 3 0.25", "SourceChGain: expected 4 numbers, one a channel, got 0.25"),
        ("Gain= 4 0.25", "Gain= 4 0.x5", "SourceChGain: expected 4 numbers, one a channel, got 0.x5"),
        ("{ a b c d } 100 100", "{ a b c d } 1e999 0", "expected offsets of channels"),
    ],
)
def test_contradictions_of_bci2000(tmp_path: Path, old: str, new: str, says: str) -> None:
    recorders.write_bci2000(tmp_path / "a.dat")
    edit(tmp_path / "a.dat", old, new)
    with pytest.raises(LoadError, match=says):
        tectum.read(tmp_path / "a.dat")


# EyeLink


@pytest.mark.parametrize(
    ("eyes", "blocks", "rate", "extra"),
    [("L", 1, 100, ""), ("LR", 1, 1000, ""), ("R", 2, 250, "RES"), ("L", 2, 100, ""), ("L", 1, 2000, "")],
)
@pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")  # of pandas 3.1, inside MNE 1.13
def test_eyelink(tmp_path: Path, eyes: str, blocks: int, rate: int, extra: str) -> None:
    path = tmp_path / "a.asc"
    values = recorders.write_eyelink(path, eyes, blocks, rate, extra)
    theirs = mne.io.read_raw_eyelink(path, verbose="ERROR")
    found = tectum.read(path)
    assert isinstance(found, Session)
    gaze = found["eyegaze"]
    rows = [theirs.ch_names.index(name) for name in gaze.coords["channel"]["name"]]
    assert [theirs.ch_names[k] for k in rows] == [c for c in theirs.ch_names if "pos" in c]
    np.testing.assert_allclose(gaze.values.numpy(), values[rows], rtol=2e-6)
    np.testing.assert_array_equal(gaze.values.numpy(), theirs.get_data(picks=rows).astype(np.float32))
    np.testing.assert_allclose(gaze.time.numpy(), theirs.times, rtol=0, atol=1e-9)
    assert (gaze.units, gaze.rate, gaze.meta["measured"][:10]) == ("a.u.", rate, "2024-01-02")
    notes = gaze.intervals["annotations"]
    labels = dict(zip(notes.columns["label"].tolist(), notes.start.tolist(), strict=True))
    assert {"BAD_blink", "go 0"} <= set(labels)
    assert labels["go 0"] == pytest.approx(0.1, abs=1e-9)
    assert ("BAD_ACQ_SKIP" in labels) == (blocks == 2)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("START\t10500", "STAR\t10500", r"a\.asc: expected samples between lines START and END, got '10500"),
        ("\n5000\t", "\n%000\t", r"a\.asc: expected a sample or an event, got '%000"),
        ("END\t9990", "EMD\t9990", "expected an END of the block that starts in line 6, got none"),
        ("END\t15490", "END\t95480", "expected samples from 10500 to 95480 ms in the block that starts in line"),
        ("\n5090\t", "\n5091\t", "expected samples every 10 ms .* got 5091 as the time of sample 10"),
        ("RATE\t 100.00\tTRACKING\tCR\nMSG", "RATE\t 200.00\tTRACKING\tCR\nMSG", "expected samples every 5 ms"),
        ("RATE\t 100.00\tTRACKING\tCR\nMSG", "RATE\t 0\tTRACKING\tCR\nMSG", "expected a sampling rate in Hz, got 0"),
        ("SAMPLES\tGAZE\tLEFT", "SAMPLES\tGAZE\tLEFT\tRIGHT", "a time and 6 numbers a sample .* got 5 to 5 words"),
    ],
)
def test_contradictions_of_eyelink(tmp_path: Path, old: str, new: str, says: str) -> None:
    recorders.write_eyelink(tmp_path / "a.asc", blocks=2)
    edit(tmp_path / "a.asc", old, new)
    with pytest.raises(LoadError, match=says):
        tectum.read(tmp_path / "a.asc")


def test_eyelink_without_or_with_far_blocks(tmp_path: Path) -> None:
    path = tmp_path / "a.asc"
    recorders.write_eyelink(path, blocks=2)
    text = path.read_text()
    path.write_text(text[: text.index("START")])
    with pytest.raises(LoadError, match=r"a\.asc: expected blocks of samples between START and END, got none"):
        tectum.read(path)
    path.write_text(text[: text.rindex("START") + 3])
    with pytest.raises(LoadError, match=r"a\.asc: expected whole lines, got 'STA' at the end"):
        tectum.read(path)
    path.write_text(text.rstrip())
    assert tectum.read(path)["eyegaze"].sizes["time"] == 1050
    head, second = text[: text.rindex("START")], text[text.rindex("START") :]
    path.write_text(head + second.replace("\n1", "\n9999999991").replace("START\t1", "START\t9999999991"))
    with pytest.raises(LoadError, match="expected samples from 99999999910500"):
        tectum.read(path)
    far = second.replace("\n1", "\n9999999991").replace("START\t1", "START\t9999999991")
    path.write_text(head + far.replace("END\t1", "END\t9999999991"))
    with pytest.raises(LoadError, match="expected blocks one after the other, less than 50000000 samples"):
        tectum.read(path)
    path.write_text(text[text.rindex("START") :].join([text[: text.index("START")], ""]) + text[text.index("START") :])
    with pytest.raises(LoadError, match="expected blocks one after the other"):
        tectum.read(path)
