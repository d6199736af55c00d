"""Rebuild ``resting_fmri.safetensors`` from the wheel nitime==0.12.1, which is read but not installed.

The table becomes one recording (time, unit) in float32. Its first three columns are nuisance signals, marked as such.
"""

import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from _packages import Source, main

from tectum import Recording

MEMBER = "nitime/data/fmri_timeseries.csv"
REPETITION_TIME = 1.89  # s, stated by the documentation of nitime, not by the file
NUISANCE = ("WM", "Vent", "Brain")


def build(source: Source) -> Recording:
    """Return the recording that is packed."""
    names, *rows = list(csv.reader(source.read(MEMBER).decode().splitlines()))
    kind = ["nuisance" if name in NUISANCE else "region" for name in names]
    return Recording(
        data=np.array(rows, dtype=np.float64).astype(np.float32),  # (time 250, unit 31)
        dims=("time", "unit"),
        rate=1.0 / REPETITION_TIME,
        units="BOLD",
        modality="fmri",
        subject="one subject",
        session="rest",
        coords={"unit": {"name": names, "type": kind}},
        meta=source.describe(),
        history=source.history(MEMBER, dtype="float32"),
    )


if __name__ == "__main__":
    main(__file__, build)
