"""States of the dynamics: whole sequences given the paths, and windows flipped with the paths integrated out."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...stats.block_tridiagonal import Blocks, solve_blocks
from ...stats.distributions import sample_exponential, sample_normal, sample_uniform
from ...stats.gaussian import Evidence, semidefinite_factor
from .paths import Tables, apply, apply_transposed, look_up

LONGEST = 40  # bins of a flipped window
_TINY = 1e-300


def sample_state_path(log_emission: Tensor, log_pi: Tensor, starts: Tensor, generator: torch.Generator) -> Tensor:
    """Draw whole state sequences (forward filtering, backward sampling) in blocks of about sqrt(time) bins.

    Inside the blocks all blocks advance together; between blocks only their summaries do, so that about
    6 sqrt(time) short operations follow one another and not 2 time.

    Parameters
    ----------
    log_emission : Tensor
        (chain, time, state) log density of the step into every bin under every state.
    log_pi : Tensor
        (chain, state, state) log transition probabilities.
    starts : Tensor
        (time,) bool: the state is uniform there, whatever came before.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        (chain, time) int64.
    """
    n_time, n_states = log_emission.shape[-2:]
    size = max(1, math.isqrt(n_time))
    extra = -n_time % size
    move = log_pi.exp().clamp(min=_TINY)
    move = torch.where(starts[:, None, None], 1 / n_states, move.unsqueeze(1))  # (chain, time, from, to)
    likelihood = (log_emission - log_emission.amax(-1, keepdim=True)).exp().clamp(min=_TINY)
    step = move * likelihood.unsqueeze(-2)
    eye = torch.eye(n_states, dtype=step.dtype, device=step.device)
    blocks = torch.cat([step, eye.expand(step.shape[0], extra, -1, -1)], 1).unflatten(1, (-1, size))
    filtered = _filter(blocks).flatten(1, 2)[:, :n_time]
    after = torch.cat([move[:, 1:], move.new_ones(move.shape[0], 1, n_states, n_states)], 1)
    table = (filtered.unsqueeze(-1) * after).cumsum(-2)  # (chain, time, from, to)
    chance = sample_uniform(log_emission[..., :1], generator).unsqueeze(-1) * table[..., -1:, :]
    maps = (table <= chance).sum(-2).clamp(max=n_states - 1)  # (chain, time, to): state of this bin given the next
    same = torch.arange(n_states, device=maps.device)
    maps = torch.cat([maps, same.expand(maps.shape[0], extra, -1)], 1).unflatten(1, (-1, size))
    return _trace(maps).flatten(1)[:, :n_time]


def _filter(blocks: Tensor) -> Tensor:
    """Filtered probabilities (chain, block, bin, state) from steps (chain, block, bin, from, to)."""
    steps = blocks.unbind(2)
    rows, scale = steps[0], torch.zeros_like(steps[0][..., :1])
    for step in (None, *steps[1:]):
        rows = rows if step is None else rows @ step
        total = rows.sum(-1, keepdim=True)
        rows, scale = rows / total, scale + total.log()
    entry = torch.full_like(rows[:, 0, 0], 1 / rows.shape[-1])
    entries = [entry]
    for summary, weight in zip(rows[:, :-1].unbind(1), scale[:, :-1].squeeze(-1).unbind(1), strict=True):
        mix = torch.softmax(entry.log() + weight, -1)
        entry = (mix.unsqueeze(-2) @ summary).squeeze(-2)
        entries.append(entry)
    message = torch.stack(entries, 1).unsqueeze(-2)  # (chain, block, 1, state)
    found = []
    for step in steps:
        message = message @ step
        message = message / message.sum(-1, keepdim=True)
        found.append(message)
    return torch.cat(found, -2)


def _trace(maps: Tensor) -> Tensor:
    """Follow maps (chain, block, bin, next state) back from the last bin: states (chain, block, bin)."""
    steps = maps.unbind(2)
    whole = steps[-1]
    for step in reversed(steps[:-1]):
        whole = step.gather(-1, whole)
    current = torch.zeros_like(whole[:, 0, :1])  # the map of the last bin is constant
    exits = [current]
    for summary in reversed(whole[:, 1:].unbind(1)):
        current = summary.gather(-1, current)
        exits.append(current)
    current = torch.stack(exits[::-1], 1)  # (chain, block, 1)
    path = []
    for step in reversed(steps):
        current = step.gather(-1, current)
        path.append(current)
    return torch.cat(path[::-1], -1)


class Flip(NamedTuple):
    """Proposed and current content of windows."""

    states: Tensor
    """(chain, time) states after the moves."""
    path: Tensor
    """(chain, cluster, time, q) paths after the moves."""
    bins: Tensor
    """(window, bin) bins of every window."""
    accepted: Tensor
    """(chain,) share of accepted proposals."""


def draw_windows(n_time: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """Lay windows of one length, log-uniform on 1..40, over time with gaps of one bin: (window, bin).

    Length and place follow from the seed of the generator, so that the host need not wait for a device.
    """
    draw = torch.Generator().manual_seed(generator.initial_seed() ^ 0x5EED)
    first, second = torch.rand(2, generator=draw, dtype=torch.float64).tolist()
    length = min(max(1, int(math.exp(first * math.log(min(LONGEST, n_time) + 1)))), n_time)
    offset = int(second * min(length + 1, n_time - length + 1))
    begins = torch.arange(offset, n_time - length + 1, length + 1, device=device)
    return begins.unsqueeze(-1) + torch.arange(length, device=device)


def flip_windows(
    states: Tensor, path: Tensor, *, tables: Tables, evidence: Evidence, log_pi: Tensor, starts: Tensor,
    occupied: Tensor, generator: torch.Generator,
) -> Flip:  # fmt: skip
    """Propose another state for windows of constant state, the paths inside integrated out, then redraw these paths.

    All windows are moved at once: a bin between two windows makes them independent given the rest.

    Parameters
    ----------
    states : Tensor
        (chain, time).
    path : Tensor
        (chain, cluster, time, q).
    tables : Tables
        Dynamics.
    evidence : Evidence
        Augmented counts.
    log_pi : Tensor
        (chain, state, state).
    starts : Tensor
        (time,) bool.
    occupied : Tensor
        (chain, cluster) bool.
    generator : torch.Generator
        Source of random numbers; its seed places the windows.

    Returns
    -------
    Flip
    """
    n_states, n_time = log_pi.shape[-1], states.shape[-1]
    bins = draw_windows(n_time, generator, states.device)
    inside = states[:, bins]  # (chain, window, bin)
    movable = (inside == inside[..., :1]).all(-1)
    old = inside[..., 0]
    jump = (sample_uniform(log_pi[:, 0, :1].expand(*old.shape), generator) * (n_states - 1)).long()
    new = (old + 1 + jump.clamp(max=n_states - 2)) % n_states
    pair = torch.stack([old, new], 1)  # (chain, 2, window)
    blocks, constant, shift = _window_blocks(pair, states, path, bins, tables, evidence, starts, generator)
    solved = solve_blocks(blocks, shift=shift, method="parallel")
    integral = constant + 0.5 * ((blocks.linear * solved.mean).sum((-2, -1)) - solved.log_determinant)
    score = torch.where(occupied[..., None, None], integral, 0.0).sum(1)  # (chain, 2, window)
    score = score + _window_transitions(pair, states, bins, log_pi, starts)
    gain = score[:, 1] - score[:, 0]
    accepted = (gain > -sample_exponential(gain, generator)) & movable
    chosen = torch.where(accepted[:, None, :, None, None], solved.shifted[:, :, 1], solved.shifted[:, :, 0])
    kept = torch.where(movable[:, None, :, None, None], chosen, path[:, :, bins])
    new_path = path.clone()
    new_path[:, :, bins] = kept
    new_states = states.clone()
    new_states[:, bins] = torch.where(accepted.unsqueeze(-1), new.unsqueeze(-1), inside)
    share = accepted.sum(-1) / movable.sum(-1).clamp(min=1)
    return Flip(new_states, new_path, bins, share.to(path.dtype))


def _window_blocks(
    pair: Tensor, states: Tensor, path: Tensor, bins: Tensor, tables: Tables, evidence: Evidence, starts: Tensor,
    generator: torch.Generator,
) -> tuple[Blocks, Tensor, Tensor]:  # fmt: skip
    """Precision, linear term, constant and noise of every window's paths: (chain, cluster, 2, window, bin, ...)."""
    n_states, n_time = tables.log_det.shape[-1] - 1, states.shape[-1]
    inner = torch.where(starts[bins], n_states, pair.unsqueeze(-1))  # (chain, 2, window, bin)
    follow = bins[:, -1] + 1
    ended = torch.cat([starts, starts.new_ones(1)])[follow]  # nothing couples beyond the last bin
    after = torch.where(ended, n_states, states[:, follow.clamp(max=n_time - 1)])  # (chain, window)
    every = torch.cat([inner, after[:, None, :, None].expand(-1, 2, -1, 1)], -1)
    steps = look_up(tables, every)  # (chain, cluster, 2, window, bin + 1, ...)
    previous = path[:, :, (bins[:, 0] - 1).clamp(min=0)].unsqueeze(2)  # (chain, cluster, 1, window, q)
    following = path[:, :, follow.clamp(max=n_time - 1)].unsqueeze(2)
    here = steps.root[..., :-1, :, :]
    later = steps.root_before[..., 1:, :, :]
    across = later @ steps.root[..., 1:, :, :].mT
    precision, information = evidence.precision[:, :, bins].unsqueeze(2), evidence.information[:, :, bins].unsqueeze(2)
    diagonal = here @ here.mT + later @ later.mT + precision
    linear = information + apply(here, steps.white[..., :-1, :]) + apply(later, steps.white[..., 1:, :])
    carried = apply_transposed(steps.root_before[..., 0, :, :], previous)  # whitened -A h of the bin before
    linear[..., 0, :] -= apply(steps.root[..., 0, :, :], carried)
    linear[..., -1, :] -= apply(across[..., -1, :, :], following)
    first = (carried - steps.white[..., 0, :]).square().sum(-1)
    constant = steps.log_det[..., :-1].sum(-1) - 0.5 * (first + steps.white[..., 1:-1, :].square().sum((-2, -1)))
    noise = sample_normal(torch.stack([linear, linear]), generator)
    last = sample_normal(linear[..., :1, :], generator)
    shift = apply(here, noise[0]) + apply(semidefinite_factor(precision), noise[1])
    shift = shift + apply(later, torch.cat([noise[0][..., 1:, :], last], -2))
    return Blocks(diagonal, across[..., :-1, :, :], linear), constant, shift


def _window_transitions(pair: Tensor, states: Tensor, bins: Tensor, log_pi: Tensor, starts: Tensor) -> Tensor:
    """Log probability of the transitions into, inside and out of every window: (chain, 2, window)."""
    n_states, n_time = log_pi.shape[-1], states.shape[-1]
    flat = log_pi.flatten(1)
    stay = flat.gather(1, (pair * (n_states + 1)).flatten(1)).reshape(pair.shape)
    inner = (~starts[bins[:, 1:]]).sum(-1)
    before = states[:, (bins[:, 0] - 1).clamp(min=0)].unsqueeze(1)
    enter = flat.gather(1, (before * n_states + pair).flatten(1)).reshape(pair.shape)
    follow = bins[:, -1] + 1
    after = states[:, follow.clamp(max=n_time - 1)].unsqueeze(1)
    leave = flat.gather(1, (pair * n_states + after).flatten(1)).reshape(pair.shape)
    ended = torch.cat([starts, starts.new_ones(1)])[follow]
    return stay * inner + torch.where(starts[bins[:, 0]], 0.0, enter) + torch.where(ended, 0.0, leave)


def state_emission(log_steps: Tensor, occupied: Tensor) -> Tensor:
    """Sum the step densities of the occupied clusters: (chain, cluster, time, state) -> (chain, time, state)."""
    return torch.where(occupied[..., None, None], log_steps, 0.0).sum(1)
