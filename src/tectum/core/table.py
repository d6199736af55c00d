"""Columns attached to an axis: checked when attached, sliced with the axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from .errors import InputError, explain

Column = np.ndarray
Table = Mapping[str, Any]


def as_column(values: Any, where: str) -> Column:
    """Return a one-dimensional NumPy array of numbers, booleans or text.

    Examples
    --------
    >>> as_column(["AVA", "AVB"], "demo").tolist()
    ['AVA', 'AVB']
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype == object and array.ndim == 1:
        array = np.asarray([_text(v) for v in array], dtype=str)
    if array.ndim != 1 or array.dtype.kind not in "biufUS":
        raise InputError(
            explain(
                where,
                expected="one value of number, bool or text for each entry",
                got=f"{array.dtype} of shape {array.shape}",
            )
        )
    return np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return "" if value is None else str(value)


def check_table(table: Mapping[str, Any], length: int, where: str) -> dict[str, Column]:
    """Return the columns as arrays after checking that each has ``length`` entries."""
    checked = {str(name): as_column(values, f"{where}[{name!r}]") for name, values in table.items()}
    for name, column in checked.items():
        if len(column) != length:
            raise InputError(explain(f"{where}[{name!r}]", expected=f"{length} entries", got=str(len(column))))
    return checked


def take(table: Table, index: Any) -> dict[str, Column]:
    """Select rows of every column."""
    return {name: column[index] for name, column in table.items()}


def positions(index: Any, n: int, where: str) -> np.ndarray:
    """Return the positions in ``[0, n)`` that a slice, a mask, or one or many integers select, in their order.

    Examples
    --------
    >>> positions([-1, 0], 4, "demo").tolist(), positions([True, False, True], 3, "demo").tolist()
    ([3, 0], [0, 2])
    """
    if not isinstance(index, slice):
        index = np.atleast_1d(np.asarray(index.detach().cpu() if isinstance(index, Tensor) else index))
        index = index if index.size else index.astype(np.int64)
    try:
        rows = np.ascontiguousarray(np.arange(n)[index])
    except IndexError as cause:
        raise InputError(
            explain(where, expected=f"a mask of {n} or positions in [{-n}, {n})", got=str(cause))
        ) from cause
    if rows.ndim != 1:
        raise InputError(explain(where, expected="a one-dimensional index", got=f"shape {rows.shape}"))
    return rows
