"""Spike counts of units whose couplings switch with a hidden state: ground truth for the switching GLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.errors import InputError, explain
from ...core.random import resolve_seed


class SwitchingTruth(NamedTuple):
    """What the simulated counts were made from."""

    states: Tensor
    """(sequence, time) int64 hidden state of every bin."""
    coupling: Tensor
    """(state, target unit, source unit) float64 weights."""
    adjacency: Tensor
    """(state, target unit, source unit) int64 in {-1, 0, 1}: inhibitory, absent, excitatory."""
    prior: Tensor
    """(target unit, source unit, 3) probability of inhibitory, absent, excitatory, shared by the states."""
    bias: Tensor
    """(unit,) float64, shared by the states."""
    transition: Tensor
    """(state, state) float64, rows sum to 1."""
    filters: Tensor
    """(lag, 1) float64 weights of the past bins."""
    rate: Tensor
    """(sequence, time, unit) float64 expected count of every bin given the past and the state."""


class SwitchingSimulation(NamedTuple):
    """Simulated data with their truth."""

    data: Tensor
    """(sequence, time, unit) int64 counts."""
    truth: SwitchingTruth


Link = Literal["sigmoid", "softplus", "exp"]
_LINKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoid": lambda eta: 1 / (1 + np.exp(-eta)),
    "softplus": lambda eta: np.logaddexp(0, eta),
    "exp": lambda eta: np.exp(np.minimum(eta, 8)),
}


def switching_glm(
    n_units: int = 20,
    n_states: int = 5,
    *,
    n_sequences: int = 50,
    n_time: int = 2000,
    n_lags: int = 5,
    stay: float = 0.98,
    link: Link = "sigmoid",
    bias: float = 0.0,
    random_state: int | None = 0,
) -> SwitchingSimulation:
    """Simulate the design on which the method was published.

    Each ordered pair of units has probabilities of being inhibitory, absent or excitatory, drawn from
    Dirichlet(0.2, 1.6, 0.2); each state draws its own adjacency from them and strengths log(1 + 3u), u ~ U(0, 1).
    Biases are U(-0.05, 0.05) plus ``bias``; the first state is uniform.

    Parameters
    ----------
    n_units, n_states, n_sequences, n_time : int
        Sizes.
    n_lags : int
        Past bins that matter, weighted by exp(-lag) and normalised.
    stay : float
        Probability of keeping the state in a bin, in (0, 1).
    link : {"sigmoid", "softplus", "exp"}
        From drive to expected count per bin.
    bias : float
        Added to every unit's bias; use about -2 for "exp" to stay stable.
    random_state : int, optional
        Seed; ``None`` draws one.

    Returns
    -------
    SwitchingSimulation

    References
    ----------
    Li et al. (2024), ICLR, synthetic experiment.

    Examples
    --------
    >>> sim = switching_glm(n_units=4, n_states=2, n_sequences=3, n_time=50)
    >>> sim.data.shape, sim.truth.coupling.shape
    (torch.Size([3, 50, 4]), torch.Size([2, 4, 4]))
    """
    _check(n_units, n_states, n_sequences, n_time, n_lags, stay, link)
    rng = np.random.default_rng(resolve_seed(random_state))
    prior = rng.dirichlet((0.2, 1.6, 0.2), size=(n_units, n_units))
    chance = rng.random((n_states, n_units, n_units, 1))
    adjacency = (chance > prior.cumsum(-1)[..., :2]).sum(-1) - 1
    coupling = adjacency * np.log1p(3 * rng.random((n_states, n_units, n_units)))
    unit_bias = bias + rng.uniform(-0.05, 0.05, n_units)
    leave = (1 - stay) / max(n_states - 1, 1)
    transition = np.full((n_states, n_states), leave) + (stay - leave) * np.eye(n_states) if n_states > 1 else np.eye(1)
    filters = np.exp(-np.arange(1.0, n_lags + 1))
    filters /= filters.sum()
    states = _chain(rng, transition, n_sequences, n_time)
    counts, rate = _counts(rng, states, coupling, unit_bias, filters, _LINKS[link])
    kept = (states, coupling, adjacency, prior, unit_bias, transition, filters[:, None], rate)
    return SwitchingSimulation(torch.from_numpy(counts), SwitchingTruth(*(torch.from_numpy(v) for v in kept)))


def _chain(rng: np.random.Generator, transition: np.ndarray, n_sequences: int, n_time: int) -> np.ndarray:
    """Draw state sequences whose first state is uniform, (sequence, time)."""
    states = np.empty((n_sequences, n_time), dtype=np.int64)
    states[:, 0] = rng.integers(len(transition), size=n_sequences)
    reached, chance = transition.cumsum(1)[:, :-1], rng.random((n_sequences, n_time, 1))
    for t in range(1, n_time):
        states[:, t] = (chance[:, t] > reached[states[:, t - 1]]).sum(1)
    return states


def _counts(
    rng: np.random.Generator,
    states: np.ndarray,
    coupling: np.ndarray,
    bias: np.ndarray,
    filters: np.ndarray,
    link: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Draw counts bin by bin, all sequences at once: (sequence, time, unit) counts and rates."""
    n_sequences, n_time = states.shape
    n_lags = len(filters)
    counts = np.zeros((n_sequences, n_time + n_lags, len(bias)), dtype=np.int64)
    rate = np.empty((n_sequences, n_time, len(bias)))
    for t in range(n_time):
        history = np.einsum("k,bkn->bn", filters[::-1], counts[:, t : t + n_lags])
        drive = bias + np.einsum("bij,bj->bi", coupling[states[:, t]], history)
        rate[:, t] = link(drive)
        counts[:, t + n_lags] = rng.poisson(rate[:, t])
    return counts[:, n_lags:].copy(), rate


def _check(n_units: int, n_states: int, n_sequences: int, n_time: int, n_lags: int, stay: float, link: str) -> None:
    sizes = {"n_units": n_units, "n_states": n_states, "n_sequences": n_sequences, "n_time": n_time, "n_lags": n_lags}
    for name, value in sizes.items():
        if value < 1:
            raise InputError(explain(f"switching_glm: {name}", expected="at least 1", got=str(value)))
    if not 0 < stay < 1:
        raise InputError(explain("switching_glm: stay", expected="in (0, 1)", got=str(stay)))
    if link not in _LINKS:
        raise InputError(explain("switching_glm: link", expected=" or ".join(_LINKS), got=repr(link)))
