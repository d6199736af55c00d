"""Counts of units in groups that share latent paths, whose dynamics switch with a hidden state."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.errors import InputError, explain
from ...core.random import resolve_seed
from ...core.recording import Recording


class BiclusterTruth(NamedTuple):
    """What the simulated counts were made from."""

    clusters: Tensor
    """(unit,) int64 group of every unit."""
    states: Tensor
    """(time,) int64 state of every bin."""
    log_rate: Tensor
    """(time, unit) float64 log of the expected count."""
    path: Tensor
    """(cluster, time, 1 + p) float64 level and factors of every group."""
    loadings: Tensor
    """(unit, 1 + p) float64 level d and loadings c of every unit."""
    dispersion: float
    """Negative binomial r; infinite for Poisson counts."""
    transition: Tensor
    """(state, cluster, 1 + p, cluster, 1 + p) float64 A of the stacked paths, driven before driving group."""


class BiclusterSimulation(NamedTuple):
    """Simulated data with their truth."""

    data: Recording
    """(time, unit) counts."""
    truth: BiclusterTruth


Design = Literal["rotation", "published"]


def biclusters(
    n_clusters: int = 3,
    units_per_cluster: int = 15,
    *,
    n_states: int = 2,
    n_factors: int = 2,
    n_time: int = 600,
    design: Design = "rotation",
    coupling: float = 0.0,
    dispersion: float = 10.0,
    dt: float = 0.5,
    random_state: int | None = 0,
) -> BiclusterSimulation:
    """Simulate groups of units with shared paths, whose dynamics switch between states.

    In ``"rotation"`` every state but the first rotates the path of each group slowly in a plane of its own (the first
    lets it decay into weak noise), with dwell times of 40 to 60 bins. ``"published"`` is the design of the paper: two
    states, weak white noise or an expanding rotation by pi / 20, Poisson dwell times of mean 50, the second half of
    twice as many bins.

    Parameters
    ----------
    n_clusters, units_per_cluster : int
        Groups and units in each.
    n_states : int
        States of the dynamics; 1 or 2 (the published design has 2).
    n_factors : int
        Factors p of a group's path besides its level.
    n_time : int
        Bins.
    design : {"rotation", "published"}
        Which world.
    coupling : float
        Share of the first group's path that is added to the next step of the second group's in the rotating state;
        only for ``"rotation"``.
    dispersion : float
        Negative binomial r; ``inf`` gives Poisson counts.
    dt : float
        Width of a bin in s.
    random_state : int or None
        Seed; None draws one.

    Returns
    -------
    BiclusterSimulation

    Raises
    ------
    InputError
        Sizes below 1, or a number of states or a coupling the design does not have.

    References
    ----------
    Wei (2024), Bayesian bi-clustering of neural spiking activity with latent structures, ICLR; arXiv 2309.02213.

    Examples
    --------
    >>> sim = biclusters(units_per_cluster=4, n_time=100)
    >>> sim.data.sizes, sim.truth.path.shape
    ({'time': 100, 'unit': 12}, torch.Size([3, 100, 3]))
    """
    _check(n_clusters, units_per_cluster, n_states, n_factors, n_time, design)
    rng = np.random.default_rng(resolve_seed(random_state))
    if coupling and (design != "rotation" or n_clusters < 2):
        raise InputError(explain("biclusters: coupling", expected="0, or two groups or more in design 'rotation'",
                                 got=f"{coupling:g}, {n_clusters} groups, {design!r}"))  # fmt: skip
    if design == "rotation":
        states, path, moves = _rotation(rng, n_clusters, n_states, n_factors, n_time, coupling)
    else:
        states, path, moves = _published(rng, n_clusters, n_factors, n_time)
    path = path - path.mean(1, keepdims=True)
    clusters = np.repeat(np.arange(n_clusters), units_per_cluster)
    n_units = len(clusters)
    level = rng.normal(1.1, 0.3, n_units) if design == "rotation" else rng.normal(0, 0.5, n_units)
    loadings = rng.normal(0, 0.8 if design == "rotation" else 0.5, (n_units, n_factors))
    own = path[clusters]  # (unit, time, 1 + p)
    eta = np.clip(level[:, None] + own[..., 0] + np.einsum("np,ntp->nt", loadings, own[..., 1:]), -6, 5)
    rate = np.exp(eta)
    if math.isfinite(dispersion):
        rate = rng.gamma(dispersion, rate / dispersion)
    counts = rng.poisson(rate).astype(np.int32)
    made = Recording(
        data=torch.from_numpy(counts.T.copy()), dims=("time", "unit"), rate=1 / dt, units="spikes/bin",
        modality="spikes", subject="sim", coords={"unit": {"name": [f"u{i:03d}" for i in range(n_units)]}},
    )  # fmt: skip
    both = np.concatenate([level[:, None], loadings], 1)
    labels, modes, drive, paths, rows = (torch.from_numpy(x) for x in (clusters, states, eta.T.copy(), path, both))
    full = torch.from_numpy(_stacked(moves, coupling, n_states))
    return BiclusterSimulation(made, BiclusterTruth(labels, modes, drive, paths, rows, dispersion, full))


Moves = list[tuple[np.ndarray, np.ndarray]]  # of every group: A of the resting and of the moving state


def _rotation(
    rng: np.random.Generator, n_clusters: int, n_states: int, p: int, n_time: int, coupling: float
) -> tuple[np.ndarray, np.ndarray, Moves]:
    """States in turn for 40 to 60 bins; the second state rotates the path of every group."""
    states = _in_turn(rng, n_time, n_states, lambda: int(rng.integers(40, 61)))
    if n_states == 1:
        states = np.ones_like(states)  # the moving state alone
    path, moves = np.empty((n_clusters, n_time, p + 1)), []
    for j in range(n_clusters):
        turn, _ = np.linalg.qr(rng.normal(size=(p + 1, p + 1)))
        core = np.diag(np.full(p + 1, 0.9))
        core[:2, :2] = _plane(2 * np.pi / rng.uniform(25, 45))
        moves.append((0.3 * np.eye(p + 1), 0.995 * turn @ core @ turn.T))
        driver = coupling * path[0] * (np.roll(states, -1) == 1)[:, None] if j == 1 else np.zeros((n_time, p + 1))
        path[j] = _walk(rng, states, moves[j], (0.05, 0.12), driver)
    return (np.zeros_like(states) if n_states == 1 else states), path, moves


def _published(rng: np.random.Generator, n_clusters: int, p: int, n_time: int) -> tuple[np.ndarray, np.ndarray, Moves]:
    """White noise of variance 0.01, or an expanding rotation; the second half is kept."""
    states = _in_turn(rng, 2 * n_time, 2, lambda: int(rng.poisson(50)))
    path, moves = np.empty((n_clusters, 2 * n_time, p + 1)), []
    for j in range(n_clusters):
        turn, _ = np.linalg.qr(rng.normal(size=(p + 1, p + 1)))
        core = np.eye(p + 1)
        core[:2, :2] = _plane(np.pi / 20)
        moves.append((0.01 * np.eye(p + 1), 1.01 * turn @ core @ turn.T))
        path[j] = _walk(rng, states, moves[j], (0.1, 0.1), np.zeros((2 * n_time, p + 1)))
    return states[n_time:], path[:, n_time:], moves


def _stacked(moves: Moves, coupling: float, n_states: int) -> np.ndarray:
    """Transition matrix of all groups: (state, cluster, 1 + p, cluster, 1 + p)."""
    k, q = len(moves), len(moves[0][0])
    full = np.zeros((2, k, q, k, q))
    for j, own in enumerate(moves):
        full[:, j, :, j] = own
    if coupling:
        full[1, 1, :, 0] = coupling * np.eye(q)
    return full[2 - n_states :]


def _plane(angle: float) -> np.ndarray:
    """Rotation of a plane."""
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _in_turn(rng: np.random.Generator, n_time: int, n_states: int, dwell: object) -> np.ndarray:
    """States 0, 1, ... in turn, each for a drawn number of bins."""
    found: list[int] = []
    state = 0
    while len(found) < n_time:
        found += [state] * max(1, dwell())  # type: ignore[operator]
        state = (state + 1) % n_states
    return np.asarray(found[:n_time], dtype=np.int64)


def _walk(
    rng: np.random.Generator, states: np.ndarray, moves: tuple[np.ndarray, np.ndarray], noise: tuple[float, float],
    driver: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Path of one group, (time, 1 + p); ``driver`` of a bin is added to the next."""
    q = len(moves[0])
    path = np.empty((len(states), q))
    path[0] = rng.normal(0, 0.3, q)
    for t in range(1, len(states)):
        path[t] = moves[states[t]] @ path[t - 1] + driver[t - 1] + rng.normal(0, noise[states[t]], q)
    return path


def _check(n_clusters: int, units: int, n_states: int, n_factors: int, n_time: int, design: str) -> None:
    """Refuse sizes the designs do not have."""
    sizes = {"n_clusters": n_clusters, "units_per_cluster": units, "n_factors": n_factors, "n_time": n_time}
    for name, value in sizes.items():
        if value < 1:
            raise InputError(explain(f"biclusters: {name}", expected="at least 1", got=str(value)))
    if design not in ("rotation", "published"):
        raise InputError(explain("biclusters: design", expected="'rotation' or 'published'", got=repr(design)))
    if n_states not in ((1, 2) if design == "rotation" else (2,)):
        expected = "1 or 2" if design == "rotation" else "2"
        raise InputError(explain("biclusters: n_states", expected=expected, got=str(n_states)))
