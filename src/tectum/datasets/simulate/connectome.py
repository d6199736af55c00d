"""Populations of several animals in which known groups of units change together at known times.

Two regimes: `motif_world`, spontaneous motifs in windows of a shared time axis, and `stimulus_locked`, sparse
responses to three stimuli beside a spontaneous motif.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.errors import InputError, explain
from ...core.random import resolve_seed


class ConnectomeTruth(NamedTuple):
    """What was simulated; R motifs, W animals, T samples, N units, P pairs.

    Attributes
    ----------
    windows : Tensor, shape (R, T), bool
        When each motif is active.
    loadings : Tensor, shape (W, R), float32
        Strength of each motif in each animal, 0 where it is off.
    pairs : Tensor, shape (R, P), bool
        Pairs (row-major upper triangle) in the same group of the motif.
    groups : Tensor, shape (R, N), int64
        Group of each unit in each motif, -1 for units that take no part.
    signs, gains : Tensor, shape (R, N), float32
        Direction and size of the response of each unit in each motif.
    """

    windows: Tensor
    loadings: Tensor
    pairs: Tensor
    groups: Tensor
    signs: Tensor
    gains: Tensor


class ConnectomeSample(NamedTuple):
    """Simulated animals; T samples, N units.

    Attributes
    ----------
    traces : list of Tensor, each shape (T, N), float32
        dF/F; units absent from an animal are NaN columns.
    time : Tensor, shape (T,), float64
        Seconds.
    labels : list of str
        Identity of each unit, the same in every animal.
    events : list of list of (name, start, stop)
        Stimuli of each animal, s; empty lists when spontaneous.
    truth : ConnectomeTruth
        What was simulated.
    """

    traces: list[Tensor]
    time: Tensor
    labels: list[str]
    events: list[list[tuple[str, float, float]]]
    truth: ConnectomeTruth


class _Motifs(NamedTuple):
    """Groups, gains and loadings shared by the animals."""

    groups: np.ndarray  # (R, N) int
    gains: np.ndarray  # (R, N)
    signs: np.ndarray  # (R, N)
    loadings: np.ndarray  # (W, R)


class _Events(NamedTuple):
    """Calcium events: one row each."""

    unit: np.ndarray
    time: np.ndarray  # s
    size: np.ndarray


def motif_world(
    *,
    n_animals: int = 8,
    n_units: int = 40,
    n_time: int = 480,
    dt: float = 0.25,
    n_motifs: int = 4,
    window: int = 80,
    event_prob: float = 0.08,
    absent: float = 0.15,
    random_state: int | None = 0,
) -> ConnectomeSample:
    """Simulate motifs that are active one after the other on a time axis shared by all animals.

    Each motif joins two or three disjoint groups of 6 to 9 units. The units of a group share events (rises and
    falls) inside the window of the motif, in the animals in which it is on. Independent events, noise and
    bleaching are added.

    Parameters
    ----------
    n_animals : int, default 8
        Number of animals W.
    n_units : int, default 40
        Number of identities N, at least 27.
    n_time : int, default 480
        Number of samples T.
    dt : float, default 0.25
        Sampling interval, s.
    n_motifs : int, default 4
        Number of motifs R.
    window : int, default 80
        Length of the active window, samples.
    event_prob : float, default 0.08
        Probability of a group event in each sample of the window.
    absent : float, default 0.15
        Probability that a unit is missing from an animal.
    random_state : int or None, default 0
        Seed.

    Returns
    -------
    ConnectomeSample

    Examples
    --------
    >>> sim = motif_world(random_state=1)
    >>> len(sim.traces), sim.traces[0].shape, sim.truth.pairs.shape
    (8, torch.Size([480, 40]), torch.Size([4, 780]))
    """
    rng = np.random.default_rng(resolve_seed(random_state))
    starts = np.floor(np.linspace(0, n_time, n_motifs + 2)[:n_motifs]).astype(int) + 26
    if n_motifs < 1 or starts[-1] + window > n_time:
        raise InputError(
            explain("motif_world", expected="windows inside the recording", got=f"n_time={n_time}, window={window}")
        )
    windows = _windows([[(start, start + window)] for start in starts], n_time)
    sizes = [rng.integers(6, 10, size=rng.integers(2, 4)) for _ in range(n_motifs)]
    motifs = _motifs(rng, sizes, n_animals=n_animals, n_units=n_units, gains=(0.5, 1.5), min_on=2)
    traces = [
        _animal(rng, motifs, w, windows, n_time=n_time, dt=dt, event_prob=event_prob, absent=absent)
        for w in range(n_animals)
    ]
    return _sample(traces, motifs, windows, dt=dt, events=[[] for _ in traces])


def _animal(
    rng: np.random.Generator,
    motifs: _Motifs,
    w: int,
    windows: np.ndarray,
    *,
    n_time: int,
    dt: float,
    event_prob: float,
    absent: float,
) -> np.ndarray:
    """Traces (T, N) of one animal of `motif_world`."""
    n_units = motifs.groups.shape[1]
    drives = [
        _group_events(rng, motifs, w, r, group, windows[r], dt=dt, prob=event_prob, size=(0.6, 1.2), jitter=0.2)
        for r in np.flatnonzero(motifs.loadings[w])
        for group in range(motifs.groups[r].max() + 1)
    ]
    drives.append(_background(rng, n_time, n_units, dt=dt, prob=0.01, size=(0.4, 1.2), negative=0.3))
    x = _convolved(drives, n_time, n_units, dt=dt, rise=0.4, decay=3.0)
    x += 0.15 * rng.standard_normal((n_time, n_units))
    x += 0.3 * rng.random(n_units) * np.linspace(1, 0, n_time)[:, None]
    x[:, rng.random(n_units) < absent] = np.nan
    return x


def stimulus_locked(
    *,
    n_animals: int = 10,
    n_units: int = 40,
    n_time: int = 960,
    dt: float = 0.25,
    absent: float = 0.2,
    random_state: int | None = 0,
) -> ConnectomeSample:
    """Simulate responses to three stimuli, each with its own groups of units, beside a spontaneous motif.

    A group answers a stimulus with one rise and one fall only, at a latency of its own in each animal; units drift
    (random walk). The fourth motif is spontaneous: three groups with events before the first stimulus and between the
    first two.

    Parameters
    ----------
    n_animals : int, default 10
        Number of animals W, at least 3.
    n_units : int, default 40
        Number of identities N, at least 24.
    n_time : int, default 960
        Number of samples T; at least 200 s.
    dt : float, default 0.25
        Sampling interval, s.
    absent : float, default 0.2
        Probability that a unit is missing from an animal.
    random_state : int or None, default 0
        Seed.

    Returns
    -------
    ConnectomeSample
        ``events`` lists the stimuli "s1", "s2", "s3" of 10 s at 60.5, 120.5 and 180.5 s in every animal.

    Examples
    --------
    >>> sim = stimulus_locked(random_state=1)
    >>> sim.events[0][1], sim.truth.windows.shape
    (('s2', 120.5, 130.5), torch.Size([4, 960]))
    """
    onsets = (60.5, 120.5, 180.5)
    if n_time * dt < 200:
        raise InputError(explain("stimulus_locked", expected="at least 200 s", got=f"{n_time * dt:g} s"))
    rng = np.random.default_rng(resolve_seed(random_state))
    spans = [[(round(onset / dt), round((onset + 13) / dt))] for onset in onsets]
    spans.append([(0, round(55 / dt)), (round(80 / dt), round(115 / dt))])
    windows = _windows(spans, n_time)
    sizes = [rng.integers(6, 9, size=count) for count in (2, 2, 2, 3)]
    motifs = _motifs(rng, sizes, n_animals=n_animals, n_units=n_units, gains=(0.6, 1.4), min_on=3)
    traces = [
        _locked_animal(rng, motifs, w, windows, onsets, n_time=n_time, dt=dt, absent=absent) for w in range(n_animals)
    ]
    stimuli = [(f"s{k + 1}", onset, onset + 10.0) for k, onset in enumerate(onsets)]
    return _sample(traces, motifs, windows, dt=dt, events=[list(stimuli) for _ in traces])


def _locked_animal(
    rng: np.random.Generator,
    motifs: _Motifs,
    w: int,
    windows: np.ndarray,
    onsets: Sequence[float],
    *,
    n_time: int,
    dt: float,
    absent: float,
) -> np.ndarray:
    """Traces (T, N) of one animal of `stimulus_locked`."""
    n_units = motifs.groups.shape[1]
    drives = [
        _response(rng, motifs, w, k, group, onset)
        for k, onset in enumerate(onsets)
        if motifs.loadings[w, k] > 0
        for group in range(2)
    ]
    if motifs.loadings[w, 3] > 0:
        drives += [
            _group_events(rng, motifs, w, 3, group, windows[3], dt=dt, prob=0.02, size=(0.5, 1.0), jitter=0.15)
            for group in range(3)
        ]
    drives.append(_background(rng, n_time, n_units, dt=dt, prob=0.015, size=(0.2, 1.0), negative=0.5))
    x = _convolved(drives, n_time, n_units, dt=dt, rise=0.5, decay=4.0)
    x += np.cumsum(rng.standard_normal((n_time, n_units)), axis=0) * 0.35 / np.sqrt(n_time)
    x += 0.08 * rng.standard_normal((n_time, n_units))
    x[:, rng.random(n_units) < absent] = np.nan
    return x


def _motifs(
    rng: np.random.Generator,
    sizes: Sequence[np.ndarray],
    *,
    n_animals: int,
    n_units: int,
    gains: tuple[float, float],
    min_on: int,
) -> _Motifs:
    """Draw disjoint groups, gains, signs and loadings of every motif."""
    need = 9 * max(len(size) for size in sizes)
    if n_units < need or n_animals < min_on:
        raise InputError(
            explain(
                "simulate", expected=f"at least {need} units and {min_on} animals", got=f"{n_units} and {n_animals}"
            )
        )
    groups = np.full((len(sizes), n_units), -1)
    for r, size in enumerate(sizes):
        groups[r, rng.permutation(n_units)[: size.sum()]] = np.repeat(np.arange(len(size)), size)
    gain = rng.uniform(*gains, groups.shape)
    sign = np.where(rng.random(groups.shape) < 0.2, -1.0, 1.0)
    on = np.stack([_switched_on(rng, n_animals, min_on) for _ in sizes], 1)
    return _Motifs(groups, gain, sign, on * rng.uniform(0.6, 1.0, on.shape))


def _switched_on(rng: np.random.Generator, n_animals: int, min_on: int) -> np.ndarray:
    """Draw the animals in which a motif is on until there are enough."""
    on = rng.random(n_animals) < 0.75
    while on.sum() < min_on:
        on = rng.random(n_animals) < 0.75
    return on


def _group_events(
    rng: np.random.Generator,
    motifs: _Motifs,
    w: int,
    r: int,
    group: int,
    active: np.ndarray,
    *,
    dt: float,
    prob: float,
    size: tuple[float, float],
    jitter: float,
) -> _Events:
    """Events common to a group inside its window, of either direction, with jitter between units."""
    times = np.flatnonzero(active & (rng.random(active.shape) < prob)) * dt
    sizes = rng.choice([-1.0, 1.0], times.shape) * rng.uniform(*size, times.shape) * motifs.loadings[w, r]
    return _shared(rng, motifs, r, group, times, sizes, jitter)


def _response(rng: np.random.Generator, motifs: _Motifs, w: int, r: int, group: int, onset: float) -> _Events:
    """One rise and one fall of a group, at its latency in this animal; 0.15 s of jitter between units."""
    latency = rng.uniform(0, 4)
    times = np.array([onset + latency, onset + 10 + latency / 2]) + rng.normal(0, 0.2, 2)
    return _shared(rng, motifs, r, group, times, np.array([1.0, -0.8]) * motifs.loadings[w, r], 0.15)


def _shared(
    rng: np.random.Generator, motifs: _Motifs, r: int, group: int, times: np.ndarray, sizes: np.ndarray, jitter: float
) -> _Events:
    """Give events (E,) to every unit of a group, with its gain, sign and own jitter."""
    members = np.flatnonzero(motifs.groups[r] == group)
    at = times + rng.normal(0, jitter, (len(members), len(times)))  # (n, E)
    amount = (motifs.gains[r] * motifs.signs[r])[members, None] * sizes
    return _Events(np.repeat(members, len(times)), at.ravel(), amount.ravel())


def _background(
    rng: np.random.Generator,
    n_time: int,
    n_units: int,
    *,
    dt: float,
    prob: float,
    size: tuple[float, float],
    negative: float,
) -> _Events:
    """Independent events of every unit."""
    at, unit = np.nonzero(rng.random((n_time, n_units)) < prob)
    sign = np.where(rng.random(at.shape) < negative, -1.0, 1.0)
    return _Events(unit, at * dt, sign * rng.uniform(*size, at.shape))


def _convolved(
    drives: Sequence[_Events], n_time: int, n_units: int, *, dt: float, rise: float, decay: float, length: float = 20.0
) -> np.ndarray:
    """Sum the responses of all events, shape (T, N); the kernel peaks at 1 and lasts ``length`` seconds."""
    unit, at, size = (np.concatenate(parts) for parts in zip(*drives, strict=True))
    peak = _kernel(np.array([rise * np.log(1 + decay / rise)]), rise, decay, length)
    age = np.arange(n_time) * dt - at[:, None]  # (E, T)
    x = np.zeros((n_units, n_time))
    np.add.at(x, unit, size[:, None] * _kernel(age, rise, decay, length) / peak)
    return x.T


def _kernel(age: np.ndarray, rise: float, decay: float, length: float) -> np.ndarray:
    """Calcium response (1 - exp(-t / rise)) exp(-t / decay) for 0 <= t < length."""
    t = np.clip(age, 0, length)
    return np.where((age >= 0) & (age < length), (1 - np.exp(-t / rise)) * np.exp(-t / decay), 0)


def _windows(spans: Sequence[Sequence[tuple[int, int]]], n_time: int) -> np.ndarray:
    """Boolean (R, T) from the spans of every motif."""
    t = np.arange(n_time)
    return np.stack([np.any([(t >= start) & (t < stop) for start, stop in span], axis=0) for span in spans])


def _sample(
    traces: Sequence[np.ndarray],
    motifs: _Motifs,
    windows: np.ndarray,
    *,
    dt: float,
    events: list[list[tuple[str, float, float]]],
) -> ConnectomeSample:
    """Pack arrays as tensors with the truth."""
    n_units = motifs.groups.shape[1]
    first, second = np.triu_indices(n_units, 1)
    same = (motifs.groups[:, first] == motifs.groups[:, second]) & (motifs.groups[:, first] >= 0)
    truth = ConnectomeTruth(
        torch.from_numpy(windows),
        torch.from_numpy(motifs.loadings.astype(np.float32)),
        torch.from_numpy(same),
        torch.from_numpy(motifs.groups.astype(np.int64)),
        torch.from_numpy(motifs.signs.astype(np.float32)),
        torch.from_numpy(motifs.gains.astype(np.float32)),
    )
    time = torch.arange(traces[0].shape[0], dtype=torch.float64) * dt
    labels = [f"n{i:03d}" for i in range(n_units)]
    return ConnectomeSample([torch.from_numpy(x.astype(np.float32)) for x in traces], time, labels, events, truth)


def roll_units(x: Tensor, *, min_shift: int, generator: torch.Generator) -> Tensor:
    """Roll every unit independently along time: its own dynamics stay, all relations between units go.

    Parameters
    ----------
    x : Tensor, shape (T, N)
        Traces of one animal.
    min_shift : int
        Smallest shift, samples; shifts are uniform in [min_shift, T - min_shift].
    generator : torch.Generator
        On the CPU, so that every device draws the same shifts.

    Returns
    -------
    Tensor, shape (T, N)

    Raises
    ------
    InputError
        If the recording is shorter than two shifts.

    Examples
    --------
    >>> x = torch.arange(10.0).unsqueeze(1)
    >>> rolled = roll_units(x, min_shift=3, generator=torch.Generator().manual_seed(0))
    >>> sorted(rolled.squeeze().tolist()) == x.squeeze().tolist()
    True
    """
    n_time, n_units = x.shape
    if min_shift < 1 or 2 * min_shift > n_time:
        raise InputError(
            explain("roll_units", expected="1 <= min_shift <= T / 2", got=f"min_shift={min_shift}, T={n_time}")
        )
    shifts = torch.randint(min_shift, n_time - min_shift + 1, (n_units,), generator=generator).to(x.device)
    source = (torch.arange(n_time, device=x.device).unsqueeze(1) - shifts) % n_time
    return x.gather(0, source)
