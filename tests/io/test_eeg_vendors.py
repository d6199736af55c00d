"""Files of other vendors, written byte by byte: equality with MNE and with what was written, sizes, damage."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from writers import eeg, vendors

import tectum
from tectum import Recording, Session
from tectum.core.errors import LoadError, MissingExtraError, TectumWarning
from tectum.io.eeg import files
from tectum.io.eeg.files import format_of
from tectum.io.eeg.read import read_eeg
from tectum.io.eeg.units import AmplitudeError


def same(rec: Any, values: np.ndarray, theirs: Any) -> None:
    """Values as written to a float32's precision and MNE's bit by bit; times to 1e-9 s; names."""
    assert isinstance(rec, Recording)
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=2e-6, atol=1e-12)
    np.testing.assert_array_equal(rec.values.numpy(), theirs.get_data().astype(np.float32))
    np.testing.assert_allclose(rec.time.numpy(), theirs.times + theirs.first_time, rtol=0, atol=1e-9)
    assert rec.coords["channel"]["name"].tolist() == theirs.ch_names
    assert (rec.units, rec.rate, rec.dims) == ("V", 100.0, ("channel", "time"))


def notes(rec: Recording) -> list[tuple[float, str]]:
    found = rec.intervals["annotations"]
    return list(zip(found.start.tolist(), found.columns["label"].tolist(), strict=True))


@pytest.mark.parametrize("version", [1.25, 2.2])
@pytest.mark.parametrize("records", [10, 1])
def test_gdf(tmp_path: Path, version: float, records: int) -> None:
    values = vendors.write_gdf(tmp_path / "a.gdf", version, records=records)
    rec = tectum.read(tmp_path / "a.gdf")
    same(rec, values, mne.io.read_raw_gdf(tmp_path / "a.gdf", verbose="ERROR"))
    assert notes(rec) == [(1.0, "769"), (4.0, "770")]
    assert rec.meta["measured"].startswith("2024-01-02" if version < 2 else "202")
    assert rec.history[0]["unit_in_file"] == ["uV"]


def test_gdf_of_other_units(tmp_path: Path) -> None:
    path = tmp_path / "a.gdf"
    vendors.write_gdf(path, unit=4274)  # the numbers are microvolt and called millivolt
    with pytest.raises(AmplitudeError, match="the unit that is claimed is wrong"):
        tectum.read(path)
    assert tectum.read(path, units="uV").units == "uV"
    values = vendors.write_gdf(path, unit=512)
    with pytest.warns(TectumWarning, match=r"no known unit is stated for Fp1 \(none\), Cz"):
        rec = tectum.read(path)
    assert rec.units == "a.u."
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=2e-6)


def test_gdf_of_several_rates_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gdf"
    vendors.write_gdf(path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<i", data, 256 + 216 * 4, 50)
    path.write_bytes(data)
    with pytest.raises(LoadError, match=r"a\.gdf: expected signals of one rate, got 50 Hz, 100 Hz; convert it to EDF"):
        tectum.read(path)


@pytest.mark.parametrize("version", [2, 4, 6])
def test_egi_simple_binary(tmp_path: Path, version: int) -> None:
    path = tmp_path / "a.raw"
    values = vendors.write_egi(path, version)
    assert format_of(path) == "EGI simple"
    rec = tectum.read(path, picks="eeg")
    theirs = mne.io.read_raw_egi(path, verbose="ERROR").pick("eeg")
    same(rec, values, theirs)
    assert sorted(notes(rec)) == [(1.0, "DIN1"), (5.0, "DIN1"), (9.0, "stop")]


def test_a_range_of_egi_is_of_microvolt(tmp_path: Path) -> None:
    """With a range the numbers are steps of microvolt, which MNE calls V: the check of units says so."""
    vendors.write_egi(tmp_path / "a.raw", 4, bits=(2, 4))
    with pytest.raises(AmplitudeError, match="pass units="):
        tectum.read(tmp_path / "a.raw")
    rec = tectum.read(tmp_path / "a.raw", units="uV", picks="eeg")
    np.testing.assert_allclose(rec.values.numpy(), eeg.volts() * 1e6, rtol=2e-6)


def test_segments_of_egi_are_refused(tmp_path: Path) -> None:
    vendors.write_egi(tmp_path / "a.raw")
    data = bytearray((tmp_path / "a.raw").read_bytes())
    data[3] = 3
    (tmp_path / "a.raw").write_bytes(data)
    with pytest.raises(LoadError, match=r"expected continuous data \(version 2, 4 or 6\), got version 3; export it"):
        tectum.read(tmp_path / "a.raw")


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.filterwarnings("ignore:.*Could not parse meas date.*")
def test_neuroscan(tmp_path: Path, width: int) -> None:
    path = tmp_path / "a.cnt"
    values = vendors.write_cnt(path, width)
    rec = tectum.read(path)
    same(rec, values, mne.io.read_raw_cnt(path, data_format=f"int{8 * width}", verbose="ERROR"))
    assert rec.coords["channel"]["bad"].tolist() == [False, True, False, False]
    # MNE counts the offsets of the table from the sample before the first: events lie one sample before their bytes
    assert [(round(t, 9), label) for t, label in notes(rec)] == [(0.99, "7"), (3.99, "7")]


@pytest.mark.parametrize("width", [2, 4])
def test_persyst(tmp_path: Path, width: int) -> None:
    path = tmp_path / "a.lay"
    values = vendors.write_persyst(path, width)
    rec = tectum.read(path)
    same(rec, values, mne.io.read_raw_persyst(path, verbose="ERROR"))
    assert notes(rec) == [(1.0, "go"), (2.5, "BAD_move"), (9.99, "end")]
    assert rec.intervals["bad"].pairs() == [(2.5, 3.0)]
    assert (rec.subject, rec.meta["measured"][:10]) == ("s1", "2024-01-02")


def test_a_clip_of_persyst(tmp_path: Path) -> None:
    vendors.write_persyst(tmp_path / "a.lay")
    data = (tmp_path / "a.dat").read_bytes()
    (tmp_path / "a.dat").write_bytes(data[:4000])
    with pytest.raises(
        LoadError, match=r"a\.dat: expected data up to the comment at 9\.99 s, got 5 s; .*truncated=True"
    ):
        tectum.read(tmp_path / "a.lay")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TectumWarning)
        assert tectum.read(tmp_path / "a.lay", truncated=True).shape == (4, 500)


def test_channels_of_persyst_out_of_order_are_refused(tmp_path: Path) -> None:
    """MNE takes them in the order of the text, whatever their numbers say."""
    vendors.write_persyst(tmp_path / "a.lay")
    text = (tmp_path / "a.lay").read_text()
    (tmp_path / "a.lay").write_text(text.replace("Fp1-Ref=1", "Fp1-Ref=2").replace("Cz-Ref=2", "Cz-Ref=1"))
    with pytest.raises(LoadError, match=r"a\.lay: expected channels 1, 2, \.\.\. .*numbered \[2, 1, 3, 4\]"):
        tectum.read(tmp_path / "a.lay")


@pytest.mark.parametrize("blocks", [1, 2])
def test_nihon_kohden(tmp_path: Path, blocks: int) -> None:
    path = tmp_path / "a.EEG"
    values = vendors.write_nihon(path, blocks)
    assert format_of(path) == "Nihon Kohden"
    rec = tectum.read(path)
    same(rec, values, mne.io.read_raw_nihon(path, verbose="ERROR"))
    assert notes(rec)[:2] == [(1.0, "go"), (4.0, "stop")]
    part = rec.isel(time=slice(300, 700)).values  # MNE 1.13 cannot read across the edge of a block
    np.testing.assert_array_equal(part.numpy(), rec.values[:, 300:700].numpy())
    if blocks == 2:  # the clock of the amplifier may have stopped between the blocks
        assert rec.intervals["bad"].columns["label"].tolist() == ["BAD boundary"]


# FieldTrip


def test_fieldtrip_continuous(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    values = vendors.write_fieldtrip(path)[0]
    found = tectum.read(path)
    assert isinstance(found, Session)
    assert {k: (p.units, p.shape, p.t0) for k, p in found.items()} == {
        "eeg": ("V", (3, 1000), -0.5),
        "eog": ("V", (1, 1000), -0.5),
    }
    np.testing.assert_allclose(found["eeg"].values.numpy(), values[[0, 1, 3]], rtol=2e-6)
    np.testing.assert_allclose(found["eog"].values.numpy(), values[[2]], rtol=2e-6)
    table = found["eeg"].coords["channel"]
    assert table["name"].tolist() == ["Fp1", "Cz", "A'12"]
    np.testing.assert_allclose(table["x"], [0.04, 0.01, np.nan])
    assert found["eeg"].meta["positions"] == {"unit": "m", "frame": "mni"}


def test_fieldtrip_trials_equal_scipy(tmp_path: Path) -> None:
    from scipy.io import loadmat

    path = tmp_path / "a.mat"
    vendors.write_fieldtrip(path, 5)
    rec = tectum.read(path, types={"O2": "eeg"}, picks="eeg")
    raw = loadmat(path, squeeze_me=True)["data"][()]
    stored = np.stack(list(raw["trial"]))
    assert rec.dims == ("trial", "channel", "time")
    np.testing.assert_array_equal(rec.values.numpy(), (stored * 1e-6).astype(np.float32))
    np.testing.assert_allclose(rec.time.numpy(), raw["time"][0], rtol=0, atol=1e-9)
    trial = rec.coords["trial"]
    np.testing.assert_array_equal(trial["value"], raw["trialinfo"][:, 0])
    np.testing.assert_array_equal(trial["value_2"], raw["trialinfo"][:, 1])
    assert trial["label"].tolist() == ["1", "2", "1", "2", "1"]
    np.testing.assert_allclose(trial["start"], (raw["sampleinfo"][:, 0] - 1) / 100 + 0.5, rtol=0, atol=1e-9)


def test_fieldtrip_averages_and_tensors(tmp_path: Path) -> None:
    times = (np.arange(1000) / 100 - 0.5)[None]
    fields: dict[str, Any] = {"trial": None, "time": times, "sampleinfo": None, "avg": eeg.volts() * 1e6}
    vendors.write_fieldtrip(tmp_path / "a.mat", name="timelock", **fields)
    rec = tectum.read(tmp_path / "a.mat", types={"O2": "eeg"}, picks="eeg")
    np.testing.assert_allclose(rec.values.numpy()[0], eeg.volts(), rtol=2e-6)
    tensor = np.stack([eeg.volts(), -eeg.volts()]) * 1e6
    vendors.write_fieldtrip(tmp_path / "b.mat", **{**fields, "avg": None, "trial": tensor})
    rec = tectum.read(tmp_path / "b.mat", types={"O2": "eeg"}, picks="eeg")
    np.testing.assert_allclose(rec.values.numpy(), tensor * 1e-6, rtol=2e-6)


def test_fieldtrip_without_units(tmp_path: Path) -> None:
    vendors.write_fieldtrip(tmp_path / "a.mat", hdr=None, elec=None)
    with pytest.warns(TectumWarning, match=r"no known unit is stated for Fp1 \(none\)"):
        assert tectum.read(tmp_path / "a.mat").units == "a.u."
    rec = tectum.read(tmp_path / "a.mat", units="uV", types="seeg")
    np.testing.assert_allclose(rec.to_units("V").values.numpy(), eeg.volts(), rtol=2e-6)
    assert rec.modality == "seeg"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"label": np.array(["a", "a", "b", "c"], dtype=object)[:, None]}, "expected different names"),
        ({"label": np.array(["a", "b"], dtype=object)[:, None]}, "trials of 2 channels by one number of samples"),
        ({"fsample": 250.0}, "expected a steady clock, got times that step by 0.01 to 0.01 s, a rate of 250 Hz"),
        ({"sampleinfo": np.ones((3, 2))}, "sampleinfo: expected 1 rows, one a trial, got 3"),
        ({"trialinfo": np.ones((3, 2))}, "trialinfo: expected 1 rows, one a trial"),
    ],
)
def test_fieldtrip_contradictions(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    vendors.write_fieldtrip(tmp_path / "a.mat", **fields)
    with pytest.raises(LoadError, match=says):
        read_eeg(tmp_path / "a.mat")


def test_trials_of_different_lengths_are_refused(tmp_path: Path) -> None:
    made = vendors.fieldtrip_struct(2)
    made["trial"][0, 1] = made["trial"][0, 1][:, :-1]
    vendors.write_fieldtrip(tmp_path / "a.mat", 2, trial=made["trial"])
    with pytest.raises(LoadError, match="cut them to one length with ft_redefinetrial"):
        read_eeg(tmp_path / "a.mat")


# Which format


def test_more_formats_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.asc").write_bytes(b"** CONVERTED FROM x.edf using edfapi 3.1\n")
    (tmp_path / "boxy.txt").write_bytes(b"BOXY.EXE\n#ISS Inc\n#DATA BEGINS\n1 2\n")
    (tmp_path / "h.csv").write_bytes(b"Header\nFile Version,1.08,\n")
    for name in ("n.hdr", "n.wl1", "x_meg.bin", "x_meg.json"):
        (tmp_path / name).write_bytes(b"x")
    found = {n: format_of(tmp_path / n) for n in ("a.asc", "boxy.txt", "h.csv", "n.hdr", "x_meg.bin")}
    assert list(found.values()) == ["EyeLink", "BOXY", "Hitachi", "NIRx", "FIL"]
    for name, content in {"b.asc": b"text", "b.txt": b"text", "b.csv": b"a,b\n", "b.raw": b"x" * 40}.items():
        (tmp_path / name).write_bytes(content)
        assert format_of(tmp_path / name) == ""


def test_every_reader_of_mne_has_a_way_in() -> None:
    """The table of suffixes that MNE keeps, and the readers that are outside of it."""
    from mne.io._read_raw import _get_supported

    known = {suffix for suffix in files.SUFFIXES if suffix != ".gz"} | set(files._COMPANIONS) | set(files._SIGNS)
    assert set(_get_supported()) - known - {".hdr", ".bin", ".mat"} == set()  # these three are told by what is beside


@pytest.mark.parametrize(
    ("name", "content", "package"), [("a.cnt", b"RIFF\x00\x00\x00\x00CNT ", "antio"), ("a.cdt", b"x", "curryreader")]
)
def test_missing_packages_are_named(
    tmp_path: Path, name: str, content: bytes, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"{name}: expected the package {package}.*pip install {package}"):
        tectum.read(tmp_path / name)
