"""The homogenised *C. elegans* activity: one Parquet file, one row a neuron of a worm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tectum.core.errors import InputError, LoadError, MissingExtraError, explain

from ..files import reading
from .animal import Animal, Options

RELEASE_STEP = 0.333  # s between the resampled frames of the release
_WHO = ("source_dataset", "worm", "neuron", "is_labeled_neuron", "raw_data_file", "smooth_method")
_WHAT = {
    "calcium": ("calcium_data", "max_timesteps", "time_in_seconds"),
    "original": ("original_calcium_data", "original_max_timesteps", "original_time_in_seconds"),
}


def _parquet() -> Any:
    """Import pyarrow's reader."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as cause:
        raise MissingExtraError(
            explain("Parquet", expected="pyarrow", got="it is not installed", fix="pip install tectum[worm]")
        ) from cause
    return parquet


def read_homogenised(
    path: Path,
    options: Options,
    signal: Literal["calcium", "original"] = "original",
    datasets: Sequence[str] | None = None,
    worms: Sequence[str] | None = None,
) -> list[tuple[str, Animal]]:
    """Read worms out of the homogenised file.

    Parameters
    ----------
    path : Path
        The Parquet file.
    options : Options
        Not used for the names: those of the file are canonical already.
    signal : {"original", "calcium"}
        The traces as recorded, or smoothed, resampled and scaled with the whole recording.
    datasets, worms : sequence of str, optional
        Only these; a worm is "worm3", and every data set has one. Only the columns of the signal are read, and only
        rows of the worms asked for are kept.

    Returns
    -------
    list of (data set, Animal)
    """
    if signal not in _WHAT:
        raise InputError(explain("signal", expected=f"one of {tuple(_WHAT)}", got=repr(signal)))
    with reading(path, "the homogenised Parquet file"):
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in _rows(path, signal):
            key = (row["source_dataset"], row["worm"])
            if (datasets is None or key[0] in datasets) and (worms is None or key[1] in worms):
                groups.setdefault(key, []).append(_checked(row, signal))
        if not groups:
            raise InputError(explain(str(path), expected=f"worms {worms} of {datasets}", got="none"))
        return [(key[0], _animal(key, rows, signal)) for key, rows in groups.items()]


def _rows(path: Path, signal: str) -> Iterator[dict[str, Any]]:
    """Yield rows with the columns of one signal, a few at a time."""
    with _parquet().ParquetFile(path) as file:
        names = file.schema_arrow.names
        missing = [c for c in (*_WHO[:4], *_WHAT[signal]) if c not in names]
        if missing:
            raise InputError(explain(str(path), expected=f"columns {', '.join(missing)}", got=", ".join(names)))
        wanted = [c for c in (*_WHO, *_WHAT[signal]) if c in names]
        if file.metadata.num_rows > 1100 * path.stat().st_size:
            raise LoadError(explain(str(path), expected="rows that fit the file", got=f"{file.metadata.num_rows}"))
        for batch in file.iter_batches(batch_size=256, columns=wanted):
            columns = {name: batch.column(name) for name in wanted}
            for k in range(batch.num_rows):
                yield {name: _value(column[k]) for name, column in columns.items()}


def _value(scalar: Any) -> Any:
    """Return an Arrow scalar as a number, text or vector."""
    values = getattr(scalar, "values", None)
    if values is None:
        return scalar.as_py()
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def _checked(row: dict[str, Any], signal: str) -> dict[str, Any]:
    """Check that the arrays of a row are as long as it says."""
    values, count, clock = _WHAT[signal]
    key = f"({row['source_dataset']}, {row['worm']}, {row['neuron']})"
    for name in (values, clock):
        if not isinstance(row[name], np.ndarray) or len(row[name]) != row[count]:
            got = f"{len(row[name])}" if isinstance(row[name], np.ndarray) else "none"
            raise InputError(explain(f"row {key}: {name}", expected=f"{row[count]} numbers as {count}", got=got))
    return row


def _animal(key: tuple[str, str], rows: list[dict[str, Any]], signal: str) -> Animal:
    """Put the rows of one worm side by side."""
    values, count, clock = _WHAT[signal]
    lengths = {row[count] for row in rows}
    if len(lengths) != 1:
        raise InputError(explain(f"worm {key}: {count}", expected="one length", got=f"{sorted(lengths)}"))
    labels = [str(row["neuron"]) if row["is_labeled_neuron"] else None for row in rows]
    times: dict[str, Any]
    if signal == "calcium":
        times = {"rate": 1.0 / RELEASE_STEP}
        notes = [f"time rebuilt as {RELEASE_STEP} s times the frame: the stored one is in half precision"]
    else:
        times, notes = _original(rows[0][clock])
    notes.append("unlabelled neurons and their slots are placeholders of each worm")
    first = rows[0]
    steps = {"smooth_method": str(first.get("smooth_method", "")), "signal": signal}
    return Animal(
        name=key[1],
        values=np.stack([row[values] for row in rows], axis=1),
        labels=labels,
        units="z" if signal == "calcium" else "a.u.",
        meta={"condition": Path(str(first.get("raw_data_file", ""))).stem, **steps},
        notes=tuple(notes),
        **times,
    )


def _original(stored: np.ndarray) -> tuple[dict[str, Any], list[str]]:
    """Return a clock from times that were stored in half precision and may repeat."""
    if len(stored) > 1 and (np.diff(stored) > 0).all() and not np.array_equal(stored, stored.astype(np.float16)):
        return {"times": stored}, []
    step = float(stored[-1] - stored[0]) / max(len(stored) - 1, 1)
    if not step > 0:
        raise InputError(explain("original_time_in_seconds", expected="times that grow", got=f"{stored[:3]}"))
    return {"rate": 1.0 / step, "t0": float(stored[0])}, [
        f"a steady clock of {step:.6g} s from the first and last time: the stored ones are in half precision"
    ]
