"""Hidden Markov models with a finite number of states: filter, smoother, most likely path and posterior samples.

The model is ``z_1 ~ initial``, ``z_t | z_{t-1} = i ~ transition[i]`` and an observation at every step that enters only
through its log-likelihood under each state, so every emission family uses the same functions. All arithmetic is done on
logarithms: structural zeros of the transitions (``-inf``) and emissions that differ by thousands of nats are exact.

Every function exists in two forms that give the same result. ``"sequential"`` is a loop over time, O(T K^2) work;
``"parallel"`` is an associative scan, O(T K^3) work in O(log T) steps. ``"auto"`` takes the faster by size and device;
for the smoother on a CPU this is a third one, in plain numbers (`hmm_blocked`), where every state can follow every
state.

Leading axes (chains, restarts, trials) are batch axes. Trials of unequal length are padded and described by
``lengths``; bins without observation are described by ``mask`` (the state goes on, the emission is dropped).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..core.device import highest_precision
from ..core.errors import InputError, explain
from .hmm_blocked import smooth_blocked
from .hmm_layout import Chain, blank, make_chain, restore
from .semiring import (
    Algebra,
    exclusive_scan,
    log_sum,
    map_algebra,
    matrix_algebra,
    max_sum,
    scaled_algebra,
    scaled_matrices,
)

Form = Literal["auto", "sequential", "parallel"]

_CHUNK = 1 << 17  # elements of (time x K x K) temporaries
_STEP_COST = 8_000  # one step of the sequential form costs as much as this many terms of the scan (CPU)
_DENSE = -100.0  # least log transition probability for which matrices may be products of plain numbers
_SCAN_MEMORY = 1 << 28  # largest number of scan elements worth holding on an accelerator


class Filtered(NamedTuple):
    """Causal posterior, without the future. Entries beyond a sequence's length are ``-inf`` (increments 0)."""

    log_filtered: Tensor
    """(..., T, K): log p(z_t = k | x_1..x_t)."""
    log_predicted: Tensor
    """(..., T, K): log p(z_t = k | x_1..x_{t-1}); at t = 1 the initial distribution."""
    log_increments: Tensor
    """(..., T): log p(x_t | x_1..x_{t-1}), the one-step predictive log-likelihood in nats."""
    log_likelihood: Tensor
    """(...): log p(x_1..x_T), the states summed out."""


class Smoothed(NamedTuple):
    """Posterior given the whole sequence. Entries beyond a sequence's length are 0."""

    probabilities: Tensor
    """(..., T, K): p(z_t = k | x_1..x_T)."""
    transitions: Tensor
    """(..., K, K): sum over t of p(z_{t-1} = i, z_t = j | x_1..x_T), the expected number of transitions."""
    pairwise: Tensor | None
    """(..., T-1, K, K): p(z_t = i, z_{t+1} = j | x_1..x_T); ``None`` unless asked for."""
    log_increments: Tensor
    """(..., T): log p(x_t | x_1..x_{t-1})."""
    log_likelihood: Tensor
    """(...): log p(x_1..x_T), the states summed out."""


class MostLikely(NamedTuple):
    """Mode of the joint posterior of the path (Viterbi), not the sequence of marginal modes."""

    path: Tensor
    """(..., T) int64: argmax over z_1..z_T of p(z_1..z_T | x_1..x_T); -1 beyond a sequence's length."""
    log_joint: Tensor
    """(...): log p(path, x_1..x_T)."""


def forward(
    log_initial: Tensor,
    log_transition: Tensor,
    log_emission: Tensor,
    *,
    time_varying: bool = False,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    form: Form = "auto",
) -> Filtered:
    """Filter the states: their distribution given the observations up to and including each bin.

    Parameters
    ----------
    log_initial : Tensor
        (..., K) log p(z_1 = k), broadcast over the batch.
    log_transition : Tensor
        (..., K, K) log p(z_t = j | z_{t-1} = i) in row i, column j; with ``time_varying`` (..., T-1, K, K), entry t of
        which leads from bin t to bin t+1. ``-inf`` forbids a transition.
    log_emission : Tensor
        (..., T, K) log p(x_t | z_t = k) in nats, float; its leading axes are the batch.
    time_varying : bool
        Whether ``log_transition`` has a time axis.
    mask : Tensor, optional
        (..., T) bool, ``False`` = the emission is dropped (it may be NaN there); broadcast over the batch.
    lengths : Tensor, optional
        (...) int, number of bins of every sequence, 1..T; broadcast over the batch.
    form : {"auto", "sequential", "parallel"}
        Loop over time, associative scan, or the faster of the two.

    Returns
    -------
    Filtered
        In the highest precision of the device (float64, or float32 where there is none).

    Raises
    ------
    InputError
        Shapes, types or lengths that do not fit.

    References
    ----------
    Rabiner (1989), A tutorial on hidden Markov models, Proc. IEEE 77(2), eq. 19-21.

    Examples
    --------
    >>> fair = torch.full((2, 2), 0.5).log()
    >>> found = forward(fair[0], fair, torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log())
    >>> found.log_filtered.exp().round(decimals=3).tolist()
    [[0.9, 0.1], [0.2, 0.8]]
    >>> round(found.log_likelihood.exp().item(), 3)
    0.25
    """
    chain = make_chain("forward", log_initial, log_transition, log_emission, time_varying, mask, lengths)
    log_filtered, _ = _messages(chain, form, backward=False)
    predicted, increments = _predict(chain, log_filtered)
    return Filtered(
        restore(blank(log_filtered, chain, -torch.inf), chain),
        restore(blank(predicted, chain, -torch.inf), chain),
        restore(increments, chain),
        restore(increments.sum(0), chain, timed=False),
    )


def smooth(
    log_initial: Tensor,
    log_transition: Tensor,
    log_emission: Tensor,
    *,
    time_varying: bool = False,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    pairwise: bool = False,
    form: Form = "auto",
) -> Smoothed:
    """Run forward-backward: the distribution of every state, and of every pair of neighbours, given all observations.

    Parameters
    ----------
    log_initial : Tensor
        (..., K) log p(z_1 = k).
    log_transition : Tensor
        (..., K, K), or (..., T-1, K, K) with ``time_varying``: see `forward`.
    log_emission : Tensor
        (..., T, K) log p(x_t | z_t = k) in nats.
    time_varying, mask, lengths, form
        See `forward`.
    pairwise : bool
        Also return the pairwise posterior of every bin (T K^2 numbers); its sum over time is always returned.

    Returns
    -------
    Smoothed
        ``probabilities`` is the gradient of ``log_likelihood`` with respect to ``log_emission`` (Fisher's identity).

    References
    ----------
    Rabiner (1989), eq. 23-27, 37; Särkkä & García-Fernández (2021) for the parallel form.

    Examples
    --------
    >>> sticky = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
    >>> seen = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.9, 0.1]]).log()
    >>> found = smooth(torch.tensor([0.5, 0.5]).log(), sticky, seen)
    >>> found.probabilities[:, 0].round(decimals=3).tolist()
    [0.965, 0.954, 0.965]
    >>> round(found.transitions.sum().item(), 6)
    2.0
    """
    chain = make_chain("smooth", log_initial, log_transition, log_emission, time_varying, mask, lengths)
    if form == "auto" and not pairwise and _is_blockable(chain):
        return _smooth_blocked(chain)
    log_filtered, log_beta = _messages(chain, form, backward=True)
    assert log_beta is not None
    log_smoothed = _normalise(log_filtered + log_beta)
    predicted, increments = _predict(chain, log_filtered)
    total, pairs = _pairs(chain, log_filtered, log_smoothed, predicted, pairwise)
    return Smoothed(
        restore(blank(log_smoothed.exp(), chain, 0.0), chain),
        restore(total, chain, timed=False),
        None if pairs is None else restore(pairs, chain),
        restore(increments, chain),
        restore(increments.sum(0), chain, timed=False),
    )


def viterbi(
    log_initial: Tensor,
    log_transition: Tensor,
    log_emission: Tensor,
    *,
    time_varying: bool = False,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    form: Form = "auto",
) -> MostLikely:
    """Find the single most probable path of states.

    Parameters
    ----------
    log_initial, log_transition, log_emission, time_varying, mask, lengths, form
        See `forward`.

    Returns
    -------
    MostLikely

    References
    ----------
    Viterbi (1967), IEEE Trans. Inf. Theory 13(2); Rabiner (1989), eq. 30-35.

    Examples
    --------
    >>> sticky = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log()
    >>> seen = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.9, 0.1]]).log()
    >>> viterbi(torch.tensor([0.5, 0.5]).log(), sticky, seen).path.tolist()
    [0, 0, 0]
    """
    chain = make_chain("viterbi", log_initial, log_transition, log_emission, time_varying, mask, lengths)
    best, _ = _messages(chain, form, backward=False, maximum=True)  # (K, T, lanes)
    pointers = _by_time(chain, lambda f, a: (f.unsqueeze(1) + a).argmax(0), best[:, :-1], axis=1)
    path = _trace(_within(pointers, chain), best[:, -1].argmax(0), chain, form)
    log_joint = _path_log_joint(chain, path)
    return MostLikely(restore(blank(path, chain, -1), chain), restore(log_joint, chain, timed=False))


def sample_states(
    n_draws: int,
    log_initial: Tensor,
    log_transition: Tensor,
    log_emission: Tensor,
    *,
    generator: torch.Generator,
    time_varying: bool = False,
    mask: Tensor | None = None,
    lengths: Tensor | None = None,
    form: Form = "auto",
) -> Tensor:
    """Draw whole paths from their joint posterior (forward filtering, backward sampling).

    Given one uniform number a bin, the backward step is a map from the next state to this one; the maps are composed by
    the same scan as everything else, so sampling is parallel in time too and both forms give the same draws.

    Parameters
    ----------
    n_draws : int
        Number of independent paths of every sequence.
    log_initial, log_transition, log_emission, time_varying, mask, lengths, form
        See `forward`.
    generator : torch.Generator
        Source of the uniform numbers; the draws depend on its seed and device alone.

    Returns
    -------
    Tensor
        (n_draws, ..., T) int64 states; each slice is a draw from p(z_1..z_T | x_1..x_T). -1 beyond a sequence's length.

    References
    ----------
    Frühwirth-Schnatter (2006), Finite Mixture and Markov Switching Models, algorithm 11.5.

    Examples
    --------
    >>> fair = torch.full((2, 2), 0.5).log()
    >>> seen = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    >>> sample_states(1, fair[0], fair, seen, generator=torch.Generator().manual_seed(0)).tolist()
    [[0, 1]]
    """
    if n_draws < 1:
        raise InputError(explain("sample_states: n_draws", expected="at least 1", got=str(n_draws)))
    chain = make_chain("sample_states", log_initial, log_transition, log_emission, time_varying, mask, lengths)
    log_filtered, _ = _messages(chain, form, backward=False)
    _, n_time, lanes = chain.emission.shape
    fine = highest_precision(generator.device)
    uniform = torch.rand((n_draws, n_time, lanes), generator=generator, device=generator.device, dtype=fine)
    uniform = uniform.to(log_filtered).movedim(0, 1)  # (T, draws, lanes)

    def pointers(filtered: Tensor, transition: Tensor, chance: Tensor) -> Tensor:
        table = _cumulative(filtered.unsqueeze(1) + transition)  # (i, j, t, lanes)
        return (table.unsqueeze(3) <= chance).sum(0)  # (j, t, draws, lanes)

    maps = _by_time(chain, pointers, log_filtered[:, :-1], uniform[:-1].unsqueeze(0), axis=1)
    maps = _within(maps, chain).flatten(2)  # (K, T, draws * lanes)
    last = (_cumulative(log_filtered[:, -1]).unsqueeze(1) <= uniform[-1]).sum(0).flatten()
    path = _trace(maps, last, chain, form).unflatten(1, (n_draws, lanes)).movedim(1, 0)  # (draws, T, lanes)
    path = blank(path, chain, -1)
    return path.movedim(1, 2).reshape((n_draws, *chain.batch, n_time))


# ---- messages ------------------------------------------------------------------------------------


def _messages(chain: Chain, form: Form, *, backward: bool, maximum: bool = False) -> tuple[Tensor, Tensor | None]:
    """Forward (normalised filter, or best score up to a constant) and backward messages, both (K, T, lanes)."""
    if _choose(form, chain) == "parallel":
        before, after = _scan(chain, backward, maximum)
    else:
        before, after = _loop(chain, backward, maximum)
    return (before if maximum else _normalise(before)), after


def _scan(chain: Chain, backward: bool, maximum: bool) -> tuple[Tensor, Tensor | None]:
    """Messages by the associative scan over the matrices transition(i, j) x emission_t(j)."""
    n_states = len(chain.emission)
    if maximum or not _is_dense(chain):
        algebra = matrix_algebra(n_states, reduce=max_sum if maximum else log_sum, like=chain.emission)
        matrices = chain.transition + chain.emission
    else:
        algebra = scaled_algebra(n_states, like=chain.emission)
        matrices = scaled_matrices(chain.transition.exp() * chain.emission.exp())
    matrices = _within_matrices(matrices, chain, algebra)
    matrices[:, :, :1] = algebra.identity  # nothing leads into the first bin
    start = chain.initial + chain.emission[:, 0]
    end = torch.zeros_like(start) if backward else None
    before, after = exclusive_scan(matrices, algebra=algebra, start=start, end=end)
    assert before is not None
    last = algebra.forward(before[:, -1:], matrices[:, :, -1:])
    return torch.cat((before[:, 1:], last), dim=1), after


def _is_dense(chain: Chain) -> bool:
    """Tell whether every state can follow every state with a probability that is not tiny.

    The answer makes the host wait, so on accelerators, where exponentials are cheap, it is always no.
    """
    return chain.emission.device.type == "cpu" and bool((chain.transition > _DENSE).all())


def _is_blockable(chain: Chain) -> bool:
    """Tell whether plain numbers in blocks are safe and worth while."""
    _, n_time, _ = chain.emission.shape
    if n_time < 8 or chain.transition.shape[2] > 1 or chain.emission.requires_grad or not _is_dense(chain):
        return False
    return chain.valid is None or bool((log_sum(chain.transition, 1).abs() < 1e-6).all())


def _smooth_blocked(chain: Chain) -> Smoothed:
    """Smoother in plain numbers, blocks of time side by side."""
    found = smooth_blocked(chain.initial, chain.transition[:, :, 0], chain.emission, chain.valid)
    increments = blank(found.increments + chain.offset, chain, 0.0)
    probabilities = found.probabilities
    if chain.valid is not None:
        probabilities = probabilities * chain.valid.T.unsqueeze(2)
    shape = chain.batch
    return Smoothed(
        probabilities.reshape(*shape, *probabilities.shape[1:]),
        found.transitions.reshape(*shape, *found.transitions.shape[1:]),
        None,
        restore(increments, chain),
        restore(increments.sum(0), chain, timed=False),
    )


def _within_matrices(matrices: Tensor, chain: Chain, algebra: Algebra) -> Tensor:
    """Replace the steps beyond a sequence's length by the identity."""
    return matrices if chain.valid is None else torch.where(chain.valid, matrices, algebra.identity)


def _loop(chain: Chain, backward: bool, maximum: bool) -> tuple[Tensor, Tensor | None]:
    """Messages by a loop over time."""
    n_states, n_time, _ = chain.emission.shape
    algebra = matrix_algebra(n_states, reduce=max_sum if maximum else log_sum, like=chain.emission)
    emission, valid = chain.emission.unbind(1), None if chain.valid is None else chain.valid.unbind(0)
    steps = chain.transition.expand(-1, -1, n_time, -1).unbind(2)
    message = chain.initial + emission[0]
    before = [message]
    for t in range(1, n_time):
        moved = algebra.forward(message, steps[t]) + emission[t]
        message = moved if valid is None else torch.where(valid[t], moved, message)
        before.append(message)
    if not backward:
        return torch.stack(before, dim=1), None
    message = torch.zeros_like(message)
    after = [message]
    for t in range(n_time - 1, 0, -1):
        moved = algebra.backward(steps[t], emission[t] + message)
        message = moved if valid is None else torch.where(valid[t], moved, message)
        after.append(message)
    return torch.stack(before, dim=1), torch.stack(after[::-1], dim=1)


def _choose(form: Form, chain: Chain) -> str:
    """Pick the form: few lanes and states favour the scan, a work of K^3 a step favours the loop."""
    if form in ("sequential", "parallel"):
        return form
    if form != "auto":
        raise InputError(explain("form", expected="'auto', 'sequential' or 'parallel'", got=repr(form)))
    n_states, n_time, lanes = chain.emission.shape
    if n_time < 8:
        return "sequential"
    if chain.emission.device.type == "cpu":
        return "parallel" if lanes * n_states**3 <= _STEP_COST else "sequential"
    return "parallel" if lanes * n_time * n_states**3 <= _SCAN_MEMORY else "sequential"


# ---- posterior quantities from the messages ------------------------------------------------------


def _predict(chain: Chain, log_filtered: Tensor) -> tuple[Tensor, Tensor]:
    """One-step predictive states (K, T, lanes) and log-likelihood increments (T, lanes)."""
    moved = _by_time(chain, lambda f, a: log_sum(f.unsqueeze(1) + a, 0), log_filtered[:, :-1], axis=1)
    predicted = torch.cat((chain.initial.unsqueeze(1), moved), dim=1)
    increments = log_sum(predicted + chain.emission, 0) + chain.offset
    return predicted, blank(increments, chain, 0.0)


def _pairs(
    chain: Chain, log_filtered: Tensor, log_smoothed: Tensor, predicted: Tensor, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """Pairwise posterior p(z_{t-1} = i, z_t = j | x) = filtered(i) transition(i, j) smoothed(j) / predicted(j)."""
    ratio = torch.where(log_smoothed > -torch.inf, log_smoothed - predicted, -torch.inf)
    ratio = blank(ratio, chain, -torch.inf)[:, 1:]

    def pairs(filtered: Tensor, transition: Tensor, ratio: Tensor) -> Tensor:
        return (filtered.unsqueeze(1) + transition + ratio.unsqueeze(0)).exp_()

    step = pairs if keep else lambda *given: pairs(*given).sum(2, keepdim=True)
    found = _by_time(chain, step, log_filtered[:, :-1], ratio, axis=2)
    return found.sum(2), found if keep else None


def _by_time(chain: Chain, step: Callable[..., Tensor], *series: Tensor, axis: int) -> Tensor:
    """Apply ``step(series[0], transition, series[1:]...)`` for every bin but the first, in chunks that fit the cache.

    All series have the time at axis 1 with T-1 entries; the results are joined along ``axis``.
    """
    n_states, n_time, lanes = series[0].shape
    width = max(math.prod(each.shape[2:]) for each in series)
    rows = max(1, _CHUNK // (n_states**2 * width))
    varying = chain.transition.shape[2] > 1
    parts = []
    for first in range(0, max(n_time, 1), rows):
        window = slice(first, first + rows)
        transition = chain.transition[:, :, 1:][:, :, window] if varying else chain.transition
        parts.append(step(series[0][:, window], transition, *(each[:, window] for each in series[1:])))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)


def _trace(maps: Tensor, last: Tensor, chain: Chain, form: Form) -> Tensor:
    """Follow maps (K, T, lanes) from the state after bin t to the one before it, from ``last`` (lanes) to the start."""
    if _choose(form, chain) == "parallel":
        algebra = map_algebra(maps.shape[0], device=maps.device)
        _, path = exclusive_scan(maps, algebra=algebra, end=last.unsqueeze(0))
        assert path is not None
        return path.squeeze(0)
    states = [last]
    for pointers in maps[:, 1:].unbind(1)[::-1]:
        states.append(pointers.gather(0, states[-1].unsqueeze(0)).squeeze(0))
    return torch.stack(states[::-1])


def _within(maps: Tensor, chain: Chain) -> Tensor:
    """Prepend the map of bin 1; the maps beyond a sequence's length leave the state as it is: (K, T, ..., lanes)."""
    same = torch.arange(maps.shape[0], device=maps.device).reshape(-1, *[1] * (maps.ndim - 1))
    if chain.valid is not None:
        valid = chain.valid[1:].reshape(maps.shape[1], *[1] * (maps.ndim - 3), maps.shape[-1])
        maps = torch.where(valid, maps, same)
    return torch.cat((same.expand(-1, 1, *maps.shape[2:]), maps), dim=1)


def _cumulative(log_weights: Tensor) -> Tensor:
    """Cumulative probabilities over axis 0, exactly 1 from the last possible state on, so that no other is drawn."""
    table = _normalise(log_weights).exp_().cumsum(0)
    return table / table[-1].clamp(min=torch.finfo(table.dtype).tiny)


def _path_log_joint(chain: Chain, path: Tensor) -> Tensor:
    """Log of p(path, observations), (lanes,)."""
    n_time, lanes = path.shape
    lane = torch.arange(lanes, device=path.device)
    time = torch.arange(n_time, device=path.device).unsqueeze(1)
    score = chain.emission[path, time, lane] + chain.offset
    start = chain.initial[path[0], lane]
    from_time = time[1:] if chain.transition.shape[2] > 1 else torch.zeros_like(time[1:])
    from_lane = lane if chain.transition.shape[3] > 1 else torch.zeros_like(lane)
    moves = chain.transition[path[:-1], path[1:], from_time, from_lane]
    score = torch.cat((score[:1] + start, score[1:] + moves))
    return blank(score, chain, 0.0).sum(0)


def _normalise(log_weights: Tensor) -> Tensor:
    """Log of weights made to sum to one over axis 0; ``-inf`` everywhere stays so."""
    total = log_sum(log_weights, 0)
    return log_weights - torch.where(total > -torch.inf, total, torch.zeros_like(total))
