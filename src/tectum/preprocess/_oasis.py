"""Non-negative deconvolution of calcium traces by pooling adjacent violators, all pools of all regions at once.

With c_t the calcium that decays by gamma each frame, least squares under c_t >= gamma c_{t-1} is an isotonic
regression of c_t / gamma^t. Adjacent violators may be pooled in any order, so every round here pools all runs of
violators of a block together instead of one pair after the other. The value of a pool of l frames from frame a is

    v = (R_a - gamma^l R_{a+l}) (1 - gamma^2) / (1 - gamma^{2 l}),   R_t = y_t + gamma R_{t+1},

so that a pool is nothing but its first frame: rounds gather, compare and compact. R is found by products with small
triangular matrices. A few rounds over all pools settle most of noisy traces; the rest is a linked list of which only
the neighbours of what changed are looked at again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tectum.core.device import highest_precision

_STEP = 12  # frames a product with a triangular matrix
_BLOCK = {"cpu": 200_000}  # samples worked on at once: what fits into the cache of a core
_BLOCK_ELSEWHERE = 1 << 24
#: The C library of Linux keeps freed memory for reuse up to twice the largest piece (<= 32 MB) freed before. Without
#: one such piece every block would ask the system for its pages anew, which costs more than the computation.
_HEAP = 31 << 20


def deconvolve(traces: Tensor, *, gamma: float) -> Tensor:
    """Deconvolve traces with an exponential kernel under the constraint that activity is not negative.

    Parameters
    ----------
    traces : Tensor, shape (unit, time), floating
        Baseline-corrected fluorescence, finite.
    gamma : float
        Decay of calcium over one frame, in (0, 1): ``exp(-1 / (tau * rate))``.

    Returns
    -------
    Tensor, shape (unit, time)
        Activity in the unit of the traces, 0 in the first frame. There is no penalty on its number of events.

    References
    ----------
    Friedrich, Zhou & Paninski (2017), PLoS Comput Biol 13:e1005423; with no sparsity penalty as in suite2p.

    Examples
    --------
    >>> deconvolve(torch.tensor([[0.0, 0.0, 1.0, 0.5, 0.25]]), gamma=0.5).tolist()
    [[0.0, 0.0, 1.0, 0.0, 0.0]]
    """
    n_units, n_time = traces.shape
    if 0 in traces.shape:
        return torch.zeros_like(traces)
    if traces.device.type == "cpu":
        torch.empty(_HEAP, dtype=torch.uint8, device="cpu")
    rows = max(1, _BLOCK.get(traces.device.type, _BLOCK_ELSEWHERE) // n_time)
    found = torch.empty_like(traces)
    for first in range(0, n_units, rows):
        found[first : first + rows] = _block(traces[first : first + rows], gamma)
    return found


def _block(traces: Tensor, gamma: float) -> Tensor:
    """Deconvolve a few traces: (unit, time) -> (unit, time)."""
    n_units, n_time = traces.shape
    width = -(-(n_time + 1) // _STEP) * _STEP  # at least one frame of zeros ends every row
    y = torch.nn.functional.pad(traces, (0, width - n_time)).to(highest_precision(traces.device))
    power = gamma ** torch.arange(width + 1, dtype=y.dtype, device=y.device)
    law = _Law(power, (1 - gamma**2) / (1 - power.square()))
    ends = torch.arange(n_units, device=y.device) * width + n_time
    start = _positions(_rising(y, gamma, n_time))  # (pool,) flat first frames; every row ends in a pool of zeros
    sums = _discounted(y, gamma).reshape(-1).index_select(0, start)
    before = 2 * len(start)
    while len(start) < 0.9 * before:  # rounds over all pools while that pays
        places = _positions(_kept(*law.values(start, sums), start, ends))
        before, start, sums = len(start), start.index_select(0, places), sums.index_select(0, places)
    places = _settled(start, sums, ends, law)
    start, sums = start.index_select(0, places), sums.index_select(0, places)
    value, decayed = law.values(start, sums)
    spikes = traces.new_zeros(n_units * width)
    spikes.index_copy_(0, start[1:-1], (value[1:] - decayed).to(traces.dtype))
    spikes = spikes.reshape(n_units, width)[:, :n_time]
    spikes[:, 0] = 0
    return spikes


class _Law(NamedTuple):
    """Decay over l frames and what normalises a pool of l frames, for every l."""

    power: Tensor
    norm: Tensor

    def pool(self, length: Tensor, here: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value of pools at their first frame and at the first frame after them."""
        decay = self.power.index_select(0, length)
        value = (here - decay * there).mul_(self.norm.index_select(0, length))
        return value, value * decay

    def values(self, start: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value of every pool but the last, and what is left of it when the next begins: one less."""
        value, decayed = self.pool(start[1:] - start[:-1], sums[:-1], sums[1:])
        return value, decayed[:-1]


def _settled(start: Tensor, sums: Tensor, ends: Tensor, law: _Law) -> Tensor:
    """Pool the last violators as a linked list, looking only where something changed; return the pools that remain."""
    keep = _kept(*law.values(start, sums), start, ends)
    place = torch.arange(len(start), device=start.device)
    after, back = (place + 1).clamp(max=len(start) - 1), (place - 1).clamp(min=0)
    last = torch.searchsorted(start, ends)
    fixed = torch.zeros_like(keep)  # the first and the last pool of a row never join the one before
    fixed[last] = True
    fixed[0] = True
    fixed[last[:-1] + 1] = True
    alive = torch.ones_like(keep)
    bad = _positions(~keep)
    while len(bad):
        waits = torch.zeros_like(keep) if len(bad) > 1000 else None
        head, waiting = _heads(bad, back, waits)
        left, right = back.index_select(0, head), after.index_select(0, head)
        alive[head] = False
        after[left] = right
        back[right] = left
        test = torch.cat([left, right, waiting]).unique()
        test = test[alive.index_select(0, test) & ~fixed.index_select(0, test)]
        bad = test[_violates(test, start, sums, after, back, law)]
    return _positions(alive)


def _heads(bad: Tensor, back: Tensor, marks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Split violators into those whose neighbour before is settled, and those that have to wait a round."""
    before = back.index_select(0, bad)
    if marks is None:
        at = torch.searchsorted(bad, before).clamp(max=len(bad) - 1)
        waits = bad.index_select(0, at) == before
    else:
        marks[bad] = True
        waits = marks.index_select(0, before)
    return bad[~waits], bad[waits]


def _violates(test: Tensor, start: Tensor, sums: Tensor, after: Tensor, back: Tensor, law: _Law) -> Tensor:
    """Tell which pools lie below what is left of the pool before them."""
    before, behind = back.index_select(0, test), after.index_select(0, test)
    first, middle, last = (start.index_select(0, x) for x in (before, test, behind))
    low, mid, high = (sums.index_select(0, x) for x in (before, test, behind))
    return law.pool(middle - first, low, mid)[1] > law.pool(last - middle, mid, high)[0]


def _rising(y: Tensor, gamma: float, n_time: int) -> Tensor:
    """Tell which frames begin a pool of their own at first: bool, flat."""
    keep = torch.empty(y.shape, dtype=torch.bool, device=y.device)
    torch.ge(y[:, 1:], gamma * y[:, :-1], out=keep[:, 1:])
    keep[:, 0] = True
    keep[:, n_time] = True
    keep[:, n_time + 1 :] = False
    return keep.reshape(-1)


def _kept(value: Tensor, decayed: Tensor, start: Tensor, ends: Tensor) -> Tensor:
    """Tell which pools do not violate the constraint against the one before; rows do not touch."""
    keep = torch.ones(len(start), dtype=torch.bool, device=start.device)
    torch.ge(value[1:], decayed, out=keep[1:-1])
    last = torch.searchsorted(start, ends)
    keep[last] = True
    keep[last[:-1] + 1] = True
    return keep


def _discounted(y: Tensor, gamma: float) -> Tensor:
    """Return R_t = y_t + gamma R_{t+1} along the last axis: (unit, time) -> (unit, time)."""
    n_units, n_time = y.shape
    lag = torch.arange(_STEP, dtype=y.dtype, device=y.device)
    ahead = lag[:, None] - lag[None, :]
    kernel = torch.where(ahead >= 0, gamma ** ahead.clamp(min=0), 0.0)
    n_steps = -(-n_time // _STEP)
    padded = torch.nn.functional.pad(y, (0, n_steps * _STEP - n_time))
    local = (padded.reshape(-1, _STEP) @ kernel).reshape(n_units, n_steps, _STEP)
    if n_steps > 1:
        carry = _discounted(local[:, :, 0].contiguous(), gamma**_STEP)  # (unit, step)
        local[:, :-1] += carry[:, 1:, None] * gamma ** (_STEP - lag)
    return local.reshape(n_units, n_steps * _STEP)[:, :n_time]


def _positions(keep: Tensor) -> Tensor:
    """Return where a flat bool tensor is True; on the CPU NumPy finds it twenty times faster than torch."""
    if keep.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(keep.numpy()))
    return keep.nonzero().squeeze(1)
