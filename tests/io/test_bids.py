"""BIDS trees: real ones, trees written by mne-bids and compared with it, side tables, inheritance, wrong tables."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from writers import eeg as writer
from writers import realdata

import tectum
from tectum import Recording, Session
from tectum.core.errors import InputError, LoadError, TectumWarning
from tectum.io.detect import detect
from tectum.io.eeg.bids import is_bids, read_bids
from tectum.io.eeg.read import read_eeg
from tectum.io.eeg.units import AmplitudeError


def cached(folder: str) -> Path:
    path = realdata.cached() / folder
    if not path.is_dir():
        pytest.skip(f"{folder} is not in the cache: run tools/fetch_realdata.py")
    return path


def implants(datatype: str) -> Any:
    """Return a Raw object with positions in MNI space, a bad channel, and two kinds of channel."""
    names = ("A1", "A2", "B1", "EMG1") if datatype == "ieeg" else ("Fz", "Cz", "Pz", "EOG1")
    types = ["seeg"] * 3 + ["emg"] if datatype == "ieeg" else ["eeg"] * 3 + ["eog"]
    raw = writer.raw(types, names)
    place = {name: np.array([0.01 * k, -0.02, 0.03]) for k, name in enumerate(names[:3])}
    frame = "mni_tal" if datatype == "ieeg" else "head"
    points = {} if datatype == "ieeg" else {"nasion": [0, 0.1, 0], "lpa": [-0.1, 0, 0], "rpa": [0.1, 0, 0]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw.set_montage(mne.channels.make_dig_montage(place, coord_frame=frame, **points))
    raw.info["line_freq"] = 50
    return raw


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Write a tree of sEEG by hand: BrainVision data and every side table."""
    folder = tmp_path / "data" / "sub-01" / "ses-a" / "ieeg"
    folder.mkdir(parents=True)
    root, stem = tmp_path / "data", "sub-01_ses-a_task-speak_run-01"
    writer.write_brainvision(folder / f"{stem}_ieeg.vhdr")
    (root / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    (root / "participants.tsv").write_text("participant_id\tage\tsex\nsub-02\t31\tM\nsub-01\t27\tn/a\n")
    (root / "task-speak_ieeg.json").write_text('{"PowerLineFrequency": 60, "iEEGReference": "scalp"}')
    (folder / f"{stem}_ieeg.json").write_text('{"PowerLineFrequency": 50, "SamplingFrequency": 100.0}')
    rows = ["Fp1\tSEEG\tuV\tgood\tn/a\t1", "O2\tSEEG\tuV\tgood\tn/a\t2", "Cz\tSEEG\tuV\tbad\tnoisy\tn/a"]
    head = "name\ttype\tunits\tstatus\tstatus_description\tgroup"
    table = "\n".join([head, *rows, "A'12\tEOG\tuV\tgood\tn/a\tn/a"])
    (folder / f"{stem}_channels.tsv").write_text(table + "\n")
    places = (
        "name\tx\ty\tz\tsize\tanatomy\nO2\t3\t4\t5\t2.5\tSTG\nFp1\t1\t-2\t30\t2.5\tIFG\nCz\tn/a\tn/a\tn/a\tn/a\tn/a\n"
    )
    (folder / "sub-01_ses-a_space-MNI152_electrodes.tsv").write_text(places)
    system = {"iEEGCoordinateSystem": "MNI152", "iEEGCoordinateUnits": "mm"}
    (folder / "sub-01_ses-a_space-MNI152_coordsystem.json").write_text(json.dumps(system))
    rows = ["1.5\t0.5\tspeak\tb\u00e0\t3", "4\tn/a\trest\tn/a\tn/a", "6\t1\tBAD_x\tn/a\t1"]
    events = "\n".join(["onset\tduration\ttrial_type\tword\tlevel", *rows, ""])
    (folder / f"{stem}_events.tsv").write_text(events, encoding="utf-8")
    return root


def data_file(tree: Path) -> Path:
    return next(tree.rglob("*.vhdr"))


@pytest.mark.filterwarnings("ignore::tectum.core.errors.TectumWarning")
def test_every_table_is_used(tree: Path) -> None:
    found = tectum.read(data_file(tree))
    assert isinstance(found, Session)
    rec = found["seeg"]
    channels = rec.coords["channel"]
    assert channels["name"].tolist() == ["Fp1", "Cz", "O2"]
    assert channels["bad"].tolist() == [False, True, False]
    assert channels["status_description"].tolist() == ["", "noisy", ""]
    np.testing.assert_array_equal(channels["group"], [1.0, np.nan, 2.0])
    np.testing.assert_allclose(channels["x"], [0.001, np.nan, 0.003])
    np.testing.assert_allclose(channels["z"], [0.03, np.nan, 0.005])
    assert channels["region"].tolist() == ["IFG", "", "STG"]
    assert rec.meta["positions"]["frame"] == "MNI152"
    assert rec.meta["positions"]["unit"] == "m"
    assert rec.meta["line_frequency"] == 50.0
    assert rec.meta["bids"]["sidecar"]["iEEGReference"] == "scalp"
    assert rec.meta["bids"]["entities"] == {"sub": "01", "ses": "a", "task": "speak", "run": "01"}
    assert rec.meta["participant"] == {"participant_id": "sub-01", "age": "27"}
    assert (rec.subject, rec.session, rec.modality) == ("01", "a", "seeg")
    assert found["eog"].coords["channel"]["name"].tolist() == ["A'12"]


@pytest.mark.filterwarnings("ignore::tectum.core.errors.TectumWarning")
def test_events_and_epochs_by_name(tree: Path) -> None:
    rec = read_bids(tree)["seeg"]
    events = rec.intervals["events"]
    assert events.pairs() == [(1.5, 2.0), (4.0, 4.0), (6.0, 7.0)]
    assert events.columns["label"].tolist() == ["speak", "rest", "BAD_x"]
    assert events.columns["word"].tolist()[0] == "b\u00e0"
    np.testing.assert_array_equal(events.columns["level"], [3.0, np.nan, 1.0])
    assert rec.intervals["bad"].pairs() == [(6.0, 7.0)]
    cut = rec.epochs(events.where("trial_type", "speak"), (-0.5, 0.5))
    assert cut.sizes == {"trial": 1, "channel": 3, "time": 100}
    np.testing.assert_array_equal(cut.values[0], rec.values[:, 100:200])


def test_without_side_tables(tree: Path) -> None:
    for path in [*tree.rglob("*.tsv"), *tree.rglob("*ieeg.json"), *tree.rglob("*coordsystem.json")]:
        path.unlink()
    rec = tectum.read(data_file(tree))
    assert isinstance(rec, Recording)
    assert (rec.subject, rec.modality) == ("01", "eeg")
    assert list(rec.coords["channel"]) == ["name", "type", "bad"]


def test_a_tree_is_recognised(tree: Path) -> None:
    path = data_file(tree)
    assert is_bids(tree)
    assert is_bids(path)
    assert detect(path) == ["bids"]
    assert not is_bids(tree / "participants.tsv")
    assert not is_bids(tree / "sub-01")
    assert read_eeg(path).coords["channel"]["type"].tolist() == ["eeg"] * 4  # the file alone
    assert tectum.read(path, format="eeg").shape == (4, 1000)


@pytest.mark.filterwarnings("ignore::tectum.core.errors.TectumWarning")
def test_one_of_many_is_asked_for(tree: Path) -> None:
    first = data_file(tree)
    for name in [p.name for p in first.parent.iterdir()]:
        if "_run-01_" in name:
            other = first.parent / name.replace("_run-01_", "_run-02_")
            text = (first.parent / name).read_bytes()
            other.write_bytes(text.replace(b"_run-01_", b"_run-02_"))
    with pytest.raises(
        LoadError, match=r"expected one recording, got 2 for all: .*run-01_ieeg.vhdr, .*; pass subject="
    ):
        read_bids(tree)
    assert read_bids(tree, run="2").meta["bids"]["entities"]["run"] == "02"
    with pytest.raises(LoadError, match=r"got 0 for sub='09'"):
        read_bids(tree, subject="09")


# Wrong tables


def change(tree: Path, pattern: str, old: str, new: str) -> None:
    path = next(tree.rglob(pattern))
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.filterwarnings("ignore::tectum.core.errors.TectumWarning")
@pytest.mark.parametrize(
    ("pattern", "old", "new", "says"),
    [
        ("*channels.tsv", "name\t", "chan\t", "expected a column 'name' of different names"),
        ("*channels.tsv", "Cz\tSEEG", "Fp1\tSEEG", "expected a column 'name' of different names"),
        ("*electrodes.tsv", "Fp1\t1\t", "Fp1\t", "values in row 3"),
        ("*events.tsv", "onset\t", "start\t", "expected columns onset and duration"),
        ("*events.tsv", "4\tn/a\trest", "n/a\tn/a\trest", "expected a time in s, got n/a in row 2"),
        ("*events.tsv", "1.5\t0.5", "1.5\t-1", "expected durations of 0 s or more"),
        ("*run-01_ieeg.json", '{"Power', '"Power', "expected a JSON object"),
        ("*coordsystem.json", "{", "[", "expected a JSON object"),
    ],
)
def test_wrong_tables_are_named(tree: Path, pattern: str, old: str, new: str, says: str) -> None:
    change(tree, pattern, old, new)
    with pytest.raises(LoadError, match=says) as caught:
        tectum.read(data_file(tree))
    assert str(tree) in str(caught.value)


def test_a_table_of_other_channels(tree: Path) -> None:
    for name in ("Fp1", "Cz", "O2", "A'12"):
        change(tree, "*channels.tsv", f"{name}\t", f"x{name}\t")
    with pytest.raises(LoadError, match=r"expected a channels\.tsv with the channels of the data"):
        tectum.read(data_file(tree))


@pytest.mark.parametrize(
    ("pattern", "old", "new", "says"),
    [
        ("*channels.tsv", "Cz\tSEEG\tuV\tbad", "Q9\tSEEG\tuV\tbad", r"channels\.tsv does not list Cz"),
        ("*channels.tsv", "Fp1\tSEEG\tuV", "Fp1\tSEEG\tmV", r"differ in the unit of Fp1 \(mV, header uV\)"),
        ("*run-01_ieeg.json", "100.0", "200.0", "the sidecar says 200 Hz, the data have 100 Hz"),
        ("*run-01_ieeg.json", "{", '{"RecordingDuration": 20, ', "says 20 s, the data last 10 s: were they cut off"),
        ("*coordsystem.json", '"mm"', '"n/a"', "positions in 'n/a' are kept as they are"),
        ("*coordsystem.json", '"mm"', '"pixels"', "positions in 'pixels' are no places and left out"),
    ],
)
def test_contradictions_are_told(tree: Path, pattern: str, old: str, new: str, says: str) -> None:
    change(tree, "*events.tsv", "4\tn/a", "4\t0")
    change(tree, pattern, old, new)
    with pytest.warns(TectumWarning, match=says):
        found = tectum.read(data_file(tree), picks="seeg")
    assert found.units == "V"


def test_spaces(tree: Path) -> None:
    change(tree, "*events.tsv", "4\tn/a", "4\t0")
    for name in ("electrodes.tsv", "coordsystem.json"):
        path = next(tree.rglob(f"*{name}"))
        text = path.read_text().replace("O2\t3", "O2\t7").replace('"MNI152"', '"Talairach"')
        path.with_name(path.name.replace("MNI152", "Tal")).write_text(text)
    path = data_file(tree)
    assert read_bids(path, space="Tal", picks="seeg").coords["channel"]["x"][2] == pytest.approx(0.007)
    assert read_bids(path, space="Tal", picks="seeg").meta["positions"]["frame"] == "Talairach"
    assert read_bids(path, space="MNI152", picks="seeg").coords["channel"]["x"][2] == pytest.approx(0.003)
    with pytest.raises(InputError, match="expected an electrodes table with space-ACPC, got none"):
        read_bids(path, space="ACPC")


# Trees by mne-bids


@pytest.mark.filterwarnings("ignore:.*differ in the unit of Fz .V, header uV.")  # so mne-bids writes BDF
@pytest.mark.parametrize(
    ("datatype", "fmt"), [("ieeg", "BrainVision"), ("ieeg", "EDF"), ("eeg", "BrainVision"), ("eeg", "BDF")]
)
def test_trees_of_mne_bids_equal_mne_bids(tmp_path: Path, datatype: str, fmt: str) -> None:
    mne_bids = pytest.importorskip("mne_bids")
    path = writer.bids_tree(tmp_path, implants(datatype), datatype=datatype, fmt=fmt)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = mne_bids.read_raw_bids(mne_bids.get_bids_path_from_fname(path, check=False), verbose="ERROR")
    found = tectum.read(path)
    kind = "seeg" if datatype == "ieeg" else "eeg"
    assert set(found) == {kind, "emg" if datatype == "ieeg" else "eog"}
    rec = found[kind]
    same = theirs.copy().pick(kind)
    np.testing.assert_array_equal(rec.values.numpy(), same.get_data().astype(np.float32))
    np.testing.assert_allclose(rec.time.numpy(), same.times, rtol=0, atol=1e-9)
    assert rec.coords["channel"]["name"].tolist() == same.ch_names
    assert rec.coords["channel"]["bad"].tolist() == [n in same.info["bads"] for n in same.ch_names]
    places = np.array([c["loc"][:3] for c in same.info["chs"]])
    ours = np.stack([rec.coords["channel"][a] for a in "xyz"], axis=1)
    if datatype == "ieeg":  # of EEG, mne-bids moves positions to head coordinates
        np.testing.assert_allclose(ours, places, rtol=0, atol=1e-7)
        np.testing.assert_allclose(ours[1], [0.01, -0.02, 0.03], atol=1e-7)
    events = rec.intervals["events"]
    assert events.columns["label"].tolist() == theirs.annotations.description.tolist()
    np.testing.assert_allclose(events.start, theirs.annotations.onset, rtol=0, atol=1e-6)
    assert rec.meta["line_frequency"] == 50.0
    assert (rec.subject, rec.session) == ("01", "a")


def test_a_tree_of_meg(tmp_path: Path) -> None:
    pytest.importorskip("mne_bids")
    data = writer.volts(3) * np.array([[1e-7], [1e-6], [1]])
    data[2] = 0
    data[2, [100, 400]] = 1, 2
    raw = writer.raw(["mag", "grad", "stim"], ("MEG0111", "MEG0112", "STI101"), data=data)
    raw.info["line_freq"] = 50
    path = writer.bids_tree(tmp_path, raw, datatype="meg", fmt="FIF")
    found = tectum.read(path)
    assert {k: (p.units, p.shape[0]) for k, p in found.items()} == {"mag": ("T", 1), "grad": ("T/m", 1)}


# Real trees


@pytest.mark.realdata
def test_the_real_ecog_claims_volts_that_it_cannot_have() -> None:
    root = cached("py-neuromodulation-0.1.3") / "py_neuromodulation" / "data"
    with pytest.raises(AmplitudeError, match=r"got \d+\.?\d* V; the unit that is claimed is wrong: pass units="):
        tectum.read(root)
    found = tectum.read(root, units="a.u.")
    packed = tectum.datasets.load("ecog_grip")
    assert {k: p.shape for k, p in found.items()} == {"dbs": (3, 19_001), "ecog": (6, 19_001), "misc": (1, 19_001)}
    ours = np.concatenate([found[k].values.numpy() for k in ("dbs", "ecog", "misc")])
    names = [n for k in ("dbs", "ecog", "misc") for n in found[k].coords["channel"]["name"]]
    assert names == packed.coords["channel"]["name"].tolist()
    np.testing.assert_allclose(ours, packed.values.T.numpy(), rtol=2e-7)
    np.testing.assert_allclose(found["ecog"].coords["channel"]["x"], packed.coords["channel"]["x"][3:9], atol=1e-12)
    assert found["ecog"].rate == 1000.0
    assert found["ecog"].meta["participant"]["participant_id"] == "sub-testsub"


@pytest.mark.realdata
def test_the_real_eeg_of_mne_bids() -> None:
    mne_bids = pytest.importorskip("mne_bids")
    root = cached("mne-bids-0.13") / "mne-bids-0.13" / "mne_bids" / "tests" / "data" / "tiny_bids"
    found = tectum.read(root)
    assert {k: (p.units, p.shape) for k, p in found.items()} == {
        "eeg": ("V", (64, 10_000)),
        "ecg": ("V", (1, 10_000)),
        "eog": ("V", (2, 10_000)),
        "gsr": ("a.u.", (1, 10_000)),
        "temperature": ("a.u.", (1, 10_000)),
    }
    rec = found["eeg"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = mne_bids.BIDSPath(root=root, subject="01", session="eeg", task="rest", datatype="eeg", suffix="eeg")
        theirs = mne_bids.read_raw_bids(path, verbose="ERROR").pick("eeg")
    np.testing.assert_array_equal(rec.values.numpy(), theirs.get_data().astype(np.float32))
    assert rec.coords["channel"]["name"].tolist() == theirs.ch_names
    assert rec.intervals["events"].columns["label"].tolist() == ["start_experiment", "show_stimulus"]
    np.testing.assert_allclose(rec.intervals["events"].start, [0.0, 0.2], atol=1e-9)
    assert rec.coords["channel"]["impedance"][0] == 5.0
    assert np.isfinite(rec.coords["channel"]["x"]).all()
    assert rec.meta["participant"]["age"] == "29"
    assert 1e-6 < float(rec.values.std()) < 1e-2
