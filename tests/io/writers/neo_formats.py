"""Files of recorders that neo reads, written byte by byte: every function returns the signals in V, (channel, time)."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from . import boxed


def write_nev(path: Path) -> None:
    """Write a file of Blackrock 2.3 with two channels and spikes of both."""
    names = [b"NEUEVWAV" + struct.pack("<HBBHHhhBBH", k, 1, k, 250, 0, 0, 0, 1, 2, 10) + bytes(8) for k in (1, 2)]
    packet = 8 + 2 * 10
    head = b"NEURALEV" + bytes((2, 3)) + struct.pack("<HIIII8H", 1, 336 + 64, packet, 30_000, 30_000,
                                                     2024, 1, 2, 2, 3, 4, 5, 6)  # fmt: skip
    head = head.ljust(332, b"\x00") + struct.pack("<I", 2)
    times = [3000, 6000, 9000, 30_000]
    body = b"".join(struct.pack("<IHBB", t, 1 + k % 2, 1, 0) + bytes(20) for k, t in enumerate(times))
    path.write_bytes(head + b"".join(names) + body)


def write_blackrock(folder: Path) -> np.ndarray:
    """Write signals of 2 kHz and spikes; returns the signals in V."""
    folder.mkdir(parents=True, exist_ok=True)
    write_nev(folder / "a.nev")
    return boxed.write_nsx(folder / "a.ns3", 3000)


def write_spikeglx(folder: Path, n: int = 500) -> np.ndarray:
    """Write a NIDQ stream of four channels; returns the values in V."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = np.random.default_rng(0).integers(-900, 900, (4, n))
    (folder / "run_g0_t0.nidq.bin").write_bytes(codes.T.astype("<i2").tobytes())
    about = {
        "fileName": "D:/run_g0_t0.nidq.bin", "fileSizeBytes": 8 * n, "nSavedChans": 4, "niSampRate": 1000,
        "typeThis": "nidq", "firstSample": 0,
        "niAiRangeMax": 5, "niMNGain": 1, "niMAGain": 1, "snsMnMaXaDw": "0,0,4,0", "snsSaveChanSubset": "0:3",
        "niMaxInt": 32768, "~snsChanMap": "(0,0,4,0)(XA0;0:0)(XA1;1:1)(XA2;2:2)(XA3;3:3)",
    }  # fmt: skip
    (folder / "run_g0_t0.nidq.meta").write_text("".join(f"{key}={value}\n" for key, value in about.items()))
    return codes * 5 / 32768


def write_neuralynx(folder: Path, n: int = 1024) -> np.ndarray:
    """Write two ``.ncs`` files of 2 kHz."""
    folder.mkdir(parents=True, exist_ok=True)
    codes = np.random.default_rng(0).integers(-900, 900, (2, n))
    for k, row in enumerate(codes):
        lines = [
            "######## Neuralynx Data File Header", f"## File Name C:\\CSC{k}.ncs",
            "## Time Opened (m/d/y): 1/2/2024  (h:m:s.ms) 3:4:5.0", "-FileType CSC", "-FileVersion 3.3.0",
            "-RecordSize 1044", "-CheetahRev 5.7.4", "-HardwareSubSystemName AcqSystem1",
            "-HardwareSubSystemType DigitalLynxSX", "-SamplingFrequency 2000", "-ADMaxValue 32767",
            "-ADBitVolts 0.00000006103702", f"-AcqEntName CSC{k}",
            "-NumADChannels 1", f"-ADChannel {k}", "-InputRange 2000", "-InputInverted False",
            "-DspDelayCompensation Disabled",
        ]  # fmt: skip
        head = "\r\n".join(lines).encode("latin-1").ljust(16_384, b"\x00")
        body = b""
        for j in range(n // 512):
            body += struct.pack("<QIII", 1_000_000 + j * 256_000, k, 2000, 512)
            body += row[512 * j : 512 * (j + 1)].astype("<i2").tobytes()
        (folder / f"CSC{k}.ncs").write_bytes(head + body)
    return codes * 0.00000006103702


def write_open_ephys(folder: Path, n: int = 500) -> np.ndarray:
    """Write a stream of four channels of the binary format 0.6."""
    place = folder / "Record Node 101" / "experiment1" / "recording1"
    data = place / "continuous" / "Amp-100.A"
    data.mkdir(parents=True)
    codes = np.random.default_rng(0).integers(-900, 900, (4, n))
    (data / "continuous.dat").write_bytes(codes.T.astype("<i2").tobytes())
    np.save(data / "sample_numbers.npy", np.arange(n))
    np.save(data / "timestamps.npy", np.arange(n) / 1000)
    channels = [{"channel_name": f"CH{k}", "description": "", "identifier": "", "history": "", "bit_volts": 0.195,
                 "units": "uV"} for k in range(4)]  # fmt: skip
    stream = {
        "folder_name": "Amp-100.A/", "sample_rate": 1000, "source_processor_name": "Amp", "source_processor_id": 100,
        "stream_name": "A", "recorded_processor": "Record Node", "recorded_processor_id": 101, "num_channels": 4,
        "channels": channels,
    }  # fmt: skip
    about = {"GUI version": "0.6.4", "continuous": [stream], "events": [], "spikes": []}
    (place / "structure.oebin").write_text(json.dumps(about))
    (folder / "Record Node 101" / "settings.xml").write_text("<SETTINGS/>")
    return codes * 0.195e-6


def write_axon(path: Path, n: int = 500) -> np.ndarray:
    """Write ABF 1.83, gap free, two channels of 1 kHz."""
    codes = np.random.default_rng(0).integers(-900, 900, (2, n))
    head = bytearray(6144)

    def put(place: int, form: str, *values: object) -> None:
        struct.pack_into("<" + form, head, place, *values)

    put(0, "4sfhi", b"ABF ", 1.83, 3, 2 * n)
    put(20, "ii", 20240102, 11045)
    put(40, "i", 12)
    put(100, "h", 0)
    put(120, "hf", 2, 500.0)
    put(244, "f", 10.0)
    put(252, "i", 32768)
    put(378, "16h", *range(16))
    put(410, "16h", 0, 1, *[-1] * 14)
    put(442, "160s", b"".join(f"IN {k}".encode().ljust(10) for k in range(16)))
    put(602, "128s", b"mV".ljust(8) * 16)
    for place in (730, 922, 1050):
        put(place, "16f", *[1.0] * 16)
    path.write_bytes(bytes(head) + codes.T.astype("<i2").tobytes())
    return codes * 10 / 32768 * 1e-3
