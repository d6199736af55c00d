"""Associative scans: prefixes and suffixes of a chain of matrices in logarithmic depth.

A chain of T small matrices is reduced by a balanced tree: products of neighbours on the way up, vectors carried through
the tree on the way down. The same tree serves the log-sum semiring (filter and smoother), the max-plus semiring (most
likely path) and the composition of maps (backtracking and backward sampling), because only the product differs.

Layout: the matrix axes come first, then the chain axis, then independent lanes, so that every operation is a long
vector operation over lanes. Long chains are cut in blocks that become lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 1 << 16  # elements of a temporary that stay in a core's cache
_FEW_LANES = 256  # fewer lanes than this: cut the chain in blocks


class Algebra(NamedTuple):
    """What a scan needs to know of its elements, shape ``(*E, n, lanes)``, and vectors, shape ``(*V, n, lanes)``."""

    product: Callable[[Tensor, Tensor], Tensor]
    """Element of two neighbours, the earlier first."""
    forward: Callable[[Tensor, Tensor], Tensor]
    """Vector before an element and the element -> vector after it."""
    backward: Callable[[Tensor, Tensor], Tensor]
    """Element and the vector after it -> vector before it."""
    identity: Tensor
    """Neutral element, shape ``(*E, 1, 1)``."""


def log_sum(values: Tensor, dim: int) -> Tensor:
    """Return log of the sum of exponentials over ``dim``; all ``-inf`` gives ``-inf`` and never NaN.

    Parameters
    ----------
    values : Tensor
        Logarithms, any shape.
    dim : int
        Axis that is reduced (and dropped).

    Returns
    -------
    Tensor
        The shape of ``values`` without ``dim``.

    Examples
    --------
    >>> log_sum(torch.zeros(2, 4), 1).exp().tolist()
    [4.0, 4.0]
    """
    peak = values.amax(dim, keepdim=True).clamp(min=torch.finfo(values.dtype).min)
    return (values - peak).exp_().sum(dim).log_().add_(peak.squeeze(dim))


def max_sum(values: Tensor, dim: int) -> Tensor:
    """Return the maximum over ``dim``: the sum of the max-plus semiring."""
    return values.amax(dim)


def matrix_algebra(n_states: int, *, reduce: Callable[[Tensor, int], Tensor], like: Tensor) -> Algebra:
    """Algebra of log matrices ``(K, K, n, lanes)``, rows = state before, columns = state after.

    Products are rescaled to a maximum of zero: only ratios inside a matrix are kept, which is all that a posterior
    needs and which keeps the precision independent of the length of the chain.

    Parameters
    ----------
    n_states : int
        K.
    reduce : callable
        `log_sum` or `max_sum`.
    like : Tensor
        Gives dtype and device of the identity.

    Returns
    -------
    Algebra
    """
    identity = torch.full((n_states, n_states), -torch.inf, dtype=like.dtype, device=like.device).fill_diagonal_(0.0)

    def product(left: Tensor, right: Tensor) -> Tensor:
        rows = max(1, _BLOCK // (n_states**3 * left.shape[-1]))
        pairs = zip(left.split(rows, dim=2), right.split(rows, dim=2), strict=True)
        joined = [_rescale(reduce(a.unsqueeze(2) + b.unsqueeze(0), 1), (0, 1)) for a, b in pairs]  # (K, k, K, n, lanes)
        return joined[0] if len(joined) == 1 else torch.cat(joined, dim=2)

    def forward(before: Tensor, element: Tensor) -> Tensor:
        return _rescale(reduce(before.unsqueeze(1) + element, 0), (0,))

    def backward(element: Tensor, after: Tensor) -> Tensor:
        return _rescale(reduce(element + after.unsqueeze(0), 1), (0,))

    return Algebra(product, forward, backward, identity[:, :, None, None])


def scaled_algebra(n_states: int, *, like: Tensor) -> Algebra:
    """Algebra of matrices ``(K, K + 1, n, lanes)``: rows that sum to one, and in the last column the logs of the sums.

    It takes no exponentials of K^3 terms and is several times faster than `matrix_algebra`, with vectors still as
    logarithms. Entries that underflow are lost, which is harmless exactly when every state can follow every state with
    a probability that is not tiny: a path through such an entry then has a detour that is far more probable. Two row
    sums then differ at most by the ratio of two transition probabilities, so their exponentials cannot underflow.

    Parameters
    ----------
    n_states : int
        K.
    like : Tensor
        Gives dtype and device of the identity.

    Returns
    -------
    Algebra
        Its elements are made by `scaled_matrices`.
    """
    identity = torch.zeros(n_states, n_states + 1, dtype=like.dtype, device=like.device)
    identity[:, :n_states].fill_diagonal_(1.0)
    lowest, tiny = torch.finfo(like.dtype).min, torch.finfo(like.dtype).tiny

    def weights(logs: Tensor) -> tuple[Tensor, Tensor]:
        peak = logs.amax(0, keepdim=True).clamp(min=lowest)
        return (logs - peak).exp_(), peak

    def product(left: Tensor, right: Tensor) -> Tensor:
        joined = left.new_empty((n_states, n_states + 1, *left.shape[2:]))
        rows = max(1, _BLOCK // (n_states**2 * left.shape[-1]))
        for a, b, out in zip(left.split(rows, 2), right.split(rows, 2), joined.split(rows, 2), strict=True):
            share, peak = weights(b[:, -1])
            mixed = a[:, :-1] * share  # (K, K, n, lanes)
            total = torch.mul(mixed[:, :1], b[:1, :-1])
            for k in range(1, n_states):
                total.addcmul_(mixed[:, k : k + 1], b[k : k + 1, :-1])
            size = total.sum(1)
            torch.div(total, size.clamp(min=tiny).unsqueeze(1), out=out[:, :-1])
            torch.add(size.log_().add_(a[:, -1]), peak, out=out[:, -1])
        return joined

    def forward(before: Tensor, element: Tensor) -> Tensor:
        share, _ = weights(before + element[:, -1])
        moved = share[:1] * element[0, :-1]
        for k in range(1, n_states):
            moved.addcmul_(share[k : k + 1], element[k, :-1])
        return moved.log_()

    def backward(element: Tensor, after: Tensor) -> Tensor:
        share, _ = weights(after)
        moved = share[:1] * element[:, 0]
        for k in range(1, n_states):
            moved.addcmul_(share[k : k + 1], element[:, k])
        return _rescale(moved.log_().add_(element[:, -1]), (0,))

    return Algebra(product, forward, backward, identity[:, :, None, None])


def scaled_matrices(probabilities: Tensor) -> Tensor:
    """Elements of `scaled_algebra` from non-negative matrices ``(K, K, n, lanes)``."""
    total = probabilities.sum(1, keepdim=True)
    tiny = torch.finfo(total.dtype).tiny
    return torch.cat((probabilities / total.clamp(min=tiny), total.log()), dim=1)


def map_algebra(n_states: int, *, device: torch.device) -> Algebra:
    """Algebra of maps ``(K, n, lanes)`` int64 that send a later state to the earlier one; only suffixes are defined."""

    def product(left: Tensor, right: Tensor) -> Tensor:
        return left.gather(0, right)

    def backward(element: Tensor, after: Tensor) -> Tensor:
        return element.gather(0, after)

    def forward(before: Tensor, element: Tensor) -> Tensor:
        raise NotImplementedError("maps run backwards in time only")

    return Algebra(product, forward, backward, torch.arange(n_states, device=device)[:, None, None])


def _rescale(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Subtract the maximum over ``dims`` (nothing where it is infinite)."""
    limits = torch.finfo(values.dtype)
    return values.sub_(values.amax(dims, keepdim=True).clamp(min=limits.min, max=limits.max))


def exclusive_scan(
    elements: Tensor, *, algebra: Algebra, start: Tensor | None = None, end: Tensor | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Carry a vector forward from ``start`` and backward from ``end`` through a chain of elements.

    Parameters
    ----------
    elements : Tensor
        Chain, shape ``(*E, n, lanes)``.
    algebra : Algebra
        Product and actions.
    start : Tensor, optional
        Vector before the first element, shape ``(*V, lanes)``; ``None`` skips the forward direction.
    end : Tensor, optional
        Vector after the last element, shape ``(*V, lanes)``; ``None`` skips the backward direction.

    Returns
    -------
    before : Tensor or None
        ``(*V, n, lanes)``: ``before[..., t, :]`` is the forward vector just before element t.
    after : Tensor or None
        ``(*V, n, lanes)``: ``after[..., t, :]`` is the backward vector just after element t.

    References
    ----------
    Särkkä & García-Fernández (2021), Temporal parallelization of Bayesian smoothers, IEEE TAC 66(1).

    Examples
    --------
    >>> maps = torch.tensor([[1, 0], [0, 1], [1, 0]]).T[:, :, None]   # (K=2, n=3, lanes=1)
    >>> algebra = map_algebra(2, device=maps.device)
    >>> _, after = exclusive_scan(maps, algebra=algebra, end=torch.tensor([[0]]))
    >>> after[0, :, 0].tolist()
    [1, 1, 0]
    """
    n, lanes = elements.shape[-2:]
    if n <= 32 or lanes >= _FEW_LANES:
        found = _descend(_climb(elements, algebra), algebra, start, end)
        return _first(found[0], n), _first(found[1], n)
    length = 1 << ((n - 1).bit_length() // 2)
    blocks = -(-n // length)
    elements = _pad(elements, blocks * length, algebra).unflatten(-2, (blocks, length)).movedim(-2, -3)
    levels = _climb(elements.flatten(-2).contiguous(), algebra)  # (*E, length, blocks * lanes)
    totals = levels[-1].squeeze(-2).unflatten(-1, (blocks, lanes))
    starts, ends = exclusive_scan(totals, algebra=algebra, start=start, end=end)
    before, after = _descend(levels, algebra, _flat(starts), _flat(ends))
    return _first(_rejoin(before, blocks, lanes), n), _first(_rejoin(after, blocks, lanes), n)


def _first(vector: Tensor | None, n: int) -> Tensor | None:
    """Drop the entries of padded elements."""
    return None if vector is None else vector[..., :n, :]


def _flat(vector: Tensor | None) -> Tensor | None:
    return None if vector is None else vector.flatten(-2)


def _rejoin(vector: Tensor | None, blocks: int, lanes: int) -> Tensor | None:
    """Undo the cut in blocks: ``(*V, length, blocks * lanes) -> (*V, blocks * length, lanes)``."""
    return None if vector is None else vector.unflatten(-1, (blocks, lanes)).movedim(-2, -3).flatten(-3, -2)


def _pad(elements: Tensor, n: int, algebra: Algebra) -> Tensor:
    """Lengthen the chain to ``n`` with identities."""
    missing = n - elements.shape[-2]
    if missing == 0:
        return elements
    shape = (*elements.shape[:-2], missing, elements.shape[-1])
    return torch.cat((elements, algebra.identity.expand(shape)), dim=-2)


def _climb(elements: Tensor, algebra: Algebra) -> list[Tensor]:
    """Products of neighbours, level by level, up to one element."""
    levels = [elements]
    while levels[-1].shape[-2] > 1:
        levels[-1] = _pad(levels[-1], levels[-1].shape[-2] + levels[-1].shape[-2] % 2, algebra)
        levels.append(algebra.product(levels[-1][..., 0::2, :], levels[-1][..., 1::2, :]))
    return levels


def _descend(
    levels: list[Tensor], algebra: Algebra, start: Tensor | None, end: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Carry the vectors from the root of the tree to its leaves."""
    before = None if start is None else start.unsqueeze(-2)
    after = None if end is None else end.unsqueeze(-2)
    for level in reversed(levels[:-1]):
        half = level.shape[-2] // 2
        if before is not None:
            left = before[..., :half, :]
            before = _interleave(left, algebra.forward(left, level[..., 0::2, :]))
        if after is not None:
            right = after[..., :half, :]
            after = _interleave(algebra.backward(level[..., 1::2, :], right), right)
    return before, after


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    return torch.stack((even.expand_as(odd), odd.expand_as(even)), dim=-2).flatten(-3, -2)
