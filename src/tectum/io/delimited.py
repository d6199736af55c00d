"""Small tables of text with a header, read without guessing beyond the delimiter."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from tectum.core.errors import LoadError, explain

from .files import reading

LONGEST = 1 << 28  # bytes of a text table


def read_table(path: Path, *, delimiter: str | None = None) -> dict[str, np.ndarray]:
    """Return the columns of a table as text, by the names in its first row.

    Parameters
    ----------
    path : Path
        The file, in UTF-8.
    delimiter : str, optional
        Default a tab if the first row has one, else a semicolon if it has one, else a comma.
    """
    with reading(path, "a table of text with a header"):
        if path.stat().st_size > LONGEST:
            raise LoadError(explain(str(path), expected=f"at most {LONGEST} bytes", got=f"{path.stat().st_size}"))
        text = path.read_text(encoding="utf-8-sig")
        first = text.split("\n", 1)[0]
        mark = delimiter or next((m for m in "\t;" if m in first), ",")
        rows = [row for row in csv.reader(text.splitlines(), delimiter=mark) if row]
        if not rows or "\x00" in text:
            raise ValueError("no rows of text")
        names = [name.strip() for name in rows[0]]
        if len(set(names)) != len(names):
            raise ValueError(f"column names that repeat: {names}")
        for number, row in enumerate(rows[1:], start=2):
            if len(row) != len(names):
                raise ValueError(f"{len(row)} values in row {number}, {len(names)} names")
        columns = list(zip(*rows[1:], strict=True)) or [()] * len(names)
        return {
            name: np.asarray([v.strip() for v in column], dtype=str)
            for name, column in zip(names, columns, strict=True)
        }


def numbers(column: np.ndarray) -> np.ndarray | None:
    """Return a column as integers or float64 (empty cells are NaN), None if it holds other text."""
    try:
        return column.astype(np.int64)
    except (ValueError, OverflowError):
        pass
    filled = np.where(column == "", "nan", column)
    try:
        return filled.astype(np.float64)
    except ValueError:
        return None
