"""Rebuild ``ecog_grip.safetensors`` from the wheel py-neuromodulation==0.1.3, which is read but not installed.

The numbers of the BrainVision file are multiplied by the resolution its header states (0.1) and kept in float32. The
unit that the header states, microvolt, cannot be right, so the unit is declared arbitrary.
"""

import csv
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from _packages import Source, main

from tectum import Recording

TYPES = {"DBS": "dbs", "ECOG": "ecog", "MISC": "misc"}


def header(text: str) -> tuple[list[str], float, float]:
    """Return channel names, the common resolution and the sampling rate of a BrainVision header."""
    pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith(";"))
    if (pairs["DataOrientation"], pairs["BinaryFormat"]) != ("MULTIPLEXED", "IEEE_FLOAT_32"):
        raise ValueError("expected multiplexed 32-bit floats")
    channels = [pairs[f"Ch{i + 1}"].split(",") for i in range(int(pairs["NumberOfChannels"]))]
    (resolution,) = {float(fields[2]) for fields in channels}
    return [fields[0] for fields in channels], resolution, 1e6 / float(pairs["SamplingInterval"])


def rows(data: bytes) -> list[dict[str, str]]:
    """Return the rows of a BIDS table."""
    return list(csv.DictReader(data.decode("utf-8-sig").splitlines(), delimiter="\t"))


def build(source: Source) -> Recording:
    """Return the recording that is packed."""
    names, resolution, rate = header(source.read("_ieeg.vhdr").decode())
    channels, electrodes = rows(source.read("_channels.tsv")), rows(source.read("_electrodes.tsv"))
    if not names == [row["name"] for row in channels] == [row["name"] for row in electrodes]:
        raise ValueError("the tables do not list the channels of the header")
    stored = np.frombuffer(source.read("_ieeg.eeg"), dtype="<f4").reshape(-1, len(names))
    place = {axis: np.array([float(row[axis].replace("n/a", "nan")) for row in electrodes]) for axis in "xyz"}
    coordinates = json.loads(source.read("_coordsystem.json"))
    meta = {
        **source.describe(),
        "unit": "the file says uV; values of 1e7 uV would be 10 V, so no unit is claimed",
        "coordinates": f"MNI space, {coordinates['iEEGCoordinateUnits']}",
        "line_frequency": 60.0,
        "task": "gripforce",
    }
    return Recording(
        data=(stored.astype(np.float64) * resolution).astype(np.float32),  # (time 19001, channel 10)
        dims=("time", "channel"),
        rate=rate,
        units="a.u.",
        modality="ieeg",
        subject="testsub",
        session="EphysMedOff",
        coords={"channel": {"name": names, "type": [TYPES[row["type"]] for row in channels], **place}},
        meta=meta,
        history=source.history(factor=resolution, dtype="float32", declared_units="uV", units="a.u."),
    )


if __name__ == "__main__":
    main(__file__, build)
