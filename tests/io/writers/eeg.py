"""Recordings of EEG, sEEG and MEG through edfio, pybv, eeglabio and MNE, with the arrays that they were made of."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

START = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
RATE = 100.0
NAMES = ("Fp1", "Cz", "O2", "A'12")


class Format(NamedTuple):
    """A file of a vendor that damage is tried on."""

    name: str
    """Of the file or folder that is read."""
    write: Callable[[Path], object]
    """Writes it, and what belongs beside it."""
    data: str = ""
    """The file that holds the samples, where it is another; relative to the folder."""
    sized: bool = True
    """False where no part of the file states how many samples there are, so that cut data cannot be told."""


def volts(n_channels: int = 4, n: int = 1000, seed: int = 0) -> np.ndarray:
    """Return noise of 20 microvolt, (channel, time)."""
    return np.random.default_rng(seed).normal(scale=20e-6, size=(n_channels, n))


def raw(
    types: Any = "eeg", names: Any = NAMES, *, data: np.ndarray | None = None, rate: float = RATE, first: int = 0
) -> Any:
    """Return an MNE Raw object with annotations, a bad channel and a date."""
    import mne

    info = mne.create_info(list(names), rate, types)
    made = mne.io.RawArray(volts(len(names)) if data is None else data, info, first_samp=first, verbose="ERROR")
    made.set_meas_date(START)
    t = made.first_time
    made.set_annotations(
        mne.Annotations([t + 1.0, t + 2.5, t + 4.0], [0.0, 0.5, 1.0], ["go", "BAD_move", "stop"], START)
    )
    made.info["bads"] = [names[1]]
    return made


SIZES = {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "nV": 1e-9}


def write_edf(path: Path, data: np.ndarray | None = None, rate: float = RATE, unit: str = "uV") -> np.ndarray:
    """Write 16-bit EDF+ (or 24-bit BDF+) with edfio; returns the values in V that the file stands for."""
    import edfio

    data = volts() if data is None else data
    bdf = path.suffix == ".bdf"
    signal = edfio.BdfSignal if bdf else edfio.EdfSignal
    limit = float(f"{np.abs(data).max() * 1.1 / SIZES[unit]:.3g}")
    signals = [
        signal(x / SIZES[unit], rate, label=label, physical_dimension=unit, physical_range=(-limit, limit))
        for x, label in zip(data, NAMES, strict=True)
    ]
    notes = [edfio.EdfAnnotation(1.0, None, "go"), edfio.EdfAnnotation(2.5, 0.5, "BAD_move")]
    recording = edfio.Recording(startdate=START.date())
    (edfio.Bdf if bdf else edfio.Edf)(signals, recording=recording, annotations=notes).write(path)
    return np.stack([s.data for s in signals]) * SIZES[unit]


def write_brainvision(path: Path, fmt: str = "binary_float32", **fields: Any) -> np.ndarray:
    """Write BrainVision files with pybv, markers up to the last sample."""
    import pybv

    data = volts()
    n = data.shape[1]
    events = [
        {"onset": 100, "duration": 1, "description": 1, "type": "Stimulus"},
        {"onset": n - 1, "duration": 1, "description": 2, "type": "Stimulus"},
    ]
    pybv.write_brainvision(
        data=data,
        sfreq=RATE,
        ch_names=list(NAMES),
        fname_base=path.stem,
        folder_out=path.parent,
        events=events,
        resolution=0.1,
        unit="µV",
        fmt=fmt,
        meas_date=START,
        overwrite=True,
        **fields,
    )
    return data


def write_fif(path: Path, **fields: Any) -> Any:
    """Write FIF with MNE: float32 in buffers of 1 s."""
    made = raw(**fields)
    made.save(path, buffer_size_sec=1.0, overwrite=True, verbose="ERROR")
    return made


def write_set(path: Path) -> np.ndarray:
    """Write a data set of EEGLAB with eeglabio: float32 microvolt."""
    import eeglabio

    data = volts()
    places = np.random.default_rng(1).normal(scale=0.1, size=(4, 3))
    notes = [np.array(["go", "stop"]), np.array([1.0, 4.0]), np.array([0.0, 1.0])]
    eeglabio.raw.export_set(str(path), data, RATE, list(NAMES), ch_locs=places, annotations=notes)
    return data


def bids_tree(root: Path, made: Any, *, datatype: str, fmt: str = "BrainVision", **entities: Any) -> Path:
    """Write a tree with mne-bids, whose own warnings are not ours; return the data file."""
    import mne_bids

    place = mne_bids.BIDSPath(
        root=root, subject="01", session="a", task="speak", run="1", datatype=datatype, **entities
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = mne_bids.write_raw_bids(made, place, format=fmt, allow_preload=True, overwrite=True, verbose="ERROR")
    return Path(written.fpath)
