"""Real EEG and MEG out of packages, element by element against MNE and edfio."""

from __future__ import annotations

import warnings
from pathlib import Path

import mne
import numpy as np
import pytest
from writers import realdata

import tectum
from tectum import Recording, Session

pytestmark = pytest.mark.realdata


def member(package: str, name: str) -> Path:
    path = realdata.cached() / package / package / name
    if not path.is_file():
        pytest.skip(f"{package} is not in the cache: run tools/fetch_realdata.py")
    return path


def test_meg_and_eeg_of_one_head() -> None:
    path = member("eeglabio-0.1.4", "eeglabio/tests/data/test_raw.fif")
    found = tectum.read(path)
    assert {k: (p.units, p.modality, p.shape) for k, p in found.items()} == {
        "grad": ("T/m", "meg", (204, 14_400)),
        "mag": ("T", "meg", (102, 14_400)),
        "eeg": ("V", "eeg", (60, 14_400)),
        "eog": ("V", "eog", (1, 14_400)),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = mne.io.read_raw_fif(path, verbose="ERROR")
    for kind, part in found.items():
        theirs = raw.copy().pick(kind, exclude=())
        np.testing.assert_array_equal(part.values.numpy(), theirs.get_data().astype(np.float32))
        np.testing.assert_allclose(part.time.numpy(), theirs.times + theirs.first_time, rtol=0, atol=1e-9)
        assert part.coords["channel"]["name"].tolist() == theirs.ch_names
        assert part.coords["channel"]["name"][part.coords["channel"]["bad"]].tolist() == theirs.info["bads"]
        places = np.array([c["loc"][:3] for c in theirs.info["chs"]])
        if kind != "eog":
            np.testing.assert_allclose(
                np.stack([part.coords["channel"][a] for a in "xyz"], axis=1), places, rtol=0, atol=1e-12
            )
    events = mne.find_events(raw, stim_channel="STI 014", shortest_event=1, verbose="ERROR")
    ours = found["eeg"].intervals["events"]
    np.testing.assert_allclose(ours.start, events[:, 0] / raw.info["sfreq"], rtol=0, atol=1e-9)
    assert ours.columns["value"].tolist() == events[:, 2].tolist()
    assert len(found["eeg"].meta["projectors"]) == len(raw.info["projs"])


def test_epochs_of_the_head_equal_those_of_mne() -> None:
    path = member("eeglabio-0.1.4", "eeglabio/tests/data/test_raw.fif")
    raw = mne.io.read_raw_fif(path, preload=True, verbose="ERROR")
    events = mne.find_events(raw, stim_channel="STI 014", shortest_event=1, verbose="ERROR")
    first, last = -60 / raw.info["sfreq"], 180 / raw.info["sfreq"]  # whole samples: MNE rounds, we take what covers
    theirs = mne.Epochs(
        raw, events, {"one": 1}, first, last, baseline=None, proj=False, picks="eeg", preload=True, verbose="ERROR"
    )
    rec = tectum.read(path, picks="eeg").sel(channel={"bad": False})
    cut = rec.epochs(rec.intervals["events"].where("value", 1), (first, last))
    assert cut.sizes == {"trial": 7, "channel": len(theirs.ch_names), "time": 240}
    np.testing.assert_array_equal(cut.values.numpy(), theirs.get_data()[..., :240].astype(np.float32))


def test_clinical_eeg_with_notes_in_chinese() -> None:
    import edfio

    path = member("pyedflib-0.1.42", "pyedflib/tests/data/test_utf8.edf")
    rec = tectum.read(path)
    theirs = edfio.read_edf(path)
    assert isinstance(rec, Recording)
    assert (rec.units, rec.rate, rec.shape) == ("V", 128.0, (1, 89_344))
    np.testing.assert_allclose(rec.values[0].numpy(), theirs.signals[0].data * 1e-6, rtol=2e-6, atol=1e-11)
    notes = rec.intervals["annotations"]
    assert notes.columns["label"].tolist() == [a.text for a in theirs.annotations]
    np.testing.assert_allclose(notes.start, [a.onset for a in theirs.annotations], rtol=0, atol=1e-6)  # MNE keeps us
    assert 1e-6 < float(rec.values.std()) < 1e-4


@pytest.mark.parametrize("suffix", ["edf", "bdf"])
def test_signals_of_a_generator(suffix: str) -> None:
    """Eleven signals at one rate (EDF+), five at five rates (BDF+): every one as edfio reads it."""
    import edfio

    path = member("pyedflib-0.1.42", f"pyedflib/tests/data/test_generator.{suffix}")
    found = tectum.read(path)
    theirs = edfio.read_edf(path) if suffix == "edf" else edfio.read_bdf(path)
    parts = list(found.values()) if isinstance(found, Session) else [found]
    signals = {s.label: s for s in theirs.signals}
    names = [n for part in parts for n in part.coords["channel"]["name"].tolist()]
    assert sorted(names) == sorted(signals)
    for part in parts:
        assert part.units == "V"
        for name, values in zip(part.coords["channel"]["name"].tolist(), part.values.numpy(), strict=True):
            assert part.rate == pytest.approx(signals[name].sampling_frequency)
            np.testing.assert_allclose(values, signals[name].data * 1e-6, rtol=2e-6, atol=1e-11)
