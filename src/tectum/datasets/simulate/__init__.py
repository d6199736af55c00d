"""Simulators: each returns ``Sim(data, truth)`` in our containers; the generators below them are pure functions."""

from .eeg import null_blocks, rhythm_windows
from .seeg import seeg_bursts, seeg_words
from .sim import Sim, motif_world, stimulus_locked, switching_glm

__all__ = [
    "Sim",
    "motif_world",
    "null_blocks",
    "rhythm_windows",
    "seeg_bursts",
    "seeg_words",
    "stimulus_locked",
    "switching_glm",
]
