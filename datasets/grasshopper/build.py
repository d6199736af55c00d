"""Rebuild ``grasshopper.safetensors`` from the wheel nitime==0.12.1, which is read but not installed.

Two runs, one session each: spike times (whole microseconds, exact in float64 seconds) and the amplitude of the sound
at its full rate of 20 kHz (float32, which keeps every digit of the text file).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from _packages import Source, main

from tectum import Recording, Session, Spikes

RATE = 20_000.0
RUNS = {"cutoff_200hz": 1, "cutoff_800hz": 2}


def spike_file(text: str) -> tuple[np.ndarray, dict[str, str]]:
    """Return spike times in s and the header."""
    lines = text.splitlines()
    pairs = [line[1:].split(":", 1) for line in lines if line.startswith("#")]
    header = {name.strip(): value.strip() for name, value in pairs}
    header.pop("stimulus file")  # a path on the machine that recorded
    times = [float(line) for line in lines if line.strip() and not line.startswith("#")]
    return np.array(times) / 1e6, header


def stimulus_file(text: str) -> np.ndarray:
    """Return the amplitude after checking the clock of the file."""
    values = np.array(text.split(), dtype=np.float64).reshape(-1, 2)
    if not np.array_equal(values[:, 0], np.arange(len(values)) * 50.0):
        raise ValueError("expected one amplitude every 50 microseconds from 0")
    return values[:, 1].astype(np.float32)


def run(source: Source, name: str, number: int) -> Session:
    """Return one presentation of a stimulus and the response."""
    files = f"grasshopper_spike_times{number}.txt", f"grasshopper_stimulus{number}.txt"
    times, header = spike_file(source.read(files[0]).decode())
    amplitude = stimulus_file(source.read(files[1]).decode())
    meta = {**source.describe(f"{number}.txt"), "header": header}
    common = {"subject": "Locusta migratoria", "session": name, "meta": meta}
    spikes = Spikes.from_trains(
        [times], support=(0.0, len(amplitude) / RATE), units={"id": [0]}, history=source.history(files[0]), **common
    )
    stimulus = Recording(
        data=amplitude,
        dims=("time",),
        rate=RATE,
        units="a.u.",
        modality="stimulus",
        history=source.history(files[1], dtype="float32"),
        **common,
    )
    return Session(items_={"spikes": spikes, "stimulus": stimulus}, **common)


def build(source: Source) -> dict[str, Session]:
    """Return the two runs that are packed."""
    return {name: run(source, name, number) for name, number in RUNS.items()}


if __name__ == "__main__":
    main(__file__, build)
