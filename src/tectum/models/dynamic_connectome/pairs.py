"""The order of unit pairs: row-major upper triangle, and its way back to a matrix."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...core.errors import InputError, explain


def pair_index(n_units: int, *, device: torch.device | str = "cpu") -> Tensor:
    """List the pairs (i < j) of ``n_units`` units in row-major order of the upper triangle.

    Parameters
    ----------
    n_units : int
        Number of units N, at least 2.
    device : torch.device or str, default "cpu"
        Where the index is made.

    Returns
    -------
    Tensor, shape (2, P), int64
        First and second unit of every pair; P = N(N-1)/2.

    Examples
    --------
    >>> pair_index(3).tolist()
    [[0, 0, 1], [1, 2, 2]]
    """
    if n_units < 2:
        raise InputError(explain("pair_index", expected="at least 2 units", got=str(n_units)))
    return torch.triu_indices(n_units, n_units, 1, device=device)


def pair_position(first: Tensor, second: Tensor, *, n_units: int) -> Tensor:
    """Give the position of the pairs (first < second) in the row-major upper triangle.

    Parameters
    ----------
    first, second : Tensor, shape (...), int64
        Units of each pair, ``first < second``.
    n_units : int
        Number of units N.

    Returns
    -------
    Tensor, shape (...), int64

    Examples
    --------
    >>> pair_position(torch.tensor([0, 1]), torch.tensor([2, 2]), n_units=3).tolist()
    [1, 2]
    """
    return first * (2 * n_units - first - 1) // 2 + second - first - 1


def n_units_of(n_pairs: int) -> int:
    """Number of units whose upper triangle holds ``n_pairs`` pairs.

    Examples
    --------
    >>> n_units_of(780)
    40
    """
    n_units = (1 + math.isqrt(1 + 8 * n_pairs)) // 2
    if n_units * (n_units - 1) // 2 != n_pairs:
        raise InputError(explain("n_units_of", expected="a triangular number of pairs", got=str(n_pairs)))
    return n_units


def to_matrix(values: Tensor, *, n_units: int | None = None, pairs: Tensor | None = None, fill: float = 0.0) -> Tensor:
    """Write pair values into symmetric matrices.

    Parameters
    ----------
    values : Tensor, shape (..., P)
        One value a pair.
    n_units : int, optional
        Number of units N; found from P when all pairs are there.
    pairs : Tensor, shape (2, P), int64, optional
        The pairs that ``values`` stand for, where some were removed.
    fill : float, default 0
        The diagonal, and pairs that are not listed.

    Returns
    -------
    Tensor, shape (..., N, N)

    Examples
    --------
    >>> to_matrix(torch.tensor([1., 2., 3.])).tolist()
    [[0.0, 1.0, 2.0], [1.0, 0.0, 3.0], [2.0, 3.0, 0.0]]
    """
    n = n_units if n_units is not None else n_units_of(values.shape[-1])
    index = pair_index(n, device=values.device) if pairs is None else pairs.to(values.device)
    if index.shape[-1] != values.shape[-1]:
        raise InputError(explain("to_matrix", expected=f"{index.shape[-1]} pairs", got=str(values.shape[-1])))
    matrix = values.new_full((*values.shape[:-1], n, n), fill)
    matrix[..., index[0], index[1]] = values
    matrix[..., index[1], index[0]] = values
    return matrix


def from_matrix(matrix: Tensor, *, pairs: Tensor | None = None) -> Tensor:
    """Read the pair values of symmetric matrices: the inverse of `to_matrix`.

    Parameters
    ----------
    matrix : Tensor, shape (..., N, N)
        Symmetric matrices; only the upper triangle is read.
    pairs : Tensor, shape (2, P), int64, optional
        Pairs to read; all of them by default.

    Returns
    -------
    Tensor, shape (..., P)

    Examples
    --------
    >>> from_matrix(to_matrix(torch.tensor([1., 2., 3.]))).tolist()
    [1.0, 2.0, 3.0]
    """
    index = pair_index(matrix.shape[-1], device=matrix.device) if pairs is None else pairs.to(matrix.device)
    return matrix[..., index[0], index[1]]
