"""Formats of vendors: each checks what a file says of itself before MNE opens it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..opened import Opened
from . import bci2000, boxed, clinical, compiled, eyelink, meg, nirs, nirs_text, recorders, squid

_ROOMS = (clinical, recorders, bci2000, eyelink, nirs, nirs_text, meg, squid, boxed, compiled)
#: Format -> how a file of it is checked and opened, given whether a file that was cut off is wanted nevertheless.
OPENERS: dict[str, Callable[[Path, bool], Opened]] = {
    kind: way for room in _ROOMS for kind, way in room.OPENERS.items()
}
