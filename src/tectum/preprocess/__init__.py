"""Preprocessing: small functions from container to container; each notes itself in the history."""

from collections.abc import Callable
from typing import Any

from .basic import bin_spikes, crop, part, resample, select, smooth, standardise
from .calcium import baseline, deconvolve, dff, events, neuropil, noise, subtract

#: Steps that a study may name.
STEPS: dict[str, Callable[..., Any]] = {
    "bin": bin_spikes,
    "crop": crop,
    "deconvolve": deconvolve,
    "dff": dff,
    "events": events,
    "part": part,
    "resample": resample,
    "select": select,
    "smooth": smooth,
    "standardise": standardise,
}

__all__ = [
    "STEPS",
    "baseline",
    "bin_spikes",
    "crop",
    "deconvolve",
    "dff",
    "events",
    "neuropil",
    "noise",
    "part",
    "resample",
    "select",
    "smooth",
    "standardise",
    "subtract",
]
