"""The loop over sweeps of the non-negative CP solvers, and two solvers beside HALS: imputation and bounded L-BFGS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..core.loops import em
from ..core.random import generator, spawn
from ._nncp import (
    CHECK_EVERY,
    Data,
    Factors,
    State,
    animal_gram,
    balance,
    begin,
    hals_sweep,
    norms,
    outer_rows,
    pair_gram_of,
    project,
    residual,
    self_gram,
    time_gram_of,
    update,
)

Tree = TypeVar("Tree", bound=tuple[Any, ...])
PATIENCE = 3  # small decreases running that end a quasi-Newton search


class Solver(NamedTuple):
    """How to start, how to sweep, and below which relative error the sweep's own estimate is not to be trusted."""

    begin: Callable[[Data, Factors], Any]  # -> a named tuple of batched tensors with a field ``factors``
    sweep: Callable[[Data, Any, Tensor], tuple[Any, Tensor]]  # -> next state, squared relative error (S,)
    trusted: float


class Limits(NamedTuple):
    """When a restart ends."""

    tol: float
    min_iter: int
    max_iter: int


class Trace(NamedTuple):
    """What a batch of restarts reached."""

    factors: Factors
    error: Tensor  # (S,)
    history: Tensor  # (S, max_iter), NaN after the last sweep
    sweeps: Tensor  # (S,) int64
    converged: Tensor  # (S,) bool


def take(tree: Tree, index: Tensor) -> Tree:
    """Keep the restarts ``index`` of every tensor of a nested named tuple."""
    return type(tree)(*(take(leaf, index) if isinstance(leaf, tuple) else leaf[index] for leaf in tree))


def fibre_solver(data: Data) -> Solver:
    """Exact weighted HALS."""
    return Solver(begin, hals_sweep, 10 * torch.finfo(data.dtype).eps ** 0.5)


class _Progress:
    """Errors, stops and finished factors of the restarts of one batch."""

    def __init__(self, data: Data, factors: Factors, max_iter: int) -> None:
        starts = factors.pair.shape[0]
        place, real = data.device, data.precise
        self.factors = Factors(*(torch.zeros_like(f) for f in factors))
        self.error = torch.full((starts,), torch.inf, dtype=real, device=place)
        self.history = torch.full((starts, max_iter), torch.nan, dtype=real, device=place)
        self.exact = torch.full((starts,), torch.inf, dtype=real, device=place)  # last explicit residual
        self.since = torch.zeros(starts, dtype=torch.int64, device=data.device)  # sweeps since then
        self.sweeps = torch.zeros(starts, dtype=torch.int64, device=data.device)
        self.revived = torch.zeros(starts, factors.pair.shape[1], dtype=torch.bool, device=data.device)
        self.active = torch.ones(starts, dtype=torch.bool, device=data.device)

    def record(self, index: Tensor, sweep: int, estimate: Tensor, solver: Solver, tol: float, min_iter: int) -> None:
        """Enter the errors of one sweep of the restarts ``index`` and stop those that have settled."""
        active, before = self.active[index], self.error[index]
        trusted = (estimate >= solver.trusted) | torch.isinf(before)
        error = torch.where(active & trusted, estimate, before)
        small = trusted & (before - error < tol)
        self.history[index, sweep] = torch.where(active, error, torch.full_like(error, torch.nan))
        self.error[index] = error
        self.sweeps[index] += active
        self.since[index] += active
        settled = small & (estimate >= solver.trusted) & (sweep + 1 >= min_iter)
        self.active[index] = active & ~settled

    def correct(self, index: Tensor, exact: Tensor, tol: float, min_iter: int) -> None:
        """Replace estimates that rounding has spoilt by explicit residuals ``exact`` and judge the stop by them."""
        slow = (self.exact[index] - exact) / self.since[index].clamp(min=1) < tol
        self.history[index, self.sweeps[index] - 1] = exact
        self.active[index] = ~slow | (self.sweeps[index] < min_iter)
        self.error[index], self.exact[index] = exact, exact
        self.since[index] = 0

    def settle(self, data: Data, solver: Solver) -> None:
        """Report the explicit residual where the estimate may be wrong by a thousandth of itself."""
        low = (self.error < 10 * solver.trusted).nonzero().squeeze(-1)
        if len(low):
            self.error[low] = residual(data, take(self.factors, low))
            self.history[low, self.sweeps[low] - 1] = self.error[low]

    def trace(self) -> Trace:
        """The result; whatever is still active has not converged."""
        return Trace(self.factors, self.error, self.history, self.sweeps, ~self.active)


class _Batch(NamedTuple):
    """The restarts that still move."""

    places: Tensor  # (s,) among all restarts
    state: Any
    sweep: int


def iterate(data: Data, factors: Factors, solver: Solver, limits: Limits, seeds: list[int]) -> Trace:
    """Sweep until every restart has settled; the settled are frozen at once and leave the batch at the next check."""
    tol, min_iter, max_iter = limits
    progress = _Progress(data, factors, max_iter)

    def step(batch: _Batch) -> tuple[_Batch, Tensor]:
        index, state, sweep = batch
        state, square = solver.sweep(data, state, progress.active[index])
        progress.record(index, sweep, square.clamp(min=0).sqrt(), solver, tol, min_iter)
        last = sweep + 1 == max_iter
        if last or (sweep + 1) % CHECK_EVERY == 0:
            _inspect(data, progress, index, state.factors, square, solver, tol, min_iter)
            if not last:
                state = _revive(data, progress, index, state, solver, seeds)
            index, state = _compact(progress, index, state, last)
        return _Batch(index, state, sweep + 1), progress.error

    everyone = torch.arange(factors.pair.shape[0], device=data.device)
    em(
        step,
        _Batch(everyone, solver.begin(data, factors), 0),
        max_iter=max_iter,
        tol=tol,
        check_every=CHECK_EVERY,
        finished=lambda batch: len(batch.places) == 0,
        description="factorising",
    )
    progress.settle(data, solver)
    return progress.trace()


def _inspect(
    data: Data,
    progress: _Progress,
    index: Tensor,
    factors: Factors,
    square: Tensor,
    solver: Solver,
    tol: float,
    least: int,
) -> None:
    """Look at the restarts whose estimated error is below what the dtype can resolve."""
    deep = progress.active[index] & (square < solver.trusted**2)
    chosen = deep.nonzero().squeeze(-1)
    if len(chosen):
        progress.correct(index[chosen], residual(data, take(factors, chosen)), tol, least)


def _revive(data: Data, progress: _Progress, index: Tensor, state: Any, solver: Solver, seeds: list[int]) -> Any:
    """Draw anew, once, every component that has collapsed to zero norm.

    Its time column starts at zero, so that the model is unchanged and the objective cannot rise.
    """
    factors: Factors = state.factors
    dead = collapsed(norms(factors, data.precise).prod(0), data.dtype) & ~progress.revived[index]  # (S, R)
    if not bool(dead.any()):
        return state
    fresh = random_factors(data.shape, factors.pair.shape[1], [spawn(seeds[i], "revive") for i in index.tolist()])
    fresh = Factors(*(f.to(device=data.device, dtype=data.dtype) for f in fresh))
    fresh = fresh._replace(time=torch.zeros_like(fresh.time))
    fresh = observed_rows(data, fresh)
    progress.revived[index] |= dead
    progress.active[index] |= dead.any(-1)
    return solver.begin(
        data, Factors(*(torch.where(dead.unsqueeze(-1), n, f) for n, f in zip(fresh, factors, strict=True)))
    )


def collapsed(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Components whose weights (S, R) are zero, or rounding beside the largest of the restart."""
    return weights <= torch.finfo(dtype).eps * weights.amax(-1, keepdim=True)


def _compact(progress: _Progress, index: Tensor, state: Any, last: bool) -> tuple[Tensor, Any]:
    """Put away the factors of settled restarts (of all when ``last``) and keep the others in the batch."""
    active = progress.active[index]
    done = torch.ones_like(active) if last else ~active
    gone, kept = done.nonzero().squeeze(-1), (~done).nonzero().squeeze(-1)
    for store, factor in zip(progress.factors, state.factors, strict=True):
        store[index[gone]] = factor[gone]
    return (index, state) if not len(gone) else (index[kept], take(state, kept))


def random_factors(shape: tuple[int, int, int], rank: int, seeds: list[int]) -> Factors:
    """Uniform(0, 1) factors, one generator a restart, drawn on the CPU so that every device starts alike."""
    makers = [generator(seed) for seed in seeds]
    drawn = [[torch.rand(rank, size, generator=maker) for size in shape] for maker in makers]
    return Factors(*(torch.stack([start[mode] for start in drawn]) for mode in range(3)))


def observed_rows(data: Data, factors: Factors) -> Factors:
    """Zero the rows of animals and pairs that were never observed: nothing is known of them."""
    if data.mask is None:
        return factors
    animals, pairs = data.mask.amax(1), data.mask.amax(0)
    return factors._replace(animal=factors.animal * animals, pair=factors.pair * pairs)


# ------------------------------------------------------------ imputation (EM-HALS)


class Imputed(NamedTuple):
    """Factors and, for each restart, the tensor with its missing entries filled by the model."""

    factors: Factors
    filled: Tensor  # (S, T W, P)


def em_solver(seen: Tensor) -> Solver:
    """HALS on a tensor whose entries that are not ``seen`` (T W, P) are filled by the model after every mode."""

    def start(data: Data, factors: Factors) -> Imputed:
        return Imputed(factors, _fill(data, factors, seen)[0])

    def sweep(data: Data, state: Imputed, active: Tensor) -> tuple[Imputed, Tensor]:
        return _em_sweep(data, state, active, seen)

    return Solver(start, sweep, 0.0)


def _flat(data: Data) -> Tensor:
    """The scaled tensor (T W, P)."""
    return next(data.blocks(data.shape[2]))[1] / data.scale


def _fill(data: Data, factors: Factors, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Fill the missing entries (S, T W, P) with the model; also the squared relative error (S,) of the others."""
    model = outer_rows(factors.time, factors.animal).flatten(2).mT @ factors.pair  # (S, T W, P)
    filled = torch.where(seen, _flat(data), model)
    lost = torch.linalg.vector_norm(filled - model, dim=(1, 2), dtype=data.precise).square()
    return filled, lost / data.power


def _em_sweep(data: Data, state: Imputed, active: Tensor, seen: Tensor) -> tuple[Imputed, Tensor]:
    """Update the three modes, refilling after each."""
    (time, animal, pair), filled = state
    live = active[:, None, None]
    both = data.shape[:2]
    moments = (pair @ filled.mT).unflatten(-1, both)  # (S, R, T, W)
    gram = self_gram(pair, data.precise)
    own = (moments @ animal.unsqueeze(-1)).squeeze(-1)
    time = torch.where(live, update(time, own, gram * self_gram(animal, data.precise)), time)
    filled, _ = _fill(data, Factors(time, animal, pair), seen)
    moments = (pair @ filled.mT).unflatten(-1, both)
    own = (time.unsqueeze(-2) @ moments).squeeze(-2)
    animal = torch.where(live, update(animal, own, gram * self_gram(time, data.precise)), animal)
    filled, _ = _fill(data, Factors(time, animal, pair), seen)
    gram = self_gram(time, data.precise) * self_gram(animal, data.precise)
    own = outer_rows(time, animal).flatten(2) @ filled  # (S, R, P)
    pair = torch.where(live, update(pair, own, gram), pair)
    factors = Factors(time, animal, pair)
    filled, error = _fill(data, factors, seen)
    empty = State(factors, own.new_zeros(*own.shape[:2], 1, 1), gram)
    return Imputed(balance(data, empty).factors, filled), error


# ------------------------------------------------------------ all factors at once (L-BFGS)


def _pack(factors: Factors) -> Tensor:
    """Join the factors of a restart in one vector (S, R (T + W + P))."""
    return torch.cat(tuple(factors), dim=-1).flatten(1)


def _unpack(data: Data, vector: Tensor) -> Factors:
    """Split the vectors (S, n) into factors."""
    sizes = list(data.shape)
    return Factors(*vector.unflatten(1, (-1, sum(sizes))).split(sizes, dim=-1))


def _value_and_slope(data: Data, factors: Factors) -> tuple[Tensor, Tensor]:
    """Half the squared relative error (S,) and its gradient (S, n); two passes over the blocks."""
    state = begin(data, factors)
    time, animal, pair = factors
    time_gram, own_gram = self_gram(time, data.precise), time_gram_of(state.gram, animal)
    slope_time = own_gram.to(time.dtype) @ time - (state.moments @ animal.unsqueeze(-1)).squeeze(-1)
    weights = animal_gram(state.gram, time_gram).to(time.dtype)
    slope_animal = _apply(weights, animal) - (time.unsqueeze(-2) @ state.moments).squeeze(-2)
    slope_pair, outer, cross = torch.empty_like(pair), outer_rows(time, animal), time_gram.new_zeros(len(pair))
    for where, flat in data.blocks(data.width(len(pair) * pair.shape[1] * (pair.shape[1] + 4) * 8)):
        numerator, block = project(data, outer, flat) / data.scale, pair[..., where]
        weights = pair_gram_of(data, time_gram, animal, where).to(pair.dtype)
        slope_pair[..., where] = _apply(weights, block) - numerator
        cross += (block.to(data.precise) * numerator.to(data.precise)).sum((1, 2))
    value = (data.power - 2 * cross + (time_gram * own_gram).sum((1, 2))) / (2 * data.power)
    return value, _pack(Factors(slope_time, slope_animal, slope_pair)) / data.power


def _apply(gram: Tensor, factor: Tensor) -> Tensor:
    """Gram (S, R, R) or per row (S, R, R, n) times factor (S, R, n)."""
    return gram @ factor if gram.dim() == 3 else (gram * factor.unsqueeze(1)).sum(2)


def cp_opt(data: Data, factors: Factors, limits: Limits) -> Trace:
    """Bounded L-BFGS on all factors of each restart: value and gradient on the device, search on the host."""
    starts, where, real = factors.pair.shape[0], data.device, data.precise
    history = torch.full((starts, limits.max_iter), torch.nan, dtype=real, device=where)
    ends, sweeps, converged = [], [], []
    for i in range(starts):
        one = Factors(*(f[i : i + 1] for f in factors))
        end, errors, settled = _search(data, one, limits)
        history[i, : len(errors)] = torch.tensor(errors, dtype=real, device=where)
        ends.append(end)
        sweeps.append(len(errors))
        converged.append(settled)
    final = Factors(*(torch.cat(parts) for parts in zip(*ends, strict=True)))
    counts, done = torch.tensor(sweeps, device=where), torch.tensor(converged, device=where)
    return Trace(final, residual(data, final), history, counts, done)


def _search(data: Data, factors: Factors, limits: Limits) -> tuple[Factors, list[float], bool]:
    """One bounded search; it ends when the error has decreased by less than the tolerance `PATIENCE` times running."""
    from scipy.optimize import minimize

    tol, min_iter, max_iter = limits
    errors: list[float] = []
    small = [0]

    def objective(vector: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.as_tensor(vector, dtype=data.dtype).unsqueeze(0).to(data.device)
        value, slope = _value_and_slope(data, _unpack(data, point))
        return float(value) * data.power, slope[0].double().cpu().numpy() * data.power

    def watch(intermediate_result: Any) -> None:
        errors.append(max(2 * intermediate_result.fun / data.power, 0.0) ** 0.5)
        slow = len(errors) > 1 and errors[-2] - errors[-1] < tol
        small[0] = small[0] + 1 if slow else 0
        if small[0] >= PATIENCE and len(errors) >= min_iter:
            raise StopIteration

    start = _pack(factors)[0].double().cpu().numpy()
    options = {"maxiter": max_iter, "maxfun": 20 * max_iter, "ftol": 0.0, "gtol": 0.0}
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * len(start), callback=watch, options=options
    )
    done = small[0] >= PATIENCE or len(errors) < max_iter
    return _unpack(data, torch.as_tensor(found.x, dtype=data.dtype).unsqueeze(0).to(data.device)), errors, done
