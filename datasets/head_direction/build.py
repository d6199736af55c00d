"""Rebuild ``head_direction.safetensors`` from the sdist pynapple==0.11.4, which is read but not installed.

Spike times stay float64, bit for bit. Tracking is stored on the regular clock that fits the file's time stamps
(largest difference checked below); heading and floor position become float32; height and the two tilts are left out.
"""

import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import h5py
import numpy as np
from _packages import Source, main

from tectum import Intervals, Recording, Session, Spikes

MEMBER = "neurosuite/pynapplenwb/A2929-200711.nwb"
JITTER = 1e-4  # s; the file's own clock ticks every 50 us
AREAS = {"adn": "ADN", "ca1": "CA1"}


def spikes(file: h5py.File, **fields: object) -> Spikes:
    """Return the sorted units with their areas."""
    units = file["units"]
    ends = units["spike_times_index"][()].astype(np.int64)
    trains = np.split(units["spike_times"][()], ends[:-1])
    areas = [AREAS[name.decode()] for name in units["location"][()]]
    table = {"id": units["id"][()], "area": np.asarray(areas), "group": units["group"][()]}
    return Spikes.from_trains(trains, support=(0.0, 1200.0), units=table, **fields)


def clock(file: h5py.File) -> tuple[float, float]:
    """Return first time and rate of the regular clock nearest to the tracking's time stamps."""
    stamps = file["acquisition/CompassDirection/ry/timestamps"][()]
    index = np.arange(len(stamps))
    step, first = np.polyfit(index, stamps, 1)
    t0, rate = round(float(first), 5), round(1.0 / float(step), 5)
    if np.abs(t0 + index / rate - stamps).max() > JITTER:
        raise ValueError("the tracking is not regular enough for one rate")
    return t0, rate


def spans(table: h5py.Group, **columns: np.ndarray) -> Intervals:
    """Return a table of intervals."""
    return Intervals(start=table["start_time"][()], stop=table["stop_time"][()], columns=columns)


def build(source: Source) -> Session:
    """Return the session that is packed."""
    who = {"subject": "A2929", "session": "A2929-200711"}
    with h5py.File(io.BytesIO(source.read(MEMBER))) as file:
        t0, rate = clock(file)
        note = source.history(MEMBER, tracking_clock="regular, fitted to the time stamps", t0=t0, rate=rate)
        common = {**who, "meta": source.describe(MEMBER), "history": note}
        tracking = {"rate": rate, "t0": t0, "modality": "behaviour", **common}
        heading = file["acquisition/CompassDirection/ry/data"][()].astype(np.float32)
        floor = np.stack([file[f"acquisition/Position/{axis}/data"][()] for axis in "xz"], axis=1).astype(np.float32)
        epochs = file["intervals/epochs"]
        parts = {
            "spikes": spikes(file, **common),
            "heading": Recording(data=heading, dims=("time",), units="rad", **tracking),
            "position": Recording(
                data=floor, dims=("time", "feature"), units="a.u.", coords={"feature": {"name": ["x", "z"]}}, **tracking
            ),
            "epochs": spans(epochs, name=np.array([tag.decode() for tag in epochs["tags"][()]])),
            "ripples": spans(file["intervals/sleep_ripples"]),
        }
    return Session(items_=parts, meta=source.describe(MEMBER), **who)


if __name__ == "__main__":
    main(__file__, build)
