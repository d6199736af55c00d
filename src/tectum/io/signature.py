"""First bytes of files, and the order of their names: what readers and :mod:`.detect` both ask."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

HDF5 = b"\x89HDF\r\n\x1a\n"


def magic(path: Path, size: int = 8) -> bytes:
    """Return the first bytes of a file, none of a folder."""
    if not path.is_file():
        return b""
    with open(path, "rb") as stream:
        return stream.read(size)


def is_hdf5(path: Path) -> bool:
    """Tell whether a file is HDF5, as it is or, as MATLAB 7.3 writes it, behind 512 bytes."""
    return HDF5 in (magic(path), magic(path, 520)[512:])


def natural(name: str) -> tuple[Any, ...]:
    """Return a sorting key that orders numbers inside names by value.

    Examples
    --------
    >>> sorted(["a10", "a9"], key=natural)
    ['a9', 'a10']
    """
    return tuple(int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name))
