"""Files of KIT, CTF and BTi written byte by byte in their documented layouts.

Every function returns the field in T, (channel, time).
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from .eeg import Format
from .meg import field

RATE = 1000.0


def write_kit(path: Path, n: int = 500) -> np.ndarray:
    """Write a continuous ``.sqd`` file, version 2 revision 4: four gradiometers and two triggers of 16 bits."""
    gain, to_volt = 1e-10, 10.0 / 2**12
    quantum = to_volt * gain
    codes = np.rint(field(4, n) / quantum).astype(np.int64)
    trigger = np.zeros((2, n), np.int64)
    trigger[:] = 2000
    trigger[0, 100:110] = 0  # 5 V at rest, 0 V when pressed
    data = np.concatenate([codes, trigger]).T.astype("<i2").tobytes()
    system = struct.pack("<iii", 2, 4, 53) + b"Lab".ljust(128, b"\x00") + b"Model".ljust(128, b"\x00")
    system += struct.pack("<i", 6) + bytes(256) + struct.pack("<ii", 1704164645, 0) + bytes(12)
    for kind in (0, 100, 0, 0):
        system += struct.pack("<i", kind) + bytes(12)
    system = system[:-12] + bytes(4 * 29) + struct.pack("<diii", 10.0, 1, 16, 12)
    channels = b""
    for k in range(4):
        loc = struct.pack("<5d", 0.01 * k, 0.05, 0.1, 20.0, 30.0 + 10 * k)
        channels += (struct.pack("<i", 2) + loc + bytes(16) + b"AG%03d\x00" % k).ljust(92, b"\x00")
    for k in range(2):
        channels += (struct.pack("<iii", -1, k, 0) + b"TRIG%d" % k).ljust(92, b"\x00")
    gains = struct.pack("<12d", *[0.0, gain] * 4, *[0.0, 1.0] * 2)
    bodies = {
        1: (system, len(system), 1), 4: (channels, 92, 6), 5: (gains, 16, 6), 6: (bytes(48), 12, 4),
        7: (struct.pack("<i", 0), 4, 1),
        8: (struct.pack("<idiiii", 1, RATE, 0, n, 0, 0), 28, 1), 9: (data, 2, 6 * n),
    }  # fmt: skip
    n_parts, place = 32, 16 * 32
    table, rest = [struct.pack("<Iiii", 0, 16, n_parts, n_parts)], b""
    for k in range(1, n_parts):
        body, size, count = bodies.get(k, (b"", 0, 0))
        table.append(struct.pack("<Iiii", place if body else 0, size, count, count))
        rest += body
        place += len(body)
    path.write_bytes(b"".join(table) + rest)
    return codes * quantum


def write_ctf(folder: Path, trials: int = 2, length: int = 300) -> np.ndarray:
    """Write a ``.ds`` folder: three gradiometers in trials of 0.3 s, with coils of the head and a marker."""
    folder.mkdir(parents=True, exist_ok=True)
    root, gain, bits = folder.stem, 1e9, 2.0**20
    codes = np.rint(field(4, trials * length) * gain * bits).astype(np.int64)
    head = b"MEG42RS\x00" + bytes(768) + struct.pack(">h", 0) + b"03:04".ljust(255, b"\x00")
    head += b"02-Jan-2024".ljust(255, b"\x00")
    assert len(head) == 1288
    head += struct.pack(">ih2xddh2xih", length, 4, RATE, trials * length / RATE, trials, 0, trials)
    head = head.ljust(1844, b"\x00")
    labels = (b"MLC11-1609", b"MRC11-1609", b"MZC01-1609", b"BG1-1609")
    names = b"".join(name.ljust(32, b"\x00") for name in labels)
    rows = b""
    for k in range(4):
        coils = b""
        for side in range(2):
            coils += struct.pack(">3dd3ddhihd", 3.0 * k - 3, 4.0, 10 + 5.0 * side, 0, 0, 0, 1, 0, 1, 0, 0, 2.0)
        coils = coils.ljust(8 * 80, b"\x00")
        rows += (
            struct.pack(">hhiddddhhi", 5 if k < 3 else 0, 0, 0, -gain, bits, 1.0, 0.0, 2 if k < 3 else 1, 0, 0)
            + 2 * coils
        )
    known = b""  # one reference sensor compensates the gradiometers
    for name in labels[:3]:
        known += name.ljust(32, b"\x00") + struct.pack(">iih", 0x47314252, 0, 1)
        known += labels[3].ljust(31 * 50, b"\x00") + struct.pack(">d", 0.1).ljust(400, b"\x00")
    (folder / f"{root}.res4").write_bytes(head + struct.pack(">h", 0) + names + rows + struct.pack(">h", 3) + known)
    data = codes.reshape(4, trials, length).swapaxes(0, 1).astype(">i4").tobytes()
    (folder / f"{root}.meg4").write_bytes(b"MEG41CP\x00" + data)
    places = {"nasion": (9, 0, 0), "left ear": (0, 7, 0), "right ear": (0, -7, 0)}
    lines = []
    for what, frame, lift in (("standard", "dewar", -25.0), ("measured", "dewar", -25.0), ("measured", "head", 0.0)):
        for name, (x, y, z) in places.items():
            lines += [f"{what} {name} coil position relative to {frame} (cm):", f"\tx = {x}", f"\ty = {y}",
                      f"\tz = {z + lift}"]  # fmt: skip
    (folder / f"{root}.hc").write_text("\n".join(lines) + "\n")
    return codes[:3] / (-gain * bits)


# BTi


def _aligned(data: bytes) -> bytes:
    """Fill up to a multiple of eight bytes."""
    return data + bytes(-len(data) % 8)


def _text(word: str, size: int) -> bytes:
    return word.encode().ljust(size, b"\x00")


def write_bti(folder: Path, n: int = 500) -> np.ndarray:
    """Write a folder of 4D Neuroimaging: three magnetometers of a float32 each and a trigger, and their ``config``."""
    folder.mkdir(parents=True, exist_ok=True)
    values, names = field(3, n), ("A1", "A2", "A3", "TRIGGER")
    trigger = np.zeros((1, n), np.float32)
    trigger[0, 100:110] = 4
    body = np.concatenate([values, trigger]).T.astype(">f4").tobytes()
    head = struct.pack(">h5sxhhiiiif", 1, b"rfDC", 3, 1, 1, 1, 0, 0, 1 / RATE) + _text("time", 16)
    head += struct.pack(">ih2xiihhi", 1, 4, 0, 0, 0, 0, 1704164645) + bytes(20)
    head = _aligned(head) + struct.pack(">ifffiii", n, n / RATE, 0, 0, 0, 0, 0) + bytes(28)
    for k, name in enumerate(names):
        head += _text(name, 16) + struct.pack(">hhf", k + 1, 0, 1.0) + _text("T", 16) + bytes(8)
        head += struct.pack(">ddii4sf", -1, 1, k, 0, b"", 0) + bytes(24)
    head += struct.pack(">i20si32si256si", 0, b"BTi_defaults", 0, b"x", 1704164645, b"x", 0) + bytes(32)
    (folder / "c,rfDC").write_bytes(_aligned(_aligned(body) + head) + struct.pack(">q", len(_aligned(body))))
    eye = struct.pack(">16d", *np.vstack([np.eye(4)[:3], np.ones(4)]).ravel())  # the last row scales
    table = struct.pack(">iii16si28s", 2, 16, 3, b"x", 1, b"") + b"".join(_text(x, 16) for x in (*names[:3], "MxA"))
    table += struct.pack(">3f", 0, 0, 0)
    weights = struct.pack(">iII32s80sII72s", 2, 0, 3, b"x", b"", 1, 1, b"")
    weights += b"".join(_text(x, 16) for x in (*names[:3], "MxA", "MxA")) + struct.pack(">3f3h", *[0] * 6)
    config = struct.pack(">h32s16shihhffhhh", 1, b"lab", b"dap", 1, 0, 50, 4, 1.0, 1.0, 1, 2, 0)
    config += bytes(2 + 4 + 32) + eye
    for kind, block in (("B_E_table_used", table), ("B_weights_used", weights)):
        config += struct.pack(">I20si32sII32s", 0, kind.encode(), 0, b"x", 0, len(block), b"")
        config = _aligned(_aligned(config) + block)
    for k, name in enumerate(names):
        kind = 5 if k == 3 else 1
        config += _text(name, 16) + struct.pack(">hHh2xff16sdi32s", k + 1, kind, 0, 1.0, 1.0, b"", 0, 0, b"")
        config = _aligned(config) + bytes(40)
        if k == 3:
            config += struct.pack(">i2x32s", 0, b"")
        else:
            place = np.eye(4)
            place[:3, 3] = 0.01 * k, 0.05, 0.1
            place[3, :3] = 1
            config += struct.pack(">f4s", 0, b"") + struct.pack(">16d", *place.ravel())
            config += struct.pack(">hh4x32s", 0, 0, b"")
        config = _aligned(config)
    (folder / "config").write_bytes(config)
    return values


#: The files that damage is tried on.
FORMATS = {
    "KIT": Format("a.sqd", write_kit),
    "CTF": Format("a.ds", write_ctf, data="a.ds/a.meg4"),
    "BTi": Format("a", write_bti, data="a/c,rfDC"),
}
