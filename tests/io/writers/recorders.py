"""Files of Nicolet, Neuroelectrics, eXimia, BCI2000 and EyeLink, written byte by byte in their documented layouts.

Every function returns the values that the file stands for, (channel, time), in V; EyeLink's in pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .eeg import NAMES, Format, volts


def _codes(quantum: float, n: int = 1000, channels: int = 4) -> np.ndarray:
    """Return noise of 20 microvolt as whole numbers of a quantum in V."""
    return np.rint(volts(channels, n) / quantum).astype(np.int64)


def write_nicolet(path: Path) -> np.ndarray:
    """Write a ``.data`` and a ``.head`` file: int16 of 0.1 microvolt."""
    codes = _codes(1e-7)
    path.write_bytes(codes.T.astype("<i2").tobytes())
    lines = {
        "start_ts": "2024-01-02 03:04:05.000", "num_samples": 1000, "sample_freq": 100, "conversion_factor": 0.1,
        "num_channels": 4, "elec_names": f"[{','.join(NAMES)}]", "pat_id": 1, "adm_id": 2, "rec_id": 3,
        "duration_in_sec": 10, "sample_bytes": 2,
    }  # fmt: skip
    path.with_suffix(".head").write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
    return codes * 1e-7


def write_nedf(path: Path, n: int = 1003) -> np.ndarray:
    """Write NEDF 1.4: blocks of one accelerometer sample and five of EEG in 24 bits and trigger in 32."""
    quantum = 2.4 / (6.0 * 8388607)
    codes = _codes(quantum, n)
    montage = "".join(f"<C{k}>{name}</C{k}>" for k, name in enumerate(NAMES))
    xml = (
        "<nedf><NEDFversion>1.4</NEDFversion><NumberOfChannelsOfAccelerometer>3</NumberOfChannelsOfAccelerometer>"
        "<EEGSettings><TotalNumberOfChannels>4</TotalNumberOfChannels><EEGSamplingRate>500</EEGSamplingRate>"
        f"<NumberOfRecordsOfEEG>{n}</NumberOfRecordsOfEEG><EEGMontage>{montage}</EEGMontage></EEGSettings>"
        "<StepDetails><StartDate_firstEEGTimestamp>1704164645000</StartDate_firstEEGTimestamp></StepDetails></nedf>"
    )
    trigger = np.zeros(n, np.int64)
    trigger[[100, 150]] = 3, 5
    frames = []
    for t in range(n):
        bytes_of = (codes[:, t] % (1 << 24)).astype(">u4")[:, None].view(np.uint8)[:, 1:]
        frames.append(bytes_of.tobytes() + int(trigger[t]).to_bytes(4, "big", signed=True))
    body = b"".join((bytes(6) if t % 5 == 0 else b"") + frame for t, frame in enumerate(frames))
    path.write_bytes(xml.encode().ljust(10_240, b"\x00") + body)
    return codes * quantum


def write_eximia(path: Path, n: int = 500) -> np.ndarray:
    """Write 64 channels of int16 without any header; returns the 60 of EEG."""
    quantum = 0.07629510948348212e-6
    codes = _codes(quantum, n, 64)
    codes[:3] = 0
    codes[1, 100:110] = 2000
    path.write_bytes(codes.T.astype("<i2").tobytes())
    return codes[4:] * quantum


def write_bci2000(path: Path) -> np.ndarray:
    """Write int16 of 0.1 microvolt with an offset, and two bytes of states."""
    codes = _codes(1e-7)
    states = np.zeros((1000, 2), np.uint8)
    states[300:350, 0], states[600:650, 0], states[:, 1] = 3, 5, 1
    body = np.concatenate([np.ascontiguousarray(codes.T + 7, "<i2").view(np.uint8), states], axis=1)
    lines = [
        "[ State Vector Definition ] ", "StimulusCode 8 0 0 0", "Running 1 0 1 0", "[ Parameter Definition ] ",
        "Source int SamplingRate= 100Hz 256 1 % // samples per second", "Source int SourceCh= 4 4 1 % // channels",
        "Source intlist SourceChOffset= 4 7 7 7 7 0 % % // offsets",
        "Source floatlist SourceChGain= 4 0.1 0.1muV 0.1 0.0001mV 1 % % // gains",
        f"Source list ChannelNames= 4 {' '.join(NAMES)} // names", "",
    ]  # fmt: skip
    rest = "".join(f"{line}\r\n" for line in lines)
    first = "BCI2000V= 1.1 HeaderLen= {:6d} SourceCh= 4 StatevectorLen= 2 DataFormat= int16\r\n"
    length = len(first.format(0)) + len(rest)
    path.write_bytes((first.format(length) + rest).encode() + body.tobytes())
    return codes * 1e-7


def write_eyelink(path: Path, n: int = 600) -> np.ndarray:
    """Write one block of one eye at 1000 Hz with a message, a fixation and a blink."""
    rng = np.random.default_rng(0)
    values = np.round(np.stack([rng.normal(500, 9, n), rng.normal(400, 9, n), rng.normal(900, 9, n)]), 1)
    rows = [f"{1000 + t}\t{x:8.1f}\t{y:8.1f}\t{p:8.1f}\t..." for t, (x, y, p) in enumerate(values.T)]
    told = "GAZE\tRIGHT\tRATE\t1000.00\tTRACKING\tCR\tFILTER\t2"
    lines = [
        "** CONVERTED FROM a.edf using edfapi 4.2.1", "** DATE: Tue Jan  2 03:04:05 2024",
        "** TYPE: EDF_FILE BINARY EVENT SAMPLE TAGGED", "**", "", "START\t1000 \tRIGHT\tSAMPLES\tEVENTS",
        "PRESCALER\t1", "VPRESCALER\t1", "PUPIL\tAREA", f"EVENTS\t{told}", f"SAMPLES\t{told}", *rows[:200],
        "MSG\t1200 go", *rows[200:400], "EFIX R   1100\t1399\t300\t  500.0\t  400.0\t    900", *rows[400:],
        "EBLINK R 1450\t1499\t50", f"END\t{1000 + n - 1} \tSAMPLES\tEVENTS\tRES\t  37.50\t  30.30",
    ]  # fmt: skip
    path.write_text("".join(f"{line}\n" for line in lines))
    return values


#: The files that damage is tried on.
FORMATS = {
    "Nicolet": Format("a.data", write_nicolet),
    "NEDF": Format("a.nedf", lambda p: write_nedf(p, 203)),
    "eXimia": Format("a.nxe", lambda p: write_eximia(p, 100), sized=False),
    "BCI2000": Format("a.dat", write_bci2000, sized=False),
    "EyeLink": Format("a.asc", write_eyelink),
}
