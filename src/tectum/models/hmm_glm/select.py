"""How many states: the predictive log-likelihood of held-out sequences, and the smallest number that is as good."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.random import generator, spawn
from .fitting import Family, Problem, Save, Starts, best_starts, posterior_of, search


class StateReport(NamedTuple):
    """Held-out scores of numbers of states; G candidates."""

    grid: Tensor
    """(G,) int64 numbers of states."""
    held_out: Tensor
    """(G,) mean predictive log-likelihood of held-out sequences, nats per bin."""
    error: Tensor
    """(G,) standard error of the difference from the best, over sequences; 0 for the best itself."""
    chosen: int


def score_numbers(
    problem: Problem, family: Family, *, grid: Sequence[int], folds: int, n_lags: int, n_starts: int, tol: float,
    seed: int, save: Save,
) -> StateReport:  # fmt: skip
    """Fit every number of states to training folds and score the sequences left out.

    Whole sequences are left out. A single sequence is first cut into blocks, of which the first ``n_lags`` bins, whose
    history lies in the block before, are dropped. Numbers are fitted from the largest down, each also from the next
    larger fit without one of its states: a poor optimum at the true number would make one state more look better.

    Parameters
    ----------
    problem, family
        Data and model.
    grid : sequence of int
        Candidates.
    folds : int
        Number of folds, at most one a sequence.
    n_lags : int
        Bins of history.
    n_starts, tol, seed, save
        See `fitting.search`.

    Returns
    -------
    StateReport
        ``chosen`` is the smallest number whose score is within one standard error of the best one's, the error being
        that of the paired difference over sequences.
    """
    grid, parts = sorted(set(grid)), _sequences(problem, folds, n_lags)
    n_sequences = len(parts.spikes)
    order = torch.randperm(n_sequences, generator=generator(spawn(seed, "folds"))).tolist()
    tests = [order[k :: min(folds, n_sequences)] for k in range(min(folds, n_sequences))]
    scores = torch.zeros(len(grid), n_sequences, dtype=torch.float64, device="cpu")
    for k, test in enumerate(tests):
        train, held = _rows(parts, [i for i in range(n_sequences) if i not in test]), _rows(parts, test)
        larger: Starts | None = None
        for g, n_states in reversed(list(enumerate(grid))):
            name = f"{n_states}-states-fold-{k}"
            extra = None if larger is None else without_each(train, larger, family, n_states=n_states)
            found, _ = search(train, family, n_states=n_states, n_starts=n_starts, tol=tol, seed=spawn(seed, name),
                              save=_named(save, name), extra=extra)  # fmt: skip
            larger = best_starts(found, 1)
            likelihood = posterior_of(held, larger, family).log_likelihood[0]
            scores[g, test] = (likelihood / _bins(held)).double().cpu()
    return choose(torch.tensor(grid), scores)


def without_each(problem: Problem, larger: Starts, family: Family, *, n_states: int) -> Tensor:
    """Weights of a larger fit without each of its states in turn, its rarest left out first if there are many.

    Where random starts at ``n_states`` miss one of the states, a larger fit has a place to spare and often holds
    all states; without its spare one it is a better start.

    Returns
    -------
    Tensor
        (n_states + 1, n_states, N, P).
    """
    occupied = posterior_of(problem, larger, family).probabilities[0].sum((0, 1))
    rest = occupied.argsort(descending=True, stable=True)[: n_states + 1]
    others = ~torch.eye(n_states + 1, dtype=torch.bool, device=rest.device)
    return larger.weights[0][rest.expand(n_states + 1, -1)[others].reshape(n_states + 1, n_states)]


def choose(grid: Tensor, scores: Tensor) -> StateReport:
    """Apply the one-standard-error rule to scores (G, sequence).

    Examples
    --------
    >>> choose(torch.tensor([1, 2, 3]), torch.tensor([[0.0, 0.1], [1.0, 1.2], [1.1, 1.1]])).chosen
    2
    """
    mean = scores.mean(1)
    best = int(mean.argmax())
    less = scores[best] - scores  # (G, sequence)
    error = less.std(1) / less.shape[1] ** 0.5 if less.shape[1] > 1 else torch.zeros_like(mean)
    good = less.mean(1) <= error
    return StateReport(grid, mean, error, int(grid[good].min()))


def _named(save: Save, name: str) -> Save:
    return lambda stage: save(f"{name}-{stage}")


def _sequences(problem: Problem, folds: int, n_lags: int) -> Problem:
    """Return several sequences as they are, and a single one in blocks."""
    if len(problem.spikes) > 1:
        return problem
    length = problem.spikes.shape[1] // folds

    def cut(x: Tensor) -> Tensor:
        return torch.cat([x[:, k * length + n_lags : (k + 1) * length] for k in range(folds)])

    mask = None if problem.mask is None else cut(problem.mask)
    return Problem(cut(problem.design), cut(problem.spikes), mask, None)


def _rows(problem: Problem, rows: Sequence[int]) -> Problem:
    index = torch.tensor(list(rows)).to(problem.spikes.device)
    design, spikes, mask, lengths = (None if t is None else t[index] for t in problem)
    assert design is not None
    assert spikes is not None
    return Problem(design, spikes, mask, lengths)


def _bins(problem: Problem) -> Tensor:
    """Bins of every sequence, (B,)."""
    if problem.lengths is not None:
        return problem.lengths
    return torch.full_like(problem.spikes[:, 0, 0], problem.spikes.shape[1])
