"""Gaussians whose precision is block tridiagonal: means, covariances and determinants, sequential or parallel in time.

``method="sequential"`` factorises the precision bin after bin (Cholesky). ``"parallel"`` is cyclic reduction: all odd
bins are eliminated at once, which leaves a chain of half the length. It does about twice the arithmetic, still linear
in time, but only log2(time) steps follow one another. Use float64.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from tectum.core.errors import InputError, NotDefiniteError, explain

from . import _small_matrices as small

__all__ = ["Blocks", "Method", "Smoothed", "Solution", "choose_method", "smooth_blocks", "solve_blocks"]

Method = Literal["auto", "sequential", "parallel"]

_METHODS = ("auto", "sequential", "parallel")
_JITTERS = (1e-10, 1e-8, 1e-6)  # times the mean diagonal


class Blocks(NamedTuple):
    """Gaussian with block tridiagonal precision P and linear term u: log density u'h - h'Ph/2 + constant."""

    diagonal: Tensor
    """(..., time, q, q)."""
    upper: Tensor
    """(..., time - 1, q, q), block (t, t + 1)."""
    linear: Tensor
    """(..., time, q)."""


class Solution(NamedTuple):
    """Solutions of P x = u and the log-determinant of P."""

    mean: Tensor
    """(..., time, q), P^-1 u."""
    shifted: Tensor
    """(..., time, q), P^-1 (u + shift); equal to ``mean`` without a shift."""
    log_determinant: Tensor
    """(...) of the precision."""
    retries: Tensor
    """(...) int64, levels of jitter that the factorisation needed."""


class Smoothed(NamedTuple):
    """Moments of a path."""

    mean: Tensor
    """(..., time, q)."""
    covariance: Tensor
    """(..., time, q, q)."""
    cross_covariance: Tensor
    """(..., time - 1, q, q), covariance of h_t with h_{t+1}."""
    log_determinant: Tensor
    """(...) of the precision."""


def choose_method(size: int, n_time: int, *, n_batch: int, device: torch.device) -> Method:
    """Pick the faster method for a problem, from times measured on one core.

    On the CPU a loop costs about 30 microseconds a bin, cyclic reduction about 0.3 milliseconds a level; blocks of more
    than six rows go to LAPACK either way, and the loop then does less arithmetic.

    Parameters
    ----------
    size : int
        Rows q of a block.
    n_time : int
        Bins.
    n_batch : int
        Paths.
    device : torch.device
        Where they lie.

    Returns
    -------
    {"sequential", "parallel"}

    Examples
    --------
    >>> choose_method(3, 500, n_batch=20, device=torch.device("cpu"))
    'parallel'
    """
    if device.type != "cpu":
        return "parallel" if n_time >= 16 else "sequential"
    return "parallel" if size <= 6 and (n_time >= 100 or (n_time >= 8 and n_batch >= 100)) else "sequential"


def solve_blocks(blocks: Blocks, *, shift: Tensor | None = None, method: Method = "auto") -> Solution:
    """Solve P x = u for block tridiagonal Gaussians, and log |P|.

    Parameters
    ----------
    blocks : Blocks
        Precision and linear term.
    shift : Tensor or None
        (..., time, q) added to the linear term in a second solution that shares the factorisation.
    method : {"auto", "sequential", "parallel"}
        How time is traversed; results agree to rounding.

    Returns
    -------
    Solution
        Mean, shifted mean, log-determinant, retries.

    Raises
    ------
    InputError
        Unknown method.
    NonFiniteError
        A precision is not positive definite even with 1e-6 of its mean diagonal added.

    Examples
    --------
    >>> blocks = Blocks(2 * torch.ones(3, 1, 1), torch.zeros(2, 1, 1), torch.ones(3, 1))
    >>> solve_blocks(blocks).mean.flatten()
    tensor([0.5000, 0.5000, 0.5000])
    """
    factor, batch, retries = _factorise(blocks, shift, method)
    solved = _batch_first(factor.solve(), batch)  # (..., time, q, 1 or 2)
    log_determinant = factor.log_determinant().reshape(batch)
    return Solution(solved[..., 0], solved[..., -1], log_determinant, retries.reshape(batch))


def smooth_blocks(blocks: Blocks, *, method: Method = "auto") -> Smoothed:
    """Means, covariances and lag-one covariances of block tridiagonal Gaussians.

    Parameters
    ----------
    blocks : Blocks
        Precision and linear term.
    method : {"auto", "sequential", "parallel"}
        How time is traversed; results agree to rounding.

    Returns
    -------
    Smoothed
        Moments and log-determinant.

    Raises
    ------
    InputError
        Unknown method.
    NonFiniteError
        A precision is not positive definite even with 1e-6 of its mean diagonal added.

    Examples
    --------
    >>> blocks = Blocks(2 * torch.ones(3, 1, 1), torch.zeros(2, 1, 1), torch.ones(3, 1))
    >>> smooth_blocks(blocks).covariance.flatten()
    tensor([0.5000, 0.5000, 0.5000])
    """
    factor, batch, _ = _factorise(blocks, None, method)
    covariance, cross = (_batch_first(moment, batch) for moment in factor.covariances())
    mean = _batch_first(factor.solve(), batch).squeeze(-1)
    return Smoothed(mean, covariance, cross, factor.log_determinant().reshape(batch))


def _choose(diagonal: Tensor) -> Method:
    """Pick a method for (q, q, time, batch)."""
    size, _, n_time, n_batch = diagonal.shape
    return choose_method(size, n_time, n_batch=n_batch, device=diagonal.device)


class _Factor(Protocol):
    """A factorised precision with its whitened right-hand sides; tensors are (time, batch, ...)."""

    def solve(self) -> Tensor:
        """(time, batch, q, r)."""

    def covariances(self) -> tuple[Tensor, Tensor]:
        """(time, batch, q, q) and (time - 1, batch, q, q)."""

    def log_determinant(self) -> Tensor:
        """(batch,)."""

    def failed(self) -> Tensor:
        """(batch,) bool: some pivot was not positive."""


def _factorise(blocks: Blocks, shift: Tensor | None, method: Method) -> tuple[_Factor, tuple[int, ...], Tensor]:
    """Factorise the whole batch; add growing jitter to the members that are not positive definite."""
    if method not in _METHODS:
        raise InputError(explain("method", expected=" or ".join(_METHODS), got=repr(method)))
    linear = blocks.linear.unsqueeze(-1)
    if shift is not None:
        linear = torch.cat([linear, linear + shift.unsqueeze(-1)], dim=-1)
    batch = torch.broadcast_shapes(blocks.diagonal.shape[:-3], blocks.upper.shape[:-3], linear.shape[:-3])
    diagonal, upper, linear = (_rows_first(x, batch) for x in (blocks.diagonal, blocks.upper, linear))
    chosen = _choose(diagonal) if method == "auto" else method
    build = _sequential if chosen == "sequential" else _cyclic
    factor = build(diagonal, upper, linear)
    failed = factor.failed()
    retries = torch.zeros_like(failed, dtype=torch.int64)
    for jitter in _JITTERS:
        if not bool(failed.any()):
            return factor, batch, retries
        size = jitter * diagonal.diagonal().mean(dim=(0, -1)) * failed  # (batch,)
        eye = torch.eye(diagonal.shape[0], dtype=diagonal.dtype, device=diagonal.device)
        factor = build(diagonal + eye[:, :, None, None] * size, upper, linear)
        retries, failed = retries + failed, factor.failed()
    if bool(failed.any()):
        raise _not_definite(failed.reshape(batch))
    return factor, batch, retries


def _not_definite(failed: Tensor) -> NotDefiniteError:
    """Name the members of the batch that have no Cholesky factor."""
    members = failed.nonzero().tolist()
    error = NotDefiniteError(
        explain("precision of a path", expected="a positive definite matrix, with jitter up to 1e-6",
                got=f"a negative or non-finite pivot at batch index {members}",
                fix="check covariances, weights and counts for non-finite or extreme values")
    )  # fmt: skip
    error.members = tuple(map(tuple, members))
    return error


def _rows_first(value: Tensor, batch: tuple[int, ...]) -> Tensor:
    """Bring (..., time, q, r) to (q, r, time, batch)."""
    flat = value.expand(*batch, *value.shape[-3:]).reshape(math.prod(batch), *value.shape[-3:])
    return flat.permute(2, 3, 1, 0).contiguous()


def _batch_first(value: Tensor, batch: tuple[int, ...]) -> Tensor:
    """Bring (time, batch, q, r) back to (..., time, q, r)."""
    return value.movedim(0, 1).reshape(*batch, value.shape[0], *value.shape[2:])


def _half_log_determinant(lower: Tensor) -> Tensor:
    """Sum the log diagonals of (time, batch, q, q) triangles over time: (batch,)."""
    return lower.diagonal(dim1=-2, dim2=-1).log().sum(dim=(0, -1))


class _Sequential(NamedTuple):
    """Block bidiagonal Cholesky factor in time order."""

    lower: Tensor  # (time, batch, q, q) L_t
    above: Tensor  # (time - 1, batch, q, q) L_t^-1 P_{t,t+1}
    white: Tensor  # (time, batch, q, r) whitened right-hand sides
    info: Tensor  # (time, batch)

    def solve(self) -> Tensor:
        """Substitute backwards: h_t = g_t - G_t h_{t+1}."""
        joint = torch.cat([self.white[:-1], self.above], dim=-1)
        joint = torch.linalg.solve_triangular(self.lower[:-1].mT, joint, upper=True)
        r = self.white.shape[-1]
        constants, gains = joint[..., :r], joint[..., r:]
        after = torch.linalg.solve_triangular(self.lower[-1].mT, self.white[-1], upper=True)
        path = [after]
        for constant, gain in zip(reversed(constants.unbind()), reversed(gains.unbind()), strict=True):
            after = torch.baddbmm(constant, gain, after, alpha=-1)
            path.append(after)
        return torch.stack(path[::-1])

    def covariances(self) -> tuple[Tensor, Tensor]:
        """Propagate the covariance backwards."""
        gains = torch.linalg.solve_triangular(self.lower[:-1].mT, self.above, upper=True)
        local = torch.cholesky_inverse(self.lower)
        after = local[-1]
        found, cross = [after], []
        for own, gain in zip(reversed(local[:-1].unbind()), reversed(gains.unbind()), strict=True):
            shared = gain @ after
            after = torch.baddbmm(own, shared, gain.mT)
            found.append(after)
            cross.append(-shared)
        return torch.stack(found[::-1]), torch.stack(cross[::-1]) if cross else self.above

    def log_determinant(self) -> Tensor:
        """Twice the log diagonals."""
        return 2 * _half_log_determinant(self.lower)

    def failed(self) -> Tensor:
        """Flags of the Cholesky routine."""
        return (self.info != 0).any(dim=0)


def _sequential(diagonal: Tensor, upper: Tensor, linear: Tensor) -> _Sequential:
    """Eliminate bin after bin; the right-hand sides ride along as extra columns."""
    diagonal, upper, linear = (small.matrices_last(x).contiguous() for x in (diagonal, upper, linear))
    q, r = diagonal.shape[-1], linear.shape[-1]
    joint = torch.cat([diagonal, linear], dim=-1)
    rights = torch.cat([torch.nn.functional.pad(upper, (0, 0, 0, 0, 0, 0, 0, 1)), linear], dim=-1)
    lowers: list[Tensor] = []
    solved: list[Tensor] = []
    infos: list[Tensor] = []
    for t, (current, right) in enumerate(zip(joint.unbind(), rights.unbind(), strict=True)):
        if t:
            current = torch.baddbmm(current, solved[-1][..., :q].mT, solved[-1], alpha=-1)
            right[..., q:] = current[..., q:]
        lower, info = torch.linalg.cholesky_ex(current[..., :q])
        lowers.append(lower)
        infos.append(info)
        solved.append(torch.linalg.solve_triangular(lower, right, upper=False))
    joined = torch.stack(solved)  # (time, batch, q, q + r)
    return _Sequential(torch.stack(lowers), joined[:-1, ..., :q], joined[..., -r:], torch.stack(infos))


class _Level(NamedTuple):
    """The odd bins of one level of the reduction, given their neighbours; tensors are (row, column, odd, batch)."""

    lower: Tensor  # (q, q, ...) Cholesky factors of their diagonal blocks
    left: Tensor  # (q, q, ...) whitened coupling to the bin before, with a minus
    right: Tensor  # (q, q, ...) whitened coupling to the bin after, with a minus; zero for a last bin
    white: Tensor  # (q, r, ...)


class _Cyclic(NamedTuple):
    """Factor in the order of elimination: odd bins of every level, then the one bin that is left."""

    levels: list[_Level]
    root: _Level

    def solve(self) -> Tensor:
        """Substitute from the last bin left down to the odd bins of the first level."""
        path = small.solve_upper(self.root.lower, self.root.white)
        for level in reversed(self.levels):
            before, after = _neighbours(path, level)
            residual = small.product(level.left, before, onto=level.white.clone())
            residual = small.product(level.right, after, onto=residual)
            path = _interleave(path, small.solve_upper(level.lower, residual))
        return small.matrices_last(path)

    def covariances(self) -> tuple[Tensor, Tensor]:
        """Carry variances and covariances of neighbours from level to level."""
        found = small.inverse_of_cholesky(self.root.lower)
        cross = found[:, :, :0]
        for level in reversed(self.levels):
            to_before, to_after = small.solve_upper(level.lower, torch.cat([level.left, level.right], 1)).chunk(
                2, dim=1
            )
            before, after = _neighbours(found, level)
            between = _neighbours(torch.cat([found[:, :, :1], cross], dim=2), level)[1]  # of the bins on both sides
            with_before = small.product(to_after, between.transpose(0, 1), onto=small.product(to_before, before))
            with_after = small.product(to_after, after, onto=small.product(to_before, between))
            odd = small.inverse_of_cholesky(level.lower)
            odd = small.product(with_before, to_before.transpose(0, 1), onto=odd)
            odd = small.product(with_after, to_after.transpose(0, 1), onto=odd)
            cross = _interleave(with_before.transpose(0, 1), with_after[:, :, : found.shape[2] - 1])
            found = _interleave(found, odd)
        return small.matrices_last(found), small.matrices_last(cross)

    def log_determinant(self) -> Tensor:
        """Twice the log diagonals of all levels."""
        total = small.log_diagonal(self.root.lower).sum(dim=0)
        for level in self.levels:
            total = total + small.log_diagonal(level.lower).sum(dim=0)
        return 2 * total

    def failed(self) -> Tensor:
        """Find the members that a bad pivot turned into NaN."""
        return ~self.log_determinant().isfinite()


def _neighbours(even: Tensor, level: _Level) -> tuple[Tensor, Tensor]:
    """Give every odd bin the entries of the even bins before and after it (zero after a last bin)."""
    count = level.lower.shape[2]
    after = even[:, :, 1 : count + 1]
    if after.shape[2] < count:
        after = torch.nn.functional.pad(after, (0, 0, 0, 1))
    return even[:, :, :count], after


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    """Zip two time axes; ``even`` has as many entries as ``odd`` or one more."""
    path = even.new_empty((*even.shape[:2], even.shape[2] + odd.shape[2], even.shape[3]))
    path[:, :, 0::2], path[:, :, 1::2] = even, odd
    return path


def _cyclic(diagonal: Tensor, upper: Tensor, linear: Tensor) -> _Cyclic:
    """Eliminate the odd bins until one bin is left."""
    coupling = -upper  # carried with a minus, which saves the sign of every product
    levels = []
    while diagonal.shape[2] > 1:
        level, diagonal, coupling, linear = _reduce(diagonal, coupling, linear)
        levels.append(level)
    lower = small.cholesky(diagonal)
    return _Cyclic(levels, _Level(lower, lower, lower, small.solve_lower(lower, linear.clone())))


def _reduce(diagonal: Tensor, coupling: Tensor, linear: Tensor) -> tuple[_Level, Tensor, Tensor, Tensor]:
    """Eliminate every second bin; return what is left of the chain."""
    q, n_time = diagonal.shape[0], diagonal.shape[2]
    odd, inner = n_time // 2, (n_time - 1) // 2  # eliminated bins; those with a bin after them
    lower = small.cholesky(diagonal[:, :, 1::2])
    after = torch.nn.functional.pad(coupling[:, :, 1::2], (0, 0, 0, odd - inner))
    columns = torch.cat([coupling[:, :, 0::2].transpose(0, 1), after, linear[:, :, 1::2]], dim=1)
    white = small.solve_lower(lower, columns)
    left, right, rest = white.split([q, q, linear.shape[1]], dim=1)
    diagonal, linear = diagonal[:, :, 0::2].clone(), linear[:, :, 0::2].clone()
    diagonal[:, :, :odd] -= small.transposed_product(left, left)
    small.transposed_product(left, rest, onto=linear[:, :, :odd])
    right, beyond = right[:, :, :inner], rest[:, :, :inner]
    diagonal[:, :, 1 : inner + 1] -= small.transposed_product(right, right)
    small.transposed_product(right, beyond, onto=linear[:, :, 1 : inner + 1])
    joined = small.transposed_product(left[:, :, :inner], right)
    return _Level(lower, left, white[:, q : 2 * q], rest), diagonal, joined, linear
