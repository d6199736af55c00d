"""Exact masked HALS for the non-negative CP model of a (time, animal, pair) tensor, one pass over the data a sweep.

Factors are kept transposed, ``(restart, component, row)``, so that all restarts share the products with the data.  With
``X`` the tensor seen as (time * animal, pair) the only work of the size of the data is

* ``N = (A x B)^T X``: the numerator of the pair factor, local to a block of pairs;
* ``Q = C X^T``: the moments from which the time *and* the animal numerators follow, a sum over blocks of pairs.

A block of pairs is updated with the first product and enters the second one at once: a sweep is one pass over blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..core.device import highest_precision

INNER = 3  # passes over the components in one mode update
FLOOR = 1e-9  # smallest denominator of a column update (in units where the mean square of the data is 1)
CHECK_EVERY = 5  # sweeps between two looks of the host at the device


class PairSource(Protocol):
    """A tensor that is made or read block by block along its pair axis."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sizes (n_time, n_animals, n_pairs)."""
        ...

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield (pair slice, tensor (n_time, n_animals, n_pairs_of_the_slice)) in order, the same at every call."""
        ...


class Factors(NamedTuple):
    """Transposed factors of a batch of restarts."""

    time: Tensor  # (restart, component, time)
    animal: Tensor  # (restart, component, animal)
    pair: Tensor  # (restart, component, pair)


class State(NamedTuple):
    """Factors with the sums over pairs that the next time and animal updates need."""

    factors: Factors
    moments: Tensor  # (restart, component, time, animal): data times pair factor
    gram: Tensor  # (restart, component, component[, animal]): Gram of the pair factor, per animal when masked


@dataclass(frozen=True)
class Data:
    """The validated tensor, whole or streamed, with what every solver needs to know about it."""

    source: PairSource
    shape: tuple[int, int, int]
    mask: Tensor | None  # (animal, pair) in the working dtype, None when every fibre is observed
    dtype: torch.dtype
    device: torch.device
    scale: float  # root mean square of the observed entries
    power: float  # sum of squares of the observed entries divided by scale**2
    block_bytes: int

    @property
    def precise(self) -> torch.dtype:
        """The dtype of norms, inner products and Gram matrices."""
        return highest_precision(self.device)

    @property
    def split(self) -> int:
        """Number of row blocks of X multiplied in parallel: the largest divisor of its rows up to 8."""
        rows = self.shape[0] * self.shape[1]
        return max(k for k in range(1, 9) if rows % k == 0)

    def blocks(self, width: int) -> Iterator[tuple[slice, Tensor]]:
        """Yield (pair slice, X (time * animal, p)) with at most ``width`` pairs, missing fibres filled with zero."""
        for where, chunk in self.source.chunks():
            flat = chunk.to(self.dtype).reshape(-1, chunk.shape[-1])  # (time * animal, p)
            if self.mask is not None and not isinstance(self.source, Dense):
                seen = self.mask[:, where].bool().repeat(self.shape[0], 1)
                flat = torch.where(seen, flat, flat.new_zeros(()))
            for start in range(0, flat.shape[1], width):
                stop = min(start + width, flat.shape[1])
                yield slice(where.start + start, where.start + stop), flat[:, start:stop]

    def width(self, bytes_per_pair: int) -> int:
        """Pairs of a block so that its temporaries stay within ``block_bytes``."""
        return max(1, self.block_bytes // max(1, bytes_per_pair))


@dataclass(frozen=True)
class Dense:
    """A tensor in memory as a source of one block; its missing fibres are already zero."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sizes (n_time, n_animals, n_pairs)."""
        n_time, n_animals, n_pairs = self.tensor.shape
        return n_time, n_animals, n_pairs

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the whole tensor once."""
        yield slice(0, self.tensor.shape[2]), self.tensor


# ------------------------------------------------------------ products with the data


def project(data: Data, outer: Tensor, flat: Tensor) -> Tensor:
    """Numerator of the pair factor: outer (S, R, T, W) with flat (T W, p) gives (S, R, p)."""
    starts, rank = outer.shape[:2]
    left = outer.reshape(starts * rank, data.split, -1).transpose(0, 1)  # (k, S R, T W / k)
    right = flat.reshape(data.split, -1, flat.shape[1])  # (k, T W / k, p)
    return torch.bmm(left, right).sum(0).reshape(starts, rank, -1)


def _contract(data: Data, pair: Tensor, flat: Tensor) -> Tensor:
    """Moments of a block: pair (S, R, p) with flat (T W, p) gives (S, R, T, W)."""
    starts, rank, width = pair.shape
    left = pair.reshape(1, starts * rank, width).expand(data.split, -1, -1)
    right = flat.reshape(data.split, -1, width).transpose(1, 2)  # (k, p, T W / k)
    rows = torch.bmm(left, right).transpose(0, 1)  # (S R, k, T W / k)
    return rows.reshape(starts, rank, data.shape[0], data.shape[1])


def outer_rows(time: Tensor, animal: Tensor) -> Tensor:
    """Khatri-Rao rows: (S, R, T) and (S, R, W) give (S, R, T, W)."""
    return time.unsqueeze(-1) * animal.unsqueeze(-2)


def self_gram(factor: Tensor, precise: torch.dtype) -> Tensor:
    """Gram matrix (S, R, R) of a factor (S, R, n), accumulated in the highest precision."""
    high = factor.to(precise)
    return high @ high.mT


def _pair_gram(data: Data, pair: Tensor, where: slice) -> Tensor:
    """Gram of a block of the pair factor: (S, R, R), or (S, R, R, W) counting in each animal its observed pairs."""
    if data.mask is None:
        return self_gram(pair, data.precise)
    starts, rank, _ = pair.shape
    high, seen = pair.to(data.precise), data.mask[:, where].to(data.precise)
    row, col = torch.triu_indices(rank, rank, device=pair.device)
    upper = (high[:, row] * high[:, col]) @ seen.mT  # (S, R (R + 1) / 2, W)
    full = upper.new_empty(starts, rank, rank, upper.shape[-1])
    full[:, row, col] = upper
    full[:, col, row] = upper
    return full


def _empty_gram(data: Data, starts: int, rank: int) -> Tensor:
    """Zero Gram of the pair factor, (S, R, R) or (S, R, R, W)."""
    sizes = (starts, rank, rank) if data.mask is None else (starts, rank, rank, data.shape[1])
    return torch.zeros(sizes, dtype=data.precise, device=data.device)


def bytes_per_pair(data: Data, starts: int, rank: int) -> int:
    """Bytes of temporaries one pair costs in a sweep of ``starts`` restarts."""
    grams = 0 if data.mask is None else 2 * rank * rank * 8
    return starts * (4 * rank * 8 + grams)


def begin(data: Data, factors: Factors) -> State:
    """Sum the moments and the Gram of the pair factor over the blocks (one pass)."""
    starts, rank = factors.pair.shape[:2]
    moments = factors.time.new_zeros(starts, rank, *data.shape[:2])
    gram = _empty_gram(data, starts, rank)
    for where, flat in data.blocks(data.width(bytes_per_pair(data, starts, rank))):
        block = factors.pair[..., where]
        moments += _contract(data, block, flat)
        gram += _pair_gram(data, block, where)
    return State(factors, moments / data.scale, gram)


# ------------------------------------------------------------ column updates


def update(factor: Tensor, numerator: Tensor, gram: Tensor) -> Tensor:
    """Three HALS passes over the components, one Gram for all rows.

    factor, numerator (S, R, n); gram (S, R, R).  Each step is f_r <- max(0, f_r + (num_r - f G_r) / max(G_rr, 1e-9)),
    written as one product with K = I - G / diag(G).
    """
    diagonal = gram.diagonal(dim1=-2, dim2=-1).clamp(min=FLOOR).unsqueeze(-1)  # (S, R, 1)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    weights = (eye - gram / diagonal).to(factor.dtype)
    target = (numerator / diagonal).to(factor.dtype)
    new = factor.clone()
    rows = [(new[:, r : r + 1], target[:, r : r + 1], weights[:, r : r + 1]) for r in range(new.shape[1])]
    for _ in range(INNER):
        for row, goal, weight in rows:
            torch.clamp(torch.baddbmm(goal, weight, new), min=0, out=row)
    return new


def update_rows(factor: Tensor, numerator: Tensor, gram: Tensor) -> Tensor:
    """Three HALS passes over the components where each row has its own Gram.

    factor, numerator (S, R, n); gram (S, R, R, n).
    """
    diagonal = gram.diagonal(dim1=1, dim2=2).movedim(-1, 1).clamp(min=FLOOR)  # (S, R, n)
    eye = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)[None, :, :, None]
    weights = (eye - gram / diagonal.unsqueeze(2)).to(factor.dtype)
    target = (numerator / diagonal).to(factor.dtype)
    new = factor.clone()
    for _ in range(INNER):
        for r in range(new.shape[1]):
            torch.clamp((weights[:, r] * new).sum(1) + target[:, r], min=0, out=new[:, r])
    return new


def animal_gram(gram: Tensor, time_gram: Tensor) -> Tensor:
    """Gram of the animal update: (S, R, R), or one per animal (S, R, R, W)."""
    return gram * time_gram if gram.dim() == 3 else gram * time_gram.unsqueeze(-1)


def time_gram_of(gram: Tensor, animal: Tensor) -> Tensor:
    """Gram (S, R, R) of the time update from the Gram of the pair factor and the animal factor (S, R, W)."""
    high = animal.to(gram.dtype)
    if gram.dim() == 3:
        return gram * (high @ high.mT)
    return (gram * high.unsqueeze(2) * high.unsqueeze(1)).sum(-1)


def pair_gram_of(data: Data, time_gram: Tensor, animal: Tensor, where: slice) -> Tensor:
    """Gram of the pair update: (S, R, R), or one per pair (S, R, R, p) in the working dtype."""
    if data.mask is None:
        return time_gram * self_gram(animal, data.precise)
    both = animal.unsqueeze(2) * animal.unsqueeze(1)  # (S, R, R, W)
    return (both @ data.mask[:, where]) * time_gram.to(animal.dtype).unsqueeze(-1)


# ------------------------------------------------------------ one sweep


def hals_sweep(data: Data, state: State, active: Tensor) -> tuple[State, Tensor]:
    """Update time, animal and pair factors once; restarts that are not ``active`` (S,) keep their factors.

    Returns the balanced state and the squared relative error (S,) of the new factors.
    """
    (time, animal, pair), live = state.factors, active[:, None, None]
    matrix = state.moments @ animal.unsqueeze(-1)  # (S, R, T, 1)
    time = torch.where(live, update(time, matrix.squeeze(-1), time_gram_of(state.gram, animal)), time)
    time_gram = self_gram(time, data.precise)
    numerator = (time.unsqueeze(-2) @ state.moments).squeeze(-2)  # (S, R, W)
    step = update if state.gram.dim() == 3 else update_rows
    animal = torch.where(live, step(animal, numerator, animal_gram(state.gram, time_gram)), animal)
    return _pair_pass(data, Factors(time, animal, pair), time_gram, live)


def _pair_pass(data: Data, factors: Factors, time_gram: Tensor, live: Tensor) -> tuple[State, Tensor]:
    """Update the pair factor block by block and gather the sums that the next sweep and the error need."""
    time, animal, old = factors
    starts, rank = old.shape[:2]
    outer = outer_rows(time, animal)
    moments, cross = torch.zeros_like(outer), time_gram.new_zeros(starts)
    pair, gram = torch.empty_like(old), _empty_gram(data, starts, rank)
    for where, flat in data.blocks(data.width(bytes_per_pair(data, starts, rank))):
        numerator = project(data, outer, flat) / data.scale
        own = pair_gram_of(data, time_gram, animal, where)
        step = update if own.dim() == 3 else update_rows
        block = torch.where(live, step(old[..., where], numerator, own), old[..., where])
        pair[..., where] = block
        moments += _contract(data, block, flat)
        cross += (block.to(data.precise) * numerator.to(data.precise)).sum((1, 2))
        gram += _pair_gram(data, block, where)
    model = (time_gram * time_gram_of(gram, animal)).sum((1, 2))
    error = (data.power - 2 * cross + model) / data.power
    return balance(data, State(Factors(time, animal, pair), moments / data.scale, gram)), error


def norms(factors: Factors, precise: torch.dtype) -> Tensor:
    """Column norms (3, S, R) of the three factors in the highest precision."""
    return torch.stack([torch.linalg.vector_norm(f, dim=-1, dtype=precise) for f in factors])


def balance(data: Data, state: State) -> State:
    """Give the three columns of a component the same norm; a component with a zero column is left alone."""
    size = norms(state.factors, data.precise)
    common = size.prod(0).pow(1 / 3)
    ratio = torch.where(common > 0, common / size.clamp(min=torch.finfo(size.dtype).tiny), torch.ones_like(size))
    low = ratio.to(state.moments.dtype).unsqueeze(-1)  # (3, S, R, 1)
    gram_ratio = ratio[2].unsqueeze(-1) * ratio[2].unsqueeze(-2)  # (S, R, R)
    gram_ratio = gram_ratio if state.gram.dim() == 3 else gram_ratio.unsqueeze(-1)
    factors = Factors(*(f * r for f, r in zip(state.factors, low, strict=True)))
    return State(factors, state.moments * low[2].unsqueeze(-1), state.gram * gram_ratio)


def residual(data: Data, factors: Factors) -> Tensor:
    """Relative error (S,) from the explicit residual of every observed entry (one pass, reconstructed in blocks)."""
    starts = factors.pair.shape[0]
    rows = outer_rows(factors.time, factors.animal).flatten(2).mT  # (S, T W, R)
    total = torch.zeros(starts, dtype=data.precise, device=data.device)
    for where, flat in data.blocks(data.width(starts * rows.shape[1] * 3 * 8)):
        gap = flat / data.scale - rows @ factors.pair[..., where]  # (S, T W, p)
        if data.mask is not None:
            gap = gap * data.mask[:, where].repeat(data.shape[0], 1)
        total += gap.to(data.precise).square().sum((1, 2))
    return (total / data.power).sqrt()
