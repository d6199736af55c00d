"""Sparse matrices of files: their indices checked, since SciPy's compiled code follows them wherever they lead."""

from __future__ import annotations

from typing import Any

import numpy as np

MOST_ROWS = 1 << 40


def by_columns(values: np.ndarray, rows: np.ndarray, ends: np.ndarray, n_rows: int) -> Any:
    """Build a matrix from its compressed columns.

    Parameters
    ----------
    values : array, shape (n,)
        Numbers, column by column.
    rows : array of int, shape (n,)
        Row of each.
    ends : array of int, shape (n_columns + 1,)
        Where columns begin and the last one ends.
    n_rows : int
        Rows.

    Returns
    -------
    scipy.sparse.csc_matrix

    Raises
    ------
    ValueError
        If indices lie outside, or columns do not follow each other.

    Examples
    --------
    >>> by_columns(np.array([5.0]), np.array([1]), np.array([0, 0, 1]), 2).toarray().tolist()
    [[0.0, 0.0], [0.0, 5.0]]
    """
    from scipy.sparse import csc_matrix

    rows, ends = rows.astype(np.int64), ends.astype(np.int64)
    ordered = ends.ndim == 1 and len(ends) > 0 and ends[0] == 0 and bool((np.diff(ends) >= 0).all())
    if not ordered or not ends[-1] <= min(len(rows), len(values)):
        raise ValueError(f"a sparse matrix whose columns do not follow each other in {len(values)} numbers")
    n = int(ends[-1])
    if not 0 <= n_rows <= MOST_ROWS or (n and not 0 <= rows[:n].min() <= rows[:n].max() < n_rows):
        raise ValueError(f"a sparse matrix of {n_rows} rows with entries outside")
    return csc_matrix((values[:n], rows[:n], ends), shape=(n_rows, len(ends) - 1))
