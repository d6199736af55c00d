"""Tables in Parquet files, through pyarrow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import LoadError, MissingExtraError, explain

from .files import reading

MAGIC = b"PAR1"
MOST = 1 << 33  # bytes of a table in memory


def read_columns(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Return the columns of numbers, truth and text of a Parquet table.

    Parameters
    ----------
    path : Path
        The file.
    names : sequence of str, optional
        Columns to read; default all.

    Returns
    -------
    dict of str to ndarray
        In the order of the file. Missing numbers are NaN, missing texts empty; columns of other kinds (lists, structs)
        are left out.

    Raises
    ------
    LoadError
        If the file is damaged.
    MissingExtraError
        If pyarrow is not installed.
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as cause:
        expected = "pyarrow, to read a Parquet table"
        raise MissingExtraError(explain(str(path), expected=expected, got="none", fix="pip install pyarrow")) from cause
    with reading(path, "a Parquet table"):
        with parquet.ParquetFile(path) as file:
            size = sum(file.metadata.row_group(k).total_byte_size for k in range(file.metadata.num_row_groups))
            if size > MOST or size < 0:
                raise LoadError(explain(str(path), expected=f"at most {MOST} bytes", got=f"{size}"))
            known = [n for n in file.schema_arrow.names if names is None or n in names]
            table = file.read(columns=known, use_threads=False)
        found = {name: _column(table[name]) for name in table.column_names}
        return {name: column for name, column in found.items() if column is not None}


def _column(chunked: Any) -> np.ndarray | None:
    """Return a column as numbers or text, None for other kinds."""
    import pyarrow as pa

    kind = chunked.type
    if pa.types.is_dictionary(kind):
        return _column(chunked.cast(kind.value_type))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.asarray(["" if v is None else v for v in chunked.to_pylist()], dtype=str)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        if chunked.null_count:
            return np.asarray([np.nan if v is None else float(v) for v in chunked.to_pylist()], dtype=np.float64)
        return np.asarray(chunked.to_numpy())
    return None
