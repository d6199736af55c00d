"""Recordings of EEG written byte by byte in the documented layouts of vendors, and FieldTrip's by SciPy.

Every function returns the values in V that the file stands for, (channel, time).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from .eeg import NAMES, RATE, Format, volts

LABELS = (b"Fp1", b"Cz", b"O2", b"A'12")


def _microvolt(limit: float, n: int = 1000) -> np.ndarray:
    """Return noise as whole numbers of a quantum of ``limit`` / 32767 microvolt."""
    return np.clip(np.rint(volts(4, n) * 1e6 / limit * 32767), -32767, 32767).astype(np.int64)


def _field(text: bytes, size: int) -> bytes:
    return text.ljust(size, b" ")[:size]


def write_gdf(path: Path, version: float = 2.2, unit: int = 4275, records: int = 10) -> np.ndarray:
    """Write GDF 1.25 or 2.2: int16, records of 1 s, two events behind the data."""
    n, per = 4, 1000 // records
    codes = _microvolt(200.0)
    limits = [(-200.0, 200.0, -32767, 32767)] * n
    old = version < 1.9
    columns = [struct.pack(f"<{n}{'d' if k < 2 or not old else 'q'}", *(x[k] for x in limits)) for k in range(4)]
    names = b"".join(_field(x, 16).replace(b" ", b"\x00") for x in LABELS)
    counts, kinds = struct.pack(f"<{n}i", *[per] * n), struct.pack(f"<{n}i", *[3] * n)
    length = (1000 * 100 // int(RATE) // records, 100)  # s of a record as a fraction
    start = 256 * (n + 1)
    if old:
        head = b"GDF 1.25" + _field(b"X X", 80) + _field(b"lab", 80) + b"2024010203040500"
        head += struct.pack("<q", start) + bytes(24) + bytes(20) + struct.pack("<qIII", records, *length, n)
        head += names + bytes(80 * n) + _field(b"uV", 8) * n + b"".join(columns) + _field(b"", 80) * n
        head += counts + kinds + bytes(32 * n)
    else:
        head = b"GDF 2.20" + _field(b"X X", 66) + bytes(10) + bytes(4) + _field(b"lab", 64) + bytes(4) + bytes(12)
        head += struct.pack("<QQH", int((738888 + 0.5) * 2**32), 0, start // 256) + bytes(6 + 8 + 6 + 6 + 12 + 12)
        head += struct.pack("<qIIHH", records, *length, n, 0)
        head += names + bytes(80 * n) + bytes(6 * n) + struct.pack(f"<{n}H", *[unit] * n) + b"".join(columns)
        head += bytes(68 * n) + struct.pack(f"<{3 * n}f", *[40.0] * n, *[0.5] * n, *[50.0] * n)
        head += counts + kinds + bytes(12 * n) + bytes(20 * n)
    assert len(head) == start
    body = codes.reshape(n, records, per).swapaxes(0, 1).astype("<i2").tobytes()
    if old:
        table = b"\x01" + int(RATE).to_bytes(3, "little") + struct.pack("<I", 2)
    else:
        table = b"\x01" + (2).to_bytes(3, "little") + struct.pack("<f", RATE)
    path.write_bytes(head + body + table + struct.pack("<2I2H", 101, 401, 769, 770))
    size = {4275: 1e-6, 4274: 1e-3, 4256: 1.0}.get(unit, 1.0)
    return codes * (200.0 / 32767) * size


def write_egi(path: Path, version: int = 2, bits: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Write simple binary of EGI, unsegmented, with two kinds of event; without a range numbers are microvolt."""
    dtype = {2: ">i2", 4: ">f4", 6: ">f8"}[version]
    values = np.rint(volts() * 1e6) if version == 2 else (volts() * 1e6).astype(dtype)
    events = np.zeros((2, values.shape[1]))
    events[0, [100, 500]] = events[1, 900] = 1
    head = struct.pack(">i6hi5h", version, 2024, 1, 2, 3, 4, 5, 0, int(RATE), 4, 1, *bits)
    head += struct.pack(">ih", values.shape[1], 2) + b"DIN1stop"
    path.write_bytes(head + np.concatenate([values, events]).T.astype(dtype).tobytes())
    return values.astype(np.float64) * 1e-6


def write_cnt(path: Path, width: int = 4) -> np.ndarray:
    """Write a Neuroscan file: one sample after the other, then a table of two events of kind 1."""
    n, codes = 4, np.rint(volts() * 1e6 * (1.0 if width == 2 else 100.0)).astype(np.int64)
    gain = 204.8 * (1.0 if width == 2 else 0.01)
    head = bytearray(900)
    head[:12], head[225:247] = b"Version 3.0\x00", b"01/02/24\x00\x003:04:05".ljust(22, b"\x00")
    struct.pack_into("<H", head, 370, n)
    struct.pack_into("<H", head, 376, int(RATE))
    struct.pack_into("<i", head, 864, codes.shape[1])
    place = 900 + 75 * n + codes.size * width
    struct.pack_into("<i", head, 886, place)
    struct.pack_into("<i", head, 894, 0)
    for k, name in enumerate(LABELS):
        row = bytearray(75)
        row[: len(name)] = name
        struct.pack_into("<2f", row, 19, 10.0 * k + 5.0, 20.0)
        struct.pack_into("<h", row, 47, 0)
        struct.pack_into("<f", row, 59, 1.0)
        struct.pack_into("<f", row, 71, gain)
        head += row
    head[900 + 75 + 14] = 1  # the second channel is bad
    body = codes.T.astype(f"<i{width}").tobytes()
    events = b"".join(struct.pack("<HBBi", 7, 0, 0, 900 + 75 * n + s * n * width) for s in (100, 400))
    path.write_bytes(bytes(head) + body + struct.pack("<BiI", 1, len(events), 0) + events)
    return codes * gain / 204.8 * 1e-6


def write_persyst(path: Path, width: int = 2) -> np.ndarray:
    """Write a ``.lay`` file and its data."""
    codes = _microvolt(200.0)
    scale = 200.0 / 32767
    lines = ["[FileInfo]", f"File={path.stem}.dat", "FileType=Interleaved", f"SamplingRate={RATE:g}"]
    lines += ["HeaderLength=0", f"Calibration={scale!r}", "WaveformCount=4", f"DataType={0 if width == 2 else 7}"]
    lines += ["[ChannelMap]", *(f"{name}-Ref={k}" for k, name in enumerate(NAMES, start=1))]
    lines += ["[Patient]", "First=A", "Last=B", "Sex=F", "Hand=R", "ID=s1", "BirthDate=01/02/90"]
    lines += ["TestDate=2024.01.02", "TestTime=03:04:05"]
    lines += ["[Comments]", "1.0,0.0,0,100,go", "2.5,0.5,0,100,BAD_move", "9.99,0.0,0,100,end"]
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")
    path.with_suffix(".dat").write_bytes(codes.T.astype(f"<i{width}").tobytes())
    return codes * scale * 1e-6


def write_nihon(path: Path, blocks: int = 2) -> np.ndarray:
    """Write ``.EEG``, ``.21E``, ``.PNT`` and ``.LOG`` of Nihon Kohden: 4 channels and the marks."""
    codes = np.rint(volts() * 1e6 / (6399.902 / 65535)).astype(np.int64)
    kind = b"EEG-1100C V01.00"
    n, per = 4, codes.shape[1] // blocks
    head = bytearray(0x1800)
    head[:16] = head[0x81 : 0x81 + 16] = kind
    head[0x91], head[0x17FE] = 1, 1
    struct.pack_into("<I", head, 0x92, 0x400)
    head[0x400 + 17] = blocks
    data = b""
    for b in range(blocks):
        struct.pack_into("<I", head, 0x400 + 18 + 20 * b, 0x1800 + len(data))
        block = bytearray(0x27 + 10 * n)
        struct.pack_into("<HI", block, 0x1A, int(RATE) | 0xC000, per * 10 // int(RATE))
        block[0x26] = n
        for k in range(n):
            block[0x27 + 10 * k] = k
        part = np.concatenate([codes[:, b * per : (b + 1) * per], np.zeros((1, per), np.int64)])
        data += bytes(block) + (part + 0x8000).T.astype("<u2").tobytes()
    path.write_bytes(bytes(head) + data)
    names = [f"{k:04d}={name}" for k, name in enumerate(NAMES)]
    path.with_suffix(".21E").write_text("\n".join(["[ELECTRODE]", *names, "[OTHER]", "0001=no"]) + "\n")
    point = bytearray(0x60)
    point[:16], point[0x40:0x4E] = kind, b"20240102030405"
    path.with_suffix(".PNT").write_bytes(bytes(point))
    log = bytearray(0x800)
    log[:16], log[0x91] = kind, 1
    struct.pack_into("<I", log, 0x92, 0x400)
    log[0x401:0x411], log[0x412] = kind, 2
    for k, (text, when) in enumerate([(b"go", b"000001"), (b"stop", b"000004")]):
        log[0x414 + 45 * k : 0x414 + 45 * (k + 1)] = text.ljust(20, b"\x00") + when + bytes(19)
    path.with_suffix(".LOG").write_bytes(bytes(log))
    step = 6399.902 / 65535
    return (codes * step + (-3200 + 32768 * step)) * 1e-6


def fieldtrip_struct(trials: int = 1, **fields: Any) -> dict[str, Any]:
    """Return the fields of a structure of FieldTrip: microvolt, positions in cm, two columns of ``trialinfo``."""
    data = (volts() * 1e6).reshape(4, trials, -1).swapaxes(0, 1)
    cells, clocks = np.empty((1, trials), dtype=object), np.empty((1, trials), dtype=object)
    for k in range(trials):
        cells[0, k], clocks[0, k] = data[k], (np.arange(data.shape[2]) / RATE - 0.5)[None]
    label = np.array(NAMES, dtype=object)[:, None]
    made: dict[str, Any] = {"label": label, "trial": cells, "time": clocks, "fsample": RATE, "cfg": {"version": "x"}}
    made["sampleinfo"] = np.array([[300 * k + 1, 300 * k + data.shape[2]] for k in range(trials)], dtype=float)
    made["hdr"] = {"label": label, "chantype": np.array(["eeg", "eeg", "eog", "eeg"], dtype=object)[:, None]}
    made["hdr"]["chanunit"] = np.array(["uV"] * 4, dtype=object)[:, None]
    places = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    made["elec"] = {"label": label[[1, 0]], "chanpos": places, "elecpos": places, "unit": "cm", "coordsys": "mni"}
    if trials > 1:
        made["trialinfo"] = np.array([[1 + k % 2, 10.5 * k] for k in range(trials)])
    return {k: v for k, v in (made | fields).items() if v is not None}


def write_fieldtrip(path: Path, trials: int = 1, name: str = "data", **fields: Any) -> np.ndarray:
    """Write a structure of FieldTrip with SciPy, as MATLAB's v7 does; returns (trial, channel, time) in V."""
    from scipy.io import savemat

    savemat(path, {name: fieldtrip_struct(trials, **fields)}, do_compression=True)
    return volts().reshape(4, trials, -1).swapaxes(0, 1)


#: The files that damage is tried on.
FORMATS = {
    "GDF 1": Format("a.gdf", lambda p: write_gdf(p, 1.25)),
    "GDF 2": Format("a.gdf", write_gdf),
    "EGI": Format("a.raw", write_egi),
    "CNT": Format("a.cnt", write_cnt),
    "Persyst": Format("a.lay", write_persyst, data="a.dat", sized=False),
    "Nihon Kohden": Format("a.EEG", write_nihon),
    "FieldTrip": Format("a.mat", write_fieldtrip),
}
