"""Recordings of near-infrared light: equality with MNE and with what was written, units, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import mne
import numpy as np
import pytest
from writers import nirs

import tectum
from tectum.core.errors import LoadError

NAMES = ["S1_D1 760", "S1_D1 850", "S2_D2 760", "S2_D2 850"]


def same(rec: Any, values: np.ndarray, theirs: Any, unit: str = "a.u.") -> None:
    """Values as written to a float32's precision and MNE's bit by bit; times to 1e-9 s; names; unit."""
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=2e-6, atol=1e-12)
    np.testing.assert_array_equal(rec.values.numpy(), theirs.get_data().astype(np.float32))
    np.testing.assert_allclose(rec.time.numpy(), np.arange(values.shape[1]) / 100.0, rtol=0, atol=1e-9)
    assert rec.coords["channel"]["name"].tolist() == theirs.ch_names
    assert (rec.units, rec.dims) == (unit, ("channel", "time"))
    assert rec.rate == pytest.approx(100.0, rel=1e-9)


def notes(rec: Any) -> list[tuple[float, float, str]]:
    found = rec.intervals["annotations"]
    table = zip(found.start.tolist(), found.stop.tolist(), found.columns["label"].tolist(), strict=True)
    return [(round(start, 9), round(stop, 9), label) for start, stop, label in table]


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("unit", ["", "mV"])
def test_snirf(tmp_path: Path, unit: str, short: bool) -> None:
    path = tmp_path / "a.snirf"
    values = nirs.write_snirf(path, unit, short=short)
    rec = tectum.read(path)
    same(rec, values, mne.io.read_raw_snirf(path, verbose="ERROR"), "V" if unit else "a.u.")
    assert rec.coords["channel"]["name"].tolist() == NAMES
    assert set(rec.coords["channel"]["type"].tolist()) == {"fnirs_cw_amplitude"}
    np.testing.assert_allclose(rec.coords["channel"]["x"], [0.01, 0.01, 0.04, 0.04])
    assert notes(rec) == [(1.0, 1.5, "go"), (4.0, 4.5, "stop")]
    assert (rec.subject, rec.meta["measured"][:10]) == ("s1", "2024-01-02")


def test_concentrations_in_snirf(tmp_path: Path) -> None:
    path = tmp_path / "a.snirf"
    values = nirs.write_snirf(path, "uM", processed=True)
    rec = tectum.read(path)
    for k, (kind, name) in enumerate((("hbo", "S1_D1 hbo"), ("hbr", "S1_D1 hbr"))):
        same(rec[kind], values[k::2], mne.io.read_raw_snirf(path, verbose="ERROR").pick(kind))
        assert rec[kind].coords["channel"]["name"][0] == name
    assert tectum.read(path, units="1", picks="hbo").units == "1"


@pytest.mark.filterwarnings("ignore:.*Found jitter")  # MNE compares milliseconds with seconds
@pytest.mark.parametrize(("start", "scale"), [(20.0, 1.0), (0.0, 1000.0), (20.0, 1000.0)])
def test_stimuli_of_snirf_count_from_the_first_sample(tmp_path: Path, start: float, scale: float) -> None:
    """MNE takes the clock's zero for the first sample, and milliseconds for seconds."""
    values = nirs.write_snirf(tmp_path / "a.snirf", start=start, scale=scale)
    rec = tectum.read(tmp_path / "a.snirf")
    same(rec, values, mne.io.read_raw_snirf(tmp_path / "a.snirf", verbose="ERROR"))
    assert notes(rec) == [(1.0, 1.5, "go"), (4.0, 4.5, "stop")]


def _replace(file: Any, name: str, value: Any) -> None:
    del file[name]
    file[name] = value


def _claim(file: Any) -> None:
    """An array that claims 2^31 channels and holds nothing."""
    del file["nirs/data1/dataTimeSeries"]
    file["nirs/data1"].create_dataset("dataTimeSeries", shape=(1000, 1 << 31), chunks=(1000, 1), dtype="f8")


def _alike(file: Any) -> None:
    _replace(file, "nirs/data1/measurementList2/wavelengthIndex", 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_claim, "expected what .* bytes hold, got 17179869184000"),
        (_alike, "expected channels that differ"),
        (lambda f: f.__delitem__("nirs/data1/measurementList3"), "expected 4 as there are columns of data, got 3"),
        (lambda f: _replace(f, "nirs/data1/measurementList3/sourceIndex", 9), "expected sourceIndex from 1 to 2, got"),
        (lambda f: _replace(f, "nirs/data1/measurementList3/dataType", 99999), r"types \[1, 99999\]"),
        (lambda f: _replace(f, "nirs/data1/time", np.zeros(1000)), "times that do not grow"),
        (lambda f: _replace(f, "nirs/data1/time", np.arange(900.0)), r"1000 growing times, got an array \(900,\)"),
        (lambda f: _replace(f, "nirs/probe/wavelengths", [np.nan, 850.0]), "expected wavelengths in nm"),
    ],
)
def test_snirf_that_contradicts_itself(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    path = tmp_path / "a.snirf"
    nirs.write_snirf(path)
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(LoadError, match=rf"a\.snirf.*{message}"):
        tectum.read(path)


@pytest.mark.parametrize("write", [nirs.write_nirx, nirs.write_aurora])
def test_nirx(tmp_path: Path, write: Callable[[Path], np.ndarray]) -> None:
    values = write(tmp_path / "a.hdr")
    for path in (tmp_path / "a.hdr", tmp_path):
        rec = tectum.read(path)
        same(rec, values, mne.io.read_raw_nirx(tmp_path, verbose="ERROR"))
        assert rec.coords["channel"]["name"].tolist() == NAMES
        assert set(rec.coords["channel"]["type"].tolist()) == {"fnirs_cw_amplitude"}
        assert [(start, label) for start, _, label in notes(rec)] == [(1.0, "1.0"), (4.0, "2.0")]
        assert (rec.subject, rec.meta["measured"][:19]) == ("s1", "2024-01-02T03:04:05")


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("a.wl1", "\n", "", "expected a table of intensities"),
        ("a.wl2", "9.000000", "inf", "expected 1000 lines of intensities, got 1000 and 1000 infinite numbers"),
        ("a.hdr", ",2-2:3,", ",", "each with 2 pairs"),
        ("a.hdr", "2-2:3", "2-1:3", r"expected a probe of pairs that were recorded, got \[\(2, 2\)\]"),
        ("a.hdr", "1-2:2", "1-2:7", "expected pairs numbered 1, 2"),
        ("a.hdr", "760\t", "", "expected two wavelengths in nm"),
        ("a.hdr", "SamplingRate=100", "SamplingRate=0", "expected a sampling rate, got 0 Hz"),
    ],
)
def test_nirx_that_contradicts_itself(tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
    nirs.write_nirx(tmp_path / "a.hdr")
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text.replace(old, new, 1 if old == "\n" else -1))
    with pytest.raises(LoadError, match=message) as error:
        tectum.read(tmp_path / "a.hdr")
    assert str(tmp_path) in str(error.value)


def test_saturation_of_nirx_is_marked(tmp_path: Path) -> None:
    """The usual table has no numbers where the light was too strong; a second one beside it has them."""
    values = nirs.write_nirx(tmp_path / "a.hdr")
    for name in ("wl1", "wl2"):
        lines = (tmp_path / f"a.{name}").read_text().splitlines()
        (tmp_path / f"a.nosatflags_{name}").write_text("\n".join(lines) + "\n")
        lines[300:400] = ["nan 9.0 nan"] * 100
        (tmp_path / f"a.{name}").write_text("\n".join(lines) + "\n")
    rec = tectum.read(tmp_path)
    same(rec, values, mne.io.read_raw_nirx(tmp_path, verbose="ERROR"))
    assert set(rec.intervals["bad"].pairs()) == {(3.0, 4.0)}


def test_a_wavelength_that_is_shorter_than_the_other(tmp_path: Path) -> None:
    """MNE takes the length of the first for that of both."""
    nirs.write_nirx(tmp_path / "a.hdr")
    lines = (tmp_path / "a.wl2").read_text().splitlines(keepends=True)
    (tmp_path / "a.wl2").write_text("".join(lines[:900]))
    with pytest.raises(LoadError, match=r"two wavelengths of one length.*'a\.wl1': \(1000, 3\), 'a\.wl2': \(900, 3\)"):
        tectum.read(tmp_path / "a.hdr")


@pytest.mark.parametrize("mixed", [False, True])
def test_boxy(tmp_path: Path, mixed: bool) -> None:
    """Intensities, their modulation and its phase are parts of their own, the phase in radians."""
    path = tmp_path / "a.txt"
    values = nirs.write_boxy(path, mixed)
    rec = tectum.read(path)
    theirs = mne.io.read_raw_boxy(path, verbose="ERROR")
    parts = {"fnirs_cw_amplitude": "a.u.", "fnirs_fd_ac_amplitude": "a.u.", "fnirs_fd_phase": "rad"}
    for k, (name, unit) in enumerate(parts.items()):
        same(rec[name], values[k::3], theirs.copy().pick(name), unit)
        assert rec[name].coords["channel"]["name"].tolist() == [f"S{s}_D1 {('DC', 'AC', 'Ph')[k]}" for s in (1, 2)]
    if not mixed:
        assert notes(rec["fnirs_fd_phase"]) == [(1.0, 1.5, "1.0"), (4.0, 4.5, "2.0")]


@pytest.mark.parametrize(
    ("mixed", "old", "new", "message"),
    [
        (False, "#DATA ENDS", "", "expected rows up to #DATA ENDS, got no end of the data"),
        (False, "1 Detector", "2 Detector", r"expected columns of 2 detectors and 2 sources, got \['B-AC1', 'B-AC2'"),
        (False, "1 Detector", "2147483648 Detector", "expected numbers of detectors and sources, got 2147483648 and 2"),
        (False, "2 External", "1 External", "expected columns of 1 detectors and 1 sources"),
        (False, "100.0 Update", "0.0 Update", "expected a sampling rate, got 0 Hz"),
        (False, "5.000000\t", "5.000000\t7.000000\t", "expected 8 to 8 numbers in a row, got 9 in row 501"),
        (False, "5.010000\t", "5.01e00\t", "expected numbers without exponents"),
        (
            False,
            "digaux\n\n",
            "digaux\x0b\n",
            "expected a line between the names of columns and the first row, got a row",
        ),
        (True, "#DATA ENDS", "0\t1.0\t1.0\t1.0\n#DATA ENDS", "expected rows of 2 sources, got 2001 rows"),
    ],
)
def test_boxy_that_contradicts_itself(tmp_path: Path, mixed: bool, old: str, new: str, message: str) -> None:
    path = tmp_path / "a.txt"
    nirs.write_boxy(path, mixed)
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(LoadError, match=rf"a\.txt: {message}"):
        tectum.read(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_hitachi(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.csv"
    values = nirs.write_hitachi(path, end)
    rec = tectum.read(path)
    same(rec, values, mne.io.read_raw_hitachi(path, verbose="ERROR").pick("fnirs"))
    assert rec.coords["channel"]["name"][:3].tolist() == ["S1_D1 695", "S1_D1 830", "S2_D1 695"]
    assert (rec.subject, rec.meta["measured"][:16]) == ("s1", "2024-01-02T03:04")
    events = rec.intervals["events"]
    assert events.start.tolist() == pytest.approx([1.0])
    assert events.columns["channel"].tolist() == ["Mark"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\n151,", "\n152,", "expected rows numbered one after the other, got 152 after 150"),
        ("\n151,", "\n151,0.5,", "expected 48 numbers in a row, got 49 in row 151"),
        ("\n151,", "\nnan,", "expected 300 rows of finite numbers"),
        ("\n151,", "\nx,", "expected a table of numbers"),
        ("[s],0.01", "[s],0", "expected a sampling rate, got 0 Hz"),
        ("\nData\n", "\nDate\n", "expected rows of data, got none"),
    ],
)
def test_hitachi_that_contradicts_itself(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "a.csv"
    nirs.write_hitachi(path)
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(LoadError, match=rf"a\.csv: {message}"):
        tectum.read(path)
