"""Real recordings out of the cache that ``tools/fetch_realdata.py`` fills."""

from __future__ import annotations

import os
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import pytest


def cached() -> Path:
    return Path(os.environ.get("TECTUM_REALDATA") or Path.home() / ".cache" / "tectum-realdata").expanduser()


def pynapple(member: str) -> Path:
    """Return a file or folder of the test recordings of pynapple 0.11.4, or skip the test."""
    path = cached() / "pynapple-0.11.4" / "pynapple-0.11.4" / "tests" / "nwbfilestest" / member
    return path if path.exists() else _unpacked(member)


@cache
def _unpacked(member: str) -> Path:
    """Take a single file straight from the archive, where only the archive is cached."""
    archive = cached() / "pynapple-0.11.4.tar.gz"
    if not archive.is_file():
        pytest.skip("pynapple-0.11.4 is not in the cache: run tools/fetch_realdata.py")
    target = Path(tempfile.mkdtemp(prefix="tectum-realdata-")) / Path(member).name
    with tarfile.open(archive) as tar:
        stream = tar.extractfile(f"pynapple-0.11.4/tests/nwbfilestest/{member}")
        assert stream is not None
        target.write_bytes(stream.read())
    return target
