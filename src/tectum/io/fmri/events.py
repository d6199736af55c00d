"""BIDS events to intervals."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch

from tectum.core.errors import InputError, TectumWarning, explain
from tectum.core.intervals import Intervals

from ..delimited import numbers, read_table
from ..files import reading


def read_bids_events(path: str | Path, *, duration: float | None = None) -> Intervals:
    r"""Read an ``_events.tsv``: onset and duration become spans, all other columns stay.

    Parameters
    ----------
    path : path
        The table; "n/a" in a column of numbers is NaN, a duration "n/a" is 0 with a warning.
    duration : float, optional
        Length of the run in s, against which onsets are checked.

    Returns
    -------
    Intervals

    Raises
    ------
    InputError
        If an onset is missing or lies outside the run, or a duration is negative.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "sub-01_task-x_events.tsv"
    >>> _ = path.write_text("onset\tduration\ttrial_type\n1.5\t2\tface\n")
    >>> read_bids_events(path).pairs()
    [(1.5, 3.5)]
    """
    path = Path(path)
    with reading(path, "a table of events"):
        columns = read_table(path, delimiter="\t")
        if not {"onset", "duration"} <= set(columns):
            raise InputError(explain(str(path), expected="columns onset and duration", got=f"{list(columns)}"))
        onset, length = (_times(columns[name], name) for name in ("onset", "duration"))
        if np.isnan(onset).any():
            row = int(np.isnan(onset).argmax())
            raise InputError(explain(f"{path}: onset", expected="a time in s", got=f"n/a in row {row + 1}"))
        if np.isnan(length).any():
            warnings.warn(
                f"{path}: {int(np.isnan(length).sum())} durations n/a taken as 0", TectumWarning, stacklevel=2
            )
            length = np.nan_to_num(length)
        if (length < 0).any():
            row = int((length < 0).argmax())
            expected = "durations of 0 s or more"
            raise InputError(explain(f"{path}: duration", expected=expected, got=f"{length[row]:g} in row {row + 1}"))
        if duration is not None:
            _check_inside(onset, length, duration, path)
        rest = {name: _column(column) for name, column in columns.items() if name not in ("onset", "duration")}
        return Intervals(start=torch.from_numpy(onset), stop=torch.from_numpy(onset + length), columns=rest)


def _times(column: np.ndarray, name: str) -> np.ndarray:
    found = numbers(np.where(column == "n/a", "", column))
    if found is None:
        bad = next(v for v in column if v != "n/a" and numbers(np.asarray([v])) is None)
        raise InputError(explain(name, expected="times in s", got=repr(str(bad))))
    return found.astype(np.float64)


def _column(column: np.ndarray) -> np.ndarray:
    """Return a column as numbers where all its cells are numbers or n/a, else as text."""
    found = numbers(np.where(column == "n/a", "", column))
    return column if found is None or (column == "n/a").all() else found


def _check_inside(onset: np.ndarray, length: np.ndarray, duration: float, path: Path) -> None:
    outside = (onset >= duration) | (onset + length < 0)
    if outside.any():
        row = int(outside.argmax())
        expected = f"onsets in the run of {duration:g} s"
        got = f"{int(outside.sum())} outside, the first {onset[row]:g} s in row {row + 1}"
        raise InputError(explain(f"{path}: onset", expected=expected, got=got))
    partly = (onset < 0) | (onset + length > duration + 1e-6)
    if partly.any():
        count = int(partly.sum())
        warnings.warn(f"{path}: {count} events reach beyond the run of {duration:g} s", TectumWarning, stacklevel=3)
