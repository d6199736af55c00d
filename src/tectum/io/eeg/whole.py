"""Is a file of electrophysiology whole? What EDF, BDF, BrainVision, FIF and EEGLAB files say of their own size.

MNE infers lengths from the size of a file where headers and data disagree; here such a file is refused.
"""

from __future__ import annotations

import configparser
import io
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tectum.core.errors import LoadError, explain

from ..signature import magic

BRAINVISION = re.compile(rb"^(\xef\xbb\xbf)?Brain ?Vision (Data Exchange|V-Amp Data|Core Data)")
_BYTES = {"INT_16": 2, "UINT_16": 2, "INT_32": 4, "IEEE_FLOAT_32": 4, "IEEE_FLOAT_64": 8}
_WIDTHS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)  # bytes of each field of a signal in an EDF header
_ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
_LAST_TAG = -1
_BLOCK_START, _BLOCK_END = 104, 105  # kinds of FIF tags
_DATA_BLOCKS = (102, 112, 119)  # raw, continuous and internally shielded data
_EVOKED, _EPOCHS = 104, 373
_DATA_TAGS = (206, 208, 209, 300, 301, 303, 1101)


def content(path: Path) -> str:
    """Return the format that the first bytes of a file show: "EDF", "BDF", "GDF", "BrainVision", "FIF", "MAT" or ""."""
    first = magic(path, 64)
    if first.startswith(b"0       "):
        return "EDF"
    if first.startswith(b"\xffBIOSEMI"):
        return "BDF"
    if first.startswith(b"GDF "):
        return "GDF"
    if BRAINVISION.match(first):
        return "BrainVision"
    if first[:12] == struct.pack(">iii", 100, 31, 20):
        return "FIF"
    if first.startswith((b"MATLAB", b"\x89HDF\r\n\x1a\n")):
        return "MAT"
    return ""


# EDF and BDF


@dataclass(frozen=True)
class EdfHeader:
    """What the header of an EDF or BDF file says.

    Parameters
    ----------
    labels, units : tuple of str
        Name and physical dimension of each signal, annotations included.
    samples : tuple of int
        Samples of each signal in one record.
    records : int
        Number of records; where the header leaves it open, what the size of the file gives.
    duration : float
        Length of a record in s.
    start, width : int
        Bytes of the header, bytes of a sample.
    continuous : bool
        False for EDF+D, whose records may have gaps between them.
    """

    labels: tuple[str, ...]
    units: tuple[str, ...]
    samples: tuple[int, ...]
    records: int
    duration: float
    start: int
    width: int
    continuous: bool

    @property
    def signals(self) -> list[int]:
        """Positions of the signals that are no annotations."""
        return [k for k, name in enumerate(self.labels) if name not in _ANNOTATIONS]


def check_edf(path: Path, *, truncated: bool = False) -> EdfHeader:
    """Read the header of an EDF or BDF file and compare it with the size of the file."""
    with open(path, "rb") as stream:
        head = _edf_header(stream, path)
    record, found = sum(head.samples) * head.width, path.stat().st_size - head.start
    stated = head.records
    if (stated == -1 or truncated) and record:
        head = replace(head, records=found // record)
    if not truncated and (record <= 0 or found != head.records * record or head.records < 1):
        expected = f"{stated} records of {record} bytes" if stated != -1 else f"whole records of {record} bytes"
        fix = "the file was cut off or is damaged: copy it anew, or pass truncated=True to read whole records"
        raise LoadError(explain(str(path), expected=expected, got=f"{found} bytes of data", fix=fix))
    if not head.continuous:
        _check_gaps(path, head)
    return head


def _edf_header(stream: BinaryIO, path: Path) -> EdfHeader:
    """Parse the 256 bytes of the file and the 256 bytes of each signal."""
    first = stream.read(256)
    text = first[8:].decode("latin-1")
    start, records, duration, n = int(text[176:184]), int(text[228:236]), float(text[236:244]), int(text[244:248])
    if n < 1 or start != 256 * (n + 1) or records < -1 or not (math.isfinite(duration) and duration >= 0):
        got = f"{n} signals, a header of {start} bytes, {records} records of {duration} s"
        raise LoadError(explain(str(path), expected="a consistent EDF header", got=got))
    fields = [[stream.read(width).decode("latin-1").strip() for _ in range(n)] for width in _WIDTHS]
    labels, _, units, low, high, bottom, top, _, samples, _ = fields
    counts = [int(x) for x in samples]
    for name, *limits in zip(labels, low, high, bottom, top, strict=True):
        a, b, c, d = (float(x.replace(",", ".")) for x in limits)
        if name.endswith("Annotations"):
            continue
        if not all(map(math.isfinite, (a, b, c, d))):
            got = f"physical {a:g} to {b:g}, digital {c:g} to {d:g}"
            raise LoadError(explain(f"{path}: signal {name!r}", expected="a range of values", got=got))
    if min(counts) < 1:
        raise LoadError(explain(str(path), expected="samples in every record", got=f"{min(counts)} of a signal"))
    width = 3 if first[:1] == b"\xff" else 2
    kind = text[184:228].strip()
    if kind.startswith(("EDF+", "BDF+")) and not any(name in _ANNOTATIONS for name in labels):
        raise LoadError(explain(str(path), expected=f"annotations, as in every {kind[:4]} file", got="none"))
    return EdfHeader(
        tuple(labels),
        tuple(units),
        tuple(counts),
        records,
        duration,
        start,
        width,
        not kind.startswith(("EDF+D", "BDF+D")),
    )


def _check_gaps(path: Path, head: EdfHeader) -> None:
    """Refuse a discontinuous file whose records do not follow each other."""
    place = next((k for k in range(len(head.labels)) if k not in head.signals), None)
    if place is None:
        return
    step, begin = sum(head.samples) * head.width, head.start + sum(head.samples[:place]) * head.width
    with open(path, "rb") as stream:
        origin = 0.0
        for k in range(head.records):
            stream.seek(begin + k * step)
            onset = float(stream.read(head.samples[place] * head.width).split(b"\x14", 1)[0])
            origin = onset if k == 0 else origin
            if abs(onset - origin - k * head.duration) > 1e-3:
                got = f"a gap before {onset:g} s"
                fix = "split the file at its gaps: a recording has one clock"
                raise LoadError(explain(str(path), expected="records without gaps (EDF+D)", got=got, fix=fix))


# BrainVision


@dataclass(frozen=True)
class BrainVisionHeader:
    """What a ``.vhdr`` file says: unit of each channel as written, and the number of samples in the data file."""

    units: tuple[str, ...]
    n_samples: int


def check_brainvision(path: Path, *, truncated: bool = False) -> BrainVisionHeader:
    """Compare a ``.vhdr`` file with the data and marker files that it names."""
    lines = _ini(path)
    common, rows = lines["Common Infos"], lines["Channel Infos"]
    n = int(common["NumberOfChannels"])
    numbers = sorted(int(key[2:]) for key in rows)
    if n < 1 or numbers != list(range(1, n + 1)):
        raise LoadError(explain(str(path), expected=f"{n} channels", got=f"entries for {len(numbers)}"))
    fields = [(rows[f"ch{k}"].split(",") + ["", "", ""])[:4] for k in numbers]
    for name, _, resolution, _ in fields:
        if resolution and not (math.isfinite(float(resolution)) and float(resolution) != 0):
            raise LoadError(explain(f"{path}: {name}", expected="a resolution", got=resolution))
    units = tuple(field[3].strip().replace("\xc2", "") or "uV" for field in fields)
    if common.get("DataFormat", "BINARY").upper() != "BINARY":
        return BrainVisionHeader(units, -1)
    data, frame = path.parent / common["DataFile"], n * _BYTES[lines["Binary Infos"]["BinaryFormat"].upper()]
    n_samples, rest = divmod(data.stat().st_size, frame)
    stated = common.getint("DataPoints", fallback=0)
    if not truncated and (rest or n_samples < 1 or (stated and stated != n_samples)):
        expected = f"{stated} samples of {frame} bytes"
        fix = "the file was cut off or is damaged: copy it anew, or pass truncated=True"
        raise LoadError(explain(str(data), expected=expected, got=f"{data.stat().st_size} bytes", fix=fix))
    _check_markers(path, common.get("MarkerFile", ""), n_samples, truncated)
    return BrainVisionHeader(units, n_samples)


def _ini(path: Path) -> configparser.ConfigParser:
    """Parse a BrainVision text up to its comment."""
    text = path.read_bytes()
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError:
        decoded = text.decode("latin-1")
    if not BRAINVISION.match(text) or "\x00" in decoded:
        raise LoadError(explain(str(path), expected="a BrainVision header", got=f"first bytes {text[:16]!r}"))
    body = decoded.split("\n", 1)[1].split("[Comment]")[0].replace("[Common infos]", "[Common Infos]")
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read_file(io.StringIO(body))
    return parser


def _check_markers(path: Path, name: str, n_samples: int, truncated: bool) -> None:
    """Refuse markers behind the end of the data."""
    marker = path.parent / name
    if not name or not marker.is_file():
        return
    text = marker.read_bytes().decode("latin-1")
    places = [int(m) for m in re.findall(r"^Mk\d+=[^,]*,[^,]*,(\d+)", text, re.M)]
    if places and max(places) > n_samples and not truncated:
        expected = f"markers within {n_samples} samples"
        fix = "the data were cut off or belong to another file; pass truncated=True to read what there is"
        raise LoadError(explain(str(marker), expected=expected, got=f"a marker at sample {max(places)}", fix=fix))


# FIF


def check_fif(path: Path, *, truncated: bool = False) -> str:
    """Follow the chain of tags of a FIF file to its end; return "raw", "epochs" or "evoked", "" if it tells neither.

    Compressed files are left to their checksum.
    """
    if truncated or magic(path, 2) == b"\x1f\x8b":
        return ""
    seen = set[int]()
    size = path.stat().st_size
    blocks = [0]
    with open(path, "rb") as stream:
        for kind, kind_of_data, length, place in _tags(stream, size, path):
            if kind in (_BLOCK_START, _BLOCK_END):
                stream.seek(place + 16)
                block = struct.unpack(">i", stream.read(4))[0]
                if kind == _BLOCK_END and blocks.pop() != block:
                    blocks = []
                    break
                if kind == _BLOCK_START:
                    blocks.append(block)
                    seen.add(block)
            elif blocks[-1] in _DATA_BLOCKS and not (kind in _DATA_TAGS or 100 <= kind <= 118):
                got = f"a tag of kind {kind}, type {kind_of_data}, {length} bytes"
                raise LoadError(explain(str(path), expected="buffers of data", got=got))
    if blocks != [0]:
        raise LoadError(explain(str(path), expected="blocks that open and close in turn", got="others"))
    return "raw" if seen & set(_DATA_BLOCKS) else "epochs" if _EPOCHS in seen else "evoked" if _EVOKED in seen else ""


def _tags(stream: BinaryIO, size: int, path: Path) -> Iterator[tuple[int, int, int, int]]:
    """Yield kind, type, bytes and place of every tag; refuse a chain that leaves the file or runs in a circle."""
    place, seen = 0, set[int]()
    while place not in seen:
        seen.add(place)
        stream.seek(place)
        head = stream.read(16)
        if len(head) < 16:
            break
        kind, kind_of_data, length, following = struct.unpack(">iiii", head)
        end = place + 16 + length
        if length < 0 or end > size or not _LAST_TAG <= following < size:
            break
        yield kind, kind_of_data, length, place
        if following == _LAST_TAG:
            return
        place = following or end  # files edited in place jump to tags at their end and back
    fix = "the file was cut off or is damaged: copy it anew, or pass truncated=True"
    expected = "a chain of tags up to the last"
    raise LoadError(explain(str(path), expected=expected, got=f"a break at byte {place}", fix=fix))


def check_samples(path: Path, found: int, per_sample: int) -> None:
    """Compare the size of EEGLAB's ``.fdt`` file with the number of values that the ``.set`` file states."""
    size = path.stat().st_size
    if size != found * per_sample * np.dtype(np.float32).itemsize:
        expected = f"{found} samples of {per_sample} float32"
        raise LoadError(explain(str(path), expected=expected, got=f"{size} bytes", fix="copy it anew"))
