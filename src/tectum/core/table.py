"""Columns attached to an axis: checked when attached, sliced with the axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from .errors import InputError, explain

Column = np.ndarray
Table = Mapping[str, Column]


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
    if array.dtype == object:
        array = np.asarray(["" if v is None else str(v) for v in array.ravel()])
    if array.ndim != 1 or array.dtype.kind not in "biufUS":
        raise InputError(
            explain(
                where,
                expected="one value of number, bool or text for each entry",
                got=f"{array.dtype} of shape {array.shape}",
            )
        )
    return array.astype(str) if array.dtype.kind == "S" else array


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
