"""Triangular algebra on very many very small matrices, laid out as (row, column, ...) with the batch last.

Batched LAPACK calls cost about a microsecond a matrix whatever its size; with the batch as the fast axis every step is
one long vector operation. Beyond six rows the work goes to LAPACK. A matrix that is not positive definite gives NaN.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_UNROLLED = 6  # rows up to which the loops over rows are written out


def matrices_last(value: Tensor) -> Tensor:
    """Bring (row, column, ...) to (..., row, column)."""
    return value.movedim((0, 1), (-2, -1))


def matrices_first(value: Tensor) -> Tensor:
    """Bring (..., row, column) to (row, column, ...), contiguous."""
    return value.movedim((-2, -1), (0, 1)).contiguous()


def _through_lapack(function: Callable[..., Tensor], *values: Tensor) -> Tensor:
    """Apply a function of matrices in their usual layout."""
    return matrices_first(function(*(matrices_last(value) for value in values)))


def cholesky(matrix: Tensor) -> Tensor:
    """Lower triangular factors of (q, q, ...), above them arbitrary; NaN where a pivot is not positive."""
    q = matrix.shape[0]
    if q > _UNROLLED:
        return _through_lapack(_lapack_cholesky, matrix)
    lower = torch.empty(matrix.shape, dtype=matrix.dtype, device=matrix.device)
    for j in range(q):
        column = matrix[j:, j]
        for k in range(j):
            column = torch.addcmul(column, lower[j:, k], lower[j, k], value=-1)
        torch.mul(column, column[0].rsqrt(), out=lower[j:, j])
    return lower


def _lapack_cholesky(matrix: Tensor) -> Tensor:
    lower, info = torch.linalg.cholesky_ex(matrix)
    return torch.where((info == 0)[..., None, None], lower, torch.nan)


def solve_lower(lower: Tensor, right: Tensor) -> Tensor:
    """Solve L X = R for (q, q, ...) and (q, r, ...); overwrites R where the loops are written out."""
    if lower.shape[0] > _UNROLLED:
        return _through_lapack(lambda a, b: torch.linalg.solve_triangular(a, b, upper=False), lower, right)
    for i, scale in enumerate(_diagonal(lower).reciprocal()):
        for k in range(i):
            right[i].addcmul_(lower[i, k], right[k], value=-1)
        right[i].mul_(scale)
    return right


def solve_upper(lower: Tensor, right: Tensor) -> Tensor:
    """Solve L' X = R for (q, q, ...) and (q, r, ...); overwrites R where the loops are written out."""
    q = lower.shape[0]
    if q > _UNROLLED:
        return _through_lapack(lambda a, b: torch.linalg.solve_triangular(a.mT, b, upper=True), lower, right)
    scales = _diagonal(lower).reciprocal()
    for i in reversed(range(q)):
        for k in range(i + 1, q):
            right[i].addcmul_(lower[k, i], right[k], value=-1)
        right[i].mul_(scales[i])
    return right


def _diagonal(matrix: Tensor) -> Tensor:
    """Diagonals (q, ...) of (q, q, ...)."""
    return torch.stack([matrix[i, i] for i in range(matrix.shape[0])])


def transposed_product(left: Tensor, right: Tensor, *, onto: Tensor | None = None) -> Tensor:
    """A' B for (q, m, ...) and (q, r, ...): (m, r, ...); added in place to ``onto`` where that is given."""
    if left.shape[0] > _UNROLLED:
        result = _through_lapack(lambda a, b: a.mT @ b, left, right)
        return result if onto is None else onto.add_(result)
    start = 0
    if onto is None:
        onto, start = left[0].unsqueeze(1) * right[0].unsqueeze(0), 1
    for k in range(start, left.shape[0]):
        onto.addcmul_(left[k].unsqueeze(1), right[k].unsqueeze(0))
    return onto


def product(left: Tensor, right: Tensor, *, onto: Tensor | None = None) -> Tensor:
    """A B for (m, q, ...) and (q, r, ...): (m, r, ...); added in place to ``onto`` where that is given."""
    return transposed_product(left.transpose(0, 1), right, onto=onto)


def inverse_of_cholesky(lower: Tensor) -> Tensor:
    """(L L')^-1 for (q, q, ...)."""
    eye = torch.eye(lower.shape[0], dtype=lower.dtype, device=lower.device)
    root = solve_lower(lower, eye.reshape(*eye.shape, *(1,) * (lower.ndim - 2)).expand_as(lower).clone())
    return transposed_product(root, root)


def log_diagonal(lower: Tensor) -> Tensor:
    """Sum the log diagonals of (q, q, ...) factors: (...)."""
    return _diagonal(lower).log().sum(dim=0)
