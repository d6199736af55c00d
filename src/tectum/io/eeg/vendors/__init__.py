"""Formats of vendors: each checks what a file says of itself before MNE opens it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..opened import Opened
from . import boxed, clinical, meg, nirs, recorders, squid

#: Format -> how a file of it is checked and opened, given whether a file that was cut off is wanted nevertheless.
OPENERS: dict[str, Callable[[Path, bool], Opened]] = {
    **clinical.OPENERS,
    **recorders.OPENERS,
    **nirs.OPENERS,
    **meg.OPENERS,
    **squid.OPENERS,
    **boxed.OPENERS,
}
