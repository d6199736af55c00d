"""Files of ANT by the library's own writer, with information on the subject behind it, and of MEF by pymef.

Every function returns the values in V, (channel, time).
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from .eeg import NAMES, Format, volts


def write_ant(path: Path, n: int = 400) -> np.ndarray:
    """Write a ``.cnt`` file of 100 Hz, quantised to 1/128 microvolt."""
    from antio.libeep import pyeep

    values = np.rint(volts(4, n) * 128e6) / 128
    channels = pyeep.create_channel_info()
    for name in NAMES:
        pyeep.add_channel(channels, name, "REF", "uV")
    handle = pyeep.write_cnt(str(path), 100, channels, 0)
    pyeep.add_samples(handle, values.T.ravel().tolist(), 4)
    pyeep.close(handle)
    about = {
        "StartDate": "45293.1284722222", "StartFraction": "0.0", "Hospital": "lab", "Subject name": "X",
        "Subject ID": "s1", "Subject sex": "F", "Subject date of birth": "0 0 0 0 0 0 0 0 0",
    }  # fmt: skip
    info = "".join(f"[{key}]\n{value}\n" for key, value in about.items()).encode()
    info += b"\n" * (len(info) % 2)
    data = bytearray(path.read_bytes()) + b"info" + struct.pack("<I", len(info)) + info
    struct.pack_into("<I", data, 4, len(data) - 8)
    path.write_bytes(data)
    return values * 1e-6


def write_mef(folder: Path, n: int = 400) -> np.ndarray:
    """Write a session of MEF 3 of four channels, which come back in the order of their names."""
    from pymef.mef_session import MefSession

    codes = np.rint(volts(4, n) / 0.1e-6).astype(np.int32)
    names = sorted(NAMES)
    session, start, stop = (
        MefSession(f"{folder}/", "", read_metadata=False, new_session=True),
        1704164645000000,
        n * 10_000,
    )
    for name, row in zip(names, codes, strict=True):
        about = {
            "sampling_frequency": 100.0, "number_of_samples": n, "units_conversion_factor": 0.1,
            "units_description": "uV", "start_sample": 0, "recording_duration": stop, "number_of_blocks": -(-n // 100),
            "maximum_block_samples": 100,
        }  # fmt: skip
        person = {"subject_ID": "s1", "GMT_offset": 0}
        session.write_mef_ts_segment_metadata(name, 0, None, None, start, start + stop, about, person)
        session.write_mef_ts_segment_data(name, 0, None, None, 100, row)
    session.close()
    return codes * 0.1e-6


#: The files that damage is tried on.
FORMATS = {
    "ANT": Format("a.cnt", write_ant),
    "MEF": Format("a.mefd", lambda p: write_mef(p, 150), data="a.mefd/Cz.timd/Cz-000000.segd/Cz-000000.tdat"),
}
