"""Data sets: packed samples, cards of larger public sets, downloads with known digests, and simulators.

``list()`` shows what there is, ``info(key)`` one card, ``load(key)`` a packed sample, ``fetch(key)`` downloads the sets
that are single files. ``simulate`` holds generators with known truth.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

#: Public name -> module and name there; imported when first used.
_HOMES = {
    "list": ("registry", "catalogue"),
    "info": ("registry", "info"),
    "load": ("registry", "load"),
    "Card": ("registry", "Card"),
    "Catalogue": ("registry", "Catalogue"),
    "fetch": ("registry", "fetch"),
    "AccountError": ("download", "AccountError"),
}

__all__ = ["AccountError", "Card", "Catalogue", "fetch", "info", "list", "load", "simulate"]


def __getattr__(name: str) -> Any:
    if name == "simulate":
        return import_module(f"{__name__}.simulate")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, original = _HOMES[name]
    value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), original)
    return value


def __dir__() -> Any:
    return sorted(__all__)


if TYPE_CHECKING:
    from . import simulate as simulate
    from .download import AccountError as AccountError
    from .registry import Card as Card
    from .registry import Catalogue as Catalogue
    from .registry import catalogue as list
    from .registry import fetch as fetch
    from .registry import info as info
    from .registry import load as load
