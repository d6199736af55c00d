"""Nicolet, NEDF, eXimia, BCI2000 and EyeLink: equality with what was written and with MNE, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from writers import eeg, recorders

import tectum
from tectum import Recording
from tectum.core.errors import LoadError, TectumWarning
from tectum.io.eeg.files import format_of


def equal(rec: Any, values: np.ndarray, theirs: Any, scale: float = 1.0) -> None:
    """Values as written and as MNE has them (times ``scale``), times to 1e-9 s, and names."""
    assert isinstance(rec, Recording)
    names = rec.coords["channel"]["name"].tolist()
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=2e-6, atol=1e-12)
    np.testing.assert_allclose(rec.values.numpy(), theirs.get_data(picks=range(len(names))) * scale, rtol=2e-6)
    np.testing.assert_allclose(rec.time.numpy(), theirs.times + theirs.first_time, rtol=0, atol=1e-9)


def test_nicolet(tmp_path: Path) -> None:
    path = tmp_path / "a.data"
    values = recorders.write_nicolet(path)
    assert format_of(path) == "Nicolet"
    rec = tectum.read(path)
    equal(rec, values, mne.io.read_raw_nicolet(path, ch_type="eeg", verbose="ERROR"))
    assert rec.coords["channel"]["name"].tolist() == list(eeg.NAMES)
    assert (rec.units, rec.rate, rec.meta["measured"][:10]) == ("V", 100.0, "2024-01-02")


@pytest.mark.parametrize("n", [1000, 1003])
def test_nedf(tmp_path: Path, n: int) -> None:
    path = tmp_path / "a.nedf"
    values = recorders.write_nedf(path, n)
    rec = tectum.read(path)
    equal(rec, values, mne.io.read_raw_nedf(path, verbose="ERROR"))
    assert rec.coords["channel"]["name"].tolist() == list(eeg.NAMES)
    assert (rec.units, rec.rate) == ("V", 500.0)
    events = rec.intervals["events"]
    assert list(zip(events.start.tolist(), events.columns["value"].tolist(), strict=True)) == [(0.2, 3), (0.3, 5)]


def test_entities_in_a_nedf_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nedf"
    recorders.write_nedf(path)
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    data = path.read_bytes()
    path.write_bytes((bomb + data[:10_240].rstrip(b"\x00")).ljust(10_240, b"\x00") + data[10_240:])
    with pytest.raises(LoadError, match=r"a\.nedf: .*EntitiesForbidden"):
        tectum.read(path)


def test_eximia_is_in_microvolt(tmp_path: Path) -> None:
    """MNE calls its numbers V; they are microvolt."""
    path = tmp_path / "a.nxe"
    values = recorders.write_eximia(path)
    with pytest.warns(TectumWarning, match="'Trig1' holds values that are no whole numbers"):
        rec = tectum.read(path, picks="eeg")
    theirs = mne.io.read_raw_eximia(path, verbose="ERROR").pick("eeg")
    equal(rec, values, theirs, 1e-6)
    assert (rec.units, rec.rate, rec.shape) == ("V", 1450.0, (60, 500))


def test_bci2000(tmp_path: Path) -> None:
    """Gains, offsets and names are in the header; MNE leaves them there."""
    path = tmp_path / "a.dat"
    values = recorders.write_bci2000(path)
    assert format_of(path) == "BCI2000"
    rec = tectum.read(path)
    theirs = mne.io.read_raw_bci2k(path, preload=True, verbose="ERROR")
    assert isinstance(rec, Recording)
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=2e-6, atol=1e-12)
    np.testing.assert_allclose(rec.values.numpy(), (theirs.get_data(picks="eeg") - 7) * 1e-7, rtol=2e-6, atol=1e-12)
    np.testing.assert_allclose(rec.time.numpy(), theirs.times, rtol=0, atol=1e-9)
    assert rec.coords["channel"]["name"].tolist() == list(eeg.NAMES)
    assert (rec.units, rec.rate) == ("V", 100.0)
    events = rec.intervals["events"]
    assert list(zip(events.start.tolist(), events.columns["value"].tolist(), strict=True)) == [(3.0, 3), (6.0, 5)]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"StimulusCode 8 0 0 0", b"StimulusCode 9999999 0 0 0", r"states within 2 bytes, got 'StimulusCode 9999999"),
        (b"HeaderLen=    ", b"HeaderLen= 999", "a consistent BCI2000 header"),
        (b"SourceChGain= 4 0.1 ", b"SourceChGain= 4 0.0 ", "a factor of every channel"),
        (b"0.1muV", b"0.1xyz", "a gain in muV, got '0.1xyz'"),
        (b"SourceCh= 4 Sta", b"SourceCh= 5 Sta", "frames of 12 bytes|SourceCh"),
    ],
)
def test_bad_headers_of_bci2000(tmp_path: Path, old: bytes, new: bytes, says: str) -> None:
    """MNE walks over the bits of a state, and reads lines up to the stated length of a header, without end."""
    path = tmp_path / "a.dat"
    recorders.write_bci2000(path)
    data = path.read_bytes()
    shift = len(new) - len(old)
    if old.startswith(b"Stim"):
        length = int(data[data.index(b"HeaderLen=") + 10 :].split()[0])
        data = data.replace(b"%6d" % length, b"%6d" % (length + shift), 1)
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(LoadError, match=says):
        tectum.read(path)


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # of MNE's call of pandas
def test_eyelink(tmp_path: Path) -> None:
    path = tmp_path / "a.asc"
    values = recorders.write_eyelink(path)
    assert format_of(path) == "EyeLink"
    found = tectum.read(path)
    theirs = mne.io.read_raw_eyelink(path, verbose="ERROR")
    gaze, pupil = found["eyegaze"], found["pupil"]
    np.testing.assert_allclose(gaze.values.numpy(), values[:2], rtol=2e-6)
    np.testing.assert_allclose(pupil.values.numpy(), values[2:], rtol=2e-6)
    np.testing.assert_allclose(gaze.values.numpy(), theirs.get_data(picks="eyegaze"), rtol=2e-6)
    np.testing.assert_allclose(gaze.time.numpy(), theirs.times, rtol=0, atol=1e-9)
    notes = gaze.intervals["annotations"]
    assert set(notes.columns["label"].tolist()) == {"go", "fixation", "BAD_blink"}
    assert gaze.rate == 1000.0


def test_missing_lines_of_eyelink_are_not_closed_up(tmp_path: Path) -> None:
    """MNE puts the samples behind a gap at the wrong times."""
    path = tmp_path / "a.asc"
    recorders.write_eyelink(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("13")))
    with pytest.raises(LoadError, match=r"a\.asc: expected 599 samples .*, got 500 samples, a gap behind 1299;"):
        tectum.read(path)
    assert tectum.read(path, truncated=True)["pupil"].shape == (1, 500)
