"""Preprocessing: small functions from container to container; each notes itself in the history."""

from collections.abc import Callable
from typing import Any

from tectum.io.fmri.parcellation import parcellate

from .basic import bin_spikes, crop, part, resample, select, smooth, standardise
from .calcium import baseline, deconvolve, dff, duplicates, events, neuropil, noise, subtract
from .causal import Causal, apply_causal
from .filters import filter
from .fmri import clean, dvars, framewise_displacement, tsnr
from .reference import reference
from .worm import drop_untracked, preprocess_worm

#: Steps that a study may name.
STEPS: dict[str, Callable[..., Any]] = {
    "bin": bin_spikes,
    "clean": clean,
    "crop": crop,
    "deconvolve": deconvolve,
    "dff": dff,
    "events": events,
    "filter": filter,
    "parcellate": parcellate,
    "part": part,
    "reference": reference,
    "resample": resample,
    "select": select,
    "smooth": smooth,
    "standardise": standardise,
}

__all__ = [
    "STEPS",
    "Causal",
    "apply_causal",
    "baseline",
    "bin_spikes",
    "clean",
    "crop",
    "deconvolve",
    "dff",
    "drop_untracked",
    "duplicates",
    "dvars",
    "events",
    "framewise_displacement",
    "filter",
    "neuropil",
    "noise",
    "parcellate",
    "part",
    "preprocess_worm",
    "reference",
    "resample",
    "select",
    "smooth",
    "standardise",
    "subtract",
    "tsnr",
]
