"""Curry, EGI MFF and NSx: equality with what was written and with MNE, and clear refusals."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from writers import boxed

import tectum
from tectum import Recording
from tectum.core.errors import LoadError
from tectum.io.eeg.files import format_of

NSX_PACKET = struct.pack("<BII", 1, 0, 400)
BY_MNE: dict[str, Callable[..., Any]] = {
    "Curry": mne.io.read_raw_curry, "EGI MFF": mne.io.read_raw_egi, "NSx": mne.io.read_raw_nsx,
}  # fmt: skip


@pytest.mark.parametrize("kind", boxed.FORMATS)
def test_values_equal_those_written_and_those_of_mne(tmp_path: Path, kind: str) -> None:
    made = boxed.FORMATS[kind]
    path = tmp_path / made.name
    values = np.asarray(made.write(path))
    assert format_of(path) == kind.split()[0]
    rec = tectum.read(path)
    assert isinstance(rec, Recording)
    theirs = BY_MNE[kind](path, verbose="ERROR")
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=2e-6, atol=1e-12)
    np.testing.assert_array_equal(rec.values.numpy(), theirs.get_data().astype(np.float32))
    np.testing.assert_allclose(rec.time.numpy(), theirs.times, rtol=0, atol=1e-9)
    assert rec.coords["channel"]["name"].tolist() == theirs.ch_names
    assert (rec.units, rec.meta["measured"][:10]) == ("V", "2024-01-02")


def test_curry_has_places_and_events(tmp_path: Path) -> None:
    boxed.write_curry(tmp_path / "a.cdt")
    rec = tectum.read(tmp_path / "a.cdt")
    np.testing.assert_allclose(rec.coords["channel"]["x"], [-0.08, 0.0, 0.02, 0.06], atol=1e-6)
    notes = rec.intervals["annotations"]
    assert list(zip(notes.start.tolist(), notes.columns["label"].tolist(), strict=True)) == [(0.4, "go"), (1.2, "stop")]


def _replace(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize(
    ("kind", "name", "old", "new", "says"),
    [
        ("Curry", "a.cdt.dpo", b"NumSamples = 500", b"NumSamples = 499", r"a\.cdt: expected 1 trials of 499 samples"),
        ("Curry", "a.cdt.dpo", b"NumChannels = 4", b"NumChannels = 0", r"a\.cdt\.dpo: expected channels, trials"),
        ("Curry", "a.cdt.dpo", b"SampleTimeUsec = 4000", b"SampleTimeUsec = 0", r"a\.cdt: .*interval of 0"),
        ("EGI MFF", "a.mff/info.xml", b"?>", b'?><!DOCTYPE a [<!ENTITY b "c">]>', r"info\.xml: expected XML .*DTD"),
        ("NSx", "a.ns3", NSX_PACKET, struct.pack("<BII", 1, 0, 399), r"a\.ns3: expected whole packets"),
        ("NSx", "a.ns3", NSX_PACKET, struct.pack("<BII", 1, 0, 0), r"got 0 samples up to byte"),
        ("NSx", "a.ns3", b"NEURALCD", b"NEURALSG", r"a\.ns3: expected an NSx file of version 2\.2 or later"),
    ],
)  # fmt: skip
def test_contradictions(tmp_path: Path, kind: str, name: str, old: bytes, new: bytes, says: str) -> None:
    made = boxed.FORMATS[kind]
    made.write(tmp_path / made.name)
    _replace(tmp_path / name, old, new)
    with pytest.raises(LoadError, match=says):
        tectum.read(tmp_path / made.name)


def test_a_clock_of_mff_that_ran_for_ages_is_refused(tmp_path: Path) -> None:
    """MNE keeps a number for every sample that the clock could have counted."""
    boxed.write_mff(tmp_path / "a.mff")
    path = tmp_path / "a.mff" / "epochs.xml"
    text = path.read_text()
    end = text[text.rindex("<endTime>") + 9 : text.rindex("</endTime>")]
    path.write_text(text.replace(f"<endTime>{end}<", f"<endTime>{10**18}<"))
    with pytest.raises(LoadError, match=r"epochs\.xml: expected epochs of 120 samples in all, got an end at"):
        tectum.read(tmp_path / "a.mff")


def test_curry_without_parameters(tmp_path: Path) -> None:
    boxed.write_curry(tmp_path / "a.cdt")
    (tmp_path / "a.cdt.dpo").unlink()
    with pytest.raises(LoadError, match=r"a\.cdt: expected parameters in a\.cdt\.dpa, got no such file"):
        tectum.read(tmp_path / "a.cdt")
