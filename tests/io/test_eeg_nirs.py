"""SNIRF, NIRx, BOXY and Hitachi: equality with what was written and with MNE, and clear refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from writers import nirs

import tectum
from tectum import Recording
from tectum.core.errors import LoadError
from tectum.io.eeg.files import format_of

BY_MNE: dict[str, Callable[..., Any]] = {
    "SNIRF": mne.io.read_raw_snirf, "NIRx": mne.io.read_raw_nirx, "BOXY": mne.io.read_raw_boxy,
    "Hitachi": mne.io.read_raw_hitachi,
}  # fmt: skip


@pytest.mark.parametrize("kind", nirs.FORMATS)
def test_intensities_equal_those_written_and_those_of_mne(tmp_path: Path, kind: str) -> None:
    made = nirs.FORMATS[kind]
    path = tmp_path / made.name
    values = np.asarray(made.write(path))
    assert format_of(path) == kind
    found = tectum.read(path)
    theirs = BY_MNE[kind](path, verbose="ERROR")
    parts = [found] if isinstance(found, Recording) else list(found.values())
    names = theirs.ch_names
    for part in parts:
        rows = [names.index(name) for name in part.coords["channel"]["name"].tolist()]
        np.testing.assert_allclose(part.values.numpy(), values[rows], rtol=2e-6)
        np.testing.assert_array_equal(part.values.numpy(), theirs.get_data(picks=rows).astype(np.float32))
        np.testing.assert_allclose(part.time.numpy(), theirs.times, rtol=0, atol=1e-9)
        assert part.units == ("rad" if "phase" in part.coords["channel"]["type"][0] else "a.u.")
        assert part.rate == pytest.approx(nirs.RATE, rel=1e-6)
    assert sum(part.shape[0] for part in parts) == len(values)


def test_marks_of_light_are_events(tmp_path: Path) -> None:
    nirs.write_snirf(tmp_path / "a.snirf")
    notes = tectum.read(tmp_path / "a.snirf").intervals["annotations"]
    assert list(zip(notes.start.tolist(), notes.columns["label"].tolist(), strict=True)) == [(1.0, "go"), (4.0, "go")]
    nirs.write_nirx(tmp_path / "a.hdr")
    notes = tectum.read(tmp_path / "a.hdr").intervals["annotations"]
    assert list(zip(notes.start.tolist(), notes.columns["label"].tolist(), strict=True)) == [(1.0, "1.0"), (5.0, "2.0")]


def test_boxy_with_a_line_a_source(tmp_path: Path) -> None:
    values = nirs.write_boxy(tmp_path / "a.txt", several=True)
    found = tectum.read(tmp_path / "a.txt")
    for part in found.values():
        kind = part.coords["channel"]["type"][0]
        first = {"fnirs_cw_amplitude": 0, "fnirs_fd_ac_amplitude": 1, "fnirs_fd_phase": 2}[kind]
        np.testing.assert_allclose(part.values.numpy(), values[first::3], rtol=2e-6)


@pytest.mark.parametrize(
    ("kind", "name", "old", "new", "says"),
    [
        ("NIRx", "a.hdr", "2-1:3", "3-1:3", r"a\.hdr: expected 4 pairs .*, got without \[\(2, 1\)\]"),
        ("NIRx", "a.hdr", "2-2:4,", "", r"a\.wl1: expected whole lines of 3 numbers, got 4 in line 1"),
        ("NIRx", "a.wl2", " ", ";", r"a\.wl2: expected whole lines of 4 numbers"),
        ("BOXY", "a.txt", "#DATA ENDS", "", r"a\.txt: expected data from #DATA BEGINS to #DATA ENDS, got no end"),
        ("BOXY", "a.txt", "2 External", "900000000 External", r"a\.txt: expected detectors, sources and a rate"),
        ("Hitachi", "a.csv", "\n7,", "\n8,", r"a\.csv: expected numbered rows of 50 values at a rate, got '8,"),
        ("Hitachi", "a.csv", "Period[s],0.1", "Period[s],0", r"a\.csv: .*ZeroDivisionError"),
    ],
)
def test_contradictions(tmp_path: Path, kind: str, name: str, old: str, new: str, says: str) -> None:
    made = nirs.FORMATS[kind]
    made.write(tmp_path / made.name)
    text = (tmp_path / name).read_bytes().decode("latin-1")
    assert old in text
    (tmp_path / name).write_bytes(text.replace(old, new, 1).encode("latin-1"))
    with pytest.raises(LoadError, match=says):
        tectum.read(tmp_path / made.name)


def test_optodes_of_snirf_that_are_not_there(tmp_path: Path) -> None:
    """Index 0 is the last one to Python."""
    import h5py

    nirs.write_snirf(tmp_path / "a.snirf")
    with h5py.File(tmp_path / "a.snirf", "r+") as file:
        file["nirs/data1/measurementList3/wavelengthIndex"][()] = 0
    with pytest.raises(LoadError, match=r"a\.snirf: expected wavelengthIndex from 1 to 2, got 0 to 2"):
        tectum.read(tmp_path / "a.snirf")
