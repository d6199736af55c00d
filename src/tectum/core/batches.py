"""Minibatches and learning rates as functions of the step, so that a resumed run sees the same ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import distributed
from .errors import InputError, explain
from .random import generator, spawn


class Minibatches:
    """Shuffled minibatches of aligned tensors as a function of the step; see :func:`minibatches`."""

    def __init__(self, tensors: tuple[Tensor, ...], size: int, seed: int, shuffle: bool) -> None:
        self.tensors, self.size, self.seed, self.shuffle = tensors, size, seed, shuffle
        self.rank, self.world = distributed.world()
        self.per_epoch = len(tensors[0]) // (size * self.world)
        self._epoch, self._order = -1, torch.zeros(0, dtype=torch.int64, device="cpu")

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        """Return this process's share of the global batch of a step."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._permutation(epoch)
        first = (place * self.world + self.rank) * self.size
        rows = self._order[first : first + self.size]
        return tuple(t[rows] for t in self.tensors)

    def _permutation(self, epoch: int) -> Tensor:
        n = len(self.tensors[0])
        if not self.shuffle:
            return torch.arange(n, device=self.tensors[0].device)
        order = torch.randperm(n, generator=generator(spawn(self.seed, "epoch", epoch)), device="cpu")
        return order.to(self.tensors[0].device)


def minibatches(*tensors: Tensor, size: int, seed: int = 0, shuffle: bool = True) -> Minibatches:
    """Return ``batches(step)`` over tensors that share their first axis.

    Parameters
    ----------
    *tensors : Tensor, shape (n_samples, ...)
        Aligned tensors.
    size : int
        Samples of a batch in one process; P processes take P disjoint parts of a global batch of P times ``size``.
    seed : int, default 0
        The order of an epoch depends on (seed, epoch) only.
    shuffle : bool, default True
        Whether to permute every epoch.

    Examples
    --------
    >>> batches = minibatches(torch.arange(6), size=2, shuffle=False)
    >>> batches(1)
    (tensor([2, 3]),)
    """
    lengths = {len(t) for t in tensors}
    if len(lengths) != 1:
        raise InputError(explain("minibatches", expected="tensors of one length", got=str(sorted(lengths))))
    n, global_size = lengths.pop(), size * distributed.world().size
    if not 1 <= global_size <= n:
        raise InputError(
            explain("minibatches(size)", expected=f"1 to {n} samples over all processes", got=str(global_size))
        )
    return Minibatches(tensors, size, seed, shuffle)


def warmup_cosine(steps: int, *, warmup: int = 0, floor: float = 0.0) -> Callable[[int], float]:
    """Return a schedule: linear rise over ``warmup`` steps, then a half cosine down to ``floor``.

    Examples
    --------
    >>> schedule = warmup_cosine(100, warmup=10)
    >>> round(schedule(0), 3), round(schedule(9), 3), round(schedule(99), 3)
    (0.1, 1.0, 0.0)
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        share = (step - warmup + 1) / max(1, steps - warmup)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    return factor
