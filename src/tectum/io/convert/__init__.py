"""Converters between our containers and the objects of other packages; each module says what a round trip loses."""

from __future__ import annotations

from importlib import import_module
from typing import Any

#: Function -> module of this package that defines it, imported when it is first used.
_HOMES = {
    "from_mne": "eeg",
    "to_mne": "eeg",
    "from_nibabel": "images",
    "to_nibabel": "images",
    "from_neo": "neo_blocks",
    "to_neo": "neo_blocks",
    "from_pynapple": "pynapple_objects",
    "to_pynapple": "pynapple_objects",
    "from_nwb": "nwb_files",
    "to_nwb": "nwb_files",
    "from_xarray": "arrays",
    "to_xarray": "arrays",
    "from_numpy": "arrays",
    "to_numpy": "arrays",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tectum.io.convert' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
