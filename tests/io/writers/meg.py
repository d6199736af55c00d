"""Files of FIL and ARTEMIS in their documented layouts. Every function returns the field in T, (channel, time)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from .eeg import Format

RATE = 1000.0


def field(n_channels: int = 4, n: int = 600, seed: int = 0) -> np.ndarray:
    """Return noise of 2 pT as float32."""
    return np.random.default_rng(seed).normal(scale=2e-12, size=(n_channels, n)).astype(np.float32)


def write_fil(path: Path, n: int = 600) -> np.ndarray:
    """Write ``x_meg.bin`` with its tables: three magnetometers in fT and a trigger."""
    values = field(3, n)
    root = path.name.removesuffix("_meg.bin")
    trigger = np.zeros((1, n), np.float32)
    trigger[0, 100:110] = 5
    path.write_bytes(np.concatenate([values * np.float32(1e15), trigger]).T.astype(">f4").tobytes())
    rows = [["name", "type", "units", "status"], ["A1-RAD", "MEGMAG", "fT", "good"], ["A1-TAN", "MEGMAG", "fT", "good"],
            ["B2-RAD", "MEGMAG", "fT", "bad"], ["TRG1", "TRIG", "V", "good"]]  # fmt: skip
    path.with_name(f"{root}_channels.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    places = [["name", "Px", "Py", "Pz", "Ox", "Oy", "Oz"]]
    places += [[row[0], f"{90 * k}", "20", "90", "0", f"{k % 2}", f"{1 - k % 2}"] for k, row in enumerate(rows[1:4])]
    path.with_name(f"{root}_positions.tsv").write_text("".join("\t".join(row) + "\n" for row in places))
    about = {"SamplingFrequency": RATE, "PowerLineFrequency": 50, "RecordingDuration": n / RATE}
    path.with_name(f"{root}_meg.json").write_text(json.dumps(about))
    coils = {"nas": [0.0, 100.0, 0.0], "lpa": [-80.0, 0.0, 0.0], "rpa": [80.0, 0.0, 0.0]}
    path.with_name(f"{root}_coordsystem.json").write_text(json.dumps({"HeadCoilCoordinates": coils}))
    return values


def write_artemis(path: Path, n: int = 600) -> np.ndarray:
    """Write a ``.bin`` and a ``.txt`` file: four sensors, with head tracking off."""
    values = field(4, n)
    scaling = 0.5
    path.write_bytes((values / np.float32(scaling * 1e-15)).T.astype(">f4").tobytes())
    main = {
        "DAQ Sample Rate": RATE, "Project Name": "p", "Subject ID": 7, "Purpose": "", "Notes": "none",
        "Temporal Filter Active?": "FALSE", "Decimation Active?": "FALSE", "Spatial Filter Active?": "FALSE",
        **{f"Head Tracking Channel {k}": "OFF" for k in range(1, 5)},
    }  # fmt: skip
    lines = ["<start main header>", *(f"{key}\t{value}" for key, value in main.items()), "<end main header>",
             "<start per channel header>", "DAQ Map\tscaling\tFLL Gain\tMode\tHighPass\tAutoReset\tResetLock",
             *(f"MEG_00{k}\t{scaling}\t100\tFLL\t0\tTRUE\tFALSE" for k in range(1, 5)), "<end per channel header>",
             "<start comments>", "none", "<end comments>", "<start length>", str(n), "<end length>",
             "<start filtering history>", "<end filtering history>"]  # fmt: skip
    path.with_suffix(".txt").write_text("".join(f"{line}\n" for line in lines))
    return values


#: The files that damage is tried on.
FORMATS = {
    "FIL": Format("x_meg.bin", write_fil),
    "ARTEMIS": Format("a.bin", write_artemis),
}
