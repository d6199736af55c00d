"""Files of Curry and NSx byte by byte, MFF by mffpy. Every function returns the values in V, (channel, time)."""

from __future__ import annotations

import datetime
import struct
from pathlib import Path

import numpy as np

from .eeg import NAMES, Format, volts


def write_curry(path: Path, n: int = 500) -> np.ndarray:
    """Write Curry 8: ``.cdt`` in microvolt, ``.cdt.dpo`` with names and places, ``.cdt.ceo`` with two events."""
    values = (volts(4, n) * 1e6).astype("<f4")
    path.write_bytes(values.T.tobytes())
    about = {
        "FileVersion": 804, "NumSamples": n, "NumChannels": 4, "NumTrials": 1, "SampleFreqHz": 250,
        "TriggerOffsetUsec": 0, "DataFormat": "BINARY", "DataSampOrder": "SAMP", "DataByteOrder": "INTEL",
        "SampleTimeUsec": 4000,
        "StartYear": 2024, "StartMonth": 1, "StartDay": 2, "StartHour": 3, "StartMin": 4, "StartSec": 5,
        "StartMillisec": 6, "AmplifierInfo": "",
    }  # fmt: skip

    def table(name: str, rows: list[str]) -> str:
        body = "".join(f"{row}\n" for row in rows)
        return f"\n{name} START\n{name} END\n\n{name} START_LIST\n{body}{name} END_LIST\n"

    places = ["-80 20 30", "0 0 120", "20 -90 40", "60 10 80"]
    text = "DATA_PARAMETERS START\n" + "".join(f"   {key} = {value}\n" for key, value in about.items())
    text += "DATA_PARAMETERS END\n\nDEVICE_PARAMETERS START\n   DataUnit = uV\n   NumChanThisGroup = 4\n"
    text += "DEVICE_PARAMETERS END\n" + table("LABELS", list(NAMES)) + table("SENSORS", places)
    text += table("IMPEDANCE_VALUES", ["5 5 5 5"])
    path.with_name(path.name + ".dpo").write_text(text)
    events = ["100 0 3 0 100 100 0 0 0 0 0", "300 0 5 0 300 300 0 0 0 0 0"]
    notes = table("NUMBER_LIST", events) + table("REMARK_LIST", ["go", "stop"])
    path.with_name(path.name + ".ceo").write_text(notes)
    return values.astype(float) * 1e-6


def write_mff(path: Path, n: int = 120) -> np.ndarray:
    """Write an MFF folder of 32 channels in two blocks with mffpy."""
    from mffpy.bin_writer import BinWriter
    from mffpy.writer import Writer

    values = (volts(33, n) * 1e6).astype(np.float32)
    writer = Writer(str(path))
    start = datetime.datetime(2024, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    writer.addxml("fileInfo", recordTime=start)
    writer.add_coordinates_and_sensor_layout(device="HydroCel GSN 32 1.0")
    signal = BinWriter(sampling_rate=100, data_type="EEG")
    half = n // 2
    signal.add_block(values[:, :half])
    signal.add_block(values[:, half:])
    writer.addbin(signal)
    writer.write()
    return values.astype(float) * 1e-6


def write_nsx(path: Path, n: int = 400) -> np.ndarray:
    """Write NSx 2.3 of 2 kHz in one packet: a quarter of a microvolt a step."""
    codes = np.rint(volts(4, n) / 0.25e-6).astype(np.int64)
    head = b"NEURALCD" + bytes((2, 3)) + struct.pack("<I", 314 + 66 * 4) + b"2 kS/s".ljust(16, b"\x00") + bytes(256)
    head += struct.pack("<II8HI", 15, 30_000, 2024, 1, 2, 2, 3, 4, 5, 6, 4)
    for k, name in enumerate(NAMES, 1):
        head += b"CC" + struct.pack("<H", k) + name.encode().ljust(16, b"\x00") + bytes((1, k))
        head += struct.pack("<4h", -32764, 32764, -8191, 8191) + b"uV".ljust(16, b"\x00")
        head += struct.pack("<IIHIIH", 300, 1, 1, 500_000, 3, 1)
    path.write_bytes(head + struct.pack("<BII", 1, 0, n) + codes.T.astype("<i2").tobytes())
    return codes * (8191 / 32764) * 1e-6


#: The files that damage is tried on.
FORMATS = {
    "Curry": Format("a.cdt", write_curry),
    "EGI MFF": Format("a.mff", write_mff, data="a.mff/signal1.bin"),
    "NSx": Format("a.ns3", write_nsx),
}
