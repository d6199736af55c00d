"""Simulators: each returns ``Sim(data, truth)`` in our containers; the generators below them are pure functions."""

from .sim import Sim, motif_world, stimulus_locked, switching_glm

__all__ = ["Sim", "motif_world", "stimulus_locked", "switching_glm"]
