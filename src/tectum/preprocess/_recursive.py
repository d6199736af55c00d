"""Recursive filters as matrix products: a cascade of second-order sections in state-space form, block by block.

Within a block of ``L`` samples the output is one product with a triangular matrix of the impulse response and one with
the state; the states at the block borders follow from a scan of logarithmic depth. Nothing loops over samples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 128  # samples; longest chunk that is filtered by one product


class Cascade(NamedTuple):
    """Second-order sections in state-space form, with the powers that a block needs."""

    respond: Tensor  #: (time, time): input of a block -> output, from the impulse response
    observe: Tensor  #: (state, time): state before a block -> output
    drive: Tensor  #: (time, state): what an input ``i`` samples before the end of a block leaves in the state
    powers: Tensor  #: (time + 1, state, state): transposed transition over ``i`` samples
    steady: Tensor  #: (state,): state after an endless input of one


def cascade(sos: Tensor, *, block: int = BLOCK) -> Cascade:
    """Turn second-order sections into the matrices that :func:`run_cascade` multiplies with.

    Parameters
    ----------
    sos : Tensor, shape (section, 6), float64
        Rows ``b0 b1 b2 a0 a1 a2`` as SciPy gives them.
    block : int, default 128
        Samples in a block.

    Returns
    -------
    Cascade
        On the device of ``sos``.
    """
    a, b, c, d = _series(sos)
    powers = [torch.eye(len(a), dtype=a.dtype, device=a.device)]
    for _ in range(block):
        powers.append(a @ powers[-1])
    stack = torch.stack(powers)  # (time + 1, state, state)
    drive = stack[:-1] @ b  # (time, state)
    observe = c @ stack[:-1]  # (time, state)
    impulse = torch.cat([d[None], drive[:-1] @ c])
    lag = torch.arange(block, device=a.device)[None] - torch.arange(block, device=a.device)[:, None]
    respond = torch.where(lag >= 0, impulse[lag.clamp(min=0)], 0)
    steady = torch.linalg.solve(torch.eye(len(a), dtype=a.dtype, device=a.device) - a, b)
    return Cascade(respond, observe.T.contiguous(), drive, stack.mT.contiguous(), steady)


def _series(sos: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return transition, input, output and feed-through of the sections one after the other."""
    a, b, c, d = sos.new_zeros(0, 0), sos.new_zeros(0), sos.new_zeros(0), sos.new_ones(())
    for section in sos.unbind():
        own, enter, leave, through = _section(section)
        upper = torch.cat([a, a.new_zeros(len(a), 2)], 1)
        a = torch.cat([upper, torch.cat([enter[:, None] * c[None], own], 1)])
        b, c, d = torch.cat([b, enter * d]), torch.cat([c * through, leave]), d * through
    return a, b, c, d


def _section(section: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return one section in a basis that stays exact for poles near one.

    Complex poles become a scaled rotation, real poles two first-order steps; the usual companion form loses digits in
    the differences of nearly equal states.
    """
    b0, b1, b2, a1, a2 = (section / section[3])[[0, 1, 2, 4, 5]].unbind()
    first, second = b1 - a1 * b0, b2 - a2 * b0  # numerator without the feed-through
    middle, spread = -a1 / 2, a2 - (a1 / 2).square()
    turn, apart = spread.clamp(min=0).sqrt(), (-spread).clamp(min=0).sqrt()
    complex_poles, zero, one = spread > 0, torch.zeros_like(b0), torch.ones_like(b0)
    rotation = torch.stack([torch.stack([middle, turn]), torch.stack([-turn, middle])])
    steps = torch.stack([torch.stack([middle + apart, zero]), torch.stack([one, middle - apart])])
    second_out = torch.where(
        complex_poles,
        -(second + first * middle) / torch.where(complex_poles, turn, one),
        second + first * (middle - apart),
    )
    own = torch.where(complex_poles, rotation, steps)
    return own, torch.stack([one, zero]), torch.stack([first, second_out]), b0


def run_cascade(x: Tensor, filters: Cascade, state: Tensor) -> tuple[Tensor, Tensor]:
    """Filter a chunk and return the output with the state behind it.

    Parameters
    ----------
    x : Tensor, shape (channel, time)
        Input, in the precision of the filters.
    filters : Cascade
        What to apply.
    state : Tensor, shape (channel, state)
        State before the chunk.

    Returns
    -------
    y : Tensor, shape (channel, time)
    state : Tensor, shape (channel, state)
    """
    n, block = x.shape[1], len(filters.drive)
    if n <= block:
        return _block(x, filters, state)
    whole = x[:, : n // block * block].reshape(len(x), -1, block)  # (channel, block, time)
    after = _scan_blocks(whole @ filters.drive.flip(0), filters.powers[block], state)  # (channel, block, state)
    before = torch.cat([state[:, None], after[:, :-1]], 1)
    y = (whole @ filters.respond + before @ filters.observe).reshape(len(x), -1)
    rest, state = _block(x[:, y.shape[1] :], filters, after[:, -1])
    return torch.cat([y, rest], 1), state


def _block(x: Tensor, filters: Cascade, state: Tensor) -> tuple[Tensor, Tensor]:
    """Filter at most one block."""
    n = x.shape[1]
    y = x @ filters.respond[:n, :n] + state @ filters.observe[:, :n]
    return y, state @ filters.powers[n] + x @ filters.drive[:n].flip(0)


def _scan_blocks(entered: Tensor, power: Tensor, state: Tensor) -> Tensor:
    """Return the state after each block, by doubling: entered (channel, block, state), power (state, state)."""
    reached = torch.cat([entered[:, :1] + (state @ power)[:, None], entered[:, 1:]], 1)
    step = 1
    while step < reached.shape[1]:
        reached = torch.cat([reached[:, :step], reached[:, step:] + reached[:, :-step] @ power], 1)
        power, step = power @ power, 2 * step
    return reached


def decaying_sum(keep: Tensor, add: Tensor, start: Tensor, *, block: int = 256) -> Tensor:
    """Return ``y[t] = keep[t] * y[t - 1] + add[t]`` with ``y[-1] = start``, by a scan of logarithmic depth.

    Parameters
    ----------
    keep, add : Tensor, shape (channel, time)
        Factors in [0, 1], and what is added.
    start : Tensor, shape (channel,)
        Value before the first sample.
    block : int, default 256
        Samples that are scanned at once; longer inputs are scanned block by block, and the borders likewise.

    Returns
    -------
    Tensor, shape (channel, time)

    Examples
    --------
    >>> decaying_sum(torch.full((1, 3), 0.5), torch.ones(1, 3), torch.zeros(1)).tolist()
    [[1.0, 1.5, 1.75]]
    """
    n_channels, n = add.shape
    if n <= block:
        kept, made = _scan(keep, add)
        return made + kept * start[:, None]
    short = -n % block
    keep, add = torch.nn.functional.pad(keep, (0, short)), torch.nn.functional.pad(add, (0, short))
    kept, made = _scan(keep.reshape(n_channels, -1, block), add.reshape(n_channels, -1, block))
    border = decaying_sum(kept[..., -1], made[..., -1], start, block=block)  # (channel, block)
    before = torch.cat([start[:, None], border[:, :-1]], 1)
    return (made + kept * before[..., None]).reshape(n_channels, -1)[:, :n]


def _scan(keep: Tensor, add: Tensor) -> tuple[Tensor, Tensor]:
    """Return running products of ``keep`` and the recurrence from zero, along the last axis."""
    step = 1
    while step < add.shape[-1]:
        add = torch.cat([add[..., :step], add[..., step:] + keep[..., step:] * add[..., :-step]], -1)
        keep = torch.cat([keep[..., :step], keep[..., step:] * keep[..., :-step]], -1)
        step *= 2
    return keep, add
