"""Simulated recordings in our containers, each with its truth."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from tectum.core.intervals import Intervals
from tectum.core.recording import Recording

from . import connectome
from .connectome import ConnectomeSample, ConnectomeTruth
from .switching_glm import SwitchingTruth
from .switching_glm import switching_glm as draw_switching_glm

D = TypeVar("D")
T = TypeVar("T")


class Sim(NamedTuple, Generic[D, T]):
    """Simulated data and what is true of them."""

    data: D
    truth: T


def motif_world(*, random_state: int | None = 0, **options: Any) -> Sim[list[Recording], ConnectomeTruth]:
    """Simulate animals whose groups of units change together in windows of time.

    Parameters
    ----------
    random_state : int or None, default 0
        Seed.
    **options
        Sizes and rates; see :func:`tectum.datasets.simulate.connectome.motif_world`.

    Returns
    -------
    Sim
        A recording (time, unit) for each animal, and a :class:`ConnectomeTruth`.

    Examples
    --------
    >>> sim = motif_world(n_animals=2, n_units=30, n_time=320)
    >>> len(sim.data), sim.data[0].sizes
    (2, {'time': 320, 'unit': 30})
    """
    return _wrapped(connectome.motif_world(random_state=random_state, **options))


def stimulus_locked(*, random_state: int | None = 0, **options: Any) -> Sim[list[Recording], ConnectomeTruth]:
    """Simulate animals whose groups of units respond to stimuli with a shared latency.

    Parameters
    ----------
    random_state : int or None, default 0
        Seed.
    **options
        Sizes and rates; see :func:`tectum.datasets.simulate.connectome.stimulus_locked`.

    Returns
    -------
    Sim
        A recording (time, unit) with intervals "stimuli" for each animal, and a :class:`ConnectomeTruth`.
    """
    return _wrapped(connectome.stimulus_locked(random_state=random_state, **options))


def switching_glm(
    n_units: int = 20,
    n_states: int = 3,
    *,
    n_sequences: int = 10,
    n_time: int = 1000,
    dt: float = 0.02,
    random_state: int | None = 0,
    **options: Any,
) -> Sim[list[Recording], SwitchingTruth]:
    """Simulate spike counts of units whose couplings switch with a hidden state.

    Parameters
    ----------
    n_units, n_states : int
        Sizes.
    n_sequences, n_time : int
        Recordings, and bins of each.
    dt : float, default 0.02
        Width of a bin, s.
    random_state : int or None, default 0
        Seed.
    **options
        Lags, link and dwell; see :func:`tectum.datasets.simulate.switching_glm.switching_glm`.

    Returns
    -------
    Sim
        A recording (time, unit) of counts for each sequence, and a :class:`SwitchingTruth`.

    Examples
    --------
    >>> sim = switching_glm(n_units=4, n_states=2, n_sequences=2, n_time=50)
    >>> len(sim.data), sim.data[0].sizes, sim.truth.states.shape
    (2, {'time': 50, 'unit': 4}, torch.Size([2, 50]))
    """
    sample = draw_switching_glm(
        n_units, n_states, n_sequences=n_sequences, n_time=n_time, random_state=random_state, **options
    )
    coords = {"unit": {"name": [f"u{i:02d}" for i in range(n_units)]}}
    data = [
        Recording(
            data=counts,
            dims=("time", "unit"),
            rate=1 / dt,
            units="spikes/bin",
            modality="spikes",
            subject="sim",
            session=f"{k:02d}",
            coords=coords,
        )
        for k, counts in enumerate(sample.data.int())
    ]
    return Sim(data, sample.truth)


def _wrapped(sample: ConnectomeSample) -> Sim[list[Recording], ConnectomeTruth]:
    """Wrap the traces of every animal as a recording."""
    rate = 1.0 / float(sample.time[1] - sample.time[0])
    data = [
        Recording(
            data=traces,
            dims=("time", "unit"),
            rate=rate,
            units="dF/F",
            modality="calcium",
            subject=f"sim{w:02d}",
            coords={"unit": {"name": sample.labels}},
            intervals={"stimuli": _stimuli(events)} if events else {},
        )
        for w, (traces, events) in enumerate(zip(sample.traces, sample.events, strict=True))
    ]
    return Sim(data, sample.truth)


def _stimuli(events: list[tuple[str, float, float]]) -> Intervals:
    return Intervals.from_pairs([(a, b) for _, a, b in events], name=np.asarray([name for name, _, _ in events]))
