"""Weighted graphs with known communities: planted blocks and the LFR benchmark."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...core.errors import InputError, explain
from ...core.random import generator, resolve_seed, spawn

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class GraphTruth(NamedTuple):
    """What a simulated graph was made from."""

    blocks: Tensor  # (n_units,) int64
    n_blocks: int


class GraphSim(NamedTuple):
    """A simulated weighted graph and its truth."""

    data: Tensor  # (n_units, n_units) float64, symmetric, 0 = no edge, zero diagonal
    truth: GraphTruth


_DEFAULT_WEIGHTS = {"lognormal": (0.6, 0.0, 0.5), "normal": (2.0, 1.5, 0.4), "exp": (2.0, 1.0, 0.0)}


def planted_partition(
    *,
    n_units: int = 100,
    n_blocks: int = 4,
    p_inside: float = 0.5,
    p_between: float = 0.35,
    weights: str = "lognormal",
    location_inside: float | None = None,
    location_between: float | None = None,
    spread: float | None = None,
    random_state: int | None = 0,
) -> GraphSim:
    """Simulate equal blocks that differ from their surround in edge probability and in edge weight.

    Parameters
    ----------
    n_units, n_blocks : int, default 100 and 4
        Units, and blocks of (nearly) equal size in random order.
    p_inside, p_between : float, default 0.5 and 0.35
        Edge probability inside and between blocks.
    weights : {"lognormal", "normal", "exp"}, default "lognormal"
        Weight family.
    location_inside, location_between : float, optional
        Mean of ln weight (lognormal), mean weight (normal, exp); defaults 0.6 and 0, 2.0 and 1.5, 2 and 1.
    spread : float, optional
        Standard deviation of ln weight (default 0.5) or of the weight (normal, default 0.4); unused by exp.
    random_state : int or None, default 0
        Seed; None draws entropy.

    Returns
    -------
    GraphSim
        `data` (n_units, n_units) float64 and `truth.blocks` (n_units,).

    Raises
    ------
    InputError
        If a probability, a count or the family is not as described.

    Examples
    --------
    >>> sim = planted_partition(n_units=20, n_blocks=2)
    >>> sim.data.shape, sim.truth.blocks.bincount().tolist()
    (torch.Size([20, 20]), [10, 10])
    """
    if weights not in _DEFAULT_WEIGHTS:
        raise InputError(
            explain("planted_partition", expected=f"weights in {tuple(_DEFAULT_WEIGHTS)}", got=repr(weights))
        )
    if not (0 <= p_inside <= 1 and 0 <= p_between <= 1 and 1 <= n_blocks <= n_units):
        got = f"p_inside={p_inside}, p_between={p_between}, n_blocks={n_blocks}, n_units={n_units}"
        expected = "probabilities in [0, 1] and 1 <= n_blocks <= n_units"
        raise InputError(explain("planted_partition", expected=expected, got=got))
    given, default = (location_inside, location_between, spread), _DEFAULT_WEIGHTS[weights]
    inside, between, width = (d if g is None else g for g, d in zip(given, default, strict=True))
    stream = generator(spawn(resolve_seed(random_state), "planted_partition"))
    blocks = (torch.arange(n_units) * n_blocks // n_units)[torch.randperm(n_units, generator=stream)]
    same = blocks[:, None] == blocks
    edge = torch.rand(n_units, n_units, generator=stream, dtype=torch.float64) < torch.where(same, p_inside, p_between)
    location = torch.where(same, inside, between).double()
    upper = torch.triu(_draw_weights(weights, location, width, stream) * edge, 1)
    return GraphSim(upper + upper.T, GraphTruth(blocks, n_blocks))


def _draw_weights(family: str, location: Tensor, width: float, stream: torch.Generator) -> Tensor:
    """Draw one weight of a family at every location."""
    if family == "exp":
        uniform = torch.rand(location.shape, generator=stream, dtype=location.dtype)
        return -torch.log1p(-uniform) * location
    values = location + width * torch.randn(location.shape, generator=stream, dtype=location.dtype)
    return values.exp() if family == "lognormal" else values


def weighted_lfr(
    *,
    n_units: int = 125,
    mean_degree: float = 25.0,
    max_degree: int = 100,
    mixing: float = 0.5,
    weight_mixing: float = 0.5,
    degree_exponent: float = 2.0,
    size_exponent: float = 1.0,
    strength_exponent: float = 2.0,
    min_size: int | None = None,
    max_size: int | None = None,
    random_state: int | None = 0,
) -> GraphSim:
    """Simulate the weighted LFR benchmark: power-law degrees, power-law community sizes, mixed edges and weights.

    Degrees follow k**-degree_exponent, community sizes s**-size_exponent; a unit has a share `mixing` of its edges,
    and a share `weight_mixing` of its strength k**strength_exponent, outside its community. Edges are wired to the
    prescribed degrees and randomised by degree-preserving swaps; weights are scaled until strengths are met.

    Parameters
    ----------
    n_units : int, default 125
        Units (N).
    mean_degree, max_degree : float and int, default 25 and 100
        Mean and largest degree (k, maxk).
    mixing, weight_mixing : float, default 0.5
        Share of edges (mu_t) and of strength (mu_w) between communities, in [0, 1).
    degree_exponent, size_exponent : float, default 2 and 1
        Exponents of the degree (t1) and community-size (t2) distributions.
    strength_exponent : float, default 2
        Strength is degree to this power (beta).
    min_size, max_size : int, optional
        Community sizes; defaults are the smallest and the largest degree.
    random_state : int or None, default 0
        Seed; None draws entropy.

    Returns
    -------
    GraphSim
        `data` (n_units, n_units) float64 and `truth.blocks` (n_units,).

    Raises
    ------
    InputError
        If the parameters contradict each other.

    References
    ----------
    Lancichinetti and Fortunato, Physical Review E 80, 2009, 016118.

    Examples
    --------
    >>> sim = weighted_lfr(n_units=60, mean_degree=10, max_degree=30)
    >>> sim.data.shape, bool((sim.data == sim.data.T).all())
    (torch.Size([60, 60]), True)
    """
    _check_lfr(n_units, mean_degree, max_degree, (mixing, weight_mixing), (min_size or 2, max_size or n_units))
    rng = np.random.default_rng(spawn(resolve_seed(random_state), "weighted_lfr"))
    degrees = _degrees(rng, n_units, mean_degree, max_degree, degree_exponent)
    low, high = min_size or max(2, int(degrees.min())), max_size or max(2, int(degrees.max()))
    inside = _round_random(rng, (1 - mixing) * degrees.astype(np.float64))
    blocks, inside = _communities(rng, degrees, inside, (min(low, high), high), size_exponent)
    same = blocks[:, None] == blocks
    within, across = _wire(rng, inside, same), _wire(rng, degrees - inside, ~same)
    strength = (within | across).sum(1).astype(np.float64) ** strength_exponent
    weights = _balance(within, (1 - weight_mixing) * strength) + _balance(across, weight_mixing * strength)
    return GraphSim(torch.from_numpy(weights), GraphTruth(torch.from_numpy(blocks), int(blocks.max()) + 1))


def _check_lfr(
    n_units: int, mean_degree: float, max_degree: int, mixing: tuple[float, float], sizes: tuple[int, int]
) -> None:
    """Refuse parameters that contradict each other."""
    if not 1 <= mean_degree <= max_degree < n_units:
        got = f"mean_degree={mean_degree}, max_degree={max_degree}, n_units={n_units}"
        raise InputError(explain("weighted_lfr", expected="1 <= mean_degree <= max_degree < n_units", got=got))
    if not all(0 <= share < 1 for share in mixing):
        got = f"mixing={mixing[0]}, weight_mixing={mixing[1]}"
        raise InputError(explain("weighted_lfr", expected="mixing and weight_mixing in [0, 1)", got=got))
    if not 2 <= sizes[0] <= sizes[1] <= n_units:
        got = f"min_size={sizes[0]}, max_size={sizes[1]}, n_units={n_units}"
        raise InputError(explain("weighted_lfr", expected="2 <= min_size <= max_size <= n_units", got=got))


def _round_random(rng: np.random.Generator, values: Floats) -> Ints:
    """Round up or down at random so that the mean is kept."""
    return np.floor(values + rng.random(values.shape)).astype(np.int64)


def _degrees(rng: np.random.Generator, n_units: int, mean: float, largest: int, exponent: float) -> Ints:
    """Draw degrees from a power law cut at `largest` and, at a possibly fractional value, from below."""
    support = np.arange(1, largest + 1)

    def law(smallest: float) -> Floats:
        mass = support.astype(np.float64) ** -exponent * np.clip(support + 1 - smallest, 0, 1)
        share: Floats = mass / mass.sum()
        return share

    low, high = 1.0, float(largest)
    for _ in range(60):  # the mean grows with the lower cut: bisect
        middle = (low + high) / 2
        low, high = (middle, high) if law(middle) @ support < mean else (low, middle)
    return rng.choice(support, n_units, p=law((low + high) / 2))


def _communities(
    rng: np.random.Generator, degrees: Ints, inside: Ints, limits: tuple[int, int], exponent: float
) -> tuple[Ints, Ints]:
    """Draw communities until none has more outer edge ends than all others together (then they cannot be wired)."""
    for _ in range(200):
        sizes = _community_sizes(rng, len(degrees), *limits, exponent)
        blocks, clipped = _assign(rng, inside, sizes)
        outer = np.bincount(blocks, degrees - clipped)
        if 2 * outer.max() <= outer.sum():
            break
    return blocks, clipped


def _community_sizes(rng: np.random.Generator, n_units: int, low: int, high: int, exponent: float) -> Ints:
    """Draw community sizes from a power law until they hold all units, then trim to the exact number."""
    support = np.arange(low, high + 1)
    mass = support.astype(np.float64) ** -exponent
    for _ in range(1000):
        drawn = rng.choice(support, n_units // low + 1, p=mass / mass.sum())
        sizes = drawn[: int(np.searchsorted(drawn.cumsum(), n_units)) + 1]
        excess = int(sizes.sum()) - n_units
        while excess and (sizes > low).any():
            spare = np.flatnonzero(sizes > low)
            sizes[rng.choice(spare)] -= 1
            excess -= 1
        if not excess:
            return sizes
    got = f"min_size={low}, max_size={high}, n_units={n_units}"
    raise InputError(explain("weighted_lfr", expected="sizes that can add up to n_units", got=got))


def _assign(rng: np.random.Generator, inside: Ints, sizes: Ints) -> tuple[Ints, Ints]:
    """Place units, busiest first, in communities larger than their inner degree, else clip the degree."""
    blocks, inside, room = np.empty(len(inside), dtype=np.int64), inside.copy(), sizes.copy()
    for unit in np.lexsort((rng.random(len(inside)), -inside)):
        fitting = np.repeat(np.arange(len(sizes)), room * (sizes > inside[unit]))
        block = rng.choice(fitting) if len(fitting) else int(np.argmax(np.where(room > 0, sizes, -1)))
        blocks[unit] = block
        room[block] -= 1
        inside[unit] = min(inside[unit], sizes[block] - 1)
    return blocks, inside


def _wire(rng: np.random.Generator, degrees: Ints, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Make a random simple graph with (nearly) given degrees and edges only where they are allowed."""
    left, edges = degrees.copy(), np.zeros(allowed.shape, dtype=np.bool_)
    np.fill_diagonal(allowed := allowed.copy(), False)
    while (left > 0).any():
        unit = int(np.argmax(left))
        candidates = np.flatnonzero(allowed[unit] & ~edges[unit] & (left > 0))
        order = np.lexsort((rng.random(len(candidates)), -left[candidates]))
        partners = candidates[order[: left[unit]]]
        edges[unit, partners] = edges[partners, unit] = True
        left[partners] -= 1
        left[unit] = 0
    return _swap(rng, edges, allowed)


def _swap(rng: np.random.Generator, edges: NDArray[np.bool_], allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Randomise a graph by exchanging the ends of edge pairs, which keeps every degree."""
    ends = np.argwhere(np.triu(edges)).tolist()
    if len(ends) < 2:
        return edges
    for first, second in rng.integers(0, len(ends), (10 * len(ends), 2)).tolist():
        (a, b), (c, d) = ends[first], ends[second]
        if a == d or b == c or edges[a, d] or edges[c, b] or not (allowed[a, d] and allowed[c, b]):
            continue
        edges[a, b] = edges[b, a] = edges[c, d] = edges[d, c] = False
        edges[a, d] = edges[d, a] = edges[c, b] = edges[b, c] = True
        ends[first], ends[second] = [d, a], [c, b]  # turned round: later swaps can pair the ends the other way
    return edges


def _balance(edges: NDArray[np.bool_], strength: Floats, n_iterations: int = 100) -> Floats:
    """Weight edges as products of unit factors whose row sums approach the given strengths.

    Where strengths cannot be met (a hub among weak partners) a factor stays within a threefold range of strength per
    edge, so that no weight vanishes.
    """
    degree = edges.sum(1)
    ratio = np.where(degree > 0, strength / np.maximum(degree, 1), 0.0)
    ratio = ratio / np.sqrt(max(ratio[degree > 0].mean(), 1e-300)) if degree.any() else ratio
    factor = ratio
    for _ in range(n_iterations):
        reached = factor * (edges @ factor)
        factor = factor * np.sqrt(np.divide(strength, reached, out=np.ones_like(strength), where=reached > 0))
        factor = np.clip(factor, ratio / 3, ratio * 3)
    return np.where(edges, np.outer(factor, factor), 0.0)
