"""Files that neo reads and that state their own size: is it all there? neo takes as much as it finds."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

from tectum.core.errors import LoadError, explain

from .eeg.vendors.boxed import check_nsx
from .files import load_npy
from .signature import magic

_CUT = "the file was cut off or is damaged: copy it anew"
_NEV_HEADER, _NEV_ENTRY = 336, 32
_NEURALYNX_HEADER, _NEURALYNX = 16_384, {".ncs": 1044, ".nev": 184}  # bytes of a record


def check_blackrock(path: Path) -> None:
    """Check every signal file (``.ns1`` to ``.ns9``) and the file of spikes (``.nev``) of a Blackrock recording."""
    stem = path.name.removesuffix(path.suffix) if path.is_file() else path.name
    for part in sorted(p for p in path.parent.iterdir() if p.is_file() and p.stem == stem):
        suffix = part.suffix.lower()
        if suffix == ".nev":
            check_nev(part)
        elif suffix[:3] == ".ns" and suffix[3:].isdigit():
            check_nsx(part)


def check_nev(path: Path) -> None:
    """Compare a file of spikes and events with the number of its descriptions and the length of its packets."""
    size = path.stat().st_size
    with open(path, "rb") as stream:
        head = stream.read(_NEV_HEADER)
    if head[:8] not in (b"NEURALEV", b"BREVENTS") or len(head) < _NEV_HEADER:
        got = f"first bytes {head[:8]!r}"
        raise LoadError(explain(str(path), expected="spikes and events of Blackrock", got=got))
    start, packet = struct.unpack_from("<II", head, 12)
    entries = struct.unpack_from("<I", head, 332)[0]
    if start != _NEV_HEADER + _NEV_ENTRY * entries or start > size or not 8 < packet <= 1 << 16:
        got = f"{entries} descriptions, packets of {packet} bytes from byte {start} of {size}"
        raise LoadError(explain(str(path), expected="a consistent header", got=got, fix=_CUT))
    if (size - start) % packet:
        got = f"{size - start} bytes"
        raise LoadError(explain(str(path), expected=f"whole packets of {packet} bytes", got=got, fix=_CUT))


def check_spikeglx(path: Path) -> None:
    """Compare every data file of a SpikeGLX folder with its ``.meta``."""
    found = sorted(path.rglob("*.meta")) if path.is_dir() else [path.with_suffix(".meta")]
    for meta in found:
        lines = meta.read_text(encoding="utf-8").splitlines()
        about = dict(line.partition("=")[::2] for line in lines if "=" in line)
        data = meta.with_suffix(".bin")
        missing = [key for key in ("fileSizeBytes", "nSavedChans") if not about.get(key, "").strip().isdigit()]
        if missing:
            raise LoadError(explain(str(meta), expected=f"the number {missing[0]}", got="none", fix=_CUT))
        size, channels = int(about["fileSizeBytes"]), int(about["nSavedChans"])
        if not channels or size % (2 * channels) or data.stat().st_size != size:
            expected = f"{size} bytes of {channels} channels"
            raise LoadError(explain(str(data), expected=expected, got=f"{data.stat().st_size}", fix=_CUT))
    if not found:
        raise LoadError(explain(str(path), expected="a .meta file of SpikeGLX", got="none"))


def check_neuralynx(path: Path) -> None:
    """Check that the signals and events of a Neuralynx folder are whole records, as many for all signals of one rate.

    How many there were nothing says, but neo would cut all signals to the shortest.
    """
    folder = path if path.is_dir() else path.parent
    counts: dict[bytes, dict[str, int]] = {}
    for part in sorted(p for p in folder.iterdir() if p.suffix.lower() in _NEURALYNX):
        size, record = part.stat().st_size, _NEURALYNX[part.suffix.lower()]
        if not size:
            continue  # the recorder leaves files without content for what it did not record
        if magic(part, 8) != b"########" or size < _NEURALYNX_HEADER or (size - _NEURALYNX_HEADER) % record:
            got = f"first bytes {magic(part, 8)!r}, {size} bytes"
            expected = f"a header of {_NEURALYNX_HEADER} bytes and whole records of {record}"
            raise LoadError(explain(str(part), expected=expected, got=got, fix=_CUT))
        if part.suffix.lower() == ".ncs":
            rate = re.search(rb"-SamplingFrequency\s+(\S+)", magic(part, _NEURALYNX_HEADER))
            alike = counts.setdefault(rate[1] if rate else b"", {})
            alike[part.name] = (size - _NEURALYNX_HEADER) // record
    for alike in counts.values():
        if len(set(alike.values())) > 1:
            fix = "a file was cut off: copy it anew, or read the folder without it"
            expected = "as many records in all signals of one rate"
            raise LoadError(explain(str(folder), expected=expected, got=str(alike), fix=fix))


def check_open_ephys(path: Path) -> None:
    """Compare the samples of every stream of an Open Ephys folder with its channels and its numbers of samples."""
    found = sorted(path.rglob("structure.oebin"))
    for structure in found:
        for stream in json.loads(structure.read_text(encoding="utf-8"))["continuous"]:
            folder = structure.parent / "continuous" / str(stream["folder_name"])
            if not folder.is_dir():
                continue  # neo passes over a stream that was not recorded
            data, channels = folder / "continuous.dat", int(stream["num_channels"])
            if channels < 1 or len(stream["channels"]) != channels:
                got = f"{channels} and {len(stream['channels'])}"
                raise LoadError(explain(str(structure), expected="as many channels as described", got=got, fix=_CUT))
            names = [p for n in ("sample_numbers.npy", "timestamps.npy") if (p := folder / n).is_file()]
            samples, rest = divmod(data.stat().st_size, 2 * channels)
            stated = len(load_npy(names[0])) if names else samples
            if rest or samples != stated:
                expected = f"{stated} samples of {channels} channels"
                raise LoadError(explain(str(data), expected=expected, got=f"{data.stat().st_size} bytes", fix=_CUT))
    if not found:
        raise LoadError(explain(str(path), expected="a structure.oebin of Open Ephys", got="none"))


#: Class of neo -> what is checked before it reads.
CHECKS: dict[str, Callable[[Path], None]] = {
    "BlackrockIO": check_blackrock,
    "NeuralynxIO": check_neuralynx,
    "OpenEphysBinaryIO": check_open_ephys,
    "SpikeGLXIO": check_spikeglx,
}
