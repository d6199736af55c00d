"""Forward-backward in plain numbers, blocks of time side by side: the fast form where all states can follow all states.

A sequence is cut in blocks. The matrix that carries a vector through a whole block is built for all blocks at once, by
one matrix product a step; the blocks are then chained (recursively in the same way), and the vectors inside all blocks
follow at once. The number of steps grows like the cube root of the length, and the work stays that of matrix products.

Numbers underflow where a state is ruled out by hundreds of nats. That is harmless exactly when every state can follow
every state with a probability that is not tiny: a path through such a state then has a detour that is far more
probable.

Layout: G groups of lanes that share a transition matrix (1, or one a lane), K states, C columns (blocks x lanes).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

_SHORT = 24  # a chain of so many matrices is followed step by step
_RESCALE = 4  # steps between two rescalings of block matrices
_COLUMNS = 1 << 15  # elements of the block matrices that fit the cache


class Posterior(NamedTuple):
    """Posterior in plain numbers."""

    probabilities: Tensor
    """(lanes, T, K)."""
    transitions: Tensor
    """(lanes, K, K) expected number of transitions."""
    increments: Tensor
    """(T, lanes) log p(x_t | x_1..x_{t-1}), without what was subtracted from the emission."""


class _Steps(NamedTuple):
    """Steps 1..T-1 of a chain, cut in blocks of L steps."""

    moves: Tensor
    """(G, K, K) transposed transition: row = state after."""
    weights: Tensor
    """(L, G, K, C) emission of each step; 1 beyond the end."""
    n_blocks: int
    n_lanes: int


def smooth_blocked(initial: Tensor, transition: Tensor, emission: Tensor, valid: Tensor | None) -> Posterior:
    """Run forward-backward over blocks.

    Parameters
    ----------
    initial : Tensor
        (K, lanes) log probabilities.
    transition : Tensor
        (K, K, 1 or lanes) log probabilities, none of them tiny.
    emission : Tensor
        (K, T >= 2, lanes) logarithms; the largest of each bin is 0.
    valid : Tensor or None
        (T, lanes) bool, bins within their sequences; emissions beyond are 0. The rows of ``transition`` must then sum
        to 1.

    Returns
    -------
    Posterior

    Examples
    --------
    >>> fair = torch.full((2, 2, 1), 0.5).log()
    >>> found = smooth_blocked(fair[0], fair, torch.tensor([[[0.0], [-2.0]], [[-1.0], [0.0]]]), None)
    >>> round(found.transitions.sum().item(), 6)
    1.0
    """
    n_states, n_time, n_lanes = emission.shape
    weights = emission.exp()
    steps = _cut(transition.exp(), weights)
    first = initial.exp() * weights[:, 0]
    size = first.sum(0)
    start = first / size
    before, after = _chain(_block_matrices(steps), start, torch.ones_like(start))
    past, now, scale = _run_forward(steps, _to_columns(before, steps))
    future, at_start = _run_backward(steps, _to_columns(after, steps))
    joint = now * future
    share = joint.sum(2, keepdim=True)
    head = start * _from_columns(at_start, steps)[:, 0]  # (K, lanes)
    probabilities = torch.cat(((head / head.sum(0)).T.unsqueeze(1), _to_time(joint / share, steps, n_time)), dim=1)
    ratio = steps.weights * future / (scale * share)
    transitions = _count(past, ratio, steps, n_time, valid) * transition.exp().permute(2, 0, 1)
    logs = torch.cat((size.unsqueeze(1), _to_time(scale, steps, n_time).squeeze(2)), dim=1).log()
    return Posterior(probabilities, transitions, logs.T)


def _length(n_steps: int, n_states: int, n_lanes: int) -> int:
    """Steps in a block: few, but so many that the block matrices of one step fit the cache."""
    fitting = -(-n_steps * n_lanes * n_states**2 // _COLUMNS)
    return max(2, round(math.cbrt(0.6 * n_steps)), fitting)


def _cut(transition: Tensor, weights: Tensor) -> _Steps:
    """Lay out the steps; the padding at the end has weight 1 and is never read."""
    n_states, n_time, n_lanes = weights.shape
    length = min(n_time - 1, _length(n_time - 1, n_states, n_lanes))
    n_blocks = -(-(n_time - 1) // length)
    moved = weights.new_ones(n_states, n_blocks * length, n_lanes)
    moved[:, : n_time - 1] = weights[:, 1:]
    moved = moved.reshape(n_states, n_blocks, length, n_lanes)
    if transition.shape[2] == 1:
        laid = moved.permute(2, 0, 1, 3).reshape(length, 1, n_states, n_blocks * n_lanes)
    else:
        laid = moved.permute(2, 3, 0, 1).contiguous()
    return _Steps(transition.permute(2, 1, 0).contiguous(), laid, n_blocks, n_lanes)


def _block_matrices(steps: _Steps) -> Tensor:
    """Matrices that carry a vector through each block: (K after, K before, block, lanes), each with sum 1."""
    moves, weights = steps.moves, steps.weights
    n_groups, n_states, _ = moves.shape
    shape = (n_groups, n_states, n_states, weights.shape[3])
    matrix, other = moves.unsqueeze(3) * weights[0].unsqueeze(2), weights.new_empty(shape)
    for k, weight in enumerate(weights.unsqueeze(3).unbind(0)[1:], 1):
        torch.bmm(moves, matrix.flatten(2), out=other.flatten(2))
        matrix, other = other.mul_(weight), matrix
        if k % _RESCALE == 0:
            matrix /= matrix.sum((1, 2), keepdim=True)
    matrix /= matrix.sum((1, 2), keepdim=True)
    if n_groups == 1:
        return matrix.view(n_states, n_states, steps.n_blocks, steps.n_lanes)
    return matrix.permute(1, 2, 3, 0)


def _run_forward(steps: _Steps, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Filtered vectors before and after every step, and the likelihood of every step: (L, G, K or 1, C)."""
    found = vector.new_empty(len(steps.weights) + 1, *vector.shape)
    found[0] = vector
    vectors, grown = found.unbind(0), {}
    for k, weight in enumerate(steps.weights.unbind(0)):
        moved = torch.bmm(steps.moves, vectors[k], out=vectors[k + 1]).mul_(weight)
        if k % _RESCALE == _RESCALE - 1:
            grown[k] = moved.sum(1, keepdim=True)
            moved /= grown[k]
    size = found.sum(2, keepdim=True)
    scale = size[1:] / size[:-1]
    for k, growth in grown.items():
        scale[k] *= growth
    found /= size
    return found[:-1], found[1:], scale


def _run_backward(steps: _Steps, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Backward vectors after every step (L, G, K, C), and before the first of each block (G, K, C)."""
    back = steps.moves.mT.contiguous()
    found = vector.new_empty(len(steps.weights) + 1, *vector.shape)
    found[-1] = vector
    vectors, product = found.unbind(0), torch.empty_like(vector)
    for k in range(len(steps.weights) - 1, -1, -1):
        torch.mul(vectors[k + 1], steps.weights[k], out=product)
        torch.bmm(back, product, out=vectors[k])
        if k % _RESCALE == 0:
            vectors[k].div_(vectors[k].sum(1, keepdim=True))
    return found[1:], found[0]


def _to_columns(vector: Tensor, steps: _Steps) -> Tensor:
    """(K, block, lanes) -> (G, K, C)."""
    return vector.flatten(1).unsqueeze(0) if len(steps.moves) == 1 else vector.permute(2, 0, 1).contiguous()


def _from_columns(vector: Tensor, steps: _Steps) -> Tensor:
    """(G, K, C) -> (K, block, lanes)."""
    if len(steps.moves) == 1:
        return vector.view(-1, steps.n_blocks, steps.n_lanes)
    return vector.permute(1, 2, 0)


def _to_time(values: Tensor, steps: _Steps, n_time: int) -> Tensor:
    """(L, G, Q, C) -> (lanes, T - 1, Q)."""
    length, n_groups, width, _ = values.shape
    if n_groups == 1:
        moved = values.view(length, width, steps.n_blocks, steps.n_lanes).permute(3, 2, 0, 1)
    else:
        moved = values.permute(1, 3, 0, 2)
    return moved.reshape(steps.n_lanes, steps.n_blocks * length, width)[:, : n_time - 1]


def _count(past: Tensor, ratio: Tensor, steps: _Steps, n_time: int, valid: Tensor | None) -> Tensor:
    """Sum over steps of (vector before) x (ratio after): (lanes, K, K)."""
    before, after = _to_time(past, steps, n_time), _to_time(ratio, steps, n_time)
    if valid is not None:
        after = after * valid[1:].T.unsqueeze(2)
    return torch.bmm(before.mT, after)


def _chain(matrices: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Carry vectors through matrices (K after, K before, n, lanes), forward from ``start``, backward from ``end``.

    Returns the vectors before every matrix and those after it, both (K, n, lanes), scaled to sum 1.
    """
    n_states, _, n, n_lanes = matrices.shape
    if n <= _SHORT:
        return _follow(matrices.movedim(2, 0).unsqueeze(3), start.unsqueeze(1), end.unsqueeze(1))
    length = max(2, round(math.cbrt(n)))
    n_blocks = -(-n // length)
    missing = n_blocks * length - n
    same = torch.eye(n_states, dtype=matrices.dtype, device=matrices.device)[:, :, None, None]
    padded = torch.cat((matrices, same.expand(-1, -1, missing, n_lanes)), 2) if missing else matrices
    blocks = padded.unflatten(2, (n_blocks, length)).movedim(3, 0).contiguous()  # (L, K, K, block, lanes)
    whole, *others = blocks.unbind(0)
    for k, matrix in enumerate(others, 1):
        whole = (matrix.unsqueeze(2) * whole.unsqueeze(0)).sum(1)
        if k % _RESCALE == 0 or k == length - 1:
            whole = whole / whole.sum((0, 1), keepdim=True)
    starts, ends = _chain(whole, start, end)
    before, after = _follow(blocks, starts, ends)
    return before[:, :n], after[:, :n]


def _follow(blocks: Tensor, starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Follow the vectors through matrices (L, K, K, block, lanes), all blocks and both directions at once.

    Returns the vectors before every matrix and those after it, both (K, block * L, lanes).
    """
    ways = torch.stack((blocks[:-1], blocks[1:].flip(0).transpose(1, 2)), 1)  # (L - 1, direction, K, K, block, lanes)
    found = [torch.stack((starts, ends))]
    for k, matrix in enumerate(ways.unbind(0)):
        moved = (matrix * found[-1].unsqueeze(1)).sum(2)
        found.append(moved / moved.sum(1, keepdim=True) if k % _RESCALE == 0 else moved)
    before, after = torch.stack(found, 3).unbind(0)  # (K, block, L, lanes)
    return _scaled(before.flatten(1, 2)), _scaled(after.flip(2).flatten(1, 2))


def _scaled(vectors: Tensor) -> Tensor:
    """Scale vectors (K, ...) to sum 1."""
    return vectors / vectors.sum(0)
